//! Stories of the ledger: each line says what is asked and how things stand after it.
//!
//! `put A 10` · `put A 10 counted SECONDS_AGO` · `safety A 2` · `threshold A 5` · `backorder A 3`
//! · `adjust A -2` · `bundle B A=2 C=1` · `reserve 1 order A=2 B=1` · `release 1` · `commit 1` ·
//! `recommit 1` (with reacquire) · `extend 1 60` · `wait SECONDS`. After `->` stands the
//! expected answer: `ok`, a reservation's outcome or status, or a refusal's code; after `|` the
//! numbers `SKU on_hand/reserved/available`.

use trueup_core::{
    Adjust, Answer, Command, Delta, Location, Part, Rejection, ReservationId, ReservationStatus,
    ReserveOutcome,
};

use crate::harness::{World, set, sku, units};

fn check(script: &str) {
    let mut world = World { now: 1_000_000_000, ..World::default() };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (request, rest) = line.split_once("->").unwrap_or((line, "ok"));
        let (expected, numbers) = rest.split_once('|').unwrap_or((rest, ""));
        let got = run(&mut world, request.trim());
        assert_eq!(got, expected.trim(), "{line}\n{script}");
        for entry in numbers.split_whitespace().collect::<Vec<_>>().chunks(2) {
            let (on_hand, reserved, available) = world.numbers(entry[0]);
            assert_eq!(format!("{on_hand}/{reserved}/{available}"), entry[1], "{line}\n{script}");
        }
        world.now += 1;
    }
}

fn run(world: &mut World, request: &str) -> String {
    let words: Vec<&str> = request.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let id = || ReservationId(u128::from(number(1)));
    let pairs = |from: usize| -> Vec<(&str, u64)> {
        words[from..]
            .iter()
            .map(|pair| {
                let (sku, quantity) = pair.split_once('=').unwrap();
                (sku, quantity.parse().unwrap())
            })
            .collect()
    };
    let result = match words[0] {
        "put" => {
            let mut set = set(words[1], number(2));
            if words.get(3) == Some(&"counted") {
                let ago = i64::try_from(number(4)).unwrap();
                set.counted_at =
                    Some(trueup_core::Timestamp::from_micros(world.now - ago * 1_000_000));
            }
            world.run(&Command::SetOnHand(set))
        }
        "safety" | "threshold" | "backorder" => {
            let on_hand = world.numbers(words[1]).0;
            let mut set = set(words[1], u64::try_from(on_hand).unwrap());
            match words[0] {
                "safety" => set.settings.safety_stock = Some(units(number(2))),
                "threshold" => set.settings.low_stock_threshold = Some(Some(units(number(2)))),
                _ => set.settings.backorder_limit = Some(units(number(2))),
            }
            world.run(&Command::SetOnHand(set))
        }
        "adjust" => world.run(&Command::Adjust(Adjust {
            sku: sku(words[1]),
            delta: Delta::new(words[2].parse().unwrap()).unwrap(),
            location: Location::main(),
            reason: None,
            if_version: None,
            publish: true,
        })),
        "bundle" => {
            let part =
                |(name, quantity): (&str, u64)| Part { sku: sku(name), quantity: units(quantity) };
            world.run(&Command::SetBundle {
                sku: sku(words[1]),
                parts: pairs(2).into_iter().map(part).collect(),
                if_version: None,
                reason: None,
            })
        }
        "reserve" => world.reserve(u128::from(number(1)), words[2], &pairs(3)),
        "release" => world.run(&Command::Release { id: id() }),
        "commit" => world.run(&Command::Commit { id: id(), reacquire: false }),
        "recommit" => world.run(&Command::Commit { id: id(), reacquire: true }),
        "extend" => {
            let ttl_seconds = u32::try_from(number(2)).unwrap();
            world.run(&Command::Extend { id: id(), ttl_seconds })
        }
        "wait" => {
            world.now += i64::try_from(number(1)).unwrap() * 1_000_000;
            return "ok".to_owned();
        }
        other => panic!("unknown word {other}"),
    };
    words_of(result)
}

