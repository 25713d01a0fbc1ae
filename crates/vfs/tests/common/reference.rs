//! SQLite on its own VFS: the reference of the differential tests.

use std::ffi::{CStr, CString, c_int};
use std::path::{Path, PathBuf};

use libsqlite3_sys as ffi;
use vfs::SqlError;

/// A connection to a file in WAL mode with pages of 4096 bytes and foreign keys enforced.
pub struct Reference {
    db: *mut ffi::sqlite3,
    path: PathBuf,
}

impl Reference {
    /// Opens the file, which is made if it does not exist.
    pub fn open(path: &Path) -> Self {
        let mut reference = Self::connect(path);
        for sql in [
            "PRAGMA page_size=4096",
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=OFF",
            "PRAGMA wal_autocheckpoint=0",
            "PRAGMA foreign_keys=ON",
        ] {
            reference.query(sql).unwrap();
        }
        reference
    }

    fn connect(path: &Path) -> Self {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        let mut db = std::ptr::null_mut();
        let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE | ffi::SQLITE_OPEN_EXRESCODE;
        // SAFETY: C strings, and a place for the result.
        let code = unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &raw mut db, flags, c"unix".as_ptr()) };
        assert_eq!(code, ffi::SQLITE_OK);
        Self { db, path: path.to_owned() }
    }

    fn error(&self, code: c_int) -> SqlError {
        // SAFETY: the connection is open.
        let message = unsafe { ffi::sqlite3_errmsg(self.db) };
        // SAFETY: SQLite returns a C string that stays until the next call.
        let message = unsafe { CStr::from_ptr(message) };
        SqlError { code, message: message.to_string_lossy().into_owned() }
    }

    /// Rows as text, in the form that `common::query` gives.
    pub fn query(&mut self, sql: &str) -> Result<Vec<String>, SqlError> {
        let mut rows = Vec::new();
        let text = CString::new(sql).unwrap();
        let mut rest = text.as_ptr();
        loop {
            let mut statement = std::ptr::null_mut();
            let mut tail = std::ptr::null();
            // SAFETY: an open connection, a C string, and places for the results.
            let code =
                unsafe { ffi::sqlite3_prepare_v2(self.db, rest, -1, &raw mut statement, &raw mut tail) };
            if code != ffi::SQLITE_OK {
                return Err(self.error(code));
            }
            rest = tail;
            if statement.is_null() {
                return Ok(rows);
            }
            let result = loop {
                // SAFETY: a live statement.
                match unsafe { ffi::sqlite3_step(statement) } {
                    ffi::SQLITE_ROW => rows.push(row(statement)),
                    ffi::SQLITE_DONE => break Ok(()),
                    code => break Err(self.error(code)),
                }
            };
            // SAFETY: finalized once.
            unsafe { ffi::sqlite3_finalize(statement) };
            result?;
        }
    }

    pub fn in_transaction(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_get_autocommit(self.db) == 0 }
    }

    /// The bytes of the committed database, whatever this or other connections are doing.
    pub fn image(&self) -> Vec<u8> {
        let fresh = Self::connect(&self.path);
        let mut len = 0;
        // SAFETY: an open connection, a C string, a place for the length.
        let start = unsafe { ffi::sqlite3_serialize(fresh.db, c"main".as_ptr(), &raw mut len, 0) };
        assert!(!start.is_null());
        // SAFETY: SQLite gave an allocation of that length.
        let image = unsafe { std::slice::from_raw_parts(start, usize::try_from(len).unwrap()) }.to_vec();
        // SAFETY: freed once.
        unsafe { ffi::sqlite3_free(start.cast()) };
        image
    }
}

/// Replaces the files of a closed database by an image.
pub fn rewind(path: &Path, image: &[u8]) {
    for suffix in ["-wal", "-shm"] {
        let mut name = path.to_owned().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    std::fs::write(path, image).unwrap();
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: no statement is left.
        unsafe { ffi::sqlite3_close(self.db) };
    }
}

fn row(statement: *mut ffi::sqlite3_stmt) -> String {
    // SAFETY: a live statement with a row.
    let count = unsafe { ffi::sqlite3_column_count(statement) };
    let columns: Vec<String> = (0..count).map(|column| value(statement, column)).collect();
    columns.join("|")
}

fn value(statement: *mut ffi::sqlite3_stmt, column: c_int) -> String {
    // SAFETY: a live statement with a row that has this column.
    match unsafe { ffi::sqlite3_column_type(statement, column) } {
        // SAFETY: as above.
        ffi::SQLITE_INTEGER => unsafe { ffi::sqlite3_column_int64(statement, column) }.to_string(),
        // SAFETY: as above.
        ffi::SQLITE_FLOAT => unsafe { ffi::sqlite3_column_double(statement, column) }.to_string(),
        ffi::SQLITE_TEXT => {
            // SAFETY: as above; a text is not null.
            let text = unsafe { ffi::sqlite3_column_text(statement, column) };
            String::from_utf8_lossy(bytes(statement, column, text)).into_owned()
        }
        ffi::SQLITE_BLOB => {
            // SAFETY: as above.
            let blob = unsafe { ffi::sqlite3_column_blob(statement, column) };
            super::blob_text(bytes(statement, column, blob.cast()))
        }
        _ => "NULL".to_owned(),
    }
}

fn bytes<'a>(statement: *mut ffi::sqlite3_stmt, column: c_int, start: *const u8) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: a live statement with a row that has this column.
    let len = usize::try_from(unsafe { ffi::sqlite3_column_bytes(statement, column) }).unwrap();
    // SAFETY: SQLite's pointer to a value of that length; the callers copy it before the next step.
    unsafe { std::slice::from_raw_parts(start, len) }
}
