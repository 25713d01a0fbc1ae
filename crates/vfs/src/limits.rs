//! SQLite's own limits, as far as they bound how deep it recurses.
//!
//! A limit is set to the smaller of what stands here and what the host's SQLite was built with. Those here are the
//! defaults of SQLite, so they only matter where a distribution raised them. What no limit bounds is bounded by
//! [`crate::depth`].

use std::ffi::c_int;

use libsqlite3_sys as ffi;

use crate::connection::Entered;

/// Stack of each thread that calls SQLite, bytes. It is reserved, not used: the deepest statement that the limits let
/// through takes less than half of it.
pub const STACK_LEN: usize = 16 << 20;

/// `SQLITE_LIMIT_PARSER_DEPTH`, which SQLite's newest releases have; older ones refuse the number.
const LIMIT_PARSER_DEPTH: c_int = 12;

const LIMITS: [(c_int, c_int); 6] = [
    (ffi::SQLITE_LIMIT_EXPR_DEPTH, 1_000),
    (ffi::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    (ffi::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50_000),
    (ffi::SQLITE_LIMIT_TRIGGER_DEPTH, 1_000),
    (ffi::SQLITE_LIMIT_COLUMN, 2_000),
    (LIMIT_PARSER_DEPTH, 2_500),
];

/// Lowers the limits of a connection to ours.
pub(crate) fn install(entered: &Entered<'_>) {
    for (limit, most) in LIMITS {
        // SAFETY: the connection is open and entered; a negative value asks and changes nothing.
        let now = unsafe { ffi::sqlite3_limit(entered.db, limit, -1) };
        if now > most {
            // SAFETY: as above.
            unsafe { ffi::sqlite3_limit(entered.db, limit, most) };
        }
    }
}
