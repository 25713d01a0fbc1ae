//! Consensus without sockets or clock, and the log on disk.
#![forbid(unsafe_code)]

mod types;

pub use types::{Committed, HardState, InstalledSnapshot, Loaded, Persist, SnapshotMetadata};
pub use wire_protocol::{Configuration, Entry, EntryKind, LogIndex, NodeId, Role, Server, Term};
