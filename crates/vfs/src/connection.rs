//! Connections.
//!
//! SQLite's own mutexes are off for our connections. A mutex of ours is held during each call instead, so that a
//! connection and its statements can be sent to other threads; interrupts go around it.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use crate::authorizer;
use crate::database::Database;
use crate::error::{SqlError, Veto, message_of};
use crate::functions;
use crate::handle::Handle;
use crate::limits;
use crate::name::DatabaseName;
use crate::page::Position;
use crate::register::Registration;
use crate::schema_check::Known;
use crate::shim;
use crate::statement::{Interruptible, Prepared, Statement};
use crate::turns;
use crate::view::ReaderId;
use crate::watch::Watch;

/// What of a longer message of SQLite is passed on, bytes.
const MAX_MESSAGE_LEN: usize = 64 * 1024;

/// What a connection holds of the main database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// Nothing.
    None,
    /// A snapshot.
    Read,
    /// The WRITE lock.
    Write,
}

/// How long a statement is going to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Run once.
    Transient,
    /// Kept and run many times.
    Persistent,
}

/// Stops what a connection is doing, from any thread and at any time.
#[derive(Clone)]
pub struct InterruptHandle(Arc<Watch>);

impl InterruptHandle {
    /// Makes the running statements of the connection, and one that is being compiled, fail with `SQLITE_INTERRUPT`. Does
    /// nothing after it was closed.
    pub fn interrupt(&self) {
        self.0.interrupt();
    }
}

impl std::fmt::Debug for InterruptHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("InterruptHandle")
    }
}

/// What a connection and its statements share.
pub(crate) struct Inner {
    db: *mut ffi::sqlite3,
    handle: Option<Arc<Handle>>,
    calls: Mutex<()>,
    /// What SQLite's callbacks for this connection use; it lives until the connection is closed.
    pub(crate) watch: Arc<Watch>,
    pub(crate) known: Mutex<Known>,
    /// Changes of the schema by this connection, as far as statements have to be checked again for them.
    pub(crate) schema_changes: AtomicU32,
    /// Whether it has changed the schema in a transaction that may still be open.
    pub(crate) has_changed: AtomicBool,
    /// Whether it may have temporary views and triggers, or an attached database.
    pub(crate) has_others: AtomicBool,
    /// Keeps the VFS registered.
    pub(crate) registration: Arc<Registration>,
}

// SAFETY: `db` is used only while `calls` is held, see `enter`.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// The right to call SQLite with a connection.
pub(crate) struct Entered<'a> {
    pub(crate) db: *mut ffi::sqlite3,
    _calls: MutexGuard<'a, ()>,
}

impl Inner {
    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered { db: self.db, _calls: self.calls.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        self.handle.as_ref().expect("set before the connection is given out")
    }

    /// Says more of the error of a transaction whose view was taken; SQLite's words for it would mislead. They stay in
    /// front, since clients look for them to see that a transaction is worth another try.
    pub(crate) fn explain(&self, mut error: SqlError) -> SqlError {
        if error.code == ffi::SQLITE_BUSY_SNAPSHOT && self.handle().view.is_taken() {
            error.message =
                "database is locked: this read transaction was ended because it kept too much memory; \
                             roll back and begin again"
                    .to_owned();
        }
        error
    }
}

impl Entered<'_> {
    /// The error of the call that just returned `code`.
    pub(crate) fn error(&self, code: c_int) -> SqlError {
        if let Some(message) = message_of(code) {
            return SqlError { code, message: message.to_owned() };
        }
        // SAFETY: the connection is open and entered.
        let message = unsafe { ffi::sqlite3_errmsg(self.db) };
        let message = if message.is_null() {
            String::new()
        } else {
            // SAFETY: SQLite returns a C string that stays until the next call.
            let message = unsafe { CStr::from_ptr(message) }.to_bytes();
            // It repeats what the client wrote, of any length: a word of 100 MB, say.
            String::from_utf8_lossy(&message[..message.len().min(MAX_MESSAGE_LEN)]).into_owned()
        };
        SqlError { code, message }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watch.close();
        let close = || {
            // SAFETY: nobody else has the connection any more; all statements were finalized before, they keep `self` alive.
            unsafe { ffi::sqlite3_close(self.db) };
        };
        turns::call(close);
    }
}

