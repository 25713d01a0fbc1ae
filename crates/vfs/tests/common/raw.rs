//! The VFS as C sees it: function pointers, file objects in memory of the caller, result codes.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use libsqlite3_sys as ffi;
use libsqlite3_sys::{sqlite3_file, sqlite3_io_methods, sqlite3_vfs};
use vfs::Vfs;

pub const MAIN: c_int = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_READWRITE;
pub const CREATE: c_int = ffi::SQLITE_OPEN_CREATE;

/// A registered VFS.
#[derive(Clone, Copy)]
pub struct RawVfs(*mut sqlite3_vfs);

impl RawVfs {
    pub fn of(vfs: &Vfs) -> Self {
        // SAFETY: a C string.
        let raw = unsafe { ffi::sqlite3_vfs_find(vfs.name().as_ptr()) };
        assert!(!raw.is_null());
        Self(raw)
    }

    fn methods(&self) -> &sqlite3_vfs {
        // SAFETY: registered for as long as the tests use it.
        unsafe { &*self.0 }
    }

    pub fn pointer(&self) -> *mut sqlite3_vfs {
        self.0
    }

    /// xOpen. `None` is a temporary file.
    pub fn open(&self, name: Option<&str>, flags: c_int) -> Result<RawFile, c_int> {
        let len = usize::try_from(self.methods().szOsFile).unwrap().div_ceil(8);
        // Not zero, as xOpen has to set the methods even when it fails.
        let mut memory = vec![u64::MAX; len].into_boxed_slice();
        let file = memory.as_mut_ptr().cast::<sqlite3_file>();
        let name = name.map(|name| CString::new(name).unwrap());
        let pointer = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        let mut out = 0;
        // SAFETY: a file object of the right size, a name that outlives the file, a place for the flags.
        let code = unsafe { self.methods().xOpen.unwrap()(self.0, pointer, file, flags, &raw mut out) };
        if code == ffi::SQLITE_OK {
            return Ok(RawFile { file, owned: Some((memory, name)) });
        }
        // SAFETY: the object has at least this field.
        assert!(unsafe { (*file).pMethods }.is_null(), "a failed open leaves nothing to close");
        Err(code)
    }

    pub fn access(&self, name: &str) -> c_int {
        let name = CString::new(name).unwrap();
        let mut found = -1;
        // SAFETY: a C string and a place for the result.
        let code = unsafe { self.methods().xAccess.unwrap()(self.0, name.as_ptr(), 0, &raw mut found) };
        assert_eq!(code, ffi::SQLITE_OK);
        found
    }

    pub fn delete(&self, name: &str) -> c_int {
        let name = CString::new(name).unwrap();
        // SAFETY: a C string.
        unsafe { self.methods().xDelete.unwrap()(self.0, name.as_ptr(), 0) }
    }

    pub fn full_pathname(&self, name: &str, room: usize) -> Result<String, c_int> {
        let name = CString::new(name).unwrap();
        let mut buffer: Vec<c_char> = vec![0x55; room];
        let len = c_int::try_from(room).unwrap();
        // SAFETY: a C string and a buffer of that length.
        let code =
            unsafe { self.methods().xFullPathname.unwrap()(self.0, name.as_ptr(), len, buffer.as_mut_ptr()) };
        if code != ffi::SQLITE_OK {
            return Err(code);
        }
        // SAFETY: the method ends what it writes with a NUL.
        Ok(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_owned())
    }

    pub fn last_error(&self) -> c_int {
        // SAFETY: the buffer may be missing.
        unsafe { self.methods().xGetLastError.unwrap()(self.0, 0, std::ptr::null_mut()) }
    }

    pub fn dl_error(&self, room: usize) -> String {
        let mut buffer: Vec<c_char> = vec![0x55; room];
        let len = c_int::try_from(room).unwrap();
        // SAFETY: a buffer of that length.
        unsafe { self.methods().xDlError.unwrap()(self.0, len, buffer.as_mut_ptr()) };
        // SAFETY: the method ends what it writes with a NUL.
        unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_owned()
    }

