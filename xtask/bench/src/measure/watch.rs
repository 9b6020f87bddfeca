//! What a round is timed with.

use crate::usage::Cpu;
use anyhow::{ensure, Result};
use roadrunner_core::{Method, Receipt};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What a round is timed with.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(super) time: Duration,
    /// Processor time that is not the candidate's.
    pub(super) beside: Cpu,
    /// Processor time of other processes that is.
    pub(super) elsewhere: Cpu,
    pub(super) peak_elsewhere: u64,
    pub(super) delivered: u64,
    pub(super) verified: u64,
    pub(super) methods: BTreeSet<String>,
    /// What the time is divided by, if not by what was delivered.
    pub(super) payloads: Option<u64>,
    pub(super) phases: Vec<(&'static str, Duration)>,
    pub(super) faults: Vec<(&'static str, u64)>,
    pub(super) waits: u64,
}

impl Watch {
    /// What the experiment is about.
    pub(crate) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        self.time += began.elapsed();
        result
    }

    /// The same, measured by somebody else: another thread or process.
    pub(crate) fn add_time(&mut self, time: Duration) {
        self.time += time;
    }

    /// A part of what is timed, of which its own percentiles are told.
    pub(crate) fn phase(&mut self, name: &'static str, time: Duration) {
        self.phases.push((name, time));
    }

    /// Page faults within a part of what is timed.
    pub(crate) fn faults(&mut self, name: &'static str, count: u64) {
        self.faults.push((name, count));
    }

    /// How often a process that receives had to wait for something.
    pub(crate) fn add_waits(&mut self, count: u64) {
        self.waits += count;
    }

    /// What goes with it but is not what the experiment is about: neither its time nor its processor time counts. Only
    /// for work that this thread does by itself.
    pub(crate) fn beside<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = Cpu::of_thread();
        let result = work();
        self.beside += Cpu::of_thread() - before;
        result
    }

    /// Counts the time if `counted`, and is [`beside`](Self::beside) otherwise.
    pub(crate) fn part<T>(&mut self, counted: bool, work: impl FnOnce() -> T) -> T {
        if counted {
            self.time(work)
        } else {
            self.beside(work)
        }
    }

    /// Processor time that the measured work took in another process; for a thread of this one it is counted anyway.
    pub(crate) fn add_cpu(&mut self, cpu: Cpu) {
        self.elsewhere += cpu;
    }

    /// The peak resident set of another process that took part.
    pub(crate) fn add_peak(&mut self, bytes: u64) {
        self.peak_elsewhere += bytes;
    }

    /// A payload has arrived, by the method that the receipt names.
    pub(crate) fn delivered(&mut self, receipt: Receipt) {
        self.delivered_by(receipt.method().name(), 1);
    }

    /// The same for many.
    pub(crate) fn delivered_all(&mut self, receipts: Receipts) {
        for (method, count) in Method::ALL.into_iter().zip(receipts.0) {
            if count > 0 {
                self.delivered_by(method.name(), count);
            }
        }
    }

    /// `count` payloads have arrived, by a method that no receipt tells: another library's.
    pub(crate) fn delivered_by(&mut self, method: &str, count: u64) {
        self.delivered += count;
        if !self.methods.contains(method) {
            self.methods.insert(method.to_owned());
        }
    }

    /// All that was delivered was one payload, to many receivers.
    pub(crate) fn as_one(&mut self) {
        self.payloads = Some(1);
    }

    /// Every byte of a payload was compared with what was sent.
    ///
    /// # Errors
    /// If they were not the same.
    pub(crate) fn verified(&mut self, same: bool) -> Result<()> {
        self.verified_all(same, 1)
    }

    /// The same for `count` payloads.
    ///
    /// # Errors
    /// If one of them was not the same.
    pub(crate) fn verified_all(&mut self, same: bool, count: u64) -> Result<()> {
        ensure!(same, "a payload arrived with other bytes than were sent");
        self.verified += count;
        Ok(())
    }
}

/// What the receipts of a round said, counted at next to no cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Receipts([u64; Method::ALL.len()]);

impl Receipts {
    pub(crate) fn add(&mut self, receipt: Receipt) {
        // Methods count from 1.
        if let Some(count) = self.0.get_mut(usize::from(receipt.method().code()) - 1) {
            *count += 1;
        }
    }

    /// How many.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
