//! Two native processes, without WebAssembly: streams tuned by hand, HTTP, and a remote store.

use super::hop::{Arrival, Departure, Receiving};
use crate::measure::{Candidate, Watch};
use crate::net::ways::{self as net, Task};
use crate::peer::{Control, Peer};
use crate::uds::sys::slice;
use crate::uds::ways as uds;
use crate::usage::Watched;
use anyhow::Result;
use roadrunner_core::Span;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How the bytes cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// AF_UNIX.
    Unix,
    Tcp,
    /// What containers do: hyper at both ends.
    Http,
    /// By way of a server that keeps them, from Debian.
    Redis,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Unix, Self::Tcp, Self::Http, Self::Redis];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unix => "native-unix",
            Self::Tcp => "native-tcp",
            Self::Http => "native-http",
            Self::Redis => "redis",
        }
    }

    /// Why it cannot be measured, if so.
    pub(super) fn missing(self) -> Option<String> {
        match self {
            Self::Http if !cfg!(feature = "peers") => {
                Some("this program was built without its feature peers".to_owned())
            }
            Self::Redis => uds::redis::missing(),
            _ => None,
        }
    }

    /// As the ways between processes know it.
    fn word(self) -> &'static str {
        match self {
            Self::Unix => "socket",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Redis => "redis",
        }
    }

    fn task(self, bytes: u64, address: &str) -> Task {
        Task {
            way: self.word().to_owned(),
            bytes,
            address: address.to_owned(),
            identity: None,
        }
    }

    fn connect(self, bytes: u64, address: &str) -> Result<Sender> {
        Ok(match self {
            Self::Unix | Self::Redis => Sender::Local(uds::connect(self.word(), bytes, address)?),
            Self::Tcp | Self::Http => Sender::Remote(net::connect(&self.task(bytes, address))?),
        })
    }
}

enum Sender {
    Local(Box<dyn uds::Sends>),
    Remote(Box<dyn net::Sends>),
}

impl Sender {
    fn place(&mut self) -> Result<Span<'_>> {
        match self {
            Self::Local(sender) => sender.place(),
            Self::Remote(sender) => sender.place(),
        }
    }

    fn send(&mut self) -> Result<()> {
        match self {
            Self::Local(sender) => sender.send(),
            Self::Remote(sender) => sender.send(),
        }
    }
}

/// A peer that has something to end, too: a server.
struct Orderly(Peer);

impl Drop for Orderly {
    fn drop(&mut self) {
        self.0.end();
    }
}

pub(super) fn candidate<'a>(way: Way, bytes: u64) -> Candidate<'a> {
    Candidate::new(way.name(), "native", move || {
        let directory = tempfile::tempdir()?;
        let mut peer = Orderly(Peer::start("eval.native")?);
        peer.0.control.say(&(way, directory.path(), bytes))?;
        let address: String = peer.0.control.hear()?;
        let mut sender = way.connect(bytes, &address)?;
        let mut watched = Watched::new([peer.0.id()]);
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            let _kept = &directory;
            base += 1;
            watched.begin()?;
            peer.0.control.say(&())?;
            let mut departure = Departure::begin();
            sequence::fill(slice(&mut sender.place()?), base);
            departure.produced();
            sender.send()?;
            departure.sent();
            let arrival: Arrival = peer.0.control.hear()?;
            departure.tell(&arrival, watch);
            watched.end(watch)?;
            watch.verified(arrival.sum == sequence::expected(bytes, base))
        })
    })
}

/// The peer that receives.
pub(super) fn receiver(control: &mut Control) -> Result<()> {
    let (way, directory, bytes): (Way, PathBuf, u64) = control.hear()?;
    // It receives when it is told that something comes, so that it never waits for a sender that is gone.
    match way {
        Way::Unix | Way::Redis => {
            let (address, accept) = uds::listen(way.word(), bytes, Path::new(&directory))?;
            control.say(&address)?;
            let mut receiver = accept()?;
            while control.hear_or_end::<()>()?.is_some() {
                let mut receiving = Receiving::begin();
                let mut payload = receiver.recv()?;
                receiving.arrived(Default::default());
                let sum = sequence::sum(slice(&mut payload));
                receiver.release()?;
                control.say(&receiving.consumed(sum, receiver.method()))?;
            }
        }
        Way::Tcp | Way::Http => {
            let (address, accept) = net::listen(&way.task(bytes, "127.0.0.1:0"))?;
            control.say(&address)?;
            let mut receiver = accept()?;
            while control.hear_or_end::<()>()?.is_some() {
                let mut receiving = Receiving::begin();
                let mut payload = receiver.recv()?;
                receiving.arrived(Default::default());
                let sum = sequence::sum(slice(&mut payload));
                control.say(&receiving.consumed(sum, receiver.method()))?;
            }
        }
    }
    Ok(())
}
