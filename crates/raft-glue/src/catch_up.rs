//! Bringing a peer up to date that lags behind by more than one append: the only place that knows how much is sent at
//! a time, how much may be on its way, and when a snapshot is sent instead of entries.
//!
//! raft-rs knows nothing of this. What it cannot append (entries that are not in memory, or more of them than one
//! message should carry) it takes for compacted and asks for a snapshot; a peer that does not keep up with what is sent
//! to it is taken from raft-rs in the same way (`outbound`). From then on raft-rs sees a peer that waits for a snapshot
//! and sends it nothing, while appends go out here in pieces: one after the other, from memory or read back from disk,
//! with no more on its way than a window. When what is left fits in a piece, raft-rs gets the peer back.
//!
//! # What the success of a piece proves
//!
//! A C follower answers an append with its last durable index, whatever lies between the end of the append and that
//! index; it may be a tail that another leader left there. The leader may believe the number only if the append
//! covered or followed an entry of this leadership, since then such a tail was cut. Every append but a piece does so: it
//! reaches to the end of the log, or is empty and refers to an entry of this leadership. A piece that ends before the
//! first entry of this leadership proves nothing about the end of the peer's log, and its success looks like any other.
//!
//! So appends and successes are counted ([`Proof`]). An append brings one success at most: as soon as there are more of
//! them than appends that prove nothing, one of them was for an append that proves, and from there on the peer's log is
//! a part of ours for the rest of this leadership. Until then a number counts for the flow of pieces only, and raft-rs
//! does not hear of it. A piece whose answer is lost costs one more heartbeat, which is an append that proves. This
//! relies on a peer answering in the order in which it was asked and on its answers not overtaking each other, which
//! is so on a stream and across a reconnect of a C node, whose new stream begins when the old one is gone.
//!
//! The commit index in a piece lies inside the piece, so that a follower never commits the tail either.

use wire_protocol::rpc::{AppendEntries, AppendEntriesResult, Message};
use wire_protocol::{Entry, LogIndex, NodeId, Term, rpc};

use raft::ProgressState;

use crate::lease::echo_number;
use crate::output::{Output, ReadEntries};
use crate::replica::Replica;

/// Bytes of one append, headers of entries included. Only an entry that is longer by itself makes a longer one. Small
/// enough that reading, checking and sending it delays nobody: a few milliseconds.
pub const PIECE_BYTES: u64 = 2 << 20;
/// Entries of one append.
pub const PIECE_ENTRIES: usize = 8 << 10;
/// Bytes of entries that may be on their way to a peer and not acknowledged; enough for 100 MiB/s over 160 ms.
pub const WINDOW_BYTES: u64 = 16 << 20;
/// A peer that lacks more than this is sent the snapshot, if there is one that is newer than what it has.
const LOG_BYTES: u64 = 256 << 20;
/// The same in entries.
const LOG_ENTRIES: u64 = 200_000;
/// C: how long an INSTALL_SNAPSHOT may take, from the read of the file to the peer's answer.
pub(crate) const INSTALL_SNAPSHOT_TIMEOUT_MS: u64 = 30_000;
/// What of the log stays in memory unless it is told otherwise; what a peer in its window lacks is not read from disk.
pub const LOG_CACHE_BYTES: u64 = 64 << 20;
/// Longest entry that can be sent to anybody: a C node closes the stream on anything longer.
pub const MAX_ENTRY_BYTES: u64 = rpc::MAX_PAYLOAD_LEN as u64;

const _: () = assert!(PIECE_BYTES <= rpc::MAX_PAYLOAD_LEN as u64, "a C node takes a piece");
const _: () = assert!(PIECE_ENTRIES <= rpc::MAX_ENTRIES, "a C node takes the header of a piece");
const _: () = assert!(2 * PIECE_BYTES <= WINDOW_BYTES, "one piece is prepared while another is on its way");
const _: () = assert!(WINDOW_BYTES <= LOG_CACHE_BYTES, "what is on its way is in memory");
const _: () = assert!(WINDOW_BYTES < LOG_BYTES, "a peer that keeps up is never sent a snapshot");

/// What raft-rs takes for the index of the snapshot that the peer waits for; no index reaches it.
const NOT_A_SNAPSHOT: u64 = u64::MAX - 1;

