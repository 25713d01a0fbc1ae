//! What servers answer. A table of type, schema and body stands at [`Response`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::{begin_frame, finish_frame};
use crate::word::{Reader, WORD_LEN, put_text, text_len, until_nul};
use crate::{DecodeError, Frame, NodeId, PeerAnnouncement, Protocol, Role, Rows, Server};

const FAILURE: u8 = 0;
const SERVER: u8 = 1;
const WELCOME: u8 = 2;
const SERVERS: u8 = 3;
const DATABASE: u8 = 4;
const STATEMENT: u8 = 5;
const RESULT: u8 = 6;
pub(crate) const ROWS: u8 = 7;
const EMPTY: u8 = 8;
const FILES: u8 = 9;
const METADATA: u8 = 10;

/// Layout of the entries of SERVERS, which the message itself does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServersFormat {
    /// Format 0: id and address.
    WithoutRoles,
    /// Format 1: id, address and role.
    WithRoles,
}

impl ServersFormat {
    /// The format a CLUSTER request names.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::WithoutRoles),
            1 => Some(Self::WithRoles),
            _ => None,
        }
    }

    /// The number to put into a CLUSTER request.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::WithoutRoles => 0,
            Self::WithRoles => 1,
        }
    }
}

/// What a client has to remember to understand a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseContext {
    /// Of the handshake: decides what a SERVER response looks like.
    pub protocol: Protocol,
    /// Of the CLUSTER request.
    pub format: ServersFormat,
}

impl Default for ResponseContext {
    fn default() -> Self {
        Self { protocol: Protocol::Current, format: ServersFormat::WithRoles }
    }
}

/// One response.
///
/// | type | variant | schema | body |
/// | --- | --- | --- | --- |
/// | 0 | `Failure` | 0 | u64 code, text message |
/// | 1 | `Server` | 0 | u64 id, text address |
/// | 1 | `ServerLegacy` | 0 | text address |
/// | 2 | `Welcome` | 0 | u64 time-out in ms |
/// | 3 | `Servers` | 0 | u64 count, then id, address and in format 1 role of each |
/// | 4 | `Database` | 0 | u32 id, u32 zero |
/// | 5 | `Statement` | 0, 1 | u32 database, u32 statement, u64 parameters, in schema 1 u64 offset |
/// | 6 | `Result` | 0 | u64 last insert id, u64 rows affected |
/// | 7 | `Rows` | 0 | see [`Rows`] |
/// | 8 | `Empty` | 0 | u64 zero |
/// | 9 | `Files` | 0 | u64 count, then text name, u64 length and content of each |
/// | 10 | `Metadata` | 0 | u64 failure domain, u64 weight; to a node of ours: [`PeerAnnouncement`] |
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// The request failed.
    Failure {
        /// SQLite's extended code or one of dqlite's own.
        code: u64,
        /// Text for people, and for drivers that match on it.
        message: Bytes,
    },
    /// The leader; id 0 and the empty address if there is none.
    Server {
        /// Its id.
        id: NodeId,
        /// Its address.
        address: String,
    },
    /// The leader, to a client that spoke the legacy handshake.
    ServerLegacy {
        /// Its address.
        address: String,
    },
    /// Answer to CLIENT.
    Welcome {
        /// Without effect.
        heartbeat_timeout_ms: u64,
    },
    /// The members.
    Servers {
        /// As the request asked.
        format: ServersFormat,
        /// In order of addition. Without roles on the wire, all decode as voters.
        servers: Vec<Server>,
    },
    /// The database is open.
    Database {
        /// Always 0.
        id: u32,
    },
    /// A prepared statement.
    Statement {
        /// Always 0.
        database: u32,
        /// Its id.
        statement: u32,
        /// Highest parameter number.
        params: u64,
        /// Where the text goes on after the statement; exactly for requests of schema 1.
        offset: Option<u64>,
    },
    /// Outcome of an EXEC.
    Result {
        /// The connection's last insert rowid, two's complement.
        last_insert_id: u64,
        /// Rows changed.
        rows_affected: u64,
    },
    /// Rows of a query. Servers use [`crate::RowsEncoder`] instead.
    Rows(Rows),
    /// Done, nothing to tell.
    Empty,
    /// Answer to DUMP: names and contents.
    Files(
        /// Content lengths are multiples of 8.
        Vec<(Bytes, Bytes)>,
    ),
    /// Answer to DESCRIBE.
    Metadata {
        /// Failure domain.
        failure_domain: u64,
        /// Weight.
        weight: u64,
        /// What the node says of itself, if it was asked with an announcement and is no C node.
        announcement: Option<PeerAnnouncement>,
    },
}

