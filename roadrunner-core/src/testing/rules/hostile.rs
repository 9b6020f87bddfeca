//! Rule 7: hostile input is an error.

use super::{long, near, skip, Rule};
use crate::frame::HEADER_LEN;
use crate::testing::by_hand::{data_frame, hostile_frames};
use crate::testing::fixture::{Fixture, Missing};
use crate::testing::payloads::{pattern, soon, CountingSink};
use crate::testing::places::{Answer, Destination, Source, MARGIN};
use crate::{Payload, Region, Transfer, TransferError, DEFAULT_LIMIT};
use std::thread;

pub(super) fn check<F: Fixture>(fixture: &F) {
    payloads_outside(fixture);
    for len in [10, 200_000].map(|len| near(fixture, len)) {
        for (what, lie) in LIES {
            a_sink_that_lies(fixture, len, what, *lie);
        }
    }
    if let Err(why) = frames_that_lie(fixture).and_then(|()| frames_that_changed(fixture)) {
        skip(fixture, Rule::Hostile, "frames that lie", why);
    }
}

/// What a guest may name as its payload.
fn payloads_outside<F: Fixture>(fixture: &F) {
    let mut memory = fixture.source(4096);
    let size = memory.len() as u64;
    for region in [
        Region::new(size, 1),
        Region::new(0, size + 1),
        Region::new(size - 1, 2),
        Region::new(size + 1, 0),
        Region::new(u64::MAX, 2),
        Region::new(1, u64::MAX),
        Region::new(1 << 63, 1 << 63),
    ] {
        for made in [
            Payload::kept(&mut *memory, region).map(drop),
            Payload::given(&mut *memory, region).map(drop),
        ] {
            assert!(
                matches!(made, Err(TransferError::OutOfBounds { .. })),
                "a payload of {region} in a memory of {size} bytes: {made:?}"
            );
        }
    }
}

/// Makes a lie of the length that was asked for and the size of the memory.
type Lie = fn(u64, u64) -> Region;

/// What a guest's allocator may answer.
const LIES: &[(&str, Lie)] = &[
    ("the end of the memory", |len, size| Region::new(size, len)),
    ("one byte too far", |len, size| {
        Region::new(size - len + 1, len)
    }),
    ("far outside", |len, _| Region::new(1 << 40, len)),
    ("an end that overflows", |len, _| {
        Region::new(u64::MAX - 3, len)
    }),
    ("a length that overflows", |_, _| {
        Region::new(MARGIN, u64::MAX)
    }),
    ("one byte less", |len, _| Region::new(MARGIN, len - 1)),
    ("one byte more", |len, _| Region::new(MARGIN, len + 1)),
    ("no byte", |_, _| Region::new(0, 0)),
];

fn a_sink_that_lies<F: Fixture>(fixture: &F, len: u64, what: &str, lie: Lie) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let content = pattern(len, 1);
    let mut source = Source::kept(fixture, &content);
    let deadline = long(fixture);
    thread::scope(|scope| {
        // Nobody may read a large one: it returns when the other end is dropped, and how is not the point.
        scope.spawn(move || drop(source.send(&mut a, deadline)));
        let mut destination = Destination::new(fixture, len).answering(Answer::Lie(lie));
        let before = destination.snapshot();
        let result = destination.receive(&mut b, deadline);
        drop(b);
        assert!(
            matches!(
                result,
                Err(TransferError::OutOfBounds { .. }
                    | TransferError::NoRoom { .. }
                    | TransferError::Sink(_))
            ),
            "{len} bytes into a region that is {what}: {:?}",
            result.map(|bytes| bytes.len())
        );
        // The content of a region that was reserved and released is undefined.
        let after = destination.snapshot();
        let named = MARGIN as usize..(MARGIN + len + 1) as usize;
        assert!(
            before[..named.start] == after[..named.start]
                && before[named.end..] == after[named.end..],
            "{len} bytes into a region that is {what} changed bytes elsewhere"
        );
    });
}

fn frames_that_lie<F: Fixture>(fixture: &F) -> Result<(), Missing> {
    fixture.by_hand(DEFAULT_LIMIT)?;
    hostile_frames(&mut || {
        fixture
            .by_hand(DEFAULT_LIMIT)
            .expect("there was one before")
    });
    Ok(())
}

/// A frame with one byte of its header changed is received, or is an error; it never reserves more than the limit.
fn frames_that_changed<F: Fixture>(fixture: &F) -> Result<(), Missing> {
    const LIMIT: u64 = 1000;
    let good = data_frame(0, b"a payload");
    for at in 0..HEADER_LEN {
        for change in [0x01, 0x80, 0xFF] {
            let mut frame = good.clone();
            frame[at] ^= change;
            let (mut link, mut stream) = fixture.by_hand(LIMIT)?;
            stream.write_all(&frame).expect("the other end is there");
            drop(stream);
            let mut sink = CountingSink::default();
            // Every receive takes bytes from the stream, which has an end.
            while let Ok(delivery) = link.recv(&mut sink, soon()) {
                assert!(
                    delivery.region().len() <= LIMIT,
                    "byte {at} ^ {change:#x}: a payload over the limit"
                );
            }
            assert!(
                sink.largest <= LIMIT,
                "byte {at} ^ {change:#x}: {} bytes were reserved",
                sink.largest
            );
        }
    }
    Ok(())
}
