//! Modules: what is refused, and what the cache does.

use crate::support::*;
use roadrunner_wasmedge::function::{Function, FunctionOptions};
use roadrunner_wasmedge::module::{Module, ModuleError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn load(text: &str) -> Result<Module, ModuleError> {
    Module::from_bytes("some/module.wat", text.as_bytes(), Some(cache()))
}

fn refused(text: &str) -> String {
    let message = load(text).expect_err("not a function").to_string();
    assert!(message.contains("some/module.wat"), "{message}");
    message
}

const MEMORY: &str = r#"(memory (export "memory") 1)"#;
const ALLOCATE: &str =
    r#"(func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 8))"#;
const FREE: &str = r#"(func (export "roadrunner_free") (param i32))"#;
const HANDLE: &str =
    r#"(func (export "roadrunner_handle") (param i32 i32) (result i64) (i64.const 0))"#;

#[test]
fn a_missing_export_is_named() {
    for (left_out, export) in [
        (MEMORY, "memory"),
        (ALLOCATE, "roadrunner_allocate"),
        (FREE, "roadrunner_free"),
        (HANDLE, "roadrunner_handle"),
    ] {
        let parts =
            [MEMORY, ALLOCATE, FREE, HANDLE].map(|part| if part == left_out { "" } else { part });
        let message = refused(&format!("(module {})", parts.join(" ")));
        assert!(message.contains(&format!("`{export}`")), "{message}");
    }
}

#[test]
fn an_export_of_another_type_is_named_with_both_types() {
    for (old, new, export) in [
        (MEMORY, r#"(func (export "memory"))"#, "memory"),
        (
            ALLOCATE,
            r#"(func (export "roadrunner_allocate") (param i32) (result i32) (i32.const 8))"#,
            "roadrunner_allocate",
        ),
        (
            FREE,
            r#"(func (export "roadrunner_free") (param i64))"#,
            "roadrunner_free",
        ),
        (
            HANDLE,
            r#"(func (export "roadrunner_handle") (param i32 i32) (result i32) (i32.const 0))"#,
            "roadrunner_handle",
        ),
    ] {
        let parts =
            [MEMORY, ALLOCATE, FREE, HANDLE].map(|part| if part == old { new } else { part });
        let message = refused(&format!("(module {})", parts.join(" ")));
        assert!(
            message.contains(export) && message.contains("should be"),
            "{message}"
        );
    }
    let initialize = r#"(func (export "_initialize") (param i32))"#;
    let message = refused(&format!(
        "(module {MEMORY} {ALLOCATE} {FREE} {HANDLE} {initialize})"
    ));
    assert!(
        message.contains("_initialize") && message.contains("(i32) -> ()"),
        "{message}"
    );
}

#[test]
fn unknown_imports_are_all_named() {
    let message = refused(&format!(
        r#"(module
            (import "env" "abort" (func))
            (import "roadrunner" "teleport" (func))
            (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
            (import "env" "memory" (memory 1))
            {ALLOCATE} {FREE} {HANDLE} (export "memory" (memory 0)))"#
    ));
    for name in [
        "env.abort",
        "roadrunner.teleport",
        "sock_open",
        "env.memory",
    ] {
        assert!(message.contains(name), "{name}: {message}");
    }
}

#[test]
fn an_import_of_another_type_is_named_with_both_types() {
    let message = refused(&format!(
        r#"(module (import "roadrunner" "log" (func (param i32))) {MEMORY} {ALLOCATE} {FREE} {HANDLE})"#
    ));
    for part in ["roadrunner.log", "(i32) -> ()", "(i32, i32, i32) -> (i32)"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_import_may_be_there_twice() {
    let log = r#"(import "roadrunner" "log" (func (param i32 i32 i32) (result i32)))"#;
    let module = load(&format!(
        "(module {log} {log} {MEMORY} {ALLOCATE} {FREE} {HANDLE})"
    ))
    .expect("good");
    Function::new(&module, FunctionOptions::new("test")).expect("a function");
}

#[test]
fn what_is_not_wasm_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("picture.wasm");
    for bytes in [&b""[..], b"\x89PNG\r\n", b"\0as", b"\x7fELF\x02\x01\x01"] {
        fs::write(&path, bytes).expect("written");
        match Module::load(&path, Some(cache())) {
            Err(ModuleError::NotWasm { module }) => assert_eq!(Path::new(&module), path),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    // The right beginning, and then nothing that follows from it.
    for bytes in [
        &b"\0asm"[..],
        b"\0asm\x01\0\0\0\x01\xff",
        b"\0asm\x0d\0\x01\0",
        b"\0asm\x09\0\0\0",
    ] {
        fs::write(&path, bytes).expect("written");
        match Module::load(&path, Some(cache())) {
            Err(ModuleError::Invalid { module, .. }) => assert_eq!(Path::new(&module), path),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
}

#[test]
fn a_module_that_does_not_validate_is_refused_with_the_reason() {
    // Binary of a function that promises an i64 and leaves nothing.
    let wasm = b"\0asm\x01\0\0\0\x01\x05\x01\x60\0\x01\x7e\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b";
    match Module::from_bytes("bad", wasm, Some(cache())) {
        Err(ModuleError::Invalid { reason, .. }) => {
            assert!(reason.contains("type mismatch"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    // Wider than what this host runs: 64-bit addresses, shared memory.
    for memory in [
        r#"(memory (export "memory") i64 1)"#,
        r#"(memory (export "memory") 1 2 shared)"#,
    ] {
        let message = refused(&format!("(module {memory} {ALLOCATE} {FREE} {HANDLE})"));
        assert!(message.contains("not a valid"), "{message}");
    }
}

#[test]
fn a_text_with_an_error_says_where() {
    let message = refused("(module\n  (func (nonsense)))");
    assert!(
        message.contains("nonsense") && message.contains('2'),
        "{message}"
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    for path in [
        directory.path().join("none.wasm"),
        directory.path().to_owned(),
        PathBuf::from("/dev/zero"),
    ] {
        match Module::load(&path, Some(cache())) {
            Err(ModuleError::Read { module, .. }) => assert_eq!(Path::new(&module), path),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
}

#[test]
fn a_text_file_is_read_by_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("echo.wat");
    fs::write(&path, handler(ECHO)).expect("written");
    let module = Module::load(&path, Some(cache())).expect("a module");
    assert_eq!(Path::new(module.name()), path);
    let mut echo = Function::new(&module, FunctionOptions::new("echo")).expect("a function");
    assert_eq!(
        call(&mut echo, b"x").expect("a reply").as_deref(),
        Some(&b"x"[..])
    );
}

/// The entries of a cache, without the guard's, which is the one that was there first.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    entries
}

/// A cache that holds one entry, and its text.
fn filled() -> (tempfile::TempDir, String, PathBuf) {
    let text = handler(ECHO);
    // The guard of this process is started by the first module, into that module's cache.
    load(&text).expect("a module");
    let directory = tempfile::tempdir().expect("a directory");
    Module::from_bytes("echo", text.as_bytes(), Some(directory.path())).expect("a module");
    let entries = entries(directory.path());
    assert_eq!(entries.len(), 1, "one entry and nothing else: {entries:?}");
    (directory, text, entries[0].clone())
}

fn echoes(text: &str, cache: &Path) {
    let module = Module::from_bytes("echo", text.as_bytes(), Some(cache)).expect("a module");
    let mut echo = Function::new(&module, FunctionOptions::new("echo")).expect("a function");
    assert_eq!(
        call(&mut echo, b"x").expect("a reply").as_deref(),
        Some(&b"x"[..])
    );
}

#[test]
fn a_module_is_compiled_once() {
    use std::os::unix::fs::MetadataExt;
    let (directory, text, entry) = filled();
    let inode = fs::metadata(&entry).expect("there").ino();
    echoes(&text, directory.path());
    assert_eq!(
        fs::metadata(&entry).expect("there").ino(),
        inode,
        "not written again"
    );
    // Another module is another entry.
    let other = handler("(i64.const 0)");
    Module::from_bytes("other", other.as_bytes(), Some(directory.path())).expect("a module");
    assert_eq!(entries(directory.path()).len(), 2);
}

#[test]
fn a_damaged_entry_is_made_anew() {
    let (directory, text, entry) = filled();
    let good = fs::read(&entry).expect("an entry");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for damaged in [&flipped[..], b"", &good[..good.len() - 1], &good[..20]] {
        fs::write(&entry, damaged).expect("written");
        echoes(&text, directory.path());
        assert_eq!(fs::read(&entry).expect("an entry").len(), good.len());
    }
}

#[test]
fn an_entry_without_compiled_code_is_not_interpreted() {
    use sha2::{Digest, Sha256};
    let (directory, text, entry) = filled();
    let wasm = wat::parse_str(&text).expect("a module");
    let forged = [Sha256::digest(&wasm).to_vec(), wasm].concat();
    fs::write(&entry, forged).expect("written");
    let module =
        Module::from_bytes("echo", text.as_bytes(), Some(directory.path())).expect("a module");
    let error = Function::new(&module, FunctionOptions::new("echo")).expect_err("no code");
    assert!(error.to_string().contains("interpret"), "{error}");
}

#[test]
fn many_may_compile_into_one_cache_at_once() {
    let text = handler(ECHO);
    load(&text).expect("a module");
    let directory = tempfile::tempdir().expect("a directory");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| echoes(&text, directory.path()));
        }
    });
    assert_eq!(entries(directory.path()).len(), 1);
}

#[test]
fn compiled_code_is_not_taken_from_outside() {
    let (directory, _, entry) = filled();
    let compiled = fs::read(&entry).expect("an entry")[32..].to_vec();
    let path = directory.path().join("given.wasm");
    fs::write(&path, compiled).expect("written");
    match Module::load(&path, Some(cache())) {
        Err(ModuleError::Precompiled { module }) => assert_eq!(Path::new(&module), path),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cache_that_others_can_write_to_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("changed");
    let found = Module::from_bytes("echo", handler(ECHO).as_bytes(), Some(directory.path()));
    match found {
        Err(ModuleError::Cache {
            directory: named,
            reason,
        }) => {
            assert_eq!(named, directory.path());
            assert!(reason.contains("777"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let file = directory.path().join("file");
    fs::write(&file, b"").expect("written");
    let found = Module::from_bytes("echo", handler(ECHO).as_bytes(), Some(&file));
    assert!(matches!(found, Err(ModuleError::Cache { .. })), "{found:?}");
}
