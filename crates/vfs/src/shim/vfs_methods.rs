//! Methods of the VFS itself.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libsqlite3_sys as ffi;
use libsqlite3_sys::{sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use super::file_methods::{JOURNAL_METHODS, MAIN_METHODS, WAL_METHODS};
use super::temporary_methods;
use super::{File, buffer_of, bytes_of, guard, main_handle, put};
use crate::handle::Handle;
use crate::name::DatabaseName;
use crate::register::Shared;

/// Julian day of the Unix epoch, in milliseconds.
const EPOCH_MS: i64 = 210_866_760_000_000;

/// The callbacks of the VFS; the caller fills in the rest.
pub(crate) fn vfs_methods() -> sqlite3_vfs {
    sqlite3_vfs {
        iVersion: 2,
        szOsFile: 0,
        mxPathname: 0,
        pNext: std::ptr::null_mut(),
        zName: std::ptr::null(),
        pAppData: std::ptr::null_mut(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: Some(dl_open),
        xDlError: Some(dl_error),
        xDlSym: Some(dl_sym),
        xDlClose: Some(dl_close),
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(get_last_error),
        xCurrentTimeInt64: Some(current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }
}

/// The shared state of a VFS of ours.
///
/// # Safety
/// `vfs` is the registered object, whose application data lives as long as it is registered.
unsafe fn shared_of<'a>(vfs: *mut sqlite3_vfs) -> Option<&'a Shared> {
    // SAFETY: by contract.
    let data = unsafe { vfs.as_ref() }?.pAppData;
    // SAFETY: by contract it points to the `Shared` of the registration.
    unsafe { data.cast::<Shared>().as_ref() }
}

fn failed(shared: &Shared, code: c_int, errno: i32) -> c_int {
    shared.last_error.store(errno, Ordering::Relaxed);
    code
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    guard(ffi::SQLITE_CANTOPEN, || {
        if file.is_null() {
            return ffi::SQLITE_MISUSE;
        }
        // xClose is called even after a failed open if pMethods is set.
        // SAFETY: SQLite passes szOsFile bytes of memory, which cover the field.
        unsafe { put(file.cast::<*const sqlite3_io_methods>(), std::ptr::null()) };
        // SAFETY: SQLite passes the registered object.
        let Some(shared) = (unsafe { shared_of(vfs) }) else { return ffi::SQLITE_MISUSE };
        // SAFETY: null or a C string, says SQLite's interface.
        let Some(bytes) = (unsafe { bytes_of(name) }) else {
            // SAFETY: arguments as SQLite gave them.
            return unsafe { temporary_methods::open(shared, file, flags, out_flags) };
        };
        let opened = if flags & (ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL) != 0 {
            Ok((&raw const JOURNAL_METHODS, None))
        } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
            // SAFETY: SQLite passes a WAL name that it made, for a connection whose main file is open.
            unsafe { open_wal(shared, bytes, name) }.map(|handle| (&raw const WAL_METHODS, Some(handle)))
        } else if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
            let exclusive = flags & ffi::SQLITE_OPEN_EXCLUSIVE != 0;
            DatabaseName::new(bytes)
                .map_err(|_| libc::EINVAL)
                .and_then(|name| shared.open_handle(&name, create, exclusive))
                .map(|handle| (&raw const MAIN_METHODS, Some(Arc::new(handle))))
        } else {
            Err(libc::ENOENT)
        };
        match opened {
            Ok((methods, handle)) => {
                let handle = handle.map_or(std::ptr::null(), Arc::into_raw);
                // SAFETY: SQLite passes szOsFile bytes, which cover a `File`, aligned like any file object.
                unsafe {
                    put(file.cast::<File>(), File { base: sqlite3_file { pMethods: methods }, handle })
                };
                ffi::SQLITE_OK
            }
            Err(errno) => failed(shared, ffi::SQLITE_CANTOPEN, errno),
        }
    })
}

/// Finds the handle of the main file that a WAL belongs to.
///
/// # Safety
/// If a database of that name exists, `name` is a WAL name that SQLite made.
unsafe fn open_wal(shared: &Shared, bytes: &[u8], name: *const c_char) -> Result<Arc<Handle>, i32> {
    let main =
        bytes.strip_suffix(b"-wal").and_then(|main| DatabaseName::new(main).ok()).ok_or(libc::ENOENT)?;
    if shared.find(&main).is_none() {
        return Err(libc::ENOENT);
    }
    // A connection is bound to one generation, so the WAL must not be looked up by name: the database may have a newer
    // generation by now.
    // SAFETY: by contract SQLite made the name, so it leads back to the main file.
    let main = unsafe { ffi::sqlite3_database_file_object(name) };
    // SAFETY: that file is open.
    unsafe { main_handle(main) }.ok_or(libc::ENOENT)
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, _sync: c_int) -> c_int {
    guard(ffi::SQLITE_IOERR_DELETE, || {
        // SAFETY: the registered object.
        let Some(shared) = (unsafe { shared_of(vfs) }) else { return ffi::SQLITE_IOERR_DELETE };
        // SAFETY: a C string.
        let Some(bytes) = (unsafe { bytes_of(name) }) else { return ffi::SQLITE_IOERR_DELETE };
        // Journals and WALs are not there to begin with. A database goes by PRAGMA delete_database only.
        match DatabaseName::new(bytes) {
            Ok(name) if shared.find(&name).is_some() => failed(shared, ffi::SQLITE_IOERR_DELETE, libc::EBUSY),
            _ => ffi::SQLITE_OK,
        }
    })
}

unsafe extern "C" fn access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    out: *mut c_int,
) -> c_int {
    guard(ffi::SQLITE_IOERR_ACCESS, || {
        // SAFETY: the registered object.
        let Some(shared) = (unsafe { shared_of(vfs) }) else { return ffi::SQLITE_IOERR_ACCESS };
        // SAFETY: a C string.
        let Some(bytes) = (unsafe { bytes_of(name) }) else { return ffi::SQLITE_IOERR_ACCESS };
        // Every database has a WAL; none has a journal.
        let main = bytes.strip_suffix(b"-wal").unwrap_or(bytes);
        let exists = DatabaseName::new(main).is_ok_and(|name| shared.find(&name).is_some());
        // SAFETY: SQLite passes a place for the result.
        unsafe { put(out, c_int::from(exists)) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn full_pathname(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    guard(ffi::SQLITE_CANTOPEN, || {
        // SAFETY: a C string.
        let Some(bytes) = (unsafe { bytes_of(name) }) else { return ffi::SQLITE_CANTOPEN };
        // SAFETY: a buffer of `len` bytes.
        let Some(buffer) = (unsafe { buffer_of(out.cast(), len) }) else { return ffi::SQLITE_CANTOPEN };
        let Some(room) = buffer.len().checked_sub(1) else { return ffi::SQLITE_CANTOPEN };
        if bytes.len() > room {
            return ffi::SQLITE_CANTOPEN;
        }
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer[bytes.len()] = 0;
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn dl_open(_: *mut sqlite3_vfs, _: *const c_char) -> *mut c_void {
    std::ptr::null_mut()
}

unsafe extern "C" fn dl_error(_: *mut sqlite3_vfs, len: c_int, out: *mut c_char) {
    const MESSAGE: &[u8] = b"Loadable extensions are not supported";
    // SAFETY: a buffer of `len` bytes.
    let Some(buffer) = (unsafe { buffer_of(out.cast(), len) }) else { return };
    let Some(room) = buffer.len().checked_sub(1) else { return };
    let count = room.min(MESSAGE.len());
    buffer[..count].copy_from_slice(&MESSAGE[..count]);
    buffer[count] = 0;
}

type Symbol = unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char);

unsafe extern "C" fn dl_sym(_: *mut sqlite3_vfs, _: *mut c_void, _: *const c_char) -> Option<Symbol> {
    None
}

unsafe extern "C" fn dl_close(_: *mut sqlite3_vfs, _: *mut c_void) {}

unsafe extern "C" fn randomness(vfs: *mut sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    guard(0, || {
        // SAFETY: the registered object.
        let Some(shared) = (unsafe { shared_of(vfs) }) else { return 0 };
        // SAFETY: a buffer of `len` bytes.
        let Some(buffer) = (unsafe { buffer_of(out.cast(), len) }) else { return 0 };
        shared.settings.environment.randomness(buffer);
        len
    })
}

unsafe extern "C" fn sleep(vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    guard(0, || {
        // SAFETY: the registered object.
        let Some(shared) = (unsafe { shared_of(vfs) }) else { return 0 };
        let duration = Duration::from_micros(u64::try_from(microseconds).unwrap_or(0));
        shared.settings.environment.sleep(duration);
        microseconds
    })
}

/// Milliseconds of the julian calendar.
///
/// # Safety
/// As for [`shared_of`].
unsafe fn julian_ms(vfs: *mut sqlite3_vfs) -> Option<i64> {
    // SAFETY: by contract.
    let shared = unsafe { shared_of(vfs) }?;
    Some(shared.settings.environment.now_ms().saturating_add(EPOCH_MS))
}

unsafe extern "C" fn current_time(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    guard(ffi::SQLITE_ERROR, || {
        // SAFETY: the registered object.
        let Some(now) = (unsafe { julian_ms(vfs) }) else { return ffi::SQLITE_ERROR };
        #[expect(clippy::cast_precision_loss, reason = "the result is a double by contract")]
        let days = now as f64 / 86_400_000.0;
        // SAFETY: SQLite passes a place for the result.
        unsafe { put(out, days) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn current_time_int64(vfs: *mut sqlite3_vfs, out: *mut i64) -> c_int {
    guard(ffi::SQLITE_ERROR, || {
        // SAFETY: the registered object.
        let Some(now) = (unsafe { julian_ms(vfs) }) else { return ffi::SQLITE_ERROR };
        // SAFETY: SQLite passes a place for the result.
        unsafe { put(out, now) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn get_last_error(vfs: *mut sqlite3_vfs, _len: c_int, _out: *mut c_char) -> c_int {
    guard(0, || {
        // SAFETY: the registered object.
        unsafe { shared_of(vfs) }.map_or(0, |shared| shared.last_error.load(Ordering::Relaxed))
    })
}
