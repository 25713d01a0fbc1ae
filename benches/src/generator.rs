//! Drives all connections of a load from one thread, so that the load takes little of what it measures.
//!
//! Closed loop: a client asks for the next thing once it has its answer. A refused operation is counted and begins again
//! after a pause, its time running on. The delay of the network is made here, on the way out and on the way in, without
//! another process or socket.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use crate::poller::Poller;
use crate::random::Random;
use crate::session::{Answer, Call, Link};
use crate::workload::{Background, Class, Workload};

/// Before a refused operation is tried again.
const PAUSE: Duration = Duration::from_millis(1);
const READ_LEN: usize = 256 * 1024;
/// dqlite's "not leader" and "leadership lost".
const NOT_LEADER: [u64; 2] = [10250, 10506];

/// What was seen while it was recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Of operations that ended, in microseconds, first try to last answer.
    pub(crate) latencies_us: Vec<u32>,
    /// Of those, the ones that wrote.
    pub(crate) writes: Waits,
    /// Longest of all, those included that had not ended yet.
    pub(crate) max_us: u32,
    /// Refusals, by SQLite's or dqlite's code or by what was wrong.
    pub(crate) errors: BTreeMap<String, usize>,
    /// Operations of each client.
    pub(crate) by_client: Vec<usize>,
}

/// How long writers waited.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waits {
    pub(crate) count: usize,
    pub(crate) sum_us: u64,
    pub(crate) max_us: u32,
}

impl Waits {
    pub(crate) fn add(&mut self, wait_us: u32) {
        self.count += 1;
        self.sum_us += u64::from(wait_us);
        self.max_us = self.max_us.max(wait_us);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// What was put out reaches the node.
    Send,
    /// The oldest answer in the inbox reaches the client.
    Deliver,
    /// The pause after a refusal, or the rest of the background, is over.
    Wake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// An answer is on its way.
    Asked,
    /// The answer to a ROLLBACK is on its way.
    RollingBack,
    /// [`Due::Wake`] will come.
    Resting,
    /// No more operations.
    Over,
}

#[derive(Debug)]
struct Session {
    link: Link,
    random: Random,
    state: State,
    class: Class,
    calls: Vec<Call>,
    step: usize,
    began: Instant,
    inbox: VecDeque<Answer>,
    is_background: bool,
}

/// What connections need to be made again.
pub(crate) struct Target<'a> {
    /// Address of whoever leads now.
    pub(crate) leader: &'a dyn Fn() -> Result<String, String>,
    /// Its database.
    pub(crate) database: &'a str,
    /// One way.
    pub(crate) delay: Duration,
}

/// The connections and what they are doing.
pub(crate) struct Generator<'a> {
    target: Target<'a>,
    workload: &'a mut dyn Workload,
    poller: Poller,
    sessions: Vec<Session>,
    due: BinaryHeap<Reverse<(Instant, usize, Due)>>,
    scratch: Vec<u8>,
    record: Option<Record>,
    /// Operations that ended since the start, recorded or not.
    completed: usize,
    stopping: bool,
}

impl<'a> Generator<'a> {
    /// Connects the clients, and one connection more where the workload has a background.
    pub(crate) fn connect(
        clients: usize,
        target: Target<'a>,
        workload: &'a mut dyn Workload,
    ) -> Result<Self, String> {
        let poller = Poller::new().map_err(|error| format!("epoll: {error}"))?;
        let mut generator = Self {
            target,
            workload,
            poller,
            sessions: Vec::new(),
            due: BinaryHeap::new(),
            scratch: vec![0; READ_LEN],
            record: None,
            completed: 0,
            stopping: false,
        };
        let background = generator.workload.background();
        let has_background = usize::from(!matches!(background, Background::Absent));
        let leader = (generator.target.leader)()?;
        for number in 0..clients + has_background {
            let link = generator.link(&leader)?;
            generator.poller.add(link.stream(), number).map_err(|error| format!("epoll: {error}"))?;
            generator.sessions.push(Session {
                link,
                random: Random::new(number as u64),
                state: State::Over,
                class: Class::Read,
                calls: Vec::new(),
                step: 0,
                began: Instant::now(),
                inbox: VecDeque::new(),
                is_background: number == clients,
            });
        }
        Ok(generator)
    }

