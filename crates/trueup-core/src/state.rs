//! The ledger's state: levels, reservations and what is known of listings.

use smallvec::SmallVec;

use crate::{
    ChannelId, Delta, ListingKey, Location, OrderId, OutOfRange, Quantity, ReservationId, Sku,
    Timestamp, publish::Rules, reconcile::Strategy,
};

/// The most locations that one SKU may stand at.
pub const LOCATIONS_PER_SKU_MAX: usize = 1_000;
/// The most parts of a bundle.
pub const BUNDLE_PARTS_MAX: usize = 100;
/// The most bundles that one SKU may be a part of.
pub const BUNDLES_PER_PART_MAX: usize = 100;

/// Stock of one SKU at one location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Where it stands.
    pub location: Location,
    /// Units owned, reserved ones included; below zero where more was sold than counted.
    pub on_hand: Delta,
    /// Units held by active reservations.
    pub reserved: Quantity,
}

/// A bundle's part and how many of it one bundle takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The part.
    pub sku: Sku,
    /// Units of it in one bundle, at least 1.
    pub quantity: Quantity,
}

/// What is kept about one SKU.
///
/// Invariants: levels are sorted by location and unique; a bundle has parts and no levels; a
/// bundle is never a part; `publish_version ≤ version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkuState {
    /// Counts the changes; the number of the newest ledger line.
    pub version: u64,
    /// The version that channels must know of: the newest change that publishes by itself or
    /// was asked to.
    pub publish_version: u64,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Units never offered anywhere.
    pub safety_stock: Quantity,
    /// Below this many on hand the stock is low; `None` = never.
    pub low_stock_threshold: Option<Quantity>,
    /// Units that may be reserved beyond what is on hand.
    pub backorder_limit: Quantity,
    /// Since when the stock is low.
    pub low_since: Option<Timestamp>,
    /// Stock by location.
    pub levels: SmallVec<[Level; 1]>,
    /// The parts, where this is a bundle.
    pub parts: Vec<Part>,
    /// The bundles that this is a part of.
    pub used_in: Vec<Sku>,
}

impl SkuState {
    /// Returns a SKU without stock, not yet recorded.
    #[must_use]
    pub fn new() -> Self {
        Self {
            version: 0,
            publish_version: 0,
            updated_at: Timestamp::EPOCH,
            safety_stock: Quantity::ZERO,
            low_stock_threshold: None,
            backorder_limit: Quantity::ZERO,
            low_since: None,
            levels: SmallVec::new(),
            parts: Vec::new(),
            used_in: Vec::new(),
        }
    }

    /// Returns whether availability comes from parts.
    #[must_use]
    pub fn is_bundle(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Returns the level at a location.
    #[must_use]
    pub fn level(&self, location: &Location) -> Option<&Level> {
        self.levels.iter().find(|level| level.location == *location)
    }

    /// Returns on hand and reserved summed over the locations that `count` takes in.
    #[must_use]
    pub fn totals_where(&self, count: impl Fn(&Location) -> bool) -> Totals {
        let mut totals = Totals::default();
        for level in self.levels.iter().filter(|level| count(&level.location)) {
            // Every accepted event keeps the sums within range: see `checked_totals`.
            totals.on_hand = totals.on_hand.plus(level.on_hand).unwrap_or(totals.on_hand);
            totals.reserved = totals.reserved.plus(level.reserved).unwrap_or(totals.reserved);
        }
        totals
    }

    /// Returns on hand and reserved over all locations.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals_where(|_| true)
    }

    /// Returns the units that may still be offered: `on_hand − reserved − safety_stock`, below
    /// zero where more is promised than there is.
    #[must_use]
    pub fn free(&self) -> Delta {
        self.totals().free(self.safety_stock)
    }

    /// Returns by how many units the reserved pass what is on hand and what may be backordered.
    #[must_use]
    pub fn oversold_by(&self) -> Quantity {
        let totals = self.totals();
        let short = totals.reserved.delta().minus(totals.on_hand);
        let over = short.and_then(|short| short.minus(self.backorder_limit.delta()));
        over.unwrap_or(Delta::ZERO).floored()
    }

    /// Returns whether the stock is below its threshold.
    #[must_use]
    pub fn is_low(&self) -> bool {
        match self.low_stock_threshold {
            // A bundle has no stock of its own that could be low; its parts have.
            Some(threshold) => !self.is_bundle() && self.totals().on_hand < threshold.delta(),
            None => false,
        }
    }

    pub(crate) fn level_mut(&mut self, location: &Location) -> &mut Level {
        let found = self.levels.binary_search_by(|level| level.location.cmp(location));
        let at = match found {
            Ok(at) => at,
            Err(at) => {
                let level = Level {
                    location: location.clone(),
                    on_hand: Delta::ZERO,
                    reserved: Quantity::ZERO,
                };
                self.levels.insert(at, level);
                at
            }
        };
        &mut self.levels[at]
    }

    /// Checks the invariants of the type, in debug builds.
    pub fn check(&self) {
        debug_assert!(self.publish_version <= self.version);
        debug_assert!(self.levels.windows(2).all(|w| w[0].location < w[1].location));
        debug_assert!(self.parts.is_empty() || self.levels.is_empty());
    }
}

impl Default for SkuState {
    fn default() -> Self {
        Self::new()
    }
}

/// On hand and reserved over some locations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Units owned.
    pub on_hand: Delta,
    /// Units held.
    pub reserved: Quantity,
}

