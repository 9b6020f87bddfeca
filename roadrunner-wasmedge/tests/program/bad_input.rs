//! What bad input gets: a message that names the culprit, a failure, and nothing left behind.

use crate::support::{echo, module, names, Bench, Running, MODES, STUCK};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::process::Command;

fn with(body: &str) -> Bench {
    Bench::chain(&[("a", echo()), ("bad", module(body)), ("c", echo())])
}

#[test]
fn a_good_chain_gives_what_it_got() {
    for mode in MODES {
        let bench = Bench::chain(&[("a", echo()), ("b", echo()), ("c", echo())]);
        let output = bench.run(mode);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{mode}: {talk}");
        let result = std::fs::read(bench.path("out/c")).expect("an output");
        assert_eq!(result, b"some bytes", "{mode}");
        assert_eq!(names(&bench.path("out")), ["c"], "{mode}");
        assert!(bench.processes().is_empty());
    }
}

#[test]
fn the_version_names_the_runtime() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
    let output = program.arg("--version").output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let runtime = roadrunner_wasmedge::module::wasmedge_version();
    let lines: Vec<_> = said.lines().collect();
    let own = concat!("roadrunner ", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, [own, &format!("WasmEdge {runtime}")]);
}

#[test]
fn a_function_that_writes_to_what_it_gave_away_is_told_of() {
    let imports = r#"(module
        (import "roadrunner" "bind" (func $bind (param i32 i32) (result i32)))
        (data (i32.const 32) "c")"#;
    // A slot of 1 MiB with a 5 in its first byte, to which it writes 9 once it is sent.
    let body = "(drop (memory.grow (i32.const 64)))
        (drop (call $bind (i32.const 0x100000) (i32.const 0x100000)))
        (i32.store8 (i32.const 0x100000) (i32.const 5))
        (drop (call $send (i32.const 32) (i32.const 1) (i32.const 0x100000) (i32.const 0x100000) (i32.const 1)))
        (i32.store8 (i32.const 0x100000) (i32.const 9))
        (i64.const 0)";
    for mode in ["user", "kernel"] {
        let bad = module(body).replacen("(module", imports, 1);
        let bench = Bench::chain(&[("a", echo()), ("bad", bad), ("c", echo())]);
        let json = bench.path("report.json");
        let output = bench
            .command(mode)
            .arg("--json")
            .arg(&json)
            .output()
            .expect("it starts");
        let [said, talk] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        assert!(output.status.success(), "{mode}: {talk}");
        let result = std::fs::read(bench.path("out/c")).expect("an output");
        assert_eq!((result.len(), result[0]), (1 << 20, 5), "{mode}");
        let what = "wrote to a slot after giving it away, which nobody sees";
        assert!(
            said.contains(&format!("misuse of slots ({mode}): bad {what}")),
            "{said}"
        );
        assert!(talk.contains(&format!("bad: it {what}")), "{talk}");
        let json = std::fs::read_to_string(json).expect("a report");
        assert!(json.contains(what), "{json}");
    }
}

#[test]
fn no_such_input() {
    let bench = Bench::chain(&[("a", echo())]);
    std::fs::remove_file(bench.path("input")).expect("there");
    for mode in MODES {
        bench.fails(mode, &["input", "/input", "No such file"]);
    }
}

#[test]
fn an_input_that_is_a_directory() {
    let bench = Bench::chain(&[("a", echo())]);
    std::fs::remove_file(bench.path("input")).expect("there");
    std::fs::create_dir(bench.path("input")).expect("writable");
    bench.fails("user", &["/input", "is not a file"]);
}

#[test]
fn an_input_that_an_output_would_replace() {
    let bench = Bench::chain(&[("a", echo())]);
    bench.write("out/a", b"mine");
    std::fs::remove_file(bench.path("input")).expect("there");
    std::fs::hard_link(bench.path("out/a"), bench.path("input")).expect("same file system");
    let output = bench.run("user");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("would be replaced"), "{talk}");
    assert_eq!(std::fs::read(bench.path("out/a")).expect("there"), b"mine");
}

#[test]
fn an_input_whose_length_nobody_knows() {
    let bench = Bench::chain(&[("a", echo())]);
    std::fs::remove_file(bench.path("input")).expect("there");
    std::os::unix::fs::symlink("/proc/self/status", bench.path("input")).expect("writable");
    bench.fails("user", &["function `a`", "not as long"]);
}

