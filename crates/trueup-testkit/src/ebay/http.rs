//! eBay over HTTP: tokens, Sell Inventory and Fulfillment, Analytics, Notification, Trading.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Handle};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::scopes::{self, Scopes};
use super::state::{day_end, day_of};
use super::wire::{self, BULK_MAX};
use super::{
    CLIENT_ID, CLIENT_SECRET, KEY_ID, REFRESH_TOKEN, REFRESH_TOKEN_SECONDS, RU_NAME, Simulator,
    TOKEN_SECONDS, trading,
};
use crate::consent;
use crate::edge::{json as answer, list, pairs, value, wrote};
use crate::faults::Trouble;
use crate::shop::{Shop, SimOrder};
use crate::time::millis_text;

/// The largest page of inventory items and of orders.
pub const PAGE_MAX: usize = 200;
/// The most destinations and subscriptions.
pub(super) const SUBSCRIPTIONS_MAX: usize = 100;

/// The scope that the topics here ask for.
const TOPIC_SCOPE: &str = scopes::FULFILLMENT;

const INVENTORY: &str = "/sell/inventory/v1";
const NOTIFICATION: &str = "/commerce/notification/v1";

type Wrong = Box<Response>;

pub(super) fn routes(sim: Simulator) -> Router {
    let inventory = Router::new()
        .route("/bulk_update_price_quantity", post(bulk_update))
        .route("/bulk_get_inventory_item", post(bulk_get))
        .route("/inventory_item", get(inventory_items))
        .route("/inventory_item/{sku}", get(inventory_item))
        .route("/offer", get(offers))
        .route("/location", get(locations));
    let notification = Router::new()
        .route("/public_key/{id}", get(public_key))
        .route("/destination", get(destinations).post(create_destination))
        .route("/subscription", post(create_subscription))
        .route("/topic", get(topics));
    Router::new()
        .route("/oauth2/authorize", get(authorize))
        .route("/identity/v1/oauth2/token", post(token))
        .nest(INVENTORY, inventory)
        .nest(NOTIFICATION, notification)
        .route("/sell/fulfillment/v1/order", get(orders))
        .route("/sell/fulfillment/v1/order/{id}", get(order))
        .route("/developer/analytics/v1_beta/rate_limit/", get(rate_limit))
        .route("/developer/analytics/v1_beta/rate_limit", get(rate_limit))
        .route("/developer/analytics/v1_beta/user_rate_limit/", get(rate_limit))
        .route("/ws/api.dll", post(trading_call))
        .with_state(sim)
}

pub(super) fn trouble(trouble: Trouble) -> Response {
    match trouble {
        Trouble::Throttled => {
            error(StatusCode::TOO_MANY_REQUESTS, 2_001, "Too many requests. Try again later.")
        }
        Trouble::ServerError => {
            error(StatusCode::INTERNAL_SERVER_ERROR, 25_001, "A system error has occurred.")
        }
        Trouble::Unauthorized => unauthorized(),
        Trouble::Unavailable => {
            error(StatusCode::SERVICE_UNAVAILABLE, 2_003, "The service is down.")
        }
    }
}

fn error(status: StatusCode, id: u32, message: &str) -> Response {
    answer(status, &json!({"errors": [wire::error(id, message)]}))
}

fn bad(message: &str) -> Wrong {
    Box::new(error(StatusCode::BAD_REQUEST, 25_709, message))
}

fn unauthorized() -> Response {
    let error = json!({
        "errorId": 1_001, "domain": "OAuth", "category": "REQUEST",
        "message": "Invalid access token",
        "longMessage": "Invalid access token. Check the value of the Authorization HTTP header.",
    });
    answer(StatusCode::UNAUTHORIZED, &json!({"errors": [error]}))
}

