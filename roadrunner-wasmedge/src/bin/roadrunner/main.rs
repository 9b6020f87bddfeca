//! `roadrunner`: checks workflows of WebAssembly functions, and runs them.

mod exposure;
mod policy;
mod report;
mod secret;
mod serve;
mod size;
mod tls;

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use report::Report;
use roadrunner_mem::Policy;
use roadrunner_wasmedge::function::LogLevel;
use roadrunner_wasmedge::module::wasmedge_version;
use roadrunner_wasmedge::run::{self, Interrupt, Mode, NetworkMethod, Options};
use roadrunner_wasmedge::workflow::Workflow;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

/// Moves payloads between WebAssembly functions without serialising them.
#[derive(Parser)]
#[command(name = "roadrunner", version, long_version = LONG_VERSION.as_str(), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// With the WasmEdge that is loaded, on which much depends.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let own = env!("CARGO_PKG_VERSION");
    format!("{own}\nWasmEdge {}", wasmedge_version())
});

/// What a workflow file is.
const WORKFLOW: &str = "\
A workflow file names functions, their modules (relative to the file, .wasm or .wat), and who sends to whom:

  [[function]]
  name = \"decode\"
  module = \"decode.wasm\"

  [[function]]
  name = \"resize\"
  module = \"resize.wasm\"
  env = { WIDTH = \"800\" }     # what it sees as its environment
  output = \"small.rgba\"       # what its replies are called, as it has no successor

  [edges]
  decode = [\"resize\"]

Functions without a predecessor receive the input, and each successor every reply. A function with `host = \"ADDRESS\"` \
runs at the `roadrunner serve` that listens there.";

static RUN_HELP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{WORKFLOW}\n\nExit code: 0 if all went well, 1 if not, 2 if an option is wrong, 130 after Ctrl-C or SIGTERM. A run that \
         fails leaves the outputs of earlier ones as they were."
    )
});

#[derive(Subcommand)]
enum Command {
    /// Run a workflow on an input file
    #[command(after_long_help = RUN_HELP.as_str())]
    Run(RunArguments),
    /// Validate a workflow and the modules it names, without running anything
    #[command(after_long_help = WORKFLOW)]
    Check {
        /// The workflow file
        workflow: PathBuf,
        /// Where compiled modules are kept [default: the user's cache directory]
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
        /// Also ask the workflow's hosts whether they are there and know the secret
        #[arg(long)]
        hosts: bool,
        #[arg(long, value_name = "NAME=VALUE", value_parser = policy::Setting::parse, help = policy::HELP)]
        policy: Vec<policy::Setting>,
        #[command(flatten)]
        secret: secret::Argument,
        #[command(flatten)]
        tls: tls::Files,
    },
    /// Host functions for runs of other hosts, until SIGTERM or Ctrl-C
    #[command(after_long_help = serve::HELP)]
    Serve(serve::Arguments),
    /// One function of a run, in a process of its own; started by `run`
    #[command(hide = true)]
    Worker {
        /// For whoever looks at the list of processes
        name: String,
    },
}

#[derive(Args)]
struct RunArguments {
    /// The workflow file
    workflow: PathBuf,
    /// The file that functions without predecessor receive
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The directory for the outputs; made if it is not there. With several modes, each gets a directory in it
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// How payloads cross; give it several times to run in one mode after another
    #[arg(long, value_enum, default_values = ["auto"])]
    mode: Vec<ModeArgument>,
    /// How large payloads cross TCP in network mode
    #[arg(long, value_enum, value_name = "METHOD", default_value = "auto")]
    network_method: MethodArgument,
    /// Fail when a connection between two hosts is cut, rather than go on over a new one. Payloads may be spliced then
    #[arg(long)]
    no_reconnect: bool,
    #[arg(long, value_name = "NAME=VALUE", value_parser = policy::Setting::parse, help = policy::HELP)]
    policy: Vec<policy::Setting>,
    /// Write what the table says, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds that a run may take, instead of what the workflow says
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline: Option<u32>,
    /// Where compiled modules are kept [default: the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    secret: secret::Argument,
    #[command(flatten)]
    tls: tls::Files,
    /// Show what functions log, down to this level
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "info")]
    log: LogArgument,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArgument {
    /// The cheapest that reaches every function: on one host `user`, with hosts in the workflow `network`
    Auto,
    /// All functions in one process, linear memory to linear memory
    User,
    /// A process per function, UNIX sockets between them
    Kernel,
    /// A process per function, TCP between them; functions with a host run there, and reach others there over UNIX sockets
    Network,
}

