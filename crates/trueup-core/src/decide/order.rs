//! What channels sold: orders are booked as totals, so that seeing one twice books nothing twice.
//!
//! A unit of a line is held (ordered, not paid for), sold, come back, or voided (cancelled before
//! it was sold). Units go from one to the next and never back, whatever the order of the notices.

use std::sync::Arc;

use smallvec::SmallVec;

use super::channel::spread;
use super::{Line, check_line, write_line};
use crate::{
    Answer, Book, ChannelLine, ChannelOrder, Delta, Event, Hold, LineBooked, ListingState,
    Location, Moment, MovementKind, OutOfRange, QUANTITY_MAX, Quantity, Rejection, RestockPolicy,
    Rules, Sent, Sku, Timestamp,
};

/// Books the growth of an order's totals, each line wholly or not at all.
pub(super) fn order(
    book: &mut Book,
    order: &ChannelOrder,
    moment: &Moment,
) -> Result<Answer, Rejection> {
    if let Some(line) = order.lines.iter().find(|line| book.sku(&line.sku).is_none()) {
        return Err(Rejection::SkuNotFound(line.sku.clone()));
    }
    for line in &order.lines {
        plan_line(book, order, line)?;
    }
    for line in &order.lines {
        let Some(planned) = plan_line(book, order, line)? else { continue };
        write(book, order, line, planned, moment)?;
    }
    Ok(Answer::Done)
}

/// What a line adds to what was booked of it, in units of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Growth {
    /// Units sold since, of which `from_hold` were held.
    sold: u64,
    from_hold: u64,
    /// Units come back since.
    restocked: u64,
    /// Whether units were cancelled that the channel had taken off its number: whether it has
    /// put them up for sale again, nobody knows.
    is_unsure: bool,
    /// How the line stands after.
    sold_total: u64,
    restocked_total: u64,
    voided_total: u64,
    held_total: u64,
}

/// Compares a line with what was booked of it.
///
/// Cancelled units are first those that nothing was booked of, then those that are held, then
/// those that were sold, which come back; any others are remembered, so that a late notice does
/// not sell them.
fn growth(before: &LineBooked, line: &ChannelLine) -> Growth {
    let restocked = line.restocked.max(before.restocked);
    let fresh = line.sold.saturating_sub(before.voided).saturating_sub(before.sold);
    let mut cancelled = line.cancelled.saturating_sub(before.voided).saturating_sub(restocked);
    let mut take = |from: u64| {
        let taken = cancelled.min(from);
        cancelled -= taken;
        taken
    };
    let never_booked = take(fresh);
    let sold = fresh - never_booked;
    let from_hold = sold.min(before.held);
    let held_before = take(before.held - from_hold);
    let back = take((before.sold + sold).saturating_sub(restocked));
    let voided = before.voided.saturating_add(never_booked + held_before);
    let voided_total = voided.saturating_add(cancelled).min(QUANTITY_MAX);
    let sold_total = before.sold + sold;
    Growth {
        sold,
        from_hold,
        restocked: restocked + back - before.restocked,
        is_unsure: back + held_before > 0,
        sold_total,
        restocked_total: restocked + back,
        voided_total,
        held_total: line.held.saturating_sub(sold_total).saturating_sub(voided_total),
    }
}

/// A ledger line to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    sku: Sku,
    location: Location,
    kind: MovementKind,
    delta: Delta,
    reserved_delta: Delta,
}

/// What booking a line does.
struct Planned {
    steps: Vec<Step>,
    booked: LineBooked,
    provisional: Delta,
    /// By how much the channel shows more for it, in units of the listing.
    shown: Delta,
    /// Whether the channel may show units that are not for sale, or not show some that are.
    owes_push: bool,
}