fn words_of(result: Result<Answer, Rejection>) -> String {
    match result {
        Ok(Answer::Reserved(_, ReserveOutcome::Created)) => "created".to_owned(),
        Ok(Answer::Reserved(_, ReserveOutcome::Unchanged)) => "unchanged".to_owned(),
        Ok(Answer::Reserved(_, ReserveOutcome::Replaced)) => "replaced".to_owned(),
        Ok(Answer::Reservation(reservation)) => match reservation.status {
            ReservationStatus::Active => "active",
            ReservationStatus::Released => "released",
            ReservationStatus::Committed => "committed",
            ReservationStatus::Expired => "expired",
        }
        .to_owned(),
        Ok(_) => "ok".to_owned(),
        Err(Rejection::InsufficientStock(shortages)) => {
            let of =
                |s: &trueup_core::Shortage| format!(" {}:{}/{}", s.sku, s.available, s.requested);
            let list: String = shortages.iter().map(of).collect();
            format!("insufficient_stock{list}")
        }
        Err(rejection) => rejection.code().to_owned(),
    }
}

#[test]
fn a_reservation_is_held_then_sold() {
    check(
        "put A 10                      -> ok        | A 10/0/10
         reserve 1 order A=3           -> created   | A 10/3/7
         commit 1                      -> committed | A 7/0/7
         commit 1                      -> committed | A 7/0/7
         release 1                     -> reservation_committed",
    );
}

#[test]
fn a_released_hold_is_free_again_and_cannot_be_sold() {
    check(
        "put A 10
         reserve 1 order A=3           -> created   | A 10/3/7
         release 1                     -> released  | A 10/0/10
         release 1                     -> released  | A 10/0/10
         commit 1                      -> reservation_released
         recommit 1                    -> reservation_released
         extend 1 60                   -> reservation_released",
    );
}

#[test]
fn all_items_are_held_or_none() {
    check(
        "put A 10
         put B 1
         reserve 1 order A=3 B=2       -> insufficient_stock B:1/2 | A 10/0/10 B 1/0/1
         reserve 1 order A=11 B=2      -> insufficient_stock A:10/11 B:1/2
         reserve 1 order A=3 C=1       -> sku_not_found | A 10/0/10
         reserve 1 order A=3 B=1       -> created   | A 10/3/7 B 1/1/0",
    );
}

#[test]
fn one_sku_twice_in_a_request_is_summed_first() {
    check(
        "put A 5
         reserve 1 order A=3 A=3       -> insufficient_stock A:5/6
         reserve 1 order A=3 A=2       -> created   | A 5/5/0
         reserve 2 order A=5           -> unchanged | A 5/5/0",
    );
}

#[test]
fn the_same_order_replaces_and_never_stacks() {
    check(
        "put A 5
         put B 5
         reserve 1 order A=4           -> created   | A 5/4/1
         reserve 2 order A=4           -> unchanged | A 5/4/1
         reserve 2 order A=5           -> replaced  | A 5/5/0
         reserve 2 order A=6           -> insufficient_stock A:5/6 | A 5/5/0
         reserve 2 order A=1 B=2       -> replaced  | A 5/1/4 B 5/2/3
         reserve 2 order B=1           -> replaced  | A 5/0/5 B 5/1/4
         commit 1                      -> committed | A 5/0/5 B 4/0/4
         reserve 3 order A=1           -> created   | A 5/1/4",
    );
}

#[test]
fn from_its_expiry_on_a_hold_is_free_and_cannot_be_committed() {
    check(
        "put A 1
         reserve 1 first A=1           -> created   | A 1/1/0
         reserve 2 second A=1          -> insufficient_stock A:0/1
         wait 900
         commit 1                      -> reservation_expired | A 1/0/1
         release 1                     -> expired
         extend 1 60                   -> reservation_expired
         reserve 2 second A=1          -> created   | A 1/1/0
         recommit 1                    -> insufficient_stock A:0/1
         release 2                     -> released
         recommit 1                    -> committed | A 0/0/0
         recommit 1                    -> committed | A 0/0/0",
    );
}

