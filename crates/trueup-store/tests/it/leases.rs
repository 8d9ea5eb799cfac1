//! Leases: of several nodes on one database, one works for each shard; what another one does under
//! a lease that it has lost comes to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use trueup_core::{Command, Org, Timestamp};
use trueup_store::postgres::{Clock, LeaseClocks, Now, Postgres};
use trueup_store::{Cluster, NodeInfo, Ownership, Shard, Store, StoreError};
use trueup_test_store::TestStore;

use crate::harness::{org, set, sku, submit};
use crate::making::connection;

/// How long a lease is good, in seconds.
const LEASE: i64 = 6;

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
    // Dropped with the database at last.
    place: TestStore,
    /// The database's clock.
    time: Hand,
}

impl Nodes {
    async fn new() -> Option<Self> {
        let place = TestStore::new().await;
        if place.is_embedded() {
            crate::nodes::skip("the embedded store is its only node");
            return None;
        }
        Some(Self { place, time: Hand::default() })
    }

    /// A node whose own clock is the database's.
    async fn join(&self, name: &str) -> Arc<Postgres> {
        self.join_with(name, &self.time).await
    }

    /// A node with a clock of its own.
    async fn join_with(&self, name: &str, own: &Hand) -> Arc<Postgres> {
        let info = NodeInfo { name: name.to_owned(), ..NodeInfo::default() };
        let clocks = LeaseClocks { database: self.time.clock(), own: own.clock() };
        let (url, clock) = (self.place.url().unwrap(), Clock::Given(self.time.clock()));
        Arc::new(Postgres::open_node_by_hand(&url, clock, info, clocks).await.unwrap())
    }
}

/// Returns how many shards a node works for.
fn count(node: &Postgres) -> usize {
    node.ownership().borrow().shards.len()
}

fn ownership(node: &Postgres) -> Ownership {
    node.ownership().borrow().clone()
}

fn epochs(cluster: &Cluster) -> BTreeMap<Shard, i64> {
    cluster.leases.iter().map(|lease| (lease.shard, lease.epoch)).collect()
}

/// Returns an org that a node works for.
fn org_of(node: &Postgres) -> Org {
    let orgs = (0..1_000).map(|n| org(&format!("org-{n}")));
    orgs.into_iter().find(|org| node.holds(org)).unwrap()
}

