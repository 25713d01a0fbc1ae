//! local stub
use std::collections::VecDeque;
use std::sync::Arc;
use bytes::Bytes;
use raft_glue::{NodeId, Persist, Replica, SnapshotMetadata};
use vfs::{DatabaseSnapshot, Vfs};
use wire_protocol::{Frame, Protocol, rpc};
use crate::options::LiveOptions;
pub mod limits;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobClass { Reader, Writer }
#[derive(Debug)] pub struct SqlJob;
#[derive(Debug)] pub struct SqlDone;
impl SqlJob { pub fn class(&self) -> JobClass { JobClass::Reader } pub fn run(self) -> SqlDone { SqlDone } }
pub fn restore_payload(_: &Vfs, _: &Bytes) -> Result<(), String> { Ok(()) }
/// Identity of a client socket; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What the core must know of its node.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Identity of this node.
    pub id: NodeId,
    /// Address of this node as the cluster knows it.
    pub address: String,
    /// A leader that has not heard from a quorum for this long refuses SQL, milliseconds.
    pub lease_ms: u64,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A client finished its handshake.
    ClientOpened {
        /// Who.
        client: ClientId,
        /// Which handshake.
        protocol: Protocol,
    },
    /// A client sent a whole message.
    ClientFrame {
        /// Who.
        client: ClientId,
        /// What.
        frame: Frame,
    },
    /// A client closed its sending half; what it has sent is still answered.
    ClientEof {
        /// Who.
        client: ClientId,
    },
    /// A client's socket is gone.
    ClientClosed {
        /// Who.
        client: ClientId,
    },
    /// Everything given by [`Output::Reply`] so far is in the socket.
    ClientDrained {
        /// Who.
        client: ClientId,
    },
    /// A peer sent a raft message.
    PeerMessage {
        /// Who, as announced when it connected.
        from: NodeId,
        /// Its address, as announced.
        address: String,
        /// What.
        message: rpc::Message,
    },
    /// A message to a peer could not be sent.
    PeerUnreachable {
        /// Which peer.
        to: NodeId,
        /// Whether the message was a snapshot.
        snapshot: bool,
    },
    /// An executor finished a job.
    SqlDone(SqlDone),
    /// The disk thread finished a job.
    DiskDone(DiskDone),
    /// The snapshot thread finished a job.
    SnapshotDone(SnapshotDone),
    /// Time has passed.
    Tick,
    /// Close everything; [`Output::Stopped`] follows when no job is out any more.
    Stop,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Send bytes to a client.
    Reply {
        /// To whom.
        client: ClientId,
        /// What.
        bytes: Bytes,
    },
    /// Close a client's socket once everything is sent; [`Input::ClientClosed`] follows.
    CloseClient {
        /// Whose.
        client: ClientId,
    },
    /// Stop reading a client's socket.
    PauseClient {
        /// Whose.
        client: ClientId,
    },
    /// Go on reading it.
    ResumeClient {
        /// Whose.
        client: ClientId,
    },
    /// The socket, with whatever is not decoded yet, is an inbound raft stream from now on.
    BecomePeer {
        /// Which socket.
        client: ClientId,
        /// Who the peer says it is.
        id: NodeId,
        /// Its address.
        address: String,
    },
    /// Run SQL on an executor.
    Sql(SqlJob),
    /// Do something to the log on disk; jobs keep their order.
    Disk(DiskJob),
    /// Write or read a snapshot.
    Snapshot(SnapshotJob),
    /// Send a raft message.
    Transmit {
        /// To which peer.
        to: NodeId,
        /// Its address in the configuration.
        address: String,
        /// What.
        message: rpc::Message,
    },
    /// Answer to [`Input::Stop`].
    Stopped,
    /// The node can not go on; it stays up, refuses everything and says why.
    Failed(String),
}

/// Work for the disk thread.
#[derive(Debug)]
pub enum DiskJob {
    /// Make a step durable.
    Persist(Persist),
    /// A snapshot was written: start a new segment, delete what is not needed any more.
    SnapshotTaken(SnapshotMetadata),
    /// Read old entries back for a slow peer.
    ReadEntries(raft_glue::ReadEntries),
}

/// What the disk thread has done.
#[derive(Debug)]
pub enum DiskDone {
    /// Everything up to this number is durable, or the log has failed.
    Persisted(Result<u64, String>),
    /// Segments and snapshots are trimmed.
    SnapshotTaken(SnapshotMetadata, Result<(), String>),
    /// Entries as asked.
    EntriesRead(raft_glue::ReadEntries, Result<Vec<raft_glue::Entry>, String>),
}

/// Work for the snapshot thread.
#[derive(Debug)]
pub enum SnapshotJob {
    /// Write a snapshot file.
    Write {
        /// Position and configuration.
        metadata: SnapshotMetadata,
        /// Content, in order of first use.
        databases: Vec<(Bytes, DatabaseSnapshot)>,
    },
    /// Read a snapshot file for a peer.
    Read {
        /// Which peer.
        to: NodeId,
        /// Which snapshot.
        metadata: SnapshotMetadata,
    },
}

/// What the snapshot thread has done.
#[derive(Debug)]
pub enum SnapshotDone {
    /// The file is durable, or not.
    Written {
        /// Which snapshot.
        metadata: SnapshotMetadata,
        /// How it went.
        result: Result<(), String>,
    },
    /// The content of a file, uncompressed.
    Read {
        /// For whom.
        to: NodeId,
        /// Which snapshot.
        metadata: SnapshotMetadata,
        /// Payload or reason.
        result: Result<Bytes, String>,
    },
}


#[derive(Debug)]
pub struct Core { outputs: VecDeque<Output>, _v: Arc<Vfs>, _l: Arc<LiveOptions>, _r: Replica }
impl Core {
  pub fn new(_c: CoreConfig, r: Replica, v: Arc<Vfs>, l: Arc<LiveOptions>) -> Self { Self { outputs: VecDeque::new(), _v: v, _l: l, _r: r } }
  pub fn handle(&mut self, input: Input, _now_ms: u64) { match input { Input::ClientFrame { client, frame } => self.outputs.push_back(Output::Reply { client, bytes: frame.body }), Input::Stop => self.outputs.push_back(Output::Stopped), Input::ClientEof { client } => self.outputs.push_back(Output::CloseClient { client }), _ => {} } }
  pub fn poll_output(&mut self, _now_ms: u64) -> Option<Output> { self.outputs.pop_front() }
  pub fn next_deadline_ms(&self) -> Option<u64> { None }
  pub fn tick_interval_ms(&self) -> u64 { 500 }
  pub fn is_ready(&self) -> bool { true }
  pub fn failure(&self) -> Option<&str> { None }
}
