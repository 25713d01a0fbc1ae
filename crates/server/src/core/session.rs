//! One client's SQLite connection with its statements, and the request it is running.
//!
//! A session lives in the core between jobs and with whoever runs one during a job. It encodes replies
//! itself, so that rows are copied once, from SQLite into the bytes the socket sends. It knows nothing of gates,
//! lanes or leadership: it says that it needs the writer lane and what it has seen, the core does the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::{Bytes, BytesMut};
use vfs::{
    Connection, DatabaseName, InterruptHandle, Position, SqlError, Statement, Step, TransactionState, Veto,
    Vfs,
};
use wire_protocol::{Params, PrepareSchema, Response, RowsEncoder, RowsEnd};

use super::job::{Outcome, Work};
use super::limits;
use super::rows::{ColumnKind, RowError, encode_row};
use super::statements::{Statements, bind_parameters};

/// With less room than this a reply begins a new block. More would be lost to those that a client does not read.
const SHORT_REPLY_LEN: usize = 256;
const SQLITE_ERROR: i32 = 1;
const SQLITE_NOMEM: i32 = 7;
const SQLITE_INTERRUPT: i32 = 9;
const SQLITE_TOOBIG: i32 = 18;

/// Values of [`CancelHandle`]'s flag.
const RUNS: u8 = 0;
const CANCELLED: u8 = 1;
const OUT_OF_MEMORY: u8 = 2;

/// Stops the request a session is running, from any thread.
#[derive(Clone, Debug)]
pub(super) struct CancelHandle {
    cancelled: Arc<AtomicU8>,
    interrupt: InterruptHandle,
}

impl CancelHandle {
    /// Stops the running request. SQLite forgets an interrupt that comes between two statements, the flag does not.
    pub(super) fn cancel(&self) {
        self.cancelled.store(CANCELLED, Ordering::SeqCst);
        self.interrupt.interrupt();
    }

    /// Stops the running request because of what it holds; its answer says so.
    pub(super) fn cancel_for_memory(&self) {
        self.cancelled.store(OUT_OF_MEMORY, Ordering::SeqCst);
        self.interrupt.interrupt();
    }

    fn is_out_of_memory(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst) == OUT_OF_MEMORY
    }

    /// Called by the core before it starts the next request.
    pub(super) fn rearm(&self) {
        self.cancelled.store(RUNS, Ordering::SeqCst);
    }

    /// For an interrupt that SQLite may have forgotten.
    pub(super) fn interrupt_if_cancelled(&self) {
        if self.is_cancelled() {
            self.interrupt.interrupt();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst) != RUNS
    }
}

/// A connection, its kept statements and its current request.
#[derive(Debug)]
pub(super) struct Session {
    // Statements go first when the session is dropped.
    current: Option<Current>,
    statements: Statements,
    connection: Connection,
    cancel: CancelHandle,
    /// Where the next reply is written: behind the last ones, in a block that is used again when the socket has taken them.
    reply: BytesMut,
    /// Longest row, and longest sum of rows held back, bytes.
    max_reply_len: usize,
    /// Jobs until the memory of the connection is looked at again.
    jobs_until_look: usize,
}

/// The request being run.
#[derive(Debug)]
struct Current {
    kind: Kind,
    /// The statement being run, taken out of the table if it is a kept one.
    statement: Option<Statement>,
    /// Its place in the table.
    kept: Option<u32>,
    params: Params,
    /// Whether the statement has been bound and stepped.
    started: bool,
}

#[derive(Debug)]
enum Kind {
    /// One kept statement, no rows.
    Exec,
    /// A text of any number of statements, no rows; `offset` is where the next one starts.
    ExecText { sql: Bytes, offset: usize },
    /// One statement, rows.
    Query,
}

impl Session {
    /// Opens a connection to the named database.
    pub(super) fn open(vfs: &Vfs, name: &DatabaseName, max_reply_len: usize) -> Result<Self, SqlError> {
        let connection = vfs.open(name)?;
        let cancel = CancelHandle {
            cancelled: Arc::new(AtomicU8::new(RUNS)),
            interrupt: connection.interrupt_handle(),
        };
        Ok(Self {
            current: None,
            statements: Statements::default(),
            connection,
            cancel,
            reply: BytesMut::new(),
            max_reply_len,
            jobs_until_look: 0,
        })
    }

