//! Roadrunner on WasmEdge: one WebAssembly function as a thing that receives payloads and whose replies can be sent.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`module`] | [`Module`](module::Module): a file, validated and compiled ahead of time, with a cache |
//! | [`function`] | [`Function`](function::Function): an instance of one, with deadlines; a `Sink` and a linear memory |
//!
//! The guest's side is the crate `roadrunner-guest`, whose README is the ABI. With the feature `cli` there is also the
//! program `roadrunner`, which runs workflows of such functions.
//!
//! # Example
//!
//! ```no_run
//! use roadrunner_core::{Deadline, Sink};
//! use roadrunner_wasmedge::function::{Function, FunctionOptions, NoOutbox, Reply};
//! use roadrunner_wasmedge::module::Module;
//! use std::time::Duration;
//!
//! /// Replies with the buffer that came in.
//! const ECHO: &str = r#"(module
//!     (memory (export "memory") 1)
//!     (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 1024))
//!     (func (export "roadrunner_free") (param i32))
//!     (func (export "roadrunner_handle") (param i32 i32) (result i64)
//!         (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
//!                 (i64.extend_i32_u (local.get 1)))))"#;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = Module::from_bytes("echo", ECHO.as_bytes(), None)?;
//! let mut echo = Function::new(&module, FunctionOptions::new("echo"))?;
//!
//! let deadline = Deadline::after(Duration::from_secs(1));
//! let region = echo.reserve(5, 1)?;
//! region.span(echo.memory())?.copy_from_slice(b"hello");
//! let Reply::Region(reply) = echo.handle(region, &mut NoOutbox, deadline)? else {
//!     panic!("no reply");
//! };
//! let mut bytes = [0; 5];
//! reply.span(echo.memory())?.copy_to_slice(&mut bytes);
//! echo.free(reply)?;
//! assert_eq!(&bytes, b"hello");
//! # Ok(())
//! # }
//! ```

pub mod function;
mod guard;
mod maps;
pub mod module;
#[cfg(feature = "cli")]
pub mod run;
mod scratch;
#[cfg(feature = "cli")]
pub mod serve;
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "cli")]
pub mod workflow;
