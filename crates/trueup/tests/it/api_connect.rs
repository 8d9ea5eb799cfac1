//! Letting connections in at the vendors' own pages, through the API and against simulators.

use std::net::{Ipv4Addr, SocketAddr};

use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use trueup::auth::Scope;
use trueup_testkit::{AnySimulator, SeedItem, Shop, SimServer, amazon, ebay, shopify, spawn};

use super::api::{Api, Got};

const PUBLIC: &str = "https://trueup.example";
const VENDORS: [&str; 3] = ["shopify", "amazon", "ebay"];

struct Vendor {
    kind: &'static str,
    sim: AnySimulator,
    server: SimServer,
}

impl Vendor {
    async fn open(kind: &'static str) -> Self {
        let sim: AnySimulator = match kind {
            "shopify" => shopify::Simulator::default().into(),
            "amazon" => amazon::Simulator::default().into(),
            _ => {
                let sim = ebay::Simulator::default();
                sim.set_accept_url(format!("{PUBLIC}/connect/ebay/callback"));
                sim.into()
            }
        };
        sim.seed(vec![SeedItem::new("A", 1)]).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(sim.clone(), any).await.unwrap();
        Self { kind, sim, server }
    }

    /// How a merchant connects who has an application and no tokens.
    fn config(&self) -> Value {
        let mut config = self.sim.channel_config(&self.server.url);
        match self.kind {
            "shopify" => {
                config["grant"] = json!("authorization_code");
                config["credentials"] = json!({
                    "clientId": shopify::CLIENT_ID, "clientSecret": shopify::CLIENT_SECRET,
                });
            }
            "amazon" => config["applicationId"] = json!(amazon::APPLICATION_ID),
            _ => config["ruName"] = json!(ebay::RU_NAME),
        }
        config["credentials"].as_object_mut().unwrap().remove("refreshToken");
        config
    }

    /// The path and query that the vendor sends the merchant back to.
    async fn consent(&self, url: &str) -> String {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        assert!(url.starts_with(&self.server.url), "{url} is not moved to the endpoint");
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 302, "{}", self.kind);
        let location = answer.headers()["location"].to_str().unwrap();
        location.strip_prefix(PUBLIC).unwrap().to_owned()
    }
}

async fn enable(api: &Api, vendor: &Vendor, config: &Value) -> Got {
    let path = format!("/channels/{}/enable", vendor.kind);
    api.call("POST", &path, &config.to_string()).await
}

async fn auth_url(api: &Api, vendor: &Vendor) -> String {
    let path = format!("/connect/{0}/auth-url?channelId={0}", vendor.kind);
    let got = api.of("acme", &[Scope::ChannelsAdmin], "GET", &path).await;
    assert_eq!(got.header("cache-control"), Some("no-store"));
    got.is(200)["url"].as_str().unwrap().to_owned()
}

async fn callback(api: &Api, path: &str) -> Got {
    api.raw("GET", path, &[("accept", "application/json")], "").await
}

/// Replaces the value of a query parameter.
fn with(path: &str, name: &str, value: &str) -> String {
    let (path, query) = path.split_once('?').unwrap();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let pairs = pairs.map(|(known, old)| {
        let new = if known == name { value.into() } else { old };
        (known, new)
    });
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    format!("{path}?{query}")
}

