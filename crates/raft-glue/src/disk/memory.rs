//! A data directory in memory that forgets like a real one.
//!
//! Every file has a `live` image, which readers see, and a `durable` one, which is what a power failure is certain to
//! leave. A sync copies the one to the other. [`MemoryDisk::crash`] makes of each sector, each size and each name that
//! differ between them one or the other, as the seed says: a sector of 512 bytes is never split.
//!
//! Faults are injected by number of operation, so that a test can try every place.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bytes_of::to_usize;
use super::file_system::{DirectoryEntry, Disk, File};
use super::image::{Content, Image, Random, SECTOR_LEN};

/// A data directory in memory. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// What happens to an operation that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This write fails; any number of its first sectors may have happened. Counted over all files, the next write is 1.
    Write(u64),
    /// This sync of a file or of the directory fails and makes nothing durable. The next sync is 1.
    Sync(u64),
    /// This operation fails, whatever it is. The next one is 1.
    Operation(u64),
    /// From the operation behind this many on, every operation fails: the power is gone.
    PowerOff(u64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    writes: u64,
    syncs: u64,
    operations: u64,
}

#[derive(Debug, Default)]
struct State {
    seed: u64,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    live_names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the last sync of the directory, in order.
    name_changes: Vec<NameChange>,
    locked: Vec<String>,
    counts: Counts,
    faults: Vec<Fault>,
    /// Bytes that all files together may take.
    capacity: Option<u64>,
    /// How the limit shows.
    shortage: Shortage,
}

/// Which error says that there is no more room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortage {
    /// The disk is full: ENOSPC.
    #[default]
    Disk,
    /// The user's or project's share of it is used up: EDQUOT.
    Quota,
    /// The process may not write files of that size: EFBIG.
    FileSize,
}

impl From<Shortage> for io::Error {
    fn from(shortage: Shortage) -> Self {
        use rustix::io::Errno;
        match shortage {
            Shortage::Disk => Errno::NOSPC,
            Shortage::Quota => Errno::DQUOT,
            Shortage::FileSize => Errno::FBIG,
        }
        .into()
    }
}

/// Happens at once or not at all.
#[derive(Clone, Debug)]
struct NameChange {
    removed: Option<String>,
    added: Option<(String, u64)>,
}

impl MemoryDisk {
    /// An empty directory. The seed decides what survives a crash.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_state(State { seed, ..State::default() })
    }

    fn with_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the state panics")
    }

    fn number(&self, name: &str) -> io::Result<u64> {
        self.state().live_names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Live content of a file, if it exists.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = state.live_names.get(name)?;
        Some(state.files[file].live.to_vec())
    }

    /// Creates or replaces a file, durably and whatever faults are set.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let mut image = Image::default();
        image.write(bytes, 0);
        let number = state.add_file(Content::synced(image));
        state.live_names.insert(name.to_owned(), number);
        state.durable_names.insert(name.to_owned(), number);
    }

    /// Removes a file, durably and whatever faults are set.
    pub fn remove(&self, name: &str) {
        let mut state = self.state();
        state.live_names.remove(name);
        state.durable_names.remove(name);
        // Nor does a change that is not durable yet bring it back.
        state.name_changes.retain(|change| change.added.as_ref().is_none_or(|(added, _)| added != name));
    }

    /// Live names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().live_names.keys().cloned().collect()
    }

    /// The directory as it is found after a power failure now. Locks are gone, and so are the faults and the limit.
    ///
    /// This disk stays as it is, so that several failures can be tried from one point.
    #[must_use]
    pub fn crash(&self) -> Self {
        let seed = self.state().seed;
        self.crash_with(seed)
    }

    /// The same with a choice of its own of what survives.
    #[must_use]
    pub fn crash_with(&self, seed: u64) -> Self {
        let state = self.state();
        let mut random = Random(seed);
        let mut names = state.durable_names.clone();
        for change in &state.name_changes {
            if random.coin() {
                change.apply(&mut names);
            }
        }
        let mut files = BTreeMap::new();
        for number in names.values() {
            let image = state.files[number].survivor(&mut random);
            files.insert(*number, Content::synced(image));
        }
        Self::with_state(State {
            seed: random.next(),
            files,
            next_file: state.next_file,
            live_names: names.clone(),
            durable_names: names,
            ..State::default()
        })
    }

    /// Adds a fault; its number counts from now.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.state();
        let counts = state.counts;
        state.faults.push(match fault {
            Fault::Write(number) => Fault::Write(counts.writes + number),
            Fault::Sync(number) => Fault::Sync(counts.syncs + number),
            Fault::Operation(number) => Fault::Operation(counts.operations + number),
            Fault::PowerOff(number) => Fault::PowerOff(counts.operations + number),
        });
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Limits the sum of all file sizes; whatever needs more fails, with ENOSPC unless [`Self::set_shortage`] says
    /// otherwise.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Chooses the error of whatever needs more than the limit.
    pub fn set_shortage(&self, shortage: Shortage) {
        self.state().shortage = shortage;
    }

    /// Sum of all file sizes.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Number of operations so far that change something or make something durable.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().counts.operations
    }

    /// Number of syncs so far, of files and of the directory.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().counts.syncs
    }

    /// Number of writes so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state().counts.writes
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(name) = &self.removed {
            names.remove(name);
        }
        if let Some((name, number)) = &self.added {
            names.insert(name.clone(), *number);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Sync,
    Other,
}

