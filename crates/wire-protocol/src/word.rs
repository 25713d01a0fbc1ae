//! The primitive encodings all formats share: little-endian integers, text padded to whole words, length-prefixed blobs.
//!
//! | name | bytes |
//! | --- | --- |
//! | u8 to u64 | little endian |
//! | text | bytes, one NUL, zeros up to a multiple of 8; the empty text is 8 zero bytes |
//! | blob | u64 length, bytes, zeros up to a multiple of 8 |
//!
//! [`Reader`] cannot run past its end and hands out slices that share the message's memory.

use std::ffi::CStr;

use bytes::{BufMut, Bytes, BytesMut};

use crate::DecodeError;

/// Bytes in a word; every message is a whole number of words.
pub const WORD_LEN: usize = 8;

/// Longest address of a server in a request or response, bytes. Names have at most 253, paths of unix sockets 108; addresses
/// are copied into configurations, messages and logs, so they must not be as long as messages can be.
const MAX_ADDRESS_LEN: usize = 4096;

/// Length of an encoded text of `len` bytes.
#[must_use]
pub const fn text_len(len: usize) -> usize {
    (len / WORD_LEN + 1) * WORD_LEN
}

/// The part of `text` before its first NUL: what a text field can carry. C strings end there as well.
pub(crate) fn until_nul(text: &[u8]) -> &[u8] {
    CStr::from_bytes_until_nul(text).map_or(text, CStr::to_bytes)
}

/// Appends a text field, cut at its first NUL.
pub(crate) fn put_text(buffer: &mut BytesMut, text: &[u8]) {
    let text = until_nul(text);
    let padded = text_len(text.len());
    buffer.reserve(padded);
    buffer.put_slice(text);
    buffer.put_bytes(0, padded - text.len());
}

/// Appends a blob field.
pub(crate) fn put_blob(buffer: &mut BytesMut, blob: &[u8]) {
    let padded = blob.len().next_multiple_of(WORD_LEN);
    buffer.reserve(WORD_LEN + padded);
    buffer.put_u64_le(blob.len() as u64);
    buffer.put_slice(blob);
    buffer.put_bytes(0, padded - blob.len());
}

/// The address in `bytes`, which have to be UTF-8.
pub(crate) fn address(bytes: &[u8]) -> Result<String, DecodeError> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::AddressNotUtf8)
}

/// Reads fields in order; slices it returns share the memory of the message.
pub(crate) struct Reader<'a> {
    bytes: &'a Bytes,
    position: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, position: 0 }
    }

    fn unread(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let chunk = self.unread().first_chunk::<N>().ok_or(DecodeError::Truncated(what))?;
        self.position += N;
        Ok(*chunk)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The next word without consuming it.
    pub(crate) fn peek_u64(&self) -> Option<u64> {
        self.unread().first_chunk().map(|word| u64::from_le_bytes(*word))
    }

    /// The next `len` bytes. `len` comes from the message, so it may be anything.
    pub(crate) fn slice(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(len).map_err(|_| DecodeError::Truncated(what))?;
        let slice = self.unread().get(..len).ok_or(DecodeError::Truncated(what))?;
        self.position += len;
        Ok(slice)
    }

    /// As [`Reader::slice`], but sharing the message's memory.
    pub(crate) fn take(&mut self, len: u64, what: &'static str) -> Result<Bytes, DecodeError> {
        let start = self.position;
        self.slice(len, what)?;
        Ok(self.bytes.slice(start..self.position))
    }

    /// Everything not read yet.
    pub(crate) fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.position..);
        self.position = self.bytes.len();
        rest
    }

    /// A text field, without its NUL and padding. The padding has to be there, its content does not matter.
    pub(crate) fn text_slice(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let unread = self.unread();
        let text =
            CStr::from_bytes_until_nul(unread).map_err(|_| DecodeError::UnterminatedText(what))?.to_bytes();
        let padded = text_len(text.len());
        if padded > unread.len() {
            return Err(DecodeError::Truncated(what));
        }
        self.position += padded;
        Ok(text)
    }

    /// As [`Reader::text_slice`], but sharing the message's memory.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let start = self.position;
        let len = self.text_slice(what)?.len();
        Ok(self.bytes.slice(start..start + len))
    }

    /// A text field that is a server address.
    pub(crate) fn address(&mut self) -> Result<String, DecodeError> {
        let text = self.text_slice("server address")?;
        if text.len() > MAX_ADDRESS_LEN {
            return Err(DecodeError::TooLarge {
                what: "server address",
                announced: text.len() as u64,
                limit: MAX_ADDRESS_LEN as u64,
            });
        }
        address(text)
    }

    /// A blob field, without its padding.
    pub(crate) fn blob(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.u64(what)?;
        // A length just below 2^64 must not wrap around to a small one when it is padded.
        let padded = len.checked_next_multiple_of(WORD_LEN as u64).ok_or(DecodeError::Truncated(what))?;
        let start = self.position;
        self.slice(padded, what)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::Truncated(what))?;
        Ok(self.bytes.slice(start..start + len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_whole_words_gets_a_word_for_its_nul() {
        let mut buffer = BytesMut::new();
        put_text(&mut buffer, b"volatile");
        assert_eq!(&buffer[..], b"volatile\0\0\0\0\0\0\0\0");
        put_text(&mut buffer, b"");
        assert_eq!(buffer.len(), 24);
    }

    #[test]
    fn text_is_cut_at_its_first_nul() {
        let mut buffer = BytesMut::new();
        put_text(&mut buffer, b"ab\0cd");
        assert_eq!(&buffer[..], b"ab\0\0\0\0\0\0");
    }

    #[test]
    fn text_without_nul_or_padding_is_refused() {
        let bytes = Bytes::from_static(b"abcdefgh");
        assert_eq!(Reader::new(&bytes).text("t"), Err(DecodeError::UnterminatedText("t")));
        let bytes = Bytes::from_static(b"abc\0");
        assert_eq!(Reader::new(&bytes).text("t"), Err(DecodeError::Truncated("t")));
        assert_eq!(Reader::new(&Bytes::new()).text("t"), Err(DecodeError::UnterminatedText("t")));
    }

    #[test]
    fn blob_lengths_near_the_top_do_not_wrap() {
        for len in [u64::MAX, u64::MAX - 7, u64::MAX - 8, 1 << 63, 9] {
            let mut buffer = BytesMut::new();
            buffer.put_u64_le(len);
            buffer.put_u64_le(0);
            let bytes = buffer.freeze();
            assert_eq!(Reader::new(&bytes).blob("b"), Err(DecodeError::Truncated("b")));
        }
    }

    #[test]
    fn slices_share_the_memory_of_the_message() {
        let bytes = Bytes::from(b"\x03\0\0\0\0\0\0\0abc\0\0\0\0\0".to_vec());
        let blob = Reader::new(&bytes).blob("b").unwrap();
        assert_eq!(blob.as_ptr(), bytes[8..].as_ptr());
        assert_eq!(&blob[..], b"abc");
    }
}
