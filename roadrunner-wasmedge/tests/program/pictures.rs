//! The example functions at work: one picture in, two sizes out, the same bytes in every mode.

use crate::support::demo::{demo, jpeg, FUNCTIONS};
use crate::support::{skipped, Bench, MODES};

/// `decode -> resize -> filter -> encode` for two widths; `None`, in plain sight, if the functions are not built.
fn bench(test: &str) -> Option<Bench> {
    let Some(flow) = demo(|_| None) else {
        skipped(
            test,
            "the example functions are not built; cargo xtask test builds them",
        );
        return None;
    };
    let bench = Bench::new();
    bench.write("flow.toml", flow.as_bytes());
    Some(bench)
}

#[test]
fn a_picture_comes_out_the_same_in_every_mode() {
    let Some(bench) = bench("a_picture_comes_out_the_same_in_every_mode") else {
        return;
    };
    bench.write("input", &jpeg());
    let mut before: Option<Vec<Vec<u8>>> = None;
    for mode in MODES {
        for method in ["auto", "splice"] {
            let output = bench
                .command(mode)
                .args(["--network-method", method])
                .output()
                .expect("it starts");
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{mode}: {talk}");
            let table = String::from_utf8_lossy(&output.stdout).into_owned();
            let expected: &[&str] = match (mode, method) {
                // One loaned picture for both sizes; what is made of it is small enough to be copied.
                ("user", _) => &["slot", "copy"],
                ("kernel", _) => &["slot", "map"],
                ("network", "splice") => &["splice"],
                _ => &["write"],
            };
            for word in expected {
                assert!(table.contains(word), "{mode}: {table}");
            }
            let pictures: Vec<_> = ["700.png", "90.png"]
                .map(|name| std::fs::read(bench.path("out").join(name)).expect("an output"))
                .into();
            for picture in &pictures {
                assert!(picture.starts_with(b"\x89PNG\r\n"));
            }
            assert!(
                before.get_or_insert_with(|| pictures.clone()) == &pictures,
                "{mode}"
            );
        }
    }
}

#[test]
fn trusted_edges_make_the_same_picture() {
    let Some(bench) = bench("trusted_edges_make_the_same_picture") else {
        return;
    };
    bench.write("input", &jpeg());
    let functions: String = ["decode", "resize", "encode"]
        .map(|name| {
            format!("[[function]]\nname = {name:?}\nmodule = \"{FUNCTIONS}/{name}.wasm\"\n")
        })
        .concat()
        .replace("resize.wasm\"", "resize.wasm\"\nenv = { WIDTH = \"700\" }");
    let edges = "[edges]\ndecode = [\"resize\"]\nresize = [\"encode\"]\n";
    let pictures = [
        format!("{functions}{edges}"),
        format!("trusted = true\n{functions}{edges}"),
        format!("{functions}{edges}[trusted_edges]\ndecode = [\"resize\"]\n"),
    ]
    .map(|text| {
        bench.write("flow.toml", text.as_bytes());
        ["user", "kernel"].map(|mode| {
            let output = bench.run(mode);
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{mode}: {talk}");
            let table = String::from_utf8_lossy(&output.stdout);
            assert!(table.contains("slot"), "{mode}: {table}");
            std::fs::read(bench.path("out/encode")).expect("an output")
        })
    })
    .concat();
    assert!(pictures[0].starts_with(b"\x89PNG\r\n"));
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));
}

#[test]
fn what_is_no_picture_or_not_all_of_one_is_refused() {
    let Some(bench) = bench("what_is_no_picture_or_not_all_of_one_is_refused") else {
        return;
    };
    let whole = jpeg();
    let half = &whole[..whole.len() / 2];
    let nearly = &whole[..whole.len() - 3];
    for (input, name) in [
        (&b"a letter"[..], "letter"),
        (half, "half"),
        (nearly, "nearly"),
    ] {
        bench.write("input", input);
        for mode in MODES {
            let output = bench.run(mode);
            let talk = String::from_utf8_lossy(&output.stderr).into_owned();
            bench.failed(
                &format!("{mode} {name}"),
                &output,
                &["function `decode` failed"],
            );
            assert!(talk.lines().count() == 1, "{mode} {name}: {talk}");
        }
    }
}

#[test]
fn a_function_in_plain_webassembly_text_takes_part() {
    let Some(bench) = bench("a_function_in_plain_webassembly_text_takes_part") else {
        return;
    };
    let invert = concat!(env!("CARGO_MANIFEST_DIR"), "/functions/invert/invert.wat");
    let chain = |inversions: usize| {
        let mut text = String::new();
        let mut names = vec!["decode".to_owned()];
        names.extend((0..inversions).map(|number| format!("invert-{number}")));
        names.push("encode".to_owned());
        for name in &names {
            let module = match name.as_str() {
                "decode" | "encode" => format!("{FUNCTIONS}/{name}.wasm"),
                _ => invert.to_owned(),
            };
            text += &format!("[[function]]\nname = \"{name}\"\nmodule = {module:?}\n");
        }
        text += "[edges]\n";
        for pair in names.windows(2) {
            text += &format!("{} = [\"{}\"]\n", pair[0], pair[1]);
        }
        bench.write("flow.toml", text.as_bytes());
        let output = bench.run("user");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{talk}");
        std::fs::read(bench.path("out/encode")).expect("an output")
    };
    bench.write("input", &jpeg());
    let plain = chain(0);
    assert_ne!(chain(1), plain);
    assert_eq!(chain(2), plain);
}
