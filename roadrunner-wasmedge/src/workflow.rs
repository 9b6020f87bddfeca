//! The workflow file: functions, their modules, and the edges between them.
//!
//! ```toml
//! deadline_seconds = 60            # for the whole run; 120 if left out
//! trusted = false                  # whether all functions are one owner's; false if left out
//!
//! [[function]]
//! name = "decode"                  # letters, digits, `-` and `_`
//! module = "decode.wasm"           # relative to this file; .wasm or .wat
//!
//! [[function]]
//! name = "resize"
//! module = "resize.wasm"
//! env = { WIDTH = "800" }          # what the function sees as its environment
//! max_pages = 4096                 # pages of 64 KiB that its memory may have; as many as its module says if left out
//! output = "small.rgba"            # of a function without successor: its file in the output directory
//! host = "attic"                   # where it runs: a name of [hosts], or an address; here if left out
//!
//! [[function]]
//! name = "count"
//! module = "count.wasm"
//! socket = "count.sock"            # where it listens in kernel mode; at a name without a file if left out
//! listen = "127.0.0.1:7010"        # where it listens in network mode; where the system chooses if left out
//!
//! [hosts]
//! attic = "10.0.0.2:7000"          # where `roadrunner serve` listens
//!
//! [edges]
//! decode = ["resize", "count"]     # every reply of `decode` goes to each of these
//!
//! [trusted_edges]
//! decode = ["count"]               # these edges are between functions of one owner
//! ```
//!
//! A function with no predecessor receives the input; what a function with no successor replies is an output.
//!
//! # Hosts
//!
//! A function with a host runs in a worker of the `roadrunner serve` that listens there, every other one on the host of
//! `roadrunner run`. Payloads go from function to function, not through the host of the run: an address must mean the
//! same host wherever it is used. Only the network mode reaches other hosts; two functions on one of them reach each other
//! over UNIX sockets in it.
//!
//! # Trusted edges
//!
//! Between two functions no bytes flow but those of the payloads, and a payload does not change once it was sent. On an
//! edge that the file calls trusted two things give way, for the sake of speed: pages may come back to the sender with
//! bytes of the receiver in them, and a function that writes to a buffer after it was sent may change what the receiver
//! reads. Call an edge trusted only where both functions are yours. Neither a function nor a command line option can. It makes
//! a difference between functions of one host, in user and kernel mode; on other hosts and to them every edge is strict.

mod hosts;

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a run may take if its file does not say.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(120);
/// Functions in one workflow at most.
pub const MAX_FUNCTIONS: usize = 1024;
/// Bytes of a workflow file at most.
pub const MAX_FILE: u64 = 1 << 20;

const MAX_NAME: usize = 64;
/// Problems of one file that are printed.
const SHOWN: usize = 20;

/// A workflow that has been found consistent: names are unique, edges lead somewhere, and there is no cycle.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Workflow {
    /// The file it came from.
    pub file: PathBuf,
    /// How long a run may take.
    pub deadline: Duration,
    /// Every function after all of its predecessors.
    pub functions: Vec<FunctionSpec>,
}

/// One function of a workflow.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FunctionSpec {
    /// Its name, unique in the workflow.
    pub name: String,
    /// Its module, as a path that can be opened.
    pub module: PathBuf,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Pages of 64 KiB that its memory may have at most.
    pub max_pages: Option<u32>,
    /// Names of the functions that send to it.
    pub predecessors: Vec<String>,
    /// Names of the functions that it sends to.
    pub successors: Vec<String>,
    /// Which of the successors it reaches by a trusted edge.
    pub trusted: Vec<String>,
    /// The file of its output, if it has no successor.
    pub output: Option<String>,
    /// Where it listens in kernel mode, if the file says so.
    pub socket: Option<PathBuf>,
    /// Where it listens in network mode, if the file says so.
    pub listen: Option<SocketAddr>,
    /// The address of the host that it runs on, if that is another one than the run's.
    pub host: Option<String>,
}

impl Workflow {
    /// Reads and validates a file. Modules must exist; what is in them is not looked at.
    ///
    /// # Errors
    /// Everything that is wrong with it, not only the first thing.
    pub fn load(file: &Path) -> Result<Self, WorkflowError> {
        let unreadable = |reason: String| WorkflowError::new(file, vec![reason]);
        let metadata = std::fs::metadata(file)
            .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        if metadata.len() > MAX_FILE {
            return Err(unreadable(format!(
                "is {} bytes long; a workflow file has at most {MAX_FILE}",
                metadata.len()
            )));
        }
        let text = std::fs::read_to_string(file)
            .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        let workflow = Self::parse(file, &text)?;
        let missing: Vec<_> = workflow
            .functions
            .iter()
            .filter(|function| !function.module.is_file())
            .map(|function| {
                format!(
                    "function `{}`: there is no module {}",
                    function.name,
                    function.module.display()
                )
            })
            .collect();
        if missing.is_empty() {
            Ok(workflow)
        } else {
            Err(WorkflowError::new(file, missing))
        }
    }

