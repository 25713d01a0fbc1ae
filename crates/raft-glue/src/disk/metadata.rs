//! `metadata1` and `metadata2`: term and vote.
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 8 | format = 1 |
//! | 8 | 8 | version: counts writes, from 1 |
//! | 16 | 8 | current term |
//! | 24 | 8 | voted for: node id, or 0 |
//!
//! An odd version goes to `metadata1`, an even one to `metadata2`, so that the newest record is never overwritten.
//! There is no checksum: 32 bytes lie within a sector, and a shorter file is one whose creation was interrupted.

use std::io;

use super::bytes_of::{is_zero, word};
use super::error::DiskError;
use super::file_system::{Disk, File};
use super::names::{MAX_TERM, METADATA};
use crate::{HardState, NodeId, Term};

const FORMAT: u64 = 1;
/// No directory sees so many writes; leaves room for those to come.
const MAX_VERSION: u64 = 1 << 62;
/// Size of each file.
pub(crate) const SIZE: usize = 32;

/// Content of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) version: u64,
    pub(crate) hard_state: HardState,
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; SIZE] {
        let vote = self.hard_state.vote.map_or(0, |id| id.0);
        let mut bytes = [0; SIZE];
        let words = [FORMAT, self.version, self.hard_state.term.0, vote];
        for (field, value) in bytes.chunks_exact_mut(8).zip(words) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The error is C's text.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() != SIZE {
            return Err(format!("{name} has size {} instead of {SIZE}", bytes.len()));
        }
        let field = |index: usize| word(bytes, index * 8).expect("the size was checked");
        if field(0) != FORMAT {
            return Err(format!("decode content of {name}: bad format version {}", field(0)));
        }
        if field(1) == 0 {
            return Err(format!("decode content of {name}: version is set to zero"));
        }
        if field(1) > MAX_VERSION {
            return Err(format!("decode content of {name}: version {} is too high", field(1)));
        }
        if field(2) > MAX_TERM {
            return Err(format!("decode content of {name}: term {} is too high", field(2)));
        }
        let vote = Some(field(3)).filter(|id| *id != 0).map(NodeId);
        Ok(Self { version: field(1), hard_state: HardState { term: Term(field(2)), vote } })
    }

    fn file_name(&self) -> &'static str {
        METADATA[usize::from(self.version.is_multiple_of(2))]
    }
}

/// What the two files say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Examined {
    /// The newest valid record.
    pub(crate) newest: Option<Record>,
    /// Files whose creation was interrupted: too short, or all zero beside the very first record.
    pub(crate) short: Vec<String>,
    /// Files that do not decode, and why.
    pub(crate) damaged: Vec<(String, String)>,
    /// Both files are valid but contradict each other.
    pub(crate) conflict: Option<String>,
}

/// Reads both files; changes nothing.
pub(crate) fn examine<D: Disk>(disk: &D) -> Result<Examined, DiskError> {
    let mut examined = Examined::default();
    let mut records: Vec<Record> = Vec::new();
    let mut zero = Vec::new();
    for name in METADATA {
        let file = match disk.open_read(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(DiskError::io(format!("read content of {name}"), "open")(error)),
        };
        let mut bytes = [0; SIZE];
        let read =
            file.read_at(&mut bytes, 0).map_err(DiskError::io(format!("read content of {name}"), "read"))?;
        let size = file.size().map_err(DiskError::io(format!("check size of {name}"), "stat"))?;
        if read < SIZE {
            examined.short.push(name.to_owned());
        } else if size != SIZE as u64 {
            let message = format!("{name} has size {size} instead of {SIZE}");
            examined.damaged.push((name.to_owned(), message));
        } else {
            match Record::decode(name, &bytes) {
                Ok(record) => records.push(record),
                Err(message) if is_zero(&bytes) => zero.push((name.to_owned(), message)),
                Err(message) => examined.damaged.push((name.to_owned(), message)),
            }
        }
    }
    // A file system may make the size of a new file durable before its content. Later writes go over older content.
    if matches!(records[..], [] | [Record { version: 1, .. }])
        && examined.damaged.is_empty()
        && zero.len() == 1
    {
        examined.short.extend(zero.into_iter().map(|(name, _)| name));
    } else {
        examined.damaged.extend(zero);
    }
    if let [first, second] = records[..]
        && first.version == second.version
        && first != second
    {
        let version = first.version;
        examined.conflict = Some(format!("metadata1 and metadata2 are both at version {version}"));
    }
    examined.newest = records.into_iter().max_by_key(|record| record.version);
    Ok(examined)
}

/// Makes `record` durable; the other file stays as it is.
pub(crate) fn write<D: Disk>(disk: &D, record: &Record) -> Result<(), DiskError> {
    let name = record.file_name();
    let what = format!("persist {name}");
    let (file, created) = match disk.open(name) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (disk.create(name).map_err(DiskError::io(&what, "open"))?, true)
        }
        Err(error) => return Err(DiskError::io(what, "open")(error)),
    };
    if let Err(error) = file.write_at(&record.encode(), 0) {
        if created {
            // Else a second try would find the name and not know that it is not durable.
            disk.unlink(name).map_err(DiskError::io(&what, "unlink"))?;
        }
        return Err(DiskError::io(what, "write")(error));
    }
    file.sync().map_err(DiskError::io(&what, "fsync"))?;
    if created {
        disk.sync_directory().map_err(DiskError::io(what, "fsync directory"))?;
    }
    Ok(())
}

