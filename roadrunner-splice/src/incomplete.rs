//! Links of a listener of which some connections have yet to come.

use crate::link::Link;
use crate::places::origin;
use crate::streams::Token;
use roadrunner_core::{Deadline, TransferError};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Those that there are at a time.
const MOST: usize = 64;

/// The tokens of links that wait for connections, for whoever has to know before it says hello.
#[derive(Debug, Clone, Default)]
pub(crate) struct Awaited(Arc<Mutex<Vec<Token>>>);

impl Awaited {
    pub(crate) fn has(&self, token: Token) -> bool {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.contains(&token)
    }

    fn set(&self, tokens: Vec<Token>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
    }
}

/// A bounded number of links, each with a bounded time for each of its connections.
#[derive(Debug)]
pub(crate) struct Incomplete {
    /// The oldest first.
    waiting: Vec<Waiting>,
    awaited: Awaited,
    patience: Duration,
}

#[derive(Debug)]
struct Waiting {
    link: Link,
    token: Token,
    /// When its next connection has to be there.
    until: Deadline,
}

impl Incomplete {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            waiting: Vec::new(),
            awaited: Awaited::default(),
            patience,
        }
    }

    pub(crate) fn awaited(&self) -> &Awaited {
        &self.awaited
    }

    /// When the first of them will have waited too long.
    pub(crate) fn until(&self) -> Option<Deadline> {
        self.waiting.iter().map(|one| one.until).min()
    }

    /// Drops those that have waited too long. Their peers are told by the end of the connection.
    pub(crate) fn drop_late(&mut self) {
        self.waiting.retain(|one| !one.until.has_passed());
        self.tell();
    }

    /// A link that is not complete. If there are too many, one goes.
    pub(crate) fn add(&mut self, link: Link) {
        let token = link.wire().streams.token(false);
        self.waiting.push(Waiting {
            link,
            token,
            until: Deadline::after(self.patience),
        });
        if self.waiting.len() > MOST {
            let origin = |one: &Waiting| origin(one.link.wire().peer().ip());
            let origins: Vec<_> = self.waiting.iter().map(origin).collect();
            drop(self.waiting.remove(whose_turn_to_go(&origins)));
        }
        self.tell();
    }

    /// A connection of the link that knows this token; the link, if it was the last one. Connections come one after the
    /// other, and each takes several round trips: the next one has as much time as this one had.
    pub(crate) fn join(&mut self, token: Token, one: Link) -> Result<Option<Link>, TransferError> {
        let Some(index) = self.waiting.iter().position(|one| one.token == token) else {
            return Err(unexpected(one.wire().peer()));
        };
        let waiting = &mut self.waiting[index];
        waiting.until = Deadline::after(self.patience);
        let streams = &mut waiting.link.wire_mut().streams;
        streams.add(one.into_wire());
        if streams.missing() > 0 {
            return Ok(None);
        }
        let link = self.waiting.remove(index).link;
        self.tell();
        Ok(Some(link))
    }

    fn tell(&self) {
        self.awaited
            .set(self.waiting.iter().map(|one| one.token).collect());
    }
}

/// What a peer is told, and the listener's user, if it brings a connection of a link that is complete, gone, or none.
pub(crate) fn unexpected(peer: SocketAddr) -> TransferError {
    TransferError::Refused(format!(
        "the peer {peer} brings one more connection of a link that waits for none"
    ))
}

/// The oldest of the origin that has most, as in a [`Lobby`](roadrunner_mem::Lobby): who opens many drops his own.
fn whose_turn_to_go(origins: &[IpAddr]) -> usize {
    let count = |one: &IpAddr| origins.iter().filter(|other| *other == one).count();
    let most = origins.iter().map(count).max();
    let whose = |one: &IpAddr| Some(count(one)) == most;
    origins.iter().position(whose).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::wire::TcpWire;
    use roadrunner_core::testing::soon;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    #[test]
    fn the_oldest_of_the_origin_that_has_most_goes() {
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        assert_eq!(whose_turn_to_go(&[a, b, c, b]), 1);
        assert_eq!(whose_turn_to_go(&[a, b, c, c, b, c]), 2);
        assert_eq!(whose_turn_to_go(&[a, b, c]), 0);
    }

    /// Both ends of a connection, which joins a link if it has a token.
    fn pair(token: Option<Token>) -> [Link; 2] {
        let options = Options::default().streams(3);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let near = TcpStream::connect(address).expect("it listens");
        let far = listener.accept().expect("connected").0;
        let [mut near, far] =
            [near, far].map(|socket| TcpWire::new(socket, &options, None).expect("connected"));
        let name = token.map_or("first".to_owned(), Token::name);
        if let Some(token) = token {
            near.streams.join(token);
        }
        thread::scope(|scope| {
            let near = scope.spawn(|| Link::connect(near, &name, 1 << 20, soon()));
            let far = Link::accept(far, 1 << 20, soon()).expect("open");
            [near.join().expect("no panic").expect("open"), far]
        })
    }

    #[test]
    fn each_connection_of_a_link_has_its_own_time() {
        let mut incomplete = Incomplete::new(Duration::from_secs(100));
        assert!(incomplete.until().is_none());
        let [near, first] = pair(None);
        let token = near.wire().streams.token(true);
        incomplete.add(first);
        assert!(incomplete.awaited().has(token));
        // Nearly over.
        let late = Deadline::after(Duration::from_secs(10));
        incomplete.waiting[0].until = late;
        let [_second, joins] = pair(Some(token));
        assert!(matches!(incomplete.join(token, joins), Ok(None)));
        assert!(incomplete.until().expect("one waits") > late);
        let [_third, joins] = pair(Some(token));
        let link = incomplete.join(token, joins).expect("it waits");
        assert_eq!(link.expect("complete").wire().streams(), 3);
        assert!(!incomplete.awaited().has(token));
        let [_fourth, joins] = pair(Some(token));
        let refused = incomplete.join(token, joins);
        assert!(matches!(refused, Err(TransferError::Refused(_))));
    }
}
