//! Methods of open files: main databases, WALs, journals.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use libsqlite3_sys as ffi;
use libsqlite3_sys::{sqlite3_file, sqlite3_io_methods};

use super::{File, buffer_of, bytes_of, guard, handle_of, put};
use crate::generation::Mode;
use crate::handle::Handle;
use crate::page::{PAGE_SIZE, Page};
use crate::wal::{FRAME_LEN, WAL_HEADER_LEN};

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

pub(super) static MAIN_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xRead: Some(main_read),
    xWrite: Some(main_write),
    xTruncate: Some(main_truncate),
    xFileSize: Some(main_size),
    xFileControl: Some(main_file_control),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
    ..NO_METHODS
};

pub(super) static WAL_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    xRead: Some(wal_read),
    xWrite: Some(wal_write),
    xTruncate: Some(wal_truncate),
    xFileSize: Some(wal_size),
    ..NO_METHODS
};

pub(super) static JOURNAL_METHODS: sqlite3_io_methods = sqlite3_io_methods {
    xRead: Some(journal_read),
    xWrite: Some(journal_write),
    xTruncate: Some(journal_truncate),
    xFileSize: Some(journal_size),
    ..NO_METHODS
};
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
        // SAFETY: an open main file.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_READ };
        // SAFETY: a buffer of `len` bytes.
        let Some(buffer) = (unsafe { buffer_of(out, len) }) else { return ffi::SQLITE_IOERR_READ };
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
    // SAFETY: by contract there are three strings, which nobody else uses during the call.
    let strings = unsafe { &mut *arguments.cast::<[*mut c_char; 3]>() };
    // SAFETY: by contract.
    let name = unsafe { bytes_of(strings[1]) };
    // SAFETY: by contract.
    let value = unsafe { bytes_of(strings[2]) };
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
    // SQLite frees it.
    strings[0] = text;
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

unsafe extern "C" fn fetch(file: *mut sqlite3_file, offset: i64, len: c_int, out: *mut *mut c_void) -> c_int {
    guard(ffi::SQLITE_IOERR_MMAP, || {
        // SAFETY: an open main file.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_MMAP };
        let page = match (u64::try_from(offset), usize::try_from(len)) {
            (Ok(offset), Ok(PAGE_SIZE)) => match handle.generation.fetch_main(handle, offset) {
                Ok(page) => page,
                Err(code) => return code,
            },
            _ => None,
        };
        // Of a null pointer SQLite knows that it has to read.
        let address = page.map_or(std::ptr::null(), Page::into_raw);
        // SAFETY: SQLite passes a place for the result. It writes to no page that it fetched.
        unsafe { put(out, address.cast_mut()) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn unfetch(_: *mut sqlite3_file, _: i64, page: *mut c_void) -> c_int {
    guard(ffi::SQLITE_IOERR_MMAP, || {
        // A null pointer says that nothing may stay mapped.
        if !page.is_null() {
            // SAFETY: SQLite gives back what it fetched, once.
            drop(unsafe { Page::from_raw(page) });
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn wal_read(file: *mut sqlite3_file, out: *mut c_void, len: c_int, offset: i64) -> c_int {
    guard(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: an open WAL.
        let Some(handle) = (unsafe { handle_of(file) }) else { return ffi::SQLITE_IOERR_READ };
        // SAFETY: a buffer of `len` bytes.
        let Some(buffer) = (unsafe { buffer_of(out, len) }) else { return ffi::SQLITE_IOERR_READ };
        let Ok(offset) = u64::try_from(offset) else { return ffi::SQLITE_IOERR_READ };
        handle.generation.read_wal(handle, offset, buffer)
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
