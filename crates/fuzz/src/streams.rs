//! Streams that clients and peers might send, and damaged ones.

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use wire_protocol::rpc::{
    AppendEntries, AppendEntriesResult, InstallSnapshot, Message, RequestVote, RequestVoteResult, TimeoutNow,
};
use wire_protocol::{
    ClusterId, Configuration, Entry, EntryKind, Features, LogIndex, NodeId, Params, PeerAnnouncement,
    PrepareSchema, Protocol, Request, Role, Server, Term, Value,
};

/// SQL that meets the writer lane, the gate, transactions and rows from all sides.
const TEXTS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS t (n INTEGER, a, b, c, d)",
    "INSERT INTO t VALUES (?, ?, ?, ?, ?)",
    "SELECT * FROM t LIMIT 100",
    "BEGIN",
    "BEGIN IMMEDIATE; INSERT INTO t (n) VALUES (1)",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s; INSERT INTO t (n, a) VALUES (?, ?); RELEASE s",
    "INSERT INTO t (n) VALUES (1), (2) RETURNING n, a",
    "DELETE FROM t WHERE rowid % 3 = 0; PRAGMA user_version = 7; VACUUM",
    "PRAGMA delete_database",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA optimize",
    "CREATE TEMP TABLE u (a); INSERT INTO u VALUES (1)",
    "SELECT count(*), max(n), hex(a) FROM t, t AS v WHERE v.rowid < 5",
    "SELECT randomblob(5000), zeroblob(5000)",
    "DROP TABLE t",
    "",
    ";;;",
    "SELECT",
];

/// A number that tends to be small, or on an edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) u64);

impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        const EDGES: [u64; 12] = [
            0,
            1,
            2,
            255,
            1 << 31,
            u32::MAX as u64,
            1 << 32,
            (1 << 62) - 1,
            1 << 62,
            (1 << 63) - 1,
            1 << 63,
            u64::MAX,
        ];
        Ok(Self(match input.int_in_range(0..=3)? {
            0 => input.arbitrary()?,
            1 => *input.choose(&EDGES)?,
            _ => u64::from(input.int_in_range(0..=15u8)?),
        }))
    }
}

/// A request with any content.
#[derive(Clone, Debug, Arbitrary)]
pub(crate) enum AnyRequest {
    /// Requests without content.
    Plain(u8),
    /// OPEN of a few databases and some impossible ones.
    Open(u8),
    /// PREPARE of a known text.
    Prepare(u8, u8),
    /// EXEC or QUERY of a statement that may exist.
    Run { query: bool, statement: u8, values: u8 },
    /// EXEC_SQL or QUERY_SQL of a known text.
    Text { query: bool, text: u8, values: u8 },
    /// FINALIZE.
    Finalize(u8),
    /// A request about members.
    Members { kind: u8, id: Number, role: Number },
    /// DUMP.
    Dump(u8),
}

fn text(choice: u8) -> Bytes {
    Bytes::from_static(TEXTS[usize::from(choice) % TEXTS.len()].as_bytes())
}

fn values(count: u8) -> Params {
    let all = [
        Value::Integer(1),
        Value::Float(0.5),
        Value::Text(Bytes::from_static(b"some text")),
        Value::Blob(vec![7; 20].into()),
        Value::Null,
    ];
    Params::new(&all[..usize::from(count) % (all.len() + 1)])
}

fn database_name(choice: u8) -> Bytes {
    const NAMES: [&[u8]; 8] =
        [b"test", b"test", b"other", b"", b":memory:", b"file:x", b"x-wal", b"\xff\xfe"];
    Bytes::from_static(NAMES[usize::from(choice) % NAMES.len()])
}

/// What a node may say of itself: nothing, or all that counts, with an identity that several nodes share.
pub(crate) fn any_announcement(choice: u64) -> Option<PeerAnnouncement> {
    (choice % 3 > 0).then(|| PeerAnnouncement {
        features: Features(choice % 5),
        election_timeout_ms: Some(choice % 7 * 1000).filter(|timeout_ms| *timeout_ms > 0),
        cluster: ClusterId::new(u128::from(choice % 2)),
    })
}

