//! The file that says what the directory held, so that a loss is seen which C's formats cannot show.
//!
//! Open segments carry no index, and no file says which others there are. So whoever removes closed segments in front of an
//! open one, the open one itself, or puts back an older copy of a file, leaves a directory that looks whole. The manifest
//! names what was durable when it was written:
//!
//! ```text
//! dqlite log manifest 1
//! metadata 12 3
//! snapshot 40 2
//! waits 55 3
//! closed 37 44 0badcafe
//! closed 45 50 89abcdef
//! next 51 open 7
//! check 01234567
//! ```
//!
//! `metadata` has version and term, `snapshot` index and term of the newest one (0 without one), `waits` what `catch-up-needed`
//! says (left out without such a file, `-` for no term), `closed` first and last index of a segment and a checksum that
//! chains the preambles of its batches, which hold the checksums of all else. `next` is the index behind the closed segments
//! and the snapshot; what follows it is
//!
//! - `open N`: the file `open-N` exists, and entries from that index on are in it. Any number of entries, also none;
//! - `free N`: no segment is in use, and the next one that will be has a counter of at least N;
//! - `cut N`: the same while the log behind that index is being removed, so that there may still be closed segments there.
//!
//! `check` is the checksum of the lines before. A counter is never given to a second segment that holds something.
//!
//! The file is a lower bound. Whatever adds to the directory may be durable before the manifest says so; whatever removes
//! something that the manifest names, without a newer snapshot that covers it, comes after a manifest that no longer does. So
//! no crash makes the directory fall short of it, and a directory that does has lost something. It is written when a
//! segment is put to use, a snapshot published, the log cut, a term or vote noted, and at start and end, never for a commit.
//!
//! C deletes every file whose name begins with `tmp-` when a node is created, before it writes anything. So the manifest is
//! gone as soon as C has used the directory, and then, or when it is unreadable or could not be written for lack of space,
//! everything is as it is with C.

use std::fmt::Write;

use super::checksum::checksum;
use super::error::DiskError;
use super::file_system::{DirectoryEntry, Disk};
use super::files;
use super::metadata::Record;
use super::names::{ClosedName, MANIFEST, MAX_INDEX, MAX_TERM};
use super::survey::Marker;
use super::writer::Finished;
use crate::{SnapshotMetadata, Term};

const TITLE: &str = "dqlite log manifest 1";
/// What is longer is not read, and not written. Room for tens of thousands of segments.
const MAX_LEN: usize = 1024 * 1024;
/// Far above what any node reaches.
const MAX_COUNTER: u64 = 1 << 62;

/// A closed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) sum: u32,
}

/// What is behind the closed segments. The numbers are counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// This open segment exists and holds what follows.
    Open(u64),
    /// Nothing; the next open segment that holds something has this counter or a higher one.
    Free(u64),
    /// The same, but closed segments may still be there that are about to go.
    Cut(u64),
}

/// Content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Version of the metadata.
    pub(crate) version: u64,
    /// Term in it.
    pub(crate) term: Term,
    /// Index and term of the newest snapshot, 0 without one.
    pub(crate) snapshot: (u64, Term),
    /// What the marker says, if there is one.
    pub(crate) marker: Option<Marker>,
    /// In order.
    pub(crate) closed: Vec<Named>,
    /// Index behind the closed segments and the snapshot.
    pub(crate) next: u64,
    pub(crate) open: Use,
}

/// Where the directory falls short of the manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Nothing from this index on can be trusted.
    pub(crate) index: u64,
    pub(crate) message: String,
}

/// The names of a directory, compared to its manifest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// So many of the first closed segments are older copies in front of the log; the snapshot has what they hold.
    pub(crate) older: usize,
    /// Names of open segments that are older copies.
    pub(crate) older_open: Vec<u64>,
    pub(crate) conflict: Option<Conflict>,
}

/// An open segment of the directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundOpen {
    pub(crate) counter: u64,
    /// It holds something, or should.
    pub(crate) used: bool,
}

impl Manifest {
    pub(crate) fn new(
        record: &Record,
        snapshot: Option<&SnapshotMetadata>,
        marker: Option<Marker>,
        closed: &[Finished],
        (next, open): (u64, Use),
    ) -> Self {
        let named = |segment: &Finished| Named {
            first: segment.name.first,
            last: segment.name.last,
            sum: segment.extent.sum,
        };
        Self {
            version: record.version,
            term: record.hard_state.term,
            snapshot: snapshot.map_or((0, Term(0)), |snapshot| (snapshot.index.0, snapshot.term)),
            marker,
            closed: closed.iter().map(named).filter(|named| named.last < next).collect(),
            next,
            open,
        }
    }

