//! Directories for work that is not done yet. They are locked while their process lives, so that what a killed one has left can
//! be told from what a living one has, and is removed by whoever comes next.

use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A directory that is gone with this, and that nobody else may read.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
    _held: Flock<File>,
}

impl Scratch {
    /// Makes one in `base` whose name begins with `prefix`, and removes those of killed processes of the same user.
    pub(crate) fn make(base: &Path, prefix: &str) -> io::Result<Self> {
        sweep(base, prefix)?;
        loop {
            let directory = tempfile::Builder::new()
                .prefix(prefix)
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .tempdir_in(base)?;
            // Somebody may have taken it for left before it was locked.
            if let Some(held) = hold(directory.path())? {
                if directory.path().is_dir() {
                    return Ok(Self {
                        directory,
                        _held: held,
                    });
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Locks a directory, unless somebody else has, or it is gone: to be removed before it was locked.
fn hold(directory: &Path) -> io::Result<Option<Flock<File>>> {
    let open = match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        open => open?,
    };
    match Flock::lock(open, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn sweep(base: &Path, prefix: &str) -> io::Result<()> {
    let user = nix::unistd::geteuid().as_raw();
    for entry in std::fs::read_dir(base)?.flatten() {
        let name = entry.file_name();
        let ours = name.as_encoded_bytes().starts_with(prefix.as_bytes())
            && entry
                .metadata()
                .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        // Gone meanwhile, or a living process's: not for us.
        if let (true, Ok(Some(_held))) = (ours, hold(&entry.path())) {
            // What cannot be removed costs room, and is no reason not to work.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Scratch;

    #[test]
    fn what_a_killed_process_left_goes_and_what_a_living_one_has_stays() {
        let base = tempfile::tempdir().expect("a directory");
        let dead = base.path().join("scratch-dead");
        std::fs::create_dir_all(dead.join("deep")).expect("writable");
        let other = base.path().join("other");
        std::fs::create_dir(&other).expect("writable");
        let living = Scratch::make(base.path(), "scratch-").expect("writable");
        assert!(!dead.exists() && other.is_dir());
        let second = Scratch::make(base.path(), "scratch-").expect("writable");
        assert!(living.path().is_dir());
        drop((living, second));
        assert_eq!(std::fs::read_dir(base.path()).expect("there").count(), 1);
    }

    /// Each takes what the others have just made, and not locked yet, for left.
    #[test]
    fn those_who_come_at_the_same_time_all_have_one() {
        let base = tempfile::tempdir().expect("a directory");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let made = Scratch::make(base.path(), "scratch-").expect("one more");
                        assert!(made.path().is_dir());
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(base.path()).expect("there").count(), 0);
    }
}
