//! What clients asked, when, and what they were told.

use std::fmt::Write;
use std::time::{Duration, Instant};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was acknowledged.
    Ok,
    /// It was refused, and has no effect.
    Fail,
    /// Nobody knows.
    Unknown,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Unknown => "info",
        }
    }
}

/// A part of a transaction of lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A value, never used twice, is appended to the list of this key.
    Append(i64, i64),
    /// The list of this key was read.
    Read(i64, Option<Vec<i64>>),
}

/// Something that took time.
#[derive(Clone, Debug)]
pub struct Timed<T> {
    /// When it was asked.
    pub start: Duration,
    /// When it was answered, or given up.
    pub end: Duration,
    /// How it ended.
    pub outcome: End,
    /// What it was.
    pub what: T,
}

/// An access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This value, never used twice, was written.
    Write(i64, i64),
    /// This value was read.
    Read(i64, i64),
}

/// Everything that happened to clients.
#[derive(Debug)]
pub struct History {
    begin: Instant,
    /// Transactions of lists, one JSON line for each beginning and each end, in real order.
    lines: String,
    acknowledged: usize,
    /// Acknowledged appends, key and value.
    pub appended: Vec<(i64, i64)>,
    /// Accesses to registers.
    pub registers: Vec<Timed<Access>>,
    /// Members added to the set.
    pub set: Vec<Timed<i64>>,
    /// Totals of all accounts that somebody has seen.
    pub totals: Vec<i64>,
    /// Errors that no fault explains.
    pub strange: Vec<String>,
}

impl History {
    /// An empty one; times count from `begin`.
    #[must_use]
    pub fn new(begin: Instant) -> Self {
        Self {
            begin,
            lines: String::new(),
            acknowledged: 0,
            appended: Vec::new(),
            registers: Vec::new(),
            set: Vec::new(),
            totals: Vec::new(),
            strange: Vec::new(),
        }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// A transaction of lists begins.
    pub fn invoke(&mut self, process: u64, steps: &[Step]) {
        self.line("invoke", process, steps);
    }

    /// It has ended.
    pub fn complete(&mut self, process: u64, outcome: End, steps: &[Step]) {
        if outcome == End::Ok {
            self.acknowledged += 1;
            self.appended.extend(steps.iter().filter_map(|step| match step {
                Step::Append(key, value) => Some((*key, *value)),
                Step::Read(..) => None,
            }));
        }
        self.line(outcome.name(), process, steps);
    }

    fn line(&mut self, kind: &str, process: u64, steps: &[Step]) {
        let steps: Vec<String> = steps
            .iter()
            .map(|step| match step {
                Step::Append(key, value) => format!("[\"append\",{key},{value}]"),
                Step::Read(key, None) => format!("[\"r\",{key},null]"),
                Step::Read(key, Some(list)) => format!("[\"r\",{key},{list:?}]"),
            })
            .collect();
        let text = format!(
            "{{\"type\":\"{kind}\",\"process\":{process},\"time\":{},\"value\":[{}]}}",
            self.now().as_micros(),
            steps.join(",")
        );
        // Writing to a text cannot fail.
        let _ = writeln!(self.lines, "{text}");
    }

    /// The transactions of lists in the format of Elle.
    #[must_use]
    pub fn lists(&self) -> &str {
        &self.lines
    }

    /// How many transactions were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        let ok = |outcome: &End| *outcome == End::Ok;
        self.acknowledged
            + self.set.iter().filter(|timed| ok(&timed.outcome)).count()
            + self.registers.iter().filter(|timed| ok(&timed.outcome)).count()
    }
}
