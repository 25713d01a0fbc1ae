//! What must hold all the time, whatever happens to the world.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use raft_glue::{Configuration, Entry, EntryKind, HardState, Loaded, LogIndex, NodeId, Persist, Term};
use vfs::{Page, Vfs};

use crate::trace::{hash_bytes, mix};

mod promises;
mod questions;

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Short name of the check.
    pub check: &'static str,
    /// What was seen.
    pub text: String,
}

impl Violation {
    /// A failed check.
    pub fn new(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.check, self.text)
    }
}

/// Term and hash of an entry.
type Fingerprint = (Term, u64);

/// What is known of one node.
#[derive(Debug, Default)]
struct Record {
    /// Entries as the node gave them to its disk last.
    issued: BTreeMap<u64, Fingerprint>,
    /// Entries that the log has called durable.
    durable: BTreeMap<u64, Fingerprint>,
    /// Configurations in what the node gave to its disk last.
    configurations: BTreeMap<u64, Configuration>,
    /// It lost something, and must not vote before it knows that this is committed, unless it has all of `owed` again.
    no_vote_until: Option<LogIndex>,
    /// Or that an entry of a higher term than this one is.
    damaged_in: Option<Term>,
    /// Durable entries of the moment when its disk was damaged.
    owed: BTreeMap<u64, Fingerprint>,
    /// Term and vote that the log has called durable.
    hard_state: HardState,
    /// Snapshot of a leader that the log has called durable.
    snapshot: u64,
    /// Its term.
    snapshot_term: Term,
    /// Something that is being written may cut durable entries from here on.
    at_risk: Option<u64>,
    /// Highest index whose commitment was looked at.
    committed: u64,
    /// Its disk was damaged behind its back, so it may lack anything until it has caught up.
    damaged: bool,
    /// Pages seen last, by database, with their hashes.
    pages: BTreeMap<String, Vec<(Page, u64)>>,
    /// The log is being moved aside.
    moving: bool,
    /// The log is that of another cluster.
    foreign: bool,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    records: BTreeMap<u64, Record>,
    leaders: BTreeMap<Term, NodeId>,
    entries: HashMap<(u64, Term), u64>,
    committed: BTreeMap<u64, Fingerprint>,
    images: BTreeMap<u64, (u64, NodeId)>,
}

fn fingerprint(entry: &Entry) -> Fingerprint {
    let kind = match entry.kind {
        EntryKind::Command => 1,
        EntryKind::Barrier => 2,
        EntryKind::Configuration => 3,
    };
    (entry.term, hash_bytes(kind, &entry.data))
}

impl Oracle {
    fn record(&mut self, node: NodeId) -> &mut Record {
        self.records.entry(node.0).or_default()
    }

    /// The newest entry that anybody knew to be committed.
    pub(crate) fn newest_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// The disk of a node is damaged behind its back.
    pub(crate) fn damaged(&mut self, node: NodeId) {
        let record = self.record(node);
        record.damaged = true;
        record.owed = record.durable.clone();
    }

    /// An entry that the node had on its disk before it was damaged, that counted for a commit, and that it lacks.
    fn lacks(&self, node: NodeId) -> Option<u64> {
        let record = self.records.get(&node.0)?;
        let is_missing = |(index, print): &(&u64, &Fingerprint)| {
            **index > record.snapshot
                && self.committed.get(index) == Some(print)
                && record.issued.get(index) != Some(print)
        };
        record.owed.iter().find(is_missing).map(|(index, _)| *index)
    }

    /// A node starts with the log of another cluster, of which nothing counts here.
    pub(crate) fn loaded_foreign(&mut self, node: NodeId, hard_state: HardState) {
        *self.record(node) = Record { hard_state, foreign: true, ..Record::default() };
    }

    /// A node is going to move its log aside, which belongs to another cluster: it is not the log of a member.
    pub(crate) fn moves_aside(&mut self, node: NodeId) -> Result<(), Violation> {
        let record = self.record(node);
        record.moving = true;
        let newest = record.configurations.last_key_value();
        if newest.is_some_and(|(_, configuration)| configuration.server(node).is_some()) {
            return Err(Violation::new("a member keeps its log", format!("node {node} has {newest:?}")));
        }
        Ok(())
    }

    /// A node has moved its log aside, or has found no space for that.
    pub(crate) fn moved_aside(&mut self, node: NodeId, done: bool) {
        let record = self.record(node);
        record.moving = false;
        if done {
            let hard_state = record.hard_state;
            *record = Record { hard_state, ..Record::default() };
        }
    }

