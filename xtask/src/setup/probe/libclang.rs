//! Loads the libclang named by the first argument, parses the C header named by the second one with the third one as
//! clang's argument, and prints the version; fails where the header has an error, as where one it includes is not found.
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::os::unix::ffi::OsStringExt;

#[repr(C)]
struct ClangString {
    data: *const c_void,
    flags: c_uint,
}

extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

const RTLD_NOW: c_int = 2;

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(|word| CString::new(word.into_vec()).expect("no NUL in a path"));
    let library_path = arguments.next().expect("a library");
    let header = arguments.next().expect("a header");
    let option = arguments.next().expect("an argument for clang");
    let options = [option.as_ptr()];
    // SAFETY: every name below is declared as in clang-c/Index.h, every pointer passed is valid for the call, and the
    // library stays loaded until the program ends.
    unsafe {
        let library = dlopen(library_path.as_ptr(), RTLD_NOW);
        if library.is_null() {
            eprintln!("{}", CStr::from_ptr(dlerror()).to_string_lossy());
            std::process::exit(1);
        }
        macro_rules! function {
            ($name:literal as $type:ty) => {{
                let symbol = dlsym(library, $name.as_ptr());
                assert!(!symbol.is_null(), "libclang lacks {:?}", $name);
                std::mem::transmute::<*mut c_void, $type>(symbol)
            }};
        }
        let version = function!(c"clang_getClangVersion" as extern "C" fn() -> ClangString);
        let characters = function!(c"clang_getCString" as extern "C" fn(ClangString) -> *const c_char);
        let index = function!(c"clang_createIndex" as extern "C" fn(c_int, c_int) -> *mut c_void);
        type Parse = extern "C" fn(
            *mut c_void,
            *const c_char,
            *const *const c_char,
            c_int,
            *mut c_void,
            c_uint,
            c_uint,
        ) -> *mut c_void;
        let parse = function!(c"clang_parseTranslationUnit" as Parse);
        let problems = function!(c"clang_getNumDiagnostics" as extern "C" fn(*mut c_void) -> c_uint);
        // The second argument asks for the diagnostics on stderr.
        let unit = parse(index(0, 1), header.as_ptr(), options.as_ptr(), 1, std::ptr::null_mut(), 0, 0);
        if unit.is_null() || problems(unit) > 0 {
            eprintln!("it cannot parse a C header");
            std::process::exit(1);
        }
        println!("{}", CStr::from_ptr(characters(version())).to_string_lossy());
    }
}
