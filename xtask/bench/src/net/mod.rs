//! Over TCP: on loopback, and over a cable of 1 Gbit/s between two network namespaces.
//!
//! A *way* is how a payload gets from the linear memory of one process into that of another: `roadrunner-splice` with one
//! preference or another, and what one would use instead. Each runs in two processes of its own, which this one tells when
//! to do a round.

mod cable;
mod iperf;
mod links;
mod pairs;
mod part;
mod ping;
mod rounds;
pub(crate) mod ways;

use crate::bench::Bench;
use crate::peer::Peers;
use anyhow::Result;

pub(crate) const PEERS: Peers = &[
    ("net.sender", part::send),
    ("net.receiver", part::receive),
    ("net.ping", ping::ping),
    ("net.pong", ping::pong),
    ("net.links.sender", links::send),
    ("net.links.receiver", links::receive),
];

/// What most ratios are about.
const LARGE: u64 = 100_000_000;
/// `send` and `recv` by hand: what the others are measured against.
const TCP: &str = "tcp";
/// What a link does that is told nothing.
const AUTO: &str = "net-auto";
const CHECKED: &str = "net-auto-checked";
const SPLICE: &str = "net-splice";
/// The kernel copies on loopback: what asking for it costs.
const ZERO_COPY: &str = "net-zerocopy";
/// The same by io_uring.
#[cfg(feature = "peers")]
const URING: &str = "net-zerocopy-uring";
/// Each payload over several connections: on loopback one fills the way.
const STREAMS: &str = "net-streams";
/// What a link does that finds out by itself.
const MEASURED: &str = "net-measured";
/// Encrypted.
#[cfg(feature = "peers")]
const TLS: &str = "net-tls";
const HTTP: &str = "http";
#[cfg(feature = "peers")]
const GRPC: &str = "grpc";

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    rounds::run(bench)?;
    ping::run(bench)?;
    links::run(bench)?;
    cable::run(bench)
}
