//! The databases of a directory as of the last entry: snapshot and log through the VFS of a node.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use raft_glue::disk::{self, Disk, DiskError, Inspection};
use raft_glue::{EntryKind, LogIndex};
use vfs::{ColumnValue, DatabaseName, DatabaseSnapshot, PAGE_SIZE, PageNumber, Step, Vfs};

use super::InspectError;
use super::arguments::Dump;
use super::report::Report;
use crate::core::{restore_payload, transaction_of};

/// Where page 1 says which journal a database has: 1 is the rollback journal, 2 the WAL; one byte for writers, one for
/// readers.
const JOURNAL_FIELD: std::ops::Range<usize> = 18..20;
const ROLLBACK_JOURNAL: u8 = 1;
/// What SQLite says of a database in good order.
const SOUND: &[u8] = b"ok";

/// The databases, in memory.
#[derive(Debug)]
pub struct Databases {
    vfs: Vfs,
    /// Last entry that is in them.
    as_of: LogIndex,
    /// Why the entries behind it are not.
    failure: Option<String>,
}

impl Databases {
    /// Loads the snapshot and applies the entries behind it.
    pub(super) fn build<D: Disk>(directory: &D, inspection: &Inspection) -> Result<Self, InspectError> {
        let vfs = Vfs::register().map_err(|error| InspectError::Sqlite(error.to_string()))?;
        let mut databases = Self { vfs, as_of: LogIndex(0), failure: None };
        if let Some(metadata) = &inspection.loaded.snapshot {
            let payload = match disk::read_snapshot(directory, metadata) {
                Err(DiskError::Corrupt { what, message }) => {
                    databases.failure = Some(format!("{what}: {message}"));
                    return Ok(databases);
                }
                result => result?,
            };
            if let Err(reason) = restore_payload(&databases.vfs, &payload) {
                databases.failure = Some(format!("snapshot at entry {}: {reason}", metadata.index));
                return Ok(databases);
            }
            databases.as_of = metadata.index;
        }
        databases.apply(inspection);
        Ok(databases)
    }

    fn apply(&mut self, inspection: &Inspection) {
        let first = inspection.loaded.first_index.0;
        for (index, entry) in (first..).zip(&inspection.loaded.entries) {
            if index <= self.as_of.0 {
                continue;
            }
            if entry.kind == EntryKind::Command
                && let Err(reason) = self.apply_command(&entry.data)
            {
                self.failure = Some(format!("entry {index} cannot be applied: {reason}"));
                return;
            }
            self.as_of = LogIndex(index);
        }
    }

    fn apply_command(&self, data: &bytes::Bytes) -> Result<(), String> {
        let Some((name, frames)) = transaction_of(data)? else { return Ok(()) };
        let database = self.vfs.get_or_create(&name);
        let mut pages = frames.pages().map(|(number, page)| (PageNumber(number), page));
        database.apply(&mut pages).map_err(|error| error.to_string())?;
        database.maintain().map_err(|error| error.to_string())?;
        self.vfs.remove_if_deleted(&name);
        Ok(())
    }

    /// Last entry that is in them.
    #[must_use]
    pub fn as_of(&self) -> LogIndex {
        self.as_of
    }

    /// Why the entries behind [`Self::as_of`] are not in them, or the snapshot is not.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Names and sizes in pages, in order of first use.
    #[must_use]
    pub fn list(&self) -> Vec<(Vec<u8>, u32)> {
        let databases = self.vfs.databases();
        databases.iter().map(|found| (found.name().as_bytes().to_vec(), found.page_count())).collect()
    }

    /// Has SQLite look at every page of every database.
    pub(super) fn verify(&self, report: &mut Report) {
        for database in &mut report.databases {
            database.integrity = Some(self.integrity(&database.name));
        }
    }

    /// What SQLite finds wrong, nothing in the best case; or why it cannot look.
    fn integrity(&self, name: &[u8]) -> Result<Vec<String>, String> {
        let name = DatabaseName::new(name).map_err(|error| error.to_string())?;
        let mut connection = self.vfs.open(&name).map_err(|error| error.to_string())?;
        let prepared = connection.prepare(b"PRAGMA integrity_check").map_err(|error| error.to_string())?;
        let Some(mut statement) = prepared.statement else { return Err("nothing was compiled".to_owned()) };
        let mut found = Vec::new();
        while statement.step().map_err(|error| error.to_string())? == Step::Row {
            match statement.column(0) {
                ColumnValue::Text(text) if text == SOUND => {}
                ColumnValue::Text(text) => found.push(String::from_utf8_lossy(text).into_owned()),
                other => found.push(format!("{other:?}")),
            }
        }
        Ok(found)
    }

    /// Writes a database into a file that must not exist and does not lie in `directory`. Returns its number of pages.
    pub(super) fn dump(&self, directory: &Path, dump: &Dump) -> Result<u32, InspectError> {
        let fail = |text: String| InspectError::Dump(text);
        let shown = dump.file.display();
        let name = dump.database.as_bytes();
        let databases = self.vfs.databases();
        let Some(database) = databases.iter().find(|database| database.name().as_bytes() == name) else {
            let known: Vec<String> = databases.iter().map(|known| format!("{:?}", known.name())).collect();
            return Err(fail(format!(
                "there is no database {}; there are {}",
                dump.database.display(),
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            )));
        };
        if lies_within(&dump.file, directory).map_err(|error| fail(format!("{shown}: {error}")))? {
            return Err(fail(format!("{shown} lies in the data directory, into which nothing is written")));
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&dump.file);
        let file = file.map_err(|error| fail(format!("create {shown}: {error}")))?;
        let snapshot = database.snapshot();
        if let Err(error) = write_pages(file, &snapshot) {
            let _ = fs::remove_file(&dump.file);
            return Err(fail(format!("write {shown}: {error}")));
        }
        Ok(snapshot.page_count())
    }
}

/// Whether a file that is to be made would be in the directory or below it.
fn lies_within(file: &Path, directory: &Path) -> io::Result<bool> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = fs::canonicalize(parent.map_or_else(|| PathBuf::from("."), Path::to_owned))?;
    Ok(parent.starts_with(fs::canonicalize(directory)?))
}

fn write_pages(file: File, snapshot: &DatabaseSnapshot) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(64 * PAGE_SIZE, file);
    for (number, page) in (1_u32..).zip(snapshot.pages()) {
        if number == 1 {
            // A database in WAL mode cannot be opened where no second file can be made beside it.
            let mut first = page.to_vec();
            first[JOURNAL_FIELD].fill(ROLLBACK_JOURNAL);
            writer.write_all(&first)?;
        } else {
            writer.write_all(&page[..])?;
        }
    }
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
