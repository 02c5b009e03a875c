//! Options of commands that read what may be archived.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::context::Context;
use crate::config::THAW_DAYS_MAX;
use crate::cost::reading::{Reading, ReadingPlan, cost_of};
use crate::repository::Repository;
use crate::repository::catalog::Published;
use crate::restore::{DataListing, PackState, RestoreOptions, ThawAgain, ThawOptions, Thawing, states_before_restore};
use crate::size::parse_duration;
use crate::store::StorageClassName;
use crate::store::thaw::{ThawState, ThawTier};

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

    /// Has all that these backups need thawed, in one wave; gives how a restore goes that waits for what it comes to, and has
    /// packs thawed again by the same rules.
    pub(crate) async fn begin(
        &self,
        context: &Context,
        repository: &Repository,
        backups: &[Published],
        listing: &DataListing,
    ) -> anyhow::Result<RestoreOptions> {
        let options = context.restore_options();
        let states = states_before_restore(repository, backups, listing, &options, &context.monitor()).await?;
        let thawing = Some(Arc::new(self.begin_known(context, repository, &states).await?));
        let thaw_again = Some(ThawAgain { options: self.options(context), later: Vec::new() });
        Ok(RestoreOptions { thawing, thaw_again, ..options })
    }

    /// Has packs thawed that have just been looked at, in one wave.
    pub(crate) async fn begin_known(
        &self,
        context: &Context,
        repository: &Repository,
        states: &[PackState],
    ) -> anyhow::Result<Thawing> {
        let thaw = self.options(context);
        if let Some(text) = announcement(context, states, &thaw) {
            tracing::info!("{text}");
        }
        Thawing::begin(repository, states, &thaw).await
    }
}

/// What is about to be asked for and what it will cost, where anything is.
fn announcement(context: &Context, states: &[PackState], thaw: &ThawOptions) -> Option<String> {
    let mut plan = ReadingPlan::default();
    for pack in states {
        add_pack(&mut plan, pack);
    }
    let thaw_days = thaw.days_for(plan.cold_bytes());
    let prices = &context.config.prices;
    let cost = cost_of(&plan, Reading { bytes_per_second: 1, thaw_days }, prices);
    let cost = cost.thaws.iter().find(|cost| cost.tier == thaw.tier)?;
    let packs: u64 = plan.archived.values().map(|amount| amount.objects).sum();
    Some(format!(
        "asking for a {} thaw of {packs} packs: about {} {currency}, and {} {currency} for copies that are kept for \
         {thaw_days} days",
        thaw.tier,
        cost.thaw,
        cost.copies,
        currency = prices.currency
    ))
}

/// The class of a pack.
pub(crate) fn class_of(pack: &PackState) -> StorageClassName {
    pack.object.storage_class.clone().unwrap_or_else(StorageClassName::standard)
}

/// Adds a pack to a plan, by its class and state.
pub(crate) fn add_pack(plan: &mut ReadingPlan, pack: &PackState) {
    let bytes = pack.object.size_bytes;
    plan.packs.entry(class_of(pack)).or_default().add(bytes);
    match pack.thaw {
        ThawState::Readable => {}
        ThawState::Archived => plan.archived.entry(class_of(pack)).or_default().add(bytes),
        ThawState::Thawing => plan.thawing.add(bytes),
        ThawState::Thawed { .. } => plan.thawed.add(bytes),
    }
}
