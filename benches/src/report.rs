//! Tables and plots of a run, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::plot::{Kind, Series, plot};
use crate::results::{Cell, Results, Rounds, Sample};
use crate::statistics::Spread;
use crate::targets::targets;
use crate::workload::Load;

const BEGIN: &str = "<!-- begin of results -->";
const END: &str = "<!-- end of results -->";
/// Compared across loads.
const COMMON_CLIENTS: usize = 32;

/// Writes `results.md` and the plots into the directory.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<(), String> {
    let plots = plots(results);
    for (name, svg) in &plots {
        save(&directory.join(name), svg)?;
    }
    save(&directory.join("results.md"), &markdown(results, plots.keys(), ""))
}

/// From the results of an earlier run; with `readme` also into this package's README.md.
pub(crate) fn again(directory: &Path, readme: bool) -> Result<(), String> {
    let results = Results::read(&directory.join("results.json"))?;
    write(&results, directory)?;
    if readme {
        let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let plots = plots(&results);
        let place = package.join("plots");
        fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        for (name, svg) in &plots {
            save(&place.join(name), svg)?;
        }
        let path = package.join("README.md");
        let old = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let new = replaced(&old, &markdown(&results, plots.keys(), "plots/"))
            .ok_or_else(|| format!("{}: the marks of the results are missing", path.display()))?;
        save(&path, &new)?;
    }
    Ok(())
}

fn replaced(text: &str, results: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{results}\n{END}{after}"))
}

fn save(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn markdown<'a>(results: &Results, plots: impl Iterator<Item = &'a String>, place: &str) -> String {
    let mut text = String::new();
    for (name, value) in results.about.iter().filter(|(name, _)| *name != "cores") {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {name}: `{value}`");
    }
    let targets = targets(results);
    if !targets.is_empty() {
        text.push_str("\n| target (three nodes, no delay, unless said otherwise) | compared to | wanted | measured | met |\n");
        text.push_str("|---|---|---|---|---|\n");
        for target in targets {
            let met = if target.is_met() { "yes" } else { "**no**" };
            let (bound, measured) = (target.bound(), target.measured());
            let _ = writeln!(text, "| {} | {} | {bound} | {measured} | {met} |", target.what, target.other);
        }
    }
    let cores = results.about.get("cores").and_then(|cores| cores.parse().ok()).unwrap_or(1.0);
    for load in Load::ALL {
        let cells: Vec<_> = results.cells.iter().filter(|(cell, _)| cell.load == load.name()).collect();
        if cells.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "\n### {load}\n\n| nodes | delay ms | clients | library | per s (quartiles) | p50 ms | p99 ms | max ms | \
             errors | CPU s / 1000 | KiB disk | KiB device | max / mean wait | load CPU |\n\
             |--:|--:|--:|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|\n"
        );
        for (cell, libraries) in cells {
            for library in &results.libraries {
                if let Some(rounds) = libraries.get(library) {
                    let _ = writeln!(text, "{}", row(cell, library, rounds, cores));
                }
            }
        }
    }
    text.push('\n');
    for name in plots {
        let _ = writeln!(text, "![{name}]({place}{name})");
    }
    text
}

fn row(cell: &Cell, library: &str, rounds: &Rounds, cores: f64) -> String {
    let start = format!("| {} | {} | {} | {library} |", cell.nodes, cell.delay_ms, cell.clients);
    let samples: Vec<&Sample> = rounds.iter().filter_map(|round| round.as_ref().ok()).collect();
    let failed = rounds.len() - samples.len();
    let of = |figure: &dyn Fn(&Sample) -> f64| Spread::of(samples.iter().map(|sample| figure(sample)));
    let Some(rate) = of(&Sample::per_second) else {
        return format!("{start} all {failed} rounds failed | | | | | | | | | |");
    };
    let median = |figure: &dyn Fn(&Sample) -> f64| of(figure).map_or(0.0, |spread| spread.median);
    let ms = |figure: &dyn Fn(&Sample) -> u32| median(&|sample| f64::from(figure(sample)) / 1000.0);
    format!(
        "{start} {:.0} ({:.0}–{:.0}) | {:.2} | {:.2} | {:.1} | {} | {:.3} | {:.1} | {:.1} | {:.1} | {:.0} % |",
        rate.median,
        rate.low,
        rate.high,
        ms(&|sample| sample.p50_us),
        ms(&|sample| sample.p99_us),
        ms(&|sample| sample.max_us),
        errors(&samples, failed),
        median(&Sample::cpu_s_per_1000),
        median(&|sample| sample.bytes_per_operation() / 1024.0),
        median(&|sample| sample.device_bytes_per_operation() / 1024.0),
        median(&Sample::unfairness),
        median(&|sample| sample.load_cpu_s / sample.seconds / cores * 100.0),
    )
}

