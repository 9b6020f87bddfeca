//! The hellos of a link, against a peer that says anything.

use crate::script::{read, Script};
use arbitrary::Arbitrary;
use roadrunner_core::frame::{Hello, MAX_NAME};
use roadrunner_core::stream::Opening;
use roadrunner_core::{Deadline, TransferError};

#[derive(Debug, Arbitrary)]
struct Input {
    accepts: bool,
    limit: u64,
    name: String,
    script: Script,
}

/// Steps of an opening, each of which could be late.
const MOST: usize = 100_000;

pub(crate) fn run(data: &[u8]) {
    let Some(input) = read::<Input>(data) else {
        return;
    };
    let wire = input.script.wire(Vec::new());
    let opening = if input.accepts {
        Ok(Opening::accept(wire, input.limit))
    } else {
        Opening::connect(wire, &input.name, input.limit)
    };
    let Ok(mut opening) = opening else {
        assert!(input.name.len() > MAX_NAME, "a name that is short enough");
        return;
    };
    let mut opened = Err(TransferError::Timeout);
    for _ in 0..MOST {
        opened = opening.open(Deadline::now());
        let over = !matches!(opened, Err(TransferError::Timeout));
        if over {
            break;
        }
    }
    match opened {
        Ok(link) => {
            assert!(link.limit() <= input.limit, "a limit beyond our own");
            assert!(link.name().len() <= MAX_NAME);
            if !input.accepts {
                assert_eq!(link.name(), input.name);
            }
            // What was said to the peer is a hello, whole.
            let heard = &link.wire().heard;
            let said = Hello::new(input.limit, link.name()).map(|hello| hello.encode().len());
            assert!(
                said.is_ok_and(|least| heard.len() >= least),
                "no hello was said"
            );
        }
        Err(TransferError::Timeout) => unreachable!("there are fewer steps"),
        Err(error) => {
            assert!(
                matches!(
                    error,
                    TransferError::PeerClosed
                        | TransferError::Truncated { .. }
                        | TransferError::Protocol(_)
                        | TransferError::Refused(_)
                ),
                "{error}"
            );
        }
    }
}
