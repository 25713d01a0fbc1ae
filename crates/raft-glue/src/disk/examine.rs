//! Reads a whole data directory and decides what is the log. Changes nothing.
//!
//! Two kinds of findings are kept apart: a [`Harmless`] one costs no entry that is not also somewhere else; a [`Loss`]
//! means that something which may have been acknowledged is gone. What a crash leaves is neither: it is cut or removed
//! without a word.

use bytes::Bytes;

use super::bytes_of::to_usize;
use super::error::DiskError;
use super::extent::Extent;
use super::file_system::Disk;
use super::files;
use super::metadata;
use super::names::{ClosedName, OpenName, SnapshotName};
use super::segment::{self, Closed, End, Open};
use super::snapshot::{self, Unusable};
use super::survey::{Survey, survey};
use super::writer::Finished;
use crate::{Configuration, Entry, EntryKind, SnapshotMetadata};

/// Everything about a directory.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) survey: Survey,
    pub(crate) metadata: metadata::Examined,
    /// The snapshot to start from.
    pub(crate) snapshot: Option<SnapshotMetadata>,
    /// Index of the first of `entries`.
    pub(crate) first_index: u64,
    /// The log.
    pub(crate) entries: Vec<Entry>,
    /// Closed segments that hold the first of them.
    pub(crate) closed: Vec<Finished>,
    /// Open segments that hold the others.
    pub(crate) open: Vec<OpenSegment>,
    /// Files that hold nothing, or nothing that is not elsewhere.
    pub(crate) superfluous: Vec<String>,
    /// The log contradicts the snapshot at its index: it was about to be removed for it.
    pub(crate) replaced: Vec<String>,
    pub(crate) harmless: Vec<Harmless>,
    pub(crate) loss: Option<Loss>,
    /// The newest configuration found anywhere, and the index of its entry, about.
    pub(crate) configuration: Option<(u64, Configuration)>,
}

/// An open segment with entries.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) name: String,
    pub(crate) extent: Extent,
}

/// Damage that costs nothing.
#[derive(Debug)]
pub(crate) struct Harmless {
    pub(crate) file: String,
    pub(crate) offset: Option<u64>,
    /// First entry concerned.
    pub(crate) index: u64,
    pub(crate) message: String,
    pub(crate) repair: Repair,
    /// C starts nevertheless, so we do so with auto-recovery off, too.
    pub(crate) accepted_by_c: bool,
}

/// What to do about it.
#[derive(Debug)]
pub(crate) enum Repair {
    /// Move these files aside.
    MoveAside(Vec<String>),
    /// Keep a copy, then cut what follows the last batch.
    CutTo(u64),
}

/// Entries that may have been acknowledged are gone.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) file: String,
    pub(crate) offset: Option<u64>,
    /// First entry that is lost.
    pub(crate) index: u64,
    /// Nothing behind this index was ever acknowledged.
    pub(crate) reach: u64,
    pub(crate) message: String,
    /// The damaged file is a snapshot.
    pub(crate) is_snapshot: bool,
    /// Files that hold damaged entries or later ones, in the order in which they are to be moved aside.
    pub(crate) aside: Vec<String>,
    /// The last of them starts with this many good entries, which are the last of the log.
    pub(crate) good_entries: usize,
}

/// A snapshot that cannot be used, newer than the one that can.
struct Broken {
    name: SnapshotName,
    file: String,
    message: String,
    accepted_by_c: bool,
}

