//! What reads bytes that somebody else has written: one target for each format. No input may make one panic.
//!
//! A checksum or hash would stop nearly all inputs at the door, so that nothing behind it is tried. The targets put the
//! right one into the input, and where a body is compressed they take the body alone as well. Whatever is accepted has to
//! come back when it is encoded and decoded again.

#[path = "targets/cbor.rs"]
mod cbor;
#[path = "targets/frame.rs"]
mod frame;
#[path = "targets/pack.rs"]
mod pack;
#[path = "targets/recipe.rs"]
mod recipe;
#[path = "targets/send_stream.rs"]
mod send_stream;

use btrfs_to_s3::config::Config;

/// One format, and what reads it.
pub(crate) struct Target {
    /// Its name, which is that of its program for libFuzzer.
    pub(crate) name: &'static str,
    /// Reads bytes as this format; says whether they made sense.
    pub(crate) run: fn(&[u8]) -> bool,
}

/// All of them, by their names.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "config_file", run: config_file },
    Target { name: "frame", run: frame::frame },
    Target { name: "pack", run: pack::pack },
    Target { name: "recipe", run: recipe::recipe },
    Target { name: "record", run: cbor::record },
    Target { name: "segment", run: cbor::segment },
    Target { name: "send_stream", run: send_stream::send_stream },
    Target { name: "table", run: cbor::table },
];

/// The configuration file. What is said of a bad one must not act on the terminal it is shown on.
fn config_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match Config::parse(text, "file") {
        Ok(config) => !config.repository.is_empty(),
        Err(errors) => {
            assert!(!errors.faults.is_empty());
            let shown = errors.to_string();
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
            assert_eq!(shown.lines().count(), errors.faults.len() + usize::from(errors.omitted > 0), "{shown:?}");
            false
        }
    }
}
