//! Tests of the configuration file.

use std::num::NonZeroUsize;
use std::time::Duration;

use proptest::prelude::*;
use proptest::string::string_regex;

use super::*;
use crate::size::GIB;
use crate::store::s3::settings::Encryption;

const EXAMPLE: &str = include_str!("../../docs/config.example.toml");

const ROOT_KEYS: &str = "known here: repository, global, s3, chunking, packing, retention, snapshots, restore, prices, rehearsal, schedule, hooks, monitoring, \
     subvolumes";
const NAME_RULE: &str =
    "a name is 1 to 64 letters (a to z), digits, '.', '_' and '-', and begins with neither '.' nor '-'";

fn parse(text: &str) -> Config {
    Config::parse(text, "c.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn faults_of(text: &str) -> String {
    Config::parse(text, "c.toml").unwrap_err().to_string()
}

/// The example with the keys that are comments there.
fn example_with_all_keys() -> String {
    let is_key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase());
    let uncomment = |line: &'static str| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line);
    EXAMPLE.lines().flat_map(|line| [uncomment(line), "\n"]).collect()
}

#[test]
fn a_repository_alone_is_a_configuration() {
    let config = parse("repository = \"file:///r\"");
    assert_eq!(config, Config::for_repository("file:///r"));
    assert_eq!(config.state_dir, Path::new("/var/lib/btrfs_to_s3"));
    assert_eq!(config.lock_path, Path::new("/var/lib/btrfs_to_s3/lock"));
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.packing.pack_target.bytes(), 32 * MIB);
    assert_eq!(config.packing.compression_level, 3);
    assert_eq!(config.chunking, ChunkingConfig::default());
    assert_eq!(config.snapshots_retained, 2);
    assert_eq!(
        config.require_subvolumes().unwrap_err().to_string(),
        "no subvolume is configured: add a section [[subvolumes]] with a path"
    );
}

const CONFIG_WITH_ALL_KEYS: &str = r#"
    repository = "s3://bucket/prefix"
    chunking = { minimum = "4 KiB", average = "16 KiB", maximum = "64 KiB" }
    packing = { pack_target = "0.5 GiB", compression_level = 0x13 }
    snapshots = { base_dir = "/pool/snapshots", retain = 7 }
    schedule = { full_every = "30d", incremental_every = "2d", run_at = "02:30", max_chain_length = 40 }
    [global]
    log_level = "debug"
    state_dir = "/s/"
    lock_path = "/run/./l"
    publish_rejected_streams = true
    subvolumes_at_once = 4
    low_memory = true
    [retention]
    keep_last = 1
    keep_hourly = 2
    keep_daily = 3
    keep_weekly = 4
    keep_monthly = 5
    keep_yearly = 6
    keep_within = "30d"
    keep_tags = ["keep", "year:2026"]
    [[subvolumes]]
    path = "/pool//home/"
    [[subvolumes]]
    path = "/"
    name = "root"
    compressed_data = true
    base_dir = "/.snapshots"
    "#;

