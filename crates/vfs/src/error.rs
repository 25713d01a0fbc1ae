//! Errors, and the one place where they are mapped to SQLite result codes.

use libsqlite3_sys as ffi;
use thiserror::Error;

/// Extended result code for "this node is not the leader": the change is certainly not committed.
pub const SQLITE_IOERR_NOT_LEADER: i32 = ffi::SQLITE_IOERR | (40 << 8);

/// Extended result code for "leadership was lost": whether the change is committed is not known.
pub const SQLITE_IOERR_LEADERSHIP_LOST: i32 = ffi::SQLITE_IOERR | (41 << 8);

/// What SQLite answered: its extended result code and its message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message} ({code})")]
pub struct SqlError {
    /// Extended result code.
    pub code: i32,
    /// Message in SQLite's words, or ours for codes that SQLite does not know.
    pub message: String,
}

impl SqlError {
    /// An error of ours, with the message that belongs to the code.
    pub(crate) fn from_code(code: i32) -> Self {
        let message = message_of(code).unwrap_or("unknown error");
        Self { code, message: message.to_owned() }
    }
}

/// Our words for a code, where SQLite's would mislead.
pub(crate) fn message_of(code: i32) -> Option<&'static str> {
    match code {
        SQLITE_IOERR_NOT_LEADER => Some("not leader"),
        SQLITE_IOERR_LEADERSHIP_LOST => Some("leadership lost"),
        ffi::SQLITE_TOOBIG => Some("string or blob too big"),
        ffi::SQLITE_NOMEM => Some("out of memory"),
        _ => None,
    }
}

/// What can go wrong in this crate apart from SQL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The linked SQLite is older than what this crate needs.
    #[error("sqlite {0} is too old, 3.37.0 is the minimum")]
    UnsupportedSqlite(String),
    /// SQLite has no VFS named `unix`, which holds temporary files.
    #[error("sqlite has no vfs named unix")]
    NoUnixVfs,
    /// SQLite refused to initialize or to register the VFS.
    #[error("sqlite result code {0} when registering the vfs")]
    Register(i32),
    /// A rule of ours was broken; the database refuses all work from then on and the node must stop.
    #[error("database {database}: invariant violated: {reason}")]
    Invariant {
        /// Name of the database.
        database: String,
        /// The rule and the values that broke it.
        reason: String,
    },
    /// The call names a generation that was replaced or fenced meanwhile.
    #[error("generation {0} is over")]
    StaleGeneration(u64),
    /// The pages given are not a database image.
    #[error("not a database image: {0}")]
    Image(&'static str),
}

/// Why a transaction from the log was not applied; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// No page at all.
    #[error("a transaction without pages")]
    Empty,
    /// A page whose length is not [`PAGE_SIZE`](crate::PAGE_SIZE).
    #[error("page {number} has {len} bytes instead of 4096")]
    PageSize {
        /// Number of the page.
        number: u32,
        /// Its length.
        len: usize,
    },
    /// A page number of zero, beyond the end when no page is not, or beyond what the transaction can have added.
    #[error("page number {number} in a database of {page_count} pages")]
    PageNumber {
        /// The number.
        number: u32,
        /// Pages of the database before the transaction.
        page_count: u32,
    },
    /// The size in the header of page 1 does not fit the pages of the transaction.
    #[error("size of {size} pages with highest page {highest}")]
    Size {
        /// In-header size.
        size: u32,
        /// The highest page before and in the transaction.
        highest: u32,
    },
    /// The mark of a deleted database came with other pages.
    #[error("a delete marker must be the only page of its transaction")]
    DeleteMarker,
    /// Our own side is wrong.
    #[error(transparent)]
    Database(#[from] Error),
}

/// Why a commit is refused at its last point of refusal; the transaction rolls back and the connection stays usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Veto {
    /// This node is not, or no longer, the leader.
    NotLeader,
    /// Leadership is being handed over; clients see the same code as for [`Veto::NotLeader`].
    TransferPending,
    /// The statement may not have an effect, for example because it returned rows where none were asked for.
    Abort,
    /// No room for the transaction: log space, or a limit of the caller.
    Full,
}

impl Veto {
    /// The SQLite result code the statement fails with.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::NotLeader | Self::TransferPending => SQLITE_IOERR_NOT_LEADER,
            Self::Abort => ffi::SQLITE_ABORT,
            Self::Full => ffi::SQLITE_FULL,
        }
    }
}
