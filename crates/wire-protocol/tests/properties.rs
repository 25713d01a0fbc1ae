//! For every message: encoding and decoding are inverse, however the bytes are split; and no bytes make a decoder panic.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use wire_protocol::command::{Command, PAGE_SIZE, encode_frames};
use wire_protocol::rpc::{
    AppendEntries, AppendEntriesResult, InstallSnapshot, Message, RequestVote, RequestVoteResult, RpcDecoder,
    RpcLimits, TimeoutNow,
};
use wire_protocol::snapshot::{PayloadDecoder, encode_database_header, encode_payload_header};
use wire_protocol::{
    ClientDecoder, ClusterId, Configuration, Entry, EntryKind, Features, Frame, FrameDecoder, Incoming,
    LogIndex, NodeId, Params, ParamsSchema, PeerAnnouncement, PrepareSchema, Protocol, Request, Response,
    ResponseContext, Role, Rows, RowsEnd, Server, ServersFormat, Term, Value, entry,
};

fn text() -> impl Strategy<Value = Bytes> {
    vec(1..=255_u8, 0..40).prop_map(Bytes::from)
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn address() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

fn node_id() -> impl Strategy<Value = NodeId> {
    any::<u64>().prop_map(NodeId)
}

fn parameter() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        prop::num::f64::ANY.prop_filter("comparable", |value| !value.is_nan()).prop_map(Value::Float),
        text().prop_map(Value::Text),
        blob().prop_map(Value::Blob),
        Just(Value::Null),
        text().prop_map(Value::Iso8601),
        any::<u64>().prop_map(Value::Boolean),
    ]
}

fn column() -> impl Strategy<Value = Value> {
    prop_oneof![7 => parameter(), 1 => any::<i64>().prop_map(Value::UnixTime)]
}

fn params() -> impl Strategy<Value = Params> {
    let schema = prop_oneof![Just(ParamsSchema::V0), Just(ParamsSchema::V1)];
    prop_oneof![
        9 => (schema, vec(parameter(), 0..20)).prop_map(|(schema, values)| Params::with_schema(schema, &values)),
        1 => (200..400_usize).prop_map(|count| Params::new(&std::vec![Value::Null; count])),
    ]
}

fn announcement() -> impl Strategy<Value = PeerAnnouncement> {
    let timeout = prop_oneof![Just(None), (1..=u64::MAX).prop_map(Some)];
    (any::<u64>(), timeout, any::<u128>()).prop_map(|(features, election_timeout_ms, cluster)| {
        PeerAnnouncement {
            features: Features(features),
            election_timeout_ms,
            cluster: ClusterId::new(cluster),
        }
    })
}

fn connect() -> impl Strategy<Value = Request> {
    let parts = (node_id(), address(), proptest::option::of(announcement()));
    parts.prop_map(|(id, address, announcement)| Request::Connect { id, address, announcement })
}

fn request() -> impl Strategy<Value = Request> {
    let prepare = |(database, sql, first)| Request::Prepare {
        database,
        sql,
        schema: if first { PrepareSchema::V0 } else { PrepareSchema::V1 },
    };
    prop_oneof![
        Just(Request::Leader),
        any::<u64>().prop_map(|id| Request::Client { id }),
        (text(), any::<u64>(), text()).prop_map(|(name, flags, vfs)| Request::Open { name, flags, vfs }),
        (any::<u64>(), text(), any::<bool>()).prop_map(prepare),
        (any::<u32>(), any::<u32>(), params()).prop_map(|(database, statement, params)| Request::Exec {
            database,
            statement,
            params
        }),
        (any::<u32>(), any::<u32>(), params()).prop_map(|(database, statement, params)| Request::Query {
            database,
            statement,
            params
        }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(database, statement)| Request::Finalize { database, statement }),
        (any::<u64>(), text(), params()).prop_map(|(database, sql, params)| Request::ExecSql {
            database,
            sql,
            params
        }),
        (any::<u64>(), text(), params()).prop_map(|(database, sql, params)| Request::QuerySql {
            database,
            sql,
            params
        }),
        Just(Request::Interrupt),
        connect(),
        (node_id(), address()).prop_map(|(id, address)| Request::Add { id, address }),
        (node_id(), any::<u64>()).prop_map(|(id, role)| Request::Assign { id, role }),
        node_id().prop_map(|id| Request::Remove { id }),
        text().prop_map(|name| Request::Dump { name }),
        any::<u64>().prop_map(|format| Request::Cluster { format }),
        node_id().prop_map(|id| Request::Transfer { id }),
        (any::<u64>(), proptest::option::of(announcement()))
            .prop_map(|(format, announcement)| Request::Describe { format, announcement }),
        any::<u64>().prop_map(|weight| Request::Weight { weight }),
    ]
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Voter), Just(Role::StandBy), Just(Role::Spare)]
}