/// The sizes of catching up. Tests scale them down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpLimits {
    /// Bytes of one append, unless one entry has more.
    pub piece_bytes: u64,
    /// Entries of one append.
    pub piece_entries: usize,
    /// Bytes that may be on their way to a peer.
    pub window_bytes: u64,
    /// Bytes of entries above which a snapshot is sent, if there is one that helps.
    pub log_bytes: u64,
    /// The same in entries.
    pub log_entries: u64,
}

impl Default for CatchUpLimits {
    fn default() -> Self {
        Self {
            piece_bytes: PIECE_BYTES,
            piece_entries: PIECE_ENTRIES,
            window_bytes: WINDOW_BYTES,
            log_bytes: LOG_BYTES,
            log_entries: LOG_ENTRIES,
        }
    }
}

/// Whether the answers of a peer in this leadership tell what it has of our log; see the head of this file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Proof {
    /// Appends that end before this leadership began, and snapshots from before it: their success proves nothing.
    proving_nothing: u64,
    successes: u64,
    is_given: bool,
}

impl Proof {
    pub(crate) const fn sent_what_proves_nothing(&mut self) {
        self.proving_nothing += 1;
    }

    /// Notes a success and says whether the index that it reports can be believed.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.successes += 1;
        self.is_given |= self.successes > self.proving_nothing || planted::bug!(PiecesProve);
        self.is_given
    }
}

/// Pieces on their way to a peer.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// First entry that was not sent yet.
    next: u64,
    /// Up to here the peer has acknowledged, as far as it can be believed.
    acknowledged: u64,
    /// The peer has accepted a piece; until then one entry at a time is on its way, as it may not fit.
    is_accepted: bool,
    /// The next piece is being read.
    is_reading: bool,
    /// What each piece on its way followed.
    previous: std::collections::VecDeque<u64>,
    /// The last sign of progress: what the peer says that it has, and since when.
    reported: u64,
    progress_ms: u64,
}

impl Replica {
    /// Takes over a peer that needs the entries from `first` on and cannot be sent them in one append.
    pub(crate) fn catch_up(&mut self, to: NodeId, first: u64) {
        if self.snapshot_is_better(first) {
            return self.send_snapshot(to);
        }
        let now_ms = self.now_ms;
        let Some(progress) = self.raw.raft.mut_prs().get_mut(to.0) else { return };
        progress.become_snapshot(NOT_A_SNAPSHOT);
        let peer = self.peers.entry(to).or_default();
        peer.snapshot_since_ms = None;
        peer.pieces = Some(Pieces {
            next: first,
            acknowledged: first - 1,
            is_accepted: false,
            is_reading: false,
            previous: std::collections::VecDeque::new(),
            reported: 0,
            progress_ms: now_ms,
        });
    }

    /// Whether a peer that needs the entries from `first` on is better served with the newest snapshot.
    fn snapshot_is_better(&self, first: u64) -> bool {
        let store = self.raw.store();
        if first < store.first() {
            return true;
        }
        let Some(snapshot) = store.snapshot_metadata() else { return false };
        let limits = &self.config.catch_up;
        let lacks_much = store.message_bytes(first, u64::MAX) > limits.log_bytes
            || store.last() + 1 - first > limits.log_entries;
        // A C node whose log is compacted aborts on entries from the very beginning.
        first == 1
            || (snapshot.index.0 >= first && lacks_much && self.unsendable_snapshot != Some(snapshot.index))
    }

    /// Sends what the windows of all peers that catch up allow.
    pub(crate) fn send_pieces(&mut self) {
        if self.leading.is_none() || self.peers.values().all(|peer| peer.pieces.is_none()) {
            return;
        }
        // Nothing of a leadership leaves before its term is durable.
        if self.outstanding.iter().any(|outstanding| outstanding.hard_state) {
            return;
        }
        let catching_up = self.peers.iter().filter(|(_, peer)| peer.pieces.is_some());
        for to in catching_up.map(|(id, _)| *id).collect::<Vec<_>>() {
            while self.send_piece(to) {}
        }
    }

