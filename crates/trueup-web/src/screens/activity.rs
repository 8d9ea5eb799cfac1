//! What was synced: the history, and single runs.

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::Value;

use super::{ListQuery, list};
use crate::Shared;
use crate::api::Path;
use crate::page::{Frame, filters, refused, shown};
use crate::session::Session;

/// How much of an entry's detail is shown, in characters.
const DETAIL_CHARS_MAX: usize = 160;
/// A vendor's id of a delivery, which says nothing to people.
const DELIVERY: &str = "deliveryId";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/activity", get(show)).route("/activity/{run}", get(run))
}

/// An entry of the history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) at: String,
    pub(super) operation: String,
    pub(super) channel_id: Option<String>,
    pub(super) sku: Option<String>,
    pub(super) status: String,
    pub(super) run_id: Option<String>,
    #[serde(default)]
    detail: Value,
}

impl Entry {
    /// Returns what else there is to say, shortened.
    pub(super) fn detail(&self) -> String {
        let Value::Object(fields) = &self.detail else { return String::new() };
        let said = fields.iter().filter(|(name, value)| !value.is_null() && *name != DELIVERY);
        let said: Vec<String> =
            said.map(|(name, value)| format!("{name} {}", words_of(value))).collect();
        let text = said.join(" · ");
        match text.char_indices().nth(DETAIL_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// Returns a value of JSON as people write it.
fn words_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(words_of).collect::<Vec<_>>().join(", "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// What can be looked for in the history: by the API's words.
const OPERATIONS: [&str; 7] = [
    "inventory_push",
    "inventory_pull",
    "inventory_conflict",
    "inventory_discovery",
    "mapping_missing",
    "webhook",
    "administration",
];
const STATUSES: [&str; 5] = ["ok", "warning", "error", "open", "resolved"];

#[derive(Template)]
#[template(path = "activity.html")]
struct Page {
    frame: Frame,
    query: ListQuery,
    entries: Vec<Entry>,
    next: Option<String>,
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    let path = list(&["sync", "history"])
        .with("sku", &query.search)
        .with("channel", &query.channel)
        .with("operation", &query.operation)
        .with("status", &query.status);
    match house.api.gather::<Entry>(&session, &path, &query.cursor).await {
        Ok(found) => {
            let frame = Frame::new(&session, "/activity", "Activity");
            let next = query.next("/activity", found.next_cursor.as_deref());
            shown(&Page { frame, query, entries: found.items, next })
        }
        Err(trouble) => refused(&session, "/", trouble),
    }
}

/// A run, as far as all kinds of them are alike.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    run_id: String,
    operation: Option<String>,
    channel_id: Option<String>,
    status: Option<String>,
    #[serde(default)]
    dry_run: bool,
    error: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    warnings: Vec<Warning>,
    #[serde(default)]
    runs: Vec<Run>,
    #[serde(flatten)]
    counters: serde_json::Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Item {
    sku: Option<String>,
    action: Option<String>,
    master: Option<i64>,
    channel: Option<i64>,
    expected: Option<i64>,
    quantity: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Warning {
    sku: Option<String>,
    code: Option<String>,
    detail: Option<String>,
}

impl Run {
    /// Returns the counters that the run has, by name.
    fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counters.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_u64()?)))
    }
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    frame: Frame,
    run: Run,
}

async fn run(
    State(house): State<Shared>,
    session: Session,
    Segment(id): Segment<String>,
) -> Response {
    match house.api.get::<Run>(&session, Path::new(&["sync", "runs", &id])).await {
        Ok(run) => {
            let frame = Frame::new(&session, "/activity", format!("Run {id}"));
            shown(&RunPage { frame, run })
        }
        Err(trouble) => refused(&session, "/activity", trouble),
    }
}
