//! How many bytes of payloads may be coming in at a time from other hosts, counted over all processes that this host's
//! functions run in.
//!
//! A byte of room is a byte of a file that somebody has locked (`F_OFD_SETLK`, fcntl(2)); there is one file for all, and one
//! for each address that payloads come from. The files stay empty. What a process holds is free again when it dies,
//! whatever it dies of, and nobody has to be asked.

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg};
use nix::libc::{flock, F_UNLCK, F_WRLCK, SEEK_SET};
use roadrunner_core::{LinearMemory, Region, Sink, TransferError};
use roadrunner_splice::origin;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What there is for all, and for those from one address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ration {
    /// Where the files are: the same for all processes that share it.
    pub(crate) directory: PathBuf,
    pub(crate) all: u64,
    pub(crate) each: u64,
}

impl Ration {
    /// What a link from `address` takes its room from.
    pub(crate) fn share(&self, address: IpAddr) -> io::Result<Share> {
        let theirs = origin(address).to_string();
        Ok(Share([
            Room::open(&self.directory.join("all"), self.all, "--memory")?,
            Room::open(&self.directory.join(theirs), self.each, "--memory-each")?,
        ]))
    }
}

/// The room of one link, for one payload at a time. What it holds is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Share([Room; 2]);

impl Share {
    fn take(&self, bytes: u64) -> Result<(), TransferError> {
        let failed = |source| TransferError::Io {
            doing: "count what is coming in",
            source,
        };
        // Who finds no room in the end has taken some on the way: nobody else looks for any meanwhile.
        let _turn = self.0[0].turn().map_err(failed)?;
        for room in &self.0 {
            if !room.take(bytes).map_err(failed)? {
                self.give_back();
                let instead = if bytes > room.most {
                    "allow more there"
                } else {
                    "others are coming in: try again later, or allow more there"
                };
                return Err(TransferError::NoRoom {
                    len: bytes,
                    reason: format!(
                        "this host may receive {} bytes at a time ({} of its `roadrunner serve`); {instead}",
                        room.most, room.option
                    ),
                });
            }
        }
        Ok(())
    }

    fn give_back(&self) {
        for room in &self.0 {
            // Of a lock that is there: it may need memory for the two parts of one, which this leaves none of.
            let _ = room.lock(F_UNLCK, 0..LONGEST);
        }
    }
}

/// The last byte that can be locked: whoever looks for room has it.
const LONGEST: u64 = i64::MAX as u64;
const TURN: Range<u64> = LONGEST..LONGEST + 1;
/// How long somebody may look for room: a few system calls, unless its process is stopped in the middle of them.
const PATIENCE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_micros(200);

/// A file of which bytes are locked; each has its own description of it, as those of one never are in each other's way.
#[derive(Debug)]
struct Room {
    file: File,
    most: u64,
    /// What sets the limit.
    option: &'static str,
}

impl Room {
    fn open(path: &Path, most: u64, option: &'static str) -> io::Result<Self> {
        let mut options = File::options();
        Ok(Self {
            file: options
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?,
            most: most.min(LONGEST),
            option,
        })
    }

    /// Locks so many bytes, wherever they are free; false, and none, if there are not so many.
    fn take(&self, bytes: u64) -> io::Result<bool> {
        let (mut at, mut missing) = (0, bytes);
        while missing > 0 {
            if self.most - at < missing {
                self.lock(F_UNLCK, 0..LONGEST)?;
                return Ok(false);
            }
            let mut end = at + missing;
            loop {
                if self.lock(F_WRLCK, at..end)? {
                    missing -= end - at;
                    at = end;
                    break;
                }
                match self.who_has(at..end)? {
                    // Free again.
                    None => {}
                    Some(theirs) if theirs.start <= at => {
                        at = theirs.end.min(self.most);
                        break;
                    }
                    Some(theirs) => end = theirs.start,
                }
            }
        }
        Ok(true)
    }

    /// The turn to look for room, or `None` if somebody else has it for longer than that takes: it only keeps two from being
    /// refused for each other's sake, and the locks are what is counted.
    fn turn(&self) -> io::Result<Option<Turn<'_>>> {
        let until = Instant::now() + PATIENCE;
        while !self.lock(F_WRLCK, TURN)? {
            if Instant::now() >= until {
                return Ok(None);
            }
            std::thread::sleep(AGAIN);
        }
        Ok(Some(Turn(self)))
    }

    /// False if somebody else has some of it.
    fn lock(&self, kind: i32, range: Range<u64>) -> io::Result<bool> {
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock(kind, &range))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// One of the locks of others in it.
    fn who_has(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let mut found = lock(F_WRLCK, &range);
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut found))?;
        if i32::from(found.l_type) == F_UNLCK {
            return Ok(None);
        }
        let start = u64::try_from(found.l_start).unwrap_or(0);
        Ok(Some(match u64::try_from(found.l_len) {
            // To the end of the file, wherever that is.
            Err(_) | Ok(0) => start..LONGEST,
            Ok(len) => start..start.saturating_add(len),
        }))
    }
}

/// The turn to look for room; somebody else's when this is dropped.
struct Turn<'a>(&'a Room);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Of a lock that is there.
        let _ = self.0.lock(F_UNLCK, TURN);
    }
}

fn lock(kind: i32, range: &Range<u64>) -> flock {
    flock {
        l_type: kind as i16,
        l_whence: SEEK_SET as i16,
        l_start: range.start as i64,
        l_len: (range.end - range.start) as i64,
        l_pid: 0,
    }
}

/// A sink that takes nothing in for which there is no room.
pub(crate) struct Rationed<'a, S> {
    sink: &'a mut S,
    share: &'a Share,
}

