//! What was synced: the history, and single runs.

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels::{Begun, no_such_action};
use super::{ListQuery, list};
use crate::Shared;
use crate::api::{Path, encoded};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

/// How much of an entry's detail is shown, in characters.
const DETAIL_CHARS_MAX: usize = 160;
/// A vendor's id of a delivery, which says nothing to people.
const DELIVERY: &str = "deliveryId";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/activity", get(show))
        .route("/activity/{run}", get(run))
        .route("/activity/{run}/{verb}", post(decide))
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
const OPERATIONS: [&str; 8] = [
    "inventory_push",
    "inventory_pull",
    "inventory_undo",
    "inventory_conflict",
    "inventory_discovery",
    "mapping_missing",
    "webhook",
    "administration",
];
const STATUSES: [&str; 9] =
    ["ok", "warning", "error", "open", "resolved", "held", "confirmed", "cancelled", "undone"];

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
pub(super) struct Run {
    pub(super) run_id: String,
    pub(super) operation: Option<String>,
    pub(super) channel_id: Option<String>,
    status: Option<String>,
    #[serde(default)]
    dry_run: bool,
    undoes: Option<String>,
    pub(super) error: Option<String>,
    pub(super) started_at: Option<String>,
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
    before: Option<i64>,
    quantity: Option<i64>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Warning {
    sku: Option<String>,
    code: Option<String>,
    detail: Option<String>,
}

/// What can be done about a run that is held: the word of its address, and words for people.
const HELD: [(&str, &str); 2] = [("confirm", "Do it all the same"), ("cancel", "Give it up")];
/// What can be done about one that has ended.
const ENDED: [(&str, &str); 1] = [("undo", "Undo it: show again what was shown before")];

impl Run {
    /// Returns what can be done about it.
    fn verbs(&self) -> &'static [(&'static str, &'static str)] {
        match self.status.as_deref() {
            Some("held") => &HELD,
            Some("completed" | "partial" | "failed") if self.tells() => &ENDED,
            _ => &[],
        }
    }

    /// Returns whether it is held.
    fn is_held(&self) -> bool {
        self.status.as_deref() == Some("held")
    }

    /// Returns whether it may have told a channel something.
    fn tells(&self) -> bool {
        let told = ["inventory_push", "inventory_pull", "inventory_undo"];
        !self.dry_run && self.operation.as_deref().is_some_and(|word| told.contains(&word))
    }

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
    Query(query): Query<ListQuery>,
) -> Response {
    match house.api.get::<Run>(&session, Path::new(&["sync", "runs", &id])).await {
        Ok(run) => {
            let frame = Frame::new(&session, "/activity", format!("Run {id}"));
            let frame = frame.after(query.done.as_deref());
            shown(&RunPage { frame, run })
        }
        Err(trouble) => refused(&session, "/activity", trouble),
    }
}

/// Confirms a held run, gives it up, or undoes one that has ended.
async fn decide(
    State(house): State<Shared>,
    Segment((id, verb)): Segment<(String, String)>,
    posted: Posted,
) -> Response {
    let back = format!("/activity/{}", encoded(&id));
    let word = match verb.as_str() {
        "confirm" => "confirmed",
        "cancel" => "cancelled",
        "undo" => "undone",
        _ => return refused(&posted.session, &back, no_such_action()),
    };
    let path = Path::new(&["sync", "runs", &id, &verb]);
    match posted.send::<Begun>(&house, Method::POST, path, &json!({})).await {
        Ok(run) => done(&format!("/activity/{}", encoded(&run.run_id)), word),
        Err(trouble) => refused(&posted.session, &back, trouble),
    }
}
