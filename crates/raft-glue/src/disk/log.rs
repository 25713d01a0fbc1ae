//! Puts the log together from its segments: which connect, which are behind the snapshot, where something is lost.

use bytes::Bytes;

use super::bytes_of::to_usize;
use super::error::DiskError;
use super::examine::{Examined, Harmless, Loss, OpenSegment, Repair};
use super::extent::Extent;
use super::file_system::Disk;
use super::files;
use super::manifest::{Conflict, FoundOpen};
use super::names::{ClosedName, MANIFEST, OpenName, SnapshotName};
use super::segment::{self, Closed, End, Failure, Open};
use super::writer::Finished;
use crate::EntryKind;

/// The parts of the log, before they are put together.
pub(crate) struct Log {
    /// The snapshot that the log starts from.
    pub(crate) chosen: Option<SnapshotName>,
    /// Index of the newest snapshot that cannot be used, 0 if there is none.
    pub(crate) broken: u64,
    /// Open segments in order.
    pub(crate) open: Vec<(OpenName, Open)>,
    /// Most entries of an open segment that is gone.
    pub(crate) most_in_open: u64,
}

impl Log {
    /// Fills in everything about the log.
    pub(crate) fn read<D: Disk>(&mut self, disk: &D, examined: &mut Examined) -> Result<(), DiskError> {
        // Wherever the log ends, the writer begins without them.
        let unused = self.open.iter().filter(|(_, open)| open.end == End::Unused);
        examined.superfluous.extend(unused.map(|(name, _)| name.name.clone()));
        set_displaced_aside(examined);
        let names = resolve_overlaps(disk, examined)?;
        let (mut chain, mut unconnected) = connect(&names, examined.snapshot_index());
        let conflict = self.compare_to_manifest(examined, &mut chain, &mut unconnected);
        if let Some(first) = chain.first() {
            examined.first_index = first.first;
        }
        // Behind the snapshot, and nothing connects them to what follows: they would only mislead the next start.
        let is_ignored = |name: &&ClosedName| {
            let is_older = examined.harmless.iter().any(|found| found.file == name.name);
            !chain.contains(name) && !unconnected.contains(name) && !is_older
        };
        examined.superfluous.extend(names.iter().filter(is_ignored).map(|name| name.name.clone()));
        for (number, name) in chain.iter().enumerate() {
            let later = chain[number + 1..].iter().chain(&unconnected).map(|name| name.name.clone());
            let later = later.collect();
            if !self.read_closed(disk, examined, name, later)? {
                return Ok(());
            }
        }
        if let Some(Conflict { message, .. }) = conflict {
            let later = unconnected.iter().map(|name| name.name.clone()).collect();
            self.lose(examined, MANIFEST, None, message, later, 0);
            return Ok(());
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
        // A manifest says where the open segments belong.
        let is_open = examined.survey.manifest.is_none() && chain.is_empty();
        if is_open && !self.place_is_certain(examined, names.iter().map(|name| name.last).max()) {
            return Ok(());
        }
        self.read_open(examined);
        self.check_start(examined);
        self.check_snapshot(examined);
        Ok(())
    }

    /// Takes out of the chain what the manifest says does not belong to the log, and gives where the directory falls short of
    /// it, if it does. What is behind that place counts as unconnected then.
    fn compare_to_manifest(
        &mut self,
        examined: &mut Examined,
        chain: &mut Vec<ClosedName>,
        unconnected: &mut Vec<ClosedName>,
    ) -> Option<Conflict> {
        let snapshot_index = examined.snapshot_index();
        let manifest = examined.survey.manifest.as_ref()?;
        let open = self.found_open();
        let verdict = manifest.judge(snapshot_index, chain, &examined.survey.closed, &open);
        let older = chain.drain(..verdict.older).map(|name| (name.first, name.name));
        let is_older = |name: &&OpenName| verdict.older_open.contains(&name.counter);
        let open = self.open.iter().map(|(name, _)| name).filter(is_older);
        let older: Vec<_> = older.chain(open.map(|name| (manifest.next, name.name.clone()))).collect();
        if verdict.conflict.is_none() && !unconnected.is_empty() {
            return None;
        }
        if let Some(conflict) = &verdict.conflict {
            let keep = chain.partition_point(|name| name.last < conflict.index);
            unconnected.splice(0..0, chain.drain(keep..));
        }
        for (index, name) in older {
            examined.harmless.push(Harmless {
                message: format!("segment {name} is an older copy, which {MANIFEST} does not name"),
                repair: Repair::MoveAside(vec![name.clone()]),
                file: name,
                offset: None,
                index,
                accepted_by_c: true,
            });
        }
        self.open.retain(|(name, _)| !verdict.older_open.contains(&name.counter));
        verdict.conflict
    }

    /// What the manifest is compared to.
    pub(crate) fn found_open(&self) -> Vec<FoundOpen> {
        let found = |(name, open): &(OpenName, Open)| FoundOpen {
            counter: name.counter,
            used: !open.entries.is_empty() || matches!(open.end, End::Damaged { .. }),
        };
        self.open.iter().map(found).collect()
    }

    /// A loss reaches at least as far as the manifest says that the log did.
    pub(crate) fn extend_reach(&self, examined: &mut Examined) {
        let Some(manifest) = &examined.survey.manifest else { return };
        let is_gone = manifest.lacks_open(&examined.survey.closed, &self.found_open());
        let lost = if is_gone { self.most_in_open } else { 0 };
        let open: u64 = self.with_data().map(|(_, open)| may_hold(open)).sum();
        let reach = (manifest.next - 1).saturating_add(open).saturating_add(lost);
        if let Some(loss) = &mut examined.loss {
            loss.reach = loss.reach.max(reach);
        }
    }

    /// Finds out who belongs to the cluster, even if the entry that says so is among those that are lost.
    pub(crate) fn note_newest_configuration<D: Disk>(
        &self,
        disk: &D,
        examined: &mut Examined,
    ) -> Result<(), DiskError> {
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
        let Closed { mut entries, batches, mut failure, surplus, len } =
            segment::read_closed(&content, expected);
        let sum = Extent::sum_of(&content, &batches);
        let named = examined.survey.manifest.as_ref().and_then(|manifest| manifest.named(name));
        if entries.len() as u64 == expected
            && !surplus
            && named.is_some_and(|named| named.sum != sum)
            && !planted::bug!(OlderSegmentTaken)
        {
            let message = format!("it is an older copy of the one that {MANIFEST} names");
            failure = Some(Failure { offset: 0, message });
            entries.clear();
        }
        let found = entries.len();
        let extent = Extent { first: name.first, entries: expected, batches, end: len, sum };
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

    /// Whether it is clear where open segments belong when no closed one precedes them: all closed ones end before the
    /// snapshot, the last at `last`, or there are none.
    fn place_is_certain(&self, examined: &mut Examined, last: Option<u64>) -> bool {
        let Some((first, open)) = self.with_data().next() else { return true };
        let Some(message) = self.doubt(first, open, examined.snapshot_index(), last) else { return true };
        let first = first.clone();
        self.lose(examined, &first, None, message, Vec::new(), 0);
        false
    }

    /// Why the place of the open segments, of which the first is `name`, is not clear.
    fn doubt(&self, name: &str, open: &Open, snapshot_index: u64, last: Option<u64>) -> Option<String> {
        let count: u64 = self.with_data().map(|(_, open)| open.entries.len() as u64).sum();
        if self.broken > snapshot_index {
            let starts_log = open.entries.first().is_some_and(|entry| entry.kind == EntryKind::Configuration);
            let is_whole_log = last.is_none() && self.chosen.is_none() && starts_log && count >= self.broken;
            // A received snapshot takes the place of the whole log, and an open segment does not say where it belongs.
            let broken = self.broken;
            return (!is_whole_log).then(|| {
                format!(
                    "open segment {name} follows entry {snapshot_index} or the snapshot at index {broken}, which cannot \
                     be used"
                )
            });
        }
        let last = last?;
        let end = last.saturating_add(count);
        Some(if end < snapshot_index {
            format!(
                "last entry on disk has index {end}, which is behind last snapshot's index {snapshot_index}"
            )
        } else {
            format!(
                "open segment {name} follows entry {last} or the last snapshot, whose index is {snapshot_index}"
            )
        })
    }

    fn read_open(&self, examined: &mut Examined) {
        let mut torn: Option<(&OpenName, &Open)> = None;
        let mut counters = Vec::new();
        for (number, (name, open)) in self.open.iter().enumerate() {
            if open.end == End::Unused {
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
                sum: open.sum,
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
        let reach = last.max(examined.snapshot_index()).max(self.broken).saturating_add(open);
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

/// Of segments that overlap, those that the manifest names are the right ones.
fn set_displaced_aside(examined: &mut Examined) {
    let Some(manifest) = &examined.survey.manifest else { return };
    let names = &examined.survey.closed;
    let (displaced, kept): (Vec<_>, Vec<_>) =
        names.iter().cloned().partition(|name| manifest.is_displaced(name, names));
    examined.survey.closed = kept;
    examined.harmless.extend(displaced.into_iter().map(|name| Harmless {
        message: format!("segment {} is an older copy, which {MANIFEST} does not name", name.name),
        repair: Repair::MoveAside(vec![name.name.clone()]),
        file: name.name,
        offset: None,
        index: name.first,
        accepted_by_c: true,
    }));
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
