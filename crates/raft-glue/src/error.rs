//! Why a proposal or a membership request fails, with the numbers and texts C uses.

use thiserror::Error;

/// Why nothing can be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// We do not lead.
    #[error("server is not the leader")]
    NotLeader,
    /// We lead, but are about to hand over.
    #[error("server is not the leader")]
    TransferPending,
}

/// Why a membership change or a leadership transfer fails. The text is what C sends to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The id cannot be used here.
    #[error("server ID is not valid")]
    BadId,
    /// The id is a member already.
    #[error("server ID already in use")]
    DuplicateId,
    /// The address belongs to a member already.
    #[error("server address already in use")]
    DuplicateAddress,
    /// The member has the role already, or is the last voter.
    #[error("server role is not valid")]
    BadRole,
    /// We do not lead, or are about to hand over.
    #[error("server is not the leader")]
    NotLeader,
    /// Leadership ended before the change was applied; it may still happen.
    #[error("server has lost leadership")]
    LeadershipLost,
    /// One at a time.
    #[error("a configuration change is already in progress")]
    CantChange,
    /// The member to be promoted does not catch up.
    #[error("no connection to remote server available")]
    NoConnection,
    /// The log cannot be written any more.
    #[error("I/O error")]
    Io,
    /// No such member.
    #[error("Resource not found")]
    NotFound,
    /// The member to be has a log and an identity of another cluster.
    #[error(
        "the server belongs to another cluster: remove it from this one, stop it, empty its data directory and add it \
         again"
    )]
    OtherCluster,
    /// The cluster cannot have more members.
    #[error("a cluster has at most 1024 servers")]
    TooManyServers,
    /// The target did not take over in time; we still lead.
    #[error("leadership transfer failed")]
    TransferFailed,
}

impl ChangeError {
    /// Number of C's raft error; 24 (generic) for a failed transfer, a node of another cluster and a cluster that is full,
    /// which C does not report as raft errors.
    #[must_use]
    pub const fn raft_code(self) -> u32 {
        match self {
            Self::BadId => 2,
            Self::DuplicateId => 3,
            Self::DuplicateAddress => 4,
            Self::BadRole => 5,
            Self::NotLeader => 7,
            Self::LeadershipLost => 8,
            Self::CantChange => 11,
            Self::NoConnection => 16,
            Self::Io => 18,
            Self::NotFound => 19,
            Self::TransferFailed | Self::OtherCluster | Self::TooManyServers => 24,
        }
    }

    /// Code of the FAILURE response: IOERR_NOT_LEADER, IOERR_LEADERSHIP_LOST, BUSY or ERROR.
    #[must_use]
    pub const fn client_code(self) -> u64 {
        match self {
            Self::NotLeader => 10250,
            Self::LeadershipLost => 10506,
            Self::CantChange => 5,
            _ => 1,
        }
    }
}