    /// Bytes that SQLite keeps for this session, if it is time to look: not so often that it would cost much.
    pub(super) fn take_memory_bytes(&mut self) -> Option<u64> {
        if self.jobs_until_look > 0 {
            self.jobs_until_look -= 1;
            return None;
        }
        self.jobs_until_look = limits::JOBS_BETWEEN_LOOKS + self.statements.len();
        Some(self.connection.memory_bytes())
    }

    /// Whether the current request was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Not zero while the current request is cancelled.
    pub(super) fn cancelled_flag(&self) -> Arc<AtomicU8> {
        Arc::clone(&self.cancel.cancelled)
    }

    pub(super) fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// The database this session is connected to.
    pub(super) fn database_name(&self) -> DatabaseName {
        self.connection.database().name().clone()
    }

    /// Newest position this session has read from or written to.
    pub(super) fn gate(&self) -> Position {
        self.connection.gate()
    }

    /// Generation of the database this session is bound to for life.
    pub(super) fn generation(&self) -> u64 {
        self.connection.generation()
    }

    pub(super) fn transaction_state(&self) -> TransactionState {
        self.connection.transaction_state()
    }

    /// Whether a transaction was begun that ends with a statement of its own.
    pub(super) fn in_transaction(&self) -> bool {
        self.connection.in_transaction()
    }

    /// Runs one job. Without `may_write` it stops with [`Outcome::NeedsWriter`] before a statement that writes.
    pub(super) fn run(&mut self, work: Work, may_write: bool) -> Outcome {
        match work {
            Work::Prepare { database, sql, schema } => self.prepare(database, &sql, schema),
            Work::Exec { statement, params } => self.start_kept(Kind::Exec, statement, params, may_write),
            Work::Query { statement, params } => self.start_kept(Kind::Query, statement, params, may_write),
            Work::ExecSql { sql, params } => {
                let kind = Kind::ExecText { sql, offset: 0 };
                self.current = Some(Current { kind, statement: None, kept: None, params, started: false });
                self.go_on(may_write)
            }
            Work::QuerySql { sql, params } => match self.prepare_only(&sql) {
                Ok(statement) => {
                    let kind = Kind::Query;
                    let statement = Some(statement);
                    self.current = Some(Current { kind, statement, kept: None, params, started: false });
                    self.go_on(may_write)
                }
                Err(error) => self.failed(&error, true),
            },
            Work::Continue => self.go_on(may_write),
            Work::Abandon => {
                self.end_current();
                Outcome::Cancelled
            }
            Work::Rollback => {
                // It fails if SQLite has rolled back by itself; then nothing is left to do.
                let _ = self.connection.exec_simple(b"ROLLBACK");
                Outcome::Cancelled
            }
            Work::Finalize { statement } => {
                self.statements.remove(statement);
                complete(encode(&Response::Empty))
            }
            // Handled before a session is involved.
            Work::Open { .. } | Work::Close => Outcome::Closed,
        }
    }

    fn prepare(&mut self, database: u32, sql: &[u8], schema: PrepareSchema) -> Outcome {
        if self.statements.len() >= limits::MAX_STATEMENTS {
            return complete(failure(&error(
                SQLITE_NOMEM,
                "too many prepared statements on this connection",
            )));
        }
        let prepared = match self.check_cancelled().and_then(|()| self.connection.prepare(sql)) {
            Ok(prepared) => prepared,
            Err(error) => return complete(failure(&error)),
        };
        let Some(statement) = prepared.statement else {
            return complete(failure(&empty_statement()));
        };
        if schema == PrepareSchema::V0 && !self.rest_is_blank(sql, prepared.consumed) {
            return complete(failure(&nonempty_tail()));
        }
        let readonly = statement.readonly();
        let params = statement.parameter_count() as u64;
        let id = self.statements.insert(statement);
        let offset = match schema {
            PrepareSchema::V0 => None,
            PrepareSchema::V1 => Some(prepared.consumed as u64),
        };
        let reply = encode(&Response::Statement { database, statement: id, params, offset });
        Outcome::Prepared { reply, statement: id, readonly }
    }

