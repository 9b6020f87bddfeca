//! Between two processes of one host.
//!
//! A *way* is how a payload gets from the linear memory of one process into that of another: the methods of
//! `roadrunner-uds`, and what one would use instead. Each runs in two processes of its own, which this one tells when to
//! do a round.

mod fanout;
mod links;
mod pairs;
mod part;
mod pingpong;
mod places;
mod rounds;
pub(crate) mod sys;
pub(crate) mod ways;

use crate::bench::{Bench, Experiment};
use crate::eval;
use crate::functions::Modules;
use crate::peer::Peers;
use anyhow::Result;

pub(crate) const PEERS: Peers = &[
    ("uds.sender", part::send),
    ("uds.receiver", part::receive),
    ("uds.ping", pingpong::ping),
    ("uds.pong", pingpong::pong),
    ("uds.links.server", links::server),
    ("uds.links.client", links::client),
    ("uds.fanout.sender", fanout::sender),
    ("uds.fanout.reader", fanout::reader),
];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    rounds::run(bench)?;
    pingpong::run(bench)?;
    links::run(bench)?;
    fanout::run(bench)?;
    functions(bench)
}

/// The same with functions on WasmEdge: one fills a payload, the next reads every byte of it.
fn functions(bench: &mut Bench) -> Result<()> {
    let Some(modules) = Modules::find(bench, "uds.wasm") else {
        return Ok(());
    };
    let sizes = bench.sizes(&[1_000_000, 100_000_000]);
    bench.expect(sizes.len());
    for bytes in sizes {
        let candidates = eval::kernel_mode(bytes, &modules);
        bench.measure(Experiment::new("uds.wasm", bytes), candidates)?;
    }
    Ok(())
}

/// Ways of others that this build and this machine have; what is missing is said.
struct Others {
    redis: bool,
    crates: bool,
}

impl Others {
    fn find(bench: &mut Bench) -> Self {
        let crates = cfg!(feature = "peers");
        if !crates {
            bench.skip(
                "iceoryx2 and ipc-channel",
                "this program was built without its feature peers",
            );
        }
        let missing = ways::redis::missing();
        if let Some(why) = &missing {
            bench.skip("redis", why);
        }
        Self {
            redis: missing.is_none(),
            crates,
        }
    }
}
