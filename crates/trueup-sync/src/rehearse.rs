//! What settling readings would do: decided as the ledger would, on a copy that is thrown away.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use trueup_core::{
    Answer, Book, ChannelId, Command, LineBooked, ListingKey, ListingReading, ListingState,
    Location, Moment, OrderId, Reconcile, ReconcileAction, Reconciled, Reservation, ReservationId,
    Sku, SkuState, Source, Strategy, Timestamp, book,
};
use trueup_store::ListingView;

use crate::impact::Impact;

/// How a batch of readings is to be settled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settling {
    pub(crate) read_at: Timestamp,
    pub(crate) settle_ms: i64,
    pub(crate) strategy: Option<Strategy>,
}

/// Says what settling readings of a channel would do.
pub(crate) fn readings(
    channel: &ChannelId,
    now: Timestamp,
    settling: Settling,
    known: &[(ListingView, i64)],
) -> Vec<Reconciled> {
    let reading = |(view, observed): &(ListingView, i64)| ListingReading {
        key: view.mapping.key.clone(),
        observed: *observed,
    };
    let command = Command::Reconcile(Reconcile {
        channel: channel.clone(),
        read_at: settling.read_at,
        settle_ms: settling.settle_ms,
        strategy: settling.strategy,
        readings: known.iter().map(reading).collect(),
    });
    let mut copy = Book::new();
    let Ok(()) = copy.load(&command, &Copied::new(known));
    let moment = Moment { now, actor: Arc::from("sync"), source: Source::Pull };
    match trueup_core::decide(&mut copy, &command, &moment) {
        Ok(Answer::Reconciled(done)) => done,
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// Counts what settling a reading would change; returns whether it changes anything.
pub(crate) fn weigh(impact: &mut Impact, view: &ListingView, item: &Reconciled) -> bool {
    match item.action {
        ReconcileAction::Push => {
            impact.tell_over(view, Some(item.observed), item.quantity);
            true
        }
        // All channels are told what one of them changed.
        ReconcileAction::Adopted if !view.mapping.channel_fulfilled => {
            impact.adopted += 1;
            impact.tell_over(view, Some(item.expected), item.quantity);
            true
        }
        ReconcileAction::Adopted | ReconcileAction::Matched | ReconcileAction::Pending => false,
        ReconcileAction::Conflict => {
            impact.conflicts += 1;
            false
        }
    }
}

/// Counts what settling readings would change.
pub(crate) fn weigh_all(impact: &mut Impact, known: &[(ListingView, i64)], done: &[Reconciled]) {
    let by_key: BTreeMap<&ListingKey, &Reconciled> =
        done.iter().map(|item| (&item.key, item)).collect();
    for (view, _) in known {
        if let Some(item) = by_key.get(&view.mapping.key) {
            weigh(impact, view, item);
        }
    }
}

/// What was loaded of the ledger, as a source for a rehearsal.
struct Copied<'a> {
    listings: BTreeMap<&'a ListingKey, &'a ListingState>,
    skus: BTreeMap<&'a Sku, &'a SkuState>,
}

impl<'a> Copied<'a> {
    fn new(known: &'a [(ListingView, i64)]) -> Self {
        let mut copied = Self { listings: BTreeMap::new(), skus: BTreeMap::new() };
        for (view, _) in known {
            copied.listings.insert(&view.mapping.key, &view.state);
            let Some(answer) = &view.sku else { continue };
            copied.skus.insert(&answer.sku, &answer.state);
            for (part, state) in answer.state.parts.iter().zip(&answer.parts) {
                if let Some(state) = state {
                    copied.skus.insert(&part.sku, state);
                }
            }
        }
        copied
    }
}

impl book::Source for Copied<'_> {
    type Error = Infallible;

    fn sku(&self, sku: &Sku) -> Result<Option<SkuState>, Infallible> {
        Ok(self.skus.get(sku).map(|state| (*state).clone()))
    }

    fn reservation(&self, _: ReservationId) -> Result<Option<Reservation>, Infallible> {
        Ok(None)
    }

    fn active_of_order(&self, _: &OrderId) -> Result<Option<ReservationId>, Infallible> {
        Ok(None)
    }

    fn order_is_sold(&self, _: &OrderId) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn listing(&self, _: &ChannelId, key: &ListingKey) -> Result<Option<ListingState>, Infallible> {
        Ok(self.listings.get(key).map(|state| (*state).clone()))
    }

    fn order_line(
        &self,
        _: &ChannelId,
        _: &str,
        _: &str,
    ) -> Result<Option<LineBooked>, Infallible> {
        Ok(None)
    }

    fn moved_since(&self, _: &Sku, _: &Location, _: Timestamp) -> Result<book::Since, Infallible> {
        Ok(book::Since::default())
    }
}
