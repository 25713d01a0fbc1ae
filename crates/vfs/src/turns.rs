//! Which of the statements that take long goes on, and, where SQLite runs in single-thread mode, who may call it.
//!
//! Twelve endless SELECTs on two processors leave nothing to anybody else. So a statement that has run for `FREE` needs
//! a turn from then on: there are fewer turns than processors, and who has had one for a `SLICE` gives it to the next.
//! Statements wait for turns where SQLite calls back (`check`): between two instructions of a program, between two names
//! that are resolved, between two pieces of `randomblob`. SQLite holds no mutex of the process there, and neither do we,
//! so nobody waits for one that waits. A thread that the system takes off the processor at any other place might hold one.
//!
//! In single-thread mode SQLite has no mutexes, and may be used by one thread at a time. There is one turn then, which a
//! job has from its beginning to its end, and which changes hands at the same places: connections share no state that a
//! callback could find half changed, which is why SQLite lets a callback use any connection but its own. Jobs that have
//! just come go in front of those that take long.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::threading::{ThreadingMode, threading_mode};

/// A statement that runs longer than this needs a turn.
const FREE: Duration = Duration::from_millis(5);
/// After so long a turn goes to the next statement that takes long.
const SLICE: Duration = Duration::from_millis(10);
/// After so long the only turn goes to a job that has just come.
const BRIEF: Duration = Duration::from_millis(1);
/// Statements that have waited for so long and jobs that have just come take turns: there might be such jobs for ever.
const AGE: Duration = Duration::from_millis(100);
/// How often a statement that waits looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(50);

/// What a job runs, as far as its turns depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads, compiles, opens or closes.
    Reads,
    /// Holds a database's writer lane. Has turns of its own, so that readers keep no lane busy.
    Writes,
}

/// Some turns, and who waits for one.
struct Turns {
    state: Mutex<State>,
    /// How many wait, for those that look without the lock.
    waiting: AtomicUsize,
}

struct State {
    free: usize,
    /// Jobs that have just come, in order; nobody in multi-thread mode.
    fresh: VecDeque<Arc<Waiter>>,
    /// Statements that take long, in order.
    long: VecDeque<Arc<Waiter>>,
    /// The last turn went to one that had waited for an [`AGE`], so that a job that has just come is next.
    aged: bool,
}

struct Waiter {
    thread: Thread,
    since: Instant,
    granted: AtomicBool,
}

/// The job that the thread runs.
#[derive(Clone, Copy)]
struct Run {
    turns: &'static Turns,
    /// Whether it has a turn.
    holds: bool,
    /// Whether it needs none any more, because it was interrupted and ends at its next instruction.
    exempt: bool,
    /// When it, or its turn, began.
    since: Instant,
}

thread_local! {
    static RUN: Cell<Option<Run>> = const { Cell::new(None) };
}

static READERS: LazyLock<Turns> = LazyLock::new(|| Turns::new(turn_count()));
static WRITERS: LazyLock<Turns> = LazyLock::new(|| Turns::new(turn_count()));
static SOLE: LazyLock<Turns> = LazyLock::new(|| Turns::new(1));
static SINGLE: LazyLock<bool> = LazyLock::new(|| threading_mode() == ThreadingMode::SingleThread);

/// All processors but one.
fn turn_count() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().saturating_sub(1).max(1))
}

/// Runs a job on the calling thread: all calls of SQLite for it, and the drop of what belongs to SQLite. A job within a
/// job is part of the outer one.
pub fn run<R>(kind: Kind, work: impl FnOnce() -> R) -> R {
    let single = *SINGLE;
    let turns = match kind {
        _ if single => &*SOLE,
        Kind::Reads => &*READERS,
        Kind::Writes => &*WRITERS,
    };
    turns.run(single, work)
}

/// Runs what calls SQLite outside of jobs; it may wait for some milliseconds where SQLite runs in single-thread mode.
pub fn call<R>(work: impl FnOnce() -> R) -> R {
    if *SINGLE { SOLE.run(true, work) } else { work() }
}

