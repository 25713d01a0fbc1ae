//! What is done to a directory that no node uses: first start, recovery of a cluster, a look at the last entry.

use super::backup::Staged;
use super::error::{DiskError, LoadError};
use super::examine::{Examined, examine};
use super::file_system::Disk;
use super::identity;
use super::manifest::{Manifest, Use};
use super::metadata::{self, Record};
use super::names::MARKER;
use super::repair::{CREATE_REMEDY, Opened, Repairer, decide_metadata, refuse_loss};
use super::store::{DEFAULT_SEGMENT_SIZE, take_lock, write_closed};
use super::survey::survey;
use crate::plausible::HEADROOM;
use crate::{Configuration, Entry, EntryKind, HardState, LogIndex, Term};

/// Looks at term and vote without changing anything, so that a directory that cannot be used is refused early.
///
/// # Errors
///
/// [`DiskError::Directory`] with what is wrong, in the words of C dqlite, and what can be done.
pub fn check_metadata<D: Disk>(disk: &D) -> Result<(), DiskError> {
    let examined = metadata::examine(disk)?;
    let damaged = examined.damaged.into_iter().map(|(_, message)| message);
    damaged
        .chain(examined.conflict)
        .next()
        .map_or(Ok(()), |message| Err(DiskError::Directory(format!("{message}; {CREATE_REMEDY}"))))
}

/// Makes the directory the beginning of a cluster: term 1, and `configuration` as entry 1.
///
/// Does nothing if the directory holds a log, a snapshot or a later term already, so it may be called at every start;
/// a first start that was interrupted is completed. Takes the lock for its duration.
pub fn bootstrap<D: Disk>(disk: &D, configuration: &Configuration) -> Result<(), DiskError> {
    let _lock = take_lock(disk)?;
    identity::finish_moving(disk)?;
    let found = metadata::examine(disk)?;
    let first_record = Record { version: 1, hard_state: HardState { term: Term(1), vote: None } };
    let pristine = found.damaged.is_empty() && found.newest.is_none_or(|record| record == first_record);
    if !pristine || survey(disk)?.has_data() {
        return Ok(());
    }
    if found.newest.is_none() {
        for name in &found.short {
            super::files::remove_if_exists(disk, name, &format!("delete {name}"))?;
        }
        metadata::write(disk, &first_record)?;
    }
    write_closed(disk, 1, &[configuration_entry(configuration, Term(1))], "bootstrap")?;
    Ok(())
}

/// Forces `configuration` on the log: the way back for a cluster that lost its majority for good.
///
/// Appends a configuration entry to what is there. Whoever calls this declares the directory to be the truth, so a
/// node that was to wait until it caught up with others need not wait any more (the note of that is moved aside), and
/// lost votes do not matter. A term that the others would not believe, because it lies more than 2^32 above that of every
/// entry, is lowered, but never to that of an entry or below. Takes the lock for its duration.
///
/// What is replaced is copied before: `backup-N-configuration` says who belonged to the cluster, and `backup-N-<name>`
/// are term and vote, open segments, that note and the manifest as they were. To undo a recovery before a node was
/// started, remove the last segment and the manifest, and give the copies their names back.
///
/// Fails, and changes nothing, if entries are damaged, the directory is in use, or there is no space; a failing disk
/// may also leave the log in the form that the next start would give it.
pub fn recover<D: Disk>(disk: &D, configuration: &Configuration) -> Result<(), LoadError> {
    if configuration.servers.is_empty() {
        return Err(DiskError::Invalid("a configuration needs at least one server".to_owned()).into());
    }
    let _lock = take_lock(disk)?;
    identity::finish_moving(disk)?;
    let examined = examine(disk, DEFAULT_SEGMENT_SIZE)?;
    // Nobody will send lost entries again, but lost votes no longer matter.
    refuse_loss(&examined)?;
    let record = with_headroom(decide_metadata(&examined, true)?, &examined);
    let snapshot_term = examined.snapshot.as_ref().map(|snapshot| snapshot.term);
    let term = examined.entries.last().map(|entry| entry.term).or(snapshot_term).unwrap_or(Term(1));
    let entry = configuration_entry(configuration, term);
    let staged = Staged::write(disk, &examined, examined.next_index(), &entry)?;
    let result = repair_and_publish(disk, &staged, examined, record, term);
    if result.is_err() {
        staged.discard();
    }
    Ok(result?)
}

/// A term is that high only because somebody said so; the nodes to which this one talks next refuse it, and refuse this node.
/// What it is lowered to is within what they believe, and above all terms in which anybody can have voted in earnest.
fn with_headroom(record: Record, examined: &Examined) -> Record {
    let highest = examined.last_term();
    if record.hard_state.term.0 <= highest.0.saturating_add(HEADROOM) {
        return record;
    }
    let term = Term(highest.0.saturating_add(HEADROOM / 2));
    tracing::warn!("the term {} leaves no room for others; continuing in {term}", record.hard_state.term);
    Record { version: record.version + 1, hard_state: HardState { term, vote: None } }
}

fn repair_and_publish<D: Disk>(
    disk: &D,
    staged: &Staged<'_, D>,
    examined: Examined,
    record: Record,
    term: Term,
) -> Result<(), DiskError> {
    staged.make_room()?;
    let is_marked = examined.survey.marker.is_some();
    let mut repairer = Repairer { disk, next_aside: examined.survey.next_aside };
    let opened = repairer.run(examined, record)?;
    if opened.record.version == 0 {
        metadata::write(disk, &record_of_recovery(term))?;
    }
    let Opened { record: found, snapshot, mut closed, mut marker, mut keeper, next_counter, .. } = opened;
    let record = if found.version == 0 { record_of_recovery(term) } else { found };
    let next = staged.index();
    // A crash leaves the added segment or not, and both is right.
    let place = (next, Use::Cut(next_counter));
    keeper.note(Manifest::new(&record, snapshot.as_ref(), marker, &closed, place), false)?;
    closed.push(staged.publish()?);
    if is_marked && marker.take().is_some() {
        repairer.move_aside(MARKER)?;
    }
    let place = (next + 1, Use::Free(next_counter));
    let noted = keeper.note(Manifest::new(&record, snapshot.as_ref(), marker, &closed, place), false);
    if let Err(error) = noted {
        // The recovery is done, and the manifest before is true of it, too.
        tracing::warn!(%error, "the manifest of the log does not name what the recovery added");
    }
    Ok(())
}

/// Term and vote of a directory that had none.
fn record_of_recovery(term: Term) -> Record {
    Record { version: 1, hard_state: HardState { term, vote: None } }
}

/// Index and term of the last entry, or of the snapshot if there are no entries behind it; both 0 if there is nothing.
///
/// Changes nothing, takes no lock and does not look at term and vote. Fails if entries are damaged.
pub fn describe_last_entry<D: Disk>(disk: &D) -> Result<(LogIndex, Term), LoadError> {
    let examined = examine(disk, DEFAULT_SEGMENT_SIZE)?;
    refuse_loss(&examined)?;
    let index = LogIndex(examined.next_index() - 1);
    let snapshot_term = examined.snapshot.as_ref().map(|snapshot| snapshot.term);
    let term = examined.entries.last().map(|entry| entry.term).or(snapshot_term).unwrap_or_default();
    Ok((index, term))
}

fn configuration_entry(configuration: &Configuration, term: Term) -> Entry {
    Entry { term, kind: EntryKind::Configuration, data: configuration.encode() }
}
