//! Temporary files: those of SQLite's `unix` VFS, with a count of their bytes around them.

use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;

use libsqlite3_sys as ffi;
use libsqlite3_sys::{sqlite3_file, sqlite3_io_methods};

use super::{guard, put};
use crate::register::Shared;
use crate::temporary::Temporary;

/// An open temporary file. The file object of `unix` follows it in the same memory.
#[repr(C, align(8))]
struct TemporaryFile {
    base: sqlite3_file,
    /// From `Arc::into_raw`.
    account: *const Temporary,
    /// `unix` keeps a pointer to it; null for a file whose name it chose.
    name: *mut std::ffi::c_char,
    /// Highest end of a write since it was last cut, bytes; what the account was charged with.
    len: u64,
}

/// Size of our part of a file object.
const OWN_LEN: usize = size_of::<TemporaryFile>();

/// Size of a file object, `unix`'s included.
pub(crate) fn file_len(unix: c_int) -> c_int {
    c_int::try_from(OWN_LEN).expect("a few words").saturating_add(unix)
}

/// Version 1: without shared memory, and without pages that are read where they lie.
static TEMPORARY_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Opens a temporary file: where `unix` wants it, else in the directory of the host.
///
/// # Safety
/// `file` is memory of szOsFile bytes, `out_flags` null or a place for flags.
pub(super) unsafe fn open(
    shared: &Shared,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: the `unix` VFS lives as long as the process.
    let Some(unix_open) = (unsafe { (*shared.unix).xOpen }) else { return ffi::SQLITE_CANTOPEN };
    // SAFETY: szOsFile has room for both parts.
    let real = unsafe { file.byte_add(OWN_LEN) };
    let mut name = std::ptr::null_mut();
    // SAFETY: `unix` looks at the first field of its part, which need not be zero, only there.
    let mut code = unsafe { unix_open(shared.unix, name, real, flags, out_flags) };
    if code != ffi::SQLITE_OK
        && let Some(chosen) = shared.temporary.name()
    {
        name = chosen.into_raw();
        let flags = flags | ffi::SQLITE_OPEN_DELETEONCLOSE;
        // SAFETY: as above; the name stays until the file is closed.
        code = unsafe { unix_open(shared.unix, name, real, flags, out_flags) };
    }
    if code != ffi::SQLITE_OK {
        // SAFETY: null, or from `into_raw` above.
        unsafe { drop_name(name) };
        return code;
    }
    let account = Arc::into_raw(Arc::clone(&shared.temporary));
    let base = sqlite3_file { pMethods: &raw const TEMPORARY_METHODS };
    // SAFETY: SQLite passes szOsFile bytes, aligned for eight.
    unsafe { put(file.cast::<TemporaryFile>(), TemporaryFile { base, account, name, len: 0 }) };
    ffi::SQLITE_OK
}

/// # Safety
/// `name` is null or from `CString::into_raw`, given back once.
unsafe fn drop_name(name: *mut std::ffi::c_char) {
    if !name.is_null() {
        // SAFETY: by contract.
        drop(unsafe { CString::from_raw(name) });
    }
}

/// Our part of a file and the methods of the other one.
///
/// # Safety
/// `file` was opened by [`open`] and is not closed; nobody else uses it during the call.
unsafe fn parts<'a>(
    file: *mut sqlite3_file,
) -> Option<(&'a mut TemporaryFile, *mut sqlite3_file, &'a sqlite3_io_methods)> {
    // SAFETY: by contract.
    let own = unsafe { file.cast::<TemporaryFile>().as_mut() }?;
    // SAFETY: the other part stands behind ours.
    let real = unsafe { file.byte_add(OWN_LEN) };
    // SAFETY: it is open.
    let methods = unsafe { (*real).pMethods };
    // SAFETY: an open file has methods, which are constant.
    let methods = unsafe { methods.as_ref() }?;
    Some((own, real, methods))
}

impl TemporaryFile {
    fn account(&self) -> &Temporary {
        // SAFETY: counted for this file since it was opened.
        unsafe { &*self.account }
    }

