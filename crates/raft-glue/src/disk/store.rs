//! The one writer of a data directory.

use bytes::Bytes;
use wire_protocol::ClusterId;

use super::error::{DiskError, LoadError};
use super::extent::Extent;
use super::file_system::Disk;
use super::files;
use super::identity::{self, Bound};
use super::manifest::{Keeper, Manifest, Use};
use super::metadata::{self, Record};
use super::names::{ClosedName, LOCK, MARKER};
use super::retention::give_up_older_snapshots;
use super::snapshot::{self, write_snapshot};
use super::survey::Marker;
use super::writer::{Finished, Writer};
use super::{repair, retention, segment};
use crate::{Entry, HardState, InstalledSnapshot, Loaded, LogIndex, Persist, SnapshotMetadata, Term};

/// Size of an open segment when it is created.
pub(crate) const DEFAULT_SEGMENT_SIZE: u64 = 8 * 1024 * 1024;
/// A received snapshot is written in parts of this size.
const SNAPSHOT_PART: usize = 1024 * 1024;

/// Settings of a [`LogStore`]. They never change while it lives.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Entries kept behind a snapshot, rounded up to whole segments.
    pub trailing: u64,
    /// Whether damaged files may be moved aside at the start of a cluster's member.
    pub auto_recovery: bool,
    /// Whether received snapshots are stored compressed. On reading the file itself tells.
    pub compression: bool,
    /// Block size in bytes the host asked for. C aligns its writes to it; ours are aligned to 4096, so it changes
    /// nothing but is accepted.
    pub block_size: Option<u32>,
    /// Size in bytes that open segments are created with. C always uses the default, 8 MiB, but reads any.
    pub segment_size: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            trailing: 8192,
            auto_recovery: true,
            compression: true,
            block_size: None,
            segment_size: DEFAULT_SEGMENT_SIZE,
        }
    }
}

/// Whether there is room for more than what is on its way already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Space {
    /// The reserve is complete.
    #[default]
    Ample,
    /// The disk has no space for the next segments. What was accepted so far still fits, more should not be.
    Low,
}

/// Term, vote, log and snapshots in a directory that nobody else writes to.
///
/// All calls come from one thread. After a failed write or sync the store latches: what the failed call was to make
/// durable may or may not be, so everything that follows fails with [`DiskError::Latched`].
#[derive(Debug)]
pub struct LogStore<D: Disk> {
    disk: D,
    options: LogOptions,
    _lock: D::Lock,
    record: Record,
    snapshot: Option<SnapshotMetadata>,
    closed: Vec<Finished>,
    writer: Writer<D>,
    marker: Option<Marker>,
    /// The identity in the file that fits the log.
    identity: Option<Bound>,
    keeper: Keeper<D>,
    latched: Option<String>,
}

impl<D: Disk> LogStore<D> {
    /// Takes the lock, decides what a crash or damage calls for, repairs and loads.
    ///
    /// An error leaves the directory unlocked and, unless the repair itself failed, unchanged.
    pub fn open(disk: D, options: LogOptions) -> Result<(Self, Loaded), LoadError> {
        let lock = take_lock(&disk)?;
        identity::finish_moving(&disk)?;
        let opened = repair::load_and_repair(&disk, options.auto_recovery, options.segment_size)?;
        let identity = identity::load(&disk, opened.snapshot.as_ref(), opened.first_index, &opened.entries);
        let loaded = Loaded {
            hard_state: opened.record.hard_state,
            snapshot: opened.snapshot.clone(),
            first_index: LogIndex(opened.first_index),
            entries: opened.entries,
            no_vote_until: opened.marker.map(|marker| LogIndex(marker.until)),
            damaged_in: opened.marker.and_then(|marker| marker.damaged_in),
            cluster: identity.map(|bound| bound.cluster),
        };
        if let Some(Marker { until, damaged_in }) = opened.marker {
            tracing::warn!(
                until,
                ?damaged_in,
                "this node lost entries that it may have acknowledged: it neither votes nor leads before an entry of \
                 that index, or of a term above that one, is committed"
            );
        }
        let mut store = Self {
            writer: Writer::new(disk.clone(), options.segment_size, opened.next_counter),
            disk,
            options,
            _lock: lock,
            record: opened.record,
            snapshot: opened.snapshot,
            closed: opened.closed,
            marker: opened.marker,
            identity,
            keeper: opened.keeper,
            latched: None,
        };
        store.note(false)?;
        Ok((store, loaded))
    }

