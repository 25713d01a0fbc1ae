//! Cluster configurations as they stand in log entries, snapshot metadata and INSTALL_SNAPSHOT.

use crate::NodeId;

/// What a server takes part in. The raft encoding and the client protocol number roles differently; see the codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Counts in quorums, votes, may lead.
    Voter,
    /// Receives the log, has no vote.
    StandBy,
    /// Known to the cluster, receives nothing.
    Spare,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Identity, never 0.
    pub id: NodeId,
    /// Where to reach it, as given by whoever added it; compared and dialled literally.
    pub address: String,
    /// Its part in consensus.
    pub role: Role,
}

/// All members, in order of addition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Members; ids and addresses are unique.
    pub servers: Vec<Server>,
}

impl Configuration {
    /// The member with this id.
    #[must_use]
    pub fn server(&self, id: NodeId) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// Members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.role == Role::Voter)
    }

    /// Whether `id` has a vote.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.server(id).is_some_and(|server| server.role == Role::Voter)
    }
}
