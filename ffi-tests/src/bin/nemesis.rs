//! `cargo run --release -p ffi-tests --bin nemesis -- --cluster ours --seconds 60`: faults over real processes, judged.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use ffi_tests::load::Random;
use ffi_tests::nemesis::{ELECTION_TIMEOUT, Kind, Plan, run};
use ffi_tests::node::node_program;
use ffi_tests::skip;

const USAGE: &str = "usage: nemesis [--cluster ours|one-of-c|two-of-c] [--seconds N]   (DQLITE_TESTS_SEED repeats the faults)";
/// Set in the process that has namespaces of its own.
const INSIDE: &str = "NEMESIS_INSIDE";
/// Bounds of the wait for an acknowledgement while a majority is healthy, in election timeouts.
const MAX_P99: u32 = 3;
const MAX: u32 = 5;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nemesis: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let mut plan = Plan { kind: Kind::Ours, duration: Duration::from_secs(60) };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--cluster" => plan.kind = Kind::parse(value).ok_or(USAGE)?,
            [name, value] if name == "--seconds" => {
                plan.duration = Duration::from_secs(value.parse().map_err(|_| USAGE)?);
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    if std::env::var_os(INSIDE).is_none() {
        return go_inside(&arguments);
    }
    if node_program().is_none() {
        return Ok(());
    }
    let Some(report) = run(plan, &mut Random::seeded())? else { return Ok(()) };
    println!("{plan:?}: {} transactions acknowledged, nothing lost, nothing old", report.acknowledged);
    let faults: Vec<String> = report.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("faults: {}", faults.join(", "));
    println!("{}", report.availability);
    println!("the longest: {}", report.availability.longest(5).join("; "));
    let availability = &report.availability;
    if plan.kind == Kind::Ours && availability.percentile(100) > ELECTION_TIMEOUT * MAX {
        return Err(format!("a healthy majority served nobody for more than {MAX} election timeouts"));
    }
    // Of fewer than a hundred waits the longest is p99, too, and has a bound of its own.
    let has_p99 = availability.len() >= 100;
    if plan.kind == Kind::Ours && has_p99 && availability.percentile(99) > ELECTION_TIMEOUT * MAX_P99 {
        return Err(format!("p99 of the wait is more than {MAX_P99} election timeouts"));
    }
    Ok(())
}

/// Starts this program again in namespaces of its own, which are gone when it has ended.
fn go_inside(arguments: &[String]) -> Result<(), String> {
    let probe = Command::new("unshare").args(["--net", "--mount", "ip", "-Version"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("no network namespaces (unshare and iproute2, as root): no nemesis");
        return Ok(());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(program)
        .args(arguments)
        .env(INSIDE, "1")
        .exec();
    Err(format!("unshare: {error}"))
}
