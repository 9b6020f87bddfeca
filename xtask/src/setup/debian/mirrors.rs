//! Where Debian's packages come from: a mirror that this machine uses already.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{ensure, Context as _, Result};

use super::RESOLVE_LIMIT;
use crate::command;
use crate::context::Context;

/// A source that apt is configured with.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    site: String,
    release: String,
    component: String,
}

/// Debian mirrors among the sources of this machine, the likeliest first.
pub(super) fn mirrors(context: &Context) -> Result<Vec<String>> {
    let listing = command::output(
        Command::new("apt-get").args([
            "indextargets",
            // Without it a machine whose lists were never fetched prints nothing.
            "--no-release-info",
            "--format",
            "$(SITE) $(RELEASE) $(COMPONENT)",
        ]),
        RESOLVE_LIMIT,
        || {},
    )
    .context("asking apt for its mirrors")?;
    let codename = codename(context);
    let mirrors = choose_mirrors(&parse_sources(&listing), codename.as_deref());
    ensure!(
        !mirrors.is_empty(),
        "apt has no Debian mirror among its sources"
    );
    Ok(mirrors)
}

/// The name of the Debian release that this machine runs.
pub(crate) fn codename(context: &Context) -> Option<String> {
    let text = fs::read_to_string(context.machine("/etc/os-release")).ok()?;
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches('"').to_owned())
    };
    (value("ID").as_deref() == Some("debian"))
        .then(|| value("VERSION_CODENAME"))
        .flatten()
}

fn parse_sources(listing: &str) -> Vec<Source> {
    listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(Source {
                site: words.next()?.trim_end_matches('/').to_owned(),
                release: words.next()?.to_owned(),
                component: words.next()?.to_owned(),
            })
        })
        .collect()
}

/// Sites that end in `/debian` come first, then those that carry `main` of the machine's own release: a mirror may have
/// any path, and vendors publish packages of their own below such names too, hence the order and not a single choice.
fn choose_mirrors(sources: &[Source], codename: Option<&str>) -> Vec<String> {
    let mut scores: BTreeMap<&str, u32> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.component == "main") {
        let own_release = codename == Some(source.release.as_str());
        let usual_path = source.site.ends_with("/debian");
        let score = u32::from(usual_path)
            + 2 * u32::from(own_release && usual_path)
            + u32::from(own_release);
        if score > 0 {
            let best = scores.entry(&source.site).or_default();
            *best = (*best).max(score);
        }
    }
    let mut sites: Vec<_> = scores.into_iter().collect();
    sites.sort_by_key(|&(_, score)| std::cmp::Reverse(score));
    sites.into_iter().map(|(site, _)| site.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debian_mirror_is_chosen_among_other_sites() {
        let sources = parse_sources(
            "https://deb.vendor.example/node_20.x nodistro main\n\
             https://packages.vendor.example/apt cloud-sdk main\n\
             http://mirror.example/debian-security bookworm-security main\n\
             https://download.vendor.example/linux/debian bookworm stable\n\
             http://mirror.example/debian bookworm main\n\
             http://mirror.example/debian bookworm main\n\
             http://mirror.example/debian bookworm-updates main\n",
        );
        assert_eq!(
            choose_mirrors(&sources, Some("bookworm")),
            ["http://mirror.example/debian"]
        );
        assert_eq!(
            choose_mirrors(&sources, None),
            ["http://mirror.example/debian"]
        );
    }

    #[test]
    fn a_mirror_with_an_unusual_path_is_known_by_the_release_it_carries() {
        let sources = parse_sources(
            "https://proxy.example/cache/deb-remote/ bookworm main\n\
             https://vendor.example/debian/12/prod bookworm main\n\
             https://vendor.example/other/debian stable main\n",
        );
        assert_eq!(
            choose_mirrors(&sources, Some("bookworm")),
            [
                "https://proxy.example/cache/deb-remote",
                "https://vendor.example/debian/12/prod",
                "https://vendor.example/other/debian",
            ]
        );
    }

    #[test]
    fn a_machine_without_debian_sources_has_no_mirror() {
        let sources = parse_sources("http://archive.example/ubuntu noble main\n\n");
        assert_eq!(choose_mirrors(&sources, None), Vec::<String>::new());
    }

    #[test]
    fn the_release_name_is_that_of_debian_only() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let context = || crate::setup::tests::context(root.path(), &[]);
        let release = root.path().join("etc/os-release");
        fs::write(&release, "ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
        assert_eq!(codename(&context()).as_deref(), Some("bookworm"));
        fs::write(&release, "ID=ubuntu\nVERSION_CODENAME=noble\n").unwrap();
        assert_eq!(codename(&context()), None);
    }
}
