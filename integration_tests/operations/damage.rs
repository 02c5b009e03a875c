//! Every kind of object, damaged in every way, read by every operation: the right bytes or an error, never others.

use std::fmt::Write as _;
use std::sync::Arc;

use btrfs_to_s3::backup::{Expected, Host};
use btrfs_to_s3::repository::Repository;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, read_manifest};
use btrfs_to_s3::store::faulty::{Damage, FaultyStore};
use btrfs_to_s3::store::{Key, ObjectStore, Store};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::samples::{Sample, random_bytes};
use crate::world::{Made, MemorySink, Notes, World, assert_same_bytes, back_up};

/// What each operation makes of each damage.
const TABLE: &str = include_str!("damage_matrix.txt");

const KINDS: [&str; 7] = ["config/", "start", "end", "data/", "meta/", "index/", "manifests/"];
pub(crate) const DAMAGES: [&str; 7] = ["first bit", "middle bit", "last bit", "half", "empty", "gone", "exchanged"];

/// Two backups; the objects of the first are damaged, those of the second are put in their place.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) first: Made,
    /// Keys of the first backup's objects and of others of the same kind, by kind.
    pub(crate) objects: Vec<(&'static str, Key, Bytes)>,
    next: Sample,
}

fn is_of(kind: &str, key: &Key) -> bool {
    key.as_str().starts_with(kind) || key.as_str().ends_with(&format!("/{kind}"))
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let first = world.back_up(&Sample::random(1, 60_000)).await;
        let of_first = world.keys("").await;
        world.back_up(&Sample::random(2, 60_000)).await;
        let all = world.keys("").await;
        let foreign = World::new().await;
        let mut objects = Vec::new();
        for kind in KINDS {
            let of_kind = |key: &&Key| is_of(kind, key);
            let own = of_first.iter().find(of_kind).unwrap().clone();
            let other = all.iter().filter(of_kind).find(|key| !of_first.contains(key));
            let other = match other {
                Some(key) => world.body(key).await,
                None => foreign.body(&own).await,
            };
            objects.push((kind, own, other));
        }
        let next = Sample::of_files(3, vec![random_bytes(1, 60_000), random_bytes(3, 10_000)]).on(1);
        Self { world, first, objects, next }
    }

    pub(crate) async fn damaged(&self, key: &Key, other: &Bytes, damage: &str) -> World {
        let world = self.world.copy().await;
        let body = world.body(key).await;
        let flipped = |place: usize| {
            let mut bytes = body.to_vec();
            bytes[place] ^= 1;
            Bytes::from(bytes)
        };
        match damage {
            "first bit" => world.replace(key, flipped(0)).await,
            "middle bit" => world.replace(key, flipped(body.len() / 2)).await,
            "last bit" => world.replace(key, flipped(body.len() - 1)).await,
            "half" => world.replace(key, body.slice(..body.len() / 2)).await,
            "empty" => world.replace(key, Bytes::new()).await,
            "exchanged" => world.replace(key, other.clone()).await,
            _ => world.memory.delete(key).await.unwrap(),
        }
        world
    }

    async fn row(&self, key: &Key, other: &Bytes, damage: &str) -> [&'static str; 5] {
        let world = self.damaged(key, other, damage).await;
        let repository = match world.open_through(world.store()).await {
            Ok(repository) => repository,
            Err(error) => return [named(&error, key); 5],
        };
        let (list, show) = (self.list(&repository, key).await, self.show(&repository, key).await);
        let restore = restore(&world, &repository, &self.first, key).await;
        let (of_new, of_own) = (world.copy().await, world);
        let new_host = self.back_up(&of_new, &of_new.host("new"), key).await;
        let own_host = self.back_up(&of_own, &of_own.host("one"), key).await;
        [list, show, restore, new_host, own_host]
    }

    async fn list(&self, repository: &Repository, key: &Key) -> &'static str {
        let catalog = match Catalog::load(repository, &RecordCache::none()).await {
            Ok(catalog) => catalog,
            Err(error) => return named(&error, key),
        };
        match catalog.damaged.first() {
            Some(error) => named(error, key),
            None if catalog.published.len() == 2 => "right",
            None => "left out",
        }
    }

    async fn show(&self, repository: &Repository, key: &Key) -> &'static str {
        match read_manifest(repository, self.first.id).await {
            Ok(published) => {
                assert_eq!(published.manifest.stream.bytes, self.first.stream.len() as u64);
                "right"
            }
            Err(error) => named(&error, key),
        }
    }

    /// Backs up on the first backup. The new one restores, or its restore fails: nothing looks for flipped bits here.
    async fn back_up(&self, world: &World, host: &Host, key: &Key) -> &'static str {
        let repository = world.open().await;
        let notes = Arc::new(Notes::default());
        let (subject, parent) = (self.next.subject, self.first.parent.clone());
        let expected = Expected::Snapshot { subject, parent };
        match back_up(&repository, host, self.next.stream(), expected, &notes).await {
            Err(error) => named(&error, key),
            Ok(summary) => {
                restore(world, &repository, &Made::new(&summary, self.next.stream()), key).await;
                match notes.problems().first() {
                    None => "right",
                    Some(problem) if problem.contains(key.as_str()) => "right, tells",
                    Some(problem) => panic!("{problem}, but not {key}"),
                }
            }
        }
    }
}