impl AnyRequest {
    /// The request itself.
    pub(crate) fn into_request(self) -> Request {
        match self {
            Self::Plain(choice) => match choice % 6 {
                0 => Request::Leader,
                1 => Request::Client { id: u64::from(choice) },
                2 => Request::Interrupt,
                3 => Request::Cluster { format: u64::from(choice / 6) },
                4 => Request::Describe {
                    format: u64::from(choice / 18),
                    announcement: any_announcement(u64::from(choice / 6)),
                },
                _ => Request::Weight { weight: u64::from(choice) },
            },
            Self::Open(choice) => Request::Open { name: database_name(choice), flags: 0, vfs: Bytes::new() },
            Self::Prepare(choice, schema) => Request::Prepare {
                database: u64::from(choice / 250),
                sql: text(choice),
                schema: if schema % 2 == 0 { PrepareSchema::V0 } else { PrepareSchema::V1 },
            },
            Self::Run { query, statement, values: count } => {
                let (database, statement, params) = (0, u32::from(statement % 4), values(count));
                match query {
                    true => Request::Query { database, statement, params },
                    false => Request::Exec { database, statement, params },
                }
            }
            Self::Text { query, text: choice, values: count } => {
                let (database, sql, params) = (0, text(choice), values(count));
                match query {
                    true => Request::QuerySql { database, sql, params },
                    false => Request::ExecSql { database, sql, params },
                }
            }
            Self::Finalize(statement) => {
                Request::Finalize { database: 0, statement: u32::from(statement % 4) }
            }
            Self::Members { kind, id, role } => {
                let id = NodeId(id.0);
                match kind % 4 {
                    0 => Request::Add { id, address: format!("@fuzz-nobody-{id}") },
                    1 => Request::Assign { id, role: role.0 },
                    2 => Request::Remove { id },
                    _ => Request::Transfer { id },
                }
            }
            Self::Dump(choice) => Request::Dump { name: database_name(choice) },
        }
    }
}

/// A raft message with any content that can be encoded.
#[derive(Clone, Debug, Arbitrary)]
pub(crate) enum AnyRpc {
    /// APPEND_ENTRIES; `entries` give kind and content.
    AppendEntries {
        term: Number,
        prev: Number,
        prev_term: Number,
        commit: Number,
        entries: Vec<(u8, Number)>,
        echo: Number,
    },
    /// Its result.
    AppendEntriesResult { term: Number, rejected: Number, last: Number, features: Option<Number> },
    /// REQUEST_VOTE.
    RequestVote { term: Number, candidate: Number, last: Number, last_term: Number, flags: u8 },
    /// Its result.
    RequestVoteResult { term: Number, granted: bool, pre_vote: Option<bool> },
    /// INSTALL_SNAPSHOT; `choice` gives the content.
    InstallSnapshot { term: Number, last: Number, last_term: Number, configuration_index: Number, choice: u8 },
    /// TIMEOUT_NOW.
    TimeoutNow { term: Number, last: Number, last_term: Number },
}

fn any_configuration(choice: u64) -> Configuration {
    let server = |id: u64| Server {
        id: NodeId(id),
        address: id.to_string(),
        role: [Role::Voter, Role::StandBy, Role::Spare][usize::try_from((choice / id) % 3).unwrap_or(0)],
    };
    Configuration { servers: (1..=1 + choice % 4).map(server).collect() }
}

fn any_entry((kind, content): (u8, Number)) -> Entry {
    let term = Term(1 + content.0 % 16);
    match kind % 4 {
        0 => Entry { term, kind: EntryKind::Barrier, data: Bytes::from_static(&[0; 8]) },
        1 => Entry { term, kind: EntryKind::Configuration, data: any_configuration(content.0).encode() },
        2 => Entry { term, kind: EntryKind::Command, data: content.0.to_le_bytes().repeat(8).into() },
        _ => {
            let page = vec![kind; 4096];
            let number = u32::try_from(content.0 % 8).unwrap_or(0) + 1;
            let pages = [(number, &page[..])];
            let data = wire_protocol::command::encode_frames(b"test", pages.into_iter());
            Entry { term, kind: EntryKind::Command, data }
        }
    }
}

