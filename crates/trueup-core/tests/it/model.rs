//! Random histories against a model so naive that it can be believed by reading it.

use proptest::prelude::*;
use trueup_core::{Command, ReservationId};

use crate::harness::{World, set, sku};
use crate::naive::{Naive, SKUS, Step, step, word};

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
