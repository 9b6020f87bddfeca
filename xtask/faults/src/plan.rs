//! Which call fails, and how.

use crate::call::Call;
use crate::sys;
use nix::errno::Errno;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happens instead of a call, or to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not made, and fails with this error.
    Errno(Errno),
    /// It is made, and asked for at most so many bytes; at least 1.
    Short(usize),
}

impl Fault {
    /// Whether a program that is written as section 2 of the manual says goes on as if nothing had happened.
    #[must_use]
    pub fn is_no_failure(self) -> bool {
        matches!(self, Self::Short(_) | Self::Errno(Errno::EINTR))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{errno:?}"),
            Self::Short(bytes) => write!(f, "at most {bytes} bytes"),
        }
    }
}

/// Which way bytes cross, seen from the thread that has the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Way {
    /// Into a socket.
    Out,
    /// Out of a socket.
    In,
}

/// What the kernel refuses, cuts short or ends while [`during`](Self::during) runs, and what it was asked for.
///
/// A plan holds for the threads that run under it, each in its own `during`. Without a rule it only counts.
#[derive(Debug, Default)]
pub struct Plan(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    death: Option<(Way, u64)>,
    /// A death is the whole process's.
    kills: bool,
    /// Calls until the process is killed.
    last_call: Option<u64>,
    random: Option<Random>,
    seen: Tally<{ Call::ALL.len() }>,
    done: Tally<{ Call::ALL.len() }>,
    moved: [u64; 2],
    injected: Vec<(Call, u64, Fault)>,
    died: bool,
}

