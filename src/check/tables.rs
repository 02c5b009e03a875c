//! The look-up tables.

use crate::check::report::Report;
use crate::id::BlocksId;
use crate::index::table::{TABLE_LIMIT_BYTES, check_blocks};
use crate::repository::listing::list_index;
use crate::repository::tables::read_table;
use crate::repository::{Repository, layout};

/// Every look-up table can be read, and all of its blocks are there; if they are to be read, they have the bytes they should have.
pub(super) async fn tables_can_be_read(
    repository: &Repository,
    with_blocks: bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let listed = list_index(repository).await?;
    for id in listed.tables {
        match read_table(repository, id).await {
            Ok(Some(table)) => {
                let is_suspect = |object: &BlocksId| with_blocks || !listed.blocks.contains_key(object);
                for object in table.objects().into_iter().filter(is_suspect) {
                    if let Err(error) = read_blocks(repository, object).await {
                        report.add_damage("tables_can_be_read", error)?;
                    }
                }
            }
            // A prune has made another one.
            Ok(None) => {}
            Err(error) => report.add_damage("tables_can_be_read", error)?,
        }
    }
    Ok(())
}

/// Reads an object with blocks.
pub(crate) async fn read_blocks(repository: &Repository, id: BlocksId) -> anyhow::Result<()> {
    let key = layout::blocks_key(&id);
    let bytes = repository.get(&key, TABLE_LIMIT_BYTES).await?;
    check_blocks(repository.id(), id, &bytes).map_err(|error| repository.fault(&key, &error))
}