/// `segment_size` is the size that open segments are created with.
pub(crate) fn examine<D: Disk>(disk: &D, segment_size: u64) -> Result<Examined, DiskError> {
    let survey = survey(disk)?;
    let metadata = metadata::examine(disk)?;
    let mut examined = Examined {
        survey,
        metadata,
        snapshot: None,
        first_index: 1,
        entries: Vec::new(),
        closed: Vec::new(),
        open: Vec::new(),
        superfluous: Vec::new(),
        replaced: Vec::new(),
        harmless: Vec::new(),
        loss: None,
        configuration: None,
    };
    let (chosen, broken) = examined.choose_snapshot(disk)?;
    let mut open = Vec::new();
    for name in &examined.survey.open {
        let content = files::read(disk, &name.name, &format!("load open segment {}", name.name))?;
        open.push((name.clone(), segment::read_open(&content, segment_size)));
    }
    let log = Log { chosen, open };
    log.read(disk, &mut examined)?;
    log.note_newest_configuration(disk, &mut examined)?;
    examined.drop_front_before_snapshot();
    examined.judge_broken_snapshots(broken);
    Ok(examined)
}

impl Examined {
    /// Index of the last snapshot, 0 without one.
    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0)
    }

    /// Index of the entry that would come next.
    pub(crate) fn next_index(&self) -> u64 {
        self.first_index + self.entries.len() as u64
    }

    /// Takes the newest snapshot that is whole, and gives its name and the broken ones that are newer.
    fn choose_snapshot<D: Disk>(
        &mut self,
        disk: &D,
    ) -> Result<(Option<SnapshotName>, Vec<Broken>), DiskError> {
        let mut broken = Vec::new();
        let mut chosen = None;
        let snapshots = std::mem::take(&mut self.survey.snapshots);
        for listed in snapshots.iter().rev() {
            let name = &listed.name;
            if chosen.is_some() {
                // Retention removes the `.meta` first.
                if listed.incomplete.is_some() {
                    self.superfluous.push(name.to_string());
                }
                continue;
            }
            if let Some(reason) = listed.incomplete {
                let file = name.to_string();
                let message = format!("load {file}: {reason}");
                broken.push(Broken { name: name.clone(), file, message, accepted_by_c: true });
                continue;
            }
            match snapshot::verify(disk, name) {
                Ok(metadata) => {
                    self.note_configuration(metadata.configuration_index.0, metadata.configuration.clone());
                    self.first_index = name.index.saturating_add(1);
                    self.snapshot = Some(metadata);
                    chosen = Some(name.clone());
                }
                Err(Unusable::Damaged { file, message }) => {
                    if let Ok(metadata) = snapshot::read_meta(disk, name) {
                        self.note_configuration(metadata.configuration_index.0, metadata.configuration);
                    }
                    broken.push(Broken { name: name.clone(), file, message, accepted_by_c: false });
                }
                Err(Unusable::Disk(error)) => return Err(error),
            }
        }
        self.survey.snapshots = snapshots;
        Ok((chosen, broken))
    }

    fn note_configuration(&mut self, index: u64, configuration: Configuration) {
        if self.configuration.as_ref().is_none_or(|(known, _)| index >= *known) {
            self.configuration = Some((index, configuration));
        }
    }

    fn note_configurations(&mut self, first: u64, entries: &[Entry]) {
        for (index, entry) in (first..).zip(entries) {
            if entry.kind == EntryKind::Configuration
                && let Ok(configuration) = Configuration::decode(&entry.data)
            {
                self.note_configuration(index, configuration);
            }
        }
    }

    /// What is left of a log before a loss must reach the snapshot, or it is of no use.
    fn drop_front_before_snapshot(&mut self) {
        let next = self.snapshot_index() + 1;
        if self.next_index() >= next {
            return;
        }
        let Some(loss) = &mut self.loss else { return };
        loss.index = next;
        loss.good_entries = 0;
        self.superfluous.extend(self.closed.drain(..).map(|segment| segment.name.name));
        self.entries.clear();
        self.first_index = next;
    }

    /// Broken snapshots cost nothing if the log covers what they covered.
    fn judge_broken_snapshots(&mut self, broken: Vec<Broken>) {
        let Some(newest) = broken.first() else { return };
        let newest_index = broken.iter().map(|broken| broken.name.index).max().unwrap_or(0);
        let files = |broken: &Broken| match broken.accepted_by_c {
            true => vec![broken.name.to_string()],
            false => vec![broken.name.meta(), broken.name.to_string()],
        };
        let covered = self.next_index() > newest_index;
        if covered && self.loss.as_ref().is_none_or(|loss| loss.index > newest_index) {
            self.harmless.extend(broken.iter().map(|broken| Harmless {
                file: broken.file.clone(),
                offset: None,
                index: broken.name.index,
                message: broken.message.clone(),
                repair: Repair::MoveAside(files(broken)),
                accepted_by_c: broken.accepted_by_c,
            }));
            return;
        }
        let (index, reach, mut aside, good_entries) = match self.loss.take() {
            Some(loss) => (loss.index, loss.reach, loss.aside, loss.good_entries),
            None => (self.next_index(), 0, Vec::new(), 0),
        };
        // Before the segments: the last of those may have good entries.
        let mut moved: Vec<String> = broken.iter().flat_map(files).collect();
        moved.append(&mut aside);
        self.loss = Some(Loss {
            file: newest.file.clone(),
            offset: None,
            index,
            reach: reach.max(newest_index),
            message: newest.message.clone(),
            is_snapshot: true,
            aside: moved,
            good_entries,
        });
    }
}

