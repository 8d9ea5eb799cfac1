//! What a channel has, and which SKU each of its listings sells.

use std::collections::BTreeMap;

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels::Begun;
use super::{ListQuery, list};
use crate::Shared;
use crate::api::{Path, encoded};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/channels/{id}/listings", get(show).post(map))
        .route("/channels/{id}/listings/unmap", post(unmap))
        .route("/channels/{id}/discover", post(discover))
}

/// What listings can be looked for by.
const STATUSES: [&str; 8] = [
    "mapped",
    "unmapped",
    "matched",
    "near_miss",
    "duplicate",
    "unknown_sku",
    "no_sku",
    "incomplete",
];

/// A listing as the channel's catalogue held it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    channel_sku: Option<String>,
    title: Option<String>,
    listing: BTreeMap<String, String>,
    status: String,
    sku: Option<String>,
    #[serde(default)]
    suggestions: Vec<String>,
    quantity: Option<i64>,
    seen_at: String,
}

impl Listing {
    fn is_mapped(&self) -> bool {
        self.status == "mapped"
    }

    /// Returns the vendor's identifiers, as a form carries them.
    fn identifiers(&self) -> String {
        json!(self.listing).to_string()
    }

    /// Returns the vendor's identifiers for people.
    fn words(&self) -> String {
        let all = self.listing.iter().map(|(name, value)| format!("{name} {value}"));
        all.collect::<Vec<_>>().join(" · ")
    }

    /// Returns the SKU that is proposed for it.
    fn proposal(&self) -> &str {
        let likely = self.sku.as_ref().or(self.suggestions.first());
        likely.or(self.channel_sku.as_ref()).map_or("", String::as_str)
    }
}

#[derive(Template)]
#[template(path = "listings.html")]
struct Page {
    frame: Frame,
    id: String,
    query: ListQuery,
    rows: Vec<Listing>,
    next: Option<String>,
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Segment(id): Segment<String>,
    Query(query): Query<ListQuery>,
) -> Response {
    let path = list(&["channels", &id, "listings"])
        .with("search", &query.search)
        .with("status", &query.status);
    match house.api.gather::<Listing>(&session, &path, &query.cursor).await {
        Ok(found) => {
            let frame = Frame::new(&session, "/channels", format!("Listings of {id}"));
            let frame = frame.after(query.done.as_deref());
            let next = query.next(&own(&id), found.next_cursor.as_deref());
            shown(&Page { frame, id, query, rows: found.items, next })
        }
        Err(trouble) => refused(&session, "/channels", trouble),
    }
}

fn own(id: &str) -> String {
    format!("/channels/{}/listings", encoded(id))
}

async fn map(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    // Whatever is not as the page had it is refused by the API.
    let listing: Value = serde_json::from_str(posted.text("listing")).unwrap_or_default();
    let body = json!({ "mappings": [{ "sku": posted.text("sku"), "listing": listing }] });
    let path = Path::new(&["channels", &id, "mappings"]);
    match posted.send::<Value>(&house, Method::PUT, path, &body).await {
        Ok(_) => done(&own(&id), "mapped"),
        Err(trouble) => refused(&posted.session, &own(&id), trouble),
    }
}

async fn unmap(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["channels", &id, "mappings", posted.text("sku")]);
    match posted.send::<Value>(&house, Method::DELETE, path, &json!({})).await {
        Ok(_) => done(&own(&id), "unmapped"),
        Err(trouble) => refused(&posted.session, &own(&id), trouble),
    }
}

/// Reads the channel's catalogue and maps what matches by SKU.
async fn discover(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["channels", &id, "mappings", "discover"]);
    let body = json!({ "dryRun": false });
    match posted.send::<Begun>(&house, Method::POST, path, &body).await {
        Ok(run) => Redirect::to(&format!("/activity/{}", encoded(&run.run_id))).into_response(),
        Err(trouble) => refused(&posted.session, &own(&id), trouble),
    }
}
