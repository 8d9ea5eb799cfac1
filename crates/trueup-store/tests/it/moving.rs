//! Orgs that move out of a directory into a database: everything of them, row by row, whatever
//! happens on the way, and nobody sells from two places.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_postgres::NoTls;
use trueup_core::{Answer, Command, Item, Location, Org, Part, Quantity, Rejection, ReservationId};
use trueup_store::embedded::{Embedded, OpenError};
use trueup_store::migrate::{MigrateError, Migration, OrgReport, Progress, Stage};
use trueup_store::{
    CatalogueQuery, ChannelListing, HistoryQuery, Idempotency, ListingQuery, Match, MovementQuery,
    Outcome, RecordedAnswer, ReservationQuery, RunStatus, SkuQuery, Store, StoreError, Submission,
};
use trueup_test_store::TestStore;

use crate::catalogue::seen;
use crate::connections::{consent, feed};
use crate::harness::{adjust, commit, reserve, set};
use crate::inbox::webhook;
use crate::keys::{answer, key as api_key};
use crate::making::{
    Here, at, channel, connection, full_connection, mapping, org, other, push, sku,
};
use crate::orders::{line, order, unmapped};
use crate::runs::{entry, run};
use crate::webhooks::subscription;

/// A place in a database, or `None` where there is no database.
async fn database() -> Option<(TestStore, String)> {
    let place = TestStore::new().await;
    let Some(url) = place.url() else {
        skip();
        return None;
    };
    Some((place, url))
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skip() {
    eprintln!("SKIPPED: there is no database to move to");
}

fn keyed(org: &Org, idempotency_key: &str, command: Command) -> Submission {
    let render = |result: &Result<Answer, Rejection>| RecordedAnswer {
        status: if result.is_ok() { 201 } else { 409 },
        headers: vec![("etag".to_owned(), "\"1\"".to_owned())],
        body: vec![1, 0, 255],
    };
    Submission {
        org: org.clone(),
        command,
        actor: Arc::from("till \u{0}"),
        source: trueup_core::Source::Api,
        idempotency: Some(Idempotency {
            key: Arc::from(idempotency_key),
            fingerprint: [9; 32],
            render: Arc::new(render),
        }),
    }
}

/// Puts something of every kind into an org; ids of API keys and consents begin with a number.
async fn fill(here: &Here, org: &Org, number: u8) {
    here.put_connection(org, connection("a")).await.unwrap();
    here.put_connection(org, full_connection("b")).await.unwrap();
    here.put_subscription(org, subscription("s1", &[])).await.unwrap();
    here.put_subscription(org, subscription("s2", &["stock.low", "x"])).await.unwrap();
    fill_ledger(here, org).await;
    fill_channels(here, org, number).await;
    crate::conflicts::told(here, org, "c", "9").await;
    crate::conflicts::read(here, org, "c", &[("9", 3)]).await;
    here.put_api_key(org, api_key(&format!("key-{number}"))).await.unwrap();
    here.put_api_key(org, api_key(&format!("other-{number}"))).await.unwrap();
    for of in [None, Some(sku("A"))] {
        here.put_pause(org, crate::pauses::pause(of)).await.unwrap();
    }
    here.put_run(org, run("r1", RunStatus::Running)).await.unwrap();
    here.put_run(org, run("r2", RunStatus::Completed)).await.unwrap();
    let entries = vec![entry(1, "inventory_push"), entry(2, "inventory_pull")];
    here.add_history(org, entries).await.unwrap();
    for delivery in ["d1", "d2"] {
        here.inbox_put(org, webhook("a", delivery)).await.unwrap();
    }
    here.add_event(org, "x", serde_json::json!({ "z": 1, "a": "\0" }), at(3)).await.unwrap();
    here.record(org, "by hand", [1; 32], answer(409)).await.unwrap();
}

async fn fill_ledger(here: &Here, org: &Org) {
    for (name, quantity) in [("A", 10), ("B", 20), ("é \"C\"", 7), ("B-2", 1)] {
        here.put_sku(org, name, quantity).await;
    }
    let parts = [("A", 1), ("B", 2)]
        .map(|(name, units)| Part { sku: sku(name), quantity: Quantity::new(units).unwrap() });
    let parts = parts.to_vec();
    let bundle = Command::SetBundle { sku: sku("SET"), parts, if_version: None, reason: None };
    here.decide(org, bundle).await;
    let places = [Location::main(), Location::new("north").unwrap()];
    for (location, quantity) in places.iter().zip([5, 6]) {
        let count = trueup_core::SetOnHand { location: location.clone(), ..set("B", quantity) };
        here.decide(org, Command::SetOnHand(count)).await;
    }
    // One of each status, and a bundle.
    for id in 1..=4 {
        here.decide(org, Command::Reserve(reserve(id, "A", 1))).await;
    }
    let mut bundle = reserve(5, "SET", 1);
    bundle.items.push(Item {
        sku: sku("B-2"),
        location: None,
        quantity: Quantity::new(1).unwrap(),
    });
    here.decide(org, Command::Reserve(bundle)).await;
    here.decide(org, commit(1)).await;
    here.decide(org, Command::Release { id: ReservationId(2) }).await;
    let brief = trueup_core::Reserve { ttl_seconds: 60, ..reserve(6, "B", 1) };
    here.decide(org, Command::Reserve(brief)).await;
    here.pass(61);
    assert!(here.sku(org, &sku("B")).await.unwrap().is_some(), "what is due is retired");
    let made = here.submit(keyed(org, "order", Command::Reserve(reserve(7, "A", 1)))).await;
    assert!(matches!(made, Ok(Outcome::Recorded(Ok(_), _))), "{made:?}");
}

async fn fill_channels(here: &Here, org: &Org, number: u8) {
    let of_scope = ["a", "b"].map(|on| (mapping(on, "1", "A"), Some("s".to_owned())));
    here.put_mappings(org, of_scope.to_vec()).await.unwrap();
    here.put(org, &[mapping("a", "2", "B"), mapping("a", "3", "SET")]).await;
    let sent = push("2", 4, 2);
    here.decide(org, Command::MarkSent { channel: channel("a"), items: vec![sent] }).await;
    let listed = ChannelListing {
        suggestions: vec![sku("b, \"x\""), sku("A")],
        ..seen("1", Some("A"), Match::NearMiss, "r1")
    };
    let unknown = seen("2", Some("ß"), Match::UnknownSku, "r1");
    here.put_channel_listings(org, &channel("a"), vec![listed, unknown]).await.unwrap();
    here.put_consent(org, consent(number, "a")).await.unwrap();
    for row in [feed("1", "a", 10), feed("2", "a", 20)] {
        here.put_feed(org, row).await.unwrap();
    }
    here.decide(org, order("a", "o1", vec![line("1", 1, 0), line("2", 0, 2)])).await;
    let lines = vec![unmapped("o2", "1"), unmapped("o2", "2")];
    here.put_unmapped_lines(org, &channel("a"), lines).await.unwrap();
}

/// Returns everything that the port tells of an org, in words.
async fn told(store: &dyn Store, org: &Org) -> Vec<String> {
    let all = 1_000;
    let mut told = Vec::new();
    let skus = SkuQuery { limit: all, ..SkuQuery::default() };
    for answer in store.skus(org, skus).await.unwrap().items {
        let lines = MovementQuery { limit: all, ..MovementQuery::default() };
        let lines = store.movements(org, &answer.sku, lines).await.unwrap().items;
        for line in &lines {
            let then = store.sku_at(org, &answer.sku, line.at).await.unwrap();
            told.push(format!("{:?}", then.map(|then| (then.answer.state, then.seq))));
        }
        let by_sku =
            ReservationQuery { sku: Some(answer.sku.clone()), ..ReservationQuery::default() };
        let by_sku = ReservationQuery { limit: all, ..by_sku };
        let reservations = store.reservations(org, by_sku).await.unwrap().items;
        told.push(format!("{answer:?} {lines:?} {reservations:?}"));
    }
    let reservations = ReservationQuery { limit: all, ..ReservationQuery::default() };
    told.push(format!("{:?}", store.reservations(org, reservations).await.unwrap().items));
    let listings = ListingQuery { limit: all, ..ListingQuery::default() };
    told.push(format!("{:?}", store.listings(org, listings).await.unwrap().items));
    told.push(format!("{:?}", store.leaders(org, vec!["s".to_owned()]).await.unwrap()));
    let connections = store.connections(org).await.unwrap();
    for connection in &connections {
        let on = &connection.id;
        let catalogue = CatalogueQuery { limit: all, ..CatalogueQuery::default() };
        told.push(format!("{:?}", store.channel_listings(org, on, catalogue).await.unwrap()));
        told.push(format!("{:?}", store.feeds(org, on).await.unwrap()));
        told.push(format!("{:?}", store.held_lines(org, on, None, all).await.unwrap()));
        told.push(format!("{:?}", store.unmapped_lines(org, on, None, all).await.unwrap()));
        told.push(format!("{:?}", store.channel_counts(org, on).await.unwrap()));
        told.push(format!("{:?}", store.listing_scopes(org, on, None, all).await.unwrap()));
    }
    told.push(format!("{connections:?}"));
    for id in ["r1", "r2"] {
        told.push(format!("{:?}", store.run(org, id).await.unwrap()));
    }
    let history = HistoryQuery { limit: all, ..HistoryQuery::default() };
    told.push(format!("{:?}", store.history(org, history).await.unwrap().items));
    told.push(format!("{:?}", store.conflicts(org, None, None, None, all).await.unwrap().items));
    for id in ["s1", "s2"] {
        told.push(format!("{:?}", store.subscription(org, id).await.unwrap()));
        told.push(format!("{:?}", store.deliveries(org, id, None, all).await.unwrap().items));
    }
    told.push(format!("{:?}", store.api_keys(org).await.unwrap()));
    for key in ["order", "by hand", "never"] {
        told.push(format!("{:?}", store.recorded(org, key).await.unwrap()));
    }
    let waiting = store.inbox_waiting(at(i64::MAX), all).await.unwrap();
    let waiting: Vec<_> = waiting.into_iter().filter(|(of, _)| of == org).collect();
    told.push(format!("{waiting:?}"));
    // PostgreSQL keeps every character but this one.
    told.iter().map(|words| words.replace("\\0", "\u{fffd}")).collect()
}

async fn open(from: &Path, to: &str, what: Option<Org>) -> Result<Migration, MigrateError> {
    Migration::open(from, to, what).await
}

async fn migrate(from: &Path, to: &str, what: Option<Org>) -> Result<Vec<OrgReport>, MigrateError> {
    let mut migration = open(from, to, what).await?;
    let moved = migration.run(&mut |_| {}).await;
    migration.close();
    moved
}

/// Begins a move and drops it when so much of it has been told.
async fn dropped_after(from: &Path, to: &str, count: usize) -> bool {
    let mut migration = open(from, to, None).await.unwrap();
    let (stop, mut told) = (Notify::new(), 0);
    let mut tell = |_: Progress<'_>| {
        told += 1;
        if told == count {
            stop.notify_one();
        }
    };
    tokio::select! {
        biased;
        () = stop.notified() => true,
        moved = migration.run(&mut tell) => {
            moved.unwrap();
            false
        }
    }
}

