//! The three-way comparison: strategies × channel below, equal, above × push in flight or not ×
//! buffer or not; and what it must never do over time.

use std::sync::Arc;

use trueup_core::{
    Answer, Carried, ChannelId, ChannelLine, ChannelOrder, Command, Delta, ListingKey, ListingPush,
    ListingReading, ListingState, Location, PushResult, Reconcile, ReconcileAction, Reopen,
    Resolution, RestockPolicy, Rules, Sent, Strategy, Timestamp,
};

use crate::harness::{World, listing, sku, units};

const SETTLE_MS: i64 = 1_000;

fn world_with(on_hand: u64, state: ListingState) -> World {
    let mut world = World { now: 1_000_000_000, ..World::default() };
    world.put("A", on_hand).unwrap();
    world.listings.insert((state.channel.clone(), state.key.clone()), state);
    world
}

fn pull(world: &mut World, observed: i64) -> trueup_core::Reconciled {
    let now = world.now;
    pull_as_of(world, now, observed)
}

fn pull_as_of(world: &mut World, read_at: i64, observed: i64) -> trueup_core::Reconciled {
    let answer = world.run(&Command::Reconcile(Reconcile {
        channel: ChannelId::new("shop").unwrap(),
        read_at: Timestamp::from_micros(read_at),
        settle_ms: SETTLE_MS,
        strategy: None,
        readings: vec![ListingReading { key: ListingKey::new("A").unwrap(), observed }],
    }));
    match answer {
        Ok(Answer::Reconciled(mut items)) => items.remove(0),
        other => panic!("{other:?}"),
    }
}

fn state(world: &World) -> &ListingState {
    world.listings.values().next().unwrap()
}

/// One line of the table: what the channel shows against a base, and what comes of it.
fn check(strategy: Strategy, buffer: u64, in_flight: bool, moved: i64, expected: (&str, i64)) {
    let rules = Rules { buffer: units(buffer), ..Rules::default() };
    let published = 42 - i64::try_from(buffer).unwrap();
    let mut listing = listing("A", strategy, rules);
    listing.base = Some(published);
    if in_flight {
        // Two units were reserved since; the push that says so is out and not acknowledged.
        let at = Timestamp::from_micros(1_000_000_000);
        listing.in_flight = Some(Sent { quantity: published - 2, version: 2, at });
    }
    let mut world = world_with(42, listing);
    if in_flight {
        world.reserve(1, "order", &[("A", 2)]).unwrap();
    }
    let item = pull(&mut world, published + moved);
    let action = match item.action {
        ReconcileAction::Matched => "matched",
        ReconcileAction::Push => "push",
        ReconcileAction::Adopted => "adopted",
        ReconcileAction::Conflict => "conflict",
        ReconcileAction::Pending => "pending",
    };
    let on_hand = world.numbers("A").0;
    let circumstances = format!("{strategy:?} buffer {buffer} flight {in_flight} moved {moved}");
    assert_eq!((action, on_hand), expected, "{circumstances}");
}

#[test]
fn every_strategy_in_every_circumstance() {
    use Strategy::{ChannelWins, LowerWins, Manual, MasterWins};
    for buffer in [0, 5] {
        for strategy in [MasterWins, ChannelWins, LowerWins, Manual] {
            // The channel shows what it was told.
            check(strategy, buffer, false, 0, ("matched", 42));
            // It shows the number before the push that is out, or already that push: no conflict,
            // and a reading that fits neither is too early to judge.
            check(strategy, buffer, true, 0, ("pending", 42));
            check(strategy, buffer, true, -2, ("matched", 42));
            check(strategy, buffer, true, -7, ("pending", 42));
            check(strategy, buffer, true, 7, ("pending", 42));
        }
        check(MasterWins, buffer, false, -4, ("push", 42));
        check(MasterWins, buffer, false, 4, ("push", 42));
        check(ChannelWins, buffer, false, -4, ("adopted", 38));
        check(ChannelWins, buffer, false, 4, ("adopted", 46));
        check(LowerWins, buffer, false, -4, ("adopted", 38));
        check(LowerWins, buffer, false, 4, ("push", 42));
        check(Manual, buffer, false, -4, ("conflict", 42));
        check(Manual, buffer, false, 4, ("conflict", 42));
    }
}

