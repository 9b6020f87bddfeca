//! What a payload costs between two processes over loopback, by each way and beside plain `send`/`recv` with the same
//! socket options: `cargo run --release --example measure [MB [WAY …]]`, `… measure rtt` for a round trip of 64 bytes, and `… measure
//! links` for messages of 64 KB over many links, served by two threads.
//!
//! The program starts itself as the sender, which fills and gives away the payload twenty times, and prints the best and
//! the median time of a round from one delivery to the next, filling included, and the time that the sender is in `send`.

use nix::sys::socket::{setsockopt, sockopt};
use roadrunner_core::{
    Deadline, HostMemory, LinearMemory, Payload, Region, Sink, Span, Transfer, TransferError,
};
use roadrunner_mem::PageBuffer;
use roadrunner_splice::{connect, Link, Listener, Options, Preference, Server, Service};
use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const ROUNDS: usize = 20;
const WAYS: [&str; 6] = [
    "tcp",
    "auto",
    "write",
    "checksum",
    "splice",
    "splice+checksum",
];
const TRIPS: usize = 20_000;
const SMALL: u64 = 64;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A sink whose buffer is reused, as a function's allocator would.
struct Warm(HostMemory);

impl Sink for Warm {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        if self.0.region().len() < len {
            self.0 = HostMemory::from(vec![1; len as usize]);
        }
        Ok(Region::new(0, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }

    fn release(&mut self, _region: Region) {}
}

fn main() -> Outcome {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["rtt"] => round_trips(),
        ["links"] => [1, 10, 100, 1000, 1, 10, 100, 1000]
            .into_iter()
            .try_for_each(links),
        ["over", count, address] => over(count.parse()?, address),
        ["answer", way, address] => answer(way, address),
        ["send", len, way, address] => send(len.parse()?, way, address),
        [megabytes, ref ways @ ..] if !ways.is_empty() => payloads(megabytes, ways),
        // Twice, so that a machine that gets slower meanwhile is noticed.
        _ => payloads(arguments.first().unwrap_or(&"100"), &WAYS.repeat(2)),
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn options(way: &str) -> Options {
    let options = Options::default().checksum(way.ends_with("checksum"));
    match way {
        "auto" => options,
        "splice" | "splice+checksum" => options.prefer(Preference::Splice),
        _ => options.prefer(Preference::Write),
    }
}

/// Starts this program as the peer.
fn start(arguments: &[&str], address: impl ToString) -> Outcome<Child> {
    let mut program = Command::new(std::env::current_exe()?);
    Ok(program.args(arguments).arg(address.to_string()).spawn()?)
}

/// As a link sets up its socket on loopback.
fn tune(socket: &TcpStream) -> Outcome {
    socket.set_nodelay(true)?;
    setsockopt(socket, sockopt::TcpCongestion, &"cubic".into())?;
    Ok(())
}

fn payloads(megabytes: &str, ways: &[&str]) -> Outcome {
    let len = megabytes.parse::<usize>()? * 1_000_000;
    let bytes = len.to_string();
    for way in ways.iter().copied() {
        let mut times = Vec::new();
        let mut method = "send/recv".to_owned();
        if way == "tcp" {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let mut sender = start(&["send", &bytes, way], listener.local_addr()?)?;
            let (mut socket, _) = listener.accept()?;
            tune(&socket)?;
            let mut buffer = vec![1; len];
            for _ in 0..=ROUNDS {
                let before = Instant::now();
                socket.read_exact(&mut buffer)?;
                times.push(before.elapsed());
            }
            sender.wait()?;
        } else {
            let mut listener = Listener::bind("127.0.0.1:0", options(way))?;
            let mut sender = start(&["send", &bytes, way], listener.address())?;
            let mut link = listener.accept(soon())?;
            let mut sink = Warm(HostMemory::new());
            for _ in 0..=ROUNDS {
                let before = Instant::now();
                let receipt = link.recv(&mut sink, soon())?.receipt();
                times.push(before.elapsed());
                method = receipt.method().name().to_owned();
            }
            sender.wait()?;
        }
        // The first one grew the buffers.
        times.remove(0);
        times.sort();
        let (best, median) = (times[0], times[ROUNDS / 2]);
        println!("{megabytes} MB, {way}: {method}, best {best:.1?}, median {median:.1?}");
    }
    Ok(())
}

fn send(len: u64, way: &str, address: &str) -> Outcome {
    let mut memory = PageBuffer::new(len as usize).expect("memory");
    let region = Region::new(0, len);
    let mut sending = Duration::ZERO;
    if way == "tcp" {
        let mut socket = TcpStream::connect(address)?;
        tune(&socket)?;
        let mut bytes = vec![0; len as usize];
        for round in 0..=ROUNDS {
            fill(Span::from_slice(&mut bytes), round as u8);
            let before = Instant::now();
            socket.write_all(&bytes)?;
            sending += before.elapsed();
        }
    } else {
        let mut link = connect(address, "measure", &options(way), soon())?;
        for round in 0..=ROUNDS {
            fill(region.span(&mut memory)?, round as u8);
            let before = Instant::now();
            link.send(Payload::given(&mut memory, region)?, soon())?;
            sending += before.elapsed();
        }
        link.close(soon())?;
    }
    let each = sending / (ROUNDS as u32 + 1);
    println!("    in send: {each:.1?} on average");
    Ok(())
}

/// What a function does before it gives a payload away.
fn fill(mut span: Span<'_>, value: u8) {
    let block = [value; 64 << 10];
    while !span.is_empty() {
        let written = span.copy_from_slice(&block);
        span = span.split_at(written).1;
    }
}

fn round_trips() -> Outcome {
    for way in ["tcp", "auto", "checksum"].repeat(3) {
        let mut times = Vec::with_capacity(TRIPS);
        if way == "tcp" {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let mut peer = start(&["answer", way], listener.local_addr()?)?;
            let (mut socket, _) = listener.accept()?;
            tune(&socket)?;
            let mut bytes = [7; SMALL as usize];
            for _ in 0..TRIPS {
                let before = Instant::now();
                socket.write_all(&bytes)?;
                socket.read_exact(&mut bytes)?;
                times.push(before.elapsed());
            }
            drop(socket);
            peer.wait()?;
        } else {
            let mut listener = Listener::bind("127.0.0.1:0", options(way))?;
            let mut peer = start(&["answer", way], listener.address())?;
            let mut link = listener.accept(soon())?;
            let (mut from, mut sink) = (HostMemory::from([7; SMALL as usize]), small_sink());
            for _ in 0..TRIPS {
                let before = Instant::now();
                exchange(&mut link, &mut from)?;
                link.recv(&mut sink, soon())?;
                times.push(before.elapsed());
            }
            link.close(soon())?;
            peer.wait()?;
        }
        times.sort();
        let (fifth, median) = (times[TRIPS / 20], times[TRIPS / 2]);
        println!("{SMALL} bytes there and back, {way}: 5% {fifth:.1?}, median {median:.1?}");
    }
    Ok(())
}

fn small_sink() -> Warm {
    Warm(HostMemory::from([0; SMALL as usize]))
}

fn exchange(link: &mut Link, memory: &mut HostMemory) -> Outcome {
    let payload = Payload::kept(memory, Region::new(0, SMALL))?;
    link.send(payload, soon())?;
    Ok(())
}

fn answer(way: &str, address: &str) -> Outcome {
    if way == "tcp" {
        let mut socket = TcpStream::connect(address)?;
        tune(&socket)?;
        let mut bytes = [0; SMALL as usize];
        while socket.read_exact(&mut bytes).is_ok() {
            socket.write_all(&bytes)?;
        }
        return Ok(());
    }
    let mut link = connect(address, "measure", &options(way), soon())?;
    let mut sink = small_sink();
    while link.recv(&mut sink, soon()).is_ok() {
        exchange(&mut link, &mut sink.0)?;
    }
    Ok(())
}

const MESSAGES: usize = 16_000;
const MESSAGE: u64 = 64_000;

/// Receives all that comes.
struct Drain;

impl Service<Link> for Drain {
    type Session = Warm;

    fn opened(&self, _link: &Link) -> Option<Warm> {
        Some(Warm(HostMemory::new()))
    }

    fn ready(&self, sink: &mut Warm, link: &mut Link) -> Result<(), TransferError> {
        while link.try_recv(sink)?.is_some() {}
        Ok(())
    }
}

fn links(count: usize) -> Outcome {
    let listener = Listener::bind("127.0.0.1:0", options("auto"))?;
    let address = listener.address();
    let server = Server::start(listener, 2, Drain)?;
    let mut peer = start(&["over", &count.to_string()], address)?;
    while server.links() < count {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = Instant::now();
    // All links have been closed, each after its last message.
    server.drain(soon())?;
    let time = before.elapsed();
    peer.wait()?;
    let rate = (MESSAGES as u64 * MESSAGE) as f64 / time.as_secs_f64() / 1e9;
    println!("{MESSAGE} bytes each over {count} links: {rate:.2} GB/s");
    Ok(())
}

fn over(count: usize, address: &str) -> Outcome {
    let mut links = Vec::new();
    for _ in 0..count {
        links.push(connect(address, "measure", &options("auto"), soon())?);
    }
    let mut memory = HostMemory::from(vec![7; MESSAGE as usize]);
    let region = memory.region();
    for message in 0..MESSAGES {
        let link = &mut links[message % count];
        link.send(Payload::kept(&mut memory, region)?, soon())?;
    }
    for link in &mut links {
        link.close(soon())?;
    }
    Ok(())
}
