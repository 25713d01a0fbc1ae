//! The two files by which a server knows itself and its cluster, as C dqlite writes and reads them.
//!
//! `server-info`: the lines `v1`, address, id. `node-store`: the line `v1`, then for each server address, id and role
//! (`voter`, `standby`, `spare`). Every line ends with LF, nothing else is in them. An empty file is as good as none.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use wire_protocol::{NodeId, Role, Server};

const VERSION: &str = "v1";
const SERVER_INFO: &str = "server-info";
const NODE_STORE: &str = "node-store";
const SERVER_INFO_MODE: u32 = 0o664;
const NODE_STORE_MODE: u32 = 0o644;
/// Far more than any cluster needs; what is longer is not read.
const MAX_LEN: u64 = 16 * 1024 * 1024;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused.
    #[error("{op} {}: {source}", .path.display())]
    Io {
        /// The call that failed.
        op: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not follow the format.
    #[error("{} is damaged, or not written by dqlite", .path.display())]
    Format {
        /// Which file.
        path: PathBuf,
    },
}

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerInfo {
    pub(super) address: String,
    pub(super) id: NodeId,
}

pub(super) fn read_server_info(directory: &Path) -> Result<Option<ServerInfo>, FileError> {
    read(directory, SERVER_INFO, parse_server_info)
}

pub(super) fn write_server_info(directory: &Path, info: &ServerInfo) -> Result<(), FileError> {
    let text = format!("{VERSION}\n{}\n{}\n", info.address, info.id.0);
    replace(directory, SERVER_INFO, SERVER_INFO_MODE, text.as_bytes())
}

pub(super) fn read_node_store(directory: &Path) -> Result<Option<Vec<Server>>, FileError> {
    read(directory, NODE_STORE, parse_node_store)
}

pub(super) fn write_node_store(directory: &Path, servers: &[Server]) -> Result<(), FileError> {
    let mut text = format!("{VERSION}\n");
    for Server { id, address, role } in servers {
        let role = match role {
            Role::Voter => "voter",
            Role::StandBy => "standby",
            Role::Spare => "spare",
        };
        text += &format!("{address}\n{}\n{role}\n", id.0);
    }
    replace(directory, NODE_STORE, NODE_STORE_MODE, text.as_bytes())
}

/// Whether an address can stand in a line.
pub(super) fn is_line(address: &str) -> bool {
    !address.is_empty() && !address.contains('\n')
}

fn read<T>(
    directory: &Path,
    name: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, FileError> {
    let path = directory.join(name);
    let mut bytes = Vec::new();
    let result = File::open(&path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes));
    match result {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::Io { op: "read", path, source }),
    }
    let parsed = std::str::from_utf8(&bytes).ok().and_then(parse);
    parsed.map(Some).ok_or(FileError::Format { path })
}

/// A file is replaced as a whole: readers see the old one or the new one, also after a loss of power.
fn replace(directory: &Path, name: &str, mode: u32, content: &[u8]) -> Result<(), FileError> {
    let temporary = directory.join(format!("{name}-tmp"));
    let failed = |op, path: &Path, source| FileError::Io { op, path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&temporary).map_err(|error| failed("create", &temporary, error))?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| failed("write", &temporary, error))?;
    let path = directory.join(name);
    std::fs::rename(&temporary, &path).map_err(|error| failed("replace", &path, error))?;
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| failed("sync", directory, error))
}

/// The lines behind the version, without their ends.
fn lines(text: &str) -> Option<std::str::Split<'_, char>> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    (lines.next()? == VERSION).then_some(lines)
}

/// Digits only; none at all count as 0.
fn parse_id(line: &str) -> Option<NodeId> {
    if line.is_empty() {
        return Some(NodeId(0));
    }
    line.bytes().all(|byte| byte.is_ascii_digit()).then(|| line.parse().ok().map(NodeId))?
}

fn parse_server_info(text: &str) -> Option<ServerInfo> {
    let mut lines = lines(text)?;
    let info = ServerInfo { address: lines.next()?.to_owned(), id: parse_id(lines.next()?)? };
    lines.next().is_none().then_some(info)
}

fn parse_node_store(text: &str) -> Option<Vec<Server>> {
    let mut lines = lines(text)?;
    let mut servers = Vec::new();
    while let Some(address) = lines.next() {
        let id = parse_id(lines.next()?)?;
        let role = match lines.next()? {
            "voter" => Role::Voter,
            "standby" => Role::StandBy,
            "spare" => Role::Spare,
            _ => return None,
        };
        servers.push(Server { id, address: address.to_owned(), role });
    }
    Some(servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn server(id: u64, address: &str, role: Role) -> Server {
        Server { id: NodeId(id), address: address.to_owned(), role }
    }

    #[test]
    fn files_are_what_c_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(read_server_info(path).unwrap(), None);
        assert_eq!(read_node_store(path).unwrap(), None);
        let info = ServerInfo { address: "127.0.0.1:9140".to_owned(), id: NodeId(3_297_041_220_608_546_238) };
        write_server_info(path, &info).unwrap();
        let written = std::fs::read_to_string(path.join(SERVER_INFO)).unwrap();
        assert_eq!(written, "v1\n127.0.0.1:9140\n3297041220608546238\n");
        assert_eq!(read_server_info(path).unwrap(), Some(info));
        let servers =
            [server(1, "a", Role::Voter), server(2, "b", Role::StandBy), server(3, "c", Role::Spare)];
        write_node_store(path, &servers).unwrap();
        let written = std::fs::read_to_string(path.join(NODE_STORE)).unwrap();
        assert_eq!(written, "v1\na\n1\nvoter\nb\n2\nstandby\nc\n3\nspare\n");
        assert_eq!(read_node_store(path).unwrap(), Some(servers.to_vec()));
        assert_eq!(
            std::fs::metadata(path.join(NODE_STORE)).unwrap().mode() & 0o7133,
            0,
            "nobody else writes"
        );
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn what_is_not_in_the_format_is_refused() {
        let info = |text: &str| parse_server_info(text);
        assert_eq!(info("v1\na\n\n"), Some(ServerInfo { address: "a".to_owned(), id: NodeId(0) }));
        for bad in [
            "v1\na\n1",
            "v2\na\n1\n",
            "v1\na\n1\n\n",
            "v1\na\n1\nb\n",
            "v1\na\n-1\n",
            "v1\na\n1x\n",
            "v1\na\n+1\n",
            "v1\na\n18446744073709551616\n",
            "v1\na\n",
            "v1\n",
            "\n",
            " v1\na\n1\n",
            "v1\r\na\n1\n",
        ] {
            assert_eq!(info(bad), None, "{bad:?}");
        }
        assert_eq!(parse_node_store("v1\n"), Some(Vec::new()));
        for bad in
            ["v1", "v1\na\n1\n", "v1\na\n1\nvoter", "v1\na\n1\nstand-by\n", "v1\na\nx\nvoter\n", "v1\n\n"]
        {
            assert_eq!(parse_node_store(bad), None, "{bad:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(SERVER_INFO), [0xff, 0xfe, b'\n']).unwrap();
        assert!(matches!(read_server_info(directory.path()), Err(FileError::Format { .. })));
        std::fs::write(directory.path().join(NODE_STORE), "").unwrap();
        assert_eq!(read_node_store(directory.path()).unwrap(), None, "an empty file is as good as none");
    }
}
