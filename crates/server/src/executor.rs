//! Threads that run the SQL which the thread that has the loop does not run itself, see [`crate::crew`].
//!
//! Each node has three pools: one for work that may be slow (readers), one for work that holds a database's writer lane, so
//! that a long query never delays a commit, and one for work that runs no statement, so that clients come and go whatever
//! runs. Threads are added on demand, up to the configured number in each pool; those that long statements occupy are
//! replaced.
//!
//! Where a process runs SQLite in single-thread mode, one thread at a time runs a job, or anything else that calls SQLite:
//! see [`vfs::turns`]. The thread that has the loop runs none then, since it would have to wait for its turn.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vfs::turns::Kind;

use crate::core::{JobClass, SqlDone, SqlJob, limits};
use crate::options::LiveOptions;
use crate::pool::Pool;
use crate::wake::{Completion, Outbox, panic_text};

/// What an executor runs; [`SqlJob`] but for tests.
pub(crate) trait Job: Send + 'static {
    /// What it yields.
    type Done: Send + 'static;
    /// Which pool it belongs to.
    fn class(&self) -> JobClass;
    /// Whether its result is not wanted any more, so that running it takes no time.
    fn is_cancelled(&self) -> bool;
    /// Not zero while it is cancelled, to look at.
    fn cancelled_flag(&self) -> Option<Arc<AtomicU8>>;
    /// Which turns it needs.
    fn kind(class: JobClass) -> Kind {
        match class {
            JobClass::Reader | JobClass::Short => Kind::Reads,
            JobClass::Writer => Kind::Writes,
        }
    }
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

    fn cancelled_flag(&self) -> Option<Arc<AtomicU8>> {
        Self::cancelled_flag(self)
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
    let kind = J::kind(job.class());
    match catch_unwind(AssertUnwindSafe(|| vfs::turns::run(kind, || job.run()))) {
        Ok(done) => J::completion(done),
        Err(payload) => Completion::Panicked(format!("an SQL job panicked: {}", panic_text(&*payload))),
    }
}

/// Runs the jobs of one node.
#[derive(Debug)]
pub(crate) struct Executor<J: Job> {
    readers: Pool<J>,
    writers: Pool<J>,
    short: Pool<J>,
    /// When the pools want to be looked after.
    next_look: Option<Instant>,
    /// Whether jobs may run beside each other.
    parallel: bool,
}

impl<J: Job> Executor<J> {
    /// Starts the first threads.
    pub(crate) fn start(live: &Arc<LiveOptions>, outbox: &Outbox) -> io::Result<Self> {
        let parallel = vfs::threading_mode() != vfs::ThreadingMode::SingleThread;
        let names = Arc::new(AtomicUsize::new(0));
        let pool = || Pool::start(Arc::clone(&names), Arc::clone(live), outbox.clone(), parallel);
        Ok(Self { readers: pool()?, writers: pool()?, short: pool()?, next_look: None, parallel })
    }

    /// Whether the thread that has the loop may run jobs, without waiting for others that do.
    pub(crate) fn is_parallel(&self) -> bool {
        self.parallel
    }

    /// Queues a job.
    pub(crate) fn submit(&mut self, job: J) {
        let look = Instant::now() + Duration::from_millis(limits::OCCUPIED_MS);
        self.next_look = Some(self.next_look.map_or(look, |next| next.min(look)));
        match job.class() {
            JobClass::Reader => self.readers.submit(job),
            JobClass::Writer => self.writers.submit(job),
            JobClass::Short => self.short.submit(job),
        }
    }

    /// When [`look_after`](Self::look_after) is wanted.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Adds threads for jobs that wait behind long statements.
    pub(crate) fn look_after(&mut self, now: Instant) {
        if self.next_look.is_some_and(|next| next <= now) {
            let pools = [&mut self.readers, &mut self.writers, &mut self.short];
            self.next_look = pools.into_iter().filter_map(|pool| pool.look_after(now)).min();
        }
    }

    /// Ends jobs that were cancelled before they began, without waiting for those in front of them.
    pub(crate) fn expedite_cancelled(&mut self) {
        for job in self.readers.withdraw_cancelled().into_iter().chain(self.writers.withdraw_cancelled()) {
            self.short.submit(job);
        }
    }

