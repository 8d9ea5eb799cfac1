//! A ledger in a map: loads a book for each command and keeps what it leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use trueup_core::{
    Answer, Book, ChannelId, Command, Event, Item, LineBooked, ListingKey, ListingState, Location,
    Moment, Movement, OrderId, Quantity, Rejection, Reservation, ReservationId, ReservationStatus,
    Reserve, Rules, SetOnHand, Sku, SkuSettings, SkuState, Source, Strategy, Timestamp, decide,
};

pub(crate) fn sku(text: &str) -> Sku {
    Sku::new(text).unwrap()
}

pub(crate) fn units(units: u64) -> Quantity {
    Quantity::new(units).unwrap()
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) skus: BTreeMap<Sku, SkuState>,
    pub(crate) reservations: BTreeMap<ReservationId, Reservation>,
    pub(crate) orders: BTreeMap<OrderId, ReservationId>,
    pub(crate) listings: BTreeMap<(ChannelId, ListingKey), ListingState>,
    pub(crate) lines: BTreeMap<(String, String, String), LineBooked>,
    pub(crate) movements: Vec<Movement>,
    pub(crate) events: Vec<Event>,
    pub(crate) now: i64,
}

impl trueup_core::book::Source for World {
    type Error = std::convert::Infallible;

    fn sku(&self, sku: &Sku) -> Result<Option<SkuState>, Self::Error> {
        Ok(self.skus.get(sku).cloned())
    }

    fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Self::Error> {
        Ok(self.reservations.get(&id).cloned())
    }

    fn active_of_order(&self, order: &OrderId) -> Result<Option<ReservationId>, Self::Error> {
        Ok(self.orders.get(order).copied())
    }

    fn order_is_sold(&self, order: &OrderId) -> Result<bool, Self::Error> {
        let mut all = self.reservations.values();
        Ok(all.any(|r| r.order == *order && r.status == ReservationStatus::Committed))
    }

    fn listing(
        &self,
        channel: &ChannelId,
        key: &ListingKey,
    ) -> Result<Option<ListingState>, Self::Error> {
        Ok(self.listings.get(&(channel.clone(), key.clone())).cloned())
    }

    fn order_line(
        &self,
        channel: &ChannelId,
        order: &str,
        line: &str,
    ) -> Result<Option<LineBooked>, Self::Error> {
        let key = (channel.to_string(), order.to_owned(), line.to_owned());
        Ok(self.lines.get(&key).cloned())
    }

    fn moved_since(
        &self,
        sku: &Sku,
        location: &Location,
        at: Timestamp,
    ) -> Result<trueup_core::book::Since, Self::Error> {
        let since =
            self.movements.iter().filter(|m| m.sku == *sku && m.location == *location && m.at > at);
        let mut sum = trueup_core::book::Since::default();
        since.for_each(|movement| sum.note(movement, at));
        Ok(sum)
    }
}

impl World {
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            now: Timestamp::from_micros(self.now),
            actor: Arc::from("test"),
            source: Source::Api,
        }
    }

    pub(crate) fn run(&mut self, command: &Command) -> Result<Answer, Rejection> {
        let mut book = Book::new();
        let Ok(()) = book.load(command, self);
        let result = decide(&mut book, command, &self.moment());
        let events = book.take_events();
        for event in &events {
            match event {
                Event::Moved(movement) => self.movements.push(movement.clone()),
                Event::Listing(listing) => {
                    let key = (listing.channel.clone(), listing.key.clone());
                    self.listings.insert(key, listing.clone());
                }
                Event::LineBooked { channel, order, line, booked, .. } => {
                    let key = (channel.to_string(), order.to_string(), line.to_string());
                    self.lines.insert(key, booked.clone());
                }
                _ => {}
            }
        }
        self.events.extend(events);
        let entries = book.into_entries();
        for (sku, state) in entries.skus {
            if let Some(state) = state {
                self.skus.insert(sku, state);
            }
        }
        for (id, reservation) in entries.reservations {
            if let Some(reservation) = reservation {
                self.reservations.insert(id, reservation);
            }
        }
        for (order, active) in entries.orders {
            match active {
                Some(id) => drop(self.orders.insert(order, id)),
                None => drop(self.orders.remove(&order)),
            }
        }
        self.check();
        result
    }

    /// I3: the sums of movements are the levels, and active holds are what is reserved.
    pub(crate) fn check(&self) {
        for (sku, state) in &self.skus {
            state.check();
            for level in &state.levels {
                let here =
                    self.movements.iter().filter(|m| m.sku == *sku && m.location == level.location);
                let (on_hand, reserved) = here.fold((0, 0), |(on_hand, reserved), m| {
                    (on_hand + m.delta.get(), reserved + m.reserved_delta.get())
                });
                assert_eq!(on_hand, level.on_hand.get(), "{sku} on hand");
                assert_eq!(reserved, level.reserved.delta().get(), "{sku} reserved");
            }
            let held: u64 = self
                .reservations
                .values()
                .filter(|r| r.status == ReservationStatus::Active)
                .flat_map(|r| &r.holds)
                .filter(|h| h.sku == *sku)
                .map(|h| h.quantity.get())
                .sum();
            let pending: u64 = self
                .lines
                .values()
                .flat_map(|line| &line.holds)
                .filter(|h| h.sku == *sku)
                .map(|h| h.quantity.get())
                .sum();
            let quarantine = state.level(&Location::quarantine());
            let apart = quarantine.map_or(0, |level| {
                assert_eq!(level.on_hand, level.reserved.delta(), "{sku} in quarantine");
                level.reserved.get()
            });
            let held = held + pending + apart;
            assert_eq!(held, state.totals().reserved.get(), "{sku} held");
        }
    }

    pub(crate) fn put(&mut self, name: &str, quantity: u64) -> Result<Answer, Rejection> {
        self.run(&Command::SetOnHand(set(name, quantity)))
    }

    pub(crate) fn reserve(
        &mut self,
        id: u128,
        order: &str,
        items: &[(&str, u64)],
    ) -> Result<Answer, Rejection> {
        let item = |(name, quantity): &(&str, u64)| Item {
            sku: sku(name),
            location: None,
            quantity: units(*quantity),
        };
        self.run(&Command::Reserve(Reserve {
            id: ReservationId(id),
            order: OrderId::new(order).unwrap(),
            items: items.iter().map(item).collect(),
            ttl_seconds: 900,
        }))
    }

    pub(crate) fn numbers(&self, name: &str) -> (i64, u64, u64) {
        let state = &self.skus[&sku(name)];
        let totals = state.totals();
        (totals.on_hand.get(), totals.reserved.get(), state.free().floored().get())
    }
}

pub(crate) fn set(name: &str, quantity: u64) -> SetOnHand {
    SetOnHand {
        sku: sku(name),
        quantity: units(quantity),
        location: Location::main(),
        reason: None,
        settings: SkuSettings::default(),
        counted_at: None,
        if_version: None,
        publish: true,
    }
}

pub(crate) fn listing(name: &str, strategy: Strategy, rules: Rules) -> ListingState {
    ListingState {
        channel: ChannelId::new("shop").unwrap(),
        key: ListingKey::new(name).unwrap(),
        sku: sku(name),
        rules,
        strategy,
        channel_fulfilled: false,
        follows: false,
        home: Location::main(),
        base: None,
        base_at: None,
        booked_at: None,
        in_flight: None,
        acked_version: 0,
        acked_at: None,
        observed: None,
        provisional: trueup_core::Delta::ZERO,
        forced: false,
        epoch: 0,
        in_conflict: false,
    }
}