/// `GET /oauth2/authorize`: the redirect is a RuName, whose address the account knows.
async fn authorize(Handle(sim): Handle<Simulator>, RawQuery(query): RawQuery) -> Response {
    let query = pairs(query.unwrap_or_default().as_bytes());
    let field = |name| value(&query, name).unwrap_or_default();
    if field("client_id") != CLIENT_ID || field("response_type") != "code" {
        return consent::refuse("client_id or response_type is wrong");
    }
    let Some(to) = sim.0.accept_url.lock().clone().filter(|_| field("redirect_uri") == RU_NAME)
    else {
        return consent::refuse("the RuName is not known");
    };
    let Some(scopes) = Scopes::read(field("scope")) else {
        return consent::refuse("invalid_scope");
    };
    let code = sim.engine().give_code(RU_NAME);
    sim.0.scopes.lock().note_code(&code, scopes);
    let back = [("state", field("state")), ("code", code.as_str()), ("expires_in", "60")];
    consent::send_back(&to, &back)
}

/// `POST /identity/v1/oauth2/token`.
async fn token(Handle(sim): Handle<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    let refuse = |status, code: &str, words: &str| {
        answer(status, &json!({"error": code, "error_description": words}))
    };
    let wanted = format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}")));
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given != Some(wanted.as_str()) {
        let words = "client authentication failed";
        return refuse(StatusCode::UNAUTHORIZED, "invalid_client", words);
    }
    let fields = pairs(&body);
    let field = |name| value(&fields, name).unwrap_or_default();
    let (kind, scopes) = match field("grant_type") {
        "authorization_code" => {
            let redirect = Some(field("redirect_uri"));
            if !sim.engine().take_code(field("code"), redirect) {
                let words = "the provided authorization grant code is invalid or was issued to \
                             another client";
                return refuse(StatusCode::BAD_REQUEST, "invalid_grant", words);
            }
            ("User Access Token", Some(sim.0.scopes.lock().consent(field("code"))))
        }
        "refresh_token" if field("refresh_token") == REFRESH_TOKEN => {
            ("User Access Token", sim.0.scopes.lock().refresh(field("scope")))
        }
        "refresh_token" => {
            let words = "the provided authorization refresh token is invalid or was issued to \
                         another client";
            return refuse(StatusCode::BAD_REQUEST, "invalid_grant", words);
        }
        "client_credentials" => {
            let asked = Scopes::read(field("scope"));
            let scopes = asked.filter(|all| all.iter().all(|scope| *scope == scopes::APPLICATION));
            ("Application Access Token", scopes)
        }
        _ => {
            let words = "grant type in request is not supported by the authorization server";
            return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", words);
        }
    };
    let Some(scopes) = scopes else {
        let words = "The requested scope is invalid, unknown, malformed, or exceeds the scope \
                     granted to the client";
        return refuse(StatusCode::BAD_REQUEST, "invalid_scope", words);
    };
    let token = sim.engine().issue_token("v^1.1#i^1#sim#", TOKEN_SECONDS);
    sim.0.scopes.lock().note_token(&token, scopes);
    let mut body = json!({"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": kind});
    if field("grant_type") == "authorization_code" {
        body["refresh_token"] = REFRESH_TOKEN.into();
        body["refresh_token_expires_in"] = REFRESH_TOKEN_SECONDS.into();
    }
    answer(StatusCode::OK, &body)
}

