//! Prepared statements.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

use bytes::Bytes;
use libsqlite3_sys as ffi;

use crate::connection::{Inner, Lifetime};
use crate::error::SqlError;
use crate::schema_check::{Checked, Effect};
use crate::surface;

/// Outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A row is ready.
    Row,
    /// The statement ran to its end.
    Done,
}

/// A value of the current row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColumnValue<'a> {
    /// 64-bit integer.
    Integer(i64),
    /// Double.
    Float(f64),
    /// Text, normally but not necessarily UTF-8, without terminator.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
    /// NULL.
    Null,
}

/// What [`Connection::prepare`](crate::Connection::prepare) found.
#[derive(Debug)]
pub struct Prepared {
    /// The statement; `None` if the text up to `consumed` holds nothing but blanks and comments.
    pub statement: Option<Statement>,
    /// Bytes of the text that were read.
    pub consumed: usize,
}

/// Whether an interrupt ends the compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruptible {
    Yes,
    No,
}

/// How often a statement that nobody may interrupt is compiled again. An interrupt is over once nothing runs, so twice
/// would do but for one who interrupts all the time.
const TRIES: usize = 8;

/// A prepared statement; it keeps its connection open.
pub struct Statement {
    raw: *mut ffi::sqlite3_stmt,
    inner: Arc<Inner>,
    /// Outcome of the last check; none for statements of the node itself.
    checked: Option<Checked>,
    /// Whether it has yielded a row and not ended.
    is_running: bool,
    /// Texts and blobs that parameters are bound to: SQLite reads them where they are.
    bound: Vec<Bytes>,
}

// SAFETY: every call with `raw` is made while the connection is entered.
unsafe impl Send for Statement {}

impl std::fmt::Debug for Statement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Statement")
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        let entered = self.inner.enter();
        // SAFETY: the statement was not finalized before. This may commit, which the VFS sees like any other commit.
        unsafe { ffi::sqlite3_finalize(self.raw) };
        drop(entered);
        self.inner.settle();
    }
}

impl Statement {
    pub(crate) fn prepare(
        inner: &Arc<Inner>,
        sql: &[u8],
        lifetime: Lifetime,
        interruptible: Interruptible,
    ) -> Result<Prepared, SqlError> {
        let len = c_int::try_from(sql.len()).map_err(|_| SqlError::from_code(ffi::SQLITE_TOOBIG))?;
        if matches!(sql, [] | [0, ..]) {
            return Ok(Prepared { statement: None, consumed: sql.len() });
        }
        // Statements of the node itself are neither deep nor large, whatever the schema.
        let checked = match interruptible {
            Interruptible::Yes => Some(inner.check(sql)?),
            Interruptible::No => None,
        };
        let flags = match lifetime {
            Lifetime::Transient => 0,
            Lifetime::Persistent => ffi::SQLITE_PREPARE_PERSISTENT,
        };
        let checkpoint = surface::checkpoint_len(sql);
        let (start, len) = match checkpoint {
            Some(_) => (surface::CHECKPOINT_ANSWER.as_ptr(), -1),
            None => (sql.as_ptr().cast::<c_char>(), len),
        };
        let mut raw = std::ptr::null_mut();
        let mut tail = std::ptr::null();
        let entered = inner.enter();
        let call = (interruptible == Interruptible::Yes).then(|| inner.watch.begin());
        let mut compile = || {
            // SAFETY: the connection is entered; the text has `len` bytes; the results have places.
            unsafe { ffi::sqlite3_prepare_v3(entered.db, start, len, flags, &raw mut raw, &raw mut tail) }
        };
        let mut code = compile();
        if call.is_none() {
            for _ in 1..TRIES {
                if code != ffi::SQLITE_INTERRUPT {
                    break;
                }
                code = compile();
            }
        }
        if code != ffi::SQLITE_OK {
            // The authorizer refuses what was interrupted.
            let interrupted = call.is_some() && inner.watch.is_interrupted();
            let error = inner.explain(if interrupted { interruption() } else { entered.error(code) });
            drop(call);
            drop(entered);
            inner.settle();
            return Err(error);
        }
        drop(call);
        drop(entered);
        let consumed = if let Some(len) = checkpoint {
            len
        } else if tail.is_null() {
            sql.len()
        } else {
            // SAFETY: SQLite sets the tail to a place in the text or right behind it.
            usize::try_from(unsafe { tail.offset_from(start) }).map_or(sql.len(), |len| len.min(sql.len()))
        };
        let statement = (!raw.is_null()).then(|| Self {
            raw,
            inner: Arc::clone(inner),
            checked,
            is_running: false,
            bound: Vec::new(),
        });
        Ok(Prepared { statement, consumed })
    }

    fn check(&self, call: impl FnOnce(*mut ffi::sqlite3_stmt) -> c_int) -> Result<(), SqlError> {
        let entered = self.inner.enter();
        match call(self.raw) {
            ffi::SQLITE_OK => Ok(()),
            code => Err(entered.error(code)),
        }
    }

