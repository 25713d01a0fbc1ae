//! A blocking client: one socket, one request at a time, a deadline for each. For tools, tests and benchmarks.
//!
//! Not a connection pool, and it repeats nothing: what a failed call did is for the caller to find out. After an error
//! other than [`ClientError::Failure`] the stream may stand in the middle of an answer, so later calls are refused.

mod error;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use wire_protocol::{
    FrameDecoder, NodeId, Params, PrepareSchema, Protocol, Request, Response, ResponseContext, Role, Rows,
    RowsEnd, Server, ServersFormat, Value,
};

use crate::connector::{Connect, TcpConnector};
use stream::{Deadline, Stream};

pub use error::ClientError;

/// Longest answer taken, in bytes. Memory grows with what arrives, not with what is announced.
const MAX_RESPONSE_LEN: usize = 1 << 31;
/// Bytes taken from the socket at a time.
const READ_LEN: usize = 64 * 1024;
/// Longest wait for one node while looking for the leader.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two rounds of looking for the leader.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Outcome of an EXEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecResult {
    /// Rowid of the row inserted last.
    pub last_insert_id: u64,
    /// Rows changed.
    pub rows_affected: u64,
}

/// All rows of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryResult {
    /// Column names.
    pub columns: Vec<String>,
    /// A value for each column in each row.
    pub rows: Vec<Vec<Value>>,
}

/// A prepared statement; valid on the connection that prepared it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its id.
    pub id: u32,
    /// Highest parameter number.
    pub params: u64,
}

/// One connection to one node.
#[derive(Debug)]
pub struct Client {
    address: String,
    stream: Stream,
    input: BytesMut,
    timeout: Duration,
    /// What the node called the open database.
    database: u32,
    /// Of the CLUSTER request sent last: the answer does not say.
    format: ServersFormat,
    broken: bool,
}

impl Client {
    /// Connects, by address or by name, and says which protocol follows. `timeout` bounds this and every later call as a
    /// whole.
    pub fn connect(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Io { op: "connect to", address: address.to_owned(), source };
        Self::over(TcpConnector::new(timeout).connect(address).map_err(failed)?, address, timeout)
    }

    /// Takes a connected stream socket, as connect functions return them, and says which protocol follows.
    pub fn over(socket: OwnedFd, address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Io { op: "connect to", address: address.to_owned(), source };
        let stream = Stream::new(socket).map_err(failed)?;
        let mut client = Self {
            address: address.to_owned(),
            stream,
            input: BytesMut::new(),
            timeout,
            database: 0,
            format: ServersFormat::WithRoles,
            broken: false,
        };
        let mut handshake = BytesMut::new();
        Protocol::Current.encode(&mut handshake);
        client.write(&handshake)?;
        Ok(client)
    }

