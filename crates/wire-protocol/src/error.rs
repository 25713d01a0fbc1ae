//! The one error type of all decoders. Encoders cannot fail; what they would have to refuse is asserted.

/// Why bytes are not a message. Every variant is the fault of whoever wrote the bytes, never of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first word of a client connection is no protocol version we know.
    #[error("unknown protocol version {0:#x}")]
    UnknownProtocol(u64),
    /// A header announces more than the receiver is willing to take.
    #[error("{what} of {announced} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Which part of the message.
        what: &'static str,
        /// Size in bytes as announced.
        announced: u64,
        /// The receiver's limit in bytes.
        limit: u64,
    },
    /// The bytes end before the field does; also a length field that leads past the end.
    #[error("{0} is cut off")]
    Truncated(&'static str),
    /// No NUL between the start of a text and the end of the message.
    #[error("{0} has no terminating NUL")]
    UnterminatedText(&'static str),
    /// A field holds a number outside its range.
    #[error("{what} {value} is not valid")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Addresses are compared, dialled and shown, so they have to be UTF-8.
    #[error("server address is not UTF-8")]
    AddressNotUtf8,
    /// Two members of a configuration share an id or an address.
    #[error("duplicate {0} in configuration")]
    Duplicate(&'static str),
    /// A message that has to end here goes on.
    #[error("trailing bytes after {0}")]
    TrailingBytes(&'static str),
}

/// There is no memory for what would have to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for {len} bytes")]
pub struct OutOfMemory {
    /// Length of the block that was asked for, bytes.
    pub len: usize,
}
