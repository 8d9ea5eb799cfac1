//! What would change much of a channel waits for an operator: through the API, against a simulated
//! Shopify.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use trueup::auth::Scope;
use trueup_testkit::{AnySimulator, SeedItem, shopify, spawn};

use super::api::{Api, in_query};
use super::api_channels::Shop;

/// As many listings as it takes to ask.
const MANY: usize = 60;

fn skus() -> Vec<String> {
    (0..MANY).map(|at| format!("S{at:02}")).collect()
}

/// A channel whose listings all show 10, as they should.
pub(super) async fn stocked() -> (Api, Shop) {
    let api = Api::start().await;
    let simulator = AnySimulator::from(shopify::Simulator::new(shopify::Settings::default()));
    simulator.seed(skus().iter().map(|sku| SeedItem::new(sku, 1)).collect()).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = spawn(simulator.clone(), any).await.unwrap();
    let shop = Shop { simulator, server };
    count(&api, 10, "").await.is(200);
    let config = shop.config().to_string();
    api.call("POST", "/channels/shopify/enable", &config).await.is(200);
    api.call("POST", "/channels/shopify/mappings/discover", "{}").await.is(200);
    api.advance(1);
    let run = api.call("POST", "/inventory/sync/shopify", "").await.is(200);
    assert_eq!(run["status"], "completed", "{run}");
    api.settle().await;
    (api, shop)
}