    /// Lets queued jobs finish and joins the threads of this node. The completions must be read, or their receiver be
    /// gone, or this may wait for ever.
    pub(crate) fn join(self) {
        self.readers.join();
        self.writers.join();
        self.short.join();
    }
}

/// Waits for a thread that is about to end.
pub(crate) fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("an SQL thread panicked");
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

    /// Not zero while jobs of class Short that run are cancelled; one test uses it.
    static RUNNING_CANCELLED: std::sync::LazyLock<Arc<AtomicU8>> = std::sync::LazyLock::new(Arc::default);

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

        fn cancelled_flag(&self) -> Option<Arc<AtomicU8>> {
            (self.0 == JobClass::Short).then(|| Arc::clone(&RUNNING_CANCELLED))
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
        Executor::start(&live, outbox).unwrap()
    }

    fn submit(
        executor: &mut Executor<TestJob>,
        class: JobClass,
        body: impl FnOnce() -> String + Send + 'static,
    ) {
        executor.submit(TestJob(class, Box::new(body)));
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
        assert_eq!(executor.readers.thread_count(), 3);
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
    fn threads_that_long_jobs_occupy_are_replaced_and_end_with_them() {
        let (_poll, outbox, receiver) = outbox();
        let mut executor = pools(&outbox, 2);
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        let count = 2 + limits::MAX_LONG_STATEMENTS;
        let mut submitted = 0;
        let look = |executor: &mut Executor<TestJob>| {
            std::thread::sleep(Duration::from_millis(limits::OCCUPIED_MS));
            executor.look_after(Instant::now());
        };
        let long = |gate: &Receiver<()>| {
            let gate = gate.clone();
            move || format!("{:?}", gate.recv())
        };
        // One that is short gets through beside as many long ones as the limit says.
        while submitted < count - 1 {
            submit(&mut executor, JobClass::Reader, long(&gate));
            submitted += 1;
            if submitted % 8 == 0 {
                look(&mut executor);
            }
        }
        submit(&mut executor, JobClass::Reader, || "short".to_owned());
        let answer = loop {
            look(&mut executor);
            if let Ok(Completion::Panicked(text)) = receiver.try_recv() {
                break text;
            }
        };
        assert_eq!(answer, "short");
        for _ in 0..4 {
            submit(&mut executor, JobClass::Reader, long(&gate));
            look(&mut executor);
        }
        assert!(executor.readers.thread_count() <= count, "{}", executor.readers.thread_count());
        drop(release);
        // Those that waited get threads as the loop looks.
        for _ in 0..submitted + 4 {
            while receiver.is_empty() {
                look(&mut executor);
            }
            assert_eq!(next(&receiver), "Err(RecvError)");
        }
        submit(&mut executor, JobClass::Reader, || "next".to_owned());
        assert_eq!(next(&receiver), "next");
        look(&mut executor);
        assert!(executor.readers.thread_count() <= 2 + 4, "{}", executor.readers.thread_count());
        executor.join();
    }

    #[test]
    fn what_goes_on_after_it_was_cancelled_gets_the_lowest_priority_and_its_thread_goes_with_it() {
        let (_poll, outbox, receiver) = outbox();
        let mut executor = pools(&outbox, 1);
        let priority =
            || format!("{:?}", rustix::process::getpriority_process(Some(rustix::thread::gettid())));
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        let (begun, wait) = crossbeam_channel::bounded(0);
        submit(&mut executor, JobClass::Short, move || {
            begun.send(()).unwrap();
            format!("{:?} {}", gate.recv().is_err(), priority())
        });
        wait.recv().unwrap();
        let now = Instant::now() + Duration::from_secs(60);
        executor.look_after(now);
        RUNNING_CANCELLED.store(1, std::sync::atomic::Ordering::Relaxed);
        executor.look_after(now + Duration::from_secs(1));
        executor.look_after(now + Duration::from_secs(2) + Duration::from_millis(limits::UNSTOPPABLE_MS));
        drop(release);
        assert_eq!(next(&receiver), "true Ok(19)");
        RUNNING_CANCELLED.store(0, std::sync::atomic::Ordering::Relaxed);
        submit(&mut executor, JobClass::Short, priority);
        assert_eq!(next(&receiver), "Ok(0)");
        executor.join();
    }
}
