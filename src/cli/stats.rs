//! `stats`

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::output;
use crate::repository::catalog::Catalog;
use crate::size::ByteSize;
use crate::stats::{Group, Stats, Stored, stats};

/// Shows how much was backed up, how much of it was new, and what that takes
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArguments {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn cmd_stats(context: &Context, arguments: &StatsArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let catalog = Catalog::load(&repository, &context.record_cache(&repository)).await?;
    for error in &catalog.damaged {
        crate::monitor::Monitor::problem(context.progress.as_ref(), &format!("{error:#}"));
    }
    let stats = stats(&repository, &catalog).await?;
    context.progress.finish();
    if arguments.json { output::json(&as_json(&stats)) } else { output::text(&as_text(&stats)) }
}

/// How many times smaller something has become, in hundredths; none if nothing is left.
fn ratio(before: u64, after: u64) -> Option<String> {
    let hundredths = u128::from(before) * 100 / u128::from(after).max(1);
    (after > 0).then(|| format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

/// By how much the backups that are there, forgotten ones too, are more than what is kept for them.
fn deduplication(stats: &Stats) -> Option<String> {
    ratio(stats.all.logical_bytes.saturating_add(stats.forgotten.logical_bytes), stats.plaintext_bytes)
}

fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

fn as_text(stats: &Stats) -> String {
    let packed = stats.data.bytes + stats.meta.bytes;
    let or_none = |ratio: Option<String>| ratio.unwrap_or_else(|| "-".to_owned());
    let objects = |stored: Stored| format!("{} in {}", size(stored.bytes), output::counted(stored.objects, "object"));
    let mut lines = vec![
        ("backups".to_owned(), stats.all.backups.to_string()),
        ("their streams".to_owned(), size(stats.all.logical_bytes)),
        ("new in them".to_owned(), size(stats.all.new_bytes)),
        ("in packs".to_owned(), size(stats.plaintext_bytes)),
        ("deduplication".to_owned(), or_none(deduplication(stats))),
        ("compression".to_owned(), or_none(ratio(stats.plaintext_bytes, packed))),
        ("stored".to_owned(), size(stats.stored_bytes())),
        ("  file data".to_owned(), objects(stats.data)),
        ("  metadata".to_owned(), objects(stats.meta)),
        ("  index".to_owned(), objects(stats.index)),
        ("  other".to_owned(), objects(stats.other)),
    ];
    if stats.forgotten.backups > 0 {
        let text = format!(
            "{}, {} new in them",
            output::counted(stats.forgotten.backups, "backup"),
            size(stats.forgotten.new_bytes)
        );
        lines.push(("forgotten".to_owned(), text));
    }
    let group = |group: &Group| {
        let Group { backups, logical_bytes, new_bytes, stored_bytes, .. } = group;
        format!(
            "{}: {} of streams, {} new, {} stored",
            output::counted(*backups, "backup"),
            size(*logical_bytes),
            size(*new_bytes),
            size(*stored_bytes)
        )
    };
    let source = |(host, subvolume): &(String, String)| format!("'{subvolume}' of {host}");
    lines.extend(stats.by_source.iter().map(|(name, of)| (source(name), group(of))));
    lines.extend(stats.by_month.iter().map(|(month, of)| (month.clone(), group(of))));
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("{name:15} {value}\n"))
}

fn as_json(stats: &Stats) -> Value {
    let stored = |stored: Stored| json!({ "objects": stored.objects, "bytes": stored.bytes });
    let group = |group: &Group| {
        json!({
            "backups": group.backups,
            "logical_bytes": group.logical_bytes,
            "new_bytes": group.new_bytes,
            "stored_bytes": group.stored_bytes,
            "first": group.first,
            "last": group.last,
        })
    };
    json!({
        "all": group(&stats.all),
        "forgotten": group(&stats.forgotten),
        "sources": stats.by_source.iter().map(|((host, subvolume), of)| json!({
            "host": host,
            "subvolume": subvolume,
            "figures": group(of),
        })).collect::<Vec<_>>(),
        "months": stats.by_month.iter().map(|(month, of)| json!({ "month": month, "figures": group(of) })).collect::<Vec<_>>(),
        "data": stored(stats.data),
        "meta": stored(stats.meta),
        "index": stored(stats.index),
        "other": stored(stats.other),
        "stored_bytes": stats.stored_bytes(),
        "plaintext_bytes": stats.plaintext_bytes,
        "deduplication": deduplication(stats),
        "compression": ratio(stats.plaintext_bytes, stats.data.bytes + stats.meta.bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_has_two_decimals_and_nothing_has_none() {
        assert_eq!(ratio(250, 100).as_deref(), Some("2.50"));
        assert_eq!(ratio(1, 3).as_deref(), Some("0.33"));
        assert_eq!(ratio(u64::MAX, 1).as_deref(), Some("18446744073709551615.00"));
        assert_eq!(ratio(5, 0), None);
    }
}
