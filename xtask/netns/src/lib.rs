//! Two hosts on one machine, for tests and benchmarks: network namespaces with a cable (veth) between them.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pair = roadrunner_netns::Pair::new()?;
//! pair.shape("1gbit")?;
//! let server = pair.right.command("roadrunner").arg("serve").spawn()?;
//! pair.left.unplug()?;
//! pair.left.plug()?;
//! # drop(server);
//! # Ok(())
//! # }
//! ```
//!
//! It takes root, and `ip` and `tc` of iproute2. Names are random; all of it is gone when the pair is dropped.

use nix::sched::{setns, CloneFlags};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Two hosts and the cable between them.
#[derive(Debug)]
pub struct Pair {
    /// At 10.77.0.1.
    pub left: Host,
    /// At 10.77.0.2.
    pub right: Host,
}

/// One of the two: a network namespace with a loopback device and one end of the cable.
#[derive(Debug)]
pub struct Host {
    name: String,
    device: String,
    address: Ipv4Addr,
}

impl Pair {
    /// Makes both and plugs the cable in.
    ///
    /// # Errors
    /// What the machine lacks: for a test to say why it is skipped.
    pub fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let mut random = [0_u8; 4];
        getrandom::fill(&mut random).map_err(|error| format!("no random bytes: {error}"))?;
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        // Each is taken down by its drop, also if the next one fails.
        let left = Host::new(format!("rr-{random}-l"), Ipv4Addr::new(10, 77, 0, 1))?;
        let right = Host::new(format!("rr-{random}-r"), Ipv4Addr::new(10, 77, 0, 2))?;
        let (here, there) = (&left.name, &right.name);
        ip(&[
            "-n", here, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns",
            there,
        ])?;
        for host in [&left, &right] {
            let address = format!("{}/24", host.address);
            ip(&["-n", &host.name, "address", "add", &address, "dev", "cable"])?;
            ip(&["-n", &host.name, "link", "set", "lo", "up"])?;
            ip(&["-n", &host.name, "link", "set", "cable", "up"])?;
        }
        Ok(Self { left, right })
    }

    /// Lets both ends send so fast and no faster; see [`Host::shape`].
    ///
    /// # Errors
    /// What `tc` said.
    pub fn shape(&self, rate: &str) -> Result<(), String> {
        self.left.shape(rate)?;
        self.right.shape(rate)
    }
}

impl Host {
    fn new(name: String, address: Ipv4Addr) -> Result<Self, String> {
        ip(&["netns", "add", &name])?;
        Ok(Self {
            name,
            device: "cable".to_owned(),
            address,
        })
    }

    /// Where it is reached from the other one.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// A program on this host. The process that is started becomes the program itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does something on this host, on a thread of its own: sockets that it makes stay on this host.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    ///
    /// # Panics
    /// If `action` does.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> io::Result<T> {
        let namespace = File::open(PathBuf::from("/run/netns").join(&self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(action())
            });
            match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Lets this end send so fast and no faster (tc-tbf(8)), for example `1gbit`.
    ///
    /// # Errors
    /// What `tc` said.
    pub fn shape(&self, rate: &str) -> Result<(), String> {
        // What a real card's queue holds: enough not to starve, little enough not to hide the rate.
        run(
            "tc",
            &[
                "-n",
                &self.name,
                "qdisc",
                "replace",
                "dev",
                &self.device,
                "root",
                "tbf",
                "rate",
                rate,
                "burst",
                "256k",
                "latency",
                "20ms",
            ],
        )
    }

    /// Takes the cable out.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn unplug(&self) -> Result<(), String> {
        ip(&["-n", &self.name, "link", "set", &self.device, "down"])
    }

    /// Cuts TCP connections of this host, as a firewall or a card does that forgets them (ss(8), `--kill`), and tells how
    /// many: those that all of this is true of, for example `["dport", "!=", ":7000"]`.
    ///
    /// # Errors
    /// What `ss` said.
    pub fn cut_connections(&self, which: &[&str]) -> Result<usize, String> {
        let output = self
            .command("ss")
            .args(["--tcp", "--no-header", "--numeric", "--kill"])
            .args(["state", "established"])
            .args(which)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("ss of iproute2 cannot be started: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !said.is_empty() {
            return Err(format!("ss --kill: {}", said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().count())
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn plug(&self) -> Result<(), String> {
        ip(&["-n", &self.name, "link", "set", &self.device, "up"])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The cable goes with either of them. What still runs there keeps the namespace, without a name or a cable.
        let _ = ip(&["-n", &self.name, "link", "delete", &self.device]);
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} of iproute2 cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", line(), said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_pair_talks_and_leaves_nothing() {
        let pair = match Pair::new() {
            Ok(pair) => pair,
            Err(reason) => return eprintln!("skipped: a pair of hosts: {reason}"),
        };
        let names = [pair.left.name.clone(), pair.right.name.clone()];
        let address = (pair.right.address(), 7000);
        let listener = pair.right.within(|| TcpListener::bind(address));
        let listener = listener.expect("entered").expect("free");
        let connect = || TcpStream::connect(address);
        let mut here = pair.left.within(connect).expect("entered").expect("heard");
        let (mut there, _) = listener.accept().expect("somebody");
        here.write_all(b"over the cable").expect("open");
        drop(here);
        let mut text = String::new();
        there.read_to_string(&mut text).expect("open");
        assert_eq!(text, "over the cable");
        pair.shape("1gbit").expect("tc");
        pair.left.unplug().expect("ip");
        assert!(pair.left.within(connect).expect("entered").is_err());
        pair.left.plug().expect("ip");
        let port = format!(":{}", address.1);
        match pair.left.cut_connections(&["dport", "=", &port]) {
            // The one above is closed at this end.
            Ok(cut) => assert_eq!(cut, 0),
            Err(reason) => eprintln!("skipped: cutting connections: {reason}"),
        }
        drop(pair);
        for name in names {
            assert!(!PathBuf::from("/run/netns").join(name).exists());
        }
    }
}
