//! The thread that stops guests, and that keeps WasmEdge's signal handlers in place.
//!
//! WasmEdge installs its handlers for SIGSEGV, SIGBUS and SIGFPE when the first guest of the process is entered and takes
//! them away when the last one is left (`lib/system/fault.cpp`). Two threads that do so at the same moment can leave a
//! guest running with none, and the trap that it then takes kills the process. The watching thread therefore spends its
//! life inside a guest of its own, in a host function: there is always one, and the handlers stay. That also saves six
//! system calls in every call.

use crate::module::cache::Cache;
use crate::module::ModuleError;
use crate::sys::ast::{Ast, Signature, ALL_PAGES};
use crate::sys::instance::{Ended, HostCalls, HostImport, Instance, Stop, Value};
use crate::sys::memory::GuestMemory;
use crate::sys::runtime::{Configuration, Refusal, Run};
use crate::sys::{fault, watchdog};
use std::io;
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

const GUEST: &str = r#"(module
    (import "guard" "stay" (func $stay))
    (memory (export "memory") 0)
    (func (export "enter") (call $stay)))"#;

/// Starts the thread if this process has none yet.
pub(crate) fn start(cache: &Cache) -> Result<(), ModuleError> {
    static STARTING: Mutex<()> = Mutex::new(());
    if watchdog::is_running() {
        return Ok(());
    }
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if watchdog::is_running() {
        return Ok(());
    }
    let failed = |reason: String| ModuleError::Guard { reason };
    let wasm = wat::parse_str(GUEST).map_err(|error| failed(error.to_string()))?;
    let compiled = cache.compiled("the guard", &wasm)?;
    let (tell, hear) = sync_channel(1);
    thread::Builder::new()
        .name("roadrunner-guard".to_owned())
        .spawn(move || {
            // It only returns if it could not begin. Nobody listens any more once it has begun.
            if let Err(ended) = stay(&compiled, &tell) {
                let _ = tell.send(Err(format!("{ended:?}")));
            }
        })
        .map_err(|error: io::Error| failed(format!("no thread: {error}")))?;
    match hear.recv() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(failed(reason)),
        Err(_) => Err(failed("its thread ended".to_owned())),
    }
}

type Started = SyncSender<Result<(), String>>;

fn stay(compiled: &[u8], started: &Started) -> Result<(), Ended> {
    let configuration = Configuration::new(Run::Compiled, ALL_PAGES)?;
    let ast = Ast::parse(compiled, &configuration, Run::Compiled)?;
    let imports = [HostImport {
        module: "guard",
        name: "stay",
        signature: Signature::new(&[], &[]),
    }];
    let mut host = Stay {
        started,
        before: fault::present(),
    };
    let mut instance = Instance::new(ast, &configuration, &imports, &mut host, None)?;
    let enter = instance.find("enter").ok_or_else(|| {
        Ended::Trap(Refusal {
            message: "the guard has no way in".to_owned(),
            detail: String::new(),
        })
    })?;
    instance.invoke(enter, &[], &mut host, None)?;
    Ok(())
}

struct Stay<'a> {
    started: &'a Started,
    before: [nix::libc::sigaction; 3],
}

impl HostCalls for Stay<'_> {
    fn call(
        &mut self,
        _import: usize,
        _memory: Option<&mut GuestMemory<'_>>,
        _arguments: &[Value],
    ) -> Result<Option<Value>, Stop> {
        fault::install(self.before);
        watchdog::run(|| {
            // Whoever started this waits for it.
            let _ = self.started.send(Ok(()));
        })
    }
}
