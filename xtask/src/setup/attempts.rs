//! What was tried and why it failed, for the one message at the end.

use std::fmt::{self, Display, Formatter};

/// Ways tried without success, in order.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Vec<(String, String)>);

impl Attempts {
    pub(crate) fn failed(&mut self, way: impl Into<String>, why: impl Display) {
        self.0.push((way.into(), why.to_string()));
    }

    /// The error that ends a set-up.
    pub(crate) fn into_error(
        self,
        thing: &'static str,
        remedies: &'static [&'static str],
    ) -> anyhow::Error {
        anyhow::Error::new(NothingWorked {
            thing,
            attempts: self,
            remedies,
        })
    }
}

/// Every way to get one thing failed.
#[derive(Debug)]
struct NothingWorked {
    thing: &'static str,
    attempts: Attempts,
    remedies: &'static [&'static str],
}

impl Display for NothingWorked {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "set-up: no way to get {} worked. Tried:", self.thing)?;
        for (way, why) in &self.attempts.0 {
            writeln!(f, "  - {way}: {why}")?;
        }
        writeln!(f, "What to do, one of:")?;
        for remedy in self.remedies {
            writeln!(f, "  - {remedy}")?;
        }
        write!(f, "Then run `cargo xtask setup` again.")
    }
}

impl std::error::Error for NothingWorked {}

#[cfg(test)]
mod tests {
    use super::Attempts;

    #[test]
    fn the_message_says_what_was_tried_why_it_failed_and_what_to_type() {
        let mut attempts = Attempts::default();
        attempts.failed("/usr/local", "no wasmedge/wasmedge.h in include");
        attempts.failed("official release", "could not resolve the host");
        let error = attempts.into_error("WasmEdge 0.17", &["set WASMEDGE_DIR to an installation"]);
        assert_eq!(
            format!("{error:#}"),
            "set-up: no way to get WasmEdge 0.17 worked. Tried:\n  \
             - /usr/local: no wasmedge/wasmedge.h in include\n  \
             - official release: could not resolve the host\n\
             What to do, one of:\n  \
             - set WASMEDGE_DIR to an installation\n\
             Then run `cargo xtask setup` again."
        );
    }
}
