//! Why an operation on a node failed.

use std::io;

use raft_glue::ReplicaError;
use raft_glue::disk::{DiskError, LoadError};

use crate::address::AddressError;

/// C's numbers.
const ERROR: i32 = 1;
const MISUSE: i32 = 2;

/// Why an operation on a node failed. The texts are those C dqlite's users know, with the reason behind them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The path of the data directory is longer than C dqlite could open.
    #[error("raft_uv_init(): directory path too long")]
    PathTooLong,
    /// The data directory cannot be used.
    #[error("raft_init(): io: {0}")]
    Directory(#[source] DiskError),
    /// A node, of this process or another, runs in the data directory.
    #[error("couldn't lock the raft directory")]
    Locked,
    /// The address cannot be bound.
    #[error("bind: {}", chain(.0))]
    Bind(#[source] AddressError),
    /// Another socket listens on the address.
    #[error("raft_start(): listen on {address}: {source}")]
    Listen {
        /// The bind address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The first entry of a new cluster cannot be written.
    #[error("raft_bootstrap(): {0}")]
    Bootstrap(#[source] DiskError),
    /// The log or the snapshot cannot be loaded.
    #[error("raft_start(): io: {0}")]
    Load(#[source] LoadError),
    /// The snapshot is no set of databases.
    #[error("raft_start(): restore {0}")]
    Restore(String),
    /// What was loaded makes no sense.
    #[error("raft_start(): {0}")]
    Replica(#[source] ReplicaError),
    /// SQLite does not take the node's VFS.
    #[error("register VFS: {0}")]
    Sqlite(String),
    /// A thread or a descriptor for one cannot be made.
    #[error("start threads: {0}")]
    Thread(#[source] io::Error),
    /// The node failed before it was ready.
    #[error("raft_start(): {0}")]
    Failed(String),
    /// The new configuration cannot be written.
    #[error("raft_recover(): io: {0}")]
    Recover(#[source] LoadError),
    /// The log cannot be read.
    #[error("describe last entry: {0}")]
    Describe(#[source] LoadError),
    /// Leadership or vote stay, or some of both.
    #[error("handover: {0}")]
    Handover(String),
    /// The caller asked for something against the rules.
    #[error("{0}")]
    Misuse(&'static str),
}

impl NodeError {
    /// The number the C interface returns for it.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Misuse(_) => MISUSE,
            _ => ERROR,
        }
    }
}

/// An error with its cause.
fn chain(error: &AddressError) -> String {
    match error {
        AddressError::Io { source, .. } => format!("{error}: {source}"),
        AddressError::Invalid(_) => error.to_string(),
    }
}
