//! What a server's answer, or the lack of one, means for the caller and for the user.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreErrorKind;
use crate::store::failure::Failure;

/// An error of an operation of the SDK.
pub(super) type OperationError<E> = SdkError<E, HttpResponse>;

/// Whether the server refused to store an object because there is one already.
pub(super) fn is_precondition_failed<E: ProvideErrorMetadata>(error: &OperationError<E>) -> bool {
    matches!(error, SdkError::ServiceError(answer)
        if answer.raw().status().as_u16() == 412 || answer.err().code() == Some("PreconditionFailed"))
}

/// Whether the server does not know the operation, or does not let us have it.
pub(super) fn is_not_offered<E: ProvideErrorMetadata>(error: &OperationError<E>) -> bool {
    matches!(error, SdkError::ServiceError(answer)
        if matches!(answer.raw().status().as_u16(), 403 | 405 | 501))
}

/// What an error of the SDK means. `was_let_in` says whether the server has answered before: then there were credentials,
/// and that they cannot be renewed may pass.
pub(super) fn failure<E: ProvideErrorMetadata + Error + 'static>(
    error: &OperationError<E>,
    was_let_in: bool,
) -> Failure {
    match error {
        SdkError::ServiceError(answer) => {
            let metadata = answer.err();
            server_failure(answer.raw().status().as_u16(), metadata.code(), metadata.message())
        }
        SdkError::TimeoutError(_) => transient("the server did not answer in time"),
        SdkError::ResponseError(_) => transient(format!("the answer cannot be understood: {}", root_cause(error))),
        SdkError::DispatchFailure(dispatch) => not_answered(&causes(error), dispatch.is_user(), was_let_in),
        _ => not_answered(&causes(error), true, was_let_in),
    }
}

/// A request that was not sent, or whose connection was not made, or broke.
fn not_answered(causes: &[String], is_users_fault: bool, was_let_in: bool) -> Failure {
    let cause = causes.last().map_or("", String::as_str);
    let says = |word: &str| causes.iter().any(|cause| cause.contains(word));
    if says("credential") || says("identity") {
        return without_credentials(cause, was_let_in);
    }
    if says("certificate") {
        let advice = "SSL_CERT_FILE can name a file with the certificate to trust";
        return Failure::other(format!("the server's certificate is not accepted: {cause}; {advice}"));
    }
    if says("InvalidContentType") {
        return Failure::other("the server does not speak https: is it an http:// endpoint?");
    }
    if is_users_fault {
        return Failure::other(format!("the request cannot be sent: {}", causes.join(": ")));
    }
    transient(format!("the server cannot be reached: {cause}"))
}

fn without_credentials(cause: &str, was_let_in: bool) -> Failure {
    if was_let_in {
        return transient(format!("the credentials cannot be renewed: {cause}"));
    }
    let reason = format!(
        "there are no credentials, neither in the environment nor in a profile nor from an instance role ({cause}); set \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for SSO, run `aws sso login`"
    );
    Failure { kind: StoreErrorKind::Denied, reason }
}

fn server_failure(status: u16, code: Option<&str>, message: Option<&str>) -> Failure {
    let (kind, advice) = classify(status, code.unwrap_or_default());
    if kind == StoreErrorKind::NotFound {
        return Failure::not_found();
    }
    let code = code.map_or_else(|| format!("status {status}"), |code| format!("{code} (status {status})"));
    let message = message.map(|message| format!(": {}", one_line(message))).unwrap_or_default();
    let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
    Failure { kind, reason: format!("the server says {code}{message}{advice}") }
}

