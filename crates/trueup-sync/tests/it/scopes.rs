//! One account on two connections: one number, one push, each order once.

use trueup_core::{ChannelId, Strategy};
use trueup_store::ListingView;
use trueup_sync::{Enable, EngineError, PullRequest, PushScope, listing_status};

use crate::fake::FakeShop;
use crate::house::{House, PATIENCE, channel, counter, draft, enabling, fresh_shop, until};

/// A merchant who connected one shop twice and mapped its listing `a` on both, first on the
/// first.
struct Twice {
    house: House,
    shop: std::sync::Arc<FakeShop>,
    first: ChannelId,
    second: ChannelId,
}

impl Twice {
    async fn open(kind: &str, change: impl Fn(&mut Enable)) -> Self {
        let house = House::open().await;
        let (name, shop) = fresh_shop("twice");
        shop.state().shown.insert("a".to_owned(), 5);
        house.count("A", 5, true).await;
        let (first, second) = (channel("first"), channel("second"));
        for id in [&first, &second] {
            let mut enable = enabling(kind, &name);
            change(&mut enable);
            house.engine.enable(&house.org, id, enable).await.unwrap();
            house.engine.map(&house.org, id, vec![draft("A", "a")]).await.unwrap();
            house.settle().await;
        }
        Self { house, shop, first, second }
    }

    async fn view(&self, id: &ChannelId) -> ListingView {
        self.house.listing(id, "A").await
    }

    /// Returns which connection is told the number, having looked that the other is not.
    async fn leader(&self) -> &str {
        let views = [self.view(&self.first).await, self.view(&self.second).await];
        let (own, name) =
            if views[1].state.follows { (&self.first, "first") } else { (&self.second, "second") };
        let follower = views.iter().find(|view| view.state.follows).unwrap();
        assert_eq!(follower.leader.as_ref().map(|(channel, _)| channel), Some(own));
        assert_eq!(views.iter().filter(|view| view.state.follows).count(), 1);
        name
    }

    async fn count(&self, units: u64) {
        self.house.count("A", units, true).await;
        self.house.settle().await;
    }

