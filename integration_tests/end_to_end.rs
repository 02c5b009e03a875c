//! The program from outside: real Btrfs file systems on loop devices, the real `btrfs`, a repository in a directory,
//! and a comparison of its own that knows nothing of the program.
//!
//! What needs root and Btrfs is ignored unless asked for; `make test` asks for it:
//!
//! ```text
//! cargo test --test end_to_end -- --ignored
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]
#![expect(clippy::disallowed_methods, reason = "the tests start the program and look at its surroundings")]

mod support;

#[path = "end_to_end/copying.rs"]
mod copying;
#[path = "end_to_end/doctor.rs"]
mod doctor;
#[path = "end_to_end/documentation.rs"]
mod documentation;
#[path = "end_to_end/going_wrong.rs"]
mod going_wrong;
#[path = "end_to_end/kills.rs"]
mod kills;
#[path = "end_to_end/limits.rs"]
mod limits;
#[path = "end_to_end/maintenance.rs"]
mod maintenance;
#[path = "end_to_end/nightly.rs"]
mod nightly;
#[path = "end_to_end/orphans.rs"]
mod orphans;
#[path = "end_to_end/parents.rs"]
mod parents;
#[path = "end_to_end/pruning.rs"]
mod pruning;
#[path = "end_to_end/rehearsing.rs"]
mod rehearsing;
#[path = "end_to_end/restoring.rs"]
mod restoring;
#[path = "end_to_end/running.rs"]
mod running;
#[path = "end_to_end/s3.rs"]
mod s3;
#[path = "end_to_end/signals.rs"]
mod signals;
#[path = "end_to_end/storing.rs"]
mod storing;
#[path = "end_to_end/streams.rs"]
mod streams;
#[path = "end_to_end/telling.rs"]
mod telling;
