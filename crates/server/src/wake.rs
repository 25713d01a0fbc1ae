//! How other threads reach the loop thread: a bounded channel of completions and one wake-up.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use mio::{Registry, Token, Waker};
use wire_protocol::{Configuration, NodeId};

use crate::core::{DiskDone, SnapshotDone, SqlDone};
use crate::dialer::Dialled;

/// Completions that may wait for the loop; a thread with one more waits itself.
const MAX_COMPLETIONS: usize = 4096;

/// The cluster as a node knows it.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Who leads, if that is known.
    pub leader: Option<(NodeId, String)>,
    /// The members; a spare may know less than all.
    pub configuration: Configuration,
}

/// Something another thread has finished.
#[derive(Debug)]
pub(crate) enum Completion {
    /// An executor ran a job.
    Sql(SqlDone),
    /// The disk thread did a job.
    Disk(DiskDone),
    /// The snapshot thread did a job.
    Snapshot(SnapshotDone),
    /// A connect function returned.
    Dialled(Dialled),
    /// A job panicked: the node cannot go on.
    Panicked(String),
    /// The host wants leadership and vote to go to others, and waits for the outcome.
    Handover(Sender<Result<(), String>>),
    /// The host wants to know who leads and who is a member, as this node knows it.
    Consult(Sender<ClusterView>),
    /// The host wants the node to stop.
    Stop,
}

/// Wakes the loop, with one system call for any number of calls between two turns.
#[derive(Clone, Debug)]
pub(crate) struct Notifier {
    waker: Arc<Waker>,
    pending: Arc<AtomicBool>,
}

impl Notifier {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self { waker: Arc::new(Waker::new(registry, token)?), pending: Arc::default() })
    }

    /// Makes the loop run a turn.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            // The eventfd cannot fail for any reason but a full counter, which means that it is readable.
            tracing::error!(%error, "waking the loop failed");
        }
    }

    /// Called by the loop before it looks into the channel, so that whatever is sent later wakes it again.
    pub(crate) fn acknowledge(&self) {
        self.pending.swap(false, Ordering::AcqRel);
    }
}

/// The sending end, for threads.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: Sender<Completion>,
    notifier: Notifier,
}

impl Outbox {
    /// An outbox and the end the loop reads.
    pub(crate) fn new(notifier: Notifier) -> (Self, Receiver<Completion>) {
        let (sender, receiver) = crossbeam_channel::bounded(MAX_COMPLETIONS);
        (Self { sender, notifier }, receiver)
    }

    /// Hands a completion to the loop. When the loop has ended already the completion is dropped: nobody needs it.
    pub(crate) fn send(&self, completion: Completion) {
        if self.sender.send(completion).is_ok() {
            self.notifier.wake();
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a message".to_owned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    /// An outbox whose completions the test reads itself.
    pub(crate) fn outbox() -> (Poll, Outbox, Receiver<Completion>) {
        let poll = Poll::new().unwrap();
        let notifier = Notifier::new(poll.registry(), Token(0)).unwrap();
        let (outbox, receiver) = Outbox::new(notifier);
        (poll, outbox, receiver)
    }

    #[test]
    fn each_turn_is_woken_once_and_none_is_missed() {
        let (mut poll, outbox, receiver) = outbox();
        let mut events = Events::with_capacity(8);
        for _ in 0..3 {
            outbox.send(Completion::Stop);
            outbox.send(Completion::Stop);
            poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert!(!events.is_empty());
            outbox.notifier.acknowledge();
            assert_eq!(receiver.try_iter().count(), 2);
        }
    }

    #[test]
    fn sending_after_the_loop_has_gone_is_harmless() {
        let (_poll, outbox, receiver) = outbox();
        drop(receiver);
        outbox.send(Completion::Stop);
    }
}