impl<'a, S: Sink> Rationed<'a, S> {
    pub(crate) fn new(sink: &'a mut S, share: &'a Share) -> Self {
        Self { sink, share }
    }
}

impl<S: Sink> Sink for Rationed<'_, S> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        self.share.take(len)?;
        self.sink.reserve(len, align)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.sink.memory()
    }

    fn release(&mut self, region: Region) {
        self.sink.release(region);
        self.share.give_back();
    }
}

/// What it took in has come, or does not come any more.
impl<S> Drop for Rationed<'_, S> {
    fn drop(&mut self) {
        self.share.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::{IpAddr, Ration, Rationed};
    use proptest::prelude::*;
    use roadrunner_core::{HostMemory, Sink, TransferError};
    use std::net::Ipv4Addr;
    use std::sync::{mpsc, Barrier};
    use std::time::Duration;

    const ROUNDS: usize = 5000;
    const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

    fn ration(directory: &tempfile::TempDir, all: u64, each: u64) -> Ration {
        Ration {
            directory: directory.path().to_owned(),
            all,
            each,
        }
    }

    #[test]
    fn what_one_address_has_is_counted_with_all_and_comes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let ration = ration(&directory, 100, 70);
        let share = |address: &str| {
            let address = address.parse().expect("an address");
            ration.share(address).expect("a file")
        };
        let (one, same) = (share("192.0.2.1"), share("::ffff:192.0.2.1"));
        let other = share("192.0.2.2");
        let says = |taken: Result<(), TransferError>| taken.expect_err("none").to_string();
        let alone = says(one.take(71));
        assert!(alone.contains("--memory-each"), "{alone}");
        assert!(!alone.contains("others"), "{alone}");
        one.take(50).expect("room");
        let beside = says(same.take(21));
        assert!(beside.contains("70 bytes"), "{beside}");
        assert!(beside.contains("others are coming in"), "{beside}");
        same.take(20).expect("room");
        let in_all = says(other.take(31));
        assert!(
            in_all.contains("100 bytes at a time (--memory of"),
            "{in_all}"
        );
        other.take(30).expect("room");
        assert!(share("192.0.2.3").take(1).is_err());
        one.give_back();
        // Where `one` had it, and where nobody had.
        share("192.0.2.3").take(50).expect("room");
        drop(other);
        drop(same);
        share("192.0.2.1").take(70).expect("room");
        let network = share("2001:db8::1");
        network.take(70).expect("room");
        assert!(says(share("2001:db8::2").take(1)).contains("--memory-each"));
    }

    #[test]
    fn a_sink_holds_its_room_until_its_payload_has_come() {
        let directory = tempfile::tempdir().expect("a directory");
        let ration = ration(&directory, 10, 10);
        let [one, other] = [(); 2].map(|()| ration.share(SOMEWHERE).expect("a file"));
        let mut memory = HostMemory::new();
        let mut sink = Rationed::new(&mut memory, &one);
        let region = sink.reserve(6, 1).expect("room");
        assert!(other.take(5).is_err());
        sink.release(region);
        other.take(5).expect("room");
        assert!(sink.reserve(6, 1).is_err());
        other.give_back();
        sink.reserve(6, 1).expect("room");
        drop(sink);
        other.take(10).expect("room");
    }

    /// One who looks for room, and finds that there is none for its address, has no part of what others look for.
    #[test]
    fn nobody_is_refused_for_the_sake_of_one_who_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let ration = ration(&directory, 100, 50);
        let share = |address: &str| {
            let address = address.parse().expect("an address");
            ration.share(address).expect("a file")
        };
        let (has, wants_more) = (share("192.0.2.1"), share("192.0.2.1"));
        let other = share("192.0.2.2");
        has.take(40).expect("room");
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                for _ in 0..ROUNDS {
                    wants_more.take(30).expect_err("40 and 30 of 50");
                }
            });
            both.wait();
            for _ in 0..ROUNDS {
                other.take(50).expect("40 and 50 of 100");
                other.give_back();
            }
        });
    }

    /// Who has the turn and never gives it back may have been stopped by an operator.
    #[test]
    fn nobody_waits_for_one_who_does_not_look_any_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let ration = ration(&directory, 100, 100);
        let [stopped, other] = [(); 2].map(|()| ration.share(SOMEWHERE).expect("a file"));
        let (say, said) = mpsc::channel();
        std::thread::scope(|scope| {
            let held = stopped.0[0].turn().expect("locks");
            assert!(held.is_some());
            scope.spawn(move || say.send(other.take(10).is_ok()));
            let taken = said.recv_timeout(Duration::from_secs(30));
            drop(held);
            assert_eq!(taken, Ok(true));
        });
    }

    proptest! {
        /// Whatever was taken and given back before: there is room exactly for what nobody has.
        #[test]
        fn holes_are_filled(steps in proptest::collection::vec((0_usize..6, 0_u64..40), 1..60)) {
            let directory = tempfile::tempdir().expect("a directory");
            let ration = ration(&directory, 100, 1000);
            let shares: Vec<_> = (0..6).map(|_| ration.share(SOMEWHERE).expect("a file")).collect();
            let mut held = [0; 6];
            for (who, bytes) in steps {
                if held[who] > 0 {
                    shares[who].give_back();
                    held[who] = 0;
                } else {
                    let room = 100 - held.iter().sum::<u64>();
                    let taken = shares[who].take(bytes).is_ok();
                    prop_assert_eq!(taken, bytes <= room, "{} of {}", bytes, room);
                    held[who] = if taken { bytes } else { 0 };
                }
            }
        }
    }
}
