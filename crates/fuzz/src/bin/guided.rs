//! libFuzzer around one of the targets, which the environment names; `fuzz guided` builds and starts it.
#![no_main]

use std::sync::OnceLock;

use fuzz::guided::TARGET_VARIABLE;
use fuzz::targets::{self, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var(TARGET_VARIABLE).expect("FUZZ_TARGET names the target");
        targets::find(&name).expect("FUZZ_TARGET is a target")
    });
    (target.run)(data);
});
