//! The report for people.

use std::io::{self, Write};

use raft_glue::disk::{MetadataFile, Problem, Segment, SegmentEnd, Snapshot, Standing};

use super::report::{DatabaseReport, Report, kind, role, severity};

/// Prints a report; `explain` prints all there is to say about each problem.
pub(super) fn print(report: &Report, explain: bool, out: &mut dyn Write) -> io::Result<()> {
    let found = &report.inspection;
    let state = found.loaded.hard_state;
    writeln!(out, "term {}, {}", state.term, vote(state.vote.map(|id| id.0)))?;
    for file in &found.metadata {
        writeln!(out, "  {}", metadata(file))?;
    }
    match found.loaded.entries.first() {
        Some(_) => writeln!(
            out,
            "log from entry {} to {}, last term {}",
            found.loaded.first_index, found.last_index, found.last_term
        )?,
        None => {
            writeln!(
                out,
                "log without entries, last index {}, last term {}",
                found.last_index, found.last_term
            )?;
        }
    }
    for file in &found.segments {
        writeln!(out, "  {}", segment(file))?;
    }
    writeln!(out, "snapshots{}", none_if(found.snapshots.is_empty()))?;
    for file in &found.snapshots {
        writeln!(out, "  {}", snapshot(file))?;
    }
    match &found.configuration {
        None => writeln!(out, "configuration: none")?,
        Some((index, configuration)) => {
            writeln!(out, "configuration of entry {index}")?;
            for server in &configuration.servers {
                writeln!(out, "  {} {} {}", server.id, server.address, role(server.role))?;
            }
        }
    }
    writeln!(out, "databases as of entry {}{}", report.as_of, none_if(report.databases.is_empty()))?;
    for found in &report.databases {
        writeln!(out, "  {}", database(found))?;
    }
    if !found.others.is_empty() {
        writeln!(out, "other files")?;
    }
    for other in &found.others {
        writeln!(out, "  {}: {}, {} bytes", other.name, kind(other.kind), other.size)?;
    }
    if let Some(index) = found.loaded.no_vote_until {
        writeln!(
            out,
            "damage was moved aside: the node neither votes nor leads before entry {index} is known to be committed"
        )?;
    }
    problems(report, explain, out)
}

fn problems(report: &Report, explain: bool, out: &mut dyn Write) -> io::Result<()> {
    let found = &report.inspection.problems;
    if !report.has_problems() {
        return writeln!(out, "no problems");
    }
    writeln!(out, "problems{}", if explain { "" } else { " (--check explains them)" })?;
    for (number, problem) in (1..).zip(found) {
        writeln!(out, "  {number}. {}", headline(problem))?;
        if explain {
            explain_problem(problem, out)?;
        }
    }
    let mut number = found.len() + 1;
    if let Some(reason) = &report.failure {
        writeln!(out, "  {number}. {reason}")?;
        if explain {
            writeln!(out, "     a start fails when it comes to this point")?;
        }
        number += 1;
    }
    for database in &report.databases {
        if let Some(Ok(found)) = &database.integrity
            && !found.is_empty()
        {
            let name = String::from_utf8_lossy(&database.name);
            writeln!(out, "  {number}. database {name}, according to SQLite: {}", found.join("; "))?;
            number += 1;
        }
    }
    Ok(())
}

fn headline(problem: &Problem) -> String {
    format!("{}: {}", severity(problem.severity), problem.message)
}

fn explain_problem(problem: &Problem, out: &mut dyn Write) -> io::Result<()> {
    let mut place = format!("file {}", problem.file);
    if let Some(offset) = problem.offset {
        place.push_str(&format!(", byte {offset}"));
    }
    if let Some(index) = problem.index {
        place.push_str(&format!(", from entry {index} on"));
    }
    writeln!(out, "     {place}")?;
    writeln!(out, "     {}", problem.outcome)?;
    match &problem.remedy {
        Some(remedy) => writeln!(out, "     what to do: {remedy}"),
        None => Ok(()),
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn none_if(is_empty: bool) -> &'static str {
    if is_empty { ": none" } else { "" }
}

fn vote(id: Option<u64>) -> String {
    id.map_or_else(|| "no vote".to_owned(), |id| format!("vote for {id}"))
}

fn metadata(file: &MetadataFile) -> String {
    match &file.content {
        Ok(record) => format!(
            "{}: version {}, term {}, {}",
            file.name,
            record.version,
            record.hard_state.term,
            vote(record.hard_state.vote.map(|id| id.0))
        ),
        Err(reason) => format!("{}: {reason}", file.name),
    }
}

fn segment(segment: &Segment) -> String {
    let mut text = format!("{}: ", segment.name);
    match (segment.first, segment.last()) {
        (Some(first), Some(last)) if first == last => text.push_str(&format!("entry {first}")),
        (Some(first), Some(last)) => text.push_str(&format!("entries {first} to {last}")),
        _ => text.push_str(&count(segment.entries, "entry", "entries")),
    }
    text.push_str(&format!(" in {}", count(segment.batches, "batch", "batches")));
    match segment.terms {
        Some((first, last)) if first == last => text.push_str(&format!(", term {first}")),
        Some((first, last)) => text.push_str(&format!(", terms {first} to {last}")),
        None => {}
    }
    if segment.used == segment.size {
        text.push_str(&format!(", {} bytes", segment.size));
    } else {
        text.push_str(&format!(", {} of {} bytes", segment.used, segment.size));
    }
    match &segment.end {
        SegmentEnd::Sound => text.push_str(", checksums right"),
        SegmentEnd::Unused => text.push_str(", unused"),
        SegmentEnd::Unfinished { offset } => text.push_str(&format!(
            ", checksums right up to an unfinished write at byte {offset}, which nobody was told of"
        )),
        SegmentEnd::Damaged { offset, message } => {
            text.push_str(&format!(", damaged at byte {offset}: {message}"));
        }
    }
    if segment.standing == Standing::Superfluous && segment.end != SegmentEnd::Unused {
        text.push_str("; not needed any more, a start removes it");
    }
    text
}

fn snapshot(snapshot: &Snapshot) -> String {
    let form = if snapshot.compressed { " compressed" } else { "" };
    let content = match &snapshot.content {
        Ok(content) => {
            let last = if snapshot.is_chosen { ", loaded at start" } else { "" };
            let databases = content.databases.len() as u64;
            format!("{}, whole{last}", count(databases, "database", "databases"))
        }
        Err(reason) => format!("unusable: {reason}"),
    };
    format!(
        "{}: up to entry {} of term {}, {}{form} bytes, {content}",
        snapshot.name, snapshot.index, snapshot.term, snapshot.size
    )
}

fn database(database: &DatabaseReport) -> String {
    let name = String::from_utf8_lossy(&database.name);
    let integrity = match &database.integrity {
        None => String::new(),
        Some(Ok(found)) if found.is_empty() => ", sound according to SQLite".to_owned(),
        Some(Ok(_)) => ", damaged according to SQLite".to_owned(),
        Some(Err(reason)) => format!(", could not be checked by SQLite: {reason}"),
    };
    format!("{name}: {}{integrity}", count(database.pages.into(), "page", "pages"))
}
