//! How many entries a damaged stretch of an open segment may have held.
//!
//! What is found must be no less than what was there, whatever the damage, or the node would vote before it has caught up.
//! It should be no more, either, or the node would hardly ever vote again. So every batch that decodes is counted, a batch
//! whose header is whole is believed, and a batch whose header is damaged is still counted exactly where its own checksum
//! of the data proves where the data begins. Only the rest is bounded by its length.
//!
//! A page of a database may hold a copy of a batch. So the length before a batch that was found by searching is divided by
//! the size of an entry header alone: the headers of a batch stand before all its data, and so before any such copy.
//!
//! What was zeroed up to the end of the file is not seen: never written looks the same.

use bytes::Bytes;

use super::batch::{self, ENTRY_HEADER_LEN, EntryHeader, MAX_ENTRIES, PREAMBLE_LEN};
use super::bytes_of::{half_word, to_usize, word};
use super::checksum::checksum;
use super::segment::{MIN_ENTRY_LEN, SEARCH_BUDGET, Search, find_batch};

/// Words of zeros at the end of the last data that are tried: the end of the data is not known there.
const ZERO_WORDS: usize = 64;

/// Upper bound of the number of entries between `from`, where a batch should begin, and `used`.
pub(crate) fn most_entries(content: &Bytes, from: usize, used: usize) -> u64 {
    let mut budget = SEARCH_BUDGET;
    let (mut at, mut most) = (from, 0);
    while at < used {
        let (entries, end) = match batch::decode(content, at) {
            Ok(batch) => (batch.entries.len() as u64, batch.end),
            Err(error) => match (error.entries, error.end) {
                (Some(entries), Some(end)) => (entries as u64, end),
                _ => match find_batch(content, at + 8, used, &mut budget) {
                    Search::Found(next) => (stretch(content, at, Some(next), used), next),
                    Search::Nothing => (stretch(content, at, None, used), used),
                    Search::TooCostly => ((used - at) as u64 / MIN_ENTRY_LEN, used),
                },
            },
        };
        most += entries;
        at = end;
    }
    most
}

/// The same for a stretch without any batch that decodes, which ends at the batch `next` or behind the last one.
fn stretch(content: &[u8], at: usize, next: Option<usize>, used: usize) -> u64 {
    if let Some(count) = proven_count(content, at, next, used) {
        return count as u64;
    }
    match next {
        Some(next) => ((next - at) / ENTRY_HEADER_LEN) as u64,
        None => ((used - at) as u64 / MIN_ENTRY_LEN).max(1),
    }
}

/// Number of entries of the batch at `at` if the stretch is one batch, of which only the header is damaged.
fn proven_count(content: &[u8], at: usize, next: Option<usize>, used: usize) -> Option<usize> {
    let sum = half_word(content, at + 4)?;
    let claimed = word(content, at + 8).map(to_usize).filter(|count| (1..=MAX_ENTRIES).contains(count));
    let walked = count_headers(content, at, next.unwrap_or(used), next.is_some());
    let is_proven = |count: &usize| {
        let start = at + PREAMBLE_LEN + count * ENTRY_HEADER_LEN;
        match next {
            Some(next) => start < next && checksum(0, &content[start..next]) == sum,
            None => start < used && data_ends_with_zeros(content, start, used, sum),
        }
    };
    [claimed, walked].into_iter().flatten().find(is_proven)
}

/// Whether the checksum is that of the data from `start` up to `used` and some zeros behind it.
fn data_ends_with_zeros(content: &[u8], start: usize, used: usize, sum: u32) -> bool {
    let mut end = used.next_multiple_of(8);
    let Some(data) = content.get(start..end) else { return false };
    let mut found = checksum(0, data);
    for _ in 0..ZERO_WORDS {
        if found == sum {
            return true;
        }
        let Some(zeros) = content.get(end..end + 8) else { return false };
        found = checksum(found, zeros);
        end += 8;
    }
    false
}

/// Number of entry headers, from the first on, whose entries fill the stretch up to `end`: exactly, or at least.
fn count_headers(content: &[u8], at: usize, end: usize, exactly: bool) -> Option<usize> {
    let headers = content.get(at + PREAMBLE_LEN..end)?;
    let mut reached = at + PREAMBLE_LEN;
    for (number, header) in batch::entry_headers(headers).enumerate().take(MAX_ENTRIES) {
        if !is_plausible(header) {
            return None;
        }
        reached += ENTRY_HEADER_LEN + header.len as usize;
        if reached == end || (!exactly && reached > end) {
            return Some(number + 1);
        }
    }
    None
}

