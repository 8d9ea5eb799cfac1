//! The conflict inbox: differences that wait for a person.

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::sku::units;
use super::{ListQuery, list};
use crate::Shared;
use crate::api::{Path, Trouble};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

/// Where the inbox is.
const BACK: &str = "/conflicts";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/conflicts", get(show).post(resolve))
        .route("/conflicts/{id}/undo", post(undo))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conflict {
    id: String,
    channel_id: String,
    sku: String,
    master: i64,
    base: Option<i64>,
    expected: i64,
    observed: i64,
    opened_at: String,
    seen_at: String,
    status: String,
    resolved: Option<Resolved>,
}

impl Conflict {
    /// Returns by how much the channel moved by itself.
    fn difference(&self) -> i64 {
        self.observed - self.base.unwrap_or(self.expected)
    }

    /// Returns what is known to have happened.
    fn cause(&self) -> String {
        let (difference, shown) = (self.difference(), self.observed);
        let size = difference.unsigned_abs();
        let more = if difference < 0 { "fewer" } else { "more" };
        match self.base {
            Some(told) => format!("told {told}, shows {shown}: {size} {more} by itself"),
            None => format!("never told, shows {shown}: {size} {more} than it should"),
        }
    }

    /// Returns what is likely, and what to do then.
    fn suggestion(&self) -> &'static str {
        if self.difference() < 0 {
            "Likely a sale there that was not heard of: take its difference over."
        } else {
            "Likely a change by hand there: ours is right."
        }
    }
}

#[derive(Debug, Deserialize)]
struct Resolved {
    by: String,
    resolution: String,
    at: String,
    note: Option<String>,
}

#[derive(Template)]
#[template(path = "conflicts.html")]
struct Page {
    frame: Frame,
    query: ListQuery,
    rows: Vec<Conflict>,
    next: Option<String>,
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    let path = list(&["inventory", "conflicts"])
        .with("status", &query.status)
        .with("channel", &query.channel);
    match house.api.gather::<Conflict>(&session, &path, &query.cursor).await {
        Ok(found) => {
            let frame = Frame::new(&session, "/conflicts", "Conflicts");
            let frame = frame.after(query.done.as_deref());
            let next = query.next("/conflicts", found.next_cursor.as_deref());
            shown(&Page { frame, query, rows: found.items, next })
        }
        Err(trouble) => refused(&session, "/", trouble),
    }
}

/// Resolves the conflicts that were chosen, each for itself.
async fn resolve(State(house): State<Shared>, posted: Posted) -> Response {
    let resolution = posted.text("resolution");
    let mut body = json!({ "resolution": resolution });
    if posted.has("note") {
        body["note"] = json!(posted.text("note"));
    }
    if resolution == "quantity" {
        body["quantity"] = units(posted.text("quantity"));
    }
    let (mut resolved, mut troubles) = (0_u32, Vec::new());
    for id in posted.all("id") {
        let path = Path::new(&["inventory", "conflicts", id, "resolve"]);
        match posted.send::<Value>(&house, Method::POST, path, &body).await {
            Ok(_) => resolved += 1,
            Err(trouble) => troubles.push(trouble),
        }
    }
    match troubles.first() {
        None if resolved > 0 => done(BACK, "resolved"),
        None => {
            let detail = "No conflict was chosen.";
            let trouble = Trouble::new(StatusCode::BAD_REQUEST, "nothing_chosen", detail);
            refused(&posted.session, BACK, trouble)
        }
        Some(first) => {
            let refusals = troubles.len();
            let detail = format!("Resolved: {resolved}. Refused: {refusals}. {}", first.detail);
            refused(&posted.session, BACK, Trouble::new(first.status, &first.code, detail))
        }
    }
}

/// Takes the end of a conflict back.
async fn undo(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["inventory", "conflicts", &id, "undo"]);
    match posted.send::<Value>(&house, Method::POST, path, &json!({})).await {
        Ok(_) => done(BACK, "reopened"),
        Err(trouble) => refused(&posted.session, BACK, trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_with_what_is_likely() {
        let conflict = |base, observed| Conflict {
            id: "7".to_owned(),
            channel_id: "shopify".to_owned(),
            sku: "A".to_owned(),
            master: 50,
            base,
            expected: 38,
            observed,
            opened_at: String::new(),
            seen_at: String::new(),
            status: "open".to_owned(),
            resolved: None,
        };
        assert_eq!(conflict(Some(40), 37).cause(), "told 40, shows 37: 3 fewer by itself");
        assert_eq!(conflict(None, 39).cause(), "never told, shows 39: 1 more than it should");
        assert!(conflict(Some(40), 37).suggestion().starts_with("Likely a sale"));
        assert!(conflict(Some(40), 41).suggestion().starts_with("Likely a change"));
    }
}
