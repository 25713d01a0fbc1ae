//! Threads that run the SQL which the thread that has the loop does not run itself, see [`crate::crew`].
//!
//! Usually each node has three pools: one for work that may be slow (readers), one for work that holds a database's
//! writer lane, so that a long query never delays a commit, and one for work that runs no statement, so that clients come
//! and go whatever runs. Threads are added on demand, up to the configured number in each pool, and stay until the node
//! stops.
//!
//! A process that runs SQLite in single-thread mode has one such thread for all its nodes, and everything that calls
//! SQLite goes through it: jobs, registering and unregistering a VFS, dropping connections. It lives while any node
//! object does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};

use crossbeam_channel::Sender;

use crate::core::{JobClass, SqlDone, SqlJob};
use crate::options::LiveOptions;
use crate::pool::Pool;
use crate::spin::Spin;
use crate::wake::{Completion, Outbox, panic_text};

/// Tasks that may wait for the one thread of a process. There is at most one job for each client, so this is reached with
/// many clients only; then each loop keeps the rest.
const MAX_QUEUED: usize = 1024;

/// What an executor runs; [`SqlJob`] but for tests.
pub(crate) trait Job: Send + 'static {
    /// What it yields.
    type Done: Send + 'static;
    /// Which pool it belongs to.
    fn class(&self) -> JobClass;
    /// Whether its result is not wanted any more, so that running it takes no time.
    fn is_cancelled(&self) -> bool;
    /// Does the work.
    fn run(self) -> Self::Done;
    /// What the loop hears.
    fn completion(done: Self::Done) -> Completion;
}

impl Job for SqlJob {
    type Done = SqlDone;

    fn class(&self) -> JobClass {
        Self::class(self)
    }

    fn is_cancelled(&self) -> bool {
        Self::is_cancelled(self)
    }

    fn run(self) -> SqlDone {
        Self::run(self)
    }

    fn completion(done: SqlDone) -> Completion {
        Completion::Sql(done)
    }
}

/// Runs a job; a panic is something for the loop to hear of.
pub(crate) fn run_job<J: Job>(job: J) -> Completion {
    match catch_unwind(AssertUnwindSafe(|| job.run())) {
        Ok(done) => J::completion(done),
        Err(payload) => Completion::Panicked(format!("an SQL job panicked: {}", panic_text(&*payload))),
    }
}

/// Runs the jobs of one node.
#[derive(Debug)]
pub(crate) enum Executor<J: Job> {
    /// Threads of its own.
    Pools { readers: Pool<J>, writers: Pool<J>, short: Pool<J> },
    /// The one thread of the process.
    Shared { sqlite: SqliteThread, outbox: Outbox },
}

impl<J: Job> Executor<J> {
    /// Starts the first threads.
    pub(crate) fn start(sqlite: &SqliteThread, live: &Arc<LiveOptions>, outbox: &Outbox) -> io::Result<Self> {
        if sqlite.shared.is_some() {
            return Ok(Self::Shared { sqlite: sqlite.clone(), outbox: outbox.clone() });
        }
        let names = Arc::new(AtomicUsize::new(0));
        let pool = || Pool::start(Arc::clone(&names), Arc::clone(live), outbox.clone());
        Ok(Self::Pools { readers: pool()?, writers: pool()?, short: pool()? })
    }

    /// Whether jobs may run on any thread.
    pub(crate) fn has_pools(&self) -> bool {
        matches!(self, Self::Pools { .. })
    }

    /// Queues a job; gives it back when the queue is full.
    pub(crate) fn submit(&mut self, job: J) -> Result<(), J> {
        match self {
            Self::Pools { readers, writers, short } => {
                match job.class() {
                    JobClass::Reader => readers.submit(job),
                    JobClass::Writer => writers.submit(job),
                    JobClass::Short => short.submit(job),
                }
                Ok(())
            }
            Self::Shared { sqlite, outbox } => {
                let outbox = outbox.clone();
                sqlite.post(job, move |job| outbox.send(run_job(job)))
            }
        }
    }

    /// Ends jobs that were cancelled before they began, without waiting for those in front of them. On the one thread of a
    /// process they have to wait.
    pub(crate) fn expedite_cancelled(&mut self) {
        if let Self::Pools { readers, writers, short } = self {
            for job in readers.withdraw_cancelled().into_iter().chain(writers.withdraw_cancelled()) {
                short.submit(job);
            }
        }
    }

    /// Lets queued jobs finish and joins the threads of this node. The completions must be read, or their receiver be
    /// gone, or this may wait for ever.
    pub(crate) fn join(self) {
        if let Self::Pools { readers, writers, short } = self {
            readers.join();
            writers.join();
            short.join();
        }
    }
}

/// Waits for a thread that is about to end.
pub(crate) fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("an SQL thread panicked");
    }
}

type Task = Box<dyn FnOnce() + Send>;

/// Where code that calls SQLite has to run: anywhere, or on the one thread of the process.
#[derive(Debug)]
pub(crate) struct SqliteThread {
    shared: Option<Arc<SharedThread>>,
}

