//! Where the entries of a segment lie in its file.

use super::batch::{self, PREAMBLE_LEN};
use super::bytes_of::to_usize;
use super::checksum::checksum;
use super::error::DiskError;
use super::file_system::File;
use super::segment::{BatchPlace, HEADER_LEN};
use crate::Entry;

/// Position of a segment in the log and of its batches in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Index of the first entry.
    pub(crate) first: u64,
    /// Number of entries.
    pub(crate) entries: u64,
    /// Every batch, in order.
    pub(crate) batches: Vec<BatchPlace>,
    /// Offset behind the last batch.
    pub(crate) end: u64,
    /// Checksum over the preambles of all batches, which hold the checksums of everything else.
    pub(crate) sum: u32,
}

impl Extent {
    /// A segment without entries.
    pub(crate) fn empty(first: u64) -> Self {
        Self { first, entries: 0, batches: Vec::new(), end: HEADER_LEN as u64, sum: 0 }
    }

    /// Index of the entry that would come next.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries
    }

    /// Notes a batch of so many entries behind the others; `encoded` are its bytes.
    pub(crate) fn push(&mut self, entries: usize, encoded: &[u8]) {
        self.batches.push(BatchPlace { before: to_usize(self.entries), offset: self.end });
        self.entries += entries as u64;
        self.end += encoded.len() as u64;
        self.sum = checksum(self.sum, &encoded[..PREAMBLE_LEN]);
    }

    /// The checksum of a segment with these batches.
    pub(crate) fn sum_of(content: &[u8], batches: &[BatchPlace]) -> u32 {
        let preamble = |batch: &BatchPlace| {
            let start = to_usize(batch.offset);
            &content[start..start + PREAMBLE_LEN]
        };
        batches.iter().map(preamble).fold(0, checksum)
    }

    fn contains(&self, index: u64) -> bool {
        index >= self.first && index < self.next()
    }

    /// Reads entries from `next` on into `entries`, batch by batch, until `wanted` says no.
    pub(crate) fn read<F: File>(
        &self,
        file: &F,
        name: &str,
        next: &mut u64,
        mut wanted: impl FnMut(&Entry) -> bool,
        entries: &mut Vec<Entry>,
    ) -> Result<bool, DiskError> {
        let what = || format!("read entries from {name}");
        while self.contains(*next) {
            let within = to_usize(*next - self.first);
            let number = self.batches.partition_point(|batch| batch.before <= within) - 1;
            let place = self.batches[number];
            let end = self.batches.get(number + 1).map_or(self.end, |batch| batch.offset);
            let mut content = vec![0; to_usize(end - place.offset)];
            let read = file.read_at(&mut content, place.offset).map_err(DiskError::io(what(), "read"))?;
            content.truncate(read);
            let batch = batch::decode(&content.into(), 0).map_err(|error| DiskError::Corrupt {
                what: what(),
                message: format!("batch at byte {}: {}", place.offset, error.message),
            })?;
            for entry in batch.entries.into_iter().skip(within - place.before) {
                if !wanted(&entry) {
                    return Ok(false);
                }
                entries.push(entry);
                *next += 1;
            }
        }
        Ok(true)
    }
}
