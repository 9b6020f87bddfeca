//! Running other programs: with a time limit, and with an error that says which program said what.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Runs `command` with closed stdin and gives its stdout.
///
/// `tick` is called every few milliseconds meanwhile. A program that fails, or that still runs after `limit` (it is then
/// killed), is an error which carries the last lines of its stderr.
pub(crate) fn output(
    command: &mut Command,
    limit: Duration,
    mut tick: impl FnMut(),
) -> Result<String> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{name}`"))?;
    // Read while the program runs: a full pipe would stop it.
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("cannot wait for `{name}`"))?
        {
            break status;
        }
        if Instant::now() >= deadline {
            // Both fail only where the program has ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            // The readers are left alone: a grandchild may hold the pipes open.
            bail!("`{name}` did not finish within {} s", limit.as_secs());
        }
        tick();
        thread::sleep(TICK);
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    if !status.success() {
        bail!(
            "`{name}` failed ({}): {}",
            how(status),
            last_lines(&stderr, &stdout)
        );
    }
    Ok(stdout)
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What arrived before a read error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn text(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader
        .and_then(|reader| reader.join().ok())
        .unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn how(status: ExitStatus) -> String {
    status
        .code()
        .map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

/// The program and, unless that is an option, its first argument: enough to recognise, short enough to read.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let task = command
        .get_args()
        .next()
        .filter(|argument| !argument.as_encoded_bytes().starts_with(b"-"));
    let words: Vec<_> = std::iter::once(program)
        .chain(task)
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

fn last_lines(stderr: &str, stdout: &str) -> String {
    let said = if stderr.trim().is_empty() {
        stdout
    } else {
        stderr
    };
    let lines: Vec<_> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.len() {
        0 => "it said nothing".to_owned(),
        count => lines[count.saturating_sub(4)..].join("; "),
    }
}

/// The last line of what a program said that has anything in it.
pub(crate) fn last_line(said: &str) -> &str {
    let mut lines = said.lines().map(str::trim);
    let last = lines.rfind(|line| !line.is_empty());
    last.unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the disk is full >&2; exit 3"]);
        let error = output(&mut command, Duration::from_secs(30), || {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status 3"), "{error}");
        assert!(error.contains("the disk is full"), "{error}");
    }

    #[test]
    fn a_program_that_never_ends_is_killed() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let error = output(&mut command, Duration::from_millis(50), || {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("`sleep 600` did not finish"), "{error}");
    }

    #[test]
    fn much_output_does_not_block_the_program() {
        let mut command = Command::new("head");
        command.args(["-c", "1000000", "/dev/zero"]);
        assert_eq!(
            output(&mut command, Duration::from_secs(30), || {})
                .unwrap()
                .len(),
            1_000_000
        );
    }
}
