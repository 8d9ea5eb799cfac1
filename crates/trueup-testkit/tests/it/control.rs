use serde_json::{Value, json};
use trueup_testkit::{AnySimulator, SeedItem, Shop, amazon, ebay, shopify, spawn_all};

use crate::{any_port, client, served};

async fn call(method: &str, url: String, body: Value) -> (u16, Value) {
    let request = client().request(method.parse().unwrap(), url);
    let request = if body.is_null() { request } else { request.json(&body) };
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

#[tokio::test]
async fn all_three_are_driven_alike_over_http() {
    let sims: [AnySimulator; 3] = [
        shopify::Simulator::default().into(),
        amazon::Simulator::default().into(),
        ebay::Simulator::default().into(),
    ];
    let server = spawn_all(&sims, any_port()).await.unwrap();
    for sim in &sims {
        let base = format!("{}/_sim/{}", server.url, sim.vendor().as_str());
        let post =
            async |path: &str, body: Value| call("POST", format!("{base}{path}"), body).await;
        let seed = json!({"items": [{"sku": "A", "quantity": 3}, {"sku": "B", "quantity": 1}]});
        assert_eq!(post("/seed", seed).await, (200, json!({"seeded": 2})));
        let (status, order) = post("/sell", json!({"sku": "A", "quantity": 2})).await;
        assert_eq!(status, 200);
        assert_eq!(post("/sell", json!({"sku": "A", "quantity": 2})).await.0, 409);
        assert_eq!(post("/sell", json!({"sku": "Z", "quantity": 2})).await.0, 404);
        assert_eq!(post("/cancel", json!({"orderId": order["orderId"]})).await.0, 200);
        assert_eq!(post("/edit", json!({"sku": "B", "quantity": 8})).await.0, 200);
        let faults = json!({"seed": 7, "lie": {"perMille": 100}, "poison": ["B"]});
        assert_eq!(post("/faults", faults).await.1["faults"]["lie"]["perMille"], 100);
        assert_eq!(post("/faults", json!({"tpyo": 1})).await.0, 422);
        let hook = json!({"url": "http://192.0.2.1/hook", "secret": "s"});
        assert_eq!(post("/webhook", hook).await.0, 400);
        let (_, state) = call("GET", format!("{base}/state"), Value::Null).await;
        let shown: Vec<_> = state["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["quantity"].as_i64().unwrap())
            .collect();
        assert_eq!(shown, [3, 8]);
        let counters = &state["counters"];
        assert_eq!((&counters["sales"], &counters["refused"]), (&json!(1), &json!(1)));
        let (_, one) = call("GET", format!("{base}/state?sku=B"), Value::Null).await;
        assert_eq!(one["items"][0]["quantity"], 8);
        let (_, orders) = call("GET", format!("{base}/orders"), Value::Null).await;
        assert_eq!(orders["orders"][0]["status"], "cancelled");
        assert!(sim.channel_config(&server.url)["credentials"].is_object());
        assert!(sim.listing("A").unwrap().is_object());
    }
    server.shutdown().await;
}

#[tokio::test]
async fn requests_are_logged_without_secrets() {
    let sim = shopify::Simulator::default();
    let server = served(sim.clone()).await;
    let body = json!({"client_id": shopify::CLIENT_ID, "client_secret": shopify::CLIENT_SECRET,
                      "grant_type": "client_credentials"});
    call("POST", format!("{}/admin/oauth/access_token", server.url), body).await;
    let body = json!({"query": "{ shop { name } }"});
    let (status, _) =
        call("POST", format!("{}/admin/api/2026-07/graphql.json", server.url), body).await;
    assert_eq!(status, 401);
    let (_, log) = call("GET", format!("{}/_sim/log?after=0", server.url), Value::Null).await;
    assert_eq!(
        (log["requests"][0]["status"].as_u64(), log["requests"][0]["body"].as_str()),
        (Some(200), Some(""))
    );
    assert!(log["requests"][1]["body"].as_str().unwrap().contains("shop"));
    call("DELETE", format!("{}/_sim/log", server.url), Value::Null).await;
    assert!(sim.requests().is_empty());
}

#[tokio::test]
async fn a_hundred_thousand_listings_are_seeded() {
    let items: Vec<SeedItem> =
        (0..100_000).map(|n| SeedItem::new(format!("SKU-{n:06}"), 10)).collect();
    let sims: [AnySimulator; 3] = [
        shopify::Simulator::default().into(),
        amazon::Simulator::default().into(),
        ebay::Simulator::default().into(),
    ];
    for sim in sims {
        assert_eq!(sim.seed(items.clone()), Ok(100_000));
        assert_eq!(sim.quantity("SKU-099999"), Some(10));
    }
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let sim = shopify::Simulator::default();
    assert!(trueup_testkit::spawn(sim.clone(), ([0, 0, 0, 0], 0).into()).await.is_err());
    let twice: [AnySimulator; 2] = [sim.clone().into(), sim.into()];
    assert!(spawn_all(&twice, any_port()).await.is_err());
}
