//! Log entries and the batch encoding that APPEND_ENTRIES and log segments share.
//!
//! A batch is a count word, a header for each entry, then the data of the entries back to back:
//!
//! | offset in header | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | term, at least 1 |
//! | 8 | 1 | [`EntryKind`] |
//! | 9 | 3 | written as zero; C may leave anything here, so it is ignored |
//! | 12 | 4 | data length, a multiple of 8 and not 0 |
//!
//! Headers and data are separate here too, since a segment has a checksum for each, and APPEND_ENTRIES has the headers
//! in its header and the data in its payload.

use bytes::{BufMut, Bytes, BytesMut};

use crate::word::WORD_LEN;
use crate::{DecodeError, Term};

/// Length of the header of one entry.
pub const ENTRY_HEADER_LEN: usize = 16;

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

impl EntryKind {
    /// The type byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Command => 1,
            Self::Barrier => 2,
            Self::Configuration => 3,
        }
    }

    /// The kind with this type byte.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Command),
            2 => Some(Self::Barrier),
            3 => Some(Self::Configuration),
            _ => None,
        }
    }
}

impl Entry {
    /// The data of every barrier.
    pub const BARRIER_DATA: Bytes = Bytes::from_static(&[0; WORD_LEN]);

    /// Its header.
    ///
    /// Panics if the data cannot stand in a log: C nodes stop when they receive such an entry.
    #[must_use]
    pub fn header(&self) -> EntryHeader {
        assert!(
            !self.data.is_empty() && self.data.len().is_multiple_of(WORD_LEN),
            "entry data is a whole number of words, not {} bytes",
            self.data.len()
        );
        let len = u32::try_from(self.data.len()).expect("proposals are bounded far below 4 GiB");
        EntryHeader { term: self.term, kind: self.kind, len }
    }
}

/// What the encoding says about one entry apart from its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Term of the entry.
    pub term: Term,
    /// Type of the entry.
    pub kind: EntryKind,
    /// Length of its data in bytes.
    pub len: u32,
}

