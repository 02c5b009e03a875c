//! The local index of 10 million chunks, or so many million as the environment's `MILLIONS` says: what each step takes of CPU time
//! and memory. A step is a process of its own, so that each has its own peak.
//!
//!     MILLIONS=100 cargo bench --bench many_chunks
//!
//! Needs 45 bytes a chunk below the directory for temporary files, and twice that for a moment.

#![allow(clippy::disallowed_methods, reason = "the environment says what to do, and a step is a process of its own")]
#![allow(clippy::print_stdout, reason = "what it has measured")]

#[path = "local_index/made_up.rs"]
mod made_up;

use std::path::Path;
use std::process::Command;

use btrfs_to_s3::pack::format::PackClass;
use made_up::{MILLION, SEGMENT_CHUNKS, chunk, open, segment};

const LOOK_UPS: u32 = MILLION;
const STEPS: [&str; 8] = ["fill", "open", "present", "absent", "compact", "open", "present", "absent"];

fn main() {
    let millions: u32 = std::env::var("MILLIONS").map_or(10, |text| text.parse().expect("MILLIONS is a number"));
    if let Ok(step) = std::env::var("STEP") {
        take(&step, Path::new(&std::env::var("DIRECTORY").expect("a step has a directory")), millions * MILLION);
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    for step in STEPS {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.env("STEP", step).env("DIRECTORY", directory.path()).env("MILLIONS", millions.to_string());
        assert!(command.status().expect("this program can be started").success(), "{step}");
    }
}

fn take(step: &str, directory: &Path, entries: u32) {
    let before = cpu_seconds();
    let mut index = open(directory);
    let numbers = (0..LOOK_UPS).map(|number| number.wrapping_mul(0x9e37_79b1) % entries);
    match step {
        "fill" => {
            for number in 0..entries / SEGMENT_CHUNKS {
                index.add_segment(segment(number * SEGMENT_CHUNKS, SEGMENT_CHUNKS)).expect("a segment is added");
                index.maintain().expect("runs are merged");
            }
        }
        "compact" => index.compact().expect("runs are merged"),
        "open" => {}
        _ => {
            let is_present = step == "present";
            let first = if is_present { 0 } else { entries };
            for number in numbers {
                let found = index.lookup(&chunk(first + number), PackClass::Data).expect("the run is whole");
                assert_eq!(found.is_some(), is_present);
            }
        }
    }
    let size = index.size();
    println!(
        "{{\"chunks\": {}, \"step\": \"{step}\", \"cpu_s\": {:.2}, \"peak_mib\": {}, \"runs\": {}, \"packs\": {}, \"disk_bytes\": {}, \
         \"memory_bytes\": {}}}",
        size.entries,
        cpu_seconds() - before,
        peak_mib(),
        size.runs,
        size.packs,
        size.disk_bytes,
        size.memory_bytes
    );
}

/// What this process has taken until now, in user and system mode.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc is mounted");
    let after_name = stat.rsplit_once(')').expect("a name is in parentheses").1;
    let ticks =
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks are a number"));
    ticks.sum::<f64>() / 100.0
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells the peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("the peak is a number") >> 10
}
