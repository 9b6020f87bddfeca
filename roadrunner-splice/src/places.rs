//! How many connections of a listener there may be, how many of them from one address, and how many bytes may be on
//! their way from there.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections by where they come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<IpAddr, Taken>>>);

/// What those from one address have.
#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    /// Bytes for payloads that are being received.
    bytes: u64,
}

/// A connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    origin: IpAddr,
    /// Bytes for the payload that is being received on it.
    held: u64,
}

impl Place {
    /// Takes note of room for a payload of `bytes` bytes, unless the connections from the same address would have more
    /// than `most` then.
    pub(crate) fn hold(&mut self, bytes: u64, most: u64) -> Result<(), String> {
        let mut places = self.places.taken();
        let theirs = places.entry(self.origin).or_default();
        let others = theirs.bytes - self.held;
        if bytes > most.saturating_sub(others) {
            return Err(format!(
                "links from the same address are receiving {others} bytes, and may receive {most} at a time"
            ));
        }
        theirs.bytes = others + bytes;
        self.held = bytes;
        Ok(())
    }

    /// It has been received.
    pub(crate) fn release(&mut self) {
        if self.held > 0 {
            let mut places = self.places.taken();
            if let Some(theirs) = places.get_mut(&self.origin) {
                theirs.bytes -= self.held;
            }
            self.held = 0;
        }
    }
}

impl Places {
    /// A place for a connection from `address`, unless there are `most` in all or `most_each` from there.
    pub(crate) fn take(
        &self,
        address: IpAddr,
        most: usize,
        most_each: usize,
    ) -> Result<Place, String> {
        let origin = origin(address);
        let mut taken = self.taken();
        let all: usize = taken.values().map(|one| one.connections).sum();
        let theirs = taken.get(&origin).map_or(0, |one| one.connections);
        if theirs >= most_each {
            return Err(format!("{theirs} connections come from there already"));
        }
        if all >= most {
            return Err(format!("there are {all} connections already"));
        }
        taken.entry(origin).or_default().connections += 1;
        Ok(Place {
            places: self.clone(),
            origin,
            held: 0,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, Taken>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.release();
        let mut taken = self.places.taken();
        match taken.get_mut(&self.origin) {
            Some(theirs) if theirs.connections > 1 => theirs.connections -= 1,
            _ => drop(taken.remove(&self.origin)),
        }
    }
}

/// Whom an address belongs to, for limits on what may come from one: an IPv4 address itself, also where IPv6 carries it; of
/// IPv6 the first 64 bits, because one host has all of the others (RFC 4291 section 2.5.4), but for `::1`.
#[must_use]
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn places_are_counted_by_origin_and_come_back() {
        let places = Places::default();
        let one = places.take(address("192.0.2.1"), 3, 2).expect("free");
        let same = places
            .take(address("::ffff:192.0.2.1"), 3, 2)
            .expect("free");
        assert!(places.take(address("192.0.2.1"), 3, 2).is_err(), "a third");
        let other = places.take(address("192.0.2.2"), 3, 2).expect("free");
        assert!(places.take(address("192.0.2.3"), 3, 2).is_err(), "a fourth");
        drop(one);
        drop(places.take(address("192.0.2.1"), 3, 2).expect("free again"));
        drop((same, other));
        assert!(places.taken().is_empty(), "nothing is kept of who left");
    }

    #[test]
    fn bytes_are_counted_by_origin_and_come_back() {
        let places = Places::default();
        let take = |text| places.take(address(text), 9, 9).expect("free");
        let (mut one, mut same, mut other) =
            (take("192.0.2.1"), take("192.0.2.1"), take("192.0.2.2"));
        assert!(one.hold(101, 100).is_err());
        assert!(one.hold(60, 100).is_ok());
        assert!(same.hold(41, 100).is_err(), "there are 60");
        assert!(same.hold(40, 100).is_ok());
        assert!(other.hold(100, 100).is_ok(), "of another host");
        assert!(one.hold(0, 100).is_ok());
        one.release();
        assert!(one.hold(60, 100).is_ok(), "instead of the ones before");
        drop(same);
        assert!(one.hold(100, 100).is_ok(), "of a link that is gone");
        drop((one, other));
        assert!(places.taken().is_empty());
    }

    #[test]
    fn a_host_has_all_addresses_of_its_network() {
        assert_eq!(
            origin(address("2001:db8:1:2:3:4:5:6")),
            address("2001:db8:1:2::")
        );
        assert_eq!(origin(address("::1")), address("::1"));
    }
}
