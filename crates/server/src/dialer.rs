//! Threads that call the host's connect function, which may block for as long as it likes.
//!
//! One thread for each peer being dialled, for as long as the call lasts. They are joined when their result has
//! arrived. A node that stops waits for the calls under way, but not for long ([`PATIENCE`]): nobody can end a function of
//! the host. A thread whose call goes on is left behind. All that it touches is its own or shared: the address, the place
//! for the descriptor, the connector, and the outbox, which drops what comes of the call and so closes the connection.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use mio::Registry;
use raft_glue::NodeId;

use crate::connector::Connect;
use crate::registration::{Tokens, register};
use crate::socket::{PEER_USER_TIMEOUT_MS, Socket};
use crate::threads;
use crate::wake::{Completion, Outbox, panic_text};

/// How long a node that stops waits for calls under way, all of them together. Most return sooner, and then the host may
/// take back what its function uses once stop has returned.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

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
    /// Each thread holds a clone and drops it last.
    calling: Sender<Never>,
    /// Is disconnected when no thread and no [`Self::calling`] is left.
    all_returned: Receiver<Never>,
    next: u64,
}

/// Is never sent.
#[derive(Debug)]
enum Never {}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Dialer {
    pub(crate) fn new(connect: Arc<dyn Connect>, outbox: Outbox, purpose: Purpose) -> Self {
        let (calling, all_returned) = crossbeam_channel::bounded(0);
        Self { connect, outbox, purpose, threads: HashMap::new(), calling, all_returned, next: 0 }
    }

    /// Calls the connect function on a new thread; the result arrives as [`Completion::Dialled`].
    pub(crate) fn dial(&mut self, peer: NodeId, address: String) -> io::Result<Attempt> {
        let attempt = Attempt(self.next);
        self.next += 1;
        let connect = Arc::clone(&self.connect);
        let outbox = self.outbox.clone();
        let purpose = self.purpose;
        let calling = self.calling.clone();
        let thread = threads::spawn("dqlite-dial", move || {
            let result = catch_unwind(AssertUnwindSafe(|| connect.connect(&address)))
                .unwrap_or_else(|payload| Err(io::Error::other(panic_text(&*payload))));
            drop(connect);
            outbox.send(Completion::Dialled(Dialled { purpose, peer, attempt, result }));
            drop(outbox);
            drop(calling);
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

    /// Waits for the calls under way until `deadline`, and leaves those behind that go on. Whoever calls this must not hold
    /// up the channel their results go to.
    pub(crate) fn close(self, deadline: Instant) {
        let Self { connect, outbox, threads, calling, all_returned, .. } = self;
        drop((connect, outbox, calling));
        let all_ended = match all_returned.recv_deadline(deadline) {
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Ok(never) => match never {},
        };
        let is_over = |thread: &JoinHandle<()>| all_ended || thread.is_finished();
        let (over, left): (Vec<_>, Vec<_>) = threads.into_values().partition(is_over);
        over.into_iter().for_each(join);
        if !left.is_empty() {
            tracing::warn!(
                calls = left.len(),
                "connect functions of the host go on behind the stop of their node"
            );
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a dialling thread panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::tests::outbox;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

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
    fn closing_works_when_nobody_reads_the_results() {
        let (_poll, outbox, receiver) = outbox();
        let mut dialer = Dialer::new(Arc::new(Scripted), outbox, Purpose::Raft);
        for _ in 0..3 {
            dialer.dial(NodeId(7), "good".to_owned()).unwrap();
        }
        drop(receiver);
        let begun = Instant::now();
        dialer.close(begun + Duration::from_secs(60));
        assert!(begun.elapsed() < Duration::from_secs(30), "it waited although all calls had returned");
    }

    /// Says when it was entered, and returns one end of a pair once the test lets it.
    struct Blocking {
        entered: Sender<()>,
        returns: Receiver<UnixStream>,
    }

    impl Connect for Blocking {
        fn connect(&self, _: &str) -> io::Result<OwnedFd> {
            self.entered.send(()).unwrap();
            Ok(self.returns.recv().unwrap().into())
        }
    }

    #[test]
    fn a_call_that_goes_on_is_left_behind_and_its_connection_closed() {
        let (_poll, outbox, receiver) = outbox();
        let (enter, entered) = crossbeam_channel::bounded(1);
        let (let_return, returns) = crossbeam_channel::bounded(1);
        let connect = Arc::new(Blocking { entered: enter, returns });
        let mut dialer = Dialer::new(connect.clone(), outbox, Purpose::Raft);
        dialer.dial(NodeId(7), "anywhere".to_owned()).unwrap();
        entered.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(receiver);
        dialer.close(Instant::now() + Duration::from_millis(20));
        assert_eq!(Arc::strong_count(&connect), 2, "the call still has what it uses");
        let (given, mut other) = UnixStream::pair().unwrap();
        let_return.send(given).unwrap();
        assert_eq!(other.read(&mut [0]).unwrap(), 0, "the connection is closed");
    }
}
