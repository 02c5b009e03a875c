//! How the server in memory archives and thaws, as AWS does it: reads of archived objects are refused, a thaw takes its
//! time, and its copy can be read for some days.

use std::time::{Duration, SystemTime};

use s3s::dto::{GlacierJobParameters, RestoreObjectOutput, RestoreRequest, Tier};
use s3s::{S3Response, S3Result, s3_error};

use super::{Kept, State, Thaw};

const HOUR: Duration = Duration::from_hours(1);

/// Whether an object is archived, and not thawed at this time.
pub(super) fn is_refused(kept: &Kept, now: SystemTime) -> bool {
    let is_readable = |thaw: Thaw| thaw.from <= now && now < thaw.until;
    is_archival(kept) && !kept.thaw.is_some_and(is_readable)
}

fn is_archival(kept: &Kept) -> bool {
    matches!(kept.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"))
}

/// The header `x-amz-restore`, which is there from the request to thaw until the copy is gone.
pub(super) fn restore_header(kept: &Kept, now: SystemTime) -> Option<String> {
    let thaw = kept.thaw.filter(|thaw| is_archival(kept) && now < thaw.until)?;
    if now < thaw.from {
        return Some("ongoing-request=\"true\"".to_owned());
    }
    let until = jiff::Timestamp::try_from(thaw.until).unwrap();
    let until = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&until).unwrap();
    Some(format!("ongoing-request=\"false\", expiry-date=\"{until}\""))
}

impl State {
    /// Begins to thaw an object, or lets its thawed copy be kept longer.
    pub(super) fn thaw(&mut self, key: &str, request: RestoreRequest) -> S3Result<S3Response<RestoreObjectOutput>> {
        let now = self.now();
        let takes = self.oddities.thaw_takes;
        let kept = self.objects.get_mut(key).ok_or_else(|| s3_error!(NoSuchKey))?;
        if !is_archival(kept) {
            let message = "Restore is not allowed for the object's current storage class";
            return Err(s3_error!(InvalidObjectState, "{}", message));
        }
        let days = request.days.filter(|days| *days > 0).ok_or_else(|| s3_error!(MalformedXML))?;
        let GlacierJobParameters { tier } = request.glacier_job_parameters.ok_or_else(|| s3_error!(MalformedXML))?;
        let longest = longest(kept.storage_class.as_deref(), tier.as_str());
        let longest = longest.ok_or_else(|| s3_error!(InvalidArgument, "the class knows no such tier"))?;
        let from = match kept.thaw.filter(|thaw| now < thaw.until) {
            Some(thaw) if now < thaw.from => {
                self.archive.already_in_progress += 1;
                return Err(s3_error!(RestoreAlreadyInProgress, "Object restore is already in progress"));
            }
            Some(thaw) => {
                self.archive.extended += 1;
                thaw.from
            }
            None => {
                self.archive.thaws += 1;
                now + takes.unwrap_or(longest)
            }
        };
        let until = from.max(now) + HOUR * 24 * u32::try_from(days).unwrap();
        kept.thaw = Some(Thaw { from, until });
        Ok(S3Response::new(RestoreObjectOutput::default()))
    }
}

fn longest(class: Option<&str>, tier: &str) -> Option<Duration> {
    match (class, tier) {
        (Some("DEEP_ARCHIVE"), Tier::STANDARD) | (Some("GLACIER"), Tier::BULK) => Some(HOUR * 12),
        (Some("DEEP_ARCHIVE"), Tier::BULK) => Some(HOUR * 48),
        (Some("GLACIER"), Tier::STANDARD) => Some(HOUR * 5),
        (Some("GLACIER"), Tier::EXPEDITED) => Some(HOUR / 12),
        _ => None,
    }
}
