//! A cluster of replicas in one thread: a network that loses, delays and reorders between pairs of nodes, disks that
//! forget what is not durable, crashes, and checks after every step. Everything follows from one seed.
#![allow(dead_code, unreachable_pub, reason = "shared by tests that use different parts")]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft_glue::{
    ChangeError, Committed, Config, Configuration, Entry, EntryKind, HardState, InstalledSnapshot, Loaded,
    LogIndex, NodeId, Output, Persist, Replica, RequestId, Role, Server, SnapshotMetadata, StreamId, Term,
};
use wire_protocol::rpc;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a node has on disk: what would be there after a crash.
#[derive(Clone, Default)]
pub struct Durable {
    pub hard_state: HardState,
    pub snapshot: Option<InstalledSnapshot>,
    pub first_index: u64,
    pub entries: Vec<Entry>,
}

impl Durable {
    fn last(&self) -> u64 {
        self.first_index + self.entries.len() as u64 - 1
    }

    fn persist(&mut self, step: &Persist) {
        if let Some(state) = step.hard_state {
            assert!(state.term >= self.hard_state.term, "stored terms never decrease");
            self.hard_state = state;
        }
        if let Some(snapshot) = &step.snapshot {
            self.first_index = snapshot.metadata.index.0 + 1;
            self.entries.clear();
            self.snapshot = Some(snapshot.clone());
        }
        if !step.entries.is_empty() {
            assert!(step.first_index.0 <= self.last() + 1, "no gap on disk");
            let keep = usize::try_from(step.first_index.0 - self.first_index).expect("inside the log");
            self.entries.truncate(keep);
            self.entries.extend(step.entries.iter().cloned());
        }
    }

    fn load(&self) -> Loaded {
        Loaded {
            hard_state: self.hard_state,
            snapshot: self.snapshot.as_ref().map(|snapshot| snapshot.metadata.clone()),
            first_index: LogIndex(self.first_index),
            entries: self.entries.clone(),
            ..Loaded::default()
        }
    }
}

/// The state machine: a chain of hashes over all commands, which shows any difference in history.
pub type State = u64;

