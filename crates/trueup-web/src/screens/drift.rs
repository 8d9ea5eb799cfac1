//! The drift matrix: SKUs by channels, where the last reading is not what it should be.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ListQuery;
use super::channels::{Begun, no_such_action};
use crate::Shared;
use crate::api::{Path, encoded};
use crate::forms::Posted;
use crate::page::{Frame, filters, refused, shown};
use crate::session::Session;

/// How many listings are looked at by one question; few of them have drifted.
const LISTINGS: &str = "500";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/drift", get(show).post(settle))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Drift {
    sku: String,
    channel_id: String,
    quantity: i64,
    expected: i64,
    difference: i64,
    status: String,
    read_at: String,
}

#[derive(Template)]
#[template(path = "drift.html")]
struct Page {
    frame: Frame,
    query: ListQuery,
    channels: BTreeSet<String>,
    rows: BTreeMap<String, BTreeMap<String, Vec<Drift>>>,
    next: Option<String>,
}

impl Page {
    /// Returns the SKUs of the page that have drifted on a channel.
    fn skus_on(&self, channel: &str) -> impl Iterator<Item = &str> {
        let on = self.rows.iter().filter(move |(_, row)| row.contains_key(channel));
        on.map(|(sku, _)| sku.as_str())
    }
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    let path = Path::new(&["inventory", "drift"]).with("limit", LISTINGS);
    let path = path.with("channel", &query.channel);
    match house.api.gather::<Drift>(&session, &path, &query.cursor).await {
        Ok(found) => {
            let frame = Frame::new(&session, "/drift", "Drift");
            let next = query.next("/drift", found.next_cursor.as_deref());
            let channels = found.items.iter().map(|one| one.channel_id.clone()).collect();
            let mut rows: BTreeMap<String, BTreeMap<String, Vec<Drift>>> = BTreeMap::new();
            for one in found.items {
                let row = rows.entry(one.sku.clone()).or_default();
                row.entry(one.channel_id.clone()).or_default().push(one);
            }
            shown(&Page { frame, query, channels, rows, next })
        }
        Err(trouble) => refused(&session, "/", trouble),
    }
}

/// Tells a channel the numbers of the SKUs that the page showed to have drifted there, or reads
/// them once more.
async fn settle(State(house): State<Shared>, posted: Posted) -> Response {
    let channel = posted.text("channel");
    let skus: Vec<&str> = posted.all("sku").collect();
    let (verb, body) = match posted.text("do") {
        "push" => {
            let items: Vec<Value> = skus.iter().map(|sku| json!({ "sku": sku })).collect();
            ("sync", json!({ "items": items }))
        }
        "pull" => ("pull", json!({ "skus": skus })),
        _ => return refused(&posted.session, "/drift", no_such_action()),
    };
    let path = Path::new(&["inventory", verb, channel]);
    match posted.send::<Begun>(&house, Method::POST, path, &body).await {
        Ok(run) => Redirect::to(&format!("/activity/{}", encoded(&run.run_id))).into_response(),
        Err(trouble) => refused(&posted.session, "/drift", trouble),
    }
}
