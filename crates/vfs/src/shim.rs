//! The functions SQLite calls, all of one shape: check, make references, one call into safe code, map the result, inside
//! [`guard`], which keeps panics from crossing into C.
//!
//! Three kinds of files are ours: main databases, their WALs, and journals, which swallow what is written. Files without
//! a name are temporary and opened in place by SQLite's `unix` VFS.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use libsqlite3_sys as ffi;
use libsqlite3_sys::{sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use crate::generation::Mode;
use crate::handle::Handle;
use crate::name::DatabaseName;
use crate::page::PAGE_SIZE;
use crate::register::Shared;
use crate::wal::{FRAME_LEN, WAL_HEADER_LEN};

/// Julian day of the Unix epoch, in milliseconds.
const EPOCH_MS: i64 = 210_866_760_000_000;

/// An open file of ours. SQLite provides the memory and sees the first field only.
#[repr(C)]
struct File {
    base: sqlite3_file,
    /// From `Arc::into_raw` for main files and WALs, null for journals.
    handle: *const Handle,
}

/// Size of our part of a file object.
pub(crate) fn file_len() -> c_int {
    c_int::try_from(size_of::<File>()).expect("a few words")
}

/// Runs a callback; a panic becomes `on_panic`.
fn guard<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(on_panic)
}

const NO_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: None,
    xWrite: None,
    xTruncate: None,
    xSync: Some(sync),
    xFileSize: None,
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(no_file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

static MAIN_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xRead: Some(main_read),
    xWrite: Some(main_write),
    xTruncate: Some(main_truncate),
    xFileSize: Some(main_size),
    xFileControl: Some(main_file_control),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    ..NO_METHODS
};

static WAL_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    xRead: Some(wal_read),
    xWrite: Some(wal_write),
    xTruncate: Some(wal_truncate),
    xFileSize: Some(wal_size),
    ..NO_METHODS
};

static JOURNAL_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    xRead: Some(journal_read),
    xWrite: Some(journal_write),
    xTruncate: Some(journal_truncate),
    xFileSize: Some(journal_size),
    ..NO_METHODS
};

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

/// The handle behind an open file.
///
/// # Safety
/// `file` is null or points to a file that [`open`] opened as main file or WAL and that is not closed.
unsafe fn handle_of<'a>(file: *mut sqlite3_file) -> Option<&'a Handle> {
    // SAFETY: by contract a non-null pointer leads to a `File` whose handle is null or from `Arc::into_raw` and not yet
    // given back, since SQLite closes a file once and uses it no more.
    unsafe { file.cast::<File>().as_ref().and_then(|file| file.handle.as_ref()) }
}

