//! The conversation with one other host: its order, what it needs for it, and whether it is still there.

use super::heard::Heard;
use super::State;
use crate::run::control::{
    self, Control, Message, Order, RunOrder, Word, BEAT, INPUT, NAME, READING, SILENCE,
};
use crate::run::coordinator::{self, RunError};
use crate::run::event::{monotonic_now, Event, Failure};
use crate::run::Tls;
use crate::workflow::Workflow;
use crossbeam_channel::Sender;
use roadrunner_core::{Deadline, TransferError};
use roadrunner_splice as tcp;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a host may take to be there.
const CONNECT: Duration = Duration::from_secs(10);

/// What one host is to do, and where to its words go.
pub(super) struct Errand {
    pub(super) address: String,
    pub(super) options: tcp::Options,
    pub(super) is_encrypted: bool,
    pub(super) order: RunOrder,
    /// The files of the order's modules.
    pub(super) modules: Vec<PathBuf>,
    pub(super) input: PathBuf,
    pub(super) staging: PathBuf,
    pub(super) deadline: Deadline,
    pub(super) numbers: Vec<usize>,
    pub(super) names: Vec<String>,
    pub(super) outputs: Vec<Option<String>>,
    pub(super) events: Sender<coordinator::Message>,
    pub(super) state: Arc<State>,
}

