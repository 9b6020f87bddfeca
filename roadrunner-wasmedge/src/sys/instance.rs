//! An instance: calls into the guest, and out of it to the host.

use super::ast::{Ast, Signature, ValueType};
use super::fault;
use super::memory::GuestMemory;
use super::runtime::{
    check, exhausted, take_talk, wrap, Configuration, Executor, FunctionType, ModuleInstance,
    Refusal, Store,
};
use super::watchdog::{self, CodeRange, Watched};
use roadrunner_core::{Backing, LinearMemory, Region};
use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;
use wasmedge_sys::ffi;

/// A number that goes into or comes out of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    I32(i32),
    I64(i64),
}

/// Parameters of a host function at most: `path_open` of WASI has nine.
pub(crate) const MAX_PARAMS: usize = 9;

/// The host ends the guest: it traps.
#[derive(Debug)]
pub(crate) struct Stop;

/// The host functions of one instance, as one object that is borrowed for one call into the guest.
pub(crate) trait HostCalls {
    /// The guest called the import with this number. Its memory is there if it has one.
    fn call(
        &mut self,
        import: usize,
        memory: Option<&mut GuestMemory<'_>>,
        arguments: &[Value],
    ) -> Result<Option<Value>, Stop>;
}

/// A host function that an instance is given.
#[derive(Debug, Clone)]
pub(crate) struct HostImport {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
    pub(crate) signature: Signature,
}

/// Why a call into the guest did not return.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It ran until its deadline. The instance can never run again.
    Deadline,
    /// It trapped, or the host stopped it.
    Trap(Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Trap(refusal)
    }
}

/// What host functions find their way by. Lives on the heap, at an address that WasmEdge knows.
#[derive(Debug)]
struct CallState {
    /// Whom the running call belongs to; taken out while a host function runs.
    host: Option<NonNull<dyn HostCalls>>,
    backing: Backing,
}

/// An exported function of the instance that it was found in, by number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Callee(usize);

/// An instance with everything that it needs to run. Fields are dropped in this order: users before what they use.
#[derive(Debug)]
pub(crate) struct Instance {
    instance: ModuleInstance,
    _imports: Vec<ModuleInstance>,
    _store: Store,
    executor: Executor,
    code: Arc<[CodeRange]>,
    _ast: Ast,
    state: OwnedCallState,
    memory: NonNull<ffi::WasmEdge_MemoryInstanceContext>,
    functions: Vec<NonNull<ffi::WasmEdge_FunctionInstanceContext>>,
    slots: Vec<Region>,
}

/// The state, owned through a raw pointer because host functions reach it through another one.
#[derive(Debug)]
struct OwnedCallState(NonNull<CallState>);