impl AnyRpc {
    /// The message itself.
    pub(crate) fn into_message(self) -> Message {
        match self {
            Self::AppendEntries { term, prev, prev_term, commit, entries, echo } => {
                Message::AppendEntries(AppendEntries {
                    term: Term(term.0),
                    prev_log_index: LogIndex(prev.0),
                    prev_log_term: Term(prev_term.0),
                    leader_commit: LogIndex(commit.0),
                    entries: entries.into_iter().take(8).map(any_entry).collect(),
                    echo: echo.0,
                })
            }
            Self::AppendEntriesResult { term, rejected, last, features } => {
                Message::AppendEntriesResult(AppendEntriesResult {
                    term: Term(term.0),
                    rejected: LogIndex(rejected.0),
                    last_log_index: LogIndex(last.0),
                    features: features.map(|features| features.0),
                })
            }
            Self::RequestVote { term, candidate, last, last_term, flags } => {
                Message::RequestVote(RequestVote {
                    term: Term(term.0),
                    candidate_id: NodeId(candidate.0),
                    last_log_index: LogIndex(last.0),
                    last_log_term: Term(last_term.0),
                    disrupt_leader: flags & 1 > 0,
                    pre_vote: flags & 2 > 0,
                })
            }
            Self::RequestVoteResult { term, granted, pre_vote } => {
                Message::RequestVoteResult(RequestVoteResult {
                    term: Term(term.0),
                    vote_granted: granted,
                    pre_vote,
                })
            }
            Self::InstallSnapshot { term, last, last_term, configuration_index, choice } => {
                Message::InstallSnapshot(InstallSnapshot {
                    term: Term(term.0),
                    last_index: LogIndex(last.0),
                    last_term: Term(last_term.0),
                    configuration: any_configuration(u64::from(choice)),
                    configuration_index: LogIndex(configuration_index.0),
                    data: match choice % 3 {
                        0 => Bytes::new(),
                        1 => vec![choice; 64].into(),
                        _ => wire_protocol::snapshot::encode_payload_header(0),
                    },
                })
            }
            Self::TimeoutNow { term, last, last_term } => Message::TimeoutNow(TimeoutNow {
                term: Term(term.0),
                last_log_index: LogIndex(last.0),
                last_log_term: Term(last_term.0),
            }),
        }
    }
}

/// Draws any value of a type from a source of chance.
fn any<T: for<'a> Arbitrary<'a>>(random: &mut Rng) -> Option<T> {
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(256).collect();
    T::arbitrary(&mut Unstructured::new(&bytes)).ok()
}

/// One connection full of messages, some of them damaged.
///
/// The sender of raft messages calls itself a stranger: whoever calls itself a member is one, since the protocol has no
/// authentication, and its word is law.
#[must_use]
pub fn hostile(random: &mut Rng) -> Vec<u8> {
    let mut messages: Vec<BytesMut> = Vec::new();
    let encode = |request: &Request| {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        bytes
    };
    match random.u8(..6) {
        0 => {
            let len = random.usize(..2000);
            messages.push(std::iter::repeat_with(|| random.u8(..)).take(len).collect());
        }
        1 | 2 => {
            let id = NodeId(1000 + random.u64(..8));
            let connect = Request::Connect {
                id,
                address: format!("@fuzz-stranger-{id}"),
                announcement: any_announcement(random.u64(..)),
            };
            messages.push(encode(&connect));
            for _ in 0..random.usize(..8) {
                let Some(rpc) = any::<AnyRpc>(random) else { continue };
                let mut bytes = BytesMut::new();
                rpc.into_message().encode(&mut bytes);
                messages.push(bytes);
            }
        }
        _ => {
            messages.push(encode(&AnyRequest::Open(0).into_request()));
            for _ in 0..random.usize(..20) {
                let Some(request) = any::<AnyRequest>(random) else { continue };
                // Changes of the membership are an operator's, whoever sends them; they would end the cluster.
                if !matches!(request, AnyRequest::Members { .. }) {
                    messages.push(encode(&request.into_request()));
                }
            }
        }
    }
    for _ in 0..random.usize(..6) {
        damage(random, &mut messages);
    }
    let mut stream = BytesMut::new();
    match random.u8(..20) {
        0 => stream.extend_from_slice(&random.u64(..).to_le_bytes()),
        1 => Protocol::Legacy.encode(&mut stream),
        _ => Protocol::Current.encode(&mut stream),
    }
    messages.iter().for_each(|message| stream.extend_from_slice(message));
    stream.to_vec()
}

fn damage(random: &mut Rng, messages: &mut Vec<BytesMut>) {
    if messages.is_empty() {
        return;
    }
    let at = random.usize(..messages.len());
    let number = any::<Number>(random).map_or(0, |number| number.0).to_le_bytes();
    let message = &mut messages[at];
    match random.u8(..8) {
        0 => message.truncate(random.usize(..=message.len())),
        1 => message.extend_from_slice(&number),
        2 => {
            let copy = message.clone();
            messages.push(copy);
        }
        3 => drop(messages.remove(at)),
        4 => {
            let other = random.usize(..messages.len());
            messages.swap(at, other);
        }
        // Length, type or schema of the header.
        5 if message.len() >= 8 => message[*[0, 1, 3, 4, 5].get(random.usize(..5)).unwrap_or(&0)] = number[0],
        // A word behind it.
        6 if message.len() >= 16 => {
            let word = 8 * (1 + random.usize(..message.len() / 8 - 1));
            message[word..word + 8].copy_from_slice(&number);
        }
        _ if !message.is_empty() => {
            let byte = random.usize(..message.len());
            message[byte] ^= 1 << random.u8(..8);
        }
        _ => {}
    }
}
