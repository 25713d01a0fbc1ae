//! A node as a host sees it: create, configure, start, stop.
//!
//! The methods run on the host's threads. They do the work that needs no loop (checks, binding, loading, recovery)
//! themselves and otherwise send a command to the loop thread and wait.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use raft_glue::disk::{self, DiskError, LoadError, OsDisk};
use wire_protocol::{Configuration, NodeId};

use crate::address::BoundSocket;
use crate::connector::{Connect, TcpConnector};
use crate::crew::Crew;
use crate::error::NodeError;
use crate::options::{LiveOptions, NodeOptions, OptionError};
use crate::startup::Plan;
use crate::wake::{ClusterView, Completion, Outbox};

/// One member of a cluster, with its data directory, its socket and its threads.
pub struct Node {
    id: NodeId,
    address: String,
    disk: OsDisk,
    options: NodeOptions,
    connect: Arc<dyn Connect>,
    /// Bound but not yet given to the loop.
    bound: Option<BoundSocket>,
    bind_address: Option<String>,
    state: State,
}

enum State {
    Created,
    Running {
        outbox: Outbox,
        crew: Crew,
    },
    /// Stopped, or failed to start after its socket was used: good for its texts only.
    Stopped,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Node")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("directory", &self.disk.path())
            .field("running", &self.is_running())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// A node that does nothing yet. The directory is checked but not locked, read or changed.
    ///
    /// # Errors
    ///
    /// [`NodeError::PathTooLong`] and [`NodeError::Directory`].
    pub fn create(id: u64, address: String, data_dir: PathBuf) -> Result<Self, NodeError> {
        let disk = OsDisk::new(data_dir).map_err(|error| match error {
            DiskError::Directory(text) if text == "directory path too long" => NodeError::PathTooLong,
            error => NodeError::Directory(error),
        })?;
        disk::check_metadata(&disk).map_err(NodeError::Directory)?;
        Ok(Self {
            id: NodeId(id),
            address,
            disk,
            options: NodeOptions::default(),
            connect: Arc::new(TcpConnector::default()),
            bound: None,
            bind_address: None,
            state: State::Created,
        })
    }

    /// The settings, as long as they can be changed.
    ///
    /// # Errors
    ///
    /// [`OptionError::Misuse`] while the node runs and afterwards.
    pub fn options_mut(&mut self) -> Result<&mut NodeOptions, OptionError> {
        match self.state {
            State::Created => Ok(&mut self.options),
            _ => Err(OptionError::Misuse),
        }
    }

    /// The settings that may change at any time.
    #[must_use]
    pub fn live(&self) -> &LiveOptions {
        self.options.live()
    }

    /// Makes and binds the socket to listen on; see [`crate::address`] for the forms. A second call replaces the first
    /// if it succeeds.
    ///
    /// # Errors
    ///
    /// [`NodeError::Bind`]; [`NodeError::Misuse`] once the node was started.
    pub fn bind(&mut self, address: &str) -> Result<(), NodeError> {
        if !matches!(self.state, State::Created) {
            return Err(NodeError::Misuse("the node was started already"));
        }
        let bound = BoundSocket::bind(address).map_err(NodeError::Bind)?;
        self.bind_address = Some(bound.address().to_owned());
        self.bound = Some(bound);
        Ok(())
    }

    /// The address of the last successful [`Self::bind`]; a name that the system chose is filled in.
    #[must_use]
    pub fn bind_address(&self) -> Option<&str> {
        self.bind_address.as_deref()
    }

    /// Replaces the connector. Without effect once the node was started.
    pub fn set_connect(&mut self, connect: Arc<dyn Connect>) {
        self.connect = connect;
    }

    /// Loads the directory, listens, and takes part in the cluster. Returns when everything on disk is loaded and, if
    /// this node is the only voter, when it leads.
    ///
    /// # Errors
    ///
    /// The node is unchanged after [`NodeError::Misuse`] and [`NodeError::Locked`], else good for its texts only.
    pub fn start(&mut self) -> Result<(), NodeError> {
        match self.state {
            State::Created => {}
            State::Running { .. } => return Err(NodeError::Locked),
            State::Stopped => return Err(NodeError::Misuse("a node cannot be started twice")),
        }
        if self.id.0 == 0 {
            return Err(NodeError::Misuse("the id 0 belongs to no node"));
        }
        let Some(bound) = self.bound.take() else {
            return Err(NodeError::Misuse("no bind address was set"));
        };
        let plan = Plan {
            id: self.id,
            address: &self.address,
            disk: &self.disk,
            options: &self.options,
            connect: Arc::clone(&self.connect),
        };
        let loaded = match plan.load() {
            Err(NodeError::Locked) => {
                self.bound = Some(bound);
                return Err(NodeError::Locked);
            }
            result => result,
        };
        self.state = State::Stopped;
        let loaded = loaded?;
        if let Err(source) = bound.listen() {
            let address = bound.address().to_owned();
            loaded.discard();
            return Err(NodeError::Listen { address, source });
        }
        let (started, result) = crossbeam_channel::bounded(1);
        let (event_loop, outbox) = plan.assemble(loaded, bound, started)?;
        let crew = Crew::start(event_loop, outbox.clone()).map_err(NodeError::Thread)?;
        match result.recv() {
            Ok(Ok(())) => {
                self.state = State::Running { outbox, crew };
                Ok(())
            }
            Ok(Err(reason)) => {
                crew.join();
                Err(NodeError::Failed(reason))
            }
            Err(_) => {
                crew.join();
                Err(NodeError::Failed("the node ended while it was starting".to_owned()))
            }
        }
    }

