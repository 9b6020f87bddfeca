//! Modules: read, validated, held against the ABI, and compiled ahead of time.

pub(crate) mod cache;
mod error;
mod sections;

pub use error::ModuleError;

use crate::function::host::{self, HostFunction};
use crate::guard;
use crate::sys::ast::{Ast, External, Signature, ValueType, ALL_PAGES};
use crate::sys::instance::HostImport;
use crate::sys::runtime::{self, quiet, Configuration, Run};
use cache::Cache;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Bytes of a module at most.
pub const MAX_MODULE: u64 = 256 << 20;

const MAGIC: &[u8] = b"\0asm";

pub(crate) const ALLOCATE: &str = "roadrunner_allocate";
pub(crate) const FREE: &str = "roadrunner_free";
pub(crate) const HANDLE: &str = "roadrunner_handle";
pub(crate) const INITIALIZE: &str = "_initialize";
const MEMORY: &str = "memory";

/// A WebAssembly module that can be instantiated as a function: valid, complete, and compiled. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    compiled: Vec<u8>,
    imports: Vec<HostImport>,
    host_functions: Vec<HostFunction>,
    min_pages: u64,
}

/// The version of the WasmEdge library that is loaded, for example `0.17.1`: for logs, and for whoever reports a fault.
pub fn wasmedge_version() -> String {
    runtime::version()
}

impl Module {
    /// Reads a module from a `.wasm` file, or from a `.wat` file in the text format, and compiles it unless `cache` has
    /// it compiled already.
    ///
    /// `cache` is a directory, made if it is missing; without one it is `$XDG_CACHE_HOME/roadrunner/aot`, else
    /// `~/.cache/roadrunner/aot`, else nothing is kept. What is in it is executed: a directory that others may write
    /// to, or that belongs to another user, is refused. Entries are named after the SHA-256 of the module, WasmEdge's
    /// version, the processor's features and how they were compiled; a damaged one is made anew. Any number of processes
    /// may use one directory at the same time.
    ///
    /// # Errors
    /// [`ModuleError`], each with the path in it.
    pub fn load(path: impl AsRef<Path>, cache: Option<&Path>) -> Result<Self, ModuleError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let unreadable = |source: io::Error| ModuleError::Read {
            module: name.clone(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            )));
        }
        let mut bytes = Vec::new();
        file.take(MAX_MODULE + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        let is_text = path.extension().is_some_and(|extension| extension == "wat");
        Self::new(name, bytes, is_text, cache)
    }

    /// As [`load`](Self::load), from bytes: a binary, or a text that begins with `(` or `;`. The name is for messages.
    ///
    /// # Errors
    /// [`ModuleError`], each with the name in it.
    pub fn from_bytes(name: &str, bytes: &[u8], cache: Option<&Path>) -> Result<Self, ModuleError> {
        let is_text = matches!(bytes.trim_ascii_start().first(), Some(b'(' | b';'));
        Self::new(name.to_owned(), bytes.to_vec(), is_text, cache)
    }

    /// The path or name that it was loaded by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    fn new(
        name: String,
        mut bytes: Vec<u8>,
        is_text: bool,
        cache: Option<&Path>,
    ) -> Result<Self, ModuleError> {
        quiet();
        if bytes.len() as u64 > MAX_MODULE {
            return Err(ModuleError::TooLarge { module: name });
        }
        if is_text && !bytes.starts_with(MAGIC) {
            bytes = match wat::parse_bytes(&bytes) {
                Ok(binary) => binary.into_owned(),
                Err(error) => {
                    let reason = error.to_string();
                    return Err(ModuleError::Text {
                        module: name,
                        reason,
                    });
                }
            };
        }
        if !bytes.starts_with(MAGIC) {
            return Err(ModuleError::NotWasm { module: name });
        }
        let invalid = |reason: String| ModuleError::Invalid {
            module: name.clone(),
            reason,
        };
        // Native code is executed as it is. Only what was compiled here may reach the loader with it.
        match sections::has_custom(&bytes, cache::SECTION) {
            Err(reason) => return Err(invalid(reason.to_owned())),
            Ok(true) => return Err(ModuleError::Precompiled { module: name }),
            Ok(false) => {}
        }
        let configuration = Configuration::new(Run::Interpreted, ALL_PAGES)
            .map_err(|refusal| invalid(refusal.to_string()))?;
        let ast = Ast::parse(&bytes, &configuration, Run::Interpreted)
            .map_err(|refusal| invalid(refusal.to_string()))?;
        let min_pages = check_exports(&name, &ast)?;
        let (imports, host_functions) = check_imports(&name, &ast)?;
        drop(ast);
        let cache = Cache::open(cache)?;
        // First, so that the signal handlers which the compiler installs are there before the guard's.
        let compiled = cache.compiled(&name, &bytes)?;
        guard::start(&cache)?;
        Ok(Self {
            inner: Arc::new(Inner {
                name,
                compiled,
                imports,
                host_functions,
                min_pages,
            }),
        })
    }

    pub(crate) fn compiled(&self) -> &[u8] {
        &self.inner.compiled
    }

    /// Whether it may send to a successor of its choice.
    #[cfg(feature = "cli")]
    pub(crate) fn sends(&self) -> bool {
        self.inner.host_functions.contains(&HostFunction::Send)
    }

    /// What it imports, and what each import is; in the same order.
    pub(crate) fn imports(&self) -> (&[HostImport], &[HostFunction]) {
        (&self.inner.imports, &self.inner.host_functions)
    }

    /// Pages of 64 KiB that its memory begins with.
    pub(crate) fn min_pages(&self) -> u64 {
        self.inner.min_pages
    }
}