    fn link(&self, address: &str) -> Result<Link, String> {
        Link::connect(address, self.target.database, self.workload.statements())
    }

    /// Begins the first operation of everybody.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        (0..self.sessions.len()).try_for_each(|number| self.begin(number))
    }

    /// Counts from now on.
    pub(crate) fn begin_recording(&mut self) {
        self.record = Some(Record { by_client: vec![0; self.sessions.len()], ..Record::default() });
    }

    /// Counts no longer; what has not ended counts for the longest waits with the time it has taken so far.
    pub(crate) fn end_recording(&mut self) -> Record {
        let mut record = self.record.take().unwrap_or_default();
        for session in self.sessions.iter().filter(|session| !session.is_background) {
            let waited = microseconds(session.began.elapsed());
            record.max_us = record.max_us.max(waited);
            if session.class == Class::Write {
                record.writes.max_us = record.writes.max_us.max(waited);
            }
        }
        record.by_client.truncate(self.sessions.iter().filter(|session| !session.is_background).count());
        record
    }

    /// How many operations have ended since the start.
    pub(crate) fn completed(&self) -> usize {
        self.completed
    }

    /// Lets operations end and begins none; gives up after `patience`.
    pub(crate) fn drain(&mut self, patience: Duration) -> Result<(), String> {
        self.stopping = true;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && self.sessions.iter().any(|session| session.state != State::Over) {
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Works until then.
    pub(crate) fn run_until(&mut self, end: Instant) -> Result<(), String> {
        while Instant::now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    fn turn(&mut self, end: Instant) -> Result<(), String> {
        let until = self.due.peek().map_or(end, |Reverse((due, ..))| end.min(*due));
        let mut ready = Vec::new();
        self.poller.wait(Some(until), &mut ready).map_err(|error| format!("epoll: {error}"))?;
        for number in ready {
            self.handle_ready(number)?;
        }
        let now = Instant::now();
        while let Some(Reverse((due, number, what))) = self.due.peek().copied()
            && due <= now
        {
            self.due.pop();
            match what {
                Due::Send => self.flush(number)?,
                Due::Deliver => {
                    if let Some(answer) = self.sessions[number].inbox.pop_front() {
                        self.handle_answer(number, &answer)?;
                    }
                }
                Due::Wake => self.begin_again(number)?,
            }
        }
        Ok(())
    }

    fn handle_ready(&mut self, number: usize) -> Result<(), String> {
        let session = &mut self.sessions[number];
        // With a delay the output waits for its moment.
        let written = if self.target.delay.is_zero() { session.link.flush() } else { Ok(()) };
        if let Err(error) = written.and_then(|()| session.link.fill(&mut self.scratch)) {
            return self.reconnect(number, &error);
        }
        loop {
            let Some(answer) = self.sessions[number].link.take()? else { return Ok(()) };
            if self.target.delay.is_zero() {
                self.handle_answer(number, &answer)?;
            } else {
                self.sessions[number].inbox.push_back(answer);
                self.later(self.target.delay, number, Due::Deliver);
            }
        }
    }

    fn later(&mut self, wait: Duration, number: usize, what: Due) {
        self.due.push(Reverse((Instant::now() + wait, number, what)));
    }

    fn flush(&mut self, number: usize) -> Result<(), String> {
        match self.sessions[number].link.flush() {
            Ok(()) => Ok(()),
            Err(error) => self.reconnect(number, &error),
        }
    }

    fn send(&mut self, number: usize) -> Result<(), String> {
        if self.target.delay.is_zero() {
            return self.flush(number);
        }
        self.later(self.target.delay, number, Due::Send);
        Ok(())
    }

    /// The next operation of a client, or of the background.
    fn begin(&mut self, number: usize) -> Result<(), String> {
        let session = &mut self.sessions[number];
        session.calls.clear();
        session.step = 0;
        session.state = State::Over;
        if self.stopping {
            return Ok(());
        }
        if session.is_background {
            match self.workload.background() {
                Background::Absent => return Ok(()),
                Background::Rest(rest) => {
                    session.state = State::Resting;
                    self.later(rest, number, Due::Wake);
                    return Ok(());
                }
                Background::Work(calls) => session.calls = calls,
            }
        } else {
            session.class = self.workload.next(&mut session.random, &mut session.calls);
        }
        session.began = Instant::now();
        self.ask(number)
    }

    fn begin_again(&mut self, number: usize) -> Result<(), String> {
        let session = &mut self.sessions[number];
        if session.calls.is_empty() || self.stopping {
            return self.begin(number);
        }
        session.step = 0;
        self.ask(number)
    }

    fn ask(&mut self, number: usize) -> Result<(), String> {
        let session = &mut self.sessions[number];
        session.state = State::Asked;
        session.link.put(&session.calls[session.step]);
        self.send(number)
    }

    fn handle_answer(&mut self, number: usize, answer: &Answer) -> Result<(), String> {
        let session = &mut self.sessions[number];
        if session.state == State::RollingBack {
            self.rest(number);
            return Ok(());
        }
        if let Answer::Refused(code) = answer {
            let code = *code;
            self.count_error(code.to_string());
            return self.handle_refusal(number, code);
        }
        let call = &session.calls[session.step];
        let checked = match (call, answer) {
            (Call::Exec(..), Answer::Rows { .. }) | (Call::Query(..), Answer::Done { .. }) => {
                Err("an answer to another request")
            }
            _ => self.workload.answered(call, answer),
        };
        if let Err(what) = checked {
            self.count_error(what.to_owned());
        }
        let session = &mut self.sessions[number];
        if matches!(answer, Answer::Rows { last: false, .. }) {
            return Ok(());
        }
        session.step += 1;
        if session.step < session.calls.len() {
            return self.ask(number);
        }
        self.end(number);
        self.begin(number)
    }

    fn handle_refusal(&mut self, number: usize, code: u64) -> Result<(), String> {
        let session = &mut self.sessions[number];
        if NOT_LEADER.contains(&code) {
            return self.reconnect(number, &io::Error::other("the leader changed"));
        }
        if self.workload.is_transactional() && session.step > 0 {
            session.state = State::RollingBack;
            session.link.put_rollback();
            return self.send(number);
        }
        self.rest(number);
        Ok(())
    }

    fn rest(&mut self, number: usize) {
        self.sessions[number].state = State::Resting;
        self.later(PAUSE, number, Due::Wake);
    }

    fn end(&mut self, number: usize) {
        let session = &self.sessions[number];
        if session.is_background {
            return;
        }
        self.completed += 1;
        if let Some(record) = &mut self.record {
            let latency = microseconds(session.began.elapsed());
            record.latencies_us.push(latency);
            record.max_us = record.max_us.max(latency);
            record.by_client[number] += 1;
            if session.class == Class::Write {
                record.writes.add(latency);
            }
        }
    }

    fn count_error(&mut self, what: String) {
        if let Some(record) = &mut self.record {
            *record.errors.entry(what).or_default() += 1;
        }
    }

    /// A new connection, to whoever leads; the operation begins again. What the old one did is unknown.
    fn reconnect(&mut self, number: usize, why: &io::Error) -> Result<(), String> {
        self.count_error(format!("reconnected ({why})"));
        let leader = (self.target.leader)()?;
        let link = self.link(&leader)?;
        self.poller.add(link.stream(), number).map_err(|error| format!("epoll: {error}"))?;
        let session = &mut self.sessions[number];
        session.link = link;
        session.inbox.clear();
        self.due.retain(|Reverse((_, of, _))| *of != number);
        self.rest(number);
        Ok(())
    }
}

fn microseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
