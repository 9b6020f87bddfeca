//! Who lies, at either end of the link between a `roadrunner run` and a `roadrunner serve`, and strangers who come there.

use crate::support::hosted::{bench, fails, goes_well, run, start};
use crate::support::server::{Server, PATIENCE, SECRET};
use crate::support::{echo, names, Bench};
use roadrunner_core::{Deadline, HostMemory, Payload, Transfer, TransferError};
use roadrunner_splice::{connect, Link, Listener, Options, Secret};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A control link of somebody who knows the secret.
fn insider(server: &Server, name: &str) -> Link {
    let secret = Secret::from_bytes(SECRET).expect("long enough");
    let options = Options::default().secret(secret).limit(4 << 20);
    connect(&server.address, name, &options, Deadline::after(PATIENCE)).expect("a link")
}

fn say(link: &mut Link, message: &[u8]) -> Result<(), TransferError> {
    let mut memory = HostMemory::from(message.to_vec());
    let region = memory.region();
    let payload = Payload::kept(&mut memory, region)?;
    link.send(payload, Deadline::after(PATIENCE)).map(drop)
}

/// What the server says next; `None` at the end of the link.
fn hear(link: &mut Link) -> Option<String> {
    let mut memory = HostMemory::new();
    link.recv(&mut memory, Deadline::after(PATIENCE)).ok()?;
    Some(String::from_utf8_lossy(memory.as_slice()).into_owned())
}

const NAME: &str = "roadrunner-run-2";

/// A good order to run one function, with some of its text replaced.
fn order(replace: &str, by: &str) -> Vec<u8> {
    let text = format!(
        r#"J{{"order":"run","run":"{}","secret":null,"functions":[{{"name":"a","module":0,"env":[],"max_pages":null,
        "predecessors":[],"successors":[],"output":"a"}}],"modules":[{{"name":"a.wat","text":true,"bytes":8,
        "sha256":"{}"}}],"input":4,"network_method":"auto","sessions":true,"milliseconds_left":9000}}"#,
        "0".repeat(64),
        "1".repeat(64),
    );
    assert!(text.contains(replace), "{replace}");
    text.replace(replace, by).into_bytes()
}

