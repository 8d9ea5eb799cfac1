use base64::Engine as _;
use hmac::Mac;
use serde_json::{Value, json};
use trueup_testkit::faults::{Chance, Down, Faults};
use trueup_testkit::limits::Rate;
use trueup_testkit::shopify::{
    ACCESS_TOKEN, CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, Settings, Simulator,
};
use trueup_testkit::{SeedItem, Shop, ShopError, SimClock, SimServer};

use crate::{client, endpoint, served};

const SET: &str = "mutation SetQuantities($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup { id createdAt reason referenceDocumentUri
      changes { name delta item { id } location { id } } }
    userErrors { code field message } } }";
const NODES: &str = "query LevelsByNodes($ids: [ID!]!, $location: ID!) { nodes(ids: $ids) {
    ... on InventoryItem { id sku tracked inventoryLevel(locationId: $location) { id updatedAt
      quantities(names: [\"available\", \"on_hand\", \"committed\", \"reserved\"]) {
        name quantity updatedAt } } } } }";

async fn ask(server: &SimServer, query: &str, variables: Value) -> Value {
    let url = format!("{}/admin/api/2026-07/graphql.json", server.url);
    let request = client().post(url).header("X-Shopify-Access-Token", ACCESS_TOKEN);
    let answer = request.json(&json!({"query": query, "variables": variables})).send().await;
    answer.unwrap().json().await.unwrap()
}

fn item(sim: &Simulator, sku: &str) -> String {
    sim.listing(sku).unwrap()["inventoryItemId"].as_str().unwrap().to_owned()
}

fn location(sim: &Simulator, sku: &str) -> String {
    sim.listing(sku).unwrap()["locationId"].as_str().unwrap().to_owned()
}

fn input(sim: &Simulator, wanted: &[(&str, i64, Value)]) -> Value {
    let quantities = wanted.iter().map(|(sku, quantity, from)| {
        json!({"inventoryItemId": item(sim, sku), "locationId": location(sim, sku),
               "quantity": quantity, "changeFromQuantity": from})
    });
    json!({"name": "available", "reason": "correction",
           "referenceDocumentUri": "gid://trueup/SyncJob/1",
           "quantities": quantities.collect::<Vec<_>>()})
}

async fn set(server: &SimServer, input: &Value, key: &str) -> Value {
    let answer = ask(server, SET, json!({"input": input, "key": key})).await;
    assert_eq!(answer["errors"], Value::Null, "{answer}");
    answer["data"]["inventorySetQuantities"].clone()
}

fn shop(items: &[(&str, i64)]) -> Simulator {
    let sim = Simulator::default();
    let items = items.iter().map(|(sku, quantity)| SeedItem::new(*sku, *quantity));
    sim.seed(items.collect()).unwrap();
    sim
}

#[tokio::test]
async fn a_set_with_the_right_old_value_is_applied_once_per_key() {
    let sim = shop(&[("A", 5), ("B", 7)]);
    let server = served(sim.clone()).await;
    let wanted = input(&sim, &[("A", 9, json!(5)), ("B", 0, json!(null))]);
    let first = set(&server, &wanted, "k1").await;
    assert_eq!(first["userErrors"], json!([]));
    assert_eq!(first["inventoryAdjustmentGroup"]["changes"].as_array().unwrap().len(), 4);
    assert_eq!((sim.quantity("A"), sim.quantity("B")), (Some(9), Some(0)));
    sim.sell("A", 1).unwrap();
    assert_eq!(set(&server, &wanted, "k1").await, first);
    assert_eq!(sim.quantity("A"), Some(8));
    let other = input(&sim, &[("A", 3, json!(null))]);
    let mismatch = set(&server, &other, "k1").await;
    assert_eq!(mismatch["userErrors"][0]["code"], "IDEMPOTENCY_KEY_PARAMETER_MISMATCH");
    let same = set(&server, &input(&sim, &[("A", 8, json!(8))]), "k2").await;
    assert_eq!(same, json!({"inventoryAdjustmentGroup": null, "userErrors": []}));
}

