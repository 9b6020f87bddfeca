//! The part of WASI (`wasi_snapshot_preview1`) that a function gets: environment, clocks, random numbers, sleep, and
//! output that goes to its log. There are no arguments, no files, no directories and no sockets.
//!
//! It is done here and not by WasmEdge's own WASI because that one writes to this process's stdout, sleeps beyond
//! deadlines, and lets any function open sockets.
//!
//! Every other call of preview 1 can be imported, since language runtimes import more than they use, and returns
//! `badf`: there is no descriptor that it could be about.

use super::host::{numbers, read, region, HostFunction, Known};
use super::options::{Log, LogLevel};
use super::text::Line;
use crate::sys::ast::Signature;
use crate::sys::ast::ValueType::{self, I32, I64};
use crate::sys::instance::{HostImport, Stop, Value};
use crate::sys::memory::GuestMemory;
use roadrunner_core::{Deadline, Region};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// Bytes that one call writes, or makes up, before it looks at the clock.
const CHUNK: usize = 64 << 10;

/// Subscriptions of one `poll_oneoff` at most.
const MAX_SUBSCRIPTIONS: u32 = 64;

/// Vectors that one call looks at; what is in the others is left for the next.
const MAX_VECTORS: u32 = 1024;

mod errno {
    pub(super) const SUCCESS: i32 = 0;
    pub(super) const BADF: i32 = 8;
    pub(super) const FAULT: i32 = 21;
    pub(super) const INTR: i32 = 27;
    pub(super) const INVAL: i32 = 28;
    pub(super) const IO: i32 = 29;
    pub(super) const SPIPE: i32 = 70;
}

/// A call of WASI's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    ArgsGet,
    ArgsSizesGet,
    EnvironGet,
    EnvironSizesGet,
    ClockResGet,
    ClockTimeGet,
    FdClose,
    FdFdstatGet,
    FdRead,
    FdSeek,
    FdWrite,
    PollOneoff,
    ProcExit,
    RandomGet,
    SchedYield,
    /// The one of that name, which always fails.
    Refused(&'static str),
}

/// The function asked to end.
pub(super) struct Exit(pub(super) i32);

/// Calls that do something.
const OFFERED: &[(&str, &[ValueType], Call)] = &[
    ("args_get", &[I32, I32], Call::ArgsGet),
    ("args_sizes_get", &[I32, I32], Call::ArgsSizesGet),
    ("environ_get", &[I32, I32], Call::EnvironGet),
    ("environ_sizes_get", &[I32, I32], Call::EnvironSizesGet),
    ("clock_res_get", &[I32, I32], Call::ClockResGet),
    ("clock_time_get", &[I32, I64, I32], Call::ClockTimeGet),
    ("fd_close", &[I32], Call::FdClose),
    ("fd_fdstat_get", &[I32, I32], Call::FdFdstatGet),
    ("fd_read", &[I32; 4], Call::FdRead),
    ("fd_seek", &[I32, I64, I32, I32], Call::FdSeek),
    ("fd_write", &[I32; 4], Call::FdWrite),
    ("poll_oneoff", &[I32; 4], Call::PollOneoff),
    ("proc_exit", &[I32], Call::ProcExit),
    ("random_get", &[I32, I32], Call::RandomGet),
    ("sched_yield", &[], Call::SchedYield),
];

/// Calls that always fail.
const REFUSED: &[(&str, &[ValueType])] = &[
    ("fd_advise", &[I32, I64, I64, I32]),
    ("fd_allocate", &[I32, I64, I64]),
    ("fd_datasync", &[I32]),
    ("fd_fdstat_set_flags", &[I32, I32]),
    ("fd_fdstat_set_rights", &[I32, I64, I64]),
    ("fd_filestat_get", &[I32, I32]),
    ("fd_filestat_set_size", &[I32, I64]),
    ("fd_filestat_set_times", &[I32, I64, I64, I32]),
    ("fd_pread", &[I32, I32, I32, I64, I32]),
    ("fd_prestat_dir_name", &[I32; 3]),
    ("fd_prestat_get", &[I32, I32]),
    ("fd_pwrite", &[I32, I32, I32, I64, I32]),
    ("fd_readdir", &[I32, I32, I32, I64, I32]),
    ("fd_renumber", &[I32, I32]),
    ("fd_sync", &[I32]),
    ("fd_tell", &[I32, I32]),
    ("path_create_directory", &[I32; 3]),
    ("path_filestat_get", &[I32; 5]),
    (
        "path_filestat_set_times",
        &[I32, I32, I32, I32, I64, I64, I32],
    ),
    ("path_link", &[I32; 7]),
    ("path_open", &[I32, I32, I32, I32, I32, I64, I64, I32, I32]),
    ("path_readlink", &[I32; 6]),
    ("path_remove_directory", &[I32; 3]),
    ("path_rename", &[I32; 6]),
    ("path_symlink", &[I32; 5]),
    ("path_unlink_file", &[I32; 3]),
    ("proc_raise", &[I32]),
    ("sock_accept", &[I32; 3]),
    ("sock_recv", &[I32; 6]),
    ("sock_send", &[I32; 5]),
    ("sock_shutdown", &[I32, I32]),
];