/// The parts of the log, before they are put together.
struct Log {
    chosen: Option<SnapshotName>,
    open: Vec<(OpenName, Open)>,
}

impl Log {
    fn read<D: Disk>(&self, disk: &D, examined: &mut Examined) -> Result<(), DiskError> {
        let names = resolve_overlaps(disk, examined)?;
        let (chain, unconnected) = connect(&names, examined.snapshot_index());
        if let Some(first) = chain.first() {
            examined.first_index = first.first;
        }
        // Behind the snapshot, and nothing connects them to what follows: they would only mislead the next start.
        let is_ignored = |name: &&ClosedName| !chain.contains(name) && !unconnected.contains(name);
        examined.superfluous.extend(names.iter().filter(is_ignored).map(|name| name.name.clone()));
        for (number, name) in chain.iter().enumerate() {
            let later = chain[number + 1..].iter().chain(&unconnected).map(|name| name.name.clone());
            let later = later.collect();
            if !self.read_closed(disk, examined, name, later)? {
                return Ok(());
            }
        }
        if let Some(first) = unconnected.first() {
            let next = examined.next_index();
            let message = match &self.chosen {
                Some(snapshot) => format!("closed segment {} is past last snapshot {snapshot}", first.name),
                None => {
                    format!("unexpected closed segment {}: first index should have been {next}", first.name)
                }
            };
            let later = unconnected.iter().map(|name| name.name.clone()).collect();
            self.lose(examined, &first.name, None, message, later, 0);
            return Ok(());
        }
        if chain.is_empty()
            && let Some(last) = names.iter().map(|name| name.last).max()
            && !self.place_is_certain(examined, last)
        {
            return Ok(());
        }
        self.read_open(examined);
        self.check_start(examined);
        self.check_snapshot(examined);
        Ok(())
    }

    /// Finds out who belongs to the cluster, even if the entry that says so is among those that are lost.
    fn note_newest_configuration<D: Disk>(&self, disk: &D, examined: &mut Examined) -> Result<(), DiskError> {
        let entries = std::mem::take(&mut examined.entries);
        examined.note_configurations(examined.first_index, &entries);
        examined.entries = entries;
        if examined.loss.is_none() {
            return Ok(());
        }
        let mut next = examined.next_index();
        for name in examined.survey.closed.clone() {
            if name.first >= examined.next_index() {
                let closed = segment::read_closed(&read_segment(disk, &name)?, name.last - name.first + 1);
                examined.note_configurations(name.first, &closed.entries);
                next = next.max(name.last);
            }
        }
        for (_, open) in &self.open {
            examined.note_configurations(next, &open.entries);
            next += open.entries.len() as u64;
        }
        Ok(())
    }

