//! What is particular to buckets; what every store promises is in `store/contract.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::store::Store;
use crate::store::limit::LimitStore;
use crate::store::requests::{RequestCounts, StoredInClass};
use crate::store::retry::{RetryPolicy, RetryStore};

#[path = "../../../integration_tests/support/s3_server.rs"]
pub(crate) mod server;

use self::server::{ACCESS_KEY, BUCKET, Ends, S3Server, SECRET_KEY, checksum};

const PART_BYTES: u64 = 1 << 20;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn settings() -> S3Settings {
    S3Settings { part_bytes: PART_BYTES, ..S3Settings::default() }
}

impl S3Store {
    /// A store on a server of the tests.
    pub(crate) fn on(server: &S3Server, settings: &S3Settings) -> Self {
        let credentials = aws_sdk_s3::config::Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test");
        Self::with_credentials(server.endpoint(), BUCKET, settings, credentials)
    }

    fn with_credentials(
        endpoint: &str,
        bucket: &str,
        settings: &S3Settings,
        credentials: aws_sdk_s3::config::Credentials,
    ) -> Self {
        let environment = aws_config::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .credentials_provider(aws_sdk_s3::config::SharedCredentialsProvider::new(credentials))
            .http_client(connect::http_client())
            .endpoint_url(endpoint)
            .build();
        let connection = connect::connection(&environment, settings).unwrap();
        Self::over(connection, bucket, Some(&key("folder/repository")), settings)
    }
}

async fn put(store: &S3Store, text: &str, body: &[u8], tier: Tier) -> Result<PutOutcome, StoreError> {
    store.put(&key(text), Bytes::copy_from_slice(body), tier).await
}

fn random_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    crate::id::fill_random(&mut bytes);
    bytes
}

#[tokio::test]
async fn objects_are_stored_with_class_encryption_and_checksum() {
    let server = S3Server::start().await;
    let settings = S3Settings {
        storage_class_data: Some("DEEP_ARCHIVE".parse().unwrap()),
        storage_class_metadata: Some("STANDARD_IA".parse().unwrap()),
        encryption: Some(Encryption::Kms { dual_layer: false, key_id: Some("a-key".to_owned()) }),
        ..settings()
    };
    let store = S3Store::on(&server, &settings);
    put(&store, "data/a", b"content", Tier::Data).await.unwrap();
    put(&store, "meta/b", b"content", Tier::Metadata).await.unwrap();
    put(&store, "data/large", &vec![7; 3_000_000], Tier::Data).await.unwrap();
    for (name, class) in [("data/a", "DEEP_ARCHIVE"), ("meta/b", "STANDARD_IA"), ("data/large", "DEEP_ARCHIVE")] {
        let kept = server.object(&format!("folder/repository/{name}")).unwrap();
        assert_eq!(kept.storage_class.as_deref(), Some(class));
        assert_eq!(kept.encryption.as_deref(), Some("aws:kms"));
        assert_eq!(kept.encryption_key.as_deref(), Some("a-key"));
        assert_eq!(kept.checksum_crc32c, Some(checksum(&kept.body)));
    }
}

#[tokio::test]
async fn the_checksum_that_is_kept_is_told_without_reading_and_of_archived_objects_too() {
    let server = S3Server::start().await;
    let settings = S3Settings { storage_class_data: Some("DEEP_ARCHIVE".parse().unwrap()), ..settings() };
    let store = S3Store::on(&server, &settings);
    for (name, body) in [("data/a", vec![1; 100]), ("data/large", vec![7; 3_000_000])] {
        put(&store, name, &body, Tier::Data).await.unwrap();
        server.take_requests();
        let kept = store.upload_checksum(&key(name)).await.unwrap();
        assert_eq!(server.take_requests(), [format!("HeadObject folder/repository/{name}")]);
        assert_eq!(kept.size_bytes, body.len() as u64);
        assert_eq!(kept.crc32c.map(aws_smithy_types::base64::encode), Some(checksum(&body)));
    }
    server.set_oddities(|oddities| oddities.keeps_no_checksums = true);
    assert_eq!(store.upload_checksum(&key("data/a")).await.unwrap().crc32c, None);
}

