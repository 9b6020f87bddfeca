//! The suite over the reference transport, and over a link over a byte stream as simple as it can be.

mod wire;

use roadrunner_core::conformance;
use roadrunner_core::testing::Memory;
use wire::Sockets;

conformance!(reference, Memory::default());
conformance!(stream_link, Sockets);
