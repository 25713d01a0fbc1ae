//! Segments: a format word (8 bytes, 1) and then batches.
//!
//! A closed segment ends exactly behind its last batch and its name says what it holds. An open one is preallocated,
//! reads as zeros behind its last batch, and says nothing about its place in the log.
//!
//! What a crash can leave at the end of an open segment is the last write, of which each 512-byte sector is either
//! there or still zero. Only that is cut silently. Everything else that does not decode is damage: a defect with
//! valid batches behind it (they were written after it was durable), a defect in a range without any missing sector,
//! a file that ends before its preallocated size.

use bytes::Bytes;

use super::batch::{self, BatchError, Defect, ENTRY_HEADER_LEN, MAX_ENTRIES, PREAMBLE_LEN, encoded_len};
use super::bound::{is_plausible, most_entries};
use super::bytes_of::{is_zero, to_usize, used_len, word};
use super::extent::Extent;
use crate::Entry;

/// The only format ever released.
pub(crate) const FORMAT: u64 = 1;
/// Size of the format word.
pub(crate) const HEADER_LEN: usize = 8;
/// Unit that the storage writes completely or not at all.
pub(crate) const SECTOR: usize = 512;
/// No entry takes less: its header and one word of data.
pub(crate) const MIN_ENTRY_LEN: u64 = 24;
/// Bytes that the search for batches behind a defect may hash; files that need more are made to annoy.
pub(crate) const SEARCH_BUDGET: usize = 64 * 1024 * 1024;

/// Where something does not decode, and C's text for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) offset: u64,
    pub(crate) message: String,
}

/// Content of a closed segment.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// Entries up to the first failure, never more than the name promises.
    pub(crate) entries: Vec<Entry>,
    /// Where each batch starts, and how many entries come before it.
    pub(crate) batches: Vec<BatchPlace>,
    /// Why it is not exactly what its name promises.
    pub(crate) failure: Option<Failure>,
    /// It holds more valid entries than its name promises.
    pub(crate) surplus: bool,
    /// Offset behind the last valid batch.
    pub(crate) len: u64,
}

/// Start of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchPlace {
    /// Entries of the segment before this batch.
    pub(crate) before: usize,
    /// Offset in the file.
    pub(crate) offset: u64,
}

/// Decodes a closed segment that should hold `expected` entries.
pub(crate) fn read_closed(content: &Bytes, expected: u64) -> Closed {
    let mut closed = Closed::default();
    if let Err(failure) = check_format(content) {
        closed.failure = Some(failure);
        return closed;
    }
    let mut offset = HEADER_LEN;
    while offset < content.len() {
        match batch::decode(content, offset) {
            Ok(mut batch) => {
                closed.batches.push(BatchPlace { before: closed.entries.len(), offset: offset as u64 });
                closed.entries.append(&mut batch.entries);
                offset = batch.end;
            }
            Err(error) => {
                closed.failure = Some(batch_failure(closed.batches.len(), offset, &error));
                break;
            }
        }
    }
    let found = closed.entries.len() as u64;
    if found != expected && closed.failure.is_none() {
        let message = format!("found {found} entries (expected {expected})");
        closed.failure = Some(Failure { offset: offset as u64, message });
    }
    closed.len = offset as u64;
    closed.surplus = found > expected;
    closed.entries.truncate(to_usize(expected));
    closed
}

fn check_format(content: &[u8]) -> Result<(), Failure> {
    let message = match (content.len(), word(content, 0)) {
        (0, _) => "file is empty".to_owned(),
        (len, None) => format!("file has only {len} bytes"),
        (_, Some(FORMAT)) => return Ok(()),
        (_, Some(format)) => format!("unexpected format version {format}"),
    };
    Err(Failure { offset: 0, message })
}

fn batch_failure(good_batches: usize, offset: usize, error: &BatchError) -> Failure {
    let message = format!(
        "entries batch {} starting at byte {}: {}",
        good_batches + 1,
        error.stopped_at,
        error.message
    );
    Failure { offset: offset as u64, message }
}

