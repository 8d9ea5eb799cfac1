//! Orders of channels: pending ones hold, paid ones sell, cancelled ones let go, and what comes
//! back goes where the policy says.

use std::sync::Arc;

use proptest::prelude::*;
use trueup_core::{
    Adjust, Answer, ChannelId, ChannelLine, ChannelOrder, Command, Delta, ListingKey, ListingPush,
    ListingReading, Location, MovementKind, Part, PushResult, Reconcile, RestockPolicy, Rules,
    Strategy, Timestamp,
};

use crate::harness::{World, listing, sku, units};

/// What a notice says of a line: sold, restocked, held, cancelled.
type Says = (u64, u64, u64, u64);
const ALL: u64 = u64::MAX;

fn world(strategy: Strategy) -> World {
    let mut world = World { now: 1_000_000_000, ..World::default() };
    world.put("A", 10).unwrap();
    let mut state = listing("A", strategy, Rules::default());
    state.base = Some(10);
    world.listings.insert((state.channel.clone(), state.key.clone()), state);
    world
}

fn tell(world: &mut World, name: &str, restock: RestockPolicy, says: Says) {
    let (sold, restocked, held, cancelled) = says;
    let line = ChannelLine {
        line: Arc::from("1"),
        listing: ListingKey::new(name).ok(),
        sku: sku(name),
        units: units(1),
        sold,
        restocked,
        held,
        cancelled,
    };
    let answer = world.run(&Command::ChannelOrder(ChannelOrder {
        channel: ChannelId::new("shop").unwrap(),
        order: Arc::from("1001"),
        occurred_at: None,
        location: Location::main(),
        restock,
        lines: vec![line],
    }));
    assert_eq!(answer, Ok(Answer::Done));
}

fn base(world: &World) -> Option<i64> {
    world.listings.values().next().unwrap().base
}

fn pull(world: &mut World, observed: i64) {
    let answer = world.run(&Command::Reconcile(Reconcile {
        channel: ChannelId::new("shop").unwrap(),
        read_at: Timestamp::from_micros(world.now),
        settle_ms: 0,
        strategy: None,
        readings: vec![ListingReading { key: ListingKey::new("A").unwrap(), observed }],
    }));
    assert!(answer.is_ok());
}

#[test]
fn a_pending_order_holds_and_a_paid_one_sells_what_was_held() {
    let mut world = world(Strategy::MasterWins);
    let policy = RestockPolicy::Restock;
    tell(&mut world, "A", policy, (0, 0, 3, 0));
    assert_eq!(world.numbers("A"), (10, 3, 7));
    assert_eq!(base(&world), Some(7), "the channel has taken them off its own number");
    tell(&mut world, "A", policy, (0, 0, 3, 0));
    assert_eq!(world.numbers("A"), (10, 3, 7));
    tell(&mut world, "A", policy, (3, 0, 0, 0));
    assert_eq!(world.numbers("A"), (7, 0, 7));
    assert_eq!(base(&world), Some(7));
    let sale = world.movements.last().unwrap();
    assert_eq!(sale.kind, MovementKind::ChannelSale);
    assert_eq!((sale.delta.get(), sale.reserved_delta.get()), (-3, -3));
    tell(&mut world, "A", policy, (0, 0, 3, 0));
    assert_eq!(world.numbers("A"), (7, 0, 7), "a late notice holds nothing");
}

#[test]
fn a_pending_order_that_is_cancelled_is_let_go_whatever_the_policy() {
    for policy in [RestockPolicy::Restock, RestockPolicy::Quarantine, RestockPolicy::Nothing] {
        let mut world = world(Strategy::MasterWins);
        tell(&mut world, "A", policy, (0, 0, 3, 0));
        tell(&mut world, "A", policy, (0, 0, 0, ALL));
        assert_eq!(world.numbers("A"), (10, 0, 10));
        assert_eq!(base(&world), Some(10));
        for late in [(0, 0, 3, 0), (3, 0, 0, 0), (0, 0, 0, ALL)] {
            tell(&mut world, "A", policy, late);
            assert_eq!(world.numbers("A"), (10, 0, 10), "{late:?}");
        }
    }
}

