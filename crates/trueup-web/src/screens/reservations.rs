//! Reservations: by state, the next to end first, and to be extended or released.

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ListQuery;
use crate::Shared;
use crate::api::{Path, ROWS};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

/// How many active reservations are put in the order of their ends.
const SORTED: usize = 1_000;
/// For how long a hold is extended, from now.
const EXTENSION_SECONDS: u32 = 900;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/reservations", get(show))
        .route("/reservations/{id}/extend", post(extend))
        .route("/reservations/{id}/release", post(release))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reservation {
    pub(super) reservation_id: String,
    pub(super) order_id: String,
    pub(super) status: String,
    pub(super) items: Vec<Item>,
    pub(super) created_at: String,
    pub(super) expires_at: String,
    ended_at: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Item {
    pub(super) sku: String,
    pub(super) quantity: u64,
}

impl Reservation {
    pub(super) fn is_active(&self) -> bool {
        self.status == "active"
    }

    fn end(&self) -> Option<Timestamp> {
        self.expires_at.parse().ok()
    }

    /// Returns when it was made.
    pub(super) fn begin(&self) -> Option<Timestamp> {
        self.created_at.parse().ok()
    }

    /// Returns when it was sold, where it was.
    pub(super) fn sold(&self) -> Option<Timestamp> {
        let ended = self.ended_at.as_ref().filter(|_| self.status == "committed")?;
        ended.parse().ok()
    }

    /// Returns how many units it holds, or held.
    pub(super) fn units(&self) -> u64 {
        self.items.iter().map(|item| item.quantity).fold(0, u64::saturating_add)
    }
}

#[derive(Template)]
#[template(path = "reservations.html")]
struct Page {
    frame: Frame,
    query: ListQuery,
    rows: Vec<Reservation>,
    /// How many that were looked at end later than those that are shown.
    later: usize,
    next: Option<String>,
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    let status = if query.status.is_empty() { "active" } else { &query.status };
    let is_by_end = status == "active";
    let path = Path::new(&["inventory", "reservations"])
        .with("limit", &(if is_by_end { SORTED } else { ROWS }).to_string())
        .with("status", if status == "all" { "" } else { status })
        .with("orderId", &query.search)
        .with("sku", &query.sku);
    match house.api.gather::<Reservation>(&session, &path, &query.cursor).await {
        Ok(mut found) => {
            let mut later = 0;
            if is_by_end {
                found.items.sort_by_cached_key(Reservation::end);
                later = found.items.len().saturating_sub(ROWS);
                found.items.truncate(ROWS);
            }
            let frame = Frame::new(&session, "/reservations", "Reservations");
            let frame = frame.after(query.done.as_deref());
            let next = query.next("/reservations", found.next_cursor.as_deref());
            shown(&Page { frame, query, rows: found.items, later, next })
        }
        Err(trouble) => refused(&session, "/", trouble),
    }
}

async fn extend(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let body = json!({ "ttlSeconds": EXTENSION_SECONDS });
    act(&house, &posted, (&id, "extend", "extended"), &body).await
}

async fn release(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    act(&house, &posted, (&id, "release", "released"), &json!({})).await
}

async fn act(
    house: &Shared,
    posted: &Posted,
    (id, verb, word): (&str, &str, &'static str),
    body: &Value,
) -> Response {
    let back = "/reservations";
    let path = Path::new(&["inventory", "reservation", id, verb]);
    match posted.send::<Value>(house, Method::POST, path, body).await {
        Ok(_) => done(back, word),
        Err(trouble) => refused(&posted.session, back, trouble),
    }
}