    /// Validates the text of a file, whose path says what modules are relative to. Nothing is opened.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, WorkflowError> {
        let raw: RawWorkflow = toml::from_str(text).map_err(|error| {
            let hint = if text.lines().any(|line| line.trim() == "[function]") {
                "each function begins with [[function]], in two pairs of brackets"
            } else {
                ""
            };
            WorkflowError::new(file, vec![format!("{error}{hint}")])
        })?;
        raw.validate(file)
            .map_err(|problems| WorkflowError::new(file, problems))
    }

    /// The function of that name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&FunctionSpec> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// The neighbours of a function at edges that are trusted.
    pub(crate) fn trusted_neighbours(&self, name: &str) -> Vec<String> {
        let from = |function: &&FunctionSpec| function.trusted.iter().any(|to| to == name);
        let before = self.functions.iter().filter(from).map(|f| f.name.clone());
        let after = self
            .function(name)
            .into_iter()
            .flat_map(|f| f.trusted.clone());
        before.chain(after).collect()
    }

    /// The addresses of other hosts that functions run on, each once, in the order of the functions.
    #[must_use]
    pub fn hosts(&self) -> Vec<&str> {
        let mut hosts = Vec::new();
        for host in self.functions.iter().filter_map(|f| f.host.as_deref()) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkflow {
    deadline_seconds: Option<u32>,
    #[serde(default)]
    trusted: bool,
    #[serde(default, rename = "function")]
    functions: Vec<RawFunction>,
    #[serde(default)]
    edges: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    trusted_edges: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    hosts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFunction {
    name: String,
    module: PathBuf,
    #[serde(default)]
    env: BTreeMap<String, String>,
    max_pages: Option<u32>,
    output: Option<String>,
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    host: Option<String>,
}

impl RawWorkflow {
    fn validate(self, file: &Path) -> Result<Workflow, Vec<String>> {
        let mut problems = self.names();
        problems.extend(self.edge_problems());
        problems.extend(self.trust_problems());
        problems.extend(self.output_problems());
        problems.extend(hosts::problems(&self));
        if !problems.is_empty() {
            return Err(problems);
        }
        let order = self.order().map_err(|cycle| vec![cycle])?;
        let directory = file.parent().unwrap_or(Path::new(""));
        let mut predecessors: HashMap<&str, Vec<String>> = HashMap::new();
        for name in &order {
            for successor in self.successors(name) {
                predecessors
                    .entry(successor)
                    .or_default()
                    .push((*name).to_owned());
            }
        }
        let by_name: HashMap<_, _> = self
            .functions
            .iter()
            .map(|f| (f.name.as_str(), f))
            .collect();
        let functions = order
            .iter()
            .map(|name| {
                let raw = by_name[name];
                let successors = self.successors(name).to_vec();
                let trusted = if self.trusted {
                    successors.clone()
                } else {
                    self.trusted_edges.get(*name).cloned().unwrap_or_default()
                };
                FunctionSpec {
                    name: raw.name.clone(),
                    module: directory.join(&raw.module),
                    env: raw.env.clone().into_iter().collect(),
                    max_pages: raw.max_pages,
                    predecessors: predecessors.remove(name).unwrap_or_default(),
                    output: successors
                        .is_empty()
                        .then(|| raw.output.clone().unwrap_or_else(|| raw.name.clone())),
                    successors,
                    trusted,
                    socket: raw.socket.as_ref().map(|socket| directory.join(socket)),
                    listen: raw.listen,
                    host: hosts::of(raw, &self.hosts).map(str::to_owned),
                }
            })
            .collect();
        Ok(Workflow {
            file: file.to_owned(),
            deadline: self.deadline_seconds.map_or(DEFAULT_DEADLINE, |seconds| {
                Duration::from_secs(seconds.into())
            }),
            functions,
        })
    }

    fn successors(&self, name: &str) -> &[String] {
        self.edges.get(name).map_or(&[], Vec::as_slice)
    }

    fn names(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.functions.is_empty() {
            problems.push("there is no [[function]]".to_owned());
        }
        if self.functions.len() > MAX_FUNCTIONS {
            problems.push(format!(
                "{} functions are more than the {MAX_FUNCTIONS} of one workflow",
                self.functions.len()
            ));
        }
        if self.deadline_seconds == Some(0) {
            problems.push("deadline_seconds = 0 leaves no time; give at least 1".to_owned());
        }
        let mut seen = BTreeSet::new();
        for function in &self.functions {
            let name = function.name.as_str();
            if !is_function_name(name) {
                problems.push(format!(
                    "function name {name:?}: use 1 to {MAX_NAME} letters, digits, `-` and `_`"
                ));
            }
            if !seen.insert(name) {
                problems.push(format!("two functions are named `{name}`"));
            }
            for key in function.env.keys() {
                if key.is_empty() || key.contains(['=', '\0']) {
                    problems.push(format!(
                        "function `{name}`: {key:?} cannot be the name of a variable"
                    ));
                }
            }
        }
        problems
    }

    fn edge_problems(&self) -> Vec<String> {
        let known: BTreeSet<_> = self.functions.iter().map(|f| f.name.as_str()).collect();
        let mut problems = Vec::new();
        for (from, successors) in &self.edges {
            if !known.contains(from.as_str()) {
                problems.push(format!("[edges]: there is no function `{from}`"));
            }
            let mut seen = BTreeSet::new();
            for to in successors {
                if !known.contains(to.as_str()) {
                    problems.push(format!("edge {from} -> {to}: there is no function `{to}`"));
                }
                if !seen.insert(to) {
                    problems.push(format!("edge {from} -> {to} is there twice"));
                }
            }
        }
        problems
    }

    fn trust_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (from, successors) in &self.trusted_edges {
            for to in successors {
                if !self.successors(from).contains(to) {
                    problems.push(format!(
                        "[trusted_edges]: there is no edge {from} -> {to} in [edges]"
                    ));
                }
            }
        }
        problems
    }

    fn output_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut seen = HashMap::new();
        for function in &self.functions {
            let name = &function.name;
            if !self.successors(name).is_empty() {
                if function.output.is_some() {
                    problems.push(format!(
                        "function `{name}` has successors, so that its replies are no `output`"
                    ));
                }
                continue;
            }
            let output = function.output.as_ref().unwrap_or(name);
            if !is_output_name(output) {
                problems.push(format!(
                    "function `{name}`: output {output:?} is not the plain name of a file"
                ));
            }
            if let Some(other) = seen.insert(output, name) {
                problems.push(format!(
                    "functions `{other}` and `{name}` have the same output {output:?}"
                ));
            }
        }
        problems
    }

    /// The functions, each after its predecessors, in the file's order where that leaves a choice; or the cycle.
    fn order(&self) -> Result<Vec<&str>, String> {
        let mut waiting_for: HashMap<&str, usize> = HashMap::new();
        for to in self.edges.values().flatten() {
            *waiting_for.entry(to).or_default() += 1;
        }
        let mut order = Vec::new();
        let mut left: Vec<&str> = self.functions.iter().map(|f| f.name.as_str()).collect();
        while let Some(at) = left
            .iter()
            .position(|name| waiting_for.get(name).map_or(true, |count| *count == 0))
        {
            let name = left.remove(at);
            for to in self.successors(name) {
                if let Some(count) = waiting_for.get_mut(to.as_str()) {
                    *count -= 1;
                }
            }
            order.push(name);
        }
        if left.is_empty() {
            return Ok(order);
        }
        Err(format!("the edges go in a circle: {}", self.circle(&left)))
    }

    /// One circle among functions that all wait for each other.
    fn circle(&self, left: &[&str]) -> String {
        let predecessor = |name: &str| {
            left.iter()
                .copied()
                .find(|from| self.successors(from).iter().any(|to| to == name))
        };
        let mut path = vec![left[0]];
        while let Some(from) = predecessor(path[path.len() - 1]) {
            if let Some(start) = path.iter().position(|name| *name == from) {
                let mut circle = path[start..].to_vec();
                circle.push(from);
                circle.reverse();
                return circle.join(" -> ");
            }
            path.push(from);
        }
        left.join(", ")
    }
}

