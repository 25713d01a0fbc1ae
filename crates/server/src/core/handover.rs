//! Handover, the step before a planned stop: leadership goes to the voter that has most of the log, and the vote to a
//! member that has none.
//!
//! A leader transfers leadership first (a lone voter makes another one before). Whoever does not lead looks for a
//! substitute by C's rule and asks the leader, as any client could, to give it the vote and to make us a spare. All of
//! it is bounded by a deadline: a reason is told where C waits for ever.

use std::collections::{BTreeMap, BTreeSet};

use raft_glue::{ChangeError, NodeId, RequestId, Role};
use wire_protocol::{Configuration, Request, Response, ServersFormat};

use super::ask::Asker;
use super::codes;
use super::role_manager::members_by_answers;
use super::{Core, Output, roles};

/// Longest handover, milliseconds: two election timeouts (not more than [`MAX_ELECTIONS_MS`]) and this.
pub const HANDOVER_MS: u64 = 10_000;
/// Most that election timeouts add to it.
pub const MAX_ELECTIONS_MS: u64 = 50_000;
/// Longest wait for the answer to a question that takes no time.
const ANSWER_TIMEOUT_MS: u64 = 3_000;
/// Pause before something that did not work is tried again.
const PAUSE_MS: u64 = 200;

/// A handover under way.
#[derive(Debug)]
pub(super) struct Handover {
    /// Who waits for the end of it.
    waiting: Vec<u64>,
    since_ms: u64,
    deadline_ms: u64,
    stage: Stage,
    /// Counts the stages, so that late answers are told apart.
    stage_number: u64,
    /// Failure domain and weight of the members that have answered; nothing until they were asked.
    answers: Option<BTreeMap<NodeId, (u64, u64)>>,
    /// The leader, and the members as it knows them: we may know of neither.
    found: Option<(NodeId, String, Configuration)>,
    /// The leader we know of has been asked, or may be the wrong one: others are asked who leads.
    doubtful: bool,
    /// Somebody else has been made a voter.
    substituted: bool,
    /// Members that could not be made voters.
    unfit: BTreeSet<NodeId>,
    /// What kept it from going on.
    obstacle: String,
}

#[derive(Debug)]
enum Stage {
    /// What comes next is to be decided, at this time.
    Deciding(u64),
    /// Leadership moves.
    Transferring(RequestId),
    /// We lead alone, and this member becomes a voter.
    Promoting(RequestId, NodeId),
    /// Members are asked where they stand.
    Describing(BTreeSet<NodeId>),
    /// Members are asked who leads.
    Searching(BTreeSet<NodeId>),
    /// The leader is asked who is a member.
    Consulting(String),
    /// The leader is asked to make this member a voter.
    Substituting(NodeId),
    /// The leader is asked to make us a spare.
    Leaving,
}

impl Core {
    /// Begins a handover, or joins the one that is under way.
    pub(super) fn begin_handover(&mut self, handover: u64, now_ms: u64) {
        if let Some(running) = self.handover.as_mut() {
            running.waiting.push(handover);
            return;
        }
        let elections_ms = (2 * self.replica.election_timeout_ms()).min(MAX_ELECTIONS_MS);
        self.handover = Some(Handover {
            waiting: vec![handover],
            since_ms: now_ms,
            deadline_ms: now_ms + HANDOVER_MS + elections_ms,
            stage: Stage::Deciding(now_ms),
            stage_number: 0,
            answers: None,
            found: None,
            doubtful: false,
            substituted: false,
            unfit: BTreeSet::new(),
            obstacle: "nothing has happened yet".to_owned(),
        });
        self.continue_handover(now_ms);
    }

