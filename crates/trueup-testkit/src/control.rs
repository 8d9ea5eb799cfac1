//! The simulators' own HTTP control API, `/_sim/…`, for users' tests in any language.
//!
//! It bypasses authentication, limits and faults: it is the hand of the test, not of the vendor.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::edge::BODY_BYTES_MAX;
use crate::faults::Faults;
use crate::shop::{SeedItem, Shop, ShopError};

/// The most listings in one answer of `GET /_sim/state`.
pub const STATE_ITEMS_MAX: usize = 1_000;
/// The most entries in one answer of `GET /_sim/log` and `GET /_sim/orders`.
pub const PAGE_MAX: usize = 10_000;

type Handle = State<Arc<dyn Shop>>;

/// Returns the control routes of one simulator, to be nested under `/_sim`.
pub(crate) fn routes(shop: Arc<dyn Shop>) -> Router {
    Router::new()
        .route("/state", get(state))
        .route("/seed", post(seed))
        .route("/sell", post(sell))
        .route("/cancel", post(cancel))
        .route("/edit", post(edit))
        .route("/orders", get(orders))
        .route("/faults", get(faults).post(set_faults))
        .route("/webhook", post(webhook).delete(no_webhook))
        .route("/log", get(log).delete(clear_log))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shop)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateQuery {
    sku: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

async fn state(State(shop): Handle, Query(query): Query<StateQuery>) -> Json<Value> {
    let items = match query.sku {
        Some(sku) => one(&*shop, &sku),
        None => {
            let limit = query.limit.unwrap_or(100).min(STATE_ITEMS_MAX);
            shop.items(query.after.as_deref().unwrap_or_default(), limit)
        }
    };
    Json(json!({
        "vendor": shop.vendor(),
        "counters": shop.counters(),
        "webhooks": shop.webhooks(),
        "faults": shop.faults().get(),
        "faultHits": shop.faults().hits(),
        "items": items,
    }))
}

fn one(shop: &dyn Shop, sku: &str) -> Vec<Value> {
    let quantity = shop.quantity(sku);
    let listing = shop.listing(sku);
    let item =
        quantity.map(|quantity| json!({"sku": sku, "quantity": quantity, "listing": listing}));
    item.into_iter().collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedBody {
    items: Vec<SeedItem>,
}

async fn seed(State(shop): Handle, Json(body): Json<SeedBody>) -> Response {
    match shop.seed(body.items) {
        Ok(seeded) => Json(json!({"seeded": seeded})).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    sku: String,
    quantity: i64,
}

async fn sell(State(shop): Handle, Json(body): Json<Amount>) -> Response {
    match shop.sell(&body.sku, body.quantity) {
        Ok(order) => Json(order).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

async fn edit(State(shop): Handle, Json(body): Json<Amount>) -> Response {
    match shop.set_quantity(&body.sku, body.quantity) {
        Ok(()) => Json(json!({"sku": body.sku, "quantity": body.quantity})).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Cancel {
    order_id: String,
}

async fn cancel(State(shop): Handle, Json(body): Json<Cancel>) -> Response {
    match shop.cancel(&body.order_id) {
        Ok(()) => Json(json!({"orderId": body.order_id})).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// Skips entries up to and including this number.
    after: Option<u64>,
    limit: Option<usize>,
}

async fn orders(State(shop): Handle, Query(query): Query<PageQuery>) -> Json<Value> {
    let after = query.after.unwrap_or_default();
    let limit = query.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let orders = shop.orders().into_iter().filter(|order| order.number > after);
    Json(json!({"orders": orders.take(limit).collect::<Vec<_>>()}))
}

async fn log(State(shop): Handle, Query(query): Query<PageQuery>) -> Json<Value> {
    let after = query.after.unwrap_or_default();
    let limit = query.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let requests = shop.requests().into_iter().filter(|request| request.number > after);
    let requests = requests.take(limit).collect::<Vec<_>>();
    Json(json!({"seen": shop.engine().log.seen(), "requests": requests}))
}

async fn clear_log(State(shop): Handle) -> StatusCode {
    shop.clear_requests();
    StatusCode::NO_CONTENT
}

async fn faults(State(shop): Handle) -> Json<Value> {
    Json(json!({"faults": shop.faults().get(), "faultHits": shop.faults().hits()}))
}

async fn set_faults(State(shop): Handle, Json(body): Json<Faults>) -> Json<Value> {
    shop.set_faults(body);
    faults(State(shop)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Webhook {
    url: String,
    secret: String,
}

async fn webhook(State(shop): Handle, Json(body): Json<Webhook>) -> Response {
    match shop.set_webhook(&body.url, &body.secret) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => answer(StatusCode::BAD_REQUEST, "bad_webhook_url", &error.to_string()),
    }
}

async fn no_webhook(State(shop): Handle) -> StatusCode {
    shop.clear_webhook();
    StatusCode::NO_CONTENT
}

fn refused(refusal: &ShopError) -> Response {
    let (status, code) = match refusal {
        ShopError::NotEnough { .. } => (StatusCode::CONFLICT, "not_enough"),
        ShopError::UnknownSku(_) => (StatusCode::NOT_FOUND, "unknown_sku"),
        ShopError::UnknownOrder(_) => (StatusCode::NOT_FOUND, "unknown_order"),
        ShopError::OrderClosed(_) => (StatusCode::CONFLICT, "order_closed"),
        ShopError::BadQuantity => (StatusCode::BAD_REQUEST, "bad_quantity"),
        ShopError::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
    };
    answer(status, code, &refusal.to_string())
}

fn answer(status: StatusCode, code: &str, detail: &str) -> Response {
    (status, Json(json!({"error": code, "detail": detail}))).into_response()
}