#[test]
fn a_channel_that_is_merely_behind_is_pushed_without_conflict() {
    for strategy in [Strategy::ChannelWins, Strategy::Manual, Strategy::LowerWins] {
        let mut listing = listing("A", strategy, Rules::default());
        listing.base = Some(50);
        let mut world = world_with(42, listing);
        assert_eq!(pull(&mut world, 50).action, ReconcileAction::Push);
        assert_eq!(world.numbers("A").0, 42);
        assert!(state(&world).forced);
    }
}

#[test]
fn without_a_base_what_should_be_there_is_the_base() {
    let mut world = world_with(42, listing("A", Strategy::ChannelWins, Rules::default()));
    assert_eq!(pull(&mut world, 40).action, ReconcileAction::Adopted);
    assert_eq!(world.numbers("A").0, 40);
}

#[test]
fn lower_wins_with_a_buffer_does_not_ratchet_over_100_pulls() {
    let rules = Rules { buffer: units(5), ..Rules::default() };
    let mut world = world_with(42, listing("A", Strategy::LowerWins, rules));
    for _ in 0..100 {
        assert_eq!(pull(&mut world, 37).action, ReconcileAction::Matched);
        world.now += 60_000_000;
    }
    assert_eq!(world.numbers("A").0, 42);
    assert_eq!(pull(&mut world, 35).action, ReconcileAction::Adopted);
    for _ in 0..100 {
        world.now += 60_000_000;
        assert_eq!(pull(&mut world, 35).action, ReconcileAction::Matched);
    }
    assert_eq!(world.numbers("A").0, 40);
}

fn order(world: &mut World, id: &str, sold: u64, restocked: u64) {
    order_at(world, id, sold, restocked, None);
}

fn order_at(world: &mut World, id: &str, sold: u64, restocked: u64, at: Option<i64>) {
    order_with(world, id, (sold, restocked), at, RestockPolicy::Restock);
}

fn order_with(
    world: &mut World,
    id: &str,
    (sold, restocked): (u64, u64),
    at: Option<i64>,
    restock: RestockPolicy,
) {
    let line = ChannelLine {
        line: Arc::from("1"),
        listing: Some(ListingKey::new("A").unwrap()),
        sku: sku("A"),
        units: units(1),
        sold,
        restocked,
        held: 0,
        cancelled: 0,
    };
    let answer = world.run(&Command::ChannelOrder(ChannelOrder {
        channel: ChannelId::new("shop").unwrap(),
        order: Arc::from(id),
        occurred_at: at.map(Timestamp::from_micros),
        location: Location::main(),
        restock,
        lines: vec![line],
    }));
    assert_eq!(answer, Ok(Answer::Done));
}

#[test]
fn a_late_order_uses_up_the_adopted_difference() {
    let mut world = world_with(42, listing("A", Strategy::ChannelWins, Rules::default()));
    pull(&mut world, 42);
    assert_eq!(pull(&mut world, 39).action, ReconcileAction::Adopted);
    assert_eq!(world.numbers("A").0, 39);
    order(&mut world, "1001", 2, 0);
    assert_eq!(world.numbers("A").0, 39, "two of the three are explained");
    order(&mut world, "1002", 2, 0);
    assert_eq!(world.numbers("A").0, 38, "the third is explained, the fourth is news");
    assert_eq!(state(&world).provisional, Delta::ZERO);
    assert_eq!(pull(&mut world, 38).action, ReconcileAction::Matched);
}

#[test]
fn an_order_that_a_reading_has_in_it_already_does_not_lower_the_base_again() {
    let mut world = world_with(42, listing("A", Strategy::MasterWins, Rules::default()));
    pull(&mut world, 42);
    world.now += 60_000_000;
    assert_eq!(pull(&mut world, 40).action, ReconcileAction::Push, "sold, and not yet heard of");
    let before = world.now - 1;
    order_at(&mut world, "1001", 2, 0, Some(before));
    assert_eq!((world.numbers("A").0, state(&world).base), (40, Some(40)));
    let after = world.now + 1;
    order_at(&mut world, "1002", 3, 0, Some(after));
    assert_eq!((world.numbers("A").0, state(&world).base), (37, Some(37)));
    order_at(&mut world, "1003", 1, 0, Some(before));
    assert_eq!((world.numbers("A").0, state(&world).base), (36, Some(37)), "late, and in the 40");
}

