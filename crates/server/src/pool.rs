//! Threads that share one queue of jobs.
//!
//! The queue has no bound of its own, since there is at most one job for each client. Threads are added on demand, up to
//! the configured number, and stay until the pool is joined.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::executor::{Job, join, run_job};
use crate::options::LiveOptions;
use crate::wake::Outbox;

/// Most threads of one pool, whatever was configured.
const MAX_THREADS: usize = 64;

/// The threads and their queue.
#[derive(Debug)]
pub(crate) struct Pool<J: Job> {
    queue: Arc<Queue<J>>,
    threads: Vec<JoinHandle<()>>,
    /// Source of thread numbers, shared by the pools of a node.
    names: Arc<AtomicUsize>,
    live: Arc<LiveOptions>,
    outbox: Outbox,
}

#[derive(Debug)]
struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<J>,
    running: usize,
    /// No job will be added; threads end when there is none left.
    closed: bool,
}

impl<J> Queue<J> {
    fn new() -> Self {
        let state = State { jobs: VecDeque::new(), running: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` is the end.
    fn next(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.running += 1;
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<J: Job> Pool<J> {
    /// Starts the first thread.
    pub(crate) fn start(names: Arc<AtomicUsize>, live: Arc<LiveOptions>, outbox: Outbox) -> io::Result<Self> {
        let mut pool = Self { queue: Arc::new(Queue::new()), threads: Vec::new(), names, live, outbox };
        pool.add_thread()?;
        Ok(pool)
    }

    fn add_thread(&mut self) -> io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let outbox = self.outbox.clone();
        let name = format!("dqlite-sql-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            while let Some(job) = queue.next() {
                let completion = run_job(job);
                queue.lock().running -= 1;
                outbox.send(completion);
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Queues a job.
    pub(crate) fn submit(&mut self, job: J) {
        let mut state = self.queue.lock();
        state.jobs.push_back(job);
        let busy = state.running + state.jobs.len();
        drop(state);
        self.queue.changed.notify_one();
        let configured = usize::try_from(self.live.pool_thread_count()).unwrap_or(MAX_THREADS);
        if busy > self.threads.len()
            && self.threads.len() < configured.clamp(1, MAX_THREADS)
            && let Err(error) = self.add_thread()
        {
            tracing::warn!(%error, "no further SQL thread; going on with fewer");
        }
    }

    /// Takes out the jobs that were cancelled before they began.
    pub(crate) fn withdraw_cancelled(&self) -> VecDeque<J> {
        let mut state = self.queue.lock();
        let (cancelled, kept) = std::mem::take(&mut state.jobs).into_iter().partition(J::is_cancelled);
        state.jobs = kept;
        cancelled
    }

    /// Number of threads so far.
    #[cfg(test)]
    pub(crate) fn thread_count(&self) -> usize {
        self.threads.len()
    }

    /// Lets queued jobs finish and joins the threads.
    pub(crate) fn join(self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        self.threads.into_iter().for_each(join);
    }
}
