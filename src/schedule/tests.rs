//! Tests of what is due.

use super::*;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2026-01-05, a Monday, at 02:30 in UTC.
const MONDAY: i64 = 1_767_580_200;

fn days(count: u64) -> Duration {
    Duration::from_secs(count * 86_400)
}

fn daily() -> Policy {
    Policy { full_every: None, incremental_every: days(1), run_at: None, max_chain_length: None }
}

fn at_half_past_two() -> Policy {
    Policy { run_at: Some(Time::constant(2, 30, 0, 0)), ..daily() }
}

fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Backups at these times, the first in full, and what is due at `now`.
fn due(policy: &Policy, made: &[i64], now: i64) -> Due {
    let past: Vec<PastBackup> = made
        .iter()
        .enumerate()
        .map(|(number, at)| PastBackup { created_at: time(*at), is_full: number == 0 })
        .collect();
    decide(policy, &berlin(), &past, time(now)).due
}

/// Asks at each of these times, and backs up when something is due, some seconds later, as snapshots are; gives the times
/// at which it did, and whether in full.
fn run_at_each(policy: &Policy, zone: &TimeZone, ticks: impl IntoIterator<Item = i64>) -> Vec<(i64, bool)> {
    let mut past: Vec<PastBackup> = Vec::new();
    let mut done = Vec::new();
    for (delay, tick) in (0..7).cycle().zip(ticks) {
        let decision = decide(policy, zone, &past, time(tick));
        if decision.due != Due::Nothing {
            let is_full = decision.due == Due::Full;
            past.push(PastBackup { created_at: time(tick + 3 + delay), is_full });
            done.push((tick, is_full));
        }
    }
    done
}

#[test]
fn a_subvolume_without_a_backup_is_due_in_full_at_any_time() {
    for policy in [daily(), at_half_past_two()] {
        for hour in 0..24 {
            assert_eq!(due(&policy, &[], MONDAY + hour * HOUR), Due::Full);
        }
    }
}

#[test]
fn a_weekly_timer_two_seconds_early_is_not_missed() {
    let weekly = Policy { full_every: Some(days(7)), ..daily() };
    assert_eq!(due(&weekly, &[MONDAY], MONDAY + 7 * DAY - 2), Due::Full);
    assert_eq!(due(&weekly, &[MONDAY], MONDAY + 6 * DAY), Due::Backup);
    let only_weekly = Policy { incremental_every: days(7), ..daily() };
    assert_eq!(due(&only_weekly, &[MONDAY], MONDAY + 7 * DAY - 2), Due::Backup);
    assert_eq!(due(&only_weekly, &[MONDAY], MONDAY + 6 * DAY), Due::Nothing);
}

#[test]
fn what_is_due_by_the_age_of_the_last_backup() {
    for (policy, after, expected) in [
        (daily(), 0, Due::Nothing),
        (daily(), 22 * HOUR, Due::Nothing),
        (daily(), DAY - EARLY_SECONDS_MAX - 1, Due::Nothing),
        (daily(), DAY - EARLY_SECONDS_MAX, Due::Backup),
        (daily(), 23 * HOUR, Due::Backup),
        (daily(), 400 * DAY, Due::Backup),
        (Policy { incremental_every: Duration::from_hours(1), ..daily() }, 56 * MINUTE, Due::Nothing),
        (Policy { incremental_every: Duration::from_hours(1), ..daily() }, 57 * MINUTE, Due::Backup),
        (at_half_past_two(), 23 * HOUR, Due::Nothing),
        (at_half_past_two(), DAY - 2, Due::Backup),
        (at_half_past_two(), DAY, Due::Backup),
    ] {
        // Half past two in Berlin.
        assert_eq!(due(&policy, &[MONDAY - HOUR], MONDAY - HOUR + after), expected, "{policy:?} after {after} s");
    }
}

#[test]
fn a_nightly_timer_misses_no_night_however_late_its_runs_begin() {
    // Up to 15 minutes of random delay, a year long.
    let ticks = (0..365).map(|night| MONDAY + night * DAY + (night * 7_919) % (15 * MINUTE));
    for policy in [daily(), at_half_past_two()] {
        assert_eq!(run_at_each(&policy, &TimeZone::UTC, ticks.clone()).len(), 365);
    }
}

#[test]
fn a_timer_that_fires_every_quarter_of_an_hour_does_not_make_the_backups_drift() {
    let ticks = (0..100 * 96).map(|quarter| MONDAY + quarter * 15 * MINUTE);
    let done = run_at_each(&daily(), &TimeZone::UTC, ticks.clone());
    assert_eq!(done.len(), 101);
    let offsets: Vec<i64> = done[1..].iter().map(|(at, _)| (at - MONDAY).rem_euclid(DAY)).collect();
    assert!(offsets.iter().all(|offset| *offset == offsets[0] && DAY - offset <= EARLY_SECONDS_MAX), "{offsets:?}");
    let done = run_at_each(&at_half_past_two(), &TimeZone::UTC, ticks);
    assert!(done.iter().all(|(at, _)| (at - MONDAY) % DAY == 0) && done.len() == 100, "{done:?}");
}

