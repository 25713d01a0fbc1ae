//! The open segments: the one being written and those prepared ahead.
//!
//! Space is reserved before anything is written, so that a full disk changes nothing. A segment gets its first byte
//! only when its predecessor is durable and closed, so that the order of open segments is the order of their entries.
//! One write carries one batch, so that a torn write never leaves a valid batch behind a hole. It begins with what the
//! last block holds already, as blocks are written whole.

use std::collections::VecDeque;
use std::io;

use super::batch::{self, MAX_ENTRIES, PREAMBLE_LEN, encoded_len};
use super::blocks::{BLOCK_LEN, BlockBuffer};
use super::bytes_of::to_usize;
use super::error::{DiskError, lacks_space};
use super::extent::Extent;
use super::file_system::{Disk, File};
use super::files;
use super::names::{ClosedName, OpenName};
use super::segment::{FORMAT, HEADER_LEN};
use crate::Entry;

/// Segments prepared ahead, as many as C keeps. What is captured or proposed already finds room in them when no new one
/// can be made.
const RESERVE: usize = 2;
/// Files larger than a segment grow in these steps.
const GROWTH: u64 = BLOCK_LEN as u64;
/// Zeros that always stay behind the last batch: C's reader needs a whole preamble of them, and aborts at half of one.
const TAIL_LEN: u64 = PREAMBLE_LEN as u64;

/// A segment that got its final name.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) name: ClosedName,
    pub(crate) extent: Extent,
}

#[derive(Debug)]
struct Reserved<F> {
    name: OpenName,
    file: F,
    /// Bytes that are allocated.
    size: u64,
}

#[derive(Debug)]
struct Current<F> {
    segment: Reserved<F>,
    extent: Extent,
    /// What stands in the last block, if that is not full.
    tail: Vec<u8>,
}

/// Writes batches into open segments.
#[derive(Debug)]
pub(crate) struct Writer<D: Disk> {
    disk: D,
    segment_size: u64,
    next_counter: u64,
    current: Option<Current<D::File>>,
    prepared: VecDeque<Reserved<D::File>>,
    buffer: BlockBuffer,
}

/// A batch, written at once.
struct Part<'a> {
    /// Into a segment of its own, not into the current one.
    fresh: bool,
    entries: &'a [Entry],
    /// Offset behind it.
    end: u64,
}

impl<D: Disk> Writer<D> {
    /// `segment_size` is the size that open segments are created with, and the first has the counter `next_counter`. The
    /// directory holds none.
    pub(crate) fn new(disk: D, segment_size: u64, next_counter: u64) -> Self {
        Self {
            disk,
            segment_size,
            next_counter,
            current: None,
            prepared: VecDeque::new(),
            buffer: BlockBuffer::default(),
        }
    }

    /// Where the entries of the current segment lie, if there are any.
    pub(crate) fn extent(&self) -> Option<&Extent> {
        self.current.as_ref().map(|current| &current.extent).filter(|extent| extent.entries > 0)
    }

    /// Name of the current segment.
    pub(crate) fn name(&self) -> Option<&str> {
        self.current.as_ref().map(|current| current.segment.name.name.as_str())
    }

    /// Index at which the current segment begins, and its counter.
    pub(crate) fn place(&self) -> Option<(u64, u64)> {
        self.current.as_ref().map(|current| (current.extent.first, current.segment.name.counter))
    }

    /// The lowest counter that no segment in use has had.
    pub(crate) fn free_counter(&self) -> u64 {
        self.prepared.front().map_or(self.next_counter, |segment| segment.name.counter)
    }

