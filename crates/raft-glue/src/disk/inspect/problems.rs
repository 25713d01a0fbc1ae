//! What is wrong with a directory, what a start would make of it, and what an operator can do.

use super::{Segment, SegmentEnd, Snapshot, Standing};
use crate::LogIndex;
use crate::disk::error::LoadError;
use crate::disk::examine::{Examined, Harmless, Loss, Repair};
use crate::disk::repair::{decide_metadata, loss_error};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Entries that may have been acknowledged are gone, or term and vote.
    Loss,
    /// Something does not decode, but everything in it is elsewhere too.
    Harmless,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The damaged or unexpected file.
    pub file: String,
    /// Where in the file, bytes, if a place can be named.
    pub offset: Option<u64>,
    /// First entry concerned.
    pub index: Option<LogIndex>,
    /// What is wrong.
    pub message: String,
    /// What a start of a node would do.
    pub outcome: String,
    /// What an operator can do, if anything has to be done.
    pub remedy: Option<String>,
}

pub(super) fn find(examined: &Examined, segments: &[Segment], snapshots: &[Snapshot]) -> Vec<Problem> {
    let voters =
        examined.configuration.as_ref().map_or(0, |(_, configuration)| configuration.voters().count());
    let mut problems: Vec<Problem> = Vec::new();
    problems.extend(examined.loss.as_ref().map(|found| loss(examined, found, voters)));
    problems.extend(metadata(examined, voters));
    problems.extend(examined.harmless.iter().map(harmless));
    let is_known = |problems: &[Problem], name: &str| {
        problems.iter().any(|problem| problem.file == name || problem.file == format!("{name}.meta"))
            || examined.loss.as_ref().is_some_and(|loss| loss.aside.iter().any(|aside| aside == name))
    };
    // A start does not look at these.
    for segment in segments {
        if let SegmentEnd::Damaged { offset, message } = &segment.end
            && segment.standing == Standing::Superfluous
            && !is_known(&problems, &segment.name)
        {
            problems.push(Problem {
                severity: Severity::Harmless,
                file: segment.name.clone(),
                offset: Some(*offset),
                index: segment.first,
                message: format!("load segment {}: {message}", segment.name),
                outcome: "a start removes it: the snapshot has everything that was in it".to_owned(),
                remedy: None,
            });
        }
    }
    for snapshot in snapshots {
        if let Err(message) = &snapshot.content
            && !is_known(&problems, &snapshot.name)
        {
            problems.push(Problem {
                severity: Severity::Harmless,
                file: snapshot.name.clone(),
                offset: None,
                index: Some(snapshot.index),
                message: format!("load {}: {message}", snapshot.name),
                outcome: "a start uses a newer snapshot".to_owned(),
                remedy: None,
            });
        }
    }
    problems.sort_by_key(|problem| problem.severity);
    problems
}

fn loss(examined: &Examined, loss: &Loss, voters: usize) -> Problem {
    let outcome = if voters >= 2 {
        format!(
            "a start with auto-recovery keeps the log up to entry {}, moves {} aside, and neither votes nor leads \
             before entry {} is known to be committed; without auto-recovery it is refused",
            loss.index.saturating_sub(1),
            if loss.aside.is_empty() { "nothing".to_owned() } else { loss.aside.join(", ") },
            loss.reach
        )
    } else {
        format!("a start is refused: no other voter has the entries from {} on", loss.index)
    };
    let from = |file: String, message: String, remedy: String| Problem {
        severity: Severity::Loss,
        file,
        offset: loss.offset,
        index: Some(LogIndex(loss.index)),
        message,
        outcome,
        remedy: Some(remedy),
    };
    match loss_error(examined, loss, voters) {
        LoadError::Damaged { file, message, remedy, .. }
        | LoadError::Snapshot { file, message, remedy }
        | LoadError::Metadata { file, message, remedy } => from(file, message, remedy),
        LoadError::Disk(error) => from(loss.file.clone(), error.to_string(), String::new()),
    }
}

fn metadata(examined: &Examined, voters: usize) -> Option<Problem> {
    match decide_metadata(examined, false) {
        Ok(record) => {
            let found = examined.metadata.newest?;
            (record != found).then(|| Problem {
                severity: Severity::Harmless,
                file: "metadata1, metadata2".to_owned(),
                offset: None,
                index: None,
                message: format!(
                    "the log holds entries of a later term than {}, which the metadata says",
                    found.hard_state.term
                ),
                outcome: format!("a start goes on in term {}", record.hard_state.term),
                remedy: None,
            })
        }
        Err(LoadError::Metadata { file, message, remedy }) => {
            let guess = decide_metadata(examined, true).ok().filter(|_| voters == 1);
            let outcome = match guess {
                Some(record) => format!(
                    "a start with auto-recovery goes on in term {}, since there is no other voter; without \
                     auto-recovery it is refused",
                    record.hard_state.term
                ),
                None => "a start is refused".to_owned(),
            };
            let severity = Severity::Loss;
            Some(Problem {
                severity,
                file,
                offset: None,
                index: None,
                message,
                outcome,
                remedy: Some(remedy),
            })
        }
        // Only metadata is decided upon.
        Err(_) => None,
    }
}

fn harmless(found: &Harmless) -> Problem {
    let action = match &found.repair {
        Repair::MoveAside(names) => format!("moves {} aside", names.join(", ")),
        Repair::CutTo(len) => format!("keeps a copy and cuts the file to {len} bytes"),
    };
    let outcome = if found.accepted_by_c {
        format!("a start {action}; everything in it is elsewhere, too")
    } else {
        format!(
            "a start with auto-recovery {action}, and nothing is lost by it; without auto-recovery it is refused"
        )
    };
    Problem {
        severity: Severity::Harmless,
        file: found.file.clone(),
        offset: found.offset,
        index: Some(LogIndex(found.index)),
        message: found.message.clone(),
        outcome,
        remedy: None,
    }
}
