//! What the kernel says a process has used.

use std::fs;
use std::ops::{Add, Sub};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The kernel counts sectors of this size, whatever the disk's are.
const SECTOR_LEN: f64 = 512.0;

/// Totals since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Time on a processor, in seconds.
    pub(crate) cpu_s: f64,
    /// Bytes on their way to a disk; those of a file system in memory do not count.
    pub(crate) written_bytes: f64,
    /// Bytes that the disk was given, by anybody: what its file system writes on behalf of a process stands nowhere else.
    pub(crate) device_bytes: f64,
}

impl Usage {
    /// Of a running process.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let ticks = cpu_ticks(&read("stat")?).ok_or_else(|| format!("/proc/{pid}/stat is not understood"))?;
        let written =
            written_bytes(&read("io")?).ok_or_else(|| format!("/proc/{pid}/io is not understood"))?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Ok(Self { cpu_s: ticks / ticks_per_second as f64, written_bytes: written, device_bytes: 0.0 })
    }

    /// And of the disk that holds `path`; nothing if that is not on one.
    pub(crate) fn with_device_of(mut self, path: &Path) -> Result<Self, String> {
        let device = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        if let Ok(stat) = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")) {
            self.device_bytes = device_bytes(&stat).ok_or("the disk's statistics are not understood")?;
        }
        Ok(self)
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_s: self.cpu_s + other.cpu_s,
            written_bytes: self.written_bytes + other.written_bytes,
            device_bytes: self.device_bytes + other.device_bytes,
        }
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            cpu_s: self.cpu_s - other.cpu_s,
            written_bytes: self.written_bytes - other.written_bytes,
            device_bytes: self.device_bytes - other.device_bytes,
        }
    }
}

/// User and system time: fields 14 and 15 of `stat`, counted behind the name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some(ticks()? + ticks()?)
}

fn written_bytes(io: &str) -> Option<f64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok())
}

/// Sectors written: the seventh field.
fn device_bytes(stat: &str) -> Option<f64> {
    Some(stat.split_whitespace().nth(6)?.parse::<f64>().ok()? * SECTOR_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 700 30 0 0 20 0 1 0 100";
        assert_eq!(cpu_ticks(stat), Some(730.0));
        assert_eq!(written_bytes("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n"), Some(4096.0));
        assert_eq!(device_bytes("    1 2 3 4   5 6 70 8 9 10 11\n"), Some(35840.0));
        assert_eq!(device_bytes("1 2 3"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.cpu_s >= 0.0 && usage.written_bytes >= 0.0, "{usage:?}");
        assert!(Usage::of(u32::MAX).is_err());
    }
}
