//! Where the unsafe code is, and whether each piece has its proof.

use super::manifests::report;
use super::{Outcome, Scene};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The one place outside of `sys` modules: a trait is declared unsafe there, and nothing is done.
const DECLARATION: &str = "pub unsafe trait LinearMemory";

pub(super) fn unsafe_code(scene: &Scene) -> Result<Outcome> {
    let mut wrong = Vec::new();
    let mut proofs = 0;
    for package in &scene.packages {
        let src = package.directory().join("src");
        for file in rust_files(&src)? {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let room = file.strip_prefix(&src).unwrap_or(&file);
            let found = look(&text, is_sys(room));
            proofs += found.proofs;
            let place = format!("{}/{}", package.name, room.display());
            wrong.extend(
                found
                    .wrong
                    .into_iter()
                    .map(|(line, what)| format!("{place}:{line}: {what}")),
            );
        }
    }
    report(
        wrong,
        format!("{proofs} pieces of unsafe code, each with its proof"),
    )
}

fn is_sys(room: &Path) -> bool {
    room == Path::new("sys.rs") || room.starts_with("sys")
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Default)]
struct Found {
    proofs: usize,
    wrong: Vec<(usize, &'static str)>,
}

/// Looks for blocks and implementations; what is only declared unsafe has its `# Safety` from the lints.
fn look(text: &str, sys: bool) -> Found {
    let mut found = Found::default();
    let mut proven = false;
    // Generated for users: the module that it is expanded in is theirs.
    let mut in_macro = false;
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.trim();
        if code.starts_with("macro_rules!") {
            in_macro = true;
        }
        if line == "}" {
            in_macro = false;
        }
        if let Some(comment) = code.strip_prefix("//") {
            proven |= comment.contains("SAFETY:");
            continue;
        }
        if does(code) {
            if !sys && !in_macro {
                found
                    .wrong
                    .push((number, "unsafe code outside of a `sys` module"));
            }
            if proven {
                found.proofs += 1;
            } else {
                found
                    .wrong
                    .push((number, "unsafe code without a SAFETY comment"));
            }
        }
        if code.contains("allow(unsafe_code)")
            && !text.contains("mod sys;")
            && !text.contains(DECLARATION)
        {
            found.wrong.push((number, "allows unsafe code"));
        }
        // A proof stands before its statement, whose first lines may come between.
        proven &= !code.is_empty() && !code.ends_with([';', '}']);
    }
    found
}

fn does(code: &str) -> bool {
    let code = code.split("//").next().unwrap_or_default();
    code.contains("unsafe {") || code.starts_with("unsafe impl")
}

#[cfg(test)]
mod tests {
    use super::look;

    #[test]
    fn a_block_needs_a_proof_and_a_sys_module() {
        let bare = "fn f() {\n    let x = 1;\n    unsafe { g() };\n}\n";
        assert_eq!(look(bare, true).wrong.len(), 1);
        assert_eq!(look(bare, false).wrong.len(), 2);
        let proven = "fn f() {\n    // SAFETY: nothing can happen,\n    // ever.\n    let x =\n        unsafe { g() };\n}\n";
        assert!(look(proven, true).wrong.is_empty());
        assert_eq!(look(proven, false).wrong.len(), 1);
        // A proof is good for one statement.
        let second = "// SAFETY: here.\nunsafe { g() };\nunsafe { g() };\n";
        assert_eq!(
            look(second, true).wrong,
            [(3, "unsafe code without a SAFETY comment")]
        );
        assert!(look("// unsafe { in words }\n", false).wrong.is_empty());
    }

    #[test]
    fn allowing_it_elsewhere_is_seen() {
        assert_eq!(look("#![allow(unsafe_code)]\n", false).wrong.len(), 1);
        assert!(look("#[allow(unsafe_code)]\nmod sys;\n", false)
            .wrong
            .is_empty());
    }
}
