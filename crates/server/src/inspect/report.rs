//! What is found, and its form as JSON.

use raft_glue::LogIndex;
use raft_glue::disk::{
    Inspection, MetadataFile, OtherFile, OtherKind, Problem, Segment, SegmentEnd, Severity, Snapshot,
    Standing,
};
use wire_protocol::{Role, Server};

use super::databases::Databases;
use super::json::Json;

/// Everything about a directory and its databases.
#[derive(Clone, Debug)]
pub struct Report {
    /// The files.
    pub inspection: Inspection,
    /// Databases in order of first use.
    pub databases: Vec<DatabaseReport>,
    /// Last entry that is in them.
    pub as_of: LogIndex,
    /// Why later entries, or the snapshot, are not.
    pub failure: Option<String>,
}

/// One database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseReport {
    /// Its name, any bytes but NUL.
    pub name: Vec<u8>,
    /// Its size in pages of 4096 bytes.
    pub pages: u32,
    /// What SQLite found wrong with it, or why it could not look; `None` if nobody asked.
    pub integrity: Option<Result<Vec<String>, String>>,
}

impl Report {
    pub(super) fn new(inspection: Inspection, databases: &Databases) -> Self {
        let found = databases.list().into_iter();
        Self {
            inspection,
            databases: found.map(|(name, pages)| DatabaseReport { name, pages, integrity: None }).collect(),
            as_of: databases.as_of(),
            failure: databases.failure().map(ToOwned::to_owned),
        }
    }

    /// Whether entries or databases are missing.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.failure.is_some()
            || self.inspection.problems.iter().any(|problem| {
                // Lost metadata costs no entries.
                problem.severity == Severity::Loss && problem.index.is_some()
            })
    }

    /// Whether anything is wrong.
    #[must_use]
    pub fn has_problems(&self) -> bool {
        let is_bad =
            |database: &DatabaseReport| matches!(&database.integrity, Some(Ok(found)) if !found.is_empty());
        self.failure.is_some() || !self.inspection.problems.is_empty() || self.databases.iter().any(is_bad)
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let found = &self.inspection;
        let state = found.loaded.hard_state;
        let configuration = found.configuration.as_ref().map(|(index, configuration)| {
            Json::object([
                ("index", Json::from(index.0)),
                ("servers", configuration.servers.iter().map(server).collect()),
            ])
        });
        Json::object([
            ("term", Json::from(state.term.0)),
            ("vote", state.vote.map(|id| id.0).into()),
            ("metadata", found.metadata.iter().map(metadata).collect()),
            ("first_index", found.loaded.entries.first().map(|_| found.loaded.first_index.0).into()),
            ("last_index", found.last_index.0.into()),
            ("last_term", found.last_term.0.into()),
            ("no_vote_until", found.loaded.no_vote_until.map(|index| index.0).into()),
            ("segments", found.segments.iter().map(segment).collect()),
            ("snapshots", found.snapshots.iter().map(snapshot).collect()),
            ("configuration", configuration.unwrap_or(Json::Null)),
            ("databases_as_of", self.as_of.0.into()),
            ("databases", self.databases.iter().map(database).collect()),
            ("databases_failure", self.failure.clone().into()),
            ("other_files", found.others.iter().map(other).collect()),
            ("problems", found.problems.iter().map(problem).collect()),
        ])
    }
}

fn metadata(file: &MetadataFile) -> Json {
    let name = ("file", Json::from(file.name.clone()));
    match &file.content {
        Ok(record) => Json::object([
            name,
            ("version", record.version.into()),
            ("term", record.hard_state.term.0.into()),
            ("vote", record.hard_state.vote.map(|id| id.0).into()),
        ]),
        Err(reason) => Json::object([name, ("error", reason.clone().into())]),
    }
}

