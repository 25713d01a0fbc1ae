//! The payload of a snapshot: all databases of a node.
//!
//! | size | field |
//! | --- | --- |
//! | 8 | format, 1 |
//! | 8 | number of databases |
//! | whole words | of each: text name |
//! | 8 | main size in bytes, a multiple of the page size |
//! | 8 | WAL size in bytes; 0 since release 1.17 |
//! | main size | page images, from page 1 |
//! | WAL size | WAL file as SQLite writes it |

use bytes::{BufMut, Bytes, BytesMut};

use crate::DecodeError;
use crate::command::PAGE_SIZE;
use crate::word::{Reader, WORD_LEN, put_text, text_len};

const FORMAT: u64 = 1;

/// Start of a payload that holds `count` databases.
#[must_use]
pub fn encode_payload_header(count: u64) -> Bytes {
    let mut buffer = BytesMut::with_capacity(2 * WORD_LEN);
    buffer.put_u64_le(FORMAT);
    buffer.put_u64_le(count);
    buffer.freeze()
}

/// What stands before the content of each database.
#[must_use]
pub fn encode_database_header(name: &[u8], main_size: u64, wal_size: u64) -> Bytes {
    let mut buffer = BytesMut::with_capacity(text_len(name.len()) + 2 * WORD_LEN);
    put_text(&mut buffer, name);
    buffer.put_u64_le(main_size);
    buffer.put_u64_le(wal_size);
    buffer.freeze()
}

/// One database in a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDatabase {
    /// Name as clients open it.
    pub name: Bytes,
    /// Page images; a multiple of the page size, possibly empty.
    pub main: Bytes,
    /// WAL to lay over them; empty in everything current releases write.
    pub wal: Bytes,
}

/// Gives the databases of a payload one after the other, sharing its memory. Ends after an error.
#[derive(Clone, Debug)]
pub struct PayloadDecoder {
    rest: Bytes,
    remaining: u64,
}

impl PayloadDecoder {
    /// Reads the start of a payload.
    pub fn new(payload: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let format = reader.u64("snapshot format")?;
        if format != FORMAT {
            return Err(DecodeError::Invalid { what: "snapshot format", value: format });
        }
        let remaining = reader.u64("database count")?;
        Ok(Self { rest: reader.rest(), remaining })
    }

    /// How many databases are still to come, if the payload is not damaged.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    fn decode_next(&mut self) -> Result<SnapshotDatabase, DecodeError> {
        let mut reader = Reader::new(&self.rest);
        let name = reader.text("database name")?;
        let main_size = reader.u64("main size")?;
        let wal_size = reader.u64("WAL size")?;
        if !main_size.is_multiple_of(PAGE_SIZE as u64) {
            return Err(DecodeError::Invalid { what: "main size", value: main_size });
        }
        let main = reader.take(main_size, "database content")?;
        let wal = reader.take(wal_size, "WAL content")?;
        self.rest = reader.rest();
        Ok(SnapshotDatabase { name, main, wal })
    }
}

impl Iterator for PayloadDecoder {
    type Item = Result<SnapshotDatabase, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        Some(self.decode_next().inspect_err(|_| self.remaining = 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pieces: &[&[u8]]) -> Bytes {
        Bytes::from(pieces.concat())
    }

    #[test]
    fn databases_come_in_order_and_share_memory() {
        let page = [7; PAGE_SIZE];
        let payload = payload(&[
            &encode_payload_header(2),
            &encode_database_header(b"a", 4096, 32),
            &page,
            &[1; 32],
            &encode_database_header(b"b", 0, 0),
            b"trailing",
        ]);
        let databases: Result<Vec<_>, _> = PayloadDecoder::new(&payload).unwrap().collect();
        let databases = databases.unwrap();
        assert_eq!(databases[0].main.as_ptr(), payload[40..].as_ptr());
        assert_eq!(databases[0].wal, [1; 32][..]);
        let empty =
            SnapshotDatabase { name: Bytes::from_static(b"b"), main: Bytes::new(), wal: Bytes::new() };
        assert_eq!(databases[1], empty);
    }

    #[test]
    fn no_databases_is_valid() {
        let mut decoder = PayloadDecoder::new(&encode_payload_header(0)).unwrap();
        assert_eq!(decoder.remaining(), 0);
        assert_eq!(decoder.next(), None);
    }

    #[test]
    fn damage_ends_the_iteration() {
        let many = encode_payload_header(u64::MAX);
        assert_eq!(PayloadDecoder::new(&many).unwrap().count(), 1);
        for sizes in [(4096, 0), (0, 8), (u64::MAX - 4095, 0), (0, u64::MAX), (100, 0)] {
            let header = encode_database_header(b"a", sizes.0, sizes.1);
            let mut decoder = PayloadDecoder::new(&payload(&[&encode_payload_header(2), &header])).unwrap();
            assert!(decoder.next().unwrap().is_err(), "{sizes:?}");
            assert_eq!(decoder.next(), None);
        }
        assert!(PayloadDecoder::new(&Bytes::from_static(&[2; 16])).is_err());
        assert!(PayloadDecoder::new(&Bytes::from_static(&[1; 7])).is_err());
    }
}
