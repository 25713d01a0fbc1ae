//! Committed entries meet the databases: our own move a watermark, others' are applied natively. Snapshots.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft_glue::disk::Space;
use raft_glue::{Committed, EntryKind, InstalledSnapshot};
use vfs::{Database, DatabaseName, DatabaseSnapshot, PAGE_SIZE, PageNumber, Vfs};
use wire_protocol::command::{Command, Frames};
use wire_protocol::snapshot::PayloadDecoder;

use super::database::DatabaseId;
use super::{Core, DiskJob, Output, SnapshotDone, SnapshotJob};

impl Core {
    /// Applies the next entry of the log.
    pub(super) fn apply(&mut self, committed: Committed, now_ms: u64) {
        if self.failed.is_some() {
            return;
        }
        let Committed { index, entry } = committed;
        if entry.kind == EntryKind::Command {
            let applied = match self.proposals.take(index) {
                Some(own) => self.commit_own(own, now_ms),
                None => self.apply_foreign(&entry.data),
            };
            if let Err(reason) = applied {
                return self.fail(format!("applying log entry {index} failed: {reason}"), now_ms);
            }
        }
        self.replica.handle_applied(index);
    }

    /// The frames are in the WAL already: only the watermark moves, and the replies behind it leave.
    fn commit_own(&mut self, own: super::leader::Proposal, now_ms: u64) -> Result<(), String> {
        let state = self.databases.get_mut(own.database);
        state.database.commit(own.generation, own.sequence).map_err(|error| error.to_string())?;
        state.database.maintain().map_err(|error| error.to_string())?;
        self.release_gated(own.database, now_ms);
        self.forget_if_unused(own.database);
        Ok(())
    }

    fn apply_foreign(&mut self, data: &Bytes) -> Result<(), String> {
        let Some((name, frames)) = transaction_of(data)? else { return Ok(()) };
        let id = self.databases.get_or_create(&self.vfs, &name);
        let state = self.databases.get_mut(id);
        let mut pages = frames.pages().map(|(number, page)| (PageNumber(number), page));
        state.database.apply(&mut pages).map_err(|error| error.to_string())?;
        state.database.maintain().map_err(|error| error.to_string())?;
        self.forget_if_unused(id);
        Ok(())
    }

    /// Looks once in a tick interval for databases that nobody writes; others are maintained behind their commits.
    pub(super) fn backfill_at_rest(&mut self, now_ms: u64) {
        if self.failed.is_some() || now_ms < self.next_rest_ms {
            return;
        }
        self.next_rest_ms = now_ms + self.tick_interval_ms();
        for id in self.databases.ids() {
            let state = self.databases.get_mut(id);
            if state.is_at_rest()
                && let Err(error) = state.database.backfill()
            {
                return self.fail(error.to_string(), now_ms);
            }
        }
    }

    /// A database that was deleted or never written goes when nobody has it open any more.
    pub(super) fn forget_if_unused(&mut self, id: DatabaseId) {
        let database = &self.databases.get(id).database;
        if (database.is_deleted() || database.is_pristine()) && !self.proposals.mention(id) {
            self.databases.forget_if_unused(&self.vfs, id);
        }
    }

    /// A snapshot of the leader is on disk: the databases become what it holds.
    pub(super) fn restore(&mut self, snapshot: &InstalledSnapshot, now_ms: u64) {
        let index = snapshot.metadata.index;
        match restore_payload(&self.vfs, &snapshot.data) {
            Ok(()) => {
                let names: Vec<DatabaseName> =
                    self.vfs.databases().iter().map(|database| database.name().clone()).collect();
                for name in names {
                    let id = self.databases.get_or_create(&self.vfs, &name);
                    let state = self.databases.get_mut(id);
                    if !planted::bug!(GenerationNotNoted) {
                        state.generation = state.database.generation();
                    }
                }
                self.replica.handle_restored(index);
            }
            Err(reason) => {
                self.fail(format!("restoring the snapshot at index {index} failed: {reason}"), now_ms)
            }
        }
    }

