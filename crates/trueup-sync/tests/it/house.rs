//! A merchant with a store, an engine and fake shops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use trueup_channels::Secret;
use trueup_core::{
    ChannelId, Command, Location, Org, Quantity, SetOnHand, Sku, SkuSettings, Source, Strategy,
    Timestamp,
};
use trueup_store::{
    HistoryEntry, HistoryQuery, ListingQuery, ListingView, Outcome, RuleSettings, Run, Store,
    Submission,
};
use trueup_sync::{
    Clock, Enable, Engine, EngineOptions, MappingDraft, PullRequest, PushScope, SecretKey,
};
use trueup_test_store::TestStore;

use crate::fake::{self, FakeShop};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct WallClock;

impl Clock for WallClock {
    #[allow(clippy::disallowed_methods, reason = "the edge of the tests is here")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
    }
}

/// The wall's clock, put forward by hand.
#[derive(Debug, Default)]
pub(crate) struct AheadClock(AtomicI64);

impl AheadClock {
    pub(crate) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }
}

impl Clock for AheadClock {
    fn now(&self) -> Timestamp {
        WallClock.now().plus_millis(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct House {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) engine: Engine,
    pub(crate) org: Org,
    _place: TestStore,
}

pub(crate) fn sku(text: &str) -> Sku {
    Sku::new(text).unwrap()
}

pub(crate) fn channel(text: &str) -> ChannelId {
    ChannelId::new(text).unwrap()
}

pub(crate) fn quantity(units: u64) -> Quantity {
    Quantity::new(units).unwrap()
}

pub(crate) fn options() -> EngineOptions {
    EngineOptions {
        orders_overlap: trueup_sync::ORDERS_OVERLAP,
        allow_private_endpoints: true,
        keys: SecretKey::new([9; 32]).into(),
        request_timeout: Duration::from_secs(5),
        public_url: None,
        clock: Arc::new(WallClock),
    }
}

/// A shop of its own for each test and channel.
pub(crate) fn fresh_shop(test: &str) -> (String, Arc<FakeShop>) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("{test}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let shop = FakeShop::named(&name);
    (name, shop)
}

pub(crate) fn draft(of: &str, id: &str) -> MappingDraft {
    MappingDraft {
        sku: sku(of),
        fields: BTreeMap::from([("id".to_owned(), id.to_owned())]),
        strategy: None,
        rules: RuleSettings::default(),
        channel_fulfilled: false,
        enabled: true,
    }
}

pub(crate) fn enabling(kind: &str, shop: &str) -> Enable {
    Enable {
        kind: Some(kind.to_owned()),
        sync_inventory: true,
        settings: BTreeMap::from([("shop".to_owned(), shop.into())]),
        credentials: BTreeMap::from([("token".to_owned(), Secret::new("t"))]),
        ..Enable::default()
    }
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::open_with(fake::find).await
    }

    pub(crate) async fn open_with(kinds: trueup_sync::KindFinder) -> Self {
        Self::open_as(kinds, options()).await
    }

    pub(crate) async fn open_by(kinds: trueup_sync::KindFinder, clock: Arc<dyn Clock>) -> Self {
        Self::open_as(kinds, EngineOptions { clock, ..options() }).await
    }

    pub(crate) async fn open_as(kinds: trueup_sync::KindFinder, options: EngineOptions) -> Self {
        let place = TestStore::new().await;
        let clock = options.clock.clone();
        let store = place.open(Arc::new(move || clock.now())).await;
        let engine = Engine::start_with(store.clone(), options, kinds).await.unwrap();
        Self { store, engine, org: Org::new("acme").unwrap(), _place: place }
    }

    /// A house in parts that were made elsewhere.
    pub(crate) fn of(store: Arc<dyn Store>, engine: Engine, org: Org, place: TestStore) -> Self {
        Self { store, engine, org, _place: place }
    }

    /// Counts a SKU; with `publish`, its channels are told.
    pub(crate) async fn count(&self, of: &str, units: u64, publish: bool) {
        self.set(of, Location::main(), units, publish).await;
    }

    /// Counts a SKU at a location.
    pub(crate) async fn count_at(&self, of: &str, location: &str, units: u64) {
        self.set(of, Location::new(location).unwrap(), units, false).await;
    }

    async fn set(&self, of: &str, location: Location, units: u64, publish: bool) {
        let command = Command::SetOnHand(SetOnHand {
            sku: sku(of),
            quantity: quantity(units),
            location,
            reason: None,
            settings: SkuSettings::default(),
            counted_at: None,
            if_version: None,
            publish,
        });
        let submission = Submission {
            org: self.org.clone(),
            command,
            actor: Arc::from("test"),
            source: Source::Api,
            idempotency: None,
        };
        let outcome = self.store.submit(submission).await.unwrap();
        assert!(matches!(outcome, Outcome::Decided(Ok(_))), "{outcome:?}");
    }

    pub(crate) async fn on_hand(&self, of: &str) -> i64 {
        let answer = self.store.sku(&self.org, &sku(of)).await.unwrap().unwrap();
        answer.state.totals().on_hand.get()
    }

    /// Connects a fake shop and maps listings that show a number already.
    pub(crate) async fn connect(
        &self,
        kind: &str,
        listings: &[(&str, &str, i64)],
        change: impl FnOnce(&mut Enable),
    ) -> (ChannelId, Arc<FakeShop>) {
        let (name, shop) = fresh_shop(kind);
        for (_, id, shown) in listings {
            shop.state().shown.insert((*id).to_owned(), *shown);
        }
        let mut enable = enabling(kind, &name);
        change(&mut enable);
        let id = channel(&name);
        self.engine.enable(&self.org, &id, enable).await.unwrap();
        let drafts = listings.iter().map(|(of, listing, _)| draft(of, listing)).collect();
        self.engine.map(&self.org, &id, drafts).await.unwrap();
        (id, shop)
    }

    pub(crate) async fn settle(&self) {
        assert!(self.engine.quiesce(PATIENCE).await, "the engine did not come to rest");
    }

    pub(crate) async fn push(&self, id: &ChannelId, scope: PushScope) -> Run {
        let run = self.engine.push(&self.org, id, scope, None).await.unwrap();
        self.engine.wait_run(&self.org, &run, PATIENCE).await.unwrap()
    }

    pub(crate) async fn pull(&self, id: &ChannelId, request: PullRequest) -> Run {
        let run = self.engine.pull(&self.org, id, request).await.unwrap();
        self.engine.wait_run(&self.org, &run, PATIENCE).await.unwrap()
    }

    pub(crate) async fn listing(&self, id: &ChannelId, of: &str) -> ListingView {
        let query = ListingQuery {
            channel: Some(id.clone()),
            skus: Some(vec![sku(of)]),
            limit: 10,
            ..ListingQuery::default()
        };
        let mut page = self.store.listings(&self.org, query).await.unwrap();
        page.items.remove(0)
    }

    pub(crate) async fn history(&self, operation: &str) -> Vec<HistoryEntry> {
        let query = HistoryQuery {
            operation: Some(operation.to_owned()),
            limit: 100,
            ..HistoryQuery::default()
        };
        self.store.history(&self.org, query).await.unwrap().items
    }

    pub(crate) async fn close(self) {
        self.engine.stop().await;
        self.store.close().await.unwrap();
    }
}

/// Waits until something is true.
pub(crate) async fn until(what: &str, check: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !check() {
        assert!(tokio::time::Instant::now() < end, "it never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn counter(run: &Run, name: &str) -> u64 {
    run.counters.get(name).copied().unwrap_or(0)
}

pub(crate) fn action(run: &Run, of: &str) -> String {
    let items = run.items.as_array().unwrap();
    let item = items.iter().find(|item| item["sku"] == of);
    item.map_or("none".to_owned(), |item| item["action"].as_str().unwrap().to_owned())
}

pub(crate) fn with_strategy(strategy: Strategy) -> impl FnOnce(&mut Enable) {
    move |enable| enable.strategy = Some(strategy)
}
