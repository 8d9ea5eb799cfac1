//! One SKU: its levels, what channels show and why, its holds, and its ledger.

use std::collections::BTreeMap;

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::activity::Entry;
use super::channels::{Begun, no_such_action};
use super::pauses::Pause;
use super::reservations::Reservation;
use super::stock::Sku;
use super::{ListQuery, list};
use crate::Shared;
use crate::api::{Listed, Path, Trouble, Wish, encoded};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

/// How many entries of the history a page shows.
const ENTRIES: &str = "20";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/stock/{sku}", get(show))
        .route("/stock/{sku}/count", post(count))
        .route("/stock/{sku}/adjust", post(adjust))
        .route("/stock/{sku}/settings", post(set))
        .route("/stock/{sku}/channels/{channel}/{verb}", post(sync))
}

/// A ledger line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Movement {
    seq: u64,
    at: String,
    kind: String,
    location_id: String,
    delta: i64,
    reserved_delta: i64,
    quantity_after: i64,
    reserved_after: i64,
    reason: Option<String>,
    actor: String,
    source: String,
    reference: Option<String>,
}

impl Movement {
    /// Returns whether the SKU has no line before it.
    pub(super) fn is_first(&self) -> bool {
        self.seq == 1
    }

    /// Returns when it was recorded.
    pub(super) fn instant(&self) -> Option<Timestamp> {
        self.at.parse().ok()
    }

    /// Returns how many units it sold; fewer than none where some came back.
    pub(super) fn sold(&self) -> Option<i32> {
        let is_sale = ["commit", "channel_sale", "channel_return"].contains(&self.kind.as_str());
        is_sale.then(|| i32::try_from(-self.delta).ok()).flatten()
    }
}

/// Why a listing shows what it shows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    channel_id: String,
    status: String,
    quantity: Option<i64>,
    expected: i64,
    terms: Terms,
    acknowledged_at: Option<String>,
    observed: Option<Observed>,
    in_flight: Option<InFlight>,
    error: Option<Parked>,
    strategy: String,
    fulfilled_by: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terms {
    on_hand: i64,
    reserved: i64,
    safety_stock: i64,
    buffer: i64,
    percent: i64,
    units_per_listing: i64,
    max_quantity: Option<i64>,
    zero_below: i64,
    published: i64,
}

impl Terms {
    /// Returns the formula in words, as far as its terms do anything.
    fn formula(&self) -> String {
        let mut text = format!("{} on hand", self.on_hand);
        for (units, name) in [
            (self.reserved, "reserved"),
            (self.safety_stock, "safety stock"),
            (self.buffer, "kept off this channel"),
        ] {
            if units > 0 {
                text.push_str(&format!(" − {units} {name}"));
            }
        }
        if self.percent != 100 {
            text.push_str(&format!(", {} % of it", self.percent));
        }
        if self.units_per_listing > 1 {
            text.push_str(&format!(", in listings of {}", self.units_per_listing));
        }
        if let Some(max) = self.max_quantity {
            text.push_str(&format!(", at most {max}"));
        }
        if self.zero_below > 0 {
            text.push_str(&format!(", none below {}", self.zero_below));
        }
        text.push_str(&format!(" = {}", self.published));
        text
    }
}

#[derive(Debug, Deserialize)]
struct Observed {
    quantity: i64,
    at: String,
}

#[derive(Debug, Deserialize)]
struct InFlight {
    quantity: i64,
    at: String,
}

#[derive(Debug, Deserialize)]
struct Parked {
    detail: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    paused: Option<Pause>,
    all_paused: Option<Pause>,
    listings: Vec<Explained>,
}

#[derive(Debug, Default, Clone, Deserialize)]
struct Asked {
    #[serde(default)]
    cursor: String,
    #[serde(default)]
    at: String,
    /// Two instants that are compared.
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
    done: Option<String>,
}

/// How the SKU differs between two instants, and by what.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Diff {
    since: String,
    until: String,
    from: Option<Then>,
    to: Option<Then>,
    delta: i64,
    reserved_delta: i64,
    available_delta: i64,
    kinds: BTreeMap<String, Kind>,
}

