//! The rules one by one, and all of them against a model that decides each backup by itself.

use proptest::prelude::*;

use super::*;

fn id(number: u8) -> ManifestId {
    ManifestId::from_bytes([number; 16])
}

fn source() -> Source {
    Source { host: "vm".to_owned(), subvolume: "home".to_owned() }
}

/// A full backup of a time such as `2026-01-31T04:00:00Z`.
fn backup(number: u8, time: &str) -> Candidate {
    let time: Timestamp = time.parse().unwrap();
    let tags = BTreeSet::new();
    Candidate { id: id(number), source: source(), stored_at: time, created_at: time, parent: None, tags }
}

fn kept(policy: &RetentionPolicy, chosen: &[Candidate]) -> Vec<u8> {
    let mut kept: Vec<u8> = decide(policy, chosen, &[])
        .iter()
        .filter(|decision| decision.is_kept())
        .map(|decision| decision.id.as_bytes()[0])
        .collect();
    kept.sort_unstable();
    kept
}

/// Backups at 4:00 and 16:00 of the days from 2025-12-29, a Monday, on; the first is 0.
fn twice_a_day(days: u8) -> Vec<Candidate> {
    let first: Timestamp = "2025-12-29T04:00:00Z".parse().unwrap();
    let at = |number: u8| first + SignedDuration::from_hours(12 * i64::from(number));
    (0..2 * days).map(|number| backup(number, &at(number).to_string())).collect()
}

#[test]
fn the_newest_of_each_period_is_kept() {
    let backups = twice_a_day(14);
    let policy = RetentionPolicy { keep_last: 3, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [25, 26, 27]);
    let policy = RetentionPolicy { keep_hourly: 3, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [25, 26, 27]);
    let policy = RetentionPolicy { keep_daily: 3, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [23, 25, 27]);
    let policy = RetentionPolicy { keep_weekly: 3, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [13, 27]);
    let policy = RetentionPolicy { keep_monthly: 3, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [5, 27]);
    let policy = RetentionPolicy { keep_yearly: 1, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [27]);
    let policy = RetentionPolicy { keep_within: Some(Duration::from_hours(25)), ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [25, 26, 27]);
}

#[test]
fn periods_without_a_backup_do_not_count() {
    let backups =
        [backup(1, "2020-01-01T00:00:00Z"), backup(2, "2023-07-01T00:00:00Z"), backup(3, "2026-01-01T00:00:00Z")];
    let policy = RetentionPolicy { keep_daily: 2, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [2, 3]);
}

#[test]
fn sources_do_not_push_each_other_out() {
    let mut backups = twice_a_day(2);
    backups[0].source.host = "other".to_owned();
    backups[1].source.subvolume = "other".to_owned();
    let policy = RetentionPolicy { keep_last: 1, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [0, 1, 3]);
}

#[test]
fn a_backup_whose_clock_was_wrong_pushes_no_other_out_and_is_kept() {
    let policy = RetentionPolicy { keep_last: 1, keep_daily: 1, ..RetentionPolicy::default() };
    for wrong in ["2036-01-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
        let mut backups = twice_a_day(2);
        backups[3].created_at = wrong.parse().unwrap();
        assert_eq!(kept(&policy, &backups), [2, 3]);
        assert_eq!(decide(&policy, &backups, &[])[0].reasons, [Reason::OddTime]);
    }
}

#[test]
fn a_time_is_odd_beyond_a_day_ahead_or_sixty_days_behind() {
    let stored_at: Timestamp = "2026-03-10T00:00:00Z".parse().unwrap();
    for (hours_behind, is_odd) in [(60 * 24, false), (60 * 24 + 1, true), (-24, false), (-25, true)] {
        let created_at = stored_at - SignedDuration::from_hours(hours_behind);
        let candidate = Candidate { created_at, ..backup(1, "2026-03-10T00:00:00Z") };
        assert_eq!(candidate.has_odd_time(), is_odd, "{hours_behind} hours");
        // A copy whose original is not there has the time of its snapshot, if that can be.
        let expected = if is_odd || hours_behind < 0 { stored_at } else { created_at };
        assert_eq!(time_of_copy(stored_at, created_at), expected, "{hours_behind} hours");
    }
}

#[test]
fn what_is_tagged_is_kept() {
    let mut backups = twice_a_day(2);
    backups[0].tags = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    backups[1].tags = BTreeSet::from(["c".to_owned()]);
    let keep_tags = BTreeSet::from(["a".to_owned(), "x".to_owned()]);
    let policy = RetentionPolicy { keep_last: 1, keep_tags, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [0, 3]);
}