/// How an open segment ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Never written.
    Unused,
    /// Behind the last batch everything is zero.
    Complete,
    /// The last write did not finish; nobody was told that it did.
    Torn,
    /// Something that may have been acknowledged does not decode.
    Damaged {
        /// Where and what.
        failure: Failure,
        /// Upper bound of the number of entries that are lost.
        may_hold: u64,
    },
}

/// Content of an open segment.
#[derive(Debug)]
pub(crate) struct Open {
    /// Entries up to the end.
    pub(crate) entries: Vec<Entry>,
    /// Where each batch starts, and how many entries come before it.
    pub(crate) batches: Vec<BatchPlace>,
    /// Offset behind them.
    pub(crate) len: u64,
    /// As [`Extent::sum`].
    pub(crate) sum: u32,
    /// What comes then.
    pub(crate) end: End,
}

/// Decodes an open segment. `preallocated` is the size such files are created with.
pub(crate) fn read_open(content: &Bytes, preallocated: u64) -> Open {
    let mut open = Open { entries: Vec::new(), batches: Vec::new(), len: 0, sum: 0, end: End::Unused };
    let used = used_len(content);
    if used == 0 {
        return open;
    }
    if let Err(failure) = check_format(content) {
        // The first write carries the format word: if its whole sector is missing, that write was not finished.
        let first_sector = &content[..content.len().min(SECTOR)];
        open.end = if is_zero(first_sector) && !has_batch(content, HEADER_LEN, used) {
            End::Torn
        } else {
            let cut = preallocated.saturating_sub(content.len() as u64) / MIN_ENTRY_LEN;
            End::Damaged { failure, may_hold: cut + most_entries(content, HEADER_LEN, used) }
        };
        return open;
    }
    let mut offset = HEADER_LEN;
    open.end = loop {
        open.len = offset as u64;
        // A file cut down to the bare format word was cut by something else than a crash.
        if offset >= used && !(open.batches.is_empty() && content.len() == HEADER_LEN) {
            break End::Complete;
        }
        match batch::decode(content, offset) {
            Ok(mut batch) => {
                open.batches.push(BatchPlace { before: open.entries.len(), offset: offset as u64 });
                open.entries.append(&mut batch.entries);
                offset = batch.end;
            }
            Err(error) => break classify(content, offset, used, open.batches.len(), &error, preallocated),
        }
    };
    open.sum = Extent::sum_of(content, &open.batches);
    open
}

fn classify(
    content: &Bytes,
    offset: usize,
    used: usize,
    batches: usize,
    error: &BatchError,
    preallocated: u64,
) -> End {
    let search_from = error.end.unwrap_or(offset + 8);
    let has_missing_sector = |end: usize| missing_sector(content, offset, end.min(content.len()));
    let torn = match error.defect {
        // Only a batch larger than a whole segment, alone in its file, makes the file grow while it is written.
        Defect::Short => offset == HEADER_LEN && content.len() as u64 >= preallocated,
        Defect::Preamble => word(content, offset + 8) == Some(0) && has_missing_sector(offset + PREAMBLE_LEN),
        Defect::Header => {
            let count = to_usize(word(content, offset + 8).expect("the preamble was read"));
            has_missing_sector(offset + PREAMBLE_LEN + count * ENTRY_HEADER_LEN)
        }
        Defect::Data => has_missing_sector(error.end.expect("the header is valid")),
        Defect::Content => false,
    };
    if torn && !has_batch(content, search_from, used) {
        return End::Torn;
    }
    let may_hold = if (content.len() as u64) < preallocated && error.defect == Defect::Short {
        // What came behind the cut cannot be known.
        let known = error.end.unwrap_or(offset) as u64;
        error.entries.unwrap_or(0) as u64 + preallocated.saturating_sub(known) / MIN_ENTRY_LEN
    } else {
        most_entries(content, offset, used)
    };
    End::Damaged { failure: batch_failure(batches, offset, error), may_hold }
}

