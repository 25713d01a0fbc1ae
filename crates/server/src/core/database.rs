//! What the core knows of each database: its writer lane, its replies that wait for commits, its captured
//! transactions on their way into the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use vfs::{Database, DatabaseName, Position, Vfs};

use super::ClientId;
use super::batch::Batch;
use super::lane::Lane;
use super::limits;

/// Key of a database in [`Databases`]; never reused while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DatabaseId(u64);

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
    /// The generation that the last loss of leadership ended, and what `proposed` was then.
    pub(super) ended: Option<(u64, Position)>,
    /// When the WAL is to start again.
    drain: Drain,
    /// What was committed when [`Self::is_at_rest`] was last asked.
    committed_before: Position,
    /// Sessions that were opened and not yet closed.
    pub(super) sessions: usize,
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
            ended: None,
            drain: Drain::default(),
            committed_before: Position::default(),
            sessions: 0,
        }
    }

    /// Whether a transaction of this generation that ends at `end` may be in the log, and so may be committed.
    pub(super) fn may_be_proposed(&self, generation: u64, end: Position) -> bool {
        if generation == self.generation {
            return end <= self.proposed;
        }
        match self.ended {
            Some((ended, proposed)) if ended == generation => end <= proposed,
            // Nobody remembers.
            _ => true,
        }
    }

    /// Whether anything here still waits for something or may come back.
    fn is_in_use(&self) -> bool {
        self.sessions > 0 || !self.lane.is_free() || !self.gated.is_empty() || self.held_back.is_some()
    }

    /// Whether nothing was committed since the last call.
    pub(super) fn is_at_rest(&mut self) -> bool {
        let committed = self.database.committed();
        std::mem::replace(&mut self.committed_before, committed) == committed
    }

    /// Whether one more writer may run ahead of the log.
    pub(super) fn window_has_room(&mut self) -> bool {
        let ahead = self.database.speculative_len();
        ahead < limits::MAX_SPECULATIVE_TRANSACTIONS
            && self.database.speculative_bytes() < limits::MAX_SPECULATIVE_BYTES
            && !self.drain.is_due(self.database.wal_frames(), ahead)
    }
}

/// When the window is to run empty so that the WAL can start again. A reader may keep it from that; then it is tried again
/// as many frames later.
#[derive(Debug)]
pub(super) struct Drain {
    at_frames: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self { at_frames: limits::MAX_WAL_FRAMES }
    }
}

impl Drain {
    /// Whether writers have to wait, with so many frames in the WAL and so many transactions ahead of the log.
    fn is_due(&mut self, frames: u32, ahead: usize) -> bool {
        if frames < limits::MAX_WAL_FRAMES {
            self.at_frames = limits::MAX_WAL_FRAMES;
        } else if frames >= self.at_frames {
            if ahead > 0 {
                return true;
            }
            self.at_frames = frames.saturating_add(limits::MAX_WAL_FRAMES);
        }
        false
    }
}

/// All databases that are or were used since the node started, without those that left nothing behind.
#[derive(Debug, Default)]
pub(super) struct Databases {
    states: BTreeMap<DatabaseId, DatabaseState>,
    by_name: HashMap<DatabaseName, DatabaseId>,
    next_id: u64,
}

impl Databases {
    /// Finds or creates a database by exact name.
    pub(super) fn get_or_create(&mut self, vfs: &Vfs, name: &DatabaseName) -> DatabaseId {
        let database = vfs.get_or_create(name);
        if let Some(&id) = self.by_name.get(name) {
            let state = self.get_mut(id);
            if !Arc::ptr_eq(&state.database, &database) {
                // It was deleted, its last connection has gone, and now it is used again.
                state.generation = database.generation();
                state.proposed = Position::default();
                state.database = database;
            }
            return id;
        }
        let id = DatabaseId(self.next_id);
        self.next_id += 1;
        self.states.insert(id, DatabaseState::new(database));
        self.by_name.insert(name.clone(), id);
        id
    }

    /// The database of that name, if anything refers to it still.
    pub(super) fn find(&self, id: DatabaseId) -> Option<&DatabaseState> {
        self.states.get(&id)
    }

    pub(super) fn get(&self, id: DatabaseId) -> &DatabaseState {
        self.states.get(&id).expect("a database stays while anything refers to it")
    }

    pub(super) fn get_mut(&mut self, id: DatabaseId) -> &mut DatabaseState {
        self.states.get_mut(&id).expect("a database stays while anything refers to it")
    }

    /// Forgets a database that is deleted or was never written, once nothing refers to it any more.
    pub(super) fn forget_if_unused(&mut self, vfs: &Vfs, id: DatabaseId) {
        let Some(state) = self.states.get(&id) else { return };
        if state.is_in_use() {
            return;
        }
        let name = state.database.name();
        let is_current = vfs.database(name).is_some_and(|current| Arc::ptr_eq(&current, &state.database));
        if is_current && !vfs.remove_if_deleted(name) && !vfs.remove_if_pristine(name) {
            return;
        }
        self.by_name.remove(name);
        self.states.remove(&id);
    }

    pub(super) fn ids(&self) -> Vec<DatabaseId> {
        self.states.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &DatabaseState> {
        self.states.values()
    }

    /// The nearest deadline of any writer that waits.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.states.values().filter_map(|state| state.lane.next_deadline_ms()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_runs_empty_once_in_so_many_frames() {
        const LIMIT: u32 = limits::MAX_WAL_FRAMES;
        let mut drain = Drain::default();
        assert!(!drain.is_due(LIMIT - 1, 100));
        assert!(drain.is_due(LIMIT, 100));
        assert!(drain.is_due(LIMIT + 7, 1));
        // Empty, but a reader was in the way of a restart: writers go on.
        assert!(!drain.is_due(LIMIT + 7, 0));
        assert!(!drain.is_due(LIMIT + 8, 1));
        assert!(!drain.is_due(2 * LIMIT + 6, 100));
        assert!(drain.is_due(2 * LIMIT + 7, 100));
        // Started again.
        assert!(!drain.is_due(3, 5));
        assert!(drain.is_due(LIMIT, 5));
    }
}
