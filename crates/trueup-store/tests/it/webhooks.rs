//! Who is told what, and what is being told.

use serde_json::json;
use trueup_core::{Command, Org, Quantity, ReservationId};
use trueup_store::{Delivery, DeliveryState, Store, Subscription};

use crate::harness::{reserve, set};
use crate::making::{Here, at, org, other};

pub(crate) fn subscription(id: &str, events: &[&str]) -> Subscription {
    Subscription {
        id: id.to_owned(),
        url: "https://example.com/hook".to_owned(),
        events: events.iter().map(|&event| event.to_owned()).collect(),
        sealed_secret: vec![1, 2],
        enabled: true,
        description: None,
        created_at: at(1),
    }
}

async fn add(store: &dyn Store, org: &Org, event: &str, micros: i64) {
    let body = json!({ "z": event, "a": "\0" });
    store.add_event(org, event, body, at(micros)).await.unwrap();
}

async fn due(store: &dyn Store, micros: i64) -> Vec<(Org, Delivery)> {
    store.deliveries_due(at(micros), 9).await.unwrap()
}

/// Returns what is due as instant and subscription.
async fn told(store: &dyn Store, micros: i64) -> Vec<(i64, String)> {
    let due = due(store, micros).await;
    due.into_iter().map(|(_, row)| (row.created_at.micros(), row.subscription)).collect()
}

#[tokio::test]
async fn a_subscription_is_replaced_and_stays_in_its_org() {
    let here = Here::new().await;
    let off = Subscription {
        enabled: false,
        description: Some("Größe".to_owned()),
        url: "https://example.com/other".to_owned(),
        ..subscription("s", &["b", "a"])
    };
    for row in [subscription("s", &[]), off] {
        here.put_subscription(&org(), row.clone()).await.unwrap();
        assert_eq!(here.subscriptions(&org()).await.unwrap(), std::slice::from_ref(&row));
        assert_eq!(here.subscription(&org(), "s").await.unwrap(), Some(row));
    }
    assert_eq!(here.subscriptions(&other()).await.unwrap(), []);
    assert_eq!(here.subscription(&other(), "s").await.unwrap(), None);
    assert_eq!(here.subscription(&org(), "\0").await.unwrap(), None);
    assert!(!here.delete_subscription(&other(), "s").await.unwrap());
    assert!(here.delete_subscription(&org(), "s").await.unwrap());
    assert!(!here.delete_subscription(&org(), "s").await.unwrap());
}

#[tokio::test]
async fn an_event_goes_to_the_enabled_subscriptions_that_want_it() {
    let here = Here::new().await;
    for row in [
        subscription("all", &[]),
        subscription("low", &["inventory.low_stock"]),
        subscription("two", &["x", "inventory.low_stock"]),
        Subscription { enabled: false, ..subscription("off", &[]) },
    ] {
        here.put_subscription(&org(), row).await.unwrap();
    }
    here.put_subscription(&other(), subscription("all", &[])).await.unwrap();
    add(&*here, &org(), "inventory.low_stock", 5).await;
    add(&*here, &org(), "inventory.updated", 6).await;
    add(&*here, &Org::new("third").unwrap(), "x", 5).await;
    let expected = [(5, "all"), (5, "low"), (5, "two"), (6, "all")];
    let expected = expected.map(|(micros, to)| (micros, to.to_owned()));
    assert_eq!(told(&*here, 6).await, expected);
    let (of, first) = due(&*here, 6).await.swap_remove(0);
    let whole = Delivery {
        id: first.id.clone(),
        subscription: "all".to_owned(),
        event: "inventory.low_stock".to_owned(),
        body: r#"{"z":"inventory.low_stock","a":"\u0000"}"#.to_owned(),
        state: DeliveryState::Pending,
        attempts: 0,
        next_at: at(5),
        last_result: None,
        created_at: at(5),
    };
    assert_eq!((of, first), (org(), whole.clone()));
    assert_eq!(here.delivery(&org(), &whole.id).await.unwrap(), Some(whole.clone()));
    assert_eq!(here.delivery(&other(), &whole.id).await.unwrap(), None);
}

