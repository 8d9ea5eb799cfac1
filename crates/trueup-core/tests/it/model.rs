//! Random histories against a model so naive that it can be believed by reading it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trueup_core::{Answer, Command, Rejection, ReservationId, ReserveOutcome};

use crate::harness::{World, set, sku};

const SKUS: [&str; 3] = ["A", "B", "C"];
const TTL: i64 = 900;

#[derive(Debug, Clone)]
enum Step {
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
struct Hold {
    order: u8,
    items: BTreeMap<usize, u64>,
    expires: i64,
    status: Status,
}

/// On hand by SKU and a list of holds; everything else is counted anew each time.
#[derive(Default)]
struct Naive {
    on_hand: BTreeMap<usize, i64>,
    holds: Vec<Hold>,
    now: i64,
}

impl Naive {
    fn expire(&mut self) {
        let now = self.now;
        let due = |hold: &&mut Hold| hold.status == Status::Active && hold.expires <= now;
        self.holds.iter_mut().filter(due).for_each(|hold| hold.status = Status::Expired);
    }

    fn free(&self, sku: usize, except: Option<usize>) -> i64 {
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

    fn reserve(&mut self, order: u8, items: &[(usize, u64)]) -> &'static str {
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

    fn release(&mut self, at: usize) -> &'static str {
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

    fn commit(&mut self, at: usize, reacquire: bool) -> &'static str {
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

fn step() -> impl Strategy<Value = Step> {
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

fn word(result: &Result<Answer, Rejection>) -> &'static str {
    match result {
        Ok(Answer::Reserved(_, ReserveOutcome::Created)) => "created",
        Ok(Answer::Reserved(_, ReserveOutcome::Unchanged)) => "unchanged",
        Ok(Answer::Reserved(_, ReserveOutcome::Replaced)) => "replaced",
        Ok(_) => "done",
        Err(rejection) => rejection.code(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_answers_as_the_naive_model_does(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut world = World { now: 1_000_000_000, ..World::default() };
        let mut naive = Naive { now: world.now, ..Naive::default() };
        for step in steps {
            world.now += 1;
            naive.now = world.now;
            naive.expire();
            match step {
                Step::Put(at, units) => {
                    world.run(&Command::SetOnHand(set(SKUS[at], units))).unwrap();
                    naive.on_hand.insert(at, units.cast_signed());
                }
                Step::Reserve { order, items } => {
                    let named: Vec<_> =
                        items.iter().map(|(at, units)| (SKUS[*at], *units)).collect();
                    // The sweeper runs before each decision, as in a store.
                    sweep(&mut world);
                    let id = naive.holds.len();
                    let got = world.reserve(id as u128, &format!("o{order}"), &named);
                    prop_assert_eq!(word(&got), naive.reserve(order, &items));
                }
                Step::Release(nth) if nth < naive.holds.len() => {
                    sweep(&mut world);
                    let got = world.run(&Command::Release { id: ReservationId(nth as u128) });
                    prop_assert_eq!(word(&got), naive.release(nth));
                }
                Step::Commit { nth, reacquire } if nth < naive.holds.len() => {
                    sweep(&mut world);
                    let id = ReservationId(nth as u128);
                    let got = world.run(&Command::Commit { id, reacquire });
                    prop_assert_eq!(word(&got), naive.commit(nth, reacquire));
                }
                Step::Release(_) | Step::Commit { .. } => {}
                Step::Wait(seconds) => {
                    world.now += seconds * 1_000_000;
                    naive.now = world.now;
                    naive.expire();
                }
            }
            sweep(&mut world);
            for (at, name) in SKUS.iter().enumerate() {
                let Some(state) = world.skus.get(&sku(name)) else { continue };
                prop_assert_eq!(state.totals().on_hand.get(), naive.on_hand[&at]);
                prop_assert_eq!(state.free().get(), naive.free(at, None));
            }
        }
    }
}

fn sweep(world: &mut World) {
    let ids = world.reservations.keys().copied().collect();
    world.run(&Command::Expire { ids }).unwrap();
}
