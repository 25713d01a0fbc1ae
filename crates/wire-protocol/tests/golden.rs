//! The captured and hand-encoded messages of the specification, byte for byte in both directions.

use bytes::{Bytes, BytesMut};
use wire_protocol::command::{Command, PAGE_SIZE, encode_frames};
use wire_protocol::rpc::{
    AppendEntries, AppendEntriesResult, InstallSnapshot, Message, RequestVote, RequestVoteResult, RpcDecoder,
    RpcLimits, TimeoutNow,
};
use wire_protocol::snapshot::{PayloadDecoder, encode_database_header, encode_payload_header};
use wire_protocol::{
    ClientDecoder, ClusterId, Configuration, Entry, EntryKind, Features, Frame, FrameDecoder, Incoming,
    LogIndex, NodeId, Params, ParamsSchema, PeerAnnouncement, PrepareSchema, Protocol, Request, RequestError,
    Response, ResponseContext, Role, Rows, RowsEnd, Server, ServersFormat, Term, Value, entry,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hex digits"))
        .collect()
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn frame(bytes: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = FrameDecoder::new(1 << 20).decode(&mut buffer).expect("a frame").expect("a whole frame");
    assert!(buffer.is_empty(), "one frame only");
    frame
}

/// `request` is encoded as the bytes and decoded from them.
#[track_caller]
fn check_request(bytes: &str, request: Request) {
    let bytes = hex(bytes);
    assert_eq!(Request::decode(&frame(&bytes)), Ok(request.clone()));
    let mut buffer = BytesMut::new();
    request.encode(&mut buffer);
    assert_eq!(&buffer[..], bytes);
}

#[track_caller]
fn check_response_with(bytes: &str, response: Response, context: ResponseContext) {
    let bytes = hex(bytes);
    assert_eq!(Response::decode_with(&frame(&bytes), context), Ok(response.clone()));
    let mut buffer = BytesMut::new();
    response.encode(&mut buffer);
    assert_eq!(&buffer[..], bytes);
    assert_eq!(response.encode_vectored().concat(), bytes);
}

#[track_caller]
fn check_response(bytes: &str, response: Response) {
    check_response_with(bytes, response, ResponseContext::default());
}

fn rows(columns: &[&str], rows: Vec<Vec<Value>>) -> Response {
    Response::Rows(Rows {
        columns: columns.iter().map(|name| text(name)).collect(),
        rows,
        end: RowsEnd::Done,
    })
}

fn exec_sql(sql: &str, values: &[Value]) -> Request {
    Request::ExecSql { database: 0, sql: text(sql), params: Params::new(values) }
}

fn query_sql(sql: &str) -> Request {
    Request::QuerySql { database: 0, sql: text(sql), params: Params::none() }
}

fn node(id: u64, address: &str, role: Role) -> Server {
    Server { id: NodeId(id), address: address.to_owned(), role }
}

#[test]
fn handshakes() {
    for (bytes, protocol) in [("0100000000000000", Protocol::Current), ("e53f4360d74d1086", Protocol::Legacy)]
    {
        let mut decoder = ClientDecoder::new(0);
        let mut buffer = BytesMut::from(&hex(bytes)[..]);
        assert_eq!(decoder.decode(&mut buffer), Ok(Some(Incoming::Handshake(protocol))));
        protocol.encode(&mut buffer);
        assert_eq!(&buffer[..], hex(bytes));
    }
}

#[test]
fn leader() {
    check_request("0100000000000000 0000000000000000", Request::Leader);
    check_response(
        "0300000001000000 0100000000000000 3132372e302e302e 313a393130310000",
        Response::Server { id: NodeId(1), address: "127.0.0.1:9101".to_owned() },
    );
    check_response(
        "0200000001000000 0000000000000000 0000000000000000",
        Response::Server { id: NodeId(0), address: String::new() },
    );
    check_response_with(
        "0200000001000000 3132372e302e302e 313a393130310000",
        Response::ServerLegacy { address: "127.0.0.1:9101".to_owned() },
        ResponseContext { protocol: Protocol::Legacy, ..ResponseContext::default() },
    );
}

#[test]
fn client_and_open() {
    check_request("0100000001000000 0000000000000000", Request::Client { id: 0 });
    check_response("0100000002000000 983a000000000000", Response::Welcome { heartbeat_timeout_ms: 15000 });
    check_request(
        "0400000003000000 7465737400000000 0000000000000000 766f6c6174696c65 0000000000000000",
        Request::Open { name: text("test"), flags: 0, vfs: text("volatile") },
    );
    check_response("0100000004000000 0000000000000000", Response::Database { id: 0 });
}

#[test]
fn exec_sql_with_every_parameter_type() {
    let values = [
        Value::Integer(7),
        Value::Text(text("hello")),
        Value::Blob(Bytes::from_static(&[1, 2, 3])),
        Value::Iso8601(text("2020-01-02 03:04:05")),
        Value::Boolean(1),
        Value::Float(1.5),
    ];
    let bytes = "1000000008000000 0000000000000000 494e534552542049 4e544f2074205641 4c554553283f2c3f
        2c3f2c3f2c3f2c3f 2900000000000000 060103040a0b0200 0700000000000000 68656c6c6f000000 0300000000000000
        0102030000000000 323032302d30312d 30322030333a3034 3a30350000000000 0100000000000000 000000000000f83f";
    check_request(bytes, exec_sql("INSERT INTO t VALUES(?,?,?,?,?,?)", &values));
    let Ok(Request::ExecSql { params, .. }) = Request::decode(&frame(&hex(bytes))) else { panic!("decodes") };
    assert_eq!(params.map(Result::unwrap).collect::<Vec<_>>(), values);
    check_response(
        "0200000006000000 0700000000000000 0100000000000000",
        Response::Result { last_insert_id: 7, rows_affected: 1 },
    );
}

#[test]
fn prepare_in_both_schemas() {
    check_request(
        "0500000004000000 0000000000000000 53454c4543542061 2046524f4d207420 574845524520613d 3f00000000000000",
        Request::Prepare { database: 0, sql: text("SELECT a FROM t WHERE a=?"), schema: PrepareSchema::V0 },
    );
    check_response(
        "0200000005000000 0000000000000000 0100000000000000",
        Response::Statement { database: 0, statement: 0, params: 1, offset: None },
    );
    check_request(
        "0400000004010000 0000000000000000 53454c4543542031 3b2053454c454354 2032000000000000",
        Request::Prepare { database: 0, sql: text("SELECT 1; SELECT 2"), schema: PrepareSchema::V1 },
    );
    check_response(
        "0300000005010000 0000000001000000 0000000000000000 0900000000000000",
        Response::Statement { database: 0, statement: 1, params: 0, offset: Some(9) },
    );
}

#[test]
fn query_in_both_schemas() {
    let query = |schema| Request::Query {
        database: 0,
        statement: 0,
        params: Params::with_schema(schema, &[Value::Integer(7)]),
    };
    check_request(
        "0300000006000000 0000000000000000 0101000000000000 0700000000000000",
        query(ParamsSchema::V0),
    );
    check_request(
        "0300000006010000 0000000000000000 0100000001000000 0700000000000000",
        query(ParamsSchema::V1),
    );
    check_response(
        "0500000007000000 0100000000000000 6100000000000000 0100000000000000 0700000000000000 ffffffffffffffff",
        rows(&["a"], vec![vec![Value::Integer(7)]]),
    );
}

#[test]
fn query_sql_with_every_row_type() {
    check_request(
        "0300000009000000 0000000000000000 53454c454354202a 2046524f4d207400",
        query_sql("SELECT * FROM t"),
    );
    check_response(
        "1200000007000000 0600000000000000 6100000000000000 6200000000000000 6300000000000000 6400000000000000
         6500000000000000 6600000000000000 31a42b0000000000 0700000000000000 68656c6c6f000000 0300000000000000
         0102030000000000 323032302d30312d 30322030333a3034 3a30350000000000 0100000000000000 000000000000f83f
         ffffffffffffffff",
        rows(
            &["a", "b", "c", "d", "e", "f"],
            vec![vec![
                Value::Integer(7),
                Value::Text(text("hello")),
                Value::Blob(Bytes::from_static(&[1, 2, 3])),
                Value::Iso8601(text("2020-01-02 03:04:05")),
                Value::Boolean(1),
                Value::Float(1.5),
            ]],
        ),
    );
}

#[test]
fn null_as_parameter_and_in_a_row() {
    check_request(
        "0600000008000000 0000000000000000 5550444154452074 2053455420623d3f 0000000000000000 0105000000000000
         0000000000000000",
        exec_sql("UPDATE t SET b=?", &[Value::Null]),
    );
    check_request(
        "0300000009000000 0000000000000000 53454c4543542062 2046524f4d207400",
        query_sql("SELECT b FROM t"),
    );
    check_response(
        "0500000007000000 0100000000000000 6200000000000000 0500000000000000 0000000000000000 ffffffffffffffff",
        rows(&["b"], vec![vec![Value::Null]]),
    );
}

#[test]
fn results_without_rows_and_without_columns() {
    check_request(
        "0400000009000000 0000000000000000 53454c4543542061 2046524f4d207420 5748455245203000",
        query_sql("SELECT a FROM t WHERE 0"),
    );
    check_response(
        "0300000007000000 0100000000000000 6100000000000000 ffffffffffffffff",
        rows(&["a"], vec![]),
    );
    check_request("0200000009000000 0000000000000000 424547494e000000", query_sql("BEGIN"));
    check_response("0200000007000000 0000000000000000 ffffffffffffffff", rows(&[], vec![]));
}

#[test]
fn failures() {
    check_request(
        "0500000008000000 0000000000000000 494e534552542049 4e544f2074286129 2056414c55455328 3729000000000000",
        exec_sql("INSERT INTO t(a) VALUES(7)", &[]),
    );
    check_response(
        "0500000000000000 1306000000000000 554e495155452063 6f6e73747261696e 74206661696c6564 3a20742e61000000",
        Response::failure(1555, "UNIQUE constraint failed: t.a"),
    );
    let heartbeat = frame(&hex("0100000002000000 0000000000000000"));
    assert_eq!(Request::decode(&heartbeat), Err(RequestError::UnrecognizedType));
    check_response(
        "0500000000000000 ed03000000000000 756e7265636f676e 697a656420726571 7565737420747970 6500000000000000",
        Response::failure(1005, &RequestError::UnrecognizedType.to_string()),
    );
    check_response(
        "0400000000000000 0100000000000000 5265736f75726365 206e6f7420666f75 6e64000000000000",
        Response::failure(1, "Resource not found"),
    );
}

#[test]
fn damaged_failure_of_old_servers_decodes_as_go_dqlite_reads_it() {
    let bytes = hex("0600000000000000 0000000000000000 1306000000000000 554e495155452063 6f6e73747261696e
        74206661696c6564 3a20742e61000000");
    let failure = Response::Failure { code: 0, message: Bytes::from_static(&[0x13, 6]) };
    assert_eq!(Response::decode(&frame(&bytes)), Ok(failure));
}

#[test]
fn finalize_and_interrupt() {
    check_request("0100000007000000 0000000001000000", Request::Finalize { database: 0, statement: 1 });
    check_request("010000000a000000 0000000000000000", Request::Interrupt);
    check_response("0100000008000000 0000000000000000", Response::Empty);
}

#[test]
fn cluster_in_both_formats() {
    check_request("0100000010000000 0000000000000000", Request::Cluster { format: 0 });
    let servers = vec![node(1, "127.0.0.1:9101", Role::Voter)];
    check_response_with(
        "0400000003000000 0100000000000000 0100000000000000 3132372e302e302e 313a393130310000",
        Response::Servers { format: ServersFormat::WithoutRoles, servers: servers.clone() },
        ResponseContext { format: ServersFormat::WithoutRoles, ..ResponseContext::default() },
    );
    check_request("0100000010000000 0100000000000000", Request::Cluster { format: 1 });
    check_response(
        "0500000003000000 0100000000000000 0100000000000000 3132372e302e302e 313a393130310000 0000000000000000",
        Response::Servers { format: ServersFormat::WithRoles, servers },
    );
}

#[test]
fn describe_and_weight() {
    check_request("0100000012000000 0000000000000000", Request::Describe { format: 0, announcement: None });
    check_response(
        "020000000a000000 0000000000000000 0000000000000000",
        Response::Metadata { failure_domain: 0, weight: 0, announcement: None },
    );
    check_request("0100000013000000 0500000000000000", Request::Weight { weight: 5 });
}

#[test]
fn membership() {
    check_request(
        "030000000c000000 0200000000000000 3132372e302e302e 313a393130320000",
        Request::Add { id: NodeId(2), address: "127.0.0.1:9102".to_owned() },
    );
    check_request(
        "020000000d000000 0200000000000000 0100000000000000",
        Request::Assign { id: NodeId(2), role: 1 },
    );
    check_request("010000000e000000 0200000000000000", Request::Remove { id: NodeId(2) });
    check_request("0100000011000000 0000000000000000", Request::Transfer { id: NodeId(0) });
}

#[test]
fn dump() {
    check_request("010000000f000000 7465737400000000", Request::Dump { name: text("test") });
    let mut content = vec![0; 8192];
    content[..16].copy_from_slice(b"SQLite format 3\0");
    let response =
        Response::Files(vec![(text("test"), Bytes::from(content)), (text("test-wal"), Bytes::new())]);
    let mut buffer = BytesMut::new();
    response.encode(&mut buffer);
    let start = hex("0604000009000000 0200000000000000 7465737400000000 0020000000000000 53514c6974652066
        6f726d6174203300");
    let end = hex("746573742d77616c 0000000000000000 0000000000000000");
    assert_eq!(buffer.len(), 8 + 0x406 * 8);
    assert!(buffer.starts_with(&start) && buffer.ends_with(&end));
    assert_eq!(Response::decode(&frame(&buffer)), Ok(response));
}

#[test]
fn connect() {
    check_request(
        "030000000b000000 0100000000000000 3132372e302e302e 313a393130310000",
        Request::Connect { id: NodeId(1), address: "127.0.0.1:9101".to_owned(), announcement: None },
    );
}

#[test]
fn connect_with_announcement() {
    let announcement = PeerAnnouncement {
        features: Features::READ_LEASE,
        election_timeout_ms: Some(3000),
        cluster: ClusterId::new(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210),
    };
    check_request(
        "080000000b000000 0100000000000000 3132372e302e302e 313a393130310000
        0100a6d3549ce1b7 0100000000000000 b80b000000000000 1032547698badcfe efcdab8967452301",
        Request::Connect {
            id: NodeId(1),
            address: "127.0.0.1:9101".to_owned(),
            announcement: Some(announcement),
        },
    );
    check_request(
        "080000000b000000 0100000000000000 3132372e302e302e 313a393130310000
        0100a6d3549ce1b7 0000000000000000 0000000000000000 0000000000000000 0000000000000000",
        Request::Connect {
            id: NodeId(1),
            address: "127.0.0.1:9101".to_owned(),
            announcement: Some(PeerAnnouncement::default()),
        },
    );
}

const ONE_SERVER: &str =
    "01 0100000000000000 0100000000000000 3132372e302e302e313a3930303100 01 00000000000000";

fn one_server() -> Configuration {
    Configuration { servers: vec![node(1, "127.0.0.1:9001", Role::Voter)] }
}

#[test]
fn configurations() {
    let three = Configuration {
        servers: vec![
            node(1, "a:1", Role::Voter),
            node(2, "b:2", Role::StandBy),
            node(3, "c:3", Role::Spare),
        ],
    };
    let three_bytes = "01 0300000000000000 0100000000000000 613a3100 01 0200000000000000 623a3200 00
        0300000000000000 633a3300 02";
    for (bytes, configuration) in [(ONE_SERVER, one_server()), (three_bytes, three)] {
        assert_eq!(configuration.encode(), hex(bytes));
        assert_eq!(configuration.encoded_len(), hex(bytes).len());
        assert_eq!(Configuration::decode(&hex(bytes)), Ok(configuration));
    }
}

#[test]
fn batches() {
    let bootstrap = Entry { term: Term(1), kind: EntryKind::Configuration, data: one_server().encode() };
    let barrier = Entry { term: Term(2), kind: EntryKind::Barrier, data: Entry::BARRIER_DATA };
    let bootstrap_bytes = format!("0100000000000000 0100000000000000 03 000000 28000000 {ONE_SERVER}");
    let barrier_bytes = "0100000000000000 0200000000000000 02 000000 08000000 0000000000000000";
    for (bytes, entry) in [(&bootstrap_bytes[..], bootstrap), (barrier_bytes, barrier)] {
        let mut buffer = BytesMut::new();
        entry::encode_batch(std::slice::from_ref(&entry), &mut buffer);
        assert_eq!(&buffer[..], hex(bytes));
        assert_eq!(entry::decode_batch_headers(&buffer), Ok(vec![entry.header()]));
        assert_eq!(entry::decode_batch(&buffer.freeze()), Ok(vec![entry]));
    }
}

#[test]
fn frames_command() {
    let pages = [[1; PAGE_SIZE], [2; PAGE_SIZE]];
    let data = encode_frames(b"test", [(1, &pages[0][..]), (2, &pages[1][..])].into_iter());
    let mut expected =
        hex("01 02 000000000000 7465737400000000 0000000000000000 00000000 01 00 0000 02000000
        0010 0000 0100000000000000 0200000000000000");
    expected.extend_from_slice(&pages.concat());
    assert_eq!(data, expected);
    assert_eq!(data.len(), 8248);
    let Ok(Command::Frames(frames)) = Command::decode(&data) else { panic!("decodes") };
    assert_eq!((&frames.filename[..], frames.page_size(), frames.page_count()), (&b"test"[..], 4096, 2));
}

#[test]
fn snapshot_payload() {
    let mut payload = encode_payload_header(1).to_vec();
    payload.extend_from_slice(&encode_database_header(b"test", 8192, 0));
    let header = hex("0100000000000000 0100000000000000 7465737400000000 0020000000000000 0000000000000000");
    assert_eq!(payload, header);
    payload.extend_from_slice(&[7; 8192]);
    let databases: Vec<_> = PayloadDecoder::new(&payload.into()).unwrap().collect();
    let database = databases[0].as_ref().unwrap();
    assert_eq!((&database.name[..], database.main.len(), database.wal.len()), (&b"test"[..], 8192, 0));
}

#[track_caller]
fn check_rpc(bytes: &str, message: Message) {
    let bytes = hex(bytes);
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer);
    assert_eq!(&buffer[..], bytes);
    assert_eq!(message.encoded_len(), bytes.len());
    assert_eq!(message.encode_vectored().concat(), bytes);
    check_rpc_decodes(&bytes, message);
}

#[track_caller]
fn check_rpc_decodes(bytes: &[u8], message: Message) {
    let mut buffer = BytesMut::from(bytes);
    assert_eq!(RpcDecoder::new(RpcLimits::default()).decode(&mut buffer), Ok(Some(message)));
    assert!(buffer.is_empty());
}

#[test]
fn append_entries() {
    let heartbeat = AppendEntries {
        term: Term(3),
        prev_log_index: LogIndex(9),
        prev_log_term: Term(2),
        leader_commit: LogIndex(8),
        entries: vec![],
        echo: 0,
    };
    check_rpc(
        "0100000000000000 3000000000000000 0300000000000000 0900000000000000 0200000000000000 0800000000000000
         0000000000000000 0000000000000000",
        Message::AppendEntries(heartbeat.clone()),
    );
    check_rpc(
        "0100000000000000 3000000000000000 0300000000000000 0900000000000000 0200000000000000 0800000000000000
         0000000000000000 0807060504030201",
        Message::AppendEntries(AppendEntries { echo: 0x0102_0304_0506_0708, ..heartbeat.clone() }),
    );
    let barrier = Entry { term: Term(3), kind: EntryKind::Barrier, data: Entry::BARRIER_DATA };
    let one = Message::AppendEntries(AppendEntries { entries: vec![barrier], ..heartbeat });
    check_rpc(
        "0100000000000000 4000000000000000 0300000000000000 0900000000000000 0200000000000000 0800000000000000
         0100000000000000 0300000000000000 02 000000 08000000 0000000000000000 0000000000000000",
        one.clone(),
    );
    // The last word of the header and the unused bytes of the entry header hold anything; the upper bits of the type
    // are reserved.
    let junk = hex("0100efbeaddebeef 4000000000000000 0300000000000000 0900000000000000 0200000000000000
        0800000000000000 0100000000000000 0300000000000000 02 a1b2c3 08000000 efbeaddeefbeadde 0000000000000000");
    let Message::AppendEntries(mut with_junk) = one.clone() else { panic!("an append") };
    with_junk.echo = 0xdead_beef_dead_beef;
    check_rpc_decodes(&junk, Message::AppendEntries(with_junk));
    let without_last_word = hex("0100000000000000 3800000000000000 0300000000000000 0900000000000000
        0200000000000000 0800000000000000 0100000000000000 0300000000000000 02 000000 08000000 0000000000000000");
    check_rpc_decodes(&without_last_word, one);
}

#[test]
fn append_entries_result_in_both_lengths() {
    let result = |features| {
        Message::AppendEntriesResult(AppendEntriesResult {
            term: Term(3),
            rejected: LogIndex(9),
            last_log_index: LogIndex(7),
            features,
        })
    };
    check_rpc(
        "0200000000000000 2000000000000000 0300000000000000 0900000000000000 0700000000000000 0500000000000000",
        result(Some(5)),
    );
    let old = hex("0200000000000000 1800000000000000 0300000000000000 0900000000000000 0700000000000000");
    check_rpc_decodes(&old, result(None));
}

#[test]
fn request_vote_in_both_lengths() {
    let request = |disrupt_leader, pre_vote| {
        Message::RequestVote(RequestVote {
            term: Term(4),
            candidate_id: NodeId(0x2dc1_7185_8c31_55be),
            last_log_index: LogIndex(9),
            last_log_term: Term(3),
            disrupt_leader,
            pre_vote,
        })
    };
    let body = "0400000000000000 be55318c8571c12d 0900000000000000 0300000000000000";
    for (flags, disrupt_leader, pre_vote) in
        [(0, false, false), (1, true, false), (2, false, true), (3, true, true)]
    {
        check_rpc(
            &format!("0300000000000000 2800000000000000 {body} 0{flags}00000000000000"),
            request(disrupt_leader, pre_vote),
        );
    }
    check_rpc_decodes(&hex(&format!("0300000000000000 2000000000000000 {body}")), request(false, false));
}

#[test]
fn request_vote_result_in_both_lengths() {
    let result = |pre_vote| {
        Message::RequestVoteResult(RequestVoteResult { term: Term(4), vote_granted: true, pre_vote })
    };
    let body = "0400000000000000 0100000000000000";
    check_rpc(&format!("0400000000000000 1800000000000000 {body} 0100000000000000"), result(Some(true)));
    check_rpc(&format!("0400000000000000 1800000000000000 {body} 0000000000000000"), result(Some(false)));
    check_rpc_decodes(&hex(&format!("0400000000000000 1000000000000000 {body}")), result(None));
}

#[test]
fn install_snapshot_with_and_without_the_junk_of_old_releases() {
    let message = Message::InstallSnapshot(InstallSnapshot {
        term: Term(4),
        last_index: LogIndex(100),
        last_term: Term(3),
        configuration: one_server(),
        configuration_index: LogIndex(1),
        data: Bytes::from_static(b"snapshot"),
    });
    let fixed = "0400000000000000 6400000000000000 0300000000000000 0100000000000000 2800000000000000";
    let tail = "0800000000000000";
    let data = "736e617073686f74";
    check_rpc(
        &format!("0500000000000000 5800000000000000 {fixed} {ONE_SERVER} {tail} {data}"),
        message.clone(),
    );
    let old =
        format!("0500000000000000 6000000000000000 {fixed} {ONE_SERVER} {tail} efbeaddeefbeadde {data}");
    check_rpc_decodes(&hex(&old), message);
}

#[test]
fn timeout_now() {
    check_rpc(
        "0600000000000000 1800000000000000 0400000000000000 0900000000000000 0300000000000000",
        Message::TimeoutNow(TimeoutNow {
            term: Term(4),
            last_log_index: LogIndex(9),
            last_log_term: Term(3),
        }),
    );
}

#[test]
fn bad_rpc_headers_are_refused_at_once_and_for_good() {
    let preamble = |kind: u64, len: u64| [kind.to_le_bytes(), len.to_le_bytes()].concat();
    let limits = RpcLimits { header_len: 4096, payload_len: 4096 };
    let bad = [
        (0, 24),
        (7, 24),
        (13, 24),
        (1, 0),
        (1, 32),
        (1, 4097),
        (1, u64::MAX),
        (2, 28),
        (2, 40),
        (3, 24),
        (4, 8),
        (5, 40),
        (5, u64::MAX),
        (6, 16),
        (6, 32),
    ];
    for (kind, len) in bad {
        let mut decoder = RpcDecoder::new(limits);
        let error = decoder.decode(&mut BytesMut::from(&preamble(kind, len)[..]));
        assert!(error.is_err(), "{kind} {len}");
        assert_eq!(decoder.decode(&mut BytesMut::new()), error);
    }
}

#[test]
fn bad_rpc_bodies_are_refused() {
    let entries = |words: &[u64]| {
        let mut bytes = [1, words.len() as u64 * 8].map(u64::to_le_bytes).concat();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    };
    let entry = |kind: u64, len: u64| kind | len << 32;
    let limits = RpcLimits { header_len: 4096, payload_len: 64 };
    let cases = [
        entries(&[1, 0, 0, 0, 1]),
        entries(&[1, 0, 0, 0, u64::MAX]),
        entries(&[1, 0, 0, 0, 1 << 60, 1, entry(1, 8)]),
        entries(&[1, 0, 0, 0, 1, 1, entry(4, 8)]),
        entries(&[1, 0, 0, 0, 1, 1, entry(1, 7)]),
        entries(&[1, 0, 0, 0, 1, 0, entry(1, 8)]),
        entries(&[1, 0, 0, 0, 1, 1, entry(1, 72)]),
        entries(&[1, u64::MAX, 0, 0, 0]),
        entries(&[u64::MAX, 0, 0, 0, 0]),
    ];
    for bytes in cases {
        let result = RpcDecoder::new(limits).decode(&mut BytesMut::from(&bytes[..]));
        assert!(result.is_err(), "{bytes:?}");
    }
}