/// The handle of a main file of this VFS, given SQLite's pointer to any file.
///
/// # Safety
/// `file` is null or points to an open file.
pub(crate) unsafe fn main_handle(file: *mut sqlite3_file) -> Option<Arc<Handle>> {
    // SAFETY: by contract.
    let methods = unsafe { file.as_ref() }?.pMethods;
    if !std::ptr::eq(methods, &raw const MAIN_METHODS) {
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
        // SAFETY: SQLite passes szOsFile bytes of memory. xClose is called even after a failed open if pMethods is set.
        unsafe { put(&raw mut (*file).pMethods, std::ptr::null()) };
        // SAFETY: SQLite passes the registered object.
        let Some(shared) = (unsafe { shared_of(vfs) }) else { return ffi::SQLITE_MISUSE };
        // SAFETY: null or a C string, says SQLite's interface.
        let Some(bytes) = (unsafe { bytes_of(name) }) else {
            // SAFETY: the `unix` VFS lives as long as the process, and szOsFile covers its files.
            let Some(unix_open) = (unsafe { (*shared.unix).xOpen }) else { return ffi::SQLITE_CANTOPEN };
            // SAFETY: arguments as SQLite gave them, with the VFS they are for.
            return unsafe { unix_open(shared.unix, name, file, flags, out_flags) };
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

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    guard(ffi::SQLITE_IOERR_CLOSE, || {
        // SAFETY: SQLite passes a file that `open` opened.
        let Some(open) = (unsafe { file.cast::<File>().as_mut() }) else { return ffi::SQLITE_OK };
        let handle = std::mem::replace(&mut open.handle, std::ptr::null());
        if !handle.is_null() {
            // SAFETY: from `Arc::into_raw` in `open`, given back here and nowhere else.
            drop(unsafe { Arc::from_raw(handle) });
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn main_read(file: *mut sqlite3_file, out: *mut c_void, len: c_int, offset: i64) -> c_int {
    guard(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: an open main file and a buffer of `len` bytes.
        let (Some(handle), Some(buffer)) = (unsafe { (handle_of(file), buffer_of(out, len)) }) else {
            return ffi::SQLITE_IOERR_READ;
        };
        let Ok(offset) = u64::try_from(offset) else { return ffi::SQLITE_IOERR_READ };
        handle.generation.read_main(handle, offset, buffer)
    })
}

unsafe extern "C" fn main_write(_: *mut sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    // Pages reach the main file by native backfill alone.
    ffi::SQLITE_IOERR_WRITE
}

unsafe extern "C" fn main_truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    guard(ffi::SQLITE_IOERR_TRUNCATE, || {
        // SAFETY: an open main file.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_TRUNCATE };
        let pages = handle.generation.main_pages(handle);
        if u64::try_from(size) == Ok(u64::from(pages) * PAGE_SIZE as u64) {
            return ffi::SQLITE_OK;
        }
        ffi::SQLITE_IOERR_TRUNCATE
    })
}

unsafe extern "C" fn main_size(file: *mut sqlite3_file, out: *mut i64) -> c_int {
    guard(ffi::SQLITE_IOERR_FSTAT, || {
        // SAFETY: an open main file.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_FSTAT };
        let pages = i64::from(handle.generation.main_pages(handle));
        // SAFETY: SQLite passes a place for the result.
        unsafe { put(out, pages * 4096) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn main_file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    guard(ffi::SQLITE_INTERNAL, || {
        // SAFETY: an open main file.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_NOTFOUND };
        match op {
            // SAFETY: the argument of this opcode is an array of strings, with room for an answer in front.
            ffi::SQLITE_FCNTL_PRAGMA => unsafe { pragma(handle, argument.cast()) },
            ffi::SQLITE_FCNTL_COMMIT_PHASETWO => handle.generation.commit_done(handle),
            ffi::SQLITE_FCNTL_PERSIST_WAL => {
                // SAFETY: the argument of this opcode is an int.
                let Some(value) = (unsafe { argument.cast::<c_int>().as_mut() }) else {
                    return ffi::SQLITE_MISUSE;
                };
                match *value {
                    0 => return ffi::SQLITE_MISUSE,
                    -1 => *value = 1,
                    _ => {}
                }
                ffi::SQLITE_OK
            }
            ffi::SQLITE_FCNTL_MMAP_SIZE => {
                // SAFETY: the argument of this opcode is a 64-bit integer. Nothing is ever mapped.
                unsafe { put(argument.cast::<i64>(), 0) };
                ffi::SQLITE_OK
            }
            _ => ffi::SQLITE_NOTFOUND,
        }
    })
}

/// PRAGMAs that the VFS knows. The authorizer has seen them before.
///
/// # Safety
/// `arguments` points to three strings: where an error text goes, the name, and the value or null.
unsafe fn pragma(handle: &Handle, arguments: *mut *mut c_char) -> c_int {
    if arguments.is_null() {
        return ffi::SQLITE_NOTFOUND;
    }
    // SAFETY: by contract.
    let (name, value) = unsafe { (bytes_of(*arguments.add(1)), bytes_of(*arguments.add(2))) };
    let (code, message) = match (name.unwrap_or_default(), value) {
        (name, None) if name.eq_ignore_ascii_case(b"delete_database") => {
            match handle.generation.request_delete(handle) {
                Ok(()) => return ffi::SQLITE_OK,
                Err(message) => (ffi::SQLITE_ERROR, message),
            }
        }
        (name, Some(value)) if name.eq_ignore_ascii_case(b"page_size") && value != b"4096" => {
            (ffi::SQLITE_IOERR, "changing page size is not supported")
        }
        _ => return ffi::SQLITE_NOTFOUND,
    };
    let len = c_int::try_from(message.len()).unwrap_or(0);
    // SAFETY: the format takes a length and a pointer to that many bytes.
    let text = unsafe { ffi::sqlite3_mprintf(c"%.*s".as_ptr(), len, message.as_ptr()) };
    // SAFETY: by contract the first string is ours to set; SQLite frees it.
    unsafe { put(arguments, text) };
    code
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    len: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    guard(ffi::SQLITE_IOERR_SHMMAP, || {
        // SAFETY: an open main file.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_SHMMAP };
        let (Ok(region), Ok(len)) = (usize::try_from(region), usize::try_from(len)) else {
            return ffi::SQLITE_IOERR_SHMMAP;
        };
        match handle.generation.map(region, len, extend != 0) {
            Ok(address) => {
                // SAFETY: SQLite passes a place for the result.
                unsafe { put(out, address.unwrap_or_default()) };
                ffi::SQLITE_OK
            }
            Err(code) => code,
        }
    })
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    guard(ffi::SQLITE_IOERR_SHMLOCK, || {
        // SAFETY: an open main file.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_SHMLOCK };
        let (Ok(first), Ok(count)) = (usize::try_from(first), usize::try_from(count)) else {
            return ffi::SQLITE_IOERR_SHMLOCK;
        };
        let mode = if flags & ffi::SQLITE_SHM_EXCLUSIVE != 0 { Mode::Exclusive } else { Mode::Shared };
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            handle.generation.release(handle, first, count, mode)
        } else {
            handle.generation.acquire(handle, first, count, mode)
        }
    })
}

unsafe extern "C" fn shm_barrier(_: *mut sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, _delete: c_int) -> c_int {
    guard(ffi::SQLITE_IOERR_SHMMAP, || {
        // SAFETY: an open main file. The regions stay: they belong to the generation.
        if let Some(handle) = unsafe { handle_of(file) } {
            handle.generation.release_all(handle);
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn wal_read(file: *mut sqlite3_file, out: *mut c_void, len: c_int, offset: i64) -> c_int {
    guard(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: an open WAL and a buffer of `len` bytes.
        let (Some(handle), Some(buffer)) = (unsafe { (handle_of(file), buffer_of(out, len)) }) else {
            return ffi::SQLITE_IOERR_READ;
        };
        let Ok(offset) = u64::try_from(offset) else { return ffi::SQLITE_IOERR_READ };
        handle.generation.read_wal(offset, buffer)
    })
}

unsafe extern "C" fn wal_write(
    file: *mut sqlite3_file,
    data: *const c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    guard(ffi::SQLITE_IOERR_WRITE, || {
        // SAFETY: an open WAL.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_WRITE };
        let (Ok(len), Ok(offset)) = (usize::try_from(len), u64::try_from(offset)) else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        if data.is_null() {
            return ffi::SQLITE_IOERR_WRITE;
        }
        // SAFETY: SQLite passes `len` readable bytes.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) };
        handle.generation.write_wal(handle, offset, bytes)
    })
}

unsafe extern "C" fn wal_truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    guard(ffi::SQLITE_IOERR_TRUNCATE, || {
        // SAFETY: an open WAL.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_TRUNCATE };
        let Ok(size) = u64::try_from(size) else { return ffi::SQLITE_IOERR_TRUNCATE };
        handle.generation.truncate_wal(handle, size)
    })
}

unsafe extern "C" fn wal_size(file: *mut sqlite3_file, out: *mut i64) -> c_int {
    guard(ffi::SQLITE_IOERR_FSTAT, || {
        // SAFETY: an open WAL.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_FSTAT };
        let frames = u64::from(handle.generation.lock().wal.len());
        let size = if frames == 0 { 0 } else { WAL_HEADER_LEN as u64 + frames * FRAME_LEN as u64 };
        // SAFETY: SQLite passes a place for the result.
        unsafe { put(out, i64::try_from(size).unwrap_or(i64::MAX)) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn journal_read(_: *mut sqlite3_file, out: *mut c_void, len: c_int, _: i64) -> c_int {
    // SAFETY: a buffer of `len` bytes.
    if let Some(buffer) = unsafe { buffer_of(out, len) } {
        buffer.fill(0);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn journal_write(_: *mut sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn journal_truncate(_: *mut sqlite3_file, _: i64) -> c_int {
    ffi::SQLITE_IOERR_TRUNCATE
}

unsafe extern "C" fn journal_size(_: *mut sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: SQLite passes a place for the result.
    unsafe { put(out, 0) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn sync(_: *mut sqlite3_file, _: c_int) -> c_int {
    // Durability is the log's business.
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(_: *mut sqlite3_file, level: c_int) -> c_int {
    // SQLite takes this lock to leave WAL mode or to checkpoint when a connection closes; it must do neither.
    if level == ffi::SQLITE_LOCK_EXCLUSIVE { ffi::SQLITE_BUSY } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn unlock(_: *mut sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a place for the result.
    unsafe { put(out, 0) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn no_file_control(_: *mut sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn device_characteristics(_: *mut sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_ATOMIC
        | ffi::SQLITE_IOCAP_SAFE_APPEND
        | ffi::SQLITE_IOCAP_SEQUENTIAL
        | ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, _sync: c_int) -> c_int {
    guard(ffi::SQLITE_IOERR_DELETE, || {
        // SAFETY: the registered object and a C string.
        let (Some(shared), Some(bytes)) = (unsafe { (shared_of(vfs), bytes_of(name)) }) else {
            return ffi::SQLITE_IOERR_DELETE;
        };
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
        // SAFETY: the registered object and a C string.
        let (Some(shared), Some(bytes)) = (unsafe { (shared_of(vfs), bytes_of(name)) }) else {
            return ffi::SQLITE_IOERR_ACCESS;
        };
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
        // SAFETY: a C string and a buffer of `len` bytes.
        let (Some(bytes), Some(buffer)) = (unsafe { (bytes_of(name), buffer_of(out.cast(), len)) }) else {
            return ffi::SQLITE_CANTOPEN;
        };
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
        // SAFETY: the registered object and a buffer of `len` bytes.
        let (Some(shared), Some(buffer)) = (unsafe { (shared_of(vfs), buffer_of(out.cast(), len)) }) else {
            return 0;
        };
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