    /// Makes all steps durable, in order, with one write and one sync for all their entries where possible.
    ///
    /// Terms and votes are durable before any entry. [`DiskError::NoSpace`] changes nothing that was acknowledged: the
    /// same steps, with more behind them or not, may be given again.
    pub fn persist(&mut self, steps: &[Persist]) -> Result<(), DiskError> {
        self.guarded(|store| store.persist_steps(steps))
    }

    /// Prepares the segments that come next, and says whether there is space for them. Nobody needs to wait for it: to
    /// be called after [`Self::persist`], and now and then while it answers [`Space::Low`].
    pub fn tend(&mut self) -> Space {
        if self.latched.is_some() || self.writer.replenish() { Space::Ample } else { Space::Low }
    }

    /// Publishes the snapshot that [`write_snapshot`] wrote and removes what it makes superfluous: all but the two
    /// newest snapshots, and closed segments that end more than `trailing` entries before it.
    ///
    /// A snapshot that is older than the newest one by now is discarded.
    pub fn snapshot_taken(&mut self, metadata: &SnapshotMetadata) -> Result<(), DiskError> {
        self.guarded(|store| {
            if store.snapshot.as_ref().is_some_and(|newest| newest.index > metadata.index) {
                return snapshot::discard_snapshot(&store.disk, metadata);
            }
            let next = store.next_index();
            if metadata.index.0 >= next {
                return Err(DiskError::Invalid(format!(
                    "the snapshot covers entry {}, but entry {next} is not on disk yet",
                    metadata.index
                )));
            }
            // The entries it covers must be in closed segments before it can be found.
            store.finish_segment()?;
            snapshot::publish(&store.disk, metadata)?;
            store.snapshot = Some(metadata.clone());
            // Before anything goes that the one before names.
            store.note(false)?;
            store.clear_marker(metadata.index, metadata.term)?;
            store.bind_anew(metadata)?;
            retention::remove_old_snapshots(&store.disk)?;
            let trailing = store.options.trailing;
            retention::remove_old_segments(&store.disk, &mut store.closed, metadata.index.0, trailing)
        })
    }

    /// Tells that the log up to `index` is committed, and the term of the entry there, which is durable; once that is past
    /// everything this node may have acknowledged before it was damaged, it may vote again for good.
    pub fn committed(&mut self, index: LogIndex, term: Term) -> Result<(), DiskError> {
        self.guarded(|store| store.clear_marker(index, term))
    }

    /// Notes durably that the directory belongs to this cluster, bound to the committed entry at `index`. Returns `false`,
    /// and has changed nothing, if neither log nor snapshot has that entry or the disk has no space.
    pub fn bind_identity(&mut self, cluster: ClusterId, index: LogIndex) -> Result<bool, DiskError> {
        self.guarded(|store| {
            let Some(bound) = store.binding(cluster, index)? else { return Ok(false) };
            store.write_identity(bound)
        })
    }

    /// Moves log and snapshots aside (never deleted): this node joins another cluster and brings nothing. Term and vote stay,
    /// and are written once more, so that the directory never looks like one that was not used yet and may begin a
    /// cluster.
    ///
    /// Returns `false` if there is no space for that; then nothing has changed.
    pub fn move_aside(&mut self) -> Result<bool, DiskError> {
        let result = self.guarded(|store| {
            store.finish_segment()?;
            store.writer.remove_prepared()?;
            let record = Record { version: store.record.version + 1, ..store.record };
            metadata::write(&store.disk, &record).map_err(|error| error.without_space("metadata"))?;
            store.record = record;
            if !planted::bug!(ForeignLogKept) {
                identity::move_log_aside(&store.disk).map_err(|error| error.without_space("moving-aside"))?;
            }
            store.closed.clear();
            store.snapshot = None;
            store.identity = None;
            store.marker = None;
            store.keeper.forget();
            store.note(false)?;
            Ok(true)
        });
        result.or_else(|error| if error.is_no_space() { Ok(false) } else { Err(error) })
    }

