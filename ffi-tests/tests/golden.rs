//! Directories written by C dqlite, loaded by our node: same rows, same last entry, same members.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use ffi_tests::Scratch;
use ffi_tests::cluster::eventually;
use ffi_tests::image::digest;
use ffi_tests::node::{Library, Node, PATIENCE, node_program};
use serde_json::{Map, Value};
use server::client::{Client, connect_leader};

/// Names and descriptions of the archives that have this key.
fn archives(key: &str) -> Vec<(String, Value)> {
    let described = golden::names().into_iter().map(|name| {
        let description = golden::description(&name);
        (name, description)
    });
    described.filter(|(_, description)| description.get(key).is_some()).collect()
}

fn unpack(name: &str, directory: &Path) {
    for (folder, files) in golden::unpack(name) {
        golden::write(&files, &directory.join(folder));
    }
}

/// The node of a description, in a directory, at an address where it disturbs nobody.
fn node(description: &Value, directory: PathBuf) -> Node {
    let mut node = Node::new(&Library::ours(), description["id"].as_u64().unwrap(), directory, &[]);
    node.address = description["address"].as_str().unwrap().to_owned();
    node
}

/// Whether each table has the rows and the digest it should have.
fn compare(mut client: impl FnMut() -> Result<Client, String>, databases: &Value) -> Result<(), String> {
    for (database, tables) in object(databases) {
        let mut client = client()?;
        client.open(database).map_err(|error| format!("open {database}: {error}"))?;
        for (table, expected) in object(tables) {
            let found = digest(&mut client, expected["select"].as_str().unwrap())?;
            let rows = usize::try_from(expected["rows"].as_u64().unwrap()).unwrap();
            let wanted = (rows, expected["sha256"].as_str().unwrap().to_owned());
            if found != wanted {
                return Err(format!("{database} {table} is {found:?}, not {wanted:?}"));
            }
        }
    }
    Ok(())
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}"))
}

/// A connection to a node that leads alone.
fn leading(node: &Node) -> Result<Client, String> {
    eventually(PATIENCE, || {
        let mut client = node.connect().map_err(|error| error.to_string())?;
        match client.leader() {
            Ok((id, _)) if id.0 == node.id => Ok(client),
            other => Err(format!("the leader is {other:?}")),
        }
    })
}

/// Ids, addresses and roles as the descriptions list them.
fn members(client: &mut Client) -> Result<Value, String> {
    let servers = client.cluster().map_err(|error| error.to_string())?;
    let member =
        |server: &server::Server| serde_json::json!([server.id.0, server.address, server.role.client_code()]);
    Ok(servers.iter().map(member).collect())
}

/// Starts the node alone, compares, and starts it again on what the first start left.
fn load_alone(mut node: Node, description: &Value, databases: &Value) -> Result<(), String> {
    if !node.library.is_stand_in() {
        // Options apply in order: the log is described as it was before a recovery.
        node.options.insert(0, "last-entry".to_owned());
        let said = node.start()?;
        if let Some(last) = description.get("describe_last_entry") {
            let wanted = format!("LAST {} {}", last["index"], last["term"]);
            if said != [wanted.clone()] {
                return Err(format!("the node said {said:?}, not {wanted}"));
            }
        }
    } else {
        node.start()?;
    }
    compare(|| leading(&node), databases)?;
    if let Some(wanted) = description.get("cluster_after_start") {
        let found = members(&mut leading(&node)?)?;
        if found != *wanted {
            return Err(format!("members are {found}, not {wanted}"));
        }
    }
    if let Some(deleted) = description.get("deleted_database").and_then(Value::as_str) {
        let mut client = leading(&node)?;
        client.open(deleted).map_err(|error| error.to_string())?;
        let tables =
            client.query_sql("SELECT name FROM sqlite_master", &[]).map_err(|error| error.to_string())?;
        if !tables.rows.is_empty() {
            return Err(format!("the deleted database holds {tables:?}"));
        }
    }
    node.stop()?;
    node.options.clear();
    node.start()?;
    compare(|| leading(&node), databases).map_err(|error| format!("second start: {error}"))?;
    node.stop()
}