#[test]
fn every_key_is_read() {
    let config = parse(CONFIG_WITH_ALL_KEYS);
    let size = |bytes| Some(ByteSize::from_bytes(bytes));
    let expected = Config {
        log_level: LogLevel::Debug,
        state_dir: "/s".into(),
        lock_path: "/run/l".into(),
        publish_rejected_streams: true,
        subvolumes_at_once: 4,
        low_memory: true,
        chunking: ChunkingConfig { minimum: size(4 * KIB), average: size(16 * KIB), maximum: size(64 * KIB) },
        packing: PackingConfig { pack_target: ByteSize::from_bytes(GIB / 2), compression_level: 19 },
        retention: RetentionPolicy {
            keep_last: 1,
            keep_hourly: 2,
            keep_daily: 3,
            keep_weekly: 4,
            keep_monthly: 5,
            keep_yearly: 6,
            keep_within: Some(Duration::from_hours(30 * 24)),
            keep_tags: ["keep".to_owned(), "year:2026".to_owned()].into(),
        },
        snapshots_retained: 7,
        schedule: Some(Policy {
            full_every: Some(Duration::from_hours(30 * 24)),
            incremental_every: Duration::from_hours(2 * 24),
            run_at: Some(jiff::civil::Time::constant(2, 30, 0, 0)),
            max_chain_length: Some(40),
        }),
        subvolumes: vec![
            SubvolumeConfig {
                path: "/pool/home".into(),
                name: "home".to_owned(),
                compressed_data: false,
                base_dir: "/pool/snapshots".into(),
            },
            SubvolumeConfig {
                path: "/".into(),
                name: "root".to_owned(),
                compressed_data: true,
                base_dir: "/.snapshots".into(),
            },
        ],
        ..Config::for_repository("s3://bucket/prefix")
    };
    assert_eq!(config, expected);
    assert_eq!(config.require_subvolumes().unwrap().len(), 2);
    assert_eq!(config.state_dir.to_str(), Some("/s"));
}

#[test]
fn the_lock_is_in_the_state_directory_unless_it_is_given() {
    let config = parse("repository = 'r'\n[global]\nstate_dir = '/s'");
    assert_eq!(config.lock_path, Path::new("/s/lock"));
}

#[test]
fn snapshots_go_beside_the_subvolume_unless_a_directory_is_given() {
    let config = parse("repository = 'r'\n[[subvolumes]]\npath = '/pool/home'\n[[subvolumes]]\npath = '/data'");
    assert_eq!(config.subvolumes[0].base_dir, Path::new("/pool/.btrfs_to_s3"));
    assert_eq!(config.subvolumes[1].base_dir, Path::new("/.btrfs_to_s3"));
}

