//! What every store promises, as tests that run over each of them.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;

use super::faulty::FaultyStore;
use super::limit::LimitStore;
use super::local::LocalStore;
use super::memory::MemoryStore;
use super::recording::RecordingStore;
use super::retry::{RetryPolicy, RetryStore};
use super::s3::S3Store;
use super::s3::settings::{PART_BYTES_MIN, S3Settings};
use super::s3::tests::server::S3Server;
use super::thaw::{ThawOutcome, ThawRequest, ThawState, ThawTier};
use super::{Key, PutOutcome, Store, StoreErrorKind, Tier, list_all};
use crate::clock::SystemClock;
use crate::id::SessionId;

#[path = "contract/archives.rs"]
mod archives;

/// So small that a few objects make several pages.
const PAGE_SIZE: usize = 3;

/// An empty store, and what has to live as long as it does.
struct Subject {
    store: Store,
    _directory: Option<TempDir>,
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(Arc::new(SystemClock)).with_page_size(PAGE_SIZE))
}

fn in_memory(wrap: impl FnOnce(Store) -> Store) -> Subject {
    Subject { store: wrap(memory()), _directory: None }
}

async fn in_files() -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).await.unwrap().with_page_size(PAGE_SIZE);
    Subject { store: Arc::new(store), _directory: Some(directory) }
}

async fn in_a_bucket(settings: &S3Settings) -> Subject {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, settings).with_page_size(u16::try_from(PAGE_SIZE).unwrap());
    Subject { store: Arc::new(store), _directory: None }
}

