//! Outputs are written beside the output directory's files, and renamed when all of the run has gone well and the disk has
//! them: each is there whole or not at all, whenever the run is killed or the power fails. Of several, those that had been
//! renamed by then are there.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What the name of a staging directory begins with.
const PREFIX: &str = ".roadrunner-";

/// A directory inside the output directory, gone with all it holds unless its files are published.
#[derive(Debug)]
pub(crate) struct Staging {
    /// Taken by `drop`, before the directories that were made for it.
    directory: Option<tempfile::TempDir>,
    /// Locked while this process lives: what is not belongs to one that was killed.
    held: Option<Flock<File>>,
    target: PathBuf,
    /// The directories that were made for the output directory, outermost first.
    made: Vec<PathBuf>,
}

impl Staging {
    /// Makes the output directory where there is none, and a place to write to inside it.
    pub(crate) fn create(target: &Path, outputs: &[&str]) -> io::Result<Self> {
        let mut made: Vec<_> = target
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .map(Path::to_owned)
            .collect();
        made.reverse();
        fs::create_dir_all(target)?;
        let mut staging = Self {
            directory: None,
            held: None,
            target: target.to_owned(),
            made,
        };
        refuse_directories(target, outputs)?;
        // One at a time, so that nobody sweeps away what another has made and not locked yet.
        let _alone = locked(target, FlockArg::LockExclusive)?;
        sweep(target)?;
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(target)?;
        let held = locked(directory.path(), FlockArg::LockExclusive);
        if held.is_err() {
            // Removing more than an empty directory takes a descriptor, and there may be none left.
            let _ = fs::remove_dir(directory.path());
        }
        staging.held = Some(held?);
        staging.directory = Some(directory);
        Ok(staging)
    }

    /// Where workers write their outputs.
    pub(crate) fn path(&self) -> &Path {
        self.directory
            .as_ref()
            .map_or(self.target.as_path(), tempfile::TempDir::path)
    }

    /// Moves these files into the output directory, and says where each is now.
    pub(crate) fn publish(mut self, files: &[String]) -> io::Result<Vec<PathBuf>> {
        // Before the first is moved: outputs of an earlier run stay all together, or none does.
        refuse_directories(&self.target, files)?;
        for file in files {
            on_disk(&File::open(self.path().join(file))?)?;
        }
        let moved = files
            .iter()
            .map(|file| {
                let target = self.target.join(file);
                fs::rename(self.path().join(file), &target)?;
                Ok(target)
            })
            .collect();
        // The names, too. Not every file system can, and what is lost is a name, no part of an output.
        let parents = self.made.iter().filter_map(|made| made.parent());
        for directory in parents.chain([self.target.as_path()]) {
            // Beginning with a dot, so that the parent of a relative path is one, too.
            let _ = File::open(Path::new(".").join(directory)).and_then(|open| open.sync_all());
        }
        self.made.clear();
        moved
    }
}

/// Waits until the disk has a file, where the file system can say so.
fn on_disk(file: &File) -> io::Result<()> {
    let synced = file.sync_all();
    let errno = synced.as_ref().err().and_then(io::Error::raw_os_error);
    match errno.map(Errno::from_raw) {
        // It has no fsync(2).
        Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        _ => synced,
    }
}

fn locked(directory: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    Flock::lock(File::open(directory)?, how).map_err(|(_, errno)| errno.into())
}