    /// Writes the entries from index `first` on durably, as one batch if it fits. Segments that became full on the way
    /// are given to `finished`. Before a segment gets its first byte, `put_to_use` is told of all finished ones, of the
    /// index at which it begins, and of its counter.
    ///
    /// Fails with [`DiskError::NoSpace`] before anything is written.
    pub(crate) fn append(
        &mut self,
        first: u64,
        entries: &[Entry],
        finished: &mut Vec<Finished>,
        mut put_to_use: impl FnMut(&[Finished], u64, u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let parts = self.lay_out(entries);
        self.reserve(&parts)?;
        let mut first = first;
        for part in &parts {
            if part.fresh {
                finished.extend(self.finish()?);
                let segment = self.prepared.pop_front().expect("a segment was reserved for every part");
                let counter = segment.name.counter;
                self.current = Some(Current { segment, extent: Extent::empty(first), tail: Vec::new() });
                put_to_use(finished, first, counter)?;
            }
            let written = self.write(part);
            self.buffer.rest();
            written?;
            first += part.entries.len() as u64;
        }
        Ok(())
    }

    fn lay_out<'a>(&self, entries: &'a [Entry]) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let empty = HEADER_LEN as u64;
        let mut fresh = self.current.is_none();
        let mut end = self.current.as_ref().map_or(empty, |current| current.extent.end);
        let mut rest = entries;
        while !rest.is_empty() {
            let mut count = fitting(rest, self.segment_size.saturating_sub(end + TAIL_LEN));
            if count == 0 && end > empty {
                fresh = true;
                end = empty;
                continue;
            }
            // Larger than a whole segment: alone in one, which grows.
            count = count.max(1);
            let (entries, others) = rest.split_at(count);
            end += batch_len(entries) as u64;
            parts.push(Part { fresh, entries, end });
            fresh = false;
            rest = others;
        }
        parts
    }

    /// Allocates everything the parts need.
    fn reserve(&mut self, parts: &[Part<'_>]) -> Result<(), DiskError> {
        let mut fresh = 0;
        for part in parts {
            if part.fresh {
                let least = part.end + TAIL_LEN;
                let usual = least.max(self.segment_size);
                if self.prepared.len() == fresh {
                    self.prepare(usual).or_else(|error| match error {
                        // Something that must be written, such as the start of a term, fits where no reserve does.
                        error if error.is_no_space() && least < usual => self.prepare(least),
                        error => Err(error),
                    })?;
                }
                grow(&mut self.prepared[fresh], least)?;
                fresh += 1;
            } else if fresh == 0 {
                // Large enough unless a failed write cut it or the first batch is too large for a segment.
                let current = self.current.as_mut().expect("only a current segment is continued");
                grow(&mut current.segment, part.end + TAIL_LEN)?;
            }
        }
        Ok(())
    }

    /// Prepares segments until the reserve is complete. False if there is no space for that.
    pub(crate) fn replenish(&mut self) -> bool {
        while self.prepared.len() < RESERVE {
            if let Err(error) = self.prepare(self.segment_size) {
                tracing::debug!("prepare a segment ahead: {error}");
                // Any other failure comes again when the segment is needed, and counts then.
                return !error.is_no_space();
            }
        }
        true
    }

    fn prepare(&mut self, size: u64) -> Result<(), DiskError> {
        let name = OpenName::new(self.next_counter);
        let what = format!("create segment {}", name.name);
        let file = match self.disk.create_for_blocks(&name.name) {
            Ok(file) => file,
            Err(error) => return Err(no_space(error, &what, "open", &name.name, size)),
        };
        let mut segment = Reserved { name, file, size: 0 };
        let result = grow(&mut segment, size).and_then(|()| match planted::bug!(SegmentNameNotSynced) {
            true => Ok(()),
            false => files::sync_directory(&self.disk, &what),
        });
        if let Err(error) = result {
            // Leaves nothing behind, if it can: the space is needed.
            let _ = self.disk.unlink(&segment.name.name);
            return Err(error.without_space_for_new(&segment.name.name));
        }
        self.next_counter += 1;
        self.prepared.push_back(segment);
        Ok(())
    }

    fn write(&mut self, part: &Part<'_>) -> Result<(), DiskError> {
        let current = self.current.as_mut().expect("a part has a segment");
        let is_first = current.extent.entries == 0;
        let offset = if is_first { 0 } else { current.extent.end };
        let start = offset - current.tail.len() as u64;
        let bytes = self.buffer.begin(to_usize(part.end - start));
        bytes.extend_from_slice(&current.tail);
        if is_first {
            bytes.extend_from_slice(&FORMAT.to_le_bytes());
        }
        let before = bytes.len();
        batch::encode(part.entries, bytes);
        let len = bytes.len() - before;
        let blocks = self.buffer.blocks();
        let segment = &mut current.segment;
        let what = format!("write to {}", segment.name.name);
        if let Err(error) = segment.file.write_at(blocks, start) {
            // What was written of it must not be found: neither by the next start, nor behind a shorter write that
            // comes later.
            let cut = segment.file.truncate(offset);
            if !lacks_space(&error) {
                return Err(DiskError::io(what, "write")(error));
            }
            // A file system that cannot really reserve.
            cut.map_err(DiskError::io(what, "truncate"))?;
            segment.size = offset;
            return Err(DiskError::NoSpace { name: segment.name.name.clone(), bytes: blocks.len() as u64 });
        }
        if !planted::bug!(SkipSync) {
            segment.file.sync().map_err(DiskError::io(what, "fsync"))?;
        }
        let content = &blocks[..to_usize(part.end - start)];
        current.extent.push(part.entries.len(), &content[content.len() - len..]);
        current.tail.clear();
        current.tail.extend_from_slice(&content[content.len() / BLOCK_LEN * BLOCK_LEN..]);
        Ok(())
    }

    /// Gives the current segment its final name, durably, or removes it if it is empty.
    pub(crate) fn finish(&mut self) -> Result<Option<Finished>, DiskError> {
        let Some(current) = self.current.take() else { return Ok(None) };
        let open = current.segment.name.name;
        let what = format!("close segment {open}");
        if current.extent.entries == 0 {
            self.disk.unlink(&open).map_err(DiskError::io(&what, "unlink"))?;
            files::sync_directory(&self.disk, &what)?;
            return Ok(None);
        }
        let name = ClosedName::new(current.extent.first, current.extent.next() - 1);
        close_file(&self.disk, &current.segment.file, current.extent.end, &open, &name, &what)?;
        Ok(Some(Finished { name, extent: current.extent }))
    }

    /// Removes the prepared segments.
    pub(crate) fn remove_prepared(&mut self) -> Result<(), DiskError> {
        let what = "remove prepared segments";
        let any = !self.prepared.is_empty();
        for segment in self.prepared.drain(..) {
            files::remove_if_exists(&self.disk, &segment.name.name, what)?;
        }
        if any { files::sync_directory(&self.disk, what) } else { Ok(()) }
    }
}

