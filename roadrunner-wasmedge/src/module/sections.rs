//! The sections of a module's binary format, as far as it takes to find a custom one by name.

/// Whether `wasm` has a custom section called `name`; why it is malformed if its sections do not add up to its length.
///
/// Whoever parses it afterwards must not find a section that was overlooked here. So this is strict: what cannot be read
/// to the last byte is malformed.
pub(super) fn has_custom(wasm: &[u8], name: &str) -> Result<bool, &'static str> {
    const HEADER: usize = 8;
    let Some(mut rest) = wasm.get(HEADER..) else {
        return Err("it ends within its header");
    };
    let mut found = false;
    while let Some((&id, after)) = rest.split_first() {
        let (len, after) = number(after)?;
        let body = after
            .get(..len)
            .ok_or("a section is longer than the module")?;
        rest = &after[len..];
        if id == 0 {
            let (len, body) = number(body)?;
            let title = body.get(..len).ok_or("a name is longer than its section")?;
            found |= title == name.as_bytes();
        }
    }
    Ok(found)
}

/// An unsigned LEB128 number of 32 bits, in at most five bytes.
fn number(bytes: &[u8]) -> Result<(usize, &[u8]), &'static str> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if value > u64::from(u32::MAX) {
                return Err("a length has more than 32 bits");
            }
            return Ok((value as usize, &bytes[at + 1..]));
        }
    }
    Err("a length does not end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn module(sections: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        for (id, body) in sections {
            bytes.push(*id);
            bytes.push(body.len() as u8);
            bytes.extend_from_slice(body);
        }
        bytes
    }

    #[test]
    fn a_custom_section_is_found_by_name_wherever_it_is() {
        let named = b"\x08wasmedge\x01\x02";
        for (sections, expected) in [
            (vec![], false),
            (vec![(0, &named[..])], true),
            (vec![(1, &b"\0"[..]), (0, b"\x04name"), (0, named)], true),
            (vec![(1, &named[..])], false),
            (vec![(0, &b"\x07wasmedge"[..])], false),
        ] {
            assert_eq!(has_custom(&module(&sections), "wasmedge"), Ok(expected));
        }
    }

    #[test]
    fn a_name_in_a_longer_encoding_is_found_too() {
        let bytes = module(&[(0, b"\x88\x80\x80\x80\x00wasmedge")]);
        assert_eq!(has_custom(&bytes, "wasmedge"), Ok(true));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let whole = module(&[(0, b"\x08wasmedge")]);
        for end in [0, 7, 9, 10, whole.len() - 1] {
            assert!(has_custom(&whole[..end], "wasmedge").is_err(), "{end}");
        }
        for tail in [
            &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0][..],
            &[0, 0xff, 0xff, 0xff, 0xff, 0x1f],
        ] {
            let bytes = [&module(&[]), tail].concat();
            assert!(has_custom(&bytes, "wasmedge").is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = has_custom(&bytes, "wasmedge");
        }
    }
}
