//! The installed library from outside: what it exports, and C programs that use it as C programs do.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ffi_tests::{Sdk, Sqlite, has_program, run, skip, workspace};

/// Finds the tools a test needs, or says which one is missing.
fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| !has_program(program)).collect();
    if !missing.is_empty() {
        skip(&format!("no {missing:?} on this machine"));
    }
    missing.is_empty()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Shared,
    Static,
}

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-g"];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("c").join(name)
}

/// Compiles a program of the `c` directory into `directory`.
fn compile(compiler: &str, name: &str, options: &[&str], link: Link, directory: &Path) -> PathBuf {
    let sdk = Sdk::get();
    let program = directory.join(name.replace('.', "_"));
    let mut command = Command::new(compiler);
    command.args(WARNINGS).args(options).args(sdk.pkg_config(&["--cflags"]).unwrap());
    if compiler.ends_with("++") {
        command.args(["-x", "c++"]);
    }
    command.arg(source(name)).args(["-x", "none", "-pthread", "-o"]).arg(&program);
    match link {
        Link::Shared => {
            command.args(sdk.pkg_config(&["--libs"]).unwrap());
            command.arg(format!("-Wl,-rpath,{}", sdk.prefix().join("lib").display()));
        }
        Link::Static => {
            // pkg-config knows what the archive needs; the linker would still prefer the shared library.
            let libraries = sdk.pkg_config(&["--static", "--libs"]).unwrap();
            let exact =
                |flag: &String| if flag == "-ldqlite" { "-l:libdqlite.a".to_owned() } else { flag.clone() };
            command.args(libraries.iter().map(exact));
        }
    }
    run(&mut command).unwrap_or_else(|error| panic!("{error}"));
    program
}

/// Runs a program on a new directory, plainly and under valgrind.
fn execute(program: &Path) {
    let directory = tempfile::tempdir().unwrap();
    run(Command::new(program).arg(directory.path())).unwrap_or_else(|error| panic!("{error}"));
    if !has_program("valgrind") {
        skip("no valgrind on this machine: C programs ran without it");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--fair-sched=yes"]);
    valgrind.args(["--errors-for-leak-kinds=definite,indirect", "--show-leak-kinds=definite,indirect"]);
    run(valgrind.arg(program).arg(directory.path())).unwrap_or_else(|error| panic!("{error}"));
}

fn compile_and_execute(name: &str) {
    if !have(&["gcc", "pkg-config"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    execute(&compile("gcc", name, &[], Link::Shared, directory.path()));
}

#[test]
fn exports_are_exactly_the_interface() {
    if !have(&["nm", "pkg-config"]) {
        return;
    }
    let said =
        run(Command::new("nm").args(["-D", "--defined-only"]).arg(Sdk::get().shared_library())).unwrap();
    let said = String::from_utf8(said).unwrap();
    let mut found: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    found.sort_unstable();
    let expected = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("exports.txt")).unwrap();
    assert_eq!(found, expected.lines().collect::<Vec<_>>());
}

#[test]
fn header_declares_every_export() {
    let header = fs::read_to_string(workspace().join("include/dqlite.h")).unwrap();
    let expected = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("exports.txt")).unwrap();
    for name in expected.lines() {
        assert!(header.contains(&format!("{name}(")) || header.contains(&format!("{name};")), "{name}");
    }
}

#[test]
fn soname_and_dependencies() {
    if !have(&["readelf", "pkg-config"]) {
        return;
    }
    let said = run(Command::new("readelf").args(["-d", "-W"]).arg(Sdk::get().shared_library())).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("soname: [libdqlite.so.0]"), "{said}");
    let sqlite = said.contains("Shared library: [libsqlite3.so.0]");
    assert_eq!(sqlite, Sdk::get().sqlite() == Sqlite::System, "{said}");
    for other in ["libuv", "liblz4", "libraft"] {
        assert!(!said.contains(other), "{said}");
    }
}

#[test]
fn version_text_is_a_data_object() {
    if !have(&["readelf", "pkg-config"]) {
        return;
    }
    let said =
        run(Command::new("readelf").args(["--dyn-syms", "-W"]).arg(Sdk::get().shared_library())).unwrap();
    let said = String::from_utf8(said).unwrap();
    let line = said.lines().find(|line| line.ends_with(" dqlite_version_string")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields[2..6], ["8", "OBJECT", "GLOBAL", "DEFAULT"]);
}

