//! Installs the C library as a distribution would, for programs in C and Go to be tested against.
//!
//! [`Sdk::get`] builds and installs once a process; [`skip`] says aloud what a machine lacks, and is a failure where
//! `DQLITE_TESTS_REQUIRE_ALL` is set. [`node`] and [`cluster`] run nodes of either library in processes of their own.

pub mod cluster;
pub mod image;
pub mod load;
pub mod nemesis;
pub mod node;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// Version of the interface, as pkg-config reports it.
pub const VERSION: &str = "1.18.6";
/// Name of the real file behind `libdqlite.so.0`; libtool's `0:1:0` gives C's library the same.
pub const REAL_NAME: &str = "libdqlite.so.0.0.1";

/// Where SQLite comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sqlite {
    /// The process's `libsqlite3.so.0`, found with pkg-config. What users get.
    System,
    /// Compiled into the library, for machines without its header.
    Bundled,
}

/// Prints why a test does less than it should, past the capture of the test runner.
///
/// # Panics
///
/// Where everything is required.
pub fn skip(reason: &str) {
    // A line that cannot be written changes nothing.
    let _ = writeln!(io::stderr(), "SKIPPED: {reason}");
    assert!(std::env::var_os("DQLITE_TESTS_REQUIRE_ALL").is_none(), "required, but: {reason}");
}

/// A temporary directory that outlives a failing test, to be looked into.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// A new one.
    ///
    /// # Panics
    ///
    /// When the system makes none.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            println!("kept: {}", self.path().display());
        }
    }
}

/// Whether a program can be run.
#[must_use]
pub fn has_program(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output();
    found.is_ok_and(|output| output.status.success())
}

/// Root of the sources.
#[must_use]
pub fn workspace() -> PathBuf {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    parent.expect("this crate is a directory of the workspace").to_owned()
}

fn target_directory() -> PathBuf {
    let configured = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    workspace().join(configured.unwrap_or_else(|| PathBuf::from("target"))).join("capi")
}

/// Runs a command to its end; on failure the error holds everything it said.
pub fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!(
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Builds the library in release mode and lays it out below `prefix`: lib, include, lib/pkgconfig.
pub fn install(prefix: &Path, sqlite: Sqlite) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let target = target_directory().join(if sqlite == Sqlite::System { "system" } else { "bundled" });
    let mut build = Command::new(cargo);
    build.current_dir(workspace()).args(["build", "--release", "-p", "ffi", "--target-dir"]).arg(&target);
    if sqlite == Sqlite::Bundled {
        build.args(["--features", "bundled-sqlite"]);
    }
    run(&mut build)?;
    lay_out(&target.join("release"), prefix, sqlite).map_err(|error| format!("{}: {error}", prefix.display()))
}

fn lay_out(built: &Path, prefix: &Path, sqlite: Sqlite) -> io::Result<()> {
    let lib = prefix.join("lib");
    let include = prefix.join("include");
    fs::create_dir_all(lib.join("pkgconfig"))?;
    fs::create_dir_all(&include)?;
    let prefix = fs::canonicalize(prefix)?;
    copy(&built.join("libdqlite.so"), &lib.join(REAL_NAME))?;
    link(REAL_NAME, &lib.join("libdqlite.so.0"))?;
    link(REAL_NAME, &lib.join("libdqlite.so"))?;
    copy(&built.join("libdqlite.a"), &lib.join("libdqlite.a"))?;
    copy(&workspace().join("include/dqlite.h"), &include.join("dqlite.h"))?;

    let template = fs::read_to_string(workspace().join("crates/ffi/dqlite.pc.in"))?;
    let mut filled = template.replace("@prefix@", &prefix.to_string_lossy()).replace("@version@", VERSION);
    if sqlite == Sqlite::Bundled {
        // It would ask for the package that is missing.
        filled = filled.replace("Requires.private: sqlite3\n", "");
    }
    replace(&lib.join("pkgconfig/dqlite.pc"), |place| fs::write(place, &filled))
}

/// Never writes into a file that a running program has mapped.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    make(&temporary)?;
    fs::rename(&temporary, path)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    replace(to, |place| fs::copy(from, place).map(drop))
}

fn link(to: &str, name: &Path) -> io::Result<()> {
    replace(name, |place| std::os::unix::fs::symlink(to, place))
}

/// The installed library and what is needed to compile against it.
#[derive(Debug)]
pub struct Sdk {
    prefix: PathBuf,
    sqlite: Sqlite,
    extra_cflags: Vec<String>,
}

impl Sdk {
    /// Builds and installs at the first call in a process.
    ///
    /// # Panics
    ///
    /// When the library does not build; that is a failure, not something a machine lacks.
    #[must_use]
    pub fn get() -> &'static Self {
        static SDK: OnceLock<Sdk> = OnceLock::new();
        SDK.get_or_init(|| Self::make().unwrap_or_else(|error| panic!("{error}")))
    }

    fn make() -> Result<Self, String> {
        let found = Command::new("pkg-config").args(["--exists", "sqlite3"]).status();
        let (sqlite, extra_cflags) = if found.is_ok_and(|status| status.success()) {
            (Sqlite::System, Vec::new())
        } else {
            skip("libsqlite3-dev is missing: tests use a library with SQLite compiled in");
            (Sqlite::Bundled, vec![format!("-I{}", bundled_sqlite_header()?.display())])
        };
        let prefix = target_directory().join(format!("prefix-{}", format!("{sqlite:?}").to_lowercase()));
        install(&prefix, sqlite)?;
        Ok(Self { prefix, sqlite, extra_cflags })
    }

    /// The directory that holds lib and include.
    #[must_use]
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The shared library.
    #[must_use]
    pub fn shared_library(&self) -> PathBuf {
        self.prefix.join("lib").join(REAL_NAME)
    }

    /// Where the library has its SQLite from.
    #[must_use]
    pub fn sqlite(&self) -> Sqlite {
        self.sqlite
    }

    /// What pkg-config says, one argument each: `--cflags`, `--libs`, `--static`.
    pub fn pkg_config(&self, options: &[&str]) -> Result<Vec<String>, String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", self.prefix.join("lib/pkgconfig")).args(options).arg("dqlite");
        let said = String::from_utf8_lossy(&run(&mut command)?).into_owned();
        let mut flags: Vec<String> = said.split_whitespace().map(ToOwned::to_owned).collect();
        if options.contains(&"--cflags") {
            flags.extend(self.extra_cflags.iter().cloned());
        }
        Ok(flags)
    }
}

/// The directory with `sqlite3.h` in the sources of libsqlite3-sys.
fn bundled_sqlite_header() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut metadata = Command::new(cargo);
    metadata.current_dir(workspace()).args(["metadata", "--format-version", "1"]);
    let said = run(&mut metadata)?;
    let said = String::from_utf8_lossy(&said);
    // `"manifest_path":"/.../libsqlite3-sys-0.40.0/Cargo.toml"`; a JSON parser for one path would be much.
    let manifest = said
        .split("\"manifest_path\":\"")
        .filter_map(|rest| rest.split('"').next())
        .find(|path| path.contains("/libsqlite3-sys-"))
        .ok_or("cargo metadata does not name libsqlite3-sys")?;
    let header = Path::new(manifest).with_file_name("sqlite3");
    if header.join("sqlite3.h").exists() {
        Ok(header)
    } else {
        Err(format!("no sqlite3.h in {}", header.display()))
    }
}