/// Whether some sector, as far as it lies in the range, is all zero: it was not written.
fn missing_sector(content: &[u8], start: usize, end: usize) -> bool {
    let mut at = start;
    while at < end {
        let next = (at / SECTOR + 1) * SECTOR;
        if is_zero(&content[at..next.min(end)]) {
            return true;
        }
        at = next;
    }
    false
}

/// What a search for a batch found.
pub(crate) enum Search {
    /// The first one starts here.
    Found(usize),
    /// There is none.
    Nothing,
    /// More had to be hashed than the budget allows.
    TooCostly,
}

/// Whether a valid batch starts anywhere in the range, or there is too much to look at.
fn has_batch(content: &Bytes, from: usize, used: usize) -> bool {
    let mut budget = SEARCH_BUDGET;
    !matches!(find_batch(content, from, used, &mut budget), Search::Nothing)
}

/// The first valid batch in the range. `budget` is the number of bytes that may still be hashed.
pub(crate) fn find_batch(content: &Bytes, from: usize, used: usize, budget: &mut usize) -> Search {
    let mut at = from.next_multiple_of(8);
    while at < used {
        if let Some(len) = plausible_batch(content, at) {
            let Some(rest) = budget.checked_sub(len) else { return Search::TooCostly };
            *budget = rest;
            if batch::decode(content, at).is_ok() {
                return Search::Found(at);
            }
        }
        at += 8;
    }
    Search::Nothing
}

/// Length of the batch header at `at` if it could be one.
fn plausible_batch(content: &[u8], at: usize) -> Option<usize> {
    let count = word(content, at + 8)?;
    if count == 0 || count > MAX_ENTRIES as u64 {
        return None;
    }
    let len = PREAMBLE_LEN + to_usize(count) * ENTRY_HEADER_LEN;
    let headers = content.get(at + PREAMBLE_LEN..at.checked_add(len)?)?;
    batch::entry_headers(headers).all(is_plausible).then_some(len)
}

/// A whole closed segment. One batch, unless a reader would refuse so many entries.
pub(crate) fn encode(entries: &[Entry]) -> Vec<u8> {
    let data_len = entries.iter().map(|entry| entry.data.len()).sum();
    let mut content = Vec::with_capacity(HEADER_LEN + encoded_len(entries.len(), data_len));
    content.extend_from_slice(&FORMAT.to_le_bytes());
    for entries in entries.chunks(MAX_ENTRIES) {
        batch::encode(entries, &mut content);
    }
    content
}

