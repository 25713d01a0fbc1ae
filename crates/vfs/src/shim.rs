//! The functions SQLite calls, all of one shape: check, make references, one call into safe code, map the result, inside
//! [`guard`], which keeps panics from crossing into C.
//!
//! Three kinds of files are ours: main databases, their WALs, and journals, which swallow what is written. Files without
//! a name are temporary: those of SQLite's `unix` VFS, counted.

mod file_methods;
mod temporary_methods;
mod vfs_methods;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use libsqlite3_sys::sqlite3_file;

use crate::handle::Handle;

pub(crate) use vfs_methods::vfs_methods;

/// An open file of ours. SQLite provides the memory and sees the first field only.
#[repr(C)]
struct File {
    base: sqlite3_file,
    /// From `Arc::into_raw` for main files and WALs, null for journals.
    handle: *const Handle,
}

/// Size of a file object, given that of the `unix` VFS.
pub(crate) fn file_len(unix: c_int) -> c_int {
    let own = c_int::try_from(size_of::<File>()).expect("a few words");
    own.max(temporary_methods::file_len(unix))
}

/// Runs a callback; a panic becomes `on_panic`.
fn guard<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(on_panic)
}

/// The handle behind an open file.
///
/// # Safety
/// `file` is null or points to a file that [`open`] opened as main file or WAL and that is not closed.
unsafe fn handle_of<'a>(file: *mut sqlite3_file) -> Option<&'a Handle> {
    // SAFETY: by contract a non-null pointer leads to a `File`.
    let file = unsafe { file.cast::<File>().as_ref() }?;
    // SAFETY: the handle is null or from `Arc::into_raw` and not yet given back, since SQLite closes a file once and uses
    // it no more.
    unsafe { file.handle.as_ref() }
}

/// The handle of a main file of this VFS, given SQLite's pointer to any file.
///
/// # Safety
/// `file` is null or points to an open file.
pub(crate) unsafe fn main_handle(file: *mut sqlite3_file) -> Option<Arc<Handle>> {
    // SAFETY: by contract.
    let methods = unsafe { file.as_ref() }?.pMethods;
    if !std::ptr::eq(methods, &raw const file_methods::MAIN_METHODS) {
        return None;
    }
    // SAFETY: the method table says that the file is a main file of ours.
    let handle = unsafe { handle_of(file) }?;
    let raw = std::ptr::from_ref(handle);
    // SAFETY: the pointer came from `Arc::into_raw` and the file still owns that count.
    unsafe { Arc::increment_strong_count(raw) };
    // SAFETY: the count just taken belongs to the new `Arc`.
    Some(unsafe { Arc::from_raw(raw) })
}

/// A C string argument as bytes.
///
/// # Safety
/// `text` is null or a C string that outlives the result.
unsafe fn bytes_of<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: by contract.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// A buffer argument.
///
/// # Safety
/// `buffer` points to `len` writable bytes that nobody else uses during the call.
unsafe fn buffer_of<'a>(buffer: *mut c_void, len: c_int) -> Option<&'a mut [u8]> {
    let len = usize::try_from(len).ok()?;
    // SAFETY: by contract.
    (!buffer.is_null()).then(|| unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) })
}

/// Writes a result through an out-pointer.
///
/// # Safety
/// `out` is null or points to writable memory of the type.
unsafe fn put<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: by contract.
        unsafe { out.write(value) };
    }
}