/// The call of that name.
pub(super) fn find(name: &str) -> Option<Known> {
    let offered = OFFERED
        .iter()
        .map(|(name, params, call)| (*name, *params, *call));
    let refused = REFUSED
        .iter()
        .map(|(name, params)| (*name, *params, Call::Refused(name)));
    let (name, params, call) = offered
        .chain(refused)
        .find(|(known, _, _)| *known == name)?;
    let results: &[ValueType] = if call == Call::ProcExit { &[] } else { &[I32] };
    Some(Known {
        import: HostImport {
            module: MODULE,
            name,
            signature: Signature::new(params, results),
        },
        function: HostFunction::Wasi(call),
    })
}

/// The state of one function's WASI.
pub(super) struct Wasi {
    /// `name=value` with a NUL at the end.
    env: Vec<Vec<u8>>,
    stdout: Line,
    stderr: Line,
    began: Instant,
}

/// What a call returns other than success.
type Errno = i32;

impl Wasi {
    pub(super) fn new(env: Vec<(String, String)>) -> Self {
        Self {
            env: env
                .into_iter()
                .map(|(name, value)| format!("{name}={value}\0").into_bytes())
                .collect(),
            stdout: Line::default(),
            stderr: Line::default(),
            began: Instant::now(),
        }
    }

    /// Passes on what was written and is not a whole line.
    pub(super) fn flush(&mut self, log: &mut Log) {
        self.stdout.finish(false, |text| log(LogLevel::Info, text));
        self.stderr.finish(false, |text| log(LogLevel::Warn, text));
    }

    /// Does one call; gives its errno, if it has one.
    pub(super) fn call(
        &mut self,
        call: Call,
        memory: &mut GuestMemory<'_>,
        arguments: &[Value],
        log: &mut Log,
        deadline: Deadline,
    ) -> Result<Option<Errno>, Exit> {
        if call == Call::ProcExit {
            let status = numbers::<1>(arguments).map_or(-1, |[status]| status);
            return Err(Exit(status));
        }
        let errno = match self.checked(call, memory, arguments, log, deadline) {
            Ok(()) => errno::SUCCESS,
            Err(errno) => errno,
        };
        Ok(Some(errno))
    }

    fn checked(
        &mut self,
        call: Call,
        memory: &mut GuestMemory<'_>,
        arguments: &[Value],
        log: &mut Log,
        deadline: Deadline,
    ) -> Result<(), Errno> {
        match call {
            Call::ArgsGet => Ok(()),
            Call::ArgsSizesGet => {
                let [count, size] = all(arguments)?;
                write(memory, count, &0_u32.to_le_bytes())?;
                write(memory, size, &0_u32.to_le_bytes())
            }
            Call::EnvironGet => {
                let [pointers, texts] = all(arguments)?;
                self.environ(memory, pointers, texts)
            }
            Call::EnvironSizesGet => {
                let [count, size] = all(arguments)?;
                let bytes: usize = self.env.iter().map(Vec::len).sum();
                write(memory, count, &(self.env.len() as u32).to_le_bytes())?;
                write(memory, size, &(bytes as u32).to_le_bytes())
            }
            Call::ClockResGet => {
                let [clock, out] = all(arguments)?;
                self.now(clock)?;
                write(memory, out, &1_u64.to_le_bytes())
            }
            Call::ClockTimeGet => match arguments {
                [Value::I32(clock), _, Value::I32(out)] => {
                    write(memory, *out, &self.now(*clock)?.to_le_bytes())
                }
                _ => Err(errno::INVAL),
            },
            Call::FdClose => {
                let [fd] = all(arguments)?;
                standard(fd)
            }
            Call::FdFdstatGet => {
                let [fd, out] = all(arguments)?;
                standard(fd)?;
                fdstat(memory, out)
            }
            Call::FdRead => {
                let [fd, _, _, out] = all(arguments)?;
                if fd != 0 {
                    return Err(errno::BADF);
                }
                // The end of an empty file.
                write(memory, out, &0_u32.to_le_bytes())
            }
            Call::FdSeek => match arguments.first() {
                Some(Value::I32(fd)) => standard(*fd).and(Err(errno::SPIPE)),
                _ => Err(errno::INVAL),
            },
            Call::FdWrite => self.write(memory, all(arguments)?, log),
            Call::PollOneoff => self.poll(memory, all(arguments)?, deadline),
            Call::RandomGet => random(memory, all(arguments)?, deadline),
            Call::SchedYield => {
                std::thread::yield_now();
                Ok(())
            }
            Call::ProcExit | Call::Refused(_) => Err(errno::BADF),
        }
    }

