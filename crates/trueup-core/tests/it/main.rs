//! The ledger's specification as scripts, tables and properties.

mod harness;
mod model;
mod pull;
mod publishing;
mod scripts;