fn server() -> impl Strategy<Value = Server> {
    (1..=u64::MAX, address(), role()).prop_map(|(id, address, role)| Server { id: NodeId(id), address, role })
}

fn rows() -> impl Strategy<Value = Rows> {
    (0..40_usize, 0..5_usize, any::<bool>()).prop_flat_map(|(columns, rows, done)| {
        let rows = if columns == 0 { 0 } else { rows };
        let end = if done { RowsEnd::Done } else { RowsEnd::Part };
        (vec(text(), columns), vec(vec(column(), columns), rows)).prop_map(move |(columns, rows)| Rows {
            columns,
            rows,
            end,
        })
    })
}

fn file() -> impl Strategy<Value = (Bytes, Bytes)> {
    (text(), vec(any::<[u8; 8]>(), 0..9)).prop_map(|(name, words)| (name, Bytes::from(words.concat())))
}

/// A response with what a client has to know to read it.
fn response() -> impl Strategy<Value = (Response, ResponseContext)> {
    let current = ResponseContext::default();
    let legacy = ResponseContext { protocol: Protocol::Legacy, ..current };
    let without_roles = ResponseContext { format: ServersFormat::WithoutRoles, ..current };
    let voter = |mut server: Server| {
        server.role = Role::Voter;
        server
    };
    prop_oneof![
        (any::<u64>(), text())
            .prop_map(move |(code, message)| (Response::Failure { code, message }, current)),
        (node_id(), address()).prop_map(move |(id, address)| (Response::Server { id, address }, current)),
        address().prop_map(move |address| (Response::ServerLegacy { address }, legacy)),
        any::<u64>().prop_map(move |ms| (Response::Welcome { heartbeat_timeout_ms: ms }, current)),
        vec(server(), 0..5).prop_map(move |servers| {
            (Response::Servers { format: ServersFormat::WithRoles, servers }, current)
        }),
        vec(server().prop_map(voter), 0..5).prop_map(move |servers| {
            (Response::Servers { format: ServersFormat::WithoutRoles, servers }, without_roles)
        }),
        any::<u32>().prop_map(move |id| (Response::Database { id }, current)),
        (any::<u32>(), any::<u32>(), any::<u64>(), any::<Option<u64>>()).prop_map(
            move |(database, statement, params, offset)| {
                (Response::Statement { database, statement, params, offset }, current)
            }
        ),
        (any::<u64>(), any::<u64>()).prop_map(move |(last_insert_id, rows_affected)| {
            (Response::Result { last_insert_id, rows_affected }, current)
        }),
        rows().prop_map(move |rows| (Response::Rows(rows), current)),
        Just((Response::Empty, current)),
        vec(file(), 0..4).prop_map(move |files| (Response::Files(files), current)),
        (any::<u64>(), any::<u64>(), proptest::option::of(announcement())).prop_map(
            move |(failure_domain, weight, announcement)| {
                (Response::Metadata { failure_domain, weight, announcement }, current)
            }
        ),
    ]
}

fn counter() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_u64, 0..=i64::MAX.cast_unsigned()]
}

fn index() -> impl Strategy<Value = LogIndex> {
    counter().prop_map(LogIndex)
}

fn term() -> impl Strategy<Value = Term> {
    counter().prop_map(Term)
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind =
        prop_oneof![Just(EntryKind::Command), Just(EntryKind::Barrier), Just(EntryKind::Configuration)];
    (1..=i64::MAX.cast_unsigned(), kind, vec(any::<[u8; 8]>(), 1..6)).prop_map(|(term, kind, words)| Entry {
        term: Term(term),
        kind,
        data: Bytes::from(words.concat()),
    })
}