/// A place where the running statement can wait; `interrupted` says that it should end instead.
pub(crate) fn check(interrupted: impl Fn() -> bool) {
    let Some(mut run) = RUN.get() else { return };
    if run.exempt || (run.holds && run.turns.waiting.load(Ordering::Relaxed) == 0) {
        return;
    }
    let now = Instant::now();
    let elapsed = now - run.since;
    if run.holds {
        if !run.turns.pass_on(elapsed, now, &interrupted, &mut run) {
            return;
        }
    } else {
        if elapsed < FREE {
            return;
        }
        run.turns.acquire(&interrupted, &mut run);
    }
    run.since = Instant::now();
    RUN.set(Some(run));
}

impl Turns {
    fn new(free: usize) -> Self {
        let state = State { free, fresh: VecDeque::new(), long: VecDeque::new(), aged: false };
        Self { state: Mutex::new(state), waiting: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `at_once`: nothing is called without a turn.
    fn run<R>(&'static self, at_once: bool, work: impl FnOnce() -> R) -> R {
        /// Gives the turn back, also when the job panics.
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                if let Some(run) = RUN.take()
                    && run.holds
                {
                    let mut state = run.turns.lock();
                    run.turns.grant(&mut state, Instant::now());
                }
            }
        }
        if RUN.get().is_some() {
            return work();
        }
        let mut run = Run { turns: self, holds: false, exempt: false, since: Instant::now() };
        if at_once {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
            } else {
                let waiter = Waiter::new(run.since);
                state.fresh.push_back(Arc::clone(&waiter));
                self.waiting.fetch_add(1, Ordering::Relaxed);
                drop(state);
                waiter.wait(|| false);
                run.since = Instant::now();
            }
            run.holds = true;
        }
        RUN.set(Some(run));
        let _end = End;
        work()
    }

    /// Gives a turn to whoever is next, or keeps it for somebody to come.
    fn grant(&self, state: &mut State, now: Instant) {
        let is_aged = |waiter: &Arc<Waiter>| now.saturating_duration_since(waiter.since) >= AGE;
        state.aged = !state.aged && state.long.front().is_some_and(is_aged);
        let next = if state.aged { state.long.pop_front() } else { state.fresh.pop_front() };
        match next.or_else(|| state.long.pop_front()) {
            Some(waiter) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                waiter.granted.store(true, Ordering::Release);
                waiter.thread.unpark();
            }
            None => state.free += 1,
        }
    }

    /// Takes a turn for a statement that has run without one.
    fn acquire(&self, interrupted: &dyn Fn() -> bool, run: &mut Run) {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            run.holds = true;
            return;
        }
        self.wait(state, interrupted, run);
    }

    /// Gives the turn to the next and waits for another one, if it is time for that; says whether it was.
    fn pass_on(
        &self,
        elapsed: Duration,
        now: Instant,
        interrupted: &dyn Fn() -> bool,
        run: &mut Run,
    ) -> bool {
        if elapsed < BRIEF {
            return false;
        }
        let mut state = self.lock();
        let due = !state.fresh.is_empty() || (elapsed >= SLICE && !state.long.is_empty());
        if !due || interrupted() {
            return false;
        }
        self.grant(&mut state, now);
        run.holds = false;
        self.wait(state, interrupted, run);
        true
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, interrupted: &dyn Fn() -> bool, run: &mut Run) {
        let waiter = Waiter::new(Instant::now());
        state.long.push_back(Arc::clone(&waiter));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(state);
        run.holds = waiter.wait(interrupted);
        if run.holds {
            return;
        }
        let mut state = self.lock();
        if waiter.granted.load(Ordering::Acquire) {
            run.holds = true;
            return;
        }
        state.long.retain(|other| !Arc::ptr_eq(other, &waiter));
        if std::ptr::eq(self, &raw const *SOLE) {
            // It is about to end, but not beside another one.
            state.fresh.push_front(Arc::clone(&waiter));
            drop(state);
            run.holds = waiter.wait(|| false);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            run.exempt = true;
        }
    }
}