#[test]
fn daylight_saving_makes_no_timer_miss_a_night() {
    let zone = berlin();
    let local_nights = (0..365).map(|night| {
        let date = TimeZone::UTC.to_datetime(time(MONDAY + night * DAY)).date();
        zone.to_timestamp(date.to_datetime(Time::constant(2, 30, 0, 0))).unwrap().as_second()
    });
    let utc_nights = (0..365).map(|night| MONDAY + night * DAY);
    for policy in [daily(), at_half_past_two()] {
        assert_eq!(run_at_each(&policy, &zone, local_nights.clone()).len(), 365, "{policy:?}");
        assert_eq!(run_at_each(&policy, &zone, utc_nights.clone()).len(), 365, "{policy:?}");
    }
}

#[test]
fn a_night_caught_up_on_later_leaves_the_next_one_due() {
    let caught_up = MONDAY + DAY + 9 * HOUR;
    for policy in [daily(), at_half_past_two()] {
        assert_eq!(due(&policy, &[MONDAY, caught_up], MONDAY + 2 * DAY), Due::Backup);
        assert_eq!(due(&policy, &[MONDAY, caught_up], caught_up + HOUR), Due::Nothing);
    }
}

#[test]
fn a_backup_by_hand_leaves_the_next_night_due() {
    let by_hand = MONDAY + 12 * HOUR;
    for policy in [daily(), at_half_past_two()] {
        assert_eq!(due(&policy, &[MONDAY, by_hand], MONDAY + DAY), Due::Backup);
    }
}

#[test]
fn a_timer_that_was_changed_is_followed() {
    for shift in [-6 * HOUR, -2 * HOUR, -10 * MINUTE, 5 * HOUR, 13 * HOUR] {
        let ticks = (0..30).map(|night| MONDAY + night * DAY + if night < 10 { 0 } else { shift });
        let missed = 30 - run_at_each(&daily(), &TimeZone::UTC, ticks).len();
        assert!(missed <= 1, "{missed} nights after a change by {shift} s");
    }
}

#[test]
fn a_full_backup_comes_every_week_and_incremental_ones_in_between() {
    let policy = Policy { full_every: Some(days(7)), ..daily() };
    let ticks = (0..70).map(|night| MONDAY + night * DAY + (night * 31) % 40 - 20);
    let done = run_at_each(&policy, &TimeZone::UTC, ticks);
    let fulls: Vec<usize> = done.iter().enumerate().filter(|(_, (_, full))| *full).map(|(number, _)| number).collect();
    assert_eq!(done.len(), 70);
    assert_eq!(fulls, (0..10).map(|week| week * 7).collect::<Vec<_>>());
}

#[test]
fn a_full_backup_that_came_early_puts_the_next_one_off() {
    let weekly = Policy { full_every: Some(days(7)), ..daily() };
    let past = |day, is_full| PastBackup { created_at: time(MONDAY + day * DAY), is_full };
    let due = |past: &[PastBackup], day| decide(&weekly, &berlin(), past, time(MONDAY + day * DAY)).due;
    let early = [past(0, true), past(5, true), past(6, false)];
    assert_eq!(due(&early, 7), Due::Backup);
    assert_eq!(due(&early, 12), Due::Full);
    // Also while there is one from the future.
    assert_eq!(due(&[past(0, true), past(7, true), past(400, false)], 8), Due::Backup);
}

#[test]
fn a_full_backup_that_is_due_does_not_wait_for_an_incremental_one() {
    let policy = Policy { full_every: Some(days(2)), incremental_every: days(1), ..daily() };
    assert_eq!(due(&policy, &[MONDAY, MONDAY + 40 * HOUR], MONDAY + 48 * HOUR), Due::Full);
}

#[test]
fn a_clock_that_was_set_back_keeps_no_backups_from_being_made() {
    for policy in [daily(), at_half_past_two()] {
        // By twenty days. Only the one night may be missed in which the last old backup is not from the future any more,
        // and asking again in the same night does no harm.
        for again in [60, HOUR] {
            let nights = (0..30).chain(10..40).map(|night| MONDAY + night * DAY);
            let ticks = nights.flat_map(|night| [night, night + again]);
            let done = run_at_each(&policy, &TimeZone::UTC, ticks);
            assert!((59..=62).contains(&done.len()), "{policy:?}: {} runs", done.len());
        }
        // By an hour, at once.
        let done =
            run_at_each(&policy, &TimeZone::UTC, [MONDAY, MONDAY - HOUR, MONDAY - HOUR + 60, MONDAY - HOUR + 120]);
        assert_eq!(done.len(), 2, "{done:?}");
    }
}

#[test]
fn a_clock_that_is_put_right_by_seconds_costs_none() {
    for policy in [daily(), at_half_past_two()] {
        assert_eq!(due(&policy, &[MONDAY], MONDAY - 5), Due::Nothing);
        assert_eq!(due(&policy, &[MONDAY], MONDAY - FUTURE_SECONDS), Due::Nothing);
    }
}

