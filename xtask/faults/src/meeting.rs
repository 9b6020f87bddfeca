//! Two who open a link with each other, again and again, with another fault each time.

use crate::call::Call;
use crate::counts::Counts;
use crate::ends::{both, hold, soon, Wrong, PATIENCE};
use crate::hop::{at, drawn, faults, Plans, MOST_OF_A_KIND};
use crate::plan::{Fault, Plan, Way};
use crate::report::{alone, rounds, seed, Report, Watchdog};
use nix::errno::Errno;
use roadrunner_core::{Deadline, HostMemory, Payload, Transfer, TransferError};
use std::time::Instant;

/// How one end opens a link.
type Open<'a, P, L> = &'a (dyn Fn(&P, Deadline) -> Result<L, TransferError> + Sync);

/// Who meets whom, at a place `P`. After an error either side tries again: the one that accepts has to go on with whoever
/// comes next.
pub struct Meeting<'a, P, L> {
    /// For messages.
    pub name: &'a str,
    /// Makes the listener that accepts all peers, and what it is found by.
    pub listen: &'a dyn Fn() -> P,
    /// Connects to it.
    pub connect: Open<'a, P, L>,
    /// Accepts the next peer.
    pub accept: Open<'a, P, L>,
    /// Calls that are made for it while nothing fails, at least: one that is missing gets past this crate.
    pub calls: &'a [Call],
}

const ENDS: [&str; 2] = ["side that connects", "side that accepts"];
/// After one fault nobody needs more attempts.
const ATTEMPTS: usize = 5;
/// What either says over a link, to see that there is one.
const QUESTION: &[u8] = b"is anybody there?";
const ANSWER: &[u8] = b"yes";

/// What went wrong at one end, until the two had met.
type Errors = Vec<TransferError>;

impl<P: Sync, L: Transfer> Meeting<'_, P, L> {
    /// Lets every call that either end makes until the link is open fail in every way, one at a time.
    ///
    /// # Panics
    /// If the two do not meet afterwards, if one is not told what was wrong, or if something is left behind.
    pub fn sweep(&self) {
        let _alone = alone();
        let mut bench = Bench::new(self, "faults");
        let dry = bench.dry();
        for (end, calm) in dry.iter().enumerate() {
            for (call, count) in calm.all_seen() {
                for nth in 0..count.min(MOST_OF_A_KIND) {
                    for fault in faults(call).filter(|fault| plays(call, *fault)) {
                        bench.one(end, call, nth, fault);
                    }
                }
            }
        }
    }

    /// Lets either end die after every `step`th byte that it says or hears until the link is open.
    ///
    /// # Panics
    /// As [`sweep`](Self::sweep).
    pub fn deaths(&self, step: u64) {
        let _alone = alone();
        let mut bench = Bench::new(self, "deaths");
        let dry = bench.dry();
        for (end, calm) in dry.iter().enumerate() {
            for way in [Way::Out, Way::In] {
                let total = calm.moved(way);
                for life in (0..total).step_by(step.max(1) as usize).chain([total]) {
                    bench.death(end, way, life);
                }
            }
        }
    }

    /// Lets calls of both ends fail at random, and either end die at random.
    ///
    /// # Panics
    /// As [`sweep`](Self::sweep).
    pub fn at_random(&self) {
        let _alone = alone();
        let mut bench = Bench::new(self, "random");
        let dry = bench.dry();
        let first = seed();
        for seed in first..first.saturating_add(rounds()) {
            bench.lot(seed, &dry);
        }
    }

    fn run(&self, place: &P, plans: &Plans) -> Result<[Errors; 2], Wrong> {
        let Self {
            connect, accept, ..
        } = self;
        let began = Instant::now();
        let (connecting, accepting) = both(
            ENDS,
            || meet(|| connect(place, soon()), &plans[0], ask),
            || meet(|| accept(place, soon()), &plans[1], answer),
        )?;
        hold!(
            began.elapsed() < PATIENCE,
            "they met after {:?}",
            began.elapsed()
        );
        Ok([connecting, accepting])
    }
}

/// Opens a link, the first time under the plan, until something has been said over one.
fn meet<L: Transfer>(
    open: impl Fn() -> Result<L, TransferError>,
    plan: &Plan,
    speak: impl Fn(&mut L) -> Result<(), TransferError>,
) -> Result<Errors, Wrong> {
    let mut errors = Errors::new();
    while errors.len() < ATTEMPTS {
        let opened = if errors.is_empty() {
            plan.during(&open)
        } else {
            open()
        };
        match opened.and_then(|mut link| speak(&mut link)) {
            Ok(()) => return Ok(errors),
            Err(TransferError::Timeout) => return Err(format!("waited in vain after {errors:?}")),
            Err(error) => errors.push(error),
        }
    }
    Err(format!("no link: {errors:?}"))
}

fn ask<L: Transfer>(link: &mut L) -> Result<(), TransferError> {
    say(link, QUESTION)?;
    hear(link, ANSWER)?;
    link.close(soon())
}

/// Once the other side has ended the link, it has the answer.
fn answer<L: Transfer>(link: &mut L) -> Result<(), TransferError> {
    hear(link, QUESTION)?;
    say(link, ANSWER)?;
    match link.recv(&mut HostMemory::new(), soon()) {
        Err(TransferError::Closed) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(TransferError::Sink("a payload after the end".into())),
    }
}

fn say<L: Transfer>(link: &mut L, words: &[u8]) -> Result<(), TransferError> {
    let mut memory = HostMemory::from(words);
    let whole = memory.region();
    link.send(Payload::kept(&mut memory, whole)?, soon())
        .map(drop)
}

