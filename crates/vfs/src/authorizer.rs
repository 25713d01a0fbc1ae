//! What clients may not do.
//!
//! The node alone decides about journal mode, page size, synchronization, locks and checkpoints; a client must not reach
//! files of the host or settings of the whole process, and must not write raw pages. What is decided of each name stands
//! in [`crate::surface`]; it is enforced here.

use std::ffi::{CStr, c_char, c_int, c_void};

use libsqlite3_sys as ffi;

use crate::surface::{self, FUNCTIONS, MODULES};
use crate::watch::Watch;

/// Installs the rules on a connection.
///
/// # Safety
/// `db` is an open connection that no other thread uses, and `watch` is its own and lives longer.
pub(crate) unsafe fn install(db: *mut ffi::sqlite3, watch: &Watch) {
    for (name, arguments) in [(c"fts3_tokenizer", 1), (c"fts3_tokenizer", 2), (c"sqlite_log", 2)] {
        let (flags, none) = (ffi::SQLITE_UTF8 | ffi::SQLITE_DIRECTONLY, std::ptr::null_mut());
        // SAFETY: by contract; the name is a C string and the callback needs no data. Without memory for it the authorizer
        // is what is left.
        unsafe {
            ffi::sqlite3_create_function_v2(
                db,
                name.as_ptr(),
                arguments,
                flags,
                none,
                Some(refuse),
                None,
                None,
                None,
            )
        };
    }
    let data: *mut c_void = std::ptr::from_ref(watch).cast_mut().cast();
    // SAFETY: by contract; the callback gets the pointer it expects.
    unsafe { ffi::sqlite3_set_authorizer(db, Some(authorize), data) };
}

/// In place of functions that nobody may call: SQLite compiles DEFAULT expressions without asking the authorizer.
unsafe extern "C" fn refuse(context: *mut ffi::sqlite3_context, _: c_int, _: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite passes the context of the call; the text is a C string.
    unsafe { ffi::sqlite3_result_error(context, c"not authorized to use this function".as_ptr(), -1) };
    // SAFETY: as above.
    unsafe { ffi::sqlite3_result_error_code(context, ffi::SQLITE_AUTH) };
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
    let name = first.unwrap_or_default();
    match action {
        ffi::SQLITE_PRAGMA => surface::pragma_is_allowed(name, second),
        ffi::SQLITE_FUNCTION => surface::is_allowed(FUNCTIONS, second.unwrap_or_default()),
        ffi::SQLITE_CREATE_VTABLE => surface::is_allowed(MODULES, second.unwrap_or_default()),
        // The name is null unless it is a literal; only a private temporary database may be attached.
        ffi::SQLITE_ATTACH => first == Some(b""),
        // Virtual tables that need not be created.
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => surface::is_allowed(MODULES, name),
        _ => true,
    }
}
