//! Runs the target `table` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    btrfs_to_s3_fuzz::run("table", bytes);
});