/// Plans a line; `None` where it says nothing new. Nothing is written.
fn plan_line(
    book: &Book,
    order: &ChannelOrder,
    line: &ChannelLine,
) -> Result<Option<Planned>, Rejection> {
    let key = (order.channel.clone(), order.order.clone(), line.line.clone());
    let before = book.lines.get(&key).cloned().unwrap_or_default();
    let growth = growth(&before, line);
    let found = line.listing.as_ref().and_then(|key| book.listing(&order.channel, key));
    let mut plan = Plan {
        book,
        parts: parts(book, &line.sku),
        units: line.units.delta(),
        home: found.map_or(&order.location, |listing| &listing.home),
        rules: found.map(|listing| listing.rules.clone()).unwrap_or_default(),
        steps: Vec::new(),
        holds: before.holds.clone(),
        provisional: found.map_or(Delta::ZERO, |listing| listing.provisional),
        shown: Delta::ZERO,
    };
    plan.sell(growth.sold, growth.from_hold)?;
    plan.hold(before.held - growth.from_hold, growth.held_total)?;
    plan.take_back(growth.restocked, order.restock)?;
    let Plan { steps, holds, provisional, shown, .. } = plan;
    let booked = LineBooked {
        sold: growth.sold_total,
        restocked: growth.restocked_total,
        voided: growth.voided_total,
        held: growth.held_total,
        holds,
    };
    if booked == before {
        return Ok(None);
    }
    for step in &steps {
        check_line(book.sku(&step.sku), &step.location, step.delta, step.reserved_delta)?;
    }
    let is_kept_back = growth.restocked > 0 && order.restock != RestockPolicy::Restock;
    let owes_push = is_kept_back || growth.is_unsure;
    Ok(Some(Planned { steps, booked, provisional, shown, owes_push }))
}

/// Returns what one unit of a SKU takes: a bundle's parts, or the SKU itself.
pub(super) fn parts(book: &Book, sku: &Sku) -> Vec<(Sku, Delta)> {
    match book.sku(sku) {
        Some(state) if state.is_bundle() => {
            let part = |part: &crate::Part| (part.sku.clone(), part.quantity.delta());
            state.parts.iter().map(part).collect()
        }
        Some(_) | None => vec![(sku.clone(), Quantity::ONE.delta())],
    }
}

/// A plan in the making.
struct Plan<'a> {
    book: &'a Book,
    parts: Vec<(Sku, Delta)>,
    /// Units of the SKU in one of the listing.
    units: Delta,
    home: &'a Location,
    rules: Rules,
    steps: Vec<Step>,
    holds: SmallVec<[Hold; 1]>,
    provisional: Delta,
    shown: Delta,
}