#[test]
fn a_reading_from_before_an_order_was_booked_settles_nothing() {
    for strategy in [Strategy::MasterWins, Strategy::ChannelWins, Strategy::LowerWins] {
        let mut world = world_with(42, listing("A", strategy, Rules::default()));
        pull(&mut world, 42);
        world.now += 60_000_000;
        let (began, before) = (world.now - 500, world.now - 700);
        order_at(&mut world, "1001", 2, 0, Some(before));
        // It was sold, and heard of, between the reading's question and its answer.
        assert_eq!(pull_as_of(&mut world, began, 42).action, ReconcileAction::Pending);
        assert_eq!((world.numbers("A").0, state(&world).base), (40, Some(40)), "{strategy:?}");
        assert_eq!(pull(&mut world, 40).action, ReconcileAction::Matched);
    }
}

#[test]
fn what_came_back_and_is_not_for_sale_is_told_whatever_was_read_before() {
    let mut world = world_with(42, listing("A", Strategy::MasterWins, Rules::default()));
    order(&mut world, "1001", 2, 0);
    pull(&mut world, 40);
    world.now += 60_000_000;
    let now = world.now;
    order_with(&mut world, "1001", (2, 2), Some(now), RestockPolicy::Nothing);
    let began = world.now - 500;
    assert_eq!(pull_as_of(&mut world, began, 40).action, ReconcileAction::Pending);
    assert!(state(&world).forced, "the channel may have put them up for sale again");
    assert_eq!(pull(&mut world, 42).action, ReconcileAction::Push);
    assert_eq!(pull(&mut world, 40).action, ReconcileAction::Matched);
    assert!(!state(&world).forced);
}

#[test]
fn what_came_back_while_a_push_was_under_way_is_told_anew_and_not_taken_for_a_change() {
    for strategy in [Strategy::ChannelWins, Strategy::LowerWins, Strategy::Manual] {
        for observed in [39, 43] {
            let mut world = world_with(42, listing("A", strategy, Rules::default()));
            order(&mut world, "1001", 2, 0);
            pull(&mut world, 40);
            world.now += 60_000_000;
            let sent = ListingPush { version: state(&world).acked_version, ..push(40) };
            let channel = state(&world).channel.clone();
            let items = vec![sent.clone()];
            world.run(&Command::MarkSent { channel: channel.clone(), items }).unwrap();
            world.now += 1_000_000;
            let told = world.now;
            order_with(&mut world, "1001", (2, 2), Some(told), RestockPolicy::Nothing);
            world.now += 1_000_000;
            let items = vec![(sent, PushResult::Applied)];
            world.run(&Command::Settle { channel, items }).unwrap();
            assert_eq!((state(&world).in_flight, state(&world).base), (None, Some(42)));
            assert!(state(&world).forced && !state(&world).is_base_sure(), "on top of it or not");
            world.now += 60_000_000;
            assert_eq!(pull(&mut world, observed).action, ReconcileAction::Push, "{strategy:?}");
            assert_eq!(world.numbers("A").0, 40);
            assert!(state(&world).is_base_sure());
        }
    }
}

#[test]
fn within_the_second_of_a_return_the_higher_base_is_taken_and_the_number_told_anew() {
    for (later, base, forced) in [(0, 42, true), (1_100_000, 40, false)] {
        let mut world = world_with(42, listing("A", Strategy::MasterWins, Rules::default()));
        order(&mut world, "1001", 2, 0);
        world.now += 60_000_000 + later;
        pull(&mut world, 40);
        let told = world.now - later - 600_000;
        order_at(&mut world, "1001", 2, 2, Some(told));
        let state = state(&world);
        assert_eq!((state.base, state.forced), (Some(base), forced), "read {later} µs later");
    }
}

#[test]
fn a_note_that_the_channel_shows_it_already_is_no_newer_knowledge() {
    let mut world = world_with(42, listing("A", Strategy::MasterWins, Rules::default()));
    pull(&mut world, 42);
    let read_at = state(&world).base_at;
    world.now += 60_000_000;
    settle(&mut world, 42);
    assert_eq!(state(&world).base_at, read_at);
    let (channel, items) = (state(&world).channel.clone(), vec![push(41)]);
    world.run(&Command::MarkSent { channel, items }).unwrap();
    settle(&mut world, 41);
    assert_eq!(state(&world).base_at, Some(Timestamp::from_micros(world.now)));
}

