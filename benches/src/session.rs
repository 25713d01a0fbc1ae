//! One connection of the load: set up by blocking calls, then driven by readiness.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use wire_protocol::{
    Frame, FrameDecoder, Params, PrepareSchema, Protocol, Request, Response, RowsEnd, Value,
};

use crate::poller::unless_blocked;

const MAX_ANSWER_LEN: usize = 1 << 30;
const READ_LEN: usize = 64 * 1024;
const SET_UP_TIMEOUT: Duration = Duration::from_secs(20);
const BUSY: u64 = 5;

/// One request of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// Runs the statement at this place of the workload's list.
    Exec(usize, Vec<Value>),
    /// The same for its rows.
    Query(usize, Vec<Value>),
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Outcome of an EXEC.
    Done {
        /// Rowid of the row inserted last.
        last_insert_id: u64,
    },
    /// One ROWS message; more of them follow unless `last`.
    Rows {
        /// Not decoded: most workloads only want to know how much it is.
        frame: Frame,
        /// Whether the answer is complete.
        last: bool,
    },
    /// Refused with this code.
    Refused(u64),
}

/// A connection with its prepared statements.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    statements: Vec<u32>,
}

impl Link {
    /// Connects, opens the database and prepares the statements; the socket does not block afterwards.
    pub(crate) fn connect(address: &str, database: &str, statements: &[&str]) -> Result<Self, String> {
        let failed = |error: io::Error| format!("connect to {address}: {error}");
        let stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(SET_UP_TIMEOUT)).map_err(failed)?;
        let mut link =
            Self { stream, input: BytesMut::new(), output: BytesMut::new(), statements: Vec::new() };
        Protocol::Current.encode(&mut link.output);
        let name = Bytes::copy_from_slice(database.as_bytes());
        match link.ask(&Request::Open { name, flags: 0, vfs: Bytes::new() })? {
            Response::Database { .. } => {}
            other => return Err(format!("open {database}: {other:?}")),
        }
        for sql in statements {
            let id = link.prepare(sql)?;
            link.statements.push(id);
        }
        link.stream.set_nonblocking(true).map_err(failed)?;
        Ok(link)
    }

    /// A library without a queue may refuse even this while others write.
    fn prepare(&mut self, sql: &str) -> Result<u32, String> {
        let deadline = Instant::now() + SET_UP_TIMEOUT;
        let request = Request::Prepare {
            database: 0,
            sql: Bytes::copy_from_slice(sql.as_bytes()),
            schema: PrepareSchema::V0,
        };
        loop {
            match self.ask(&request)? {
                Response::Statement { statement, .. } => return Ok(statement),
                Response::Failure { code: BUSY, .. } if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return Err(format!("prepare {sql}: {other:?}")),
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Response, String> {
        request.encode(&mut self.output);
        let output = self.output.split();
        self.stream.write_all(&output).map_err(|error| error.to_string())?;
        loop {
            if let Some(frame) = self.next_frame()? {
                return Response::decode(&frame).map_err(|error| error.to_string());
            }
            let mut chunk = [0; READ_LEN];
            match self.stream.read(&mut chunk).map_err(|error| error.to_string())? {
                0 => return Err("the node closed the connection".to_owned()),
                read => self.input.extend_from_slice(&chunk[..read]),
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, String> {
        FrameDecoder::new(MAX_ANSWER_LEN).decode(&mut self.input).map_err(|error| error.to_string())
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Puts a request into the output; [`Link::flush`] sends it.
    pub(crate) fn put(&mut self, call: &Call) {
        let request = match call {
            Call::Exec(place, values) => {
                Request::Exec { database: 0, statement: self.statements[*place], params: Params::new(values) }
            }
            Call::Query(place, values) => Request::Query {
                database: 0,
                statement: self.statements[*place],
                params: Params::new(values),
            },
        };
        request.encode(&mut self.output);
    }

    /// Puts a `ROLLBACK` into the output.
    pub(crate) fn put_rollback(&mut self) {
        let sql = Bytes::from_static(b"ROLLBACK");
        Request::ExecSql { database: 0, sql, params: Params::none() }.encode(&mut self.output);
    }

    /// Writes until all is written or the socket takes no more.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match unless_blocked(self.stream.write(&self.output))? {
                None => break,
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => drop(self.output.split_to(written)),
            }
        }
        Ok(())
    }

    /// Reads until the socket has no more; `scratch` is where bytes arrive first.
    pub(crate) fn fill(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            match unless_blocked(self.stream.read(scratch))? {
                None => return Ok(()),
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(read) => {
                    self.input.extend_from_slice(&scratch[..read]);
                    if read < scratch.len() {
                        // All there was; what comes later is reported again. An end of the stream that was reported
                        // together with these bytes shows when the next request is written.
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes the next answer that has arrived.
    pub(crate) fn take(&mut self) -> Result<Option<Answer>, String> {
        let Some(frame) = self.next_frame()? else { return Ok(None) };
        const ROWS: u8 = 7;
        if frame.kind == ROWS {
            let last = frame.body.last_chunk::<8>().is_some_and(|word| *word == [0xff; 8]);
            return Ok(Some(Answer::Rows { frame, last }));
        }
        match Response::decode(&frame).map_err(|error| error.to_string())? {
            Response::Result { last_insert_id, .. } => Ok(Some(Answer::Done { last_insert_id })),
            Response::Failure { code, .. } => Ok(Some(Answer::Refused(code))),
            other => Err(format!("an answer of type {}", other.kind())),
        }
    }
}

/// The rows of one ROWS message.
pub(crate) fn rows_of(frame: &Frame) -> Result<Vec<Vec<Value>>, String> {
    match Response::decode(frame).map_err(|error| error.to_string())? {
        Response::Rows(rows) => {
            debug_assert!(matches!(rows.end, RowsEnd::Done | RowsEnd::Part));
            Ok(rows.rows)
        }
        other => Err(format!("rows were expected, not an answer of type {}", other.kind())),
    }
}