    async fn pull(&self, id: &ChannelId) -> trueup_store::Run {
        self.house.pull(id, PullRequest::default()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_number_is_told_once_and_settled_where_it_is_told() {
    let twice = Twice::open("plain", |enable| enable.strategy = Some(Strategy::ChannelWins)).await;
    let house = &twice.house;
    twice.count(9).await;
    assert_eq!(twice.shop.sent_to("a"), [9]);
    assert_eq!(twice.leader().await, "first");
    let view = twice.view(&twice.second).await;
    let row = house.store.connection(&house.org, &twice.second).await.unwrap().unwrap();
    assert_eq!((listing_status(&view, &row), view.is_dirty()), ("shared", false));
    let status = house.engine.status(&house.org, &twice.second).await.unwrap();
    assert_eq!((status.pending, status.drifted), (0, 0));
    // Asked for, it is left alone; its run says why.
    let run = house.push(&twice.second, PushScope::All).await;
    assert_eq!((counter(&run, "pushed"), counter(&run, "skipped")), (0, 1));
    assert_eq!(run.items[0]["reason"], "shared", "{run:?}");
    // The channel moves by itself: seen on both, carried over once.
    twice.shop.state().shown.insert("a".to_owned(), 7);
    let run = twice.pull(&twice.second).await;
    assert_eq!((counter(&run, "adopted"), counter(&run, "matched")), (0, 1), "{run:?}");
    assert_eq!(twice.view(&twice.second).await.state.observed.map(|seen| seen.quantity), Some(7));
    assert_eq!(house.on_hand("A").await, 9);
    twice.pull(&twice.first).await;
    twice.pull(&twice.second).await;
    assert_eq!(house.on_hand("A").await, 7);
    assert_eq!(twice.shop.sent_to("a"), [9]);
    // The number of another SKU is not for it.
    house.count("B", 1, true).await;
    let refused = house.engine.map(&house.org, &twice.second, vec![draft("B", "a")]).await;
    let Err(EngineError::Mapping(errors)) = refused else { panic!("{refused:?}") };
    assert_eq!((errors[0].0, errors[0].1.setting.as_str()), (0, "listing"));
    twice.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_follower_takes_over_when_the_first_goes() {
    let twice = Twice::open("careful", |_| {}).await;
    let (house, org) = (&twice.house, &twice.house.org);
    house.engine.disable(org, &twice.first).await.unwrap();
    twice.count(8).await;
    assert_eq!((twice.leader().await, twice.shop.shown("a")), ("second", Some(8)));
    // Back again, the first one follows.
    house.engine.resume(org, &twice.first).await.unwrap();
    twice.count(7).await;
    assert_eq!((twice.leader().await, twice.shop.shown("a")), ("second", Some(7)));
    // A mapping that is switched off goes as well.
    let off = trueup_sync::MappingDraft { enabled: false, ..draft("A", "a") };
    house.engine.map(org, &twice.second, vec![off]).await.unwrap();
    twice.count(6).await;
    assert_eq!((twice.leader().await, twice.shop.shown("a")), ("first", Some(6)));
    house.engine.map(org, &twice.second, vec![draft("A", "a")]).await.unwrap();
    twice.count(5).await;
    assert_eq!(twice.leader().await, "first");
    // So does one that only computes.
    let sku = crate::house::sku("A");
    house.engine.unmap(org, &twice.first, &sku, std::collections::BTreeSet::new()).await.unwrap();
    twice.count(4).await;
    let second = twice.view(&twice.second).await;
    assert_eq!((second.state.follows, twice.shop.shown("a")), (false, Some(4)));
    house.engine.map(org, &twice.first, vec![draft("A", "a")]).await.unwrap();
    house.settle().await;
    assert_eq!(twice.leader().await, "second");
    house.engine.remove(org, &twice.second).await.unwrap();
    twice.count(3).await;
    let first = twice.view(&twice.first).await;
    assert_eq!((first.state.follows, twice.shop.shown("a")), (false, Some(3)));
    assert_eq!(twice.shop.sent_to("a"), [8, 7, 6, 5, 4, 3]);
    twice.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_and_known_goes_over_to_the_next() {
    let twice = Twice::open("plain", |enable| enable.strategy = Some(Strategy::ChannelWins)).await;
    let (house, org) = (&twice.house, &twice.house.org);
    twice.shop.state().down = true;
    house.count("A", 3, true).await;
    house.engine.disable(org, &twice.first).await.unwrap();
    let view = twice.view(&twice.second).await;
    assert_eq!((view.state.base, view.is_dirty()), (Some(5), true));
    twice.shop.state().down = false;
    house.settle().await;
    // Five is what it was told, and no change of its own.
    assert_eq!((house.on_hand("A").await, twice.shop.shown("a")), (3, Some(3)));
    twice.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pushes_of_one_number_are_never_under_way() {
    let twice = Twice::open("plain", |_| {}).await;
    let (house, org) = (&twice.house, &twice.house.org);
    twice.shop.state().hold_pushes = true;
    house.count("A", 4, true).await;
    until("the first push is under way", || twice.shop.state().pushing == 1).await;
    house.engine.disable(org, &twice.first).await.unwrap();
    house.count("A", 2, true).await;
    assert!(!twice.view(&twice.second).await.state.follows);
    // It has every chance to go too early.
    for _ in 0..50 {
        tokio::time::sleep(std::time::Duration::from_millis(4)).await;
    }
    twice.shop.state().hold_pushes = false;
    house.settle().await;
    assert_eq!(twice.shop.state().pushing_max, 1);
    assert_eq!((twice.shop.sent_to("a"), twice.shop.shown("a")), (vec![4, 2], Some(2)));
    twice.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_both_hear_of_is_booked_once_also_when_one_goes() {
    let twice = Twice::open("plain", |_| {}).await;
    let (house, org) = (&twice.house, &twice.house.org);
    let now = trueup_sync::Clock::now(&crate::house::WallClock);
    twice.shop.sell("7", "a", 2, now);
    let (first, second) = (&twice.first, &twice.second);
    let heard = tokio::join!(
        house.engine.hear_orders(org, first, PATIENCE),
        house.engine.hear_orders(org, second, PATIENCE)
    );
    assert_eq!(heard, (Ok(true), Ok(true)));
    assert_eq!(house.on_hand("A").await, 3);
    house.engine.remove(org, first).await.unwrap();
    // One more unit on the same order: what was booked before is known to who goes on.
    twice.shop.state().orders[0].lines[0].state.sold = 3;
    house.engine.hear_orders(org, second, PATIENCE).await.unwrap();
    assert_eq!(house.on_hand("A").await, 2);
    twice.house.close().await;
}
