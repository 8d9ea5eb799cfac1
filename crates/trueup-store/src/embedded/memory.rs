//! The ledger's current state in memory: what has become durable, and nothing else.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use trueup_core::{
    OrderId, Org, Reservation, ReservationId, ReservationStatus, Sku, SkuAnswer, SkuState,
    Timestamp, book::Entries,
};

/// One org's SKUs, its active reservations, and ended ones that are not in rows yet.
#[derive(Debug, Default)]
pub(super) struct OrgMemory {
    pub(super) skus: FxHashMap<Sku, SkuState>,
    pub(super) reservations: FxHashMap<ReservationId, Reservation>,
    pub(super) orders: FxHashMap<OrderId, ReservationId>,
}

/// Every org's memory, and the active reservations of all in order of expiry.
#[derive(Debug, Default)]
pub(super) struct Memory {
    orgs: FxHashMap<Org, OrgMemory>,
    expiries: BTreeSet<(Timestamp, Org, ReservationId)>,
    pub(super) skus: u64,
}

impl Memory {
    pub(super) fn org(&self, org: &Org) -> Option<&OrgMemory> {
        self.orgs.get(org)
    }

    pub(super) fn orgs(&self) -> impl Iterator<Item = (&Org, &OrgMemory)> {
        self.orgs.iter()
    }

    pub(super) fn sku(&self, org: &Org, sku: &Sku) -> Option<&SkuState> {
        self.orgs.get(org)?.skus.get(sku)
    }

    /// Returns a SKU with the states of its parts.
    pub(super) fn answer(&self, org: &Org, sku: &Sku) -> Option<SkuAnswer> {
        let memory = self.orgs.get(org)?;
        let (sku, state) = memory.skus.get_key_value(sku)?;
        let parts = state.parts.iter().map(|part| memory.skus.get(&part.sku).cloned()).collect();
        Some(SkuAnswer { sku: sku.clone(), state: state.clone(), parts })
    }

    /// Returns how many reservations are active.
    pub(super) fn active(&self) -> usize {
        self.expiries.len()
    }

    /// Returns when the next active reservation is due.
    pub(super) fn next_expiry(&self) -> Timestamp {
        self.expiries.first().map_or(Timestamp::MAX, |(at, _, _)| *at)
    }

    /// Returns reservations that are due, the first `max` of them, by org.
    pub(super) fn due(&self, now: Timestamp, max: usize) -> Vec<(Org, Vec<ReservationId>)> {
        let mut due: Vec<(Org, Vec<ReservationId>)> = Vec::new();
        for (at, org, id) in self.expiries.iter().take(max) {
            if *at > now {
                break;
            }
            match due.iter_mut().find(|(known, _)| known == org) {
                Some((_, ids)) => ids.push(*id),
                None => due.push((org.clone(), vec![*id])),
            }
        }
        due
    }

    /// Takes over what a batch's decisions have left.
    pub(super) fn merge(&mut self, org: &Org, entries: Entries) {
        let memory = self.orgs.entry(org.clone()).or_default();
        for (sku, state) in entries.skus {
            let Some(state) = state else { continue };
            if memory.skus.insert(sku, state).is_none() {
                self.skus += 1;
            }
        }
        for (id, reservation) in entries.reservations {
            let Some(reservation) = reservation else { continue };
            let active = reservation.status == ReservationStatus::Active;
            let old = memory.reservations.get(&id);
            let was = old.filter(|old| old.status == ReservationStatus::Active);
            if let Some(was) = was {
                if active && was.expires_at == reservation.expires_at {
                    memory.reservations.insert(id, reservation);
                    continue;
                }
                self.expiries.remove(&(was.expires_at, org.clone(), id));
            }
            if active {
                self.expiries.insert((reservation.expires_at, org.clone(), id));
            }
            memory.reservations.insert(id, reservation);
        }
        for (order, active) in entries.orders {
            match active {
                Some(id) => {
                    memory.orders.insert(order, id);
                }
                None => {
                    memory.orders.remove(&order);
                }
            }
        }
    }

    /// Lets go of a reservation that ended like this and is in rows now; one that lives again
    /// or ended otherwise meanwhile stays.
    pub(super) fn forget_ended(
        &mut self,
        org: &Org,
        id: ReservationId,
        status: ReservationStatus,
        at: Timestamp,
    ) {
        let Some(memory) = self.orgs.get_mut(org) else { return };
        let same = |found: &Reservation| found.status == status && found.ended_at == Some(at);
        if memory.reservations.get(&id).is_some_and(same) {
            memory.reservations.remove(&id);
        }
    }
}
