//! Over TCP.

use crate::bench::Bench;
use crate::peer::Peers;
use anyhow::Result;

pub(crate) const PEERS: Peers = &[];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.skip("net", "not measured yet");
    Ok(())
}
