//! What a [`crate::Replica`] wants done.

use wire_protocol::{ClusterId, LogIndex, NodeId, Term, rpc};

#[cfg(doc)]
use crate::Replica;
use crate::error::ChangeError;
use crate::streams::StreamId;
use crate::{Committed, InstalledSnapshot, Persist, SnapshotMetadata};

/// Name of a membership request or leadership transfer, chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Entries to read back from disk for a peer that lags behind what is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadEntries {
    /// First of them.
    pub first: LogIndex,
    /// How many; fewer are of no use.
    pub count: usize,
}

/// Something to do, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Make this durable, then call [`Replica::handle_persisted`] with its number.
    Persist(Persist),
    /// Send a message to a peer; it may be lost.
    Transmit {
        /// To whom.
        to: NodeId,
        /// Where it lives.
        address: String,
        /// What.
        message: rpc::Message,
    },
    /// Apply this entry to the state machine, then call [`Replica::handle_applied`].
    Apply(Committed),
    /// The state machine becomes what this snapshot (durable already) holds; then call [`Replica::handle_restored`].
    Restore(InstalledSnapshot),
    /// Read the content of a snapshot, then call [`Replica::handle_snapshot_read`].
    ReadSnapshot {
        /// For whom.
        to: NodeId,
        /// Which.
        metadata: SnapshotMetadata,
    },
    /// Read old entries, then call [`Replica::handle_entries_read`].
    ReadEntries(ReadEntries),
    /// Close a stream that a peer has opened to us: what came on it follows no protocol, or there is nobody to process it.
    CloseStream {
        /// The stream that a message of the peer came on, as [`Replica::handle_message`] was told.
        stream: StreamId,
        /// Who dialled it, as it calls itself.
        from: NodeId,
    },
    /// What we announce has changed: all streams to peers are to be dialled anew before anything else is sent.
    Announce,
    /// Note durably that we belong to this cluster, then call [`Replica::handle_identity_bound`].
    BindIdentity {
        /// The identity of that cluster.
        cluster: ClusterId,
        /// The committed entry to bind it to.
        index: LogIndex,
    },
    /// Move log and snapshots aside, empty the state machine, then call [`Replica::handle_moved_aside`].
    MoveAside,
    /// We lead now.
    BecameLeader {
        /// Our term.
        term: Term,
    },
    /// We do not lead any more: entries of ours that are not applied yet may be lost.
    LostLeadership,
    /// A request has ended.
    RequestDone {
        /// Which.
        request: RequestId,
        /// How.
        result: Result<(), ChangeError>,
    },
    /// This node contradicts the cluster and takes no further part in it.
    Failed(String),
}
