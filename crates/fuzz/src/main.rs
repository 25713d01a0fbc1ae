//! Fuzzing from the command line; see the README of this crate.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuzz::attack::{self, Kind, Plan};
use fuzz::targets::{self, Target};
use fuzz::{Outcome, guided, lab};

const USAGE: &str = "usage: fuzz list
       fuzz gate [--seed N]                   what .ci/run does: everything, less than six minutes
       fuzz guided TARGET|all [--seconds N]   guided by coverage; new inputs go to target/fuzz/corpus
       fuzz replay TARGET FILE...             one run for each input
       fuzz sql [--seconds N] [--seed N]      hostile SQL against three nodes
       fuzz streams [--seconds N] [--seed N]  hostile connections to three nodes";

/// Connections that attack at a time.
const ATTACKERS: u64 = 6;
/// Parts of `fuzz gate`, seconds.
const GATE_GUIDED_S: u64 = 12;
const GATE_SQL_S: u64 = 60;
const GATE_STREAMS_S: u64 = 25;
/// Longest time that the other client may wait, p99. The gate's machine runs the nodes, the attackers and that client on
/// two cores.
const HONEST_P99: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [lab::NODE, id, address, directory] => lab::be_a_node(id.parse()?, address, Path::new(directory)),
        ["list"] => {
            targets::ALL.iter().for_each(|target| println!("{:12} {}", target.name, target.about));
            Ok(())
        }
        ["replay", name, ref files @ ..] => {
            let target = find(name)?;
            files.iter().try_for_each(|file| {
                (target.run)(&std::fs::read(file)?);
                Ok(())
            })
        }
        ["gate", ref options @ ..] => gate(&Options::parse(options)?),
        ["guided", "all", ref options @ ..] => run_guided(targets::ALL, Options::parse(options)?.seconds(60)),
        ["guided", name, ref options @ ..] => {
            run_guided(&[*find(name)?], Options::parse(options)?.seconds(60))
        }
        ["sql", ref options @ ..] => run_attack(Kind::Sql, &Options::parse(options)?, 60).map(drop),
        ["streams", ref options @ ..] => run_attack(Kind::Streams, &Options::parse(options)?, 60).map(drop),
        _ => Err(USAGE.into()),
    }
}

fn find(name: &str) -> Outcome<&'static Target> {
    targets::find(name).ok_or_else(|| format!("no target is called {name}; `fuzz list` lists them").into())
}

#[derive(Debug, Default)]
struct Options {
    seconds: Option<u64>,
    seed: Option<u64>,
}

impl Options {
    fn parse(words: &[&str]) -> Outcome<Self> {
        let mut options = Self::default();
        for pair in words.chunks(2) {
            match *pair {
                ["--seconds", number] => options.seconds = Some(number.parse()?),
                ["--seed", number] => options.seed = Some(number.parse()?),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }

    fn seconds(&self, default: u64) -> u64 {
        self.seconds.unwrap_or(default)
    }

    fn seed(&self) -> Outcome<u64> {
        Ok(self.seed.unwrap_or(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()))
    }
}

/// Where found inputs and grown corpora go; not committed.
fn scratch() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz")
}

fn run_guided(targets: &[Target], seconds: u64) -> Outcome {
    let program = guided::build()?;
    for target in targets {
        let grown = scratch().join("corpus").join(target.name);
        std::fs::create_dir_all(&grown)?;
        let executions = guided::run(&program, target, seconds, &[grown], &scratch().join("findings"))?;
        println!("{:12} {executions} executions in {seconds} s, none fails", target.name);
    }
    Ok(())
}

fn run_attack(kind: Kind, options: &Options, seconds: u64) -> Outcome<attack::Report> {
    let plan = Plan {
        kind,
        duration: Duration::from_secs(options.seconds(seconds)),
        seed: options.seed()?,
        attackers: ATTACKERS,
    };
    println!("{plan:?}");
    let report = attack::run(plan, &scratch().join("findings"))?;
    println!("{} attacks; all nodes live, are equal, and start again", report.attacks);
    println!("another client, reads:  {}", report.honest.reads);
    println!("another client, writes: {}", report.honest.writes);
    println!(
        "it looked for a leader {} times; a node has {} MiB",
        report.honest.leaders,
        report.memory >> 20
    );
    Ok(report)
}

/// The attacks and the guided targets for a time that fits a gate.
fn gate(options: &Options) -> Outcome {
    run_guided(targets::ALL, GATE_GUIDED_S)?;
    let reports =
        [run_attack(Kind::Streams, options, GATE_STREAMS_S)?, run_attack(Kind::Sql, options, GATE_SQL_S)?];
    for report in reports {
        for latencies in [&report.honest.reads, &report.honest.writes] {
            let p99 = latencies.permille(990);
            if p99 > HONEST_P99 {
                return Err(format!("another client waited {p99:?} (p99) while others attacked").into());
            }
        }
    }
    Ok(())
}
