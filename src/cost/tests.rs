//! Examples computed by hand, with the built-in prices. A GB is 2^30 bytes, a month 30 days; every amount is rounded to a
//! billionth.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::money::Money;
use super::month::{Amounts, ClassCost, cost_of, month};
use super::night::{Held, NightCost, Places, Stored, next_night, usual};
use super::prices::Prices;
use super::reading::{Amount, Reading, ReadingPlan, ThawCost};
use super::run::{RunCost, cost_of_run};
use super::{GB, reading};
use crate::store::requests::{RequestCounts, StoredInClass, Usage};
use crate::store::thaw::ThawTier;
use crate::store::{Key, ObjectInfo, StorageClassName};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

fn class(name: &str) -> StorageClassName {
    name.parse().unwrap()
}

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

/// Objects of one size and class, stored so many hours ago.
fn objects(count: usize, size_bytes: u64, name: &str, hours: i64) -> Vec<ObjectInfo> {
    let object = ObjectInfo {
        key: Key::new("data/00/a").unwrap(),
        size_bytes,
        modified_at: now() - SignedDuration::from_hours(hours),
        storage_class: Some(class(name)),
    };
    vec![object; count]
}

#[track_caller]
fn only_class(objects: &[ObjectInfo]) -> ClassCost {
    let mut costs = cost_of(objects, &Prices::default(), now());
    assert_eq!(costs.len(), 1);
    costs.remove(0)
}

#[test]
fn standard_costs_its_bytes_and_nothing_else() {
    // 4 objects of 25 GB: 100 × 0.023 = 2.30. Getting them back: 4 GETs × 0.0004 / 1000.
    let cost = only_class(&objects(4, 25 * GB, "STANDARD", 1));
    let amounts = Amounts {
        storage: money("2.3"),
        overhead: Money::ZERO,
        early_deletion: Money::ZERO,
        retrieval: vec![(None, money("0.0000016"))],
    };
    assert_eq!((cost.objects, cost.bytes, cost.billed_bytes, cost.young_objects), (4, 100 * GB, 100 * GB, 0));
    assert_eq!(cost.amounts, Some(amounts));
}

#[test]
fn an_archived_object_costs_an_overhead_in_two_classes_and_is_paid_for_half_a_year() {
    // 2 × 512 MiB are 1 GB: 0.00099 a month.
    // Overhead: 64 KiB × 0.00099 / GB = 0.000000060, and 16 KiB × 0.023 / GB = 0.000000351.
    // Ten days and an hour old: 170 of 180 days are left, 0.00099 × 170 / 30 = 0.00561.
    // Back by standard: 0.02 + 2 × 0.10 / 1000 + 2 × 0.0004 / 1000; by bulk: 0.0025 + 2 × 0.025 / 1000 + the GETs.
    let cost = only_class(&objects(2, 512 * MIB, "DEEP_ARCHIVE", 241));
    let amounts = Amounts {
        storage: money("0.00099"),
        overhead: money("0.000000411"),
        early_deletion: money("0.00561"),
        retrieval: vec![(Some(ThawTier::Standard), money("0.0202008")), (Some(ThawTier::Bulk), money("0.0025508"))],
    };
    assert_eq!((cost.billed_bytes, cost.young_objects), (GB + 80 * KIB, 2));
    assert_eq!(cost.amounts, Some(amounts));
}

#[test]
fn a_small_object_is_paid_for_as_a_larger_one_where_the_class_has_a_least_size() {
    // 1024 × 128 KiB are 0.125 GB: × 0.0125 = 0.0015625. All are 30 days old, which is as long as they are paid for.
    // Back: 1024 GETs × 0.001 / 1000 = 0.001024, and 1 MiB × 0.01 / GB = 0.000009766.
    let cost = only_class(&objects(1024, KIB, "STANDARD_IA", 30 * 24));
    let amounts = Amounts {
        storage: money("0.0015625"),
        overhead: Money::ZERO,
        early_deletion: Money::ZERO,
        retrieval: vec![(None, money("0.001033766"))],
    };
    assert_eq!((cost.bytes, cost.billed_bytes, cost.young_objects), (MIB, 128 * MIB, 0));
    assert_eq!(cost.amounts, Some(amounts));
}

