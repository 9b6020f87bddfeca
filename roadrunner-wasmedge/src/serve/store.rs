//! The modules that a server has, found by their SHA-256.

use crate::module::MAX_MODULE;
use crate::run::hexadecimal;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// A directory of modules. What is put there later is found, too.
pub(super) struct Store {
    directory: PathBuf,
    known: Mutex<HashMap<PathBuf, Known>>,
}

/// A file, and what it was when it was looked at.
#[derive(Clone, PartialEq, Eq)]
struct Known {
    len: u64,
    modified: Option<SystemTime>,
    sha256: String,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Self, String> {
        let store = Self {
            directory: directory.to_owned(),
            known: Mutex::default(),
        };
        store
            .look()
            .map_err(|error| format!("modules in {}: {error}", directory.display()))?;
        Ok(store)
    }

    /// The file of a module with that SHA-256, in hexadecimal.
    pub(super) fn find(&self, sha256: &str) -> Option<PathBuf> {
        let found = self.look().ok()?;
        found
            .into_iter()
            .find(|(_, known)| known.sha256 == sha256)
            .map(|(path, _)| path)
    }

    /// How many modules there are.
    pub(super) fn len(&self) -> usize {
        self.look().map_or(0, |known| known.len())
    }

    fn look(&self) -> io::Result<HashMap<PathBuf, Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = HashMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let is_module = path
                .extension()
                .is_some_and(|extension| extension == "wasm" || extension == "wat");
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if !is_module || !metadata.is_file() || metadata.len() > MAX_MODULE {
                continue;
            }
            let earlier = known.get(&path).filter(|known| known.is_still(&metadata));
            let entry = match earlier {
                Some(known) => Ok(known.clone()),
                None => Known::of(&path, &metadata),
            };
            // One that cannot be read, or is gone meanwhile, is no reason to run none of the others.
            if let Ok(entry) = entry {
                found.insert(path, entry);
            }
        }
        known.clone_from(&found);
        Ok(found)
    }
}

impl Known {
    fn of(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        let mut hash = Sha256::new();
        io::copy(&mut File::open(path)?, &mut hash)?;
        Ok(Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            sha256: hexadecimal(&hash.finalize()),
        })
    }

    fn is_still(&self, metadata: &Metadata) -> bool {
        self.modified.is_some()
            && (self.len, self.modified) == (metadata.len(), metadata.modified().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_what_is_in_them_now() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.wasm");
        fs::write(&path, "one").expect("writable");
        fs::write(directory.path().join("a.txt"), "text").expect("writable");
        // A file, and not to be read from its beginning.
        std::os::unix::fs::symlink("/proc/self/mem", directory.path().join("b.wasm"))
            .expect("writable");
        let store = Store::open(directory.path()).expect("readable");
        let hash = |text: &str| hexadecimal(&Sha256::digest(text));
        assert_eq!(store.len(), 1);
        assert_eq!(store.find(&hash("one")), Some(path.clone()));
        assert_eq!(store.find(&hash("text")), None);
        fs::write(&path, "other").expect("writable");
        assert_eq!(store.find(&hash("one")), None);
        assert_eq!(store.find(&hash("other")), Some(path));
        let error = Store::open(Path::new("/nonexistent/modules"))
            .err()
            .expect("none");
        assert!(error.contains("/nonexistent/modules"), "{error}");
    }
}