#[test]
fn a_json_file_that_cannot_be_written_costs_no_run() {
    let bench = Bench::chain(&[("a", echo())]);
    for path in [bench.path("tmp"), bench.path("nowhere/x.json")] {
        let mut command = bench.command("user");
        let output = command
            .arg("--json")
            .arg(&path)
            .output()
            .expect("it starts");
        bench.failed("json", &output, &["--json"]);
    }
}

#[test]
fn nobody_who_reads_stderr_is_no_panic() {
    let bench = with("(unreachable)");
    let json = bench.path("report.json");
    let mut command = bench.command("kernel");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = command
        .stderr(writer)
        .arg("--json")
        .arg(&json)
        .status()
        .expect("it starts");
    assert_eq!(status.code(), Some(1));
    let report = std::fs::read_to_string(json).expect("written all the same");
    assert!(
        report.contains("\"ok\": false") && report.contains("trapped"),
        "{report}"
    );
}

#[test]
fn an_empty_input_is_an_empty_payload() {
    for mode in MODES {
        let bench = Bench::chain(&[("a", echo()), ("b", echo())]);
        bench.write("input", b"");
        let output = bench.run(mode);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{mode}: {talk}");
        assert_eq!(std::fs::read(bench.path("out/b")).expect("an output"), b"");
    }
}

#[test]
fn a_workflow_that_is_wrong() {
    let bench = Bench::chain(&[("a", echo())]);
    let function = "[[function]]\nname = \"a\"\nmodule = \"a.wat\"\n";
    for (text, words) in [
        (format!("{function}[edges]\na = [\"a\"]"), "a -> a"),
        (format!("{function}[edges]\na = [\"b\"]"), "no function `b`"),
        (
            format!("{function}{function}"),
            "two functions are named `a`",
        ),
        (function.replace("a.wat", "gone.wasm"), "gone.wasm"),
        ("name = ".to_owned(), "flow.toml"),
    ] {
        bench.write("flow.toml", text.as_bytes());
        bench.fails("user", &["flow.toml", words]);
        let check = std::process::Command::new(env!("CARGO_BIN_EXE_roadrunner"))
            .arg("check")
            .arg(bench.path("flow.toml"))
            .output()
            .expect("it starts");
        bench.failed("check", &check, &["flow.toml", words]);
    }
}

#[test]
fn a_module_that_is_not_wasm_or_lacks_an_export() {
    let whole = echo();
    let lacking = whole.replace("(export \"roadrunner_handle\")", "");
    for (bytes, words) in [
        (b"\x7fELF and so on".to_vec(), vec!["a.wat"]),
        (b"".to_vec(), vec!["a.wat"]),
        (lacking.into_bytes(), vec!["a.wat", "roadrunner_handle"]),
        (
            b"(module (import \"elsewhere\" \"f\" (func)))".to_vec(),
            vec!["a.wat"],
        ),
    ] {
        let bench = Bench::chain(&[("a", echo())]);
        bench.write("a.wat", &bytes);
        for mode in MODES {
            bench.fails(mode, &words);
        }
    }
}

#[test]
fn a_function_that_traps() {
    for mode in MODES {
        with("(unreachable)").fails(mode, &["function `bad`", "unreachable"]);
    }
}

#[test]
fn a_function_that_fails_says_why() {
    let body = "(drop (call $fail (i32.const 16) (i32.const 8))) (i64.const -1)";
    for mode in MODES {
        with(body).fails(mode, &["function `bad`", "handling"]);
    }
}

#[test]
fn a_function_that_runs_for_ever() {
    for mode in MODES {
        let bench = with("(loop $again (br $again)) (i64.const 0)");
        let mut command = bench.command(mode);
        let output = command
            .args(["--deadline", "1"])
            .output()
            .expect("it starts");
        bench.failed(mode, &output, &["function `bad`", "deadline"]);
    }
}

#[test]
fn a_reply_outside_the_memory() {
    for (ptr, len) in [
        ("16", "-1"),
        ("-16", "32"),
        ("131072", "1"),
        ("131071", "2"),
    ] {
        let body = format!("(call $reply (i32.const {ptr}) (i32.const {len}))");
        for mode in MODES {
            with(&body).fails(mode, &["function `bad`", "memory"]);
        }
    }
}

#[test]
fn an_allocator_that_has_no_room_or_lies() {
    for answer in ["0", "-16", "131071"] {
        let lying = echo().replace(
            "(local.get $ptr))\n  (func (export \"roadrunner_free\")",
            &format!("(i32.const {answer}))\n  (func (export \"roadrunner_free\")"),
        );
        assert_ne!(lying, echo());
        for mode in MODES {
            let bench = Bench::chain(&[("a", echo()), ("bad", lying.clone())]);
            bench.fails(mode, &["function `bad`"]);
        }
    }
}

