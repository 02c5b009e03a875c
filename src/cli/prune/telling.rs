//! What a prune tells of what it has rewritten, what it has left, and what that costs.

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::cost::number;
use crate::cli::output;
use crate::cost::night::Held;
use crate::cost::rewriting::{HeldByClass, Rewriting, RewritingCost, cost_of};
use crate::prune::{Amount, ByClass, Kept, Merged, PruneReport, Repacked};
use crate::size::ByteSize;
use crate::store::StorageClassName;

/// What a prune costs, and what it saves.
pub(super) struct Cost<'a> {
    pub(super) amounts: RewritingCost,
    currency: &'a str,
}

impl<'a> Cost<'a> {
    pub(super) fn new(context: &'a Context, report: &PruneReport) -> Self {
        let (prices, s3) = (&context.config.prices, &context.config.s3);
        let class_of =
            |configured: &Option<StorageClassName>| configured.clone().unwrap_or_else(StorageClassName::standard);
        let mut new = HeldByClass::new();
        for (class, amount) in [
            (class_of(&s3.storage_class_data), report.repacked.new_data),
            (class_of(&s3.storage_class_metadata), report.repacked.new_metadata),
        ] {
            if amount.objects > 0 {
                add(&mut new, class, amount);
            }
        }
        let (reads, deleted) = (held(&report.repacked.reads), held(&report.deleted_packs));
        Self { amounts: cost_of(&Rewriting { reads, new, deleted }, prices), currency: &prices.currency }
    }
}

fn add(held: &mut HeldByClass, class: StorageClassName, amount: Amount) {
    let of_class: &mut Held = held.entry(class).or_default();
    of_class.objects += amount.objects;
    of_class.bytes = of_class.bytes.saturating_add(amount.bytes);
}

fn held(by_class: &ByClass) -> HeldByClass {
    let mut held = HeldByClass::new();
    for (class, amount) in by_class {
        add(&mut held, class.clone().unwrap_or_else(StorageClassName::standard), *amount);
    }
    held
}

fn size(bytes: u64) -> ByteSize {
    ByteSize::from_bytes(bytes)
}

pub(super) fn repack_line(repacked: &Repacked, dry_run: bool) -> Option<String> {
    let packs = repacked.all_packs();
    if packs.objects == 0 {
        return None;
    }
    let (verb, about) = if dry_run { ("would rewrite", "about ") } else { ("rewrote", "") };
    let new = repacked.new_data.objects + repacked.new_metadata.objects;
    let reads = repacked.all_reads();
    Some(format!(
        "{verb} {} of {}, {about}{} of it unused, into {about}{} of {}; {about}{} read in {}",
        output::counted(packs.objects, "pack"),
        size(packs.bytes),
        size(repacked.unused_bytes),
        output::counted(new, "pack"),
        size(repacked.new_data.bytes + repacked.new_metadata.bytes),
        size(reads.bytes),
        output::counted(reads.objects, "request")
    ))
}

pub(super) fn merge_line(merged: &Merged, dry_run: bool) -> Option<String> {
    let Merged { replaced, new } = merged;
    let segments = || format!("{} of {}", output::counted(replaced.objects, "index segment"), size(replaced.bytes));
    match (replaced.objects, dry_run) {
        (0, _) => None,
        (_, true) => Some(format!("would merge {}", segments())),
        (_, false) => Some(format!("merged {} into {} of {}", segments(), new.objects, size(new.bytes))),
    }
}

pub(super) fn merge_json(merged: &Merged) -> Value {
    let amount = |amount: Amount| json!({ "segments": amount.objects, "bytes": amount.bytes });
    json!({ "replaced": amount(merged.replaced), "new": amount(merged.new) })
}

pub(super) fn kept_lines(kept: &Kept) -> Vec<String> {
    let mut lines = Vec::new();
    if kept.archived.objects > 0 {
        lines.push(format!(
            "{} unused in {} that are archived: they go when nothing of them is needed",
            size(kept.archived.bytes),
            output::counted(kept.archived.objects, "pack")
        ));
    }
    if kept.paid_for.objects > 0 {
        lines.push(format!(
            "{} unused in {} that would be paid for all the same: they stay until they are old enough",
            size(kept.paid_for.bytes),
            output::counted(kept.paid_for.objects, "pack")
        ));
    }
    if kept.unused_bytes > 0 {
        lines.push(format!("{} unused in other packs, which is within the limits", size(kept.unused_bytes)));
    }
    lines
}

pub(super) fn cost_line(cost: &Cost<'_>) -> String {
    let (amounts, currency) = (&cost.amounts, cost.currency);
    format!(
        "cost      {} {currency} once: requests {}, retrieval {}, transfer {}; {} less a month for what is deleted, {} \
         more for what is new",
        amounts.once(),
        amounts.requests,
        amounts.retrieval,
        amounts.transfer_out,
        amounts.deleted_month,
        amounts.new_month
    )
}

fn amount_json(amount: Amount) -> Value {
    json!({ "packs": amount.objects, "bytes": amount.bytes })
}

pub(super) fn repack_json(repacked: &Repacked) -> Value {
    let (packs, reads) = (repacked.all_packs(), repacked.all_reads());
    json!({
        "packs": packs.objects,
        "bytes": packs.bytes,
        "unused_bytes": repacked.unused_bytes,
        "reads": { "requests": reads.objects, "bytes": reads.bytes },
        "new_data": amount_json(repacked.new_data),
        "new_metadata": amount_json(repacked.new_metadata),
        "damaged_packs": repacked.damaged.iter().map(|(_, pack)| pack.to_string()).collect::<Vec<_>>(),
    })
}

pub(super) fn kept_json(kept: &Kept) -> Value {
    json!({
        "archived": amount_json(kept.archived),
        "paid_for": amount_json(kept.paid_for),
        "unused_bytes": kept.unused_bytes,
    })
}

pub(super) fn cost_json(cost: &Cost<'_>) -> Value {
    let amounts = &cost.amounts;
    json!({
        "currency": cost.currency,
        "requests": number(amounts.requests),
        "retrieval": number(amounts.retrieval),
        "transfer_out": number(amounts.transfer_out),
        "once": number(amounts.once()),
        "deleted_month": number(amounts.deleted_month),
        "new_month": number(amounts.new_month),
    })
}