    /// A node leads: nobody else does in this term.
    pub(crate) fn leads(&mut self, node: NodeId, term: Term) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(node);
        if first == node {
            return Ok(());
        }
        Err(Violation::new("one leader a term", format!("nodes {first} and {node} lead in term {term}")))
    }

    /// A node gives a step to its disk: entries with the same index and term are the same everywhere.
    pub(crate) fn issued(&mut self, node: NodeId, step: &Persist) -> Result<(), Violation> {
        let record = self.records.entry(node.0).or_default();
        if let Some(snapshot) = &step.snapshot {
            record.issued.clear();
            record.configuration_of_snapshot(&snapshot.metadata);
            record.committed = record.committed.max(snapshot.metadata.index.0);
        }
        if step.entries.is_empty() {
            return Ok(());
        }
        record.issued.split_off(&step.first_index.0);
        record.configurations_in(step.first_index, &step.entries);
        for (index, entry) in (step.first_index.0..).zip(&step.entries) {
            let print = fingerprint(entry);
            record.issued.insert(index, print);
            let first = *self.entries.entry((index, print.0)).or_insert(print.1);
            if first != print.1 {
                let text = format!(
                    "entry {index} of term {} is not the same on node {node}: {:?} of {} bytes",
                    print.0,
                    entry.kind,
                    entry.data.len()
                );
                return Err(Violation::new("log matching", text));
            }
        }
        Ok(())
    }

    /// The disk of a node begins to write a group of steps: what they replace may go from now on.
    pub(crate) fn writing(&mut self, node: NodeId, step: &Persist) {
        let record = self.record(node);
        let floor = match &step.snapshot {
            Some(_) => 0,
            None if step.entries.is_empty() => return,
            None => step.first_index.0,
        };
        record.at_risk = Some(record.at_risk.map_or(floor, |known| known.min(floor)));
    }

    /// The log says that these steps are durable.
    pub(crate) fn persisted(&mut self, node: NodeId, steps: &[Persist]) {
        let record = self.record(node);
        for step in steps {
            record.hard_state = step.hard_state.unwrap_or(record.hard_state);
            if let Some(snapshot) = &step.snapshot {
                record.snapshot = snapshot.metadata.index.0;
                record.snapshot_term = snapshot.metadata.term;
                record.durable.clear();
            }
            if !step.entries.is_empty() {
                record.durable.split_off(&step.first_index.0);
                let entries = (step.first_index.0..).zip(step.entries.iter().map(fingerprint));
                record.durable.extend(entries);
            }
        }
        record.at_risk = None;
    }

    /// A node starts: everything that it ever called durable must be there.
    pub(crate) fn loaded(&mut self, node: NodeId, loaded: &Loaded) -> Result<(), Violation> {
        let record = self.records.entry(node.0).or_default();
        let snapshot = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0);
        let found: BTreeMap<u64, Fingerprint> =
            (loaded.first_index.0..).zip(loaded.entries.iter().map(fingerprint)).collect();
        let is_aside = record.moving && loaded.entries.is_empty() && loaded.snapshot.is_none();
        record.moving = false;
        record.foreign = false;
        record.check_vote(node, loaded)?;
        if !record.damaged && !is_aside {
            record.check(node, snapshot, &found)?;
        }
        for (index, print) in &found {
            let first = *self.entries.entry((*index, print.0)).or_insert(print.1);
            if first != print.1 {
                let text = format!("entry {index} of term {} was loaded as another by node {node}", print.0);
                return Err(Violation::new("log matching", text));
            }
        }
        record.damaged = false;
        record.at_risk = None;
        record.hard_state = loaded.hard_state;
        record.snapshot = snapshot;
        record.issued.clone_from(&found);
        record.configurations.clear();
        if let Some(snapshot) = &loaded.snapshot {
            record.configuration_of_snapshot(snapshot);
        }
        record.configurations_in(LogIndex(snapshot + 1), &loaded.entries[skipped(loaded, snapshot)..]);
        record.no_vote_until = loaded.no_vote_until;
        record.damaged_in = loaded.damaged_in;
        record.snapshot_term = loaded.snapshot.as_ref().map_or(Term(0), |snapshot| snapshot.term);
        record.durable = found;
        record.committed = snapshot;
        record.pages.clear();
        Ok(())
    }

    /// A node knows that everything up to here is committed: nobody ever commits anything else there.
    pub(crate) fn commits(&mut self, node: NodeId, commit: LogIndex) -> Result<(), Violation> {
        let record = self.records.entry(node.0).or_default();
        for index in record.committed + 1..=commit.0 {
            let Some(print) = record.issued.get(&index) else { continue };
            let first = *self.committed.entry(index).or_insert(*print);
            if first != *print {
                let text = format!(
                    "entry {index} was committed with term {}, but node {node} has term {} there",
                    first.0, print.0
                );
                return Err(Violation::new("committed entries never change", text));
            }
        }
        record.committed = record.committed.max(commit.0);
        Ok(())
    }

    /// A node has applied everything up to here: its databases are those of everybody else at this index.
    pub(crate) fn applied(&mut self, node: NodeId, index: LogIndex, vfs: &Vfs) -> Result<(), Violation> {
        let record = self.records.entry(node.0).or_default();
        let hash = record.image(vfs)?;
        let (first, by) = *self.images.entry(index.0).or_insert((hash, node));
        if first == hash {
            return Ok(());
        }
        let text = format!("nodes {by} and {node} have different databases at applied index {index}");
        Err(Violation::new("equal databases at equal index", text))
    }

    /// Number of indexes at which images were compared or could be.
    #[must_use]
    pub(crate) fn images(&self) -> usize {
        self.images.len()
    }
}

