//! Good files, bad files, and any graph.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Workflow, String> {
    Workflow::parse(Path::new("dir/flow.toml"), text).map_err(|error| error.to_string())
}

/// A file with these functions and edges.
fn file(names: &[&str], edges: &[(&str, &[&str])]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for name in names {
        let _ = writeln!(text, "[[function]]\nname = {name:?}\nmodule = \"m.wasm\"");
    }
    text += "[edges]\n";
    for (from, to) in edges {
        let _ = writeln!(text, "{from} = {to:?}");
    }
    text
}

#[test]
fn functions_come_after_their_predecessors() {
    let text = file(
        &["d", "b", "a", "c"],
        &[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"])],
    );
    let workflow = parse(&text).expect("good");
    let names: Vec<_> = workflow.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let last = workflow.function("d").expect("there");
    assert_eq!(last.predecessors, ["b", "c"]);
    assert_eq!(last.output.as_deref(), Some("d"));
    assert_eq!(last.module, Path::new("dir/m.wasm"));
    assert_eq!(workflow.function("a").expect("there").output, None);
    assert_eq!(workflow.deadline, DEFAULT_DEADLINE);
}

#[test]
fn edges_are_strict_unless_the_file_trusts_them() {
    let names = &["a", "b", "c"];
    let edges: &[(&str, &[&str])] = &[("a", &["b", "c"]), ("b", &["c"])];
    let trusted = |text: &str| {
        let workflow = parse(text).expect("good");
        ["a", "b", "c"].map(|name| workflow.function(name).expect("there").trusted.clone())
    };
    let text = file(names, edges);
    assert_eq!(trusted(&text), [vec![], vec![], Vec::<String>::new()]);
    let no = "trusted = false\n".to_owned() + &text;
    assert_eq!(trusted(&no), trusted(&text));
    let one = text.clone() + "[trusted_edges]\na = [\"c\"]\n";
    assert_eq!(trusted(&one), [vec!["c"], vec![], vec![]]);
    let all = "trusted = true\n".to_owned() + &text;
    assert_eq!(trusted(&all), [vec!["b", "c"], vec!["c"], vec![]]);
}

#[test]
fn each_mistake_is_named() {
    for (text, words) in [
        (file(&[], &[]), "there is no [[function]]"),
        (file(&["a", "a"], &[]), "two functions are named `a`"),
        (file(&["a"], &[("a", &["b"])]), "there is no function `b`"),
        (file(&["a"], &[("b", &["a"])]), "there is no function `b`"),
        (
            file(&["a", "b"], &[("a", &["b", "b"])]),
            "edge a -> b is there twice",
        ),
        (file(&["a"], &[("a", &["a"])]), "in a circle: a -> a"),
        (
            file(
                &["x", "a", "b"],
                &[("x", &["a"]), ("a", &["b"]), ("b", &["a"])],
            ),
            "in a circle: ",
        ),
        (file(&["a/b"], &[]), "function name \"a/b\""),
        ("[[function]]\nname = 3".to_owned(), "invalid type"),
        (
            "[[function]]\nname = \"a\"".to_owned(),
            "missing field `module`",
        ),
        (
            "[function]\nname = \"a\"\nmodule = \"m\"".to_owned(),
            "each function begins with [[function]]",
        ),
        ("speed = 3".to_owned(), "unknown field `speed`"),
        (
            "deadline_seconds = 0\n".to_owned() + &file(&["a"], &[]),
            "deadline_seconds",
        ),
        (
            file(&["a", "b"], &[("a", &["b"])]) + "[trusted_edges]\nb = [\"a\"]",
            "[trusted_edges]: there is no edge b -> a",
        ),
        (
            file(&["a"], &[]) + "[trusted_edges]\nx = [\"a\"]",
            "[trusted_edges]: there is no edge x -> a",
        ),
        (
            "trusted = \"yes\"\n".to_owned() + &file(&["a"], &[]),
            "invalid type",
        ),
        (
            "[[function]]\nname = \"a\"\nmodule = \"m\"\noutput = \"../x\"".to_owned(),
            "not the plain name of a file",
        ),
        (
            "[[function]]\nname = \"a\"\nmodule = \"m\"\nenv = { \"A=B\" = \"x\" }".to_owned(),
            "cannot be the name of a variable",
        ),
    ] {
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(words), "{error}\n  lacks: {words}");
        assert!(error.contains("dir/flow.toml"), "{error}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address() {
    let text = "[[function]]\nname = \"a\"\nmodule = \"m\"\nhost = \"attic\"\n\
        [[function]]\nname = \"b\"\nmodule = \"m\"\nhost = \"cellar.lan:7000\"\n\
        [[function]]\nname = \"c\"\nmodule = \"m\"\n\
        [[function]]\nname = \"d\"\nmodule = \"m\"\nhost = \"[fd00::2]:7000\"\n\
        [hosts]\nattic = \"[fd00::2]:7000\"\nunused = \"10.0.0.9:1\"\n\
        [edges]\na = [\"b\"]\n";
    let workflow = parse(text).expect("good");
    let host = |name: &str| workflow.function(name).expect("there").host.clone();
    assert_eq!(host("a").as_deref(), Some("[fd00::2]:7000"));
    assert_eq!(host("b").as_deref(), Some("cellar.lan:7000"));
    assert_eq!(host("c"), None);
    assert_eq!(workflow.hosts(), ["[fd00::2]:7000", "cellar.lan:7000"]);
}

#[test]
fn hosts_that_cannot_be_are_named() {
    let hosted = |a: &str, rest: &str| {
        format!(
            "[[function]]\nname = \"a\"\nmodule = \"m\"\nhost = {a:?}\n\
             [[function]]\nname = \"b\"\nmodule = \"m\"\n{rest}\n[edges]\na = [\"b\"]\n"
        )
    };
    for host in [
        "attic",
        "10.0.0.2",
        "10.0.0.2:0",
        "10.0.0.2:70000",
        ":1",
        "a b:1",
        "",
        "x/y:1",
    ] {
        let error = parse(&hosted(host, "")).expect_err(host);
        assert!(
            error.contains("is neither a name of [hosts]"),
            "{host}: {error}"
        );
    }
    let error = parse(&(hosted("x", "") + "[hosts]\nx = \"10.0.0.2\"")).expect_err("no port");
    assert!(
        error.contains("[hosts]: x = \"10.0.0.2\" is no address"),
        "{error}"
    );
    for place in ["listen = \"10.0.0.1:1\"", "socket = \"s\""] {
        let rest = format!("host = \"10.0.0.2:7000\"\n{place}");
        let error = parse(&hosted("10.0.0.2:7000", &rest)).expect_err(place);
        assert!(error.contains("chooses itself where it listens"), "{error}");
    }
    let error = parse(&hosted("10.0.0.2:7000", "host = \"127.0.0.1:7000\"")).expect_err("far");
    assert!(error.contains("edge a -> b: on 10.0.0.2:7000"), "{error}");
    parse(&hosted("127.0.0.1:7000", "host = \"10.0.0.2:7000\"")).expect("it is reached");
    parse(&hosted("127.0.0.1:7000", "host = \"localhost:7001\"")).expect("both at home");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = parse(&file(&["a", "a"], &[("a", &["b"])])).expect_err("two mistakes");
    assert!(error.contains("2 problems"), "{error}");
}

#[test]
fn a_missing_module_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("flow.toml");
    std::fs::write(&path, file(&["a"], &[])).expect("writable");
    let error = Workflow::load(&path).expect_err("no module").to_string();
    assert!(
        error.contains("function `a`: there is no module"),
        "{error}"
    );
    assert!(error.contains("m.wasm"), "{error}");
}

proptest! {
    #[test]
    fn any_text_is_a_workflow_or_an_error(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    /// Any graph is ordered or has a circle, and what is ordered has its edges forward.
    #[test]
    fn any_graph_is_ordered_or_has_a_circle(
        edges in proptest::collection::btree_set((0_usize..6, 0_usize..6), 0..12)
    ) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let successors: Vec<(&str, Vec<&str>)> = (0..6)
            .map(|from| (names[from], edges.iter().filter(|e| e.0 == from).map(|e| names[e.1]).collect()))
            .collect();
        let borrowed: Vec<(&str, &[&str])> = successors.iter().map(|(f, t)| (*f, t.as_slice())).collect();
        match parse(&file(&names, &borrowed)) {
            Ok(workflow) => {
                let at = |name: &str| workflow.functions.iter().position(|f| f.name == name);
                for (from, to) in edges {
                    prop_assert!(at(names[from]) < at(names[to]));
                }
            }
            Err(error) => {
                let circle = error.split("in a circle: ").nth(1).expect("a circle");
                let steps: Vec<_> = circle.trim().split(" -> ").collect();
                prop_assert!(steps.len() > 1 && steps.first() == steps.last());
                for step in steps.windows(2) {
                    let index = |name| names.iter().position(|n| *n == name).expect("known");
                    prop_assert!(edges.contains(&(index(step[0]), index(step[1]))));
                }
            }
        }
    }
}

#[test]
fn of_many_problems_the_first_are_told() {
    let same = ["f"; 1000];
    let error = parse(&file(&same, &[])).expect_err("all of one name");
    assert!(error.contains("1998 problems"), "{error}");
    assert!(error.ends_with("and 1978 more"), "{error}");
    assert_eq!(error.lines().count(), 22, "{error}");
}

#[test]
fn what_the_documentation_shows_is_a_workflow() {
    let documented = include_str!("../workflow.rs").lines();
    let lines: Vec<_> = documented
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| line.trim_start_matches("//!"))
        .collect();
    let workflow = parse(&lines.join("\n")).expect("good");
    assert_eq!(workflow.functions.len(), 3);
}