/// Returns the token that a request shows.
fn bearer(headers: &HeaderMap) -> &str {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

/// Returns whether a request's token has these scopes.
fn has_scopes(sim: &Simulator, headers: &HeaderMap, needed: &[&str]) -> bool {
    let scopes = sim.0.scopes.lock();
    needed.iter().all(|scope| scopes.opens(bearer(headers), scope))
}

fn forbidden() -> Response {
    error(StatusCode::FORBIDDEN, 1_100, "Insufficient permissions to fulfill the request.")
}

/// Checks the token, its scopes and the daily quota of an API, then does the work.
fn serve(
    sim: &Simulator,
    headers: &HeaderMap,
    api: &'static str,
    work: impl FnOnce() -> Result<Response, Wrong>,
) -> Response {
    if !sim.engine().token_good(bearer(headers)) {
        return unauthorized();
    }
    let needed: &[&str] = match api {
        "Inventory" => &[scopes::INVENTORY],
        "Fulfillment" => &[scopes::FULFILLMENT],
        _ => &[],
    };
    if !has_scopes(sim, headers, needed) {
        return forbidden();
    }
    let calls = sim.0.state.lock().count_call(api, sim.now());
    if calls > sim.0.settings.calls_max && api != "Analytics" {
        return trouble(Trouble::Throttled);
    }
    work().unwrap_or_else(|wrong| *wrong)
}

/// Reads the `requests` of a bulk call.
fn requests(body: &[u8]) -> Result<Vec<Value>, Wrong> {
    let body: Value = serde_json::from_slice(body).map_err(|_| bad("Invalid JSON"))?;
    let requests = body.get("requests").and_then(Value::as_array).filter(|list| !list.is_empty());
    let requests =
        requests.ok_or_else(|| bad("Invalid value for requests: at least 1 is needed"))?;
    if requests.len() > BULK_MAX {
        return Err(bad("Invalid value for requests: at most 25 are allowed"));
    }
    Ok(requests.clone())
}

/// `POST /sell/inventory/v1/bulk_update_price_quantity`.
async fn bulk_update(Handle(sim): Handle<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    serve(&sim, &headers, "Inventory", || {
        let requests = requests(&body)?;
        let (faults, now) = (&sim.engine().faults, sim.now());
        let mut state = sim.0.state.lock();
        let max = sim.0.settings.revisions_max;
        let (answers, all_good) = wire::bulk_update(&mut state, faults, &requests, max, now);
        let status = if all_good { StatusCode::OK } else { StatusCode::MULTI_STATUS };
        Ok(wrote(answer(status, &json!({"responses": answers}))))
    })
}

/// `POST /sell/inventory/v1/bulk_get_inventory_item`.
async fn bulk_get(Handle(sim): Handle<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    serve(&sim, &headers, "Inventory", || {
        let requests = requests(&body)?;
        let state = sim.0.state.lock();
        let mut all_good = true;
        let mut answers = Vec::new();
        for request in &requests {
            let sku = request.get("sku").and_then(Value::as_str).unwrap_or_default();
            let item = state.items.get(sku).filter(|item| !item.legacy);
            all_good &= item.is_some();
            answers.push(match item {
                Some(item) => json!({
                    "sku": sku, "statusCode": 200, "inventoryItem": wire::item(sku, item),
                    "errors": [], "warnings": [],
                }),
                None => {
                    let words = "The SKU could not be found or is not available.";
                    json!({
                        "sku": sku, "statusCode": 404, "errors": [wire::error(25_702, words)],
                        "warnings": [],
                    })
                }
            });
        }
        let status = if all_good { StatusCode::OK } else { StatusCode::MULTI_STATUS };
        Ok(answer(status, &json!({"responses": answers})))
    })
}

fn number(query: &[(String, String)], name: &str, default: usize) -> Result<usize, Wrong> {
    match value(query, name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| bad(&format!("Invalid value for {name}"))),
    }
}

fn limit(query: &[(String, String)], default: usize) -> Result<usize, Wrong> {
    let limit = number(query, "limit", default)?;
    if (1..=PAGE_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(bad("Invalid value for limit: 1 to 200"))
    }
}

