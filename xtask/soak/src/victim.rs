//! The process that is killed.

use crate::function::work;
use crate::round::Round;
use crate::ways::{Link, Listener};
use crate::Part;
use anyhow::{bail, Context, Result};
use roadrunner_core::Deadline;
use std::io::{self, Write};
use std::time::Duration;

const OPENS: Duration = Duration::from_secs(20);

/// Lives until it is killed. That it comes back is an error, whatever it says.
pub(crate) fn live(part: Part, seed: u64, address: &str) -> Result<()> {
    let round = Round::new(part, seed);
    let plan = round.moment.plan();
    let ended = plan.during(|| {
        let link = if round.victim_listens {
            let mut listener = Listener::bind(&round, address)?;
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{}", listener.address())?;
            stdout.flush()?;
            listener.accept(Deadline::after(OPENS)).context("accept")?
        } else {
            Link::connect(&round, address, Deadline::after(OPENS)).context("connect")?
        };
        work(&round, round.victim, link)
    })?;
    bail!(
        "not killed; after {} payloads: {}",
        ended.whole,
        ended.error
    )
}
