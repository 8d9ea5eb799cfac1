//! Random histories: any store answers as the naive model does, and two stores answer alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use trueup_core::{
    Adjust, Answer, ChannelId, ChannelLine, ChannelOrder, Command, Delta, Item, ListingPush,
    ListingReading, Location, OrderId, Org, Part, PushResult, Quantity, Reconcile, Rejection,
    Reservation, ReservationId, Reserve, Resolution, RestockPolicy, SetOnHand, Source,
    Strategy as Settling, Timestamp,
};
use trueup_store::embedded::Now;
use trueup_store::{
    Idempotency, ListingQuery, MovementQuery, Outcome, RecordedAnswer, ReservationQuery, SkuQuery,
    Store, StoreError, Submission, Subscription,
};
use trueup_test_store::TestStore;

use crate::harness::{set, sku};
use crate::making::{at, channel, connection, key, mapping};
use crate::naive::{Naive, SKUS, Step, step, word};

const BEGAN: i64 = 1_000_000_000;
/// Stock, and a bundle of some of it.
const NAMES: [&str; 4] = ["A", "B", "C", "SET"];
const PLACES: [&str; 2] = ["main", "north"];
const CHANNELS: [&str; 2] = ["shop", "market"];

/// A store in a place of its own whose clock stands still but when the test moves it.
struct Still {
    store: Arc<dyn Store>,
    place: TestStore,
}