fn segment(segment: &Segment) -> Json {
    let (end, offset, error) = match &segment.end {
        SegmentEnd::Sound => ("sound", None, None),
        SegmentEnd::Unused => ("unused", None, None),
        SegmentEnd::Unfinished { offset } => ("unfinished", Some(*offset), None),
        SegmentEnd::Damaged { offset, message } => ("damaged", Some(*offset), Some(message.clone())),
    };
    Json::object([
        ("file", Json::from(segment.name.clone())),
        ("size", segment.size.into()),
        ("used", segment.used.into()),
        ("first", segment.first.map(|index| index.0).into()),
        ("last", segment.last().map(|index| index.0).into()),
        ("promised_last", segment.promised.map(|index| index.0).into()),
        ("entries", segment.entries.into()),
        ("commands", segment.commands.into()),
        ("configurations", segment.configurations.into()),
        ("batches", segment.batches.into()),
        ("first_term", segment.terms.map(|(first, _)| first.0).into()),
        ("last_term", segment.terms.map(|(_, last)| last.0).into()),
        ("end", end.to_owned().into()),
        ("offset", offset.into()),
        ("error", error.into()),
        ("at_start", standing(segment.standing).to_owned().into()),
    ])
}

/// What a start does with a file, in one word.
pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Used => "used",
        Standing::Superfluous => "removed",
        Standing::Damaged => "damaged",
    }
}

fn snapshot(snapshot: &Snapshot) -> Json {
    let content = snapshot.content.as_ref();
    let databases = content.map_or(Json::Null, |content| {
        let databases = content.databases.iter();
        databases
            .map(|found| {
                Json::object([
                    ("name", text(&found.name)),
                    ("main_bytes", found.main_size.into()),
                    ("wal_bytes", found.wal_size.into()),
                ])
            })
            .collect()
    });
    Json::object([
        ("file", Json::from(snapshot.name.clone())),
        ("index", snapshot.index.0.into()),
        ("term", snapshot.term.0.into()),
        ("timestamp_ms", snapshot.timestamp_ms.into()),
        ("size", snapshot.size.into()),
        ("compressed", snapshot.compressed.into()),
        ("loaded_at_start", snapshot.is_chosen.into()),
        ("databases", databases),
        ("configuration_index", content.ok().map(|content| content.metadata.configuration_index.0).into()),
        ("error", content.err().cloned().into()),
    ])
}

fn server(server: &Server) -> Json {
    Json::object([
        ("id", Json::from(server.id.0)),
        ("address", server.address.clone().into()),
        ("role", role(server.role).to_owned().into()),
    ])
}

/// The role as clients call it.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::StandBy => "stand-by",
        Role::Spare => "spare",
    }
}

fn database(database: &DatabaseReport) -> Json {
    let mut fields = vec![("name", text(&database.name)), ("pages", u64::from(database.pages).into())];
    match &database.integrity {
        None => {}
        Some(Ok(found)) => fields.push(("integrity", found.iter().cloned().map(Json::from).collect())),
        Some(Err(reason)) => fields.push(("integrity_error", reason.clone().into())),
    }
    Json::object(fields)
}

fn text(bytes: &[u8]) -> Json {
    String::from_utf8_lossy(bytes).into_owned().into()
}

fn other(file: &OtherFile) -> Json {
    Json::object([
        ("file", Json::from(file.name.clone())),
        ("size", file.size.into()),
        ("kind", kind(file.kind).to_owned().into()),
    ])
}

/// What a file is, in a few words.
pub(super) fn kind(kind: OtherKind) -> &'static str {
    match kind {
        OtherKind::Lock => "lock",
        OtherKind::Temporary => "temporary",
        OtherKind::Aside => "moved aside",
        OtherKind::Backup => "backup of a recovery",
        OtherKind::Marker => "marker",
        OtherKind::Identity => "identity of the cluster",
        OtherKind::Moving => "note that the log is moved aside",
        OtherKind::Manifest => "what the directory held, to notice files that are missing or older",
        OtherKind::Foreign => "foreign",
    }
}

fn problem(problem: &Problem) -> Json {
    Json::object([
        ("severity", Json::from(severity(problem.severity).to_owned())),
        ("file", problem.file.clone().into()),
        ("offset", problem.offset.into()),
        ("index", problem.index.map(|index| index.0).into()),
        ("message", problem.message.clone().into()),
        ("outcome", problem.outcome.clone().into()),
        ("remedy", problem.remedy.clone().into()),
    ])
}

/// How bad it is, in one word.
pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Loss => "loss",
        Severity::Harmless => "harmless",
    }
}
