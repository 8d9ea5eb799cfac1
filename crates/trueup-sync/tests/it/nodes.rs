//! Several nodes with an engine each on one database: one of them works for an org.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use trueup_core::{Org, Timestamp};
use trueup_store::postgres::{Clock as StoreClock, LeaseClocks, Now, Postgres};
use trueup_store::{NodeInfo, Run, RunStatus, Shard, Store, StoreError};
use trueup_sync::{Clock, Engine, EngineError, PushScope};
use trueup_test_store::TestStore;

use crate::house::{House, PATIENCE, WallClock, options, until};
use crate::sims::{name, open_with};

/// Longer than a lease is good, in seconds.
const LEASE: i64 = 7;

/// A clock that a test moves.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicI64>);

impl Hand {
    fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    fn clock(&self) -> Now {
        let time = self.0.clone();
        Arc::new(move || Timestamp::from_micros(1_000_000_000 + time.load(Ordering::SeqCst)))
    }
}

struct Nodes {
    place: TestStore,
    /// The clock that leases go by.
    time: Hand,
    org: Org,
}

struct Node {
    house: House,
    store: Arc<Postgres>,
    /// The node's own clock, which also goes where the database's does.
    own: Hand,
}

impl Nodes {
    async fn new() -> Option<Self> {
        let place = TestStore::new().await;
        if place.is_embedded() {
            skip("the embedded store is its only node");
            return None;
        }
        // Of the shards that the first of two nodes hands over.
        let orgs = (0..1_000).map(|n| Org::new(&format!("org-{n}")).unwrap());
        let org = orgs.into_iter().find(|org| Shard::of(org).number() > 40).unwrap();
        Some(Self { place, time: Hand::default(), org })
    }

    async fn join(&self) -> Node {
        let own = Hand::default();
        let (database, both) = (self.time.clock(), (self.time.clock(), own.clock()));
        let clocks = LeaseClocks {
            database,
            own: Arc::new(move || Timestamp::from_micros(both.0().micros() + both.1().micros())),
        };
        let clock = StoreClock::Given(Arc::new(|| WallClock.now()));
        let url = self.place.url().unwrap();
        let store = Postgres::open_node_by_hand(&url, clock, NodeInfo::default(), clocks).await;
        let store = Arc::new(store.unwrap());
        let engine = Engine::start_with(store.clone(), options(), trueup_channels::kind).await;
        let place = self.place.clone();
        let house = House::of(store.clone(), engine.unwrap(), self.org.clone(), place);
        Node { house, store, own }
    }

    /// Lets nodes renew their leases until one of them works for the org.
    async fn until_works(&self, all: &[&Node], one: &Node) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !one.store.holds(&self.org) {
            assert!(tokio::time::Instant::now() < end, "it never came to work for the org");
            self.time.pass(1);
            for node in all {
                node.store.renew_leases().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_moves_with_its_shard_and_what_any_node_decides_is_told() {
    let Some(nodes) = Nodes::new().await else { return };
    let a = nodes.join().await;
    for nth in 0..5 {
        a.house.count(&name(nth), 10, true).await;
    }
    let stalls = open_with(&a.house, &["shopify"], 5, 5).await;
    a.house.settle().await;
    let (shop, id) = (&stalls[0].shop, &stalls[0].id);
    assert_eq!(shop.quantity(&name(0)), Some(10));

    let b = nodes.join().await;
    let refused = b.house.engine.push(&nodes.org, id, PushScope::All, None).await;
    assert_eq!(refused, Err(EngineError::Store(StoreError::Fenced)));
    // Decided by one that does not work for it.
    b.house.count(&name(0), 20, true).await;
    until("the holder tells it", || shop.quantity(&name(0)) == Some(20)).await;

    nodes.until_works(&[&a, &b], &b).await;
    let refused = a.house.engine.push(&nodes.org, id, PushScope::All, None).await;
    assert_eq!(refused, Err(EngineError::Store(StoreError::Fenced)));
    a.house.count(&name(1), 30, true).await;
    until("the new holder tells it", || shop.quantity(&name(1)) == Some(30)).await;
    // Nothing was cut off: it was handed over.
    assert_eq!((a.store.figures().leases_lost, a.store.figures().fenced), (0, 0));
    let end = tokio::time::Instant::now() + PATIENCE;
    let run = loop {
        match b.house.engine.push(&nodes.org, id, PushScope::All, None).await {
            Ok(run) => break run,
            Err(EngineError::Store(StoreError::Fenced)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(tokio::time::Instant::now() < end, "it never came to work for the org");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let run = b.house.engine.wait_run(&nodes.org, &run, PATIENCE).await.unwrap();
    assert_eq!(run.status, RunStatus::Completed);
    a.house.close().await;
    b.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_lease_has_run_out_sends_nothing_and_another_goes_on() {
    let Some(nodes) = Nodes::new().await else { return };
    let a = nodes.join().await;
    for nth in 0..5 {
        a.house.count(&name(nth), 10, true).await;
    }
    let stalls = open_with(&a.house, &["shopify"], 5, 5).await;
    a.house.settle().await;
    let (shop, id) = (&stalls[0].shop, &stalls[0].id);
    let left = Run { id: "left".to_owned(), ..running(id) };
    a.store.put_run(&nodes.org, left).await.unwrap();

    // It stood still, and has not noticed anything but the time.
    a.own.pass(LEASE);
    a.house.count(&name(0), 20, true).await;
    a.house.engine.sweep(&nodes.org);
    until("its work is refused", || a.store.figures().fenced > 0).await;
    assert_eq!(shop.quantity(&name(0)), Some(10));

    nodes.time.pass(LEASE);
    let b = nodes.join().await;
    assert!(b.store.holds(&nodes.org));
    until("the new holder tells it", || shop.quantity(&name(0)) == Some(20)).await;
    let left = b.store.run(&nodes.org, "left").await.unwrap().unwrap();
    assert_eq!(left.status, RunStatus::Failed, "what was left under way has ended");
    a.house.close().await;
    b.house.close().await;
}

fn running(id: &trueup_core::ChannelId) -> Run {
    Run {
        id: String::new(),
        operation: "inventory_push".to_owned(),
        channel: id.clone(),
        status: RunStatus::Running,
        dry_run: false,
        counters: std::collections::BTreeMap::new(),
        warnings: serde_json::json!([]),
        items: serde_json::json!([]),
        error: None,
        request: serde_json::json!({}),
        started_at: Timestamp::EPOCH,
        finished_at: None,
    }
}
