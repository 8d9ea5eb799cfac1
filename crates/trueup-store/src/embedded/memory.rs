//! The ledger's current state in memory: what has become durable, and nothing else.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use trueup_core::{
    OrderId, Org, Reservation, ReservationId, ReservationStatus, Sku, SkuAnswer, SkuState,
    Timestamp, book::Entries,
};

/// A map whose entries lie side by side: its free places cost a few bytes each and not an entry,
/// which with very many SKUs is half of the memory.
type Dense<K, V> = IndexMap<K, V, FxBuildHasher>;

/// One SKU with the place of its history.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) state: SkuState,
    /// The number of its newest ledger line; 0 where it has none.
    pub(super) line: i64,
}

/// One org's SKUs and its active reservations.
#[derive(Debug, Default)]
pub(super) struct OrgMemory {
    pub(super) skus: Dense<Sku, Kept>,
    pub(super) reservations: Dense<ReservationId, Reservation>,
    pub(super) orders: FxHashMap<OrderId, ReservationId>,
}

/// Active reservations as they are read, apart from their SKUs.
#[derive(Debug, Default)]
pub(super) struct Active {
    orgs: FxHashMap<Org, OrgMemory>,
    expiries: Expiries,
}

/// Active reservations in order of expiry. Many expire at the same instant: their ids tell them
/// apart sooner than the texts of their orgs.
type Expiries = BTreeSet<(Timestamp, ReservationId, Org)>;

impl Active {
    pub(super) fn of(active: Vec<(Org, Reservation)>) -> Self {
        let expiry = |(org, held): &(Org, Reservation)| (held.expires_at, held.id, org.clone());
        let expiries = active.iter().map(expiry).collect();
        let mut orgs: FxHashMap<Org, OrgMemory> = FxHashMap::default();
        for (org, reservation) in active {
            let memory = orgs.entry(org).or_default();
            memory.orders.insert(reservation.order.clone(), reservation.id);
            memory.reservations.insert(reservation.id, reservation);
        }
        Self { orgs, expiries }
    }
}

/// Every org's memory, and the active reservations of all in order of expiry.
#[derive(Debug, Default)]
pub(super) struct Memory {
    orgs: FxHashMap<Org, OrgMemory>,
    expiries: Expiries,
    pub(super) skus: u64,
}

impl Memory {
    pub(super) fn org(&self, org: &Org) -> Option<&OrgMemory> {
        self.orgs.get(org)
    }

    pub(super) fn orgs(&self) -> impl Iterator<Item = (&Org, &OrgMemory)> {
        self.orgs.iter()
    }

    pub(super) fn sku(&self, org: &Org, sku: &Sku) -> Option<&Kept> {
        self.orgs.get(org)?.skus.get(sku)
    }

    pub(super) fn sku_mut(&mut self, org: &Org, sku: &Sku) -> Option<&mut Kept> {
        self.orgs.get_mut(org)?.skus.get_mut(sku)
    }

    /// Returns a SKU with the states of its parts.
    pub(super) fn answer(&self, org: &Org, sku: &Sku) -> Option<SkuAnswer> {
        let memory = self.orgs.get(org)?;
        let (_, sku, kept) = memory.skus.get_full(sku)?;
        let part = |sku: &Sku| memory.skus.get(sku).map(|part| part.state.clone());
        let parts = kept.state.parts.iter().map(|of| part(&of.sku)).collect();
        Some(SkuAnswer { sku: sku.clone(), state: kept.state.clone(), parts })
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
        for (at, id, org) in self.expiries.iter().take(max) {
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

    /// Takes over a SKU as it was read.
    pub(super) fn put(&mut self, org: &Org, sku: Sku, kept: Kept) {
        self.orgs.entry(org.clone()).or_default().skus.insert(sku, kept);
        self.skus += 1;
    }

    /// Takes over the active reservations as they were read, once SKUs are there.
    pub(super) fn hold(&mut self, active: Active) {
        self.expiries = active.expiries;
        for (org, held) in active.orgs {
            let memory = self.orgs.entry(org).or_default();
            (memory.reservations, memory.orders) = (held.reservations, held.orders);
            let OrgMemory { skus, reservations, .. } = memory;
            reservations.values_mut().for_each(|reservation| share_names(skus, reservation));
        }
    }

    /// Takes over what a batch's decisions have left, and the newest lines of its SKUs.
    pub(super) fn merge(&mut self, org: &Org, entries: &Entries, lines: &FxHashMap<Sku, i64>) {
        let memory = self.orgs.entry(org.clone()).or_default();
        for (sku, state) in &entries.skus {
            let Some(state) = state else { continue };
            let line = lines.get(sku).copied();
            match memory.skus.get_mut(sku) {
                Some(known) => {
                    known.state.clone_from(state);
                    known.line = line.unwrap_or(known.line);
                }
                None => {
                    let kept = Kept { state: state.clone(), line: line.unwrap_or(0) };
                    memory.skus.insert(sku.clone(), kept);
                    self.skus += 1;
                }
            }
        }
        for (id, reservation) in &entries.reservations {
            let Some(reservation) = reservation else { continue };
            let active = reservation.status == ReservationStatus::Active;
            if let Some(was) = memory.reservations.get(id) {
                if active && was.expires_at == reservation.expires_at {
                    memory.reservations.insert(*id, reservation.clone());
                    continue;
                }
                self.expiries.remove(&(was.expires_at, *id, org.clone()));
            }
            if active {
                self.expiries.insert((reservation.expires_at, *id, org.clone()));
                let mut reservation = reservation.clone();
                share_names(&memory.skus, &mut reservation);
                memory.reservations.insert(*id, reservation);
            } else {
                // Its row says how it ended.
                memory.reservations.swap_remove(id);
            }
        }
        for (order, active) in &entries.orders {
            match active {
                Some(id) => {
                    memory.orders.insert(order.clone(), *id);
                }
                None => {
                    memory.orders.remove(order);
                }
            }
        }
    }
}

/// Lets a reservation share the texts of its SKUs and locations with the SKUs: it may live long.
fn share_names(skus: &Dense<Sku, Kept>, reservation: &mut Reservation) {
    let Reservation { items, holds, .. } = reservation;
    for hold in &mut *holds {
        let Some((_, sku, kept)) = skus.get_full(&hold.sku) else { continue };
        hold.sku = sku.clone();
        if let Some(level) = kept.state.level(&hold.location) {
            hold.location = level.location.clone();
        }
    }
    for item in items {
        // But for bundles, what is asked for is what is held.
        let held = holds.iter().find(|hold| hold.sku == item.sku).map(|hold| &hold.sku);
        if let Some(sku) = held.or_else(|| Some(skus.get_full(&item.sku)?.1)) {
            item.sku = sku.clone();
        }
    }
}
