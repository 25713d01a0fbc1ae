//! Servers that bootstrap and join by themselves.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{eventually, unique_address};
use server::client::{Client, connect_leader};
use server::managed::{ManagedServer, ServerError};
use server::{NodeId, Role};
use tempfile::TempDir;
use wire_protocol::Value;

/// Longest wait for a start, with elections after three to six seconds, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// A stop is a matter of a second or two; the rest is for a busy machine.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

struct Place {
    directory: TempDir,
    address: String,
}

impl Place {
    fn new(address: String) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), address }
    }

    fn server(&self) -> ManagedServer {
        let mut server = ManagedServer::new(self.directory.path().to_owned());
        server.set_address(self.address.clone());
        server.set_start_timeout(PATIENCE);
        server
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.directory.path().join(name), content).unwrap();
    }

    fn client(&self) -> Client {
        Client::connect(&self.address, PATIENCE).unwrap()
    }
}

fn places(count: usize) -> Vec<Place> {
    (0..count).map(|_| Place::new(unique_address())).collect()
}

/// Starts them all at once, each on a thread, in this order with a pause before each but the first.
fn start_together(mut servers: Vec<ManagedServer>, order: &[usize], pause: Duration) -> Vec<ManagedServer> {
    let mut waiting: Vec<Option<ManagedServer>> = servers.drain(..).map(Some).collect();
    let threads: Vec<_> = order
        .iter()
        .map(|&index| {
            let mut server = waiting[index].take().unwrap();
            let thread = std::thread::spawn(move || {
                server.start().unwrap_or_else(|error| panic!("server {index}: {error}"));
                server
            });
            std::thread::sleep(pause);
            (index, thread)
        })
        .collect();
    let mut started: Vec<_> =
        threads.into_iter().map(|(index, thread)| (index, thread.join().unwrap())).collect();
    started.sort_by_key(|(index, _)| *index);
    started.into_iter().map(|(_, server)| server).collect()
}

fn addresses(places: &[Place]) -> Vec<String> {
    places.iter().map(|place| place.address.clone()).collect()
}

/// The first bootstraps; the others join through any of the list.
fn configured(places: &[Place]) -> Vec<ManagedServer> {
    let configure = |(index, place): (usize, &Place)| {
        let mut server = place.server();
        if index == 0 {
            server.set_auto_bootstrap(true);
        } else {
            server.add_auto_join(addresses(places));
        }
        server
    };
    places.iter().enumerate().map(configure).collect()
}

fn insert(addresses: &[String], number: i64) {
    eventually("a write", || {
        let mut client = connect_leader(addresses, PATIENCE).unwrap();
        let create = "CREATE TABLE IF NOT EXISTS t (n INTEGER UNIQUE)";
        client.open("test").and_then(|()| client.exec_sql(create, &[])).is_ok()
            && client.exec_sql("INSERT OR IGNORE INTO t VALUES (?)", &[Value::Integer(number)]).is_ok()
    });
}