    fn environ(
        &self,
        memory: &mut GuestMemory<'_>,
        pointers: i32,
        texts: i32,
    ) -> Result<(), Errno> {
        let (mut pointer, mut text) = (pointers as u32, texts as u32);
        for entry in &self.env {
            write(memory, pointer as i32, &text.to_le_bytes())?;
            write(memory, text as i32, entry)?;
            pointer = pointer.checked_add(4).ok_or(errno::FAULT)?;
            text = text.checked_add(entry.len() as u32).ok_or(errno::FAULT)?;
        }
        Ok(())
    }

    /// Nanoseconds on one of the two clocks.
    fn now(&self, clock: i32) -> Result<u64, Errno> {
        let since = match clock {
            0 => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_err(|_| errno::IO)?,
            1 => self.began.elapsed(),
            _ => return Err(errno::INVAL),
        };
        u64::try_from(since.as_nanos()).map_err(|_| errno::IO)
    }

    fn write(
        &mut self,
        memory: &mut GuestMemory<'_>,
        [fd, vectors, count, out]: [i32; 4],
        log: &mut Log,
    ) -> Result<(), Errno> {
        let (line, level) = match fd {
            1 => (&mut self.stdout, LogLevel::Info),
            2 => (&mut self.stderr, LogLevel::Warn),
            _ => return Err(errno::BADF),
        };
        // Short writes are allowed: what is too much for one call is left to the next.
        let mut written = 0;
        for number in 0..(count as u32).min(MAX_VECTORS) {
            let at = region(vectors, 8).offset() + 8 * u64::from(number);
            let vector = read(memory, Region::new(at, 8), 8).ok_or(errno::FAULT)?;
            let [offset, len] = two_words(&vector)?;
            let bytes = read(
                memory,
                Region::new(offset.into(), len.into()),
                (CHUNK - written) as u64,
            )
            .ok_or(errno::FAULT)?;
            let logged = catch_unwind(AssertUnwindSafe(|| {
                line.write(&bytes, |text| log(level, text));
            }));
            if let Err(panic) = logged {
                std::mem::forget(panic);
                return Err(errno::IO);
            }
            written += bytes.len();
            if written == CHUNK {
                break;
            }
        }
        write(memory, out, &(written as u32).to_le_bytes())
    }

    /// Waits for the earliest of some clocks. Descriptors are always ready, as reading and writing never wait.
    fn poll(
        &self,
        memory: &mut GuestMemory<'_>,
        [subscriptions, events, count, out]: [i32; 4],
        deadline: Deadline,
    ) -> Result<(), Errno> {
        const SUBSCRIPTION: u64 = 48;
        let count = count as u32;
        if count == 0 || count > MAX_SUBSCRIPTIONS {
            return Err(errno::INVAL);
        }
        let mut due = Vec::new();
        for number in 0..count {
            let at = region(subscriptions, 0).offset() + SUBSCRIPTION * u64::from(number);
            let bytes =
                read(memory, Region::new(at, SUBSCRIPTION), SUBSCRIPTION).ok_or(errno::FAULT)?;
            due.push(self.subscription(&bytes)?);
        }
        let nearest = due.iter().map(|due| due.wait).min().unwrap_or_default();
        let left = deadline.remaining().unwrap_or_default();
        std::thread::sleep(nearest.min(left));
        if nearest > left {
            return Err(errno::INTR);
        }
        let mut ready = 0_u32;
        for due in due.iter().filter(|due| due.wait <= nearest) {
            let mut event = [0; 32];
            event[..8].copy_from_slice(&due.userdata);
            event[8..10].copy_from_slice(&due.errno.to_le_bytes());
            event[10] = due.tag;
            let at = u32::try_from(region(events, 0).offset() + 32 * u64::from(ready))
                .map_err(|_| errno::FAULT)?;
            write(memory, at as i32, &event)?;
            ready += 1;
        }
        write(memory, out, &ready.to_le_bytes())
    }

