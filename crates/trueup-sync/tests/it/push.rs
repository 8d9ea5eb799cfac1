//! Pushes: what is owed arrives, in the right order, once, and honestly.

use std::time::Duration;

use trueup_core::Strategy;
use trueup_store::{ConnectionState, RunStatus};
use trueup_sync::{EngineError, PushScope, listing_status};

use crate::house::{House, action, counter, quantity, sku, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_count_reaches_every_kind_of_channel() {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        let (id, shop) = house.connect(kind, &[("A", "a", 3), ("B", "b", 0)], |_| {}).await;
        house.count("A", 42, true).await;
        house.count("B", 5, true).await;
        house.settle().await;
        assert_eq!((shop.shown("a"), shop.shown("b")), (Some(42), Some(5)), "{kind}");
        let view = house.listing(&id, "A").await;
        assert_eq!(view.state.base, Some(42), "{kind}");
        assert_eq!(view.state.in_flight, None, "{kind}");
        let row = house.store.connection(&house.org, &id).await.unwrap().unwrap();
        assert_eq!(listing_status(&view, &row), "ok");
        house.count("A", 0, true).await;
        house.settle().await;
        assert_eq!(shop.shown("a"), Some(0), "{kind}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_of_one_sku_become_few_pushes() {
    let house = House::open().await;
    let (_, shop) = house.connect("plain", &[("A", "a", 0)], |_| {}).await;
    for units in (1..=200).rev() {
        house.count("A", units, true).await;
    }
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(1));
    let sent = shop.sent_to("a").len();
    assert!(sent <= 200, "{sent}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_asked_for_is_sent_whatever_the_channel_is_believed_to_show() {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        let (id, shop) = house.connect(kind, &[("A", "a", 1)], |_| {}).await;
        house.count("A", 20, true).await;
        house.settle().await;
        let acked_at = house.listing(&id, "A").await.state.acked_at;
        // Somebody changes it on the channel, and nobody tells us.
        shop.state().shown.insert("a".to_owned(), 99);
        let run = house.push(&id, PushScope::All).await;
        assert_eq!(run.status, RunStatus::Completed, "{kind}: {run:?}");
        house.settle().await;
        assert_eq!(shop.shown("a"), Some(20), "{kind}");
        assert!(house.listing(&id, "A").await.state.acked_at > acked_at, "{kind}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_does_not_publish_waits_for_a_run() {
    let house = House::open().await;
    house.count("A", 7, false).await;
    let (id, shop) = house.connect("careful", &[("A", "a", 7)], |e| e.sync_inventory = false).await;
    house.count("A", 9, false).await;
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(7));
    let row = house.store.connection(&house.org, &id).await.unwrap().unwrap();
    assert_eq!(listing_status(&house.listing(&id, "A").await, &row), "stale");
    let run = house.push(&id, PushScope::All).await;
    assert_eq!(run.status, RunStatus::Completed, "{run:?}");
    assert_eq!((counter(&run, "total"), counter(&run, "pushed")), (1, 1));
    assert_eq!(shop.shown("a"), Some(9));
    assert_eq!(house.history("inventory_push").await.len(), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_warns_of_what_is_not_mapped_and_sends_a_given_number() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 1)], |_| {}).await;
    house.count("A", 10, true).await;
    house.settle().await;
    let items = vec![(sku("A"), Some(quantity(4))), (sku("NONE"), None)];
    let run = house.push(&id, PushScope::Items(items)).await;
    assert_eq!(shop.shown("a"), Some(4));
    assert_eq!(house.on_hand("A").await, 10);
    assert_eq!(run.warnings[0]["code"], "mapping_missing");
    assert_eq!(run.warnings[0]["sku"], "NONE");
    assert_eq!((counter(&run, "pushed"), counter(&run, "skipped")), (1, 1));
    assert_eq!(house.history("mapping_missing").await.len(), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_run_id_is_one_run() {
    let house = House::open().await;
    let (id, _) = house.connect("plain", &[("A", "a", 1)], |_| {}).await;
    let push = || house.engine.push(&house.org, &id, PushScope::All, Some("r1".to_owned()));
    assert_eq!(push().await.unwrap(), "r1");
    assert_eq!(push().await.unwrap(), "r1");
    house.settle().await;
    assert_eq!(house.history("inventory_push").await.len(), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_item_is_parked_and_blocks_nobody() {
    let house = House::open().await;
    let listings = [("A", "a", 1), ("BAD", "bad", 1), ("C", "c", 1)];
    let (id, shop) = house.connect("plain", &listings, |_| {}).await;
    shop.state().refused.insert("bad".to_owned());
    for of in ["A", "BAD", "C"] {
        house.count(of, 9, true).await;
    }
    house.settle().await;
    assert_eq!((shop.shown("a"), shop.shown("c")), (Some(9), Some(9)));
    let view = house.listing(&id, "BAD").await;
    assert_eq!(view.parked.clone().unwrap().code, "not_pushable");
    let row = house.store.connection(&house.org, &id).await.unwrap().unwrap();
    assert_eq!(listing_status(&view, &row), "error");
    // A run tries it again, and says that it failed.
    let run = house.push(&id, PushScope::All).await;
    assert_eq!(run.status, RunStatus::Partial);
    assert_eq!(action(&run, "BAD"), "failed");
    shop.state().refused.clear();
    let run = house.push(&id, PushScope::All).await;
    assert_eq!(run.status, RunStatus::Completed);
    assert_eq!(shop.shown("bad"), Some(9));
    assert_eq!(house.listing(&id, "BAD").await.parked, None);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclear_push_is_repeated_under_its_token() {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        let (_, shop) = house.connect(kind, &[("A", "a", 1)], |_| {}).await;
        house.count("A", 5, true).await;
        house.settle().await;
        shop.state().lose_answers = 1;
        house.count("A", 3, true).await;
        house.settle().await;
        assert_eq!(shop.shown("a"), Some(3), "{kind}");
        if kind == "plain" {
            let sent = shop.state().sent.clone();
            let tokens: Vec<&String> =
                sent.iter().filter(|(_, quantity, _)| *quantity == 3).map(|(.., t)| t).collect();
            assert_eq!(tokens.len(), 2);
            assert_eq!(tokens[0], tokens[1]);
        }
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_lies_is_found_out_and_parked() {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        let strategy = |e: &mut trueup_sync::Enable| e.strategy = Some(Strategy::ChannelWins);
        let (id, shop) = house.connect(kind, &[("A", "a", 8)], strategy).await;
        house.count("A", 8, true).await;
        house.settle().await;
        shop.state().lying.insert("a".to_owned());
        house.count("A", 4, true).await;
        house.settle().await;
        let view = house.listing(&id, "A").await;
        assert_eq!(view.parked.map(|parked| parked.code).as_deref(), Some("not_applied"), "{kind}");
        // The old number is not taken for a change of the channel's own.
        assert_eq!(house.on_hand("A").await, 4, "{kind}");
        let entries = house.history("inventory_push").await;
        assert!(entries.iter().any(|entry| entry.detail["code"] == "not_applied"), "{kind}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_channel_is_not_a_lying_one() {
    let house = House::open().await;
    let (id, shop) = house.connect("slow", &[("A", "a", 8)], |_| {}).await;
    shop.state().lag = Duration::from_millis(60);
    for units in [7, 6, 5, 9, 4] {
        house.count("A", units, true).await;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(4));
    assert_eq!(house.on_hand("A").await, 4);
    assert_eq!(house.listing(&id, "A").await.parked, None);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_channels_down_do_not_hold_up_the_third() {
    let house = House::open().await;
    let (one, first) = house.connect("plain", &[("A", "a", 1)], |_| {}).await;
    let (_, second) = house.connect("careful", &[("A", "a", 1)], |_| {}).await;
    let (_, third) = house.connect("slow", &[("A", "a", 1)], |_| {}).await;
    house.settle().await;
    first.state().down = true;
    second.state().down = true;
    house.count("A", 6, true).await;
    until("the third shows it", || third.shown("a") == Some(6)).await;
    let run = house.push(&one, PushScope::All).await;
    assert_eq!(run.status, RunStatus::Failed, "{run:?}");
    let status = house.engine.status(&house.org, &one).await.unwrap();
    assert_eq!((status.status, status.connected), ("error", false));
    first.state().down = false;
    second.state().down = false;
    house.settle().await;
    assert_eq!((first.shown("a"), second.shown("a")), (Some(6), Some(6)));
    let status = house.engine.status(&house.org, &one).await.unwrap();
    assert_eq!((status.status, status.pending), ("ok", 0));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_channel_keeps_its_work() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 1)], |_| {}).await;
    house.count("A", 2, true).await;
    house.settle().await;
    let row = house.engine.disable(&house.org, &id).await.unwrap();
    assert_eq!(row.state, ConnectionState::Paused);
    house.count("A", 3, true).await;
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(2));
    let refused = house.engine.push(&house.org, &id, PushScope::All, None).await;
    assert_eq!(refused, Err(EngineError::Paused));
    house.engine.resume(&house.org, &id).await.unwrap();
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(3));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_connection_computes_and_sends_nothing() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 1)], |e| e.dry_run = true).await;
    house.count("A", 2, true).await;
    let run = house.push(&id, PushScope::All).await;
    assert_eq!((run.status, run.dry_run), (RunStatus::Completed, true));
    assert_eq!(counter(&run, "skipped"), 1);
    assert_eq!((counter(&run, "changes"), counter(&run, "unknown")), (1, 1));
    assert_eq!(shop.sent_to("a"), Vec::<u64>::new());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_rehearsed_with_every_change_and_tells_nothing() {
    let house = House::open().await;
    let listings = [("A", "a", 5), ("B", "b", 5), ("C", "c", 5), ("D", "d", 5)];
    for (of, _, _) in listings {
        house.count(of, 5, true).await;
    }
    let (id, shop) = house.connect("plain", &listings, |_| {}).await;
    house.push(&id, PushScope::All).await;
    house.settle().await;
    shop.state().sent.clear();
    for (of, units) in [("A", 0), ("B", 3), ("C", 9)] {
        house.count(of, units, false).await;
    }
    let scope = PushScope::All;
    let run = house.engine.rehearse_push(&house.org, &id, scope, None).await.unwrap();
    let run = house.engine.wait_run(&house.org, &run, crate::house::PATIENCE).await.unwrap();
    assert_eq!((run.status, run.dry_run), (RunStatus::Completed, true));
    let counts = ["total", "pushed", "changes", "zeroes", "lowers", "raises"];
    assert_eq!(counts.map(|name| counter(&run, name)), [4, 0, 3, 1, 1, 1]);
    let would = run.items.as_array().unwrap().iter().map(|item| {
        (item["sku"].as_str().unwrap(), item["before"].as_i64(), item["quantity"].as_i64())
    });
    let expected = [("A", Some(5), Some(0)), ("B", Some(5), Some(3)), ("C", Some(5), Some(9))];
    assert_eq!(would.collect::<Vec<_>>(), expected);
    assert_eq!(shop.state().sent.len(), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raise_is_made_of_what_is_left_after_unheard_orders() {
    for kind in ["plain", "careful", "bulky"] {
        let house = House::open().await;
        let (_, shop) = house.connect(kind, &[("A", "a", 5)], |_| {}).await;
        house.count("A", 5, true).await;
        house.settle().await;
        // The channel sells two; nobody tells us. Then the merchant finds ten more.
        let now = trueup_sync::Clock::now(&crate::house::WallClock);
        shop.sell("o1", "a", 2, now);
        house.count("A", 15, true).await;
        house.settle().await;
        assert_eq!(house.on_hand("A").await, 13, "{kind}");
        assert_eq!(shop.shown("a"), Some(13), "{kind}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_above_the_channels_limit_is_capped_and_matched() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 0)], |_| {}).await;
    house.count("A", 5_000, true).await;
    house.settle().await;
    assert_eq!(shop.shown("a"), Some(1_000));
    let run = house.pull(&id, trueup_sync::PullRequest::default()).await;
    assert_eq!(action(&run, "A"), "matched");
    house.close().await;
}

#[tokio::test]
async fn what_the_vendors_day_puts_off_comes_back_by_itself_with_the_newest_number() {
    let house = House::open().await;
    house.count("A", 5, true).await;
    let (id, shop) = house.connect("counting", &[("A", "1", 5)], |_| ()).await;
    house.settle().await;
    for units in [6, 8, 7, 9] {
        house.count("A", units, true).await;
    }
    house.settle().await;
    assert_eq!(shop.state().shown["1"], 9);
    assert!(house.listing(&id, "A").await.revised.is_some_and(|revised| revised.count <= 2));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_go_out_together_and_never_meet_on_a_listing() {
    let house = House::open().await;
    let names: Vec<String> = (0..12).map(|nth| format!("S{nth}")).collect();
    let listings: Vec<(&str, &str, i64)> =
        names.iter().map(|name| (name.as_str(), name.as_str(), 1)).collect();
    let (id, shop) = house.connect("wide", &listings, |_| {}).await;
    for name in &names {
        house.count(name, 1, true).await;
    }
    house.settle().await;
    shop.state().push_takes = std::time::Duration::from_millis(20);
    // What is owed changes while it is under way, and a run asks for the same listings.
    for units in 2..6 {
        for name in &names {
            house.count(name, units, true).await;
        }
    }
    let run = house.push(&id, PushScope::All).await;
    assert_eq!((run.status, counter(&run, "pushed")), (RunStatus::Completed, 12), "{run:?}");
    house.settle().await;
    assert_eq!(shop.state().clashes, [""; 0]);
    assert_eq!(shop.state().at_once_max, 3);
    for name in &names {
        assert_eq!(shop.shown(name), Some(5), "{name}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_changed_is_sent_once_and_what_is_asked_for_again() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 1)], |_| {}).await;
    house.count("A", 5, true).await;
    house.settle().await;
    let sent = shop.sent_to("a").len();
    let run = house.push(&id, PushScope::Changed(vec![sku("A")])).await;
    assert_eq!(counter(&run, "pushed"), 1, "it is shown: {run:?}");
    assert_eq!(shop.sent_to("a").len(), sent);
    let run = house.push(&id, PushScope::Items(vec![(sku("A"), None)])).await;
    assert_eq!(counter(&run, "pushed"), 1, "{run:?}");
    assert_eq!(shop.sent_to("a").len(), sent + 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_oversold_never_goes_the_bulk_way() {
    let house = House::open().await;
    let names: Vec<String> = (0..12).map(|nth| format!("S{nth}")).collect();
    let listings: Vec<(&str, &str, i64)> =
        names.iter().map(|name| (name.as_str(), name.as_str(), 20)).collect();
    for name in &names {
        house.count(name, 20, false).await;
    }
    let (id, shop) = house.connect("bulky", &listings, |_| ()).await;
    house.settle().await;
    // Zeroes, decreases and raises, near zero and far from it, all by one run.
    let counts = [0, 0, 3, 5, 6, 12, 15, 18, 25, 30, 40, 50];
    for (name, count) in names.iter().zip(counts) {
        house.count(name, count, false).await;
    }
    house.push(&id, PushScope::All).await;
    house.settle().await;
    for (name, count) in names.iter().zip(counts) {
        assert_eq!(shop.shown(name), i64::try_from(count).ok(), "{name}");
    }
    let bulk = shop.state().bulk.clone();
    assert!(!bulk.is_empty() && bulk.iter().all(|quantity| *quantity > 5), "{bulk:?}");
    // And what is owed by itself.
    for name in &names {
        house.count(name, 0, true).await;
    }
    house.settle().await;
    assert!(names.iter().all(|name| shop.shown(name) == Some(0)));
    assert_eq!(shop.state().bulk, bulk, "zeroes go one by one");
    house.close().await;
}

/// Opens a house with many listings that show a number.
async fn with_many(
    house: &House,
    kind: &str,
    count: u32,
    shown: u64,
) -> (trueup_core::ChannelId, std::sync::Arc<crate::fake::FakeShop>, Vec<String>) {
    let names: Vec<String> = (0..count).map(|nth| format!("S{nth:03}")).collect();
    let number = i64::try_from(shown).unwrap();
    let listings: Vec<(&str, &str, i64)> =
        names.iter().map(|name| (name.as_str(), name.as_str(), number)).collect();
    for name in &names {
        house.count(name, shown, false).await;
    }
    let (id, shop) = house.connect(kind, &listings, |_| ()).await;
    house.settle().await;
    (id, shop, names)
}

/// Returns how many listings were told a number before one was told it.
fn sent_before(shop: &crate::fake::FakeShop, of: &str, quantity: u64) -> usize {
    let state = shop.state();
    let is_it = |(key, told, _): &(String, u64, String)| key == of && *told == quantity;
    state.sent.iter().position(is_it).expect("it was told")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nearly_sold_out_goes_before_what_is_not() {
    let house = House::open().await;
    let (_, shop, names) = with_many(&house, "plain", 60, 900).await;
    shop.state().hold_pushes = true;
    for name in &names[..50] {
        house.count(name, 800, true).await;
    }
    until("a push is under way", || shop.state().pushing == 1).await;
    for name in &names[50..] {
        house.count(name, 1, true).await;
    }
    // Slow enough for what was counted to be heard of in between.
    shop.state().push_takes = Duration::from_millis(300);
    shop.state().hold_pushes = false;
    house.settle().await;
    // Ten at a time: those under way, those made ready beside them, and those that were made
    // ready before it was heard of these; and of these the others. In turn they would come after
    // all fifty.
    for name in &names[50..] {
        let before = sent_before(&shop, name, 1);
        assert!(before < 40, "{name} was told after {before} others");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zero_does_not_wait_for_all_that_is_near_zero_of_a_bulk_change() {
    let house = House::open().await;
    let (id, shop, names) = with_many(&house, "bulky", 100, 20).await;
    shop.state().push_takes = Duration::from_millis(20);
    for (nth, name) in names[1..].iter().enumerate() {
        house.count(name, if nth % 10 == 0 { 10 } else { 3 }, false).await;
    }
    let run = house.engine.push(&house.org, &id, PushScope::All, None).await.unwrap();
    until("it has begun", || !shop.state().sent.is_empty()).await;
    house.count(&names[0], 0, true).await;
    house.engine.wait_run(&house.org, &run, crate::house::PATIENCE).await.unwrap();
    house.settle().await;
    let before = sent_before(&shop, &names[0], 0);
    assert!(before < 60, "the zero was told after {before} others");
    assert!(names[1..].iter().all(|name| shop.shown(name).is_some_and(|shown| shown <= 10)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_verified_while_others_keep_coming() {
    let house = House::open().await;
    let (id, _, names) = with_many(&house, "apart", 2, 900).await;
    house.count(&names[0], 800, true).await;
    let end = tokio::time::Instant::now() + crate::house::PATIENCE;
    let mut units = 900;
    loop {
        units -= 1;
        house.count(&names[1], units, true).await;
        let state = house.listing(&id, &names[0]).await.state;
        if (state.base, state.in_flight) == (Some(800), None) {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "it is never looked for: {state:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.close().await;
}
