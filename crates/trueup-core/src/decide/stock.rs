//! Counts, adjustments, bulk updates and bundles.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Line, check_line, write_line};
use crate::{
    Adjust, Answer, Book, Delta, Event, Location, Moment, Movement, MovementKind, OutOfRange, Part,
    Quantity, Rejection, SetOnHand, Sku, SkuAnswer, SkuState,
    state::{BUNDLE_PARTS_MAX, BUNDLES_PER_PART_MAX},
};

pub(super) fn set_on_hand(
    book: &mut Book,
    set: &SetOnHand,
    moment: &Moment,
) -> Result<Answer, Rejection> {
    let delta = check_set(book, set)?;
    write_set(book, set, delta, moment)?;
    Ok(answer(book, &set.sku))
}

/// Returns by how much the count changes on hand, or why it is refused.
fn check_set(book: &Book, set: &SetOnHand) -> Result<Delta, Rejection> {
    let state = book.sku(&set.sku);
    check_version(state, set.if_version)?;
    check_not_bundle(state, &set.sku)?;
    let delta = count_delta(book, set, state)?;
    check_line(state, &set.location, delta, Delta::ZERO)?;
    Ok(delta)
}

/// A count is true when it was taken: what moved since is applied on top of it, and one that was
/// taken later stands. So the same count posted twice is one count.
fn count_delta(
    book: &Book,
    set: &SetOnHand,
    state: Option<&SkuState>,
) -> Result<Delta, OutOfRange> {
    let before = state.and_then(|state| state.level(&set.location)).map(|level| level.on_hand);
    let since = match set.counted_at {
        Some(at) => {
            let key = (set.sku.clone(), set.location.clone(), at);
            let since = book.moved.get(&key).copied().unwrap_or_default();
            if since.recounted {
                return Ok(Delta::ZERO);
            }
            Delta::new(since.moved).ok_or(OutOfRange)?
        }
        None => Delta::ZERO,
    };
    set.quantity.delta().plus(since)?.minus(before.unwrap_or(Delta::ZERO))
}

fn write_set(
    book: &mut Book,
    set: &SetOnHand,
    delta: Delta,
    moment: &Moment,
) -> Result<(), OutOfRange> {
    // One line: neither the old settings with the new number nor the other way round ever held.
    let mut line = Line::new(&set.sku, &set.location, MovementKind::Count);
    line.settings = set.settings;
    line.delta = delta;
    line.publish = set.publish;
    line.reason.clone_from(&set.reason);
    line.reference = set.counted_at.map(Movement::reference_of_count);
    write_line(book, line, moment)
}

pub(super) fn adjust(
    book: &mut Book,
    adjust: &Adjust,
    moment: &Moment,
) -> Result<Answer, Rejection> {
    let state = book.sku(&adjust.sku);
    let known = state.ok_or_else(|| Rejection::SkuNotFound(adjust.sku.clone()))?;
    check_version(state, adjust.if_version)?;
    check_not_bundle(state, &adjust.sku)?;
    check_line(state, &adjust.location, adjust.delta, Delta::ZERO)?;
    let on_hand = known.level(&adjust.location).map_or(Delta::ZERO, |level| level.on_hand);
    let after = on_hand.plus(adjust.delta)?;
    if after < Delta::ZERO && adjust.delta < Delta::ZERO {
        let sku = adjust.sku.clone();
        return Err(Rejection::BelowZero { sku, delta: adjust.delta, on_hand });
    }
    let mut line = Line::new(&adjust.sku, &adjust.location, MovementKind::Adjust);
    line.delta = adjust.delta;
    line.publish = adjust.publish;
    line.reason.clone_from(&adjust.reason);
    write_line(book, line, moment)?;
    Ok(answer(book, &adjust.sku))
}

pub(super) fn bulk(book: &mut Book, items: &[SetOnHand], moment: &Moment) -> Answer {
    let mut outcomes = Vec::with_capacity(items.len());
    for set in items {
        let outcome = check_set(book, set)
            .and_then(|delta| Ok(write_set(book, set, delta, moment)?))
            .map(|()| version(book, &set.sku));
        outcomes.push((set.sku.clone(), outcome));
    }
    Answer::Bulk(outcomes)
}

/// All or nothing: every item is checked against the book as it is before the first is written.
///
/// A SKU and location that stands there twice is checked once more as it is written; the sums of
/// counts cannot leave their range by that, because a count sets and does not add.
pub(super) fn bulk_atomic(
    book: &mut Book,
    items: &[SetOnHand],
    moment: &Moment,
) -> Result<Answer, Rejection> {
    let mut new_sums: FxHashMap<&Sku, Delta> = FxHashMap::default();
    for set in items {
        let delta = check_set(book, set)?;
        let sum = new_sums.entry(&set.sku).or_default();
        *sum = sum.plus(delta)?;
        check_line(book.sku(&set.sku), &set.location, *sum, Delta::ZERO)?;
    }
    let mut outcomes = Vec::with_capacity(items.len());
    for set in items {
        let state = book.sku(&set.sku);
        let delta = count_delta(book, set, state)?;
        write_set(book, set, delta, moment)?;
        outcomes.push((set.sku.clone(), Ok(version(book, &set.sku))));
    }
    Ok(Answer::Bulk(outcomes))
}

