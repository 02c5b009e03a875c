//! Options of commands that read what may be archived.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cli::context::Context;
use crate::config::THAW_DAYS_MAX;
use crate::repository::Repository;
use crate::repository::catalog::Published;
use crate::restore::{RestoreOptions, ThawAgain, ThawOptions, data_packs, thaw_packs};
use crate::size::parse_duration;
use crate::store::thaw::ThawTier;

/// How archived objects are thawed, where the configuration does not say it right.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Archived objects")]
pub(crate) struct ThawArguments {
    /// Waits until archived objects are thawed, instead of asking for it and ending with exit code 6
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    wait_for_thaw: Option<bool>,
    /// Waits for so long at most, such as `48h`; then ends with exit code 6
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    thaw_timeout: Option<Duration>,
    /// How fast: expedited, standard or bulk
    #[arg(long, value_name = "TIER")]
    thaw_tier: Option<ThawTier>,
    /// Days for which thawed copies are kept
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(THAW_DAYS_MAX)))]
    thaw_days: Option<u32>,
}

impl ThawArguments {
    pub(crate) fn options(&self, context: &Context) -> ThawOptions {
        let configured = &context.config.restore;
        ThawOptions {
            wait: self.wait_for_thaw.unwrap_or(configured.wait_for_thaw),
            timeout: self.thaw_timeout.unwrap_or(configured.thaw_timeout),
            tier: self.thaw_tier.unwrap_or(configured.thaw_tier),
            days: self.thaw_days.or(configured.thaw_days),
            bytes_per_second: context.config.s3.download_bytes_per_second,
        }
    }

    /// How a restore goes that has packs thawed again by the same rules.
    pub(crate) fn restore_options(&self, context: &Context) -> RestoreOptions {
        let thaw_again = Some(ThawAgain { options: self.options(context), later: Vec::new() });
        RestoreOptions { thaw_again, ..RestoreOptions::new(context.scratch_directory()) }
    }

    /// Has all that these backups need thawed, in one wave.
    pub(crate) async fn thaw(
        &self,
        context: &Context,
        repository: &Repository,
        backups: &[Published],
    ) -> anyhow::Result<()> {
        let options = RestoreOptions::new(context.scratch_directory());
        let mut packs = BTreeSet::new();
        for backup in backups {
            packs.extend(data_packs(repository, &backup.manifest, &options, &context.monitor()).await?);
        }
        thaw_packs(repository, &packs, &self.options(context)).await
    }
}
