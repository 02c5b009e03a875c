//! `restore --dry-run`: what a restore will take.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::cost::number;
use crate::cli::output;
use crate::cli::restore::RestoreArguments;
use crate::cli::thaw::{add_pack, class_of};
use crate::cost::money::Money;
use crate::cost::reading::{Amount, Reading, ReadingCost, ReadingPlan, ThawCost, cost_of};
use crate::id::PackId;
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::records::manifest::BackupKind;
use crate::repository::catalog::{Published, read_chain, read_streamed};
use crate::repository::plans::without_deleted;
use crate::repository::{Repository, layout};
use crate::restore::{
    ASSUMED_BYTES_PER_SECOND, DataListing, PackState, RestoreOptions, ThawOptions, data_packs, pack_states,
};
use crate::size::ByteSize;
use crate::store::StorageClassName;

/// All that is shown.
struct Shown<'a> {
    backup: &'a Published,
    streams: usize,
    stream_bytes: u64,
    plan: ReadingPlan,
    reading: Reading,
    cost: ReadingCost,
    thaw: ThawOptions,
    /// None of a directory.
    currency: Option<&'a str>,
}

/// Reads metadata, lists packs and looks up archived ones; asks for nothing.
pub(super) async fn dry_run(
    context: &Context,
    repository: &Repository,
    backup: &Published,
    arguments: &RestoreArguments,
) -> anyhow::Result<()> {
    let mut chain = if arguments.stream.is_some() {
        vec![read_streamed(repository, backup.clone()).await?]
    } else {
        read_chain(repository, backup.id()).await?
    };
    chain.retain(|backup| backup.manifest.kind != BackupKind::Unchanged);
    let plan = plan(context, repository, &chain).await?;
    let thaw = arguments.thaw.options(context);
    let reading = Reading {
        bytes_per_second: thaw.bytes_per_second.unwrap_or(ASSUMED_BYTES_PER_SECOND),
        thaw_days: thaw.days_for(plan.cold_bytes()),
    };
    let prices = &context.config.prices;
    let currency = (!context.is_local()?).then_some(prices.currency.as_str());
    let cost = cost_of(&plan, reading, prices);
    let stream_bytes = chain.iter().map(|backup| backup.manifest.stream.bytes).fold(0, u64::saturating_add);
    let shown = Shown { backup, streams: chain.len(), stream_bytes, plan, reading, cost, thaw, currency };
    for class in shown.cost.unknown_classes.iter().filter(|_| currency.is_some()) {
        context.progress.warn(&format!("there are no prices of class {class}: add them to [prices]"));
    }
    context.progress.finish();
    if arguments.json { output::json(&as_json(&shown)) } else { output::text(&as_text(&shown)) }
}

/// Finds out which packs each stream needs, and as what the store has them.
async fn plan(context: &Context, repository: &Repository, chain: &[Published]) -> anyhow::Result<ReadingPlan> {
    let options = RestoreOptions::new(context.scratch_directory());
    let (listing, mut of_streams) = (DataListing::of(repository).await?, Vec::<BTreeSet<PackId>>::new());
    for backup in chain {
        let packs = data_packs(repository, &backup.manifest, &listing, &options, &context.monitor()).await?;
        of_streams.push(packs.into_iter().collect());
    }
    let mut plan = ReadingPlan::default();
    let needed: BTreeSet<PackId> = of_streams.iter().flatten().copied().collect();
    let data = by_id(context, repository, PackClass::Data, &needed, listing.states(repository, &needed).await?);
    let all = chain.iter().flat_map(|backup| backup.manifest.meta_packs.iter().copied()).collect();
    let left = without_deleted(repository, PackClass::Meta, all, &context.record_cache(repository)).await?;
    let of_metadata = |backup: &Published| {
        let packs = backup.manifest.meta_packs.iter().filter(|pack| left.contains(pack));
        packs.copied().collect::<BTreeSet<PackId>>()
    };
    let metadata: Vec<BTreeSet<PackId>> = chain.iter().map(of_metadata).collect();
    let needed: BTreeSet<PackId> = metadata.iter().flatten().copied().collect();
    let states = pack_states(repository, PackClass::Meta, &needed).await?;
    let metadata_states = by_id(context, repository, PackClass::Meta, &needed, states);
    for pack in data.values().chain(metadata_states.values()) {
        add_pack(&mut plan, pack);
    }
    for ((backup, data_ids), meta_ids) in chain.iter().zip(&of_streams).zip(&metadata) {
        let data_needed = data_ids.iter().filter_map(|id| data.get(id));
        let needed = data_needed.chain(meta_ids.iter().filter_map(|id| metadata_states.get(id)));
        let packs: Vec<(StorageClassName, u64)> = needed.map(|pack| (class_of(pack), pack.object.size_bytes)).collect();
        plan.add_stream(packs.iter().map(|(class, bytes)| (class, *bytes)), backup.manifest.stream.bytes);
    }
    Ok(plan)
}

/// The packs of some streams by their ids. One that is not there is a problem: its chunks may be in other packs, or lost.
fn by_id(
    context: &Context,
    repository: &Repository,
    class: PackClass,
    needed: &BTreeSet<PackId>,
    states: Vec<PackState>,
) -> BTreeMap<PackId, PackState> {
    let by_id = states.into_iter().filter_map(|pack| Some((layout::parse_pack_key(&pack.object.key)?.1, pack)));
    let by_id: BTreeMap<PackId, PackState> = by_id.collect();
    for missing in needed.iter().filter(|id| !by_id.contains_key(*id)) {
        let key = layout::pack_key(class, missing);
        context
            .progress
            .problem(&format!("{}/{key} is not there: `check` tells what that means", repository.store().url()));
    }
    by_id
}

