//! One list of cases that every channel passes, run through the real engine and its transport
//! against each vendor's simulator: without faults, with every fault by itself, and with all of
//! them together. What a case asks of a channel is chosen by its capabilities.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use trueup_channels::{Capabilities, Missing, Secret, Settings};
use trueup_core::{
    ChannelId, Command, Location, Org, Quantity, RestockPolicy, SetOnHand, Sku, SkuSettings,
    Source, Strategy, Timestamp,
};
use trueup_store::{
    Connection, ListingQuery, ListingView, RuleSettings, RunStatus, Store, Submission, UnmappedLine,
};
use trueup_sync::{
    Clock, Enable, Engine, EngineError, EngineOptions, MappingDraft, PullRequest, PushScope,
    SecretKey,
};
use trueup_test_store::TestStore;
use trueup_testkit::{
    AnySimulator, Chance, Down, FaultKind, Faults, FulfilledBy, SeedItem, SimServer, amazon, ebay,
    limits, shopify,
};

use crate::served;

/// How long anything may take before a case fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an outage lasts in which a case begins.
const OUTAGE: Duration = Duration::from_millis(300);
/// What every listing shows at the beginning.
const SEEDED: i64 = 20;
/// How many listings share a batch with a bad one.
const BATCH: usize = 30;
/// How long a listing may show a wrong number before the settle time of a channel whose word is
/// its reading is jumped over, if the channel lied or said to slow down.
const JUMP_PATIENCE: Duration = Duration::from_secs(3);
/// How long one look for orders may take; one that a vendor slowed down is left to come later.
const HEAR_PATIENCE: Duration = Duration::from_secs(3);
/// How often a settle time is jumped over for one number.
const JUMPS_MAX: u32 = 8;
/// How often a run is asked for that a fault may end.
const RUNS_MAX: u32 = 10;
/// The listing whose order comes before its mapping, and the SKU that it is mapped to then.
const UNMAPPED: &str = "late";
const MAPPED_LATE: &str = "late-ours";
const HOOK_SECRET: &str = shopify::CLIENT_SECRET;

type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What a channel must do, whatever the weather.
struct Case {
    name: &'static str,
    applies: fn(&Stand) -> bool,
    run: for<'a> fn(&'a Stand) -> Running<'a>,
}

const ALWAYS: fn(&Stand) -> bool = |_| true;

const CASES: [Case; 18] = [
    Case { name: "sets", applies: ALWAYS, run: |stand| Box::pin(sets(stand)) },
    Case { name: "asked twice", applies: ALWAYS, run: |stand| Box::pin(asked_twice(stand)) },
    Case { name: "one bad item", applies: ALWAYS, run: |stand| Box::pin(one_bad_item(stand)) },
    Case { name: "absent", applies: ALWAYS, run: |stand| Box::pin(absent(stand)) },
    Case { name: "untracked", applies: compares, run: |stand| Box::pin(untracked(stand)) },
    Case { name: "below zero", applies: compares, run: |stand| Box::pin(below_zero(stand)) },
    Case { name: "changed there", applies: says_so, run: |stand| Box::pin(changed_there(stand)) },
    Case { name: "ships itself", applies: ships, run: |stand| Box::pin(ships_itself(stand)) },
    Case { name: "sold, cancelled", applies: ALWAYS, run: |stand| Box::pin(sold(stand)) },
    Case { name: "expired tokens", applies: ALWAYS, run: |stand| Box::pin(expired(stand)) },
    Case { name: "expired midway", applies: ALWAYS, run: |stand| Box::pin(expired_midway(stand)) },
    Case { name: "came back", applies: ALWAYS, run: |stand| Box::pin(came_back(stand)) },
    Case { name: "not paid", applies: waits, run: |stand| Box::pin(not_paid(stand)) },
    Case { name: "refunded", applies: refunds, run: |stand| Box::pin(refunded(stand)) },
    Case { name: "edited", applies: edits, run: |stand| Box::pin(edited(stand)) },
    Case { name: "not yet mapped", applies: ALWAYS, run: |stand| Box::pin(not_yet_mapped(stand)) },
    Case { name: "forged", applies: ALWAYS, run: |stand| Box::pin(forged(stand)) },
    Case { name: "not granted", applies: ALWAYS, run: |stand| Box::pin(not_granted(stand)) },
];

/// A channel that compares has listings without a number and with one below zero.
fn compares(stand: &Stand) -> bool {
    stand.capabilities.compare_and_set
}

/// A channel that tells of orders before they are paid for.
fn waits(stand: &Stand) -> bool {
    matches!(stand.shop, AnySimulator::Amazon(_) | AnySimulator::Ebay(_))
}

