//! `sim --seed N [--minutes M] [--trace]` runs one seed, `sim --seeds A..B [--minutes M] [--jobs J]` runs many,
//! `sim mutants` shows that bugs are found.

mod mutants;
mod worker;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Instant;

use sim::{Detail, Report, SECOND, Scenario, Stats, Violation, World};

use worker::Line;

const USAGE: &str = "usage: sim --seed N [--minutes M] [--trace]
       sim --seeds A..B [--minutes M] [--jobs J]
       sim mutants [--seeds N] [--minutes M] [--jobs J] [--only BUG]
any of these but the last with --planted BUG in a build with --cfg planted";

/// Every how many seeds one is run twice, to compare the hashes.
const TWICE: u64 = 16;
/// Events shown with a failure.
const LAST_EVENTS: usize = 60;

/// Failures that a summary tells how to reproduce.
const MAX_SHOWN: usize = 20;

/// Where a panic happened and what it said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// What is asked for on the command line.
#[derive(Debug, Default)]
struct Arguments {
    seed: Option<u64>,
    seeds: Option<(u64, u64)>,
    minutes: u64,
    jobs: u64,
    trace: bool,
    /// Part of a run over many seeds: first seed, and distance to the next.
    worker: Option<(u64, u64)>,
}

fn parse() -> Option<Arguments> {
    let mut arguments = Arguments { minutes: 5, jobs: 1, ..Arguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => arguments.seed = Some(words.next()?.parse().ok()?),
            "--seeds" => {
                let range = words.next()?;
                let (first, end) = range.split_once("..")?;
                arguments.seeds = Some((first.parse().ok()?, end.parse().ok()?));
            }
            "--minutes" => arguments.minutes = words.next()?.parse().ok()?,
            "--jobs" => arguments.jobs = words.next()?.parse().ok().filter(|jobs| *jobs > 0)?,
            "--trace" => arguments.trace = true,
            "--planted" => {
                planted::choose(planted::Bug::named(&words.next()?).filter(|_| planted::POSSIBLE)?)
            }
            "--worker" => {
                let part = words.next()?;
                let (offset, distance) = part.split_once('/')?;
                arguments.worker = Some((offset.parse().ok()?, distance.parse().ok()?));
            }
            _ => return None,
        }
    }
    Some(arguments)
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "mutants") {
        return mutants::main(std::env::args().skip(2)).unwrap_or_else(|| {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        });
    }
    let Some(arguments) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut panic) = PANIC.lock() {
            *panic = Some(info.to_string());
        }
    }));
    match (&arguments.seed, arguments.seeds, arguments.worker) {
        (Some(seed), _, _) => run_one(*seed, &arguments),
        (None, Some(range), Some(part)) => work(range, part, arguments.minutes),
        (None, Some(range), None) => run_many(range, &arguments),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a seed; a panic of the cores becomes a violation.
fn simulate(seed: u64, minutes: u64, detail: Detail) -> Report {
    let scenario = Scenario::draw(seed, minutes * 60 * SECOND);
    let world = World::new(scenario, detail);
    let shared = world.last_events();
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|_| {
        let text = PANIC.lock().ok().and_then(|mut panic| panic.take()).unwrap_or_default();
        Report::of_panic(Violation::new("no panic", text), shared.take())
    })
}

fn run_one(seed: u64, arguments: &Arguments) -> ExitCode {
    let detail = if arguments.trace { Detail::Print } else { Detail::Keep(LAST_EVENTS) };
    println!("{:#?}", Scenario::draw(seed, arguments.minutes * 60 * SECOND));
    let start = Instant::now();
    let report = simulate(seed, arguments.minutes, detail);
    print_stats(&report.stats);
    println!("{} events, hash {:016x}, {:.2?}", report.events, report.hash, start.elapsed());
    let Some(violation) = report.violation else { return ExitCode::SUCCESS };
    println!("\nlast events:");
    for line in report.last_events {
        println!("{line}");
    }
    println!("\nseed {seed} failed: {violation}");
    ExitCode::FAILURE
}

