//! Our library and others under the same load in the same run. See README.md.

mod count;
mod delay;
mod generator;
mod kine;
mod lab;
mod options;
mod plot;
mod poller;
mod profile;
mod random;
mod report;
mod results;
mod run;
mod session;
mod smoke;
mod sqlite;
mod statistics;
mod targets;
mod usage;
mod workload;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::options::{Options, USAGE};

const DEFAULT_SMOKE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["smoke"] => smoke::smoke(DEFAULT_SMOKE),
        ["smoke", seconds] => match seconds.parse() {
            Ok(seconds) if seconds > 0 => smoke::smoke(Duration::from_secs(seconds)),
            _ => return usage("SECONDS is a positive number"),
        },
        ["run", ..] => with_options(&arguments[1..], run::run),
        ["count", ..] => with_options(&arguments[1..], count::count),
        ["profile", ..] => with_options(&arguments[1..], profile::profile),
        ["report", directory] => report::again(Path::new(directory), false),
        ["report", directory, "--readme"] => report::again(Path::new(directory), true),
        _ => return usage(""),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn with_options(
    arguments: &[String],
    command: impl FnOnce(&Options) -> Result<(), String>,
) -> Result<(), String> {
    Options::parse(arguments)
        .map_err(|error| format!("{error}\n{USAGE}"))
        .and_then(|options| command(&options))
}

fn usage(why: &str) -> ExitCode {
    eprintln!("{why}{}{USAGE}", if why.is_empty() { "" } else { "\n" });
    ExitCode::from(2)
}
