//! Modules: compiled, parsed, validated, and what they import and export.

use super::fault;
use super::runtime::{
    check, exhausted, quiet, text, AstModule, Compiler, Configuration, Effort, Loader, Refusal,
    Run, Validator,
};
use super::watchdog::CodeRange;
use crate::maps;
use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use wasmedge_sys::ffi;

/// Pages of 64 KiB that a 32-bit memory has at most.
pub(crate) const ALL_PAGES: u32 = 1 << 16;

/// A type of WebAssembly's, as far as the two ABIs need to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    I32,
    I64,
    Other,
}

/// The type of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) params: Vec<ValueType>,
    pub(crate) results: Vec<ValueType>,
}

/// What an import or an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum External {
    Function(Signature),
    /// A memory with this many pages to begin with.
    Memory {
        min: u64,
    },
    Other,
}

/// A name under which a module asks for something.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) module: String,
    pub(crate) name: String,
    pub(crate) external: External,
}

/// A name under which a module offers something.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) external: External,
}

/// A module that was parsed and found valid.
#[derive(Debug)]
pub(crate) struct Ast {
    /// There until it is dropped.
    module: Option<AstModule>,
    code: Vec<CodeRange>,
}

/// Held while compiled code is loaded or unloaded, so that it is known which code is whose.
static LOADING: Mutex<()> = Mutex::new(());

impl Drop for Ast {
    fn drop(&mut self) {
        let _alone =
            (!self.code.is_empty()).then(|| LOADING.lock().unwrap_or_else(PoisonError::into_inner));
        self.module = None;
    }
}

/// Compiles `wasm` and writes the result, a module with native code in a section of its own, to `out`.
pub(crate) fn compile(wasm: &[u8], out: &Path, effort: Effort) -> Result<(), Refusal> {
    quiet();
    let mut configuration = Configuration::new(Run::Compiled, ALL_PAGES)?;
    configuration.compile_with(effort);
    // SAFETY: the configuration is alive during the call, and copied; the result is nobody else's.
    let compiler = unsafe { Compiler::take(ffi::WasmEdge_CompilerCreate(configuration.as_ptr()))? };
    let path =
        CString::new(out.as_os_str().as_bytes()).map_err(|_| exhausted("a file with NUL"))?;
    let bytes = wrap_bytes(wasm)?;
    // SAFETY: compiler, bytes and path are alive during the call, which keeps none of them.
    let result =
        unsafe { ffi::WasmEdge_CompilerCompileFromBytes(compiler.as_ptr(), bytes, path.as_ptr()) };
    fault::reinstall();
    check(result)
}

/// Whether the native code in `compiled`, which must come from [`compile`], can be loaded.
pub(crate) fn loads(compiled: &[u8]) -> Result<bool, Refusal> {
    let configuration = Configuration::new(Run::Compiled, ALL_PAGES)?;
    let ast = Ast::parse(compiled, &configuration, Run::Compiled)?;
    Ok(!ast.code().is_empty())
}

fn wrap_bytes(bytes: &[u8]) -> Result<ffi::WasmEdge_Bytes, Refusal> {
    Ok(ffi::WasmEdge_Bytes {
        Length: u32::try_from(bytes.len()).map_err(|_| exhausted("a module of 4 GiB"))?,
        Buf: bytes.as_ptr(),
    })
}

impl Ast {
    /// Parses and validates. With [`Run::Compiled`] native code in it is loaded: `wasm` must come from [`compile`].
    pub(crate) fn parse(
        wasm: &[u8],
        configuration: &Configuration,
        run: Run,
    ) -> Result<Self, Refusal> {
        quiet();
        let ast = match run {
            Run::Interpreted => Self {
                module: Some(parse(wasm, configuration)?),
                code: Vec::new(),
            },
            Run::Compiled => {
                // What becomes executable between two looks at the map is the module's code: whatever else WasmEdge
                // loads and unloads here waits for the lock.
                let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
                let before = maps::anonymous_code();
                let module = parse(wasm, configuration)?;
                let ranges = maps::difference(&maps::anonymous_code(), &before);
                Self {
                    module: Some(module),
                    code: ranges.into_iter().map(CodeRange::new).collect(),
                }
            }
        };
        // SAFETY: the configuration is alive during the call, and copied; the result is nobody else's.
        let validator =
            unsafe { Validator::take(ffi::WasmEdge_ValidatorCreate(configuration.as_ptr()))? };
        // SAFETY: both are alive.
        check(unsafe { ffi::WasmEdge_ValidatorValidate(validator.as_ptr(), ast.as_ptr()) })?;
        Ok(ast)
    }

    /// Where its native code is; empty if it has none.
    pub(crate) fn code(&self) -> &[CodeRange] {
        &self.code
    }

    /// Alive while `self` is.
    pub(super) fn as_ptr(&self) -> *mut ffi::WasmEdge_ASTModuleContext {
        self.module
            .as_ref()
            .map_or(std::ptr::null_mut(), AstModule::as_ptr)
    }