impl Response {
    /// A FAILURE.
    #[must_use]
    pub fn failure(code: u64, message: &str) -> Self {
        Self::Failure { code, message: Bytes::copy_from_slice(message.as_bytes()) }
    }

    /// Appends the whole message, header included.
    pub fn encode(&self, buffer: &mut BytesMut) {
        let (kind, schema) = (self.kind(), self.schema());
        let start = begin_frame(buffer);
        match self {
            Self::Failure { code, message } => {
                buffer.put_u64_le(*code);
                put_text(buffer, message);
            }
            Self::Server { id, address } => {
                buffer.put_u64_le(id.0);
                put_text(buffer, address.as_bytes());
            }
            Self::ServerLegacy { address } => put_text(buffer, address.as_bytes()),
            Self::Welcome { heartbeat_timeout_ms } => buffer.put_u64_le(*heartbeat_timeout_ms),
            Self::Servers { format, servers } => encode_servers(buffer, *format, servers),
            Self::Database { id } => {
                buffer.put_u32_le(*id);
                buffer.put_u32_le(0);
            }
            Self::Statement { database, statement, params, offset } => {
                buffer.put_u32_le(*database);
                buffer.put_u32_le(*statement);
                buffer.put_u64_le(*params);
                if let Some(offset) = offset {
                    buffer.put_u64_le(*offset);
                }
            }
            Self::Result { last_insert_id, rows_affected } => {
                buffer.put_u64_le(*last_insert_id);
                buffer.put_u64_le(*rows_affected);
            }
            Self::Rows(rows) => {
                buffer.truncate(start);
                rows.encode(buffer);
                return;
            }
            Self::Empty => buffer.put_u64_le(0),
            Self::Files(files) => {
                buffer.put_u64_le(files.len() as u64);
                for (name, content) in files {
                    put_file_header(buffer, name, content.len());
                    buffer.put_slice(content);
                }
            }
            Self::Metadata { failure_domain, weight, announcement } => {
                buffer.put_u64_le(*failure_domain);
                buffer.put_u64_le(*weight);
                if let Some(announcement) = announcement {
                    announcement.encode(buffer);
                }
            }
        }
        finish_frame(buffer, start, kind, schema);
    }

    /// The message in pieces that share the memory of file contents, in the order to send them.
    #[must_use]
    pub fn encode_vectored(&self) -> Vec<Bytes> {
        let mut buffer = BytesMut::new();
        let Self::Files(files) = self else {
            self.encode(&mut buffer);
            return vec![buffer.freeze()];
        };
        let files_len: usize = files
            .iter()
            .map(|(name, content)| text_len(until_nul(name).len()) + WORD_LEN + content.len())
            .sum();
        buffer.put_slice(&crate::message::header(FILES, 0, WORD_LEN + files_len));
        buffer.put_u64_le(files.len() as u64);
        let mut pieces = Vec::with_capacity(2 * files.len());
        for (name, content) in files {
            put_file_header(&mut buffer, name, content.len());
            pieces.push(buffer.split().freeze());
            if !content.is_empty() {
                pieces.push(content.clone());
            }
        }
        if !buffer.is_empty() {
            pieces.push(buffer.freeze());
        }
        pieces
    }

    /// Reads the response in `frame`, of the current protocol; SERVERS with roles.
    pub fn decode(frame: &Frame) -> Result<Self, DecodeError> {
        Self::decode_with(frame, ResponseContext::default())
    }

    /// Reads the response in `frame`; texts and values share the frame's memory.
    pub fn decode_with(frame: &Frame, context: ResponseContext) -> Result<Self, DecodeError> {
        if frame.schema > u8::from(frame.kind == STATEMENT) {
            return Err(DecodeError::Invalid { what: "response schema", value: u64::from(frame.schema) });
        }
        let reader = &mut Reader::new(&frame.body);
        Ok(match frame.kind {
            FAILURE => Self::Failure { code: reader.u64("code")?, message: reader.text("message")? },
            SERVER => match context.protocol {
                Protocol::Current => {
                    Self::Server { id: NodeId(reader.u64("node id")?), address: reader.address()? }
                }
                Protocol::Legacy => Self::ServerLegacy { address: reader.address()? },
            },
            WELCOME => Self::Welcome { heartbeat_timeout_ms: reader.u64("time-out")? },
            SERVERS => {
                Self::Servers { format: context.format, servers: decode_servers(reader, context.format)? }
            }
            DATABASE => {
                let id = reader.u32("database id")?;
                reader.u32("padding")?;
                Self::Database { id }
            }
            STATEMENT => Self::Statement {
                database: reader.u32("database id")?,
                statement: reader.u32("statement id")?,
                params: reader.u64("parameter count")?,
                offset: if frame.schema == 0 { None } else { Some(reader.u64("offset")?) },
            },
            RESULT => Self::Result {
                last_insert_id: reader.u64("last insert id")?,
                rows_affected: reader.u64("rows affected")?,
            },
            ROWS => Self::Rows(Rows::decode(reader)?),
            EMPTY => {
                reader.u64("empty response")?;
                Self::Empty
            }
            FILES => Self::Files(decode_files(reader)?),
            METADATA => Self::Metadata {
                failure_domain: reader.u64("failure domain")?,
                weight: reader.u64("weight")?,
                announcement: PeerAnnouncement::decode(reader),
            },
            kind => return Err(DecodeError::Invalid { what: "response type", value: u64::from(kind) }),
        })
    }

