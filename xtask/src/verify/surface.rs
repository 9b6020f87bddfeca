//! What the public signatures of the crates are made of.
//!
//! A type of another crate in a signature binds its users to that crate's version: they cannot take ours without taking it,
//! and ours cannot go to its next one without breaking them.

use super::build::package_directory;
use super::{quietly, Outcome, Package, Scene};
use crate::build::cargo;
use anyhow::{bail, Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What rustdoc's JSON calls the form that is read here. Other versions differ in places that this would then not see.
const FORMAT: u32 = 57;
const STANDARD: [&str; 4] = ["core", "alloc", "std", "proc_macro"];

pub(super) fn third_parties(scene: &Scene) -> Result<Outcome> {
    let ours: BTreeSet<String> = scene.packages.iter().map(Package::library).collect();
    let mut wrong = Vec::new();
    let (mut items, mut allowed_types) = (0, BTreeSet::new());
    for package in scene.buildable() {
        let path = describe(package)?;
        let surface = match read(&path)? {
            Read::Surface(surface) => surface,
            Read::OtherFormat(format) => {
                return Ok(Outcome::Skipped(format!(
                    "this rustdoc writes its JSON in format {format}, and format {FORMAT} is what can be read"
                )));
            }
        };
        items += surface.items;
        let allowed = package.allowed_external_types();
        let mut used = BTreeSet::new();
        for (foreign, places) in surface.foreign(&ours) {
            match allowed.iter().find(|pattern| covers(pattern, &foreign)) {
                Some(pattern) => {
                    used.insert(pattern);
                    allowed_types.insert(foreign);
                }
                None => wrong.push(format!("{foreign} in {}", listed(&places))),
            }
        }
        for pattern in allowed.iter().filter(|pattern| !used.contains(pattern)) {
            wrong.push(format!(
                "{} allows {pattern} and does not show it",
                package.name
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    let but = match allowed_types.len() {
        0 => String::new(),
        _ => format!(
            ", but for what the manifests allow: {}",
            Vec::from_iter(allowed_types).join(", ")
        ),
    };
    Ok(scene.outcome(format!(
        "{items} public items, none of a third party's{but}"
    )))
}

/// Has rustdoc describe a crate with all of its features, and says where.
fn describe(package: &Package) -> Result<std::path::PathBuf> {
    // Kept apart: build scripts look at the variable below.
    let target = package_directory().join("surface");
    let mut command = cargo();
    command
        .args(["rustdoc", "--locked", "--quiet", "--lib", "--all-features"])
        .args(["--package", &package.name, "--target-dir"])
        .arg(&target)
        .args(["--", "-Zunstable-options", "--output-format=json"])
        // Hidden items are there for macros, whose users are bound by them too.
        .arg("--document-hidden-items")
        .env_remove("RUSTDOCFLAGS")
        // The stable compiler's JSON; its format is looked at before it is believed.
        .env("RUSTC_BOOTSTRAP", "1");
    quietly(&mut command)?;
    Ok(target.join("doc").join(package.library() + ".json"))
}

enum Read {
    Surface(Surface),
    OtherFormat(u32),
}

/// The parts of rustdoc's JSON that are looked at; see the crate rustdoc-types for all of it.
#[derive(Deserialize)]
struct Document {
    index: BTreeMap<String, Item>,
    paths: BTreeMap<String, Summary>,
    external_crates: BTreeMap<String, External>,
}

#[derive(Deserialize)]
struct Item {
    crate_id: u32,
    name: Option<String>,
    span: Option<Span>,
    /// One key, the kind, with what belongs to it.
    inner: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Span {
    filename: String,
    begin: (usize, usize),
}

#[derive(Deserialize)]
struct Summary {
    crate_id: u32,
    path: Vec<String>,
}

#[derive(Deserialize)]
struct External {
    name: String,
}

fn read(path: &Path) -> Result<Read> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let Version { format_version } =
        serde_json::from_str(&text).context("rustdoc's JSON says no format")?;
    if format_version != FORMAT {
        return Ok(Read::OtherFormat(format_version));
    }
    let document = serde_json::from_str(&text)
        .with_context(|| format!("reading rustdoc's JSON {}", path.display()))?;
    Ok(Read::Surface(Surface::of(&document)))
}

/// What the signatures of a crate name, and where.
#[derive(Default)]
struct Surface {
    items: usize,
    /// Whole paths, each with the items that name it.
    named: BTreeMap<String, BTreeSet<String>>,
}

impl Surface {
    fn of(document: &Document) -> Self {
        let mut surface = Self::default();
        for item in document.index.values().filter(|item| item.crate_id == 0) {
            surface.look_at(item, document);
        }
        surface
    }

    fn look_at(&mut self, item: &Item, document: &Document) {
        let mut named = BTreeSet::new();
        for (kind, inner) in &item.inner {
            // What every type has from traits for all types, and from those that the compiler implements, nobody wrote here.
            if kind == "impl" && (!inner["blanket_impl"].is_null() || inner["is_synthetic"] == true)
            {
                return;
            }
            match kind.as_str() {
                // Handed on under another name.
                "use" => named.extend(full(&inner["id"], &inner["source"], document)),
                "extern_crate" => named.extend(inner["name"].as_str().map(str::to_owned)),
                _ => paths(inner, document, &mut named),
            }
        }
        self.items += 1;
        for path in named {
            self.named.entry(path).or_default().insert(place(item));
        }
    }

    /// What is neither of the language nor of these crates.
    fn foreign(self, ours: &BTreeSet<String>) -> impl Iterator<Item = (String, BTreeSet<String>)> {
        let known: BTreeSet<_> = ours.iter().map(String::as_str).chain(STANDARD).collect();
        let ours: BTreeSet<String> = known.into_iter().map(str::to_owned).collect();
        self.named.into_iter().filter(move |(path, _)| {
            let home = path.split("::").next().unwrap_or_default();
            !ours.contains(home)
        })
    }
}

/// All paths to types and traits below `value`: whatever place of a signature they stand in, they have this form.
fn paths(value: &Value, document: &Document, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let (Some(id), Some(text), Some(_)) =
                (object.get("id"), object.get("path"), object.get("args"))
            {
                into.extend(full(id, text, document));
            }
            object
                .values()
                .for_each(|inner| paths(inner, document, into));
        }
        Value::Array(array) => array.iter().for_each(|inner| paths(inner, document, into)),
        _ => {}
    }
}

/// A path from its crate on; nothing where it leads into this crate.
fn full(id: &Value, text: &Value, document: &Document) -> Option<String> {
    let Some(summary) = document.paths.get(&id.to_string()) else {
        // Of this crate, and known by its item alone; or of nobody knows where, as the source has it.
        let known = document.index.contains_key(&id.to_string());
        return (!known).then(|| text.as_str().unwrap_or_default().to_owned());
    };
    if summary.crate_id == 0 {
        return None;
    }
    let home = document.external_crates.get(&summary.crate_id.to_string());
    let path = summary.path.iter().skip(1).map(String::as_str);
    let home = home.map(|home| home.name.as_str());
    Some(Vec::from_iter(home.into_iter().chain(path)).join("::"))
}

fn place(item: &Item) -> String {
    let kind = item.inner.keys().next().map_or("item", String::as_str);
    let name = item.name.as_deref().unwrap_or_default();
    match &item.span {
        Some(span) => format!("{}:{} ({kind} {name})", span.filename, span.begin.0),
        None => format!("{kind} {name}"),
    }
    .replace(" )", ")")
}

/// The first few, and how many more.
fn listed(places: &BTreeSet<String>) -> String {
    const SHOWN: usize = 3;
    let mut text = Vec::from_iter(places.iter().take(SHOWN).map(String::as_str)).join(", ");
    if places.len() > SHOWN {
        text += &format!(" and {} more", places.len() - SHOWN);
    }
    text
}

/// Whether an entry of a manifest's list means this type: by its whole path, or by a start that ends in `::*`.
fn covers(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const FOREIGN: &str = "
        pub struct Thing;
        pub trait Act { type Out; }
        pub enum Kind { A }
        pub mod deep { pub struct Inner; }
        pub trait Every {}
        impl<T> Every for T {}
    ";

    /// What the surface of a crate of this source names of the crate `foreign`; nothing where rustdoc's format is another.
    fn foreign(source: &str) -> Option<BTreeMap<String, BTreeSet<String>>> {
        let scratch = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).unwrap();
        write("foreign.rs", FOREIGN);
        write("ours.rs", source);
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .current_dir(scratch.path())
                .env("RUSTC_BOOTSTRAP", "1");
            quietly(command.arg("--edition=2021").args(arguments)).unwrap();
        };
        run("rustc", &["--crate-type=rlib", "foreign.rs"]);
        let json = ["-Zunstable-options", "--output-format=json", "ours.rs"];
        let hidden = [
            "--document-hidden-items",
            "--extern=foreign=libforeign.rlib",
        ];
        run("rustdoc", &[&hidden[..], &json[..]].concat());
        match read(&scratch.path().join("doc/ours.json")).unwrap() {
            Read::Surface(surface) => Some(surface.foreign(&BTreeSet::new()).collect()),
            Read::OtherFormat(format) => {
                eprintln!("skipped: rustdoc's JSON has format {format}, not {FORMAT}");
                None
            }
        }
    }

    #[test]
    fn a_foreign_type_is_seen_wherever_it_stands() {
        let thing = [
            "pub fn f(_: &foreign::Thing) {}",
            "pub fn f() -> Result<Vec<foreign::Thing>, ()> { Err(()) }",
            "pub fn f(_: impl Fn(foreign::Thing)) {}",
            "pub struct S { pub f: Option<foreign::Thing> }",
            "pub struct S(pub [foreign::Thing; 2]);",
            "pub enum E { A(foreign::Thing) }",
            "pub struct S; impl S { pub fn f(&self, _: *const foreign::Thing) {} }",
            "pub struct S; impl From<foreign::Thing> for S { fn from(_: foreign::Thing) -> S { S } }",
            "pub trait T { type A; } impl T for u8 { type A = foreign::Thing; }",
            "pub trait T {} impl T for foreign::Thing {}",
            "pub trait T { fn f(_: foreign::Thing) {} }",
            "pub struct S<T = foreign::Thing>(pub T);",
            "pub type A = foreign::Thing;",
            "type A = foreign::Thing; pub fn f(_: A) {}",
            "pub use foreign::Thing;",
            "mod inner { pub use foreign::Thing as Other; } pub use inner::Other;",
            "pub static S: Option<foreign::Thing> = None;",
            "pub const C: Option<foreign::Thing> = None;",
            "#[doc(hidden)] pub fn f(_: foreign::Thing) {}",
        ];
        let act = [
            "pub struct S; impl foreign::Act for S { type Out = (); }",
            "pub fn f<A: foreign::Act>(_: A) {}",
            "pub fn f<A>(_: A) where A: foreign::Act {}",
            "pub fn f(_: impl foreign::Act) {}",
            "pub fn f() -> Option<Box<dyn foreign::Act<Out = ()>>> { None }",
            "pub trait T: foreign::Act {}",
            "pub trait T { type A: foreign::Act; }",
            "pub fn f<A>(_: A) where A: Iterator, A::Item: foreign::Act {}",
            "pub fn f<A: Iterator<Item: foreign::Act>>(_: A) {}",
        ];
        let others = [
            ("foreign::deep", "pub use foreign::deep;"),
            ("foreign::Kind", "pub use foreign::Kind::*;"),
        ];
        let cases: Vec<(&str, &str)> = (thing.map(|source| ("foreign::Thing", source)).into_iter())
            .chain(act.map(|source| ("foreign::Act", source)))
            .chain(others)
            .collect();
        // A module a line, so that the line says which case it is.
        let modules = cases.iter().enumerate();
        let source: String = modules
            .map(|(number, (_, source))| format!("pub mod m{number} {{ {source} }}\n"))
            .collect();
        let Some(found) = foreign(&source) else {
            return;
        };
        for (line, (expected, source)) in (1..).zip(cases) {
            let start = format!("ours.rs:{line} ");
            let here = |places: &BTreeSet<String>| places.iter().any(|at| at.starts_with(&start));
            let named: Vec<_> = (found.iter().filter(|(_, places)| here(places)))
                .map(|(name, _)| name)
                .collect();
            assert_eq!(named, [expected], "{source}");
        }
    }

    #[test]
    fn what_users_cannot_see_may_be_anybodys() {
        let source = "
            use foreign::Act as _;
            pub struct S { f: foreign::Thing }
            impl S { fn f(&self, _: foreign::Thing) {} }
            pub(crate) fn f(_: foreign::Thing) {}
            mod inner { pub fn f(_: foreign::Thing) {} }
            struct Own;
            impl From<foreign::Thing> for Own { fn from(_: foreign::Thing) -> Own { Own } }
            pub fn g() -> Vec<std::collections::HashMap<String, std::io::Error>> { Vec::new() }
            /// Like [`foreign::Thing`].
            pub fn h(_: S) {}
        ";
        if let Some(found) = foreign(source) {
            assert_eq!(found, BTreeMap::new());
        }
    }

    #[test]
    fn the_list_of_a_manifest_names_types_or_whole_crates() {
        assert!(covers("proptest::*", "proptest::strategy::Strategy"));
        assert!(covers("a::B", "a::B"));
        assert!(!covers("a::B", "a::Bc"));
        assert!(!covers("a::*", "ab::C"));
    }
}
