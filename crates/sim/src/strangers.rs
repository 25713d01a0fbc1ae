//! Strangers on the peer port: whoever reaches it may say anything, in messages that every decoder takes.
//!
//! A stranger that knows the log can pretend to lead, and then everything it says is right (README, "Trust boundary"). So
//! these know nothing of it: their numbers are odd or contradict what is committed, and what they bring is no database.
//! They may cost a leader its leadership, but no member, no row, and no term that the cluster cannot go on from.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_glue::{Configuration, Entry, EntryKind, LogIndex, NodeId, PeerAnnouncement, StreamId, Term};
use server::core::Input;
use wire_protocol::rpc::{
    AppendEntries, AppendEntriesResult, InstallSnapshot, Message, RequestVote, RequestVoteResult, TimeoutNow,
};
use wire_protocol::snapshot;

use crate::machines::brief;
use crate::oracle::Violation;
use crate::random::Random;
use crate::scenario::SECOND;
use crate::world::World;

/// So many of them come and go, one after the other.
const COUNT: u64 = 20;
/// A node with nothing left to do has answered whatever is older than this, also if threads were not scheduled.
const PATIENCE_US: u64 = 60 * SECOND;
/// The first of them; no machine has this id or a higher one, but the member of the other cluster.
const FIRST_ID: u64 = 1_000_000;
/// No stream between machines has this number or a higher one.
const FIRST_STREAM: u64 = 1 << 60;
/// Nobody lives there, and what is sent there is lost.
const ADDRESS: &str = "10.0.2.1:9000";
/// Farther above the term of a node than any cluster gets.
const HEADROOM: u64 = 1 << 32;
/// No run has as many elections.
const MAX_TERM: Term = Term(HEADROOM);

/// How many there were, and who waits.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    count: u64,
    waiting: BTreeMap<NodeId, Waiting>,
}

/// Requests that were neither answered nor ended with their stream.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    node: usize,
    epoch: u64,
    since_us: u64,
    requests: u64,
}

/// What a stranger can know of a node by asking it.
#[derive(Clone, Copy, Debug)]
struct Known {
    term: u64,
    last: u64,
    commit: u64,
    commit_term: u64,
}

impl World {
    /// A stranger opens a stream to a node, says some things and leaves.
    pub(crate) fn stranger_comes(&mut self, node: usize) {
        let Some(process) = &self.machines[node].process else { return };
        let replica = process.core.replica();
        let known = Known {
            term: replica.term().0,
            last: replica.last_index().0,
            commit: replica.commit_index().0,
            commit_term: replica.commit_term().0,
        };
        // A node without a log believes the first term that it hears, as long as there is room above it.
        if known.last == 0 || self.machines[node].foreign {
            return;
        }
        let members = replica.configuration().clone();
        let number = self.strangers.count;
        self.strangers.count += 1;
        let (from, stream) = (NodeId(FIRST_ID + number % COUNT), StreamId(FIRST_STREAM + number));
        if self.strangers.waiting.contains_key(&from) {
            return;
        }
        let epoch = self.machines[node].epoch;
        let mut requests = 0;
        let announcement = self.random.percent(50).then(PeerAnnouncement::default);
        self.feed(node, epoch, Input::PeerStreamOpened { stream, from, announcement });
        for _ in 0..self.random.between(1, 4) {
            let message = say(&mut self.random, known, from, &members);
            self.note(node, "a stranger says", [from.0, 0], || brief(&message));
            self.stats.count("message of a stranger");
            requests += u64::from(is_request(&message));
            self.feed(node, epoch, Input::PeerMessage { stream, from, address: ADDRESS.to_owned(), message });
        }
        self.feed(node, epoch, Input::PeerStreamEnded { stream, from });
        if requests > 0 {
            let since_us = self.now_us;
            self.strangers.waiting.insert(from, Waiting { node, epoch, since_us, requests });
        }
    }

    /// A node sends something to somebody.
    pub(crate) fn answers_stranger(&mut self, to: NodeId) {
        if let Some(waiting) = self.strangers.waiting.get_mut(&to) {
            waiting.requests -= 1;
            if waiting.requests == 0 {
                self.strangers.waiting.remove(&to);
            }
        }
    }

