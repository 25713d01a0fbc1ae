//! Consensus without sockets or clock, and the log on disk.
#![forbid(unsafe_code)]

mod changes;
mod config;
pub mod disk;
mod entry;
mod error;
mod identity;
mod inbound;
mod joining;
mod lease;
mod logger;
mod membership;
mod outbound;
mod output;
mod plausible;
mod promise;
mod ready;
mod refusals;
mod replica;
mod settle;
mod snapshots;
mod storage;
mod streams;
mod types;

pub use config::{Config, ReplicaError, SnapshotCheck, SnapshotRule, TrailingStrategy};
pub use error::{ChangeError, ProposeError};
pub use lease::DRIFT_PERCENT;
pub use output::{Output, ReadEntries, RequestId};
pub use replica::Replica;
pub use streams::StreamId;
pub use types::{Committed, HardState, InstalledSnapshot, Loaded, Persist, SnapshotMetadata, has_caught_up};
pub use wire_protocol::{
    ClusterId, Configuration, Entry, EntryKind, LogIndex, NodeId, PeerAnnouncement, Role, Server, Term,
};
