//! One payload over a link, again and again, with another fault each time.

use crate::call::Call;
use crate::counts::{Counts, Plain};
use crate::ends::{
    both, check_receipts, hold, receive_one, send_one, Load, Saw, Stage, Wrong, PATIENCE,
};
use crate::plan::{Fault, Plan, Way};
use crate::report::{alone, Report, Watchdog};
use nix::errno::Errno;
use roadrunner_core::testing::NewMemory;
use roadrunner_core::{Method, Transfer, TransferError};
use std::time::Instant;

/// What is sent over which link.
pub struct Hop<'a, L> {
    /// For messages.
    pub name: &'a str,
    /// Opens a link: the end that sends the payload and the end that receives it.
    pub open: &'a (dyn Fn() -> (L, L) + Sync),
    /// A memory for either end.
    pub memory: NewMemory<'a>,
    /// Bytes of the payload; not 50 to 52, which are other payloads'.
    pub len: u64,
    /// Where it lies in its memory.
    pub offset: u64,
    /// Whether it is given away.
    pub given: bool,
    /// How it crosses while nothing fails, as the receiver's receipt says.
    pub method: Method,
    /// Calls that are made for it while nothing fails, at least: one that is missing gets past this crate.
    pub calls: &'a [Call],
}

impl<L> Clone for Hop<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for Hop<'_, L> {}

const ENDS: [&str; 2] = ["sender", "receiver"];

/// The first of each pair of plans is the sender's.
pub(crate) type Plans = [Plan; 2];

impl<L: Transfer + Send> Hop<'_, L> {
    /// Lets every call that either end makes for the payload, and for the end of the link, fail in every way, one at a
    /// time; and then from one on for good.
    ///
    /// # Panics
    /// If a rule of the contract does not hold afterwards.
    pub fn sweep(&self) {
        let _alone = alone();
        let mut bench = Bench::new(self, "faults");
        for stage in [Stage::Payload, Stage::End] {
            let dry = bench.dry(stage);
            for (end, calm) in dry.iter().enumerate() {
                for (call, count) in calm.all_seen() {
                    for nth in 0..count.min(MOST_OF_A_KIND) {
                        for fault in faults(call) {
                            bench.one(
                                stage,
                                end,
                                &format!("{call:?} {nth} {fault}"),
                                fault,
                                || Plan::new().nth(call, nth, fault),
                            );
                            let lasting = matches!(fault, Fault::Errno(errno) if lasts(errno));
                            if lasting || matches!(fault, Fault::Short(_)) {
                                let label = format!("{call:?} from {nth} on {fault}");
                                bench.one(stage, end, &label, fault, || {
                                    Plan::new().from_nth(call, nth, fault)
                                });
                            }
                        }
                    }
                }
            }
        }
    }

    /// Lets either end die after every `step`th byte that it sends or takes in.
    ///
    /// # Panics
    /// If a rule of the contract does not hold afterwards.
    pub fn deaths(&self, step: u64) {
        let _alone = alone();
        let mut bench = Bench::new(self, "deaths");
        let dry = bench.dry(Stage::Payload);
        for (end, calm) in dry.iter().enumerate() {
            for way in [Way::Out, Way::In] {
                let total = calm.moved(way);
                for life in (0..total).step_by(step.max(1) as usize).chain([total]) {
                    // Of what does not cross there is no byte to die at.
                    if total > 0 {
                        bench.death(end, way, life);
                    }
                }
            }
        }
    }

    /// Lets calls of both ends fail at random, and either end die at random.
    ///
    /// # Panics
    /// If a rule of the contract does not hold afterwards.
    pub fn at_random(&self) {
        let _alone = alone();
        let mut bench = Bench::new(self, "random");
        let dry = bench.dry(Stage::Payload);
        let first = crate::report::seed();
        for seed in first..first.saturating_add(crate::report::rounds()) {
            bench.lot(seed, &dry);
        }
    }

    fn load(&self) -> Load<'_> {
        Load {
            len: self.len,
            offset: self.offset,
            given: self.given,
            memory: self.memory,
        }
    }

    fn run(&self, plans: &Plans, stage: Stage) -> Result<[Saw; 2], Wrong> {
        let (sender, receiver) = (self.open)();
        let load = self.load();
        let began = Instant::now();
        let (sent, received) = both(
            ENDS,
            || send_one(sender, load, &plans[0], stage),
            || receive_one(receiver, load, &plans[1], stage),
        )?;
        let saws = [sent, received];
        for (saw, end) in saws.iter().zip(ENDS) {
            for error in saw.errors() {
                hold!(
                    !matches!(error, TransferError::Timeout) && began.elapsed() < PATIENCE,
                    "the {end} saw {error} after {:?}",
                    began.elapsed()
                );
            }
        }
        if stage == Stage::Payload {
            check_receipts([&saws[0], &saws[1]], [&plans[0], &plans[1]], self.len)?;
        }
        Ok(saws)
    }
}

