//! Reads a whole data directory and decides what is the log. Changes nothing.
//!
//! Two kinds of findings are kept apart: a [`Harmless`] one costs no entry that is not also somewhere else; a [`Loss`]
//! means that something which may have been acknowledged is gone. What a crash leaves is neither: it is cut or removed
//! without a word.

use super::batch::MAX_ENTRIES;
use super::error::DiskError;
use super::extent::Extent;
use super::file_system::Disk;
use super::files;
use super::log::Log;
use super::metadata;
use super::names::SnapshotName;
use super::segment;
use super::snapshot::{self, Unusable};
use super::survey::{Survey, survey};
use super::writer::Finished;
use crate::{Configuration, Entry, EntryKind, SnapshotMetadata, Term};

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

/// The highest index that one of them covers, 0 if there is none.
fn newest_index(broken: &[Broken]) -> u64 {
    broken.iter().map(|broken| broken.name.index).max().unwrap_or(0)
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
    let most_in_open = (segment_size / segment::MIN_ENTRY_LEN).max(MAX_ENTRIES as u64);
    let mut log = Log { chosen, broken: newest_index(&broken), open, most_in_open };
    log.read(disk, &mut examined)?;
    log.note_newest_configuration(disk, &mut examined)?;
    examined.drop_front_before_snapshot();
    examined.judge_broken_snapshots(broken);
    log.extend_reach(&mut examined);
    Ok(examined)
}

impl Examined {
    /// Index of the last snapshot, 0 without one.
    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0)
    }

    /// Highest term of an entry or of the snapshot, 0 if there is nothing.
    pub(crate) fn last_term(&self) -> Term {
        let snapshot = self.snapshot.as_ref().map(|snapshot| snapshot.term);
        self.entries.iter().map(|entry| entry.term).chain(snapshot).max().unwrap_or_default()
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

    pub(crate) fn note_configurations(&mut self, first: u64, entries: &[Entry]) {
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
        let newest_index = newest_index(&broken);
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
