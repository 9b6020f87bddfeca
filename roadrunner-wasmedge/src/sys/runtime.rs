//! What all of WasmEdge shares: version, log, results, strings, configuration.

use std::cell::RefCell;
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Once;
use wasmedge_sys::ffi;

/// Bytes of WasmEdge's talk that are kept for an error message.
const TALK_LIMIT: usize = 2048;

thread_local! {
    static TALK: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The version of the library that is loaded.
pub(crate) fn version() -> String {
    // SAFETY: returns a static NUL-terminated string, as the header says.
    let version = unsafe { CStr::from_ptr(ffi::WasmEdge_VersionGet()) };
    version.to_string_lossy().into_owned()
}

/// Turns WasmEdge's log from lines on stdout into text for error messages. To be called before anything that may log.
pub(crate) fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        // SAFETY: both only set the state of the logger; `hear` is a function, and lives for ever.
        unsafe {
            ffi::WasmEdge_LogSetErrorLevel();
            ffi::WasmEdge_LogSetCallback(Some(hear));
        }
    });
}

/// Called by WasmEdge's logger, on the thread that logs. Must not unwind.
unsafe extern "C" fn hear(message: *const ffi::WasmEdge_LogMessage) {
    // SAFETY: the logger passes a message that is valid during this call.
    let Some(message) = (unsafe { message.as_ref() }) else {
        return;
    };
    // SAFETY: as above, and the string is part of the message.
    let text = unsafe { text(&message.Message) };
    // A logger that is called while TALK is borrowed, or after the thread's end, is not heard: neither may panic.
    let _ = TALK.try_with(|talk| {
        if let Ok(mut talk) = talk.try_borrow_mut() {
            if talk.len() + text.len() < TALK_LIMIT {
                if !talk.is_empty() {
                    talk.push_str("; ");
                }
                talk.push_str(text.trim());
            }
        }
    });
}

/// What WasmEdge has logged on this thread since this was last called.
pub(crate) fn take_talk() -> String {
    TALK.with(RefCell::take)
}

/// The text of a string of WasmEdge's.
///
/// # Safety
/// `Buf` must point to `Length` readable bytes, or be null, for as long as `string` is borrowed.
pub(crate) unsafe fn text(string: &ffi::WasmEdge_String) -> std::borrow::Cow<'_, str> {
    if string.Buf.is_null() {
        return "".into();
    }
    // SAFETY: promised by the caller; bytes have no alignment and any value is one.
    let bytes = unsafe { std::slice::from_raw_parts(string.Buf.cast(), string.Length as usize) };
    String::from_utf8_lossy(bytes)
}

/// A string for WasmEdge that points into `text`. WasmEdge copies what it keeps.
pub(crate) fn wrap(text: &'static str) -> ffi::WasmEdge_String {
    ffi::WasmEdge_String {
        // A literal of this crate, or the name of an import that it knows: a few bytes.
        Length: text.len() as u32,
        Buf: text.as_ptr().cast(),
    }
}

/// Why WasmEdge refused: the code of the error and its words.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    /// What it logged about it.
    pub(crate) detail: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

/// Sorts a result of WasmEdge's.
pub(crate) fn check(result: ffi::WasmEdge_Result) -> Result<(), Refusal> {
    // SAFETY: plain functions of a value; the message is a static NUL-terminated string.
    let message = unsafe {
        if ffi::WasmEdge_ResultOK(result) && result.Code == 0 {
            return Ok(());
        }
        CStr::from_ptr(ffi::WasmEdge_ResultGetMessage(result))
    };
    Err(Refusal {
        message: message.to_string_lossy().into_owned(),
        detail: take_talk(),
    })
}

/// WasmEdge could not allocate something.
pub(crate) fn exhausted(what: &str) -> Refusal {
    Refusal {
        message: format!("WasmEdge could not create {what}"),
        detail: take_talk(),
    }
}

