//! `cargo run -p ffi-tests -- install DIR`: builds the library and lays it out below DIR as a distribution would.

use std::path::Path;
use std::process::ExitCode;

use ffi_tests::{Sqlite, install};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (prefix, sqlite) = match arguments.as_slice() {
        [command, prefix] if command == "install" => (prefix, Sqlite::System),
        [command, option, prefix] if command == "install" && option == "--bundled-sqlite" => {
            (prefix, Sqlite::Bundled)
        }
        _ => {
            eprintln!("usage: ffi-tests install [--bundled-sqlite] DIR");
            return ExitCode::from(2);
        }
    };
    match install(Path::new(prefix), sqlite) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
