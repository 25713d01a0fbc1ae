//! The short comparison of the gate: one `INSERT` a transaction, ours and C's, and what C does better.

use std::time::Duration;

use ffi_tests::node::{Library, node_program};

use crate::lab::{Lab, Setting};
use crate::results::Sample;
use crate::run::{WARM_UP, scratch};
use crate::workload::Load;

const NODES: [usize; 2] = [1, 3];
const CLIENTS: [usize; 3] = [1, 8, 32];
/// SQLITE_BUSY, "database is locked".
const BUSY: &str = "5";

pub(crate) fn smoke(duration: Duration) -> Result<(), String> {
    node_program().ok_or("a C compiler is needed")?;
    let ours = Library::ours();
    let c = Library::c();
    let data = scratch()?;
    println!(
        "{:<7} {:>5} {:>7} {:>8} {:>9} {:>9} {:>13} {:>13}  refused",
        "library", "nodes", "clients", "tx/s", "p50 ms", "p99 ms", "cpu s/1000 tx", "KiB disk/tx"
    );
    let mut findings = Vec::new();
    for nodes in NODES {
        for clients in CLIENTS {
            let mut samples = Vec::new();
            for library in [Some(&ours), c.as_ref()].into_iter().flatten() {
                let directory = data.path().join(format!("{}-{nodes}-{clients}", library.name));
                let setting = Setting { load: Load::Smoke, nodes, delay: Duration::ZERO };
                let measured = Lab::start(library, setting, &directory, &[]).and_then(|mut lab| {
                    let sample = lab.measure(clients, WARM_UP, duration)?;
                    lab.stop().map(|()| sample)
                });
                let sample = measured.map_err(|error| {
                    format!("{}, {nodes} nodes, {clients} clients: {error}", library.name)
                })?;
                print(library, nodes, clients, &sample);
                samples.push(sample);
            }
            findings.extend(judge(&samples).map(|text| format!("{nodes} nodes, {clients} clients: {text}")));
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

fn print(library: &Library, nodes: usize, clients: usize, sample: &Sample) {
    let refused: Vec<String> =
        sample.errors.iter().map(|(code, count)| format!("{count} with code {code}")).collect();
    println!(
        "{:<7} {nodes:>5} {clients:>7} {:>8.0} {:>9.2} {:>9.2} {:>13.3} {:>13.1}  {}",
        library.name,
        sample.per_second(),
        f64::from(sample.p50_us) / 1000.0,
        f64::from(sample.p99_us) / 1000.0,
        sample.cpu_s_per_1000(),
        sample.bytes_per_operation() / 1024.0,
        if refused.is_empty() { "none".to_owned() } else { refused.join(", ") }
    );
}

/// What is wrong with the first of these, ours, next to the second, C's.
fn judge(samples: &[Sample]) -> impl Iterator<Item = String> {
    let mut findings = Vec::new();
    if let [ours, others @ ..] = samples {
        if let Some(count) = ours.errors.get(BUSY) {
            findings.push(format!("a single statement was told \"database is locked\" {count} times"));
        }
        if let [c] = others
            && ours.per_second() < c.per_second()
        {
            findings.push(format!("{:.0} transactions a second, C {:.0}", ours.per_second(), c.per_second()));
        }
    }
    findings.into_iter()
}
