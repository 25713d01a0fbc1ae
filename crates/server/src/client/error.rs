//! Why a call has no result.

use std::io;
use std::time::Duration;

use wire_protocol::DecodeError;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket failed, or the time was up ([`io::ErrorKind::TimedOut`]).
    #[error("{op} {address}: {source}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// The node.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The node sent what is no answer.
    #[error("answer of {address}: {source}")]
    Decode {
        /// The node.
        address: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The node refused. The connection stays usable.
    #[error("{message} (code {code})")]
    Failure {
        /// SQLite's extended code, or one of dqlite's own.
        code: u64,
        /// The node's text.
        message: String,
    },
    /// The answer belongs to another request.
    #[error("{address} answered {request} with a response of type {kind}")]
    Unexpected {
        /// The node.
        address: String,
        /// What was asked.
        request: &'static str,
        /// Type byte of the answer.
        kind: u8,
    },
    /// An earlier error left the connection unusable; connect again.
    #[error("the connection to {address} is broken by an earlier error")]
    Broken {
        /// The node.
        address: String,
    },
    /// No node could name a leader that answers.
    #[error("no leader within {waited:?}: {last}")]
    NoLeader {
        /// How long was tried.
        waited: Duration,
        /// What came of the last attempt at each address.
        last: String,
    },
}

impl ClientError {
    /// The code of a refusal.
    #[must_use]
    pub const fn code(&self) -> Option<u64> {
        match self {
            Self::Failure { code, .. } => Some(*code),
            _ => None,
        }
    }
}