/// A channel whose refunds name money and no units.
fn refunds(stand: &Stand) -> bool {
    matches!(stand.shop, AnySimulator::Ebay(_))
}

/// A channel whose orders can be edited.
fn edits(stand: &Stand) -> bool {
    matches!(stand.shop, AnySimulator::Shopify(_))
}

/// A channel whose word is its number; elsewhere a reading counts only after a quarter of an hour.
fn says_so(stand: &Stand) -> bool {
    !stand.capabilities.verify_by_reading
}

fn ships(stand: &Stand) -> bool {
    stand.vendor == "amazon"
}

async fn sets(stand: &Stand) {
    for units in [7, 0, 12, 3] {
        stand.count("sets", units).await;
        stand.shows("sets", units).await;
    }
}

async fn asked_twice(stand: &Stand) {
    stand.count("twice", 9).await;
    stand.shows("twice", 9).await;
    for _ in 0..2 {
        stand.push("twice").await;
    }
    stand.shows("twice", 9).await;
    assert_eq!(stand.on_hand("twice").await, 9);
}

async fn one_bad_item(stand: &Stand) {
    let names: Vec<String> = (0..BATCH).map(batch_name).collect();
    let bad = batch_name(5);
    stand.shop.faults().update(|faults| faults.poison = BTreeSet::from([bad.clone()]));
    for name in &names {
        stand.count(name, 4).await;
    }
    for name in names.iter().filter(|name| **name != bad) {
        stand.shows(name, 4).await;
    }
    stand.parked(&bad).await;
    assert_eq!(stand.shop.quantity(&bad), Some(SEEDED));
    stand.shop.faults().update(|faults| faults.poison.clear());
    stand.push(&bad).await;
    stand.shows(&bad, 4).await;
}

/// What is not there is no zero: the ledger keeps its number, the listing its reason.
async fn absent(stand: &Stand) {
    let name = match stand.vendor {
        "shopify" => "inventoryItemId",
        "amazon" => "sellerSku",
        _ => "sku",
    };
    let value = if stand.vendor == "shopify" { "1" } else { "absent" };
    stand.count("absent", 3).await;
    stand.map("absent", &[(name, value)], false).await;
    stand.parked("absent").await;
    stand.pull("absent").await;
    assert_eq!(stand.on_hand("absent").await, 3);
}

async fn untracked(stand: &Stand) {
    stand.count("untracked", 3).await;
    stand.parked("untracked").await;
    assert_eq!(stand.shop.quantity("untracked"), Some(SEEDED), "nothing is overwritten blindly");
}

async fn below_zero(stand: &Stand) {
    stand.shop.set_quantity("negative", -2).unwrap();
    stand.pull("negative").await;
    stand.shows("negative", 20).await;
    assert_eq!(stand.on_hand("negative").await, 20);
}

async fn changed_there(stand: &Stand) {
    stand.shop.set_quantity("moved", 99).unwrap();
    stand.pull("moved").await;
    stand.shows("moved", 20).await;
    assert_eq!(stand.on_hand("moved").await, 20);
}

/// What the channel itself ships is read and never told a number.
async fn ships_itself(stand: &Stand) {
    stand.map("fba", &[("sellerSku", "fba")], true).await;
    stand.count("fba", 5).await;
    stand.push("fba").await;
    stand.settle().await;
    assert_eq!(stand.shop.quantity("fba"), Some(SEEDED));
}

async fn sold(stand: &Stand) {
    let order = stand.shop.sell("sold", 2).unwrap();
    stand.hears("sold", SEEDED - 2).await;
    for _ in 0..2 {
        stand.hear().await;
    }
    assert_eq!(stand.on_hand("sold").await, SEEDED - 2, "an order is booked once");
    stand.shows("sold", 18).await;
    stand.shop.cancel(&order.order_id).unwrap();
    stand.hears("sold", SEEDED).await;
    stand.shows("sold", 20).await;
}

async fn expired(stand: &Stand) {
    stand.shop.expire_tokens();
    stand.count("token", 8).await;
    stand.shows("token", 8).await;
}

