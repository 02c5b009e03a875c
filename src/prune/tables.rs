//! Makes look-up tables of the index, by which a host without one of its own finds a chunk with a few requests.
//!
//! `docs/ordering.md`, "Look-up tables". They only say again what segments say, and nothing hangs on them.

mod choose;

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context;
use bytes::Bytes;

use crate::backup::{Host, send_beats};
use crate::id::{BlocksId, PackId, SegmentId, TableId};
use crate::index::table::{Table, TablePlace, TableWriter};
use crate::local_index::{Access, Survey};
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::prune::plan::Pack;
use crate::prune::repack::give_up;
use crate::repository::index::ChunkIndex;
use crate::repository::listing::{IndexListing, list_index};
use crate::repository::session::{REPACK, WriteSession, list_sessions};
use crate::repository::tables::read_table;
use crate::repository::{Damage, Repository, layout};
use crate::store::Key;
use choose::{Choice, TableUse, choose_tables};

/// A table has no more packs, so that it is below its limits.
const PACKS_MAX: usize = 1 << 20;

/// The tables that are there, as far as they are of use.
type Tables = HashMap<TableId, Table>;

/// What tables are made with.
pub(super) struct Tabling<'a> {
    pub(super) repository: &'a Repository,
    pub(super) host: &'a Host,
    pub(super) monitor: &'a dyn Monitor,
    /// So many bytes of segments may be in no table.
    pub(super) rest_bytes_max: u64,
}

