//! Bulk batches that vendors process later: fake shops, and Amazon's listings feeds.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use serde_json::json;
use trueup_channels::Secret;
use trueup_core::{ChannelId, Command, Location, SetOnHand, SkuSettings, Source};
use trueup_store::{Feed, Outcome, RunStatus, Submission};
use trueup_sync::{Engine, PushScope, listing_status};
use trueup_testkit::{Chance, Faults, SeedItem, Shop, SimClock, SimServer, amazon, spawn};

use crate::fake::FakeShop;
use crate::house::{House, PATIENCE, channel, counter, options, quantity, sku, until};
use crate::sims::enable_of;

/// Waits until something that is asked for is true.
async fn until_async(what: &str, check: impl AsyncFn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(tokio::time::Instant::now() < end, "it never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn feeds(house: &House, id: &ChannelId) -> Vec<Feed> {
    house.store.feeds(&house.org, id).await.unwrap()
}

/// Counts many SKUs with one command, so that they are owed together.
async fn count_all(house: &House, names: &[String], units: u64) {
    let item = |name: &String| SetOnHand {
        sku: sku(name),
        quantity: quantity(units),
        location: Location::main(),
        reason: None,
        settings: SkuSettings::default(),
        counted_at: None,
        if_version: None,
        publish: true,
    };
    let submission = Submission {
        org: house.org.clone(),
        command: Command::Bulk { items: names.iter().map(item).collect(), atomic: true },
        actor: Arc::from("test"),
        source: Source::Api,
        idempotency: None,
    };
    let outcome = house.store.submit(submission).await.unwrap();
    assert!(matches!(outcome, Outcome::Decided(Ok(_))), "{outcome:?}");
}

/// Opens a house whose six listings all show 10 and are raised to 30 by a feed that waits.
async fn raised_by_feed(house: &House) -> (ChannelId, Arc<FakeShop>, Vec<String>) {
    let names: Vec<String> = (0..6).map(|nth| format!("S{nth}")).collect();
    let mut listings: Vec<(&str, &str, i64)> =
        names.iter().map(|name| (name.as_str(), name.as_str(), 10)).collect();
    listings.push(("OTHER", "OTHER", 10));
    count_all(house, &names, 10).await;
    house.count("OTHER", 10, true).await;
    let (id, shop) = house.connect("bulky", &listings, |_| ()).await;
    house.settle().await;
    shop.state().hold_feeds = true;
    count_all(house, &names, 30).await;
    until("a feed is handed over", || !shop.state().feeds.is_empty()).await;
    until_async("it is kept", async || feeds(house, &id).await.len() == 1).await;
    (id, shop, names)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_in_a_feed_is_told_nothing_else_and_the_others_go_on() {
    let house = House::open().await;
    let (id, shop, names) = raised_by_feed(&house).await;
    let reads = shop.state().reads;
    house.count("S0", 0, true).await;
    house.count("OTHER", 0, true).await;
    until("another listing is told", || shop.shown("OTHER") == Some(0)).await;
    until("it is read back meanwhile", || shop.state().reads > reads).await;
    until("the feed is asked after", || shop.state().looks > 2).await;
    assert_eq!(shop.sent_to("S0"), [0_u64; 0], "its feed is open");
    let view = house.listing(&id, "S0").await;
    assert!(house.engine.in_feed_since(&house.org, &view).is_some());
    let row = house.store.connection(&house.org, &id).await.unwrap().unwrap();
    assert_eq!(listing_status(&view, &row), "pending");
    let run = house.push(&id, PushScope::Items(vec![(sku("S1"), None)])).await;
    assert_eq!((run.status, counter(&run, "skipped")), (RunStatus::Completed, 1), "{run:?}");
    assert_eq!(run.items[0]["reason"], "in_feed");
    shop.state().hold_feeds = false;
    house.settle().await;
    assert_eq!(shop.sent_to("S0"), [30, 0], "the zero goes when the feed has ended");
    for name in &names[1..] {
        assert_eq!(shop.sent_to(name), [30], "{name}");
    }
    assert!(feeds(&house, &id).await.is_empty());
    let view = house.listing(&id, "S0").await;
    assert_eq!(house.engine.in_feed_since(&house.org, &view), None);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_line_one_soon_after_the_other_goes_in_one_feed() {
    let house = House::open().await;
    let (_, shop, names) = raised_by_feed(&house).await;
    shop.state().hold_feeds = false;
    house.settle().await;
    shop.state().hold_feeds = true;
    let told = |name: &str| shop.sent_to(name).len();
    let before: usize = names.iter().map(|name| told(name)).sum();
    let (first, rest) = names.split_at(4);
    count_all(&house, first, 20).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    count_all(&house, rest, 10).await;
    until("a feed is handed over", || !shop.state().feeds.is_empty()).await;
    let items: Vec<usize> = shop.state().feeds.values().map(Vec::len).collect();
    assert_eq!(items, [6]);
    shop.state().hold_feeds = false;
    house.settle().await;
    assert_eq!(names.iter().map(|name| told(name)).sum::<usize>(), before + 6);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_leave_what_gathers_to_its_feed_and_count_it_as_pushed() {
    let house = House::open().await;
    let (id, shop, names) = raised_by_feed(&house).await;
    shop.state().hold_feeds = false;
    house.settle().await;
    shop.state().hold_feeds = true;
    let mut runs = Vec::new();
    for (names, units) in [(&names[..4], 20), (&names[4..], 25)] {
        count_all(&house, names, units).await;
        let scope = PushScope::Changed(names.iter().map(|name| sku(name)).collect());
        runs.push(house.engine.push(&house.org, &id, scope, None).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut pushed = Vec::new();
    for run in runs {
        let run = house.engine.wait_run(&house.org, &run, PATIENCE).await.unwrap();
        pushed.push((counter(&run, "pushed"), counter(&run, "skipped")));
    }
    assert_eq!(pushed, [(4, 0), (2, 0)]);
    let items: Vec<usize> = shop.state().feeds.values().map(Vec::len).collect();
    assert_eq!(items, [6]);
    shop.state().hold_feeds = false;
    house.settle().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_does_not_wait_for_pushes_that_go_one_by_one() {
    let house = House::open().await;
    let (_, shop, names) = raised_by_feed(&house).await;
    shop.state().hold_feeds = false;
    house.settle().await;
    shop.state().hold_feeds = true;
    shop.state().hold_pushes = true;
    house.count("OTHER", 0, true).await;
    until("a zero is on its way", || shop.state().pushing == 1).await;
    count_all(&house, &names, 40).await;
    until("a feed is handed over", || !shop.state().feeds.is_empty()).await;
    assert_eq!(shop.shown("OTHER"), Some(10), "the zero is still under way");
    shop.state().hold_pushes = false;
    shop.state().hold_feeds = false;
    house.settle().await;
    assert_eq!(shop.shown("OTHER"), Some(0));
    assert!(names.iter().all(|name| shop.shown(name) == Some(40)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_counts_what_a_feed_took_as_pushed() {
    let house = House::open().await;
    let (id, shop, names) = raised_by_feed(&house).await;
    shop.state().hold_feeds = false;
    house.settle().await;
    shop.state().hold_feeds = true;
    for name in &names {
        house.count(name, 40, false).await;
    }
    let items = names.iter().map(|name| (sku(name), None)).collect();
    let run = house.push(&id, PushScope::Items(items)).await;
    assert_eq!((run.status, counter(&run, "pushed")), (RunStatus::Completed, 6), "{run:?}");
    assert!(names.iter().all(|name| shop.shown(name) == Some(30)), "it is not processed yet");
    shop.state().hold_feeds = false;
    house.settle().await;
    assert!(names.iter().all(|name| shop.shown(name) == Some(40)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_followed_on_after_a_restart() {
    let house = House::open().await;
    let (id, shop, names) = raised_by_feed(&house).await;
    house.engine.stop().await;
    shop.state().refused.insert("S5".to_owned());
    shop.state().hold_feeds = false;
    let engine =
        Engine::start_with(house.store.clone(), options(), crate::fake::find).await.unwrap();
    assert!(engine.quiesce(PATIENCE).await);
    for name in &names[..5] {
        assert_eq!(shop.sent_to(name), [30], "{name}");
    }
    let refused = house.listing(&id, "S5").await;
    assert_eq!(refused.parked.unwrap().code, "not_pushable");
    assert!(refused.state.in_flight.is_none());
    assert!(feeds(&house, &id).await.is_empty());
    engine.stop().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_feed_left_is_read_and_sent_again() {
    let house = House::open().await;
    let (id, shop, names) = raised_by_feed(&house).await;
    // Two of them were applied before it broke off.
    for name in &names[..2] {
        shop.state().shown.insert(name.clone(), 30);
    }
    shop.state().lose_feeds = 1;
    shop.state().hold_feeds = false;
    house.settle().await;
    for name in &names {
        assert_eq!(shop.shown(name), Some(30), "{name}");
        assert!(house.listing(&id, name).await.state.in_flight.is_none());
    }
    assert!(names[..2].iter().all(|name| shop.sent_to(name).is_empty()), "they were read");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_go_the_bulk_way_once_it_was_seen_to_be_fast() {
    let house = House::open().await;
    let names: Vec<String> = (0..60).map(|nth| format!("S{nth}")).collect();
    let listings: Vec<(&str, &str, i64)> =
        names.iter().map(|name| (name.as_str(), name.as_str(), 10)).collect();
    count_all(&house, &names, 10).await;
    let (_, shop) = house.connect("hasty", &listings, |_| ()).await;
    house.settle().await;
    let few = &names[..20];
    count_all(&house, few, 9).await;
    house.settle().await;
    assert_eq!(shop.state().bulk, [0_u64; 0], "so few are sent sooner one by one");
    count_all(&house, &names, 20).await;
    house.settle().await;
    assert_eq!(shop.state().bulk.len(), 60);
    count_all(&house, few, 30).await;
    house.settle().await;
    assert_eq!(shop.state().bulk.len(), 80, "the last one was fast");
    assert!(few.iter().all(|name| shop.shown(name) == Some(30)));
    house.close().await;
}

/// More than the number from which a feed is the better way.
const MANY: usize = 1_520;

struct Seller {
    sim: amazon::Simulator,
    clock: SimClock,
    server: SimServer,
    id: ChannelId,
    names: Vec<String>,
}

impl Seller {
    /// Opens a seller with very many listings that show 3, and one more.
    async fn open(house: &House) -> Self {
        // A feed is looked for by the time at which it was made.
        let clock = SimClock::manual(SimClock::system().now());
        let sim = amazon::Simulator::new(amazon::Settings {
            apply_ms: 0,
            feed_queue_ms: 60_000,
            rate_scale: 10_000,
            clock: clock.clone(),
            ..amazon::Settings::default()
        });
        let names: Vec<String> = (0..MANY).map(|nth| format!("M{nth:04}")).collect();
        let other = SeedItem::new("OTHER", 3);
        let seeds = names.iter().map(|name| SeedItem::new(name, 3)).chain([other]).collect();
        sim.seed(seeds).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(sim.clone(), any).await.unwrap();
        count_all(house, &names, 3).await;
        house.count("OTHER", 3, true).await;
        let id = channel("amazon");
        let mut enable = enable_of(&sim.channel_config(&server.url));
        enable.credentials.insert("webhookSecret".to_owned(), Secret::new("hush"));
        house.engine.enable(&house.org, &id, enable).await.unwrap();
        let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
        assert_eq!(found.mapped(), u64::try_from(MANY + 1).unwrap());
        assert!(house.engine.quiesce(3 * PATIENCE).await);
        Self { sim, clock, server, id, names }
    }

    /// Raises the many, and waits until Amazon has their feed.
    async fn raise(&self, house: &House) {
        count_all(house, &self.names, 9).await;
        until_async("a feed is kept", async || feeds(house, &self.id).await.len() == 1).await;
        assert_eq!(feeds(house, &self.id).await[0].items.len(), MANY);
    }

    /// Ends the feed while the engine is stopped and starts another: a zero of M0001 that was
    /// owed beside the feed goes last, all others show 9.
    async fn ends_its_feed_while_stopped(&self, house: &House) -> Engine {
        house.engine.stop().await;
        self.end_feed();
        let kinds = trueup_channels::kind;
        let engine = Engine::start_with(house.store.clone(), options(), kinds).await.unwrap();
        until("the zero goes last", || self.sim.quantity("M0001") == Some(0)).await;
        assert!(engine.quiesce(3 * PATIENCE).await);
        let wrong = self.names.iter().filter(|name| self.sim.quantity(name) != Some(9));
        assert_eq!(wrong.collect::<Vec<_>>(), ["M0001"]);
        engine
    }

    fn end_feed(&self) {
        self.clock.advance(Duration::from_secs(120));
    }

    /// Says what Amazon says when a feed has ended.
    async fn tell_ended(&self, house: &House) {
        let mut headers = HeaderMap::new();
        headers.insert("x-trueup-webhook-secret", "hush".parse().unwrap());
        for feed in feeds(house, &self.id).await {
            let body = json!({
                "notificationType": "FEED_PROCESSING_FINISHED",
                "payload": {"feedProcessingFinishedNotification": {"feedId": feed.ticket}},
                "notificationMetadata": {"notificationId": feed.id},
            });
            let body = body.to_string();
            let received =
                house.engine.receive(&house.org, &self.id, &headers, body.as_bytes()).await;
            assert!(received.is_ok(), "{received:?}");
        }
    }

    /// How often each listing was patched, and how many feeds were made.
    fn sent(&self) -> (BTreeMap<String, usize>, usize) {
        let (mut patched, mut made) = (BTreeMap::new(), 0);
        for seen in self.sim.requests() {
            let path = seen.path.split('?').next().unwrap_or_default().to_owned();
            if seen.method == "PATCH" {
                let name = path.rsplit('/').next().unwrap().to_owned();
                *patched.entry(name).or_insert(0) += 1;
            } else if seen.method == "POST" && path.ends_with("/feeds") {
                made += 1;
            }
        }
        (patched, made)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn amazon_is_told_a_zero_beside_a_feed_and_a_restart_follows_the_feed() {
    let house = House::open_with(trueup_channels::kind).await;
    let seller = Seller::open(&house).await;
    seller.raise(&house).await;
    house.count("M0001", 0, true).await;
    house.count("OTHER", 0, true).await;
    until("the other is patched", || seller.sim.quantity("OTHER") == Some(0)).await;
    assert_eq!(seller.sim.quantity("M0001"), Some(3), "its feed is open");
    let engine = seller.ends_its_feed_while_stopped(&house).await;
    let (patched, made) = seller.sent();
    assert_eq!(made, 1, "nothing is sent twice");
    assert_eq!(patched, BTreeMap::from([("M0001".to_owned(), 1), ("OTHER".to_owned(), 1)]));
    assert!(feeds(&house, &seller.id).await.is_empty());
    let view = house.listing(&seller.id, "M0000").await;
    assert_eq!((view.state.base, view.state.in_flight), (Some(9), None));
    engine.stop().await;
    drop(seller.server);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fatal_feed_left_at_amazon_is_read_and_sent_again() {
    let house = House::open_with(trueup_channels::kind).await;
    let seller = Seller::open(&house).await;
    seller.sim.set_faults(Faults { feed_fatal: Chance::next(1), ..Faults::default() });
    seller.raise(&house).await;
    seller.end_feed();
    seller.tell_ended(&house).await;
    let wrong = || seller.names.iter().filter(|name| seller.sim.quantity(name) != Some(9)).count();
    until("all are told", || wrong() == 0).await;
    let (patched, made) = seller.sent();
    assert_eq!(made, 1, "few are left");
    // What it had applied is seen, and not sent again.
    let (applied, left) = seller.names.split_at(MANY / 2);
    assert!(applied.iter().all(|name| !patched.contains_key(name)), "{}", patched.len());
    assert!(left.iter().all(|name| patched.contains_key(name)), "{}", patched.len());
    drop(seller.server);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_whose_id_was_lost_is_found_again_and_none_is_made_beside_it() {
    let house = House::open_with(trueup_channels::kind).await;
    let seller = Seller::open(&house).await;
    // Making the feed is the first write.
    seller.sim.set_faults(Faults { dropped_after: Chance::next(1), ..Faults::default() });
    seller.raise(&house).await;
    let kept = feeds(&house, &seller.id).await;
    assert!(kept[0].ticket.starts_with("made at "), "its id was lost: {}", kept[0].ticket);
    house.count("M0001", 0, true).await;
    let engine = seller.ends_its_feed_while_stopped(&house).await;
    let (patched, made) = seller.sent();
    assert_eq!((made, patched), (1, BTreeMap::from([("M0001".to_owned(), 1)])));
    assert!(feeds(&house, &seller.id).await.is_empty());
    engine.stop().await;
    drop(seller.server);
    house.close().await;
}
