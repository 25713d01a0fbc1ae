//! Decides what to do about what [`examine`] found, and does it.
//!
//! Everything is decided before anything is changed. Files that hold acknowledged entries are moved aside, never
//! deleted; what is deleted is empty, superseded, or was never finished.

use super::error::{DiskError, LoadError};
use super::examine::{Examined, Harmless, Loss, OpenSegment, Repair, examine};
use super::file_system::{Disk, File};
use super::files;
use super::manifest::{Keeper, Manifest, Use};
use super::metadata::{self, Record};
use super::names::{ASIDE, ClosedName, MANIFEST, MARKER, OpenName};
use super::segment;
use super::survey::Marker;
use super::writer::{Finished, close_file};
use crate::{Entry, HardState, LogIndex, SnapshotMetadata, Term};

/// What can be done about lost term and vote. Both files go, since the older of them alone would pass for the newest.
pub(crate) const LOST_VOTE_REMEDY: &str = "a lost vote could elect two leaders: remove this server from the cluster \
     through another member and add a new one with another id and an empty directory (with id 1 an empty directory \
     begins a cluster of its own); if it is the only voter, move metadata1 and metadata2 out of the directory and start \
     it with auto-recovery; if the others have no majority without it, move both out and make it the only voter with \
     dqlite_node_recover_ext";

/// The same where a host only creates the node. C's texts are cut at 299 bytes, so this one is short and leads to the other.
pub(crate) const CREATE_REMEDY: &str = "its vote is lost: move metadata1 and metadata2, both, out of the directory and \
     start again: a sole voter goes on, any other member is told how to be replaced";

/// A directory that is ready for writing.
#[derive(Debug)]
pub(crate) struct Opened<D: Disk> {
    pub(crate) record: Record,
    pub(crate) snapshot: Option<SnapshotMetadata>,
    pub(crate) first_index: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) closed: Vec<Finished>,
    pub(crate) marker: Option<Marker>,
    pub(crate) keeper: Keeper<D>,
    /// Counter of the next open segment.
    pub(crate) next_counter: u64,
}

/// Loads the directory and leaves it without open segments. The caller holds the lock.
pub(crate) fn load_and_repair<D: Disk>(
    disk: &D,
    auto_recovery: bool,
    segment_size: u64,
) -> Result<Opened<D>, LoadError> {
    let examined = examine(disk, segment_size)?;
    let record = decide(&examined, auto_recovery)?;
    let mut repairer = Repairer { disk, next_aside: examined.survey.next_aside };
    Ok(repairer.run(examined, record)?)
}

/// Whether the directory may be used, and with which term and vote.
fn decide(examined: &Examined, auto_recovery: bool) -> Result<Record, LoadError> {
    let voters =
        examined.configuration.as_ref().map_or(0, |(_, configuration)| configuration.voters().count());
    // Nobody's configuration may be left after a repair that was interrupted; the marker tells that it was allowed.
    let is_interrupted = examined.configuration.is_none() && examined.survey.marker.is_some();
    let may_lose = auto_recovery && (voters >= 2 || is_interrupted);
    if let Some(loss) = examined.loss.as_ref().filter(|_| !may_lose) {
        return Err(loss_error(examined, loss, voters));
    }
    if !auto_recovery && let Some(harmless) = examined.harmless.iter().find(|found| !found.accepted_by_c) {
        return Err(harmless_error(harmless));
    }
    decide_metadata(examined, auto_recovery && voters == 1)
}

/// Fails if entries are lost, whatever the settings.
pub(crate) fn refuse_loss(examined: &Examined) -> Result<(), LoadError> {
    examined.loss.as_ref().map_or(Ok(()), |loss| Err(loss_error(examined, loss, 0)))
}

/// The term and vote to go on with. `may_guess` says that votes that were lost can do no harm.
pub(crate) fn decide_metadata(examined: &Examined, may_guess: bool) -> Result<Record, LoadError> {
    let found = &examined.metadata;
    let record = found.newest.unwrap_or_default();
    let noted = examined.survey.manifest.as_ref();
    let (noted_version, noted_term) = noted.map_or((0, Term(0)), |noted| (noted.version, noted.term));
    let is_older = record.version < noted_version && !planted::bug!(OlderVoteTaken);
    let problem = if let Some((file, message)) = found.damaged.first() {
        Some((file.clone(), message.clone()))
    } else if let Some(message) = &found.conflict {
        Some((metadata_files(), message.clone()))
    } else if found.newest.is_none() && (examined.next_index() > 1 || examined.loss.is_some()) {
        Some((metadata_files(), "metadata1 and metadata2 are missing, but there is a log".to_owned()))
    } else if is_older {
        let message = format!(
            "metadata1 and metadata2 are at version {}, but {MANIFEST} knows of version {noted_version}: the newer one is \
             missing or was replaced by an older copy",
            record.version
        );
        Some((metadata_files(), message))
    } else {
        None
    };
    let last_term = examined.last_term();
    if let Some((file, message)) = problem {
        if !may_guess {
            return Err(LoadError::Metadata { file, message, remedy: LOST_VOTE_REMEDY.to_owned() });
        }
        // The only voter there is competes with nobody.
        let record = Record { version: record.version.max(noted_version), ..record };
        return Ok(raised(record, last_term.max(record.hard_state.term).max(noted_term)));
    }
    // Its votes are lost, so no term up to here is voted in again.
    Ok(if last_term > record.hard_state.term { raised(record, last_term) } else { record })
}

