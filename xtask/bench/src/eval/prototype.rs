//! The ways of the published prototype: payloads leave and enter memories through the SDK, by way of a `Vec`.

use super::hop::{Arrival, Departure, Receiving};
use super::plain::Plain;
use crate::measure::{Candidate, Watch};
use crate::peer::{Control, Peer};
use crate::usage::Watched;
use anyhow::{bail, Context, Result};
use nix::fcntl::{splice, vmsplice, SpliceFFlags};
use nix::unistd::pipe;
use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The prototype moves so many bytes at a time through its pipe.
const CHUNK: usize = 64 << 10;

/// Within one process: `memory.read`, `memory.write`.
pub(super) fn user(bytes: u64, module: &Path) -> Candidate<'_> {
    Candidate::new("prototype-user", "prototype", move || {
        let (mut from, mut to) = (Plain::load(module)?, Plain::load(module)?);
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            base += 1;
            let mut departure = Departure::begin();
            let place = from.produce(bytes, base)?;
            departure.produced();
            let payload = from.read(place, bytes)?;
            departure.sent();
            let mut receiving = Receiving::begin();
            to.write(payload)?;
            receiving.arrived(to.placed);
            let sum = to.sum()?;
            departure.tell(&receiving.consumed(sum, "get_data+set_data"), watch);
            let same = sum == sequence::expected(bytes, base);
            watch.verified(same)
        })
    })
}

/// Between two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A UNIX stream, a connection for each payload, whose end is the payload's.
    Kernel,
    /// `vmsplice` and `splice` of a copy over TCP, likewise.
    Network,
}

pub(super) fn between(way: Way, bytes: u64, module: &Path) -> Candidate<'_> {
    let name = match way {
        Way::Kernel => "prototype-kernel",
        Way::Network => "prototype-network",
    };
    Candidate::new(name, "prototype", move || {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("socket");
        let mut peer = Peer::start("eval.prototype")?;
        peer.control
            .say(&(way == Way::Kernel, module, &socket, bytes))?;
        let port: u16 = peer.control.hear()?;
        let mut from = Plain::load(module)?;
        let mut watched = Watched::new([peer.id()]);
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            let _kept = &directory;
            base += 1;
            watched.begin()?;
            let mut departure = Departure::begin();
            let place = from.produce(bytes, base)?;
            departure.produced();
            let payload = from.read(place, bytes)?;
            match way {
                Way::Kernel => {
                    let mut stream = UnixStream::connect(&socket)?;
                    stream.write_all(&payload)?;
                    stream.shutdown(Shutdown::Write)?;
                }
                Way::Network => spliced(&payload, &TcpStream::connect(("127.0.0.1", port))?)?,
            }
            departure.sent();
            let arrival: Arrival = peer.control.hear()?;
            departure.tell(&arrival, watch);
            watched.end(watch)?;
            watch.verified(arrival.sum == sequence::expected(bytes, base))
        })
    })
}

/// Sends a copy through a pipe. It is not written to again before all of it has been answered.
fn spliced(payload: &[u8], stream: &TcpStream) -> Result<()> {
    let (from, to) = pipe()?;
    for chunk in payload.chunks(CHUNK) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let mut left = vmsplice(to.as_fd(), &[IoSlice::new(rest)], SpliceFFlags::empty())?;
            rest = &rest[left..];
            while left > 0 {
                left -= splice(
                    from.as_fd(),
                    None,
                    stream.as_fd(),
                    None,
                    left,
                    SpliceFFlags::empty(),
                )?;
            }
        }
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// The peer that receives: reads to the end, writes into its function's memory.
pub(super) fn receiver(control: &mut Control) -> Result<()> {
    let (kernel, module, socket, bytes): (bool, PathBuf, PathBuf, u64) = control.hear()?;
    let mut function = Plain::load(&module)?;
    let mut accept: Box<dyn FnMut() -> Result<Box<dyn Read>>> = if kernel {
        let listener = UnixListener::bind(&socket).context("listening")?;
        control.say(&0)?;
        Box::new(move || Ok(Box::new(listener.accept()?.0)))
    } else {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        control.say(&listener.local_addr()?.port())?;
        Box::new(move || Ok(Box::new(listener.accept()?.0)))
    };
    loop {
        let mut stream = accept()?;
        let mut receiving = Receiving::begin();
        let mut payload = Vec::new();
        stream.read_to_end(&mut payload)?;
        if payload.len() as u64 != bytes {
            bail!("{} bytes came", payload.len());
        }
        function.write(payload)?;
        receiving.arrived(function.placed);
        let sum = function.sum()?;
        let method = if kernel {
            "write+set_data"
        } else {
            "splice+set_data"
        };
        control.say(&receiving.consumed(sum, method))?;
    }
}
