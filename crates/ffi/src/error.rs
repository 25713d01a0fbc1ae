//! Numbers that C sees.

use std::borrow::Cow;
use std::ffi::c_int;

use server::NodeError;
use server::options::OptionError;

/// Success. The header has the four as an enumeration.
pub(crate) const DQLITE_OK: c_int = 0;
/// The world refused.
pub(crate) const DQLITE_ERROR: c_int = 1;
/// The caller did something the interface forbids.
pub(crate) const DQLITE_MISUSE: c_int = 2;
/// Out of memory.
pub(crate) const DQLITE_NOMEM: c_int = 3;

/// Why a function on a node failed. There is no failure without a text, which `dqlite_node_errmsg` then returns.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: c_int,
    pub(crate) text: Cow<'static, str>,
}

impl Failure {
    /// The caller did something the interface forbids.
    pub(crate) fn misuse(text: &'static str) -> Self {
        Self { code: DQLITE_MISUSE, text: text.into() }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self { code: error.code(), text: error.to_string().into() }
    }
}

impl From<OptionError> for Failure {
    fn from(error: OptionError) -> Self {
        Self { code: error.code(), text: error.to_string().into() }
    }
}