#[test]
fn an_insider_who_lies_is_refused_and_leaves_nothing() {
    let server = Server::start(&[]);
    for (message, words) in [
        (b"".to_vec(), ""),
        (b"Jnonsense".to_vec(), ""),
        (b"J{\"order\":\"beat\",\"at\":1}".to_vec(), "no order"),
        (b"B\0\0\0\0piece".to_vec(), "no order"),
        (order("\"name\":\"a\"", "\"name\":\"../a\""), "proper name"),
        (
            order("\"output\":\"a\"", "\"output\":\"../a\""),
            "proper name",
        ),
        (
            order("\"successors\":[]", "\"successors\":[\"\"]"),
            "proper name",
        ),
        (order("\"module\":0", "\"module\":1"), "modules"),
        (order("\"module\":0", "\"module\":99999999999"), "modules"),
        (order("\"input\":4", "\"input\":null"), "nothing to receive"),
        (
            order("\"bytes\":8", "\"bytes\":18446744073709551615"),
            "--max-module",
        ),
        (
            order("\"input\":4", "\"input\":18446744073709551615"),
            "--max-input",
        ),
        (order(&"1".repeat(64), "../../../etc/passwd"), "SHA-256"),
        (order(&"0".repeat(64), ""), "proper name"),
        (
            order("\"secret\":null", "\"secret\":\"0123456789abcdef\""),
            "secret",
        ),
    ] {
        let mut link = insider(&server, NAME);
        say(&mut link, &message).expect("heard");
        let answer = hear(&mut link);
        let text = String::from_utf8_lossy(&message).into_owned();
        match words {
            "" => assert_eq!(answer, None, "{text}"),
            words => {
                let answer = answer.expect(&text);
                assert!(answer.contains("refused"), "{text}: {answer}");
                assert!(answer.contains(words), "{text}: {answer}");
            }
        }
        server.is_clean();
    }
    // Streams that nobody wants, or of another length or content than announced.
    for (pieces, words) in [
        (&[&b"B\x07\0\0\0x"[..]][..], "nobody wants"),
        (&[b"B\0\0\0\x00123456789"], "more than it had announced"),
        (
            &[b"B\0\0\0\x0012345678", b"B\xff\xff\xff\xff1234"],
            "SHA-256",
        ),
        (&[b"J{\"order\":\"start\",\"addresses\":[]}"], "out of turn"),
    ] {
        let mut link = insider(&server, NAME);
        say(&mut link, &order("a.wat", "../../a.wat")).expect("heard");
        assert!(hear(&mut link).expect("welcome").contains("welcome"));
        for piece in pieces {
            say(&mut link, piece).expect("heard");
        }
        let answer = hear(&mut link).expect("an answer");
        assert!(answer.contains(words), "{words}: {answer}");
        server.is_clean();
    }
    // Nobody writes lines of his own into the log, nor to its terminal.
    let mut link = insider(&server, NAME);
    let forged = order("a.wat", "\\nrun 7: done\\u001b[2J").to_vec();
    say(&mut link, &forged).expect("heard");
    assert!(hear(&mut link).expect("welcome").contains("welcome"));
    say(&mut link, b"B\0\0\0\x0012345678").expect("heard");
    say(&mut link, b"B\xff\xff\xff\xff1234").expect("heard");
    assert!(hear(&mut link).expect("an answer").contains("SHA-256"));
    let line = server.hears("run 7: done");
    assert!(
        line.starts_with("refused") && !line.contains('\u{1b}'),
        "{line:?}"
    );
    // Another version, and one that has nothing to say.
    let mut link = insider(&server, "roadrunner-run-3");
    assert_eq!(hear(&mut link), None);
    server.hears("same version");
    drop(insider(&server, NAME));
    let bench = bench(&[("a", echo(), Some(&server.address))]);
    goes_well(&bench);
    assert_eq!(server.stop(), Some(0));
}

/// A run of the function `a` that echoes, ordered by an insider, all of which has been sent.
fn ordered(server: &Server, milliseconds_left: &str) -> Link {
    let module = echo();
    let mut sha256 = String::new();
    for byte in Sha256::digest(&module) {
        sha256 += &format!("{byte:02x}");
    }
    let order = String::from_utf8(order(&"1".repeat(64), &sha256)).expect("text");
    let order = order
        .replace("\"bytes\":8", &format!("\"bytes\":{}", module.len()))
        .replace("9000", milliseconds_left);
    let mut link = insider(server, NAME);
    say(&mut link, order.as_bytes()).expect("heard");
    assert!(hear(&mut link).expect("welcome").contains("welcome"));
    say(&mut link, &[b"B\0\0\0\0", module.as_bytes()].concat()).expect("heard");
    say(&mut link, b"B\xff\xff\xff\xff1234").expect("heard");
    link
}

#[test]
fn an_insider_who_never_stops_talking_does_not_put_the_deadline_off() {
    let server = Server::start(&[]);
    let mut link = ordered(&server, "1000");
    let began = Instant::now();
    let (mut beat, mut memory) = (
        HostMemory::from(&b"J{\"order\":\"beat\",\"at\":1}"[..]),
        HostMemory::new(),
    );
    let region = beat.region();
    let ended = |began: Instant| {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it is still heard"
        );
    };
    // As fast as it is heard, and it hears the answers.
    loop {
        let payload = Payload::kept(&mut beat, region).expect("inside");
        match link.try_send(payload) {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => break,
        }
        match link.try_recv(&mut memory) {
            Ok(_) => ended(began),
            Err(_) => break,
        }
    }
    server.is_clean();

    // Nor does one keep the server with what no worker reads.
    let mut link = ordered(&server, "60000");
    for _ in 0..2 {
        say(&mut link, b"J{\"order\":\"start\",\"addresses\":[]}").expect("heard");
    }
    server.hears("a second start");
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
}

