//! Refusals: what the ledger will not do, as data with stable codes.
//!
//! # Order of precedence
//! Where several refusals would fit, the first of this list is given:
//!
//! 1. `sku_not_found`, `reservation_not_found`, `listing_not_found`, `conflict_not_found`
//! 2. `version_mismatch`, `conflict_open`
//! 3. `reservation_committed`, `reservation_released`, `reservation_expired`
//! 4. `bundle_has_no_stock`, `bundle_part_invalid`, `sku_has_stock`
//! 5. `too_many_locations`, `too_many_parts`
//! 6. `quantity_out_of_range`
//! 7. `insufficient_stock`

use crate::{Delta, ReservationId, Sku};

/// An item that there is not enough of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The SKU as it was asked for.
    pub sku: Sku,
    /// Units asked for.
    pub requested: u64,
    /// Units that could be had.
    pub available: u64,
}

/// Why the ledger refuses a command. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such SKU.
    #[error("there is no SKU {0:?}")]
    SkuNotFound(Sku),
    /// No such reservation.
    #[error("there is no such reservation")]
    ReservationNotFound(ReservationId),
    /// No such listing on the channel.
    #[error("there is no such listing")]
    ListingNotFound,
    /// No open conflict at this listing.
    #[error("there is no open conflict here")]
    ConflictNotFound,
    /// The listing waits for an operator already, or its number is settled elsewhere.
    #[error("the listing is in conflict already, or its number is not settled here")]
    ConflictOpen,
    /// The SKU has changed since the version the caller saw.
    #[error("the SKU is at version {actual}, not {expected}")]
    VersionMismatch {
        /// What the caller named.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The order was placed already.
    #[error("the reservation is committed")]
    ReservationCommitted,
    /// The stock was given back already.
    #[error("the reservation is released")]
    ReservationReleased,
    /// The reservation's time ran out.
    #[error("the reservation has expired")]
    ReservationExpired,
    /// A bundle's stock is its parts' stock.
    #[error("SKU {0:?} is a bundle; its stock is that of its parts")]
    BundleHasNoStock(Sku),
    /// A part of a bundle cannot be what it was said to be.
    #[error("part {sku:?}: {why}")]
    BundlePartInvalid {
        /// The part.
        sku: Sku,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A SKU with stock or holds of its own cannot become a bundle.
    #[error("SKU {0:?} has stock or holds of its own")]
    SkuHasStock(Sku),
    /// The SKU would stand at too many locations.
    #[error("a SKU stands at no more than {max} locations")]
    TooManyLocations {
        /// The limit.
        max: usize,
    },
    /// The bundle would have too many parts, or the part too many bundles.
    #[error("no more than {max} are allowed")]
    TooManyParts {
        /// The limit.
        max: usize,
    },
    /// A sum would pass 2^53 − 1.
    #[error("a quantity would pass 2^53 − 1")]
    QuantityOutOfRange,
    /// Not enough stock.
    #[error("not enough stock")]
    InsufficientStock(Vec<Shortage>),
    /// An adjustment would take a level below zero.
    #[error("the change by {delta} would take {on_hand} on hand below zero")]
    BelowZero {
        /// The SKU.
        sku: Sku,
        /// The change asked for.
        delta: Delta,
        /// What is on hand at the location.
        on_hand: Delta,
    },
}

impl Rejection {
    /// Returns the stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::SkuNotFound(_) => "sku_not_found",
            Self::ReservationNotFound(_) => "reservation_not_found",
            Self::ListingNotFound => "listing_not_found",
            Self::ConflictNotFound => "conflict_not_found",
            Self::ConflictOpen => "conflict_open",
            Self::VersionMismatch { .. } => "version_mismatch",
            Self::ReservationCommitted => "reservation_committed",
            Self::ReservationReleased => "reservation_released",
            Self::ReservationExpired => "reservation_expired",
            Self::BundleHasNoStock(_) => "bundle_has_no_stock",
            Self::BundlePartInvalid { .. } => "bundle_part_invalid",
            Self::SkuHasStock(_) => "sku_has_stock",
            Self::TooManyLocations { .. } => "too_many_locations",
            Self::TooManyParts { .. } => "too_many_parts",
            Self::QuantityOutOfRange => "quantity_out_of_range",
            Self::InsufficientStock(_) | Self::BelowZero { .. } => "insufficient_stock",
        }
    }
}

impl From<crate::OutOfRange> for Rejection {
    fn from(_: crate::OutOfRange) -> Self {
        Self::QuantityOutOfRange
    }
}
