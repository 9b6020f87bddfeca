//! Hosts that encrypt what they say to each other, and those that do not.

use crate::support::hosted::{bench, fails, goes_well, run, start};
use crate::support::proxy::{own_address, Watched};
use crate::support::server::{Server, SECRET};
use crate::support::{echo, skipped, Bench};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::Path;
use std::process::Command;

/// Who signs certificates, and the directory in which these are.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("random");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("signed");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("authority.pem"), issuer.pem()).expect("writable");
        Self { issuer, directory }
    }

    /// The options of a host whose certificate is for this name or address.
    fn options(&self, name: &str) -> Vec<String> {
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("random");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let directory = self.directory.path();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).expect("writable");
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())
            .expect("writable");
        tls(directory, name)
    }
}

fn tls(directory: &Path, name: &str) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    vec![
        "--tls-authority".to_owned(),
        file("authority.pem"),
        "--tls-certificate".to_owned(),
        file(&format!("{name}.pem")),
        "--tls-key".to_owned(),
        file(&format!("{name}.key")),
    ]
}

fn texts(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

const PLAIN: &[u8] = b"as plain as day, ";

/// `a` here, whose payload goes to `b` there; what `b` replies comes back with the events.
fn there_and_back(there: &Watched) -> Bench {
    let host = there.control.address.to_string();
    let bench = bench(&[("a", echo(), None), ("b", echo(), Some(&host))]);
    bench.write("input", &PLAIN.repeat(20_000));
    bench
}

#[test]
fn nobody_on_the_way_reads_what_is_encrypted_and_anybody_what_is_not() {
    let authority = Authority::new();
    let known = own_address(1).to_string();
    let options = authority.options(&known);
    for is_encrypted in [true, false] {
        let options = if is_encrypted {
            texts(&options)
        } else {
            Vec::new()
        };
        for rest in [&[][..], &["--no-reconnect"]] {
            let there = Watched::start(&options);
            let bench = there_and_back(&there);
            let output = run(&bench, &[&options[..], rest].concat());
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{talk}");
            let came = std::fs::read(bench.path("out/b")).expect("an output");
            assert!(came == PLAIN.repeat(20_000));
            for (proxy, words) in [
                (&there.control, PLAIN),
                // What a run orders, with the modules, and what proves that the secret is known.
                (&there.control, b"roadrunner_handle"),
                (&there.control, b"auth-RR1"),
                (&there.data, PLAIN),
                (&there.data, b"auth-RR1"),
            ] {
                let saw = proxy.saw(words);
                let words = String::from_utf8_lossy(words);
                assert_eq!(saw, !is_encrypted, "{rest:?}: {words}");
            }
            for proxy in [&there.control, &there.data] {
                assert!(proxy.bytes() > 20_000 * PLAIN.len(), "it goes another way");
            }
            there.server.is_clean();
            assert_eq!(there.server.stop(), Some(0));
        }
    }
}

#[test]
fn a_payload_goes_on_encrypted_over_a_new_connection() {
    let authority = Authority::new();
    let options = authority.options(&own_address(1).to_string());
    let options = texts(&options);
    let there = Watched::start(&options);
    let bench = there_and_back(&there);
    // Cut in the middle of it: the receiver has room for all, and got a part.
    there.data.hold_after(100_000);
    let child = start(&bench, &options);
    there.server.receives(true);
    there.data.cut();
    there.data.release();
    let output = child.wait_with_output().expect("it ends");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    assert!(std::fs::read(bench.path("out/b")).expect("an output") == PLAIN.repeat(20_000));
    assert!(there.data.connections() > 1);
    assert!(!there.data.saw(PLAIN) && !there.data.saw(b"auth-RR1"));
    there.server.receives(false);
    there.server.is_clean();
    assert_eq!(there.server.stop(), Some(0));
}

#[test]
fn a_host_with_tls_and_one_without_are_told_what_to_do() {
    let authority = Authority::new();
    let options = authority.options(&own_address(1).to_string());
    let options = texts(&options);
    let mutual = "needs TLS as well";
    let lone = "give --tls-authority";
    for (there, here, words) in [(&[][..], &options[..], mutual), (&options, &[], lone)] {
        let there = Watched::start(there);
        let bench = there_and_back(&there);
        let host = there.control.address.to_string();
        fails(&bench, here, &["`b`", &host, words]);
        there.server.hears("turned away");
        // Nor was a word of it said.
        assert!(!there.control.saw(b"roadrunner_handle"));
        assert!(!there.control.saw(b"b.wat"));
        let mut check = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        let output = check
            .arg("check")
            .arg(bench.path("flow.toml"))
            .arg("--hosts")
            .args(here)
            .env("ROADRUNNER_SECRET", SECRET)
            .output()
            .expect("it starts");
        bench.failed("check", &output, &[&host, words]);
        there.server.is_clean();
        assert_eq!(there.server.stop(), Some(0));
    }
}

#[test]
fn a_certificate_has_to_be_of_the_authority_and_for_the_host() {
    let (authority, other) = (Authority::new(), Authority::new());
    let known = own_address(1).to_string();
    let good = authority.options(&known);
    let named = authority.options("attic");
    // The address that both reach each other at is not in the certificate of the server.
    let there = Watched::start(&texts(&named));
    let bench = there_and_back(&there);
    let host = there.control.address.to_string();
    fails(
        &bench,
        &texts(&good),
        &["`b`", &host, "attic", "--tls-name"],
    );
    for (name, is_good) in [("cellar", false), ("attic", true)] {
        let mut options = texts(&good);
        options.extend(["--tls-name", name]);
        if is_good {
            let output = run(&bench, &options);
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{talk}");
            std::fs::remove_file(bench.path("out/b")).expect("an output");
        } else {
            fails(&bench, &options, &["`b`", &host, "attic"]);
        }
    }
    there.server.is_clean();
    assert_eq!(there.server.stop(), Some(0));
    // One who trusts the server, and is of others; and one who does not trust it.
    let there = Watched::start(&texts(&named));
    let bench = there_and_back(&there);
    let host = there.control.address.to_string();
    let stranger = other.options(&known);
    let mut mixed = texts(&stranger);
    mixed[1] = &named[1];
    mixed.extend(["--tls-name", "attic"]);
    fails(&bench, &mixed, &["`b`", &host]);
    there.server.hears("invalid peer certificate");
    let mut wrong = texts(&stranger);
    wrong.extend(["--tls-name", "attic"]);
    fails(&bench, &wrong, &["`b`", &host, "by TLS"]);
    there.server.is_clean();
    assert_eq!(there.server.stop(), Some(0));
}

/// Mode bits of the key and of the secret, and whether others may read either.
#[test]
fn a_key_or_a_secret_that_everybody_may_read_is_told_of() {
    let authority = Authority::new();
    let options = authority.options("127.0.0.1");
    let key = Path::new(&options[5]);
    let secret = authority.directory.path().join("secret");
    std::fs::write(&secret, SECRET).expect("writable");
    // What counts is the file, not what leads to it.
    let link = authority.directory.path().join("link");
    std::os::unix::fs::symlink(&secret, &link).expect("writable");
    let link = link.display().to_string();
    let mut options = texts(&options);
    options.extend(["--secret-file", &link]);
    let bench = bench(&[("a", echo(), None)]);
    for (of_key, of_secret, exposed) in [
        (0o600, 0o640, &[][..]),
        (0o644, 0o600, &[options[5]][..]),
        (0o640, 0o604, &[link.as_str()]),
        (0o664, 0o444, &[link.as_str(), options[5]]),
    ] {
        for (file, mode) in [(key, of_key), (&secret, of_secret)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(file, mode).expect("its owner's");
        }
        let program = || Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        let mut check = program();
        check
            .arg("check")
            .arg(bench.path("flow.toml"))
            .args(&options);
        let mut run = bench.command("user");
        run.args(&options);
        for mut command in [check, run] {
            let output = command.output().expect("it starts");
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{talk}");
            let warnings: Vec<_> = talk.lines().filter(|line| line.contains("chmod")).collect();
            assert_eq!(warnings.len(), exposed.len(), "{talk}");
            for (warning, file) in warnings.iter().zip(exposed) {
                assert!(warning.ends_with(&format!("chmod 600 {file}")), "{warning}");
                assert!(warning.contains("every user of this host"), "{warning}");
            }
        }
        let server = Server::start(&options);
        for file in exposed {
            server.hears(&format!("chmod 600 {file}"));
        }
        assert_eq!(server.stop(), Some(0));
    }
}

/// The run knows its host by a name, and functions reach each other by address.
#[test]
fn a_certificate_that_is_for_a_name_only_is_not_enough_between_functions() {
    let authority = Authority::new();
    let options = authority.options("localhost");
    let mut options = texts(&options);
    let server = Server::start(&options);
    let (_, port) = server.address.rsplit_once(':').expect("an address");
    let host = format!("localhost:{port}");
    let bench = bench(&[("a", echo(), None), ("b", echo(), Some(&host))]);
    let words = ["function `a`", "connecting to `b`", "--tls-name"];
    fails(&bench, &options, &words);
    options.extend(["--tls-name", "localhost"]);
    let output = run(&bench, &options);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_cannot_be_encrypted_is_said_before_anything_runs() {
    let authority = Authority::new();
    let options = authority.options("127.0.0.1");
    let bench = bench(&[("a", echo(), Some("127.0.0.1:9"))]);
    let words = ["cannot be spliced", "leave out"];
    let mut spliced = texts(&options);
    spliced.extend(["--network-method", "splice"]);
    fails(&bench, &spliced, &words);
    // A part of the options is none of them.
    for missing in [0, 2, 4] {
        let mut some = texts(&options);
        let name = some[missing];
        some.drain(missing..missing + 2);
        fails(&bench, &some, &[name]);
    }
    for wrong in [1, 3, 5] {
        let mut some = texts(&options);
        some[wrong] = "/nonexistent/file.pem";
        fails(&bench, &some, &["/nonexistent/file.pem"]);
        let input = bench.path("input").display().to_string();
        some[wrong] = &input;
        fails(&bench, &some, &[&input]);
        // Whether the hosts are asked or not.
        let mut check = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        check.arg("check").arg(bench.path("flow.toml")).args(&some);
        let output = check.output().expect("it starts");
        bench.failed("check", &output, &[&input]);
    }
    let other = authority.options("attic");
    let mut crossed = texts(&options);
    crossed[5] = &other[5];
    fails(&bench, &crossed, &[&other[5]]);
}

/// The lines of the README that make certificates, for this host.
#[test]
fn certificates_are_made_in_three_lines() {
    let test = "certificates_are_made_in_three_lines";
    let readme = include_str!("../../README.md");
    let lines: Vec<_> = readme
        .split("```")
        .find(|block| block.contains("openssl req"))
        .expect("they are there")
        .lines()
        .skip(1)
        .collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let script = lines.join("\n").replace("10.0.0.2", "127.0.0.1");
    let directory = tempfile::tempdir().expect("a directory");
    let made = Command::new("sh")
        .args(["-e", "-c", &script])
        .current_dir(directory.path())
        .output()
        .expect("there is a shell");
    if made.status.code() == Some(127) {
        return skipped(test, "there is no program openssl");
    }
    let talk = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{script}: {talk}");
    let options = tls(directory.path(), "attic");
    let server = Server::start(&texts(&options));
    let there = bench(&[
        ("a", echo(), None),
        ("b", echo(), Some(&server.address)),
        ("c", echo(), None),
    ]);
    fails(&there, &[], &["`b`", "give --tls-authority"]);
    let output = run(&there, &texts(&options));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    server.is_clean();
    assert_eq!(server.stop(), Some(0));
    let plain = Server::start(&[]);
    let there = bench(&[("a", echo(), Some(&plain.address))]);
    goes_well(&there);
    assert_eq!(plain.stop(), Some(0));
}