/// Tokens end between the calls of a batch and between the pages of a sweep.
async fn expired_midway(stand: &Stand) {
    let names: Vec<String> = (0..BATCH).map(batch_name).collect();
    for (at, name) in names.iter().enumerate() {
        stand.count(name, 6).await;
        if at % 7 == 3 {
            stand.shop.expire_tokens();
        }
    }
    for name in &names {
        stand.shows(name, 6).await;
    }
    let skus: Vec<Sku> = names.iter().map(|name| Sku::new(name).unwrap()).collect();
    let scope = PushScope::Items(skus.iter().map(|sku| (sku.clone(), None)).collect());
    let run = async || stand.engine.push(&stand.org, &stand.id, scope.clone(), None).await;
    stand.completes_while_tokens_end(run).await;
    let request = PullRequest { skus: Some(skus.clone()), ..PullRequest::default() };
    let run = async || stand.engine.pull(&stand.org, &stand.id, request.clone()).await;
    stand.completes_while_tokens_end(run).await;
    for name in &names {
        assert_eq!(stand.on_hand(name).await, 6, "{name}");
        stand.shows(name, 6).await;
    }
}

/// What comes back goes where the connection says, once for each change of its order: a part of
/// it where the vendor can, and then the rest.
async fn came_back(stand: &Stand) {
    let table = [
        ("restock", RestockPolicy::Restock),
        ("quarantine", RestockPolicy::Quarantine),
        ("nothing", RestockPolicy::Nothing),
    ];
    for (name, restock) in table {
        stand.enables(&stand.id, |enable| enable.restock = restock).await.unwrap();
        let order = stand.shop.sell(name, 4).unwrap();
        stand.hears(name, SEEDED - 4).await;
        let mut steps = vec![4];
        if let AnySimulator::Shopify(sim) = &stand.shop {
            sim.refund(&order.order_id, 1, true).unwrap();
            steps.insert(0, 1);
        }
        let last = steps.len() - 1;
        for (at, back) in steps.into_iter().enumerate() {
            if at == last {
                stand.shop.cancel(&order.order_id).unwrap();
            }
            let (main, aside) = match restock {
                RestockPolicy::Restock => (SEEDED - 4 + back, 0),
                RestockPolicy::Quarantine => (SEEDED - 4, back),
                RestockPolicy::Nothing => (SEEDED - 4, 0),
            };
            stand.hears_at(name, &Location::quarantine(), aside).await;
            stand.hears(name, main).await;
            // The channel put it up for sale again by itself.
            let shown = async || stand.shop.quantity(name) == Some(main);
            stand.until(&format!("{name} shows {main}"), shown).await;
            for _ in 0..2 {
                stand.hear().await;
            }
            let held = stand.level(name, &Location::quarantine()).await;
            assert_eq!((stand.on_hand(name).await, held), (main, aside), "{name}");
        }
    }
    stand.enables(&stand.id, |_| ()).await.unwrap();
}

/// An order that nobody has paid for holds its units until it is paid for or cancelled.
async fn not_paid(stand: &Stand) {
    let sell_unpaid = |units| match &stand.shop {
        AnySimulator::Amazon(sim) => sim.sell_unpaid("pending", units).unwrap(),
        AnySimulator::Ebay(sim) => sim.sell_unpaid("pending", units).unwrap(),
        AnySimulator::Shopify(_) => panic!("it tells of paid orders only"),
    };
    let (paid, given_up) = (sell_unpaid(2), sell_unpaid(3));
    stand.holds("pending", 5).await;
    assert_eq!(stand.on_hand("pending").await, SEEDED);
    stand.shows("pending", SEEDED - 5).await;
    match &stand.shop {
        AnySimulator::Amazon(sim) => sim.pay(&paid.order_id).unwrap(),
        AnySimulator::Ebay(sim) => sim.pay(&paid.order_id).unwrap(),
        AnySimulator::Shopify(_) => {}
    }
    stand.hears("pending", SEEDED - 2).await;
    stand.holds("pending", 3).await;
    stand.shows("pending", SEEDED - 5).await;
    stand.shop.cancel(&given_up.order_id).unwrap();
    stand.holds("pending", 0).await;
    stand.shows("pending", SEEDED - 2).await;
    assert_eq!(stand.on_hand("pending").await, SEEDED - 2);
}

/// Money that is given back says nothing of units, but for all of it before anything was shipped:
/// then nothing will be, and what the units become is the connection's to say.
async fn refunded(stand: &Stand) {
    let AnySimulator::Ebay(sim) = &stand.shop else { return };
    let sell = |units| stand.shop.sell("refunded", units).unwrap();
    let (partly, shipped) = (sell(4), sell(3));
    stand.hears("refunded", SEEDED - 7).await;
    sim.refund(&partly.order_id, 400).unwrap();
    sim.ship(&shipped.order_id).unwrap();
    sim.refund(&shipped.order_id, 1_000).unwrap();
    for _ in 0..2 {
        stand.hear().await;
    }
    assert_eq!(stand.on_hand("refunded").await, SEEDED - 7);
    sim.refund(&partly.order_id, 600).unwrap();
    stand.hears("refunded", SEEDED - 3).await;
    // eBay puts nothing up for sale again by itself.
    stand.shows("refunded", SEEDED - 3).await;
}

