//! An API that gives canned answers and notes what it was asked.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt;
use trueup_web::{KEY_BYTES, Options};

/// What the API was asked for: method, address, body.
type Wish = (String, String, String);
/// All that it was asked for, and the idempotency key of each.
type Asked = Arc<Mutex<Vec<(Wish, String)>>>;

pub(crate) struct House {
    pages: Router,
    asked: Asked,
    cookie: Option<String>,
}

pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    /// Returns the word that the page's forms carry.
    pub(crate) fn form(&self) -> String {
        let from = self.text.find("name=\"form\" value=\"").expect("the page has a form") + 19;
        self.text[from..].split('"').next().unwrap().to_owned()
    }

    pub(crate) fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }
}

const GOOD: &str = "good.good.good";

fn sku(name: &str) -> Value {
    json!({
        "sku": name, "quantity": 50, "reserved": 6, "available": 42, "safetyStock": 2,
        "lowStockThreshold": 60, "lowStock": true, "backorderLimit": 0, "version": 9,
        "updatedAt": "2026-11-24T10:00:00.5Z",
        "locations": [{"locationId": "main", "quantity": 50, "reserved": 6, "available": 44}],
    })
}

fn listed(items: &Value) -> Value {
    json!({ "items": items, "nextCursor": null })
}

