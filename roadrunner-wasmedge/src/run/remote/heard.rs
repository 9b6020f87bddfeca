//! What one other host says: events, by the clock of this host, and outputs.

use super::errand::{broken, silent, Errand};
use super::hexadecimal;
use crate::run::control::{Clock, Control, Message, Order, Word, SILENCE};
use crate::run::event::{monotonic_now, Event};
use crate::run::worker::numbered;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// Beats that set the clock, before there is anything else to do there.
const FIRST_BEATS: u32 = 5;
/// Bytes of an output at most: what a function can reply.
const MAX_OUTPUT: u64 = u32::MAX as u64;

/// What one host has said.
pub(super) struct Heard<'a> {
    errand: &'a Errand,
    clock: Clock,
    pub(super) done: Vec<bool>,
    /// Outputs that are coming, by the place of their function.
    coming: HashMap<usize, Coming>,
    /// Outputs that have come, of each function.
    came: Vec<u32>,
}

struct Coming {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Sha256,
}

impl<'a> Heard<'a> {
    pub(super) fn new(errand: &'a Errand) -> Self {
        let count = errand.numbers.len();
        Self {
            errand,
            clock: Clock::default(),
            done: vec![false; count],
            coming: HashMap::new(),
            came: vec![0; count],
        }
    }

    pub(super) fn set_clock(&mut self, control: &Control) -> Result<(), String> {
        for _ in 0..FIRST_BEATS {
            let at = monotonic_now();
            control
                .say(&Order::Beat { at })
                .map_err(|error| broken(&error))?;
            match control.next(Instant::now() + SILENCE) {
                Ok(Some(Message::Said(word))) => self.word(word)?,
                Ok(Some(Message::Piece(..))) => return Err("it spoke out of turn".to_owned()),
                Ok(None) => return Err(silent()),
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    pub(super) fn word(&mut self, word: Word) -> Result<(), String> {
        match word {
            Word::Beat { echo, at } => self.clock.note(echo, at, monotonic_now()),
            Word::Refused { reason } => return Err(reason),
            Word::Welcome { .. } => return Err("it welcomed the run twice".to_owned()),
            Word::Event { function, event } => {
                let Some(number) = self.errand.numbers.get(function) else {
                    return Err(format!(
                        "it spoke of function {function}, which it does not have"
                    ));
                };
                let event = self.here(function, event)?;
                // Nobody listens any more if the coordinator has given up.
                let _ = self.errand.events.send((*number, event));
            }
        }
        Ok(())
    }

    /// An event with times of this clock, and its output in the staging directory.
    fn here(&mut self, function: usize, event: Event) -> Result<Event, String> {
        Ok(match event {
            Event::Sending { to, at } => Event::Sending {
                to,
                at: self.clock.here(at),
            },
            Event::Received {
                from,
                bytes,
                method,
                copies,
                at,
            } => Event::Received {
                from,
                bytes,
                method,
                copies,
                at: self.clock.here(at),
            },
            Event::Output { bytes, sha256, .. } => self.output(function, bytes, &sha256)?,
            Event::Failed(failure) => {
                // Nothing follows from this one.
                self.done[function] = true;
                Event::Failed(failure.on_host(&self.errand.address))
            }
            Event::Done => {
                self.done[function] = true;
                Event::Done
            }
            event => event,
        })
    }

    pub(super) fn piece(&mut self, function: usize, piece: &[u8]) -> Result<(), String> {
        let Some(Some(_)) = self.errand.outputs.get(function) else {
            return Err("it sent an output that there is not".to_owned());
        };
        let coming = self.coming(function)?;
        coming.bytes += piece.len() as u64;
        if coming.bytes > MAX_OUTPUT {
            return Err(format!(
                "an output of `{}` is longer than a reply can be",
                self.errand.names[function]
            ));
        }
        coming.hash.update(piece);
        let written = coming.file.write_all(piece);
        written.map_err(|error| format!("writing an output: {error}"))
    }

    /// The output of a function that is coming, from its beginning.
    fn coming(&mut self, function: usize) -> Result<&mut Coming, String> {
        use std::collections::hash_map::Entry;
        match self.coming.entry(function) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                // No name of an output begins with a dot.
                let name = format!(".coming-{}", self.errand.numbers[function]);
                let path = self.errand.staging.join(name);
                let file = File::create(&path)
                    .map_err(|error| format!("making {}: {error}", path.display()))?;
                Ok(entry.insert(Coming {
                    path,
                    file,
                    bytes: 0,
                    hash: Sha256::new(),
                }))
            }
        }
    }

    /// All of an output has come: under the name that it has here, whatever the other host calls it.
    fn output(&mut self, function: usize, bytes: u64, sha256: &str) -> Result<Event, String> {
        let Some(Some(output)) = self.errand.outputs.get(function) else {
            return Err("it sent an output that there is not".to_owned());
        };
        self.coming(function)?;
        let Some(coming) = self.coming.remove(&function) else {
            return Err("it sent no output".to_owned());
        };
        self.came[function] += 1;
        let file = numbered(output, self.came[function]);
        let came = hexadecimal(&coming.hash.finalize());
        if (coming.bytes, came.as_str()) != (bytes, sha256) {
            return Err(format!(
                "the output {file} came with {} bytes of SHA-256 {came} and should have {bytes} of {sha256}",
                coming.bytes
            ));
        }
        std::fs::rename(&coming.path, self.errand.staging.join(&file))
            .map_err(|error| format!("writing the output {file}: {error}"))?;
        Ok(Event::Output {
            file,
            bytes,
            sha256: came,
        })
    }
}
