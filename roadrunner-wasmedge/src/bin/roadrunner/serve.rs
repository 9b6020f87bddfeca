//! `roadrunner serve`.

use super::size::size;
use super::{secret, talk, tls, Failure};
use roadrunner_wasmedge::run::Interrupt;
use roadrunner_wasmedge::serve::{Options, Server};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const HELP: &str = "\
Hosts functions for `roadrunner run --mode network` elsewhere, whose workflow file names this host:

  (umask 077; head -c 32 /dev/urandom | base64 > secret)      # once; then copied to every host
  roadrunner serve --listen 10.0.0.2:7000 --secret-file secret

  [[function]]
  name = \"resize\"
  module = \"resize.wasm\"
  host = \"10.0.0.2:7000\"

  roadrunner run workflow.toml --input FILE --output DIR --secret-file secret

Functions on different hosts reach each other directly, at ports that the system chooses or that are in --ports: let the \
hosts of a workflow through each other's firewalls. Functions on one host reach each other over UNIX sockets. Peers prove \
that they know the secret. Where others can read packets or change them, add --tls-authority, --tls-certificate and \
--tls-key, here and there: everything between hosts is encrypted then.

Limits, beside those that have an option: 4096 connections, and 64 of hosts that have proved themselves and ask for no \
run; of peers that have yet to prove themselves 64 at a time, each for up to 3 seconds; 5 seconds until a host has said \
what it wants; 4 MiB for a message, and 64 MiB for all that are coming from one address; 10 seconds of silence. A payload \
between functions has less than 4 GiB, and as much room as --max-pages leaves in its receiver's memory.

SIGTERM, SIGHUP or Ctrl-C: no more runs are taken, those that are there go on for up to --grace seconds. Exit code 0 if all of \
them ended by themselves, 1 if some had to be cut. A second signal cuts them at once. What nohup(1) has it ignore it ignores.";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen: `host:port`, `[::1]:port`; with port 0 the system chooses one, and it is printed
    #[arg(long, value_name = "ADDR")]
    listen: String,
    #[command(flatten)]
    secret: secret::Argument,
    #[command(flatten)]
    tls: tls::Files,
    /// Modules that are here already, *.wasm and *.wat: they are found by their SHA-256 and need not be sent
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Run no other modules than those in --modules
    #[arg(long, requires = "modules")]
    sealed: bool,
    /// Where compiled modules are kept [default: the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Where inputs and outputs lie during a run [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Runs at a time; one more is refused
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Functions of one run at most
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    functions: u16,
    /// Bytes of a module that is sent at most, as in 64MiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_module: u64,
    /// Bytes of an input at most
    #[arg(long, value_name = "SIZE", default_value = "4294967295", value_parser = size)]
    max_input: u64,
    /// Pages of 64 KiB that the memory of a function may have at most
    #[arg(long, value_name = "PAGES")]
    max_pages: Option<u32>,
    /// The TCP ports that functions listen at for payloads from other hosts, each at one of them [default: the system
    /// chooses]
    #[arg(long, value_name = "LOW-HIGH", value_parser = ports)]
    ports: Option<RangeInclusive<u16>>,
    /// Bytes of payloads that may be coming in at a time from other hosts, at all functions of all runs; a run that needs
    /// more fails
    #[arg(long, value_name = "SIZE", default_value = "4294967295", value_parser = size)]
    memory: u64,
    /// How many of these bytes may come from one address [default: all]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_each: Option<u64>,
    /// Seconds that the deadline of a run may be away
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    longest: u32,
    /// Seconds that runs may go on after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u32,
}

/// As in `40000-40999`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(low, high)| {
        let (low, high) = (low.parse().ok()?, high.parse().ok()?);
        (0 < low && low <= high).then_some(low..=high)
    });
    range.ok_or_else(|| "no range of ports; give one as in 40000-40999".to_owned())
}

pub(crate) fn run(arguments: Arguments) -> Result<u8, Failure> {
    let stop = Interrupt::by_signals()?;
    let options = Options::default()
        .secret(arguments.secret.secret()?)
        .tls(arguments.tls.tls()?)
        .modules(arguments.modules, arguments.sealed)
        .cache(arguments.cache)
        .directory(arguments.directory)
        .runs(arguments.runs.into())
        .functions(arguments.functions.into())
        .max_module(arguments.max_module)
        .max_input(arguments.max_input)
        .max_pages(arguments.max_pages)
        .ports(arguments.ports)
        .memory(arguments.memory)
        .memory_each(arguments.memory_each)
        .longest(Duration::from_secs(arguments.longest.into()))
        .grace(Duration::from_secs(arguments.grace.into()))
        .log(talk);
    let server = Server::bind(&arguments.listen, options)?;
    // Read by whoever starts it with port 0, and so the first line.
    talk(&format!("listening at {}", server.address()));
    arguments.secret.warn_if_exposed();
    arguments.tls.warn_if_exposed();
    let ended = server.run(&stop);
    talk(&match ended.cut {
        0 => format!("stopped after {} runs", ended.runs),
        cut => format!(
            "stopped after {} runs; {cut} more had not ended in time and were cut",
            ended.runs
        ),
    });
    Ok(u8::from(ended.cut > 0))
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn sizes_have_units_and_defaults_are_sizes() {
        let words = [
            "serve",
            "--listen",
            "x:1",
            "--memory",
            "2GiB",
            "--memory-each",
            "5KiB",
        ];
        let arguments = Alone::parse_from(words).arguments;
        assert_eq!(arguments.memory, 2 << 30);
        assert_eq!(arguments.memory_each, Some(5 << 10));
        assert_eq!(arguments.max_module, 64 << 20);
        assert_eq!(arguments.max_input, u64::from(u32::MAX));
        let alone = Alone::parse_from(&words[..3]).arguments;
        assert_eq!(alone.memory, u64::from(u32::MAX));
    }
}
