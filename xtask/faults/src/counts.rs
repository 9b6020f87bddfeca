//! What the process holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What this process holds, as `/proc/self` tells it (proc(5)), and the files of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    held: BTreeMap<String, usize>,
    plain: Plain,
}

/// Private mappings without a name. The allocator maps such as well, and neighbours become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plain {
    /// How many.
    pub mappings: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Counts {
    /// Descriptors by kind, mappings by name, children, and the files in `directory`.
    ///
    /// # Panics
    /// If `/proc` is not mounted.
    #[must_use]
    pub fn now(directory: Option<&Path>) -> Self {
        let mut held = BTreeMap::new();
        let mut add = |what: String, count| *held.entry(what).or_insert(0) += count;
        for entry in fs::read_dir("/proc/self/fd")
            .expect("/proc is mounted")
            .flatten()
        {
            // One of them is that of this listing, and closed by now in the next.
            if let Ok(target) = fs::read_link(entry.path()) {
                let target = target.to_string_lossy();
                let kind = target.split(":[").next().unwrap_or_default();
                if !kind.starts_with("/proc/") {
                    add(format!("descriptor of {kind}"), 1);
                }
            }
        }
        for task in fs::read_dir("/proc/self/task")
            .expect("/proc is mounted")
            .flatten()
        {
            // A thread that has just ended has no list any more.
            let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            if !list.is_empty() {
                add("child".to_owned(), list.split_whitespace().count());
            }
        }
        let mut plain = Plain::default();
        let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
        for line in maps.lines() {
            let Some(mapping) = Mapping::parse(line) else {
                continue;
            };
            match mapping.name {
                "" => {
                    plain.mappings += 1;
                    plain.bytes += mapping.bytes;
                }
                // The program and its libraries, the heap, the stack.
                name if name.starts_with('/') && !name.starts_with("/memfd:") => {}
                name if name.starts_with('[') => {}
                name => add(format!("mapping of {name}"), 1),
            }
        }
        if let Some(directory) = directory {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                add(format!("file {}", entry.file_name().to_string_lossy()), 1);
            }
        }
        Self { held, plain }
    }

    /// Private mappings without a name.
    #[must_use]
    pub fn plain(&self) -> Plain {
        self.plain
    }

    /// Open descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let of_descriptors = |(what, _): &(&String, _)| what.starts_with("descriptor of ");
        let counts = self.held.iter().filter(of_descriptors);
        counts.map(|(_, count)| count).sum()
    }

    /// Takes the mappings of `now` for those that have been there before.
    pub(crate) fn accept_mappings(&mut self, now: &Self) {
        let is_mapping = |what: &str| what.starts_with("mapping of ");
        self.held.retain(|what, _| !is_mapping(what));
        let theirs = now.held.iter().filter(|(what, _)| is_mapping(what));
        self.held
            .extend(theirs.map(|(what, count)| (what.clone(), *count)));
    }

    /// What there is more or less of than there was `before`, plain mappings aside; `None` if nothing.
    #[must_use]
    pub fn difference(&self, before: &Self) -> Option<String> {
        let mut lines = Vec::new();
        for what in before.held.keys().chain(self.held.keys()) {
            let count = |counts: &Self| counts.held.get(what).copied().unwrap_or(0);
            let (then, now) = (count(before), count(self));
            let line = format!("{what}: {then} before, {now} after");
            if then != now && !lines.contains(&line) {
                lines.push(line);
            }
        }
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// A line of `/proc/self/maps`: `7f0-7f1 rw-p 00000000 00:00 0   [heap]`.
struct Mapping<'a> {
    bytes: u64,
    name: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        // The name may have spaces in it; permissions, offset, device and inode come before.
        let mut name = rest;
        for _ in 0..4 {
            name = name
                .trim_start()
                .split_once(' ')
                .map_or("", |(_, rest)| rest);
        }
        Some(Self {
            bytes: number(end)?.checked_sub(number(start)?)?,
            name: name.trim(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn lines_are_read() {
        let line = "7f1000-7f3000 rw-s 00000000 00:01 1042    /memfd:a b (deleted)";
        let mapping = Mapping::parse(line).expect("a line");
        assert_eq!(
            (mapping.bytes, mapping.name),
            (0x2000, "/memfd:a b (deleted)")
        );
        let mapping = Mapping::parse("7f1000-7f2000 rw-p 00000000 00:00 0 ").expect("a line");
        assert_eq!((mapping.bytes, mapping.name), (0x1000, ""));
    }

    #[test]
    fn what_is_left_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let before = Counts::now(Some(directory.path()));
        assert_eq!(
            Counts::now(Some(directory.path())).difference(&before),
            None
        );
        let path = directory.path().join("left");
        let _file = File::create(&path).expect("a file");
        let told = Counts::now(Some(directory.path())).difference(&before);
        let told = told.expect("two things are left");
        assert!(told.contains("file left: 0 before, 1 after"), "{told}");
        assert!(told.contains("descriptor of /"), "{told}");
    }
}
