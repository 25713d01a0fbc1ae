//! Three nodes, each a process of its own, lose their leader and get it back: `cargo run --release --example cluster`.
//!
//! The program starts itself again for each node, with an argument that people have no use for. Its children end when
//! their standard input does, so nothing is left over however this process ends; one more child, the janitor, outlives
//! all others and removes the data directories.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use server::client::{Client, connect_leader};
use server::{Node, NodeId, Role};
use sha1::{Digest, Sha1};
use wire_protocol::Value;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// First arguments of a child.
const NODE: &str = "--be-a-node";
const JANITOR: &str = "--be-the-janitor";

/// One-way latency the nodes are tuned for: elections take a second or so instead of three to six.
const LATENCY_MS: u32 = 50;
/// Longest wait for an answer, a leader, or equality.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time a directory may stay in use after the nodes have been told to end.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows written in each of the three phases.
const ROWS: i64 = 500;
const DATABASE: &str = "demo";

const SCHEMA: &str = "CREATE TABLE reading (id INTEGER PRIMARY KEY, phase TEXT NOT NULL, value FLOAT, raw BLOB, \
                      valid BOOLEAN, taken_at DATETIME, note TEXT)";
const INSERT: &str =
    "INSERT INTO reading (phase, value, raw, valid, taken_at, note) VALUES (?, ?, ?, ?, ?, ?)";
const SELECT: &str = "SELECT phase, value, raw, valid, taken_at, note FROM reading WHERE id = ?";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [NODE, id, address, directory] => be_a_node(id, address, directory),
        [JANITOR, directory] => be_the_janitor(directory.as_ref()),
        [] => show(),
        _ => Err("this program takes no arguments".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What people come to see.
fn show() -> Outcome {
    let mut steps = Steps::new();
    let site = Site::prepare()?;
    println!("data directories are below {}", site.directory.display());

    let mut members = Vec::new();
    for id in 1..=3 {
        let member = Member::prepare(id, &site.directory)?;
        println!("  node {id} is {}", member.address);
        members.push(member);
    }
    for member in &mut members {
        member.start()?;
    }
    steps.done("three processes are running, node 1 leads a cluster of its own");

    let mut leader = find_leader(&members)?;
    for member in &members[1..] {
        leader.add(NodeId(member.id), &member.address)?;
        leader.assign(NodeId(member.id), Role::Voter)?;
    }
    steps.done("nodes 2 and 3 have joined as voters");

    leader.open(DATABASE)?;
    leader.exec_sql(SCHEMA, &[])?;
    steps.done("the table exists");

    write_rows(&mut leader, "before")?;
    steps.done(&format!("{ROWS} rows of six types are written, each its own transaction"));
    check_row(&mut leader, "before", 1)?;
    steps.done("they come back as they were written");

    let old = members
        .iter()
        .position(|member| member.address == leader.address())
        .ok_or("the leader is none of the members")?;
    members[old].kill()?;
    steps.done(&format!("node {}, the leader, is dead (SIGKILL)", members[old].id));

    let mut leader = find_leader(&members)?;
    leader.open(DATABASE)?;
    check_count(&mut leader, ROWS)?;
    let new = leader.leader()?.0;
    steps.done(&format!("node {new} leads and has all {ROWS} rows"));
    write_rows(&mut leader, "without")?;
    steps.done(&format!("{ROWS} more rows are written with two nodes of three"));

    members[old].start()?;
    members[old].wait_for_leader()?;
    steps.done(&format!("node {} is back and follows", members[old].id));
    write_rows(&mut leader, "after")?;
    check_count(&mut leader, 3 * ROWS)?;
    steps.done(&format!("{ROWS} more rows are written with all three"));

    let image = wait_for_equal_images(&members)?;
    steps.done("all three hold the same database:");
    for (member, image) in members.iter().zip(&image) {
        println!("  node {}: {} bytes, sha1 {}", member.id, image.len(), hex(&Sha1::digest(image)));
    }

    for member in &mut members {
        member.stop()?;
    }
    site.clear()?;
    steps.done("everything is stopped and removed");
    Ok(())
}

/// Prints what has been done, and how long it took.
struct Steps {
    start: Instant,
    last: Instant,
}

impl Steps {
    fn new() -> Self {
        let now = Instant::now();
        Self { start: now, last: now }
    }

    fn done(&mut self, what: &str) {
        let now = Instant::now();
        let (total, step) = (now - self.start, now - self.last);
        self.last = now;
        println!("[{:7.3} s, +{:6.0} ms] {what}", total.as_secs_f64(), step.as_secs_f64() * 1000.0);
    }
}

/// A client of whoever leads.
fn find_leader(members: &[Member]) -> Outcome<Client> {
    let addresses: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
    Ok(connect_leader(&addresses, TIMEOUT)?)
}

fn row(phase: &str, number: i64) -> Vec<Value> {
    let note = if number % 3 == 0 { Value::Null } else { text(&format!("reading {number} \u{2713}")) };
    let raw: Vec<u8> = number.to_be_bytes().repeat(8);
    vec![
        text(phase),
        Value::Float(f64::from(u16::try_from(number).unwrap_or(u16::MAX)) / 8.0),
        Value::Blob(raw.into()),
        Value::Boolean(u64::from(number % 2 == 0)),
        Value::Iso8601("2024-02-29T12:34:56Z".into()),
        note,
    ]
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned().into())
}

