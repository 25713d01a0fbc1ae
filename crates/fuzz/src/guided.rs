//! Builds the coverage-guided program and runs it.
//!
//! libFuzzer needs only what the stable compiler offers: the instrumentation is a pass of LLVM, and its runtime comes
//! from the registry as source. The flags apply to everything that is compiled, so the build has a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::targets::Target;

/// Instruments edges with counters and comparisons with their operands.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on";

/// Longest input, bytes. Larger ones hold nothing that several small ones do not.
const MAX_LEN: usize = 8192;
/// Memory that one process may use, MiB.
const MEMORY_MIB: usize = 2048;
/// An input that takes longer than this is a finding, seconds.
const INPUT_TIMEOUT_S: usize = 20;
/// Environment variable that tells the program which target to run.
pub const TARGET_VARIABLE: &str = "FUZZ_TARGET";

/// The folder of this crate.
fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Inputs of a target that are kept.
#[must_use]
pub fn corpus(target: &Target) -> PathBuf {
    crate_folder().join("corpus").join(target.name)
}

/// Builds the program; its path.
///
/// # Errors
///
/// When the build fails.
pub fn build() -> Outcome<PathBuf> {
    let host = host()?;
    let folder = crate_folder().join("../../target/guided");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--quiet", "-p", "fuzz", "--bin", "guided", "--features", "guided"])
        // Naming the target keeps the flags away from build scripts.
        .args(["--target", &host, "--target-dir"])
        .arg(&folder)
        .current_dir(crate_folder())
        .env("RUSTFLAGS", FLAGS)
        // An instrumented program needs neither: they cost minutes.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .status()?;
    if !status.success() {
        return Err("the guided program cannot be built".into());
    }
    Ok(folder.join(host).join("release/guided"))
}

fn host() -> Outcome<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not say for which machine it compiles")?.to_owned())
}

/// Runs a target for this long, starting from the kept inputs and from `corpora`, the first of which takes new ones.
///
/// # Errors
///
/// When an input was found that makes the target fail; it is below `findings`.
pub fn run(
    program: &Path,
    target: &Target,
    seconds: u64,
    corpora: &[PathBuf],
    findings: &Path,
) -> Outcome<u64> {
    std::fs::create_dir_all(findings)?;
    let output = Command::new(program)
        .env(TARGET_VARIABLE, target.name)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-timeout={INPUT_TIMEOUT_S}"))
        .arg(format!("-artifact_prefix={}/{}-", findings.display(), target.name))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .args(corpora)
        .arg(corpus(target))
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let tail: Vec<&str> = text.lines().rev().take(60).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Err(format!("{} fails ({}):\n{}", target.name, output.status, tail.join("\n")).into());
    }
    let executions = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(executions.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
}
