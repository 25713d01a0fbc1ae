//! Consensus without sockets or clock, and the log on disk.
#![forbid(unsafe_code)]

pub mod disk;
mod types;

pub use types::{Committed, HardState, InstalledSnapshot, Loaded, Persist, SnapshotMetadata};
pub use wire_protocol::{Configuration, Entry, EntryKind, LogIndex, NodeId, Role, Server, Term};
mod config; mod entry; mod error; mod logger; mod stub;
pub use config::{Config, ReplicaError, TrailingStrategy}; pub use error::{ChangeError, ProposeError}; pub use stub::*;