impl Tabling<'_> {
    /// Makes a table of what is in none, if that is enough, and deletes those that are of no use.
    ///
    /// # Errors
    ///
    /// If the store or the local disk fails.
    pub(super) async fn renew(&self) -> anyhow::Result<()> {
        let mut tables = Tables::new();
        let listed = list_index(self.repository).await?;
        self.read_new(&listed, &mut tables).await?;
        let is_useless = |id: &TableId| !tables.contains_key(id);
        let named: HashSet<BlocksId> = tables.values().flat_map(Table::objects).collect();
        let nothing_to_delete =
            listed.blocks.keys().all(|id| named.contains(id)) && !listed.tables.iter().any(is_useless);
        if self.choose(&listed, &tables) == Choice::default() && nothing_to_delete {
            return Ok(());
        }
        let session = WriteSession::start(self.repository.clone(), self.host.session(REPACK, "")).await?;
        let renewed = tokio::select! {
            renewed = self.renew_in(&session, tables) => renewed,
            never = send_beats(&session) => match never {},
        };
        match renewed {
            Ok(()) => session.abandon().await.map(drop),
            Err(error) => {
                give_up(&session).await;
                Err(error)
            }
        }
    }

    fn choose(&self, listed: &IndexListing, tables: &Tables) -> Choice {
        let segments = listed.segments.iter().map(|(id, segment)| (*id, segment.size_bytes)).collect();
        let mut uses: Vec<TableUse> =
            tables.iter().map(|(id, table)| TableUse { id: *id, segments: table.segments.clone() }).collect();
        uses.sort_by_key(|table| table.id);
        choose_tables(&segments, &uses, self.rest_bytes_max)
    }

    /// Reads listed tables that have not been read yet. One that is damaged, or some of whose blocks are not there, is of no use.
    async fn read_new(&self, listed: &IndexListing, tables: &mut Tables) -> anyhow::Result<()> {
        tables.retain(|id, _| listed.tables.contains(id));
        for id in &listed.tables {
            if tables.contains_key(id) {
                continue;
            }
            match read_table(self.repository, *id).await {
                Ok(Some(table)) => drop(tables.insert(*id, table)),
                Ok(None) => {}
                Err(error) if error.downcast_ref::<Damage>().is_some() => {
                    tracing::debug!(error = %format!("{error:#}"), "a table is made again");
                }
                Err(error) => return Err(error),
            }
        }
        tables.retain(|_, table| table.objects().iter().all(|object| listed.blocks.contains_key(object)));
        Ok(())
    }

    /// Lists once more, as the session is there now: what is older than all that are open, others have done with.
    async fn renew_in(&self, session: &WriteSession, mut tables: Tables) -> anyhow::Result<()> {
        let open_since = list_sessions(self.repository).await?.open_since;
        let listed = list_index(self.repository).await?;
        self.read_new(&listed, &mut tables).await?;
        let Choice { segments, replaced } = self.choose(&listed, &tables);
        if !segments.is_empty() && !self.make(session, &segments.into_iter().collect()).await? {
            return Ok(());
        }
        tables.retain(|id, _| !replaced.contains(id));
        let useless = listed.tables.iter().filter(|id| !tables.contains_key(id)).map(layout::table_key);
        self.delete(useless).await?;
        let named: HashSet<BlocksId> = tables.values().flat_map(Table::objects).collect();
        let is_left =
            |id: &BlocksId, modified_at| !named.contains(id) && open_since.is_some_and(|since| modified_at < since);
        let left = listed.blocks.iter().filter(|(id, modified_at)| is_left(id, **modified_at));
        self.delete(left.map(|(id, _)| layout::blocks_key(id))).await
    }

    async fn delete(&self, keys: impl Iterator<Item = Key>) -> anyhow::Result<()> {
        for key in keys {
            self.repository.store().delete(&key).await?;
        }
        Ok(())
    }

    /// Makes a table of what some segments say of packs that are there: the objects with its blocks first, then itself. Says
    /// whether it could be made.
    async fn make(&self, session: &WriteSession, segments: &HashSet<SegmentId>) -> anyhow::Result<bool> {
        let (directory, access) = (&self.host.index_directory, Access::Exclusive);
        let index =
            ChunkIndex::open_to_read(self.repository, directory, access, &self.host.cache, self.monitor).await?;
        let survey = index.survey();
        let mut counting: Vec<SegmentId> =
            survey.segments().map(|segment| segment.id).filter(|id| segments.contains(id)).collect();
        if counting.is_empty() {
            return Ok(false);
        }
        counting.sort_unstable();
        let Numbering { packs, by_survey } = Numbering::new(&survey, segments)?;
        if packs.len() > PACKS_MAX {
            tracing::warn!(packs = packs.len(), "no look-up table is made of so many packs");
            return Ok(false);
        }
        let mut writer = TableWriter::new(self.repository.id(), session.id(), counting, packs);
        for entry in survey.sorted_entries()? {
            let (chunk, place) = entry?;
            let Some(pack) = by_survey[place.pack] else { continue };
            if writer.push(&chunk, TablePlace { pack, frame: place.frame }) {
                put_blocks(session, &mut writer).await?;
            }
        }
        put_blocks(session, &mut writer).await?;
        let (id, bytes) = writer.finish(self.repository.draw_salt());
        session.put_of_table(&layout::table_key(&id), Bytes::from(bytes)).await.context("storing a look-up table")?;
        Ok(true)
    }
}

async fn put_blocks(session: &WriteSession, writer: &mut TableWriter) -> anyhow::Result<()> {
    let Some((id, bytes)) = writer.take_blocks(session.repository().draw_salt()) else { return Ok(()) };
    session
        .put_of_table(&layout::blocks_key(&id), Bytes::from(bytes))
        .await
        .context("storing blocks of a look-up table")
}

/// The packs of a table, and their numbers in it by those in the survey.
struct Numbering {
    packs: Vec<(PackClass, PackId)>,
    by_survey: Vec<Option<u32>>,
}

impl Numbering {
    /// Numbers the packs that are there and that some segments name. One that several name has one number.
    fn new(survey: &Survey<'_>, segments: &HashSet<SegmentId>) -> anyhow::Result<Self> {
        let mut numbers: BTreeMap<Pack, u32> = BTreeMap::new();
        let mut numbering = Self { packs: Vec::new(), by_survey: Vec::new() };
        for (segment, pack, usable) in survey.packs()? {
            let is_of_table = usable && segments.contains(&segment.id);
            let number = is_of_table.then(|| {
                *numbers.entry((pack.class, pack.id)).or_insert_with(|| {
                    numbering.packs.push((pack.class, pack.id));
                    u32::try_from(numbering.packs.len() - 1).expect("the index has fewer packs than that")
                })
            });
            numbering.by_survey.push(number);
        }
        Ok(numbering)
    }
}
