//! The ratios the project promises, taken from a run.

use std::fmt;

use crate::results::{Cell, PLAIN_SQLITE, Results, Sample};
use crate::statistics::Spread;
use crate::workload::Load;

const OURS: &str = "ours";
/// Lock errors: SQLITE_BUSY and its extended codes.
const LOCK_ERRORS: [&str; 3] = ["5", "261", "517"];

/// One promise and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) what: &'static str,
    /// Whom we are compared to.
    pub(crate) other: String,
    bound: Bound,
    measured: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.measured >= bound,
            Bound::AtMost(bound) => self.measured <= bound,
        }
    }

    pub(crate) fn measured(&self) -> String {
        if self.measured >= 10.0 || self.measured == 0.0 {
            format!("{:.0}", self.measured)
        } else {
            format!("{:.2}", self.measured)
        }
    }

    pub(crate) fn bound(&self) -> String {
        self.bound.to_string()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
            Self::AtMost(bound) => write!(f, "at most {bound}"),
        }
    }
}

/// All whose cells were measured.
pub(crate) fn targets(results: &Results) -> Vec<Target> {
    let others = results.libraries.iter().filter(|name| !matches!(name.as_str(), OURS | PLAIN_SQLITE));
    let mut targets: Vec<Target> = others.flat_map(|other| against(results, other)).flatten().collect();
    targets.extend(alone(results).into_iter().flatten());
    targets
}

fn against(results: &Results, other: &str) -> [Option<Target>; 10] {
    let ratio = |what, load, clients, bound, figure: fn(&Sample) -> f64| {
        let of = |library| median(results, library, load, 3, clients, figure);
        // Nothing to compare to: an older run, or data on no disk of its own.
        let (ours, theirs) = (of(OURS)?, of(other).filter(|theirs| *theirs > 0.0)?);
        Some(Target { what, other: other.to_owned(), bound, measured: ours / theirs })
    };
    let p99 = |sample: &Sample| f64::from(sample.p99_us);
    use Bound::{AtLeast, AtMost};
    [
        ratio("kv write, 32 clients: tx/s", Load::KvWrite, 32, AtLeast(20.0), Sample::per_second),
        ratio("kv write, 1 client: tx/s", Load::KvWrite, 1, AtLeast(1.5), Sample::per_second),
        ratio("kv write, 1 client: p99", Load::KvWrite, 1, AtMost(0.7), p99),
        ratio(
            "explicit transactions, 32 clients: tx/s",
            Load::Transactions,
            32,
            AtLeast(10.0),
            Sample::per_second,
        ),
        ratio("kine, 32 clients: operations/s", Load::Kine, 32, AtLeast(5.0), Sample::per_second),
        ratio("kine, 32 clients: p99", Load::Kine, 32, AtMost(0.3), p99),
        ratio("reads, 32 clients: operations/s", Load::Reads, 32, AtLeast(1.5), Sample::per_second),
        ratio(
            "kv write, 32 clients: CPU s per 1000 tx",
            Load::KvWrite,
            32,
            AtMost(0.4),
            Sample::cpu_s_per_1000,
        ),
        ratio(
            "kv write, 32 clients: bytes to disk per tx",
            Load::KvWrite,
            32,
            AtMost(0.4),
            Sample::bytes_per_operation,
        ),
        ratio(
            "the same, with what the file system adds: bytes the disk was given",
            Load::KvWrite,
            32,
            AtMost(0.4),
            Sample::device_bytes_per_operation,
        ),
    ]
}

/// Those without another dqlite.
fn alone(results: &Results) -> Vec<Option<Target>> {
    let rate =
        |library, nodes, clients| median(results, library, Load::KvWrite, nodes, clients, Sample::per_second);
    let mut targets = Vec::new();
    targets.push(rate(OURS, 3, 128).zip(rate(OURS, 3, 32)).map(|(many, few)| Target {
        what: "kv write, 128 clients: tx/s",
        other: "ours with 32".to_owned(),
        bound: Bound::AtLeast(0.9),
        measured: many / few,
    }));
    targets.push(rate(OURS, 1, 32).zip(rate(PLAIN_SQLITE, 1, 1)).map(|(ours, plain)| Target {
        what: "one node, kv write, 32 clients: tx/s",
        other: "plain SQLite".to_owned(),
        bound: Bound::AtLeast(3.0),
        measured: ours / plain,
    }));
    for (what, load, clients) in [
        ("kv write, 32 clients: errors", Load::KvWrite, 32),
        ("kv write, 128 clients: errors", Load::KvWrite, 128),
        ("explicit transactions, 32 clients: lock errors", Load::Transactions, 32),
    ] {
        let counts = |sample: &Sample| -> usize {
            let of_interest = |code: &str| load != Load::Transactions || LOCK_ERRORS.contains(&code);
            sample.errors.iter().filter(|(code, _)| of_interest(code)).map(|(_, count)| count).sum()
        };
        let samples = samples(results, OURS, load, 3, clients);
        targets.push((!samples.is_empty()).then(|| Target {
            what,
            other: "-".to_owned(),
            bound: Bound::AtMost(0.0),
            measured: samples.into_iter().map(counts).sum::<usize>() as f64,
        }));
    }
    targets
}

fn samples<'a>(
    results: &'a Results,
    library: &str,
    load: Load,
    nodes: usize,
    clients: usize,
) -> Vec<&'a Sample> {
    let cell = Cell { load: load.name().to_owned(), nodes, delay_ms: 0, clients };
    let rounds = results.cells.get(&cell).and_then(|libraries| libraries.get(library));
    rounds.into_iter().flatten().filter_map(|round| round.as_ref().ok()).collect()
}

fn median(
    results: &Results,
    library: &str,
    load: Load,
    nodes: usize,
    clients: usize,
    figure: impl Fn(&Sample) -> f64,
) -> Option<f64> {
    let samples = samples(results, library, load, nodes, clients);
    Spread::of(samples.into_iter().map(figure)).map(|spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(ours: usize, c: usize, errors: usize) -> Results {
        let mut results = Results::default();
        for (library, operations) in [(OURS, ours), ("C", c)] {
            let mut sample = Sample { operations, seconds: 1.0, ..Sample::default() };
            if library == OURS && errors > 0 {
                sample.errors.insert("5".to_owned(), errors);
            }
            let cell = Cell { load: "kv-write".to_owned(), nodes: 3, delay_ms: 0, clients: 32 };
            results.add(cell, library, Ok(sample));
        }
        results
    }

    fn verdict(results: &Results, what: &str) -> Option<(String, bool)> {
        let target = targets(results).into_iter().find(|target| target.what == what)?;
        Some((target.measured(), target.is_met()))
    }

    #[test]
    fn ratios_are_judged() {
        let what = "kv write, 32 clients: tx/s";
        assert_eq!(verdict(&results(2000, 100, 0), what), Some(("20".to_owned(), true)));
        assert_eq!(verdict(&results(500, 100, 0), what), Some(("5.00".to_owned(), false)));
    }

    #[test]
    fn one_error_is_too_many() {
        let what = "kv write, 32 clients: errors";
        assert_eq!(verdict(&results(1, 1, 0), what), Some(("0".to_owned(), true)));
        assert_eq!(verdict(&results(1, 1, 1), what), Some(("1.00".to_owned(), false)));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(verdict(&results(1, 1, 0), "reads, 32 clients: operations/s"), None);
        assert_eq!(targets(&Results::default()), []);
    }
}