fn hear<L: Transfer>(link: &mut L, words: &[u8]) -> Result<(), TransferError> {
    let mut memory = HostMemory::new();
    let delivery = link.recv(&mut memory, soon())?;
    if memory.bytes(delivery.region()) == Some(words) {
        Ok(())
    } else {
        Err(TransferError::Sink("something else was said".into()))
    }
}

/// A connection that a signal interrupts is made all the same (connect(2)), and not by this crate.
const SPARED: &[Call] = &[Call::Connect];

fn plays(call: Call, fault: Fault) -> bool {
    (call, fault) != (Call::Connect, Fault::Errno(Errno::EINTR))
}

/// A meeting that is repeated, and what the process held when it began.
struct Bench<'m, 'a, P, L> {
    meeting: &'m Meeting<'a, P, L>,
    place: P,
    before: Counts,
    report: Report,
    watchdog: Watchdog,
}

impl<'m, 'a, P: Sync, L: Transfer> Bench<'m, 'a, P, L> {
    fn new(meeting: &'m Meeting<'a, P, L>, what: &str) -> Self {
        let watchdog = Watchdog::new();
        let place = (meeting.listen)();
        let ran = meeting.run(&place, &Plans::default());
        ran.unwrap_or_else(|wrong| panic!("{}, nothing fails: {wrong}", meeting.name));
        Self {
            meeting,
            place,
            before: Counts::now(None),
            report: Report::new(format!("{}, {what}", meeting.name)),
            watchdog,
        }
    }

    /// Nothing fails: which calls are there?
    fn dry(&mut self) -> Plans {
        let plans = Plans::default();
        let errors = self.run("nothing fails", &plans);
        let name = self.meeting.name;
        assert!(
            errors.iter().all(Vec::is_empty),
            "{name}, nothing fails: {errors:?}"
        );
        for call in self.meeting.calls {
            assert!(
                plans.iter().any(|plan| plan.seen(*call) > 0),
                "{name}: {call:?} is not made, or gets past the plan"
            );
        }
        plans
    }

    /// One fault at one end.
    fn one(&mut self, end: usize, call: Call, nth: u64, fault: Fault) {
        let label = format!("{}, {call:?} {nth} {fault}", ENDS[end]);
        let errors = self.run(&label, &at(end, Plan::new().nth(call, nth, fault)));
        self.hold_to(&label, &errors, |errors| {
            let [own, others] = [&errors[end], &errors[1 - end]];
            if own.is_empty() && others.is_empty() {
                return Ok(());
            }
            hold!(
                !fault.is_no_failure(),
                "it is no failure, and was taken for one"
            );
            only_gone(others)?;
            // The words of the standard library for an error of the system.
            let number = match fault {
                Fault::Errno(errno) => format!("(os error {})", errno as i32),
                Fault::Short(_) => return Ok(()),
            };
            let says_so = |error: &TransferError| error.to_string().contains(&number);
            hold!(own.iter().any(says_so), "its own failure is not told");
            Ok(())
        });
    }

    fn death(&mut self, end: usize, way: Way, life: u64) {
        let label = format!("{} dies after {life} bytes {way:?}", ENDS[end]);
        let plans = at(end, Plan::new().dies(way, life));
        let errors = self.run(&label, &plans);
        self.hold_to(&label, &errors, |errors| {
            // A signature is now and then a byte shorter.
            let died = plans[end].has_died();
            hold!(
                died != errors[0].is_empty(),
                "died: {died}, which is not what the {} saw",
                ENDS[0]
            );
            errors.iter().try_for_each(only_gone)
        });
    }

    fn lot(&mut self, seed: u64, dry: &Plans) {
        let label = format!("ROADRUNNER_FAULT_SEED={seed} ROADRUNNER_FAULT_ROUNDS=1");
        let errors = self.run(&label, &drawn(seed, dry, SPARED));
        self.hold_to(&label, &errors, |errors| {
            let strange = |error: &TransferError| matches!(error, TransferError::Protocol(_));
            hold!(
                !errors.iter().flatten().any(strange),
                "one of them heard what no peer says"
            );
            Ok(())
        });
    }

    fn hold_to(
        &self,
        label: &str,
        errors: &[Errors; 2],
        rule: impl FnOnce(&[Errors; 2]) -> Result<(), Wrong>,
    ) {
        let name = self.meeting.name;
        rule(errors).unwrap_or_else(|wrong| panic!("{name}: {label}: {wrong}; {errors:?}"));
    }

    /// Lets them meet, and counts what is left of it.
    fn run(&mut self, label: &str, plans: &Plans) -> [Errors; 2] {
        let name = self.meeting.name;
        self.watchdog.expect(&format!("{name}: {label}"));
        let errors = self
            .meeting
            .run(&self.place, plans)
            .unwrap_or_else(|wrong| {
                let injected = plans.each_ref().map(Plan::injected);
                panic!("{name}: {label}: {wrong}; injected: {injected:?}")
            });
        self.report.add(plans);
        let late = soon();
        while let Some(difference) = Counts::now(None).difference(&self.before) {
            assert!(
                !late.has_passed(),
                "{name}: {label}: left behind: {difference}; {errors:?}"
            );
            // The listener has yet to hear that somebody who came before is gone.
            if let Ok(_link) = (self.meeting.accept)(&self.place, Deadline::now()) {
                panic!("{name}: {label}: a link with nobody; {errors:?}");
            }
        }
        errors
    }
}

/// Nothing is wrong with the other side but that it is gone, or sends one away.
fn only_gone(errors: &Errors) -> Result<(), Wrong> {
    for error in errors {
        hold!(
            matches!(
                error,
                TransferError::PeerClosed
                    | TransferError::Truncated { .. }
                    | TransferError::Refused(_)
            ),
            "an end whose peer is gone saw {error}"
        );
    }
    Ok(())
}
