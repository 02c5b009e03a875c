//! Tests of names, retention and nested subvolumes.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn info(number: u8) -> SubvolumeInfo {
    SubvolumeInfo {
        id: 256 + u64::from(number),
        parent_id: 5,
        generation: 1,
        ctransid: 1,
        otransid: 1,
        stransid: 0,
        rtransid: 0,
        uuid: Uuid::from_bytes([number; 16]),
        parent_uuid: None,
        received_uuid: None,
        read_only: true,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn snapshots(count: u8) -> Vec<Snapshot> {
    let snapshot = |number| {
        let name = SnapshotName::new("home", Timestamp::from_second(i64::from(number)).unwrap()).unwrap();
        Snapshot { path: Path::new("/snapshots").join(name.to_string()), name, info: info(number) }
    };
    (0..count).map(snapshot).collect()
}

fn numbers(planned: &[&Snapshot]) -> Vec<u8> {
    planned.iter().map(|snapshot| snapshot.info.uuid.as_bytes()[0]).collect()
}

#[test]
fn a_name_holds_the_subvolume_and_the_time_to_the_nanosecond() {
    let name = SnapshotName::new("home", at("2026-01-02T03:04:05.000000006Z")).unwrap();
    assert_eq!(name.to_string(), "home.20260102T030405.000000006Z");
    assert_eq!(SnapshotName::parse("home.20260102T030405.000000006Z"), Some(name));
}

#[test]
fn names_that_begin_alike_are_told_apart() {
    let time = "20260102T030405.000000006Z";
    for subvolume in ["home", "home.d", "home.2026", &format!("home.{time}"), "-", ".", "a..b"] {
        let name = SnapshotName::parse(&format!("{subvolume}.{time}")).unwrap();
        assert_eq!(name.subvolume(), subvolume);
    }
}

#[test]
fn other_texts_are_not_names() {
    let wrong = [
        "",
        "home",
        "20260102T030405.000000006Z",
        ".20260102T030405.000000006Z",
        "home-20260102T030405.000000006Z",
        "home.20260102T030405Z",
        "home.20260102T030405.00000006Z",
        "home.20261302T030405.000000006Z",
        "home.20260102T030460.000000006Z",
        "home.20260230T030405.000000006Z",
        "home.20260102t030405.000000006z",
        "home.20260102T030405,000000006Z",
        "home.+0260102T030405.000000006Z",
        "home.20260102 030405.000000006Z",
        "home.20260102T030405.000000006Z~",
        "ho me.20260102T030405.000000006Z",
        "ho/me.20260102T030405.000000006Z",
        "hömé.20260102T030405.000000006Z",
        "ö0260102T030405.000000006Z",
    ];
    for text in wrong {
        assert_eq!(SnapshotName::parse(text), None, "{text}");
    }
}

#[test]
fn a_subvolume_name_that_is_no_file_name_is_refused() {
    for name in ["", "a/b", "a b", "ä", "a\0", &"x".repeat(201)] {
        assert!(SnapshotName::new(name, Timestamp::UNIX_EPOCH).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn every_name_reads_back(subvolume in "[A-Za-z0-9._-]{1,200}", seconds in 0..253_000_000_000_i64, nanoseconds in 0..1_000_000_000) {
        let name = SnapshotName::new(&subvolume, Timestamp::new(seconds, nanoseconds).unwrap()).unwrap();
        prop_assert!(name.to_string().len() <= 255);
        prop_assert_eq!(SnapshotName::parse(&name.to_string()), Some(name));
    }

    #[test]
    fn retention_keeps_the_newest_and_the_protected(count in 0..12_u8, keep in 0..14_usize, protected in prop::collection::vec(0..12_u8, 0..4)) {
        let snapshots = snapshots(count);
        let uuids: Vec<_> = protected.iter().map(|number| Uuid::from_bytes([*number; 16])).collect();
        let deleted = numbers(&plan_retention(&snapshots, keep, &uuids));
        for number in 0..count {
            let is_new = usize::from(number) + keep >= usize::from(count);
            prop_assert_eq!(deleted.contains(&number), !is_new && !protected.contains(&number));
        }
    }
}

#[test]
fn subvolumes_inside_the_source_are_found_but_for_our_snapshots() {
    let subvolume = |number: u8, path: &str| Subvolume { info: info(number), path_from_top: path.into(), path: None };
    let all = [
        subvolume(0, ""),
        subvolume(1, "@"),
        subvolume(2, "@/var/lib/machines"),
        subvolume(3, "@/var/lib/machines/inner"),
        subvolume(4, "@home"),
        subvolume(5, "@/.snapshots/home.20260102T030405.000000006Z"),
    ];
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert_eq!(nested_subvolumes(&all[1].info, &all), paths(&["var/lib/machines", "var/lib/machines/inner"]));
    assert_eq!(nested_subvolumes(&all[4].info, &all), paths(&[]));
    assert_eq!(nested_subvolumes(&info(77), &all), paths(&[]));
    assert_eq!(nested_subvolumes(&all[0].info, &all).len(), 4);
}
