//! The decisions: a loaded book, a command and a moment give an answer and facts, or a refusal.
//!
//! A refused command leaves the book as it was. Nothing here reads anything but its arguments.

mod channel;
mod order;
mod reserve;
mod stock;

use std::sync::Arc;

use crate::{
    Answer, Book, Command, Delta, Event, Location, Moment, MovementKind, OutOfRange, Quantity,
    Rejection, Sku, SkuState, event::Movement, state::LOCATIONS_PER_SKU_MAX,
};

/// Decides one command on a book that has been loaded for it.
///
/// # Errors
/// A [`Rejection`] when the command is refused; nothing has changed then.
pub fn decide(book: &mut Book, command: &Command, moment: &Moment) -> Result<Answer, Rejection> {
    match command {
        Command::SetOnHand(set) => stock::set_on_hand(book, set, moment),
        Command::Adjust(adjust) => stock::adjust(book, adjust, moment),
        Command::Bulk { items, atomic: false } => Ok(stock::bulk(book, items, moment)),
        Command::Bulk { items, atomic: true } => stock::bulk_atomic(book, items, moment),
        Command::SetBundle { sku, parts, if_version, reason } => {
            stock::set_bundle(book, sku, parts, *if_version, reason.as_ref(), moment)
        }
        Command::Publish { skus } => stock::publish(book, skus),
        Command::Reserve(wanted) => reserve::reserve(book, wanted, moment)
            .map(|(reservation, outcome)| Answer::Reserved(reservation, outcome)),
        Command::ReserveBatch(all) => {
            let each = all.iter().map(|wanted| reserve::reserve(book, wanted, moment)).collect();
            Ok(Answer::ReservedBatch(each))
        }
        Command::Release { id } => reserve::release(book, *id, moment).map(Answer::Reservation),
        Command::Commit { id, reacquire } => {
            reserve::commit(book, *id, *reacquire, moment).map(Answer::Reservation)
        }
        Command::Extend { id, ttl_seconds } => {
            reserve::extend(book, *id, *ttl_seconds, moment).map(Answer::Reservation)
        }
        Command::Expire { ids } => {
            let retired = ids.iter().filter(|id| reserve::expire_if_due(book, **id, moment));
            Ok(Answer::Expired(retired.count()))
        }
        Command::ChannelOrder(order) => order::order(book, order, moment),
        Command::Reconcile(reconcile) => channel::reconcile(book, reconcile, moment),
        Command::MarkSent { channel, items } => {
            channel::mark_sent(book, channel, items, moment);
            Ok(Answer::Done)
        }
        Command::Settle { channel, items } => {
            channel::settle(book, channel, items, moment);
            Ok(Answer::Done)
        }
        Command::Resolve { channel, key, resolution, note } => {
            channel::resolve(book, channel, key, *resolution, note.as_ref(), moment)
        }
        Command::Reopen(reopen) => channel::reopen(book, reopen, moment),
    }
}

/// A ledger line about to be written, before its sums are known.
struct Line<'a> {
    sku: &'a Sku,
    location: &'a Location,
    kind: MovementKind,
    delta: Delta,
    reserved_delta: Delta,
    publish: bool,
    reason: Option<Arc<str>>,
    reference: Option<Arc<str>>,
    settings: crate::SkuSettings,
}

impl<'a> Line<'a> {
    fn new(sku: &'a Sku, location: &'a Location, kind: MovementKind) -> Self {
        Self {
            sku,
            location,
            kind,
            delta: Delta::ZERO,
            reserved_delta: Delta::ZERO,
            publish: true,
            reason: None,
            reference: None,
            settings: crate::SkuSettings::default(),
        }
    }
}

