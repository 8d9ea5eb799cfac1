//! A model of holding and selling so naive that it can be believed by reading it. Stores are held
//! against it, too.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trueup_core::{Answer, Rejection, ReserveOutcome};

pub(crate) const SKUS: [&str; 3] = ["A", "B", "C"];
const TTL: i64 = 900;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Put(usize, u64),
    Reserve { order: u8, items: Vec<(usize, u64)> },
    Release(usize),
    Commit { nth: usize, reacquire: bool },
    Wait(i64),
}

#[derive(Debug, Clone, PartialEq)]
enum Status {
    Active,
    Released,
    Committed,
    Expired,
}

#[derive(Debug, Clone)]
pub(crate) struct Hold {
    order: u8,
    items: BTreeMap<usize, u64>,
    expires: i64,
    status: Status,
}

/// On hand by SKU and a list of holds; everything else is counted anew each time.
#[derive(Default)]
pub(crate) struct Naive {
    pub(crate) on_hand: BTreeMap<usize, i64>,
    pub(crate) holds: Vec<Hold>,
    pub(crate) now: i64,
}

impl Naive {
    pub(crate) fn expire(&mut self) {
        let now = self.now;
        let due = |hold: &&mut Hold| hold.status == Status::Active && hold.expires <= now;
        self.holds.iter_mut().filter(due).for_each(|hold| hold.status = Status::Expired);
    }

    pub(crate) fn free(&self, sku: usize, except: Option<usize>) -> i64 {
        let active =
            |(at, hold): &(usize, &Hold)| hold.status == Status::Active && Some(*at) != except;
        let held: u64 = self
            .holds
            .iter()
            .enumerate()
            .filter(active)
            .map(|(_, hold)| hold.items.get(&sku).copied().unwrap_or(0))
            .sum();
        self.on_hand.get(&sku).copied().unwrap_or(0) - held.cast_signed()
    }

    fn active_of(&self, order: u8) -> Option<usize> {
        self.holds.iter().position(|h| h.order == order && h.status == Status::Active)
    }

    fn fits(&self, items: &BTreeMap<usize, u64>, except: Option<usize>) -> bool {
        items.iter().all(|(sku, units)| self.free(*sku, except) >= units.cast_signed())
    }

    pub(crate) fn reserve(&mut self, order: u8, items: &[(usize, u64)]) -> &'static str {
        let mut sums = BTreeMap::new();
        for (sku, units) in items {
            *sums.entry(*sku).or_insert(0) += units;
        }
        if sums.keys().any(|sku| !self.on_hand.contains_key(sku)) {
            return "sku_not_found";
        }
        let active = self.active_of(order);
        if active.is_some_and(|at| self.holds[at].items == sums) {
            return "unchanged";
        }
        if !self.fits(&sums, active) {
            return "insufficient_stock";
        }
        let expires = self.now + TTL * 1_000_000;
        match active {
            Some(at) => {
                self.holds[at].items = sums;
                self.holds[at].expires = expires;
                "replaced"
            }
            None => {
                self.holds.push(Hold { order, items: sums, expires, status: Status::Active });
                "created"
            }
        }
    }

    pub(crate) fn release(&mut self, at: usize) -> &'static str {
        match self.holds[at].status {
            Status::Committed => "reservation_committed",
            Status::Active => {
                self.holds[at].status = Status::Released;
                "done"
            }
            Status::Released | Status::Expired => "done",
        }
    }

    fn sold(&self, order: u8) -> bool {
        self.holds.iter().any(|hold| hold.order == order && hold.status == Status::Committed)
    }

    pub(crate) fn commit(&mut self, at: usize, reacquire: bool) -> &'static str {
        let hold = self.holds[at].clone();
        match hold.status {
            Status::Committed => return "done",
            Status::Released => return "reservation_released",
            Status::Expired if !reacquire => return "reservation_expired",
            Status::Expired if self.active_of(hold.order).is_some() || self.sold(hold.order) => {
                return "reservation_expired";
            }
            Status::Expired if !self.fits(&hold.items, None) => return "insufficient_stock",
            Status::Expired | Status::Active => {}
        }
        for (sku, units) in &hold.items {
            *self.on_hand.entry(*sku).or_insert(0) -= units.cast_signed();
        }
        self.holds[at].status = Status::Committed;
        "done"
    }
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let item = (0..SKUS.len(), 1_u64..6);
    prop_oneof![
        2 => (0..SKUS.len(), 0_u64..20).prop_map(|(sku, units)| Step::Put(sku, units)),
        6 => (0_u8..6, proptest::collection::vec(item, 1..4))
            .prop_map(|(order, items)| Step::Reserve { order, items }),
        2 => (0_usize..30).prop_map(Step::Release),
        3 => (0_usize..30, any::<bool>())
            .prop_map(|(nth, reacquire)| Step::Commit { nth, reacquire }),
        2 => (1_i64..600).prop_map(Step::Wait),
    ]
}

pub(crate) fn word(result: &Result<Answer, Rejection>) -> &'static str {
    match result {
        Ok(Answer::Reserved(_, ReserveOutcome::Created)) => "created",
        Ok(Answer::Reserved(_, ReserveOutcome::Unchanged)) => "unchanged",
        Ok(Answer::Reserved(_, ReserveOutcome::Replaced)) => "replaced",
        Ok(_) => "done",
        Err(rejection) => rejection.code(),
    }
}