    pub fn randomness(&self, len: usize) -> Vec<u8> {
        let mut buffer = vec![0_u8; len];
        let room = c_int::try_from(len).unwrap();
        // SAFETY: a buffer of that length.
        let done = unsafe {
            self.methods().xRandomness.unwrap()(self.0, room, buffer.as_mut_ptr().cast::<c_char>())
        };
        assert_eq!(done, room);
        buffer
    }

    pub fn sleep(&self, microseconds: c_int) -> c_int {
        // SAFETY: no pointers.
        unsafe { self.methods().xSleep.unwrap()(self.0, microseconds) }
    }

    /// Julian day and its milliseconds.
    pub fn time(&self) -> (f64, i64) {
        let (mut day, mut milliseconds) = (0.0, 0);
        // SAFETY: a place for the result.
        let first = unsafe { self.methods().xCurrentTime.unwrap()(self.0, &raw mut day) };
        // SAFETY: a place for the result.
        let second = unsafe { self.methods().xCurrentTimeInt64.unwrap()(self.0, &raw mut milliseconds) };
        assert_eq!((first, second), (ffi::SQLITE_OK, ffi::SQLITE_OK));
        (day, milliseconds)
    }
}

/// An open file, closed when dropped if it is ours.
pub struct RawFile {
    file: *mut sqlite3_file,
    owned: Option<(Box<[u64]>, Option<CString>)>,
}

impl Drop for RawFile {
    fn drop(&mut self) {
        if self.owned.is_some() {
            // SAFETY: open, and closed once.
            let code = unsafe { self.methods().xClose.unwrap()(self.file) };
            assert_eq!(code, ffi::SQLITE_OK);
        }
    }
}

impl RawFile {
    /// A file that a connection has open.
    ///
    /// # Safety
    /// The connection stays open while the result is used.
    pub unsafe fn borrowed(file: *mut sqlite3_file) -> Self {
        assert!(!file.is_null());
        Self { file, owned: None }
    }

    pub fn methods(&self) -> &sqlite3_io_methods {
        // SAFETY: the file is open.
        let methods = unsafe { (*self.file).pMethods };
        // SAFETY: an open file has methods, and they are static.
        unsafe { &*methods }
    }

    pub fn read(&self, offset: i64, len: usize) -> (c_int, Vec<u8>) {
        let mut buffer = vec![0x55; len];
        let room = c_int::try_from(len).unwrap();
        // SAFETY: a buffer of that length.
        let code = unsafe {
            self.methods().xRead.unwrap()(self.file, buffer.as_mut_ptr().cast::<c_void>(), room, offset)
        };
        (code, buffer)
    }

    pub fn write(&self, offset: i64, bytes: &[u8]) -> c_int {
        let len = c_int::try_from(bytes.len()).unwrap();
        // SAFETY: a buffer of that length.
        unsafe { self.methods().xWrite.unwrap()(self.file, bytes.as_ptr().cast::<c_void>(), len, offset) }
    }

    pub fn truncate(&self, size: i64) -> c_int {
        // SAFETY: the file is open.
        unsafe { self.methods().xTruncate.unwrap()(self.file, size) }
    }

    pub fn size(&self) -> i64 {
        let mut size = -1;
        // SAFETY: a place for the result.
        let code = unsafe { self.methods().xFileSize.unwrap()(self.file, &raw mut size) };
        assert_eq!(code, ffi::SQLITE_OK);
        size
    }

    pub fn sync(&self) -> c_int {
        // SAFETY: the file is open.
        unsafe { self.methods().xSync.unwrap()(self.file, 0) }
    }

    /// xFileControl with an int as argument; returns the code and the int afterwards.
    pub fn control(&self, op: c_int, value: c_int) -> (c_int, c_int) {
        let mut value = value;
        let argument = (&raw mut value).cast::<c_void>();
        // SAFETY: the opcodes used here take an int or nothing.
        let code = unsafe { self.methods().xFileControl.unwrap()(self.file, op, argument) };
        (code, value)
    }

    /// xFetch: an address, or null.
    pub fn fetch(&self, offset: i64, len: c_int) -> *const u8 {
        let mut out = std::ptr::dangling_mut::<c_void>();
        // SAFETY: a place for the result.
        let code = unsafe { self.methods().xFetch.unwrap()(self.file, offset, len, &raw mut out) };
        assert_eq!(code, ffi::SQLITE_OK);
        out.cast_const().cast()
    }

