//! Clients that forget a transaction for a while, nodes whose bounds for that are small, and what must hold then.

use std::collections::BTreeMap;

use server::options::LiveOptions;
use vfs::{ReaderId, Vfs};

use crate::client::Stage;
use crate::oracle::Violation;
use crate::random::Random;
use crate::scenario::{MILLISECOND, SECOND};
use crate::world::World;

/// Bytes for all clients where nothing else is drawn: more than any run needs, and the same on every machine.
const AMPLE_BYTES: u64 = 1 << 30;

/// How clients behave, and what nodes stand.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Parts per million of requests within a transaction before which a client dallies.
    pub dallies: u32,
    /// For how long, microseconds, on the average.
    pub dally_us: u64,
    /// Bytes that a node holds for its clients.
    pub client_memory_bytes: u64,
    /// Bytes that a read transaction may keep.
    pub reader_bytes: u64,
    /// How long it may keep more, milliseconds.
    pub reader_age_ms: u64,
    /// How long a writer may do nothing while others wait, milliseconds.
    pub idle_writer_ms: u64,
}

impl Manners {
    /// For a share of the seeds.
    pub(crate) fn draw(random: &mut Random) -> Option<Self> {
        let on = random.percent(35);
        let manners = Self {
            dallies: *random.pick(&[20_000, 100_000, 300_000]),
            dally_us: *random.pick(&[200 * MILLISECOND, SECOND, 5 * SECOND]),
            client_memory_bytes: *random.pick(&[3 << 20, 8 << 20, AMPLE_BYTES, AMPLE_BYTES]),
            reader_bytes: *random.pick(&[20_000, 100_000, 1_000_000]),
            reader_age_ms: *random.pick(&[1, 300, 2000]),
            idle_writer_ms: *random.pick(&[50, 300, 2000]),
        };
        on.then_some(manners)
    }
}

/// Settings of a node.
pub(crate) fn configure(live: &LiveOptions, manners: Option<Manners>) {
    live.set_client_memory_bytes(manners.map_or(AMPLE_BYTES, |manners| manners.client_memory_bytes));
    if let Some(manners) = manners {
        live.set_reader_bytes(manners.reader_bytes);
        live.set_reader_age_ms(manners.reader_age_ms);
        live.set_idle_writer_ms(manners.idle_writer_ms);
    }
}

/// Read transactions of one node that keep more than they may, and since when by its clock.
#[derive(Debug, Default)]
pub(crate) struct Excesses(BTreeMap<(ReaderId, u64), u64>);

impl Excesses {
    /// Looks behind a tick, which has ended those whose time was over.
    pub(crate) fn check(&mut self, vfs: &Vfs, manners: Manners, now_ms: u64) -> Result<(), Violation> {
        let before = std::mem::take(&mut self.0);
        for hold in vfs.databases().iter().flat_map(|database| database.reader_holds()) {
            if hold.bytes <= manners.reader_bytes {
                continue;
            }
            let key = (hold.reader, hold.transaction);
            let since_ms = before.get(&key).copied().unwrap_or(now_ms);
            if now_ms.saturating_sub(since_ms) > manners.reader_age_ms {
                let text = format!("{hold:?} since {since_ms}, and it is {now_ms}");
                return Err(Violation::new("no reader keeps much for long", text));
            }
            self.0.insert(key, since_ms);
        }
        Ok(())
    }
}

impl World {
    /// Whether a client forgets its transaction for a while before its next request; then it goes on by itself.
    pub(crate) fn dallies(&mut self, client: usize) -> bool {
        let Some(manners) = self.scenario.manners else { return false };
        let Stage::Running(transaction) = &self.clients[client].stage else { return false };
        if !transaction.explicit || transaction.next == 0 || !self.is_hostile() {
            return false;
        }
        if !self.random.per_million(manners.dallies) {
            return false;
        }
        self.stats.count("client dallies in a transaction");
        self.clients[client].dallies = true;
        let wait_us = self.random.around(manners.dally_us);
        self.wake_client(client, wait_us);
        true
    }
}
