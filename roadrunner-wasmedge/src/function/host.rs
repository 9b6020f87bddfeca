//! What a function may call: version 1 of the guest ABI (README of `roadrunner-guest`), and a part of WASI.

use super::given::Given;
use super::options::{Log, LogLevel};
use super::outbox::{Outbox, SendError};
use super::slots::OwnSlots;
use super::text::{decode, tame, LIMIT};
use super::wasi::{self, Wasi};
use crate::sys::ast::Signature;
use crate::sys::ast::ValueType::{I32, I64};
use crate::sys::instance::{HostCalls, HostImport, Stop, Value};
use crate::sys::memory::GuestMemory;
use roadrunner_core::{Deadline, Region, TransferError};
use roadrunner_mem::{Audience, SlotOptions, Slots};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// The module that version 1 of the ABI is imported from.
const MODULE: &str = "roadrunner";

/// Bytes of a target's name at most.
const TARGET_LIMIT: u64 = 256;

/// The codes that a call returns on failure.
pub(super) mod code {
    pub(crate) const INVALID: i32 = -1;
    pub(crate) const UNKNOWN_TARGET: i32 = -2;
    pub(crate) const TIMEOUT: i32 = -3;
    pub(crate) const PEER_CLOSED: i32 = -4;
    pub(crate) const TOO_LARGE: i32 = -5;
    pub(crate) const FAILED: i32 = -6;
    pub(crate) const UNSUPPORTED: i32 = -7;
}

/// Bit 0 of the flags of `send`.
const GIVE: i32 = 1;

/// A function that the host offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostFunction {
    Send,
    Log,
    Fail,
    DeadlineLeft,
    Loan,
    Bind,
    Release,
    Wasi(wasi::Call),
}

/// A host function with its name and type.
pub(crate) struct Known {
    pub(crate) import: HostImport,
    pub(crate) function: HostFunction,
}

/// The host function that is imported by this name.
pub(crate) fn find(module: &str, name: &str) -> Option<Known> {
    if module == wasi::MODULE {
        return wasi::find(name);
    }
    if module != MODULE {
        return None;
    }
    let (name, params, results, function) = match name {
        "send" => ("send", &[I32; 5][..], I32, HostFunction::Send),
        "log" => ("log", &[I32; 3][..], I32, HostFunction::Log),
        "fail" => ("fail", &[I32; 2][..], I32, HostFunction::Fail),
        "deadline_left" => ("deadline_left", &[][..], I64, HostFunction::DeadlineLeft),
        "loan" => ("loan", &[I32][..], I32, HostFunction::Loan),
        "bind" => ("bind", &[I32; 2][..], I32, HostFunction::Bind),
        "release" => ("release", &[I32][..], I32, HostFunction::Release),
        _ => return None,
    };
    Some(Known {
        import: HostImport {
            module: MODULE,
            name,
            signature: Signature::new(params, &[results]),
        },
        function,
    })
}

/// What stays between the calls into one function.
pub(super) struct HostState {
    pub(super) log: Log,
    pub(super) wasi: Wasi,
    pub(super) slots: OwnSlots,
}

impl HostState {
    pub(super) fn new(
        env: Vec<(String, String)>,
        log: Log,
        slots: Option<SlotOptions>,
        audience: Option<Audience>,
    ) -> Self {
        let slots = slots.map(|options| match audience {
            Some(audience) => Slots::for_audience(options, audience),
            None => Slots::new(options),
        });
        Self {
            log,
            wasi: Wasi::new(env),
            slots: slots.map_or(OwnSlots::None, OwnSlots::Here),
        }
    }
}

/// What a function left behind when a call ended.
pub(super) struct Said {
    /// What it told `fail`.
    pub(super) reason: Option<String>,
    /// Why the host stopped it, if it did.
    pub(super) stop: Option<String>,
}

/// One call into a function, as its imports see it.
pub(super) struct Invocation<'a> {
    functions: &'a [HostFunction],
    state: &'a mut HostState,
    outbox: Option<&'a mut dyn Outbox>,
    deadline: Deadline,
    said: Said,
}

impl<'a> Invocation<'a> {
    pub(super) fn new(
        functions: &'a [HostFunction],
        state: &'a mut HostState,
        outbox: Option<&'a mut dyn Outbox>,
        deadline: Deadline,
    ) -> Self {
        Self {
            functions,
            state,
            outbox,
            deadline,
            said: Said {
                reason: None,
                stop: None,
            },
        }
    }

    /// The call has ended.
    pub(super) fn finish(self) -> Said {
        let Self { state, said, .. } = self;
        // A log that panics is not worth losing the result of the call.
        let _ = catch_unwind(AssertUnwindSafe(|| state.wasi.flush(&mut state.log)));
        said
    }

