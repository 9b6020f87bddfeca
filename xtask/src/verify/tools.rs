//! Stub.

use super::{Outcome, Scene};
use anyhow::Result;

pub(super) fn semver(_scene: &Scene) -> Result<Outcome> {
    Ok(Outcome::Skipped("not written yet".to_owned()))
}
pub(super) fn licences(_scene: &Scene) -> Result<Outcome> {
    Ok(Outcome::Skipped("not written yet".to_owned()))
}