fn raised(record: Record, lost: Term) -> Record {
    let term = Term(lost.0.saturating_add(1));
    Record { version: record.version + 1, hard_state: HardState { term, vote: None } }
}

fn metadata_files() -> String {
    "metadata1, metadata2".to_owned()
}

/// C's texts do not always name the file.
fn naming(file: &str, message: &str, remedy: &str) -> String {
    if message.contains(file) { remedy.to_owned() } else { format!("the damaged file is {file}; {remedy}") }
}

/// What a refused start says.
pub(crate) fn loss_error(examined: &Examined, loss: &Loss, voters: usize) -> LoadError {
    let mut files: Vec<&str> = loss.aside.iter().map(String::as_str).collect();
    if files.is_empty() {
        files.push(&loss.file);
    }
    // What it names is no longer there then.
    if examined.survey.manifest.is_some() && !files.contains(&MANIFEST) {
        files.push(MANIFEST);
    }
    let give_up = format!(
        "restore the directory from a backup, or move {} out of it to give up all entries from {} on",
        files.join(", "),
        loss.index
    );
    let remedy = if voters < 2 {
        give_up
    } else {
        format!("switch auto-recovery on to fetch the entries from the cluster again, or {give_up}")
    };
    let (file, message) = (loss.file.clone(), loss.message.clone());
    let remedy = naming(&file, &message, &remedy);
    if loss.is_snapshot {
        return LoadError::Snapshot { file, message, remedy };
    }
    LoadError::Damaged { file, offset: loss.offset, index: LogIndex(loss.index), message, remedy }
}

fn harmless_error(found: &Harmless) -> LoadError {
    LoadError::Damaged {
        file: found.file.clone(),
        offset: found.offset,
        index: LogIndex(found.index),
        message: found.message.clone(),
        remedy: naming(
            &found.file,
            &found.message,
            "nothing else depends on the damaged part: switch auto-recovery on to have it moved aside",
        ),
    }
}

pub(crate) struct Repairer<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) next_aside: u64,
}