async fn execute(url: &str, sql: &str) -> u64 {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.execute(sql, &[]).await.unwrap()
}

/// Two orgs with something of every kind, as a crash leaves them: rows are behind their lines.
async fn two_orgs() -> (Here, TestStore) {
    let here = Here::at(TestStore::embedded()).await;
    fill(&here, &org(), 1).await;
    fill(&here, &other(), 2).await;
    let crashed = here.crashed();
    (here, crashed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_moves_and_is_told_as_before() {
    let Some((place, url)) = database().await else { return };
    let (here, source) = two_orgs().await;
    let dir = source.dir().unwrap();
    let database = std::fs::read(dir.join("trueup.db")).unwrap();
    let reports = migrate(dir, &url, None).await.unwrap();
    assert_eq!(std::fs::read(dir.join("trueup.db")).unwrap(), database, "the source is as it was");
    let moved: Vec<&Org> = reports.iter().map(|report| &report.org).collect();
    assert_eq!(moved, [&org(), &other()]);
    let tables: Vec<&str> = reports[0].tables.iter().map(|table| table.table).collect();
    assert_eq!(tables.len(), 21, "the test fills every table: {tables:?}");
    let store = here.beside(&place).await;
    for of in [org(), other()] {
        assert_eq!(told(&*store, &of).await, told(&*here, &of).await);
        assert_eq!(store.verify(&of).await.unwrap().faults, [""; 0]);
    }
    assert_eq!(store.api_key("key-2").await.unwrap(), Some((other(), api_key("key-2"))));
    let taken = store.take_consent([1; 32]).await.unwrap();
    assert_eq!(taken, Some((org(), consent(1, "a"))));
    let report = &reports[0];
    let (on_hand, reserved) = (report.on_hand, report.reserved);
    let mut sums = (0, 0);
    for answer in
        here.skus(&org(), SkuQuery { limit: 99, ..SkuQuery::default() }).await.unwrap().items
    {
        sums.0 += answer.state.totals().on_hand.get();
        sums.1 += answer.state.totals().reserved.delta().get();
    }
    assert_eq!((on_hand, reserved), sums);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_before_goes_on_after() {
    let Some((place, url)) = database().await else { return };
    let (here, source) = two_orgs().await;
    migrate(source.dir().unwrap(), &url, None).await.unwrap();
    let store = here.beside(&place).await;
    // A reservation of before is committed, and a repeat of a request of before is answered alike.
    let submit = async |submission| store.submit(submission).await.unwrap();
    let plain = |command| Submission { idempotency: None, ..keyed(&org(), "-", command) };
    assert!(matches!(submit(plain(commit(3))).await, Outcome::Decided(Ok(_))));
    assert!(matches!(submit(plain(commit(5))).await, Outcome::Decided(Ok(_))));
    let again = submit(keyed(&org(), "order", Command::Reserve(reserve(7, "A", 1)))).await;
    assert!(matches!(&again, Outcome::Replayed(answer) if answer.body == [1, 0, 255]), "{again:?}");
    // Orders are known, and so are deliveries of vendors.
    let before = store.sku(&org(), &sku("A")).await.unwrap().unwrap().state.totals();
    let booked = order("a", "o1", vec![line("1", 1, 0), line("2", 0, 2)]);
    assert!(matches!(submit(plain(booked)).await, Outcome::Decided(Ok(_))));
    let after = store.sku(&org(), &sku("A")).await.unwrap().unwrap().state.totals();
    assert_eq!(before, after, "an order is booked once");
    assert!(!store.inbox_put(&org(), webhook("a", "d1")).await.unwrap());
    // Numbers that are given now come after those of before.
    let newest = |history: Vec<trueup_store::HistoryEntry>| history[0].id;
    let query = HistoryQuery { limit: 1, ..HistoryQuery::default() };
    let last = newest(store.history(&org(), query.clone()).await.unwrap().items);
    store.add_history(&org(), vec![entry(9, "later")]).await.unwrap();
    assert!(newest(store.history(&org(), query).await.unwrap().items) > last);
    assert!(store.inbox_put(&org(), webhook("a", "d3")).await.unwrap());
    store.put_mappings(&org(), vec![(mapping("a", "8", "A"), None)]).await.unwrap();
    assert_eq!(store.verify(&org()).await.unwrap().faults, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_cut_off_anywhere_goes_on_where_it_was() {
    let Some((place, url)) = database().await else { return };
    let here = Here::at(TestStore::embedded()).await;
    fill(&here, &org(), 1).await;
    fill(&here, &other(), 2).await;
    // More than a piece of lines.
    let many = (0..6_000).map(|n| set(&format!("M-{n:05}"), 1)).collect();
    here.decide(&org(), Command::Bulk { items: many, atomic: false }).await;
    let source = here.crashed();
    let dir = source.dir().unwrap();
    let node = here.beside(&place).await;
    let mut cuts = 0;
    for count in 1..200 {
        if !dropped_after(dir, &url, count).await {
            break;
        }
        cuts += 1;
        let Some(of) = of_those_arriving(&url).await.first().cloned() else { continue };
        // A node that was there before learns of it at its next look, and writes nothing until
        // then; a new one knows at once.
        let arriving = Err(StoreError::Arriving(of.clone()));
        assert_eq!(node.put_connection(&of, connection("z")).await, arriving);
        assert_eq!(node.put_api_key(&of, api_key("z")).await, arriving);
        let sold = node.submit(keyed(&of, "sold", adjust("A", -1))).await;
        assert!(matches!(sold, Err(StoreError::Arriving(_))), "{sold:?}");
        let new = here.beside(&place).await;
        let refused = StoreError::Arriving(of.clone());
        assert_eq!(new.sku(&of, &sku("A")).await, Err(refused.clone()));
        assert_eq!(new.connections(&of).await, Err(refused.clone()));
        assert_eq!(new.put_connection(&of, connection("z")).await, Err(refused.clone()));
        let sold = keyed(&of, "sold", adjust("A", -1));
        assert!(matches!(new.submit(sold).await, Err(error) if error == refused));
        for (seen, _) in new.all_connections().await.unwrap() {
            assert_ne!(seen, of);
        }
        let waiting = new.inbox_waiting(at(i64::MAX), 9).await.unwrap();
        assert!(waiting.iter().all(|(seen, _)| *seen != of), "{waiting:?}");
        let due = new.deliveries_due(at(i64::MAX), 9).await.unwrap();
        assert!(due.iter().all(|(seen, _)| *seen != of), "{due:?}");
        assert_eq!(new.take_consent([if of == org() { 1 } else { 2 }; 32]).await.unwrap(), None);
        new.abandon_runs(trueup_store::Shard::all().collect(), at(5)).await.unwrap();
        new.close().await.unwrap();
    }
    assert!(cuts >= 40, "it was cut off {cuts} times");
    // One that was there before learns at its next look that the orgs are open.
    let node = here.beside(&place).await;
    let all = SkuQuery { limit: 10_000, ..SkuQuery::default() };
    let skus = node.skus(&org(), all.clone()).await.unwrap();
    assert_eq!(skus, here.skus(&org(), all).await.unwrap());
    assert!(skus.items.len() > 6_000);
    assert_eq!(told(&*node, &other()).await, told(&*here, &other()).await);
    // Done once more, it says so and does nothing.
    let again = migrate(dir, &url, None).await.unwrap();
    assert!(again.iter().all(|report| report.verification.is_none()));
}

async fn of_those_arriving(url: &str) -> Vec<Org> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT org FROM arrival WHERE opened_at IS NULL";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| Org::new(row.get(0)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_org_moves_and_the_others_of_both_sides_stay() {
    let Some((place, url)) = database().await else { return };
    let (here, source) = two_orgs().await;
    let (dir, resident) = (source.dir().unwrap(), Org::new("resident").unwrap());
    let target = here.beside(&place).await;
    let count =
        Submission { idempotency: None, ..keyed(&resident, "-", Command::SetOnHand(set("A", 3))) };
    target.submit(count).await.unwrap();
    let before = told(&*target, &resident).await;
    let reports = migrate(dir, &url, Some(org())).await.unwrap();
    assert_eq!(reports.len(), 1);
    let target = here.beside(&place).await;
    assert_eq!(told(&*target, &resident).await, before);
    assert_eq!(target.orgs().await.unwrap(), [org(), resident]);
    assert!(target.sku(&other(), &sku("A")).await.unwrap().is_none());
    // Nobody sells it in both places; the other one goes on.
    let left = here.beside(&source).await;
    let departed = StoreError::Departed(org());
    assert_eq!(left.sku(&org(), &sku("A")).await, Err(departed.clone()));
    assert!(
        matches!(left.submit(keyed(&org(), "k", adjust("A", 1))).await, Err(error) if error == departed)
    );
    assert_eq!(left.connections(&org()).await, Err(departed));
    assert_eq!(left.orgs().await.unwrap(), [other()]);
    let of_others: BTreeSet<Org> =
        left.all_connections().await.unwrap().into_iter().map(|(of, _)| of).collect();
    assert_eq!(of_others, BTreeSet::from([other()]));
    let waiting = left.inbox_waiting(at(i64::MAX), 9).await.unwrap();
    assert!(!waiting.is_empty() && waiting.iter().all(|(of, _)| *of == other()));
    let due = left.deliveries_due(at(i64::MAX), 9).await.unwrap();
    assert!(!due.is_empty() && due.iter().all(|(of, _)| *of == other()));
    assert_eq!(told(&*left, &other()).await, told(&*here, &other()).await);
    left.close().await.unwrap();
    drop(left);
    // What is left moves as a whole, and nothing twice.
    let rest = migrate(dir, &url, None).await.unwrap();
    assert_eq!(rest.iter().map(|report| &report.org).collect::<Vec<_>>(), [&other()]);
    let target = here.beside(&place).await;
    assert_eq!(told(&*target, &other()).await, told(&*here, &other()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_to_be_moved_is_refused_and_nothing_is_changed() {
    let Some((place, url)) = database().await else { return };
    let (here, source) = two_orgs().await;
    let dir = source.dir().unwrap();
    let in_use = here.beside(&source).await;
    let refused = open(dir, &url, None).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Source(OpenError::InUse(_))), "{refused}");
    in_use.close().await.unwrap();
    drop(in_use);
    let nobody = Org::new("nobody").unwrap();
    let refused = open(dir, &url, Some(nobody.clone())).await.unwrap_err();
    assert!(matches!(refused, MigrateError::NoSuchOrg(of) if of == nobody));
    let refused = open(&dir.join("none"), &url, None).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Source(OpenError::Refused { .. })), "{refused}");
    let target = here.beside(&place).await;
    target.put_run(&other(), run("r", RunStatus::Completed)).await.unwrap();
    let refused = migrate(dir, &url, None).await.unwrap_err();
    assert!(
        matches!(&refused, MigrateError::Taken { org, table: "run" } if *org == other()),
        "{refused}"
    );
    assert!(!dir.join("MOVED").exists());
    assert!(
        target
            .skus(&org(), SkuQuery { limit: 1, ..SkuQuery::default() })
            .await
            .unwrap()
            .items
            .is_empty()
    );
    // What moves by itself does not move to another place as well.
    migrate(dir, &url, Some(org())).await.unwrap();
    let Some((_second, elsewhere)) = database().await else { return };
    let refused = migrate(dir, &elsewhere, Some(org())).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Departed { .. }), "{refused}");
    migrate(dir, &elsewhere, None).await.unwrap();
    let refused = Embedded::open(dir, Arc::new(|| at(0))).unwrap_err();
    assert!(matches!(&refused, OpenError::Departed { is_complete: true, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_not_the_same_keeps_the_org_closed() {
    let Some((place, url)) = database().await else { return };
    let (here, source) = two_orgs().await;
    let dir = source.dir().unwrap();
    for (change, expected) in [
        (
            "UPDATE movement SET delta = delta + 1 WHERE org = 'acme' AND sku = 'B-2' AND seq = 1",
            "movement \"B-2\", 1: delta differs",
        ),
        ("DELETE FROM conflict WHERE org = 'acme'", "not in the target"),
        (
            "INSERT INTO feed SELECT shard, org, channel, 'z', ticket, items, created_at FROM feed
          WHERE org = 'acme' AND id = '1'",
            "feed \"a\", \"z\": not in the source",
        ),
        (
            "DELETE FROM reservation_sku WHERE org = 'acme' AND sku = 'SET'",
            "1 reservations are not found by their SKUs",
        ),
    ] {
        // Everything is copied, and the first pieces are compared.
        let mut migration = open(dir, &url, Some(org())).await.unwrap();
        let stop = Notify::new();
        let mut tell = |progress: Progress<'_>| {
            if progress.stage == Stage::Compare {
                stop.notify_one();
            }
        };
        tokio::select! {
            biased;
            () = stop.notified() => {}
            moved = migration.run(&mut tell) => drop(moved.unwrap()),
        }
        drop(migration);
        assert_eq!(execute(&url, change).await, 1, "{change}");
        let refused = migrate(dir, &url, Some(org())).await.unwrap_err();
        assert!(matches!(refused, MigrateError::Differs { .. }), "{refused}");
        assert!(refused.to_string().contains(expected), "{refused}");
        let node = here.beside(&place).await;
        assert_eq!(node.orgs().await.unwrap(), []);
        assert_eq!(node.sku(&org(), &sku("A")).await, Err(StoreError::Arriving(org())));
        node.close().await.unwrap();
        // Begun anew, it is whole.
        let migration = open(dir, &url, Some(org())).await.unwrap();
        migration.forget().await.unwrap();
        migration.check().await.unwrap();
        migration.close();
    }
    migrate(dir, &url, Some(org())).await.unwrap();
    let node = here.beside(&place).await;
    assert_eq!(told(&*node, &org()).await, told(&*here, &org()).await);
    // An org that is open is not forgotten.
    let migration = open(dir, &url, Some(org())).await.unwrap();
    migration.forget().await.unwrap();
    assert_eq!(told(&*node, &org()).await, told(&*here, &org()).await);
}

/// Whoever writes into an org while a move of it begins is there afterwards, or is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_a_move_begins_is_not_lost() {
    let here = Here::at(TestStore::embedded()).await;
    here.put_sku(&org(), "A", 10).await;
    for round in 0..6_u32 {
        let Some((place, url)) = database().await else { return };
        let source = here.crashed();
        let node = here.beside(&place).await;
        let count = |name: &str| Submission {
            idempotency: None,
            ..keyed(&org(), "-", Command::SetOnHand(set(name, 3)))
        };
        let write = async {
            for _ in 0..round {
                drop(node.connections(&org()).await);
            }
            let mut acknowledged = Vec::new();
            for name in ["Z1", "Z2", "Z3"] {
                if matches!(node.submit(count(name)).await, Ok(Outcome::Decided(Ok(_)))) {
                    acknowledged.push(name);
                }
            }
            acknowledged
        };
        let (moved, acknowledged) =
            futures::join!(migrate(source.dir().unwrap(), &url, Some(org())), write);
        match moved {
            Ok(_) => {}
            Err(MigrateError::Taken { .. }) => assert!(!acknowledged.is_empty()),
            Err(error) => panic!("{error}"),
        }
        let last = here.beside(&place).await;
        for name in acknowledged {
            assert!(last.sku(&org(), &sku(name)).await.unwrap().is_some(), "{name}");
        }
        assert_eq!(last.verify(&org()).await.unwrap().faults, [""; 0]);
    }
}
