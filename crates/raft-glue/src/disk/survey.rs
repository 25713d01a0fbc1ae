//! What lies in a data directory, by name and size only.

use super::error::DiskError;
use super::file_system::Disk;
use super::files;
use super::manifest::{self, Manifest};
use super::names::{ASIDE, ClosedName, MANIFEST, MARKER, MAX_NAME_LEN, OpenName, SnapshotName, TEMPORARY};
use crate::{LogIndex, Term, has_caught_up};

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
    /// What a repair noted, and the node has not caught up since.
    pub(crate) marker: Option<Marker>,
    /// The file that says so is gone, and the manifest remembers it.
    pub(crate) marker_is_lost: bool,
    /// What the directory should hold, if it says so.
    pub(crate) manifest: Option<Manifest>,
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
        } else if name == MANIFEST {
            survey.manifest = manifest::load(disk, entry);
        } else if name.starts_with(TEMPORARY) || PROBES.contains(&name) {
            // A directory of such a name is none of ours, and could not be removed like a file.
            if !entry.is_file {
                continue;
            }
            survey.leftovers.push(name.to_owned());
        } else if let Some(number) = aside_number(name) {
            survey.next_aside = survey.next_aside.max(number.saturating_add(1));
        } else if name == MARKER {
            survey.marker = Some(read_marker(disk)?);
        }
    }
    // Somebody removed the note of a damage that the node has not made up for.
    let noted = survey.manifest.as_ref().and_then(|manifest| manifest.marker);
    if survey.marker.is_none() && !planted::bug!(MarkerNotRestored) {
        survey.marker = noted;
        survey.marker_is_lost = noted.is_some();
    }
    survey.closed.sort();
    survey.open.sort();
    survey.snapshots.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(survey)
}

/// The number of a file that was moved aside.
pub(crate) fn aside_number(name: &str) -> Option<u64> {
    // C counts nanoseconds here.
    name.strip_prefix(ASIDE)?.split('-').next()?.parse().ok().filter(|number| *number < u64::MAX / 2)
}

fn read_marker<D: Disk>(disk: &D) -> Result<Marker, DiskError> {
    Ok(Marker::decode(&files::read(disk, MARKER, MARKER)?))
}

/// Content of the marker file: a line with the index, and one with `term` and the term if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Nobody votes before this index is committed.
    pub(crate) until: u64,
    /// Nor before an entry of a higher term is; see [`has_caught_up`].
    pub(crate) damaged_in: Option<Term>,
}

impl Marker {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let term = self.damaged_in.map_or_else(String::new, |term| format!("term {term}\n"));
        format!("{}\n{term}", self.until).into_bytes()
    }

    fn decode(content: &[u8]) -> Self {
        let mut lines = std::str::from_utf8(content).unwrap_or_default().lines();
        // Unreadable: no index is known to be enough, nor any term.
        let until = lines.next().and_then(|line| line.parse().ok()).unwrap_or(u64::MAX);
        let term = lines.next().and_then(|line| line.strip_prefix("term ")?.parse().ok()).map(Term);
        Self { until, damaged_in: term }
    }

    pub(crate) fn is_done(&self, committed: u64, term: Term) -> bool {
        has_caught_up(LogIndex(self.until), self.damaged_in, LogIndex(committed), term)
    }
}

impl Survey {
    /// Whether anything but metadata is there, or was there as the manifest says.
    pub(crate) fn has_data(&self) -> bool {
        let is_known = self.manifest.as_ref().is_some_and(Manifest::has_data);
        !self.closed.is_empty() || !self.open.is_empty() || !self.snapshots.is_empty() || is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read_as_they_are_written_and_trusted_no_further() {
        for damaged_in in [None, Some(Term(7))] {
            let marker = Marker { until: 836, damaged_in };
            assert_eq!(Marker::decode(&marker.encode()), marker);
        }
        // As written before there was a term.
        assert_eq!(Marker::decode(b"77\n"), Marker { until: 77, damaged_in: None });
        for content in [&b""[..], b"x\n", b"\xff", b"-1\n", b"99999999999999999999\n"] {
            assert_eq!(Marker::decode(content), Marker { until: u64::MAX, damaged_in: None });
        }
        assert_eq!(Marker::decode(b"5\nterm x\n").damaged_in, None);
    }
}
