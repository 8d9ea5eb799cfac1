//! Pausing and resuming: everything, or one SKU. What is paused is shown where it matters.

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::response::Response;
use axum::routing::post;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels::no_such_action;
use crate::Shared;
use crate::api::{Path, encoded};
use crate::forms::Posted;
use crate::page::{done, refused};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/pauses/{verb}", post(all)).route("/stock/{sku}/{verb}", post(one))
}

/// That something is paused, and by whom.
#[derive(Debug, Deserialize)]
pub(super) struct Pause {
    pub(super) sku: Option<String>,
    pub(super) since: String,
    pub(super) by: String,
    pub(super) note: Option<String>,
}

/// What is paused: everything or not, and the first SKUs.
#[derive(Debug, Deserialize)]
pub(super) struct Pauses {
    pub(super) org: Option<Pause>,
    pub(super) items: Vec<Pause>,
}

/// Returns what stands in the address that says what was done; `None` = there is no such verb.
fn word(verb: &str) -> Option<&'static str> {
    match verb {
        "pause" => Some("stopped"),
        "resume" => Some("goes-on"),
        _ => None,
    }
}

async fn all(
    State(house): State<Shared>,
    Segment(verb): Segment<String>,
    posted: Posted,
) -> Response {
    act(&house, &posted, &verb, Path::new(&["sync", &verb]), "/channels").await
}

async fn one(
    State(house): State<Shared>,
    Segment((sku, verb)): Segment<(String, String)>,
    posted: Posted,
) -> Response {
    let back = format!("/stock/{}", encoded(&sku));
    act(&house, &posted, &verb, Path::new(&["inventory", &sku, &verb]), &back).await
}

async fn act(house: &Shared, posted: &Posted, verb: &str, path: Path, back: &str) -> Response {
    let Some(word) = word(verb) else { return refused(&posted.session, back, no_such_action()) };
    let mut body = json!({});
    if posted.has("note") {
        body["note"] = json!(posted.text("note"));
    }
    match posted.send::<Value>(house, Method::POST, path, &body).await {
        Ok(_) => done(back, word),
        Err(trouble) => refused(&posted.session, back, trouble),
    }
}