/// A connection to one generation of a database. One thread at a time can use it.
pub struct Connection {
    inner: Arc<Inner>,
    /// Takes `Sync` away: the methods are made for an owner.
    _not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("database", self.database().name())
            .field("generation", &self.generation())
            .finish()
    }
}

impl Connection {
    pub(crate) fn open(registration: &Arc<Registration>, name: &DatabaseName) -> Result<Self, SqlError> {
        Self::open_with(registration, name, ffi::SQLITE_OPEN_CREATE)
    }

    /// As [`open`](Self::open), but makes no database: without one the code is `SQLITE_CANTOPEN`.
    pub(crate) fn open_existing(
        registration: &Arc<Registration>,
        name: &DatabaseName,
    ) -> Result<Self, SqlError> {
        Self::open_with(registration, name, 0)
    }

    fn open_with(
        registration: &Arc<Registration>,
        name: &DatabaseName,
        create: c_int,
    ) -> Result<Self, SqlError> {
        // A name from the log can be one that SQLite does not pass on to the VFS as it is.
        DatabaseName::new(name.as_bytes())
            .map_err(|error| SqlError { code: ffi::SQLITE_CANTOPEN, message: error.to_string() })?;
        let mut db = std::ptr::null_mut();
        // A host may have turned the shared cache on; connections that share one would share a handle and its locks.
        let flags = ffi::SQLITE_OPEN_READWRITE
            | create
            | ffi::SQLITE_OPEN_NOMUTEX
            | ffi::SQLITE_OPEN_PRIVATECACHE
            | ffi::SQLITE_OPEN_EXRESCODE;
        // SAFETY: C strings, and a place for the result.
        let code = unsafe {
            ffi::sqlite3_open_v2(name.as_c_str().as_ptr(), &raw mut db, flags, registration.name.as_ptr())
        };
        if db.is_null() {
            return Err(SqlError::from_code(ffi::SQLITE_NOMEM));
        }
        let mut inner = Inner {
            db,
            handle: None,
            calls: Mutex::new(()),
            watch: Watch::new(db, Arc::clone(&registration.shared.settings)),
            known: Mutex::default(),
            schema_changes: AtomicU32::new(0),
            has_changed: AtomicBool::new(false),
            has_others: AtomicBool::new(false),
            registration: Arc::clone(registration),
        };
        if code != ffi::SQLITE_OK {
            return Err(inner.enter().error(code));
        }
        let handle = configure(&inner.enter(), &inner.watch)?;
        inner.handle = Some(handle);
        Ok(Self { inner: Arc::new(inner), _not_sync: std::marker::PhantomData })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The database, whichever generation is current by now.
    #[must_use]
    pub fn database(&self) -> &Arc<Database> {
        &self.inner.handle().database
    }

    /// The generation this connection belongs to for life.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.handle().generation.id
    }

