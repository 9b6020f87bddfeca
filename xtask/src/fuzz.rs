//! `cargo xtask fuzz`: any bytes for every decoder, any operations for every link.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, Context as _, Result};

use crate::build::{cargo, root, target_directory};

/// Runs fuzz targets under libFuzzer, one after the other.
///
/// It needs no other compiler than the tests do: code is compiled with counters, in `target/fuzz`, and looked at by
/// libFuzzer, which needs a C++ compiler to be built. Seeds and inputs that once broke a rule are in `xtask/fuzz/corpus`,
/// and run in every test; what a run learns stays in `target/fuzz/corpus` for the next one. An input that breaks a rule is
/// kept in `target/fuzz/crashes`: once the code is mended, move it into the corpus.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// This target alone; may be repeated
    #[arg(long, value_name = "T")]
    target: Vec<String>,
    /// Name the targets, and what each looks at
    #[arg(long)]
    list: bool,
    /// Run a target on this input, and on nothing else
    #[arg(long, value_name = "FILE", requires = "target")]
    repeat: Option<PathBuf>,
    /// What libFuzzer's own choices are drawn from; another one in each run if it is not given
    #[arg(long, value_name = "S")]
    seed: Option<u32>,
}

/// The flags that put counters into code, as cargo-fuzz has them, without a sanitizer: those need an unstable compiler.
const COUNTERS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "--cfg=fuzzing",
];
/// With a target of its own, so that build scripts and macros are compiled without counters.
const MACHINE: &str = "x86_64-unknown-linux-gnu";
/// Bytes of an input at most.
const LONGEST: &str = "4096";
/// Seconds that one input may take at most.
const PATIENCE: &str = "20";
/// Inputs that every target runs in a second, on a busy machine too: the slowest one runs a hundred.
const LEAST: u64 = 10;
/// Seconds after which that can be told.
const SETTLED: u32 = 10;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    if arguments.list {
        for name in &known {
            println!("{name:10} {}", about(name)?);
        }
        return Ok(());
    }
    if let Some(unknown) = arguments.target.iter().find(|name| !known.contains(name)) {
        bail!("no target {unknown}; there are {}", known.join(", "));
    }
    let place = place();
    let driver = build(&place)?;
    let mut failed = Vec::new();
    for name in &known {
        let chosen = arguments.target.is_empty() || arguments.target.contains(name);
        if chosen && !fuzz(&driver, &place, name, arguments)? {
            failed.push(name.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{} broke a rule: see above", failed.join(", "))
}

/// Each has a directory of seeds, as a test sees to.
fn targets() -> Result<Vec<String>> {
    let corpus = root().join("xtask/fuzz/corpus");
    let entries = fs::read_dir(&corpus)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("cannot read {}", corpus.display()))?;
    let mut names: Vec<_> = entries
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// What a target looks at, as the first line of its source says.
fn about(name: &str) -> Result<String> {
    let source = root()
        .join("xtask/fuzz/src")
        .join(name)
        .with_extension("rs");
    let text =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let line = text.lines().next().unwrap_or_default();
    Ok(line.trim_start_matches("//! ").to_owned())
}

fn place() -> PathBuf {
    target_directory().join("fuzz")
}

fn build(place: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build
        .args([
            "build",
            "--release",
            "--locked",
            "--package=roadrunner-fuzz",
        ])
        .args(["--target", MACHINE])
        .arg("--target-dir")
        .arg(place)
        .env("CARGO_ENCODED_RUSTFLAGS", COUNTERS.join("\x1f"));
    crate::build::run("building the targets, with counters", build)
        .context("libFuzzer needs a C++ compiler: `apt-get install g++`")?;
    Ok(place.join(MACHINE).join("release/roadrunner-fuzz"))
}

/// Passes on what libFuzzer says, but for the words that it found to matter; gives how many inputs it ran.
fn relay(lines: impl Iterator<Item = String>, mut say: impl FnMut(&str)) -> u64 {
    let (mut ran, mut words) = (0, false);
    for line in lines {
        let border = line.starts_with("######");
        words = if border { !words } else { words };
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            ran = count.trim().parse().unwrap_or(0);
        }
        if !(border || words) {
            say(&line);
        }
    }
    ran
}

/// Whether so many inputs in so many seconds say nothing.
fn too_few(ran: u64, seconds: u32) -> bool {
    seconds >= SETTLED && ran < LEAST * u64::from(seconds)
}

/// Whether the target kept the rules.
fn fuzz(driver: &Path, place: &Path, name: &str, arguments: &Arguments) -> Result<bool> {
    let learnt = place.join("corpus").join(name);
    let crashes = place.join("crashes").join(name);
    for directory in [&learnt, &crashes] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut command = Command::new(driver);
    command.env("ROADRUNNER_FUZZ_TARGET", name);
    command.args(["-print_final_stats=1", "-verbosity=0", "-print_funcs=0"]);
    command.arg(format!("-timeout={PATIENCE}"));
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    if let Some(input) = &arguments.repeat {
        command.arg(input);
        eprintln!("\n== {name}, {}", input.display());
    } else {
        command.arg(format!("-max_total_time={}", arguments.seconds));
        command.arg(format!("-max_len={LONGEST}"));
        if let Some(seed) = arguments.seed {
            command.arg(format!("-seed={seed}"));
        }
        command.arg(&learnt);
        command.arg(root().join("xtask/fuzz/corpus").join(name));
        eprintln!("\n== {name}: {} seconds", arguments.seconds);
    }
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", driver.display()))?;
    let said = child.stderr.take().map(BufReader::new);
    // An input may be in it, which is any bytes.
    let lines = said.into_iter().flat_map(|said| said.split(b'\n'));
    let lines = lines.map_while(Result::ok);
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    let ran = relay(lines, |line| eprintln!("{line}"));
    let status = child.wait()?;
    let few = arguments.repeat.is_none() && too_few(ran, arguments.seconds);
    if status.success() && few {
        eprintln!("{name} ran {ran} inputs: nobody knows by that whether it keeps the rules. Was it stopped for a while?");
        return Ok(false);
    }
    if !status.success() && arguments.repeat.is_none() {
        eprintln!(
            "{name} broke a rule ({status}). The input is the newest in {dir}. Again: cargo xtask fuzz --target {name} \
             --repeat {dir}/FILE",
            dir = crashes.display()
        );
    }
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_left_out_and_inputs_are_counted() {
        let said = "INFO: Seed: 1\n###### Recommended dictionary. ######\n\"a\" # Uses: 3\n\
                    ###### End of recommended dictionary. ######\nstat::number_of_executed_units: 92";
        let mut heard = Vec::new();
        let ran = relay(said.lines().map(str::to_owned), |line| {
            heard.push(line.to_owned())
        });
        assert_eq!(ran, 92);
        assert_eq!(
            heard,
            ["INFO: Seed: 1", "stat::number_of_executed_units: 92"]
        );
        assert_eq!(relay(std::iter::empty(), |_| ()), 0);
    }

    #[test]
    fn a_slow_target_runs_enough_and_one_that_was_stopped_does_not() {
        // 97 a second is what the slowest one runs beside others.
        for seconds in [10, 60, 90] {
            assert!(!too_few(97 * u64::from(seconds), seconds), "{seconds}");
        }
        assert!(too_few(92, 60));
        assert!(!too_few(0, 1), "too short to tell");
    }
}
