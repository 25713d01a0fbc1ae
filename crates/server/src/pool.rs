//! Threads that share one queue of jobs.
//!
//! The queue has no bound of its own, since there is at most one job for each client. Threads are added on demand, up to
//! the configured number, and stay until the pool is joined.
//!
//! Those that long statements occupy are replaced, within [`limits::MAX_LONG_STATEMENTS`]: the loop looks after the pool
//! ([`Pool::look_after`]) and adds threads for jobs that wait; what is more than configured ends when its statement has.
//!
//! How many long statements run at a time is the business of [`vfs::turns`]. Their priority is as usual: what the system
//! takes off its processor may hold a mutex that others wait for, of the C library, of SQLite or of ours, and comes back
//! after seconds if its priority is low and the machine busy. One that was cancelled and goes on for long is within a
//! single instruction, where it uses nothing that anybody waits for. It gets the lowest priority, and its thread ends with
//! it, since a priority can usually not be raised again.
//!
//! Most jobs take microseconds, less than it takes to wake a thread. So no more threads are awake than there are
//! processors for, and one that is awake goes on with what has come meanwhile. A thread that waits looks after the others
//! while there is work: jobs that take long are not counted, so that nothing waits for the end of one.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};

use crate::core::limits;
use crate::executor::{Job, join, run_job};
use crate::options::LiveOptions;
use crate::spin::{self, Spin};
use crate::threads;
use crate::wake::Outbox;

/// Most threads of one pool, whatever was configured.
const MAX_THREADS: usize = 64;
/// After so long without a new job taken, those that run do not count: the next ones need threads beside them.
const PATIENCE: Duration = Duration::from_millis(1);
const OCCUPIED: Duration = Duration::from_millis(limits::OCCUPIED_MS);
const UNSTOPPABLE: Duration = Duration::from_millis(limits::UNSTOPPABLE_MS);
/// How often what runs is looked at: it may have been cancelled.
const LOOK: Duration = Duration::from_millis(500);
/// Nice value of a thread whose statement nobody wants any more, and which SQLite does not end.
const LOWEST: i32 = 19;

/// The threads and their queue.
#[derive(Debug)]
pub(crate) struct Pool<J: Job> {
    queue: Arc<Queue<J>>,
    threads: Vec<JoinHandle<()>>,
    /// Whether statements get a lower priority. Not where all others wait for them.
    lowers: bool,
    /// Source of thread numbers, shared by the pools of a node.
    names: Arc<AtomicUsize>,
    live: Arc<LiveOptions>,
    outbox: Outbox,
}

#[derive(Debug)]
struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
    /// How many threads make the best of the processors, the loop having one.
    enough: usize,
    /// Jobs added so far, for those that look without the lock.
    added: AtomicUsize,
}

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<J>,
    /// Jobs taken so far; the last one has this number.
    taken: u64,
    running: Vec<Running>,
    /// Threads that have not ended.
    threads: usize,
    /// How many of them may stay when they have been occupied.
    configured: usize,
    /// How many of the running jobs take long, and the newest of them.
    slow: usize,
    slow_until: u64,
    /// Threads that are done with a job and about to look for the next one.
    returning: usize,
    /// Threads that wait for a job.
    idle: usize,
    /// One of them was woken and is not there yet.
    waking: bool,
    /// One of them looks after the others.
    watched: bool,
    /// No job will be added; threads end when there is none left.
    closed: bool,
}

/// A job that a thread runs.
#[derive(Debug)]
struct Running {
    number: u64,
    started: Instant,
    thread: Pid,
    /// When it was first seen to be cancelled.
    cancelled_at: Option<Instant>,
    /// Whether the priority of the thread was lowered.
    lowered: bool,
    /// Not zero when its result is not wanted any more.
    cancelled: Option<Arc<AtomicU8>>,
}

impl<J> State<J> {
    fn is_crowded(&self, enough: usize) -> bool {
        self.running.len() - self.slow >= enough
    }

    fn take(&mut self) -> Option<(u64, J)> {
        let job = self.jobs.pop_front()?;
        self.taken += 1;
        let (started, thread) = (Instant::now(), rustix::thread::gettid());
        self.running.push(Running {
            number: self.taken,
            started,
            thread,
            cancelled_at: None,
            lowered: false,
            cancelled: None,
        });
        Some((self.taken, job))
    }

    fn occupied(&self, now: Instant) -> usize {
        self.running.iter().filter(|job| now.saturating_duration_since(job.started) >= OCCUPIED).count()
    }
}