fn value_of(path: &str, name: &str) -> String {
    let url = url::Url::parse(PUBLIC).unwrap().join(path).unwrap();
    let found = url.query_pairs().find(|(known, _)| known == name);
    found.map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// Signs a callback of Shopify anew.
fn signed(path: &str) -> String {
    let url = url::Url::parse(PUBLIC).unwrap().join(path).unwrap();
    let mut pairs: Vec<String> = url
        .query_pairs()
        .filter(|(name, _)| name != "hmac")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.sort();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(shopify::CLIENT_SECRET.as_bytes()).unwrap();
    mac.update(pairs.join("&").as_bytes());
    let digest: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    with(path, "hmac", &digest)
}

async fn status(api: &Api, vendor: &Vendor) -> Value {
    api.get(&format!("/channels/{}/status", vendor.kind)).await.is(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merchant_consents_at_the_vendors_page_and_the_channel_works() {
    for kind in VENDORS {
        let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open(kind).await);
        api.stock("A", 7).await;
        let view = enable(&api, &vendor, &vendor.config()).await.is(200);
        assert_eq!((&view["state"], view["lastError"].is_string()), (&json!("paused"), true));
        assert_eq!(status(&api, &vendor).await["status"], "paused", "{kind}");
        let resume = api.call("POST", &format!("/channels/{kind}/resume"), "").await;
        resume.is_problem(409, "authorization_needed");
        assert!(vendor.sim.requests().is_empty(), "{kind}: nothing is sent before the consent");
        let back = vendor.consent(&auth_url(&api, &vendor).await).await;
        let got = api.raw("GET", &back, &[("accept", "text/html,application/json")], "").await;
        assert_eq!(got.status, 200, "{}", got.text());
        assert!(got.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert_eq!(got.header("cache-control"), Some("no-store"));
        assert_eq!(got.header("content-type"), Some("text/html; charset=utf-8"));
        for name in ["state", "code", "spapi_oauth_code", "shop", "selling_partner_id"] {
            let value = value_of(&back, name);
            assert!(value.is_empty() || !got.text().contains(&value), "{name} is in the page");
        }
        let view = api.get(&format!("/channels/{kind}")).await.is(200);
        assert_eq!((&view["state"], &view["lastError"]), (&json!("active"), &Value::Null));
        let discover = format!("/channels/{kind}/mappings/discover");
        assert_eq!(api.call("POST", &discover, "{}").await.is(200)["mapped"], 1, "{kind}");
        api.advance(1);
        let run = api.call("POST", &format!("/inventory/sync/{kind}"), "{}").await.is(200);
        assert_eq!(run["failed"], 0, "{kind}: {run}");
        callback(&api, &back).await.is_problem(400, "consent_state_invalid");
        assert_eq!(status(&api, &vendor).await["connected"], true, "{kind}");
        api.stop().await;
        vendor.server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_good_once_for_ten_minutes_and_for_its_channel_only() {
    let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open("amazon").await);
    enable(&api, &vendor, &vendor.config()).await.is(200);
    let fresh = async || vendor.consent(&auth_url(&api, &vendor).await).await;
    let refused = "consent_state_invalid";
    let back = fresh().await;
    callback(&api, &with(&back, "state", "made-up")).await.is_problem(400, refused);
    callback(&api, "/connect/amazon/callback").await.is_problem(400, refused);
    let page = api.raw("GET", "/connect/amazon/callback?state=x", &[], "").await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (400, Some("text/html; charset=utf-8"))
    );
    // Of another kind: refused, and used up.
    let elsewhere = back.replace("/connect/amazon/", "/connect/ebay/");
    callback(&api, &elsewhere).await.is_problem(400, refused);
    callback(&api, &back).await.is_problem(400, refused);
    let late = fresh().await;
    api.advance(600);
    callback(&api, &late).await.is_problem(400, refused);
    // A code that was used is not good with another state.
    let first = fresh().await;
    callback(&api, &first).await.is(200);
    let second = with(&fresh().await, "spapi_oauth_code", &value_of(&first, "spapi_oauth_code"));
    callback(&api, &second).await.is_problem(400, "channel_credentials_refused");
    assert_eq!(status(&api, &vendor).await["status"], "ok", "it is as it was");
    // The channel was removed meanwhile.
    let gone = fresh().await;
    api.call("DELETE", "/channels/amazon", "").await.is(204);
    callback(&api, &gone).await.is_problem(400, refused);
    api.stop().await;
    vendor.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_for_admins_of_the_channels_own_org() {
    let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open("ebay").await);
    enable(&api, &vendor, &vendor.config()).await.is(200);
    let path = "/connect/ebay/auth-url?channelId=ebay";
    let admin = [Scope::ChannelsAdmin];
    api.raw("GET", path, &[], "").await.is_problem(401, "token_missing");
    api.of("acme", &[Scope::Read], "GET", path).await.is_problem(403, "scope_missing");
    api.of("other", &admin, "GET", path).await.is_problem(404, "channel_not_found");
    let shopify = "/connect/shopify/auth-url?channelId=ebay";
    api.of("acme", &admin, "GET", shopify).await.is_problem(404, "channel_not_found");
    let unknown = api.of("acme", &admin, "GET", "/connect/nowhere/auth-url").await;
    unknown.is_problem(400, "unknown_kind");
    // Without a page there is no use in waiting for it.
    let mut config = vendor.config();
    config.as_object_mut().unwrap().remove("ruName");
    let problem = enable(&api, &vendor, &config).await.is_problem(400, "invalid_settings");
    assert_eq!(problem["errors"][0]["pointer"], "/credentials/refreshToken");
    api.stop().await;
    let private = Api::start().await;
    enable(&private, &vendor, &vendor.config()).await.is(200);
    let got = private.of("acme", &admin, "GET", path).await;
    got.is_problem(409, "public_url_missing");
    private.stop().await;
    vendor.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shopify_signs_what_it_sends_back_and_names_the_shop() {
    let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open("shopify").await);
    enable(&api, &vendor, &vendor.config()).await.is(200);
    let fresh = async || vendor.consent(&auth_url(&api, &vendor).await).await;
    let bent = with(&fresh().await, "timestamp", "1");
    callback(&api, &bent).await.is_problem(400, "consent_forged");
    let unsigned = with(&fresh().await, "hmac", "");
    callback(&api, &unsigned).await.is_problem(400, "consent_forged");
    let other = signed(&with(&fresh().await, "shop", "other.myshopify.com"));
    callback(&api, &other).await.is_problem(400, "consent_other_account");
    let state = value_of(&fresh().await, "state");
    let denied = format!("/connect/shopify/callback?error=access_denied&state={state}");
    callback(&api, &denied).await.is_problem(400, "consent_denied");
    callback(&api, &denied).await.is_problem(400, "consent_state_invalid");
    let state = value_of(&fresh().await, "state");
    let bare = format!("/connect/shopify/callback?state={state}");
    callback(&api, &bare).await.is_problem(400, "consent_malformed");
    assert_eq!(status(&api, &vendor).await["status"], "paused");
    // Values that need escaping are signed either way.
    let escaped = signed(&format!("{}&host=YWRtaW4%3D", fresh().await));
    callback(&api, &escaped).await.is(200);
    api.stop().await;
    vendor.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_consent_renews_the_credentials_and_resumes_what_was_paused() {
    let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open("shopify").await);
    let AnySimulator::Shopify(sim) = vendor.sim.clone() else { unreachable!() };
    api.stock("A", 7).await;
    enable(&api, &vendor, &vendor.config()).await.is(200);
    let back = vendor.consent(&auth_url(&api, &vendor).await).await;
    callback(&api, &back).await.is(200);
    api.call("POST", "/channels/shopify/mappings/discover", "{}").await.is(200);
    sim.revoke();
    // What is owed waits while the vendor refuses us.
    let put = r#"{"quantity": 3, "syncToChannels": true}"#;
    api.call("PUT", "/inventory/A", put).await.is(200);
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while status(&api, &vendor).await["status"] != "paused" {
        assert!(tokio::time::Instant::now() < end, "it was not paused");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let back = vendor.consent(&auth_url(&api, &vendor).await).await;
    let done = callback(&api, &back).await.is(200);
    assert_eq!(done, json!({"status": "connected", "channelId": "shopify"}));
    while sim.quantity("A") != Some(3) {
        assert!(tokio::time::Instant::now() < end, "what was owed was lost");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(status(&api, &vendor).await["status"], "ok");
    api.stop().await;
    vendor.server.shutdown().await;
}

/// What a refusal says is missing, as `pointer code`.
fn lacking(got: &Got) -> Vec<String> {
    let problem = got.is_problem(400, "connection_incomplete");
    let errors = problem["errors"].as_array().unwrap();
    let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
    errors
        .iter()
        .map(|error| format!("{} {}", text(error, "pointer"), text(error, "code")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enabling_says_everything_that_is_missing_and_keeps_nothing() {
    let api = Api::start().await;
    let shopify = Vendor::open("shopify").await;
    let AnySimulator::Shopify(sim) = shopify.sim.clone() else { unreachable!() };
    let mut config = sim.channel_config(&shopify.server.url);
    config["defaultLocationId"] = json!("gid://shopify/Location/1");
    sim.set_scopes(&["write_inventory", "read_locations"]);
    assert_eq!(
        lacking(&enable(&api, &shopify, &config).await),
        [
            "/scopes/read_products scope_missing",
            "/scopes/read_orders scope_missing",
            "/defaultLocationId location_unknown",
        ]
    );
    // What is not wanted need not be there; the right to write is one to read.
    sim.set_scopes(&["write_inventory", "read_locations", "read_products"]);
    config["syncOrders"] = json!(false);
    let location = "/defaultLocationId location_unknown";
    assert_eq!(lacking(&enable(&api, &shopify, &config).await), [location]);
    sim.set_scopes(&["write_inventory"]);
    let without = ["/scopes/read_products scope_missing", "/scopes/read_locations scope_missing"];
    assert_eq!(lacking(&enable(&api, &shopify, &config).await), without);
    api.get("/channels/shopify").await.is_problem(404, "channel_not_found");

    let amazon = Vendor::open("amazon").await;
    let AnySimulator::Amazon(sim) = amazon.sim.clone() else { unreachable!() };
    let mut config = sim.channel_config(&amazon.server.url);
    config["marketplaceIds"] = json!([amazon::MARKETPLACE_ID, "A2EUQ1WTGCTBG2"]);
    sim.withhold_role("Inventory and Order Tracking");
    let marketplace = "/marketplaceIds/1 marketplace_unknown";
    let orders = "/roles/inventory_and_order_tracking role_missing";
    assert_eq!(lacking(&enable(&api, &amazon, &config).await), [marketplace, orders]);
    sim.withhold_role("Product Listing");
    config["syncOrders"] = json!(false);
    let listing = ["/roles/product_listing role_missing"];
    assert_eq!(lacking(&enable(&api, &amazon, &config).await), listing);
    api.get("/channels/amazon").await.is_problem(404, "channel_not_found");

    let ebay = Vendor::open("ebay").await;
    let AnySimulator::Ebay(sim) = ebay.sim.clone() else { unreachable!() };
    let mut config = sim.channel_config(&ebay.server.url);
    config["defaultLocationId"] = json!("nowhere");
    assert_eq!(lacking(&enable(&api, &ebay, &config).await), [location]);
    config["defaultLocationId"] = json!("sim-warehouse");
    enable(&api, &ebay, &config).await.is(200);
    api.call("DELETE", "/channels/ebay", "").await.is(204);
    sim.withhold_scope("sell.fulfillment");
    let scope = ["/scopes/sell.fulfillment scope_missing"];
    assert_eq!(lacking(&enable(&api, &ebay, &config).await), scope);
    config["marketplaceId"] = json!("EBAY_MARS");
    let problem = enable(&api, &ebay, &config).await.is_problem(400, "invalid_settings");
    assert_eq!(problem["errors"][0]["pointer"], "/marketplaceId");
    api.get("/channels/ebay").await.is_problem(404, "channel_not_found");
    api.stop().await;
}

/// Waits until a channel's health has a state.
async fn until_health(api: &Api, vendor: &Vendor, state: &str) -> Value {
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let status = status(api, vendor).await;
        if status["health"]["state"] == state {
            return status;
        }
        assert!(tokio::time::Instant::now() < end, "{status}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_what_a_channel_waits_for_and_when_its_tokens_end() {
    // The clock stands at 2026-04-25T10:00:00Z until it is advanced.
    let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open("shopify").await);
    let AnySimulator::Shopify(sim) = vendor.sim.clone() else { unreachable!() };
    api.stock("A", 7).await;
    enable(&api, &vendor, &vendor.config()).await.is(200);
    let got = status(&api, &vendor).await;
    assert_eq!((&got["status"], &got["health"]["state"]), (&json!("paused"), &json!("waiting")));
    assert_eq!(got["health"]["code"], "authorization_needed");
    assert_eq!(got["health"]["since"], "2026-04-25T10:00:00Z");
    assert_eq!(got["health"]["detail"], got["lastError"]);
    assert_eq!(got["token"], json!({"expiresAt": null, "refreshExpiresAt": null}));
    assert_eq!(got["webhooks"], json!({"lastAt": null, "topics": null, "trouble": null}));
    assert_eq!((&got["ordersHeardTo"], &got["queue"]), (&Value::Null, &Value::Null));

    let back = vendor.consent(&auth_url(&api, &vendor).await).await;
    callback(&api, &back).await.is(200);
    let got = status(&api, &vendor).await;
    let well = json!({"state": "ok", "code": null, "detail": null, "since": null});
    assert_eq!((&got["status"], &got["health"]), (&json!("ok"), &well));
    // Shopify: an hour, and 90 days.
    let ends = json!({
        "expiresAt": "2026-04-25T11:00:00Z", "refreshExpiresAt": "2026-07-24T10:00:00Z",
    });
    assert_eq!(got["token"], ends);
    // The simulator takes no address but on loopback.
    let trouble = &got["webhooks"]["trouble"];
    assert!(trouble["detail"].as_str().unwrap().contains("loopback"), "{got}");
    assert_eq!(
        (&got["webhooks"]["topics"], &trouble["since"]),
        (&Value::Null, &json!("2026-04-25T10:00:00Z"))
    );
    assert_eq!(
        (&got["pending"], &got["drifted"], &got["atLeast"]),
        (&json!(0), &json!(0), &json!(false))
    );
    let discover = "/channels/shopify/mappings/discover";
    api.call("POST", discover, "{}").await.is(200);
    api.advance(60);
    api.call("POST", "/inventory/pull/shopify", "").await.is(200);
    assert_eq!(status(&api, &vendor).await["ordersHeardTo"], "2026-04-25T10:01:00Z");

    // Half an hour later the vendor wants a new one.
    api.advance(29 * 60);
    sim.expire_tokens();
    api.call("POST", "/inventory/pull/shopify", "").await.is(200);
    let ends = json!({
        "expiresAt": "2026-04-25T11:30:00Z", "refreshExpiresAt": "2026-07-24T10:30:00Z",
    });
    assert_eq!(status(&api, &vendor).await["token"], ends);

    api.call("POST", "/channels/shopify/disable", "").await.is(200);
    let paused = json!({
        "state": "paused", "code": null, "detail": null, "since": "2026-04-25T10:30:00Z",
    });
    assert_eq!(status(&api, &vendor).await["health"], paused, "an operator gives no reason");
    api.call("POST", "/channels/shopify/resume", "").await.is(200);
    api.advance(60);
    sim.revoke();
    let put = r#"{"quantity": 3, "syncToChannels": true}"#;
    api.call("PUT", "/inventory/A", put).await.is(200);
    let got = until_health(&api, &vendor, "paused").await;
    assert_eq!((&got["status"], &got["connected"]), (&json!("paused"), &json!(false)));
    assert_eq!(got["health"]["code"], "authorization_revoked", "{got}");
    assert_eq!(got["health"]["detail"], got["lastError"]);
    assert_eq!(got["health"]["since"], "2026-04-25T10:31:00Z");
    assert_eq!(got["pending"], 1, "it is owed still");
    api.stop().await;
    vendor.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ebay_seller_is_asked_for_what_is_needed_and_works_with_what_it_granted() {
    let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open("ebay").await);
    api.stock("A", 7).await;
    let mut config = vendor.config();
    config["syncOrders"] = json!(false);
    enable(&api, &vendor, &config).await.is(200);
    let url = auth_url(&api, &vendor).await;
    let asked = value_of(&url, "scope");
    assert!(asked.contains("/sell.inventory") && !asked.contains("/sell.fulfillment"), "{asked}");
    callback(&api, &vendor.consent(&url).await).await.is(200);
    // The token is no good for orders, and all the same for everything else.
    api.call("POST", "/channels/ebay/mappings/discover", "{}").await.is(200);
    api.advance(1);
    let run = api.call("POST", "/inventory/sync/ebay", "{}").await.is(200);
    assert_eq!((&run["pushed"], &run["failed"]), (&json!(1), &json!(0)), "{run}");
    assert_eq!(vendor.sim.quantity("A"), Some(7));
    let got = status(&api, &vendor).await;
    assert_eq!(got["token"]["refreshExpiresAt"], "2027-10-24T22:00:00Z", "18 months");
    assert!(got["token"]["expiresAt"].is_string(), "{got}");
    config["syncOrders"] = json!(true);
    let scope = ["/scopes/sell.fulfillment scope_missing"];
    assert_eq!(lacking(&enable(&api, &vendor, &config).await), scope);
    api.stop().await;
    vendor.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_amazon_seller_who_is_not_named_is_told_by_its_consent() {
    let (api, vendor) = (Api::start_public(PUBLIC).await, Vendor::open("amazon").await);
    let mut config = vendor.config();
    config.as_object_mut().unwrap().remove("sellerId");
    let mut pasted = config.clone();
    pasted["credentials"]["refreshToken"] = json!(amazon::REFRESH_TOKEN);
    let problem = enable(&api, &vendor, &pasted).await.is_problem(400, "invalid_settings");
    assert_eq!(problem["errors"][0]["pointer"], "/sellerId", "no page would tell it");
    let view = enable(&api, &vendor, &config).await.is(200);
    assert_eq!(view["sellerId"], Value::Null);
    let fresh = async || vendor.consent(&auth_url(&api, &vendor).await).await;
    let odd = with(&fresh().await, "selling_partner_id", "A/../B");
    callback(&api, &odd).await.is_problem(400, "consent_malformed");
    callback(&api, &fresh().await).await.is(200);
    let view = api.get("/channels/amazon").await.is(200);
    assert_eq!((&view["sellerId"], &view["state"]), (&json!(amazon::SELLER_ID), &json!("active")));
    // From now on it is that seller's.
    let other = with(&fresh().await, "selling_partner_id", "AOTHER");
    callback(&api, &other).await.is_problem(400, "consent_other_account");
    api.stop().await;
    vendor.server.shutdown().await;
}
