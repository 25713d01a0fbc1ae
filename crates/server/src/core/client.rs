//! One client as the core sees it: what it sent, what it has open, what it waits for.

use std::collections::VecDeque;

use vfs::{DatabaseSnapshot, TransactionState};
use wire_protocol::{Frame, Protocol};

use super::database::DatabaseId;
use super::job::{JobClass, RequestKind, Work};
use super::limits;
use super::session::{CancelHandle, Session};

/// A client connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) protocol: Protocol,
    /// Requests behind the running one, in order.
    pub(super) inbox: VecDeque<Received>,
    inbox_len: usize,
    /// Bytes of the request in progress.
    request_len: usize,
    /// When it had nothing more to do.
    pub(super) idle_since_ms: u64,
    /// The socket is not read because the inbox is full.
    pub(super) paused: bool,
    /// Everything the client will ever send is in the inbox.
    pub(super) at_end: bool,
    /// Told when the inbox has been worked off, before the socket is closed.
    pub(super) last_words: Option<String>,
    /// When the client closed its sending half.
    pub(super) departed_at_ms: Option<u64>,
    /// The socket is gone: nothing is sent any more, the session goes as soon as it is back.
    pub(super) gone: bool,
    pub(super) request: RequestState,
    pub(super) opened: Option<Opened>,
}

/// What came instead of a request, or as one.
#[derive(Debug)]
pub(super) enum Received {
    /// A whole request.
    Frame(Frame),
    /// One for which there was no memory. Its bytes were dropped as they came.
    Refused,
}

/// The database a client has open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) database: DatabaseId,
    /// At home between jobs.
    pub(super) session: Option<Box<Session>>,
    pub(super) cancel: CancelHandle,
    /// For each statement id, whether the statement only reads.
    pub(super) readonly: Vec<Option<bool>>,
    /// What the session held when it came home.
    pub(super) transaction: TransactionState,
    /// Whether its transaction goes on until COMMIT or ROLLBACK.
    pub(super) explicit: bool,
    /// Its write transaction was rolled back, since it did nothing while others waited, and it was not told yet.
    pub(super) rolled_back: bool,
    /// Leadership was lost: the session is closed when it comes home.
    pub(super) dead: bool,
}

/// What the one request in progress is waiting for.
#[derive(Debug)]
pub(super) enum RequestState {
    /// Nothing is in progress.
    Idle,
    /// For certainty that this node leads and has applied what is committed; see `admission`.
    Barrier(Work),
    /// For the writer lane; the work is in the lane's queue.
    Queued,
    /// For an executor.
    Running(Running),
    /// For a commit; the reply is with the database.
    Gated,
    /// For the socket to take the last batch of rows.
    Streaming,
    /// For the cluster to change.
    Cluster,
    /// For the socket to take the last piece of a dump.
    Dumping(Dump),
}

/// A job on an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) class: JobClass,
    pub(super) kind: RequestKind,
    /// When it was given out.
    pub(super) since_ms: u64,
}

/// A dump in progress.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) snapshot: DatabaseSnapshot,
    pub(super) next_page: u32,
    /// Encoded name and length of the second, empty file.
    pub(super) trailer: bytes::Bytes,
}

impl Client {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            inbox: VecDeque::new(),
            inbox_len: 0,
            request_len: 0,
            idle_since_ms: 0,
            paused: false,
            at_end: false,
            last_words: None,
            departed_at_ms: None,
            gone: false,
            request: RequestState::Idle,
            opened: None,
        }
    }

    pub(super) fn push(&mut self, received: Received) {
        self.inbox_len += received.len();
        self.inbox.push_back(received);
    }

    /// The next request, which is the one in progress from now on.
    pub(super) fn pop(&mut self) -> Option<Received> {
        let received = self.inbox.pop_front()?;
        self.inbox_len -= received.len();
        self.request_len = received.len();
        Some(received)
    }

    /// The request in progress is over. Whether it was one that counts in the budget.
    pub(super) fn end_request(&mut self) -> bool {
        std::mem::take(&mut self.request_len) as u64 >= limits::BUDGET_GRAIN
    }

    /// Bytes of all whole requests.
    pub(super) fn requests_len(&self) -> u64 {
        (self.inbox_len + self.request_len) as u64
    }

    /// Whether the socket should rest until some of the inbox is worked off.
    pub(super) fn inbox_is_full(&self) -> bool {
        self.inbox.len() >= limits::MAX_INBOX_FRAMES || self.inbox_len >= limits::MAX_INBOX_BYTES
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.request, RequestState::Idle)
    }
}

impl Received {
    /// Bytes it holds.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.body.len(),
            Self::Refused => 0,
        }
    }

    /// Whether it is a request of this kind.
    pub(super) fn is_kind(&self, kind: u8) -> bool {
        matches!(self, Self::Frame(frame) if frame.kind == kind)
    }
}

impl Opened {
    /// Whether the statement exists, and if so whether it only reads.
    pub(super) fn statement_is_readonly(&self, id: u32) -> Option<bool> {
        self.readonly.get(id as usize).copied().flatten()
    }

    pub(super) fn remember_statement(&mut self, id: u32, readonly: bool) {
        let index = id as usize;
        if self.readonly.len() <= index {
            self.readonly.resize(index + 1, None);
        }
        self.readonly[index] = Some(readonly);
    }

    pub(super) fn forget_statement(&mut self, id: u32) {
        if let Some(slot) = self.readonly.get_mut(id as usize) {
            *slot = None;
        }
    }
}