/// Holds the exports against the ABI, and gives the pages that the memory begins with.
fn check_exports(module: &str, ast: &Ast) -> Result<u64, ModuleError> {
    use ValueType::{I32, I64};
    let exports = ast.exports();
    let find = |name: &str| {
        exports
            .iter()
            .find(|export| export.name == name)
            .map(|export| &export.external)
    };
    let wrong = |export: &str, expected: &dyn std::fmt::Display, found: &External| {
        ModuleError::WrongExport {
            module: module.to_owned(),
            export: export.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    };
    let missing = |export: &str| ModuleError::MissingExport {
        module: module.to_owned(),
        export: export.to_owned(),
    };
    let min_pages = match find(MEMORY).ok_or_else(|| missing(MEMORY))? {
        External::Memory { min } => *min,
        other => return Err(wrong(MEMORY, &"a memory", other)),
    };
    for (name, params, results, needed) in [
        (ALLOCATE, &[I32, I32][..], &[I32][..], true),
        (FREE, &[I32], &[], true),
        (HANDLE, &[I32, I32], &[I64], true),
        (INITIALIZE, &[], &[], false),
    ] {
        let expected = External::Function(Signature::new(params, results));
        match find(name) {
            None if needed => return Err(missing(name)),
            Some(found) if *found != expected => return Err(wrong(name, &expected, found)),
            _ => {}
        }
    }
    Ok(min_pages)
}

/// Finds the host function behind each import.
fn check_imports(
    module: &str,
    ast: &Ast,
) -> Result<(Vec<HostImport>, Vec<HostFunction>), ModuleError> {
    let mut imports = Vec::new();
    let mut functions = Vec::new();
    let mut unknown = Vec::new();
    for import in ast.imports() {
        let Some(known) = host::find(&import.module, &import.name) else {
            unknown.push(format!("{}.{}", import.module, import.name));
            continue;
        };
        let expected = External::Function(known.import.signature.clone());
        if import.external != expected {
            return Err(ModuleError::WrongImport {
                module: module.to_owned(),
                import: format!("{}.{}", import.module, import.name),
                expected: expected.to_string(),
                found: import.external.to_string(),
            });
        }
        // The same import may be there twice.
        if !functions.contains(&known.function) {
            imports.push(known.import);
            functions.push(known.function);
        }
    }
    if unknown.is_empty() {
        Ok((imports, functions))
    } else {
        Err(ModuleError::UnknownImports {
            module: module.to_owned(),
            imports: unknown,
        })
    }
}
