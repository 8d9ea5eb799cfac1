//! The engine over the embedded store: scripted channels in memory, then the simulators.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod fake;
mod feeds;
mod held;
mod hooks;
mod house;

mod connect;
mod deliver;
mod ebay;
mod inbox;
mod nodes;
mod orders;
mod paused;
mod pull;
mod push;
mod queue;
mod scopes;
mod sims;
mod sqs;