#[tokio::test]
async fn deliveries_are_due_while_pending_and_their_subscription_enabled() {
    let here = Here::new().await;
    for org in [org(), other()] {
        here.put_subscription(&org, subscription("s", &[])).await.unwrap();
    }
    add(&*here, &org(), "x", 5).await;
    add(&*here, &org(), "x", 3).await;
    add(&*here, &other(), "x", 4).await;
    let instants = async |micros| -> Vec<i64> {
        told(&*here, micros).await.into_iter().map(|(created, _)| created).collect()
    };
    assert_eq!(instants(4).await, [3, 4]);
    assert_eq!(instants(5).await, [3, 4, 5]);
    let first = here.deliveries_due(at(5), 1).await.unwrap();
    assert_eq!((first.len(), &first[0].0), (1, &org()));

    let row = first[0].1.clone();
    let later = Delivery {
        attempts: 1,
        next_at: at(60),
        last_result: Some("503".to_owned()),
        ..row.clone()
    };
    here.put_delivery(&org(), later.clone()).await.unwrap();
    assert_eq!(here.delivery(&org(), &row.id).await.unwrap(), Some(later));
    assert_eq!(instants(5).await, [4, 5]);
    for state in [DeliveryState::Delivered, DeliveryState::Dead] {
        here.put_delivery(&org(), Delivery { state, ..row.clone() }).await.unwrap();
        assert_eq!(instants(99).await, [4, 5], "{state:?}");
    }
    here.put_delivery(&org(), row.clone()).await.unwrap();
    assert_eq!(instants(5).await.len(), 3, "a dead one can be replayed");

    let off = Subscription { enabled: false, ..subscription("s", &[]) };
    here.put_subscription(&org(), off).await.unwrap();
    assert_eq!(instants(99).await, [4]);
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_and_go_with_their_subscription() {
    let here = Here::new().await;
    for org in [org(), other()] {
        here.put_subscription(&org, subscription("s", &["x"])).await.unwrap();
        here.put_subscription(&org, subscription("t", &["y"])).await.unwrap();
        for (event, micros) in [("x", 1), ("x", 2), ("y", 3), ("x", 4)] {
            add(&*here, &org, event, micros).await;
        }
    }
    let list = async |org: &Org, before: Option<&str>, limit| {
        let page = here.deliveries(org, "s", before, limit).await.unwrap();
        let found = page.items.into_iter().map(|row| (row.created_at.micros(), row.id));
        let (instants, ids): (Vec<i64>, Vec<String>) = found.unzip();
        (instants, ids, page.more)
    };
    let (instants, ids, more) = list(&org(), None, 9).await;
    assert_eq!((instants, more), (vec![4, 2, 1], false));
    let (instants, _, more) = list(&org(), None, 2).await;
    assert_eq!((instants, more), (vec![4, 2], true));
    let (instants, _, more) = list(&org(), Some(&ids[1]), 2).await;
    assert_eq!((instants, more), (vec![1], false));

    let gone = here.delivery(&org(), &ids[2]).await.unwrap().unwrap();
    assert!(here.delete_subscription(&org(), "s").await.unwrap());
    here.put_delivery(&org(), gone).await.unwrap();
    assert_eq!(list(&org(), None, 9).await.0, [0; 0]);
    assert_eq!(list(&other(), None, 9).await.0, [4, 2, 1]);
    assert_eq!(told(&*here, 9).await.len(), 1 + 4, "that of t, and those of the other org");
}

/// Facts of the ledger are told with the commit that makes them.
#[tokio::test]
async fn what_the_ledger_does_is_told() {
    let here = Here::new().await;
    here.put_sku(&org(), "A", 9).await;
    here.put_subscription(&org(), subscription("s", &[])).await.unwrap();
    let mut counted = set("A", 4);
    counted.settings.low_stock_threshold = Some(Quantity::new(5));
    here.decide(&org(), Command::SetOnHand(counted)).await;
    here.decide(&org(), Command::Reserve(reserve(1, "A", 3))).await;
    here.decide(&other(), Command::SetOnHand(set("A", 1))).await;
    let of = |rows: &[(Org, Delivery)]| -> Vec<(String, serde_json::Value)> {
        let body = |row: &Delivery| serde_json::from_str(&row.body).unwrap();
        rows.iter().map(|(_, row)| (row.event.clone(), body(row))).collect()
    };
    let updated = |version: u64, quantity, reserved, kind, delta, reserved_delta, reason| {
        let body = json!({
            "sku": "A", "quantity": quantity, "reserved": reserved, "version": version,
            "kind": kind, "delta": delta, "reservedDelta": reserved_delta, "reason": reason,
        });
        ("inventory.updated".to_owned(), body)
    };
    let low = json!({ "sku": "A", "quantity": 4, "lowStockThreshold": 5 });
    let all = due(&*here, i64::MAX).await;
    assert_eq!(
        of(&all),
        [
            ("inventory.low_stock".to_owned(), low),
            updated(2, 4, 0, "count", -5, 0, Some("count")),
            updated(3, 4, 3, "reserve", 0, 3, None),
        ]
    );
    here.pass(901);
    here.sku(&org(), &crate::making::sku("A")).await.unwrap();
    let told = of(&due(&*here, i64::MAX).await[all.len()..]);
    let id = ReservationId(1).to_string();
    let expired = json!({ "reservationId": id, "orderId": "order-1" });
    assert_eq!(told[0], ("reservation.expired".to_owned(), expired));
    assert_eq!(told[1], updated(4, 4, 0, "expire", 0, -3, None));
}

/// No delivery is left of a subscription that one node removes while others add to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_goes_while_events_come_leaves_none() {
    let here = Here::new().await;
    let another = here.another().await;
    for _ in 0..20 {
        here.put_subscription(&org(), subscription("s", &[])).await.unwrap();
        add(&*here, &org(), "x", 1).await;
        let row = due(&*here, 9).await.swap_remove(0).1;
        let org = org();
        let (added, put, deleted) = tokio::join!(
            async { add(&*here, &org, "x", 2).await },
            here.put_delivery(&org, Delivery { state: DeliveryState::Delivered, ..row.clone() }),
            another.delete_subscription(&org, "s"),
        );
        let () = added;
        put.unwrap();
        assert!(deleted.unwrap());
        let left = here.deliveries(&org, "s", None, 9).await.unwrap().items;
        assert_eq!(left, []);
        assert_eq!(here.delivery(&org, &row.id).await.unwrap(), None);
    }
}
