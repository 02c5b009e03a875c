//! What a repository on S3 costs: arithmetic over a listing and a price list, without a store and without a clock.
//!
//! Amounts are exact to a billionth of the currency's unit; each of them is rounded once, when it is made. What cannot be
//! known beforehand, such as how often a pack is read, is an estimate, and `docs/cost.md` says which amounts are.

pub mod money;
pub mod month;
pub mod night;
pub mod prices;
pub mod reading;
pub mod rewriting;
pub mod run;

#[cfg(test)]
mod tests;

/// Bytes of what price lists call a GB.
pub const GB: u64 = 1 << 30;
/// Days of a month of storage.
pub const MONTH_DAYS: u64 = 30;