    /// No request stays without an answer, unless its node fails or ends before.
    fn check_answers(&mut self, node: usize) -> Result<(), Violation> {
        let machine = &self.machines[node];
        let is_idle = machine.process.as_ref().is_some_and(|process| process.worker.is_idle());
        let now_us = self.now_us;
        let has_failed = machine.process.as_ref().is_none_or(|process| process.failed);
        self.strangers.waiting.retain(|_, waiting| {
            let is_ours = waiting.node == node;
            !is_ours || (!has_failed && waiting.epoch == machine.epoch)
        });
        let overdue = |waiting: &Waiting| waiting.node == node && waiting.since_us + PATIENCE_US < now_us;
        let Some((from, waiting)) = self.strangers.waiting.iter().find(|(_, waiting)| overdue(waiting))
        else {
            return Ok(());
        };
        if !is_idle {
            return Ok(());
        }
        let text = format!("node {} leaves {} requests of {from} unanswered", machine.id, waiting.requests);
        Err(Violation::new("every request is answered", text))
    }

    /// A node closes a stream that was opened to it.
    pub(crate) fn closes_stream(&mut self, node: usize, from: NodeId) -> Result<(), Violation> {
        self.note(node, "closes a stream", [from.0, 0], String::new);
        if from.0 >= FIRST_ID {
            self.stats.count("stream of a stranger closed");
            self.answers_stranger(from);
            return Ok(());
        }
        let failed = self.machines[node].process.as_ref().is_some_and(|process| process.failed);
        let Some(dialler) = self.machines.iter().position(|machine| machine.id == from) else {
            return Ok(());
        };
        if failed {
            self.break_stream(dialler, node, true);
            return Ok(());
        }
        let text = format!("node {} closes the stream of node {from}", self.machines[node].id);
        Err(Violation::new("what members say follows the protocol", text))
    }

    /// The highest term of a node is one that its cluster can go on from, and nobody waits for it in vain.
    pub(crate) fn check_strangers(&mut self, node: usize) -> Result<(), Violation> {
        self.check_answers(node)?;
        let machine = &self.machines[node];
        let Some(process) = &machine.process else { return Ok(()) };
        let term = process.core.replica().term();
        if term >= MAX_TERM {
            let text = format!("node {} is in term {term}", machine.id);
            return Err(Violation::new("terms have headroom", text));
        }
        Ok(())
    }
}

/// Something odd.
fn say(random: &mut Random, known: Known, from: NodeId, members: &Configuration) -> Message {
    let near = known.term + random.below(3);
    // What it has said before may have raised the term of the node by a little.
    let least = known.term + HEADROOM + 100;
    let beyond = least + random.below(1 << 40);
    let absurd = *random.pick(&[least, beyond, (1 << 62) - 1, 1 << 62, 1 << 63, u64::MAX]);
    match random.below(7) {
        6 => bad_snapshot(random, near, known, members),
        0 | 1 => any_kind(random, Term(absurd), known, from, members),
        2 => any_kind(random, Term(near), known, from, members),
        3 => contradiction(random, near.max(known.commit_term + 1), known),
        4 => malformed(random, near, known),
        _ => Message::AppendEntries(append(near, (0, 0), odd(random), Vec::new())),
    }
}

/// A number for a place where any will do.
fn odd(random: &mut Random) -> u64 {
    let some = random.number();
    *random.pick(&[0, 1, 7, 1 << 32, 1 << 62, 1 << 63, u64::MAX, some])
}

fn append(term: u64, previous: (u64, u64), commit: u64, entries: Vec<Entry>) -> AppendEntries {
    AppendEntries {
        term: Term(term),
        prev_log_index: LogIndex(previous.0),
        prev_log_term: Term(previous.1),
        leader_commit: LogIndex(commit),
        entries,
        echo: odd_echo(commit),
    }
}

/// C nodes leave junk there.
const fn odd_echo(commit: u64) -> u64 {
    commit ^ 0x5555
}

fn command(term: u64) -> Entry {
    Entry { term: Term(term), kind: EntryKind::Command, data: Bytes::from_static(&[0xad; 16]) }
}