impl Still {
    async fn open(place: TestStore, time: &Arc<AtomicI64>) -> Self {
        let time = time.clone();
        let now: Now = Arc::new(move || at(time.load(Ordering::SeqCst)));
        Self { store: place.open(now).await, place }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs a property, each case in an org of its own.
fn check<S: Strategy>(
    cases: u32,
    histories: &S,
    mut case: impl FnMut(&Org, S::Value) -> TestCaseResult,
) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let number = std::cell::Cell::new(0);
    let case = std::cell::RefCell::new(&mut case);
    let run = |history| {
        number.set(number.get() + 1);
        (case.borrow_mut())(&Org::new(&format!("case-{}", number.get())).unwrap(), history)
    };
    TestRunner::new(config).run(histories, run).unwrap();
}

fn submission(org: &Org, command: Command) -> Submission {
    Submission {
        org: org.clone(),
        command,
        actor: Arc::from("test"),
        source: Source::Api,
        idempotency: None,
    }
}

async fn decide(store: &dyn Store, org: &Org, command: Command) -> Result<Answer, Rejection> {
    match store.submit(submission(org, command)).await.unwrap() {
        Outcome::Decided(result) => result,
        other => panic!("{other:?}"),
    }
}

fn hold(id: usize, order: &str, items: &[(usize, u64)]) -> Reserve {
    let item = |(name, units): &(usize, u64)| Item {
        sku: sku(NAMES[*name]),
        location: None,
        quantity: Quantity::new(*units).unwrap(),
    };
    Reserve {
        id: ReservationId(id as u128),
        order: OrderId::new(order).unwrap(),
        items: items.iter().map(item).collect(),
        ttl_seconds: 900,
    }
}

// --- A store and the naive model ------------------------------------------------------------

#[test]
fn a_store_answers_as_the_naive_model_does() {
    let runtime = runtime();
    let time = Arc::new(AtomicI64::new(BEGAN));
    let here = runtime.block_on(async { Still::open(TestStore::new().await, &time).await });
    let store = &*here.store;
    check(40, &proptest::collection::vec(step(), 1..60), |org, steps| {
        runtime.block_on(async {
            let mut naive = Naive { now: time.load(Ordering::SeqCst), ..Naive::default() };
            for step in steps {
                naive.now = time.fetch_add(1, Ordering::SeqCst) + 1;
                naive.expire();
                check_step(store, org, step, &time, &mut naive).await?;
                for (at, name) in SKUS.iter().enumerate() {
                    let found = store.sku(org, &sku(name)).await.unwrap();
                    let numbers = found.map(|found| {
                        (found.state.totals().on_hand.get(), found.state.free().get())
                    });
                    let expected =
                        naive.on_hand.get(&at).map(|on_hand| (*on_hand, naive.free(at, None)));
                    prop_assert_eq!(numbers, expected);
                }
            }
            let verified = store.verify(org).await.unwrap();
            prop_assert_eq!(verified.faults, [""; 0]);
            Ok(())
        })
    });
}

async fn check_step(
    store: &dyn Store,
    org: &Org,
    step: Step,
    time: &AtomicI64,
    naive: &mut Naive,
) -> TestCaseResult {
    match step {
        Step::Put(at, units) => {
            decide(store, org, Command::SetOnHand(set(SKUS[at], units))).await.unwrap();
            naive.on_hand.insert(at, units.cast_signed());
        }
        Step::Reserve { order, items } => {
            let asked = hold(naive.holds.len(), &format!("o{order}"), &items);
            let got = decide(store, org, Command::Reserve(asked)).await;
            prop_assert_eq!(word(&got), naive.reserve(order, &items));
        }
        Step::Release(nth) if nth < naive.holds.len() => {
            let id = ReservationId(nth as u128);
            let got = decide(store, org, Command::Release { id }).await;
            prop_assert_eq!(word(&got), naive.release(nth));
        }
        Step::Commit { nth, reacquire } if nth < naive.holds.len() => {
            let id = ReservationId(nth as u128);
            let got = decide(store, org, Command::Commit { id, reacquire }).await;
            prop_assert_eq!(word(&got), naive.commit(nth, reacquire));
        }
        Step::Release(_) | Step::Commit { .. } => {}
        Step::Wait(seconds) => {
            naive.now = time.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
            naive.now += seconds * 1_000_000;
            naive.expire();
        }
    }
    Ok(())
}

// --- Two stores -----------------------------------------------------------------------------

/// What is asked of both. Numbers name SKUs, places, channels, listings, orders and holds.
#[derive(Debug, Clone)]
enum Ask {
    Put { name: usize, place: usize, units: u64, low: Option<u64>, spare: Option<u64>, ago: u32 },
    Adjust { name: usize, place: usize, units: i64, version: Option<u64> },
    Bulk { items: Vec<(usize, u64)>, atomic: bool },
    Bundle { parts: Vec<(usize, u64)> },
    Publish(usize),
    Hold { order: u8, items: Vec<(usize, u64)>, key: Option<u8> },
    Holds(Vec<(u8, Vec<(usize, u64)>)>),
    Release(usize),
    Commit { nth: usize, reacquire: bool },
    Extend(usize),
    Order { on: usize, order: u8, lines: Vec<(usize, u64, u64, u64, u64)>, restock: usize },
    Map { on: usize, listing: u8, name: usize, fulfilled: bool, scope: Option<u8> },
    Unmap { on: usize, name: usize },
    Push { on: usize, listing: u8, units: i64, outcome: usize },
    Read { on: usize, readings: Vec<(u8, i64)>, settling: Option<usize> },
    Resolve { on: usize, listing: u8, how: usize },
    Wait(i64),
}

fn ask() -> impl Strategy<Value = Ask> {
    let (name, place, on) = (0..NAMES.len(), 0..PLACES.len(), 0..CHANNELS.len());
    let stock = 0..3_usize;
    let items = proptest::collection::vec((name.clone(), 1_u64..5), 1..4);
    let listing = 0_u8..3;
    let line = (name.clone(), 0_u64..4, 0_u64..3, 0_u64..4, 0_u64..3);
    prop_oneof![
        4 => (
            stock.clone(), place.clone(), 0_u64..30, proptest::option::of(0_u64..6),
            proptest::option::of(0_u64..4), 0_u32..3,
        ).prop_map(|(name, place, units, low, spare, ago)| {
            Ask::Put { name, place, units, low, spare, ago }
        }),
        2 => (name.clone(), place, -8_i64..8, proptest::option::of(0_u64..12))
            .prop_map(|(name, place, units, version)| Ask::Adjust { name, place, units, version }),
        1 => (items.clone(), any::<bool>()).prop_map(|(items, atomic)| Ask::Bulk { items, atomic }),
        1 => proptest::collection::vec((stock, 1_u64..3), 0..3)
            .prop_map(|parts| Ask::Bundle { parts }),
        1 => name.clone().prop_map(Ask::Publish),
        5 => (0_u8..6, items.clone(), proptest::option::of(0_u8..4))
            .prop_map(|(order, items, key)| Ask::Hold { order, items, key }),
        1 => proptest::collection::vec((0_u8..6, items), 1..4).prop_map(Ask::Holds),
        2 => (0_usize..12).prop_map(Ask::Release),
        3 => (0_usize..12, any::<bool>())
            .prop_map(|(nth, reacquire)| Ask::Commit { nth, reacquire }),
        1 => (0_usize..12).prop_map(Ask::Extend),
        3 => (on.clone(), 0_u8..3, proptest::collection::vec(line, 1..3), 0_usize..3)
            .prop_map(|(on, order, lines, restock)| Ask::Order { on, order, lines, restock }),
        3 => (
            on.clone(), listing.clone(), name.clone(), any::<bool>(),
            proptest::option::of(0_u8..2),
        ).prop_map(|(on, listing, name, fulfilled, scope)| {
            Ask::Map { on, listing, name, fulfilled, scope }
        }),
        1 => (on.clone(), name).prop_map(|(on, name)| Ask::Unmap { on, name }),
        3 => (on.clone(), listing.clone(), 0_i64..20, 0_usize..5)
            .prop_map(|(on, listing, units, outcome)| Ask::Push { on, listing, units, outcome }),
        3 => (
            on.clone(), proptest::collection::vec((listing.clone(), -3_i64..20), 1..3),
            proptest::option::of(0_usize..4),
        ).prop_map(|(on, readings, settling)| Ask::Read { on, readings, settling }),
        2 => (on, listing, 0_usize..3)
            .prop_map(|(on, listing, how)| Ask::Resolve { on, listing, how }),
        2 => (1_i64..600).prop_map(Ask::Wait),
    ]
}

/// The embedded store and the one that is tested, asked the same.
struct Two {
    stores: [Arc<dyn Store>; 2],
    time: Arc<AtomicI64>,
}

/// What a case has asked so far, to ask of it again.
#[derive(Default)]
struct Asked {
    holds: usize,
}

impl Two {
    /// Submits to both; what they say must be the same.
    async fn submit(&self, submission: &Submission) -> Result<(), TestCaseError> {
        let mut said = Vec::new();
        for store in &self.stores {
            said.push(store.submit(submission.clone()).await);
        }
        prop_assert_eq!(&said[0], &said[1], "{:?}", submission.command);
        Ok(())
    }

