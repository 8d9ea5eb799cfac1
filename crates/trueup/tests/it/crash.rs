//! `kill -9` under load: what was acknowledged is there, and nothing was ever oversold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use trueup_test_store::TestStore;

use crate::process::{Client, Server, place, run, token};

const BUYERS: u64 = 12;
const CYCLES: u64 = 20;
const STOCK: u64 = 3_000;

/// What a buyer was told, by reservation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Held,
    Sold,
    Released,
    /// A commit or release went out and no answer came.
    Unsure,
}

async fn buy(client: Client, orders: Arc<AtomicU64>) -> Vec<(String, Told)> {
    let mut told = Vec::new();
    loop {
        let order = orders.fetch_add(1, Ordering::SeqCst);
        let body = json!({
            "items": [{ "sku": "HOT", "quantity": 1 }],
            "orderId": format!("order-{order}"),
            "ttlSeconds": 604_800,
        });
        let Some((status, held)) = client.call("POST", "/inventory/reserve", Some(body)).await
        else {
            return told;
        };
        if status == 409 {
            assert_eq!(held["code"], "insufficient_stock");
            return told;
        }
        assert_eq!(status, 201, "{held}");
        let id = held["reservationId"].as_str().unwrap().to_owned();
        if order.is_multiple_of(5) {
            told.push((id, Told::Held));
            continue;
        }
        let (verb, then) = if order.is_multiple_of(3) {
            ("release", Told::Released)
        } else {
            ("commit", Told::Sold)
        };
        let path = format!("/inventory/reservation/{id}/{verb}");
        match client.call("POST", &path, None).await {
            Some((200, _)) => told.push((id, then)),
            Some(other) => panic!("{verb}: {other:?}"),
            None => {
                told.push((id, Told::Unsure));
                return told;
            }
        }
    }
}

async fn statuses(client: &Client) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/inventory/reservations?limit=1000{cursor}");
        let page = client.must("GET", &path, None).await;
        for item in page["items"].as_array().unwrap() {
            let text = |field: &str| item[field].as_str().unwrap().to_owned();
            found.insert(text("reservationId"), text("status"));
        }
        match &page["nextCursor"] {
            Value::String(next) => cursor = format!("&cursor={next}"),
            _ => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_buyers_of_a_hot_sku_lose_nothing_through_twenty_power_cuts() {
    let store = TestStore::new().await;
    let token = token("acme");
    let orders = Arc::new(AtomicU64::new(0));
    let mut told: Vec<(String, Told)> = Vec::new();
    for cycle in 0..=CYCLES {
        let server = Server::start_at(&store);
        let client = Client::new(&server.url, &token);
        if cycle == 0 {
            let body = json!({ "quantity": STOCK });
            client.must("PUT", "/inventory/HOT", Some(body)).await;
        }
        let kept = statuses(&client).await;
        for (id, told) in &told {
            let status = kept.get(id).map(String::as_str);
            let fits = match told {
                Told::Held => status == Some("active"),
                Told::Sold => status == Some("committed"),
                Told::Released => status == Some("released"),
                Told::Unsure => status.is_some(),
            };
            assert!(fits, "cycle {cycle}: {id} was {told:?} and is {status:?}");
        }
        let count = |wanted: &str| kept.values().filter(|status| *status == wanted).count();
        let sku = client.must("GET", "/inventory/HOT", None).await;
        let (sold, held) = (count("committed") as u64, count("active") as u64);
        assert_eq!(sku["quantity"], STOCK - sold, "cycle {cycle}");
        assert_eq!(sku["reserved"], held, "cycle {cycle}");
        assert!(sold + held <= STOCK, "cycle {cycle}: oversold");
        if cycle == CYCLES {
            assert!(server.terminate(), "it stops in order");
            break;
        }
        let buyers: Vec<_> =
            (0..BUYERS).map(|_| tokio::spawn(buy(client.clone(), orders.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(80 + cycle * 17 % 120)).await;
        server.kill();
        for buyer in buyers {
            told.extend(buyer.await.unwrap());
        }
    }
    assert!(told.len() as u64 > CYCLES * BUYERS, "the buyers were busy: {}", told.len());
    let [flag, place] = &place(&store);
    let verified = run(&["verify", flag, place, "--org", "acme"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
