//! The client against scripted nodes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Instant;

use wire_protocol::{ClientDecoder, Incoming};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

/// One step of a node: what it expects, and the bytes it answers with.
type Step = (Request, Vec<u8>);

/// A node that serves one connection for each script, then closes its port. Joining it checks that all was asked.
fn node(scripts: impl FnOnce(&str) -> Vec<Vec<Step>>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let scripts = scripts(&address);
    let thread = std::thread::spawn(move || {
        for script in scripts {
            let (mut stream, _) = listener.accept().unwrap();
            let mut decoder = ClientDecoder::new(1 << 20);
            let mut input = BytesMut::new();
            let greeting = next(&mut stream, &mut decoder, &mut input);
            assert_eq!(greeting, Some(Incoming::Handshake(Protocol::Current)));
            for (expected, answer) in script {
                let Some(Incoming::Frame(frame)) = next(&mut stream, &mut decoder, &mut input) else {
                    panic!("the client left before {expected:?}");
                };
                assert_eq!(Request::decode(&frame).unwrap(), expected);
                stream.write_all(&answer).unwrap();
            }
        }
    });
    (address, thread)
}

fn next(stream: &mut TcpStream, decoder: &mut ClientDecoder, input: &mut BytesMut) -> Option<Incoming> {
    loop {
        if let Some(item) = decoder.decode(input).unwrap() {
            return Some(item);
        }
        let mut chunk = [0; 512];
        match stream.read(&mut chunk).unwrap() {
            0 => return None,
            read => input.extend_from_slice(&chunk[..read]),
        }
    }
}

fn encoded(responses: &[Response]) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    for response in responses {
        response.encode(&mut buffer);
    }
    buffer.to_vec()
}

fn rows(values: &[i64], end: RowsEnd) -> Response {
    let rows = values.iter().map(|value| vec![Value::Integer(*value)]).collect();
    Response::Rows(Rows { columns: vec![bytes("n")], rows, end })
}

fn select() -> Request {
    Request::QuerySql { database: 0, sql: bytes("SELECT n FROM t"), params: Params::new(&[]) }
}

fn served(script: Vec<Step>) -> (Client, JoinHandle<()>) {
    let (address, thread) = node(|_| vec![script]);
    (Client::connect(&address, TIMEOUT).unwrap(), thread)
}

#[test]
fn parts_of_rows_arrive_as_one_result() {
    let parts = [rows(&[1, 2], RowsEnd::Part), rows(&[], RowsEnd::Part), rows(&[3], RowsEnd::Done)];
    let (mut client, node) = served(vec![(select(), encoded(&parts))]);
    let result = client.query_sql("SELECT n FROM t", &[]).unwrap();
    assert_eq!(result.columns, ["n"]);
    assert_eq!(result.rows, [[Value::Integer(1)], [Value::Integer(2)], [Value::Integer(3)]]);
    node.join().unwrap();
}

#[test]
fn a_failure_between_parts_ends_the_result_and_not_the_connection() {
    let failing = [rows(&[1], RowsEnd::Part), Response::failure(9, "interrupted")];
    let (mut client, node) =
        served(vec![(select(), encoded(&failing)), (select(), encoded(&[rows(&[5], RowsEnd::Done)]))]);
    let error = client.query_sql("SELECT n FROM t", &[]).unwrap_err();
    assert_eq!(error.code(), Some(9));
    assert_eq!(error.to_string(), "interrupted (code 9)");
    assert_eq!(client.query_sql("SELECT n FROM t", &[]).unwrap().rows, [[Value::Integer(5)]]);
    node.join().unwrap();
}

#[test]
fn the_database_that_open_names_is_used() {
    let open = Request::Open { name: bytes("db"), flags: 0, vfs: Bytes::new() };
    let params = [Value::Integer(-1), Value::Text(bytes("x"))];
    let insert = Request::ExecSql { database: 3, sql: bytes("INSERT"), params: Params::new(&params) };
    let (mut client, node) = served(vec![
        (open, encoded(&[Response::Database { id: 3 }])),
        (insert, encoded(&[Response::Result { last_insert_id: 7, rows_affected: 2 }])),
    ]);
    client.open("db").unwrap();
    let result = client.exec_sql("INSERT", &params).unwrap();
    assert_eq!(result, ExecResult { last_insert_id: 7, rows_affected: 2 });
    node.join().unwrap();
}

