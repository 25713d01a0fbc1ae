//! How the process runs SQLite.

use libsqlite3_sys as ffi;

/// Threading mode of the linked SQLite in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadingMode {
    /// No mutexes at all: every call of the process must come from one thread.
    SingleThread,
    /// A connection may be used by one thread at a time.
    MultiThread,
    /// SQLite serializes by itself unless told otherwise when opening.
    Serialized,
}

/// The mode in force, which the host may have chosen with `sqlite3_config` before. Initializes SQLite.
#[must_use]
pub fn threading_mode() -> ThreadingMode {
    // SAFETY: no arguments.
    let compiled = unsafe { ffi::sqlite3_threadsafe() };
    if compiled == 0 {
        return ThreadingMode::SingleThread;
    }
    // SAFETY: no arguments, may be called any number of times.
    unsafe { ffi::sqlite3_initialize() };
    // SAFETY: the argument is a kind of mutex that can be allocated.
    let first = unsafe { ffi::sqlite3_mutex_alloc(ffi::SQLITE_MUTEX_FAST) };
    // SAFETY: as above.
    let second = unsafe { ffi::sqlite3_mutex_alloc(ffi::SQLITE_MUTEX_FAST) };
    // Without mutexes SQLite gives out one made-up pointer for all of them.
    let single = std::ptr::eq(first, second);
    for mutex in [first, second] {
        // SAFETY: null, or allocated above and not freed yet; the made-up pointer is not looked at.
        unsafe { ffi::sqlite3_mutex_free(mutex) };
    }
    match (single, compiled) {
        (true, _) => ThreadingMode::SingleThread,
        (false, 2) => ThreadingMode::MultiThread,
        (false, _) => ThreadingMode::Serialized,
    }
}