    async fn ask(&self, org: &Org, command: Command) -> Result<(), TestCaseError> {
        self.submit(&submission(org, command)).await
    }

    async fn step(&self, org: &Org, asked: &mut Asked, ask: Ask) -> Result<(), TestCaseError> {
        let id = |nth: usize| ReservationId(nth as u128);
        let command = match ask {
            Ask::Put { name, place, units, low, spare, ago } => {
                let mut count = SetOnHand { location: location(place), ..set(NAMES[name], units) };
                count.settings.low_stock_threshold = low.map(Quantity::new);
                count.settings.backorder_limit = spare.and_then(Quantity::new);
                let ago = i64::from(ago) * 50_000_000;
                count.counted_at = (ago > 0).then(|| at(self.now().micros() - ago));
                Command::SetOnHand(count)
            }
            Ask::Adjust { name, place, units, version } => Command::Adjust(Adjust {
                sku: sku(NAMES[name]),
                delta: Delta::new(units).unwrap(),
                location: location(place),
                reason: Some(Arc::from("é \"\\ \u{1}")),
                if_version: version,
                publish: true,
            }),
            Ask::Bulk { items, atomic } => {
                let items = items.iter().map(|(name, units)| set(NAMES[*name], *units)).collect();
                Command::Bulk { items, atomic }
            }
            Ask::Bundle { parts } => {
                let part = |(name, units): &(usize, u64)| Part {
                    sku: sku(NAMES[*name]),
                    quantity: Quantity::new(*units).unwrap(),
                };
                let parts = parts.iter().map(part).collect();
                Command::SetBundle { sku: sku("SET"), parts, if_version: None, reason: None }
            }
            Ask::Publish(name) => Command::Publish { skus: vec![sku(NAMES[name])] },
            Ask::Hold { order, items, key } => {
                asked.holds += 1;
                let hold = hold(asked.holds, &format!("o{order}"), &items);
                let mut submission = submission(org, Command::Reserve(hold));
                submission.idempotency = key.map(|key| keyed(key, order));
                return self.submit(&submission).await;
            }
            Ask::Holds(holds) => {
                let each = |(order, items): &(u8, Vec<(usize, u64)>)| {
                    asked.holds += 1;
                    hold(asked.holds, &format!("o{order}"), items)
                };
                Command::ReserveBatch(holds.iter().map(each).collect())
            }
            Ask::Release(nth) => Command::Release { id: id(nth) },
            Ask::Commit { nth, reacquire } => Command::Commit { id: id(nth), reacquire },
            Ask::Extend(nth) => Command::Extend { id: id(nth), ttl_seconds: 700 },
            Ask::Order { on, order, lines, restock } => {
                Command::ChannelOrder(channel_order(on, order, &lines, restock))
            }
            Ask::Map { on, listing, name, fulfilled, scope } => {
                return self.map(org, (on, listing, name), fulfilled, scope).await;
            }
            Ask::Unmap { on, name } => {
                let mut counts = Vec::new();
                for store in &self.stores {
                    let but = std::collections::BTreeSet::new();
                    let (on, of) = (channel(CHANNELS[on]), sku(NAMES[name]));
                    counts.push(store.delete_mappings(org, &on, &of, but).await.unwrap());
                }
                prop_assert_eq!(counts[0], counts[1]);
                return Ok(());
            }
            Ask::Push { on, listing, units, outcome } => {
                return self.push(org, (on, listing), units, outcome).await;
            }
            Ask::Read { on, readings, settling } => {
                // Each listing once.
                let readings: std::collections::BTreeMap<u8, i64> = readings.into_iter().collect();
                let reading =
                    |(listing, observed)| ListingReading { key: listing_key(listing), observed };
                Command::Reconcile(Reconcile {
                    channel: channel(CHANNELS[on]),
                    read_at: self.now(),
                    settle_ms: 1_000,
                    strategy: settling.map(settling_of),
                    readings: readings.into_iter().map(reading).collect(),
                })
            }
            Ask::Resolve { on, listing, how } => Command::Resolve {
                channel: channel(CHANNELS[on]),
                key: listing_key(listing),
                resolution: [
                    Resolution::Master,
                    Resolution::Channel,
                    Resolution::Quantity(Quantity::new(7).unwrap()),
                ][how],
                note: None,
            },
            Ask::Wait(seconds) => {
                self.pass(org, seconds * 1_000_000).await;
                return Ok(());
            }
        };
        self.ask(org, command).await
    }