#[test]
fn an_order_that_has_reserved_anew_is_not_sold_twice() {
    check(
        "put A 5
         reserve 1 order A=1           -> created
         wait 900
         reserve 2 order A=1           -> created   | A 5/1/4
         recommit 1                    -> reservation_expired | A 5/1/4
         commit 2                      -> committed | A 4/0/4
         recommit 1                    -> reservation_expired | A 4/0/4",
    );
}

#[test]
fn an_extended_hold_lives_on() {
    check(
        "put A 1
         reserve 1 order A=1           -> created
         wait 800
         extend 1 900                  -> active
         wait 800
         commit 1                      -> committed | A 0/0/0",
    );
}

#[test]
fn safety_stock_is_never_offered() {
    check(
        "put A 10
         safety A 4                    -> ok        | A 10/0/6
         reserve 1 order A=7           -> insufficient_stock A:6/7
         reserve 1 order A=6           -> created   | A 10/6/0",
    );
}

#[test]
fn a_backorder_limit_allows_that_much_more() {
    check(
        "put A 2
         backorder A 3
         reserve 1 order A=6           -> insufficient_stock A:5/6
         reserve 1 order A=5           -> created   | A 2/5/0
         commit 1                      -> committed | A -3/0/0
         reserve 2 other A=1           -> insufficient_stock A:0/1
         put A 1                       -> ok        | A 1/0/1",
    );
}

#[test]
fn a_count_below_what_is_reserved_is_a_fact() {
    check(
        "put A 10
         reserve 1 order A=8           -> created
         put A 5                       -> ok        | A 5/8/0
         reserve 2 other A=1           -> insufficient_stock A:0/1
         commit 1                      -> committed | A -3/0/0",
    );
}

#[test]
fn a_count_is_true_when_it_was_taken() {
    check(
        "put A 10
         wait 10
         reserve 1 order A=3           -> created
         commit 1                      -> committed | A 7/0/7
         adjust A 2                    -> ok        | A 9/0/9
         put A 20 counted 5            -> ok        | A 19/0/19
         put A 20 counted 5            -> ok        | A 19/0/19
         put A 18 counted 8            -> ok        | A 19/0/19
         put A 12 counted 2            -> ok        | A 11/0/11
         put A 30                      -> ok        | A 30/0/30
         put A 20 counted 5            -> ok        | A 30/0/30
         wait 10
         put A 20 counted 5            -> ok        | A 20/0/20",
    );
}

#[test]
fn an_adjustment_does_not_go_below_zero() {
    check(
        "adjust A 1                    -> sku_not_found
         put A 2
         adjust A -3                   -> insufficient_stock | A 2/0/2
         adjust A -2                   -> ok        | A 0/0/0
         adjust A 7                    -> ok        | A 7/0/7",
    );
}

#[test]
fn a_bundle_is_its_parts() {
    check(
        "put A 10
         put C 3
         bundle B A=2 C=1              -> ok
         reserve 1 order B=4           -> insufficient_stock B:3/4
         reserve 1 order B=2           -> created   | A 10/4/6 C 3/2/1
         reserve 2 other B=1 A=5       -> insufficient_stock B:0/1 | A 10/4/6
         reserve 2 other B=1 A=4       -> created   | A 10/10/0 C 3/3/0
         commit 1                      -> committed | A 6/6/0 C 1/1/0
         release 2                     -> released  | A 6/0/6 C 1/0/1
         put B 4                       -> bundle_has_no_stock",
    );
}

