//! The program with its repository in a bucket: of a server in this process, behind a proxy that does what bad networks
//! do, and of Garage.

#[path = "s3/archive.rs"]
mod archive;
#[path = "s3/checksums.rs"]
mod checksums;
#[path = "s3/copying.rs"]
mod copying;
#[path = "s3/cost.rs"]
mod cost;
#[path = "s3/garage.rs"]
mod garage;
#[path = "s3/kills.rs"]
mod kills;
#[path = "s3/permissions.rs"]
mod permissions;
#[path = "s3/piped.rs"]
pub(crate) mod piped;
#[path = "s3/pruning.rs"]
mod pruning;
#[path = "s3/weather.rs"]
mod weather;
#[path = "s3/whole.rs"]
mod whole;
