//! eBay's Real-time Inventory Check: while a shopper pays, eBay asks whether there is enough.
//!
//! The vendor's page names the fields in its text otherwise than in its sample, and user name
//! and password in one edition, OAuth in another; all of them are taken.
//! <https://developer.ebay.com/api-docs/sell/static/inventory/realtime-inventory-check.html>

use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trueup_sync::{CHECK_ITEMS_MAX, CHECK_TOKEN_SECONDS, CheckAnswer, CheckCredential};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::Segments;
use crate::api::idempotency::read_body;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(check)).routes(routes!(token))
}

/// What is asked of one SKU. Other members, such as `merchantLocationKey` and
/// `fulfillmentType`, are taken and change nothing: the number holds for the listing.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"merchantLocationKey": "SUNNYVALE-123", "SKU": "SKU1234",
    "fulfillmentType": "SHIP_TO_HOME", "requestedQuantity": 10}))]
struct CheckEntry {
    /// The SKU of eBay's inventory item.
    #[serde(rename = "SKU", alias = "sku")]
    sku: String,
    /// How many the shopper wants; 1 where it is not said.
    #[serde(rename = "requestedQuantity")]
    requested: Option<u64>,
}

/// What there is of one SKU.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"isAvailable": true, "lastUpdated": 1777111200,
    "totalAvailableQuantity": 42}))]
struct CheckView {
    /// Whether there is as much as was asked for; never of a SKU that is not mapped.
    is_available: bool,
    /// Of when the number is, in seconds since 1970.
    last_updated: i64,
    /// What the listing should show by the ledger as it stands.
    total_available_quantity: u64,
    /// The SKU, where several were asked for.
    #[serde(rename = "SKU", skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    sku: Option<String>,
}

impl CheckView {
    fn of(entry: &CheckEntry, answer: CheckAnswer) -> Self {
        let wanted = entry.requested.unwrap_or(1);
        let is_available = answer.is_known && answer.quantity >= wanted;
        let word = match (answer.is_known, is_available) {
            (true, true) => "enough",
            (true, false) => "short",
            (false, _) => "unknown",
        };
        metrics::counter!("trueup_inventory_check_items_total", "answer" => word).increment(1);
        Self {
            is_available,
            last_updated: answer.at.micros().div_euclid(1_000_000),
            total_available_quantity: answer.quantity,
            sku: None,
        }
    }
}

/// Answers whether there is enough of one SKU, or of each of up to 1 000. Let in by user and
/// password of the connection (`credentials.checkUser`, `credentials.checkPassword`) or by a
/// token of the route beside this one. The answer is computed from the ledger; it comes within
/// 300 ms, if need be from what was last told.
#[utoipa::path(post, path = "/upstream/inventory-check/{orgId}/{channelId}", tag = "webhooks in",
    params(("orgId" = String, Path, description = "The org"),
        ("channelId" = String, Path, description = "The channel")),
    request_body(content = CheckEntry, description = "One entry, or an array of them"),
    responses((status = 200, description = "One answer, or an array of them in the same order",
            body = CheckView),
        (status = 400, description = "`invalid_body`, `too_many_items`"),
        (status = 401, description = "`check_refused`: user, password or token are wrong, or \
            the channel has no checks")))]
async fn check(
    State(app): State<AppState>,
    path: Segments,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let began = tokio::time::Instant::now();
    let (org, channel) = (path.org()?, path.channel()?);
    let credential = Credential::of(&headers).ok_or_else(refused)?;
    if !app.engine.may_check(&org, &channel, credential.as_check()) {
        return Err(refused());
    }
    let body = read_body(&headers, body).await?;
    let (entries, is_list) = read_entries(&body)?;
    let skus: Vec<String> = entries.iter().map(|entry| entry.sku.clone()).collect();
    let answers = app.engine.check_inventory(&org, &channel, &skus).await?;
    let mut views: Vec<CheckView> =
        entries.iter().zip(answers).map(|(entry, answer)| CheckView::of(entry, answer)).collect();
    metrics::histogram!("trueup_inventory_check_seconds").record(began.elapsed().as_secs_f64());
    if !is_list {
        return Ok(Reply::ok(&views.pop()));
    }
    for (view, sku) in views.iter_mut().zip(skus) {
        view.sku = Some(sku);
    }
    Ok(Reply::ok(&views))
}

