//! The Store port and its implementations.

pub mod embedded;
mod encoding;
pub mod migrate;
pub mod port;
pub mod postgres;
mod scopes;

pub use port::*;
