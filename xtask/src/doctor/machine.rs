//! Processor, memory, limits and system software.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::Line;
use crate::command;
use crate::context::Context;

const ASK_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn lines(context: &Context) -> Vec<Line> {
    let mut lines = vec![
        Line::fact("kernel", kernel()),
        Line::fact("processors", processors()),
        Line::fact("memory", memory(context)),
        Line::fact("C library", ask("getconf", &["GNU_LIBC_VERSION"])),
        Line::fact("Rust", ask("rustc", &["--version"])),
    ];
    lines.extend(cgroup_limits(context).map(|limits| Line::fact("cgroup limits", limits)));
    lines
}

fn kernel() -> String {
    nix::sys::utsname::uname().map_or_else(
        |errno| format!("unknown: {errno}"),
        |name| {
            [name.sysname(), name.release(), name.machine()]
                .map(|part| part.to_string_lossy())
                .join(" ")
        },
    )
}

/// As many as this process may use, which a cgroup or an affinity mask can reduce.
fn processors() -> String {
    std::thread::available_parallelism().map_or_else(
        |error| format!("unknown: {error}"),
        |count| count.to_string(),
    )
}

fn memory(context: &Context) -> String {
    let text = fs::read_to_string(context.machine("/proc/meminfo")).unwrap_or_default();
    let of = |name: &str| {
        meminfo(&text, name).map_or("unknown".to_owned(), |kib| format!("{} MiB", kib / 1024))
    };
    format!("{}, {} available", of("MemTotal"), of("MemAvailable"))
}

/// A value of /proc/meminfo in KiB.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn ask(program: &str, arguments: &[&str]) -> String {
    match command::output(Command::new(program).args(arguments), ASK_LIMIT, || {}) {
        Ok(printed) => printed.trim().to_owned(),
        Err(error) => format!("unknown: {error:#}"),
    }
}

/// Limits of the cgroup (version 2) that this process is in, where it has any.
fn cgroup_limits(context: &Context) -> Option<String> {
    let own = fs::read_to_string(context.machine("/proc/self/cgroup")).ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let dir = context
        .machine("/sys/fs/cgroup")
        .join(path.trim_start_matches('/'));
    let limits: Vec<_> = ["memory.max", "cpu.max", "pids.max"]
        .iter()
        .filter_map(|name| {
            let value = fs::read_to_string(dir.join(name)).ok()?;
            let value = value.trim();
            (!value.starts_with("max")).then(|| format!("{name} {value}"))
        })
        .collect();
    (!limits.is_empty()).then(|| limits.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::tests::context;

    #[test]
    fn meminfo_is_read_by_its_whole_name() {
        let text = "MemTotal:       24105000 kB\nMemFree:          100 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_105_000));
        assert_eq!(meminfo(text, "Mem"), None);
    }

    #[test]
    fn only_limits_that_limit_are_shown() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("sys/fs/cgroup/mine");
        fs::create_dir_all(&group).unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/cgroup"), "1:cpu:/\n0::/mine\n").unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(group.join("cpu.max"), "max 100000\n").unwrap();
        let context = context(root.path(), &[]);
        assert_eq!(cgroup_limits(&context), None);
        fs::write(group.join("memory.max"), "1048576\n").unwrap();
        assert_eq!(
            cgroup_limits(&context).as_deref(),
            Some("memory.max 1048576")
        );
    }
}
