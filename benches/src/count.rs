//! Counters that do not depend on how fast or busy the machine is: system calls, instructions and bytes a transaction.
//!
//! Each comes from a run of its own, since who is watched is slow: `strace` counts calls of all nodes, `callgrind` counts
//! instructions of all nodes outside the kernel, `/proc/PID/io` bytes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ffi_tests::node::{Library, node_program};
use ffi_tests::{has_program, run};

use crate::lab::{Lab, Setting};
use crate::options::Options;
use crate::run::{WARM_UP, scratch};

const DEFAULT_DURATION: Duration = Duration::from_secs(2);
/// Until strace has attached to all threads.
const ATTACH: Duration = Duration::from_millis(700);
const CALLS_SHOWN: usize = 10;
const FUNCTIONS_SHOWN: usize = 10;

/// What is counted, and where its files go.
struct Case<'a> {
    library: &'a Library,
    setting: Setting,
    clients: usize,
    duration: Duration,
    directory: &'a Path,
}

pub(crate) fn count(options: &Options) -> Result<(), String> {
    node_program().ok_or("a C compiler is needed")?;
    for program in ["strace", "valgrind"] {
        if !has_program(program) {
            return Err(format!("{program} is needed: apt-get install strace valgrind"));
        }
    }
    let clients = options.clients.first().copied().unwrap_or(32);
    let setting = setting(options, 1);
    let duration = options.duration.unwrap_or(DEFAULT_DURATION);
    let data = scratch()?;
    for library in options.libraries()? {
        println!("{}: {}, {} nodes, {clients} clients", library.name, setting.load, setting.nodes);
        for (name, measure) in [
            ("bytes", bytes as fn(&Case<'_>) -> Result<String, String>),
            ("system calls", system_calls),
            ("instructions", instructions),
        ] {
            let directory = data.path().join(format!("{}-{}", library.name, name.replace(' ', "-")));
            let case = Case { library: &library, setting, clients, duration, directory: &directory };
            let said = measure(&case).map_err(|error| format!("{}, {name}: {error}", library.name))?;
            println!("{said}");
        }
    }
    Ok(())
}

/// Of a command that measures one thing.
pub(crate) fn setting(options: &Options, default_nodes: usize) -> Setting {
    Setting {
        load: options.load(),
        nodes: options.nodes.first().copied().unwrap_or(default_nodes),
        delay: Duration::from_millis(options.delays_ms.first().copied().unwrap_or(0)),
    }
}

fn bytes(case: &Case<'_>) -> Result<String, String> {
    let mut lab = Lab::start(case.library, case.setting, case.directory, &[])?;
    let sample = lab.measure(case.clients, WARM_UP, case.duration)?;
    lab.stop()?;
    Ok(format!(
        "  {:.2} KiB written to disk for each of {} operations",
        sample.bytes_per_operation() / 1024.0,
        sample.operations
    ))
}

fn system_calls(case: &Case<'_>) -> Result<String, String> {
    let mut lab = Lab::start(case.library, case.setting, case.directory, &[])?;
    let mut tracers = Vec::new();
    for (place, pid) in lab.pids().into_iter().enumerate() {
        let output = case.directory.join(format!("strace-{place}"));
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-p", &pid.to_string(), "-o"]).arg(&output);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        tracers.push((command.spawn().map_err(|error| format!("strace: {error}"))?, output));
    }
    std::thread::sleep(ATTACH);
    let operations = lab.count(case.clients, case.duration);
    let mut calls: Vec<(String, u64)> = Vec::new();
    for (tracer, output) in tracers {
        end(tracer)?;
        for (name, count) in parse_strace(&read(&output)?) {
            match calls.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => calls.push((name, count)),
            }
        }
    }
    lab.stop()?;
    let operations = at_least_one(operations?)?;
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let sum: u64 = calls.iter().map(|(_, count)| count).sum();
    if sum == 0 {
        return Err("strace saw nothing; may it attach to processes?".to_owned());
    }
    let shown: Vec<String> = calls
        .iter()
        .take(CALLS_SHOWN)
        .map(|(name, count)| format!("{name} {:.2}", *count as f64 / operations))
        .collect();
    Ok(format!(
        "  {:.2} system calls for each of {operations} operations: {}",
        sum as f64 / operations,
        shown.join(", ")
    ))
}

/// Ends a tracer as Ctrl-C does: it lets go of the process and writes its counts.
fn end(mut tracer: Child) -> Result<(), String> {
    run(Command::new("kill").args(["-INT", &tracer.id().to_string()]))?;
    tracer.wait().map(drop).map_err(|error| error.to_string())
}

fn parse_strace(table: &str) -> Vec<(String, u64)> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // % time, seconds, usecs/call, calls, errors if any, name.
        let name = fields.last().filter(|name| **name != "total")?;
        let count = fields.get(3)?.parse().ok()?;
        (fields.len() >= 5).then(|| ((*name).to_owned(), count))
    };
    table.lines().filter_map(row).collect()
}

