//! Orders that are not paid for, that are cancelled, and what comes back of them.

use trueup_core::{ChannelId, RestockPolicy};

use crate::house::{House, sku};
use crate::inbox::headers;

async fn tell(house: &House, id: &ChannelId, topic: &str, body: &str) {
    let headers = headers(&format!("{topic} {body}"), topic, "good");
    house.engine.receive(&house.org, id, &headers, body.as_bytes()).await.unwrap();
    house.settle().await;
}

/// On hand, reserved and available.
async fn numbers(house: &House, of: &str) -> (i64, u64, u64) {
    let answer = house.store.sku(&house.org, &sku(of)).await.unwrap().unwrap();
    let totals = answer.state.totals();
    (totals.on_hand.get(), totals.reserved.get(), answer.state.free().floored().get())
}

async fn faults(house: &House) -> Vec<String> {
    house.store.verify(&house.org).await.unwrap().faults
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_order_is_off_every_other_channel_until_it_is_paid_or_cancelled() {
    let house = House::open().await;
    let (one, shop) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    let (_, other) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    house.count("A", 10, true).await;
    house.settle().await;
    shop.state().shown.insert("a".to_owned(), 7);
    tell(&house, &one, "pending", "o1 a 3").await;
    assert_eq!(numbers(&house, "A").await, (10, 3, 7));
    assert_eq!((shop.shown("a"), other.shown("a")), (Some(7), Some(7)));
    assert_eq!(faults(&house).await, [""; 0]);
    let held = house.store.held_lines(&house.org, &one, None, 9).await.unwrap().items;
    assert_eq!(held.iter().map(|line| line.held).collect::<Vec<_>>(), [3]);
    tell(&house, &one, "order", "o1 a 3 0").await;
    assert_eq!(numbers(&house, "A").await, (7, 0, 7));
    shop.state().shown.insert("a".to_owned(), 5);
    tell(&house, &one, "pending", "o2 a 2").await;
    assert_eq!(other.shown("a"), Some(5));
    shop.state().shown.insert("a".to_owned(), 7);
    tell(&house, &one, "cancelled", "o2 a").await;
    assert_eq!(numbers(&house, "A").await, (7, 0, 7));
    assert_eq!((shop.shown("a"), other.shown("a")), (Some(7), Some(7)));
    assert_eq!(faults(&house).await, [""; 0]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_goes_where_the_connection_says() {
    let house = House::open().await;
    let table = [
        (RestockPolicy::Restock, (10, 0, 10)),
        (RestockPolicy::Quarantine, (10, 2, 8)),
        (RestockPolicy::Nothing, (8, 0, 8)),
    ];
    for (policy, expected) in table {
        let change = |enable: &mut trueup_sync::Enable| enable.restock = policy;
        let (id, shop) = house.connect("plain", &[("A", "a", 10)], change).await;
        house.count("A", 10, true).await;
        house.settle().await;
        tell(&house, &id, "order", "o1 a 2 0").await;
        // The channel puts them up for sale again by itself.
        shop.state().shown.insert("a".to_owned(), 10);
        tell(&house, &id, "order", "o1 a 2 2").await;
        assert_eq!(numbers(&house, "A").await, expected, "{policy:?}");
        assert_eq!(shop.shown("a"), i64::try_from(expected.2).ok(), "{policy:?}");
        assert_eq!(faults(&house).await, [""; 0]);
        house.engine.remove(&house.org, &id).await.unwrap();
        house.count_at("A", "quarantine", 0).await;
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_channel_holds_nothing_any_more() {
    let house = House::open().await;
    let (id, _) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    house.count("A", 10, true).await;
    house.settle().await;
    tell(&house, &id, "pending", "o1 a 3").await;
    assert_eq!(numbers(&house, "A").await, (10, 3, 7));
    house.engine.remove(&house.org, &id).await.unwrap();
    assert_eq!(numbers(&house, "A").await, (10, 0, 10));
    assert_eq!(faults(&house).await, [""; 0]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_order_before_its_mapping_holds_when_it_is_mapped() {
    let house = House::open().await;
    let (id, _) = house.connect("plain", &[], |_| {}).await;
    house.count("A", 10, true).await;
    house.settle().await;
    tell(&house, &id, "pending", "o1 a 3").await;
    assert_eq!(numbers(&house, "A").await, (10, 0, 10));
    house.engine.map(&house.org, &id, vec![crate::house::draft("A", "a")]).await.unwrap();
    assert_eq!(numbers(&house, "A").await, (10, 3, 7));
    house.close().await;
}
