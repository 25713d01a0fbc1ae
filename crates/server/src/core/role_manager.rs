//! Role management: the leader keeps as many voters and stand-bys as its host wants, out of the members that are there.
//!
//! The leader knows from the log who follows it, and asks every member once a second, over a connection that stays, where
//! it stands and how much it weighs (which also tells that a spare, to whom no log goes, is there). Nothing is decided
//! before each member has answered once or has been silent for long enough.
//!
//! Invariants:
//!
//! - one change at a time, and none while a client's change, a transfer or a handover is under way;
//! - a change is made only if the voters that answer now are a majority of the voters after it, a new one not counted
//!   (but for the step from one voter to two, for which there is no other way);
//! - the leader's own role is never touched;
//! - after a surprise (refusal, failure, loss of leadership, another configuration) the rest of a plan is dropped, and
//!   a new one is made from what is known then;
//! - what a client has decided about a member stands for [`CLIENTS_DECISION_MS`].

use std::collections::{BTreeMap, VecDeque};

use raft_glue::{ChangeError, NodeId, RequestId, Role, Term};
use wire_protocol::{Configuration, Request, Response};

use super::Core;
use super::ask::Asker;
use super::roles::{self, Member, Targets};

/// How often members are asked and roles are looked at.
pub const ROUND_MS: u64 = 1_000;
/// A member that was not heard from for this long, or for an election timeout if that is longer, is offline.
pub const OFFLINE_AFTER_MS: u64 = 5_000;
/// A member may become a voter only if it was heard from within this time: two rounds and a bit.
const FRESH_MS: u64 = 2_500;
/// Longest wait for the answer of a member.
const DESCRIBE_TIMEOUT_MS: u64 = 5_000;
/// How long the role a client gave to a member is left as it is.
pub const CLIENTS_DECISION_MS: u64 = 30_000;
/// How long nothing at all is changed after a client has changed a role: its next step may follow.
const CLIENTS_NEXT_STEP_MS: u64 = 3_000;
/// How long a member that did not become what it should is not tried again.
const RETRY_MS: u64 = 60_000;

/// What the leader knows of a member.
#[derive(Debug, Default)]
struct Known {
    failure_domain: u64,
    weight: u64,
    /// Last answer.
    answered_ms: Option<u64>,
    asking: bool,
}

/// State of the role management of a node.
#[derive(Debug, Default)]
pub(super) struct RoleManager {
    /// Leadership that the rest belongs to, and since when it is watched.
    leading: Option<(Term, u64)>,
    known: BTreeMap<NodeId, Known>,
    next_round_ms: u64,
    /// Changes still to be made.
    plan: VecDeque<(NodeId, Role)>,
    /// The change that is being made.
    running: Option<(RequestId, NodeId)>,
    /// Members not to be touched before this time.
    left_alone: BTreeMap<NodeId, u64>,
    quiet_until_ms: u64,
}

impl RoleManager {
    /// Everything learned in a leadership ends with it; a change under way ends by itself.
    fn forget(&mut self) {
        let running = self.running.take();
        *self = Self { running, ..Self::default() };
    }

    fn watch(&mut self, term: Term, now_ms: u64) {
        if self.leading.is_none_or(|(known, _)| known != term) {
            self.forget();
            self.leading = Some((term, now_ms));
        }
    }
}

impl Core {
    /// Called with every tick.
    pub(super) fn manage_roles(&mut self, now_ms: u64) {
        if self.may_manage_roles() {
            self.roles.watch(self.replica.term(), now_ms);
            if now_ms >= self.roles.next_round_ms {
                self.roles.next_round_ms = now_ms + ROUND_MS;
                self.ask_members();
                self.plan_roles(now_ms);
            }
            self.change_next_role(now_ms);
        } else if self.roles.leading.is_some() {
            self.roles.forget();
        }
    }

    fn may_manage_roles(&self) -> bool {
        self.live.role_management()
            && self.failed.is_none()
            && !self.stopping
            && self.handover.is_none()
            && self.replica.serving()
            && !self.replica.transfer_pending()
    }

    /// When [`Self::manage_roles`] is wanted.
    pub(super) fn roles_deadline_ms(&self) -> Option<u64> {
        self.may_manage_roles().then_some(self.roles.next_round_ms)
    }

    fn ask_members(&mut self) {
        let own = self.config.id;
        let servers = self.replica.configuration().servers.clone();
        self.roles.known.retain(|id, _| servers.iter().any(|server| server.id == *id));
        for server in servers.into_iter().filter(|server| server.id != own) {
            let known = self.roles.known.entry(server.id).or_default();
            if !std::mem::replace(&mut known.asking, true) {
                let request = Request::Describe { format: 0, announcement: None };
                self.ask(Asker::Roles(server.id), server.address, request, DESCRIBE_TIMEOUT_MS);
            }
        }
    }

    pub(super) fn member_described(&mut self, from: NodeId, result: &Result<Response, String>, now_ms: u64) {
        let Some(known) = self.roles.known.get_mut(&from) else { return };
        known.asking = false;
        if let Ok(Response::Metadata { failure_domain, weight, .. }) = result {
            known.failure_domain = *failure_domain;
            known.weight = *weight;
            known.answered_ms = Some(now_ms);
        }
    }

    /// When this member was last heard from in this leadership, in any way.
    fn heard_ms(&self, id: NodeId) -> Option<u64> {
        let answered = self.roles.known.get(&id).and_then(|known| known.answered_ms);
        answered.max(self.replica.contact_ms(id))
    }