    /// Whether the generation of this connection is over, so that it should be closed.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        // One after the other: whoever holds both mutexes takes the database's first.
        let fenced = self.inner.handle().generation.lock().fenced;
        fenced || self.generation() != self.database().generation()
    }

    /// Position that must be committed before anything this connection computed may be told to a client: the newest
    /// snapshot it read from and the newest transaction it committed.
    #[must_use]
    pub fn gate(&self) -> Position {
        Position(self.inner.handle().gate())
    }

    /// Bytes that SQLite keeps for this connection: cached pages, temporary tables that lie in memory among them, schema
    /// and statements. Takes time by the number of statements.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let entered = self.inner.enter();
        let counters = [
            ffi::SQLITE_DBSTATUS_CACHE_USED,
            ffi::SQLITE_DBSTATUS_SCHEMA_USED,
            ffi::SQLITE_DBSTATUS_STMT_USED,
        ];
        let mut sum = 0;
        for counter in counters {
            let (mut now, mut highest) = (0, 0);
            // SAFETY: the connection is open and entered; the results have places.
            unsafe { ffi::sqlite3_db_status(entered.db, counter, &raw mut now, &raw mut highest, 0) };
            sum += u64::try_from(now).unwrap_or(0);
        }
        sum
    }

    /// Names this connection in [`Database::reader_holds`].
    #[must_use]
    pub fn reader(&self) -> ReaderId {
        self.inner.handle().view.id
    }

    /// Compiles the first statement of `sql`. SQLite copies a text that does not end with a NUL byte, all of it for each
    /// statement; one that does is read where it is. The text ends at its first NUL byte.
    ///
    /// # Errors
    /// SQLite's.
    pub fn prepare(&mut self, sql: &[u8]) -> Result<Prepared, SqlError> {
        self.prepare_with(sql, Lifetime::Transient)
    }

    /// Compiles the first statement of `sql` for a given use.
    ///
    /// # Errors
    /// SQLite's.
    pub fn prepare_with(&mut self, sql: &[u8], lifetime: Lifetime) -> Result<Prepared, SqlError> {
        Statement::prepare(&self.inner, sql, lifetime, Interruptible::Yes)
    }

    /// Whether a transaction is open, that is autocommit is off.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        let entered = self.inner.enter();
        // SAFETY: the connection is open and entered.
        unsafe { ffi::sqlite3_get_autocommit(entered.db) == 0 }
    }

    /// State of the main database's transaction. Temporary tables do not count.
    #[must_use]
    pub fn transaction_state(&self) -> TransactionState {
        let entered = self.inner.enter();
        // SAFETY: the connection is open and entered, the name is a C string.
        match unsafe { ffi::sqlite3_txn_state(entered.db, c"main".as_ptr()) } {
            ffi::SQLITE_TXN_WRITE => TransactionState::Write,
            ffi::SQLITE_TXN_READ => TransactionState::Read,
            _ => TransactionState::None,
        }
    }

    /// A way to interrupt this connection from elsewhere.
    #[must_use]
    pub fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle(Arc::clone(&self.inner.watch))
    }

    /// Row id of the last insert.
    #[must_use]
    pub fn last_insert_rowid(&self) -> i64 {
        let entered = self.inner.enter();
        // SAFETY: the connection is open and entered.
        unsafe { ffi::sqlite3_last_insert_rowid(entered.db) }
    }

    /// Rows changed by the last statement that changed any.
    #[must_use]
    pub fn changes(&self) -> i64 {
        let entered = self.inner.enter();
        // SAFETY: the connection is open and entered.
        unsafe { ffi::sqlite3_changes64(entered.db) }
    }

    /// Refuses commits of this connection with the code of the veto until [`clear_veto`](Self::clear_veto).
    pub fn refuse_next_commit(&self, veto: Veto) {
        self.inner.handle().set_veto(Some(veto));
    }

    /// Lets commits pass again.
    pub fn clear_veto(&self) {
        self.inner.handle().set_veto(None);
    }

    /// Runs all statements of `sql` and drops their rows. For statements of the node itself, such as ROLLBACK, which an
    /// interrupt of what came before does not end while they are compiled.
    ///
    /// # Errors
    /// SQLite's; later statements are not run.
    pub fn exec_simple(&mut self, sql: &[u8]) -> Result<(), SqlError> {
        let mut rest = sql;
        while !rest.is_empty() {
            let prepared = Statement::prepare(&self.inner, rest, Lifetime::Transient, Interruptible::No)?;
            if let Some(mut statement) = prepared.statement {
                while statement.step()? == crate::Step::Row {}
            }
            rest = &rest[prepared.consumed.clamp(1, rest.len())..];
        }
        Ok(())
    }
}