impl Waiter {
    fn new(since: Instant) -> Arc<Self> {
        Arc::new(Self { thread: std::thread::current(), since, granted: AtomicBool::new(false) })
    }

    /// Waits for the turn; `false` if the statement was interrupted before.
    fn wait(&self, interrupted: impl Fn() -> bool) -> bool {
        while !self.granted.load(Ordering::Acquire) {
            if interrupted() {
                return false;
            }
            std::thread::park_timeout(LOOK);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::mpsc;

    use super::*;

    fn turns(count: usize) -> &'static Turns {
        Box::leak(Box::new(Turns::new(count)))
    }

    #[test]
    fn the_only_turn_is_never_held_twice_and_new_jobs_get_it_from_long_ones() {
        let turns = turns(1);
        let (stop, inside) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let begun = Arc::new(AtomicU32::new(0));
        let long: Vec<_> = (0..6)
            .map(|_| {
                let (stop, inside, begun) = (Arc::clone(&stop), Arc::clone(&inside), Arc::clone(&begun));
                std::thread::spawn(move || {
                    turns.run(true, || {
                        begun.fetch_add(1, Ordering::SeqCst);
                        while !stop.load(Ordering::Relaxed) {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                            inside.fetch_sub(1, Ordering::SeqCst);
                            check(|| false);
                        }
                    });
                })
            })
            .collect();
        while begun.load(Ordering::SeqCst) < 6 {
            std::thread::yield_now();
        }
        // With one turn for whole jobs none of these would ever run.
        for _ in 0..50 {
            turns.run(true, || {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        }
        stop.store(true, Ordering::SeqCst);
        long.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((turns.lock().free, turns.waiting.load(Ordering::SeqCst)), (1, 0));
    }

    #[test]
    fn no_more_long_statements_run_than_there_are_turns_and_each_gets_on() {
        let turns = turns(2);
        let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let long: Vec<_> = (0..8)
            .map(|_| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                std::thread::spawn(move || {
                    turns.run(false, || {
                        while !RUN.get().is_some_and(|run| run.holds) {
                            check(|| false);
                        }
                        let mut rounds = 0;
                        let until = Instant::now() + SLICE * 12;
                        while Instant::now() < until {
                            let held = RUN.get().is_some_and(|run| run.holds);
                            assert!(held, "it has run for longer than it may without");
                            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            running.fetch_sub(1, Ordering::SeqCst);
                            check(|| false);
                            rounds += 1;
                        }
                        rounds
                    })
                })
            })
            .collect();
        assert!(long.into_iter().all(|thread| thread.join().unwrap() > 0));
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert_eq!(turns.lock().free, 2);
    }

    #[test]
    fn an_interrupted_statement_does_not_wait_for_its_turn() {
        let turns = turns(1);
        let stop = Arc::new(AtomicBool::new(false));
        let (begun, wait) = mpsc::channel();
        let holder_stop = Arc::clone(&stop);
        // Holds the turn and looks at nothing, as one large instruction does.
        let holder = std::thread::spawn(move || {
            turns.run(true, || {
                begun.send(()).unwrap();
                while !holder_stop.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            });
        });
        wait.recv().unwrap();
        turns.run(false, || {
            std::thread::sleep(FREE);
            check(|| true);
            assert!(RUN.get().is_some_and(|run| run.exempt && !run.holds));
        });
        stop.store(true, Ordering::SeqCst);
        holder.join().unwrap();
        assert_eq!((turns.lock().free, turns.waiting.load(Ordering::SeqCst)), (1, 0));
    }

    #[test]
    fn a_job_that_panics_gives_its_turn_back() {
        let turns = turns(1);
        let panicked = std::panic::catch_unwind(|| turns.run(true, || panic!("broken invariant")));
        assert!(panicked.is_err());
        assert_eq!(turns.run(true, || turns.run(true, || 5)), 5, "a job within a job");
        assert_eq!(turns.lock().free, 1);
    }
}
