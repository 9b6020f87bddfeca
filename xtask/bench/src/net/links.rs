//! Many links into one process, all served by one thread, beside one link.

use super::pairs::{candidate, Stage, What};
use super::part::Task;
use super::rounds::told;
use super::ways::{deadline, ours, tcp};
use super::{AUTO, TCP};
use crate::bench::{Bench, Experiment};
use crate::orders::rounds;
use crate::payload::Pattern;
use crate::peer::Control;
use crate::results::Ratio;
use crate::uds::sys::slice;
use anyhow::{bail, ensure, Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use roadrunner_core::{Payload, Region, Sink, Transfer};
use roadrunner_splice::{connect, Link, Listener};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

const BYTES: u64 = 65_536;
const MANY: &str = "net-1000";
const ONE: &str = "net-1";
/// The same by hand, for what is the machine's own share of it.
const MANY_BY_HAND: &str = "tcp-1000";
const ONE_BY_HAND: &str = "tcp-1";
/// Of one round; the same number over each link.
const MESSAGES: u64 = 2_000;

const STAGE: Stage<'static> = Stage {
    sender: "net.links.sender",
    receiver: "net.links.receiver",
    hosts: None,
};

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < 1100 {
        bench.skip("net.links.1000", "a process may not have 1,000 files open");
        return Ok(());
    }
    bench.expect(1);
    let candidates = [ONE, MANY, ONE_BY_HAND, MANY_BY_HAND]
        .map(|way| candidate(STAGE, way, BYTES, MESSAGES, What::Round))
        .into();
    let measured = bench.measure(Experiment::new("net.links", BYTES), candidates)?;
    let ratio = measured.paired(ONE, MANY)?;
    bench.ratio(Ratio::at_least("net.links.1000", ratio, 0.8).because(|| {
        let by_hand = measured.paired(ONE_BY_HAND, MANY_BY_HAND).unwrap_or(0.0);
        let told = told(&measured, &[ONE, MANY]);
        let waits = |way| measured.row(way).map_or(0.0, |row| row.waits);
        format!(
            "connections by hand come to {by_hand:.2} here; a message finds the receiver asleep, and has to wake it, {:.2} \
             times over one link and {:.2} times over 1,000; {told}",
            waits(ONE),
            waits(MANY)
        )
    }));
    Ok(())
}

fn count(task: &Task) -> Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(4096)), hard)?;
    let number = task.way.rsplit('-').next().unwrap_or_default();
    Ok(number.parse()?)
}

/// One of many, in the process that receives.
enum Receiving {
    Link(Box<Link>),
    /// By hand: the connection, and what it has brought of a message.
    Tcp(TcpStream, usize),
}

impl Receiving {
    /// Takes in what is there; how a message came, once it is whole.
    fn go_on(&mut self, memory: &mut ours::Placed) -> Result<Option<&'static str>> {
        match self {
            Self::Link(link) => {
                let delivery = link.try_recv(memory)?;
                Ok(delivery.map(|delivery| delivery.receipt().method().name()))
            }
            Self::Tcp(socket, got) => {
                let mut span = Region::new(0, BYTES).span(memory.memory())?;
                let bytes = slice(&mut span);
                *got += match socket.read(&mut bytes[*got..]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                    Ok(0) => bail!("the sender is gone"),
                    read => read?,
                };
                let whole = *got == bytes.len();
                *got %= bytes.len();
                Ok(whole.then_some("write"))
            }
        }
    }
}

impl AsFd for Receiving {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Link(link) => link.as_fd(),
            Self::Tcp(socket, _) => socket.as_fd(),
        }
    }
}

/// Where connections come from.
enum Door {
    Links(Box<Listener>),
    Tcp(TcpListener),
}

impl Door {
    fn open(task: &Task) -> Result<Self> {
        Ok(if task.way.starts_with(TCP) {
            Self::Tcp(tcp::bind(&task.address)?)
        } else {
            let options = ours::options_of(AUTO)?;
            Self::Links(Box::new(Listener::bind(&task.address, options)?))
        })
    }

    fn address(&self) -> Result<String> {
        Ok(match self {
            Self::Links(listener) => listener.address().to_string(),
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
        })
    }

    fn accept(&mut self) -> Result<Receiving> {
        Ok(match self {
            Self::Links(listener) => Receiving::Link(Box::new(listener.accept(deadline())?)),
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept()?;
                tcp::set_up(&socket)?;
                socket.set_nonblocking(true)?;
                Receiving::Tcp(socket, 0)
            }
        })
    }
}

/// The peer `net.links.receiver`.
pub(super) fn receive(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let count = count(&task)?;
    let mut door = Door::open(&task)?;
    control.say(&door.address()?)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut links = Vec::new();
    for place in 0..count {
        let link = door.accept()?;
        epoll.add(
            link.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLIN, place as u64),
        )?;
        links.push(link);
    }
    let mut memory = ours::Placed::new(BYTES)?;
    let pattern = Pattern::new();
    let mut events = vec![EpollEvent::empty(); 64];
    rounds(control, 0, |order, report| {
        let mut left = order.count;
        while left > 0 {
            let ready = epoll.wait(&mut events, EpollTimeout::from(10_000_u16))?;
            ensure!(ready > 0, "nothing came");
            for event in &events[..ready] {
                let link = &mut links[event.data() as usize];
                // One at a time: nobody is kept waiting by a busy neighbour.
                if let Some(method) = link.go_on(&mut memory)? {
                    let span = Region::new(0, BYTES).span(memory.memory())?;
                    ensure!(pattern.check(span, 1), "a message came with other bytes");
                    report.method = method.to_owned();
                    left -= 1;
                }
            }
        }
        report.ended = crate::clock::now();
        Ok(())
    })
    .context("receiving")
}

/// The peer `net.links.sender`.
pub(super) fn send(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let count = count(&task)?;
    let mut memory = ours::Placed::new(BYTES)?;
    let region = Region::new(0, BYTES);
    Pattern::new().fill(region.span(memory.memory())?, 1);
    if task.way.starts_with(TCP) {
        return send_by_hand(control, &task, count, &mut memory);
    }
    let options = ours::options_of(AUTO)?;
    let mut links = Vec::new();
    for _ in 0..count {
        links.push(connect(&task.address, "links", &options, deadline())?);
    }
    rounds(control, 0, |order, report| {
        report.began = crate::clock::now();
        for number in 0..order.count as usize {
            let payload = Payload::kept(memory.memory(), region)?;
            links[number % count].send(payload, deadline())?;
        }
        Ok(())
    })
    .context("sending")
}

fn send_by_hand(
    control: &mut Control,
    task: &Task,
    count: usize,
    memory: &mut ours::Placed,
) -> Result<()> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(tcp::dial(&task.address)?);
    }
    rounds(control, 0, |order, report| {
        report.began = crate::clock::now();
        let mut span = Region::new(0, BYTES).span(memory.memory())?;
        let bytes = slice(&mut span);
        for number in 0..order.count as usize {
            sockets[number % count].write_all(bytes)?;
        }
        Ok(())
    })
    .context("sending by hand")
}