    /// Whether a node has used the directory for more than its very first start.
    pub(crate) fn has_data(&self) -> bool {
        self.next > 1 || self.version > 1
    }

    /// The first counter that no segment with content has had.
    pub(crate) fn next_counter(&self) -> u64 {
        match self.open {
            Use::Open(counter) => counter + 1,
            Use::Free(counter) | Use::Cut(counter) => counter,
        }
    }

    /// What the segment of exactly these indexes must hold, if it is named.
    pub(crate) fn named(&self, name: &ClosedName) -> Option<&Named> {
        let at = self.closed.partition_point(|named| named.first < name.first);
        self.closed.get(at).filter(|named| (named.first, named.last) == (name.first, name.last))
    }

    /// Whether another segment is there in place of part of one that is named and there, too.
    pub(crate) fn is_displaced(&self, name: &ClosedName, names: &[ClosedName]) -> bool {
        self.named(name).is_none()
            && self.closed.iter().any(|named| {
                named.first <= name.last
                    && name.first <= named.last
                    && names.iter().any(|other| (other.first, other.last) == (named.first, named.last))
            })
    }

    /// Compares the closed segments that connect to the snapshot, in order, and the open ones, by counter. `closed` are all
    /// closed segments that there are.
    pub(crate) fn judge(
        &self,
        snapshot_index: u64,
        chain: &[ClosedName],
        closed: &[ClosedName],
        open: &[FoundOpen],
    ) -> Verdict {
        let is_cut = matches!(self.open, Use::Cut(_));
        // What was closed since begins at `next`, so this holds also for one that goes on behind it.
        let is_older = |name: &&ClosedName| !is_cut && name.first < self.next && self.named(name).is_none();
        let older = chain.iter().take_while(is_older).count();
        let chain = &chain[older..];
        let conflict = |index: u64, message: String| Verdict {
            older,
            older_open: Vec::new(),
            conflict: Some(Conflict { index, message }),
        };
        let after_snapshot = snapshot_index + 1;
        for named in self.closed.iter().filter(|named| named.last > snapshot_index) {
            if !chain.iter().any(|name| (name.first, name.last) == (named.first, named.last)) {
                let name = ClosedName::new(named.first, named.last).name;
                return conflict(
                    named.first.max(after_snapshot),
                    format!("{MANIFEST}: closed segment {name} is missing"),
                );
            }
        }
        if let Some(name) = chain.iter().filter(is_older).find(|name| name.last >= self.next) {
            return conflict(
                name.first.max(after_snapshot),
                format!("{MANIFEST}: segment {} is an older copy and not what was there", name.name),
            );
        }
        let end = chain.last().map_or(after_snapshot, |last| after_snapshot.max(last.last + 1));
        if chain.first().is_some_and(|first| first.first > after_snapshot) || end < self.next {
            let index = if end < self.next && !chain.is_empty() { end } else { after_snapshot };
            let to = self.next - 1;
            return conflict(
                index,
                format!("{MANIFEST}: the files with entries {index} to {to}, or a snapshot, are missing"),
            );
        }
        // The segment in use may have been closed since, also for a snapshot that covers all of it.
        let was_closed = closed.iter().any(|name| name.first == self.next);
        self.judge_end(older, end, (chain, was_closed), open)
    }

    /// The same for what stands behind all that is named.
    fn judge_end(
        &self,
        older: usize,
        end: u64,
        (chain, was_closed): (&[ClosedName], bool),
        open: &[FoundOpen],
    ) -> Verdict {
        let next = self.next;
        let extra = chain.iter().find(|name| name.first >= next);
        let conflict = |index: u64, message: String| Verdict {
            older,
            older_open: Vec::new(),
            conflict: Some(Conflict { index, message }),
        };
        let unexpected =
            |name: &str| format!("{MANIFEST}: segment {name} is not the one that was written last");
        let fine = |older_open| Verdict { older, older_open, conflict: None };
        let mut used = open.iter().filter(|open| open.used);
        let counter = match self.open {
            Use::Open(counter) => counter,
            Use::Free(_) | Use::Cut(_) => {
                let is_cut = matches!(self.open, Use::Cut(_));
                return match (extra.filter(|_| !is_cut), used.next()) {
                    (Some(name), _) => conflict(next, unexpected(&name.name)),
                    (None, Some(open)) => conflict(end, unexpected(&format!("open-{}", open.counter))),
                    (None, None) => fine(Vec::new()),
                };
            }
        };
        let is_there = open.iter().any(|open| open.counter == counter);
        if is_there && let Some(name) = extra {
            return conflict(next, unexpected(&name.name));
        }
        if !is_there && !was_closed {
            return conflict(end, format!("{MANIFEST}: segment open-{counter} is missing"));
        }
        let holds = open.iter().any(|open| open.counter == counter && open.used);
        let (before, behind): (Vec<&FoundOpen>, Vec<&FoundOpen>) =
            used.partition(|open| open.counter < counter);
        if let Some(open) = before.first().filter(|_| !holds) {
            return conflict(end, unexpected(&format!("open-{}", open.counter)));
        }
        if is_there
            && !holds
            && let Some(open) = behind.first()
        {
            return conflict(
                next,
                format!("{MANIFEST}: segment open-{counter} is empty, but open-{} is not", open.counter),
            );
        }
        fine(before.iter().map(|open| open.counter).collect())
    }