/// Whether this could be the header of an entry.
pub(crate) fn is_plausible(header: EntryHeader) -> bool {
    header.term != 0 && (1..=3).contains(&header.kind) && header.len.is_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::super::image::Random;
    use super::super::segment::{End, FORMAT, read_open};
    use super::*;
    use crate::{Entry, EntryKind, Term};

    const PREALLOCATED: u64 = 64 * 1024;

    /// Six batches of one to four entries; gives the file and where each batch starts.
    fn segment() -> (Vec<u8>, Vec<(usize, u64)>) {
        let mut content = FORMAT.to_le_bytes().to_vec();
        let mut starts = Vec::new();
        for (fill, count) in [(1, 1), (2, 4), (3, 2), (4, 1), (5, 3), (6, 2)] {
            let entry =
                |len: usize| Entry { term: Term(7), kind: EntryKind::Command, data: vec![fill; len].into() };
            let entries: Vec<Entry> = (1..=count).map(|number| entry(number * 504)).collect();
            starts.push((content.len(), count as u64));
            batch::encode(&entries, &mut content);
        }
        content.resize(to_usize(PREALLOCATED), 0);
        (content, starts)
    }

    /// Entries of the segment behind the first `found`.
    fn lost(starts: &[(usize, u64)], found: usize) -> u64 {
        starts.iter().map(|(_, count)| count).sum::<u64>() - found as u64
    }

    #[test]
    fn a_changed_byte_anywhere_is_bounded_by_exactly_what_was_there() {
        let (content, starts) = segment();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let mut tried = 0;
        for at in 0..end {
            // Every byte of a header, some of the data.
            let is_header = starts.iter().any(|(start, count)| {
                (*start..start + PREAMBLE_LEN + to_usize(*count) * ENTRY_HEADER_LEN).contains(&at)
            });
            if !is_header && at >= 8 && at % 97 != 0 {
                continue;
            }
            for mask in [1, 0x80, 0xff] {
                let mut damaged = content.clone();
                damaged[at] ^= mask;
                let open = read_open(&damaged.into(), PREALLOCATED);
                // In the last batch a length that reaches beyond the data looks like a write that was not finished.
                if open.end == End::Torn && at >= starts[5].0 {
                    continue;
                }
                let End::Damaged { may_hold, .. } = open.end else { panic!("{at} {mask}: {:?}", open.end) };
                assert_eq!(may_hold, lost(&starts, open.entries.len()), "byte {at} mask {mask}");
                tried += 1;
            }
        }
        assert!(tried > 900, "{tried}");
    }

    #[test]
    fn no_damage_makes_the_bound_too_low() {
        let (content, starts) = segment();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let mut random = Random(1);
        let mut damages = 0;
        for _ in 0..4000 {
            let mut damaged = content.clone();
            for _ in 0..=random.next() % 3 {
                let start = to_usize(random.next() % (end as u64 - 1));
                let len = 1 + to_usize(random.next() % if random.coin() { 40 } else { 4000 });
                let stop = (start + len).min(end - 1);
                let copied = to_usize(random.next() % (end as u64 - len.min(end - 1) as u64));
                match random.next() % 3 {
                    0 => damaged[start..stop]
                        .iter_mut()
                        .for_each(|byte| *byte = random.next().to_le_bytes()[0]),
                    1 => damaged[start..stop].fill(0),
                    // Other batches, and parts of them.
                    _ => damaged[start..stop].copy_from_slice(&content[copied..copied + (stop - start)]),
                }
            }
            // Else the end of what was written is not known.
            if damaged[end - 1] == 0 {
                continue;
            }
            let open = read_open(&damaged.into(), PREALLOCATED);
            if let End::Damaged { may_hold, .. } = open.end {
                let truly = starts.iter().map(|(_, count)| count).sum::<u64>();
                let found = open.entries.len() as u64;
                assert!(found + may_hold >= truly, "{found} and {may_hold} of {truly}");
                damages += 1;
            }
        }
        assert!(damages > 2000, "{damages}");
    }

    #[test]
    fn a_file_that_was_cut_is_bounded_by_its_preallocated_size() {
        let (content, starts) = segment();
        for cut in [starts[2].0 + 3, starts[2].0 + 20, starts[2].0 + 100] {
            let open = read_open(&Bytes::copy_from_slice(&content[..cut]), PREALLOCATED);
            let End::Damaged { may_hold, .. } = open.end else { panic!("{cut}: {:?}", open.end) };
            assert!(may_hold >= lost(&starts, 5), "{cut}");
            assert!(may_hold <= (PREALLOCATED - starts[2].0 as u64) / MIN_ENTRY_LEN + 2, "{cut}: {may_hold}");
        }
    }
}
