//! What channels show and what they were told.

use std::sync::Arc;

use super::order::{parts, product};
use super::{Line, check_line, stock, write_line};
use crate::{
    Answer, Book, Carried, ChannelId, ConflictFacts, Delta, Event, ListingKey, ListingPush,
    ListingState, Location, Moment, MovementKind, Observed, OutOfRange, PushResult, Quantity,
    Reconcile, ReconcileAction, Reconciled, Rejection, Reopen, Resolution, Sent, Sku,
    publish::{Rules, Stock, Terms},
    reconcile::{Circumstances, Verdict, compare},
};

/// Returns the published number of a SKU that was loaded, with its terms.
#[must_use]
pub(crate) fn terms(book: &Book, sku: &Sku, rules: &Rules) -> Option<Terms> {
    let state = book.sku(sku)?;
    if !state.is_bundle() {
        return Some(rules.publish(Stock::Single(state)));
    }
    let parts: Vec<_> = state.parts.iter().map(|part| book.sku(&part.sku)).collect();
    Some(rules.publish(Stock::Bundle(state, &parts)))
}

fn expected(book: &Book, listing: &ListingState) -> i64 {
    let terms = terms(book, &listing.sku, &listing.rules);
    terms.map_or(0, |terms| i64::try_from(terms.published).unwrap_or(i64::MAX))
}

/// A change of a SKU's stock by a channel.
struct Change<'a> {
    sku: &'a Sku,
    kind: MovementKind,
    units: Delta,
    home: &'a Location,
    reference: &'a Arc<str>,
}

/// Changes on hand of a SKU, or of a bundle's parts, where the rules draw from.
fn change_stock(
    book: &mut Book,
    change: &Change<'_>,
    rules: &Rules,
    reason: Option<&Arc<str>>,
    moment: &Moment,
) -> Result<(), Rejection> {
    if change.units == Delta::ZERO {
        return Ok(());
    }
    if book.sku(change.sku).is_none() {
        return Ok(());
    }
    for (sku, per_unit) in &parts(book, change.sku) {
        let units = product(change.units, *per_unit)?;
        for (location, delta) in spread(book, sku, units, change.home, rules, as_it_stands) {
            check_line(book.sku(sku), &location, delta, Delta::ZERO)?;
            let mut line = Line::new(sku, &location, change.kind);
            line.delta = delta;
            line.reason = reason.cloned();
            line.reference = Some(change.reference.clone());
            write_line(book, line, moment)?;
        }
    }
    Ok(())
}

/// Spreads a change over locations: units that come stand at home; units that go are taken from
/// home, then from the other places that feed the listing, and what is owed is owed at home.
///
/// `there` says how many units a place with so many on hand can give.
pub(super) fn spread(
    book: &Book,
    sku: &Sku,
    units: Delta,
    home: &Location,
    rules: &Rules,
    there: impl Fn(&Location, Delta) -> i64,
) -> Vec<(Location, Delta)> {
    let Some(state) = book.sku(sku) else { return Vec::new() };
    let mut left = units.get();
    let mut spread: Vec<(Location, i64)> = vec![(home.clone(), 0)];
    if left < 0 {
        let mut levels: Vec<_> =
            state.levels.iter().filter(|level| rules.feeds(&level.location)).collect();
        levels.sort_by_key(|level| level.location != *home);
        for level in levels {
            let take = there(&level.location, level.on_hand).max(0).min(-left);
            match spread.iter_mut().find(|(location, _)| *location == level.location) {
                Some((_, here)) => *here -= take,
                None => spread.push((level.location.clone(), -take)),
            }
            left += take;
        }
    }
    spread[0].1 += left;
    spread
        .into_iter()
        .filter(|(_, delta)| *delta != 0)
        .filter_map(|(location, delta)| Delta::new(delta).map(|delta| (location, delta)))
        .collect()
}

/// Says that a place can give what is on hand.
fn as_it_stands(_: &Location, on_hand: Delta) -> i64 {
    on_hand.get()
}

