//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ffi_tests::node::Library;

use crate::workload::Load;

pub(crate) const USAGE: &str = "\
usage: benches smoke [SECONDS]
       benches run     [--workload W,...] [--nodes 1,3] [--clients 1,8,32,128] [--delay-ms 0,1] [--full]
                       [--rounds 7] [--seconds 2] [--out DIR] [LIBRARIES]
       benches report  DIR [--readme]
       benches count   [--workload W] [--nodes 1] [--clients 32] [--seconds 2] [--delay-ms 0] [LIBRARIES]
       benches profile [--workload W] [--nodes 3] [--clients 32] [--seconds 5] [--delay-ms 0] [LIBRARIES]

LIBRARIES: --library NAME=PATH adds one and may be repeated; --only NAME,... leaves the others out. Ours, built from this
workspace, and C, in DQLITE_C_LIBRARY_DIR, are there by themselves.
W: kv-write kv-mixed transactions kine reads kv-replace. See README.md.";

/// What the options say; what they do not say is `None` or empty.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) loads: Vec<Load>,
    pub(crate) nodes: Vec<usize>,
    pub(crate) clients: Vec<usize>,
    pub(crate) delays_ms: Vec<u64>,
    pub(crate) full: bool,
    pub(crate) rounds: usize,
    pub(crate) duration: Option<Duration>,
    pub(crate) out: Option<PathBuf>,
    extra: Vec<(String, PathBuf)>,
    only: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            loads: Vec::new(),
            nodes: Vec::new(),
            clients: Vec::new(),
            delays_ms: Vec::new(),
            full: false,
            rounds: 7,
            duration: None,
            out: None,
            extra: Vec::new(),
            only: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(option) = rest.next() {
            if option == "--full" {
                options.full = true;
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{option}: a value is missing, or no option"))?;
            let wrong = || format!("{option} {value}: not understood");
            match option.as_str() {
                "--workload" => {
                    options.loads =
                        value.split(',').map(Load::named).collect::<Option<_>>().ok_or_else(wrong)?;
                }
                "--nodes" => options.nodes = numbers(value).ok_or_else(wrong)?,
                "--clients" => options.clients = numbers(value).ok_or_else(wrong)?,
                "--delay-ms" => {
                    options.delays_ms = value
                        .split(',')
                        .map(|ms| ms.parse().ok())
                        .collect::<Option<_>>()
                        .ok_or_else(wrong)?;
                }
                "--rounds" => options.rounds = one_number(value).ok_or_else(wrong)?,
                "--seconds" => {
                    let seconds = value.parse().ok().filter(|seconds: &f64| *seconds > 0.0);
                    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                    options.duration = Some(duration.ok_or_else(wrong)?);
                }
                "--out" => options.out = Some(PathBuf::from(value)),
                "--library" => {
                    let (name, path) = value.split_once('=').ok_or_else(wrong)?;
                    options.extra.push((name.to_owned(), PathBuf::from(path)));
                }
                "--only" => options.only = value.split(',').map(ToOwned::to_owned).collect(),
                _ => return Err(format!("{option}: no such option")),
            }
        }
        Ok(options)
    }

    /// The libraries, ours first.
    pub(crate) fn libraries(&self) -> Result<Vec<Library>, String> {
        let wanted = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        let mut libraries = Vec::new();
        if wanted("ours") {
            libraries.push(Library::ours());
        }
        if wanted("C") {
            libraries.extend(Library::c());
        }
        for (name, path) in self.extra.iter().filter(|(name, _)| wanted(name)) {
            libraries.push(Library::at(name, &absolute(path)?)?);
        }
        if libraries.is_empty() { Err("no library is left".to_owned()) } else { Ok(libraries) }
    }

    /// The one workload of a command that takes one.
    pub(crate) fn load(&self) -> Load {
        self.loads.first().copied().unwrap_or(Load::KvWrite)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn one_number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number| *number > 0)
}

fn numbers(text: &str) -> Option<Vec<usize>> {
    text.split(',').map(one_number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn lists_and_numbers_are_read() {
        let options = parsed(
            "--workload kine,reads --nodes 3 --clients 1,32 --delay-ms 0,1 --rounds 2 --seconds 0.5 --full",
        )
        .unwrap();
        assert_eq!(options.loads, [Load::Kine, Load::Reads]);
        assert_eq!((options.nodes, options.clients, options.delays_ms), (vec![3], vec![1, 32], vec![0, 1]));
        assert_eq!(
            (options.rounds, options.duration, options.full),
            (2, Some(Duration::from_millis(500)), true)
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["--nodes 0", "--nodes", "--workload x", "--seconds -1", "--library x", "--what 1", "x"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
