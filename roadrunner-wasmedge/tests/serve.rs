//! Functions on other hosts, all of which are this one: what `roadrunner serve` does for runs, what it refuses, and what is
//! left of runs that end in other ways than they should.

mod support;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use roadrunner_core::{Deadline, HostMemory, Payload, Transfer, TransferError};
use roadrunner_splice::{connect, Link, Listener, Options, Secret};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::server::{chain, Server, PATIENCE, SECRET};
use support::{echo, module, Bench};

/// A bench whose workflow is `a -> b -> …`, each on its host.
fn bench(functions: &[(&str, String, Option<&str>)]) -> Bench {
    let bench = Bench::new();
    let chained: Vec<(&str, PathBuf, Option<&str>)> = functions
        .iter()
        .map(|(name, text, host)| {
            let file = format!("{name}.wat");
            bench.write(&file, text.as_bytes());
            (*name, bench.path(&file), *host)
        })
        .collect();
    bench.write("flow.toml", chain(&chained).as_bytes());
    bench.write("input", b"some bytes");
    bench
}

fn run(bench: &Bench, arguments: &[&str]) -> std::process::Output {
    let mut command = bench.command("network");
    command
        .env("ROADRUNNER_SECRET", SECRET)
        .args(arguments)
        .output()
        .expect("it starts")
}

#[track_caller]
fn goes_well(bench: &Bench) {
    let output = run(bench, &[]);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
}

#[track_caller]
fn fails(bench: &Bench, arguments: &[&str], words: &[&str]) {
    let output = run(bench, arguments);
    bench.failed("network", &output, words);
}

/// Says that it handles, then never ends.
const STUCK: &str = "(drop (call $log (i32.const 2) (i32.const 16) (i32.const 8)))
    (loop $again (br $again)) (i64.const 0)";

/// Starts a run whose function `bad` runs for ever, and waits until it does.
fn stuck(bench: &Bench, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = bench
        .command("network")
        .env("ROADRUNNER_SECRET", SECRET)
        .args(arguments)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut talk = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("bad: handling") {
        line.clear();
        assert_ne!(talk.read_line(&mut line).expect("readable"), 0, "it ended");
    }
    (child, talk)
}

#[track_caller]
fn ended_badly(
    bench: &Bench,
    (child, mut talk): (Child, BufReader<std::process::ChildStderr>),
    words: &[&str],
) {
    let mut stderr = Vec::new();
    talk.read_to_end(&mut stderr).expect("readable");
    let mut output = child.wait_with_output().expect("it ends");
    output.stderr = stderr;
    bench.failed("network", &output, words);
}

#[test]
fn payloads_go_from_host_to_host_and_home() {
    let (one, two) = (Server::start(&[]), Server::start(&[]));
    let (first, second) = (Some(one.address.as_str()), Some(two.address.as_str()));
    let bench = bench(&[
        ("a", echo(), first),
        ("b", echo(), second),
        ("c", echo(), None),
        ("d", echo(), first),
        ("e", echo(), first),
    ]);
    // More than one piece of a stream, and more than fits a socket.
    let input: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 3) as u8 ^ 7).collect();
    bench.write("input", &input);
    let json = bench.path("report.json");
    for _ in 0..2 {
        let output = run(&bench, &["--json", json.to_str().expect("text")]);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{talk}");
        assert!(std::fs::read(bench.path("out/e")).expect("an output") == input);
        let table = String::from_utf8_lossy(&output.stdout);
        for hop in [
            format!("{} -> {}", one.address, two.address),
            format!("{} -> here", two.address),
            format!("here -> {}", one.address),
        ] {
            assert!(table.contains(&hop), "{hop} is not in {table}");
        }
    }
    let report = std::fs::read_to_string(json).expect("written");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let hops = report["hops"].as_array().expect("hops");
    assert_eq!(hops.len(), 4);
    assert_eq!(hops[1]["from_host"], two.address.as_str());
    assert!(hops[1].get("to_host").is_none());
    for hop in hops {
        assert_eq!(hop["bytes"], 3_000_000);
        // Clocks of two processes of one machine are one clock: no hop takes nothing, or longer than the run.
        let seconds = hop["seconds"].as_f64().expect("a number");
        assert!(seconds > 1e-5 && seconds < 60.0, "{hop}");
    }
    let functions = report["functions"].as_array().expect("functions");
    assert!(functions.iter().all(|f| f["seconds"].as_f64() > Some(0.0)));
    one.is_clean();
    two.is_clean();
    assert_eq!(one.stop(), Some(0));
    assert_eq!(two.stop(), Some(0));
}

