//! Tests of what is particular to files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use super::*;
use crate::clock::SystemClock;
use crate::store::memory::MemoryStore;
use crate::store::{StoreErrorKind, list_all};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn put(store: &LocalStore, text: &str, body: &'static [u8]) -> Result<PutOutcome, StoreError> {
    store.put(&key(text), Bytes::from_static(body), Tier::Data).await
}

async fn listed(store: &LocalStore) -> Vec<String> {
    let objects = list_all(store, "").await.unwrap();
    objects.iter().map(|object| object.key.to_string()).collect()
}

async fn open(directory: &TempDir) -> LocalStore {
    LocalStore::open(directory.path()).await.unwrap()
}

fn entries(path: &Path) -> BTreeSet<String> {
    path.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn create_makes_the_root_with_directories_and_may_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("with space/repository");
    fs::create_dir(directory.path().join("with space")).unwrap();
    let fan_out = [key("data/00"), key("data/01"), key("sessions")];
    for _ in 0..2 {
        let store = LocalStore::create(&root, &fan_out).await.unwrap();
        assert_eq!(store.url(), format!("file://{}/with%20space/repository", directory.path().display()));
    }
    assert_eq!(entries(&root), BTreeSet::from(["data", "sessions", "tmp"].map(str::to_owned)));
    assert_eq!(entries(&root.join("data")), BTreeSet::from(["00", "01"].map(str::to_owned)));
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn create_makes_no_directory_for_the_root_to_be_in() {
    let directory = tempfile::tempdir().unwrap();
    let stick = directory.path().join("stick");
    let root = stick.join("backups/repository");
    for error in [LocalStore::create(&root, &[]).await.unwrap_err(), LocalStore::is_there(&root).await.unwrap_err()] {
        assert_eq!(error.kind, StoreErrorKind::NotFound);
        let expected = format!(
            "creating file://{}: there is no {}: mount what it is on, or make it (mkdir -p)",
            root.display(),
            stick.display()
        );
        assert_eq!(error.to_string(), expected);
        assert!(!stick.exists());
    }
    fs::create_dir_all(stick.join("backups")).unwrap();
    assert!(!LocalStore::is_there(&root).await.unwrap());
    LocalStore::create(&root, &[]).await.unwrap();
    assert!(LocalStore::is_there(&root).await.unwrap());
}

#[tokio::test]
async fn open_needs_a_directory_and_makes_none() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    let error = LocalStore::open(&absent).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("opening file://{}: there is no such directory: `init` makes a new repository", absent.display())
    );
    assert!(!absent.exists());

    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = LocalStore::open(&file).await.unwrap_err();
    assert!(error.to_string().contains("Not a directory"), "{error}");
    let error = LocalStore::create(&file.join("below"), &[]).await.unwrap_err();
    assert!(error.to_string().contains("Not a directory"), "{error}");
}

