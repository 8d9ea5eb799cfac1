//! The real connectors over HTTP, against simulated Shopify, Amazon and eBay.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use trueup_channels::Secret;
use trueup_core::ChannelId;
use trueup_store::RunStatus;
use trueup_sync::{Enable, Engine, EngineError, PullRequest, PushScope};
use trueup_testkit::{
    AnySimulator, Chance, Down, Faults, SeedItem, Shop, SimServer, amazon, ebay, limits, shopify,
    spawn,
};

use crate::house::{House, PATIENCE, channel, counter, options, until};

pub(crate) const SKUS: usize = 60;

pub(crate) struct Stall {
    pub(crate) id: ChannelId,
    pub(crate) shop: AnySimulator,
    _server: SimServer,
}

pub(crate) fn name(nth: usize) -> String {
    format!("SKU-{nth:03}")
}

pub(crate) fn enable_of(config: &serde_json::Value) -> Enable {
    let mut enable = Enable { sync_inventory: true, ..Enable::default() };
    for (key, value) in config.as_object().unwrap() {
        match key.as_str() {
            "kind" => enable.kind = value.as_str().map(str::to_owned),
            "endpoint" => enable.endpoint = value.as_str().map(str::to_owned),
            "syncInventory" | "syncOrders" | "conflictStrategy" => {}
            "credentials" => {
                enable.credentials = value
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(name, text)| (name.clone(), Secret::new(text.as_str().unwrap())))
                    .collect();
            }
            _ => {
                enable.settings.insert(key.clone(), value.clone());
            }
        }
    }
    enable
}

