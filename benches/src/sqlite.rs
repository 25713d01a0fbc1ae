//! The bound that one disk sets: plain SQLite, one writer, WAL, synchronous FULL, the kv write load.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::generator::{Record, Waits};
use crate::lab::summarize;
use crate::random::Random;
use crate::results::Sample;
use crate::usage::Usage;
use crate::workload::{KV_TABLE, KV_WRITE, Writes};

/// Writes in this thread, so that the figures of this process are those of SQLite.
pub(crate) fn measure(directory: &Path, warm_up: Duration, duration: Duration) -> Result<Sample, String> {
    let path = directory.join("plain.db");
    let failed = |error: rusqlite::Error| format!("plain SQLite: {error}");
    let database = Connection::open(path).map_err(failed)?;
    database.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    database.pragma_update(None, "synchronous", "full").map_err(failed)?;
    database.execute_batch(KV_TABLE).map_err(failed)?;
    let writes = Writes::new();
    let mut random = Random::new(0);
    let mut statement = database.prepare(KV_WRITE).map_err(failed)?;
    let mut write = || {
        let (key, value) = (Writes::key(&mut random), writes.value(&mut random));
        statement.execute((str::from_utf8(&key)?, &value[..])).map(drop)
    };
    let end = Instant::now() + warm_up;
    while Instant::now() < end {
        write().map_err(failed)?;
    }
    let mut record = Record::default();
    let mut waits = Waits::default();
    let used = || Usage::of(std::process::id())?.with_device_of(directory);
    let before = used()?;
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
    let used = used()? - before;
    record.writes = waits;
    record.by_client = vec![record.latencies_us.len()];
    summarize(record, started.elapsed(), used, Usage::default())
}