#[tokio::test]
async fn an_archived_object_is_said_to_need_a_thaw() {
    let server = S3Server::start().await;
    let settings = S3Settings { storage_class_data: Some("GLACIER".parse().unwrap()), ..settings() };
    let store = S3Store::on(&server, &settings);
    put(&store, "data/a", b"content", Tier::Data).await.unwrap();
    let error = store.get(&key("data/a"), 100).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Archived);
    assert!(error.to_string().contains("has to be thawed"), "{error}");
    assert_eq!(store.get_range(&key("data/a"), 0..1).await.unwrap_err().kind, StoreErrorKind::Archived);
    assert_eq!(store.head(&key("data/a")).await.unwrap().size_bytes, 7);
}

#[tokio::test]
async fn an_end_takes_one_request_where_the_server_knows_ends_and_is_right_where_not() {
    let body = random_bytes(1000);
    for (ends, requests) in [
        (Ends::Known, vec!["GetObject", "GetObject"]),
        (Ends::Ignored, vec!["GetObject", "HeadObject", "GetObject", "HeadObject", "GetObject"]),
        (Ends::TakenForBeginnings, vec!["GetObject", "HeadObject", "GetObject", "HeadObject", "GetObject"]),
        (Ends::Refused, vec!["GetObject", "HeadObject", "GetObject", "HeadObject", "GetObject"]),
    ] {
        let server = S3Server::start().await;
        let store = S3Store::on(&server, &settings());
        put(&store, "a", &body, Tier::Data).await.unwrap();
        server.set_oddities(|oddities| oddities.ends = ends);
        server.take_requests();
        for (end_bytes, begin) in [(100, 900), (999, 1)] {
            let end = store.get_end(&key("a"), end_bytes).await.unwrap();
            assert_eq!((end.bytes.as_ref(), end.size_bytes), (&body[begin..], 1000), "{ends:?}");
        }
        let expected: Vec<String> = requests.iter().map(|name| format!("{name} folder/repository/a")).collect();
        assert_eq!(server.take_requests(), expected, "{ends:?}");
        let whole = store.get_end(&key("a"), 1001).await.unwrap();
        assert_eq!((whole.bytes.as_ref(), whole.size_bytes), (body.as_slice(), 1000), "{ends:?}");
        assert_eq!(store.get_end(&key("x"), 10).await.unwrap_err().kind, StoreErrorKind::NotFound, "{ends:?}");
    }
}

#[tokio::test]
async fn a_large_object_goes_in_parts_and_comes_back_whole() {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, &settings());
    let body = random_bytes(3_500_000);
    assert_eq!(put(&store, "data/a", &body, Tier::Data).await.unwrap(), PutOutcome::Stored);
    let requests = server.take_requests();
    let count = |operation| requests.iter().filter(|request| request.starts_with(operation)).count();
    assert_eq!((count("UploadPart"), count("PutObject")), (4, 0));
    assert_eq!(store.get(&key("data/a"), u64::MAX).await.unwrap(), body);
    assert_eq!(put(&store, "data/a", &body, Tier::Data).await.unwrap(), PutOutcome::Exists);
    let longer = put(&store, "data/a", &random_bytes(3_500_001), Tier::Data).await;
    assert_eq!(longer.unwrap_err().kind, StoreErrorKind::Conflict);
    assert_eq!(server.unfinished_uploads(), 0);
}

#[tokio::test]
async fn requests_are_counted_as_the_server_sees_them() {
    let server = S3Server::start().await;
    let store = with_retries(S3Store::on(&server, &settings()));
    store.put(&key("data/a"), random_bytes(3_500_000).into(), Tier::Data).await.unwrap();
    server.set_oddities(|oddities| oddities.slow_downs = 1);
    store.get(&key("data/a"), u64::MAX).await.unwrap();
    store.head(&key("data/a")).await.unwrap();
    store.list_page("data/", None).await.unwrap();
    store.delete(&key("data/a")).await.unwrap();
    // An upload in four parts; a read that is tried twice, and a look; a page; a deletion.
    let usage = store.usage().unwrap();
    let counted = usage.requests;
    assert_eq!(counted, RequestCounts { writes: 6, lists: 1, reads: 3, deletes: 1 });
    assert_eq!(counted.total(), server.take_requests().len() as u64);
    let stored = StoredInClass { writes: 6, objects: 1, bytes: 3_500_000, small: Vec::new() };
    assert_eq!((usage.stored, usage.is_aws), (BTreeMap::from([(StorageClassName::standard(), stored)]), false));
}

