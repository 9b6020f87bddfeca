//! What a run says of the tests, beside the list of those that may survive.

use std::collections::BTreeMap;
use std::fmt;

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Caught,
    /// The tests did not end, which is noticed.
    Hung,
    Survived,
    /// It does not compile, and says nothing.
    NoCode,
}

/// An entry of the list.
#[derive(Debug, Clone)]
pub(super) struct Survivor {
    /// Its name without the line, which every edit moves.
    pub(super) mutant: String,
    pub(super) reason: String,
    /// How many of this name may survive.
    pub(super) count: usize,
}

/// A mutant's name without line and column: `file.rs:12:5: replace ...` is `file.rs: replace ...`.
pub(super) fn key(name: &str) -> String {
    match name.split_once(": ") {
        Some((place, what)) => {
            let file = place.split(':').next().unwrap_or_default();
            format!("{file}: {what}")
        }
        None => name.to_owned(),
    }
}

/// The names of survivors of which there are more than the list allows.
pub(super) fn unlisted(outcomes: &[(String, Ended)], listed: &[Survivor]) -> Vec<String> {
    let mut survived: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for (name, ended) in outcomes {
        if *ended == Ended::Survived {
            survived.entry(key(name)).or_default().push(name);
        }
    }
    survived.retain(|mutant, names| {
        let allowed = listed.iter().find(|survivor| survivor.mutant == *mutant);
        allowed.is_none_or(|survivor| survivor.count < names.len())
    });
    survived.into_values().flatten().cloned().collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    caught: usize,
    hung: usize,
    no_code: usize,
    survived: usize,
    /// Survivors that are listed, each with its reason.
    known: Vec<String>,
    /// Survivors that are not, by their whole names.
    unknown: Vec<String>,
    /// Entries that are no longer true, and why.
    stale: Vec<String>,
}

