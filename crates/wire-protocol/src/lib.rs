//! Every byte that crosses a dqlite socket: client messages, CONNECT, raft RPCs, log entries and configurations.
//!
//! Sans-io: a decoder takes whatever bytes have arrived and gives whole messages out; an encoder appends to a buffer.
//! No unsafe code, no I/O, no clock. The log on disk uses the same entry, command and configuration codecs.
#![forbid(unsafe_code)]

pub mod configuration;
pub mod entry;
pub mod rpc;
mod types;

pub use configuration::{Configuration, Role, Server};
pub use entry::{Entry, EntryKind};
pub use types::{LogIndex, NodeId, Term};