const CHECK: &str = "what is durable stays";

impl Record {
    /// A node whose term or vote was lost does not start, or starts in a later term.
    fn check_vote(&self, node: NodeId, loaded: &Loaded) -> Result<(), Violation> {
        let (had, has) = (self.hard_state, loaded.hard_state);
        if has.term < had.term || (has.term == had.term && had.vote.is_some() && has.vote != had.vote) {
            return Err(Violation::new(CHECK, format!("node {node} had {had:?} and has {has:?}")));
        }
        Ok(())
    }

    fn check(
        &self,
        node: NodeId,
        snapshot: u64,
        found: &BTreeMap<u64, Fingerprint>,
    ) -> Result<(), Violation> {
        if self.snapshot > snapshot {
            let text =
                format!("node {node} had the snapshot at index {} and has one at {snapshot}", self.snapshot);
            return Err(Violation::new(CHECK, text));
        }
        let until = self.at_risk.unwrap_or(u64::MAX);
        for (index, print) in self.durable.range(snapshot + 1..).take_while(|(index, _)| **index < until) {
            if found.get(index) != Some(print) {
                let last = found.last_key_value().map_or(snapshot, |(last, _)| *last);
                let text = format!("node {node} lost entry {index} of its log, which ends at {last} now");
                return Err(Violation::new(CHECK, text));
            }
        }
        Ok(())
    }

    /// Hash over all databases as they are committed.
    fn image(&mut self, vfs: &Vfs) -> Result<u64, Violation> {
        let mut databases = vfs.databases();
        databases.sort_by(|left, right| left.name().as_bytes().cmp(right.name().as_bytes()));
        let mut hash = 0;
        for database in databases {
            database.check().map_err(|error| Violation::new("invariants of the VFS", error.to_string()))?;
            let snapshot = database.look();
            let name = String::from_utf8_lossy(database.name().as_bytes()).into_owned();
            // A database that was opened but never written exists on the leader alone.
            if database.is_deleted() || is_untouched(&snapshot) {
                continue;
            }
            hash = mix(hash, hash_bytes(1, name.as_bytes()));
            let known = self.pages.entry(name).or_default();
            known.truncate(usize::try_from(snapshot.page_count()).unwrap_or(usize::MAX));
            for (place, page) in snapshot.pages().enumerate() {
                let page_hash = match known.get(place) {
                    Some((same, page_hash)) if same.is_same(&page) => *page_hash,
                    _ => hash_bytes(place as u64, &page[..]),
                };
                hash = mix(hash, page_hash);
                if place < known.len() {
                    known[place] = (page, page_hash);
                } else {
                    known.push((page, page_hash));
                }
            }
        }
        Ok(hash)
    }
}

/// How many of the loaded entries the snapshot covers.
fn skipped(loaded: &Loaded, snapshot: u64) -> usize {
    let covered = (snapshot + 1).saturating_sub(loaded.first_index.0);
    usize::try_from(covered).map_or(loaded.entries.len(), |covered| covered.min(loaded.entries.len()))
}

/// Whether this is the single page that a new database begins with.
fn is_untouched(snapshot: &vfs::DatabaseSnapshot) -> bool {
    // The schema cookie of the file header, which the first table raises.
    snapshot.page_count() == 1 && snapshot.page(1)[40..44] == [0; 4]
}