/// Where the entries lie in `content`, which [`encode`] made of them.
pub(crate) fn extent(first: u64, entries: &[Entry], content: &[u8]) -> Extent {
    let mut extent = Extent::empty(first);
    for entries in entries.chunks(MAX_ENTRIES) {
        let start = to_usize(extent.end);
        let data_len = entries.iter().map(|entry| entry.data.len()).sum();
        extent.push(entries.len(), &content[start..start + encoded_len(entries.len(), data_len)]);
    }
    extent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntryKind, Term};

    fn entry(fill: u8, len: usize) -> Entry {
        Entry { term: Term(1), kind: EntryKind::Command, data: vec![fill; len].into() }
    }

    /// An open segment of two sectors a batch.
    fn open_segment(batches: u8) -> Vec<u8> {
        let mut content = FORMAT.to_le_bytes().to_vec();
        for fill in 1..=batches {
            batch::encode(&[entry(fill, 1024 - 32)], &mut content);
        }
        content.resize(16 * 1024, 0);
        content
    }

    fn read(content: Vec<u8>) -> Open {
        let preallocated = 16 * 1024;
        read_open(&content.into(), preallocated)
    }

    #[test]
    fn clean_ends() {
        assert_eq!(read(Vec::new()).end, End::Unused);
        assert_eq!(read(vec![0; 16 * 1024]).end, End::Unused);
        let open = read(open_segment(3));
        assert_eq!((open.entries.len(), open.len, open.end), (3, 8 + 3 * 1024, End::Complete));
        let mut bare = vec![0; 16 * 1024];
        bare[0] = 1;
        let open = read(bare);
        assert_eq!((open.entries.len(), open.end), (0, End::Complete));
        // Filled up to the last word, and cut to its content before the rename.
        for len in [8 + 3 * 1024, 16 + 3 * 1024] {
            let mut content = open_segment(3);
            content.truncate(len);
            let open = read(content);
            assert_eq!((open.entries.len(), open.end), (3, End::Complete));
        }
    }

    #[test]
    fn a_missing_sector_of_the_last_batch_is_a_torn_write() {
        let last = 8 + 2 * 1024;
        for sector in [last / SECTOR, last / SECTOR + 1, last / SECTOR + 2] {
            let mut content = open_segment(3);
            let start = (sector * SECTOR).max(last);
            content[start..(sector + 1) * SECTOR].fill(0);
            let open = read(content);
            assert_eq!((open.entries.len(), open.len, open.end), (2, last as u64, End::Torn), "{sector}");
        }
        let mut content = open_segment(1);
        content[..SECTOR].fill(0);
        assert_eq!(read(content).end, End::Torn);
    }

    #[test]
    fn a_missing_sector_before_a_valid_batch_is_damage() {
        let mut content = open_segment(3);
        content[1536..2048].fill(0);
        let open = read(content);
        assert_eq!(open.entries.len(), 1);
        let End::Damaged { failure, may_hold } = open.end else { panic!("{open:?}") };
        assert_eq!(failure.message, "entries batch 2 starting at byte 1032: data checksum mismatch");
        assert!(may_hold >= 2);
    }

    #[test]
    fn a_flipped_byte_without_missing_sector_is_damage() {
        for at in [8 + 2048, 8 + 2048 + 5, 8 + 2048 + 9, 8 + 2048 + 20, 3000] {
            let mut content = open_segment(3);
            content[at] ^= 0x10;
            assert!(matches!(read(content).end, End::Damaged { .. }), "{at}");
        }
        let mut content = open_segment(3);
        content[0] = 9;
        let End::Damaged { failure, .. } = read(content).end else { panic!("no damage") };
        assert_eq!(failure.message, "unexpected format version 9");
    }

    #[test]
    fn only_a_file_beyond_the_preallocated_size_may_end_inside_a_batch() {
        let mut content = FORMAT.to_le_bytes().to_vec();
        batch::encode(&[entry(1, 32 * 1024)], &mut content);
        content.truncate(20 * 1024);
        assert_eq!(read(content.clone()).end, End::Torn);
        content.truncate(12 * 1024);
        assert!(matches!(read(content).end, End::Damaged { .. }));
    }

    #[test]
    fn closed_segments_must_match_their_name() {
        let entries = [entry(1, 8), entry(2, 16)];
        let content: Bytes = encode(&entries).into();
        let closed = read_closed(&content, 2);
        assert_eq!((closed.entries.as_slice(), closed.failure), (entries.as_slice(), None));
        let failure = read_closed(&content, 3).failure.unwrap();
        assert_eq!(failure.message, "found 2 entries (expected 3)");
        let text = |content: &[u8]| read_closed(&Bytes::copy_from_slice(content), 2).failure.unwrap().message;
        assert_eq!(text(&[]), "file is empty");
        assert_eq!(text(&[1, 2, 3]), "file has only 3 bytes");
        assert_eq!(text(&[2, 0, 0, 0, 0, 0, 0, 0]), "unexpected format version 2");
        let mut tail = content.to_vec();
        tail.extend([0; 8]);
        let at = tail.len();
        assert_eq!(
            text(&tail),
            format!("entries batch 2 starting at byte {at}: read preamble: short read: 0 bytes instead of 8")
        );
    }
}
