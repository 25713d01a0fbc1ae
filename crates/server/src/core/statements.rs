//! The table of prepared statements of one connection, and binding of request parameters.

use std::collections::BTreeSet;

use vfs::{SqlError, Statement};
use wire_protocol::{Params, Value};

/// Statement ids are the smallest free slots, from 0; ids of finalized statements are used again.
#[derive(Debug, Default)]
pub(super) struct Statements {
    slots: Vec<Slot>,
    /// The free ones among them.
    free: BTreeSet<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Kept(Statement),
    /// Taken by the request that is running it.
    Running,
}

impl Statements {
    /// Number of statements.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps a statement and gives its id.
    pub(super) fn insert(&mut self, statement: Statement) -> u32 {
        let index = self.free.pop_first().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.slots[index] = Slot::Kept(statement);
        u32::try_from(index).expect("the number of statements is limited")
    }

    /// Takes a statement out to run it; its id stays taken.
    pub(super) fn take(&mut self, id: u32) -> Option<Statement> {
        let slot = self.slots.get_mut(id as usize)?;
        match std::mem::replace(slot, Slot::Running) {
            Slot::Kept(statement) => Some(statement),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Puts back a statement that was taken.
    pub(super) fn put_back(&mut self, id: u32, statement: Statement) {
        if let Some(slot @ Slot::Running) = self.slots.get_mut(id as usize) {
            *slot = Slot::Kept(statement);
        }
    }

    /// Finalizes a statement.
    pub(super) fn remove(&mut self, id: u32) {
        let index = id as usize;
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot::Free;
            self.free.insert(index);
        }
    }
}

/// Binds the next values to the parameters 1, 2, ... of `statement`, which are all NULL; missing ones stay so. Surplus
/// values stay where they are.
pub(super) fn bind_parameters(statement: &mut Statement, params: &mut Params) -> Result<(), SqlError> {
    let refused = || SqlError { code: 1, message: "bind parameters".to_owned() };
    for index in 1..=statement.parameter_count() {
        let Some(value) = params.next() else { break };
        let bound = match value.map_err(|_| refused())? {
            Value::Integer(value) => statement.bind_integer(index, value),
            Value::Float(value) => statement.bind_float(index, value),
            Value::Text(text) | Value::Iso8601(text) => statement.bind_text(index, text),
            Value::Blob(blob) => statement.bind_blob(index, blob),
            Value::Null => statement.bind_null(index),
            Value::Boolean(value) => statement.bind_integer(index, i64::from(value != 0)),
            Value::UnixTime(_) => return Err(refused()),
        };
        bound.map_err(|_| refused())?;
    }
    Ok(())
}
