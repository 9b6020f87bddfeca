//! AF_UNIX by hand: a length of 8 bytes and the payload, gathered in one `sendmsg` where the socket has room. Small ones are
//! read many at a time and copied to their place, large ones are read into it.
//!
//! The numbers are the best of a sweep on 2 virtual cores (see the README of `roadrunner-uds`).

use super::{Accepts, Receives, Sends};
use crate::uds::sys;
use anyhow::{bail, Result};
use nix::sys::socket::{setsockopt, sockopt};
use roadrunner_core::Span;
use roadrunner_mem::PageBuffer;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

const HEADER: usize = size_of::<u64>();
/// Bytes of the socket's buffer.
const BUFFER: usize = 512 << 10;
/// Bytes of one `write` or `read`.
const CHUNK: usize = 1 << 20;
/// Bytes that are read ahead, and the longest payload that passes through them.
const AHEAD: usize = 64 << 10;

/// `socket`, or `socket-BUFFER-CHUNK-AHEAD` in KiB, for the sweep.
fn tuned(numbers: &str) -> [usize; 3] {
    let mut tuned = [BUFFER, CHUNK, AHEAD];
    for (at, number) in numbers.split('-').enumerate() {
        if let (Some(tuned), Ok(number)) = (tuned.get_mut(at), number.parse::<usize>()) {
            *tuned = number << 10;
        }
    }
    tuned
}

fn set_up(socket: &UnixStream, buffer: usize) -> Result<()> {
    setsockopt(socket, sockopt::SndBuf, &buffer)?;
    setsockopt(socket, sockopt::RcvBuf, &buffer)?;
    Ok(())
}

pub(super) fn listen(numbers: &str, bytes: u64, directory: &Path) -> Result<(String, Accepts)> {
    let [buffer, chunk, ahead] = tuned(numbers);
    let path = directory.join("socket");
    let listener = UnixListener::bind(&path)?;
    let accept = move || {
        let (socket, _) = listener.accept()?;
        set_up(&socket, buffer)?;
        Ok(Box::new(Receiver {
            socket,
            memory: PageBuffer::new(bytes as usize)?,
            chunk,
            ahead: vec![0; ahead.max(HEADER)],
            start: 0,
            end: 0,
        }) as Box<dyn Receives>)
    };
    Ok((path.display().to_string(), Box::new(accept)))
}

struct Receiver {
    socket: UnixStream,
    memory: PageBuffer,
    chunk: usize,
    ahead: Vec<u8>,
    start: usize,
    end: usize,
}

impl Receiver {
    /// Has at least `len` bytes read ahead.
    fn have(&mut self, len: usize) -> Result<()> {
        if self.end - self.start >= len {
            return Ok(());
        }
        self.ahead.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < len {
            self.end += read(&mut self.socket, &mut self.ahead[self.end..])?;
        }
        Ok(())
    }
}

fn read(socket: &mut UnixStream, into: &mut [u8]) -> Result<usize> {
    loop {
        match socket.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) => bail!("the sender is gone"),
            done => return Ok(done?),
        }
    }
}

impl Receives for Receiver {
    fn recv(&mut self) -> Result<Span<'_>> {
        self.have(HEADER)?;
        let mut header = [0; HEADER];
        header.copy_from_slice(&self.ahead[self.start..self.start + HEADER]);
        self.start += HEADER;
        let len = u64::from_le_bytes(header) as usize;
        if len + HEADER <= self.ahead.len() {
            self.have(len)?;
        }
        let ready = &self.ahead[self.start..self.end];
        let mut span = self.memory.span().split_at(len).0;
        let got = span.copy_from_slice(ready);
        self.start += got;
        let rest = sys::slice(&mut span);
        let mut at = got;
        while at < len {
            let end = len.min(at + self.chunk);
            at += read(&mut self.socket, &mut rest[at..end])?;
        }
        Ok(self.memory.span().split_at(len).0)
    }

    fn method(&self) -> String {
        "write".to_owned()
    }
}

pub(super) fn connect(numbers: &str, bytes: u64, address: &str) -> Result<Box<dyn Sends>> {
    let [buffer, chunk, _] = tuned(numbers);
    let socket = UnixStream::connect(address)?;
    set_up(&socket, buffer)?;
    Ok(Box::new(Sender {
        socket,
        memory: PageBuffer::new(bytes as usize)?,
        bytes: bytes as usize,
        chunk,
    }))
}

struct Sender {
    socket: UnixStream,
    memory: PageBuffer,
    bytes: usize,
    chunk: usize,
}

impl Sends for Sender {
    fn place(&mut self) -> Result<Span<'_>> {
        Ok(self.memory.span().split_at(self.bytes).0)
    }

    fn send(&mut self) -> Result<()> {
        let header = (self.bytes as u64).to_le_bytes();
        let payload = &self.memory.as_slice()[..self.bytes];
        let mut sent = 0;
        while sent < HEADER + payload.len() {
            let head = &header[sent.min(HEADER)..];
            let at = sent.saturating_sub(HEADER);
            let body = &payload[at..payload.len().min(at + self.chunk)];
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
}
