//! Webhooks of the worst kind, through HTTP: forged, replayed, cut off, late, and very many.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Bytes;
use axum::routing::post;
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trueup_testkit::{AnySimulator, SeedItem, SimClock, SimServer, amazon, ebay, shopify, spawn};

use super::api::Api;

const VENDORS: [&str; 3] = ["shopify", "amazon", "ebay"];
const SECRET: &str = shopify::CLIENT_SECRET;
const DAY: i64 = 86_400;
/// How long a delivery may take to come before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A delivery as the vendor sent it.
#[derive(Debug, Clone)]
struct Delivery {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Delivery {
    fn with(&self, name: &str, value: &str) -> Self {
        let mut copy = self.clone();
        copy.headers.retain(|(known, _)| known != name);
        copy.headers.push((name.to_owned(), value.to_owned()));
        copy
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// A server and one vendor, whose clocks go together.
struct Stand {
    vendor: &'static str,
    api: Api,
    shop: AnySimulator,
    clock: SimClock,
    server: SimServer,
    hook: mpsc::Receiver<Delivery>,
}

impl Stand {
    /// Opens a shop whose clock is a day behind: nothing is connected yet.
    async fn open(vendor: &'static str) -> Self {
        let api = Api::start().await;
        let clock = SimClock::manual("2026-04-24T10:00:00Z".parse().unwrap());
        let shop: AnySimulator = match vendor {
            "shopify" => shopify::Simulator::new(shopify::Settings {
                clock: clock.clone(),
                ..shopify::Settings::default()
            })
            .into(),
            "amazon" => amazon::Simulator::new(amazon::Settings {
                clock: clock.clone(),
                apply_ms: 0,
                rate_scale: 200,
                ..amazon::Settings::default()
            })
            .into(),
            _ => ebay::Simulator::new(ebay::Settings {
                clock: clock.clone(),
                ..ebay::Settings::default()
            })
            .into(),
        };
        shop.seed(vec![SeedItem::new("A", 1_000)]).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(shop.clone(), any).await.unwrap();
        let (sink, hook) = mpsc::channel(1_000);
        let take = async move |headers: HeaderMap, body: Bytes| {
            let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
            let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value)));
            let skipped = ["host", "content-length"];
            let headers = headers.filter(|(name, _)| !skipped.contains(&name.as_str())).collect();
            sink.send(Delivery { headers, body: body.to_vec() }).await.unwrap();
        };
        let router = axum::Router::new().route("/hook", post(take));
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        shop.set_webhook(&url, SECRET).unwrap();
        Self { vendor, api, shop, clock, server, hook }
    }

    fn advance(&self, seconds: i64) {
        self.api.advance(seconds);
        self.clock.advance(Duration::from_secs(seconds.unsigned_abs()));
    }