impl<D: Disk> Repairer<'_, D> {
    pub(crate) fn run(&mut self, mut examined: Examined, record: Record) -> Result<Opened<D>, DiskError> {
        let mut marker = examined.survey.marker;
        if let Some(loss) = examined.loss.take() {
            // A term that was raised above the log's says nothing about what this node acknowledged.
            let is_trusted = examined.metadata.newest == Some(record)
                && marker.is_none_or(|marker| marker.damaged_in.is_some());
            let damaged_in = is_trusted.then_some(record.hard_state.term);
            let until = marker.map_or(loss.reach, |marker| marker.until.max(loss.reach));
            let noted = Marker { until, damaged_in };
            marker = Some(noted);
            tracing::error!(
                "{}; moving {:?} aside; neither voting nor leading before entry {until}{} is committed",
                loss.message,
                loss.aside,
                damaged_in.map_or_else(String::new, |term| format!(", or one of a term above {term},"))
            );
            // Before anything else: from here on the log looks whole again.
            files::write_whole(self.disk, MARKER, &noted.encode(), "mark the log as damaged")?;
            self.move_lost_aside(&mut examined, &loss)?;
        } else if let Some(noted) = marker.filter(|_| examined.survey.marker_is_lost) {
            files::write_whole(self.disk, MARKER, &noted.encode(), "mark the log as damaged")?;
        }
        let covered = examined.snapshot.as_ref().map_or((0, Term(0)), |found| (found.index.0, found.term));
        if marker.is_some_and(|marker| marker.is_done(covered.0, covered.1)) {
            marker = None;
            examined.survey.leftovers.push(MARKER.to_owned());
        }
        self.metadata(&examined, record)?;
        // From here on files go and get other names that the manifest before may still need to be there.
        let manifest = examined.survey.manifest.take();
        let in_use = |open: &OpenSegment| OpenName::parse(&open.name).map_or(0, |name| name.counter);
        let found_counter =
            examined.open.iter().map(in_use).max().map_or(1, |counter| counter.saturating_add(1));
        let next_counter = found_counter.max(manifest.as_ref().map_or(1, Manifest::next_counter));
        let (next, open) = match examined.open.first() {
            Some(open) => (open.extent.first, Use::Open(in_use(open))),
            None => (examined.next_index(), Use::Free(next_counter)),
        };
        let is_new = record == Record::default() && manifest.is_none();
        let mut keeper = Keeper::new(self.disk.clone(), manifest);
        let snapshot = examined.snapshot.as_ref();
        if !(is_new && next == 1) {
            keeper.note(Manifest::new(&record, snapshot, marker, &examined.closed, (next, open)), false)?;
        }
        for found in &examined.harmless {
            tracing::warn!("{}; nothing else depends on it", found.message);
            self.repair_harmless(found)?;
        }
        for name in &examined.replaced {
            tracing::info!("moving segment {name} aside, which contradicts the snapshot received after it");
            self.move_aside(name)?;
        }
        self.remove(&examined.superfluous)?;
        self.remove(&examined.survey.leftovers)?;
        files::sync_directory(self.disk, "clean data directory")?;
        for open in std::mem::take(&mut examined.open) {
            let what = format!("close segment {}", open.name);
            let file = self.disk.open(&open.name).map_err(DiskError::io(&what, "open"))?;
            // What can be read after a failed sync need not be durable, nor does another sync make it so.
            let mut content = vec![0; usize::try_from(open.extent.end).unwrap_or(usize::MAX)];
            let read = file.read_at(&mut content, 0).map_err(DiskError::io(&what, "read"))?;
            file.write_at(&content[..read], 0).map_err(DiskError::io(&what, "write"))?;
            let name = ClosedName::new(open.extent.first, open.extent.next() - 1);
            close_file(self.disk, &file, open.extent.end, &open.name, &name, &what)?;
            examined.closed.push(Finished { name, extent: open.extent });
        }
        examined.closed.sort_by_key(|segment| segment.name.first);
        Ok(Opened {
            record,
            snapshot: examined.snapshot,
            first_index: examined.first_index,
            entries: examined.entries,
            closed: examined.closed,
            marker,
            keeper,
            next_counter,
        })
    }

    /// The last first: what is left is the front of the log at every moment.
    fn move_lost_aside(&mut self, examined: &mut Examined, loss: &Loss) -> Result<(), DiskError> {
        let Some((damaged, later)) = loss.aside.split_last() else { return Ok(()) };
        for name in later {
            self.move_aside(name)?;
        }
        if loss.good_entries == 0 {
            return self.move_aside(damaged);
        }
        let what = format!("repair {damaged}");
        let start = examined.entries.len() - loss.good_entries;
        let first = examined.first_index + start as u64;
        let good = &examined.entries[start..];
        let name = ClosedName::new(first, first + good.len() as u64 - 1);
        files::remove_if_exists(self.disk, &name.name, &what)?;
        let content = segment::encode(good);
        files::write_temporary(self.disk, &name.name, &content, &what)?;
        self.move_aside(damaged)?;
        files::publish(self.disk, &name.name, &what)?;
        files::sync_directory(self.disk, &what)?;
        examined.closed.push(Finished { name, extent: segment::extent(first, good, &content) });
        Ok(())
    }

    fn metadata(&mut self, examined: &Examined, record: Record) -> Result<(), DiskError> {
        let found = &examined.metadata;
        for (name, _) in &found.damaged {
            self.move_aside(name)?;
        }
        self.remove(&found.short)?;
        if found.newest == Some(record) {
            return metadata::confirm(self.disk, &record);
        }
        if record == Record::default() {
            return Ok(());
        }
        tracing::warn!("continuing in term {}, above all that is found in the log", record.hard_state.term);
        metadata::write(self.disk, &record)
    }

    fn repair_harmless(&mut self, found: &Harmless) -> Result<(), DiskError> {
        match &found.repair {
            Repair::MoveAside(names) => names.iter().try_for_each(|name| self.move_aside(name)),
            Repair::CutTo(len) => {
                let what = format!("repair {}", found.file);
                let content = files::read(self.disk, &found.file, &what)?;
                let good =
                    usize::try_from(*len).map_or(&content[..], |len| &content[..len.min(content.len())]);
                let copy = self.aside_name(&found.file);
                files::write_whole(self.disk, &copy, &content, &what)?;
                files::write_whole(self.disk, &found.file, good, &what)
            }
        }
    }

    fn aside_name(&mut self, name: &str) -> String {
        let number = self.next_aside;
        self.next_aside = number.saturating_add(1);
        format!("{ASIDE}{number}-{name}")
    }

    pub(crate) fn move_aside(&mut self, name: &str) -> Result<(), DiskError> {
        let what = format!("move {name} aside");
        let aside = self.aside_name(name);
        self.disk.rename(name, &aside).map_err(DiskError::io(&what, "rename"))?;
        files::sync_directory(self.disk, &what)
    }

    fn remove(&self, names: &[String]) -> Result<(), DiskError> {
        names.iter().try_for_each(|name| files::remove_if_exists(self.disk, name, &format!("delete {name}")))
    }
}
