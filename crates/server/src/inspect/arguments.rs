//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
usage: dqlite-inspect DIR [--check] [--dump DB FILE] [--json]

Looks at the data directory DIR of a dqlite node, ours or C's, without writing into it or locking it. The node may run
meanwhile. Shows term and vote, segments of the log and whether their checksums are right, snapshots, the configuration,
the last entry, and the databases with their sizes.

  --check         also has SQLite verify every database, and explains each problem: what is wrong, what a start of
                  the node would do about it, and what can be done
  --dump DB FILE  writes the database DB into the new file FILE, which any SQLite opens; prints nothing else, unless
                  --check or --json is given, too
  --json          prints the report as JSON

Databases are shown and written as of the last entry of the log. Which entries are committed does not stand on disk:
the last ones may be such that no client was ever told of, and that the cluster will take back. Of a damaged log
everything before the damage is used.

Exit codes: 0 all is well, 1 something is wrong with DIR (without --check: entries or databases are missing), 2 wrong
usage, or a file cannot be read or written.
";

/// The arguments cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The data directory.
    pub directory: PathBuf,
    /// Verify the databases, and explain what is wrong.
    pub check: bool,
    /// A database to be written to a file.
    pub dump: Option<Dump>,
    /// Print JSON.
    pub json: bool,
}

/// `--dump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Name of the database.
    pub database: OsString,
    /// The file to be made.
    pub file: PathBuf,
}

impl Arguments {
    /// Reads the arguments behind the program's name; `None` asks for help.
    ///
    /// # Errors
    ///
    /// Says which argument is wrong or missing.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Self>, UsageError> {
        let wrong = |text: String| Err(UsageError(text));
        let mut arguments = arguments;
        let mut directory = None;
        let (mut check, mut json, mut dump) = (false, false, None);
        let mut options_over = false;
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--") if !options_over => options_over = true,
                Some("--help" | "-h") if !options_over => return Ok(None),
                Some("--check") if !options_over => check = true,
                Some("--json") if !options_over => json = true,
                Some("--dump") if !options_over => {
                    let (Some(database), Some(file)) = (arguments.next(), arguments.next()) else {
                        return wrong("--dump needs the name of a database and a file".to_owned());
                    };
                    if dump.replace(Dump { database, file: file.into() }).is_some() {
                        return wrong("--dump is given twice".to_owned());
                    }
                }
                Some(option) if !options_over && option.starts_with('-') => {
                    return wrong(format!("there is no option {option}"));
                }
                _ if directory.is_some() => {
                    return wrong(format!("one directory at a time, not {} too", argument.display()));
                }
                _ => directory = Some(PathBuf::from(argument)),
            }
        }
        let Some(directory) = directory else { return wrong("no directory is given".to_owned()) };
        Ok(Some(Self { directory, check, dump, json }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Option<Arguments>, UsageError> {
        Arguments::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn options_may_stand_anywhere() {
        let dump = Some(Dump { database: "app.db".into(), file: "out".into() });
        let all = Arguments { directory: "dir".into(), check: true, dump, json: true };
        assert_eq!(parse(&["--dump", "app.db", "out", "--json", "dir", "--check"]), Ok(Some(all)));
        let plain = |directory: &str| Arguments {
            directory: directory.into(),
            check: false,
            dump: None,
            json: false,
        };
        assert_eq!(parse(&["dir"]), Ok(Some(plain("dir"))));
        assert_eq!(parse(&["--", "--check"]), Ok(Some(plain("--check"))));
        assert_eq!(parse(&["dir", "--help"]), Ok(None));
    }

    #[test]
    fn nonsense_is_named() {
        let text = |arguments: &[&str]| parse(arguments).unwrap_err().to_string();
        assert_eq!(text(&[]), "no directory is given");
        assert_eq!(text(&["a", "b"]), "one directory at a time, not b too");
        assert_eq!(text(&["a", "--fix"]), "there is no option --fix");
        assert_eq!(text(&["a", "--dump", "x"]), "--dump needs the name of a database and a file");
        let twice = ["a", "--dump", "x", "y", "--dump", "x", "z"];
        assert_eq!(text(&twice), "--dump is given twice");
    }
}
