//! Several nodes on one database, and a database that goes away in the worst moment. What is
//! acknowledged is there once; what is not has not happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio_postgres::NoTls;
use trueup_core::{Command, Rejection};
use trueup_store::postgres::{Clock, Postgres};
use trueup_store::{
    Health, Idempotency, MovementQuery, Outcome, RecordedAnswer, Store, StoreError, Submission,
};
use trueup_test_store::TestStore;

use crate::cutter::Cutter;
use crate::harness::{Fixture, adjust, commit, org, reserve, set, sku, submit};

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Returns a fixture with its URL where stores are in a database, and says so where they are not.
async fn in_database() -> Option<(Fixture, String)> {
    let place = TestStore::new().await;
    let Some(url) = place.url() else {
        skip("the embedded store has one process and no connections");
        return None;
    };
    Some((Fixture::at(place).await, url))
}

async fn node(url: &str, fixture: &Fixture) -> Arc<dyn Store> {
    Arc::new(Postgres::open(url, Clock::Given(fixture.clock())).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_race_for_the_last_units_never_oversell() {
    let Some((fixture, url)) = in_database().await else { return };
    const UNITS: u64 = 40;
    const BUYERS: u128 = 120;
    for name in ["A", "B", "C"] {
        fixture.put(name, UNITS).await;
    }
    let nodes = [node(&url, &fixture).await, node(&url, &fixture).await];
    let buy = async |id: u128| {
        // Two SKUs each, in any order: locks are taken in one.
        let names = [["A", "B"], ["C", "A"], ["B", "C"]][usize::try_from(id % 3).unwrap()];
        let mut both = reserve(id, names[0], 1);
        both.items.extend(reserve(id, names[1], 1).items);
        let store = &nodes[usize::try_from(id % 2).unwrap()];
        match submit(store.as_ref(), "acme", Command::Reserve(both)).await.unwrap() {
            Outcome::Decided(Ok(_)) => true,
            Outcome::Decided(Err(Rejection::InsufficientStock(_))) => false,
            other => panic!("{other:?}"),
        }
    };
    let bought = join_all((1..=BUYERS).map(buy)).await;
    // One unit of two of three SKUs each: all of them are sold, but for one that has no partner.
    let count = bought.iter().filter(|bought| **bought).count();
    let mut reserved = 0;
    for name in ["A", "B", "C"] {
        let (on_hand, held) = fixture.numbers(name).await;
        assert_eq!(on_hand, i64::try_from(UNITS).unwrap());
        assert!(held <= UNITS, "{held} of {UNITS} {name} are held");
        reserved += held;
    }
    assert_eq!(reserved, 2 * u64::try_from(count).unwrap());
    assert!(reserved >= 3 * UNITS - UNITS, "{reserved}");
    for node in &nodes {
        let found = node.verify(&org("acme")).await.unwrap();
        assert_eq!(found.faults, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_make_one_reservation_of_an_order_and_one_sku_of_a_name() {
    let Some((fixture, url)) = in_database().await else { return };
    let nodes = [node(&url, &fixture).await, node(&url, &fixture).await];
    for round in 0..10_u128 {
        let names = [format!("NEW-{round}"), format!("OTHER-{round}")];
        // Both make the same SKUs at the same time: a count is a count.
        let made = join_all(nodes.iter().map(|node| async {
            for name in &names {
                let made = submit(node.as_ref(), "acme", Command::SetOnHand(set(name, 5))).await;
                assert!(matches!(made, Ok(Outcome::Decided(Ok(_)))), "{made:?}");
            }
        }));
        made.await;
        // Both take the same order, of different SKUs.
        let taken = join_all(nodes.iter().enumerate().map(|(n, node)| {
            let id = round * 2 + u128::try_from(n).unwrap() + 1;
            let mut order = reserve(id, &names[n], 2);
            order.order = reserve(1_000 + round, "X", 1).order;
            async move { submit(node.as_ref(), "acme", Command::Reserve(order)).await.unwrap() }
        }));
        for outcome in taken.await {
            assert!(matches!(outcome, Outcome::Decided(Ok(_))), "{outcome:?}");
        }
        let held = fixture.numbers(&names[0]).await.1 + fixture.numbers(&names[1]).await.1;
        assert_eq!(held, 2, "the later one took the place of the earlier one");
    }
    assert_eq!(fixture.store().verify(&org("acme")).await.unwrap().faults, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_publishes_is_told_on_another() {
    let Some((fixture, url)) = in_database().await else { return };
    // The fixture's works for everything.
    let other = node(&url, &fixture).await;
    submit(other.as_ref(), "acme", Command::SetOnHand(set("A", 1))).await.unwrap();
    assert_eq!(fixture.store().wait_dirty().await, [(org("acme"), sku("A"))]);
}

/// Returns how many entries of an index were read, once that was told of so many searches.
async fn index_reads(client: &tokio_postgres::Client, index: &str, searches: u32) -> i64 {
    const SQL: &str = "
        SELECT idx_scan, idx_tup_read
        FROM pg_stat_user_indexes
        WHERE indexrelname = $1";
    for _ in 0..300 {
        let row = client.query_one(SQL, &[&index]).await.unwrap();
        if row.get::<_, i64>(0) >= searches.into() {
            return row.get(1);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{index} was not searched {searches} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_due_is_not_looked_at() {
    const HELD: u32 = 300;
    const ASKED: u32 = 30;
    let Some((fixture, url)) = in_database().await else { return };
    fixture.put("A", 1_000).await;
    // Connections that end tell what they have read.
    let ask = async |ids: std::ops::Range<u32>| {
        let store = node(&url, &fixture).await;
        for id in ids {
            let one = Command::Reserve(reserve(id.into(), "A", 1));
            submit(store.as_ref(), "acme", one).await.unwrap();
            store.sku(&org("acme"), &sku("A")).await.unwrap();
        }
        store.close().await.unwrap();
    };
    ask(1..HELD).await;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let before = index_reads(&client, "reservation_due", 2 * (HELD - 1)).await;
    // As upkeep does after a while: of a table that nothing is known of all indexes look the same.
    client.batch_execute("ANALYZE reservation").await.unwrap();
    ask(HELD..HELD + ASKED).await;
    let after = index_reads(&client, "reservation_due", 2 * (HELD - 1 + ASKED)).await;
    let read = after - before;
    assert!(read < i64::from(HELD), "{read} entries were read");
}

/// Submits an adjustment by one with an idempotency key.
async fn add_one(store: &dyn Store, name: &str, key: &str) -> Result<Outcome, StoreError> {
    let render = |_: &Result<_, _>| RecordedAnswer { status: 200, headers: vec![], body: vec![] };
    let submission = Submission {
        org: org("acme"),
        command: adjust(name, 1),
        actor: Arc::from("test"),
        source: trueup_core::Source::Api,
        idempotency: Some(Idempotency {
            key: Arc::from(key),
            fingerprint: [7; 32],
            render: Arc::new(render),
        }),
    };
    store.submit(submission).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_a_commit_loses_nothing_and_does_nothing_twice() {
    let Some((fixture, url)) = in_database().await else { return };
    let Some(cutter) = Cutter::before(&url) else {
        skip("the server is not on a socket");
        return;
    };
    fixture.put("A", 0).await;
    fixture.put("B", 0).await;
    let store = node(&cutter.url(&url), &fixture).await;
    for round in 0..40 {
        let each = (0..5).map(|n| {
            let store = store.clone();
            async move {
                let key = format!("key-{round}-{n}");
                let keyed = add_one(store.as_ref(), "A", &key).await;
                assert!(matches!(keyed, Ok(Outcome::Recorded(Ok(_), _))), "{keyed:?}");
                let plain = submit(store.as_ref(), "acme", adjust("B", 1)).await;
                assert!(matches!(plain, Ok(Outcome::Decided(Ok(_)))), "{plain:?}");
            }
        });
        join_all(each).await;
    }
    assert!(cutter.cut() >= 20, "{} connections were cut", cutter.cut());
    cutter.stop_cutting();
    for name in ["A", "B"] {
        assert_eq!(fixture.numbers(name).await, (200, 0), "{name}");
        let all = MovementQuery { limit: 1_000, ..MovementQuery::default() };
        let lines = fixture.store().movements(&org("acme"), &sku(name), all).await.unwrap();
        assert_eq!(lines.items.len(), 201, "{name}");
    }
    let found = fixture.store().verify(&org("acme")).await.unwrap();
    assert_eq!(found.faults, [""; 0]);
    assert_eq!(store.health(), Health::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_an_operator_ends_lose_nothing() {
    let Some((fixture, url)) = in_database().await else { return };
    fixture.put("A", 1_000).await;
    let (killer, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let done = Arc::new(AtomicU64::new(0));
    let buys = async {
        for id in 1..=100_u128 {
            fixture.reserve(id, "A", 1).await.unwrap();
            fixture.run(commit(id)).await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        }
    };
    let ends = async {
        const END_ALL: &str = "
            SELECT pg_terminate_backend(pid)
            FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let mut ended = 0;
        while done.load(Ordering::SeqCst) < 100 {
            ended += killer.query(END_ALL, &[]).await.unwrap().len();
            // Until there is more to end.
            let before = done.load(Ordering::SeqCst);
            while done.load(Ordering::SeqCst) < (before + 7).min(100) {
                tokio::task::yield_now().await;
            }
        }
        assert!(ended > 5, "{ended}");
    };
    futures::join!(buys, ends);
    assert_eq!(fixture.numbers("A").await, (900, 0));
    assert_eq!(fixture.store().verify(&org("acme")).await.unwrap().faults, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_writes_is_told_and_is_over_when_it_takes_them_again() {
    let Some((fixture, url)) = in_database().await else { return };
    fixture.put("A", 1).await;
    let (admin, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let name: String = admin.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    let end_others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    admin.batch_execute(&set).await.unwrap();
    admin.batch_execute(end_others).await.unwrap();
    let refused = submit(fixture.store(), "acme", adjust("A", 1)).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{refused:?}");
    assert!(matches!(fixture.store().health(), Health::Failing(_)));
    assert_eq!(fixture.numbers("A").await, (1, 0), "it can be read");
    admin.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    admin.batch_execute(&reset).await.unwrap();
    admin.batch_execute(end_others).await.unwrap();
    let taken = submit(fixture.store(), "acme", adjust("A", 1)).await;
    assert!(matches!(taken, Ok(Outcome::Decided(Ok(_)))), "{taken:?}");
    assert_eq!(fixture.store().health(), Health::Ready);
    assert_eq!(fixture.numbers("A").await, (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_makes_no_sense_fails_alone() {
    let Some((fixture, url)) = in_database().await else { return };
    let names: Vec<String> = (0..20).map(|n| format!("S-{n}")).collect();
    for name in &names {
        fixture.put(name, 1).await;
    }
    let (admin, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    admin.batch_execute("UPDATE sku SET levels = 'torn' WHERE sku = 'S-7'").await.unwrap();
    // All at once, so that they share batches.
    let add = |name: &String| submit(fixture.store(), "acme", adjust(name, 1));
    let outcomes = join_all(names.iter().map(add)).await;
    for (name, outcome) in names.iter().zip(outcomes) {
        match name.as_str() {
            "S-7" => assert!(matches!(outcome, Err(StoreError::Failed(_))), "{outcome:?}"),
            _ => assert!(matches!(outcome, Ok(Outcome::Decided(Ok(_)))), "{name}: {outcome:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_later_version_is_refused_unless_it_goes_with_this_one() {
    let Some((fixture, url)) = in_database().await else { return };
    let (admin, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let goes_along = "INSERT INTO schema_version VALUES (1000, 1, 0)";
    admin.batch_execute(goes_along).await.unwrap();
    drop(node(&url, &fixture).await);
    admin.batch_execute("INSERT INTO schema_version VALUES (1001, 1001, 0)").await.unwrap();
    let refused = Postgres::open(&url, Clock::Given(fixture.clock())).await.unwrap_err();
    assert!(refused.to_string().contains("version 1001"), "{refused}");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_its_password() {
    let still: trueup_store::embedded::Now = Arc::new(|| trueup_core::Timestamp::EPOCH);
    for url in ["postgres://u:hunter2@h:port/d", "mysql://u:hunter2@h/d", "hunter2"] {
        let refused = Postgres::open(url, Clock::Given(still.clone())).await.unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
}
