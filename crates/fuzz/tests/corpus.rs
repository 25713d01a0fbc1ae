//! Every kept input, and a few thousand new ones, through every target that runs inside the process.

use fuzz::guided::corpus;
use fuzz::targets;

/// Inputs of chance for each target, besides the kept ones.
const NEW_INPUTS: u64 = 150;

#[test]
fn no_kept_input_fails() {
    for target in targets::ALL {
        let folder = corpus(target);
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            (target.run)(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} has no kept input", target.name);
    }
}

#[test]
fn no_input_of_chance_fails() {
    for target in targets::ALL {
        for seed in 0..NEW_INPUTS {
            let mut random = fastrand::Rng::with_seed(seed);
            let len = random.usize(..2000);
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            println!("{} {seed}", target.name);
            (target.run)(&bytes);
        }
    }
}
