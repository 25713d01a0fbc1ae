//! A directory that refuses to be changed.

use std::io;

use super::file_system::{DirectoryEntry, Disk, File};

/// A directory of which only reading reaches the one within.
#[derive(Clone, Debug)]
pub struct ReadOnly<D> {
    disk: D,
}

/// An open file of a [`ReadOnly`] directory.
#[derive(Debug)]
pub struct ReadOnlyFile<F> {
    file: F,
}

impl<D> ReadOnly<D> {
    /// Lets nothing but reading through to `disk`.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Self { disk }
    }
}

pub(super) fn refuse<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl<D: Disk> Disk for ReadOnly<D> {
    type File = ReadOnlyFile<D::File>;
    type Lock = D::Lock;

    fn list(&self) -> io::Result<Vec<DirectoryEntry>> {
        self.disk.list()
    }

    fn create(&self, _name: &str) -> io::Result<Self::File> {
        refuse()
    }

    fn open(&self, _name: &str) -> io::Result<Self::File> {
        refuse()
    }

    fn open_read(&self, name: &str) -> io::Result<Self::File> {
        Ok(ReadOnlyFile { file: self.disk.open_read(name)? })
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

    /// Taking it could create the file, and would keep a node from starting.
    fn lock(&self, _name: &str) -> io::Result<Option<D::Lock>> {
        refuse()
    }
}

impl<F: File> File for ReadOnlyFile<F> {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
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