fn configuration() -> impl Strategy<Value = Configuration> {
    vec(server(), 0..6).prop_map(|mut servers| {
        // The number at the end makes addresses unique too.
        for (number, server) in (1..).zip(&mut servers) {
            server.id = NodeId(number);
            server.address.push_str(&number.to_string());
        }
        Configuration { servers }
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (term(), index(), term(), index(), vec(entry(), 0..6), any::<u64>()).prop_map(
            |(term, prev_log_index, prev_log_term, leader_commit, entries, echo)| {
                Message::AppendEntries(AppendEntries {
                    term,
                    prev_log_index,
                    prev_log_term,
                    leader_commit,
                    entries,
                    echo,
                })
            }
        ),
        (term(), index(), index(), any::<u64>()).prop_map(|(term, rejected, last_log_index, features)| {
            Message::AppendEntriesResult(AppendEntriesResult {
                term,
                rejected,
                last_log_index,
                features: Some(features),
            })
        }),
        (term(), node_id(), index(), term(), any::<(bool, bool)>()).prop_map(
            |(term, candidate_id, last_log_index, last_log_term, (disrupt_leader, pre_vote))| {
                Message::RequestVote(RequestVote {
                    term,
                    candidate_id,
                    last_log_index,
                    last_log_term,
                    disrupt_leader,
                    pre_vote,
                })
            }
        ),
        (term(), any::<bool>(), any::<bool>()).prop_map(|(term, vote_granted, pre_vote)| {
            Message::RequestVoteResult(RequestVoteResult { term, vote_granted, pre_vote: Some(pre_vote) })
        }),
        (term(), 1..99_u64, 1..99_u64, configuration(), index(), blob()).prop_map(
            |(term, last_index, last_term, configuration, configuration_index, data)| {
                Message::InstallSnapshot(InstallSnapshot {
                    term,
                    last_index: LogIndex(last_index),
                    last_term: Term(last_term),
                    configuration,
                    configuration_index,
                    data,
                })
            }
        ),
        (term(), index(), term()).prop_map(|(term, last_log_index, last_log_term)| {
            Message::TimeoutNow(TimeoutNow { term, last_log_index, last_log_term })
        }),
    ]
}

/// Feeds `stream` to `decode` in pieces of the given lengths, round and round.
fn in_pieces<T>(
    stream: &[u8],
    lengths: &[usize],
    mut decode: impl FnMut(&mut BytesMut) -> Option<T>,
) -> (Vec<T>, BytesMut) {
    let mut buffer = BytesMut::new();
    let mut items = Vec::new();
    let mut rest = stream;
    for len in lengths.iter().cycle() {
        let (piece, later) = rest.split_at((*len).min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = later;
        while let Some(item) = decode(&mut buffer) {
            items.push(item);
        }
        if rest.is_empty() {
            break;
        }
    }
    (items, buffer)
}

fn drain_rpc(bytes: &[u8]) {
    let mut decoder = RpcDecoder::new(RpcLimits { header_len: 512, payload_len: 512 });
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(message)) = decoder.decode(&mut buffer) {
        let _ = message.encoded_len();
    }
    let _ = decoder.missing_len(&buffer);
}

fn decode_everything(bytes: &Bytes) {
    for kind in 0..=255 {
        for schema in 0..3 {
            let frame = Frame { kind, schema, body: bytes.clone() };
            if let Ok(request) = Request::decode(&frame)
                && let Request::Exec { params, .. }
                | Request::Query { params, .. }
                | Request::ExecSql { params, .. }
                | Request::QuerySql { params, .. } = request
            {
                assert!(params.count() <= bytes.len());
            }
            let _ = Response::decode(&frame);
            let legacy = ResponseContext { protocol: Protocol::Legacy, format: ServersFormat::WithoutRoles };
            let _ = Response::decode_with(&frame, legacy);
        }
    }
    let _ = Configuration::decode(bytes);
    let _ = entry::decode_batch(bytes);
    if let Ok(Command::Frames(frames)) = Command::decode(bytes) {
        assert_eq!(frames.pages().count(), frames.page_count());
    }
    if let Ok(databases) = PayloadDecoder::new(bytes) {
        assert!(databases.count() <= bytes.len() + 1);
    }
    drain_rpc(bytes);
}

/// Words that occur in messages: they get deeper into decoders than random bytes do.
fn plausible_bytes() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => (0..20_u64).prop_map(u64::to_le_bytes),
        1 => prop_oneof![Just(u64::MAX), Just(u64::MAX - 6), Just(1 << 63), Just(0xeeee_eeee_eeee_eeee)]
            .prop_map(u64::to_le_bytes),
        2 => Just(*b"text\0\0\0\0"),
        2 => any::<[u8; 8]>(),
        1 => (0..5_u8, 0..12_u8, 0..12_u8).prop_map(|(n, a, b)| [n, a, b, 0, 0, 0, 0, 0]),
        1 => (0..5_u64, 0..40_u64).prop_map(|(low, high)| (low | high << 32).to_le_bytes()),
    ];
    (vec(word, 0..24), 0..8_usize).prop_map(|(words, cut)| {
        let mut bytes = words.concat();
        bytes.truncate(bytes.len().saturating_sub(cut));
        bytes
    })
}

