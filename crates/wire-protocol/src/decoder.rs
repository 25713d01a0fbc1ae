//! Splits a byte stream into handshake and frames. Bytes may arrive in any pieces.
//!
//! Decoders never reserve memory: a header that announces a large body changes nothing until the body is there. How the
//! buffer grows is up to whoever reads from the socket.

use bytes::{Buf, BytesMut};

use crate::message::HEADER_LEN;
use crate::word::WORD_LEN;
use crate::{DecodeError, Frame, Protocol};

/// What a client sends: first the handshake, then frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The version word; comes exactly once.
    Handshake(Protocol),
    /// One request.
    Frame(Frame),
}

/// Takes handshake and requests off a client's stream.
///
/// Takes exactly one item per call and leaves all later bytes in the buffer, since after CONNECT they are raft messages.
#[derive(Clone, Debug)]
pub struct ClientDecoder {
    greeted: bool,
    frames: FrameDecoder,
}

impl ClientDecoder {
    /// Bodies longer than `max_body_len` bytes are an error.
    #[must_use]
    pub fn new(max_body_len: usize) -> Self {
        Self { greeted: false, frames: FrameDecoder::new(max_body_len) }
    }

    /// The next item, `None` if more bytes are needed. After an error the stream cannot be decoded any further: the
    /// buffer is left as it is, and the call repeats its error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, DecodeError> {
        if self.greeted {
            return Ok(self.frames.decode(buffer)?.map(Incoming::Frame));
        }
        let Some(word) = buffer.first_chunk::<WORD_LEN>() else { return Ok(None) };
        let version = u64::from_le_bytes(*word);
        let protocol = Protocol::from_version(version).ok_or(DecodeError::UnknownProtocol(version))?;
        buffer.advance(WORD_LEN);
        self.greeted = true;
        Ok(Some(Incoming::Handshake(protocol)))
    }

    /// How many bytes the message at the front of the buffer still lacks, as far as its header tells.
    #[must_use]
    pub fn missing_len(&self, buffer: &BytesMut) -> usize {
        if self.greeted { self.frames.missing_len(buffer) } else { WORD_LEN.saturating_sub(buffer.len()) }
    }
}

/// Takes frames off a stream without handshake: what a client needs to read responses.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    max_body_len: usize,
}

impl FrameDecoder {
    /// Bodies longer than `max_body_len` bytes are an error.
    #[must_use]
    pub const fn new(max_body_len: usize) -> Self {
        Self { max_body_len }
    }

    /// The next frame, `None` if more bytes are needed. The body shares the buffer's memory.
    ///
    /// A body of zero words gives a frame with an empty body, which no request or response accepts; so the receiver can
    /// answer.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(&header) = buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let body_len = self.body_len(header)?;
        if buffer.len() - HEADER_LEN < body_len {
            return Ok(None);
        }
        buffer.advance(HEADER_LEN);
        Ok(Some(Frame { kind: header[4], schema: header[5], body: buffer.split_to(body_len).freeze() }))
    }

    /// How many bytes the frame at the front of the buffer still lacks, as far as its header tells.
    #[must_use]
    pub fn missing_len(&self, buffer: &BytesMut) -> usize {
        match buffer.first_chunk::<HEADER_LEN>() {
            None => HEADER_LEN - buffer.len(),
            Some(&header) => {
                self.body_len(header).map_or(0, |len| (HEADER_LEN + len).saturating_sub(buffer.len()))
            }
        }
    }

    fn body_len(&self, header: [u8; HEADER_LEN]) -> Result<usize, DecodeError> {
        let [a, b, c, d, ..] = header;
        let announced = u64::from(u32::from_le_bytes([a, b, c, d])) * WORD_LEN as u64;
        match usize::try_from(announced) {
            Ok(len) if len <= self.max_body_len => Ok(len),
            _ => Err(DecodeError::TooLarge {
                what: "message body",
                announced,
                limit: self.max_body_len as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut ClientDecoder, bytes: &[u8]) -> Result<Option<Incoming>, DecodeError> {
        decoder.decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn handshake_may_arrive_in_pieces() {
        let mut decoder = ClientDecoder::new(1024);
        let mut buffer = BytesMut::from(&[1, 0, 0][..]);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert_eq!(decoder.missing_len(&buffer), 5);
        buffer.extend_from_slice(&[0; 5]);
        assert_eq!(decoder.decode(&mut buffer), Ok(Some(Incoming::Handshake(Protocol::Current))));
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert_eq!(decoder.missing_len(&buffer), 8);
    }

    #[test]
    fn unknown_version_is_an_error_again_and_again() {
        let mut decoder = ClientDecoder::new(1024);
        let mut buffer = BytesMut::from(&[2, 0, 0, 0, 0, 0, 0, 0][..]);
        for _ in 0..2 {
            assert_eq!(decoder.decode(&mut buffer), Err(DecodeError::UnknownProtocol(2)));
        }
    }

    #[test]
    fn body_over_the_limit_is_refused_before_it_arrives() {
        let mut decoder = ClientDecoder::new(16);
        decoded(&mut decoder, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(decoded(&mut decoder, &[2, 0, 0, 0, 0, 0, 0, 0]), Ok(None));
        for words in [3_u32, 0x1000_0001, 0x2000_0000, u32::MAX] {
            let mut header = [0; 8];
            header[..4].copy_from_slice(&words.to_le_bytes());
            let error =
                DecodeError::TooLarge { what: "message body", announced: u64::from(words) * 8, limit: 16 };
            assert_eq!(decoded(&mut decoder, &header), Err(error));
        }
    }

    #[test]
    fn announced_size_reserves_nothing() {
        let decoder = FrameDecoder::new(1 << 30);
        let mut buffer = BytesMut::from(&[0, 0, 0, 1, 0, 0, 0, 0][..]);
        let capacity = buffer.capacity();
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert_eq!(buffer.capacity(), capacity);
        assert_eq!(decoder.missing_len(&buffer), 0x0100_0000 * 8);
    }

    #[test]
    fn zero_words_give_an_empty_frame() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 9, 1, 7, 7, 42][..]);
        let frame = FrameDecoder::new(0).decode(&mut buffer).unwrap().unwrap();
        assert_eq!((frame.kind, frame.schema, frame.body.len()), (9, 1, 0));
        assert_eq!(&buffer[..], [42]);
    }
}
