//! Database contents in forms that can be compared: the digest of a query, and the image a DUMP stands for.

use std::fmt::Write;

use server::client::{Client, QueryResult};
use sha2::{Digest, Sha256};
use wire_protocol::Value;

const WAL_HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 24;

/// Number of rows and SHA-256 of what `select` yields, in the text form of the golden data: `N`, `I` and decimal, `F`
/// and 16 hex digits, `T` and hex, `B` and hex, joined with `|`, each row ended by a newline.
pub fn digest(client: &mut Client, select: &str) -> Result<(usize, String), String> {
    let result = client.query_sql(select, &[]).map_err(|error| format!("{select}: {error}"))?;
    let text = text_form(&result)?;
    Ok((result.rows.len(), hex(&Sha256::digest(text.as_bytes()))))
}

fn text_form(result: &QueryResult) -> Result<String, String> {
    let mut text = String::new();
    for row in &result.rows {
        for (column, value) in row.iter().enumerate() {
            if column > 0 {
                text.push('|');
            }
            match value {
                Value::Null => text.push('N'),
                Value::Integer(integer) => text.push_str(&format!("I{integer}")),
                Value::Float(float) => text.push_str(&format!("F{:016x}", float.to_bits())),
                Value::Text(bytes) => text.push_str(&format!("T{}", hex(bytes))),
                Value::Blob(bytes) => text.push_str(&format!("B{}", hex(bytes))),
                other => return Err(format!("{other:?} has a column's type; select expressions")),
            }
        }
        text.push('\n');
    }
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

/// The database that main file and WAL of a DUMP stand for: old C nodes send frames that are not in the file yet.
pub fn merged(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, String> {
    let [(_, main), (_, wal)] = files else { return Err(format!("{} files in a dump", files.len())) };
    let mut image = main.clone();
    if wal.is_empty() {
        return Ok(image);
    }
    let word = |at: usize| {
        let bytes = wal.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or("a WAL is cut off")?;
        Ok::<usize, String>(u32::from_be_bytes(bytes) as usize)
    };
    let page_size = word(8)?;
    if !page_size.is_power_of_two() || page_size < 512 {
        return Err(format!("a WAL with pages of {page_size} bytes"));
    }
    let mut transaction = Vec::new();
    for at in (WAL_HEADER_LEN..wal.len()).step_by(FRAME_HEADER_LEN + page_size) {
        if wal[at + 8..at + 16] != wal[16..24] {
            // Frames of an earlier round of the WAL.
            break;
        }
        let start = at + FRAME_HEADER_LEN;
        let page = wal.get(start..start + page_size).ok_or("a frame is cut off")?;
        transaction.push((word(at)?, page));
        let size = word(at + 4)?;
        if size > 0 {
            image.resize(size * page_size, 0);
            for (number, page) in transaction.drain(..) {
                let place = number.checked_sub(1).map(|index| index * page_size);
                let place = place.and_then(|start| image.get_mut(start..start + page_size));
                place.ok_or_else(|| format!("page {number} of a database of {size}"))?.copy_from_slice(page);
            }
        }
    }
    Ok(image)
}

/// Where two images differ first.
#[must_use]
pub fn difference(one: &[u8], other: &[u8]) -> Option<String> {
    if one == other {
        return None;
    }
    let place = one.iter().zip(other).position(|(left, right)| left != right);
    let place = place.map_or_else(|| "one ends".to_owned(), |at| format!("first at byte {at}"));
    Some(format!("{place} ({} and {} bytes)", one.len(), other.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(frames: &[(u32, u32, u8)], salt: u8) -> Vec<u8> {
        let mut wal = vec![0; WAL_HEADER_LEN];
        wal[8..12].copy_from_slice(&512_u32.to_be_bytes());
        wal[16..24].fill(7);
        for (number, size, content) in frames {
            wal.extend(number.to_be_bytes());
            wal.extend(size.to_be_bytes());
            wal.extend([salt; 8]);
            wal.extend([0; 8]);
            wal.extend([*content; 512]);
        }
        wal
    }

    fn dump(main: Vec<u8>, wal: Vec<u8>) -> [(String, Vec<u8>); 2] {
        [("db".to_owned(), main), ("db-wal".to_owned(), wal)]
    }

    #[test]
    fn committed_frames_are_merged_and_others_left_out() {
        let frames = [(2, 0, 2), (1, 3, 1), (3, 3, 3), (1, 0, 9)];
        let image = merged(&dump(vec![0; 512], wal(&frames, 7))).unwrap();
        assert_eq!(image.len(), 3 * 512);
        assert_eq!([image[0], image[512], image[1024]], [1, 2, 3]);
    }

    #[test]
    fn a_transaction_may_shrink_the_database() {
        let image = merged(&dump(vec![5; 1536], wal(&[(1, 1, 1)], 7))).unwrap();
        assert_eq!(image, [1; 512]);
    }

    #[test]
    fn frames_of_an_earlier_round_do_not_count() {
        assert_eq!(merged(&dump(vec![5; 512], wal(&[(1, 1, 1)], 6))).unwrap(), [5; 512]);
    }

    #[test]
    fn text_form_is_that_of_the_golden_data() {
        let row = vec![
            Value::Null,
            Value::Integer(-3),
            Value::Float(1.0),
            Value::Text("\u{e9}".as_bytes().to_vec().into()),
            Value::Blob(vec![0, 255].into()),
        ];
        let result = QueryResult { columns: Vec::new(), rows: vec![row, vec![Value::Integer(1)]] };
        assert_eq!(text_form(&result).unwrap(), "N|I-3|F3ff0000000000000|Tc3a9|B00ff\nI1\n");
    }
}