#[test]
fn a_function_that_fails_elsewhere_is_named_with_its_host() {
    let server = Server::start(&[]);
    let host = server.address.as_str();
    for (body, words) in [
        ("(unreachable)", "unreachable"),
        (
            "(drop (call $fail (i32.const 16) (i32.const 8))) (i64.const -1)",
            "handling",
        ),
    ] {
        let bench = bench(&[
            ("a", echo(), None),
            ("bad", module(body), Some(host)),
            ("c", echo(), None),
        ]);
        let place = format!("on host {host}");
        fails(&bench, &[], &["function `bad`", words, &place]);
        server.is_clean();
    }
    // A module that is none is found out there, and named as it is called here.
    let bench = bench(&[("a", "(module)".to_owned(), Some(host))]);
    let file = bench.path("a.wat").display().to_string();
    fails(&bench, &[], &["function `a`", &file, host]);
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn hosts_that_are_not_there_or_do_not_know_the_secret() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("bound").to_string();
    drop(closed);
    let nowhere = bench(&[("a", echo(), Some(&address))]);
    let deadline = &["--deadline", "1"];
    let words = ["`a`", "roadrunner serve", address.as_str()];
    fails(&nowhere, deadline, &words);

    let server = Server::start(&[]);
    let host = server.address.as_str();
    let bench = bench(&[("a", echo(), Some(host))]);
    for secret in ["another one, just as long", ""] {
        let mut command = bench.command("network");
        if !secret.is_empty() {
            command.env("ROADRUNNER_SECRET", secret);
        }
        let output = command.output().expect("it starts");
        bench.failed("network", &output, &["`a`", "secret", host]);
    }
    let output = bench
        .command("network")
        .args(["--secret-file", "/nonexistent/secret"])
        .output()
        .expect("it starts");
    bench.failed("network", &output, &["/nonexistent/secret"]);
    server.hears("turned away");
    server.is_clean();
    goes_well(&bench);
    for mode in ["user", "kernel"] {
        std::fs::remove_file(bench.path("out/a")).unwrap_or_default();
        bench.fails(mode, &["function `a` has a host", "network"]);
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn check_asks_the_hosts() {
    let server = Server::start(&[]);
    let bench = bench(&[("a", echo(), Some(&server.address))]);
    let check = |secret: &str, arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_roadrunner"))
            .arg("check")
            .arg(bench.path("flow.toml"))
            .args(arguments)
            .env("ROADRUNNER_SECRET", secret)
            .output()
            .expect("it starts")
    };
    for arguments in [&[][..], &["--hosts"]] {
        let output = check(SECRET, arguments);
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{talk}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&format!("host {}", server.address)), "{said}");
    }
    let output = check("another one, just as long", &["--hosts"]);
    bench.failed("check", &output, &["secret", &server.address]);
    assert_eq!(server.stop(), Some(0));
    let server_less = check(SECRET, &[]);
    assert!(server_less.status.success());
}