proptest! {
    #[test]
    fn requests_survive_any_split(requests in vec(request(), 1..6), lengths in vec(1..40_usize, 1..8)) {
        let mut stream = BytesMut::new();
        Protocol::Current.encode(&mut stream);
        for request in &requests {
            request.encode(&mut stream);
        }
        let mut decoder = ClientDecoder::new(1 << 20);
        let (items, rest) = in_pieces(&stream, &lengths, |buffer| {
            let item = decoder.decode(buffer).expect("valid stream");
            if item.is_none() {
                assert!(decoder.missing_len(buffer) > 0);
            }
            item
        });
        prop_assert!(rest.is_empty());
        let mut items = items.into_iter();
        prop_assert_eq!(items.next(), Some(Incoming::Handshake(Protocol::Current)));
        let decoded: Vec<_> = items
            .map(|item| match item {
                Incoming::Frame(frame) => Request::decode(&frame).expect("valid request"),
                Incoming::Handshake(_) => panic!("a second handshake"),
            })
            .collect();
        prop_assert_eq!(decoded, requests);
    }

    #[test]
    fn parameters_come_back(values in vec(parameter(), 0..300)) {
        let params = Params::new(&values);
        prop_assert_eq!(params.remaining(), values.len());
        prop_assert_eq!(params.collect::<Result<Vec<_>, _>>(), Ok(values));
    }

    #[test]
    fn responses_survive_any_split(responses in vec(response(), 1..6), lengths in vec(1..40_usize, 1..8)) {
        let mut stream = BytesMut::new();
        for (response, _) in &responses {
            let start = stream.len();
            response.encode(&mut stream);
            prop_assert_eq!(response.encode_vectored().concat(), &stream[start..]);
        }
        let decoder = FrameDecoder::new(1 << 20);
        let (frames, rest) =
            in_pieces(&stream, &lengths, |buffer| decoder.decode(buffer).expect("valid stream"));
        prop_assert!(rest.is_empty());
        prop_assert_eq!(frames.len(), responses.len());
        for (frame, (response, context)) in frames.iter().zip(responses) {
            prop_assert_eq!(Response::decode_with(frame, context), Ok(response));
        }
    }

    #[test]
    fn rpcs_survive_any_split(messages in vec(message(), 1..6), lengths in vec(1..60_usize, 1..8)) {
        let mut stream = BytesMut::new();
        for message in &messages {
            let start = stream.len();
            message.encode(&mut stream);
            prop_assert_eq!(stream.len() - start, message.encoded_len());
            let pieces = message.encode_vectored();
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            prop_assert_eq!(pieces.concat(), &stream[start..]);
        }
        let mut decoder = RpcDecoder::new(RpcLimits::default());
        let (decoded, rest) = in_pieces(&stream, &lengths, |buffer| {
            let message = decoder.decode(buffer).expect("valid stream");
            if message.is_none() {
                assert!(decoder.missing_len(buffer) > 0);
            }
            message
        });
        prop_assert!(rest.is_empty());
        prop_assert_eq!(decoded, messages);
    }

    #[test]
    fn bytes_after_connect_stay_in_the_buffer(message in message(), connect in connect()) {
        let mut buffer = BytesMut::new();
        Protocol::Current.encode(&mut buffer);
        connect.encode(&mut buffer);
        message.encode(&mut buffer);
        let mut decoder = ClientDecoder::new(1 << 20);
        for _ in 0..2 {
            prop_assert!(decoder.decode(&mut buffer).is_ok_and(|item| item.is_some()));
        }
        let decoded = RpcDecoder::new(RpcLimits::default()).decode(&mut buffer);
        prop_assert_eq!(decoded, Ok(Some(message)));
    }

    /// Whoever dials may say anything behind its address: id and address are what they would be without it.
    #[test]
    fn words_behind_the_address_change_nothing_else(
        id in node_id(),
        address in address(),
        words in vec(any::<u64>(), 0..40),
        said in proptest::option::of(announcement()),
    ) {
        let mut plain = BytesMut::new();
        Request::Connect { id, address: address.clone(), announcement: said }.encode(&mut plain);
        let mut body = plain.split_off(8);
        words.iter().for_each(|word| body.extend_from_slice(&word.to_le_bytes()));
        let decoded = Request::decode(&Frame { kind: 11, schema: 0, body: body.freeze() });
        prop_assert_eq!(decoded, Ok(Request::Connect { id, address, announcement: said }));
    }

    #[test]
    fn batches_come_back(entries in vec(entry(), 1..9)) {
        let mut buffer = BytesMut::new();
        entry::encode_batch(&entries, &mut buffer);
        let headers = entry::decode_batch_headers(&buffer);
        prop_assert_eq!(headers, Ok(entries.iter().map(Entry::header).collect()));
        prop_assert_eq!(entry::decode_batch(&buffer.freeze()), Ok(entries));
    }

    #[test]
    fn configurations_come_back(configuration in configuration()) {
        let bytes = configuration.encode();
        prop_assert_eq!(bytes.len(), configuration.encoded_len());
        prop_assert_eq!(Configuration::decode(&bytes), Ok(configuration));
    }

    #[test]
    fn commands_come_back(filename in text(), tx_id in any::<u64>(), numbers in vec(1..1_u32 << 31, 0..4)) {
        let images: Vec<_> = numbers.iter().map(|number| [number.to_le_bytes()[0]; PAGE_SIZE]).collect();
        let pages = numbers.iter().copied().zip(images.iter().map(|image| &image[..]));
        let data = encode_frames(&filename, pages.clone());
        match Command::decode(&data) {
            Ok(Command::Frames(frames)) => {
                prop_assert_eq!(&frames.filename, &filename);
                prop_assert!(frames.pages().eq(pages));
                prop_assert_eq!(Command::Frames(frames).encode(), data);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        for command in [
            Command::Open { filename: filename.clone() },
            Command::Undo { tx_id },
            Command::Checkpoint { filename },
        ] {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn snapshot_payloads_come_back(databases in vec((text(), 0..3_usize, blob()), 0..4)) {
        let mut payload = encode_payload_header(databases.len() as u64).to_vec();
        for (name, pages, wal) in &databases {
            let main = std::vec![7; pages * PAGE_SIZE];
            payload.extend(encode_database_header(name, main.len() as u64, wal.len() as u64));
            payload.extend(main);
            payload.extend(wal);
        }
        let decoded: Result<Vec<_>, _> = PayloadDecoder::new(&payload.into()).expect("valid").collect();
        let decoded: Vec<_> = decoded
            .expect("valid")
            .into_iter()
            .map(|database| (database.name, database.main.len() / PAGE_SIZE, database.wal))
            .collect();
        prop_assert_eq!(decoded, databases);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_everything(&Bytes::from(bytes));
    }

    #[test]
    fn no_plausible_bytes_make_a_decoder_panic(bytes in plausible_bytes()) {
        decode_everything(&Bytes::from(bytes));
    }

    #[test]
    fn no_cut_or_flip_makes_a_decoder_panic(
        (request, (response, _), message) in (request(), response(), message()),
        cut in any::<prop::sample::Index>(),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let mut streams = [BytesMut::new(), BytesMut::new(), BytesMut::new()];
        request.encode(&mut streams[0]);
        response.encode(&mut streams[1]);
        message.encode(&mut streams[2]);
        for mut stream in streams {
            let at = flip.0.index(stream.len());
            stream[at] ^= flip.1;
            stream.truncate(cut.index(stream.len() + 1));
            drain_rpc(&stream);
            if let Ok(Some(frame)) = FrameDecoder::new(1 << 16).decode(&mut stream.clone()) {
                let _ = Request::decode(&frame);
                let _ = Response::decode(&frame);
            }
            if stream.len() > 8 {
                let body = stream.split_off(8).freeze();
                for schema in 0..2 {
                    let frame = Frame { kind: stream[4], schema, body: body.clone() };
                    let _ = Request::decode(&frame).map(|request| request.kind());
                    let _ = Response::decode(&frame).map(|response| response.kind());
                }
            }
        }
    }
}
