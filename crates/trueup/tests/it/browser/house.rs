//! A server with a shop on it, and a browser in front of it.

use std::time::Duration;

use serde_json::{Value, json};
use trueup_test_store::TestStore;
use trueup_testkit::{SeedItem, Shop, SimServer, shopify, spawn};

use super::driver::Browser;
use super::{number, text_of};
use crate::process::{Client, Server, run, token};

/// How many SKUs there are, and of each how many units.
const SKUS: u32 = 12;
const UNITS: i64 = 100;
/// How often something that workers do is asked for, and in which pauses.
const LOOKS_MAX: u32 = 600;
const PAUSE: Duration = Duration::from_millis(100);
const WEBHOOK_SECRET: &str = "secret-of-the-browser-tests";

/// A server with a shop whose stock is mapped, and somebody's browser.
pub(super) struct House {
    pub(super) browser: Browser,
    pub(super) client: Client,
    pub(super) shop: shopify::Simulator,
    pub(super) token: String,
    server: Server,
    dir: tempfile::TempDir,
    _store: TestStore,
    _vendor: SimServer,
}

impl House {
    /// Returns a house whose browser is not signed in; `None` where there is no browser.
    pub(super) async fn open() -> Option<Self> {
        let browser = Browser::start().await?;
        let dir = tempfile::tempdir().unwrap();
        let store = TestStore::new().await;
        let server = Server::start_at(&store);
        let token = token("acme");
        let client = Client::new(&server.url, &token);
        let (shop, vendor) = furnish(&server, &client).await;
        Some(Self { browser, client, shop, token, server, dir, _store: store, _vendor: vendor })
    }

    /// Returns a house whose browser is signed in; `None` where there is no browser.
    pub(super) async fn signed_in() -> Option<Self> {
        let house = Self::open().await?;
        house.sign_in().await;
        Some(house)
    }