    /// Reads one segment of the chain; false if the log ends in it.
    fn read_closed<D: Disk>(
        &self,
        disk: &D,
        examined: &mut Examined,
        name: &ClosedName,
        later: Vec<String>,
    ) -> Result<bool, DiskError> {
        let expected = name.last - name.first + 1;
        let content = read_segment(disk, name)?;
        let Closed { mut entries, batches, failure, surplus, len } = segment::read_closed(&content, expected);
        let found = entries.len();
        let extent = Extent { first: name.first, entries: expected, batches, end: len };
        let Some(failure) = failure else {
            examined.entries.append(&mut entries);
            examined.closed.push(Finished { name: name.clone(), extent });
            return Ok(true);
        };
        let message = format!("load closed segment {}: {}", name.name, failure.message);
        let harmless = |index, repair| Harmless {
            file: name.name.clone(),
            offset: Some(failure.offset),
            index,
            message: message.clone(),
            repair,
            accepted_by_c: false,
        };
        if found as u64 == expected && !surplus {
            examined.harmless.push(harmless(name.last + 1, Repair::CutTo(len)));
            examined.entries.append(&mut entries);
            examined.closed.push(Finished { name: name.clone(), extent });
            return Ok(true);
        }
        if name.last <= examined.snapshot_index() {
            // The snapshot has it all; the log starts behind.
            let aside = Repair::MoveAside(vec![name.name.clone()]);
            examined.harmless.push(harmless(name.first + found as u64, aside));
            let before = std::mem::take(&mut examined.closed);
            examined.superfluous.extend(before.into_iter().map(|segment| segment.name.name));
            examined.entries.clear();
            examined.first_index = name.last + 1;
            return Ok(true);
        }
        examined.entries.append(&mut entries);
        let mut aside = vec![name.name.clone()];
        aside.extend(later);
        self.lose(examined, &name.name, Some(failure.offset), message, aside, found);
        Ok(false)
    }

    /// Whether it is clear where open segments belong when all closed ones, up to `last`, end before the snapshot.
    fn place_is_certain(&self, examined: &mut Examined, last: u64) -> bool {
        let Some((first, _)) = self.with_data().next() else { return true };
        let count: u64 = self.with_data().map(|(_, open)| open.entries.len() as u64).sum();
        let snapshot_index = examined.snapshot_index();
        let end = last.saturating_add(count);
        let message = if end < snapshot_index {
            format!(
                "last entry on disk has index {end}, which is behind last snapshot's index {snapshot_index}"
            )
        } else {
            format!(
                "open segment {first} follows entry {last} or the last snapshot, whose index is {snapshot_index}"
            )
        };
        let first = first.clone();
        self.lose(examined, &first, None, message, Vec::new(), 0);
        false
    }

    fn read_open(&self, examined: &mut Examined) {
        let mut torn: Option<(&OpenName, &Open)> = None;
        let mut counters = Vec::new();
        for (number, (name, open)) in self.open.iter().enumerate() {
            if open.end == End::Unused {
                examined.superfluous.push(name.name.clone());
                continue;
            }
            let later = || self.open[number..].iter().map(|(name, _)| name.name.clone()).collect();
            if let Some((torn, content)) = torn {
                // It was written after the torn one was durable.
                let message = format!(
                    "load open segment {}: entries are missing at byte {}, but segment {} follows",
                    torn.name, content.len, name.name
                );
                return self.lose_open(examined, &torn.name, content.len, message, later(), 0);
            }
            if counters.contains(&name.counter) {
                let message = format!("load open segment {}: there is another one of this number", name.name);
                return self.lose_open(examined, &name.name, 0, message, later(), 0);
            }
            counters.push(name.counter);
            if let End::Damaged { failure, .. } = &open.end {
                examined.entries.extend_from_slice(&open.entries);
                let message = format!("load open segment {}: {}", name.name, failure.message);
                let found = open.entries.len();
                return self.lose_open(examined, &name.name, failure.offset, message, later(), found);
            }
            if open.end == End::Torn {
                torn = Some((name, open));
            }
            if open.entries.is_empty() {
                examined.superfluous.push(name.name.clone());
                continue;
            }
            let extent = Extent {
                first: examined.next_index(),
                entries: open.entries.len() as u64,
                batches: open.batches.clone(),
                end: open.len,
            };
            examined.entries.extend_from_slice(&open.entries);
            examined.open.push(OpenSegment { name: name.name.clone(), extent });
        }
    }