#[test]
fn a_day_that_is_not_over_is_still_paid_for() {
    // 1 GB of GLACIER_IR, a minute short of 89 days old: 2 days × 0.004 / 30 = 0.000266667.
    let object = ObjectInfo {
        modified_at: now() - SignedDuration::from_mins(89 * 24 * 60 - 1),
        ..objects(1, GB, "GLACIER_IR", 0).remove(0)
    };
    assert_eq!(only_class(&[object]).amounts.unwrap().early_deletion, money("0.000266667"));
    // By the store's clock it is from tomorrow: all 90 days are left.
    let tomorrow = only_class(&objects(1, GB, "GLACIER_IR", -24));
    assert_eq!(tomorrow.amounts.unwrap().early_deletion, money("0.012"));
}

#[test]
fn a_month_is_the_sum_of_the_classes_whose_prices_are_known() {
    // 4000 × 0.0025 / 1000 = 0.01 for watching, 4000 KiB × 0.023 / GB = 0.000087738, and 10 GB × 0.0036 = 0.036 with an
    // overhead of 32 KiB × 0.0036 / GB = 0.000000110 and 8 KiB × 0.023 / GB = 0.000000175.
    let all = [
        objects(4000, KIB, "INTELLIGENT_TIERING", 0),
        objects(1, 10 * GB, "GLACIER", 0),
        objects(7, GB, "OF_ANOTHER_SERVER", 0),
    ];
    let classes = cost_of(&all.concat(), &Prices::default(), now());
    assert_eq!(month(&classes), money("0.046088023"));
    let unknown = classes.iter().find(|cost| cost.class == class("OF_ANOTHER_SERVER")).unwrap();
    assert_eq!((unknown.bytes, &unknown.amounts), (7 * GB, &None));
}

#[test]
fn the_usual_backup_is_neither_the_first_full_one_nor_an_empty_one() {
    let stored = |bytes| Stored { bytes, packs: bytes / 10 };
    assert_eq!(usual(&[]), Stored::default());
    assert_eq!(usual(&[stored(1000)]), stored(1000));
    assert_eq!(usual(&[stored(1000), stored(3)]), stored(3));
    assert_eq!(usual(&[stored(1000), stored(0), stored(30), stored(40), stored(50)]), stored(40));
    // Only the last seven count.
    let many = [900, 900, 900, 900, 10, 20, 30, 40, 50, 60, 70].map(stored);
    assert_eq!(usual(&many), stored(40));
}

#[test]
fn a_night_is_divided_as_what_is_there() {
    // 90 MiB in 4 packs, of which 9 / 10 of the bytes and 3 / 4 of the packs are file data: 81 MiB in 3 packs, and 9 MiB in
    // a pack of metadata, a segment and three records.
    // Requests: 15 LISTs and 5 PUTs × 0.005 / 1000, 3 PUTs × 0.05 / 1000: 0.000075 + 0.000025 + 0.00015.
    // A month: (81 MiB + 96 KiB) × 0.00099 / GB = 0.000078401; 24 KiB × 0.023 / GB = 0.000000526;
    // 9 MiB × 0.023 / GB = 0.000202148.
    let places = Places {
        data: Held { objects: 30, bytes: 900 * MIB },
        data_class: class("DEEP_ARCHIVE"),
        metadata: Held { objects: 10, bytes: 100 * MIB },
        metadata_class: class("STANDARD"),
        objects: 2500,
    };
    let expected =
        NightCost { backups: 1, bytes: 90 * MIB, objects: 8, requests: money("0.00025"), month: money("0.000281075") };
    let usual = Stored { bytes: 90 * MIB, packs: 4 };
    assert_eq!(next_night(&[usual], &places, &Prices::default()), expected);
    // A subvolume in which nothing changes takes three records of a class that pays 128 KiB for each: 384 KiB × 0.0125 / GB
    // = 0.000004578; 3 PUTs × 0.01 / 1000 and the LISTs: 0.00003 + 0.000075.
    let places = Places { metadata_class: class("STANDARD_IA"), ..places };
    let idle = next_night(&[Stored { bytes: 2000, packs: 0 }], &places, &Prices::default());
    assert_eq!((idle.objects, idle.requests), (3, money("0.000105")));
    // By the division 1800 bytes of it are file data, 0.000000002 a month.
    assert_eq!(idle.month, money("0.00000458"));
    assert_eq!(next_night(&[], &places, &Prices::default()), NightCost::default());
}

