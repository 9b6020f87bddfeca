//! Lets chosen system calls of a test fail.
//!
//! A test program that uses this crate gets functions with the names of the C library's (`recv`, `mremap` and so on)
//! linked in front of them. Without a [`Plan`] in its thread each does what the C library does. Under one it fails,
//! moves fewer bytes, or lets the socket die, as the plan says: no line of the code under test knows. That holds for
//! everything that is linked statically, the standard library and crates such as nix included; it does not for what the
//! C library calls within itself.
//!
//! ```
//! use roadrunner_faults::{Call, Fault, Plan};
//! use nix::errno::Errno;
//! use std::os::unix::net::UnixStream;
//!
//! let plan = Plan::new().nth(Call::Socketpair, 0, Fault::Errno(Errno::EMFILE));
//! let error = plan.during(UnixStream::pair).expect_err("as planned");
//! assert_eq!(error.raw_os_error(), Some(Errno::EMFILE as i32));
//! assert!(plan.during(UnixStream::pair).is_ok());
//! assert_eq!((plan.seen(Call::Socketpair), plan.done(Call::Socketpair)), (2, 1));
//! ```

mod call;
mod counts;
mod ends;
mod hop;
mod meeting;
mod plan;
mod report;
#[allow(unsafe_code)]
mod sys;

pub use call::Call;
pub use counts::{Counts, Plain};
pub use hop::Hop;
pub use meeting::Meeting;
pub use plan::{Fault, Plan, Way};
pub use report::is_long;
