//! The Store port and its implementations.

mod cluster;
pub mod embedded;
mod encoding;
pub mod migrate;
pub mod port;
pub mod postgres;
mod scopes;

pub use cluster::{Cluster, Holding, Lease, Node, NodeInfo, Ownership, Shard};
pub use encoding::rules::in_force as rules_in_force;
pub use port::*;