    pub(super) async fn sign_in(&self) {
        self.browser.open(&self.url("/login")).await;
        self.browser.fill("[name=org]", "acme").await;
        self.browser.fill("[name=credential]", &self.token).await;
        self.browser.click("#login button").await;
        self.browser.sees("Overview").await;
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url)
    }

    /// Makes a link that signs in once, as an operator does, with these scopes.
    pub(super) fn link(&self, scope: &str) -> String {
        let url = &self.server.url;
        let made = run(&["dashboard-link", "--org", "acme", "--url", url, "--scope", scope]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        text_of(&path)
    }

    /// Starts another shop, with a listing that no SKU of ours matches; returns it with what it is
    /// connected by.
    pub(super) async fn second_shop(&self) -> (SimServer, Value) {
        let shop = shopify::Simulator::default();
        shop.seed(vec![SeedItem::new("ODD-1", UNITS)]).unwrap();
        let vendor = spawn(shop.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let config = shop.channel_config(&vendor.url);
        (vendor, config)
    }

    pub(super) async fn on_hand(&self, sku: &str) -> i64 {
        number(&self.client.must("GET", &format!("/inventory/{sku}"), None).await, "quantity")
    }

    pub(super) async fn must_count(&self, sku: &str, units: i64) {
        let body = json!({ "quantity": units });
        self.client.must("PUT", &format!("/inventory/{sku}"), Some(body)).await;
    }

    /// Has something to show on every screen: a conflict of SKU-5, a reservation of SKU-1, SKU-6
    /// low on stock, a subscription and a key.
    pub(super) async fn make_trouble(&self) {
        let client = &self.client;
        let mapping = client.must("GET", "/channels/shopify/mappings/SKU-5", None).await;
        let listing = mapping["listings"][0]["listing"].clone();
        let body = json!({ "sku": "SKU-5", "listing": listing, "conflictStrategy": "manual" });
        client.must("PUT", "/channels/shopify/mappings/SKU-5", Some(body)).await;
        self.shop.set_quantity("SKU-5", 93).unwrap();
        let pull = json!({ "skus": ["SKU-5"] });
        client.must("POST", "/inventory/pull/shopify", Some(pull)).await;
        self.seen("/inventory/conflicts", |found| found["items"][0]["sku"] == "SKU-5").await;

        let body = json!({ "items": [{"sku": "SKU-1", "quantity": 2}], "orderId": "cart-1" });
        client.must("POST", "/inventory/reserve", Some(body)).await;
        let body = json!({ "quantity": 1, "lowStockThreshold": 5 });
        client.must("PUT", "/inventory/SKU-6", Some(body)).await;
        let body = json!({ "url": self.url("/nobody") });
        client.must("POST", "/webhooks", Some(body)).await;
        let body = json!({ "subject": "checkout", "scopes": ["inventory:read"] });
        client.must("POST", "/keys", Some(body)).await;
    }

    /// Waits until the API says something.
    async fn seen(&self, path: &str, is_so: impl Fn(&Value) -> bool) {
        let mut found = Value::Null;
        for _ in 0..LOOKS_MAX {
            found = self.client.must("GET", path, None).await;
            if is_so(&found) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{path} never said so: {found}");
    }

    /// Looks from now on as on a screen of this width, with this colour scheme.
    pub(super) async fn look_as(&self, scheme: &str, width: u32) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.browser.chromium("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.browser.chromium("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Returns what axe-core finds to be serious or critical on the page.
    pub(super) async fn violations(&self, axe: &str) -> Value {
        let script = format!(
            "{axe};
            const end = arguments[arguments.length - 1];
            axe.run(document).then(({{ violations }}) => end(violations
                .filter(({{ impact }}) => ['serious', 'critical'].includes(impact))
                .map(({{ id, nodes }}) => [id, ...nodes.map((node) => node.html)])),
                (error) => end(String(error)));"
        );
        self.browser.run_async(&script).await
    }

    /// Returns the status that a key gets for a read.
    pub(super) async fn status_with_key(&self, key: &str) -> u16 {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.get(self.url("/sales-channel/inventory"));
        let answer = request.header("x-api-key", key).header("orgid", "acme").send().await;
        answer.unwrap().status().as_u16()
    }
}

/// Counts SKUs, connects a shop that has them, and maps them.
async fn furnish(server: &Server, client: &Client) -> (shopify::Simulator, SimServer) {
    let names: Vec<String> = (1..=SKUS).map(|nth| format!("SKU-{nth}")).collect();
    let items: Vec<_> = names.iter().map(|sku| json!({ "sku": sku, "quantity": UNITS })).collect();
    client.must("PUT", "/inventory/bulk/update", Some(json!({ "items": items }))).await;
    let shop = shopify::Simulator::default();
    shop.seed(names.iter().map(|sku| SeedItem::new(sku, UNITS)).collect()).unwrap();
    let vendor = spawn(shop.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut config = shop.channel_config(&vendor.url);
    config["syncInventory"] = json!(true);
    config["credentials"]["webhookSecret"] = json!(WEBHOOK_SECRET);
    client.must("POST", "/channels/shopify/enable", Some(config)).await;
    let body = json!({ "dryRun": false });
    client.must("POST", "/channels/shopify/mappings/discover", Some(body)).await;
    let hook = format!("{}/upstream/webhooks/acme/shopify", server.url);
    shop.set_webhook(&hook, WEBHOOK_SECRET).unwrap();
    client.must("POST", "/inventory/sync/shopify", Some(json!({}))).await;
    (shop, vendor)
}

/// A server that is looked at without a browser.
pub(super) struct Shown {
    http: reqwest::Client,
    cookie: String,
    server: Server,
    _dir: tempfile::TempDir,
    _vendor: SimServer,
}

impl Shown {
    /// Starts a server with a shop, and signs in.
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("data"));
        let token = token("acme");
        let (_, vendor) = furnish(&server, &Client::new(&server.url, &token)).await;
        let policy = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().no_proxy().redirect(policy).build().unwrap();
        let fields = format!("org=acme&credential={token}");
        let request = http.post(format!("{}/login", server.url)).body(fields);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.send().await.unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Self { http, cookie, server, _dir: dir, _vendor: vendor }
    }

    /// Returns how many bytes an answer has, its head included.
    pub(super) async fn bytes_of(&self, path: &str) -> usize {
        let request = self.http.get(format!("{}{path}", self.server.url));
        let answer = request.header("cookie", &self.cookie).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        let head: usize = answer
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        head + answer.bytes().await.unwrap().len()
    }
}
