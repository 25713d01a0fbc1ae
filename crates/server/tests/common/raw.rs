//! A client that sends any bytes and sees every message: for what no well-behaved client does.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use wire_protocol::{
    Frame, FrameDecoder, Params, PrepareSchema, Protocol, Request, Response, ResponseContext, Value,
};

use super::TIMEOUT;

/// Request types.
pub(crate) const LEADER: u8 = 0;
pub(crate) const OPEN: u8 = 3;
pub(crate) const PREPARE: u8 = 4;
pub(crate) const EXEC: u8 = 5;
pub(crate) const QUERY: u8 = 6;
pub(crate) const EXEC_SQL: u8 = 8;
pub(crate) const QUERY_SQL: u8 = 9;
pub(crate) const CONNECT: u8 = 11;
/// Response types.
pub(crate) const FAILURE: u8 = 0;
pub(crate) const ROWS: u8 = 7;

/// A message with any type, schema and body; the body has to be whole words.
pub(crate) fn message(kind: u8, schema: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len().is_multiple_of(8));
    let words = u32::try_from(body.len() / 8).unwrap();
    let mut message = header(words, kind, schema).to_vec();
    message.extend_from_slice(body);
    message
}

/// A header that announces a body of `words` words.
pub(crate) fn header(words: u32, kind: u8, schema: u8) -> [u8; 8] {
    let [a, b, c, d] = words.to_le_bytes();
    [a, b, c, d, kind, schema, 0, 0]
}

/// A text field.
pub(crate) fn text_field(text: &[u8]) -> Vec<u8> {
    let mut field = text.to_vec();
    field.resize((text.len() / 8 + 1) * 8, 0);
    field
}

pub(crate) fn open_request(name: &[u8]) -> Request {
    Request::Open { name: Bytes::copy_from_slice(name), flags: 0, vfs: Bytes::from_static(b"volatile") }
}

pub(crate) fn exec_sql(sql: &str) -> Request {
    exec_sql_with(sql, &[])
}

pub(crate) fn exec_sql_with(sql: &str, params: &[Value]) -> Request {
    Request::ExecSql { database: 0, sql: sql.to_owned().into(), params: Params::new(params) }
}

pub(crate) fn query_sql(sql: &str) -> Request {
    Request::QuerySql { database: 0, sql: sql.to_owned().into(), params: Params::none() }
}

pub(crate) fn prepare(sql: &str) -> Request {
    Request::Prepare { database: 0, sql: sql.to_owned().into(), schema: PrepareSchema::V0 }
}

/// A socket to a node.
pub(crate) struct RawClient {
    socket: File,
    input: BytesMut,
    protocol: Protocol,
}

impl RawClient {
    /// Connects and says nothing.
    pub(crate) fn dial(address: &str) -> Self {
        let fd = if let Some(name) = address.strip_prefix('@') {
            let address = SocketAddr::from_abstract_name(name).unwrap();
            let stream = UnixStream::connect_addr(&address).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.set_write_timeout(Some(TIMEOUT)).unwrap();
            OwnedFd::from(stream)
        } else {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.set_write_timeout(Some(TIMEOUT)).unwrap();
            stream.set_nodelay(true).unwrap();
            OwnedFd::from(stream)
        };
        Self { socket: File::from(fd), input: BytesMut::new(), protocol: Protocol::Current }
    }

    /// Connects and says which protocol follows.
    pub(crate) fn connect(address: &str) -> Self {
        Self::connect_as(address, Protocol::Current)
    }

    pub(crate) fn connect_as(address: &str, protocol: Protocol) -> Self {
        let mut client = Self::dial(address);
        client.protocol = protocol;
        let mut handshake = BytesMut::new();
        protocol.encode(&mut handshake);
        client.send(&handshake);
        client
    }

    /// Connects and opens the database `test`.
    pub(crate) fn open(address: &str) -> Self {
        let mut client = Self::connect(address);
        assert_eq!(client.call(&open_request(b"test")), Response::Database { id: 0 });
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// As [`Self::send`]; the node may have closed the connection already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    pub(crate) fn request(&mut self, request: &Request) {
        let mut message = BytesMut::new();
        request.encode(&mut message);
        self.send(&message);
    }

    /// One request and the first message of its answer.
    pub(crate) fn call(&mut self, request: &Request) -> Response {
        self.request(request);
        self.response()
    }

    /// The next message.
    pub(crate) fn frame(&mut self) -> Frame {
        self.frame_or_end().expect("the node closed the connection")
    }

    /// The next message, or `None` when the node has closed the connection behind a whole message.
    pub(crate) fn frame_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = FrameDecoder::new(1 << 30).decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            let mut chunk = [0; 16 * 1024];
            match self.socket.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.input.is_empty(), "the node closed the connection inside a message");
                    return None;
                }
                Ok(len) => self.input.put_slice(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    pub(crate) fn response(&mut self) -> Response {
        let context = ResponseContext { protocol: self.protocol, ..ResponseContext::default() };
        let frame = self.frame();
        Response::decode_with(&frame, context).unwrap_or_else(|error| panic!("{error}: {frame:?}"))
    }

    /// The next message, which has to be a well-formed FAILURE without anything else in it.
    pub(crate) fn failure(&mut self) -> (u64, String) {
        let frame = self.frame();
        assert_eq!((frame.kind, frame.schema), (FAILURE, 0), "{frame:?}");
        let response = Response::decode_with(&frame, ResponseContext::default()).unwrap();
        let Response::Failure { code, message } = response else { unreachable!("by its type") };
        assert_eq!(frame.body.len(), 8 + (message.len() / 8 + 1) * 8, "surplus words: {frame:?}");
        (code, String::from_utf8(message.to_vec()).unwrap())
    }

    /// Asserts that the node closes the connection without another word.
    pub(crate) fn expect_closed(&mut self) {
        let next = self.frame_or_end();
        assert!(next.is_none(), "{next:?}");
    }

    /// Whether nothing arrives for so long.
    pub(crate) fn is_silent(&mut self, wait: Duration) -> bool {
        rustix::net::sockopt::set_socket_timeout(
            &self.socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(wait),
        )
        .unwrap();
        let mut byte = [0; 1];
        let silent = match self.socket.read(&mut byte) {
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            Ok(len) => {
                self.input.put_slice(&byte[..len]);
                false
            }
        };
        rustix::net::sockopt::set_socket_timeout(
            &self.socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(TIMEOUT),
        )
        .unwrap();
        silent
    }

    /// Reads and drops whatever arrives until the node closes the connection or is silent for so long.
    pub(crate) fn drain(&mut self, wait: Duration) {
        while !self.is_silent(wait) {
            let before = self.input.len();
            self.input.clear();
            if before == 0 {
                return;
            }
        }
    }

    /// Nothing more will be sent; answers are still read. Of no effect when the node has closed the connection.
    pub(crate) fn half_close(&self) {
        match rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
