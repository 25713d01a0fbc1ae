//! What the node holds in memory on behalf of its clients, who holds most, and who has to give it up.
//!
//! One machine owns the account: others say what a client holds of each kind, [`Budget::overrun`] says who goes first. It
//! knows neither time nor sockets and acts on nothing itself; `core::memory` does what it says. Amounts below
//! [`GRAIN`](super::limits::BUDGET_GRAIN) are not counted: there is at most that much of each kind for each connection.
//!
//! The account is of what has arrived, not of what was announced: a header that promises 480 MB costs nothing yet.

use std::collections::BTreeMap;

use vfs::{ReaderHold, ReaderId};

use super::ClientId;
use super::database::DatabaseId;
use super::limits;

/// How much clients may make the node hold, and for how long one of them may be in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRules {
    /// Bytes held for all clients together, from which on the largest holder has to give up what it holds.
    pub limit_bytes: u64,
    /// Bytes that one read transaction may keep from being freed.
    pub reader_bytes: u64,
    /// How long it may keep more than that, milliseconds.
    pub reader_age_ms: u64,
    /// How long a client may hold a database's writer lane without a request, once others wait for it, milliseconds.
    pub idle_writer_ms: u64,
}

impl MemoryRules {
    /// The rules that go with a limit in bytes.
    #[must_use]
    pub fn with_limit(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            reader_bytes: (limit_bytes / limits::READER_SHARE).max(limits::MIN_READER_BYTES),
            reader_age_ms: limits::READER_AGE_MS,
            idle_writer_ms: limits::IDLE_WRITER_MS,
        }
    }
}

/// What something is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request that has not arrived as a whole.
    Input,
    /// Whole requests that wait or are being run, with the values they bind.
    Requests,
    /// Answers that the client has not taken.
    Output,
    /// Answers, rows of RETURNING among them, that wait for a commit.
    Gated,
    /// What SQLite keeps for the connection: schema, statements, pages of temporary tables.
    Sqlite,
}

const KINDS: [Kind; 5] = [Kind::Input, Kind::Requests, Kind::Output, Kind::Gated, Kind::Sqlite];

/// Names a read transaction.
pub(super) type ReaderKey = (DatabaseId, ReaderId, u64);

/// Who has to give up what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A client, what it holds most of, and all that it holds, bytes.
    Client(ClientId, Kind, u64),
    /// A read transaction and what it keeps, bytes.
    Reader(ReaderKey, u64),
}

/// The account.
#[derive(Debug)]
pub(super) struct Budget {
    rules: MemoryRules,
    /// Sum of `clients`.
    held: u64,
    clients: BTreeMap<ClientId, [u64; KINDS.len()]>,
    /// What read transactions keep, as of the last look; each counted once.
    readers: BTreeMap<ReaderKey, u64>,
    /// Since when a read transaction keeps more than it may.
    excess_since: BTreeMap<ReaderKey, u64>,
}

impl Budget {
    pub(super) fn new(rules: MemoryRules) -> Self {
        Self {
            rules,
            held: 0,
            clients: BTreeMap::new(),
            readers: BTreeMap::new(),
            excess_since: BTreeMap::new(),
        }
    }

    pub(super) fn rules(&self) -> MemoryRules {
        self.rules
    }

    /// Bytes held for all clients.
    pub(super) fn total(&self) -> u64 {
        self.held.saturating_add(self.readers.values().fold(0, |sum, bytes| sum.saturating_add(*bytes)))
    }

    /// What a client holds of a kind from now on, in place of what it held of it before.
    pub(super) fn set(&mut self, client: ClientId, kind: Kind, bytes: u64) {
        let bytes = if bytes < limits::BUDGET_GRAIN { 0 } else { bytes };
        if bytes == 0 && !self.clients.contains_key(&client) {
            return;
        }
        let holding = self.clients.entry(client).or_default();
        let before = std::mem::replace(&mut holding[kind as usize], bytes);
        self.held = (self.held - before).saturating_add(bytes);
        if holding.iter().all(|bytes| *bytes == 0) {
            self.clients.remove(&client);
        }
    }

    /// A client is gone with all that it held.
    pub(super) fn forget(&mut self, client: ClientId) {
        if let Some(holding) = self.clients.remove(&client) {
            self.held -= holding.iter().sum::<u64>();
        }
    }

    /// What was found on a look at all read transactions. Gives those that have kept more than they may for longer than
    /// they may.
    pub(super) fn look_at_readers(
        &mut self,
        found: impl Iterator<Item = (DatabaseId, ReaderHold)>,
        now_ms: u64,
    ) -> Vec<ReaderKey> {
        self.readers.clear();
        let before = std::mem::take(&mut self.excess_since);
        let mut over = Vec::new();
        for (database, hold) in found {
            let key = (database, hold.reader, hold.transaction);
            self.readers.insert(key, hold.share);
            if hold.bytes > self.rules.reader_bytes {
                let since_ms = before.get(&key).copied().unwrap_or(now_ms);
                self.excess_since.insert(key, since_ms);
                if now_ms.saturating_sub(since_ms) >= self.rules.reader_age_ms {
                    over.push(key);
                }
            }
        }
        over
    }

    /// A read transaction was ended.
    pub(super) fn forget_reader(&mut self, key: ReaderKey) {
        self.readers.remove(&key);
        self.excess_since.remove(&key);
    }