    /// Whether the open segment that was in use is gone, under its own name and under the one of a closed segment.
    pub(crate) fn lacks_open(&self, closed: &[ClosedName], open: &[FoundOpen]) -> bool {
        let Use::Open(counter) = self.open else { return false };
        let is_there = open.iter().any(|open| open.counter == counter);
        !is_there && !closed.iter().any(|name| name.first == self.next)
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = format!("{TITLE}\nmetadata {} {}\n", self.version, self.term);
        let mut line = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("a string takes all");
        line(format_args!("snapshot {} {}\n", self.snapshot.0, self.snapshot.1));
        match self.marker {
            Some(Marker { until, damaged_in: Some(term) }) => line(format_args!("waits {until} {term}\n")),
            Some(Marker { until, damaged_in: None }) => line(format_args!("waits {until} -\n")),
            None => {}
        }
        for Named { first, last, sum } in &self.closed {
            line(format_args!("closed {first} {last} {sum:08x}\n"));
        }
        let (word, counter) = match self.open {
            Use::Open(counter) => ("open", counter),
            Use::Free(counter) => ("free", counter),
            Use::Cut(counter) => ("cut", counter),
        };
        line(format_args!("next {} {word} {counter}\n", self.next));
        let check = checksum(0, text.as_bytes());
        text.push_str(&format!("check {check:08x}\n"));
        text.into_bytes()
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(content).ok()?.lines().peekable();
        let number = |text: Option<&str>| text?.parse::<u64>().ok();
        if lines.next()? != TITLE {
            return None;
        }
        let mut words = lines.next()?.strip_prefix("metadata ")?.split(' ');
        let (version, term) = (number(words.next())?, number(words.next()).map(Term)?);
        let mut words = lines.next()?.strip_prefix("snapshot ")?.split(' ');
        let snapshot = (number(words.next())?, number(words.next()).map(Term)?);
        let mut marker = None;
        if let Some(waits) = lines.peek()?.strip_prefix("waits ") {
            let (until, term) = waits.split_once(' ')?;
            let damaged_in = if term == "-" { None } else { Some(Term(number(Some(term))?)) };
            marker = Some(Marker { until: number(Some(until))?, damaged_in });
            lines.next();
        }
        let mut closed: Vec<Named> = Vec::new();
        while let Some(segment) = lines.peek()?.strip_prefix("closed ") {
            let mut words = segment.split(' ');
            let (first, last) = (number(words.next())?, number(words.next())?);
            closed.push(Named { first, last, sum: u32::from_str_radix(words.next()?, 16).ok()? });
            lines.next();
        }
        let mut words = lines.next()?.strip_prefix("next ")?.split(' ');
        let next = number(words.next())?;
        let (word, counter) = (words.next()?, number(words.next())?);
        let open = match word {
            "open" => Use::Open(counter),
            "free" => Use::Free(counter),
            "cut" => Use::Cut(counter),
            _ => return None,
        };
        let manifest = Self { version, term, snapshot, marker, closed, next, open };
        // There is one way to write it, and the checksum is part of that.
        (manifest.is_possible() && manifest.encode() == content).then_some(manifest)
    }

    /// Whether all numbers are ones that a log can have.
    fn is_possible(&self) -> bool {
        let in_order = self.closed.iter().all(|named| 0 < named.first && named.first <= named.last)
            && self.closed.windows(2).all(|pair| pair[0].last < pair[1].first)
            && self.closed.last().is_none_or(|last| last.last < self.next);
        let is_small = self.next <= MAX_INDEX
            && self.version <= MAX_INDEX
            && self.term.0 <= MAX_TERM
            && self.snapshot.0 < self.next
            && self.next_counter() <= MAX_COUNTER;
        in_order && is_small && self.next > 0
    }
}

