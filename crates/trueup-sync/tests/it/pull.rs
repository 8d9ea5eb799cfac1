//! Pulls: base, expected and observed; strategies; orders that come late.

use trueup_core::{Resolution, Strategy};
use trueup_store::RunStatus;
use trueup_sync::{Clock, EngineError, PullRequest};

use crate::fake::order_of;
use crate::house::{House, WallClock, action, counter, quantity, with_strategy};

/// After a push of 20 the channel shows another number: what does a pull make of it?
async fn check(strategy: Strategy, moved: i64, expected: (&str, i64, i64)) {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        let (id, shop) = house.connect(kind, &[("A", "a", 20)], with_strategy(strategy)).await;
        house.count("A", 20, true).await;
        house.settle().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        *shop.state().shown.get_mut("a").unwrap() += moved;
        let rehearsal = PullRequest { dry_run: true, ..PullRequest::default() };
        let run = house.pull(&id, rehearsal).await;
        assert_eq!(action(&run, "A"), expected.0, "{kind} {strategy:?} {moved} rehearsed");
        assert_eq!(house.on_hand("A").await, 20);
        let run = house.pull(&id, PullRequest::default()).await;
        assert_eq!(run.status, RunStatus::Completed, "{run:?}");
        let got = (action(&run, "A"), house.on_hand("A").await, shop.shown("a").unwrap());
        let wanted = (expected.0.to_owned(), expected.1, expected.2);
        assert_eq!(got, wanted, "{kind} {strategy:?} {moved}: {run:?}");
        house.settle().await;
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_strategy_settles_a_difference_in_its_way() {
    for strategy in
        [Strategy::MasterWins, Strategy::ChannelWins, Strategy::LowerWins, Strategy::Manual]
    {
        check(strategy, 0, ("matched", 20, 20)).await;
    }
    check(Strategy::MasterWins, -3, ("pushed", 20, 20)).await;
    check(Strategy::MasterWins, 3, ("pushed", 20, 20)).await;
    check(Strategy::ChannelWins, -3, ("adopted", 17, 17)).await;
    check(Strategy::ChannelWins, 3, ("adopted", 23, 23)).await;
    check(Strategy::LowerWins, -3, ("adopted", 17, 17)).await;
    check(Strategy::LowerWins, 3, ("pushed", 20, 20)).await;
    check(Strategy::Manual, -3, ("conflict", 20, 17)).await;
    check(Strategy::Manual, 3, ("conflict", 20, 23)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_told_once_and_waits_for_an_operator() {
    let house = House::open().await;
    let (id, shop) =
        house.connect("plain", &[("A", "a", 20)], with_strategy(Strategy::Manual)).await;
    house.count("A", 20, true).await;
    house.settle().await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    shop.state().shown.insert("a".to_owned(), 12);
    for _ in 0..2 {
        let run = house.pull(&id, PullRequest::default()).await;
        assert_eq!((action(&run, "A"), counter(&run, "conflicts")), ("conflict".to_owned(), 1));
    }
    let open = house.history("inventory_conflict").await;
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(open[0].detail["channel"], 12);
    house.count("A", 25, true).await;
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(12), "a conflict is neither pushed nor adopted");
    let conflict = open[0].detail["conflictId"].as_u64().unwrap();
    let resolve = |resolution| house.engine.resolve(&house.org, conflict, resolution, None, "ann");
    let resolved = resolve(Resolution::Quantity(quantity(11))).await.unwrap();
    assert_eq!(resolved.resolved.unwrap().resolution, "quantity");
    assert_eq!(resolve(Resolution::Master).await, Err(EngineError::AlreadyResolved));
    house.settle().await;
    assert_eq!((house.on_hand("A").await, shop.shown("a")), (11, Some(11)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_is_no_number_changes_nothing() {
    let house = House::open().await;
    let listings = [("A", "a", 5), ("B", "b", 5)];
    let (id, shop) = house.connect("plain", &listings, with_strategy(Strategy::ChannelWins)).await;
    house.count("A", 5, true).await;
    house.count("B", 5, true).await;
    house.settle().await;
    shop.state().unreadable.insert("a".to_owned());
    let run = house.pull(&id, PullRequest::default()).await;
    assert_eq!(
        (action(&run, "A"), action(&run, "B")),
        ("unknown".to_owned(), "matched".to_owned())
    );
    assert_eq!(house.on_hand("A").await, 5);
    shop.state().down = true;
    let run = house.pull(&id, PullRequest::default()).await;
    assert_eq!(run.status, RunStatus::Failed);
    assert_eq!(house.on_hand("B").await, 5);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_orders_explain_is_booked_once() {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        let strategy = with_strategy(Strategy::ChannelWins);
        let (id, shop) = house.connect(kind, &[("A", "a", 20)], strategy).await;
        house.count("A", 20, true).await;
        house.settle().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        shop.sell("o1", "a", 2, WallClock.now());
        let run = house.pull(&id, PullRequest::default()).await;
        assert_eq!(action(&run, "A"), "matched", "{kind}: {run:?}");
        assert_eq!(house.on_hand("A").await, 18, "{kind}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_order_uses_up_an_adopted_difference() {
    let house = House::open().await;
    let strategy = with_strategy(Strategy::ChannelWins);
    let (id, shop) = house.connect("plain", &[("A", "a", 20)], strategy).await;
    house.count("A", 20, true).await;
    house.settle().await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    shop.state().shown.insert("a".to_owned(), 17);
    let run = house.pull(&id, PullRequest::default()).await;
    assert_eq!((action(&run, "A"), house.on_hand("A").await), ("adopted".to_owned(), 17));
    let order = order_of("late", "a", 4, 0, WallClock.now());
    shop.state().orders.push(order);
    assert!(house.engine.hear_orders(&house.org, &id, crate::house::PATIENCE).await.unwrap());
    assert_eq!(house.on_hand("A").await, 16);
    house.settle().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lower_wins_with_a_buffer_does_not_ratchet() {
    let house = House::open().await;
    let (id, shop) = house
        .connect("plain", &[("A", "a", 37)], |enable| {
            enable.strategy = Some(Strategy::LowerWins);
            enable.rules.buffer = Some(quantity(5));
        })
        .await;
    house.count("A", 42, true).await;
    house.settle().await;
    for _ in 0..30 {
        let run = house.pull(&id, PullRequest::default()).await;
        assert_eq!(action(&run, "A"), "matched");
    }
    assert_eq!((house.on_hand("A").await, shop.shown("a")), (42, Some(37)));
    assert!(house.store.verify(&house.org).await.unwrap().faults.is_empty());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_everything_goes_page_by_page_where_that_costs_less() {
    let house = House::open().await;
    let names: Vec<String> = (0..10).map(|nth| format!("S{nth}")).collect();
    let listings: Vec<(&str, &str, i64)> =
        names.iter().map(|name| (name.as_str(), name.as_str(), 5)).collect();
    let (id, shop) = house.connect("paged", &listings, |_| {}).await;
    for name in &names {
        house.count(name, 5, true).await;
    }
    house.settle().await;
    // The catalogue leaves the last two out, names one twice and has one that is not ours.
    {
        let mut state = shop.state();
        state.shown.insert("S3".to_owned(), 9);
        let entry = |name: &str, shown| crate::connect::entry(name, Some(name), shown);
        state.catalogue = names[..8].iter().map(|name| entry(name, 5)).collect();
        state.catalogue[3] = entry("S3", 9);
        state.catalogue.push(entry("S1", 5));
        state.catalogue.push(entry("foreign", 7));
        state.catalogue_page = 4;
        state.catalogue_fails = 1;
        state.reads = 0;
    }
    let run = house.pull(&id, PullRequest::default()).await;
    assert_eq!(run.status, RunStatus::Completed, "{run:?}");
    let counted = ["total", "checked", "matched", "pushed"].map(|name| counter(&run, name));
    assert_eq!(counted, [10, 10, 9, 1], "{run:?}");
    assert_eq!(action(&run, "S3"), "pushed");
    house.settle().await;
    assert_eq!(shop.shown("S3"), Some(5));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_ends_where_reading_the_rest_by_identifiers_costs_less() {
    let house = House::open().await;
    let names: Vec<String> = (0..10).map(|nth| format!("S{nth}")).collect();
    let listings: Vec<(&str, &str, i64)> =
        names.iter().map(|name| (name.as_str(), name.as_str(), 5)).collect();
    let (id, shop) = house.connect("paged", &listings, |_| {}).await;
    for name in &names {
        house.count(name, 5, true).await;
    }
    house.settle().await;
    let foreign: Vec<String> = (0..40).map(|nth| format!("foreign-{nth}")).collect();
    // With all of ours on the first three pages of four, and with one that no page shows.
    for (shown, reads, pages) in [(10, 0, 3), (9, 1, 4)] {
        {
            let mut state = shop.state();
            let all = names[..shown].iter().chain(&foreign);
            state.catalogue =
                all.map(|name| crate::connect::entry(name, Some(name.as_str()), 5)).collect();
            state.catalogue_page = 4;
            (state.reads, state.catalogue_reads) = (0, 0);
        }
        let run = house.pull(&id, PullRequest::default()).await;
        assert_eq!(counter(&run, "matched"), 10, "{run:?}");
        let state = shop.state();
        assert_eq!((state.reads, state.catalogue_reads), (reads, pages), "{shown} shown");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolved_conflict_is_opened_again_with_the_master_put_back() {
    let house = House::open().await;
    house.count("A", 10, true).await;
    let manual = with_strategy(Strategy::Manual);
    let (id, shop) = house.connect("plain", &[("A", "a", 10)], manual).await;
    house.push(&id, trueup_sync::PushScope::All).await;
    house.settle().await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    shop.state().shown.insert("a".to_owned(), 7);
    house.pull(&id, PullRequest::default()).await;
    let open = async || house.store.conflicts(&house.org, Some(true), None, None, 9).await.unwrap();
    let first = open().await.items[0].id;
    let undo = |conflict| house.engine.reopen(&house.org, conflict, None, "ann");
    assert_eq!(undo(first).await.unwrap_err(), EngineError::NotReopenable, "it is open");
    let resolve =
        |conflict, resolution| house.engine.resolve(&house.org, conflict, resolution, None, "ann");
    resolve(first, Resolution::Channel).await.unwrap();
    house.settle().await;
    assert_eq!((house.on_hand("A").await, shop.shown("a")), (7, Some(7)));
    let again = undo(first).await.unwrap();
    assert_eq!((again.carried, again.restored, house.on_hand("A").await), (-3, 3, 10));
    let numbers = (again.conflict.base, again.conflict.observed, again.conflict.expected);
    assert_eq!(numbers, (Some(10), 7, 10));
    let waiting = open().await.items;
    assert_eq!((waiting.len(), waiting[0].id), (1, again.conflict.id));
    assert_eq!(undo(first).await.unwrap_err(), EngineError::NotReopenable, "there is a newer one");
    assert_eq!(undo(99).await.unwrap_err(), EngineError::NotFound("conflict"));
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(7), "it waits");
    resolve(again.conflict.id, Resolution::Master).await.unwrap();
    house.settle().await;
    assert_eq!((house.on_hand("A").await, shop.shown("a")), (10, Some(10)));
    // What master pushed over can be taken over after all.
    let third = undo(again.conflict.id).await.unwrap();
    assert_eq!((third.carried, third.restored), (0, 0));
    resolve(third.conflict.id, Resolution::Quantity(trueup_core::Quantity::new(4).unwrap()))
        .await
        .unwrap();
    house.settle().await;
    let fourth = undo(third.conflict.id).await.unwrap();
    assert_eq!((fourth.carried, fourth.restored, house.on_hand("A").await), (-6, 6, 10));
    house.close().await;
}
