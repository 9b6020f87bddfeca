//! Receives one payload over a UNIX socket into a function on WasmEdge, and prints the function's reply, a sum of it:
//! `cargo run --features cli --example receive -- ADDRESS`. Whoever sends may run on another runtime, or on none.

use roadrunner_core::{Deadline, Sink, Transfer};
use roadrunner_uds::{Listener, Options};
use roadrunner_wasmedge::function::{Function, FunctionOptions, NoOutbox, Reply};
use roadrunner_wasmedge::module::Module;
use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: receive ADDRESS")?;
    let deadline = Deadline::after(Duration::from_secs(600));
    let module = Module::from_bytes("sum", include_bytes!("sum.wat"), None)?;
    let mut sum = Function::new(&module, FunctionOptions::new("sum"))?;

    let mut listener = Listener::bind(address.parse()?, Options::default())?;
    let mut link = listener.accept(deadline)?;
    let delivery = link.recv(&mut sum, deadline)?;
    let Reply::Region(reply) = sum.handle(delivery.region(), &mut NoOutbox, deadline)? else {
        return Err("the function replied nothing".into());
    };
    let mut bytes = [0; 8];
    reply.span(sum.memory())?.copy_to_slice(&mut bytes);
    let receipt = delivery.receipt();
    println!(
        "received {} bytes by {}, sum {:#018x}",
        receipt.bytes(),
        receipt.method(),
        u64::from_le_bytes(bytes)
    );
    Ok(())
}