    /// Lets time pass, and has what is due retired in both before either does so by itself later.
    async fn pass(&self, org: &Org, micros: i64) {
        self.time.fetch_add(micros, Ordering::SeqCst);
        for store in &self.stores {
            store.sku(org, &sku(NAMES[0])).await.unwrap();
        }
    }

    fn now(&self) -> Timestamp {
        at(self.time.load(Ordering::SeqCst))
    }

    async fn map(
        &self,
        org: &Org,
        (on, listing, name): (usize, u8, usize),
        channel_fulfilled: bool,
        scope: Option<u8>,
    ) -> Result<(), TestCaseError> {
        let mut row = mapping(CHANNELS[on], listing_key(listing).as_str(), NAMES[name]);
        row.channel_fulfilled = channel_fulfilled;
        let scope = scope.map(|scope| format!("s{scope}"));
        for store in &self.stores {
            store.put_mappings(org, vec![(row.clone(), scope.clone())]).await.unwrap();
        }
        Ok(())
    }

    /// Marks a push as sent, and most times says what became of it.
    async fn push(
        &self,
        org: &Org,
        (on, listing): (usize, u8),
        quantity: i64,
        outcome: usize,
    ) -> Result<(), TestCaseError> {
        let (channel, key) = (channel(CHANNELS[on]), listing_key(listing));
        let query = ListingQuery {
            channel: Some(channel.clone()),
            keys: Some(vec![key.clone()]),
            limit: 1,
            ..ListingQuery::default()
        };
        let found = self.stores[0].listings(org, query).await.unwrap().items.pop();
        let version = found.as_ref().and_then(|view| Some(view.sku.as_ref()?.state.version));
        let epoch = found.as_ref().map_or(0, |view| view.state.epoch);
        let push = ListingPush { key, quantity, version: version.unwrap_or(0), epoch };
        let items = vec![push.clone()];
        self.ask(org, Command::MarkSent { channel: channel.clone(), items }).await?;
        let outcomes = [
            PushResult::Applied,
            PushResult::Accepted,
            PushResult::NotApplied,
            PushResult::Unknown,
        ];
        match outcomes.get(outcome) {
            Some(outcome) => {
                let items = vec![(push, *outcome)];
                self.ask(org, Command::Settle { channel, items }).await
            }
            None => Ok(()),
        }
    }