/// Whether a function may be called so.
pub(crate) fn is_function_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain)
}

/// Whether it is the plain name of a file that is not hidden.
pub(crate) fn is_output_name(name: &str) -> bool {
    let file_name = Path::new(name).file_name();
    file_name == Some(name.as_ref()) && !name.starts_with('.') && !name.contains('\0')
}

/// What is wrong with a workflow file.
#[derive(Debug)]
pub struct WorkflowError {
    file: PathBuf,
    problems: Vec<String>,
}

impl WorkflowError {
    /// Problems of that file, found by reading it or by whoever looked at what it names.
    #[must_use]
    pub fn new(file: &Path, problems: Vec<String>) -> Self {
        Self {
            file: file.to_owned(),
            problems,
        }
    }

    /// One sentence each.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for WorkflowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.problems.as_slice() {
            [problem] => write!(f, "workflow {file}: {}", problem.trim_end()),
            problems => {
                write!(f, "workflow {file}: {} problems", problems.len())?;
                for problem in problems.iter().take(SHOWN) {
                    write!(f, "\n  - {}", problem.trim_end())?;
                }
                match problems.len().checked_sub(SHOWN) {
                    None | Some(0) => Ok(()),
                    Some(more) => write!(f, "\n  and {more} more"),
                }
            }
        }
    }
}

impl std::error::Error for WorkflowError {}

#[cfg(test)]
mod tests;