    /// The log went aside, so nothing is applied any more; what the cluster has comes from its leader.
    pub(super) fn forget_databases(&self) {
        for database in self.vfs.databases() {
            self.vfs.remove(database.name());
        }
    }

    /// Starts a snapshot when enough has been applied since the last one. The page tables are cloned here, where they
    /// stand exactly at the applied index; writing the file happens elsewhere.
    pub(super) fn take_snapshot_if_due(&mut self) {
        if self.snapshot_running || self.stopping || self.failed.is_some() {
            return;
        }
        let vfs = &self.vfs;
        let is_low = self.space == Space::Low;
        let state_bytes = || {
            // A nearly full disk needs the room that the log takes.
            if is_low { 0 } else { vfs.databases().iter().map(|database| size_bytes(database)).sum() }
        };
        let Some(metadata) = self.replica.begin_snapshot(state_bytes) else { return };
        let databases: Vec<(Bytes, DatabaseSnapshot)> = self
            .vfs
            .databases()
            .iter()
            .filter(|database| !database.is_pristine())
            .map(|database| (Bytes::copy_from_slice(database.name().as_bytes()), database.snapshot()))
            .collect();
        self.snapshot_running = true;
        self.outputs.push_back(Output::Snapshot(SnapshotJob::Write { metadata, databases }));
    }

    pub(super) fn snapshot_done(&mut self, done: SnapshotDone) {
        match done {
            SnapshotDone::Written { metadata, result: Ok(()) } => {
                self.outputs.push_back(Output::Disk(DiskJob::SnapshotTaken(metadata)));
            }
            SnapshotDone::Written { metadata, result: Err(reason) } => {
                // Tried again after more has been applied; the log just stays longer.
                tracing::warn!(index = %metadata.index, %reason, "writing a snapshot failed");
                self.snapshot_running = false;
                self.replica.handle_snapshot_failed();
            }
            SnapshotDone::Read { to, metadata, result } => {
                if let Err(reason) = &result {
                    tracing::warn!(%to, index = %metadata.index, %reason, "reading a snapshot failed");
                }
                self.replica.handle_snapshot_read(to, &metadata, result.map_err(drop));
            }
        }
    }
}

/// The database that a command of the log changes, and its pages. Commands that change nothing give `None`.
///
/// # Errors
///
/// Says what is wrong with the command.
pub(crate) fn transaction_of(data: &Bytes) -> Result<Option<(DatabaseName, Frames)>, String> {
    let command = Command::decode(data).map_err(|error| error.to_string())?;
    let Command::Frames(frames) = command else {
        // OPEN, UNDO and CHECKPOINT of old releases change nothing.
        return Ok(None);
    };
    if !frames.is_commit {
        return Err("frames without a commit are not supported".to_owned());
    }
    if frames.page_size() != PAGE_SIZE {
        return Err(format!("page size {} instead of {PAGE_SIZE}", frames.page_size()));
    }
    let name = DatabaseName::replicated(&frames.filename).map_err(|error| error.to_string())?;
    Ok(Some((name, frames)))
}

/// Replaces the content of all databases by a snapshot payload; databases that are not in it go.
///
/// # Errors
///
/// Says what is wrong with the payload. Databases restored before that point stay changed.
pub fn restore_payload(vfs: &Vfs, payload: &Bytes) -> Result<(), String> {
    let mut names = BTreeSet::new();
    each_image(payload, |name, count, pages| {
        vfs.get_or_create(name).restore(count, pages)?;
        names.insert(name.clone());
        Ok(())
    })?;
    for database in vfs.databases() {
        if !names.contains(database.name()) {
            vfs.remove(database.name());
        }
    }
    Ok(())
}

/// Whether [`restore_payload`] would take this payload: names, sizes and counts are possible, and each database begins with
/// page 1 of one. What else is in the pages does not matter: whoever has a damaged schema has it everywhere.
///
/// Looks at a few bytes of each database, and of each frame of the WALs that old releases of C write.
///
/// # Errors
///
/// Says what is wrong with the payload.
pub fn check_payload(payload: &Bytes) -> Result<(), String> {
    let mut names = BTreeSet::new();
    each_image(payload, |name, _, pages| {
        if !names.insert(name.clone()) {
            return Err(vfs::Error::Image("it is there twice"));
        }
        pages.next().map_or(Ok(()), vfs::check_first_page)
    })
}