/// What a server's error means, and what the user can do about it. Codes are those of the S3 API reference, "Error
/// responses".
fn classify(status: u16, code: &str) -> (StoreErrorKind, Option<&'static str>) {
    use StoreErrorKind::{Archived, Denied, Full, NotFound, Other, OutOfRange, Transient};
    match (code, status) {
        ("NoSuchBucket", _) => (Other, Some("make the bucket first, or correct its name")),
        ("NoSuchKey" | "NotFound" | "NoSuchUpload", _) => (NotFound, None),
        ("InvalidRange", _) | (_, 416) => (OutOfRange, None),
        ("InvalidObjectState", _) => (Archived, Some("the object is archived and has to be thawed first")),
        ("InvalidAccessKeyId", _) => (Denied, Some("check the access key id")),
        ("SignatureDoesNotMatch", _) => (Denied, Some("check the secret access key")),
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken", _) => {
            (Denied, Some("the credentials have expired: get new ones"))
        }
        ("RequestTimeTooSkewed", _) => (Other, Some("set this host's clock")),
        ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException", _) | (_, 301) => {
            (Other, Some("check the region: `region` in [s3], or AWS_REGION"))
        }
        ("InvalidStorageClass", _) => (Other, Some("check storage_class_data and storage_class_metadata in [s3]")),
        ("QuotaExceeded" | "StorageFull" | "XMinioStorageFull", _) | (_, 507) => (Full, Some("make room there")),
        ("NotImplemented", _) | (_, 501) => {
            (Other, Some("conditional_put = false in [s3] may help with a server that knows no If-None-Match"))
        }
        (code, _) if is_passing(code) => (Transient, None),
        // An error in an answer that began well, or one that is no XML.
        (_, 200..=299 | 307 | 408 | 429 | 500..=599) => (Transient, None),
        (code, _) if code.starts_with("KMS.") => (Denied, Some("check sse_kms_key_id in [s3] and that key's policy")),
        (_, 404) => (NotFound, None),
        (_, 401 | 403) => (Denied, Some("check what these credentials are allowed to do")),
        _ => (Other, None),
    }
}

/// Whether an error with this code may not be there the next time, whatever its status: the server is busy, or what
/// arrived is not what was sent. The codes of a busy server are those that the SDK would try again as well.
fn is_passing(code: &str) -> bool {
    let is_busy = code.starts_with("Throttl") || code.starts_with("RequestThrottled");
    let others = [
        "BadDigest",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "InvalidDigest",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "TemporaryRedirect",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    ];
    is_busy || others.contains(&code)
}

pub(super) fn transient(reason: impl Into<String>) -> Failure {
    Failure { kind: StoreErrorKind::Transient, reason: reason.into() }
}

/// The words of an error and of all that caused it.
fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut causes = vec![one_line(&error.to_string())];
    let mut next = error.source();
    while let Some(error) = next {
        causes.push(one_line(&error.to_string()));
        next = error.source();
    }
    causes.dedup();
    causes
}

pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).pop().unwrap_or_default()
}

/// A server's text on one line and not too long, without what could move a terminal's cursor.
fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(300).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_server_said_and_what_to_do() {
        let failure = server_failure(403, Some("InvalidAccessKeyId"), Some("No such\nkey\u{1b}[2J"));
        assert_eq!(failure.kind, StoreErrorKind::Denied);
        let expected = "the server says InvalidAccessKeyId (status 403): No such key [2J; check the access key id";
        assert_eq!(failure.reason, expected);
        assert_eq!(server_failure(403, None, None).kind, StoreErrorKind::Denied);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, code) in [(503, "SlowDown"), (500, "InternalError"), (400, "RequestTimeout"), (429, ""), (502, "")]
        {
            assert_eq!(classify(status, code).0, StoreErrorKind::Transient, "{status} {code}");
        }
        for (status, code) in
            [(403, "AccessDenied"), (400, "ExpiredToken"), (404, "NoSuchBucket"), (501, ""), (507, "")]
        {
            assert_ne!(classify(status, code).0, StoreErrorKind::Transient, "{status} {code}");
        }
    }

    #[test]
    fn only_credentials_that_were_there_before_may_come_back() {
        let causes = ["dispatch failure".to_owned(), "an error occurred while loading credentials".to_owned()];
        assert_eq!(not_answered(&causes, false, false).kind, StoreErrorKind::Denied);
        assert_eq!(not_answered(&causes, false, true).kind, StoreErrorKind::Transient);
        let closed = ["connection closed before message completed".to_owned()];
        assert_eq!(not_answered(&closed, false, false).kind, StoreErrorKind::Transient);
    }

    #[test]
    fn a_missing_object_is_not_a_missing_bucket() {
        assert_eq!(server_failure(404, Some("NoSuchKey"), None).reason, "there is no such object");
        assert_eq!(server_failure(404, None, None).kind, StoreErrorKind::NotFound);
        let bucket = server_failure(404, Some("NoSuchBucket"), Some("The specified bucket does not exist"));
        assert_eq!(bucket.kind, StoreErrorKind::Other);
        assert!(bucket.reason.ends_with("make the bucket first, or correct its name"), "{}", bucket.reason);
    }
}
