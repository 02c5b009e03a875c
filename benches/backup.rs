//! A whole backup and a whole restore, by the real operations, with a repository in memory.
//!
//! Needs about 500 MB of memory. The local index and the copies of records are in the directory for temporary files.
//! The program itself has the C library keep freed memory; `docs/benchmarks.md` has the variables that do so here.

#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support {
    pub(crate) mod content;
    pub(crate) mod streams;
}

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use btrfs_to_s3::backup::{
    BackupOptions, BackupRequest, BackupRun, BackupSummary, Expected, Host, Stream, StreamSource, never_interrupted,
};
use btrfs_to_s3::chunker::ChunkerParameters;
use btrfs_to_s3::clock::{Clock, SystemClock};
use btrfs_to_s3::monitor::{Monitor, SilentMonitor};
use btrfs_to_s3::repository::Repository;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::restore::{RestoreOptions, StreamSink, restore_stream};
use btrfs_to_s3::store::memory::MemoryStore;
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::streams::full_stream;

const DATA_BYTES: usize = 96 << 20;
/// Tiny, small, middling and large files, in turn; an odd number of them, so that each length comes as either kind.
const FILE_BYTES: [usize; 5] = [2_000, 9_000, 60_000, 700_000, 5_000_000];

/// A stream in memory, whose producer is content.
struct MemorySource(Cursor<Bytes>);

impl Read for MemorySource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl StreamSource for MemorySource {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Drops what is written.
struct DroppingSink;

impl Write for DroppingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamSink for DroppingSink {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A repository in memory, and a host that writes to it.
struct Place {
    repository: Repository,
    host: Host,
    monitor: Arc<dyn Monitor>,
    directory: TempDir,
}

impl Place {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let repository = Repository::init(store, ChunkerParameters::default(), clock).await;
        let directory = TempDir::new().expect("a temporary directory");
        let host = Host {
            name: "host".to_owned(),
            machine: "machine".to_owned(),
            index_directory: directory.path().join("index"),
            cache: RecordCache::in_folder(directory.path().join("records")),
            scratch_directory: directory.path().join("scratch"),
        };
        let repository = repository.expect("the store is empty");
        Self { repository, host, monitor: Arc::new(SilentMonitor), directory }
    }

    async fn backup(&self, stream: &Bytes) -> BackupSummary {
        let run = BackupRun::begin(&self.repository, &self.host, "home", &self.monitor).await;
        let run = run.expect("nothing else writes to the repository");
        let request = BackupRequest {
            subvolume: "home".to_owned(),
            created_at: run.started_at(),
            expected: Expected::Anything,
            compressed_data: false,
        };
        let stream = Stream {
            source: Box::new(MemorySource(Cursor::new(stream.clone()))),
            stop: None,
            interruption: never_interrupted(),
        };
        run.publish(stream, &request, &BackupOptions::default()).await.expect("the stream is right")
    }

    async fn restore(&self, backup: &BackupSummary) {
        let options = RestoreOptions::new(self.directory.path().join("scratch"));
        let sink = Box::new(DroppingSink);
        let sink = restore_stream(&self.repository, &backup.manifest, sink, &options, &self.monitor).await;
        sink.and_then(StreamSink::finish).expect("the backup is whole");
    }
}

fn stage_new(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, stream: &Bytes) {
    let stage = |place: Place| {
        let summary = runtime.block_on(place.backup(stream));
        // Of this many bytes nothing comes twice by chance.
        assert!(summary.manifest.totals.new_bytes >= DATA_BYTES as u64);
        place
    };
    group.bench_function("new", |bencher| {
        bencher.iter_batched(|| runtime.block_on(Place::new()), stage, BatchSize::PerIteration);
    });
}

fn stage_known(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, stream: &Bytes) {
    let place = runtime.block_on(Place::new());
    runtime.block_on(place.backup(stream));
    group.bench_function("known", |bencher| {
        bencher.iter(|| {
            let summary = runtime.block_on(place.backup(stream));
            assert_eq!(summary.manifest.totals.new_bytes, 0);
        });
    });
}

fn restore(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, stream: &Bytes) {
    let place = runtime.block_on(Place::new());
    let backup = runtime.block_on(place.backup(stream));
    group.bench_function("restore", |bencher| bencher.iter(|| runtime.block_on(place.restore(&backup))));
}

fn backup(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be started");
    let stream = Bytes::from(full_stream(2, DATA_BYTES, &FILE_BYTES));
    let mut group = criterion.benchmark_group("backup");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(20));
    stage_new(&mut group, &runtime, &stream);
    group.measurement_time(Duration::from_secs(10));
    stage_known(&mut group, &runtime, &stream);
    restore(&mut group, &runtime, &stream);
    group.finish();
}

criterion_group!(benches, backup);
criterion_main!(benches);
