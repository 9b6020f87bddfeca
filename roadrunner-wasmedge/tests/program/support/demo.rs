//! The demo's functions and a picture for them.

use jpeg_encoder::{ColorType, Encoder};
use std::path::Path;

pub(crate) const FUNCTIONS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/functions/target/wasm32-wasip1/release"
);

/// `decode -> resize -> filter -> encode` for two widths, as a workflow, each function on the host that `place` says; `None`
/// if the functions are not built.
pub(crate) fn demo(place: impl Fn(&str) -> Option<String>) -> Option<String> {
    let modules = Path::new(FUNCTIONS);
    if !modules.join("encode.wasm").is_file() {
        return None;
    }
    let mut text = String::new();
    let mut function = |name: &str, module: &str, rest: &str| {
        let module = modules.join(module);
        text += &format!("[[function]]\nname = \"{name}\"\nmodule = {module:?}\n{rest}\n");
        if let Some(host) = place(name) {
            text += &format!("host = \"{host}\"\n");
        }
    };
    function("decode", "decode.wasm", "");
    for width in [700, 90] {
        let env = format!("env = {{ WIDTH = \"{width}\" }}");
        function(&format!("resize-{width}"), "resize.wasm", &env);
        function(&format!("filter-{width}"), "filter.wasm", "");
        let output = format!("output = \"{width}.png\"");
        function(&format!("encode-{width}"), "encode.wasm", &output);
    }
    text += "[edges]\ndecode = [\"resize-700\", \"resize-90\"]\n";
    for width in [700, 90] {
        text += &format!("resize-{width} = [\"filter-{width}\"]\n");
        text += &format!("filter-{width} = [\"encode-{width}\"]\n");
    }
    Some(text)
}

/// Large enough that its raw form is not written in one piece.
pub(crate) fn jpeg() -> Vec<u8> {
    let (width, height) = (1000_u16, 600_u16);
    let pixels: Vec<u8> = (0..usize::from(width) * usize::from(height) * 3)
        .map(|at| (at / 7 % 251) as u8 ^ (at / 3000) as u8)
        .collect();
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, 90)
        .encode(&pixels, width, height, ColorType::Rgb)
        .expect("a picture");
    bytes
}
