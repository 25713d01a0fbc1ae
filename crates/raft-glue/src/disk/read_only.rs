//! A directory that refuses to be changed, as it is or as it was at one moment.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::file_system::{DirectoryEntry, Disk, File};
use super::names::{MANIFEST, TEMPORARY};

/// A directory of which only reading reaches the one within.
#[derive(Clone, Debug)]
pub struct ReadOnly<D: Disk> {
    source: Source<D>,
}

/// An open file of a [`ReadOnly`] directory.
#[derive(Debug)]
pub struct ReadOnlyFile<F> {
    file: Arc<F>,
}

#[derive(Debug)]
enum Source<D: Disk> {
    /// Whatever the directory is now.
    Now(D),
    /// What it was. All files are open, so that what is renamed or removed later can still be read by its old name; bytes
    /// that are written into a file that exists are seen.
    Held { entries: Arc<Vec<DirectoryEntry>>, files: Arc<BTreeMap<String, HeldFile<D::File>>> },
}

/// `None` for what is no regular file, which is never opened.
type HeldFile<F> = Option<Arc<F>>;

// Derived, it would ask for files that can be cloned.
impl<D: Disk> Clone for Source<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Now(disk) => Self::Now(disk.clone()),
            Self::Held { entries, files } => {
                Self::Held { entries: Arc::clone(entries), files: Arc::clone(files) }
            }
        }
    }
}

impl<D: Disk> ReadOnly<D> {
    /// Lets nothing but reading through to `disk`.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Self { source: Source::Now(disk) }
    }

    /// Opens every file but temporary ones; `None` if names changed meanwhile.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read, or a file in it cannot be opened, for example because too many are open.
    pub(super) fn try_hold(disk: &D) -> io::Result<Option<Self>> {
        let entries = disk.list()?;
        let mut files = BTreeMap::new();
        for DirectoryEntry { name, is_file, .. } in entries.iter().filter(|entry| !is_temporary(&entry.name))
        {
            if !is_file {
                files.insert(name.clone(), None);
                continue;
            }
            match disk.open_read(name) {
                Ok(file) => files.insert(name.clone(), Some(Arc::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        let mut after: Vec<String> = disk.list()?.into_iter().map(|entry| entry.name).collect();
        after.retain(|name| !is_temporary(name));
        after.sort_unstable();
        let is_same = after.iter().eq(files.keys());
        let source = Source::Held { entries: Arc::new(entries), files: Arc::new(files) };
        Ok(is_same.then_some(Self { source }))
    }
}

/// Such files come and go all the time, and nobody reads them.
fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY) && name != MANIFEST
}

fn refuse<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl<D: Disk> Disk for ReadOnly<D> {
    type File = ReadOnlyFile<D::File>;
    type Lock = D::Lock;

    fn list(&self) -> io::Result<Vec<DirectoryEntry>> {
        match &self.source {
            Source::Now(disk) => disk.list(),
            Source::Held { entries, .. } => Ok(entries.to_vec()),
        }
    }

    fn create(&self, _name: &str) -> io::Result<Self::File> {
        refuse()
    }

    fn open(&self, _name: &str) -> io::Result<Self::File> {
        refuse()
    }

    fn open_read(&self, name: &str) -> io::Result<Self::File> {
        let file = match &self.source {
            Source::Now(disk) => Arc::new(disk.open_read(name)?),
            Source::Held { files, .. } => {
                let file = files.get(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                let irregular = || io::Error::other(format!("{name} is not a regular file"));
                Arc::clone(file.as_ref().ok_or_else(irregular)?)
            }
        };
        Ok(ReadOnlyFile { file })
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
