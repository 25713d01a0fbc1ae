//! What goes into the core and what comes out of it.

use bytes::Bytes;
use raft_glue::disk::Space;
use raft_glue::{ClusterId, LogIndex, NodeId, PeerAnnouncement, Persist, SnapshotMetadata, StreamId};
use vfs::DatabaseSnapshot;
use wire_protocol::{Frame, Protocol, Request, Response, rpc};

use super::ask::AskId;
use super::job::{SqlDone, SqlJob};

/// Identity of a client socket; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A client finished its handshake.
    ClientOpened {
        /// The client that it is about.
        client: ClientId,
        /// Which handshake.
        protocol: Protocol,
    },
    /// A client sent a whole message.
    ClientFrame {
        /// The client that it is about.
        client: ClientId,
        /// What.
        frame: Frame,
    },
    /// A client closed its sending half; what it has sent is still answered.
    ClientEof {
        /// The client that it is about.
        client: ClientId,
    },
    /// A client closed its sending half, but not all that it has sent was read yet.
    ClientDeparting {
        /// The client that it is about.
        client: ClientId,
    },
    /// A client sent what cannot be read. What came before is still answered, then the reason is told.
    ClientUnreadable {
        /// The client that it is about.
        client: ClientId,
        /// What is wrong.
        reason: String,
    },
    /// A client's socket is gone.
    ClientClosed {
        /// The client that it is about.
        client: ClientId,
    },
    /// The buffers of a client's socket hold so much; told when it has changed by [`BUDGET_GRAIN`] or more.
    ///
    /// [`BUDGET_GRAIN`]: super::limits::BUDGET_GRAIN
    ClientHolds {
        /// The client that it is about.
        client: ClientId,
        /// Of a request that has not arrived as a whole, bytes.
        input: u64,
        /// Of answers that are not in the socket, bytes.
        output: u64,
    },
    /// SQLite holds so much memory in this process; told once in a tick interval, where it can be asked.
    SqliteHolds {
        /// For everybody, bytes.
        bytes: u64,
    },
    /// A client has sent a request for which there was no memory; its bytes are gone.
    ClientRefused {
        /// The client that it is about.
        client: ClientId,
    },
    /// Everything given by [`Output::Reply`] so far is in the socket.
    ClientDrained {
        /// The client that it is about.
        client: ClientId,
    },
    /// A peer has opened a raft stream, which replaces those that it opened before.
    PeerStreamOpened {
        /// Which; never used again.
        stream: StreamId,
        /// Who, as announced when it connected.
        from: NodeId,
        /// What it said of itself; C nodes say nothing.
        announcement: Option<PeerAnnouncement>,
    },
    /// A raft stream of a peer has ended, behind all that came on it.
    PeerStreamEnded {
        /// The stream that it is about.
        stream: StreamId,
        /// The node that dialled it, as it calls itself.
        from: NodeId,
    },
    /// A peer sent a raft message.
    PeerMessage {
        /// On which of its streams.
        stream: StreamId,
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
    /// Another node has answered a question, or has not, for this reason.
    PeerAnswered {
        /// Which question.
        ask: AskId,
        /// The answer, a FAILURE included.
        result: Result<Response, String>,
    },
    /// The host wants leadership and vote to go to others; [`Output::HandoverDone`] follows.
    Handover {
        /// Name of the request, chosen by the caller.
        handover: u64,
    },
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
        /// The client that the socket belongs to.
        client: ClientId,
    },
    /// Close a client's socket now, with what it takes at once; [`Input::ClientClosed`] follows.
    AbortClient {
        /// The client that the socket belongs to.
        client: ClientId,
    },
    /// Drop what has arrived of the unfinished request of a client, and what is still to come of it;
    /// [`Input::ClientRefused`] follows behind its last byte.
    RefuseInput {
        /// The client that sends it.
        client: ClientId,
    },
    /// Stop reading a client's socket.
    PauseClient {
        /// The client that the socket belongs to.
        client: ClientId,
    },
    /// Go on reading it.
    ResumeClient {
        /// The client that the socket belongs to.
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
        /// What else it says of itself; [`Input::PeerStreamOpened`] brings it back once the stream is one.
        announcement: Option<PeerAnnouncement>,
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
    /// Close a raft stream that a peer has opened; [`Input::PeerStreamEnded`] follows. What was read of it before may still
    /// come.
    ClosePeerStream {
        /// The stream that [`Input::PeerStreamOpened`] named.
        stream: StreamId,
        /// The node that dialled it, as it calls itself.
        from: NodeId,
    },
    /// What the node announces has changed: streams to peers are dialled anew before anything else is sent.
    Announce,
    /// Ask another node something, over the client protocol; [`Input::PeerAnswered`] follows in any case.
    AskPeer {
        /// Name of the question.
        ask: AskId,
        /// Whom.
        to: NodeId,
        /// Its address in the configuration.
        address: String,
        /// What.
        request: Request,
        /// How long the answer may take, connecting included.
        timeout_ms: u64,
    },
    /// Answer to [`Input::Handover`].
    HandoverDone {
        /// Which.
        handover: u64,
        /// Why it was not done, or not all of it.
        result: Result<(), String>,
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
    /// Note which cluster the directory belongs to, bound to the committed entry at this index.
    BindIdentity(ClusterId, LogIndex),
    /// Move log and snapshots aside: they belong to another cluster than the one that the node joins.
    MoveAside,
}

/// What the disk thread has done.
#[derive(Debug)]
pub enum DiskDone {
    /// Everything up to this number is durable, or the log has failed.
    Persisted(Result<u64, String>),
    /// Segments and snapshots are trimmed.
    SnapshotTaken(SnapshotMetadata, Result<(), String>),
    /// The disk has no space for more than what was accepted already, or has it again.
    Space(Space),
    /// Entries as asked.
    EntriesRead(raft_glue::ReadEntries, Result<Vec<raft_glue::Entry>, String>),
    /// The identity is durable; or it is not, because the entry is gone or there is no space.
    IdentityBound(ClusterId, LogIndex, Result<bool, String>),
    /// Log and snapshots are aside; or they are not, because there is no space, and nothing has changed.
    MovedAside(Result<bool, String>),
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
