//! iperf3, for what a cable carries.

use anyhow::{ensure, Context, Result};
use roadrunner_netns::Pair;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const SECONDS: &str = "4";

/// Why there is none.
pub(super) fn missing() -> Option<&'static str> {
    let there = Command::new("iperf3")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    match there {
        Ok(_) => None,
        Err(_) => Some("there is no iperf3; on Debian: apt-get install iperf3"),
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Ended by itself, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes of payload per second from the left host to the right one, by one stream.
pub(super) fn goodput(pair: &Pair) -> Result<f64> {
    let server = pair
        .right
        .command("iperf3")
        .args(["--server", "--one-off", "--forceflush"])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting iperf3")?;
    let mut server = Server(server);
    let mut lines = BufReader::new(server.0.stdout.take().context("piped")?).lines();
    let listening = lines.any(|line| line.is_ok_and(|line| line.contains("listening")));
    ensure!(listening, "iperf3 does not listen");
    let output = pair
        .left
        .command("iperf3")
        .args(["--client", &pair.right.address().to_string()])
        .args(["--time", SECONDS, "--json"])
        .output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let bits = report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 said {}", report["error"]))?;
    Ok(bits / 8.0)
}
