//! Whatever system call fails beneath a function: what its imports return is true, its memory is whole, and nothing is left.

use crate::support::puppet::{By, Do, Puppet};
use crate::support::*;
use nix::errno::Errno;
use roadrunner_core::{Transfer, TransferError};
use roadrunner_faults::{Call, Counts, Fault, Plan};
use roadrunner_mem::{link, Link, Policy};
use roadrunner_wasmedge::function::{Function, FunctionOptions};
use std::thread;

const MIB: u32 = 1 << 20;
const SLOT: u32 = 4 * MIB;
const PAGES: u32 = 6 * MIB;
const LEN: u32 = MIB;
/// Fewer than a page, which are copied into the link's queue.
const FEW: u32 = 1000;
/// What payloads are filled with.
const BY_SLOT: u8 = 1;
const BY_PAGES: u8 = 2;
const INLINE: u8 = 3;
/// Of calls that are made over and over so many are made to fail.
const MOST_OF_A_KIND: u64 = 12;

/// Every import that reaches the kernel: a slot is bound and handed over, pages change hands, a few bytes are copied, and
/// the slot is asked for again.
const SENDER: [Do; 9] = [
    Do::Bind(SLOT, LEN),
    Do::Fill(SLOT, LEN, BY_SLOT),
    Do::Send(SLOT, LEN, true),
    Do::Fill(PAGES, LEN, BY_PAGES),
    Do::Send(PAGES, LEN, true),
    Do::Fill(PAGES, FEW, INLINE),
    Do::Send(PAGES, FEW, false),
    Do::Release(SLOT),
    Do::Loan(LEN),
];
const SENDS: [(usize, u8, u32); 3] = [(2, BY_SLOT, LEN), (4, BY_PAGES, LEN), (6, INLINE, FEW)];

/// What a run came to.
#[derive(Debug)]
struct Told {
    /// What was said to be sent.
    sent: Vec<u8>,
    /// Whether the link could be used to the end, as it said itself.
    goes_on: bool,
    arrived: Vec<u8>,
    /// Why receiving failed.
    lost: Vec<String>,
}

fn policy() -> Policy {
    let mut policy = Policy::default();
    policy.exchange = 64 << 10;
    policy
}

fn is_whole(puppet: &mut Puppet) {
    // Everything but where the commands are and what they came to.
    let (from, len) = (MIB, 7 * MIB);
    let seen = puppet.act(&[Do::Fill(from, len, 9), Do::Grow(1), Do::Count(from, len, 9)]);
    assert_eq!(seen[2], len as i32, "its memory is not its own any more");
}

/// One function under the first plan sends to one under the second.
fn play(plans: &[Plan; 2]) -> Told {
    let (mut here, mut there) = link(policy());
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&mut there, &plans[1]));
        let mut from = Puppet::new();
        let mut by = By::new(&mut here);
        let acted = plans[0].during(|| from.try_act(&SENDER, &mut by));
        let results = acted.expect("an import that fails returns a code");
        for (result, command) in results.iter().zip(SENDER) {
            let right = match command {
                Do::Loan(_) => [0, SLOT as i32].contains(result),
                Do::Release(_) => [0, 1, -6].contains(result),
                _ => (-7..=0).contains(result),
            };
            assert!(right, "{command:?} returned {result}");
        }
        let sent = SENDS.iter().filter(|(at, ..)| results[*at] == 0);
        let mut sent: Vec<_> = sent.map(|(_, byte, _)| *byte).collect();
        let mut goes_on = here.is_open();
        if goes_on {
            let more = [Do::Fill(PAGES, FEW, INLINE), Do::Send(PAGES, FEW, false)];
            let results = from.try_act(&more, &mut By::new(&mut here));
            goes_on = results.expect("a code")[1] == 0;
            sent.push(INLINE);
        }
        drop(here);
        is_whole(&mut from);
        let (arrived, lost) = receiver.join().expect("no panic");
        Told {
            sent,
            goes_on,
            arrived,
            lost,
        }
    })
}

/// Receives to the end of the link. A payload is whole and by itself.
fn receive(link: &mut Link, plan: &Plan) -> (Vec<u8>, Vec<String>) {
    let mut to = Puppet::new();
    let (mut arrived, mut lost) = (Vec::new(), Vec::new());
    loop {
        match plan.during(|| to.receive(link, soon())) {
            Ok(delivery) => {
                let region = delivery.region();
                let bytes = to.bytes(region);
                let (_, byte, len) = SENDS
                    .into_iter()
                    .find(|(_, byte, _)| *byte == bytes[0])
                    .expect("something that was sent");
                assert!(bytes == vec![byte; len as usize], "{byte} is not whole");
                arrived.push(byte);
                // Reading is no reason to fail, and giving back none to trap.
                plan.during(|| to.free(region)).expect("given back");
            }
            Err(TransferError::Closed | TransferError::PeerClosed) => break,
            Err(error) => {
                lost.push(error.to_string());
                if !link.is_open() {
                    break;
                }
            }
        }
    }
    is_whole(&mut to);
    (arrived, lost)
}