pub(super) fn set_bundle(
    book: &mut Book,
    sku: &Sku,
    parts: &[Part],
    if_version: Option<u64>,
    reason: Option<&Arc<str>>,
    moment: &Moment,
) -> Result<Answer, Rejection> {
    let state = book.sku(sku);
    check_version(state, if_version)?;
    if parts.is_empty() && state.is_none() {
        return Err(Rejection::SkuNotFound(sku.clone()));
    }
    check_bundle(book, sku, parts)?;
    let location = Location::main();
    let mut line = Line::new(sku, &location, MovementKind::Bundle);
    line.reason = reason.cloned();
    write_line(book, line, moment)?;
    let version_before = book.sku(sku).map_or(0, |state| state.version);
    book.emit(Event::BundleDefined { sku: sku.clone(), parts: parts.to_vec() });
    debug_assert_eq!(version_before, version(book, sku));
    Ok(answer(book, sku))
}

fn check_bundle(book: &Book, sku: &Sku, parts: &[Part]) -> Result<(), Rejection> {
    let invalid = |sku: &Sku, why| Rejection::BundlePartInvalid { sku: sku.clone(), why };
    if let Some(state) = book.sku(sku) {
        let empty =
            |level: &crate::Level| level.on_hand == Delta::ZERO && level.reserved == Quantity::ZERO;
        if !state.levels.iter().all(empty) {
            return Err(Rejection::SkuHasStock(sku.clone()));
        }
        if !state.used_in.is_empty() && !parts.is_empty() {
            return Err(invalid(sku, "it is itself a part of a bundle"));
        }
    }
    for (index, part) in parts.iter().enumerate() {
        if part.sku == *sku {
            return Err(invalid(&part.sku, "a bundle cannot be a part of itself"));
        }
        if part.quantity == Quantity::ZERO {
            return Err(invalid(&part.sku, "at least 1 is needed"));
        }
        if parts[..index].iter().any(|earlier| earlier.sku == part.sku) {
            return Err(invalid(&part.sku, "it stands there twice"));
        }
        match book.sku(&part.sku) {
            None => return Err(Rejection::SkuNotFound(part.sku.clone())),
            Some(state) if state.is_bundle() => {
                return Err(invalid(&part.sku, "a bundle cannot be a part"));
            }
            Some(state) if state.used_in.len() >= BUNDLES_PER_PART_MAX => {
                return Err(Rejection::TooManyParts { max: BUNDLES_PER_PART_MAX });
            }
            Some(_) => {}
        }
    }
    if parts.len() > BUNDLE_PARTS_MAX {
        return Err(Rejection::TooManyParts { max: BUNDLE_PARTS_MAX });
    }
    Ok(())
}

pub(super) fn publish(book: &mut Book, skus: &[Sku]) -> Result<Answer, Rejection> {
    if let Some(unknown) = skus.iter().find(|sku| book.sku(sku).is_none()) {
        return Err(Rejection::SkuNotFound(unknown.clone()));
    }
    for sku in skus {
        let behind = book.sku(sku).is_some_and(|s| s.publish_version < s.version);
        if behind {
            book.emit(Event::PublishAsked { sku: sku.clone() });
        }
    }
    Ok(Answer::Done)
}

fn check_version(state: Option<&SkuState>, expected: Option<u64>) -> Result<(), Rejection> {
    let actual = state.map_or(0, |state| state.version);
    match expected {
        Some(expected) if expected != actual => {
            Err(Rejection::VersionMismatch { expected, actual })
        }
        Some(_) | None => Ok(()),
    }
}

fn check_not_bundle(state: Option<&SkuState>, sku: &Sku) -> Result<(), Rejection> {
    match state {
        Some(state) if state.is_bundle() => Err(Rejection::BundleHasNoStock(sku.clone())),
        Some(_) | None => Ok(()),
    }
}

fn version(book: &Book, sku: &Sku) -> u64 {
    book.sku(sku).map_or(0, |state| state.version)
}

pub(super) fn answer(book: &Book, sku: &Sku) -> Answer {
    let state = book.sku(sku).cloned().unwrap_or_default();
    let parts = state.parts.iter().map(|part| book.sku(&part.sku).cloned()).collect();
    Answer::Sku(Box::new(SkuAnswer { sku: sku.clone(), state, parts }))
}
