//! Connecting a channel and changing its settings. Credentials go in and never come out.

use std::collections::BTreeMap;

use askama::Template;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels::Channel;
use super::sku::units;
use crate::Shared;
use crate::api::{Path, Trouble, encoded};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/connect-channel", get(ask_new).post(connect))
        .route("/channels/{id}/settings", get(ask_changes).post(change))
        .route("/channels/{id}/consent", post(consent))
}

/// A kind of channel, with what it is asked for beside what all are.
struct Kind {
    name: &'static str,
    title: &'static str,
    settings: &'static [Field],
    credentials: &'static [Field],
}

/// Something that is asked for: its name in the API, and words for people.
struct Field {
    name: &'static str,
    words: &'static str,
}

const fn field(name: &'static str, words: &'static str) -> Field {
    Field { name, words }
}

/// The setting that is a list: it is typed with commas.
const LIST: &str = "marketplaceIds";

const KINDS: [Kind; 3] = [
    Kind {
        name: "shopify",
        title: "Shopify",
        settings: &[
            field("shop", "The shop, such as acme.myshopify.com"),
            field("defaultLocationId", "Location, such as gid://shopify/Location/1"),
        ],
        credentials: &[
            field("accessToken", "Access token (shpat_…)"),
            field("clientId", "or the app's client ID"),
            field("clientSecret", "and its client secret"),
            field("webhookSecret", "Webhook secret"),
        ],
    },
    Kind {
        name: "amazon",
        title: "Amazon",
        settings: &[
            field("sellerId", "Seller ID"),
            field("marketplaceIds", "Marketplaces, with commas between them"),
            field("region", "Region: na, eu or fe"),
            field("applicationId", "Application ID, to be let in at Amazon's page"),
        ],
        credentials: &[
            field("clientId", "Client ID"),
            field("clientSecret", "Client secret"),
            field("refreshToken", "Refresh token"),
            field("webhookSecret", "Webhook secret"),
        ],
    },
    Kind {
        name: "ebay",
        title: "eBay",
        settings: &[
            field("marketplaceId", "Marketplace, such as EBAY_DE"),
            field("ruName", "RuName, to be let in at eBay's page"),
        ],
        credentials: &[
            field("clientId", "App ID (client ID)"),
            field("clientSecret", "Cert ID (client secret)"),
            field("refreshToken", "Refresh token"),
            field("verificationToken", "Verification token of notifications"),
        ],
    },
];

/// Numbers that every kind may have.
const NUMBERS: [Field; 5] = [
    field("buffer", "Units kept off it"),
    field("percent", "Percent offered"),
    field("maxQuantity", "Shown at most"),
    field("zeroBelow", "Zero below"),
    field("pollIntervalMinutes", "Minutes between readings"),
];
const STRATEGIES: [&str; 4] = ["master_wins", "channel_wins", "lower_wins", "manual"];
const RESTOCKING: [&str; 3] = ["restock", "quarantine", "none"];
/// What is switched on or off.
const SWITCHES: [Field; 3] = [
    field("syncInventory", "Tell it by itself when stock moves"),
    field("syncOrders", "Book its orders"),
    field("dryRun", "Only compute and report: send nothing"),
];
/// What the API tells of a channel and is no setting of it.
const TOLD: [&str; 7] =
    ["channelId", "state", "createdAt", "updatedAt", "lastSync", "lastError", "kind"];

fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[derive(Template)]
#[template(path = "connect.html")]
struct Page {
    frame: Frame,
    kind: &'static Kind,
    /// The channel whose settings are changed; `None` for a new one.
    id: Option<String>,
    /// What is set now.
    now: BTreeMap<String, Value>,
}

impl Page {
    /// Returns what stands in a field at first.
    fn value(&self, name: &str) -> String {
        match self.now.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(all)) => {
                all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }
            Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Object(_))) => {
                value.to_string()
            }
        }
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.value(name) == value
    }

    /// Returns whether a switch is on at first.
    fn is_on(&self, name: &str) -> bool {
        self.now.get(name) == Some(&json!(true))
    }
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    kind: String,
}

async fn ask_new(session: Session, Query(asked): Query<Asked>) -> Response {
    let Some(kind) = kind(&asked.kind) else {
        return refused(&session, "/channels", unknown_kind());
    };
    let frame = Frame::new(&session, "/channels", format!("Connect {}", kind.title));
    let now = [("syncInventory", json!(true)), ("syncOrders", json!(true))];
    let now = now.map(|(name, value)| (name.to_owned(), value)).into();
    shown(&Page { frame, kind, id: None, now })
}