/// What a night has stored: 3 packs of 32 MiB and one of 1 MiB, archived; and a pack of metadata of 4 MiB, a segment and three
/// records of 200 bytes.
fn a_night(metadata_class: &str) -> Usage {
    let packs = StoredInClass { writes: 5, objects: 4, bytes: 97 * MIB, small: Vec::new() };
    let small = vec![100 * KIB, 200, 200, 200];
    let metadata = StoredInClass { writes: 5, objects: 5, bytes: 4 * MIB + 100 * KIB + 600, small };
    Usage {
        requests: RequestCounts { writes: 10, lists: 14, reads: 20, deletes: 1 },
        stored: BTreeMap::from([(class("DEEP_ARCHIVE"), packs), (class(metadata_class), metadata)]),
        is_aws: true,
    }
}

#[test]
fn a_run_costs_its_requests_and_what_it_has_stored() {
    // Requests: 5 PUTs × 0.05 / 1000 (one was tried twice), 5 × 0.005 / 1000, 14 LISTs × 0.005 / 1000, 20 GETs × 0.0004 / 1000:
    // 0.00025 + 0.000025 + 0.00007 + 0.000008.
    // A month: (97 MiB + 4 × 32 KiB) × 0.00099 / GB = 0.0000939; 4 × 8 KiB × 0.023 / GB = 0.000000702;
    // (4 MiB + 100 KiB + 600 B) × 0.023 / GB = 0.00009205.
    let cost = cost_of_run(&a_night("STANDARD"), &class("STANDARD"), &Prices::default()).unwrap();
    assert_eq!(cost, RunCost { requests: money("0.000353"), month: money("0.000186652") });
}

#[test]
fn small_objects_of_a_run_are_paid_for_as_larger_ones_where_the_class_says_so() {
    // Of STANDARD_IA: 5 PUTs × 0.01 / 1000 and 20 GETs × 0.001 / 1000; 4 MiB + 4 × 128 KiB at 0.0125 / GB = 0.000054932.
    let cost = cost_of_run(&a_night("STANDARD_IA"), &class("STANDARD_IA"), &Prices::default()).unwrap();
    assert_eq!(cost, RunCost { requests: money("0.00039"), month: money("0.000149534") });
}

#[test]
fn a_run_with_a_class_without_prices_has_no_cost() {
    assert_eq!(cost_of_run(&a_night("COLD"), &class("STANDARD"), &Prices::default()), None);
    assert_eq!(cost_of_run(&a_night("STANDARD"), &class("COLD"), &Prices::default()), None);
    let nothing = cost_of_run(&Usage::default(), &class("STANDARD"), &Prices::default());
    assert_eq!(nothing, Some(RunCost::default()));
}

/// Two archived packs, one of metadata, and a stream that is longer than they are.
fn archived_plan() -> ReadingPlan {
    let mut plan = ReadingPlan {
        archived: BTreeMap::from([(class("DEEP_ARCHIVE"), Amount { objects: 2, bytes: 64 * MIB })]),
        ..ReadingPlan::default()
    };
    let (deep, standard) = (class("DEEP_ARCHIVE"), class("STANDARD"));
    plan.add_stream([(&deep, 32 * MIB), (&deep, 32 * MIB), (&standard, MIB)].into_iter(), 100 * MIB);
    plan
}

const READING: Reading = Reading { bytes_per_second: MIB, thaw_days: 6 };

