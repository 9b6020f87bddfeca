//! The hellos of both sides, before there is a link.

use super::wire::{read_all, write_all, Wire};
use super::{StreamLink, Wants};
use crate::deadline::Deadline;
use crate::error::TransferError;
use crate::frame::{Header, Hello, HEADER_LEN};
use crate::region::Span;

/// A link that is being opened, in as many steps as its peer makes necessary.
#[derive(Debug)]
pub struct Opening<W> {
    /// Until it is the link's.
    wire: Option<W>,
    limit: u64,
    /// The name, on the side that chooses it.
    name: Option<String>,
    /// Our hello, once it can be said.
    ours: Vec<u8>,
    sent: u64,
    header: [u8; HEADER_LEN],
    body: Vec<u8>,
    /// Bytes of their hello.
    got: u64,
}

impl<W: Wire> Opening<W> {
    /// From the side that connected: a link of this name that takes payloads of up to `limit` bytes.
    ///
    /// # Errors
    /// [`Protocol`](TransferError::Protocol) if the name is too long.
    pub fn connect(wire: W, name: &str, limit: u64) -> Result<Self, TransferError> {
        let hello = Hello::new(limit, name)?
            .with_checksums(wire.checksums())
            .with_offers(wire.offers());
        let mut opening = Self::accept(wire, limit);
        opening.name = Some(name.to_owned());
        opening.ours = hello.encode();
        Ok(opening)
    }

    /// From the side that accepted; the name is the one that the peer says.
    #[must_use]
    pub fn accept(wire: W, limit: u64) -> Self {
        Self {
            wire: Some(wire),
            limit,
            name: None,
            ours: Vec::new(),
            sent: 0,
            header: [0; HEADER_LEN],
            body: Vec::new(),
            got: 0,
        }
    }

    /// The stream beneath; `None` once it is a link's.
    #[must_use]
    pub fn wire(&self) -> Option<&W> {
        self.wire.as_ref()
    }

    /// What to wait for before it is tried again to go on without waiting.
    #[must_use]
    pub fn wants(&self) -> Wants {
        let write = self.sent < self.ours.len() as u64;
        Wants {
            read: !write,
            write,
        }
    }

    /// Goes on until there is a link, or the deadline passes: then it may be called again.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout), [`PeerClosed`](TransferError::PeerClosed),
    /// [`Truncated`](TransferError::Truncated), [`Protocol`](TransferError::Protocol) if the peer speaks something else,
    /// [`Broken`](TransferError::Broken) if there was a link already.
    pub fn open(&mut self, deadline: Deadline) -> Result<StreamLink<W>, TransferError> {
        let wire = self.wire.as_mut().ok_or(TransferError::Broken)?;
        // Nothing to say yet on the side that accepts.
        write_all(wire, &self.ours, Span::empty(), &mut self.sent, deadline)?;
        let theirs = read_hello(
            wire,
            &mut self.header,
            &mut self.body,
            &mut self.got,
            deadline,
        )?;
        let name = self.name.as_deref().unwrap_or(theirs.name());
        wire.meet(name, theirs.offers())?;
        if self.name.is_none() {
            let hello = Hello::new(self.limit, theirs.name())?;
            self.ours = hello
                .with_checksums(wire.checksums())
                .with_offers(wire.offers())
                .encode();
            write_all(wire, &self.ours, Span::empty(), &mut self.sent, deadline)?;
        }
        let checksums = wire.checksums().agree(theirs.checksums())?;
        let name = self.name.take();
        let name = name.unwrap_or_else(|| theirs.name().to_owned());
        let limit = self.limit.min(theirs.limit());
        let mut wire = self.wire.take().ok_or(TransferError::Broken)?;
        wire.opened(checksums);
        Ok(StreamLink::fresh(wire, name, limit))
    }
}

/// Goes on reading a hello of which `got` bytes are there.
fn read_hello<W: Wire>(
    wire: &mut W,
    header: &mut [u8; HEADER_LEN],
    body: &mut Vec<u8>,
    got: &mut u64,
    deadline: Deadline,
) -> Result<Hello, TransferError> {
    const HEADER: u64 = HEADER_LEN as u64;
    if *got < HEADER {
        read_all(wire, Span::from_slice(header), 0, got, deadline)?;
    }
    let header = Header::decode(header)?;
    body.resize(Hello::body_len(&header)?, 0);
    let mut of_body = *got - HEADER;
    let read = read_all(
        wire,
        Span::from_slice(body),
        HEADER_LEN,
        &mut of_body,
        deadline,
    );
    *got = HEADER + of_body;
    read?;
    Ok(Hello::decode_body(body)?.with_offers(header.sequence))
}