/// How it fails, and whether from then on.
fn faults(call: Call) -> impl Iterator<Item = (Fault, bool)> {
    let once = call.errors().iter().map(|errno| (*errno, false));
    let lasting = call.errors().iter().map(|errno| (*errno, true));
    let lasts = |errno: Errno| !matches!(errno, Errno::EINTR | Errno::EAGAIN);
    once.chain(lasting.filter(move |(errno, _)| lasts(*errno)))
        .map(|(errno, lasting)| (Fault::Errno(errno), lasting))
}

/// What is counted is the whole process's: each test has one of its own.
fn by_itself(test: &str, run: impl FnOnce()) {
    match alone(test) {
        None => run(),
        Some(output) => {
            print!("{}", String::from_utf8_lossy(&output.stdout));
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{talk}");
        }
    }
}

/// Runs once for each way in which one of the calls that were made under `calm` fails, once or from then on. Descriptors,
/// mappings and children are then as before; but for what these calls leave mapped.
fn each_fault(calm: &Plan, who: &str, but: &[Call], mut run: impl FnMut(&str, Plan)) {
    let before = Counts::now(None);
    let mut plain = before.plain().bytes;
    let mut runs = 0;
    for (call, count) in calm.all_seen() {
        for nth in 0..count.min(MOST_OF_A_KIND) {
            for (fault, lasting) in faults(call) {
                let since = if lasting { "from then on" } else { "once" };
                let label = format!("{who}, {call:?} {nth}, {since}: {fault}");
                let plan = || match lasting {
                    false => Plan::new().nth(call, nth, fault),
                    true => Plan::new().from_nth(call, nth, fault),
                };
                // What the allocator takes more of it takes once; a leak comes again.
                let grows = (0..5).all(|_| {
                    run(&label, plan());
                    runs += 1;
                    let now = Counts::now(None);
                    assert_eq!(now.difference(&before), None, "{label}: left behind");
                    let grown = now.plain().bytes > plain;
                    plain = now.plain().bytes;
                    grown
                });
                assert!(
                    !grows || but.contains(&call),
                    "{label}: {plain} bytes are mapped, more each time"
                );
            }
        }
    }
    println!("{who}: {runs} runs with {:?}", calm.all_seen());
}

#[test]
fn every_call_fails_beneath_the_imports() {
    by_itself(
        "faults::every_call_fails_beneath_the_imports",
        beneath_the_imports,
    );
}

fn beneath_the_imports() {
    let calm = <[Plan; 2]>::default();
    for _ in 0..3 {
        play(&Default::default());
    }
    let all = vec![BY_SLOT, BY_PAGES, INLINE, INLINE];
    let told = play(&calm);
    assert_eq!((&told.sent, &told.arrived), (&all, &all), "{:?}", told.lost);
    // Otherwise they would get past the plan, libwasmedge or not.
    for call in [Call::Memfd, Call::Map, Call::MapFixed, Call::Remap] {
        assert!(calm[0].seen(call) > 0, "{call:?}: {:?}", calm[0].all_seen());
    }
    assert!(calm[1].seen(Call::Remap) > 0, "{:?}", calm[1].all_seen());
    for (end, who) in ["sender", "receiver"].into_iter().enumerate() {
        // A range that could not be unmapped is still there.
        each_fault(&calm[end], who, &[Call::Unmap], |label, plan| {
            let mut plans = <[Plan; 2]>::default();
            plans[end] = plan;
            let told = play(&plans);
            if end == 0 {
                assert_eq!(told.sent, told.arrived, "{label}: {told:?}");
                assert!(told.goes_on, "{label}: {told:?}");
            }
            let mut sent = told.sent.iter();
            let in_order = told.arrived.iter().all(|byte| sent.any(|one| one == byte));
            assert!(in_order, "{label}: {told:?}");
        });
    }
}

#[test]
fn every_call_fails_while_a_function_is_made() {
    by_itself(
        "faults::every_call_fails_while_a_function_is_made",
        while_a_function_is_made,
    );
}

fn while_a_function_is_made() {
    let module = module(&handler(ECHO));
    let make = || Function::new(&module, FunctionOptions::new("test"));
    for _ in 0..3 {
        make().expect("a function");
    }
    let calm = Plan::new();
    calm.during(make).expect("a function");
    let mut refused = 0;
    // WasmEdge does not give back addresses that it has reserved and can map nothing at (lib/system/allocator.cpp).
    let wasmedges = [Call::MapFixed, Call::Unmap];
    each_fault(&calm, "instance", &wasmedges, |label, plan| {
        match plan.during(make) {
            Ok(mut function) => {
                let echo = call(&mut function, b"still there");
                assert!(
                    matches!(&echo, Ok(Some(echo)) if echo == b"still there"),
                    "{label}: {echo:?}"
                );
            }
            Err(error) => {
                assert!(error.to_string().contains("`test`"), "{label}: {error}");
                refused += 1;
            }
        }
    });
    println!("{refused} times there was no function");
}