/// An order of which there is more or less than there was.
async fn edited(stand: &Stand) {
    let AnySimulator::Shopify(sim) = &stand.shop else { return };
    let order = stand.shop.sell("edited", 4).unwrap();
    stand.hears("edited", SEEDED - 4).await;
    for left in [6, 1, 3] {
        sim.edit_order(&order.order_id, left).unwrap();
        stand.hears("edited", SEEDED - left).await;
        for _ in 0..2 {
            stand.hear().await;
        }
        assert_eq!(stand.on_hand("edited").await, SEEDED - left, "{left} are left");
        stand.shows("edited", SEEDED - left).await;
    }
    stand.shop.cancel(&order.order_id).unwrap();
    stand.hears("edited", SEEDED).await;
    stand.shows("edited", SEEDED).await;
}

/// An order of a listing that nobody has mapped is kept to be seen, and booked once it is.
async fn not_yet_mapped(stand: &Stand) {
    let order = stand.shop.sell(UNMAPPED, 2).unwrap();
    stand.until("an order is kept", async || !stand.unmapped().await.is_empty()).await;
    for _ in 0..2 {
        stand.hear().await;
    }
    let kept = stand.unmapped().await;
    let seen: Vec<_> = kept.iter().map(|line| (line.order_id.as_str(), line.sold)).collect();
    let [(id, 2)] = seen[..] else { panic!("{seen:?}") };
    assert!(order.order_id.ends_with(id), "{id}");
    stand.count(MAPPED_LATE, 30).await;
    let listing = stand.shop.listing(UNMAPPED).unwrap();
    let fields: Vec<(&str, &str)> = listing
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    stand.map(MAPPED_LATE, &fields, false).await;
    stand.hears(MAPPED_LATE, 28).await;
    for _ in 0..2 {
        stand.hear().await;
    }
    assert_eq!(stand.on_hand(MAPPED_LATE).await, 28, "an order is booked once");
    assert_eq!(stand.unmapped().await, []);
    stand.shows(UNMAPPED, 28).await;
}

/// What is not granted is named, and nothing changes until it is.
async fn not_granted(stand: &Stand) {
    let before = stand.row(&stand.id).await.unwrap();
    let new = ChannelId::new("new").unwrap();
    let lacking = stand.withhold_orders();
    for id in [&new, &stand.id] {
        let changed = |enable: &mut Enable| enable.strategy = Some(Strategy::Manual);
        let missing = stand.enables(id, changed).await.unwrap_err();
        let named: Vec<&str> = missing.iter().map(|missing| missing.what.as_str()).collect();
        assert_eq!(named, [lacking], "{missing:?}");
    }
    assert_eq!(stand.row(&new).await, None);
    let after = stand.row(&stand.id).await.unwrap();
    let of = |row: &Connection| (row.strategy, row.settings.clone(), row.created_at);
    assert_eq!(of(&after), of(&before));
    stand.grant_orders();
    stand.enables(&stand.id, |_| ()).await.unwrap();
    stand.count("sets", 14).await;
    stand.shows("sets", 14).await;
}

async fn forged(stand: &Stand) {
    let (engine, org) = (&stand.engine, &stand.org);
    for body in ["", "{}", "{\"id\": 1}"] {
        let mut headers = HeaderMap::new();
        for name in ["x-shopify-hmac-sha256", "x-api-key", "x-ebay-signature"] {
            headers.insert(name, "Zm9yZ2Vk".parse().unwrap());
        }
        let received = engine.receive(org, &stand.id, &headers, body.as_bytes()).await;
        assert!(received.is_err(), "{received:?}");
    }
}

/// The weather that has them all.
const EVERYTHING: &str = "everything at once";

/// What strikes in it, whichever vendor it is. (An Amazon feed breaks off only where there are
/// more listings than a suite should have.)
const STRIKES: [FaultKind; 15] = [
    FaultKind::ResponseLag,
    FaultKind::WebhookLag,
    FaultKind::WebhookLost,
    FaultKind::WebhookDuplicated,
    FaultKind::WebhookReordered,
    FaultKind::Throttled,
    FaultKind::ServerError,
    FaultKind::Unauthorized,
    FaultKind::DroppedAfter,
    FaultKind::HungAfter,
    FaultKind::Lie,
    FaultKind::Busy,
    FaultKind::Poison,
    FaultKind::Down,
    FaultKind::ExpireTokens,
];

