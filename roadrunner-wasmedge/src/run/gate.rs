//! Where a worker process listens for its predecessors, and how it reaches its successors.

use super::event::Failure;
use super::links::Link;
use super::NetworkMethod;
use roadrunner_core::{Deadline, TransferError};
use roadrunner_mem::Audience;
use roadrunner_splice as tcp;
use roadrunner_uds as unix;
use std::io::ErrorKind;

/// The worker's own address, if it has predecessors, and what it connects with.
pub(crate) struct Gate {
    listener: Option<Listener>,
    options: Options,
}

enum Listener {
    Unix(unix::Listener),
    Tcp(tcp::Listener),
}

/// How to listen and to connect.
pub(crate) enum Options {
    Unix(UnixOptions),
    Tcp(tcp::Options),
}

pub(crate) struct UnixOptions {
    options: unix::Options,
    /// Neighbours at trusted edges.
    trusted: Vec<String>,
}

impl Gate {
    /// Over UNIX sockets. Everybody who is connected to is of this audience; edges to and from the `trusted` ones are
    /// trusted, if the other end says so too. With `slots`, what comes in segments is mapped here.
    pub(crate) fn unix(audience: Audience, trusted: &[String], slots: bool) -> Options {
        Options::Unix(UnixOptions {
            options: unix::Options::default().audience(audience).slots(slots),
            trusted: trusted.to_vec(),
        })
    }

    /// Over TCP.
    pub(crate) fn tcp(method: NetworkMethod, secret: &str) -> Result<Options, Failure> {
        let secret =
            tcp::Secret::from_bytes(secret).map_err(|error| Failure::new(error.to_string()))?;
        let options = tcp::Options::default().secret(secret);
        Ok(Options::Tcp(options.prefer(method.into())))
    }

    /// Listens at `address`, if anybody is to come.
    pub(crate) fn open(options: Options, address: &str, listens: bool) -> Result<Self, Failure> {
        let failed =
            |error: TransferError| Failure::new(format!("cannot listen at {address}: {error}"));
        let listener = match &options {
            _ if !listens => None,
            Options::Unix(UnixOptions { options, trusted }) => {
                let address = unix_address(address)?;
                // A link is called like the function that it comes from.
                let options = options.clone().trust_links(trusted.iter().cloned());
                let listener = unix::Listener::bind(address, options).map_err(failed)?;
                Some(Listener::Unix(listener))
            }
            Options::Tcp(options) => {
                let listener = tcp::Listener::bind(address, options.clone()).map_err(failed)?;
                Some(Listener::Tcp(listener))
            }
        };
        Ok(Self { listener, options })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Option<String> {
        Some(match self.listener.as_ref()? {
            Listener::Unix(listener) => listener.address().to_string(),
            Listener::Tcp(listener) => listener.address().to_string(),
        })
    }

    /// A link to the successor `to`, which hears it called `from`.
    pub(crate) fn connect(
        &self,
        to: &str,
        address: &str,
        from: &str,
        deadline: Deadline,
    ) -> Result<Link, Failure> {
        match &self.options {
            Options::Unix(UnixOptions { options, trusted }) => {
                let options = options
                    .clone()
                    .trusted(trusted.iter().any(|name| name == to));
                unix::connect(&unix_address(address)?, from, &options, deadline).map(unix_link)
            }
            Options::Tcp(options) => tcp::connect(address, from, options, deadline).map(tcp_link),
        }
        .map_err(|error| Failure::transfer(&format!("connecting to `{to}`"), &error))
    }

    /// A link from each of the predecessors. Then nobody listens here any more.
    pub(crate) fn accept(
        mut self,
        predecessors: &[String],
        deadline: Deadline,
    ) -> Result<Vec<(String, Link)>, Failure> {
        let mut links: Vec<(String, Link)> = Vec::new();
        while links.len() < predecessors.len() {
            let accepted = match &mut self.listener {
                Some(Listener::Unix(listener)) => listener.accept(deadline).map(unix_link),
                Some(Listener::Tcp(listener)) => listener.accept(deadline).map(tcp_link),
                None => break,
            };
            // Not one of ours, or why nobody can come any more.
            let error = match accepted {
                Ok(link) => {
                    let from = link.name().to_owned();
                    let known = predecessors.contains(&from);
                    if known && links.iter().all(|(other, _)| *other != from) {
                        links.push((from, link));
                        continue;
                    }
                    None
                }
                Err(error) if ends_listening(&error) => Some(error),
                Err(_) => None,
            };
            // Strangers who come one after the other put no deadline off.
            let late = deadline.has_passed().then_some(TransferError::Timeout);
            if let Some(error) = error.or(late) {
                let missing: Vec<_> = predecessors
                    .iter()
                    .filter(|name| links.iter().all(|(from, _)| from != *name))
                    .map(String::as_str)
                    .collect();
                let doing = format!("waiting for `{}` to connect", missing.join("`, `"));
                return Err(Failure::transfer(&doing, &error));
            }
        }
        Ok(links)
    }
}

/// Whether nobody can come any more; all other errors are of one peer, who is not one of ours.
fn ends_listening(error: &TransferError) -> bool {
    match error {
        TransferError::Timeout => true,
        // A peer that is gone before it was looked at.
        TransferError::Io { source, .. } => !matches!(
            source.kind(),
            ErrorKind::NotConnected | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
        ),
        _ => false,
    }
}

fn unix_link(link: unix::Link) -> Link {
    Link::Unix(Box::new(link))
}

fn tcp_link(link: tcp::Link) -> Link {
    Link::Tcp(Box::new(link))
}

fn unix_address(address: &str) -> Result<unix::Address, Failure> {
    address
        .parse()
        .map_err(|error: unix::AddressError| Failure::new(error.to_string()))
}