fn read_entries(body: &[u8]) -> Result<(Vec<CheckEntry>, bool), Problem> {
    let bad = |error: serde_json::Error| {
        Problem::bad("invalid_body", format!("the body is not a check: {error}"))
    };
    let value: Value = serde_json::from_slice(body).map_err(bad)?;
    if !value.is_array() {
        return Ok((vec![serde_json::from_value(value).map_err(bad)?], false));
    }
    let count = value.as_array().map_or(0, Vec::len);
    if count > CHECK_ITEMS_MAX {
        let detail = format!("{count} entries; at most {CHECK_ITEMS_MAX} are allowed");
        return Err(Problem::bad("too_many_items", detail));
    }
    Ok((serde_json::from_value(value).map_err(bad)?, true))
}

fn refused() -> Problem {
    let detail = "user, password or token are wrong, or the channel has no checks";
    let ways = HeaderValue::from_static("Basic realm=\"trueup\", Bearer realm=\"trueup\"");
    Problem::new(StatusCode::UNAUTHORIZED, "check_refused", detail)
        .with_header(header::WWW_AUTHENTICATE, ways)
}

/// What `Authorization` holds.
enum Credential {
    Password(String, String),
    Token(String),
}

impl Credential {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, rest) = text.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Token(rest.trim().to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        let (user, password) = pair.split_once(':')?;
        Some(Self::Password(user.to_owned(), password.to_owned()))
    }

    fn as_check(&self) -> CheckCredential<'_> {
        match self {
            Self::Password(user, password) => CheckCredential::Password { user, password },
            Self::Token(token) => CheckCredential::Token(token),
        }
    }
}

/// Grants a token for checks: OAuth client credentials (RFC 6749, 4.4), user and password of the
/// connection as client id and secret, in `Authorization: Basic` or in the form.
#[utoipa::path(post, path = "/upstream/inventory-check/{orgId}/{channelId}/token",
    tag = "webhooks in",
    params(("orgId" = String, Path, description = "The org"),
        ("channelId" = String, Path, description = "The channel")),
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "`grant_type=client_credentials`, and `client_id` and `client_secret` \
            where they are not in the header"),
    responses((status = 200, description = "`{access_token, token_type, expires_in}`",
            body = Object),
        (status = 400, description = "`unsupported_grant_type`"),
        (status = 401, description = "`invalid_client`")))]
async fn token(
    State(app): State<AppState>,
    path: Segments,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let (org, channel) = (path.org()?, path.channel()?);
    let body = read_body(&headers, body).await?;
    let form: Vec<(String, String)> =
        url::form_urlencoded::parse(&body).into_owned().take(FORM_FIELDS_MAX).collect();
    let field = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, v)| v.as_str());
    if field("grant_type") != Some("client_credentials") {
        return Ok(grant(StatusCode::BAD_REQUEST, &json!({"error": "unsupported_grant_type"})));
    }
    let in_header = Credential::of(&headers);
    let pair = match &in_header {
        Some(Credential::Password(user, password)) => Some((user.as_str(), password.as_str())),
        Some(Credential::Token(_)) | None => field("client_id").zip(field("client_secret")),
    };
    let granted =
        pair.and_then(|(user, password)| app.engine.check_token(&org, &channel, user, password));
    let Some(token) = granted else {
        let ways = HeaderValue::from_static("Basic realm=\"trueup\"");
        let reply = grant(StatusCode::UNAUTHORIZED, &json!({"error": "invalid_client"}));
        return Ok(reply.with_header(header::WWW_AUTHENTICATE, ways));
    };
    Ok(grant(
        StatusCode::OK,
        &json!({
            "access_token": token.expose(), "token_type": "Bearer",
            "expires_in": CHECK_TOKEN_SECONDS,
        }),
    ))
}

/// The most fields of a token request that are read.
const FORM_FIELDS_MAX: usize = 20;

fn grant(status: StatusCode, body: &Value) -> Reply {
    let reply = Reply::json(status, body);
    reply.with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}
