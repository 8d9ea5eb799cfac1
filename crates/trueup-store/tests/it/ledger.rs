//! Durability, history, idempotency, expiry and tenants.

use std::sync::Arc;

use trueup_core::{
    Answer, Command, MovementKind, Quantity, ReservationId, ReservationStatus, SetOnHand, Source,
};
use trueup_store::{
    Idempotency, MovementQuery, Outcome, RecordedAnswer, ReservationQuery, SkuQuery, StoreError,
    Submission,
};

use crate::harness::{Fixture, adjust, commit, org, reserve, set, sku, submit};

#[tokio::test]
async fn what_was_answered_is_there_after_a_crash_and_after_a_restart() {
    let mut fixture = Fixture::new().await;
    fixture.put("A", 10).await;
    for id in 0..4 {
        fixture.reserve(id, "A", 1).await.unwrap();
    }
    fixture.run(commit(0)).await.unwrap();
    fixture.run(Command::Release { id: ReservationId(1) }).await.unwrap();
    assert_eq!(fixture.numbers("A").await, (9, 2));

    let crashed = fixture.crashed().await;
    let again = crashed.store();
    let found = again.sku(&org("acme"), &sku("A")).await.unwrap().unwrap();
    assert_eq!(found, fixture.store().sku(&org("acme"), &sku("A")).await.unwrap().unwrap());
    for (id, status) in [
        (0, ReservationStatus::Committed),
        (1, ReservationStatus::Released),
        (2, ReservationStatus::Active),
    ] {
        let found = again.reservation(&org("acme"), ReservationId(id)).await.unwrap().unwrap();
        assert_eq!(found.status, status);
    }
    assert_eq!(again.verify(&org("acme")).await.unwrap().faults, Vec::<String>::new());

    fixture.open().await;
    assert_eq!(fixture.numbers("A").await, (9, 2));
    fixture.run(commit(2)).await.unwrap();
    assert_eq!(fixture.numbers("A").await, (8, 1));
    let verified = fixture.store().verify(&org("acme")).await.unwrap();
    assert_eq!((verified.faults, verified.movements), (Vec::new(), 8));
}

#[tokio::test]
async fn a_crash_at_any_moment_of_a_busy_time_leaves_a_ledger_that_adds_up() {
    let fixture = Fixture::new().await;
    for name in ["A", "B"] {
        fixture.put(name, 1_000).await;
    }
    let mut acknowledged = 0;
    for round in 0..10_u128 {
        for id in round * 20..(round + 1) * 20 {
            let name = if id % 3 == 0 { "A" } else { "B" };
            fixture.reserve(id, name, 1).await.unwrap();
            if id % 2 == 0 {
                fixture.run(commit(id)).await.unwrap();
            }
            acknowledged += 1;
        }
        let crashed = fixture.crashed().await;
        let again = crashed.store();
        assert_eq!(again.verify(&org("acme")).await.unwrap().faults, Vec::<String>::new());
        let query = ReservationQuery { limit: 1_000, ..ReservationQuery::default() };
        let kept = again.reservations(&org("acme"), query).await.unwrap();
        assert_eq!(kept.items.len(), acknowledged);
    }
}

#[tokio::test]
async fn history_is_newest_first_with_sums_after_each_line() {
    let fixture = Fixture::new().await;
    fixture.put("A", 10).await;
    fixture.reserve(1, "A", 3).await.unwrap();
    fixture.run(commit(1)).await.unwrap();
    let query = MovementQuery { limit: 2, ..MovementQuery::default() };
    let page = fixture.store().movements(&org("acme"), &sku("A"), query).await.unwrap();
    assert!(page.more);
    let kinds: Vec<_> = page.items.iter().map(|m| (m.seq, m.kind)).collect();
    assert_eq!(kinds, [(3, MovementKind::Commit), (2, MovementKind::Reserve)]);
    let line = &page.items[0];
    assert_eq!((line.delta.get(), line.reserved_delta.get()), (-3, -3));
    assert_eq!((line.quantity_after.get(), line.reserved_after.get()), (7, 0));
    assert_eq!(line.reference.as_deref(), Some("order-1"));
    let rest = MovementQuery { before_seq: Some(2), limit: 2, ..MovementQuery::default() };
    let page = fixture.store().movements(&org("acme"), &sku("A"), rest).await.unwrap();
    assert_eq!(page.items[0].reason.as_deref(), Some("count"));
    assert!(!page.more);
}

