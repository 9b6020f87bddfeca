//! Functions: instances of modules that receive payloads and reply.

mod error;
mod given;
pub(crate) mod host;
mod options;
mod outbox;
mod slots;
pub(crate) mod text;
mod wasi;

pub use error::FunctionError;
pub use given::Given;
pub use options::{FunctionOptions, LogLevel};
pub use outbox::{NoOutbox, Outbox, SendError};

use crate::module::{self, Module};
use crate::sys::ast::{Ast, ALL_PAGES};
use crate::sys::instance::{Callee, Ended, Instance, Value};
use crate::sys::memory::overlap;
use crate::sys::runtime::{Configuration, Run};
use host::{HostFunction, HostState, Invocation};
use roadrunner_core::{Deadline, Delivery, LinearMemory, Region, Sink, TransferError};
use roadrunner_mem::{prefer_huge_pages, Misuse, SlotReport, SlotTransfer};
use slots::OwnSlots;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a page of a linear memory.
const WASM_PAGE: u64 = 64 << 10;
/// What WasmEdge says where the system does not let it reserve addresses.
const NO_ADDRESSES: &str = "Unable to find usable memory address";

/// The largest alignment that a guest's allocator knows, in bytes.
const MAX_ALIGNMENT: u64 = 2 << 20;

/// What a function replied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a region has to be given back with `Function::free`"]
pub enum Reply {
    /// Nothing.
    None,
    /// These bytes of its memory. They are the host's until it gives them back with [`Function::free`].
    Region(Region),
}

/// An instance of a [`Module`], with a memory of its own.
///
/// A payload is received into it through [`Sink`], handled with [`handle`](Self::handle), and the reply sent as a
/// [`Payload`](roadrunner_core::Payload) of [`memory`](Sink::memory) and then [`free`](Self::free)d. A function may be
/// moved to another thread between calls.
///
/// Between functions of one process [`receive`](Self::receive) and [`given`](Self::given) do the same, and let slots
/// change hands.
///
/// Once it has trapped or been stopped it is never entered again: every call returns
/// [`Unusable`](FunctionError::Unusable). It can be dropped at any time.
pub struct Function {
    name: Arc<str>,
    instance: Instance,
    allocate: Callee,
    free: Callee,
    handle: Callee,
    imports: Arc<[HostFunction]>,
    state: HostState,
    call_limit: Duration,
    usable: bool,
    /// Bytes of its memory, from the start on, for which huge pages have been asked; `None` if they are not wanted.
    asked_huge: Option<usize>,
}

