//! Seeds in a process of their own, since SQLite's allocator and caches are global: how it is started, and the lines it says.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use planted::Bug;
use sim::Stats;

/// What a seed came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) seed: u64,
    /// Nothing if the process said something else, or says no more.
    pub(crate) stats: Option<Stats>,
    /// The violation; empty if there was none.
    pub(crate) text: String,
}

impl Line {
    /// What a process said of the seed that comes next.
    pub(crate) fn parse(line: &str, expected: u64) -> Self {
        let mut parts = line.splitn(3, '\t');
        let seed = parts.next().and_then(|seed| seed.parse().ok());
        let stats = parts.next().and_then(Stats::from_line);
        match (seed, stats, parts.next()) {
            (Some(seed), Some(stats), Some(text)) => Self { seed, stats: Some(stats), text: text.to_owned() },
            _ => Self::dead(expected, &format!("the process is understood: it says {line:?}")),
        }
    }

    /// Of a process that says no more.
    pub(crate) fn dead(seed: u64, text: &str) -> Self {
        Self { seed, stats: None, text: text.to_owned() }
    }
}

/// As [`Line::parse`] reads it.
impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats.as_ref().map_or_else(String::new, Stats::to_line);
        write!(formatter, "{}\t{stats}\t{}", self.seed, self.text.replace('\n', " "))
    }
}

/// Starts a process for every `distance`th of these seeds, from the one at `offset` on.
pub(crate) fn spawn(
    program: &Path,
    bug: Option<Bug>,
    seeds: &Range<u64>,
    (offset, distance): (u64, u64),
    minutes: u64,
) -> Child {
    let mut command = Command::new(program);
    if let Some(bug) = bug {
        command.args(["--planted", bug.name()]);
    }
    command
        .args(["--seeds", &format!("{}..{}", seeds.start, seeds.end)])
        .args(["--minutes", &minutes.to_string()])
        .args(["--worker", &format!("{offset}/{distance}")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts a second time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_none_ends_the_process() {
        let line = Line::parse("7\t1 2 3\tcheck: text", 7);
        assert_eq!((line.seed, line.text.as_str(), line.stats.is_some()), (7, "check: text", true));
        assert_eq!(Line::parse(&line.to_string(), 9), line);
        assert!(Line::parse("7\t1 2 3\t", 7).text.is_empty());
        assert_eq!(Line::parse("panicked", 7).seed, 7);
        assert!(Line::parse("panicked", 7).stats.is_none());
    }
}
