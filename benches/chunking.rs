//! How fast data is cut and hashed, beside what else every byte goes through.

mod support {
    pub(crate) mod content;
}

use std::hint::black_box;

use btrfs_to_s3::chunker::{ChunkerParameters, Cutter, DataChunker};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastcdc::v2020;

use crate::support::content::{random_bytes, text_bytes};

const DATA_BYTES: usize = 32 << 20;
const AVERAGES: [u32; 3] = [64 << 10, 256 << 10, 1 << 20];

/// Random, text-like and zero stretches of 100 KB in turn.
fn mixed_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = random_bytes(seed, length);
    let text = text_bytes(seed, length);
    for (turn, stretch) in bytes.chunks_mut(100_000).enumerate() {
        match turn % 3 {
            0 => {}
            1 => stretch.copy_from_slice(&text[turn * 100_000..][..stretch.len()]),
            _ => stretch.fill(0),
        }
    }
    bytes
}

fn kinds() -> [(&'static str, Vec<u8>); 4] {
    [
        ("random", random_bytes(1, DATA_BYTES)),
        ("text", text_bytes(2, DATA_BYTES)),
        ("zero", vec![0; DATA_BYTES]),
        ("mixed", mixed_bytes(3, DATA_BYTES)),
    ]
}

/// Cut points only, on one thread.
fn cutting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cut");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64)).sample_size(10);
    for (kind, data) in kinds() {
        for average in AVERAGES {
            let cutter = Cutter::new(&ChunkerParameters::with_average(average)).expect("they are usual parameters");
            group.bench_with_input(BenchmarkId::new(kind, average), &data, |bencher, data| {
                bencher.iter(|| {
                    let mut rest = &data[..];
                    while !rest.is_empty() {
                        rest = &rest[cutter.cut(black_box(rest))..];
                    }
                });
            });
        }
    }
    group.finish();
}

/// The same cuts by the crate that the gear table is from.
fn cutting_by_crate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cut_by_crate");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64)).sample_size(10);
    for (kind, data) in kinds() {
        for average in AVERAGES.map(|average| average as usize) {
            let (strict, loose) = v2020::select_masks(average, v2020::Normalization::Level1);
            group.bench_with_input(BenchmarkId::new(kind, average), &data, |bencher, data| {
                bencher.iter(|| {
                    let mut rest = &data[..];
                    while !rest.is_empty() {
                        let (least, most) = (average / 4, average * 4);
                        let source = black_box(rest);
                        let cut = v2020::cut(source, least, average, most, strict, loose, strict << 1, loose << 1);
                        rest = &rest[cut.1..];
                    }
                });
            });
        }
    }
    group.finish();
}

/// Everything from batches of 4 MiB to chunks with their ids, on all threads: one large file, and files of 1 to 40 KB.
fn chunking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunk_and_hash");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64)).sample_size(10);
    let batch_bytes = 4 << 20;
    let starts: Vec<u32> = (0..200_u32).map(|file| file * 20_000 + file * file % 19_000).collect();
    for (kind, file_starts) in [("one file", &[][..]), ("many files", &starts[..])] {
        for average in AVERAGES {
            let parameters = ChunkerParameters::with_average(average);
            let headroom = DataChunker::new(&parameters).expect("they are usual parameters").headroom_bytes();
            let batches = || -> Vec<Vec<u8>> {
                let data = random_bytes(4, DATA_BYTES);
                data.chunks(batch_bytes).map(|batch| [&vec![0; headroom], batch].concat()).collect()
            };
            let feed = |batches: Vec<Vec<u8>>| {
                let mut chunker = DataChunker::new(&parameters).expect("they are usual parameters");
                for batch in batches {
                    black_box(chunker.push(batch, headroom, file_starts));
                }
                black_box(chunker.finish());
            };
            group.bench_function(BenchmarkId::new(kind, average), |bencher| {
                bencher.iter_batched(batches, feed, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

/// What a byte of file data goes through besides.
fn beside(criterion: &mut Criterion) {
    let data = random_bytes(5, DATA_BYTES);
    let mut target = vec![0; DATA_BYTES];
    let mut group = criterion.benchmark_group("beside");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64)).sample_size(10);
    for size in [64 << 10, 1 << 20] {
        group.bench_function(BenchmarkId::new("blake3", size), |bencher| {
            bencher.iter(|| data.chunks(size).for_each(|part| _ = black_box(blake3::hash(part))));
        });
    }
    let part = 128 << 10;
    group.bench_function("crc32c", |bencher| {
        bencher.iter(|| data.chunks(part).for_each(|part| _ = black_box(crc32c::crc32c(part))));
    });
    group.bench_function("xxh3_128", |bencher| {
        bencher.iter(|| data.chunks(part).for_each(|part| _ = black_box(twox_hash::XxHash3_128::oneshot(part))));
    });
    group.bench_function("memcpy", |bencher| bencher.iter(|| black_box(&mut target).copy_from_slice(black_box(&data))));
    group.finish();
}

criterion_group!(benches, cutting, cutting_by_crate, chunking, beside);
criterion_main!(benches);
