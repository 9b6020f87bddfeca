//! A `roadrunner serve`, and a look at what it leaves behind.

use super::{marked_processes, names};
use nix::fcntl::{fcntl, FcntlArg};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// What tests take for a secret.
pub(crate) const SECRET: &str = "sixteen bytes and a few more";
/// How long anything that is waited for may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
    pub(crate) address: String,
    directory: tempfile::TempDir,
    marker: String,
}

impl Server {
    /// On loopback.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let program = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        Self::start_as(program, "127.0.0.1:0", arguments)
    }

    pub(crate) fn start_as(program: Command, listen: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::start_in(directory, program, listen, arguments)
    }

    fn start_in(
        directory: tempfile::TempDir,
        mut program: Command,
        listen: &str,
        arguments: &[&str],
    ) -> Self {
        let marker = format!("ROADRUNNER_TEST={}", directory.path().display());
        let (key, value) = marker.split_once('=').expect("it has one");
        let mut child = program
            .env(key, value)
            .env("ROADRUNNER_SECRET", SECRET)
            .env("RUST_BACKTRACE", "0")
            .args(["serve", "--listen", listen, "--directory"])
            .arg(directory.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (say, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Self {
            child,
            lines,
            address: String::new(),
            directory,
            marker,
        };
        let line = server.hears("listening at ");
        server.address = line["listening at ".len()..].to_owned();
        server
    }

    /// Waits for a line with these words in it.
    #[track_caller]
    pub(crate) fn hears(&self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => heard.push(line),
                Err(_) => panic!("no {words:?} in {heard:#?}"),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("alive");
    }

    /// Its workers.
    pub(crate) fn workers(&self) -> BTreeSet<(i32, Vec<String>)> {
        let mut processes = marked_processes(&self.marker);
        processes.retain(|(number, _)| *number != self.child.id() as i32);
        processes
    }

    /// Waits until nothing of a run is there any more.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let rooms: Vec<_> = names(self.directory.path())
                .iter()
                .flat_map(|place| names(&self.directory.path().join(place)))
                // The server's own, as long as it lives.
                .filter(|name| name != "ledger")
                .collect();
            let workers = self.workers();
            if rooms.is_empty() && workers.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left: {rooms:?} {workers:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until payloads are coming in at its functions, or none is.
    #[track_caller]
    pub(crate) fn receives(&self, any: bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let places = names(self.directory.path());
            let ledger = self.directory.path().join(&places[0]).join("ledger/all");
            let is_held = File::options().write(true).open(ledger).is_ok_and(|file| {
                let mut found = nix::libc::flock {
                    l_type: nix::libc::F_WRLCK as i16,
                    l_whence: nix::libc::SEEK_SET as i16,
                    l_start: 0,
                    // The byte after these is for whoever looks for room.
                    l_len: i64::MAX,
                    l_pid: 0,
                };
                // Asked for and not taken: it is the functions' room.
                fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found)).expect("locks");
                i32::from(found.l_type) != nix::libc::F_UNLCK
            });
            if is_held == any {
                return;
            }
            assert!(Instant::now() < until, "it is not so: {any}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end, checks that nothing of it is left, and gives its exit code.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Option<i32> {
        let status = self.child.wait().expect("it ends");
        assert!(marked_processes(&self.marker).is_empty());
        assert_eq!(names(self.directory.path()), Vec::<String>::new());
        status.code()
    }

    /// SIGTERM, and what [`ended`](Self::ended) says.
    #[track_caller]
    pub(crate) fn stop(self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Kills it without a word, and starts another one in the same directory.
    pub(crate) fn replaced(mut self) -> Self {
        self.child.kill().expect("alive");
        self.child.wait().expect("dead");
        let directory = std::mem::replace(
            &mut self.directory,
            tempfile::tempdir().expect("a directory"),
        );
        let program = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        Self::start_in(directory, program, "127.0.0.1:0", &[])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A workflow file's text: functions with their module and host, one after the other.
pub(crate) fn chain(functions: &[(&str, PathBuf, Option<&str>)]) -> String {
    let mut text = String::new();
    for (name, module, host) in functions {
        text += &format!("[[function]]\nname = \"{name}\"\nmodule = {module:?}\n");
        if let Some(host) = host {
            text += &format!("host = \"{host}\"\n");
        }
    }
    text += "[edges]\n";
    for pair in functions.windows(2) {
        text += &format!("{} = [\"{}\"]\n", pair[0].0, pair[1].0);
    }
    text
}
