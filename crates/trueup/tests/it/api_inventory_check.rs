//! eBay's Real-time Inventory Check through the API, against a simulated eBay.

use std::net::{Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use trueup_testkit::{SeedItem, Shop, ShopError, SimServer, ebay, spawn};

use super::api::Api;

const PATH: &str = "/upstream/inventory-check/acme/ebay";
const PASSWORD: &str = "0123456789abcdef";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn connected(api: &Api) -> (ebay::Simulator, SimServer) {
    let sim = ebay::Simulator::new(ebay::Settings::default());
    sim.seed(vec![SeedItem::new("A", 1), SeedItem::new("B", 2)]).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = spawn(sim.clone(), any).await.unwrap();
    let mut config = sim.channel_config(&server.url);
    config["buffer"] = json!(3);
    config["credentials"]["checkUser"] = json!("ebay");
    config["credentials"]["checkPassword"] = json!(PASSWORD);
    let enabled = api.call("POST", "/channels/ebay/enable", &config.to_string()).await;
    enabled.is(200);
    assert!(!enabled.text().contains(PASSWORD));
    let mapping = json!({"listing": {"sku": "A"}}).to_string();
    api.call("PUT", "/channels/ebay/mappings/A", &mapping).await.is(200);
    (sim, server)
}

async fn ask(api: &Api, authorization: &str, body: &Value) -> super::api::Got {
    let headers = [("authorization", authorization), ("content-type", "application/json")];
    api.raw("POST", PATH, &headers, body.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkout_is_answered_from_the_ledger() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    let (_sim, _server) = connected(&api).await;
    let good = basic("ebay", PASSWORD);
    let entry = |sku: &str, wanted: u64| {
        json!({"locationID": "SUNNYVALE-123", "SKU": sku, "fulfillmentType": "SHIP_TO_HOME",
               "requestedQuantity": wanted})
    };
    // The buffer is taken off as in what is published.
    let answer = ask(&api, &good, &entry("A", 7)).await.is(200);
    let at = 1_777_111_200;
    let wanted = json!({"isAvailable": true, "lastUpdated": at, "totalAvailableQuantity": 7});
    assert_eq!(answer, wanted);
    let answer = ask(&api, &good, &entry("A", 8)).await.is(200);
    assert_eq!(answer["isAvailable"], false);
    // A hold counts at once, and so does a count that no channel was told of.
    let hold = json!({"items": [{"sku": "A", "quantity": 5}], "orderId": "o-1"});
    api.call("POST", "/inventory/reserve", &hold.to_string()).await.is(201);
    let answer = ask(&api, &good, &json!({"sku": "A"})).await.is(200);
    assert_eq!(
        (&answer["isAvailable"], &answer["totalAvailableQuantity"]),
        (&true.into(), &2.into())
    );
    api.stock("A", 30).await;
    // Several at once, in their order; what is not mapped is not there, whatever is in stock.
    api.stock("B", 9).await;
    let body = json!([entry("nope", 1), entry("A", 22), entry("B", 1), entry("A", 23)]);
    let answer = ask(&api, &good, &body).await.is(200);
    let short: Vec<(&str, bool, u64)> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let total = one["totalAvailableQuantity"].as_u64().unwrap();
            (one["SKU"].as_str().unwrap(), one["isAvailable"].as_bool().unwrap(), total)
        })
        .collect();
    let wanted = [("nope", false, 0), ("A", true, 22), ("B", false, 0), ("A", false, 22)];
    assert_eq!(short, wanted);
    assert_eq!(ask(&api, &good, &json!([])).await.is(200), json!([]));
    let many = |count: usize| Value::Array(vec![entry("A", 1); count]);
    assert_eq!(ask(&api, &good, &many(1_000)).await.is(200).as_array().unwrap().len(), 1_000);
    ask(&api, &good, &many(1_001)).await.is_problem(400, "too_many_items");
    for body in [json!("A"), json!({}), json!({"SKU": "A", "requestedQuantity": -1}), json!([1])] {
        ask(&api, &good, &body).await.is_problem(400, "invalid_body");
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_is_let_in_by_password_or_token_and_by_nothing_else() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    let entry = json!({"SKU": "A"});
    let good = basic("ebay", PASSWORD);
    ask(&api, &good, &entry).await.is_problem(401, "check_refused");
    let (sim, server) = connected(&api).await;
    ask(&api, &good, &entry).await.is(200);
    for wrong in ["", "Basic", "Basic !", "Bearer x", "Digest y"] {
        ask(&api, wrong, &entry).await.is_problem(401, "check_refused");
    }
    for (user, password) in [("ebay", "0123456789abcdeF"), ("Ebay", PASSWORD), ("ebay", "")] {
        ask(&api, &basic(user, password), &entry).await.is_problem(401, "check_refused");
    }
    let grant = async |authorization: &str, form: &str| {
        let headers = [("authorization", authorization)];
        api.raw("POST", &format!("{PATH}/token"), &headers, form.to_owned()).await
    };
    let form = "grant_type=client_credentials";
    let granted = grant(&good, form).await.is(200);
    assert_eq!((&granted["token_type"], &granted["expires_in"]), (&"Bearer".into(), &3_600.into()));
    let in_form = format!("{form}&client_id=ebay&client_secret={PASSWORD}");
    grant("", &in_form).await.is(200);
    assert_eq!(grant(&basic("ebay", "x"), form).await.is(401)["error"], "invalid_client");
    assert_eq!(grant("", form).await.is(401)["error"], "invalid_client");
    let other = "grant_type=password";
    assert_eq!(grant(&good, other).await.is(400)["error"], "unsupported_grant_type");
    let bearer = format!("Bearer {}", granted["access_token"].as_str().unwrap());
    ask(&api, &bearer, &entry).await.is(200);
    let mut broken = bearer.clone();
    broken.pop();
    ask(&api, &broken, &entry).await.is_problem(401, "check_refused");
    // Good for an hour, and until the password changes.
    api.advance(3_599);
    ask(&api, &bearer, &entry).await.is(200);
    api.advance(1);
    ask(&api, &bearer, &entry).await.is_problem(401, "check_refused");
    let granted = grant(&good, form).await.is(200);
    let bearer = format!("Bearer {}", granted["access_token"].as_str().unwrap());
    let mut config = sim.channel_config(&server.url);
    config["credentials"]["checkUser"] = json!("ebay");
    config["credentials"]["checkPassword"] = json!("fedcba9876543210");
    api.call("POST", "/channels/ebay/enable", &config.to_string()).await.is(200);
    ask(&api, &bearer, &entry).await.is_problem(401, "check_refused");
    ask(&api, &good, &entry).await.is_problem(401, "check_refused");
    ask(&api, &basic("ebay", "fedcba9876543210"), &entry).await.is(200);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkout_that_asks_does_not_sell_what_is_sold_elsewhere() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    let (sim, _server) = connected(&api).await;
    // What the new mapping owes is told; nothing after it is.
    api.settle().await;
    sim.set_quantity("A", 7).unwrap();
    let check = ebay::Check {
        url: format!("{}{PATH}", api.listen().await),
        user: "ebay".to_owned(),
        password: PASSWORD.to_owned(),
    };
    assert!(sim.check_out(&check, "A", 2).await.is_ok());
    // Seven of ten were sold at the till a moment ago.
    api.stock("A", 3).await;
    let refused = sim.check_out(&check, "A", 2).await;
    assert_eq!(refused, Err(ShopError::NotEnough { sku: "A".to_owned(), shown: 0 }));
    // Without an answer the checkout goes on.
    let deaf = ebay::Check { password: "another".to_owned(), ..check };
    assert!(sim.check_out(&deaf, "A", 1).await.is_ok());
    api.stop().await;
}
