//! Batches: the unit of writing and of checksums inside a segment.
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 4 | checksum of the header (count and entry headers) |
//! | 4 | 4 | checksum of the data of all entries |
//! | 8 | 8 | number of entries, n >= 1 |
//! | 16 | 16 n | entry headers: term (8), type (1), unused (3), length (4) |
//! | 16 + 16 n | | data of the entries, one after the other |
//!
//! The unused bytes may hold anything in files written by C; they are covered by the checksum.

use bytes::{BufMut, Bytes};

use super::bytes_of::{half_word, to_usize, word};
use super::checksum::checksum;
use super::names::MAX_TERM;
use crate::{Entry, EntryKind, Term};

/// Checksums and count.
pub(crate) const PREAMBLE_LEN: usize = 16;
/// Header of one entry.
pub(crate) const ENTRY_HEADER_LEN: usize = 16;
/// More entries than this in one batch are refused by every reader (8 MiB / 32).
pub(crate) const MAX_ENTRIES: usize = 262_144;

/// Bytes that a batch of `entries` entries with `data_len` bytes of data takes.
pub(crate) fn encoded_len(entries: usize, data_len: usize) -> usize {
    PREAMBLE_LEN + ENTRY_HEADER_LEN * entries + data_len
}

/// Appends one batch. The caller keeps to [`MAX_ENTRIES`] and to lengths that fit 32 bits.
pub(crate) fn encode(entries: &[Entry], buffer: &mut Vec<u8>) {
    let start = buffer.len();
    buffer.put_bytes(0, 8);
    buffer.put_u64_le(entries.len() as u64);
    let mut data_checksum = 0;
    for entry in entries {
        buffer.put_u64_le(entry.term.0);
        buffer.put_u8(entry.kind as u8);
        buffer.put_bytes(0, 3);
        buffer.put_u32_le(u32::try_from(entry.data.len()).expect("entries are limited to 4 GiB"));
        data_checksum = checksum(data_checksum, &entry.data);
    }
    let header_checksum = checksum(0, &buffer[start + 8..]);
    buffer[start..start + 4].copy_from_slice(&header_checksum.to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&data_checksum.to_le_bytes());
    for entry in entries {
        buffer.put_slice(&entry.data);
    }
}

/// How a batch failed to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The bytes end inside the batch.
    Short,
    /// The preamble cannot be one.
    Preamble,
    /// The header's checksum is wrong.
    Header,
    /// The data's checksum is wrong.
    Data,
    /// The checksums are right, but the content makes no sense.
    Content,
}

/// A batch that does not decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchError {
    pub(crate) defect: Defect,
    /// Where reading stopped, as C reports it.
    pub(crate) stopped_at: usize,
    /// C's text for the defect.
    pub(crate) message: String,
    /// Bytes up to here belong to the batch, as far as its header can be trusted.
    pub(crate) end: Option<usize>,
    /// Number of entries, if the header can be trusted.
    pub(crate) entries: Option<usize>,
}

/// A batch that does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    /// Offset behind it.
    pub(crate) end: usize,
}

/// Header of one entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryHeader {
    pub(crate) term: u64,
    pub(crate) kind: u8,
    pub(crate) len: u32,
}

/// Reads the entry headers behind a preamble that was checked already.
pub(crate) fn entry_headers(headers: &[u8]) -> impl Iterator<Item = EntryHeader> {
    headers.chunks_exact(ENTRY_HEADER_LEN).map(|header| EntryHeader {
        term: word(header, 0).expect("the chunk has sixteen bytes"),
        kind: header[8],
        len: half_word(header, 12).expect("the chunk has sixteen bytes"),
    })
}

fn kind_of(byte: u8) -> Option<EntryKind> {
    match byte {
        1 => Some(EntryKind::Command),
        2 => Some(EntryKind::Barrier),
        3 => Some(EntryKind::Configuration),
        _ => None,
    }
}