fn answer(path: &str) -> Option<Value> {
    let hold = json!({
        "reservationId": "rsv_1", "orderId": "order-1", "status": "active",
        "items": [{"sku": "A<b>", "quantity": 2}], "createdAt": "2026-11-24T10:00:00Z",
        "expiresAt": "2026-11-24T10:15:00Z",
    });
    let channel = json!({ "channelId": "shopify", "kind": "shopify", "shop": "acme" });
    Some(match path {
        "/inventory" => json!({ "items": [sku("A<b>")], "nextCursor": "n&x" }),
        "/inventory/A%3Cb%3E" => sku("A<b>"),
        "/inventory/A%3Cb%3E/channels" => json!({
            "sku": "A<b>", "master": 42,
            "channels": {"shopify": {"status": "pending", "quantity": 40, "expected": 38}},
        }),
        "/inventory/A%3Cb%3E/explain" => json!({ "sku": "A<b>", "allPaused": null,
            "paused": {"sku": "A<b>", "since": "2026-11-24T10:00:00Z", "by": "bob", "note": null},
            "listings": [{
            "channelId": "shopify", "status": "pending", "quantity": 40, "expected": 38,
            "terms": {
                "onHand": 50, "reserved": 6, "safetyStock": 2, "available": 42, "buffer": 4,
                "percent": 100, "unitsPerListing": 1, "maxQuantity": null, "zeroBelow": 0,
                "published": 38,
            },
            "acknowledgedAt": "2026-11-24T09:00:00Z",
            "observed": {"quantity": 40, "at": "2026-11-24T09:30:00Z"},
            "inFlight": null, "error": null, "strategy": "master_wins",
            "fulfilledBy": "merchant",
        }]}),
        "/inventory/A%3Cb%3E/diff" => json!({
            "sku": "A<b>", "since": "2026-11-23T10:00:00Z", "until": "2026-11-24T10:00:00Z",
            "from": null, "to": {"quantity": 50, "reserved": 6, "available": 42},
            "delta": 50, "reservedDelta": 6, "availableDelta": 42, "cut": false,
            "kinds": {"channel_sale": {"lines": 3, "delta": -7, "reservedDelta": 0}},
        }),
        "/inventory/A%3Cb%3E/history" => listed(&json!([{
            "seq": 9, "at": "2026-11-24T10:00:00Z", "kind": "reserve", "locationId": "main",
            "delta": 0, "reservedDelta": 2, "quantityAfter": 50, "reservedAfter": 6,
            "reason": null, "actor": "checkout", "source": "api", "reference": "order-1",
        }])),
        "/inventory/reservations" => listed(&json!([hold])),
        "/inventory/alerts/low-stock" => listed(&json!([{
            "sku": "A<b>", "quantity": 50, "available": 42, "lowStockThreshold": 60,
            "since": "2026-11-24T10:00:00Z",
        }])),
        "/inventory/drift" => listed(&json!([{
            "sku": "A<b>", "channelId": "shopify", "quantity": 40, "expected": 38,
            "difference": 2, "status": "stale", "readAt": "2026-11-24T09:30:00Z",
        }])),
        "/inventory/conflicts" => listed(&json!([{
            "id": "7", "channelId": "shopify", "listing": "x", "sku": "A<b>", "master": 50,
            "base": 38, "expected": 38, "observed": 40, "openedAt": "2026-11-24T09:30:00Z",
            "seenAt": "2026-11-24T09:31:00Z", "status": "open", "resolved": null,
        }])),
        "/channels" => listed(&json!([channel])),
        "/channels/shopify" => channel,
        "/channels/shopify/status" => json!({
            "status": "ok", "connected": true, "lastSync": null, "lastError": null,
            "pending": 1, "drifted": 1, "conflicts": 1, "postponed": 0,
            "health": {"state": "ok", "code": null, "detail": null, "since": null},
            "token": {"expiresAt": null}, "rateLimit": {"graphql": {"perSecond": 100.0}},
        }),
        "/channels/shopify/blast-radius" => json!({
            "zeroPercent": 20, "zeroNumber": null, "zeroesFree": 50, "changePercent": 80,
            "changeNumber": 7, "changesFree": 1000,
        }),
        "/sync/paused" => json!({
            "org": {"sku": null, "since": "2026-11-24T10:00:00Z", "by": "ann", "note": "count"},
            "items": [{"sku": "A<b>", "since": "2026-11-24T10:00:00Z", "by": "bob", "note": null}],
            "nextCursor": null,
        }),
        "/sync/runs" => listed(&json!([{
            "runId": "run_2", "operation": "inventory_push", "channelId": "shopify",
            "status": "held", "error": "it would zero 60 of 60 listings",
            "startedAt": "2026-11-24T10:00:00Z", "finishedAt": null,
        }])),
        "/sync/runs/run_2" => json!({
            "runId": "run_2", "operation": "inventory_push", "channelId": "shopify",
            "status": "held", "error": "it would zero 60 of 60 listings", "zeroes": 60,
            "startedAt": "2026-11-24T10:00:00Z", "finishedAt": null,
            "items": [{"sku": "A<b>", "action": "held", "before": 41, "quantity": 0}],
        }),
        "/sync/history" => listed(&json!([{
            "id": "1", "at": "2026-11-24T10:00:00Z", "operation": "inventory_push",
            "channelId": "shopify", "sku": null, "status": "ok", "runId": "run_1",
        }])),
        "/sync/runs/run_1" => json!({
            "runId": "run_1", "operation": "inventory_push", "channelId": "shopify",
            "status": "completed", "total": 3, "pushed": 3,
            "startedAt": "2026-11-24T10:00:00Z", "finishedAt": "2026-11-24T10:00:01Z",
        }),
        "/webhooks" | "/keys" => listed(&json!([])),
        "/readyz" => json!({
            "status": "ok", "version": "0.1.0", "startedAt": "2026-11-24T10:00:00Z",
        }),
        "/metrics" => json!("trueup_store_commands_total 7\n"),
        "/cluster" => json!({ "nodeId": "1", "store": "embedded", "nodes": [{
            "id": "1", "name": "here", "url": "http://here", "version": "0.1.0",
            "startedAt": "2026-11-24T10:00:00Z", "seenAt": "2026-11-24T10:00:00Z", "shards": 1,
        }], "shards": [{"shard": 0, "node": "1"}] }),
        _ => return None,
    })
}