    /// Called with every tick, and whenever something has changed.
    pub(super) fn continue_handover(&mut self, now_ms: u64) {
        while let Some(handover) = &self.handover {
            if self.stopping {
                return self.end_handover(Err("the node is stopping".to_owned()));
            }
            if let Some(reason) = &self.failed {
                return self.end_handover(Err(reason.clone()));
            }
            if now_ms >= handover.deadline_ms {
                let took_ms = now_ms.saturating_sub(handover.since_ms);
                return self.end_handover(Err(format!("not done after {took_ms} ms: {}", handover.obstacle)));
            }
            match handover.stage {
                Stage::Deciding(at_ms) if at_ms <= now_ms => self.decide_handover(now_ms),
                _ => return,
            }
        }
    }

    fn end_handover(&mut self, result: Result<(), String>) {
        let Some(handover) = self.handover.take() else { return };
        for handover in handover.waiting {
            self.outputs.push_back(Output::HandoverDone { handover, result: result.clone() });
        }
    }

    fn enter(&mut self, stage: Stage) {
        if let Some(handover) = self.handover.as_mut() {
            handover.stage = stage;
            handover.stage_number += 1;
        }
    }

    /// Tries again in a moment.
    fn pause_handover(&mut self, obstacle: &str, now_ms: u64) {
        if let Some(handover) = self.handover.as_mut() {
            obstacle.clone_into(&mut handover.obstacle);
        }
        self.enter(Stage::Deciding(now_ms + PAUSE_MS));
    }

    fn decide_handover(&mut self, now_ms: u64) {
        let own = self.config.id;
        let configuration = self.replica.configuration();
        if configuration.server(own).is_none() {
            return self.end_handover(Err("this node is not a member of a cluster".to_owned()));
        }
        if self.replica.is_leader() {
            return self.hand_over_leadership(now_ms);
        }
        let Some(handover) = self.handover.as_mut() else { return };
        let role = |configuration: &Configuration| configuration.server(own).map(|server| server.role);
        if role(configuration) != Some(Role::Voter) {
            return self.end_handover(Ok(()));
        }
        // A node that has lost its vote gets no log that says so: the leader knows better.
        match handover.found.clone() {
            Some((.., configuration)) if role(&configuration) != Some(Role::Voter) => {
                self.end_handover(Ok(()));
            }
            Some((id, address, configuration)) => self.hand_over_vote(id, address, &configuration, now_ms),
            None => {
                let known = self.replica.leader().filter(|_| !handover.doubtful);
                handover.doubtful = true;
                match known {
                    Some((id, address)) => self.consult(id, address),
                    None => self.search_leader(now_ms),
                }
            }
        }
    }

    fn consult(&mut self, leader: NodeId, address: String) {
        if let Some(handover) = self.handover.as_mut() {
            "the leader does not say who is a member".clone_into(&mut handover.obstacle);
        }
        self.enter(Stage::Consulting(address.clone()));
        let request = Request::Cluster { format: ServersFormat::WithRoles.number() };
        self.ask_for_handover(leader, address, request, ANSWER_TIMEOUT_MS);
    }

    fn hand_over_leadership(&mut self, now_ms: u64) {
        let own = self.config.id;
        let configuration = self.replica.configuration();
        let others: Vec<NodeId> =
            configuration.voters().map(|server| server.id).filter(|id| *id != own).collect();
        if others.is_empty() {
            return self.substitute_as_leader(now_ms);
        }
        if !others.iter().any(|id| self.replica.hears(*id, now_ms)) {
            return self.pause_handover("no other voter answers", now_ms);
        }
        let request = self.new_request();
        match self.replica.transfer(request, None, now_ms) {
            Ok(()) => {
                self.enter(Stage::Transferring(request));
                self.enforce_veto();
            }
            Err(error) => self.pause_handover(&format!("leadership cannot move: {error}"), now_ms),
        }
    }

    /// The only voter gives the vote to another before it can give up its own.
    fn substitute_as_leader(&mut self, now_ms: u64) {
        let configuration = self.replica.configuration().clone();
        let Some(substitute) = self.next_substitute(&configuration) else { return };
        let request = self.new_request();
        match self.replica.assign(request, substitute, Role::Voter) {
            Ok(()) => {
                self.enter(Stage::Promoting(request, substitute));
                self.enforce_veto();
            }
            Err(error) => self.pause_handover(&format!("no other can become a voter: {error}"), now_ms),
        }
    }

