//! Chunks that are in several packs, of which some are archived.

use std::collections::BTreeSet;
use std::sync::Arc;

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::copy::{Wanted, find_archived, plan_copy};
use btrfs_to_s3::id::PackId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::records::manifest::Manifest;
use btrfs_to_s3::repository::catalog::read_manifest;
use btrfs_to_s3::repository::{Repository, layout};
use btrfs_to_s3::restore::{DataListing, RestoreOptions, data_packs, read_elsewhere};
use btrfs_to_s3::store::archiving::ArchivingStore;
use btrfs_to_s3::store::thaw::{ThawRequest, ThawTier};
use btrfs_to_s3::store::{Key, ObjectStore, StorageClassName, Store};

use crate::copying::{copy_as, copying_through};
use crate::samples::Sample;
use crate::world::{Made, MemorySource, Notes, World, assert_same_bytes, begin, publish};

/// A backup whose packs are gone, while two other sessions have stored all of its chunks as well.
struct Places {
    world: World,
    archive: Arc<ArchivingStore>,
    repository: Repository,
    made: Made,
    gone: BTreeSet<PackId>,
    others: [Vec<Key>; 2],
}

fn glacier() -> StorageClassName {
    "GLACIER".parse().unwrap()
}

fn ids(keys: &[Key]) -> BTreeSet<PackId> {
    keys.iter().map(|key| layout::parse_pack_key(key).unwrap().1).collect()
}

fn monitor() -> Arc<dyn Monitor> {
    Arc::new(Notes::default())
}

impl Places {
    async fn new() -> Self {
        let world = World::new().await;
        let stream = Sample::random(1, 2_200_000).stream();
        let (notes, mut runs) = (Arc::new(Notes::default()), Vec::new());
        // None of them sees what the others, whose sessions are open, have stored.
        for host in ["one", "two", "three"] {
            runs.push(begin(&world.open().await, &world.host(host), &notes).await.unwrap());
        }
        let (mut packs, mut summaries) = (Vec::new(), Vec::new());
        for run in runs {
            let before: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
            summaries.push(publish(run, MemorySource::new(stream.clone()), Expected::Anything).await.unwrap());
            let new = world.keys("data/").await.into_iter().filter(|key| !before.contains(key));
            packs.push(new.collect::<Vec<Key>>());
        }
        let [gone, one, other] = packs.try_into().unwrap();
        for key in &gone {
            world.memory.delete(key).await.unwrap();
        }
        let made = Made::new(&summaries[0], stream);
        let archive = Arc::new(ArchivingStore::new(world.store(), glacier(), Arc::clone(&world.clock)));
        let repository = world.open_through(Arc::clone(&archive) as Store).await.unwrap();
        Self { world, archive, repository, made, gone: ids(&gone), others: [one, other] }
    }

    /// With the packs of one of the sessions archived.
    async fn with_archived(archived: usize) -> Self {
        let places = Self::new().await;
        places.archive(archived);
        places
    }

    fn archive(&self, which: usize) {
        self.others[which].iter().for_each(|key| self.archive.archive(key, &glacier()));
    }

    fn options(&self) -> RestoreOptions {
        RestoreOptions::new(self.world.host_folder("scratch"))
    }

    async fn manifest(&self) -> Manifest {
        read_manifest(&self.repository, self.made.id).await.unwrap().manifest
    }

    async fn needed(&self) -> BTreeSet<PackId> {
        let manifest = self.manifest().await;
        let listing = DataListing::of(&self.repository).await.unwrap();
        let packs = data_packs(&self.repository, &manifest, &listing, &self.options(), &monitor()).await.unwrap();
        packs.into_iter().collect()
    }
}

#[tokio::test]
async fn a_restore_reads_packs_that_can_be_read_before_archived_ones_as_it_has_planned() {
    for archived in [0, 1] {
        let places = Places::with_archived(archived).await;
        assert_eq!(places.needed().await, ids(&places.others[1 - archived]));
        let restored = places.world.restore_through(&places.repository, places.made.id).await.unwrap();
        assert_same_bytes(&restored, &places.made.stream);
        assert_eq!(places.archive.refused_reads(), 0);
    }
}

#[tokio::test]
async fn where_all_are_archived_the_packs_are_needed_whose_thaw_has_been_asked_for() {
    for asked in [0, 1] {
        let places = Places::new().await;
        places.archive(0);
        places.archive(1);
        for key in &places.others[asked] {
            let request = ThawRequest { days: Some(2), tier: ThawTier::Bulk };
            places.archive.request_thaw(key, request).await.unwrap();
        }
        assert_eq!(places.needed().await, ids(&places.others[asked]));
    }
}

#[tokio::test]
async fn a_rehearsal_finds_what_was_in_a_pack_that_is_gone_past_archived_ones() {
    for archived in [0, 1] {
        let places = Places::with_archived(archived).await;
        let manifest = places.manifest().await;
        read_elsewhere(&places.repository, &manifest, &places.gone, &places.options(), &monitor()).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_needs_no_archived_packs_where_others_have_the_chunks_and_names_them_where_not() {
    for archived in [0, 1] {
        let (places, to) = (Places::with_archived(archived).await, World::new().await);
        let source = Arc::clone(&places.archive) as Store;
        let copying = copying_through(&places.world, source, &to, to.store()).await.unwrap();
        let plan = plan_copy(&copying, &wanted_of(&places)).await.unwrap();
        assert_eq!(find_archived(&copying, &plan, &monitor()).await.unwrap(), []);
        places.archive(1 - archived);
        assert!(find_archived(&copying, &plan, &monitor()).await.unwrap().len() >= places.gone.len() / 2);

        let (places, to) = (Places::with_archived(archived).await, World::new().await);
        let source = Arc::clone(&places.archive) as Store;
        let copying = copying_through(&places.world, source, &to, to.store()).await.unwrap();
        let report = copy_as(&copying, &wanted_of(&places)).await.unwrap();
        assert_eq!((report.copied.len(), places.archive.refused_reads()), (1, 0), "{report:?}");
    }
}

fn wanted_of(places: &Places) -> Wanted {
    Wanted { ids: vec![places.made.id], ..Wanted::default() }
}
