//! What every store promises of objects that are archived.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::clock::Clock;
use crate::store::StorageClassName;
use crate::store::archiving::ArchivingStore;

/// A store that archives data, and what lets time pass there.
struct Archive {
    store: Store,
    pass: Box<dyn Fn(Duration)>,
}

/// Goes on only when it is told to.
#[derive(Debug)]
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

fn class(name: &str) -> StorageClassName {
    name.parse().unwrap()
}

fn in_memory(name: &str, wrap: impl FnOnce(Store) -> Store) -> Archive {
    let clock = Arc::new(ManualClock(AtomicI64::new(1_700_000_000)));
    let archiving = ArchivingStore::new(memory(), class(name), Arc::clone(&clock) as Arc<dyn Clock>);
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap();
    let pass = move |time| {
        clock.0.fetch_add(seconds(time), Ordering::SeqCst);
    };
    Archive { store: wrap(Arc::new(archiving)), pass: Box::new(pass) }
}

async fn in_a_bucket(name: &str) -> Archive {
    let server = S3Server::start().await;
    let settings = S3Settings { storage_class_data: Some(class(name)), ..S3Settings::default() };
    let store = Arc::new(S3Store::on(&server, &settings));
    Archive { store, pass: Box::new(move |time| server.pass(time)) }
}

macro_rules! archives {
    ($($store:ident: $archive:expr;)+) => {
        $(mod $store {
            use super::*;

            #[tokio::test]
            async fn an_archived_object_is_read_after_its_thaw_and_until_its_copy_expires() {
                super::an_archived_object_is_read_after_its_thaw_and_until_its_copy_expires($archive).await;
            }

            #[tokio::test]
            async fn a_thawed_copy_is_kept_longer_when_that_is_asked_for() {
                super::a_thawed_copy_is_kept_longer_when_that_is_asked_for($archive).await;
            }

            #[tokio::test]
            async fn classes_are_told_by_listings_and_heads() {
                super::classes_are_told_by_listings_and_heads($archive).await;
            }
        })+
    };
}

archives! {
    over_memory: in_memory("DEEP_ARCHIVE", |store| store);
    over_retry: in_memory("GLACIER", |store| Arc::new(RetryStore::new(store, RetryPolicy::default())));
    over_limit: in_memory("GLACIER", |store| Arc::new(LimitStore::new(store, NonZeroUsize::MIN)));
    over_recording: in_memory("GLACIER", |store| Arc::new(RecordingStore::new(store)));
    over_faulty: in_memory("GLACIER", |store| Arc::new(FaultyStore::new(store)));
    over_s3: in_a_bucket("DEEP_ARCHIVE").await;
    over_s3_glacier: in_a_bucket("GLACIER").await;
}

const HOUR: Duration = Duration::from_hours(1);

async fn put_archived(store: &Store) -> Key {
    let key = key("data/00/a");
    store.put(&key, Bytes::from_static(b"content"), Tier::Data).await.unwrap();
    key
}

fn bulk(days: u32) -> ThawRequest {
    ThawRequest { days: Some(days), tier: ThawTier::Bulk }
}

async fn assert_refused(store: &Store, key: &Key) {
    assert_eq!(store.get(key, 7).await.unwrap_err().kind, StoreErrorKind::Archived);
    assert_eq!(store.get_range(key, 0..1).await.unwrap_err().kind, StoreErrorKind::Archived);
}

async fn is_thawed(store: &Store, key: &Key) -> bool {
    matches!(store.thaw_state(key).await.unwrap(), ThawState::Thawed { until: Some(_) })
}

async fn an_archived_object_is_read_after_its_thaw_and_until_its_copy_expires(archive: Archive) {
    let Archive { store, pass } = archive;
    let key = put_archived(&store).await;
    assert_refused(&store, &key).await;
    assert_eq!(store.thaw_state(&key).await.unwrap(), ThawState::Archived);

    assert_eq!(store.request_thaw(&key, bulk(2)).await.unwrap(), ThawOutcome::Requested);
    assert_eq!(store.request_thaw(&key, bulk(5)).await.unwrap(), ThawOutcome::InProgress);
    assert_eq!(store.thaw_state(&key).await.unwrap(), ThawState::Thawing);
    assert_refused(&store, &key).await;

    pass(HOUR * 48);
    assert!(is_thawed(&store, &key).await);
    assert_eq!(store.get(&key, 7).await.unwrap(), "content");
    assert_eq!(store.get_range(&key, 1..3).await.unwrap(), "on");

    pass(HOUR * 49);
    assert_eq!(store.thaw_state(&key).await.unwrap(), ThawState::Archived);
    assert_refused(&store, &key).await;
    assert_eq!(store.request_thaw(&key, bulk(1)).await.unwrap(), ThawOutcome::Requested);
    assert_eq!(store.thaw_state(&key).await.unwrap(), ThawState::Thawing);
}

async fn a_thawed_copy_is_kept_longer_when_that_is_asked_for(archive: Archive) {
    let Archive { store, pass } = archive;
    let key = put_archived(&store).await;
    store.request_thaw(&key, bulk(3)).await.unwrap();
    pass(HOUR * 48);
    assert_eq!(store.request_thaw(&key, bulk(3)).await.unwrap(), ThawOutcome::Requested);
    assert_eq!(store.get(&key, 7).await.unwrap(), "content");
    pass(HOUR * 70);
    assert_eq!(store.get(&key, 7).await.unwrap(), "content");
}

async fn classes_are_told_by_listings_and_heads(archive: Archive) {
    let store = archive.store;
    let archived = put_archived(&store).await;
    put(&store, "meta/00/b", b"content").await;
    let classes: Vec<_> = list_all(store.as_ref(), "").await.unwrap();
    let [of_data, of_metadata] = &classes[..] else { panic!("two objects") };
    assert!(of_data.storage_class.as_ref().unwrap().is_archival());
    assert_eq!(of_metadata.storage_class, Some(StorageClassName::standard()));
    assert_eq!(store.head(&archived).await.unwrap(), *of_data);
    assert_eq!(store.head(&of_metadata.key).await.unwrap(), *of_metadata);
}