/// Of all rounds together, by code.
fn errors(samples: &[&Sample], failed: usize) -> String {
    let mut by_code: BTreeMap<&str, usize> = BTreeMap::new();
    for (code, count) in samples.iter().flat_map(|sample| &sample.errors) {
        *by_code.entry(code).or_default() += count;
    }
    let mut parts: Vec<String> = by_code.iter().map(|(code, count)| format!("{count} × {code}")).collect();
    if failed > 0 {
        parts.push(format!("{failed} rounds failed"));
    }
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// File names and contents: lines over the clients for each load, bars over the loads.
fn plots(results: &Results) -> BTreeMap<String, String> {
    let settings: BTreeSet<(usize, u64)> =
        results.cells.keys().map(|cell| (cell.nodes, cell.delay_ms)).collect();
    let mut plots = BTreeMap::new();
    for (nodes, delay_ms) in settings {
        let where_ = format!("{nodes} node{}, {delay_ms} ms delay", if nodes == 1 { "" } else { "s" });
        for load in Load::ALL {
            let cells: Vec<&Cell> =
                cells_of(results, nodes, delay_ms).filter(|cell| cell.load == load.name()).collect();
            if cells.len() > 1 {
                let places: Vec<String> =
                    cells.iter().map(|cell| format!("{} clients", cell.clients)).collect();
                let title = format!("{load}, {where_}");
                let svg = plot(Kind::Lines, &title, "per s", &places, &series(results, &cells));
                plots.extend(svg.map(|svg| (format!("{load}-{nodes}-{delay_ms}.svg"), svg)));
            }
        }
        let cells: Vec<&Cell> =
            cells_of(results, nodes, delay_ms).filter(|cell| cell.clients == COMMON_CLIENTS).collect();
        if cells.len() > 1 {
            let places: Vec<String> = cells.iter().map(|cell| cell.load.clone()).collect();
            let title = format!("{COMMON_CLIENTS} clients, {where_}");
            let svg = plot(Kind::Bars, &title, "per s", &places, &series(results, &cells));
            plots.extend(svg.map(|svg| (format!("loads-{nodes}-{delay_ms}.svg"), svg)));
        }
    }
    plots
}

fn cells_of(results: &Results, nodes: usize, delay_ms: u64) -> impl Iterator<Item = &Cell> {
    results.cells.keys().filter(move |cell| cell.nodes == nodes && cell.delay_ms == delay_ms)
}

fn series(results: &Results, cells: &[&Cell]) -> Vec<Series> {
    let point = |cell: &Cell, library: &str| {
        let rounds = results.cells.get(cell)?.get(library)?;
        Spread::of(rounds.iter().flatten().map(Sample::per_second))
    };
    let one = |name: &String| Series {
        name: name.clone(),
        points: cells.iter().map(|cell| point(cell, name)).collect(),
    };
    let all = results.libraries.iter().map(one);
    all.filter(|series| series.points.iter().any(Option::is_some)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::default();
        for clients in [1, 32] {
            for (library, operations) in [("ours", 1000), ("C", 100)] {
                for round in 0..3 {
                    let sample = Sample {
                        operations: operations + round,
                        seconds: 1.0,
                        errors: BTreeMap::from([("5".to_owned(), 2)]),
                        ..Sample::default()
                    };
                    let cell = Cell { load: "kv-write".to_owned(), nodes: 3, delay_ms: 0, clients };
                    results.add(cell, library, Ok(sample));
                }
            }
        }
        results
    }

    #[test]
    fn every_library_has_its_row_and_errors_are_summed() {
        let text = markdown(&results(), std::iter::empty(), "");
        assert!(text.contains("| 3 | 0 | 1 | ours | 1001 (1000–1002) |"), "{text}");
        assert!(text.contains("| 3 | 0 | 32 | C | 101 (100–102) |"), "{text}");
        assert_eq!(text.matches("6 × 5").count(), 4, "{text}");
    }

    #[test]
    fn a_cell_that_always_failed_says_so() {
        let cell = Cell { load: "reads".to_owned(), nodes: 1, delay_ms: 0, clients: 1 };
        assert!(row(&cell, "C", &vec![Err("no".to_owned())], 2.0).contains("all 1 rounds failed"));
    }

    #[test]
    fn results_take_the_place_between_the_marks() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replaced(&text, "new\n").unwrap();
        assert!(
            new.starts_with("a\n") && new.ends_with("\nb\n") && new.contains("new") && !new.contains("old")
        );
        assert_eq!(replaced("a", "new"), None);
    }

    #[test]
    fn a_line_for_several_clients_makes_a_plot() {
        let plots = plots(&results());
        assert_eq!(plots.keys().collect::<Vec<_>>(), ["kv-write-3-0.svg"]);
    }
}