#[test]
fn a_restore_of_archived_packs_costs_requests_bytes_thaws_and_copies() {
    // GETs: 2 × (1 + 8) of DEEP_ARCHIVE and 1 + 1 of STANDARD, × 0.0004 / 1000: 0.000008.
    // 65 MiB leave the network: × 0.09 / GB = 0.005712891; at 1 MiB/s that takes 65 s.
    // 64 MiB are 1/16 GB. Standard: 0.02 / 16 + 2 × 0.1 / 1000 = 0.00145; bulk: 0.0025 / 16 + 2 × 0.025 / 1000.
    // Copies: 0.023 / 16 × 6 / 30 = 0.0002875.
    let plan = archived_plan();
    let cost = reading::cost_of(&plan, READING, &Prices::default());
    assert_eq!((plan.requests(), plan.bytes), (20, 65 * MIB));
    assert_eq!((cost.requests, cost.retrieval), (money("0.000008"), Money::ZERO));
    assert_eq!((cost.transfer_out, cost.reading_time), (money("0.005712891"), Duration::from_secs(65)));
    let copies = money("0.0002875");
    let hours = Duration::from_hours;
    let thaws = [
        ThawCost { tier: ThawTier::Standard, longest: hours(12), thaw: money("0.00145"), copies },
        ThawCost { tier: ThawTier::Bulk, longest: hours(48), thaw: money("0.00020625"), copies },
    ];
    assert_eq!(cost.thaws, thaws);
    assert_eq!(cost.without_thaw(), money("0.005720891"));
}

#[test]
fn a_tier_that_one_of_the_classes_does_not_know_is_left_out() {
    let mut plan = archived_plan();
    plan.archived = BTreeMap::from([(class("GLACIER"), Amount { objects: 1, bytes: GB })]);
    let tiers = |plan: &ReadingPlan| -> Vec<ThawTier> {
        reading::cost_of(plan, READING, &Prices::default()).thaws.iter().map(|thaw| thaw.tier).collect()
    };
    assert_eq!(tiers(&plan), ThawTier::ALL);
    plan.archived.insert(class("DEEP_ARCHIVE"), Amount { objects: 1, bytes: GB });
    assert_eq!(tiers(&plan), [ThawTier::Standard, ThawTier::Bulk]);
    plan.archived.clear();
    assert_eq!(tiers(&plan), []);
}

#[test]
fn what_is_thawed_to_stay_has_no_copy_that_is_paid_for() {
    // Of 2 GB only the one of GLACIER has a copy: 0.023 × 6 / 30; its thaw by bulk is free.
    let archived = ["GLACIER", "INTELLIGENT_TIERING"].map(|name| (class(name), Amount { objects: 1, bytes: GB }));
    let plan = ReadingPlan { archived: BTreeMap::from(archived), ..ReadingPlan::default() };
    let bulk = *reading::cost_of(&plan, READING, &Prices::default()).thaws.last().unwrap();
    assert_eq!((bulk.copies, bulk.thaw, bulk.longest), (money("0.0046"), Money::ZERO, Duration::from_hours(48)));
    assert_eq!(plan.cold_bytes(), 2 * GB);
}

#[test]
fn a_pack_that_two_streams_need_is_read_for_each_and_no_more_than_the_streams_have() {
    // The whole pack for the first, 1 MiB of it for the second: 33 MiB of 64 MiB, at 0.03 / GB: 33 / 1024 × 0.03.
    let cold = class("GLACIER_IR");
    let mut plan = ReadingPlan::default();
    plan.add_stream([(&cold, 32 * MIB)].into_iter(), 40 * MIB);
    plan.add_stream([(&cold, 32 * MIB)].into_iter(), MIB);
    let cost = reading::cost_of(&plan, READING, &Prices::default());
    assert_eq!((plan.bytes, plan.requests()), (33 * MIB, 18));
    assert_eq!(cost.retrieval, money("0.000966797"));
}

#[test]
fn a_class_without_prices_is_named() {
    let mut plan = ReadingPlan::default();
    plan.packs.insert(class("OF_ANOTHER_SERVER"), Amount { objects: 1, bytes: MIB });
    let cost = reading::cost_of(&plan, READING, &Prices::default());
    assert_eq!(cost.unknown_classes, [class("OF_ANOTHER_SERVER")]);
}
