//! Writing raft RPCs.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    APPEND_ENTRIES, APPEND_ENTRIES_LEN, APPEND_ENTRIES_RESULT, FLAG_DISRUPT_LEADER, FLAG_PRE_VOTE,
    FLAG_RESULT_PRE_VOTE, INSTALL_SNAPSHOT, INSTALL_SNAPSHOT_LEN, Message, PREAMBLE_LEN, REQUEST_VOTE,
    REQUEST_VOTE_RESULT, TIMEOUT_NOW,
};
use crate::WORD_LEN;
use crate::entry::{ENTRY_HEADER_LEN, batch_data_len, encode_batch_header};

impl Message {
    /// Appends the whole message.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.reserve(self.encoded_len());
        self.encode_head(buffer);
        match self {
            Self::AppendEntries(message) => {
                for entry in &message.entries {
                    buffer.put_slice(&entry.data);
                }
            }
            Self::InstallSnapshot(message) => buffer.put_slice(&message.data),
            _ => {}
        }
    }

    /// The message in pieces that share the memory of entries and snapshot, in the order to send them. No piece is
    /// empty.
    #[must_use]
    pub fn encode_vectored(&self) -> Vec<Bytes> {
        let mut head = BytesMut::with_capacity(PREAMBLE_LEN + self.header_len());
        self.encode_head(&mut head);
        let mut pieces = vec![head.freeze()];
        match self {
            Self::AppendEntries(message) => {
                pieces.extend(message.entries.iter().map(|entry| entry.data.clone()));
            }
            Self::InstallSnapshot(message) if !message.data.is_empty() => pieces.push(message.data.clone()),
            _ => {}
        }
        pieces
    }

    /// Length of the whole message.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        PREAMBLE_LEN + self.header_len() + self.payload_len()
    }

    /// Length of its payload.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::AppendEntries(message) => batch_data_len(&message.entries),
            Self::InstallSnapshot(message) => message.data.len(),
            _ => 0,
        }
    }

    /// Length of its header, without the type and the length word.
    #[must_use]
    pub fn header_len(&self) -> usize {
        match self {
            Self::AppendEntries(message) => {
                APPEND_ENTRIES_LEN + message.entries.len() * ENTRY_HEADER_LEN + WORD_LEN
            }
            Self::AppendEntriesResult(_) => 32,
            Self::RequestVote(_) => 40,
            Self::RequestVoteResult(_) | Self::TimeoutNow(_) => 24,
            Self::InstallSnapshot(message) => INSTALL_SNAPSHOT_LEN + message.configuration.encoded_len(),
        }
    }

    const fn kind(&self) -> u16 {
        match self {
            Self::AppendEntries(_) => APPEND_ENTRIES,
            Self::AppendEntriesResult(_) => APPEND_ENTRIES_RESULT,
            Self::RequestVote(_) => REQUEST_VOTE,
            Self::RequestVoteResult(_) => REQUEST_VOTE_RESULT,
            Self::InstallSnapshot(_) => INSTALL_SNAPSHOT,
            Self::TimeoutNow(_) => TIMEOUT_NOW,
        }
    }

    fn encode_head(&self, buffer: &mut BytesMut) {
        buffer.put_u64_le(u64::from(self.kind()));
        let header_len = self.header_len();
        buffer.put_u64_le(header_len as u64);
        let start = buffer.len();
        match self {
            Self::AppendEntries(message) => {
                buffer.put_u64_le(message.term.0);
                buffer.put_u64_le(message.prev_log_index.0);
                buffer.put_u64_le(message.prev_log_term.0);
                buffer.put_u64_le(message.leader_commit.0);
                encode_batch_header(&message.entries, buffer);
                // Room for a leader id that C never fills in.
                buffer.put_u64_le(message.echo);
            }
            Self::AppendEntriesResult(message) => {
                buffer.put_u64_le(message.term.0);
                buffer.put_u64_le(message.rejected.0);
                buffer.put_u64_le(message.last_log_index.0);
                buffer.put_u64_le(message.features.unwrap_or(0));
            }
            Self::RequestVote(message) => {
                buffer.put_u64_le(message.term.0);
                buffer.put_u64_le(message.candidate_id.0);
                buffer.put_u64_le(message.last_log_index.0);
                buffer.put_u64_le(message.last_log_term.0);
                let disrupt_leader = if message.disrupt_leader { FLAG_DISRUPT_LEADER } else { 0 };
                let pre_vote = if message.pre_vote { FLAG_PRE_VOTE } else { 0 };
                buffer.put_u64_le(disrupt_leader | pre_vote);
            }
            Self::RequestVoteResult(message) => {
                buffer.put_u64_le(message.term.0);
                buffer.put_u64_le(u64::from(message.vote_granted));
                buffer.put_u64_le(if message.pre_vote == Some(true) { FLAG_RESULT_PRE_VOTE } else { 0 });
            }
            Self::InstallSnapshot(message) => {
                buffer.put_u64_le(message.term.0);
                buffer.put_u64_le(message.last_index.0);
                buffer.put_u64_le(message.last_term.0);
                buffer.put_u64_le(message.configuration_index.0);
                buffer.put_u64_le(message.configuration.encoded_len() as u64);
                message.configuration.encode_into(buffer);
                buffer.put_u64_le(message.data.len() as u64);
            }
            Self::TimeoutNow(message) => {
                buffer.put_u64_le(message.term.0);
                buffer.put_u64_le(message.last_log_index.0);
                buffer.put_u64_le(message.last_log_term.0);
            }
        }
        debug_assert_eq!(buffer.len() - start, header_len);
    }
}