    /// The log of a cluster starts with a configuration. Nothing else would show that the first segments are missing.
    fn check_start(&self, examined: &mut Examined) {
        let starts_badly = examined.snapshot.is_none()
            && examined.entries.first().is_some_and(|entry| entry.kind != EntryKind::Configuration);
        if starts_badly {
            let segments = examined.closed.iter().map(|segment| &segment.name.name);
            let mut aside: Vec<String> =
                segments.chain(examined.open.iter().map(|open| &open.name)).cloned().collect();
            let file = aside.first().cloned().unwrap_or_default();
            let reach = examined.next_index() - 1;
            let reach = examined.loss.take().map_or(reach, |loss| {
                aside.extend(loss.aside.into_iter().rev());
                loss.reach
            });
            aside.dedup();
            aside.reverse();
            examined.loss = Some(Loss {
                message: format!("load segment {file}: the first log entry is not a configuration"),
                file,
                offset: None,
                index: 1,
                reach,
                is_snapshot: false,
                aside,
                good_entries: 0,
            });
            examined.closed.clear();
            examined.open.clear();
            examined.entries.clear();
        }
    }

    /// A received snapshot replaces a log that contradicts it, but a crash can come between.
    fn check_snapshot(&self, examined: &mut Examined) {
        let Some(snapshot) = &examined.snapshot else { return };
        let index = snapshot.index.0;
        let within = index.checked_sub(examined.first_index).map(to_usize);
        let contradicts = within
            .and_then(|within| examined.entries.get(within))
            .is_some_and(|entry| entry.term != snapshot.term);
        if !contradicts || examined.loss.is_some() {
            return;
        }
        if let Some(open) = examined.open.first() {
            let message = format!(
                "load open segment {}: the log before it contradicts the last snapshot at index {index}",
                open.name
            );
            let file = open.name.clone();
            let aside = self.open.iter().map(|(name, _)| name.name.clone()).collect();
            return self.lose_open(examined, &file, 0, message, aside, 0);
        }
        let segments = std::mem::take(&mut examined.closed);
        // From the end: the front alone still contradicts the snapshot.
        examined.replaced = segments.into_iter().rev().map(|segment| segment.name.name).collect();
        examined.entries.clear();
        examined.first_index = index + 1;
    }

    fn with_data(&self) -> impl Iterator<Item = (&String, &Open)> {
        let unused = |open: &Open| open.end == End::Unused;
        self.open.iter().filter(move |(_, open)| !unused(open)).map(|(name, open)| (&name.name, open))
    }

    /// Notes a loss before or inside the closed segments `files`, the damaged one first.
    fn lose(
        &self,
        examined: &mut Examined,
        file: &str,
        offset: Option<u64>,
        message: String,
        files: Vec<String>,
        good_entries: usize,
    ) {
        let open: u64 = self.with_data().map(|(_, open)| may_hold(open)).sum();
        let last = examined.survey.closed.iter().map(|name| name.last).max().unwrap_or(0);
        let reach = last.max(examined.snapshot_index()).saturating_add(open);
        let mut aside: Vec<String> = self.with_data().map(|(name, _)| name.clone()).collect();
        aside.reverse();
        aside.extend(files.into_iter().rev());
        let index = examined.next_index();
        let (file, is_snapshot) = (file.to_owned(), false);
        examined.loss = Some(Loss { file, offset, index, reach, message, is_snapshot, aside, good_entries });
    }

