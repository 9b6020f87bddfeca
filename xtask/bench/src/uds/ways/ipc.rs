//! The `ipc-channel` crate: bytes through its channel, or in its shared memory, whichever is faster for the size.

use super::{Accepts, Receives, Sends};
use crate::uds::sys;
use anyhow::Result;
use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
    IpcSharedMemory,
};
use roadrunner_core::Span;
use roadrunner_mem::PageBuffer;

type Channels = (IpcBytesReceiver, IpcReceiver<IpcSharedMemory>);

pub(super) fn listen(kind: &str, bytes: u64) -> Result<(String, Accepts)> {
    let shared = kind == "shared";
    let (server, name) = IpcOneShotServer::<Channels>::new()?;
    let accept = move || {
        let (_, (plain, memories)) = server.accept()?;
        Ok(Box::new(Receiver {
            plain,
            memories,
            shared,
            memory: PageBuffer::new(bytes as usize)?,
        }) as Box<dyn Receives>)
    };
    Ok((name, Box::new(accept)))
}

struct Receiver {
    plain: IpcBytesReceiver,
    memories: IpcReceiver<IpcSharedMemory>,
    shared: bool,
    memory: PageBuffer,
}

impl Receives for Receiver {
    fn recv(&mut self) -> Result<Span<'_>> {
        let span = self.memory.span();
        let len = if self.shared {
            span.copy_from_slice(&self.memories.recv()?)
        } else {
            span.copy_from_slice(&self.plain.recv()?)
        };
        Ok(span.split_at(len).0)
    }

    fn method(&self) -> String {
        if self.shared {
            "ipc-channel shared memory".to_owned()
        } else {
            "ipc-channel bytes".to_owned()
        }
    }
}

pub(super) fn connect(kind: &str, bytes: u64, address: &str) -> Result<Box<dyn Sends>> {
    let server = IpcSender::<Channels>::connect(address.to_owned())?;
    let (plain, plain_receiver) = ipc::bytes_channel()?;
    let (memories, memories_receiver) = ipc::channel()?;
    server.send((plain_receiver, memories_receiver))?;
    Ok(Box::new(Sender {
        plain,
        memories,
        shared: kind == "shared",
        memory: PageBuffer::new(bytes as usize)?,
        bytes: bytes as usize,
    }))
}

struct Sender {
    plain: IpcBytesSender,
    memories: IpcSender<IpcSharedMemory>,
    shared: bool,
    memory: PageBuffer,
    bytes: usize,
}

impl Sends for Sender {
    fn place(&mut self) -> Result<Span<'_>> {
        Ok(self.memory.span().split_at(self.bytes).0)
    }

    fn send(&mut self) -> Result<()> {
        let mut span = self.memory.span().split_at(self.bytes).0;
        let payload = sys::slice(&mut span);
        if self.shared {
            self.memories.send(IpcSharedMemory::from_bytes(payload))?;
        } else {
            self.plain.send(payload)?;
        }
        Ok(())
    }
}