async fn api(asked: Asked, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let whole = parts.uri.path_and_query().unwrap().as_str().to_owned();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let key = parts.headers.get("idempotency-key").map_or("", |key| key.to_str().unwrap());
    asked.lock().push(((parts.method.to_string(), whole, text), key.to_owned()));
    let is_known = parts.headers.get("authorization").is_some_and(|v| v == "Bearer good.good.good");
    let problem = |status: StatusCode, code: &str| {
        let body = json!({ "code": code, "detail": format!("that is {code}") });
        (status, body.to_string()).into_response()
    };
    if !is_known || parts.headers["orgid"] != "acme" {
        return problem(StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let path = parts.uri.path();
    let path = path.strip_prefix("/sales-channel").unwrap_or(path);
    if parts.method != Method::GET {
        if path.ends_with("/adjust") {
            return problem(StatusCode::CONFLICT, "insufficient_stock");
        }
        if path == "/channels/shopify/enable" && parts.uri.query().is_none() {
            let body = json!({
                "code": "blast_radius", "detail": "it would zero 60 of 60 listings",
                "impact": {"changes": 60, "zeroes": 60, "raises": 0, "lowers": 0,
                    "items": [{"sku": "A<b>", "listing": "x", "before": 41, "quantity": 0}]},
            });
            return (StatusCode::CONFLICT, body.to_string()).into_response();
        }
        let answer = match path {
            "/channels/shopify/what-if" => json!({
                "changes": 12, "zeroes": 3, "raises": 0, "lowers": 9, "conflicts": 2, "adopted": 1,
                "items": [{"sku": "A<b>", "listing": "x", "before": 41, "quantity": 40}],
            }),
            "/channels/shopify/backtest" => json!({
                "from": "2026-10-24T10:00:00Z", "to": "2026-11-24T10:00:00Z", "lines": 99,
                "cut": false, "sold": 60, "oversells": 3, "oversoldUnits": 4,
                "oversellsAvoided": 2, "unitsAvoided": 3, "unitsMissed": 1, "unitsHidden": 14,
                "unitsHiddenAverage": 13, "differences": 5, "adopted": 4, "conflicts": 0,
            }),
            "/inventory/import" => json!({
                "lines": 1, "updated": 1, "failed": 0, "dryRun": true,
                "impact": {"shopify": {"changes": 1, "zeroes": 1, "raises": 0, "lowers": 0}},
            }),
            _ => json!({ "runId": "run_1" }),
        };
        return answer.to_string().into_response();
    }
    match answer(path) {
        Some(Value::String(text)) => text.into_response(),
        Some(answer) => answer.to_string().into_response(),
        None => problem(StatusCode::NOT_FOUND, "not_found"),
    }
}

impl House {
    /// Returns the dashboard of somebody who is not signed in.
    pub(crate) fn new() -> Self {
        let asked = Asked::default();
        let noted = asked.clone();
        let api = Router::new().fallback(move |request: Request| api(noted.clone(), request));
        let pages = trueup_web::routes(Options { api, key: [7; KEY_BYTES], is_secure: false });
        Self { pages, asked, cookie: None }
    }

    pub(crate) async fn signed_in() -> Self {
        let mut house = Self::new();
        let fields = [("org", "acme"), ("credential", GOOD), ("back", "/stock")];
        let page = house.post("/login", &fields).await;
        assert_eq!((page.status, page.location()), (StatusCode::SEE_OTHER, "/stock"));
        let cookie = page.headers[header::SET_COOKIE].to_str().unwrap();
        house.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        house.asked.lock().clear();
        house
    }

    pub(crate) async fn get(&self, path: &str) -> Page {
        self.send(Method::GET, path, String::new(), None).await
    }

    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.post_from("same-origin", path, fields).await
    }

    pub(crate) async fn post_from(&self, site: &str, path: &str, fields: &[(&str, &str)]) -> Page {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(fields);
        self.send(Method::POST, path, body.finish(), Some(site)).await
    }

    async fn send(&self, method: Method, path: &str, body: String, site: Option<&str>) -> Page {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        if let Some(site) = site {
            request = request
                .header("sec-fetch-site", site)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request.body(Body::from(body)).unwrap();
        let response = self.pages.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = body.collect().await.unwrap().to_bytes().to_vec();
        let text = String::from_utf8(text).unwrap();
        Page { status: parts.status, headers: parts.headers, text }
    }

    /// Returns what the API was asked to do, and forgets it.
    pub(crate) fn wishes(&self) -> Vec<Wish> {
        self.changes().into_iter().map(|(wish, _)| wish).collect()
    }

    /// Returns the keys of what the API was asked to do, and forgets it.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.changes().into_iter().map(|(_, key)| key).collect()
    }

    fn changes(&self) -> Vec<(Wish, String)> {
        let asked = std::mem::take(&mut *self.asked.lock());
        asked.into_iter().filter(|((method, _, _), _)| method != "GET").collect()
    }
}
