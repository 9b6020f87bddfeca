//! Frames from any bytes.

use arbitrary::{Arbitrary, Unstructured};
use roadrunner_core::frame::{Header, Hello, HEADER_LEN, MAX_NAME};

/// Good bytes, and what is done to them.
#[derive(Debug, Arbitrary)]
struct Changed {
    limit: u64,
    name: String,
    changes: Vec<(u16, u8)>,
}

pub(crate) fn run(data: &[u8]) {
    any(data);
    // What starts like a frame gets further.
    let mut near = data.to_vec();
    if near.len() >= 3 {
        near[..3].copy_from_slice(b"RR\x01");
        any(&near);
    }
    if let Ok(changed) = Changed::arbitrary(&mut Unstructured::new(data)) {
        if let Ok(hello) = Hello::new(changed.limit, &changed.name) {
            let mut bytes = hello.encode();
            any(&bytes);
            for (at, value) in changed.changes {
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            any(&bytes);
        } else {
            assert!(changed.name.len() > MAX_NAME, "a name that is short enough");
        }
    }
}

/// What is accepted is what its encoding gives.
fn any(data: &[u8]) {
    if let Ok(hello) = Hello::decode_body(data) {
        assert!(hello.name().len() <= MAX_NAME, "a name that is too long");
    }
    let Some((header, rest)) = data.split_first_chunk::<HEADER_LEN>() else {
        return;
    };
    let Ok(header) = Header::decode(header) else {
        return;
    };
    assert_eq!(header.encode(), data[..HEADER_LEN], "{header:?}");
    let Ok(len) = Hello::body_len(&header) else {
        return;
    };
    assert!(len <= 1024, "a hello of {len} bytes");
    let Some(body) = rest.get(..len) else {
        return;
    };
    if let Ok(hello) = Hello::decode_body(body) {
        // Encoding is the sender's to choose; reading it again gives the same.
        let again = hello.encode();
        let (header, body) = again.split_first_chunk::<HEADER_LEN>().expect("a header");
        let header = Header::decode(header).expect("what we say");
        assert_eq!(Hello::body_len(&header), Ok(body.len()));
        assert_eq!(Hello::decode_body(body).as_ref(), Ok(&hello));
    }
}
