//! Counts what is sent to the server, each try and each part of an upload on its own: so it is what a provider charges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use crate::store::requests::RequestCounts;

/// Counts the requests of a client. Clones share one count.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestCounter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    writes: AtomicU64,
    lists: AtomicU64,
    reads: AtomicU64,
    deletes: AtomicU64,
}

impl RequestCounter {
    /// What has been sent until now.
    pub(super) fn counts(&self) -> RequestCounts {
        let Counters { writes, lists, reads, deletes } = &*self.0;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts { writes: load(writes), lists: load(lists), reads: load(reads), deletes: load(deletes) }
    }

    fn count(&self, method: &str, uri: &str) {
        let counters = &self.0;
        let counter = match method {
            "GET" if is_listing(uri) => &counters.lists,
            "GET" | "HEAD" => &counters.reads,
            "DELETE" => &counters.deletes,
            _ => &counters.writes,
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
        self.count(request.method(), request.uri());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_cost() {
        let counter = RequestCounter::default();
        for (method, uri) in [
            ("PUT", "http://host/bucket/data/list-type=2?x-id=PutObject"),
            ("POST", "http://host/bucket/key?uploads"),
            ("GET", "http://host/bucket/?list-type=2&prefix=data%2F"),
            ("GET", "http://host/bucket?uploads&prefix=x"),
            ("GET", "http://host/bucket/list-type=2?x-id=GetObject"),
            ("HEAD", "http://host/bucket/key"),
            ("DELETE", "http://host/bucket/key?x-id=DeleteObject"),
        ] {
            counter.count(method, uri);
        }
        let expected = RequestCounts { writes: 2, lists: 2, reads: 2, deletes: 1 };
        assert_eq!((counter.counts(), expected.total()), (expected, 7));
    }
}