/// The weathers: a name, the faults, and whether each case begins in an outage.
fn weathers() -> Vec<(&'static str, Faults)> {
    let often = Chance::per_mille(80);
    let of = |change: fn(&mut Faults, Chance)| {
        let mut faults = Faults { seed: Some(11), ..Faults::default() };
        change(&mut faults, often);
        faults
    };
    let all = of(|faults, _| {
        // For certain once, and then by chance.
        let seldom = Chance { per_mille: 25, next: 1 };
        (faults.throttled, faults.server_error, faults.dropped_after) = (seldom, seldom, seldom);
        (faults.busy, faults.unauthorized) = (seldom, Chance { per_mille: 10, next: 1 });
        (faults.hung_after, faults.hang_ms, faults.response_lag_ms) = (Chance::next(1), 2_500, 5);
        (faults.lie, faults.expire_tokens) = (Chance::next(2), true);
        let often = Chance { per_mille: 200, next: 1 };
        (faults.webhook_lost, faults.webhook_lag_ms) = (often, 50);
        (faults.webhook_duplicated, faults.webhook_reordered) = (often, often);
        faults.down = Some(Down::Unavailable);
    });
    vec![
        ("fair", of(|_, _| ())),
        ("throttled", of(|faults, often| faults.throttled = often)),
        ("server errors", of(|faults, often| faults.server_error = often)),
        ("refused tokens", of(|faults, _| faults.unauthorized = Chance::per_mille(30))),
        ("lost answers", of(|faults, often| faults.dropped_after = often)),
        (
            "hung answers",
            of(|faults, _| (faults.hung_after, faults.hang_ms) = (Chance::next(3), 2_500)),
        ),
        ("busy", of(|faults, often| faults.busy = often)),
        ("slow", of(|faults, _| faults.response_lag_ms = 30)),
        ("lost webhooks", of(|faults, _| faults.webhook_lost = Chance::per_mille(500))),
        ("doubled webhooks", of(|faults, _| faults.webhook_duplicated = Chance::per_mille(500))),
        ("disordered webhooks", of(|faults, _| faults.webhook_reordered = Chance::per_mille(500))),
        ("late webhooks", of(|faults, _| faults.webhook_lag_ms = 200)),
        ("unavailable", of(|faults, _| faults.down = Some(Down::Unavailable))),
        ("unreachable", of(|faults, _| faults.down = Some(Down::Refused))),
        ("lies", of(|faults, _| faults.lie = Chance::next(2))),
        (EVERYTHING, all),
    ]
}

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    #[allow(clippy::disallowed_methods, reason = "the edge of the tests is here")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
    }
}

/// A merchant with one connected channel.
struct Stand {
    vendor: &'static str,
    engine: Engine,
    store: Arc<dyn Store>,
    org: Org,
    id: ChannelId,
    shop: AnySimulator,
    capabilities: Capabilities,
    enable: Enable,
    _server: SimServer,
    _place: TestStore,
}

fn batch_name(nth: usize) -> String {
    format!("batch-{nth:02}")
}

fn simulator(vendor: &str) -> AnySimulator {
    match vendor {
        "shopify" => shopify::Simulator::new(shopify::Settings {
            bucket: limits::Rate { milli_per_second: 2_000_000, burst: 20_000 },
            ..shopify::Settings::default()
        })
        .into(),
        "amazon" => amazon::Simulator::new(amazon::Settings {
            rate_scale: 500,
            apply_ms: 50,
            ..amazon::Settings::default()
        })
        .into(),
        _ => ebay::Simulator::default().into(),
    }
}

/// Takes the simulator's webhooks to the engine, with whatever signature they have.
async fn hook(id: ChannelId, org: Org) -> (String, Arc<OnceLock<Engine>>) {
    let engine: Arc<OnceLock<Engine>> = Arc::default();
    let known = engine.clone();
    let take = async move |headers: HeaderMap, body: Bytes| {
        let Some(engine) = known.get() else { return StatusCode::SERVICE_UNAVAILABLE };
        match engine.receive(&org, &id, &headers, &body).await {
            Ok(_) => StatusCode::OK,
            Err(_) => StatusCode::UNAUTHORIZED,
        }
    };
    let router = axum::Router::new().route("/hook", post(take));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, engine)
}

