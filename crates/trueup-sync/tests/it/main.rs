//! The engine over the embedded store: scripted channels in memory, then the simulators.

mod fake;
mod house;

mod connect;
mod inbox;
mod pull;
mod push;