    /// Compiles a text that must hold exactly one statement.
    fn prepare_only(&mut self, sql: &[u8]) -> Result<Statement, SqlError> {
        self.check_cancelled()?;
        let prepared = self.connection.prepare(sql)?;
        let statement = prepared.statement.ok_or_else(empty_statement)?;
        if self.rest_is_blank(sql, prepared.consumed) { Ok(statement) } else { Err(nonempty_tail()) }
    }

    /// Whether only blanks, comments and semicolons follow.
    fn rest_is_blank(&mut self, sql: &[u8], consumed: usize) -> bool {
        let rest = sql.get(consumed..).unwrap_or_default();
        if rest.iter().all(|byte| byte.is_ascii_whitespace() || *byte == b';') {
            return true;
        }
        matches!(self.connection.prepare(rest), Ok(prepared) if prepared.statement.is_none())
    }

    fn start_kept(&mut self, kind: Kind, id: u32, params: Params, may_write: bool) -> Outcome {
        let Some(statement) = self.statements.take(id) else {
            return complete(encode(&Response::Failure {
                code: 12,
                message: Bytes::from_static(b"no statement with the given id"),
            }));
        };
        let statement = Some(statement);
        self.current = Some(Current { kind, statement, kept: Some(id), params, started: false });
        self.go_on(may_write)
    }

    fn go_on(&mut self, may_write: bool) -> Outcome {
        let Some(mut current) = self.current.take() else {
            return Outcome::Cancelled;
        };
        let outcome = match current.kind {
            Kind::Exec => self.exec_statement(&mut current, may_write),
            Kind::ExecText { .. } => self.exec_text(&mut current, may_write),
            Kind::Query => self.query(&mut current, may_write),
        };
        self.current = Some(current);
        match outcome {
            Ok(outcome @ (Outcome::NeedsWriter | Outcome::Rows { .. })) => outcome,
            Ok(outcome) => {
                self.end_current();
                outcome
            }
            Err(error) => {
                let query = matches!(self.current.as_ref().map(|current| &current.kind), Some(Kind::Query));
                self.end_current();
                self.failed(&error, query)
            }
        }
    }

    /// What a request that failed is answered with.
    fn failed(&self, error: &SqlError, query: bool) -> Outcome {
        if error.code == SQLITE_INTERRUPT && self.cancel.is_out_of_memory() {
            complete(failure(&out_of_memory(
                "this statement ran longest while the node ran out of memory for clients (LIBDQLITE_CLIENT_MEMORY)",
            )))
        } else if query && error.code == SQLITE_INTERRUPT && self.cancel.is_cancelled() {
            Outcome::Cancelled
        } else {
            complete(failure(error))
        }
    }

    /// Resets the current statement and puts a kept one back.
    fn end_current(&mut self) {
        let Some(current) = self.current.take() else { return };
        let Some(mut statement) = current.statement else { return };
        // The error of a reset is that of the last step, which has been reported.
        let _ = statement.reset();
        statement.clear_bindings();
        if let Some(id) = current.kept {
            self.statements.put_back(id, statement);
        }
    }

    fn check_cancelled(&self) -> Result<(), SqlError> {
        if self.cancel.is_cancelled() { Err(error(SQLITE_INTERRUPT, "interrupted")) } else { Ok(()) }
    }

    fn result(&mut self) -> Outcome {
        let response = Response::Result {
            last_insert_id: self.connection.last_insert_rowid().cast_unsigned(),
            rows_affected: self.connection.changes().cast_unsigned(),
        };
        let mut out = self.reply_buffer();
        response.encode(&mut out);
        complete(self.finished(out))
    }

    /// An empty buffer for a reply.
    fn reply_buffer(&mut self) -> BytesMut {
        let mut out = std::mem::take(&mut self.reply);
        if out.capacity() < SHORT_REPLY_LEN {
            out.reserve(limits::REPLY_BUFFER_LEN);
        }
        out
    }

    /// The reply; a long one takes its memory with it.
    fn finished(&mut self, mut out: BytesMut) -> Bytes {
        let reply = out.split().freeze();
        if reply.len() <= limits::REPLY_BUFFER_LEN {
            self.reply = out;
        }
        reply
    }

    fn exec_statement(&mut self, current: &mut Current, may_write: bool) -> Result<Outcome, SqlError> {
        let statement = current.statement.as_mut().expect("a kept statement is set at start");
        if !statement.readonly() && !may_write {
            return Ok(Outcome::NeedsWriter);
        }
        self.check_cancelled()?;
        bind_parameters(statement, &mut current.params)?;
        self.step_without_rows(statement)?;
        Ok(self.result())
    }

