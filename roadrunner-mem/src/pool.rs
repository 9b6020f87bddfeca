//! Pages that take the place of those which leave with a payload.

mod scrubber;
mod used;

use crate::doorbell::locked;
use crate::slots::Trust;
use crate::sys::{prefer_huge, PageBuffer, Pages};
use roadrunner_core::LinearMemory;
use scrubber::{wait, Shared, State};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use used::{fits, take_best, Used};

/// How much a pool may take, and for how long.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolOptions {
    /// Bytes of pages that it keeps at most, clean and used. 0 for none: used pages are then cleared by whoever needs
    /// them, on the spot. 1 GiB.
    pub bytes: u64,
    /// Pages that nobody needed for this long go back to the system. 2 s.
    pub idle: Duration,
    /// Whether a thread of the pool's own clears used pages, 4 MiB or more in one piece. It begins with the first of them, has a low priority, and
    /// ends when the pool is empty or dropped. Without, they are cleared when they are needed, or by
    /// [`scrub`](PagePool::scrub). On.
    pub background: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            idle: Duration::from_secs(2),
            background: true,
        }
    }
}

/// What a pool holds now, and what it has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolReport {
    /// Bytes of pages that are ready.
    pub clean: u64,
    /// Bytes of pages that hold, or may hold, what somebody had in them.
    pub dirty: u64,
    /// Bytes that it may keep.
    pub limit: u64,
    /// How often pages were needed and ready.
    pub hits: u64,
    /// How often they were needed and not ready: cleared on the spot, or not there at all.
    pub misses: u64,
    /// Bytes that were cleared before anybody needed them.
    pub scrubbed: u64,
    /// Bytes that were cleared while somebody waited for them.
    pub scrubbed_late: u64,
}

impl PoolReport {
    /// Bytes of all its pages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.clean + self.dirty
    }
}

impl fmt::Display for PoolReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.1} MiB clean, {:.1} MiB used, of {:.1} MiB; {} hits, {} misses; {:.1} MiB scrubbed, {:.1} MiB while \
             somebody waited",
            mib(self.clean),
            mib(self.dirty),
            mib(self.limit),
            self.hits,
            self.misses,
            mib(self.scrubbed),
            mib(self.scrubbed_late),
        )
    }
}

/// Warm pages for the links and [`transfer`](crate::transfer)s of one workflow; clones share them.
///
/// When a payload leaves by exchange, clean pages of the pool take its place in the sender's memory, and the pages that it
/// takes the place of in the receiver's memory go to the pool, where they are cleared before anybody else sees them:
/// large ones by a thread of the pool's own, off the path of the payloads. So a flow needs about one payload of pages beyond
/// its two memories. Pages lie in the pool as they do in the memories, by default at multiples of 2 MiB, so that page tables
/// move and not pages.
///
/// The pages of a [trusted](crate::Policy::trusted) link are not cleared, and are used for nothing else than that link until
/// they are.
#[derive(Clone)]
pub struct PagePool(Arc<Owner>);

static_assertions::assert_impl_all!(PagePool: Send, Sync);

impl PagePool {
    /// An empty one, without a thread yet.
    #[must_use]
    pub fn new(options: PoolOptions) -> Self {
        Self(Arc::new(Owner(Arc::new(Shared {
            options,
            state: Mutex::default(),
            work: Condvar::new(),
            given_back: Condvar::new(),
            wanted: AtomicUsize::new(0),
        }))))
    }

    /// What it holds, and what it has done.
    #[must_use]
    pub fn report(&self) -> PoolReport {
        let state = locked(&self.shared().state);
        PoolReport {
            clean: state.clean.iter().map(Used::len).sum(),
            dirty: state.dirty.iter().map(Used::len).sum::<u64>() + state.in_hand,
            limit: self.shared().options.bytes,
            ..state.counts
        }
    }

    /// Gives pages back to the system that nobody has needed for `idle`. The pool's thread does so by itself, with the
    /// time in its [options](PoolOptions::idle).
    pub fn trim(&self, idle: Duration) {
        let surplus = locked(&self.shared().state).idle(Instant::now(), idle);
        drop(surplus);
    }

    /// Clears all used pages now, in this thread.
    pub fn scrub(&self) {
        let shared = self.shared();
        while let (_, Some(())) = shared.scrub_one(locked(&shared.state), 0) {}
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0 .0
    }