    /// Entries from `first` on: at least one, at most `max_count`, and at most `max_bytes` of data unless the first
    /// alone has more. Fewer than possible if the log ends.
    pub fn read_entries(
        &mut self,
        first: LogIndex,
        max_count: usize,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, DiskError> {
        let mut next = first.0 + u64::from(planted::bug!(WrongEntriesReadBack));
        let mut entries = Vec::new();
        let mut count = 0;
        let mut bytes: u64 = 0;
        let mut wanted = |entry: &Entry| {
            bytes = bytes.saturating_add(entry.data.len() as u64);
            count += 1;
            count == 1 || (count <= max_count && bytes <= max_bytes)
        };
        let from = self.closed.partition_point(|segment| segment.extent.next() <= next);
        let closed = self.closed[from..].iter().map(|segment| (&segment.extent, segment.name.name.as_str()));
        for (extent, name) in closed.chain(self.writer.extent().zip(self.writer.name())) {
            let file = self
                .disk
                .open_read(name)
                .map_err(DiskError::io(format!("read entries from {name}"), "open"))?;
            if !extent.read(&file, name, &mut next, &mut wanted, &mut entries)? {
                break;
            }
        }
        if entries.is_empty() {
            return Err(DiskError::NotFound(format!("entry {first} is not in the log on disk")));
        }
        Ok(entries)
    }

    /// Index of the oldest entry on disk; the next index if there is none.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        let open = self.writer.extent().map(|extent| extent.first);
        let first = self.closed.first().map(|segment| segment.extent.first).or(open);
        LogIndex(first.unwrap_or_else(|| self.next_index()))
    }