fn chain(state: State, entry: &Entry) -> State {
    if entry.kind != EntryKind::Command {
        return state;
    }
    entry.data.iter().fold(state ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub struct Node {
    pub replica: Option<Replica>,
    pub durable: Durable,
    pub state: State,
    pub applied: u64,
    unwritten: VecDeque<Persist>,
    proposed: Vec<(LogIndex, Bytes)>,
    snapshot: Option<(SnapshotMetadata, State)>,
    pub done: Vec<(RequestId, Result<(), ChangeError>)>,
    pub log_cache_bytes: u64,
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub now_ms: u64,
    pub random: Random,
    pub threshold: u64,
    pub trailing: u64,
    /// Messages between a pair of nodes, in order.
    wires: BTreeMap<(u64, u64), VecDeque<rpc::Message>>,
    /// The stream that carries them, as long as both ends run.
    streams: BTreeMap<(u64, u64), StreamId>,
    next_stream: u64,
    /// Pairs that cannot talk, in this direction.
    pub cut: Vec<(u64, u64)>,
    /// State of the state machine after each index, once any node has applied it.
    history: BTreeMap<u64, State>,
    leaders: BTreeMap<Term, u64>,
    /// Commands whose leader has applied them: they must be in every later history.
    acknowledged: BTreeMap<u64, Bytes>,
    pub commands: BTreeMap<u64, Bytes>,
    next_request: u64,
    /// Last index that has reached a node as the report of another.
    reported: BTreeMap<(u64, u64), u64>,
    pub sent: BTreeMap<&'static str, u64>,
    /// See [`Cluster::pump_unless_busy`].
    busy: bool,
}

pub fn address(id: u64) -> String {
    format!("10.0.0.{id}:9000")
}

pub fn configuration(members: &[(u64, Role)]) -> Configuration {
    let server = |&(id, role)| Server { id: NodeId(id), address: address(id), role };
    Configuration { servers: members.iter().map(server).collect() }
}

impl Cluster {
    /// Nodes 1 to `voters` vote, `others` more know nothing yet.
    pub fn new(seed: u64, voters: u64, others: u64) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            now_ms: 0,
            random: Random(seed),
            threshold: 1 << 40,
            trailing: 1 << 40,
            wires: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 1,
            cut: Vec::new(),
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            commands: BTreeMap::new(),
            next_request: 1,
            reported: BTreeMap::new(),
            sent: BTreeMap::new(),
            busy: false,
        };
        let members: Vec<(u64, Role)> = (1..=voters).map(|id| (id, Role::Voter)).collect();
        let first =
            Entry { term: Term(1), kind: EntryKind::Configuration, data: configuration(&members).encode() };
        for id in 1..=voters + others {
            let mut durable = Durable { first_index: 1, ..Durable::default() };
            if id <= voters {
                durable.hard_state.term = Term(1);
                durable.entries.push(first.clone());
            }
            let node = Node {
                replica: None,
                durable,
                state: 0,
                applied: 0,
                unwritten: VecDeque::new(),
                proposed: Vec::new(),
                snapshot: None,
                done: Vec::new(),
                log_cache_bytes: 64 << 20,
            };
            cluster.nodes.insert(id, node);
            cluster.start(id);
        }
        cluster
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the cluster")
    }

    pub fn replica(&mut self, id: u64) -> &mut Replica {
        self.node(id).replica.as_mut().expect("a running node")
    }

    pub fn start(&mut self, id: u64) {
        let seed = self.random.next();
        let (threshold, trailing, now_ms) = (self.threshold, self.trailing, self.now_ms);
        let node = self.node(id);
        let config = Config {
            seed,
            snapshot_threshold: threshold,
            snapshot_trailing: trailing,
            log_cache_bytes: node.log_cache_bytes,
            ..Config::new(NodeId(id), address(id))
        };
        let loaded = node.durable.load();
        node.applied = node.durable.snapshot.as_ref().map_or(0, |snapshot| snapshot.metadata.index.0);
        node.state =
            node.durable.snapshot.as_ref().map_or(0, |snapshot| {
                u64::from_le_bytes(snapshot.data[..8].try_into().expect("eight bytes"))
            });
        node.applied = node.applied.max(u64::from(!loaded.entries.is_empty()).min(1));
        node.replica = Some(Replica::new(config, loaded, now_ms).expect("what was written can be loaded"));
        let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            for (from, to) in [(id, other), (other, id)] {
                if self.is_running(other) && !self.cut.contains(&(from, to)) {
                    self.open_stream(from, to);
                }
            }
        }
        self.pump(id);
    }

    fn open_stream(&mut self, from: u64, to: u64) {
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert((from, to), stream);
        let announcement = self.replica(from).announcement();
        self.replica(to).handle_stream_opened(stream, NodeId(from), Some(announcement));
    }

    /// The node and everything that was not durable are gone; so is what was on the wire to it.
    pub fn crash(&mut self, id: u64) {
        let node = self.node(id);
        node.replica = None;
        node.unwritten.clear();
        node.proposed.clear();
        node.snapshot = None;
        self.wires.retain(|(from, to), _| *from != id && *to != id);
        for ((from, to), stream) in std::mem::take(&mut self.streams) {
            if from == id && self.is_running(to) && !self.cut.contains(&(from, to)) {
                self.replica(to).handle_stream_ended(stream, NodeId(from));
            } else if to != id && from != id {
                self.streams.insert((from, to), stream);
            }
        }
    }

    pub fn is_running(&self, id: u64) -> bool {
        self.nodes[&id].replica.is_some()
    }

    /// Polls a node until it has nothing more to say, and checks what it says.
    pub fn pump(&mut self, id: u64) {
        let now_ms = self.now_ms;
        while let Some(output) =
            self.node(id).replica.as_mut().and_then(|replica| replica.poll_output(now_ms))
        {
            match output {
                Output::Persist(step) => self.node(id).unwritten.push_back(step),
                Output::Transmit { to, address: to_address, message } => {
                    assert_eq!(to_address, address(to.0));
                    self.check_message(id, to.0, &message);
                    if !self.cut.contains(&(id, to.0)) && self.nodes.contains_key(&to.0) {
                        self.wires.entry((id, to.0)).or_default().push_back(message);
                    }
                }
                Output::Apply(committed) => self.apply(id, &committed),
                Output::Restore(snapshot) => {
                    let node = self.node(id);
                    node.state = u64::from_le_bytes(snapshot.data[..8].try_into().expect("eight bytes"));
                    node.applied = snapshot.metadata.index.0;
                    let state = node.state;
                    node.replica.as_mut().expect("running").handle_restored(snapshot.metadata.index);
                    assert_eq!(
                        self.history.get(&snapshot.metadata.index.0),
                        Some(&state),
                        "snapshot differs"
                    );
                }
                Output::ReadSnapshot { to, metadata } => {
                    let node = self.node(id);
                    let durable = node.durable.snapshot.as_ref();
                    let data = durable.filter(|snapshot| snapshot.metadata == metadata);
                    let data = data.map(|snapshot| snapshot.data.clone()).ok_or(());
                    node.replica.as_mut().expect("running").handle_snapshot_read(to, &metadata, data);
                }
                Output::ReadEntries(read) => {
                    let node = self.node(id);
                    let first = usize::try_from(read.first.0 - node.durable.first_index).expect("on disk");
                    let entries = node.durable.entries[first..first + read.count].to_vec();
                    *self.sent.entry("read_entries").or_default() += 1;
                    self.replica(id).handle_entries_read(&read, Ok(entries));
                }
                Output::CloseStream { from, .. } => panic!("node {id} refuses what node {from} says"),
                // What is on its way is lost with the streams; the next message opens another one.
                Output::Announce => {
                    self.wires.retain(|(from, _), _| *from != id);
                    self.streams.retain(|(from, _), _| *from != id);
                }
                Output::BindIdentity { cluster, index } => {
                    self.replica(id).handle_identity_bound(cluster, index, true);
                }
                // It came back in the middle of catching up, with a log that does not name it yet.
                Output::MoveAside => {
                    let node = self.node(id);
                    let last = node.unwritten.back().map(|step| step.number);
                    for step in std::mem::take(&mut node.unwritten) {
                        node.durable.persist(&step);
                    }
                    node.durable.entries.clear();
                    node.durable.first_index = 1;
                    node.durable.snapshot = None;
                    (node.state, node.applied) = (0, 0);
                    let replica = node.replica.as_mut().expect("running");
                    last.into_iter().for_each(|number| replica.handle_persisted(number));
                    replica.handle_moved_aside(true);
                }
                Output::BecameLeader { term } => {
                    let other = self.leaders.insert(term, id);
                    assert!(other.is_none_or(|other| other == id), "two leaders in term {term}");
                }
                Output::LostLeadership => {
                    *self.sent.entry("lost leadership").or_default() += 1;
                    self.node(id).proposed.clear();
                }
                Output::RequestDone { request, result } => self.node(id).done.push((request, result)),
                Output::Failed(reason) => panic!("node {id} failed: {reason}"),
            }
        }
        self.snapshot_if_due(id);
    }

    fn snapshot_if_due(&mut self, id: u64) {
        let node = self.node(id);
        if node.snapshot.is_none()
            && let Some(metadata) = node.replica.as_mut().and_then(|replica| replica.begin_snapshot(|| 0))
        {
            assert_eq!(metadata.index.0, node.applied);
            node.snapshot = Some((metadata, node.state));
        }
    }

    /// The snapshot being written becomes durable.
    pub fn finish_snapshot(&mut self, id: u64) {
        let trailing = self.trailing;
        let node = self.node(id);
        let Some((metadata, state)) = node.snapshot.take() else { return };
        let data = Bytes::copy_from_slice(&state.to_le_bytes());
        let until = metadata.index.0.saturating_sub(trailing).min(node.durable.last());
        if until >= node.durable.first_index {
            let cut = usize::try_from(until + 1 - node.durable.first_index).expect("inside");
            node.durable.entries.drain(..cut);
            node.durable.first_index = until + 1;
        }
        node.durable.snapshot = Some(InstalledSnapshot { metadata: metadata.clone(), data });
        node.replica.as_mut().expect("running").handle_snapshot_taken(&metadata);
        self.pump(id);
    }

    fn apply(&mut self, id: u64, committed: &Committed) {
        let index = committed.index.0;
        let node = self.node(id);
        assert_eq!(index, node.applied + 1, "entries come in order, each once");
        let position =
            usize::try_from(index - node.durable.first_index).expect("applied entries are in the log");
        assert_eq!(
            node.durable.entries.get(position),
            Some(&committed.entry),
            "applied before it was durable"
        );
        node.state = chain(node.state, &committed.entry);
        node.applied = index;
        let state = node.state;
        let own = node.proposed.iter().position(|(proposed, _)| *proposed == committed.index);
        let own = own.map(|position| node.proposed.remove(position));
        node.replica.as_mut().expect("running").handle_applied(committed.index);
        let known = *self.history.entry(index).or_insert(state);
        assert_eq!(known, state, "node {id} applied another history at index {index}");
        let command = committed.entry.data.clone();
        if let Some((_, data)) = own {
            assert_eq!(data, command, "what was proposed at this index is what was applied");
            self.acknowledged.insert(index, data);
        }
        let earlier = self.commands.entry(index).or_insert_with(|| command.clone());
        assert_eq!(*earlier, command);
    }

    /// What would harm a C node, or us.
    fn check_message(&mut self, from: u64, to: u64, message: &rpc::Message) {
        let node = &self.nodes[&from];
        let kind = match message {
            rpc::Message::AppendEntries(append) if append.entries.is_empty() => "heartbeat",
            rpc::Message::AppendEntries(append) => {
                let compacted = self.nodes[&to].durable.first_index > 1;
                let says_empty = self.reported.get(&(to, from)) == Some(&0);
                assert!(
                    append.prev_log_index.0 > 0 || !compacted || says_empty,
                    "entries from the very beginning to a compacted log"
                );
                "append"
            }
            rpc::Message::AppendEntriesResult(result) => {
                assert!(result.last_log_index.0 <= node.durable.last(), "reported more than is durable");
                assert!(result.term <= node.durable.hard_state.term, "a term that is not durable");
                "result"
            }
            rpc::Message::RequestVote(request) => {
                let durable = node.durable.hard_state;
                assert!(
                    request.pre_vote || durable.term == request.term && durable.vote == Some(NodeId(from))
                );
                assert_eq!(request.last_log_index.0, node.durable.last());
                "vote"
            }
            rpc::Message::RequestVoteResult(result) => {
                let durable = node.durable.hard_state;
                let granted = result.vote_granted && result.pre_vote == Some(false);
                assert!(!granted || durable.term > result.term || durable.vote == Some(NodeId(to)));
                "vote result"
            }
            rpc::Message::InstallSnapshot(_) => "snapshot",
            rpc::Message::TimeoutNow(_) => "timeout now",
        };
        if let rpc::Message::AppendEntries(append) = message {
            assert!(append.leader_commit.0 <= append.prev_log_index.0 + append.entries.len() as u64);
            assert!(append.term <= node.durable.hard_state.term, "a leader of a term that is not durable");
            for (index, entry) in (append.prev_log_index.0 + 1..).zip(&append.entries) {
                let position = index.checked_sub(node.durable.first_index);
                let own =
                    position.and_then(|position| node.durable.entries.get(usize::try_from(position).ok()?));
                let replaced = own.is_some_and(|own| own.term != entry.term);
                assert!(
                    own.is_none_or(|own| own == entry) || replaced,
                    "another entry than its own at {index}"
                );
            }
        }
        *self.sent.entry(kind).or_default() += 1;
    }

    /// One write and one sync for everything queued.
    pub fn persist(&mut self, id: u64) {
        let node = self.node(id);
        let Some(last) = node.unwritten.back().map(|step| step.number) else { return };
        for step in std::mem::take(&mut node.unwritten) {
            node.durable.persist(&step);
        }
        node.replica.as_mut().expect("running").handle_persisted(last);
        self.pump(id);
    }

    /// Delivers the oldest message between a pair of nodes.
    pub fn deliver(&mut self, from: u64, to: u64) {
        let Some(message) = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return };
        if self.cut.contains(&(from, to)) || !self.is_running(to) {
            return;
        }
        if let rpc::Message::AppendEntriesResult(result) = &message {
            self.reported.insert((from, to), result.last_log_index.0);
        }
        let now_ms = self.now_ms;
        if !self.streams.contains_key(&(from, to)) && self.is_running(from) {
            self.open_stream(from, to);
        }
        let stream = self.streams.get(&(from, to)).copied().unwrap_or_default();
        self.replica(to).handle_message(stream, NodeId(from), &address(from), message, now_ms);
        self.pump_unless_busy(to);
    }

    /// A busy node takes in several things before it is asked what follows from them.
    fn pump_unless_busy(&mut self, id: u64) {
        if !(self.busy && self.random.chance(30)) {
            self.pump(id);
        }
    }

    fn busy_wires(&self) -> Vec<(u64, u64)> {
        self.wires.iter().filter(|(_, queue)| !queue.is_empty()).map(|(pair, _)| *pair).collect()
    }

    pub fn tick_all(&mut self, step_ms: u64) {
        self.now_ms += step_ms;
        let now_ms = self.now_ms;
        for id in self.running() {
            self.replica(id).handle_tick(now_ms);
            self.pump_unless_busy(id);
        }
    }

    pub fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.replica.is_some()).map(|(id, _)| *id).collect()
    }

    /// A well-behaved world for this long.
    pub fn run(&mut self, duration_ms: u64) {
        let end = self.now_ms + duration_ms;
        while self.now_ms < end {
            self.tick_all(100);
            for _ in 0..200 {
                for id in self.running() {
                    self.persist(id);
                    self.finish_snapshot(id);
                }
                let busy = self.busy_wires();
                if busy.is_empty() {
                    break;
                }
                for (from, to) in busy {
                    self.deliver(from, to);
                }
            }
        }
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| node.replica.as_ref().is_some_and(Replica::is_leader);
        let mut leaders: Vec<(Term, u64)> = self
            .nodes
            .iter()
            .filter(|(_, node)| leads(node))
            .map(|(id, node)| (node.replica.as_ref().expect("running").term(), *id))
            .collect();
        leaders.sort_unstable();
        leaders.last().map(|(_, id)| *id)
    }

    /// Proposes something new; `None` when the node does not lead.
    pub fn propose(&mut self, id: u64, words: usize) -> Option<LogIndex> {
        let word = self.random.next().to_le_bytes();
        let data = Bytes::from(word.repeat(words));
        let index = self.replica(id).propose(data.clone()).ok()?;
        self.node(id).proposed.push((index, data));
        self.pump_unless_busy(id);
        Some(index)
    }

    pub fn request(
        &mut self,
        id: u64,
        request: impl FnOnce(&mut Replica, RequestId) -> Result<(), ChangeError>,
    ) -> Result<RequestId, ChangeError> {
        let number = RequestId(self.next_request);
        self.next_request += 1;
        request(self.replica(id), number)?;
        self.pump(id);
        Ok(number)
    }

    /// One step of a hostile world.
    pub fn chaos(&mut self) {
        self.busy = true;
        match self.random.below(100) {
            0..=59 => {
                let busy = self.busy_wires();
                if !busy.is_empty() {
                    let pick = usize::try_from(self.random.below(busy.len() as u64)).expect("an index");
                    let (from, to) = busy[pick];
                    if self.random.chance(3) {
                        // A stream broke: what was on it is gone, and the sender may know.
                        self.wires.remove(&(from, to));
                        if self.is_running(from) && self.random.chance(50) {
                            self.replica(from).handle_unreachable(NodeId(to), true);
                            self.pump_unless_busy(from);
                        }
                    } else {
                        self.deliver(from, to);
                    }
                }
            }
            60..=79 => {
                let id = self.any_running();
                self.persist(id);
            }
            80..=88 => {
                let step_ms = 50 + self.random.below(150);
                self.tick_all(step_ms);
            }
            89..=95 => {
                if let Some(leader) = self.leader() {
                    self.propose(leader, 4);
                }
            }
            96 => {
                let id = self.any_running();
                self.finish_snapshot(id);
            }
            97 => {
                let ids: Vec<u64> = self.nodes.keys().copied().collect();
                let a = ids[usize::try_from(self.random.below(ids.len() as u64)).expect("an index")];
                let b = ids[usize::try_from(self.random.below(ids.len() as u64)).expect("an index")];
                if a != b && self.random.chance(30) {
                    self.cut.push((a, b));
                    if self.random.chance(70) {
                        self.cut.push((b, a));
                    }
                }
            }
            98 => self.cut.clear(),
            _ => {
                if self.random.chance(15) {
                    let id = self.any_running();
                    self.crash(id);
                    self.start(id);
                }
            }
        }
    }

    fn any_running(&mut self) -> u64 {
        let running = self.running();
        running[usize::try_from(self.random.below(running.len() as u64)).expect("an index")]
    }

    /// Heals everything and demands progress and agreement of the nodes in the configuration.
    pub fn heal_and_check(&mut self) {
        self.busy = false;
        self.cut.clear();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            if !self.is_running(id) {
                self.start(id);
            }
        }
        self.run(40_000);
        let states: Vec<_> = self.nodes.values().filter_map(|node| node.replica.as_ref()).collect();
        let leader = self.leader().unwrap_or_else(|| panic!("no leader in a healthy cluster: {states:#?}"));
        let index = self.propose(leader, 2).expect("a leader accepts proposals");
        self.run(3_000);
        let members = self.replica(leader).configuration().clone();
        for server in members.servers.iter().filter(|server| server.role != Role::Spare) {
            let node = &self.nodes[&server.id.0];
            assert!(node.applied >= index.0, "node {} has applied {} of {index}", server.id, node.applied);
        }
        for (index, data) in &self.acknowledged {
            assert_eq!(self.commands.get(index), Some(data), "acknowledged and lost at {index}");
        }
    }
}