    /// `len` bytes of clean pages, a multiple of the page size, that lie like `address` in their page tables if there
    /// are such. For a trusted link they may hold what its other end had. `None` if there are none that fit.
    pub(crate) fn take(
        &self,
        len: usize,
        address: usize,
        trust: Option<Trust>,
    ) -> Option<PageBuffer> {
        let shared = self.shared();
        let mut waited = false;
        let mut state = locked(&shared.state);
        loop {
            let State { clean, dirty, .. } = &mut *state;
            let found = trust
                .and_then(|_| take_best(dirty, len, address, trust))
                .or_else(|| take_best(clean, len, address, None));
            if let Some(used) = found {
                let count = match waited {
                    false => &mut state.counts.hits,
                    true => &mut state.counts.misses,
                };
                *count += 1;
                return Some(state.cut(used, len));
            }
            if let Some(mut used) = take_best(&mut state.dirty, len, address, None) {
                drop(state);
                let late = used.clear_some(usize::MAX);
                let mut state = locked(&shared.state);
                state.counts.misses += 1;
                state.counts.scrubbed_late += late as u64;
                return Some(state.cut(used, len));
            }
            if waited || !fits(state.in_hand, len) {
                state.counts.misses += 1;
                return None;
            }
            // The only ones are being cleared: they are put back as they are, or are clean by then.
            waited = true;
            shared.wanted.fetch_add(1, Ordering::Relaxed);
            state = wait(&shared.given_back, state, PATIENCE);
            shared.wanted.fetch_sub(1, Ordering::Relaxed);
            shared.work.notify_one();
        }
    }

    /// Keeps pages that hold what somebody had, of a trusted link if `trust` says so. The ones that were not needed for
    /// the longest time make room.
    pub(crate) fn put(&self, buffer: PageBuffer, trust: Option<Trust>) {
        let shared = self.shared();
        let state = locked(&shared.state);
        shared.add(state, Used::new(buffer, trust));
    }

    /// Takes back pages that hold nothing.
    pub(crate) fn put_clean(&self, buffer: PageBuffer) {
        let mut used = Used::new(buffer, None);
        used.cleared = used.buffer.len();
        let shared = self.shared();
        shared.add(locked(&shared.state), used);
    }

    /// Has pages made ready, large ones if `huge` and the machine has any, for what [`take`](Self::take) could not give twice
    /// in a row.
    pub(crate) fn foresee(&self, len: usize, huge: bool) {
        let shared = self.shared();
        let mut state = locked(&shared.state);
        let again = state.missed.replace(len) == Some(len);
        let room = state.bytes() + len as u64 <= shared.options.bytes;
        if again && room && shared.options.background {
            if let Ok(mut buffer) = PageBuffer::new(len) {
                if huge {
                    prefer_huge(&Pages::of(&mut buffer));
                }
                state.missed = None;
                shared.add(state, Used::fresh(buffer));
            }
        }
    }
}

impl Default for PagePool {
    fn default() -> Self {
        Self::new(PoolOptions::default())
    }
}

impl fmt::Debug for PagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PagePool").field(&self.report()).finish()
    }
}

/// What all handles have in common, and the thread has not: when it goes, the thread ends.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let thread = {
            let mut state = locked(&self.0.state);
            state.closed = true;
            // Nobody needs what it clears.
            self.0.wanted.fetch_add(1, Ordering::Relaxed);
            state.thread.take()
        };
        self.0.work.notify_all();
        if let Some(thread) = thread {
            // It does nothing that could panic, and has nothing to say.
            let _ = thread.join();
        }
    }
}

/// How long somebody waits for pages that are being cleared: many times what a piece takes.
const PATIENCE: Duration = Duration::from_millis(2);
#[cfg(test)]
mod tests {
    use super::scrubber::MOST;
    use super::*;
    use crate::sys::{PAGE, TABLE};
    use std::thread;

    const LEN: usize = 16 * PAGE;

    /// One that does nothing by itself.
    fn pool(bytes: usize) -> PagePool {
        PagePool::new(PoolOptions {
            bytes: bytes as u64,
            background: false,
            ..PoolOptions::default()
        })
    }

    fn secret(len: usize) -> PageBuffer {
        let mut buffer = PageBuffer::new(len).expect("memory");
        buffer.span().copy_from_slice(&vec![0x5e; len]);
        buffer
    }

    fn is_zero(buffer: &PageBuffer) -> bool {
        buffer.as_slice().iter().all(|byte| *byte == 0)
    }

