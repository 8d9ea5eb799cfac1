//! Letting a connection in at the vendor's own page (OAuth 2.0, authorization code).
//!
//! The callback has no credential but the state: it is made here, kept as a digest, good once and
//! for ten minutes. Nothing of what came in is put into the page that answers it.

use axum::extract::State;
use axum::http::Uri;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use trueup_core::ChannelId;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Admin, Caller, Segments};
use crate::api::lists::Params;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState};

/// The longest query of a callback, in bytes.
const QUERY_BYTES_MAX: usize = 8_192;
/// Nothing is loaded, nothing may frame it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(auth_url)).routes(routes!(callback))
}

/// Where to send the merchant.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AuthUrlView {
    /// The channel that is authorized there.
    channel_id: String,
    /// The vendor's page. It holds the state: good once, for whoever has it.
    url: String,
    /// Until when the merchant may come back.
    expires_at: Time,
}

/// Returns the vendor's page where the account's owner authorizes a channel.
///
/// The channel is there already: enabled with the application's credentials, waiting
/// (`authorization_needed`), paused or at work.
#[utoipa::path(get, path = "/connect/{vendor}/auth-url", tag = "connect",
    params(("vendor" = String, Path, description = "The channel's kind", example = "shopify"),
        ("channelId" = Option<String>, Query, description = "The channel; by default named as \
            its kind")),
    responses((status = 200, description = "The page", body = AuthUrlView),
        (status = 400, description = "`invalid_settings` naming what is missing for it, \
            `consent_unsupported`, `unknown_kind`"),
        (status = 404, description = "`channel_not_found`, also where it is of another kind"),
        (status = 409, description = "`public_url_missing`: the vendor could not send anybody \
            back")))]
async fn auth_url(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let kind = path.text("vendor");
    let given = query.text("channelId")?;
    query.finish()?;
    let name = given.as_deref().unwrap_or(kind);
    let channel = ChannelId::new(name).map_err(|_| Problem::channel_not_found(name))?;
    let page = app.engine.consent_page(&caller.org, &channel, kind).await?;
    let view = AuthUrlView {
        channel_id: channel.as_str().to_owned(),
        url: page.url,
        expires_at: Time(page.expires_at),
    };
    Ok(Reply::ok(&view).with_header(header::CACHE_CONTROL, NO_STORE))
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Takes the merchant back from the vendor's page and connects the channel.
///
/// Answers a page for people, or JSON where `Accept` asks for it.
#[utoipa::path(get, path = "/connect/{vendor}/callback", tag = "connect",
    params(("vendor" = String, Path, description = "The channel's kind"),
        ("state" = String, Query, description = "What the page was asked with"),
        ("code" = Option<String>, Query, description = "The vendor's code; its name and what \
            stands beside it are the vendor's")),
    responses((status = 200, description = "It is connected: a page, or `{status, channelId}`",
            body = Object),
        (status = 400, description = "`consent_state_invalid`, `consent_denied`, \
            `consent_forged`, `consent_other_account`, `consent_malformed`, or why the connection \
            could not be verified; nothing was changed"),
        (status = 502, description = "`channel_unavailable`: the vendor did not answer")))]
async fn callback(
    State(app): State<AppState>,
    path: Segments,
    headers: HeaderMap,
    uri: Uri,
) -> Reply {
    let text = uri.query().unwrap_or_default();
    let done = if text.len() > QUERY_BYTES_MAX {
        Err(Problem::bad("consent_malformed", "the query is too long"))
    } else {
        let query: Vec<(String, String)> =
            url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        // A code is good once: a client that gives up must not lose what it brought.
        let (engine, kind) = (app.engine.clone(), path.text("vendor").to_owned());
        let work = tokio::spawn(async move { engine.finish_consent(&kind, &query).await });
        match work.await {
            Ok(done) => done.map_err(Problem::from),
            Err(_) => Err(Problem::internal()),
        }
    };
    let reply = match (done, wants_json(&headers)) {
        (Ok((_, row)), true) => {
            Reply::ok(&json!({ "status": "connected", "channelId": row.id.as_str() }))
        }
        (Ok(_), false) => page(StatusCode::OK, "Connected", "The channel is connected."),
        (Err(problem), true) => problem.reply(),
        (Err(problem), false) => page(problem.status(), "Not connected", words(&problem)),
    };
    reply
        .with_header(header::CACHE_CONTROL, NO_STORE)
        .with_header(header::CONTENT_SECURITY_POLICY, POLICY)
        .with_header(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))
        .with_header(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
}

/// Returns whether the client is a program: it names JSON and no page.
fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let accept = accept.unwrap_or_default().to_ascii_lowercase();
    accept.contains("json") && !accept.contains("text/html")
}

/// Returns what a problem means for the person in front of the page; fixed texts only.
fn words(problem: &Problem) -> &'static str {
    match problem.code() {
        "consent_state_invalid" => {
            "This page was opened before, or more than ten minutes after it was asked for. Ask \
             for the vendor's page again."
        }
        "consent_denied" => "The vendor's page was left without a consent.",
        "consent_forged" => "This did not come from the vendor.",
        "consent_other_account" => "The consent was given by another account than the channel's.",
        "consent_malformed" => "The vendor sent back something that is not documented.",
        "channel_credentials_refused" => "The vendor did not accept the consent's code.",
        "connection_incomplete" => "The account lacks something that the channel needs.",
        "channel_unavailable" => "The vendor did not answer. Ask for its page again.",
        _ => "The connection could not be verified.",
    }
}

fn page(status: StatusCode, title: &str, words: &str) -> Reply {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <title>Trueup: {title}</title>\n<h1>{title}</h1>\n<p>{words}</p>\n\
         <p>You can close this page.</p>\n</html>\n"
    );
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    Reply::bytes(status, kind, html.into_bytes())
}
