//! A network of namespaces: one for each node, a bridge between them, and clients where the bridge is.
//!
//! Whoever uses this is in a network namespace of its own (`unshare --net --mount`), so nothing of the machine's network
//! is touched, and everything is gone when the last process in it has ended.

use std::path::Path;
use std::process::Command;

use crate::run;

/// Private addresses that exist only inside.
const PREFIX: &str = "10.77.0";

/// The namespaces of some nodes.
#[derive(Debug)]
pub struct Network {
    /// Makes names unique, since names of namespaces are known to the whole machine.
    id: u32,
    nodes: usize,
}

impl Network {
    /// Makes namespaces and a bridge.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn build(nodes: usize) -> Result<Self, String> {
        let network = Self { id: std::process::id(), nodes };
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "br0", "type", "bridge"])?;
        ip(&["addr", "add", &format!("{PREFIX}.254/24"), "dev", "br0"])?;
        ip(&["link", "set", "br0", "up"])?;
        for node in 0..nodes {
            let (name, port) = (network.namespace(node), port(node));
            ip(&["netns", "add", &name])?;
            ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["link", "set", &port, "master", "br0", "up"])?;
            let address = format!("{}/24", network.address(node));
            ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    fn namespace(&self, node: usize) -> String {
        format!("nemesis-{}-{node}", self.id)
    }

    /// Address of a node, without its port.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        format!("{PREFIX}.{}", node + 1)
    }

    /// What a node's program is started with.
    #[must_use]
    pub fn wrapper(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace(node)].map(str::to_owned).to_vec()
    }

    /// Cuts a node off from all others and from clients, or connects it again.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn set_connected(&self, node: usize, connected: bool) -> Result<(), String> {
        ip(&["link", "set", &port(node), if connected { "up" } else { "down" }])
    }

    /// Packets from one node to another vanish.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn cut(&self, from: usize, to: usize) -> Result<(), String> {
        self.route("add", from, to)
    }

    /// They arrive again.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn mend(&self, from: usize, to: usize) -> Result<(), String> {
        self.route("del", from, to)
    }

    fn route(&self, verb: &str, from: usize, to: usize) -> Result<(), String> {
        let (name, target) = (self.namespace(from), format!("{}/32", self.address(to)));
        ip(&["-n", &name, "route", verb, "blackhole", &target])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            // Whatever is left of it goes with the namespace around it.
            drop(ip(&["netns", "del", &self.namespace(node)]));
        }
    }
}

fn port(node: usize) -> String {
    format!("port{node}")
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(arguments)).map(drop)
}

/// Mounts an empty file system of this size.
///
/// # Errors
///
/// What the system refuses.
pub fn mount(directory: &Path, mib: u64) -> Result<(), String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let options = format!("size={mib}m");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory)).map(drop)
}
