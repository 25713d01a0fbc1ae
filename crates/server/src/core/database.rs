//! What the core knows of each database: its writer lane, its replies that wait for commits, its captured
//! transactions on their way into the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use vfs::{Database, DatabaseName, Position, Vfs};

use super::lane::Lane;
use super::limits;
use super::{ClientId, leader::Batch};

/// Index of a database in [`Databases`]; never reused while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DatabaseId(pub(super) usize);

/// A reply that was computed from state which is not committed yet.
#[derive(Debug)]
pub(super) struct GatedReply {
    pub(super) client: ClientId,
    pub(super) bytes: Bytes,
    /// More batches follow.
    pub(super) more: bool,
    /// The request may have written more than one transaction, of which some may be committed.
    pub(super) batch: bool,
}

/// One database as the core sees it.
#[derive(Debug)]
pub(super) struct DatabaseState {
    pub(super) database: Arc<Database>,
    pub(super) lane: Lane,
    /// Replies by the position they wait for; the second part of the key keeps them in order of arrival.
    pub(super) gated: BTreeMap<(Position, u64), GatedReply>,
    /// Transactions taken from the capture queue that raft has refused for the moment.
    pub(super) held_back: Option<Batch>,
    /// End of the newest transaction that was proposed.
    pub(super) proposed: Position,
    /// Generation that `gated` and `proposed` belong to.
    pub(super) generation: u64,
}

impl DatabaseState {
    fn new(database: Arc<Database>) -> Self {
        let generation = database.generation();
        Self {
            database,
            lane: Lane::default(),
            gated: BTreeMap::new(),
            held_back: None,
            proposed: Position::default(),
            generation,
        }
    }

    /// Whether one more writer may run ahead of the log.
    pub(super) fn window_has_room(&self) -> bool {
        self.database.speculative_len() < limits::MAX_SPECULATIVE_TRANSACTIONS
            && self.database.speculative_bytes() < limits::MAX_SPECULATIVE_BYTES
    }
}

/// All databases that were used since the node started.
#[derive(Debug, Default)]
pub(super) struct Databases {
    states: Vec<DatabaseState>,
    by_name: HashMap<DatabaseName, DatabaseId>,
}

impl Databases {
    /// Finds or creates a database by exact name.
    pub(super) fn get_or_create(&mut self, vfs: &Vfs, name: &DatabaseName) -> DatabaseId {
        let database = vfs.get_or_create(name);
        if let Some(&id) = self.by_name.get(name) {
            let state = &mut self.states[id.0];
            if !Arc::ptr_eq(&state.database, &database) {
                // It was deleted, its last connection has gone, and now it is used again.
                state.generation = database.generation();
                state.proposed = Position::default();
                state.database = database;
            }
            return id;
        }
        let id = DatabaseId(self.states.len());
        self.states.push(DatabaseState::new(database));
        self.by_name.insert(name.clone(), id);
        id
    }

    pub(super) fn get(&self, id: DatabaseId) -> &DatabaseState {
        &self.states[id.0]
    }

    pub(super) fn get_mut(&mut self, id: DatabaseId) -> &mut DatabaseState {
        &mut self.states[id.0]
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = DatabaseId> + use<> {
        (0..self.states.len()).map(DatabaseId)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &DatabaseState> {
        self.states.iter()
    }

    /// The nearest deadline of any writer that waits.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.states.iter().filter_map(|state| state.lane.next_deadline_ms()).min()
    }
}
