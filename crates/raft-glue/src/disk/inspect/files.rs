//! What each file of a directory says for itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    MetadataFile, OtherFile, OtherKind, Segment, SegmentEnd, Snapshot, SnapshotContent, Standing, is_gone,
};
use crate::disk::error::DiskError;
use crate::disk::examine::{Examined, Repair};
use crate::disk::file_system::Disk;
use crate::disk::files;
use crate::disk::metadata::Record;
use crate::disk::names::{
    ASIDE, BACKUP, ClosedName, IDENTITY, LOCK, MANIFEST, MARKER, METADATA, MOVING, OpenName, SnapshotName,
    TEMPORARY,
};
use crate::disk::segment::{self, End};
use crate::disk::snapshot::{self, Unusable};
use crate::{Entry, EntryKind, LogIndex, Term};

/// Sizes of all files by name.
#[derive(Debug)]
pub(super) struct Sizes(BTreeMap<String, u64>);

impl Sizes {
    pub(super) fn of<D: Disk>(disk: &D) -> Result<Self, DiskError> {
        let entries = disk.list().map_err(DiskError::io("scan data directory", "open directory"))?;
        Ok(Self(entries.into_iter().map(|entry| (entry.name, entry.size)).collect()))
    }

    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

pub(super) fn metadata<D: Disk>(disk: &D) -> Result<Vec<MetadataFile>, DiskError> {
    let mut found = Vec::new();
    for name in METADATA {
        let content = match files::read(disk, name, name) {
            Ok(content) => Record::decode(name, &content).map(Into::into),
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        found.push(MetadataFile { name: name.to_owned(), content });
    }
    Ok(found)
}

/// What a start does with segments that are not used as they are.
struct Fates {
    superfluous: BTreeSet<String>,
    damaged: BTreeSet<String>,
}

impl Fates {
    fn of(examined: &Examined) -> Self {
        let mut damaged: BTreeSet<String> = examined.replaced.iter().cloned().collect();
        damaged.extend(examined.loss.iter().flat_map(|loss| loss.aside.iter().cloned()));
        for harmless in &examined.harmless {
            match &harmless.repair {
                Repair::MoveAside(names) => damaged.extend(names.iter().cloned()),
                Repair::CutTo(_) => {
                    damaged.insert(harmless.file.clone());
                }
            }
        }
        Self { superfluous: examined.superfluous.iter().cloned().collect(), damaged }
    }

    fn standing(&self, name: &str) -> Standing {
        if self.damaged.contains(name) {
            Standing::Damaged
        } else if self.superfluous.contains(name) {
            Standing::Superfluous
        } else {
            Standing::Used
        }
    }
}

pub(super) fn segments<D: Disk>(
    disk: &D,
    examined: &Examined,
    sizes: &Sizes,
) -> Result<Vec<Segment>, DiskError> {
    let fates = Fates::of(examined);
    let mut found = Vec::new();
    for name in &examined.survey.closed {
        found.push(closed(disk, name, sizes, fates.standing(&name.name))?);
    }
    for name in &examined.survey.open {
        let first = examined.open.iter().find(|open| open.name == name.name).map(|open| open.extent.first);
        found.push(open(disk, name, sizes, fates.standing(&name.name), first.map(LogIndex))?);
    }
    Ok(found)
}

fn closed<D: Disk>(
    disk: &D,
    name: &ClosedName,
    sizes: &Sizes,
    standing: Standing,
) -> Result<Segment, DiskError> {
    let content = files::read(disk, &name.name, &format!("load closed segment {}", name.name))?;
    let closed = segment::read_closed(&content, name.last - name.first + 1);
    let end = match closed.failure {
        None => SegmentEnd::Sound,
        Some(failure) => SegmentEnd::Damaged { offset: failure.offset, message: failure.message },
    };
    Ok(Segment {
        name: name.name.clone(),
        size: sizes.get(&name.name),
        used: closed.len,
        first: Some(LogIndex(name.first)),
        promised: Some(LogIndex(name.last)),
        batches: closed.batches.len() as u64,
        end,
        standing,
        ..counted(&closed.entries)
    })
}

fn open<D: Disk>(
    disk: &D,
    name: &OpenName,
    sizes: &Sizes,
    standing: Standing,
    first: Option<LogIndex>,
) -> Result<Segment, DiskError> {
    let content = files::read(disk, &name.name, &format!("load open segment {}", name.name))?;
    let open = segment::read_open(&content, crate::disk::store::DEFAULT_SEGMENT_SIZE);
    let end = match open.end {
        End::Unused => SegmentEnd::Unused,
        End::Complete => SegmentEnd::Sound,
        End::Torn => SegmentEnd::Unfinished { offset: open.len },
        End::Damaged { failure, .. } => {
            SegmentEnd::Damaged { offset: failure.offset, message: failure.message }
        }
    };
    Ok(Segment {
        name: name.name.clone(),
        size: sizes.get(&name.name),
        used: open.len,
        first,
        batches: open.batches.len() as u64,
        end,
        standing,
        ..counted(&open.entries)
    })
}

/// A segment of which nothing is known but its entries.
fn counted(entries: &[Entry]) -> Segment {
    let count = |kind| entries.iter().filter(|entry| entry.kind == kind).count() as u64;
    let terms = entries.first().zip(entries.last()).map(|(first, last)| (first.term, last.term));
    Segment {
        name: String::new(),
        size: 0,
        used: 0,
        first: None,
        promised: None,
        entries: entries.len() as u64,
        commands: count(EntryKind::Command),
        configurations: count(EntryKind::Configuration),
        batches: 0,
        terms,
        end: SegmentEnd::Sound,
        standing: Standing::Used,
    }
}

pub(super) fn snapshots<D: Disk>(
    disk: &D,
    examined: &Examined,
    sizes: &Sizes,
) -> Result<Vec<Snapshot>, DiskError> {
    let chosen = examined.snapshot.as_ref().map(|metadata| (metadata.term.0, metadata.index.0));
    let mut found: Vec<Snapshot> = Vec::new();
    let mut is_taken = false;
    for listed in examined.survey.snapshots.iter().rev() {
        let name = &listed.name;
        let content = match listed.incomplete {
            Some(reason) => Err(reason.to_owned()),
            None => content(disk, name)?,
        };
        // The newest of several at the same position counts.
        let is_chosen = !is_taken && content.is_ok() && chosen == Some((name.term, name.index));
        is_taken |= is_chosen;
        found.push(Snapshot {
            name: name.to_string(),
            index: LogIndex(name.index),
            term: Term(name.term),
            timestamp_ms: name.timestamp_ms,
            size: sizes.get(&name.to_string()),
            compressed: snapshot::is_compressed(disk, name)?,
            content,
            is_chosen,
        });
    }
    found.reverse();
    Ok(found)
}

fn content<D: Disk>(disk: &D, name: &SnapshotName) -> Result<Result<SnapshotContent, String>, DiskError> {
    match snapshot::look(disk, name) {
        Ok((metadata, databases)) => Ok(Ok(SnapshotContent { metadata, databases })),
        Err(Unusable::Damaged { message, .. }) => Ok(Err(message)),
        Err(Unusable::Disk(error)) => Err(error),
    }
}

pub(super) fn others(sizes: &Sizes) -> Vec<OtherFile> {
    let kind = |name: &str| {
        let is_known = METADATA.contains(&name)
            || ClosedName::parse(name).is_some()
            || OpenName::parse(name).is_some()
            || SnapshotName::parse(name).is_some();
        if is_known {
            return None;
        }
        if let Some(payload) = name.strip_suffix(".meta")
            && SnapshotName::parse(payload).is_some()
        {
            return (!sizes.0.contains_key(payload)).then_some(OtherKind::Temporary);
        }
        Some(match name {
            LOCK => OtherKind::Lock,
            MARKER => OtherKind::Marker,
            IDENTITY => OtherKind::Identity,
            MOVING => OtherKind::Moving,
            MANIFEST => OtherKind::Manifest,
            _ if name.starts_with(TEMPORARY) => OtherKind::Temporary,
            _ if name.starts_with(ASIDE) => OtherKind::Aside,
            _ if name.starts_with(BACKUP) => OtherKind::Backup,
            _ => OtherKind::Foreign,
        })
    };
    let other = |(name, size): (&String, &u64)| {
        kind(name).map(|kind| OtherFile { name: name.clone(), size: *size, kind })
    };
    sizes.0.iter().filter_map(other).collect()
}

impl Segment {
    /// Index of the last entry that is there.
    #[must_use]
    pub fn last(&self) -> Option<LogIndex> {
        let first = self.first?;
        self.entries.checked_sub(1).map(|more| LogIndex(first.0.saturating_add(more)))
    }
}
