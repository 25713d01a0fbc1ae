//! What clients ask. A table of type, schema and layout stands at [`Request`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::announcement::PeerAnnouncement;
use crate::message::{begin_frame, finish_frame};
use crate::word::{Reader, put_text};
use crate::{DecodeError, Frame, NodeId, Params, ParamsSchema};

const LEADER: u8 = 0;
const CLIENT: u8 = 1;
const OPEN: u8 = 3;
const PREPARE: u8 = 4;
const EXEC: u8 = 5;
const QUERY: u8 = 6;
const FINALIZE: u8 = 7;
const EXEC_SQL: u8 = 8;
const QUERY_SQL: u8 = 9;
const INTERRUPT: u8 = 10;
const CONNECT: u8 = 11;
const ADD: u8 = 12;
const ASSIGN: u8 = 13;
const REMOVE: u8 = 14;
const DUMP: u8 = 15;
const CLUSTER: u8 = 16;
const TRANSFER: u8 = 17;
const DESCRIBE: u8 = 18;
const WEIGHT: u8 = 19;

/// Why a frame is not a request. The first two leave the connection usable and deserve an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No request has this type; HEARTBEAT (2) is one of them.
    #[error("unrecognized request type")]
    UnrecognizedType,
    /// The type is known, its schema is not.
    #[error("unrecognized schema version")]
    UnrecognizedSchema {
        /// Whether it is one of the five SQL requests, which answer with another code.
        sql: bool,
    },
    /// The body does not hold what its type and schema promise.
    #[error("malformed request")]
    Malformed(#[from] DecodeError),
}

/// Which answer a PREPARE wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PrepareSchema {
    /// Without offset: the text has to be a single statement.
    #[default]
    V0,
    /// With the offset of what follows the first statement.
    V1,
}

/// One request. Texts and names are raw bytes up to the first NUL, addresses UTF-8.
///
/// | type | variant | schemas | body |
/// | --- | --- | --- | --- |
/// | 0 | `Leader` | 0 | u64 unused |
/// | 1 | `Client` | 0 | u64 id |
/// | 3 | `Open` | 0 | text name, u64 flags, text vfs |
/// | 4 | `Prepare` | 0, 1 | u64 database, text sql |
/// | 5, 6 | `Exec`, `Query` | 0, 1 | u32 database, u32 statement, parameters |
/// | 7 | `Finalize` | 0 | u32 database, u32 statement |
/// | 8, 9 | `ExecSql`, `QuerySql` | 0, 1 | u64 database, text sql, parameters |
/// | 10 | `Interrupt` | 0 | u64 unused |
/// | 11 | `Connect` | any | u64 id, text address, optional words of [`PeerAnnouncement`] |
/// | 12 | `Add` | 0 | u64 id, text address |
/// | 13 | `Assign` | 0 | u64 id, optional u64 role |
/// | 14, 17 | `Remove`, `Transfer` | 0 | u64 id |
/// | 15 | `Dump` | 0 | text name |
/// | 16, 18 | `Cluster`, `Describe` | 0 | u64 format; `Describe` of our nodes: [`PeerAnnouncement`] |
/// | 19 | `Weight` | 0 | u64 weight |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who leads?
    Leader,
    /// Announces a client id, which nothing uses.
    Client {
        /// Any number.
        id: u64,
    },
    /// Opens the connection's database.
    Open {
        /// Database name.
        name: Bytes,
        /// Ignored by servers.
        flags: u64,
        /// Ignored by servers.
        vfs: Bytes,
    },
    /// Prepares the first statement of a text.
    Prepare {
        /// Database id, 0.
        database: u64,
        /// SQL text.
        sql: Bytes,
        /// Which answer is wanted.
        schema: PrepareSchema,
    },
    /// Runs a prepared statement that yields no rows.
    Exec {
        /// Database id, 0.
        database: u32,
        /// Statement id.
        statement: u32,
        /// Parameters.
        params: Params,
    },
    /// Runs a prepared statement for its rows.
    Query {
        /// Database id, 0.
        database: u32,
        /// Statement id.
        statement: u32,
        /// Parameters.
        params: Params,
    },
    /// Drops a prepared statement.
    Finalize {
        /// Database id, 0.
        database: u32,
        /// Statement id.
        statement: u32,
    },
    /// Runs all statements of a text.
    ExecSql {
        /// Database id, 0.
        database: u64,
        /// SQL text.
        sql: Bytes,
        /// Parameters, handed out to the statements in order.
        params: Params,
    },
    /// Runs the one statement of a text for its rows.
    QuerySql {
        /// Database id, 0.
        database: u64,
        /// SQL text.
        sql: Bytes,
        /// Parameters.
        params: Params,
    },
    /// Ends a running query.
    Interrupt,
    /// Turns the connection into a raft stream of another node; not answered.
    Connect {
        /// Who dials.
        id: NodeId,
        /// Its address.
        address: String,
        /// What it says of itself; C nodes say nothing.
        announcement: Option<PeerAnnouncement>,
    },
    /// Adds a node, as a spare.
    Add {
        /// Its id.
        id: NodeId,
        /// Its address.
        address: String,
    },
    /// Changes a node's role.
    Assign {
        /// The node.
        id: NodeId,
        /// 0 voter, 1 stand-by, 2 spare, or whatever the client sent. A body without role means 0.
        role: u64,
    },
    /// Removes a node.
    Remove {
        /// The node.
        id: NodeId,
    },
    /// Asks for a database's content.
    Dump {
        /// Database name.
        name: Bytes,
    },
    /// Asks for the members.
    Cluster {
        /// 0 without roles, 1 with roles, or whatever the client sent.
        format: u64,
    },
    /// Hands leadership over.
    Transfer {
        /// To whom; 0 lets the leader choose.
        id: NodeId,
    },
    /// Asks for failure domain and weight.
    Describe {
        /// 0, or whatever the client sent. C nodes of every release send two answers to any other number, which ends
        /// their process, so no node may ask with one.
        format: u64,
        /// What the node that asks says of itself, and so wants to hear; clients and C nodes say nothing, and C nodes
        /// read nothing behind the format.
        announcement: Option<PeerAnnouncement>,
    },
    /// Sets the weight.
    Weight {
        /// Any number.
        weight: u64,
    },
}

