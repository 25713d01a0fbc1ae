//! A client: finds the leader, opens a database, runs transactions, remembers what it was told.

use crate::workload::Transaction;

/// What a client is doing.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Waits before it connects.
    Away,
    /// Has asked to open its database.
    Opening,
    /// Has asked who leads.
    Asking,
    /// Has asked for the tables to be created.
    Creating,
    /// Waits before its next transaction.
    Thinking,
    /// Runs a transaction.
    Running(Box<Transaction>),
    /// Has asked for a failed transaction to be rolled back.
    RollingBack,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// What it is doing.
    pub stage: Stage,
    /// Its connection.
    pub connection: Option<u64>,
    /// The node it tries next.
    pub target: Option<usize>,
    /// Its wake-up call; earlier ones are void.
    pub alarm: u64,
    /// Rows of an answer that comes in parts.
    pub rows: Option<wire_protocol::Rows>,
    /// Transactions that were committed.
    pub committed: u64,
    /// Does nothing more.
    pub retired: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            stage: Stage::Away,
            connection: None,
            target: None,
            alarm: 0,
            rows: None,
            committed: 0,
            retired: false,
        }
    }
}
