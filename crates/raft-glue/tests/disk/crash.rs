//! The power fails at every operation of a scripted life, and everything that is not durable is lost or torn at random.
//!
//! After each crash the directory must load, hold everything that was acknowledged, nothing that was never handed in,
//! and go on. The same with a failing operation in place of the crash.

use std::io::Write;

use raft_glue::disk::{
    Disk, DiskError, Fault, LogOptions, LogStore, MemoryDisk, Shortage, bootstrap, recover,
};
use raft_glue::{Entry, HardState, Loaded, LogIndex, NodeId, Persist, SnapshotMetadata, Term};

use crate::fixture::*;

/// What a crash leaves needs no permission to be repaired.
fn options() -> LogOptions {
    LogOptions { auto_recovery: false, ..crate::fixture::options() }
}

/// What the store was told and what it confirmed.
#[derive(Clone, Debug, Default)]
struct Model {
    hard_state: HardState,
    snapshot: Option<SnapshotMetadata>,
    /// Index of the first of `entries`.
    first: u64,
    entries: Vec<Entry>,
}

impl Model {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn apply(&mut self, step: &Persist) {
        if let Some(hard_state) = step.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &step.snapshot {
            self.snapshot = Some(snapshot.metadata.clone());
            self.first = snapshot.metadata.index.0 + 1;
            self.entries.clear();
        }
        if !step.entries.is_empty() {
            self.entries.truncate(usize::try_from(step.first_index.0 - self.first).unwrap());
            self.entries.extend(step.entries.iter().cloned());
        }
    }

    fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0)
    }
}

/// One act of the script.
#[derive(Clone, Debug)]
enum Act {
    Persist(Vec<Persist>),
    Snapshot(u64, u64),
    Reopen,
}

fn script() -> Vec<Act> {
    use Act::{Persist as P, Reopen, Snapshot};
    let mut acts = vec![
        P(vec![with_state(Persist::default(), 1, None)]),
        P(vec![step(1, 1, 1)]),
        P(vec![step(2, 4, 1), step(5, 5, 1)]),
        Reopen,
        P(vec![with_state(step(6, 9, 1), 2, Some(2))]),
    ];
    acts.extend(
        (10..=34).step_by(3).map(|first| P(vec![step(first, first + 1, 2), step(first + 2, first + 2, 2)])),
    );
    acts.extend([
        Snapshot(30, 2),
        P(vec![step(37, 40, 2)]),
        // A conflict in the open segment, in a closed one, and at the start of a closed one.
        P(vec![with_state(step(39, 41, 3), 3, None)]),
        P(vec![with_state(step(35, 36, 4), 4, Some(1))]),
        P(vec![step(37, 40, 4)]),
        Reopen,
        P(vec![with_state(step(41, 44, 5), 5, None)]),
        P(vec![with_state(step(41, 42, 6), 6, None)]),
        Snapshot(42, 6),
        P(vec![step(43, 60, 6)]),
        // Behind the log, then in its middle with another term.
        P(vec![with_state(installed(100, 7), 7, None), step(101, 130, 7)]),
        Snapshot(120, 7),
        P(vec![with_state(installed(110 + 15, 8), 8, None)]),
        P(vec![step(126, 128, 8)]),
        P(vec![step(129, 200, 8)]),
        Reopen,
        P(vec![step(201, 203, 8)]),
    ]);
    acts
}

/// Plays the script until something fails. Gives the confirmed state, and the states that the failed act could leave.
fn play(disk: &MemoryDisk, acts: &[Act]) -> (Model, Vec<Model>) {
    let mut model = Model { first: 1, ..Model::default() };
    let Ok((mut store, _)) = LogStore::open(disk.clone(), options()) else {
        return (model, Vec::new());
    };
    for act in acts {
        match act {
            Act::Persist(steps) => {
                let mut states = Vec::new();
                let mut after = model.clone();
                for step in steps {
                    after.apply(step);
                    states.push(after.clone());
                }
                if store.persist(steps).is_err() {
                    return (model, states);
                }
                model = after;
                // A failure here comes again when it matters.
                store.tend();
            }
            Act::Snapshot(index, term) => {
                let result = write(disk, *index, *term);
                if result.and_then(|()| store.snapshot_taken(&metadata(*index, *term))).is_err() {
                    return (model, Vec::new());
                }
                model.snapshot = Some(metadata(*index, *term));
            }
            Act::Reopen => {
                if store.close().is_err() {
                    return (model, Vec::new());
                }
                match LogStore::open(disk.clone(), options()) {
                    Ok((reopened, loaded)) => {
                        check(&loaded, &model, &[]);
                        store = reopened;
                    }
                    Err(_) => return (model, Vec::new()),
                }
            }
        }
    }
    (model, Vec::new())
}

