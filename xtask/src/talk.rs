//! Talk on stderr: a spinner on a terminal, plain lines otherwise. stdout is left to output.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where a subcommand says what it does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    Terminal,
    Lines,
    #[cfg(test)]
    Silent,
}

impl Talk {
    pub(crate) fn to_stderr() -> Talk {
        if std::io::stderr().is_terminal() {
            Talk::Terminal
        } else {
            Talk::Lines
        }
    }

    #[cfg(test)]
    pub(crate) fn silent() -> Talk {
        Talk::Silent
    }

    pub(crate) fn say(self, line: &str) {
        match self {
            Talk::Terminal | Talk::Lines => eprintln!("{line}"),
            #[cfg(test)]
            Talk::Silent => {}
        }
    }

    /// Starts a step that takes a while.
    pub(crate) fn step(self, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = (self == Talk::Terminal).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            self.say(&format!("{what} ..."));
        }
        Step {
            what,
            bar,
            talk: self,
            started: Instant::now(),
        }
    }
}

/// A step under way; dropped without [`Step::done`], its spinner just disappears.
pub(crate) struct Step {
    what: String,
    bar: Option<ProgressBar>,
    talk: Talk,
    started: Instant,
}

impl Step {
    /// How far the step is; seen on a terminal only.
    pub(crate) fn progress(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.what));
        }
    }

    pub(crate) fn done(self, outcome: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        self.talk
            .say(&format!("{}: {outcome} ({seconds:.1} s)", self.what));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Bytes in decimal megabytes, as download sizes are usually given.
pub(crate) fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_add(50_000) / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::megabytes;

    #[test]
    fn megabytes_round_to_one_decimal() {
        assert_eq!(megabytes(0), "0.0 MB");
        assert_eq!(megabytes(44_389_020), "44.4 MB");
        assert_eq!(megabytes(999_960), "1.0 MB");
    }
}
