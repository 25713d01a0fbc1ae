//! The sockets of all clients: who is to be read, who has something to be sent, and who is gone.
//!
//! What the core has to hear is put in front of its next feeding.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::connection::{Connection, FromClient, ReadEnd};
use crate::core::{ClientId, Input};
use crate::registration::Readiness;
use crate::socket::Flush;
use crate::trim::Trim;

/// Connections by their token, which is the number of the client, too.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: BTreeMap<u64, Connection>,
    /// Clients whose other end is gone altogether.
    hung_up: BTreeSet<u64>,
    to_read: BTreeSet<u64>,
    to_flush: BTreeSet<u64>,
}

impl Clients {
    /// A new one, about which the poll has said nothing yet.
    pub(crate) fn add(&mut self, token: u64, connection: Connection) {
        self.connections.insert(token, connection);
        self.to_read.insert(token);
    }

    /// Notes what the poll said of a socket; `false` if it is no client's.
    pub(crate) fn ready(&mut self, token: u64, ready: Readiness, inputs: &mut VecDeque<Input>) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        connection.ready(ready.readable, ready.ending, ready.writable);
        self.to_read.insert(token);
        self.to_flush.insert(token);
        if ready.gone {
            self.hung_up.insert(token);
        } else if ready.ending && connection.is_opened() {
            // The end of the stream may stand behind requests that nobody reads for now.
            inputs.push_back(Input::ClientDeparting { client: ClientId(token) });
        }
        true
    }

    /// Whether a read could bring anything now.
    pub(crate) fn wants_read(&self) -> bool {
        !self.to_read.is_empty()
    }

    /// Whether there is something to send that its socket may take.
    pub(crate) fn wants_flush(&self) -> bool {
        !self.to_flush.is_empty()
    }

    /// Reads from all that may have sent something. `scratch` is the buffer of the loop.
    pub(crate) fn read(
        &mut self,
        scratch: &mut [u8],
        inputs: &mut VecDeque<Input>,
        mut core: impl FnMut(Input),
    ) {
        for token in std::mem::take(&mut self.to_read) {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            let client = ClientId(token);
            let end = connection.read(scratch, |event| {
                core(match event {
                    FromClient::Opened(protocol) => Input::ClientOpened { client, protocol },
                    FromClient::Frame(frame) => Input::ClientFrame { client, frame },
                    FromClient::Eof => Input::ClientEof { client },
                    FromClient::Unreadable(reason) => Input::ClientUnreadable { client, reason },
                });
            });
            match end {
                ReadEnd::Waiting if self.hung_up.contains(&token) => self.drop_client(token, inputs),
                ReadEnd::Waiting => {}
                ReadEnd::Unfinished => {
                    self.to_read.insert(token);
                }
                ReadEnd::Broken => self.drop_client(token, inputs),
            }
        }
    }

    fn drop_client(&mut self, token: u64, inputs: &mut VecDeque<Input>) {
        self.hung_up.remove(&token);
        if self.connections.remove(&token).is_some_and(|connection| connection.is_opened()) {
            inputs.push_back(Input::ClientClosed { client: ClientId(token) });
        }
    }

    /// Queues a reply.
    pub(crate) fn push(&mut self, ClientId(token): ClientId, bytes: Bytes) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.push(bytes);
            self.to_flush.insert(token);
        }
    }

    /// Closes once everything is sent.
    pub(crate) fn close(&mut self, ClientId(token): ClientId) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.close();
            self.to_flush.insert(token);
        }
    }

    /// The core wants no more of this client's requests for now.
    pub(crate) fn pause(&mut self, ClientId(token): ClientId) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.pause();
        }
    }

    /// The core wants them again.
    pub(crate) fn resume(&mut self, ClientId(token): ClientId) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.resume();
            self.to_read.insert(token);
        }
    }

    /// Gives a connection up: it turned out to be a peer's.
    pub(crate) fn take(&mut self, ClientId(token): ClientId) -> Option<Connection> {
        self.hung_up.remove(&token);
        self.connections.remove(&token)
    }

    /// Gives the sockets what they take.
    pub(crate) fn flush(
        &mut self,
        gather: &mut Vec<u8>,
        trim: &mut Trim,
        inputs: &mut VecDeque<Input>,
        now_ms: u64,
    ) {
        for token in std::mem::take(&mut self.to_flush) {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            match connection.flush(gather) {
                Err(error) => {
                    tracing::debug!(%error, "a client's connection broke");
                    self.drop_client(token, inputs);
                    continue;
                }
                Ok(Flush::Unfinished) => {
                    self.to_flush.insert(token);
                }
                Ok(_) => {}
            }
            if connection.take_drained() {
                if connection.is_large() {
                    trim.answered(now_ms);
                }
                inputs.push_back(Input::ClientDrained { client: ClientId(token) });
            }
            if connection.is_finished() {
                self.drop_client(token, inputs);
            } else if connection.wants_read() {
                self.to_read.insert(token);
            }
        }
    }
}
