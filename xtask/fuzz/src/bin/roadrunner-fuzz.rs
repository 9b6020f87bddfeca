//! Runs the target that `ROADRUNNER_FUZZ_TARGET` names under libFuzzer, as `cargo xtask fuzz` builds it: with
//! `--cfg fuzzing`, which brings libFuzzer and its own `main`.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    use roadrunner_fuzz::Target;
    use std::sync::OnceLock;

    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("ROADRUNNER_FUZZ_TARGET").unwrap_or_default();
        Target::of(&name).unwrap_or_else(|| panic!("ROADRUNNER_FUZZ_TARGET={name} is no target"))
    });
    (target.run)(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this was built without a fuzzer: `cargo xtask fuzz` builds and runs it");
    std::process::exit(2);
}
