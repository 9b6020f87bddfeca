//! A Redis server of this machine, on a UNIX socket, without persistence: one client pushes the payload to a list, the other
//! waits for it. The protocol (RESP) is spoken here, straight from and into linear memory, which no client library does.

use super::{Accepts, Receives, Sends};
use crate::uds::sys;
use anyhow::{Context, Result};
use roadrunner_core::Span;
use roadrunner_mem::PageBuffer;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is read ahead; longer reads go straight to their place.
const AHEAD: usize = 8 << 10;

/// Why it cannot be measured here, if it cannot.
pub(crate) fn missing() -> Option<String> {
    let version = Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    match version {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("redis-server ended with {status}")),
        Err(error) => Some(format!(
            "no redis-server ({error}); apt-get install redis-server"
        )),
    }
}

/// A server that ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It holds nothing that anybody wants.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn listen(bytes: u64, directory: &Path) -> Result<(String, Accepts)> {
    let path = directory.join("redis");
    let server = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no"])
        .args(["--daemonize", "no", "--logfile", ""])
        .arg("--unixsocket")
        .arg(&path)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting redis-server")?;
    let server = Server(server);
    let memory = PageBuffer::new(bytes as usize)?;
    let receiver = Receiver {
        socket: BufReader::with_capacity(AHEAD, attach(&path)?),
        memory,
        _server: server,
    };
    let accept = move || Ok(Box::new(receiver) as Box<dyn Receives>);
    Ok((path.display().to_string(), Box::new(accept)))
}

fn attach(path: &Path) -> Result<UnixStream> {
    let late = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() > late => {
                return Err(error).context("connecting to redis-server")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

struct Receiver {
    socket: BufReader<UnixStream>,
    memory: PageBuffer,
    _server: Server,
}

/// A line of an answer, without its sign and its end.
fn line(socket: &mut impl BufRead, sign: char) -> Result<String> {
    let mut line = String::new();
    socket.read_line(&mut line)?;
    let rest = line.trim_end().strip_prefix(sign);
    Ok(rest
        .with_context(|| format!("redis-server said {line:?}"))?
        .to_owned())
}

impl Receives for Receiver {
    fn recv(&mut self) -> Result<Span<'_>> {
        self.socket
            .get_mut()
            .write_all(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n")?;
        line(&mut self.socket, '*')?;
        line(&mut self.socket, '$')?;
        // The name of the list.
        self.socket.read_line(&mut String::new())?;
        let len = line(&mut self.socket, '$')?.parse()?;
        let mut span = self.memory.span().split_at(len).0;
        self.socket.read_exact(sys::slice(&mut span))?;
        self.socket.read_line(&mut String::new())?;
        Ok(self.memory.span().split_at(len).0)
    }

    fn method(&self) -> String {
        // In and out of a socket, twice; what the server does besides is its own.
        "redis".to_owned()
    }
}

pub(super) fn connect(bytes: u64, address: &str) -> Result<Box<dyn Sends>> {
    Ok(Box::new(Sender {
        socket: BufReader::new(attach(Path::new(address))?),
        memory: PageBuffer::new(bytes as usize)?,
        bytes: bytes as usize,
    }))
}

struct Sender {
    socket: BufReader<UnixStream>,
    memory: PageBuffer,
    bytes: usize,
}

impl Sends for Sender {
    fn place(&mut self) -> Result<Span<'_>> {
        Ok(self.memory.span().split_at(self.bytes).0)
    }

    fn send(&mut self) -> Result<()> {
        let head = format!("*3\r\n$5\r\nRPUSH\r\n$1\r\nq\r\n${}\r\n", self.bytes);
        let payload = &self.memory.as_slice()[..self.bytes];
        let mut parts = [
            IoSlice::new(head.as_bytes()),
            IoSlice::new(payload),
            IoSlice::new(b"\r\n"),
        ];
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            let written = self.socket.get_mut().write_vectored(parts)?;
            IoSlice::advance_slices(&mut parts, written);
        }
        line(&mut self.socket, ':')?;
        Ok(())
    }
}
