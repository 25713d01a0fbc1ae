//! Where a running statement of a connection looks up: at interrupts, and at statements that wait for their turn.
//!
//! SQLite looks at interrupts between the instructions of a program. Before 3.41 it does not look while it compiles, and
//! no release does within one instruction. Callbacks do: the progress handler ends nothing, but lets others have their
//! turn; the authorizer, which is asked for each SELECT and column, refuses when an interrupt came while it compiles.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use crate::options::Settings;
use crate::turns;

/// Instructions of a program between two looks: some tens of microseconds.
const INSTRUCTIONS: c_int = 2000;
/// No call that can be interrupted is under way.
const NONE: u64 = u64::MAX;

/// The connection for `sqlite3_interrupt`, which may be called from any thread.
struct Raw(*mut ffi::sqlite3);

// SAFETY: the pointer is used under a mutex, for sqlite3_interrupt.
unsafe impl Send for Raw {}

/// What callbacks of one connection share with those that interrupt it.
pub(crate) struct Watch {
    /// Null when the connection is closed.
    db: Mutex<Raw>,
    /// Interrupts so far.
    interrupts: AtomicU64,
    /// How many there were when the call under way began.
    seen: AtomicU64,
    pub(crate) settings: Arc<Settings>,
}

impl Watch {
    pub(crate) fn new(db: *mut ffi::sqlite3, settings: Arc<Settings>) -> Arc<Self> {
        let (interrupts, seen) = (AtomicU64::new(0), AtomicU64::new(NONE));
        Arc::new(Self { db: Mutex::new(Raw(db)), interrupts, seen, settings })
    }

    fn lock(&self) -> MutexGuard<'_, Raw> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the progress handler of the connection look.
    ///
    /// # Safety
    /// `db` is the open connection of this object, which lives longer.
    pub(crate) unsafe fn install(&self, db: *mut ffi::sqlite3) {
        let data: *mut c_void = std::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: by contract; the callback gets the pointer it expects.
        unsafe { ffi::sqlite3_progress_handler(db, INSTRUCTIONS, Some(progress), data) };
    }

    /// Interrupts what runs; of no effect after [`close`](Self::close).
    pub(crate) fn interrupt(&self) {
        let db = self.lock();
        if !db.0.is_null() {
            self.interrupts.fetch_add(1, Ordering::SeqCst);
            // SAFETY: the connection is open, since closing it clears the pointer under this mutex first.
            unsafe { ffi::sqlite3_interrupt(db.0) };
        }
    }

    /// The connection is about to be closed.
    pub(crate) fn close(&self) {
        self.lock().0 = std::ptr::null_mut();
    }

    /// From here to the drop of the guard an interrupt ends the call.
    pub(crate) fn begin(&self) -> Call<'_> {
        self.seen.store(self.interrupts.load(Ordering::SeqCst), Ordering::SeqCst);
        Call(self)
    }

    /// Whether an interrupt came during the call under way.
    pub(crate) fn is_interrupted(&self) -> bool {
        let seen = self.seen.load(Ordering::Relaxed);
        seen != NONE && seen != self.interrupts.load(Ordering::Relaxed)
    }

    /// Lets others go first if it is their turn; says whether to end.
    pub(crate) fn look(&self) -> bool {
        turns::check(|| self.is_interrupted());
        self.is_interrupted()
    }
}

/// A call that can be interrupted.
pub(crate) struct Call<'a>(&'a Watch);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.seen.store(NONE, Ordering::SeqCst);
    }
}

/// # Safety
/// `data` is a [`Watch`].
unsafe extern "C" fn progress(data: *mut c_void) -> c_int {
    // SAFETY: by contract.
    let Some(watch) = (unsafe { data.cast::<Watch>().as_ref() }) else { return 0 };
    // A panic must not cross into C; what it interrupted is a wait for a turn.
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch.look()));
    // Newer releases call this while they compile, where an interrupt that came before the call is forgotten by them.
    c_int::from(looked.unwrap_or(false))
}