/// Of calls that are made over and over for one payload so many are made to fail.
pub(crate) const MOST_OF_A_KIND: u64 = 12;

/// The ways in which this call is made to fail.
pub(crate) fn faults(call: Call) -> impl Iterator<Item = Fault> {
    let short: &[usize] = if call.can_be_short() {
        &[1, 7, 4097]
    } else {
        &[]
    };
    let errors = call.errors().iter().map(|errno| Fault::Errno(*errno));
    errors.chain(short.iter().map(|bytes| Fault::Short(*bytes)))
}

/// Whether this error may come back as often as one tries.
fn lasts(errno: Errno) -> bool {
    !matches!(errno, Errno::EINTR | Errno::EAGAIN)
}

/// A hop that is repeated, and what the process held when it began.
struct Bench<'h, 'a, L> {
    hop: &'h Hop<'a, L>,
    before: Counts,
    plain: Plain,
    report: Report,
    watchdog: Watchdog,
}

impl<'h, 'a, L: Transfer + Send> Bench<'h, 'a, L> {
    fn new(hop: &'h Hop<'a, L>, what: &str) -> Self {
        assert!(!(50..53).contains(&hop.len), "lengths of other payloads");
        let watchdog = Watchdog::new();
        // What is made once and kept: threads' stacks, the allocator's arenas.
        for _ in 0..3 {
            let plans = Plans::default();
            let ran = hop.run(&plans, Stage::Payload);
            ran.unwrap_or_else(|wrong| panic!("{}, nothing fails: {wrong}", hop.name));
        }
        let before = Counts::now(None);
        Self {
            hop,
            plain: before.plain(),
            before,
            report: Report::new(format!("{}, {what}", hop.name)),
            watchdog,
        }
    }

    /// Nothing fails: which calls are there?
    fn dry(&mut self, stage: Stage) -> Plans {
        let plans = Plans::default();
        let saws = self.run("nothing fails", stage, &|| Plans::default(), Some(&plans));
        for (saw, end) in saws.iter().zip(ENDS) {
            let whole = saw.first.is_ok() && saw.open && saw.end.is_ok();
            assert!(
                whole,
                "{}, nothing fails: the {end} saw {saw:?}",
                self.hop.name
            );
        }
        if stage == Stage::Payload {
            let receipt = saws[1].first.as_ref().expect("it was whole");
            assert_eq!(receipt.method(), self.hop.method, "{}", self.hop.name);
            for call in self.hop.calls {
                assert!(
                    plans[0].seen(*call) + plans[1].seen(*call) > 0,
                    "{}: {call:?} is not made, or gets past the plan",
                    self.hop.name
                );
            }
        }
        plans
    }

    /// One fault at one end.
    fn one(
        &mut self,
        stage: Stage,
        end: usize,
        label: &str,
        fault: Fault,
        plan: impl Fn() -> Plan,
    ) {
        let label = format!("{}, {stage:?}, {label}", ENDS[end]);
        let saws = self.run(&label, stage, &|| at(end, plan()), None);
        let told = self.tell(&saws, end, fault, stage);
        told.unwrap_or_else(|wrong| panic!("{}: {label}: {wrong}; {saws:?}", self.hop.name));
    }

    /// What must be true after a fault at one end, beyond what always is.
    fn tell(&self, saws: &[Saw; 2], end: usize, fault: Fault, stage: Stage) -> Result<(), Wrong> {
        let all_well = saws.iter().all(|saw| saw.end.is_ok());
        if fault.is_no_failure() {
            let first = saws.iter().all(|saw| saw.first.is_ok());
            hold!(first && all_well, "it is no failure, and was taken for one");
            return Ok(());
        }
        if saws[end].open {
            hold!(all_well, "the link said that it goes on, and does not");
            if stage == Stage::Payload && saws[0].first.is_ok() && end == 0 {
                hold!(saws[1].first.is_ok(), "sent, and not received");
            }
            return Ok(());
        }
        self.only_gone(&saws[1 - end])
    }

    /// The other end is there no more, and nothing else is wrong.
    fn only_gone(&self, saw: &Saw) -> Result<(), Wrong> {
        for error in saw.errors() {
            hold!(
                matches!(
                    error,
                    TransferError::PeerClosed
                        | TransferError::Truncated { .. }
                        | TransferError::Broken
                ),
                "an end whose peer is gone saw {error}"
            );
        }
        Ok(())
    }

