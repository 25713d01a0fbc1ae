//! The faults of the world, as they strike.

use std::collections::BTreeMap;

use raft_glue::disk::{LZ4_MAGIC, Shortage};
use wire_protocol::Role;

use crate::client::{Afterwards, Errand};
use crate::machines::MARKER;
use crate::node::{Machine, Process};
use crate::scenario::{MILLISECOND, Nemesis, SECOND};
use crate::world::{Event, World};

/// The file that says what a directory held.
const MANIFEST: &str = "tmp-log-manifest";
/// Files that are never removed: without the manifest nothing shows, and the lock holds nothing.
const KEPT: [&str; 2] = [MANIFEST, "dqlite-lock"];

impl World {
    /// Plans the next strike of a fault.
    pub(crate) fn plan_strike(&mut self, nemesis: usize) {
        let (_, mean_us) = self.scenario.nemeses[nemesis];
        let wait_us = SECOND + self.random.around(mean_us);
        self.plan(wait_us, Event::Strike { nemesis });
    }

    pub(crate) fn strike(&mut self, number: usize) {
        if !self.is_hostile() {
            return;
        }
        self.plan_strike(number);
        let (nemesis, _) = self.scenario.nemeses[number];
        self.retarget_now_and_then();
        let node = self.random.index(self.machines.len());
        let until_us = self.now_us + 100 * MILLISECOND + self.random.around(4 * SECOND);
        self.note(node, "fault", [number as u64, until_us], || format!("{nemesis:?}"));
        self.stats.count(name(nemesis));
        let factor = self.random.between(5, 100);
        match nemesis {
            Nemesis::PowerFailure => self.power_failure_if_up(node),
            Nemesis::PowerFailureInWrite => {
                let operations = self.random.below(12);
                self.machines[node].fails_in_write = Some(operations);
            }
            Nemesis::Kill => {
                if self.machines[node].process.is_some() {
                    self.kill(node);
                }
            }
            Nemesis::Blackout => {
                for node in 0..self.machines.len() {
                    self.power_failure_if_up(node);
                }
            }
            Nemesis::Pause => self.machines[node].paused_until_us = until_us,
            Nemesis::SlowNode => {
                self.machines[node].slow = crate::node::Slowness { factor, until_us };
            }
            Nemesis::SlowDisk => {
                self.machines[node].slow_disk = crate::node::Slowness { factor, until_us };
            }
            Nemesis::Partition => {
                let side = self.side();
                self.cut(|from, to| side[from] != side[to]);
            }
            Nemesis::OneWayPartition => {
                let side = self.side();
                self.cut(|from, to| side[from] && !side[to]);
            }
            Nemesis::PartialPartition => {
                let other = self.random.index(self.machines.len());
                self.cut(|from, to| (from == node && to == other) || (from == other && to == node));
            }
            Nemesis::ClientPartition => {
                self.cut_from_clients[node] += 1;
                self.plan_at(until_us, Event::MendClients { node });
            }
            Nemesis::ClockJump => {
                let by_us = self.random.around(3 * SECOND);
                // That of a voter would break a promise: it is outside of what the lease allows for.
                if let Some(process) = self.machines[node].process.as_mut()
                    && process.core.replica().is_leader()
                {
                    process.clock.jump(by_us);
                    self.wake(node);
                }
            }
            Nemesis::WallClockJump => self.jump_wall_clock(node),
            Nemesis::FailedWrite => {
                let number = self.random.between(1, 4);
                self.machines[node].faulted = true;
                self.machines[node].disk.inject(raft_glue::disk::Fault::Write(number));
            }
            Nemesis::FailedSync => {
                let number = self.random.between(1, 4);
                self.machines[node].faulted = true;
                self.machines[node].disk.inject(raft_glue::disk::Fault::Sync(number));
            }
            Nemesis::NoSpace => {
                let shortage = *self.random.pick(&[Shortage::Disk, Shortage::Quota, Shortage::FileSize]);
                let disk = &self.machines[node].disk;
                disk.set_shortage(shortage);
                disk.set_capacity(Some(disk.used() + self.random.below(40_000)));
                self.plan_at(until_us, Event::Space { node });
            }
            Nemesis::BitRot => self.rot(node),
            Nemesis::LostFiles => self.lose_files(node),
            Nemesis::Handover => self.hand_over(node),
            Nemesis::Strangers => self.stranger_comes(node),
            Nemesis::LateAnswers => self.answers_come_late(),
            Nemesis::Transfer => self.want(Errand::Transfer(node)),
            Nemesis::Assign => {
                let role = *self.random.pick(&[Role::Voter, Role::Voter, Role::StandBy, Role::Spare]);
                self.want(Errand::Assign(node, role));
            }
            Nemesis::Replace => {
                let keeps = self.random.percent(50);
                let afterwards = if keeps { Afterwards::Rejoins } else { Afterwards::Replaced };
                self.want(Errand::Remove(node, afterwards));
            }
        }
    }

