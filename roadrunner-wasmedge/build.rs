//! Tells the linker how the programs, tests and examples of this package find `libwasmedge.so` when they run.
//!
//! The build script of `wasmedge-sys` finds the library and links it, but an executable's search path can only be set by
//! the package that the executable belongs to. This script looks in the same places, in the same order.
//!
//! Packages that depend on this one find the arguments in `DEP_ROADRUNNER_WASMEDGE_LINK_ARGS` (the manifest key `links`),
//! separated by tabs, for a build script of their own:
//!
//! ```
//! for argument in std::env::var("DEP_ROADRUNNER_WASMEDGE_LINK_ARGS").unwrap_or_default().split_terminator('\t') {
//!     println!("cargo:rustc-link-arg={argument}");
//! }
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Beside the `lib` directory of a WasmEdge that needs more than a search path: linker arguments, one a line.
/// `cargo xtask setup` writes it where it had to bring newer system libraries along.
const LINK_ARGUMENTS: &str = "roadrunner-link-args";

/// Where the dynamic loader looks anyway.
const SYSTEM: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // docs.rs has no WasmEdge and links nothing.
    if env::var_os("DOCS_RS").is_some() || env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux")
    {
        return;
    }
    let places = places();
    let libraries: Vec<_> = places
        .iter()
        .map(|dir| dir.join("libwasmedge.so"))
        .collect();
    let Some(library) = libraries.iter().find(|library| library.exists()) else {
        // wasmedge-sys reports what is missing. A path that does not exist makes cargo run this script again every time,
        // and so also when set-up has brought the library.
        if let Some(library) = libraries.first() {
            println!("cargo:rerun-if-changed={}", library.display());
        }
        return;
    };
    println!("cargo:rerun-if-changed={}", library.display());
    let Some(lib) = library.parent().and_then(|lib| lib.canonicalize().ok()) else {
        return;
    };
    let arguments = link_arguments(&lib);
    for argument in &arguments {
        // Reaches programs, tests (unit tests too), examples and benches of this package, and nothing else.
        println!("cargo:rustc-link-arg={argument}");
    }
    println!("cargo:link_args={}", arguments.join("\t"));
}

/// The directories that `wasmedge-sys` searches.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    let mut add = |variable: &str, parts: &[&str]| {
        println!("cargo:rerun-if-env-changed={variable}");
        if let Some(dir) = env::var_os(variable) {
            places.extend(parts.iter().map(|part| Path::new(&dir).join(part)));
        }
    };
    add("WASMEDGE_LIB_DIR", &[""]);
    add("WASMEDGE_DIR", &["lib64", "lib"]);
    add("WASMEDGE_BUILD_DIR", &["lib64/api", "lib/api"]);
    add("HOME", &[".wasmedge/lib64", ".wasmedge/lib"]);
    places.extend(["/usr/local/lib64", "/usr/local/lib"].map(PathBuf::from));
    if let Some(home) = env::var_os("HOME") {
        places.extend([".local/lib64", ".local/lib"].map(|part| Path::new(&home).join(part)));
    }
    places
}

fn link_arguments(lib: &Path) -> Vec<String> {
    let file = lib.with_file_name(LINK_ARGUMENTS);
    if let Ok(text) = fs::read_to_string(&file) {
        println!("cargo:rerun-if-changed={}", file.display());
        return text
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
    }
    let system = SYSTEM.iter().any(|dir| lib == Path::new(dir)) || lib.starts_with("/usr/lib");
    if system {
        return Vec::new();
    }
    vec![format!("-Wl,-rpath,{}", lib.display())]
}