#[tokio::test]
async fn what_is_stored_is_counted_by_its_class() {
    let server = S3Server::start().await;
    let settings = S3Settings { storage_class_data: Some("DEEP_ARCHIVE".parse().unwrap()), ..settings() };
    let store = S3Store::on(&server, &settings);
    for (name, bytes, tier) in
        [("data/a", 10, Tier::Data), ("data/large", 3_000_000, Tier::Data), ("meta/b", 20, Tier::Metadata)]
    {
        put(&store, name, &vec![7; bytes], tier).await.unwrap();
    }
    // One that is there already takes a request, and no room.
    put(&store, "meta/b", &[7; 20], Tier::Metadata).await.unwrap();
    // The parts of the large one, and their end, name no class.
    let deep = StoredInClass { writes: 2, objects: 2, bytes: 3_000_010, small: vec![10] };
    let standard = StoredInClass { writes: 3 + 1 + 2, objects: 1, bytes: 20, small: vec![20] };
    let expected = [("DEEP_ARCHIVE".parse().unwrap(), deep), (StorageClassName::standard(), standard)];
    assert_eq!(store.usage().unwrap().stored, BTreeMap::from(expected));
}

#[tokio::test]
async fn parts_of_an_object_that_fails_are_taken_back() {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, &settings());
    server.set_oddities(|oddities| oddities.refused_parts = 1);
    let error = put(&store, "data/a", &random_bytes(3_500_000), Tier::Data).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert_eq!((server.unfinished_uploads(), server.keys().len()), (0, 0));
}

#[tokio::test]
async fn only_uploads_begun_before_a_moment_are_taken_back() {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, &settings());
    store.begin_parts(&key("data/a"), Tier::Data).await.unwrap();
    store.begin_parts(&key("meta/b"), Tier::Data).await.unwrap();
    let now = SystemClock.now();
    assert_eq!(store.remove_unfinished("data/", now - Duration::from_secs(5)).await.unwrap(), 0);
    assert_eq!(server.unfinished_uploads(), 2);
    assert_eq!(store.remove_unfinished("data/", now + Duration::from_secs(5)).await.unwrap(), 1);
    assert_eq!(store.remove_unfinished("data/", now + Duration::from_secs(5)).await.unwrap(), 0);
    assert_eq!(store.remove_unfinished("meta/", now + Duration::from_secs(5)).await.unwrap(), 1);
    assert_eq!(server.unfinished_uploads(), 0);
    server.set_oddities(|oddities| oddities.hides_uploads = true);
    assert_eq!(store.remove_unfinished("data/", Timestamp::MAX).await.unwrap(), 0);
}

#[tokio::test]
async fn a_server_that_overwrites_is_asked_first_where_the_settings_say_so() {
    let server = S3Server::start().await;
    server.set_oddities(|oddities| oddities.overwrites = true);
    let store = S3Store::on(&server, &S3Settings { conditional_put: false, ..settings() });
    assert_eq!(put(&store, "a", b"first", Tier::Metadata).await.unwrap(), PutOutcome::Stored);
    assert_eq!(put(&store, "a", b"other", Tier::Metadata).await.unwrap(), PutOutcome::Exists);
    assert_eq!(store.get(&key("a"), 100).await.unwrap(), "first");
    assert_eq!(put(&store, "a", b"longer", Tier::Metadata).await.unwrap_err().kind, StoreErrorKind::Conflict);
}

#[tokio::test]
async fn a_server_that_refuses_conditions_is_named_with_what_to_do() {
    let server = S3Server::start().await;
    server.set_oddities(|oddities| oddities.refuses_conditions = true);
    let error = put(&S3Store::on(&server, &settings()), "a", b"x", Tier::Metadata).await.unwrap_err();
    assert!(error.to_string().contains("conditional_put = false"), "{error}");
    let store = S3Store::on(&server, &S3Settings { conditional_put: false, ..settings() });
    assert_eq!(put(&store, "a", b"x", Tier::Metadata).await.unwrap(), PutOutcome::Stored);
}

