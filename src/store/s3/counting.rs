//! Counts what is sent to the server, each try and each part of an upload on its own: so it is what a provider charges.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use crate::store::StorageClassName;
use crate::store::requests::{RequestCounts, StoredInClass, Usage};

/// Names the class of what is stored.
const CLASS_HEADER: &str = "x-amz-storage-class";

/// Counts the requests of a client. Clones share one count.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestCounter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    stored: Mutex<BTreeMap<StorageClassName, StoredInClass>>,
    lists: AtomicU64,
    reads: AtomicU64,
    deletes: AtomicU64,
}

impl RequestCounter {
    /// All that has been asked until now, of AWS or of another server.
    pub(super) fn usage(&self, is_aws: bool) -> Usage {
        Usage { requests: self.counts(), stored: self.by_class().clone(), is_aws }
    }

    fn counts(&self) -> RequestCounts {
        let Counters { lists, reads, deletes, .. } = &*self.0;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let writes = self.by_class().values().map(|stored| stored.writes).sum();
        RequestCounts { writes, lists: load(lists), reads: load(reads), deletes: load(deletes) }
    }

    /// That an object of so many bytes has been stored; in a class, if one was named.
    pub(super) fn add(&self, class: Option<&StorageClassName>, bytes: u64) {
        let class = class.cloned().unwrap_or_else(StorageClassName::standard);
        self.by_class().entry(class).or_default().add(bytes);
    }

    fn by_class(&self) -> MutexGuard<'_, BTreeMap<StorageClassName, StoredInClass>> {
        self.0.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, method: &str, uri: &str, class: Option<&str>) {
        let counters = &self.0;
        let counter = match method {
            "GET" if is_listing(uri) => &counters.lists,
            "GET" | "HEAD" => &counters.reads,
            "DELETE" => &counters.deletes,
            _ => {
                let class = class.and_then(|class| class.parse().ok()).unwrap_or_else(StorageClassName::standard);
                self.by_class().entry(class).or_default().writes += 1;
                return;
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a GET is one of `ListObjectsV2` or `ListMultipartUploads`.
fn is_listing(uri: &str) -> bool {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| matches!(pair.split('=').next(), Some("list-type" | "uploads")))
}

impl Intercept for RequestCounter {
    fn name(&self) -> &'static str {
        "RequestCounter"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        self.count(request.method(), request.uri(), request.headers().get(CLASS_HEADER));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_cost() {
        let counter = RequestCounter::default();
        let cold: StorageClassName = "COLD".parse().unwrap();
        counter.count("POST", "http://host/bucket/key?uploads", Some("COLD"));
        for (method, uri) in [
            ("PUT", "http://host/bucket/data/list-type=2?x-id=PutObject"),
            ("GET", "http://host/bucket/?list-type=2&prefix=data%2F"),
            ("GET", "http://host/bucket?uploads&prefix=x"),
            ("GET", "http://host/bucket/list-type=2?x-id=GetObject"),
            ("HEAD", "http://host/bucket/key"),
            ("DELETE", "http://host/bucket/key?x-id=DeleteObject"),
        ] {
            counter.count(method, uri, None);
        }
        let expected = RequestCounts { writes: 2, lists: 2, reads: 2, deletes: 1 };
        assert_eq!((counter.counts(), expected.total()), (expected, 7));
        counter.add(Some(&cold), 3 << 20);
        counter.add(Some(&cold), 5);
        let of_cold = StoredInClass { writes: 1, objects: 2, bytes: (3 << 20) + 5, small: vec![5] };
        let of_standard = StoredInClass { writes: 1, ..StoredInClass::default() };
        assert_eq!(
            counter.usage(true).stored,
            BTreeMap::from([(cold, of_cold), (StorageClassName::standard(), of_standard)])
        );
    }
}
