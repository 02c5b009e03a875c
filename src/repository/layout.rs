//! Which object has which key. Keys are built and read here only.
//!
//! `docs/format.md`, "Keys".

use crate::id::{BlocksId, ManifestId, NoteId, PackId, PlanId, SegmentId, SessionId, TableId};
use crate::pack::format::PackClass;
use crate::store::Key;

/// Prefix of the configs.
pub const CONFIGS: &str = "config/";
/// Prefix of the sessions' records.
pub const SESSIONS: &str = "sessions/";
/// Prefix of the index segments, and of all that belongs to the index.
pub const SEGMENTS: &str = "index/";
/// Prefix of the look-up tables.
const TABLES: &str = "index/tables/";
/// Prefix of their blocks.
const BLOCKS: &str = "index/blocks/";
/// Prefix of the manifests.
pub const MANIFESTS: &str = "manifests/";
/// Prefix of the notes.
pub const NOTES: &str = "notes/";
/// What stands in the place of a manifest in the keys of notes about the repository as a whole.
const WHOLE: &str = "repository";
/// Prefix of the markers of forgotten manifests.
pub const FORGOTTEN: &str = "forgotten/";
/// Prefix of what prune announces.
pub const PRUNE: &str = "prune/";

/// Prefixes of all that has to be readable at any time.
pub const NEVER_ARCHIVED: [&str; 8] =
    [CONFIGS, SESSIONS, packs(PackClass::Meta), SEGMENTS, MANIFESTS, FORGOTTEN, PRUNE, NOTES];

/// Prefix of the packs of a class.
#[must_use]
pub const fn packs(class: PackClass) -> &'static str {
    match class {
        PackClass::Data => "data/",
        PackClass::Meta => "meta/",
    }
}

/// All folders that packs are spread over, so that a local store can make them at once.
pub fn pack_folders() -> impl Iterator<Item = String> {
    [PackClass::Data, PackClass::Meta]
        .into_iter()
        .flat_map(|class| (0..=u8::MAX).map(move |first| format!("{}{first:02x}", packs(class))))
}

fn key(text: String) -> Key {
    Key::new(text).expect("prefixes, numbers and hexadecimal ids are plain")
}

/// Key of a config.
#[must_use]
pub fn config_key(number: u32) -> Key {
    key(format!("{CONFIGS}{number}"))
}

/// Key of a pack.
#[must_use]
pub fn pack_key(class: PackClass, id: &PackId) -> Key {
    key(format!("{}{:02x}/{id}", packs(class), id.as_bytes()[0]))
}

/// Key of an index segment.
#[must_use]
pub fn segment_key(id: &SegmentId) -> Key {
    key(format!("{SEGMENTS}{id}"))
}

/// Key of a look-up table.
#[must_use]
pub fn table_key(id: &TableId) -> Key {
    key(format!("{TABLES}{id}"))
}

/// Key of an object with blocks of a look-up table.
#[must_use]
pub fn blocks_key(id: &BlocksId) -> Key {
    key(format!("{BLOCKS}{id}"))
}

/// Key of a manifest.
#[must_use]
pub fn manifest_key(id: &ManifestId) -> Key {
    key(format!("{MANIFESTS}{id}"))
}

/// Key of a note about a manifest, or about the repository as a whole.
#[must_use]
pub fn note_key(about: Option<&ManifestId>, id: &NoteId) -> Key {
    match about {
        Some(manifest) => key(format!("{NOTES}{manifest}/{id}")),
        None => key(format!("{NOTES}{WHOLE}/{id}")),
    }
}

/// Prefix of the notes about the repository as a whole.
#[must_use]
pub fn notes_of_repository() -> String {
    format!("{NOTES}{WHOLE}/")
}

/// What a note is about (none: the repository as a whole), and its id.
#[must_use]
pub fn parse_note_key(key: &Key) -> Option<(Option<ManifestId>, NoteId)> {
    let (about, id) = key.as_str().strip_prefix(NOTES)?.split_once('/')?;
    let about = if about == WHOLE { None } else { Some(about.parse().ok()?) };
    Some((about, id.parse().ok()?))
}

/// Key of the marker that a manifest is forgotten.
#[must_use]
pub fn forgotten_key(id: &ManifestId) -> Key {
    key(format!("{FORGOTTEN}{id}"))
}

/// Key of a session's start.
#[must_use]
pub fn session_start_key(id: &SessionId) -> Key {
    key(format!("{SESSIONS}{id}/start"))
}

/// Key of a session's beat.
#[must_use]
pub fn session_beat_key(id: &SessionId, number: u32) -> Key {
    key(format!("{SESSIONS}{id}/beat-{number}"))
}

/// Key of a session's end.
#[must_use]
pub fn session_end_key(id: &SessionId) -> Key {
    key(format!("{SESSIONS}{id}/end"))
}

/// Key of a prune's plan.
#[must_use]
pub fn plan_key(id: &PlanId) -> Key {
    key(format!("{PRUNE}{id}/plan"))
}

/// Key of the sessions that a prune waits for.
#[must_use]
pub fn plan_sessions_key(id: &PlanId) -> Key {
    key(format!("{PRUNE}{id}/sessions"))
}

