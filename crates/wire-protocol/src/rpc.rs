//! Raft RPCs between nodes.

use bytes::Bytes;

use crate::{Configuration, Entry, LogIndex, NodeId, Term};

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
