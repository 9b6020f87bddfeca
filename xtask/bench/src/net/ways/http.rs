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
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use tokio::runtime::Runtime;

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?)
}

/// The same options as the others have.
fn io(runtime: &Runtime, socket: TcpStream) -> Result<TokioIo<tokio::net::TcpStream>> {
    tcp::set_up(&socket)?;
    socket.set_nonblocking(true)?;
    let _entered = runtime.enter();
    Ok(TokioIo::new(tokio::net::TcpStream::from_std(socket)?))
}

/// The receiver's memory, and how much of it has been filled.
struct Place {
    memory: PageBuffer,
    filled: usize,
    whole: bool,
}

struct Server {
    runtime: Runtime,
    connection: Connection,
    place: Arc<Mutex<Place>>,
    /// Where a payload is looked at: the place's memory, exchanged with this one, costs nothing and borrows nothing.
    spare: PageBuffer,
    bytes: usize,
}

pub(super) fn listen(task: &Task) -> Result<Listens> {
    let listener = tcp::bind(&task.address)?;
    let address = listener.local_addr()?.to_string();
    let bytes = usize::try_from(task.bytes)?;
    let accept = move || {
        let (socket, _) = listener.accept()?;
        let runtime = runtime()?;
        let place = Arc::new(Mutex::new(Place {
            memory: PageBuffer::new(bytes).context("mapping a linear memory")?,
            filled: 0,
            whole: false,
        }));
        let into = place.clone();
        let service = service_fn(move |request: Request<Incoming>| take(request, into.clone()));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(io(&runtime, socket)?, service);
        Ok(Box::new(Server {
            runtime,
            connection: Box::pin(connection),
            place,
            spare: PageBuffer::new(bytes).context("mapping a linear memory")?,
            bytes,
        }) as Box<dyn Receives>)
    };
    Ok((address, Box::new(accept)))
}

async fn take(
    request: Request<Incoming>,
    place: Arc<Mutex<Place>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            let at = place.filled;
            place.filled += place.memory.span().split_at(at).1.copy_from_slice(&data);
        }
    }
    place.lock().unwrap_or_else(PoisonError::into_inner).whole = true;
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
        } = self;
        let came = runtime.block_on(poll_fn(|context| {
            let ended = connection.as_mut().poll(context);
            // Only when that is done: by then hyper has written the answer.
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
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
        "http".to_owned()
    }
}

struct Client {
    runtime: Runtime,
    connection: Connection,
    requests: SendRequest<Full<Bytes>>,
    memory: Arc<Memory>,
}

/// A linear memory that hyper may hold while it sends.
struct Memory(PageBuffer, usize);

struct Lent(Arc<Memory>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0 .0.as_slice()[..self.0 .1]
    }
}

pub(super) fn connect(task: &Task) -> Result<Box<dyn Sends>> {
    let runtime = runtime()?;
    let io = io(&runtime, tcp::dial(&task.address)?)?;
    let bytes = usize::try_from(task.bytes)?;
    let (requests, connection) = runtime.block_on(hyper::client::conn::http1::handshake(io))?;
    Ok(Box::new(Client {
        runtime,
        connection: Box::pin(connection),
        requests,
        memory: Arc::new(Memory(
            PageBuffer::new(bytes).context("mapping a linear memory")?,
            bytes,
        )),
    }))
}

impl Sends for Client {
    fn place(&mut self) -> Result<Span<'_>> {
        let memory = Arc::get_mut(&mut self.memory).context("hyper still has the memory")?;
        Ok(memory.0.span().split_at(memory.1).0)
    }

    fn send(&mut self) -> Result<()> {
        let body = Full::new(Bytes::from_owner(Lent(self.memory.clone())));
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
