//! Why a module cannot be used.

use crate::sys::ast::External;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a module cannot be used as a function.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields: `module` is the path or name it was loaded by, the rest is in the message
pub enum ModuleError {
    /// The file cannot be read.
    #[error("module {module}: cannot be read: {source}")]
    Read { module: String, source: io::Error },
    /// The file is longer than [`MAX_MODULE`](super::MAX_MODULE).
    #[error("module {module}: is longer than the {} MiB that a module may have", super::MAX_MODULE >> 20)]
    TooLarge { module: String },
    /// It is neither the binary format nor, by its name, the text format.
    #[error("module {module}: is not WebAssembly: it does not begin with \\0asm, and its name does not end in .wat")]
    NotWasm { module: String },
    /// It is no text that describes a module.
    #[error("module {module}: is not the text of a module: {reason}")]
    Text { module: String, reason: String },
    /// It brings native code along, which would be executed outside the sandbox.
    #[error("module {module}: contains compiled code (section \"wasmedge\"); give the module that it was compiled from")]
    Precompiled { module: String },
    /// It is not a valid module.
    #[error("module {module}: is not a valid WebAssembly 2.0 module: {reason}")]
    Invalid { module: String, reason: String },
    /// It lacks something that the function ABI asks for.
    #[error("module {module}: does not export `{export}`, which every Roadrunner function does")]
    MissingExport { module: String, export: String },
    /// It has an export of the right name that is something else.
    #[error("module {module}: its export `{export}` is {found} and should be {expected}")]
    WrongExport {
        module: String,
        export: String,
        expected: String,
        found: String,
    },
    /// It asks for what nobody here offers.
    #[error("module {module}: imports what this host does not offer: {}", imports.join(", "))]
    UnknownImports {
        module: String,
        imports: Vec<String>,
    },
    /// It has an import of the right name that is something else.
    #[error("module {module}: imports `{import}` as {found}, and it is {expected}")]
    WrongImport {
        module: String,
        import: String,
        expected: String,
        found: String,
    },
    /// WasmEdge could not compile it.
    #[error("module {module}: could not be compiled: {reason}")]
    Compile { module: String, reason: String },
    /// The cache of compiled modules cannot be used.
    #[error("cache of compiled modules {}: {reason}", directory.display())]
    Cache { directory: PathBuf, reason: String },
    /// What watches over running functions could not be started.
    #[error("could not start the thread that stops functions at their deadline: {reason}")]
    Guard { reason: String },
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(signature) => write!(f, "a function {signature}"),
            Self::Memory { .. } => f.write_str("a memory"),
            Self::Other => f.write_str("something else"),
        }
    }
}
