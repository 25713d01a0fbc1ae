//! What lies in a data directory, by name and size only.

use super::error::DiskError;
use super::file_system::Disk;
use super::files;
use super::names::{ASIDE, ClosedName, MARKER, MAX_NAME_LEN, OpenName, SnapshotName, TEMPORARY};

/// Files that C creates for a moment at its start.
const PROBES: [&str; 2] = [".probe", ".probe_fallocate"];

/// The files of a data directory, sorted. Foreign names are left out.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// By first index, then by last.
    pub(crate) closed: Vec<ClosedName>,
    /// By counter.
    pub(crate) open: Vec<OpenName>,
    /// Oldest first.
    pub(crate) snapshots: Vec<ListedSnapshot>,
    /// Files that never got their final name, and `.meta` files whose payload never did.
    pub(crate) leftovers: Vec<String>,
    /// Nobody votes before this index is committed.
    pub(crate) no_vote_until: Option<u64>,
    /// The next number for files moved aside.
    pub(crate) next_aside: u64,
}

/// A snapshot's payload file.
#[derive(Debug)]
pub(crate) struct ListedSnapshot {
    pub(crate) name: SnapshotName,
    /// Why it cannot be a whole snapshot. C overlooks such files.
    pub(crate) incomplete: Option<&'static str>,
}

/// Lists the directory.
pub(crate) fn survey<D: Disk>(disk: &D) -> Result<Survey, DiskError> {
    let entries = disk.list().map_err(DiskError::io("scan data directory", "open directory"))?;
    let exists = |name: &str| entries.iter().any(|entry| entry.name == name);
    let mut survey = Survey { next_aside: 1, ..Survey::default() };
    for entry in entries.iter().filter(|entry| entry.name.len() <= MAX_NAME_LEN) {
        let name = entry.name.as_str();
        if let Some(closed) = ClosedName::parse(name) {
            survey.closed.push(closed);
        } else if let Some(open) = OpenName::parse(name) {
            survey.open.push(open);
        } else if let Some(snapshot) = SnapshotName::parse(name) {
            let incomplete = if !exists(&snapshot.meta()) {
                Some("its .meta file is missing")
            } else if entry.size == 0 {
                Some("file is empty")
            } else {
                None
            };
            survey.snapshots.push(ListedSnapshot { name: snapshot, incomplete });
        } else if let Some(snapshot) = name.strip_suffix(".meta").and_then(SnapshotName::parse) {
            if !exists(&snapshot.to_string()) {
                survey.leftovers.push(name.to_owned());
            }
        } else if name.starts_with(TEMPORARY) || PROBES.contains(&name) {
            // A directory of such a name is none of ours, and could not be removed like a file.
            if !entry.is_file {
                continue;
            }
            survey.leftovers.push(name.to_owned());
        } else if let Some(number) = aside_number(name) {
            survey.next_aside = survey.next_aside.max(number.saturating_add(1));
        } else if name == MARKER {
            survey.no_vote_until = Some(read_marker(disk)?);
        }
    }
    survey.closed.sort();
    survey.open.sort();
    survey.snapshots.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(survey)
}

fn aside_number(name: &str) -> Option<u64> {
    // C counts nanoseconds here.
    name.strip_prefix(ASIDE)?.split('-').next()?.parse().ok().filter(|number| *number < u64::MAX / 2)
}

fn read_marker<D: Disk>(disk: &D) -> Result<u64, DiskError> {
    let content = files::read(disk, MARKER, MARKER)?;
    let index = std::str::from_utf8(&content).ok().and_then(|text| text.trim_end().parse().ok());
    // Unreadable: nothing is known to be enough.
    Ok(index.unwrap_or(u64::MAX))
}

/// Content of the marker file.
pub(crate) fn marker(no_vote_until: u64) -> Vec<u8> {
    format!("{no_vote_until}\n").into_bytes()
}

impl Survey {
    /// Whether anything but metadata is there.
    pub(crate) fn has_data(&self) -> bool {
        !self.closed.is_empty() || !self.open.is_empty() || !self.snapshots.is_empty()
    }
}
