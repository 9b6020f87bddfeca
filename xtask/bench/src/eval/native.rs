//! Two native processes and a stream between them, tuned by hand: what is possible without WebAssembly.

use super::hop::{Arrival, Departure};
use crate::measure::{Candidate, Watch};
use crate::peer::{Control, Peer};
use crate::uds::clock;
use crate::usage::Watched;
use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// What a socket is asked to hold.
const BUFFER: usize = 1 << 20;

/// The stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Unix,
    Tcp,
}

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

pub(super) fn candidate<'a>(stream: Stream, bytes: u64) -> Candidate<'a> {
    let name = match stream {
        Stream::Unix => "native-unix",
        Stream::Tcp => "native-tcp",
    };
    Candidate::new(name, "native", move || {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("socket");
        let mut peer = Peer::start("eval.native")?;
        peer.control
            .say(&(stream == Stream::Unix, &socket, bytes))?;
        let port: u16 = peer.control.hear()?;
        let mut link: Box<dyn Both> = match stream {
            Stream::Unix => Box::new(large(UnixStream::connect(&socket)?)?),
            Stream::Tcp => Box::new(unpaced(TcpStream::connect(("127.0.0.1", port))?)?),
        };
        let mut payload = vec![0; usize::try_from(bytes)?];
        let mut watched = Watched::new([peer.id()]);
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            let _kept = &directory;
            base += 1;
            watched.begin()?;
            let mut departure = Departure::now();
            sequence::fill(&mut payload, base);
            departure.produced();
            link.write_all(&payload)?;
            let arrival: Arrival = peer.control.hear()?;
            departure.tell(arrival, watch);
            watched.end(watch)?;
            watch.delivered_by(name, 1);
            watch.verified(arrival.sum == sequence::expected(bytes, base))
        })
    })
}

fn large<S: AsFd>(stream: S) -> Result<S> {
    setsockopt(&stream, sockopt::SndBuf, &BUFFER)?;
    setsockopt(&stream, sockopt::RcvBuf, &BUFFER)?;
    Ok(stream)
}

/// One that does not pace within a host, as BBR does.
fn unpaced(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    let set = |name: &str| setsockopt(&stream, sockopt::TcpCongestion, &OsString::from(name));
    // Where there is neither, the system's own choice stays.
    let _ = set("cubic").or_else(|_| set("reno"));
    Ok(stream)
}

/// The peer that receives.
pub(super) fn receiver(control: &mut Control) -> Result<()> {
    let (unix, socket, bytes): (bool, PathBuf, u64) = control.hear()?;
    let mut link: Box<dyn Both> = if unix {
        let listener = UnixListener::bind(&socket)?;
        control.say(&0)?;
        Box::new(large(listener.accept()?.0)?)
    } else {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        control.say(&listener.local_addr()?.port())?;
        Box::new(unpaced(listener.accept()?.0)?)
    };
    let mut payload = vec![0; usize::try_from(bytes)?];
    loop {
        match link.read_exact(&mut payload) {
            // The measurement is over.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let arrived = clock::now();
        let sum = sequence::sum(&payload);
        let consumed = clock::now();
        control.say(&Arrival {
            arrived,
            consumed,
            sum,
            method: 0,
            copies: 2,
        })?;
    }
}
