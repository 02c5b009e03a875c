//! Packs: immutable objects of frames, with a footer that lists their chunks.
//!
//! `docs/format.md`, "Packs". [`format`] has the footer, [`writer`] builds a pack; a reader fetches the tail, then single
//! frames, and [`format::PackFooter`] tells where everything is.

pub mod format;
pub mod writer;
