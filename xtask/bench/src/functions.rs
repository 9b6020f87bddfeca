//! The two functions of a workflow figure, on WasmEdge: one that produces a payload, one that consumes it.

use crate::bench::Bench;
use anyhow::{ensure, Context, Result};
use roadrunner_core::{Deadline, Region, Sink};
use roadrunner_mem::Audience;
use roadrunner_wasmedge::function::{Function, FunctionOptions, NoOutbox, Reply};
use roadrunner_wasmedge::module::Module;
use std::path::PathBuf;
use std::time::Duration;

/// Nothing that is measured takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// When what is measured has certainly failed.
pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

/// Where the two modules are.
#[derive(Debug, Clone)]
pub(crate) struct Modules {
    pub(crate) produce: PathBuf,
    pub(crate) consume: PathBuf,
}

impl Modules {
    /// `None`, in plain sight, if they are not built.
    pub(crate) fn find(bench: &mut Bench, experiment: &str) -> Option<Self> {
        let modules = Self {
            produce: bench.function("produce"),
            consume: bench.function("consume"),
        };
        let missing = [&modules.produce, &modules.consume]
            .into_iter()
            .find(|file| !file.is_file());
        if let Some(file) = missing {
            let why = format!(
                "there is no {}: cargo xtask bench builds it",
                file.display()
            );
            bench.skip(experiment, &why);
            return None;
        }
        Some(modules)
    }
}

fn instance(module: &PathBuf, name: &str, audience: Option<Audience>) -> Result<Function> {
    let module = Module::load(module, None)?;
    let options = FunctionOptions::new(name)
        .call_limit(PATIENCE)
        .audience(audience);
    Ok(Function::new(&module, options)?)
}

/// Fills buffers.
pub(crate) struct Producer {
    pub(crate) function: Function,
}

impl Producer {
    /// # Errors
    /// If the module cannot be loaded.
    pub(crate) fn new(modules: &Modules) -> Result<Self> {
        let function = instance(&modules.produce, "produce", None)?;
        Ok(Self { function })
    }

    /// One whose slots all go to these processes.
    ///
    /// # Errors
    /// If the module cannot be loaded.
    pub(crate) fn for_audience(modules: &Modules, audience: Audience) -> Result<Self> {
        let function = instance(&modules.produce, "produce", Some(audience))?;
        Ok(Self { function })
    }

    /// Lets the function write `len` bytes that are told apart by `base`, into a buffer on loan or one of its own.
    ///
    /// # Errors
    /// If it has no room for them.
    pub(crate) fn produce(&mut self, len: u64, base: u64, loan: bool) -> Result<Region> {
        let command = sequence::command(len, base, loan);
        let region = self.function.reserve(command.len() as u64, 8)?;
        region
            .span(self.function.memory())?
            .copy_from_slice(&command);
        match self.function.handle(region, &mut NoOutbox, soon())? {
            Reply::Region(reply) => Ok(reply),
            Reply::None => anyhow::bail!("produce did not reply"),
        }
    }
}

/// Reads payloads.
pub(crate) struct Consumer {
    pub(crate) function: Function,
}

impl Consumer {
    /// # Errors
    /// If the module cannot be loaded.
    pub(crate) fn new(modules: &Modules) -> Result<Self> {
        let function = instance(&modules.consume, "consume", None)?;
        Ok(Self { function })
    }

    /// Lets the function read a payload that has arrived; whether it is the one with this base.
    ///
    /// # Errors
    /// If it fails.
    pub(crate) fn consume(&mut self, payload: Region, base: u64) -> Result<bool> {
        Ok(self.sum(payload)? == sequence::expected(payload.len(), base))
    }

    /// Lets the function read a payload that has arrived; its sum.
    ///
    /// # Errors
    /// If it fails.
    pub(crate) fn sum(&mut self, payload: Region) -> Result<u64> {
        let reply = self.function.handle(payload, &mut NoOutbox, soon())?;
        let Reply::Region(reply) = reply else {
            anyhow::bail!("consume did not reply");
        };
        let mut sum = [0; 8];
        ensure!(reply.len() == sum.len() as u64, "consume replied {reply}");
        reply.span(self.function.memory())?.copy_to_slice(&mut sum);
        self.function.free(reply).context("giving the reply back")?;
        Ok(u64::from_le_bytes(sum))
    }
}

/// A base for the payload with this number, unlike all others.
pub(crate) fn base(number: u64) -> u64 {
    (number + 1).wrapping_mul(0xd134_2543_de82_ef95)
}