/// Settles readings one by one; a listing that is gone meanwhile is left out of the answer.
pub(super) fn reconcile(
    book: &mut Book,
    reconcile: &Reconcile,
    moment: &Moment,
) -> Result<Answer, Rejection> {
    let mut items = Vec::with_capacity(reconcile.readings.len());
    for reading in &reconcile.readings {
        let Some(listing) = book.listing(&reconcile.channel, &reading.key).cloned() else {
            continue;
        };
        items.push(settle_reading(book, reconcile, &listing, reading.observed, moment));
    }
    Ok(Answer::Reconciled(items))
}

fn settle_reading(
    book: &mut Book,
    reconcile: &Reconcile,
    listing: &ListingState,
    observed: i64,
    moment: &Moment,
) -> Reconciled {
    let strategy = reconcile.strategy.unwrap_or(listing.strategy);
    let master = on_hand(book, &listing.sku);
    if listing.follows {
        return note_shown(book, listing, observed, reconcile, strategy);
    }
    if listing.channel_fulfilled {
        return adopt_fulfilled(book, listing, observed, reconcile, moment);
    }
    let expected = expected(book, listing);
    let seen = Circumstances {
        expected,
        observed,
        read_at: reconcile.read_at,
        settle_ms: reconcile.settle_ms,
        strategy,
    };
    let version = book.sku(&listing.sku).map_or(0, |state| state.version);
    let reading = Observed { quantity: observed, at: reconcile.read_at };
    let mut after = ListingState { observed: Some(reading), ..listing.clone() };
    let verdict = if listing.in_conflict {
        Verdict::Conflict { moved: 0 }
    } else if listing.booked_at.is_some_and(|at| reconcile.read_at < at) {
        Verdict::TooEarly
    } else {
        match compare(listing, seen) {
            // What seems to be the channel's own change may be what came back.
            Verdict::Adopt { .. } | Verdict::Conflict { .. } if !listing.is_base_sure() => {
                Verdict::Behind
            }
            verdict => verdict,
        }
    };
    let action = match verdict {
        Verdict::Matched => {
            know(&mut after, reading);
            after.acked_version = version;
            after.forced = false;
            let landing = listing.in_flight.filter(|sent| {
                sent.quantity != observed
                    && reconcile.read_at < sent.at.plus_millis(reconcile.settle_ms)
            });
            after.in_flight = landing;
            ReconcileAction::Matched
        }
        Verdict::Behind | Verdict::PushOver { .. } => {
            owe_push(&mut after, reading);
            ReconcileAction::Push
        }
        Verdict::Adopt { moved } => match adopt(book, listing, moved, None, moment) {
            Ok(carried) => {
                know(&mut after, reading);
                after.in_flight = None;
                after.provisional = listing.provisional.plus(carried).unwrap_or(carried);
                ReconcileAction::Adopted
            }
            Err(_) => flag(book, &mut after, expected, master, moment),
        },
        Verdict::Conflict { .. } => flag(book, &mut after, expected, master, moment),
        Verdict::TooEarly => ReconcileAction::Pending,
    };
    let quantity = self::expected(book, listing);
    if action == ReconcileAction::Adopted {
        after.acked_version = book.sku(&listing.sku).map_or(0, |state| state.version);
        after.forced = quantity != observed;
    }
    if after != *listing {
        book.emit(Event::Listing(after));
    }
    Reconciled {
        key: listing.key.clone(),
        sku: listing.sku.clone(),
        master,
        observed,
        expected,
        strategy,
        action,
        quantity,
    }
}

/// Notes what a listing shows whose number is settled where it is told.
fn note_shown(
    book: &mut Book,
    listing: &ListingState,
    observed: i64,
    reconcile: &Reconcile,
    strategy: crate::Strategy,
) -> Reconciled {
    let reading = Observed { quantity: observed, at: reconcile.read_at };
    book.emit(Event::Listing(ListingState { observed: Some(reading), ..listing.clone() }));
    Reconciled {
        key: listing.key.clone(),
        sku: listing.sku.clone(),
        master: on_hand(book, &listing.sku),
        observed,
        expected: observed,
        strategy,
        action: ReconcileAction::Matched,
        quantity: observed,
    }
}