impl Function {
    /// Instantiates a module: runs its start function, and `_initialize` if it has one.
    ///
    /// # Errors
    /// [`TooMuchMemory`](FunctionError::TooMuchMemory) if its memory begins with more pages than it may have,
    /// [`BadEnvironment`](FunctionError::BadEnvironment), [`Instantiate`](FunctionError::Instantiate), and what calling it can end with.
    pub fn new(module: &Module, options: FunctionOptions) -> Result<Self, FunctionError> {
        let FunctionOptions {
            name,
            env,
            max_pages,
            log,
            call_limit,
            slots,
            audience,
            huge_pages,
        } = options;
        let max_pages = max_pages.unwrap_or(ALL_PAGES).min(ALL_PAGES);
        if module.min_pages() > max_pages.into() {
            return Err(FunctionError::TooMuchMemory {
                function: name.to_string(),
                pages: module.min_pages(),
                limit: max_pages,
            });
        }
        let impossible = |(variable, value): &&(String, String)| {
            variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0')
        };
        if let Some((variable, _)) = env.iter().find(impossible) {
            return Err(FunctionError::BadEnvironment {
                function: name.to_string(),
                variable: variable.clone(),
            });
        }
        let refused = |reason: String| FunctionError::Instantiate {
            function: name.to_string(),
            module: module.name().to_owned(),
            reason,
        };
        let configuration = Configuration::new(Run::Compiled, max_pages)
            .map_err(|refusal| refused(refusal.to_string()))?;
        let ast = Ast::parse(module.compiled(), &configuration, Run::Compiled)
            .map_err(|refusal| refused(refusal.to_string()))?;
        if ast.code().is_empty() {
            return Err(refused(
                "WasmEdge did not load its compiled code and would interpret it, hundreds of times slower"
                    .to_owned(),
            ));
        }
        let mut state = HostState::new(env, log, slots, audience);
        let (host_imports, host_functions) = module.imports();
        let imports: Arc<[HostFunction]> = host_functions.into();
        let began = Instant::now();
        let deadline = Deadline::after(call_limit);
        let mut invocation = Invocation::new(&imports, &mut state, None, deadline);
        let instance = Instance::new(
            ast,
            &configuration,
            host_imports,
            &mut invocation,
            Some(deadline.instant()),
        );
        let said = invocation.finish();
        let no_addresses = || {
            let reason = "the system refused the addresses for its memory, of which WasmEdge reserves 12 GiB; look at \
                          `ulimit -v`, and at vm.overcommit_memory and vm.max_map_count (proc(5))";
            refused(reason.to_owned())
        };
        let mut instance = instance.map_err(|ended| match &ended {
            // What is put into the memory in the beginning then lies outside of it.
            Ended::Trap(refusal) if refusal.to_string().contains(NO_ADDRESSES) => no_addresses(),
            _ => FunctionError::ended(&name, ended, said, began.elapsed()),
        })?;
        // WasmEdge goes on, with a memory of no pages.
        if (instance.len() as u64) < module.min_pages() * WASM_PAGE {
            return Err(no_addresses());
        }
        let mut find = |export: &'static str| {
            instance
                .find(export)
                .ok_or_else(|| refused(format!("there is no `{export}` in the instance")))
        };
        let (allocate, free, handle) = (
            find(module::ALLOCATE)?,
            find(module::FREE)?,
            find(module::HANDLE)?,
        );
        let initialize = instance.find(module::INITIALIZE);
        instance.set_slots(state.slots.places());
        let mut function = Self {
            name,
            instance,
            allocate,
            free,
            handle,
            imports,
            state,
            call_limit,
            usable: true,
            asked_huge: huge_pages.then_some(0),
        };
        function.ask_for_huge_pages();
        if let Some(initialize) = initialize {
            function.call(initialize, &[])?;
        }
        Ok(function)
    }

    /// The name that it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it can still be called.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Lets the function handle the payload in `region`, which must come from [`reserve`](Sink::reserve), whole or its
    /// beginning. From then on the region is the function's. What it sends meanwhile goes to `outbox`, on this thread.
    ///
    /// # Errors
    /// [`Failed`](FunctionError::Failed) if the function says so; it can go on. [`Deadline`](FunctionError::Deadline)
    /// if it did not return in time, and [`Trap`](FunctionError::Trap); it cannot. With a deadline that has passed
    /// already it is not called, and can go on. [`BadReply`](FunctionError::BadReply) if what it replied is not in its
    /// memory, [`BadRegion`](FunctionError::BadRegion) if the payload is not.
    pub fn handle(
        &mut self,
        region: Region,
        outbox: &mut dyn Outbox,
        deadline: Deadline,
    ) -> Result<Reply, FunctionError> {
        let memory = self.instance.len() as u64;
        let (Ok(offset), Ok(len), true) = (
            u32::try_from(region.offset()),
            u32::try_from(region.len()),
            region.fits(memory),
        ) else {
            return Err(FunctionError::BadRegion {
                function: self.name.to_string(),
                region,
                memory,
            });
        };
        if deadline.has_passed() {
            return Err(FunctionError::Deadline {
                function: self.name.to_string(),
                after: Duration::ZERO,
            });
        }
        let arguments = [address(offset), address(len)];
        let (result, said) = self.enter(self.handle, &arguments, Some(outbox), deadline)?;
        let Some(Value::I64(result)) = result else {
            return Err(self.no_result());
        };
        match result {
            0 => Ok(Reply::None),
            -1 => Err(FunctionError::Failed {
                function: self.name.to_string(),
                reason: said.unwrap_or_else(|| "it gave no reason".to_owned()),
            }),
            packed => {
                let packed = packed as u64;
                let region = Region::new(packed >> 32, packed & u64::from(u32::MAX));
                let memory = self.instance.len() as u64;
                if region.offset() == 0 || !region.fits(memory) {
                    return Err(FunctionError::BadReply {
                        function: self.name.to_string(),
                        region,
                        memory,
                    });
                }
                Ok(Reply::Region(region))
            }
        }
    }

    /// Gives a buffer back: a reply whose bytes have been sent, or a reserved region that was not handled.
    ///
    /// # Errors
    /// What calling the function can end with.
    pub fn free(&mut self, region: Region) -> Result<(), FunctionError> {
        let Ok(offset) = u32::try_from(region.offset()) else {
            return Err(FunctionError::BadRegion {
                function: self.name.to_string(),
                region,
                memory: self.instance.len() as u64,
            });
        };
        self.call(self.free, &[address(offset)]).map(drop)
    }

    /// Receives a payload from another function of this process, or of this host. One that was handed over is mapped into this function's
    /// memory, if the function knows how to give it back, that is, imports `release`; else it is copied.
    ///
    /// # Errors
    /// As for [`SlotTransfer::recv_with`].
    pub fn receive(
        &mut self,
        link: &mut dyn SlotTransfer,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        if !self.holds_slots() {
            return link.recv(self, deadline);
        }
        let Some(mut slots) = self.state.slots.take() else {
            return link.recv(self, deadline);
        };
        let received = link.recv_with(&mut slots, self, deadline);
        self.state.slots = OwnSlots::Here(slots);
        if !self.usable {
            self.bury();
        }
        self.instance.set_slots(self.state.slots.places());
        received
    }

    /// What the function replied, as something to be given away.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds) if the region does not lie in its memory.
    pub fn given(&mut self, region: Region) -> Result<Given<'_>, TransferError> {
        Given::new(self.instance.memory(), self.state.slots.here(), region)
    }

    /// Whether payloads in slots are mapped into its memory: it says when it is done with them.
    #[must_use]
    pub(crate) fn holds_slots(&self) -> bool {
        self.imports.contains(&HostFunction::Release)
    }

    /// What its slots take now. `None` if it may have none.
    pub fn slots(&mut self) -> Option<SlotReport> {
        self.state.slots.here().map(|slots| slots.report())
    }

    /// What it did with slots that it must not, and what it holds of others that it has not released. `None` if it may have
    /// none.
    pub fn misuse(&mut self) -> Option<Misuse> {
        let slots = self.state.slots.here()?;
        Some(slots.misuse(&mut self.instance))
    }

    /// It will never run again: what it holds of others goes back to them.
    fn bury(&mut self) {
        if let Some(slots) = self.state.slots.here() {
            slots.bury(&mut self.instance);
        }
    }

    /// Asks for huge pages where the memory is new. What a call grows and fills by itself has been filled by then.
    fn ask_for_huge_pages(&mut self) {
        let len = self.instance.len();
        let Some(asked) = self.asked_huge.filter(|asked| *asked < len) else {
            return;
        };
        let grown = Region::new(asked as u64, (len - asked) as u64);
        // A hint, and the region is inside.
        let _ = prefer_huge_pages(&mut self.instance, grown);
        self.asked_huge = Some(len);
    }

    /// Calls an export within the limit for calls that have no deadline of their own.
    fn call(
        &mut self,
        callee: Callee,
        arguments: &[Value],
    ) -> Result<Option<Value>, FunctionError> {
        let deadline = Deadline::after(self.call_limit);
        self.enter(callee, arguments, None, deadline)
            .map(|(result, _)| result)
    }

    /// Calls an export; gives its result, and what it told `fail`.
    fn enter(
        &mut self,
        callee: Callee,
        arguments: &[Value],
        outbox: Option<&mut dyn Outbox>,
        deadline: Deadline,
    ) -> Result<(Option<Value>, Option<String>), FunctionError> {
        if !self.usable {
            return Err(FunctionError::Unusable {
                function: self.name.to_string(),
            });
        }
        let began = Instant::now();
        // Borrowed anew, for no longer than the rest is.
        let outbox = outbox.map(|outbox| outbox as &mut dyn Outbox);
        let mut invocation = Invocation::new(&self.imports, &mut self.state, outbox, deadline);
        let result =
            self.instance
                .invoke(callee, arguments, &mut invocation, Some(deadline.instant()));
        let said = invocation.finish();
        self.instance.set_slots(self.state.slots.places());
        match result {
            Ok(result) => {
                self.ask_for_huge_pages();
                Ok((result, said.reason))
            }
            Err(ended) => {
                self.usable = false;
                self.bury();
                self.instance.set_slots(self.state.slots.places());
                Err(FunctionError::ended(
                    &self.name,
                    ended,
                    said,
                    began.elapsed(),
                ))
            }
        }
    }

    fn no_result(&self) -> FunctionError {
        FunctionError::Trap {
            function: self.name.to_string(),
            reason: "it returned nothing where its type promises a number".to_owned(),
            said: None,
        }
    }
}

