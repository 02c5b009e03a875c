//! What a bucket does with objects by itself.

use std::error::Error;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ExpirationStatus, LifecycleRule as Rule, LifecycleRuleFilter, ObjectLockEnabled,
};

use super::S3Store;
use super::error::{OperationError, is_not_offered};
use crate::store::policy::{Learnt, LifecycleRule, Policies};

impl S3Store {
    pub(super) async fn read_policies(&self) -> Policies {
        Policies {
            prefix: self.key_prefix.clone(),
            versioning: self.versioning().await,
            object_lock: self.object_lock().await,
            lifecycle: self.lifecycle().await,
        }
    }

    async fn versioning(&self) -> Learnt<bool> {
        let request = self.client.get_bucket_versioning().bucket(&self.bucket);
        let answer = self.learn(Box::pin(request.send()), &[]).await?;
        Ok(answer.is_some_and(|answer| answer.status() == Some(&BucketVersioningStatus::Enabled)))
    }

    async fn object_lock(&self) -> Learnt<bool> {
        let request = self.client.get_object_lock_configuration().bucket(&self.bucket);
        let answer = self.learn(Box::pin(request.send()), &["ObjectLockConfigurationNotFoundError"]).await?;
        let lock = answer.and_then(|answer| answer.object_lock_configuration);
        Ok(lock.is_some_and(|lock| lock.object_lock_enabled() == Some(&ObjectLockEnabled::Enabled)))
    }

    async fn lifecycle(&self) -> Learnt<Vec<LifecycleRule>> {
        let request = self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket);
        let answer = self.learn(Box::pin(request.send()), &["NoSuchLifecycleConfiguration"]).await?;
        let rules = answer.and_then(|answer| answer.rules).unwrap_or_default();
        Ok(rules.iter().filter_map(lifecycle_rule).collect())
    }

    /// Asks for a part of the bucket's configuration; nothing if there is no such part, which a server says by one of the
    /// codes `absent`.
    async fn learn<T, E: ProvideErrorMetadata + Error + 'static>(
        &self,
        request: impl Future<Output = Result<T, OperationError<E>>>,
        absent: &[&str],
    ) -> Learnt<Option<T>> {
        match self.answer(request).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(error)) if error.code().is_some_and(|code| absent.contains(&code)) => Ok(None),
            Ok(Err(error)) if is_not_offered(&error) => Err("the server does not say, or not to us".to_owned()),
            Ok(Err(error)) => Err(self.failure(&error).reason),
            Err(failure) => Err(failure.reason),
        }
    }
}

/// A rule as far as it matters for objects without tags; `None` if it does not.
fn lifecycle_rule(rule: &Rule) -> Option<LifecycleRule> {
    let is_tagged =
        |filter: &LifecycleRuleFilter| filter.tag().is_some() || filter.and().is_some_and(|and| !and.tags().is_empty());
    if *rule.status() != ExpirationStatus::Enabled || rule.filter().is_some_and(is_tagged) {
        return None;
    }
    let of_filter = |filter: &LifecycleRuleFilter| {
        let all = filter.and().and_then(|and| and.prefix());
        filter.prefix().or(all).unwrap_or_default().to_owned()
    };
    #[expect(deprecated, reason = "old rules have their prefix outside of a filter")]
    let outside = rule.prefix().unwrap_or_default().to_owned();
    // A rule that only clears away delete markers has an expiration as well, without a time.
    let deletes =
        rule.expiration().is_some_and(|expiration| expiration.days().is_some() || expiration.date().is_some());
    let classes = rule.transitions().iter().filter_map(|transition| transition.storage_class());
    let moves_to = classes.map(|class| class.as_str().to_owned()).collect();
    let prefix = rule.filter().map_or(outside, of_filter);
    let rule = LifecycleRule { id: rule.id().unwrap_or_default().to_owned(), prefix, deletes, moves_to };
    (rule.deletes || !rule.moves_to.is_empty()).then_some(rule)
}