/// An empty place in the bucket that the environment names; who we are, and where the server is, the environment says
/// as well.
#[expect(clippy::disallowed_methods, reason = "the environment says which server")]
async fn in_a_real_bucket(conditional_put: bool) -> Subject {
    let bucket = std::env::var("BTRFS_TO_S3_TEST_BUCKET").expect("BTRFS_TO_S3_TEST_BUCKET names a bucket");
    let prefix = key(&format!("contract-{}", SessionId::random()));
    let settings = S3Settings { conditional_put, part_bytes: PART_BYTES_MIN, ..S3Settings::default() };
    let store = S3Store::open(&bucket, Some(&prefix), &settings).await.unwrap();
    Subject { store: Arc::new(store.with_page_size(u16::try_from(PAGE_SIZE).unwrap())), _directory: None }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn put(store: &Store, text: &str, body: &'static [u8]) {
    let outcome = store.put(&key(text), Bytes::from_static(body), Tier::Metadata).await.unwrap();
    assert_eq!(outcome, PutOutcome::Stored, "{text}");
}

async fn listed(store: &Store, prefix: &str) -> Vec<String> {
    let objects = list_all(store.as_ref(), prefix).await.unwrap();
    objects.iter().map(|object| object.key.to_string()).collect()
}

macro_rules! contract {
    ($($(#[$mark:meta])* $store:ident: $subject:expr;)+) => {
        $(contract! {
            @each [$(#[$mark])*] $store, $subject,
            an_object_reads_back_whole
            an_object_may_be_empty
            an_object_may_be_larger_than_any_buffer
            a_second_put_of_a_key_changes_nothing
            of_several_puts_at_once_exactly_one_stores
            a_key_that_is_not_there_is_not_found
            a_get_reads_no_more_than_its_limit
            a_range_is_read_and_must_lie_within_the_object
            an_end_is_read_with_the_objects_length
            a_head_tells_what_a_listing_tells
            a_kept_checksum_is_that_of_the_bytes_stored
            keys_are_listed_in_the_order_of_their_bytes
            a_prefix_selects_whole_segments
            a_malformed_prefix_is_refused
            a_listing_goes_on_after_any_key
            pages_are_never_empty_before_the_last
            a_deleted_object_is_gone_and_its_key_free
            what_is_not_archived_needs_no_thaw
            errors_name_operation_and_object
        })+
    };
    (@each $marks:tt $store:ident, $subject:expr, $($promise:ident)+) => {
        mod $store {
            use super::*;

            $(contract! { @test $marks $promise, $subject })+
        }
    };
    (@test [$(#[$mark:meta])*] $promise:ident, $subject:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$mark])*
        async fn $promise() {
            let subject: Subject = $subject;
            super::$promise(subject.store).await;
        }
    };
}

contract! {
    over_memory: in_memory(|store| store);
    over_files: in_files().await;
    over_retry: in_memory(|store| Arc::new(RetryStore::new(store, RetryPolicy::default())));
    over_limit: in_memory(|store| Arc::new(LimitStore::new(store, NonZeroUsize::MIN)));
    over_recording: in_memory(|store| Arc::new(RecordingStore::new(store)));
    over_faulty: in_memory(|store| Arc::new(FaultyStore::new(store)));
    over_s3: in_a_bucket(&S3Settings::default()).await;
    over_s3_in_parts: in_a_bucket(&S3Settings { part_bytes: 1 << 20, ..S3Settings::default() }).await;
    #[ignore = "needs an S3 server that knows If-None-Match"]
    over_real_s3: in_a_real_bucket(true).await;
}

// What remains of the contract on a server that overwrites and has no archive: all but that one of several puts at once
// is told apart, and that it can be asked to thaw.
contract! {
    @each [#[ignore = "needs an S3 server"]] over_real_s3_without_conditions, in_a_real_bucket(false).await,
    an_object_reads_back_whole
    an_object_may_be_empty
    an_object_may_be_larger_than_any_buffer
    a_second_put_of_a_key_changes_nothing
    a_key_that_is_not_there_is_not_found
    a_get_reads_no_more_than_its_limit
    a_range_is_read_and_must_lie_within_the_object
    an_end_is_read_with_the_objects_length
    a_head_tells_what_a_listing_tells
    a_kept_checksum_is_that_of_the_bytes_stored
    keys_are_listed_in_the_order_of_their_bytes
    a_prefix_selects_whole_segments
    a_malformed_prefix_is_refused
    a_listing_goes_on_after_any_key
    pages_are_never_empty_before_the_last
    a_deleted_object_is_gone_and_its_key_free
    errors_name_operation_and_object
}

async fn an_object_reads_back_whole(store: Store) {
    put(&store, "data/00/a", b"content").await;
    assert_eq!(store.get(&key("data/00/a"), 7).await.unwrap(), "content");
}

async fn an_object_may_be_empty(store: Store) {
    put(&store, "a", b"").await;
    assert_eq!(store.get(&key("a"), 0).await.unwrap(), "");
    assert_eq!(store.get_range(&key("a"), 0..0).await.unwrap(), "");
    assert_eq!(store.head(&key("a")).await.unwrap().size_bytes, 0);
    assert_eq!(listed(&store, "").await, ["a"]);
}

async fn an_object_may_be_larger_than_any_buffer(store: Store) {
    // Two parts of a multipart upload.
    let body: Bytes = (0..6_000_001_u32).map(|position| (position.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
    store.put(&key("data/large"), body.clone(), Tier::Data).await.unwrap();
    assert_eq!(store.get(&key("data/large"), 6_000_001).await.unwrap(), body);
    assert_eq!(store.get_range(&key("data/large"), 4_000_000..6_000_001).await.unwrap(), body.slice(4_000_000..));
}

async fn a_second_put_of_a_key_changes_nothing(store: Store) {
    put(&store, "sessions/1/end", b"first").await;
    let again = store.put(&key("sessions/1/end"), Bytes::from_static(b"other"), Tier::Metadata).await;
    assert_eq!(again.unwrap(), PutOutcome::Exists);
    let longer = store.put(&key("sessions/1/end"), Bytes::from_static(b"a longer one"), Tier::Metadata).await;
    assert_eq!(longer.unwrap_err().kind, StoreErrorKind::Conflict);
    assert_eq!(store.get(&key("sessions/1/end"), 100).await.unwrap(), "first");
}

async fn of_several_puts_at_once_exactly_one_stores(store: Store) {
    for round in 0..10 {
        let key = key(&format!("round-{round}/end"));
        let put = async |writer: u8| {
            let (store, key) = (Arc::clone(&store), key.clone());
            let body = Bytes::from(vec![writer; 10_000]);
            tokio::spawn(async move { store.put(&key, body, Tier::Metadata).await.unwrap() }).await.unwrap()
        };
        let outcomes = join_all((0..8).map(put)).await;
        let winners: Vec<_> = (0_u8..).zip(outcomes).filter(|(_, outcome)| *outcome == PutOutcome::Stored).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(store.get(&key, 10_000).await.unwrap(), vec![winners[0].0; 10_000]);
    }
}

async fn a_key_that_is_not_there_is_not_found(store: Store) {
    put(&store, "a/b/c", b"content").await;
    for absent in ["x", "a", "a/b", "a/x", "a/b/x", "x/b/c"] {
        let absent = key(absent);
        let kinds = [
            store.get(&absent, 10).await.unwrap_err().kind,
            store.get_range(&absent, 0..1).await.unwrap_err().kind,
            store.get_end(&absent, 1).await.unwrap_err().kind,
            store.head(&absent).await.unwrap_err().kind,
        ];
        assert_eq!(kinds, [StoreErrorKind::NotFound; 4], "{absent}");
        store.delete(&absent).await.unwrap();
    }
    assert_eq!(listed(&store, "").await, ["a/b/c"]);
}

async fn a_get_reads_no_more_than_its_limit(store: Store) {
    put(&store, "a", b"content").await;
    assert_eq!(store.get(&key("a"), 6).await.unwrap_err().kind, StoreErrorKind::TooLarge);
    assert_eq!(store.get(&key("a"), 7).await.unwrap(), "content");
    assert_eq!(store.get(&key("a"), u64::MAX).await.unwrap(), "content");
}

#[expect(clippy::reversed_empty_ranges, reason = "such a range has to be refused")]
async fn a_range_is_read_and_must_lie_within_the_object(store: Store) {
    put(&store, "a", b"content").await;
    for (range, part) in [(0..7, "content"), (0..1, "c"), (2..5, "nte"), (6..7, "t"), (3..3, ""), (7..7, "")] {
        assert_eq!(store.get_range(&key("a"), range).await.unwrap(), part);
    }
    for range in [0..8, 7..8, 8..8, 8..9, 5..2, 0..u64::MAX, u64::MAX..u64::MAX] {
        let error = store.get_range(&key("a"), range.clone()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::OutOfRange, "{range:?}");
    }
}

async fn an_end_is_read_with_the_objects_length(store: Store) {
    put(&store, "a", b"content").await;
    put(&store, "empty", b"").await;
    for (name, end_bytes, end) in [
        ("a", 0, ""),
        ("a", 1, "t"),
        ("a", 3, "ent"),
        ("a", 7, "content"),
        ("a", u64::MAX, "content"),
        ("empty", 3, ""),
    ] {
        let read = store.get_end(&key(name), end_bytes).await.unwrap();
        assert_eq!((read.bytes, read.size_bytes), (end.into(), if name == "a" { 7 } else { 0 }), "{name} {end_bytes}");
    }
    assert_eq!(store.get_end(&key("a"), 2).await.unwrap().bytes, "nt");
}

async fn a_head_tells_what_a_listing_tells(store: Store) {
    let before = std::time::Duration::from_mins(1);
    put(&store, "a/b", b"content").await;
    let info = store.head(&key("a/b")).await.unwrap();
    assert_eq!((info.key.as_str(), info.size_bytes), ("a/b", 7));
    assert!(crate::clock::Clock::now(&SystemClock).duration_since(info.modified_at).unsigned_abs() < before);
    assert_eq!(list_all(store.as_ref(), "a/").await.unwrap(), [info]);
}

async fn keys_are_listed_in_the_order_of_their_bytes(store: Store) {
    // '-' and '.' come before '/', digits and letters after it.
    let keys =
        ["a-", "a-b", "a-c/c", "a.b", "a/-", "a/b-c/d", "a/b.c", "a/b/c", "a/b/d", "a/b0", "a0", "aB", "ab", "b/A/x"];
    for text in keys.iter().rev() {
        put(&store, text, b"").await;
    }
    assert_eq!(listed(&store, "").await, keys);
    assert_eq!(listed(&store, "a/").await, keys[4..10]);
    assert_eq!(listed(&store, "a/b/").await, keys[7..9]);
}

async fn a_prefix_selects_whole_segments(store: Store) {
    for text in ["data/00/a", "data/01/b", "data-x", "dat/00/c", "meta/00/d"] {
        put(&store, text, b"").await;
    }
    assert_eq!(listed(&store, "data/").await, ["data/00/a", "data/01/b"]);
    assert_eq!(listed(&store, "data/01/").await, ["data/01/b"]);
    assert_eq!(listed(&store, "none/").await, [""; 0]);
    assert_eq!(listed(&store, "data-x/").await, [""; 0]);
    assert_eq!(listed(&store, "data-x/y/").await, [""; 0]);
}

async fn a_malformed_prefix_is_refused(store: Store) {
    for prefix in ["data", "/", "../", "a//", "a/../", "/a/", "ä/"] {
        assert_eq!(store.list_page(prefix, None).await.unwrap_err().kind, StoreErrorKind::Other, "{prefix}");
    }
}

async fn a_listing_goes_on_after_any_key(store: Store) {
    let keys = ["a-b", "a/b/c", "a/b/d", "a/c", "a0", "b"];
    for text in keys {
        put(&store, text, b"").await;
    }
    let after = async |prefix: &str, after: &str| {
        let page = store.list_page(prefix, Some(&key(after))).await.unwrap();
        page.objects.first().map(|object| object.key.to_string())
    };
    for pair in keys.windows(2) {
        assert_eq!(after("", pair[0]).await.as_deref(), Some(pair[1]));
    }
    // These are not there.
    for (absent, next) in [("-", "a-b"), ("a", "a-b"), ("a-c", "a/b/c"), ("a/b", "a/b/c"), ("a/b/c/x", "a/b/d")] {
        assert_eq!(after("", absent).await.as_deref(), Some(next), "{absent}");
    }
    assert_eq!(after("", "b").await, None);
    assert_eq!(after("a/", "-").await.as_deref(), Some("a/b/c"));
    assert_eq!(after("a/b/", "a/b/d").await, None);
    assert_eq!(after("a/", "z").await, None);
}

async fn pages_are_never_empty_before_the_last(store: Store) {
    for count in 0..8 {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = store.list_page("", after.as_ref()).await.unwrap();
            after = page.objects.last().map(|object| object.key.clone()).or(after);
            keys.extend(page.objects.iter().map(|object| object.key.to_string()));
            assert!(!page.more || !page.objects.is_empty());
            if !page.more {
                break;
            }
        }
        let expected: Vec<_> = (0..count).map(|number| format!("folder-{}/{number}", number / 2)).collect();
        assert_eq!(keys, expected);
        put(&store, &format!("folder-{}/{count}", count / 2), b"").await;
    }
}

async fn a_deleted_object_is_gone_and_its_key_free(store: Store) {
    for text in ["a/1", "a/2", "a/3"] {
        put(&store, text, b"old").await;
    }
    store.delete(&key("a/2")).await.unwrap();
    assert_eq!(store.get(&key("a/2"), 10).await.unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(listed(&store, "").await, ["a/1", "a/3"]);
    put(&store, "a/2", b"newer").await;
    assert_eq!(store.get(&key("a/2"), 10).await.unwrap(), "newer");
}

async fn what_is_not_archived_needs_no_thaw(store: Store) {
    put(&store, "a", b"content").await;
    let request = ThawRequest { days: Some(1), tier: ThawTier::Standard };
    assert_eq!(store.thaw_state(&key("a")).await.unwrap(), ThawState::Readable);
    assert_eq!(store.request_thaw(&key("a"), request).await.unwrap(), ThawOutcome::NotNeeded);
    assert_eq!(store.thaw_state(&key("a")).await.unwrap(), ThawState::Readable);
    assert_eq!(store.get(&key("a"), 7).await.unwrap(), "content");
    assert_eq!(store.thaw_state(&key("x")).await.unwrap_err().kind, StoreErrorKind::NotFound);
    let error = store.request_thaw(&key("x"), request).await.unwrap_err();
    assert_eq!((error.kind, error.object), (StoreErrorKind::NotFound, format!("{}/x", store.url())));
}

#[expect(clippy::big_endian_bytes, reason = "a store has the highest byte first")]
async fn a_kept_checksum_is_that_of_the_bytes_stored(store: Store) {
    // The second one in parts, where a store has any.
    let bodies = [Bytes::from_static(b"content"), Bytes::from(vec![7; 6_000_000])];
    for (name, body) in ["a", "b"].into_iter().zip(bodies) {
        store.put(&key(name), body.clone(), Tier::Data).await.unwrap();
        let kept = store.upload_checksum(&key(name)).await.unwrap();
        assert_eq!(kept.size_bytes, body.len() as u64);
        // Not every store keeps one.
        assert!(kept.crc32c.is_none_or(|kept| kept == crc32c::crc32c(&body).to_be_bytes()), "{kept:?}");
    }
    assert_eq!(store.upload_checksum(&key("x")).await.unwrap_err().kind, StoreErrorKind::NotFound);
}

async fn errors_name_operation_and_object(store: Store) {
    put(&store, "b/there", b"x").await;
    let there = key("b/there");
    let absent = key("a/absent");
    let url = store.url().to_owned();
    let errors = BTreeMap::from([
        ("reading", store.get(&absent, 1).await.unwrap_err()),
        ("looking up", store.head(&absent).await.unwrap_err()),
    ]);
    for (operation, error) in errors {
        assert!(error.to_string().starts_with(&format!("{operation} {url}/a/absent: ")), "{error}");
    }
    let error = store.put(&there, Bytes::from_static(b"xyz"), Tier::Data).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("storing {url}/b/there: ")), "{error}");
    let error = store.list_page("x", None).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("listing {url}/x: ")), "{error}");
}
