//! Files that hold secrets, and who else can read them.

use std::fs::metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Says so if every user of this host may read a file with `what` in it. No more than that: volumes that are mounted into
/// a container are often so, and nobody else is in there.
pub(crate) fn warn(what: &str, file: &Path) {
    // Of a link, what it leads to. Whoever has read the file has said what is wrong with it.
    let mode = metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        let (mode, file) = (mode & 0o777, file.display());
        super::talk(&format!(
            "roadrunner: warning: every user of this host may read {what} {file} (mode {mode:o}): chmod 600 {file}"
        ));
    }
}
