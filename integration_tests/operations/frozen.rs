//! A repository that an early version of the program has written: it must be read for ever.
//!
//! `fixtures/format_1` is never made again. A change that makes these tests fail takes repositories away from people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::check::{CheckOptions, check};
use btrfs_to_s3::clock::SystemClock;
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::repository::Repository;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::Catalog;
use btrfs_to_s3::repository::notes::Notes as TagNotes;
use btrfs_to_s3::store::s3::settings::S3Settings;
use btrfs_to_s3::store::url::StoreUrl;

use crate::world::{Notes, World, assert_same_bytes};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration_tests/fixtures")
}

async fn open() -> Repository {
    let url = StoreUrl::Local { root: fixtures().join("format_1/repository") };
    let store = btrfs_to_s3::store::open(&url, &S3Settings::default()).await.unwrap();
    Repository::open(store, Arc::new(SystemClock)).await.unwrap()
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// Lines of two words.
fn table(name: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(fixtures().join("format_1").join(name)).unwrap();
    text.lines().map(|line| line.split_once("  ").unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn the_frozen_repository_is_as_it_was() {
    let root = fixtures().join("format_1/repository");
    let mut files = Vec::new();
    files_below(&root, &mut files);
    let hash = |path: &PathBuf| blake3::hash(&std::fs::read(path).unwrap()).to_string();
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let found: BTreeMap<String, String> = files.iter().map(|path| (name(path), hash(path))).collect();
    assert!(found.len() > 20);
    assert_eq!(found, table("hashes.txt"));
}

#[tokio::test]
async fn the_frozen_repository_is_restored() {
    let repository = open().await;
    let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
    assert!(catalog.damaged.is_empty(), "{:?}", catalog.damaged);
    let expected = table("expected.txt");
    let ids: Vec<String> = catalog.published.iter().map(|backup| backup.id().to_string()).collect();
    assert_eq!(ids.len(), expected.len());
    let world = World::empty();
    for (id, file) in expected {
        let restored = world.restore_through(&repository, id.parse::<ManifestId>().unwrap()).await.unwrap();
        assert_same_bytes(&restored, &std::fs::read(fixtures().join(file)).unwrap());
    }
    assert_eq!(catalog.forgotten.len(), 1);
    let notes = TagNotes::load(&repository, &RecordCache::none()).await.unwrap();
    let tagged = catalog.published.iter().filter(|backup| notes.tags(backup.id()).contains("frozen"));
    assert_eq!(tagged.count(), 1);
}

#[tokio::test]
async fn a_check_of_the_frozen_repository_finds_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let data = Some(Subset::All);
    let options = CheckOptions { data, packs_at_once: 1, ..CheckOptions::new(scratch.path().to_owned()) };
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    let report = check(&open().await, &options, &monitor).await.unwrap();
    assert_eq!((report.findings, report.affected), (vec![], vec![]));
}
