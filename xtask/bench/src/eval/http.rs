//! What two functions on WasmEdge do today: HTTP over WASI's sockets, with a body of JSON or of bytes.

use super::hop::{CONSUME, HOP, PRODUCE, SERIALIZE};
use super::wasi::Program;
use crate::measure::{Candidate, Watch};
use crate::usage::Watched;
use std::time::Duration;

/// How the body is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    Json,
    Raw,
}

impl Body {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Raw => "raw",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "wasmedge-http-json",
            Self::Raw => "wasmedge-http-raw",
        }
    }
}

pub(super) fn candidate(body: Body, bytes: u64, program: &Program) -> Candidate<'_> {
    Candidate::new(body.name(), "http", move || {
        let mut receiver = program.start(&["receive", body.word()])?;
        let port: u16 = receiver.control.hear()?;
        let (port, length) = (port.to_string(), bytes.to_string());
        let mut sender = program.start(&["send", body.word(), &port, &length])?;
        sender.control.hear::<()>()?;
        let mut watched = Watched::new([receiver.id(), sender.id()]);
        Ok(move |watch: &mut Watch| {
            let _alive = &receiver;
            watched.begin()?;
            sender.control.say(&())?;
            let nanoseconds: [u64; 5] = sender.control.hear()?;
            let faults = watched.end(watch)?;
            let [produce, encode, answered, decode, consume] =
                nanoseconds.map(Duration::from_nanos);
            watch.add_time(produce + encode + answered);
            watch.phase(PRODUCE, produce);
            watch.phase(SERIALIZE, encode + decode);
            watch.phase(HOP, (encode + answered).saturating_sub(consume));
            watch.phase(CONSUME, consume);
            // The payload is filled where the last one was, and what is read has just been written.
            watch.faults(HOP, faults);
            watch.delivered_by(body.name(), 1);
            // The sum of what arrived was compared by the sender.
            watch.verified(true)
        })
    })
}
