//! A place to run workflows in, functions in WebAssembly text, and a look at what a run leaves behind.

pub(crate) mod demo;
pub(crate) mod hosted;
pub(crate) mod lots;
pub(crate) mod proxy;
pub(crate) mod server;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

/// Every mode, as the program names it.
pub(crate) const MODES: [&str; 3] = ["user", "kernel", "network"];

/// A directory with a workflow, an input, and a place for outputs.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
    /// In the environment of every process of this bench, so that they can be found.
    marker: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["out", "tmp"] {
            fs::create_dir(directory.path().join(name)).expect("writable");
        }
        let marker = format!("ROADRUNNER_TEST={}", directory.path().display());
        Self { directory, marker }
    }

    /// A workflow `a -> b -> …` of these functions, each with its module's text.
    pub(crate) fn chain(functions: &[(&str, String)]) -> Self {
        let bench = Self::new();
        let mut text = String::new();
        for (name, module) in functions {
            bench.write(&format!("{name}.wat"), module.as_bytes());
            text += &format!("[[function]]\nname = \"{name}\"\nmodule = \"{name}.wat\"\n");
        }
        text += "[edges]\n";
        for pair in functions.windows(2) {
            text += &format!("{} = [\"{}\"]\n", pair[0].0, pair[1].0);
        }
        bench.write("flow.toml", text.as_bytes());
        bench.write("input", b"some bytes");
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("writable");
    }

    /// `roadrunner run flow.toml` on `input`, ready to be started.
    pub(crate) fn command(&self, mode: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        let (key, value) = self.marker.split_once('=').expect("it has one");
        command
            .env(key, value)
            .env("TMPDIR", self.path("tmp"))
            .env("RUST_BACKTRACE", "0")
            .arg("run")
            .arg(self.path("flow.toml"))
            .arg("--input")
            .arg(self.path("input"))
            .arg("--output")
            .arg(self.path("out"))
            .args(["--mode", mode])
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, mode: &str) -> Output {
        self.command(mode).output().expect("it starts")
    }

    /// Runs, expects it to fail with all these words and to leave nothing.
    #[track_caller]
    pub(crate) fn fails(&self, mode: &str, words: &[&str]) {
        let output = self.run(mode);
        self.failed(mode, &output, words);
    }

    /// Checks an output of a run that should have failed with all these words and left nothing.
    #[track_caller]
    pub(crate) fn failed(&self, mode: &str, output: &Output, words: &[&str]) {
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{mode}: it went well: {talk}");
        assert!(
            output.status.code().is_some(),
            "{mode}: {}: {talk}",
            output.status
        );
        for word in words {
            assert!(talk.contains(word), "{mode}: no {word:?} in: {talk}");
        }
        assert!(!talk.contains("panicked"), "{mode}: {talk}");
        assert!(output.stdout.is_empty(), "{mode}: stdout is for output");
        self.left_nothing(mode);
    }

    /// No output, temporary file, socket file or process is there.
    #[track_caller]
    pub(crate) fn left_nothing(&self, mode: &str) {
        for directory in ["out", "tmp"] {
            let left: Vec<_> = names(&self.path(directory));
            assert!(left.is_empty(), "{mode}: left in {directory}: {left:?}");
        }
        let sockets: Vec<_> = names(self.directory.path())
            .into_iter()
            .filter(|name| name.ends_with(".sock"))
            .collect();
        assert!(sockets.is_empty(), "{mode}: left: {sockets:?}");
        let processes = self.processes();
        assert!(processes.is_empty(), "{mode}: still there: {processes:?}");
    }

    /// Process numbers and arguments of all living processes of this bench.
    pub(crate) fn processes(&self) -> BTreeSet<(i32, Vec<String>)> {
        marked_processes(&self.marker)
    }
}

/// Process numbers and arguments of all living processes with this variable in their environment.
pub(crate) fn marked_processes(marker: &str) -> BTreeSet<(i32, Vec<String>)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // A process may be gone between two looks, and a dead one that nobody waited for has no environment.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == marker.as_bytes())
        {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = line
                .split(|byte| *byte == 0)
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect();
            found.insert((number, arguments));
        }
    }
    found
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A function in WebAssembly text: a bump allocator, and this body of `roadrunner_handle`, whose parameters are `$ptr`
/// and `$len`. The text `handling` lies at 16, 8 bytes long.
pub(crate) fn module(body: &str) -> String {
    format!(
        r#"(module
  (import "roadrunner" "log" (func $log (param i32 i32 i32) (result i32)))
  (import "roadrunner" "fail" (func $fail (param i32 i32) (result i32)))
  (import "roadrunner" "send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "handling")
  (global $next (mut i32) (i32.const 65536))
  (func $reply (param $ptr i32) (param $len i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $ptr)) (i64.const 32))
            (i64.extend_i32_u (local.get $len))))
  (func $allocate (export "roadrunner_allocate") (param $len i32) (param $align i32) (result i32)
    (local $ptr i32)
    (local.set $ptr
      (i32.and (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
               (i32.sub (i32.const 0) (local.get $align))))
    (global.set $next (i32.add (local.get $ptr) (local.get $len)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits (i32.ne (i32.const -1)
        (memory.grow (i32.add (i32.const 1) (i32.div_u (i32.sub (global.get $next)
          (i32.mul (memory.size) (i32.const 65536))) (i32.const 65536))))))
      (return (i32.const 0)))
    (local.get $ptr))
  (func (export "roadrunner_free") (param i32))
  (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
    {body}))"#
    )
}

/// Says that it handles, then never ends.
pub(crate) const STUCK: &str = "(drop (call $log (i32.const 2) (i32.const 16) (i32.const 8)))
    (loop $again (br $again)) (i64.const 0)";

/// Says that it handles, before it replies what it got.
pub(crate) const SAYS: &str = "(drop (call $log (i32.const 2) (i32.const 16) (i32.const 8)))
    (call $reply (local.get $ptr) (local.get $len))";

/// A run that says what it does, until it has ended.
pub(crate) struct Running {
    pub(crate) child: Child,
    talk: BufReader<ChildStderr>,
}

impl Running {
    /// Starts one, and waits until this function of it has said that it handles something.
    pub(crate) fn until_handling(mut command: Command, function: &str) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut talk = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains(&format!("{function}: handling")) {
            line.clear();
            assert_ne!(talk.read_line(&mut line).expect("readable"), 0, "it ended");
        }
        Self { child, talk }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("alive");
    }

    /// Without a word. What else it had started may still talk.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("alive");
        self.child.wait().expect("dead");
    }

    /// What it and all whom it had started still say, until the last of them has ended.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.talk.read_to_end(&mut rest).expect("readable");
        rest
    }

    /// What it still says, and how it ends.
    pub(crate) fn ended(mut self) -> Output {
        let stderr = self.rest();
        let mut output = self.child.wait_with_output().expect("it ends");
        output.stderr = stderr;
        output
    }
}

/// Gives back what it got.
pub(crate) fn echo() -> String {
    module("(call $reply (local.get $ptr) (local.get $len))")
}

/// Says that a test cannot check what it is there for, on this machine; `cargo xtask test` repeats it at its end.
pub(crate) fn skipped(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    if let Some(path) = std::env::var_os("ROADRUNNER_SKIPPED") {
        use std::io::Write as _;
        let mut file = fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .expect("writable");
        writeln!(file, "{test}: {reason}").expect("writable");
    }
}
