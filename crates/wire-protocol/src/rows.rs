//! ROWS messages: written row by row straight into the output buffer, read back as a whole.
//!
//! Body: u64 column count, the column names as texts, row tuples, one end word. A row tuple has a type nibble for each
//! column (column 0 in the low half of byte 0, column 1 in its high half, and so on), zero-padded to whole words, then
//! the values, each on a word boundary. Types stop at 13, so no tuple begins like an end word.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::OutOfMemory;
use crate::message::{begin_frame, finish_frame};
use crate::response::ROWS;
use crate::room::try_reserve;
use crate::word::{Reader, WORD_LEN, put_blob, put_text, text_len};
use crate::{DecodeError, Value, value};

const DONE: u64 = 0xffff_ffff_ffff_ffff;
const PART: u64 = 0xeeee_eeee_eeee_eeee;
const COLUMNS_PER_WORD: usize = 16;

/// Whether more messages follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowsEnd {
    /// The result is complete.
    Done,
    /// Another message follows without a new request.
    Part,
}

impl RowsEnd {
    const fn word(self) -> u64 {
        match self {
            Self::Done => DONE,
            Self::Part => PART,
        }
    }
}

/// One ROWS message as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Column names.
    pub columns: Vec<Bytes>,
    /// Rows, each with a value for every column.
    pub rows: Vec<Vec<Value>>,
    /// Whether more messages follow.
    pub end: RowsEnd,
}

impl Rows {
    /// Appends the whole message, header included.
    pub fn encode(&self, buffer: &mut BytesMut) {
        let mut encoder = RowsEncoder::begin(buffer, self.columns.iter().map(|name| &name[..]));
        for row in &self.rows {
            encoder.begin_row(row.len());
            for value in row {
                encoder.value(value);
            }
        }
        encoder.finish(self.end);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.u64("column count")?;
        let mut columns = Vec::new();
        // Grows with the names that are there: the count alone proves nothing.
        for _ in 0..count {
            columns.push(reader.text("column name")?);
        }
        let mut rows = Vec::new();
        let end = loop {
            match reader.peek_u64() {
                None => return Err(DecodeError::Truncated("rows")),
                Some(DONE) => break RowsEnd::Done,
                Some(PART) => break RowsEnd::Part,
                // A row without columns takes no bytes, so nothing could end the loop.
                Some(value) if columns.is_empty() => {
                    return Err(DecodeError::Invalid { what: "end of rows", value });
                }
                Some(_) => rows.push(decode_row(columns.len(), reader)?),
            }
        };
        reader.u64("end of rows")?;
        if reader.remaining() > 0 {
            return Err(DecodeError::TrailingBytes("rows"));
        }
        Ok(Self { columns, rows, end })
    }
}

fn decode_row(columns: usize, reader: &mut Reader<'_>) -> Result<Vec<Value>, DecodeError> {
    let types = reader.slice(types_len(columns) as u64, "row types")?;
    let mut row = Vec::new();
    for column in 0..columns {
        row.push(Value::decode((types[column / 2] >> shift(column)) & 0xf, reader)?);
    }
    Ok(row)
}

const fn types_len(columns: usize) -> usize {
    columns.div_ceil(COLUMNS_PER_WORD) * WORD_LEN
}

const fn shift(column: usize) -> u32 {
    if column.is_multiple_of(2) { 0 } else { 4 }
}

/// Writes one ROWS message at the end of a buffer.
///
/// Dropped without [`RowsEncoder::finish`] it takes back all it wrote, so that a FAILURE can follow in its place.
/// Calls out of order (a value too many or too few in a row) are a bug of the caller and panic.
#[derive(Debug)]
pub struct RowsEncoder<'a> {
    buffer: &'a mut BytesMut,
    start: usize,
    columns: usize,
    /// Where the current row starts; its types come first.
    row_start: usize,
    /// Values written to the current row; equals `columns` between rows.
    filled: usize,
    rows: usize,
    finished: bool,
}