fn with_retries(store: S3Store) -> Store {
    let policy = RetryPolicy { first_delay: Duration::from_millis(1), ..RetryPolicy::default() };
    let limited = LimitStore::new(Arc::new(store), settings().concurrency);
    Arc::new(RetryStore::new(Arc::new(limited), policy))
}

#[tokio::test]
async fn a_put_whose_reply_was_lost_meets_itself() {
    let server = S3Server::start().await;
    let store = with_retries(S3Store::on(&server, &settings()));
    for body in [random_bytes(1000), random_bytes(3_500_000)] {
        server.set_oddities(|oddities| oddities.lost_replies = 1);
        let key = key(&format!("data/{}", body.len()));
        assert_eq!(store.put(&key, body.clone().into(), Tier::Data).await.unwrap(), PutOutcome::Stored);
        assert_eq!(store.get(&key, u64::MAX).await.unwrap(), body);
    }
    assert_eq!(server.unfinished_uploads(), 0);
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let server = S3Server::start().await;
    let store = with_retries(S3Store::on(&server, &settings()));
    server.set_oddities(|oddities| oddities.slow_downs = 5);
    store.put(&key("a"), Bytes::from_static(b"x"), Tier::Metadata).await.unwrap();
    server.set_oddities(|oddities| oddities.slow_downs = 5);
    assert_eq!(store.get(&key("a"), 1).await.unwrap(), "x");
}

#[tokio::test]
async fn objects_with_foreign_names_are_not_listed() {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, &settings()).with_page_size(1);
    for text in ["a", "d"] {
        put(&store, text, b"x", Tier::Metadata).await.unwrap();
    }
    let ours = server.object("folder/repository/a").unwrap();
    for foreign in
        ["folder/repository/b c", "folder/repository/c//", "folder/repository/ü", "folder/repository2/a", "z"]
    {
        server.insert(foreign, ours.clone());
    }
    let keys: Vec<_> = crate::store::list_all(&store, "").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, [key("a"), key("d")]);
}

#[tokio::test]
async fn a_listing_that_has_not_arrived_whole_is_asked_for_again() {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, &settings());
    for text in ["a", "b"] {
        put(&store, text, b"x", Tier::Metadata).await.unwrap();
    }
    server.set_oddities(|oddities| oddities.short_listings = 1);
    assert_eq!(store.list_page("", None).await.unwrap_err().kind, StoreErrorKind::Transient);
    assert_eq!(store.list_page("", None).await.unwrap().objects.len(), 2);
    server.set_oddities(|oddities| oddities.short_listings = 1);
    assert_eq!(crate::store::list_all(with_retries(store).as_ref(), "").await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_upload_that_somebody_has_aborted_is_begun_anew() {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, &settings());
    let id = store.begin_parts(&key("data/a"), Tier::Data).await.unwrap();
    assert_eq!(store.remove_unfinished("data/", Timestamp::MAX).await.unwrap(), 1);
    let part = store.put_part(&key("data/a"), &id, 1, Bytes::from_static(b"part")).await;
    assert_eq!(part.unwrap_err().kind, StoreErrorKind::Transient);
}

#[tokio::test]
async fn refusals_name_the_bucket_and_say_what_to_do() {
    let server = S3Server::start().await;
    let cases = [
        (BUCKET, ACCESS_KEY, "wrong", "check the secret access key"),
        (BUCKET, "UNKNOWN", SECRET_KEY, "check what these credentials are allowed to do"),
        ("other-bucket", ACCESS_KEY, SECRET_KEY, "make the bucket first, or correct its name"),
    ];
    for (bucket, id, secret, advice) in cases {
        let credentials = aws_sdk_s3::config::Credentials::new(id, secret, None, None, "test");
        let store = S3Store::with_credentials(server.endpoint(), bucket, &settings(), credentials);
        let error = store.list_page("config/", None).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("listing s3://{bucket}/folder/repository/config/: the server says ")),
            "{error}"
        );
        assert!(error.ends_with(advice), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come_back() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let credentials = aws_sdk_s3::config::Credentials::new("id", "secret", None, None, "test");
    let store = S3Store::with_credentials(&endpoint, BUCKET, &settings(), credentials);
    let error = store.head(&key("a")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Transient);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

/// Time passes as fast as nothing happens.
#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_given_up_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let settings = S3Settings { connect_timeout: Duration::from_hours(1), ..settings() };
    let credentials = aws_sdk_s3::config::Credentials::new("id", "secret", None, None, "test");
    let store = S3Store::with_credentials(&endpoint, BUCKET, &settings, credentials);
    // Connections are accepted by the kernel, and nobody answers.
    let (body, absent) = (vec![0; 900_000], key("a"));
    let started_at = Instant::now();
    let errors = tokio::join!(
        store.get(&absent, 10).map(Result::unwrap_err),
        put(&store, "a", &body, Tier::Data).map(Result::unwrap_err),
        store.list_page("", None).map(Result::unwrap_err),
    );
    for error in <[StoreError; 3]>::from(errors) {
        assert_eq!(error.kind, StoreErrorKind::Transient);
        assert!(error.to_string().contains("no byte went either way"), "{error}");
    }
    assert_eq!(started_at.elapsed().as_secs(), ANSWER_TIMEOUT.as_secs());
    drop(listener);
}

