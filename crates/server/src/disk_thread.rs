//! The thread that owns the log: everything queued is written with one call, and so with one write and one sync.
//!
//! The loop never waits for it. Jobs that the channel has no room for stay with the loop, which stops reading its
//! sockets until there is room again.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use raft_glue::disk::Space;
use raft_glue::{LogIndex, Term};

use crate::core::DiskJob;
use crate::log_worker::{Log, LogJob, LogOutcome, LogWorker};
use crate::threads;
use crate::wake::{Completion, Outbox, panic_text};

/// Jobs that may wait in the channel.
const MAX_QUEUED: usize = 256;
/// How often a full disk is asked for space, and when it is asked for the first time.
const NO_SPACE_RETRY: Duration = Duration::from_millis(500);

/// Wait for a job when nothing else is to be done; its length means nothing.
const IDLE: Duration = Duration::from_secs(3600);

/// The loop's end.
#[derive(Debug)]
pub(crate) struct DiskThread {
    jobs: Sender<LogJob>,
    /// What the channel had no room for, in order.
    overflow: VecDeque<LogJob>,
    /// Dropped to end the wait for space.
    stopping: Sender<()>,
    thread: JoinHandle<()>,
}

impl DiskThread {
    /// Starts the thread, which takes over the log.
    pub(crate) fn start(log: impl Log, outbox: Outbox) -> io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::bounded(MAX_QUEUED);
        let (stopping, stopped) = crossbeam_channel::bounded(0);
        let thread = threads::spawn("dqlite-disk", move || main(log, &queue, &stopped, &outbox))?;
        Ok(Self { jobs, overflow: VecDeque::new(), stopping, thread })
    }

    /// Queues a job; never waits.
    pub(crate) fn submit(&mut self, job: DiskJob) {
        self.overflow.push_back(LogJob::Answered(job));
        self.retry();
    }

    /// Tells the log how far it is committed, see [`LogStore::committed`].
    pub(crate) fn submit_committed(&mut self, index: LogIndex, term: Term) {
        self.overflow.push_back(LogJob::Committed(index, term));
        self.retry();
    }

    /// Moves into the channel what it has room for. Room appears with every completion.
    pub(crate) fn retry(&mut self) {
        while let Some(job) = self.overflow.pop_front() {
            match self.jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.overflow.push_front(job);
                    return;
                }
                // The thread ends by itself only after a panic, and has reported it.
                Err(TrySendError::Disconnected(_)) => self.overflow.clear(),
            }
        }
    }

    /// Whether the loop should take in no more work for now.
    pub(crate) fn is_full(&self) -> bool {
        !self.overflow.is_empty()
    }

    /// Lets the thread finish what is queued, close the log and end. Completions must be read, or their receiver be
    /// gone, or this may wait for ever.
    pub(crate) fn join(self) {
        let Self { jobs, overflow, stopping, thread } = self;
        drop(stopping);
        for job in overflow {
            if jobs.send(job).is_err() {
                break;
            }
        }
        drop(jobs);
        if thread.join().is_err() {
            tracing::error!("the disk thread panicked");
        }
    }
}