#[tokio::test]
async fn one_bad_element_fails_the_whole_call() {
    let sim = shop(&[("A", 5), ("B", 7)]);
    let server = served(sim.clone()).await;
    let check = async |change: fn(&mut Value), code: &str, field: Value| {
        let mut wanted = input(&sim, &[("B", 1, json!(7)), ("A", 9, json!(5))]);
        change(&mut wanted);
        let key = format!("{code} {field}");
        let answer = set(&server, &wanted, &key).await;
        assert_eq!(answer["inventoryAdjustmentGroup"], Value::Null);
        assert_eq!(answer["userErrors"][0]["code"], code, "{answer}");
        assert_eq!(answer["userErrors"][0]["field"], field, "{code}");
        assert_eq!((sim.quantity("A"), sim.quantity("B")), (Some(5), Some(7)), "{code}");
    };
    let path = |field: &str| json!(["input", "quantities", "1", field]);
    check(
        |input| input["quantities"][1]["changeFromQuantity"] = json!(4),
        "CHANGE_FROM_QUANTITY_STALE",
        path("changeFromQuantity"),
    )
    .await;
    check(
        |input| input["quantities"][1]["inventoryItemId"] = json!("gid://shopify/InventoryItem/1"),
        "INVALID_INVENTORY_ITEM",
        path("inventoryItemId"),
    )
    .await;
    check(
        |input| input["quantities"][1]["locationId"] = json!("gid://shopify/Location/1"),
        "INVALID_LOCATION",
        path("locationId"),
    )
    .await;
    check(
        |input| input["quantities"][1]["locationId"] = json!("gid://shopify/Location/70000000002"),
        "ITEM_NOT_STOCKED_AT_LOCATION",
        path("locationId"),
    )
    .await;
    check(
        |input| input["quantities"][1]["quantity"] = json!(1_000_000_001),
        "INVALID_QUANTITY_TOO_HIGH",
        path("quantity"),
    )
    .await;
    check(
        |input| input["quantities"][1] = input["quantities"][0].clone(),
        "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR",
        json!(["input", "quantities", "1"]),
    )
    .await;
    check(|input| input["reason"] = json!("because"), "INVALID_REASON", json!(["input", "reason"]))
        .await;
    check(|input| input["name"] = json!("reserved"), "INVALID_NAME", json!(["input", "name"]))
        .await;
    sim.faults().update(|faults| faults.poison = ["A".to_owned()].into());
    let wanted = input(&sim, &[("B", 1, json!(7)), ("A", 9, json!(5))]);
    let answer = set(&server, &wanted, "poison").await;
    assert_eq!(answer["userErrors"][0]["field"], path("inventoryItemId"));
    assert_eq!(sim.quantity("B"), Some(7));
}

#[tokio::test]
async fn what_graphql_itself_refuses_is_a_top_level_error() {
    let sim = shop(&[("A", 5)]);
    let server = served(sim.clone()).await;
    let code = async |query: &str, input: &Value| {
        let answer = ask(&server, query, json!({"input": input, "key": "k"})).await;
        answer["errors"][0]["extensions"]["code"].clone()
    };
    let good = input(&sim, &[("A", 9, json!(5))]);
    let plain = SET.replace("@idempotent(key: $key)", "");
    assert_eq!(code(&plain, &good).await, "BAD_REQUEST");
    let mut wanted = good.clone();
    wanted["quantities"][0].as_object_mut().unwrap().remove("changeFromQuantity");
    assert_eq!(code(SET, &wanted).await, "INVALID_FIELD_ARGUMENTS");
    let mut wanted = good.clone();
    wanted["quantities"][0]["compareQuantity"] = json!(5);
    assert_eq!(code(SET, &wanted).await, "INVALID_VARIABLE");
    let many: Vec<Value> = std::iter::repeat_n(good["quantities"][0].clone(), 251).collect();
    let mut wanted = good.clone();
    wanted["quantities"] = many.into();
    assert_eq!(code(SET, &wanted).await, "MAX_INPUT_SIZE_EXCEEDED");
    assert_eq!(code("query { nothing { id } }", &good).await, "undefinedField");
    assert_eq!(sim.quantity("A"), Some(5));
}

