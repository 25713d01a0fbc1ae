//! A server that bootstraps or joins its cluster by itself and remembers its members: the node behind `dqlite_server_*`.
//!
//! It knows itself by `server-info`, written once its node runs for the first time, and its cluster by `node-store`,
//! written when it is a member and refreshed now and then. A start that fails can be repeated at any point: until
//! `node-store` exists, bootstrapping and the list of servers to join count as on the first day.

mod files;
mod join;
mod refresh;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wire_protocol::{NodeId, Server};

use crate::connector::{Connect, TcpConnector};
use crate::error::NodeError;
use crate::node::{Node, PendingHandover};
use crate::node_id::{BOOTSTRAP_ID, generate_node_id};
use files::ServerInfo;
use join::Seeker;
use refresh::Refresher;

pub use files::FileError;

/// How long a start waits to become a member of a cluster with a leader: time for elections, and for other servers that
/// are started at the same time.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The settings contradict each other, or something is missing.
    #[error("{0}")]
    Settings(&'static str),
    /// One of the two files is of no use.
    #[error(transparent)]
    File(#[from] FileError),
    /// The node itself.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The cluster does not take this server.
    #[error("the cluster refuses this server: {0}")]
    Refused(String),
    /// No cluster with a leader.
    #[error("not a member of a cluster with a leader within {waited:?}: {last}")]
    NoCluster {
        /// How long was tried.
        waited: Duration,
        /// What stood in the way last.
        last: String,
    },
}

/// A node that looks after its membership.
pub struct ManagedServer {
    path: PathBuf,
    address: Option<String>,
    bind_address: Option<String>,
    auto_bootstrap: bool,
    auto_join: Vec<String>,
    connect: Option<Arc<dyn Connect>>,
    start_timeout: Duration,
    id: Arc<AtomicU64>,
    running: Option<Running>,
}

struct Running {
    refresher: Refresher,
    node: Node,
}

impl std::fmt::Debug for ManagedServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ManagedServer")
            .field("path", &self.path)
            .field("address", &self.address)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

impl ManagedServer {
    /// A server whose data lives in this directory, which is not looked at yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            address: None,
            bind_address: None,
            auto_bootstrap: false,
            auto_join: Vec::new(),
            connect: None,
            start_timeout: START_TIMEOUT,
            id: Arc::default(),
            running: None,
        }
    }

    /// How others reach it; ignored when the directory already names an address.
    pub fn set_address(&mut self, address: String) {
        self.address = Some(address);
    }

    /// Where it listens, if not at its address.
    pub fn set_bind_address(&mut self, address: String) {
        self.bind_address = Some(address);
    }

    /// Whether it starts a cluster of its own when it is new.
    pub fn set_auto_bootstrap(&mut self, on: bool) {
        self.auto_bootstrap = on;
    }

    /// Servers through which it joins when it is new, in addition to those named before.
    pub fn add_auto_join(&mut self, addresses: impl IntoIterator<Item = String>) {
        self.auto_join.extend(addresses);
    }

    /// Who makes the connections to other servers.
    pub fn set_connect(&mut self, connect: Arc<dyn Connect>) {
        self.connect = Some(connect);
    }

    /// How long a start waits for a cluster; [`START_TIMEOUT`] if nothing else is said.
    pub fn set_start_timeout(&mut self, timeout: Duration) {
        self.start_timeout = timeout;
    }

    /// Where the id can be read at any time, also during a start: 0 before it is known.
    #[must_use]
    pub fn id(&self) -> &Arc<AtomicU64> {
        &self.id
    }

    /// Starts the node and waits until it is a member of a cluster and knows the leader.
    ///
    /// # Errors
    ///
    /// Says why it is not. The server is stopped then, and the start can be repeated.
    pub fn start(&mut self) -> Result<(), ServerError> {
        if self.running.is_some() {
            return Err(ServerError::Settings("the server runs already"));
        }
        if self.auto_bootstrap && !self.auto_join.is_empty() {
            return Err(ServerError::Settings("a server either bootstraps a cluster or joins one"));
        }
        let known = files::read_server_info(&self.path)?;
        let store = files::read_node_store(&self.path)?.filter(|servers| !servers.is_empty());
        let is_new = known.is_none();
        let info = match known {
            Some(info) => info,
            None if store.is_some() => {
                return Err(ServerError::Settings("there is a node-store, but no server-info"));
            }
            None => self.new_info()?,
        };
        if !files::is_line(&info.address) || info.id.0 == 0 {
            return Err(ServerError::Settings("no usable address or id"));
        }
        self.id.store(info.id.0, Ordering::Relaxed);
        let connect = self.connect.clone().unwrap_or_else(|| Arc::new(TcpConnector::default()));
        let mut node = Node::create(info.id.0, info.address.clone(), self.path.clone())?;
        node.set_connect(Arc::clone(&connect));
        node.bind(self.bind_address.as_deref().unwrap_or(&info.address))?;
        node.start()?;
        if is_new {
            files::write_server_info(&self.path, &info)?;
        }
        let addresses = match store {
            Some(servers) => servers.into_iter().map(|server| server.address).collect(),
            None => self.auto_join.clone(),
        };
        let seeker = Seeker { info, connect, view: node.view_source()? };
        let servers = seeker.become_member(addresses, self.start_timeout)?;
        if let Err(error) = files::write_node_store(&self.path, &servers) {
            tracing::warn!(%error, "the members of the cluster are not remembered");
        }
        let refresher = Refresher::start(self.path.clone(), seeker, servers)
            .map_err(|error| ServerError::Node(NodeError::Thread(error)))?;
        self.running = Some(Running { refresher, node });
        Ok(())
    }

    fn new_info(&self) -> Result<ServerInfo, ServerError> {
        let address = self.address.clone().ok_or(ServerError::Settings("no address was set"))?;
        let id = match (self.auto_bootstrap, self.auto_join.is_empty()) {
            (true, _) => BOOTSTRAP_ID,
            (false, false) => generate_node_id(address.as_bytes()),
            (false, true) => {
                return Err(ServerError::Settings("a new server neither bootstraps a cluster nor joins one"));
            }
        };
        Ok(ServerInfo { address, id: NodeId(id) })
    }

    /// See [`Node::handover`].
    ///
    /// # Errors
    ///
    /// When the server is not running.
    pub fn handover(&self) -> Result<PendingHandover, ServerError> {
        let running = self.running.as_ref().ok_or(ServerError::Settings("the server is not running"))?;
        Ok(running.node.handover()?)
    }

    /// The servers that were members when that was looked at last.
    #[must_use]
    pub fn members(&self) -> Vec<Server> {
        self.running.as_ref().map_or_else(Vec::new, |running| running.refresher.members())
    }

    /// Stops the server. Its settings stay, and it can be started again.
    ///
    /// # Errors
    ///
    /// When the server is not running.
    pub fn stop(&mut self) -> Result<(), ServerError> {
        let Running { refresher, mut node } =
            self.running.take().ok_or(ServerError::Settings("the server is not running"))?;
        refresher.stop();
        Ok(node.stop()?)
    }
}

impl Drop for ManagedServer {
    fn drop(&mut self) {
        if self.running.is_some() {
            // Cannot fail: the server is running.
            let _ = self.stop();
        }
    }
}
