//! Reservations: hold, swap, release, commit, extend, expire.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Line, check_line, write_line};
use crate::{
    Book, Delta, Event, Location, Moment, MovementKind, OutOfRange, Quantity, Rejection,
    Reservation, ReservationId, ReservationStatus, Reserve, ReserveOutcome, Shortage, Sku,
    SkuState,
    state::{Hold, Item},
};

type Items = SmallVec<[Item; 1]>;
type Holds = SmallVec<[Hold; 1]>;

pub(super) fn reserve(
    book: &mut Book,
    wanted: &Reserve,
    moment: &Moment,
) -> Result<(Reservation, ReserveOutcome), Rejection> {
    let items = summed(&wanted.items)?;
    if let Some(item) = items.iter().find(|item| book.sku(&item.sku).is_none()) {
        return Err(Rejection::SkuNotFound(item.sku.clone()));
    }
    let due = book.active_of_order(&wanted.order).filter(|r| r.expires_at <= moment.now);
    if let Some(id) = due.map(|reservation| reservation.id) {
        expire_if_due(book, id, moment);
    }
    let old = book.active_of_order(&wanted.order).cloned();
    if let Some(old) = old.as_ref().filter(|old| old.items == items) {
        return Ok((old.clone(), ReserveOutcome::Unchanged));
    }
    let given_back = old.as_ref().map_or(&[] as &[Hold], |old| &old.holds);
    let holds = allocate(book, &items, given_back)?;
    let reservation = Reservation {
        id: old.as_ref().map_or(wanted.id, |old| old.id),
        order: wanted.order.clone(),
        status: ReservationStatus::Active,
        items,
        holds,
        created_at: old.as_ref().map_or(moment.now, |old| old.created_at),
        expires_at: moment.now.plus_seconds(wanted.ttl_seconds),
        ended_at: None,
    };
    let reference = reference(&reservation);
    write_swap(book, given_back, &reservation.holds, &reference, moment)?;
    book.emit(Event::Held(reservation.clone()));
    let outcome = if old.is_some() { ReserveOutcome::Replaced } else { ReserveOutcome::Created };
    Ok((reservation, outcome))
}

pub(super) fn release(
    book: &mut Book,
    id: ReservationId,
    moment: &Moment,
) -> Result<Reservation, Rejection> {
    expire_if_due(book, id, moment);
    let found = find(book, id)?;
    match found.status {
        ReservationStatus::Released | ReservationStatus::Expired => return Ok(found),
        ReservationStatus::Committed => return Err(Rejection::ReservationCommitted),
        ReservationStatus::Active => {}
    }
    end(book, &found, ReservationStatus::Released, moment)
}

pub(super) fn commit(
    book: &mut Book,
    id: ReservationId,
    reacquire: bool,
    moment: &Moment,
) -> Result<Reservation, Rejection> {
    expire_if_due(book, id, moment);
    let found = find(book, id)?;
    match found.status {
        ReservationStatus::Committed => Ok(found),
        ReservationStatus::Released => Err(Rejection::ReservationReleased),
        ReservationStatus::Active => end(book, &found, ReservationStatus::Committed, moment),
        ReservationStatus::Expired if reacquire => reacquire_and_commit(book, &found, moment),
        ReservationStatus::Expired => Err(Rejection::ReservationExpired),
    }
}

/// Takes the stock of an expired reservation again and sells it in the same step.
///
/// Where the order has made another reservation meanwhile, that one holds its stock or has sold
/// it: to commit this one too would sell twice.
fn reacquire_and_commit(
    book: &mut Book,
    expired: &Reservation,
    moment: &Moment,
) -> Result<Reservation, Rejection> {
    if book.active_of_order(&expired.order).is_some() || book.order_is_sold(&expired.order) {
        return Err(Rejection::ReservationExpired);
    }
    let holds = allocate(book, &expired.items, &[])?;
    let again =
        Reservation { status: ReservationStatus::Active, holds, ended_at: None, ..expired.clone() };
    write_swap(book, &[], &again.holds, &reference(&again), moment)?;
    book.emit(Event::Held(again.clone()));
    end(book, &again, ReservationStatus::Committed, moment)
}

pub(super) fn extend(
    book: &mut Book,
    id: ReservationId,
    ttl_seconds: u32,
    moment: &Moment,
) -> Result<Reservation, Rejection> {
    expire_if_due(book, id, moment);
    let found = find(book, id)?;
    match found.status {
        ReservationStatus::Active => {}
        ReservationStatus::Committed => return Err(Rejection::ReservationCommitted),
        ReservationStatus::Released => return Err(Rejection::ReservationReleased),
        ReservationStatus::Expired => return Err(Rejection::ReservationExpired),
    }
    let expires_at = moment.now.plus_seconds(ttl_seconds);
    book.emit(Event::Extended { id, expires_at });
    Ok(Reservation { expires_at, ..found })
}