impl State {
    fn add_file(&mut self, content: Content) -> u64 {
        self.next_file += 1;
        self.files.insert(self.next_file, content);
        self.next_file
    }

    fn power_is_off(&self) -> bool {
        let done = self.counts.operations;
        self.faults.iter().any(|fault| matches!(fault, Fault::PowerOff(after) if done >= *after))
    }

    /// Counts an operation and fails it if it shall.
    fn begin(&mut self, kind: Kind) -> io::Result<()> {
        if self.power_is_off() {
            return Err(io::Error::other("the power is off"));
        }
        self.counts.operations += 1;
        match kind {
            Kind::Write => self.counts.writes += 1,
            Kind::Sync => self.counts.syncs += 1,
            Kind::Other => {}
        }
        let counts = self.counts;
        let hit = self.faults.iter().any(|fault| match *fault {
            Fault::Write(number) => kind == Kind::Write && number == counts.writes,
            Fault::Sync(number) => kind == Kind::Sync && number == counts.syncs,
            Fault::Operation(number) => number == counts.operations,
            Fault::PowerOff(_) => false,
        });
        if hit { Err(io::Error::other("injected fault")) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        self.live_names.values().map(|number| self.files[number].live.size).sum()
    }

    fn grow(&self, number: u64, size: u64) -> io::Result<()> {
        let more = size.saturating_sub(self.files[&number].live.size);
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => Err(self.shortage.into()),
            _ => Ok(()),
        }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.live_names);
        self.name_changes.push(change);
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;
    type Lock = MemoryLock;

    fn list(&self) -> io::Result<Vec<DirectoryEntry>> {
        let state = self.state();
        Ok(state
            .live_names
            .iter()
            .map(|(name, number)| DirectoryEntry {
                name: name.clone(),
                size: state.files[number].live.size,
                is_file: true,
            })
            .collect())
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut state = self.state();
        if state.live_names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.begin(Kind::Other)?;
        let number = state.add_file(Content::default());
        state.change_names(NameChange { removed: None, added: Some((name.to_owned(), number)) });
        drop(state);
        Ok(MemoryFile::new(self, number, true))
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let number = self.number(name)?;
        Ok(MemoryFile::new(self, number, true))
    }

    fn open_read(&self, name: &str) -> io::Result<MemoryFile> {
        let number = self.number(name)?;
        Ok(MemoryFile::new(self, number, false))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let number = *state.live_names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.begin(Kind::Other)?;
        state.change_names(NameChange {
            removed: Some(from.to_owned()),
            added: Some((to.to_owned(), number)),
        });
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.live_names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.begin(Kind::Other)?;
        state.change_names(NameChange { removed: Some(name.to_owned()), added: None });
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Kind::Sync)?;
        state.durable_names = state.live_names.clone();
        state.name_changes.clear();
        // Content that no name leads to any more, live or durable, cannot come back.
        let State { files, live_names, .. } = &mut *state;
        let kept: BTreeSet<u64> = live_names.values().copied().collect();
        files.retain(|number, content| content.handles > 0 || kept.contains(number));
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Option<MemoryLock>> {
        let mut state = self.state();
        if state.locked.iter().any(|locked| locked == name) {
            return Ok(None);
        }
        if !state.live_names.contains_key(name) {
            state.begin(Kind::Other)?;
            let number = state.add_file(Content::default());
            state.change_names(NameChange { removed: None, added: Some((name.to_owned(), number)) });
        }
        state.locked.push(name.to_owned());
        drop(state);
        Ok(Some(MemoryLock { disk: self.clone(), name: name.to_owned() }))
    }
}

/// The lock of a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryLock {
    disk: MemoryDisk,
    name: String,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locked.retain(|name| *name != self.name);
    }
}

/// An open file of a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryFile {
    disk: MemoryDisk,
    number: u64,
    writable: bool,
}

impl MemoryFile {
    fn new(disk: &MemoryDisk, number: u64, writable: bool) -> Self {
        if let Some(content) = disk.state().files.get_mut(&number) {
            content.handles += 1;
        }
        Self { disk: disk.clone(), number, writable }
    }

    fn change(&self, kind: Kind) -> io::Result<MutexGuard<'_, State>> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.disk.state();
        state.begin(kind)?;
        Ok(state)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if let Some(content) = self.disk.state().files.get_mut(&self.number) {
            content.handles -= 1;
        }
    }
}