fn push(quantity: i64) -> ListingPush {
    ListingPush { key: ListingKey::new("A").unwrap(), quantity, version: 1, epoch: 0 }
}

fn settle(world: &mut World, quantity: i64) {
    let channel = state(world).channel.clone();
    let items = vec![(push(quantity), PushResult::Applied)];
    world.run(&Command::Settle { channel, items }).unwrap();
}

#[test]
fn an_order_is_booked_once_however_often_it_is_told() {
    let mut world = world_with(42, listing("A", Strategy::ChannelWins, Rules::default()));
    pull(&mut world, 42);
    for _ in 0..3 {
        order(&mut world, "1001", 2, 0);
        assert_eq!(world.numbers("A").0, 40);
    }
    assert_eq!(pull(&mut world, 40).action, ReconcileAction::Matched);
    for _ in 0..3 {
        order(&mut world, "1001", 2, 2);
        assert_eq!(world.numbers("A").0, 42);
    }
    order(&mut world, "1001", 2, 0);
    assert_eq!(world.numbers("A").0, 42, "a late repeat of an earlier state changes nothing");
    assert_eq!(pull(&mut world, 42).action, ReconcileAction::Matched);
}

#[test]
fn a_channels_sale_is_expected_of_the_channel_whatever_the_rules() {
    let rules = Rules { percent: 50, ..Rules::default() };
    let mut world = world_with(100, listing("A", Strategy::ChannelWins, rules));
    pull(&mut world, 50);
    order(&mut world, "1001", 2, 0);
    // Master 98, published 49; the channel shows 48 because it sold 2 itself.
    assert_eq!(pull(&mut world, 48).action, ReconcileAction::Push);
    assert_eq!(world.numbers("A").0, 98);
}

#[test]
fn a_channel_fulfilled_listing_lives_in_a_location_of_its_own() {
    let mut fba = listing("A", Strategy::MasterWins, Rules::default());
    fba.channel_fulfilled = true;
    let mut world = world_with(10, fba);
    assert_eq!(pull(&mut world, 25).action, ReconcileAction::Adopted);
    assert_eq!(world.numbers("A").0, 35);
    assert_eq!(pull(&mut world, 20).action, ReconcileAction::Adopted);
    assert_eq!(world.numbers("A").0, 30);
    assert_eq!(pull(&mut world, 20).action, ReconcileAction::Matched);
    let refused = world.reserve(1, "order", &[("A", 11)]);
    assert!(refused.is_err(), "what the channel ships is not ours to promise");
    assert!(!state(&world).forced);
}

#[test]
fn a_conflict_waits_until_it_is_resolved() {
    let resolve = |resolution| {
        let mut start = listing("A", Strategy::Manual, Rules::default());
        start.base = Some(42);
        let mut world = world_with(42, start);
        assert_eq!(pull(&mut world, 40).action, ReconcileAction::Conflict);
        assert_eq!(pull(&mut world, 39).action, ReconcileAction::Conflict);
        let (channel, key) = (state(&world).channel.clone(), state(&world).key.clone());
        let command = Command::Resolve { channel, key, resolution, note: None };
        assert!(world.run(&command).is_ok());
        assert!(!state(&world).in_conflict);
        let again = world.run(&command).unwrap_err();
        assert_eq!(again.code(), "conflict_not_found");
        world.numbers("A").0
    };
    assert_eq!(resolve(Resolution::Master), 42);
    assert_eq!(resolve(Resolution::Channel), 39);
    assert_eq!(resolve(Resolution::Quantity(units(50))), 50);
}

/// How a conflict over a channel that showed 39 for 42 ended, what was changed of the master by
/// that, what happens then, and what comes of taking the end back: by how many units the master is
/// put back, how many there are then, and how many if the channel is taken to be right after all.
type Reopening = (Resolution, Carried, fn(&mut World), i64, i64, i64);