    /// Notes that the file ends here.
    fn cut(&mut self, len: u64) {
        if len < self.len {
            self.account().give_back(self.len - len);
            self.len = len;
        }
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    guard(ffi::SQLITE_IOERR_CLOSE, || {
        // SAFETY: a file that `open` opened; SQLite closes it once.
        let Some((own, real, methods)) = (unsafe { parts(file) }) else { return ffi::SQLITE_OK };
        // SAFETY: the method belongs to the file.
        let code = methods.xClose.map_or(ffi::SQLITE_OK, |close| unsafe { close(real) });
        own.cut(0);
        let name = std::mem::replace(&mut own.name, std::ptr::null_mut());
        // SAFETY: from `into_raw`, given back here and nowhere else; `unix` has done with it.
        unsafe { drop_name(name) };
        own.base.pMethods = std::ptr::null();
        // SAFETY: from `Arc::into_raw` in `open`, given back here and nowhere else.
        drop(unsafe { Arc::from_raw(own.account) });
        code
    })
}

unsafe extern "C" fn write(file: *mut sqlite3_file, data: *const c_void, len: c_int, offset: i64) -> c_int {
    guard(ffi::SQLITE_IOERR_WRITE, || {
        // SAFETY: a file that `open` opened.
        let Some((own, real, methods)) = (unsafe { parts(file) }) else { return ffi::SQLITE_IOERR_WRITE };
        let (Ok(bytes), Ok(begin)) = (u64::try_from(len), u64::try_from(offset)) else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        let end = begin.saturating_add(bytes);
        let more = end.saturating_sub(own.len);
        if more > 0 && !own.account().take(more) {
            return ffi::SQLITE_FULL;
        }
        // Charged also when the write fails: a part of it may be there.
        own.len = own.len.max(end);
        // SAFETY: arguments as SQLite gave them, for the file that the method belongs to.
        methods.xWrite.map_or(ffi::SQLITE_IOERR_WRITE, |write| unsafe { write(real, data, len, offset) })
    })
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    guard(ffi::SQLITE_IOERR_TRUNCATE, || {
        // SAFETY: a file that `open` opened.
        let Some((own, real, methods)) = (unsafe { parts(file) }) else { return ffi::SQLITE_IOERR_TRUNCATE };
        // SAFETY: the method belongs to the file.
        let code = methods.xTruncate.map_or(ffi::SQLITE_IOERR_TRUNCATE, |cut| unsafe { cut(real, size) });
        if code == ffi::SQLITE_OK {
            own.cut(u64::try_from(size).unwrap_or(0));
        }
        code
    })
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    guard(ffi::SQLITE_INTERNAL, || {
        // Those that make a file larger ahead of its content, which nothing would count.
        if matches!(op, ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE) {
            return ffi::SQLITE_NOTFOUND;
        }
        // SAFETY: a file that `open` opened.
        let Some((_, real, methods)) = (unsafe { parts(file) }) else { return ffi::SQLITE_NOTFOUND };
        // SAFETY: arguments as SQLite gave them, for the file that the method belongs to.
        methods.xFileControl.map_or(ffi::SQLITE_NOTFOUND, |control| unsafe { control(real, op, argument) })
    })
}

/// A method that is that of the other part.
macro_rules! forward {
    ($name:ident, $method:ident, $error:expr $(, $argument:ident: $type:ty)*) => {
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $type)*) -> c_int {
            guard($error, || {
                // SAFETY: a file that `open` opened.
                let Some((_, real, methods)) = (unsafe { parts(file) }) else { return $error };
                // SAFETY: arguments as SQLite gave them, for the file that the method belongs to.
                methods.$method.map_or($error, |method| unsafe { method(real $(, $argument)*) })
            })
        }
    };
}

forward!(read, xRead, ffi::SQLITE_IOERR_READ, out: *mut c_void, len: c_int, offset: i64);
forward!(sync, xSync, ffi::SQLITE_IOERR_FSYNC, flags: c_int);
forward!(file_size, xFileSize, ffi::SQLITE_IOERR_FSTAT, out: *mut i64);
forward!(lock, xLock, ffi::SQLITE_IOERR_LOCK, level: c_int);
forward!(unlock, xUnlock, ffi::SQLITE_IOERR_UNLOCK, level: c_int);
forward!(check_reserved_lock, xCheckReservedLock, ffi::SQLITE_IOERR_CHECKRESERVEDLOCK, out: *mut c_int);
forward!(sector_size, xSectorSize, 0);
forward!(device_characteristics, xDeviceCharacteristics, 0);
