//! The decisions of Trueup: pure functions over the ledger's state.
//!
//! No IO, no clock, no randomness, no serialization. `now` and ids are arguments. The same
//! functions run on every store, in simulations and in dry runs.
//!
//! A [`Book`] is loaded with what a [`Command`] may touch, [`decide`] gives an [`Answer`] and
//! [`Event`]s or a [`Rejection`], and the events are what a store makes durable.

pub mod book;
pub mod command;
pub mod decide;
pub mod event;
pub mod ids;
pub mod publish;
pub mod quantity;
pub mod reconcile;
pub mod rejection;
pub mod state;
pub mod time;

pub use book::Book;
pub use command::*;
pub use decide::decide;
pub use event::{ConflictFacts, Event, Movement, MovementKind, Source};
pub use ids::{
    CHANNEL_LOCATION_PREFIX, ChannelId, ListingKey, Location, NameError, OrderId, Org,
    QUARANTINE_LOCATION, ReservationId, SKU_BYTES_MAX, Sku,
};
pub use publish::{Rules, Terms};
pub use quantity::{Delta, OutOfRange, QUANTITY_MAX, Quantity};
pub use reconcile::{Circumstances, Strategy, Verdict};
pub use rejection::{Rejection, Shortage};
pub use state::*;
pub use time::{MICROS_PER_SECOND, Timestamp};