async fn ask_changes(
    State(house): State<Shared>,
    session: Session,
    Segment(id): Segment<String>,
) -> Response {
    let found = house.api.get::<Channel>(&session, Path::new(&["channels", &id])).await;
    match found.map(|channel| (kind(&channel.kind), channel.settings)) {
        Ok((Some(kind), now)) => {
            let frame = Frame::new(&session, "/channels", format!("Settings of {id}"));
            shown(&Page { frame, kind, id: Some(id), now })
        }
        Ok((None, _)) => refused(&session, "/channels", unknown_kind()),
        Err(trouble) => refused(&session, "/channels", trouble),
    }
}

fn unknown_kind() -> Trouble {
    Trouble::new(StatusCode::NOT_FOUND, "unknown_kind", "There is no such kind of channel.")
}

async fn connect(State(house): State<Shared>, posted: Posted) -> Response {
    let Some(kind) = kind(posted.text("kind")) else {
        return refused(&posted.session, "/channels", unknown_kind());
    };
    let id = if posted.has("id") { posted.text("id") } else { kind.name };
    enable(&house, &posted, kind, id, BTreeMap::new()).await
}

async fn change(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let path = Path::new(&["channels", &id]);
    let found = house.api.get::<Channel>(&posted.session, path).await;
    match found.map(|channel| (kind(&channel.kind), channel.settings)) {
        Ok((Some(kind), now)) => enable(&house, &posted, kind, &id, now).await,
        Ok((None, _)) => refused(&posted.session, "/channels", unknown_kind()),
        Err(trouble) => refused(&posted.session, "/channels", trouble),
    }
}

async fn enable(
    house: &Shared,
    posted: &Posted,
    kind: &Kind,
    id: &str,
    now: BTreeMap<String, Value>,
) -> Response {
    let confirmed = if posted.has("confirm") { "true" } else { "" };
    let path = Path::new(&["channels", id, "enable"]).with("confirm", confirmed);
    let body = body(posted, kind, now);
    match posted.send::<Value>(house, Method::POST, path, &body).await {
        Ok(_) => done(&format!("/channels/{}", encoded(id)), "connected"),
        Err(trouble) => refused(&posted.session, "/channels", trouble),
    }
}

/// Returns what is asked of the API: what is set now, with what the form says in its place. A
/// field that was emptied is left out; so are credentials that were not given.
fn body(posted: &Posted, kind: &Kind, now: BTreeMap<String, Value>) -> Value {
    let mut body: BTreeMap<String, Value> =
        now.into_iter().filter(|(name, _)| !TOLD.contains(&name.as_str())).collect();
    let mut put = |name: &str, value: Option<Value>| match value {
        Some(value) => body.insert(name.to_owned(), value),
        None => body.remove(name),
    };
    let text = |name: &str| posted.has(name).then(|| posted.text(name));
    put("kind", Some(json!(kind.name)));
    for Field { name, .. } in kind.settings {
        put(name, text(name).map(|text| if *name == LIST { list(text) } else { json!(text) }));
    }
    for Field { name, .. } in &NUMBERS {
        put(name, text(name).map(units));
    }
    for name in ["conflictStrategy", "restockPolicy", "endpoint"] {
        put(name, text(name).map(|text| json!(text)));
    }
    for Field { name, .. } in &SWITCHES {
        put(name, Some(json!(posted.has(name))));
    }
    let given = |Field { name, .. }: &Field| {
        let credential = format!("credentials.{name}");
        posted.has(&credential).then(|| ((*name).to_owned(), json!(posted.text(&credential))))
    };
    let credentials: serde_json::Map<String, Value> =
        kind.credentials.iter().filter_map(given).collect();
    put("credentials", (!credentials.is_empty()).then_some(Value::Object(credentials)));
    json!(body)
}

fn list(text: &str) -> Value {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| json!(part)).collect()
}

/// The vendor's page where the account's owner lets a channel in.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consent {
    url: String,
    expires_at: String,
}

#[derive(Template)]
#[template(path = "consent.html")]
struct ConsentPage {
    frame: Frame,
    consent: Consent,
}

async fn consent(
    State(house): State<Shared>,
    Segment(id): Segment<String>,
    posted: Posted,
) -> Response {
    let back = format!("/channels/{}", encoded(&id));
    let session = &posted.session;
    let found = async {
        let channel = house.api.get::<Channel>(session, Path::new(&["channels", &id])).await?;
        let page = Path::of_server(&["connect", &channel.kind, "auth-url"]).with("channelId", &id);
        house.api.get::<Consent>(session, page).await
    };
    match found.await {
        Ok(consent) => {
            let frame = Frame::new(session, "/channels", format!("Let {id} in"));
            shown(&ConsentPage { frame, consent })
        }
        Err(trouble) => refused(session, &back, trouble),
    }
}