#[tokio::test]
async fn levels_are_read_by_node_and_by_page() {
    let items: Vec<SeedItem> = (0..600).map(|n| SeedItem::new(format!("S{n:03}"), n)).collect();
    let sim = Simulator::default();
    sim.seed(items).unwrap();
    let server = served(sim.clone()).await;
    sim.sell("S007", 2).unwrap();
    let ids = [item(&sim, "S007"), "gid://shopify/InventoryItem/9".to_owned()];
    let variables = json!({"ids": ids, "location": location(&sim, "S007")});
    let answer = ask(&server, NODES, variables).await;
    let level = &answer["data"]["nodes"][0]["inventoryLevel"]["quantities"];
    let quantities: Vec<_> =
        level.as_array().unwrap().iter().map(|q| q["quantity"].as_i64().unwrap()).collect();
    assert_eq!(quantities, [5, 7, 2, 0]);
    assert_eq!(answer["data"]["nodes"][1], Value::Null);
    assert!(answer["extensions"]["cost"]["throttleStatus"]["currentlyAvailable"].is_i64());

    let page = "query P($location: ID!, $after: String) { location(id: $location) {
      inventoryLevels(first: 250, after: $after) { pageInfo { hasNextPage endCursor }
      nodes { id item { id sku variants(first: 1) { nodes { legacyResourceId } } }
              quantities(names: [\"available\"]) { name quantity } } } } }";
    let (mut seen, mut after) = (0, Value::Null);
    loop {
        let variables = json!({"location": location(&sim, "S007"), "after": after});
        let answer = ask(&server, page, variables).await;
        let levels = &answer["data"]["location"]["inventoryLevels"];
        seen += levels["nodes"].as_array().unwrap().len();
        if levels["pageInfo"]["hasNextPage"] != json!(true) {
            break;
        }
        after = levels["pageInfo"]["endCursor"].clone();
    }
    assert_eq!(seen, 600);

    let variants = "query V($after: String, $query: String) { productVariants(first: 250,
      after: $after, query: $query) { pageInfo { hasNextPage endCursor }
      nodes { id sku inventoryItem { id tracked } } } }";
    let query = json!({"query": "sku:S001 OR sku:'S002' OR sku:nope"});
    let answer = ask(&server, variants, query).await;
    assert_eq!(answer["data"]["productVariants"]["nodes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_sale_is_told_signed_and_found_by_polling() {
    let sim = shop(&[("A", 2)]);
    let server = served(sim.clone()).await;
    let mut endpoint = endpoint(1).await;
    sim.set_webhook(&endpoint.url, "hush").unwrap();
    let order = sim.sell("A", 2).unwrap();
    let refused = sim.sell("A", 1);
    assert_eq!(refused, Err(ShopError::NotEnough { sku: "A".into(), shown: 0 }));
    let mut topics = Vec::new();
    for _ in 0..2 {
        let arrived = endpoint.next().await;
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"hush").unwrap();
        mac.update(&arrived.body);
        let signature = base64::engine::general_purpose::STANDARD
            .decode(arrived.header("X-Shopify-Hmac-SHA256"))
            .unwrap();
        mac.verify_slice(&signature).unwrap();
        let body = arrived.json();
        match arrived.header("X-Shopify-Topic") {
            "orders/create" => {
                assert_eq!(body["id"].to_string(), order.order_id);
                assert_eq!(body["line_items"][0]["sku"], "A");
                assert_eq!(body["line_items"][0]["quantity"], 2);
            }
            "inventory_levels/update" => assert_eq!(body["available"], 0),
            other => panic!("unexpected topic {other}"),
        }
        topics.push(arrived.header("X-Shopify-Topic").to_owned());
    }
    topics.sort_unstable();
    assert_eq!(topics, ["inventory_levels/update", "orders/create"]);
    sim.cancel(&order.order_id).unwrap();
    assert_eq!(sim.quantity("A"), Some(2));
    assert_eq!(sim.cancel(&order.order_id), Err(ShopError::OrderClosed(order.order_id.clone())));
    let orders = "query O($query: String!, $after: String) { orders(first: 50, after: $after,
      query: $query, sortKey: UPDATED_AT) { pageInfo { hasNextPage endCursor } nodes { id
      legacyResourceId updatedAt cancelledAt displayFinancialStatus lineItems(first: 50) { nodes {
      id sku quantity currentQuantity variant { inventoryItem { id } } } } } } }";
    let query = json!({"query": "updated_at:>='2020-01-01T00:00:00Z'"});
    let answer = ask(&server, orders, query).await;
    let found = &answer["data"]["orders"]["nodes"][0];
    assert_eq!(found["legacyResourceId"], order.order_id.as_str());
    assert!(found["cancelledAt"].is_string());
    assert_eq!(found["lineItems"]["nodes"][0]["currentQuantity"], 0);
    let later = json!({"query": "updated_at:>='2100-01-01T00:00:00Z'"});
    let answer = ask(&server, orders, later).await;
    assert_eq!(answer["data"]["orders"]["nodes"], json!([]));
}

#[tokio::test]
async fn a_subscription_made_through_the_api_is_told_its_topic_only() {
    let sim = shop(&[("A", 2)]);
    let server = served(sim.clone()).await;
    let mut endpoint = endpoint(0).await;
    let create = "mutation W($topic: WebhookSubscriptionTopic!, $sub: WebhookSubscriptionInput!) {
      webhookSubscriptionCreate(topic: $topic, webhookSubscription: $sub) {
        webhookSubscription { id topic uri } userErrors { field message } } }";
    let sub = json!({"topic": "ORDERS_CREATE", "sub": {"uri": endpoint.url, "format": "JSON"}});
    let made = ask(&server, create, sub.clone()).await;
    assert_eq!(made["data"]["webhookSubscriptionCreate"]["userErrors"], json!([]));
    let again = ask(&server, create, sub).await;
    assert!(again["data"]["webhookSubscriptionCreate"]["webhookSubscription"].is_null());
    sim.sell("A", 1).unwrap();
    sim.sell("A", 1).unwrap();
    for _ in 0..2 {
        assert_eq!(endpoint.next().await.header("X-Shopify-Topic"), "orders/create");
    }
    let delete = "mutation D($id: ID!) { webhookSubscriptionDelete(id: $id) {
      deletedWebhookSubscriptionId userErrors { field message } } }";
    let id = &made["data"]["webhookSubscriptionCreate"]["webhookSubscription"]["id"];
    for errors in [0, 1] {
        let gone = ask(&server, delete, json!({"id": id})).await;
        let gone = &gone["data"]["webhookSubscriptionDelete"]["userErrors"];
        assert_eq!(gone.as_array().unwrap().len(), errors);
    }
    // Only the fields that were asked for are sent.
    let fields = json!(["id", "line_items.quantity", "refunds.id"]);
    let sub = json!({"topic": "ORDERS_CANCELLED", "sub": {
        "uri": endpoint.url, "format": "JSON", "includeFields": fields}});
    ask(&server, create, sub).await;
    let order = sim.orders().remove(0).order_id;
    sim.cancel(&order).unwrap();
    let body = endpoint.next().await.json();
    let id: u64 = order.parse().unwrap();
    assert_eq!(body, json!({"id": id, "line_items": [{"quantity": 1}], "refunds": []}));
}