impl Drop for OwnedCallState {
    fn drop(&mut self) {
        // SAFETY: made from a box in `Instance::new` and taken back once. It is the last of the fields that WasmEdge
        // could reach it from, and no guest runs: that needs the instance borrowed.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: WasmEdge's contexts are tied to no thread: what it keeps per thread is set anew in every invocation
// (SavedThreadLocal in lib/executor/helper.cpp). The instance shares none of them with anything else: module, code, store
// and executor are its own. The pointers in it point into what it owns. `CallState::host` is `None` between calls, and calls
// need `&mut self`.
unsafe impl Send for Instance {}

impl Instance {
    /// Instantiates `ast`, which runs its start function if it has one. `imports` are all that it asks for.
    ///
    /// The export `memory` must be a memory.
    pub(crate) fn new(
        ast: Ast,
        configuration: &Configuration,
        imports: &[HostImport],
        host: &mut dyn HostCalls,
        deadline: Option<Instant>,
    ) -> Result<Self, Ended> {
        let state = OwnedCallState(NonNull::from(Box::leak(Box::new(CallState {
            host: None,
            backing: Backing::Opaque,
        }))));
        // SAFETY: the configuration is alive during the call, and copied; no statistics; the results are nobody else's.
        let (executor, store) = unsafe {
            (
                Executor::take(ffi::WasmEdge_ExecutorCreate(
                    configuration.as_ptr(),
                    std::ptr::null_mut(),
                ))?,
                Store::take(ffi::WasmEdge_StoreCreate())?,
            )
        };
        let modules = import_modules(imports, &state)?;
        for module in &modules {
            // SAFETY: all three are alive, and live as long as each other in `Self`.
            check(unsafe {
                ffi::WasmEdge_ExecutorRegisterImport(
                    executor.as_ptr(),
                    store.as_ptr(),
                    module.as_ptr(),
                )
            })?;
        }
        let code: Arc<[CodeRange]> = ast.code().into();
        let mut instance = std::ptr::null_mut();
        // SAFETY: `ast` is alive until after the watch has ended, and with it its code.
        let result = unsafe {
            guarded(&state, host, deadline, &code, || {
                // SAFETY: all are alive; `instance` is written on success.
                ffi::WasmEdge_ExecutorInstantiate(
                    executor.as_ptr(),
                    &mut instance,
                    store.as_ptr(),
                    ast.as_ptr(),
                )
            })
        };
        // SAFETY: null, or freshly made and nobody else's. Taken over first, so that it is deleted in any case.
        let instance = unsafe { ModuleInstance::take(instance) };
        result?;
        let instance = instance?;
        // SAFETY: the instance is alive; the memory belongs to it.
        let memory =
            unsafe { ffi::WasmEdge_ModuleInstanceFindMemory(instance.as_ptr(), wrap("memory")) };
        let memory = NonNull::new(memory).ok_or_else(|| exhausted("the memory"))?;
        let this = Self {
            instance,
            _imports: modules,
            _store: store,
            executor,
            code,
            _ast: ast,
            state,
            memory,
            functions: Vec::new(),
            slots: Vec::new(),
        };
        let backing = this.view().find_backing();
        // SAFETY: `this` owns the state, and no guest runs.
        unsafe { (*this.state.0.as_ptr()).backing = backing };
        Ok(this)
    }

    /// The exported function of that name.
    pub(crate) fn find(&mut self, name: &'static str) -> Option<Callee> {
        // SAFETY: the instance is alive.
        let function =
            unsafe { ffi::WasmEdge_ModuleInstanceFindFunction(self.instance.as_ptr(), wrap(name)) };
        self.functions.push(NonNull::new(function)?);
        Some(Callee(self.functions.len() - 1))
    }

    fn view(&self) -> GuestMemory<'_> {
        // SAFETY: `self` owns the state, and no guest runs that could change it: that needs `&mut self`.
        let backing = unsafe { (*self.state.0.as_ptr()).backing };
        // SAFETY: the memory belongs to the instance; both are alive, and the guest does not run, while `self` is
        // borrowed. The bytes are reached only through `&mut`, by the rules of LinearMemory.
        unsafe { GuestMemory::new(self.memory, backing) }.holding(&self.slots)
    }

    /// Its linear memory.
    pub(crate) fn memory(&mut self) -> GuestMemory<'_> {
        self.view()
    }

    /// Says where slots are in its memory now: to be called when that has changed.
    pub(crate) fn set_slots(&mut self, slots: Vec<Region>) {
        self.slots = slots;
    }

    /// Where slots are in its memory.
    pub(crate) fn slots(&self) -> &[Region] {
        &self.slots
    }

    /// Calls an exported function that takes `arguments` and returns at most one value.
    pub(crate) fn invoke(
        &mut self,
        callee: Callee,
        arguments: &[Value],
        host: &mut dyn HostCalls,
        deadline: Option<Instant>,
    ) -> Result<Option<Value>, Ended> {
        let callee = *self
            .functions
            .get(callee.0)
            .ok_or_else(|| exhausted("a call into another instance"))?;
        let mut parameters = [zero(); MAX_PARAMS];
        for (parameter, argument) in parameters.iter_mut().zip(arguments) {
            *parameter = raw(*argument);
        }
        let count = arguments.len().min(MAX_PARAMS) as u32;
        // SAFETY: a list of known length is written no further than that; the callee belongs to the instance.
        let results = unsafe {
            let ty = ffi::WasmEdge_FunctionInstanceGetFunctionType(callee.as_ptr());
            ffi::WasmEdge_FunctionTypeGetReturnsLength(ty).min(1)
        };
        let mut result = zero();
        // SAFETY: `self` is borrowed, and with it the module that the code belongs to.
        unsafe {
            guarded(&self.state, host, deadline, &self.code, || {
                // SAFETY: executor and callee are alive; WasmEdge reads `count` parameters, whose number and types it
                // checks itself, and writes at most `results` results.
                ffi::WasmEdge_ExecutorInvoke(
                    self.executor.as_ptr(),
                    callee.as_ptr(),
                    parameters.as_ptr(),
                    count,
                    &mut result,
                    results,
                )
            })
        }?;
        Ok((results == 1).then(|| value(result)).flatten())
    }
}

