//! The work of the snapshot thread without the thread: from page tables to a file, in slices, and back.

use bytes::{Bytes, BytesMut};
use raft_glue::SnapshotMetadata;
use raft_glue::disk::{self, Disk};
use vfs::{DatabaseSnapshot, PAGE_SIZE};
use wire_protocol::snapshot::{encode_database_header, encode_payload_header};

use crate::core::{SnapshotDone, SnapshotJob};

/// Pages handed to the file at a time: a tenth of a millisecond or so, after which the thread may leave the processor.
const SLICE_PAGES: u32 = 16;

/// Runs a job. A write asks before each slice whether it goes on; one that does not leaves no file behind.
///
/// `timestamp_ms` is the time since the epoch.
pub fn run<D: Disk>(
    disk: &D,
    job: SnapshotJob,
    compression: bool,
    timestamp_ms: u64,
    goes_on: impl FnMut() -> bool,
) -> SnapshotDone {
    match job {
        SnapshotJob::Write { metadata, databases } => {
            let result = write(disk, &metadata, &databases, compression, timestamp_ms, goes_on);
            SnapshotDone::Written { metadata, result }
        }
        SnapshotJob::Read { to, metadata } => {
            let result = disk::read_snapshot(disk, &metadata).map_err(|error| error.to_string());
            SnapshotDone::Read { to, metadata, result }
        }
    }
}

fn write<D: Disk>(
    disk: &D,
    metadata: &SnapshotMetadata,
    databases: &[(Bytes, DatabaseSnapshot)],
    compression: bool,
    timestamp_ms: u64,
    mut goes_on: impl FnMut() -> bool,
) -> Result<(), String> {
    let mut write = || {
        let mut payload = Payload::new(databases.to_vec());
        let len = payload.len;
        // Ending early makes the file too short, which fails the write and removes what there is of it.
        let mut slices = std::iter::from_fn(|| if goes_on() { payload.next() } else { None });
        disk::write_snapshot(disk, metadata, compression, timestamp_ms, &mut slices, len)
    };
    let result = match write() {
        Err(error) if error.is_no_space() => match disk::give_up_older_snapshots(disk) {
            Ok(true) => {
                tracing::warn!(%error, "no space for a snapshot beside two older ones; the oldest is given up");
                write()
            }
            Ok(false) => Err(error),
            Err(error) => Err(error),
        },
        result => result,
    };
    result.map_err(|error| error.to_string())
}

/// The payload of a snapshot, slice by slice.
#[derive(Debug)]
struct Payload {
    /// Length of all slices together, bytes.
    len: u64,
    header: Option<Bytes>,
    databases: std::vec::IntoIter<(Bytes, DatabaseSnapshot)>,
    /// The database under way and its next page.
    current: Option<(DatabaseSnapshot, u32)>,
}

impl Payload {
    fn new(databases: Vec<(Bytes, DatabaseSnapshot)>) -> Self {
        let header = encode_payload_header(databases.len() as u64);
        let len = header.len() as u64
            + databases
                .iter()
                .map(|(name, snapshot)| {
                    let size = image_len(snapshot);
                    encode_database_header(name, size, 0).len() as u64 + size
                })
                .sum::<u64>();
        Self { len, header: Some(header), databases: databases.into_iter(), current: None }
    }
}

fn image_len(snapshot: &DatabaseSnapshot) -> u64 {
    u64::from(snapshot.page_count()) * PAGE_SIZE as u64
}

impl Iterator for Payload {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(header) = self.header.take() {
            return Some(header);
        }
        if let Some((snapshot, next)) = &mut self.current
            && *next <= snapshot.page_count()
        {
            let count = SLICE_PAGES.min(snapshot.page_count() - *next + 1);
            let mut slice = BytesMut::with_capacity(count as usize * PAGE_SIZE);
            for number in *next..*next + count {
                slice.extend_from_slice(&snapshot.page(number)[..]);
            }
            *next += count;
            return Some(slice.freeze());
        }
        let (name, snapshot) = self.databases.next()?;
        let header = encode_database_header(&name, image_len(&snapshot), 0);
        self.current = Some((snapshot, 1));
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use raft_glue::disk::OsDisk;
    use raft_glue::{Configuration, LogIndex, Term};
    use vfs::{DatabaseName, Vfs};
    use wire_protocol::snapshot::PayloadDecoder;

    use super::*;

    fn databases(vfs: &Vfs) -> Vec<(Bytes, DatabaseSnapshot)> {
        [("small", 1), ("large", 3 * SLICE_PAGES + 5)]
            .into_iter()
            .map(|(name, pages)| {
                let database = vfs.get_or_create(&DatabaseName::replicated(name.as_bytes()).unwrap());
                let images: Vec<Vec<u8>> = (1..=pages).map(|number| page(number, pages)).collect();
                database.restore(pages, &mut images.iter().map(Vec::as_slice)).unwrap();
                (Bytes::from_static(name.as_bytes()), database.snapshot())
            })
            .collect()
    }

    /// A page with its number all over; the first is a header SQLite would accept.
    fn page(number: u32, pages: u32) -> Vec<u8> {
        let mut page = vec![u8::try_from(number % 251).unwrap(); PAGE_SIZE];
        if number == 1 {
            page[..16].copy_from_slice(b"SQLite format 3\0");
            page[16..24].copy_from_slice(&[16, 0, 2, 2, 0, 64, 32, 32]);
            page[24..28].copy_from_slice(&1_u32.to_be_bytes());
            page[28..32].copy_from_slice(&pages.to_be_bytes());
            page[92..96].copy_from_slice(&1_u32.to_be_bytes());
        }
        page
    }

    #[test]
    fn slices_make_the_payload_and_their_length_is_known_before() {
        let vfs = Vfs::register().unwrap();
        let payload = Payload::new(databases(&vfs));
        let len = payload.len;
        let slices: Vec<Bytes> = payload.collect();
        assert!(slices.iter().all(|slice| slice.len() <= SLICE_PAGES as usize * PAGE_SIZE));
        let bytes = Bytes::from(slices.concat());
        assert_eq!(bytes.len() as u64, len);
        let decoded: Vec<_> = PayloadDecoder::new(&bytes).unwrap().map(Result::unwrap).collect();
        assert_eq!(decoded.len(), 2);
        assert_eq!((&decoded[0].name[..], decoded[0].main.len()), (&b"small"[..], PAGE_SIZE));
        assert_eq!(decoded[1].main.len(), (3 * SLICE_PAGES as usize + 5) * PAGE_SIZE);
        let last = &decoded[1].main[decoded[1].main.len() - PAGE_SIZE..];
        assert_eq!(last, page(3 * SLICE_PAGES + 5, 0));
    }

    #[test]
    fn stop_abandons_a_write_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path()).unwrap();
        let vfs = Vfs::register().unwrap();
        let metadata = SnapshotMetadata {
            index: LogIndex(7),
            term: Term(2),
            configuration: Configuration::default(),
            configuration_index: LogIndex(1),
        };
        assert!(write(&disk, &metadata, &databases(&vfs), true, 1, || false).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