    fn exec_text(&mut self, current: &mut Current, may_write: bool) -> Result<Outcome, SqlError> {
        let Kind::ExecText { sql, offset } = &mut current.kind else {
            unreachable!("called for this kind only");
        };
        loop {
            if current.statement.is_none() {
                let rest = sql.get(*offset..).unwrap_or_default();
                if rest.is_empty() {
                    return Ok(self.result());
                }
                let prepared = self.connection.prepare(rest)?;
                *offset += prepared.consumed;
                if *offset < sql.len() && sql.last() != Some(&0) {
                    // SQLite copies a text without a NUL byte at its end, all that is left of it for each statement.
                    let mut rest = Vec::with_capacity(sql.len() - *offset + 1);
                    rest.extend_from_slice(&sql[*offset..]);
                    rest.push(0);
                    (*sql, *offset) = (rest.into(), 0);
                }
                match prepared.statement {
                    Some(statement) => current.statement = Some(statement),
                    None => return Ok(self.result()),
                }
            }
            // Not before there is a statement to run: what has been run is not undone.
            self.check_cancelled()?;
            let statement = current.statement.as_mut().expect("prepared above");
            if !statement.readonly() && !may_write {
                return Ok(Outcome::NeedsWriter);
            }
            bind_parameters(statement, &mut current.params)?;
            self.step_without_rows(statement)?;
            current.statement = None;
        }
    }

    /// Runs a statement through EXEC. One that yields a row is refused, and what it wrote is undone: SQLite has
    /// carried out all changes of an `INSERT ... RETURNING` before it yields the first row.
    fn step_without_rows(&mut self, statement: &mut Statement) -> Result<(), SqlError> {
        let may_write_and_yield = !statement.readonly() && statement.column_count() > 0;
        let savepoint = may_write_and_yield && self.connection.in_transaction();
        if savepoint {
            self.connection.exec_simple(b"SAVEPOINT dqlite_exec")?;
        }
        let step = statement.step();
        if matches!(step, Ok(Step::Row)) && may_write_and_yield && !savepoint {
            self.connection.refuse_next_commit(Veto::Abort);
        }
        let reset = statement.reset();
        self.connection.clear_veto();
        let result = match step {
            Ok(Step::Done) => reset,
            Ok(Step::Row) => Err(error(SQLITE_ERROR, "rows yielded when none expected for EXEC request")),
            Err(error) => Err(error),
        };
        if savepoint && self.connection.in_transaction() {
            if result.is_err() {
                self.connection.exec_simple(b"ROLLBACK TO dqlite_exec")?;
            }
            self.connection.exec_simple(b"RELEASE dqlite_exec")?;
        }
        result
    }

    fn query(&mut self, current: &mut Current, may_write: bool) -> Result<Outcome, SqlError> {
        let statement = current.statement.as_mut().expect("a query has a statement from the start");
        let writes = !statement.readonly();
        if writes && !may_write {
            return Ok(Outcome::NeedsWriter);
        }
        self.check_cancelled()?;
        if !current.started {
            bind_parameters(statement, &mut current.params)?;
            if current.params.remaining() > 0 {
                return Err(error(SQLITE_ERROR, "bind parameters"));
            }
            current.started = true;
        }
        let mut out = self.reply_buffer();
        loop {
            let end = self.rows_message(statement, &mut out)?;
            match end {
                RowsEnd::Done => {
                    if writes {
                        // It is committed when its statement is reset, if it was not when it ended.
                        statement.reset()?;
                    }
                    return Ok(complete(self.finished(out)));
                }
                RowsEnd::Part if !writes => return Ok(Outcome::Rows { reply: self.finished(out) }),
                // The rows of a write must not leave before the write is committed, and it is not even
                // complete before its last row.
                RowsEnd::Part if out.len() > limits::MAX_RETURNING_LEN.min(self.max_reply_len) => {
                    self.undo(statement);
                    return Err(error(
                        SQLITE_TOOBIG,
                        "the rows returned by a writing statement exceed 64 MiB, or the memory for clients",
                    ));
                }
                RowsEnd::Part => self.check_cancelled().inspect_err(|_| self.undo(statement))?,
            }
        }
    }