#[test]
fn a_backup_from_the_future_does_not_keep_others_from_being_made() {
    let past = |at| PastBackup { created_at: time(at), is_full: true };
    let decision = decide(&daily(), &berlin(), &[past(MONDAY), past(MONDAY + 3_650 * DAY)], time(MONDAY + DAY));
    assert_eq!(decision.due, Due::Backup);
    assert!(decision.reason.contains("(1 that seem to be from the future do not count"), "{}", decision.reason);
    let decision = decide(&daily(), &berlin(), &[past(MONDAY + 3_650 * DAY)], time(MONDAY));
    assert_eq!((decision.due, decision.next_due_at), (Due::Full, None));
}

#[test]
fn a_backup_from_long_ago_changes_nothing_for_the_later_ones() {
    assert_eq!(due(&daily(), &[0, MONDAY], MONDAY + HOUR), Due::Nothing);
    assert_eq!(due(&daily(), &[0, MONDAY], MONDAY + DAY), Due::Backup);
}

#[test]
fn the_order_in_which_backups_are_given_does_not_matter() {
    let past = |at, is_full| PastBackup { created_at: time(at), is_full };
    let mut all = vec![past(MONDAY, true), past(MONDAY + DAY, false), past(MONDAY + 2 * DAY, false)];
    let forward = decide(&daily(), &berlin(), &all, time(MONDAY + 2 * DAY + HOUR));
    all.reverse();
    assert_eq!(decide(&daily(), &berlin(), &all, time(MONDAY + 2 * DAY + HOUR)), forward);
}

#[test]
fn the_next_time_is_said_and_so_is_why() {
    let past = [PastBackup { created_at: time(MONDAY), is_full: true }];
    let decided = |policy: &Policy, now| decide(policy, &berlin(), &past, time(now));
    let decision = decided(&daily(), MONDAY + HOUR);
    assert_eq!(decision.next_due_at, Some(time(MONDAY + DAY)));
    assert_eq!(
        decision.reason,
        "the last backup is of 2026-01-05T02:30:00Z, the next one is due at 2026-01-06T02:30:00Z"
    );
    assert_eq!(decided(&at_half_past_two(), MONDAY + HOUR).next_due_at, Some(time(MONDAY + DAY - HOUR)));
    let decision = decided(&daily(), MONDAY + DAY + 2 * HOUR);
    assert_eq!(decision.reason, "the last backup is 1d 2h old, and one is due every 1d");
    let weekly = Policy { full_every: Some(days(7)), ..daily() };
    assert_eq!(
        decided(&weekly, MONDAY + 9 * DAY + 5 * MINUTE).reason,
        "the last full backup is 9d old, and one is due every 7d"
    );
}

#[test]
fn a_backup_is_overdue_half_a_period_after_it_was_due() {
    let past = [PastBackup { created_at: time(MONDAY), is_full: true }];
    for (policy, after, expected) in [
        (daily(), DAY, false),
        (daily(), DAY + 12 * HOUR - 1, false),
        (daily(), DAY + 12 * HOUR, true),
        (Policy { incremental_every: days(7), ..daily() }, 7 * DAY + 12 * HOUR, true),
        (Policy { incremental_every: days(7), ..daily() }, 7 * DAY + 11 * HOUR, false),
        (Policy { incremental_every: Duration::from_hours(1), ..daily() }, 89 * MINUTE, false),
        (Policy { incremental_every: Duration::from_hours(1), ..daily() }, 90 * MINUTE, true),
    ] {
        let decision = decide(&policy, &berlin(), &past, time(MONDAY + after));
        assert_eq!(decision.is_overdue, expected, "{policy:?} after {after} s");
    }
    assert!(decide(&daily(), &berlin(), &[], time(MONDAY)).is_overdue);
}

#[test]
fn a_chain_is_not_made_longer_than_allowed() {
    let policy = Policy { max_chain_length: Some(3), ..daily() };
    assert_eq!(policy.refuses_chain(2), None);
    assert_eq!(policy.refuses_chain(3).unwrap(), "its chain would be longer than 3 (max_chain_length)");
    assert!(policy.refuses_chain(4).is_some());
    assert_eq!(daily().refuses_chain(100_000), None);
}

#[test]
fn no_time_is_too_far_off_to_be_reckoned_with() {
    let forever = Policy { full_every: Some(Duration::MAX), incremental_every: Duration::MAX, ..at_half_past_two() };
    for policy in [forever, daily(), at_half_past_two()] {
        for made in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                let past = [PastBackup { created_at: made, is_full: true }; 2];
                assert!(!decide(&policy, &berlin(), &past, now).reason.is_empty());
            }
        }
    }
}

#[test]
fn a_duration_is_shown_in_two_units() {
    for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1min 1s"), (3_600, "1h"), (90_000, "1d 1h"), (86_460, "1d")] {
        assert_eq!(shown(Duration::from_secs(seconds)), text);
    }
}