/// Starts all nodes at the addresses the configuration names.
fn load_together(name: &str, description: &Value, directory: &Path) -> Result<(), String> {
    let Some(databases) = description.get("databases_after_starting_all_nodes") else { return Ok(()) };
    let directory = directory.join("together");
    unpack(name, &directory);
    let mut nodes = Vec::new();
    for (folder, about) in object(&description["nodes"]) {
        let mut node = node(about, directory.join(folder));
        node.bind = node.address.clone();
        node.start()?;
        nodes.push(node);
    }
    let addresses: Vec<String> = nodes.iter().map(|node| node.bind.clone()).collect();
    let leader = || connect_leader(&addresses, PATIENCE).map_err(|error| error.to_string());
    compare(leader, databases)?;
    let found = members(&mut leader()?)?;
    if found != description["cluster_after_start"] {
        return Err(format!("members are {found}"));
    }
    nodes.iter_mut().try_for_each(Node::stop)
}

fn load_nodes(name: &str, description: &Value, directory: &Path) -> Result<(), String> {
    for (folder, about) in object(&description["nodes"]) {
        let (databases, options) =
            match (about.get("databases"), about.get("after_recover_ext_as_single_voter")) {
                (Some(databases), _) => (databases, vec![]),
                (None, Some(databases)) => (databases, vec!["recover".to_owned()]),
                (None, None) => continue,
            };
        let alone = directory.join(format!("alone-{folder}"));
        unpack(name, &alone);
        let mut node = node(about, alone.join(folder));
        node.options = options;
        load_alone(node, about, databases).map_err(|error| format!("{folder} alone: {error}"))?;
    }
    load_together(name, description, directory).map_err(|error| format!("together: {error}"))
}

fn check(key: &str, load: impl Fn(&str, &Value, &Path) -> Result<(), String>) {
    if node_program().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut failures = Vec::new();
    for (name, description) in archives(key) {
        if let Err(error) = load(&name, &description, &scratch.path().join(&name)) {
            failures.push(format!("{name}: {error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn single_nodes() {
    check("node", |name, description, directory| {
        unpack(name, directory);
        load_alone(node(&description["node"], directory.to_owned()), description, &description["databases"])
    });
}

#[test]
fn clusters() {
    check("nodes", load_nodes);
}

/// Reaches servers where they listen now, whatever their files call them.
struct Moved(Vec<(String, String)>);

impl server::Connect for Moved {
    fn connect(&self, address: &str) -> std::io::Result<std::os::fd::OwnedFd> {
        let moved = self.0.iter().find(|(known, _)| known == address);
        let (_, listening) = moved.ok_or(std::io::ErrorKind::NotFound)?;
        server::connector::TcpConnector::default().connect(listening)
    }
}

#[test]
fn servers_of_c_go_on_with_their_files() {
    if node_program().is_none() {
        return;
    }
    let scratch = Scratch::new();
    unpack("server-api", scratch.path());
    let description = archives("nodes").into_iter().find(|(name, _)| name == "server-api").unwrap().1;
    let pairs: Vec<(String, String)> = ["s1", "s2"]
        .map(|name| {
            let address = description["nodes"][name]["address"].as_str().unwrap().to_owned();
            (address, format!("@dqlite-golden-{name}-{}", std::process::id()))
        })
        .into();
    let start = |name: &str, bind: &str| {
        let mut server = server::ManagedServer::new(scratch.path().join(name));
        server.set_bind_address(bind.to_owned());
        server.set_connect(std::sync::Arc::new(Moved(pairs.clone())));
        server.set_start_timeout(PATIENCE);
        server.start().unwrap_or_else(|error| panic!("{name}: {error}"));
        let id = server.id().load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(id, description["nodes"][name]["id"].as_u64().unwrap());
        server
    };
    let first = start("s1", &pairs[0].1);
    let second = start("s2", &pairs[1].1);
    let members = second.members();
    let known: Vec<(&str, server::Role)> =
        members.iter().map(|server| (server.address.as_str(), server.role)).collect();
    let expected = [(pairs[0].0.as_str(), server::Role::Voter), (pairs[1].0.as_str(), server::Role::Spare)];
    assert_eq!(known, expected);
    let store = fs::read_to_string(scratch.path().join("s2/node-store")).unwrap();
    let id = description["nodes"]["s2"]["id"].as_u64().unwrap();
    assert!(store.ends_with(&format!("{}\n{id}\nspare\n", pairs[1].0)), "{store}");
    drop((first, second));
}