#[test]
fn what_a_kept_backup_was_made_on_is_kept_and_says_for_which() {
    let mut backups = twice_a_day(3);
    backups[1].parent = Some(id(0));
    backups[3].parent = Some(id(1));
    let policy = RetentionPolicy { keep_daily: 2, ..RetentionPolicy::default() };
    assert_eq!(kept(&policy, &backups), [0, 1, 3, 5]);
    let decisions = decide(&policy, &backups, &[]);
    let of = |number| decisions.iter().find(|decision| decision.id == id(number)).unwrap().reasons.clone();
    assert_eq!(of(0), [Reason::NeededBy(id(3))]);
    assert_eq!(of(1), [Reason::NeededBy(id(3))]);
    let other =
        Candidate { parent: Some(id(4)), source: Source { host: "x".to_owned(), ..source() }, ..backups[0].clone() };
    let decisions = decide(&policy, &backups, &[Candidate { id: id(99), ..other }]);
    let of = |number| decisions.iter().find(|decision| decision.id == id(number)).unwrap().reasons.clone();
    assert_eq!(of(4), [Reason::NeededBy(id(99))]);
}

#[test]
fn each_reason_is_said_in_its_own_words() {
    let reasons = [
        Reason::Last,
        Reason::Hourly,
        Reason::Daily,
        Reason::Weekly,
        Reason::Monthly,
        Reason::Yearly,
        Reason::Within,
        Reason::Tag("a tag".to_owned()),
        Reason::OddTime,
        Reason::NeededBy(id(7)),
    ];
    let said: BTreeSet<String> = reasons.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), reasons.len());
    assert!(said.contains("tag a tag"));
    assert!(said.contains(&format!("needed by {}", id(7))));
}

#[test]
fn no_rule_keeps_nothing() {
    assert!(RetentionPolicy::default().is_empty());
    assert!(!RetentionPolicy { keep_yearly: 1, ..RetentionPolicy::default() }.is_empty());
    assert_eq!(kept(&RetentionPolicy::default(), &twice_a_day(2)), Vec::<u8>::new());
}

/// The name of the period a time is in.
type NameOf = fn(Timestamp) -> String;

/// Whether a rule of periods keeps a backup, told by looking at all the others.
fn model_keeps(candidate: &Candidate, all: &[Candidate], count: u32, name: NameOf) -> bool {
    let age = |candidate: &Candidate| (candidate.stored_at, candidate.created_at, candidate.id);
    let usable = |other: &&Candidate| other.source == candidate.source && !other.has_odd_time();
    let period = name(candidate.stored_at);
    let is_newest =
        all.iter().filter(usable).all(|other| name(other.stored_at) != period || age(other) <= age(candidate));
    let later: BTreeSet<String> =
        all.iter().filter(usable).map(|other| name(other.stored_at)).filter(|other| *other > period).collect();
    !candidate.has_odd_time() && is_newest && later.len() < count as usize
}

fn format(time: Timestamp, format: &str) -> String {
    Offset::UTC.to_datetime(time).strftime(format).to_string()
}