    /// Bits of a file change while the node is down. One node at a time, and never one that would be missed.
    fn rot(&mut self, node: usize) {
        let busy = self.machines.iter().any(|machine| machine.damaged.is_some() || machine.ruined);
        if busy || !self.all_vote() || self.machines[node].process.is_none() {
            return;
        }
        self.kill(node);
        // C's format has no checksum over term and vote, or over a snapshot that is not compressed: nobody could tell.
        let disk = &self.machines[node].disk;
        let plain = |name: &str| !disk.content(name).is_some_and(|content| content.starts_with(&LZ4_MAGIC));
        let checked = |name: &String| {
            let unchecked = name.contains("lock")
                || name.starts_with("metadata")
                || (name.starts_with("snapshot") && !name.contains("meta") && plain(name));
            !unchecked
        };
        let names: Vec<String> = disk.names().into_iter().filter(checked).collect();
        if names.is_empty() {
            return;
        }
        let name = self.random.pick(&names).clone();
        let Some(mut content) = self.machines[node].disk.content(&name) else { return };
        let used = if name.starts_with("open") {
            // The end of an open segment may be torn by a crash, and no node can tell that from rot.
            start_of_last_batch(&content)
        } else {
            content.len()
        };
        if used == 0 {
            return;
        }
        for _ in 0..self.random.between(1, 4) {
            let place = self.random.index(used);
            content[place] ^= 1 << self.random.below(8);
        }
        self.note(node, "rots", [used as u64, 0], || name.clone());
        self.stats.count("bits rotted");
        self.machines[node].disk.put(&name, &content);
        self.machines[node].damaged = Some(self.oracle.newest_committed());
        self.oracle.damaged(self.machines[node].id);
    }

    /// Files vanish while the node is down, or come back as they were some time ago; only what the manifest shows. One node at
    /// a time, as with bits that rot.
    fn lose_files(&mut self, node: usize) {
        if self.forget_damage() {
            return;
        }
        let busy = self.machines.iter().any(|machine| machine.damaged.is_some() || machine.ruined);
        if busy || !self.all_vote() || self.machines[node].process.is_none() {
            return;
        }
        self.kill(node);
        let machine = &mut self.machines[node];
        let now: BTreeMap<String, Vec<u8>> = machine
            .disk
            .names()
            .into_iter()
            .filter_map(|name| machine.disk.content(&name).map(|content| (name, content)))
            .collect();
        let older = std::mem::replace(&mut machine.older, now.clone());
        if !now.contains_key(MANIFEST) {
            return;
        }
        // Of the segment in use an older copy only lacks its end, which nobody can tell.
        let is_seen = |name: &&String| !(name.starts_with("open-") && now.contains_key(*name));
        let differs = |name: &&String| *name != MANIFEST && older.get(*name) != now.get(*name);
        let others: Vec<&String> = older.keys().filter(is_seen).filter(differs).collect();
        let mut changed = Vec::new();
        if !others.is_empty() && self.random.percent(50) {
            let name = *self.random.pick(&others);
            machine.disk.put(name, &older[name]);
            changed.push(name.clone());
            self.stats.count("older file put back");
        } else {
            let names: Vec<&String> = now.keys().filter(|name| !KEPT.contains(&name.as_str())).collect();
            for _ in 0..self.random.between(1, 3) {
                let Some(name) = (!names.is_empty()).then(|| *self.random.pick(&names)) else { break };
                machine.disk.remove(name);
                changed.push(name.clone());
            }
            self.stats.count("files removed");
        }
        machine.damaged = Some(self.oracle.newest_committed());
        self.oracle.damaged(self.machines[node].id);
        self.note(node, "loses files", [changed.len() as u64, 0], || changed.join(" "));
    }

    /// Now and then, removes the note that a node waits for what it lost; its manifest remembers it.
    fn forget_damage(&mut self) -> bool {
        let waits = |machine: &Machine| {
            let has = |name| machine.disk.content(name).is_some();
            machine.damaged.is_some() && machine.process.is_some() && has(MARKER) && has(MANIFEST)
        };
        let Some(node) = self.machines.iter().position(waits).filter(|_| self.random.percent(70)) else {
            return false;
        };
        self.kill(node);
        self.machines[node].disk.remove(MARKER);
        self.note(node, "loses its note of the damage", [0, 0], String::new);
        self.stats.count("note of the damage removed");
        true
    }