/// Takes a reading for what the channel shows.
fn know(after: &mut ListingState, reading: Observed) {
    after.base = Some(reading.quantity);
    after.base_at = Some(reading.at);
}

fn owe_push(after: &mut ListingState, reading: Observed) {
    know(after, reading);
    after.in_flight = None;
    after.forced = true;
    after.epoch = after.epoch.wrapping_add(1);
}

/// Carries a channel's own change into master; returns the units of the SKU carried.
fn adopt(
    book: &mut Book,
    listing: &ListingState,
    moved: i64,
    note: Option<&Arc<str>>,
    moment: &Moment,
) -> Result<Delta, Rejection> {
    let units = moved.checked_mul(listing.rules.units_per_listing.delta().get());
    let units = units.and_then(Delta::new).ok_or(OutOfRange)?;
    let reference: Arc<str> = Arc::from(listing.channel.as_str());
    let change = Change {
        sku: &listing.sku,
        kind: MovementKind::ChannelAdopted,
        units,
        home: &listing.home,
        reference: &reference,
    };
    change_stock(book, &change, &listing.rules, note, moment)?;
    Ok(units)
}

fn flag(
    book: &mut Book,
    after: &mut ListingState,
    expected: i64,
    master: i64,
    moment: &Moment,
) -> ReconcileAction {
    after.in_conflict = true;
    let facts = ConflictFacts {
        channel: after.channel.clone(),
        key: after.key.clone(),
        sku: after.sku.clone(),
        master,
        base: after.base,
        expected,
        observed: after.observed.map_or(0, |seen| seen.quantity),
        at: moment.now,
    };
    book.emit(Event::ConflictFlagged(facts));
    ReconcileAction::Conflict
}

/// Takes over what a channel stores and ships itself: the reading is the level of the channel's
/// own location.
fn adopt_fulfilled(
    book: &mut Book,
    listing: &ListingState,
    observed: i64,
    reconcile: &Reconcile,
    moment: &Moment,
) -> Reconciled {
    let location = Location::of_channel(&listing.channel);
    let master = on_hand(book, &listing.sku);
    let level = |book: &Book| {
        let state = book.sku(&listing.sku);
        state.and_then(|s| s.level(&location)).map_or(0, |level| level.on_hand.get())
    };
    let before = level(book);
    let change = Delta::new(observed.saturating_sub(before)).unwrap_or(Delta::ZERO);
    let mut action = ReconcileAction::Matched;
    let is_bundle = book.sku(&listing.sku).is_none_or(crate::SkuState::is_bundle);
    let fits = check_line(book.sku(&listing.sku), &location, change, Delta::ZERO).is_ok();
    if change != Delta::ZERO && fits && !is_bundle {
        let mut line = Line::new(&listing.sku, &location, MovementKind::ChannelAdopted);
        line.delta = change;
        line.reference = Some(Arc::from(listing.channel.as_str()));
        if write_line(book, line, moment).is_ok() {
            action = ReconcileAction::Adopted;
        }
    }
    let version = book.sku(&listing.sku).map_or(0, |state| state.version);
    book.emit(Event::Listing(ListingState {
        observed: Some(Observed { quantity: observed, at: reconcile.read_at }),
        base: Some(observed),
        base_at: Some(reconcile.read_at),
        acked_version: version,
        forced: false,
        in_flight: None,
        ..listing.clone()
    }));
    Reconciled {
        key: listing.key.clone(),
        sku: listing.sku.clone(),
        master,
        observed,
        expected: before,
        strategy: crate::Strategy::ChannelWins,
        action,
        quantity: level(book),
    }
}

fn on_hand(book: &Book, sku: &Sku) -> i64 {
    let Some(state) = book.sku(sku) else { return 0 };
    if !state.is_bundle() {
        return state.totals().on_hand.get();
    }
    let parts: Vec<_> = state.parts.iter().map(|part| book.sku(&part.sku)).collect();
    let whole = crate::publish::whole_bundles(state, &parts, |part| part.totals().on_hand);
    whole.delta().get()
}

