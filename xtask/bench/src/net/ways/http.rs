//! HTTP/1.1 by hyper: a request whose body lies in linear memory, and a server that puts it into linear memory.
//!
//! The client hands its memory to hyper as it is, without a copy: the best that a host can do. The server copies what it
//! gets, as hyper has buffers of its own.

use super::{tcp, Listens, Receives, Sends};
use crate::net::part::Task;
use anyhow::{bail, Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use roadrunner_core::Span;
use roadrunner_mem::PageBuffer;
use std::convert::Infallible;
use std::future::{poll_fn, Future};
use std::net::TcpStream;
use std::pin::{pin, Pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use tokio::runtime::Runtime;

pub(super) type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;
pub(super) type Io = TokioIo<tokio::net::TcpStream>;

pub(super) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?)
}

/// The same options as the others have.
pub(super) fn io(runtime: &Runtime, socket: TcpStream) -> Result<Io> {
    tcp::set_up(&socket)?;
    socket.set_nonblocking(true)?;
    let _entered = runtime.enter();
    Ok(TokioIo::new(tokio::net::TcpStream::from_std(socket)?))
}

/// The receiver's memory, and how much of it has been filled.
struct Filled {
    memory: PageBuffer,
    filled: usize,
    whole: bool,
}

/// Where a server puts what comes.
#[derive(Clone)]
pub(super) struct Place(Arc<Mutex<Filled>>);

impl Place {
    fn look(&self) -> MutexGuard<'_, Filled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies what came to the end of what is there.
    pub(super) fn put(&self, data: &[u8]) {
        let mut place = self.look();
        let at = place.filled;
        place.filled += place.memory.span().split_at(at).1.copy_from_slice(data);
    }

    /// All of a payload is there.
    pub(super) fn end(&self) {
        self.look().whole = true;
    }
}

struct Server {
    runtime: Runtime,
    connection: Connection,
    place: Place,
    method: &'static str,
    /// Where a payload is looked at: the place's memory, exchanged with this one, costs nothing and borrows nothing.
    spare: PageBuffer,
    bytes: usize,
}

/// Listens for one connection, which `serve` serves.
pub(super) fn listen_by(
    task: &Task,
    method: &'static str,
    serve: fn(Io, Place) -> Connection,
) -> Result<Listens> {
    let listener = tcp::bind(&task.address)?;
    let address = listener.local_addr()?.to_string();
    let bytes = usize::try_from(task.bytes)?;
    let accept = move || {
        let (socket, _) = listener.accept()?;
        let runtime = runtime()?;
        let place = Place(Arc::new(Mutex::new(Filled {
            memory: PageBuffer::new(bytes).context("mapping a linear memory")?,
            filled: 0,
            whole: false,
        })));
        Ok(Box::new(Server {
            connection: serve(io(&runtime, socket)?, place.clone()),
            runtime,
            place,
            method,
            spare: PageBuffer::new(bytes).context("mapping a linear memory")?,
            bytes,
        }) as Box<dyn Receives>)
    };
    Ok((address, Box::new(accept)))
}

pub(super) fn listen(task: &Task) -> Result<Listens> {
    listen_by(task, "http", |io, place| {
        let service = service_fn(move |request: Request<Incoming>| take(request, place.clone()));
        Box::pin(hyper::server::conn::http1::Builder::new().serve_connection(io, service))
    })
}

async fn take(
    request: Request<Incoming>,
    place: Place,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            place.put(&data);
        }
    }
    place.end();
    Ok(Response::new(Empty::new()))
}

impl Receives for Server {
    fn recv(&mut self) -> Result<Span<'_>> {
        let Self {
            runtime,
            connection,
            place,
            spare,
            bytes,
            ..
        } = self;
        let came = runtime.block_on(poll_fn(|context| {
            let ended = connection.as_mut().poll(context);
            // Only when that is done: by then hyper has written the answer.
            let mut place = place.look();
            if std::mem::take(&mut place.whole) {
                std::mem::swap(&mut place.memory, spare);
                return Poll::Ready(Some(std::mem::take(&mut place.filled)));
            }
            ended.map(|_| None)
        }));
        let Some(filled) = came else {
            bail!("the client is gone");
        };
        if filled != *bytes {
            bail!("a body of {filled} bytes came");
        }
        Ok(spare.span().split_at(*bytes).0)
    }

    fn method(&self) -> String {
        self.method.to_owned()
    }
}

struct Client {
    runtime: Runtime,
    connection: Connection,
    requests: SendRequest<Full<Bytes>>,
    memory: Arc<Memory>,
}

/// A linear memory that a client may hold while it sends.
pub(super) struct Memory(PageBuffer, usize);

pub(super) struct Lent(Arc<Memory>);

impl Memory {
    pub(super) fn new(bytes: u64) -> Result<Arc<Self>> {
        let bytes = usize::try_from(bytes)?;
        let memory = PageBuffer::new(bytes).context("mapping a linear memory")?;
        Ok(Arc::new(Self(memory, bytes)))
    }

    /// Where the function writes: nobody holds it any more.
    pub(super) fn place(memory: &mut Arc<Self>) -> Result<Span<'_>> {
        let memory = Arc::get_mut(memory).context("the client still has the memory")?;
        Ok(memory.0.span().split_at(memory.1).0)
    }

    pub(super) fn lend(memory: &Arc<Self>) -> Lent {
        Lent(memory.clone())
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0 .0.as_slice()[..self.0 .1]
    }
}

pub(super) fn connect(task: &Task) -> Result<Box<dyn Sends>> {
    let runtime = runtime()?;
    let io = io(&runtime, tcp::dial(&task.address)?)?;
    let (requests, connection) = runtime.block_on(hyper::client::conn::http1::handshake(io))?;
    Ok(Box::new(Client {
        runtime,
        connection: Box::pin(connection),
        requests,
        memory: Memory::new(task.bytes)?,
    }))
}

impl Sends for Client {
    fn place(&mut self) -> Result<Span<'_>> {
        Memory::place(&mut self.memory)
    }

    fn send(&mut self) -> Result<()> {
        let body = Full::new(Bytes::from_owner(Memory::lend(&self.memory)));
        let request = Request::post("/")
            .header("host", "receiver")
            .header("content-length", self.memory.1)
            .body(body)?;
        let mut answer = pin!(self.requests.send_request(request));
        let connection = &mut self.connection;
        let answer = self.runtime.block_on(poll_fn(|context| {
            // It ends when the other side goes away, and then so does the request.
            let _ = connection.as_mut().poll(context);
            answer.as_mut().poll(context)
        }))?;
        if !answer.status().is_success() {
            bail!("the server answered {}", answer.status());
        }
        Ok(())
    }
}
