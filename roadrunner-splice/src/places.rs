//! How many connections of a listener there may be, and how many of them from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections by where they come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    origin: IpAddr,
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
        let all: usize = taken.values().sum();
        let theirs = taken.get(&origin).copied().unwrap_or(0);
        if theirs >= most_each {
            return Err(format!("{theirs} connections come from there already"));
        }
        if all >= most {
            return Err(format!("there are {all} connections already"));
        }
        taken.insert(origin, theirs + 1);
        Ok(Place {
            places: self.clone(),
            origin,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match taken.get_mut(&self.origin) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.origin)),
        }
    }
}

/// Whom an address belongs to, as far as places go: of IPv6 the first 64 bits, because one host has all of the others
/// (RFC 4291 section 2.5.4).
pub(crate) fn origin(address: IpAddr) -> IpAddr {
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
    fn a_host_has_all_addresses_of_its_network() {
        assert_eq!(
            origin(address("2001:db8:1:2:3:4:5:6")),
            address("2001:db8:1:2::")
        );
        assert_eq!(origin(address("::1")), address("::1"));
    }
}
