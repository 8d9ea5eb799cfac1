//! Webhooks at the vendor: subscribed, dropped, made again, taken back; the app uninstalled.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use trueup_core::ChannelId;
use trueup_sync::{EngineOptions, Received};
use trueup_testkit::{SeedItem, Shop, SimServer, shopify, spawn};

use crate::house::{House, PATIENCE, channel, options, until};
use crate::sims::enable_of;

/// Where nothing listens: the simulator's deliveries are for tests to make.
const NOWHERE: &str = "http://127.0.0.1:9";

struct Stall {
    house: House,
    id: ChannelId,
    shop: shopify::Simulator,
    server: SimServer,
}

async fn open() -> Stall {
    let public_url = Some(format!("{NOWHERE}/"));
    let options = EngineOptions { public_url, ..options() };
    let house = House::open_as(trueup_channels::kind, options).await;
    house.count("A", 9, true).await;
    let shop = shopify::Simulator::default();
    shop.seed(vec![SeedItem::new("A", 9)]).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = spawn(shop.clone(), any).await.unwrap();
    let stall = Stall { house, id: channel("shopify"), shop, server };
    stall.enable().await;
    let (engine, org) = (&stall.house.engine, &stall.house.org);
    engine.discover(org, &stall.id, false, PATIENCE).await.unwrap();
    stall.house.settle().await;
    stall
}

impl Stall {
    async fn enable(&self) {
        let enable = enable_of(&self.shop.channel_config(&self.server.url));
        self.house.engine.enable(&self.house.org, &self.id, enable).await.unwrap();
    }

    /// Delivers a webhook as the simulator signs them.
    async fn deliver(&self, topic: &str, id: &str, body: &str) -> Received {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(shopify::CLIENT_SECRET.as_bytes());
        let mac = mac.as_mut().unwrap();
        mac.update(body.as_bytes());
        let signature = STANDARD.encode(mac.clone().finalize().into_bytes());
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("x-shopify-topic", topic),
            ("x-shopify-webhook-id", id),
            ("x-shopify-shop-domain", shopify::SHOP),
            ("x-shopify-hmac-sha256", &signature),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let (engine, org) = (&self.house.engine, &self.house.org);
        engine.receive(org, &self.id, &headers, body.as_bytes()).await.unwrap()
    }

    async fn status(&self) -> trueup_sync::ChannelStatus {
        self.house.engine.status(&self.house.org, &self.id).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_the_vendor_dropped_are_made_again() {
    let stall = open().await;
    let made = stall.shop.subscriptions();
    assert_eq!(made.len(), 9);
    let url = format!("{NOWHERE}/upstream/webhooks/acme/shopify");
    assert!(made.iter().all(|(_, uri, fields)| *uri == url && !fields.is_empty()), "{made:?}");
    stall.enable().await;
    assert_eq!(stall.house.history("webhook_subscription").await.len(), 1, "news only");
    stall.shop.drop_subscriptions();
    // A webhook that is heard of tells that they are there.
    assert_eq!(stall.status().await.webhooks.last_at, None);
    stall.deliver("orders/create", "d-0", "{\"id\": 1}").await;
    assert!(stall.shop.subscriptions().is_empty());
    let told = stall.status().await.webhooks;
    assert!(told.last_at.is_some(), "{told:?}");
    assert_eq!(told.topics.unwrap().len(), 9, "as they were last seen");
    // An order that only the poll found tells that they are not.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    stall.shop.sell("A", 2).unwrap();
    assert_eq!(
        stall.house.engine.hear_orders(&stall.house.org, &stall.id, PATIENCE).await,
        Ok(true)
    );
    until("they are made again", || stall.shop.subscriptions().len() == 9).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    while stall.house.history("webhook_subscription").await.len() < 2 {
        assert!(tokio::time::Instant::now() < end, "it was not noted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stall.house.engine.remove(&stall.house.org, &stall.id).await.unwrap();
    assert!(stall.shop.subscriptions().is_empty(), "they are taken back");
    stall.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstalled_app_pauses_the_connection_once_and_a_forged_word_of_it_does_not() {
    let stall = open().await;
    let body = "{\"id\": 1, \"myshopify_domain\": \"sim.myshopify.com\"}";
    // Only the body is signed: whoever saw one may send it again.
    stall.deliver("app/uninstalled", "d-1", body).await;
    stall.house.settle().await;
    let end = tokio::time::Instant::now() + PATIENCE;
    while stall.house.history("webhook").await.is_empty() {
        assert!(tokio::time::Instant::now() < end, "it was not worked on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stall.status().await.status, "ok", "the vendor lets us in");
    stall.shop.uninstall();
    for id in ["d-2", "d-2", "d-3"] {
        stall.deliver("app/uninstalled", id, body).await;
    }
    while stall.status().await.status != "paused" {
        assert!(tokio::time::Instant::now() < end, "it was not paused");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stall.house.settle().await;
    assert!(stall.status().await.last_error.unwrap().contains("refuses us"));
    assert_eq!(stall.house.history("channel").await.len(), 1, "told once");
    stall.house.count("A", 4, true).await;
    stall.shop.install();
    stall.enable().await;
    stall.house.settle().await;
    assert_eq!(stall.shop.quantity("A"), Some(4));
    assert_eq!(stall.shop.subscriptions().len(), 9);
    stall.house.close().await;
}