// SAFETY: as GuestMemory's, which this passes everything on to: while an Instance is borrowed its guest does not run.
unsafe impl LinearMemory for Instance {
    fn base(&self) -> NonNull<u8> {
        self.view().base()
    }

    fn len(&self) -> usize {
        self.view().len()
    }

    fn backing(&self) -> Backing {
        self.view().backing()
    }

    fn backing_of(&self, region: Region) -> Backing {
        self.view().backing_of(region)
    }
}

/// Runs `run`, which enters the guest, with `host` as whom its imports reach, and no longer than until `deadline`
/// if there is one.
///
/// # Safety
/// `code` must stay mapped during the call, and no other call into the instance of `state` may be under way.
unsafe fn guarded(
    state: &OwnedCallState,
    host: &mut dyn HostCalls,
    deadline: Option<Instant>,
    code: &Arc<[CodeRange]>,
    run: impl FnOnce() -> ffi::WasmEdge_Result,
) -> Result<(), Ended> {
    // What was logged before belongs to something else.
    take_talk();
    // SAFETY: only the lifetime changes. The pointer is in the state while `host` is borrowed here, and not longer.
    let host: NonNull<dyn HostCalls> =
        unsafe { std::mem::transmute::<NonNull<dyn HostCalls + '_>, _>(NonNull::from(host)) };
    // SAFETY: the caller promises that the code stays mapped.
    let watched = deadline.map(|at| unsafe { watchdog::watch(at, code.clone()) });
    // SAFETY: the state is alive, and no guest runs yet that could reach it.
    unsafe { (*state.0.as_ptr()).host = Some(host) };
    let result = {
        let _entered = fault::enter(code);
        run()
    };
    // SAFETY: the state is alive, and no guest runs any more.
    unsafe { (*state.0.as_ptr()).host = None };
    let stopped = watched.is_some_and(Watched::finish);
    let result = check(result);
    if stopped {
        return Err(Ended::Deadline);
    }
    Ok(result?)
}

fn import_modules(
    imports: &[HostImport],
    state: &OwnedCallState,
) -> Result<Vec<ModuleInstance>, Refusal> {
    let mut modules: Vec<(&str, ModuleInstance)> = Vec::new();
    for (number, import) in imports.iter().enumerate() {
        let at = match modules.iter().position(|(name, _)| *name == import.module) {
            Some(at) => at,
            None => {
                // SAFETY: the name is alive during the call, and copied; the result is nobody else's.
                let module = unsafe {
                    ModuleInstance::take(ffi::WasmEdge_ModuleInstanceCreate(wrap(import.module)))?
                };
                modules.push((import.module, module));
                modules.len() - 1
            }
        };
        let ty = function_type(&import.signature)?;
        // SAFETY: the type is alive during the call, and copied. `host_function` is what the header asks for. WasmEdge
        // hands `number` back as it is and never follows it. The state outlives the function: Instance drops it last.
        let function = unsafe {
            ffi::WasmEdge_FunctionInstanceCreateBinding(
                ty.as_ptr(),
                Some(host_function),
                (number + 1) as *mut c_void,
                state.0.as_ptr().cast(),
                0,
            )
        };
        if function.is_null() {
            return Err(exhausted("a host function"));
        }
        // SAFETY: module and function are alive; the module owns the function from now on.
        unsafe {
            ffi::WasmEdge_ModuleInstanceAddFunction(
                modules[at].1.as_ptr(),
                wrap(import.name),
                function,
            );
        }
    }
    Ok(modules.into_iter().map(|(_, module)| module).collect())
}

fn function_type(signature: &Signature) -> Result<FunctionType, Refusal> {
    let list = |types: &[ValueType]| -> Result<Vec<_>, Refusal> {
        types
            .iter()
            .map(|ty| match ty {
                // SAFETY: plain functions that return a value.
                ValueType::I32 => Ok(unsafe { ffi::WasmEdge_ValTypeGenI32() }),
                // SAFETY: as above.
                ValueType::I64 => Ok(unsafe { ffi::WasmEdge_ValTypeGenI64() }),
                ValueType::Other => Err(exhausted("a host function of that type")),
            })
            .collect()
    };
    let (params, results) = (list(&signature.params)?, list(&signature.results)?);
    // SAFETY: the lists are as long as is said, and copied; the result is nobody else's.
    unsafe {
        FunctionType::take(ffi::WasmEdge_FunctionTypeCreate(
            params.as_ptr(),
            params.len() as u32,
            results.as_ptr(),
            results.len() as u32,
        ))
    }
}

/// What WasmEdge calls for every import. Nothing may unwind out of it.
unsafe extern "C" fn host_function(
    number: *mut c_void,
    state: *mut c_void,
    frame: *const ffi::WasmEdge_CallingFrameContext,
    params: *const ffi::WasmEdge_Value,
    params_len: u32,
    returns: *mut ffi::WasmEdge_Value,
    returns_len: u32,
) -> ffi::WasmEdge_Result {
    let call = AssertUnwindSafe(|| -> Result<(), Stop> {
        let state: *mut CallState = state.cast();
        let import = (number as usize).checked_sub(1).ok_or(Stop)?;
        // SAFETY: `import_modules` gave the state, which outlives the function. Only this thread reaches it: the guest
        // that called runs inside `guarded`, which has the instance to itself.
        let (host, backing) = unsafe { ((*state).host.take(), (*state).backing) };
        let host = host.ok_or(Stop)?;
        let arguments = if params_len == 0 {
            &[]
        } else {
            // SAFETY: WasmEdge passes `params_len` values, which are alive during the call.
            unsafe { std::slice::from_raw_parts(params, params_len as usize) }
        };
        let mut values = [Value::I32(0); MAX_PARAMS];
        for (to, from) in values.iter_mut().zip(arguments) {
            *to = value(*from).ok_or(Stop)?;
        }
        // SAFETY: the frame is alive during the call. No memory, or a function called other than from its module: null.
        let memory = unsafe { ffi::WasmEdge_CallingFrameGetMemoryInstance(frame, 0) };
        // SAFETY: the memory belongs to the instance that called, which waits for this function to return.
        let mut memory = NonNull::new(memory).map(|m| unsafe { GuestMemory::new(m, backing) });
        let count = arguments.len().min(MAX_PARAMS);
        // SAFETY: `guarded` put the pointer there and borrows what it points to until the guest has returned; it was
        // taken out above, so that nobody else uses it meanwhile.
        let result = unsafe { &mut *host.as_ptr() }.call(import, memory.as_mut(), &values[..count]);
        // SAFETY: as at the top.
        unsafe { (*state).host = Some(host) };
        if let (Some(result), true) = (result?, returns_len == 1 && !returns.is_null()) {
            // SAFETY: WasmEdge passes room for `returns_len` values.
            unsafe { returns.write(raw(result)) };
        }
        Ok(())
    });
    match catch_unwind(call) {
        Ok(Ok(())) => ffi::WasmEdge_Result { Code: 0 },
        Ok(Err(Stop)) => stopped(),
        Err(panic) => {
            // Dropping it might panic again.
            std::mem::forget(panic);
            stopped()
        }
    }
}

fn stopped() -> ffi::WasmEdge_Result {
    // SAFETY: a plain function of two numbers.
    unsafe { ffi::WasmEdge_ResultGen(ffi::WasmEdge_ErrCategory_UserLevelError, 1) }
}

fn zero() -> ffi::WasmEdge_Value {
    raw(Value::I32(0))
}

fn raw(value: Value) -> ffi::WasmEdge_Value {
    // SAFETY: plain functions of a number.
    unsafe {
        match value {
            Value::I32(number) => ffi::WasmEdge_ValueGenI32(number),
            Value::I64(number) => ffi::WasmEdge_ValueGenI64(number),
        }
    }
}

fn value(raw: ffi::WasmEdge_Value) -> Option<Value> {
    // SAFETY: plain functions of a value, each called for the type that it is for.
    unsafe {
        if ffi::WasmEdge_ValTypeIsI32(raw.Type) {
            Some(Value::I32(ffi::WasmEdge_ValueGetI32(raw)))
        } else if ffi::WasmEdge_ValTypeIsI64(raw.Type) {
            Some(Value::I64(ffi::WasmEdge_ValueGetI64(raw)))
        } else {
            None
        }
    }
}
