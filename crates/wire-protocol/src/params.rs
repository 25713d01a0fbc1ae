//! The parameter tuple at the end of EXEC, QUERY, EXEC_SQL and QUERY_SQL.
//!
//! | schema | count | types | values |
//! | --- | --- | --- | --- |
//! | 0 | u8 `n` | `n` bytes, count and types zero-padded to whole words | each on a word boundary |
//! | 1 | u32 `n` | same | same |
//!
//! A body that ends before the tuple means no parameters.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::word::{Reader, WORD_LEN};
use crate::{DecodeError, Value, value};

/// Width of the tuple's count field; the same number is the schema of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ParamsSchema {
    /// One byte: up to 255 parameters.
    #[default]
    V0,
    /// Four bytes.
    V1,
}

impl ParamsSchema {
    /// The schema byte.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V0 => 0,
            Self::V1 => 1,
        }
    }

    const fn count_len(self) -> usize {
        match self {
            Self::V0 => 1,
            Self::V1 => 4,
        }
    }
}

/// The parameters of one request: a cursor that decodes one value a step.
///
/// The count and the types are known to be there; the values are looked at when they are asked for, because a value
/// that nobody binds is never an error. After an error the cursor is at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    schema: ParamsSchema,
    /// One code for each value not taken yet.
    types: Bytes,
    /// The first of those values, and whatever follows the last.
    values: Bytes,
}

impl Params {
    /// No parameters.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Parameters for a request, in the oldest schema that can count them.
    #[must_use]
    pub fn new(values: &[Value]) -> Self {
        let schema = if values.len() <= usize::from(u8::MAX) { ParamsSchema::V0 } else { ParamsSchema::V1 };
        Self::with_schema(schema, values)
    }

    /// Parameters in a given schema. V0 takes at most 255 values, V1 at most 2^32 - 1.
    #[must_use]
    pub fn with_schema(schema: ParamsSchema, values: &[Value]) -> Self {
        let limit = match schema {
            ParamsSchema::V0 => u64::from(u8::MAX),
            ParamsSchema::V1 => u64::from(u32::MAX),
        };
        assert!(values.len() as u64 <= limit, "{} parameters do not fit schema {schema:?}", values.len());
        let mut encoded = BytesMut::new();
        for value in values {
            value.encode(&mut encoded);
        }
        Self { schema, types: values.iter().map(Value::code).collect(), values: encoded.freeze() }
    }

    /// The schema of the request that carries them.
    #[must_use]
    pub const fn schema(&self) -> ParamsSchema {
        self.schema
    }

    /// How many values have not been taken yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.types.len()
    }

    /// A second cursor that starts where this one stands.
    #[must_use]
    pub fn iter(&self) -> Self {
        self.clone()
    }

    pub(crate) fn decode(schema: ParamsSchema, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.remaining() == 0 {
            return Ok(Self { schema, ..Self::default() });
        }
        let count = match schema {
            ParamsSchema::V0 => u64::from(reader.u8("parameter count")?),
            ParamsSchema::V1 => u64::from(reader.u32("parameter count")?),
        };
        let types = reader.take(count, "parameter types")?;
        reader.slice(padding(schema, types.len()) as u64, "parameter types")?;
        Ok(Self { schema, types, values: reader.rest() })
    }

    /// Appends the tuple; nothing at all for no parameters.
    pub(crate) fn encode(&self, buffer: &mut BytesMut) {
        if self.types.is_empty() {
            return;
        }
        match self.schema {
            ParamsSchema::V0 => {
                buffer.put_u8(u8::try_from(self.types.len()).expect("checked when it was made"));
            }
            ParamsSchema::V1 => {
                buffer.put_u32_le(u32::try_from(self.types.len()).expect("checked when it was made"));
            }
        }
        buffer.put_slice(&self.types);
        buffer.put_bytes(0, padding(self.schema, self.types.len()));
        buffer.put_slice(&self.values);
    }
}

/// Zero bytes between the types and the first value.
fn padding(schema: ParamsSchema, count: usize) -> usize {
    let unpadded = schema.count_len() + count;
    unpadded.next_multiple_of(WORD_LEN) - unpadded
}

impl Iterator for Params {
    type Item = Result<Value, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let code = *self.types.first()?;
        if code == value::UNIX_TIME {
            *self = Self { schema: self.schema, ..Self::default() };
            return Some(Err(DecodeError::Invalid { what: "parameter type", value: u64::from(code) }));
        }
        let mut reader = Reader::new(&self.values);
        let value = Value::decode(code, &mut reader);
        let position = reader.position();
        if value.is_ok() {
            self.values.advance(position);
            self.types.advance(1);
        } else {
            *self = Self { schema: self.schema, ..Self::default() };
        }
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error ends the iteration early, but gives one item itself.
        (usize::from(!self.types.is_empty()), Some(self.types.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(schema: ParamsSchema, bytes: &'static [u8]) -> Result<Params, DecodeError> {
        Params::decode(schema, &mut Reader::new(&Bytes::from_static(bytes)))
    }

    #[test]
    fn explicit_zero_count_is_no_parameters() {
        for schema in [ParamsSchema::V0, ParamsSchema::V1] {
            assert_eq!(decoded(schema, &[0; 8]).unwrap().next(), None);
            assert_eq!(decoded(schema, &[]).unwrap().next(), None);
        }
    }

    #[test]
    fn header_past_the_body_is_refused_at_once() {
        assert!(decoded(ParamsSchema::V0, &[8, 1, 1, 1, 1, 1, 1, 1]).is_err());
        assert!(decoded(ParamsSchema::V1, &[0xff, 0xff, 0xff, 0xff, 1, 1, 1, 1]).is_err());
        assert!(decoded(ParamsSchema::V1, &[5, 0, 0, 0, 1, 1, 1, 1]).is_err());
    }

    #[test]
    fn bad_value_is_an_error_only_when_asked_for_and_ends_the_cursor() {
        let mut params =
            decoded(ParamsSchema::V0, &[2, 1, 7, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(params.remaining(), 2);
        assert_eq!(params.next(), Some(Ok(Value::Integer(5))));
        let invalid = DecodeError::Invalid { what: "value type", value: 7 };
        assert_eq!(params.next(), Some(Err(invalid)));
        assert_eq!(params.next(), None);
    }

    #[test]
    fn unix_time_is_not_a_parameter() {
        let mut params = Params::new(&[Value::UnixTime(1)]);
        assert!(params.next().is_some_and(|value| value.is_err()));
    }

    #[test]
    fn more_than_255_values_use_the_wide_count() {
        let params = Params::new(&vec![Value::Null; 256]);
        assert_eq!(params.schema(), ParamsSchema::V1);
        assert_eq!(params.iter().count(), 256);
    }

    #[test]
    fn blob_of_almost_2_to_the_64_is_an_error() {
        let bytes: &[u8] =
            &[1, 4, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut params =
            Params::decode(ParamsSchema::V0, &mut Reader::new(&Bytes::copy_from_slice(bytes))).unwrap();
        assert_eq!(params.next(), Some(Err(DecodeError::Truncated("blob value"))));
    }
}
