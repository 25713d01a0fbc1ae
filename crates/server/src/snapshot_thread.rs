//! The thread that writes and reads snapshot files, at low priority and in slices, so that nobody waits for it.
//!
//! It holds clones of page tables, never a lock: a snapshot of any size stalls neither SQL nor the log.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use raft_glue::SnapshotMetadata;
use raft_glue::disk::{self, OsDisk};

use crate::core::{SnapshotDone, SnapshotJob};
use crate::options::LiveOptions;
use crate::snapshot_work;
use crate::threads;
use crate::wake::{Completion, Outbox, panic_text};

/// Jobs that may wait: one write, and a read for each peer that lacks too much.
const MAX_QUEUED: usize = 64;
/// Runs for so long before it leaves the processor to others.
const TURN: Duration = Duration::from_millis(1);
/// Added to the thread's nice value.
const NICENESS: i32 = 10;

/// What it does.
#[derive(Debug)]
enum Job {
    Snapshot(SnapshotJob),
    TrimMemory,
}

/// The loop's end.
#[derive(Debug)]
pub(crate) struct SnapshotThread {
    jobs: Sender<Job>,
    disk: OsDisk,
    /// What was written, or is being written, and not published yet.
    unpublished: Option<SnapshotMetadata>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl SnapshotThread {
    /// Starts the thread.
    pub(crate) fn start(disk: OsDisk, live: Arc<LiveOptions>, outbox: Outbox) -> io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::bounded(MAX_QUEUED);
        let stopping = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stopping);
        let thread_disk = disk.clone();
        let thread =
            threads::spawn("dqlite-snapshot", move || main(&thread_disk, &live, &queue, &stopped, &outbox))?;
        Ok(Self { jobs, disk, unpublished: None, stopping, thread })
    }

    /// Queues a job; one that there is no room for fails at once, with the answer returned.
    pub(crate) fn submit(&mut self, job: SnapshotJob) -> Result<(), SnapshotDone> {
        if let SnapshotJob::Write { metadata, .. } = &job {
            self.unpublished = Some(metadata.clone());
        }
        let (TrySendError::Full(refused) | TrySendError::Disconnected(refused)) =
            match self.jobs.try_send(Job::Snapshot(job)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
        let reason = "the snapshot thread is busy".to_owned();
        match refused {
            Job::Snapshot(SnapshotJob::Write { metadata, .. }) => {
                Err(SnapshotDone::Written { metadata, result: Err(reason) })
            }
            Job::Snapshot(SnapshotJob::Read { to, metadata }) => {
                Err(SnapshotDone::Read { to, metadata, result: Err(reason) })
            }
            Job::TrimMemory => Ok(()),
        }
    }

    /// Gives back what the allocator keeps for later, when there is time for it.
    pub(crate) fn trim_memory(&self) {
        // Without room there is enough to do; the next large request asks again.
        let _ = self.jobs.try_send(Job::TrimMemory);
    }

    /// The snapshot written last belongs to the log from now on.
    pub(crate) fn published(&mut self) {
        self.unpublished = None;
    }

    /// Abandons what is under way, removes what will not be published, and ends the thread. Completions must be read, or their receiver be gone, or this may
    /// wait for ever.
    pub(crate) fn join(self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the snapshot thread panicked");
        }
        if let Some(metadata) = self.unpublished
            && let Err(error) = disk::discard_snapshot(&self.disk, &metadata)
        {
            tracing::warn!(%error, "an unfinished snapshot was left behind; the next start removes it");
        }
    }
}

fn main(disk: &OsDisk, live: &LiveOptions, queue: &Receiver<Job>, stopping: &AtomicBool, outbox: &Outbox) {
    // On Linux this is a property of the calling thread only.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "the snapshot thread keeps the usual priority");
    }
    for job in queue {
        if stopping.load(Ordering::Acquire) {
            return;
        }
        let job = match job {
            Job::Snapshot(job) => job,
            Job::TrimMemory => {
                vfs::trim_memory();
                continue;
            }
        };
        match catch_unwind(AssertUnwindSafe(|| {
            let mut took_turn = Instant::now();
            let goes_on = || {
                // A thread that becomes ready does not always take the processor from one of lower priority. To leave it
                // costs more than what was used of it, so not after each slice.
                if took_turn.elapsed() >= TURN {
                    std::thread::yield_now();
                    took_turn = Instant::now();
                }
                !stopping.load(Ordering::Acquire)
            };
            snapshot_work::run(disk, job, live.snapshot_compression(), now_ms(), goes_on)
        })) {
            Ok(done) => outbox.send(Completion::Snapshot(done)),
            Err(payload) => {
                let text = panic_text(&*payload);
                outbox.send(Completion::Panicked(format!("the snapshot thread panicked: {text}")));
            }
        }
    }
}

/// Milliseconds since the epoch; they become part of the file's name.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(0)
}