#[tokio::test]
async fn tokens_come_from_the_grant_and_end() {
    let clock = SimClock::manual("2026-11-23T00:00:00Z".parse().unwrap());
    let sim = Simulator::new(Settings { clock: clock.clone(), ..Settings::default() });
    let server = served(sim.clone()).await;
    let token_url = format!("{}/admin/oauth/access_token", server.url);
    let body = json!({"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
                      "grant_type": "client_credentials"});
    let answer: Value =
        client().post(&token_url).json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["expires_in"], 86_399);
    let token = answer["access_token"].as_str().unwrap().to_owned();
    let url = format!("{}/admin/api/2026-07/graphql.json", server.url);
    let status = async |token: &str| {
        let request = client().post(&url).header("X-Shopify-Access-Token", token);
        let body = json!({"query": "{ locations(first: 5) { nodes { id name } } }"});
        request.json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!((status(&token).await, status("wrong").await), (200, 401));
    clock.advance(std::time::Duration::from_secs(86_400));
    assert_eq!((status(&token).await, status(ACCESS_TOKEN).await), (401, 200));
    let body = json!({"client_id": CLIENT_ID, "client_secret": "no",
                      "grant_type": "client_credentials"});
    assert_eq!(client().post(&token_url).json(&body).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn the_cost_bucket_throttles_at_http_200() {
    let clock = SimClock::manual("2026-11-23T00:00:00Z".parse().unwrap());
    // Two sets, and another each second.
    let bucket = Rate { milli_per_second: 13_000, burst: 26 };
    let settings = Settings { bucket, clock: clock.clone(), ..Settings::default() };
    let sim = Simulator::new(settings);
    sim.seed(vec![SeedItem::new("A", 1)]).unwrap();
    let server = served(sim.clone()).await;
    for (n, code) in [Value::Null, Value::Null, json!("THROTTLED")].into_iter().enumerate() {
        let wanted = input(&sim, &[("A", 5 + i64::try_from(n).unwrap(), json!(null))]);
        let variables = json!({"input": wanted, "key": n.to_string()});
        let answer = ask(&server, SET, variables).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], code);
    }
    clock.advance(std::time::Duration::from_secs(1));
    let wanted = input(&sim, &[("A", 50, json!(6))]);
    assert_eq!(set(&server, &wanted, "later").await["userErrors"], json!([]));
}