/// Owns a context of WasmEdge's and deletes it.
macro_rules! owned {
    ($(#[$meta:meta])* $name:ident, $context:ident, $delete:ident) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub(crate) struct $name(NonNull<ffi::$context>);

        impl $name {
            /// Takes over a context that a `Create` or `Parse` function has returned.
            ///
            /// # Safety
            /// `context` is null, or alive and owned by nobody else.
            pub(crate) unsafe fn take(context: *mut ffi::$context) -> Result<Self, Refusal> {
                NonNull::new(context).map(Self).ok_or_else(|| exhausted(stringify!($name)))
            }

            /// Alive while `self` is.
            pub(crate) fn as_ptr(&self) -> *mut ffi::$context {
                self.0.as_ptr()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: `take` made this the only owner, and it is deleted once, here.
                unsafe { ffi::$delete(self.0.as_ptr()) }
            }
        }
    };
}

owned!(
    Configuration,
    WasmEdge_ConfigureContext,
    WasmEdge_ConfigureDelete
);
owned!(Compiler, WasmEdge_CompilerContext, WasmEdge_CompilerDelete);
owned!(Loader, WasmEdge_LoaderContext, WasmEdge_LoaderDelete);
owned!(
    Validator,
    WasmEdge_ValidatorContext,
    WasmEdge_ValidatorDelete
);
owned!(
    AstModule,
    WasmEdge_ASTModuleContext,
    WasmEdge_ASTModuleDelete
);
owned!(Executor, WasmEdge_ExecutorContext, WasmEdge_ExecutorDelete);
owned!(Store, WasmEdge_StoreContext, WasmEdge_StoreDelete);
owned!(
    ModuleInstance,
    WasmEdge_ModuleInstanceContext,
    WasmEdge_ModuleInstanceDelete
);
owned!(
    FunctionType,
    WasmEdge_FunctionTypeContext,
    WasmEdge_FunctionTypeDelete
);

/// How a module is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// Code that was compiled ahead of time is ignored.
    Interpreted,
    /// Code that was compiled ahead of time is loaded.
    Compiled,
}

impl Configuration {
    /// WebAssembly 2.0 (one memory of 32-bit addresses, no threads), with a memory of at most `max_pages` pages.
    pub(crate) fn new(run: Run, max_pages: u32) -> Result<Self, Refusal> {
        // SAFETY: returns a context that nobody else owns, or null.
        let configuration = unsafe { Self::take(ffi::WasmEdge_ConfigureCreate())? };
        let context = configuration.as_ptr();
        let mode = match run {
            Run::Interpreted => ffi::WasmEdge_RunMode_Interpreter,
            Run::Compiled => ffi::WasmEdge_RunMode_AOT,
        };
        // SAFETY: the context is alive, and every value is one of the enumeration it is meant for.
        unsafe {
            ffi::WasmEdge_ConfigureSetWASMStandard(context, ffi::WasmEdge_Standard_WASM_2);
            ffi::WasmEdge_ConfigureSetRunMode(context, mode);
            ffi::WasmEdge_ConfigureSetMaxMemoryPage(context, max_pages.into());
            ffi::WasmEdge_ConfigureCompilerSetOutputFormat(
                context,
                ffi::WasmEdge_CompilerOutputFormat_Wasm,
            );
        }
        Ok(configuration)
    }

    /// How hard a compiler that is made from this tries.
    pub(crate) fn compile_with(&mut self, effort: Effort) {
        let level = match effort {
            Effort::Optimized => ffi::WasmEdge_CompilerOptimizationLevel_O3,
            Effort::Plain => ffi::WasmEdge_CompilerOptimizationLevel_O0,
        };
        // SAFETY: the context is alive, and the value is one of the enumeration it is meant for.
        unsafe { ffi::WasmEdge_ConfigureCompilerSetOptimizationLevel(self.as_ptr(), level) };
    }
}

/// How hard the compiler tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// As fast code as it can make.
    Optimized,
    /// A plain translation.
    Plain,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiled modules are kept by it.
    #[test]
    fn a_version_is_numbers() {
        let version = version();
        let numbers = version.split(['.', '-']).take(3);
        let numbers: Vec<_> = numbers.map(str::parse::<u32>).collect();
        assert!(
            numbers.len() == 3 && numbers.iter().all(Result::is_ok),
            "{version}"
        );
    }
    #[test]
    fn a_refusal_has_the_words_and_what_was_logged_about_it() {
        let check = |code| check(ffi::WasmEdge_Result { Code: code });
        check(ffi::WasmEdge_ErrCode_Success).expect("it was done");
        TALK.with(|talk| talk.borrow_mut().push_str("at byte 7"));
        let refusal = check(ffi::WasmEdge_ErrCode_RuntimeError).expect_err("refused");
        assert!(!refusal.message.is_empty());
        let words = format!("{} (at byte 7)", refusal.message);
        assert_eq!(refusal.to_string(), words);
        // That is said once. A guest that ended itself did not do what it was asked, though WasmEdge calls it well.
        let ended = check(ffi::WasmEdge_ErrCode_Terminated).expect_err("ended");
        assert_eq!(ended.to_string(), ended.message);
    }
}
