//! The data directory on a real file system. The only place of this crate that touches `std::fs`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Access, FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use super::error::{DiskError, describe};
use super::file_system::{DirectoryEntry, Disk, File};
use super::read_only::ReadOnly;

/// C stores the path in a fixed buffer; a longer one could not be opened after a downgrade.
const MAX_PATH_LEN: usize = 894;
/// Bytes of zeros written at once where the file system cannot preallocate.
const ZERO_CHUNK: usize = 64 * 1024;

/// Opening never waits, whatever it is that has the name. Without effect on regular files.
const NEVER_WAITS: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Fails if the path leads to anything but a regular file, and says to what.
fn regular(path: &Path) -> io::Result<()> {
    let kind = fs::metadata(path)?.file_type();
    let kind = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => return Err(Errno::ISDIR.into()),
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    let name = path.file_name().unwrap_or_default().display();
    Err(io::Error::other(format!("{name} is {kind} and not a regular file")))
}

/// A directory of the host.
#[derive(Clone, Debug)]
pub struct OsDisk {
    directory: Arc<PathBuf>,
}

impl OsDisk {
    /// Checks that the directory can hold a log. Changes nothing.
    pub fn new(directory: impl AsRef<Path>) -> Result<Self, DiskError> {
        let path = directory.as_ref();
        let shown = path.display();
        if path.as_os_str().len() > MAX_PATH_LEN {
            return Err(DiskError::Directory("directory path too long".to_owned()));
        }
        let metadata = fs::metadata(path).map_err(|error| {
            DiskError::Directory(match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT) => format!("directory '{shown}' does not exist"),
                Some(Errno::ACCESS) => format!("can't access directory '{shown}'"),
                Some(Errno::NOTDIR) => format!("path '{shown}' is not a directory"),
                _ => format!("can't stat '{shown}': {}", describe(&error)),
            })
        })?;
        if !metadata.is_dir() {
            return Err(DiskError::Directory(format!("path '{shown}' is not a directory")));
        }
        if metadata.permissions().mode() & 0o200 == 0 {
            return Err(DiskError::Directory(format!("directory '{shown}' is not writable")));
        }
        rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| {
            DiskError::Io {
                what: "create I/O capabilities probe file".to_owned(),
                operation: "open",
                source: errno.into(),
            }
        })?;
        Ok(Self { directory: Arc::new(path.to_owned()) })
    }

    /// A directory that is only looked at; it may be on a file system that cannot be written to.
    ///
    /// # Errors
    ///
    /// When there is no such directory.
    pub fn for_reading(directory: impl AsRef<Path>) -> Result<ReadOnly<Self>, DiskError> {
        let path = directory.as_ref();
        let shown = path.display();
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                Ok(ReadOnly::new(Self { directory: Arc::new(path.to_owned()) }))
            }
            Ok(_) => Err(DiskError::Directory(format!("path '{shown}' is not a directory"))),
            Err(error) => Err(DiskError::Directory(format!("can't stat '{shown}': {}", describe(&error)))),
        }
    }

    /// Opens a regular file, and nothing else: a FIFO would block, and opening a device can do anything.
    fn open_regular(&self, name: &str, options: &mut fs::OpenOptions) -> io::Result<OsFile> {
        let path = self.directory.join(name);
        regular(&path)?;
        // It may have become something else meanwhile.
        Ok(OsFile::new(options.custom_flags(NEVER_WAITS).open(path)?))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Disk for OsDisk {
    type File = OsFile;
    type Lock = OsLock;

    fn list(&self) -> io::Result<Vec<DirectoryEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&*self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Follows links, as opening the file does.
            match fs::metadata(entry.path()) {
                Ok(metadata) => {
                    entries.push(DirectoryEntry { name, size: metadata.len(), is_file: metadata.is_file() });
                }
                // Gone since the directory was read, or a link that leads nowhere.
                Err(_) => match fs::symlink_metadata(entry.path()) {
                    Ok(_) => entries.push(DirectoryEntry { name, size: 0, is_file: false }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(entries)
    }

    fn create(&self, name: &str) -> io::Result<OsFile> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.directory.join(name))?;
        Ok(OsFile::new(file))
    }

    fn create_for_blocks(&self, name: &str) -> io::Result<OsFile> {
        let mut file = self.create(name)?;
        file.is_to_bypass_cache = AtomicBool::new(true);
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<OsFile> {
        self.open_regular(name, fs::OpenOptions::new().read(true).write(true))
    }

    fn open_read(&self, name: &str) -> io::Result<OsFile> {
        self.open_regular(name, fs::OpenOptions::new().read(true))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&*self.directory)?.sync_all()
    }

    fn lock(&self, name: &str) -> io::Result<Option<OsLock>> {
        match regular(&self.directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(NEVER_WAITS)
            .open(self.directory.join(name))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(OsLock { file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The lock of a directory, released when this is dropped. To close the descriptor is not enough: the lock belongs to the
/// open file, and a child that the host has forked holds that, too.
#[derive(Debug)]
pub struct OsLock {
    file: fs::File,
}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Fails for no descriptor that could be locked.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// An open file of the host.
#[derive(Debug)]
pub struct OsFile {
    file: fs::File,
    /// From the next write on. Not before: of a file system that cannot, some allow the flag and then refuse everything,
    /// such as overlayfs above one without direct writes.
    is_to_bypass_cache: AtomicBool,
}

impl OsFile {
    fn new(file: fs::File) -> Self {
        Self { file, is_to_bypass_cache: AtomicBool::new(false) }
    }

    /// Writes zeros behind what there is.
    fn extend(&self, size: u64) -> io::Result<()> {
        let zeros = vec![0; ZERO_CHUNK];
        let mut offset = self.size()?;
        while offset < size {
            let part = usize::try_from(size - offset).map_or(ZERO_CHUNK, |rest| rest.min(ZERO_CHUNK));
            self.file.write_all_at(&zeros[..part], offset)?;
            offset += part as u64;
        }
        Ok(())
    }

    fn bypass_cache(&self, bypass: bool) -> io::Result<()> {
        let mut flags = rustix::fs::fcntl_getfl(&self.file)?;
        flags.set(OFlags::DIRECT, bypass);
        Ok(rustix::fs::fcntl_setfl(&self.file, flags)?)
    }
}

impl File for OsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.is_to_bypass_cache.swap(false, Ordering::Relaxed) {
            // Not every file system can.
            let _ = self.bypass_cache(true);
        }
        match self.file.write_all_at(bytes, offset) {
            // No whole blocks of this disk after all.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.bypass_cache(false)?;
                self.file.write_all_at(bytes, offset)
            }
            result => result,
        }
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                // They stand in memory anywhere, and nobody waits for each piece.
                self.bypass_cache(false)?;
                self.extend(size)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_directory_with_the_known_texts() {
        let text = |path: &str| OsDisk::new(path).unwrap_err().to_string();
        assert_eq!(text("/nonexistent/x"), "directory '/nonexistent/x' does not exist");
        assert_eq!(text(""), "directory '' does not exist");
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(text(path), format!("path '{path}' is not a directory"));
        assert_eq!(text(&"x".repeat(895)), "directory path too long");
        assert_eq!(text(&"x".repeat(800)), format!("can't stat '{}': name too long", "x".repeat(800)));
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path()).unwrap();
        let lock = disk.lock("dqlite-lock").unwrap().unwrap();
        assert!(disk.lock("dqlite-lock").unwrap().is_none());
        drop(lock);
        assert!(disk.lock("dqlite-lock").unwrap().is_some());
    }

    #[test]
    fn what_is_no_regular_file_is_never_opened_and_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        std::os::unix::fs::symlink("/dev/ptmx", path("terminal")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        fs::write(path("file"), b"abc").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let disk = OsDisk::new(directory.path()).unwrap();
        for entry in disk.list().unwrap() {
            let name = entry.name.as_str();
            let is_file = ["file", "link"].contains(&name);
            assert_eq!(entry.is_file, is_file, "{name}");
            assert_eq!(disk.open_read(name).is_ok(), is_file, "{name}");
            assert_eq!(disk.open(name).is_ok(), is_file, "{name}");
            assert!(is_file || name == "dangling" || disk.lock(name).is_err(), "{name}");
        }
        assert_eq!(disk.list().unwrap().len(), 8);
        let text = |name: &str| disk.open_read(name).unwrap_err().to_string();
        assert_eq!(text("fifo"), "fifo is a FIFO and not a regular file");
        assert_eq!(text("socket"), "socket is a socket and not a regular file");
        assert_eq!(text("device"), "device is a device and not a regular file");
    }

    #[test]
    fn the_lock_does_not_stay_with_other_descriptors_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path()).unwrap();
        let lock = disk.lock("dqlite-lock").unwrap().unwrap();
        // As a forked child has one.
        let inherited = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(disk.lock("dqlite-lock").unwrap().is_some());
        drop(inherited);
    }

    #[test]
    fn files_have_mode_0600_and_zero_tails() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path()).unwrap();
        let file = disk.create("open-1").unwrap();
        file.allocate(10_000).unwrap();
        file.write_at(b"abc", 5_000).unwrap();
        let mut buffer = vec![1; 20_000];
        assert_eq!(file.read_at(&mut buffer, 4_999).unwrap(), 5_001);
        assert_eq!(&buffer[..5], b"\0abc\0");
        let mode = fs::metadata(directory.path().join("open-1")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(disk.create("open-1").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn whole_blocks_are_written_wherever_they_stand_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path()).unwrap();
        let file = disk.create_for_blocks("open-1").unwrap();
        file.allocate(16_384).unwrap();
        let memory = vec![7; 8192 + 4096];
        let aligned = memory.as_ptr().align_offset(4096);
        file.write_at(&memory[aligned..aligned + 4096], 0).unwrap();
        file.write_at(&memory[aligned + 1..][..4096], 4096).unwrap();
        file.write_at(&memory[..100], 8192).unwrap();
        file.sync().unwrap();
        let mut content = vec![1; 20_000];
        assert_eq!(disk.open_read("open-1").unwrap().read_at(&mut content, 0).unwrap(), 16_384);
        assert!(content[..8292].iter().all(|byte| *byte == 7));
        assert!(content[8292..16_384].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn without_preallocation_a_file_grows_behind_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path()).unwrap();
        let file = disk.create("open-1").unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.extend(2 * ZERO_CHUNK as u64 + 5).unwrap();
        let mut content = vec![1; 3 * ZERO_CHUNK];
        assert_eq!(file.read_at(&mut content, 0).unwrap(), 2 * ZERO_CHUNK + 5);
        assert_eq!(content[..3], *b"abc");
        assert!(content[3..2 * ZERO_CHUNK + 5].iter().all(|byte| *byte == 0));
    }
}