impl State {
    fn content(&mut self, number: u64) -> &mut Content {
        self.files.get_mut(&number).expect("a file lives as long as its handles")
    }
}

impl File for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().content(self.number).live.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.disk.state().content(self.number).live.read(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let failed = match self.change(Kind::Write) {
            Ok(mut state) => {
                state.grow(self.number, offset + bytes.len() as u64)?;
                state.content(self.number).write(bytes, offset);
                return Ok(());
            }
            Err(error) => error,
        };
        // Some first sectors of it happened, unless nothing can happen any more.
        let mut state = self.disk.state();
        if self.writable && !state.power_is_off() {
            let part = Random(state.seed ^ state.counts.operations).next() % (bytes.len() as u64 + 1);
            let end = (offset + part) / SECTOR_LEN * SECTOR_LEN;
            let part = to_usize(end.saturating_sub(offset));
            if state.grow(self.number, offset + part as u64).is_ok() {
                state.content(self.number).write(&bytes[..part], offset);
            }
        }
        Err(failed)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let mut state = self.change(Kind::Other)?;
        state.grow(self.number, size)?;
        let live = &mut state.content(self.number).live;
        live.size = live.size.max(size);
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.change(Kind::Other)?.content(self.number).resize(size);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.change(Kind::Sync)?;
        state.content(self.number).sync();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_is_a_matter_of_luck() {
        let disk = MemoryDisk::new(7);
        let file = disk.create("a").unwrap();
        file.write_at(&[1; 2000], 0).unwrap();
        file.sync().unwrap();
        disk.sync_directory().unwrap();
        file.write_at(&[2; 2000], 1000).unwrap();
        disk.rename("a", "b").unwrap();
        let mut outcomes = BTreeSet::new();
        for seed in 0..200 {
            let after = disk.crash_with(seed);
            let (name, content) = match (after.content("a"), after.content("b")) {
                (Some(content), None) => ("a", content),
                (None, Some(content)) => ("b", content),
                other => panic!("{other:?}"),
            };
            assert!(content.len() == 2000 || content.len() == 3000);
            assert_eq!(content[..512], [1; 512]);
            assert!(content[1536..2000].windows(2).all(|pair| pair[0] == pair[1]));
            outcomes.insert((name, content));
        }
        assert!(outcomes.len() > 20);
        assert_eq!(disk.content("b").unwrap().len(), 3000);
    }

    #[test]
    fn an_unsynced_name_may_be_missing() {
        let disk = MemoryDisk::new(1);
        disk.create("a").unwrap().sync().unwrap();
        let survived = (0..50).filter(|seed| disk.crash_with(*seed).content("a").is_some()).count();
        assert!((1..50).contains(&survived));
        disk.sync_directory().unwrap();
        assert!((0..50).all(|seed| disk.crash_with(seed).content("a").is_some()));
        assert_eq!(disk.crash_with(3).names(), ["a"]);
    }

    #[test]
    fn a_cut_file_reads_as_zeros_when_it_grows_again() {
        let disk = MemoryDisk::new(1);
        disk.put("a", &[9; 1500]);
        let file = disk.open("a").unwrap();
        file.truncate(700).unwrap();
        file.allocate(1500).unwrap();
        let content = disk.content("a").unwrap();
        assert_eq!((&content[..700], &content[700..]), (&[9; 700][..], &[0; 800][..]));
    }

    #[test]
    fn faults_hit_the_operation_they_name() {
        let disk = MemoryDisk::new(1);
        let file = disk.create("a").unwrap();
        disk.inject(Fault::Write(2));
        disk.inject(Fault::Sync(1));
        file.write_at(b"x", 0).unwrap();
        file.write_at(b"y", 0).unwrap_err();
        file.sync().unwrap_err();
        file.sync().unwrap();
        disk.inject(Fault::PowerOff(1));
        file.sync().unwrap();
        file.write_at(b"z", 0).unwrap_err();
        disk.rename("a", "b").unwrap_err();
        disk.heal();
        disk.set_capacity(Some(100));
        file.allocate(100).unwrap();
        assert_eq!(file.allocate(101).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.used(), 100);
    }

    #[test]
    fn locks_exclude_and_files_survive_their_name() {
        let disk = MemoryDisk::new(1);
        let lock = disk.lock("l").unwrap().unwrap();
        assert!(disk.lock("l").unwrap().is_none());
        drop(lock);
        assert!(disk.lock("l").unwrap().is_some());
        disk.put("a", b"abc");
        let file = disk.open_read("a").unwrap();
        disk.unlink("a").unwrap();
        disk.sync_directory().unwrap();
        let mut buffer = [0; 3];
        assert_eq!((file.read_at(&mut buffer, 0).unwrap(), &buffer), (3, b"abc"));
        assert!(file.write_at(b"x", 0).is_err());
    }
}
