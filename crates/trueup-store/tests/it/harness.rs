//! A store in a place of its own with a clock that only the test moves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use trueup_core::{
    Adjust, Answer, Command, Delta, Item, Location, OrderId, Org, Quantity, Rejection,
    ReservationId, Reserve, SetOnHand, Sku, SkuSettings, Source, Timestamp,
};
use trueup_store::embedded::Now;
use trueup_store::{Outcome, Store, StoreError, Submission};
use trueup_test_store::TestStore;

pub(crate) struct Fixture {
    pub(crate) place: TestStore,
    pub(crate) time: Arc<AtomicI64>,
    pub(crate) store: Option<Arc<dyn Store>>,
}

pub(crate) fn org(name: &str) -> Org {
    Org::new(name).unwrap()
}

pub(crate) fn sku(name: &str) -> Sku {
    Sku::new(name).unwrap()
}

impl Fixture {
    /// A store of the kind that is being tested.
    pub(crate) async fn new() -> Self {
        Self::at(TestStore::new().await).await
    }

    /// An embedded store, whatever is being tested.
    pub(crate) async fn embedded() -> Self {
        Self::at(TestStore::embedded()).await
    }

    /// A store in a place.
    pub(crate) async fn at(place: TestStore) -> Self {
        let time = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let mut fixture = Self { place, time, store: None };
        fixture.open().await;
        fixture
    }

    pub(crate) fn clock(&self) -> Now {
        let time = self.time.clone();
        Arc::new(move || Timestamp::from_micros(time.fetch_add(1, Ordering::SeqCst)))
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.time.load(Ordering::SeqCst))
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// Ends the store and opens it again.
    pub(crate) async fn open(&mut self) {
        self.store = None;
        self.store = Some(self.place.open(self.clock()).await);
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_deref().unwrap()
    }

    /// The store as a crash at this instant would leave it, started again.
    pub(crate) async fn crashed(&self) -> Self {
        let mut crashed =
            Self { place: self.place.crashed(), time: self.time.clone(), store: None };
        crashed.open().await;
        crashed
    }

    /// The directory of an embedded store.
    pub(crate) fn dir(&self) -> &Path {
        self.place.dir().expect("the store is embedded")
    }

    pub(crate) async fn run(&self, command: Command) -> Result<Answer, Rejection> {
        self.run_as("acme", command).await
    }

    pub(crate) async fn run_as(&self, name: &str, command: Command) -> Result<Answer, Rejection> {
        match submit(self.store(), name, command).await.unwrap() {
            Outcome::Decided(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn put(&self, name: &str, quantity: u64) {
        self.run(Command::SetOnHand(set(name, quantity))).await.unwrap();
    }

    pub(crate) async fn reserve(
        &self,
        id: u128,
        name: &str,
        quantity: u64,
    ) -> Result<Answer, Rejection> {
        self.run(Command::Reserve(reserve(id, name, quantity))).await
    }

    pub(crate) async fn numbers(&self, name: &str) -> (i64, u64) {
        let found = self.store().sku(&org("acme"), &sku(name)).await.unwrap().unwrap();
        let totals = found.state.totals();
        (totals.on_hand.get(), totals.reserved.get())
    }
}

pub(crate) async fn submit(
    store: &dyn Store,
    name: &str,
    command: Command,
) -> Result<Outcome, StoreError> {
    let submission = Submission {
        org: org(name),
        command,
        actor: Arc::from("test"),
        source: Source::Api,
        idempotency: None,
    };
    store.submit(submission).await
}

pub(crate) fn set(name: &str, quantity: u64) -> SetOnHand {
    SetOnHand {
        sku: sku(name),
        quantity: Quantity::new(quantity).unwrap(),
        location: Location::main(),
        reason: Some(Arc::from("count")),
        settings: SkuSettings::default(),
        counted_at: None,
        if_version: None,
        publish: true,
    }
}

pub(crate) fn reserve(id: u128, name: &str, quantity: u64) -> Reserve {
    Reserve {
        id: ReservationId(id),
        order: OrderId::new(&format!("order-{id}")).unwrap(),
        items: vec![Item {
            sku: sku(name),
            location: None,
            quantity: Quantity::new(quantity).unwrap(),
        }],
        ttl_seconds: 900,
    }
}

pub(crate) fn commit(id: u128) -> Command {
    Command::Commit { id: ReservationId(id), reacquire: false }
}

pub(crate) fn adjust(name: &str, units: i64) -> Command {
    Command::Adjust(Adjust {
        sku: sku(name),
        delta: Delta::new(units).unwrap(),
        location: Location::main(),
        reason: None,
        if_version: None,
        publish: true,
    })
}