#[test]
fn interrupt_drops_what_the_query_still_says() {
    let rest = [rows(&[1], RowsEnd::Part), Response::failure(9, "interrupted"), Response::Empty];
    let (mut client, node) = served(vec![
        (select(), Vec::new()),
        (Request::Interrupt, encoded(&rest)),
        (Request::Weight { weight: 5 }, encoded(&[Response::Empty])),
    ]);
    client.send(&select()).unwrap();
    client.interrupt().unwrap();
    client.weight(5).unwrap();
    node.join().unwrap();
}

#[test]
fn a_silent_node_is_a_timeout_and_breaks_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Client::connect(&address, Duration::from_millis(50)).unwrap();
    let error = client.leader().unwrap_err();
    assert!(
        matches!(&error, ClientError::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut),
        "{error}"
    );
    assert!(matches!(client.leader(), Err(ClientError::Broken { .. })));
}

#[test]
fn drops_of_an_answer_do_not_extend_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The header of a long answer, then a byte now and then.
        let mut sent = stream.write_all(&[255, 0, 0, 0, 7, 0, 0, 0]);
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(20));
            sent = stream.write_all(&[0]);
        }
    });
    let started = Instant::now();
    let mut client = Client::connect(&address, Duration::from_millis(200)).unwrap();
    assert!(matches!(client.leader(), Err(ClientError::Io { .. })));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    drop(client);
    thread.join().unwrap();
}

#[test]
fn bytes_that_are_no_answer_break_the_connection() {
    let (mut client, node) =
        served(vec![(Request::Leader, vec![1, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]);
    assert!(matches!(client.leader(), Err(ClientError::Decode { .. })));
    assert!(matches!(client.leader(), Err(ClientError::Broken { .. })));
    node.join().unwrap();
}

#[test]
fn an_answer_to_another_question_is_named() {
    let (mut client, node) = served(vec![(Request::Leader, encoded(&[Response::Empty]))]);
    let error = client.leader().unwrap_err().to_string();
    assert!(error.ends_with("answered LEADER with a response of type 8"), "{error}");
    node.join().unwrap();
}

#[test]
fn the_leader_is_found_through_another_node() {
    let says = |address: &str| encoded(&[Response::Server { id: NodeId(1), address: address.to_owned() }]);
    // Until the second node agrees, it is asked again.
    let (leader, leading) =
        node(|own| vec![vec![(Request::Leader, says(""))], vec![(Request::Leader, says(own))]]);
    let (follower, following) = node(|_| vec![vec![(Request::Leader, says(&leader))]; 2]);
    let client = connect_leader(&[&follower], TIMEOUT).unwrap();
    assert_eq!(client.address(), leader);
    following.join().unwrap();
    leading.join().unwrap();
}

#[test]
fn without_a_leader_each_address_is_accounted_for() {
    let none = || encoded(&[Response::Server { id: NodeId(0), address: String::new() }]);
    // It answers as often as it is asked, so that the time given may be long enough for a busy machine.
    let (address, _thread) = node(|_| (0..1000).map(|_| vec![(Request::Leader, none())]).collect());
    let error = connect_leader(&[&address, "nonsense:port"], Duration::from_secs(3)).unwrap_err();
    let told = error.to_string();
    assert!(told.contains(&format!("{address} knows of none")), "{told}");
    assert!(told.contains("connect to nonsense:port: invalid port value"), "{told}");
}

#[test]
fn an_attempt_that_our_own_time_cut_short_does_not_hide_what_a_node_said() {
    let none = encoded(&[Response::Server { id: NodeId(0), address: String::new() }]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // It answers the first client; the second one waits in the backlog of the listener.
    let node = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut decoder, mut input) = (ClientDecoder::new(1 << 20), BytesMut::new());
        while !matches!(next(&mut stream, &mut decoder, &mut input), Some(Incoming::Frame(_))) {}
        stream.write_all(&none).unwrap();
        listener
    });
    let error = connect_leader(&[&address], Duration::from_millis(1500)).unwrap_err().to_string();
    assert_eq!(error, format!("no leader within 1.5s: {address} knows of none"));
    drop(node.join().unwrap());
}