#[test]
fn a_pending_order_holds_past_what_is_there_because_the_channel_has_sold_it() {
    let mut world = world(Strategy::MasterWins);
    tell(&mut world, "A", RestockPolicy::Restock, (0, 0, 12, 0));
    assert_eq!(world.numbers("A"), (10, 12, 0));
    tell(&mut world, "A", RestockPolicy::Restock, (12, 0, 0, 0));
    assert_eq!(world.numbers("A"), (-2, 0, 0));
}

#[test]
fn a_bundle_holds_its_parts() {
    let mut world = world(Strategy::MasterWins);
    world.put("B", 10).unwrap();
    let part = |name: &str, quantity| Part { sku: sku(name), quantity: units(quantity) };
    let parts = vec![part("A", 2), part("B", 1)];
    let bundle = Command::SetBundle { sku: sku("KIT"), parts, if_version: None, reason: None };
    world.run(&bundle).unwrap();
    tell(&mut world, "KIT", RestockPolicy::Restock, (0, 0, 2, 0));
    assert_eq!((world.numbers("A"), world.numbers("B")), ((10, 4, 6), (10, 2, 8)));
    tell(&mut world, "KIT", RestockPolicy::Restock, (1, 0, 2, 0));
    assert_eq!((world.numbers("A"), world.numbers("B")), ((8, 2, 6), (9, 1, 8)));
    tell(&mut world, "KIT", RestockPolicy::Restock, (1, 0, 0, 0));
    assert_eq!((world.numbers("A"), world.numbers("B")), ((8, 0, 8), (9, 0, 9)));
}

#[test]
fn what_comes_back_goes_where_the_policy_says() {
    // On hand, reserved, available; what the channel is taken to show; whether it is told.
    let table = [
        (RestockPolicy::Restock, (10, 0, 10), false),
        (RestockPolicy::Quarantine, (10, 2, 8), true),
        (RestockPolicy::Nothing, (8, 0, 8), true),
    ];
    for (policy, numbers, told) in table {
        let mut world = world(Strategy::MasterWins);
        tell(&mut world, "A", policy, (2, 0, 0, 0));
        tell(&mut world, "A", policy, (2, 2, 0, 0));
        assert_eq!(world.numbers("A"), numbers, "{policy:?}");
        let listing = world.listings.values().next().unwrap();
        assert_eq!((listing.base, listing.forced), (Some(10), told), "{policy:?}");
        tell(&mut world, "A", policy, (2, 2, 0, 0));
        assert_eq!(world.numbers("A"), numbers, "{policy:?}");
    }
}

#[test]
fn what_is_in_quarantine_is_moved_by_hand_and_never_sold() {
    let mut world = world(Strategy::MasterWins);
    tell(&mut world, "A", RestockPolicy::Quarantine, (2, 0, 0, 0));
    tell(&mut world, "A", RestockPolicy::Quarantine, (2, 2, 0, 0));
    assert!(world.reserve(1, "order", &[("A", 9)]).is_err());
    let adjust = |location: Location, delta| {
        Command::Adjust(Adjust {
            sku: sku("A"),
            delta: Delta::new(delta).unwrap(),
            location,
            reason: None,
            if_version: None,
            publish: true,
        })
    };
    world.run(&adjust(Location::quarantine(), -2)).unwrap();
    world.run(&adjust(Location::main(), 1)).unwrap();
    assert_eq!(world.numbers("A"), (9, 0, 9));
    assert!(world.run(&adjust(Location::quarantine(), -1)).is_err());
}

