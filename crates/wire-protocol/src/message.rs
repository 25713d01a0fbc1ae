//! The frame that carries requests and responses, and the handshake before the first one.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | body length in words |
//! | 4 | 1 | type |
//! | 5 | 1 | schema |
//! | 6 | 2 | zero, ignored on input |
//! | 8 | | body |

use bytes::{BufMut, Bytes, BytesMut};

use crate::word::WORD_LEN;

/// Length of the header in front of every body.
pub const HEADER_LEN: usize = 8;

/// The version word a client sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Version 1.
    Current,
    /// Version before 1.0; only the answer to LEADER differs.
    Legacy,
}

impl Protocol {
    /// The word on the wire.
    #[must_use]
    pub const fn version(self) -> u64 {
        match self {
            Self::Current => 1,
            Self::Legacy => 0x8610_4dd7_6043_3fe5,
        }
    }

    /// The protocol with this version word.
    #[must_use]
    pub const fn from_version(version: u64) -> Option<Self> {
        match version {
            1 => Some(Self::Current),
            0x8610_4dd7_6043_3fe5 => Some(Self::Legacy),
            _ => None,
        }
    }

    /// Appends the handshake.
    pub fn encode(self, buffer: &mut BytesMut) {
        buffer.put_u64_le(self.version());
    }
}

/// One message as it was framed, its body not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Request or response type.
    pub kind: u8,
    /// Version of the body's layout.
    pub schema: u8,
    /// The body; a whole number of words, possibly none.
    pub body: Bytes,
}

/// Leaves room for a header and returns where the message starts, for [`finish_frame`].
pub(crate) fn begin_frame(buffer: &mut BytesMut) -> usize {
    let start = buffer.len();
    buffer.put_bytes(0, HEADER_LEN);
    start
}

/// Writes the header of the message that started at `start` and ends at the end of the buffer.
pub(crate) fn finish_frame(buffer: &mut BytesMut, start: usize, kind: u8, schema: u8) {
    let body_len = buffer.len() - start - HEADER_LEN;
    buffer[start..start + HEADER_LEN].copy_from_slice(&header(kind, schema, body_len));
}

/// The header of a message with a body of `body_len` bytes.
pub(crate) fn header(kind: u8, schema: u8, body_len: usize) -> [u8; HEADER_LEN] {
    assert!(body_len.is_multiple_of(WORD_LEN), "a body is a whole number of words");
    let words = u32::try_from(body_len / WORD_LEN).expect("callers bound messages far below 32 GiB");
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&words.to_le_bytes());
    header[4] = kind;
    header[5] = schema;
    header
}
