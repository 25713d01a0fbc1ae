//! What a recovery stages before it changes anything: copies of what it is going to replace, and the segment it adds.
//!
//! The copies are named `backup-N-<name>`, with a number that is new with each recovery. Nothing reads them, C ignores
//! the names, and nobody removes them.

use super::error::DiskError;
use super::examine::{Examined, Repair};
use super::file_system::{Disk, File};
use super::files;
use super::names::{BACKUP, ClosedName, MANIFEST, MARKER, METADATA};
use super::segment;
use super::writer::Finished;
use crate::{Configuration, Entry};

/// File with the configuration that is replaced, one server a line: id, address, role.
const CONFIGURATION: &str = "configuration";
/// Name of the file that keeps space free for repairs.
const BALLAST: &str = "recover";
/// What repairs need besides copies of files: metadata, and what file systems add.
const BALLAST_LEN: u64 = 64 * 1024;
/// What is being done, for errors.
const WHAT: &str = "recover";

/// Everything that was written ahead. Dropping it leaves all of it.
#[derive(Debug)]
pub(crate) struct Staged<'a, D: Disk> {
    disk: &'a D,
    /// Names that did not exist before.
    created: Vec<String>,
    /// The segment that is ready under its temporary name.
    segment: Finished,
}

impl<'a, D: Disk> Staged<'a, D> {
    /// Writes copies of all that a repair changes, and a segment with `entry` at index `next`. Changes nothing else; a
    /// failure leaves nothing behind.
    pub(crate) fn write(
        disk: &'a D,
        examined: &Examined,
        next: u64,
        entry: &Entry,
    ) -> Result<Self, DiskError> {
        let entries = std::slice::from_ref(entry);
        let extent = segment::extent(next, entries, &segment::encode(entries));
        let segment = Finished { name: ClosedName::new(next, next), extent };
        let mut staged = Self { disk, created: Vec::new(), segment };
        match staged.write_all(examined, entry) {
            Ok(()) => Ok(staged),
            Err(error) => {
                staged.discard();
                Err(error.without_space_for_new("a backup of what is recovered"))
            }
        }
    }

    fn write_all(&mut self, examined: &Examined, entry: &Entry) -> Result<(), DiskError> {
        let entries = self.disk.list().map_err(DiskError::io(WHAT, "open directory"))?;
        let exists = |name: &str| entries.iter().any(|entry| entry.name == name);
        let number =
            entries.iter().filter_map(|entry| number_of(&entry.name)).max().unwrap_or(0).saturating_add(1);
        if let Some((_, configuration)) = &examined.configuration {
            self.create(&format!("{BACKUP}{number}-{CONFIGURATION}"), text(configuration).as_bytes())?;
        }
        let small = METADATA.into_iter().chain([MARKER, MANIFEST]).filter(|name| exists(name));
        let open = examined.open.iter().map(|open| open.name.as_str());
        for name in small.chain(open) {
            let content = files::read(self.disk, name, WHAT)?;
            self.create(&format!("{BACKUP}{number}-{name}"), &content)?;
        }
        self.create(
            &files::temporary(&self.segment.name.name.clone()),
            &segment::encode(std::slice::from_ref(entry)),
        )?;
        let copied = |repair: &Repair| match repair {
            Repair::CutTo(len) => *len,
            Repair::MoveAside(_) => 0,
        };
        let copies: u64 = examined.harmless.iter().map(|found| 2 * copied(&found.repair)).sum();
        let ballast = files::temporary(BALLAST);
        files::remove_if_exists(self.disk, &ballast, WHAT)?;
        self.created.push(ballast.clone());
        let file = self.disk.create(&ballast).map_err(DiskError::io(WHAT, "open"))?;
        file.allocate(BALLAST_LEN + copies).map_err(DiskError::io(WHAT, "write"))?;
        files::sync_directory(self.disk, WHAT)
    }

    fn create(&mut self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        files::remove_if_exists(self.disk, name, WHAT)?;
        self.created.push(name.to_owned());
        let file = self.disk.create(name).map_err(DiskError::io(WHAT, "open"))?;
        file.write_at(content, 0).map_err(DiskError::io(WHAT, "write"))?;
        file.sync().map_err(DiskError::io(WHAT, "fsync"))
    }

    /// Gives the space free that was kept for repairs.
    pub(crate) fn make_room(&self) -> Result<(), DiskError> {
        files::remove_if_exists(self.disk, &files::temporary(BALLAST), WHAT)
    }

    /// Index of the entry that is added.
    pub(crate) fn index(&self) -> u64 {
        self.segment.extent.first
    }

    /// Makes the segment part of the log, durably, and gives it.
    pub(crate) fn publish(&self) -> Result<Finished, DiskError> {
        files::publish(self.disk, &self.segment.name.name, WHAT)?;
        files::sync_directory(self.disk, WHAT)?;
        Ok(self.segment.clone())
    }

    /// Removes everything again, the segment included, as far as the disk lets us.
    pub(crate) fn discard(&self) {
        for name in self.created.iter().chain([&self.segment.name.name]) {
            if let Err(error) = files::remove_if_exists(self.disk, name, WHAT) {
                tracing::warn!(%error, "a file of a recovery that failed is left behind: {name}");
            }
        }
        if let Err(error) = files::sync_directory(self.disk, WHAT) {
            tracing::warn!(%error, "a recovery failed");
        }
    }
}

/// The number of a backup file.
fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(BACKUP)?.split('-').next()?.parse().ok().filter(|number| *number < u64::MAX / 2)
}

fn text(configuration: &Configuration) -> String {
    let line = |server: &crate::Server| format!("{} {} {:?}\n", server.id, server.address, server.role);
    configuration.servers.iter().map(line).collect()
}
