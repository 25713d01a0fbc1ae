//! Reading raft RPCs off a stream, in any pieces.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    APPEND_ENTRIES, APPEND_ENTRIES_LEN, APPEND_ENTRIES_RESULT, AppendEntries, AppendEntriesResult,
    FLAG_DISRUPT_LEADER, FLAG_PRE_VOTE, FLAG_RESULT_PRE_VOTE, INSTALL_SNAPSHOT, INSTALL_SNAPSHOT_LEN,
    InstallSnapshot, MAX_HEADER_LEN, MAX_PAYLOAD_LEN, Message, PREAMBLE_LEN, REQUEST_VOTE,
    REQUEST_VOTE_RESULT, RequestVote, RequestVoteResult, TIMEOUT_NOW, TimeoutNow,
};
use crate::entry::{self, ENTRY_HEADER_LEN, EntryHeader};
use crate::word::{Reader, WORD_LEN};
use crate::{Configuration, DecodeError, LogIndex, NodeId, Term};

/// What a receiver is willing to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcLimits {
    /// Longest header in bytes.
    pub header_len: usize,
    /// Longest payload in bytes.
    pub payload_len: usize,
}

impl Default for RpcLimits {
    /// The limits of C dqlite.
    fn default() -> Self {
        Self { header_len: MAX_HEADER_LEN, payload_len: MAX_PAYLOAD_LEN }
    }
}

/// Takes raft messages off the stream of one peer. Reserves no memory; entries and snapshots share the buffer's.
///
/// Terms and indexes of 2^63 and more are refused, so that whoever adds to them cannot overflow; so are entries that
/// would stop a C node (term 0, length not a whole number of words), snapshots of index or term 0, and id 0 in a
/// configuration.
#[derive(Debug)]
pub struct RpcDecoder {
    limits: RpcLimits,
    /// A header whose payload has not arrived yet.
    pending: Option<Pending>,
    failed: Option<DecodeError>,
}

#[derive(Debug)]
struct Pending {
    header: PayloadHeader,
    payload_len: usize,
}

/// A message that still lacks its payload.
#[derive(Debug)]
enum PayloadHeader {
    AppendEntries(AppendEntries, Vec<EntryHeader>),
    InstallSnapshot(InstallSnapshot),
}

enum Header {
    Complete(Message),
    Pending(PayloadHeader, u64),
}

impl RpcDecoder {
    /// Messages beyond the limits are an error.
    #[must_use]
    pub const fn new(limits: RpcLimits) -> Self {
        Self { limits, pending: None, failed: None }
    }

    /// The next message, `None` if more bytes are needed. After an error the stream cannot be decoded any further, and
    /// the call repeats its error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.try_decode(buffer).inspect_err(|error| self.failed = Some(*error))
    }

    /// How many bytes the header or payload at the front of the buffer still lacks, as far as is known by now.
    #[must_use]
    pub fn missing_len(&self, buffer: &BytesMut) -> usize {
        let needed = match &self.pending {
            Some(pending) => pending.payload_len,
            None => match self.preamble(buffer) {
                Ok(Some((_, header_len))) => PREAMBLE_LEN + header_len,
                Ok(None) => PREAMBLE_LEN,
                Err(_) => 0,
            },
        };
        needed.saturating_sub(buffer.len())
    }

    fn try_decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => {
                let Some((kind, header_len)) = self.preamble(buffer)? else { return Ok(None) };
                if buffer.len() - PREAMBLE_LEN < header_len {
                    return Ok(None);
                }
                buffer.advance(PREAMBLE_LEN);
                match decode_header(kind, &buffer.split_to(header_len).freeze())? {
                    Header::Complete(message) => return Ok(Some(message)),
                    Header::Pending(header, announced) => {
                        let payload_len = within("raft payload", announced, self.limits.payload_len)?;
                        Pending { header, payload_len }
                    }
                }
            }
        };
        if buffer.len() < pending.payload_len {
            self.pending = Some(pending);
            return Ok(None);
        }
        let payload = buffer.split_to(pending.payload_len).freeze();
        pending.header.complete(payload).map(Some)
    }

    /// Type and header length, as soon as they are there.
    fn preamble(&self, buffer: &BytesMut) -> Result<Option<(u16, usize)>, DecodeError> {
        let Some(preamble) = buffer.first_chunk::<PREAMBLE_LEN>() else { return Ok(None) };
        let [k0, k1, .., l0, l1, l2, l3, l4, l5, l6, l7] = *preamble;
        let kind = u16::from_le_bytes([k0, k1]);
        let header_len = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let header_len_valid = match kind {
            APPEND_ENTRIES => header_len >= APPEND_ENTRIES_LEN as u64,
            APPEND_ENTRIES_RESULT => matches!(header_len, 24 | 32),
            REQUEST_VOTE => matches!(header_len, 32 | 40),
            REQUEST_VOTE_RESULT => matches!(header_len, 16 | 24),
            INSTALL_SNAPSHOT => header_len >= INSTALL_SNAPSHOT_LEN as u64,
            TIMEOUT_NOW => header_len == 24,
            _ => return Err(DecodeError::Invalid { what: "raft message type", value: u64::from(kind) }),
        };
        if !header_len_valid {
            return Err(DecodeError::Invalid { what: "raft header length", value: header_len });
        }
        Ok(Some((kind, within("raft header", header_len, self.limits.header_len)?)))
    }
}

