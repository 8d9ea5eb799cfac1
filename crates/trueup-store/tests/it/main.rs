//! What any store must do, shown on the embedded one; and how the embedded one treats its files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod files;
mod harness;
mod ledger;