/// A rule of a bucket's lifecycle, with the filter and all else left to the test.
fn bucket_rule(id: &str, prefix: Option<&str>) -> s3s::dto::LifecycleRule {
    s3s::dto::LifecycleRule {
        id: Some(id.to_owned()),
        filter: prefix.map(|prefix| s3s::dto::LifecycleRuleFilter {
            prefix: Some(prefix.to_owned()),
            ..s3s::dto::LifecycleRuleFilter::default()
        }),
        status: s3s::dto::ExpirationStatus::from_static("Enabled"),
        abort_incomplete_multipart_upload: None,
        expiration: None,
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        transitions: None,
    }
}

#[tokio::test]
async fn what_a_bucket_does_by_itself_is_learnt() {
    let after_days =
        |days| Some(s3s::dto::LifecycleExpiration { days: Some(days), ..s3s::dto::LifecycleExpiration::default() });
    let to = |class: &'static str| {
        let storage_class = Some(s3s::dto::TransitionStorageClass::from_static(class));
        Some(vec![s3s::dto::Transition { storage_class, ..s3s::dto::Transition::default() }])
    };
    let disabled = s3s::dto::ExpirationStatus::from_static("Disabled");
    let markers = s3s::dto::LifecycleExpiration {
        expired_object_delete_marker: Some(true),
        ..s3s::dto::LifecycleExpiration::default()
    };
    let rules = vec![
        s3s::dto::LifecycleRule { expiration: after_days(30), ..bucket_rule("deletes", Some("folder/")) },
        s3s::dto::LifecycleRule { transitions: to("GLACIER"), ..bucket_rule("archives all", None) },
        s3s::dto::LifecycleRule { expiration: after_days(1), status: disabled, ..bucket_rule("off", None) },
        s3s::dto::LifecycleRule { expiration: Some(markers), ..bucket_rule("markers only", None) },
    ];
    let server = S3Server::start().await;
    server.set_rules(server::BucketRules { versioning: true, object_lock: false, lifecycle: rules });
    let rule = |id: &str, prefix: &str, deletes, moves_to: &[&str]| crate::store::policy::LifecycleRule {
        id: id.to_owned(),
        prefix: prefix.to_owned(),
        deletes,
        moves_to: moves_to.iter().map(|class| (*class).to_owned()).collect(),
    };
    let expected = Policies {
        prefix: "folder/repository/".to_owned(),
        versioning: Ok(true),
        object_lock: Ok(false),
        lifecycle: Ok(vec![rule("deletes", "folder/", true, &[]), rule("archives all", "", false, &["GLACIER"])]),
    };
    assert_eq!(S3Store::on(&server, &settings()).policies().await, Some(expected));
}

#[tokio::test]
async fn a_bucket_without_rules_and_one_that_does_not_say_are_told_apart() {
    let server = S3Server::start().await;
    let store = S3Store::on(&server, &settings());
    let silent = store.policies().await.unwrap();
    assert!(silent.versioning.is_err() && silent.object_lock.is_err() && silent.lifecycle.is_err(), "{silent:?}");

    server.set_rules(server::BucketRules::default());
    let none = store.policies().await.unwrap();
    assert_eq!((none.versioning, none.object_lock, none.lifecycle), (Ok(false), Ok(false), Ok(Vec::new())));
}