#[test]
fn an_adopted_difference_is_used_up_by_holds_and_their_end() {
    let mut world = world(Strategy::ChannelWins);
    let policy = RestockPolicy::Restock;
    pull(&mut world, 7);
    assert_eq!(world.numbers("A"), (7, 0, 7), "adopted before the order was heard of");
    tell(&mut world, "A", policy, (0, 0, 3, 0));
    assert_eq!(world.numbers("A"), (10, 3, 7), "they are here, and held");
    pull(&mut world, 10);
    assert_eq!(world.numbers("A"), (13, 3, 10), "adopted before the cancel was heard of");
    tell(&mut world, "A", policy, (0, 0, 0, ALL));
    assert_eq!(world.numbers("A"), (10, 0, 10));
    let listing = world.listings.values().next().unwrap();
    assert_eq!((listing.base, listing.provisional), (Some(10), Delta::ZERO));
}

#[test]
fn what_is_held_is_let_go_although_the_listing_sells_another_sku_by_now() {
    let mut world = world(Strategy::MasterWins);
    world.put("B", 10).unwrap();
    tell(&mut world, "A", RestockPolicy::Restock, (0, 0, 3, 0));
    // The listing is mapped to B before the order is paid.
    tell(&mut world, "B", RestockPolicy::Restock, (3, 0, 0, 0));
    assert_eq!((world.numbers("A"), world.numbers("B")), ((10, 0, 10), (7, 0, 7)));
    tell(&mut world, "B", RestockPolicy::Restock, (3, 0, 0, 0));
    assert_eq!((world.numbers("A"), world.numbers("B")), ((10, 0, 10), (7, 0, 7)));
}

#[test]
fn a_push_that_a_return_asks_for_outlives_the_push_under_way() {
    let mut world = world(Strategy::MasterWins);
    tell(&mut world, "A", RestockPolicy::Nothing, (2, 0, 0, 0));
    let channel = ChannelId::new("shop").unwrap();
    let version = world.skus[&sku("A")].version;
    let epoch = world.listings.values().next().unwrap().epoch;
    let key = ListingKey::new("A").unwrap();
    let push = ListingPush { key, quantity: 8, version, epoch };
    let items = vec![push.clone()];
    world.run(&Command::MarkSent { channel: channel.clone(), items }).unwrap();
    tell(&mut world, "A", RestockPolicy::Nothing, (2, 2, 0, 0));
    let items = vec![(push, PushResult::Applied)];
    world.run(&Command::Settle { channel, items }).unwrap();
    let listing = world.listings.values().next().unwrap();
    assert!(listing.forced, "the channel may show two more");
    assert_eq!((listing.base, listing.in_flight), (Some(10), None));
}

proptest! {
    /// However the notices of one order come, and however often, the last word counts, and
    /// neither more than was ordered is taken nor more than was taken comes back.
    #[test]
    fn any_order_of_notices_ends_alike(
        ordered in 1_u64..5,
        paid in any::<bool>(),
        cancelled in any::<bool>(),
        picks in proptest::collection::vec(0_usize..3, 0..12),
    ) {
        let mut world = world(Strategy::MasterWins);
        let pending = (0, 0, ordered, 0);
        let unshipped = (ordered, 0, 0, 0);
        let gone = (0, 0, 0, ALL);
        let mut said = vec![pending];
        if paid {
            said.push(unshipped);
        }
        if cancelled {
            said.push(gone);
        }
        for pick in picks {
            tell(&mut world, "A", RestockPolicy::Restock, said[pick % said.len()]);
        }
        for says in said {
            tell(&mut world, "A", RestockPolicy::Restock, says);
        }
        let kept = if paid && !cancelled { ordered } else { 0 };
        let held = if paid || cancelled { 0 } else { ordered };
        let on_hand = 10 - i64::try_from(kept).unwrap();
        prop_assert_eq!(world.numbers("A").0, on_hand);
        prop_assert_eq!(world.numbers("A").1, held);
        prop_assert_eq!(base(&world), Some(10 - i64::try_from(kept + held).unwrap()));
    }
}