/// Imports a count of all.
async fn count(api: &Api, units: u64, query: &str) -> super::api::Got {
    let lines: Vec<String> = skus().iter().map(|sku| format!("{sku},{units}\n")).collect();
    let csv = format!("sku,quantity\n{}", lines.concat());
    api.call("POST", &format!("/inventory/import{query}"), &csv).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_would_zero_a_channel_is_held_and_confirmed_or_cancelled() {
    let (api, shop) = stocked().await;
    count(&api, 0, "").await.is(200);
    let push = || api.call("POST", "/inventory/sync", "{}");
    let all = push().await.is(200);
    let held = &all["runs"][0];
    assert_eq!((&held["status"], &held["zeroes"]), (&json!("held"), &json!(60)), "{held}");
    assert!(held["error"].as_str().unwrap().contains("zero 60 of 60"), "{held}");
    assert_eq!(held["items"].as_array().unwrap().len(), MANY);
    assert_eq!(shop.simulator.quantity("S00"), Some(10));
    let listed = api.get("/sync/runs?status=held&channel=shopify").await.is(200);
    assert_eq!(listed["items"][0]["runId"], held["runId"], "{listed}");
    api.get("/sync/runs?status=lost").await.is_problem(400, "invalid_parameter");
    // Another org's run is not there, and who may not administer may not confirm.
    let fan_out = all["runId"].as_str().unwrap().to_owned();
    for verb in ["confirm", "cancel"] {
        let path = format!("/sales-channel/sync/runs/{fan_out}/{verb}");
        let got = api.of("other", &Scope::ALL, "POST", &path).await;
        got.is_problem(404, "run_not_found");
        let got = api.of("acme", &[Scope::InventoryWrite], "POST", &path).await;
        got.is_problem(403, "scope_missing");
    }
    assert_eq!(api.get(&format!("/sync/runs/{fan_out}")).await.is(200)["status"], "held");
    let ended = api.call("POST", &format!("/sync/runs/{fan_out}/cancel"), "").await.is(200);
    assert_eq!(ended["status"], "cancelled", "{ended}");
    let late = api.call("POST", &format!("/sync/runs/{fan_out}/confirm"), "").await;
    late.is_problem(409, "run_not_held");
    let all = push().await.is(200);
    let id = all["runs"][0]["runId"].as_str().unwrap();
    api.advance(1);
    let done = api.call("POST", &format!("/sync/runs/{id}/confirm"), "").await.is(200);
    assert_eq!((&done["status"], &done["pushed"]), (&json!("completed"), &json!(60)), "{done}");
    assert_eq!(shop.simulator.quantity("S59"), Some(0));
    // Undone, nothing is told: there is none left to show again.
    let undone = api.call("POST", &format!("/sync/runs/{id}/undo"), "").await.is(200);
    assert_eq!((&undone["operation"], &undone["undoes"]), (&json!("inventory_undo"), &json!(id)));
    assert_eq!(undone["items"][0]["reason"], "not_available", "{undone}");
    assert_eq!(shop.simulator.quantity("S59"), Some(0));
    count(&api, 10, "").await.is(200);
    api.advance(60);
    api.hear_orders("shopify").await;
    let undone = api.call("POST", &format!("/sync/runs/{id}/undo"), "").await.is(200);
    assert_eq!((&undone["status"], &undone["pushed"]), (&json!("completed"), &json!(60)));
    assert_eq!(shop.simulator.quantity("S59"), Some(10));
    let held = all["runs"][0]["runId"].as_str().unwrap();
    let path = format!("/sales-channel/sync/runs/{held}/undo");
    api.of("other", &Scope::ALL, "POST", &path).await.is_problem(404, "run_not_found");
    let never = api.call("POST", &format!("/sync/runs/{fan_out}/undo"), "").await;
    never.is_problem(409, "run_not_undoable");
    let history = api.get("/sync/history?operation=inventory_push&status=confirmed").await.is(200);
    assert_eq!(history["items"][0]["detail"]["by"], "tester", "{history}");
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_mappings_and_imports_that_would_zero_a_channel_are_refused_until_confirmed() {
    let (api, shop) = stocked().await;
    let refused = count(&api, 0, "?syncToChannels=true").await;
    let problem = refused.is_problem(409, "blast_radius");
    let impact = &problem["impact"];
    assert_eq!((&impact["listings"], &impact["zeroes"]), (&json!(60), &json!(60)), "{problem}");
    assert_eq!(problem["channelId"], "shopify");
    assert_eq!(impact["items"][0]["before"], 10);
    assert_eq!(api.on_hand("S00").await, 10, "nothing was changed");
    let mut config = shop.config();
    config["buffer"] = json!(10);
    let enable = "/channels/shopify/enable";
    api.call("POST", enable, &config.to_string()).await.is_problem(409, "blast_radius");
    assert_eq!(api.get("/channels/shopify").await.is(200)["buffer"], Value::Null);
    let listed = api.get("/channels/shopify/mappings?limit=100").await.is(200);
    let mappings: Vec<Value> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| json!({"sku": item["sku"], "listing": item["listing"], "buffer": 10}))
        .collect();
    let body = json!({ "mappings": mappings }).to_string();
    let put = "/channels/shopify/mappings";
    api.call("PUT", put, &body).await.is_problem(409, "blast_radius");
    // With a limit of its own the channel lets it through.
    let path = "/channels/shopify/blast-radius";
    let limits = api.get(path).await.is(200);
    let expected = json!({"zeroPercent": 20, "zeroNumber": null, "zeroesFree": 50,
        "changePercent": 80, "changeNumber": null, "changesFree": 1000});
    assert_eq!(limits, expected);
    let wrong = api.call("PUT", path, r#"{"zeroPercent":101}"#).await;
    wrong.is_problem(400, "invalid_percent");
    let set = api.call("PUT", path, r#"{"zeroPercent":100}"#).await.is(200);
    assert_eq!(set["zeroPercent"], 100);
    // What is read is as new as what was told last.
    api.advance(60);
    assert_eq!(api.call("PUT", put, &body).await.is(200)["mapped"], 60);
    api.call("PUT", path, "{}").await.is(200);
    api.settle().await;
    assert_eq!(shop.simulator.quantity("S00"), Some(0));
    let trail = api.get("/sync/history?operation=administration").await.is(200);
    assert_eq!(trail["items"][0]["detail"]["action"], "blast_radius_changed", "{trail}");
    let confirmed = api.call("POST", &format!("{enable}?confirm=true"), &config.to_string()).await;
    assert_eq!(confirmed.is(200)["buffer"], 10);
    count(&api, 0, "?syncToChannels=true&confirm=true").await.is(200);
    assert_eq!(api.on_hand("S00").await, 0);
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolved_conflict_is_opened_again() {
    let (api, shop) = stocked().await;
    let mut config = shop.config();
    config["conflictStrategy"] = json!("manual");
    api.call("POST", "/channels/shopify/enable", &config.to_string()).await.is(200);
    api.advance(60);
    api.settle().await;
    shop.simulator.set_quantity("S07", 4).unwrap();
    let pull = r#"{"skus":["S07"]}"#;
    api.call("POST", "/inventory/pull/shopify", pull).await.is(200);
    let open = api.get("/inventory/conflicts").await.is(200);
    let id = open["items"][0]["id"].as_str().unwrap().to_owned();
    let undo = format!("/inventory/conflicts/{id}/undo");
    api.call("POST", &undo, "").await.is_problem(409, "conflict_not_reopenable");
    let resolve = format!("/inventory/conflicts/{id}/resolve");
    api.call("POST", &resolve, r#"{"resolution":"channel"}"#).await.is(200);
    api.settle().await;
    assert_eq!(api.on_hand("S07").await, 4);
    let foreign = api.of("other", &Scope::ALL, "POST", &format!("/sales-channel{undo}")).await;
    foreign.is_problem(404, "conflict_not_found");
    let reader = api.of("acme", &[Scope::Read], "POST", &format!("/sales-channel{undo}")).await;
    reader.is_problem(403, "scope_missing");
    api.advance(60);
    let again = api.call("POST", &undo, r#"{"note":"counted again"}"#).await.is(200);
    assert_eq!((&again["carried"], &again["restored"]), (&json!(-6), &json!(6)), "{again}");
    assert_eq!((&again["reopens"], &again["status"]), (&json!(id), &json!("open")));
    assert_eq!((&again["whyLess"], api.on_hand("S07").await), (&Value::Null, 10));
    let lines = api.get("/inventory/S07/history").await.is(200);
    let line = &lines["items"][0];
    assert_eq!((&line["kind"], &line["reason"]), (&json!("adjust"), &json!("counted again")));
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sku_and_everything_are_paused_and_go_on() {
    let (api, shop) = stocked().await;
    let put = |sku: &'static str, units: u64| {
        let body = json!({ "quantity": units, "syncToChannels": true }).to_string();
        let api = &api;
        async move { api.call("PUT", &format!("/inventory/{sku}"), &body).await.is(200) }
    };
    api.call("POST", "/inventory/none/pause", "").await.is_problem(404, "sku_not_found");
    for path in ["/inventory/S01/pause", "/sync/pause"] {
        let path = format!("/sales-channel{path}");
        let got = api.of("acme", &[Scope::InventoryWrite], "POST", &path).await;
        got.is_problem(403, "scope_missing");
    }
    let paused = api.call("POST", "/inventory/S01/pause", r#"{"note":"count"}"#).await.is(200);
    assert_eq!((&paused["sku"], &paused["by"]), (&json!("S01"), &json!("tester")), "{paused}");
    put("S01", 0).await;
    put("S02", 0).await;
    api.settle().await;
    let shown = |sku: &str| shop.simulator.quantity(sku).unwrap();
    assert_eq!((shown("S01"), shown("S02")), (10, 0), "not even zero is told");
    let across = api.get("/inventory/S01/channels").await.is(200);
    assert_eq!(across["channels"]["shopify"]["status"], "paused", "{across}");
    let why = api.get("/inventory/S01/explain").await.is(200);
    assert_eq!((&why["paused"]["note"], &why["allPaused"]), (&json!("count"), &Value::Null));
    api.call("POST", "/sync/pause", "").await.is(200);
    put("S03", 0).await;
    api.settle().await;
    assert_eq!(shown("S03"), 10);
    let listed = api.get("/sync/paused?limit=1").await.is(200);
    assert_eq!(
        (&listed["org"]["by"], &listed["items"][0]["sku"]),
        (&json!("tester"), &json!("S01"))
    );
    let status = api.get("/channels/shopify/status").await.is(200);
    assert_eq!(
        (&status["status"], &status["health"]["code"]),
        (&json!("paused"), &json!("org_paused"))
    );
    let foreign = api.of("other", &Scope::ALL, "GET", "/sales-channel/sync/paused").await.is(200);
    assert_eq!((&foreign["org"], &foreign["items"]), (&Value::Null, &json!([])));
    let going = api.call("POST", "/sync/resume", "").await.is(200);
    assert_eq!(going, json!({ "wasPaused": true }));
    api.settle().await;
    assert_eq!((shown("S03"), shown("S01")), (0, 10), "what is paused by itself stays so");
    api.call("POST", "/inventory/S01/resume", "").await.is(200);
    api.settle().await;
    assert_eq!(shown("S01"), 0);
    let trail = api.get("/sync/history?operation=administration").await.is(200);
    let done: Vec<&str> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["detail"]["action"].as_str())
        .take(4)
        .collect();
    assert_eq!(done, ["sku_resumed", "all_resumed", "all_paused", "sku_paused"]);
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_change_is_said_before_it_is_done() {
    let (api, shop) = stocked().await;
    let post = |path: &'static str, body: Value| {
        let api = &api;
        async move { api.call("POST", path, &body.to_string()).await }
    };
    let what_if = "/channels/shopify/what-if";
    let would = post(what_if, json!({"buffer": 4})).await.is(200);
    let counts = ["listings", "changes", "zeroes", "lowers", "raises", "conflicts"];
    assert_eq!(counts.map(|name| would[name].clone()), [60, 60, 0, 60, 0, 0].map(Value::from));
    let page = post("/channels/shopify/what-if?limit=50", json!({"percent": 0})).await.is(200);
    assert_eq!((&page["zeroes"], page["items"].as_array().unwrap().len()), (&json!(60), 50));
    let next = page["nextCursor"].as_str().unwrap();
    let path = format!("{what_if}?limit=50&cursor={next}");
    let rest = api.call("POST", &path, r#"{"percent":0}"#).await.is(200);
    let last = &rest["items"][9];
    assert_eq!(
        (&last["sku"], &last["before"], &last["quantity"]),
        (&json!("S59"), &json!(10), &json!(0))
    );
    assert_eq!(rest["nextCursor"], Value::Null, "{rest}");
    post(what_if, json!({"percent": 101})).await.is_problem(400, "invalid_percent");
    post("/channels/none/what-if", json!({})).await.is_problem(404, "channel_not_found");
    let foreign = "/sales-channel/channels/shopify/what-if";
    let foreign = api.of("other", &Scope::ALL, "POST", foreign).await;
    foreign.is_problem(404, "channel_not_found");
    // A push, a mapping and an import.
    count(&api, 3, "").await.is(200);
    let run = post("/inventory/sync/shopify", json!({"dryRun": true})).await.is(200);
    assert_eq!(
        (&run["dryRun"], &run["lowers"], &run["pushed"]),
        (&json!(true), &json!(60), &json!(0))
    );
    let id = run["runId"].as_str().unwrap();
    let items = api.get(&format!("/sync/runs/{id}/items?limit=7")).await.is(200);
    assert_eq!(items["items"].as_array().unwrap().len(), 7);
    let next = items["nextCursor"].as_str().unwrap();
    let more = api.get(&format!("/sync/runs/{id}/items?limit=100&cursor={next}")).await.is(200);
    assert_eq!((more["items"].as_array().unwrap().len(), &more["nextCursor"]), (53, &Value::Null));
    let all = post("/inventory/sync", json!({"dryRun": true})).await.is(200);
    assert_eq!(all["runs"][0]["lowers"], 60, "{all}");
    let mapping = api.get("/channels/shopify/mappings/S00").await.is(200);
    let body = json!({"listing": mapping["listing"], "maxQuantity": 0}).to_string();
    let path = "/channels/shopify/mappings/S00?dryRun=true";
    let would = api.call("PUT", path, &body).await.is(200);
    assert_eq!(
        (&would["impact"]["zeroes"], &would["maxQuantity"]),
        (&json!(1), &json!(0)),
        "{would}"
    );
    let would = count(&api, 0, "?syncToChannels=true&dryRun=true").await.is(200);
    assert_eq!(would["impact"]["shopify"]["zeroes"], 60, "{would}");
    assert_eq!(shop.simulator.quantity("S00"), Some(10), "nothing was told");
    api.stop().await;
    shop.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_tried_on_what_has_happened() {
    let (api, shop) = stocked().await;
    let backtest = "/channels/shopify/backtest";
    let body = json!({"from": "2026-01-01T00:00:00Z", "to": "2025-01-01T00:00:00Z"}).to_string();
    api.call("POST", backtest, &body).await.is_problem(400, "invalid_window");
    // Nine of ten go elsewhere, and the channel sells two of those that it still shows.
    api.call("POST", "/sync/pause", "").await.is(200);
    api.call("PUT", "/inventory/S05", r#"{"quantity":1}"#).await.is(200);
    shop.simulator.sell("S05", 2).unwrap();
    api.advance(60);
    api.hear_orders("shopify").await;
    api.settle().await;
    assert_eq!(api.on_hand("S05").await, -1);
    api.advance(60);
    let tried = api.call("POST", backtest, r#"{"buffer":2,"skus":["S05","S06"]}"#).await.is(200);
    let counts = ["skus", "sold", "oversells", "oversoldUnits", "oversellsAvoided", "unitsAvoided"];
    assert_eq!(
        counts.map(|name| tried[name].clone()),
        [2, 2, 1, 1, 1, 1].map(Value::from),
        "{tried}"
    );
    let words = "1 of 1 oversells avoided, 2 units hidden, 0 sales' units missed";
    assert_eq!(tried["summary"], words, "{tried}");
    // What it should have shown a minute ago, and a moment ago.
    for (seconds, expected) in [(121, 10), (30, 0)] {
        let then = in_query(api.now_micros() - seconds * 1_000_000);
        let why = api.get(&format!("/inventory/S05/explain?at={then}")).await.is(200);
        let listing = &why["listings"][0];
        assert_eq!((&listing["expected"], &listing["status"]), (&json!(expected), &json!("past")));
        assert_eq!((&listing["quantity"], &listing["observed"]), (&Value::Null, &Value::Null));
        assert_eq!(
            listing["movementsSince"][0]["quantityAfter"],
            if expected == 0 { -1 } else { 10 }
        );
    }
    let none = api.call("POST", backtest, "").await.is(200);
    assert_eq!((&none["oversellsAvoided"], &none["unitsHidden"]), (&json!(0), &json!(0)));
    api.stop().await;
    shop.server.shutdown().await;
}
