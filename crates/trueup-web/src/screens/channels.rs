//! Channels: how they are, and pausing, resuming, pushing and reading them.

use std::collections::BTreeMap;

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use futures::future::join_all;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ListQuery;
use super::pauses::Pauses;
use crate::Shared;
use crate::api::{Impact, Listed, Path, Trouble, encoded};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

/// How many paused SKUs are shown.
const PAUSES: &str = "100";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/channels", get(all))
        .route("/channels/{id}", get(one))
        .route("/channels/{id}/limits", post(limit))
        .route("/channels/{id}/try", post(try_out))
        .route("/channels/{id}/{verb}", post(act))
}

/// A channel as the API lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Channel {
    pub(super) channel_id: String,
    pub(super) kind: String,
    #[serde(flatten)]
    pub(super) settings: BTreeMap<String, Value>,
}

impl Channel {
    /// Returns its settings that are set, by name; how it is stands elsewhere.
    fn settings(&self) -> impl Iterator<Item = (&str, String)> {
        let is_setting = |name: &str| !["state", "lastSync", "lastError"].contains(&name);
        let all = self.settings.iter();
        let set = all.filter(move |(name, value)| !value.is_null() && is_setting(name));
        set.map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.as_str(), text)
        })
    }
}

/// How a channel is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) status: String,
    pub(super) connected: bool,
    pub(super) last_sync: Option<String>,
    pub(super) last_error: Option<String>,
    pub(super) pending: u64,
    pub(super) drifted: u64,
    pub(super) conflicts: u64,
    #[serde(default)]
    postponed: u64,
    health: Option<Health>,
    token: Option<Token>,
    #[serde(default)]
    rate_limit: BTreeMap<String, Rate>,
}

#[derive(Debug, Deserialize)]
struct Health {
    detail: Option<String>,
    since: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    expires_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    per_second: Option<f64>,
    remaining: Option<f64>,
}

impl Rate {
    /// Returns how many calls a second it lets through.
    fn speed(&self) -> String {
        self.per_second.map_or_else(String::new, |rate| rate.to_string())
    }

    /// Returns how many calls are left now.
    fn left(&self) -> String {
        self.remaining.map_or_else(String::new, |left| format!("{left:.0}"))
    }
}

#[derive(Template)]
#[template(path = "channels.html")]
struct AllPage {
    frame: Frame,
    pauses: Pauses,
    channels: Vec<(Channel, Option<Status>)>,
}

async fn all(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    let paused = Path::new(&["sync", "paused"]).with("limit", PAUSES);
    let found = async {
        futures::try_join!(with_status(&house, &session), house.api.get::<Pauses>(&session, paused),)
    };
    match found.await {
        Ok((channels, pauses)) => {
            let frame = Frame::new(&session, "/channels", "Channels");
            let frame = frame.after(query.done.as_deref());
            shown(&AllPage { frame, pauses, channels })
        }
        Err(trouble) => refused(&session, "/", trouble),
    }
}

/// Reads the channels and how each of them is; one that cannot be asked is left without.
pub(super) async fn with_status(
    house: &Shared,
    session: &Session,
) -> Result<Vec<(Channel, Option<Status>)>, Trouble> {
    let path = Path::new(&["channels"]).with("limit", "100");
    let channels = house.api.get::<Listed<Channel>>(session, path).await?.items;
    let statuses = join_all(channels.iter().map(|channel| {
        let path = Path::new(&["channels", &channel.channel_id, "status"]);
        house.api.get::<Status>(session, path)
    }));
    let statuses = statuses.await.into_iter().map(Result::ok);
    Ok(channels.into_iter().zip(statuses).collect())
}

#[derive(Template)]
#[template(path = "channel.html")]
struct OnePage {
    frame: Frame,
    channel: Channel,
    status: Status,
    limits: Limits,
}

/// How much of a channel one act may change before somebody is asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    zero_percent: u64,
    zero_number: Option<u64>,
    zeroes_free: u64,
    change_percent: u64,
    change_number: Option<u64>,
    changes_free: u64,
}

/// The limits that can be set: the API's name, and words for people.
const LIMITS: [(&str, &str); 4] = [
    ("zeroPercent", "Percent of the listings that may be zeroed"),
    ("zeroNumber", "and so many at most; empty: only the percent counts"),
    ("changePercent", "Percent of the listings that may be told another number"),
    ("changeNumber", "and so many at most"),
];

impl Limits {
    /// Returns what stands in a field at first.
    fn value(&self, name: &str) -> String {
        let number = match name {
            "zeroPercent" => Some(self.zero_percent),
            "zeroNumber" => self.zero_number,
            "changePercent" => Some(self.change_percent),
            _ => self.change_number,
        };
        number.map_or_else(String::new, |number| number.to_string())
    }
}

