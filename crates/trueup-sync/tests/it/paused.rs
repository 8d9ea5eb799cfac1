//! What is paused is told nothing, not even zero; what is owed is kept and sent when it goes on.

use trueup_core::Rejection;
use trueup_store::RunStatus;
use trueup_sync::{Clock as _, EngineError, PullRequest, PushScope, listing_status};

use crate::house::{House, WallClock, counter, sku};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sku_is_told_nothing_and_the_others_go_on() {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        for of in ["A", "B"] {
            house.count(of, 10, true).await;
        }
        let (id, shop) = house.connect(kind, &[("A", "a", 10), ("B", "b", 10)], |_| {}).await;
        house.push(&id, PushScope::All).await;
        house.settle().await;
        house.engine.pause(&house.org, Some(&sku("A")), None, "ann").await.unwrap();
        for of in ["A", "B"] {
            house.count(of, 0, true).await;
        }
        house.settle().await;
        assert_eq!((shop.shown("a"), shop.shown("b")), (Some(10), Some(0)), "{kind}");
        let run = house.push(&id, PushScope::All).await;
        assert_eq!(run.status, RunStatus::Completed, "{kind}: {run:?}");
        let skipped = run.items.as_array().unwrap().iter().find(|item| item["sku"] == "A").unwrap();
        assert_eq!(skipped["reason"], "paused", "{kind}");
        house.settle().await;
        let row = house.store.connection(&house.org, &id).await.unwrap().unwrap();
        let view = house.listing(&id, "A").await;
        assert!(view.is_dirty(), "{kind}: what is owed is kept");
        assert_eq!(listing_status(&view, &row), "paused");
        let counts = house.store.channel_counts(&house.org, &id).await.unwrap();
        assert_eq!(counts.pending, 0, "{kind}");
        assert!(house.engine.unpause(&house.org, Some(&sku("A"))).await.unwrap());
        assert!(!house.engine.unpause(&house.org, Some(&sku("A"))).await.unwrap());
        house.settle().await;
        assert_eq!(shop.shown("a"), Some(0), "{kind}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_everything_is_paused_orders_are_booked_and_channels_are_read() {
    let house = House::open().await;
    house.count("A", 10, true).await;
    let (one, shop) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    let (two, other) = house.connect("plain", &[("A", "a", 10)], |_| {}).await;
    for id in [&one, &two] {
        house.push(id, PushScope::All).await;
    }
    house.settle().await;
    house.engine.pause(&house.org, None, Some("count".to_owned()), "ann").await.unwrap();
    let pauses = house.engine.pauses(&house.org, None, 9).await.unwrap();
    assert_eq!(pauses.org.unwrap().note.as_deref(), Some("count"));
    shop.sell("o1", "a", 3, WallClock.now());
    assert!(house.engine.hear_orders(&house.org, &one, crate::house::PATIENCE).await.unwrap());
    house.settle().await;
    assert_eq!(house.on_hand("A").await, 7, "what was sold is booked");
    assert_eq!(other.shown("a"), Some(10), "and nobody is told");
    let read = house.pull(&two, PullRequest::default()).await;
    assert_eq!((read.status, counter(&read, "checked")), (RunStatus::Completed, 1), "{read:?}");
    assert_eq!(other.shown("a"), Some(10));
    assert_eq!(house.engine.status(&house.org, &two).await.unwrap().status, "paused");
    assert!(house.engine.unpause(&house.org, None).await.unwrap());
    house.settle().await;
    assert_eq!(other.shown("a"), Some(7));
    assert_eq!(house.engine.status(&house.org, &two).await.unwrap().status, "ok");
    let unknown = house.engine.pause(&house.org, Some(&sku("Z")), None, "ann").await;
    assert_eq!(unknown.unwrap_err(), EngineError::Rejected(Rejection::SkuNotFound(sku("Z"))));
    house.close().await;
}