    /// Notes a loss inside the open segments `files`, the first affected one first.
    fn lose_open(
        &self,
        examined: &mut Examined,
        file: &str,
        offset: u64,
        message: String,
        files: Vec<String>,
        good_entries: usize,
    ) {
        let index = examined.next_index();
        let affected: u64 = self
            .open
            .iter()
            .filter(|(name, _)| files.contains(&name.name))
            .map(|(_, open)| may_hold(open))
            .sum();
        let reach = index.saturating_add(affected);
        let aside = files.into_iter().rev().collect();
        let (file, is_snapshot) = (file.to_owned(), false);
        let offset = Some(offset);
        examined.loss = Some(Loss { file, offset, index, reach, message, is_snapshot, aside, good_entries });
    }
}

/// Most entries that an open segment ever held.
fn may_hold(open: &Open) -> u64 {
    let beyond = match open.end {
        End::Damaged { may_hold, .. } => may_hold,
        End::Torn | End::Complete | End::Unused => 0,
    };
    open.entries.len() as u64 + beyond
}

fn read_segment<D: Disk>(disk: &D, name: &ClosedName) -> Result<Bytes, DiskError> {
    files::read(disk, &name.name, &format!("load closed segment {}", name.name))
}

/// A crash while the log is cut leaves a segment and a shorter copy of its first part: the copy goes.
fn resolve_overlaps<D: Disk>(disk: &D, examined: &mut Examined) -> Result<Vec<ClosedName>, DiskError> {
    let names = examined.survey.closed.clone();
    let mut kept = Vec::new();
    for same_start in names.chunk_by(|a, b| a.first == b.first) {
        let (longest, shorter) = same_start.split_last().expect("a chunk is not empty");
        kept.push(longest.clone());
        if shorter.is_empty() {
            continue;
        }
        let whole = segment::read_closed(&read_segment(disk, longest)?, longest.last - longest.first + 1);
        for name in shorter {
            let expected = name.last - name.first + 1;
            let part = segment::read_closed(&read_segment(disk, name)?, expected);
            if part.failure.is_none() && whole.entries.starts_with(&part.entries) {
                examined.superfluous.push(name.name.clone());
                continue;
            }
            let next = longest.last + 1;
            examined.harmless.push(Harmless {
                file: name.name.clone(),
                offset: None,
                index: name.first,
                message: format!(
                    "unexpected closed segment {}: first index should have been {next}",
                    name.name
                ),
                repair: Repair::MoveAside(vec![name.name.clone()]),
                accepted_by_c: false,
            });
        }
    }
    Ok(kept)
}

/// Finds the segments that connect to the snapshot (or to index 1), and those behind a gap, both in order.
///
/// Older segments that do not connect are in neither: the snapshot has all of theirs.
fn connect(names: &[ClosedName], snapshot_index: u64) -> (Vec<ClosedName>, Vec<ClosedName>) {
    let mut rest = names.to_vec();
    let mut behind_gap: Vec<ClosedName> = Vec::new();
    while let Some(newest) = rest.iter().max_by_key(|name| (name.last, std::cmp::Reverse(name.first))) {
        if newest.last < snapshot_index {
            break;
        }
        let mut chain = vec![newest.clone()];
        while let Some(first) = chain.last()
            && let Some(before) = rest.iter().find(|name| name.last == first.first - 1)
        {
            chain.push(before.clone());
        }
        chain.reverse();
        if chain[0].first <= snapshot_index.saturating_add(1) {
            return (chain, behind_gap);
        }
        rest.retain(|name| !chain.contains(name));
        behind_gap.splice(0..0, chain);
    }
    (Vec::new(), behind_gap)
}
