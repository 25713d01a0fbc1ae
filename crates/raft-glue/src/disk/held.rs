//! A directory as it was at one moment, whatever its node does to it meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::file_system::{DirectoryEntry, Disk, File};
use super::names::TEMPORARY;
use super::read_only::refuse;

/// The files of a directory, all of them open: what is renamed or removed later can still be read by its old name.
/// Nothing can be changed. Bytes that are written into a file that exists are seen.
#[derive(Debug)]
pub struct Held<D: Disk> {
    entries: Arc<Vec<DirectoryEntry>>,
    files: Arc<BTreeMap<String, Arc<D::File>>>,
}

/// An open file of a [`Held`] directory.
#[derive(Debug)]
pub struct HeldFile<F>(Arc<F>);

impl<D: Disk> Held<D> {
    /// Opens every file but temporary ones; `None` if names changed meanwhile.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read, or a file in it cannot be opened, for example because too many are open.
    pub(super) fn try_hold(disk: &D) -> io::Result<Option<Self>> {
        let entries = disk.list()?;
        let mut files = BTreeMap::new();
        for DirectoryEntry { name, .. } in entries.iter().filter(|entry| !is_temporary(&entry.name)) {
            match disk.open_read(name) {
                Ok(file) => files.insert(name.clone(), Arc::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        let mut after: Vec<String> = disk.list()?.into_iter().map(|entry| entry.name).collect();
        after.retain(|name| !is_temporary(name));
        after.sort_unstable();
        let is_same = after.iter().eq(files.keys());
        Ok(is_same.then(|| Self { entries: Arc::new(entries), files: Arc::new(files) }))
    }
}

/// Such files come and go all the time, and nobody reads them.
fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

impl<D: Disk> Clone for Held<D> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries), files: Arc::clone(&self.files) }
    }
}

impl<D: Disk> Disk for Held<D> {
    type File = HeldFile<D::File>;
    type Lock = D::Lock;

    fn list(&self) -> io::Result<Vec<DirectoryEntry>> {
        Ok(self.entries.to_vec())
    }

    fn create(&self, _name: &str) -> io::Result<Self::File> {
        refuse()
    }

    fn open(&self, _name: &str) -> io::Result<Self::File> {
        refuse()
    }

    fn open_read(&self, name: &str) -> io::Result<Self::File> {
        self.files
            .get(name)
            .map(|file| HeldFile(Arc::clone(file)))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refuse()
    }

    fn unlink(&self, _name: &str) -> io::Result<()> {
        refuse()
    }

    fn sync_directory(&self) -> io::Result<()> {
        refuse()
    }

    fn lock(&self, _name: &str) -> io::Result<Option<D::Lock>> {
        refuse()
    }
}

impl<F: File> File for HeldFile<F> {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        refuse()
    }

    fn allocate(&self, _size: u64) -> io::Result<()> {
        refuse()
    }

    fn truncate(&self, _size: u64) -> io::Result<()> {
        refuse()
    }

    fn sync(&self) -> io::Result<()> {
        refuse()
    }
}
