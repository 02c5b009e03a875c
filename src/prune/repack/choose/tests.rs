//! Choices among packs that are made up.

use super::*;

/// A pack of so many bytes, of which so many percent are used, stored in the second of its number.
fn pack(number: u8, size_bytes: u64, used_percent: u64) -> PackUse {
    PackUse {
        class: PackClass::Data,
        id: PackId::from_bytes([number; 32]),
        size_bytes,
        stored_at: Timestamp::from_second(i64::from(number)).unwrap(),
        storage_class: None,
        plaintext_bytes: 100,
        needed_bytes: used_percent,
        duplicate_bytes: 0,
    }
}

const LIMITS: Limits = Limits { unused_bytes: 0, rewritten_bytes: u64::MAX, small_below_bytes: 0 };

fn chosen(packs: &[PackUse], limits: Limits) -> (Vec<u8>, u64) {
    let choice = choose_packs(packs, limits);
    (choice.packs.iter().map(|pack| pack.id.as_bytes()[0]).collect(), choice.unused_bytes)
}

#[test]
fn packs_are_rewritten_until_little_enough_is_unused_those_first_of_which_most_is() {
    let packs = [pack(1, 1000, 50), pack(2, 1000, 90), pack(3, 1000, 10), pack(4, 1000, 100)];
    let of_limit = |unused_bytes| chosen(&packs, Limits { unused_bytes, ..LIMITS });
    assert_eq!(of_limit(1500), (vec![], 1500));
    assert_eq!(of_limit(1499), (vec![3], 600));
    assert_eq!(of_limit(599), (vec![1, 3], 100));
    assert_eq!(of_limit(0), (vec![1, 2, 3], 0));
}

#[test]
fn no_more_is_rewritten_than_may_be_and_a_pack_that_does_not_fit_keeps_no_other_from_it() {
    let packs = [pack(1, 1000, 10), pack(2, 300, 50), pack(3, 300, 60)];
    let of_limit = |rewritten_bytes| chosen(&packs, Limits { rewritten_bytes, ..LIMITS }).0;
    assert_eq!(of_limit(1600), [1, 2, 3]);
    assert_eq!(of_limit(1300), [1, 2]);
    assert_eq!(of_limit(999), [2, 3]);
    assert_eq!(of_limit(299), [0_u8; 0]);
}

#[test]
fn small_packs_are_merged_when_they_make_one_that_is_not_small_or_are_very_many() {
    let limits = Limits { small_below_bytes: 100, ..LIMITS };
    let count =
        |packs: u8, size| chosen(&(0..packs).map(|number| pack(number, size, 100)).collect::<Vec<_>>(), limits).0.len();
    assert_eq!(count(8, 13), 8);
    assert_eq!(count(7, 99), 0, "too few");
    assert_eq!(count(8, 12), 0, "they would make another small one");
    assert_eq!(count(63, 1), 0);
    assert_eq!(count(64, 1), 64);
    assert_eq!(count(200, 100), 0, "they are not small");
    let limited = Limits { rewritten_bytes: 8 * 13 - 1, ..limits };
    assert_eq!(chosen(&(0..8).map(|number| pack(number, 13, 100)).collect::<Vec<_>>(), limited).0, [0_u8; 0]);
}

#[test]
fn what_was_merged_is_not_merged_again() {
    let small = 100;
    for (packs, size) in [(8, 13), (20, 99), (64, 1), (200, 3)] {
        let before: Vec<PackUse> = (0..packs).map(|number| pack(number, size, 100)).collect();
        let limits = Limits { small_below_bytes: small, ..LIMITS };
        assert_eq!(chosen(&before, limits).0.len(), usize::from(packs));
        // New packs are four times as large as a small one; the last is what is left.
        let all = u64::from(packs) * size;
        let after: Vec<PackUse> = (0..all / (4 * small))
            .map(|_| 4 * small)
            .chain([all % (4 * small)])
            .enumerate()
            .map(|(number, size)| pack(u8::try_from(number).unwrap(), size, 100))
            .collect();
        assert_eq!(chosen(&after, limits).0, [0_u8; 0], "{packs} of {size}");
    }
}

#[test]
fn packs_do_not_become_small_because_new_ones_are_to_be_larger() {
    let small_below = |target_mib: usize| small_below_bytes(target_mib << 20);
    assert_eq!([4, 8, 32].map(small_below), [1 << 20, 2 << 20, 8 << 20]);
    let small_below_bytes = small_below(256);
    assert_eq!(small_below_bytes, 8 << 20);
    let full: Vec<PackUse> = (0..100).map(|number| pack(number, 32 << 20, 100)).collect();
    assert_eq!(chosen(&full, Limits { small_below_bytes, ..LIMITS }).0, [0_u8; 0]);
}

#[test]
fn archived_packs_and_those_that_are_paid_for_are_no_candidates() {
    let of_class = |number, class: &str| PackUse { storage_class: class.parse().ok(), ..pack(number, 1000, 50) };
    let minimum_days = [("STANDARD_IA".parse().unwrap(), 30), ("GLACIER".parse().unwrap(), 90)].into();
    let options = RepackOptions { minimum_days, ..RepackOptions::default() };
    let uses = vec![
        of_class(1, "STANDARD"),
        of_class(2, "STANDARD_IA"),
        of_class(3, "GLACIER"),
        of_class(4, "DEEP_ARCHIVE"),
        PackUse { needed_bytes: 100, ..of_class(5, "DEEP_ARCHIVE") },
    ];
    let at_day = |day: i64| Timestamp::from_second(100 + day * 24 * 60 * 60).unwrap();
    let young = Candidates::new(uses.clone(), &options, at_day(29));
    assert_eq!(young.packs, uses[..1]);
    assert_eq!(young.archived, Amount { objects: 2, bytes: 1000 });
    assert_eq!(young.paid_for, Amount { objects: 1, bytes: 500 });
    let old = Candidates::new(uses.clone(), &options, at_day(1000));
    assert_eq!((old.packs.as_slice(), old.paid_for), (&uses[..2], Amount::default()));
}