    /// Everything that is there must be the same in both.
    async fn check_all(&self, org: &Org) -> Result<(), TestCaseError> {
        let [one, two] = [look(&*self.stores[0], org).await, look(&*self.stores[1], org).await];
        for (one, two) in one.iter().zip(&two) {
            prop_assert_eq!(one, two);
        }
        prop_assert_eq!(one.len(), two.len());
        Ok(())
    }
}

fn location(place: usize) -> Location {
    Location::new(PLACES[place]).unwrap()
}

fn listing_key(listing: u8) -> trueup_core::ListingKey {
    key(&format!("L{listing}"))
}

fn settling_of(nth: usize) -> Settling {
    [Settling::MasterWins, Settling::ChannelWins, Settling::LowerWins, Settling::Manual][nth]
}

fn keyed(key: u8, fingerprint: u8) -> Idempotency {
    Idempotency {
        key: Arc::from(format!("k{key}")),
        fingerprint: [fingerprint; 32],
        render: Arc::new(|result: &Result<Answer, Rejection>| RecordedAnswer {
            status: if result.is_ok() { 201 } else { 409 },
            headers: Vec::new(),
            body: format!("{result:?}").into_bytes(),
        }),
    }
}

fn channel_order(
    on: usize,
    order: u8,
    lines: &[(usize, u64, u64, u64, u64)],
    restock: usize,
) -> ChannelOrder {
    let line =
        |(nth, (name, sold, restocked, held, cancelled)): (usize, &(usize, u64, u64, u64, u64))| {
            ChannelLine {
                line: Arc::from(format!("{nth}")),
                listing: None,
                sku: sku(NAMES[*name]),
                units: Quantity::new(1).unwrap(),
                sold: *sold,
                restocked: *restocked,
                held: *held,
                cancelled: *cancelled,
            }
        };
    ChannelOrder {
        channel: channel(CHANNELS[on]),
        order: Arc::from(format!("{order}")),
        occurred_at: None,
        location: Location::main(),
        restock: [RestockPolicy::Restock, RestockPolicy::Quarantine, RestockPolicy::Nothing]
            [restock],
        lines: lines.iter().enumerate().map(line).collect(),
    }
}

/// Returns all that a store has of an org, in words.
async fn look(store: &dyn Store, org: &Org) -> Vec<String> {
    const ALL: usize = 10_000;
    let mut words = Vec::new();
    let skus = store.skus(org, SkuQuery { limit: ALL, ..SkuQuery::default() }).await.unwrap();
    for low_stock in [true, false] {
        let query = SkuQuery { low_stock: Some(low_stock), limit: ALL, ..SkuQuery::default() };
        let page = store.skus(org, query).await.unwrap();
        let names: Vec<&str> = page.items.iter().map(|answer| answer.sku.as_str()).collect();
        words.push(format!("low {low_stock}: {names:?}"));
    }
    for answer in &skus.items {
        words.push(format!("{answer:?}"));
        assert_eq!(store.sku(org, &answer.sku).await.unwrap().as_ref(), Some(answer));
        let query = MovementQuery { limit: ALL, ..MovementQuery::default() };
        let lines = store.movements(org, &answer.sku, query).await.unwrap().items;
        // A few of the instants at which it changed.
        for line in lines.iter().step_by(3) {
            let then = store.sku_at(org, &answer.sku, line.at).await.unwrap();
            words.push(format!("{} at {:?}: {then:?}", answer.sku, line.at));
        }
        words.extend(lines.iter().map(|line| format!("{line:?}")));
    }
    let query = ReservationQuery { limit: ALL, ..ReservationQuery::default() };
    let holds: Vec<Reservation> = store.reservations(org, query).await.unwrap().items;
    words.extend(holds.iter().map(|hold| format!("{hold:?}")));
    for (dirty, suspicious) in [(false, false), (true, false), (false, true)] {
        let query = ListingQuery { dirty, suspicious, limit: ALL, ..ListingQuery::default() };
        for view in store.listings(org, query).await.unwrap().items {
            words.push(format!("dirty {dirty}, suspicious {suspicious}: {view:?}"));
        }
    }
    for on in CHANNELS {
        let on: ChannelId = channel(on);
        words.push(format!("{:?}", store.channel_counts(org, &on).await.unwrap()));
        for line in store.held_lines(org, &on, None, ALL).await.unwrap().items {
            words.push(format!("{line:?}"));
        }
    }
    // Numbers of conflicts are each store's own.
    for conflict in store.conflicts(org, None, None, None, ALL).await.unwrap().items {
        words.push(format!("{:?}", trueup_store::Conflict { id: 0, ..conflict }));
    }
    words.extend(told(store, org).await);
    let verified = store.verify(org).await.unwrap();
    words.push(format!("{verified:?}"));
    assert_eq!(verified.faults, [""; 0]);
    words
}

/// Returns what subscribers were told, of the updates of a SKU the last: how many commits there were
/// in between is each store's own. Ids are made by chance, and events of one instant come in any
/// order.
async fn told(store: &dyn Store, org: &Org) -> Vec<String> {
    let rows = store.deliveries(org, "all", None, 10_000).await.unwrap().items;
    let mut newest = std::collections::BTreeMap::new();
    let mut told = Vec::new();
    for row in rows {
        let body: serde_json::Value = serde_json::from_str(&row.body).unwrap();
        let words = format!("{:?} {} {body}", row.created_at, row.event);
        if row.event != "inventory.updated" {
            told.push(words);
            continue;
        }
        let (sku, version) = (body["sku"].to_string(), body["version"].as_u64());
        let kept = newest.entry(sku).or_insert_with(|| (version, words.clone()));
        if kept.0 < version {
            *kept = (version, words);
        }
    }
    told.extend(newest.into_values().map(|(_, words)| words));
    told.sort_unstable();
    told
}

async fn prepare(store: &dyn Store, org: &Org) -> Result<(), StoreError> {
    for id in CHANNELS {
        store.put_connection(org, connection(id)).await?;
    }
    let all = Subscription {
        id: "all".to_owned(),
        url: "https://example.com/hook".to_owned(),
        events: Vec::new(),
        sealed_secret: vec![1],
        enabled: true,
        description: None,
        created_at: at(1),
    };
    store.put_subscription(org, all).await
}

#[test]
fn two_stores_that_are_asked_the_same_answer_alike() {
    let runtime = runtime();
    let time = Arc::new(AtomicI64::new(BEGAN));
    let (two, places) = runtime.block_on(async {
        let one = Still::open(TestStore::embedded(), &time).await;
        let two = Still::open(TestStore::new().await, &time).await;
        let stores = [one.store, two.store];
        (Two { stores, time: time.clone() }, [one.place, two.place])
    });
    check(64, &proptest::collection::vec(ask(), 1..60), |org, asks| {
        runtime.block_on(async {
            for store in &two.stores {
                prepare(&**store, org).await.unwrap();
            }
            let mut asked = Asked::default();
            for ask in asks {
                two.pass(org, 1).await;
                two.step(org, &mut asked, ask).await?;
            }
            two.check_all(org).await
        })
    });
    drop((two, places));
}
