//! Temporary files: how many bytes they may have together, and where they lie.
//!
//! SQLite asks for them for sorters, VACUUM, temporary tables and statement journals. They are those of its `unix` VFS, which
//! looks for a directory in its own way (`sqlite3_temp_directory`, `SQLITE_TMPDIR`, `TMPDIR`, /var/tmp, /usr/tmp, /tmp, the
//! working directory). Where none of them can be written, as in a container with a read-only root, they lie in a directory
//! that the host gave. There they are called `tmp-sqlite-...`: `unix` removes the name when the file is open, and what a
//! crash leaves in between is removed at the next start, by C dqlite as by us, as are all names that begin with `tmp-`.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// The account of all temporary files of one VFS.
pub(crate) struct Temporary {
    /// Bytes that they may have together.
    limit_bytes: u64,
    used_bytes: AtomicU64,
    /// Where they go when `unix` finds no place.
    directory: Option<PathBuf>,
    next: AtomicU64,
}

impl Temporary {
    pub(crate) fn new(limit_bytes: u64, directory: Option<PathBuf>) -> Self {
        Self { limit_bytes, used_bytes: AtomicU64::new(0), directory, next: AtomicU64::new(0) }
    }

    /// Bytes of all that are open.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Takes room for `bytes` more; `false` if there is not so much.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit_bytes);
        self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives room back.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A name for a file in the directory of the host.
    pub(crate) fn name(&self) -> Option<CString> {
        let directory = self.directory.as_ref()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Several nodes of a process have directories of their own, so this is unique.
        let path = directory.join(format!("tmp-sqlite-{}-{number}", std::process::id()));
        CString::new(path.as_os_str().as_bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_up_to_the_limit_and_given_back() {
        let temporary = Temporary::new(100, None);
        assert!(temporary.take(60));
        assert!(!temporary.take(41));
        assert!(temporary.take(40));
        assert!(!temporary.take(u64::MAX), "no overflow");
        temporary.give_back(60);
        assert_eq!(temporary.used_bytes(), 40);
        assert_eq!(temporary.name(), None);
    }

    #[test]
    fn names_begin_with_what_every_start_removes_and_differ() {
        let temporary = Temporary::new(1, Some(PathBuf::from("/data")));
        let names = [temporary.name().unwrap(), temporary.name().unwrap()];
        assert!(names.iter().all(|name| name.to_str().unwrap().starts_with("/data/tmp-sqlite-")));
        assert_ne!(names[0], names[1]);
    }
}
