//! Three nodes, each a process of its own, under attack, and a client that only wants its rows.
//!
//! The program starts itself again for each node. A node ends when its standard input does, so nothing is left over
//! however this process ends.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use server::client::{Client, ClientError, connect_leader};
use server::{Node, NodeId, Role};
use tempfile::TempDir;
use wire_protocol::Value;

use crate::Outcome;
use crate::sql::Vocabulary;
use crate::verdict::Latencies;

/// First argument of a process that is a node.
pub const NODE: &str = "--be-a-node";
/// One-way latency the nodes are tuned for, milliseconds: elections take a second or two.
const LATENCY_MS: u32 = 60;
/// Longest wait for a leader, or until all nodes are equal.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that a node may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Database of the client that is not hostile.
const HONEST: &str = "honest";

/// Runs a node until standard input ends.
///
/// # Errors
///
/// When the node does not start or stop.
pub fn be_a_node(id: u64, address: &str, directory: &Path) -> Outcome {
    let mut node = Node::create(id, address.to_owned(), directory.to_owned())?;
    node.options_mut()?.set_network_latency_ms(LATENCY_MS)?;
    node.bind(address)?;
    node.start()?;
    println!("started");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    node.stop()?;
    Ok(())
}

/// A node's process.
#[derive(Debug)]
struct Member {
    id: u64,
    address: String,
    directory: TempDir,
    child: Option<Child>,
}

impl Member {
    fn start(&mut self) -> Outcome {
        let mut child = Command::new(std::env::current_exe()?)
            .args([NODE, &self.id.to_string(), &self.address])
            .arg(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 8];
        let mut output = child.stdout.take().ok_or("a child without standard output")?;
        self.child = Some(child);
        output.read_exact(&mut line).map_err(|error| format!("node {} does not start: {error}", self.id))?;
        Ok(())
    }

