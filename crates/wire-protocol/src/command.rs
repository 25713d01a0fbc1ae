//! State machine commands: the data of [`crate::EntryKind::Command`] entries.
//!
//! u8 format (1), u8 type, six zero bytes, then:
//!
//! | type | command | body |
//! | --- | --- | --- |
//! | 1 | OPEN | text filename |
//! | 2 | FRAMES | below |
//! | 3 | UNDO | u64 transaction id |
//! | 4 | CHECKPOINT | text filename |
//!
//! | size | field of FRAMES |
//! | --- | --- |
//! | whole words | text filename |
//! | 8 | transaction id, 0 |
//! | 4 | truncate, 0 |
//! | 1 | is_commit, 1 |
//! | 3 | zero |
//! | 4 | number of pages |
//! | 2 | page size, 4096 |
//! | 2 | zero |
//! | 8 each | page numbers, 1 to 2^31 - 1 |
//! | page size each | page images in the same order |
//!
//! Current nodes write FRAMES only; the others stand in old logs and do nothing.

use bytes::{BufMut, Bytes, BytesMut};

use crate::DecodeError;
use crate::word::{Reader, WORD_LEN, put_text, text_len, until_nul};

/// Size of every page.
pub const PAGE_SIZE: usize = 4096;

const FORMAT: u8 = 1;
const OPEN: u8 = 1;
const FRAMES: u8 = 2;
const UNDO: u8 = 3;
const CHECKPOINT: u8 = 4;

/// What stands between the filename and the page numbers.
const FRAMES_FIXED_LEN: usize = 24;
const MAX_PAGE_NUMBER: u64 = 0x7fff_ffff;

/// One state machine command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Does nothing.
    Open {
        /// Database name.
        filename: Bytes,
    },
    /// The pages of one transaction.
    Frames(Frames),
    /// Does nothing.
    Undo {
        /// Transaction id.
        tx_id: u64,
    },
    /// Does nothing.
    Checkpoint {
        /// Database name.
        filename: Bytes,
    },
}

/// The pages a transaction wrote. The page numbers have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Database name.
    pub filename: Bytes,
    /// Transaction id, always 0.
    pub tx_id: u64,
    /// Always 0.
    pub truncate: u32,
    /// False only in logs of old releases, which could spread a transaction over several commands.
    pub is_commit: bool,
    page_size: u16,
    page_numbers: Bytes,
    images: Bytes,
}

impl Frames {
    /// Size of each image; a power of two from 512 to 32768.
    #[must_use]
    pub fn page_size(&self) -> usize {
        usize::from(self.page_size)
    }

    /// Number of pages. A page may occur several times; the last image wins.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.page_numbers.len() / WORD_LEN
    }

    /// Page numbers in order.
    pub fn page_numbers(&self) -> impl ExactSizeIterator<Item = u32> {
        self.page_numbers.as_chunks::<WORD_LEN>().0.iter().map(|word| {
            u32::try_from(u64::from_le_bytes(*word)).expect("checked when the command was decoded")
        })
    }

    /// Page numbers with their images, in order.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (u32, &[u8])> {
        self.page_numbers().zip(self.images.chunks_exact(self.page_size()))
    }

    /// All images back to back.
    #[must_use]
    pub fn images(&self) -> &Bytes {
        &self.images
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let filename = reader.text("database name")?;
        let tx_id = reader.u64("transaction id")?;
        let truncate = reader.u32("truncate")?;
        let is_commit = reader.u8("is_commit")? != 0;
        reader.slice(3, "padding")?;
        let count = u64::from(reader.u32("page count")?);
        let page_size = reader.u16("page size")?;
        reader.u16("padding")?;
        if page_size < 512 || !page_size.is_power_of_two() {
            return Err(DecodeError::Invalid { what: "page size", value: u64::from(page_size) });
        }
        let page_numbers = reader.take(count * WORD_LEN as u64, "page numbers")?;
        for word in page_numbers.as_chunks::<WORD_LEN>().0 {
            let value = u64::from_le_bytes(*word);
            if value == 0 || value > MAX_PAGE_NUMBER {
                return Err(DecodeError::Invalid { what: "page number", value });
            }
        }
        let images = reader.take(count * u64::from(page_size), "page images")?;
        Ok(Self { filename, tx_id, truncate, is_commit, page_size, page_numbers, images })
    }
}