    /// Sends or reads the next piece for a peer, if its window has room for it; says whether to go on.
    fn send_piece(&mut self, to: NodeId) -> bool {
        let store = self.raw.store();
        let limits = self.config.catch_up;
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        let peer_is_empty = peer.is_empty;
        let Some(pieces) = peer.pieces.as_mut() else { return false };
        if self.raw.raft.prs().get(to.0).is_none() {
            self.peers.entry(to).or_default().pieces = None;
            return false;
        }
        let first = pieces.next;
        if first == 1 && !peer_is_empty {
            // A C node whose log is compacted aborts on entries from the very beginning.
            self.locate_again(to);
            return false;
        }
        let on_their_way = store.message_bytes(pieces.acknowledged + 1, first - 1);
        let has_room = match pieces.is_accepted {
            true => on_their_way < limits.window_bytes || planted::bug!(WindowIgnored),
            false => pieces.previous.is_empty(),
        };
        if pieces.is_reading || !has_room || first > store.last() {
            return false;
        }
        if first < store.first() {
            // Compacted meanwhile.
            pieces.next = store.first();
            self.peers.entry(to).or_default().pieces = None;
            self.catch_up(to, first);
            return false;
        }
        let max_count = if pieces.is_accepted { limits.piece_entries } else { 1 };
        if let Some(entries) = store.piece(first, max_count) {
            return self.transmit_piece(to, entries);
        }
        pieces.is_reading = true;
        let first = LogIndex(first);
        let max_bytes = limits.piece_bytes;
        self.outputs.push_back(Output::ReadEntries(ReadEntries { to, first, max_count, max_bytes }));
        false
    }

    fn transmit_piece(&mut self, to: NodeId, entries: Vec<Entry>) -> bool {
        let Some(leading) = self.leading else { return false };
        let log = &self.raw.raft.raft_log;
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        let Some(pieces) = &mut peer.pieces else { return false };
        let previous = pieces.next - 1;
        let Ok(previous_term) = log.term(previous) else { return false };
        let end = previous + entries.len() as u64;
        if end < leading.first_index {
            peer.proof.sent_what_proves_nothing();
        }
        pieces.next = end + 1;
        if pieces.previous.is_empty() {
            pieces.progress_ms = self.now_ms;
        }
        pieces.previous.push_back(previous);
        let message = Message::AppendEntries(AppendEntries {
            term: Term(leading.term),
            prev_log_index: LogIndex(previous),
            prev_log_term: Term(previous_term),
            leader_commit: LogIndex(log.committed.min(end)),
            entries,
            echo: echo_number(self.now_ms),
        });
        self.transmit(to, message);
        true
    }

    /// Old entries as asked for, or nothing.
    pub fn handle_entries_read(&mut self, read: &ReadEntries, entries: Result<Vec<Entry>, ()>) {
        if self.halted {
            return;
        }
        let Some(pieces) = self.peers.get_mut(&read.to).and_then(|peer| peer.pieces.as_mut()) else { return };
        if pieces.next != read.first.0 || !pieces.is_reading {
            return;
        }
        pieces.is_reading = false;
        match entries {
            // The log may have been compacted since.
            _ if read.first.0 < self.raw.store().first() => {}
            Ok(entries) if self.raw.store().holds(read.first.0, &entries) => {
                self.transmit_piece(read.to, entries);
            }
            _ => self.locate_again(read.to),
        }
        self.settle(Vec::new());
    }

    /// A success of a peer that catches up. `is_proven` says whether `index` is known to match.
    pub(crate) fn piece_acknowledged(&mut self, from: NodeId, index: u64, is_proven: bool) {
        let now_ms = self.now_ms;
        let Some(leading) = self.leading else { return };
        let Some(pieces) = self.peers.get_mut(&from).and_then(|peer| peer.pieces.as_mut()) else { return };
        pieces.is_accepted = true;
        let index = index.min(pieces.next - 1);
        if index > pieces.acknowledged {
            pieces.acknowledged = index;
            pieces.progress_ms = now_ms;
            while pieces.previous.front().is_some_and(|previous| *previous < index) {
                pieces.previous.pop_front();
            }
        }
        let (next, acknowledged) = (pieces.next, pieces.acknowledged);
        let store = self.raw.store();
        let left = store.message_bytes(next, u64::MAX);
        let on_their_way = store.message_bytes(acknowledged + 1, next - 1);
        let limits = &self.config.catch_up;
        let Some(progress) = self.raw.raft.mut_prs().get_mut(from.0) else { return };
        if !is_proven
            || progress.matched < leading.first_index
            || left > limits.piece_bytes
            || on_their_way > limits.window_bytes / 2
        {
            return;
        }
        progress.pending_snapshot = 0;
        progress.become_replicate();
        progress.optimistic_update((next - 1).max(progress.matched));
        self.peers.entry(from).or_default().pieces = None;
        self.raw.raft.send_append(from.0);
    }