/// Everything confirmed is there, and whatever else is there was handed in.
fn check(loaded: &Loaded, confirmed: &Model, possible: &[Model]) {
    let terms = |entries: &[Entry]| entries.iter().map(|entry| entry.term.0).collect::<Vec<_>>();
    let index = |snapshot: &Option<SnapshotMetadata>| snapshot.as_ref().map(|snapshot| snapshot.index.0);
    let context = || {
        format!(
            "loaded {:?}, snapshot {:?}, {} {:?}\nconfirmed {:?}, snapshot {:?}, {} {:?}",
            loaded.hard_state,
            index(&loaded.snapshot),
            loaded.first_index,
            terms(&loaded.entries),
            confirmed.hard_state,
            index(&confirmed.snapshot),
            confirmed.first,
            terms(&confirmed.entries),
        )
    };
    assert_eq!(loaded.no_vote_until, None, "{}", context());
    let states = || possible.iter().chain([confirmed]);
    assert!(states().any(|model| loaded.hard_state == model.hard_state), "{}", context());
    let snapshot_index = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0);
    assert!(snapshot_index >= confirmed.snapshot_index(), "{}", context());
    assert!(loaded.first_index.0 <= snapshot_index + 1, "{}", context());
    let next = loaded.first_index.0 + loaded.entries.len() as u64;
    assert!(next > snapshot_index, "{}", context());
    // What the step that failed was to replace need not be there.
    let cut = possible.iter().map(|model| {
        let same = |index: &u64| confirmed.entry(*index) != model.entry(*index);
        (confirmed.first.max(model.first)..confirmed.next()).find(same).unwrap_or_else(|| confirmed.next())
    });
    let safe = cut.min().unwrap_or_else(|| confirmed.next());
    for index in snapshot_index + 1..safe {
        assert_eq!(loaded_entry(loaded, index), confirmed.entry(index), "entry {index}: {}", context());
    }
    for index in (snapshot_index + 1).max(loaded.first_index.0)..next {
        let found = loaded_entry(loaded, index);
        assert!(states().any(|model| model.entry(index) == found), "entry {index}: {}", context());
    }
}

fn loaded_entry(loaded: &Loaded, index: u64) -> Option<&Entry> {
    loaded.entries.get(usize::try_from(index.checked_sub(loaded.first_index.0)?).ok()?)
}

/// Loads what is left and writes on.
fn reopen(disk: &MemoryDisk, confirmed: &Model, possible: &[Model], context: &str) {
    let (mut store, loaded) =
        LogStore::open(disk.clone(), options()).unwrap_or_else(|error| panic!("{context}: {error}"));
    check(&loaded, confirmed, possible);
    let next = loaded.first_index.0 + loaded.entries.len() as u64;
    let term = loaded.hard_state.term.0.max(1) + 1;
    let more = if next == 1 { step(1, 1, term) } else { step(next, next + 2, term) };
    store.persist(&[with_state(more.clone(), term, Some(1))]).unwrap();
    drop(store);
    let (_, again) = LogStore::open(disk.crash(), options()).unwrap();
    assert_eq!(again.hard_state, HardState { term: Term(term), vote: Some(NodeId(1)) });
    assert_eq!(again.entries, [loaded.entries, more.entries].concat(), "{context}");
}

