//! Our library and C's under the same load in the same run. See README.md.

mod load;
mod usage;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ffi_tests::node::{Library, node_program};

use crate::load::{Outcome, measure};

const NODES: [usize; 2] = [1, 3];
const CLIENTS: [usize; 3] = [1, 8, 32];
const DEFAULT_SECONDS: u64 = 3;
/// SQLITE_BUSY, "database is locked".
const BUSY: u64 = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds = match arguments.as_slice() {
        [command] if command == "smoke" => Some(DEFAULT_SECONDS),
        [command, seconds] if command == "smoke" => seconds.parse().ok().filter(|seconds| *seconds > 0),
        _ => None,
    };
    let Some(seconds) = seconds else {
        eprintln!("usage: benches smoke [SECONDS]    how long each load lasts, {DEFAULT_SECONDS} by default");
        return ExitCode::from(2);
    };
    match smoke(Duration::from_secs(seconds)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn smoke(duration: Duration) -> Result<(), String> {
    node_program().ok_or("a C compiler is needed")?;
    let ours = Library::ours();
    let c = Library::c();
    // Not in /tmp, which may be memory: what is compared is work for a disk.
    let data = tempfile::tempdir_in(directory_of_this_program()?).map_err(|error| error.to_string())?;
    println!(
        "{:<7} {:>5} {:>7} {:>8} {:>9} {:>9} {:>13} {:>13}  refused",
        "library", "nodes", "clients", "tx/s", "p50 ms", "p99 ms", "cpu s/1000 tx", "KiB disk/tx"
    );
    let mut findings = Vec::new();
    for nodes in NODES {
        for clients in CLIENTS {
            let mut outcomes = Vec::new();
            for library in [Some(&ours), c.as_ref()].into_iter().flatten() {
                let directory = data.path().join(format!("{}-{nodes}-{clients}", library.name));
                let outcome = measure(library, nodes, clients, duration, &directory).map_err(|error| {
                    format!("{}, {nodes} nodes, {clients} clients: {error}", library.name)
                })?;
                print(library, nodes, clients, &outcome);
                outcomes.push(outcome);
            }
            findings.extend(judge(&outcomes).map(|text| format!("{nodes} nodes, {clients} clients: {text}")));
        }
    }
    if c.is_some() {
        println!(
            "\nours, compared to C: {}",
            if findings.is_empty() { "never worse" } else { "worse in places" }
        );
    }
    for finding in &findings {
        println!("- {finding}");
    }
    Ok(())
}

fn directory_of_this_program() -> Result<std::path::PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    program.parent().map(Path::to_owned).ok_or_else(|| "the program lies in no directory".to_owned())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn print(library: &Library, nodes: usize, clients: usize, outcome: &Outcome) {
    let refused: Vec<String> =
        outcome.errors.iter().map(|(code, count)| format!("{count} with code {code}")).collect();
    println!(
        "{:<7} {nodes:>5} {clients:>7} {:>8.0} {:>9.2} {:>9.2} {:>13.3} {:>13.1}  {}",
        library.name,
        outcome.per_second,
        milliseconds(outcome.p50),
        milliseconds(outcome.p99),
        outcome.cpu_s_per_1000,
        outcome.bytes_per_transaction / 1024.0,
        if refused.is_empty() { "none".to_owned() } else { refused.join(", ") }
    );
}

/// What is wrong with the first of these outcomes, ours, next to the second, C's.
fn judge(outcomes: &[Outcome]) -> impl Iterator<Item = String> {
    let mut findings = Vec::new();
    if let [ours, others @ ..] = outcomes {
        if let Some(count) = ours.errors.get(&BUSY) {
            findings.push(format!("a single statement was told \"database is locked\" {count} times"));
        }
        if let [c] = others
            && ours.per_second < c.per_second
        {
            findings.push(format!("{:.0} transactions a second, C {:.0}", ours.per_second, c.per_second));
        }
    }
    findings.into_iter()
}
