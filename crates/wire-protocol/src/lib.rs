//! Every byte that crosses a dqlite socket: client messages, CONNECT, raft RPCs, log entries and configurations.
//!
//! Sans-io: a decoder takes whatever bytes have arrived and gives whole messages out; an encoder appends to a buffer.
//! No unsafe code, no I/O, no clock. The log on disk uses the same entry, command and configuration codecs.
#![forbid(unsafe_code)]

mod announcement;
pub mod command;
pub mod configuration;
mod decoder;
pub mod entry;
mod error;
pub mod files;
mod message;
mod params;
mod request;
mod response;
mod room;
mod rows;
pub mod rpc;
pub mod snapshot;
mod types;
mod value;
mod word;

pub use announcement::{ClusterId, Features, PeerAnnouncement};
pub use configuration::{Configuration, Role, Server};
pub use decoder::{ClientDecoder, FrameDecoder, Incoming};
pub use entry::{Entry, EntryKind};
pub use error::{DecodeError, OutOfMemory};
pub use message::{Frame, HEADER_LEN, Protocol};
pub use params::{Params, ParamsSchema};
pub use request::{PrepareSchema, Request, RequestError};
pub use response::{Response, ResponseContext, ServersFormat};
pub use room::try_reserve;
pub use rows::{Rows, RowsEncoder, RowsEnd};
pub use types::{LogIndex, NodeId, Term};
pub use value::Value;
pub use word::{WORD_LEN, text_len};