#[test]
fn an_end_that_is_taken_back_puts_back_what_was_not_sold_since() {
    let nothing: fn(&mut World) = |_| {};
    let explained: fn(&mut World) = |world| order(world, "1001", 2, 0);
    let promised: fn(&mut World) = |world| {
        world.reserve(1, "order", &[("A", 45)]).unwrap();
    };
    let delta = |units| Delta::new(units).unwrap();
    let adopted = Carried::Adopted(delta(-3));
    let table: [Reopening; 6] = [
        (Resolution::Master, Carried::Nothing, nothing, 0, 42, 39),
        (Resolution::Channel, adopted, nothing, 3, 42, 39),
        // Two of the three were sold: only one was the channel's own change.
        (Resolution::Channel, adopted, explained, 1, 40, 39),
        (Resolution::Quantity(units(50)), Carried::Counted(delta(8)), nothing, -8, 42, 39),
        // Of the eight that were found, three are promised.
        (Resolution::Quantity(units(50)), Carried::Counted(delta(8)), promised, -5, 45, 42),
        (Resolution::Quantity(units(30)), Carried::Counted(delta(-12)), nothing, 12, 42, 39),
    ];
    for (at, (resolution, carried, then, back, on_hand, after)) in table.into_iter().enumerate() {
        let mut start = listing("A", Strategy::Manual, Rules::default());
        start.base = Some(42);
        let mut world = world_with(42, start);
        pull(&mut world, 39);
        let (channel, key) = (state(&world).channel.clone(), state(&world).key.clone());
        let resolve = |resolution| {
            let (channel, key) = (channel.clone(), key.clone());
            Command::Resolve { channel, key, resolution, note: None }
        };
        let (moved, note) = (-3, None);
        let reopen = Reopen { channel: channel.clone(), key: key.clone(), carried, moved, note };
        let reopen = Command::Reopen(reopen);
        assert_eq!(world.run(&reopen).unwrap_err().code(), "conflict_open", "row {at}");
        world.run(&resolve(resolution)).unwrap();
        then(&mut world);
        let Ok(Answer::Reopened(answer, restored)) = world.run(&reopen) else { panic!("row {at}") };
        let there = answer.state.totals().on_hand.get();
        assert_eq!((restored.get(), there), (back, on_hand), "row {at}");
        assert!(state(&world).in_conflict, "row {at}");
        assert_eq!(world.run(&reopen).unwrap_err().code(), "conflict_open", "row {at}");
        world.run(&resolve(Resolution::Channel)).unwrap();
        assert_eq!(world.numbers("A").0, after, "row {at}");
    }
}

#[test]
fn a_resolved_quantity_is_that_of_all_places_that_feed_the_listing() {
    let mut start = listing("A", Strategy::Manual, Rules::default());
    start.base = Some(40);
    let mut world = world_with(10, start);
    let mut berlin = crate::harness::set("A", 30);
    berlin.location = Location::new("berlin").unwrap();
    world.run(&Command::SetOnHand(berlin)).unwrap();
    assert_eq!(pull(&mut world, 38).action, ReconcileAction::Conflict);
    let (channel, key) = (state(&world).channel.clone(), state(&world).key.clone());
    let resolution = Resolution::Quantity(units(25));
    world.run(&Command::Resolve { channel, key, resolution, note: None }).unwrap();
    let levels = &world.skus[&sku("A")].levels;
    let on_hand: Vec<i64> = levels.iter().map(|level| level.on_hand.get()).collect();
    assert_eq!(on_hand, [25, 0], "home first, and no place below zero");
}

#[test]
fn a_listing_that_follows_is_noted_and_neither_settled_nor_sent() {
    let channel = ChannelId::new("shop").unwrap();
    let key = ListingKey::new("A").unwrap();
    let mut listing = listing("A", Strategy::ChannelWins, Rules::default());
    (listing.follows, listing.base) = (true, Some(42));
    let mut world = world_with(42, listing.clone());
    let item = pull(&mut world, 40);
    assert_eq!((item.action, item.quantity), (ReconcileAction::Matched, 40));
    let seen = state(&world).observed.map(|seen| seen.quantity);
    assert_eq!((seen, state(&world).base, world.numbers("A").0), (Some(40), Some(42), 42));
    let push = ListingPush { key, quantity: 41, version: 1, epoch: 0 };
    let mark = Command::MarkSent { channel: channel.clone(), items: vec![push.clone()] };
    world.run(&mark).unwrap();
    assert_eq!(state(&world).in_flight, None);
    let settle = Command::Settle { channel, items: vec![(push, PushResult::Applied)] };
    world.run(&settle).unwrap();
    assert_eq!(state(&world).base, Some(42));
}