/// Cuts an open segment to its content and gives it its final name, durably.
pub(crate) fn close_file<D: Disk>(
    disk: &D,
    file: &D::File,
    len: u64,
    open: &str,
    closed: &ClosedName,
    what: &str,
) -> Result<(), DiskError> {
    file.truncate(len).map_err(DiskError::io(what, "truncate"))?;
    // Before the rename: a closed segment with anything behind its last batch is damaged to every reader.
    file.sync().map_err(DiskError::io(what, "fsync"))?;
    disk.rename(open, &closed.name).map_err(DiskError::io(what, "rename"))?;
    files::sync_directory(disk, what)
}

fn grow<F: File>(segment: &mut Reserved<F>, needed: u64) -> Result<(), DiskError> {
    if segment.size >= needed {
        return Ok(());
    }
    let size = needed.next_multiple_of(GROWTH);
    let name = &segment.name.name;
    let what = format!("create segment {name}");
    segment.file.allocate(size).map_err(|error| no_space(error, &what, "posix_allocate", name, size))?;
    segment.file.sync().map_err(DiskError::io(&what, "fsync"))?;
    segment.size = size;
    Ok(())
}

fn no_space(error: io::Error, what: &str, operation: &'static str, name: &str, bytes: u64) -> DiskError {
    if lacks_space(&error) {
        DiskError::NoSpace { name: name.to_owned(), bytes }
    } else {
        DiskError::io(what, operation)(error)
    }
}

fn batch_len(entries: &[Entry]) -> usize {
    encoded_len(entries.len(), entries.iter().map(|entry| entry.data.len()).sum())
}

/// How many of the entries fit into `room` bytes as one batch.
fn fitting(entries: &[Entry], room: u64) -> usize {
    let mut data_len = 0;
    for (count, entry) in entries.iter().enumerate() {
        data_len += entry.data.len();
        if count == MAX_ENTRIES || encoded_len(count + 1, data_len) as u64 > room {
            return count;
        }
    }
    entries.len()
}
