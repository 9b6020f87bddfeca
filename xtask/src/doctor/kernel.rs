//! The system calls and settings that transfers rest on. Each call is made, on a few bytes, and its effect checked.

use std::fs;
use std::io::{IoSlice, Read};
use std::os::unix::net::UnixStream;

use anyhow::{bail, ensure, Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{self, FcntlArg, SealFlag, SpliceFFlags};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd;

use super::Line;
use crate::context::Context;

const BYTES: &[u8] = b"roadrunner";

pub(super) fn lines(context: &Context) -> Vec<Line> {
    let setting = |name: &'static str, path: &str| Line::fact(name, read(context, path));
    vec![
        Line::probe(
            "vmsplice, splice",
            splice(),
            "payloads between hosts and processes are copied by write(2) instead",
        ),
        Line::probe("tee", tee(), "nothing depends on it"),
        Line::probe(
            "memfd with seals",
            sealed_memfd(),
            "no shared segments: payloads between processes are copied",
        ),
        Line::probe(
            "io_uring",
            io_uring(context),
            "no asynchronous sends; plain system calls are used",
        ),
        Line::probe(
            "SO_PEERCRED",
            peer_credentials(),
            "kernel mode cannot check its peer, so it refuses every peer",
        ),
        setting("pipe size limit", "/proc/sys/fs/pipe-max-size"),
        setting("pipe pages per user", "/proc/sys/fs/pipe-user-pages-soft"),
        setting("huge pages", "/sys/kernel/mm/transparent_hugepage/enabled"),
        setting(
            "huge pages in memfds",
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        ),
        setting("mappings per process", "/proc/sys/vm/max_map_count"),
        setting(
            "TCP congestion control",
            "/proc/sys/net/ipv4/tcp_congestion_control",
        ),
        setting(
            "  available",
            "/proc/sys/net/ipv4/tcp_available_congestion_control",
        ),
    ]
}

fn read(context: &Context, path: &str) -> String {
    match fs::read_to_string(context.machine(path)) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => format!("unknown: {error}"),
    }
}

fn splice() -> Result<String> {
    let (pipe_out, pipe_in) = unistd::pipe().context("pipe")?;
    let (socket, mut peer) = UnixStream::pair().context("socketpair")?;
    let placed = fcntl::vmsplice(
        &pipe_in,
        &[IoSlice::new(BYTES)],
        SpliceFFlags::SPLICE_F_NONBLOCK,
    )
    .context("vmsplice")?;
    ensure!(
        placed == BYTES.len(),
        "vmsplice took {placed} of {} bytes",
        BYTES.len()
    );
    let moved = fcntl::splice(
        &pipe_out,
        None,
        &socket,
        None,
        placed,
        SpliceFFlags::empty(),
    )
    .context("splice")?;
    drop(socket);
    let mut arrived = Vec::new();
    peer.read_to_end(&mut arrived)
        .context("reading what was spliced")?;
    ensure!(
        moved == placed && arrived == BYTES,
        "other bytes arrived than were sent"
    );
    Ok("bytes arrived".to_owned())
}

fn tee() -> Result<String> {
    let (first_out, first_in) = unistd::pipe().context("pipe")?;
    let (second_out, second_in) = unistd::pipe().context("pipe")?;
    unistd::write(&first_in, BYTES).context("write")?;
    fcntl::tee(
        &first_out,
        &second_in,
        BYTES.len(),
        SpliceFFlags::SPLICE_F_NONBLOCK,
    )
    .context("tee")?;
    for pipe in [&first_out, &second_out] {
        let mut arrived = [0; BYTES.len()];
        let count = unistd::read(pipe, &mut arrived).context("read")?;
        ensure!(
            &arrived[..count] == BYTES,
            "other bytes arrived than were sent"
        );
    }
    Ok("bytes arrived twice".to_owned())
}

fn sealed_memfd() -> Result<String> {
    let memory = memfd_create(
        c"doctor",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .context("memfd_create")?;
    unistd::ftruncate(&memory, 4096).context("ftruncate")?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl::fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).context("adding seals")?;
    match unistd::ftruncate(&memory, 0) {
        Err(Errno::EPERM) => Ok("seals hold".to_owned()),
        Err(errno) => bail!("shrinking a sealed memfd failed with {errno}, not EPERM"),
        Ok(()) => bail!("a sealed memfd could be shrunk"),
    }
}

fn io_uring(context: &Context) -> Result<String> {
    let ring = io_uring::IoUring::new(2).with_context(|| {
        let disabled = fs::read_to_string(context.machine("/proc/sys/kernel/io_uring_disabled"))
            .unwrap_or_default();
        match disabled.trim() {
            "1" => "kernel.io_uring_disabled = 1 (unprivileged use disabled)",
            "2" => "kernel.io_uring_disabled = 2 (disabled)",
            _ => "io_uring_setup",
        }
    })?;
    let mut operations = io_uring::Probe::new();
    ring.submitter()
        .register_probe(&mut operations)
        .context("asking for its operations")?;
    let supported: Vec<_> = [
        ("SEND_ZC", io_uring::opcode::SendZc::CODE),
        ("SPLICE", io_uring::opcode::Splice::CODE),
    ]
    .into_iter()
    .filter(|(_, code)| operations.is_supported(*code))
    .map(|(name, _)| name)
    .collect();
    Ok(format!(
        "a ring was set up; operations: {}",
        if supported.is_empty() {
            "none of ours".into()
        } else {
            supported.join(", ")
        }
    ))
}

fn peer_credentials() -> Result<String> {
    let (socket, _peer) = UnixStream::pair().context("socketpair")?;
    let peer = getsockopt(&socket, sockopt::PeerCredentials).context("getsockopt")?;
    let own = (unistd::getuid().as_raw(), unistd::getpid().as_raw());
    ensure!(
        (peer.uid(), peer.pid()) == own,
        "the peer is shown as uid {}, pid {}",
        peer.uid(),
        peer.pid()
    );
    Ok(format!("peer known as uid {}", peer.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::tests::context;

    #[test]
    fn a_setting_that_cannot_be_read_is_unknown() {
        let root = tempfile::tempdir().unwrap();
        let context = context(root.path(), &[]);
        assert!(read(&context, "/proc/sys/vm/max_map_count").starts_with("unknown: "));
        fs::create_dir_all(root.path().join("proc/sys/vm")).unwrap();
        fs::write(root.path().join("proc/sys/vm/max_map_count"), "65530\n").unwrap();
        assert_eq!(read(&context, "/proc/sys/vm/max_map_count"), "65530");
    }

    #[test]
    fn probes_that_every_supported_kernel_passes() {
        splice().unwrap();
        tee().unwrap();
        sealed_memfd().unwrap();
        peer_credentials().unwrap();
    }
}
