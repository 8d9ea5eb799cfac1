//! The working set of a batch of decisions: what was loaded, and what became of it.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{
    ChannelId, Command, Event, LineBooked, ListingKey, ListingState, Location, MovementKind,
    OrderId, Reservation, ReservationId, ReservationStatus, Sku, SkuState, Timestamp,
    event::Movement,
};

/// Where a book's entries come from: the store's memory, rows, or a map in a test.
pub trait Source {
    /// What reading can fail with.
    type Error;

    /// Returns a SKU.
    ///
    /// # Errors
    /// When it could not be read.
    fn sku(&self, sku: &Sku) -> Result<Option<SkuState>, Self::Error>;

    /// Returns a reservation, whatever its status.
    ///
    /// # Errors
    /// When it could not be read.
    fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Self::Error>;

    /// Returns the active reservation of an order.
    ///
    /// # Errors
    /// When it could not be read.
    fn active_of_order(&self, order: &OrderId) -> Result<Option<ReservationId>, Self::Error>;

    /// Returns whether a reservation of the order was committed.
    ///
    /// # Errors
    /// When it could not be read.
    fn order_is_sold(&self, order: &OrderId) -> Result<bool, Self::Error>;

    /// Returns a listing with the settings in force.
    ///
    /// # Errors
    /// When it could not be read.
    fn listing(
        &self,
        channel: &ChannelId,
        key: &ListingKey,
    ) -> Result<Option<ListingState>, Self::Error>;

    /// Returns what was booked of a channel's order line.
    ///
    /// # Errors
    /// When it could not be read.
    fn order_line(
        &self,
        channel: &ChannelId,
        order: &str,
        line: &str,
    ) -> Result<Option<LineBooked>, Self::Error>;

    /// Returns what the ledger recorded of a SKU at a location after an instant.
    ///
    /// # Errors
    /// When it could not be read.
    fn moved_since(
        &self,
        sku: &Sku,
        location: &Location,
        at: Timestamp,
    ) -> Result<Since, Self::Error>;
}

/// What the ledger recorded at one place after an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Since {
    /// The sum of all on-hand changes that are not counts.
    pub moved: i64,
    /// Whether there is a count that was taken after the instant.
    pub recounted: bool,
}

impl Since {
    /// Adds a line that was recorded after the instant.
    pub fn note(&mut self, movement: &Movement, instant: Timestamp) {
        if movement.kind == MovementKind::Count {
            self.recounted |= movement.counted_at() > instant;
        } else {
            self.moved += movement.delta.get();
        }
    }
}

/// A line's place: connection, order, line.
pub type LineKey = (ChannelId, Arc<str>, Arc<str>);

/// One org's working set.
///
/// Every decision of a batch reads and changes the same book, so each sees what those before it
/// did. Entries that were looked for and not found are kept as `None`.
#[derive(Debug, Default)]
pub struct Book {
    pub(crate) skus: FxHashMap<Sku, Option<SkuState>>,
    pub(crate) reservations: FxHashMap<ReservationId, Option<Reservation>>,
    pub(crate) orders: FxHashMap<OrderId, Option<ReservationId>>,
    /// Orders that had sold something when they were loaded.
    pub(crate) sold: FxHashMap<OrderId, bool>,
    pub(crate) listings: FxHashMap<(ChannelId, ListingKey), Option<ListingState>>,
    pub(crate) lines: FxHashMap<LineKey, LineBooked>,
    pub(crate) moved: FxHashMap<(Sku, Location, Timestamp), Since>,
    pub(crate) events: Vec<Event>,
}

