//! Names of databases.
//!
//! A name is an opaque key: any bytes but NUL, compared exactly. Those that SQLite would treat in a special way before
//! it asks the VFS are refused here, with the reason.

use std::ffi::{CStr, CString};
use std::fmt;

use thiserror::Error;

/// Longest name SQLite opens: it keeps 8 bytes of the VFS's 512 for the suffixes of journal and WAL.
pub const MAX_NAME_LEN: usize = 504;

/// Why a name cannot be that of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// SQLite makes a private temporary database of an empty name.
    #[error("a database name must not be empty")]
    Empty,
    /// More than [`MAX_NAME_LEN`] bytes.
    #[error("a database name must not be longer than 504 bytes")]
    TooLong,
    /// C strings end at a NUL.
    #[error("a database name must not contain a NUL byte")]
    Nul,
    /// SQLite makes a private database in memory of this name.
    #[error("\":memory:\" is not the name of a replicated database")]
    Memory,
    /// `-wal` and `-journal` name the companion files of another database.
    #[error("a database name must not end in \"-wal\" or \"-journal\"")]
    Suffix,
    /// SQLite may be compiled to read such names as URIs, which can name another VFS.
    #[error("a database name must not begin with \"file:\"")]
    Uri,
}

/// The validated name of a database.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName(CString);

impl DatabaseName {
    /// Checks `name` and keeps a copy of it.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn new(name: &[u8]) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong);
        }
        if name == b":memory:" {
            return Err(NameError::Memory);
        }
        if name.ends_with(b"-wal") || name.ends_with(b"-journal") {
            return Err(NameError::Suffix);
        }
        if name.starts_with(b"file:") {
            return Err(NameError::Uri);
        }
        CString::new(name).map(Self).map_err(|_| NameError::Nul)
    }

    /// Takes a name as it comes from the log or from a snapshot. C dqlite accepts some names that we refuse to clients, and
    /// what is committed must be applied. No connection can be opened to such a name.
    ///
    /// # Errors
    /// Only for an empty name and one with a NUL, which no node can have produced.
    pub fn replicated(name: &[u8]) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        CString::new(name).map(Self).map_err(|_| NameError::Nul)
    }

    /// The name as bytes, without terminator.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The name as a C string.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl fmt::Debug for DatabaseName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.to_string_lossy(), formatter)
    }
}

impl TryFrom<&str> for DatabaseName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        Self::new(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_special_meaning_are_refused_with_the_reason() {
        for (name, error) in [
            (&b""[..], NameError::Empty),
            (&[b'a'; 505][..], NameError::TooLong),
            (b"a\0b", NameError::Nul),
            (b":memory:", NameError::Memory),
            (b"x-wal", NameError::Suffix),
            (b"x-journal", NameError::Suffix),
            (b"file:x?vfs=unix", NameError::Uri),
        ] {
            assert_eq!(DatabaseName::new(name), Err(error));
        }
    }

    #[test]
    fn replicated_names_are_refused_only_when_they_are_impossible() {
        for name in [&b"x-wal"[..], &[b'a'; 600], b":memory:", b"file:x"] {
            assert_eq!(DatabaseName::replicated(name).unwrap().as_bytes(), name);
        }
        assert_eq!(DatabaseName::replicated(b""), Err(NameError::Empty));
        assert_eq!(DatabaseName::replicated(b"a\0"), Err(NameError::Nul));
    }

    #[test]
    fn any_other_bytes_are_a_name() {
        for name in [&[b'a'; 504][..], b"a/b/../c", b"\xff\xfe", b"a?b=c", b"x-wal2", b"File:x", b" "] {
            assert_eq!(DatabaseName::new(name).unwrap().as_bytes(), name);
        }
    }
}