impl Totals {
    /// Returns `on_hand − reserved − safety_stock`, not floored.
    #[must_use]
    pub fn free(self, safety_stock: Quantity) -> Delta {
        self.on_hand
            .minus(self.reserved.delta())
            .and_then(|free| free.minus(safety_stock.delta()))
            .unwrap_or(Delta::ZERO)
    }

    /// Returns the totals after a change.
    ///
    /// # Errors
    /// [`OutOfRange`] where a sum would pass 2^53 − 1 or the reserved would fall below zero.
    pub fn after(self, delta: Delta, reserved_delta: Delta) -> Result<Self, OutOfRange> {
        let reserved = self.reserved.delta().plus(reserved_delta)?;
        if reserved < Delta::ZERO {
            return Err(OutOfRange);
        }
        Ok(Self { on_hand: self.on_hand.plus(delta)?, reserved: reserved.floored() })
    }
}

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReservationStatus {
    /// The stock is held.
    Active,
    /// Given back before the end.
    Released,
    /// Sold.
    Committed,
    /// Its time ran out.
    Expired,
}

/// What a shopper asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// The SKU, possibly a bundle.
    pub sku: Sku,
    /// Where to take it from; `None` = wherever it stands.
    pub location: Option<Location>,
    /// Units, at least 1.
    pub quantity: Quantity,
}

/// Stock taken for an item: bundles are resolved into parts, and a place is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The SKU, never a bundle.
    pub sku: Sku,
    /// Where it stands.
    pub location: Location,
    /// Units, at least 1.
    pub quantity: Quantity,
}

/// An all-or-nothing hold for one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// The order it is for; an order has at most one active reservation.
    pub order: OrderId,
    /// Where it stands.
    pub status: ReservationStatus,
    /// What was asked for: sorted by SKU and location, each pair once.
    pub items: SmallVec<[Item; 1]>,
    /// What is held for it.
    pub holds: SmallVec<[Hold; 1]>,
    /// When it was first made.
    pub created_at: Timestamp,
    /// From this instant on it holds nothing.
    pub expires_at: Timestamp,
    /// When it was released, committed or found expired.
    pub ended_at: Option<Timestamp>,
}

/// A push that went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// What was sent.
    pub quantity: i64,
    /// The SKU's version that it was computed from.
    pub version: u64,
    /// When it was sent.
    pub at: Timestamp,
}

/// A number that a channel showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// The number; below zero where the channel oversold.
    pub quantity: i64,
    /// When it was read.
    pub at: Timestamp,
}

/// What is kept about one listing of one channel, with the settings that are in force for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingState {
    /// The connection.
    pub channel: ChannelId,
    /// The listing's key on it.
    pub key: ListingKey,
    /// The SKU it sells.
    pub sku: Sku,
    /// How the published number is made (the mapping's settings over the channel's).
    pub rules: Rules,
    /// How differences are settled.
    pub strategy: Strategy,
    /// Whether the channel ships it: never pushed, its stock adopted as it is read.
    pub channel_fulfilled: bool,
    /// Whether another listing shows the same number and is the one that is told it: what this
    /// one shows is noted, and neither pushed nor settled.
    pub follows: bool,
    /// Where adopted differences are booked.
    pub home: Location,
    /// What the channel last acknowledged or was seen to agree with; `None` = never known.
    pub base: Option<i64>,
    /// Since when `base` is known: what the channel sold before is in it already. `None` = not
    /// known, so that every order is taken to have come after.
    pub base_at: Option<Timestamp>,
    /// When an order of the channel's was last booked on it: what was read before may or may not
    /// have the order in it.
    pub booked_at: Option<Timestamp>,
    /// The push that is out and not yet known to be applied.
    pub in_flight: Option<Sent>,
    /// The version last acknowledged.
    pub acked_version: u64,
    /// When it was acknowledged.
    pub acked_at: Option<Timestamp>,
    /// The newest reading.
    pub observed: Option<Observed>,
    /// Adopted differences, in units of the SKU, that no order has explained yet: below zero
    /// for units the channel seems to have sold, above for units that came back.
    pub provisional: Delta,
    /// Whether a push is owed although no version asks for it.
    pub forced: bool,
    /// Counts definite refusals and pushes that are owed anew (what came back and is not for
    /// sale, a scope taken over, a listing moved to another SKU), so that a token is never used
    /// for two different requests.
    pub epoch: u32,
    /// Whether the listing waits for an operator: neither pushed nor adopted.
    pub in_conflict: bool,
}

impl ListingState {
    /// Returns whether `base` says what the channel shows: a push that is owed because of what
    /// came back is owed until the channel was told or read after that was booked.
    #[must_use]
    pub fn is_base_sure(&self) -> bool {
        let known_after = |booked_at| self.base_at.is_some_and(|at| at >= booked_at);
        !self.forced || self.booked_at.is_none_or(known_after)
    }
}

/// What has been booked of one line of a channel's order.
///
/// Counts are in units of the listing. Each unit ordered is held, sold or voided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LineBooked {
    /// Units counted as sold.
    pub sold: u64,
    /// Units counted as come back.
    pub restocked: u64,
    /// Units known to be cancelled before they were sold: a late notice does not sell them.
    pub voided: u64,
    /// Units held until they are paid for or cancelled.
    pub held: u64,
    /// What is held for them.
    pub holds: SmallVec<[Hold; 1]>,
}
