//! Changes of the cluster: who asks for them, and what becomes of nodes that were removed.

use wire_protocol::{NodeId, Request, Response, Role};

use crate::client::{Afterwards, Client, Errand, Stage};
use crate::scenario::{MILLISECOND, SECOND};
use crate::workload::NOT_LEADER;
use crate::world::{Event, World};

/// How often an errand is tried before it is given up.
const MAX_TRIES: u32 = 30;
/// Errands that may wait.
const MAX_ERRANDS: usize = 4;
/// "a configuration change is already in progress".
const CANT_CHANGE: &str = "a configuration change is already in progress";

impl World {
    /// The client that changes the cluster; it is the last one.
    pub(crate) fn hire_administrator(&mut self) {
        self.clients.push(Client { errands: Some(Default::default()), ..Client::default() });
    }

    fn administrator(&self) -> usize {
        self.clients.len() - 1
    }

    /// Asks for a change of the cluster.
    pub(crate) fn want(&mut self, errand: Errand) {
        let client = self.administrator();
        let Some(errands) = self.clients[client].errands.as_mut() else { return };
        if errands.len() >= MAX_ERRANDS {
            return;
        }
        errands.push_back(errand);
        if errands.len() == 1 {
            self.clients[client].tries = 0;
            self.wake_client(client, 0);
        }
    }

    pub(crate) fn has_errand(&self, client: usize) -> bool {
        self.clients[client].errands.as_ref().is_some_and(|errands| !errands.is_empty())
    }

    /// Sends the request for the first errand.
    pub(crate) fn run_errand(&mut self, client: usize) {
        let state = &mut self.clients[client];
        state.tries += 1;
        let Some(errands) = state.errands.as_mut() else { return };
        let needed = matches!(errands.front(), Some(Errand::Remove(node, _)) if self.machines[*node].ruined);
        let given_up = state.tries > MAX_TRIES && !needed;
        if given_up {
            errands.pop_front();
            state.tries = 0;
            self.stats.count("errand given up");
            return self.leave(client, None);
        }
        let Some(errand) = errands.front() else { return self.leave(client, None) };
        let id = |node: &usize| self.machines[*node].id;
        let request = match errand {
            Errand::Transfer(node) => Request::Transfer { id: id(node) },
            Errand::Assign(node, role) => Request::Assign { id: id(node), role: role_number(*role) },
            Errand::Remove(node, _) => Request::Remove { id: id(node) },
            Errand::Add(node) => Request::Add { id: id(node), address: self.machines[*node].address.clone() },
        };
        self.clients[client].stage = Stage::Administering;
        self.ask(client, &request);
    }

    pub(crate) fn errand_answered(&mut self, client: usize, response: &Response) {
        match response {
            Response::Empty => self.errand_done(client),
            Response::Failure { code: NOT_LEADER, .. } => return self.look_for_leader(client),
            Response::Failure { message, .. } => {
                let text = String::from_utf8_lossy(message).into_owned();
                self.note_world("errand refused", [0, 0], || text.clone());
                if text != CANT_CHANGE {
                    self.errand_refused(client);
                }
            }
            _ => {}
        }
        self.leave(client, None);
        let wait_us = 100 * MILLISECOND + self.random.around(SECOND);
        self.wake_client(client, wait_us);
    }

    fn errand_done(&mut self, client: usize) {
        let state = &mut self.clients[client];
        state.tries = 0;
        let Some(errand) = state.errands.as_mut().and_then(std::collections::VecDeque::pop_front) else {
            return;
        };
        self.stats.count("errand done");
        self.note_world("errand done", [0, 0], || format!("{errand:?}"));
        match errand {
            Errand::Remove(node, afterwards) => {
                if afterwards == Afterwards::Replaced {
                    self.replace(node);
                }
                self.want_next(client, Errand::Add(node));
            }
            Errand::Add(node) => self.want_next(client, Errand::Assign(node, Role::Voter)),
            Errand::Transfer(_) | Errand::Assign(..) => {}
        }
    }

    /// An errand that cannot be done now is dropped, but for one without which a node would be lost.
    fn errand_refused(&mut self, client: usize) {
        let Some(errands) = self.clients[client].errands.as_mut() else { return };
        match errands.front() {
            // It may be in already, by an answer that was lost.
            Some(Errand::Add(node)) => {
                let node = *node;
                errands.pop_front();
                self.want_next(client, Errand::Assign(node, Role::Voter));
            }
            Some(Errand::Remove(node, _)) if self.machines[*node].ruined => {
                let id = self.machines[*node].id;
                let gone = |process: &crate::node::Process| {
                    let replica = process.core.replica();
                    replica.is_leader() && replica.configuration().server(id).is_none()
                };
                // It may be out already, by an answer that was lost.
                if self.machines.iter().filter_map(|machine| machine.process.as_ref()).any(gone) {
                    let node = *node;
                    errands.pop_front();
                    self.replace(node);
                    self.want_next(client, Errand::Add(node));
                }
            }
            _ => {
                errands.pop_front();
            }
        }
        self.clients[client].tries = 0;
    }

    fn want_next(&mut self, client: usize, errand: Errand) {
        if let Some(errands) = self.clients[client].errands.as_mut() {
            errands.push_front(errand);
        }
    }

    /// A node that is not in the cluster any more gets an empty disk.
    fn replace(&mut self, node: usize) {
        self.stats.count("member replaced");
        if self.machines[node].process.is_some() {
            self.kill(node);
        }
        let seed = self.random.number();
        let id = NodeId(self.next_id);
        self.next_id += 1;
        let machine = &mut self.machines[node];
        // Hosts make a new id for an empty directory: the votes of the old one are forgotten.
        machine.id = id;
        machine.disk = raft_glue::disk::MemoryDisk::new(seed);
        machine.ruined = false;
        machine.older.clear();
        machine.damaged = None;
        machine.foreign = false;
        machine.starting = true;
        if self.has_foreign_directories() {
            self.fill_with_foreign_log(node);
        }
        self.plan(SECOND, Event::Start { node });
    }

    /// A node whose directory is beyond repair leaves the cluster and comes back with an empty one.
    pub(crate) fn ruined(&mut self, node: usize) {
        self.machines[node].ruined = true;
        self.stats.count("directory beyond repair");
        let client = self.administrator();
        if let Some(errands) = self.clients[client].errands.as_mut() {
            errands.retain(|errand| !matches!(errand, Errand::Remove(other, _) if *other == node));
        }
        self.want_next(client, Errand::Remove(node, Afterwards::Replaced));
        self.clients[client].tries = 0;
        self.wake_client(client, 0);
    }
}

/// Roles as clients number them.
fn role_number(role: Role) -> u64 {
    match role {
        Role::Voter => 0,
        Role::StandBy => 1,
        Role::Spare => 2,
    }
}