#[tokio::test]
async fn a_sku_can_be_seen_as_it_stood() {
    let fixture = Fixture::new().await;
    let before = fixture.now();
    fixture.pass(10);
    fixture.put("A", 10).await;
    fixture.pass(10);
    let counted = fixture.now();
    fixture.pass(10);
    fixture.reserve(1, "A", 3).await.unwrap();
    fixture.pass(10);
    let reserved = fixture.now();
    fixture.pass(10);
    fixture.run(commit(1)).await.unwrap();
    let at = async |at| fixture.store().sku_at(&org("acme"), &sku("A"), at).await.unwrap();
    assert!(at(before).await.is_none());
    let totals = at(counted).await.unwrap().answer.state.totals();
    assert_eq!((totals.on_hand.get(), totals.reserved.get()), (10, 0));
    let totals = at(reserved).await.unwrap().answer.state.totals();
    assert_eq!((totals.on_hand.get(), totals.reserved.get()), (10, 3));
}

#[tokio::test]
async fn a_count_taken_before_movements_keeps_them() {
    let fixture = Fixture::new().await;
    fixture.put("A", 100).await;
    fixture.pass(10);
    let counted = fixture.now();
    fixture.pass(10);
    fixture.reserve(1, "A", 5).await.unwrap();
    fixture.run(commit(1)).await.unwrap();
    let mut late = set("A", 90);
    late.counted_at = Some(counted);
    fixture.run(Command::SetOnHand(late.clone())).await.unwrap();
    assert_eq!(fixture.numbers("A").await, (85, 0));
    // Once the lines are in rows it is the same.
    let all = SkuQuery { limit: 10, ..SkuQuery::default() };
    fixture.store().skus(&org("acme"), all).await.unwrap();
    fixture.run(Command::SetOnHand(late)).await.unwrap();
    assert_eq!(fixture.numbers("A").await, (85, 0), "the same count again is the same count");
}

/// A clock that was set back while the store was closed hides no movement from a late count.
#[tokio::test]
async fn a_count_taken_before_the_clock_was_set_back_keeps_movements() {
    let mut fixture = Fixture::new().await;
    fixture.put("A", 100).await;
    fixture.pass(10);
    let counted = fixture.now();
    fixture.pass(10);
    fixture.reserve(1, "A", 5).await.unwrap();
    fixture.run(commit(1)).await.unwrap();
    fixture.store().close().await.unwrap();
    fixture.pass(-1_000);
    fixture.open().await;
    fixture.run(adjust("A", -1)).await.unwrap();
    let late = SetOnHand { counted_at: Some(counted), ..set("A", 90) };
    fixture.run(Command::SetOnHand(late)).await.unwrap();
    // In a database the lines of a SKU never go back in time, so that the adjustment is after the
    // count, too.
    let left = if fixture.place.is_embedded() { 85 } else { 84 };
    assert_eq!(fixture.numbers("A").await, (left, 0), "the sale counts");
}

#[tokio::test]
async fn from_its_expiry_on_a_hold_is_gone_for_every_reader() {
    let fixture = Fixture::new().await;
    fixture.put("A", 1).await;
    fixture.reserve(1, "A", 1).await.unwrap();
    assert_eq!(fixture.numbers("A").await, (1, 1));
    fixture.pass(900);
    assert_eq!(fixture.numbers("A").await, (1, 0));
    let found = fixture.store().reservation(&org("acme"), ReservationId(1)).await.unwrap();
    assert_eq!(found.unwrap().status, ReservationStatus::Expired);
    assert_eq!(fixture.run(commit(1)).await.unwrap_err().code(), "reservation_expired");
    fixture.reserve(2, "A", 1).await.unwrap();
}

/// A history is the same on every store: of holds that run out together the one with the lower id
/// goes first, whichever was taken first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_that_run_out_together_go_in_the_order_of_their_ids() {
    let fixture = Fixture::new().await;
    fixture.put("A", 5).await;
    let holds = [3, 5, 1, 4, 2].map(|id| reserve(id, "A", 1)).to_vec();
    fixture.run(Command::ReserveBatch(holds)).await.unwrap();
    fixture.pass(900);
    let query =
        MovementQuery { kind: Some(MovementKind::Expire), limit: 10, ..MovementQuery::default() };
    assert_eq!(fixture.numbers("A").await, (5, 0));
    let lines = fixture.store().movements(&org("acme"), &sku("A"), query).await.unwrap().items;
    let newest_first: Vec<&str> =
        lines.iter().filter_map(|line| line.reference.as_deref()).collect();
    assert_eq!(newest_first, [5, 4, 3, 2, 1].map(|id| format!("order-{id}")));
}