#[tokio::test]
async fn an_object_is_a_private_file_under_its_key_and_nothing_else_is_left() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(&directory).await, "data/0a/pack", b"content").await.unwrap();
    let path = directory.path().join("data/0a/pack");
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(entries(&directory.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn an_existing_object_of_another_size_is_a_conflict_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    put(&store, "data/0a/pack", b"content").await.unwrap();
    fs::write(directory.path().join("data/0a/pack"), b"cont").unwrap();

    let error = put(&store, "data/0a/pack", b"content").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Conflict);
    let reason = "an object of 4 bytes is there already, 7 were to be stored";
    assert_eq!(error.to_string(), format!("storing {}/data/0a/pack: {reason}", store.url()));
    assert!(entries(&directory.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn opening_removes_what_a_killed_writer_left_and_spares_a_living_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::create(directory.path(), &[]).await.unwrap();
    fs::write(directory.path().join("tmp/1234-dead"), b"half an obj").unwrap();
    let temporary = rustix::fs::open(directory.path().join("tmp"), rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    let mut living = temporary::TemporaryFile::create(temporary).unwrap();
    living.write(b"half").unwrap();

    put(&open(&directory).await, "a", b"x").await.unwrap();
    let left = entries(&directory.path().join("tmp"));
    assert_eq!(left.len(), 1);
    assert!(!left.contains("1234-dead"));
    assert_eq!(listed(&store).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_store_one_key_in_a_new_directory_once() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let stores = [open(&directory).await, open(&directory).await, open(&directory).await];
        let path = format!("round-{round}/a/b");
        let puts = stores.iter().map(|store| put(store, &path, b"content"));
        let outcomes = futures_util::future::try_join_all(puts).await.unwrap();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == PutOutcome::Stored).count(), 1);
    }
}

#[tokio::test]
async fn a_key_below_an_object_or_above_one_is_refused_without_a_trace() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    put(&store, "a/b", b"content").await.unwrap();
    for taken in ["a", "a/b/c"] {
        assert_eq!(put(&store, taken, b"x").await.unwrap_err().kind, StoreErrorKind::Other, "{taken}");
    }
    assert_eq!(listed(&store).await, ["a/b"]);
    assert!(entries(&directory.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn the_directory_for_temporary_files_is_out_of_reach() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::create(directory.path(), &[]).await.unwrap();
    fs::write(directory.path().join("tmp/x"), b"x").unwrap();
    put(&store, "tmpx", b"x").await.unwrap();

    for error in [
        put(&store, "tmp/y", b"x").await.unwrap_err(),
        store.get(&key("tmp/x"), 1).await.unwrap_err(),
        store.delete(&key("tmp/x")).await.unwrap_err(),
        put(&store, "tmp", b"x").await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("the store's own"), "{error}");
    }
    assert_eq!(listed(&store).await, ["tmpx"]);
    assert!(store.list_page("tmp/", None).await.unwrap().objects.is_empty());
}

#[tokio::test]
async fn names_that_cannot_be_keys_are_left_out_of_listings() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    put(&store, "data/a", b"x").await.unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    fs::write(directory.path().join("data/a (copy)"), b"").unwrap();
    symlink("nowhere", directory.path().join("data/~link")).unwrap();
    assert_eq!(listed(&store).await, ["data/a"]);
}

#[tokio::test]
async fn links_and_pipes_are_errors_that_name_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    put(&store, "data/a", b"x").await.unwrap();
    let path = |name| directory.path().join(name);

    for odd in ["data/link", "data/pipe"] {
        match odd {
            "data/link" => symlink("a", path(odd)).unwrap(),
            _ => mknodat(CWD, path(odd), FileType::Fifo, Mode::RUSR, 0).unwrap(),
        }
        for error in [store.get(&key(odd), 1).await.unwrap_err(), store.head(&key(odd)).await.unwrap_err()] {
            assert_eq!(error.kind, StoreErrorKind::Other);
            assert!(error.to_string().contains(odd) && error.to_string().contains("regular file"), "{error}");
        }
        let error = list_all(&store, "data/").await.unwrap_err();
        assert!(error.to_string().contains(odd), "{error}");
        assert_eq!(store.delete(&key(odd)).await.unwrap_err().kind, StoreErrorKind::Other);
        fs::remove_file(path(odd)).unwrap();
    }
    assert_eq!(listed(&store).await, ["data/a"]);
}

#[tokio::test]
async fn directories_that_were_removed_are_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::create(directory.path(), &[key("data/00")]).await.unwrap();
    put(&store, "data/00/a", b"x").await.unwrap();
    for removed in ["data", "tmp"] {
        fs::remove_dir_all(directory.path().join(removed)).unwrap();
    }
    assert_eq!(put(&store, "data/00/b", b"x").await.unwrap(), PutOutcome::Stored);
    assert_eq!(listed(&store).await, ["data/00/b"]);
}

#[tokio::test]
async fn nothing_is_stored_in_what_takes_the_place_of_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let store = LocalStore::create(&root, &[]).await.unwrap();
    fs::rename(&root, directory.path().join("elsewhere")).unwrap();
    fs::create_dir(&root).unwrap();
    put(&store, "data/a", b"x").await.unwrap();
    assert!(entries(&root).is_empty());

    fs::remove_dir_all(directory.path().join("elsewhere")).unwrap();
    assert_eq!(put(&store, "data/b", b"x").await.unwrap_err().kind, StoreErrorKind::Other);
}