/// Retires a reservation whose time has run out; returns whether it did.
pub(super) fn expire_if_due(book: &mut Book, id: ReservationId, moment: &Moment) -> bool {
    let due = book.reservation(id).filter(|found| {
        found.status == ReservationStatus::Active && found.expires_at <= moment.now
    });
    let Some(found) = due.cloned() else { return false };
    end(book, &found, ReservationStatus::Expired, moment).is_ok()
}

fn find(book: &Book, id: ReservationId) -> Result<Reservation, Rejection> {
    book.reservation(id).cloned().ok_or(Rejection::ReservationNotFound(id))
}

/// Ends an active reservation: its holds go, and with a commit the stock too.
fn end(
    book: &mut Book,
    found: &Reservation,
    status: ReservationStatus,
    moment: &Moment,
) -> Result<Reservation, Rejection> {
    let (kind, sold) = match status {
        ReservationStatus::Committed => (MovementKind::Commit, true),
        ReservationStatus::Expired => (MovementKind::Expire, false),
        ReservationStatus::Released | ReservationStatus::Active => (MovementKind::Release, false),
    };
    let delta_of = |hold: &Hold| {
        if sold { hold.quantity.delta().negated() } else { Delta::ZERO }
    };
    for hold in &found.holds {
        let freed = hold.quantity.delta().negated();
        check_line(book.sku(&hold.sku), &hold.location, delta_of(hold), freed)?;
    }
    let reference = reference(found);
    for hold in &found.holds {
        let mut line = Line::new(&hold.sku, &hold.location, kind);
        line.delta = delta_of(hold);
        line.reserved_delta = hold.quantity.delta().negated();
        line.reference = Some(reference.clone());
        write_line(book, line, moment)?;
    }
    book.emit(Event::Ended { id: found.id, status, at: moment.now });
    Ok(Reservation { status, ended_at: Some(moment.now), ..found.clone() })
}

/// Returns the items sorted, with those of one SKU and location added up.
fn summed(wanted: &[Item]) -> Result<Items, Rejection> {
    let mut items: Items = wanted.iter().cloned().collect();
    if items.len() < 2 {
        return Ok(items);
    }
    items.sort_unstable();
    let mut sums: Items = SmallVec::new();
    for item in items {
        match sums.last_mut().filter(|l| l.sku == item.sku && l.location == item.location) {
            Some(last) => last.quantity = last.quantity.plus(item.quantity)?,
            None => sums.push(item),
        }
    }
    Ok(sums)
}

/// What an allocation still has to work with, for one SKU.
struct Free<'a> {
    sku: &'a Sku,
    state: &'a SkuState,
    /// Units that may be promised over all of the merchant's own locations, backorder included.
    own: i64,
    /// Units taken so far by this allocation.
    taken: Holds,
    given_back: &'a [Hold],
}

impl<'a> Free<'a> {
    fn new(sku: &'a Sku, state: &'a SkuState, given_back: &'a [Hold]) -> Self {
        let totals = state.totals_where(|location| !location.is_channel_fulfilled());
        let back: u64 = given_back
            .iter()
            .filter(|hold| hold.sku == *sku && !hold.location.is_channel_fulfilled())
            .map(|hold| hold.quantity.get())
            .sum();
        let own = totals.free(state.safety_stock).get()
            + state.backorder_limit.delta().get()
            + back.cast_signed();
        Self { sku, state, own, taken: SmallVec::new(), given_back }
    }

    /// Returns the units on hand at a location that nobody holds, not counting backorders.
    fn at(&self, location: &Location) -> i64 {
        let here = |holds: &[Hold]| -> i64 {
            let holds = holds.iter().filter(|h| h.sku == *self.sku && h.location == *location);
            holds.map(|hold| hold.quantity.delta().get()).sum()
        };
        let level = self
            .state
            .level(location)
            .map_or(0, |level| level.on_hand.get() - level.reserved.delta().get());
        level + here(self.given_back) - here(&self.taken)
    }

    /// Returns the units that an item could have.
    fn available(&self, location: Option<&Location>) -> i64 {
        match location {
            None => self.own,
            Some(location) if location.is_quarantine() => 0,
            Some(location) if location.is_channel_fulfilled() => self.at(location),
            Some(location) => {
                let backorder = self.state.backorder_limit.delta().get();
                self.own.min(self.at(location) + backorder)
            }
        }
    }

    /// Takes units that are known to be available.
    fn take(&mut self, location: Option<&Location>, quantity: i64) {
        if !location.is_some_and(Location::is_channel_fulfilled) {
            self.own -= quantity;
        }
        if let Some(location) = location {
            self.hold(location, quantity);
            return;
        }
        let mut left = quantity;
        for place in self.places() {
            let here = left.min(self.at(&place).max(0));
            self.hold(&place, here);
            left -= here;
        }
        // What is left is backordered; it is owed where stock stands by default.
        let home = self.places().into_iter().next().unwrap_or_else(Location::main);
        self.hold(&home, left);
    }

    /// Returns the merchant's own locations: the default one first.
    fn places(&self) -> Vec<Location> {
        let main = Location::main();
        let own = self.state.levels.iter().map(|level| &level.location);
        let mut places: Vec<Location> =
            own.filter(|l| !l.is_channel_fulfilled() && !l.is_quarantine()).cloned().collect();
        places.sort_by_key(|location| *location != main);
        places
    }

