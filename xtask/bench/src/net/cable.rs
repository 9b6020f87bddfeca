//! Between two hosts, which are network namespaces, over a cable that carries 1 Gbit/s.

use super::pairs::{candidate, Stage, What};
use super::rounds::told;
use super::{iperf, AUTO, LARGE, SPLICE, TCP};
use crate::bench::{Bench, Experiment};
use crate::measure::Measured;
use crate::results::Ratio;
use anyhow::{anyhow, Result};
use roadrunner_netns::Pair;

const RATE: &str = "1gbit";

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let pair = match Pair::new() {
        Ok(pair) => pair,
        Err(reason) => {
            bench.skip("net.line_rate.1gbit and net.sender_cpu.1gbit", &reason);
            return Ok(());
        }
    };
    pair.shape(RATE).map_err(|reason| anyhow!(reason))?;
    bench.expect(2);
    let bytes = bench.bytes(LARGE);
    let stage = Stage {
        sender: "net.sender",
        receiver: "net.receiver",
        hosts: Some(&pair),
    };
    let mut measure = |name, what| -> Result<Measured> {
        let candidates = [TCP, AUTO, SPLICE]
            .map(|way| candidate(stage, way, bytes, 1, what))
            .into();
        bench.measure(Experiment::new(name, bytes).heavy(), candidates)
    };
    let transfer = measure("net.1gbit.transfer", What::Transfer)?;
    let work = measure("net.1gbit.sender_work", What::SenderWork)?;
    let ratio = work.ratio(AUTO, TCP)?;
    bench.ratio(
        Ratio::at_most("net.sender_cpu.1gbit", ratio, 1.0).because(|| told(&work, &[TCP, AUTO])),
    );
    if let Some(why) = iperf::missing() {
        bench.skip("net.line_rate.1gbit", why);
        return Ok(());
    }
    let ours = bytes as f64 / (transfer.p50(AUTO)? / 1e9);
    let theirs = iperf::goodput(&pair)?;
    bench.ratio(
        Ratio::at_least("net.line_rate.1gbit", ours / theirs, 0.98).because(|| {
            let by_hand = transfer
                .p50(TCP)
                .map_or(0.0, |time| bytes as f64 / (time / 1e9));
            format!(
                "iperf3 gets {:.1} MB/s, tcp {:.1}, ours {:.1}",
                theirs / 1e6,
                by_hand / 1e6,
                ours / 1e6
            )
        }),
    );
    Ok(())
}
