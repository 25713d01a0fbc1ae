//! What a run measured: kept as JSON, so that tables and plots can be made again without measuring again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Name of plain SQLite among the libraries.
pub(crate) const PLAIN_SQLITE: &str = "SQLite";

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) operations: usize,
    pub(crate) seconds: f64,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
    /// Operations included that had not ended.
    pub(crate) max_us: u32,
    /// By code, or by what was wrong.
    pub(crate) errors: BTreeMap<String, usize>,
    /// Of all nodes.
    pub(crate) cpu_s: f64,
    /// Of all nodes.
    pub(crate) written_bytes: f64,
    /// That the disk was given, the file system's own among them.
    pub(crate) device_bytes: f64,
    /// Of the clients and the late network.
    pub(crate) load_cpu_s: f64,
    /// Of writes.
    pub(crate) max_wait_us: u32,
    /// Of writes.
    pub(crate) mean_wait_us: f64,
    /// Operations of the client that had the fewest.
    pub(crate) slowest_client: usize,
    /// And of the one that had the most.
    pub(crate) fastest_client: usize,
}

impl Sample {
    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub(crate) fn cpu_s_per_1000(&self) -> f64 {
        self.cpu_s / self.operations as f64 * 1000.0
    }

    pub(crate) fn bytes_per_operation(&self) -> f64 {
        self.written_bytes / self.operations as f64
    }

    pub(crate) fn device_bytes_per_operation(&self) -> f64 {
        self.device_bytes / self.operations as f64
    }

    /// Longest wait of a writer for each mean wait; 1 would be perfect.
    pub(crate) fn unfairness(&self) -> f64 {
        if self.mean_wait_us > 0.0 { f64::from(self.max_wait_us) / self.mean_wait_us } else { 0.0 }
    }

    fn to_json(&self) -> Value {
        json!({
            "operations": self.operations, "seconds": self.seconds,
            "p50_us": self.p50_us, "p99_us": self.p99_us, "max_us": self.max_us,
            "errors": self.errors,
            "cpu_s": self.cpu_s, "written_bytes": self.written_bytes,
            "device_bytes": self.device_bytes, "load_cpu_s": self.load_cpu_s,
            "max_wait_us": self.max_wait_us, "mean_wait_us": self.mean_wait_us,
            "slowest_client": self.slowest_client, "fastest_client": self.fastest_client,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let real = |name: &str| value.get(name)?.as_f64();
        let whole = |name: &str| usize::try_from(value.get(name)?.as_u64()?).ok();
        let short = |name: &str| u32::try_from(value.get(name)?.as_u64()?).ok();
        let errors = value.get("errors")?.as_object()?;
        let count =
            |(code, count): (&String, &Value)| Some((code.clone(), usize::try_from(count.as_u64()?).ok()?));
        Some(Self {
            operations: whole("operations")?,
            seconds: real("seconds")?,
            p50_us: short("p50_us")?,
            p99_us: short("p99_us")?,
            max_us: short("max_us")?,
            errors: errors.iter().map(count).collect::<Option<_>>()?,
            cpu_s: real("cpu_s")?,
            written_bytes: real("written_bytes")?,
            // Older runs did not look.
            device_bytes: real("device_bytes").unwrap_or(0.0),
            load_cpu_s: real("load_cpu_s")?,
            max_wait_us: short("max_wait_us")?,
            mean_wait_us: real("mean_wait_us")?,
            slowest_client: whole("slowest_client")?,
            fastest_client: whole("fastest_client")?,
        })
    }
}

/// What was measured together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) load: String,
    pub(crate) nodes: usize,
    pub(crate) delay_ms: u64,
    pub(crate) clients: usize,
}

/// All measurements of one cell and one library, one a round; a round that failed says why.
pub(crate) type Rounds = Vec<Result<Sample, String>>;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Results {
    /// The command and the machine, for readers.
    pub(crate) about: BTreeMap<String, String>,
    /// In the order they are shown in.
    pub(crate) libraries: Vec<String>,
    pub(crate) cells: BTreeMap<Cell, BTreeMap<String, Rounds>>,
}

impl Results {
    pub(crate) fn add(&mut self, cell: Cell, library: &str, sample: Result<Sample, String>) {
        if !self.libraries.iter().any(|name| name == library) {
            self.libraries.push(library.to_owned());
        }
        self.cells.entry(cell).or_default().entry(library.to_owned()).or_default().push(sample);
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(&self.to_json()).map_err(|error| error.to_string())?;
        fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
        let value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
        Self::from_json(&value).ok_or_else(|| failed(&"these are no results of a run"))
    }

    fn to_json(&self) -> Value {
        let cells: Vec<Value> = self
            .cells
            .iter()
            .map(|(cell, libraries)| {
                let libraries: serde_json::Map<String, Value> = libraries
                    .iter()
                    .map(|(name, rounds)| {
                        let rounds = rounds.iter().map(|round| match round {
                            Ok(sample) => sample.to_json(),
                            Err(error) => json!({ "failed": error }),
                        });
                        (name.clone(), rounds.collect())
                    })
                    .collect();
                json!({
                    "workload": cell.load, "nodes": cell.nodes, "delay_ms": cell.delay_ms,
                    "clients": cell.clients, "libraries": libraries,
                })
            })
            .collect();
        json!({ "about": self.about, "libraries": self.libraries, "cells": cells })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let mut results = Self {
            about: value
                .get("about")?
                .as_object()?
                .iter()
                .map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect::<Option<_>>()?,
            libraries: value.get("libraries")?.as_array()?.iter().map(text).collect::<Option<_>>()?,
            cells: BTreeMap::new(),
        };
        for item in value.get("cells")?.as_array()? {
            let whole = |name: &str| usize::try_from(item.get(name)?.as_u64()?).ok();
            let cell = Cell {
                load: text(item.get("workload")?)?,
                nodes: whole("nodes")?,
                delay_ms: item.get("delay_ms")?.as_u64()?,
                clients: whole("clients")?,
            };
            for (name, rounds) in item.get("libraries")?.as_object()? {
                for round in rounds.as_array()? {
                    let sample = match round.get("failed") {
                        Some(error) => Err(text(error)?),
                        None => Ok(Sample::from_json(round)?),
                    };
                    results.add(cell.clone(), name, sample);
                }
            }
        }
        Some(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut results = Results::default();
        results.about.insert("command".to_owned(), "x".to_owned());
        let cell = Cell { load: "kv-write".to_owned(), nodes: 3, delay_ms: 1, clients: 8 };
        let sample = Sample {
            operations: 5,
            seconds: 2.5,
            errors: BTreeMap::from([("5".to_owned(), 3)]),
            mean_wait_us: 1.5,
            ..Sample::default()
        };
        results.add(cell.clone(), "ours", Ok(sample));
        results.add(cell, "C", Err("no".to_owned()));
        assert_eq!(Results::from_json(&results.to_json()), Some(results));
    }
}