#[derive(Debug)]
struct SharedThread {
    tasks: Sender<Task>,
    id: ThreadId,
}

/// The shared thread, while anybody uses it.
#[derive(Debug)]
struct Registered {
    users: usize,
    thread: Arc<SharedThread>,
    handle: JoinHandle<()>,
    /// Dropped to end the thread.
    quit: Sender<()>,
}

static SHARED: Mutex<Option<Registered>> = Mutex::new(None);

impl SqliteThread {
    /// Asks SQLite for the mode it runs in and acts on it.
    pub(crate) fn acquire() -> io::Result<Self> {
        match vfs::threading_mode() {
            vfs::ThreadingMode::SingleThread => Self::acquire_shared(),
            _ => Ok(Self { shared: None }),
        }
    }

    fn acquire_shared() -> io::Result<Self> {
        let mut registered = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registered) = registered.as_mut() {
            registered.users += 1;
            return Ok(Self { shared: Some(Arc::clone(&registered.thread)) });
        }
        let (tasks, queue) = crossbeam_channel::bounded::<Task>(MAX_QUEUED);
        let (quit, ended) = crossbeam_channel::bounded::<()>(0);
        let handle = std::thread::Builder::new()
            .name("dqlite-sql-0".to_owned())
            .stack_size(vfs::STACK_LEN)
            .spawn(move || {
            let mut spin = Spin::default();
            loop {
                let task = match queue.try_recv() {
                    Ok(task) => task,
                    Err(_) if spin.go_on() => continue,
                    Err(_) => crossbeam_channel::select_biased! {
                        recv(queue) -> task => match task {
                            Ok(task) => task,
                            Err(_) => return,
                        },
                        recv(ended) -> _ => return,
                    },
                };
                task();
                spin = Spin::begin();
            }
        })?;
        let thread = Arc::new(SharedThread { tasks, id: handle.thread().id() });
        let shared = Some(Arc::clone(&thread));
        *registered = Some(Registered { users: 1, thread, handle, quit });
        Ok(Self { shared })
    }

    /// Runs `work` where SQLite may be called, and waits for it.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub(crate) fn call<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.id != std::thread::current().id())
        else {
            return work();
        };
        let (reply, answer) = crossbeam_channel::bounded(1);
        let task = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            // The caller waits for this and nothing else, so it is there.
            let _ = reply.send(result);
        });
        shared.tasks.send(task).expect("the thread lives while a handle to it does");
        match answer.recv().expect("the thread answers every task") {
            Ok(value) => value,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    /// Queues work for the shared thread; gives `value` back when the queue is full.
    fn post<T: Send + 'static>(&self, value: T, work: impl FnOnce(T) + Send + 'static) -> Result<(), T> {
        let shared = self.shared.as_ref().expect("posted to the shared thread only");
        // The loop is one of several senders, so a free place seen here may be gone; then `send` waits for one task.
        if shared.tasks.is_full() {
            return Err(value);
        }
        let task = Box::new(move || work(value));
        shared.tasks.send(task).expect("the thread lives while a handle to it does");
        Ok(())
    }
}

impl Clone for SqliteThread {
    fn clone(&self) -> Self {
        if self.shared.is_some()
            && let Some(registered) = SHARED.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            registered.users += 1;
        }
        Self { shared: self.shared.clone() }
    }
}