    /// The type byte.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Failure { .. } => FAILURE,
            Self::Server { .. } | Self::ServerLegacy { .. } => SERVER,
            Self::Welcome { .. } => WELCOME,
            Self::Servers { .. } => SERVERS,
            Self::Database { .. } => DATABASE,
            Self::Statement { .. } => STATEMENT,
            Self::Result { .. } => RESULT,
            Self::Rows(_) => ROWS,
            Self::Empty => EMPTY,
            Self::Files(_) => FILES,
            Self::Metadata { .. } => METADATA,
        }
    }

    /// The schema byte.
    #[must_use]
    pub const fn schema(&self) -> u8 {
        match self {
            Self::Statement { offset: Some(_), .. } => 1,
            _ => 0,
        }
    }
}

fn put_file_header(buffer: &mut BytesMut, name: &[u8], content_len: usize) {
    // Readers take exactly `length` bytes and expect the next name right behind them.
    assert!(content_len.is_multiple_of(WORD_LEN), "databases consist of whole pages");
    put_text(buffer, name);
    buffer.put_u64_le(content_len as u64);
}

fn decode_files(reader: &mut Reader<'_>) -> Result<Vec<(Bytes, Bytes)>, DecodeError> {
    let count = reader.u64("file count")?;
    let mut files = Vec::new();
    for _ in 0..count {
        let name = reader.text("file name")?;
        let len = reader.u64("file length")?;
        if !len.is_multiple_of(WORD_LEN as u64) {
            return Err(DecodeError::Invalid { what: "file length", value: len });
        }
        files.push((name, reader.take(len, "file content")?));
    }
    Ok(files)
}

fn encode_servers(buffer: &mut BytesMut, format: ServersFormat, servers: &[Server]) {
    buffer.put_u64_le(servers.len() as u64);
    for server in servers {
        buffer.put_u64_le(server.id.0);
        put_text(buffer, server.address.as_bytes());
        if format == ServersFormat::WithRoles {
            buffer.put_u64_le(server.role.client_code());
        }
    }
}

fn decode_servers(reader: &mut Reader<'_>, format: ServersFormat) -> Result<Vec<Server>, DecodeError> {
    let count = reader.u64("server count")?;
    let mut servers = Vec::new();
    for _ in 0..count {
        let id = NodeId(reader.u64("node id")?);
        let address = reader.address()?;
        let role = match format {
            ServersFormat::WithoutRoles => Role::Voter,
            ServersFormat::WithRoles => {
                let code = reader.u64("role")?;
                Role::from_client_code(code).ok_or(DecodeError::Invalid { what: "role", value: code })?
            }
        };
        servers.push(Server { id, address, role });
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectored_files_are_the_same_bytes_and_copy_nothing() {
        let content = Bytes::from(vec![7; 4096]);
        for files in [
            vec![],
            vec![
                (Bytes::from_static(b"test"), content.clone()),
                (Bytes::from_static(b"test-wal"), Bytes::new()),
            ],
        ] {
            let response = Response::Files(files);
            let mut buffer = BytesMut::new();
            response.encode(&mut buffer);
            let pieces = response.encode_vectored();
            assert_eq!(pieces.concat(), &buffer[..]);
            if pieces.len() > 1 {
                assert_eq!(pieces[1].as_ptr(), content.as_ptr());
            }
        }
    }

    #[test]
    fn counts_do_not_allocate() {
        for kind in [SERVERS, ROWS, FILES] {
            let body = Bytes::copy_from_slice(&[0xff; 8]);
            assert!(Response::decode(&Frame { kind, schema: 0, body }).is_err());
        }
    }

    #[test]
    fn only_statements_have_a_second_schema() {
        for kind in 0..=10 {
            let frame = Frame { kind, schema: 1, body: Bytes::from_static(&[0; 64]) };
            assert_eq!(Response::decode(&frame).is_ok(), kind == STATEMENT);
        }
    }
}
