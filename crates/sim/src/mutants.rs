//! `sim mutants`: are bugs found? Each bug of the crate `planted` runs over seeds from 0 on until a check fails.
//!
//! The program builds itself a second time with `--cfg planted`, in a target directory of its own. A seed on which the
//! same build fails without any bug shows nothing and is passed over.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use planted::Bug;
use sim::SECOND;

use crate::worker::{self, Line};

/// Seeds on which the build without a bug is compared to this one.
const CONTROL: u64 = 8;
/// A seed that takes longer than this does not end.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is asked for on the command line.
#[derive(Debug)]
struct Arguments {
    seeds: u64,
    minutes: u64,
    jobs: usize,
    bugs: Vec<Bug>,
}

/// What came of a bug.
#[derive(Debug)]
struct Outcome {
    bug: Bug,
    /// Seeds that were run.
    seeds: u64,
    simulated_us: u64,
    /// The violation, if there was one.
    caught: Option<String>,
}

/// Runs the command; `None` if it is not understood.
pub(crate) fn main(words: impl Iterator<Item = String>) -> Option<ExitCode> {
    let arguments = parse(words)?;
    let start = Instant::now();
    let Some(program) = build() else { return Some(ExitCode::FAILURE) };
    println!("built in {:.0?}", start.elapsed());
    if !control(&program, arguments.minutes) {
        return Some(ExitCode::FAILURE);
    }
    let mut outcomes = run_all(&program, &arguments);
    outcomes.sort_by_key(|outcome| outcome.bug as usize);
    print_table(&outcomes);
    let caught = outcomes.iter().filter(|outcome| outcome.caught.is_some()).count();
    println!("\n{caught} of {} bugs caught, in {:.0?}", outcomes.len(), start.elapsed());
    Some(if caught == outcomes.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut arguments = Arguments { seeds: 1000, minutes: 5, jobs: 1, bugs: Vec::new() };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seeds" => arguments.seeds = value.parse().ok()?,
            "--minutes" => arguments.minutes = value.parse().ok()?,
            "--jobs" => arguments.jobs = value.parse().ok().filter(|jobs| *jobs > 0)?,
            "--only" => arguments.bugs.push(Bug::named(&value)?),
            _ => return None,
        }
    }
    if arguments.bugs.is_empty() {
        arguments.bugs = Bug::ALL.to_vec();
    }
    Some(arguments)
}

/// Builds the program with bugs in it.
fn build() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("target/planted");
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--quiet", "-p", "sim", "--target-dir"])
        .arg(&target)
        .current_dir(&root)
        .env("RUSTFLAGS", format!("{flags} --cfg planted"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status();
    match status {
        Ok(status) if status.success() => Some(target.join("release/sim")),
        other => {
            eprintln!("building with --cfg planted failed: {other:?}");
            None
        }
    }
}

/// Runs seeds in a process of its own and gives what they came to, until it is told to stop.
fn run(
    program: &Path,
    bug: Option<Bug>,
    seeds: std::ops::Range<u64>,
    minutes: u64,
    mut goes_on: impl FnMut(Line) -> bool,
) {
    let mut child = worker::spawn(program, bug, &seeds, (0, 1), minutes);
    let output = child.stdout.take().expect("piped");
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut next = seeds.start;
    while next < seeds.end {
        let line = match lines.recv_timeout(PATIENCE) {
            Ok(line) => Line::parse(&line, next),
            Err(mpsc::RecvTimeoutError::Timeout) => Line::dead(next, "seeds end: this one does not"),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Line::dead(next, &format!("the process stays alive: {}", end(&mut child)))
            }
        };
        next = line.seed + 1;
        let is_last = line.stats.is_none();
        if !goes_on(line) || is_last {
            break;
        }
    }
    // Ours and perhaps still busy; both fail if it has ended.
    let _ = child.kill();
    let _ = child.wait();
    drop(lines);
    let _ = reader.join();
}

fn end(child: &mut Child) -> String {
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// Without a bug the build does exactly what this one does, and nothing fails.
fn control(program: &Path, minutes: u64) -> bool {
    let collect = |program: &Path| {
        let mut lines = Vec::new();
        run(program, None, 0..CONTROL, minutes, |line| {
            lines.push(line);
            true
        });
        lines
    };
    let own = std::env::current_exe().expect("a running program has a file");
    let (with, without) = (collect(program), collect(&own));
    if let Some(line) = with.iter().find(|line| !line.text.is_empty()) {
        println!("without a bug seed {} fails: {}", line.seed, line.text);
        return false;
    }
    if with != without {
        println!("without a bug the build with --cfg planted does not do what this one does");
        return false;
    }
    println!("without a bug {CONTROL} seeds are green and the same as in this build");
    true
}

fn run_all(program: &Path, arguments: &Arguments) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let judge = Judge { program, minutes: arguments.minutes, known: Mutex::default() };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                while let Some(bug) = arguments.bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run_one(&judge, *bug, arguments.seeds);
                    let caught = outcome.caught.as_deref().unwrap_or("NOT CAUGHT");
                    println!("{}: {} seeds: {caught}", bug.name(), outcome.seeds);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run_one(judge: &Judge<'_>, bug: Bug, seeds: u64) -> Outcome {
    let mut outcome = Outcome { bug, seeds: 0, simulated_us: 0, caught: None };
    while outcome.seeds < seeds && outcome.caught.is_none() {
        // More than one round only if a seed killed the process and does so without the bug as well.
        run(judge.program, Some(bug), outcome.seeds..seeds, judge.minutes, |line| {
            outcome.seeds = line.seed + 1;
            outcome.simulated_us += line.stats.map_or(0, |stats| stats.simulated_us);
            if !line.text.is_empty() && judge.is_green(line.seed) {
                outcome.caught = Some(line.text);
            }
            outcome.caught.is_none()
        });
    }
    outcome
}

/// Knows which seeds are green without a bug.
struct Judge<'a> {
    program: &'a Path,
    minutes: u64,
    known: Mutex<BTreeMap<u64, bool>>,
}

impl Judge<'_> {
    fn is_green(&self, seed: u64) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(seed).or_insert_with(|| {
            let mut green = false;
            run(self.program, None, seed..seed + 1, self.minutes, |line| {
                green = line.text.is_empty();
                if !green {
                    println!("seed {seed} fails without a bug, too: {}", line.text);
                }
                true
            });
            green
        })
    }
}

fn print_table(outcomes: &[Outcome]) {
    println!("\n| Bug | What is wrong | Seeds | Simulated | Caught by |\n|---|---|---|---|---|");
    for Outcome { bug, seeds, simulated_us, caught } in outcomes {
        let (minutes, rest) = (simulated_us / (60 * SECOND), simulated_us / SECOND % 60);
        let check = caught.as_deref().map_or("**not caught**", |text| text.split(':').next().unwrap_or(text));
        println!(
            "| `{}` | {} | {seeds} | {minutes} min {rest:02} s | {check} |",
            bug.name(),
            bug.description()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> impl Iterator<Item = String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned)
    }

    #[test]
    fn all_bugs_unless_some_are_named() {
        assert_eq!(parse(words("")).unwrap().bugs.len(), Bug::ALL.len());
        let some = parse(words("--only skip-sync --only gate-removed --seeds 5")).unwrap();
        assert_eq!((some.bugs, some.seeds), (vec![Bug::SkipSync, Bug::GateRemoved], 5));
        assert!(parse(words("--only nothing")).is_none());
        assert!(parse(words("--seeds")).is_none());
    }
}