    fn death(&mut self, end: usize, way: Way, life: u64) {
        let label = format!("{} dies after {life} bytes {way:?}", ENDS[end]);
        let make = || at(end, Plan::new().dies(way, life));
        let plans = make();
        let saws = self.run(&label, Stage::Payload, &make, Some(&plans));
        // Who reads ahead takes now and then more than the payload.
        let died = plans[end].has_died();
        let told = saws.iter().try_for_each(|saw| {
            self.only_gone(saw)?;
            let gone = matches!(
                saw.first,
                Err(TransferError::PeerClosed | TransferError::Truncated { .. })
            );
            hold!(!gone || !saw.open, "open, without a peer");
            hold!(saw.end.is_err() == died, "died: {died}, and was noticed");
            Ok(())
        });
        told.unwrap_or_else(|wrong: Wrong| panic!("{}: {label}: {wrong}; {saws:?}", self.hop.name));
    }

    fn lot(&mut self, seed: u64, dry: &Plans) {
        let label = format!("ROADRUNNER_FAULT_SEED={seed} ROADRUNNER_FAULT_ROUNDS=1");
        let plans = || drawn(seed, dry, SPARED);
        let saws = self.run(&label, Stage::Payload, &plans, None);
        let told = || {
            for (end, saw) in saws.iter().enumerate() {
                hold!(
                    saw.errors()
                        .all(|error| !matches!(error, TransferError::Protocol(_))),
                    "the {} saw what no peer sends",
                    ENDS[end]
                );
            }
            Ok(())
        };
        told()
            .unwrap_or_else(|wrong: Wrong| panic!("{}: {label}: {wrong}; {saws:?}", self.hop.name));
    }

    /// Runs the hop, and counts what is left of it.
    fn run(
        &mut self,
        label: &str,
        stage: Stage,
        make: &dyn Fn() -> Plans,
        plans: Option<&Plans>,
    ) -> [Saw; 2] {
        let name = self.hop.name;
        self.watchdog.expect(&format!("{name}: {label}"));
        let own = make();
        let plans = plans.unwrap_or(&own);
        let ran = self.hop.run(plans, stage);
        let saws = ran.unwrap_or_else(|wrong| {
            let injected = plans.each_ref().map(Plan::injected);
            panic!("{name}: {label}: {wrong}; injected: {injected:?}")
        });
        self.report.add(plans);
        // A range that could not be unmapped is still there.
        let stuck = plans.iter().any(|plan| {
            let injected = plan.injected();
            injected.iter().any(|(call, ..)| *call == Call::Unmap)
        });
        let after = Counts::now(None);
        if stuck {
            self.before.accept_mappings(&after);
        }
        if let Some(difference) = after.difference(&self.before) {
            panic!("{name}: {label}: left behind: {difference}; {saws:?}");
        }
        if !stuck && grown(after.plain(), self.plain) {
            self.repeat(label, stage, make);
        }
        self.plain = Counts::now(None).plain();
        saws
    }

    /// There are more plain mappings than before. The allocator's come once; a leak comes again.
    fn repeat(&self, label: &str, stage: Stage, make: &dyn Fn() -> Plans) {
        const TIMES: usize = 5;
        let mut plain = self.plain;
        let mut told = vec![plain];
        for _ in 0..TIMES {
            let ran = self.hop.run(&make(), stage);
            ran.unwrap_or_else(|wrong| panic!("{}: {label}: {wrong}", self.hop.name));
            let now = Counts::now(None).plain();
            told.push(now);
            if !grown(now, plain) {
                return;
            }
            plain = now;
        }
        panic!(
            "{}: {label}: mappings are left behind: {told:?}",
            self.hop.name
        );
    }
}

/// A hole that cannot be closed ends the process, and a range that cannot be unmapped stays: neither is a leak.
const SPARED: &[Call] = &[Call::MapFixed, Call::Unmap];

fn grown(now: Plain, before: Plain) -> bool {
    now.bytes > before.bytes
}

/// What this seed draws for both ends, where as many bytes cross as in a dry run.
pub(crate) fn drawn(seed: u64, dry: &Plans, spared: &'static [Call]) -> Plans {
    // Every third time one of them dies, and nothing else goes wrong that could end it before.
    if seed % 3 == 0 {
        let end = (seed / 3 % 2) as usize;
        let way = if seed / 6 % 2 == 0 { Way::Out } else { Way::In };
        let total = dry[end].moved(way).max(1);
        let life = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % total;
        return at(end, Plan::new().dies(way, life));
    }
    let one_in = [3, 7, 20, 60][(seed / 2 % 4) as usize];
    [0, 1].map(|end| Plan::new().random(seed * 2 + end, one_in, spared))
}

/// A plan for one end, and none for the other.
pub(crate) fn at(end: usize, plan: Plan) -> Plans {
    let mut plans = Plans::default();
    plans[end] = plan;
    plans
}