    /// Takes back what a half-run writing statement has done.
    fn undo(&mut self, statement: &mut Statement) {
        let autocommit = !self.connection.in_transaction();
        if autocommit {
            self.connection.refuse_next_commit(Veto::Abort);
        }
        let _ = statement.reset();
        if autocommit {
            self.connection.clear_veto();
        } else {
            // No savepoint was set, so the transaction cannot go on with half a statement in it.
            let _ = self.connection.exec_simple(b"ROLLBACK");
        }
    }

    /// Appends one ROWS message. The column list is taken after the first step, which recompiles the statement
    /// if the schema has changed.
    fn rows_message(&self, statement: &mut Statement, out: &mut BytesMut) -> Result<RowsEnd, SqlError> {
        let mut step = statement.step()?;
        let columns = statement.column_count();
        let kinds: Vec<ColumnKind> =
            (0..columns).map(|column| ColumnKind::of(statement.column_decltype(column))).collect();
        let names = (0..columns).map(|column| statement.column_name(column));
        let mut rows =
            RowsEncoder::try_begin(out, names).map_err(|error| out_of_memory(&error.to_string()))?;
        loop {
            match step {
                Step::Done => {
                    rows.finish(RowsEnd::Done);
                    return Ok(RowsEnd::Done);
                }
                Step::Row => {
                    encode_row(&mut rows, statement, &kinds, self.max_reply_len).map_err(|refused| {
                        match refused {
                            RowError::TooLong(max_len) => {
                                error(SQLITE_TOOBIG, &format!("a row of the result exceeds {max_len} bytes"))
                            }
                            RowError::OutOfMemory(error) => out_of_memory(&error.to_string()),
                        }
                    })?;
                }
            }
            if rows.len() >= limits::ROWS_BATCH_LEN {
                rows.finish(RowsEnd::Part);
                return Ok(RowsEnd::Part);
            }
            self.check_cancelled()?;
            step = statement.step()?;
        }
    }
}

/// Encodes one response into bytes of its own.
pub(super) fn encode(response: &Response) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    response.encode(&mut out);
    out.freeze()
}

/// FAILURE with SQLite's code and message.
pub(super) fn failure(error: &SqlError) -> Bytes {
    encode(&Response::Failure {
        code: u64::from(error.code.cast_unsigned()),
        message: Bytes::copy_from_slice(error.message.as_bytes()),
    })
}

fn complete(reply: Bytes) -> Outcome {
    Outcome::Complete { reply }
}

fn error(code: i32, message: &str) -> SqlError {
    SqlError { code, message: message.to_owned() }
}

fn out_of_memory(reason: &str) -> SqlError {
    error(SQLITE_NOMEM, &format!("out of memory: {reason}"))
}

/// Code 0 is what dqlite has always sent here; go-dqlite reports it as a bad connection.
fn empty_statement() -> SqlError {
    error(0, "empty statement")
}

fn nonempty_tail() -> SqlError {
    error(SQLITE_ERROR, "nonempty statement tail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_nobody_has_read_share_their_memory() {
        let vfs = Vfs::register().unwrap();
        let mut session =
            Session::open(&vfs, &DatabaseName::new(b"test").unwrap(), limits::MAX_ROW_LEN).unwrap();
        let mut run =
            || match session.run(Work::ExecSql { sql: Bytes::new(), params: Params::default() }, true) {
                Outcome::Complete { reply } => reply,
                other => panic!("{other:?}"),
            };
        let replies: Vec<Bytes> = (0..1000).map(|_| run()).collect();
        let adjoining = |pair: &[Bytes]| pair[1].as_ptr() == pair[0].as_ptr_range().end;
        let blocks = 1 + replies.windows(2).filter(|pair| !adjoining(pair)).count();
        let len: usize = replies.iter().map(Bytes::len).sum();
        assert!(blocks <= 2 * len.div_ceil(limits::REPLY_BUFFER_LEN), "{blocks} blocks for {len} bytes");
        assert!(replies.iter().all(|reply| reply == &replies[0]), "none was written over");
        let before = run().as_ptr();
        drop(replies);
        let after: Vec<*const u8> = (0..1000).map(|_| run().as_ptr()).collect();
        assert!(after.contains(&before), "the block is used again");
    }
}
