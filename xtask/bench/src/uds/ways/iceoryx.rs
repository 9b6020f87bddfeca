//! The `iceoryx2` crate: publish and subscribe. A payload is copied from linear memory into a loaned sample, and out of the
//! received one into linear memory. The receiver polls without a pause, which is the fastest that it can do.

use super::{Accepts, Receives, Sends};
use crate::uds::sys;
use anyhow::Result;
use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use roadrunner_core::Span;
use roadrunner_mem::PageBuffer;
use std::path::Path as Directory;

type Service = PortFactory<ipc::Service, [u8], ()>;

/// What the names of its files start with.
fn prefix(directory: &str) -> String {
    let unique: String = directory
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    format!("{unique}_")
}

/// Removes what the library leaves in shared memory when all nodes are gone.
struct Tidy(String);

impl Drop for Tidy {
    fn drop(&mut self) {
        let files = std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten();
        for file in files {
            if file.file_name().to_string_lossy().starts_with(&self.0) {
                // Gone already: fine.
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

/// Samples that may wait: a publisher that finds no room sleeps for long.
fn waiting(bytes: u64) -> usize {
    ((64 << 20) / bytes.max(1)).clamp(2, 64) as usize
}

fn service(directory: &str, bytes: u64) -> Result<(Node<ipc::Service>, Service)> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    config.global.set_root_path(&directory.try_into()?);
    config.global.prefix = prefix(directory).as_str().try_into()?;
    let node = NodeBuilder::new()
        .config(&config)
        .create::<ipc::Service>()?;
    let service = node
        .service_builder(&"roadrunner bench".try_into()?)
        .publish_subscribe::<[u8]>()
        .max_publishers(1)
        .max_subscribers(1)
        .subscriber_max_buffer_size(waiting(bytes))
        .enable_safe_overflow(false)
        .open_or_create()?;
    Ok((node, service))
}

pub(super) fn listen(bytes: u64, directory: &Directory) -> Result<(String, Accepts)> {
    let address = directory.display().to_string();
    let (node, service) = service(&address, bytes)?;
    let subscriber = service.subscriber_builder().create()?;
    let memory = PageBuffer::new(bytes as usize)?;
    let receiver = Box::new(Receiver {
        subscriber,
        memory,
        _service: service,
        _node: node,
        _tidy: Tidy(prefix(&address)),
    });
    Ok((address, Box::new(move || Ok(receiver as Box<dyn Receives>))))
}

struct Receiver {
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    memory: PageBuffer,
    _service: Service,
    _node: Node<ipc::Service>,
    _tidy: Tidy,
}

impl Receives for Receiver {
    fn recv(&mut self) -> Result<Span<'_>> {
        let sample = loop {
            if let Some(sample) = self.subscriber.receive()? {
                break sample;
            }
            std::hint::spin_loop();
        };
        let span = self.memory.span();
        let len = span.copy_from_slice(&sample);
        Ok(span.split_at(len).0)
    }

    fn method(&self) -> String {
        "iceoryx2".to_owned()
    }
}

pub(super) fn connect(bytes: u64, address: &str) -> Result<Box<dyn Sends>> {
    let (node, service) = service(address, bytes)?;
    let publisher = service
        .publisher_builder()
        .initial_max_slice_len(bytes.max(1) as usize)
        .max_loaned_samples(1)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    Ok(Box::new(Sender {
        publisher,
        memory: PageBuffer::new(bytes as usize)?,
        bytes: bytes as usize,
        _service: service,
        _node: node,
    }))
}

struct Sender {
    publisher: Publisher<ipc::Service, [u8], ()>,
    memory: PageBuffer,
    bytes: usize,
    _service: Service,
    _node: Node<ipc::Service>,
}

impl Sends for Sender {
    fn place(&mut self) -> Result<Span<'_>> {
        Ok(self.memory.span().split_at(self.bytes).0)
    }

    fn send(&mut self) -> Result<()> {
        let mut span = self.memory.span().split_at(self.bytes).0;
        let sample = self.publisher.loan_slice_uninit(self.bytes)?;
        sample.write_from_slice(sys::slice(&mut span)).send()?;
        Ok(())
    }
}