    /// The best substitute. Nothing if the members are yet to be asked, or if that was the end of it.
    fn next_substitute(&mut self, configuration: &Configuration) -> Option<NodeId> {
        let own = self.config.id;
        let handover = self.handover.as_ref()?;
        let Some(answers) = &handover.answers else {
            self.describe_all(configuration);
            return None;
        };
        let members = members_by_answers(configuration, answers);
        let fit = |id: &NodeId| !handover.unfit.contains(id);
        let substitute = roles::substitutes(own, &members).into_iter().find(fit);
        if substitute.is_none() {
            let leads = if self.replica.is_leader() { "it still leads" } else { "it does not lead" };
            self.end_handover(Err(format!(
                "no other node that answers can take the vote of this one; {leads}"
            )));
        }
        substitute
    }

    fn describe_all(&mut self, configuration: &Configuration) {
        let own = self.config.id;
        let others: Vec<_> = configuration.servers.iter().filter(|server| server.id != own).collect();
        if let Some(handover) = self.handover.as_mut() {
            handover.answers = Some(BTreeMap::new());
            "members do not say where they stand".clone_into(&mut handover.obstacle);
        }
        if others.is_empty() {
            // Decided again at once, with the answers of nobody.
            return;
        }
        self.enter(Stage::Describing(others.iter().map(|server| server.id).collect()));
        for server in others {
            let request = Request::Describe { format: 0, announcement: None };
            self.ask_for_handover(server.id, server.address.clone(), request, ANSWER_TIMEOUT_MS);
        }
    }

    fn ask_for_handover(&mut self, to: NodeId, address: String, request: Request, timeout_ms: u64) {
        let stage = self.handover.as_ref().map_or(0, |handover| handover.stage_number);
        self.ask(Asker::Handover(to, stage), address, request, timeout_ms);
    }

    fn search_leader(&mut self, now_ms: u64) {
        let own = self.config.id;
        let servers = self.replica.configuration().servers.clone();
        let others: Vec<_> = servers.into_iter().filter(|server| server.id != own).collect();
        if others.is_empty() {
            return self.pause_handover("no leader is known", now_ms);
        }
        if let Some(handover) = self.handover.as_mut() {
            "no leader is known".clone_into(&mut handover.obstacle);
        }
        self.enter(Stage::Searching(others.iter().map(|server| server.id).collect()));
        for server in others {
            self.ask_for_handover(server.id, server.address, Request::Leader, ANSWER_TIMEOUT_MS);
        }
    }

    fn hand_over_vote(
        &mut self,
        leader: NodeId,
        address: String,
        configuration: &Configuration,
        now_ms: u64,
    ) {
        let own = self.config.id;
        let Some(handover) = self.handover.as_ref() else { return };
        let left_ms = handover.deadline_ms.saturating_sub(now_ms);
        let (stage, id, role) = if handover.substituted {
            (Stage::Leaving, own, Role::Spare)
        } else {
            let Some(substitute) = self.next_substitute(configuration) else { return };
            (Stage::Substituting(substitute), substitute, Role::Voter)
        };
        if let Some(handover) = self.handover.as_mut() {
            handover.obstacle = format!("node {leader}, the leader, does not change the role of node {id}");
        }
        self.enter(stage);
        let request = Request::Assign { id, role: role.client_code() };
        self.ask_for_handover(leader, address, request, left_ms);
    }

    /// The end of a transfer or a change; `false` if it was not one of the handover.
    pub(super) fn handover_request_done(
        &mut self,
        request: RequestId,
        result: &Result<(), ChangeError>,
        now_ms: u64,
    ) -> bool {
        let Some(handover) = self.handover.as_mut() else { return false };
        match handover.stage {
            Stage::Transferring(ours) if ours == request => {}
            Stage::Promoting(ours, substitute) if ours == request => {
                match result {
                    Ok(()) => handover.substituted = true,
                    Err(_) => drop(handover.unfit.insert(substitute)),
                };
            }
            _ => return false,
        }
        match result {
            Ok(()) => self.enter(Stage::Deciding(now_ms)),
            Err(error) => self.pause_handover(&error.to_string(), now_ms),
        }
        self.continue_handover(now_ms);
        true
    }