#[tokio::test]
async fn faults_strike_as_told() {
    let sim = shop(&[("A", 5)]);
    let server = served(sim.clone()).await;
    let url = format!("{}/admin/api/2026-07/graphql.json", server.url);
    let send = async |quantity: i64, key: &str| {
        let wanted = input(&sim, &[("A", quantity, json!(null))]);
        let body = json!({"query": SET, "variables": {"input": wanted, "key": key}});
        let request = client().post(&url).header("X-Shopify-Access-Token", ACCESS_TOKEN);
        request.json(&body).send().await
    };
    sim.set_faults(Faults { dropped_after: Chance::next(1), ..Faults::default() });
    let dropped = send(6, "a").await;
    let unread = match dropped {
        Err(_) => true,
        Ok(answer) => answer.bytes().await.is_err(),
    };
    assert!(unread, "the answer must be lost");
    assert_eq!(sim.quantity("A"), Some(6), "but the write was applied");
    let retried: Value = send(6, "a").await.unwrap().json().await.unwrap();
    let payload = &retried["data"]["inventorySetQuantities"];
    assert_eq!(payload["userErrors"], json!([]));
    assert!(payload["inventoryAdjustmentGroup"].is_object(), "the stored result is replayed");

    sim.set_faults(Faults { lie: Chance::next(1), ..Faults::default() });
    assert_eq!(send(9, "b").await.unwrap().status(), 200);
    assert_eq!(sim.quantity("A"), Some(6));

    sim.set_faults(Faults { busy: Chance::next(1), ..Faults::default() });
    let busy: Value = send(9, "c").await.unwrap().json().await.unwrap();
    let code = &busy["data"]["inventorySetQuantities"]["userErrors"][0]["code"];
    assert_eq!(code, "IDEMPOTENCY_CONCURRENT_REQUEST");
    let fine: Value = send(9, "c").await.unwrap().json().await.unwrap();
    assert_eq!(fine["data"]["inventorySetQuantities"]["userErrors"], json!([]));

    sim.set_faults(Faults { server_error: Chance::next(1), ..Faults::default() });
    assert_eq!(send(1, "d").await.unwrap().status(), 500);
    sim.set_faults(Faults { unauthorized: Chance::next(1), ..Faults::default() });
    assert_eq!(send(1, "d").await.unwrap().status(), 401);
    sim.set_faults(Faults { throttled: Chance::next(1), ..Faults::default() });
    let throttled: Value = send(1, "d").await.unwrap().json().await.unwrap();
    assert_eq!(throttled["errors"][0]["extensions"]["code"], "THROTTLED");
    sim.set_faults(Faults { down: Some(Down::Unavailable), ..Faults::default() });
    assert_eq!(send(1, "d").await.unwrap().status(), 503);
    sim.set_faults(Faults { down: Some(Down::Refused), ..Faults::default() });
    let unread = match send(1, "d").await {
        Err(_) => true,
        Ok(answer) => answer.bytes().await.is_err(),
    };
    assert!(unread);
    assert_eq!(sim.quantity("A"), Some(9));
    let hits = sim.faults().hits();
    assert_eq!((hits.len(), hits.values().sum::<u64>()), (7, 8), "{hits:?}");
}

#[tokio::test]
async fn webhooks_are_lost_and_doubled_on_demand() {
    let sim = shop(&[("A", 9)]);
    let _server = served(sim.clone()).await;
    let mut endpoint = endpoint(0).await;
    sim.set_webhook(&endpoint.url, "hush").unwrap();
    sim.set_faults(Faults { webhook_lost: Chance::next(2), ..Faults::default() });
    sim.sell("A", 1).unwrap();
    sim.set_faults(Faults { webhook_duplicated: Chance::next(2), ..Faults::default() });
    sim.sell("A", 1).unwrap();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(endpoint.next().await.header("X-Shopify-Webhook-Id").to_owned());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2);
    assert!(sim.set_webhook("http://192.0.2.1/x", "s").is_err());
}

