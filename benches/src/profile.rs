//! Where a leader's processor time goes: `perf record` by the clock, since virtual machines rarely have counters.

use std::process::{Command, Stdio};
use std::time::Duration;

use ffi_tests::node::node_program;
use ffi_tests::{has_program, run};

use crate::count::setting;
use crate::lab::Lab;
use crate::options::Options;
use crate::run::{WARM_UP, scratch};

const DEFAULT_DURATION: Duration = Duration::from_secs(5);
const SHOWN: usize = 10;

pub(crate) fn profile(options: &Options) -> Result<(), String> {
    node_program().ok_or("a C compiler is needed")?;
    if !has_program("perf") {
        return Err("perf is needed: apt-get install linux-perf".to_owned());
    }
    let clients = options.clients.first().copied().unwrap_or(32);
    let setting = setting(options, 3);
    let duration = options.duration.unwrap_or(DEFAULT_DURATION);
    let data = scratch()?;
    for library in options.libraries()? {
        let mut lab = Lab::start(&library, setting, &data.path().join(library.name), &[])?;
        let leader = lab.leader_pid()?;
        let output = data.path().join(format!("{}.perf", library.name));
        let mut command = Command::new("perf");
        command.args(["record", "-q", "-e", "cpu-clock", "-F", "1999", "-p", &leader.to_string(), "-o"]);
        command.arg(&output).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        lab.count(clients, WARM_UP)?;
        let mut recorder = command.spawn().map_err(|error| format!("perf: {error}"))?;
        let sample = lab.measure(clients, WARM_UP, duration)?;
        run(Command::new("kill").args(["-INT", &recorder.id().to_string()]))?;
        recorder.wait().map_err(|error| error.to_string())?;
        lab.stop()?;
        println!(
            "{}: {}, {} nodes, {clients} clients, {:.0}/s; leader's time by function, then by thread:",
            library.name,
            setting.load,
            setting.nodes,
            sample.per_second()
        );
        for keys in ["symbol", "comm"] {
            let mut report = Command::new("perf");
            report.args(["report", "--stdio", "--no-children", "-g", "none", "--sort", keys, "-i"]);
            let said = run(report.arg(&output))?;
            for line in String::from_utf8_lossy(&said).lines().filter(|line| is_figure(line)).take(SHOWN) {
                println!("  {}", line.trim().trim_end_matches(['-', ' ']));
            }
        }
        if let Some(out) = &options.out {
            // For a closer look: perf report -i, perf annotate -i.
            std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
            let kept = out.join(format!("{}.perf", library.name));
            std::fs::copy(&output, &kept).map_err(|error| format!("{}: {error}", kept.display()))?;
            println!("  kept: {}", kept.display());
        }
    }
    Ok(())
}

fn is_figure(line: &str) -> bool {
    !line.starts_with('#') && line.contains('%')
}
