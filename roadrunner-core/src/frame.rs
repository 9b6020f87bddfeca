//! Frames: what crosses a byte stream. Pure code, no I/O and no clock.
//!
//! Every frame starts with a header of 24 bytes, numbers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `RR` |
//! | 2 | version, 1 |
//! | 3 | kind: 1 hello, 2 data, 3 acknowledgement, 4 end, 5 release, 6 retirement |
//! | 4 | data: the method that carries it ([`Method::code`]); else 0 |
//! | 5 | data: copies that the sender's side made; else 0 |
//! | 6 | data: 1 if the receiver is to acknowledge it, else 0 |
//! | 7 | 0 |
//! | 8..16 | data, acknowledgement and release: sequence number, from 0; retirement: number of the segment; hello: what its sender offers, a set of bits of the transport's; else 0 |
//! | 16..24 | bytes that follow: the payload, or the hello's body; else 0 |
//!
//! A payload in a segment (methods `map` and `slot` over UNIX sockets) does not follow its header: what follows is a
//! reference to the segment, of the transport's own form.
//!
//! A hello's body is the sender's limit (8 bytes), what it says about checksums (1 byte: 0 unable, 1 able, 2 wanted) and
//! the name of the link, UTF-8, up to [`MAX_NAME`] bytes.
//!
//! On a link with checksums ([`Checksums::agree`]) the 4 bytes behind each payload in the stream are its CRC-32, as in
//! Ethernet, zip and gzip (IEEE 802.3 clause 3.2.9), little-endian. They are not part of its length.

use crate::receipt::Method;
use std::error::Error;
use std::fmt;

/// Bytes of a header.
pub const HEADER_LEN: usize = 24;
/// Longest name of a link, in bytes.
pub const MAX_NAME: usize = 255;
/// The version of the frames that this crate speaks.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 2] = *b"RR";
/// The limit, and the byte about checksums.
const FIXED_LEN: usize = 9;
/// Bytes of a checksum behind a payload.
pub const CHECKSUM_LEN: usize = 4;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first frame of either side; a [`Hello`] follows.
    Hello,
    /// A payload follows.
    Data {
        /// How it is carried.
        method: Method,
        /// Copies that the sender's side made, the kernel's included.
        copies: u8,
        /// Whether the receiver is to acknowledge it.
        acknowledge: bool,
    },
    /// The payload of this sequence number has been received, whole.
    Acknowledgement,
    /// No payload follows.
    End,
    /// The receiver is done with the payload of this sequence number, which was in a segment.
    Release,
    /// No payload will come in the segment of this number again.
    Retirement,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Which payload it is about.
    pub sequence: u64,
    /// Bytes that follow.
    pub length: u64,
}

impl Header {
    /// The header as it crosses the stream.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let (kind, method, copies, acknowledge) = match self.kind {
            Kind::Hello => (1, 0, 0, false),
            Kind::Data {
                method,
                copies,
                acknowledge,
            } => (2, method.code(), copies, acknowledge),
            Kind::Acknowledgement => (3, 0, 0, false),
            Kind::End => (4, 0, 0, false),
            Kind::Release => (5, 0, 0, false),
            Kind::Retirement => (6, 0, 0, false),
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2..7].copy_from_slice(&[VERSION, kind, method, copies, u8::from(acknowledge)]);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// Reads a header. What it accepts, [`encode`](Self::encode) gives back bit for bit.
    ///
    /// # Errors
    /// The [`FrameError`] that names the first field that is wrong.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [m0, m1, version, kind, method, copies, acknowledge, reserved, numbers @ ..] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(FrameError::NotAFrame);
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let mut halves = [[0; 8]; 2];
        halves[0].copy_from_slice(&numbers[..8]);
        halves[1].copy_from_slice(&numbers[8..]);
        let [sequence, length] = halves.map(u64::from_le_bytes);
        let kind = match kind {
            1 => Kind::Hello,
            2 => Kind::Data {
                method: Method::from_code(method).ok_or(FrameError::Field("method"))?,
                copies,
                acknowledge: acknowledge == 1,
            },
            3 => Kind::Acknowledgement,
            4 => Kind::End,
            5 => Kind::Release,
            6 => Kind::Retirement,
            other => return Err(FrameError::Kind(other)),
        };
        let header = Self {
            kind,
            sequence,
            length,
        };
        let unnumbered = kind == Kind::End;
        let bodiless = !matches!(kind, Kind::Hello | Kind::Data { .. });
        if unnumbered && sequence != 0 {
            return Err(FrameError::Field("sequence"));
        }
        if bodiless && length != 0 {
            return Err(FrameError::Field("length"));
        }
        // All that is left to be wrong is a field that this kind does not use.
        if reserved != 0 || header.encode() != *bytes {
            return Err(FrameError::Field("unused field"));
        }
        Ok(header)
    }
}

