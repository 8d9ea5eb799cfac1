//! Webhooks: checked, kept, worked on once, in whatever order they come.

use http::HeaderMap;
use trueup_channels::WebhookError;
use trueup_core::ChannelId;
use trueup_sync::{EngineError, Received};

use crate::house::{House, channel, draft};

pub(crate) fn headers(id: &str, topic: &str, signature: &str) -> HeaderMap {
    let pairs = [("id", id), ("topic", topic), ("signature", signature)];
    let pair = |(name, value): (&'static str, &str)| {
        (http::HeaderName::from_static(name), value.parse().unwrap())
    };
    pairs.into_iter().map(pair).collect()
}

async fn order(house: &House, id: &ChannelId, delivery: &str, body: &str) -> Received {
    let headers = headers(delivery, "order", "good");
    house.engine.receive(&house.org, id, &headers, body.as_bytes()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_make_repeats_and_disorder_harmless() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    house.count("A", 10, true).await;
    house.settle().await;
    // The shop has sold three and taken one back already; the notices come after.
    shop.state().shown.insert("a".to_owned(), 8);
    assert_eq!(order(&house, &id, "d2", "o1 a 3 1").await, Received::New);
    assert_eq!(order(&house, &id, "d1", "o1 a 3 0").await, Received::New);
    assert_eq!(order(&house, &id, "d1", "o1 a 3 0").await, Received::Repeated);
    assert_eq!(order(&house, &id, "d3", "o1 a 3 1").await, Received::New);
    house.settle().await;
    assert_eq!(house.on_hand("A").await, 8);
    assert_eq!(shop.shown("a"), Some(8));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_webhook_is_not_kept() {
    let house = House::open().await;
    let (id, _) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    let headers = headers("d1", "order", "bad");
    let refused = house.engine.receive(&house.org, &id, &headers, b"o1 a 3 0").await;
    assert_eq!(refused, Err(EngineError::Webhook(WebhookError::Signature)));
    let unknown = house.engine.receive(&house.org, &channel("none"), &headers, b"").await;
    assert_eq!(unknown, Err(EngineError::ChannelNotFound(channel("none"))));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_before_its_mapping_waits_for_it() {
    let house = House::open().await;
    let (id, _) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    house.count("A", 10, true).await;
    house.count("B", 10, true).await;
    house.settle().await;
    order(&house, &id, "d1", "o1 b 3 0").await;
    order(&house, &id, "d2", "o1 b 4 0").await;
    house.settle().await;
    assert_eq!(house.history("mapping_missing").await.len(), 1, "noted once");
    let kept = house.store.unmapped_lines(&house.org, &id, None, 9).await.unwrap().items;
    assert_eq!((kept.len(), kept[0].sold, kept[0].fields["id"].as_str()), (1, 4, "b"));
    assert_eq!(house.on_hand("B").await, 10);
    house.engine.map(&house.org, &id, vec![draft("B", "b")]).await.unwrap();
    assert_eq!(house.on_hand("B").await, 6, "it is booked before the mapping is answered");
    let kept = house.store.unmapped_lines(&house.org, &id, None, 9).await.unwrap();
    assert!(kept.items.is_empty());
    house.settle().await;
    assert_eq!(house.on_hand("A").await, 10);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_only_means_that_the_listing_is_read() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    house.count("A", 10, true).await;
    house.settle().await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    shop.state().shown.insert("a".to_owned(), 14);
    let headers = headers("h1", "hint", "good");
    house.engine.receive(&house.org, &id, &headers, b"a").await.unwrap();
    house.settle().await;
    assert_eq!((house.on_hand("A").await, shop.shown("a")), (10, Some(10)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_from_before_the_connection_is_in_the_first_count_already() {
    let house = House::open().await;
    house.count("A", 10, true).await;
    let (id, shop) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    house.settle().await;
    let connected_at = house.store.connection(&house.org, &id).await.unwrap().unwrap().created_at;
    let mut old = crate::fake::order_of("old", "a", 3, 0, connected_at.plus_millis(-60_000));
    // It changes now, for whatever reason.
    old.updated_at = Some(connected_at.plus_millis(5_000));
    let new = crate::fake::order_of("new", "a", 2, 0, connected_at.plus_millis(5_000));
    shop.state().orders.extend([old, new]);
    let heard = house.engine.hear_orders(&house.org, &id, crate::house::PATIENCE).await;
    assert_eq!(heard, Ok(true));
    assert_eq!(house.on_hand("A").await, 8);
    house.close().await;
}