impl Errand {
    pub(super) fn run(self) {
        let mut heard = Heard::new(&self);
        let ended = self.converse(&mut heard);
        let stopped = self.state.lock().stopped;
        let missing = heard.done.iter().position(|done| !done);
        if let (Err(reason), Some(first), false) = (ended, missing, stopped) {
            let others = match heard.done.iter().filter(|done| !**done).count() - 1 {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            let failure = Failure::whole(format!(
                "host {}, where `{}`{others} should run: {reason}",
                self.address, self.names[first]
            ));
            // The coordinator may have given up and gone.
            let _ = self
                .events
                .send((self.numbers[first], Event::Failed(failure)));
        }
    }

    fn converse(&self, heard: &mut Heard<'_>) -> Result<(), String> {
        let by = self.deadline.min(Deadline::after(CONNECT));
        let link = tcp::connect(&self.address, NAME, &self.options, by)
            .map_err(|error| unreachable(&error, self.is_encrypted))?;
        let control = Arc::new(Control::new(link).map_err(|error| error.to_string())?);
        {
            let mut progress = self.state.lock();
            if progress.stopped {
                return Ok(());
            }
            progress.control = Some(control.clone());
        }
        let wanted = self.introduce(&control)?;
        heard.set_clock(&control)?;
        self.supply(&control, &wanted)
            .map_err(|error| last_word(&control).unwrap_or_else(|| broken(&error)))?;
        self.follow(&control, heard)
    }

    /// Gives the order, and hears which modules are wanted.
    fn introduce(&self, control: &Control) -> Result<Vec<usize>, String> {
        control
            .say(&Order::Run(Box::new(self.order.clone())))
            .map_err(|error| broken(&error))?;
        match control.next(Instant::now() + SILENCE) {
            Ok(Some(Message::Said(Word::Welcome { send }))) => Ok(send),
            Ok(Some(Message::Said(Word::Refused { reason }))) => Err(reason),
            Ok(Some(other)) => Err(format!("it spoke out of turn: {other:?}")),
            Ok(None) => Err(silent()),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Sends the modules that are wanted, and the input.
    fn supply(&self, control: &Control, wanted: &[usize]) -> Result<(), TransferError> {
        let file = |path: &Path| {
            File::open(path).map_err(|error| TransferError::Io {
                doing: READING,
                source: std::io::Error::new(error.kind(), format!("{}: {error}", path.display())),
            })
        };
        for &module in wanted {
            // The place comes from the other host.
            if let (Some(path), Some(order)) =
                (self.modules.get(module), self.order.modules.get(module))
            {
                control.stream(module, file(path)?, order.bytes)?;
            }
        }
        match self.order.input {
            Some(bytes) => control.stream(INPUT, file(&self.input)?, bytes),
            None => Ok(()),
        }
    }

    /// Hears what happens there, until the link ends.
    fn follow(&self, control: &Control, heard: &mut Heard<'_>) -> Result<(), String> {
        let mut last = Instant::now();
        let mut beat = last;
        loop {
            if Instant::now() >= beat {
                let at = monotonic_now();
                // If it is gone, so is what it said before: that is read first.
                let _ = control.say(&Order::Beat { at });
                beat = Instant::now() + BEAT;
            }
            match control.next(beat) {
                Ok(Some(Message::Said(word))) => {
                    last = Instant::now();
                    heard.word(word)?;
                }
                Ok(Some(Message::Piece(function, piece))) => {
                    last = Instant::now();
                    heard.piece(function, &piece)?;
                }
                Ok(None) if last.elapsed() > SILENCE => return Err(silent()),
                Ok(None) => {}
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

fn unreachable(error: &TransferError, is_encrypted: bool) -> String {
    match error {
        TransferError::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
            format!("{source}; is `roadrunner serve` running there, and does a firewall let it through?")
        }
        TransferError::Timeout => {
            "something accepted the connection there and did not prove itself in time: is it `roadrunner serve` that \
             listens there, and is that host not far too busy?"
                .to_owned()
        }
        // What one that does not understand a word of TLS does.
        TransferError::Refused(_) | TransferError::PeerClosed | TransferError::Truncated { .. } => {
            let tls = if is_encrypted {
                "its `roadrunner serve` needs TLS as well, and a certificate for this address or for --tls-name; leave out \
                 the --tls options here if it is to go without"
            } else {
                "if its `roadrunner serve` has TLS, give --tls-authority, --tls-certificate and --tls-key here, too"
            };
            format!(
                "{error} (its secret comes from --secret-file, or from the variable ROADRUNNER_SECRET; {tls})"
            )
        }
        _ => error.to_string(),
    }
}

pub(super) fn silent() -> String {
    format!(
        "nothing was heard from it for {} s: the host or the network between is down, or far too busy",
        SILENCE.as_secs()
    )
}

pub(super) fn broken(error: &TransferError) -> String {
    match error {
        TransferError::Closed | TransferError::PeerClosed | TransferError::Truncated { .. } => {
            "the connection to it ended before the run had: its `roadrunner serve` ended the run, or was ended (see what it \
             printed), or something between the hosts cut the connection, which is not made again; start the run again"
                .to_owned()
        }
        // Of what was to be sent, which is given as long as silence is.
        TransferError::Timeout => silent(),
        TransferError::Io { doing: READING, .. } => error.to_string(),
        other => format!("the link to it failed: {other}"),
    }
}

/// Why the other side does not listen any more, if it said so.
fn last_word(control: &Control) -> Option<String> {
    match control.next(Instant::now() + Duration::from_secs(1)) {
        Ok(Some(Message::Said(Word::Refused { reason }))) => Some(reason),
        _ => None,
    }
}

/// Asks every other host of a workflow whether it would take a run now.
///
/// # Errors
/// What is wrong with those where something is.
pub fn check_hosts(
    workflow: &Workflow,
    secret: Option<&tcp::Secret>,
    tls: Option<&Tls>,
) -> Result<(), RunError> {
    let options =
        control::options(secret, tls).map_err(|error| RunError::new(error.to_string()))?;
    let ask = |address: &str| -> Result<(), String> {
        let link = tcp::connect(address, NAME, &options, Deadline::after(CONNECT))
            .map_err(|error| unreachable(&error, tls.is_some()))?;
        let control = Control::new(link).map_err(|error| error.to_string())?;
        control.say(&Order::Ask).map_err(|error| broken(&error))?;
        let answer = control.next(Instant::now() + SILENCE);
        control.close();
        match answer {
            Ok(Some(Message::Said(Word::Welcome { .. }))) => Ok(()),
            Ok(Some(Message::Said(Word::Refused { reason }))) => Err(reason),
            Ok(Some(other)) => Err(format!("it spoke out of turn: {other:?}")),
            Ok(None) => Err(silent()),
            Err(error) => Err(broken(&error)),
        }
    };
    let hosts = workflow.hosts();
    let problems: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = hosts
            .iter()
            .map(|host| {
                let thread = std::thread::Builder::new().spawn_scoped(scope, || ask(host));
                (host, thread)
            })
            .collect();
        asking
            .into_iter()
            // Where there is no thread for it, one after the other.
            .map(|(host, thread)| (host, thread.map_or_else(|_| Ok(ask(host)), |it| it.join())))
            .filter_map(|(host, asked)| match asked {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(format!("host {host}: {reason}")),
                Err(_) => Some(format!("host {host}: asking it panicked")),
            })
            .collect()
    });
    if problems.is_empty() {
        Ok(())
    } else {
        Err(RunError::new(problems.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::{broken, silent, unreachable};
    use roadrunner_core::TransferError;

    #[test]
    fn no_host_is_left_with_a_deadline_that_passed() {
        for is_encrypted in [true, false] {
            let words = unreachable(&TransferError::Timeout, is_encrypted);
            assert!(words.contains("`roadrunner serve`"), "{words}");
        }
        assert_eq!(broken(&TransferError::Timeout), silent());
    }
}
