//! Subscriptions: who is told what, signed as Standard Webhooks.

use axum::extract::State;
use base64::Engine as _;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trueup_channels::Secret;
use trueup_core::Org;
use trueup_store::{Delivery, DeliveryState, Subscription};
use trueup_sync::EngineError;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body::FreeText;
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{Listed, NoParams, PageParams, Params, seal_cursor};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, App, AppState};

/// The most subscriptions of an org.
const SUBSCRIPTIONS_MAX: usize = 100;
/// The longest address, in bytes.
const URL_BYTES_MAX: usize = 2_048;

/// The events that can be subscribed to.
const EVENTS: [&str; 8] = [
    "inventory.updated",
    "inventory.low_stock",
    "inventory.oversold",
    "reservation.expired",
    "conflict.detected",
    "sync.failed",
    "sync.held",
    "channel.error",
];

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, put, remove))
        .routes(routes!(rotate))
        .routes(routes!(deliveries))
        .routes(routes!(replay))
}

/// Who wants to be told what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"url": "https://example.com/hooks", "events": ["inventory.low_stock"]}))]
struct SubscriptionBody {
    /// Where to send.
    url: String,
    /// Which events; none = all.
    events: Option<Vec<String>>,
    /// Words for people.
    description: Option<FreeText>,
    /// Whether it is told at all; by default true.
    enabled: Option<bool>,
}

/// A subscription, without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SubscriptionView {
    id: String,
    url: String,
    /// Empty = all.
    events: Vec<String>,
    description: Option<String>,
    enabled: bool,
    created_at: Time,
    /// The signing secret (`whsec_…`), in the answer that makes it and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    secret: Option<String>,
}

impl From<&Subscription> for SubscriptionView {
    fn from(row: &Subscription) -> Self {
        Self {
            id: row.id.clone(),
            url: row.url.clone(),
            events: row.events.clone(),
            description: row.description.clone(),
            enabled: row.enabled,
            created_at: Time(row.created_at),
            secret: None,
        }
    }
}

/// One event for one subscriber.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeliveryView {
    /// Also the `webhook-id`.
    id: String,
    event: String,
    /// `pending`, `delivered` or `dead`.
    state: &'static str,
    attempts: u32,
    next_at: Option<Time>,
    last_result: Option<String>,
    created_at: Time,
    /// What is sent.
    #[schema(value_type = Object)]
    body: Value,
}

impl From<Delivery> for DeliveryView {
    fn from(row: Delivery) -> Self {
        let pending = row.state == DeliveryState::Pending;
        Self {
            id: row.id,
            event: row.event,
            state: match row.state {
                DeliveryState::Pending => "pending",
                DeliveryState::Delivered => "delivered",
                DeliveryState::Dead => "dead",
            },
            attempts: row.attempts,
            next_at: pending.then_some(Time(row.next_at)),
            last_result: row.last_result,
            created_at: Time(row.created_at),
            body: serde_json::from_str(&row.body).unwrap_or(Value::String(row.body)),
        }
    }
}

/// Checks a body and the address in it.
async fn check(app: &App, body: &SubscriptionBody) -> Result<(), Problem> {
    for (index, event) in body.events.iter().flatten().enumerate() {
        if !EVENTS.contains(&event.as_str()) {
            let detail = format!("must be one of {}", EVENTS.join(", "));
            return Err(Problem::field(format!("/events/{index}"), "unknown_event", detail));
        }
    }
    if body.url.len() > URL_BYTES_MAX {
        let detail = format!("must be at most {URL_BYTES_MAX} bytes");
        return Err(Problem::field("/url", "invalid_url", detail));
    }
    match app.engine.check_address(&body.url).await {
        Err(EngineError::EndpointNotAllowed(why)) => {
            Err(Problem::field("/url", "endpoint_not_allowed", why))
        }
        other => Ok(other?),
    }
}

fn new_secret() -> Secret {
    let bytes: [u8; 32] = rand::random();
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    Secret::new(format!("whsec_{text}"))
}

async fn find(app: &App, org: &Org, id: &str) -> Result<Subscription, Problem> {
    let rows = app.store.subscriptions(org).await?;
    rows.into_iter().find(|row| row.id == id).ok_or_else(|| {
        Problem::not_found("subscription_not_found", "there is no such subscription")
    })
}

/// Answers with the secret; what is kept for repeats is the same without it.
fn with_secret(status: StatusCode, row: &Subscription, secret: &Secret) -> (Reply, Option<Reply>) {
    let kept = SubscriptionView::from(row);
    let shown = SubscriptionView { secret: Some(secret.expose().to_owned()), ..kept.clone() };
    (Reply::json(status, &shown), Some(Reply::json(status, &kept)))
}

fn deed(action: &'static str, row: &Subscription) -> Deed {
    Deed::new(action).with("subscription", row.id.as_str()).with("url", row.url.as_str())
}

/// Subscribes, and shows the signing secret once.
#[utoipa::path(post, path = "/sales-channel/webhooks", tag = "webhooks out",
    request_body = SubscriptionBody,
    responses((status = 201, description = "The subscription", body = SubscriptionView),
        (status = 400, description = "`unknown_event`, `endpoint_not_allowed`, …")))]
async fn create(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let body: SubscriptionBody = incoming.json()?;
    check(&app, &body).await?;
    let work = async {
        if app.store.subscriptions(&caller.org).await?.len() >= SUBSCRIPTIONS_MAX {
            let detail = format!("an org has at most {SUBSCRIPTIONS_MAX} subscriptions");
            let code = "too_many_subscriptions";
            return Err(Problem::new(StatusCode::CONFLICT, code, detail));
        }
        let secret = new_secret();
        let row = Subscription {
            id: format!("sub_{}", app.new_id().simple()),
            url: body.url,
            events: body.events.unwrap_or_default(),
            sealed_secret: app.engine.seal(&secret),
            enabled: body.enabled.unwrap_or(true),
            description: body.description.map(|text| text.0),
            created_at: app.now(),
        };
        let answer = with_secret(StatusCode::CREATED, &row, &secret);
        let deed = deed("subscription_made", &row);
        app.store.put_subscription(&caller.org, row).await?;
        audit::note(&app, &caller, deed).await;
        Ok(answer)
    };
    incoming.once_secretly(&app, &caller, work).await
}