    /// Closes all connections, writes down what is under way and ends all threads. Waits for all of that, also for a
    /// connect function that is being called.
    ///
    /// # Errors
    ///
    /// [`NodeError::Misuse`] when the node is not running.
    pub fn stop(&mut self) -> Result<(), NodeError> {
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Running { outbox, crew } => {
                self.connect.cancel();
                outbox.send(Completion::Stop);
                crew.join();
                Ok(())
            }
            other => {
                self.state = other;
                Err(NodeError::Misuse("the node is not running"))
            }
        }
    }

    /// Begins to prepare a stop: leadership goes to the voter that has most of the log, the vote to a member that has
    /// none. Others may use the node, and stop it, while the outcome is waited for.
    ///
    /// # Errors
    ///
    /// [`NodeError::Misuse`] when the node is not running.
    pub fn handover(&self) -> Result<PendingHandover, NodeError> {
        let State::Running { outbox, .. } = &self.state else {
            return Err(NodeError::Misuse("the node is not running"));
        };
        let (done, result) = crossbeam_channel::bounded(1);
        outbox.send(Completion::Handover(done));
        Ok(PendingHandover { result })
    }

    /// Where the cluster can be looked at as this node knows it, also by threads that do not own the node.
    ///
    /// # Errors
    ///
    /// [`NodeError::Misuse`] when the node is not running.
    pub fn view_source(&self) -> Result<ViewSource, NodeError> {
        match &self.state {
            State::Running { outbox, .. } => Ok(ViewSource { outbox: outbox.clone() }),
            _ => Err(NodeError::Misuse("the node is not running")),
        }
    }

    /// Whether [`Self::start`] succeeded and [`Self::stop`] was not called yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Appends a new configuration to the log, for a cluster that lost its majority.
    ///
    /// # Errors
    ///
    /// [`NodeError::Locked`] while any node runs in the directory, [`NodeError::Recover`] when the log cannot be read or
    /// written, [`NodeError::Misuse`] after a stop.
    pub fn recover(&mut self, configuration: Configuration) -> Result<(), NodeError> {
        match self.state {
            State::Created => {}
            State::Running { .. } => return Err(NodeError::Locked),
            State::Stopped => return Err(NodeError::Misuse("the node was stopped")),
        }
        disk::recover(&self.disk, &configuration).map_err(|error| match error {
            LoadError::Disk(DiskError::Locked) => NodeError::Locked,
            error => NodeError::Recover(error),
        })
    }

    /// Index and term of the last entry in the directory, 0 and 0 when there is none. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`NodeError::Describe`] when the log cannot be read.
    pub fn describe_last_entry(&self) -> Result<(u64, u64), NodeError> {
        disk::describe_last_entry(&self.disk)
            .map(|(index, term)| (index.0, term.0))
            .map_err(NodeError::Describe)
    }
}

/// Looks at the cluster through a running node.
#[derive(Clone, Debug)]
pub struct ViewSource {
    outbox: Outbox,
}

impl ViewSource {
    /// The cluster as the node knows it now.
    ///
    /// # Errors
    ///
    /// [`NodeError::Failed`] when the node has ended.
    pub fn look(&self) -> Result<ClusterView, NodeError> {
        let (answer, view) = crossbeam_channel::bounded(1);
        self.outbox.send(Completion::Consult(answer));
        view.recv().map_err(|_| NodeError::Failed("the node has ended".to_owned()))
    }
}

/// A handover under way.
#[derive(Debug)]
pub struct PendingHandover {
    result: Receiver<Result<(), String>>,
}

impl PendingHandover {
    /// Waits for its end, which comes in bounded time.
    ///
    /// # Errors
    ///
    /// [`NodeError::Handover`] says what could not be handed over and why.
    pub fn wait(self) -> Result<(), NodeError> {
        match self.result.recv() {
            Ok(result) => result.map_err(NodeError::Handover),
            Err(_) => Err(NodeError::Handover("the node was stopped meanwhile".to_owned())),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.is_running() {
            // Cannot fail: the node is running.
            let _ = self.stop();
        }
    }
}
