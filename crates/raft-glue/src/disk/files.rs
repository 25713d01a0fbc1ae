//! Whole files: reading them, and making them appear complete or not at all.

use std::io;

use bytes::Bytes;

use super::bytes_of::to_usize;
use super::error::DiskError;
use super::file_system::{Disk, File};
use super::names::TEMPORARY;

/// A bigger file is none of ours; reading it would only exhaust memory.
const MAX_FILE_LEN: u64 = 16 * 1024 * 1024 * 1024;

/// Reads a file completely. `what` names the task in errors.
pub(crate) fn read<D: Disk>(disk: &D, name: &str, what: &str) -> Result<Bytes, DiskError> {
    let what = || format!("{what}: read file");
    let file = disk.open_read(name).map_err(DiskError::io(what(), "open"))?;
    let size = file.size().map_err(DiskError::io(what(), "stat"))?;
    if size > MAX_FILE_LEN {
        let source = io::Error::other(format!("{size} bytes are too many"));
        return Err(DiskError::io(what(), "read")(source));
    }
    let mut content = vec![0; to_usize(size)];
    let read = file.read_at(&mut content, 0).map_err(DiskError::io(what(), "read"))?;
    content.truncate(read);
    Ok(content.into())
}

/// Name under which a file is written before it gets its final name.
pub(crate) fn temporary(name: &str) -> String {
    format!("{TEMPORARY}{name}")
}

/// Removes a file that may not exist.
pub(crate) fn remove_if_exists<D: Disk>(disk: &D, name: &str, what: &str) -> Result<(), DiskError> {
    match disk.unlink(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::io(what, "unlink")(error)),
        _ => Ok(()),
    }
}

/// Creates the temporary form of `name`, replacing a leftover.
pub(crate) fn create_temporary<D: Disk>(disk: &D, name: &str, what: &str) -> Result<D::File, DiskError> {
    let temporary = temporary(name);
    remove_if_exists(disk, &temporary, what)?;
    disk.create(&temporary).map_err(DiskError::io(what, "open"))
}

/// Writes the temporary form of `name` and makes its content durable.
pub(crate) fn write_temporary<D: Disk>(
    disk: &D,
    name: &str,
    content: &[u8],
    what: &str,
) -> Result<(), DiskError> {
    let file = create_temporary(disk, name, what)?;
    file.write_at(content, 0).map_err(DiskError::io(what, "write"))?;
    file.sync().map_err(DiskError::io(what, "fsync"))
}

/// Gives a finished temporary file its final name. The directory is not synced.
pub(crate) fn publish<D: Disk>(disk: &D, name: &str, what: &str) -> Result<(), DiskError> {
    disk.rename(&temporary(name), name).map_err(DiskError::io(what, "rename"))
}

/// Makes all changes of names durable.
pub(crate) fn sync_directory<D: Disk>(disk: &D, what: &str) -> Result<(), DiskError> {
    disk.sync_directory().map_err(DiskError::io(what, "fsync directory"))
}

/// Writes a file that is there completely and durably, or not at all.
pub(crate) fn write_whole<D: Disk>(
    disk: &D,
    name: &str,
    content: &[u8],
    what: &str,
) -> Result<(), DiskError> {
    write_temporary(disk, name, content, what)?;
    publish(disk, name, what)?;
    sync_directory(disk, what)
}
