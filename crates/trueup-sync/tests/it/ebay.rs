//! eBay's limits, through the engine against a simulated seller account.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use trueup_channels::Secret;
use trueup_core::ChannelId;
use trueup_store::RevisionsNote;
use trueup_sync::{Clock, PullRequest, PushScope};
use trueup_testkit::{SeedItem, Shop, ebay, spawn};

use crate::house::{AheadClock, House, PATIENCE, channel, counter, quantity, sku, until};
use crate::sims::{enable_of, name, open, open_with};

#[tokio::test(flavor = "multi_thread")]
async fn more_offers_than_any_cache_holds_are_looked_up_once_each() {
    const OFFERS: usize = 300;
    let house = House::open_with(trueup_channels::kind).await;
    for nth in 0..OFFERS {
        house.count(&name(nth), 9, true).await;
    }
    let stalls = open_with(&house, &["ebay"], OFFERS, OFFERS).await;
    house.settle().await;
    let shop = &stalls[0].shop;
    let asked =
        |path: &str| shop.requests().iter().filter(|call| call.path.ends_with(path)).count();
    assert_eq!(asked("/offer"), OFFERS);
    let tokens = asked("/token");
    // One for each name that requests are made in, by the connection and while it is verified.
    assert!(tokens <= 8, "offers take no token's place: {tokens}");
    for nth in 0..OFFERS {
        house.count(&name(nth), 4, true).await;
    }
    house.settle().await;
    for nth in 0..OFFERS {
        assert_eq!(shop.quantity(&name(nth)), Some(4));
    }
    assert_eq!(asked("/offer"), OFFERS, "they are in the mappings");
    house.close().await;
}

/// Goes to noon of eBay's next day, so that no day ends within a test by itself.
fn to_noon(clock: &AheadClock) {
    let now = clock.now();
    let (_, day_ends) = trueup_channels::kind("ebay").unwrap().day_of(now);
    clock.advance(day_ends.micros_since(now) / 1_000_000 + 12 * 3_600);
}

