//! The official WasmEdge release, as the SDK's own `standalone` feature takes it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

use crate::command;

/// The archive that wasmedge-sys 0.21.1 names for Linux on x86-64 with glibc, and its SHA-256.
const URL: &str =
    "https://github.com/WasmEdge/WasmEdge/releases/download/0.17.1/WasmEdge-0.17.1-manylinux_2_28_x86_64.tar.gz";
const SHA256: &str = "27a1abec072ddf45b40e2e81e33c1e5fe9b241f31fd1bbf0182f05097489a07a";

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);
const LOCAL_LIMIT: Duration = Duration::from_secs(300);

/// Puts `include` and `lib` of the release below `into`; gives the size of the archive.
pub(crate) fn fetch(into: &Path) -> Result<u64> {
    let archive = into.join("archive.tar.gz");
    download(&archive)?;
    check_sum(&archive, SHA256)?;
    let size = fs::metadata(&archive)
        .context("cannot read the archive")?
        .len();
    let unpacked = into.join("unpacked");
    fs::create_dir(&unpacked).context("cannot create a directory for the archive")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--touch", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&unpacked);
    command::output(&mut tar, LOCAL_LIMIT, || {}).context("unpacking the archive")?;
    place(&unpacked, into)?;
    fs::remove_dir_all(&unpacked).context("cannot remove what is left of the archive")?;
    fs::remove_file(&archive).context("cannot remove the archive")?;
    Ok(size)
}

/// With whichever of the usual programs is there: each knows the machine's proxy and certificates.
fn download(to: &Path) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args([
        "--fail",
        "--silent",
        "--show-error",
        "--location",
        "--connect-timeout",
        "5",
        "--output",
    ])
    .arg(to)
    .arg(URL);
    let mut wget = Command::new("wget");
    wget.args([
        "--quiet",
        "--tries=1",
        "--connect-timeout=5",
        "--dns-timeout=5",
        "-O",
    ])
    .arg(to)
    .arg(URL);
    let mut problems = Vec::new();
    for mut program in [curl, wget] {
        match command::output(&mut program, DOWNLOAD_LIMIT, || {}) {
            Ok(_) => return Ok(()),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    bail!("downloading {URL}: {}", problems.join("; "))
}

fn check_sum(file: &Path, expected: &str) -> Result<()> {
    let printed = command::output(Command::new("sha256sum").arg(file), LOCAL_LIMIT, || {})?;
    let found = printed
        .trim_start_matches('\\')
        .split_whitespace()
        .next()
        .unwrap_or_default();
    ensure!(
        found == expected,
        "the archive has SHA-256 {found}, expected {expected}: not used"
    );
    Ok(())
}

/// The archive holds its directories at the top or below one directory, and libraries in `lib` or `lib64`.
fn place(unpacked: &Path, into: &Path) -> Result<()> {
    let below = fs::read_dir(unpacked)
        .context("cannot list the archive")?
        .flatten()
        .map(|entry| entry.path());
    let Some(top) = std::iter::once(unpacked.to_owned())
        .chain(below)
        .find(|dir| dir.join("include/wasmedge").is_dir())
    else {
        bail!("the archive holds no include/wasmedge");
    };
    let Some(lib) = ["lib64", "lib"]
        .map(|name| top.join(name))
        .into_iter()
        .find(|lib| lib.join("libwasmedge.so").exists())
    else {
        bail!("the archive holds no libwasmedge.so");
    };
    super::files::move_entry(&top.join("include"), &into.join("include"))?;
    super::files::move_entry(&lib, &into.join("lib"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_with_another_sum_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("archive");
        fs::write(&file, "abc").unwrap();
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check_sum(&file, of_abc).unwrap();
        fs::write(&file, "abd").unwrap();
        let error = check_sum(&file, of_abc).unwrap_err().to_string();
        assert!(error.contains("not used"), "{error}");
    }

    #[test]
    fn both_layouts_of_the_archive_are_known() {
        for (top, lib) in [("", "lib"), ("WasmEdge-0.17.1-Linux", "lib64")] {
            let dir = tempfile::tempdir().unwrap();
            let unpacked = dir.path().join("unpacked");
            fs::create_dir_all(unpacked.join(top).join("include/wasmedge")).unwrap();
            fs::create_dir_all(unpacked.join(top).join(lib)).unwrap();
            fs::write(unpacked.join(top).join(lib).join("libwasmedge.so"), "").unwrap();
            place(&unpacked, dir.path()).unwrap();
            assert!(dir.path().join("include/wasmedge").is_dir());
            assert!(dir.path().join("lib/libwasmedge.so").is_file());
        }
    }
}