/// Makes the body of `enable` out of what the simulator says that it should be.
fn enable_of(vendor: &str, config: &Value) -> Enable {
    let kind = trueup_channels::kind(vendor).unwrap();
    let mut enable = Enable {
        kind: Some(vendor.to_owned()),
        sync_inventory: true,
        strategy: Some(Strategy::MasterWins),
        endpoint: config["endpoint"].as_str().map(str::to_owned),
        ..Enable::default()
    };
    for (name, value) in config.as_object().unwrap() {
        if kind.setting_names().contains(&name.as_str()) {
            enable.settings.insert(name.clone(), value.clone());
        }
    }
    for (name, text) in config["credentials"].as_object().unwrap() {
        enable.credentials.insert(name.clone(), Secret::new(text.as_str().unwrap()));
    }
    if vendor != "ebay" {
        enable.credentials.insert("webhookSecret".into(), Secret::new(HOOK_SECRET));
    }
    enable
}

impl Stand {
    async fn open(vendor: &'static str) -> Self {
        let place = TestStore::new().await;
        let now = Arc::new(|| WallClock.now());
        let store = place.open(now).await;
        let options = EngineOptions {
            allow_private_endpoints: true,
            keys: SecretKey::new([5; 32]).into(),
            request_timeout: Duration::from_secs(1),
            public_url: None,
            orders_overlap: trueup_sync::ORDERS_OVERLAP,
            clock: Arc::new(WallClock),
        };
        let engine = Engine::start(store.clone(), options).await.unwrap();
        let (org, id) = (Org::new("acme").unwrap(), ChannelId::new(vendor).unwrap());
        let shop = simulator(vendor);
        let mut names: Vec<String> = (0..BATCH).map(batch_name).collect();
        let single = [
            "sets",
            "twice",
            "untracked",
            "negative",
            "moved",
            "sold",
            "token",
            "restock",
            "quarantine",
            "nothing",
            "pending",
            "refunded",
            "edited",
        ];
        names.extend(single.map(str::to_owned));
        let mut seeds: Vec<SeedItem> =
            names.iter().map(|name| SeedItem::new(name.clone(), SEEDED)).collect();
        seeds.push(SeedItem::new(UNMAPPED, SEEDED));
        for seed in &mut seeds {
            seed.tracked = seed.sku != "untracked";
        }
        if vendor == "amazon" {
            let fulfilled_by = FulfilledBy::Channel;
            seeds.push(SeedItem { fulfilled_by, ..SeedItem::new("fba", SEEDED) });
        }
        shop.seed(seeds).unwrap();
        let (url, receiver) = hook(id.clone(), org.clone()).await;
        shop.set_webhook(&url, HOOK_SECRET).unwrap();
        let server = served(shop.clone()).await;
        let enable = enable_of(vendor, &shop.channel_config(&server.url));
        let settings =
            Settings { fields: enable.settings.clone(), credentials: enable.credentials.clone() };
        let channel = trueup_channels::kind(vendor).unwrap().open(&settings);
        let capabilities =
            channel.unwrap_or_else(|wrong| panic!("{wrong:?}")).capabilities().clone();
        let stand = Self {
            vendor,
            engine,
            store,
            org,
            id,
            shop,
            capabilities,
            enable: enable.clone(),
            _server: server,
            _place: place,
        };
        for name in &names {
            stand.count(name, SEEDED).await;
        }
        stand.engine.enable(&stand.org, &stand.id, enable).await.unwrap();
        assert!(receiver.set(stand.engine.clone()).is_ok());
        let found = stand.engine.discover(&stand.org, &stand.id, false, PATIENCE).await.unwrap();
        assert_eq!(found.proposals.iter().filter(|p| p.sku.is_some()).count(), names.len());
        stand.settle().await;
        stand
    }

    async fn count(&self, of: &str, units: i64) {
        let command = Command::SetOnHand(SetOnHand {
            sku: Sku::new(of).unwrap(),
            quantity: Quantity::new(u64::try_from(units).unwrap()).unwrap(),
            location: Location::main(),
            reason: None,
            settings: SkuSettings::default(),
            counted_at: None,
            if_version: None,
            publish: true,
        });
        let submission = Submission {
            org: self.org.clone(),
            command,
            actor: Arc::from("test"),
            source: Source::Api,
            idempotency: None,
        };
        self.store.submit(submission).await.unwrap();
    }

    async fn on_hand(&self, of: &str) -> i64 {
        self.level(of, &Location::main()).await
    }

    async fn level(&self, of: &str, at: &Location) -> i64 {
        let answer = self.store.sku(&self.org, &Sku::new(of).unwrap()).await.unwrap().unwrap();
        answer.state.level(at).map_or(0, |level| level.on_hand.get())
    }

