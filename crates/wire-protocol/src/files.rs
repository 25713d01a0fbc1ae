//! FILES responses in pieces, for contents that should not stand in memory as a whole.
//!
//! A message is the header of [`encode_files_header`], then for each file the header of [`encode_file_header`] followed
//! by exactly as many bytes as it announces.

use bytes::{BufMut, BytesMut};

use crate::word::put_text;
use crate::{DecodeError, WORD_LEN};

const FILES: u8 = 9;

/// Starts a FILES message. `content_len` is the length of everything that follows, file headers included.
///
/// # Errors
///
/// The length does not fit in the message header, which counts words in 32 bits.
pub fn encode_files_header(count: u64, content_len: u64, buffer: &mut BytesMut) -> Result<(), DecodeError> {
    let words = content_len / WORD_LEN as u64 + 1;
    let words =
        u32::try_from(words).map_err(|_| DecodeError::Invalid { what: "length of files", value: words })?;
    buffer.put_u32_le(words);
    buffer.put_u8(FILES);
    buffer.put_bytes(0, 3);
    buffer.put_u64_le(count);
    Ok(())
}

/// Announces one file of `len` bytes, a multiple of 8.
pub fn encode_file_header(name: &[u8], len: u64, buffer: &mut BytesMut) {
    put_text(buffer, name);
    buffer.put_u64_le(len);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Response;

    #[test]
    fn pieces_make_the_same_message_as_the_whole() {
        let content = Bytes::from(vec![7; 4096]);
        let files = vec![
            (Bytes::from_static(b"test"), content.clone()),
            (Bytes::from_static(b"test-wal"), Bytes::new()),
        ];
        let mut whole = BytesMut::new();
        Response::Files(files).encode(&mut whole);
        let mut first = BytesMut::new();
        encode_file_header(b"test", 4096, &mut first);
        let mut second = BytesMut::new();
        encode_file_header(b"test-wal", 0, &mut second);
        let mut pieces = BytesMut::new();
        encode_files_header(2, (first.len() + 4096 + second.len()) as u64, &mut pieces).unwrap();
        pieces.put(first);
        pieces.put(content);
        pieces.put(second);
        assert_eq!(pieces, whole);
    }

    #[test]
    fn a_length_beyond_the_header_is_an_error() {
        assert!(encode_files_header(1, 1 << 35, &mut BytesMut::new()).is_err());
    }
}