impl Plan<'_> {
    /// Sells units, those that are held first.
    fn sell(&mut self, sold: u64, from_hold: u64) -> Result<(), OutOfRange> {
        let held = times(from_hold, self.units)?;
        let news = times(sold - from_hold, self.units)?.negated();
        let explained = explained(news, self.provisional);
        self.provisional = self.provisional.minus(explained)?;
        let news = news.minus(explained)?;
        self.show(news)?;
        for (sku, per_unit) in self.parts.clone() {
            let wanted = product(held, per_unit)?;
            let taken = self.take_holds(&sku, wanted, MovementKind::ChannelSale, true)?;
            let left = product(news, per_unit)?.minus(wanted.minus(taken)?)?;
            self.change(&sku, MovementKind::ChannelSale, left)?;
        }
        Ok(())
    }

    /// Holds more or fewer units than now.
    fn hold(&mut self, now: u64, then: u64) -> Result<(), OutOfRange> {
        let more = times(then.saturating_sub(now), self.units)?;
        let fewer = times(now.saturating_sub(then), self.units)?;
        // What was adopted as gone, or as come back, is here after all, and held or let go.
        for (change, sign) in [(more.negated(), -1), (fewer, 1)] {
            let explained = explained(change, self.provisional);
            self.provisional = self.provisional.minus(explained)?;
            self.show(change.minus(explained)?)?;
            for (sku, per_unit) in self.parts.clone() {
                let back = product(explained, per_unit)?.negated();
                self.change(&sku, MovementKind::ChannelAdopted, back)?;
                let units = product(change, per_unit)?;
                match sign {
                    1 if then == 0 => {}
                    1 => {
                        self.take_holds(&sku, units, MovementKind::Release, false)?;
                    }
                    _ => self.take_stock(&sku, units.negated())?,
                }
            }
        }
        if then == 0 {
            // All of it, whatever the bundle or the listing takes by now.
            for hold in std::mem::take(&mut self.holds) {
                let reserved_delta = hold.quantity.delta().negated();
                self.step(
                    hold.sku,
                    hold.location,
                    MovementKind::Release,
                    Delta::ZERO,
                    reserved_delta,
                );
            }
        }
        Ok(())
    }

    /// Takes units back as the policy says. What was adopted as come back is at home already.
    fn take_back(&mut self, restocked: u64, policy: RestockPolicy) -> Result<(), OutOfRange> {
        let back = times(restocked, self.units)?;
        let explained = explained(back, self.provisional);
        self.provisional = self.provisional.minus(explained)?;
        self.show(back.minus(explained)?)?;
        let (home, apart) = match policy {
            RestockPolicy::Restock => (back.minus(explained)?, Delta::ZERO),
            RestockPolicy::Quarantine => (explained.negated(), back),
            RestockPolicy::Nothing => (explained.negated(), Delta::ZERO),
        };
        for (sku, per_unit) in self.parts.clone() {
            self.change(&sku, MovementKind::ChannelReturn, product(home, per_unit)?)?;
            let apart = product(apart, per_unit)?;
            let place = Location::quarantine();
            self.step(sku, place, MovementKind::ChannelReturn, apart, apart);
        }
        Ok(())
    }

    /// Notes that the channel shows so many units of the SKU more.
    fn show(&mut self, units: Delta) -> Result<(), OutOfRange> {
        let listed = Delta::new(units.get() / self.units.get().max(1)).ok_or(OutOfRange)?;
        self.shown = self.shown.plus(listed)?;
        Ok(())
    }

    /// Changes on hand where the rules draw from.
    fn change(&mut self, sku: &Sku, kind: MovementKind, units: Delta) -> Result<(), OutOfRange> {
        let here = |location: &Location, on_hand: Delta| {
            let planned = self.planned(sku, location, |step| step.delta);
            on_hand.get() + planned
        };
        for (location, delta) in spread(self.book, sku, units, self.home, &self.rules, here) {
            self.step(sku.clone(), location, kind, delta, Delta::ZERO);
        }
        Ok(())
    }

    /// Holds units where nobody holds them yet; what is not there is owed at home.
    fn take_stock(&mut self, sku: &Sku, units: Delta) -> Result<(), OutOfRange> {
        let state = self.book.sku(sku);
        let free = |location: &Location, on_hand: Delta| {
            let level = state.and_then(|state| state.level(location));
            let reserved = level.map_or(0, |level| level.reserved.delta().get());
            let planned = self.planned(sku, location, |step| step.delta)
                - self.planned(sku, location, |s| s.reserved_delta);
            on_hand.get() - reserved + planned
        };
        let places = spread(self.book, sku, units.negated(), self.home, &self.rules, free);
        for (location, delta) in places {
            let quantity = delta.negated();
            self.step(sku.clone(), location.clone(), MovementKind::Reserve, Delta::ZERO, quantity);
            let quantity = quantity.floored();
            let same = |hold: &&mut Hold| hold.sku == *sku && hold.location == location;
            match self.holds.iter_mut().find(same) {
                Some(hold) => hold.quantity = hold.quantity.plus(quantity)?,
                None => self.holds.push(Hold { sku: sku.clone(), location, quantity }),
            }
        }
        Ok(())
    }

    /// Takes up to so many units out of the holds, as sold or not; returns how many there were.
    fn take_holds(
        &mut self,
        sku: &Sku,
        wanted: Delta,
        kind: MovementKind,
        sold: bool,
    ) -> Result<Delta, OutOfRange> {
        let mut left = wanted.floored();
        let mut holds = std::mem::take(&mut self.holds);
        for hold in holds.iter_mut().filter(|hold| hold.sku == *sku) {
            let taken = hold.quantity.min(left);
            left = left.delta().minus(taken.delta())?.floored();
            hold.quantity = hold.quantity.delta().minus(taken.delta())?.floored();
            let change = taken.delta().negated();
            let delta = if sold { change } else { Delta::ZERO };
            self.step(sku.clone(), hold.location.clone(), kind, delta, change);
        }
        holds.retain(|hold| hold.quantity != Quantity::ZERO);
        self.holds = holds;
        wanted.minus(left.delta())
    }

    fn step(
        &mut self,
        sku: Sku,
        location: Location,
        kind: MovementKind,
        delta: Delta,
        reserved_delta: Delta,
    ) {
        if delta != Delta::ZERO || reserved_delta != Delta::ZERO {
            self.steps.push(Step { sku, location, kind, delta, reserved_delta });
        }
    }

    fn planned(&self, sku: &Sku, location: &Location, of: impl Fn(&Step) -> Delta) -> i64 {
        let here = self.steps.iter().filter(|s| s.sku == *sku && s.location == *location);
        here.map(|step| of(step).get()).sum()
    }
}

