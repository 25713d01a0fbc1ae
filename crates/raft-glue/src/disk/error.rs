//! What can go wrong with the data directory, in the words a host may already match on.
//!
//! The first part of every text is what C dqlite prints for the same situation; what follows helps the operator.

use std::io;

use crate::LogIndex;

/// An operation on the data directory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A system call failed. `what` names the task, for example `persist metadata1`.
    #[error("{what}: {operation}: {}", describe(.source))]
    Io {
        /// The task that needed the call.
        what: String,
        /// The call.
        operation: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// A file could not be made or preallocated: the disk is full, a quota is exceeded, or the file would be larger than
    /// the process may write. Nothing was written; the same request may be repeated later.
    #[error("not enough space to allocate {bytes} bytes for {name}")]
    NoSpace {
        /// File that was to be created.
        name: String,
        /// Its size, 0 if it was not known.
        bytes: u64,
    },
    /// An earlier write or sync failed; its outcome is unknown, so nothing more is written.
    #[error("the log accepts no more writes since an earlier failure: {0}")]
    Latched(String),
    /// Somebody else uses the directory.
    #[error("couldn't lock the raft directory")]
    Locked,
    /// The directory cannot be used at all.
    #[error("{0}")]
    Directory(String),
    /// A file does not hold what it should.
    #[error("{what}: {message}")]
    Corrupt {
        /// The file, or the task and the file.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// The file or entry asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl DiskError {
    /// Whether the disk is full and nothing was changed, so that the same request may be repeated.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Turns a failure for lack of space, where nothing was changed, into the one that may be retried.
    pub(crate) fn without_space(self, name: &str) -> Self {
        match self {
            Self::Io { operation: "open" | "write" | "rename", source, .. } if lacks_space(&source) => {
                Self::NoSpace { name: name.to_owned(), bytes: 0 }
            }
            other => other,
        }
    }

    /// [`Self::without_space`] for a file that nobody knows of yet and that is written anew by the next attempt: a sync
    /// that finds no space has cost nothing then, either. Some file systems look for space only in the sync.
    pub(crate) fn without_space_for_new(self, name: &str) -> Self {
        match self {
            Self::Io { operation: "fsync", source, .. } if lacks_space(&source) => {
                Self::NoSpace { name: name.to_owned(), bytes: 0 }
            }
            other => other.without_space(name),
        }
    }

    pub(crate) fn io(what: impl Into<String>, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, operation, source }
    }
}

/// Why a data directory cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Reading or repairing failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Acknowledged data is damaged and must not be dropped silently.
    #[error("{message}; {remedy}")]
    Damaged {
        /// The damaged (or unexpected) file.
        file: String,
        /// Where in the file, if a place can be named.
        offset: Option<u64>,
        /// Entries from this index on are affected.
        index: LogIndex,
        /// What is wrong.
        message: String,
        /// What an operator can do.
        remedy: String,
    },
    /// `metadata1` or `metadata2` is damaged.
    #[error("{message}; {remedy}")]
    Metadata {
        /// The damaged file.
        file: String,
        /// What is wrong.
        message: String,
        /// What an operator can do.
        remedy: String,
    },
    /// The newest snapshot is damaged and nothing else covers it.
    #[error("{message}; {remedy}")]
    Snapshot {
        /// The damaged file.
        file: String,
        /// What is wrong.
        message: String,
        /// What an operator can do.
        remedy: String,
    },
}

/// Whether an operation failed because there is no room for what it was to store, which may change: ENOSPC, EDQUOT or
/// EFBIG. The one place where that is decided.
pub(crate) fn lacks_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if planted::bug!(QuotaIsFailure) {
        return error.kind() == StorageFull;
    }
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The operating system's errors in lower case and without number, as hosts know them from C dqlite.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.as_str() {
        _ if error.raw_os_error().is_none() => text,
        _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::ISDIR) => "illegal operation on a directory".to_owned(),
            Some(rustix::io::Errno::NAMETOOLONG) => "name too long".to_owned(),
            Some(rustix::io::Errno::EXIST) => "file already exists".to_owned(),
            Some(rustix::io::Errno::IO) => "i/o error".to_owned(),
            _ => {
                let text = text.split(" (os error").next().unwrap_or_default();
                text.to_lowercase()
            }
        },
    }
}
