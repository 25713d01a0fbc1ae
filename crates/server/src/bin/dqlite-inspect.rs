//! Looks at a data directory without changing it: `dqlite-inspect --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::inspect::main(std::env::args_os().skip(1))
}