/// Reads the manifest; `None` without one that can be used, which is never an error.
pub(crate) fn load<D: Disk>(disk: &D, entry: &DirectoryEntry) -> Option<Manifest> {
    if !entry.is_file || entry.size > MAX_LEN as u64 || planted::bug!(ManifestIgnored) {
        return None;
    }
    let manifest = match files::read(disk, MANIFEST, MANIFEST) {
        Ok(content) => Manifest::decode(&content),
        Err(error) => {
            tracing::warn!(%error, "the manifest of the log cannot be read and is ignored");
            return None;
        }
    };
    if manifest.is_none() {
        tracing::warn!("the file {MANIFEST} is not what a node writes and is ignored");
    }
    manifest
}

/// Writes the manifest of a directory.
#[derive(Debug)]
pub(crate) struct Keeper<D: Disk> {
    disk: D,
    /// What is durable.
    written: Option<Manifest>,
    /// The name is taken by something that is no file.
    is_blocked: bool,
}

impl<D: Disk> Keeper<D> {
    /// `found` is what [`load`] gave.
    pub(crate) fn new(disk: D, found: Option<Manifest>) -> Self {
        let is_blocked = disk
            .list()
            .is_ok_and(|entries| entries.iter().any(|entry| entry.name == MANIFEST && !entry.is_file));
        Self { disk, written: found, is_blocked }
    }

    /// Makes the manifest durable. Without space for it there is none from now on, or still the one before if `keep_old`
    /// says that this one is still a lower bound.
    pub(crate) fn note(&mut self, manifest: Manifest, keep_old: bool) -> Result<(), DiskError> {
        if self.is_blocked || self.written.as_ref() == Some(&manifest) {
            return Ok(());
        }
        let content = manifest.encode();
        if content.len() > MAX_LEN || !manifest.is_possible() {
            return self.remove();
        }
        let result = files::write_whole(&self.disk, MANIFEST, &content, "write the manifest of the log")
            .map_err(|error| error.without_space_for_new(MANIFEST));
        match result {
            Ok(()) => self.written = Some(manifest),
            Err(error) if error.is_no_space() => {
                let _ = self.disk.unlink(&files::temporary(MANIFEST));
                if !keep_old {
                    self.remove()?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.written.is_none()
    }

    /// The file has gone together with the log.
    pub(crate) fn forget(&mut self) {
        self.written = None;
    }

    fn remove(&mut self) -> Result<(), DiskError> {
        const WHAT: &str = "remove the manifest of the log";
        self.written = None;
        files::remove_if_exists(&self.disk, MANIFEST, WHAT)?;
        files::sync_directory(&self.disk, WHAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(manifest: &Manifest, snapshot: u64, closed: &[(u64, u64)]) -> Verdict {
        let closed: Vec<ClosedName> =
            closed.iter().map(|(first, last)| ClosedName::new(*first, *last)).collect();
        let Use::Open(counter) = manifest.open else { panic!("a segment is in use") };
        manifest.judge(snapshot, &closed, &closed, &[FoundOpen { counter, used: true }])
    }

    fn manifest(closed: &[(u64, u64)]) -> Manifest {
        let named = |&(first, last): &(u64, u64)| Named { first, last, sum: 0 };
        Manifest {
            version: 3,
            term: Term(2),
            snapshot: (49, Term(2)),
            marker: None,
            closed: closed.iter().map(named).collect(),
            next: 50,
            open: Use::Open(4),
        }
    }

    /// Entry 50 stood in a closed segment that was lost, and came again into an open one. With the old file back in front
    /// of it the open one would be taken for the entries from 51 on.
    #[test]
    fn an_older_segment_that_reaches_into_the_one_in_use_is_none_of_the_log() {
        let verdict = judge(&manifest(&[]), 49, &[(38, 50)]);
        assert_eq!(verdict, Verdict { older: 1, older_open: Vec::new(), conflict: None });
    }

    #[test]
    fn an_older_segment_behind_those_that_are_named_is_a_loss() {
        let verdict = judge(&manifest(&[(30, 37)]), 49, &[(30, 37), (38, 50)]);
        assert_eq!((verdict.older, verdict.conflict.map(|conflict| conflict.index)), (0, Some(50)));
    }

    #[test]
    fn a_segment_that_was_closed_since_begins_where_the_one_in_use_did() {
        let manifest = manifest(&[(38, 49)]);
        let closed = [(38, 49), (50, 55)].map(|(first, last)| ClosedName::new(first, last));
        let verdict = manifest.judge(49, &closed, &closed, &[FoundOpen { counter: 5, used: true }]);
        assert_eq!(verdict, Verdict { older: 0, older_open: Vec::new(), conflict: None });
    }
}
