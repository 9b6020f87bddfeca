#![doc = include_str!("../README.md")]

mod budget;
mod doorbell;
mod lane;
mod link;
mod lobby;
mod maps;
mod pages;
mod policy;
mod pool;
mod pump;
mod segment;
mod server;
mod slots;
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "testing")]
pub mod testing;
mod transfer;

pub use doorbell::Doorbell;
pub use link::{link, Link};
pub use lobby::{Caller, Lobby};
pub use pages::{exchange, prefer_huge_pages};
pub use policy::Policy;
pub use pool::{PagePool, PoolOptions, PoolReport};
pub use pump::{Checksum, Pipes, Pump};
pub use segment::{Audience, Segment};
pub use server::{Accept, Served, Server, Service};
pub use slots::{
    Misuse, Released, SharedPayload, SlotOptions, SlotReport, SlotTransfer, Slots, Trust,
};
pub use sys::{Exchanged, PageBuffer};
pub use transfer::transfer;

/// Bytes of a page.
pub const PAGE_SIZE: usize = sys::PAGE;