    fn send(&mut self, memory: &mut GuestMemory<'_>, arguments: [i32; 5]) -> i32 {
        let [target, target_len, offset, len, flags] = arguments;
        if flags & !GIVE != 0 {
            return code::INVALID;
        }
        let region = region(offset, len);
        let target = self::region(target, target_len);
        let Some(bytes) = read(memory, target, TARGET_LIMIT) else {
            return code::INVALID;
        };
        if target.len() > TARGET_LIMIT {
            return code::UNKNOWN_TARGET;
        }
        let Ok(target) = String::from_utf8(bytes) else {
            return code::INVALID;
        };
        let slots = &mut self.state.slots;
        let places = slots.places();
        let given = Given::new(memory.with_slots(&places), slots.here(), region);
        let Ok(mut given) = given else {
            return code::INVALID;
        };
        let Some(outbox) = &mut self.outbox else {
            return code::UNSUPPORTED;
        };
        let sent = catch_unwind(AssertUnwindSafe(|| {
            if flags & GIVE != 0 {
                outbox.give(&target, given)
            } else {
                outbox.send(&target, given.kept()?)
            }
        }));
        match sent {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => send_code(&error),
            Err(panic) => {
                // Dropping it might panic again.
                std::mem::forget(panic);
                code::FAILED
            }
        }
    }

    fn log(&mut self, memory: &mut GuestMemory<'_>, [level, offset, len]: [i32; 3]) -> i32 {
        let (Some(level), Some(text)) =
            (LogLevel::from_code(level), read_text(memory, offset, len))
        else {
            return code::INVALID;
        };
        let log = &mut self.state.log;
        let logged = catch_unwind(AssertUnwindSafe(|| log(level, &tame(&text))));
        match logged {
            Ok(()) => 0,
            Err(panic) => {
                std::mem::forget(panic);
                code::FAILED
            }
        }
    }

    fn fail(&mut self, memory: &mut GuestMemory<'_>, [offset, len]: [i32; 2]) -> i32 {
        match read_text(memory, offset, len) {
            Some(text) => {
                self.said.reason = Some(tame(&text));
                0
            }
            None => code::INVALID,
        }
    }

    /// Milliseconds, rounded up: 0 only once the deadline has passed.
    fn deadline_left(&self) -> i64 {
        let left = self.deadline.remaining().unwrap_or_default();
        i64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
    }
}

/// The code for an error of the outbox.
fn send_code(error: &SendError) -> i32 {
    match error {
        SendError::UnknownTarget => code::UNKNOWN_TARGET,
        SendError::Transfer(error) => match error {
            TransferError::Timeout => code::TIMEOUT,
            TransferError::PeerClosed
            | TransferError::Closed
            | TransferError::Broken
            | TransferError::Truncated { .. } => code::PEER_CLOSED,
            TransferError::TooLarge { .. } => code::TOO_LARGE,
            _ => code::FAILED,
        },
    }
}

/// Addresses and lengths are unsigned, although WebAssembly types them as `i32`.
pub(super) fn region(offset: i32, len: i32) -> Region {
    Region::new((offset as u32).into(), (len as u32).into())
}

/// A copy of the region's bytes, of the first `limit` of them if there are more. `None` if it is not in the memory.
pub(super) fn read(memory: &mut GuestMemory<'_>, region: Region, limit: u64) -> Option<Vec<u8>> {
    let span = region.span(memory).ok()?;
    let mut bytes = vec![0; region.len().min(limit) as usize];
    span.copy_to_slice(&mut bytes);
    Some(bytes)
}

fn read_text(memory: &mut GuestMemory<'_>, offset: i32, len: i32) -> Option<String> {
    let region = region(offset, len);
    let bytes = read(memory, region, LIMIT as u64)?;
    decode(bytes, region.len())
}

/// The arguments, all `i32`. Their number and types are the import's, checked when the module was loaded.
pub(super) fn numbers<const N: usize>(arguments: &[Value]) -> Result<[i32; N], Stop> {
    let mut numbers = [0; N];
    if arguments.len() != N {
        return Err(Stop);
    }
    for (number, argument) in numbers.iter_mut().zip(arguments) {
        match argument {
            Value::I32(value) => *number = *value,
            Value::I64(_) => return Err(Stop),
        }
    }
    Ok(numbers)
}

impl HostCalls for Invocation<'_> {
    fn call(
        &mut self,
        import: usize,
        memory: Option<&mut GuestMemory<'_>>,
        arguments: &[Value],
    ) -> Result<Option<Value>, Stop> {
        let function = *self.functions.get(import).ok_or(Stop)?;
        let Some(memory) = memory else {
            self.said.stop = Some("it exports a host function as its own".to_owned());
            return Err(Stop);
        };
        let code = match function {
            HostFunction::Send => self.send(memory, numbers(arguments)?),
            HostFunction::Log => self.log(memory, numbers(arguments)?),
            HostFunction::Fail => self.fail(memory, numbers(arguments)?),
            HostFunction::Loan => self.state.slots.loan(memory, numbers(arguments)?),
            HostFunction::Bind => self.state.slots.bind(memory, numbers(arguments)?),
            HostFunction::Release => self.state.slots.release(memory, numbers(arguments)?),
            HostFunction::DeadlineLeft => return Ok(Some(Value::I64(self.deadline_left()))),
            HostFunction::Wasi(call) => {
                let HostState { log, wasi, .. } = &mut *self.state;
                return match wasi.call(call, memory, arguments, log, self.deadline) {
                    Ok(errno) => Ok(errno.map(Value::I32)),
                    Err(wasi::Exit(status)) => {
                        self.said.stop = Some(format!("it exited with status {status}"));
                        Err(Stop)
                    }
                };
            }
        };
        Ok(Some(Value::I32(code)))
    }
}
