//! Operations on one end of a stream link whose peer says anything.

use crate::script::{read, Script, ScriptWire};
use crate::shelf::Shelf;
use arbitrary::Arbitrary;
use roadrunner_core::frame::Hello;
use roadrunner_core::stream::StreamLink;
use roadrunner_core::{Deadline, HostMemory, Payload, Region, Transfer, TransferError};

#[derive(Debug, Arbitrary)]
struct Input {
    accepts: bool,
    limit: u32,
    room: u16,
    script: Script,
    operations: Vec<Operation>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Operation {
    Send { len: u16, given: bool },
    TrySend { len: u16, given: bool },
    Receive { lie: Option<(u32, u32)> },
    TryReceive,
    Listen,
    Close,
    TryClose,
    Abandon,
}

/// Operations of one input at most.
const MOST: usize = 200;

pub(crate) fn run(data: &[u8]) {
    let Some(input) = read::<Input>(data) else {
        return;
    };
    let limit = u64::from(input.limit);
    let hello = Hello::new(limit, "fuzz").expect("short").encode();
    let wire = input.script.wire(hello);
    let opened = if input.accepts {
        StreamLink::accept(wire, limit, Deadline::now())
    } else {
        StreamLink::connect(wire, "fuzz", limit, Deadline::now())
    };
    if let Ok(link) = opened {
        let room = u64::from(input.room);
        let mut end = End {
            link,
            limit,
            sending: None,
            shelf: Shelf::new(room),
            begun: false,
        };
        for operation in input.operations.iter().take(MOST) {
            end.apply(*operation);
        }
        end.finish();
    }
}

struct End {
    link: StreamLink<ScriptWire>,
    limit: u64,
    /// A payload that is partly sent: it has to be the same one again.
    sending: Option<(HostMemory, bool)>,
    shelf: Shelf,
    /// Whether a payload may have been begun to be received.
    begun: bool,
}

impl End {
    fn apply(&mut self, operation: Operation) {
        let was_open = self.link.is_open();
        let error = match operation {
            Operation::Send { len, given } => self.send(len, given).err(),
            Operation::TrySend { len, given } => self.try_send(len, given).err(),
            Operation::Receive { lie } => self.receive(lie).err(),
            Operation::TryReceive => self.try_receive().err(),
            Operation::Listen => self.link.listen(Deadline::now()).err(),
            Operation::Close => self.link.close(Deadline::now()).err(),
            Operation::TryClose => self.link.try_close().err(),
            Operation::Abandon => {
                self.link.abandon(&mut self.shelf);
                self.begun = false;
                self.shelf.check_empty();
                None
            }
        };
        if !was_open && !matches!(operation, Operation::Abandon) {
            assert!(
                matches!(error, Some(TransferError::Broken)),
                "{operation:?} on a broken link: {error:?}"
            );
            assert!(!self.link.is_open(), "a broken link is whole again");
        }
        let lost = matches!(
            error,
            Some(
                TransferError::PeerClosed
                    | TransferError::Truncated { .. }
                    | TransferError::Protocol(_)
            )
        );
        assert!(!lost || !self.link.is_open(), "open after {error:?}");
    }

    fn payload(&mut self, len: u16, given: bool) -> (HostMemory, bool) {
        let fresh = || (HostMemory::from(vec![7; usize::from(len)]), given);
        self.sending.take().unwrap_or_else(fresh)
    }

    fn send(&mut self, len: u16, given: bool) -> Result<(), TransferError> {
        let (mut memory, given) = self.payload(len, given);
        let whole = memory.region();
        let payload = make(&mut memory, whole, given);
        let sent = self.link.send(payload, Deadline::now());
        if let Ok(receipt) = &sent {
            assert_eq!(receipt.bytes(), whole.len());
            assert!(whole.len() <= self.limit, "longer than the limit");
        }
        sent.map(drop)
    }

    fn try_send(&mut self, len: u16, given: bool) -> Result<(), TransferError> {
        let (mut memory, given) = self.payload(len, given);
        let whole = memory.region();
        let sent = self.link.try_send(make(&mut memory, whole, given))?;
        if sent.is_none() {
            // It may be partly out: then only the same may follow.
            self.sending = Some((memory, given));
        }
        Ok(())
    }

    fn receive(&mut self, lie: Option<(u32, u32)>) -> Result<(), TransferError> {
        if self.begun {
            return self.try_receive();
        }
        self.shelf.lies = lie.map(|(offset, len)| Region::new(offset.into(), len.into()));
        let received = self.link.recv(&mut self.shelf, Deadline::now());
        self.shelf.lies = None;
        match received {
            Ok(delivery) => {
                self.deliver(delivery.region(), delivery.receipt().bytes());
                Ok(())
            }
            Err(error) => {
                self.shelf_after_error(lie.is_some());
                Err(error)
            }
        }
    }

    fn try_receive(&mut self) -> Result<(), TransferError> {
        match self.link.try_recv(&mut self.shelf) {
            Ok(Some(delivery)) => {
                self.begun = false;
                self.deliver(delivery.region(), delivery.receipt().bytes());
                Ok(())
            }
            Ok(None) => {
                self.begun = true;
                Ok(())
            }
            Err(error) => {
                self.begun = false;
                self.shelf_after_error(false);
                Err(error)
            }
        }
    }

    fn deliver(&mut self, region: Region, bytes: u64) {
        assert_eq!(region.len(), bytes, "the receipt says something else");
        assert!(bytes <= self.limit, "longer than the limit");
        self.shelf.received(region);
    }

    /// A sink that lied where its place is may have been written to there.
    fn shelf_after_error(&mut self, lied: bool) {
        if lied {
            self.shelf = Shelf::new(0);
        } else {
            self.shelf.check_empty();
        }
    }

    fn finish(mut self) {
        self.link.abandon(&mut self.shelf);
        self.shelf.check_empty();
        let _ = self.link.wire().unread();
    }
}

fn make(memory: &mut HostMemory, region: Region, given: bool) -> Payload<'_> {
    let payload = if given {
        Payload::given(memory, region)
    } else {
        Payload::kept(memory, region)
    };
    payload.expect("all of it")
}
