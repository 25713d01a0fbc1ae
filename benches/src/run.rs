//! The comparison: the same cells with every library, in rounds.
//!
//! A round starts a new cluster for each library in turn, measures all numbers of clients on it (each on a new one where
//! the load lets the database grow), and stops it, so that nothing else runs meanwhile; every other round takes the
//! libraries the other way round.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ffi_tests::node::{Library, node_program};
use ffi_tests::workspace;

use crate::lab::{Lab, Setting};
use crate::options::Options;
use crate::results::{Cell, PLAIN_SQLITE, Results, Sample};
use crate::workload::Load;
use crate::{report, sqlite};

pub(crate) const WARM_UP: Duration = Duration::from_millis(500);
const DEFAULT_DURATION: Duration = Duration::from_secs(2);
const ALL_CLIENTS: [usize; 4] = [1, 8, 32, 128];

/// Cells that share a cluster.
#[derive(Clone, Debug)]
struct Group {
    setting: Setting,
    clients: Vec<usize>,
}

impl Group {
    fn cell(&self, clients: usize) -> Cell {
        Cell {
            load: self.setting.load.name().to_owned(),
            nodes: self.setting.nodes,
            delay_ms: u64::try_from(self.setting.delay.as_millis()).unwrap_or(u64::MAX),
            clients,
        }
    }

    fn has_plain_sqlite(&self) -> bool {
        self.setting.load == Load::KvWrite && self.setting.nodes == 1 && self.setting.delay.is_zero()
    }
}

/// Without `--full`: kv write with all numbers of clients, the other loads with 32; the delay with three nodes only.
fn plan(options: &Options) -> Vec<Group> {
    let given =
        |list: &[usize], default: &[usize]| if list.is_empty() { default.to_vec() } else { list.to_vec() };
    let loads = if options.loads.is_empty() { Load::ALL.to_vec() } else { options.loads.clone() };
    let delays = if options.delays_ms.is_empty() { vec![0, 1] } else { options.delays_ms.clone() };
    let mut groups = Vec::new();
    for load in loads {
        for nodes in given(&options.nodes, &[1, 3]) {
            for delay_ms in &delays {
                let left_out = nodes == 1 && options.delays_ms.is_empty() && !options.full;
                if left_out && *delay_ms > 0 {
                    continue;
                }
                let few = load != Load::KvWrite && !options.full;
                let clients = given(&options.clients, if few { &[32] } else { &ALL_CLIENTS });
                let setting = Setting { load, nodes, delay: Duration::from_millis(*delay_ms) };
                groups.push(Group { setting, clients });
            }
        }
    }
    groups
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    node_program().ok_or("a C compiler is needed")?;
    let libraries = options.libraries()?;
    let duration = options.duration.unwrap_or(DEFAULT_DURATION);
    let out = options.out.clone().unwrap_or_else(|| PathBuf::from("target/benches"));
    std::fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let data = scratch()?;
    let groups = plan(options);
    let started = Instant::now();
    let mut results = Results { about: about(&libraries, options.rounds, duration), ..Results::default() };
    for (place, group) in groups.iter().enumerate() {
        let Setting { load, nodes, delay } = group.setting;
        println!(
            "{load}, {nodes} nodes, {delay:?} delay ({} of {}, after {} s)",
            place + 1,
            groups.len(),
            started.elapsed().as_secs()
        );
        for round in 0..options.rounds {
            measure_round(group, round, &libraries, duration, data.path(), &mut results);
        }
        results.write(&out.join("results.json"))?;
    }
    results.about.insert("duration".to_owned(), format!("{} s", started.elapsed().as_secs()));
    results.write(&out.join("results.json"))?;
    report::write(&results, &out)?;
    println!("{}", out.join("results.md").display());
    Ok(())
}

fn measure_round(
    group: &Group,
    round: usize,
    libraries: &[Library],
    duration: Duration,
    data: &Path,
    results: &mut Results,
) {
    let mut order: Vec<Option<&Library>> = libraries.iter().map(Some).collect();
    if group.has_plain_sqlite() {
        order.push(None);
    }
    if round % 2 == 1 {
        order.reverse();
    }
    for library in order {
        let name = library.map_or(PLAIN_SQLITE, |library| library.name);
        let directory = data.join(format!("{name}-{round}"));
        let samples = match library {
            Some(library) => measure_library(library, group, duration, &directory),
            None => measure_sqlite(duration, &directory),
        };
        for (clients, sample) in samples {
            match &sample {
                Ok(sample) => println!("  {}", line(name, clients, sample)),
                Err(error) => println!("  {name}, {clients} clients: {error}"),
            }
            results.add(group.cell(clients), name, sample);
        }
        // Whatever cannot be removed goes with the scratch directory.
        let _ = std::fs::remove_dir_all(&directory);
    }
}

type Samples = Vec<(usize, Result<Sample, String>)>;

