//! Transfers where offsets and lengths meet the edges that arithmetic goes wrong at.

use proptest::prelude::*;
use roadrunner_core::{LinearMemory, Method, Payload, Region, Sink, TransferError};
use roadrunner_mem::{transfer, PageBuffer, Policy};
use std::sync::{Mutex, PoisonError};

const ROOM: u64 = (4 << 30) + (64 << 10);
const EDGES: [u64; 6] = [0, 4096, 64 << 10, 2 << 30, 4 << 30, ROOM];

/// Two memories beyond 4 GiB, of which next to nothing is ever touched.
static MEMORIES: Mutex<Option<[PageBuffer; 2]>> = Mutex::new(None);

/// Gives one region of a memory, whatever is asked for.
struct At<'m>(&'m mut PageBuffer, Region);

impl Sink for At<'_> {
    fn reserve(&mut self, _len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(self.1)
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }
    fn release(&mut self, _region: Region) {}
}

fn near_an_edge() -> impl Strategy<Value = u64> {
    (proptest::sample::select(EDGES.to_vec()), -5000_i64..=5000)
        .prop_map(|(edge, delta)| edge.saturating_add_signed(delta))
}

/// What lies from `offset - 1` to the byte behind `len` others, as far as there is something.
fn around(memory: &PageBuffer, offset: u64, len: u64) -> (Option<u8>, Vec<u8>, Option<u8>) {
    let bytes = memory.as_slice();
    let (start, end) = (offset as usize, (offset + len) as usize);
    let before = start.checked_sub(1).map(|at| bytes[at]);
    (before, bytes[start..end].to_vec(), bytes.get(end).copied())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A payload across an edge of either memory arrives where it belongs, or is refused where it does not fit.
    #[test]
    fn payloads_cross_edges(
        from in near_an_edge(), to in near_an_edge(), alike in any::<bool>(),
        len in prop_oneof![0..12_000_u64, Just(1_u64)], given in any::<bool>(), exchanged in any::<bool>(),
    ) {
        let mut memories = MEMORIES.lock().unwrap_or_else(PoisonError::into_inner);
        let [source, target] = memories.get_or_insert_with(|| {
            [(); 2].map(|()| PageBuffer::new(ROOM as usize).expect("addresses"))
        });
        let to = if alike { from } else { to };
        let (region, there) = (Region::new(from, len), Region::new(to, len));
        let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8 + 1).collect();
        if let Ok(span) = region.span(source) {
            span.copy_from_slice(&content);
        } else {
            prop_assert!(!region.fits(ROOM));
        }
        let mut policy = Policy::default();
        policy.force = exchanged.then_some(Method::Exchange);
        let payload = match given {
            true => Payload::given(source, region),
            false => Payload::kept(source, region),
        };
        let outcome = payload.and_then(|payload| transfer(payload, &mut At(target, there), &policy));
        prop_assert_eq!(outcome.is_ok(), region.fits(ROOM) && there.fits(ROOM), "{:?}", outcome.err());
        if there.fits(ROOM) && region.fits(ROOM) {
            let (before, arrived, behind) = around(target, to, len);
            prop_assert!(arrived == content, "the payload");
            prop_assert_eq!((before.unwrap_or(0), behind.unwrap_or(0)), (0, 0), "beside it");
        }
        // Clean for the next.
        for (memory, region) in [(source, region), (target, there)] {
            if let Ok(span) = region.span(memory) {
                span.copy_from_slice(&vec![0; len as usize]);
            }
        }
    }
}