fn main(log: impl Log, queue: &Receiver<LogJob>, stopped: &Receiver<()>, outbox: &Outbox) {
    let work = AssertUnwindSafe(|| {
        let mut worker = LogWorker::new(log);
        let mut tend_at = Some(Instant::now() + NO_SPACE_RETRY);
        loop {
            let wait = tend_at.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
            match queue.recv_timeout(wait) {
                Ok(first) => {
                    worker.push(first);
                    queue.try_iter().take(MAX_QUEUED).for_each(|job| worker.push(job));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if tend_at.is_some_and(|at| at <= Instant::now()) {
                worker.push(LogJob::Tend);
                tend_at = None;
            }
            run_all(&mut worker, stopped, outbox);
            if worker.space() == Space::Low && tend_at.is_none() {
                tend_at = Some(Instant::now() + NO_SPACE_RETRY);
            }
        }
        if let Err(error) = worker.into_log().close() {
            tracing::error!(%error, "closing the log failed; it is checked at the next start");
        }
    });
    if let Err(payload) = catch_unwind(work) {
        outbox.send(Completion::Panicked(format!("the disk thread panicked: {}", panic_text(&*payload))));
    }
}

/// Works off what is queued. A full disk has changed nothing, so the same steps are tried until there is space again.
/// Meanwhile nothing is acknowledged: the leader's clients wait, a follower answers no append.
fn run_all(worker: &mut LogWorker<impl Log>, stopped: &Receiver<()>, outbox: &Outbox) {
    while let Some(outcome) = worker.run_next() {
        let done = match outcome {
            LogOutcome::Done(done) => Some(done),
            LogOutcome::Silent => None,
            LogOutcome::NoSpace(error) => {
                if stopped.recv_timeout(NO_SPACE_RETRY) == Err(RecvTimeoutError::Timeout) {
                    continue;
                }
                worker.give_up(error)
            }
        };
        done.into_iter().for_each(|done| outbox.send(Completion::Disk(done)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use raft_glue::disk::DiskError;
    use raft_glue::{Configuration, Persist, SnapshotMetadata, Term};

    use super::*;
    use crate::core::DiskDone;
    use crate::wake::tests::outbox;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// Records what reached it. The first `refusals` persists find no space, and the first `shortages` looks no reserve.
    #[derive(Default)]
    struct Recorder {
        calls: Vec<Vec<u64>>,
        refusals: usize,
        shortages: usize,
        closed: bool,
    }

    struct TestLog {
        shared: Arc<Mutex<Recorder>>,
        /// Each call says that it has begun,
        begun: Sender<()>,
        /// and waits for the end of this channel.
        gate: Receiver<()>,
    }

    impl Log for TestLog {
        fn persist(&mut self, steps: &[Persist]) -> Result<(), DiskError> {
            let _ = self.begun.send(());
            let _ = self.gate.recv();
            let mut shared = self.shared.lock().unwrap();
            if shared.refusals > 0 {
                shared.refusals -= 1;
                return Err(DiskError::NoSpace { name: "open-1".to_owned(), bytes: 1 });
            }
            shared.calls.push(steps.iter().map(|step| step.number).collect());
            Ok(())
        }

        fn tend(&mut self) -> Space {
            let mut shared = self.shared.lock().unwrap();
            let is_low = shared.shortages > 0;
            shared.shortages = shared.shortages.saturating_sub(1);
            if is_low { Space::Low } else { Space::Ample }
        }

        fn run(&mut self, job: DiskJob) -> DiskDone {
            match job {
                DiskJob::SnapshotTaken(metadata) => {
                    self.shared.lock().unwrap().calls.push(Vec::new());
                    DiskDone::SnapshotTaken(metadata, Ok(()))
                }
                other => panic!("{other:?}"),
            }
        }

        fn committed(&mut self, index: LogIndex, _: Term) -> Result<(), DiskError> {
            self.shared.lock().unwrap().calls.push(vec![1000 + index.0]);
            Ok(())
        }

        fn close(self) -> Result<(), DiskError> {
            self.shared.lock().unwrap().closed = true;
            Ok(())
        }
    }

    fn step(number: u64) -> DiskJob {
        DiskJob::Persist(Persist { number, ..Persist::default() })
    }

    struct Fixture {
        disk: DiskThread,
        /// Dropped to let persists go on.
        gate: Sender<()>,
        begun: Receiver<()>,
        shared: Arc<Mutex<Recorder>>,
        completions: Receiver<Completion>,
        _poll: mio::Poll,
    }

    fn start(refusals: usize) -> Fixture {
        let (poll, outbox, completions) = outbox();
        let shared = Arc::new(Mutex::new(Recorder { refusals, ..Recorder::default() }));
        let (gate, closed) = crossbeam_channel::bounded(0);
        let (begin, begun) = crossbeam_channel::unbounded();
        let log = TestLog { shared: Arc::clone(&shared), begun: begin, gate: closed };
        let disk = DiskThread::start(log, outbox).unwrap();
        Fixture { disk, gate, begun, shared, completions, _poll: poll }
    }

    fn persisted_number(receiver: &Receiver<Completion>) -> u64 {
        match receiver.recv_timeout(DEADLINE) {
            Ok(Completion::Disk(DiskDone::Persisted(Ok(number)))) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn steps_that_wait_are_persisted_together_and_answered_once() {
        let Fixture { mut disk, gate, begun, shared, completions: receiver, _poll } = start(0);
        disk.submit(step(1));
        begun.recv_timeout(DEADLINE).unwrap();
        for number in 2..=4 {
            disk.submit(step(number));
        }
        let metadata = SnapshotMetadata {
            index: LogIndex(3),
            term: Term(1),
            configuration: Configuration::default(),
            configuration_index: LogIndex(1),
        };
        disk.submit(DiskJob::SnapshotTaken(metadata));
        disk.submit(step(5));
        disk.submit_committed(LogIndex(5), Term(1));
        disk.submit(step(6));
        drop(gate);
        assert_eq!(persisted_number(&receiver), 1);
        assert_eq!(persisted_number(&receiver), 4);
        assert!(matches!(
            receiver.recv_timeout(DEADLINE),
            Ok(Completion::Disk(DiskDone::SnapshotTaken(_, Ok(()))))
        ));
        assert_eq!(persisted_number(&receiver), 5);
        assert_eq!(persisted_number(&receiver), 6);
        disk.join();
        let shared = shared.lock().unwrap();
        assert_eq!(shared.calls, [vec![1], vec![2, 3, 4], vec![], vec![5], vec![1005], vec![6]]);
        assert!(shared.closed);
    }

    #[test]
    fn full_channel_keeps_the_order_and_the_rest_is_written_at_the_end() {
        let Fixture { mut disk, gate, shared, completions: receiver, _poll, .. } = start(0);
        // The thread takes at most one job and a full channel at a time.
        let count = 3 * u64::try_from(MAX_QUEUED).unwrap();
        for number in 1..=count {
            disk.submit(step(number));
        }
        assert!(disk.is_full());
        drop(gate);
        drop(receiver);
        disk.join();
        let written: Vec<u64> = shared.lock().unwrap().calls.concat();
        assert_eq!(written, (1..=count).collect::<Vec<_>>());
    }

    fn space(receiver: &Receiver<Completion>) -> Space {
        match receiver.recv_timeout(DEADLINE) {
            Ok(Completion::Disk(DiskDone::Space(space))) => space,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn full_disk_is_retried_and_a_stop_ends_the_wait() {
        let Fixture { mut disk, gate, shared, completions: receiver, _poll, .. } = start(1);
        drop(gate);
        disk.submit(step(1));
        assert_eq!(space(&receiver), Space::Low);
        assert_eq!(persisted_number(&receiver), 1);
        assert_eq!(space(&receiver), Space::Ample);
        shared.lock().unwrap().refusals = usize::MAX;
        disk.submit(step(2));
        assert_eq!(space(&receiver), Space::Low);
        disk.join();
        match receiver.recv_timeout(DEADLINE) {
            Ok(Completion::Disk(DiskDone::Persisted(Err(reason)))) => {
                assert!(reason.contains("not enough space"))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(shared.lock().unwrap().calls, [[1]]);
    }

    #[test]
    fn lack_of_a_reserve_is_told_before_anything_waits_and_looked_at_until_it_is_over() {
        let Fixture { mut disk, gate, shared, completions: receiver, _poll, .. } = start(0);
        drop(gate);
        shared.lock().unwrap().shortages = 3;
        disk.submit(step(1));
        assert_eq!(persisted_number(&receiver), 1);
        assert_eq!(space(&receiver), Space::Low);
        disk.submit(step(2));
        assert_eq!(persisted_number(&receiver), 2);
        assert_eq!(space(&receiver), Space::Ample, "nobody had to ask for it");
        assert_eq!(shared.lock().unwrap().shortages, 0);
        disk.join();
    }

    #[test]
    fn a_start_without_space_is_told_although_nothing_is_written() {
        let Fixture { disk, shared, completions: receiver, _poll, .. } = start(0);
        shared.lock().unwrap().shortages = 1;
        assert_eq!(space(&receiver), Space::Low);
        assert_eq!(space(&receiver), Space::Ample);
        disk.join();
    }
}
