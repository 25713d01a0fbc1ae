//! Appends to the log on the disk that holds this build: sync included, and without it the cost of checksums and copies.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use raft_glue::disk::{Disk, LogOptions, LogStore, MemoryDisk, OsDisk};
use raft_glue::{Configuration, Entry, EntryKind, HardState, LogIndex, NodeId, Persist, Role, Server, Term};

/// Three pages and what surrounds them: a small transaction.
const ENTRY_LEN: usize = 3 * 4096 + 64;

struct Log<D: Disk> {
    store: LogStore<D>,
    next: u64,
}

impl<D: Disk> Log<D> {
    fn open(disk: D) -> Self {
        let (mut store, _) = LogStore::open(disk, LogOptions::default()).expect("a new directory");
        let server = Server { id: NodeId(1), address: "a:1".to_owned(), role: Role::Voter };
        let data = Configuration { servers: vec![server] }.encode();
        let first = Entry { term: Term(1), kind: EntryKind::Configuration, data };
        let hard_state = Some(HardState { term: Term(1), vote: None });
        let step =
            Persist { hard_state, first_index: LogIndex(1), entries: vec![first], ..Persist::default() };
        store.persist(&[step]).expect("the disk works");
        Self { store, next: 2 }
    }

    fn append(&mut self, entry: &Entry, count: usize) {
        let entries = vec![entry.clone(); count];
        let first_index = LogIndex(self.next);
        self.next += count as u64;
        self.store
            .persist(&[Persist { first_index, entries, ..Persist::default() }])
            .expect("the disk works");
        self.store.tend();
    }
}

fn append(criterion: &mut Criterion) {
    let entry = Entry { term: Term(1), kind: EntryKind::Command, data: vec![7; ENTRY_LEN].into() };
    let mut group = criterion.benchmark_group("append");
    for count in [1, 32] {
        group.throughput(Throughput::Bytes((count * ENTRY_LEN) as u64));
        // Not in /tmp, which may be memory.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
        let mut log = Log::open(OsDisk::new(directory.path()).expect("it is a directory"));
        group.bench_function(format!("{count} entries of 12 KiB, written and synced"), |bencher| {
            bencher.iter(|| log.append(&entry, count));
        });
        let mut log = Log::open(MemoryDisk::new(1));
        group.bench_function(format!("{count} entries of 12 KiB, in memory"), |bencher| {
            bencher.iter(|| log.append(&entry, count));
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