/// What one side says about checksums of payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// It has none.
    #[default]
    Unable,
    /// It sends and checks them if the other side wants them.
    Able,
    /// It wants them.
    Wanted,
}

impl Checksums {
    const ALL: [Self; 3] = [Self::Unable, Self::Able, Self::Wanted];

    /// Whether a link has checksums whose sides say this and `other`: if one of them wants them.
    ///
    /// # Errors
    /// [`FrameError::Unexpected`] if the other one is unable.
    pub fn agree(self, other: Self) -> Result<bool, FrameError> {
        match (self, other) {
            (Self::Wanted, Self::Unable) | (Self::Unable, Self::Wanted) => Err(
                FrameError::Unexpected("one side wants checksums, and the other has none"),
            ),
            _ => Ok(self == Self::Wanted || other == Self::Wanted),
        }
    }
}

/// The body of a hello: what one side says of itself before any payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    limit: u64,
    checksums: Checksums,
    name: String,
    offers: u64,
}

impl Hello {
    /// A side that takes payloads of up to `limit` bytes, on the link of that name, has no checksums and offers nothing else.
    ///
    /// # Errors
    /// [`FrameError::Name`] if the name is longer than [`MAX_NAME`] bytes.
    pub fn new(limit: u64, name: &str) -> Result<Self, FrameError> {
        if name.len() > MAX_NAME {
            return Err(FrameError::Name);
        }
        Ok(Self {
            limit,
            checksums: Checksums::Unable,
            name: name.to_owned(),
            offers: 0,
        })
    }

    /// The same, with something else to say about checksums.
    #[must_use]
    pub fn with_checksums(mut self, checksums: Checksums) -> Self {
        self.checksums = checksums;
        self
    }

    /// The same from a side that offers this. It is in the header, not in the body.
    #[must_use]
    pub fn with_offers(mut self, offers: u64) -> Self {
        self.offers = offers;
        self
    }

    /// What the sender of this hello can do beside what every link can: a set of bits, of which the transport says what
    /// each means. Unknown ones are ignored.
    #[must_use]
    pub fn offers(&self) -> u64 {
        self.offers
    }

    /// Bytes of the longest payload that the sender of this hello takes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What the sender of this hello says about checksums.
    #[must_use]
    pub fn checksums(&self) -> Checksums {
        self.checksums
    }

    /// The name of the link.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Header and body as they cross the stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let header = Header {
            kind: Kind::Hello,
            sequence: self.offers,
            length: (FIXED_LEN + self.name.len()) as u64,
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&self.limit.to_le_bytes());
        bytes.push(self.checksums as u8);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// How many bytes of body to read after `header`.
    ///
    /// # Errors
    /// [`FrameError::Unexpected`] if it is no hello's, [`FrameError::Field`] if a hello is never that long.
    pub fn body_len(header: &Header) -> Result<usize, FrameError> {
        if header.kind != Kind::Hello {
            return Err(FrameError::Unexpected("something else before the hello"));
        }
        match usize::try_from(header.length) {
            Ok(len) if (FIXED_LEN..=FIXED_LEN + MAX_NAME).contains(&len) => Ok(len),
            _ => Err(FrameError::Field("length")),
        }
    }

    /// Reads a body; what is offered is the header's [`sequence`](Header::sequence).
    ///
    /// # Errors
    /// [`FrameError::Field`] if it is too short or says something else about checksums, [`FrameError::Name`] if the name is not UTF-8 or too long.
    pub fn decode_body(body: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Field("length");
        let (limit, rest) = body.split_first_chunk().ok_or(short)?;
        let (checksums, name) = rest.split_first().ok_or(short)?;
        let checksums = Checksums::ALL
            .into_iter()
            .find(|known| *known as u8 == *checksums)
            .ok_or(FrameError::Field("word about checksums"))?;
        let name = std::str::from_utf8(name).map_err(|_| FrameError::Name)?;
        Ok(Self::new(u64::from_le_bytes(*limit), name)?.with_checksums(checksums))
    }
}

/// Why bytes are not a frame, or not one that belongs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The first two bytes are not a frame's.
    NotAFrame,
    /// A version that this crate does not speak.
    Version(u8),
    /// A kind of frame that this version does not have.
    Kind(u8),
    /// A field whose value it cannot have.
    Field(&'static str),
    /// A name of a link that is too long or not UTF-8.
    Name,
    /// A good frame in the wrong place.
    Unexpected(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFrame => write!(f, "these bytes do not start a frame"),
            Self::Version(version) => {
                write!(f, "frames of version {version}, where {VERSION} is spoken")
            }
            Self::Kind(kind) => write!(f, "a frame of the unknown kind {kind}"),
            Self::Field(field) => write!(f, "a frame with a bad {field}"),
            Self::Name => write!(
                f,
                "a link's name that is not UTF-8 of at most {MAX_NAME} bytes"
            ),
            Self::Unexpected(what) => write!(f, "{what}"),
        }
    }
}

