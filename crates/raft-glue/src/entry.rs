//! The log entries of C and of raft-rs, one to one.
//!
//! | C | raft-rs, always of type `EntryNormal` |
//! | --- | --- |
//! | command, data | data |
//! | barrier, eight zero bytes | empty: raft-rs's own entry at the start of a term |
//! | configuration, encoded | data, context = one byte 3 |
//!
//! raft-rs's configuration change entries are never used, so it has no opinion on ours.

use bytes::Bytes;
use raft::eraftpb;
use wire_protocol::{Entry, EntryKind, LogIndex, Term};

const CONFIGURATION_MARK: &[u8] = &[3];
const BARRIER_DATA: &[u8] = &[0; 8];

/// Memory one entry takes besides its data, about.
const ENTRY_OVERHEAD: u64 = 64;

pub(crate) fn barrier(term: Term) -> Entry {
    Entry { term, kind: EntryKind::Barrier, data: Bytes::from_static(BARRIER_DATA) }
}

/// Memory an entry takes, about.
pub(crate) fn size_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD
}

pub(crate) fn to_raft(index: LogIndex, entry: &Entry) -> eraftpb::Entry {
    let mut converted = eraftpb::Entry { term: entry.term.0, index: index.0, ..Default::default() };
    match entry.kind {
        EntryKind::Command => converted.data = entry.data.clone(),
        EntryKind::Barrier => {}
        EntryKind::Configuration => {
            converted.data = entry.data.clone();
            converted.context = Bytes::from_static(CONFIGURATION_MARK);
        }
    }
    converted
}

pub(crate) fn from_raft(entry: &eraftpb::Entry) -> Entry {
    let term = Term(entry.term);
    if entry.context == CONFIGURATION_MARK {
        Entry { term, kind: EntryKind::Configuration, data: entry.data.clone() }
    } else if entry.data.is_empty() {
        barrier(term)
    } else {
        Entry { term, kind: EntryKind::Command, data: entry.data.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_way_through_raft() {
        let configuration = Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0]);
        for entry in [
            barrier(Term(3)),
            Entry { term: Term(1), kind: EntryKind::Command, data: Bytes::from_static(BARRIER_DATA) },
            Entry { term: Term(2), kind: EntryKind::Configuration, data: configuration },
        ] {
            let converted = to_raft(LogIndex(7), &entry);
            assert_eq!(converted.index, 7);
            assert_eq!(from_raft(&converted), entry);
        }
    }

    #[test]
    fn the_empty_entry_of_a_new_leader_is_a_barrier_of_eight_zero_bytes() {
        let entry = from_raft(&eraftpb::Entry { term: 4, index: 9, ..Default::default() });
        assert_eq!((entry.kind, &entry.data[..]), (EntryKind::Barrier, &[0; 8][..]));
    }
}
