//! Log entries and the batch encoding that APPEND_ENTRIES and log segments share.

use bytes::Bytes;

use crate::Term;

/// What an entry carries; the discriminants are the type bytes of the wire and disk formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A state machine command.
    Command = 1,
    /// Eight zero bytes; marks a position in the log (appended on election).
    Barrier = 2,
    /// An encoded [`crate::Configuration`], in effect as soon as it is in the log.
    Configuration = 3,
}

/// One entry of the raft log. Its index is its position, never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that appended it, at least 1.
    pub term: Term,
    /// Type byte.
    pub kind: EntryKind,
    /// Payload; its length is a multiple of 8 and not 0.
    pub data: Bytes,
}
