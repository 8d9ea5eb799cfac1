//! Acts that would change much of a channel wait for an operator; sales never do.

use std::sync::Arc;

use trueup_core::{
    ChannelId, Command, Item, Location, OrderId, ReservationId, SetOnHand, SkuSettings, Source,
    Strategy,
};
use trueup_store::{BlastRadius, RuleSettings, Run, RunStatus, Submission};
use trueup_sync::{EngineError, PullRequest, PushScope};

use crate::fake::FakeShop;
use crate::house::{House, PATIENCE, counter, draft, enabling, quantity, sku};

/// As many listings as it takes to ask.
const MANY: usize = 60;

fn names() -> Vec<(String, String)> {
    (0..MANY).map(|at| (format!("S{at:02}"), format!("l{at:02}"))).collect()
}

/// A shop with many listings that show 10, as they should.
async fn stocked(house: &House, kind: &str, strategy: Strategy) -> (ChannelId, Arc<FakeShop>) {
    let names = names();
    for (of, _) in &names {
        house.count(of, 10, true).await;
    }
    let listings: Vec<(&str, &str, i64)> =
        names.iter().map(|(of, id)| (of.as_str(), id.as_str(), 10)).collect();
    let (id, shop) = house.connect(kind, &listings, |e| e.strategy = Some(strategy)).await;
    let run = house.push(&id, PushScope::All).await;
    assert_eq!(run.status, RunStatus::Completed, "{run:?}");
    house.settle().await;
    shop.state().sent.clear();
    (id, shop)
}

async fn count_all(house: &House, units: u64, publish: bool) {
    for (of, _) in names() {
        house.count(&of, units, publish).await;
    }
}

async fn confirm(house: &House, run: &Run) -> Run {
    house.engine.confirm_run(&house.org, &run.id, "ann").await.unwrap();
    house.engine.wait_run(&house.org, &run.id, PATIENCE).await.unwrap()
}

