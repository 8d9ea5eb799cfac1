//! The HTTP API in process: the real router over the real embedded store, with a clock that
//! stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tower::ServiceExt;
use trueup::api::{ApiOptions, App, Parts, openapi, router};
use trueup::auth::{Auth, KeySource, Mint, Scope, TokenSettings, mint};
use trueup_core::{Org, Timestamp};
use trueup_store::Store;
use trueup_sync::{Clock, Engine, EngineOptions};
use trueup_test_store::TestStore;

pub(super) const SECRET: &[u8] = b"a secret of the tests that is long enough";
/// 2026-04-25T10:00:00Z.
pub(super) const START: i64 = 1_777_111_200_000_000;

/// A clock that moves when it is told to.
#[derive(Debug, Clone)]
struct TestClock(Arc<AtomicI64>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// A server without a socket.
pub(super) struct Api {
    router: Router,
    clock: TestClock,
    engine: Engine,
    store: Arc<dyn Store>,
    _place: TestStore,
}

/// An answer with its body read.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Returns all headers.
    pub(super) fn headers(&self) -> Vec<(String, String)> {
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        self.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(super) fn is(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    /// Checks that it is a problem with a code, and returns it.
    #[track_caller]
    pub(super) fn is_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.is(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:trueup:problem:{code}"));
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        assert!(self.header("x-request-id").is_some());
        problem
    }
}

pub(super) fn token_with(org: &str, scopes: &[Scope]) -> String {
    let orgs = [Org::new(org).unwrap()];
    let now = Timestamp::from_micros(START);
    let subject = "tester";
    let ttl_seconds = 86_400;
    let (issuer, audience) = (None, None);
    mint(SECRET, &Mint { subject, orgs: &orgs, scopes, now, ttl_seconds, issuer, audience })
        .unwrap()
}

/// Writes an instant as it stands in a query.
pub(super) fn in_query(micros: i64) -> String {
    let time = trueup::api::time::Time(Timestamp::from_micros(micros));
    let text = serde_json::to_value(time).unwrap();
    text.as_str().unwrap().replace(':', "%3A")
}

fn token() -> String {
    token_with("acme", &Scope::ALL)
}

impl Api {
    pub(super) async fn start() -> Self {
        Self::start_with(TokenSettings::shared_secret(SECRET)).await
    }

    /// Starts a server that knows its address from outside.
    pub(super) async fn start_public(public_url: &str) -> Self {
        let tokens = TokenSettings::shared_secret(SECRET);
        Self::start_as(tokens, Some(public_url.to_owned())).await
    }

    async fn start_with(tokens: TokenSettings) -> Self {
        Self::start_as(tokens, None).await
    }

    async fn start_as(tokens: TokenSettings, public_url: Option<String>) -> Self {
        let place = TestStore::new().await;
        let clock = TestClock(Arc::new(AtomicI64::new(START)));
        let now = clock.clone();
        let store = place.open(Arc::new(move || now.now())).await;
        let options = EngineOptions {
            orders_overlap: trueup_sync::ORDERS_OVERLAP,
            allow_private_endpoints: true,
            keys: trueup_sync::SecretKey::new([7; 32]).into(),
            request_timeout: Duration::from_secs(5),
            public_url: public_url.clone(),
            clock: Arc::new(clock.clone()),
        };
        let engine = Engine::start(Arc::clone(&store), options).await.unwrap();
        let app = App::new(Parts {
            store: Arc::clone(&store),
            engine: engine.clone(),
            auth: Auth::new(Arc::clone(&store), Some(tokens)),
            clock: Arc::new(clock.clone()),
            metrics: None,
            options: ApiOptions { public_url, ..ApiOptions::default() },
            draining: tokio_util::sync::CancellationToken::new(),
            stopping: tokio_util::sync::CancellationToken::new(),
        });
        Self { router: router(app), clock, engine, store, _place: place }
    }

    /// Opens a socket for vendors that call us; returns its address.
    pub(super) async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = self.router.clone();
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    pub(super) async fn stop(self) {
        self.engine.stop().await;
        self.store.close().await.unwrap();
    }

    pub(super) fn advance(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    pub(super) fn now_micros(&self) -> i64 {
        self.clock.0.load(Ordering::SeqCst)
    }

    /// Returns on hand of a SKU of acme, whatever the clock says of tokens.
    pub(super) async fn on_hand(&self, sku: &str) -> i64 {
        let (org, sku) = (Org::new("acme").unwrap(), trueup_core::Sku::new(sku).unwrap());
        self.store.sku(&org, &sku).await.unwrap().unwrap().state.totals().on_hand.get()
    }

    /// Returns whether everything that was to be done is done.
    pub(super) async fn is_quiet(&self) -> bool {
        self.engine.quiesce(Duration::from_millis(300)).await
    }

    /// Waits until everything that was to be done is done.
    pub(super) async fn settle(&self) {
        assert!(self.engine.quiesce(Duration::from_secs(60)).await, "it did not come to rest");
    }

    /// Has the orders of a channel of acme read.
    pub(super) async fn hear_orders(&self, channel: &str) {
        let (org, id) = (Org::new("acme").unwrap(), trueup_core::ChannelId::new(channel).unwrap());
        let heard = self.engine.hear_orders(&org, &id, Duration::from_secs(20)).await;
        assert_eq!(heard, Ok(true), "{channel}");
    }

    /// Sends a request with exactly these headers.
    pub(super) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Got {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Got { status: parts.status, headers: parts.headers, bytes }
    }

    /// Sends a request of acme with more headers.
    pub(super) async fn with(
        &self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Got {
        let bearer = format!("Bearer {}", token());
        let mut headers = vec![("authorization", bearer.as_str()), ("orgid", "acme")];
        headers.extend(more);
        self.raw(method, &format!("/sales-channel{path}"), &headers, body).await
    }

    /// Sends a request of an org with these scopes to any path.
    pub(super) async fn of(&self, org: &str, scopes: &[Scope], method: &str, path: &str) -> Got {
        let bearer = format!("Bearer {}", token_with(org, scopes));
        let headers = [("authorization", bearer.as_str()), ("orgid", org)];
        self.raw(method, path, &headers, "").await
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: &str) -> Got {
        self.with(method, path, &[], body.to_owned()).await
    }

    pub(super) async fn get(&self, path: &str) -> Got {
        self.call("GET", path, "").await
    }

    pub(super) async fn stock(&self, sku: &str, quantity: u64) {
        let body = json!({ "quantity": quantity }).to_string();
        self.call("PUT", &format!("/inventory/{sku}"), &body).await.is(200);
    }

    /// Returns what administrators have done, newest first; no secret is in it.
    async fn deeds(&self, secret: &str) -> Vec<String> {
        let got = self.get("/sync/history?operation=administration").await;
        let trail = got.is(200);
        assert!(!got.text().contains(secret));
        let items = trail["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["detail"]["by"] == "tester"), "{trail}");
        let action = |item: &Value| item["detail"]["action"].as_str().unwrap().to_owned();
        items.iter().map(action).collect()
    }

    async fn reserve(&self, order: &str, sku: &str, quantity: u64) -> Got {
        let items = json!([{"sku": sku, "quantity": quantity}]);
        let body = json!({"orderId": order, "items": items}).to_string();
        self.call("POST", "/inventory/reserve", &body).await
    }
}

#[tokio::test]
async fn the_published_examples_work_without_a_content_type() {
    let api = Api::start().await;
    let put = r#"{"quantity": 42, "syncToChannels": true, "reason": "warehouse count"}"#;
    let got = api.call("PUT", "/inventory/SKU-100", put).await;
    let sku = got.is(200);
    assert_eq!((&sku["quantity"], &sku["available"]), (&json!(42), &json!(42)));
    assert!(sku["sync"]["runId"].is_string());
    assert_eq!(got.header("etag"), Some(format!("\"{}\"", sku["version"]).as_str()));
    let sku = api.get("/inventory/SKU-100").await.is(200);
    assert_eq!(
        sku,
        json!({
            "sku": "SKU-100", "quantity": 42, "reserved": 0, "available": 42, "safetyStock": 0,
            "lowStockThreshold": null, "lowStock": false, "backorderLimit": 0,
            "version": sku["version"], "updatedAt": "2026-04-25T10:00:00Z",
            "locations": [{"locationId": "main", "quantity": 42, "reserved": 0, "available": 42}]
        })
    );
    let reserve = r#"{"items": [{"sku": "SKU-100", "quantity": 2}], "orderId": "ord-abc"}"#;
    let held = api.call("POST", "/inventory/reserve", reserve).await.is(201);
    assert_eq!(held["status"], "active");
    assert_eq!(held["expiresAt"], "2026-04-25T10:15:00Z");
    let id = held["reservationId"].as_str().unwrap();
    let path = format!("/inventory/reservation/{id}");
    for _ in 0..2 {
        let got = api.call("POST", &format!("{path}/release"), "").await.is(200);
        assert_eq!(got["status"], "released");
    }
    let commit = format!("{path}/commit");
    api.call("POST", &commit, "").await.is_problem(409, "reservation_released");
    let held = api.call("POST", "/inventory/reserve", reserve).await.is(201);
    let id = held["reservationId"].as_str().unwrap();
    for _ in 0..2 {
        let path = format!("/inventory/reservation/{id}/commit");
        assert_eq!(api.call("POST", &path, "").await.is(200)["status"], "committed");
    }
    let path = format!("/inventory/reservation/{id}/release");
    api.call("POST", &path, "").await.is_problem(409, "reservation_committed");
    assert_eq!(api.get("/inventory/SKU-100").await.is(200)["quantity"], 40);
    let across = api.get("/inventory/SKU-100/channels").await.is(200);
    assert_eq!(across, json!({"sku": "SKU-100", "master": 40, "channels": {}}));
    let low = api.get("/inventory/alerts/low-stock").await.is(200);
    assert_eq!(low, json!({"items": [], "nextCursor": null}));
    let history = api.get("/sync/history?operation=inventory_conflict").await.is(200);
    assert_eq!(history, json!({"items": [], "nextCursor": null}));
    let all = api.call("POST", "/inventory/sync", "").await.is(200);
    assert_eq!((&all["runs"], &all["skipped"]), (&json!([]), &json!([])));
    api.call("POST", "/inventory/sync/shopify", "").await.is_problem(404, "channel_not_found");
    api.call("POST", "/inventory/pull/amazon", "").await.is_problem(404, "channel_not_found");
    api.stop().await;
}

#[tokio::test]
async fn bad_input_is_named_and_nothing_is_half_done() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    let item = |quantity: &str| {
        format!(
            r#"{{"items":[{{"sku":"A","quantity":1}},{{"sku":"A",
        "quantity":{quantity}}}],"orderId":"o"}}"#
        )
    };
    let (put, post, reserve) = ("PUT", "POST", "/inventory/reserve");
    let mut cases: Vec<(&str, &str, String, u16, &str, &str)> = Vec::new();
    for bad in ["1.5", "-1", "\"42\"", "null", "NaN", "1e400", "true", "9007199254740992"] {
        let at = "/items/1/quantity";
        cases.push((post, reserve, item(bad), 400, "invalid_quantity", at));
        let body = format!(r#"{{"quantity": {bad}}}"#);
        cases.push((put, "/inventory/A", body, 400, "invalid_quantity", "/quantity"));
    }
    for (method, path, body, status, code, pointer) in [
        (post, reserve, item("0").as_str(), 400, "invalid_quantity", "/items/1/quantity"),
        (post, reserve, r#"{"items":[],"orderId":"o"}"#, 400, "no_items", "/items"),
        (post, reserve, r#"{"orderId":"o"}"#, 400, "missing_field", "/items"),
        (
            post,
            reserve,
            r#"{"items":[{"sku":"A","quantity":1}]}"#,
            400,
            "missing_field",
            "/orderId",
        ),
        (
            post,
            reserve,
            r#"{"items":[{"sku":"A","quantity":1}],"orderId":""}"#,
            400,
            "invalid_order_id",
            "/orderId",
        ),
        (
            post,
            reserve,
            r#"{"items":[{"sku":"A","quantity":1}],"orderId":"o","ttlSeconds":0}"#,
            400,
            "invalid_ttl",
            "/ttlSeconds",
        ),
        (
            post,
            reserve,
            r#"{"items":[{"sku":"A","quantity":1}],"orderId":"o","ttlSeconds":604801}"#,
            400,
            "invalid_ttl",
            "/ttlSeconds",
        ),
        (post, reserve, r#"{"items":[["A",1]],"orderId":"o"}"#, 400, "invalid_type", "/items/0"),
        (post, reserve, "[]", 400, "invalid_type", ""),
        (post, reserve, "", 400, "malformed_json", "-"),
        (post, reserve, "{\"items\":", 400, "malformed_json", "-"),
        (put, "/inventory/A", "quantity=42", 400, "malformed_json", "-"),
        (put, "/inventory/A", "{}", 400, "missing_field", "/quantity"),
        (
            put,
            "/inventory/A",
            r#"{"quantity":1,"syncToChanels":true}"#,
            400,
            "unknown_field",
            "/syncToChanels",
        ),
        (
            put,
            "/inventory/A",
            r#"{"quantity":1,"countedAt":"yesterday"}"#,
            400,
            "invalid_time",
            "/countedAt",
        ),
        (
            put,
            "/inventory/A",
            r#"{"quantity":1,"countedAt":"2030-01-01T00:00:00Z"}"#,
            400,
            "invalid_time",
            "/countedAt",
        ),
        (
            put,
            "/inventory/A",
            r#"{"quantity":1,"locationId":""}"#,
            400,
            "invalid_location",
            "/locationId",
        ),
        (
            put,
            "/inventory/A",
            r#"{"quantity":1,"reason":"\u0000"}"#,
            400,
            "invalid_text",
            "/reason",
        ),
        (put, "/inventory/%01", r#"{"quantity":1}"#, 400, "invalid_sku", "-"),
        (put, "/inventory/%ff", r#"{"quantity":1}"#, 400, "invalid_path", "-"),
        (put, "/inventory/A?x=1", r#"{"quantity":1}"#, 400, "unknown_parameter", "?x"),
        ("GET", "/inventory/A?at=now", "", 400, "invalid_time", "?at"),
        ("GET", "/inventory/B", "", 404, "sku_not_found", "-"),
        ("GET", "/inventory?limit=0", "", 400, "invalid_limit", "?limit"),
        ("GET", "/inventory?limit=1001", "", 400, "invalid_limit", "?limit"),
        ("GET", "/inventory?cursor=abc", "", 400, "invalid_cursor", "?cursor"),
        ("GET", "/inventory?lowStock=yes", "", 400, "invalid_parameter", "?lowStock"),
        ("GET", "/inventory?status=ok", "", 400, "invalid_parameter", "?status"),
        ("GET", "/inventory/A/history?kind=x", "", 400, "invalid_parameter", "?kind"),
        ("GET", "/inventory/reservation/nope", "", 404, "reservation_not_found", "-"),
        (post, "/inventory/B/adjust", r#"{"delta":1}"#, 404, "sku_not_found", "-"),
        (post, "/inventory/A/adjust", r#"{"delta":-11}"#, 409, "insufficient_stock", "-"),
        (post, "/inventory/A/adjust", r#"{"delta":0.5}"#, 400, "invalid_quantity", "/delta"),
        (
            put,
            "/inventory/bulk/update",
            r#"{"items":[{"sku":"C","quantity":1},{"sku":"","quantity":1}]}"#,
            400,
            "invalid_sku",
            "/items/1/sku",
        ),
        (
            put,
            "/inventory/K/bundle",
            r#"{"parts":[{"sku":"A","quantity":0}]}"#,
            400,
            "invalid_quantity",
            "/parts/0/quantity",
        ),
        (
            post,
            "/channels/x/enable",
            r#"{"conflictStrategy":"lower_wins"}"#,
            400,
            "missing_field",
            "/syncInventory",
        ),
        (
            post,
            "/channels/x/enable",
            r#"{"syncInventory":true,"conflictStrategy":"max"}"#,
            400,
            "invalid_value",
            "/conflictStrategy",
        ),
        (
            post,
            "/channels/shopify/enable",
            r#"{"syncInventory":true,"shopp":"a"}"#,
            400,
            "unknown_field",
            "/shopp",
        ),
        (
            post,
            "/channels/shopify/enable",
            r#"{"syncInventory":true,"credentials":{"token":"a"}}"#,
            400,
            "unknown_field",
            "/credentials/token",
        ),
        (
            post,
            "/channels/a%2Fb/enable",
            r#"{"syncInventory":true}"#,
            400,
            "invalid_channel_id",
            "-",
        ),
        ("GET", "/channels/none", "", 404, "channel_not_found", "-"),
        ("GET", "/sync/runs/none", "", 404, "run_not_found", "-"),
        (
            post,
            "/inventory/conflicts/x/resolve",
            r#"{"resolution":"master"}"#,
            404,
            "conflict_not_found",
            "-",
        ),
        (
            post,
            "/inventory/conflicts/1/resolve",
            r#"{"resolution":"quantity"}"#,
            400,
            "missing_field",
            "/quantity",
        ),
        (
            post,
            "/webhooks",
            r#"{"url":"https://a.example","events":["x"]}"#,
            400,
            "unknown_event",
            "/events/0",
        ),
        (post, "/keys", r#"{"subject":"x","scopes":["admin"]}"#, 400, "invalid_value", "/scopes/0"),
        ("GET", "/nothing", "", 404, "not_found", "-"),
    ] {
        cases.push((method, path, body.to_owned(), status, code, pointer));
    }
    for (method, path, body, status, code, pointer) in cases {
        let problem = api.call(method, path, &body).await;
        assert_eq!(problem.status.as_u16(), status, "{method} {path} {body}: {}", problem.text());
        let problem = problem.is_problem(status, code);
        let named = problem["errors"][0]["pointer"].as_str().unwrap_or("-");
        assert_eq!(named, pointer, "{method} {path} {body}: {problem}");
    }
    let sku = api.get("/inventory/A").await.is(200);
    assert_eq!((&sku["quantity"], &sku["reserved"]), (&json!(10), &json!(0)));
    api.get("/inventory/C").await.is_problem(404, "sku_not_found");
    api.stop().await;
}

#[tokio::test]
async fn limits_are_kept() {
    let api = Api::start().await;
    let big = vec![b' '; (10 << 20) + 1];
    let got = api.with("PUT", "/inventory/A", &[], big).await;
    got.is_problem(413, "body_too_large");
    let items: Vec<Value> =
        (0..10_001).map(|i| json!({"sku": format!("S{i}"), "quantity": 1})).collect();
    let body = json!({ "items": items }).to_string();
    api.call("PUT", "/inventory/bulk/update", &body).await.is_problem(400, "too_many_items");
    let body = json!({ "items": items, "orderId": "o" }).to_string();
    api.call("POST", "/inventory/reserve", &body).await.is_problem(400, "too_many_items");
    let got = api.call("DELETE", "/inventory/A", "").await;
    got.is_problem(405, "method_not_allowed");
    let allow = got.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("PUT"), "{allow}");
    api.stop().await;
}

#[tokio::test]
async fn a_sku_may_have_any_characters() {
    let api = Api::start().await;
    for (path, sku) in [
        ("A%2FB", "A/B"),
        ("Gr%C3%B6%C3%9Fe%2042", "Größe 42"),
        ("50%25", "50%"),
        ("a+b", "a+b"),
        ("..", ".."),
        ("%F0%9F%A6%80", "🦀"),
        ("reserved", "reserved"),
    ] {
        let put = api.call("PUT", &format!("/inventory/{path}"), r#"{"quantity":1}"#).await;
        assert_eq!(put.is(200)["sku"], sku);
        assert_eq!(api.get(&format!("/inventory/{path}/channels")).await.is(200)["sku"], sku);
    }
    let history = api.get("/inventory/A%2FB/history").await.is(200);
    assert_eq!(history["items"][0]["kind"], "count");
    api.stop().await;
}

fn signed(algorithm: Algorithm, claims: &Value, secret: &[u8]) -> String {
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

#[tokio::test]
async fn only_good_credentials_come_in() {
    use base64::Engine as _;
    let api = Api::start().await;
    api.stock("A", 1).await;
    let now = START / 1_000_000;
    let good = json!({"sub": "x", "org": "acme", "exp": now + 60});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let encode =
        |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!("{}.{}.", encode(&json!({"alg": "none"})), encode(&good));
    let hs = |claims: &Value| signed(Algorithm::HS256, claims, SECRET);
    let mut tampered = hs(&good);
    tampered.truncate(tampered.len() - 4);
    tampered.push_str("AAAA");
    let mut parts: Vec<String> = hs(&good).split('.').map(str::to_owned).collect();
    parts[1] = encode(&with("org", json!("other")));
    let swapped = parts.join(".");
    for (token, code) in [
        (none, "token_invalid"),
        (tampered, "token_invalid"),
        (swapped, "token_invalid"),
        ("nonsense".to_owned(), "token_invalid"),
        ("a.b.c".to_owned(), "token_invalid"),
        (signed(Algorithm::HS256, &good, b"another secret that is long enough"), "token_invalid"),
        (signed(Algorithm::HS384, &good, SECRET), "token_invalid"),
        (signed(Algorithm::HS512, &good, SECRET), "token_invalid"),
        (hs(&with("exp", json!(now - 60))), "token_expired"),
        (hs(&with("exp", json!("never"))), "token_invalid"),
        (hs(&without("exp")), "token_invalid"),
        (hs(&with("nbf", json!(now + 60))), "token_invalid"),
    ] {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("orgid", "acme")];
        let got = api.raw("GET", "/sales-channel/inventory/A", &headers, "").await;
        got.is_problem(401, code);
        let challenge = got.header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
    let bearer = format!("Bearer {}", hs(&good));
    for (headers, status, code) in [
        (vec![], 401, "token_missing"),
        (vec![("orgid", "acme")], 401, "token_missing"),
        (vec![("authorization", "Basic eDp5"), ("orgid", "acme")], 401, "token_invalid"),
        (vec![("x-api-key", "tu_x.y"), ("orgid", "acme")], 401, "key_invalid"),
        (vec![("authorization", bearer.as_str())], 400, "org_missing"),
        (vec![("authorization", bearer.as_str()), ("orgid", "other")], 403, "org_forbidden"),
        (vec![("authorization", bearer.as_str()), ("orgid", "../x")], 403, "org_forbidden"),
    ] {
        let got = api.raw("GET", "/sales-channel/inventory/A", &headers, "").await;
        got.is_problem(status, code);
        assert_eq!(got.header("www-authenticate").is_some(), status == 401);
    }
    // Without a scope it may read and nothing else; the order is 401, 400, 403, body.
    let headers = [("authorization", bearer.as_str()), ("orgid", "acme")];
    api.raw("GET", "/sales-channel/inventory/A", &headers, "").await.is(200);
    for (method, path) in [
        ("PUT", "/inventory/A"),
        ("POST", "/inventory/reserve"),
        ("POST", "/channels/x/enable"),
        ("POST", "/inventory/sync"),
        ("GET", "/keys"),
        ("GET", "/cluster"),
    ] {
        let path = format!("/sales-channel{path}");
        let got = api.raw(method, &path, &headers, "garbage").await;
        got.is_problem(403, "scope_missing");
    }
    // It expires although it was remembered.
    api.advance(120);
    let got = api.raw("GET", "/sales-channel/inventory/A", &headers, "").await;
    got.is_problem(401, "token_expired");
    api.stop().await;
}

/// A key pair of the tests: the private half for signing, the public half as a JWK.
fn key_pair(seed: u8, id: &str) -> (EncodingKey, Value) {
    use base64::Engine as _;
    use p256::elliptic_curve::sec1::ToEncodedPoint;
    use p256::pkcs8::EncodePrivateKey;
    let secret = p256::SecretKey::from_slice(&[seed; 32]).unwrap();
    let point = secret.public_key().to_encoded_point(false);
    let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id,
        "x": text(point.x().unwrap()), "y": text(point.y().unwrap()),
    });
    (EncodingKey::from_ec_der(secret.to_pkcs8_der().unwrap().as_bytes()), jwk)
}

#[tokio::test]
async fn public_keys_are_read_and_read_again_and_never_taken_for_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let (one, one_public) = key_pair(1, "one");
    let (two, two_public) = key_pair(2, "two");
    let write = |keys: &[&Value]| {
        std::fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
    };
    write(&[&one_public]);
    let api = Api::start_with(TokenSettings {
        algorithms: vec![Algorithm::HS256, Algorithm::ES256],
        secret: Some(SECRET.to_vec()),
        keys: Some(KeySource::file(file.clone())),
        issuer: Some("idp".to_owned()),
        audience: Some("trueup".to_owned()),
    })
    .await;
    let exp = START / 1_000_000 + 3_600;
    let claims = |issuer: &str, audience: Value| {
        let mut claims = json!({"sub": "x", "org": "acme", "exp": exp});
        claims["iss"] = json!(issuer);
        claims["aud"] = audience;
        claims
    };
    let good = claims("idp", json!(["other", "trueup"]));
    let sign = |key: &EncodingKey, id: Option<&str>, algorithm: Algorithm, claims: &Value| {
        let mut header = Header::new(algorithm);
        header.kid = id.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, key).unwrap()
    };
    let es = Algorithm::ES256;
    // The public key is no secret: who signs with its bytes is not let in.
    let confused = EncodingKey::from_secret(one_public["x"].as_str().unwrap().as_bytes());
    let whole = EncodingKey::from_secret(one_public.to_string().as_bytes());
    let ask = async |token: String| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("orgid", "acme")];
        let got = api.raw("GET", "/sales-channel/inventory", &headers, "").await;
        got.status.as_u16()
    };
    for (token, status) in [
        (sign(&one, Some("one"), es, &good), 200),
        (sign(&one, None, es, &good), 200),
        (sign(&one, Some("two"), es, &good), 401),
        (sign(&two, Some("one"), es, &good), 401),
        (sign(&two, Some("two"), es, &good), 401),
        (sign(&confused, Some("one"), Algorithm::HS256, &good), 401),
        (sign(&whole, Some("one"), Algorithm::HS256, &good), 401),
        (sign(&one, Some("one"), es, &claims("other", json!("trueup"))), 401),
        (sign(&one, Some("one"), es, &claims("idp", json!("other"))), 401),
        (sign(&one, Some("one"), es, &json!({"org": "acme", "exp": exp})), 401),
        (sign(&EncodingKey::from_secret(SECRET), None, Algorithm::HS256, &good), 200),
    ] {
        assert_eq!(ask(token.clone()).await, status, "{token}");
    }
    // Keys are rolled: an unknown id makes the file be read again, soon but not at once.
    write(&[&one_public, &two_public]);
    let rolled = || sign(&two, Some("two"), es, &good);
    assert_eq!(ask(rolled()).await, 401);
    api.advance(20);
    assert_eq!(ask(rolled()).await, 200);
    // A source that is gone leaves the keys that were read.
    std::fs::remove_file(&file).unwrap();
    api.advance(1_200);
    assert_eq!(ask(sign(&one, Some("one"), es, &good)).await, 200);
    api.stop().await;
}

#[tokio::test]
async fn nothing_of_another_org_is_visible() {
    let api = Api::start().await;
    api.stock("A", 5).await;
    let held = api.reserve("o", "A", 1).await.is(201);
    let id = held["reservationId"].as_str().unwrap();
    let bearer = format!("Bearer {}", token_with("rival", &Scope::ALL));
    let headers = [("authorization", bearer.as_str()), ("orgid", "rival")];
    for (method, path, code) in [
        ("GET", "/inventory/A".to_owned(), "sku_not_found"),
        ("GET", "/inventory/A/history".to_owned(), "sku_not_found"),
        ("GET", "/inventory/A/channels".to_owned(), "sku_not_found"),
        ("GET", format!("/inventory/reservation/{id}"), "reservation_not_found"),
        ("POST", format!("/inventory/reservation/{id}/release"), "reservation_not_found"),
        ("POST", format!("/inventory/reservation/{id}/commit"), "reservation_not_found"),
    ] {
        let path = format!("/sales-channel{path}");
        api.raw(method, &path, &headers, "").await.is_problem(404, code);
    }
    let list = api.raw("GET", "/sales-channel/inventory", &headers, "").await.is(200);
    assert_eq!(list["items"], json!([]));
    api.stop().await;
}

#[tokio::test]
async fn reserving_again_replaces_and_never_stacks() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    let first = api.reserve("o", "A", 4).await.is(201);
    assert!(first.get("replaced").is_none());
    api.advance(60);
    let same = api.reserve("o", "A", 4).await.is(200);
    assert_eq!(same, first);
    let other = api.reserve("o", "A", 6).await.is(200);
    assert_eq!(
        (&other["replaced"], &other["reservationId"]),
        (&json!(true), &first["reservationId"])
    );
    assert_eq!(other["expiresAt"], "2026-04-25T10:16:00Z");
    let refused = api.reserve("o", "A", 11).await.is_problem(409, "insufficient_stock");
    assert_eq!(refused["shortages"], json!([{"sku": "A", "requested": 11, "available": 10}]));
    assert_eq!(api.get("/inventory/A").await.is(200)["available"], 4);
    // From its end on it holds nothing, whether a sweeper has run or not.
    api.advance(1_000);
    assert_eq!(api.get("/inventory/A").await.is(200)["available"], 10);
    let path = format!("/inventory/reservation/{}", first["reservationId"].as_str().unwrap());
    assert_eq!(api.get(&path).await.is(200)["status"], "expired");
    let commit = format!("{path}/commit");
    api.call("POST", &commit, "").await.is_problem(409, "reservation_expired");
    let again = api.call("POST", &commit, r#"{"reacquire":true}"#).await.is(200);
    assert_eq!(again["status"], "committed");
    let list = api.get("/inventory/reservations?orderId=o&status=committed").await.is(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    api.stop().await;
}

#[tokio::test]
async fn a_batch_is_each_its_own_outcome() {
    let api = Api::start().await;
    api.stock("A", 3).await;
    let one = |order: &str, quantity: u64| {
        let items = json!([{"sku": "A", "quantity": quantity}]);
        json!({ "orderId": order, "items": items })
    };
    let body = json!({"reservations": [one("a", 2), one("b", 2), one("c", 1), one("a", 2)]});
    let got = api.call("POST", "/inventory/reserve/batch", &body.to_string()).await.is(200);
    let results = got["results"].as_array().unwrap();
    let statuses: Vec<u64> =
        results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 409, 201, 200]);
    assert_eq!(results[1]["error"]["code"], "insufficient_stock");
    assert_eq!(results[1]["error"]["shortages"][0]["available"], 1);
    let bad = json!({"reservations": [one("a", 1), one("b", 0)]}).to_string();
    let problem = api.call("POST", "/inventory/reserve/batch", &bad).await;
    let problem = problem.is_problem(400, "invalid_quantity");
    assert_eq!(problem["errors"][0]["pointer"], "/reservations/1/items/0/quantity");
    api.stop().await;
}

#[tokio::test]
async fn the_same_key_gives_the_first_answer_again() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    let key = [("idempotency-key", "k1")];
    let adjust = |body: &'static str| api.with("POST", "/inventory/A/adjust", &key, body);
    let first = adjust(r#"{"delta":-3}"#).await;
    assert_eq!(first.is(200)["quantity"], 7);
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = adjust(r#"{"delta":-3}"#).await;
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.header("etag"), first.header("etag"));
    adjust(r#"{"delta":-4}"#).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(api.get("/inventory/A").await.is(200)["quantity"], 7);
    // A refusal of the ledger is an answer as well.
    let key = [("idempotency-key", "k2")];
    let too_much = r#"{"delta":-100}"#;
    for replayed in [None, Some("true")] {
        let got = api.with("POST", "/inventory/A/adjust", &key, too_much).await;
        got.is_problem(409, "insufficient_stock");
        assert_eq!(got.header("idempotency-replayed"), replayed);
    }
    // One that was malformed is none: the key is still free.
    let key = [("idempotency-key", "k3")];
    let got = api.with("POST", "/inventory/A/adjust", &key, "{}").await;
    got.is_problem(400, "missing_field");
    api.with("POST", "/inventory/A/adjust", &key, r#"{"delta":1}"#).await.is(200);
    for bad in ["", "a b", "ü", &"x".repeat(256)] {
        let key = [("idempotency-key", bad)];
        let got = api.with("POST", "/inventory/A/adjust", &key, r#"{"delta":1}"#).await;
        got.is_problem(400, "invalid_idempotency_key");
    }
    // The run that the first answer named is named again.
    let key = [("idempotency-key", "k4")];
    let put = r#"{"quantity":5,"syncToChannels":true}"#;
    let first = api.with("PUT", "/inventory/A", &key, put).await.is(200);
    let again = api.with("PUT", "/inventory/A", &key, put).await.is(200);
    assert_eq!(first["sync"]["runId"], again["sync"]["runId"]);
    api.stop().await;
}

#[tokio::test]
async fn work_beside_the_ledger_is_done_once_per_key() {
    let api = Api::start().await;
    let key = [("idempotency-key", "k")];
    let csv = "sku,quantity\nA,1\n";
    let import = || api.with("POST", "/inventory/import", &key, csv);
    let (one, two) = tokio::join!(import(), import());
    assert_eq!(one.is(200), two.is(200));
    let replayed = |got: &Got| got.header("idempotency-replayed").is_some();
    assert!(replayed(&one) != replayed(&two));
    let history = api.get("/inventory/A/history").await.is(200);
    assert_eq!(history["items"].as_array().unwrap().len(), 1);
    let other = api.with("POST", "/inventory/import", &key, "sku,quantity\nB,1\n").await;
    other.is_problem(422, "idempotency_key_reused");
    // A key is shown once, also to those who ask again under the same key.
    let key = [("idempotency-key", "k5")];
    let body = r#"{"subject":"till","scopes":["reservations:write"]}"#;
    let first = api.with("POST", "/keys", &key, body).await.is(201);
    assert!(first["key"].as_str().unwrap().starts_with("tu_"));
    let again = api.with("POST", "/keys", &key, body).await.is(201);
    assert_eq!((&again["id"], again.get("key")), (&first["id"], None));
    api.stop().await;
}

#[tokio::test]
async fn versions_guard_against_lost_updates() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    let got = api.get("/inventory/A").await;
    let tag = got.header("etag").unwrap().to_owned();
    let put = r#"{"quantity":5}"#;
    for matching in ["*", tag.as_str(), &format!("\"x\", {tag}"), &format!("W/{tag}")] {
        let got = api.with("GET", "/inventory/A", &[("if-none-match", matching)], "").await;
        assert_eq!(got.status, StatusCode::NOT_MODIFIED, "{matching}");
        assert_eq!(got.header("etag"), Some(tag.as_str()));
    }
    for (condition, path) in [
        ("\"99\"", "/inventory/A"),
        ("\"nonsense\"", "/inventory/A"),
        (&*format!("W/{tag}"), "/inventory/A"),
        ("*", "/inventory/NEW"),
        ("\"1\"", "/inventory/NEW"),
    ] {
        let got = api.with("PUT", path, &[("if-match", condition)], put).await;
        got.is_problem(412, "version_mismatch");
    }
    let two = format!("{tag}, \"7\"");
    let got = api.with("PUT", "/inventory/A", &[("if-match", two.as_str())], put).await;
    got.is_problem(400, "invalid_if_match");
    let condition = [("if-match", tag.as_str())];
    let done = api.with("PUT", "/inventory/A", &condition, put).await;
    done.is(200);
    assert_ne!(done.header("etag"), Some(tag.as_str()));
    let stale = api.with("PUT", "/inventory/A", &condition, put).await;
    stale.is_problem(412, "version_mismatch");
    assert_eq!(stale.header("etag"), done.header("etag"));
    api.with("PUT", "/inventory/A", &[("if-match", "*")], put).await.is(200);
    api.stop().await;
}

#[tokio::test]
async fn lists_are_paged_to_their_end() {
    let api = Api::start().await;
    for sku in ["A", "B", "C", "D", "E"] {
        api.stock(sku, 1).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/inventory?limit=2".to_owned());
    loop {
        let page = api.get(&path).await.is(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["sku"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("/inventory?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["A", "B", "C", "D", "E"]);
    let cursor = api.get("/inventory?limit=2").await.is(200)["nextCursor"].clone();
    let path = format!("/inventory/reservations?cursor={}", cursor.as_str().unwrap());
    api.get(&path).await.is_problem(400, "invalid_cursor");
    for order in 0..3 {
        api.reserve(&format!("o{order}"), "A", 1).await;
        api.stock("A", 9).await;
    }
    let (mut seqs, mut path) = (Vec::new(), "/inventory/A/history?limit=2".to_owned());
    loop {
        let page = api.get(&path).await.is(200);
        let items = page["items"].as_array().unwrap();
        seqs.extend(items.iter().map(|line| line["seq"].as_u64().unwrap()));
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("/inventory/A/history?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert!(seqs.windows(2).all(|pair| pair[0] > pair[1]), "{seqs:?}");
    assert_eq!(seqs.last(), Some(&1));
    api.stop().await;
}

#[tokio::test]
async fn a_bulk_update_tells_each_item_or_is_all_or_nothing() {
    let api = Api::start().await;
    api.stock("PART", 10).await;
    let parts = r#"{"parts":[{"sku":"PART","quantity":2}]}"#;
    let kit = api.call("PUT", "/inventory/KIT/bundle", parts).await.is(200);
    assert_eq!(kit["bundle"], json!({"parts": [{"sku": "PART", "quantity": 2}]}));
    assert_eq!((&kit["quantity"], &kit["available"]), (&json!(5), &json!(5)));
    let items = json!([{"sku": "A", "quantity": 1}, {"sku": "KIT", "quantity": 1}]);
    let body = json!({ "items": items }).to_string();
    let got = api.call("PUT", "/inventory/bulk/update", &body).await.is(200);
    assert_eq!((&got["updated"], &got["failed"]), (&json!(1), &json!(1)));
    assert_eq!(got["items"][0]["status"], "updated");
    assert_eq!(got["items"][1]["error"]["code"], "bundle_has_no_stock");
    let items = json!([{"sku": "B", "quantity": 1}, {"sku": "KIT", "quantity": 1}]);
    let body = json!({ "items": items, "atomic": true }).to_string();
    let got = api.call("PUT", "/inventory/bulk/update", &body).await;
    got.is_problem(409, "bundle_has_no_stock");
    api.get("/inventory/B").await.is_problem(404, "sku_not_found");
    api.stop().await;
}

#[test]
fn no_two_operations_are_called_the_same() {
    let document: Value = serde_json::from_str(&trueup::api::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let mut names: Vec<&str> =
        operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[tokio::test]
async fn a_fan_out_without_channels_can_be_looked_at() {
    let api = Api::start().await;
    let put = api.call("PUT", "/inventory/A", r#"{"quantity":5,"syncToChannels":true}"#).await;
    let id = put.is(200)["sync"]["runId"].as_str().unwrap().to_owned();
    let run = api.get(&format!("/sync/runs/{id}")).await.is(200);
    assert_eq!((&run["status"], &run["total"]), (&json!("completed"), &json!(0)));
    api.stop().await;
}

#[tokio::test]
async fn a_csv_keeps_the_spaces_of_its_skus() {
    let api = Api::start().await;
    let csv = "sku,quantity\nlead, 1 \n\" lead\",2\n\"lead \",3\n";
    let done = api.call("POST", "/inventory/import", csv).await.is(200);
    assert_eq!((&done["updated"], &done["failed"]), (&json!(3), &json!(0)), "{done}");
    for (path, quantity) in [("lead", 1), ("%20lead", 2), ("lead%20", 3)] {
        let sku = api.get(&format!("/inventory/{path}")).await.is(200);
        assert_eq!(sku["quantity"], quantity, "{path}");
    }
    api.stop().await;
}

#[tokio::test]
async fn what_must_come_from_one_place_is_taken_first() {
    let api = Api::start().await;
    for place in ["main", "berlin"] {
        let body = json!({"quantity": 5, "locationId": place}).to_string();
        api.call("PUT", "/inventory/A", &body).await.is(200);
    }
    let anywhere = json!({"sku": "A", "quantity": 5});
    let here = json!({"sku": "A", "quantity": 5, "locationId": "main"});
    let body = json!({"orderId": "o", "items": [anywhere, here]}).to_string();
    api.call("POST", "/inventory/reserve", &body).await.is(201);
    api.stop().await;
}

#[tokio::test]
async fn a_count_below_the_reserved_is_taken_and_said() {
    let api = Api::start().await;
    api.stock("A", 10).await;
    api.reserve("o", "A", 8).await.is(201);
    let put = r#"{"quantity":5,"lowStockThreshold":6}"#;
    let sku = api.call("PUT", "/inventory/A", put).await.is(200);
    assert_eq!((&sku["oversoldBy"], &sku["available"]), (&json!(3), &json!(0)));
    assert_eq!(sku["lowStock"], true);
    let low = api.get("/inventory/alerts/low-stock").await.is(200);
    assert_eq!(
        low["items"],
        json!([{"sku": "A", "quantity": 5, "available": 0, "lowStockThreshold": 6,
            "since": "2026-04-25T10:00:00Z"}])
    );
    let put = r#"{"quantity":8,"lowStockThreshold":null}"#;
    let sku = api.call("PUT", "/inventory/A", put).await.is(200);
    assert_eq!((sku.get("oversoldBy"), &sku["lowStockThreshold"]), (None, &Value::Null));
    // As it stood before.
    api.advance(10);
    api.stock("A", 100).await;
    let then = api.get("/inventory/A?at=2026-04-25T10:00:05Z").await.is(200);
    assert_eq!(then["quantity"], 8);
    let before = api.get("/inventory/A?at=2026-04-25T09:00:00Z").await;
    before.is_problem(404, "sku_not_found");
    api.stop().await;
}

#[tokio::test]
async fn what_is_exported_can_be_imported() {
    let api = Api::start().await;
    let csv = "sku,quantity,location,low_stock_threshold,safety_stock\n\
        A,5,main,2,1\n\"B, the \"\"second\"\"\",7,berlin,,\nbad,-1,,,\nA,9,main,,\n";
    let dry = api.call("POST", "/inventory/import?dryRun=true", csv).await.is(200);
    assert_eq!((&dry["updated"], &dry["failed"]), (&json!(2), &json!(2)));
    assert_eq!(dry["changes"][0]["to"], 5);
    api.get("/inventory/A").await.is_problem(404, "sku_not_found");
    let atomic = api.call("POST", "/inventory/import?atomic=true", csv).await;
    atomic.is_problem(400, "import_invalid");
    api.get("/inventory/A").await.is_problem(404, "sku_not_found");
    let done = api.call("POST", "/inventory/import", csv).await.is(200);
    assert_eq!((&done["updated"], &done["failed"]), (&json!(2), &json!(2)));
    assert_eq!(done["errors"][0]["line"], 4);
    assert_eq!(done["errors"][1]["code"], "duplicate_line");
    let exported = api.get("/inventory/export").await;
    assert_eq!(exported.header("content-type"), Some("text/csv; charset=utf-8"));
    let text = exported.text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "\"B, the \"\"second\"\"\",7,berlin,,0,0,0,7",
            "A,5,main,2,1,0,0,5",
            "sku,quantity,location,low_stock_threshold,safety_stock,backorder_limit,reserved,\
             available",
        ]
    );
    let again = api.call("POST", "/inventory/import?atomic=true", &text).await.is(200);
    assert_eq!((&again["updated"], &again["failed"]), (&json!(2), &json!(0)));
    api.stop().await;
}

#[tokio::test]
async fn an_api_key_opens_what_its_scopes_say_until_it_is_revoked() {
    let api = Api::start().await;
    api.stock("A", 5).await;
    let body = r#"{"subject":"till 3","scopes":["reservations:write"]}"#;
    let made = api.call("POST", "/keys", body).await.is(201);
    let key = made["key"].as_str().unwrap();
    let headers = [("x-api-key", key), ("orgid", "acme")];
    api.raw("GET", "/sales-channel/inventory/A", &headers, "").await.is(200);
    let reserve = r#"{"items":[{"sku":"A","quantity":1}],"orderId":"o"}"#;
    let path = "/sales-channel/inventory/reserve";
    api.raw("POST", path, &headers, reserve).await.is(201);
    let put = api.raw("PUT", "/sales-channel/inventory/A", &headers, "{}").await;
    put.is_problem(403, "scope_missing");
    let other = [("x-api-key", key), ("orgid", "rival")];
    let got = api.raw("GET", "/sales-channel/inventory/A", &other, "").await;
    got.is_problem(403, "org_forbidden");
    let wrong = format!("{}x", &key[..key.len() - 1]);
    let headers_ = [("x-api-key", wrong.as_str()), ("orgid", "acme")];
    let got = api.raw("GET", "/sales-channel/inventory/A", &headers_, "").await;
    got.is_problem(401, "key_invalid");
    let history = api.get("/inventory/A/history?kind=reserve").await.is(200);
    assert_eq!(history["items"][0]["actor"], "till 3");
    let list = api.get("/keys").await;
    assert!(!list.text().contains(key.split_once('.').unwrap().1));
    // Nobody makes a key that may more than he.
    let bearer = format!("Bearer {}", token_with("acme", &[Scope::ChannelsAdmin]));
    let admin = [("authorization", bearer.as_str()), ("orgid", "acme")];
    let got = api.raw("POST", "/sales-channel/keys", &admin, body).await;
    got.is_problem(403, "scope_missing");
    let path = format!("/keys/{}", made["id"].as_str().unwrap());
    api.call("DELETE", &path, "").await.is(204);
    let got = api.raw("GET", "/sales-channel/inventory/A", &headers, "").await;
    got.is_problem(401, "key_invalid");
    let secret = key.split_once('.').unwrap().1;
    assert_eq!(api.deeds(secret).await, ["key_revoked", "key_made"]);
    api.stop().await;
}

#[tokio::test]
async fn subscriptions_show_their_secret_once() {
    let api = Api::start().await;
    let body = r#"{"url":"http://127.0.0.1:9/hook","events":["inventory.low_stock"]}"#;
    let made = api.call("POST", "/webhooks", body).await.is(201);
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let id = made["id"].as_str().unwrap();
    let path = format!("/webhooks/{id}");
    assert_eq!(api.get(&path).await.is(200).get("secret"), None);
    let rotated = api.call("POST", &format!("{path}/rotate-secret"), "").await.is(200);
    assert_ne!(rotated["secret"], made["secret"]);
    let put = r#"{"url":"http://127.0.0.1:9/other","enabled":false}"#;
    let changed = api.call("PUT", &path, put).await.is(200);
    assert_eq!((&changed["enabled"], &changed["events"]), (&json!(false), &json!([])));
    let deliveries = api.get(&format!("{path}/deliveries")).await.is(200);
    assert_eq!(deliveries["items"], json!([]));
    api.call("DELETE", &path, "").await.is(204);
    api.get(&path).await.is_problem(404, "subscription_not_found");
    let secret = rotated["secret"].as_str().unwrap();
    assert_eq!(
        api.deeds(secret).await,
        ["subscription_removed", "subscription_changed", "secret_rotated", "subscription_made"]
    );
    api.stop().await;
}

#[tokio::test]
async fn health_figures_and_documents_need_no_credential() {
    let api = Api::start().await;
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        api.raw("GET", path, &[], "").await.is(200);
    }
    let figures = api.raw("GET", "/metrics", &[], "").await;
    assert!(figures.text().contains("trueup_store_commands_total"));
    let docs = api.raw("GET", "/docs/", &[], "").await;
    assert_eq!(docs.status, StatusCode::OK);
    assert!(!docs.text().contains("https://"), "{}", docs.text());
    let script = api.raw("GET", "/docs/swagger-initializer.js", &[], "").await;
    assert!(script.text().contains("/openapi.json"));
    assert!(!script.text().contains("https://"), "{}", script.text());
    api.stop().await;
}

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Every operation of the description, with its path filled in.
fn operations() -> Vec<(String, String, String, Value)> {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let filled: Vec<&str> = path
            .split('/')
            .map(|segment| if segment.starts_with('{') { "x" } else { segment })
            .collect();
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                let row =
                    (path.clone(), filled.join("/"), method.to_uppercase(), operation.clone());
                operations.push(row);
            }
        }
    }
    operations
}

#[tokio::test]
async fn the_description_and_the_routes_are_the_same() {
    let api = Api::start().await;
    let operations = operations();
    assert!(operations.len() > 50, "{}", operations.len());
    for (path, filled, method, _) in &operations {
        let got = api.raw(method, filled, &[], "").await;
        let is_route = got.status != StatusCode::METHOD_NOT_ALLOWED
            && !(got.status == StatusCode::NOT_FOUND && got.text().contains("\"not_found\""));
        assert!(is_route, "{method} {path} is described and not there: {}", got.text());
    }
    // And the other way: what is not described is not there.
    for (path, filled, ..) in &operations {
        if filled == "/upstream/webhooks/x/x" {
            continue;
        }
        for method in METHODS.map(str::to_uppercase) {
            let described = operations.iter().any(|(known, _, m, _)| known == path && *m == method);
            let got = api.raw(&method, filled, &[], "").await;
            let refused = got.status == StatusCode::METHOD_NOT_ALLOWED;
            // Another described path may fit the filled one as well.
            let twin = operations.iter().any(|(_, f, m, _)| f == filled && *m == method);
            assert!(described || twin || refused, "{method} {path} is there and not described");
        }
    }
    let document = api.raw("GET", "/openapi.json", &[], "").await.json();
    assert_eq!(
        document.to_string(),
        serde_json::from_str::<Value>(&openapi()).unwrap().to_string()
    );
    api.stop().await;
}

#[tokio::test]
async fn every_operation_asks_for_a_credential_and_documents_its_problems() {
    let api = Api::start().await;
    for (path, filled, method, operation) in operations() {
        assert!(operation["summary"].is_string(), "{method} {path} has no words");
        assert!(operation["tags"][0].is_string(), "{method} {path} has no tag");
        if !path.starts_with("/sales-channel/") {
            continue;
        }
        api.raw(&method, &filled, &[], "").await.is_problem(401, "token_missing");
        let mut statuses = vec!["400", "401", "403", "500", "503"];
        if Method::from_bytes(method.as_bytes()).is_ok_and(|m| m == "POST" || m == "PUT") {
            statuses.extend(["413", "422"]);
        }
        for status in statuses {
            let described = &operation["responses"][status]["content"];
            let problem = &described["application/problem+json"];
            assert!(problem.is_object(), "{method} {path} does not document {status}");
        }
        let names = operation["parameters"].as_array().unwrap();
        assert!(names.iter().any(|parameter| parameter["name"] == "orgid"), "{path}");
    }
    api.stop().await;
}

#[tokio::test]
async fn every_reference_of_the_description_leads_somewhere() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => open.extend(members.values()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn live_events_are_of_the_org_only() {
    use futures::StreamExt;
    let api = Api::start().await;
    let bearer = format!("Bearer {}", token());
    let request = Request::builder()
        .uri("/sales-channel/events")
        .header("authorization", bearer)
        .header("orgid", "acme")
        .body(Body::empty())
        .unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    let bearer = format!("Bearer {}", token_with("rival", &Scope::ALL));
    let rival = [("authorization", bearer.as_str()), ("orgid", "rival")];
    let body = r#"{"quantity":1}"#;
    api.raw("PUT", "/sales-channel/inventory/SECRET", &rival, body).await.is(200);
    api.stock("MINE", 3).await;
    let mut text = String::new();
    while !text.contains("MINE") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        text.push_str(&String::from_utf8_lossy(&chunk.unwrap().unwrap().unwrap()));
    }
    assert!(text.contains("event: stock") && !text.contains("SECRET"), "{text}");
    drop(events);
    api.stop().await;
}

#[tokio::test]
async fn the_only_node_works_for_every_shard() {
    let api = Api::start().await;
    let cluster = api.get("/cluster").await.is(200);
    assert_eq!(cluster["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(cluster["nodes"][0]["id"], cluster["nodeId"]);
    assert_eq!(cluster["nodes"][0]["shards"], 64);
    let shards = cluster["shards"].as_array().unwrap();
    let numbers = shards.iter().map(|shard| shard["shard"].as_u64().unwrap());
    assert!(numbers.eq(0..64), "{cluster}");
    assert!(shards.iter().all(|shard| shard["node"] == cluster["nodeId"]), "{cluster}");
    let figures = api.raw("GET", "/metrics", &[], "").await.text();
    assert!(figures.contains("trueup_node_shards 64"), "{figures}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_changed_between_two_instants_is_told_with_what_did_it() {
    let api = Api::start().await;
    let at = |seconds: i64| in_query(START + seconds * 1_000_000);
    api.stock("A", 10).await;
    api.stock("B", 5).await;
    api.advance(100);
    api.call("POST", "/inventory/A/adjust", r#"{"delta":-3}"#).await.is(200);
    api.reserve("o1", "A", 2).await.is(201);
    api.stock("C", 1).await;
    api.advance(100);
    api.stock("A", 20).await;
    let diff = format!("/inventory/A/diff?from={}&to={}", at(50), at(150));
    let told = api.get(&diff).await.is(200);
    assert_eq!(told["from"], json!({"quantity": 10, "reserved": 0, "available": 10}), "{told}");
    assert_eq!(told["to"], json!({"quantity": 7, "reserved": 2, "available": 5}));
    let deltas = ["delta", "reservedDelta", "availableDelta"].map(|name| told[name].clone());
    assert_eq!(deltas, [json!(-3), json!(2), json!(-5)]);
    assert_eq!(told["kinds"]["adjust"], json!({"lines": 1, "delta": -3, "reservedDelta": 0}));
    assert_eq!(told["kinds"]["reserve"], json!({"lines": 1, "delta": 0, "reservedDelta": 2}));
    // Up to now, where nothing else is said.
    let told = api.get(&format!("/inventory/A/diff?from={}", at(150))).await.is(200);
    assert_eq!((&told["delta"], &told["kinds"]["count"]["lines"]), (&json!(13), &json!(1)));
    let all = format!("/inventory/diff/skus?from={}&to={}&limit=2", at(50), at(150));
    let page = api.get(&all).await.is(200);
    assert_eq!(
        (&page["items"][0]["sku"], page["items"].as_array().unwrap().len()),
        (&json!("A"), 1)
    );
    let next = page["nextCursor"].as_str().unwrap();
    let rest = api.get(&format!("{all}&cursor={next}")).await.is(200);
    let made = &rest["items"][0];
    assert_eq!(
        (&made["sku"], &made["from"], &made["delta"]),
        (&json!("C"), &Value::Null, &json!(1))
    );
    assert_eq!(rest["nextCursor"], Value::Null);
    // A day up to now, where nothing is said.
    let day = api.get("/inventory/A/diff").await.is(200);
    assert_eq!((&day["from"], &day["delta"]), (&Value::Null, &json!(20)), "{day}");
    let back = format!("/inventory/A/diff?from={}&to={}", at(150), at(50));
    api.get(&back).await.is_problem(400, "invalid_window");
    api.get(&format!("/inventory/Z/diff?from={}", at(50))).await.is_problem(404, "sku_not_found");
    let path = format!("/sales-channel/inventory/A/diff?from={}", at(50));
    api.of("other", &[Scope::Read], "GET", &path).await.is_problem(404, "sku_not_found");
    let path = format!("/sales-channel/inventory/diff/skus?from={}", at(50));
    assert_eq!(api.of("other", &[Scope::Read], "GET", &path).await.is(200)["items"], json!([]));
    api.stop().await;
}