/// Returns whether a change keeps every sum in range and the locations within their limit.
fn check_line(
    state: Option<&SkuState>,
    location: &Location,
    delta: Delta,
    reserved_delta: Delta,
) -> Result<(), Rejection> {
    let fresh = SkuState::new();
    let state = state.unwrap_or(&fresh);
    let reserved_delta = held_with(location, delta, reserved_delta);
    state.totals().after(delta, reserved_delta)?;
    match state.level(location) {
        Some(level) => {
            let here = crate::Totals { on_hand: level.on_hand, reserved: level.reserved };
            here.after(delta, reserved_delta)?;
            Ok(())
        }
        None if state.levels.len() >= LOCATIONS_PER_SKU_MAX => {
            Err(Rejection::TooManyLocations { max: LOCATIONS_PER_SKU_MAX })
        }
        None => Ok(crate::Totals::default().after(delta, reserved_delta).map(|_| ())?),
    }
}

/// Returns the change of reserved that goes with a change: what stands in quarantine is held,
/// all of it and nothing else.
fn held_with(location: &Location, delta: Delta, reserved_delta: Delta) -> Delta {
    if location.is_quarantine() { delta } else { reserved_delta }
}

/// Writes a ledger line whose change [`check_line`] has let pass, and what follows from it:
/// bundles that are touched, stock that is low, stock that is oversold.
fn write_line(book: &mut Book, line: Line<'_>, moment: &Moment) -> Result<(), OutOfRange> {
    let fresh = SkuState::new();
    let before = book.sku(line.sku).unwrap_or(&fresh);
    let reserved_delta = held_with(line.location, line.delta, line.reserved_delta);
    let totals = before.totals().after(line.delta, reserved_delta)?;
    let level = before.level(line.location);
    let here = level.map_or_else(crate::Totals::default, |level| crate::Totals {
        on_hand: level.on_hand,
        reserved: level.reserved,
    });
    let here = here.after(line.delta, reserved_delta)?;
    let was_low = before.low_since.is_some();
    let was_oversold = before.oversold_by();
    let bundles = before.used_in.clone();
    let movement = Movement {
        sku: line.sku.clone(),
        seq: before.version + 1,
        at: moment.now,
        kind: line.kind,
        location: line.location.clone(),
        delta: line.delta,
        reserved_delta,
        quantity_after: totals.on_hand,
        reserved_after: totals.reserved,
        location_quantity_after: here.on_hand,
        location_reserved_after: here.reserved,
        safety_stock: line.settings.safety_stock.unwrap_or(before.safety_stock),
        low_stock_threshold: line
            .settings
            .low_stock_threshold
            .unwrap_or(before.low_stock_threshold),
        backorder_limit: line.settings.backorder_limit.unwrap_or(before.backorder_limit),
        publish: line.publish,
        reason: line.reason,
        actor: moment.actor.clone(),
        source: moment.source,
        reference: line.reference,
    };
    let publish = movement.publish;
    book.emit(Event::Moved(movement));
    for bundle in bundles {
        touch_bundle(book, bundle, publish, moment);
    }
    alert(book, line.sku, was_low, was_oversold, moment);
    Ok(())
}

fn touch_bundle(book: &mut Book, sku: Sku, publish: bool, moment: &Moment) {
    let version = book.sku(&sku).map_or(0, |state| state.version) + 1;
    book.emit(Event::BundleTouched { sku, version, at: moment.now, publish });
}

fn alert(book: &mut Book, sku: &Sku, was_low: bool, was_oversold: Quantity, moment: &Moment) {
    let Some(after) = book.sku(sku) else { return };
    let oversold = after.oversold_by();
    let low = match (was_low, after.low_since, after.low_stock_threshold) {
        (false, Some(_), Some(threshold)) => Some((after.totals().on_hand, threshold)),
        (_, _, _) => None,
    };
    if let Some((quantity, threshold)) = low {
        book.emit(Event::LowStock { sku: sku.clone(), quantity, threshold, at: moment.now });
    }
    if oversold > was_oversold {
        book.emit(Event::Oversold { sku: sku.clone(), by: oversold, at: moment.now });
    }
}
