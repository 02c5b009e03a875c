//! Backup and restore over stores in memory: what comes back, what holds when requests fail, when a run is killed, when
//! objects are damaged, how many requests it takes, and what holds in thousands of schedules of all this.
//!
//! Needs neither root nor Btrfs nor a network.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

#[path = "operations/archived.rs"]
mod archived;
#[path = "operations/checking.rs"]
mod checking;
#[path = "operations/checksums.rs"]
mod checksums;
#[path = "operations/copying.rs"]
mod copying;
#[path = "operations/damage.rs"]
mod damage;
#[path = "operations/failing.rs"]
mod failing;
#[path = "operations/file_system.rs"]
mod file_system;
#[path = "operations/forgetting.rs"]
mod forgetting;
#[path = "operations/frozen.rs"]
mod frozen;
#[path = "operations/garbled.rs"]
mod garbled;
#[path = "operations/interruption.rs"]
mod interruption;
#[path = "operations/known_damage.rs"]
mod known_damage;
#[path = "operations/local_state.rs"]
mod local_state;
#[path = "operations/lost_files.rs"]
mod lost_files;
#[path = "operations/lost_packs.rs"]
mod lost_packs;
#[path = "operations/merging.rs"]
mod merging;
#[path = "operations/model.rs"]
mod model;
#[path = "operations/noting.rs"]
mod noting;
#[path = "operations/one_at_a_time.rs"]
mod one_at_a_time;
#[path = "operations/places.rs"]
mod places;
#[path = "operations/prune_beside.rs"]
mod prune_beside;
#[path = "operations/prune_orders.rs"]
mod prune_orders;
#[path = "operations/pruning.rs"]
mod pruning;
#[path = "operations/repacking.rs"]
mod repacking;
#[path = "operations/repairing.rs"]
mod repairing;
#[path = "operations/requests.rs"]
mod requests;
#[path = "operations/round_trips.rs"]
mod round_trips;
#[path = "operations/samples.rs"]
mod samples;
#[path = "operations/scripted.rs"]
mod scripted;
#[path = "operations/sessions.rs"]
mod sessions;
#[path = "operations/side_by_side.rs"]
mod side_by_side;
#[path = "operations/tables.rs"]
mod tables;
#[path = "operations/unfit_streams.rs"]
mod unfit_streams;
#[path = "operations/world.rs"]
mod world;
#[path = "operations/year.rs"]
mod year;