impl<'a> RowsEncoder<'a> {
    /// Writes header, column count and names.
    pub fn begin<'n>(buffer: &'a mut BytesMut, names: impl Iterator<Item = &'n [u8]>) -> Self {
        let start = begin_frame(buffer);
        let count_at = buffer.len();
        buffer.put_u64_le(0);
        let mut columns = 0_usize;
        for name in names {
            put_text(buffer, name);
            columns += 1;
        }
        buffer[count_at..count_at + WORD_LEN].copy_from_slice(&(columns as u64).to_le_bytes());
        let row_start = buffer.len();
        Self { buffer, start, columns, row_start, filled: columns, rows: 0, finished: false }
    }

    /// As [`Self::begin`].
    ///
    /// # Errors
    /// When there is no memory for the names; then nothing was written.
    pub fn try_begin<'n>(
        buffer: &'a mut BytesMut,
        names: impl Iterator<Item = &'n [u8]> + Clone,
    ) -> Result<Self, OutOfMemory> {
        // Header, count, and the end: there may be no row that makes room for it.
        let len = names.clone().fold(3 * WORD_LEN, |len, name| len.saturating_add(text_len(name.len())));
        try_reserve(buffer, len, 0)?;
        Ok(Self::begin(buffer, names))
    }

    /// Makes room for a value of `len` bytes, and for what may follow it: the types of the next row, a word, and the end.
    /// Without that a value allocates for itself, and aborts where that fails.
    ///
    /// # Errors
    /// When there is no memory for it. The row can be abandoned.
    pub fn try_reserve(&mut self, len: usize) -> Result<(), OutOfMemory> {
        let around = types_len(self.columns) + 4 * WORD_LEN;
        let needed = len.checked_add(around).ok_or(OutOfMemory { len })?;
        // More rows follow where several are gathered; a single long one needs no more than itself.
        try_reserve(self.buffer, needed, self.buffer.len() / 4)
    }

    /// Begins a row of `columns` values, which has to be the number of names.
    ///
    /// A statement may turn out to have other columns after its first step; then begin a new message.
    pub fn begin_row(&mut self, columns: usize) {
        assert_eq!(columns, self.columns, "a row has a value for each column");
        self.assert_row_complete();
        self.row_start = self.buffer.len();
        self.buffer.put_bytes(0, types_len(columns));
        self.filled = 0;
        self.rows += 1;
    }

    /// Next value of the row, type 1.
    pub fn integer(&mut self, value: i64) {
        self.word(value::INTEGER, value.cast_unsigned());
    }

    /// Next value of the row, type 2.
    pub fn float(&mut self, value: f64) {
        self.word(value::FLOAT, value.to_bits());
    }

    /// Next value of the row, type 3; cut at its first NUL.
    pub fn text(&mut self, text: &[u8]) {
        self.put_type(value::TEXT);
        put_text(self.buffer, text);
    }

    /// Next value of the row, type 4.
    pub fn blob(&mut self, blob: &[u8]) {
        self.put_type(value::BLOB);
        put_blob(self.buffer, blob);
    }

    /// Next value of the row, type 5.
    pub fn null(&mut self) {
        self.word(value::NULL, 0);
    }

    /// Next value of the row, type 9.
    pub fn unix_time(&mut self, seconds: i64) {
        self.word(value::UNIX_TIME, seconds.cast_unsigned());
    }

    /// Next value of the row, type 10; cut at its first NUL.
    pub fn iso8601(&mut self, text: &[u8]) {
        self.put_type(value::ISO8601);
        put_text(self.buffer, text);
    }

    /// Next value of the row, type 11; the integer goes out unchanged.
    pub fn boolean(&mut self, value: i64) {
        self.word(value::BOOLEAN, value.cast_unsigned());
    }

    /// Next value of the row, whatever its type.
    pub fn value(&mut self, value: &Value) {
        self.put_type(value.code());
        value.encode(self.buffer);
    }

    /// Bytes of the message so far, header included, end word not.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always a header")]
    pub fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows begun so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes back the row begun last, as if it had not been begun.
    pub fn abandon_row(&mut self) {
        if self.buffer.len() > self.row_start {
            self.buffer.truncate(self.row_start);
            self.rows -= 1;
        }
        self.filled = self.columns;
    }

    /// Writes the end word and the header.
    pub fn finish(mut self, end: RowsEnd) {
        self.assert_row_complete();
        self.buffer.put_u64_le(end.word());
        finish_frame(self.buffer, self.start, ROWS, 0);
        self.finished = true;
    }

    /// Where the message stands in the buffer.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.buffer.len()
    }

    fn assert_row_complete(&self) {
        assert_eq!(self.filled, self.columns, "the row before has a value for each column");
    }

    fn put_type(&mut self, code: u8) {
        assert!(self.filled < self.columns, "no value after the last column");
        self.buffer[self.row_start + self.filled / 2] |= code << shift(self.filled);
        self.filled += 1;
    }

    fn word(&mut self, code: u8, word: u64) {
        self.put_type(code);
        self.buffer.put_u64_le(word);
    }
}

