//! The program and its API, as users meet them.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on stops"
)]

mod api;
mod api_channels;
mod api_connect;
mod api_held;
mod api_inventory_check;
mod backup;
mod bench;
mod browser;
mod crash;
#[cfg(target_os = "linux")]
mod disk;
mod hostile;
mod load;
mod migrate;
mod mutations;
mod nodes;
mod place;
mod process;
mod readme;
mod rekey;
mod secrets;
mod tenants;
mod tokens;
mod wire;