    /// Whether the statement cannot change the database by itself. BEGIN, COMMIT and the like count as such.
    #[must_use]
    pub fn readonly(&self) -> bool {
        let _entered = self.inner.enter();
        // SAFETY: the statement is alive and its connection entered.
        unsafe { ffi::sqlite3_stmt_readonly(self.raw) != 0 }
    }

    /// Whether the statement was stepped and neither ended nor was reset.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let _entered = self.inner.enter();
        // SAFETY: the statement is alive and its connection entered.
        unsafe { ffi::sqlite3_stmt_busy(self.raw) != 0 }
    }

    /// Number of the highest parameter.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let _entered = self.inner.enter();
        // SAFETY: the statement is alive and its connection entered.
        usize::try_from(unsafe { ffi::sqlite3_bind_parameter_count(self.raw) }).unwrap_or(0)
    }

    /// Number of columns in the result.
    #[must_use]
    pub fn column_count(&self) -> usize {
        let _entered = self.inner.enter();
        // SAFETY: the statement is alive and its connection entered.
        usize::try_from(unsafe { ffi::sqlite3_column_count(self.raw) }).unwrap_or(0)
    }

    /// Name of a column, counted from 0.
    #[must_use]
    pub fn column_name(&self, column: usize) -> &[u8] {
        let _entered = self.inner.enter();
        let column = c_int::try_from(column).unwrap_or(-1);
        // SAFETY: the statement is alive and its connection entered; SQLite checks the number.
        let name = unsafe { ffi::sqlite3_column_name(self.raw, column) };
        // SAFETY: null or a C string that stays until the statement is stepped again, which needs `&mut self`.
        if name.is_null() { &[] } else { unsafe { CStr::from_ptr(name) }.to_bytes() }
    }

    /// Declared type of a column, if it comes straight from a table.
    #[must_use]
    pub fn column_decltype(&self, column: usize) -> Option<&[u8]> {
        let _entered = self.inner.enter();
        let column = c_int::try_from(column).unwrap_or(-1);
        // SAFETY: the statement is alive and its connection entered; SQLite checks the number.
        let name = unsafe { ffi::sqlite3_column_decltype(self.raw, column) };
        // SAFETY: null or a C string that stays until the statement is stepped again, which needs `&mut self`.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_bytes())
    }

    /// Binds an integer. Parameters are counted from 1.
    ///
    /// # Errors
    /// `SQLITE_RANGE` for a parameter that is not there, like all other binds.
    pub fn bind_integer(&mut self, parameter: usize, value: i64) -> Result<(), SqlError> {
        let parameter = index(parameter)?;
        // SAFETY: the statement is alive and its connection entered.
        self.check(|raw| unsafe { ffi::sqlite3_bind_int64(raw, parameter, value) })
    }

    /// Binds a double.
    ///
    /// # Errors
    /// As [`bind_integer`](Self::bind_integer).
    pub fn bind_float(&mut self, parameter: usize, value: f64) -> Result<(), SqlError> {
        let parameter = index(parameter)?;
        // SAFETY: the statement is alive and its connection entered.
        self.check(|raw| unsafe { ffi::sqlite3_bind_double(raw, parameter, value) })
    }

    /// Binds text. It is not copied; the statement keeps it until [`clear_bindings`](Self::clear_bindings) between two runs.
    ///
    /// # Errors
    /// As [`bind_integer`](Self::bind_integer).
    pub fn bind_text(&mut self, parameter: usize, value: Bytes) -> Result<(), SqlError> {
        let parameter = index(parameter)?;
        let encoding = u8::try_from(ffi::SQLITE_UTF8).expect("the constant is 1");
        let (start, len) = self.keep(value);
        // SAFETY: the statement is alive and its connection entered; the text stays as long as SQLite may read it.
        self.check(|raw| unsafe {
            ffi::sqlite3_bind_text64(raw, parameter, start.cast(), len, ffi::SQLITE_STATIC(), encoding)
        })
    }

    /// Binds bytes. They are not copied; the statement keeps them until [`clear_bindings`](Self::clear_bindings) between two
    /// runs.
    ///
    /// # Errors
    /// As [`bind_integer`](Self::bind_integer).
    pub fn bind_blob(&mut self, parameter: usize, value: Bytes) -> Result<(), SqlError> {
        let parameter = index(parameter)?;
        let (start, len) = self.keep(value);
        // SAFETY: as for text. The pointer of no bytes is not null, so it binds an empty blob.
        self.check(|raw| unsafe {
            ffi::sqlite3_bind_blob64(raw, parameter, start.cast(), len, ffi::SQLITE_STATIC())
        })
    }

    /// Keeps a value for SQLite; gives its place, which moving the handle does not change, and its length.
    fn keep(&mut self, value: Bytes) -> (*const u8, u64) {
        let place = (value.as_ptr(), value.len() as u64);
        self.bound.push(value);
        place
    }

    /// Binds NULL.
    ///
    /// # Errors
    /// As [`bind_integer`](Self::bind_integer).
    pub fn bind_null(&mut self, parameter: usize) -> Result<(), SqlError> {
        let parameter = index(parameter)?;
        // SAFETY: the statement is alive and its connection entered.
        self.check(|raw| unsafe { ffi::sqlite3_bind_null(raw, parameter) })
    }

    /// Makes all parameters NULL.
    pub fn clear_bindings(&mut self) {
        let entered = self.inner.enter();
        // SAFETY: the statement is alive and its connection entered.
        unsafe { ffi::sqlite3_clear_bindings(self.raw) };
        drop(entered);
        // The row that a running statement is at, and the rest of its run, may use what was bound.
        if !self.is_busy() {
            self.bound.clear();
        }
    }

    /// Runs to the next row or the end.
    ///
    /// # Errors
    /// SQLite's, among them the code of a [`Veto`](crate::Veto).
    pub fn step(&mut self) -> Result<Step, SqlError> {
        if !self.is_running {
            self.check_again()?;
        }
        let entered = self.inner.enter();
        let call = self.inner.watch.begin();
        // SAFETY: the statement is alive and its connection entered.
        let result = match unsafe { ffi::sqlite3_step(self.raw) } {
            ffi::SQLITE_ROW => Ok(Step::Row),
            ffi::SQLITE_DONE => Ok(Step::Done),
            // A step compiles again what the schema has changed under, where the authorizer refuses what was interrupted.
            ffi::SQLITE_AUTH if self.inner.watch.is_interrupted() => Err(self.inner.explain(interruption())),
            code => Err(self.inner.explain(entered.error(code))),
        };
        drop(call);
        drop(entered);
        self.is_running = matches!(result, Ok(Step::Row));
        if let Some(Checked { effect, .. }) = self.checked
            && effect != Effect::None
        {
            self.inner.changed(effect);
        }
        self.inner.settle();
        result
    }

    /// SQLite compiles a statement again when the schema has changed.
    fn check_again(&mut self) -> Result<(), SqlError> {
        let Some(Checked { version, effect }) = self.checked else { return Ok(()) };
        if version == self.inner.schema_version() && effect == Effect::None {
            return Ok(());
        }
        let entered = self.inner.enter();
        // SAFETY: the statement is alive and its connection entered.
        let sql = unsafe { ffi::sqlite3_sql(self.raw) };
        drop(entered);
        if !sql.is_null() {
            // SAFETY: a C string that stays as long as the statement.
            let sql = unsafe { CStr::from_ptr(sql) }.to_bytes();
            self.checked = Some(self.inner.check(sql)?);
        }
        Ok(())
    }

    /// Ends the run, which commits what a statement with unread rows has changed. Bindings stay.
    ///
    /// # Errors
    /// The error of the last step again, or that of the commit.
    pub fn reset(&mut self) -> Result<(), SqlError> {
        // SAFETY: the statement is alive and its connection entered.
        let result = self.check(|raw| unsafe { ffi::sqlite3_reset(raw) });
        self.is_running = false;
        self.inner.settle();
        result
    }

    /// Value of a column of the current row, counted from 0; NULL where there is none.
    #[must_use]
    pub fn column(&self, column: usize) -> ColumnValue<'_> {
        let _entered = self.inner.enter();
        let column = c_int::try_from(column).unwrap_or(-1);
        // SAFETY: the statement is alive and its connection entered; SQLite checks the number.
        match unsafe { ffi::sqlite3_column_type(self.raw, column) } {
            ffi::SQLITE_INTEGER => {
                // SAFETY: as above.
                ColumnValue::Integer(unsafe { ffi::sqlite3_column_int64(self.raw, column) })
            }
            // SAFETY: as above.
            ffi::SQLITE_FLOAT => ColumnValue::Float(unsafe { ffi::sqlite3_column_double(self.raw, column) }),
            ffi::SQLITE_TEXT => {
                // SAFETY: as above. A value that is text already is converted at most once, at the first call.
                let start = unsafe { ffi::sqlite3_column_text(self.raw, column) };
                // SAFETY: `start` is what SQLite returned for this column just now.
                ColumnValue::Text(unsafe { self.bytes(start, column) })
            }
            ffi::SQLITE_BLOB => {
                // SAFETY: as above.
                let start = unsafe { ffi::sqlite3_column_blob(self.raw, column) };
                // SAFETY: `start` is what SQLite returned for this column just now.
                ColumnValue::Blob(unsafe { self.bytes(start.cast(), column) })
            }
            _ => ColumnValue::Null,
        }
    }

    /// The bytes of a text or blob.
    ///
    /// # Safety
    /// `start` is SQLite's pointer for the value of this column; the connection is entered.
    unsafe fn bytes(&self, start: *const u8, column: c_int) -> &[u8] {
        if start.is_null() {
            return &[];
        }
        // SAFETY: by contract.
        let len = usize::try_from(unsafe { ffi::sqlite3_column_bytes(self.raw, column) }).unwrap_or(0);
        // SAFETY: the value has that length and stays until the next step or reset, which need `&mut self`.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

fn interruption() -> SqlError {
    SqlError { code: ffi::SQLITE_INTERRUPT, message: "interrupted".into() }
}

fn index(parameter: usize) -> Result<c_int, SqlError> {
    c_int::try_from(parameter)
        .map_err(|_| SqlError { code: ffi::SQLITE_RANGE, message: "column index out of range".into() })
}
