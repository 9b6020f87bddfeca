//! Functions on other hosts, all of which are this one: what `roadrunner serve` does for runs, and what is left of runs
//! that end in other ways than they should.

use crate::support::hosted::{bench, ended_badly, fails, goes_well, run, start, stuck};
use crate::support::proxy::Proxy;
use crate::support::server::{Server, PATIENCE, SECRET};
use crate::support::{echo, module, STUCK};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// Gives back what it got, which it can get in a slot.
fn mapping_echo() -> String {
    let log = "(import \"roadrunner\" \"log\"";
    let release =
        "(import \"roadrunner\" \"release\" (func $release (param i32) (result i32)))\n  ";
    let free = "(func (export \"roadrunner_free\") (param i32)";
    let releases =
        "(func (export \"roadrunner_free\") (param i32) (drop (call $release (local.get 0)))";
    echo()
        .replace(log, &format!("{release}{log}"))
        .replace(free, releases)
}

/// How many of a process's descriptors are TCP sockets.
fn tcp_sockets(process: i32) -> usize {
    let tables = ["tcp", "tcp6"].map(|table| {
        // A host without IPv6 has no table of it.
        std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default()
    });
    // proc_net_tcp(5): the tenth column is the inode.
    let inodes: Vec<_> = tables
        .iter()
        .flat_map(|table| {
            table
                .lines()
                .filter_map(|line| line.split_whitespace().nth(9))
        })
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .expect("alive")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| {
            inodes
                .iter()
                .any(|inode| target.as_os_str() == inode.as_str())
        })
        .count()
}

#[test]
fn functions_of_one_host_reach_each_other_over_unix_sockets() {
    let server = Server::start(&[]);
    let host = Some(server.address.as_str());
    let there = bench(&[
        ("a", echo(), None),
        ("b", mapping_echo(), host),
        ("c", mapping_echo(), host),
        ("d", mapping_echo(), None),
        ("e", mapping_echo(), None),
    ]);
    let input: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 3) as u8 ^ 7).collect();
    there.write("input", &input);
    let json = there.path("report.json");
    let output = run(&there, &["--json", json.to_str().expect("text")]);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    assert!(std::fs::read(there.path("out/e")).expect("an output") == input);
    let report = std::fs::read_to_string(json).expect("written");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let methods: Vec<_> = (0..4).map(|hop| &report["hops"][hop]["method"]).collect();
    // What TCP cannot, on this host and on that one.
    assert_eq!(methods, ["write", "map", "write", "map"]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains(" map "), "{table}");

    // Who gets something from the same host has no connection, who gets it from another one has.
    for (first, has_any) in [(host, false), (None, true)] {
        let bench = bench(&[("a", echo(), first), ("bad", module(STUCK), host)]);
        let mut running = stuck(&bench, &[]);
        // The one before it may be gone.
        let mut workers = server.workers();
        workers.retain(|(_, arguments)| arguments.iter().any(|argument| argument == "bad"));
        let worker = workers.first().expect("it runs").0;
        assert_eq!(tcp_sockets(worker) > 0, has_any);
        running.kill();
        server.is_clean();
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_function_hears_from_both_its_own_and_other_hosts() {
    let server = Server::start(&[]);
    let host = Some(server.address.as_str());
    let bench = bench(&[
        ("a", echo(), None),
        ("b", echo(), host),
        ("c", echo(), host),
        ("e", echo(), None),
        ("d", echo(), None),
    ]);
    let chained = std::fs::read_to_string(bench.path("flow.toml")).expect("written");
    let (functions, _) = chained.split_once("[edges]").expect("it has edges");
    let edges = "[edges]\na = [\"b\", \"c\", \"e\"]\nb = [\"d\"]\nc = [\"d\"]\ne = [\"d\"]\n";
    bench.write("flow.toml", format!("{functions}{edges}").as_bytes());
    let input: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 3) as u8 ^ 7).collect();
    bench.write("input", &input);
    for arguments in [&[][..], &["--no-reconnect"]] {
        let output = run(&bench, arguments);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{talk}");
        for name in ["d", "d-2", "d-3"] {
            let path = bench.path("out").join(name);
            assert!(std::fs::read(&path).expect("an output") == input, "{name}");
            std::fs::remove_file(path).expect("there");
        }
    }
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
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
        Command::new(env!("CARGO_BIN_EXE_roadrunner"))
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
fn where_nobody_can_listen_it_says_what_to_do() {
    for (address, words) in [
        // Not to the world without a secret.
        ("0.0.0.0:0", "--secret-file"),
        ("127.0.0.1", "an address and a port"),
        ("[::1]", "an address and a port"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        let output = command
            .args(["serve", "--listen", address])
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(1));
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(talk.contains(address) && talk.contains(words), "{talk}");
    }
}

