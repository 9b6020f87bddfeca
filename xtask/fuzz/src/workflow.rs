//! Workflow files.

use crate::adapter::workflow::{FunctionSpec, Workflow, MAX_FUNCTIONS};
use crate::script::read;
use arbitrary::Arbitrary;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// A file that is near a good one.
#[derive(Debug, Arbitrary)]
struct Near {
    functions: Vec<Function>,
    edges: Vec<(u8, Vec<u8>)>,
    trusted_edges: Vec<(u8, Vec<u8>)>,
    deadline: Option<i64>,
    trusted: Option<bool>,
    rest: String,
}

#[derive(Debug, Arbitrary)]
struct Function {
    name: Option<String>,
    module: String,
    env: Vec<(String, String)>,
    max_pages: Option<i64>,
    output: Option<String>,
    socket: Option<String>,
    listen: Option<String>,
}

impl Near {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| {
            writeln!(text, "{words}").expect("writing to a string does not fail");
        };
        if let Some(seconds) = self.deadline {
            line(format_args!("deadline_seconds = {seconds}"));
        }
        if let Some(trusted) = self.trusted {
            line(format_args!("trusted = {trusted}"));
        }
        for (number, function) in self.functions.iter().enumerate() {
            line(format_args!("[[function]]"));
            match &function.name {
                Some(name) => line(format_args!("name = {name:?}")),
                None => line(format_args!("name = \"f{number}\"")),
            }
            line(format_args!("module = {:?}", function.module));
            if !function.env.is_empty() {
                line(format_args!("[function.env]"));
                for (key, value) in &function.env {
                    line(format_args!("{key:?} = {value:?}"));
                }
                continue;
            }
            if let Some(pages) = function.max_pages {
                line(format_args!("max_pages = {pages}"));
            }
            let texts = [
                ("output", &function.output),
                ("socket", &function.socket),
                ("listen", &function.listen),
            ];
            for (key, value) in texts {
                if let Some(value) = value {
                    line(format_args!("{key} = {value:?}"));
                }
            }
        }
        for (table, edges) in [
            ("edges", &self.edges),
            ("trusted_edges", &self.trusted_edges),
        ] {
            line(format_args!("[{table}]"));
            for (from, to) in edges {
                let to: Vec<_> = to.iter().map(|number| format!("f{number}")).collect();
                line(format_args!("f{from} = {to:?}"));
            }
        }
        text + &self.rest
    }
}

pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        parse(text);
    }
    if let Some(near) = read::<Near>(data) {
        parse(&near.text());
    }
}

/// What is found consistent is.
fn parse(text: &str) {
    let workflow = match Workflow::parse(Path::new("/flows/flow.toml"), text) {
        Ok(workflow) => workflow,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "an error without a word");
            return;
        }
    };
    let functions = &workflow.functions;
    assert!((1..=MAX_FUNCTIONS).contains(&functions.len()));
    assert!(workflow.deadline.as_secs() > 0, "no time");
    let mut before = BTreeSet::new();
    let mut outputs = BTreeSet::new();
    for function in functions {
        let FunctionSpec {
            name,
            predecessors,
            successors,
            trusted,
            output,
            ..
        } = function;
        assert!(
            !name.is_empty() && name.len() <= 64 && name.is_ascii(),
            "{name:?}"
        );
        assert!(
            predecessors
                .iter()
                .all(|other| before.contains(other.as_str())),
            "{name:?} comes before one of {predecessors:?}"
        );
        assert!(before.insert(name.as_str()), "{name:?} is there twice");
        for to in successors {
            let target = workflow.function(to).expect("an edge leads somewhere");
            let back = target.predecessors.iter().filter(|from| *from == name);
            assert_eq!(back.count(), 1, "{name:?} -> {to:?}");
        }
        assert!(
            trusted.iter().all(|to| successors.contains(to)),
            "{trusted:?}"
        );
        assert_eq!(output.is_some(), successors.is_empty());
        if let Some(output) = output {
            assert!(outputs.insert(output), "{output:?} is there twice");
            let plain = Path::new(output).file_name() == Some(output.as_ref());
            assert!(plain && !output.starts_with('.'), "{output:?}");
        }
        let bad = function
            .env
            .iter()
            .any(|(key, _)| key.is_empty() || key.contains(['=', '\0']));
        assert!(!bad, "{:?}", function.env);
    }
}