/// Removes what runs that were killed have left in the output directory.
fn sweep(target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes());
        if ours && entry.file_type()?.is_dir() {
            // Locked by a run that goes on, or gone meanwhile: not for us.
            if let Ok(_held) = locked(&entry.path(), FlockArg::LockExclusiveNonblock) {
                // What cannot be removed costs room, and is no reason not to run.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    Ok(())
}

/// An output cannot replace a directory.
fn refuse_directories(target: &Path, outputs: &[impl AsRef<Path>]) -> io::Result<()> {
    let taken = outputs
        .iter()
        .map(|output| target.join(output))
        .find(|path| path.is_dir());
    match taken {
        None => Ok(()),
        Some(path) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is a directory; move it away", path.display()),
        )),
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Its descriptor may be the last one there is, and removing a directory takes one.
        self.held.take();
        self.directory.take();
        // Only what is empty goes: somebody may have put files there meanwhile.
        for directory in self.made.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadrunner_faults::{Call, Fault, Plan};

    #[test]
    fn what_is_not_published_leaves_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let target = root.path().join("a/b");
        let staging = Staging::create(&target, &["x"]).expect("writable");
        fs::write(staging.path().join("x"), "half").expect("writable");
        drop(staging);
        assert_eq!(fs::read_dir(root.path()).expect("there").count(), 0);
    }

    #[test]
    fn what_a_killed_run_left_is_swept_away_and_what_a_living_one_has_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        let dead = root.path().join(".roadrunner-dead");
        fs::create_dir(&dead).expect("writable");
        fs::write(dead.join("half"), "half").expect("writable");
        let living = Staging::create(root.path(), &["x"]).expect("writable");
        assert!(!dead.exists());
        let other = Staging::create(root.path(), &["y"]).expect("writable");
        assert!(living.path().is_dir() && other.path().is_dir());
    }

    #[test]
    fn what_is_published_is_alone_there() {
        let root = tempfile::tempdir().expect("a directory");
        let target = root.path().join("out");
        let staging = Staging::create(&target, &["x"]).expect("writable");
        fs::write(staging.path().join("x"), "whole").expect("writable");
        let paths = staging.publish(&["x".to_owned()]).expect("published");
        assert_eq!(paths, [target.join("x")]);
        assert_eq!(fs::read_dir(&target).expect("there").count(), 1);
        assert_eq!(fs::read(&paths[0]).expect("there"), b"whole");
    }

    #[test]
    fn a_directory_that_is_found_at_the_end_leaves_all_outputs_as_they_were() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("x"), "old").expect("writable");
        let staging = Staging::create(root.path(), &["x"]).expect("writable");
        for name in ["x", "x-2"] {
            fs::write(staging.path().join(name), "new").expect("writable");
        }
        fs::create_dir(root.path().join("x-2")).expect("writable");
        staging
            .publish(&["x".to_owned(), "x-2".to_owned()])
            .expect_err("taken");
        assert_eq!(fs::read(root.path().join("x")).expect("there"), b"old");
    }

    #[test]
    fn an_output_that_the_disk_does_not_take_replaces_none() {
        let root = tempfile::tempdir().expect("a directory");
        for refused in [0, 1] {
            fs::write(root.path().join("x"), "old").expect("writable");
            let staging = Staging::create(root.path(), &["x"]).expect("writable");
            for name in ["x", "y"] {
                fs::write(staging.path().join(name), "new").expect("writable");
            }
            let broken = Plan::new().nth(Call::Sync, refused, Fault::Errno(Errno::EIO));
            let names = ["x", "y"].map(str::to_owned);
            let published = broken.during(|| staging.publish(&names));
            assert_eq!(
                published.expect_err("a broken disk").raw_os_error(),
                Some(Errno::EIO as i32)
            );
            assert_eq!(fs::read(root.path().join("x")).expect("there"), b"old");
            assert_eq!(fs::read_dir(root.path()).expect("there").count(), 1);
        }
    }

    #[test]
    fn a_disk_that_does_not_say_what_it_has_costs_no_run() {
        for errno in [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOSYS] {
            let root = tempfile::tempdir().expect("a directory");
            let staging = Staging::create(root.path(), &["x"]).expect("writable");
            fs::write(staging.path().join("x"), "new").expect("writable");
            let silent = Plan::new().from_nth(Call::Sync, 0, Fault::Errno(errno));
            let published = silent.during(|| staging.publish(&["x".to_owned()]));
            published.expect("renamed");
            assert_eq!(fs::read(root.path().join("x")).expect("there"), b"new");
        }
    }

    #[test]
    fn a_directory_in_the_place_of_an_output_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("x")).expect("writable");
        let error = Staging::create(root.path(), &["x"]).expect_err("taken");
        assert!(error.to_string().contains("is a directory"), "{error}");
        assert_eq!(fs::read_dir(root.path()).expect("there").count(), 1);
    }
}
