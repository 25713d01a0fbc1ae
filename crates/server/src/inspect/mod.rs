//! What `dqlite-inspect` does: shows, verifies and dumps a data directory without writing into it or locking it.
//!
//! The files are read by `raft_glue::disk::inspect`; the databases come out of snapshot and log the same way as in a
//! node. The commit index is not on disk, so "as of the last entry" may include entries that a cluster never committed.

mod arguments;
mod databases;
mod json;
mod report;
mod text;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use raft_glue::disk::{self, Disk, DiskError, OsDisk};
use rustix::process::{Resource, getrlimit, setrlimit};

pub use arguments::{Arguments, Dump, USAGE, UsageError};
pub use databases::Databases;
pub use json::Json;
pub use report::{DatabaseReport, Report};

/// Everything asked for was done, and nothing is wrong as far as was looked.
const FINE: u8 = 0;
/// Something is wrong with the directory.
const PROBLEMS: u8 = 1;
/// The arguments make no sense, or a file cannot be read or written.
const FAILED: u8 = 2;

/// Between two looks at a directory that a node writes to.
const PAUSE: Duration = Duration::from_millis(20);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The directory or a file in it cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// SQLite does not take part.
    #[error("{0}")]
    Sqlite(String),
    /// The database cannot be written to a file.
    #[error("{0}")]
    Dump(String),
    /// Nobody takes the output.
    #[error("write output: {0}")]
    Output(#[from] io::Error),
}

/// The program: gives its arguments meaning, prints, and says how it went.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::parse(arguments) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            // Whoever asked for it and closed the pipe has read enough.
            let _ = io::stdout().write_all(USAGE.as_bytes());
            return ExitCode::from(FINE);
        }
        Err(error) => {
            eprintln!("dqlite-inspect: {error}\n\n{USAGE}");
            return ExitCode::from(FAILED);
        }
    };
    allow_many_files();
    match run(&arguments, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(code) => ExitCode::from(code),
        Err(InspectError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(FINE),
        Err(error) => {
            eprintln!("dqlite-inspect: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// All files of the directory are open at once, which may be more than the usual 1024.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it cannot be raised, opening a file says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Does what the arguments say; the report goes to `out`, remarks to `remarks`. Returns the exit code.
///
/// # Errors
///
/// When the directory cannot be read, the dump cannot be written, or `out` takes nothing.
pub fn run(arguments: &Arguments, out: &mut dyn Write, remarks: &mut dyn Write) -> Result<u8, InspectError> {
    let directory = OsDisk::for_reading(&arguments.directory)?;
    let (mut report, databases) = look(&directory)?;
    if arguments.check {
        databases.verify(&mut report);
    }
    if let Some(dump) = &arguments.dump {
        let pages = databases.dump(&arguments.directory, dump)?;
        writeln!(
            remarks,
            "{}: {pages} pages as of entry {} written to {}",
            dump.database.display(),
            report.as_of,
            dump.file.display()
        )?;
        if report.is_incomplete() {
            writeln!(remarks, "the log is damaged, so later entries are missing; --check says more")?;
        }
    }
    if arguments.json {
        writeln!(out, "{}", report.to_json())?;
    } else if arguments.check || arguments.dump.is_none() {
        text::print(&report, arguments.check, out)?;
    }
    let is_wrong = if arguments.check { report.has_problems() } else { report.is_incomplete() };
    Ok(if is_wrong { PROBLEMS } else { FINE })
}

/// Reads a directory, and builds its databases.
///
/// # Errors
///
/// When a file cannot be read, or the directory of a running node changes too fast.
pub fn look<D: Disk>(directory: &D) -> Result<(Report, Databases), InspectError> {
    let (inspection, held) = disk::inspect(directory, &mut || std::thread::sleep(PAUSE))?;
    let databases = Databases::build(&held, &inspection)?;
    Ok((Report::new(inspection, &databases), databases))
}