/// What is asked after an expiry is decided after it, whatever was being decided meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_thick_of_it_a_hold_is_gone_from_its_expiry_on() {
    const ROUNDS: u128 = 150;
    let fixture = Fixture::new().await;
    fixture.put("A", 1).await;
    fixture.put("B", 0).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut buyers = Vec::new();
    for _ in 0..8 {
        let (store, stopped) = (fixture.store.clone().unwrap(), stopped.clone());
        buyers.push(tokio::spawn(async move {
            while !*stopped.borrow() {
                submit(&*store, "acme", adjust("B", 1)).await.unwrap();
            }
        }));
    }
    for id in 0..ROUNDS {
        fixture.reserve(id, "A", 1).await.unwrap();
        fixture.pass(900);
        if id % 2 == 0 {
            let refused = fixture.run(commit(id)).await.unwrap_err();
            assert_eq!(refused.code(), "reservation_expired", "round {id}");
        } else {
            assert_eq!(fixture.numbers("A").await, (1, 0), "round {id}");
        }
    }
    stop.send_replace(true);
    for buyer in buyers {
        buyer.await.unwrap();
    }
}

#[tokio::test]
async fn two_buyers_of_the_last_unit_are_one_sale_and_one_refusal() {
    let fixture = Fixture::new().await;
    fixture.put("A", 25).await;
    let store = fixture.store();
    let buyers = (0..100)
        .map(|id| crate::harness::submit(store, "acme", Command::Reserve(reserve(id, "A", 1))));
    let outcomes = futures::future::join_all(buyers).await;
    let won = outcomes.iter().filter(|o| matches!(o, Ok(Outcome::Decided(Ok(_))))).count();
    assert_eq!(won, 25);
    assert_eq!(fixture.numbers("A").await, (25, 25));
}

