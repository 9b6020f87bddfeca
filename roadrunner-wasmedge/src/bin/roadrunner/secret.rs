//! Where the secret comes from: a file or the environment, never an argument, which everybody on the host can read.

use super::exposure;
use roadrunner_wasmedge::run::SECRET_VARIABLE;
use roadrunner_wasmedge::serve::Secret;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Argument {
    /// What the hosts of a workflow share, 16 bytes or more: a file with it, the same on all of them. Without it the
    /// variable ROADRUNNER_SECRET is looked at; with neither, only loopback addresses are used
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

impl Argument {
    pub(crate) fn secret(&self) -> Result<Option<Secret>, String> {
        let secret = match &self.secret_file {
            Some(file) => Some(Secret::from_file(file)),
            None if std::env::var_os(SECRET_VARIABLE).is_some() => {
                Some(Secret::from_environment(SECRET_VARIABLE))
            }
            None => None,
        };
        secret.transpose().map_err(|error| error.to_string())
    }

    pub(crate) fn warn_if_exposed(&self) {
        if let Some(file) = &self.secret_file {
            exposure::warn("the secret in", file);
        }
    }
}
