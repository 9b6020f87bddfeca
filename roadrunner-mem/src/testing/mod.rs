//! What transports are tested with that use this crate (feature `testing`): links that slots go by, as [`SlotEnd`]s, and
//! listeners that a [`Server`](crate::Server) serves, as [`Serving`].

mod serving;
mod slots;

pub use serving::{
    converse, drain_loses_nothing, one_link_is_closed_and_no_other, peers_hold_up_nobody,
    serve_many, Echo, Serving,
};
pub use slots::{slot_options, By, SlotEnd};