    /// The largest holder, if more is held than may be.
    pub(super) fn overrun(&self) -> Option<Holder> {
        if self.total() <= self.rules.limit_bytes {
            return None;
        }
        let client = self
            .clients
            .iter()
            .map(|(&client, holding)| (holding.iter().sum::<u64>(), client, holding))
            .max_by_key(|(bytes, client, _)| (*bytes, *client));
        let reader = self.readers.iter().max_by_key(|(_, bytes)| **bytes);
        match (client, reader) {
            (Some((bytes, client, holding)), reader) if reader.is_none_or(|(_, pinned)| *pinned <= bytes) => {
                let kind = KINDS.into_iter().max_by_key(|kind| holding[*kind as usize]);
                Some(Holder::Client(client, kind.unwrap_or(Kind::Input), bytes))
            }
            (_, Some((&key, &bytes))) => Some(Holder::Reader(key, bytes)),
            (_, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn budget(limit_bytes: u64) -> Budget {
        Budget::new(MemoryRules { reader_bytes: 10 * MIB, ..MemoryRules::with_limit(limit_bytes) })
    }

    #[test]
    fn the_largest_holder_goes_first_and_with_what_it_holds_most_of() {
        let mut budget = budget(100 * MIB);
        budget.set(ClientId(1), Kind::Input, 40 * MIB);
        budget.set(ClientId(2), Kind::Output, 30 * MIB);
        budget.set(ClientId(2), Kind::Gated, 20 * MIB);
        assert_eq!(budget.overrun(), None);
        budget.set(ClientId(3), Kind::Requests, 11 * MIB);
        assert_eq!(budget.overrun(), Some(Holder::Client(ClientId(2), Kind::Output, 50 * MIB)));
        budget.forget(ClientId(2));
        assert_eq!(budget.overrun(), None);
        budget.set(ClientId(1), Kind::Input, 0);
        assert_eq!(budget.total(), 11 * MIB);
    }

    #[test]
    fn small_amounts_are_not_counted() {
        let mut budget = budget(MIB);
        for client in 0..1000 {
            budget.set(ClientId(client), Kind::Input, limits::BUDGET_GRAIN - 1);
        }
        assert_eq!((budget.total(), budget.clients.len()), (0, 0));
        budget.set(ClientId(1), Kind::Input, MIB + 1);
        budget.set(ClientId(1), Kind::Input, 5);
        assert_eq!((budget.total(), budget.clients.len()), (0, 0));
    }

    fn readers(holds: &[(u64, u64)]) -> Vec<(DatabaseId, ReaderHold)> {
        let vfs = vfs::Vfs::register().expect("SQLite is there");
        let name = vfs::DatabaseName::new(b"test").expect("a name");
        let reader = vfs.open(&name).expect("a connection").reader();
        let hold = |&(transaction, bytes)| ReaderHold { reader, transaction, bytes, share: bytes };
        let database = super::super::database::Databases::default().get_or_create(&vfs, &name);
        holds.iter().map(|transaction| (database, hold(transaction))).collect()
    }

    #[test]
    fn a_reader_goes_after_its_time_above_the_bound_and_not_before() {
        let mut budget = budget(1000 * MIB);
        let age_ms = budget.rules().reader_age_ms;
        let found = readers(&[(7, 11 * MIB), (8, 9 * MIB)]);
        let mut look = |found: &[(DatabaseId, ReaderHold)], now_ms| {
            let over = budget.look_at_readers(found.iter().copied(), now_ms);
            over.into_iter().map(|(_, _, transaction)| transaction).collect::<Vec<_>>()
        };
        // However old it is: a backup beside few writes is let be.
        assert_eq!(look(&found[1..], 0), []);
        assert_eq!(look(&found[1..], 1_000_000), []);
        assert_eq!(look(&found, 1_000_000), []);
        assert_eq!(look(&found, 1_000_000 + age_ms - 1), []);
        assert_eq!(look(&found, 1_000_000 + age_ms), [7]);
        // Another transaction of the same connection has its own time.
        let next = readers(&[(9, 11 * MIB)]);
        assert_eq!(look(&next, 2_000_000), []);
        // The time begins again when it kept less meanwhile.
        assert_eq!(look(&[], 2_000_000 + age_ms), []);
        assert_eq!(look(&next, 2_000_000 + age_ms), []);
    }

    #[test]
    fn a_reader_that_keeps_most_goes_before_the_clients() {
        let mut budget = budget(100 * MIB);
        budget.set(ClientId(1), Kind::Input, 60 * MIB);
        let found = readers(&[(1, 61 * MIB)]);
        budget.look_at_readers(found.iter().copied(), 0);
        let Some(Holder::Reader(key, bytes)) = budget.overrun() else { panic!("{:?}", budget.overrun()) };
        assert_eq!((key.2, bytes), (1, 61 * MIB));
        budget.forget_reader(key);
        assert_eq!(budget.overrun(), None);
    }

    proptest! {
        /// Whatever is said in whatever order, the sum is that of what was said last, and ending those that the machine
        /// names leads below the limit.
        #[test]
        fn the_sum_is_right_and_ending_the_largest_leads_below_the_limit(
            steps in prop::collection::vec((0_u64..8, 0_usize..5, 0_u64..8, prop::bool::weighted(0.1)), 0..200)
        ) {
            let mut budget = budget(20 * MIB);
            let mut model = BTreeMap::new();
            for (client, kind, mib, forget) in steps {
                let client = ClientId(client);
                if forget {
                    budget.forget(client);
                    model.retain(|(other, _), _| *other != client);
                } else {
                    budget.set(client, KINDS[kind], mib * MIB);
                    model.insert((client, kind), mib * MIB);
                }
                prop_assert_eq!(budget.total(), model.values().sum::<u64>());
            }
            while let Some(holder) = budget.overrun() {
                let Holder::Client(client, ..) = holder else { panic!("{holder:?}") };
                budget.forget(client);
            }
            prop_assert!(budget.total() <= 20 * MIB);
        }
    }
}
