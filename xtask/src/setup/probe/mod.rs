//! Proof by use: small programs, compiled with the machine's rustc, that need what is being looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::files;
use crate::command;

const COMPILE_LIMIT: Duration = Duration::from_secs(120);
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// A directory to compile in.
pub(crate) struct Probe {
    dir: PathBuf,
}

impl Probe {
    pub(crate) fn new(dir: PathBuf) -> Probe {
        Probe { dir }
    }

    /// Compiles, links and runs a program for this machine: all else here would fail where that does.
    pub(crate) fn host(&self) -> Result<()> {
        let program = self.dir.join("host");
        let mut rustc = self.rustc("hello.rs", include_str!("hello.rs"), &program)?;
        command::output(&mut rustc, COMPILE_LIMIT, || {})
            .context("compiling a program (Rust needs a C compiler as its linker: `apt install gcc libc6-dev`)")?;
        command::output(&mut Command::new(&program), RUN_LIMIT, || {})
            .context("running a program")?;
        Ok(())
    }

    /// Links a program to the `libwasmedge.so` in `lib`, runs it, and gives the version that it prints.
    pub(crate) fn wasmedge(&self, lib: &Path, link_arguments: &[String]) -> Result<String> {
        let program = self.dir.join("wasmedge");
        let mut rustc = self.rustc("wasmedge.rs", include_str!("wasmedge.rs"), &program)?;
        rustc.arg("-L").arg(lib);
        rustc.args(
            link_arguments
                .iter()
                .map(|argument| format!("-Clink-arg={argument}")),
        );
        command::output(&mut rustc, COMPILE_LIMIT, || {}).context("linking a program to it")?;
        let version = command::output(&mut Command::new(&program), RUN_LIMIT, || {})
            .context("running a program with it")?;
        Ok(version.trim().to_owned())
    }

    /// Parses a C header, which needs `compiler_headers`, with the libclang at `library` and gives its version.
    pub(crate) fn libclang(&self, library: &Path, compiler_headers: &[PathBuf]) -> Result<String> {
        let program = self.dir.join("libclang");
        let include = self.dir.join("include");
        fs::create_dir_all(&include)
            .with_context(|| format!("cannot create {}", include.display()))?;
        for target in compiler_headers {
            files::replace_link(
                target,
                &include.join(target.file_name().unwrap_or_default()),
            )?;
        }
        let header = self.dir.join("header.h");
        fs::write(&header, include_str!("header.h"))
            .with_context(|| format!("cannot write {}", header.display()))?;
        let mut rustc = self.rustc("libclang.rs", include_str!("libclang.rs"), &program)?;
        command::output(&mut rustc, COMPILE_LIMIT, || {})
            .context("compiling a program that loads it")?;
        let mut option = std::ffi::OsString::from("-I");
        option.push(&include);
        let version = command::output(
            Command::new(&program)
                .arg(library)
                .arg(&header)
                .arg(&option),
            RUN_LIMIT,
            || {},
        )
        .context("parsing a C header with it")?;
        Ok(version.trim().to_owned())
    }

    /// Compiles a program to wasm32-wasip1 with `rustc`.
    pub(crate) fn guest(&self, rustc: &Path, linker: Option<&Path>) -> Result<()> {
        let program = self.dir.join("guest.wasm");
        let source = self.dir.join("hello.rs");
        fs::write(&source, include_str!("hello.rs"))
            .with_context(|| format!("cannot write {}", source.display()))?;
        let mut command = Command::new(rustc);
        command
            .args(["--edition=2021", "--target=wasm32-wasip1", "-o"])
            .arg(&program)
            .arg(&source);
        if let Some(linker) = linker {
            let mut setting = std::ffi::OsString::from("-Clinker=");
            setting.push(linker);
            command.arg(setting);
        }
        command::output(&mut command, COMPILE_LIMIT, || {})
            .context("compiling a program to wasm32-wasip1")?;
        let module =
            fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        ensure!(
            module.starts_with(b"\0asm"),
            "compiling to wasm32-wasip1 gave something else than a Wasm module"
        );
        Ok(())
    }

    fn rustc(&self, name: &str, text: &str, program: &Path) -> Result<Command> {
        let source = self.dir.join(name);
        fs::write(&source, text).with_context(|| format!("cannot write {}", source.display()))?;
        let mut rustc = Command::new(rustc());
        rustc
            .args(["--edition=2021", "-o"])
            .arg(program)
            .arg(source);
        Ok(rustc)
    }
}

/// The compiler that cargo uses for the host.
pub(crate) fn rustc() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from)
}