impl Book {
    /// Returns an empty book.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads what a command may touch.
    ///
    /// # Errors
    /// The source's, when an entry could not be read; the book is usable as before.
    pub fn load<S: Source>(&mut self, command: &Command, source: &S) -> Result<(), S::Error> {
        match command {
            Command::SetOnHand(set) => self.load_set(set, source)?,
            Command::Adjust(adjust) => self.load_sku(&adjust.sku, source)?,
            Command::Bulk { items, .. } => {
                for set in items {
                    self.load_set(set, source)?;
                }
            }
            Command::SetBundle { sku, parts, .. } => {
                self.load_sku(sku, source)?;
                for part in parts {
                    self.load_sku(&part.sku, source)?;
                }
            }
            Command::Publish { skus } => {
                for sku in skus {
                    self.load_sku(sku, source)?;
                }
            }
            Command::Reserve(reserve) => self.load_reserve(reserve, source)?,
            Command::ReserveBatch(reserves) => {
                for reserve in reserves {
                    self.load_reserve(reserve, source)?;
                }
            }
            Command::Release { id } | Command::Extend { id, .. } => {
                self.load_reservation(*id, source)?;
            }
            Command::Commit { id, reacquire } => {
                self.load_reservation(*id, source)?;
                if let Some(Some(found)) = self.reservations.get(id) {
                    let order = found.order.clone();
                    let skus: Vec<Sku> = found.items.iter().map(|i| i.sku.clone()).collect();
                    self.load_order(&order, source)?;
                    if *reacquire && !self.sold.contains_key(&order) {
                        let sold = source.order_is_sold(&order)?;
                        self.sold.insert(order, sold);
                    }
                    for sku in &skus {
                        self.load_sku(sku, source)?;
                    }
                }
            }
            Command::Expire { ids } => {
                for id in ids {
                    self.load_reservation(*id, source)?;
                }
            }
            Command::ChannelOrder(order) => {
                for line in &order.lines {
                    self.load_sku(&line.sku, source)?;
                    if let Some(key) = &line.listing {
                        self.load_listing(&order.channel, key, source)?;
                    }
                    let key = (order.channel.clone(), order.order.clone(), line.line.clone());
                    if !self.lines.contains_key(&key) {
                        let booked = source.order_line(&order.channel, &order.order, &line.line)?;
                        let booked = booked.unwrap_or_default();
                        // What is held may be of another SKU than the listing sells by now.
                        for hold in &booked.holds {
                            self.load_sku(&hold.sku, source)?;
                        }
                        self.lines.insert(key, booked);
                    }
                }
            }
            Command::Reconcile(reconcile) => {
                for reading in &reconcile.readings {
                    self.load_listing(&reconcile.channel, &reading.key, source)?;
                }
            }
            Command::MarkSent { channel, items } => {
                for push in items {
                    self.load_listing(channel, &push.key, source)?;
                }
            }
            Command::Settle { channel, items } => {
                for (push, _) in items {
                    self.load_listing(channel, &push.key, source)?;
                }
            }
            Command::Resolve { channel, key, .. }
            | Command::Reopen(crate::Reopen { channel, key, .. }) => {
                self.load_listing(channel, key, source)?;
            }
        }
        Ok(())
    }

    fn load_set<S: Source>(&mut self, set: &crate::SetOnHand, source: &S) -> Result<(), S::Error> {
        self.load_sku(&set.sku, source)?;
        if let Some(at) = set.counted_at {
            let moved = source.moved_since(&set.sku, &set.location, at)?;
            self.moved.insert((set.sku.clone(), set.location.clone(), at), moved);
        }
        Ok(())
    }

    fn load_reserve<S: Source>(
        &mut self,
        reserve: &crate::Reserve,
        source: &S,
    ) -> Result<(), S::Error> {
        for item in &reserve.items {
            self.load_sku(&item.sku, source)?;
        }
        self.load_order(&reserve.order, source)
    }

    fn load_order<S: Source>(&mut self, order: &OrderId, source: &S) -> Result<(), S::Error> {
        if !self.orders.contains_key(order) {
            let active = source.active_of_order(order)?;
            self.orders.insert(order.clone(), active);
        }
        match self.orders.get(order) {
            Some(Some(id)) => self.load_reservation(*id, source),
            Some(None) | None => Ok(()),
        }
    }

