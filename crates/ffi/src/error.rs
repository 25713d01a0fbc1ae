//! Numbers that C sees.

use std::ffi::c_int;

use server::options::OptionError;

/// Success. The header has the four as an enumeration.
pub(crate) const DQLITE_OK: c_int = 0;
/// The world refused.
pub(crate) const DQLITE_ERROR: c_int = 1;
/// The caller did something the interface forbids.
pub(crate) const DQLITE_MISUSE: c_int = 2;
/// Out of memory.
pub(crate) const DQLITE_NOMEM: c_int = 3;

/// The number for the result of a setter.
pub(crate) fn option_result(result: Result<(), OptionError>) -> c_int {
    match result {
        Ok(()) => DQLITE_OK,
        Err(error) => error.code(),
    }
}