    /// Waits until it is so, as something else runs towards it.
    fn until(mut it_is: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !it_is() {
            assert!(Instant::now() < end, "never");
            thread::yield_now();
        }
    }

    #[test]
    fn it_keeps_up_to_its_limit_and_the_oldest_go() {
        let pool = pool(3 * LEN);
        for round in 1..=5 {
            pool.put(secret(LEN), None);
            assert_eq!(pool.report().bytes(), round.min(3) * LEN as u64);
        }
        pool.put(secret(4 * LEN), None);
        assert_eq!(pool.report().bytes(), 0, "too much by itself");
        pool.put(secret(2 * LEN), None);
        pool.put(secret(LEN), None);
        pool.put(secret(LEN), None);
        assert_eq!(pool.report().bytes(), 2 * LEN as u64);
        assert!(pool.take(2 * LEN, 0, None).is_none(), "the oldest went");
        for _ in 0..2 * MOST {
            pool.put(secret(PAGE), None);
        }
        let state = locked(&pool.shared().state);
        assert!(state.clean.len() + state.dirty.len() <= MOST);
    }

    #[test]
    fn nobody_sees_what_was_in_pages() {
        let pool = pool(100 * LEN);
        pool.put(secret(LEN), None);
        assert!(is_zero(&pool.take(LEN, 0, None).expect("there")));
        let report = pool.report();
        assert_eq!((report.hits, report.misses), (0, 1));
        assert_eq!((report.scrubbed, report.scrubbed_late), (0, LEN as u64));
        for len in [LEN, 2 * LEN] {
            pool.put(secret(len), None);
        }
        assert_eq!(
            (pool.report().clean, pool.report().dirty),
            (0, 3 * LEN as u64)
        );
        pool.scrub();
        assert_eq!(
            (pool.report().clean, pool.report().dirty),
            (3 * LEN as u64, 0)
        );
        for _ in 0..2 {
            assert!(is_zero(&pool.take(LEN, 0, None).expect("there")));
        }
        let report = pool.report();
        assert_eq!((report.hits, report.misses, report.bytes()), (2, 1, 0));
        assert_eq!(report.scrubbed, 3 * LEN as u64);
    }

    #[test]
    fn pages_that_are_partly_cleared_are_cleared_to_their_end() {
        let pool = pool(100 * LEN);
        let mut used = Used::new(secret(2 * LEN), None);
        assert_eq!(used.clear_some(LEN), LEN);
        assert!(!used.is_clean());
        pool.shared().add(locked(&pool.shared().state), used);
        assert!(is_zero(&pool.take(2 * LEN, 0, None).expect("there")));
        assert_eq!(pool.report().scrubbed_late, LEN as u64);
    }

    #[test]
    fn the_best_pages_are_taken_and_what_is_left_is_kept() {
        let pool = pool(usize::MAX);
        for len in [5 * TABLE, 4 * TABLE, 3 * TABLE] {
            pool.put(secret(len), None);
        }
        pool.scrub();
        let size = |len| pool.take(len, 0, None).map(|buffer| buffer.len());
        assert_eq!(size(TABLE), None, "too long");
        assert_eq!(size(6 * TABLE), None, "too short");
        assert_eq!(size(4 * TABLE), Some(4 * TABLE));
        // Of the three tables one is left, and of the second what is not a whole one is lost.
        assert_eq!(size(2 * TABLE - PAGE), Some(2 * TABLE - PAGE));
        assert_eq!(pool.report().clean, 6 * TABLE as u64);
        let rest = pool.take(TABLE, 0, None).expect("kept");
        assert!(rest.lies_at() == 0 && is_zero(&rest));
    }

    #[test]
    fn pages_that_lie_alike_come_first() {
        let pool = pool(usize::MAX);
        let shifted = |pages: usize| {
            let mut buffer = secret(TABLE + LEN);
            drop(buffer.split_front(TABLE - pages * PAGE));
            buffer.cut(LEN).0
        };
        pool.put(secret(LEN), None);
        pool.put(shifted(3), None);
        pool.put(secret(LEN), None);
        let lies_at = TABLE - 3 * PAGE;
        let found = pool.take(LEN, 7 * TABLE + lies_at, None).expect("there");
        assert_eq!(found.lies_at(), lies_at);
        let found = pool.take(LEN, 7 * TABLE + lies_at, None).expect("there");
        assert_eq!(found.lies_at(), 0, "better than none");
    }

