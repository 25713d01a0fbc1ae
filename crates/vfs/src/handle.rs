//! What an open main file knows: its generation, the locks it holds, how far it has seen.
//!
//! The WAL file that SQLite opens for a connection shares the handle of the connection's main file. The view, and
//! the delete request, change only while the mutex of the generation is held; they are atomics so that no second mutex is
//! needed.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::database::Database;
use crate::error::Veto;
use crate::generation::Generation;
use crate::view::View;

/// Where `PRAGMA delete_database` stands in the current transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum DeleteRequest {
    None = 0,
    /// The PRAGMA ran.
    Requested = 1,
    /// SQLite gave the WRITE lock back; whether it commits or rolls back it tells next. The lock stays taken.
    Undecided = 2,
}

/// State of one connection's main file.
pub(crate) struct Handle {
    pub(crate) database: Arc<Database>,
    pub(crate) generation: Arc<Generation>,
    /// Its locks, and what it reads.
    pub(crate) view: Arc<View>,
    gate: AtomicU64,
    delete: AtomicU8,
    refused: AtomicBool,
    veto: Mutex<Option<Veto>>,
}

impl Handle {
    /// Opens the current generation; the database counts the handle.
    pub(crate) fn open(database: Arc<Database>) -> Self {
        database.handle_opened();
        let generation = database.current();
        let view = View::new();
        generation.lock().views.insert(view.id, Arc::clone(&view));
        Self {
            database,
            generation,
            view,
            gate: AtomicU64::new(0),
            delete: AtomicU8::new(0),
            refused: AtomicBool::new(false),
            veto: Mutex::new(None),
        }
    }

    /// Position of the newest frame that anything this handle did depends on.
    pub(crate) fn gate(&self) -> u64 {
        self.gate.load(Ordering::Acquire)
    }

    pub(crate) fn raise_gate(&self, position: u64) {
        self.gate.fetch_max(position, Ordering::AcqRel);
    }

    pub(crate) fn delete(&self) -> DeleteRequest {
        match self.delete.load(Ordering::Relaxed) {
            1 => DeleteRequest::Requested,
            2 => DeleteRequest::Undecided,
            _ => DeleteRequest::None,
        }
    }

    pub(crate) fn set_delete(&self, request: DeleteRequest) {
        self.delete.store(request as u8, Ordering::Relaxed);
    }

    /// Notes that a commit was refused.
    pub(crate) fn set_refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether a commit was refused since the last call.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) && self.refused.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn veto(&self) -> Option<Veto> {
        *self.veto.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_veto(&self, veto: Option<Veto>) {
        *self.veto.lock().unwrap_or_else(PoisonError::into_inner) = veto;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.generation.release_all(self);
        self.generation.lock().views.remove(&self.view.id);
        self.database.handle_closed();
    }
}
