//! Two hosts, each a network namespace with a `roadrunner serve` in it, and a cable between them.

use crate::support::demo::{demo, jpeg};
use crate::support::lots::{number, Lots};
use crate::support::server::{chain, Server, SECRET};
use crate::support::{echo, module, skipped, Bench, Running, SAYS, STUCK};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use roadrunner_netns::{Host, Pair};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Two hosts with a server each, or why there are none.
fn hosts(test: &str) -> Option<(Server, Server, Pair)> {
    match Pair::new() {
        Ok(pair) => {
            let serve = |host: &Host| {
                let program = host.command(env!("CARGO_BIN_EXE_roadrunner"));
                Server::start_as(program, &format!("{}:0", host.address()), &[])
            };
            Some((serve(&pair.left), serve(&pair.right), pair))
        }
        Err(reason) => {
            skipped(test, &reason);
            None
        }
    }
}

/// `roadrunner run` on a host.
fn run_on(host: &Host, bench: &Bench, mode: &str, arguments: &[&str]) -> Command {
    let there = bench.command(mode);
    let mut command = host.command(there.get_program());
    command
        .args(there.get_args())
        .args(arguments)
        .envs(
            there
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .env("ROADRUNNER_SECRET", SECRET)
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn goes_well(mut command: Command) -> String {
    let output = command.output().expect("it starts");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_demo_comes_out_the_same_between_two_hosts() {
    let test = "the_demo_comes_out_the_same_between_two_hosts";
    let Some(alone) = demo(|_| None) else {
        return skipped(
            test,
            "the example functions are not built; cargo xtask test builds them",
        );
    };
    let Some((left, right, pair)) = hosts(test) else {
        return;
    };
    let bench = Bench::new();
    bench.write("input", &jpeg());
    bench.write("flow.toml", alone.as_bytes());
    goes_well(run_on(&pair.left, &bench, "user", &[]));
    let outputs = || {
        ["700.png", "90.png"].map(|name| std::fs::read(bench.path("out").join(name)).expect("made"))
    };
    let expected = outputs();
    pair.shape("1gbit").expect("tc shapes it");
    // Every hop of the first crosses the cable; then some functions run where the run is started.
    let (one, two) = (Some(left.address.clone()), Some(right.address.clone()));
    for with_home in [false, true] {
        let place = |name: &str| {
            let there = name == "decode" || name.starts_with("filter");
            match () {
                () if with_home && name.starts_with("encode") => None,
                () if there => two.clone(),
                () => one.clone(),
            }
        };
        let flow = demo(place).expect("built");
        bench.write("flow.toml", flow.as_bytes());
        for method in ["write", "splice", "auto"] {
            for name in ["700.png", "90.png"] {
                std::fs::remove_file(bench.path("out").join(name)).expect("there");
            }
            let table = goes_well(run_on(
                &pair.left,
                &bench,
                "network",
                &["--network-method", method],
            ));
            assert!(outputs() == expected, "{method}: {table}");
            let across = format!("{} -> {}", right.address, left.address);
            assert!(table.contains(&across), "{table}");
        }
    }
    assert_eq!(left.stop(), Some(0));
    assert_eq!(right.stop(), Some(0));
}

/// `a` here sends to `b` over there, which sends to `c` here.
fn there_and_back(right: &Server, bodies: [String; 3]) -> Bench {
    let bench = Bench::new();
    let places = [None, Some(right.address.as_str()), None];
    let functions: Vec<(&str, PathBuf, Option<&str>)> = ["a", "b", "c"]
        .into_iter()
        .zip(bodies)
        .zip(places)
        .map(|((name, text), host)| {
            let file = format!("{name}.wat");
            bench.write(&file, text.as_bytes());
            (name, bench.path(&file), host)
        })
        .collect();
    bench.write("flow.toml", chain(&functions).as_bytes());
    bench
}

/// Starts such a run over 100 Mbit/s, whose payload takes 2 s to `b`, and pulls the cable in the middle of it.
fn in_mid_payload(pair: &Pair, bench: &Bench, arguments: &[&str]) -> (Running, Vec<u8>) {
    let input: Vec<u8> = (0..25_000_000_u32).map(|at| (at / 5) as u8 ^ 3).collect();
    bench.write("input", &input);
    pair.shape("100mbit").expect("tc shapes it");
    let running = Running::until_handling(run_on(&pair.left, bench, "network", arguments), "a");
    std::thread::sleep(Duration::from_millis(500));
    pair.right.unplug().expect("ip pulls it");
    (running, input)
}

#[test]
fn a_cable_that_is_pulled_in_mid_payload_and_put_back_costs_time_only() {
    let test = "a_cable_that_is_pulled_in_mid_payload_and_put_back_costs_time_only";
    let Some((left, right, pair)) = hosts(test) else {
        return;
    };
    let bench = there_and_back(&right, [module(SAYS), echo(), echo()]);
    let (running, input) = in_mid_payload(&pair, &bench, &[]);
    std::thread::sleep(Duration::from_secs(2));
    pair.right.plug().expect("ip puts it back");
    let output = running.ended();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    assert!(std::fs::read(bench.path("out/c")).expect("an output") == input);
    left.is_clean();
    right.is_clean();
    assert_eq!(right.stop(), Some(0));
    assert_eq!(left.stop(), Some(0));
}

#[test]
fn a_run_goes_on_over_new_connections_when_those_in_mid_payload_are_cut() {
    let test = "a_run_goes_on_over_new_connections_when_those_in_mid_payload_are_cut";
    for reconnects in [true, false] {
        let Some((left, right, pair)) = hosts(test) else {
            return;
        };
        let bench = there_and_back(&right, [module(SAYS), echo(), echo()]);
        let json = bench.path("report.json");
        let mut arguments = vec!["--json", json.to_str().expect("text")];
        arguments.extend((!reconnects).then_some("--no-reconnect"));
        let (mut running, input) = in_mid_payload(&pair, &bench, &arguments);
        // All but the one that the two hosts talk over: of what the functions send nobody knows any more.
        let (_, port) = right.address.rsplit_once(':').expect("an address");
        match pair
            .left
            .cut_connections(&["dport", "!=", &format!(":{port}")])
        {
            Ok(cut) => assert_eq!(cut, 2, "a to b, b to c"),
            Err(reason) => {
                running.kill();
                return skipped(test, &reason);
            }
        }
        std::thread::sleep(Duration::from_secs(2));
        pair.right.plug().expect("ip puts it back");
        let output = running.ended();
        if reconnects {
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{talk}");
            assert!(std::fs::read(bench.path("out/c")).expect("an output") == input);
            let report = std::fs::read_to_string(&json).expect("written");
            let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
            let hops = report["hops"].as_array().expect("hops");
            assert_eq!(hops.len(), 2, "each payload once: {hops:?}");
        } else {
            std::fs::remove_file(&json).expect("written");
            bench.failed("network", &output, &["function `"]);
        }
        left.is_clean();
        right.is_clean();
        assert_eq!(right.stop(), Some(0));
        assert_eq!(left.stop(), Some(0));
    }
}

#[test]
fn a_cable_that_stays_out_ends_the_run_on_both_hosts() {
    let test = "a_cable_that_stays_out_ends_the_run_on_both_hosts";
    let Some((left, right, pair)) = hosts(test) else {
        return;
    };
    let bench = there_and_back(&right, [echo(), module(STUCK), echo()]);
    bench.write("input", b"some bytes");
    let running = Running::until_handling(run_on(&pair.left, &bench, "network", &[]), "b");
    pair.left.unplug().expect("ip pulls it");
    bench.failed(
        "network",
        &running.ended(),
        &["`b`", &right.address, "nothing was heard"],
    );
    right.hears("nothing was heard");
    right.is_clean();
    assert_eq!(right.stop(), Some(0));
    assert_eq!(left.stop(), Some(0));
}

/// `cargo xtask soak --only hosts` plays more rounds of this.
#[test]
fn whatever_happens_to_a_run_between_two_hosts_leaves_nothing_on_them() {
    let test = "whatever_happens_to_a_run_between_two_hosts_leaves_nothing_on_them";
    let Some((left, right, pair)) = hosts(test) else {
        return;
    };
    pair.shape("200mbit").expect("tc shapes it");
    let rounds = number("ROADRUNNER_SOAK_ROUNDS", 6);
    let first = number("ROADRUNNER_SOAK_SEED", 1);
    let bench = there_and_back(&right, [echo(), echo(), echo()]);
    let input: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8 ^ 5).collect();
    bench.write("input", &input);
    let undisturbed = |label: &str| {
        let began = Instant::now();
        goes_well(run_on(&pair.left, &bench, "network", &[]));
        let output = bench.path("out/c");
        assert!(std::fs::read(&output).expect("made") == input, "{label}");
        std::fs::remove_file(output).expect("there");
        bench.left_nothing(label);
        left.is_clean();
        right.is_clean();
        began.elapsed()
    };
    undisturbed("the first");
    let usual = undisturbed("the second").as_micros() as u64;
    let (mut cut, mut killed, mut late) = (0, 0, 0);
    for seed in first..first + rounds {
        let label = format!("ROADRUNNER_SOAK_ROUNDS=1 ROADRUNNER_SOAK_SEED={seed}");
        let mut lots = Lots(seed);
        let child = run_on(&pair.left, &bench, "network", &[])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_micros(lots.below(usual)));
        let pulls = lots.below(3) == 0;
        if pulls {
            cut += 1;
            pair.right.unplug().expect("ip pulls it");
            std::thread::sleep(Duration::from_millis(lots.below(1500)));
            pair.right.plug().expect("ip puts it back");
        } else {
            let mut victims: Vec<_> = right.workers().into_iter().collect();
            victims.extend(bench.processes());
            if !victims.is_empty() {
                let (victim, _) = &victims[lots.below(victims.len() as u64) as usize];
                // It may have ended by itself in the meantime.
                let _ = kill(Pid::from_raw(*victim), Signal::SIGKILL);
            }
        }
        let output = child.wait_with_output().expect("it ends");
        let talk = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            late += usize::from(!pulls);
            std::fs::remove_file(bench.path("out/c")).expect("an output");
        } else {
            assert!(
                !pulls,
                "{label}: a cable that is put back costs time only: {talk}"
            );
            assert!(!talk.contains("panicked"), "{label}: {talk}");
            killed += 1;
        }
        left.is_clean();
        right.is_clean();
        undisturbed(&label);
    }
    println!("hosts: {killed} processes killed, {cut} times the cable pulled, {late} runs that had ended");
    assert_eq!(left.stop(), Some(0));
    assert_eq!(right.stop(), Some(0));
}