impl Drop for SqliteThread {
    fn drop(&mut self) {
        if self.shared.take().is_none() {
            return;
        }
        // Held while joining, so that a new thread cannot start before the old one has left SQLite.
        let mut registered = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut last) = registered.take() else { return };
        last.users -= 1;
        if last.users > 0 {
            *registered = Some(last);
            return;
        }
        drop(last.quit);
        if last.thread.id != std::thread::current().id() {
            join(last.handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::Receiver;

    use super::*;
    use crate::wake::tests::outbox;

    type Body = Box<dyn FnOnce() -> String + Send>;

    struct TestJob(JobClass, Body);

    thread_local! {
        /// Class of the jobs that count as cancelled.
        static CANCELLED: std::cell::Cell<Option<JobClass>> = const { std::cell::Cell::new(None) };
    }

    impl Job for TestJob {
        type Done = String;

        fn class(&self) -> JobClass {
            self.0
        }

        fn is_cancelled(&self) -> bool {
            CANCELLED.get() == Some(self.0)
        }

        fn run(self) -> String {
            (self.1)()
        }

        fn completion(done: String) -> Completion {
            Completion::Panicked(done)
        }
    }

    fn next(receiver: &Receiver<Completion>) -> String {
        match receiver.recv_timeout(Duration::from_secs(10)) {
            Ok(Completion::Panicked(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn pools(outbox: &Outbox, threads: u32) -> Executor<TestJob> {
        let live = Arc::new(LiveOptions::default());
        live.set_pool_thread_count(threads);
        Executor::start(&SqliteThread { shared: None }, &live, outbox).unwrap()
    }

    fn submit(
        executor: &mut Executor<TestJob>,
        class: JobClass,
        body: impl FnOnce() -> String + Send + 'static,
    ) {
        assert!(executor.submit(TestJob(class, Box::new(body))).is_ok());
    }

    #[test]
    fn panic_of_a_job_is_reported_and_the_thread_goes_on() {
        let (_poll, outbox, receiver) = outbox();
        let mut executor = pools(&outbox, 1);
        submit(&mut executor, JobClass::Reader, || panic!("broken invariant"));
        submit(&mut executor, JobClass::Reader, || "next".to_owned());
        assert_eq!(next(&receiver), "an SQL job panicked: broken invariant");
        assert_eq!(next(&receiver), "next");
        executor.join();
    }

    #[test]
    fn writers_and_short_jobs_do_not_wait_behind_readers() {
        let (_poll, outbox, receiver) = outbox();
        let mut executor = pools(&outbox, 2);
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        for _ in 0..3 {
            let gate = gate.clone();
            submit(&mut executor, JobClass::Reader, move || {
                let _ = gate.recv();
                "reader".to_owned()
            });
        }
        submit(&mut executor, JobClass::Writer, || "writer".to_owned());
        assert_eq!(next(&receiver), "writer");
        submit(&mut executor, JobClass::Short, || "short".to_owned());
        assert_eq!(next(&receiver), "short");
        drop(release);
        assert_eq!([next(&receiver), next(&receiver), next(&receiver)], ["reader"; 3]);
        executor.join();
    }

    #[test]
    fn pool_grows_to_the_configured_number_and_not_beyond() {
        let (_poll, outbox, receiver) = outbox();
        let mut executor = pools(&outbox, 3);
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        for _ in 0..10 {
            let gate = gate.clone();
            submit(&mut executor, JobClass::Reader, move || {
                let _ = gate.recv();
                std::thread::current().name().unwrap_or_default().to_owned()
            });
        }
        drop(release);
        let mut names: Vec<String> = (0..10).map(|_| next(&receiver)).collect();
        names.sort();
        names.dedup();
        assert!(names.len() <= 3 && names.iter().all(|name| name.starts_with("dqlite-sql-")), "{names:?}");
        let Executor::Pools { readers, .. } = &executor else { panic!("pools") };
        assert_eq!(readers.thread_count(), 3);
        executor.join();
    }

    #[test]
    fn cancelled_jobs_do_not_wait_for_those_in_front_of_them() {
        let (_poll, outbox, receiver) = outbox();
        let mut executor = pools(&outbox, 1);
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        let (begun, wait) = crossbeam_channel::bounded(0);
        let blocked = gate.clone();
        submit(&mut executor, JobClass::Writer, move || {
            begun.send(()).unwrap();
            format!("first {:?}", blocked.recv().is_err())
        });
        wait.recv().unwrap();
        submit(&mut executor, JobClass::Reader, move || format!("second {:?}", gate.recv().is_err()));
        for number in 0..1500 {
            submit(&mut executor, JobClass::Writer, move || format!("cancelled {number}"));
        }
        executor.expedite_cancelled();
        CANCELLED.set(Some(JobClass::Writer));
        executor.expedite_cancelled();
        for number in 0..1500 {
            assert_eq!(next(&receiver), format!("cancelled {number}"));
        }
        drop(release);
        let mut rest = [next(&receiver), next(&receiver)];
        rest.sort();
        assert_eq!(rest, ["first true", "second true"]);
        executor.join();
    }

    #[test]
    fn shared_thread_serves_all_nodes_and_ends_with_the_last() {
        let first = SqliteThread::acquire_shared().unwrap();
        let second = SqliteThread::acquire_shared().unwrap();
        let id = |sqlite: &SqliteThread| sqlite.call(|| std::thread::current().id());
        assert_eq!(id(&first), id(&second));
        assert_ne!(id(&first), std::thread::current().id());

        let (_poll, outbox, receiver) = outbox();
        let live = Arc::new(LiveOptions::default());
        let mut executor: Executor<TestJob> = Executor::start(&first, &live, &outbox).unwrap();
        submit(&mut executor, JobClass::Writer, || format!("{:?}", std::thread::current().id()));
        submit(&mut executor, JobClass::Reader, || panic!("oops"));
        assert_eq!(next(&receiver), format!("{:?}", id(&second)));
        assert_eq!(next(&receiver), "an SQL job panicked: oops");

        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        let mut accepted = 0;
        loop {
            let gate = gate.clone();
            let job = TestJob(JobClass::Reader, Box::new(move || format!("{:?}", gate.recv())));
            if executor.submit(job).is_err() {
                break;
            }
            accepted += 1;
        }
        assert!((MAX_QUEUED..=MAX_QUEUED + 1).contains(&accepted));
        drop(release);
        for _ in 0..accepted {
            next(&receiver);
        }
        executor.join();

        // A call from the thread itself must not wait for itself.
        let nested = second.clone();
        assert_eq!(second.call(move || nested.call(|| 5)), 5);
        assert!(catch_unwind(AssertUnwindSafe(|| first.call(|| panic!("up to the caller")))).is_err());
        drop(first);
        assert_eq!(second.call(|| 7), 7);
        drop(second);
        assert!(SHARED.lock().unwrap().is_none());
    }
}
