//! The program from outside, with its repository in a bucket: of a server in this process, behind a proxy that does what
//! bad networks do, and of Garage.
//!
//! What needs Garage is ignored unless asked for; `make test` asks for it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]
#![expect(clippy::disallowed_methods, reason = "the tests start the program and look at its surroundings")]

mod support;

#[path = "s3/garage.rs"]
mod garage;
#[path = "s3/piped.rs"]
mod piped;
#[path = "s3/weather.rs"]
mod weather;
#[path = "s3/whole.rs"]
mod whole;
