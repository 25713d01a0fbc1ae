//! What crosses the border to an executor thread: a job goes in by value, its result comes back by value.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use bytes::Bytes;
use vfs::{DatabaseName, Position, SqlError, TransactionState, Vfs};
use wire_protocol::{Params, PrepareSchema};

use super::ClientId;
use super::session::{CancelHandle, Session};

/// Which executor runs a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobClass {
    /// One of the pool; may be slow.
    Reader,
    /// Holds a database's writer lane: must not wait behind readers.
    Writer,
    /// Opens, compiles or closes, and runs nothing: must not wait behind any statement.
    Short,
}

/// One piece of SQL work on one session.
#[derive(Debug)]
pub struct SqlJob {
    pub(super) client: ClientId,
    pub(super) class: JobClass,
    pub(super) session: Option<Box<Session>>,
    pub(super) work: Work,
}

/// What a request may do, as far as the answer for one that breaks depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// OPEN, PREPARE, FINALIZE.
    Session,
    /// One statement without rows.
    Exec,
    /// Several statements, each its own transaction unless the text says otherwise.
    Batch,
    /// One statement with rows.
    Query,
    /// The session is being closed.
    Close,
}

/// The work itself.
#[derive(Debug)]
pub(super) enum Work {
    /// Open a connection; the only job without a session.
    Open { vfs: Arc<Vfs>, name: DatabaseName, max_reply_len: usize },
    /// Compile a statement and keep it.
    Prepare { database: u32, sql: Bytes, schema: PrepareSchema },
    /// Run a kept statement that yields no rows.
    Exec { statement: u32, params: Params },
    /// Run a kept statement and send its rows.
    Query { statement: u32, params: Params },
    /// Run all statements of a text.
    ExecSql { sql: Bytes, params: Params },
    /// Run the one statement of a text and send its rows.
    QuerySql { sql: Bytes, params: Params },
    /// Go on with a request that had to wait for the writer lane, or whose last batch of rows has been sent.
    Continue,
    /// Abandon the current request: reset its statement.
    Abandon,
    /// Roll back the open transaction.
    Rollback,
    /// Drop a kept statement.
    Finalize { statement: u32 },
    /// Close the connection; an open transaction is rolled back.
    Close,
}

/// What came of a job.
#[derive(Debug)]
pub struct SqlDone {
    pub(super) client: ClientId,
    pub(super) session: Option<Box<Session>>,
    pub(super) outcome: Outcome,
    /// Newest position the session has read or written; no reply may leave before it is committed.
    pub(super) gate: Position,
    /// Generation of the database the session belongs to.
    pub(super) generation: u64,
    /// Transaction state after the job.
    pub(super) transaction: TransactionState,
    /// Whether autocommit is off after the job.
    pub(super) explicit: bool,
    /// What SQLite keeps for the session, bytes, when it was time to look.
    pub(super) memory_bytes: Option<u64>,
}

/// Result of a job as the core needs it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The connection is open.
    Opened { cancel: CancelHandle },
    /// The connection could not be opened.
    OpenFailed(SqlError),
    /// The current statement writes and the session does not hold the lane: queue, then `Continue`.
    NeedsWriter,
    /// PREPARE succeeded.
    Prepared { reply: Bytes, statement: u32, readonly: bool },
    /// The request is over; `reply` is a whole response.
    Complete { reply: Bytes },
    /// A batch of rows; more follow on `Continue`.
    Rows { reply: Bytes },
    /// The request was cancelled; there is nothing to send.
    Cancelled,
    /// The session is gone.
    Closed,
}

impl SqlJob {
    /// Where this job should run.
    #[must_use]
    pub fn class(&self) -> JobClass {
        self.class
    }

    /// Whether the request it belongs to was cancelled, so that running it takes no time.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_cancelled())
    }

    /// Not zero while the request it belongs to is cancelled, for those that look at the thread which runs it.
    #[must_use]
    pub fn cancelled_flag(&self) -> Option<Arc<AtomicU8>> {
        self.session.as_ref().map(|session| session.cancelled_flag())
    }

    /// Runs the job on the calling thread. May take as long as its SQL takes.
    #[must_use]
    pub fn run(self) -> SqlDone {
        let Self { client, class, session, work } = self;
        let may_write = class == JobClass::Writer;
        let (mut session, outcome) = match (work, session) {
            (Work::Open { vfs, name, max_reply_len }, _) => match Session::open(&vfs, &name, max_reply_len) {
                Ok(session) => {
                    let cancel = session.cancel_handle();
                    (Some(Box::new(session)), Outcome::Opened { cancel })
                }
                Err(error) => (None, Outcome::OpenFailed(error)),
            },
            (Work::Close, session) => {
                drop(session);
                (None, Outcome::Closed)
            }
            (work, Some(mut session)) => {
                let outcome = session.run(work, may_write);
                (Some(session), outcome)
            }
            (_, None) => (None, Outcome::Closed),
        };
        let (gate, generation, transaction) = match &session {
            Some(session) => (session.gate(), session.generation(), session.transaction_state()),
            None => (Position::default(), 0, TransactionState::None),
        };
        let explicit = session.as_ref().is_some_and(|session| session.in_transaction());
        let memory_bytes = session.as_mut().and_then(|session| session.take_memory_bytes());
        SqlDone { client, session, outcome, gate, generation, transaction, explicit, memory_bytes }
    }
}