/// Whether an error says which object it is about. (It does not where there is no config, or another repository's.)
fn named(error: &anyhow::Error, key: &Key) -> &'static str {
    if format!("{error:#}").contains(key.as_str()) { "names it" } else { "fails" }
}

async fn restore(world: &World, repository: &Repository, made: &Made, key: &Key) -> &'static str {
    let (sink, notes) = (MemorySink::default(), Arc::new(Notes::default()));
    let restored = world.restore_into(repository, made.id, &sink, &notes).await;
    let bytes = sink.bytes();
    match restored {
        Ok(()) => {
            assert_same_bytes(&bytes, &made.stream);
            "right"
        }
        Err(error) => {
            assert!(bytes.len() < made.stream.len() && made.stream.starts_with(&bytes), "{key}: wrong bytes");
            let told = notes.problems().iter().any(|problem| problem.contains(key.as_str()));
            if told { "names it" } else { named(&error, key) }
        }
    }
}

#[tokio::test]
async fn every_operation_meets_every_damage_of_every_object_as_the_table_says() {
    let scene = Scene::new().await;
    let mut table = String::new();
    let mut write = |object: &str, damage: &str, cells: [&str; 5]| {
        let [list, show, restore, new_host, own_host] = cells;
        let line = format!("{object:<11}{damage:<12}{list:<10}{show:<10}{restore:<10}{new_host:<14}{own_host}");
        writeln!(table, "{}", line.trim_end()).unwrap();
    };
    write("object", "damage", ["list", "show", "restore", "new host", "own host"]);
    for (kind, key, other) in &scene.objects {
        for damage in DAMAGES {
            write(kind.trim_end_matches('/'), damage, scene.row(key, other, damage).await);
        }
    }
    assert!(table == TABLE, "the table is now\n{table}");
}

#[test]
fn a_flipped_bit_anywhere_gives_the_right_bytes_or_an_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, made, objects) = runtime.block_on(async {
        let world = World::new().await;
        let first = world.back_up(&Sample::random(1, 30_000)).await;
        let second = world.back_up(&Sample::of_files(2, vec![random_bytes(1, 20_000), vec![7; 9000]]).on(1)).await;
        let objects = world.objects("").await;
        (world, [first, second], objects)
    });
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let flips = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let checked = TestRunner::new(config).run(&flips, |(object, bit)| {
        let (key, body) = object.get(&objects);
        let store = FaultyStore::new(world.store());
        store.damage(key, Damage::FlippedBit(bit.index(body.len() * 8) as u64));
        runtime.block_on(async {
            let Ok(repository) = world.open_through(Arc::new(store) as Store).await else { return };
            for backup in &made {
                restore(&world, &repository, backup, key).await;
            }
        });
        Ok(())
    });
    checked.unwrap();
}
