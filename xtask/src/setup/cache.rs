//! The cache that all clones of a user share: `$XDG_CACHE_HOME/roadrunner`.
//!
//! An entry is a directory that appears complete or not at all: it is built below `staging/` and renamed into place.
//! One set-up at a time holds the lock, so whatever lies in `staging/` when the lock is taken is left over from a set-up
//! that was interrupted.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::talk::Talk;

/// What an entry says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: String,
    /// For people: where it came from.
    pub(crate) origin: String,
    /// Bytes that went over the network.
    pub(crate) downloaded: u64,
    /// Packages and their versions, where it was put together from packages.
    pub(crate) packages: Vec<String>,
}

const MANIFEST: &str = "manifest.json";

/// The complete entry `key`, if there is one.
pub(crate) fn entry(cache: &Path, key: &str) -> Option<(PathBuf, Manifest)> {
    let dir = cache.join(key);
    let text = fs::read(dir.join(MANIFEST)).ok()?;
    Some((dir, serde_json::from_slice(&text).ok()?))
}

/// Bytes on disk below `dir`, links not followed; what cannot be read counts as nothing.
pub(crate) fn size_on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| {
            let own = metadata.blocks().saturating_mul(512);
            if metadata.is_dir() {
                own.saturating_add(size_on_disk(&path))
            } else {
                own
            }
        })
        .sum()
}

/// The cache, held by this set-up alone until dropped.
pub(crate) struct Locked {
    dir: PathBuf,
    staging: PathBuf,
    _lock: Flock<File>,
}

impl Locked {
    /// Waits until no other set-up works on this cache, then removes what an interrupted one left.
    pub(crate) fn acquire(dir: &Path, talk: Talk) -> Result<Locked> {
        fs::create_dir_all(dir)
            .with_context(|| format!("cannot create the cache {}", dir.display()))?;
        let path = dir.join("lock");
        let open = || {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))
        };
        let lock = match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, Errno::EWOULDBLOCK)) => {
                talk.say(&format!(
                    "another set-up is at work on {}: waiting for it",
                    dir.display()
                ));
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| anyhow!("cannot lock {}: {errno}", path.display()))?
            }
            Err((_, errno)) => return Err(anyhow!("cannot lock {}: {errno}", path.display())),
        };
        let all = dir.join("staging");
        remove(&all)?;
        // A directory of our own: a program that outlived an interrupted set-up may still write to that one's.
        let staging = all.join(std::process::id().to_string());
        fs::create_dir_all(&staging)
            .with_context(|| format!("cannot create {}", staging.display()))?;
        Ok(Locked {
            dir: dir.to_owned(),
            staging,
            _lock: lock,
        })
    }

    /// A new empty directory, on the file system of the cache, that lasts at most as long as this set-up.
    pub(crate) fn stage(&self, name: &str) -> Result<PathBuf> {
        let dir = self.staging.join(name);
        remove(&dir)?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// Makes the staged directory the entry `key`, in one step.
    pub(crate) fn publish(&self, staged: &Path, key: &str, manifest: &Manifest) -> Result<PathBuf> {
        let text = serde_json::to_vec_pretty(manifest).context("cannot write the manifest")?;
        fs::write(staged.join(MANIFEST), text)
            .with_context(|| format!("cannot write the manifest in {}", staged.display()))?;
        let target = self.dir.join(key);
        remove(&target)?;
        fs::rename(staged, &target)
            .with_context(|| format!("cannot move {} to {}", staged.display(), target.display()))?;
        Ok(target)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // The next set-up cleans what cannot be removed now.
        let _ = fs::remove_dir_all(self.dir.join("staging"));
    }
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            version: "1".into(),
            origin: "test".into(),
            downloaded: 7,
            packages: Vec::new(),
        }
    }

    #[test]
    fn an_entry_appears_whole_and_replaces_a_broken_one() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir_all(cache.path().join("thing/half")).unwrap();
        assert_eq!(entry(cache.path(), "thing"), None);

        let locked = Locked::acquire(cache.path(), Talk::silent()).unwrap();
        let staged = locked.stage("thing").unwrap();
        fs::write(staged.join("file"), "whole").unwrap();
        assert_eq!(entry(cache.path(), "thing"), None);
        locked.publish(&staged, "thing", &manifest()).unwrap();

        let (dir, found) = entry(cache.path(), "thing").unwrap();
        assert_eq!(found, manifest());
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "whole");
        assert!(!dir.join("half").exists());
    }

    #[test]
    fn what_an_interrupted_set_up_left_is_removed_and_complete_entries_stay() {
        let cache = tempfile::tempdir().unwrap();
        let left = cache.path().join("staging/4711/prefix/usr");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("half.deb"), "half").unwrap();
        fs::create_dir_all(cache.path().join("done")).unwrap();

        let locked = Locked::acquire(cache.path(), Talk::silent()).unwrap();
        assert!(!cache.path().join("staging/4711").exists());
        assert!(cache.path().join("done").exists());
        drop(locked);
        assert!(!cache.path().join("staging").exists());
    }

    #[test]
    fn two_set_ups_take_turns() {
        let cache = tempfile::tempdir().unwrap();
        let first = Locked::acquire(cache.path(), Talk::silent()).unwrap();
        let file = File::open(cache.path().join("lock")).unwrap();
        let (file, errno) = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap_err();
        assert_eq!(errno, Errno::EWOULDBLOCK);

        let dir = cache.path().to_owned();
        let second = std::thread::spawn(move || Locked::acquire(&dir, Talk::silent()).map(drop));
        let staged = first.stage("thing").unwrap();
        first.publish(&staged, "thing", &manifest()).unwrap();
        drop(first);
        second.join().unwrap().unwrap();
        assert!(entry(cache.path(), "thing").is_some());
        Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    }
}
