//! Addresses taken, and given back.

use crate::address::Address;
use crate::socket::hang_up;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{bind, connect, listen, socket, AddressFamily, Backlog, SockFlag, SockType};
use nix::sys::stat::{fchmod, Mode};
use roadrunner_core::Deadline;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

/// How long another process may hold the lock on the directory of a socket file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

/// One attempt to connect, without waiting.
pub(crate) fn try_connect(address: &Address) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    connect(socket.as_raw_fd(), &address.to_unix()?)?;
    Ok(socket)
}

pub(crate) fn bind_and_listen(address: &Address) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    // Before bind, so that the file has these permissions from its first moment on.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &address.to_unix()?)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

pub(crate) fn bind_file(path: &Path, address: &Address) -> io::Result<(OwnedFd, SocketFile)> {
    let _lock = lock_directory(path.parent().unwrap_or(path))?;
    let socket = match bind_and_listen(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_if_stale(path, address)?;
            bind_and_listen(address)?
        }
        bound => bound?,
    };
    let file = SocketFile::at(path)?;
    Ok((socket, file))
}

fn lock_directory(directory: &Path) -> io::Result<Flock<File>> {
    let deadline = Deadline::after(LOCK_TIMEOUT);
    let mut file = File::open(directory).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("its directory cannot be opened: {error}"),
        )
    })?;
    loop {
        let errno = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, errno)) => {
                file = unlocked;
                errno
            }
        };
        if errno != Errno::EWOULDBLOCK && errno != Errno::EINTR {
            return Err(errno.into());
        }
        if deadline.has_passed() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "another process holds a lock on its directory; choose a directory of your own",
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove_if_stale(path: &Path, address: &Address) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is no socket is there; remove it or choose another address",
        ));
    }
    match try_connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Somebody listens, and may have sent something already.
        Ok(socket) => {
            hang_up(socket.as_fd());
            Err(io::ErrorKind::AddrInUse.into())
        }
        // Its queue is full.
        Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// A socket file that this process made, removed with this value unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: inode(path)?,
        })
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            // A directory that has become read-only keeps the file: it is stale, and the next listener replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
