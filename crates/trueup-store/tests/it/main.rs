//! What any store must do, shown on the embedded one; and how the embedded one treats its files.

mod files;
mod harness;
mod ledger;
