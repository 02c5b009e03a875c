//! Mends a repository: the index is made again, and what is left of damaged packs is kept.
//!
//! `docs/ordering.md`, "Repair".

mod index;
mod packs;

pub use index::{IndexRepair, repair_index};
pub use packs::{PackRepair, repair_packs};

use anyhow::ensure;

use crate::backup::BackupRun;
use crate::index::Segment;
use crate::pack::format::PackRecord;
use crate::records::session::Outcome;
use crate::repository::session::WriteSession;

/// A segment is stored when its packs have so many chunks.
const SEGMENT_CHUNKS: usize = 1 << 17;

/// Ends a repair, so that what it has stored counts; or gives it up, if it has failed.
///
/// # Errors
///
/// That of the repair; or if a prune has given it up, so that nothing of it ever counts, or the store fails. What was to be
/// replaced has to stay then.
async fn end_repair<T>(run: BackupRun, repaired: anyhow::Result<T>) -> anyhow::Result<T> {
    let ended = match repaired {
        Ok(repair) => end_session(run.session()).await.map(|()| repair),
        Err(error) => Err(error),
    };
    if ended.is_err() {
        run.give_up().await;
    }
    ended
}

async fn end_session(session: &WriteSession) -> anyhow::Result<()> {
    let end = session.abandon().await?;
    ensure!(end.outcome != Outcome::Void, "session {} was given up by a prune: nothing is replaced", session.id());
    Ok(())
}

/// Packs that are to be put into segments. Without a session, nothing is stored.
#[derive(Debug)]
struct SegmentWriter<'a> {
    session: Option<&'a WriteSession>,
    packs: Vec<PackRecord>,
}

impl<'a> SegmentWriter<'a> {
    fn new(session: Option<&'a WriteSession>) -> Self {
        Self { session, packs: Vec::new() }
    }

    async fn push(&mut self, record: PackRecord) -> anyhow::Result<()> {
        self.packs.push(record);
        let chunks: usize = self.packs.iter().map(|record| record.footer.chunks.len()).sum();
        if chunks >= SEGMENT_CHUNKS { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let packs = std::mem::take(&mut self.packs);
        if let (Some(session), false) = (self.session, packs.is_empty()) {
            session.put_segment(&Segment { session: session.id(), packs }).await?;
        }
        Ok(())
    }
}