    /// When [`Self::continue_handover`] is wanted.
    pub(super) fn handover_deadline_ms(&self) -> Option<u64> {
        let handover = self.handover.as_ref()?;
        match handover.stage {
            Stage::Deciding(at_ms) => Some(at_ms.min(handover.deadline_ms)),
            _ => Some(handover.deadline_ms),
        }
    }

    pub(super) fn handover_answered(
        &mut self,
        from: NodeId,
        stage: u64,
        result: Result<Response, String>,
        now_ms: u64,
    ) {
        if self.handover.as_ref().is_none_or(|handover| handover.stage_number != stage) {
            return;
        }
        let Some(handover) = self.handover.as_mut() else { return };
        match &mut handover.stage {
            Stage::Describing(waiting) => {
                waiting.remove(&from);
                let last = waiting.is_empty();
                if let (Some(answers), Ok(Response::Metadata { failure_domain, weight, .. })) =
                    (handover.answers.as_mut(), result)
                {
                    answers.insert(from, (failure_domain, weight));
                }
                if last {
                    self.enter(Stage::Deciding(now_ms));
                }
            }
            Stage::Searching(waiting) => {
                waiting.remove(&from);
                let last = waiting.is_empty();
                match result {
                    Ok(Response::Server { id, address }) if id.0 != 0 && id != self.config.id => {
                        self.consult(id, address);
                    }
                    _ if last => self.pause_handover("no leader is known", now_ms),
                    _ => {}
                }
            }
            Stage::Consulting(address) => match result {
                Ok(Response::Servers { servers, .. }) => {
                    handover.found = Some((from, address.clone(), Configuration { servers }));
                    self.enter(Stage::Deciding(now_ms));
                }
                _ => self.pause_handover("the leader does not answer", now_ms),
            },
            Stage::Substituting(substitute) => {
                let substitute = *substitute;
                self.substitution_answered(substitute, result, now_ms);
            }
            Stage::Leaving => match result {
                Ok(Response::Empty) => self.end_handover(Ok(())),
                other => self.refused_by_leader(other, now_ms),
            },
            Stage::Deciding(_) | Stage::Transferring(_) | Stage::Promoting(..) => {}
        }
        self.continue_handover(now_ms);
    }

    fn substitution_answered(&mut self, substitute: NodeId, result: Result<Response, String>, now_ms: u64) {
        let Some(handover) = self.handover.as_mut() else { return };
        match result {
            Ok(Response::Empty) => {
                handover.substituted = true;
                self.enter(Stage::Deciding(now_ms));
            }
            Ok(Response::Failure { code: codes::ERROR, message }) => {
                // It may have got the vote before, by an answer that was lost.
                if *message == *ChangeError::BadRole.to_string().as_bytes() {
                    handover.substituted = true;
                } else {
                    handover.unfit.insert(substitute);
                }
                self.enter(Stage::Deciding(now_ms));
            }
            other => self.refused_by_leader(other, now_ms),
        }
    }

    /// It may be no leader any more, or busy, or it has done what we asked for and the answer was lost: what it says now
    /// is looked at afresh.
    fn refused_by_leader(&mut self, result: Result<Response, String>, now_ms: u64) {
        let obstacle = match result {
            Ok(Response::Failure { message, .. }) => {
                format!("the leader says: {}", String::from_utf8_lossy(&message))
            }
            Ok(_) => "the leader gives no sensible answer".to_owned(),
            Err(reason) => format!("the leader does not answer: {reason}"),
        };
        if let Some(handover) = self.handover.as_mut() {
            handover.found = None;
            handover.doubtful = true;
        }
        self.pause_handover(&obstacle, now_ms);
    }
}
