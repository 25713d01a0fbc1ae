//! Raft RPCs between nodes: u64 type, u64 header length, header, payload.
//!
//! Only the low 16 bits of the type count. Releases of C dqlite differ in the length of headers:
//!
//! | type | message | header length we send | we accept |
//! | --- | --- | --- | --- |
//! | 1 | APPEND_ENTRIES | 48 + 16 for each entry | at least 40 + 16 for each entry |
//! | 2 | APPEND_ENTRIES_RESULT | 32 | 24, 32 |
//! | 3 | REQUEST_VOTE | 40 | 32, 40 |
//! | 4 | REQUEST_VOTE_RESULT | 24 | 16, 24 |
//! | 5 | INSTALL_SNAPSHOT | 48 + configuration | at least that |
//! | 6 | TIMEOUT_NOW | 24 | 24 |
//!
//! C leaves the last 8 bytes of APPEND_ENTRIES undefined, old releases also those of INSTALL_SNAPSHOT. In the former a
//! leader of ours puts an echo number, which means something only if the stream's dialler announced that
//! ([`crate::Features::READ_LEASE`]); in the latter we write zeros.
//! The payload is the data of the entries, or the snapshot.

mod decode;
mod encode;

use bytes::Bytes;

use crate::{Configuration, Entry, LogIndex, NodeId, Term};

pub use decode::{RpcDecoder, RpcLimits};

const PREAMBLE_LEN: usize = 16;

const APPEND_ENTRIES: u16 = 1;
const APPEND_ENTRIES_RESULT: u16 = 2;
const REQUEST_VOTE: u16 = 3;
const REQUEST_VOTE_RESULT: u16 = 4;
const INSTALL_SNAPSHOT: u16 = 5;
const TIMEOUT_NOW: u16 = 6;

const APPEND_ENTRIES_LEN: usize = 40;
const INSTALL_SNAPSHOT_LEN: usize = 48;

const FLAG_DISRUPT_LEADER: u64 = 1;
const FLAG_PRE_VOTE: u64 = 2;
const FLAG_RESULT_PRE_VOTE: u64 = 1;

/// Headers longer than this cost the connection to a C node.
pub const MAX_HEADER_LEN: usize = 4 * 1024 * 1024;
/// Payloads longer than this cost the connection to a C node.
pub const MAX_PAYLOAD_LEN: usize = 500 * 1024 * 1024;
/// How many entries fit in one APPEND_ENTRIES within [`MAX_HEADER_LEN`].
pub const MAX_ENTRIES: usize =
    (MAX_HEADER_LEN - APPEND_ENTRIES_LEN - crate::WORD_LEN) / crate::entry::ENTRY_HEADER_LEN;

/// One raft RPC, request or result. Which peer sent it is a property of the stream, not of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Type 1.
    AppendEntries(AppendEntries),
    /// Type 2.
    AppendEntriesResult(AppendEntriesResult),
    /// Type 3.
    RequestVote(RequestVote),
    /// Type 4.
    RequestVoteResult(RequestVoteResult),
    /// Type 5.
    InstallSnapshot(InstallSnapshot),
    /// Type 6.
    TimeoutNow(TimeoutNow),
}

/// Replicates entries; without entries it is the heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// Leader's term.
    pub term: Term,
    /// Index just before the first entry.
    pub prev_log_index: LogIndex,
    /// Term of the entry at `prev_log_index`; 0 when that is 0.
    pub prev_log_term: Term,
    /// Leader's commit index.
    pub leader_commit: LogIndex,
    /// Entries at `prev_log_index + 1` and on.
    pub entries: Vec<Entry>,
    /// A number to return in the feature word of results; junk from C nodes, 0 from those that leave it out.
    pub echo: u64,
}

/// Answer to [`AppendEntries`] and to [`InstallSnapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendEntriesResult {
    /// Term of the replier.
    pub term: Term,
    /// 0 on success, else the index that was refused.
    pub rejected: LogIndex,
    /// Last durable index of the replier.
    pub last_log_index: LogIndex,
    /// Feature bits; `None` in the short form of old releases.
    pub features: Option<u64>,
}

/// Asks for a vote or a pre-vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// Candidate's term, or the term it would have (pre-vote).
    pub term: Term,
    /// Who asks.
    pub candidate_id: NodeId,
    /// Candidate's last durable index.
    pub last_log_index: LogIndex,
    /// Term of that entry.
    pub last_log_term: Term,
    /// Set after TIMEOUT_NOW: vote even though there is a leader.
    pub disrupt_leader: bool,
    /// No term change, nothing stored.
    pub pre_vote: bool,
}

/// Answer to [`RequestVote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVoteResult {
    /// Replier's term; for a pre-vote grant the request's term.
    pub term: Term,
    /// Granted or not.
    pub vote_granted: bool,
    /// Mirrors the request; `None` in the short form of old releases.
    pub pre_vote: Option<bool>,
}

/// A whole snapshot in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// Leader's term.
    pub term: Term,
    /// Index of the last entry the snapshot covers, at least 1.
    pub last_index: LogIndex,
    /// Its term, at least 1.
    pub last_term: Term,
    /// Configuration at that point.
    pub configuration: Configuration,
    /// Index of the entry that carried it.
    pub configuration_index: LogIndex,
    /// State machine payload, uncompressed.
    pub data: Bytes,
}

/// Leadership transfer: campaign now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// Leader's term.
    pub term: Term,
    /// Leader's last index; the target must have exactly this.
    pub last_log_index: LogIndex,
    /// Its term.
    pub last_log_term: Term,
}
