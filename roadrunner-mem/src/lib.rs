#![doc = include_str!("../README.md")]

mod budget;
mod doorbell;
mod lane;
mod link;
mod maps;
mod pages;
mod policy;
mod pump;
mod segment;
mod slots;
#[allow(unsafe_code)]
mod sys;
mod transfer;

pub use doorbell::Doorbell;
pub use link::{link, Link};
pub use pages::exchange;
pub use policy::Policy;
pub use pump::{Checksum, Pipes, Pump};
pub use segment::{Audience, Segment};
pub use slots::{Released, SharedPayload, SlotOptions, SlotReport, Slots, Trust};
pub use sys::{Exchanged, PageBuffer};
pub use transfer::transfer;

/// Bytes of a page.
pub const PAGE_SIZE: usize = sys::PAGE;