impl PayloadHeader {
    fn complete(self, payload: Bytes) -> Result<Message, DecodeError> {
        Ok(match self {
            Self::AppendEntries(mut message, headers) => {
                message.entries = entry::join(&headers, &payload)?;
                Message::AppendEntries(message)
            }
            Self::InstallSnapshot(mut message) => {
                message.data = payload;
                Message::InstallSnapshot(message)
            }
        })
    }
}

fn within(what: &'static str, announced: u64, limit: usize) -> Result<usize, DecodeError> {
    match usize::try_from(announced) {
        Ok(len) if len <= limit => Ok(len),
        _ => Err(DecodeError::TooLarge { what, announced, limit: limit as u64 }),
    }
}

fn decode_header(kind: u16, header: &Bytes) -> Result<Header, DecodeError> {
    let reader = &mut Reader::new(header);
    Ok(Header::Complete(match kind {
        APPEND_ENTRIES => return decode_append_entries(reader),
        INSTALL_SNAPSHOT => return decode_install_snapshot(reader),
        APPEND_ENTRIES_RESULT => Message::AppendEntriesResult(AppendEntriesResult {
            term: term(reader)?,
            rejected: index(reader)?,
            last_log_index: index(reader)?,
            features: optional_word(reader)?,
        }),
        REQUEST_VOTE => {
            let (term_, candidate_id) = (term(reader)?, NodeId(reader.u64("candidate id")?));
            let (last_log_index, last_log_term) = (index(reader)?, term(reader)?);
            let flags = optional_word(reader)?.unwrap_or(0);
            Message::RequestVote(RequestVote {
                term: term_,
                candidate_id,
                last_log_index,
                last_log_term,
                disrupt_leader: flags & FLAG_DISRUPT_LEADER != 0,
                pre_vote: flags & FLAG_PRE_VOTE != 0,
            })
        }
        REQUEST_VOTE_RESULT => Message::RequestVoteResult(RequestVoteResult {
            term: term(reader)?,
            vote_granted: reader.u64("vote")? != 0,
            pre_vote: optional_word(reader)?.map(|flags| flags & FLAG_RESULT_PRE_VOTE != 0),
        }),
        TIMEOUT_NOW => Message::TimeoutNow(TimeoutNow {
            term: term(reader)?,
            last_log_index: index(reader)?,
            last_log_term: term(reader)?,
        }),
        kind => return Err(DecodeError::Invalid { what: "raft message type", value: u64::from(kind) }),
    }))
}

fn decode_append_entries(reader: &mut Reader<'_>) -> Result<Header, DecodeError> {
    let mut message = AppendEntries {
        term: term(reader)?,
        prev_log_index: index(reader)?,
        prev_log_term: term(reader)?,
        leader_commit: index(reader)?,
        entries: Vec::new(),
        echo: 0,
    };
    let count = reader.u64("entry count")?;
    let rest = reader.rest();
    let headers = entry::decode_headers(count, &rest)?;
    let spare = rest.get(headers.len() * ENTRY_HEADER_LEN..).and_then(<[u8]>::first_chunk);
    message.echo = spare.map_or(0, |word| u64::from_le_bytes(*word));
    let payload_len = entry::data_len(&headers);
    Ok(Header::Pending(PayloadHeader::AppendEntries(message, headers), payload_len))
}

fn decode_install_snapshot(reader: &mut Reader<'_>) -> Result<Header, DecodeError> {
    let term_ = term(reader)?;
    let (last_index, last_term) = (index(reader)?, term(reader)?);
    if last_index.0 == 0 || last_term.0 == 0 {
        return Err(DecodeError::Invalid { what: "snapshot index or term", value: 0 });
    }
    let configuration_index = index(reader)?;
    let configuration_len = reader.u64("configuration length")?;
    let configuration = Configuration::decode(reader.slice(configuration_len, "configuration")?)?;
    let payload_len = reader.u64("snapshot length")?;
    let message = InstallSnapshot {
        term: term_,
        last_index,
        last_term,
        configuration,
        configuration_index,
        data: Bytes::new(),
    };
    Ok(Header::Pending(PayloadHeader::InstallSnapshot(message), payload_len))
}

/// A number that can be added to without overflow.
fn counter(reader: &mut Reader<'_>, what: &'static str) -> Result<u64, DecodeError> {
    let value = reader.u64(what)?;
    if value > i64::MAX.cast_unsigned() {
        return Err(DecodeError::Invalid { what, value });
    }
    Ok(value)
}

fn term(reader: &mut Reader<'_>) -> Result<Term, DecodeError> {
    counter(reader, "term").map(Term)
}

fn index(reader: &mut Reader<'_>) -> Result<LogIndex, DecodeError> {
    counter(reader, "log index").map(LogIndex)
}

/// The last word of a header, which old releases do not send.
fn optional_word(reader: &mut Reader<'_>) -> Result<Option<u64>, DecodeError> {
    if reader.remaining() < WORD_LEN { Ok(None) } else { reader.u64("last word").map(Some) }
}