fn times(count: u64, units: Delta) -> Result<Delta, OutOfRange> {
    let count = Quantity::new(count).ok_or(OutOfRange)?;
    product(count.delta(), units)
}

/// Returns a change of units times a number of units.
pub(super) fn product(one: Delta, other: Delta) -> Result<Delta, OutOfRange> {
    one.get().checked_mul(other.get()).and_then(Delta::new).ok_or(OutOfRange)
}

/// Returns the part of a change that an adopted difference has already carried into master.
fn explained(change: Delta, provisional: Delta) -> Delta {
    if change < Delta::ZERO && provisional < Delta::ZERO {
        return change.max(provisional);
    }
    if change > Delta::ZERO && provisional > Delta::ZERO {
        return change.min(provisional);
    }
    Delta::ZERO
}

fn write(
    book: &mut Book,
    order: &ChannelOrder,
    line: &ChannelLine,
    planned: Planned,
    moment: &Moment,
) -> Result<(), Rejection> {
    let reference: Arc<str> = Arc::from(format!("{}:{}", order.channel, order.order));
    for step in &planned.steps {
        let mut written = Line::new(&step.sku, &step.location, step.kind);
        written.delta = step.delta;
        written.reserved_delta = step.reserved_delta;
        written.reference = Some(reference.clone());
        write_line(book, written, moment)?;
    }
    let found = line.listing.as_ref().and_then(|key| book.listing(&order.channel, key)).cloned();
    if let Some(listing) = found {
        let in_base = is_in_base(&listing, order.occurred_at, planned.shown);
        let base = if in_base == Some(true) {
            listing.base
        } else {
            listing.base.map(|base| base + planned.shown.get())
        };
        let mut after = ListingState { base, provisional: planned.provisional, ..listing.clone() };
        if planned.shown != Delta::ZERO || planned.owes_push {
            after.booked_at = Some(moment.now);
        }
        if planned.owes_push || in_base.is_none() {
            after.forced = true;
            after.epoch = listing.epoch.wrapping_add(1);
        }
        if planned.owes_push {
            // They may come on top of the number that is under way.
            let more = planned.shown.get().max(0);
            after.in_flight = listing
                .in_flight
                .map(|sent| Sent { quantity: sent.quantity.saturating_add(more), ..sent });
        }
        if after != listing {
            book.emit(Event::Listing(after));
        }
    }
    book.emit(Event::LineBooked {
        channel: order.channel.clone(),
        order: order.order.clone(),
        line: line.line.clone(),
        sku: line.sku.clone(),
        booked: planned.booked,
        at: moment.now,
    });
    Ok(())
}

/// Vendors tell an order's time in whole seconds.
const VENDOR_TICK_MS: i64 = 1_000;

