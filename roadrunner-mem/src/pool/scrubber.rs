//! What the handles of a pool share with the thread that clears its pages, and what that does.

use super::used::{Used, LARGE};
use super::{PoolOptions, PoolReport};
use crate::doorbell::locked;
use crate::sys::{lower_priority, PageBuffer};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that are cleared in one go: some 20 microseconds.
const PIECE: usize = 256 << 10;
/// Buffers at most: each is a mapping, of which a process has 65,530 by default.
pub(super) const MOST: usize = 512;
/// How long the thread sleeps between two looks while there is something to do now and then. To wake it up would take a
/// sender 25 microseconds, as much as clearing 1 MiB.
const NAP: Duration = Duration::from_millis(1);
/// After so many looks in vain it has to be woken up.
const NAPS: u32 = 200;
/// Bytes of the thread's stack: it calls next to nothing.
const STACK: usize = 64 << 10;

pub(super) struct Shared {
    pub(super) options: PoolOptions,
    pub(super) state: Mutex<State>,
    /// There is something to do for the thread.
    pub(super) work: Condvar,
    /// What was in hand has been put back.
    pub(super) given_back: Condvar,
    /// How many wait for what is in hand.
    pub(super) wanted: AtomicUsize,
}

#[derive(Default)]
pub(super) struct State {
    /// The one that was put last is at the end, here and among the dirty ones.
    pub(super) clean: Vec<Used>,
    pub(super) dirty: Vec<Used>,
    /// Bytes of the pages that are being cleared.
    pub(super) in_hand: u64,
    /// What was needed last, and not there.
    pub(super) missed: Option<usize>,
    pub(super) counts: PoolReport,
    pub(super) thread: Option<JoinHandle<()>>,
    pub(super) runs: bool,
    /// The thread does not look by itself.
    sleeps: bool,
    pub(super) closed: bool,
}

impl State {
    pub(super) fn bytes(&self) -> u64 {
        let all = self.clean.iter().chain(&self.dirty);
        all.map(Used::len).sum::<u64>() + self.in_hand
    }

    /// The first `len` bytes of a buffer. What is left of it, in whole page tables, is kept.
    pub(super) fn cut(&mut self, used: Used, len: usize) -> PageBuffer {
        let (buffer, rest) = used.cut(len);
        match rest {
            Some(rest) if rest.is_clean() => self.clean.push(rest),
            Some(rest) => self.dirty.push(rest),
            None => {}
        }
        buffer
    }

    /// Takes out what is too much, or was not needed since `before`.
    fn surplus(&mut self, most: u64, before: Option<Instant>) -> Vec<Used> {
        let mut surplus = Vec::new();
        loop {
            let count = self.clean.len() + self.dirty.len();
            let too_much = self.bytes() > most || count > MOST;
            let all = [&mut self.clean, &mut self.dirty].into_iter();
            let oldest = all
                .flat_map(|list| {
                    let at = (0..list.len()).min_by_key(|at| list[*at].since)?;
                    Some((list[at].since, at, list))
                })
                .min_by_key(|(since, ..)| *since);
            match oldest {
                Some((since, at, list)) if too_much || before.is_some_and(|it| since <= it) => {
                    surplus.push(list.remove(at));
                }
                _ => break,
            }
        }
        surplus
    }

    /// Takes out what was not needed for `idle` before `now`.
    pub(super) fn idle(&mut self, now: Instant, idle: Duration) -> Vec<Used> {
        // Without such an instant nothing can be that old.
        let before = now.checked_sub(idle);
        before.map_or_else(Vec::new, |before| self.surplus(u64::MAX, Some(before)))
    }
}

impl Shared {
    pub(super) fn add(self: &Arc<Self>, mut state: MutexGuard<'_, State>, used: Used) {
        match used.is_clean() {
            true => state.clean.push(used),
            false => state.dirty.push(used),
        }
        // Unmapping takes time that nobody need wait for.
        let surplus = state.surplus(self.options.bytes, None);
        let idle = state.dirty.is_empty() && state.clean.is_empty();
        if self.options.background && !idle && !state.runs {
            let shared = self.clone();
            let thread = thread::Builder::new()
                .name("roadrunner-pool".to_owned())
                .stack_size(STACK)
                .spawn(move || shared.run());
            // Without one, pages are cleared when they are needed.
            state.runs = thread.is_ok();
            state.thread = thread.ok();
        }
        let sleeps = std::mem::take(&mut state.sleeps);
        drop(state);
        if sleeps {
            self.work.notify_one();
        }
        drop(surplus);
    }

    /// What the thread does.
    fn run(&self) {
        lower_priority();
        let mut state = locked(&self.state);
        let mut naps = 0;
        while !state.closed {
            let done;
            (state, done) = self.scrub_one(state, LARGE);
            if done.is_some() {
                naps = 0;
                continue;
            }
            if naps < NAPS && self.options.idle > NAP {
                naps += 1;
                state = wait(&self.work, state, NAP);
                continue;
            }
            naps = 0;
            if state.clean.is_empty() && state.dirty.is_empty() {
                break;
            }
            state.sleeps = true;
            state = wait(&self.work, state, self.options.idle);
            state.sleeps = false;
            let surplus = state.idle(Instant::now(), self.options.idle);
            if !surplus.is_empty() {
                drop(state);
                drop(surplus);
                state = locked(&self.state);
            }
        }
        state.runs = false;
    }

    /// Clears the pages that were put last, of those with at least `from` bytes, in pieces, until somebody wants them;
    /// `None` if there is nothing to do.
    pub(super) fn scrub_one<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        from: u64,
    ) -> (MutexGuard<'a, State>, Option<()>) {
        let right = |used: &Used| used.trust.is_none() && (used.len() >= from || used.fresh);
        let next = state.dirty.iter().rposition(right);
        let Some(at) = next.filter(|_| self.wanted.load(Ordering::Relaxed) == 0) else {
            return (state, None);
        };
        let mut used = state.dirty.remove(at);
        state.in_hand += used.len();
        drop(state);
        let mut scrubbed = 0;
        while !used.is_clean() && self.wanted.load(Ordering::Relaxed) == 0 {
            scrubbed += used.clear_some(PIECE);
        }
        let mut state = locked(&self.state);
        state.in_hand -= used.len();
        state.counts.scrubbed += scrubbed as u64;
        match used.is_clean() {
            true => state.clean.push(used),
            false => state.dirty.push(used),
        }
        self.given_back.notify_all();
        (state, Some(()))
    }
}

pub(super) fn wait<'a>(
    changed: &Condvar,
    state: MutexGuard<'a, State>,
    most: Duration,
) -> MutexGuard<'a, State> {
    changed
        .wait_timeout(state, most)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}
