//! The local index at 1 and 10 million entries: look-ups, opening, adding, merging.
//!
//! Needs about 1.5 GB below the directory for temporary files, and as much memory for it to stay in the page cache.
//! `many_chunks.rs` has more of them.

#![allow(missing_docs, reason = "criterion's macros make public items")]

#[path = "local_index/made_up.rs"]
mod made_up;

use std::time::{Duration, Instant};

use btrfs_to_s3::id::ChunkId;
use btrfs_to_s3::local_index::LocalIndex;
use btrfs_to_s3::pack::format::PackClass;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use made_up::{MILLION, SEGMENT_CHUNKS, chunk, open, segment};
use tempfile::TempDir;

/// Adds segments of `chunks` each until there are `entries`, and gives how long that took without making the segments.
fn fill(index: &mut LocalIndex, entries: u32, chunks: u32) -> Duration {
    let mut taken = Duration::ZERO;
    for number in 0..entries / chunks {
        let new = segment(number * chunks, chunks);
        let start = Instant::now();
        index.add_segment(new).expect("a segment is added");
        index.maintain().expect("runs are merged");
        taken += start.elapsed();
    }
    taken
}

fn look_up_and_open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("local_index");
    for (millions, chunks) in [(1, MILLION), (1, SEGMENT_CHUNKS), (10, 10 * MILLION), (10, SEGMENT_CHUNKS)] {
        let directory = TempDir::new().expect("a temporary directory");
        let entries = millions * MILLION;
        let mut index = open(directory.path());
        fill(&mut index, entries, chunks);
        let mut number = 0u32;
        let mut next = || {
            number = number.wrapping_add(0x9e37_79b1);
            number % entries
        };
        let name = |what: &str| BenchmarkId::new(what, format!("{millions}M/{}_runs", index.size().runs));
        let find = |chunk: ChunkId| index.lookup(&chunk, PackClass::Data).expect("the run is whole");
        group.throughput(Throughput::Elements(1));
        group.bench_function(name("present"), |bencher| {
            bencher.iter_batched(|| chunk(next()), |chunk| assert!(find(chunk).is_some()), BatchSize::SmallInput);
        });
        group.bench_function(name("absent"), |bencher| {
            let absent = || chunk(next() + entries);
            bencher.iter_batched(absent, |chunk| assert!(find(chunk).is_none()), BatchSize::SmallInput);
        });
        group.throughput(Throughput::Elements(u64::from(entries)));
        group.sample_size(10).bench_function(name("open"), |bencher| {
            bencher.iter(|| open(directory.path()).size());
        });
    }
    group.finish();
}

fn add_and_merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("local_index");
    group.sample_size(10).throughput(Throughput::Elements(u64::from(SEGMENT_CHUNKS)));
    group.bench_function("add_segment", |bencher| {
        bencher.iter_custom(|iterations| {
            let add = || {
                fill(&mut open(TempDir::new().expect("a temporary directory").path()), SEGMENT_CHUNKS, SEGMENT_CHUNKS)
            };
            (0..iterations).map(|_| add()).sum()
        });
    });
    // One more than may stay.
    let runs = 9;
    group.throughput(Throughput::Elements(u64::from(runs * SEGMENT_CHUNKS)));
    group.bench_function(BenchmarkId::new("merge", format!("{runs}_runs")), |bencher| {
        bencher.iter_custom(|iterations| (0..iterations).map(|_| merge(runs)).sum());
    });
    group.finish();
}

/// Merges so many equal runs to one, and gives how long that took.
fn merge(runs: u32) -> Duration {
    let directory = TempDir::new().expect("a temporary directory");
    let mut index = open(directory.path());
    for number in 0..runs {
        index.add_segment(segment(number * SEGMENT_CHUNKS, SEGMENT_CHUNKS)).expect("a segment is added");
    }
    let start = Instant::now();
    index.maintain().expect("runs are merged");
    let taken = start.elapsed();
    assert_eq!(index.size().runs, 1);
    taken
}

criterion_group!(benches, add_and_merge, look_up_and_open);
criterion_main!(benches);
