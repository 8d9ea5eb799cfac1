//! The records of the sync engine as rows: one file for each table, or for each question over
//! several. Plain functions over a connection; who calls them has begun the transaction.
//!
//! Statements that find many rows by their keys hide shard and org in `given AS MATERIALIZED`: of a
//! table that has not been analyzed the planner takes all rows of an org for one, and would read
//! them all for each key, rather than look each key up.

pub(super) mod answers;
pub(super) mod catalogue;
pub(super) mod conflicts;
pub(super) mod connections;
pub(super) mod consents;
pub(super) mod deliveries;
pub(super) mod feeds;
pub(super) mod history;
pub(super) mod inbox;
pub(super) mod keys;
pub(super) mod listings;
pub(super) mod order_lines;
pub(super) mod pauses;
mod rounds;
pub(super) mod runs;
pub(super) mod scopes;
pub(super) mod sealed;
pub(super) mod unmapped;

/// The most rows that one call of a purge removes, so that no transaction grows long.
pub(super) const PURGED_AT_ONCE_MAX: usize = 10_000;
