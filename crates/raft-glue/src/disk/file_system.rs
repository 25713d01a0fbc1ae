//! The file operations the log needs, on one directory, by name.

use std::fmt::Debug;
use std::io;

/// One name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// File name. Names that are not UTF-8 are not listed: no file of ours has one.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether it is a regular file, or leads to one. Nothing else is ever opened: a FIFO would block, a device could do
    /// anything.
    pub is_file: bool,
}

/// A data directory.
///
/// Clones are handles to the same directory. What is not synced may be lost or torn when the machine stops: the
/// content and size of a file until [`File::sync`], a name until [`Disk::sync_directory`].
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open file.
    type File: File;
    /// Keeps others out of the directory until dropped.
    type Lock: Debug + Send + Sync + 'static;

    /// All names, also those of what is no regular file. Fails if the directory cannot be read.
    fn list(&self) -> io::Result<Vec<DirectoryEntry>>;
    /// Creates a file that must not exist yet, mode 0600.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// The same for a file that is written in whole blocks of 4096 bytes from memory at a multiple of that, and not read
    /// through this handle: its content may go past the cache.
    fn create_for_blocks(&self, name: &str) -> io::Result<Self::File> {
        self.create(name)
    }
    /// Opens an existing file for reading and writing. Fails at once, as [`Self::open_read`] does, if it is no regular
    /// file.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for reading only.
    fn open_read(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Makes all changes of names durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Takes the exclusive lock on the file `name` (created if missing); `None` if another holder exists.
    fn lock(&self, name: &str) -> io::Result<Option<Self::Lock>>;
}

/// An open file of a [`Disk`].
pub trait File: Debug + Send + Sync + 'static {
    /// Current size.
    fn size(&self) -> io::Result<u64>;
    /// Reads until `buffer` is full or the file ends; returns how much was read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`, or fails with an unknown part of them written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reserves space up to `size`; what was not written reads as zeros. Fails with `StorageFull`, `QuotaExceeded` or
    /// `FileTooLarge` when there is none.
    fn allocate(&self, size: u64) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Makes content and size durable.
    fn sync(&self) -> io::Result<()>;
}
