//! A whole node without threads, sockets and files, to which anybody says anything.
//!
//! The node is the one that runs everywhere else: core, replica, SQLite, and the log on a disk in memory. Time passes
//! only where the input says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};
use raft_glue::disk::{Disk, LogOptions, LogStore, MemoryDisk, bootstrap};
use raft_glue::{Configuration, NodeId, Role, Server, StreamId};
use server::assembly;
use server::core::{ClientId, Core, Input, Output};
use server::log_worker::{LogJob, LogOutcome, LogWorker};
use server::options::NodeOptions;
use server::snapshot_work;
use vfs::Vfs;
use wire_protocol::rpc::{RpcDecoder, RpcLimits};
use wire_protocol::{FrameDecoder, Params, PeerAnnouncement, Protocol, Request};

use crate::streams;

/// Clients of a run.
const CLIENTS: u64 = 3;
/// Longest request or raft message.
const MAX_LEN: usize = 1 << 16;
/// Steps of a run.
const MAX_STEPS: usize = 60;

struct Node {
    disk: MemoryDisk,
    core: Core,
    worker: LogWorker<LogStore<MemoryDisk>>,
    inputs: VecDeque<Input>,
    now_ms: u64,
    /// The newest stream of each peer.
    streams: BTreeMap<u64, StreamId>,
    next_stream: u64,
    failed: Option<String>,
    /// A reply has left since this was cleared.
    replied: bool,
}

impl Node {
    fn start(members: &[u64]) -> Self {
        let disk = MemoryDisk::new(0);
        let server = |id: &u64| Server { id: NodeId(*id), address: id.to_string(), role: Role::Voter };
        bootstrap(&disk, &Configuration { servers: members.iter().map(server).collect() })
            .expect("an empty disk in memory");
        let options = NodeOptions::default();
        let log_options = LogOptions { segment_size: 64 * 1024, ..assembly::log_options(&options) };
        let (log, loaded) = LogStore::open(disk.clone(), log_options).expect("what was just written");
        let vfs = Arc::new(Vfs::register().expect("SQLite takes another VFS"));
        let config = assembly::replica_config(NodeId(1), "1", &options, 1);
        let live = Arc::clone(options.live());
        let core = assembly::core(config, loaded, vfs, live, 0).expect("what was just written");
        let worker = LogWorker::new(log);
        let mut node = Self {
            disk,
            core,
            worker,
            inputs: VecDeque::new(),
            now_ms: 0,
            streams: BTreeMap::new(),
            next_stream: 0,
            failed: None,
            replied: false,
        };
        node.settle();
        for client in 0..CLIENTS {
            node.feed(Input::ClientOpened { client: ClientId(client), protocol: Protocol::Current });
        }
        node
    }

    /// Does everything that can be done.
    fn settle(&mut self) {
        loop {
            while let Some(input) = self.inputs.pop_front() {
                self.core.handle(input, self.now_ms);
            }
            while let Some(output) = self.core.poll_output(self.now_ms) {
                match output {
                    Output::Reply { .. } => self.replied = true,
                    Output::Sql(job) => self.inputs.push_back(Input::SqlDone(job.run())),
                    Output::Disk(job) => self.worker.push(LogJob::Answered(job)),
                    Output::Snapshot(job) => {
                        let done = snapshot_work::run(&self.disk, job, true, self.now_ms, || true);
                        self.inputs.push_back(Input::SnapshotDone(done));
                    }
                    Output::AskPeer { ask, .. } => {
                        let result = Err("nobody is there".to_owned());
                        self.inputs.push_back(Input::PeerAnswered { ask, result });
                    }
                    Output::CloseClient { client } => self.inputs.push_back(Input::ClientClosed { client }),
                    Output::Failed(reason) => self.failed = Some(reason),
                    _ => {}
                }
            }
            while let Some(outcome) = self.worker.run_next() {
                if let LogOutcome::Done(done) = outcome {
                    self.inputs.push_back(Input::DiskDone(done));
                }
            }
            if self.inputs.is_empty() {
                return;
            }
        }
    }

    fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.settle();
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(self.core.tick_interval_ms()) {
            self.now_ms += self.core.tick_interval_ms();
            self.feed(Input::Tick);
        }
    }

    /// A peer opens a stream.
    fn open(&mut self, from: u64, announcement: Option<PeerAnnouncement>) -> StreamId {
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        self.streams.insert(from, stream);
        self.feed(Input::PeerStreamOpened { stream, from: NodeId(from), announcement });
        stream
    }

    fn request(&mut self, client: u64, request: &Request) {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        self.frames(client, bytes);
    }

    fn frames(&mut self, client: u64, mut bytes: BytesMut) {
        let decoder = FrameDecoder::new(MAX_LEN);
        while let Ok(Some(frame)) = decoder.decode(&mut bytes) {
            self.feed(Input::ClientFrame { client: ClientId(client), frame });
        }
    }

    /// Bytes on the newest stream of this peer, which is opened if it has none.
    fn peer(&mut self, from: u64, mut bytes: BytesMut) {
        let stream = self.streams.get(&from).copied().unwrap_or_else(|| self.open(from, None));
        let mut decoder = RpcDecoder::new(RpcLimits { header_len: MAX_LEN, payload_len: MAX_LEN });
        while let Ok(Some(message)) = decoder.decode(&mut bytes) {
            let (from, address) = (NodeId(from), from.to_string());
            self.feed(Input::PeerMessage { stream, from, address, message });
        }
    }
}

