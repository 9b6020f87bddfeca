//! `send` and `recv` as one would tune them by hand, with the socket options of the links that they are compared with.

use super::{Listens, ListensToTalk, Receives, Sends};
use crate::net::part::Task;
use crate::net::ping::Talks;
use crate::uds::sys::slice;
use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    connect as connect_socket, getsockopt, recv, setsockopt, socket, sockopt, AddressFamily,
    MsgFlags, SockFlag, SockType, SockaddrStorage,
};
use roadrunner_core::Span;
use roadrunner_mem::PageBuffer;
use std::ffi::OsString;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

/// The length of what follows.
const HEADER: usize = 8;
/// Bytes of one call. Of 64 KiB to 4 MiB, with `MSG_WAITALL` and without, this was the fastest at 100 MB: 18.4 ms on
/// loopback, where 256 KiB take 21.6 and 64 KiB 29.
const CHUNK: usize = 1 << 20;
/// A call returns when it has as much as it asked for.
const WHOLE: MsgFlags = MsgFlags::MSG_WAITALL;

pub(in crate::net) fn set_up(socket: &TcpStream) -> Result<()> {
    Ok(socket.set_nodelay(true)?)
}

/// BBR paces, which halves what loopback carries, and what takes its place later goes on pacing. What links do about it, too.
fn no_pacing(socket: &impl AsFd, address: &SocketAddr) -> Result<()> {
    let runs = getsockopt(socket, sockopt::TcpCongestion)?;
    if address.ip().is_loopback() && runs.to_string_lossy().starts_with("bbr") {
        let set = |name: &str| setsockopt(socket, sockopt::TcpCongestion, &OsString::from(name));
        set("cubic").or_else(|_| set("reno"))?;
    }
    Ok(())
}

/// What is accepted has the options of links.
pub(in crate::net) fn bind(address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    no_pacing(&listener, &listener.local_addr()?)?;
    Ok(listener)
}

/// A connection with the options of links.
pub(in crate::net) fn dial(address: &str) -> Result<TcpStream> {
    let address: SocketAddr = address.parse()?;
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    no_pacing(&socket, &address)?;
    connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let socket = TcpStream::from(socket);
    set_up(&socket)?;
    Ok(socket)
}

struct End {
    socket: TcpStream,
    memory: PageBuffer,
    bytes: usize,
}

impl End {
    fn new(socket: TcpStream, bytes: u64) -> Result<Self> {
        set_up(&socket)?;
        let bytes = usize::try_from(bytes)?;
        Ok(Self {
            socket,
            memory: PageBuffer::new(bytes).context("mapping a linear memory")?,
            bytes,
        })
    }

    fn write(&mut self) -> Result<()> {
        let header = (self.bytes as u64).to_le_bytes();
        let payload = &self.memory.as_slice()[..self.bytes];
        let mut sent = 0;
        while sent < HEADER + payload.len() {
            let head = &header[sent.min(HEADER)..];
            let at = sent.saturating_sub(HEADER);
            let body = &payload[at..payload.len().min(at + CHUNK)];
            match self
                .socket
                .write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
            {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => sent += written?,
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut header = [0; HEADER];
        self.socket.read_exact(&mut header)?;
        if u64::from_le_bytes(header) != self.bytes as u64 {
            bail!("another length came");
        }
        let mut span = self.memory.span().split_at(self.bytes).0;
        let memory = slice(&mut span);
        let mut at = 0;
        while at < memory.len() {
            let end = memory.len().min(at + CHUNK);
            match recv(self.socket.as_raw_fd(), &mut memory[at..end], WHOLE) {
                Err(Errno::EINTR) => {}
                Ok(0) => bail!("the sender is gone"),
                read => at += read?,
            }
        }
        Ok(())
    }
}

fn accepted(task: &Task) -> Result<(String, impl FnOnce() -> Result<End>)> {
    let listener = bind(&task.address)?;
    let bytes = task.bytes;
    Ok((listener.local_addr()?.to_string(), move || {
        End::new(listener.accept()?.0, bytes)
    }))
}

fn connected(task: &Task) -> Result<End> {
    End::new(dial(&task.address)?, task.bytes)
}

pub(super) fn listen(task: &Task) -> Result<Listens> {
    let (address, accept) = accepted(task)?;
    Ok((address, Box::new(|| Ok(Box::new(accept()?)))))
}

pub(super) fn connect(task: &Task) -> Result<Box<dyn Sends>> {
    Ok(Box::new(connected(task)?))
}

pub(in crate::net) fn listen_to_talk(task: &Task) -> Result<ListensToTalk> {
    let (address, accept) = accepted(task)?;
    Ok((address, Box::new(|| Ok(Box::new(accept()?)))))
}

pub(in crate::net) fn connect_to_talk(task: &Task) -> Result<Box<dyn Talks>> {
    Ok(Box::new(connected(task)?))
}

impl Sends for End {
    fn place(&mut self) -> Result<Span<'_>> {
        Ok(self.memory.span().split_at(self.bytes).0)
    }

    fn send(&mut self) -> Result<()> {
        self.write()
    }
}

impl Receives for End {
    fn recv(&mut self) -> Result<Span<'_>> {
        self.read()?;
        Ok(self.memory.span().split_at(self.bytes).0)
    }

    fn method(&self) -> String {
        "write".to_owned()
    }
}

impl Talks for End {
    /// Without a header: the least that can be sent.
    fn say(&mut self) -> Result<()> {
        Ok(self
            .socket
            .write_all(&self.memory.as_slice()[..self.bytes])?)
    }

    fn hear(&mut self) -> Result<()> {
        let mut span = self.memory.span().split_at(self.bytes).0;
        Ok(self.socket.read_exact(slice(&mut span))?)
    }

    fn memory(&mut self) -> Result<Span<'_>> {
        Ok(self.memory.span().split_at(self.bytes).0)
    }
}
