//! `cost`

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::output;
use crate::cost::money::Money;
use crate::cost::month::{ClassCost, cost_of, month};
use crate::cost::night::{Held, NightCost, Places, Stored, next_night, usual};
use crate::cost::prices::{LIST_PRICES, Prices};
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::repository::catalog::{Catalog, Published};
use crate::repository::layout;
use crate::size::ByteSize;
use crate::store::thaw::ThawTier;
use crate::store::{ObjectInfo, StorageClassName, list_all};

/// A subvolume whose last backup is so much older than the newest of all is not backed up any more.
const GIVEN_UP_AFTER: SignedDuration = SignedDuration::from_hours(31 * 24);

/// Shows what the repository costs a month, and what the next backups will add
///
/// By the classes that objects have now, and the prices in the configuration. One listing of everything; nothing is thawed.
#[derive(Debug, clap::Args)]
pub(crate) struct CostArguments {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// All that is shown.
struct Shown<'a> {
    prices: &'a Prices,
    has_prices: bool,
    classes: Vec<ClassCost>,
    night: NightCost,
}

pub(crate) async fn cmd_cost(context: &Context, arguments: &CostArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let catalog = Catalog::load(&repository, &context.record_cache(&repository)).await?;
    for error in &catalog.damaged {
        context.progress.problem(&format!("{error:#}"));
    }
    let objects = list_all(repository.store().as_ref(), "").await?;
    let (prices, now) = (&context.config.prices, context.clock.now());
    let has_prices = !context.is_local()?;
    let night = next_night(&usual_backups(&catalog), &places(context, &objects), prices);
    let shown = Shown { prices, has_prices, classes: cost_of(&objects, prices, now), night };
    if has_prices {
        for class in shown.classes.iter().filter(|class| class.amounts.is_none()) {
            context.progress.warn(&format!("there are no prices of class {}: add them to [prices]", class.class));
        }
    }
    context.progress.finish();
    if arguments.json { output::json(&as_json(&shown)) } else { output::text(&as_text(&shown)) }
}

/// What backups of each subvolume usually store, of those that are still backed up.
fn usual_backups(catalog: &Catalog) -> Vec<Stored> {
    let newest = catalog.published.iter().map(|backup| backup.manifest.created_at).max();
    let mut by_source: BTreeMap<(&str, &str), Vec<&Published>> = BTreeMap::new();
    for backup in &catalog.published {
        by_source.entry((&backup.manifest.host, &backup.manifest.subvolume)).or_default().push(backup);
    }
    let is_recent = |backups: &&Vec<&Published>| {
        let last = backups.last().map(|backup| backup.manifest.created_at);
        last.zip(newest).is_some_and(|(last, newest)| newest.duration_since(last) <= GIVEN_UP_AFTER)
    };
    let stored = |backup: &&Published| Stored { bytes: backup.stored_bytes, packs: backup.manifest.totals.packs };
    by_source.values().filter(is_recent).map(|backups| usual(&backups.iter().map(stored).collect::<Vec<_>>())).collect()
}

/// Where new objects go, by what is configured; else where the last ones went.
fn places(context: &Context, objects: &[ObjectInfo]) -> Places {
    let is_data = |object: &&ObjectInfo| object.key.as_str().starts_with(layout::packs(PackClass::Data));
    let is_metadata = |object: &&ObjectInfo| {
        let prefixes = [layout::packs(PackClass::Meta), layout::SEGMENTS];
        prefixes.iter().any(|prefix| object.key.as_str().starts_with(prefix))
    };
    let s3 = &context.config.s3;
    let (data, data_class) = place(objects.iter().filter(is_data), s3.storage_class_data.as_ref());
    let (metadata, metadata_class) = place(objects.iter().filter(is_metadata), s3.storage_class_metadata.as_ref());
    Places { data, data_class, metadata, metadata_class, objects: objects.len() as u64 }
}

fn place<'a>(
    objects: impl Iterator<Item = &'a ObjectInfo>,
    configured: Option<&StorageClassName>,
) -> (Held, StorageClassName) {
    let (mut held, mut last) = (Held::default(), None::<&ObjectInfo>);
    for object in objects {
        held.objects += 1;
        held.bytes = held.bytes.saturating_add(object.size_bytes);
        last = last.into_iter().chain([object]).max_by_key(|object| object.modified_at);
    }
    let class = configured.cloned().or_else(|| last.and_then(|object| object.storage_class.clone()));
    (held, class.unwrap_or_else(StorageClassName::standard))
}

fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

fn as_text(shown: &Shown<'_>) -> String {
    let (objects, bytes) = all(&shown.classes);
    let NightCost { backups, bytes: new_bytes, objects: new_objects, requests, month: new_month } = &shown.night;
    let added = format!(
        "about {} in {} for {}",
        size(*new_bytes),
        output::counted(*new_objects, "object"),
        output::counted(*backups, "backup")
    );
    if !shown.has_prices {
        return format!("{objects} objects, {}: a directory has no price\nthe next backups add {added}\n", size(bytes));
    }
    let currency = &shown.prices.currency;
    let mut lines = vec![
        format!("amounts in {currency}, by [prices] of the configuration; where it says nothing, {LIST_PRICES}\n\n"),
        row(["class", "objects", "bytes", "a month", "if deleted now", "to get it back"]),
    ];
    lines.extend(shown.classes.iter().map(class_row));
    lines.push(row(["total", &objects.to_string(), &size(bytes), &month(&shown.classes).to_string(), "", ""]));
    lines.push(format!(
        "\nthe next backups add {added}:\n  {requests} {currency} for requests, then {new_month} {currency} a month\n"
    ));
    lines.concat()
}

fn row(columns: [&str; 6]) -> String {
    let [class, objects, bytes, month, early, back] = columns;
    let line = format!("{class:19} {objects:>9} {bytes:>10} {month:>10} {early:>15}  {back}");
    format!("{}\n", line.trim_end())
}

fn class_row(class: &ClassCost) -> String {
    let (objects, bytes) = (class.objects.to_string(), size(class.bytes));
    let Some(amounts) = &class.amounts else {
        return row([class.class.as_str(), &objects, &bytes, "?", "?", "?"]);
    };
    let back = amounts.retrieval.iter().map(|(tier, amount)| match tier {
        Some(tier) => format!("{amount} {tier}"),
        None => amount.to_string(),
    });
    let (month, early) = (amounts.month().to_string(), amounts.early_deletion.to_string());
    row([class.class.as_str(), &objects, &bytes, &month, &early, &back.collect::<Vec<_>>().join(", ")])
}

fn all(classes: &[ClassCost]) -> (u64, u64) {
    let sum = |of: fn(&ClassCost) -> u64| classes.iter().map(of).fold(0, u64::saturating_add);
    (sum(|class| class.objects), sum(|class| class.bytes))
}

/// An amount as a number, for programs.
pub(crate) fn number(amount: Money) -> Value {
    amount.exact().parse::<f64>().map_or(Value::Null, |number| json!(number))
}

fn as_json(shown: &Shown<'_>) -> Value {
    let (objects, bytes) = all(&shown.classes);
    let amount = |amount: Money| if shown.has_prices { number(amount) } else { Value::Null };
    json!({
        "schema": 1,
        "currency": shown.has_prices.then_some(&shown.prices.currency),
        "objects": objects,
        "bytes": bytes,
        "month": amount(month(&shown.classes)),
        "classes": shown.classes.iter().map(|class| class_json(class, shown.has_prices)).collect::<Vec<_>>(),
        "next": {
            "backups": shown.night.backups,
            "objects": shown.night.objects,
            "bytes": shown.night.bytes,
            "requests": amount(shown.night.requests),
            "month": amount(shown.night.month),
        },
    })
}

fn class_json(class: &ClassCost, has_prices: bool) -> Value {
    let amounts = class.amounts.as_ref().filter(|_| has_prices);
    let back = |wanted: Option<ThawTier>| {
        let found = amounts.and_then(|amounts| amounts.retrieval.iter().find(|(tier, _)| *tier == wanted));
        found.map(|(_, amount)| number(*amount))
    };
    json!({
        "class": has_prices.then_some(class.class.as_str()),
        "objects": class.objects,
        "bytes": class.bytes,
        "billed_bytes": amounts.map(|_| class.billed_bytes),
        "young_objects": amounts.map(|_| class.young_objects),
        "storage": amounts.map(|amounts| number(amounts.storage)),
        "overhead": amounts.map(|amounts| number(amounts.overhead)),
        "early_deletion": amounts.map(|amounts| number(amounts.early_deletion)),
        "retrieval": {
            "without_thaw": back(None),
            "expedited": back(Some(ThawTier::Expedited)),
            "standard": back(Some(ThawTier::Standard)),
            "bulk": back(Some(ThawTier::Bulk)),
        },
    })
}