impl Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        let data = (
            proptest::sample::select(Method::ALL.to_vec()),
            any::<u8>(),
            any::<bool>(),
        )
            .prop_map(|(method, copies, acknowledge)| Kind::Data {
                method,
                copies,
                acknowledge,
            });
        prop_oneof![
            (data, any::<u64>(), any::<u64>()),
            any::<u64>().prop_map(|sequence| (Kind::Acknowledgement, sequence, 0)),
            any::<u64>().prop_map(|sequence| (Kind::Release, sequence, 0)),
            any::<u64>().prop_map(|number| (Kind::Retirement, number, 0)),
            (any::<u64>(), any::<u64>()).prop_map(|(offers, length)| (Kind::Hello, offers, length)),
            Just((Kind::End, 0, 0)),
        ]
        .prop_map(|(kind, sequence, length)| Header {
            kind,
            sequence,
            length,
        })
    }

    fn checksums() -> impl Strategy<Value = Checksums> {
        proptest::sample::select(Checksums::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn a_header_survives_the_stream(header in header()) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn a_mutated_header_is_refused_or_is_another_good_one(
            header in header(), at in 0..HEADER_LEN, value in any::<u8>()
        ) {
            let mut bytes = header.encode();
            bytes[at] = value;
            if let Ok(decoded) = Header::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        /// As a peer that lies would change it, in more than one place, and cut it.
        #[test]
        fn a_mutated_hello_is_refused_or_is_another_good_one(
            limit in any::<u64>(), name in "\\PC{0,40}", checksums in checksums(),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<proptest::sample::Index>(), is_cut in any::<bool>(),
        ) {
            let hello = Hello::new(limit, &name).expect("short").with_checksums(checksums);
            let mut bytes = hello.encode();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let Some((header, rest)) = bytes.split_first_chunk() else { return Ok(()) };
            let Ok(header) = Header::decode(header) else { return Ok(()) };
            let Ok(len) = Hello::body_len(&header) else { return Ok(()) };
            prop_assert!((FIXED_LEN..=FIXED_LEN + MAX_NAME).contains(&len));
            let Some(body) = rest.get(..len) else { return Ok(()) };
            if let Ok(hello) = Hello::decode_body(body) {
                let hello = hello.with_offers(header.sequence);
                prop_assert_eq!(&hello.encode(), &bytes[..HEADER_LEN + len]);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<[u8; HEADER_LEN]>(), body in any::<Vec<u8>>()) {
            let _ = Header::decode(&bytes);
            let mut near = bytes;
            near[..3].copy_from_slice(b"RR\x01");
            if let Ok(header) = Header::decode(&near) {
                prop_assert_eq!(header.encode(), near);
            }
            if let Ok(hello) = Hello::decode_body(&body) {
                prop_assert_eq!(&hello.encode()[HEADER_LEN..], &body[..]);
            }
        }

        #[test]
        fn a_hello_survives_the_stream(
            limit in any::<u64>(), name in "\\PC{0,80}", checksums in checksums(), offers in any::<u64>()
        ) {
            prop_assume!(name.len() <= MAX_NAME);
            let hello = Hello::new(limit, &name).expect("short").with_checksums(checksums).with_offers(offers);
            let bytes = hello.encode();
            let (header, body) = bytes.split_first_chunk().expect("a header");
            let header = Header::decode(header).expect("good");
            prop_assert_eq!(Hello::body_len(&header), Ok(body.len()));
            prop_assert_eq!(Hello::decode_body(body).map(|body| body.with_offers(header.sequence)), Ok(hello));
        }
    }

    #[test]
    fn every_field_that_a_kind_does_not_use_must_be_zero() {
        let end = Header {
            kind: Kind::End,
            sequence: 0,
            length: 0,
        }
        .encode();
        for at in 4..HEADER_LEN {
            let mut bytes = end;
            bytes[at] = 1;
            assert!(
                matches!(Header::decode(&bytes), Err(FrameError::Field(_))),
                "byte {at}"
            );
        }
    }

    #[test]
    fn checksums_are_on_if_one_side_wants_them_and_never_without_the_other() {
        use Checksums::{Able, Unable, Wanted};
        for (one, other, agreed) in [
            (Unable, Unable, Some(false)),
            (Unable, Able, Some(false)),
            (Unable, Wanted, None),
            (Able, Able, Some(false)),
            (Able, Wanted, Some(true)),
            (Wanted, Wanted, Some(true)),
        ] {
            assert_eq!(one.agree(other).ok(), agreed, "{one:?} {other:?}");
            assert_eq!(other.agree(one).ok(), agreed, "{other:?} {one:?}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = Header {
            kind: Kind::End,
            sequence: 0,
            length: 0,
        }
        .encode();
        bytes[2] = 9;
        assert_eq!(Header::decode(&bytes), Err(FrameError::Version(9)));
    }
}
