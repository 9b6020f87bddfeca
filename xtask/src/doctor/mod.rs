//! What this machine offers. Probes are real calls; nothing is installed.

use clap::Args;

use crate::context::Context;

#[derive(Args)]
pub(crate) struct Options {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(_context: &Context, options: &Options) -> anyhow::Result<()> {
    let _ = options.json;
    Ok(())
}