    #[test]
    fn trusted_pages_go_to_their_own_link_alone() {
        let pool = pool(usize::MAX);
        let (ours, others) = (Some(Trust::new()), Some(Trust::new()));
        pool.put(secret(LEN), ours);
        assert!(pool.take(LEN, 0, None).is_none(), "a strict link");
        assert!(pool.take(LEN, 0, others).is_none(), "another trusted one");
        pool.scrub();
        let kept = pool.take(LEN, 0, ours).expect("its own");
        assert!(kept.as_slice().iter().all(|byte| *byte == 0x5e));
        pool.put(secret(LEN), None);
        let cleared = pool.take(LEN, 0, ours).expect("anybody's");
        assert!(is_zero(&cleared));
        // What is left of a longer one is no cleaner than the rest.
        pool.put(secret(2 * TABLE), ours);
        assert!(pool.take(TABLE, 0, ours).is_some());
        assert_eq!(
            (pool.report().clean, pool.report().dirty),
            (0, TABLE as u64)
        );
        assert!(pool.take(TABLE, 0, None).is_none());
    }

    #[test]
    fn idle_pages_go_back_to_the_system() {
        let pool = pool(usize::MAX);
        let second = Duration::from_secs(1);
        pool.put(secret(LEN), None);
        pool.scrub();
        pool.put(secret(2 * LEN), None);
        let (old, new) = {
            let state = locked(&pool.shared().state);
            (state.clean[0].since, state.dirty[0].since)
        };
        let idle = |now, idle| locked(&pool.shared().state).idle(now, idle).len();
        assert_eq!(idle(old + second - Duration::from_nanos(1), second), 0);
        assert_eq!(idle(old + second, second + (new - old)), 0);
        assert_eq!(idle(old + second, second), 1);
        assert_eq!(pool.report().bytes(), 2 * LEN as u64);
        assert_eq!(idle(new, Duration::MAX), 0, "before there was time");
        pool.trim(Duration::ZERO);
        assert_eq!(pool.report().bytes(), 0);
    }

    #[test]
    fn a_thread_clears_what_is_put_and_ends_with_the_pool() {
        const LEN: usize = super::used::LARGE as usize;
        let pool = PagePool::default();
        let shared = pool.shared().clone();
        assert_eq!(Arc::strong_count(&shared), 2, "no thread yet");
        for _ in 0..3 {
            pool.put(secret(LEN), None);
        }
        until(|| pool.report().clean == 3 * LEN as u64);
        let again = pool.clone();
        drop(pool);
        assert!(locked(&shared.state).runs);
        assert!(is_zero(&again.take(LEN, 0, None).expect("there")));
        assert_eq!(again.report().hits, 1);
        drop(again);
        assert_eq!(Arc::strong_count(&shared), 1, "the thread is gone");
    }

    #[test]
    fn a_thread_ends_when_nobody_needs_it_and_begins_again() {
        let pool = PagePool::new(PoolOptions {
            idle: Duration::ZERO,
            ..PoolOptions::default()
        });
        for _ in 0..3 {
            pool.put(secret(LEN), None);
            until(|| !locked(&pool.shared().state).runs);
            assert_eq!(pool.report().bytes(), 0);
        }
    }

    #[test]
    fn what_was_missed_twice_is_made_ready() {
        let pool = PagePool::default();
        for len in [LEN, 2 * LEN, LEN] {
            assert!(pool.take(len, 0, None).is_none());
            pool.foresee(len, false);
        }
        assert_eq!(pool.report().bytes(), 0, "not the same twice in a row");
        pool.foresee(LEN, true);
        until(|| pool.report().clean == LEN as u64);
        assert!(is_zero(&pool.take(LEN, 0, None).expect("ready")));
    }

    /// Whoever takes pages while the thread is at them gets them cleared as well, and none is lost.
    #[test]
    fn pages_are_taken_out_of_the_threads_hands() {
        let pool = PagePool::default();
        const LARGE: usize = super::used::LARGE as usize;
        pool.put(secret(LARGE), None);
        pool.put(secret(LARGE), None);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        // None only where the thread was kept from running for longer than anybody waits.
                        if let Some(mut buffer) = pool.take(LARGE, 0, None) {
                            assert!(is_zero(&buffer));
                            buffer.span().copy_from_slice(&vec![0x5e; LARGE]);
                            pool.put(buffer, None);
                        }
                    }
                });
            }
        });
        until(|| pool.report().dirty == 0);
        let report = pool.report();
        assert_eq!(report.clean, 2 * LARGE as u64, "{report}");
    }
}
