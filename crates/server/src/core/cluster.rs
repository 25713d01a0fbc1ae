//! Requests about the cluster: who leads, who is in it, who should be.

use raft_glue::{ChangeError, NodeId, RequestId, Role};
use wire_protocol::{Protocol, Response, ServersFormat};

use super::client::RequestState;
use super::codes;
use super::session::encode;
use super::{ClientId, Core};

/// What ADD, ASSIGN, REMOVE and TRANSFER ask of the replica.
#[derive(Debug)]
pub(super) enum Change {
    Add(NodeId, String),
    Assign(NodeId, Role),
    Remove(NodeId),
    Transfer(Option<NodeId>),
}

impl Core {
    /// A server that is not a voter knows no leader it could vouch for; legacy clients are told all the same.
    pub(super) fn leader_request(&mut self, client: ClientId, now_ms: u64) {
        let Some(state) = self.clients.get(&client) else { return };
        let legacy = state.protocol == Protocol::Legacy;
        let known = legacy || self.replica.configuration().is_voter(self.config.id);
        let (id, address) = self.replica.leader().filter(|_| known).unwrap_or_default();
        let response =
            if legacy { Response::ServerLegacy { address } } else { Response::Server { id, address } };
        self.respond(client, encode(&response), now_ms);
    }

    pub(super) fn cluster_request(&mut self, client: ClientId, format: u64, now_ms: u64) {
        let Some(format) = ServersFormat::from_number(format) else {
            return self.refuse(client, codes::DQLITE_PARSE, "unrecognized cluster format", now_ms);
        };
        let servers = self.replica.configuration().servers.clone();
        self.respond(client, encode(&Response::Servers { format, servers }), now_ms);
    }

    /// What this node says of itself; to a client that announced itself as a node of ours, all of it.
    pub(super) fn describe_request(&mut self, client: ClientId, format: u64, announced: bool, now_ms: u64) {
        if format != 0 {
            return self.refuse(client, codes::PROTOCOL, "bad format version", now_ms);
        }
        let response = Response::Metadata {
            failure_domain: self.live.failure_domain(),
            weight: self.live.weight(),
            announcement: announced.then(|| self.replica.announcement()),
        };
        self.respond(client, encode(&response), now_ms);
    }

    pub(super) fn add_request(&mut self, client: ClientId, id: NodeId, address: String, now_ms: u64) {
        if self.check_leading(client, now_ms) {
            self.change_checked(client, Change::Add(id, address), now_ms);
        }
    }

    pub(super) fn assign_request(&mut self, client: ClientId, id: NodeId, role: u64, now_ms: u64) {
        if !self.check_leading(client, now_ms) {
            return;
        }
        let role = match role {
            0 => Role::Voter,
            1 => Role::StandBy,
            2 => Role::Spare,
            _ => return self.refuse(client, codes::ERROR, "server role is not valid", now_ms),
        };
        self.change_checked(client, Change::Assign(id, role), now_ms);
    }

    pub(super) fn remove_request(&mut self, client: ClientId, id: NodeId, now_ms: u64) {
        if self.check_leading(client, now_ms) {
            self.change(client, Change::Remove(id), now_ms);
        }
    }

    pub(super) fn transfer_request(&mut self, client: ClientId, id: NodeId, now_ms: u64) {
        if self.check_leading(client, now_ms) {
            let target = (id.0 != 0).then_some(id);
            self.change(client, Change::Transfer(target), now_ms);
        }
    }

    pub(super) fn check_leading(&mut self, client: ClientId, now_ms: u64) -> bool {
        let leads = self.failed.is_none() && self.replica.is_leader();
        if !leads {
            self.refuse(client, codes::NOT_LEADER, "not leader", now_ms);
        }
        leads
    }

    pub(super) fn change(&mut self, client: ClientId, change: Change, now_ms: u64) {
        let request = self.new_request();
        let assigned = match &change {
            Change::Assign(id, _) => Some(*id),
            _ => None,
        };
        let accepted = match change {
            Change::Add(id, address) => self.replica.add(request, id, address),
            Change::Assign(id, role) => self.replica.assign(request, id, role),
            Change::Remove(id) => self.replica.remove(request, id),
            Change::Transfer(target) => self.replica.transfer(request, target, now_ms),
        };
        match accepted {
            Ok(()) => {
                self.cluster_requests.insert(request, client);
                if let Some(id) = assigned {
                    self.client_assigns(id, now_ms);
                }
                if let Some(state) = self.clients.get_mut(&client) {
                    state.request = RequestState::Cluster;
                }
                self.enforce_veto();
            }
            Err(error) => self.refuse_change(client, &error, now_ms),
        }
    }

    pub(super) fn cluster_request_done(
        &mut self,
        request: RequestId,
        result: Result<(), ChangeError>,
        now_ms: u64,
    ) {
        self.enforce_veto();
        if self.role_changed(request, &result, now_ms) || self.handover_request_done(request, &result, now_ms)
        {
            return;
        }
        let Some(client) = self.cluster_requests.remove(&request) else { return };
        if !matches!(self.clients.get(&client).map(|state| &state.request), Some(RequestState::Cluster)) {
            return;
        }
        match result {
            Ok(()) => self.respond(client, encode(&Response::Empty), now_ms),
            Err(error) => self.refuse_change(client, &error, now_ms),
        }
        self.close_if_dead(client);
    }

    pub(super) fn refuse_change(&mut self, client: ClientId, error: &ChangeError, now_ms: u64) {
        self.refuse(client, error.client_code(), &error.to_string(), now_ms);
    }

    /// A session whose generation ended while its client waited for something else.
    pub(super) fn close_if_dead(&mut self, client: ClientId) {
        let Some(state) = self.clients.get(&client) else { return };
        let dead = state.opened.as_ref().is_some_and(|opened| opened.dead && opened.session.is_some());
        if dead && state.is_idle() {
            self.run_close(client);
        }
    }
}
