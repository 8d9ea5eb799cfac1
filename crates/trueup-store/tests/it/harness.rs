//! A store in a temporary directory with a clock that only the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;
use trueup_core::{
    Answer, Command, Item, Location, OrderId, Org, Quantity, Rejection, ReservationId, Reserve,
    SetOnHand, Sku, SkuSettings, Source, Timestamp,
};
use trueup_store::embedded::{Embedded, Now};
use trueup_store::{Outcome, Store, StoreError, Submission};

pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) time: Arc<AtomicI64>,
    pub(crate) store: Option<Embedded>,
}

pub(crate) fn org(name: &str) -> Org {
    Org::new(name).unwrap()
}

pub(crate) fn sku(name: &str) -> Sku {
    Sku::new(name).unwrap()
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let mut fixture = Self { dir, time, store: None };
        fixture.open();
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

    pub(crate) fn open(&mut self) {
        self.store = None;
        self.store = Some(Embedded::open(self.dir.path(), self.clock()).unwrap());
    }

    pub(crate) fn store(&self) -> &Embedded {
        self.store.as_ref().unwrap()
    }

    /// A copy of the files as they are on disk this instant: what a crash would leave.
    pub(crate) fn crashed_copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        copy
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
    store: &Embedded,
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