/// A message of any of the six kinds that is well-formed and says nothing that is so.
fn any_kind(random: &mut Random, term: Term, known: Known, from: NodeId, members: &Configuration) -> Message {
    let flag = random.percent(50);
    match random.below(6) {
        0 => Message::AppendEntries(append(term.0, (0, 0), odd(random), Vec::new())),
        1 => Message::AppendEntriesResult(AppendEntriesResult {
            term,
            rejected: LogIndex(odd(random)),
            last_log_index: LogIndex(odd(random)),
            features: flag.then(|| odd(random)),
        }),
        2 => Message::RequestVote(RequestVote {
            term,
            candidate_id: from,
            last_log_index: LogIndex(odd(random)),
            last_log_term: Term(odd(random)),
            disrupt_leader: flag,
            pre_vote: random.percent(50),
        }),
        3 => Message::RequestVoteResult(RequestVoteResult {
            term,
            vote_granted: flag,
            pre_vote: *random.pick(&[None, Some(false), Some(true)]),
        }),
        4 => Message::TimeoutNow(TimeoutNow {
            term,
            last_log_index: LogIndex(known.last),
            last_log_term: Term(known.commit_term),
        }),
        // Only those far away yet: what nearer ones hold is another matter.
        _ => Message::InstallSnapshot(InstallSnapshot {
            term,
            last_index: LogIndex(known.last + HEADROOM + 1 + random.below(1 << 40)),
            last_term: term,
            configuration: members.clone(),
            configuration_index: LogIndex(1),
            data: Bytes::from_static(b"garbage!"),
        }),
    }
}

/// What is committed is something else here.
fn contradiction(random: &mut Random, term: u64, known: Known) -> Message {
    let entries = (0..random.below(4)).map(|_| command(term)).collect();
    let other_term = if known.commit_term > 1 && random.percent(50) { 1 } else { term };
    let previous = if other_term == known.commit_term { (0, 0) } else { (known.commit, other_term) };
    Message::AppendEntries(append(term, previous, odd(random), entries))
}

/// Something that is no set of databases, but stands where the next snapshot could.
fn bad_snapshot(random: &mut Random, term: u64, known: Known, members: &Configuration) -> Message {
    let page = |start: &[u8]| {
        let mut page = start.to_vec();
        page.resize(4096, 0);
        page
    };
    let content = |size: u64, page: Vec<u8>| {
        [&snapshot::encode_payload_header(1)[..], &snapshot::encode_database_header(b"a", size, 0), &page]
            .concat()
    };
    let data = match random.below(6) {
        0 => b"garbage!".repeat(100),
        1 => Vec::new(),
        2 => snapshot::encode_payload_header(1).to_vec(),
        3 => content(4096, page(&[0xaa; 4096])),
        4 => content(1 << 40, page(b"SQLite format 3\0\x10\0\x02\x02")),
        _ => content(4096, page(b"SQLite format 3\0\x02\0\x02\x02")),
    };
    Message::InstallSnapshot(InstallSnapshot {
        term: Term(term),
        last_index: LogIndex(known.last + 1 + random.below(100)),
        last_term: Term(term),
        configuration: members.clone(),
        configuration_index: LogIndex(1),
        data: data.into(),
    })
}

fn is_request(message: &Message) -> bool {
    matches!(message, Message::AppendEntries(_) | Message::InstallSnapshot(_) | Message::RequestVote(_))
}

/// What no program sends that follows the protocol.
fn malformed(random: &mut Random, term: u64, known: Known) -> Message {
    let previous = (known.last, known.term);
    let entry = |kind, data: &'static [u8]| Entry { term: Term(term), kind, data: Bytes::from_static(data) };
    let (previous, entries) = match random.below(7) {
        0 => (previous, vec![entry(EntryKind::Command, &[])]),
        1 => (previous, vec![entry(EntryKind::Command, &[1; 9])]),
        2 => (previous, vec![entry(EntryKind::Configuration, &[1; 16])]),
        3 => (previous, vec![command(term + 1)]),
        4 => (previous, vec![command(0)]),
        5 => ((odd(random) | 1 << 62, known.term), vec![command(term)]),
        _ => ((known.last, 0), Vec::new()),
    };
    Message::AppendEntries(append(term, previous, odd(random), entries))
}