    /// Whether there are three nodes or more and all of them are voters.
    fn all_vote(&self) -> bool {
        let count = self.machines.len();
        let all = |process: &Process| {
            let replica = process.core.replica();
            replica.serving() && replica.configuration().voters().count() == count
        };
        count >= 3 && self.machines.iter().filter_map(|machine| machine.process.as_ref()).any(all)
    }

    fn power_failure_if_up(&mut self, node: usize) {
        if self.machines[node].process.is_some() {
            self.power_failure(node);
        }
    }

    fn jump_wall_clock(&mut self, node: usize) {
        let by = i64::try_from(self.random.below(20_000_000)).unwrap_or(0) - 10_000_000;
        self.machines[node].wall_ms = by;
        if let Some(process) = &self.machines[node].process {
            process.surroundings.set_wall_ms(by);
        }
    }

    /// Two sides, neither of them empty if there are two nodes.
    fn side(&mut self) -> Vec<bool> {
        let count = self.machines.len();
        let mut side: Vec<bool> = (0..count).map(|_| self.random.percent(50)).collect();
        let turn = self.random.index(count);
        if side.iter().all(|here| *here == side[0]) {
            side[turn] = !side[turn];
        }
        side
    }

    /// Cuts these directions for a while.
    fn cut(&mut self, cuts: impl Fn(usize, usize) -> bool) {
        let count = self.machines.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let links: Vec<(usize, usize)> = pairs.filter(|&(from, to)| from != to && cuts(from, to)).collect();
        for &(from, to) in &links {
            self.network.cut(from, to, self.now_us);
        }
        let wait_us = 500 * MILLISECOND + self.random.around(8 * SECOND);
        self.plan(wait_us, Event::Mend { links });
    }

    pub(crate) fn mend(&mut self, links: &[(usize, usize)]) {
        self.note_world("mended", [links.len() as u64, 0], || format!("{links:?}"));
        for &(from, to) in links {
            let held = self.network.mend(from, to, self.now_us);
            for parcel in held {
                self.send_parcel(from, to, parcel);
            }
        }
    }
}

/// Where the last batch of an open segment begins; 0 if there is no other before it.
///
/// A segment is a word that names the format, then batches: two checksums in one word, the number of entries, two words
/// for each entry (of which the last four bytes are its length), the data.
fn start_of_last_batch(content: &[u8]) -> usize {
    let word = |at: usize| {
        let bytes = content.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let end_of = |start: usize| {
        let count = usize::try_from(word(start + 8)?).ok().filter(|count| *count > 0 && *count < 1 << 20)?;
        let mut end = start + 16 + 16 * count;
        for entry in 0..count {
            end += usize::try_from(word(start + 24 + 16 * entry)? >> 32).ok()?;
        }
        (end <= content.len()).then_some(end)
    };
    let (mut last, mut next) = (0, 8);
    while let Some(end) = end_of(next) {
        (last, next) = (next, end);
    }
    if last == 8 { 0 } else { last }
}

/// Name of a fault in the summary.
fn name(nemesis: Nemesis) -> &'static str {
    match nemesis {
        Nemesis::PowerFailure => "power failure",
        Nemesis::PowerFailureInWrite => "power failure planned for a write",
        Nemesis::Kill => "kill",
        Nemesis::Blackout => "blackout",
        Nemesis::Pause => "pause",
        Nemesis::SlowNode => "slow node",
        Nemesis::Partition => "partition",
        Nemesis::OneWayPartition => "one-way partition",
        Nemesis::PartialPartition => "partial partition",
        Nemesis::ClientPartition => "node cut from clients",
        Nemesis::ClockJump => "clock jump",
        Nemesis::WallClockJump => "wall clock jump",
        Nemesis::SlowDisk => "slow disk",
        Nemesis::FailedWrite => "failed write",
        Nemesis::FailedSync => "failed sync",
        Nemesis::NoSpace => "disk full",
        Nemesis::BitRot => "bit rot",
        Nemesis::LostFiles => "files lost",
        Nemesis::Handover => "handover asked for",
        Nemesis::Strangers => "stranger on the peer port",
        Nemesis::LateAnswers => "leader cut off, answers late",
        Nemesis::Transfer => "leadership transfer",
        Nemesis::Assign => "role change",
        Nemesis::Replace => "member replaced",
    }
}
