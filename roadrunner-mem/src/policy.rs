//! When to do what, and how much may be in flight.

use crate::pool::PagePool;
use roadrunner_core::{Method, TransferError, DEFAULT_LIMIT};
use std::fmt;
use std::time::Duration;

/// The thresholds and limits of a link. The defaults were measured on a 2-core x86-64 virtual machine with Linux 6.18.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Policy {
    /// Payloads of up to this many bytes are copied into the link's queue, so that `send` need not wait for the receiver.
    /// 16 KiB.
    pub inline: u64,
    /// Given payloads with at least this many bytes of whole pages change hands by exchange. 4 MiB, from where on the pool
    /// clears pages in the background: below it a copy is faster than the system calls and the clearing.
    pub exchange: u64,
    /// The same on trusted links, where nothing is cleared. 1 MiB, from where on sinks are asked for aligned regions.
    pub exchange_trusted: u64,
    /// Payloads in flight in one direction at most; beyond it `send` waits. At least 1, and no more than 4,096,
    /// for which there is room from the beginning; 64.
    pub messages: usize,
    /// Bytes in flight in one direction at most, a single larger payload excepted; beyond it `send` waits. 256 MiB.
    pub bytes: u64,
    /// How long an end that waits looks for what it waits for before it sleeps, at most: less where that was in vain before,
    /// and not at all on a machine with one processor. To wake a sleeper up takes 50 microseconds, to be seen by one who
    /// looks less than one. Zero never looks. 50 microseconds.
    pub spin: Duration,
    /// Bytes of the longest payload; a longer one is refused. 4 GiB - 1.
    pub limit: u64,
    /// Where pages come from that take the place of exchanged ones, and where those go whose place these take. Links and
    /// transfers whose policies are clones of one share it. A pool of its own, empty.
    pub pool: PagePool,
    /// Pages that the link makes, or leaves behind without any, are asked for as [large ones](crate::prefer_huge_pages): they
    /// are filled in a quarter of the time when they are new, and a few per cent faster afterwards; page tables change
    /// hands as fast. On.
    pub huge_pages: bool,
    /// Both ends belong to one owner: pages come back to the sender as they are, not cleared. Off.
    pub trusted: bool,
    /// Only this method: [`Method::Copy`] or [`Method::Exchange`]. An exchange that the memories do not allow is still a
    /// copy, and the receipt says so. For tests and measurements.
    pub force: Option<Method>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            inline: 16 << 10,
            exchange: 4 << 20,
            exchange_trusted: 1 << 20,
            messages: 64,
            bytes: 256 << 20,
            spin: Duration::from_micros(50),
            limit: DEFAULT_LIMIT,
            pool: PagePool::default(),
            huge_pages: true,
            trusted: false,
            force: None,
        }
    }
}

/// One line that says all of it: `inline up to 16 KiB, exchange from 4 MiB on (trusted: 1 MiB), …`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "inline up to {}, exchange from {} on (trusted: {}), at most {} payloads of {} in flight, of {} each, spin \
             {:?}, pool of {}, huge pages {}, {}",
            Bytes(self.inline),
            Bytes(self.exchange),
            Bytes(self.exchange_trusted),
            self.messages,
            Bytes(self.bytes),
            Bytes(self.limit),
            self.spin,
            Bytes(self.pool.report().limit),
            if self.huge_pages { "on" } else { "off" },
            if self.trusted { "trusted" } else { "strict" },
        )?;
        match self.force {
            Some(method) => write!(f, ", always {method}"),
            None => Ok(()),
        }
    }
}

/// In the largest unit that gives a whole number.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 4 GiB - 1 is a limit that is often met.
        let (count, less) = match self.0.checked_add(1) {
            Some(more) if more % (1 << 30) == 0 => (more, " - 1"),
            _ => (self.0, ""),
        };
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units
            .iter()
            .find(|(_, size)| count >= *size && count % size == 0)
        {
            Some((unit, size)) => write!(f, "{} {unit}{less}", count / size),
            None => write!(f, "{count} B"),
        }
    }
}

impl Policy {
    /// Whether a given payload of this many bytes might be exchanged: cheaper to ask than how many whole pages it has.
    #[inline]
    pub(crate) fn may_exchange(&self, len: u64) -> bool {
        self.exchanges(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Whether a given payload with this many bytes of whole pages should be exchanged.
    #[inline]
    pub(crate) fn exchanges(&self, whole_pages: usize) -> bool {
        whole_pages > 0
            && match self.force {
                None if self.trusted => whole_pages as u64 >= self.exchange_trusted,
                None => whole_pages as u64 >= self.exchange,
                Some(method) => method == Method::Exchange,
            }
    }

    /// Refuses a payload that is too long.
    #[inline]
    pub(crate) fn check(&self, len: u64) -> Result<(), TransferError> {
        if len > self.limit {
            let limit = self.limit;
            return Err(TransferError::TooLarge { len, limit });
        }
        Ok(())
    }

    pub(crate) fn inlines(&self, len: u64) -> bool {
        len == 0 || (self.force.is_none() && len <= self.inline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_all_of_itself() {
        let mut policy = Policy::default();
        assert_eq!(
            policy.to_string(),
            "inline up to 16 KiB, exchange from 4 MiB on (trusted: 1 MiB), at most 64 payloads of 256 MiB in flight, of \
             4 GiB - 1 each, spin 50µs, pool of 1 GiB, huge pages on, strict"
        );
        policy.inline = 1000;
        policy.exchange = 0;
        policy.limit = u64::MAX;
        policy.huge_pages = false;
        policy.trusted = true;
        policy.force = Some(Method::Copy);
        let said = policy.to_string();
        for part in [
            "up to 1000 B",
            "from 0 B on",
            "huge pages off",
            "trusted, always copy",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