    /// Term and vote that are durable.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.record.hard_state
    }

    /// Ends the current segment and removes the prepared ones, as C does when it stops, and releases the lock.
    ///
    /// A latched store leaves everything as it is.
    pub fn close(mut self) -> Result<(), DiskError> {
        self.guarded(|store| {
            store.finish_segment()?;
            store.writer.remove_prepared()?;
            store.note(false)
        })
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, DiskError>) -> Result<T, DiskError> {
        if let Some(reason) = &self.latched {
            return Err(DiskError::Latched(reason.clone()));
        }
        let result = work(self);
        if let Err(error) = &result
            && matches!(error, DiskError::Io { .. } | DiskError::Corrupt { .. })
        {
            self.latched = Some(error.to_string());
        }
        result
    }

    fn next_index(&self) -> u64 {
        let closed = self.closed.last().map(|segment| segment.extent.next());
        let open = self.writer.extent().map(Extent::next);
        open.or(closed).unwrap_or_else(|| self.snapshot.as_ref().map_or(1, |snapshot| snapshot.index.0 + 1))
    }

    fn persist_steps(&mut self, steps: &[Persist]) -> Result<(), DiskError> {
        if let Some(hard_state) = steps.iter().rev().find_map(|step| step.hard_state) {
            self.write_hard_state(hard_state)?;
        }
        // A snapshot replaces everything before it.
        let replaced = steps.iter().rposition(|step| step.snapshot.is_some()).unwrap_or(0);
        let steps = &steps[replaced..];
        let tail = Tail::of(steps)?;
        if let Some(snapshot) = steps.first().and_then(|step| step.snapshot.as_ref()) {
            self.install(snapshot)?;
        }
        let Some(tail) = tail else { return Ok(()) };
        let next = self.next_index();
        if tail.first > next {
            return Err(DiskError::Invalid(format!(
                "entries from {} on do not follow the log, whose next index is {next}",
                tail.first
            )));
        }
        if tail.first < next && !planted::bug!(TruncationForgotten) {
            self.truncate(tail.first)?;
        }
        let Self { writer, closed, keeper, record, snapshot, marker, .. } = self;
        writer.append(tail.first, &tail.entries, closed, |closed, first, counter| {
            let place = (first, Use::Open(counter));
            keeper.note(Manifest::new(record, snapshot.as_ref(), *marker, closed, place), false)
        })
    }

    /// Writes the manifest as everything is now. `keep_old` says that the one before stays true without this one.
    fn note(&mut self, keep_old: bool) -> Result<(), DiskError> {
        let place = match self.writer.place() {
            Some((first, counter)) => (first, Use::Open(counter)),
            None => (self.next_index(), Use::Free(self.writer.free_counter())),
        };
        self.note_with(place, keep_old)
    }

    fn note_with(&mut self, place: (u64, Use), keep_old: bool) -> Result<(), DiskError> {
        if self.record == Record::default() && place.0 == 1 && self.keeper.is_empty() {
            // A directory that was never used stays as it is.
            return Ok(());
        }
        let manifest = Manifest::new(&self.record, self.snapshot.as_ref(), self.marker, &self.closed, place);
        self.keeper.note(manifest, keep_old)
    }

    /// Says that the log behind `next` is about to go; nothing that the manifest names does.
    fn note_cut(&mut self, next: u64) -> Result<(), DiskError> {
        if planted::bug!(CutNotNoted) {
            return Ok(());
        }
        self.note_with((next, Use::Cut(self.writer.free_counter())), false)
    }

    fn write_hard_state(&mut self, hard_state: HardState) -> Result<(), DiskError> {
        if hard_state == self.record.hard_state {
            return Ok(());
        }
        let mut record = Record { version: self.record.version + 1, hard_state };
        if planted::bug!(VoteForgotten) {
            record.hard_state.vote = None;
        }
        metadata::write(&self.disk, &record).map_err(|error| error.without_space("metadata"))?;
        self.record = record;
        // Before anybody hears of it, so that an older copy is known for what it is.
        self.note(true)
    }

    fn finish_segment(&mut self) -> Result<(), DiskError> {
        if self.writer.extent().is_none() && self.writer.place().is_some() {
            // The manifest says that the file is there, and it is about to go.
            let place = (self.next_index(), Use::Free(self.writer.free_counter()));
            self.note_with(place, false)?;
        }
        let finished = self.writer.finish()?;
        self.closed.extend(finished);
        Ok(())
    }

    fn install(&mut self, snapshot: &InstalledSnapshot) -> Result<(), DiskError> {
        let metadata = &snapshot.metadata;
        let log_is_empty = self.closed.is_empty() && self.writer.extent().is_none();
        if log_is_empty && self.snapshot.as_ref() == Some(metadata) {
            // The second try of a step that ran out of space behind this point.
            return Ok(());
        }
        self.finish_segment()?;
        let timestamp_ms = snapshot::next_timestamp(&self.disk)?;
        let write = || {
            let mut parts = (0..snapshot.data.len())
                .step_by(SNAPSHOT_PART)
                .map(|start| snapshot.data.slice(start..snapshot.data.len().min(start + SNAPSHOT_PART)));
            let parts: &mut dyn Iterator<Item = Bytes> = &mut parts;
            let len = snapshot.data.len() as u64;
            write_snapshot(&self.disk, metadata, self.options.compression, timestamp_ms, parts, len)
        };
        write().or_else(|error| match error {
            error if error.is_no_space() && give_up_older_snapshots(&self.disk)? => write(),
            error => Err(error),
        })?;
        snapshot::publish(&self.disk, metadata)?;
        self.snapshot = Some(metadata.clone());
        let replaced = std::mem::take(&mut self.closed);
        self.note_cut(metadata.index.0 + 1)?;
        self.closed = replaced;
        if let Some(bound) = self.identity {
            self.write_identity(Bound::to_snapshot(bound.cluster, metadata))?;
        }
        if !planted::bug!(LogKeptBehindSnapshot) {
            retention::remove_segments_from_end(&self.disk, &mut self.closed, 0)?;
            retention::remove_ignored_segments(&self.disk)?;
        }
        self.note(false)?;
        self.clear_marker(metadata.index, metadata.term)?;
        retention::remove_old_snapshots(&self.disk)
    }

    /// Cuts the log so that `first` is the next index.
    fn truncate(&mut self, first: u64) -> Result<(), DiskError> {
        if self.snapshot.as_ref().is_some_and(|snapshot| first <= snapshot.index.0) {
            return Err(DiskError::Invalid(format!(
                "entry {first} is in the snapshot and cannot be replaced"
            )));
        }
        if first < self.first_index().0 {
            return Err(DiskError::Invalid(format!("the log does not reach back to entry {first}")));
        }
        self.finish_segment()?;
        self.note_cut(first)?;
        let keep = self.closed.partition_point(|segment| segment.extent.first < first);
        retention::remove_segments_from_end(&self.disk, &mut self.closed, keep)?;
        let Some(last) = self.closed.last() else { return Ok(()) };
        if last.extent.next() <= first {
            return Ok(());
        }
        // The part that stays is written to a file of its own before the old one goes.
        let what = format!("truncate {}", last.name.name);
        let kept = usize::try_from(first - last.extent.first)
            .map_err(|_| DiskError::Invalid(format!("{what}: too many entries")))?;
        let mut entries = Vec::new();
        let file = self.disk.open_read(&last.name.name).map_err(DiskError::io(&what, "open"))?;
        let mut next = last.extent.first;
        let mut left = kept;
        let mut wanted = |_: &Entry| {
            let wanted = left > 0;
            left = left.saturating_sub(1);
            wanted
        };
        last.extent.read(&file, &last.name.name, &mut next, &mut wanted, &mut entries)?;
        let shorter = write_closed(&self.disk, last.extent.first, &entries, &what)?;
        let old = last.name.name.clone();
        self.disk.unlink(&old).map_err(DiskError::io(&what, "unlink"))?;
        files::sync_directory(&self.disk, &what)?;
        self.closed.pop();
        self.closed.push(shorter);
        Ok(())
    }

    /// The identity with the entry at `index`, if that is here.
    fn binding(&mut self, cluster: ClusterId, index: LogIndex) -> Result<Option<Bound>, DiskError> {
        if index.0 > 0 && (self.first_index().0..self.next_index()).contains(&index.0) {
            let entries = self.read_entries(index, 1, u64::MAX)?;
            return Ok(entries.first().map(|entry| Bound::to_entry(cluster, index, entry)));
        }
        let snapshot = self.snapshot.as_ref().filter(|snapshot| snapshot.index == index);
        Ok(snapshot.map(|snapshot| Bound::to_snapshot(cluster, snapshot)))
    }

    /// `false` if there is no space for it; the file before, if any, is still there then.
    fn write_identity(&mut self, bound: Bound) -> Result<bool, DiskError> {
        match identity::write(&self.disk, &bound).map_err(|error| error.without_space("cluster-identity")) {
            Ok(()) => {
                self.identity = Some(bound);
                Ok(true)
            }
            Err(error) if error.is_no_space() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The entry that the identity is bound to may be about to go: the one that this snapshot ends with takes its place.
    fn bind_anew(&mut self, snapshot: &SnapshotMetadata) -> Result<(), DiskError> {
        let Some(bound) = self.identity else { return Ok(()) };
        if let Some(bound) = self.binding(bound.cluster, snapshot.index)? {
            self.write_identity(bound)?;
        }
        Ok(())
    }

    fn clear_marker(&mut self, committed: LogIndex, term: Term) -> Result<(), DiskError> {
        if self.marker.is_none_or(|marker| !marker.is_done(committed.0, term)) {
            return Ok(());
        }
        let what = format!("remove {MARKER}");
        self.marker = None;
        // First, or a crash would bring it back.
        self.note(false)?;
        files::remove_if_exists(&self.disk, MARKER, &what)?;
        files::sync_directory(&self.disk, &what)?;
        tracing::info!(%committed, "this node has caught up after the damage to its log and votes again");
        Ok(())
    }
}

/// Entries of several steps as they stand in the end.
struct Tail {
    first: u64,
    entries: Vec<Entry>,
}

impl Tail {
    fn of(steps: &[Persist]) -> Result<Option<Self>, DiskError> {
        let mut tail: Option<Self> = None;
        for step in steps.iter().filter(|step| !step.entries.is_empty()) {
            check(step)?;
            let first = step.first_index.0;
            let Some(tail) = tail.as_mut().filter(|tail| first > tail.first) else {
                // Also when a later step replaces everything of the earlier ones.
                tail = Some(Self { first, entries: step.entries.clone() });
                continue;
            };
            let kept = usize::try_from(first - tail.first).unwrap_or(usize::MAX);
            if kept > tail.entries.len() {
                let next = tail.first + tail.entries.len() as u64;
                return Err(DiskError::Invalid(format!(
                    "entries from {first} on do not follow entry {next}"
                )));
            }
            tail.entries.truncate(kept);
            tail.entries.extend_from_slice(&step.entries);
        }
        Ok(tail)
    }
}

fn check(step: &Persist) -> Result<(), DiskError> {
    if step.first_index.0 == 0 {
        return Err(DiskError::Invalid("entries have indexes from 1 on".to_owned()));
    }
    for entry in &step.entries {
        if !entry.data.len().is_multiple_of(8) {
            return Err(DiskError::Invalid("entry buffers must be 8-byte aligned".to_owned()));
        }
        if entry.term.0 == 0 {
            return Err(DiskError::Invalid("entries have terms from 1 on".to_owned()));
        }
        if u32::try_from(entry.data.len()).is_err() {
            return Err(DiskError::Invalid(format!("an entry of {} bytes is too large", entry.data.len())));
        }
    }
    Ok(())
}

pub(crate) fn take_lock<D: Disk>(disk: &D) -> Result<D::Lock, DiskError> {
    disk.lock(LOCK).map_err(DiskError::io("lock the raft directory", "open"))?.ok_or(DiskError::Locked)
}

/// Writes a closed segment durably.
pub(crate) fn write_closed<D: Disk>(
    disk: &D,
    first: u64,
    entries: &[Entry],
    what: &str,
) -> Result<Finished, DiskError> {
    let name = ClosedName::new(first, first + entries.len() as u64 - 1);
    let content = segment::encode(entries);
    let written = files::write_temporary(disk, &name.name, &content, what)
        .and_then(|()| files::publish(disk, &name.name, what));
    if let Err(error) = written {
        let _ = disk.unlink(&files::temporary(&name.name));
        return Err(error.without_space_for_new(&name.name));
    }
    files::sync_directory(disk, what)?;
    Ok(Finished { name, extent: segment::extent(first, entries, &content) })
}
