//! How a server becomes a member of its cluster, and finds out who else is one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wire_protocol::{NodeId, Role, Server};

use super::ServerError;
use super::files::ServerInfo;
use crate::client::{Client, ClientError};
use crate::connector::Connect;
use crate::node::ViewSource;
use crate::wake::ClusterView;

/// Longest wait for one exchange with another server.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two rounds over all servers that are known.
const PAUSE: Duration = Duration::from_millis(100);
/// "server address already in use": a refusal that no repetition changes.
const ADDRESS_IN_USE: &str = "server address already in use";

/// What it takes to look for the cluster.
pub(super) struct Seeker {
    pub(super) info: ServerInfo,
    pub(super) connect: Arc<dyn Connect>,
    pub(super) view: ViewSource,
}

impl Seeker {
    /// Waits until this server is a member and knows the leader; returns the members.
    pub(super) fn become_member(
        &self,
        mut addresses: Vec<String>,
        timeout: Duration,
    ) -> Result<Vec<Server>, ServerError> {
        let begun = Instant::now();
        let mut last = "no other server is known".to_owned();
        loop {
            let view = self.view.look()?;
            if let Some(servers) = self.member_by_view(&view) {
                return Ok(servers);
            }
            for server in view.configuration.servers {
                if !addresses.contains(&server.address) {
                    addresses.push(server.address);
                }
            }
            let leader = view.leader.map(|(_, address)| address);
            for address in leader.iter().chain(&addresses).filter(|address| **address != self.info.address) {
                let left = timeout.saturating_sub(begun.elapsed());
                if left.is_zero() {
                    break;
                }
                match self.enter_through(address, left.min(EXCHANGE_TIMEOUT)) {
                    Ok(Some(servers)) => return Ok(servers),
                    Ok(None) => {
                        last = format!("{address} knows of no leader, or none that reaches this server")
                    }
                    Err(ClientError::Failure { message, .. }) if message == ADDRESS_IN_USE => {
                        return Err(ServerError::Refused(message));
                    }
                    Err(error) => last = error.to_string(),
                }
            }
            if begun.elapsed() >= timeout {
                return Err(ServerError::NoCluster { waited: timeout, last });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A server that gets the log of a leader is a member and knows all others.
    fn member_by_view(&self, view: &ClusterView) -> Option<Vec<Server>> {
        let own = view.configuration.server(self.info.id)?;
        (view.leader.is_some() && own.role != Role::Spare).then(|| view.configuration.servers.clone())
    }

    /// Asks a server for the leader, and the leader to be let in if need be. Nothing if the server knows of no leader, or
    /// if the leader wants us to have the log and that has not come yet.
    fn enter_through(&self, address: &str, timeout: Duration) -> Result<Option<Vec<Server>>, ClientError> {
        let Some(mut leader) = self.leader_through(address, timeout)? else { return Ok(None) };
        let mut servers = leader.cluster()?;
        if !self.is_among(&servers) {
            leader.add(self.info.id, &self.info.address)?;
            servers = leader.cluster()?;
        }
        let own = servers.iter().find(|server| server.id == self.info.id);
        Ok(own.is_some_and(|server| server.role == Role::Spare).then_some(servers))
    }

    fn is_among(&self, servers: &[Server]) -> bool {
        servers.iter().any(|server| server.id == self.info.id)
    }

    /// A connection to the leader as this server knows it, if it agrees.
    fn leader_through(&self, address: &str, timeout: Duration) -> Result<Option<Client>, ClientError> {
        let mut client = self.connect(address, timeout)?;
        let (id, leader) = client.leader()?;
        if id == NodeId(0) || leader.is_empty() || id == self.info.id {
            return Ok(None);
        }
        if leader == address {
            return Ok(Some(client));
        }
        let mut client = self.connect(&leader, timeout)?;
        Ok((client.leader()?.0 == id).then_some(client))
    }

    fn connect(&self, address: &str, timeout: Duration) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Io { op: "connect to", address: address.to_owned(), source };
        Client::over(self.connect.connect(address).map_err(failed)?, address, timeout)
    }

    /// The members as the leader sees them, if one can be reached through one of these servers.
    pub(super) fn look_up_members(
        &self,
        known: &[Server],
        timeout: Duration,
        goes_on: impl Fn() -> bool,
    ) -> Option<Vec<Server>> {
        let view = self.view.look().ok()?;
        if let Some(servers) = self.member_by_view(&view) {
            return Some(servers);
        }
        for server in known.iter().filter(|server| server.id != self.info.id) {
            if !goes_on() {
                return None;
            }
            let found = self.leader_through(&server.address, timeout);
            match found.and_then(|leader| leader.map(|mut leader| leader.cluster()).transpose()) {
                Ok(Some(servers)) => return Some(servers),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "no leader through this server"),
            }
        }
        None
    }
}