/// Lets a listing have been revised so often more today.
async fn revised(house: &House, id: &ChannelId, clock: &AheadClock, times: usize) {
    let key = house.listing(id, "SKU-001").await.mapping.key;
    let (at, kind) = (clock.now(), trueup_channels::kind("ebay").unwrap());
    let note = RevisionsNote { keys: vec![key; times], at, day_began: kind.day_of(at).0 };
    house.store.note_revisions(&house.org, id, note).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_told_no_more_often_than_ebays_day_allows() {
    let clock = Arc::new(AheadClock::default());
    let house = House::open_by(trueup_channels::kind, clock.clone()).await;
    to_noon(&clock);
    house.count("SKU-001", 9, true).await;
    let stalls = open(&house, &["ebay"], 1).await;
    house.settle().await;
    let (id, shop) = (&stalls[0].id, &stalls[0].shop);
    let shows = async |units: i64| {
        house.engine.sweep(&house.org);
        until("eBay shows it", || shop.quantity("SKU-001") == Some(units)).await;
        house.settle().await;
    };
    let holds = async |units: u64, shown: i64| {
        house.count("SKU-001", units, true).await;
        let run = house.push(id, PushScope::All).await;
        assert_eq!(counter(&run, "skipped"), 1, "{units} is put off: {run:?}");
        assert_eq!(shop.quantity("SKU-001"), Some(shown));
        assert_eq!(house.engine.status(&house.org, id).await.unwrap().postponed, 1);
    };
    let explained = async || {
        let view = house.listing(id, "SKU-001").await;
        house.engine.revisions(&house.org, &view).unwrap()
    };
    assert_eq!(explained().await.used_today, 1);
    revised(&house, id, &clock, 149).await;
    // One a minute, whatever the direction; zeroes at once; then the newest number.
    holds(12, 9).await;
    assert!(explained().await.postponed_until.is_some_and(|at| at > clock.now()));
    holds(5, 9).await;
    house.count("SKU-001", 0, true).await;
    shows(0).await;
    holds(7, 0).await;
    holds(8, 0).await;
    clock.advance(61);
    shows(8).await;
    assert_eq!(explained().await.postponed_until, None);
    // The last ten are for zeroes and decreases.
    let used = usize::try_from(explained().await.used_today).unwrap();
    revised(&house, id, &clock, 240 - used).await;
    clock.advance(61);
    holds(20, 8).await;
    house.count("SKU-001", 6, true).await;
    shows(6).await;
    // All are used up: only a zero is tried.
    let used = usize::try_from(explained().await.used_today).unwrap();
    revised(&house, id, &clock, 250 - used).await;
    clock.advance(61);
    holds(4, 6).await;
    assert_eq!(explained().await.postponed_until, Some(explained().await.day_ends));
    house.count("SKU-001", 0, true).await;
    shows(0).await;
    house.count("SKU-001", 30, true).await;
    clock.advance(24 * 3_600);
    shows(30).await;
    assert_eq!(explained().await.used_today, 1, "a new day");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_calls_of_a_day_are_kept_for_what_could_be_oversold() {
    let house = House::open_with(trueup_channels::kind).await;
    house.count("SKU-001", 9, true).await;
    let sim = ebay::Simulator::new(ebay::Settings { calls_max: 1_000, ..Default::default() });
    sim.seed(vec![SeedItem::new("SKU-001", 3)]).unwrap();
    let server = spawn(sim.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let id = channel("ebay");
    let enable = enable_of(&sim.channel_config(&server.url));
    house.engine.enable(&house.org, &id, enable.clone()).await.unwrap();
    house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    house.settle().await;
    assert_eq!(sim.quantity("SKU-001"), Some(9));
    // Another application of the merchant's has used the day up, but for less than a tenth.
    sim.spend_calls("Inventory", 920);
    house.engine.enable(&house.org, &id, enable).await.unwrap();
    let figure = async || {
        let status = house.engine.status(&house.org, &id).await.unwrap();
        status.rate.get("inventory").and_then(|figure| figure.quota)
    };
    let end = tokio::time::Instant::now() + PATIENCE;
    while figure().await.is_none() {
        assert!(tokio::time::Instant::now() < end, "the quota was not read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = figure().await.unwrap();
    assert_eq!(before.limit, 1_000);
    assert!((1..100).contains(&before.remaining), "{before:?}");
    house.count("SKU-001", 12, true).await;
    let run = house.push(&id, PushScope::All).await;
    assert_eq!(counter(&run, "skipped"), 1, "a raise waits: {run:?}");
    assert_eq!(sim.quantity("SKU-001"), Some(9));
    for units in [5, 0] {
        house.count("SKU-001", units, true).await;
        let shown = || sim.quantity("SKU-001") == Some(units.try_into().unwrap());
        until("eBay shows it", shown).await;
    }
    assert!(figure().await.unwrap().remaining < before.remaining);
    assert_eq!(house.history("channel").await.len(), 0, "no outage is told");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_cannot_read_is_answered_with_what_was_last_told() {
    let house = House::open_with(trueup_channels::kind).await;
    for of in ["SKU-001", "SKU-002"] {
        house.count(of, 9, true).await;
    }
    let sim = ebay::Simulator::new(ebay::Settings::default());
    sim.seed(vec![SeedItem::new("SKU-001", 3), SeedItem::new("SKU-002", 3)]).unwrap();
    let server = spawn(sim.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let id = channel("ebay");
    let mut enable = enable_of(&sim.channel_config(&server.url));
    for (name, text) in [("checkUser", "ebay"), ("checkPassword", "0123456789abcdef")] {
        enable.credentials.insert(name.to_owned(), Secret::new(text));
    }
    house.engine.enable(&house.org, &id, enable).await.unwrap();
    house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    house.settle().await;
    let skus = ["SKU-001", "SKU-002", "nope"].map(str::to_owned);
    let ask = async || {
        let answers = house.engine.check_inventory(&house.org, &id, &skus).await.unwrap();
        answers.iter().map(|answer| (answer.is_known, answer.quantity)).collect::<Vec<_>>()
    };
    // Both were told 9; the first is asked for after a count that nobody was told of.
    house.count("SKU-001", 4, false).await;
    let first = house.engine.check_inventory(&house.org, &id, &skus[..1]).await.unwrap();
    assert_eq!((first[0].is_known, first[0].quantity), (true, 4));
    house.engine.stop().await;
    house.store.close().await.unwrap();
    assert_eq!(ask().await, [(true, 4), (true, 9), (false, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_listings_are_discovered_and_told_beside_the_others() {
    let house = House::open_with(trueup_channels::kind).await;
    let sim = ebay::Simulator::new(ebay::Settings::default());
    let mut items: Vec<SeedItem> = (0..250).map(|nth| SeedItem::new(name(nth), 3)).collect();
    for item in items.iter_mut().skip(200) {
        item.legacy = true;
    }
    sim.seed(items).unwrap();
    for nth in 0..250 {
        house.count(&name(nth), 8, true).await;
    }
    let server = spawn(sim.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let id = channel("ebay");
    let enable = enable_of(&sim.channel_config(&server.url));
    house.engine.enable(&house.org, &id, enable).await.unwrap();
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    assert_eq!(found.mapped(), 250, "each once");
    house.settle().await;
    for nth in 0..250 {
        assert_eq!(sim.quantity(&name(nth)), Some(8), "{}", name(nth));
    }
    let fields = house.listing(&id, &name(249)).await.mapping.fields;
    assert!(fields.contains_key("itemId"), "{fields:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sku_that_is_offered_on_two_marketplaces_is_told_once_for_both() {
    let house = House::open_with(trueup_channels::kind).await;
    let sim = ebay::Simulator::new(ebay::Settings::default());
    sim.seed(vec![SeedItem::new("SKU-001", 9)]).unwrap();
    sim.offer_elsewhere("SKU-001", "EBAY_DE", 4).unwrap();
    let server = spawn(sim.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    house.count("SKU-001", 9, true).await;
    let (here, there) = (channel("here"), channel("there"));
    for (id, marketplace) in [(&here, "EBAY_US"), (&there, "EBAY_DE")] {
        let mut enable = enable_of(&sim.channel_config(&server.url));
        enable.settings.insert("marketplaceId".to_owned(), marketplace.into());
        // What the second one keeps off must not be fought over.
        enable.rules.buffer = (id == &there).then_some(quantity(3));
        house.engine.enable(&house.org, id, enable).await.unwrap();
        house.engine.discover(&house.org, id, false, PATIENCE).await.unwrap();
        house.settle().await;
    }
    for units in [7, 0, 5] {
        house.count("SKU-001", units, true).await;
        house.settle().await;
        let units = i64::try_from(units).unwrap();
        assert_eq!(sim.quantity("SKU-001"), Some(units));
        assert_eq!(sim.elsewhere("SKU-001"), Some((units, units)), "item and offer");
    }
    let told = sim.requests().iter().filter(|call| call.path.ends_with("price_quantity")).count();
    assert_eq!(told, 3, "by one of the two connections");
    let follows = async |id| house.listing(id, "SKU-001").await.state.follows;
    assert_eq!((follows(&here).await, follows(&there).await), (false, true));
    // The other marketplace's connection reads what its own shoppers see.
    let run = house.pull(&there, trueup_sync::PullRequest::default()).await;
    assert_eq!((counter(&run, "matched"), counter(&run, "drifted")), (1, 0), "{run:?}");
    assert_eq!(house.engine.status(&house.org, &there).await.unwrap().drifted, 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variations_of_one_listing_use_its_day_together() {
    let clock = Arc::new(AheadClock::default());
    let house = House::open_by(trueup_channels::kind, clock.clone()).await;
    to_noon(&clock);
    let names = ["SKU-001", "SKU-002", "SKU-003"];
    let sim = ebay::Simulator::new(ebay::Settings::default());
    sim.seed(names.map(|name| SeedItem::new(name, 3)).to_vec()).unwrap();
    sim.join(&names[..2]).unwrap();
    let server = spawn(sim.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    for name in names {
        house.count(name, 9, true).await;
    }
    let id = channel("ebay");
    let enable = enable_of(&sim.channel_config(&server.url));
    house.engine.enable(&house.org, &id, enable).await.unwrap();
    house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    house.settle().await;
    assert_eq!(names.map(|name| sim.revisions(name)), [Some(2), Some(2), Some(1)]);
    let used = async |of| {
        let view = house.listing(&id, of).await;
        house.engine.revisions(&house.org, &view).unwrap().used_today
    };
    assert_eq!((used("SKU-001").await, used("SKU-002").await, used("SKU-003").await), (2, 2, 1));
    // The first one uses up what is free to all.
    revised(&house, &id, &clock, 238).await;
    assert_eq!(used("SKU-001").await, 240);
    clock.advance(61);
    for name in &names[1..] {
        house.count(name, 12, true).await;
    }
    until("the other listing is told", || sim.quantity("SKU-003") == Some(12)).await;
    let asked = PushScope::Items(vec![(sku("SKU-002"), None)]);
    let run = house.push(&id, asked).await;
    assert_eq!(run.items[0]["reason"], "postponed", "{run:?}");
    assert_eq!(names.map(|name| sim.quantity(name)), [Some(9), Some(9), Some(12)]);
    assert_eq!((used("SKU-002").await, used("SKU-003").await), (240, 2));
    // Downwards it goes.
    house.count("SKU-002", 5, true).await;
    until("it is told", || sim.quantity("SKU-002") == Some(5)).await;
    house.settle().await;
    assert_eq!(used("SKU-001").await, 241);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pull_sees_an_offer_that_shows_less_than_its_item() {
    const LISTINGS: usize = 210;
    let house = House::open_with(trueup_channels::kind).await;
    let shop = ebay::Simulator::new(ebay::Settings::default());
    let offered = |nth: usize| SeedItem {
        offer_quantity: (nth == 7).then_some(4),
        ..SeedItem::new(name(nth), 9)
    };
    shop.seed((0..LISTINGS).map(offered).collect()).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = spawn(shop.clone(), any).await.unwrap();
    let id = channel("ebay");
    let mut enable = enable_of(&shop.channel_config(&server.url));
    enable.dry_run = true;
    house.engine.enable(&house.org, &id, enable).await.unwrap();
    for nth in 0..LISTINGS {
        house.count(&name(nth), 9, false).await;
    }
    house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    let of_inventory = |path: &str| path.ends_with("/inventory_item");
    let pages = || {
        let calls = shop.requests();
        calls.iter().filter(|c| of_inventory(&c.path) && c.query.contains("limit=200")).count()
    };
    let mut before = pages();
    // The first pull finds out which offers share their item's number; the second sweeps those.
    for swept in [0, 2] {
        let run = house.pull(&id, PullRequest::default()).await;
        let run_item = |of: &str| {
            let items = run.items.as_array().unwrap();
            items.iter().find(|item| item["sku"] == of).map(|item| item["channel"].clone())
        };
        assert_eq!(run_item(&name(7)), Some(4.into()), "{swept} pages");
        assert_eq!(counter(&run, "matched"), u64::try_from(LISTINGS - 1).unwrap());
        assert_eq!(pages() - before, swept);
        before = pages();
    }
    drop(server);
    house.close().await;
}
