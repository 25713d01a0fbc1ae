//! Numbers in FAILURE that are not what SQLite just said (specification, client-protocol section 11).

/// SQLITE_ERROR.
pub(super) const ERROR: u64 = 1;
/// SQLITE_BUSY: the writer lane was not free in time.
pub(super) const BUSY: u64 = 5;
/// SQLITE_NOMEM.
pub(super) const NOMEM: u64 = 7;
/// SQLITE_INTERRUPT.
pub(super) const INTERRUPT: u64 = 9;
/// SQLITE_NOTFOUND: C's answer to a database or statement that is not there.
pub(super) const NOT_FOUND: u64 = 12;
/// SQLITE_CANTOPEN.
pub(super) const CANT_OPEN: u64 = 14;
/// SQLITE_PROTOCOL.
pub(super) const PROTOCOL: u64 = 15;
/// SQLITE_ABORT_ROLLBACK: the transaction that a statement was meant for is not there any more.
pub(super) const ABORT_ROLLBACK: u64 = 516;
/// DQLITE_NOTFOUND.
pub(super) const DQLITE_NOT_FOUND: u64 = 1002;
/// DQLITE_PARSE: the request cannot be decoded.
pub(super) const DQLITE_PARSE: u64 = 1005;
/// SQLITE_IOERR_NOT_LEADER: certainly not done.
pub(super) const NOT_LEADER: u64 = 10250;
/// SQLITE_IOERR_LEADERSHIP_LOST: the outcome is unknown.
pub(super) const LEADERSHIP_LOST: u64 = 10506;