/// Past the capture of the test runner: how much was tried is of interest when nothing fails.
fn tell(what: &str) {
    // A line that cannot be written changes nothing.
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[test]
fn power_loss_at_every_operation_loses_nothing_acknowledged() {
    let whole = MemoryDisk::new(0);
    let acts = script();
    let (model, _) = play(&whole, &acts);
    assert_eq!(model.next(), 204);
    let operations = whole.operations();
    let mut points = 0;
    for stop in 0..=operations {
        let disk = MemoryDisk::new(0);
        disk.inject(Fault::PowerOff(stop));
        let (confirmed, possible) = play(&disk, &acts);
        for seed in 0..CRASHES_PER_POINT {
            let seed = stop * 1000 + seed;
            reopen(&disk.crash_with(seed), &confirmed, &possible, &format!("stop {stop} seed {seed}"));
            points += 1;
        }
    }
    tell(&format!("{operations} operations, {points} crashes"));
    assert!(points >= 20_000);
}

const CRASHES_PER_POINT: u64 = 67;

#[test]
fn power_loss_during_the_recovery_from_a_power_loss_loses_nothing_either() {
    let acts = script();
    let whole = MemoryDisk::new(0);
    play(&whole, &acts);
    let mut points = 0;
    for stop in (0..=whole.operations()).step_by(3) {
        let disk = MemoryDisk::new(0);
        disk.inject(Fault::PowerOff(stop));
        let (confirmed, possible) = play(&disk, &acts);
        for seed in 0..8 {
            let seed = stop * 1000 + seed;
            for second in 0.. {
                let crashed = disk.crash_with(seed);
                crashed.inject(Fault::PowerOff(second));
                let finished = LogStore::open(crashed.clone(), options()).is_ok();
                let context = format!("stop {stop} seed {seed}, then {second}");
                reopen(&crashed.crash_with(seed + second), &confirmed, &possible, &context);
                points += 1;
                if finished {
                    break;
                }
            }
        }
    }
    tell(&format!("{points} second crashes"));
    assert!(points >= 1000);
}

#[test]
fn a_failing_operation_loses_nothing_acknowledged() {
    let acts = script();
    let whole = MemoryDisk::new(0);
    play(&whole, &acts);
    let mut points = 0;
    for number in 1..=whole.operations() {
        for seed in 0..FAULTS_PER_POINT {
            let disk = MemoryDisk::new(seed);
            disk.inject(Fault::Operation(number));
            let (confirmed, possible) = play(&disk, &acts);
            disk.heal();
            // With and without a power loss behind the failure.
            let context = format!("operation {number} seed {seed}");
            if seed % 2 == 0 {
                reopen(&disk.crash_with(seed), &confirmed, &possible, &context);
            } else {
                reopen(&disk, &confirmed, &possible, &context);
            }
            points += 1;
        }
    }
    tell(&format!("{points} faults"));
    assert!(points >= 5000);
}

const FAULTS_PER_POINT: u64 = 18;

#[test]
fn space_that_ends_at_any_byte_count_changes_nothing_acknowledged() {
    let acts = script();
    let mut points = 0;
    for (number, capacity) in (0..100_000).step_by(331).enumerate() {
        // A quota or a limit of file sizes is a full disk, too.
        let shortage = [Shortage::Disk, Shortage::Quota, Shortage::FileSize][number % 3];
        let disk = MemoryDisk::new(capacity);
        disk.set_capacity(Some(capacity));
        disk.set_shortage(shortage);
        let (confirmed, possible) = play(&disk, &acts);
        disk.set_capacity(None);
        reopen(&disk.crash(), &confirmed, &possible, &format!("capacity {capacity}"));
        points += 1;
    }
    tell(&format!("{points} limits"));
}

#[test]
fn an_interrupted_bootstrap_is_completed() {
    let whole = MemoryDisk::new(0);
    bootstrap(&whole, &configuration(1)).unwrap();
    for stop in 0..=whole.operations() {
        for seed in 0..50 {
            let disk = MemoryDisk::new(0);
            disk.inject(Fault::PowerOff(stop));
            let confirmed = bootstrap(&disk, &configuration(1)).is_ok();
            let crashed = disk.crash_with(seed);
            if confirmed {
                assert_eq!(open(&crashed).1.entries.len(), 1);
            }
            bootstrap(&crashed, &configuration(1)).unwrap();
            let (_, loaded) = open(&crashed);
            assert_eq!((loaded.hard_state.term, loaded.entries.len()), (Term(1), 1), "{stop} {seed}");
        }
    }
}

#[test]
fn an_interrupted_recover_leaves_the_log_with_or_without_its_entry() {
    let before = MemoryDisk::new(0);
    let mut store = fresh(&before);
    store.persist(&[step(1, 20, 1)]).unwrap();
    drop(store);
    let whole = before.crash_with(1);
    recover(&whole, &configuration(1)).unwrap();
    for stop in 0..=whole.operations() {
        for seed in 0..50 {
            let disk = before.crash_with(1);
            disk.inject(Fault::PowerOff(stop));
            let confirmed = recover(&disk, &configuration(1)).is_ok();
            let (_, loaded) = open(&disk.crash_with(seed));
            assert_eq!(loaded.entries[..20], entries(1, 20, 1));
            assert!(loaded.entries.len() <= 21 && (!confirmed || loaded.entries.len() == 21));
        }
    }
}

#[test]
fn a_store_that_ran_out_of_space_is_not_latched() {
    let disk = MemoryDisk::new(3);
    let mut store = fresh(&disk);
    store.persist(&[step(1, 3, 1)]).unwrap();
    disk.set_capacity(Some(disk.used()));
    let more = [step(4, 100, 1)];
    for shortage in [Shortage::Disk, Shortage::Quota, Shortage::FileSize] {
        disk.set_shortage(shortage);
        assert!(matches!(store.persist(&more).unwrap_err(), DiskError::NoSpace { .. }));
    }
    assert_eq!(store.read_entries(LogIndex(1), 10, u64::MAX).unwrap(), entries(1, 3, 1));
    disk.set_capacity(None);
    store.persist(&more).unwrap();
    check_log(&open(&disk.crash()).1, 1, 100, 1);
}

/// A file is gone or older when the node comes back from a power failure: nobody may take the rest for the whole log.
#[test]
fn no_power_loss_hides_that_a_file_is_missing() {
    let acts = script();
    let whole = MemoryDisk::new(0);
    play(&whole, &acts);
    let mut tried = (0, 0);
    for stop in 0..=whole.operations() {
        let disk = MemoryDisk::new(0);
        disk.inject(Fault::PowerOff(stop));
        let (confirmed, possible) = play(&disk, &acts);
        for seed in 0..3 {
            let crashed = disk.crash_with(stop * 1000 + seed);
            for name in crashed.names() {
                let lost = crashed.crash();
                lost.unlink(&name).unwrap();
                lost.sync_directory().unwrap();
                let options = LogOptions { auto_recovery: true, ..options() };
                let Ok((_, loaded)) = LogStore::open(lost.crash(), options) else { continue };
                let context = format!("stop {stop} seed {seed} without {name} of {:?}", crashed.names());
                check_lost(&loaded, &confirmed, &possible, &context);
                tried.0 += 1;
                tried.1 += u32::from(loaded.no_vote_until.is_some());
            }
        }
    }
    tell(&format!("{} starts without one file, {} of them without a vote", tried.0, tried.1));
    assert!(tried.1 > 1000);
}

/// What is there is what was handed in, and either it is all that was confirmed or the node knows what it lacks.
fn check_lost(loaded: &Loaded, confirmed: &Model, possible: &[Model], context: &str) {
    let states = || possible.iter().chain([confirmed]);
    let known = |loaded: HardState| states().any(|model| model.hard_state == loaded);
    assert!(known(loaded.hard_state), "{context}: {:?}, {:?}", loaded.hard_state, confirmed.hard_state);
    let next = loaded.first_index.0 + loaded.entries.len() as u64;
    let snapshot_index = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0);
    for index in (snapshot_index + 1).max(loaded.first_index.0)..next {
        let found = loaded_entry(loaded, index);
        assert!(states().any(|model| model.entry(index) == found), "{context}: entry {index}");
    }
    let cut = possible.iter().map(|model| {
        let same = |index: &u64| confirmed.entry(*index) != model.entry(*index);
        (confirmed.first.max(model.first)..confirmed.next()).find(same).unwrap_or_else(|| confirmed.next())
    });
    let safe = cut.min().unwrap_or_else(|| confirmed.next());
    let has_all = snapshot_index >= confirmed.snapshot_index() && next >= safe
        || (snapshot_index < confirmed.snapshot_index()
            && next >= safe
            && loaded.first_index.0 <= snapshot_index + 1);
    let waits = loaded.no_vote_until.is_some_and(|until| until.0 + 1 >= safe);
    assert!(has_all || waits, "{context}: {next} of {safe}, waits {:?}", loaded.no_vote_until);
}