    fn offline_after_ms(&self) -> u64 {
        OFFLINE_AFTER_MS.max(self.replica.election_timeout_ms())
    }

    /// The members as the plan wants them; nothing as long as too little is known of one.
    fn members(&self, now_ms: u64) -> Option<Vec<Member>> {
        let (_, since_ms) = self.roles.leading?;
        let limit_ms = self.offline_after_ms();
        let mut members = Vec::new();
        for server in &self.replica.configuration().servers {
            let own = server.id == self.config.id;
            let known = self.roles.known.get(&server.id);
            // A voter is there for its acknowledgements: one whose log has failed still answers questions.
            let heard_ms = match server.role {
                Role::Voter => self.replica.contact_ms(server.id),
                _ => self.heard_ms(server.id),
            };
            let silent_ms = now_ms.saturating_sub(heard_ms.unwrap_or(since_ms));
            let described = own || known.is_some_and(|known| known.answered_ms.is_some());
            if !described && now_ms.saturating_sub(since_ms) < limit_ms {
                return None;
            }
            let (failure_domain, weight) = match known {
                _ if own => (self.live.failure_domain(), self.live.weight()),
                Some(known) => (known.failure_domain, known.weight),
                None => (0, 0),
            };
            let left_alone = self.roles.left_alone.get(&server.id).is_some_and(|until| now_ms < *until);
            let online = own || silent_ms < limit_ms;
            members.push(Member {
                id: server.id,
                role: server.role,
                online,
                failure_domain,
                weight,
                left_alone,
            });
        }
        Some(members)
    }

    fn plan_roles(&mut self, now_ms: u64) {
        if !self.roles.plan.is_empty() || self.roles.running.is_some() || now_ms < self.roles.quiet_until_ms {
            return;
        }
        self.roles.left_alone.retain(|_, until| now_ms < *until);
        let Some(members) = self.members(now_ms) else { return };
        let targets = Targets { voters: self.live.target_voters(), stand_bys: self.live.target_standbys() };
        self.roles.plan = roles::plan(targets, self.config.id, &members).into();
        if !self.roles.plan.is_empty() {
            tracing::info!(plan = ?self.roles.plan, ?members, "roles are to change");
        }
    }

    fn change_next_role(&mut self, now_ms: u64) {
        if self.roles.running.is_some() {
            return;
        }
        let Some((id, role)) = self.roles.plan.pop_front() else { return };
        if !self.keeps_quorum(id, role, now_ms) {
            self.roles.plan.clear();
            return;
        }
        let request = self.new_request();
        match self.replica.assign(request, id, role) {
            Ok(()) => {
                tracing::info!(%id, ?role, "role changes");
                self.roles.running = Some((request, id));
                self.enforce_veto();
            }
            // Somebody else's change is under way: a later plan sees what came of it.
            Err(error) => {
                tracing::debug!(%id, ?role, %error, "role cannot change now");
                self.roles.plan.clear();
            }
        }
    }

    /// Whether the voters that answer now can commit the change and go on after it.
    fn keeps_quorum(&self, id: NodeId, role: Role, now_ms: u64) -> bool {
        let own = self.config.id;
        let configuration = self.replica.configuration();
        let Some(server) = configuration.server(id) else { return false };
        if id == own || server.role == role {
            return false;
        }
        let answering = |except: NodeId| {
            let counts = |id: &NodeId| *id != except && (*id == own || self.replica.hears(*id, now_ms));
            configuration.voters().map(|server| server.id).filter(counts).count()
        };
        let fresh_ms = FRESH_MS.max(self.replica.election_timeout_ms() / 2);
        let is_fresh = self.heard_ms(id).is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < fresh_ms);
        let voters = configuration.voters().count();
        match role {
            Role::Voter if !is_fresh => false,
            Role::Voter => voters == 1 || answering(id) > voters.div_ceil(2),
            _ if server.role == Role::Voter => answering(id) > (voters - 1) / 2,
            _ => true,
        }
    }

    /// The end of a change; `false` if it was not one of role management.
    pub(super) fn role_changed(
        &mut self,
        request: RequestId,
        result: &Result<(), ChangeError>,
        now_ms: u64,
    ) -> bool {
        let Some((_, id)) = self.roles.running.take_if(|(running, _)| *running == request) else {
            return false;
        };
        if let Err(error) = result {
            tracing::info!(%id, %error, "role did not change");
            self.roles.plan.clear();
            self.roles.left_alone.insert(id, now_ms + RETRY_MS);
        }
        self.roles.next_round_ms = self.roles.next_round_ms.min(now_ms);
        true
    }

    /// A client has asked for a role: what it wants with this member, and with others next, comes first.
    pub(super) fn client_assigns(&mut self, id: NodeId, now_ms: u64) {
        self.roles.plan.clear();
        self.roles.left_alone.insert(id, now_ms + CLIENTS_DECISION_MS);
        self.roles.quiet_until_ms = now_ms + CLIENTS_NEXT_STEP_MS;
    }
}

/// Members as a node sees them that does not lead: `answers` says who has answered what.
pub(super) fn members_by_answers(
    configuration: &Configuration,
    answers: &BTreeMap<NodeId, (u64, u64)>,
) -> Vec<Member> {
    let member = |server: &wire_protocol::Server| {
        let (failure_domain, weight) = answers.get(&server.id).copied().unwrap_or_default();
        let online = answers.contains_key(&server.id);
        Member { id: server.id, role: server.role, online, failure_domain, weight, left_alone: false }
    };
    configuration.servers.iter().map(member).collect()
}