impl Diff {
    /// Returns both ends, with words for people.
    fn ends(&self) -> [(&'static str, Option<&Then>); 2] {
        [("before", self.from.as_ref()), ("after", self.to.as_ref())]
    }
}

#[derive(Debug, Deserialize)]
struct Then {
    quantity: i64,
    reserved: i64,
    available: i64,
}

/// What the ledger's lines of one kind made of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    lines: u64,
    delta: i64,
    reserved_delta: i64,
}

#[derive(Template)]
#[template(path = "sku.html")]
struct Page {
    frame: Frame,
    sku: Sku,
    asked: Asked,
    paused: Option<Pause>,
    all_paused: Option<Pause>,
    diff: Option<Diff>,
    listings: Vec<Explained>,
    holds: Vec<Reservation>,
    entries: Vec<Entry>,
    movements: Vec<Movement>,
    next: Option<String>,
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Segment(sku): Segment<String>,
    Query(asked): Query<Asked>,
) -> Response {
    match look(&house, &session, &sku, asked).await {
        Ok(page) => shown(&page),
        Err(trouble) => refused(&session, "/stock", trouble),
    }
}

async fn look(
    house: &Shared,
    session: &Session,
    name: &str,
    asked: Asked,
) -> Result<Page, Trouble> {
    let path = |rest: &[&str]| Path::new(&[&["inventory", name], rest].concat());
    let history = list(&["inventory", name, "history"]).with("cursor", &asked.cursor);
    let held = list(&["inventory", "reservations"]).with("sku", name).with("status", "active");
    let told = Path::new(&["sync", "history"]).with("limit", ENTRIES).with("sku", name);
    let (sku, explanation, holds, movements, entries) = futures::try_join!(
        house.api.get::<Sku>(session, path(&[]).with("at", &asked.at)),
        house.api.get::<Explanation>(session, path(&["explain"]).with("at", &asked.at)),
        house.api.get::<Listed<Reservation>>(session, held),
        house.api.get::<Listed<Movement>>(session, history),
        house.api.get::<Listed<Entry>>(session, told),
    )?;
    let diff = match asked.from.as_str() {
        "" => None,
        from => {
            let path = path(&["diff"]).with("from", from).with("to", &asked.to);
            Some(house.api.get::<Diff>(session, path).await?)
        }
    };
    let own = format!("/stock/{}", encoded(name));
    let next = ListQuery::default().next(&own, movements.next_cursor.as_deref());
    let frame = Frame::new(session, "/stock", name).after(asked.done.as_deref());
    Ok(Page {
        frame,
        sku,
        asked,
        paused: explanation.paused,
        all_paused: explanation.all_paused,
        diff,
        listings: explanation.listings,
        holds: holds.items,
        entries: entries.items,
        movements: movements.items,
        next,
    })
}

/// Returns a number that was typed, as the API takes it. Whatever is no whole number goes as it is:
/// the API refuses it and says so best.
pub(super) fn units(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |units| json!(units))
}

/// Returns the body of a count or a change, with the units under a name.
fn body(posted: &Posted, name: &str) -> Value {
    let mut body = json!({ name: units(posted.text("units")) });
    for (name, field) in [("locationId", "location"), ("reason", "reason")] {
        if posted.has(field) {
            body[name] = json!(posted.text(field));
        }
    }
    if posted.has("publish") {
        body["syncToChannels"] = json!(true);
    }
    body
}

async fn count(
    State(house): State<Shared>,
    Segment(sku): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["inventory", &sku]);
    let body = body(&posted, "quantity");
    let booked = posted.send::<Value>(&house, Method::PUT, path, &body).await;
    told(&posted, &sku, booked, "counted")
}

async fn adjust(
    State(house): State<Shared>,
    Segment(sku): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["inventory", &sku, "adjust"]);
    let body = body(&posted, "delta");
    let booked = posted.send::<Value>(&house, Method::POST, path, &body).await;
    told(&posted, &sku, booked, "adjusted")
}