/// What each rule keeps by the model, ancestors left out.
fn model_reasons(policy: &RetentionPolicy, candidate: &Candidate, all: &[Candidate]) -> BTreeSet<Reason> {
    let mut reasons: BTreeSet<Reason> =
        candidate.tags.iter().filter(|tag| policy.keep_tags.contains(*tag)).cloned().map(Reason::Tag).collect();
    let rules: [(Reason, u32, NameOf); 5] = [
        (Reason::Hourly, policy.keep_hourly, |time| format(time, "%Y-%m-%d %H")),
        (Reason::Daily, policy.keep_daily, |time| format(time, "%Y-%m-%d")),
        (Reason::Weekly, policy.keep_weekly, |time| format(time, "%G-%V")),
        (Reason::Monthly, policy.keep_monthly, |time| format(time, "%Y-%m")),
        (Reason::Yearly, policy.keep_yearly, |time| format(time, "%Y")),
    ];
    for (reason, count, name) in rules {
        reasons.extend(model_keeps(candidate, all, count, name).then_some(reason));
    }
    let age = |candidate: &Candidate| (candidate.stored_at, candidate.created_at, candidate.id);
    let usable = |other: &&Candidate| other.source == candidate.source && !other.has_odd_time();
    if candidate.has_odd_time() {
        reasons.insert(Reason::OddTime);
        return reasons;
    }
    let newer = all.iter().filter(usable).filter(|other| age(other) > age(candidate)).count();
    reasons.extend((newer < policy.keep_last as usize).then_some(Reason::Last));
    let newest = all.iter().filter(usable).map(|other| other.stored_at).max().unwrap();
    let within = policy.keep_within.map(|within| SignedDuration::try_from(within).unwrap());
    reasons.extend(
        within.is_some_and(|within| newest.duration_since(candidate.stored_at) <= within).then_some(Reason::Within),
    );
    reasons
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0_i64..40_000, 0_u8..20, 0_u8..2, proptest::option::of(0_usize..30), 0_u8..4);
    proptest::collection::vec(one, 1..30).prop_map(|drawn| {
        let first: Timestamp = "2024-12-20T00:00:00Z".parse().unwrap();
        let count = drawn.len();
        let make = |(number, (half_hours, odd, host, parent, tag)): (usize, (i64, u8, u8, Option<usize>, u8))| {
            let stored_at = first + SignedDuration::from_mins(30 * half_hours);
            let created_at = stored_at + SignedDuration::from_hours(if odd == 0 { 25 } else { -3 });
            Candidate {
                id: id(u8::try_from(number).unwrap()),
                source: Source { host: format!("host {host}"), ..source() },
                stored_at,
                created_at,
                // Only earlier ones, so that there is no circle.
                parent: parent
                    .map(|parent| parent % count)
                    .filter(|parent| *parent < number)
                    .map(|parent| id(u8::try_from(parent).unwrap())),
                tags: if tag == 0 { BTreeSet::from(["tag".to_owned()]) } else { BTreeSet::new() },
            }
        };
        drawn.into_iter().enumerate().map(make).collect()
    })
}

fn policies() -> impl Strategy<Value = RetentionPolicy> {
    let counts = proptest::array::uniform6(0_u32..5);
    (counts, proptest::option::of(0_u64..2000), any::<bool>()).prop_map(|(counts, hours, tagged)| RetentionPolicy {
        keep_last: counts[0],
        keep_hourly: counts[1],
        keep_daily: counts[2],
        keep_weekly: counts[3],
        keep_monthly: counts[4],
        keep_yearly: counts[5],
        keep_within: hours.map(Duration::from_hours),
        keep_tags: if tagged { BTreeSet::from(["tag".to_owned()]) } else { BTreeSet::new() },
    })
}

fn is_needed(reason: &Reason) -> bool {
    matches!(reason, Reason::NeededBy(_))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_rule_keeps_what_the_model_keeps(policy in policies(), all in candidates()) {
        let decisions = decide(&policy, &all, &[]);
        prop_assert_eq!(decisions.len(), all.len());
        for candidate in &all {
            let decision = decisions.iter().find(|decision| decision.id == candidate.id).unwrap();
            let reasons: BTreeSet<Reason> =
                decision.reasons.iter().filter(|reason| !is_needed(reason)).cloned().collect();
            prop_assert_eq!(&reasons, &model_reasons(&policy, candidate, &all), "{:?}", candidate);
        }
    }

    #[test]
    fn what_is_kept_has_all_it_was_made_against(policy in policies(), all in candidates()) {
        let decisions = decide(&policy, &all, &[]);
        let is_kept = |id| decisions.iter().any(|decision| decision.id == id && decision.is_kept());
        for candidate in &all {
            if let Some(parent) = candidate.parent && is_kept(candidate.id) {
                prop_assert!(is_kept(parent));
            }
        }
        // And nothing else is kept without a reason of its own.
        for decision in &decisions {
            if decision.reasons.iter().all(is_needed) && decision.is_kept() {
                let child_is_kept = all.iter().any(|other| other.parent == Some(decision.id) && is_kept(other.id));
                prop_assert!(child_is_kept);
            }
        }
    }
}

#[test]
fn a_copy_is_as_old_as_its_snapshot_if_that_can_be() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let stored = at("2026-03-10T00:00:00Z");
    for (created, expected) in [
        ("2026-03-09T12:00:00Z", "2026-03-09T12:00:00Z"),
        ("2026-01-10T00:00:00Z", "2026-01-10T00:00:00Z"),
        // Either its clock was wrong, or it is older than can be told.
        ("2026-01-08T00:00:00Z", "2026-03-10T00:00:00Z"),
        ("2026-03-10T05:00:00Z", "2026-03-10T00:00:00Z"),
    ] {
        assert_eq!(time_of_copy(stored, at(created)), at(expected), "{created}");
    }
}
