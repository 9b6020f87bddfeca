//! A directory for what runs bring along and leave: the server's own, and gone with it.

use crate::scratch::Scratch;
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "roadrunner-serve-";
const LEDGER: &str = "ledger";

pub(super) struct Place(Scratch);

impl Place {
    /// Makes one in `base`, and removes what killed servers of the same user have left there.
    pub(super) fn make(base: &Path) -> io::Result<Self> {
        let directory = Scratch::make(base, PREFIX)?;
        std::fs::create_dir(directory.path().join(LEDGER))?;
        Ok(Self(directory))
    }

    /// A directory in it, for what all runs count together.
    pub(super) fn ledger(&self) -> PathBuf {
        self.0.path().join(LEDGER)
    }

    /// A directory in it, for one run.
    pub(super) fn room(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(self.0.path())
    }
}
