//! What a `roadrunner serve` allows the runs that it hosts, and what happens to those that want more.

use crate::support::hosted::{bench, fails, goes_well, start, stuck};
use crate::support::proxy::{own_address, two_ports, Watched};
use crate::support::server::Server;
use crate::support::{echo, module, STUCK};

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
    let mut running = stuck(&slow, &[]);
    let other = bench(&[("a", echo(), Some(&host))]);
    fails(&other, &[], &[&host, "--runs"]);
    running.kill();
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

#[test]
fn functions_listen_at_the_ports_that_they_may() {
    let [first, second] = two_ports(own_address(2));
    let [low, high] = [&first, &second].map(|held| held.local_addr().expect("bound"));
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_roadrunner"));
    let range = format!("{}-{}", low.port(), high.port());
    let listen = format!("{}:0", low.ip());
    let server = Server::start_as(program, &listen, &["--ports", &range]);
    let host = Some(server.address.as_str());
    let one = bench(&[
        ("a", echo(), None),
        ("b", echo(), host),
        ("c", echo(), None),
    ]);
    let two = bench(&[
        ("a", echo(), None),
        ("b", echo(), host),
        ("c", echo(), None),
        ("d", echo(), host),
    ]);
    let words = format!("no port from {} to {} is free", low.port(), high.port());
    fails(&one, &[], &["function `b`", &server.address, &words]);
    // Past the one that is somebody else's; there is none for a second one then.
    drop(second);
    goes_well(&one);
    fails(&two, &[], &[&server.address, &words]);
    drop(first);
    goes_well(&two);
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
    for wrong in ["7", "9-8", "0-8", "a-b", "1-65536"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_roadrunner"))
            .args(["serve", "--listen", "127.0.0.1:0", "--ports", wrong])
            .output()
            .expect("it starts");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(talk.contains("40000-40999"), "{wrong}: {talk}");
    }
}

#[test]
fn a_payload_that_is_more_than_may_come_is_refused_and_others_go_on() {
    let server = Server::start(&["--memory", "100000"]);
    let host = Some(server.address.as_str());
    let slow = bench(&[("a", echo(), None), ("bad", module(STUCK), host)]);
    let mut running = stuck(&slow, &[]);
    let other = bench(&[("a", echo(), None), ("b", echo(), host)]);
    other.write("input", &[7; 100_001]);
    let words = ["function `b`", &server.address, "may receive 100000"];
    fails(&other, &[], &words);
    other.write("input", &[7; 100_000]);
    goes_well(&other);
    let ended = running.child.try_wait().expect("a child");
    assert!(ended.is_none(), "it goes on");
    running.kill();
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_is_coming_in_is_counted_over_all_runs_of_a_server() {
    for (arguments, option) in [
        (&["--memory", "100000"][..], "(--memory of"),
        (
            &["--memory", "200000", "--memory-each", "100000"],
            "(--memory-each of",
        ),
    ] {
        let Watched {
            server,
            control,
            data,
        } = Watched::start(arguments);
        let known = control.address.to_string();
        let held = bench(&[("a", echo(), None), ("b", echo(), Some(&known))]);
        held.write("input", &[7; 80_000]);
        let other = bench(&[("a", echo(), None), ("b", echo(), Some(&server.address))]);
        other.write("input", &[7; 20_001]);
        for is_killed in [true, false] {
            // Its receiver has room for all of it, and gets a half.
            data.hold_after(40_000);
            let mut child = start(&held, &[]);
            server.receives(true);
            let words = ["`b`", "may receive 100000 bytes at a time", option];
            fails(&other, &[], &words);
            if is_killed {
                child.kill().expect("alive");
                child.wait().expect("dead");
                server.receives(false);
                data.release();
                goes_well(&other);
                std::fs::remove_file(other.path("out/b")).expect("an output");
            } else {
                data.release();
                let output = child.wait_with_output().expect("it ends");
                let talk = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{talk}");
                server.receives(false);
            }
            server.is_clean();
        }
        assert_eq!(server.stop(), Some(0));
    }
}