fn stop_quickly(server: &mut ManagedServer) {
    let begun = Instant::now();
    server.stop().unwrap();
    assert!(begun.elapsed() < STOP_PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn clusters_of_one_to_seven_form_in_any_order_and_restart_as_a_whole() {
    for (count, reversed) in [(1, false), (2, true), (3, false), (3, true), (5, true), (7, false)] {
        let places = places(count);
        let mut order: Vec<usize> = (0..count).collect();
        if reversed {
            order.reverse();
        }
        let pause = Duration::from_millis(if reversed { 200 } else { 0 });
        let mut servers = start_together(configured(&places), &order, pause);
        let mut leader = places[0].client();
        let members = leader.cluster().unwrap();
        assert_eq!(members.len(), count);
        for (server, place) in servers.iter().zip(&places) {
            let id = server.id().load(Ordering::Relaxed);
            assert!(members.iter().any(|member| member.id.0 == id && member.address == place.address));
            assert!(server.members().iter().any(|member| member.id.0 == id));
            assert_eq!(place.file("server-info"), format!("v1\n{}\n{id}\n", place.address));
            assert!(place.file("node-store").starts_with("v1\n"));
        }
        // All but one of them get the log.
        for (position, member) in members.iter().enumerate().skip(1) {
            let role = if position < 3 { Role::Voter } else { Role::StandBy };
            if position + 1 < count || count == 3 {
                eventually("a role", || leader.assign(member.id, role).is_ok());
            }
        }
        insert(&addresses(&places), 1);
        drop(leader);
        servers.iter_mut().for_each(stop_quickly);
        // What they were told to join through is not needed any more; the order is another one.
        order.reverse();
        let servers = start_together(servers, &order, pause);
        insert(&addresses(&places), 2);
        let mut client = connect_leader(&addresses(&places), PATIENCE).unwrap();
        client.open("test").unwrap();
        assert_eq!(common::one(&mut client, "SELECT count(*) FROM t"), Value::Integer(2), "{count}");
        assert_eq!(client.cluster().unwrap().len(), count);
        drop(servers);
    }
}

#[test]
fn cluster_shrinks_to_one_and_grows_again() {
    let places = places(3);
    let mut servers = start_together(configured(&places), &[0, 1, 2], Duration::ZERO);
    let mut leader = places[0].client();
    let ids: Vec<NodeId> = servers.iter().map(|server| NodeId(server.id().load(Ordering::Relaxed))).collect();
    for id in &ids[1..] {
        eventually("a role", || leader.assign(*id, Role::Voter).is_ok());
    }
    insert(&addresses(&places), 1);
    for index in [1, 2] {
        eventually("a removal", || {
            let mut leader = connect_leader(&addresses(&places), PATIENCE).unwrap();
            leader.remove(ids[index]).is_ok()
                || leader.cluster().is_ok_and(|servers| servers.iter().all(|server| server.id != ids[index]))
        });
        stop_quickly(&mut servers[index]);
    }
    let mut leader = connect_leader(&addresses(&places[..1]), PATIENCE).unwrap();
    assert_eq!(leader.cluster().unwrap().len(), 1);
    insert(&addresses(&places[..1]), 2);
    // They come back with what they have, and are let in again.
    for index in [1, 2] {
        servers[index].start().unwrap();
        eventually("a role", || leader.assign(ids[index], Role::Voter).is_ok());
    }
    insert(&addresses(&places), 3);
    assert_eq!(leader.cluster().unwrap().iter().filter(|server| server.role == Role::Voter).count(), 3);
}

#[test]
fn a_start_that_failed_can_be_repeated() {
    let places = places(2);
    let mut joining = places[1].server();
    joining.set_start_timeout(Duration::from_millis(300));
    joining.add_auto_join([places[0].address.clone()]);
    assert_eq!(joining.id().load(Ordering::Relaxed), 0);
    let error = joining.start().unwrap_err();
    assert!(matches!(error, ServerError::NoCluster { .. }), "{error}");
    let id = joining.id().load(Ordering::Relaxed);
    assert_ne!(id, 0, "it has an id");
    assert!(joining.stop().is_err(), "and does not run");

    // The first start of the one that bootstraps fails half-way too: its node has started, nothing else is written.
    let mut first = places[0].server();
    first.set_auto_bootstrap(true);
    places[0].write("server-info-tmp", "");
    let blocked = places[0].directory.path().join("server-info-tmp");
    std::fs::remove_file(&blocked).unwrap();
    std::fs::create_dir(&blocked).unwrap();
    let error = first.start().unwrap_err();
    assert!(matches!(error, ServerError::File(_)), "{error}");
    std::fs::remove_dir(&blocked).unwrap();
    first.start().unwrap();
    joining.set_start_timeout(PATIENCE);
    joining.start().unwrap();
    assert_eq!(joining.id().load(Ordering::Relaxed), id, "it is the same one still");
    assert_eq!(places[0].client().cluster().unwrap().len(), 2);

    // C cannot start a server again whose first start came as far as server-info.
    stop_quickly(&mut joining);
    stop_quickly(&mut first);
    std::fs::remove_file(places[0].directory.path().join("node-store")).unwrap();
    let mut again = ManagedServer::new(places[0].directory.path().to_owned());
    again.set_auto_bootstrap(true);
    again.start().unwrap();
}

#[test]
fn settings_and_files_that_make_no_sense_are_refused() {
    let place = Place::new(unique_address());
    let refused = |server: &mut ManagedServer| {
        let error = server.start().unwrap_err();
        assert!(matches!(error, ServerError::Settings(_) | ServerError::File(_)), "{error}");
    };
    let mut both = place.server();
    both.set_auto_bootstrap(true);
    both.add_auto_join(["@nobody".to_owned()]);
    refused(&mut both);
    refused(&mut place.server());
    let mut nameless = ManagedServer::new(place.directory.path().to_owned());
    nameless.set_auto_bootstrap(true);
    refused(&mut nameless);
    nameless.set_address("two\nlines".to_owned());
    refused(&mut nameless);
    let mut server = place.server();
    server.set_auto_bootstrap(true);
    for (name, content) in [
        ("server-info", "v1\n@x\n1"),
        ("server-info", "v2\n@x\n1\n"),
        ("server-info", "v1\n@x\n0\n"),
        ("node-store", "v1\n@x\n1\nvoter\n"),
        ("node-store", "v1\n@x\n1\nking\n"),
    ] {
        place.write(name, content);
        refused(&mut server);
        place.write(name, "");
    }
    let mut nowhere = ManagedServer::new("/nonexistent".into());
    nowhere.set_address(place.address);
    nowhere.set_auto_bootstrap(true);
    assert!(matches!(nowhere.start(), Err(ServerError::Node(_))));
    server.start().unwrap();
    assert!(matches!(server.start(), Err(ServerError::Settings(_))), "it runs already");
    stop_quickly(&mut server);
    assert!(server.stop().is_err() && server.handover().is_err());
}

/// C refuses its own address in all these forms.
#[test]
fn servers_reach_each_other_by_name_and_by_ipv6() {
    let mut forms = vec!["localhost", "127.0.0.1"];
    if TcpListener::bind("[::1]:0").is_ok() {
        forms.push("[::1]");
    } else {
        common::skip("no IPv6 loopback on this machine");
    }
    for host in forms {
        let bind = if host == "localhost" { "127.0.0.1" } else { host };
        let place = || {
            let port = TcpListener::bind(format!("{bind}:0")).unwrap().local_addr().unwrap().port();
            (Place::new(format!("{host}:{port}")), format!("{bind}:{port}"))
        };
        let ((first, first_bind), (second, second_bind)) = (place(), place());
        let mut one = first.server();
        one.set_bind_address(first_bind);
        one.set_auto_bootstrap(true);
        one.start().unwrap();
        let mut two = second.server();
        two.set_bind_address(second_bind);
        two.add_auto_join([first.address.clone()]);
        two.start().unwrap();
        let mut leader = first.client();
        leader.assign(NodeId(two.id().load(Ordering::Relaxed)), Role::Voter).unwrap();
        insert(&[first.address.clone(), second.address.clone()], 1);
        stop_quickly(&mut two);
        stop_quickly(&mut one);
    }
}

#[test]
fn handover_of_a_server_moves_leadership_and_vote() {
    let places = places(2);
    let mut servers = start_together(configured(&places), &[0, 1], Duration::ZERO);
    insert(&addresses(&places), 1);
    servers[0].handover().unwrap().wait().unwrap();
    let mut leader = connect_leader(&addresses(&places), PATIENCE).unwrap();
    assert_eq!(leader.address(), places[1].address);
    let roles: Vec<Role> = leader.cluster().unwrap().iter().map(|server| server.role).collect();
    assert_eq!(roles, [Role::Spare, Role::Voter]);
    stop_quickly(&mut servers[0]);
    insert(&addresses(&places[1..]), 2);
    // A spare gets no log: it learns from others who leads, and node-store names them.
    servers[0].start().unwrap();
    assert!(places[0].file("node-store").contains(&format!("{}\n", places[1].address)));
}
