//! The work of the disk thread without the thread: jobs for the log in order, steps in groups.
//!
//! A group is a run of steps that wait together: they are persisted with one call, and so with one write and one sync.
//! A group that finds no space stays at the front and has changed nothing. Behind each group the log prepares what the
//! next ones need; when there is no space for that, the core hears of it before a group has to wait.

use std::collections::VecDeque;

use raft_glue::disk::{Disk, DiskError, LogStore, Space};
use raft_glue::{LogIndex, Persist, Term};

use crate::core::{DiskDone, DiskJob};

/// What a worker needs of a log, which is [`LogStore`] but for tests.
pub trait Log: Send + 'static {
    /// See [`LogStore::persist`].
    fn persist(&mut self, steps: &[Persist]) -> Result<(), DiskError>;
    /// See [`LogStore::tend`].
    fn tend(&mut self) -> Space;
    /// Answers every other job.
    fn run(&mut self, job: DiskJob) -> DiskDone;
    /// See [`LogStore::committed`].
    fn committed(&mut self, index: LogIndex, term: Term) -> Result<(), DiskError>;
    /// See [`LogStore::close`].
    fn close(self) -> Result<(), DiskError>;
}

impl<D: Disk> Log for LogStore<D> {
    fn persist(&mut self, steps: &[Persist]) -> Result<(), DiskError> {
        Self::persist(self, steps)
    }

    fn tend(&mut self) -> Space {
        Self::tend(self)
    }

    fn run(&mut self, job: DiskJob) -> DiskDone {
        match job {
            DiskJob::Persist(step) => {
                let result = Self::persist(self, std::slice::from_ref(&step));
                persisted(result, step.number)
            }
            DiskJob::SnapshotTaken(metadata) => {
                let result = self.snapshot_taken(&metadata).map_err(|error| error.to_string());
                DiskDone::SnapshotTaken(metadata, result)
            }
            DiskJob::ReadEntries(read) => {
                let result = self
                    .read_entries(read.first, read.max_count, read.max_bytes)
                    .map_err(|error| error.to_string());
                DiskDone::EntriesRead(read, result)
            }
        }
    }

    fn committed(&mut self, index: LogIndex, term: Term) -> Result<(), DiskError> {
        Self::committed(self, index, term)
    }

    fn close(self) -> Result<(), DiskError> {
        Self::close(self)
    }
}

/// Something to do with the log.
#[derive(Debug)]
pub enum LogJob {
    /// For the core, which hears of the result.
    Answered(DiskJob),
    /// What an earlier damage may have cost is made up for up to this index, whose entry has this term.
    Committed(LogIndex, Term),
    /// See whether there is space for more. To be queued now and then while [`LogWorker::space`] is low.
    Tend,
}

/// What came of a group or a single job.
#[derive(Debug)]
pub enum LogOutcome {
    /// For the core.
    Done(DiskDone),
    /// There is nothing to tell.
    Silent,
    /// No space for the group; it is tried again by the next call.
    NoSpace(DiskError),
}

fn persisted(result: Result<(), DiskError>, number: u64) -> DiskDone {
    let result =
        result.or_else(|error| if planted::bug!(FailedWriteIsDurable) { Ok(()) } else { Err(error) });
    DiskDone::Persisted(result.map(|()| number).map_err(|error| error.to_string()))
}

/// A log and what is to be done with it.
#[derive(Debug)]
pub struct LogWorker<L> {
    log: L,
    queue: VecDeque<LogJob>,
    /// Steps that were taken from the queue to be persisted together.
    group: Vec<Persist>,
    /// What the core was told last.
    space: Space,
    /// A group was persisted and the log not tended since.
    is_untended: bool,
}

impl<L: Log> LogWorker<L> {
    /// Takes over a log.
    pub fn new(log: L) -> Self {
        Self { log, queue: VecDeque::new(), group: Vec::new(), space: Space::default(), is_untended: false }
    }

    /// Queues a job behind all others.
    pub fn push(&mut self, job: LogJob) {
        self.queue.push_back(job);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.group.is_empty() && !self.is_untended
    }

    /// The steps that the next call of [`Self::run_next`] persists together; none if it does something else.
    pub fn next_steps(&mut self) -> &[Persist] {
        if self.group.is_empty() {
            self.form_group();
        }
        &self.group
    }

    /// Whether there is room for more, as far as is known.
    #[must_use]
    pub fn space(&self) -> Space {
        self.space
    }

    /// Runs the next group of steps or the next other job; `None` when there is nothing to do.
    pub fn run_next(&mut self) -> Option<LogOutcome> {
        if std::mem::take(&mut self.is_untended)
            && let Some(done) = self.tend()
        {
            return Some(LogOutcome::Done(done));
        }
        if self.group.is_empty() {
            self.form_group();
        }
        let Some(last) = self.group.last() else { return self.run_single() };
        let number = last.number;
        match self.log.persist(&self.group) {
            Err(error) if error.is_no_space() => Some(match self.note_space(Space::Low) {
                // The group is tried again with the next call.
                Some(done) => LogOutcome::Done(done),
                None => LogOutcome::NoSpace(error),
            }),
            result => {
                self.group.clear();
                // Without space every attempt would be in vain, until somebody asks for one.
                self.is_untended = result.is_ok() && self.space == Space::Ample;
                Some(LogOutcome::Done(persisted(result, number)))
            }
        }
    }

    fn tend(&mut self) -> Option<DiskDone> {
        let space = self.log.tend();
        self.note_space(space)
    }

    /// What the core has to hear, if this is news.
    fn note_space(&mut self, space: Space) -> Option<DiskDone> {
        let is_news = self.space != space;
        self.space = space;
        is_news.then_some(DiskDone::Space(space))
    }

    /// Fails the group that found no space, since waiting for it is over.
    pub fn give_up(&mut self, error: DiskError) -> Option<DiskDone> {
        let number = self.group.last()?.number;
        self.group.clear();
        Some(persisted(Err(error), number))
    }

    /// Gives the log back, to be closed. What is still queued is dropped.
    pub fn into_log(self) -> L {
        self.log
    }

    /// The log, to look at.
    pub fn log(&self) -> &L {
        &self.log
    }

    fn form_group(&mut self) {
        while let Some(LogJob::Answered(DiskJob::Persist(_))) = self.queue.front() {
            if let Some(LogJob::Answered(DiskJob::Persist(step))) = self.queue.pop_front() {
                self.group.push(step);
            }
        }
    }

    fn run_single(&mut self) -> Option<LogOutcome> {
        match self.queue.pop_front()? {
            LogJob::Answered(job) => Some(LogOutcome::Done(self.log.run(job))),
            LogJob::Committed(index, term) => {
                // If this fails the log accepts nothing more, and says so with the next step.
                if let Err(error) = self.log.committed(index, term) {
                    tracing::error!(%error, "the log cannot note that its damage is made up for");
                }
                Some(LogOutcome::Silent)
            }
            LogJob::Tend => Some(self.tend().map_or(LogOutcome::Silent, LogOutcome::Done)),
        }
    }
}