/// Who knows the secret and is no server: says these messages to a run that wants its function `a` there, and waits for the
/// end.
fn false_host(messages: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<()>) {
    let secret = Secret::from_bytes(SECRET).expect("long enough");
    let options = Options::default().secret(secret).limit(4 << 20);
    let mut listener = Listener::bind("127.0.0.1:0", options).expect("a port");
    let address = listener.address().to_string();
    let thread = std::thread::spawn(move || {
        let mut link = listener.accept(Deadline::after(PATIENCE)).expect("a run");
        assert!(hear(&mut link).expect("an order").contains("\"run\""));
        for message in messages {
            if say(&mut link, &message).is_err() {
                break;
            }
        }
        while hear(&mut link).is_some() {}
    });
    (address, thread)
}

#[test]
fn a_host_that_lies_is_named_and_its_output_not_taken() {
    let welcome = b"J{\"word\":\"welcome\",\"send\":[0]}".to_vec();
    let beat = b"J{\"word\":\"beat\",\"echo\":1,\"at\":1}".to_vec();
    let welcomed = |rest: &[&[u8]]| {
        let mut messages = vec![welcome.clone()];
        messages.extend(vec![beat.clone(); 5]);
        messages.extend(rest.iter().map(|message| message.to_vec()));
        messages
    };
    let event = |function: u32, event: &str| {
        format!("J{{\"word\":\"event\",\"function\":{function},\"event\":{event}}}").into_bytes()
    };
    let output = |bytes: u32, sha256: &str| {
        event(
            0,
            &format!(
                "{{\"event\":\"output\",\"file\":\"../../x\",\"bytes\":{bytes},\"sha256\":\"{sha256}\"}}"
            ),
        )
    };
    let done = event(0, "{\"event\":\"done\"}");
    let received =
        "{\"event\":\"received\",\"from\":\"FROM\",\"bytes\":1,\"method\":0,\"copies\":0,\"at\":1}";
    let failed = "{\"event\":\"failed\",\"secondary\":false,\"names_function\":false,\"message\":\"no \\u001b[31mred\"}";
    let elsewhere = event(7, "{\"event\":\"done\"}");
    // Of the four bytes `true`.
    let sha256 = "b5bea41b6c623f7c09f1bf24dcae58ebab3c0cdd90ad966bc43a45b44867e12b";
    let piece = b"B\0\0\0\0true";
    for (messages, words) in [
        (vec![b"Jnonsense".to_vec()], "understand"),
        (
            vec![b"J{\"word\":\"refused\",\"reason\":\"no \\u001b[31mred\"}".to_vec()],
            "no \u{fffd}[31mred",
        ),
        (welcomed(&[&event(0, failed)]), "no \u{fffd}[31mred"),
        (vec![b"B\0\0\0\0x".to_vec()], "out of turn"),
        (welcomed(&[&welcome]), "twice"),
        (welcomed(&[&elsewhere]), "function 7"),
        (welcomed(&[b"B\x01\0\0\0x"]), "output that there is not"),
        (
            welcomed(&[piece, &output(5, sha256), &done]),
            "came with 4 bytes",
        ),
        (
            welcomed(&[b"B\0\0\0\0lies", &output(4, sha256), &done]),
            "SHA-256",
        ),
        (welcomed(&[&output(0, sha256), &done]), "came with 0 bytes"),
    ] {
        let (address, thread) = false_host(messages);
        let bench = bench(&[("a", echo(), Some(&address))]);
        fails(&bench, &[], &["`a`", &address, words]);
        thread.join().expect("no panic");
    }
    // And one whose output is right: it has the name that it has here, and of the rest nothing is shown as it was said.
    let sending = event(0, "{\"event\":\"sending\",\"to\":\"nobody\",\"at\":1}");
    let received = event(0, &received.replace("FROM", "nobody"));
    let log = event(
        0,
        "{\"event\":\"log\",\"level\":\"error\",\"text\":\"a \\u001b[31mred\"}",
    );
    let misused = event(0, "{\"event\":\"misused\",\"what\":\"was \\u001b[31mred\"}");
    let told = [&piece[..], &sending, &received, &log, &misused, &misused];
    let right = output(4, sha256);
    let whole = [&told[..], &[&right, &done]].concat();
    let (address, thread) = false_host(welcomed(&whole));
    let bench = bench(&[("a", echo(), Some(&address))]);
    let ended = run(&bench, &[]);
    let talk = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{talk}");
    assert!(talk.contains("a \u{fffd}[31mred"), "{talk}");
    assert_eq!(talk.matches("it was \u{fffd}[31mred").count(), 1, "{talk}");
    let table = String::from_utf8_lossy(&ended.stdout);
    assert!(
        !table.contains('\u{1b}') && !table.contains("nobody"),
        "{table}"
    );
    assert_eq!(std::fs::read(bench.path("out/a")).expect("there"), b"true");
    assert_eq!(names(&bench.path("out")), ["a"]);
    thread.join().expect("no panic");
}