fn sent(shop: &FakeShop) -> usize {
    shop.state().sent.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_too_many_zeroes_sends_nothing_until_it_is_confirmed() {
    let house = House::open().await;
    let (id, shop) = stocked(&house, "plain", Strategy::MasterWins).await;
    count_all(&house, 0, false).await;
    let held = house.push(&id, PushScope::All).await;
    assert_eq!((held.status, sent(&shop)), (RunStatus::Held, 0), "{held:?}");
    let many = u64::try_from(MANY).unwrap();
    let counts = ["listings", "changes", "zeroes", "raises", "lowers"].map(|c| counter(&held, c));
    assert_eq!(counts, [many, many, many, 0, 0]);
    let item = &held.items[0];
    assert_eq!((&item["before"], &item["quantity"]), (&10.into(), &0.into()), "{item}");
    assert_eq!(item["action"], "held");
    let words = "it would zero 60 of 60 listings; without being asked 50 may be";
    assert_eq!(held.error.as_deref(), Some(words));
    assert_eq!(house.history("inventory_push").await[0].status, "held");
    // What is sold meanwhile is told at once.
    house.count("S00", 3, true).await;
    house.settle().await;
    assert_eq!((shop.shown("l00"), sent(&shop)), (Some(3), 1));
    let done = confirm(&house, &held).await;
    assert_eq!((done.status, &done.id), (RunStatus::Completed, &held.id), "{done:?}");
    house.settle().await;
    assert_eq!((shop.shown("l01"), shop.shown("l00")), (Some(0), Some(3)));
    let twice = house.engine.confirm_run(&house.org, &held.id, "ann").await;
    assert_eq!(twice.unwrap_err(), EngineError::NotHeld);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_given_up_sends_nothing_and_cannot_be_confirmed() {
    let house = House::open().await;
    let (id, shop) = stocked(&house, "careful", Strategy::MasterWins).await;
    count_all(&house, 0, false).await;
    let items = names().into_iter().map(|(of, _)| (sku(&of), Some(quantity(0)))).collect();
    let held = house.push(&id, PushScope::Items(items)).await;
    assert_eq!(held.status, RunStatus::Held);
    let ended = house.engine.cancel_run(&house.org, &held.id, "ann").await.unwrap();
    assert_eq!(ended.status, RunStatus::Cancelled);
    let late = house.engine.confirm_run(&house.org, &held.id, "ann").await;
    assert_eq!(late.unwrap_err(), EngineError::NotHeld);
    let nobody = house.engine.cancel_run(&house.org, "none", "ann").await;
    assert_eq!(nobody.unwrap_err(), EngineError::NotFound("run"));
    assert_eq!(sent(&shop), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_changes_is_its_word_and_is_never_held() {
    let house = House::open().await;
    let (id, shop) = stocked(&house, "plain", Strategy::MasterWins).await;
    count_all(&house, 0, true).await;
    let changed = names().into_iter().map(|(of, _)| sku(&of)).collect();
    let run = house.push(&id, PushScope::Changed(changed)).await;
    assert_eq!(run.status, RunStatus::Completed, "{run:?}");
    house.settle().await;
    assert!(names().iter().all(|(_, listing)| shop.shown(listing) == Some(0)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_was_set_asks_about_few_and_what_has_grown_asks_again() {
    let house = House::open().await;
    let (id, shop) = stocked(&house, "plain", Strategy::MasterWins).await;
    let limits = BlastRadius { change_number: Some(1), ..BlastRadius::default() };
    house.engine.set_blast_radius(&house.org, &id, limits).await.unwrap();
    house.count("S00", 9, false).await;
    assert_eq!(house.push(&id, PushScope::All).await.status, RunStatus::Completed);
    house.count("S00", 8, false).await;
    house.count("S01", 8, false).await;
    house.settle().await;
    shop.state().sent.clear();
    let held = house.push(&id, PushScope::All).await;
    assert_eq!((held.status, sent(&shop)), (RunStatus::Held, 0), "{held:?}");
    assert_eq!((counter(&held, "lowers"), counter(&held, "zeroes")), (2, 0));
    // Two lowered numbers were agreed to, and not sixty zeroes.
    let zeroes = BlastRadius { zero_number: Some(1), ..limits };
    house.engine.set_blast_radius(&house.org, &id, zeroes).await.unwrap();
    count_all(&house, 0, false).await;
    let again = confirm(&house, &held).await;
    assert_eq!((again.status, sent(&shop)), (RunStatus::Held, 0), "{again:?}");
    assert_eq!(confirm(&house, &again).await.status, RunStatus::Completed);
    assert_eq!(shop.shown("l05"), Some(0));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_would_zero_too_many_are_refused_until_they_are_confirmed() {
    let house = House::open().await;
    let (id, shop) = stocked(&house, "plain", Strategy::MasterWins).await;
    let rules = RuleSettings { buffer: Some(quantity(10)), ..RuleSettings::default() };
    let mut enable = enabling("plain", id.as_str());
    enable.rules = rules.clone();
    let refused = house.engine.enable(&house.org, &id, enable.clone()).await.unwrap_err();
    let EngineError::TooWide { impact, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((impact.zeroes, impact.changes()), (60, 60));
    let row = house.store.connection(&house.org, &id).await.unwrap().unwrap();
    assert_eq!(row.rules, RuleSettings::default(), "nothing was kept");
    // The same for the mappings one by one.
    let drafts: Vec<_> = names()
        .iter()
        .map(|(of, listing)| trueup_sync::MappingDraft {
            rules: rules.clone(),
            ..draft(of, listing)
        })
        .collect();
    let refused = house.engine.check_mapping_radius(&house.org, &id, drafts.clone()).await;
    assert!(matches!(refused.unwrap_err(), EngineError::TooWide { .. }));
    let few = drafts[..5].to_vec();
    house.engine.check_mapping_radius(&house.org, &id, few).await.unwrap();
    house.settle().await;
    assert_eq!(sent(&shop), 0);
    enable.confirmed = true;
    house.engine.enable(&house.org, &id, enable).await.unwrap();
    house.settle().await;
    assert!(names().iter().all(|(_, listing)| shop.shown(listing) == Some(0)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_an_import_are_weighed_before_they_are_taken() {
    let house = House::open().await;
    let (id, _) = stocked(&house, "plain", Strategy::MasterWins).await;
    let counts = |units: u64| -> Vec<SetOnHand> {
        let count = |(of, _): &(String, String)| SetOnHand {
            sku: sku(of),
            quantity: quantity(units),
            location: Location::main(),
            reason: None,
            settings: SkuSettings::default(),
            counted_at: None,
            if_version: None,
            publish: true,
        };
        names().iter().map(count).collect()
    };
    house.engine.check_counts(&house.org, &counts(11)).await.unwrap();
    house.engine.check_counts(&house.org, &counts(0)[..20]).await.unwrap();
    let refused = house.engine.check_counts(&house.org, &counts(0)).await.unwrap_err();
    let EngineError::TooWide { channel, impact, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((channel, impact.listings, impact.zeroes), (id, 60, 60));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_too_many_zeroes_adopts_the_first_and_waits_with_the_rest() {
    let house = House::open().await;
    let (id, shop) = stocked(&house, "plain", Strategy::ChannelWins).await;
    for (_, listing) in names() {
        shop.state().shown.insert(listing, 0);
    }
    let held = house.pull(&id, PullRequest::default()).await;
    assert_eq!(held.status, RunStatus::Held, "{held:?}");
    let counts = ["checked", "adopted", "zeroes"].map(|name| counter(&held, name));
    assert_eq!(counts, [50, 50, 60]);
    let mut left = 0;
    for (of, _) in names() {
        left += i64::from(house.on_hand(&of).await == 10);
    }
    assert_eq!(left, 10, "beyond the first, nothing is adopted");
    let done = confirm(&house, &held).await;
    assert_eq!((done.status, counter(&done, "adopted")), (RunStatus::Completed, 10), "{done:?}");
    assert_eq!(house.on_hand("S59").await, 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sales_at_once_are_told_without_being_asked_about() {
    let house = House::open().await;
    let (id, shop) = stocked(&house, "plain", Strategy::MasterWins).await;
    let limits =
        BlastRadius { zero_number: Some(0), change_number: Some(0), ..BlastRadius::default() };
    house.engine.set_blast_radius(&house.org, &id, limits).await.unwrap();
    for (at, (of, _)) in names().into_iter().enumerate() {
        let command = Command::Reserve(trueup_core::Reserve {
            id: ReservationId(at as u128 + 1),
            order: OrderId::new(&format!("o{at}")).unwrap(),
            items: vec![Item { sku: sku(&of), location: None, quantity: quantity(10) }],
            ttl_seconds: 900,
        });
        let submission = Submission {
            org: house.org.clone(),
            command,
            actor: Arc::from("test"),
            source: Source::Api,
            idempotency: None,
        };
        house.store.submit(submission).await.unwrap();
    }
    // A run that comes at the same time holds nothing of it up.
    let run = house.push(&id, PushScope::All).await;
    assert_ne!(run.status, RunStatus::Failed);
    house.settle().await;
    assert!(names().iter().all(|(_, listing)| shop.shown(listing) == Some(0)));
    house.close().await;
}

async fn undo(house: &House, run: &Run) -> Run {
    let undoing = house.engine.undo_run(&house.org, &run.id, None, "ann").await.unwrap();
    house.engine.wait_run(&house.org, &undoing, PATIENCE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_told_is_taken_back_and_never_beyond_what_there_is() {
    for kind in ["plain", "careful", "slow"] {
        let house = House::open().await;
        let listings = [("A", "a", 10), ("A", "a2", 10), ("B", "b", 10), ("C", "c", 10)];
        for of in ["A", "B", "C"] {
            house.count(of, 10, true).await;
        }
        let (id, shop) = house.connect(kind, &listings, |_| {}).await;
        house.push(&id, PushScope::All).await;
        house.settle().await;
        let told = vec![(sku("A"), Some(quantity(3))), (sku("B"), Some(quantity(4)))];
        let run = house.push(&id, PushScope::Items(told)).await;
        house.settle().await;
        assert_eq!([shop.shown("a"), shop.shown("b")], [Some(3), Some(4)], "{kind}");
        // Two were counted away since, and nobody was told.
        house.count("B", 8, false).await;
        let undone = undo(&house, &run).await;
        house.settle().await;
        let shown = ["a", "a2", "b", "c"].map(|listing| shop.shown(listing).unwrap());
        assert_eq!(shown, [10, 10, 8, 10], "{kind}: {undone:?}");
        assert_eq!((undone.operation.as_str(), counter(&undone, "pushed")), ("inventory_undo", 3));
        assert_eq!(undone.request["undoes"], run.id.as_str());
        let items = undone.items.as_array().unwrap();
        let less = items.iter().find(|item| item["sku"] == "B").unwrap();
        assert_eq!((&less["quantity"], &less["reason"]), (&8.into(), &"not_available".into()));
        assert_eq!(house.history("inventory_push").await[0].status, "undone", "{kind}");
        // The undoing is a run, too.
        let again = undo(&house, &undone).await;
        house.settle().await;
        assert_eq!([shop.shown("a"), shop.shown("b")], [Some(3), Some(4)], "{kind}: {again:?}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_is_said_with_its_reason() {
    let house = House::open().await;
    let listings = [("A", "a", 10), ("B", "b", 10)];
    for of in ["A", "B"] {
        house.count(of, 10, true).await;
    }
    let (id, shop) =
        house.connect("plain", &listings, |e| e.strategy = Some(Strategy::ChannelWins)).await;
    house.push(&id, PushScope::All).await;
    house.settle().await;
    shop.state().shown.insert("a".to_owned(), 6);
    let pulled = house.pull(&id, PullRequest::default()).await;
    assert_eq!(counter(&pulled, "adopted"), 1, "{pulled:?}");
    let undone = undo(&house, &pulled).await;
    assert_eq!((undone.status, counter(&undone, "total")), (RunStatus::Completed, 0));
    assert_eq!(undone.warnings[0]["code"], "adopted", "{undone:?}");
    // A listing that was unmapped since is gone.
    let told = vec![(sku("B"), Some(quantity(1)))];
    let run = house.push(&id, PushScope::Items(told)).await;
    house
        .engine
        .unmap(&house.org, &id, &sku("B"), std::collections::BTreeSet::new())
        .await
        .unwrap();
    let undone = undo(&house, &run).await;
    assert_eq!(undone.items[0]["reason"], "mapping_missing", "{undone:?}");
    let dry = PullRequest { dry_run: true, ..PullRequest::default() };
    let dry = house.pull(&id, dry).await;
    let refused = house.engine.undo_run(&house.org, &dry.id, None, "ann").await;
    assert_eq!(refused.unwrap_err(), EngineError::NotUndoable);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_that_would_zero_a_channel_maps_nothing_until_it_is_confirmed() {
    let house = House::open().await;
    count_all(&house, 0, false).await;
    let (name, shop) = crate::house::fresh_shop("held-discovery");
    for (of, listing) in names() {
        shop.state().shown.insert(listing.clone(), 5);
        let entry = crate::connect::entry(&listing, Some(&of), 5);
        shop.state().catalogue.push(entry);
    }
    let id = crate::house::channel(&name);
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    assert_eq!((found.run.status, found.mapped()), (RunStatus::Held, 0), "{:?}", found.run);
    assert_eq!(house.history("inventory_discovery").await[0].status, "held");
    let run = house.store.run(&house.org, &found.run.id).await.unwrap().unwrap();
    assert_eq!((counter(&run, "zeroes"), counter(&run, "listings")), (60, 60));
    house.settle().await;
    assert!(names().iter().all(|(_, listing)| shop.shown(listing) == Some(5)));
    let done = confirm(&house, &run).await;
    assert_eq!((done.status, counter(&done, "mapped")), (RunStatus::Completed, 60), "{done:?}");
    house.settle().await;
    assert!(names().iter().all(|(_, listing)| shop.shown(listing) == Some(0)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_contact_that_takes_the_channels_numbers_over_asks_nobody() {
    let house = House::open().await;
    count_all(&house, 0, false).await;
    let (name, shop) = crate::house::fresh_shop("taking-over");
    for (of, listing) in names() {
        shop.state().shown.insert(listing.clone(), 5);
        shop.state().catalogue.push(crate::connect::entry(&listing, Some(&of), 5));
    }
    let id = crate::house::channel(&name);
    let mut enable = enabling("plain", &name);
    enable.strategy = Some(Strategy::ChannelWins);
    house.engine.enable(&house.org, &id, enable).await.unwrap();
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    assert_eq!((found.run.status, found.mapped()), (RunStatus::Completed, 60), "{:?}", found.run);
    house.settle().await;
    for (of, listing) in names() {
        assert_eq!((house.on_hand(&of).await, shop.shown(&listing)), (5, Some(5)));
    }
    house.close().await;
}
