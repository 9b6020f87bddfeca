//! What stands for [TLS](https://docs.rs/roadrunner-splice) in a build without the feature `tls`: nothing that anybody could
//! have.

use roadrunner_core::{Deadline, Span, TransferError};
use std::io;
use std::net::TcpStream;

#[derive(Debug, Clone)]
pub(crate) enum Tls {}

#[derive(Debug, Clone)]
pub(crate) enum Acceptor {}

#[derive(Debug)]
pub(crate) enum Tunnel {}

impl Tls {
    pub(crate) fn acceptor(&self) -> Result<Acceptor, TransferError> {
        match *self {}
    }

    pub(crate) fn connecting(&self, _host: &str) -> Result<Tunnel, TransferError> {
        match *self {}
    }
}

impl Acceptor {
    pub(crate) fn accepting(&self) -> Result<Tunnel, TransferError> {
        match *self {}
    }
}

impl Tunnel {
    pub(crate) const COPIES_OUT: u8 = 1;
    pub(crate) const COPIES_IN: u8 = 1;

    pub(crate) fn open(&mut self, _socket: &TcpStream, _deadline: Deadline) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn has_begun_to_accept(&self) -> bool {
        match *self {}
    }

    pub(crate) fn error(&self) -> Option<String> {
        match *self {}
    }

    pub(crate) fn binding(&self) -> Option<[u8; 32]> {
        match *self {}
    }

    pub(crate) fn holds(&self) -> bool {
        match *self {}
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        match *self {}
    }

    pub(crate) fn read(
        &mut self,
        _socket: &TcpStream,
        _into: Span<'_>,
        _deadline: Deadline,
    ) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn write(
        &mut self,
        _socket: &TcpStream,
        _head: &[u8],
        _body: Span<'_>,
        _tail: &[u8],
        _deadline: Deadline,
    ) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn close(&mut self, _socket: &TcpStream) {
        match *self {}
    }
}