    fn load_reservation<S: Source>(
        &mut self,
        id: ReservationId,
        source: &S,
    ) -> Result<(), S::Error> {
        if let Entry::Vacant(entry) = self.reservations.entry(id) {
            entry.insert(source.reservation(id)?);
        }
        if let Some(Some(found)) = self.reservations.get(&id) {
            let skus: Vec<Sku> = found.holds.iter().map(|hold| hold.sku.clone()).collect();
            for sku in &skus {
                self.load_sku(sku, source)?;
            }
        }
        Ok(())
    }

    fn load_listing<S: Source>(
        &mut self,
        channel: &ChannelId,
        key: &ListingKey,
        source: &S,
    ) -> Result<(), S::Error> {
        let entry_key = (channel.clone(), key.clone());
        if !self.listings.contains_key(&entry_key) {
            let listing = source.listing(channel, key)?;
            self.listings.insert(entry_key.clone(), listing);
        }
        if let Some(Some(listing)) = self.listings.get(&entry_key) {
            let sku = listing.sku.clone();
            self.load_sku(&sku, source)?;
        }
        Ok(())
    }

    /// Loads a SKU with its parts and the bundles it is in.
    fn load_sku<S: Source>(&mut self, sku: &Sku, source: &S) -> Result<(), S::Error> {
        if self.skus.contains_key(sku) {
            return Ok(());
        }
        let state = source.sku(sku)?;
        let mut around: Vec<Sku> = Vec::new();
        if let Some(state) = &state {
            around.extend(state.parts.iter().map(|part| part.sku.clone()));
            around.extend(state.used_in.iter().cloned());
        }
        self.skus.insert(sku.clone(), state);
        for near in &around {
            self.load_sku(near, source)?;
        }
        Ok(())
    }

    /// Returns a SKU that was loaded.
    #[must_use]
    pub fn sku(&self, sku: &Sku) -> Option<&SkuState> {
        debug_assert!(self.skus.contains_key(sku), "SKU {sku} was not loaded");
        self.skus.get(sku).and_then(Option::as_ref)
    }

    /// Returns a reservation that was loaded.
    #[must_use]
    pub fn reservation(&self, id: ReservationId) -> Option<&Reservation> {
        debug_assert!(self.reservations.contains_key(&id), "a reservation was not loaded");
        self.reservations.get(&id).and_then(Option::as_ref)
    }

    /// Returns a listing that was loaded.
    #[must_use]
    pub fn listing(&self, channel: &ChannelId, key: &ListingKey) -> Option<&ListingState> {
        self.listings.get(&(channel.clone(), key.clone())).and_then(Option::as_ref)
    }

    /// Returns the active reservation of an order that was loaded.
    #[must_use]
    pub fn active_of_order(&self, order: &OrderId) -> Option<&Reservation> {
        let id = self.orders.get(order).copied().flatten()?;
        self.reservation(id).filter(|found| found.status == ReservationStatus::Active)
    }

    /// Returns whether a reservation of an order was committed, before or in this batch.
    #[must_use]
    pub(crate) fn order_is_sold(&self, order: &OrderId) -> bool {
        let sold = |found: &Reservation| {
            found.status == ReservationStatus::Committed && found.order == *order
        };
        self.sold.get(order).copied().unwrap_or(false)
            || self.reservations.values().flatten().any(sold)
    }

    /// Returns how many events have been decided so far.
    #[must_use]
    pub fn events_len(&self) -> usize {
        self.events.len()
    }

    /// Takes the events decided so far, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Adds a fact and applies it.
    pub(crate) fn emit(&mut self, event: Event) {
        self.apply(&event);
        self.events.push(event);
    }