impl Inner {
    /// After a step: gives back a lock that waits for the outcome of a transaction which did not commit, and ends what
    /// is left of one that was refused.
    pub(crate) fn settle(&self) {
        let handle = self.handle();
        if handle.take_refused() {
            let entered = self.enter();
            // The changes are rolled back, but if it was a RELEASE that failed to commit, SQLite goes on as if the savepoint
            // were still open. What followed would then be committed without what came before.
            // SAFETY: the connection is open and entered.
            if unsafe { ffi::sqlite3_get_autocommit(entered.db) } == 0 {
                let (sql, none) = (c"ROLLBACK".as_ptr(), std::ptr::null_mut());
                // SAFETY: a C string and no callback. A transaction is open, so it can be rolled back.
                unsafe { ffi::sqlite3_exec(entered.db, sql, None, none, std::ptr::null_mut()) };
            }
        }
        if handle.delete() == crate::handle::DeleteRequest::Undecided {
            handle.generation.settle(&mut handle.generation.lock(), handle);
        }
    }
}

/// Sets up a new connection and finds its handle.
fn configure(entered: &Entered<'_>, watch: &Watch) -> Result<Arc<Handle>, SqlError> {
    let check = |code: c_int| if code == ffi::SQLITE_OK { Ok(()) } else { Err(entered.error(code)) };
    let run = |sql: &CStr| {
        let none = std::ptr::null_mut();
        // SAFETY: a C string and no callback.
        check(unsafe { ffi::sqlite3_exec(entered.db, sql.as_ptr(), None, none, std::ptr::null_mut()) })
    };
    // Only effective after open has returned: SQLite sets its default at the end of it.
    // SAFETY: the connection is open and entered.
    check(unsafe { ffi::sqlite3_wal_autocheckpoint(entered.db, 0) })?;
    limits::install(entered);
    // Defensive: SQL cannot damage the database file. Trusted schema, strings in double quotes and the legacy switches stay
    // as C leaves them, since schemas of today may need them.
    for (option, value) in [
        (ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1),
        (ffi::SQLITE_DBCONFIG_ENABLE_FKEY, 1),
        (ffi::SQLITE_DBCONFIG_DEFENSIVE, 1),
        (ffi::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
        (ffi::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
    ] {
        // SAFETY: these options take an int and a place for the new value, which may be null.
        check(unsafe { ffi::sqlite3_db_config(entered.db, option, value, std::ptr::null_mut::<c_int>()) })?;
    }
    // With any size but 0 SQLite asks for pages where they lie before it reads them into a cache of the connection. No
    // file is mapped, and how large the database is does not matter.
    run(c"PRAGMA main.mmap_size=1073741824")?;
    // This reads the schema, so it also opens the WAL: later nothing has to be found by name. A damaged schema opens it too,
    // and lets in whoever comes to look at the damage; the setting itself only spares calls of xSync, which does nothing.
    match run(c"PRAGMA synchronous=OFF") {
        Err(error) if !matches!(error.code & 0xff, ffi::SQLITE_CORRUPT | ffi::SQLITE_ERROR) => {
            return Err(error);
        }
        _ => {}
    }
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    let place: *mut c_void = (&raw mut file).cast();
    // SAFETY: this opcode writes a file pointer to the place given.
    check(unsafe {
        ffi::sqlite3_file_control(entered.db, c"main".as_ptr(), ffi::SQLITE_FCNTL_FILE_POINTER, place)
    })?;
    // SAFETY: SQLite's pointer to the open main file.
    let handle = unsafe { shim::main_handle(file) }.ok_or_else(|| SqlError {
        code: ffi::SQLITE_CANTOPEN,
        message: "not a database of this vfs".into(),
    })?;
    // SAFETY: the connection is open and entered; what the callbacks use belongs to it.
    check(unsafe { functions::install(entered.db, watch) })?;
    // SAFETY: as above.
    unsafe { watch.install(entered.db) };
    // SAFETY: as above.
    unsafe { authorizer::install(entered.db, watch) };
    Ok(handle)
}
