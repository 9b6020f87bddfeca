//! How many mappings exchanges may leave behind.
//!
//! Pages that moved do not become one mapping with their new neighbours (proc(5), `maps`): an exchange splits both
//! memories where it begins and ends. Where the same regions change hands again and again, their number stays; where
//! they vary it grows, and at `vm.max_map_count` every `mmap(2)` of the process would fail. So exchanges stop at half of
//! that, and payloads are copied instead.

use crate::maps;
use std::fs;
use std::sync::atomic::{AtomicI64, Ordering};

/// Mappings that one exchange adds at most: on either side one where it begins and one where it ends.
const COST: i64 = 4;
/// How many exchanges are refused before mappings are counted anew: counting thousands takes milliseconds.
const REST: i64 = 4096;
/// What Linux allows unless told otherwise (sysctl/vm, `max_map_count`).
const USUAL_LIMIT: i64 = 65_530;

/// Mappings that may be added before they are counted again. Below zero, how many exchanges are refused before that.
static LEFT: AtomicI64 = AtomicI64::new(0);

/// Whether the process has mappings left for one more exchange.
pub(crate) fn allows() -> bool {
    let spent = LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
        ..0 => Some(left + 1),
        0..COST => None,
        COST.. => Some(left - COST),
    });
    match spent {
        Ok(left) => left > 0,
        Err(_) => recount(limit() / 2),
    }
}

fn recount(most: i64) -> bool {
    // Without /proc nobody knows how many there are, and none is added.
    let left = mappings().map_or(0, |count| most - count) - COST;
    let allowed = left >= 0;
    LEFT.store(if allowed { left } else { -REST }, Ordering::Relaxed);
    allowed
}

fn limit() -> i64 {
    fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(USUAL_LIMIT)
}

fn mappings() -> Option<i64> {
    let mut count = 0;
    let counted = maps::for_each(|_| {
        count += 1;
        true
    });
    counted.ok().map(|()| count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_counted() {
        let count = mappings().expect("/proc is mounted");
        let lines = fs::read_to_string("/proc/self/maps")
            .expect("/proc is mounted")
            .lines()
            .count() as i64;
        // Other tests of this process map and unmap meanwhile.
        assert!((lines - count).abs() < 200, "{count} of {lines}");
        assert!(count < limit());
    }
}