pub(crate) async fn open(house: &House, with: &[&'static str], mapped: usize) -> Vec<Stall> {
    open_with(house, with, SKUS, mapped).await
}

pub(crate) async fn open_with(
    house: &House,
    with: &[&'static str],
    skus: usize,
    mapped: usize,
) -> Vec<Stall> {
    let mut stalls = Vec::new();
    for kind in with {
        let shop: AnySimulator = match *kind {
            "shopify" => shopify::Simulator::new(shopify::Settings {
                bucket: limits::Rate { milli_per_second: 2_000_000, burst: 20_000 },
                ..shopify::Settings::default()
            })
            .into(),
            "amazon" => amazon::Simulator::new(amazon::Settings {
                rate_scale: 200,
                apply_ms: 200,
                ..amazon::Settings::default()
            })
            .into(),
            _ => ebay::Simulator::new(ebay::Settings::default()).into(),
        };
        shop.seed((0..skus).map(|nth| SeedItem::new(name(nth), 3)).collect()).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(shop.clone(), any).await.unwrap();
        let id = channel(kind);
        let enable = enable_of(&shop.channel_config(&server.url));
        house.engine.enable(&house.org, &id, enable).await.unwrap();
        let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
        assert_eq!(
            usize::try_from(found.mapped()).unwrap(),
            mapped,
            "{kind}: {:?}",
            found.proposals.first()
        );
        stalls.push(Stall { id, shop, _server: server });
    }
    stalls
}

fn wrong(stall: &Stall, wanted: &BTreeMap<String, i64>) -> Vec<(String, Option<i64>, i64)> {
    wanted
        .iter()
        .map(|(sku, wanted)| (sku.clone(), stall.shop.quantity(sku), *wanted))
        .filter(|(_, shown, wanted)| *shown != Some(*wanted))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_three_vendors_show_what_they_should() {
    let house = House::open_with(trueup_channels::kind).await;
    let mut wanted = BTreeMap::new();
    for nth in 0..SKUS {
        let units = u64::try_from(nth).unwrap();
        house.count(&name(nth), units, true).await;
        wanted.insert(name(nth), i64::try_from(nth).unwrap());
    }
    let stalls = open(&house, &["shopify", "amazon", "ebay"], SKUS).await;
    house.settle().await;
    for stall in &stalls {
        assert_eq!(wrong(stall, &wanted), [], "{}", stall.id);
    }
    for stall in &stalls {
        stall.shop.set_faults(Faults {
            seed: Some(7),
            throttled: Chance::per_mille(50),
            server_error: Chance::per_mille(50),
            dropped_after: Chance::per_mille(50),
            busy: Chance::per_mille(20),
            unauthorized: Chance::per_mille(20),
            // Whether Amazon lies shows after its settle time, a quarter of an hour.
            lie: Chance { per_mille: 0, next: u32::from(stall.id.as_str() != "amazon") },
            ..Faults::default()
        });
    }
    for nth in 0..SKUS {
        let units = u64::try_from((nth * 7) % 23).unwrap();
        house.count(&name(nth), units, true).await;
        wanted.insert(name(nth), i64::try_from(units).unwrap());
    }
    assert!(house.engine.quiesce(Duration::from_secs(60)).await, "it did not come to rest");
    for stall in &stalls {
        assert_eq!(wrong(stall, &wanted), [], "{}", stall.id);
        stall.shop.set_faults(Faults::default());
        let run = house.pull(&stall.id, PullRequest::default()).await;
        assert_eq!(counter(&run, "matched"), 60, "{run:?}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_vendors_that_are_down_hold_up_nobody_and_come_back_by_themselves() {
    let house = House::open_with(trueup_channels::kind).await;
    house.count("SKU-001", 9, true).await;
    let stalls = open(&house, &["shopify", "amazon", "ebay"], 1).await;
    house.settle().await;
    let (down, up) = stalls.split_at(2);
    for (stall, how) in down.iter().zip([Down::Unavailable, Down::Refused]) {
        stall.shop.set_faults(Faults { down: Some(how), ..Faults::default() });
    }
    for units in [7, 4] {
        house.count("SKU-001", units, true).await;
        let shown = || up[0].shop.quantity("SKU-001") == Some(units.try_into().unwrap());
        until("eBay shows it", shown).await;
    }
    for stall in down {
        let run = house.push(&stall.id, PushScope::All).await;
        assert_eq!(run.status, RunStatus::Failed, "{run:?}");
        assert_eq!(stall.shop.quantity("SKU-001"), Some(9));
    }
    for stall in down {
        stall.shop.set_faults(Faults::default());
    }
    // The pause of an outage grows up to a minute.
    assert!(house.engine.quiesce(Duration::from_secs(120)).await, "it did not come to rest");
    for stall in &stalls {
        assert_eq!(stall.shop.quantity("SKU-001"), Some(4), "{}", stall.id);
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_heard_and_booked_once() {
    let house = House::open_with(trueup_channels::kind).await;
    house.count("SKU-001", 20, true).await;
    let stalls = open(&house, &["shopify", "amazon", "ebay"], 1).await;
    house.settle().await;
    for stall in &stalls {
        let sold = stall.shop.sell("SKU-001", 2);
        assert!(sold.is_ok(), "{}: {sold:?}", stall.id);
        for _ in 0..2 {
            let heard =
                house.engine.hear_orders(&house.org, &stall.id, Duration::from_secs(20)).await;
            assert_eq!(heard, Ok(true), "{}", stall.id);
        }
    }
    house.settle().await;
    assert_eq!(house.on_hand("SKU-001").await, 14);
    for stall in &stalls {
        assert_eq!(stall.shop.quantity("SKU-001"), Some(14), "{}", stall.id);
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_asked_to_slow_down_is_neither_a_failure_nor_an_outage() {
    let house = House::open_with(trueup_channels::kind).await;
    house.count("SKU-001", 9, true).await;
    let stalls = open(&house, &["shopify"], 1).await;
    house.settle().await;
    let stall = &stalls[0];
    stall.shop.set_faults(Faults { throttled: Chance::next(6), ..Faults::default() });
    house.count("SKU-001", 5, false).await;
    let run = house.push(&stall.id, PushScope::All).await;
    assert_eq!(run.status, RunStatus::Completed, "{run:?}");
    assert_eq!(stall.shop.quantity("SKU-001"), Some(5));
    assert_eq!(house.history("channel").await.len(), 0, "no outage is told");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_pauses_the_connection_once_and_nothing_is_lost() {
    let house = House::open_with(trueup_channels::kind).await;
    house.count("SKU-001", 9, true).await;
    let stalls = open(&house, &["shopify"], 1).await;
    house.settle().await;
    let stall = &stalls[0];
    stall.shop.set_faults(Faults { unauthorized: Chance::per_mille(1_000), ..Faults::default() });
    house.count("SKU-001", 5, true).await;
    let status = async || house.engine.status(&house.org, &stall.id).await.unwrap();
    let end = tokio::time::Instant::now() + crate::house::PATIENCE;
    while status().await.status != "paused" {
        assert!(tokio::time::Instant::now() < end, "it was not paused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(status().await.last_error.unwrap().contains("refuses us"));
    // It is written down a moment after the pause.
    while house.history("channel").await.is_empty() {
        assert!(tokio::time::Instant::now() < end, "the pause was not noted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(house.history("channel").await.len(), 1);
    stall.shop.set_faults(Faults::default());
    let enable = enable_of(&stall.shop.channel_config(&stall._server.url));
    house.engine.enable(&house.org, &stall.id, enable).await.unwrap();
    house.settle().await;
    assert_eq!(stall.shop.quantity("SKU-001"), Some(5));
    assert_eq!(status().await.status, "ok");
    assert_eq!(house.history("channel").await.len(), 1, "told once");
    house.close().await;
}

/// The idempotency keys of the sets that a simulated shop saw, in order.
fn set_keys(stall: &Stall) -> Vec<String> {
    let sets = stall.shop.requests().into_iter().filter(|seen| seen.body.contains("SetQuantities"));
    let key = |body: &str| -> serde_json::Value { serde_json::from_str(body).unwrap() };
    sets.map(|seen| key(&seen.body)["variables"]["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_runs_already_is_sent_again_under_the_same_key() {
    let house = House::open_with(trueup_channels::kind).await;
    for nth in 0..5 {
        house.count(&name(nth), 9, true).await;
    }
    let stalls = open(&house, &["shopify"], 5).await;
    house.settle().await;
    let stall = &stalls[0];
    let before = set_keys(stall).len();
    stall.shop.set_faults(Faults { busy: Chance::next(3), ..Faults::default() });
    for nth in 0..5 {
        house.count(&name(nth), 4, false).await;
    }
    let run = house.push(&stall.id, PushScope::All).await;
    house.settle().await;
    for nth in 0..5 {
        assert_eq!(stall.shop.quantity(&name(nth)), Some(4), "{run:?}");
    }
    let keys = set_keys(stall).split_off(before);
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_no_number_is_stocked_or_parked_and_never_overwritten() {
    let house = House::open_with(trueup_channels::kind).await;
    house.count("UNTRACKED", 5, true).await;
    house.count("ELSEWHERE", 6, true).await;
    let shop: AnySimulator = shopify::Simulator::default().into();
    let untracked = SeedItem { tracked: false, ..SeedItem::new("UNTRACKED", 3) };
    let elsewhere = shopify::state::LOCATION_ID + 1;
    let elsewhere = SeedItem { location_id: Some(elsewhere), ..SeedItem::new("ELSEWHERE", 8) };
    shop.seed(vec![untracked, elsewhere]).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = spawn(shop.clone(), any).await.unwrap();
    let stall = Stall { id: channel("shopify"), shop, _server: server };
    let config = stall.shop.channel_config(&stall._server.url);
    house.engine.enable(&house.org, &stall.id, enable_of(&config)).await.unwrap();
    let item_of = |sku: &str| stall.shop.listing(sku).unwrap()["inventoryItemId"].clone();
    let drafts = ["UNTRACKED", "ELSEWHERE"].map(|sku| {
        let item = item_of(sku).as_str().unwrap().to_owned();
        let fields = BTreeMap::from([("inventoryItemId".to_owned(), item)]);
        trueup_sync::MappingDraft { fields, ..crate::house::draft(sku, "") }
    });
    house.engine.map(&house.org, &stall.id, drafts.into()).await.unwrap();
    house.settle().await;
    let parked = house.listing(&stall.id, "UNTRACKED").await.parked.unwrap();
    assert_eq!(parked.code, "not_pushable");
    assert!(parked.detail.contains("not tracked"), "{}", parked.detail);
    assert_eq!(stall.shop.quantity("UNTRACKED"), Some(3), "it was not overwritten");
    // The default location was stocked, and the other one left alone.
    assert_eq!(stall.shop.quantity("ELSEWHERE"), Some(8 + 6));
    let keyless = stall.shop.requests().into_iter().filter(|seen| {
        seen.body.contains("SetQuantities") && seen.body.contains("\"changeFromQuantity\":null")
    });
    assert_eq!(keyless.count(), 0, "nothing is set without a number to compare with");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotating_refresh_token_is_followed_through_failures_and_restarts() {
    let house = House::open_with(trueup_channels::kind).await;
    house.count("SKU-001", 9, true).await;
    let sim = shopify::Simulator::new(shopify::Settings::default());
    sim.seed(vec![SeedItem::new("SKU-001", 3)]).unwrap();
    let server = spawn(sim.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    // An answer that was lost: the token before is good until its replacement is used.
    let lost = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = serde_json::json!({
        "client_id": shopify::CLIENT_ID, "client_secret": shopify::CLIENT_SECRET,
        "grant_type": "refresh_token", "refresh_token": shopify::REFRESH_TOKEN,
    });
    let url = format!("{}/admin/oauth/access_token", server.url);
    lost.post(url).body(body.to_string()).send().await.unwrap().error_for_status().unwrap();
    let id = channel("shopify");
    let mut enable = enable_of(&sim.channel_config(&server.url));
    let pairs = [
        ("clientId", shopify::CLIENT_ID),
        ("clientSecret", shopify::CLIENT_SECRET),
        ("refreshToken", shopify::REFRESH_TOKEN),
    ];
    let secret = |(name, text): (&str, &str)| (name.to_owned(), Secret::new(text));
    enable.credentials = pairs.into_iter().map(secret).collect();
    house.engine.enable(&house.org, &id, enable.clone()).await.unwrap();
    house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    house.settle().await;
    for units in [7_u64, 5] {
        sim.expire_tokens();
        house.count("SKU-001", units, true).await;
        house.settle().await;
        assert_eq!(sim.quantity("SKU-001"), Some(units.try_into().unwrap()));
    }
    // Enabling that fails has used the token up, too, and what replaced it is not lost.
    sim.expire_tokens();
    let mut wrong = Enable { credentials: BTreeMap::new(), ..enable };
    wrong.settings.insert("defaultLocationId".to_owned(), "1".into());
    let refused = house.engine.enable(&house.org, &id, wrong).await;
    assert!(matches!(refused, Err(EngineError::Incomplete(_))), "{refused:?}");
    sim.expire_tokens();
    house.count("SKU-001", 4, true).await;
    house.settle().await;
    assert_eq!(sim.quantity("SKU-001"), Some(4));
    house.engine.stop().await;
    sim.expire_tokens();
    house.count("SKU-001", 2, true).await;
    let kinds = trueup_channels::kind;
    let engine = Engine::start_with(house.store.clone(), options(), kinds).await.unwrap();
    assert!(engine.quiesce(PATIENCE).await);
    assert_eq!(sim.quantity("SKU-001"), Some(2));
    engine.stop().await;
    house.close().await;
}