impl Request {
    /// Reads the request in `frame`; texts and parameters share the frame's memory.
    ///
    /// Type and schema are judged before the body. Bytes after what a request needs are ignored.
    pub fn decode(frame: &Frame) -> Result<Self, RequestError> {
        check_schema(frame.kind, frame.schema)?;
        let reader = &mut Reader::new(&frame.body);
        Ok(match frame.kind {
            LEADER => {
                reader.u64("leader request")?;
                Self::Leader
            }
            CLIENT => Self::Client { id: reader.u64("client id")? },
            OPEN => Self::Open {
                name: reader.text("database name")?,
                flags: reader.u64("open flags")?,
                vfs: reader.text("vfs name")?,
            },
            PREPARE => Self::Prepare {
                database: reader.u64("database id")?,
                sql: reader.text("sql text")?,
                schema: if frame.schema == 0 { PrepareSchema::V0 } else { PrepareSchema::V1 },
            },
            EXEC | QUERY => {
                let database = reader.u32("database id")?;
                let statement = reader.u32("statement id")?;
                let params = Params::decode(params_schema(frame), reader)?;
                if frame.kind == EXEC {
                    Self::Exec { database, statement, params }
                } else {
                    Self::Query { database, statement, params }
                }
            }
            FINALIZE => Self::Finalize {
                database: reader.u32("database id")?,
                statement: reader.u32("statement id")?,
            },
            EXEC_SQL | QUERY_SQL => {
                let database = reader.u64("database id")?;
                let sql = reader.text("sql text")?;
                let params = Params::decode(params_schema(frame), reader)?;
                if frame.kind == EXEC_SQL {
                    Self::ExecSql { database, sql, params }
                } else {
                    Self::QuerySql { database, sql, params }
                }
            }
            INTERRUPT => {
                reader.u64("database id")?;
                Self::Interrupt
            }
            CONNECT => Self::Connect {
                id: node_id(reader)?,
                address: reader.address()?,
                announcement: PeerAnnouncement::decode(reader),
            },
            ADD => Self::Add { id: node_id(reader)?, address: reader.address()? },
            ASSIGN => Self::Assign {
                id: node_id(reader)?,
                role: if reader.remaining() == 0 { 0 } else { reader.u64("role")? },
            },
            REMOVE => Self::Remove { id: node_id(reader)? },
            DUMP => Self::Dump { name: reader.text("database name")? },
            CLUSTER => Self::Cluster { format: reader.u64("format")? },
            TRANSFER => Self::Transfer { id: node_id(reader)? },
            DESCRIBE => Self::Describe {
                format: reader.u64("format")?,
                announcement: PeerAnnouncement::decode(reader),
            },
            WEIGHT => Self::Weight { weight: reader.u64("weight")? },
            _ => return Err(RequestError::UnrecognizedType),
        })
    }