fn instructions(case: &Case<'_>) -> Result<String, String> {
    let pattern = case.directory.join("callgrind.%p");
    let wrapper: Vec<String> = [
        "valgrind",
        "-q",
        "--tool=callgrind",
        "--instr-atstart=no",
        // Else one thread may keep the others waiting for long.
        "--fair-sched=yes",
        &format!("--callgrind-out-file={}", pattern.display()),
    ]
    .map(ToOwned::to_owned)
    .into();
    let mut lab = Lab::start(case.library, case.setting, case.directory, &wrapper)?;
    let pids = lab.pids();
    let leader = lab.leader_pid()?;
    // Statements are prepared and pages read by then.
    lab.count(case.clients, WARM_UP)?;
    for pid in &pids {
        run(Command::new("callgrind_control").args(["-i", "on", &pid.to_string()]))?;
    }
    let operations = lab.count(case.clients, case.duration)?;
    for pid in &pids {
        run(Command::new("callgrind_control").args(["-i", "off", &pid.to_string()]))?;
    }
    lab.stop()?;
    let operations = at_least_one(operations)?;
    let output = |pid: &u32| case.directory.join(format!("callgrind.{pid}"));
    let mut sum = 0_u64;
    for pid in &pids {
        let path = output(pid);
        sum += parse_callgrind(&read(&path)?).ok_or_else(|| format!("{}: no totals", path.display()))?;
    }
    Ok(format!(
        "  {:.0} instructions for each of {operations} operations; of the leader's by function:\n{}",
        sum as f64 / operations,
        top_functions(&output(&leader))?
    ))
}

fn parse_callgrind(profile: &str) -> Option<u64> {
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals:"))?;
    totals.split_whitespace().next()?.parse().ok()
}

fn top_functions(profile: &Path) -> Result<String, String> {
    let said = run(Command::new("callgrind_annotate").arg("--threshold=90").arg(profile))?;
    let said = String::from_utf8_lossy(&said);
    // `  123,456 (12.34%)  file:function [object]`
    let functions: Vec<&str> = said
        .lines()
        .filter(|line| line.contains('%') && line.contains(':') && !line.contains("PROGRAM TOTALS"))
        .take(FUNCTIONS_SHOWN)
        .collect();
    Ok(functions.iter().map(|line| format!("    {}", line.trim())).collect::<Vec<_>>().join("\n"))
}

fn at_least_one(operations: usize) -> Result<f64, String> {
    if operations == 0 { Err("no operation ended".to_owned()) } else { Ok(operations as f64) }
}

fn read(path: &PathBuf) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_and_without_errors() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     60.00    0.000600           3       200           write\n\
                     40.00    0.000400           4       100        10 futex\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.001000           3       300        10 total\n";
        assert_eq!(parse_strace(table), [("write".to_owned(), 200), ("futex".to_owned(), 100)]);
    }

    #[test]
    fn totals_are_read() {
        assert_eq!(parse_callgrind("events: Ir\nfn=x\n1 2\ntotals: 12345\n"), Some(12345));
        assert_eq!(parse_callgrind("events: Ir\n"), None);
    }
}
