//! What a wire may leave out, and what it may do by means of its own.

use super::*;
use crate::frame::Checksums;

/// Nothing but the two methods that every wire has.
struct Bare;

impl Wire for Bare {
    fn read(&mut self, _: Span<'_>, _: Deadline) -> io::Result<usize> {
        Ok(0)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, _: Deadline) -> io::Result<usize> {
        Ok(head.len() + body.len())
    }
}

#[test]
fn a_wire_that_says_nothing_of_itself_can_what_every_wire_can() {
    let mut bare = Bare;
    assert_eq!(bare.checksums(), Checksums::Unable);
    assert_eq!((bare.offers(), bare.window()), (0, 1));
    assert!(!bare.holds());
    bare.meet("any", u64::MAX)
        .expect("it ignores what it does not know");
    let mut due = Vec::new();
    bare.due(&mut due);
    assert!(due.is_empty(), "{due:?}");
    for kind in [Kind::Release, Kind::Retirement] {
        let word = Header {
            kind,
            sequence: 0,
            length: 0,
        };
        assert!(bare.heard(word).is_err(), "it knows no segments");
    }
}

/// Payloads of this many bytes do not follow in the stream.
const ELSEWHERE: u64 = 5;

struct Elsewhere(TestWire);

impl Wire for Elsewhere {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.0.read(into, deadline)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.0.write(head, body, deadline)
    }

    fn take(
        &mut self,
        start: Start,
        carried: Carried,
        sink: &mut dyn Sink,
        _: Deadline,
    ) -> Result<Option<(Region, Method, u8)>, TransferError> {
        if start.len() != ELSEWHERE {
            return Ok(None);
        }
        assert_eq!((start.sequence(), carried.copies), (0, 1));
        let region = sink.reserve(start.len(), 1)?;
        region.span(sink.memory())?.copy_from_slice(b"found");
        Ok(Some((region, Method::Map, 2)))
    }
}

#[test]
fn a_wire_may_bring_a_payload_from_elsewhere_and_says_how() {
    let (mut a, b) = pair(usize::MAX, false);
    let mut b = StreamLink::fresh(Elsewhere(b.wire), "elsewhere".to_owned(), DEFAULT_LIMIT);
    let sent = a.send_by(ELSEWHERE, soon(), |wire, start, sent, deadline| {
        let carried = Carried {
            method: Method::Map,
            copies: 1,
            acknowledge: false,
        };
        write_all(wire, &start.header(carried), Span::empty(), sent, deadline)?;
        Ok(carried)
    });
    sent.expect("room");
    send(&mut a, b"in the stream").expect("room");
    for (bytes, method, copies) in [
        (&b"found"[..], Method::Map, 3),
        (b"in the stream", Method::Write, 2),
    ] {
        let mut memory = HostMemory::new();
        let delivery = b.recv(&mut memory, soon()).expect("sent");
        assert_eq!(memory.bytes(delivery.region()), Some(bytes));
        let receipt = delivery.receipt();
        assert_eq!(
            (receipt.method(), receipt.bytes()),
            (method, bytes.len() as u64)
        );
        assert_eq!(receipt.copies(), copies);
    }
}
