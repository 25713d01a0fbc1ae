//! A client: finds the leader, opens a database, runs transactions, remembers what it was told.

use std::collections::VecDeque;

use wire_protocol::{Response, Role};

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
    /// Has asked for a change of the cluster.
    Administering,
}

/// A change of the cluster that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Hand leadership to a node.
    Transfer(usize),
    /// Give a node another role.
    Assign(usize, Role),
    /// Take a node out of the cluster; what happens to it then is said by the second part.
    Remove(usize, Afterwards),
    /// Take a node into the cluster, and make it a voter.
    Add(usize),
}

/// What becomes of a node that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// Its disk is emptied and it joins again.
    Replaced,
    /// It joins again with what it has.
    Rejoins,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// What it is doing.
    pub(crate) stage: Stage,
    /// Its connection.
    pub(crate) connection: Option<u64>,
    /// The node it tries next.
    pub(crate) target: Option<usize>,
    /// Its wake-up call; earlier ones are void.
    pub(crate) alarm: u64,
    /// Rows of an answer that comes in parts.
    pub(crate) rows: Option<wire_protocol::Rows>,
    /// Transactions that were committed.
    pub(crate) committed: u64,
    /// Which database it uses.
    pub(crate) bank: bool,
    /// Has sent INTERRUPT behind its request.
    pub(crate) interrupting: bool,
    /// The answer to the request, which came before that to the INTERRUPT.
    pub(crate) deferred: Option<Response>,
    /// An administrator, and what it was asked for.
    pub(crate) errands: Option<VecDeque<Errand>>,
    /// How often the errand was tried.
    pub(crate) tries: u32,
    /// Has forgotten its transaction for a while.
    pub(crate) dallies: bool,
    /// Does nothing more.
    pub(crate) retired: bool,
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
            bank: false,
            interrupting: false,
            deferred: None,
            errands: None,
            tries: 0,
            dallies: false,
            retired: false,
        }
    }
}