/// Returns whether the channel was told or read after the order: then the base has the order in
/// it, and is not to be changed by it once more. `None` = nobody knows: it is told its number anew.
///
/// Within the second that the vendor tells, the higher base is taken: what the channel then seems
/// to have moved by itself can lower the stock and not raise it.
fn is_in_base(
    listing: &ListingState,
    occurred_at: Option<Timestamp>,
    shown: Delta,
) -> Option<bool> {
    let (Some(base_at), Some(occurred_at)) = (listing.base_at, occurred_at) else {
        return Some(false);
    };
    if base_at <= occurred_at {
        return Some(false);
    }
    let is_sure = shown <= Delta::ZERO || base_at > occurred_at.plus_millis(VENDOR_TICK_MS);
    is_sure.then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was booked (sold, restocked, voided, held), what a line says (sold, restocked, held,
    /// cancelled), and how it stands after, with the units sold out of holds and come back.
    #[test]
    fn units_go_from_held_to_sold_to_back_in_any_order_of_notices() {
        const ALL: u64 = u64::MAX;
        let max = QUANTITY_MAX;
        #[rustfmt::skip]
        let table = [
            // A pending order, again, paid, and late.
            ((0, 0, 0, 0), (0, 0, 3, 0),   (0, 0, 0, 3), 0, 0),
            ((0, 0, 0, 3), (0, 0, 3, 0),   (0, 0, 0, 3), 0, 0),
            ((0, 0, 0, 3), (3, 0, 0, 0),   (3, 0, 0, 0), 3, 0),
            ((3, 0, 0, 0), (0, 0, 3, 0),   (3, 0, 0, 0), 0, 0),
            // Cancelled while pending, late notices of it, and never seen before.
            ((0, 0, 0, 3), (0, 0, 0, ALL), (0, 0, max, 0), 0, 0),
            ((0, 0, max, 0), (0, 0, 3, 0), (0, 0, max, 0), 0, 0),
            ((0, 0, max, 0), (3, 0, 0, 0), (0, 0, max, 0), 0, 0),
            ((0, 0, max, 0), (0, 0, 0, ALL), (0, 0, max, 0), 0, 0),
            ((0, 0, 0, 0), (3, 0, 0, 3),   (0, 0, 3, 0), 0, 0),
            // Cancelled after it was sold: what was sold comes back once.
            ((3, 0, 0, 0), (0, 0, 0, ALL), (3, 3, max, 0), 0, 3),
            ((3, 3, max, 0), (0, 0, 0, ALL), (3, 3, max, 0), 0, 0),
            ((3, 1, 0, 0), (3, 1, 0, 3),   (3, 3, 0, 0), 0, 2),
            // One of three cancelled while pending, the others paid.
            ((0, 0, 0, 3), (0, 0, 3, 1),   (0, 0, 1, 2), 0, 0),
            ((0, 0, 1, 2), (3, 0, 0, 1),   (2, 0, 1, 0), 2, 0),
            ((0, 0, 0, 3), (3, 0, 0, 1),   (2, 0, 1, 0), 2, 0),
            // Sales and refunds without any of it.
            ((0, 0, 0, 0), (2, 0, 0, 0),   (2, 0, 0, 0), 0, 0),
            ((2, 0, 0, 0), (2, 1, 0, 0),   (2, 1, 0, 0), 0, 1),
            ((2, 1, 0, 0), (2, 0, 0, 0),   (2, 1, 0, 0), 0, 0),
        ];
        for ((sold, restocked, voided, held), says, after, from_hold, back) in table {
            let before = LineBooked { sold, restocked, voided, held, holds: SmallVec::new() };
            let line = ChannelLine {
                line: Arc::from("1"),
                listing: None,
                sku: Sku::new("A").unwrap(),
                units: Quantity::new(1).unwrap(),
                sold: says.0,
                restocked: says.1,
                held: says.2,
                cancelled: says.3,
            };
            let grown = growth(&before, &line);
            let stands =
                (grown.sold_total, grown.restocked_total, grown.voided_total, grown.held_total);
            assert_eq!(stands, after, "{before:?} and {says:?}");
            assert_eq!(
                (grown.from_hold, grown.restocked),
                (from_hold, back),
                "{before:?} {says:?}"
            );
        }
    }
}
