//! Channels through the API: connecting, mapping, pushing, pulling and looking, against a
//! simulated Shopify.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use trueup_testkit::{AnySimulator, SeedItem, SimServer, shopify, spawn};

use super::api::Api;

pub(super) struct Shop {
    pub(super) simulator: AnySimulator,
    pub(super) server: SimServer,
}

impl Shop {
    async fn open() -> Self {
        let simulator = AnySimulator::from(shopify::Simulator::new(shopify::Settings::default()));
        simulator.seed(vec![SeedItem::new("A", 1), SeedItem::new("B", 2)]).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(simulator.clone(), any).await.unwrap();
        Self { simulator, server }
    }

    pub(super) fn config(&self) -> Value {
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
    // A poll that began before the sale must not count as one after it: this clock stands still.
    api.advance(1);
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

/// Connects a shop of A, B and two that are not ours, with a catalogue that was read dryly.
async fn looked_at() -> (Api, Shop) {
    let (api, shop) = (Api::start().await, Shop::open().await);
    shop.simulator.seed(vec![SeedItem::new("c 1", 3), SeedItem::new("THEIRS", 4)]).unwrap();
    for of in ["A", "B", "C-1", "ONLY-OURS"] {
        api.stock(of, 10).await;
    }
    let enable = "/channels/shopify/enable";
    api.call("POST", enable, &shop.config().to_string()).await.is(200);
    (api, shop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_channel_has_and_lacks_is_listed() {
    let (api, shop) = looked_at().await;
    let listings = "/channels/shopify/listings";
    api.get("/channels/none/listings").await.is_problem(404, "channel_not_found");
    for bad in ["status=lost", "format=xml", "format=csv&limit=2", "cursor=x"] {
        assert_eq!(api.get(&format!("{listings}?{bad}")).await.status.as_u16(), 400, "{bad}");
    }
    assert_eq!(api.get(listings).await.is(200)["items"], json!([]));
    let discover = "/channels/shopify/mappings/discover";
    let now = [("prefer", "wait=0")];
    let begun = api.with("POST", discover, &now, r#"{"dryRun":true}"#.to_owned()).await;
    let (status, place) = (begun.status.as_u16(), begun.header("location").map(str::to_owned));
    let run = format!("/sync/runs/{}", begun.is(status)["runId"].as_str().unwrap());
    // It may have ended all the same.
    let expected = (status == 202).then(|| format!("/sales-channel{run}"));
    assert_eq!((matches!(status, 200 | 202), place), (true, expected));
    let found = api.call("POST", discover, r#"{"dryRun":true}"#).await.is(200);
    let counted = api.get(&run).await.is(200);
    let numbers = (&counted["operation"], &counted["listed"], &counted["pushed"]);
    assert_eq!(numbers, (&json!("inventory_discovery"), &json!(4), &Value::Null), "{counted}");
    let near = found["items"].as_array().unwrap();
    let near = near.iter().find(|item| item["channelSku"] == "c 1").unwrap();
    assert_eq!((&near["status"], &near["suggestion"]), (&json!("near_miss"), &json!("C-1")));
    assert_eq!(found["unlisted"], json!(["C-1", "ONLY-OURS"]));
    let skus = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        let mut skus: Vec<String> =
            items.iter().map(|item| item["channelSku"].as_str().unwrap().to_owned()).collect();
        skus.sort();
        skus
    };
    let unmapped = api.get(&format!("{listings}?status=unmapped")).await.is(200);
    assert_eq!(skus(&unmapped), ["A", "B", "THEIRS", "c 1"]);
    api.call("POST", discover, "").await.is(200);
    let table: [(&str, &[&str]); 5] = [
        ("status=mapped", &["A", "B"]),
        ("status=near_miss", &["c 1"]),
        ("status=unknown_sku", &["THEIRS"]),
        ("search=heir", &["THEIRS"]),
        ("status=duplicate", &[]),
    ];
    for (query, expected) in table {
        let page = api.get(&format!("{listings}?{query}")).await.is(200);
        assert_eq!(skus(&page), expected, "{query}: {page}");
        assert!(page["items"].as_array().unwrap().iter().all(|item| item["seenAt"].is_string()));
    }
    let mut paged = Vec::new();
    let mut next = String::new();
    for _ in 0..4 {
        let page = api.get(&format!("{listings}?limit=1{next}")).await.is(200);
        paged.extend(skus(&page));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        next = format!("&cursor={cursor}");
    }
    paged.sort();
    assert_eq!(paged, ["A", "B", "THEIRS", "c 1"]);
    // Mapped by hand it is mapped at once, and its SKU is no longer unlisted.
    let body = json!({ "listing": near["listing"] }).to_string();
    api.call("PUT", "/channels/shopify/mappings/C-1", &body).await.is(200);
    let page = api.get(&format!("{listings}?status=mapped&search=c%201")).await.is(200);
    assert_eq!(page["items"][0]["sku"], "C-1", "{page}");
    let unlisted = api.get("/inventory?channel=shopify&unlisted=true").await.is(200);
    let names: Vec<&Value> =
        unlisted["items"].as_array().unwrap().iter().map(|item| &item["sku"]).collect();
    assert_eq!(names, ["ONLY-OURS"]);
    api.get("/inventory?unlisted=true").await.is_problem(400, "invalid_parameter");
    api.get("/inventory?channel=none&unlisted=true").await.is_problem(404, "channel_not_found");
    let history = api.get("/sync/history?operation=inventory_discovery").await.is(200);
    assert!(history["items"].as_array().unwrap().len() >= 2, "{history}");
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mappings_go_out_as_csv_and_come_back_unchanged() {
    let (api, shop) = looked_at().await;
    let import = "/channels/shopify/mappings/import";
    api.call("POST", "/channels/shopify/mappings/discover", "").await.is(200);
    let known = api.get("/channels/shopify/mappings/A").await.is(200);
    let full = json!({
        "listing": known["listing"], "buffer": 2, "percent": 80, "maxQuantity": 50,
        "zeroBelow": 3, "unitsPerListing": 2, "locationIds": ["main", "a;b, \"c\""],
        "conflictStrategy": "manual", "fulfilledBy": "merchant", "enabled": false,
    });
    api.call("PUT", "/channels/shopify/mappings/A", &full.to_string()).await.is(200);
    // Their status is another until they have been read.
    api.call("POST", "/inventory/pull/shopify", "").await.is(200);
    api.settle().await;
    let mappings = api.get("/channels/shopify/mappings").await.is(200);
    let exported = api.get("/channels/shopify/mappings/export").await;
    assert_eq!(exported.status.as_u16(), 200);
    let exported = exported.text();
    assert_eq!(exported.lines().count(), 3, "{exported}");
    let imported = api.call("POST", import, &exported).await.is(200);
    assert_eq!((&imported["mapped"], &imported["failed"]), (&json!(2), &json!(0)), "{imported}");
    api.settle().await;
    assert_eq!(api.get("/channels/shopify/mappings").await.is(200), mappings);
    // Into a channel without mappings it makes them all.
    for of in ["A", "B"] {
        api.call("DELETE", &format!("/channels/shopify/mappings/{of}"), "").await.is(204);
    }
    api.call("POST", import, &exported).await.is(200);
    let again = api.get("/channels/shopify/mappings").await.is(200);
    let settings = |page: &Value| {
        let mut items = page["items"].as_array().unwrap().clone();
        items.iter_mut().for_each(|item| item["status"] = Value::Null);
        items
    };
    assert_eq!(settings(&again), settings(&mappings));
    // The catalogue's file keeps what is mapped; what somebody fills in is mapped.
    let file = api.get("/channels/shopify/listings?format=csv").await.text();
    let edited: Vec<String> = file
        .lines()
        .map(|line| if line.contains("c 1") { format!("C-1{line}") } else { line.to_owned() })
        .collect();
    let edited = edited.join("\n");
    let dry = api.call("POST", &format!("{import}?dryRun=true"), &edited).await.is(200);
    let numbers =
        |done: &Value| ["mapped", "failed", "skipped"].map(|name| done[name].as_u64().unwrap());
    assert_eq!(numbers(&dry), [3, 0, 1], "{dry}");
    api.get("/channels/shopify/mappings/C-1").await.is_problem(404, "mapping_not_found");
    let real = api.call("POST", import, &edited).await.is(200);
    assert_eq!(numbers(&real), [3, 0, 1], "{real}");
    assert_eq!(
        settings(&api.get("/channels/shopify/mappings").await.is(200))[0],
        settings(&mappings)[0]
    );
    api.get("/channels/shopify/mappings/C-1").await.is(200);
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_checks_mappings_as_the_real_one_does_and_keeps_nothing() {
    let (api, shop) = looked_at().await;
    let found =
        api.call("POST", "/channels/shopify/mappings/discover", r#"{"dryRun":true}"#).await.is(200);
    let listing = |of: &str| {
        let items = found["items"].as_array().unwrap();
        items.iter().find(|item| item["channelSku"] == of).unwrap()["listing"].clone()
    };
    let (a, b) = (listing("A"), listing("B"));
    let all = "/channels/shopify/mappings";
    let twice = json!({"mappings": [{"sku": "A", "listing": a}, {"sku": "B", "listing": a}]});
    for query in ["", "?dryRun=true"] {
        let refused = api.call("PUT", &format!("{all}{query}"), &twice.to_string()).await;
        let problem = refused.is_problem(400, "invalid_mapping");
        assert_eq!(problem["errors"][0]["pointer"], "/mappings/1/listing/listing", "{problem}");
    }
    let good = json!({"mappings": [{"sku": "A", "listing": a}, {"sku": "B", "listing": b}]});
    let dry = api.call("PUT", &format!("{all}?dryRun=true"), &good.to_string()).await.is(200);
    assert_eq!((&dry["mapped"], &dry["dryRun"]), (&json!(2), &json!(true)));
    let one = json!({"listings": [a, {"listing": a}]}).to_string();
    let refused = api.call("PUT", &format!("{all}/A"), &one).await;
    let problem = refused.is_problem(400, "invalid_mapping");
    assert_eq!(problem["errors"][0]["pointer"], "/listings/1/listing", "{problem}");
    let one = json!({"listings": [a, b]}).to_string();
    let dry = api.call("PUT", &format!("{all}/A?dryRun=true"), &one).await.is(200);
    assert_eq!(dry["listings"].as_array().unwrap().len(), 2);
    let none = api.call("PUT", &format!("{all}/A"), r#"{"listings":[]}"#).await;
    assert_eq!(none.is_problem(400, "no_items")["errors"][0]["pointer"], "/listings");
    let csv = "sku,inventoryItemId\nA,nonsense\n";
    let dry = api.call("POST", &format!("{all}/import?dryRun=true"), csv).await.is(200);
    assert_eq!((&dry["mapped"], &dry["failed"]), (&json!(0), &json!(1)), "{dry}");
    assert_eq!(dry["errors"][0]["code"], "invalid_mapping", "{dry}");
    assert_eq!(api.get(all).await.is(200)["items"], json!([]));
    // One listing fewer leaves what is known of the other.
    api.call("PUT", &format!("{all}/A"), &one).await.is(200);
    let kept = api.call("PUT", &format!("{all}/A"), &json!({ "listing": b }).to_string()).await;
    assert_eq!(kept.is(200)["listings"].as_array().unwrap().len(), 1);
    let left = api.get(&format!("{all}/A")).await.is(200);
    assert_eq!(left["listings"].as_array().unwrap().len(), 1, "{left}");
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_is_told_elsewhere_is_shown_as_shared() {
    let (api, shop) = (Api::start().await, Shop::open().await);
    api.stock("A", 10).await;
    let mut config = shop.config();
    config["kind"] = json!("shopify");
    for id in ["one", "two"] {
        api.call("POST", &format!("/channels/{id}/enable"), &config.to_string()).await.is(200);
        api.call("POST", &format!("/channels/{id}/mappings/discover"), "").await.is(200);
    }
    let across = api.get("/inventory/A/channels").await.is(200);
    let (one, two) = (&across["channels"]["one"], &across["channels"]["two"]);
    assert_eq!((&two["status"], &two["expected"]), (&json!("shared"), &Value::Null), "{across}");
    assert_eq!(two["sharedWith"]["channelId"], "one", "{across}");
    assert_eq!(one["sharedWith"], Value::Null);
    let explained = api.get("/inventory/A/explain?channel=two").await.is(200);
    let told = &explained["listings"][0]["sharedWith"];
    assert_eq!((&told["channelId"], told["key"].is_string()), (&json!("one"), true), "{explained}");
    let listed = api.get("/channels/two/mappings").await.is(200);
    assert_eq!(listed["items"][0]["status"], "shared", "{listed}");
    let run = api.call("POST", "/inventory/sync/two", "").await.is(200);
    assert_eq!((&run["pushed"], &run["skipped"]), (&json!(0), &json!(1)), "{run}");
    api.call("POST", "/channels/one/disable", "").await.is(200);
    let across = api.get("/inventory/A/channels").await.is(200);
    assert_eq!(across["channels"]["two"]["sharedWith"], Value::Null, "{across}");
    assert_eq!(across["channels"]["one"]["sharedWith"]["channelId"], "two", "{across}");
    api.stop().await;
    shop.server.shutdown().await;
}
