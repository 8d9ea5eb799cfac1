//! The Store port and its implementations.

pub mod port;

pub use port::*;
