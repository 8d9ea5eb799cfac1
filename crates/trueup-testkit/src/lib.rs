//! Simulators of the shops that Trueup keeps in step, for tests, `trueup demo` and users' own CI.
//!
//! Each speaks its vendor's protocol over HTTP on loopback: the same authentication, shapes,
//! limits and errors, and faults on demand. They hold real state, so a push is seen by the next
//! read and a sale lowers what is shown. They are not complete: README.md lists what is left out.

pub mod amazon;
mod consent;
pub mod control;
pub mod ebay;
pub mod edge;
pub mod faults;
pub mod limits;
pub mod log;
pub mod outbox;
pub mod server;
pub mod shop;
pub mod shopify;
pub mod time;
pub mod tokens;

pub use faults::{Chance, Down, FaultDial, FaultKind, Faults};
pub use log::LoggedRequest;
pub use server::{AnySimulator, SimServer, spawn, spawn_all};
pub use shop::{
    Counters, FulfilledBy, OrderRef, OrderStatus, SeedItem, Shop, ShopError, SimOrder, Vendor,
};
pub use time::SimClock;
