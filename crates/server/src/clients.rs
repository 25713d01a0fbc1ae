//! The sockets of all clients: who is to be read, who has something to be sent, and who is gone.
//!
//! What the core has to hear is put in front of its next feeding.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::connection::{Connection, FromClient, ReadEnd};
use crate::core::{ClientId, Input};
use crate::registration::Readiness;
use crate::socket::Flush;
use crate::trim::Trim;

/// Sockets by their token, which is the number of the client, too.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    sockets: BTreeMap<u64, ClientSocket>,
    to_read: Visits,
    to_flush: Visits,
}

#[derive(Debug)]
struct ClientSocket {
    connection: Connection,
    /// The other end is gone altogether.
    hung_up: bool,
    /// Is among those to be read.
    is_to_read: bool,
    /// Is among those to be flushed.
    is_to_flush: bool,
}

/// Clients that the next pass looks at, in the order in which they came. One that has gone meanwhile may be among them.
#[derive(Debug, Default)]
struct Visits(Vec<u64>);

impl Visits {
    /// Adds a client; `is_listed` is where it is noted that it is there.
    fn add(&mut self, token: u64, is_listed: &mut bool) {
        if !std::mem::replace(is_listed, true) {
            self.0.push(token);
        }
    }

    /// Begins a pass. What is added meanwhile is for the next one.
    fn begin(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.0)
    }

    /// Ends a pass over `visited`, whose memory is used again.
    fn end(&mut self, mut visited: Vec<u64>) {
        visited.clear();
        visited.append(&mut self.0);
        self.0 = visited;
    }
}

impl Clients {
    /// A new one, about which the poll has said nothing yet.
    pub(crate) fn add(&mut self, token: u64, connection: Connection) {
        let mut socket = ClientSocket { connection, hung_up: false, is_to_read: false, is_to_flush: false };
        self.to_read.add(token, &mut socket.is_to_read);
        self.sockets.insert(token, socket);
    }

