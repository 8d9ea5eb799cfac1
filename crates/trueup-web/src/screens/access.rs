//! Outgoing webhooks with their deliveries, and API keys.

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ListQuery, list};
use crate::Shared;
use crate::api::{Listed, Path, Trouble, encoded};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

/// Where webhooks and keys are.
const BACK: &str = "/access";
/// What can be subscribed to.
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
/// What a key can be let do.
const SCOPES: [&str; 4] =
    ["inventory:read", "inventory:write", "reservations:write", "channels:admin"];

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/access", get(show))
        .route("/access/webhooks", post(subscribe))
        .route("/access/keys", post(make_key))
        .route("/access/webhooks/{id}", get(deliveries))
        .route("/access/webhooks/{id}/deliveries/{delivery}/replay", post(replay))
        .route("/access/webhooks/{id}/rotate", post(rotate))
        .route("/access/webhooks/{id}/delete", post(unsubscribe))
        .route("/access/keys/{id}/revoke", post(revoke))
}

#[derive(Debug, Deserialize)]
struct Subscription {
    id: String,
    url: String,
    events: Vec<String>,
    enabled: bool,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    id: String,
    subject: String,
    scopes: Vec<String>,
    created_at: String,
    revoked_at: Option<String>,
}

#[derive(Template)]
#[template(path = "access.html")]
struct Page {
    frame: Frame,
    subscriptions: Vec<Subscription>,
    /// `None` where the credential may not see them.
    keys: Option<Vec<Key>>,
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    let path = |name: &str| Path::new(&[name]).with("limit", "200");
    let keys = async {
        let found = house.api.get::<Listed<Key>>(&session, path("keys")).await;
        Trouble::unless_forbidden(found)
    };
    let subscriptions = house.api.get::<Listed<Subscription>>(&session, path("webhooks"));
    match futures::try_join!(subscriptions, keys) {
        Ok((subscriptions, keys)) => {
            let frame = Frame::new(&session, BACK, "Webhooks and keys");
            let frame = frame.after(query.done.as_deref());
            let keys = keys.map(|found| found.items);
            shown(&Page { frame, subscriptions: subscriptions.items, keys })
        }
        Err(trouble) => refused(&session, "/", trouble),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivery {
    id: String,
    event: String,
    state: String,
    attempts: u32,
    created_at: String,
    last_result: Option<String>,
    body: Value,
}

#[derive(Template)]
#[template(path = "deliveries.html")]
struct Deliveries {
    frame: Frame,
    subscription: Subscription,
    rows: Vec<Delivery>,
    next: Option<String>,
}

async fn deliveries(
    State(house): State<Shared>,
    session: Session,
    Segment(id): Segment<String>,
    Query(query): Query<ListQuery>,
) -> Response {
    let path = list(&["webhooks", &id, "deliveries"]);
    let found = async {
        futures::try_join!(
            house.api.get::<Subscription>(&session, Path::new(&["webhooks", &id])),
            house.api.gather::<Delivery>(&session, &path, &query.cursor),
        )
    };
    match found.await {
        Ok((subscription, found)) => {
            let frame = Frame::new(&session, BACK, "Deliveries");
            let frame = frame.after(query.done.as_deref());
            let own = format!("/access/webhooks/{}", encoded(&id));
            let next = query.next(&own, found.next_cursor.as_deref());
            shown(&Deliveries { frame, subscription, rows: found.items, next })
        }
        Err(trouble) => refused(&session, BACK, trouble),
    }
}

async fn replay(
    State(house): State<Shared>,
    Segment((id, delivery)): Segment<(String, String)>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["webhooks", &id, "deliveries", &delivery, "replay"]);
    let back = format!("/access/webhooks/{}", encoded(&id));
    act(&house, &posted, (Method::POST, path), (&back, "replayed")).await
}

async fn unsubscribe(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["webhooks", &id]);
    act(&house, &posted, (Method::DELETE, path), (BACK, "unsubscribed")).await
}

async fn revoke(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["keys", &id]);
    act(&house, &posted, (Method::DELETE, path), (BACK, "revoked")).await
}

async fn act(
    house: &Shared,
    posted: &Posted,
    (method, path): (Method, Path),
    (back, word): (&str, &'static str),
) -> Response {
    match posted.send::<Value>(house, method, path, &json!({})).await {
        Ok(_) => done(back, word),
        Err(trouble) => refused(&posted.session, back, trouble),
    }
}

/// What the API shows once: a key, or a signing secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    id: String,
    key: Option<String>,
    secret: Option<String>,
}

#[derive(Template)]
#[template(path = "secret.html")]
struct SecretPage {
    frame: Frame,
    made: Made,
}

async fn subscribe(State(house): State<Shared>, posted: Posted) -> Response {
    let mut body = json!({ "url": posted.text("url") });
    let events: Vec<&str> = posted.all("event").collect();
    if !events.is_empty() {
        body["events"] = json!(events);
    }
    if posted.has("description") {
        body["description"] = json!(posted.text("description"));
    }
    tell(&house, &posted, Path::new(&["webhooks"]), &body, "Subscribed").await
}

async fn rotate(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["webhooks", &id, "rotate-secret"]);
    tell(&house, &posted, path, &json!({}), "A new signing secret").await
}

async fn make_key(State(house): State<Shared>, posted: Posted) -> Response {
    let scopes: Vec<&str> = posted.all("scope").collect();
    let body = json!({ "subject": posted.text("subject"), "scopes": scopes });
    tell(&house, &posted, Path::new(&["keys"]), &body, "A new key").await
}

/// Makes something that has a secret, and shows it this once.
async fn tell(
    house: &Shared,
    posted: &Posted,
    path: Path,
    body: &Value,
    title: &'static str,
) -> Response {
    match posted.send::<Made>(house, Method::POST, path, body).await {
        Ok(made) => {
            let frame = Frame::new(&posted.session, BACK, title);
            shown(&SecretPage { frame, made })
        }
        Err(trouble) => refused(&posted.session, BACK, trouble),
    }
}
