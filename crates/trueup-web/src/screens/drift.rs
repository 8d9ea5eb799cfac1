//! The drift matrix: SKUs by channels, where the last reading is not what it should be.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;

use super::ListQuery;
use crate::Shared;
use crate::api::Path;
use crate::page::{Frame, filters, refused, shown};
use crate::session::Session;

/// How many listings are looked at by one question; few of them have drifted.
const LISTINGS: &str = "500";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/drift", get(show))
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
