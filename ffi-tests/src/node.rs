//! Nodes as child processes, on whichever `libdqlite` they are told to load: ours or C's. See `c/node.c`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use server::client::{Client, ClientError};

use crate::{Sdk, has_program, run, skip, target_directory, workspace};

/// Longest wait for a node to start, to stop, or to answer a request.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `libdqlite` to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// For messages: "ours" or "C".
    pub name: &'static str,
    path: PathBuf,
}

impl Library {
    /// The library of this workspace, built at the first call; `DQLITE_TESTS_LIBRARY` names another to take its
    /// place, which shows whether a test passes with C alone.
    #[must_use]
    pub fn ours() -> Self {
        let path = std::env::var_os("DQLITE_TESTS_LIBRARY")
            .map_or_else(|| Sdk::get().shared_library(), PathBuf::from);
        Self { name: "ours", path }
    }

    /// Any other, under a name for messages, which is kept until the program ends.
    pub fn at(name: &str, path: &Path) -> Result<Self, String> {
        if path.is_file() {
            return Ok(Self { name: name.to_owned().leak(), path: path.to_owned() });
        }
        Err(format!("{name}: there is no file {}", path.display()))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the one that `DQLITE_TESTS_LIBRARY` names, which may lack newer functions.
    #[must_use]
    pub fn is_stand_in(&self) -> bool {
        self.name == "ours" && std::env::var_os("DQLITE_TESTS_LIBRARY").is_some()
    }

    /// Debian's C library below `DQLITE_C_LIBRARY_DIR`; without the variable, [`skip`].
    #[must_use]
    pub fn c() -> Option<Self> {
        let Some(directory) = std::env::var_os("DQLITE_C_LIBRARY_DIR") else {
            skip("DQLITE_C_LIBRARY_DIR is not set: no test against C's library (see ffi-tests/c-library.sh)");
            return None;
        };
        let path = Path::new(&directory).join("libdqlite.so.0");
        assert!(path.exists(), "DQLITE_C_LIBRARY_DIR holds no {}", path.display());
        Some(Self { name: "C", path })
    }
}

/// The compiled `node.c`; [`skip`] without a compiler.
///
/// # Panics
///
/// When the program does not compile.
#[must_use]
pub fn node_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        if !has_program("gcc") {
            skip("no gcc on this machine: no test with nodes in processes of their own");
            return None;
        }
        let program = target_directory().join("node");
        let built = target_directory().join(format!("node.{}", std::process::id()));
        fs::create_dir_all(target_directory()).expect("the target directory can be made");
        let mut command = Command::new("gcc");
        command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-o"]).arg(&built);
        command.arg(workspace().join("ffi-tests/c/node.c")).arg("-ldl");
        run(&mut command).unwrap_or_else(|error| panic!("{error}"));
        // Another test may be running the program now.
        fs::rename(&built, &program).expect("a file can be renamed");
        Some(program)
    };
    PROGRAM.get_or_init(compile).as_deref()
}

/// An address of the loopback network that nothing else uses: no port of it is ever the source of a connection, as a
/// free port of 127.0.0.1 could be by the time its node is started again.
#[must_use]
pub fn new_address() -> String {
    static USED: AtomicU8 = AtomicU8::new(0);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let host = USED.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    format!("127.{}.{low}.{host}:9100", high.max(1))
}

/// A node: what it is started with, and its process while there is one. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    /// Its id; 1 bootstraps.
    pub id: u64,
    /// What other nodes and the configuration call it.
    pub address: String,
    /// Where it listens.
    pub bind: String,
    /// Its data.
    pub directory: PathBuf,
    /// What it is loaded with at the next start.
    pub library: Library,
    /// Options of `node.c`, for the next start.
    pub options: Vec<String>,
    /// What to run it under at the next start, as `valgrind` and its options; usually nothing.
    pub wrapper: Vec<String>,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
}

impl Node {
    /// A node that does not run yet and listens at its own address; `directory` is made at the first start.
    #[must_use]
    pub fn new(library: &Library, id: u64, directory: PathBuf, options: &[&str]) -> Self {
        let address = new_address();
        Self {
            id,
            bind: address.clone(),
            address,
            directory,
            library: library.clone(),
            options: options.iter().map(ToString::to_string).collect(),
            wrapper: Vec::new(),
            process: None,
        }
    }

