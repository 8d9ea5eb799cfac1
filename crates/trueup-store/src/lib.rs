//! The Store port and its implementations.

pub mod embedded;
mod encoding;
pub mod port;
mod scopes;

pub use port::*;