impl OnePage {
    /// Returns what can be done now: the word of its address, and words for people.
    fn verbs(&self) -> [(&'static str, &'static str); 5] {
        let is_paused = self.status.status == "paused";
        let last = if is_paused { ("resume", "Resume") } else { ("pause", "Pause") };
        [
            ("rehearse", "Look what it would be told"),
            ("push", "Tell it every number"),
            ("pull", "Read it back and settle"),
            ("look", "Read it back, change nothing"),
            last,
        ]
    }
}

async fn one(
    State(house): State<Shared>,
    session: Session,
    Segment(id): Segment<String>,
    Query(query): Query<ListQuery>,
) -> Response {
    let found = async {
        futures::try_join!(
            house.api.get::<Channel>(&session, Path::new(&["channels", &id])),
            house.api.get::<Status>(&session, Path::new(&["channels", &id, "status"])),
            house.api.get::<Limits>(&session, Path::new(&["channels", &id, "blast-radius"])),
        )
    };
    match found.await {
        Ok((channel, status, limits)) => {
            let frame = Frame::new(&session, "/channels", &id).after(query.done.as_deref());
            shown(&OnePage { frame, channel, status, limits })
        }
        Err(trouble) => refused(&session, "/channels", trouble),
    }
}

/// A run that was begun.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Begun {
    pub(super) run_id: String,
}

async fn act(
    State(house): State<Shared>,
    Segment((id, verb)): Segment<(String, String)>,
    posted: Posted,
) -> Response {
    let back = format!("/channels/{}", encoded(&id));
    let change = |verb: &str| (Path::new(&["channels", &id, verb]), json!({}));
    let run = |verb: &str| Path::new(&["inventory", verb, &id]);
    let ((path, body), word) = match verb.as_str() {
        "pause" => (change("disable"), Some("paused")),
        "resume" => (change("resume"), Some("resumed")),
        "rehearse" => ((run("sync"), json!({ "dryRun": true })), None),
        "push" => ((run("sync"), json!({})), None),
        "pull" => ((run("pull"), json!({})), None),
        "look" => ((run("pull"), json!({ "dryRun": true })), None),
        _ => return refused(&posted.session, &back, no_such_action()),
    };
    let answer = posted.send::<Value>(&house, Method::POST, path, &body).await;
    match (answer, word) {
        (Ok(_), Some(word)) => done(&back, word),
        (Ok(run), None) => match serde_json::from_value::<Begun>(run) {
            Ok(run) => Redirect::to(&format!("/activity/{}", encoded(&run.run_id))).into_response(),
            Err(_) => Redirect::to("/activity").into_response(),
        },
        (Err(trouble), _) => refused(&posted.session, &back, trouble),
    }
}

/// Sets how much of a channel one act may change before somebody is asked.
async fn limit(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let back = format!("/channels/{}", encoded(&id));
    let body = posted.numbers(&LIMITS);
    let path = Path::new(&["channels", &id, "blast-radius"]);
    match posted.send::<Value>(&house, Method::PUT, path, &Value::Object(body)).await {
        Ok(_) => done(&back, "limited"),
        Err(trouble) => refused(&posted.session, &back, trouble),
    }
}

/// What can be tried: the API's name, and words for people.
const TRIED: [(&str, &str); 4] = [
    ("buffer", "Units kept off it"),
    ("percent", "Percent offered"),
    ("maxQuantity", "Shown at most"),
    ("zeroBelow", "Zero below"),
];

/// What other settings would have made of what has happened.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Backtest {
    from: String,
    to: String,
    lines: u64,
    cut: bool,
    sold: u64,
    oversells: u64,
    oversold_units: u64,
    oversells_avoided: u64,
    units_avoided: u64,
    units_missed: u64,
    units_hidden: u64,
    units_hidden_average: u64,
    differences: u64,
    adopted: u64,
    conflicts: u64,
}

#[derive(Template)]
#[template(path = "try.html")]
struct TryPage {
    frame: Frame,
    id: String,
    impact: Impact,
    past: Backtest,
}

/// Says what other settings would change now, and what would have come of them.
async fn try_out(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let back = format!("/channels/{}", encoded(&id));
    let mut body = posted.numbers(&TRIED);
    if posted.has("conflictStrategy") {
        body.insert("conflictStrategy".to_owned(), json!(posted.text("conflictStrategy")));
    }
    let body = Value::Object(body);
    let ask = |what: &str| Path::new(&["channels", &id, what]);
    let found = async {
        futures::try_join!(
            posted.send::<Impact>(&house, Method::POST, ask("what-if"), &body),
            posted.send::<Backtest>(&house, Method::POST, ask("backtest"), &body),
        )
    };
    match found.await {
        Ok((impact, past)) => {
            let frame = Frame::new(&posted.session, "/channels", format!("What if, on {id}"));
            shown(&TryPage { frame, id, impact, past })
        }
        Err(trouble) => refused(&posted.session, &back, trouble),
    }
}

/// The refusal of a word that no button has.
pub(super) fn no_such_action() -> Trouble {
    Trouble::new(StatusCode::NOT_FOUND, "not_found", "There is no such action.")
}
