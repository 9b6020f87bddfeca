//! A directory for what runs bring along and leave: the server's own, and gone with it.

use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "roadrunner-serve-";
const LEDGER: &str = "ledger";

/// The directory, locked while the server lives: one that is not locked belongs to a server that was killed.
pub(super) struct Place {
    directory: tempfile::TempDir,
    _held: Flock<File>,
}

impl Place {
    /// Makes one in `base`, and removes what killed servers of the same user have left there.
    pub(super) fn make(base: &Path) -> io::Result<Self> {
        sweep(base)?;
        loop {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .tempdir_in(base)?;
            // Another server may have taken it for left before it was locked.
            if let Some(held) = hold(directory.path())? {
                if directory.path().is_dir() {
                    std::fs::create_dir(directory.path().join(LEDGER))?;
                    return Ok(Self {
                        directory,
                        _held: held,
                    });
                }
            }
        }
    }

    /// A directory in it, for what all runs count together.
    pub(super) fn ledger(&self) -> PathBuf {
        self.directory.path().join(LEDGER)
    }

    /// A directory in it, for one run.
    pub(super) fn room(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(self.directory.path())
    }
}

/// Locks a directory, unless somebody else has.
fn hold(directory: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(directory)?, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn sweep(base: &Path) -> io::Result<()> {
    let user = nix::unistd::geteuid().as_raw();
    for entry in std::fs::read_dir(base)?.flatten() {
        let name = entry.file_name();
        let ours = name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry
                .metadata()
                .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        // Gone meanwhile, or a living server's: not for us.
        if let (true, Ok(Some(_held))) = (ours, hold(&entry.path())) {
            // What cannot be removed costs room, and is no reason not to serve.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_server_left_goes_and_what_a_living_one_has_stays() {
        let base = tempfile::tempdir().expect("a directory");
        let dead = base.path().join("roadrunner-serve-dead");
        std::fs::create_dir_all(dead.join("run-1")).expect("writable");
        let other = base.path().join("other");
        std::fs::create_dir(&other).expect("writable");
        let living = Place::make(base.path()).expect("writable");
        assert!(!dead.exists() && other.is_dir());
        let room = living.room().expect("writable");
        let second = Place::make(base.path()).expect("writable");
        assert!(room.path().is_dir());
        drop((room, living, second));
        assert_eq!(std::fs::read_dir(base.path()).expect("there").count(), 1);
    }
}