/// Key of what a prune deletes in the end.
#[must_use]
pub fn plan_final_key(id: &PlanId) -> Key {
    key(format!("{PRUNE}{id}/final"))
}

/// The config number a key names.
#[must_use]
pub fn parse_config_key(key: &Key) -> Option<u32> {
    let number = key.as_str().strip_prefix(CONFIGS)?.parse().ok()?;
    (config_key(number) == *key).then_some(number)
}

/// The class and pack a key names.
#[must_use]
pub fn parse_pack_key(key: &Key) -> Option<(PackClass, PackId)> {
    let classes = [PackClass::Data, PackClass::Meta].into_iter();
    let parse = |class: PackClass| Some((class, key.as_str().strip_prefix(packs(class))?.get(3..)?.parse().ok()?));
    classes.filter_map(parse).find(|(class, id)| pack_key(*class, id) == *key)
}

/// The segment a key names.
#[must_use]
pub fn parse_segment_key(key: &Key) -> Option<SegmentId> {
    let id = key.as_str().strip_prefix(SEGMENTS)?.parse().ok()?;
    (segment_key(&id) == *key).then_some(id)
}

/// The look-up table a key names.
#[must_use]
pub fn parse_table_key(key: &Key) -> Option<TableId> {
    let id = key.as_str().strip_prefix(TABLES)?.parse().ok()?;
    (table_key(&id) == *key).then_some(id)
}

/// The object with blocks of a look-up table that a key names.
#[must_use]
pub fn parse_blocks_key(key: &Key) -> Option<BlocksId> {
    let id = key.as_str().strip_prefix(BLOCKS)?.parse().ok()?;
    (blocks_key(&id) == *key).then_some(id)
}

/// The manifest a key names.
#[must_use]
pub fn parse_manifest_key(key: &Key) -> Option<ManifestId> {
    let id = key.as_str().strip_prefix(MANIFESTS)?.parse().ok()?;
    (manifest_key(&id) == *key).then_some(id)
}

/// The manifest whose marker a key is.
#[must_use]
pub fn parse_forgotten_key(key: &Key) -> Option<ManifestId> {
    key.as_str().strip_prefix(FORGOTTEN)?.parse().ok()
}

/// The session a key belongs to, and the name of its record.
#[must_use]
pub fn parse_session_key(key: &Key) -> Option<(SessionId, &str)> {
    let (session, name) = key.as_str().strip_prefix(SESSIONS)?.split_once('/')?;
    Some((session.parse().ok()?, name))
}

/// The plan a key belongs to, and the name of its record.
#[must_use]
pub fn parse_plan_key(key: &Key) -> Option<(PlanId, &str)> {
    let (plan, name) = key.as_str().strip_prefix(PRUNE)?.split_once('/')?;
    Some((plan.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_built_is_read_back() {
        let (pack, session) = (PackId::from_bytes([0xab; 32]), SessionId::from_bytes([1; 16]));
        assert_eq!(parse_config_key(&config_key(12)), Some(12));
        for class in [PackClass::Data, PackClass::Meta] {
            assert_eq!(parse_pack_key(&pack_key(class, &pack)), Some((class, pack)));
        }
        assert_eq!(parse_session_key(&session_end_key(&session)), Some((session, "end")));
        assert_eq!(parse_session_key(&session_beat_key(&session, 3)), Some((session, "beat-3")));
        assert_eq!(parse_manifest_key(&manifest_key(&session.into())), Some(session.into()));
        let (table, blocks) = (TableId::from_bytes([4; 32]), BlocksId::from_bytes([5; 32]));
        assert_eq!(parse_table_key(&table_key(&table)), Some(table));
        assert_eq!(parse_blocks_key(&blocks_key(&blocks)), Some(blocks));
        assert_eq!(parse_segment_key(&table_key(&table)), None);
        let plan = PlanId::from_bytes([2; 16]);
        assert_eq!(parse_plan_key(&plan_key(&plan)), Some((plan, "plan")));
        assert_eq!(parse_plan_key(&plan_sessions_key(&plan)), Some((plan, "sessions")));
        assert_eq!(parse_plan_key(&plan_final_key(&plan)), Some((plan, "final")));
        let note = NoteId::from_bytes([2; 16]);
        for about in [None, Some(ManifestId::from(session))] {
            assert_eq!(parse_note_key(&note_key(about.as_ref(), &note)), Some((about, note)));
        }
    }

    #[test]
    fn keys_of_another_form_are_nobodys() {
        let key = |text: &str| Key::new(text).unwrap();
        assert_eq!(parse_config_key(&key("config/007")), None);
        assert_eq!(parse_pack_key(&key(&format!("data/ff/{}", PackId::from_bytes([1; 32])))), None);
        assert_eq!(parse_pack_key(&key("data/é/x".replace('é', "e").as_str())), None);
        assert_eq!(parse_session_key(&key("sessions/x")), None);
    }

    #[test]
    fn there_is_a_folder_for_every_pack() {
        let folders: Vec<String> = pack_folders().collect();
        assert_eq!(folders.len(), 512);
        let pack = pack_key(PackClass::Meta, &PackId::from_bytes([0x0f; 32]));
        assert!(folders.iter().any(|folder| pack.as_str().starts_with(&format!("{folder}/"))));
    }
}
