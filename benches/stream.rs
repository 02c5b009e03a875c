//! How fast a send stream is parted into command stream and file data, and put together again: on one thread.

#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support {
    pub(crate) mod content;
    pub(crate) mod streams;
}

use std::hint::black_box;

use btrfs_to_s3::chunker::{ChunkerParameters, DataChunker};
use btrfs_to_s3::send_stream::{Batch, Rebuilder, SplitOptions, Splitter, Wanted};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use crate::support::streams::full_stream;

const DATA_BYTES: usize = 32 << 20;
/// Pieces of both parts come from the repository as chunks, of about this length.
const PIECE_BYTES: usize = 40 << 10;
/// A restore writes what is rebuilt when it has got this long.
const WRITE_BYTES: usize = 256 << 10;

fn streams() -> [(&'static str, Vec<u8>); 3] {
    let large = 16 << 20;
    [
        ("small_files_v2", full_stream(2, DATA_BYTES, &[4 << 10])),
        ("large_files_v1", full_stream(1, DATA_BYTES, &[large])),
        ("large_files_v2", full_stream(2, DATA_BYTES, &[large])),
    ]
}

/// Parts a stream as a backup does, and hands every batch on.
fn split(stream: &[u8], mut take: impl FnMut(Batch)) {
    let chunker = DataChunker::new(&ChunkerParameters::default()).expect("they are usual parameters");
    let options = SplitOptions { batch_bytes: 4 << 20, headroom_bytes: chunker.headroom_bytes(), opaque: false };
    let mut splitter = Splitter::new(stream, options).expect("the stream has a header");
    while let Some(batch) = splitter.next_batch().expect("the stream is right") {
        take(batch);
    }
    splitter.finish().expect("the stream is whole");
}

/// Both parts of a stream.
fn parts(stream: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut commands, mut data) = (Vec::new(), Vec::new());
    split(stream, |batch| {
        commands.extend_from_slice(&batch.commands);
        data.extend_from_slice(batch.file_data());
    });
    (commands, data)
}

/// Puts a stream together from chunks of its parts, as a restore does, and hands every piece of it on.
fn rebuild(commands: &[u8], data: &[u8], mut write: impl FnMut(&[u8])) {
    let mut rebuilder = Rebuilder::new();
    let (mut command_pieces, mut data_pieces) = (commands.chunks(PIECE_BYTES), data.chunks(PIECE_BYTES));
    let (mut commands_left, mut data_left): (&[u8], &[u8]) = (&[], &[]);
    loop {
        let wanted = rebuilder.feed(&mut commands_left, &mut data_left).expect("the command stream is right");
        if rebuilder.rebuilt().len() >= WRITE_BYTES {
            write(rebuilder.rebuilt());
            rebuilder.clear_rebuilt();
        }
        let (next, left) = match wanted {
            Wanted::Commands => (command_pieces.next(), &mut commands_left),
            Wanted::Data(_) => (data_pieces.next(), &mut data_left),
        };
        let Some(piece) = next else { break };
        *left = piece;
    }
    rebuilder.finish().expect("the stream is whole");
    write(rebuilder.rebuilt());
}

fn splitting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    group.sample_size(10);
    for (kind, stream) in streams() {
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(kind, |bencher| {
            bencher.iter(|| split(black_box(&stream), |batch| drop(black_box(batch))));
        });
    }
    group.finish();
}

fn rebuilding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rebuild");
    group.sample_size(10);
    for (kind, stream) in streams() {
        let (commands, data) = parts(&stream);
        let mut rebuilt = Vec::with_capacity(stream.len());
        rebuild(&commands, &data, |piece| rebuilt.extend_from_slice(piece));
        assert!(rebuilt == stream, "the stream comes back byte for byte");
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(kind, |bencher| {
            bencher.iter(|| rebuild(black_box(&commands), black_box(&data), |piece| _ = black_box(piece)));
        });
    }
    group.finish();
}

criterion_group!(benches, splitting, rebuilding);
criterion_main!(benches);