/// One thing that happens.
#[derive(Debug, Arbitrary)]
enum Step<'a> {
    /// A request that a client might send.
    Request { client: u8, request: streams::AnyRequest },
    /// Bytes that a client sends.
    Frames { client: u8, bytes: &'a [u8] },
    /// A peer opens another stream, on which its messages come from then on.
    Stream { from: u8, choice: u64 },
    /// The newest stream of a peer ends.
    StreamEnds { from: u8 },
    /// A raft message that a peer might send.
    Message { from: u8, message: streams::AnyRpc },
    /// Bytes that a peer sends.
    Peer { from: u8, bytes: &'a [u8] },
    /// Nothing, for a while.
    Pass { ticks: u8 },
    /// A client is gone, and another one comes.
    Replace { client: u8 },
}

/// Feeds the steps; ids of peers are members if `members` are expected among the senders.
fn feed(node: &mut Node, data: &[u8], peer: impl Fn(u8) -> u64) {
    let mut input = Unstructured::new(data);
    let mut next_client = CLIENTS;
    let mut clients: Vec<u64> = (0..CLIENTS).collect();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            return;
        }
        let Ok(step) = Step::arbitrary(&mut input) else { return };
        let place = |client: u8| usize::from(client) % clients.len();
        match step {
            Step::Request { client, request } => {
                node.request(clients[place(client)], &request.into_request())
            }
            Step::Frames { client, bytes } => node.frames(clients[place(client)], BytesMut::from(bytes)),
            // Through the decoder, which keeps away what no replica has to stand.
            Step::Message { from, message } => {
                let mut bytes = BytesMut::new();
                message.into_message().encode(&mut bytes);
                node.peer(peer(from), bytes);
            }
            Step::Peer { from, bytes } => node.peer(peer(from), BytesMut::from(bytes)),
            Step::Stream { from, choice } => {
                node.open(peer(from), streams::any_announcement(choice));
            }
            Step::StreamEnds { from } => {
                if let Some(stream) = node.streams.remove(&peer(from)) {
                    node.feed(Input::PeerStreamEnded { stream, from: NodeId(peer(from)) });
                }
            }
            Step::Pass { ticks } => node.pass(u64::from(ticks % 64) * 100),
            Step::Replace { client } => {
                let place = place(client);
                node.feed(Input::ClientClosed { client: ClientId(clients[place]) });
                clients[place] = next_client;
                node.feed(Input::ClientOpened { client: ClientId(next_client), protocol: Protocol::Current });
                next_client += 1;
            }
        }
    }
}

/// Messages of clients and of strangers to a sole voter: it never fails, and goes on serving.
pub(super) fn sole_voter(data: &[u8]) {
    let mut node = Node::start(&[1]);
    feed(&mut node, data, |from| 100 + u64::from(from % 4));
    assert_eq!(node.failed, None, "a client or a stranger has made the node fail");
    // Whatever they did to terms and leadership, it leads again in time, and its databases can be written.
    let client = 1 << 32;
    node.feed(Input::ClientOpened { client: ClientId(client), protocol: Protocol::Current });
    node.pass(20_000);
    let members = node.core.replica().configuration().clone();
    if members.voters().count() > 1 || !members.is_voter(NodeId(1)) {
        // A client may give the vote to somebody who does not exist, as an operator may.
        return;
    }
    node.request(client, &Request::Open { name: Bytes::from_static(b"last"), flags: 0, vfs: Bytes::new() });
    node.replied = false;
    let before = node.core.replica().commit_index();
    let sql = Bytes::from_static(b"CREATE TABLE IF NOT EXISTS last (n); INSERT INTO last VALUES (1)");
    node.request(client, &Request::ExecSql { database: 0, sql, params: Params::none() });
    node.pass(1_000);
    assert_eq!(node.failed, None, "the node fails at work");
    assert!(node.replied && node.core.replica().commit_index() > before, "the node serves nobody any more");
    assert!(node.disk.list().is_ok());
}

/// Messages of members and of strangers to one of three voters: no panic; a stranger never makes it fail.
pub(super) fn follower(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let strangers = choice % 2 == 0;
    let mut node = Node::start(&[1, 2, 3]);
    feed(&mut node, rest, |from| if strangers { 100 + u64::from(from % 4) } else { 1 + u64::from(from % 5) });
    assert!(!strangers || node.failed.is_none(), "a stranger has made the node fail: {:?}", node.failed);
}