#[test]
fn strangers_do_not_keep_a_run_from_going_well() {
    let server = Server::start(&[]);
    let host = server.address.clone();
    let bench = bench(&[("a", echo(), Some(&host)), ("b", echo(), Some(&host))]);
    let connected = || TcpStream::connect(&host).expect("a listener");
    // Garbage, a greeting and then nothing, half a proof; and more who say nothing than the server looks at.
    let mut strangers = Vec::new();
    for number in 0..200_usize {
        let mut stranger = connected();
        // One that has been dropped already cannot be written to.
        let _ = match number % 4 {
            0 => Ok(()),
            1 => stranger.write_all(&[0xa5; 300]),
            2 => stranger.write_all(b"auth-RR1"),
            _ => stranger.write_all(&[b"auth-RR1", &[7_u8; 50][..]].concat()),
        };
        strangers.push(stranger);
    }
    goes_well(&bench);
    drop(strangers);
    // What a good host says, once more: the server's nonce is another one.
    let recorded = recorded_greeting(&host, &bench);
    let mut replay = connected();
    replay.write_all(&recorded).expect("open");
    replay
        .set_read_timeout(Some(PATIENCE))
        .expect("a good timeout");
    let mut answer = Vec::new();
    // Ends in order or by a reset: either way without a proof of the server's, which would be 32 bytes more.
    let _ = replay.read_to_end(&mut answer);
    assert_eq!(answer.len(), 40, "greeted and turned away");
    goes_well(&bench);
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
}

/// The first bytes that a run sends to a server, recorded by a proxy.
fn recorded_greeting(host: &str, bench: &Bench) -> Vec<u8> {
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = proxy.local_addr().expect("bound").to_string();
    let flow = std::fs::read_to_string(bench.path("flow.toml")).expect("there");
    let through = Bench::new();
    through.write("input", b"some bytes");
    through.write("flow.toml", flow.replace(host, &address).as_bytes());
    let mut run = start(&through, &[]);
    let (mut client, _) = proxy.accept().expect("a client");
    let mut server = TcpStream::connect(host).expect("a listener");
    let mut greeting = [0; 40];
    server.read_exact(&mut greeting).expect("a greeting");
    client.write_all(&greeting).expect("open");
    let mut claim = vec![0; 40 + 32];
    client.read_exact(&mut claim).expect("greeting and proof");
    drop((client, server, proxy));
    assert!(!run.wait().expect("it ends").success());
    claim
}
