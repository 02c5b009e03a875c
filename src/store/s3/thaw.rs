//! Archived objects of a bucket.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{GlacierJobParameters, RestoreRequest, StorageClass, Tier};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::error::OperationError;
use super::{S3Store, class_name};
use crate::store::failure::Failure;
use crate::store::thaw::{ThawOutcome, ThawRequest, ThawState, ThawTier};
use crate::store::{Key, StoreErrorKind};

impl S3Store {
    pub(super) async fn state_of(&self, key: &Key) -> Result<ThawState, Failure> {
        Ok(state(&self.head_object(key).await?.ok_or_else(Failure::not_found)?))
    }

    pub(super) async fn ask_for_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, Failure> {
        let tier = match request.tier {
            ThawTier::Expedited => Tier::Expedited,
            ThawTier::Standard => Tier::Standard,
            ThawTier::Bulk => Tier::Bulk,
        };
        let parameters = GlacierJobParameters::builder().tier(tier).build();
        let parameters = parameters.map_err(|error| Failure::other(format!("the request cannot be made: {error}")))?;
        let days = request.days.map(|days| i32::try_from(days).unwrap_or(i32::MAX));
        let restore = RestoreRequest::builder().set_days(days).glacier_job_parameters(parameters).build();
        let request =
            self.client.restore_object().bucket(&self.bucket).key(self.full_key(key)).restore_request(restore);
        match self.answer(Box::pin(request.send())).await? {
            Ok(_) => Ok(ThawOutcome::Requested),
            Err(error) => match code(&error) {
                Some("RestoreAlreadyInProgress") => Ok(ThawOutcome::InProgress),
                // The latter for an object of a class that is never archived.
                Some("ObjectAlreadyInActiveTierError" | "InvalidObjectState") => Ok(ThawOutcome::NotNeeded),
                // It has status 503, but does not pass as quickly as others do.
                Some("GlacierExpeditedRetrievalNotAvailable") => Err(Failure {
                    kind: StoreErrorKind::Other,
                    reason: "the server has no room for expedited thaws now; --thaw-tier standard may do".to_owned(),
                }),
                _ => Err(self.failure(&error)),
            },
        }
    }
}

fn code<E: ProvideErrorMetadata>(error: &OperationError<E>) -> Option<&str> {
    match error {
        SdkError::ServiceError(answer) => answer.err().code(),
        _ => None,
    }
}

/// What an answer says of an object: by `x-amz-restore` where a thaw was asked for, else by its class.
fn state(found: &HeadObjectOutput) -> ThawState {
    let class = class_name(found.storage_class().map(StorageClass::as_str));
    let is_archival = class.is_some_and(|class| class.is_archival()) || found.archive_status().is_some();
    match found.restore() {
        Some(restore) if restore.contains("ongoing-request=\"true\"") => ThawState::Thawing,
        _ if !is_archival => ThawState::Readable,
        Some(restore) if restore.contains("ongoing-request=\"false\"") => ThawState::Thawed { until: expiry(restore) },
        _ => ThawState::Archived,
    }
}

/// The time in `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
fn expiry(restore: &str) -> Option<Timestamp> {
    let (_, date) = restore.split_once("expiry-date=\"")?;
    let (date, _) = date.split_once('"')?;
    DateTimeParser::new().parse_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::ArchiveStatus;

    use super::*;

    fn answer(class: Option<StorageClass>, restore: Option<&str>) -> HeadObjectOutput {
        HeadObjectOutput::builder().set_storage_class(class).set_restore(restore.map(str::to_owned)).build()
    }

    #[test]
    fn an_object_is_as_its_class_and_its_thaw_say() {
        let ongoing = Some("ongoing-request=\"true\"");
        let done = Some("ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"");
        let until = "2012-12-21T00:00:00Z".parse().ok();
        for class in [StorageClass::Glacier, StorageClass::DeepArchive] {
            assert_eq!(state(&answer(Some(class.clone()), None)), ThawState::Archived);
            assert_eq!(state(&answer(Some(class.clone()), ongoing)), ThawState::Thawing);
            assert_eq!(state(&answer(Some(class), done)), ThawState::Thawed { until });
        }
        for class in [None, Some(StorageClass::GlacierIr), Some(StorageClass::StandardIa)] {
            assert_eq!(state(&answer(class, None)), ThawState::Readable);
        }
    }

    #[test]
    fn an_object_of_intelligent_tiering_is_archived_where_the_answer_says_so() {
        let class = Some(StorageClass::IntelligentTiering);
        assert_eq!(state(&answer(class.clone(), None)), ThawState::Readable);
        let archived =
            HeadObjectOutput::builder().set_storage_class(class).archive_status(ArchiveStatus::ArchiveAccess);
        assert_eq!(state(&archived.clone().build()), ThawState::Archived);
        assert_eq!(state(&archived.restore("ongoing-request=\"true\"").build()), ThawState::Thawing);
    }
}