impl Command {
    /// Reads the data of a command entry; names and pages share its memory. Trailing bytes are ignored.
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        let reader = &mut Reader::new(data);
        let format = reader.u8("command header")?;
        let kind = reader.u8("command header")?;
        reader.slice(6, "command header")?;
        if format != FORMAT {
            return Err(DecodeError::Invalid { what: "command format", value: u64::from(format) });
        }
        Ok(match kind {
            OPEN => Self::Open { filename: reader.text("database name")? },
            FRAMES => Self::Frames(Frames::decode(reader)?),
            UNDO => Self::Undo { tx_id: reader.u64("transaction id")? },
            CHECKPOINT => Self::Checkpoint { filename: reader.text("database name")? },
            _ => return Err(DecodeError::Invalid { what: "command type", value: u64::from(kind) }),
        })
    }

    /// The data of a command entry. For transactions of this node use [`encode_frames`].
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        match self {
            Self::Open { filename } => {
                put_header(&mut buffer, OPEN);
                put_text(&mut buffer, filename);
            }
            Self::Frames(frames) => {
                put_header(&mut buffer, FRAMES);
                put_text(&mut buffer, &frames.filename);
                buffer.put_u64_le(frames.tx_id);
                buffer.put_u32_le(frames.truncate);
                buffer.put_u8(u8::from(frames.is_commit));
                buffer.put_bytes(0, 3);
                put_page_count(&mut buffer, frames.page_count());
                buffer.put_u16_le(frames.page_size);
                buffer.put_u16_le(0);
                buffer.put_slice(&frames.page_numbers);
                buffer.put_slice(&frames.images);
            }
            Self::Undo { tx_id } => {
                put_header(&mut buffer, UNDO);
                buffer.put_u64_le(*tx_id);
            }
            Self::Checkpoint { filename } => {
                put_header(&mut buffer, CHECKPOINT);
                put_text(&mut buffer, filename);
            }
        }
        buffer.freeze()
    }
}

fn put_header(buffer: &mut BytesMut, kind: u8) {
    buffer.put_u8(FORMAT);
    buffer.put_u8(kind);
    buffer.put_bytes(0, 6);
}

fn put_page_count(buffer: &mut BytesMut, count: usize) {
    buffer.put_u32_le(u32::try_from(count).expect("page numbers stop below 2^31"));
}

/// Length of what [`encode_frames`] gives. An entry takes less than 4 GiB: refuse larger transactions beforehand.
#[must_use]
pub fn frames_len(filename: &[u8], page_count: usize) -> usize {
    WORD_LEN + text_len(until_nul(filename).len()) + FRAMES_FIXED_LEN + page_count * (WORD_LEN + PAGE_SIZE)
}

/// The FRAMES command of one committed transaction: one allocation, each page copied once.
///
/// Every image has [`PAGE_SIZE`] bytes and the iterator tells its length truly; else it is a bug and panics.
pub fn encode_frames<'a>(filename: &[u8], pages: impl ExactSizeIterator<Item = (u32, &'a [u8])>) -> Bytes {
    let count = pages.len();
    let mut buffer = BytesMut::with_capacity(frames_len(filename, count));
    put_header(&mut buffer, FRAMES);
    put_text(&mut buffer, filename);
    buffer.put_u64_le(0);
    buffer.put_u32_le(0);
    buffer.put_u8(1);
    buffer.put_bytes(0, 3);
    put_page_count(&mut buffer, count);
    buffer.put_u16_le(u16::try_from(PAGE_SIZE).expect("4096 fits"));
    buffer.put_u16_le(0);
    let mut number_at = buffer.len();
    buffer.put_bytes(0, count * WORD_LEN);
    let images_at = buffer.len();
    for (number, image) in pages {
        assert_eq!(image.len(), PAGE_SIZE, "image of page {number}");
        let number_end = number_at + WORD_LEN;
        assert!(number_end <= images_at, "more pages than announced");
        buffer[number_at..number_end].copy_from_slice(&u64::from(number).to_le_bytes());
        number_at = number_end;
        buffer.put_slice(image);
    }
    assert_eq!(number_at, images_at, "fewer pages than announced");
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(data: &Bytes) -> Result<Frames, DecodeError> {
        match Command::decode(data)? {
            Command::Frames(frames) => Ok(frames),
            other => panic!("not frames: {other:?}"),
        }
    }

    #[test]
    fn frames_are_allocated_once_and_come_back() {
        let (a, b) = ([1; PAGE_SIZE], [2; PAGE_SIZE]);
        let data = encode_frames(b"test", [(7, &a[..]), (1, &b[..])].into_iter());
        assert_eq!(data.len(), frames_len(b"test", 2));
        let frames = frames(&data).unwrap();
        assert!(frames.is_commit);
        assert_eq!(frames.pages().collect::<Vec<_>>(), [(7, &a[..]), (1, &b[..])]);
        assert_eq!(frames.images().as_ptr(), data[8248 - 8192..].as_ptr());
        assert_eq!(Command::Frames(frames).encode(), data);
    }

    #[test]
    fn page_numbers_are_checked() {
        for number in [0, 0x8000_0000] {
            let data = encode_frames(b"test", std::iter::once((number, &[0; PAGE_SIZE][..])));
            let value = u64::from(number);
            assert_eq!(frames(&data), Err(DecodeError::Invalid { what: "page number", value }));
        }
    }

    #[test]
    fn page_size_is_checked() {
        for page_size in [0_u16, 1, 4095, 256] {
            let mut data = encode_frames(b"test", std::iter::empty()).to_vec();
            data[36..38].copy_from_slice(&page_size.to_le_bytes());
            assert!(frames(&Bytes::from(data)).is_err());
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let whole = encode_frames(b"test", std::iter::once((1, &[0; PAGE_SIZE][..])));
        for len in (0..200).chain([whole.len() - 1]) {
            assert!(Command::decode(&whole.slice(..len)).is_err(), "{len}");
        }
    }

    #[test]
    fn unknown_formats_and_types_are_errors() {
        for header in [[0, 2], [2, 2], [1, 0], [1, 5]] {
            let mut data = vec![0; 64];
            data[..2].copy_from_slice(&header);
            assert!(Command::decode(&Bytes::from(data)).is_err());
        }
    }
}
