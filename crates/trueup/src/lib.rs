//! The Trueup server as a library: the HTTP API, its authentication and its configuration.

pub mod api;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod config;