#[test]
fn a_bundle_has_sound_parts() {
    check(
        "put A 1
         put C 1
         bundle B A=2 A=1              -> bundle_part_invalid
         bundle B X=1                  -> sku_not_found
         bundle A A=1                  -> sku_has_stock
         bundle B A=0                  -> bundle_part_invalid
         bundle B A=1                  -> ok
         bundle D B=1                  -> bundle_part_invalid
         bundle B C=1                  -> ok
         reserve 1 order B=1           -> created   | A 1/0/1 C 1/1/0",
    );
}

#[test]
fn unknown_reservations_are_named_so() {
    check(
        "release 9                     -> reservation_not_found
         commit 9                      -> reservation_not_found
         extend 9 60                   -> reservation_not_found",
    );
}

#[test]
fn low_stock_is_told_once_per_crossing() {
    let mut world = World { now: 1, ..World::default() };
    let told = |world: &World| {
        world.events.iter().filter(|e| matches!(e, trueup_core::Event::LowStock { .. })).count()
    };
    world.put("A", 10).unwrap();
    let mut threshold = set("A", 10);
    threshold.settings.low_stock_threshold = Some(Some(units(5)));
    world.run(&Command::SetOnHand(threshold)).unwrap();
    for (quantity, expected) in [(5, 0), (4, 1), (3, 1), (9, 1), (0, 2)] {
        world.put("A", quantity).unwrap();
        assert_eq!(told(&world), expected, "at {quantity}");
        assert_eq!(world.skus[&sku("A")].low_since.is_some(), quantity < 5);
    }
}

#[test]
fn a_new_sku_above_its_threshold_is_not_told_to_be_low() {
    let mut world = World { now: 1, ..World::default() };
    let mut first = set("A", 5);
    first.settings.low_stock_threshold = Some(Some(units(3)));
    world.run(&Command::SetOnHand(first)).unwrap();
    let alerts = |e: &trueup_core::Event| matches!(e, trueup_core::Event::LowStock { .. });
    assert!(!world.events.iter().any(alerts));
    assert_eq!(world.skus[&sku("A")].version, 1);
}

#[test]
fn a_backorder_that_is_allowed_is_not_an_oversell() {
    let mut world = World { now: 1, ..World::default() };
    let mut first = set("A", 1);
    first.settings.backorder_limit = Some(units(3));
    world.run(&Command::SetOnHand(first)).unwrap();
    world.reserve(1, "order", &[("A", 4)]).unwrap();
    let oversold = |world: &World| {
        world.events.iter().filter(|e| matches!(e, trueup_core::Event::Oversold { .. })).count()
    };
    assert_eq!(oversold(&world), 0);
    world.put("A", 0).unwrap();
    assert_eq!(oversold(&world), 1, "one more than may be owed");
    assert_eq!(world.skus[&sku("A")].oversold_by().get(), 1);
}

#[test]
fn an_atomic_bulk_changes_all_or_nothing() {
    let mut world = World { now: 1, ..World::default() };
    world.put("A", 1).unwrap();
    world.put("C", 1).unwrap();
    run(&mut world, "bundle B C=1");
    let items = vec![set("A", 7), set("B", 7)];
    let refused = world.run(&Command::Bulk { items: items.clone(), atomic: true });
    assert_eq!(words_of(refused), "bundle_has_no_stock");
    assert_eq!(world.numbers("A").0, 1);
    let Ok(Answer::Bulk(each)) = world.run(&Command::Bulk { items, atomic: false }) else {
        panic!("a bulk answers item by item")
    };
    assert!(each[0].1.is_ok() && each[1].1.is_err());
    assert_eq!(world.numbers("A").0, 7);
}

#[test]
fn a_wrong_version_changes_nothing() {
    let mut world = World { now: 1, ..World::default() };
    world.put("A", 1).unwrap();
    let mut wrong = set("A", 9);
    wrong.if_version = Some(7);
    assert_eq!(words_of(world.run(&Command::SetOnHand(wrong))), "version_mismatch");
    let mut right = set("A", 9);
    right.if_version = Some(1);
    assert!(world.run(&Command::SetOnHand(right)).is_ok());
}