    /// xUnfetch.
    ///
    /// # Safety
    /// The address is null, or from `fetch` and not yet given back.
    pub unsafe fn unfetch(&self, offset: i64, page: *const u8) {
        // SAFETY: by contract.
        let code =
            unsafe { self.methods().xUnfetch.unwrap()(self.file, offset, page.cast_mut().cast::<c_void>()) };
        assert_eq!(code, ffi::SQLITE_OK);
    }

    pub fn shm_map(&self, region: c_int, len: c_int, extend: bool) -> Result<*mut c_void, c_int> {
        let mut out = std::ptr::dangling_mut::<c_void>();
        // SAFETY: a place for the result.
        let code = unsafe {
            self.methods().xShmMap.unwrap()(self.file, region, len, c_int::from(extend), &raw mut out)
        };
        if code == ffi::SQLITE_OK { Ok(out) } else { Err(code) }
    }

    fn shm(&self, first: c_int, count: c_int, flags: c_int) -> c_int {
        // SAFETY: the file is open.
        unsafe { self.methods().xShmLock.unwrap()(self.file, first, count, flags) }
    }

    pub fn lock_shared(&self, slot: c_int) -> c_int {
        self.shm(slot, 1, ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_SHARED)
    }

    pub fn lock_exclusive(&self, first: c_int, count: c_int) -> c_int {
        self.shm(first, count, ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_EXCLUSIVE)
    }

    pub fn unlock_shared(&self, slot: c_int) -> c_int {
        self.shm(slot, 1, ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_SHARED)
    }

    pub fn unlock_exclusive(&self, first: c_int, count: c_int) -> c_int {
        self.shm(first, count, ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_EXCLUSIVE)
    }

    pub fn shm_unmap(&self) -> c_int {
        // SAFETY: the file is open.
        unsafe { self.methods().xShmUnmap.unwrap()(self.file, 1) }
    }
}

/// A plain connection on a VFS, as a host would open it, with its main file and its WAL.
pub struct RawConnection(*mut ffi::sqlite3);

impl RawConnection {
    pub fn open(name: &str, vfs: Option<&Vfs>) -> Result<Self, c_int> {
        Self::open_with(name, vfs, ffi::SQLITE_OPEN_READWRITE | CREATE)
    }

    pub fn open_with(name: &str, vfs: Option<&Vfs>, flags: c_int) -> Result<Self, c_int> {
        let name = CString::new(name).unwrap();
        let mut db = std::ptr::null_mut();
        let vfs = vfs.map_or(std::ptr::null(), |vfs| vfs.name().as_ptr());
        // SAFETY: C strings and a place for the result.
        let code = unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &raw mut db, flags, vfs) };
        let connection = Self(db);
        if code == ffi::SQLITE_OK { Ok(connection) } else { Err(code) }
    }

    pub fn exec(&self, sql: &str) -> Result<(), c_int> {
        let sql = CString::new(sql).unwrap();
        // SAFETY: an open connection, a C string, no callback.
        let code = unsafe {
            ffi::sqlite3_exec(self.0, sql.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut())
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) }
    }

    fn file(&self, op: c_int) -> RawFile {
        let mut file: *mut sqlite3_file = std::ptr::null_mut();
        let place = (&raw mut file).cast::<c_void>();
        // SAFETY: these opcodes write a file pointer.
        let code = unsafe { ffi::sqlite3_file_control(self.0, c"main".as_ptr(), op, place) };
        assert_eq!(code, ffi::SQLITE_OK);
        // SAFETY: tests use the file while they have the connection.
        unsafe { RawFile::borrowed(file) }
    }

    pub fn main(&self) -> RawFile {
        self.file(ffi::SQLITE_FCNTL_FILE_POINTER)
    }

    /// The WAL, or the journal of a connection without.
    pub fn wal(&self) -> RawFile {
        self.file(ffi::SQLITE_FCNTL_JOURNAL_POINTER)
    }

    pub fn system_errno(&self) -> c_int {
        // SAFETY: an open connection.
        unsafe { ffi::sqlite3_system_errno(self.0) }
    }
}

impl Drop for RawConnection {
    fn drop(&mut self) {
        // SAFETY: closed once; null is fine.
        unsafe { ffi::sqlite3_close(self.0) };
    }
}