/// `GET /sell/inventory/v1/inventory_item`: here `offset` is the number of the page.
async fn inventory_items(
    Handle(sim): Handle<Simulator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, "Inventory", || {
        let query = pairs(query.unwrap_or_default().as_bytes());
        let limit = limit(&query, 25)?;
        let page = number(&query, "offset", 0)?;
        let state = sim.0.state.lock();
        let managed = state.items.iter().filter(|(_, item)| !item.legacy);
        let total = managed.clone().count();
        let items: Vec<Value> = managed
            .skip(page.saturating_mul(limit))
            .take(limit)
            .map(|(sku, item)| wire::item(sku, item))
            .collect();
        let path = |page: usize| format!("{INVENTORY}/inventory_item?limit={limit}&offset={page}");
        let mut body = json!({
            "href": path(page), "limit": limit, "size": items.len(), "total": total,
            "inventoryItems": items,
        });
        if page.saturating_add(1).saturating_mul(limit) < total {
            body["next"] = path(page + 1).into();
        }
        if page > 0 {
            body["prev"] = path(page - 1).into();
        }
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `GET /sell/inventory/v1/inventory_item/{sku}`.
async fn inventory_item(
    Handle(sim): Handle<Simulator>,
    Path(sku): Path<String>,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, "Inventory", || {
        let state = sim.0.state.lock();
        match state.items.get(&sku).filter(|item| !item.legacy) {
            Some(item) => Ok(answer(StatusCode::OK, &wire::item(&sku, item))),
            None => {
                let words = "We didn't find the entity for the requested SKU.";
                Err(Box::new(error(StatusCode::NOT_FOUND, 25_710, words)))
            }
        }
    })
}

/// `GET /sell/inventory/v1/offer?sku=`; without a SKU eBay answers an error.
async fn offers(
    Handle(sim): Handle<Simulator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, "Inventory", || {
        let query = pairs(query.unwrap_or_default().as_bytes());
        let sku = value(&query, "sku").filter(|sku| !sku.is_empty()).ok_or_else(|| {
            let words = "Invalid value for SKU. It must be given.";
            Box::new(error(StatusCode::BAD_REQUEST, 25_707, words))
        })?;
        let state = sim.0.state.lock();
        let Some(item) = state.items.get(sku).filter(|item| !item.legacy) else {
            let words = "This Offer is not available.";
            return Err(Box::new(error(StatusCode::NOT_FOUND, 25_713, words)));
        };
        let mut offers = wire::offers(sku, item);
        if let Some(wanted) = value(&query, "marketplace_id") {
            offers.retain(|offer| offer["marketplaceId"] == wanted);
        }
        let body = json!({
            "href": format!("{INVENTORY}/offer?limit=100&offset=0"), "limit": 100,
            "size": offers.len(), "total": offers.len(), "offers": offers,
        });
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `GET /sell/inventory/v1/location`: one warehouse.
async fn locations(Handle(sim): Handle<Simulator>, headers: HeaderMap) -> Response {
    serve(&sim, &headers, "Inventory", || {
        let location = json!({
            "merchantLocationKey": "sim-warehouse", "merchantLocationStatus": "ENABLED",
            "name": "Main warehouse", "locationTypes": ["WAREHOUSE"],
        });
        let body = json!({
            "href": format!("{INVENTORY}/location"), "limit": 100, "offset": 0, "total": 1,
            "locations": [location],
        });
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `GET /sell/fulfillment/v1/order`: here `offset` counts orders.
async fn orders(
    Handle(sim): Handle<Simulator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, "Fulfillment", || {
        let query = pairs(query.unwrap_or_default().as_bytes());
        let limit = limit(&query, 50)?;
        let offset = number(&query, "offset", 0)?;
        let (since, until) = match value(&query, "filter") {
            None => (Timestamp::MIN, Timestamp::MAX),
            Some(filter) => range(filter).ok_or_else(|| {
                let words = "Invalid filter. Use lastmodifieddate:[from..to].";
                Box::new(error(StatusCode::BAD_REQUEST, 30_700, words))
            })?,
        };
        let ids = list(&query, "orderIds");
        let state = sim.0.state.lock();
        let found = || {
            state
                .orders
                .since(since)
                .take_while(|order| order.updated_at <= until)
                .filter(|order| ids.is_empty() || ids.contains(&order.order_id))
        };
        let total = found().count();
        let whole = |order: &SimOrder| wire::order(order, &state.money(&order.order_id));
        let page = found().skip(offset).take(limit).map(whole);
        let path =
            |offset: usize| format!("/sell/fulfillment/v1/order?limit={limit}&offset={offset}");
        let mut body = json!({
            "href": path(offset), "limit": limit, "offset": offset, "total": total,
            "orders": page.collect::<Vec<_>>(),
        });
        if offset.saturating_add(limit) < total {
            body["next"] = path(offset + limit).into();
        }
        Ok(answer(StatusCode::OK, &body))
    })
}

/// Reads `lastmodifieddate:[from..to]`; `to` may be absent. Other filters do not narrow.
fn range(filter: &str) -> Option<(Timestamp, Timestamp)> {
    let Some((_, rest)) = filter.split_once("lastmodifieddate:[") else {
        return Some((Timestamp::MIN, Timestamp::MAX));
    };
    let (inside, _) = rest.split_once(']')?;
    let (from, to) = inside.split_once("..")?;
    let to = if to.is_empty() { Timestamp::MAX } else { to.parse().ok()? };
    Some((from.parse().ok()?, to))
}

/// `GET /sell/fulfillment/v1/order/{orderId}`.
async fn order(
    Handle(sim): Handle<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, "Fulfillment", || {
        let state = sim.0.state.lock();
        match state.orders.get(&id) {
            Some(order) => Ok(answer(StatusCode::OK, &wire::order(order, &state.money(&id)))),
            None => {
                let words = format!("Invalid order ID: {id}");
                Err(Box::new(error(StatusCode::BAD_REQUEST, 32_100, &words)))
            }
        }
    })
}

/// `GET /developer/analytics/v1_beta/rate_limit/`.
async fn rate_limit(Handle(sim): Handle<Simulator>, headers: HeaderMap) -> Response {
    serve(&sim, &headers, "Analytics", || {
        let now = sim.now();
        let (day, reset) = (day_of(now), day_end(now));
        let max = sim.0.settings.calls_max;
        let state = sim.0.state.lock();
        let limits = [
            ("sell", "Inventory"),
            ("sell", "Fulfillment"),
            ("commerce", "Notification"),
            ("TradingAPI", "TradingAPI"),
        ];
        let one = |(context, api): &(&str, &'static str)| {
            let calls = state.calls.get(api).filter(|calls| calls.0 == day);
            let count = calls.map_or(0, |calls| calls.1);
            // The REST APIs are counted as a whole, the Trading API call by call.
            let names = match *context {
                "TradingAPI" => ["ReviseInventoryStatus", "GetItem", "GetSellerList"]
                    .map(str::to_owned)
                    .to_vec(),
                context => vec![format!("{context}.{}", api.to_ascii_lowercase())],
            };
            let rate = json!({
                "count": count, "limit": max, "remaining": max.saturating_sub(count),
                "reset": millis_text(reset), "timeWindow": 86_400,
            });
            let resource = |name: &String| json!({"name": name, "rates": [rate]});
            json!({
                "apiContext": context, "apiName": api, "apiVersion": "v1",
                "resources": names.iter().map(resource).collect::<Vec<_>>(),
            })
        };
        let limits: Vec<Value> = limits.iter().map(one).collect();
        Ok(answer(StatusCode::OK, &json!({"rateLimits": limits})))
    })
}

/// `GET /commerce/notification/v1/public_key/{public_key_id}`.
async fn public_key(
    Handle(sim): Handle<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, "Notification", || {
        if id != KEY_ID {
            let words = "The public key id is not known.";
            return Err(Box::new(error(StatusCode::NOT_FOUND, 195_014, words)));
        }
        let body = json!({"key": sim.public_key(), "algorithm": "ECDSA", "digest": "SHA1"});
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `GET /commerce/notification/v1/destination`.
async fn destinations(Handle(sim): Handle<Simulator>, headers: HeaderMap) -> Response {
    serve(&sim, &headers, "Notification", || {
        let state = sim.0.state.lock();
        let one = |(id, url): (&String, &String)| {
            json!({
                "destinationId": id, "name": "sim", "status": "ENABLED",
                "deliveryConfig": {"endpoint": url},
            })
        };
        let found: Vec<Value> = state.destinations.iter().map(one).collect();
        let body = json!({"total": found.len(), "limit": 100, "destinations": found});
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `POST /commerce/notification/v1/destination`; the challenge comes first, as at eBay.
async fn create_destination(
    Handle(sim): Handle<Simulator>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (url, secret) =
        (text("/deliveryConfig/endpoint"), text("/deliveryConfig/verificationToken"));
    let proved = super::challenge(url, secret).await;
    serve(&sim, &headers, "Notification", || {
        if let Err(failure) = proved {
            let words = format!("Challenge verification failed: {failure}");
            return Err(Box::new(error(StatusCode::CONFLICT, 195_020, &words)));
        }
        let mut state = sim.0.state.lock();
        if state.destinations.len() >= SUBSCRIPTIONS_MAX {
            return Err(bad("too many destinations"));
        }
        let id = format!("sim-destination-{}", state.destinations.len() + 1);
        state.destinations.insert(id.clone(), url.to_owned());
        Ok(created(&format!("{NOTIFICATION}/destination/{id}")))
    })
}

/// `POST /commerce/notification/v1/subscription`.
async fn create_subscription(
    Handle(sim): Handle<Simulator>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    serve(&sim, &headers, "Notification", || {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut state = sim.0.state.lock();
        if !state.destinations.contains_key(text("destinationId")) {
            return Err(Box::new(error(
                StatusCode::BAD_REQUEST,
                195_012,
                "Invalid destination id.",
            )));
        }
        // Subscribing has a scope, and each topic asks for one of its own.
        if !has_scopes(&sim, &headers, &[scopes::SUBSCRIPTION, TOPIC_SCOPE]) {
            return Err(Box::new(forbidden()));
        }
        let wanted = (text("topicId").to_owned(), text("destinationId").to_owned());
        if state.subscriptions.contains(&wanted) {
            return Err(Box::new(error(StatusCode::CONFLICT, 195_016, "Subscription exists.")));
        }
        if state.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(bad("too many subscriptions"));
        }
        state.subscriptions.push(wanted);
        let id = state.subscriptions.len();
        Ok(created(&format!("{NOTIFICATION}/subscription/sim-subscription-{id}")))
    })
}

fn created(location: &str) -> Response {
    (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(json!({}))).into_response()
}

/// `GET /commerce/notification/v1/topic`.
async fn topics(Handle(sim): Handle<Simulator>, headers: HeaderMap) -> Response {
    serve(&sim, &headers, "Notification", || {
        let topics = ["ORDER_CONFIRMATION", "ITEM_AVAILABILITY"].map(|topic| {
            json!({
                "topicId": topic, "description": topic, "status": "ENABLED", "context": "USER",
                "scope": "USER",
                "authorizationScopes": [TOPIC_SCOPE],
                "supportedPayloads": [{
                    "deliveryProtocol": "HTTPS", "format": ["JSON"], "schemaVersion": "1.0",
                    "deprecated": false,
                }],
            })
        });
        let body = json!({"total": topics.len(), "limit": 20, "topics": topics});
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `POST /ws/api.dll`: the Trading API.
async fn trading_call(Handle(sim): Handle<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let call = text("x-ebay-api-call-name").unwrap_or("Unknown");
    let token = text("x-ebay-api-iaf-token").unwrap_or_default();
    let token = token.strip_prefix("Bearer ").unwrap_or(token);
    let (now, xml) = (sim.now(), [(header::CONTENT_TYPE, "text/xml;charset=utf-8")]);
    if !sim.engine().token_good(token) {
        return (xml, trading::unauthorized(call, now)).into_response();
    }
    let body = String::from_utf8_lossy(&body);
    let max = sim.0.settings.revisions_max;
    let faults = &sim.engine().faults;
    let mut state = sim.0.state.lock();
    if state.count_call("TradingAPI", now) > sim.0.settings.calls_max {
        return (xml, trading::too_many(call, now)).into_response();
    }
    let written = trading::answer(&mut state, faults, call, &body, max, now);
    let answer = (xml, written).into_response();
    if call == "ReviseInventoryStatus" { wrote(answer) } else { answer }
}