#[test]
fn pkg_config_describes_the_package() {
    if !have(&["pkg-config"]) {
        return;
    }
    let sdk = Sdk::get();
    assert_eq!(sdk.pkg_config(&["--modversion"]).unwrap(), ["1.18.6"]);
    assert_eq!(sdk.pkg_config(&["--variable=libdir"]).unwrap(), [sdk.prefix().join("lib").to_str().unwrap()]);
    assert!(sdk.pkg_config(&["--libs"]).unwrap().contains(&"-ldqlite".to_owned()));
}

#[test]
fn header_and_abi_in_every_dialect_and_kind_of_program() {
    if !have(&["gcc", "g++", "pkg-config"]) {
        return;
    }
    for (compiler, options, link) in [
        ("gcc", &["-std=c99", "-pedantic"][..], Link::Shared),
        ("gcc", &["-std=c11", "-pedantic"], Link::Shared),
        ("gcc", &["-std=c17", "-fPIE", "-pie"], Link::Shared),
        ("gcc", &["-std=c11", "-fno-pie", "-no-pie"], Link::Shared),
        ("gcc", &["-std=c11", "-fPIE", "-pie", "-Wl,-z,now"], Link::Shared),
        ("gcc", &["-std=c11"], Link::Static),
        ("gcc", &["-std=c11", "-fno-pie", "-no-pie"], Link::Static),
        ("g++", &["-std=c++11"], Link::Shared),
        ("g++", &["-std=c++17"], Link::Static),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let program = compile(compiler, "abi.c", options, link, directory.path());
        run(&mut Command::new(&program)).unwrap_or_else(|error| panic!("{options:?} {link:?}: {error}"));
    }
}

#[test]
fn abi_under_valgrind() {
    compile_and_execute("abi.c");
}

#[test]
fn addresses() {
    compile_and_execute("addresses.c");
}

#[test]
fn create() {
    compile_and_execute("create.c");
}

#[test]
fn settings() {
    compile_and_execute("settings.c");
}

#[test]
fn lifecycle() {
    compile_and_execute("lifecycle.c");
}

#[test]
fn recover() {
    compile_and_execute("recover.c");
}

#[test]
fn connect() {
    compile_and_execute("connect.c");
}

#[test]
fn roles() {
    compile_and_execute("roles.c");
}

#[test]
fn server() {
    compile_and_execute("server.c");
}

#[test]
fn process() {
    compile_and_execute("process.c");
}

#[test]
fn every_failing_function_leaves_a_text() {
    compile_and_execute("errors.c");
}

/// Without valgrind, which has limits of its own.
#[test]
fn limits_children_and_blocking_functions_of_the_host() {
    if !have(&["gcc", "pkg-config"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = compile("gcc", "host.c", &[], Link::Shared, directory.path());
    let data = tempfile::tempdir().unwrap();
    run(Command::new(&program).arg(data.path())).unwrap_or_else(|error| panic!("{error}"));
}

/// The archive runs nodes too, not only version functions.
#[test]
fn lifecycle_with_the_static_library() {
    if !have(&["gcc", "pkg-config"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = compile("gcc", "lifecycle.c", &[], Link::Static, directory.path());
    let data = tempfile::tempdir().unwrap();
    run(Command::new(&program).arg(data.path())).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn nothing_is_printed_unless_tracing_is_asked_for() {
    if !have(&["gcc", "pkg-config"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = compile("gcc", "recover.c", &[], Link::Shared, directory.path());
    let printed = |level: Option<&str>| {
        let data = tempfile::tempdir().unwrap();
        let mut command = Command::new(&program);
        command.arg(data.path()).env_remove("LIBDQLITE_TRACE");
        command.envs(level.map(|level| ("LIBDQLITE_TRACE", level)));
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(printed(None), "");
    assert_eq!(printed(Some("5")), "");
    let everything = printed(Some(""));
    assert!(everything.lines().count() > 0);
    for line in everything.lines() {
        assert!(line.starts_with("LIBDQLITE["), "{line}");
    }
}