impl ModeArgument {
    fn mode(self, workflow: &Workflow) -> Mode {
        match self {
            Self::Auto if workflow.hosts().is_empty() => Mode::User,
            Self::User => Mode::User,
            Self::Kernel => Mode::Kernel,
            Self::Auto | Self::Network => Mode::Network,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum MethodArgument {
    /// Written on loopback; between hosts what each link measures to be best, without splicing unless --no-reconnect is given
    Auto,
    /// Written
    Write,
    /// Spliced (vmsplice, splice), where whole pages are given away
    Splice,
}

impl From<MethodArgument> for NetworkMethod {
    fn from(argument: MethodArgument) -> Self {
        match argument {
            MethodArgument::Auto => Self::Auto,
            MethodArgument::Write => Self::Write,
            MethodArgument::Splice => Self::Splice,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum LogArgument {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogArgument> for LogLevel {
    fn from(argument: LogArgument) -> Self {
        match argument {
            LogArgument::Error => Self::Error,
            LogArgument::Warn => Self::Warn,
            LogArgument::Info => Self::Info,
            LogArgument::Debug => Self::Debug,
            LogArgument::Trace => Self::Trace,
        }
    }
}

/// What the shell shows for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

const FAILED: u8 = 1;

fn main() {
    run::leave(act());
}

fn act() -> u8 {
    let ended = match Cli::parse().command {
        Command::Run(arguments) => run_workflow(&arguments),
        Command::Check {
            workflow,
            cache,
            hosts,
            policy,
            secret,
            tls,
        } => check(
            &workflow,
            cache.as_deref(),
            &tls,
            &secret,
            hosts,
            &policy::with(&policy),
        ),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Worker { .. } => {
            return if run::serve_worker() { 0 } else { FAILED };
        }
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            talk(&format!("roadrunner: {error}"));
            FAILED
        }
    }
}

type Failure = Box<dyn std::error::Error>;

/// All that a run would read; `ask` its hosts, too.
fn check(
    file: &Path,
    cache: Option<&Path>,
    tls: &tls::Files,
    secret: &secret::Argument,
    ask: bool,
    policy: &Policy,
) -> Result<u8, Failure> {
    let workflow = Workflow::load(file)?;
    run::check_modules(&workflow, cache)?;
    let (shared, certificates) = (secret.secret()?, tls.tls()?);
    secret.warn_if_exposed();
    tls.warn_if_exposed();
    if ask {
        run::check_hosts(&workflow, shared.as_ref(), certificates.as_ref())?;
    }
    let edges: usize = workflow.functions.iter().map(|f| f.successors.len()).sum();
    say(&format!(
        "{}: {} functions, {edges} edges, {}good\nin user mode: {policy}\n",
        file.display(),
        workflow.functions.len(),
        match workflow.hosts().as_slice() {
            [] => String::new(),
            [host] => format!("host {host}, "),
            hosts => format!("hosts {}, ", hosts.join(" and ")),
        }
    ))?;
    Ok(0)
}

fn run_workflow(arguments: &RunArguments) -> Result<u8, Failure> {
    let json = arguments
        .json
        .as_deref()
        .map(JsonFile::create)
        .transpose()?;
    let interrupt = Interrupt::by_signals()?;
    let mut report = Report::default();
    let secret = arguments.secret.secret()?;
    let tls = arguments.tls.tls()?;
    arguments.secret.warn_if_exposed();
    arguments.tls.warn_if_exposed();
    let ended = Workflow::load(&arguments.workflow)
        .map_err(|error| (error.to_string(), FAILED))
        .and_then(|workflow| {
            let mut modes: Vec<Mode> = Vec::new();
            for mode in arguments.mode.iter().map(|mode| mode.mode(&workflow)) {
                if !modes.contains(&mode) {
                    modes.push(mode);
                }
            }
            for &mode in &modes {
                let output = if modes.len() == 1 {
                    arguments.output.clone()
                } else {
                    arguments.output.join(mode.name())
                };
                let progress = progress(mode);
                let options = options(arguments, &output, mode, &interrupt, &progress)
                    .secret(secret.clone())
                    .tls(tls.clone());
                let outcome = run::run(&workflow, &options);
                progress.finish_and_clear();
                match outcome {
                    Ok(outcome) => report.add(mode, &outcome),
                    Err(error) if error.is_interrupt() => {
                        return Err((error.to_string(), INTERRUPTED))
                    }
                    Err(error) => return Err((error.to_string(), FAILED)),
                }
            }
            Ok(())
        });
    let (error, code) = match ended {
        Ok(()) => (None, 0),
        Err((message, code)) => (Some(message), code),
    };
    report.ok = error.is_none();
    report.error.clone_from(&error);
    // First, so that a full disk behind stdout does not cost the figures too.
    if let Some(json) = json {
        json.write(&report)?;
    }
    match error {
        None => say(&report.table())?,
        Some(message) => talk(&format!("roadrunner: {message}")),
    }
    Ok(code)
}

fn options(
    arguments: &RunArguments,
    output: &Path,
    mode: Mode,
    interrupt: &Interrupt,
    progress: &ProgressBar,
) -> Options {
    let level = LogLevel::from(arguments.log);
    let progress = progress.clone();
    Options::new(&arguments.input, output, mode)
        .network_method(arguments.network_method.into())
        .reconnect(!arguments.no_reconnect)
        .policy(policy::with(&arguments.policy))
        .cache(arguments.cache.clone())
        .deadline(
            arguments
                .deadline
                .map(|seconds| Duration::from_secs(seconds.into())),
        )
        .interrupt(interrupt.clone())
        .log(move |function, line_level, line| {
            if line_level <= level {
                progress.suspend(|| talk(&format!("{function}: {line}")));
            }
        })
}

/// A spinner on a terminal, nothing in a pipe.
fn progress(mode: Mode) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_message(format!("running in {mode} mode"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Prints a line to stderr; if nobody reads it, nobody wants it.
fn talk(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints to stdout; a reader that has gone away (`| head`) is no error.
fn say(text: &str) -> std::io::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A JSON file that is there whole or not at all. Made before the run, so that a bad path costs nobody a run.
struct JsonFile {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl JsonFile {
    fn create(path: &Path) -> Result<Self, String> {
        if path.is_dir() {
            return Err(format!("--json {}: is a directory", path.display()));
        }
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(".roadrunner-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(directory)
            .map_err(|error| format!("--json {}: {error}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn write(mut self, report: &Report) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.file, report)?;
        writeln!(self.file)?;
        // A run that went well does not fail for it.
        let _ = self.file.as_file().sync_all();
        self.file
            .persist(&self.path)
            .map_err(|error| format!("--json {}: {}", self.path.display(), error.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Path, Workflow, WORKFLOW};

    #[test]
    fn what_the_help_shows_is_a_workflow() {
        let lines: Vec<_> = WORKFLOW
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .collect();
        let workflow = Workflow::parse(Path::new("flow.toml"), &lines.join("\n")).expect("good");
        assert_eq!(workflow.functions.len(), 2);
    }
}
