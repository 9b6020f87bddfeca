//! Compiled modules, kept in a directory by what they were compiled from.

use super::error::ModuleError;
use crate::scratch::Scratch;
use crate::sys::ast;
use crate::sys::runtime::{version, Effort};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The custom section that WasmEdge keeps native code in.
pub(super) const SECTION: &str = "wasmedge";

/// Changes when an entry's format, or how it is compiled, does.
const FORMAT: &str = "2: universal, O3 or else O0, WebAssembly 2.0";

/// What the name of a directory to compile in begins with.
const WORK: &str = ".compiling-";

/// An entry is the SHA-256 of the compiled module, and the compiled module.
const DIGEST: usize = 32;

/// Where compiled modules are kept, if anywhere.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: Option<PathBuf>,
}

impl Cache {
    /// Opens `directory`, which is made if it is missing, or the default one.
    pub(super) fn open(directory: Option<&Path>) -> Result<Self, ModuleError> {
        let directory = match directory {
            Some(directory) => Some(directory.to_owned()),
            None => default_directory(),
        };
        if let Some(directory) = &directory {
            prepare(directory).map_err(|reason| ModuleError::Cache {
                directory: directory.clone(),
                reason,
            })?;
        }
        Ok(Self { directory })
    }

    /// The compiled form of `wasm`, from the cache or made now. `module` is for messages.
    pub(crate) fn compiled(&self, module: &str, wasm: &[u8]) -> Result<Vec<u8>, ModuleError> {
        let Some(directory) = &self.directory else {
            return compile(module, wasm, &scratch(module, &std::env::temp_dir())?);
        };
        let entry = directory.join(key(wasm));
        if let Some(compiled) = fs::read(&entry).ok().and_then(intact) {
            return Ok(compiled);
        }
        let work = scratch(module, directory)?;
        let compiled = compile(module, wasm, &work)?;
        // Whole or not at all, whoever else does the same at the same time: written under another name, then renamed.
        store(&work, &entry, &compiled).map_err(|error| ModuleError::Cache {
            directory: directory.clone(),
            reason: format!("cannot write an entry: {error}"),
        })?;
        Ok(compiled)
    }
}

fn default_directory() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("roadrunner/aot"))
}

/// Makes the directory if it is missing, and refuses one in which others could put code for us to run.
fn prepare(directory: &Path) -> Result<(), String> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| format!("cannot be made: {error}"))?;
    let metadata = fs::metadata(directory).map_err(|error| format!("cannot be read: {error}"))?;
    let user = nix::unistd::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(format!(
            "belongs to user {} and this is user {user}; code in it would be run",
            metadata.uid()
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(format!(
            "others may write to it (mode {:o}), and code in it is run; chmod go-w",
            metadata.mode() & 0o7777
        ));
    }
    Ok(())
}

/// The name of an entry: what it was made from, by what, for which processor.
fn key(wasm: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [
        FORMAT.as_bytes(),
        version().as_bytes(),
        processor().as_bytes(),
        wasm,
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let name: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    name + ".aot"
}

/// What the compiler makes use of: a home directory may be shared between machines.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("model name") || line.starts_with("flags"))
        .collect()
}

/// What was stored in an entry, if it is still that.
fn intact(mut entry: Vec<u8>) -> Option<Vec<u8>> {
    let compiled = entry.get(DIGEST..)?;
    if Sha256::digest(compiled).as_slice() != &entry[..DIGEST] {
        return None;
    }
    entry.drain(..DIGEST);
    Some(entry)
}

fn store(work: &Scratch, entry: &Path, compiled: &[u8]) -> io::Result<()> {
    let path = work.path().join("entry");
    let mut file = File::create_new(&path)?;
    file.write_all(&Sha256::digest(compiled))?;
    file.write_all(compiled)?;
    fs::rename(&path, entry)
}

/// A directory to compile in, below `directory`.
fn scratch(module: &str, directory: &Path) -> Result<Scratch, ModuleError> {
    Scratch::make(directory, WORK).map_err(|error| ModuleError::Compile {
        module: module.to_owned(),
        reason: format!("no room to work in {}: {error}", directory.display()),
    })
}

/// Compiles in a directory of its own, as WasmEdge leaves files beside its output when it fails.
fn compile(module: &str, wasm: &[u8], work: &Scratch) -> Result<Vec<u8>, ModuleError> {
    let failed = |reason: String| ModuleError::Compile {
        module: module.to_owned(),
        reason,
    };
    let out = work.path().join("module.wasm");
    // WasmEdge 0.17.1 makes code that it cannot load where optimising leaves a call to the C library, as to `fmax`.
    for effort in [Effort::Optimized, Effort::Plain] {
        ast::compile(wasm, &out, effort).map_err(|refusal| failed(refusal.to_string()))?;
        let compiled =
            fs::read(&out).map_err(|error| failed(format!("WasmEdge left no result: {error}")))?;
        if ast::loads(&compiled).map_err(|refusal| failed(refusal.to_string()))? {
            return Ok(compiled);
        }
    }
    Err(failed(
        "WasmEdge cannot load the code that it made".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_of_compiling_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let left = directory.path().join(".compiling-dead");
        fs::create_dir(&left).expect("writable");
        fs::write(left.join("module.wasm"), "half").expect("writable");
        let cache = Cache::open(Some(directory.path())).expect("its own");
        let wasm = wat::parse_str("(module (func (export \"f\")))").expect("text");
        cache.compiled("small", &wasm).expect("a module");
        let names: Vec<_> = fs::read_dir(directory.path())
            .expect("there")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let entry = fs::read(directory.path().join(&names[0])).expect("there");
        assert!(intact(entry).is_some());
    }

    #[test]
    fn a_module_without_code_that_can_be_loaded_is_told_from_others() {
        let wasm = wat::parse_str("(module (func (export \"f\")))").expect("text");
        assert!(!ast::loads(&wasm).expect("a module"));
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(Some(directory.path())).expect("its own");
        let compiled = cache.compiled("small", &wasm).expect("a module");
        assert!(ast::loads(&compiled).expect("a module"));
    }

    #[test]
    fn an_entry_with_one_wrong_bit_is_not_intact() {
        let mut entry = Sha256::digest(b"code").to_vec();
        entry.extend_from_slice(b"code");
        assert_eq!(intact(entry.clone()).as_deref(), Some(&b"code"[..]));
        for at in 0..entry.len() {
            entry[at] ^= 1;
            assert_eq!(intact(entry.clone()), None, "{at}");
            entry[at] ^= 1;
        }
        assert_eq!(intact(entry[..31].to_vec()), None);
    }
}
