//! From SQLite's columns to the values of a ROWS response.

use vfs::{ColumnValue, Statement};
use wire_protocol::{OutOfMemory, RowsEncoder};

/// How the declared type of a result column changes what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnKind {
    /// By storage class.
    Plain,
    /// DATE, DATETIME, TIMESTAMP: integers as Unix times, texts as ISO 8601.
    Time,
    /// BOOLEAN: integers as booleans.
    Boolean,
}

impl ColumnKind {
    /// Compares the whole declared type, in any case; an expression has none.
    pub(super) fn of(declared: Option<&[u8]>) -> Self {
        const TIMES: [&[u8]; 3] = [b"DATETIME", b"DATE", b"TIMESTAMP"];
        match declared {
            Some(name) if TIMES.iter().any(|time| name.eq_ignore_ascii_case(time)) => Self::Time,
            Some(name) if name.eq_ignore_ascii_case(b"BOOLEAN") => Self::Boolean,
            _ => Self::Plain,
        }
    }
}

/// Why a row cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowError {
    /// It is longer than what is allowed, bytes.
    TooLong(usize),
    /// There is no memory for it.
    OutOfMemory(OutOfMemory),
}

/// Appends the current row of `statement`. A value whose storage class does not fit the declared type is sent by
/// its storage class, NULL is always NULL. A text that holds a NUL is sent as BLOB: the protocol's texts end at a NUL.
pub(super) fn encode_row(
    rows: &mut RowsEncoder<'_>,
    statement: &Statement,
    kinds: &[ColumnKind],
    max_len: usize,
) -> Result<(), RowError> {
    let start = rows.len();
    // Room for the types of the row; a value makes room for itself and for the next types.
    rows.try_reserve(0).map_err(RowError::OutOfMemory)?;
    rows.begin_row(kinds.len());
    for (column, kind) in kinds.iter().enumerate() {
        let value = statement.column(column);
        let len = match value {
            ColumnValue::Text(bytes) | ColumnValue::Blob(bytes) => bytes.len(),
            _ => 0,
        };
        let room = if rows.len() - start + len > max_len {
            Err(RowError::TooLong(max_len))
        } else {
            rows.try_reserve(len).map_err(RowError::OutOfMemory)
        };
        if let Err(error) = room {
            rows.abandon_row();
            return Err(error);
        }
        match (value, kind) {
            (ColumnValue::Integer(value), ColumnKind::Plain) => rows.integer(value),
            (ColumnValue::Integer(value), ColumnKind::Time) => rows.unix_time(value),
            (ColumnValue::Integer(value), ColumnKind::Boolean) => rows.boolean(value),
            (ColumnValue::Text(text), _) if text.contains(&0) => rows.blob(text),
            (ColumnValue::Text(text), ColumnKind::Time) => rows.iso8601(text),
            (ColumnValue::Text(text), _) => rows.text(text),
            (ColumnValue::Float(value), _) => rows.float(value),
            (ColumnValue::Blob(blob), _) => rows.blob(blob),
            (ColumnValue::Null, _) => rows.null(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use vfs::{DatabaseName, Step, Vfs};
    use wire_protocol::RowsEnd;

    use super::*;

    #[test]
    fn a_row_that_is_too_long_is_refused_before_it_is_copied() {
        let vfs = Vfs::register().unwrap();
        let mut connection = vfs.open(&DatabaseName::new(b"test").unwrap()).unwrap();
        let sql = b"SELECT zeroblob(1000), zeroblob(1000), 1";
        let mut statement = connection.prepare(sql).unwrap().statement.unwrap();
        assert_eq!(statement.step(), Ok(Step::Row));
        let kinds = [ColumnKind::Plain; 3];
        let mut out = BytesMut::new();
        for _ in 0..2 {
            let mut rows = RowsEncoder::begin(&mut out, [&b"a"[..], b"b", b"c"].into_iter());
            let before = rows.len();
            assert_eq!(encode_row(&mut rows, &statement, &kinds, 2000), Err(RowError::TooLong(2000)));
            assert_eq!((rows.len(), rows.rows()), (before, 0));
            assert_eq!(encode_row(&mut rows, &statement, &kinds, 2100), Ok(()));
            rows.finish(RowsEnd::Done);
        }
    }

    #[test]
    fn declared_types_compare_whole_and_in_any_case() {
        assert_eq!(ColumnKind::of(Some(b"datetime")), ColumnKind::Time);
        assert_eq!(ColumnKind::of(Some(b"Boolean")), ColumnKind::Boolean);
        assert_eq!(ColumnKind::of(Some(b"BOOL")), ColumnKind::Plain);
        assert_eq!(ColumnKind::of(Some(b"TIMESTAMP WITH TIME ZONE")), ColumnKind::Plain);
        assert_eq!(ColumnKind::of(None), ColumnKind::Plain);
    }
}
