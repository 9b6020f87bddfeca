//! Where functions run: the names and addresses of hosts in a workflow file.

use super::{RawFunction, RawWorkflow};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The address of the host that the file gives a function, whether by name or as it is.
pub(super) fn of<'a>(
    function: &'a RawFunction,
    hosts: &'a BTreeMap<String, String>,
) -> Option<&'a str> {
    let host = function.host.as_deref()?;
    Some(hosts.get(host).map_or(host, String::as_str))
}

pub(super) fn problems(workflow: &RawWorkflow) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, address) in &workflow.hosts {
        if !is_address(address) {
            problems.push(format!(
                "[hosts]: {name} = {address:?} is no address; give one as in \"10.0.0.2:7000\""
            ));
        }
    }
    for function in &workflow.functions {
        let Some(host) = &function.host else { continue };
        let name = &function.name;
        if !workflow.hosts.contains_key(host) && !is_address(host) {
            problems.push(format!(
                "function `{name}`: host {host:?} is neither a name of [hosts] nor an address as in \"10.0.0.2:7000\""
            ));
        }
        if function.listen.is_some() || function.socket.is_some() {
            problems.push(format!(
                "function `{name}` runs on host {host:?}, which chooses itself where it listens: leave out `listen` \
                 and `socket`"
            ));
        }
    }
    problems.extend(unreachable(workflow));
    problems
}

/// `name:port`, `1.2.3.4:port` or `[::1]:port`.
fn is_address(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.rsplit_once(':').is_some_and(|(name, port)| {
        !name.is_empty()
            && name.chars().all(plain)
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// Edges to a function whose address means another host where the payload comes from.
fn unreachable(workflow: &RawWorkflow) -> Vec<String> {
    let host = |name: &str| {
        let function = workflow.functions.iter().find(|f| f.name == name)?;
        of(function, &workflow.hosts)
    };
    let edges = workflow
        .edges
        .iter()
        .flat_map(|(from, successors)| successors.iter().map(move |to| (from, to)));
    edges
        .filter_map(|(from, to)| {
            let (there, here) = (host(from)?, host(to)?);
            (is_loopback(here) && !is_loopback(there)).then(|| {
                format!(
                    "edge {from} -> {to}: on {there}, where `{from}` runs, the address {here} of `{to}` means {there} \
                     itself; give `{to}` an address that other hosts reach it at"
                )
            })
        })
        .collect()
}

fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => address.starts_with("localhost:"),
    }
}
