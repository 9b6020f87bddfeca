//! This program once more, as the other process of an experiment.
//!
//! The two talk in lines of JSON over a socket that is the peer's standard input; the peer's standard output goes nowhere.
//! A peer whose parent is gone reads the end and should return.

use anyhow::{bail, Context, Result};
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a peer may take to tidy up.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a peer does, by the name it is started by.
pub(crate) type Peers = &'static [(&'static str, fn(&mut Control) -> Result<()>)];

/// One end of the talk between the two.
#[derive(Debug)]
pub(crate) struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// What is written here reaches the other end as if it were said.
    ///
    /// # Errors
    /// Without a descriptor for it.
    pub(crate) fn voice(&self) -> Result<UnixStream> {
        Ok(self.stream.get_ref().try_clone()?)
    }

    /// # Errors
    /// If the other end is gone.
    pub(crate) fn say(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut stream = self.stream.get_ref();
        stream.write_all(&line).context("the other process is gone")
    }

    /// # Errors
    /// If the other end is gone, or says something else.
    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        match self.hear_or_end()? {
            Some(message) => Ok(message),
            None => bail!("the other process is gone"),
        }
    }

    /// The same; `None` once the other end is gone.
    ///
    /// # Errors
    /// If it says something else.
    pub(crate) fn hear_or_end<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let message = serde_json::from_str(&line)
            .with_context(|| format!("the other process said {}", line.trim_end()))?;
        Ok(Some(message))
    }
}

/// A running peer. Ends with it.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    pub(crate) control: Control,
}

impl Peer {
    /// Starts the peer of this name.
    ///
    /// # Errors
    /// If no process can be started.
    pub(crate) fn start(name: &str) -> Result<Self> {
        Self::start_by(Command::new(std::env::current_exe()?), name)
    }

    /// The same by a command that runs this program, somewhere else.
    ///
    /// # Errors
    /// If no process can be started.
    pub(crate) fn start_by(mut command: Command, name: &str) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = command
            .args(["peer", name])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self {
            child,
            control: Control::new(ours),
        })
    }

    /// Keeps it on one core. All its threads, if it has yet to start them.
    ///
    /// # Errors
    /// If this process may not use it.
    pub(crate) fn stay_on(&self, core: usize) -> Result<()> {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        sched_setaffinity(Pid::from_raw(i32::try_from(self.id())?), &cores)
            .with_context(|| format!("keeping a process on core {core}"))
    }

    /// Of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, and waits a moment until it has: for one that has to tidy up.
    pub(crate) fn end(&mut self) {
        // Fails only where it has ended by itself.
        let _ = self.control.stream.get_ref().shutdown(Shutdown::Both);
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `main` does when it was started as a peer.
///
/// # Errors
/// What the peer ended with, or if there is none of this name.
pub(crate) fn run(name: &str, all: &[Peers]) -> Result<()> {
    let known = all.iter().copied().flatten();
    let Some((_, work)) = known.clone().find(|(known, _)| *known == name) else {
        bail!("no peer {name}");
    };
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut control = Control::new(UnixStream::from(stdin));
    work(&mut control).with_context(|| format!("peer {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ends_understand_each_other() {
        let (one, other) = UnixStream::pair().expect("sockets");
        let (mut one, mut other) = (Control::new(one), Control::new(other));
        one.say(&(1, "two\nlines")).expect("it is there");
        one.say(&3).expect("it is there");
        let heard: (u32, String) = other.hear().expect("a message");
        assert_eq!(heard, (1, "two\nlines".to_owned()));
        assert!(other.hear::<String>().is_err(), "it is a number");
        drop(one);
        assert_eq!(other.hear_or_end::<u32>().expect("the end"), None);
        assert!(other.hear::<u32>().is_err());
    }
}
