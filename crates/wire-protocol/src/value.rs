//! One SQL value with its type code.

use bytes::{BufMut, Bytes, BytesMut};

use crate::DecodeError;
use crate::word::{Reader, put_blob, put_text};

pub(crate) const INTEGER: u8 = 1;
pub(crate) const FLOAT: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const BLOB: u8 = 4;
pub(crate) const NULL: u8 = 5;
pub(crate) const UNIX_TIME: u8 = 9;
pub(crate) const ISO8601: u8 = 10;
pub(crate) const BOOLEAN: u8 = 11;

/// A parameter or a column of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Code 1.
    Integer(i64),
    /// Code 2.
    Float(f64),
    /// Code 3; cut at its first NUL when encoded.
    Text(Bytes),
    /// Code 4.
    Blob(Bytes),
    /// Code 5.
    Null,
    /// Code 9, seconds; rows only, as a parameter it is an error.
    UnixTime(i64),
    /// Code 10; cut at its first NUL when encoded.
    Iso8601(Bytes),
    /// Code 11, the raw word: rows may hold any integer in a BOOLEAN column.
    Boolean(u64),
}

impl Value {
    /// The type code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Integer(_) => INTEGER,
            Self::Float(_) => FLOAT,
            Self::Text(_) => TEXT,
            Self::Blob(_) => BLOB,
            Self::Null => NULL,
            Self::UnixTime(_) => UNIX_TIME,
            Self::Iso8601(_) => ISO8601,
            Self::Boolean(_) => BOOLEAN,
        }
    }

    /// Appends the value without its code.
    pub(crate) fn encode(&self, buffer: &mut BytesMut) {
        match self {
            Self::Integer(value) | Self::UnixTime(value) => buffer.put_i64_le(*value),
            Self::Float(value) => buffer.put_f64_le(*value),
            Self::Text(text) | Self::Iso8601(text) => put_text(buffer, text),
            Self::Blob(blob) => put_blob(buffer, blob),
            Self::Null => buffer.put_u64_le(0),
            Self::Boolean(value) => buffer.put_u64_le(*value),
        }
    }

    /// Reads the value that has this code.
    pub(crate) fn decode(code: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match code {
            INTEGER => Self::Integer(reader.u64("integer value")?.cast_signed()),
            FLOAT => Self::Float(f64::from_bits(reader.u64("float value")?)),
            TEXT => Self::Text(reader.text("text value")?),
            BLOB => Self::Blob(reader.blob("blob value")?),
            NULL => {
                reader.u64("null value")?;
                Self::Null
            }
            UNIX_TIME => Self::UnixTime(reader.u64("unix time value")?.cast_signed()),
            ISO8601 => Self::Iso8601(reader.text("iso8601 value")?),
            BOOLEAN => Self::Boolean(reader.u64("boolean value")?),
            _ => return Err(DecodeError::Invalid { what: "value type", value: u64::from(code) }),
        })
    }
}