/// Lets all nodes renew until nothing changes any more; in each round time passes.
async fn settle(nodes: &Nodes, all: &[&Postgres]) {
    for _ in 0..4 {
        nodes.time.pass(1);
        for node in all {
            node.renew_leases().await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_only_node_works_for_everything_and_a_client_for_nothing() {
    let Some(nodes) = Nodes::new().await else { return };
    let url = nodes.place.url().unwrap();
    let client = Postgres::open(&url, Clock::Given(nodes.time.clock())).await.unwrap();
    let node = nodes.join("a").await;
    client.renew_leases().await.unwrap();
    assert_eq!((count(&client), count(&node)), (0, 64));
    assert_eq!(node.figures().shards, 64);
    let cluster = node.cluster().await.unwrap();
    assert_eq!((cluster.nodes.len(), cluster.leases.len()), (1, 64));
    assert_eq!(cluster.nodes[0].info.name, "a");
    assert!(cluster.leases.iter().all(|lease| lease.node == cluster.node && lease.epoch == 1));
    assert_eq!(client.cluster().await.unwrap().node, None);
}

#[tokio::test]
async fn nodes_that_come_are_handed_their_fair_share() {
    let Some(nodes) = Nodes::new().await else { return };
    let a = nodes.join("a").await;
    let b = nodes.join("b").await;
    assert_eq!((count(&a), count(&b)), (64, 0));
    settle(&nodes, &[&a, &b]).await;
    assert_eq!((count(&a), count(&b)), (32, 32));
    let c = nodes.join("c").await;
    settle(&nodes, &[&a, &b, &c]).await;
    let mut shares = [count(&a), count(&b), count(&c)];
    shares.sort_unstable();
    assert_eq!(shares, [20, 22, 22]);
    for shard in Shard::all() {
        let all = [&a, &b, &c];
        let holders = all.iter().filter(|node| ownership(node).shards.contains_key(&shard));
        assert_eq!(holders.count(), 1, "{shard:?}");
    }
    // None was lost on the way: they were handed over.
    assert!([&a, &b, &c].iter().all(|node| node.figures().leases_lost == 0));
}

#[tokio::test]
async fn who_works_for_a_shard_ends_that_before_it_is_handed_over() {
    let Some(nodes) = Nodes::new().await else { return };
    let a = nodes.join("a").await;
    let watch = a.ownership();
    let b = nodes.join("b").await;
    settle(&nodes, &[&a, &b]).await;
    // Somebody works, and has not said that it has ended.
    assert_eq!((count(&a), count(&b)), (64, 0));
    let leaving = |node: &Postgres| -> Vec<Shard> {
        let of = ownership(node);
        of.shards.iter().filter(|(_, held)| held.is_leaving).map(|(shard, _)| *shard).collect()
    };
    let ended = leaving(&a);
    assert_eq!(ended.len(), 32);
    assert_eq!(*watch.borrow(), ownership(&a));
    let org = org_of(&a);
    a.hand_over(ended[..30].to_vec()).await.unwrap();
    settle(&nodes, &[&a, &b]).await;
    assert_eq!((count(&a), count(&b)), (34, 30));
    assert_eq!(leaving(&a), ended[30..]);
    // Work that does not end is not waited for for ever.
    for _ in 0..6 {
        settle(&nodes, &[&a, &b]).await;
    }
    assert_eq!((count(&a), count(&b)), (32, 32));
    assert!(a.holds(&org) != b.holds(&org));
}

#[tokio::test]
async fn a_dead_nodes_shards_are_taken_over_when_they_have_run_out_and_not_before() {
    let Some(nodes) = Nodes::new().await else { return };
    let (a, b) = (nodes.join("a").await, nodes.join("b").await);
    settle(&nodes, &[&a, &b]).await;
    let before = epochs(&b.cluster().await.unwrap());
    nodes.time.pass(LEASE - 2);
    b.renew_leases().await.unwrap();
    assert_eq!(count(&b), 32);
    nodes.time.pass(2);
    b.renew_leases().await.unwrap();
    assert_eq!(count(&b), 64);
    let after = epochs(&b.cluster().await.unwrap());
    let taken = before.iter().filter(|(shard, epoch)| after[*shard] == **epoch + 1).count();
    assert_eq!(taken, 32);
    assert_eq!(before.iter().filter(|(shard, epoch)| after[*shard] == **epoch).count(), 32);
}

#[tokio::test]
async fn a_node_that_stood_still_holds_nothing_before_anybody_else_can() {
    let Some(nodes) = Nodes::new().await else { return };
    let a = nodes.join("a").await;
    let org = org("acme");
    // Of each lease the last second and a half is not used.
    nodes.time.pass(LEASE - 2);
    assert!(a.holds(&org));
    nodes.time.pass(1);
    assert!(!a.holds(&org), "nobody may have it yet, but soon");
    let b = nodes.join("b").await;
    assert!(!b.holds(&org));
    nodes.time.pass(1);
    b.renew_leases().await.unwrap();
    assert!(b.holds(&org) && !a.holds(&org));
    // It learns of it and is dealt its share anew.
    a.renew_leases().await.unwrap();
    assert_eq!(a.figures().leases_lost, 64);
    settle(&nodes, &[&a, &b]).await;
    assert_eq!((count(&a), count(&b)), (32, 32));
}

#[tokio::test]
async fn a_lease_that_had_run_out_is_never_renewed_but_taken_anew() {
    let Some(nodes) = Nodes::new().await else { return };
    let a = nodes.join("a").await;
    let mut last = epochs(&a.cluster().await.unwrap());
    for pause in [1, LEASE, 5, 3 * LEASE, 1] {
        nodes.time.pass(pause);
        a.renew_leases().await.unwrap();
        let now = epochs(&a.cluster().await.unwrap());
        let grown = i64::from(pause >= 5);
        assert!(last.iter().all(|(shard, epoch)| now[shard] == epoch + grown), "{pause}");
        assert!(ownership(&a).shards.iter().all(|(shard, held)| held.epoch == now[shard]));
        last = now;
    }
}

#[tokio::test]
async fn what_a_node_writes_under_a_lease_that_it_has_lost_is_refused() {
    let Some(nodes) = Nodes::new().await else { return };
    // Its own clock stands still, so that it believes in its leases for ever.
    let a = nodes.join_with("a", &Hand::default()).await;
    let workers = a.clone().for_workers();
    workers.put_connection(&org("acme"), connection("one")).await.unwrap();
    submit(workers.as_ref(), "acme", Command::SetOnHand(set("A", 1))).await.unwrap();
    nodes.time.pass(2 * LEASE);
    let b = nodes.join("b").await;
    assert!(a.holds(&org("acme")) && b.holds(&org("acme")));

    let refused = workers.put_connection(&org("acme"), connection("two")).await;
    assert_eq!(refused, Err(StoreError::Fenced));
    let refused = submit(workers.as_ref(), "acme", Command::SetOnHand(set("A", 2))).await;
    assert_eq!(refused, Err(StoreError::Fenced));
    // What the API is asked for is decided by any node, also beside what is refused.
    let (fenced, decided) = tokio::join!(
        submit(workers.as_ref(), "acme", Command::SetOnHand(set("A", 3))),
        submit(a.as_ref(), "acme", Command::SetOnHand(set("A", 4))),
    );
    assert_eq!(fenced, Err(StoreError::Fenced));
    assert!(decided.is_ok(), "{decided:?}");
    let found = b.sku(&org("acme"), &sku("A")).await.unwrap().unwrap();
    assert_eq!(found.state.totals().on_hand.get(), 4);
    assert_eq!(found.state.version, 2);
    assert_eq!(b.connections(&org("acme")).await.unwrap().len(), 1);
    assert!(a.figures().fenced >= 3);

    // The holder's workers go on.
    let workers = b.clone().for_workers();
    workers.put_connection(&org("acme"), connection("two")).await.unwrap();
    submit(workers.as_ref(), "acme", Command::SetOnHand(set("A", 5))).await.unwrap();
}

#[tokio::test]
async fn workers_are_given_what_is_of_their_shards() {
    let Some(nodes) = Nodes::new().await else { return };
    let (a, b) = (nodes.join("a").await, nodes.join("b").await);
    settle(&nodes, &[&a, &b]).await;
    let (of_a, of_b) = (org_of(&a), org_of(&b));
    for org in [&of_a, &of_b] {
        a.put_connection(org, connection("one")).await.unwrap();
    }
    let orgs = async |store: Arc<dyn Store>| -> Vec<Org> {
        let all = store.all_connections().await.unwrap();
        all.into_iter().map(|(org, _)| org).collect()
    };
    assert_eq!(orgs(a.clone().for_workers()).await, std::slice::from_ref(&of_a));
    assert_eq!(orgs(b.clone().for_workers()).await, std::slice::from_ref(&of_b));
    assert_eq!(orgs(a.clone()).await.len(), 2);
    // What is published is told where it is worked for, whoever decided it.
    for org in [&of_a, &of_b] {
        submit(a.as_ref(), org.as_str(), Command::SetOnHand(set("A", 1))).await.unwrap();
    }
    assert_eq!(a.wait_dirty().await, [(of_a, sku("A"))]);
    assert_eq!(b.wait_dirty().await, [(of_b, sku("A"))]);
}

#[tokio::test]
async fn a_node_that_ends_leaves_its_shards_at_once() {
    let Some(nodes) = Nodes::new().await else { return };
    let (a, b) = (nodes.join("a").await, nodes.join("b").await);
    settle(&nodes, &[&a, &b]).await;
    a.close().await.unwrap();
    b.renew_leases().await.unwrap();
    assert_eq!(count(&b), 64);
    let cluster = b.cluster().await.unwrap();
    assert_eq!(cluster.nodes.len(), 1);
    let holder = cluster.holder(Shard::of(&org("acme"))).unwrap();
    assert_eq!(holder.info.name, "b");
}

#[tokio::test]
async fn a_store_that_is_the_only_one_of_its_data_works_for_everything() {
    let place = TestStore::embedded();
    let store = place.open(Arc::new(|| Timestamp::EPOCH)).await;
    assert_eq!(*store.ownership().borrow(), Ownership::of_everything());
    assert!(store.holds(&org("acme")));
    let cluster = store.cluster().await.unwrap();
    assert_eq!((cluster.store, cluster.nodes.len(), cluster.leases.len()), ("embedded", 1, 64));
    assert_eq!(cluster.holder(Shard::of(&org("acme"))).map(|node| node.id), cluster.node);
    store.clone().for_workers().put_connection(&org("acme"), connection("one")).await.unwrap();
    assert_eq!(store.all_connections().await.unwrap().len(), 1);
}