const LIST: &str = "subscriptions";

/// Lists subscriptions.
#[utoipa::path(get, path = "/sales-channel/webhooks", tag = "webhooks out", params(PageParams),
    responses((status = 200, description = "A page", body = Listed<SubscriptionView>)))]
async fn list(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let after = query.cursor(LIST, |position| Some(position.to_owned()))?;
    let limit = query.limit()?;
    query.finish()?;
    let mut rows = app.store.subscriptions(&caller.org).await?;
    if let Some(after) = after {
        rows.retain(|row| row.id > after);
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|last| seal_cursor(LIST, &last.id));
    let items: Vec<SubscriptionView> = rows.iter().map(SubscriptionView::from).collect();
    Ok(Reply::ok(&Listed { items, next_cursor }))
}

/// Returns a subscription.
#[utoipa::path(get, path = "/sales-channel/webhooks/{id}", tag = "webhooks out",
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 200, description = "The subscription", body = SubscriptionView),
        (status = 404, description = "`subscription_not_found`")))]
async fn get(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let row = find(&app, &caller.org, path.text("id")).await?;
    Ok(Reply::ok(&SubscriptionView::from(&row)))
}

/// Changes a subscription; its secret stays.
#[utoipa::path(put, path = "/sales-channel/webhooks/{id}", tag = "webhooks out",
    params(("id" = String, Path, description = "The subscription")),
    request_body = SubscriptionBody,
    responses((status = 200, description = "The subscription", body = SubscriptionView),
        (status = 404, description = "`subscription_not_found`")))]
async fn put(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let body: SubscriptionBody = incoming.json()?;
    check(&app, &body).await?;
    let work = async {
        let row = Subscription {
            url: body.url,
            events: body.events.unwrap_or_default(),
            enabled: body.enabled.unwrap_or(true),
            description: body.description.map(|text| text.0),
            ..find(&app, &caller.org, path.text("id")).await?
        };
        let view = SubscriptionView::from(&row);
        let deed = deed("subscription_changed", &row);
        app.store.put_subscription(&caller.org, row).await?;
        audit::note(&app, &caller, deed).await;
        Ok(Reply::ok(&view))
    };
    incoming.once(&app, &caller, work).await
}

/// Removes a subscription with its deliveries.
#[utoipa::path(delete, path = "/sales-channel/webhooks/{id}", tag = "webhooks out",
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "`subscription_not_found`")))]
async fn remove(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let row = find(&app, &caller.org, path.text("id")).await?;
    app.store.delete_subscription(&caller.org, &row.id).await?;
    audit::note(&app, &caller, deed("subscription_removed", &row)).await;
    Ok(Reply::no_content())
}

/// Gives a subscription a new signing secret, and shows it once.
#[utoipa::path(post, path = "/sales-channel/webhooks/{id}/rotate-secret", tag = "webhooks out",
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 200, description = "The subscription", body = SubscriptionView),
        (status = 404, description = "`subscription_not_found`")))]
async fn rotate(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let work = async {
        let secret = new_secret();
        let sealed_secret = app.engine.seal(&secret);
        let found = find(&app, &caller.org, path.text("id")).await?;
        let row = Subscription { sealed_secret, ..found };
        let answer = with_secret(StatusCode::OK, &row, &secret);
        let deed = deed("secret_rotated", &row);
        app.store.put_subscription(&caller.org, row).await?;
        audit::note(&app, &caller, deed).await;
        Ok(answer)
    };
    incoming.once_secretly(&app, &caller, work).await
}

const DELIVERIES: &str = "deliveries";

/// Lists a subscription's deliveries, newest first.
#[utoipa::path(get, path = "/sales-channel/webhooks/{id}/deliveries", tag = "webhooks out",
    params(("id" = String, Path, description = "The subscription"), PageParams),
    responses((status = 200, description = "A page", body = Listed<DeliveryView>),
        (status = 404, description = "`subscription_not_found`")))]
async fn deliveries(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let before = query.cursor(DELIVERIES, |position| Some(position.to_owned()))?;
    let limit = query.limit()?;
    query.finish()?;
    let row = find(&app, &caller.org, path.text("id")).await?;
    let page = app.store.deliveries(&caller.org, &row.id, before.as_deref(), limit).await?;
    let position = |delivery: &Delivery| delivery.id.clone();
    Ok(Reply::ok(&Listed::page(DELIVERIES, page, position, DeliveryView::from)))
}

/// Sends a delivery again.
#[utoipa::path(post, tag = "webhooks out",
    path = "/sales-channel/webhooks/{id}/deliveries/{deliveryId}/replay",
    params(("id" = String, Path, description = "The subscription"),
        ("deliveryId" = String, Path, description = "The delivery")),
    responses((status = 202, description = "It will be sent again", body = Object),
        (status = 404, description = "`subscription_not_found`, `delivery_not_found`")))]
async fn replay(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let work = async {
        find(&app, &caller.org, path.text("id")).await?;
        let id = path.text("deliveryId");
        app.engine.replay_delivery(&caller.org, id).await?;
        Ok(Reply::json(StatusCode::ACCEPTED, &serde_json::json!({"id": id, "state": "pending"})))
    };
    incoming.once(&app, &caller, work).await
}