    /// Appends the whole message, header included.
    pub fn encode(&self, buffer: &mut BytesMut) {
        let start = begin_frame(buffer);
        match self {
            Self::Leader | Self::Interrupt => buffer.put_u64_le(0),
            Self::Client { id } => buffer.put_u64_le(*id),
            Self::Open { name, flags, vfs } => {
                put_text(buffer, name);
                buffer.put_u64_le(*flags);
                put_text(buffer, vfs);
            }
            Self::Prepare { database, sql, .. } => {
                buffer.put_u64_le(*database);
                put_text(buffer, sql);
            }
            Self::Exec { database, statement, params } | Self::Query { database, statement, params } => {
                buffer.put_u32_le(*database);
                buffer.put_u32_le(*statement);
                params.encode(buffer);
            }
            Self::Finalize { database, statement } => {
                buffer.put_u32_le(*database);
                buffer.put_u32_le(*statement);
            }
            Self::ExecSql { database, sql, params } | Self::QuerySql { database, sql, params } => {
                buffer.put_u64_le(*database);
                put_text(buffer, sql);
                params.encode(buffer);
            }
            Self::Connect { id, address, announcement } => {
                buffer.put_u64_le(id.0);
                put_text(buffer, address.as_bytes());
                if let Some(announcement) = announcement {
                    announcement.encode(buffer);
                }
            }
            Self::Add { id, address } => {
                buffer.put_u64_le(id.0);
                put_text(buffer, address.as_bytes());
            }
            Self::Assign { id, role } => {
                buffer.put_u64_le(id.0);
                buffer.put_u64_le(*role);
            }
            Self::Remove { id } | Self::Transfer { id } => buffer.put_u64_le(id.0),
            Self::Dump { name } => put_text(buffer, name),
            Self::Cluster { format } => buffer.put_u64_le(*format),
            Self::Describe { format, announcement } => {
                buffer.put_u64_le(*format);
                if let Some(announcement) = announcement {
                    announcement.encode(buffer);
                }
            }
            Self::Weight { weight } => buffer.put_u64_le(*weight),
        }
        finish_frame(buffer, start, self.kind(), self.schema());
    }

    /// The type byte.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Leader => LEADER,
            Self::Client { .. } => CLIENT,
            Self::Open { .. } => OPEN,
            Self::Prepare { .. } => PREPARE,
            Self::Exec { .. } => EXEC,
            Self::Query { .. } => QUERY,
            Self::Finalize { .. } => FINALIZE,
            Self::ExecSql { .. } => EXEC_SQL,
            Self::QuerySql { .. } => QUERY_SQL,
            Self::Interrupt => INTERRUPT,
            Self::Connect { .. } => CONNECT,
            Self::Add { .. } => ADD,
            Self::Assign { .. } => ASSIGN,
            Self::Remove { .. } => REMOVE,
            Self::Dump { .. } => DUMP,
            Self::Cluster { .. } => CLUSTER,
            Self::Transfer { .. } => TRANSFER,
            Self::Describe { .. } => DESCRIBE,
            Self::Weight { .. } => WEIGHT,
        }
    }

    /// The schema byte.
    #[must_use]
    pub const fn schema(&self) -> u8 {
        match self {
            Self::Prepare { schema, .. } => match schema {
                PrepareSchema::V0 => 0,
                PrepareSchema::V1 => 1,
            },
            Self::Exec { params, .. }
            | Self::Query { params, .. }
            | Self::ExecSql { params, .. }
            | Self::QuerySql { params, .. } => params.schema().number(),
            _ => 0,
        }
    }
}