/// How often settings are tried again that a movement came before.
const TRIES_MAX: u32 = 5;

/// Changes a SKU's settings. The API takes them with a count: what is on hand is counted as it
/// stands, and only if nothing has moved meanwhile.
async fn set(
    State(house): State<Shared>,
    Segment(sku): Segment<String>,
    posted: Posted,
) -> Response {
    let mut tried = try_set(&house, &sku, &posted).await;
    for _ in 1..TRIES_MAX {
        match &tried {
            Err(trouble) if trouble.status == StatusCode::PRECONDITION_FAILED => {
                tried = try_set(&house, &sku, &posted).await;
            }
            Ok(_) | Err(_) => break,
        }
    }
    told(&posted, &sku, tried, "set")
}

async fn try_set(house: &Shared, sku: &str, posted: &Posted) -> Result<Value, Trouble> {
    let path = || Path::new(&["inventory", sku]);
    let found = house.api.get::<Sku>(&posted.session, path()).await?;
    let place = found.locations.iter().find(|place| place.location_id == "main");
    let Some(place) = place.or(found.locations.first()) else {
        let detail = "A SKU that stands nowhere has no settings: count it first.";
        return Err(Trouble::new(StatusCode::CONFLICT, "no_location", detail));
    };
    let mut body = json!({ "quantity": place.quantity, "locationId": place.location_id });
    for name in ["safetyStock", "backorderLimit"] {
        body[name] = if posted.has(name) { units(posted.text(name)) } else { json!(0) };
    }
    let threshold = posted.text("lowStockThreshold");
    body["lowStockThreshold"] = if threshold.is_empty() { Value::Null } else { units(threshold) };
    if posted.has("reason") {
        body["reason"] = json!(posted.text("reason"));
    }
    if posted.has("publish") {
        body["syncToChannels"] = json!(true);
    }
    let (method, body, version) = (Method::PUT, body.to_string().into(), Some(found.version));
    posted.wish(house, Wish { method, path: path(), body, version }).await
}

/// Tells a channel the number of this SKU, or reads it back there.
async fn sync(
    State(house): State<Shared>,
    Segment((sku, channel, verb)): Segment<(String, String, String)>,
    posted: Posted,
) -> Response {
    let back = format!("/stock/{}", encoded(&sku));
    let (verb, body) = match verb.as_str() {
        "push" => ("sync", json!({ "items": [{ "sku": sku }] })),
        "pull" => ("pull", json!({ "skus": [sku] })),
        _ => return refused(&posted.session, &back, no_such_action()),
    };
    let path = Path::new(&["inventory", verb, &channel]);
    match posted.send::<Begun>(&house, Method::POST, path, &body).await {
        Ok(run) => Redirect::to(&format!("/activity/{}", encoded(&run.run_id))).into_response(),
        Err(trouble) => refused(&posted.session, &back, trouble),
    }
}

fn told(
    posted: &Posted,
    sku: &str,
    booked: Result<Value, Trouble>,
    word: &'static str,
) -> Response {
    let back = format!("/stock/{}", encoded(sku));
    match booked {
        Ok(_) => done(&back, word),
        Err(trouble) => refused(&posted.session, &back, trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_says_what_does_anything() {
        let terms = Terms {
            on_hand: 50,
            reserved: 6,
            safety_stock: 2,
            buffer: 4,
            percent: 100,
            units_per_listing: 1,
            max_quantity: None,
            zero_below: 0,
            published: 38,
        };
        let text = "50 on hand − 6 reserved − 2 safety stock − 4 kept off this channel = 38";
        assert_eq!(terms.formula(), text);
        let terms = Terms {
            reserved: 0,
            safety_stock: 0,
            buffer: 0,
            percent: 50,
            units_per_listing: 6,
            max_quantity: Some(3),
            zero_below: 2,
            published: 3,
            ..terms
        };
        let text = "50 on hand, 50 % of it, in listings of 6, at most 3, none below 2 = 3";
        assert_eq!(terms.formula(), text);
    }
}