    /// Notes what the poll said of a socket; `false` if it is no client's.
    pub(crate) fn ready(&mut self, token: u64, ready: Readiness, inputs: &mut VecDeque<Input>) -> bool {
        let Some(socket) = self.sockets.get_mut(&token) else { return false };
        socket.connection.ready(ready);
        self.to_read.add(token, &mut socket.is_to_read);
        self.to_flush.add(token, &mut socket.is_to_flush);
        if ready.gone {
            socket.hung_up = true;
        } else if ready.ending && socket.connection.is_opened() {
            // The end of the stream may stand behind requests that nobody reads for now.
            inputs.push_back(Input::ClientDeparting { client: ClientId(token) });
        }
        true
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether a read could bring anything now.
    pub(crate) fn wants_read(&self) -> bool {
        !self.to_read.0.is_empty()
    }

    /// Whether there is something to send that its socket may take.
    pub(crate) fn wants_flush(&self) -> bool {
        !self.to_flush.0.is_empty()
    }

    /// Reads from all that may have sent something. `scratch` is the buffer of the loop.
    pub(crate) fn read(
        &mut self,
        scratch: &mut [u8],
        inputs: &mut VecDeque<Input>,
        mut core: impl FnMut(Input),
    ) {
        let tokens = self.to_read.begin();
        for &token in &tokens {
            let Some(socket) = self.sockets.get_mut(&token) else { continue };
            socket.is_to_read = false;
            let client = ClientId(token);
            let end = socket.connection.read(scratch, |event| {
                core(match event {
                    FromClient::Opened(protocol) => Input::ClientOpened { client, protocol },
                    FromClient::Frame(frame) => Input::ClientFrame { client, frame },
                    FromClient::Refused => Input::ClientRefused { client },
                    FromClient::Eof => Input::ClientEof { client },
                    FromClient::Unreadable(reason) => Input::ClientUnreadable { client, reason },
                });
            });
            if let Some((input, output)) = socket.connection.take_held() {
                core(Input::ClientHolds { client, input, output });
            }
            match end {
                ReadEnd::Waiting if socket.hung_up => self.drop_client(token, inputs),
                ReadEnd::Waiting => {}
                ReadEnd::Unfinished => self.to_read.add(token, &mut socket.is_to_read),
                ReadEnd::Broken => self.drop_client(token, inputs),
            }
        }
        self.to_read.end(tokens);
    }

    fn drop_client(&mut self, token: u64, inputs: &mut VecDeque<Input>) {
        if self.sockets.remove(&token).is_some_and(|socket| socket.connection.is_opened()) {
            inputs.push_back(Input::ClientClosed { client: ClientId(token) });
        }
    }

    /// Queues a reply.
    pub(crate) fn push(&mut self, ClientId(token): ClientId, bytes: Bytes) {
        if let Some(socket) = self.sockets.get_mut(&token) {
            socket.connection.push(bytes);
            self.to_flush.add(token, &mut socket.is_to_flush);
        }
    }

    /// Closes now, with what the socket takes at once.
    pub(crate) fn abort(&mut self, ClientId(token): ClientId, inputs: &mut VecDeque<Input>) {
        if let Some(socket) = self.sockets.get_mut(&token) {
            // Its end is the same whether it takes anything or not.
            let _ = socket.connection.flush();
            self.drop_client(token, inputs);
        }
    }

    /// Drops the unfinished request of a client, and what is still to come of it.
    pub(crate) fn refuse(&mut self, ClientId(token): ClientId) {
        if let Some(socket) = self.sockets.get_mut(&token) {
            socket.connection.refuse();
        }
    }

    /// Closes once everything is sent.
    pub(crate) fn close(&mut self, ClientId(token): ClientId) {
        if let Some(socket) = self.sockets.get_mut(&token) {
            socket.connection.close();
            self.to_flush.add(token, &mut socket.is_to_flush);
        }
    }

    /// The core wants no more of this client's requests for now.
    pub(crate) fn pause(&mut self, ClientId(token): ClientId) {
        if let Some(socket) = self.sockets.get_mut(&token) {
            socket.connection.pause();
        }
    }

    /// The core wants them again.
    pub(crate) fn resume(&mut self, ClientId(token): ClientId) {
        if let Some(socket) = self.sockets.get_mut(&token) {
            socket.connection.resume();
            self.to_read.add(token, &mut socket.is_to_read);
        }
    }

    /// Gives a connection up: it turned out to be a peer's.
    pub(crate) fn take(&mut self, ClientId(token): ClientId) -> Option<Connection> {
        self.sockets.remove(&token).map(|socket| socket.connection)
    }

    /// Gives the sockets what they take.
    pub(crate) fn flush(&mut self, trim: &mut Trim, inputs: &mut VecDeque<Input>, now_ms: u64) {
        let tokens = self.to_flush.begin();
        for &token in &tokens {
            let Some(socket) = self.sockets.get_mut(&token) else { continue };
            socket.is_to_flush = false;
            let connection = &mut socket.connection;
            match connection.flush() {
                Err(error) => {
                    tracing::debug!(%error, "a client's connection broke");
                    self.drop_client(token, inputs);
                    continue;
                }
                Ok(Flush::Unfinished) => self.to_flush.add(token, &mut socket.is_to_flush),
                Ok(_) => {}
            }
            if connection.take_drained() {
                if connection.is_large() {
                    trim.answered(now_ms);
                }
                inputs.push_back(Input::ClientDrained { client: ClientId(token) });
            }
            if let Some((input, output)) = connection.take_held() {
                inputs.push_back(Input::ClientHolds { client: ClientId(token), input, output });
            }
            if connection.is_finished() {
                self.drop_client(token, inputs);
            } else if connection.wants_read() {
                self.to_read.add(token, &mut socket.is_to_read);
            }
        }
        self.to_flush.end(tokens);
    }
}
