//! A store with records of channels, and what they are made of.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use trueup_core::{
    Answer, ChannelId, Command, ListingKey, ListingPush, ListingReading, Org, PushResult, Quantity,
    Reconcile, RestockPolicy, Sku, Source, Strategy, Timestamp,
};
use trueup_store::{
    BlastRadius, Connection, ConnectionState, ListingQuery, ListingView, Mapping, Outcome, Reason,
    RuleSettings, Store, Submission,
};
use trueup_test_store::TestStore;

use crate::harness::set;

/// A store whose clock only moves when it is read.
pub(crate) struct Here {
    store: Arc<dyn Store>,
    time: Arc<AtomicI64>,
    place: TestStore,
}

impl Deref for Here {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

impl Here {
    pub(crate) async fn new() -> Self {
        Self::at(TestStore::new().await).await
    }

    /// A store in a place.
    pub(crate) async fn at(place: TestStore) -> Self {
        let time = Arc::new(AtomicI64::new(1_000_000));
        let store = open(&place, &time).await;
        Self { store, time, place }
    }

    /// Returns the store as others have it who use it at the same time: another node, where there
    /// can be one.
    pub(crate) async fn another(&self) -> Arc<dyn Store> {
        if self.place.is_embedded() {
            return self.store.clone();
        }
        open(&self.place, &self.time).await
    }

    /// Returns the place as a crash at this instant would leave it.
    pub(crate) fn crashed(&self) -> TestStore {
        self.place.crashed()
    }

    /// Returns the store of another place with the same clock.
    pub(crate) async fn beside(&self, place: &TestStore) -> Arc<dyn Store> {
        open(place, &self.time).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        at(self.time.load(Ordering::SeqCst))
    }