/// Gives the databases of a payload one after the other: name, number of pages, pages. The first error ends it.
fn each_image(
    payload: &Bytes,
    mut take: impl FnMut(&DatabaseName, u32, &mut dyn Iterator<Item = &[u8]>) -> Result<(), vfs::Error>,
) -> Result<(), String> {
    for image in PayloadDecoder::new(payload).map_err(|error| error.to_string())? {
        let image = image.map_err(|error| error.to_string())?;
        let name = DatabaseName::replicated(&image.name).map_err(|error| error.to_string())?;
        let describe = |error: vfs::Error| format!("database {name:?}: {error}");
        let count_of = |pages: usize| {
            u32::try_from(pages).map_err(|_| format!("database {name:?}: more pages than SQLite can number"))
        };
        if image.wal.len() > WAL_HEADER_LEN {
            let pages = vfs::overlay_wal(&image.main, &image.wal).map_err(describe)?;
            take(&name, count_of(pages.len())?, &mut pages.into_iter()).map_err(describe)?;
        } else {
            if image.main.is_empty() || image.main.len() % PAGE_SIZE != 0 {
                return Err(format!("database {name:?}: {} bytes are not whole pages", image.main.len()));
            }
            let count = count_of(image.main.len() / PAGE_SIZE)?;
            take(&name, count, &mut image.main.chunks_exact(PAGE_SIZE)).map_err(describe)?;
        }
    }
    Ok(())
}

fn size_bytes(database: &Database) -> u64 {
    u64::from(database.page_count()) * PAGE_SIZE as u64
}

/// A WAL image of this length or less holds no frame.
const WAL_HEADER_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use wire_protocol::snapshot::{encode_database_header, encode_payload_header};

    use super::*;

    fn payload(databases: &[(&[u8], Vec<u8>)]) -> Bytes {
        let mut payload = encode_payload_header(databases.len() as u64).to_vec();
        for (name, main) in databases {
            payload.extend(encode_database_header(name, main.len() as u64, 0));
            payload.extend(main);
        }
        payload.into()
    }

    fn image(start: &[u8], pages: usize) -> Vec<u8> {
        let mut image = start.to_vec();
        image.resize(pages * PAGE_SIZE, 0);
        image
    }

    /// What is checked before a log is replaced is what restoring would stumble over, and no more.
    #[test]
    fn a_payload_is_refused_exactly_if_it_cannot_be_restored() {
        const GOOD: &[u8] = b"SQLite format 3\0\x10\0\x02\x02";
        let other_page_size = b"SQLite format 3\0\x02\0\x02\x02";
        let without_wal = b"SQLite format 3\0\x10\0\x01\x01";
        let whole = payload(&[(b"a", image(GOOD, 3)), (b"b", image(GOOD, 1))]);
        let cases = [
            (payload(&[]), true),
            (whole.clone(), true),
            (payload(&[(b"a", image(GOOD, 3)), (b"b", image(b"", 1))]), false),
            (payload(&[(b"a", image(other_page_size, 2))]), false),
            (payload(&[(b"a", image(without_wal, 2))]), false),
            (payload(&[(b"a", Vec::new())]), false),
            (payload(&[(b"", image(GOOD, 1))]), false),
            (whole.slice(..whole.len() - 1), false),
            (Bytes::from_static(b"garbage!garbage!"), false),
            (Bytes::new(), false),
        ];
        for (number, (payload, is_good)) in cases.iter().enumerate() {
            let vfs = Vfs::register_with(vfs::Options::default()).unwrap();
            assert_eq!(check_payload(payload).is_ok(), *is_good, "{number}: {:?}", check_payload(payload));
            assert_eq!(restore_payload(&vfs, payload).is_ok(), *is_good, "{number}");
        }
        assert!(check_payload(&payload(&[(b"a", image(GOOD, 1)), (b"a", image(GOOD, 1))])).is_err(), "twice");
    }
}
