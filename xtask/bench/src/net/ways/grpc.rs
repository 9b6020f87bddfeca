//! gRPC by tonic over hyper's HTTP/2: a call whose one message is the payload, without a format around it.
//!
//! Protocol buffers would copy once more, so messages are bytes here: the least that gRPC can do. tonic gathers a message
//! in a buffer of its own at both ends. Windows and frames are as large as HTTP/2 allows, as with the defaults of 64 KiB
//! and 16 KiB it would be waiting mostly.

use super::http::{io, listen_by, runtime, Connection, Lent, Memory, Place};
use super::{tcp, Listens, Sends};
use crate::net::part::Task;
use anyhow::Result;
use bytes::{Buf, BufMut};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioExecutor;
use roadrunner_core::Span;
use std::convert::Infallible;
use std::future::{poll_fn, ready, Future, Ready};
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::Service;
use tonic::server::UnaryService;
use tonic::Status;

/// The most that RFC 9113 allows, section 6.9.1.
const WINDOW: u32 = (1 << 31) - 1;
/// The same, section 4.2.
const FRAME: u32 = (1 << 24) - 1;
/// tonic takes no more than 4 MiB unless it is told to.
const MOST: usize = u32::MAX as usize;

/// A message that is a whole payload, and an answer of nothing.
#[derive(Clone)]
struct Payload(usize);

impl Codec for Payload {
    type Encode = Lent;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Nothing;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Nothing {
        Nothing
    }
}

impl Encoder for Payload {
    type Item = Lent;
    type Error = Status;

    fn encode(&mut self, item: Lent, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(item.as_ref());
        Ok(())
    }

    /// Room for all of it at once, as it would be copied again whenever it grows.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(self.0 + 64, 1 << 20)
    }
}

struct Nothing;

impl Encoder for Nothing {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Nothing {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

/// What the server makes of a message: it goes to its place.
#[derive(Clone)]
struct Taken(Place);

impl Codec for Taken {
    type Encode = ();
    type Decode = ();
    type Encoder = Nothing;
    type Decoder = Self;

    fn encoder(&mut self) -> Nothing {
        Nothing
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Decoder for Taken {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        while from.has_remaining() {
            let chunk = from.chunk();
            let len = chunk.len();
            self.0.put(chunk);
            from.advance(len);
        }
        Ok(Some(()))
    }
}

impl UnaryService<()> for Taken {
    type Response = ();
    type Future = Ready<Result<tonic::Response<()>, Status>>;

    fn call(&mut self, _request: tonic::Request<()>) -> Self::Future {
        self.0.end();
        ready(Ok(tonic::Response::new(())))
    }
}

pub(super) fn listen(task: &Task) -> Result<Listens> {
    listen_by(task, "grpc", |io, place| {
        let service = service_fn(move |request: Request<Incoming>| {
            let taken = Taken(place.clone());
            async move {
                let mut grpc =
                    tonic::server::Grpc::new(taken.clone()).max_decoding_message_size(MOST);
                Ok::<_, Infallible>(grpc.unary(taken, request).await)
            }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .serve_connection(io, service);
        Box::pin(connection)
    })
}

/// A connection as tonic wants it.
struct Requests(SendRequest<Body>);

impl Service<Request<Body>> for Requests {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

struct Client {
    runtime: Runtime,
    connection: Connection,
    grpc: tonic::client::Grpc<Requests>,
    memory: Arc<Memory>,
    bytes: usize,
}

pub(super) fn connect(task: &Task) -> Result<Box<dyn Sends>> {
    let runtime = runtime()?;
    let io = io(&runtime, tcp::dial(&task.address)?)?;
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_frame_size(FRAME)
        .handshake(io);
    let (requests, connection) = runtime.block_on(handshake)?;
    let origin = format!("http://{}", task.address).parse()?;
    Ok(Box::new(Client {
        runtime,
        connection: Box::pin(connection),
        grpc: tonic::client::Grpc::with_origin(Requests(requests), origin),
        memory: Memory::new(task.bytes)?,
        bytes: usize::try_from(task.bytes)?,
    }))
}

impl Sends for Client {
    fn place(&mut self) -> Result<Span<'_>> {
        Memory::place(&mut self.memory)
    }

    fn send(&mut self) -> Result<()> {
        let message = tonic::Request::new(Memory::lend(&self.memory));
        let path = PathAndQuery::from_static("/roadrunner.Functions/Take");
        let mut answer = pin!(self.grpc.unary(message, path, Payload(self.bytes)));
        let connection = &mut self.connection;
        self.runtime.block_on(poll_fn(|context| {
            // It ends when the other side goes away, and then so does the call.
            let _ = connection.as_mut().poll(context);
            answer.as_mut().poll(context)
        }))?;
        Ok(())
    }
}