fn measure_library(library: &Library, group: &Group, duration: Duration, directory: &Path) -> Samples {
    let mut lab: Result<Lab, String> = Err("not started".to_owned());
    let mut samples = Vec::new();
    for clients in &group.clients {
        if group.setting.load.grows()
            && let Ok(running) = std::mem::replace(&mut lab, Err("not started".to_owned()))
            && let Err(error) = running.stop()
            && let Some((_, last)) = samples.last_mut()
        {
            *last = Err(error);
        }
        if lab.is_err() {
            // At first, after a failure, and where the database would have grown.
            let _ = std::fs::remove_dir_all(directory);
            lab = Lab::start(library, group.setting, directory, &[]);
        }
        let sample = match &mut lab {
            Ok(running) => running.measure(*clients, WARM_UP, duration),
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = &sample {
            lab = Err(error.clone());
        }
        samples.push((*clients, sample));
    }
    if let Ok(running) = lab
        && let Err(error) = running.stop()
        && let Some((_, last)) = samples.last_mut()
    {
        *last = Err(error);
    }
    samples
}

fn measure_sqlite(duration: Duration, directory: &Path) -> Samples {
    let made = std::fs::create_dir_all(directory).map_err(|error| error.to_string());
    vec![(1, made.and_then(|()| sqlite::measure(directory, WARM_UP, duration)))]
}

fn line(name: &str, clients: usize, sample: &Sample) -> String {
    let errors: usize = sample.errors.values().sum();
    format!(
        "{name:<8} {clients:>4} clients {:>8.0}/s  p50 {:>8.2} ms  p99 {:>8.2} ms  {errors} errors",
        sample.per_second(),
        f64::from(sample.p50_us) / 1000.0,
        f64::from(sample.p99_us) / 1000.0
    )
}

/// Next to the program and not in /tmp, which may be memory: what is compared is work for a disk.
pub(crate) fn scratch() -> Result<tempfile::TempDir, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = program.parent().ok_or("the program lies in no directory")?;
    tempfile::tempdir_in(directory).map_err(|error| error.to_string())
}

/// A path that means something on other machines, too: inside the workspace, or the name of the file.
fn shown(path: &Path) -> String {
    let shown = path.strip_prefix(workspace()).ok().or_else(|| path.file_name().map(Path::new));
    shown.unwrap_or(path).display().to_string()
}

/// An argument of the command line, `PATH` and `NAME=PATH` with the path as [`shown`].
fn shown_argument(argument: &str) -> String {
    let (name, path) = argument.split_at(argument.find("=/").map_or(0, |at| at + 1));
    let path = Path::new(path);
    if path.is_absolute() { format!("{name}{}", shown(path)) } else { argument.to_owned() }
}

fn about(
    libraries: &[Library],
    rounds: usize,
    duration: Duration,
) -> std::collections::BTreeMap<String, String> {
    let arguments: Vec<String> = std::env::args().skip(1).map(|argument| shown_argument(&argument)).collect();
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let paths: Vec<String> =
        libraries.iter().map(|library| format!("{} = {}", library.name, shown(library.path()))).collect();
    [
        ("command", format!("benches {}", arguments.join(" "))),
        (
            "machine",
            format!("{cores} cores, {}, Linux {}", model.map_or("?", |(_, name)| name), kernel.trim()),
        ),
        ("cores", cores.to_string()),
        ("rounds", format!("{rounds} of {} s, {WARM_UP:?} to warm up", duration.as_secs_f64())),
        ("libraries", paths.join("; ")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(arguments: &[&str]) -> Vec<Group> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        plan(&Options::parse(&arguments).unwrap())
    }

    #[test]
    fn the_full_plan_has_every_cell() {
        let cells: usize = planned(&["--full"]).iter().map(|group| group.clients.len()).sum();
        assert_eq!(cells, 6 * 2 * 2 * 4);
    }

    #[test]
    fn the_short_plan_has_what_the_targets_need() {
        let groups = planned(&[]);
        let cells: usize = groups.iter().map(|group| group.clients.len()).sum();
        assert_eq!(cells, 3 * 4 + 5 * 3);
        for load in Load::ALL {
            let near = |group: &&Group| group.setting.nodes == 3 && group.setting.delay.is_zero();
            let group = groups.iter().filter(near).find(|group| group.setting.load == load).unwrap();
            assert!(group.clients.contains(&32), "{load}");
        }
    }

    #[test]
    fn the_command_names_no_directory_of_this_machine() {
        assert_eq!(shown_argument("C=/home/me/c/libdqlite.so.0"), "C=libdqlite.so.0");
        assert_eq!(shown_argument("/home/me/out"), "out");
        assert_eq!(shown_argument("kv-write,reads"), "kv-write,reads");
    }

    #[test]
    fn options_take_the_place_of_the_plan() {
        let groups = planned(&["--workload", "reads", "--nodes", "1", "--clients", "2", "--delay-ms", "1"]);
        assert_eq!((groups.len(), &groups[0].clients[..]), (1, &[2][..]));
    }
}
