//! The fuzz targets, as the project's tests run them too.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a target fails by panicking")]

#[path = "../../integration_tests/hostile/targets.rs"]
mod targets;

/// Runs the target of a name.
///
/// # Panics
///
/// If the program does, if what it says of the bytes is not right, or if there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = targets::TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no target {name}"));
    (target.run)(bytes);
}
