//! Bugs on purpose, to see that the simulator finds them.
//!
//! Each bug stands at the place where somebody could really have made it, as `if planted::bug!(Name)`. Ordinary builds
//! know of none: the condition is the constant `false` there, so nothing of it is compiled. With
//! `RUSTFLAGS="--cfg planted"` a process has the one bug that [`choose`] names, or none. `sim mutants` runs them all.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether this build can have bugs planted.
pub const POSSIBLE: bool = cfg!(planted);

/// No bug.
const NONE: usize = usize::MAX;

/// The bug of this process.
static CHOSEN: AtomicUsize = AtomicUsize::new(NONE);

/// Whether this process has this bug: a variant of [`Bug`].
#[macro_export]
macro_rules! bug {
    ($bug:ident) => {
        ($crate::POSSIBLE && $crate::is_chosen($crate::Bug::$bug))
    };
}

macro_rules! bugs {
    ($($bug:ident $name:literal $what:literal)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $what] $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug),*];

            /// What it is called on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)* }
            }

            /// What is wrong with it.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$bug => $what,)* }
            }
        }
    };
}

bugs! {
    // The log on disk.
    SkipSync "skip-sync" "Entries are written and not synced."
    SegmentNameNotSynced "segment-name-not-synced" "A new segment is used before its name is durable."
    SnapshotNotSynced "snapshot-not-synced" "The content of a snapshot is not synced before it gets its name."
    TornTailAccepted "torn-tail-accepted" "A batch counts without a look at the checksum of its data."
    QuotaIsFailure "quota-is-failure" "A disk whose quota is exceeded has failed, and its node is out until a restart."
    VoteForgotten "vote-forgotten" "The term is written, the vote is not."
    TruncationForgotten "truncation-forgotten" "Entries that conflict are replaced in memory and stay on disk."
    LogKeptBehindSnapshot "log-kept-behind-snapshot" "A received snapshot is written, the log it replaces stays."
    RetentionTooEarly "retention-too-early" "The entries to keep are counted from the snapshot on instead of down from it."
    FailedWriteIsDurable "failed-write-is-durable" "A write that failed is reported as if it had succeeded."
    WrongEntriesReadBack "wrong-entries-read-back" "Entries read back for a slow peer begin one too late."
    ManifestIgnored "manifest-ignored" "What the manifest of the log says is not looked at."
    OlderSegmentTaken "older-segment-taken" "A closed segment counts if its name is right, whatever the manifest says of its content."
    OlderVoteTaken "older-vote-taken" "Term and vote are taken from an older copy."
    CutNotNoted "cut-not-noted" "The log is cut without a word in its manifest before."
    MarkerNotRestored "marker-not-restored" "Whoever removes the note of a damage gives the node its vote back."
    // Consensus.
    AcknowledgeBeforeDurable "acknowledge-before-durable" "What waits for the disk leaves when the disk is asked."
    OneAnswerCommits "one-answer-commits" "An entry counts as committed when the first peer has it."
    RejectionCounts "rejection-counts" "A peer that refuses an append counts with the length of its log."
    ConfigurationNotRolledBack "configuration-not-rolled-back" "A truncated configuration stays in force."
    SnapshotConfigurationIgnored "snapshot-configuration-ignored" "A snapshot does not bring its configuration."
    BatchedAppendNumbering "batched-append-numbering" "Entries added to a waiting empty append follow the wrong one (seed 33)."
    LostDataKeepsMatched "lost-data-keeps-matched" "A peer that lost what it acknowledged is never sent it again (seed 97)."
    SnapshotIndexTooHigh "snapshot-index-too-high" "A snapshot claims one entry more than it holds."
    SameTermCountsAsLater "same-term-counts-as-later" "A committed entry of the very term of the damage ends the wait of a node that lost some."
    VotesBeforeCaughtUp "votes-before-caught-up" "A node whose log was damaged votes at once."
    // What peers may say.
    TermsWithoutHeadroom "terms-without-headroom" "A term far above anything that a cluster reaches is taken over from whoever says it."
    StrangerLatches "stranger-latches" "A node stops when somebody who is no member contradicts what is committed."
    SnapshotNotChecked "snapshot-not-checked" "A received snapshot replaces the log whatever it holds."
    OddRequestsUnanswered "odd-requests-unanswered" "What follows no protocol is dropped, and its sender goes on waiting."
    // The read lease.
    LeaseFromAnswer "lease-from-answer" "A lease counts from when an echo was read, not from when it was sent."
    LeaseTooLong "lease-too-long" "A lease lasts two election timeouts."
    LeaseInTransfer "lease-in-transfer" "A leader that hands over goes on reading by its lease."
    LeaseSurvivesTransfer "lease-survives-transfer" "After a transfer was given up the lease is valid at once, though the TIMEOUT_NOW may come late."
    PromiseBroken "promise-broken" "A voter decides by ticks and its leader, not by the time since it took an append."
    PromiseForgotten "promise-forgotten" "A voter that has just started votes at once."
    LeaseIgnored "lease-ignored" "A leader that has applied its log reads without a lease."
    // The identity of the cluster.
    IdentityIgnored "identity-ignored" "Messages of another cluster are processed like any other."
    ForeignLogKept "foreign-log-kept" "A node that joins brings the log it started with."
    IdentityInventedAtStart "identity-invented-at-start" "A node gives itself an identity without leading anybody."
    IdentityAssignedEarly "identity-assigned-early" "A leader assigns an identity before all voters said that they have none."
    IdentityFitsAnyLog "identity-fits-any-log" "The file with the identity counts whatever the log is."
    VisitorVotes "visitor-votes" "A node that started with the log of another cluster votes and stands."
    // The VFS.
    ReadsNotGated "reads-not-gated" "What a reader saw does not count for its reply, only what it wrote."
    WatermarkOffByOne "watermark-off-by-one" "The committed watermark is reported one frame too high."
    SpeculativeSnapshot "speculative-snapshot" "A snapshot takes captured frames along, committed or not."
    BackfillBeyondWatermark "backfill-beyond-watermark" "Captured frames go into the main file before they are committed."
    BackfillUnderReaders "backfill-under-readers" "Backfill does not stop at what a reader needs."
    RestartUnderReaders "restart-under-readers" "The WAL is restarted while somebody reads it."
    TakenReaderReadsOn "taken-reader-reads-on" "A reader whose view was taken goes on reading, whatever stands there by now."
    UndoForgetsFrames "undo-forgets-frames" "A new generation begins with the main file, without the committed frames behind it."
    SizeNotRestored "size-not-restored" "A new generation keeps the size that the undone transactions gave the database."
    // The core of the server.
    GateRemoved "gate-removed" "Replies do not wait for commits."
    StaleSchemaAfterUndo "stale-schema-after-undo" "Sessions live on after an undo, with its pages and its schema."
    DeadSessionAnswers "dead-session-answers" "The answer of a job that leadership was lost under is told all the same."
    BarrierSkipped "barrier-skipped" "A new leader runs SQL before it has applied what is committed."
    ProposalsSurvive "proposals-survive" "Own entries are expected at their indexes after leadership was lost."
    FifoNotDrained "fifo-not-drained" "Speculative transactions stay when leadership is lost."
    HeldBackSurvives "held-back-survives" "What could not be proposed during a transfer is proposed by the next leadership."
    RefusedButProposed "refused-but-proposed" "The newest proposal is answered with 10250 instead of 10506."
    ReturnedWriteRefused "returned-write-refused" "A write that got into the log before its job came back is answered with 10250 (seed 120)."
    WrongDatabase "wrong-database" "A transaction goes into the log under the name of another database."
    OlderImageWins "older-image-wins" "Of two merged transactions the first decides what a page holds."
    ReaderNeverEnded "reader-never-ended" "Read transactions may keep as much as they like for as long as they like."
    EndedWriterTold "ended-writer-told" "A client that is ended for its memory is told so although its write may be committed."
    RolledBackUntold "rolled-back-untold" "A client whose idle transaction was rolled back goes on as if it were still open."
    GenerationNotNoted "generation-not-noted" "The generation that a snapshot brought is not noted."
}

impl Bug {
    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// Plants a bug in this process, for good. Without `--cfg planted` this has no effect.
pub fn choose(bug: Bug) {
    CHOSEN.store(bug as usize, Ordering::Relaxed);
}

/// Whether a bug was chosen; see [`bug!`].
#[must_use]
pub fn is_chosen(bug: Bug) -> bool {
    CHOSEN.load(Ordering::Relaxed) == bug as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for bug in Bug::ALL {
            assert_eq!(Bug::named(bug.name()), Some(*bug));
        }
        assert_eq!(Bug::named("none"), None);
    }

    #[test]
    fn an_ordinary_build_has_no_bugs() {
        assert!(!bug!(SkipSync));
        choose(Bug::SkipSync);
        assert_eq!(bug!(SkipSync), POSSIBLE);
        assert!(!bug!(GateRemoved));
    }
}