    fn stop(&mut self) -> Outcome {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        drop(child.stdin.take());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return if status.success() { Ok(()) } else { Err(self.ended(status)) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let stacks = stacks(child.id());
        child.kill()?;
        child.wait()?;
        Err(format!("node {} does not stop within {STOP_TIMEOUT:?}; its threads:\n{stacks}", self.id).into())
    }

    fn ended(&self, status: ExitStatus) -> Box<dyn std::error::Error + Send + Sync> {
        format!("node {} has ended: {status}", self.id).into()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; either way there is nothing more to do.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Three voters.
#[derive(Debug)]
pub struct Lab {
    members: Vec<Member>,
}

impl Lab {
    /// Starts three processes and makes a cluster of them.
    ///
    /// # Errors
    ///
    /// When one of them does not start, or they find no leader.
    pub fn start() -> Outcome<Self> {
        let mut lab = Self { members: Vec::new() };
        for id in 1..=3 {
            let free = TcpListener::bind("127.0.0.1:0")?;
            let address = free.local_addr()?.to_string();
            drop(free);
            let mut member = Member { id, address, directory: tempfile::tempdir()?, child: None };
            member.start()?;
            lab.members.push(member);
        }
        let mut leader = lab.leader()?;
        for member in &lab.members[1..] {
            leader.add(NodeId(member.id), &member.address)?;
            leader.assign(NodeId(member.id), Role::Voter)?;
        }
        lab.check_alive()?;
        Ok(lab)
    }

    /// Addresses of the nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.address.clone()).collect()
    }

    /// A client of the leader.
    ///
    /// # Errors
    ///
    /// When there is none in time.
    pub fn leader(&self) -> Outcome<Client> {
        Ok(connect_leader(&self.addresses(), TIMEOUT)?)
    }

    /// What the linked SQLite offers, as a client can ask for it.
    ///
    /// # Errors
    ///
    /// When the leader does not answer.
    pub fn vocabulary(&self) -> Outcome<Vocabulary> {
        let mut client = self.leader()?;
        client.open(HONEST)?;
        let mut list = |sql: &str| -> Outcome<Vec<Vec<Value>>> { Ok(client.query_sql(sql, &[])?.rows) };
        let text = |value: &Value| match value {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        };
        let functions = list("SELECT DISTINCT name, narg FROM pragma_function_list")?;
        let functions = functions.iter().map(|row| {
            let arity = if let Value::Integer(arity) = row[1] { arity } else { -1 };
            (text(&row[0]), arity)
        });
        let functions = functions.collect();
        let pragmas = list("SELECT name FROM pragma_pragma_list")?.iter().map(|row| text(&row[0])).collect();
        let modules = list("SELECT name FROM pragma_module_list")?.iter().map(|row| text(&row[0])).collect();
        Ok(Vocabulary { functions, pragmas, modules })
    }

    /// Whether all nodes still run.
    ///
    /// # Errors
    ///
    /// Names the first that does not.
    pub fn check_alive(&mut self) -> Outcome {
        for member in &mut self.members {
            let status = match member.child.as_mut() {
                Some(child) => child.try_wait()?,
                None => continue,
            };
            if let Some(status) = status {
                return Err(member.ended(status));
            }
        }
        Ok(())
    }

    /// Resident memory of each node, bytes.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn memory(&self) -> Outcome<Vec<u64>> {
        let children = self.members.iter().filter_map(|member| member.child.as_ref());
        children
            .map(|child| {
                let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
                let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
                let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?;
                Ok(kib.trim().parse::<u64>()? * 1024)
            })
            .collect()
    }

    /// Another node leads from now on, if there is one that can.
    pub fn move_leadership(&self) {
        if let Ok(mut leader) = self.leader() {
            // A transfer may fail for many good reasons; the attack goes on with whoever leads.
            drop(leader.transfer(NodeId(0)));
        }
    }

    /// All nodes hold the same content of these databases; a write is acknowledged first, so that a leader has to be there.
    ///
    /// # Errors
    ///
    /// When they differ after a while, or nobody leads.
    pub fn check_equal(&mut self, databases: &[&str]) -> Outcome {
        let deadline = Instant::now() + TIMEOUT;
        while let Err(error) = self.leader().and_then(|mut leader| {
            leader.open(HONEST)?;
            leader.exec_sql("CREATE TABLE IF NOT EXISTS marks (n)", &[])?;
            leader.exec_sql("INSERT INTO marks VALUES (1)", &[])?;
            Ok(())
        }) {
            self.check_alive()?;
            if Instant::now() > deadline {
                return Err(format!("no write is possible after the attack: {error}").into());
            }
        }
        for name in databases.iter().chain([&HONEST]) {
            loop {
                let images: Vec<Vec<u8>> =
                    self.members.iter().map(|member| image(&member.address, name)).collect::<Outcome<_>>()?;
                if images.windows(2).all(|pair| pair[0] == pair[1]) {
                    break;
                }
                self.check_alive()?;
                if Instant::now() > deadline {
                    let sizes: Vec<usize> = images.iter().map(Vec::len).collect();
                    return Err(format!("database {name} differs between nodes: {sizes:?} bytes").into());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Stops all nodes, starts them again, and sees that they hold the same.
    ///
    /// # Errors
    ///
    /// When a node does not stop or start, or they differ.
    pub fn restart(&mut self, databases: &[&str]) -> Outcome {
        for member in &mut self.members {
            member.stop()?;
        }
        for member in &mut self.members {
            member.start()?;
        }
        self.check_equal(databases)
    }
}

/// What the threads of a process do, if gdb is there to say.
fn stacks(process: u32) -> String {
    let arguments = ["-batch", "-ex", "thread apply all bt 12", "-p", &process.to_string()];
    match Command::new("gdb").args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let lines = text.lines().filter(|line| line.starts_with("Thread ") || line.starts_with('#'));
            lines.map(|line| line.chars().take(150).collect::<String>() + "\n").collect()
        }
        Err(error) => format!("(gdb: {error})"),
    }
}

/// The committed content of a database on one node; empty when there is none.
fn image(address: &str, name: &str) -> Outcome<Vec<u8>> {
    let mut client = Client::connect(address, TIMEOUT)?;
    match client.dump(name) {
        Ok(files) => Ok(files.first().map(|(_, content)| content.clone()).unwrap_or_default()),
        Err(ClientError::Failure { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// What the client that is not hostile has seen.
#[derive(Clone, Debug, Default)]
pub struct Honest {
    /// Point reads.
    pub reads: Latencies,
    /// Transactions of one row.
    pub writes: Latencies,
    /// Times it had to look for another leader.
    pub leaders: u64,
}

/// Reads and writes one row after the other in a database of its own until `go_on` says no.
///
/// # Errors
///
/// When an answer is wrong, or an error that no attack of others may cause.
pub fn be_honest(addresses: &[String], go_on: impl Fn() -> bool) -> Outcome<Honest> {
    let mut seen = Honest::default();
    let mut acknowledged = 0;
    let mut client = None;
    while go_on() {
        let result = match client.as_mut() {
            Some(client) => one_row(client, &mut seen, &mut acknowledged),
            None => connect_leader(addresses, Duration::from_secs(10)).and_then(|mut leader| {
                leader.open(HONEST)?;
                leader.exec_sql("CREATE TABLE IF NOT EXISTS h (n INTEGER PRIMARY KEY, v INTEGER)", &[])?;
                leader.exec_sql("INSERT INTO h VALUES (1, 0) ON CONFLICT DO NOTHING", &[])?;
                client = Some(leader);
                seen.leaders += 1;
                Ok(Ok(()))
            }),
        };
        match result {
            Ok(Ok(())) => std::thread::sleep(Duration::from_millis(2)),
            Ok(Err(found)) => {
                return Err(format!("{acknowledged} writes were acknowledged, {found} are there").into());
            }
            // Leadership moves now and then, which the attack may cause.
            Err(ClientError::Failure { code: 10250 | 10506, .. } | ClientError::NoLeader { .. }) => {
                client = None
            }
            Err(ClientError::Io { .. } | ClientError::Broken { .. }) => client = None,
            Err(error) => return Err(format!("a client that is not hostile got: {error}").into()),
        }
    }
    Ok(seen)
}

/// One write and one read of it; the inner error is what was found where an acknowledged write is missing.
fn one_row(
    client: &mut Client,
    seen: &mut Honest,
    acknowledged: &mut i64,
) -> Result<Result<(), i64>, ClientError> {
    let begin = Instant::now();
    client.exec_sql("UPDATE h SET v = v + 1 WHERE n = 1", &[])?;
    seen.writes.push(begin.elapsed());
    *acknowledged += 1;
    let begin = Instant::now();
    let rows = client.query_sql("SELECT v FROM h WHERE n = 1", &[])?.rows;
    seen.reads.push(begin.elapsed());
    let found = if let [row] = &rows[..] { row.first().cloned() } else { None };
    let found = if let Some(Value::Integer(found)) = found { found } else { -1 };
    Ok((found >= *acknowledged).then_some(()).ok_or(found))
}