pub(super) fn mark_sent(
    book: &mut Book,
    channel: &ChannelId,
    items: &[ListingPush],
    moment: &Moment,
) {
    for push in items {
        let Some(listing) = book.listing(channel, &push.key).cloned() else { continue };
        if listing.follows {
            continue;
        }
        let sent = Sent { quantity: push.quantity, version: push.version, at: moment.now };
        book.emit(Event::Listing(ListingState { in_flight: Some(sent), ..listing }));
    }
}

/// Notes outcomes; one that belongs to an older version than the acknowledged one is ignored.
pub(super) fn settle(
    book: &mut Book,
    channel: &ChannelId,
    items: &[(ListingPush, PushResult)],
    moment: &Moment,
) {
    for (push, result) in items {
        let Some(listing) = book.listing(channel, &push.key).cloned() else { continue };
        // What one that follows now was told before is seen where the number is told.
        if listing.follows || push.version < listing.acked_version {
            continue;
        }
        // Without a push it is a note that the channel shows this number already, or will: it
        // has not been told anything, and nothing newer is known of it.
        let told = listing.in_flight.filter(|sent| sent.version == push.version);
        let is_owed_since = listing.forced && listing.epoch != push.epoch;
        let acked = ListingState {
            acked_version: push.version,
            acked_at: if told.is_some() { Some(moment.now) } else { listing.acked_at },
            forced: is_owed_since,
            ..listing.clone()
        };
        let after = match result {
            PushResult::Applied => {
                let is_news = told.is_some() || listing.base != Some(push.quantity);
                let base_at = match told {
                    // What has come back since it was sent may be in it or not.
                    Some(sent) if is_owed_since => Some(sent.at),
                    _ if is_news => Some(moment.now),
                    _ => listing.base_at,
                };
                // With what has come back meanwhile, where it may have come on top.
                let shows = told.map_or(push.quantity, |sent| sent.quantity);
                ListingState { base: Some(shows), base_at, in_flight: None, ..acked }
            }
            PushResult::Accepted => acked,
            PushResult::NotApplied => {
                ListingState { in_flight: None, epoch: listing.epoch.wrapping_add(1), ..listing }
            }
            PushResult::Unknown => listing,
        };
        book.emit(Event::Listing(after));
    }
}

pub(super) fn resolve(
    book: &mut Book,
    channel: &ChannelId,
    key: &ListingKey,
    resolution: Resolution,
    note: Option<&Arc<str>>,
    moment: &Moment,
) -> Result<Answer, Rejection> {
    let listing = book.listing(channel, key).cloned().ok_or(Rejection::ListingNotFound)?;
    if !listing.in_conflict {
        return Err(Rejection::ConflictNotFound);
    }
    let nothing = Observed { quantity: 0, at: moment.now };
    let reading = listing.observed.unwrap_or(nothing);
    let mut after = ListingState { in_conflict: false, ..listing.clone() };
    match resolution {
        Resolution::Master => {}
        Resolution::Channel => {
            let base = listing.base.unwrap_or_else(|| expected(book, &listing));
            let carried = adopt(book, &listing, reading.quantity - base, note, moment)?;
            after.provisional = listing.provisional.plus(carried)?;
        }
        Resolution::Quantity(quantity) => {
            count(book, &listing, quantity, note, moment)?;
        }
    }
    owe_push(&mut after, reading);
    book.emit(Event::Listing(after));
    let (channel, key) = (channel.clone(), key.clone());
    book.emit(Event::ConflictClosed { channel, key, at: moment.now });
    Ok(stock::answer(book, &listing.sku))
}

