//! Links the program as `roadrunner-wasmedge`, whose build script finds WasmEdge, says.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let arguments = std::env::var("DEP_ROADRUNNER_WASMEDGE_LINK_ARGS").unwrap_or_default();
    for argument in arguments.split_terminator('\t') {
        println!("cargo:rustc-link-arg={argument}");
    }
}
