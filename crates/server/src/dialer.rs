//! Threads that call the host's connect function, which may block for as long as it likes.
//!
//! One thread for each peer being dialled, for as long as the call lasts. They are joined when their result has
//! arrived, and all of them when the node stops: the host may take back what its function uses once stop has returned,
//! so a call that still blocks delays the stop.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use mio::Registry;
use raft_glue::NodeId;

use crate::connector::Connect;
use crate::registration::{Tokens, register};
use crate::socket::{PEER_USER_TIMEOUT_MS, Socket};
use crate::wake::{Completion, Outbox, panic_text};

/// Identity of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Attempt(u64);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Raft messages.
    Raft,
    /// Questions over the client protocol.
    Questions,
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) purpose: Purpose,
    pub(crate) peer: NodeId,
    pub(crate) attempt: Attempt,
    pub(crate) result: io::Result<OwnedFd>,
}

impl Dialled {
    /// The socket, if there is one, registered with the poll under a token of its own and tuned for a peer.
    pub(crate) fn into_socket(self, registry: &Registry, tokens: &mut Tokens) -> io::Result<(Socket, u64)> {
        let socket = Socket::from_host(self.result?)?;
        let token = tokens.next();
        register(registry, socket.raw(), token)?;
        socket.tune(PEER_USER_TIMEOUT_MS);
        Ok((socket, token))
    }
}

/// Starts and joins the threads.
pub(crate) struct Dialer {
    connect: Arc<dyn Connect>,
    outbox: Outbox,
    purpose: Purpose,
    threads: HashMap<Attempt, JoinHandle<()>>,
    next: u64,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Dialer {
    pub(crate) fn new(connect: Arc<dyn Connect>, outbox: Outbox, purpose: Purpose) -> Self {
        Self { connect, outbox, purpose, threads: HashMap::new(), next: 0 }
    }

    /// Calls the connect function on a new thread; the result arrives as [`Completion::Dialled`].
    pub(crate) fn dial(&mut self, peer: NodeId, address: String) -> io::Result<Attempt> {
        let attempt = Attempt(self.next);
        self.next += 1;
        let connect = Arc::clone(&self.connect);
        let outbox = self.outbox.clone();
        let purpose = self.purpose;
        let thread = std::thread::Builder::new().name("dqlite-dial".to_owned()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| connect.connect(&address)))
                .unwrap_or_else(|payload| Err(io::Error::other(panic_text(&*payload))));
            drop(connect);
            outbox.send(Completion::Dialled(Dialled { purpose, peer, attempt, result }));
        })?;
        self.threads.insert(attempt, thread);
        Ok(attempt)
    }

    /// The result of this call has arrived, so its thread is at its end.
    pub(crate) fn finished(&mut self, attempt: Attempt) {
        if let Some(thread) = self.threads.remove(&attempt) {
            join(thread);
        }
    }

    /// Waits for all calls. Whoever calls this must not hold up the channel their results go to.
    pub(crate) fn join_all(&mut self) {
        self.threads.drain().for_each(|(_, thread)| join(thread));
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a dialling thread panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::wake::tests::outbox;

    struct Scripted;

    impl Connect for Scripted {
        fn connect(&self, address: &str) -> io::Result<OwnedFd> {
            match address {
                "panic" => panic!("host bug"),
                "fail" => Err(io::ErrorKind::ConnectionRefused.into()),
                _ => Ok(UnixStream::pair()?.0.into()),
            }
        }
    }

    #[test]
    fn results_come_back_with_their_attempt_and_panics_are_failures() {
        let (_poll, outbox, receiver) = outbox();
        let mut dialer = Dialer::new(Arc::new(Scripted), outbox, Purpose::Raft);
        for (address, ok) in [("panic", false), ("fail", false), ("good", true)] {
            let attempt = dialer.dial(NodeId(7), address.to_owned()).unwrap();
            let Ok(Completion::Dialled(dialled)) = receiver.recv_timeout(Duration::from_secs(5)) else {
                panic!("no result");
            };
            assert_eq!((dialled.peer, dialled.attempt), (NodeId(7), attempt));
            assert_eq!(dialled.result.is_ok(), ok, "{address}");
            dialer.finished(attempt);
            assert!(dialer.threads.is_empty());
        }
    }

    #[test]
    fn joining_works_when_nobody_reads_the_results() {
        let (_poll, outbox, receiver) = outbox();
        let mut dialer = Dialer::new(Arc::new(Scripted), outbox, Purpose::Raft);
        for _ in 0..3 {
            dialer.dial(NodeId(7), "good".to_owned()).unwrap();
        }
        drop(receiver);
        dialer.join_all();
    }
}