    /// What it asks for.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let ast = self.as_ptr();
        // SAFETY: `ast` is alive.
        let count = unsafe { ffi::WasmEdge_ASTModuleListImportsLength(ast) };
        let mut list = vec![std::ptr::null(); count as usize];
        // SAFETY: `list` has room for `count` pointers, which are written.
        unsafe { ffi::WasmEdge_ASTModuleListImports(ast, list.as_mut_ptr(), count) };
        list.into_iter()
            .filter(|import| !import.is_null())
            .map(|import| {
                // SAFETY: `import` and the strings and types below are parts of `ast`, which is alive.
                unsafe {
                    let kind = ffi::WasmEdge_ImportTypeGetExternalType(import);
                    let external = if kind == ffi::WasmEdge_ExternalType_Function {
                        function(ffi::WasmEdge_ImportTypeGetFunctionType(ast, import))
                    } else {
                        External::Other
                    };
                    Import {
                        module: text(&ffi::WasmEdge_ImportTypeGetModuleName(import)).into_owned(),
                        name: text(&ffi::WasmEdge_ImportTypeGetExternalName(import)).into_owned(),
                        external,
                    }
                }
            })
            .collect()
    }

    /// What it offers.
    pub(crate) fn exports(&self) -> Vec<Export> {
        let ast = self.as_ptr();
        // SAFETY: `ast` is alive.
        let count = unsafe { ffi::WasmEdge_ASTModuleListExportsLength(ast) };
        let mut list = vec![std::ptr::null(); count as usize];
        // SAFETY: `list` has room for `count` pointers, which are written.
        unsafe { ffi::WasmEdge_ASTModuleListExports(ast, list.as_mut_ptr(), count) };
        list.into_iter()
            .filter(|export| !export.is_null())
            .map(|export| {
                // SAFETY: `export` and the strings and types below are parts of `ast`, which is alive.
                unsafe {
                    let kind = ffi::WasmEdge_ExportTypeGetExternalType(export);
                    let external = if kind == ffi::WasmEdge_ExternalType_Function {
                        function(ffi::WasmEdge_ExportTypeGetFunctionType(ast, export))
                    } else if kind == ffi::WasmEdge_ExternalType_Memory {
                        memory(ffi::WasmEdge_ExportTypeGetMemoryType(ast, export))
                    } else {
                        External::Other
                    };
                    Export {
                        name: text(&ffi::WasmEdge_ExportTypeGetExternalName(export)).into_owned(),
                        external,
                    }
                }
            })
            .collect()
    }
}

fn parse(wasm: &[u8], configuration: &Configuration) -> Result<AstModule, Refusal> {
    // SAFETY: the configuration is alive during the call, and copied; the result is nobody else's.
    let loader = unsafe { Loader::take(ffi::WasmEdge_LoaderCreate(configuration.as_ptr()))? };
    let mut module = std::ptr::null_mut();
    let bytes = wrap_bytes(wasm)?;
    // SAFETY: loader and bytes are alive during the call, which copies what it keeps; `module` is written on success.
    check(unsafe { ffi::WasmEdge_LoaderParseFromBytes(loader.as_ptr(), &mut module, bytes) })?;
    // SAFETY: freshly parsed, nobody else's.
    unsafe { AstModule::take(module) }
}

/// # Safety
/// `ty` is null or alive.
unsafe fn function(ty: *const ffi::WasmEdge_FunctionTypeContext) -> External {
    if ty.is_null() {
        return External::Other;
    }
    // SAFETY: `ty` is alive, and each list has room for as many types as are written.
    unsafe {
        let mut params = empty_types(ffi::WasmEdge_FunctionTypeGetParametersLength(ty));
        ffi::WasmEdge_FunctionTypeGetParameters(ty, params.as_mut_ptr(), params.len() as u32);
        let mut results = empty_types(ffi::WasmEdge_FunctionTypeGetReturnsLength(ty));
        ffi::WasmEdge_FunctionTypeGetReturns(ty, results.as_mut_ptr(), results.len() as u32);
        External::Function(Signature {
            params: params.into_iter().map(value_type).collect(),
            results: results.into_iter().map(value_type).collect(),
        })
    }
}

fn empty_types(count: u32) -> Vec<ffi::WasmEdge_ValType> {
    vec![ffi::WasmEdge_ValType { Data: [0; 8] }; count as usize]
}

fn value_type(ty: ffi::WasmEdge_ValType) -> ValueType {
    // SAFETY: plain functions of a value.
    unsafe {
        if ffi::WasmEdge_ValTypeIsI32(ty) {
            ValueType::I32
        } else if ffi::WasmEdge_ValTypeIsI64(ty) {
            ValueType::I64
        } else {
            ValueType::Other
        }
    }
}

/// # Safety
/// `ty` is null or alive.
unsafe fn memory(ty: *const ffi::WasmEdge_MemoryTypeContext) -> External {
    if ty.is_null() {
        return External::Other;
    }
    // SAFETY: `ty` is alive, and the limit is a part of it.
    let min = unsafe { ffi::WasmEdge_LimitGetMin(ffi::WasmEdge_MemoryTypeGetLimit(ty)) };
    External::Memory { min }
}

impl Signature {
    pub(crate) fn new(params: &[ValueType], results: &[ValueType]) -> Self {
        Self {
            params: params.to_vec(),
            results: results.to_vec(),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |types: &[ValueType]| {
            let names: Vec<_> = types.iter().map(|ty| ty.name()).collect();
            names.join(", ")
        };
        write!(f, "({}) -> ({})", list(&self.params), list(&self.results))
    }
}

impl ValueType {
    fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::Other => "another type",
        }
    }
}
