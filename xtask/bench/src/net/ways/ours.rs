//! `roadrunner-splice`.

use super::{deadline, Listens, ListensToTalk, Receives, Sends};
use crate::net::part::Task;
use crate::net::ping::Talks;
use anyhow::{bail, Context, Result};
use roadrunner_core::{
    LinearMemory, Method, Payload, Receipt, Region, Sink, Span, Transfer, TransferError,
};
use roadrunner_mem::PageBuffer;
#[cfg(feature = "peers")]
use roadrunner_splice::Tls;
use roadrunner_splice::{
    connect as connect_link, Link, Listener, Options, Preference, Secret, ZeroCopyBy,
};

/// Connections of a link that has several.
const STREAMS: u8 = 4;

/// What a way stands for, as a task has it.
pub(in crate::net) fn options(task: &Task) -> Result<Options> {
    options_of(&task.way).and_then(|options| encrypted(options, task))
}

#[cfg(feature = "peers")]
fn encrypted(options: Options, task: &Task) -> Result<Options> {
    let Some((certificate, key)) = &task.identity else {
        return Ok(options);
    };
    let tls = Tls::new().identity(certificate, key)?.trust(certificate)?;
    Ok(options.tls(tls))
}

#[cfg(not(feature = "peers"))]
fn encrypted(options: Options, _task: &Task) -> Result<Options> {
    Ok(options)
}

/// What it stands for, encryption aside. Without a word about the checksum there is none, as there is none in what it is compared with.
pub(in crate::net) fn options_of(way: &str) -> Result<Options> {
    let secret = Secret::from_bytes(b"as good as any for a benchmark")?;
    let options = Options::default().secret(secret);
    Ok(match way {
        "net-auto" | "net-tls" => options.checksum(false),
        "net-auto-checked" => options.checksum(true),
        "net-splice" => options.checksum(false).prefer(Preference::Splice),
        "net-zerocopy" | "net-zerocopy-uring" => options
            .checksum(false)
            .prefer(Preference::ZeroCopySend)
            .io_uring(way.ends_with("uring")),
        "net-streams" => options.checksum(false).streams(STREAMS),
        "net-measured" => options.checksum(false).prefer(Preference::Measured),
        other => bail!("no way {other}"),
    })
}

/// A memory whose function has one buffer, at its start.
pub(in crate::net) struct Placed(PageBuffer);

impl Placed {
    pub(in crate::net) fn new(bytes: u64) -> Result<Self> {
        let memory = PageBuffer::new(usize::try_from(bytes)?);
        Ok(Self(memory.context("mapping a linear memory")?))
    }
}

impl Sink for Placed {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(0, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }

    fn release(&mut self, _region: Region) {}
}

/// One end.
struct End {
    link: Link,
    memory: Placed,
    region: Region,
    receipt: Option<Receipt>,
}

impl End {
    fn new(link: Link, bytes: u64) -> Result<Self> {
        Ok(Self {
            link,
            memory: Placed::new(bytes)?,
            region: Region::new(0, bytes),
            receipt: None,
        })
    }

    fn receive(&mut self) -> Result<()> {
        let delivery = self.link.recv(&mut self.memory, deadline())?;
        self.receipt = Some(delivery.receipt());
        Ok(())
    }
}

fn accepted(task: &Task) -> Result<(String, impl FnOnce() -> Result<End>)> {
    let mut listener = Listener::bind(&task.address, options(task)?)?;
    let bytes = task.bytes;
    Ok((listener.address().to_string(), move || {
        End::new(listener.accept(deadline())?, bytes)
    }))
}

fn connected(task: &Task) -> Result<End> {
    let options = options(task)?;
    let link = connect_link(&task.address, "bench", &options, deadline())?;
    End::new(link, task.bytes)
}

pub(super) fn listen(task: &Task) -> Result<Listens> {
    let (address, accept) = accepted(task)?;
    Ok((address, Box::new(|| Ok(Box::new(accept()?)))))
}

pub(super) fn connect(task: &Task) -> Result<Box<dyn Sends>> {
    Ok(Box::new(connected(task)?))
}

pub(in crate::net) fn listen_to_talk(task: &Task) -> Result<ListensToTalk> {
    let (address, accept) = accepted(task)?;
    Ok((address, Box::new(|| Ok(Box::new(accept()?)))))
}

pub(in crate::net) fn connect_to_talk(task: &Task) -> Result<Box<dyn Talks>> {
    Ok(Box::new(connected(task)?))
}

impl Sends for End {
    fn place(&mut self) -> Result<Span<'_>> {
        Ok(self.region.span(self.memory.memory())?)
    }

    fn send(&mut self) -> Result<()> {
        let payload = Payload::given(self.memory.memory(), self.region)?;
        self.receipt = Some(self.link.send(payload, deadline())?);
        Ok(())
    }

    fn by(&self) -> String {
        let wire = self.link.wire();
        let method = self.receipt.map(|receipt| receipt.method());
        match (method, wire.zero_copy_by(), wire.streams()) {
            (Some(Method::ZeroCopySend), Some(ZeroCopyBy::IoUring), _) => "by io_uring".to_owned(),
            (Some(Method::ZeroCopySend), _, _) => "by sendmsg".to_owned(),
            (_, _, 2..) => format!("over {} connections", wire.streams()),
            _ => String::new(),
        }
    }
}

impl Receives for End {
    fn recv(&mut self) -> Result<Span<'_>> {
        self.receive()?;
        Ok(self.region.span(self.memory.memory())?)
    }

    fn method(&self) -> String {
        self.receipt
            .map_or_else(String::new, |receipt| receipt.method().name().to_owned())
    }
}

impl Talks for End {
    fn say(&mut self) -> Result<()> {
        let payload = Payload::kept(self.memory.memory(), self.region)?;
        self.link.send(payload, deadline())?;
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        self.receive()
    }

    fn memory(&mut self) -> Result<Span<'_>> {
        Ok(self.region.span(self.memory.memory())?)
    }
}