impl<J> Queue<J> {
    fn new(processors: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            taken: 0,
            running: Vec::new(),
            threads: 0,
            configured: 1,
            slow: 0,
            slow_until: 0,
            returning: 0,
            idle: 0,
            waking: false,
            watched: false,
            closed: false,
        };
        let enough = processors.saturating_sub(1).max(1);
        Self { state: Mutex::new(state), changed: Condvar::new(), enough, added: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job; gives the number of those that are not done.
    fn push(&self, job: J) -> usize {
        let mut state = self.lock();
        state.jobs.push_back(job);
        let busy = state.running.len() + state.jobs.len();
        self.added.fetch_add(1, Ordering::Release);
        self.wake(state);
        busy
    }

    /// No job will be added.
    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Wakes a thread if there is something to do for it; it wakes the next.
    fn wake(&self, mut state: MutexGuard<'_, State<J>>) {
        let wanted = !state.is_crowded(self.enough) || !state.watched;
        let nobody_comes = state.returning == 0 && !state.waking;
        if !state.jobs.is_empty() && wanted && state.idle > 0 && nobody_comes {
            state.waking = true;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Looks for a job without holding the lock; nobody needs to be woken for one meanwhile.
    fn look<'a>(&'a self, mut state: MutexGuard<'a, State<J>>, spin: &mut Spin) -> MutexGuard<'a, State<J>> {
        state.returning += 1;
        let added = self.added.load(Ordering::Acquire);
        drop(state);
        while self.added.load(Ordering::Acquire) == added && spin.go_on() {}
        let mut state = self.lock();
        state.returning -= 1;
        state
    }

    /// The job of this number can be cancelled from elsewhere.
    fn began(&self, number: u64, cancelled: Option<Arc<AtomicU8>>) {
        if let Some(job) = self.lock().running.iter_mut().find(|job| job.number == number) {
            job.cancelled = cancelled;
        }
    }

    /// A thread is done with this job. If it may stay it will call [`Self::next`] soon.
    fn ended(&self, number: u64) -> bool {
        let mut state = self.lock();
        let index = state.running.iter().position(|job| job.number == number);
        let job = state.running.swap_remove(index.expect("a job ends once"));
        state.slow -= usize::from(number <= state.slow_until);
        let surplus = job.started.elapsed() >= OCCUPIED && state.threads > state.configured;
        if !job.lowered && !surplus {
            state.returning += 1;
            return true;
        }
        state.threads -= 1;
        self.wake(state);
        false
    }

    /// Waits for a job; `None` is the end. `again` after [`Self::ended`].
    fn next(&self, again: bool) -> Option<(u64, J)> {
        let mut state = self.lock();
        state.returning -= usize::from(again);
        let mut seen = state.taken;
        let mut spin = if again { Spin::begin() } else { Spin::default() };
        loop {
            if !state.is_crowded(self.enough)
                && let Some(job) = state.take()
            {
                self.wake(state);
                return Some(job);
            }
            if state.jobs.is_empty() && !state.closed && spin.go_on() {
                state = self.look(state, &mut spin);
                continue;
            }
            if state.jobs.is_empty() && state.closed {
                // Those that went on waiting when the queue was closed, as others were to do the rest.
                self.changed.notify_all();
                return None;
            }
            state.idle += 1;
            if !state.watched && (!state.jobs.is_empty() || state.taken != seen) {
                seen = state.taken;
                state.watched = true;
                let waited = self.changed.wait_timeout(state, PATIENCE);
                let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = guard;
                state.watched = false;
                if timeout.timed_out() && state.taken == seen {
                    state.slow = state.running.len();
                    state.slow_until = state.taken;
                }
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle -= 1;
            state.waking = false;
        }
    }
}

impl<J: Job> Pool<J> {
    /// Starts the first thread.
    pub(crate) fn start(
        names: Arc<AtomicUsize>,
        live: Arc<LiveOptions>,
        outbox: Outbox,
        lowers: bool,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(spin::processors()));
        let mut pool = Self { queue, threads: Vec::new(), lowers, names, live, outbox };
        pool.add_thread()?;
        Ok(pool)
    }

    fn add_thread(&mut self) -> io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let outbox = self.outbox.clone();
        let name = format!("dqlite-sql-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let thread = threads::spawn_for_sql(name, move || {
            let mut again = false;
            while let Some((number, job)) = queue.next(again) {
                queue.began(number, job.cancelled_flag());
                // What the loop does not take any more is dropped where SQLite may be called.
                again = vfs::turns::run(J::kind(job.class()), || {
                    let completion = run_job(job);
                    // Before the loop hears of it and has the next job.
                    let stays = queue.ended(number);
                    outbox.send(completion);
                    stays
                });
                if !again {
                    return;
                }
            }
        })?;
        self.threads.push(thread);
        self.queue.lock().threads += 1;
        Ok(())
    }

    fn configured(&self) -> usize {
        usize::try_from(self.live.pool_thread_count()).unwrap_or(MAX_THREADS).clamp(1, MAX_THREADS)
    }

    /// Queues a job.
    pub(crate) fn submit(&mut self, job: J) {
        let busy = self.queue.push(job);
        let threads = self.queue.lock().threads;
        if busy > threads && threads < self.configured() {
            self.add_threads(1);
        }
    }

    fn add_threads(&mut self, count: usize) {
        for _ in 0..count {
            if let Err(error) = self.add_thread() {
                tracing::warn!(%error, "no further SQL thread; going on with fewer");
                return;
            }
        }
    }

    /// Replaces threads that are occupied while jobs wait, and lowers the priority of those that cannot be stopped. Says when
    /// to look again, if that does not depend on the next job.
    pub(crate) fn look_after(&mut self, now: Instant) -> Option<Instant> {
        let configured = self.configured();
        let mut state = self.queue.lock();
        state.configured = configured;
        let mut next: Option<Instant> = None;
        let mut look_at = |time: Instant| next = Some(next.map_or(time, |next| next.min(time)));
        for job in state.running.iter_mut().filter(|job| self.lowers && !job.lowered) {
            look_at(now + LOOK);
            if job.cancelled.as_ref().is_none_or(|flag| flag.load(Ordering::Relaxed) == 0) {
                continue;
            }
            let cancelled_at = *job.cancelled_at.get_or_insert(now);
            if now.saturating_duration_since(cancelled_at) >= UNSTOPPABLE {
                // On Linux this is a property of the one thread.
                if let Err(error) = setpriority_process(Some(job.thread), LOWEST) {
                    tracing::debug!(%error, "a statement that cannot be stopped keeps its priority");
                }
                job.lowered = true;
            }
        }
        let waiting = state.jobs.len().saturating_sub(state.idle + state.returning);
        if !state.jobs.is_empty() {
            look_at(now + OCCUPIED);
        }
        let most = configured + state.occupied(now).min(limits::MAX_LONG_STATEMENTS);
        let count = waiting.min(most.saturating_sub(state.threads));
        drop(state);
        for index in (0..self.threads.len()).rev() {
            if self.threads[index].is_finished() {
                join(self.threads.swap_remove(index));
            }
        }
        self.add_threads(count);
        next
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
        self.queue.close();
        self.threads.into_iter().for_each(join);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// Threads that run jobs, which are how long they take, and tell the number of each.
    fn threads(
        queue: &Arc<Queue<Duration>>,
        count: usize,
    ) -> (Vec<JoinHandle<()>>, mpsc::Receiver<(u64, Duration)>) {
        let (sender, told) = mpsc::channel();
        let run = |_| {
            let (queue, sender) = (Arc::clone(queue), sender.clone());
            std::thread::spawn(move || {
                let mut again = false;
                while let Some((number, job)) = queue.next(again) {
                    std::thread::sleep(job);
                    assert!(queue.ended(number), "the configured number of threads stays");
                    sender.send((number, job)).unwrap();
                    again = true;
                }
            })
        };
        queue.lock().threads = count;
        queue.lock().configured = count;
        ((0..count).map(run).collect(), told)
    }

    fn wait(told: &mpsc::Receiver<(u64, Duration)>) -> Duration {
        told.recv_timeout(Duration::from_secs(20)).unwrap().1
    }

    #[test]
    fn all_threads_end_although_jobs_were_queued_when_the_queue_was_closed() {
        for pause_us in [0, 100, 1000, 3000] {
            let queue = Arc::new(Queue::new(2));
            let (threads, told) = threads(&queue, 4);
            for _ in 0..6 {
                queue.push(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_micros(pause_us));
            queue.close();
            for _ in 0..6 {
                assert_eq!(wait(&told), Duration::from_millis(2));
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn nothing_waits_for_the_end_of_a_long_job() {
        let queue = Arc::new(Queue::new(2));
        let (threads, told) = threads(&queue, 3);
        let long = Duration::from_secs(2);
        queue.push(long);
        let started = Instant::now();
        for _ in 0..300 {
            queue.push(Duration::ZERO);
            assert_eq!(wait(&told), Duration::ZERO);
        }
        assert!(started.elapsed() < long, "{:?}", started.elapsed());
        queue.push(long);
        queue.push(Duration::ZERO);
        assert_eq!(wait(&told), Duration::ZERO, "two of three threads have long jobs");
        queue.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn short_jobs_are_left_to_the_thread_that_is_awake() {
        let queue = Queue::new(2);
        queue.push(Duration::ZERO);
        queue.push(Duration::ZERO);
        let (number, _) = queue.next(false).unwrap();
        assert!(queue.lock().is_crowded(queue.enough));
        queue.ended(number);
        assert!(queue.next(true).is_some());
    }
}
