//! Two threads that take turns at the loop.
//!
//! To hand a statement to another thread and its result back takes longer than most statements do. So the thread that has
//! the loop runs them itself: it puts the loop down, runs a job, and takes the loop up again. The other one watches. It
//! takes up a loop that has lain for [`PATIENCE`], so that a long statement delays neither heartbeats nor anybody's
//! request; the first one watches when its statement has ended. Until then, and in a process whose SQLite runs on one
//! thread only, all jobs go to the executor. So do readers' jobs while they are worth the way there, because readers can
//! run side by side, which writers of one database cannot.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Events;

use crate::core::JobClass;
use crate::event_loop::EventLoop;
use crate::executor::run_job;
use crate::threads;
use crate::wake::{Outbox, panic_text};

/// How long a job may keep the loop waiting.
const PATIENCE: Duration = Duration::from_millis(1);
/// How long a thread whose job took longer does not watch, so that jobs go to the executor: it is unlikely to be the only
/// such job.
const REST: Duration = Duration::from_millis(50);
/// A reader's job that takes longer than this is worth the way to the executor.
const BRIEF: Duration = Duration::from_micros(100);
/// How long jobs are run, if there are several, before the loop has its next turn.
const SHARE: Duration = Duration::from_micros(200);
/// Events taken from the kernel at a time.
const MAX_EVENTS: usize = 1024;

/// The two threads.
#[derive(Debug)]
pub(crate) struct Crew {
    threads: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// For what comes of a job whose thread has lost the loop over it.
    outbox: Outbox,
}

#[derive(Debug)]
struct State {
    /// The loop, while its thread runs a job.
    put_down: Option<Box<EventLoop>>,
    /// How often it was put down.
    times: u64,
    watcher: Watcher,
    /// The loop is being closed.
    ended: bool,
}

/// What the thread that does not have the loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watcher {
    /// Is not there: runs a job that took long, or has yet to begin.
    Away,
    /// Looks again within [`PATIENCE`].
    Watches,
    /// Has to be woken when the loop is put down.
    Sleeps,
    /// Has ended.
    Gone,
}

impl Crew {
    /// Starts both; one begins with the loop.
    pub(crate) fn start(event_loop: EventLoop, outbox: Outbox) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(outbox));
        let watching = Arc::clone(&shared);
        let watcher = spawn(move || {
            if let Some(event_loop) = watching.watch() {
                watching.work(event_loop);
            }
        })?;
        // Closed by whoever has it in the end, which is this thread if there is no other.
        let start = Arc::new(Mutex::new(Some(Box::new(event_loop))));
        let handed = Arc::clone(&start);
        let working = Arc::clone(&shared);
        let take = |start: &Mutex<Option<_>>| start.lock().unwrap_or_else(PoisonError::into_inner).take();
        let attendant = spawn(move || {
            if let Some(event_loop) = take(&handed) {
                working.work(event_loop);
            }
        });
        match attendant {
            Ok(attendant) => Ok(Self { threads: [watcher, attendant] }),
            Err(error) => {
                if let Some(event_loop) = take(&start) {
                    shared.close(event_loop);
                }
                Err(error)
            }
        }
    }

    /// Waits until the loop has ended and is closed.
    pub(crate) fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a loop thread panicked while it was closing");
            }
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    threads::spawn_for_sql("dqlite-loop", work)
}

impl Shared {
    fn new(outbox: Outbox) -> Self {
        let state = State { put_down: None, times: 0, watcher: Watcher::Away, ended: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), outbox }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Life of a thread from when it has the loop until the loop has ended.
    fn work(&self, event_loop: Box<EventLoop>) {
        let mut next = Some(event_loop);
        while let Some(event_loop) = next {
            if let Some(ended) = self.attend(event_loop) {
                return self.close(ended);
            }
            self.rest();
            next = self.watch();
        }
    }