#[derive(Debug)]
struct Tally<const N: usize>([u64; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

#[derive(Debug)]
struct Rule {
    call: Call,
    nth: u64,
    ever_after: bool,
    fault: Fault,
}

/// Every so many calls one fails.
#[derive(Debug)]
struct Random {
    state: u64,
    one_in: u64,
    spared: &'static [Call],
}

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        // splitmix64: Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014.
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    fn fault(&mut self, call: Call, len: Option<usize>) -> Option<Fault> {
        if self.spared.contains(&call) || self.next(self.one_in) != 0 {
            return None;
        }
        let errors = call.errors();
        let short = len.filter(|len| *len > 1);
        let kinds = errors.len() as u64 + u64::from(short.is_some());
        let kind = self.next(kinds) as usize;
        match (errors.get(kind), short) {
            (Some(errno), _) => Some(Fault::Errno(*errno)),
            (None, Some(len)) => Some(Fault::Short(1 + self.next(len as u64 - 1) as usize)),
            (None, None) => None,
        }
    }
}

impl Plan {
    /// Nothing fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, change: impl FnOnce(&mut State)) -> Self {
        change(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
        self
    }

    /// The `nth` of these calls, from 0 on, fails like this.
    #[must_use]
    pub fn nth(self, call: Call, nth: u64, fault: Fault) -> Self {
        self.rule(call, nth, false, fault)
    }

    /// From the `nth` on, all of these calls fail like this.
    #[must_use]
    pub fn from_nth(self, call: Call, nth: u64, fault: Fault) -> Self {
        self.rule(call, nth, true, fault)
    }

    fn rule(self, call: Call, nth: u64, ever_after: bool, fault: Fault) -> Self {
        self.with(|state| {
            state.rules.push(Rule {
                call,
                nth,
                ever_after,
                fault,
            });
        })
    }

    /// Once so many bytes have crossed this way, the socket that they crossed dies as if the process at this end of it
    /// had: the kernel closes it. The descriptor stays, as that of a socket whose peer is gone, so that this end sees
    /// a death, too.
    #[must_use]
    pub fn dies(self, way: Way, after: u64) -> Self {
        self.with(|state| state.death = Some((way, after)))
    }

    /// The whole process is killed (`SIGKILL`) where [`dies`](Self::dies) says, instead of the socket.
    #[must_use]
    pub fn kills(self) -> Self {
        self.with(|state| state.kills = true)
    }

    /// The process is killed (`SIGKILL`) instead of making its call number `nth`, from 0 on, whatever call that is.
    #[must_use]
    pub fn kills_at(self, nth: u64) -> Self {
        self.with(|state| state.last_call = Some(nth))
    }

    /// One in so many calls fails, and how, is drawn by lot; the same seed draws the same. The `spared` ones never do.
    #[must_use]
    pub fn random(self, seed: u64, one_in: u64, spared: &'static [Call]) -> Self {
        self.with(|state| {
            state.random = Some(Random {
                state: seed,
                one_in,
                spared,
            });
        })
    }

    /// Runs `operation` in this thread under the plan.
    pub fn during<R>(&self, operation: impl FnOnce() -> R) -> R {
        sys::under(self, operation)
    }

    /// How many of these calls were made, failed ones included.
    #[must_use]
    pub fn seen(&self, call: Call) -> u64 {
        self.state().seen.0[call as usize]
    }

    /// How many of these calls succeeded.
    #[must_use]
    pub fn done(&self, call: Call) -> u64 {
        self.state().done.0[call as usize]
    }

    /// Every call that was made, and how often.
    #[must_use]
    pub fn all_seen(&self) -> Vec<(Call, u64)> {
        let state = self.state();
        Call::ALL
            .iter()
            .map(|call| (*call, state.seen.0[*call as usize]))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Bytes that crossed sockets this way.
    #[must_use]
    pub fn moved(&self, way: Way) -> u64 {
        self.state().moved[way as usize]
    }

    /// Which calls failed or were cut short, and how: the call, which one it was of its kind, and its fault.
    #[must_use]
    pub fn injected(&self) -> Vec<(Call, u64, Fault)> {
        self.state().injected.clone()
    }

    /// Whether the death that was planned has come.
    #[must_use]
    pub fn has_died(&self) -> bool {
        self.state().died
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to happen to a call that is about to be made.
    pub(crate) fn ask(&self, call: Call, bytes: Option<Bytes>) -> Verdict {
        let mut state = self.state();
        let nth = state.seen.0[call as usize];
        match &mut state.last_call {
            Some(0) => return Verdict::Kill,
            Some(left) => *left -= 1,
            None => {}
        }
        state.seen.0[call as usize] += 1;
        let len = bytes.map(|bytes| bytes.len);
        let planned = state
            .rules
            .iter()
            .find(|rule| {
                rule.call == call && (rule.nth == nth || rule.ever_after && rule.nth < nth)
            })
            .map(|rule| rule.fault);
        let fault = match planned {
            None => state
                .random
                .as_mut()
                .and_then(|random| random.fault(call, len)),
            planned => planned,
        };
        let mut most = usize::MAX;
        match fault {
            Some(Fault::Errno(errno)) => {
                state.injected.push((call, nth, Fault::Errno(errno)));
                return Verdict::Fail(errno);
            }
            Some(Fault::Short(bytes)) if len.is_some_and(|len| bytes < len) => {
                state.injected.push((call, nth, Fault::Short(bytes)));
                most = bytes.max(1);
            }
            _ => {}
        }
        if let (Some((way, left)), Some(bytes), false) = (state.death, bytes, state.died) {
            if let Some(socket) = bytes.socket.filter(|(at, _)| *at == way) {
                if left == 0 {
                    state.died = true;
                    return if state.kills {
                        Verdict::Kill
                    } else {
                        Verdict::Die(socket.1)
                    };
                }
                most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
            }
        }
        Verdict::Make(most)
    }

    /// What came of a call that was made. Gives what is to die now.
    pub(crate) fn tell(&self, call: Call, bytes: Option<Bytes>, result: isize) -> Option<Victim> {
        let mut state = self.state();
        let moved = u64::try_from(result).ok()?;
        state.done.0[call as usize] += 1;
        let (way, socket) = bytes?.socket?;
        if state.died {
            return None;
        }
        state.moved[way as usize] += moved;
        let (_, left) = state.death.as_mut().filter(|(at, _)| *at == way)?;
        *left = left.saturating_sub(moved);
        if *left > 0 {
            return None;
        }
        state.died = true;
        Some(if state.kills {
            Victim::Process
        } else {
            Victim::Socket(socket)
        })
    }
}

/// Who dies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Victim {
    Socket(RawFd),
    Process,
}

/// What a call that moves bytes is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes {
    pub(crate) len: usize,
    /// The socket that they cross, and which way, if they do.
    pub(crate) socket: Option<(Way, RawFd)>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict {
    /// It is made, for at most so many bytes.
    Make(usize),
    /// It fails.
    Fail(Errno),
    /// The socket dies before it is made.
    Die(RawFd),
    /// The process dies before it is made.
    Kill,
}