    /// The node's address as given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Changes what bounds later calls.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// One request and its answer. FAILURE is an error; the parts of a ROWS answer arrive as one.
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// Sends without waiting for the answer.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        if let Request::Cluster { format } = request {
            self.format = ServersFormat::from_number(*format).unwrap_or(self.format);
        }
        let mut message = BytesMut::new();
        request.encode(&mut message);
        self.write(&message)
    }

    /// Takes the answer to the oldest request that has none yet.
    pub fn receive(&mut self) -> Result<Response, ClientError> {
        let deadline = Deadline::after(self.timeout);
        let mut rows: Option<Rows> = None;
        loop {
            match self.receive_message(deadline)? {
                Response::Failure { code, message } => {
                    return Err(ClientError::Failure { code, message: text(&message) });
                }
                Response::Rows(part) => {
                    let whole = match rows.take() {
                        None => part,
                        Some(mut whole) => {
                            whole.rows.extend(part.rows);
                            whole.end = part.end;
                            whole
                        }
                    };
                    if whole.end == RowsEnd::Done {
                        return Ok(Response::Rows(whole));
                    }
                    rows = Some(whole);
                }
                other => return Ok(other),
            }
        }
    }

    /// One message as it comes, FAILURE and parts of ROWS included.
    fn receive_message(&mut self, deadline: Deadline) -> Result<Response, ClientError> {
        self.check_usable()?;
        let context = ResponseContext { protocol: Protocol::Current, format: self.format };
        let decoder = FrameDecoder::new(MAX_RESPONSE_LEN);
        loop {
            let decoded = match decoder.decode(&mut self.input) {
                Ok(Some(frame)) => Some(Response::decode_with(&frame, context)),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            };
            match decoded {
                Some(Ok(response)) => return Ok(response),
                Some(Err(source)) => {
                    self.broken = true;
                    return Err(ClientError::Decode { address: self.address.clone(), source });
                }
                None => self.fill(deadline)?,
            }
        }
    }

    /// Waits for more bytes.
    fn fill(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        let mut chunk = [0; READ_LEN];
        let read = match self.stream.read_before(deadline, &mut chunk) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")),
            other => other,
        };
        let read = read.map_err(|source| self.io_error("read from", source))?;
        self.input.extend_from_slice(&chunk[..read]);
        Ok(())
    }

    fn write(&mut self, message: &[u8]) -> Result<(), ClientError> {
        self.check_usable()?;
        let deadline = Deadline::after(self.timeout);
        self.stream.write_before(deadline, message).map_err(|source| self.io_error("write to", source))
    }

    fn io_error(&mut self, op: &'static str, source: io::Error) -> ClientError {
        self.broken = true;
        ClientError::Io { op, address: self.address.clone(), source }
    }

    fn check_usable(&self) -> Result<(), ClientError> {
        if self.broken { Err(ClientError::Broken { address: self.address.clone() }) } else { Ok(()) }
    }

    fn unexpected<T>(&self, request: &'static str, response: &Response) -> Result<T, ClientError> {
        Err(ClientError::Unexpected { address: self.address.clone(), request, kind: response.kind() })
    }

    fn call_empty(&mut self, name: &'static str, request: &Request) -> Result<(), ClientError> {
        match self.call(request)? {
            Response::Empty => Ok(()),
            other => self.unexpected(name, &other),
        }
    }

    fn call_result(&mut self, name: &'static str, request: &Request) -> Result<ExecResult, ClientError> {
        match self.call(request)? {
            Response::Result { last_insert_id, rows_affected } => {
                Ok(ExecResult { last_insert_id, rows_affected })
            }
            other => self.unexpected(name, &other),
        }
    }

    fn call_rows(&mut self, name: &'static str, request: &Request) -> Result<QueryResult, ClientError> {
        match self.call(request)? {
            Response::Rows(rows) => {
                Ok(QueryResult { columns: rows.columns.iter().map(text).collect(), rows: rows.rows })
            }
            other => self.unexpected(name, &other),
        }
    }

    /// Announces a client id, which nodes only acknowledge.
    pub fn register(&mut self, id: u64) -> Result<(), ClientError> {
        match self.call(&Request::Client { id })? {
            Response::Welcome { .. } => Ok(()),
            other => self.unexpected("CLIENT", &other),
        }
    }

    /// Opens the connection's database, creating it if it does not exist.
    pub fn open(&mut self, name: &str) -> Result<(), ClientError> {
        let request = Request::Open { name: bytes(name), flags: 0, vfs: Bytes::new() };
        match self.call(&request)? {
            Response::Database { id } => {
                self.database = id;
                Ok(())
            }
            other => self.unexpected("OPEN", &other),
        }
    }

    /// Runs all statements of a text; the outcome is that of the last.
    pub fn exec_sql(&mut self, sql: &str, params: &[Value]) -> Result<ExecResult, ClientError> {
        let (database, params) = (u64::from(self.database), Params::new(params));
        self.call_result("EXEC_SQL", &Request::ExecSql { database, sql: bytes(sql), params })
    }

    /// Runs the one statement of a text for its rows.
    pub fn query_sql(&mut self, sql: &str, params: &[Value]) -> Result<QueryResult, ClientError> {
        let (database, params) = (u64::from(self.database), Params::new(params));
        self.call_rows("QUERY_SQL", &Request::QuerySql { database, sql: bytes(sql), params })
    }

    /// Prepares the one statement of a text.
    pub fn prepare(&mut self, sql: &str) -> Result<Statement, ClientError> {
        let database = u64::from(self.database);
        match self.call(&Request::Prepare { database, sql: bytes(sql), schema: PrepareSchema::V0 })? {
            Response::Statement { statement, params, .. } => Ok(Statement { id: statement, params }),
            other => self.unexpected("PREPARE", &other),
        }
    }

    /// Runs a prepared statement that yields no rows.
    pub fn exec(&mut self, statement: Statement, params: &[Value]) -> Result<ExecResult, ClientError> {
        let (database, statement, params) = (self.database, statement.id, Params::new(params));
        self.call_result("EXEC", &Request::Exec { database, statement, params })
    }

    /// Runs a prepared statement for its rows.
    pub fn query(&mut self, statement: Statement, params: &[Value]) -> Result<QueryResult, ClientError> {
        let (database, statement, params) = (self.database, statement.id, Params::new(params));
        self.call_rows("QUERY", &Request::Query { database, statement, params })
    }

    /// Drops a prepared statement.
    pub fn finalize(&mut self, statement: Statement) -> Result<(), ClientError> {
        self.call_empty("FINALIZE", &Request::Finalize { database: self.database, statement: statement.id })
    }

    /// Ends a query sent with [`Client::send`]; whatever it still answers is dropped.
    pub fn interrupt(&mut self) -> Result<(), ClientError> {
        self.send(&Request::Interrupt)?;
        let deadline = Deadline::after(self.timeout);
        while self.receive_message(deadline)? != Response::Empty {}
        Ok(())
    }

    /// Who leads; id 0 and an empty address when the node knows of nobody.
    pub fn leader(&mut self) -> Result<(NodeId, String), ClientError> {
        match self.call(&Request::Leader)? {
            Response::Server { id, address } => Ok((id, address)),
            other => self.unexpected("LEADER", &other),
        }
    }

    /// The members, in order of addition.
    pub fn cluster(&mut self) -> Result<Vec<Server>, ClientError> {
        match self.call(&Request::Cluster { format: ServersFormat::WithRoles.number() })? {
            Response::Servers { servers, .. } => Ok(servers),
            other => self.unexpected("CLUSTER", &other),
        }
    }

    /// Adds a node, as a spare. Of a leader, like the next three.
    pub fn add(&mut self, id: NodeId, address: &str) -> Result<(), ClientError> {
        self.call_empty("ADD", &Request::Add { id, address: address.to_owned() })
    }

    /// Changes a node's role; returns when it is effective.
    pub fn assign(&mut self, id: NodeId, role: Role) -> Result<(), ClientError> {
        self.call_empty("ASSIGN", &Request::Assign { id, role: role.client_code() })
    }

    /// Removes a node.
    pub fn remove(&mut self, id: NodeId) -> Result<(), ClientError> {
        self.call_empty("REMOVE", &Request::Remove { id })
    }

    /// Hands leadership to a voter; id 0 lets the leader choose.
    pub fn transfer(&mut self, id: NodeId) -> Result<(), ClientError> {
        self.call_empty("TRANSFER", &Request::Transfer { id })
    }

    /// Name and content of the database file and of its WAL.
    pub fn dump(&mut self, name: &str) -> Result<Vec<(String, Vec<u8>)>, ClientError> {
        match self.call(&Request::Dump { name: bytes(name) })? {
            Response::Files(files) => {
                Ok(files.iter().map(|(name, content)| (text(name), content.to_vec())).collect())
            }
            other => self.unexpected("DUMP", &other),
        }
    }

    /// Failure domain and weight of the node.
    pub fn describe(&mut self) -> Result<(u64, u64), ClientError> {
        match self.call(&Request::Describe { format: 0, announcement: None })? {
            Response::Metadata { failure_domain, weight, .. } => Ok((failure_domain, weight)),
            other => self.unexpected("DESCRIBE", &other),
        }
    }

    /// Sets the weight of the node.
    pub fn weight(&mut self, weight: u64) -> Result<(), ClientError> {
        self.call_empty("WEIGHT", &Request::Weight { weight })
    }
}