impl Verdict {
    /// `all` has the key of every mutant that there is, `outcomes` the name of each that was run.
    pub(super) fn of(all: &[String], outcomes: &[(String, Ended)], listed: &[Survivor]) -> Self {
        let count = |wanted| {
            outcomes
                .iter()
                .filter(|(_, ended)| *ended == wanted)
                .count()
        };
        let mut verdict = Self {
            caught: count(Ended::Caught),
            hung: count(Ended::Hung),
            no_code: count(Ended::NoCode),
            survived: count(Ended::Survived),
            ..Self::default()
        };
        let mut ran: BTreeMap<String, usize> = BTreeMap::new();
        let mut survived: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, ended) in outcomes {
            *ran.entry(key(name)).or_default() += 1;
            if *ended == Ended::Survived {
                survived.entry(key(name)).or_default().push(name);
            }
        }
        for Survivor {
            mutant,
            reason,
            count,
        } in listed
        {
            let there = all.iter().filter(|other| *other == mutant).count();
            let names = survived.remove(mutant).unwrap_or_default();
            if !names.is_empty() {
                verdict.known.push(format!("{mutant} ({reason})"));
            }
            let unlisted = names.iter().skip(*count).map(|name| (*name).to_owned());
            verdict.unknown.extend(unlisted);
            if there == 0 {
                verdict.stale.push(format!("{mutant}: there is no such"));
            } else if ran.get(mutant) == Some(&there) && names.len() < *count {
                let caught = count - names.len();
                verdict
                    .stale
                    .push(format!("{mutant}: {caught} of {count} did not survive"));
            }
        }
        let unlisted = survived.into_values().flatten().map(str::to_owned);
        verdict.unknown.extend(unlisted);
        verdict
    }

    /// How often run and list differ.
    pub(super) fn complaints(&self) -> usize {
        self.unknown.len() + self.stale.len()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noticed = self.caught + self.hung;
        let viable = noticed + self.survived;
        let share = match viable {
            0 => 100.0,
            _ => 100.0 * noticed as f64 / viable as f64,
        };
        writeln!(
            f,
            "{} mutants, {} do not compile; {} caught, {} hang, {} survive: {share:.1} %",
            viable + self.no_code,
            self.no_code,
            self.caught,
            self.hung,
            self.survived
        )?;
        for (word, lines) in [
            ("survives", &self.known),
            ("SURVIVES, not listed", &self.unknown),
            ("LISTED", &self.stale),
        ] {
            for line in lines {
                writeln!(f, "  {word}: {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[(&str, Ended)]) -> Vec<(String, Ended)> {
        let owned = |(name, ended): &(&str, Ended)| ((*name).to_owned(), *ended);
        all.iter().map(owned).collect()
    }

    fn listed(mutant: &str, count: usize) -> Survivor {
        Survivor {
            mutant: mutant.to_owned(),
            reason: "why".to_owned(),
            count,
        }
    }

    const ALL: [(&str, Ended); 5] = [
        ("a.rs:1:2: replace f -> u64 with 0", Ended::Caught),
        ("a.rs:2:2: replace < with <= in f", Ended::Survived),
        ("a.rs:3:2: replace < with <= in f", Ended::Survived),
        ("a.rs:4:2: replace g with ()", Ended::Hung),
        ("a.rs:5:2: replace h with ()", Ended::NoCode),
    ];

    fn keys() -> Vec<String> {
        ALL.iter().map(|(name, _)| key(name)).collect()
    }

    #[test]
    fn what_survives_has_to_be_listed() {
        let outcomes = names(&ALL);
        let verdict = Verdict::of(&keys(), &outcomes, &[]);
        assert_eq!(verdict.unknown.len(), 2);
        assert!(verdict.to_string().contains("50.0 %"), "{verdict}");
        let one = Verdict::of(
            &keys(),
            &outcomes,
            &[listed("a.rs: replace < with <= in f", 1)],
        );
        assert_eq!(one.unknown, ["a.rs:3:2: replace < with <= in f"]);
        let both = Verdict::of(
            &keys(),
            &outcomes,
            &[listed("a.rs: replace < with <= in f", 2)],
        );
        assert_eq!(both.complaints(), 0);
    }

    #[test]
    fn all_tests_are_asked_about_those_that_are_not_listed() {
        let mutant = "a.rs: replace < with <= in f";
        let asked = |listed: &[Survivor]| unlisted(&names(&ALL), listed).len();
        assert_eq!(asked(&[]), 2);
        assert_eq!(
            asked(&[listed(mutant, 1)]),
            2,
            "one of them, and nobody knows which"
        );
        assert_eq!(asked(&[listed(mutant, 2)]), 0);
    }

    #[test]
    fn what_is_listed_has_to_survive() {
        let outcomes = names(&ALL);
        let both = listed("a.rs: replace < with <= in f", 2);
        for (entry, why) in [
            (listed("a.rs: replace f -> u64 with 0", 1), "1 of 1 did not"),
            (listed("a.rs: replace g with ()", 1), "1 of 1 did not"),
            (listed("a.rs: replace i with ()", 1), "there is no such"),
        ] {
            let verdict = Verdict::of(&keys(), &outcomes, &[both.clone(), entry]);
            assert_eq!(verdict.complaints(), 1);
            assert!(verdict.stale[0].contains(why), "{verdict}");
        }
        // Not where a shard left some of that name out.
        let verdict = Verdict::of(&keys(), &outcomes[2..], &[both]);
        assert_eq!(verdict.complaints(), 0, "{verdict}");
    }

    #[test]
    fn a_name_is_known_without_its_line() {
        assert_eq!(
            key("src/a.rs:12:5: replace f -> Result<(), a::E> with Ok(())"),
            "src/a.rs: replace f -> Result<(), a::E> with Ok(())"
        );
        assert_eq!(
            key("src/a.rs: replace f with ()"),
            "src/a.rs: replace f with ()"
        );
    }
}
