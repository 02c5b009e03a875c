//! Whenever a run is killed, all that was there before is there after, and the next run needs no help.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use self::traces::{Reached, Tally, Unfinished};
use self::world::{Plan, Source, World};
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::tool::{Tool, data, make_subvolume, snapshots, subvolume_section};
use crate::support::tree::{Recorded, random_bytes};

#[path = "kills/other_commands.rs"]
mod other_commands;
#[path = "kills/points.rs"]
mod points;
#[path = "kills/spoil.rs"]
mod spoil;
#[path = "kills/traces.rs"]
mod traces;
#[path = "kills/world.rs"]
mod world;

/// Several packs come of a few megabytes.
const SMALL_PACKS: &str = "[chunking]\nminimum = \"4 KiB\"\naverage = \"16 KiB\"\nmaximum = \"64 KiB\"\n\
    [packing]\npack_target = \"4 MiB\"\ncompression_level = 1\n";

/// How many nights a repository lives: after each kill all its backups are restored, which takes the longer the more.
const NIGHTS: u64 = 3;

/// Some bytes on standard input: three packs of new ones each night, and some that were there before.
struct Piped {
    path: PathBuf,
    seed: u64,
    night: u64,
}

impl Source for Piped {
    fn change(&mut self) {
        self.night += 1;
        let mut bytes = random_bytes(1 << 20, self.seed);
        bytes.extend(random_bytes(9 << 20, self.seed + self.night));
        fs::write(&self.path, bytes).unwrap();
    }

    fn backup(&self, tool: &Tool) -> Command {
        tool.command(["backup", "--stdin", "--name", "pipe"])
    }

    fn stdin(&self) -> Stdio {
        File::open(&self.path).unwrap().into()
    }

    fn stream(&self) -> Option<Vec<u8>> {
        Some(fs::read(&self.path).unwrap())
    }
}

/// A workspace with an empty repository.
fn small_packs_tool() -> Tool {
    let tool = Tool::without_configuration();
    tool.configure(SMALL_PACKS);
    tool.run(["init"]).assert_code(0);
    tool
}

fn piped_world(seed: u64) -> World<Piped> {
    let tool = small_packs_tool();
    let path = tool.folder().join("input");
    World::new(tool, Piped { path, seed: seed << 32, night: 0 })
}

fn kill<S: Source>(kills: u32, seed: u64, world: impl FnMut(u64) -> World<S>) -> Tally {
    kill_and(kills, seed, world, |_| {})
}

/// Shows the table of places that were hit, also where the test passes: what macros print is kept back then.
fn show(tally: &Tally) {
    std::io::stderr().write_all(tally.to_string().as_bytes()).unwrap();
}

/// Kills at least so many backups, in one repository after another, each of which is looked at in the end.
fn kill_and<S: Source>(
    kills: u32,
    seed: u64,
    mut world: impl FnMut(u64) -> World<S>,
    finish: impl Fn(&World<S>),
) -> Tally {
    let mut plan = Plan::new(seed, points::of_a_backup());
    for seed in seed.. {
        let mut world = world(seed);
        for _ in 0..NIGHTS {
            world.night(&mut plan);
        }
        finish(&world);
        if plan.tally.kills >= kills {
            break;
        }
    }
    show(&plan.tally);
    plan.tally
}

const PLACES: [Reached; 6] =
    [Reached::Nothing, Reached::Session, Reached::Packs, Reached::Segment, Reached::Manifest, Reached::End];

const UNFINISHED: [Unfinished; 3] = [Unfinished::EmptyObject, Unfinished::Object, Unfinished::LocalIndex];

#[test]
fn a_backup_killed_anywhere_harms_no_other_and_is_simply_run_again() {
    kill(45, 1, piped_world).assert_hit(&PLACES, &UNFINISHED, 2);
}

#[test]
#[ignore = "slow"]
fn hundreds_of_kills_harm_no_backup() {
    for seed in 2..5 {
        kill(100, seed, piped_world).assert_hit(&PLACES, &UNFINISHED, 4);
    }
}

/// A subvolume: each night a file is new and another is partly written again.
struct Subvolume {
    file_system: TestBtrfs,
    seed: u64,
    night: u64,
}

impl Source for Subvolume {
    fn change(&mut self) {
        self.night += 1;
        let data = data(&self.file_system);
        fs::write(data.join(format!("night-{}", self.night)), random_bytes(5 << 20, self.seed + self.night)).unwrap();
        let again = fs::OpenOptions::new().write(true).create(true).truncate(false).open(data.join("again")).unwrap();
        again.write_all_at(&random_bytes(300_000, self.night), self.night * 100_000).unwrap();
    }

    fn backup(&self, tool: &Tool) -> Command {
        tool.command(["backup"])
    }

    fn stdin(&self) -> Stdio {
        Stdio::null()
    }

    fn stream(&self) -> Option<Vec<u8>> {
        None
    }
}

fn subvolume_world(seed: u64) -> World<Subvolume> {
    let file_system = TestBtrfs::new(1024, "");
    let tool = Tool::without_configuration();
    make_subvolume(&file_system);
    tool.configure(&format!("{SMALL_PACKS}{}", subvolume_section(&file_system, 3)));
    tool.run(["init"]).assert_code(0);
    World::new(tool, Subvolume { file_system, seed: seed << 32, night: 0 })
}

/// Besides what holds for streams: each backup but the first is an increment, the whole chain is received, and no more
/// snapshots stay than are to be kept.
fn finish_subvolume(world: &World<Subvolume>) {
    let (source, published) = (&world.source().file_system, world.published());
    let mut with_stream = None;
    for (backup, _) in published {
        assert_eq!(backup.parent, with_stream);
        if backup.kind != "unchanged" {
            with_stream = Some(backup.id.clone());
        }
    }
    let kept = source.subvolumes().into_iter().filter(|(_, path)| path.starts_with(snapshots(source)));
    assert_eq!(kept.count(), 3);
    let tree = Recorded::of(&data(source));
    let restored = TestBtrfs::new(1024, "");
    let target = restored.path().join("target");
    world.tool().restore(&published.last().unwrap().0.id, &target);
    tree.assert_equals(&target);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn increments_survive_backups_killed_anywhere() {
    kill_and(25, 1, subvolume_world, finish_subvolume);
}

#[test]
#[ignore = "slow, and needs root and Btrfs"]
fn increments_survive_a_hundred_kills() {
    // After the session's end there is next to no time, and no call that the program alone makes.
    let places = &PLACES[..PLACES.len() - 1];
    kill_and(100, 2, subvolume_world, finish_subvolume).assert_hit(places, &UNFINISHED, 2);
}
