//! Settings of a VFS, and where it takes time and randomness from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time and randomness as SQLite sees them. A simulator brings its own.
pub trait Environment: Send + Sync + 'static {
    /// Fills `buffer` with random bytes.
    fn randomness(&self, buffer: &mut [u8]);

    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// Waits, as SQLite does between two tries of a lock.
    fn sleep(&self, duration: Duration);
}

/// The real clock and the kernel's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn randomness(&self, buffer: &mut [u8]) {
        crate::sys::fill_random(buffer);
    }

    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(elapsed) => i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// What can be chosen when a VFS is registered.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Source of time and randomness.
    pub environment: Arc<dyn Environment>,
    /// Largest transaction, counted in page bytes; a larger one fails with `SQLITE_FULL` and is rolled back. The default
    /// keeps a transaction below what a C peer accepts in one message.
    pub max_transaction_bytes: u64,
    /// Frames that may wait for backfill before [`Database::maintain`](crate::Database::maintain) does something.
    pub checkpoint_threshold: u32,
    /// Bytes that the temporary files of all connections may have together; what needs more fails with `SQLITE_FULL`.
    pub max_temporary_bytes: u64,
    /// Where temporary files go when SQLite finds no directory that it can write to. They are called `tmp-sqlite-...` there,
    /// for a moment each; the host removes what a crash leaves.
    pub temporary_directory: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            environment: Arc::new(SystemEnvironment),
            max_transaction_bytes: 480 << 20,
            checkpoint_threshold: 1000,
            max_temporary_bytes: u64::MAX,
            temporary_directory: None,
        }
    }
}

/// Options plus what registration added.
pub(crate) struct Settings {
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) max_transaction_bytes: u64,
    pub(crate) checkpoint_threshold: u32,
    /// Version number of the linked SQLite, which goes into the first page of a new database.
    pub(crate) sqlite_version: u32,
}