    /// Connects and maps; the shop's clock is the server's from here on.
    async fn connect(&self, stock: u64) {
        self.clock.advance(Duration::from_secs(DAY.unsigned_abs()));
        self.api.stock("A", stock).await;
        let mut config = self.shop.channel_config(&self.server.url);
        config["credentials"]["webhookSecret"] = match self.vendor {
            "ebay" => Value::Null,
            _ => json!(SECRET),
        };
        config["credentials"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let enable = format!("/channels/{}/enable", self.vendor);
        self.api.call("POST", &enable, &config.to_string()).await.is(200);
        let discover = format!("/channels/{}/mappings/discover", self.vendor);
        let found = self.api.call("POST", &discover, "{}").await.is(200);
        assert_eq!(found["mapped"], 1, "{found}");
        self.settles_at(stock).await;
    }

    /// Sells, and returns the order's id and the delivery that tells of it.
    async fn sell(&mut self, units: i64) -> (String, Delivery) {
        let order = self.shop.sell("A", units).unwrap();
        (order.order_id, self.told().await)
    }

    /// Waits for the next delivery about an order.
    async fn told(&mut self) -> Delivery {
        loop {
            let told = tokio::time::timeout(PATIENCE, self.hook.recv()).await;
            let told = told.expect("the vendor tells of it").unwrap();
            let is_order = match self.vendor {
                "shopify" => told.header("x-shopify-topic").unwrap().starts_with("orders/"),
                "amazon" => told.text().contains("ORDER_CHANGE"),
                _ => told.text().contains("ORDER_CONFIRMATION"),
            };
            if is_order {
                return told;
            }
        }
    }

    async fn post(&self, delivery: &Delivery) -> (u16, Value) {
        let headers: Vec<(&str, &str)> =
            delivery.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let path = format!("/upstream/webhooks/acme/{}", self.vendor);
        let got = self.api.raw("POST", &path, &headers, delivery.body.clone()).await;
        let answer = serde_json::from_str(&got.text()).unwrap_or(Value::Null);
        (got.status.as_u16(), answer["status"].clone())
    }

    /// Posts what must not be let in.
    async fn refused(&self, delivery: &Delivery) {
        let (status, _) = self.post(delivery).await;
        assert!((400..500).contains(&status), "{}: {status} {delivery:?}", self.vendor);
    }

    /// Lets everything be worked on, and asserts what is on hand then.
    async fn settles_at(&self, expected: u64) {
        for _ in 0..100 {
            // Readings wait for a channel to settle, by the clock that stands still otherwise.
            self.advance(1);
            if self.api.is_quiet().await {
                let on_hand = self.api.on_hand("A").await;
                assert_eq!(on_hand, i64::try_from(expected).unwrap(), "{}", self.vendor);
                return;
            }
        }
        panic!("{} did not come to rest", self.vendor);
    }

    /// Returns the same delivery under another id, as far as the signature leaves that open.
    fn renamed(&self, delivery: &Delivery, id: &str) -> Option<Delivery> {
        match self.vendor {
            "shopify" => Some(delivery.with("x-shopify-webhook-id", id)),
            "amazon" => {
                let mut body: Value = serde_json::from_slice(&delivery.body).unwrap();
                let at = [
                    "/detail/NotificationMetadata/NotificationId",
                    "/NotificationMetadata/NotificationId",
                    "/notificationMetadata/notificationId",
                    "/detail/notificationMetadata/notificationId",
                ];
                let at = at.into_iter().find(|at| body.pointer(at).is_some()).unwrap();
                *body.pointer_mut(at).unwrap() = json!(id);
                Some(Delivery { body: body.to_string().into_bytes(), ..delivery.clone() })
            }
            _ => None,
        }
    }
}

async fn nothing_hostile_changes_anything(vendor: &'static str) {
    let mut stand = Stand::open(vendor).await;
    let (_, old) = stand.sell(5).await;
    stand.connect(995).await;
    // Late: what was sold before the connection is in the first count already.
    assert_eq!(stand.post(&old).await.0, 200, "{vendor}");
    stand.settles_at(995).await;
    let (order, sold) = stand.sell(3).await;
    // Forged: another quantity, no signature, another's.
    let forged = sold.text().replace('3', "7").into_bytes();
    let forged = Delivery { body: forged, ..sold.clone() };
    let unsigned = match vendor {
        "shopify" => "x-shopify-hmac-sha256",
        "amazon" => "x-trueup-webhook-secret",
        _ => "x-ebay-signature",
    };
    if vendor != "amazon" {
        // Amazon's secret does not cover the body: who knows it may write anything.
        stand.refused(&forged).await;
    }
    stand.refused(&sold.with(unsigned, "c2lnbmVkIGJ5IG5vYm9keQ==")).await;
    let mut bare = sold.clone();
    bare.headers.retain(|(name, _)| !name.contains(unsigned) && name != "x-api-key");
    stand.refused(&bare).await;
    // Cut off, at any place.
    for part in [0, 1, sold.body.len() / 2, sold.body.len() - 1] {
        let cut = Delivery { body: sold.body[..part].to_vec(), ..sold.clone() };
        stand.refused(&cut).await;
    }
    let first = stand.post(&sold).await;
    assert_eq!(first, (200, json!("accepted")), "{vendor}");
    stand.settles_at(992).await;
    // Replayed: under the same id, under another, as another topic.
    assert_eq!(stand.post(&sold).await, (200, json!("repeated")), "{vendor}");
    if let Some(again) = stand.renamed(&sold, "replay-1") {
        assert_eq!(stand.post(&again).await, (200, json!("accepted")), "{vendor}");
    }
    if vendor == "shopify" {
        for (at, topic) in [
            "orders/updated",
            "orders/cancelled",
            "refunds/create",
            "inventory_levels/update",
            "app/uninstalled",
            "no/such",
        ]
        .into_iter()
        .enumerate()
        {
            let other = sold.with("x-shopify-topic", topic);
            let other = other.with("x-shopify-webhook-id", &format!("topic-{at}"));
            assert_eq!(stand.post(&other).await.0, 200, "{topic}");
        }
        stand.refused(&sold.with("x-shopify-shop-domain", "other.myshopify.com")).await;
    }
    stand.settles_at(992).await;
    // Late: the sale is told again after its cancellation.
    stand.shop.cancel(&order).unwrap();
    stand.api.hear_orders(vendor).await;
    stand.settles_at(995).await;
    if let Some(again) = stand.renamed(&sold, "replay-2") {
        assert_eq!(stand.post(&again).await, (200, json!("accepted")), "{vendor}");
        stand.settles_at(995).await;
    }
    // And once more when nobody remembers its id.
    stand.advance(8 * DAY);
    let mut forgotten = false;
    for _ in 0..20 {
        // What is old is forgotten when nothing has come for a moment.
        tokio::time::sleep(Duration::from_millis(700)).await;
        forgotten = stand.post(&sold).await == (200, json!("accepted"));
        if forgotten {
            break;
        }
    }
    assert!(forgotten, "{vendor}: webhooks are kept for ever");
    stand.settles_at(995).await;
    stand.api.stop().await;
    stand.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_webhook_changes_nothing_at_shopify() {
    nothing_hostile_changes_anything(VENDORS[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_webhook_changes_nothing_at_amazon() {
    nothing_hostile_changes_anything(VENDORS[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_webhook_changes_nothing_at_ebay() {
    nothing_hostile_changes_anything(VENDORS[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_duplicates_of_an_order_are_one_sale() {
    let mut stand = Stand::open("shopify").await;
    stand.connect(1_000).await;
    let (_, sold) = stand.sell(3).await;
    let delivery = |number: usize| {
        let id = format!("copy-{}", number / 2);
        // Every second one under the id of them all.
        if number.is_multiple_of(2) { sold.clone() } else { sold.with("x-shopify-webhook-id", &id) }
    };
    let post = async |number: usize| stand.post(&delivery(number)).await;
    let answers: Vec<(u16, Value)> =
        stream::iter(0..10_000).map(post).buffer_unordered(64).collect().await;
    assert!(answers.iter().all(|(status, _)| *status == 200));
    let accepted = answers.iter().filter(|(_, word)| word == "accepted").count();
    assert_eq!(accepted, 1 + 5_000);
    stand.settles_at(997).await;
    stand.api.stop().await;
    stand.server.shutdown().await;
}
