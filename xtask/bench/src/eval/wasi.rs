//! Programs for WASI, with sockets, run by WasmEdge as it comes: what functions do today.

use crate::peer::{Control, Peer};
use anyhow::{anyhow, ensure, Context, Result};
use nix::unistd::{dup2_stdout, pipe};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use wasmedge_sys::{AsInstance, Compiler, Config, Executor, Loader, Store, Validator, WasiModule};

/// A mode of the C API's: run what was compiled ahead of time.
const COMPILED: u32 = 2;

/// A program that was compiled ahead of time.
#[derive(Debug, Clone)]
pub(super) struct Program(PathBuf);

impl Program {
    /// Compiles a module, in another process: the compiler writes to stdout.
    pub(super) fn compile(module: &Path, into: &Path) -> Result<Self> {
        let name = module.file_name().context("a module is a file")?;
        let compiled = into.join(name);
        let mut peer = Peer::start("eval.compile")?;
        peer.control.say(&(module, &compiled))?;
        peer.control.hear::<()>().context("compiling the peers")?;
        Ok(Self(compiled))
    }

    /// Where it is.
    pub(super) fn file(&self) -> &Path {
        &self.0
    }

    /// Starts it in a process of its own. What it prints are the messages to be heard, a line each; what is said to it are
    /// the lines that it reads.
    pub(super) fn start(&self, arguments: &[&str]) -> Result<Peer> {
        let mut peer = Peer::start("eval.program")?;
        peer.control.say(&(&self.0, arguments))?;
        Ok(peer)
    }
}

/// The peer that compiles.
pub(super) fn compiler(control: &mut Control) -> Result<()> {
    let (module, compiled): (PathBuf, PathBuf) = control.hear()?;
    let config = config()?;
    let compiler = Compiler::create(Some(&config)).map_err(wasmedge)?;
    compiler
        .compile_from_file(&module, &compiled)
        .map_err(wasmedge)?;
    control.say(&())
}

/// The peer that runs a program.
pub(super) fn program(control: &mut Control) -> Result<()> {
    let (module, arguments): (PathBuf, Vec<String>) = control.hear()?;
    let config = config()?;
    let module = Loader::create(Some(&config))
        .and_then(|loader| loader.from_file(&module))
        .map_err(wasmedge)?;
    Validator::create(Some(&config))
        .and_then(|validator| validator.validate(&module))
        .map_err(wasmedge)?;
    let mut executor = Executor::create(Some(&config), None).map_err(wasmedge)?;
    let mut store = Store::create().map_err(wasmedge)?;
    let arguments = std::iter::once("program").chain(arguments.iter().map(String::as_str));
    let wasi = WasiModule::create(Some(arguments.collect()), None, None).map_err(wasmedge)?;
    executor
        .register_import_module(&mut store, &wasi)
        .map_err(wasmedge)?;
    let mut instance = executor
        .register_active_module(&mut store, &module)
        .map_err(wasmedge)?;
    let mut start = instance.get_func_mut("_start").map_err(wasmedge)?;

    let (from, to) = pipe()?;
    dup2_stdout(&to)?;
    drop(to);
    let mut voice = control.voice()?;
    std::thread::spawn(move || {
        for line in BufReader::new(File::from(from))
            .lines()
            .map_while(Result::ok)
        {
            if writeln!(voice, "{line}").is_err() {
                return;
            }
        }
    });
    let ended = executor.call_func(&mut start, []);
    // It ends by an exit, which is an error, too.
    ensure!(wasi.exit_code() == 0, "the program failed: {ended:?}");
    Ok(())
}

pub(super) fn config() -> Result<Config> {
    let mut config = Config::create().map_err(wasmedge)?;
    config.set_run_mode(COMPILED.into());
    Ok(config)
}

/// Its errors cannot be sent between threads.
pub(super) fn wasmedge(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("WasmEdge: {error}")
}