/// An address or a length as WebAssembly types it: 32 bits, read as unsigned.
fn address(number: u32) -> Value {
    Value::I32(number as i32)
}

impl Sink for Function {
    /// Calls the function's allocator. Alignments above 2 MiB count as 2 MiB.
    ///
    /// # Errors
    /// [`NoRoom`](TransferError::NoRoom) if the allocator gives nothing, or for 4 GiB and more;
    /// [`Sink`](TransferError::Sink) with a [`FunctionError`] in it if it gives a region outside the memory, or traps.
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        let Ok(wanted) = u32::try_from(len) else {
            return Err(TransferError::NoRoom {
                len,
                reason: format!(
                    "function `{}` has 32-bit addresses, which name at most 4 GiB - 1 bytes",
                    self.name
                ),
            });
        };
        let align = align.clamp(1, MAX_ALIGNMENT).next_power_of_two();
        let arguments = [address(wanted), address(align as u32)];
        let failed = |error: FunctionError| TransferError::Sink(Box::new(error));
        let offset = match self.call(self.allocate, &arguments).map_err(failed)? {
            Some(Value::I32(offset)) => offset as u32,
            _ => return Err(failed(self.no_result())),
        };
        if offset == 0 {
            return Err(TransferError::NoRoom {
                len,
                reason: format!("the allocator of function `{}` has none", self.name),
            });
        }
        let region = Region::new(offset.into(), len);
        let memory = self.instance.len() as u64;
        if !region.fits(memory) {
            return Err(failed(FunctionError::BadAllocation {
                function: self.name.to_string(),
                region,
                memory,
            }));
        }
        if self
            .instance
            .slots()
            .iter()
            .any(|slot| overlap(*slot, region))
        {
            return Err(failed(FunctionError::KeptAllocation {
                function: self.name.to_string(),
                region,
            }));
        }
        Ok(region)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.instance
    }

    /// Calls the function's `roadrunner_free`. A function that traps over it says so at its next call.
    fn release(&mut self, region: Region) {
        let _ = self.free(region);
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .field("usable", &self.usable)
            .finish_non_exhaustive()
    }
}