    async fn row(&self, id: &ChannelId) -> Option<Connection> {
        self.store.connection(&self.org, id).await.unwrap()
    }

    async fn unmapped(&self) -> Vec<UnmappedLine> {
        self.store.unmapped_lines(&self.org, &self.id, None, 10).await.unwrap().items
    }

    /// Takes the right to orders from the application; returns how its lack is named.
    fn withhold_orders(&self) -> &'static str {
        match &self.shop {
            AnySimulator::Shopify(sim) => {
                let others = shopify::SCOPES.iter().filter(|scope| **scope != "read_orders");
                sim.set_scopes(&others.copied().collect::<Vec<_>>());
                "scopes/read_orders"
            }
            AnySimulator::Amazon(sim) => {
                sim.withhold_role("Inventory and Order Tracking");
                "roles/inventory_and_order_tracking"
            }
            AnySimulator::Ebay(sim) => {
                sim.withhold_scope("sell.fulfillment");
                "scopes/sell.fulfillment"
            }
        }
    }

    fn grant_orders(&self) {
        match &self.shop {
            AnySimulator::Shopify(sim) => sim.set_scopes(&shopify::SCOPES),
            AnySimulator::Amazon(sim) => sim.grant_role("Inventory and Order Tracking"),
            AnySimulator::Ebay(sim) => sim.grant_scope("sell.fulfillment"),
        }
    }

    /// Enables a channel as it was enabled at first but for a change, or says what it lacks; a
    /// fault of the vendor is waited out.
    async fn enables(
        &self,
        id: &ChannelId,
        change: impl Fn(&mut Enable),
    ) -> Result<Connection, Vec<Missing>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut enable = self.enable.clone();
            change(&mut enable);
            match self.engine.enable(&self.org, id, enable).await {
                Ok(row) => return Ok(row),
                Err(EngineError::Incomplete(missing)) => return Err(missing),
                Err(EngineError::Channel(error)) => {
                    assert!(Instant::now() < end, "it was not enabled: {error:?}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    /// Takes back all tokens while a run is under way; a fault may end it and it begins again.
    async fn completes_while_tokens_end(
        &self,
        begin: impl AsyncFn() -> Result<String, EngineError>,
    ) {
        let mut last = None;
        for _ in 0..RUNS_MAX {
            let before = self.shop.counters().requests;
            let run = begin().await.unwrap();
            let end = Instant::now() + PATIENCE;
            while self.shop.counters().requests == before && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.shop.expire_tokens();
            let run = self.engine.wait_run(&self.org, &run, PATIENCE).await.unwrap();
            if run.status == RunStatus::Completed {
                return;
            }
            last = Some(run);
        }
        panic!("no run came to its end: {last:?}");
    }

    async fn listing(&self, of: &str) -> ListingView {
        let query = ListingQuery {
            channel: Some(self.id.clone()),
            skus: Some(vec![Sku::new(of).unwrap()]),
            limit: 10,
            ..ListingQuery::default()
        };
        self.store.listings(&self.org, query).await.unwrap().items.remove(0)
    }

    async fn map(&self, of: &str, fields: &[(&str, &str)], channel_fulfilled: bool) {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let draft = MappingDraft {
            sku: Sku::new(of).unwrap(),
            fields: fields.collect::<BTreeMap<_, _>>(),
            strategy: None,
            rules: RuleSettings::default(),
            channel_fulfilled,
            enabled: true,
        };
        self.engine.map(&self.org, &self.id, vec![draft]).await.unwrap();
    }

    async fn push(&self, of: &str) {
        let scope = PushScope::Items(vec![(Sku::new(of).unwrap(), None)]);
        let run = self.engine.push(&self.org, &self.id, scope, None).await.unwrap();
        self.engine.wait_run(&self.org, &run, PATIENCE).await.unwrap();
    }

    async fn pull(&self, of: &str) {
        let skus = Some(vec![Sku::new(of).unwrap()]);
        let request = PullRequest { skus, ..PullRequest::default() };
        let run = self.engine.pull(&self.org, &self.id, request).await.unwrap();
        self.engine.wait_run(&self.org, &run, PATIENCE).await.unwrap();
    }

    /// Looks for orders once, whether that goes well or not.
    async fn hear(&self) {
        drop(self.engine.hear_orders(&self.org, &self.id, HEAR_PATIENCE).await);
    }

    async fn settle(&self) {
        assert!(self.engine.quiesce(PATIENCE).await, "it did not come to rest");
    }

    async fn shows(&self, of: &str, units: i64) {
        let is_so = async || self.shop.quantity(of) == Some(units);
        // What a vendor slowed down or lied about comes only after a pause.
        let waits = || {
            let hits = self.shop.faults().hits();
            [FaultKind::Lie, FaultKind::Throttled].iter().any(|kind| hits.contains_key(kind))
        };
        let meanwhile = async || tokio::time::sleep(Duration::from_millis(10)).await;
        if !self.comes_true(is_so, waits, meanwhile).await {
            let shown = self.shop.quantity(of);
            panic!("{of} shows {shown:?} in place of {units}");
        }
    }

    /// Waits for something, and returns whether it came true. Where a reading counts only after
    /// a settle time, that is jumped over now and then, as long as it may be.
    async fn comes_true(
        &self,
        is_so: impl AsyncFn() -> bool,
        may_jump: impl Fn() -> bool,
        meanwhile: impl AsyncFn(),
    ) -> bool {
        let mut jumps = 0;
        let mut since = Instant::now();
        while since.elapsed() < PATIENCE {
            if is_so().await {
                return true;
            }
            meanwhile().await;
            let settles = self.capabilities.verify_by_reading && jumps < JUMPS_MAX;
            if settles && since.elapsed() >= JUMP_PATIENCE && may_jump() {
                self.jump().await;
                jumps += 1;
                since = Instant::now();
            }
        }
        false
    }

    /// Lets the settle time pass; the runtime has to have one thread.
    async fn jump(&self) {
        let settle_ms = u64::try_from(self.capabilities.settle_ms).unwrap();
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(settle_ms)).await;
        tokio::time::resume();
    }

    /// Waits until orders are booked, by webhook or by poll.
    async fn hears(&self, of: &str, on_hand: i64) {
        self.hears_at(of, &Location::main(), on_hand).await;
    }

    async fn hears_at(&self, of: &str, at: &Location, on_hand: i64) {
        let what = format!("{of} is at {on_hand}");
        self.until(&what, async || self.level(of, at).await == on_hand).await;
    }

    /// Waits until so many units are held by orders that nobody has paid for.
    async fn holds(&self, of: &str, units: u64) {
        let sku = Sku::new(of).unwrap();
        let held = async || {
            let answer = self.store.sku(&self.org, &sku).await.unwrap().unwrap();
            answer.state.totals().reserved.get() == units
        };
        self.until(&format!("{units} of {of} are held"), held).await;
    }

    /// Looks for orders until something is so. Where time can be jumped over, so is the pause of
    /// a vendor that said to slow down, and the time until a reading counts.
    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let came = self.comes_true(is_so, || true, async || self.hear().await).await;
        assert!(came, "it did not come true: {what}");
    }

    async fn parked(&self, of: &str) {
        let end = Instant::now() + PATIENCE;
        while self.listing(of).await.parked.is_none() {
            assert!(Instant::now() < end, "{of} was not parked");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Runs every case in every weather.
async fn behaves(vendor: &'static str) {
    for (weather, faults) in weathers() {
        let stand = Stand::open(vendor).await;
        let fair = Faults { down: None, ..faults.clone() };
        stand.shop.set_faults(fair.clone());
        for case in CASES.iter().filter(|case| (case.applies)(&stand)) {
            say(vendor, weather, case.name);
            if faults.down.is_some() {
                let (shop, down) = (stand.shop.clone(), faults.down);
                shop.faults().update(|faults| faults.down = down);
                tokio::spawn(async move {
                    tokio::time::sleep(OUTAGE).await;
                    shop.faults().update(|faults| faults.down = None);
                });
            }
            (case.run)(&stand).await;
        }
        let hits = stand.shop.faults().hits();
        let missed: Vec<_> = STRIKES.iter().filter(|kind| !hits.contains_key(kind)).collect();
        assert!(weather != EVERYTHING || missed.is_empty(), "{vendor}: {missed:?}");
        stand.shop.set_faults(Faults::default());
        stand.settle().await;
        let found = stand.store.verify(&stand.org).await.unwrap();
        assert_eq!(found.faults, Vec::<String>::new(), "{vendor}, {weather}");
        stand.engine.stop().await;
        stand.store.close().await.unwrap();
    }
}

/// Says which case runs, so that a failure is seen with its place.
fn say(vendor: &str, weather: &str, case: &str) {
    eprintln!("{vendor}, {weather}: {case}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shopify_behaves_in_every_weather() {
    behaves("shopify").await;
}

/// On one thread, so that its settle time can be jumped over.
#[tokio::test]
async fn amazon_behaves_in_every_weather() {
    behaves("amazon").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ebay_behaves_in_every_weather() {
    behaves("ebay").await;
}