/// Writes what is there once more: what can be read after a failed sync need not be durable.
pub(crate) fn confirm<D: Disk>(disk: &D, record: &Record) -> Result<(), DiskError> {
    let name = record.file_name();
    let what = format!("persist {name}");
    let mut found = [0; SIZE];
    let read = disk.open_read(name).and_then(|file| file.read_at(&mut found, 0));
    match read {
        Ok(SIZE) if found == record.encode() => write(disk, record),
        // In the wrong file: C reads it there, but writes it never so.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DiskError::io(what, "read")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryDisk;
    use super::*;

    fn record(version: u64, term: u64, vote: u64) -> Record {
        let vote = Some(vote).filter(|id| *id != 0).map(NodeId);
        Record { version, hard_state: HardState { term: Term(term), vote } }
    }

    #[test]
    fn bootstrap_record_has_the_known_bytes() {
        let mut expected = [0; 32];
        expected[0] = 1;
        expected[8] = 1;
        expected[16] = 1;
        assert_eq!(record(1, 1, 0).encode(), expected);
        assert_eq!(Record::decode("metadata1", &expected).unwrap(), record(1, 1, 0));
    }

    #[test]
    fn refusals_carry_the_known_texts() {
        let text = |bytes: &[u8]| Record::decode("metadata1", bytes).unwrap_err();
        assert_eq!(text(&[0; 33]), "metadata1 has size 33 instead of 32");
        let mut bytes = record(1, 1, 0).encode();
        bytes[0] = 2;
        assert_eq!(text(&bytes), "decode content of metadata1: bad format version 2");
        assert_eq!(text(&record(0, 1, 0).encode()), "decode content of metadata1: version is set to zero");
    }

    #[test]
    fn a_term_or_version_that_no_cluster_reaches_is_an_error() {
        for word in 1..4 {
            for value in [u64::MAX, u64::MAX - 1, (1 << 63) + 1] {
                let mut bytes = record(1, 1, 0).encode();
                bytes[8 * word..8 * word + 8].copy_from_slice(&u64::to_le_bytes(value));
                // Any number but 0 is an id.
                assert_eq!(Record::decode("metadata1", &bytes).is_ok(), word == 3, "{word} {value}");
            }
        }
        let error = Record::decode("metadata1", &record(1, u64::MAX, 0).encode()).unwrap_err();
        assert_eq!(error, "decode content of metadata1: term 18446744073709551615 is too high");
    }

    #[test]
    fn writes_alternate_and_the_higher_version_wins() {
        let disk = MemoryDisk::new(1);
        assert_eq!(examine(&disk).unwrap(), Examined::default());
        for version in 1..=5 {
            write(&disk, &record(version, version * 2, version % 2)).unwrap();
            assert_eq!(examine(&disk).unwrap().newest, Some(record(version, version * 2, version % 2)));
        }
        assert_eq!(disk.content("metadata1").unwrap(), record(5, 10, 1).encode());
        assert_eq!(disk.content("metadata2").unwrap(), record(4, 8, 0).encode());
    }

    #[test]
    fn one_short_or_damaged_file_leaves_the_other() {
        let disk = MemoryDisk::new(1);
        disk.put("metadata1", &record(3, 3, 0).encode());
        disk.put("metadata2", &[0; 31]);
        let examined = examine(&disk).unwrap();
        assert_eq!(examined.newest, Some(record(3, 3, 0)));
        assert_eq!(examined.short, ["metadata2"]);
        disk.put("metadata2", &[0; 32]);
        let examined = examine(&disk).unwrap();
        assert_eq!((examined.newest, &examined.short), (Some(record(3, 3, 0)), &vec![]));
        assert_eq!(examined.damaged[0].1, "decode content of metadata2: bad format version 0");
        disk.put("metadata2", &record(3, 4, 0).encode());
        assert_eq!(
            examine(&disk).unwrap().conflict.unwrap(),
            "metadata1 and metadata2 are both at version 3"
        );
    }

    #[test]
    fn zeros_beside_the_first_record_are_an_interrupted_creation() {
        let disk = MemoryDisk::new(1);
        disk.put("metadata1", &record(1, 1, 0).encode());
        disk.put("metadata2", &[0; 32]);
        let examined = examine(&disk).unwrap();
        assert_eq!((examined.newest, examined.damaged), (Some(record(1, 1, 0)), vec![]));
        assert_eq!(examined.short, ["metadata2"]);
    }

    #[test]
    fn a_failed_creation_leaves_no_name_behind() {
        let disk = MemoryDisk::new(1);
        disk.set_capacity(Some(31));
        assert!(write(&disk, &record(1, 1, 0)).is_err());
        assert_eq!(disk.content("metadata1"), None);
        disk.set_capacity(None);
        write(&disk, &record(1, 1, 0)).unwrap();
        assert_eq!(examine(&disk.crash()).unwrap().newest, Some(record(1, 1, 0)));
    }
}
