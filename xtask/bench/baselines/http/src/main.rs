//! Two functions that talk HTTP/1.1 on one connection, as functions on WasmEdge do today: one posts a payload, the other
//! reads every byte of it and answers with its sum.
//!
//! `http receive raw|json` listens, prints the port that it got, and serves one connection; `http send raw|json PORT BYTES`
//! posts once for each line that it reads. JSON carries the payload as Base64 in a field, the usual way for bytes.
//!
//! The sender prints `null` once it is ready, and a line of JSON for each round: nanoseconds that it took to fill the payload, to encode it, from then to
//! the answer, and those of the last that the receiver says it needed to decode and to sum.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::env;
use std::io::{self, Read, Write};
use std::time::Instant;
use wasmedge_wasi_socket::{TcpListener, TcpStream};

/// What a request carries in JSON.
#[derive(Serialize, Deserialize)]
struct Body<'b> {
    name: &'b str,
    #[serde(borrow)]
    data: Cow<'b, str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Coding {
    Raw,
    Json,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["receive", coding] => receive(parse_coding(coding)?),
        ["send", coding, port, bytes] => send(parse_coding(coding)?, port, number(bytes)?),
        _ => Err(bad("usage: receive CODING | send CODING PORT BYTES")),
    }
}

fn parse_coding(word: &str) -> io::Result<Coding> {
    match word {
        "raw" => Ok(Coding::Raw),
        "json" => Ok(Coding::Json),
        _ => Err(bad("the coding is raw or json")),
    }
}

fn number(word: &str) -> io::Result<usize> {
    word.parse().map_err(|_| bad("not a number"))
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn send(coding: Coding, port: &str, bytes: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    let mut payload = vec![0_u8; bytes];
    // Ready to read lines.
    println!("null");
    io::stdout().flush()?;
    for (round, line) in io::stdin().lines().enumerate() {
        line?;
        let began = Instant::now();
        sequence::fill(&mut payload, round as u64);
        let produced = began.elapsed();
        let began = Instant::now();
        let encoded;
        let (kind, body): (_, &[u8]) = match coding {
            Coding::Raw => ("application/octet-stream", &payload),
            Coding::Json => {
                encoded = encode(&payload)?;
                ("application/json", &encoded)
            }
        };
        let serialized = began.elapsed();
        let began = Instant::now();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        write_message(&mut stream, head, body)?;
        let answer = read_message(&mut stream)?.ok_or_else(|| bad("no answer"))?;
        let crossed = began.elapsed();
        let answer = String::from_utf8(answer).map_err(|_| bad("not an answer"))?;
        let mut words = answer.split(' ');
        let mut next = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(sum), Some(decoded), Some(consumed)) = (next(), next(), next()) else {
            return Err(bad("not an answer"));
        };
        if sum != sequence::expected(bytes as u64, round as u64) {
            return Err(bad("the sum is wrong"));
        }
        println!(
            "[{},{},{},{decoded},{consumed}]",
            produced.as_nanos(),
            serialized.as_nanos(),
            crossed.as_nanos()
        );
        io::stdout().flush()?;
    }
    Ok(())
}

fn encode(payload: &[u8]) -> io::Result<Vec<u8>> {
    use base64::prelude::{Engine as _, BASE64_STANDARD};
    let body = Body {
        name: "payload",
        data: BASE64_STANDARD.encode(payload).into(),
    };
    Ok(serde_json::to_vec(&body)?)
}

fn decode(body: &[u8]) -> io::Result<Vec<u8>> {
    use base64::prelude::{Engine as _, BASE64_STANDARD};
    let body: Body<'_> = serde_json::from_slice(body)?;
    BASE64_STANDARD
        .decode(body.data.as_bytes())
        .map_err(|_| bad("not Base64"))
}

fn receive(coding: Coding) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0", false)?;
    println!("{}", listener.as_ref().get_local()?.port());
    io::stdout().flush()?;
    let (mut stream, _) = listener.accept(false)?;
    while let Some(body) = read_message(&mut stream)? {
        let began = Instant::now();
        let payload = match coding {
            Coding::Raw => body,
            Coding::Json => decode(&body)?,
        };
        let decoded = began.elapsed();
        let began = Instant::now();
        let sum = sequence::sum(&payload);
        let consumed = began.elapsed();
        let text = format!("{sum} {} {}", decoded.as_nanos(), consumed.as_nanos());
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        write_message(&mut stream, head, text.as_bytes())?;
    }
    Ok(())
}

/// The head goes with the beginning of the body: a small piece ahead of it would be waited for by the other side's
/// delayed acknowledgement.
fn write_message(stream: &mut TcpStream, head: String, body: &[u8]) -> io::Result<()> {
    let (start, rest) = body.split_at(body.len().min(64 << 10));
    let mut first = head.into_bytes();
    first.extend_from_slice(start);
    stream.write_all(&first)?;
    stream.write_all(rest)
}

/// The body of a request or an answer; `None` at the end of the connection.
fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = vec![0_u8; 64 << 10];
    let mut got = 0;
    let (header, length) = loop {
        let count = stream.read(&mut head[got..])?;
        if count == 0 {
            return Ok(None);
        }
        got += count;
        if let Some(found) = parse_head(&head[..got])? {
            break found;
        }
    };
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(&head[header..got]);
    let have = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[have..])?;
    Ok(Some(body))
}

/// Where the body starts, and how long it is.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let failed = |_| bad("not HTTP");
    let (status, headers) = if bytes.starts_with(b"HTTP/") {
        let mut response = httparse::Response::new(&mut headers);
        (response.parse(bytes).map_err(failed)?, response.headers)
    } else {
        let mut request = httparse::Request::new(&mut headers);
        (request.parse(bytes).map_err(failed)?, request.headers)
    };
    let httparse::Status::Complete(header) = status else {
        return Ok(None);
    };
    let length = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
        .ok_or_else(|| bad("no length"))?;
    Ok(Some((header, length)))
}
