//! Moving, gathering and linking files.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};

/// The dynamic loader of glibc on x86-64.
pub(crate) const LOADER: &str = "ld-linux-x86-64.so.2";

pub(crate) fn move_entry(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// Moves every shared library below `unpacked` (a tree of unpacked packages) into the one directory `into`.
///
/// Links between libraries are kept by their names, wherever they pointed.
pub(crate) fn gather_libraries(unpacked: &Path, into: &Path) -> Result<()> {
    for found in shared_libraries(unpacked)? {
        let Some(name) = found.file_name() else {
            continue;
        };
        let target = into.join(name);
        if !found.is_symlink() {
            move_entry(&found, &target)?;
            continue;
        }
        let points_to = fs::read_link(&found)
            .with_context(|| format!("cannot read the link {}", found.display()))?;
        match points_to.file_name() {
            // A link to the same name in another directory: the file itself is gathered under this name.
            Some(other) if other != name => replace_link(Path::new(other), &target)?,
            _ => {}
        }
    }
    Ok(())
}

fn shared_libraries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let kind = entry
            .file_type()
            .with_context(|| format!("cannot look at {}", entry.path().display()))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_dir() {
            found.extend(shared_libraries(&entry.path())?);
        } else if name.ends_with(".so") || name.contains(".so.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Fills the link directory: links to libwasmedge in `run`, nothing else.
pub(crate) fn link_libwasmedge(run: &Path, lib: &Path) -> Result<()> {
    for entry in fs::read_dir(run)
        .with_context(|| format!("cannot list {}", run.display()))?
        .flatten()
    {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("libwasmedge.so") {
            symlink(Path::new("../run/lib").join(&name), lib.join(&name))
                .with_context(|| format!("cannot link {}", name.to_string_lossy()))?;
        }
    }
    ensure!(
        lib.join("libwasmedge.so").exists(),
        "the packages hold no libwasmedge.so"
    );
    Ok(())
}

/// Makes `link` point to `target`, in one step; gives up where something that is no link stands there.
pub(crate) fn replace_link(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|present| present == target) {
        return Ok(());
    }
    ensure!(
        link.is_symlink() || !link.exists(),
        "{} is not a link: move it away, set-up puts a link there",
        link.display()
    );
    let temporary = link.with_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", temporary.display()));
        }
        _ => {}
    }
    symlink(target, &temporary)
        .with_context(|| format!("cannot create the link {}", temporary.display()))?;
    fs::rename(&temporary, link)
        .with_context(|| format!("cannot create the link {}", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_tree_end_up_in_one_directory_with_their_links() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for part in ["usr/lib/llvm-9/lib", "usr/lib/x86_64-linux-gnu"] {
            fs::create_dir_all(tree.join(part)).unwrap();
        }
        let libs = tree.join("usr/lib/x86_64-linux-gnu");
        fs::write(libs.join("libLLVM.so.9.1"), "llvm").unwrap();
        symlink("libLLVM.so.9.1", libs.join("libLLVM-9.so")).unwrap();
        symlink(
            "../../x86_64-linux-gnu/libLLVM.so.9.1",
            tree.join("usr/lib/llvm-9/lib/libLLVM.so.9.1"),
        )
        .unwrap();
        fs::write(libs.join("libc.so.6"), "libc").unwrap();
        fs::write(libs.join("notes.txt"), "no library").unwrap();

        let into = dir.path().join("run");
        fs::create_dir(&into).unwrap();
        gather_libraries(&tree, &into).unwrap();
        assert_eq!(
            fs::read_to_string(into.join("libLLVM-9.so")).unwrap(),
            "llvm"
        );
        assert!(!into.join("libLLVM.so.9.1").is_symlink());
        assert!(!into.join("notes.txt").exists());
    }

    #[test]
    fn a_link_is_replaced_and_anything_else_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        replace_link(Path::new("/one"), &link).unwrap();
        replace_link(Path::new("/two"), &link).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/two"));
        let file = dir.path().join("file");
        fs::write(&file, "mine").unwrap();
        assert!(replace_link(Path::new("/two"), &file).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    }
}