/// Runs the seeds of one worker, a line for each.
fn work(range: (u64, u64), part: (u64, u64), minutes: u64) -> ExitCode {
    let mut seed = range.0 + part.0;
    while seed < range.1 {
        let report = simulate(seed, minutes, Detail::Hash);
        let mut violation = report.violation.map(|violation| violation.to_string());
        if violation.is_none() && seed.is_multiple_of(TWICE) {
            let again = simulate(seed, minutes, Detail::Hash);
            if again.hash != report.hash {
                violation = Some("equal seeds give equal runs: two runs differ".to_owned());
            }
        }
        println!("{}", Line { seed, stats: Some(report.stats), text: violation.unwrap_or_default() });
        seed += part.1;
    }
    ExitCode::SUCCESS
}

fn run_many(range: (u64, u64), arguments: &Arguments) -> ExitCode {
    let start = Instant::now();
    let (sender, lines) = mpsc::channel::<Line>();
    let program = std::env::current_exe().expect("a running program has a file");
    let mut workers = Vec::new();
    for offset in 0..arguments.jobs {
        let seeds = range.0..range.1;
        let mut child = worker::spawn(&program, None, &seeds, (offset, arguments.jobs), arguments.minutes);
        let output = child.stdout.take().expect("piped");
        let sender = sender.clone();
        let distance = arguments.jobs;
        workers.push(std::thread::spawn(move || {
            let mut next = range.0 + offset;
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let line = Line::parse(&line, next);
                next = line.seed + distance;
                let _ = sender.send(line);
            }
            let status = child.wait();
            if next < range.1 {
                let _ = sender.send(Line::dead(next, &format!("the worker ended: {status:?}")));
            }
        }));
    }
    drop(sender);
    let ok = collect(&lines, range, arguments, start);
    for worker in workers {
        let _ = worker.join();
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn collect(lines: &mpsc::Receiver<Line>, range: (u64, u64), arguments: &Arguments, start: Instant) -> bool {
    let total = range.1 - range.0;
    let terminal = std::io::stderr().is_terminal();
    let mut sum = Stats::default();
    let mut failures: BTreeMap<u64, String> = BTreeMap::new();
    let mut done = 0;
    for Line { seed, stats, text } in lines {
        done += 1;
        if let Some(stats) = stats {
            sum.add(&stats);
        }
        if !text.is_empty() {
            println!("seed {seed} failed: {text}");
            failures.insert(seed, text);
        }
        if terminal {
            let filled = usize::try_from(done * 40 / total).unwrap_or(40);
            eprint!("\r[{:<40}] {done}/{total}, {} failed ", "#".repeat(filled), failures.len());
            let _ = std::io::stderr().flush();
        } else if done % 250 == 0 {
            println!("{done}/{total} after {:.0?}, {} failed", start.elapsed(), failures.len());
        }
    }
    if terminal {
        eprintln!();
    }
    print_stats(&sum);
    println!("{done} seeds in {:.1?}, {} failed", start.elapsed(), failures.len());
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for text in failures.values() {
        *kinds.entry(text.split(':').next().unwrap_or(text)).or_default() += 1;
    }
    for (kind, count) in kinds {
        println!("{count:>6} {kind}");
    }
    for seed in failures.keys().take(MAX_SHOWN) {
        println!("reproduce: cargo run --release -p sim -- --seed {seed} --minutes {}", arguments.minutes);
    }
    failures.is_empty() && done == total
}

fn print_stats(stats: &Stats) {
    let seconds = stats.simulated_us / SECOND;
    println!(
        "simulated {}h {:02}min {:02}s, {} transactions committed, databases compared at {} indexes",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        stats.committed,
        stats.images
    );
    for (what, count) in &stats.counts {
        println!("{count:>10} {what}");
    }
}
