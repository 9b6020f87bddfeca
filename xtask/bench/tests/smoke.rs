//! Every experiment runs once, with payloads so small that it measures nothing, and its results are whole.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

const FUNCTIONS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../roadrunner-wasmedge/functions/target/wasm32-wasip1/release"
);

const BASELINES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/baselines/target/wasm32-wasip1/release"
);

/// Runs a part; `None`, in plain sight, if the functions are not built.
fn results(part: &str) -> Option<Value> {
    let consume = Path::new(FUNCTIONS).join("consume.wasm");
    let http = Path::new(BASELINES).join("http.wasm");
    if !consume.is_file() || (part == "eval" && !http.is_file()) {
        roadrunner_core::testing::skipped(
            &format!("bench --only {part}"),
            "the functions are not built; cargo xtask test builds them",
        );
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_roadrunner-bench"))
        .args(["--smoke", "--only", part, "--out"])
        .arg(directory.path())
        .output()
        .expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for line in stderr
        .lines()
        .filter_map(|line| line.strip_prefix("skipped: "))
    {
        roadrunner_core::testing::skipped("bench", line);
    }
    let text = std::fs::read_to_string(directory.path().join("results.json")).expect("results");
    Some(serde_json::from_str(&text).expect("JSON"))
}

/// What every part must keep.
fn check(results: &Value, ratios: &[&str]) {
    for field in ["cpu", "cores", "kernel", "memory"] {
        assert!(!results["machine"][field].is_null(), "{field}");
    }
    let rows = results["rows"].as_array().expect("rows");
    assert!(!rows.is_empty());
    for row in rows {
        for field in ["experiment", "candidate", "transport", "method"] {
            let text = row[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{field} in {row}");
        }
        for field in [
            "bytes",
            "fanout",
            "p50_ns",
            "p95_ns",
            "p99_ns",
            "rounds",
            "peak_rss_bytes",
        ] {
            assert!(
                row[field].as_f64().is_some_and(|number| number > 0.0),
                "{field} in {row}"
            );
        }
        for field in ["cpu_user_ns", "cpu_sys_ns"] {
            assert!(row[field].as_f64().is_some(), "{field} in {row}");
        }
        assert_eq!(row["verified"], row["delivered"], "{row}");
    }
    let found = results["ratios"].as_array().expect("ratios");
    let names: Vec<_> = found
        .iter()
        .filter_map(|ratio| ratio["name"].as_str())
        .collect();
    for name in ratios {
        assert!(names.contains(name), "no {name} in {names:?}");
    }
    for ratio in found {
        assert!(
            ratio["value"].as_f64().is_some_and(|value| value > 0.0),
            "{ratio}"
        );
        // What encryption costs, and gRPC, is only to be known.
        let no_goal = ["net.tls_cost.100MB", "net.over_grpc.100MB"];
        let has_goal = !no_goal.iter().any(|name| ratio["name"] == *name);
        assert_eq!(ratio["goal"].is_number(), has_goal, "{ratio}");
        let better = ratio["better"].as_str();
        assert!(matches!(better, Some("higher" | "lower")), "{ratio}");
    }
}

#[test]
fn mem() {
    let Some(results) = results("mem") else {
        return;
    };
    check(
        &results,
        &[
            "mem.exchange_over_copy.transfer.100MB",
            "mem.auto_over_copy.steady.100MB",
            "mem.auto_over_copy.steady.worst",
            "mem.slot_strict_over_copy.transfer.100MB",
            "mem.slot_trusted.size_independence",
            "mem.fanout100.memory",
            "mem.small_over_channel.64B",
            "mem.wasm.user_over_getset.100MB",
        ],
    );
    // What was asked for ran, where it should.
    let method = |experiment: &str, candidate: &str| {
        let rows = results["rows"].as_array().expect("rows");
        let row = rows
            .iter()
            .rfind(|row| row["experiment"] == experiment && row["candidate"] == candidate);
        row.map_or(Value::Null, |row| row["method"].clone())
    };
    assert_eq!(method("mem.steady", "auto"), "exchange");
    assert_eq!(method("mem.transfer", "slot"), "slot");
    assert_eq!(method("mem.wasm.transfer", "slot"), "slot");
    assert_eq!(method("mem.fanout", "slot"), "slot");
}

#[test]
fn uds() {
    let Some(results) = results("uds") else {
        return;
    };
    let mut ratios = vec![
        "uds.slot_trusted.size_independence",
        "uds.slot_strict_over_write.transfer.100MB",
        "uds.slot_over_pingpong",
        "uds.slot_over_write.steady.100MB",
        "uds.auto_over_write.steady.100MB",
        "uds.auto_over_write.worst",
        "uds.splice_sender_cpu.100MB",
        "uds.links.1000",
        "uds.fanout100.memory",
    ];
    if cfg!(feature = "peers") {
        ratios.extend(["uds.over_iceoryx2.100MB", "uds.over_ipc_channel.100MB"]);
    }
    if !results["skipped"].to_string().contains("redis") {
        ratios.push("uds.over_redis.100MB");
    }
    check(&results, &ratios);
    let rows = results["rows"].as_array().expect("rows");
    let method = |experiment: &str, candidate: &str| {
        let row = rows
            .iter()
            .rfind(|row| row["experiment"] == experiment && row["candidate"] == candidate);
        row.map_or(Value::Null, |row| row["method"].clone())
    };
    assert_eq!(method("uds.transfer", "uds-slot"), "slot");
    assert_eq!(method("uds.pingpong", "uds-trusted"), "slot");
    assert_eq!(method("uds.fanout", "uds-slot"), "slot");
    // Functions on WasmEdge, whose slots are that small copied.
    assert_ne!(method("uds.wasm", "kernel-loaned"), Value::Null);
}

#[test]
fn eval() {
    let Some(results) = results("eval") else {
        return;
    };
    check(
        &results,
        &[
            "eval.user_over_http_json.100MB",
            "eval.kernel_over_http_json.100MB",
            "eval.network_over_http_json.100MB",
            "eval.serialization_share",
            "eval.user_over_prototype.100MB",
            "eval.kernel_over_prototype.100MB",
            "eval.network_over_prototype.100MB",
            "eval.rss_over_payload.user.500MB",
            "eval.rss_over_payload.kernel.500MB",
            "eval.rss_over_payload.network.500MB",
            "eval.user_over_native.100MB",
            "eval.fanout100_over_http_json.10MB",
        ],
    );
    let rows = results["rows"].as_array().expect("rows");
    let of = |experiment: &str, candidate: &str| {
        rows.iter()
            .rfind(|row| row["experiment"] == experiment && row["candidate"] == candidate)
    };
    let mut sequential = vec!["native-unix", "native-tcp", "host-copy", "memcpy"];
    let mut fanout = vec!["wasmedge-http-json", "wasmedge-http-raw"];
    for mode in ["user", "kernel", "network"] {
        sequential.push(mode);
        fanout.push(mode);
    }
    let loaned = ["user-loaned", "kernel-loaned", "network-loaned"];
    sequential.extend(loaned);
    fanout.extend(loaned);
    sequential.extend(["user-trusted", "kernel-trusted"]);
    sequential.extend(["prototype-user", "prototype-kernel", "prototype-network"]);
    sequential.extend(["wasmedge-http-json", "wasmedge-http-raw"]);
    let skipped = results["skipped"].to_string();
    for name in ["native-http", "redis"] {
        assert_ne!(
            skipped.contains(name),
            of("eval.sequential", name).is_some(),
            "{name} is either measured or skipped: {skipped}"
        );
    }
    for (experiment, names) in [("eval.sequential", sequential), ("eval.fanout", fanout)] {
        for name in names {
            let row = of(experiment, name).unwrap_or_else(|| panic!("no {experiment} {name}"));
            for field in ["requests_per_s", "bytes_per_s", "footprint_bytes"] {
                let value = row[field].as_f64();
                assert!(value.is_some_and(|value| value > 0.0), "{field} in {row}");
            }
            if experiment == "eval.sequential" {
                let hop = row["phases"]["hop"]["p50_ns"].as_f64();
                assert!(hop.is_some_and(|hop| hop > 0.0), "{row}");
            }
        }
    }
    let method = |name| of("eval.sequential", name).map(|row| row["method"].clone());
    assert_eq!(method("user-loaned"), Some("slot".into()));
    assert_eq!(method("kernel-loaned"), Some("slot".into()));
}

#[test]
fn net() {
    let Some(results) = results("net") else {
        return;
    };
    let mut ratios = vec![
        "net.auto_over_tcp.1MB",
        "net.auto_over_tcp.10MB",
        "net.auto_over_tcp.100MB",
        "net.auto_over_tcp.500MB",
        "net.checksum_cost.100MB",
        "net.small_rtt.64B",
        "net.links.1000",
        "net.steady_rss.100MB",
    ];
    if cfg!(feature = "peers") {
        ratios.push("net.over_http.100MB");
    }
    let skipped = results["skipped"].to_string();
    for name in ["net.line_rate.1gbit", "net.sender_cpu.1gbit"] {
        if !skipped.contains(name) {
            ratios.push(name);
        }
    }
    check(&results, &ratios);
}