fn check_schema(kind: u8, schema: u8) -> Result<(), RequestError> {
    match kind {
        CONNECT => Ok(()),
        PREPARE | EXEC | QUERY | EXEC_SQL | QUERY_SQL if schema > 1 => {
            Err(RequestError::UnrecognizedSchema { sql: true })
        }
        PREPARE | EXEC | QUERY | EXEC_SQL | QUERY_SQL => Ok(()),
        LEADER | CLIENT | OPEN | FINALIZE | INTERRUPT | ADD..=WEIGHT if schema > 0 => {
            Err(RequestError::UnrecognizedSchema { sql: false })
        }
        _ => Ok(()),
    }
}

fn params_schema(frame: &Frame) -> ParamsSchema {
    if frame.schema == 0 { ParamsSchema::V0 } else { ParamsSchema::V1 }
}

fn node_id(reader: &mut Reader<'_>) -> Result<NodeId, DecodeError> {
    reader.u64("node id").map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, schema: u8, body: &[u8]) -> Frame {
        Frame { kind, schema, body: Bytes::copy_from_slice(body) }
    }

    #[test]
    fn unknown_types_come_before_schema_and_body() {
        for kind in (20..=255).chain([2]) {
            assert_eq!(Request::decode(&frame(kind, 9, &[])), Err(RequestError::UnrecognizedType));
        }
    }

    #[test]
    fn schema_comes_before_body_and_tells_sql_requests_apart() {
        for kind in [4, 5, 6, 8, 9] {
            let error = RequestError::UnrecognizedSchema { sql: true };
            assert_eq!(Request::decode(&frame(kind, 2, &[])), Err(error));
        }
        for kind in [0, 1, 3, 7, 10, 12, 13, 14, 15, 16, 17, 18, 19] {
            let error = RequestError::UnrecognizedSchema { sql: false };
            assert_eq!(Request::decode(&frame(kind, 1, &[])), Err(error));
        }
    }

    #[test]
    fn no_request_has_an_empty_body() {
        for kind in (0..=19).filter(|kind| *kind != 2) {
            let result = Request::decode(&frame(kind, 0, &[]));
            assert!(matches!(result, Err(RequestError::Malformed(_))), "{kind}: {result:?}");
        }
    }

    #[test]
    fn connect_ignores_its_schema() {
        let body = [7, 0, 0, 0, 0, 0, 0, 0, b'a', 0, 0, 0, 0, 0, 0, 0];
        let connect = Request::Connect { id: NodeId(7), address: "a".to_owned(), announcement: None };
        assert_eq!(Request::decode(&frame(11, 200, &body)), Ok(connect));
    }

    #[test]
    fn assign_without_role_means_voter() {
        let body = [7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Request::decode(&frame(13, 0, &body)), Ok(Request::Assign { id: NodeId(7), role: 0 }));
    }

    #[test]
    fn surplus_words_are_ignored() {
        assert_eq!(Request::decode(&frame(0, 0, &[1; 64])), Ok(Request::Leader));
        assert_eq!(Request::decode(&frame(16, 0, &[0; 16])), Ok(Request::Cluster { format: 0 }));
    }

    #[test]
    fn addresses_are_utf8_and_names_need_not_be() {
        let body = [7, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0];
        let error = RequestError::Malformed(DecodeError::AddressNotUtf8);
        assert_eq!(Request::decode(&frame(12, 0, &body)), Err(error));
        let name = Bytes::from_static(&[0xff]);
        assert_eq!(Request::decode(&frame(15, 0, &body[8..])), Ok(Request::Dump { name }));
    }

    #[test]
    fn decoded_texts_share_the_memory_of_the_frame() {
        let mut buffer = BytesMut::new();
        let sql = Bytes::from_static(b"SELECT 1");
        Request::ExecSql { database: 0, sql, params: Params::none() }.encode(&mut buffer);
        let frame = crate::FrameDecoder::new(100).decode(&mut buffer).unwrap().unwrap();
        let Ok(Request::ExecSql { sql, .. }) = Request::decode(&frame) else { panic!("not an EXEC_SQL") };
        assert_eq!(sql.as_ptr(), frame.body[8..].as_ptr());
    }
}
