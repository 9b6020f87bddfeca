//! Every input of the corpus, those that once broke a rule included, in an ordinary test.

use roadrunner_fuzz::Target;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn every_input_of_the_corpus_keeps_the_rules() {
    let mut failed = Vec::new();
    for target in Target::ALL {
        let mut count = 0;
        let inputs = fs::read_dir(corpus().join(target.name)).expect("each target has seeds");
        for input in inputs {
            let path = input.expect("readable").path();
            let bytes = fs::read(&path).expect("readable");
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err() {
                failed.push(path);
            }
            count += 1;
        }
        assert!(count > 0, "{} has no seeds", target.name);
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// The command knows targets by their directories.
#[test]
fn every_directory_is_a_targets() {
    let directories: BTreeSet<_> = fs::read_dir(corpus())
        .expect("there is one")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    let targets: BTreeSet<_> = Target::ALL
        .iter()
        .map(|target| target.name.into())
        .collect();
    assert_eq!(directories, targets);
}

/// As a fuzzer begins: numbers that do not look it.
#[test]
fn inputs_without_a_plan_keep_the_rules() {
    let mut state = 1_u64;
    for target in Target::ALL {
        let rounds = match target.name {
            // With a socket beneath it, and with signatures as well.
            "challenge" => 500,
            "tls" => 100,
            _ => 2000,
        };
        for _ in 0..rounds {
            let mut next = || {
                // xorshift64: Marsaglia, Xorshift RNGs, 2003.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            };
            let len = usize::from(next()) * 4;
            let bytes: Vec<u8> = (0..len).map(|_| next()).collect();
            (target.run)(&bytes);
        }
    }
}
