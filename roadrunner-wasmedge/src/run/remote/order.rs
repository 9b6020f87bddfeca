//! What another host is asked to do.

use super::hexadecimal;
use crate::module::MAX_MODULE;
use crate::run::assignment::milliseconds;
use crate::run::control::{FunctionOrder, ModuleOrder, RunOrder};
use crate::run::coordinator::{Plan, RunError};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a host is asked to do, and the files of the modules in it.
pub(super) fn order(
    plan: &Plan<'_>,
    run: &str,
    secret: Option<String>,
    numbers: &[usize],
) -> Result<(RunOrder, Vec<PathBuf>), RunError> {
    let specs = numbers.iter().map(|n| &plan.workflow.functions[*n]);
    let mut places: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut modules = Vec::new();
    let mut files = Vec::new();
    let mut functions = Vec::new();
    let mut input = false;
    for spec in specs {
        let module = match places.get(spec.module.as_path()) {
            Some(place) => *place,
            None => {
                modules.push(module(&spec.module)?);
                files.push(spec.module.clone());
                places.insert(&spec.module, modules.len() - 1);
                modules.len() - 1
            }
        };
        input |= spec.predecessors.is_empty();
        functions.push(FunctionOrder {
            name: spec.name.clone(),
            module,
            env: spec.env.clone(),
            max_pages: spec.max_pages,
            predecessors: spec.predecessors.clone(),
            successors: spec.successors.clone(),
            output: spec.output.clone(),
        });
    }
    let input = input
        .then(|| std::fs::metadata(&plan.input).map(|metadata| metadata.len()))
        .transpose()
        .map_err(|error| RunError::new(format!("input {}: {error}", plan.input.display())))?;
    let order = RunOrder {
        run: run.to_owned(),
        secret,
        functions,
        modules,
        input,
        network_method: plan.network_method,
        sessions: plan.sessions,
        milliseconds_left: milliseconds(plan.deadline),
    };
    Ok((order, files))
}

fn module(path: &Path) -> Result<ModuleOrder, RunError> {
    let failed = |reason: String| RunError::new(format!("module {}: {reason}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MAX_MODULE {
        return Err(failed(format!(
            "is {} bytes long; a module has at most {MAX_MODULE}",
            bytes.len()
        )));
    }
    Ok(ModuleOrder {
        name: path.display().to_string(),
        text: path.extension().is_some_and(|extension| extension == "wat"),
        bytes: bytes.len() as u64,
        sha256: hexadecimal(&Sha256::digest(&bytes)),
    })
}
