//! Hostile input: what the fuzz targets do, over their seeds and thousands of mutations of them, the same ones each time.
//!
//! `fuzz/` runs the same targets with libFuzzer, which looks for new inputs: see docs/testing.md, "Hostile input".

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::path::Path;

use self::mutation::Mutator;
use self::seeds::seeds_of;
use self::targets::{TARGETS, Target};

#[path = "hostile/mutation.rs"]
mod mutation;
#[path = "hostile/seeds.rs"]
mod seeds;
#[path = "hostile/targets.rs"]
mod targets;

/// Mutations of each target's seeds.
const MUTATIONS: usize = 5000;

#[expect(clippy::disallowed_methods, reason = "whoever looks into a failure may want more")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs a target over mutations of its seeds; says how many of them made sense to it.
fn run_mutations(target: &Target) -> usize {
    let mutations = environment("BTRFS_TO_S3_MUTATIONS").map_or(MUTATIONS, |count| count.parse().unwrap());
    let seeds = seeds_of(target.name);
    let mut mutator = Mutator::new(1);
    let mut accepted = 0;
    for number in 0..mutations {
        let bytes = mutator.mutate(&seeds);
        let makes_sense = std::panic::catch_unwind(|| (target.run)(&bytes)).unwrap_or_else(|_| {
            panic!("{}: mutation {number} fails: {}", target.name, bytes.escape_ascii());
        });
        accepted += usize::from(makes_sense);
    }
    accepted
}

#[test]
fn every_target_accepts_its_seeds() {
    for target in TARGETS {
        for (number, seed) in seeds_of(target.name).iter().enumerate() {
            assert!((target.run)(seed), "{}: seed {number}", target.name);
        }
    }
}

#[test]
fn mutated_seeds_are_refused_or_come_back_as_they_were() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, ["config_file", "frame", "pack", "recipe", "record", "segment", "send_stream", "table"]);
    for target in TARGETS {
        let accepted = run_mutations(target);
        // Were all of them refused, the checks before the code that is meant would have stopped them.
        assert!(accepted > MUTATIONS / 100, "{}: only {accepted} mutations made sense", target.name);
    }
}

/// Every target has its program for libFuzzer, and no program lacks its target.
#[test]
fn libfuzzer_runs_every_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut programs: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(root.join("fuzz/fuzz_targets")).unwrap() {
        programs.push(entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    }
    programs.sort();
    assert_eq!(programs, TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
    let manifest = std::fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    for name in programs {
        let program = std::fs::read_to_string(root.join(format!("fuzz/fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("btrfs_to_s3_fuzz::run(\"{name}\", bytes)")), "{program}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

/// What `fuzz.sh` begins with; written only where it asks for them.
#[test]
fn no_two_seeds_of_a_target_are_equal() {
    let folder = environment("BTRFS_TO_S3_FUZZ_SEEDS");
    for target in TARGETS {
        let mut seeds = seeds_of(target.name);
        if let Some(folder) = &folder {
            let folder = Path::new(folder).join(target.name);
            std::fs::create_dir_all(&folder).unwrap();
            for (number, seed) in seeds.iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{number:02}")), seed).unwrap();
            }
        }
        let count = seeds.len();
        seeds.sort();
        seeds.dedup();
        assert_eq!(seeds.len(), count, "{}", target.name);
    }
}
