//! What happened: the facts that a decision adds.

use std::sync::Arc;

use crate::{
    ChannelId, Delta, ListingKey, ListingState, Location, Part, Quantity, Reservation,
    ReservationId, ReservationStatus, Sku, Timestamp,
};

/// The kind of a ledger line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MovementKind {
    /// Somebody counted: on hand was set.
    Count,
    /// Somebody changed on hand by a difference.
    Adjust,
    /// A hold was taken or enlarged.
    Reserve,
    /// A hold was given back or reduced.
    Release,
    /// A hold became a sale.
    Commit,
    /// A hold ran out.
    Expire,
    /// A channel sold.
    ChannelSale,
    /// Units of a channel's order came back.
    ChannelReturn,
    /// A difference that the channel showed was taken over.
    ChannelAdopted,
    /// Safety stock, threshold or backorder limit changed.
    Settings,
    /// The SKU became a bundle, or its parts changed.
    Bundle,
}

impl MovementKind {
    /// Every kind with its word in the API.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Count, "count"),
        (Self::Adjust, "adjust"),
        (Self::Reserve, "reserve"),
        (Self::Release, "release"),
        (Self::Commit, "commit"),
        (Self::Expire, "expire"),
        (Self::ChannelSale, "channel_sale"),
        (Self::ChannelReturn, "channel_return"),
        (Self::ChannelAdopted, "channel_adopted"),
        (Self::Settings, "settings"),
        (Self::Bundle, "bundle"),
    ];

    /// Returns the kind's word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Adjust => "adjust",
            Self::Reserve => "reserve",
            Self::Release => "release",
            Self::Commit => "commit",
            Self::Expire => "expire",
            Self::ChannelSale => "channel_sale",
            Self::ChannelReturn => "channel_return",
            Self::ChannelAdopted => "channel_adopted",
            Self::Settings => "settings",
            Self::Bundle => "bundle",
        }
    }

    /// Returns the kind of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind)
    }
}

/// One ledger line: what changed, and how things stand after it.
///
/// Per SKU, `seq` grows by one with each line; Σ `delta` is on hand and Σ `reserved_delta` is
/// reserved, at every `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The SKU.
    pub sku: Sku,
    /// The line's number; also the SKU's version after it.
    pub seq: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What kind of line it is.
    pub kind: MovementKind,
    /// Where.
    pub location: Location,
    /// Change of on hand.
    pub delta: Delta,
    /// Change of reserved.
    pub reserved_delta: Delta,
    /// On hand over all locations, after.
    pub quantity_after: Delta,
    /// Reserved over all locations, after.
    pub reserved_after: Quantity,
    /// On hand at the location, after.
    pub location_quantity_after: Delta,
    /// Reserved at the location, after.
    pub location_reserved_after: Quantity,
    /// The safety stock in force.
    pub safety_stock: Quantity,
    /// The low-stock threshold in force.
    pub low_stock_threshold: Option<Quantity>,
    /// The backorder limit in force.
    pub backorder_limit: Quantity,
    /// Whether channels must know.
    pub publish: bool,
    /// Why, in the words of whoever asked.
    pub reason: Option<Arc<str>>,
    /// Who: the token's `sub`, or a worker's name.
    pub actor: Arc<str>,
    /// By which way it came.
    pub source: Source,
    /// What it belongs to: a reservation, an order of a channel, a bundle.
    pub reference: Option<Arc<str>>,
}

/// What a count's reference begins with when it was taken before it was recorded.
const COUNTED_AT: &str = "counted_at:";

impl Movement {
    /// Returns the reference of a count that was taken at an instant in the past.
    #[must_use]
    pub fn reference_of_count(at: Timestamp) -> Arc<str> {
        Arc::from(format!("{COUNTED_AT}{}", at.micros()))
    }

    /// Returns when a count was taken: when it says so, else when it was recorded.
    #[must_use]
    pub fn counted_at(&self) -> Timestamp {
        let text = self.reference.as_deref().and_then(|text| text.strip_prefix(COUNTED_AT));
        let micros = text.and_then(|text| text.parse().ok());
        micros.map_or(self.at, Timestamp::from_micros)
    }
}

/// By which way a command came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The HTTP API.
    Api,
    /// A file.
    Import,
    /// The clock.
    Expiry,
    /// A channel's order.
    Channel,
    /// A reading of a channel.
    Pull,
    /// A recorded history.
    Replay,
}

impl Source {
    /// Returns the source's word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Import => "import",
            Self::Expiry => "expiry",
            Self::Channel => "channel",
            Self::Pull => "pull",
            Self::Replay => "replay",
        }
    }
}

/// A fact. Applying it to the state that it was decided on cannot fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A ledger line.
    Moved(Movement),
    /// A bundle's parts became these; follows the `Bundle` line.
    BundleDefined {
        /// The bundle.
        sku: Sku,
        /// Its parts; empty = no bundle any more.
        parts: Vec<Part>,
    },
    /// A part moved, so the bundle's number may have.
    BundleTouched {
        /// The bundle.
        sku: Sku,
        /// Its version after.
        version: u64,
        /// When.
        at: Timestamp,
        /// Whether channels must know.
        publish: bool,
    },
    /// Channels are to be told of the SKU's current version.
    PublishAsked {
        /// The SKU.
        sku: Sku,
    },
    /// A reservation was made or replaced by this one.
    Held(Reservation),
    /// A reservation came to its end.
    Ended {
        /// The reservation.
        id: ReservationId,
        /// How.
        status: ReservationStatus,
        /// When.
        at: Timestamp,
    },
    /// A reservation holds until another instant.
    Extended {
        /// The reservation.
        id: ReservationId,
        /// From this instant on it holds nothing.
        expires_at: Timestamp,
    },
    /// Stock fell below its threshold (once per crossing).
    LowStock {
        /// The SKU.
        sku: Sku,
        /// On hand.
        quantity: Delta,
        /// Below this it is low.
        threshold: Quantity,
        /// When.
        at: Timestamp,
    },
    /// More is reserved than is on hand; said when it begins and when it grows.
    Oversold {
        /// The SKU.
        sku: Sku,
        /// By how many units.
        by: Quantity,
        /// When.
        at: Timestamp,
    },
    /// What is known of a listing changed to this.
    Listing(ListingState),
    /// A line of a channel's order was booked up to these totals.
    LineBooked {
        /// The connection.
        channel: ChannelId,
        /// The vendor's id of the order.
        order: Arc<str>,
        /// The vendor's id of the line.
        line: Arc<str>,
        /// The SKU.
        sku: Sku,
        /// Booked so far.
        booked: crate::LineBooked,
        /// When.
        at: Timestamp,
    },
    /// A difference waits for an operator, or its numbers changed.
    ConflictFlagged(ConflictFacts),
    /// An operator decided.
    ConflictClosed {
        /// The connection.
        channel: ChannelId,
        /// The listing.
        key: ListingKey,
        /// When.
        at: Timestamp,
    },
}

/// The numbers of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictFacts {
    /// The connection.
    pub channel: ChannelId,
    /// The listing.
    pub key: ListingKey,
    /// The SKU.
    pub sku: Sku,
    /// On hand in the ledger.
    pub master: i64,
    /// What the channel last acknowledged.
    pub base: Option<i64>,
    /// What it should show.
    pub expected: i64,
    /// What it shows.
    pub observed: i64,
    /// When that was read.
    pub at: Timestamp,
}