fn write_rows(leader: &mut Client, phase: &str) -> Outcome {
    let insert = leader.prepare(INSERT)?;
    for number in 1..=ROWS {
        leader.exec(insert, &row(phase, number))?;
    }
    leader.finalize(insert)?;
    Ok(())
}

fn check_row(leader: &mut Client, phase: &str, id: i64) -> Outcome {
    let rows = leader.query_sql(SELECT, &[Value::Integer(id)])?.rows;
    match &rows[..] {
        [found] if *found == row(phase, id) => Ok(()),
        other => Err(format!("row {id} came back as {other:?}").into()),
    }
}

fn check_count(leader: &mut Client, expected: i64) -> Outcome {
    let rows = leader.query_sql("SELECT count(*) FROM reading", &[])?.rows;
    if rows == [[Value::Integer(expected)]] {
        return Ok(());
    }
    Err(format!("{expected} rows were acknowledged, but the count is {rows:?}").into())
}

/// The images of all members, once they are equal.
fn wait_for_equal_images(members: &[Member]) -> Outcome<Vec<Vec<u8>>> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let images = members.iter().map(Member::image).collect::<Outcome<Vec<_>>>()?;
        if images.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(images);
        }
        if Instant::now() > deadline {
            return Err("the databases differ".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The directory below which everything happens, and the process that removes it.
struct Site {
    directory: PathBuf,
    janitor: Child,
}

impl Site {
    fn prepare() -> Outcome<Self> {
        let directory = tempfile::Builder::new().prefix("dqlite-cluster-").tempdir()?.keep();
        let mut command = Command::new(std::env::current_exe()?);
        // Ctrl-C reaches a whole process group; this child must not be in ours.
        command.arg(JANITOR).arg(&directory).process_group(0).stdin(Stdio::piped());
        Ok(Self { directory, janitor: command.spawn()? })
    }

    fn clear(mut self) -> Outcome {
        drop(self.janitor.stdin.take());
        if !self.janitor.wait()?.success() {
            return Err(format!("{} could not be removed", self.directory.display()).into());
        }
        Ok(())
    }
}

/// A node's place and, while it runs, its process.
struct Member {
    id: u64,
    address: String,
    directory: PathBuf,
    process: Option<Child>,
}

impl Member {
    fn prepare(id: u64, site: &Path) -> Outcome<Self> {
        let directory = site.join(format!("node-{id}"));
        std::fs::create_dir(&directory)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        Ok(Self { id, address, directory, process: None })
    }

    /// Returns when the node serves.
    fn start(&mut self) -> Outcome {
        let mut process = Command::new(std::env::current_exe()?)
            .args([NODE, &self.id.to_string(), &self.address])
            .arg(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("the child has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        self.process = Some(process);
        if line.trim() == "ready" { Ok(()) } else { Err(format!("node {} did not start", self.id).into()) }
    }

    /// SIGKILL: the process gets no chance to write down anything.
    fn kill(&mut self) -> Outcome {
        let mut process = self.process.take().ok_or("not running")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Ends the node as a host would.
    fn stop(&mut self) -> Outcome {
        let mut process = self.process.take().ok_or("not running")?;
        drop(process.stdin.take());
        if process.wait()?.success() { Ok(()) } else { Err(format!("node {} did not stop", self.id).into()) }
    }

    /// Waits until the node has heard from a leader.
    fn wait_for_leader(&self) -> Outcome {
        let mut client = Client::connect(&self.address, TIMEOUT)?;
        let deadline = Instant::now() + TIMEOUT;
        while client.leader()?.1.is_empty() {
            if Instant::now() > deadline {
                return Err(format!("node {} hears of no leader", self.id).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The committed database, as this node has it.
    fn image(&self) -> Outcome<Vec<u8>> {
        let mut client = Client::connect(&self.address, TIMEOUT)?;
        let files = client.dump(DATABASE)?;
        let (_, image) = files.into_iter().next().ok_or("an empty dump")?;
        Ok(image)
    }
}

/// A child: runs a node until the parent is gone or lets go of it.
fn be_a_node(id: &str, address: &str, directory: &str) -> Outcome {
    let mut node = Node::create(id.parse()?, address.to_owned(), directory.into())?;
    node.options_mut()?.set_network_latency_ms(LATENCY_MS)?;
    node.bind(address)?;
    node.start()?;
    // Not println: it panics when the parent is gone.
    writeln!(std::io::stdout(), "ready")?;
    std::io::stdout().flush()?;
    wait_for_parent()?;
    node.stop()?;
    Ok(())
}

/// The last child: removes the directory when the parent is gone or lets go of it.
fn be_the_janitor(directory: &Path) -> Outcome {
    wait_for_parent()?;
    let deadline = Instant::now() + CLEANUP_TIMEOUT;
    loop {
        // Nodes that end at this moment may still create files.
        match std::fs::remove_dir_all(directory) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn wait_for_parent() -> Outcome {
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}
