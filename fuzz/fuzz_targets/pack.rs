//! Runs the target `pack` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    btrfs_to_s3_fuzz::run("pack", bytes);
});