fn keyed(key: &str, fingerprint: u8, command: Command) -> Submission {
    Submission {
        org: org("acme"),
        command,
        actor: Arc::from("test"),
        source: Source::Api,
        idempotency: Some(Idempotency {
            key: Arc::from(key),
            fingerprint: [fingerprint; 32],
            render: Arc::new(|result: &Result<Answer, _>| RecordedAnswer {
                status: if result.is_ok() { 201 } else { 409 },
                headers: vec![("etag".to_owned(), "\"1\"".to_owned())],
                body: format!("{}", result.is_ok()).into_bytes(),
            }),
        }),
    }
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again_even_after_a_restart() {
    let mut fixture = Fixture::new().await;
    fixture.put("A", 5).await;
    let first = keyed("k", 1, Command::Reserve(reserve(1, "A", 5)));
    let Outcome::Recorded(Ok(_), answer) = fixture.store().submit(first).await.unwrap() else {
        panic!("it is new")
    };
    fixture.open().await;
    let again = keyed("k", 1, Command::Reserve(reserve(2, "A", 5)));
    assert_eq!(fixture.store().submit(again).await, Ok(Outcome::Replayed(answer)));
    let other = keyed("k", 2, Command::Reserve(reserve(2, "A", 5)));
    assert_eq!(fixture.store().submit(other).await, Err(StoreError::IdempotencyKeyReused));
    assert_eq!(fixture.numbers("A").await, (5, 5));
    let refused = keyed("r", 1, Command::Reserve(reserve(3, "A", 1)));
    let first = fixture.store().submit(refused.clone()).await.unwrap();
    assert!(matches!(first, Outcome::Recorded(Err(_), _)));
    fixture.run(Command::Release { id: ReservationId(1) }).await.unwrap();
    let again = fixture.store().submit(refused).await.unwrap();
    assert!(matches!(again, Outcome::Replayed(answer) if answer.status == 409));
}

/// A key is known from the answer on: in the batch, behind, after a crash and after a round.
#[tokio::test]
async fn an_idempotency_key_is_known_at_once() {
    let fixture = Fixture::new().await;
    fixture.put("A", 100).await;
    let store = fixture.store();
    let of = |round: u8, id: u128| {
        keyed(&format!("k{round}"), round, Command::Reserve(reserve(id, "A", 1)))
    };
    for round in 0..20 {
        let twins = (0..4).map(|twin| store.submit(of(round, u128::from(round) * 4 + twin)));
        let outcomes = futures::future::join_all(twins).await;
        let first = outcomes.iter().filter(|o| matches!(o, Ok(Outcome::Recorded(Ok(_), _))));
        assert_eq!(first.count(), 1, "{outcomes:?}");
        let again = outcomes.iter().filter(|o| matches!(o, Ok(Outcome::Replayed(_))));
        assert_eq!(again.count(), 3, "{outcomes:?}");
    }
    assert_eq!(fixture.numbers("A").await, (100, 20));
    let crashed = fixture.crashed().await;
    let again = crashed.store();
    while store.figures().behind > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let kept = RecordedAnswer { status: 200, headers: Vec::new(), body: Vec::new() };
    for store in [store, again] {
        for round in 0..20 {
            let outcome = store.submit(of(round, 1_000)).await.unwrap();
            assert!(matches!(outcome, Outcome::Replayed(answer) if answer.status == 201));
            let key = format!("k{round}");
            store.record(&org("acme"), &key, [9; 32], kept.clone()).await.unwrap();
            let recorded = store.recorded(&org("acme"), &key).await.unwrap().unwrap();
            assert_eq!((recorded.0, recorded.1.status), ([round; 32], 201), "the first stays");
        }
    }
}

#[tokio::test]
async fn what_is_of_another_org_is_not_there() {
    let fixture = Fixture::new().await;
    fixture.put("A", 5).await;
    fixture.reserve(1, "A", 1).await.unwrap();
    let other = org("other");
    let store = fixture.store();
    assert!(store.sku(&other, &sku("A")).await.unwrap().is_none());
    assert!(store.reservation(&other, ReservationId(1)).await.unwrap().is_none());
    let release = fixture.run_as("other", Command::Release { id: ReservationId(1) }).await;
    assert_eq!(release.unwrap_err().code(), "reservation_not_found");
    let all = SkuQuery { limit: 10, ..SkuQuery::default() };
    assert!(store.skus(&other, all).await.unwrap().items.is_empty());
    let lines = MovementQuery { limit: 10, ..MovementQuery::default() };
    assert!(store.movements(&other, &sku("A"), lines).await.unwrap().items.is_empty());
    // The same id in another org is another reservation.
    fixture.run_as("other", Command::SetOnHand(set("A", 9))).await.unwrap();
    fixture.run_as("other", Command::Reserve(reserve(1, "A", 9))).await.unwrap();
    assert_eq!(fixture.numbers("A").await, (5, 1));
}

#[tokio::test]
async fn lists_page_by_sku_and_search() {
    let fixture = Fixture::new().await;
    for name in ["APPLE", "apple pie", "B_1", "B%1", "Bx1"] {
        fixture.put(name, 1).await;
    }
    let list = async |search: Option<&str>, after: Option<&str>| -> Vec<String> {
        let query = SkuQuery {
            search: search.map(str::to_owned),
            after: after.map(sku),
            limit: 2,
            ..SkuQuery::default()
        };
        let page = fixture.store().skus(&org("acme"), query).await.unwrap();
        page.items.iter().map(|answer| answer.sku.to_string()).collect()
    };
    assert_eq!(list(None, None).await, ["APPLE", "B%1"]);
    assert_eq!(list(None, Some("B%1")).await, ["B_1", "Bx1"]);
    assert_eq!(list(Some("apple"), None).await, ["APPLE", "apple pie"]);
    assert_eq!(list(Some("B_1"), None).await, ["B_1"]);
    assert_eq!(list(Some("%"), None).await, ["B%1"]);
}

#[tokio::test]
async fn an_order_that_was_sold_is_known_from_rows_too() {
    let mut fixture = Fixture::new().await;
    fixture.put("A", 10).await;
    let of_order = |id| trueup_core::Reserve {
        order: trueup_core::OrderId::new("order").unwrap(),
        ..reserve(id, "A", 2)
    };
    fixture.run(Command::Reserve(of_order(1))).await.unwrap();
    fixture.pass(901);
    fixture.run(Command::Reserve(of_order(2))).await.unwrap();
    fixture.run(commit(2)).await.unwrap();
    fixture.store().close().await.unwrap();
    fixture.open().await;
    let again = Command::Commit { id: ReservationId(1), reacquire: true };
    let refused = fixture.run(again).await.unwrap_err();
    assert_eq!(refused.code(), "reservation_expired");
    assert_eq!(fixture.numbers("A").await, (8, 0));
}

/// A history is entered by number or by time, wherever that is, and read from there on.
#[tokio::test]
async fn history_is_read_from_anywhere() {
    let fixture = Fixture::new().await;
    let mut instants = Vec::new();
    for units in 0..300 {
        instants.push(fixture.now());
        fixture.put("A", units).await;
        if units % 3 == 0 {
            fixture.put("B", units).await;
        }
    }
    let store = fixture.store();
    let list = async |query: MovementQuery| -> (Vec<u64>, bool) {
        let page = store.movements(&org("acme"), &sku("A"), query).await.unwrap();
        (page.items.iter().map(|line| line.seq).collect(), page.more)
    };
    let down = |from: u64, to: u64| -> Vec<u64> { (to..=from).rev().collect() };
    for before in [1, 2, 63, 64, 65, 128, 200, 256, 300, 301, 9_999] {
        let query = MovementQuery { before_seq: Some(before), limit: 5, ..Default::default() };
        let newest = (before - 1).min(300);
        let oldest = newest.saturating_sub(4).max(1);
        let expected = if newest == 0 { Vec::new() } else { down(newest, oldest) };
        assert_eq!(list(query).await, (expected, newest > 5), "before {before}");
    }
    for (from, to) in [(0, 64), (10, 63), (63, 65), (64, 192), (128, 299), (299, 299)] {
        let query = MovementQuery {
            from: Some(instants[from]),
            to: Some(instants[to]),
            limit: 1_000,
            ..Default::default()
        };
        let expected: Vec<u64> = (from as u64 + 1..=to as u64).rev().collect();
        assert_eq!(list(query).await, (expected, false), "from {from} to {to}");
        let then = store.sku_at(&org("acme"), &sku("A"), instants[to]).await.unwrap();
        let then = then.map(|then| (then.seq, then.answer.state.totals().on_hand.get()));
        let stood = i64::try_from(to).unwrap() - 1;
        assert_eq!(then, Some((to as u64, stood)), "at {to}");
    }
    let query = MovementQuery { after_seq: Some(296), limit: 9, ..Default::default() };
    assert_eq!(list(query).await, (down(300, 297), false));
    let kind = Some(MovementKind::Adjust);
    let query = MovementQuery { kind, limit: 9, ..Default::default() };
    assert_eq!(list(query).await, (Vec::new(), false));
}

/// What follows from lines and reservations is behind when the process dies: a bundle's number,
/// what reservations are found by, which SKUs there are and which are low.
#[tokio::test]
async fn a_crash_right_after_the_answer_leaves_everything_to_be_found() {
    let fixture = Fixture::new().await;
    fixture.put("A", 10).await;
    fixture.put("B", 10).await;
    let parts = vec![trueup_core::Part { sku: sku("A"), quantity: Quantity::new(2).unwrap() }];
    fixture
        .run(Command::SetBundle { sku: sku("SET"), parts, if_version: None, reason: None })
        .await
        .unwrap();
    fixture.reserve(1, "SET", 1).await.unwrap();
    fixture.reserve(2, "B", 1).await.unwrap();
    let other = trueup_core::Reserve {
        order: trueup_core::OrderId::new("order-2").unwrap(),
        ..reserve(3, "A", 1)
    };
    fixture.run(Command::Reserve(other)).await.unwrap();
    fixture.run(Command::Publish { skus: vec![sku("B")] }).await.unwrap();
    let mut low = set("B", 3);
    low.settings.low_stock_threshold = Some(Quantity::new(5));
    fixture.run(Command::SetOnHand(low)).await.unwrap();
    fixture.run(commit(1)).await.unwrap();
    let crashed = fixture.crashed().await;
    let again = crashed.store();
    for store in [fixture.store(), again] {
        let acme = org("acme");
        for name in ["A", "B", "SET"] {
            let live = fixture.store().sku(&acme, &sku(name)).await.unwrap();
            assert!(live.is_some());
            assert_eq!(store.sku(&acme, &sku(name)).await.unwrap(), live, "{name}");
        }
        let found = async |query: ReservationQuery| -> Vec<u128> {
            let query = ReservationQuery { limit: 9, ..query };
            let page = store.reservations(&acme, query).await.unwrap();
            page.items.iter().map(|found| found.id.0).collect()
        };
        let by_sku = |name| ReservationQuery { sku: Some(sku(name)), ..Default::default() };
        assert_eq!(found(by_sku("SET")).await, [1]);
        assert_eq!(found(by_sku("A")).await, [2], "the order asks for A by now");
        assert_eq!(found(by_sku("B")).await, [0; 0]);
        let order = Some(trueup_core::OrderId::new("order-1").unwrap());
        assert_eq!(found(ReservationQuery { order, ..Default::default() }).await, [1]);
        let active = Some(ReservationStatus::Active);
        assert_eq!(found(ReservationQuery { status: active, ..Default::default() }).await, [2]);
        let low = SkuQuery { low_stock: Some(true), limit: 9, ..SkuQuery::default() };
        let low = store.skus(&acme, low).await.unwrap().items;
        assert_eq!(low.iter().map(|answer| answer.sku.as_str()).collect::<Vec<_>>(), ["B"]);
        assert_eq!(store.verify(&acme).await.unwrap().faults, [""; 0]);
    }
}
