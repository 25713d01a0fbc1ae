//! Targets inside the process: each takes any bytes, panics when it finds a defect, and returns otherwise.

mod directory;
mod messages;
mod node;
mod payload;

/// A target: its name, what it checks, and the function that takes the bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name on the command line, and of its folder below `corpus`.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Panics if the bytes show a defect.
    pub run: fn(&[u8]),
}

/// All targets.
pub const ALL: &[Target] = &[
    Target {
        name: "requests",
        about: "what clients send, split anywhere; decode and encode agree",
        run: messages::requests,
    },
    Target { name: "responses", about: "what nodes answer", run: messages::responses },
    Target {
        name: "rpcs",
        about: "what peers send, with the commands and configurations in it",
        run: messages::rpcs,
    },
    Target {
        name: "directory",
        about: "a data directory with changed files, opened every way there is",
        run: directory::run,
    },
    Target {
        name: "payload",
        about: "the content of a snapshot, restored into databases",
        run: payload::run,
    },
    Target {
        name: "sole-voter",
        about: "messages of clients and strangers to a node that leads",
        run: node::sole_voter,
    },
    Target {
        name: "follower",
        about: "messages of members and strangers to one of three voters",
        run: node::follower,
    },
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}
