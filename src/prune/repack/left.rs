//! Why a pack stays as it is.

use crate::prune::plan::Pack;
use crate::repository::packs::is_there;
use crate::repository::{Damage, Repository};
use crate::store::is_archived;

/// Why a pack stays as it is.
#[derive(Debug)]
pub(super) enum Left {
    /// It is damaged, as this says.
    Damaged(anyhow::Error),
    /// So is its end, so that it does not tell what it has.
    Unreadable(anyhow::Error),
    /// It is archived, though its class does not say so, or so is the pack that has its chunks as well.
    Archived,
    /// Another prune has deleted it, or it has frames of a kind that this program does not know.
    Unusable,
}

/// Why a pack stays as it is that could not be read.
///
/// # Errors
///
/// `error`, where it is neither damage nor that the pack is archived.
pub(super) async fn why_left(repository: &Repository, (class, id): Pack, error: anyhow::Error) -> anyhow::Result<Left> {
    if is_archived(&error) {
        return Ok(Left::Archived);
    }
    if error.downcast_ref::<Damage>().is_none() {
        return Err(error);
    }
    // Where it is lost and no prune has deleted it, the next mark tells.
    Ok(if is_there(repository, class, id).await? { Left::Damaged(error) } else { Left::Unusable })
}