fn total<'a>(amounts: impl Iterator<Item = &'a Amount>) -> Amount {
    amounts.fold(Amount::default(), |sum, amount| Amount {
        objects: sum.objects + amount.objects,
        bytes: sum.bytes.saturating_add(amount.bytes),
    })
}

fn size(bytes: u64) -> ByteSize {
    ByteSize::from_bytes(bytes)
}

/// A time in words, rounded up.
fn about(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

fn as_text(shown: &Shown<'_>) -> String {
    let Shown { backup, plan, reading, cost, .. } = shown;
    let packs = total(plan.packs.values());
    let mut lines = vec![
        format!(
            "restore of backup {} of '{}', as it was at {}",
            backup.id(),
            backup.manifest.subvolume,
            backup.manifest.created_at
        ),
        format!("streams   {}, {}", shown.streams, size(shown.stream_bytes)),
        format!("packs     {}, {}{}", packs.objects, size(packs.bytes), archived_text(plan)),
        format!("to read   about {} in {} requests", size(plan.bytes), plan.requests()),
    ];
    let Some(currency) = shown.currency else {
        lines.push("cost      none: the repository is a directory".to_owned());
        return lines.join("\n") + "\n";
    };
    let rate = size(reading.bytes_per_second);
    lines.push(format!("time      about {} at {rate}/s", about(cost.reading_time)));
    lines.push(format!(
        "cost      about {} {currency}: requests {}, retrieval {}, transfer {}",
        cost.without_thaw(),
        cost.requests,
        cost.retrieval,
        cost.transfer_out
    ));
    if !cost.thaws.is_empty() {
        let days = reading.thaw_days;
        lines.push(format!("\nand to be thawed before, with copies for {days} days, in {currency}"));
        lines.push(row(["tier", "ready within", "thaw", "copies", "all in all"]));
        lines.extend(cost.thaws.iter().map(|thaw| thaw_row(shown, thaw)));
    }
    lines.push("nothing has been asked for".to_owned());
    lines.join("\n") + "\n"
}

fn archived_text(plan: &ReadingPlan) -> String {
    let archived = plan
        .archived
        .iter()
        .map(|(class, amount)| format!("{} ({}) are archived in {class}", amount.objects, size(amount.bytes)));
    let of = |amount: Amount, what: &str| {
        (amount.objects > 0).then(|| format!("{} ({}) are {what}", amount.objects, size(amount.bytes)))
    };
    let all = archived.chain(of(plan.thawing, "being thawed")).chain(of(plan.thawed, "thawed"));
    let all: Vec<String> = all.collect();
    if all.is_empty() { String::new() } else { format!(", of which {}", all.join(", ")) }
}

fn row(columns: [&str; 5]) -> String {
    let [tier, within, thaw, copies, all] = columns;
    format!("  {tier:22} {within:>12} {thaw:>9} {copies:>9} {all:>10}")
}

fn thaw_row(shown: &Shown<'_>, thaw: &ThawCost) -> String {
    let is_chosen = thaw.tier == shown.thaw.tier;
    let tier = format!("{}{}", thaw.tier, if is_chosen { " (as it is set)" } else { "" });
    let all = all_in_all(&shown.cost, thaw);
    row([&tier, &about(thaw.longest), &thaw.thaw.to_string(), &thaw.copies.to_string(), &all.to_string()])
}

fn all_in_all(cost: &ReadingCost, thaw: &ThawCost) -> Money {
    cost.without_thaw() + thaw.thaw + thaw.copies
}

fn as_json(shown: &Shown<'_>) -> Value {
    let Shown { backup, plan, cost, .. } = shown;
    let amount = |amount: Money| shown.currency.map(|_| number(amount));
    let archived = |class: &StorageClassName| plan.archived.get(class).copied().unwrap_or_default();
    let class = |(class, amount): (&StorageClassName, &Amount)| {
        json!({
            "class": shown.currency.map(|_| class.as_str()),
            "packs": amount.objects,
            "bytes": amount.bytes,
            "archived_packs": archived(class).objects,
            "archived_bytes": archived(class).bytes,
        })
    };
    let tier = |thaw: &ThawCost| {
        json!({
            "tier": thaw.tier.as_str(),
            "seconds": thaw.longest.as_secs(),
            "thaw": amount(thaw.thaw),
            "copies": amount(thaw.copies),
            "total": amount(all_in_all(cost, thaw)),
        })
    };
    json!({
        "schema": 1,
        "backup": backup.id().to_string(),
        "streams": shown.streams,
        "stream_bytes": shown.stream_bytes,
        "packs": total(plan.packs.values()).objects,
        "pack_bytes": total(plan.packs.values()).bytes,
        "classes": plan.packs.iter().map(class).collect::<Vec<_>>(),
        "thawing_packs": plan.thawing.objects,
        "thawed_packs": plan.thawed.objects,
        "bytes": plan.bytes,
        "requests": plan.requests(),
        "seconds": shown.currency.map(|_| cost.reading_time.as_secs()),
        "currency": shown.currency,
        "request_cost": amount(cost.requests),
        "retrieval": amount(cost.retrieval),
        "transfer_out": amount(cost.transfer_out),
        "total": amount(cost.without_thaw()),
        "thaw_tier": shown.thaw.tier.as_str(),
        "thaw_days": shown.reading.thaw_days,
        "thaws": cost.thaws.iter().map(tier).collect::<Vec<_>>(),
    })
}
