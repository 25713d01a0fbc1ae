//! What a snapshot makes superfluous.

use super::error::DiskError;
use super::file_system::Disk;
use super::files;
use super::names::{ClosedName, SnapshotName};
use super::writer::Finished;

/// Snapshots that are kept.
const SNAPSHOTS: usize = 2;

/// Complete snapshots, oldest first: both files are there and the payload is not empty.
pub(crate) fn list_snapshots<D: Disk>(disk: &D) -> Result<Vec<SnapshotName>, DiskError> {
    let entries = disk.list().map_err(DiskError::io("list snapshots", "open directory"))?;
    let mut names: Vec<SnapshotName> = entries
        .iter()
        .filter(|entry| entry.size > 0)
        .filter_map(|entry| SnapshotName::parse(&entry.name))
        .filter(|name| entries.iter().any(|entry| entry.name == name.meta()))
        .collect();
    names.sort();
    Ok(names)
}

/// Removes all but the two newest snapshots.
pub(crate) fn remove_old_snapshots<D: Disk>(disk: &D) -> Result<(), DiskError> {
    keep_snapshots(disk, SNAPSHOTS).map(drop)
}

/// Makes room for a new snapshot by removing all but the newest one: the new one takes the place of the second. Returns
/// whether there were others.
///
/// Meant for a [`write_snapshot`](super::write_snapshot) that failed with [`DiskError::NoSpace`]; may run on any thread.
///
/// # Errors
///
/// When the directory cannot be read or a file not removed.
pub fn give_up_older_snapshots<D: Disk>(disk: &D) -> Result<bool, DiskError> {
    keep_snapshots(disk, 1)
}

/// Removes all but so many of the newest snapshots; returns whether there were others.
fn keep_snapshots<D: Disk>(disk: &D, count: usize) -> Result<bool, DiskError> {
    let names = list_snapshots(disk)?;
    let old = &names[..names.len().saturating_sub(count)];
    for name in old {
        let what = format!("delete {name}");
        files::remove_if_exists(disk, &name.meta(), &what)?;
        files::remove_if_exists(disk, &name.to_string(), &what)?;
    }
    if !old.is_empty() {
        files::sync_directory(disk, "delete old snapshots")?;
    }
    Ok(!old.is_empty())
}

/// Removes closed segments, from the oldest on, that end before the last `trailing` entries up to `snapshot_index`.
pub(crate) fn remove_old_segments<D: Disk>(
    disk: &D,
    closed: &mut Vec<Finished>,
    snapshot_index: u64,
    trailing: u64,
) -> Result<(), DiskError> {
    let Some(oldest_kept) =
        snapshot_index.checked_sub(trailing).filter(|index| *index > 0).map(|index| index + 1)
    else {
        return Ok(());
    };
    let oldest_kept = if planted::bug!(RetentionTooEarly) { snapshot_index + trailing } else { oldest_kept };
    let what = "delete old closed segments";
    let entries = disk.list().map_err(DiskError::io(what, "open directory"))?;
    let mut old: Vec<ClosedName> = entries
        .iter()
        .filter_map(|entry| ClosedName::parse(&entry.name))
        .filter(|name| name.last < oldest_kept)
        .collect();
    old.sort();
    for name in &old {
        let what = format!("delete closed segment {}", name.name);
        files::remove_if_exists(disk, &name.name, &what)?;
    }
    closed.retain(|segment| segment.name.last >= oldest_kept);
    if old.is_empty() { Ok(()) } else { files::sync_directory(disk, what) }
}

/// Removes the last closed segments until `keep` are left.
///
/// Each is gone for good before the next one goes: a crash must not leave a gap.
pub(crate) fn remove_segments_from_end<D: Disk>(
    disk: &D,
    closed: &mut Vec<Finished>,
    keep: usize,
) -> Result<(), DiskError> {
    while closed.len() > keep
        && let Some(last) = closed.last()
    {
        let what = format!("delete closed segment {}", last.name.name);
        files::remove_if_exists(disk, &last.name.name, &what)?;
        files::sync_directory(disk, &what)?;
        closed.pop();
    }
    Ok(())
}

/// Removes all closed segments that are left after the log ended: they lie before the snapshot.
pub(crate) fn remove_ignored_segments<D: Disk>(disk: &D) -> Result<(), DiskError> {
    let what = "delete closed segments";
    let entries = disk.list().map_err(DiskError::io(what, "open directory"))?;
    let names: Vec<&str> = entries
        .iter()
        .map(|entry| entry.name.as_str())
        .filter(|name| ClosedName::parse(name).is_some())
        .collect();
    for name in &names {
        files::remove_if_exists(disk, name, what)?;
    }
    if names.is_empty() { Ok(()) } else { files::sync_directory(disk, what) }
}
