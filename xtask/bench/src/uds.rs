//! Between processes of one host.

use crate::bench::Bench;
use crate::peer::Peers;
use anyhow::Result;

pub(crate) const PEERS: Peers = &[];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.skip("uds", "not measured yet");
    Ok(())
}
