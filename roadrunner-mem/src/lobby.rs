//! Peers that have connected to a listener and have yet to say who they are and what they want.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};
use roadrunner_core::{Deadline, TransferError};
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A peer that has connected and is not let in yet. It is displayed as what it is called in errors.
pub trait Caller: Display {
    /// Who it is, as far as places go: one who has many of them is the first to lose one.
    type Owner: PartialEq;
    /// What it wants.
    type Link: AsFd;

    /// Who it is.
    fn owner(&self) -> Self::Owner;

    /// Its connection; `None` once it has entered.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Whether it goes on when the connection has room to be written to, and not before; otherwise, which is the default,
    /// it waits for what the other side says.
    fn wants_to_write(&self) -> bool {
        false
    }

    /// Goes on as far as that is possible without waiting.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout) if more has to come first.
    fn try_enter(&mut self) -> Result<Self::Link, TransferError>;
}

/// A bounded number of [`Caller`]s, each with a bounded time. None of them holds up another, and those that say nothing
/// cannot keep others out: when all places are taken the oldest caller of the owner with the most of them goes.
///
/// For listeners of transports. Its descriptor becomes readable when [`try_next`](Self::try_next) has something to do.
#[derive(Debug)]
pub struct Lobby<C> {
    /// The oldest first.
    waiting: Vec<Waiting<C>>,
    most: usize,
    patience: Duration,
    next: u64,
    /// Watches the socket, all who wait, and the timer.
    epoll: Epoll,
    /// Rings when the first of those who wait has waited long enough.
    timer: TimerFd,
}

#[derive(Debug)]
struct Waiting<C> {
    number: u64,
    caller: C,
    until: Deadline,
    /// It is watched for room to write.
    writes: bool,
}

/// Rounds of what happens at the door before whoever asked looks at his clock: those who come and leave at once, one after
/// the other, are not to keep him.
const ROUNDS: usize = 64;
/// What epoll(7) says of the listening socket, and of the timer; callers have other numbers.
const SOCKET: u64 = 0;
const TIMER: u64 = 1;

