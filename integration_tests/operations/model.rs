//! Many schedules of what may happen to a repository, each drawn from a seed, against a model of what has to be true.
//!
//! `docs/testing.md`, "Schedules".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::events::Events;
use self::quiet::on_a_thread_of_its_own;
use self::schedule::{Played, Schedule};

#[path = "model/actions.rs"]
mod actions;
#[path = "model/board.rs"]
mod board;
#[path = "model/checks.rs"]
mod checks;
#[path = "model/dice.rs"]
mod dice;
#[path = "model/events.rs"]
mod events;
#[path = "model/faults.rs"]
mod faults;
#[path = "model/garbage.rs"]
mod garbage;
#[path = "model/judging.rs"]
mod judging;
#[path = "model/mending.rs"]
mod mending;
#[path = "model/quiet.rs"]
mod quiet;
#[path = "model/runs.rs"]
mod runs;
#[path = "model/schedule.rs"]
mod schedule;
#[path = "model/truth.rs"]
mod truth;

/// How many schedules `cargo test` plays, and how many the slow test.
const SCHEDULES: u64 = 1000;
const SCHEDULES_OF_THE_SLOW_TEST: u64 = 30_000;
/// With fewer, it is chance whether everything that is worth testing happens.
const SCHEDULES_THAT_SHOW_EVERYTHING: u64 = 1000;
const THREADS: usize = 2;

#[expect(clippy::disallowed_methods, reason = "whoever runs the test says which schedules")]
fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[track_caller]
fn check(played: &Played) {
    let Err(violation) = &played.checked else { return };
    panic!(
        "{}\n\nschedule {} breaks {:?}: {}\nTo play it again: \
         BTRFS_TO_S3_MODEL_SEED={} cargo test --test operations no_schedule_breaks -- --nocapture\n",
        played.trace.join("\n"),
        played.seed,
        violation.invariant,
        violation.detail,
        played.seed
    );
}

/// Plays schedules until there are no more, or one fails.
fn play_from(next: &AtomicU64, end: u64) -> (Events, Option<Played>) {
    let mut events = Events::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return (events, None);
        }
        let played = Schedule::play(seed);
        events.add(&played.events);
        if played.checked.is_err() {
            next.store(end, Ordering::Relaxed);
            return (events, Some(played));
        }
    }
}

#[expect(clippy::print_stdout, reason = "whoever wants to know asks for it with --nocapture")]
fn play_schedules(first: u64, count: u64) {
    let next = Arc::new(AtomicU64::new(first));
    let play = |next: Arc<AtomicU64>| on_a_thread_of_its_own(move || play_from(&next, first + count));
    let threads: Vec<_> = (0..THREADS).map(|_| play(Arc::clone(&next))).collect();
    let (mut all, mut failed) = (Events::default(), Vec::new());
    for thread in threads {
        let (events, played) = thread.join().unwrap();
        all.add(&events);
        failed.extend(played);
    }
    println!("{count} schedules:\n{all}");
    failed.sort_by_key(|played| played.seed);
    failed.iter().for_each(check);
    if count >= SCHEDULES_THAT_SHOW_EVERYTHING {
        let rare = all.rarer_than(count / 200);
        assert!(rare.is_empty(), "hardly ever: {rare:?}");
    }
}

fn play_one(seed: u64) -> Played {
    on_a_thread_of_its_own(move || Schedule::play(seed)).join().unwrap()
}

#[test]
fn no_schedule_breaks_a_promise() {
    if let Some(seed) = number_from_environment("BTRFS_TO_S3_MODEL_SEED") {
        let played = play_one(seed);
        check(&played);
        println!("{}\n{}", played.trace.join("\n"), played.events);
    } else {
        play_schedules(0, number_from_environment("BTRFS_TO_S3_MODEL_SCHEDULES").unwrap_or(SCHEDULES));
    }
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn no_schedule_of_many_breaks_a_promise() {
    play_schedules(SCHEDULES, SCHEDULES_OF_THE_SLOW_TEST);
}

#[test]
fn a_seed_always_gives_the_same_schedule() {
    let mut lines = 0;
    for seed in 0..20 {
        let (first, second) = (play_one(seed), play_one(seed));
        for (number, (one, other)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {number}");
        }
        assert_eq!(first.trace.len(), second.trace.len());
        lines += first.trace.len();
    }
    assert!(lines > 3000, "{lines} lines");
}