/// Takes the end of a conflict back. What it changed of the master is put back: not what orders
/// have explained since, and no more than is free.
pub(super) fn reopen(
    book: &mut Book,
    reopen: &Reopen,
    moment: &Moment,
) -> Result<Answer, Rejection> {
    let listing = book.listing(&reopen.channel, &reopen.key).cloned();
    let listing = listing.ok_or(Rejection::ListingNotFound)?;
    if listing.in_conflict || listing.follows || listing.channel_fulfilled {
        return Err(Rejection::ConflictOpen);
    }
    let units = put_back(book, &listing, reopen.carried);
    let reference: Arc<str> = Arc::from(listing.channel.as_str());
    let kind = MovementKind::Adjust;
    let change =
        Change { sku: &listing.sku, kind, units, home: &listing.home, reference: &reference };
    change_stock(book, &change, &listing.rules, reopen.note.as_ref(), moment)?;
    let (provisional, moved) = match reopen.carried {
        Carried::Adopted(_) => {
            let per_listing = listing.rules.units_per_listing.delta().get().max(1);
            (listing.provisional.plus(units)?, -(units.get() / per_listing))
        }
        Carried::Nothing | Carried::Counted(_) => (listing.provisional, reopen.moved),
    };
    let shows = listing.base.unwrap_or_else(|| expected(book, &listing));
    // It is compared with what it would show if it had not moved by itself.
    let mut after = ListingState {
        provisional,
        base: Some(shows.saturating_sub(moved)),
        observed: Some(Observed { quantity: shows, at: moment.now }),
        in_flight: None,
        ..listing.clone()
    };
    let (expected, master) = (expected(book, &listing), on_hand(book, &listing.sku));
    flag(book, &mut after, expected, master, moment);
    book.emit(Event::Listing(after));
    match stock::answer(book, &listing.sku) {
        Answer::Sku(answer) => Ok(Answer::Reopened(answer, units)),
        other => Ok(other),
    }
}

/// Returns by how many units the master is put back.
fn put_back(book: &Book, listing: &ListingState, carried: Carried) -> Delta {
    let (carried, unexplained) = match carried {
        Carried::Nothing => return Delta::ZERO,
        Carried::Adopted(carried) => (carried.get(), listing.provisional.get()),
        Carried::Counted(carried) => (carried.get(), carried.get()),
    };
    let units = if carried < 0 {
        // What an order explained was sold.
        carried.saturating_neg().min(unexplained.saturating_neg().max(0))
    } else {
        let back = carried.min(unexplained.max(0)).min(free(book, &listing.sku));
        back.saturating_neg()
    };
    Delta::new(units).unwrap_or(Delta::ZERO)
}

/// Returns the units of a SKU, or whole bundles, that are promised to nobody.
fn free(book: &Book, sku: &Sku) -> i64 {
    let terms = terms(book, sku, &Rules::default());
    terms.map_or(0, |terms| i64::try_from(terms.available).unwrap_or(i64::MAX))
}

fn count(
    book: &mut Book,
    listing: &ListingState,
    quantity: Quantity,
    note: Option<&Arc<str>>,
    moment: &Moment,
) -> Result<(), Rejection> {
    let state = book.sku(&listing.sku);
    let state = state.ok_or_else(|| Rejection::SkuNotFound(listing.sku.clone()))?;
    if state.is_bundle() {
        return Err(Rejection::BundleHasNoStock(listing.sku.clone()));
    }
    // The number is of all places that feed the listing.
    let fed = state.levels.iter().filter(|level| listing.rules.feeds(&level.location));
    let mut on_hand = Delta::ZERO;
    for level in fed {
        on_hand = on_hand.plus(level.on_hand)?;
    }
    let delta = quantity.delta().minus(on_hand)?;
    let (home, rules) = (&listing.home, &listing.rules);
    let spread = spread(book, &listing.sku, delta, home, rules, as_it_stands);
    for (location, delta) in &spread {
        check_line(Some(state), location, *delta, Delta::ZERO)?;
    }
    for (location, delta) in spread {
        let mut line = Line::new(&listing.sku, &location, MovementKind::Count);
        line.delta = delta;
        line.reason = note.cloned();
        line.reference = Some(Arc::from(listing.channel.as_str()));
        write_line(book, line, moment)?;
    }
    Ok(())
}
