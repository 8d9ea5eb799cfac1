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
const STOCK: i64 = 100_000;

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
        skip("the embedded store is its only node");
        return None;
    }
    Some(store)
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

async fn count(client: &Client, number: i64) {
    let body = json!({ "quantity": number });
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
    let checked = run(&["verify", &option, &value]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// Buys one unit after another, at whatever node answers, until it is to stop; counts what was
/// surely sold, and what may have been.
async fn buy(clients: Vec<Client>, orders: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> (i64, i64) {
    let (mut sold, mut unsure) = (0, 0);
    let mut turn = 0;
    while !stop.load(Ordering::SeqCst) {
        turn += 1;
        let client = &clients[turn % clients.len()];
        let order = orders.fetch_add(1, Ordering::SeqCst);
        let body = json!({
            "items": [{ "sku": "HOT", "quantity": 1 }],
            "orderId": format!("order-{order}"),
            "ttlSeconds": 604_800,
        });
        let Some((201, held)) = client.call("POST", "/inventory/reserve", Some(body)).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let id = held["reservationId"].as_str().unwrap();
        match client.call("POST", &format!("/inventory/reservation/{id}/commit"), None).await {
            Some((200, _)) => sold += 1,
            Some((503, _)) | None => unsure += 1,
            Some(other) => panic!("{other:?}"),
        }
    }
    (sold, unsure)
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
    first.must("PUT", "/inventory/HOT", Some(json!({ "quantity": STOCK }))).await;
    let mut chance = StdRng::seed_from_u64(SEED);
    let (orders, end) = (Arc::new(AtomicU64::new(0)), Duration::from_secs(seconds));
    let (mut sold, mut unsure, number) = (0, 0, AtomicI64::new(1));
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
            let (more, maybe) = buyer.await.unwrap();
            sold += more;
            unsure += maybe;
        }
        if servers[unlucky].has_ended() {
            servers[unlucky] = Server::start_at(&store);
        }
    }
    let clients: Vec<Client> =
        servers.iter().map(|server| Client::new(&server.url, &token)).collect();
    stall.shows(number.load(Ordering::SeqCst)).await;
    let found = clients[0].must("GET", "/inventory/HOT", None).await;
    let left = found["quantity"].as_i64().unwrap();
    assert!(sold > 0, "nothing was sold at all");
    assert!(STOCK - left >= sold, "{sold} were sold and {left} are left");
    assert!(STOCK - left <= sold + unsure, "{left} are left of what {sold} to {unsure} more took");
    drop(servers);
    let [option, value] = place(&store);
    let checked = run(&["verify", &option, &value]);
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
                let urls = ready.lock().clone();
                let client = Client::new(&urls[asked % urls.len()], &token);
                asked += 1;
                number += 1;
                let body = json!({ "quantity": number });
                for (method, path, body) in [
                    ("PUT", "/inventory/SKU", Some(body)),
                    ("GET", "/inventory/SKU", None),
                    ("GET", "/channels/shopify/status", None),
                ] {
                    let answer = client.call(method, path, body).await;
                    let status = answer.as_ref().map(|(status, _)| *status);
                    assert!(matches!(status, Some(200 | 201)), "{method} {path}: {answer:?}");
                }
            }
            number
        })
    };
    for nth in 0..servers.len() {
        let fresh = Server::start_at(&store);
        ready.lock().push(fresh.url.clone());
        dealt_out(&first, 3).await;
        let old = std::mem::replace(&mut servers[nth], fresh);
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