#[test]
fn without_a_secret_nobody_listens_to_the_world() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_roadrunner"));
    let output = command
        .args(["serve", "--listen", "0.0.0.0:0"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(
        talk.contains("0.0.0.0:0") && talk.contains("--secret-file"),
        "{talk}"
    );
}

#[test]
fn a_run_whose_coordinator_dies_leaves_nothing() {
    let server = Server::start(&[]);
    let bench = bench(&[
        ("a", echo(), Some(&server.address)),
        ("bad", module(STUCK), Some(&server.address)),
        ("c", echo(), None),
    ]);
    let (mut child, _talk) = stuck(&bench, &[]);
    let workers = server.workers();
    assert!(!workers.is_empty());
    for (number, _) in workers.into_iter().chain(bench.processes()) {
        // One that is gone meanwhile has no environment.
        let environment = std::fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
        let knows = environment
            .windows(SECRET.len())
            .any(|bytes| bytes == SECRET.as_bytes());
        assert_eq!(
            knows,
            number == child.id() as i32,
            "only who is given the secret has it"
        );
    }
    child.kill().expect("alive");
    child.wait().expect("dead");
    server.hears("went away");
    server.is_clean();
    // Ctrl-C is no different.
    let (child, talk) = stuck(&bench, &[]);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("alive");
    // It has swept away what the killed one had left.
    ended_badly(&bench, (child, talk), &["interrupted"]);
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_that_is_killed_is_named_and_its_workers_go() {
    let (one, two) = (Server::start(&[]), Server::start(&[]));
    let bench = bench(&[
        ("a", echo(), Some(&two.address)),
        ("bad", module(STUCK), Some(&one.address)),
        ("c", echo(), None),
    ]);
    let running = stuck(&bench, &[]);
    let address = one.address.clone();
    let one = one.replaced();
    ended_badly(&bench, running, &["`bad`", &address, "roadrunner serve"]);
    // The other one took away what the first had left.
    one.is_clean();
    two.is_clean();
    assert_eq!(one.stop(), Some(0));
    assert_eq!(two.stop(), Some(0));
}

#[test]
fn a_server_that_is_to_stop_finishes_what_runs() {
    let server = Server::start(&[]);
    let host = server.address.clone();
    let slow = bench(&[("bad", module(STUCK), Some(&host))]);
    let running = stuck(&slow, &["--deadline", "4"]);
    server.signal(Signal::SIGTERM);
    server.hears("stopping: 1 runs");
    let late = bench(&[("a", echo(), Some(&host))]);
    fails(&late, &[], &["`a`", &host, "about to stop"]);
    ended_badly(&slow, running, &["function `bad`", "deadline"]);
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn a_server_whose_time_of_grace_is_over_cuts_what_runs() {
    for second_signal in [false, true] {
        let grace = if second_signal { "60" } else { "1" };
        let server = Server::start(&["--grace", grace]);
        let host = server.address.clone();
        let bench = bench(&[("bad", module(STUCK), Some(&host))]);
        let running = stuck(&bench, &[]);
        server.signal(Signal::SIGTERM);
        server.hears("stopping: 1 runs");
        if second_signal {
            server.signal(Signal::SIGTERM);
        }
        ended_badly(&bench, running, &["`bad`", &host, "ended the run"]);
        assert_eq!(server.ended(), Some(1));
    }
}

#[test]
fn what_a_server_does_not_allow_it_refuses_with_the_reason() {
    let echoing = echo();
    for (arguments, words) in [
        (&["--functions", "1"][..], "--functions"),
        (&["--max-module", "100"], "--max-module"),
        (&["--max-input", "3"], "--max-input"),
        (&["--longest", "20"], "--longest"),
    ] {
        let server = Server::start(arguments);
        let host = Some(server.address.as_str());
        let bench = bench(&[("a", echoing.clone(), host), ("b", echoing.clone(), host)]);
        fails(&bench, &[], &["`a`", &server.address, words]);
        server.hears("refused");
        server.is_clean();
        assert_eq!(server.stop(), Some(0));
    }
    let server = Server::start(&["--max-pages", "1"]);
    let bench = bench(&[("a", echoing, Some(&server.address))]);
    fails(&bench, &[], &["function `a`", "pages"]);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn one_run_more_than_a_server_takes_is_refused() {
    let server = Server::start(&["--runs", "1"]);
    let host = server.address.clone();
    let slow = bench(&[("bad", module(STUCK), Some(&host))]);
    let (mut child, _talk) = stuck(&slow, &[]);
    let other = bench(&[("a", echo(), Some(&host))]);
    fails(&other, &[], &[&host, "--runs"]);
    child.kill().expect("alive");
    child.wait().expect("dead");
    server.is_clean();
    goes_well(&other);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_sealed_server_runs_its_own_modules_and_no_others() {
    let modules = tempfile::tempdir().expect("a directory");
    let directory = modules.path().to_str().expect("text");
    let server = Server::start(&["--modules", directory, "--sealed"]);
    let bench = bench(&[("a", echo(), Some(&server.address))]);
    fails(&bench, &[], &["a.wat", "--modules", &server.address]);
    std::fs::write(modules.path().join("whatever.wat"), echo()).expect("writable");
    goes_well(&bench);
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
}

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

const NAME: &str = "roadrunner-run-1";

/// A good order to run one function, with some of its text replaced.
fn order(replace: &str, by: &str) -> Vec<u8> {
    let text = format!(
        r#"J{{"order":"run","run":"{}","secret":null,"functions":[{{"name":"a","module":0,"env":[],"max_pages":null,
        "predecessors":[],"successors":[],"output":"a"}}],"modules":[{{"name":"a.wat","text":true,"bytes":8,
        "sha256":"{}"}}],"input":4,"network_method":"auto","milliseconds_left":9000}}"#,
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
    let mut link = insider(&server, "roadrunner-run-2");
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
    let elsewhere = event(7, "{\"event\":\"done\"}");
    // Of the four bytes `true`.
    let sha256 = "b5bea41b6c623f7c09f1bf24dcae58ebab3c0cdd90ad966bc43a45b44867e12b";
    let piece = b"B\0\0\0\0true";
    for (messages, words) in [
        (vec![b"Jnonsense".to_vec()], "understand"),
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
    // And one that does not: its output has the name that it has here.
    let (address, thread) = false_host(welcomed(&[piece, &output(4, sha256), &done]));
    let bench = bench(&[("a", echo(), Some(&address))]);
    goes_well(&bench);
    assert_eq!(std::fs::read(bench.path("out/a")).expect("there"), b"true");
    assert_eq!(support::names(&bench.path("out")), ["a"]);
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
    let mut run = through
        .command("network")
        .env("ROADRUNNER_SECRET", SECRET)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
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

#[test]
fn a_connection_that_falls_silent_ends_the_run_at_both_ends() {
    let server = Server::start(&[]);
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = proxy.local_addr().expect("bound").to_string();
    let bench = bench(&[("bad", module(STUCK), Some(&address))]);
    let (cut, cutting) = std::sync::mpsc::channel::<()>();
    let host = server.address.clone();
    let forwarding = std::thread::spawn(move || {
        let (client, _) = proxy.accept().expect("a client");
        let server = TcpStream::connect(host).expect("a listener");
        let pump = |mut from: TcpStream, mut to: TcpStream| {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                from.set_read_timeout(Some(Duration::from_millis(50)))
                    .expect("a good timeout");
                // Forwards until told not to, then holds the connections open and does nothing.
                loop {
                    match from.read(&mut bytes) {
                        Ok(0) => break,
                        Ok(count) if !SILENT.load(std::sync::atomic::Ordering::SeqCst) => {
                            if to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                        Ok(_) => {}
                        Err(error)
                            if matches!(
                                error.kind(),
                                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                            ) => {}
                        Err(_) => break,
                    }
                }
                // Nobody hears of it.
                std::mem::forget(to);
            })
        };
        let there = pump(
            client.try_clone().expect("one more"),
            server.try_clone().expect("one more"),
        );
        let back = pump(server, client);
        let _ = cutting.recv();
        SILENT.store(true, std::sync::atomic::Ordering::SeqCst);
        (there, back)
    });
    let running = stuck(&bench, &[]);
    assert_eq!(server.workers().len(), 1);
    cut.send(()).expect("listening");
    ended_badly(&bench, running, &["`bad`", &address, "nothing was heard"]);
    server.hears("nothing was heard");
    server.is_clean();
    drop(forwarding);
    assert_eq!(server.stop(), Some(0));
}

static SILENT: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