/// Decodes the batch at `offset` of a segment. Entry data shares the memory of `content`.
///
/// The checks and their order are C's, so that the same file gives the same text.
pub(crate) fn decode(content: &Bytes, offset: usize) -> Result<Batch, BatchError> {
    let fail = |defect, stopped_at, message: String| BatchError {
        defect,
        stopped_at,
        message,
        end: None,
        entries: None,
    };
    let rest = content.len().saturating_sub(offset);
    if rest < PREAMBLE_LEN {
        let (before, have) = if rest < 8 { (0, rest) } else { (8, rest - 8) };
        let message = format!("read preamble: short read: {have} bytes instead of 8");
        return Err(fail(Defect::Short, offset + before + have, message));
    }
    let header_checksum = half_word(content, offset).expect("the length was checked");
    let data_checksum = half_word(content, offset + 4).expect("the length was checked");
    let count = word(content, offset + 8).expect("the length was checked");
    if count == 0 {
        return Err(fail(Defect::Preamble, offset, "entries count in preamble is zero".to_owned()));
    }
    if count > MAX_ENTRIES as u64 {
        let message = format!("entries count {count} in preamble is too high");
        return Err(fail(Defect::Preamble, offset, message));
    }
    let count = to_usize(count);
    let headers_at = offset + PREAMBLE_LEN;
    let headers_len = count * ENTRY_HEADER_LEN;
    let data_at = headers_at + headers_len;
    if content.len() < data_at {
        let have = rest - PREAMBLE_LEN;
        let message = format!("read header: short read: {have} bytes instead of {headers_len}");
        return Err(fail(Defect::Short, offset, message));
    }
    if checksum(0, &content[offset + 8..data_at]) != header_checksum {
        return Err(fail(Defect::Header, offset, "header checksum mismatch".to_owned()));
    }
    let headers = &content[headers_at..data_at];
    let data_len = entry_headers(headers).fold(0, |sum: u64, header| sum + u64::from(header.len));
    let end = data_at.saturating_add(to_usize(data_len));
    let fail = |defect, message: String| BatchError {
        defect,
        stopped_at: offset,
        message,
        end: Some(end),
        entries: Some(count),
    };
    if let Some(header) = entry_headers(headers).find(|header| kind_of(header.kind).is_none()) {
        return Err(fail(Defect::Content, format!("unknown entry type {}", header.kind)));
    }
    if end > content.len() {
        let have = content.len() - data_at;
        let message = format!("read data: short read: {have} bytes instead of {data_len}");
        return Err(fail(Defect::Short, message));
    }
    if checksum(0, &content[data_at..end]) != data_checksum && !planted::bug!(TornTailAccepted) {
        return Err(fail(Defect::Data, "data checksum mismatch".to_owned()));
    }
    let mut entries = Vec::with_capacity(count);
    let mut at = data_at;
    for header in entry_headers(headers) {
        let len = header.len as usize;
        // C pads while cutting the data into entries, so any other length would be read as something else there.
        if !len.is_multiple_of(8) {
            return Err(fail(Defect::Content, format!("entry length {len} is not a multiple of 8")));
        }
        if header.term == 0 {
            return Err(fail(Defect::Content, "entry term is zero".to_owned()));
        }
        if header.term > MAX_TERM {
            return Err(fail(Defect::Content, format!("entry term {} is too high", header.term)));
        }
        let kind = kind_of(header.kind).expect("kinds were checked");
        entries.push(Entry { term: Term(header.term), kind, data: content.slice(at..at + len) });
        at += len;
    }
    Ok(Batch { entries, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barrier_of_term_2_has_the_known_bytes() {
        let entry = Entry { term: Term(2), kind: EntryKind::Barrier, data: Bytes::from_static(&[0; 8]) };
        let mut buffer = Vec::new();
        encode(std::slice::from_ref(&entry), &mut buffer);
        let expected = [
            0x58, 0xc2, 0x69, 0x47, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
            8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(buffer, expected);
        let batch = decode(&buffer.into(), 0).unwrap();
        assert_eq!((batch.entries, batch.end), (vec![entry], 40));
    }

    #[test]
    fn a_term_that_no_cluster_reaches_is_an_error() {
        for (term, is_ok) in [(1, true), (1 << 63, true), ((1 << 63) + 1, false), (u64::MAX, false)] {
            let entry =
                Entry { term: Term(term), kind: EntryKind::Barrier, data: Bytes::from_static(&[0; 8]) };
            let mut buffer = Vec::new();
            encode(std::slice::from_ref(&entry), &mut buffer);
            assert_eq!(decode(&buffer.into(), 0).is_ok(), is_ok, "{term}");
        }
    }

    #[test]
    fn every_cut_and_every_flip_is_noticed() {
        let entries: Vec<Entry> = (1..4)
            .map(|i| Entry {
                term: Term(i),
                kind: EntryKind::Command,
                data: vec![u8::try_from(i).unwrap(); 8 * usize::try_from(i).unwrap()].into(),
            })
            .collect();
        let mut buffer = Vec::new();
        encode(&entries, &mut buffer);
        assert_eq!(buffer.len(), encoded_len(3, 48));
        assert_eq!(decode(&buffer.clone().into(), 0).unwrap().entries, entries);
        for cut in 0..buffer.len() {
            let error = decode(&Bytes::copy_from_slice(&buffer[..cut]), 0).unwrap_err();
            assert_eq!(error.defect, Defect::Short);
        }
        for bit in 0..buffer.len() * 8 {
            let mut damaged = buffer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged.into(), 0).is_err(), "bit {bit}");
        }
    }
}
