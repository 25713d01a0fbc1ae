//! Several nodes that form a cluster, and what tests want to know of them all.

use std::path::Path;
use std::time::{Duration, Instant};

use server::client::{Client, connect_leader};
use server::{NodeId, Role};

use crate::image;
use crate::node::{Library, Node, PATIENCE};

/// Repeats `attempt` until it succeeds, with the error of the last attempt once `limit` is over.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => return Err(format!("after {limit:?}: {error}")),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Nodes with the ids 1, 2, 3 and so on, all voters.
#[derive(Debug)]
pub struct Cluster {
    /// In order of their ids.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Starts a node for each library below `directory`; the first bootstraps, the others join as voters.
    pub fn start(directory: &Path, libraries: &[&Library], options: &[&str]) -> Result<Self, String> {
        let nodes = libraries.iter().zip(1..);
        Self::start_nodes(
            nodes.map(|(library, id)| Node::new(library, id, directory.join(format!("n{id}")), options)),
        )
    }

    /// Starts nodes that were made before, with the ids 1, 2, 3 and so on.
    pub fn start_nodes(nodes: impl IntoIterator<Item = Node>) -> Result<Self, String> {
        let mut cluster = Self { nodes: Vec::new() };
        for mut node in nodes {
            node.start()?;
            let id = node.id;
            let address = node.address.clone();
            cluster.nodes.push(node);
            if id > 1 {
                cluster.join(NodeId(id), &address)?;
            }
        }
        Ok(cluster)
    }

    /// Makes a running node a voter, whatever part of that has been done already.
    fn join(&self, id: NodeId, address: &str) -> Result<(), String> {
        eventually(PATIENCE, || {
            let mut leader = self.leader()?;
            let known = leader.cluster().map_err(|error| error.to_string())?;
            match known.iter().find(|server| server.id == id).map(|server| server.role) {
                Some(Role::Voter) => Ok(()),
                Some(_) => leader.assign(id, Role::Voter).map_err(|error| error.to_string()),
                None => leader
                    .add(id, address)
                    .and_then(|()| leader.assign(id, Role::Voter))
                    .map_err(|error| error.to_string()),
            }
        })
    }

    /// Where the running nodes listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<&str> {
        self.nodes.iter().filter(|node| node.is_running()).map(|node| node.bind.as_str()).collect()
    }

    /// A connection to the leader.
    pub fn leader(&self) -> Result<Client, String> {
        connect_leader(&self.addresses(), PATIENCE).map_err(|error| error.to_string())
    }

    /// The position in `nodes` of whom `client` is connected to.
    ///
    /// # Panics
    ///
    /// When it is none of the nodes.
    #[must_use]
    pub fn position(&self, client: &Client) -> usize {
        let found = self.nodes.iter().position(|node| node.bind == client.address());
        found.unwrap_or_else(|| panic!("{} is no node of the cluster", client.address()))
    }

    /// Makes the node at a position in `nodes` the leader, and connects to it.
    pub fn lead(&self, position: usize) -> Result<Client, String> {
        let wanted = NodeId(self.nodes[position].id);
        eventually(PATIENCE, || {
            let mut leader = self.leader()?;
            if self.position(&leader) == position {
                return Ok(leader);
            }
            match leader.transfer(wanted) {
                Ok(()) => Err(format!("node {wanted} does not lead")),
                Err(error) => Err(format!("transfer to node {wanted}: {error}")),
            }
        })
    }

    /// Waits until all running nodes hold the same bytes under `name`, and returns them.
    pub fn equal_images(&self, name: &str) -> Result<Vec<u8>, String> {
        eventually(PATIENCE, || {
            let mut images = Vec::new();
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let mut client = node.connect().map_err(|error| error.to_string())?;
                let files = client.dump(name).map_err(|error| error.to_string())?;
                images.push((node.id, image::merged(&files)?));
            }
            let (first, image) = images.pop().ok_or("no node runs")?;
            if let Some((other, different)) = images.iter().find(|(_, candidate)| *candidate != image) {
                return Err(image::difference(&image, different)
                    .map_or_else(String::new, |place| format!("nodes {first} and {other} differ: {place}")));
            }
            Ok(image)
        })
    }

    /// An error if a node has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), String> {
        self.nodes.iter_mut().try_for_each(Node::check_alive)
    }

    /// Stops all nodes cleanly.
    pub fn stop(mut self) -> Result<(), String> {
        self.nodes.iter_mut().try_for_each(Node::stop)
    }
}