#[tokio::test]
async fn a_directory_without_permission_is_denied() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(&directory).await, "a", b"x").await.unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let root = Root::open(directory.path()).unwrap();
    let work = move || {
        if rustix::process::geteuid().is_root() {
            // Only this thread gives up being root, whom no permission stops.
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        }
        let put = root.put(&key("data/b"), &Bytes::new()).unwrap_err();
        let delete = root.delete(&key("a")).unwrap_err();
        [put.kind, delete.kind]
    };
    assert_eq!(std::thread::spawn(work).join().unwrap(), [StoreErrorKind::Denied; 2]);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(listed(&open(&directory).await).await, ["a"]);
}

/// A file system of 1 MiB in memory, taken away when dropped.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Some(c"size=1m,mode=700");
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), options).unwrap();
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root: mounts a tmpfs"]
async fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    let disk = SmallDisk::mount();
    let store = LocalStore::create(&disk.root(), &[]).await.unwrap();
    let body = |length_bytes| Bytes::from(vec![7; length_bytes]);
    store.put(&key("data/a"), body(600_000), Tier::Data).await.unwrap();

    let error = store.put(&key("data/b"), body(600_000), Tier::Data).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Full);
    assert!(error.to_string().starts_with(&format!("storing {}/data/b: No space left", store.url())), "{error}");
    assert!(entries(&disk.root().join("tmp")).is_empty());
    assert_eq!(listed(&store).await, ["data/a"]);

    store.put(&key("data/b"), body(100_000), Tier::Data).await.unwrap();
    assert_eq!(store.get(&key("data/a"), 600_000).await.unwrap(), body(600_000));
}

#[tokio::test]
#[ignore = "needs root: mounts a tmpfs"]
async fn a_file_system_mounted_read_only_can_be_read_and_is_denied_to_writers() {
    let disk = SmallDisk::mount();
    put(&LocalStore::create(&disk.root(), &[]).await.unwrap(), "data/a", b"x").await.unwrap();
    fs::write(disk.root().join("tmp/dead"), b"half").unwrap();
    rustix::mount::mount_remount(disk.directory.path(), MountFlags::RDONLY, "").unwrap();

    let store = LocalStore::open(&disk.root()).await.unwrap();
    assert_eq!(store.get(&key("data/a"), 1).await.unwrap(), "x");
    assert_eq!(put(&store, "data/b", b"x").await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(put(&store, "new/b", b"x").await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(store.delete(&key("data/a")).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(listed(&store).await, ["data/a"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn listings_are_those_of_a_store_in_memory(
        texts in prop::collection::vec("[a.-]{1,2}(/[ab.-]{1,2}){0,3}", 1..20),
        prefix in prop_oneof![Just(String::new()), "[a.-]/", "[a.-]/[ab-]/"],
        page_size in 1..5_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let files = open(&directory).await.with_page_size(page_size);
            let memory = MemoryStore::new(Arc::new(SystemClock)).with_page_size(page_size);
            for key in texts.iter().filter_map(|text| Key::new(text.as_str()).ok()) {
                // One that is taken, or cannot be beside another, is left out.
                if matches!(files.put(&key, Bytes::new(), Tier::Data).await, Ok(PutOutcome::Stored)) {
                    memory.put(&key, Bytes::new(), Tier::Data).await.unwrap();
                }
            }
            for after in texts.iter().map(|text| Key::new(text.as_str()).ok()).chain([None]) {
                let expected = memory.list_page(&prefix, after.as_ref()).await.map(keys_of);
                let actual = files.list_page(&prefix, after.as_ref()).await.map(keys_of);
                assert_eq!(actual.map_err(|error| error.kind), expected.map_err(|error| error.kind));
            }
        });
    }
}

fn keys_of(page: ListPage) -> (Vec<Key>, bool) {
    (page.objects.into_iter().map(|object| object.key).collect(), page.more)
}
