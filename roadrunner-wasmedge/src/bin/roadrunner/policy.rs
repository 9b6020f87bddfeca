//! Settings of a policy, as `--policy` takes them.

use super::size::size;
use roadrunner_mem::Policy;
use std::time::Duration;

pub(crate) const HELP: &str = "How payloads cross in user mode, where it is not to be as measured: inline, exchange, \
     exchange_trusted, bytes or limit=SIZE (64KiB, 4MiB, bytes), messages=COUNT, spin=MICROSECONDS, huge_pages=on or off; may be \
     repeated. `check` prints all of it";

/// What one `--policy` sets.
#[derive(Clone, Copy)]
pub(crate) enum Setting {
    Inline(u64),
    Exchange(u64),
    ExchangeTrusted(u64),
    Bytes(u64),
    Limit(u64),
    Messages(usize),
    Spin(Duration),
    HugePages(bool),
}

impl Setting {
    /// Reads `name=value`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or("a setting is name=value, such as exchange=8MiB")?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|error| format!("{value}: {error}"))
        };
        Ok(match name {
            "inline" => Self::Inline(size(value)?),
            "exchange" => Self::Exchange(size(value)?),
            "exchange_trusted" => Self::ExchangeTrusted(size(value)?),
            "bytes" => Self::Bytes(size(value)?),
            "limit" => Self::Limit(size(value)?),
            "messages" => match usize::try_from(number()?) {
                Ok(count @ 1..=4096) => Self::Messages(count),
                _ => return Err("between 1 and 4096 messages are in flight".to_owned()),
            },
            "spin" => Self::Spin(Duration::from_micros(number()?)),
            "huge_pages" => match value {
                "on" => Self::HugePages(true),
                "off" => Self::HugePages(false),
                _ => return Err("huge_pages is on or off".to_owned()),
            },
            _ => {
                return Err(format!(
                    "there is no `{name}`; there are inline, exchange, exchange_trusted, bytes, limit, messages, spin and \
                     huge_pages"
                ))
            }
        })
    }

    fn apply(self, policy: &mut Policy) {
        match self {
            Self::Inline(bytes) => policy.inline = bytes,
            Self::Exchange(bytes) => policy.exchange = bytes,
            Self::ExchangeTrusted(bytes) => policy.exchange_trusted = bytes,
            Self::Bytes(bytes) => policy.bytes = bytes,
            Self::Limit(bytes) => policy.limit = bytes,
            Self::Messages(count) => policy.messages = count,
            Self::Spin(time) => policy.spin = time,
            Self::HugePages(wanted) => policy.huge_pages = wanted,
        }
    }
}

/// The measured policy with these settings.
pub(crate) fn with(settings: &[Setting]) -> Policy {
    let mut policy = Policy::default();
    for setting in settings {
        setting.apply(&mut policy);
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_change_what_they_name() {
        let texts = [
            "inline=1000",
            "exchange=8MiB",
            "exchange_trusted=64KiB",
            "bytes=1GiB",
            "limit=2GiB",
            "messages=7",
            "spin=0",
            "huge_pages=off",
        ];
        let settings = texts.map(|text| Setting::parse(text).expect("good"));
        assert_eq!(
            with(&settings).to_string(),
            "inline up to 1000 B, exchange from 8 MiB on (trusted: 64 KiB), at most 7 payloads of 1 GiB in flight, of 2 GiB \
             each, spin 0ns, pool of 1 GiB, huge pages off, strict"
        );
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for text in [
            "",
            "inline",
            "inline=",
            "inline=x",
            "inline=1KB",
            "exchange=99999999999GiB",
            "messages=0",
            "messages=5000",
            "spin=-1",
            "huge_pages=yes",
            "trusted=on",
        ] {
            assert!(Setting::parse(text).is_err(), "{text}");
        }
    }
}
