//! SQL functions of ours in place of SQLite's.
//!
//! `randomblob(n)`: SQLite's holds the mutex of the process's generator for as long as it takes to fill all n bytes,
//! seconds for what fits in a blob, and everybody who begins to write a WAL or a temporary file needs that generator. Ours
//! takes the bytes from the environment of the VFS, looks at interrupts, and lets others have their turn in between.
//! `random()` holds the mutex for eight bytes and stays.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libsqlite3_sys as ffi;

use crate::watch::Watch;

/// Bytes between two looks at whether to go on: some tens of microseconds.
const PIECE: usize = 64 * 1024;

/// Adds the functions to a connection.
///
/// # Safety
/// `db` is an open connection that no other thread uses, and `watch` is its own and lives longer.
pub(crate) unsafe fn install(db: *mut ffi::sqlite3, watch: &Watch) -> c_int {
    // As SQLite's own: of another value at each call, and fit for schemas that are not trusted.
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_INNOCUOUS;
    let data: *mut c_void = std::ptr::from_ref(watch).cast_mut().cast();
    let name = c"randomblob".as_ptr();
    // SAFETY: by contract; the name is a C string and the callback gets the pointer it expects.
    unsafe { ffi::sqlite3_create_function_v2(db, name, 1, flags, data, Some(randomblob), None, None, None) }
}

/// # Safety
/// Called by SQLite for the function that [`install`] has added.
unsafe extern "C" fn randomblob(
    context: *mut ffi::sqlite3_context,
    _count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: the function has one argument.
    let value = unsafe { *values };
    // SAFETY: a value that SQLite has passed.
    let len = unsafe { ffi::sqlite3_value_int64(value) }.max(1);
    // SAFETY: the context of this call.
    let db = unsafe { ffi::sqlite3_context_db_handle(context) };
    // SAFETY: the connection that makes this call; a negative value asks for the limit.
    let limit = unsafe { ffi::sqlite3_limit(db, ffi::SQLITE_LIMIT_LENGTH, -1) };
    let Some(len) = usize::try_from(len).ok().filter(|_| len <= i64::from(limit)) else {
        // SAFETY: the context of this call.
        return unsafe { ffi::sqlite3_result_error_toobig(context) };
    };
    // SAFETY: any size may be asked for.
    let start = unsafe { ffi::sqlite3_malloc64(len as u64) };
    if start.is_null() {
        // SAFETY: the context of this call.
        return unsafe { ffi::sqlite3_result_error_nomem(context) };
    }
    // SAFETY: the context of this call.
    let data = unsafe { ffi::sqlite3_user_data(context) };
    // SAFETY: what `install` gave, which lives as long as the connection.
    let watch = unsafe { data.cast::<Watch>().as_ref() };
    let filled = catch_unwind(AssertUnwindSafe(|| {
        let Some(watch) = watch else { return false };
        (0..len).step_by(PIECE).all(|offset| {
            // SAFETY: the offset lies within the allocation.
            let piece = unsafe { start.cast::<u8>().add(offset) };
            let piece_len = PIECE.min(len - offset);
            // SAFETY: writable and ours alone, up to the end of the allocation.
            unsafe { piece.write_bytes(0, piece_len) };
            // SAFETY: as above, and initialized.
            let piece = unsafe { std::slice::from_raw_parts_mut(piece, piece_len) };
            watch.settings.environment.randomness(piece);
            len <= PIECE || !watch.look()
        })
    }));
    match filled {
        Ok(true) => {
            let free = Some(ffi::sqlite3_free as unsafe extern "C" fn(*mut c_void));
            // SAFETY: the context of this call; SQLite frees the memory, which it has allocated.
            unsafe { ffi::sqlite3_result_blob64(context, start, len as u64, free) };
        }
        ended => {
            // SAFETY: allocated above, and nobody else has it.
            unsafe { ffi::sqlite3_free(start) };
            let code = if ended.is_ok() { ffi::SQLITE_INTERRUPT } else { ffi::SQLITE_ERROR };
            // SAFETY: the context of this call.
            unsafe { ffi::sqlite3_result_error_code(context, code) };
        }
    }
}