/// Asks each node who leads until one that claims to lead itself has been reached, at most for `timeout`, which then
/// bounds the client's calls.
pub fn connect_leader<A: AsRef<str>>(addresses: &[A], timeout: Duration) -> Result<Client, ClientError> {
    let deadline = Deadline::after(timeout);
    let mut told = vec![None; addresses.len()];
    loop {
        for (address, told) in addresses.iter().map(AsRef::as_ref).zip(&mut told) {
            let wait = deadline.remaining().map_or(PROBE_TIMEOUT, |left| left.min(PROBE_TIMEOUT));
            let outcome = match follow_leader(address, wait) {
                Ok(Some(mut client)) => {
                    client.set_timeout(timeout);
                    return Ok(client);
                }
                Ok(None) => format!("{address} knows of none"),
                Err(error) => error.to_string(),
            };
            // An attempt that our own time cut short says less of the node than the one before it.
            if told.is_none() || !deadline.is_over() {
                *told = Some(outcome);
            }
        }
        if deadline.remaining().is_some_and(|left| left < PROBE_INTERVAL) {
            let last = told.into_iter().flatten().collect::<Vec<String>>().join(", ");
            return Err(ClientError::NoLeader { waited: timeout, last });
        }
        std::thread::sleep(PROBE_INTERVAL);
    }
}

/// The node that `address` takes for the leader, if it agrees.
fn follow_leader(address: &str, timeout: Duration) -> Result<Option<Client>, ClientError> {
    let mut client = Client::connect(address, timeout)?;
    let (_, leader) = client.leader()?;
    if leader == address {
        return Ok(Some(client));
    }
    if leader.is_empty() {
        return Ok(None);
    }
    let mut client = Client::connect(&leader, timeout)?;
    let (_, confirmed) = client.leader()?;
    Ok((confirmed == leader).then_some(client))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// For people and names: what is not UTF-8 is shown as such.
fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
