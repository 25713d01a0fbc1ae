//! The bound that one disk sets: plain SQLite, one writer, WAL, synchronous FULL, the kv write load.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::generator::{Record, Waits};
use crate::lab::summarize;
use crate::random::{Random, Values};
use crate::results::Sample;
use crate::usage::Usage;
use crate::workload::{KV_WRITE, kv_pair, kv_set_up};

/// Writes in this thread, so that the figures of this process are those of SQLite.
pub(crate) fn measure(directory: &Path, warm_up: Duration, duration: Duration) -> Result<Sample, String> {
    let path = directory.join("plain.db");
    let failed = |error: rusqlite::Error| format!("plain SQLite: {error}");
    let database = Connection::open(path).map_err(failed)?;
    database.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    database.pragma_update(None, "synchronous", "full").map_err(failed)?;
    for sql in kv_set_up() {
        database.execute_batch(&sql).map_err(failed)?;
    }
    let values = Values::new();
    let mut random = Random::new(0);
    let mut statement = database.prepare(KV_WRITE).map_err(failed)?;
    let mut write = || {
        let (key, value) = kv_pair(&mut random, &values);
        statement.execute((key, &value[..])).map(drop)
    };
    let end = Instant::now() + warm_up;
    while Instant::now() < end {
        write().map_err(failed)?;
    }
    let mut record = Record::default();
    let mut waits = Waits::default();
    let before = Usage::of(std::process::id())?;
    let started = Instant::now();
    let mut now = started;
    while now < started + duration {
        write().map_err(failed)?;
        let began = std::mem::replace(&mut now, Instant::now());
        let latency = u32::try_from((now - began).as_micros()).unwrap_or(u32::MAX);
        record.latencies_us.push(latency);
        record.max_us = record.max_us.max(latency);
        waits.add(latency);
    }
    let used = Usage::of(std::process::id())? - before;
    record.writes = waits;
    record.by_client = vec![record.latencies_us.len()];
    summarize(record, started.elapsed(), used, Usage::default())
}