    /// A refusal of a peer that catches up.
    pub(crate) fn piece_refused(&mut self, from: NodeId, result: &AppendEntriesResult) {
        let now_ms = self.now_ms;
        let Some(pieces) = self.peers.get_mut(&from).and_then(|peer| peer.pieces.as_mut()) else { return };
        if pieces.reported != result.last_log_index.0 {
            pieces.reported = result.last_log_index.0;
            pieces.progress_ms = now_ms;
        }
        if pieces.next == 1 && result.last_log_index.0 > 0 {
            // It said that it was empty, and was only about to install a snapshot. Entries from the very beginning would
            // make a C node abort now.
            self.peers.entry(from).or_default().pieces = None;
            let last = self.raw.raft.raft_log.last_index();
            let Some(progress) = self.raw.raft.mut_prs().get_mut(from.0) else { return };
            progress.pending_snapshot = 0;
            progress.become_probe();
            progress.next_idx = result.last_log_index.0.min(last) + 1;
            self.raw.raft.send_append(from.0);
            return;
        }
        // Heartbeats refer to the end of the log, which the peer has not reached: their refusals say no more than that
        // it is there.
        if !pieces.previous.contains(&result.rejected.0) {
            return;
        }
        self.peers.entry(from).or_default().pieces = None;
        let Some(progress) = self.raw.raft.mut_prs().get_mut(from.0) else { return };
        progress.pending_snapshot = 0;
        progress.matched = 0;
        progress.become_probe();
        let before = result.rejected.0.min(result.last_log_index.0.saturating_add(1));
        progress.next_idx = before.max(1);
        self.raw.raft.send_append(from.0);
    }

    /// Nothing is known any more of what is on its way to this peer. The next heartbeat that it answers asks where its
    /// log ends.
    pub(crate) fn locate_again(&mut self, to: NodeId) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if peer.pieces.take().is_none() {
            return;
        }
        let last = self.raw.raft.raft_log.last_index();
        let Some(progress) = self.raw.raft.mut_prs().get_mut(to.0) else { return };
        if progress.state == ProgressState::Snapshot {
            progress.pending_snapshot = 0;
            progress.become_probe();
            progress.next_idx = last + 1;
            progress.pause();
        }
    }

    /// Gives up what has been on its way for too long.
    pub(crate) fn expire_catching_up(&mut self) {
        let now_ms = self.now_ms;
        let is_before = |since_ms: u64, limit_ms: u64| now_ms.saturating_sub(since_ms) > limit_ms;
        let mut snapshots = Vec::new();
        let mut pieces = Vec::new();
        for (id, peer) in &self.peers {
            if peer.snapshot_since_ms.is_some_and(|since| is_before(since, INSTALL_SNAPSHOT_TIMEOUT_MS)) {
                snapshots.push(*id);
            }
            let patience_ms = 2 * self.config.election_timeout_ms;
            if peer.pieces.as_ref().is_some_and(|pieces| {
                !pieces.previous.is_empty() && is_before(pieces.progress_ms, patience_ms)
            }) {
                pieces.push(*id);
            }
        }
        for id in snapshots {
            self.snapshot_failed(id);
        }
        for id in pieces {
            self.locate_again(id);
        }
    }

    /// When a peer that catches up has last shown progress; nothing if it does not catch up.
    pub(crate) fn catching_up_progress_ms(&self, id: NodeId) -> Option<u64> {
        self.peers.get(&id)?.pieces.as_ref().map(|pieces| pieces.progress_ms)
    }
}
