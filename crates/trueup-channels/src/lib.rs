//! The Channel port and the connectors behind it.
//!
//! Strangers to the store: this crate knows vendors and core's names, nothing of rows.

pub mod amazon;
pub mod consent;
pub mod credential;
pub mod ebay;
pub mod port;
pub mod shopify;

mod exchange;
mod oauth;
mod settings;

pub use consent::{Callback, CallbackError, Consent, ConsentAsk, ConsentCode};
pub use exchange::retry_after;
pub use port::*;

static KINDS: [&dyn Kind; 3] = [&shopify::Shopify, &amazon::Amazon, &ebay::Ebay];

/// Returns every kind of channel that this build can connect.
#[must_use]
pub fn kinds() -> &'static [&'static dyn Kind] {
    &KINDS
}

/// Returns the kind of this name, such as `shopify`.
#[must_use]
pub fn kind(name: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}