impl<C: Caller> Lobby<C> {
    /// A lobby for `most` callers of a listening `socket`, each of which has `patience` to say what it wants.
    ///
    /// # Errors
    /// [`Io`](TransferError::Io) if the system has no descriptors left.
    pub fn new(socket: &impl AsFd, most: usize, patience: Duration) -> Result<Self, TransferError> {
        let watch = || -> nix::Result<(Epoll, TimerFd)> {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, SOCKET))?;
            epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
            Ok((epoll, timer))
        };
        let (epoll, timer) = watch().map_err(failed("watch a listener"))?;
        Ok(Self {
            waiting: Vec::new(),
            most: most.max(1),
            patience,
            next: TIMER + 1,
            epoll,
            timer,
        })
    }

    /// The link of a caller that has said all it has to say; `None` if there is none now, or if much else happened first:
    /// then the descriptor stays readable. `accept` takes the next connection of the socket, if there is one.
    ///
    /// # Errors
    /// What `accept` or a caller returned, other than that it has to wait, or that it left without a word.
    /// [`Refused`](TransferError::Refused) for one that takes too long. Either way the others go on.
    pub fn try_next(
        &mut self,
        mut accept: impl FnMut() -> Result<Option<C>, TransferError>,
    ) -> Result<Option<C::Link>, TransferError> {
        for _ in 0..ROUNDS {
            let mut events = [EpollEvent::empty(); 16];
            let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(failed("wait for peers")(errno)),
            };
            // What is not dealt with is told again.
            for event in &events[..count] {
                let link = match event.data() {
                    SOCKET => match accept()? {
                        Some(caller) => self.take_in(caller)?,
                        None => None,
                    },
                    TIMER => self.drop_silent().map(|()| None)?,
                    number => {
                        let caller = self.waiting.iter().position(|one| one.number == number);
                        caller.map_or(Ok(None), |index| self.listen_to(index))?
                    }
                };
                if link.is_some() {
                    return Ok(link);
                }
            }
        }
        Ok(None)
    }

    /// Hears whether one who waits has said all by now.
    fn listen_to(&mut self, index: usize) -> Result<Option<C::Link>, TransferError> {
        match self.waiting[index].caller.try_enter() {
            Err(TransferError::Timeout) => self.watch(index).map(|()| None),
            Ok(link) => {
                // It was added when it came; if it cannot be taken out, it tells of a number that nobody has.
                let _ = self.epoll.delete(&link);
                self.forget(index)?;
                Ok(Some(link))
            }
            Err(error) => {
                self.forget(index)?;
                match error {
                    // It only looked whether somebody is here, and left.
                    TransferError::PeerClosed => Ok(None),
                    error => Err(error),
                }
            }
        }
    }

    /// Waits with one for what it waits for.
    fn watch(&mut self, index: usize) -> Result<(), TransferError> {
        let one = &mut self.waiting[index];
        let writes = one.caller.wants_to_write();
        let (true, Some(descriptor)) = (writes != one.writes, one.caller.descriptor()) else {
            return Ok(());
        };
        // Not for both: what it does not read while it has to write would be told without end.
        let flags = if writes {
            EpollFlags::EPOLLOUT
        } else {
            EpollFlags::EPOLLIN
        };
        self.epoll
            .modify(descriptor, &mut EpollEvent::new(flags, one.number))
            .map_err(failed("watch a peer"))?;
        one.writes = writes;
        Ok(())
    }

    /// Whoever says all at once does not wait.
    fn take_in(&mut self, caller: C) -> Result<Option<C::Link>, TransferError> {
        let number = self.next;
        self.next += 1;
        if let Some(descriptor) = caller.descriptor() {
            self.epoll
                .add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, number))
                .map_err(failed("watch a peer"))?;
        }
        self.waiting.push(Waiting {
            number,
            caller,
            until: Deadline::after(self.patience),
            writes: false,
        });
        if self.waiting.len() == 1 {
            self.set_timer()?;
        }
        let link = self.listen_to(self.waiting.len() - 1)?;
        if self.waiting.len() > self.most {
            let index = self.whose_turn_to_go();
            let refused = TransferError::Refused(format!(
                "{} connected and did not say what it wants while {} others waited",
                self.waiting[index].caller, self.most
            ));
            self.forget(index)?;
            return Err(refused);
        }
        Ok(link)
    }

    /// The oldest of the owner that has most places.
    fn whose_turn_to_go(&self) -> usize {
        let places = |one: &Waiting<C>| {
            let theirs = |other: &&Waiting<C>| other.caller.owner() == one.caller.owner();
            self.waiting.iter().filter(theirs).count()
        };
        let most = self.waiting.iter().map(places).max();
        let whose = |one: &Waiting<C>| Some(places(one)) == most;
        self.waiting.iter().position(whose).unwrap_or(0)
    }

    /// Removes one who waits; closing its socket takes it out of epoll(7) too.
    fn forget(&mut self, index: usize) -> Result<(), TransferError> {
        drop(self.waiting.remove(index));
        if index == 0 {
            self.set_timer()?;
        }
        Ok(())
    }

    /// Lets the timer ring when the time of the oldest is over.
    fn set_timer(&mut self) -> Result<(), TransferError> {
        const AT_ONCE: Duration = Duration::from_nanos(1);
        let set = match self.waiting.first() {
            Some(oldest) => {
                let left = oldest.until.remaining().unwrap_or(AT_ONCE);
                let once = Expiration::OneShot(TimeSpec::from_duration(left.max(AT_ONCE)));
                self.timer.set(once, TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        set.map_err(failed("set a timer"))
    }

    /// Turns away the oldest if its time is over, and sets the timer for the next one.
    fn drop_silent(&mut self) -> Result<(), TransferError> {
        match self.waiting.first() {
            Some(oldest) if oldest.until.has_passed() => {
                let refused = TransferError::Refused(format!(
                    "{} connected and did not say who it is and what it wants within {:?}",
                    oldest.caller, self.patience
                ));
                self.forget(0)?;
                Err(refused)
            }
            _ => self.set_timer(),
        }
    }
}

impl<C> AsFd for Lobby<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

fn failed(doing: &'static str) -> impl Fn(nix::errno::Errno) -> TransferError {
    move |errno| TransferError::Io {
        doing,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
    use std::cell::Cell;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    /// It leaves without a word.
    struct Gone(UnixStream);

    impl std::fmt::Display for Gone {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("somebody")
        }
    }

    impl Caller for Gone {
        type Owner = ();
        type Link = UnixStream;
        fn owner(&self) {}
        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }
        fn try_enter(&mut self) -> Result<UnixStream, TransferError> {
            Err(TransferError::PeerClosed)
        }
    }

    #[test]
    fn an_endless_row_of_callers_who_leave_keeps_nobody() {
        // Always readable, as a listening socket is whose queue never runs empty.
        let (door, other) = UnixStream::pair().expect("sockets");
        drop(other);
        let mut lobby = Lobby::new(&door, 3, Duration::from_secs(60)).expect("descriptors");
        let mut came = 0;
        let entered = lobby.try_next(|| {
            came += 1;
            assert!(came < 100_000, "it never ends");
            Ok(Some(Gone(UnixStream::pair().expect("sockets").0)))
        });
        assert!(matches!(entered, Ok(None)) && came > 1);
    }

    /// It says more than its connection takes at once before it listens.
    struct Talker {
        stream: Option<UnixStream>,
        unsaid: Vec<u8>,
        /// What is told instead of its connection, once that has been told so often.
        other: Option<(UnixStream, Cell<u32>)>,
    }

    impl std::fmt::Display for Talker {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a talker")
        }
    }

    impl Caller for Talker {
        type Owner = ();
        type Link = UnixStream;
        fn owner(&self) {}
        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            if let Some((other, before)) = &self.other {
                let left = before.get();
                before.set(left.wrapping_sub(1));
                if left == 0 {
                    return Some(other.as_fd());
                }
            }
            self.stream.as_ref().map(AsFd::as_fd)
        }
        fn wants_to_write(&self) -> bool {
            !self.unsaid.is_empty()
        }
        fn try_enter(&mut self) -> Result<UnixStream, TransferError> {
            let waits = |error: std::io::Error| {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                TransferError::Timeout
            };
            let mut stream = self.stream.as_ref().expect("it waits");
            while !self.unsaid.is_empty() {
                let said = stream.write(&self.unsaid).map_err(waits)?;
                self.unsaid.drain(..said);
            }
            stream.read_exact(&mut [0]).map_err(waits)?;
            Ok(self.stream.take().expect("it waits"))
        }
    }

    #[test]
    fn a_caller_who_has_more_to_say_than_fits_is_heard_when_there_is_room() {
        const LONG: usize = 1 << 20;
        let (door, mut knocking) = UnixStream::pair().expect("sockets");
        let (near, mut far) = UnixStream::pair().expect("sockets");
        near.set_nonblocking(true).expect("a socket");
        knocking.write_all(&[0]).expect("room");
        let mut lobby = Lobby::new(&door, 3, Duration::from_secs(60)).expect("descriptors");
        let mut comes = Some(Talker {
            stream: Some(near),
            unsaid: vec![7; LONG],
            other: None,
        });
        let mut next = |lobby: &mut Lobby<Talker>| {
            let entered = lobby.try_next(|| {
                (&door).read_exact(&mut [0]).expect("somebody knocked");
                Ok(comes.take())
            });
            entered.expect("nothing is wrong")
        };
        // What the caller does not read meanwhile keeps nobody busy.
        far.write_all(&[1]).expect("room");
        assert!(next(&mut lobby).is_none());
        let has_something_to_do = |lobby: &Lobby<Talker>, patience: u16| {
            let mut events = [PollFd::new(lobby.as_fd(), PollFlags::POLLIN)];
            poll(&mut events, PollTimeout::from(patience)).expect("a descriptor") > 0
        };
        assert!(!has_something_to_do(&lobby, 0), "there is no room");
        let mut heard = 0;
        let mut bytes = vec![0; LONG];
        while heard < LONG {
            heard += far.read(&mut bytes).expect("it talks");
            assert!(has_something_to_do(&lobby, 10_000), "there is room");
            if next(&mut lobby).is_some() {
                // All that it still had to say has room by now, and the answer was there before.
                far.read_exact(&mut bytes[..LONG - heard]).expect("said");
                return;
            }
        }
        panic!("it said all and has the answer");
    }

    #[test]
    fn a_caller_who_could_not_be_watched_for_room_is_when_it_is_tried_again() {
        let (door, mut knocking) = UnixStream::pair().expect("sockets");
        let (near, mut far) = UnixStream::pair().expect("sockets");
        let (unwatched, _other) = UnixStream::pair().expect("sockets");
        near.set_nonblocking(true).expect("a socket");
        knocking.write_all(&[0]).expect("room");
        let mut lobby = Lobby::new(&door, 3, Duration::from_secs(60)).expect("descriptors");
        let mut comes = Some(Talker {
            stream: Some(near),
            unsaid: vec![7; 1 << 20],
            // When it comes in it is told the first time.
            other: Some((unwatched, Cell::new(1))),
        });
        let mut next = |lobby: &mut Lobby<Talker>| {
            lobby.try_next(|| {
                (&door).read_exact(&mut [0]).expect("somebody knocked");
                Ok(comes.take())
            })
        };
        next(&mut lobby).expect_err("epoll does not know that one");
        far.write_all(&[1]).expect("room");
        assert!(next(&mut lobby).expect("nothing is wrong").is_none());
        let mut events = [PollFd::new(lobby.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut events, PollTimeout::ZERO).expect("a descriptor");
        assert_eq!(ready, 0, "it waits for room, and not for what lies there");
    }
}
