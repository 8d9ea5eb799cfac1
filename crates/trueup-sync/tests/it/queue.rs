//! A channel's own queue: kept first, deleted then, and a sign of what was heard.

use std::sync::Arc;
use std::time::Duration;

use trueup_core::{ChannelId, Timestamp};
use trueup_sync::HealthState;

use crate::fake::FakeShop;
use crate::house::{House, until};

fn tell(shop: &FakeShop, id: &str, topic: &'static str, body: &str) {
    shop.state().queue.push((id.to_owned(), topic, body.to_owned()));
}

/// A shop whose orders cannot be polled, so that only its queue tells of them.
async fn deaf(house: &House) -> (ChannelId, Arc<FakeShop>) {
    house.count("A", 10, true).await;
    let connected = house.connect("queued", &[("A", "a", 10)], |_| ()).await;
    house.settle().await;
    connected.1.state().deaf = true;
    connected
}

async fn booked(house: &House, on_hand: i64) {
    let end = tokio::time::Instant::now() + crate::house::PATIENCE;
    while house.on_hand("A").await != on_hand {
        assert!(tokio::time::Instant::now() < end, "{} on hand", house.on_hand("A").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_are_booked_once_and_deleted_however_often_they_come() {
    let house = House::open().await;
    let (_, shop) = deaf(&house).await;
    shop.state().undeleted = 1;
    // Twice under one id, late under another, and out of order.
    tell(&shop, "2", "order", "o1 a 3 1");
    tell(&shop, "1", "order", "o1 a 3 0");
    tell(&shop, "2", "order", "o1 a 3 1");
    tell(&shop, "3", "order", "o1 a 3 0");
    booked(&house, 8).await;
    until("the queue is empty", || shop.state().queue.is_empty()).await;
    house.settle().await;
    assert_eq!(house.on_hand("A").await, 8);
    let deliveries = house.history("webhook").await;
    assert_eq!(deliveries.len(), 3, "each delivery id once: {deliveries:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_kept_as_dead_and_holds_up_nothing() {
    let house = House::open().await;
    let (_, shop) = deaf(&house).await;
    tell(&shop, "poison", "unreadable", "hello");
    tell(&shop, "1", "order", "o1 a 3 0");
    booked(&house, 7).await;
    until("the queue is empty", || shop.state().queue.is_empty()).await;
    house.settle().await;
    let dead: Vec<_> = house.history("webhook").await;
    let dead: Vec<_> = dead.iter().filter(|entry| entry.detail["dead"] == true).collect();
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0].detail["deliveryId"], "poison");
    assert!(house.store.inbox_waiting(Timestamp::MAX, 9).await.unwrap().is_empty());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_connection_leaves_its_queue_alone() {
    let house = House::open().await;
    let (id, shop) = deaf(&house).await;
    house.engine.disable(&house.org, &id).await.unwrap();
    // What was asked for before the pause ends meanwhile.
    house.settle().await;
    tell(&shop, "1", "order", "o1 a 3 0");
    house.settle().await;
    assert_eq!(shop.state().queue.len(), 1);
    assert_eq!(house.on_hand("A").await, 10);
    house.engine.resume(&house.org, &id).await.unwrap();
    booked(&house, 7).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_queue_lets_numbers_be_raised_without_a_poll() {
    let house = House::open().await;
    let (_, shop) = deaf(&house).await;
    until("the queue was seen empty", || shop.state().polls > 0).await;
    // Polls that failed are tried again with pauses; none is asked for by the raises.
    house.count("A", 25, true).await;
    until("it is raised", || shop.shown("a") == Some(25)).await;
    house.count("A", 30, true).await;
    until("it is raised again", || shop.shown("a") == Some(30)).await;
    house.settle().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_cannot_be_read_is_told_once_and_polls_take_over() {
    let house = House::open().await;
    house.count("A", 10, true).await;
    let (id, shop) = house.connect("queued", &[("A", "a", 10)], |_| ()).await;
    house.settle().await;
    shop.state().queue_down = true;
    let end = tokio::time::Instant::now() + crate::house::PATIENCE;
    while house.history("channel").await.is_empty() {
        assert!(tokio::time::Instant::now() < end, "nobody was told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = house.history("channel").await;
    assert_eq!((told.len(), &told[0].detail["code"]), (1, &"queue".into()));
    let status = house.engine.status(&house.org, &id).await.unwrap();
    assert_eq!(status.status, "error");
    assert_eq!(
        (status.health.state, status.health.code),
        (HealthState::Error, Some("queue".into()))
    );
    assert!(status.health.since.is_some() && status.health.detail.is_some());
    let trouble = status.queue.unwrap().trouble.unwrap();
    let polls = shop.state().polls;
    house.count("A", 25, true).await;
    until("it is raised", || shop.shown("a") == Some(25)).await;
    assert!(shop.state().polls > polls, "orders were polled before");
    let queue = async || house.engine.status(&house.org, &id).await.unwrap().queue.unwrap();
    let later = queue().await.trouble.unwrap();
    assert_eq!(later.0, trouble.0, "it is the same trouble");
    shop.state().queue_down = false;
    while queue().await.trouble.is_some() {
        assert!(tokio::time::Instant::now() < end, "it is read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_is_received_by_many_at_once() {
    let house = House::open().await;
    house.count("A", 1_000, true).await;
    let (_, shop) = house.connect("queued", &[("A", "a", 1_000)], |_| ()).await;
    house.settle().await;
    shop.state().queue_far = Duration::from_millis(20);
    {
        let mut state = shop.state();
        for nth in 0..200 {
            state.queue.push((nth.to_string(), "order", format!("o{nth} a 1 0")));
        }
    }
    booked(&house, 800).await;
    until("the queue is empty", || shop.state().queue.is_empty()).await;
    assert!(shop.state().receiving_max > 1, "one after the other");
    house.settle().await;
    assert_eq!(house.on_hand("A").await, 800, "what came twice was booked once");
    house.close().await;
}