#[tokio::test]
async fn a_refresh_token_is_good_until_its_replacement_is_used() {
    let sim = shop(&[]);
    let server = served(sim.clone()).await;
    let refresh = async |token: &str| {
        let body = json!({
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "grant_type": "refresh_token", "refresh_token": token,
        });
        let url = format!("{}/admin/oauth/access_token", server.url);
        let answer = client().post(url).body(body.to_string()).send().await.unwrap();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        body["refresh_token"].as_str().map(str::to_owned).ok_or(body["error"].clone())
    };
    let first = refresh(REFRESH_TOKEN).await.unwrap();
    let second = refresh(REFRESH_TOKEN).await.unwrap();
    assert_ne!(first, second);
    refresh(&first).await.unwrap();
    assert_eq!(refresh(REFRESH_TOKEN).await, Err(json!("invalid_grant")));
    sim.revoke();
    assert_eq!(refresh(&second).await, Err(json!("invalid_grant")));
}

#[tokio::test]
async fn a_polled_order_names_its_refunds() {
    let sim = shop(&[("A", 5)]);
    let server = served(sim.clone()).await;
    let order = sim.sell("A", 3).unwrap();
    sim.refund(&order.order_id, 1, false).unwrap();
    let text = "query { orders(first: 5) { nodes { refunds(first: 5) { \
        refundLineItems(first: 5) { nodes { quantity restockType lineItem { id } } } } } } }";
    let data = ask(&server, text, json!({})).await["data"].clone();
    let line = &data["orders"]["nodes"][0]["refunds"][0]["refundLineItems"]["nodes"][0];
    assert_eq!((&line["quantity"], &line["restockType"]), (&json!(1), &json!("NO_RESTOCK")));
}

#[tokio::test]
async fn a_long_catalogue_is_read_by_id_and_not_by_cursor() {
    let sim = shop(&[("A", 1), ("B", 2), ("C", 3)]);
    let server = served(sim).await;
    let read = "query V($query: String, $after: String) { productVariants(first: 2, query: $query,
      after: $after) { pageInfo { hasNextPage } nodes { id sku } } }";
    let of = |answer: &Value| {
        let page = &answer["data"]["productVariants"];
        let nodes = page["nodes"].as_array().unwrap();
        let skus: Vec<String> =
            nodes.iter().map(|node| node["sku"].as_str().unwrap().to_owned()).collect();
        let last = nodes.last().unwrap()["id"].as_str().unwrap();
        let last = last.rsplit('/').next().unwrap().to_owned();
        (skus, last, page["pageInfo"]["hasNextPage"].clone())
    };
    let (skus, last, more) = of(&ask(&server, read, json!({})).await);
    assert_eq!((skus, more), (vec!["A".to_owned(), "B".to_owned()], json!(true)));
    let above = json!({"query": format!("id:>{last}")});
    let (skus, _, more) = of(&ask(&server, read, above).await);
    assert_eq!((skus, more), (vec!["C".to_owned()], json!(false)));
    let deep = ask(&server, read, json!({"after": "i25000"})).await;
    assert_eq!(deep["errors"][0]["extensions"]["code"], "BAD_REQUEST");
}

#[tokio::test]
async fn an_item_is_stocked_under_a_key_only() {
    let sim = shop(&[("A", 1)]);
    let server = served(sim.clone()).await;
    let item = sim.listing("A").unwrap()["inventoryItemId"].clone();
    let location =
        format!("gid://shopify/Location/{}", trueup_testkit::shopify::state::LOCATION_ID + 1);
    let activate = |directive: &str| {
        format!(
            "mutation A($item: ID!, $location: ID!) {{ inventoryActivate(inventoryItemId: $item,
              locationId: $location) {directive} {{ inventoryLevel {{ id }} userErrors {{ field
              message }} }} }}"
        )
    };
    let variables = json!({"item": item, "location": location});
    let bare = ask(&server, &activate(""), variables.clone()).await;
    assert_eq!(bare["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    let keyed = ask(&server, &activate("@idempotent(key: \"k\")"), variables).await;
    assert_eq!(keyed["data"]["inventoryActivate"]["userErrors"], json!([]));
}