#[test]
fn a_subvolume_without_a_fault_of_its_own_is_read_in_the_order_of_the_file() {
    let config = parse("repository = 'r'\nsubvolumes = [{ path = '/b' }, { path = '/a' }]");
    let names: Vec<_> = config.subvolumes.iter().map(|subvolume| subvolume.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
}

/// Checks the one fault of each text that is put below a repository in line 1.
fn assert_faults(cases: &[(&str, &str)]) {
    for (text, message) in cases {
        let message = message.replace("{ROOT_KEYS}", ROOT_KEYS).replace("{NAME_RULE}", NAME_RULE);
        assert_eq!(faults_of(&format!("repository = 'r'\n{text}")), format!("c.toml:{message}"), "{text}");
    }
}

#[test]
fn a_key_that_means_nothing_is_a_fault() {
    assert_faults(&[
        ("rtain = 1", "2:1: rtain: unknown key ({ROOT_KEYS})"),
        ("[snapshot]", "2:2: snapshot: unknown key (did you mean 'snapshots'?)"),
        ("[s3]\nregoin = 'x'", "3:1: s3.regoin: unknown key (did you mean 'region'?)"),
        ("[snapshots]\nretian = 1", "3:1: snapshots.retian: unknown key (did you mean 'retain'?)"),
        ("[chunking]\n  min = '4 KiB'", "3:3: chunking.min: unknown key (did you mean 'minimum'?)"),
        ("[unheard_of]\nverify = true", "2:2: unheard_of: unknown key ({ROOT_KEYS})"),
        ("[calendar]", "2:2: calendar: unknown key ({ROOT_KEYS})"),
        (
            "[global]\n\"log\\u001b[31m\\nlevel\" = 1",
            "3:1: global.log\\u{1b}[31m\\nlevel: unknown key (known here: log_level, publish_rejected_streams, subvolumes_at_once, low_memory, state_dir, lock_path)",
        ),
        ("[[subvolumes]]\npath = '/a'\npth = 1", "4:1: subvolumes[0].pth: unknown key (did you mean 'path'?)"),
        (
            "[[subvolumes]]\npath = '/a'\n[subvolumes.hooks]",
            "4:13: subvolumes[0].hooks: unknown key (known here: path, name, compressed_data, base_dir)",
        ),
    ]);
}

#[test]
fn a_value_of_another_type_is_a_fault() {
    assert_faults(&[
        ("global = 1", "2:10: global: must be a table, written as [global], not the number 1"),
        ("[[packing]]", "2:1: packing: must be a table, written as [packing], not an array"),
        (
            "[subvolumes]\npath = '/a'",
            "2:1: subvolumes: must be an array of tables, each written as [[subvolumes]], not a table",
        ),
        ("subvolumes = ['/a']", "2:15: subvolumes[0]: must be a table, not the string '/a'"),
        (
            "[packing]\npack_target = 32",
            "3:15: packing.pack_target: must be a size in quotation marks with a unit, \
             such as \"64 MiB\", not the number 32",
        ),
        (
            "[packing]\ncompression_level = '3'",
            "3:21: packing.compression_level: must be a whole number from 1 to 19, not the string '3'",
        ),
        (
            "[packing]\ncompression_level = 3.0",
            "3:21: packing.compression_level: must be a whole number from 1 to 19, not the number 3.0",
        ),
        ("[global]\nstate_dir = 1979-05-27", "3:13: global.state_dir: must be a string, not a date or time"),
        ("[global]\nlog_level = ['info']", "3:13: global.log_level: must be a string, not an array"),
        (
            "[[subvolumes]]\npath = '/a'\ncompressed_data = 0",
            "4:19: subvolumes[0].compressed_data: must be true or false, without quotation marks, not the number 0",
        ),
        ("[[subvolumes]]\npath = true", "3:8: subvolumes[0].path: must be a string, not the boolean true"),
    ]);
}

#[test]
fn a_text_is_no_truth_value() {
    for text in ["'false'", "'true'", "'no'", "''"] {
        let faults = faults_of(&format!("repository = 'r'\n[[subvolumes]]\npath = '/a'\ncompressed_data = {text}"));
        let fault = "subvolumes[0].compressed_data: must be true or false, without quotation marks, not the string";
        assert!(faults.contains(fault), "{faults}");
    }
}

#[test]
fn a_value_that_cannot_be_is_a_fault() {
    assert_faults(&[
        (
            "[global]\nlog_level = 'INFO'",
            "3:13: global.log_level: 'INFO': a log level is one of error, warn, info, debug and trace",
        ),
        ("[global]\nstate_dir = 'state'", "3:13: global.state_dir: must be an absolute path, not 'state'"),
        ("[global]\nlock_path = ''", "3:13: global.lock_path: must be an absolute path, not ''"),
        ("[snapshots]\nbase_dir = '~/s'", "3:12: snapshots.base_dir: must be an absolute path, not '~/s'"),
        ("[snapshots]\nbase_dir = '/a/../b'", "3:12: snapshots.base_dir: must not contain '..', not '/a/../b'"),
        (
            "[snapshots]\nbase_dir = \"/a\\u0000b\"",
            "3:12: snapshots.base_dir: must not contain a NUL character, not '/a\\0b'",
        ),
        ("[snapshots]\nretain = 0", "3:10: snapshots.retain: must be a whole number from 1 to 10000, not the number 0"),
        (
            "[snapshots]\nretain = -1",
            "3:10: snapshots.retain: must be a whole number from 1 to 10000, not the number -1",
        ),
        (
            "[packing]\ncompression_level = 20",
            "3:21: packing.compression_level: must be a whole number from 1 to 19, not the number 20",
        ),
        (
            "[packing]\ncompression_level = 4294967297",
            "3:21: packing.compression_level: must be a whole number from 1 to 19, not the number 4294967297",
        ),
        ("[packing]\npack_target = '3 MiB'", "3:15: packing.pack_target: must be from 4 MiB to 512 MiB, not 3 MiB"),
        ("[packing]\npack_target = '513 MiB'", "3:15: packing.pack_target: must be from 4 MiB to 512 MiB, not 513 MiB"),
        (
            "[packing]\npack_target = '32'",
            "3:15: packing.pack_target: '32': a size is a number and one of the units B, KiB, MiB, GiB, TiB, \
             kB, MB, GB and TB, such as '64 MiB'",
        ),
        ("[chunking]\nminimum = '2 MiB'", "3:11: chunking.minimum: must be from 64 B to 1 MiB, not 2 MiB"),
        (
            "[chunking]\naverage = '64 KiB'\nmaximum = '64 KiB'",
            "4:11: chunking.maximum: must be more than chunking.average",
        ),
        (
            "[chunking]\nmaximum = '64 KiB'\nminimum = '64 KiB'",
            "3:11: chunking.maximum: must be more than chunking.minimum",
        ),
    ]);
}

#[test]
fn a_schedule_that_cannot_be_kept_is_a_fault() {
    assert_faults(&[
        (
            "[schedule]\nincremental_every = 1",
            "3:21: schedule.incremental_every: must be a duration in quotation marks with a unit, such as \"30s\", \
             not the number 1",
        ),
        (
            "[schedule]\nincremental_every = '1'",
            "3:21: schedule.incremental_every: '1': a duration is whole numbers with the units w, d, h, min (or m) and s, \
             such as '6h' or '1h 30min'",
        ),
        (
            "[schedule]\nfull_every = '12h'",
            "3:14: schedule.full_every: must not be less than schedule.incremental_every",
        ),
        (
            "[schedule]\nfull_every = '1d'\nincremental_every = '2d'",
            "3:14: schedule.full_every: must not be less than schedule.incremental_every",
        ),
        (
            "[schedule]\nrun_at = '02:30'\nincremental_every = '6h'",
            "4:21: schedule.incremental_every: must be whole days where there is a run_at",
        ),
        ("[schedule]\nrun_at = '24:30'", "3:10: schedule.run_at: must be a time of day such as \"02:30\", not '24:30'"),
        ("[schedule]\nrun_at = '2:30'", "3:10: schedule.run_at: must be a time of day such as \"02:30\", not '2:30'"),
        ("[schedule]\nrun_at = 02:30:00", "3:10: schedule.run_at: must be a string, not a date or time"),
        (
            "[schedule]\nmax_chain_length = 0",
            "3:20: schedule.max_chain_length: must be a whole number from 1 to 10000, not the number 0",
        ),
    ]);
}

#[test]
fn hooks_and_who_is_told_are_read() {
    let config = parse(
        r#"
        repository = "r"
        hooks = { before = ["/bin/true"], after = ["sh", "-c", "x y"], on_failure = ["m"], timeout = "5s" }
        monitoring = { healthcheck_url = "https://hc/x/", metrics_textfile = "/m/b.prom" }
        "#,
    );
    let expected = Config {
        hooks: HooksConfig {
            before: vec!["/bin/true".to_owned()],
            after: ["sh", "-c", "x y"].map(str::to_owned).into(),
            on_failure: vec!["m".to_owned()],
            timeout: Duration::from_secs(5),
        },
        monitoring: MonitoringConfig {
            healthcheck_url: Some("https://hc/x".to_owned()),
            metrics_textfile: Some("/m/b.prom".into()),
        },
        ..Config::for_repository("r")
    };
    assert_eq!(config, expected);
}

#[test]
fn hooks_and_monitoring_that_cannot_be_are_faults() {
    assert_faults(&[
        (
            "[hooks]\nbefore = 'true'",
            "3:10: hooks.before: must be an array of strings, such as [\"first\", \"second\"], not the string 'true'",
        ),
        ("[hooks]\nafter = ['']", "3:10: hooks.after[0]: must be a program"),
        ("[hooks]\ntimeout = '0s'", "3:11: hooks.timeout: must be from 1s to 86400s, not '0s'"),
        (
            "[monitoring]\nhealthcheck_url = 'hc-ping.com'",
            "3:19: monitoring.healthcheck_url: must begin with https:// or http://, and have no query, \
             as in \"https://hc-ping.com/…\"",
        ),
        (
            "[monitoring]\nhealthcheck_url = 'http://h/\"\\nx'",
            "3:19: monitoring.healthcheck_url: must begin with https:// or http://, and have no query, \
             as in \"https://hc-ping.com/…\"",
        ),
        (
            "[monitoring]\nmetrics_textfile = 'm'",
            "3:20: monitoring.metrics_textfile: must be an absolute path, not 'm'",
        ),
    ]);
}

#[test]
fn a_schedule_without_keys_asks_for_one_backup_a_day() {
    assert_eq!(parse("repository = 'r'").schedule, None);
    let policy = parse("repository = 'r'\n[schedule]").schedule.unwrap();
    assert_eq!(policy.incremental_every, Duration::from_hours(24));
    assert_eq!((policy.full_every, policy.run_at, policy.max_chain_length), (None, None, None));
}

#[test]
fn a_subvolume_without_path_or_with_a_bad_or_taken_name_is_a_fault() {
    assert_faults(&[
        ("[[subvolumes]]\nname = 'a'", "2:1: subvolumes[0].path: is missing"),
        ("[[subvolumes]]\npath = 'home'", "3:8: subvolumes[0].path: must be an absolute path, not 'home'"),
        ("[[subvolumes]]\npath = '/a'\nname = ''", "4:8: subvolumes[0].name: '': {NAME_RULE}"),
        ("[[subvolumes]]\npath = '/a'\nname = '../x'", "4:8: subvolumes[0].name: '../x': {NAME_RULE}"),
        (
            "[[subvolumes]]\npath = '/my files'",
            "3:8: subvolumes[0].path: no name can be made of '/my files': set subvolumes[0].name ({NAME_RULE})",
        ),
        (
            "[[subvolumes]]\npath = '/'\nbase_dir = '/s'",
            "3:8: subvolumes[0].path: no name can be made of '/': set subvolumes[0].name ({NAME_RULE})",
        ),
        (
            "[[subvolumes]]\npath = '/'\nname = 'root'",
            "3:8: subvolumes[0].path: '/' is in no directory that could hold its snapshots: set subvolumes[0].base_dir",
        ),
        (
            "[[subvolumes]]\npath = '/a/x'\n[[subvolumes]]\npath = '/b/x'",
            "5:8: subvolumes[1].path: the name 'x' is that of subvolumes[0] too: set another name",
        ),
        (
            "[[subvolumes]]\npath = '/x'\n[[subvolumes]]\npath = '/y'\nname = 'x'",
            "6:8: subvolumes[1].name: the name 'x' is that of subvolumes[0] too: set another name",
        ),
        (
            "[[subvolumes]]\npath = '/x'\n[[subvolumes]]\npath = '//x/'\nname = 'y'",
            "5:8: subvolumes[1].path: is the path of subvolumes[0] too",
        ),
        (
            "[[subvolumes]]\npath = '/x'\n[[subvolumes]]\npath = '/x'",
            "5:8: subvolumes[1].path: is the path of subvolumes[0] too",
        ),
    ]);
}

#[test]
fn a_missing_or_empty_repository_is_a_fault() {
    assert_eq!(faults_of(""), "c.toml: repository: is missing");
    assert_eq!(faults_of("repository = ''"), "c.toml:1:14: repository: must not be empty");
    assert_eq!(faults_of("repository = 1"), "c.toml:1:14: repository: must be a string, not the number 1");
}

#[test]
fn all_faults_are_reported_at_once_in_the_order_of_the_file() {
    let text = "\
[packing]
pack_target = \"1 MiB\"
compresion_level = 4

[snapshots]
retain = \"two\"

[[subvolumes]]
path = \"/a\"
compressed_data = \"yes\"

[[subvolumes]]
pfad = \"/b\"

[[subvolumes]]
name = \"größe\"
path = \"relative\"
";
    let faults = "\
c.toml: repository: is missing
c.toml:2:15: packing.pack_target: must be from 4 MiB to 512 MiB, not 1 MiB
c.toml:3:1: packing.compresion_level: unknown key (did you mean 'compression_level'?)
c.toml:6:10: snapshots.retain: must be a whole number from 1 to 10000, not the string 'two'
c.toml:10:19: subvolumes[0].compressed_data: must be true or false, without quotation marks, not the string 'yes'
c.toml:12:1: subvolumes[1].path: is missing
c.toml:13:1: subvolumes[1].pfad: unknown key (known here: path, name, compressed_data, base_dir)
c.toml:16:8: subvolumes[2].name: 'größe': a name is 1 to 64 letters (a to z), digits, '.', '_' and '-', \
and begins with neither '.' nor '-'
c.toml:17:8: subvolumes[2].path: must be an absolute path, not 'relative'";
    assert_eq!(faults_of(text), faults);
}

#[test]
fn a_text_that_is_not_toml_tells_each_place_and_nothing_else() {
    let cases = [
        ("repository = file:///r\nx = 1", "c.toml:1:14: not TOML: 'file:///r': invalid boolean, expected `false`"),
        ("repository = 'a'\nrepository = 'b'", "c.toml:2:1: not TOML: 'repository': duplicate key"),
        ("[global]\n[global]", "c.toml:2:2: not TOML: 'global': duplicate key"),
        ("# größe\nrepository = 'ä' x", "c.toml:2:18: not TOML: unexpected key or value, expected newline, `#`"),
        (
            "a = \nb = \u{1b}",
            "c.toml:1:5: not TOML: string values must be quoted, expected literal string\n\
             c.toml:2:5: not TOML: '\\u{1b}': string values must be quoted, expected literal string",
        ),
        ("[global]\nlow_memory = yes", "c.toml:2:14: not TOML: 'yes': a truth is written true or false"),
        ("a = False", "c.toml:1:5: not TOML: 'False': a truth is written true or false"),
        ("[[subvolumes]\n", "c.toml:1:14: not TOML: unclosed array table, expected `]`"),
    ];
    for (text, faults) in cases {
        assert_eq!(faults_of(text), faults, "{text}");
    }
}

#[test]
fn a_column_counts_characters() {
    let fault = faults_of("repository = 'r'\nsnapshots = { base_dir = '/größe', retain = 0 }");
    assert!(fault.starts_with("c.toml:2:45: snapshots.retain: "), "{fault}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_key() {
    assert_eq!(parse("\u{feff}repository = 'r'").repository, "r");
}

#[test]
fn long_texts_are_shortened_and_many_faults_are_counted() {
    let fault = faults_of(&format!("repository = 'r'\n[global]\nlog_level = '{}'", "ä".repeat(1000)));
    assert!(fault.contains(&format!("'{}…'", "ä".repeat(60))), "{fault}");
    assert!(fault.len() < 300, "{fault}");

    let lines: Vec<_> = (0..150).map(|number| format!("key{number} = 1")).collect();
    let faults = faults_of(&lines.join("\n"));
    assert_eq!(faults.lines().count(), 101);
    assert!(faults.ends_with("\nc.toml: 51 more faults"), "{faults}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let fault = || Config::load(&path).unwrap_err().to_string().replace(path.to_str().unwrap(), "c.toml");
    assert_eq!(fault(), "c.toml: there is no such file");

    std::fs::create_dir(&path).unwrap();
    assert_eq!(fault(), "c.toml: is a directory, not a file");

    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"repository = 'r'\n# gr\xc3\xb6\xdfe").unwrap();
    assert_eq!(fault(), "c.toml:2:6: not UTF-8 from here on");

    let long = |bytes: u64| format!("repository = 'r'\n{}", "#".repeat(usize::try_from(bytes).unwrap() - 17));
    std::fs::write(&path, long(CONFIG_FILE_BYTES_MAX + 1)).unwrap();
    assert_eq!(fault(), "c.toml: is longer than 1 MiB");
    std::fs::write(&path, long(CONFIG_FILE_BYTES_MAX)).unwrap();
    assert_eq!(Config::load(&path), Ok(Config::for_repository("r")));
}

#[test]
fn a_name_has_plain_characters_and_a_limit() {
    for name in ["a", "home", "A-1_b.c", "_x", "9", &"n".repeat(64)] {
        assert_eq!(check_subvolume_name(name), Ok(()), "{name}");
    }
    for name in ["", ".", "..", ".a", "-a", "a/b", "a b", "größe", "a\n", &"n".repeat(65)] {
        assert_eq!(check_subvolume_name(name), Err(InvalidName), "{name}");
    }
}

#[test]
fn the_section_of_s3_is_read() {
    let config = parse(
        r#"
        repository = "s3://bucket/prefix"
        [s3]
        profile = "backups"
        region = "eu-north-1"
        endpoint_url = "http://localhost:3900"
        force_path_style = false
        storage_class_data = "DEEP_ARCHIVE"
        storage_class_metadata = "STANDARD_IA"
        sse = "aws:kms:dsse"
        sse_kms_key_id = "key"
        conditional_put = false
        concurrency = 3
        part_size = "8 MiB"
        connect_timeout = "5s"
        stall_timeout = "2min"
        upload_per_second = "1 MiB"
        download_per_second = "1.5 MiB"
        "#,
    );
    let expected = S3Settings {
        profile: Some("backups".to_owned()),
        region: Some("eu-north-1".to_owned()),
        endpoint_url: Some("http://localhost:3900".to_owned()),
        force_path_style: Some(false),
        storage_class_data: Some("DEEP_ARCHIVE".parse().unwrap()),
        storage_class_metadata: Some("STANDARD_IA".parse().unwrap()),
        encryption: Some(Encryption::Kms { dual_layer: true, key_id: Some("key".to_owned()) }),
        conditional_put: false,
        concurrency: NonZeroUsize::new(3).unwrap(),
        part_bytes: 8 * MIB,
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_mins(2),
        upload_bytes_per_second: Some(MIB),
        download_bytes_per_second: Some(3 * MIB / 2),
    };
    assert_eq!(config.s3, expected);
}

#[test]
fn faults_of_the_section_of_s3_say_what_is_needed() {
    let faults = faults_of(
        r#"
        repository = "s3://bucket"
        [s3]
        endpoint_url = "localhost:3900"
        storage_class_data = "Glacier"
        storage_class_metadata = "GLACIER"
        sse = "AES256"
        sse_kms_key_id = "key"
        concurrency = 0
        part_size = "1 MiB"
        stall_timeout = "1s"
        secret_key = "x"
        "#,
    );
    for part in [
        "endpoint_url: must begin with https:// or http://",
        "storage_class_data: 'Glacier': a storage class is named by capital letters",
        "storage_class_metadata: must not be GLACIER: metadata is read by every run",
        "sse_kms_key_id: goes with sse = \"aws:kms\"",
        "concurrency: must be a whole number from 1 to 256",
        "part_size: must be from 5 MiB",
        "stall_timeout: must be from 5s to 3600s",
        "secret_key: unknown key",
    ] {
        assert!(faults.contains(part), "{part} is not in:\n{faults}");
    }
}

#[test]
fn the_example_shows_the_defaults() {
    let mut shown = parse(&example_with_all_keys());
    // These have no default of ours.
    let open = S3Settings::default();
    assert!(shown.s3.profile.take().is_some());
    assert!(shown.s3.region.take().is_some() && shown.s3.endpoint_url.take().is_some());
    assert!(shown.s3.storage_class_data.take().is_some() && shown.s3.storage_class_metadata.take().is_some());
    assert!(shown.s3.force_path_style.take().is_some() && shown.s3.encryption.take().is_some());
    assert!(shown.s3.upload_bytes_per_second.take().is_some() && shown.s3.download_bytes_per_second.take().is_some());
    assert_eq!(shown.s3, open);
    let schedule = shown.schedule.as_mut().unwrap();
    assert!(schedule.full_every.take().is_some() && schedule.max_chain_length.take().is_some());
    assert!(schedule.run_at.take().is_some());
    assert!(shown.restore.thaw_days.take().is_some() && shown.rehearse_every.take().is_some());
    let hooks = std::mem::take(&mut shown.hooks);
    assert!(!hooks.before.is_empty() && !hooks.after.is_empty() && !hooks.on_failure.is_empty());
    assert_eq!(hooks.timeout, HooksConfig::default().timeout);
    let monitoring = std::mem::take(&mut shown.monitoring);
    assert!(monitoring.healthcheck_url.is_some() && monitoring.metrics_textfile.is_some());
    assert_eq!(parse(EXAMPLE), shown);
    assert_eq!(shown.restore, RestoreConfig::default());
    let defaults = Config::for_repository("");
    assert_eq!((shown.log_level, shown.packing), (defaults.log_level, defaults.packing));
    assert_eq!((&shown.state_dir, &shown.lock_path), (&defaults.state_dir, &defaults.lock_path));
    assert_eq!(shown.snapshots_retained, defaults.snapshots_retained);
    assert_eq!(shown.subvolumes.len(), 2);
}

/// A key that resembles no other makes the reader name all that it knows.
#[test]
fn the_example_names_every_key() {
    let unknown = "\nzzzzzzzz = 1\n";
    let example = example_with_all_keys();
    let probed: String =
        example.lines().flat_map(|line| [line, if line.starts_with('[') { unknown } else { "\n" }]).collect();
    let errors = Config::parse(&format!("{unknown}{probed}"), "c.toml").unwrap_err();
    assert_eq!(errors.faults.len(), 1 + example.lines().filter(|line| line.starts_with('[')).count());
    for fault in errors.faults {
        let (_, known) = fault.message.split_once("known here: ").unwrap();
        for key in known.trim_end_matches(')').split(", ") {
            let (prefix, _) = fault.key.split_once("zzz").unwrap();
            let section = format!("{prefix}{key}");
            let shown = |line: &str| line.starts_with(&format!("{key} = ")) || line.trim_matches(['[', ']']) == section;
            assert!(example.lines().any(shown), "{prefix}{key} is not in the example");
        }
    }
}

const HEADERS: &str = r"\[(global|s3|chunking|packing|retention|snapshots|prices|rehearsal|schedule|hooks|monitoring)\]|\[\[subvolumes\]\]";
const KEYS: &str = "(repository|global|subvolumes|path|name|retain|base_dir|minimum|pack_target|x|\"ä\")";
const VALUES: &str =
    r#"(1|-1|0x1f|1e400|inf|true|'/a'|'/'|"\\u0000"|'64 KiB'|\[\{path='/a'\}\]|\{retain=1\}|1979-05-27)"#;

fn line_strategy() -> impl Strategy<Value = String> {
    string_regex(&format!("{HEADERS}|{KEYS} = {VALUES}")).unwrap()
}

fn assert_faults_are_lines(text: &str) {
    if let Err(errors) = Config::parse(text, "c.toml") {
        let lines = errors.faults.len() + usize::from(errors.omitted > 0);
        assert_eq!(errors.to_string().lines().count(), lines, "{errors}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        assert_faults_are_lines(&text);
    }

    #[test]
    fn no_toml_makes_the_reader_panic(
        lines in prop::collection::vec(line_strategy(), 0..24)
    ) {
        let text = lines.join("\n");
        assert_faults_are_lines(&text);
    }

    #[test]
    fn no_damage_to_the_example_makes_the_reader_panic(
        at in 0..EXAMPLE.len(), length in 0_usize..40, with in ".{0,3}"
    ) {
        let mut text = example_with_all_keys();
        let end = (at + length).min(text.len());
        if text.is_char_boundary(at) && text.is_char_boundary(end) {
            text.replace_range(at..end, &with);
        }
        assert_faults_are_lines(&text);
    }
}
