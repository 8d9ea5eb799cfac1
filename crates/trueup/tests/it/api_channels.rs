//! Channels through the API: connecting, mapping, pushing, pulling and looking, against a
//! simulated Shopify.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use trueup_testkit::{AnySimulator, SeedItem, SimServer, shopify, spawn};

use super::api::Api;

struct Shop {
    simulator: AnySimulator,
    server: SimServer,
}

impl Shop {
    async fn open() -> Self {
        let simulator = AnySimulator::from(shopify::Simulator::new(shopify::Settings::default()));
        simulator.seed(vec![SeedItem::new("A", 1), SeedItem::new("B", 2)]).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(simulator.clone(), any).await.unwrap();
        Self { simulator, server }
    }

    fn config(&self) -> Value {
        let mut config = self.simulator.channel_config(&self.server.url);
        config["syncInventory"] = json!(true);
        config
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_connected_mapped_pushed_and_looked_at() {
    let (api, shop) = (Api::start().await, Shop::open().await);
    api.stock("A", 10).await;
    let config = shop.config();
    let post = |path: &'static str, body: Value| {
        let api = &api;
        async move { api.call("POST", path, &body.to_string()).await }
    };
    let mut wrong = config.clone();
    wrong["credentials"] = json!({"accessToken": "wrong"});
    let refused = post("/channels/shopify/enable", wrong).await;
    refused.is_problem(400, "channel_credentials_refused");
    let missing = json!({"syncInventory": true, "endpoint": shop.server.url});
    let refused = post("/channels/shopify/enable", missing).await;
    assert!(!refused.is_problem(400, "invalid_settings")["errors"][0]["pointer"].is_null());
    let enabled = post("/channels/shopify/enable", config.clone()).await;
    let view = enabled.is(200);
    assert_eq!((&view["channelId"], &view["kind"]), (&json!("shopify"), &json!("shopify")));
    for secret in config["credentials"].as_object().unwrap().values() {
        assert!(!enabled.text().contains(secret.as_str().unwrap()));
    }
    let discover = "/channels/shopify/mappings/discover";
    let found = post(discover, json!({"dryRun": true})).await.is(200);
    assert_eq!((&found["mapped"], &found["dryRun"]), (&json!(0), &json!(true)));
    let found = post(discover, json!({})).await.is(200);
    assert_eq!(found["mapped"], 1, "{found}");
    let mapping = api.get("/channels/shopify/mappings/A").await.is(200);
    assert_eq!(mapping["listings"].as_array().unwrap().len(), 1);
    api.get("/channels/shopify/mappings/B").await.is_problem(404, "mapping_not_found");
    // With a buffer it is told less; the rest of the mapping stays.
    let body = json!({"listing": mapping["listing"], "buffer": 3}).to_string();
    let put = api.call("PUT", "/channels/shopify/mappings/A", &body).await.is(200);
    assert_eq!(put["buffer"], 3);
    let bad = json!({"listing": {"nonsense": "1"}}).to_string();
    let bad = api.call("PUT", "/channels/shopify/mappings/A", &bad).await;
    bad.is_problem(400, "invalid_mapping");
    api.advance(1);
    let run = post("/inventory/sync/shopify", json!({"items": [{"sku": "A"}, {"sku": "Z"}]})).await;
    let run = run.is(200);
    assert_eq!((&run["operation"], &run["total"]), (&json!("inventory_push"), &json!(2)), "{run}");
    assert_eq!(run["warnings"][0]["code"], "mapping_missing", "{run}");
    let path = format!("/sync/runs/{}", run["runId"].as_str().unwrap());
    assert_eq!(api.get(&path).await.is(200), run);
    assert_eq!((&run["status"], &run["pushed"]), (&json!("completed"), &json!(1)), "{run}");
    let across = api.get("/inventory/A/channels").await.is(200);
    let cell = &across["channels"]["shopify"];
    let numbers = (&across["master"], &cell["quantity"], &cell["expected"], &cell["status"]);
    assert_eq!(numbers, (&json!(10), &json!(7), &json!(7), &json!("ok")), "{across}");
    let explained = api.get("/inventory/A/explain?channel=shopify").await.is(200);
    let terms = &explained["listings"][0]["terms"];
    assert_eq!((&terms["available"], &terms["published"]), (&json!(10), &json!(7)));
    let put = api.call("PUT", "/inventory/A", r#"{"quantity":20,"syncToChannels":true}"#).await;
    let path = format!("/sync/runs/{}", put.is(200)["sync"]["runId"].as_str().unwrap());
    let fan_out = api.get(&path).await.is(200);
    assert_eq!(fan_out["runs"][0]["channelId"], "shopify", "{fan_out}");
    let dry = post("/inventory/pull/shopify", json!({"skus": ["A"], "dryRun": true})).await;
    assert_eq!(dry.is(200)["operation"], "inventory_pull");
    let all = post("/inventory/sync", json!({})).await.is(200);
    assert_eq!(all["runs"].as_array().unwrap().len(), 1);
    let history = api.get("/sync/history?operation=mapping_missing&sku=Z").await.is(200);
    assert_eq!(history["items"].as_array().unwrap().len(), 1, "{history}");
    let status = api.get("/channels/shopify/status").await.is(200);
    assert_eq!((&status["status"], &status["connected"]), (&json!("ok"), &json!(true)));
    post("/channels/shopify/disable", json!({})).await.is(200);
    let all = post("/inventory/sync", json!({})).await.is(200);
    assert_eq!(all["skipped"][0]["code"], "channel_paused");
    post("/channels/shopify/resume", json!({})).await.is(200);
    assert_eq!(api.get("/inventory/drift").await.is(200)["items"], json!([]));
    assert_eq!(api.get("/inventory/conflicts").await.is(200)["items"], json!([]));
    let unsigned = api.raw("POST", "/upstream/webhooks/acme/shopify", &[], "{}").await;
    assert_eq!(unsigned.status.as_u16(), 401, "{}", unsigned.text());
    let csv = "sku,inventoryItemId\nA,\nB\n";
    let imported = api.call("POST", "/channels/shopify/mappings/import", csv).await.is(200);
    assert_eq!((&imported["mapped"], &imported["failed"]), (&json!(0), &json!(2)), "{imported}");
    api.call("DELETE", "/channels/shopify/mappings/A", "").await.is(204);
    api.call("DELETE", "/channels/shopify", "").await.is(204);
    api.get("/channels/shopify").await.is_problem(404, "channel_not_found");
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_before_its_mapping_is_listed_and_booked_when_it_is_mapped() {
    let (api, shop) = (Api::start().await, Shop::open().await);
    api.stock("A", 10).await;
    let mut config = shop.config();
    config["restockPolicy"] = json!("shredder");
    let enable = "/channels/shopify/enable";
    let refused = api.call("POST", enable, &config.to_string()).await;
    assert_eq!(refused.is_problem(400, "invalid_value")["errors"][0]["pointer"], "/restockPolicy");
    config["restockPolicy"] = json!("quarantine");
    let enabled = api.call("POST", enable, &config.to_string()).await.is(200);
    assert_eq!(enabled["restockPolicy"], "quarantine");
    let orders = "/channels/shopify/orders";
    api.get(&format!("{orders}?status=lost")).await.is_problem(400, "invalid_parameter");
    api.get("/channels/none/orders").await.is_problem(404, "channel_not_found");
    shop.simulator.sell("B", 2).unwrap();
    api.call("POST", "/inventory/pull/shopify", "").await.is(200);
    let listed = api.get(orders).await.is(200);
    let line = &listed["items"][0];
    assert_eq!((&line["status"], &line["quantity"]), (&json!("unmapped"), &json!(2)), "{listed}");
    assert_eq!((&line["sku"], &listed["nextCursor"]), (&json!("B"), &Value::Null), "{listed}");
    api.stock("B2", 5).await;
    let found =
        api.call("POST", "/channels/shopify/mappings/discover", r#"{"dryRun":true}"#).await.is(200);
    let items = found["items"].as_array().unwrap();
    let b = items.iter().find(|item| item["channelSku"] == "B").unwrap();
    let mapping = json!({ "listing": b["listing"] }).to_string();
    api.call("PUT", "/channels/shopify/mappings/B2", &mapping).await.is(200);
    assert_eq!(api.get("/inventory/B2").await.is(200)["quantity"], 3);
    assert_eq!(api.get(orders).await.is(200)["items"], json!([]));
    api.stop().await;
    shop.server.shutdown().await;
}