impl EntryHeader {
    /// The encoded header.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_HEADER_LEN] {
        let mut bytes = [0; ENTRY_HEADER_LEN];
        bytes[..8].copy_from_slice(&self.term.0.to_le_bytes());
        bytes[8] = self.kind.code();
        bytes[12..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Reads an encoded header and checks each field.
    pub fn decode(bytes: &[u8; ENTRY_HEADER_LEN]) -> Result<Self, DecodeError> {
        let [t0, t1, t2, t3, t4, t5, t6, t7, kind, _, _, _, l0, l1, l2, l3] = *bytes;
        let term = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        if term == 0 || term > i64::MAX.cast_unsigned() {
            return Err(DecodeError::Invalid { what: "entry term", value: term });
        }
        let kind = EntryKind::from_code(kind)
            .ok_or_else(|| DecodeError::Invalid { what: "entry type", value: u64::from(kind) })?;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len == 0 || !len.is_multiple_of(8) {
            return Err(DecodeError::Invalid { what: "entry length", value: u64::from(len) });
        }
        Ok(Self { term: Term(term), kind, len })
    }
}

/// Length of the count word and `count` headers.
#[must_use]
pub const fn batch_header_len(count: usize) -> usize {
    WORD_LEN + count * ENTRY_HEADER_LEN
}

/// Length of the data of these entries.
#[must_use]
pub fn batch_data_len(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}

/// Appends count word and headers.
pub fn encode_batch_header(entries: &[Entry], buffer: &mut BytesMut) {
    buffer.reserve(batch_header_len(entries.len()));
    buffer.put_u64_le(entries.len() as u64);
    for entry in entries {
        buffer.put_slice(&entry.header().encode());
    }
}

/// Appends the data of the entries.
pub fn encode_batch_data(entries: &[Entry], buffer: &mut BytesMut) {
    buffer.reserve(batch_data_len(entries));
    for entry in entries {
        buffer.put_slice(&entry.data);
    }
}

/// Appends a whole batch.
pub fn encode_batch(entries: &[Entry], buffer: &mut BytesMut) {
    encode_batch_header(entries, buffer);
    encode_batch_data(entries, buffer);
}

/// Reads the count word and the headers at the start of `bytes`; what follows them is not looked at.
///
/// A count of 0 is an error. Memory grows with the headers that are there, not with the count.
pub fn decode_batch_headers(bytes: &[u8]) -> Result<Vec<EntryHeader>, DecodeError> {
    let (count, headers) =
        bytes.split_first_chunk::<WORD_LEN>().ok_or(DecodeError::Truncated("entry count"))?;
    let count = u64::from_le_bytes(*count);
    if count == 0 {
        return Err(DecodeError::Invalid { what: "entry count", value: count });
    }
    decode_headers(count, headers)
}

/// Reads `count` headers at the start of `bytes`.
pub(crate) fn decode_headers(count: u64, bytes: &[u8]) -> Result<Vec<EntryHeader>, DecodeError> {
    let (headers, _) = bytes.as_chunks::<ENTRY_HEADER_LEN>();
    let headers = usize::try_from(count)
        .ok()
        .and_then(|count| headers.get(..count))
        .ok_or(DecodeError::Truncated("entry headers"))?;
    headers.iter().map(EntryHeader::decode).collect()
}

/// Length of the data that belongs to these headers.
#[must_use]
pub fn data_len(headers: &[EntryHeader]) -> u64 {
    headers.iter().map(|header| u64::from(header.len)).sum()
}

/// Joins headers with their data, which has to be exactly as long as they say. The entries share its memory.
pub fn join(headers: &[EntryHeader], data: &Bytes) -> Result<Vec<Entry>, DecodeError> {
    let expected = data_len(headers);
    if (data.len() as u64) < expected {
        return Err(DecodeError::Truncated("entry data"));
    }
    if data.len() as u64 > expected {
        return Err(DecodeError::TrailingBytes("entry data"));
    }
    let mut start = 0;
    Ok(headers
        .iter()
        .map(|header| {
            let end = start + usize::try_from(header.len).expect("part of the data's length");
            let data = data.slice(start..end);
            start = end;
            Entry { term: header.term, kind: header.kind, data }
        })
        .collect())
}

/// Reads a whole batch, which has to be all of `bytes`. The entries share its memory.
pub fn decode_batch(bytes: &Bytes) -> Result<Vec<Entry>, DecodeError> {
    let headers = decode_batch_headers(bytes)?;
    join(&headers, &bytes.slice(batch_header_len(headers.len())..))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(term: u64, kind: u8, len: u32) -> [u8; ENTRY_HEADER_LEN] {
        let mut bytes = [0xee; ENTRY_HEADER_LEN];
        bytes[..8].copy_from_slice(&term.to_le_bytes());
        bytes[8] = kind;
        bytes[12..].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    #[test]
    fn unused_header_bytes_are_ignored() {
        let decoded = EntryHeader::decode(&header(2, 2, 8)).unwrap();
        assert_eq!(decoded, EntryHeader { term: Term(2), kind: EntryKind::Barrier, len: 8 });
    }

    #[test]
    fn every_field_of_a_header_is_checked() {
        for (term, kind, len) in
            [(0, 1, 8), (1 << 63, 1, 8), (1, 0, 8), (1, 4, 8), (1, 1, 0), (1, 1, 4), (1, 1, u32::MAX)]
        {
            assert!(EntryHeader::decode(&header(term, kind, len)).is_err(), "{term} {kind} {len}");
        }
    }

    #[test]
    fn count_beyond_the_bytes_is_an_error() {
        for count in [1, 2, 1 << 20, 1 << 60, u64::MAX] {
            assert_eq!(
                decode_batch_headers(&count.to_le_bytes()),
                Err(DecodeError::Truncated("entry headers"))
            );
        }
        assert!(decode_batch_headers(&[0; 8]).is_err());
        assert!(decode_batch_headers(&[0; 7]).is_err());
    }

    #[test]
    fn entries_share_the_memory_of_the_batch() {
        let entry = Entry { term: Term(1), kind: EntryKind::Barrier, data: Entry::BARRIER_DATA };
        let mut buffer = BytesMut::new();
        encode_batch(&[entry.clone(), entry], &mut buffer);
        let batch = buffer.freeze();
        let entries = decode_batch(&batch).unwrap();
        assert_eq!(entries[1].data.as_ptr(), batch[48..].as_ptr());
        assert!(decode_batch(&batch.slice(..48)).is_err());
    }

    #[test]
    #[should_panic(expected = "whole number of words")]
    fn unaligned_data_is_a_bug() {
        let data = Bytes::from_static(b"abc");
        let _ = Entry { term: Term(1), kind: EntryKind::Command, data }.header();
    }
}
