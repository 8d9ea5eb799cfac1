//! The ledger: decisions under locks, and what is read of it.
//!
//! - `gate.rs`: whoever asks waits at the gate of a shard; what waits is decided together.
//! - `load.rs`: locks what is decided on, then reads it.
//! - `decisions.rs`: decides; pure.
//! - `write.rs`: writes what was decided, with few statements.
//! - `rows.rs`: rows as the types of the core.
//! - `due.rs`: finds what is due.
//! - `reads.rs`, `verify.rs`: what is read without locks.

pub(super) mod decisions;
pub(super) mod due;
pub(super) mod gate;
mod load;
pub(super) mod reads;
mod rows;
pub(super) mod verify;
mod write;
