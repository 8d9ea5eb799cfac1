//! What any store must do, shown on the one that `TRUEUP_TEST_STORE` says; and how the embedded one
//! treats its files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod alike;
mod catalogue;
mod conflicts;
mod connections;
mod cutter;
mod files;
mod harness;
mod inbox;
mod keys;
mod leases;
mod ledger;
mod listings;
mod making;
mod moving;
#[path = "../../../trueup-core/tests/it/naive.rs"]
mod naive;
mod nodes;
mod orders;
mod pauses;
mod runs;
mod scopes;
mod webhooks;