    fn subscription(&self, bytes: &[u8]) -> Result<Due, Errno> {
        let word = |at: usize| -> Result<u64, Errno> {
            let bytes = bytes.get(at..at + 8).ok_or(errno::FAULT)?;
            bytes
                .try_into()
                .map(u64::from_le_bytes)
                .map_err(|_| errno::FAULT)
        };
        let mut due = Due {
            userdata: word(0)?.to_le_bytes(),
            tag: word(8)? as u8,
            wait: Duration::ZERO,
            errno: 0,
        };
        // A clock's number or a descriptor.
        let which = word(16)? as i32;
        match due.tag {
            0 => {
                let now = self.now(which)?;
                let absolute = word(40)? & 1 == 1;
                let timeout = word(24)?;
                due.wait = Duration::from_nanos(if absolute {
                    timeout.saturating_sub(now)
                } else {
                    timeout
                });
            }
            1 | 2 => {
                if let Err(errno) = standard(which) {
                    due.errno = errno as u16;
                }
            }
            _ => return Err(errno::INVAL),
        }
        Ok(due)
    }
}

/// A subscription of `poll_oneoff`.
struct Due {
    userdata: [u8; 8],
    tag: u8,
    wait: Duration,
    errno: u16,
}

fn all<const N: usize>(arguments: &[Value]) -> Result<[i32; N], Errno> {
    numbers(arguments).map_err(|Stop| errno::INVAL)
}

fn standard(fd: i32) -> Result<(), Errno> {
    if (0..=2).contains(&fd) {
        Ok(())
    } else {
        Err(errno::BADF)
    }
}

fn two_words(bytes: &[u8]) -> Result<[u32; 2], Errno> {
    match bytes {
        [a, b, c, d, e, f, g, h] => Ok([
            u32::from_le_bytes([*a, *b, *c, *d]),
            u32::from_le_bytes([*e, *f, *g, *h]),
        ]),
        _ => Err(errno::FAULT),
    }
}

fn write(memory: &mut GuestMemory<'_>, offset: i32, bytes: &[u8]) -> Result<(), Errno> {
    let region = Region::new((offset as u32).into(), bytes.len() as u64);
    let span = region.span(memory).map_err(|_| errno::FAULT)?;
    span.copy_from_slice(bytes);
    Ok(())
}

/// What a terminal or a pipe would say: a character device that can be read and written and not sought.
fn fdstat(memory: &mut GuestMemory<'_>, out: i32) -> Result<(), Errno> {
    const CHARACTER_DEVICE: u8 = 2;
    const READ_AND_WRITE: u64 = 1 << 1 | 1 << 6;
    let mut stat = [0; 24];
    stat[0] = CHARACTER_DEVICE;
    stat[8..16].copy_from_slice(&READ_AND_WRITE.to_le_bytes());
    write(memory, out, &stat)
}

fn random(
    memory: &mut GuestMemory<'_>,
    [offset, len]: [i32; 2],
    deadline: Deadline,
) -> Result<(), Errno> {
    let region = region(offset, len);
    let mut rest = region.span(memory).map_err(|_| errno::FAULT)?;
    let mut chunk = vec![0; CHUNK.min(rest.len())];
    while !rest.is_empty() {
        if deadline.has_passed() {
            return Err(errno::INTR);
        }
        let wanted = chunk.len().min(rest.len());
        getrandom::fill(&mut chunk[..wanted]).map_err(|_| errno::IO)?;
        let copied = rest.copy_from_slice(&chunk[..wanted]);
        rest = rest.split_at(copied).1;
    }
    Ok(())
}