    fn hold(&mut self, location: &Location, quantity: i64) {
        let Some(quantity) = u64::try_from(quantity).ok().and_then(Quantity::new) else { return };
        if quantity == Quantity::ZERO {
            return;
        }
        match self.taken.iter_mut().find(|hold| hold.location == *location) {
            Some(hold) => hold.quantity = hold.quantity.plus(quantity).unwrap_or(hold.quantity),
            None => {
                let (sku, location) = (self.sku.clone(), location.clone());
                self.taken.push(Hold { sku, location, quantity });
            }
        }
    }
}

/// Finds stock for all items, or says what there is too little of.
///
/// `given_back` are the holds of the same order, which its own shopper may use again.
fn allocate(book: &Book, items: &[Item], given_back: &[Hold]) -> Result<Holds, Rejection> {
    let mut free: Vec<Free<'_>> = Vec::new();
    let mut shortages = Vec::new();
    // What must come from one place goes first: the others can do without it.
    let (placed, anywhere): (Vec<&Item>, Vec<&Item>) =
        items.iter().partition(|item| item.location.is_some());
    for item in placed.into_iter().chain(anywhere) {
        let needs = needs(book, item)?;
        let mut available = u64::MAX;
        for (sku, state, per_item) in &needs {
            let known = free.iter().position(|free| free.sku == *sku);
            let at = known.unwrap_or_else(|| {
                free.push(Free::new(sku, state, given_back));
                free.len() - 1
            });
            let units = free[at].available(item.location.as_ref());
            let units = u64::try_from(units).unwrap_or(0);
            available = available.min(units / per_item.get().max(1));
        }
        if available < item.quantity.get() {
            let (sku, requested) = (item.sku.clone(), item.quantity.get());
            shortages.push(Shortage { sku, requested, available });
            continue;
        }
        for (sku, _, per_item) in &needs {
            let units = item.quantity.times(*per_item)?;
            if let Some(free) = free.iter_mut().find(|free| free.sku == *sku) {
                free.take(item.location.as_ref(), units.delta().get());
            }
        }
    }
    if !shortages.is_empty() {
        return Err(Rejection::InsufficientStock(shortages));
    }
    let mut holds: Holds = SmallVec::new();
    for free in free {
        for hold in free.taken {
            check_line(Some(free.state), &hold.location, Delta::ZERO, hold.quantity.delta())?;
            holds.push(hold);
        }
    }
    Ok(holds)
}

type Need<'a> = (&'a Sku, &'a SkuState, Quantity);

/// Returns what one unit of an item takes: itself, or a bundle's parts.
fn needs<'a>(book: &'a Book, item: &'a Item) -> Result<SmallVec<[Need<'a>; 1]>, Rejection> {
    let not_found = |sku: &Sku| Rejection::SkuNotFound(sku.clone());
    let state = book.sku(&item.sku).ok_or_else(|| not_found(&item.sku))?;
    let mut needs = SmallVec::new();
    if !state.is_bundle() {
        let one = Quantity::new(1).ok_or(OutOfRange)?;
        needs.push((&item.sku, state, one));
        return Ok(needs);
    }
    for part in &state.parts {
        let of_part = book.sku(&part.sku).ok_or_else(|| not_found(&part.sku))?;
        needs.push((&part.sku, of_part, part.quantity));
    }
    Ok(needs)
}

/// Writes the lines that lead from the old holds to the new ones, net per SKU and location.
fn write_swap(
    book: &mut Book,
    old: &[Hold],
    new: &[Hold],
    reference: &Arc<str>,
    moment: &Moment,
) -> Result<(), OutOfRange> {
    let same_place = |a: &Hold, b: &Hold| a.sku == b.sku && a.location == b.location;
    for hold in old.iter().filter(|hold| !new.iter().any(|n| same_place(n, hold))) {
        let freed = hold.quantity.delta().negated();
        write_hold(book, hold, freed, reference, moment)?;
    }
    for hold in new {
        let held = old.iter().find(|o| same_place(o, hold));
        let before = held.map_or(Delta::ZERO, |held| held.quantity.delta());
        write_hold(book, hold, hold.quantity.delta().minus(before)?, reference, moment)?;
    }
    Ok(())
}

fn write_hold(
    book: &mut Book,
    hold: &Hold,
    change: Delta,
    reference: &Arc<str>,
    moment: &Moment,
) -> Result<(), OutOfRange> {
    if change == Delta::ZERO {
        return Ok(());
    }
    let more = change > Delta::ZERO;
    let kind = if more { MovementKind::Reserve } else { MovementKind::Release };
    let mut line = Line::new(&hold.sku, &hold.location, kind);
    line.reserved_delta = change;
    line.reference = Some(reference.clone());
    write_line(book, line, moment)
}

fn reference(reservation: &Reservation) -> Arc<str> {
    Arc::from(reservation.order.as_str())
}
