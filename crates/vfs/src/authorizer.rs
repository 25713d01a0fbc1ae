//! What clients may not do.
//!
//! The node alone decides about journal mode, page size, synchronization, locks and checkpoints; a client must not reach
//! files of the host or settings of the whole process, and must not write raw pages.

use std::ffi::{CStr, c_char, c_int, c_void};

use libsqlite3_sys as ffi;

use crate::watch::Watch;

/// PRAGMAs refused with a value; reading them is fine.
const NOT_WITH_VALUE: [&[u8]; 8] = [
    b"journal_mode",
    b"page_size",
    b"wal_autocheckpoint",
    b"synchronous",
    b"hard_heap_limit",
    b"soft_heap_limit",
    b"temp_store_directory",
    b"data_store_directory",
];

/// PRAGMAs refused in any form.
const NEVER: [&[u8]; 4] = [b"wal_checkpoint", b"busy_timeout", b"read_uncommitted", b"locking_mode"];

/// Installs the rules on a connection.
///
/// # Safety
/// `db` is an open connection that no other thread uses, and `watch` is its own and lives longer.
pub(crate) unsafe fn install(db: *mut ffi::sqlite3, watch: &Watch) {
    let data: *mut c_void = std::ptr::from_ref(watch).cast_mut().cast();
    // SAFETY: by contract; the callback gets the pointer it expects.
    unsafe { ffi::sqlite3_set_authorizer(db, Some(authorize), data) };
}

unsafe extern "C" fn authorize(
    data: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _: *const c_char,
    _: *const c_char,
) -> c_int {
    // SAFETY: SQLite passes null or C strings.
    let text = |pointer: *const c_char| (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) });
    // SAFETY: what `install` gave, which lives as long as the connection.
    let watch = unsafe { data.cast::<Watch>().as_ref() };
    let allowed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // Before 3.41 nothing else ends a compilation that was interrupted.
        if watch.is_some_and(Watch::look) {
            return false;
        }
        is_allowed(action, text(first).map(CStr::to_bytes), text(second).map(CStr::to_bytes))
    }));
    if allowed.unwrap_or(false) { ffi::SQLITE_OK } else { ffi::SQLITE_DENY }
}

fn is_allowed(action: c_int, first: Option<&[u8]>, second: Option<&[u8]>) -> bool {
    let is_one_of = |list: &[&[u8]]| {
        first.is_some_and(|name| list.iter().any(|candidate| name.eq_ignore_ascii_case(candidate)))
    };
    match action {
        ffi::SQLITE_PRAGMA => !(is_one_of(&NEVER) || (second.is_some() && is_one_of(&NOT_WITH_VALUE))),
        // The name is null unless it is a literal; only a private temporary database may be attached.
        ffi::SQLITE_ATTACH => first == Some(b""),
        // Raw pages could break the header of the database.
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => !is_one_of(&[b"sqlite_dbpage"]),
        _ => true,
    }
}
