//! Sessions whose connections are cut, behind any byte and once after the other: each payload comes once, in order, as it
//! was sent.

use crate::progress;
use anyhow::{anyhow, bail, ensure, Context, Result};
use fastrand::Rng;
use nix::sys::socket::{setsockopt, sockopt};
use roadrunner_core::testing::{pattern, receive, send};
use roadrunner_core::{Deadline, Transfer, TransferError};
use roadrunner_faults::Counts;
use roadrunner_splice::{Options, Secret, Session, SessionListener};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// No round takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until so many bytes have crossed each way the session may not be known at the other end: an attempt that is cut before
/// is one that its caller hears of, and no cut connection of a session.
const OPENING: u64 = 4096;

/// One session, as it is drawn from one number.
#[derive(Debug)]
struct Round {
    seed: u64,
    /// Bytes of the payloads there, each of which is answered by one of as many.
    lens: Vec<u64>,
    keep: u64,
    checksum: bool,
    cuts: Vec<Cut>,
}

/// The end of a connection.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Of those that come from the side that accepted, or of those that go there.
    back: bool,
    /// Behind so many bytes.
    at: u64,
    /// By a reset, and not in order.
    reset: bool,
}

impl Round {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        // The first one carries both sides over the opening.
        let count = random.usize(1..8);
        let lens: Vec<_> = std::iter::once(2 * OPENING)
            .chain((0..count).map(|_| {
                let most = 1 << random.u32(0..21);
                random.u64(0..most)
            }))
            .collect();
        let all: u64 = lens.iter().sum();
        let cuts = (0..random.usize(1..9))
            .map(|number| {
                let least = if number == 0 { OPENING } else { 0 };
                let most = if random.bool() {
                    least + 2000
                } else {
                    least + all
                };
                Cut {
                    back: random.bool(),
                    at: random.u64(least..most),
                    reset: random.bool(),
                }
            })
            .collect();
        Self {
            seed,
            lens,
            keep: [0, 50_000, 16 << 20][random.usize(0..3)],
            checksum: random.bool(),
            cuts,
        }
    }

    fn payload(&self, number: usize, answer: bool) -> Vec<u8> {
        let part = 2 * number as u64 + u64::from(answer);
        let seed = self.seed.wrapping_mul(64).wrapping_add(part);
        pattern(self.lens[number], seed % (1 << 40))
    }

    fn options(&self) -> Result<Options> {
        Ok(Options::default()
            .secret(Secret::from_bytes(b"known to both who are here")?)
            .keep(self.keep)
            .checksum(self.checksum))
    }
}

pub(crate) fn soak(rounds: u64, seed: u64) -> Result<()> {
    let bar = progress::bar("session", rounds);
    let began = Instant::now();
    let (mut payloads, mut cuts) = (0, 0);
    let before = Counts::now(None);
    for number in 0..rounds {
        let round = Round::new(seed.wrapping_add(number));
        cuts += play(&round)
            .and_then(|cuts| match Counts::now(None).difference(&before) {
                Some(difference) => bail!("left behind: {difference}"),
                None => Ok(cuts),
            })
            .with_context(|| {
                let seed = round.seed;
                format!(
                    "again: cargo xtask soak --only session --seed {seed} --rounds 1: {round:?}"
                )
            })?;
        payloads += 2 * round.lens.len();
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!(
        "session: {rounds} sessions, {payloads} payloads once, {cuts} connections cut ({:.1} s)",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// One session; how many of its connections were cut.
fn play(round: &Round) -> Result<u64> {
    let options = round.options()?;
    let listener = SessionListener::bind("127.0.0.1:0", options.clone())?;
    let cable = TcpListener::bind("127.0.0.1:0")?;
    let address = cable.local_addr()?;
    let (done, cut) = (AtomicBool::new(false), AtomicU64::new(0));
    let deadline = Deadline::after(PATIENCE);
    thread::scope(|scope| {
        scope.spawn(|| carry(&cable, listener.address(), &round.cuts, &done, &cut));
        let answering = scope.spawn(|| answer(round, &listener, deadline));
        let asked = ask(round, &address.to_string(), &options, deadline);
        let answered = answering.join();
        done.store(true, Ordering::SeqCst);
        // Wakes who accepts.
        drop(TcpStream::connect(address));
        asked.context("the side that connects")?;
        let answered = answered.map_err(|_| anyhow!("a panic"))?;
        answered.context("the side that accepts")
    })?;
    Ok(cut.into_inner())
}

fn ask(round: &Round, address: &str, options: &Options, deadline: Deadline) -> Result<()> {
    let mut session = Session::connect(address, "soak", options, deadline)?;
    for number in 0..round.lens.len() {
        send(&mut session, &round.payload(number, false), deadline).context("send")?;
        let (answer, _) = receive(&mut session).context("receive")?;
        ensure!(answer == round.payload(number, true), "answer {number}");
    }
    session.close(deadline).context("close")?;
    let end = receive(&mut session);
    ensure!(
        matches!(end, Err(TransferError::Closed)),
        "the end: {end:?}"
    );
    Ok(())
}

fn answer(round: &Round, listener: &SessionListener, deadline: Deadline) -> Result<()> {
    let mut session = listener.accept(deadline)?;
    for number in 0..round.lens.len() {
        let (payload, _) = receive(&mut session).context("receive")?;
        ensure!(payload == round.payload(number, false), "payload {number}");
        send(&mut session, &round.payload(number, true), deadline).context("send")?;
    }
    let end = receive(&mut session);
    ensure!(
        matches!(end, Err(TransferError::Closed)),
        "the end: {end:?}"
    );
    // Not before: the other side leaves when it has heard it.
    session.close(deadline).context("close")
}

/// Carries connections to the target, and cuts the first ones as is said.
fn carry(
    cable: &TcpListener,
    target: SocketAddr,
    cuts: &[Cut],
    done: &AtomicBool,
    count: &AtomicU64,
) {
    thread::scope(|scope| {
        let mut open = Vec::new();
        for (number, near) in cable.incoming().enumerate() {
            let (Ok(near), false) = (near, done.load(Ordering::SeqCst)) else {
                break;
            };
            let Ok(far) = TcpStream::connect(target) else {
                continue;
            };
            let cut = cuts.get(number).copied();
            let ends = [near, far].map(std::sync::Arc::new);
            for back in [false, true] {
                let [near, far] = ends.clone();
                let (from, to) = if back { (far, near) } else { (near, far) };
                let cut = cut.filter(|cut| cut.back == back);
                scope.spawn(move || pump(&from, &to, cut, count));
            }
            open.push(ends.map(|end| std::sync::Arc::downgrade(&end)));
        }
        // Both sides have all: whoever still holds a connection waits for nothing.
        for end in open.iter().flatten().filter_map(std::sync::Weak::upgrade) {
            let _ = end.shutdown(Shutdown::Both);
        }
    });
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, cut: Option<Cut>, count: &AtomicU64) {
    let mut bytes = [0; 16 << 10];
    let mut left = cut.map_or(u64::MAX, |cut| cut.at);
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let passes = (read as u64).min(left);
        left -= passes;
        if to.write_all(&bytes[..passes as usize]).is_err() {
            break;
        }
        if passes < read as u64 {
            count.fetch_add(1, Ordering::SeqCst);
            let reset = cut.is_some_and(|cut| cut.reset);
            for end in [from, to] {
                if reset {
                    // Instead of an end in order (SO_LINGER, socket(7)): what is under way is lost.
                    let now = nix::libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    let _ = setsockopt(&end, sockopt::Linger, &now);
                }
                let _ = end.shutdown(Shutdown::Both);
            }
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
