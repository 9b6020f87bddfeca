//! The process that stays, and looks at what death leaves.

use crate::function::{work, Ended};
use crate::moment::Moment;
use crate::progress;
use crate::round::Round;
use crate::ways::{Link, Listener};
use crate::Part;
use anyhow::{anyhow, bail, ensure, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use roadrunner_core::{Deadline, TransferError};
use roadrunner_faults::Counts;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the survivor tries before it looks whether the other is still alive.
const LOOK: Duration = Duration::from_millis(50);
/// A victim whose moment does not come, because less crosses than was drawn, is killed after so long.
const LATEST: Duration = Duration::from_secs(2);
/// No round takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Plain mappings and their bytes that may be more than after the first rounds: the allocator's, which takes 64 MiB of addresses
/// when two threads are in its way at once (mallopt(3), `M_ARENA_MAX`).
const MAPPINGS: usize = 64;
const BYTES: u64 = 200 << 20;
/// Rounds after which all that is made once and kept is there.
const WARM: u64 = 12;

/// What the rounds came to.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    /// Deaths before the link was open.
    unopened: u64,
    /// Payloads that were whole.
    whole: u64,
    /// How often each end was seen.
    ends: BTreeMap<&'static str, u64>,
}

pub(crate) fn soak(part: Part, rounds: u64, seed: u64) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let bar = progress::bar(part.name(), rounds);
    let began = Instant::now();
    let mut tally = Tally::default();
    let before = Counts::now(Some(directory.path()));
    let mut plain = before.plain();
    for number in 0..rounds {
        let round = Round::new(part, seed.wrapping_add(number));
        let played = play(&round, directory.path()).and_then(|ended| {
            left_nothing(&before, directory.path())?;
            Ok(ended)
        });
        let ended = played.with_context(|| format!("again: cargo xtask soak {round}"))?;
        tally.add(ended.as_ref());
        let now = Counts::now(None).plain();
        if number < WARM {
            plain.mappings = plain.mappings.max(now.mappings);
            plain.bytes = plain.bytes.max(now.bytes);
        } else if now.mappings > plain.mappings + MAPPINGS || now.bytes > plain.bytes + BYTES {
            bail!("mappings are left behind, round after round: {plain:?} at first, {now:?} after {number} rounds");
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!(
        "{}: {tally} ({:.1} s)",
        part.name(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn left_nothing(before: &Counts, directory: &Path) -> Result<()> {
    match Counts::now(Some(directory)).difference(before) {
        Some(difference) => bail!("left behind: {difference}"),
        None => Ok(()),
    }
}

/// One death. `None` if it came before the link was open.
fn play(round: &Round, directory: &Path) -> Result<Option<Ended>> {
    let path = directory.join("soak.sock");
    let own = path
        .to_str()
        .ok_or_else(|| anyhow!("a path that is no text"))?;
    let mut listener = None;
    if !round.victim_listens {
        listener = Some(Listener::bind(round, own)?);
    }
    let address = listener.as_ref().map_or(own.to_owned(), Listener::address);
    let mut victim = Victim::start(round, &address)?;
    let link = match &mut listener {
        Some(listener) => open(&mut victim, |deadline| listener.accept(deadline))?,
        None => match victim.address()? {
            Some(address) => open(&mut victim, |deadline| {
                Link::connect(round, &address, deadline)
            })?,
            None => None,
        },
    };
    let ended = match link {
        None => None,
        Some(link) => Some(thread::scope(|scope| {
            let pid = victim.pid();
            let time = match round.moment {
                Moment::After(time) => time,
                Moment::Call(_) | Moment::Byte(..) => LATEST,
            };
            let (_ended, over) = mpsc::channel::<()>();
            scope.spawn(move || {
                // The other end of the channel goes when the link has come to its end.
                if over.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                    // It is not waited for before this thread has ended, so the number is still its own.
                    kill(pid, Signal::SIGKILL).ok();
                }
            });
            work(round, round.victim.other(), link)
        })?),
    };
    let status = victim.end()?;
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32),
        "the victim was not killed: {status}"
    );
    if let Some(Ended { whole, error }) = &ended {
        ensure!(
            matches!(
                error,
                TransferError::PeerClosed | TransferError::Truncated { .. }
            ),
            "after {whole} payloads the survivor saw: {error}"
        );
    }
    if round.victim_listens && path.exists() {
        // What a killed listener leaves the next one takes over.
        drop(Listener::bind(round, own).context("where a killed listener was")?);
    }
    Ok(ended)
}

/// Tries to open a link as long as the victim lives.
fn open(
    victim: &mut Victim,
    mut attempt: impl FnMut(Deadline) -> Result<Link, TransferError>,
) -> Result<Option<Link>> {
    let began = Instant::now();
    loop {
        // Before the attempt: what it sent before it died counts.
        let alive = victim.is_alive()?;
        match attempt(Deadline::after(LOOK)) {
            Ok(link) => return Ok(Some(link)),
            Err(error) if alive && began.elapsed() > PATIENCE => {
                return Err(anyhow!(error).context("the link did not open"))
            }
            Err(
                TransferError::PeerClosed
                | TransferError::Truncated { .. }
                | TransferError::Timeout
                | TransferError::Refused(_)
                | TransferError::Io { .. },
            ) => {}
            Err(other) => return Err(anyhow!(other).context("while the link was opened")),
        }
        if !alive {
            return Ok(None);
        }
    }
}

/// The other process. Killed, if it is still there, when this is dropped.
struct Victim {
    child: Child,
    stdout: Option<ChildStdout>,
}

impl Victim {
    fn start(round: &Round, address: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--only", round.part.name(), "--rounds", "1"])
            .args(["--seed", &round.seed.to_string(), "--victim", address])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the victim")?;
        let stdout = child.stdout.take();
        Ok(Self { child, stdout })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Where it listens; `None` if it died before it could say so.
    fn address(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        if let Some(stdout) = self.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        Ok(line.strip_suffix('\n').map(str::to_owned))
    }

    fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "the victim lives on without a peer"
            );
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Both only fail where it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tally {
    fn add(&mut self, ended: Option<&Ended>) {
        self.rounds += 1;
        let Some(Ended { whole, error }) = ended else {
            self.unopened += 1;
            return;
        };
        self.whole += whole;
        let end = match error {
            TransferError::Truncated { .. } => "in the midst of a frame",
            _ => "between frames, or seen while sending",
        };
        *self.ends.entry(end).or_default() += 1;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} rounds, {} payloads whole, {} killed before the link was open",
            self.rounds, self.whole, self.unopened
        )?;
        self.ends
            .iter()
            .try_for_each(|(end, count)| write!(f, ", {count} {end}"))
    }
}