    /// Applies a fact to what it is about; entries that are not loaded are made where the fact
    /// says all there is to know of them, and left alone otherwise.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Moved(movement) => {
                let entry = self.skus.entry(movement.sku.clone()).or_insert(None);
                apply_movement(entry.get_or_insert_with(SkuState::new), movement);
                let moved = self.moved.iter_mut();
                for ((sku, location, instant), since) in moved {
                    if *sku == movement.sku && *location == movement.location {
                        since.note(movement, *instant);
                    }
                }
            }
            Event::BundleDefined { sku, parts } => {
                let old = match self.skus.get_mut(sku) {
                    Some(Some(state)) => std::mem::replace(&mut state.parts, parts.clone()),
                    Some(None) | None => Vec::new(),
                };
                for part in &old {
                    if let Some(Some(state)) = self.skus.get_mut(&part.sku) {
                        state.used_in.retain(|bundle| bundle != sku);
                    }
                }
                for part in parts {
                    if let Some(Some(state)) = self.skus.get_mut(&part.sku)
                        && !state.used_in.contains(sku)
                    {
                        state.used_in.push(sku.clone());
                    }
                }
            }
            Event::BundleTouched { sku, version, at, publish } => {
                if let Some(Some(state)) = self.skus.get_mut(sku) {
                    state.version = *version;
                    state.updated_at = *at;
                    if *publish {
                        state.publish_version = *version;
                    }
                }
            }
            Event::PublishAsked { sku } => {
                if let Some(Some(state)) = self.skus.get_mut(sku) {
                    state.publish_version = state.version;
                }
            }
            Event::Held(reservation) => {
                self.orders.insert(reservation.order.clone(), Some(reservation.id));
                self.reservations.insert(reservation.id, Some(reservation.clone()));
            }
            Event::Ended { id, status, at } => {
                if let Some(Some(found)) = self.reservations.get_mut(id) {
                    // An active reservation is the one of its order.
                    if found.status == ReservationStatus::Active {
                        self.orders.insert(found.order.clone(), None);
                    }
                    found.status = *status;
                    found.ended_at = Some(*at);
                }
            }
            Event::Extended { id, expires_at } => {
                if let Some(Some(found)) = self.reservations.get_mut(id) {
                    found.expires_at = *expires_at;
                }
            }
            Event::Listing(listing) => {
                let key = (listing.channel.clone(), listing.key.clone());
                self.listings.insert(key, Some(listing.clone()));
            }
            Event::LineBooked { channel, order, line, booked, .. } => {
                let key = (channel.clone(), order.clone(), line.clone());
                self.lines.insert(key, booked.clone());
            }
            Event::LowStock { .. }
            | Event::Oversold { .. }
            | Event::ConflictFlagged(_)
            | Event::ConflictClosed { .. } => {}
        }
    }

    /// Forgets what was loaded from rows that may have changed outside of decisions.
    pub fn forget_rows(&mut self) {
        self.listings.clear();
        self.lines.clear();
    }

    /// Takes the SKUs and reservations out of the book, for the memory that they came from.
    #[must_use]
    pub fn into_entries(self) -> Entries {
        Entries { skus: self.skus, reservations: self.reservations, orders: self.orders }
    }
}

/// What a finished book leaves behind.
#[derive(Debug, Default)]
pub struct Entries {
    /// SKUs as they are now; `None` = looked for and not there.
    pub skus: FxHashMap<Sku, Option<SkuState>>,
    /// Reservations likewise.
    pub reservations: FxHashMap<ReservationId, Option<Reservation>>,
    /// Active reservations by order likewise.
    pub orders: FxHashMap<OrderId, Option<ReservationId>>,
}

/// Applies a ledger line to the SKU that it is of.
pub fn apply_movement(state: &mut SkuState, movement: &Movement) {
    if movement.delta != crate::Delta::ZERO
        || movement.reserved_delta != crate::Delta::ZERO
        || movement.kind == crate::MovementKind::Count
    {
        let level = state.level_mut(&movement.location);
        level.on_hand = movement.location_quantity_after;
        level.reserved = movement.location_reserved_after;
    }
    state.version = movement.seq;
    if movement.publish {
        state.publish_version = movement.seq;
    }
    state.updated_at = movement.at;
    state.safety_stock = movement.safety_stock;
    state.low_stock_threshold = movement.low_stock_threshold;
    state.backorder_limit = movement.backorder_limit;
    state.low_since = match (state.is_low(), state.low_since) {
        (false, _) => None,
        (true, Some(since)) => Some(since),
        (true, None) => Some(movement.at),
    };
    state.check();
}
