//! Several servers on one database, as processes: they are killed, stand still, and are replaced
//! one by one; nothing is sold twice or lost, and no channel is told an older number.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use trueup_core::Org;
use trueup_store::Shard;
use trueup_test_store::TestStore;
use trueup_testkit::{AnySimulator, SeedItem, SimServer, limits, shopify, spawn};

use crate::process::{Client, Server, place, run, token};

/// How long anything may take before a test gives up: a lease has to run out first.
const PATIENCE: Duration = Duration::from_secs(90);
/// What the chance of the chaos is seeded with.
const SEED: u64 = 7;
/// How long the chaos lasts where nothing else is said.
const CHAOS_SECONDS: u64 = 25;
/// Says in seconds how long it is to last.
const CHAOS_VARIABLE: &str = "TRUEUP_NODES_SECONDS";
const NODES: usize = 3;
/// More than can be sold in the time, and less.
const STOCK: i64 = 1_000_000;
const SCARCE_STOCK: i64 = 100;

/// A shop that is looked at all the time: what it shows must never fall, for all counts rise.
struct Stall {
    shop: AnySimulator,
    server: SimServer,
    has_fallen: Arc<AtomicBool>,
    watch: JoinHandle<()>,
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Stall {
    async fn open() -> Self {
        let shop: AnySimulator = shopify::Simulator::new(shopify::Settings {
            bucket: limits::Rate { milli_per_second: 2_000_000, burst: 20_000 },
            ..shopify::Settings::default()
        })
        .into();
        shop.seed(vec![SeedItem::new("SKU", 0)]).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(shop.clone(), any).await.unwrap();
        let has_fallen = Arc::new(AtomicBool::new(false));
        let (seen, fallen) = (shop.clone(), has_fallen.clone());
        let watch = tokio::spawn(async move {
            let mut highest = 0;
            loop {
                let shown = seen.quantity("SKU").unwrap();
                fallen.fetch_or(shown < highest, Ordering::SeqCst);
                highest = highest.max(shown);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { shop, server, has_fallen, watch }
    }

    /// Connects it and has its one listing mapped; then it is told numbers.
    async fn connect(&self, client: &Client) {
        let enable = self.shop.channel_config(&self.server.url);
        client.must("POST", "/channels/shopify/enable", Some(enable)).await;
        let found = client.must("POST", "/channels/shopify/mappings/discover", None).await;
        assert_eq!(found["mapped"], 1, "{found}");
    }

    async fn shows(&self, number: i64) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while self.shop.quantity("SKU") != Some(number) {
            let shown = self.shop.quantity("SKU");
            assert!(tokio::time::Instant::now() < end, "{shown:?} is shown and never {number}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!self.has_fallen.load(Ordering::SeqCst), "an older number was told");
    }
}

/// Returns a place in a database, and says so where stores are in none.
async fn in_database() -> Option<TestStore> {
    let store = TestStore::new().await;
    if store.is_embedded() {
        say("SKIPPED: the embedded store is its only node");
        return None;
    }
    Some(store)
}

#[allow(clippy::print_stderr, reason = "for who runs it")]
fn say(what: &str) {
    eprintln!("{what}");
}

async fn count(client: &Client, number: i64) {
    let body = json!({ "quantity": number, "syncToChannels": true });
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match client.call("PUT", "/inventory/SKU", Some(body.clone())).await {
            Some((200 | 201, _)) => return,
            // What is locked by a node that stands still comes free.
            Some((503, _)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        assert!(tokio::time::Instant::now() < end, "a count was never taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every node has its share; returns the cluster.
async fn dealt_out(client: &Client, nodes: usize) -> Value {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let cluster = client.must("GET", "/cluster", None).await;
        let shares: Vec<u64> = cluster["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["shards"].as_u64().unwrap())
            .filter(|shards| *shards > 0)
            .collect();
        if shares.len() == nodes && shares.iter().sum::<u64>() == 64 {
            return cluster;
        }
        assert!(tokio::time::Instant::now() < end, "never dealt out: {cluster}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns where the node is that works for acme.
fn holder(cluster: &Value) -> String {
    let shard = usize::from(Shard::of(&Org::new("acme").unwrap()).number());
    let id = &cluster["shards"][shard]["node"];
    let nodes = cluster["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|node| node["id"] == *id).unwrap();
    found["url"].as_str().unwrap().to_owned()
}

async fn figure(url: &str, name: &str) -> u64 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let text = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_tells_nobody_what_another_has_told_since() {
    let Some(store) = in_database().await else { return };
    let token = token("acme");
    let servers: Vec<Server> = (0..NODES).map(|_| Server::start_at(&store)).collect();
    let clients: Vec<Client> =
        servers.iter().map(|server| Client::new(&server.url, &token)).collect();
    let cluster = dealt_out(&clients[0], NODES).await;
    let url = holder(&cluster);
    let still = servers.iter().position(|server| server.url == url).unwrap();
    let (one, other) = (&clients[(still + 1) % NODES], &clients[(still + 2) % NODES]);
    let stall = Stall::open().await;
    count(one, 1).await;
    // Passed on to the one that works for it.
    stall.connect(one).await;
    stall.shows(1).await;

    // Stopped with pushes under way, again and again.
    let mut number = 1;
    for _ in 0..2 {
        for _ in 0..20 {
            number += 1;
            count(one, number).await;
        }
        servers[still].signal("STOP");
        for _ in 0..20 {
            number += 1;
            count(other, number).await;
        }
        stall.shows(number).await;
        servers[still].signal("CONT");
        for client in &clients {
            number += 1;
            count(client, number).await;
        }
        stall.shows(number).await;
        dealt_out(one, NODES).await;
    }
    assert!(figure(&url, "trueup_lease_lost_total").await > 0);
    let [option, value] = place(&store);
    let checked = run(&["verify", &option, &value, "--org", "acme"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// What buyers were told.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    /// Of this many the sale was acknowledged.
    sold: i64,
    /// Of this many the answer did not arrive.
    unsure: i64,
}

/// What buyers were told of what there is plenty of, and of what there is too little of.
type Tally = [(&'static str, Told); 2];

const NOTHING_SOLD: Tally =
    [("HOT", Told { sold: 0, unsure: 0 }), ("SCARCE", Told { sold: 0, unsure: 0 })];

/// Buys one unit after another, at whatever node answers, until it is to stop.
async fn buy(clients: Vec<Client>, orders: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = NOTHING_SOLD;
    let mut turn = 0;
    while !stop.load(Ordering::SeqCst) {
        turn += 1;
        let client = &clients[turn % clients.len()];
        let (sku, told) = &mut tally[turn % 2];
        match buy_one(client, sku, orders.fetch_add(1, Ordering::SeqCst)).await {
            Some(true) => told.sold += 1,
            Some(false) => tokio::time::sleep(Duration::from_millis(20)).await,
            None => told.unsure += 1,
        }
    }
    tally
}

/// Returns whether it was sold; `None` when that is not known.
async fn buy_one(client: &Client, sku: &str, order: u64) -> Option<bool> {
    let body = json!({
        "items": [{ "sku": sku, "quantity": 1 }],
        "orderId": format!("order-{order}"),
        "ttlSeconds": 604_800,
    });
    let reserved = client.call("POST", "/inventory/reserve", Some(body)).await;
    let Some((201, held)) = reserved else { return Some(false) };
    let id = held["reservationId"].as_str().unwrap();
    match client.call("POST", &format!("/inventory/reservation/{id}/commit"), None).await {
        Some((200, _)) => Some(true),
        Some((503, _)) | None => None,
        Some(other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_die_and_stand_still_lose_and_oversell_nothing() {
    let Some(store) = in_database().await else { return };
    #[allow(clippy::disallowed_methods, reason = "how long it lasts is said from outside")]
    let seconds = std::env::var(CHAOS_VARIABLE).ok().map_or(CHAOS_SECONDS, |text| {
        text.parse().expect("TRUEUP_NODES_SECONDS is a number of seconds")
    });
    let token = token("acme");
    let mut servers: Vec<Server> = (0..NODES).map(|_| Server::start_at(&store)).collect();
    let stall = Stall::open().await;
    let first = Client::new(&servers[0].url, &token);
    count(&first, 1).await;
    stall.connect(&first).await;
    for (sku, stock) in [("HOT", STOCK), ("SCARCE", SCARCE_STOCK)] {
        let path = format!("/inventory/{sku}");
        first.must("PUT", &path, Some(json!({ "quantity": stock }))).await;
    }
    let mut chance = StdRng::seed_from_u64(SEED);
    let (orders, end) = (Arc::new(AtomicU64::new(0)), Duration::from_secs(seconds));
    let (mut tally, number) = (NOTHING_SOLD, AtomicI64::new(1));
    let began = tokio::time::Instant::now();
    while began.elapsed() < end {
        let clients: Vec<Client> =
            servers.iter().map(|server| Client::new(&server.url, &token)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let buyers: Vec<_> = (0..6)
            .map(|_| tokio::spawn(buy(clients.clone(), orders.clone(), stop.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(chance.random_range(200..1_500))).await;
        let unlucky = chance.random_range(0..NODES);
        if chance.random_bool(0.5) {
            servers[unlucky].signal("KILL");
        } else {
            servers[unlucky].signal("STOP");
        }
        let lucky = &clients[(unlucky + 1) % NODES];
        for _ in 0..5 {
            count(lucky, number.fetch_add(1, Ordering::SeqCst) + 1).await;
        }
        // Sometimes for longer than a lease is good, sometimes not.
        tokio::time::sleep(Duration::from_millis(chance.random_range(500..9_000))).await;
        servers[unlucky].signal("CONT");
        stop.store(true, Ordering::SeqCst);
        for buyer in buyers {
            for ((_, all), (_, more)) in tally.iter_mut().zip(buyer.await.unwrap()) {
                all.sold += more.sold;
                all.unsure += more.unsure;
            }
        }
        if servers[unlucky].has_ended() {
            servers[unlucky] = Server::start_at(&store);
        }
    }
    let clients: Vec<Client> =
        servers.iter().map(|server| Client::new(&server.url, &token)).collect();
    stall.shows(number.load(Ordering::SeqCst)).await;
    for ((sku, told), stock) in tally.into_iter().zip([STOCK, SCARCE_STOCK]) {
        let found = clients[0].must("GET", &format!("/inventory/{sku}"), None).await;
        let taken = stock - found["quantity"].as_i64().unwrap();
        assert!(told.sold > 0, "nothing was sold of {sku}");
        assert!(taken <= stock, "{taken} were sold of {sku}, of which there were {stock}");
        let range = told.sold..=told.sold + told.unsure;
        assert!(range.contains(&taken), "{taken} were taken of {sku}, and {told:?}");
        say(&format!("{sku}: {taken} taken of {stock}, {told:?}"));
    }
    say(&format!("{} told to the channel", number.load(Ordering::SeqCst)));
    drop(servers);
    let [option, value] = place(&store);
    let checked = run(&["verify", &option, &value, "--org", "acme"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_replaced_one_by_one_without_a_failed_request() {
    let Some(store) = in_database().await else { return };
    let token = token("acme");
    let mut servers: Vec<Server> = (0..2).map(|_| Server::start_at(&store)).collect();
    let stall = Stall::open().await;
    let first = Client::new(&servers[0].url, &token);
    count(&first, 1).await;
    stall.connect(&first).await;
    let ready = Arc::new(parking_lot::Mutex::new(
        servers.iter().map(|server| server.url.clone()).collect::<Vec<_>>(),
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let asking = {
        let (ready, stop, token) = (ready.clone(), stop.clone(), token.clone());
        tokio::spawn(async move {
            let mut asked = 0_usize;
            let mut number = 1;
            while !stop.load(Ordering::SeqCst) {
                number += 1;
                let body = json!({ "quantity": number, "syncToChannels": true });
                for (method, path, body) in [
                    ("PUT", "/inventory/SKU", Some(body)),
                    ("GET", "/inventory/SKU", None),
                    ("GET", "/channels/shopify/status", None),
                ] {
                    asked += 1;
                    let url = {
                        let ready = ready.lock();
                        ready[asked % ready.len()].clone()
                    };
                    let answer = Client::new(&url, &token).call(method, path, body).await;
                    let status = answer.as_ref().map(|(status, _)| *status);
                    assert!(matches!(status, Some(200 | 201)), "{method} {path}: {answer:?}");
                }
            }
            number
        })
    };
    for server in &mut servers {
        let fresh = Server::start_at(&store);
        ready.lock().push(fresh.url.clone());
        dealt_out(&Client::new(&fresh.url, &token), 3).await;
        let old = std::mem::replace(server, fresh);
        // What balances the load hears of it by /readyz, and then sends it nothing.
        old.signal("TERM");
        until_draining(&old.url).await;
        ready.lock().retain(|url| *url != old.url);
        assert!(old.wait(), "it ended in order");
    }
    stop.store(true, Ordering::SeqCst);
    let number = asking.await.unwrap();
    stall.shows(number).await;
}

async fn until_draining(url: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let end = tokio::time::Instant::now() + PATIENCE;
    while client.get(format!("{url}/readyz")).send().await.unwrap().status() != 503 {
        assert!(tokio::time::Instant::now() < end, "it never said that it is going");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
