//! How much memory a node may hold on behalf of its clients: what the host chose, or a part of what there is.
//!
//! What there is is the smaller of the machine's memory (`MemTotal` of /proc/meminfo) and the limits of the control groups
//! that the process is in, of version 2 (`memory.max` and `memory.high` of the group and all above it) or version 1
//! (`memory.limit_in_bytes`, likewise). See `cgroups(7)` and the kernel's `cgroup-v2.rst`, `cgroup-v1/memory.rst`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::core::limits::{CLIENT_MEMORY_SHARE, MIN_CLIENT_MEMORY};

/// Environment variable with the number of bytes, or of KiB, MiB or GiB with a letter behind it.
pub const VARIABLE: &str = "LIBDQLITE_CLIENT_MEMORY";

/// Assumed where the kernel does not say how much memory there is, bytes.
const UNKNOWN_MEMORY: u64 = 1024 * 1024 * 1024;

/// Bytes that a node of this process may hold for its clients.
#[must_use]
pub fn client_memory_bytes() -> u64 {
    if let Some(text) = std::env::var_os(VARIABLE) {
        match text.to_str().and_then(parse) {
            Some(bytes) => return bytes,
            None => tracing::warn!(?text, "{VARIABLE} is not a size such as 512M and is ignored"),
        }
    }
    let available = available_bytes(Path::new("/")).unwrap_or(UNKNOWN_MEMORY);
    (available / CLIENT_MEMORY_SHARE).max(MIN_CLIENT_MEMORY)
}

/// A positive size: a number, and K, M, G or nothing.
fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// The smallest of all limits under `root`, which holds `proc` and `sys`.
fn available_bytes(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| group_limits(root, line)).min();
    machine.into_iter().chain(limits).min()
}

/// Limits of one line of /proc/self/cgroup: `0::/path` of version 2, `4:memory:/path` of version 1.
fn group_limits(root: &Path, line: &str) -> Vec<u64> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (mount, files): (&str, &[&str]) = if controllers.is_empty() {
        ("sys/fs/cgroup", &["memory.max", "memory.high"])
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
    } else {
        return Vec::new();
    };
    let mount = root.join(mount);
    // In a container the path is often one of the host's that is not there; the container's own group is at the mount.
    let mut limits = Vec::new();
    let mut group = PathBuf::from(path.trim_start_matches('/'));
    loop {
        for file in files {
            let text = fs::read_to_string(mount.join(&group).join(file)).unwrap_or_default();
            // "max" is no limit; version 1 says a number near 2^63.
            limits.extend(text.trim().parse::<u64>().ok());
        }
        if !group.pop() {
            return limits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_smallest_limit_of_all_groups_above_counts() {
        let machine = root(&[MACHINE]);
        assert_eq!(available_bytes(machine.path()), Some(8 << 30));
        let version_2 = root(&[
            MACHINE,
            ("proc/self/cgroup", "0::/kube/pod/leaf\n"),
            ("sys/fs/cgroup/kube/memory.max", "max\n"),
            ("sys/fs/cgroup/kube/pod/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/kube/pod/leaf/memory.max", "2147483648\n"),
        ]);
        assert_eq!(available_bytes(version_2.path()), Some(1 << 30));
        let throttled = root(&[
            MACHINE,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/memory.high", "536870912\n"),
        ]);
        assert_eq!(available_bytes(throttled.path()), Some(512 << 20));
    }

    #[test]
    fn version_1_is_read_where_the_container_sees_it() {
        let version_1 = root(&[
            MACHINE,
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/not-visible-here\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
        ]);
        assert_eq!(available_bytes(version_1.path()), Some(256 << 20));
        let unlimited = root(&[
            MACHINE,
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(available_bytes(unlimited.path()), Some(8 << 30));
        assert_eq!(available_bytes(root(&[]).path()), None);
    }

    #[test]
    fn sizes_are_numbers_with_or_without_a_unit() {
        for (text, bytes) in [("4096", 4096), ("512M", 512 << 20), (" 2g", 2 << 30), ("64 K ", 64 << 10)] {
            assert_eq!(parse(text), Some(bytes), "{text:?}");
        }
        for text in ["", "0", "M", "-1", "1.5G", "12MB", "99999999999G"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
