//! The Store port and its implementations.

pub mod embedded;
pub mod port;

pub use port::*;
