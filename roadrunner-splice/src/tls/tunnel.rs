//! What goes through a connection that is encrypted.

use crate::socket::patiently;
use nix::poll::PollFlags;
use nix::sys::socket::{recv, sendmsg, MsgFlags};
use roadrunner_core::frame::FrameError;
use roadrunner_core::{Deadline, Span};
use rustls::Connection;
use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Bytes of the longest record (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;
/// Bytes that are encrypted before they are sent.
const BATCH: usize = 16 * RECORD;
/// Reads that bring nothing but TLS's own words before whoever asked looks at his clock.
const ASIDES: usize = 64;

/// One end of an encrypted connection: what is written into it comes out at the other end, and nowhere else.
pub(crate) struct Tunnel {
    connection: Connection,
    /// Bytes that are decrypted and wait to be read.
    plain: usize,
    /// What is encrypted next. No slice can be had of what is sent: others may write to it.
    block: Box<[u8; RECORD]>,
    /// 1 if the byte before those that are written next is encrypted already: it was not counted as written, because
    /// not everything up to it was sent.
    owed: usize,
    /// Anything has come.
    heard: bool,
    /// What was wrong with that.
    error: Option<rustls::Error>,
}

impl Tunnel {
    /// How often the processor moves a payload that is sent: into a block, from there into a record, in which it is
    /// encrypted, and into the kernel.
    pub(crate) const COPIES_OUT: u8 = 3;
    /// One that is received: out of the kernel, out of the record in which it was decrypted, and to its place.
    pub(crate) const COPIES_IN: u8 = 3;

    pub(super) fn new(mut connection: Connection) -> Self {
        // A batch is sent before the next one is encrypted.
        connection.set_buffer_limit(None);
        Self {
            connection,
            plain: 0,
            block: Box::new([0; RECORD]),
            owed: 0,
            heard: false,
            error: None,
        }
    }

    /// Shakes hands. After [`TimedOut`](io::ErrorKind::TimedOut) it may be called again, to go on.
    pub(crate) fn open(&mut self, socket: &TcpStream, deadline: Deadline) -> io::Result<()> {
        loop {
            self.flush(socket, deadline)?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            if !self.fill(socket, deadline)? {
                // Shut down instead of reset: here it is the same.
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    /// Whether this end was connected to, and has heard something.
    pub(crate) fn has_begun_to_accept(&self) -> bool {
        self.heard && matches!(self.connection, Connection::Server(_))
    }

    /// What is wrong with what the peer said, or what it says is wrong with what this end said.
    pub(crate) fn error(&self) -> Option<String> {
        self.error.as_ref().map(ToString::to_string)
    }

    /// What both ends of this tunnel know, and no other's (RFC 9266). `None` before hands are shaken.
    pub(crate) fn binding(&self) -> Option<[u8; 32]> {
        self.connection
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]))
            .ok()
    }

    /// Whether something can be read although the socket may not be readable.
    pub(crate) fn holds(&self) -> bool {
        self.plain > 0
    }

    /// Whether something that is encrypted could not be sent without waiting.
    pub(crate) fn wants_to_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// As [`Wire::read`](roadrunner_core::stream::Wire::read).
    pub(crate) fn read(
        &mut self,
        socket: &TcpStream,
        into: Span<'_>,
        deadline: Deadline,
    ) -> io::Result<usize> {
        let mut asides = 0;
        while self.plain == 0 {
            if asides >= ASIDES && deadline.has_passed() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if !self.fill(socket, deadline)? {
                return Ok(0);
            }
            asides += 1;
        }
        let mut reader = self.connection.reader();
        let mut got = 0;
        while got < into.len() && self.plain > 0 {
            let count = into.split_at(got).1.copy_from_slice(reader.fill_buf()?);
            reader.consume(count);
            self.plain -= count;
            got += count;
        }
        Ok(got)
    }

    /// As [`Wire::write`](roadrunner_core::stream::Wire::write), of three parts.
    ///
    /// What has been encrypted cannot be taken back, so it counts as written though it may still wait here; its last byte
    /// does not, until all of it is sent.
    pub(crate) fn write(
        &mut self,
        socket: &TcpStream,
        head: &[u8],
        body: Span<'_>,
        tail: &[u8],
        deadline: Deadline,
    ) -> io::Result<usize> {
        self.flush(socket, deadline)?;
        let all = head.len() + body.len() + tail.len();
        let mut taken = std::mem::take(&mut self.owed);
        let most = all.min(taken + BATCH);
        while taken < most {
            let count = gather(&mut self.block[..], taken, head, body, tail);
            let sealed = self.connection.writer().write_all(&self.block[..count]);
            sealed.map_err(|_| io::ErrorKind::ConnectionAborted)?;
            taken += count;
        }
        match self.flush(socket, deadline) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.owed = usize::from(taken == all);
                match taken - self.owed {
                    0 => Err(error),
                    counted => Ok(counted),
                }
            }
            flushed => flushed.map(|()| taken),
        }
    }

    /// Says that nothing follows, if that can be said at once.
    pub(crate) fn close(&mut self, socket: &TcpStream) {
        if !self.connection.is_handshaking() {
            self.connection.send_close_notify();
            let _ = self.flush(socket, Deadline::now());
        }
    }

    /// Sends what is encrypted.
    fn flush(&mut self, socket: &TcpStream, deadline: Deadline) -> io::Result<()> {
        let connection = &mut self.connection;
        while connection.wants_write() {
            patiently(socket, PollFlags::POLLOUT, deadline, |socket| {
                connection.write_tls(&mut Bare(socket))
            })?;
        }
        Ok(())
    }

    /// Reads something, and decrypts what is complete of it. False at the end.
    fn fill(&mut self, socket: &TcpStream, deadline: Deadline) -> io::Result<bool> {
        // An earlier answer for which there was no room.
        let _ = self.flush(socket, Deadline::now());
        let connection = &mut self.connection;
        let count = patiently(socket, PollFlags::POLLIN, deadline, |socket| {
            connection.read_tls(&mut Bare(socket))
        })?;
        if count == 0 {
            return Ok(false);
        }
        self.heard = true;
        let come = connection.process_new_packets();
        // An answer, or what is wrong. Nobody waits here for the peer to take it.
        let _ = self.flush(socket, Deadline::now());
        match come {
            Ok(state) => {
                self.plain = state.plaintext_bytes_to_read();
                Ok(true)
            }
            Err(error) => {
                self.error = Some(error);
                let broken = FrameError::Unexpected("what TLS does not accept");
                Err(io::Error::new(io::ErrorKind::InvalidData, broken))
            }
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

/// Fills a block with what lies at `at` of the three in a row. Says how many bytes.
fn gather(block: &mut [u8], at: usize, head: &[u8], body: Span<'_>, tail: &[u8]) -> usize {
    let of_head = &head[at.min(head.len())..];
    let at = at.saturating_sub(head.len());
    let of_body = body.split_at(at.min(body.len())).1;
    let of_tail = &tail[at.saturating_sub(body.len()).min(tail.len())..];
    let in_head = of_head.len().min(block.len());
    let (front, rest) = block.split_at_mut(in_head);
    front.copy_from_slice(&of_head[..in_head]);
    let in_body = of_body.copy_to_slice(rest);
    let rest = &mut rest[in_body..];
    let in_tail = of_tail.len().min(rest.len());
    rest[..in_tail].copy_from_slice(&of_tail[..in_tail]);
    in_head + in_body + in_tail
}

/// The connection as rustls reads and writes it: without waiting and without `SIGPIPE`.
struct Bare<'a>(BorrowedFd<'a>);

impl Read for Bare<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl Write for Bare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(sendmsg::<()>(
            self.0.as_fd().as_raw_fd(),
            parts,
            &[],
            flags,
            None,
        )?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_are_one_row_wherever_it_is_cut() {
        let mut body = *b"defgh";
        let body = Span::from_slice(&mut body);
        for at in 0..=10 {
            for len in 1..12 {
                let mut block = vec![0; len];
                let count = gather(&mut block, at, b"abc", body, b"ij");
                let rest = &b"abcdefghij"[at..];
                assert_eq!(&block[..count], &rest[..rest.len().min(len)], "{at} {len}");
            }
        }
    }
}