    /// Starts the process and waits until the node runs; returns the lines it printed before.
    pub fn start(&mut self) -> Result<Vec<String>, String> {
        let lines = self.spawn(&[])?;
        let mut said = Vec::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line == "READY" => return Ok(said),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    self.kill();
                    return Err(format!("{} is not ready after {PATIENCE:?}", self.describe()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.kill();
                    return Err(format!("{} did not start: {}", self.describe(), self.log()));
                }
            }
        }
    }

    /// Runs the process with these options only, which must end it before the node is started; returns what it printed.
    pub fn offline(&mut self, options: &[&str]) -> Result<Vec<String>, String> {
        let lines = self.spawn(&[options, &["exit"]].concat())?;
        let said = lines.iter().collect();
        self.stop().map(|()| said)
    }

    /// Ends the process with SIGKILL this long after it began to start.
    pub fn kill_while_starting(&mut self, after: Duration) -> Result<(), String> {
        self.spawn(&[])?;
        std::thread::sleep(after);
        self.kill();
        Ok(())
    }

    /// Starts the process, with the node's own options if none are given; returns the lines it prints.
    fn spawn(&mut self, options: &[&str]) -> Result<Receiver<String>, String> {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let program = node_program().ok_or("no program to run a node with")?;
        let failed = |error: std::io::Error| format!("start {}: {error}", self.describe());
        fs::create_dir_all(&self.directory).map_err(failed)?;
        let log = File::create(self.log_path()).map_err(failed)?;
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((wrapper, options)) => {
                let mut command = Command::new(wrapper);
                command.args(options).arg(program);
                command
            }
        };
        command.arg(&self.library.path).arg(self.id.to_string()).arg(&self.address).arg(&self.bind);
        command.arg(&self.directory);
        if options.is_empty() {
            command.args(&self.options);
        } else {
            command.args(options);
        }
        command.env("LD_LIBRARY_PATH", search_path(&self.library.path));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(failed)?;
        let input = child.stdin.take().expect("standard input is a pipe");
        let lines = lines_of(child.stdout.take().expect("standard output is a pipe"));
        self.process = Some(Process { child, input });
        Ok(lines)
    }

    /// Stops it as a host does, and checks that it could.
    pub fn stop(&mut self) -> Result<(), String> {
        let Some(Process { mut child, input }) = self.process.take() else { return Ok(()) };
        drop(input);
        let result = wait(&mut child, PATIENCE);
        if result.is_err() {
            kill(&mut child);
        }
        match result {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} stopped with {status}: {}", self.describe(), self.log())),
            Err(error) => Err(format!("{} did not stop: {error}", self.describe())),
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            kill(&mut process.child);
        }
    }

    /// An error if the process has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), String> {
        match self.process.as_mut().map(|process| process.child.try_wait()) {
            None | Some(Ok(None)) => Ok(()),
            Some(Ok(Some(status))) => {
                Err(format!("{} ended by itself with {status}: {}", self.describe(), self.log()))
            }
            Some(Err(error)) => Err(format!("{}: {error}", self.describe())),
        }
    }

    /// Whether it has been started and neither stopped nor killed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// Gives it an address that nothing else uses, to be known by and to listen at from the next start on.
    pub fn change_address(&mut self) {
        self.address = new_address();
        self.bind.clone_from(&self.address);
    }

    /// A connection to where it listens.
    pub fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.bind, PATIENCE)
    }

    fn describe(&self) -> String {
        format!("node {} ({}) at {}", self.id, self.library.name, self.bind)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// The end of what it wrote to standard error since its last start.
    fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill(child: &mut Child) {
    // Either fails only for a process that has ended.
    let _ = child.kill();
    let _ = child.wait();
}

fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => return Err(format!("it still runs after {patience:?}")),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Lines as they come, until the other end is closed.
fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// C's library finds libraft next to itself.
fn search_path(library: &Path) -> OsString {
    let mut path = library.parent().unwrap_or_else(|| Path::new(".")).as_os_str().to_owned();
    if let Some(configured) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(configured);
    }
    path
}