impl Drop for RowsEncoder<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.buffer.truncate(self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> impl Iterator<Item = &'static [u8]> {
        std::iter::repeat_n(&b"c"[..], count)
    }

    fn decoded(buffer: &BytesMut) -> Result<Rows, DecodeError> {
        let body = Bytes::copy_from_slice(&buffer[8..]);
        Rows::decode(&mut Reader::new(&body))
    }

    #[test]
    fn dropping_takes_everything_back() {
        let mut buffer = BytesMut::from(&b"before"[..]);
        let mut encoder = RowsEncoder::begin(&mut buffer, names(2));
        encoder.begin_row(2);
        encoder.blob(b"x");
        drop(encoder);
        assert_eq!(&buffer[..], b"before");
    }

    #[test]
    fn abandoned_row_leaves_no_trace() {
        let mut buffer = BytesMut::new();
        let mut encoder = RowsEncoder::begin(&mut buffer, names(1));
        encoder.abandon_row();
        encoder.begin_row(1);
        encoder.integer(1);
        encoder.begin_row(1);
        encoder.abandon_row();
        encoder.abandon_row();
        assert_eq!(encoder.rows(), 1);
        encoder.finish(RowsEnd::Part);
        let rows = decoded(&buffer).unwrap();
        assert_eq!((rows.rows, rows.end), (vec![vec![Value::Integer(1)]], RowsEnd::Part));
    }

    #[test]
    fn types_take_a_word_for_16_columns() {
        for columns in [1, 2, 15, 16, 17, 32, 33, 2000] {
            let mut buffer = BytesMut::new();
            let mut encoder = RowsEncoder::begin(&mut buffer, names(columns));
            let before = encoder.len();
            encoder.begin_row(columns);
            assert_eq!(encoder.len() - before, columns.div_ceil(16) * 8);
            for column in 0..columns {
                if column % 3 == 0 { encoder.boolean(-1) } else { encoder.null() }
            }
            encoder.finish(RowsEnd::Done);
            let rows = decoded(&buffer).unwrap();
            assert_eq!(rows.rows.len(), 1);
            assert!(rows.rows[0].iter().enumerate().all(|(column, value)| match value {
                Value::Boolean(u64::MAX) => column % 3 == 0,
                Value::Null => column % 3 != 0,
                _ => false,
            }));
        }
    }

    #[test]
    fn blob_padding_is_zero_in_a_used_buffer() {
        let mut buffer = BytesMut::from(&[0xaa; 256][..]);
        buffer.clear();
        let mut encoder = RowsEncoder::begin(&mut buffer, names(1));
        encoder.begin_row(1);
        encoder.blob(b"\x01");
        encoder.finish(RowsEnd::Done);
        assert_eq!(&buffer[buffer.len() - 16..buffer.len() - 8], [1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn rows_without_columns_end_at_once() {
        let mut body = BytesMut::new();
        body.put_u64_le(0);
        body.put_u64_le(1);
        body.put_u64_le(DONE);
        let error = DecodeError::Invalid { what: "end of rows", value: 1 };
        assert_eq!(Rows::decode(&mut Reader::new(&body.freeze())), Err(error));
    }

    #[test]
    #[should_panic(expected = "no value after the last column")]
    fn a_value_too_many_is_a_bug() {
        let mut buffer = BytesMut::new();
        let mut encoder = RowsEncoder::begin(&mut buffer, names(1));
        encoder.begin_row(1);
        encoder.null();
        encoder.null();
    }
}