    /// Runs the loop until it has ended, or until somebody else has it. A panic ends it, wherever it happens: a loop that
    /// nobody has and nobody closes would leave the other thread, and whoever stops the node, waiting for ever.
    fn attend(&self, event_loop: Box<EventLoop>) -> Option<Box<EventLoop>> {
        let mut events = Events::with_capacity(MAX_EVENTS);
        let mut held = Some(event_loop);
        loop {
            let round = AssertUnwindSafe(|| {
                let goes_on = held.as_mut()?.turn(&mut events);
                if goes_on {
                    self.run_jobs(&mut held);
                }
                Some(goes_on)
            });
            match catch_unwind(round) {
                Ok(Some(true)) => {}
                Ok(Some(false) | None) => return held,
                Err(payload) => {
                    let reason = panic_text(&*payload);
                    tracing::error!(reason, "the loop of a node panicked; the node has ended");
                    return held.or_else(|| self.take_up());
                }
            }
        }
    }

    /// Runs what the loop has for this thread; `held` is empty in the end when somebody else has the loop.
    fn run_jobs(&self, held: &mut Option<Box<EventLoop>>) {
        let first = Instant::now();
        let mut started = first;
        while let Some(job) = held.as_mut().and_then(|event_loop| event_loop.take_own_job()) {
            if let Err(unwatched) = held.take().map_or(Ok(()), |event_loop| self.put_down(event_loop)) {
                held.insert(unwatched).submit(job);
                continue;
            }
            let class = job.class();
            let completion = run_job(job);
            let Some(taken) = self.take_up() else {
                return self.outbox.send(completion);
            };
            let event_loop = held.insert(taken);
            event_loop.complete(completion);
            let ended = Instant::now();
            if class == JobClass::Reader {
                event_loop.reader_ended(ended - started <= BRIEF);
            }
            if ended - first > SHARE {
                return;
            }
            started = ended;
        }
    }

    /// Leaves the loop to the watcher, who takes it if it is not taken up again soon; gives it back when nobody watches.
    fn put_down(&self, event_loop: Box<EventLoop>) -> Result<(), Box<EventLoop>> {
        let mut state = self.lock();
        let sleeps = match state.watcher {
            Watcher::Watches => false,
            Watcher::Sleeps => true,
            Watcher::Away | Watcher::Gone => return Err(event_loop),
        };
        state.put_down = Some(event_loop);
        state.times += 1;
        state.watcher = Watcher::Watches;
        drop(state);
        if sleeps {
            self.changed.notify_all();
        }
        Ok(())
    }

    fn take_up(&self) -> Option<Box<EventLoop>> {
        self.lock().put_down.take()
    }

    /// Waits for a loop that lies too long; `None` when it has ended.
    fn watch(&self) -> Option<Box<EventLoop>> {
        let mut state = self.lock();
        state.watcher = Watcher::Watches;
        let mut seen = state.times;
        while !state.ended {
            if state.times == seen && state.put_down.is_none() {
                state.watcher = Watcher::Sleeps;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.watcher = Watcher::Watches;
                continue;
            }
            seen = state.times;
            let waited = self.changed.wait_timeout(state, PATIENCE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if timeout.timed_out()
                && state.times == seen
                && let Some(event_loop) = state.put_down.take()
            {
                state.watcher = Watcher::Away;
                return Some(event_loop);
            }
        }
        state.watcher = Watcher::Gone;
        drop(state);
        self.changed.notify_all();
        None
    }

    /// After a job that took long.
    fn rest(&self) {
        let resting = self.changed.wait_timeout_while(self.lock(), REST, |state| !state.ended);
        drop(resting);
    }

    /// The end. What the other thread still runs belongs to the loop, so it goes first.
    fn close(&self, event_loop: Box<EventLoop>) {
        self.lock().ended = true;
        self.changed.notify_all();
        event_loop.close(|| {
            let alone = self.changed.wait_while(self.lock(), |state| state.watcher != Watcher::Gone);
            drop(alone);
        });
    }
}
