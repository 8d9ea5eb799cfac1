//! The ledger's specification as scripts, tables and properties.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod harness;
mod model;
mod naive;
mod orders;
mod publishing;
mod pull;
mod scripts;