    /// Reads the first column of a query from the database itself; `None` where there is none.
    pub(crate) async fn query(&self, sql: &str) -> Option<Vec<String>> {
        let url = self.place.url()?;
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.query(sql, &[]).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
        Some(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// Has a command decided that is not refused.
    pub(crate) async fn decide(&self, org: &Org, command: Command) -> Answer {
        let submission = Submission {
            org: org.clone(),
            command,
            actor: Arc::from("test"),
            source: Source::Api,
            idempotency: None,
        };
        match self.store.submit(submission).await.unwrap() {
            Outcome::Decided(answer) => answer.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Sets a SKU to so many, which is one version.
    pub(crate) async fn put_sku(&self, org: &Org, name: &str, quantity: u64) {
        self.decide(org, Command::SetOnHand(set(name, quantity))).await;
    }

    /// Sets a SKU to so many, of which no channel is told by itself.
    pub(crate) async fn put_sku_silently(&self, org: &Org, name: &str, quantity: u64) {
        let set = trueup_core::SetOnHand { publish: false, ..set(name, quantity) };
        self.decide(org, Command::SetOnHand(set)).await;
    }

    pub(crate) async fn put(&self, org: &Org, mappings: &[Mapping]) {
        let rows = mappings.iter().map(|mapping| (mapping.clone(), None)).collect();
        self.put_mappings(org, rows).await.unwrap();
    }

    /// Notes that a push goes out.
    pub(crate) async fn mark(&self, on: &str, push: ListingPush) {
        self.decide(&org(), Command::MarkSent { channel: channel(on), items: vec![push] }).await;
    }

    /// Notes what became of a push.
    pub(crate) async fn settle(&self, on: &str, push: ListingPush, result: PushResult) {
        let items = vec![(push, result)];
        self.decide(&org(), Command::Settle { channel: channel(on), items }).await;
    }

    /// Tells what a channel shows.
    pub(crate) async fn read(&self, on: &str, listing: &str, observed: i64) {
        let reconcile = Reconcile {
            channel: channel(on),
            read_at: self.now(),
            settle_ms: 0,
            strategy: None,
            readings: vec![ListingReading { key: key(listing), observed }],
        };
        self.decide(&org(), Command::Reconcile(reconcile)).await;
    }

    /// Returns a listing of [`org`].
    pub(crate) async fn listing(&self, on: &str, listing: &str) -> Option<ListingView> {
        let query = ListingQuery {
            channel: Some(channel(on)),
            keys: Some(vec![key(listing)]),
            limit: 1,
            ..ListingQuery::default()
        };
        self.listings(&org(), query).await.unwrap().items.pop()
    }

    /// Returns all listings of an org.
    pub(crate) async fn all_listings(&self, org: &Org) -> Vec<ListingView> {
        let query = ListingQuery { limit: 100, ..ListingQuery::default() };
        self.listings(org, query).await.unwrap().items
    }

    /// Checks which listings a query finds, as `channel/key`.
    pub(crate) async fn check_listings(&self, query: &ListingQuery, expected: &[&str]) {
        let query = ListingQuery { limit: 100, ..query.clone() };
        let page = self.listings(&org(), query.clone()).await.unwrap();
        assert_eq!(names(&page.items), expected, "{query:?}");
        assert!(!page.more);
    }

    /// Returns how many listings of a channel of [`org`] are pending.
    pub(crate) async fn pending(&self, org: &Org, on: &str) -> u64 {
        self.channel_counts(org, &channel(on)).await.unwrap().pending
    }
}

async fn open(place: &TestStore, time: &Arc<AtomicI64>) -> Arc<dyn Store> {
    let time = time.clone();
    place.open(Arc::new(move || at(time.fetch_add(1, Ordering::SeqCst)))).await
}

pub(crate) fn names(found: &[ListingView]) -> Vec<String> {
    found.iter().map(|row| format!("{}/{}", row.mapping.channel, row.mapping.key)).collect()
}

pub(crate) fn org() -> Org {
    Org::new("acme").unwrap()
}

pub(crate) fn other() -> Org {
    Org::new("other").unwrap()
}

pub(crate) fn channel(id: &str) -> ChannelId {
    ChannelId::new(id).unwrap()
}

pub(crate) fn key(key: &str) -> ListingKey {
    ListingKey::new(key).unwrap()
}

pub(crate) fn sku(sku: &str) -> Sku {
    Sku::new(sku).unwrap()
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(crate) fn units(units: u64) -> Option<Quantity> {
    Quantity::new(units)
}

pub(crate) fn push(listing: &str, quantity: i64, version: u64) -> ListingPush {
    ListingPush { key: key(listing), quantity, version, epoch: 0 }
}

pub(crate) fn mapping(on: &str, listing: &str, of: &str) -> Mapping {
    Mapping {
        channel: channel(on),
        key: key(listing),
        sku: sku(of),
        fields: BTreeMap::from([("id".to_owned(), listing.to_owned())]),
        strategy: None,
        rules: RuleSettings::default(),
        channel_fulfilled: false,
        enabled: true,
    }
}

pub(crate) fn connection(id: &str) -> Connection {
    Connection {
        id: channel(id),
        kind: "shopify".to_owned(),
        state: ConnectionState::Active,
        sync_inventory: true,
        sync_orders: false,
        strategy: None,
        rules: RuleSettings::default(),
        poll_interval_minutes: None,
        dry_run: false,
        restock: RestockPolicy::default(),
        endpoint: None,
        settings: BTreeMap::new(),
        sealed_credentials: vec![0, 159, 255],
        created_at: at(1),
        updated_at: at(2),
        last_sync: None,
        last_error: None,
        orders_seen_to: None,
        reason: None,
        blast_radius: BlastRadius::default(),
    }
}

pub(crate) fn full_connection(id: &str) -> Connection {
    let name = serde_json::json!({ "name": "é\u{0}", "n": [1, null] });
    Connection {
        state: ConnectionState::Paused,
        sync_inventory: false,
        sync_orders: true,
        strategy: Some(Strategy::LowerWins),
        rules: RuleSettings {
            buffer: units(2),
            percent: Some(90),
            max_quantity: units(50),
            zero_below: units(3),
            ..RuleSettings::default()
        },
        poll_interval_minutes: Some(u32::MAX),
        dry_run: true,
        restock: RestockPolicy::Quarantine,
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        settings: BTreeMap::from([("z".to_owned(), name), ("a".to_owned(), true.into())]),
        sealed_credentials: Vec::new(),
        last_sync: Some(at(10)),
        last_error: Some((at(11), "429".to_owned())),
        orders_seen_to: Some(at(12)),
        reason: Some(Reason { code: "throttled".to_owned(), since: at(11) }),
        blast_radius: BlastRadius {
            zero_percent: Some(0),
            zero_number: Some(u64::MAX),
            change_percent: Some(100),
            change_number: None,
        },
        ..connection(id)
    }
}