#[test]
fn a_run_whose_coordinator_dies_leaves_nothing() {
    let server = Server::start(&[]);
    let bench = bench(&[
        ("a", echo(), Some(&server.address)),
        ("bad", module(STUCK), Some(&server.address)),
        ("c", echo(), None),
    ]);
    let mut running = stuck(&bench, &[]);
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
            number == running.child.id() as i32,
            "only who is given the secret has it"
        );
    }
    running.kill();
    server.hears("went away");
    server.is_clean();
    // Ctrl-C is no different.
    let running = stuck(&bench, &[]);
    running.signal(Signal::SIGINT);
    // It has swept away what the killed one had left.
    ended_badly(&bench, running, &["interrupted"]);
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
fn a_server_that_was_started_to_ignore_a_hangup_does() {
    let hung_up = Server::start(&[]);
    hung_up.signal(Signal::SIGHUP);
    assert_eq!(hung_up.ended(), Some(0));
    // As nohup(1) starts it.
    let mut program = Command::new("sh");
    let script = "trap '' HUP; exec \"$0\" \"$@\"";
    program.args(["-c", script, env!("CARGO_BIN_EXE_roadrunner")]);
    let server = Server::start_as(program, "127.0.0.1:0", &[]);
    server.signal(Signal::SIGHUP);
    let there = bench(&[("a", echo(), Some(&server.address))]);
    goes_well(&there);
    // Whoever is about to stop takes none after the one that it had let in before it noticed.
    goes_well(&there);
    assert_eq!(server.stop(), Some(0));
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

/// Nobody waits for it to fall silent.
#[test]
fn a_run_whose_connection_to_a_host_is_cut_ends_at_both_ends_at_once() {
    let server = Server::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = Proxy::start(listener, server.address.parse().expect("an address"));
    let host = proxy.address.to_string();
    let words = ["`bad`", &host, "cut the connection", "start the run again"];
    let there = bench(&[
        ("a", echo(), None),
        ("bad", module(STUCK), Some(&host)),
        ("c", echo(), None),
    ]);
    let running = stuck(&there, &[]);
    assert_eq!(server.workers().len(), 1);
    proxy.cut();
    ended_badly(&there, running, &words);
    server.hears("its connection was cut");
    server.is_clean();
    // While the input is on its way.
    let there = bench(&[("bad", module(STUCK), Some(&host))]);
    there.write("input", &vec![7; 100_000_000]);
    let before = proxy.bytes();
    let child = start(&there, &[]);
    let until = Instant::now() + PATIENCE;
    while proxy.bytes() < before + 1_000_000 {
        assert!(Instant::now() < until, "no input is on its way");
        std::thread::sleep(Duration::from_millis(1));
    }
    proxy.cut();
    let output = child.wait_with_output().expect("it ends");
    there.failed("network", &output, &words);
    server.hears("its connection was cut");
    server.is_clean();
    let there = bench(&[("a", echo(), Some(&host))]);
    goes_well(&there);
    assert_eq!(server.stop(), Some(0));
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
