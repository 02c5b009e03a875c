//! Which place of a chunk is read whose pack is gone, where there are several.
//!
//! Restores, the plans of their thaws, copies and rehearsals all ask here, so what has been asked for is what is read then.

use std::sync::PoisonError;

use super::{Locator, hint_of};
use crate::id::{ChunkId, PackId};
use crate::pack::format::PackClass;
use crate::repository::{Damage, layout};
use crate::restore::thaw::pack_state;
use crate::store::StoreErrorKind;
use crate::store::thaw::ThawState;
use crate::tree::node::Hint;

/// How soon a pack can be read: the fewer the sooner.
type Rank = u8;

impl Locator {
    /// Where a chunk of file data is whose pack is gone, by the index; none if that does not know, or cannot be made. Of
    /// several places, one that can be read now comes before one that is archived.
    pub(crate) async fn moved_to(&self, id: &ChunkId) -> anyhow::Result<Option<Hint>> {
        let tabled = self.tabled_places(id, PackClass::Data).await;
        if let Some(place) = self.soonest(tabled).await? {
            return Ok(Some(place));
        }
        let index = match self.index().await {
            Ok(index) => index,
            Err(error) => {
                self.monitor.warn(&format!("other places of a chunk cannot be looked up: {error:#}"));
                return Ok(None);
            }
        };
        let places = index.chunks.find_all(id)?;
        let of_data = places.iter().filter(|place| place.class == PackClass::Data).map(hint_of);
        let usable: Vec<Hint> = of_data.filter(|place| !self.is_gone(PackClass::Data, place.pack)).collect();
        // The index has just been compared with what is there.
        if let [only] = usable[..] { Ok(Some(only)) } else { self.soonest(usable).await }
    }

    /// The first of those places that can be read soonest, of packs that are there.
    async fn soonest(&self, places: Vec<Hint>) -> anyhow::Result<Option<Hint>> {
        let mut soonest: Option<(Rank, Hint)> = None;
        for place in places {
            let Some(state) = self.state_of(place.pack).await? else { continue };
            let rank = rank(state);
            if soonest.is_none_or(|(least, _)| rank < least) {
                soonest = Some((rank, place));
            }
        }
        Ok(soonest.map(|(_, place)| place))
    }

    /// Whether a pack of file data can be read; none if it is not there. It is asked for once.
    async fn state_of(&self, pack: PackId) -> anyhow::Result<Option<ThawState>> {
        if self.is_gone(PackClass::Data, pack) {
            return Ok(None);
        }
        if let Some(state) = self.there.lock().unwrap_or_else(PoisonError::into_inner).get(&pack) {
            return Ok(Some(*state));
        }
        let Some(state) = self.look_at(pack).await? else {
            self.gone().insert((PackClass::Data, pack));
            return Ok(None);
        };
        self.there.lock().unwrap_or_else(PoisonError::into_inner).insert(pack, state);
        Ok(Some(state))
    }

    async fn look_at(&self, pack: PackId) -> anyhow::Result<Option<ThawState>> {
        let object = match self.repository.store().head(&layout::pack_key(PackClass::Data, &pack)).await {
            Ok(object) => object,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match pack_state(&self.repository, object).await {
            Ok(state) => Ok(Some(state.thaw)),
            // It has been deleted since.
            Err(error) if error.downcast_ref::<Damage>().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What costs nothing comes first, then what need not be asked for any more.
fn rank(state: ThawState) -> Rank {
    match state {
        ThawState::Readable => 0,
        ThawState::Thawed { .. } => 1,
        ThawState::Thawing => 2,
        ThawState::Archived => 3,
    }
}