#[test]
fn a_function_that_asks_for_4_gib_less_one() {
    let body = "(drop (call $allocate (i32.const -1) (i32.const 16))) (call $reply (local.get $ptr) (i32.const -1))";
    for mode in MODES {
        with(body).fails(mode, &["function `bad`", "memory"]);
    }
}

#[test]
fn a_memory_that_grows_in_the_middle_is_no_error() {
    let body =
        "(drop (memory.grow (i32.const 100))) (call $reply (local.get $ptr) (local.get $len))";
    for mode in MODES {
        let bench = with(body);
        let output = bench.run(mode);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{mode}: {talk}");
        assert_eq!(
            std::fs::read(bench.path("out/c")).expect("an output"),
            b"some bytes"
        );
    }
}

#[test]
fn a_send_to_nobody_or_from_nowhere_is_an_error_code() {
    // Handled well if each call returns a negative code; else it traps.
    for (target, ptr, len) in [("8", "16", "8"), ("0", "16", "8"), ("-1", "16", "8")] {
        let body = format!(
            "(if (i32.ge_s (call $send (i32.const 16) (i32.const {target}) (i32.const {ptr}) (i32.const {len})
                (i32.const 0)) (i32.const 0)) (then unreachable))
             (if (i32.ge_s (call $send (i32.const 16) (i32.const 1) (i32.const -8) (i32.const 64)
                (i32.const 1)) (i32.const 0)) (then unreachable))
             (call $reply (local.get $ptr) (local.get $len))"
        );
        for mode in MODES {
            let output = with(&body).run(mode);
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{mode}: {talk}");
        }
    }
}

#[test]
fn a_port_that_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let bench = Bench::chain(&[("a", echo())]);
    let text = format!(
        "[[function]]\nname = \"a\"\nmodule = \"a.wat\"\n[[function]]\nname = \"b\"\nmodule = \"a.wat\"\nlisten = \"{address}\"\n[edges]\na = [\"b\"]\n"
    );
    bench.write("flow.toml", text.as_bytes());
    bench.fails("network", &["function `b`", &address]);
}

#[test]
fn a_socket_path_that_is_taken() {
    let bench = Bench::chain(&[("a", echo())]);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let path = elsewhere.path().join("b.sock");
    let taken = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let text = format!(
        "[[function]]\nname = \"a\"\nmodule = \"a.wat\"\n[[function]]\nname = \"b\"\nmodule = \"a.wat\"\nsocket = \"{}\"\n[edges]\na = [\"b\"]\n",
        path.display()
    );
    bench.write("flow.toml", text.as_bytes());
    bench.fails("kernel", &["function `b`", "b.sock"]);
    assert!(path.exists(), "it is not ours");
    drop(taken);
    // Nobody listens there any more: it is replaced, and gone afterwards.
    let output = bench.run("kernel");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    assert!(!path.exists());
}

/// Starts a run whose function `bad` runs for ever, and waits until it does.
fn stuck(bench: &Bench, mode: &str) -> Running {
    Running::until_handling(bench.command(mode), "bad")
}

#[test]
fn ctrl_c_stops_a_run_and_leaves_nothing() {
    for mode in MODES {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let bench = with(STUCK);
            let running = stuck(&bench, mode);
            running.signal(signal);
            let output = running.ended();
            bench.failed(mode, &output, &["interrupted"]);
            assert_eq!(output.status.code(), Some(130), "{mode}");
        }
    }
}

#[test]
fn a_child_that_is_killed_by_hand_is_named() {
    for mode in ["kernel", "network"] {
        for name in ["bad", "c"] {
            let bench = with(STUCK);
            let running = stuck(&bench, mode);
            let (number, _) = bench
                .processes()
                .into_iter()
                .find(|(_, arguments)| arguments[1..].starts_with(&["worker".into(), name.into()]))
                .expect("a process of its own");
            kill(Pid::from_raw(number), Signal::SIGKILL).expect("alive");
            let output = running.ended();
            let function = format!("function `{name}`");
            bench.failed(mode, &output, &[&function, "signal 9"]);
        }
    }
}

#[test]
fn workers_go_when_the_program_is_killed() {
    for mode in ["kernel", "network"] {
        let bench = with(STUCK);
        let mut running = stuck(&bench, mode);
        running.kill();
        // Workers share the pipe: its end is the end of the last of them.
        running.rest();
        assert!(bench.processes().is_empty(), "{mode}");
    }
}
