//! The publishing formula, term by term.

use trueup_core::publish::Stock;
use trueup_core::{Location, Rules};

use crate::harness::{World, units};

fn check(on_hand: u64, rules: &Rules, published: u64) {
    let mut world = World { now: 1, ..World::default() };
    world.put("A", on_hand).unwrap();
    let state = &world.skus[&crate::harness::sku("A")];
    let terms = rules.publish(Stock::Single(state));
    assert_eq!(terms.published, published, "{on_hand} by {rules:?}: {terms:?}");
}

#[test]
fn the_terms_apply_in_their_order() {
    let plain = Rules::default;
    check(42, &plain(), 42);
    check(42, &Rules { buffer: units(5), ..plain() }, 37);
    check(3, &Rules { buffer: units(5), ..plain() }, 0);
    check(9, &Rules { percent: 50, ..plain() }, 4);
    check(9, &Rules { percent: 0, ..plain() }, 0);
    check(9, &Rules { buffer: units(2), percent: 50, ..plain() }, 3);
    check(42, &Rules { units_per_listing: units(6), ..plain() }, 7);
    check(47, &Rules { units_per_listing: units(6), ..plain() }, 7);
    check(42, &Rules { max_quantity: Some(units(10)), ..plain() }, 10);
    check(4, &Rules { zero_below: units(5), ..plain() }, 0);
    check(5, &Rules { zero_below: units(5), ..plain() }, 5);
    let max = Some(units(3));
    check(50, &Rules { max_quantity: max, zero_below: units(4), ..plain() }, 0);
    check((1 << 53) - 1, &Rules { percent: 99, ..plain() }, 8_917_127_262_193_581);
}

#[test]
fn stock_that_does_not_feed_the_listing_does_not_count() {
    let east = Location::new("east").unwrap();
    check(42, &Rules { locations: Some(vec![east]), ..Rules::default() }, 0);
    check(42, &Rules { locations: Some(vec![Location::main()]), ..Rules::default() }, 42);
}
