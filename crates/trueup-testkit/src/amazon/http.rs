//! Amazon's Selling Partner API over HTTP, and Login with Amazon.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Handle};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::feeds::DOCUMENT_MS_MAX;
use super::state::{Change, Document, FEEDS_MAX, Feed, Listing};
use super::wire::{self, BadPatch, Issue};
use super::{
    APPLICATION_ID, CLIENT_ID, CLIENT_SECRET, MARKETPLACE_ID, REFRESH_TOKEN, SELLER_ID, Simulator,
    TOKEN_SECONDS, events, notifications,
};
use crate::consent;
use crate::edge::{json as answer, list, pairs, value, wrote};
use crate::faults::Trouble;
use crate::limits::Rate;
use crate::shop::{FulfilledBy, OrderStatus, Shop, SimOrder};
use crate::time::{millis_text, plus_ms};

/// The most identifiers of one search, and its largest page.
pub const SEARCH_MAX: usize = 20;
/// The usage plan of patches, and that of searches.
pub const LISTINGS_RATE: Rate = Rate { milli_per_second: 5_000, burst: 5 };
/// The most SKUs of one FBA request, and its page.
pub(super) const FBA_SKUS_MAX: usize = 50;
/// How many results of a search can be reached
/// (github.com/amzn/selling-partner-api-models issue 4544).
const RESULTS_MAX: usize = 1_000;
/// The largest page of orders.
pub(super) const ORDERS_PAGE_MAX: usize = 100;
/// The most marketplaces of a feed.
pub(super) const MARKETPLACES_MAX: usize = 25;
/// How long the next-page token of FBA is good.
const FBA_TOKEN_MS_MAX: i64 = 30_000;

/// What access tokens of an authorisation and of the application alone begin with.
const SELLER_TOKEN: &str = "Atza|";
const GRANTLESS_TOKEN: &str = "Atc|";

type Query = Vec<(String, String)>;
pub(super) type Wrong = Box<Response>;

/// An operation with its own usage plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    PatchItem,
    GetItem,
    SearchItems,
    CreateDocument,
    CreateFeed,
    FeedSubmissions,
    GetFeed,
    GetFeeds,
    GetDocument,
    FbaSummaries,
    SearchOrders,
    GetOrder,
    CreateDestination,
    GetDestinations,
    CreateSubscription,
    GetSubscription,
}

impl Operation {
    /// Returns the role that an application needs for it.
    const fn role(self) -> Option<&'static str> {
        match self {
            Self::PatchItem | Self::GetItem | Self::SearchItems => Some("Product Listing"),
            Self::SearchOrders | Self::GetOrder => Some("Inventory and Order Tracking"),
            Self::FbaSummaries => Some("Amazon Fulfillment"),
            _ => None,
        }
    }

    /// Returns the default usage plan per account and application.
    pub(super) const fn rate(self) -> Rate {
        let (milli_per_second, burst) = match self {
            Self::PatchItem | Self::SearchItems => return LISTINGS_RATE,
            Self::GetItem => (5_000, 10),
            Self::CreateDocument => (500, 15),
            Self::CreateFeed => (8, 15),
            // 5 listings feeds in 5 minutes and region (sp-api changelog, 6 May 2025).
            Self::FeedSubmissions => (17, 5),
            Self::GetFeed => (2_000, 15),
            Self::GetFeeds | Self::GetDocument => (22, 10),
            Self::FbaSummaries => (2_000, 2),
            Self::SearchOrders => (6, 20),
            Self::GetOrder => (500, 30),
            Self::CreateDestination
            | Self::GetDestinations
            | Self::CreateSubscription
            | Self::GetSubscription => (1_000, 5),
        };
        Rate { milli_per_second, burst }
    }

    /// Returns what the access token must begin with: destinations belong to the application.
    fn token_prefix(self) -> &'static str {
        match self {
            Self::CreateDestination | Self::GetDestinations => GRANTLESS_TOKEN,
            Self::PatchItem
            | Self::GetItem
            | Self::SearchItems
            | Self::CreateDocument
            | Self::CreateFeed
            | Self::FeedSubmissions
            | Self::GetFeed
            | Self::GetFeeds
            | Self::GetDocument
            | Self::FbaSummaries
            | Self::SearchOrders
            | Self::GetOrder
            | Self::CreateSubscription
            | Self::GetSubscription => SELLER_TOKEN,
        }
    }
}

pub(super) fn routes(sim: Simulator) -> Router {
    Router::new()
        .route("/apps/authorize/consent", get(authorize))
        .route("/auth/o2/token", post(token))
        .route("/listings/2021-08-01/items/{seller}", get(search_items))
        .route("/listings/2021-08-01/items/{seller}/{sku}", get(get_item).patch(patch_item))
        .route("/feeds/2021-06-30/documents", post(create_document))
        .route("/feeds/2021-06-30/documents/{id}", get(get_document))
        .route("/feeds/2021-06-30/feeds", get(get_feeds).post(create_feed))
        .route("/feeds/2021-06-30/feeds/{id}", get(get_feed))
        .route("/_amazon_documents/{id}", put(upload).get(download))
        .route("/fba/inventory/v1/summaries", get(fba_summaries))
        .route("/orders/2026-01-01/orders", get(search_orders))
        .route("/orders/2026-01-01/orders/{id}", get(get_order))
        .route(
            "/notifications/v1/destinations",
            get(notifications::get_destinations).post(notifications::create_destination),
        )
        .route(
            "/notifications/v1/subscriptions/{type}",
            get(notifications::get_subscription).post(notifications::create_subscription),
        )
        .with_state(sim)
}

pub(super) fn trouble(trouble: Trouble) -> Response {
    match trouble {
        Trouble::Throttled => quota_exceeded(),
        Trouble::ServerError => {
            let words = "We encountered an internal error. Please try again.";
            error(StatusCode::INTERNAL_SERVER_ERROR, "InternalFailure", words)
        }
        Trouble::Unauthorized => unauthorized(),
        Trouble::Unavailable => {
            let words = "Service is temporarily unavailable. Please try again.";
            error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", words)
        }
    }
}

pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    answer(status, &json!({"errors": [{"code": code, "message": message, "details": ""}]}))
}

pub(super) fn bad(message: &str) -> Wrong {
    Box::new(error(StatusCode::BAD_REQUEST, "InvalidInput", message))
}

pub(super) fn not_found(message: &str) -> Wrong {
    Box::new(error(StatusCode::NOT_FOUND, "NOT_FOUND", message))
}

fn unauthorized() -> Response {
    let words = "Access to requested resource is denied.";
    let details = "The access token you provided is revoked, malformed or invalid.";
    let body = json!({"errors": [{"code": "Unauthorized", "message": words, "details": details}]});
    answer(StatusCode::FORBIDDEN, &body)
}

fn quota_exceeded() -> Response {
    let words = "You exceeded your quota for the requested resource.";
    error(StatusCode::TOO_MANY_REQUESTS, "QuotaExceeded", words)
}

/// `GET /apps/authorize/consent` of Seller Central.
async fn authorize(Handle(sim): Handle<Simulator>, RawQuery(query): RawQuery) -> Response {
    let query = query_of(query);
    let field = |name| value(&query, name).unwrap_or_default();
    if field("application_id") != APPLICATION_ID {
        return consent::refuse("the application is not known");
    }
    let code = sim.engine().give_code(field("redirect_uri"));
    let back = [
        ("state", field("state")),
        ("selling_partner_id", SELLER_ID),
        ("spapi_oauth_code", code.as_str()),
    ];
    consent::send_back(field("redirect_uri"), &back)
}

/// `POST /auth/o2/token` of Login with Amazon.
async fn token(Handle(sim): Handle<Simulator>, body: Bytes) -> Response {
    let fields = pairs(&body);
    let field = |name| value(&fields, name).unwrap_or_default();
    let refuse = |status, code: &str, words: &str| {
        answer(status, &json!({"error": code, "error_description": words}))
    };
    if field("client_id") != CLIENT_ID || field("client_secret") != CLIENT_SECRET {
        let words = "Client authentication failed";
        return refuse(StatusCode::UNAUTHORIZED, "invalid_client", words);
    }
    let (mut body, prefix) = match field("grant_type") {
        "authorization_code" => {
            let redirect = Some(field("redirect_uri"));
            if !sim.engine().take_code(field("code"), redirect) {
                let words = "The request has an invalid grant parameter : code";
                return refuse(StatusCode::BAD_REQUEST, "invalid_grant", words);
            }
            (json!({"refresh_token": REFRESH_TOKEN}), SELLER_TOKEN)
        }
        "refresh_token" if field("refresh_token") == REFRESH_TOKEN => {
            (json!({"refresh_token": REFRESH_TOKEN}), SELLER_TOKEN)
        }
        "refresh_token" => {
            let words = "The request has an invalid grant parameter : refresh_token";
            return refuse(StatusCode::BAD_REQUEST, "invalid_grant", words);
        }
        "client_credentials" if field("scope") == "sellingpartnerapi::notifications" => {
            (json!({}), GRANTLESS_TOKEN)
        }
        "client_credentials" => {
            return refuse(StatusCode::BAD_REQUEST, "invalid_scope", "The scope is not known");
        }
        _ => {
            let words = "The authorization grant type is not supported";
            return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", words);
        }
    };
    body["access_token"] = sim.engine().issue_token(prefix, TOKEN_SECONDS).into();
    body["token_type"] = "bearer".into();
    body["expires_in"] = TOKEN_SECONDS.into();
    answer(StatusCode::OK, &body)
}

/// Checks token and rate, does the work, and adds the headers of every answer.
pub(super) fn serve(
    sim: &Simulator,
    headers: &HeaderMap,
    operation: Operation,
    work: impl FnOnce() -> Result<Response, Wrong>,
) -> Response {
    let token = headers.get("x-amz-access-token").and_then(|value| value.to_str().ok());
    let token = token.unwrap_or_default();
    if !token.starts_with(operation.token_prefix()) || !sim.engine().token_good(token) {
        return unauthorized();
    }
    if operation.role().is_some_and(|role| sim.0.withheld.lock().contains(role)) {
        let words = "Access to requested resource is denied.";
        return error(StatusCode::FORBIDDEN, "Unauthorized", words);
    }
    let (rate, admitted) = sim.admit(operation);
    let mut response =
        if admitted { work().unwrap_or_else(|wrong| *wrong) } else { quota_exceeded() };
    let whole = rate.milli_per_second / 1_000;
    let limit = format!("{whole}.{:03}", rate.milli_per_second % 1_000);
    let limit = match limit.trim_end_matches('0') {
        whole if whole.ends_with('.') => format!("{whole}0"),
        trimmed => trimmed.to_owned(),
    };
    if let Ok(limit) = HeaderValue::from_str(&limit) {
        response.headers_mut().insert("x-amzn-RateLimit-Limit", limit);
    }
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        response.headers_mut().insert("x-amzn-RequestId", id);
    }
    response
}

pub(super) fn query_of(query: Option<String>) -> Query {
    pairs(query.unwrap_or_default().as_bytes())
}

fn check_seller(seller: &str, query: &Query) -> Result<(), Wrong> {
    if seller != SELLER_ID {
        let words = "Access to requested resource is denied.";
        return Err(Box::new(error(StatusCode::FORBIDDEN, "Unauthorized", words)));
    }
    let marketplaces = list(query, "marketplaceIds");
    if marketplaces.is_empty() {
        return Err(bad("'marketplaceIds' is a required parameter"));
    }
    if marketplaces.iter().any(|id| id != MARKETPLACE_ID) {
        return Err(bad("Invalid 'marketplaceIds' provided"));
    }
    Ok(())
}

/// `PATCH /listings/2021-08-01/items/{sellerId}/{sku}`.
async fn patch_item(
    Handle(sim): Handle<Simulator>,
    Path((seller, sku)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = query_of(query);
    serve(&sim, &headers, Operation::PatchItem, || {
        check_seller(&seller, &query)?;
        let body: Value =
            serde_json::from_slice(&body).map_err(|_| bad("The request body is not JSON"))?;
        let preview = match value(&query, "mode") {
            None => false,
            Some("VALIDATION_PREVIEW") => true,
            Some(_) => return Err(bad("'mode' must be VALIDATION_PREVIEW")),
        };
        patched(&sim, &sku, &body, preview)
    })
}

fn patched(sim: &Simulator, sku: &str, body: &Value, preview: bool) -> Result<Response, Wrong> {
    let faults = &sim.engine().faults;
    if faults.busy() {
        return Err(Box::new(trouble(Trouble::Unavailable)));
    }
    let changes = match wire::changes(body) {
        Ok(changes) => changes,
        Err(BadPatch::Request(words)) => return Err(bad(&words)),
        Err(BadPatch::Listing(issue)) => return Ok(submission(sim, sku, "INVALID", Some(&issue))),
    };
    if faults.poisons(sku) {
        let issue = Issue::new("8541", "The listing is suppressed.");
        return Ok(submission(sim, sku, "INVALID", Some(&issue)));
    }
    let now = sim.now();
    let due = plus_ms(now, sim.0.settings.apply_ms);
    let known = sim.0.state.lock().listings.contains_key(sku);
    if !known {
        let issue = Issue::new("13013", "This SKU is not in the catalog of this seller.");
        return Ok(submission(sim, sku, "INVALID", Some(&issue)));
    }
    if preview {
        return Ok(submission(sim, sku, "VALID", None));
    }
    if !faults.lies() {
        let told = changes.iter().filter_map(Change::quantity).next_back();
        let mut state = sim.0.state.lock();
        for change in changes {
            state.accept(sku, change, due, now);
        }
        drop(state);
        if let Some(quantity) = told {
            events::quantity_later(sim, sku, quantity, sim.0.settings.apply_ms);
        }
    }
    Ok(wrote(submission(sim, sku, "ACCEPTED", None)))
}

fn submission(sim: &Simulator, sku: &str, status: &str, issue: Option<&Issue>) -> Response {
    if issue.is_some() {
        sim.0.state.lock().counters.writes_refused += 1;
    }
    let issues: Vec<Value> = issue.into_iter().map(Issue::json).collect();
    let id = Uuid::new_v4().simple().to_string();
    let body = json!({"sku": sku, "status": status, "submissionId": id, "issues": issues});
    answer(StatusCode::OK, &body)
}

/// `GET /listings/2021-08-01/items/{sellerId}/{sku}`.
async fn get_item(
    Handle(sim): Handle<Simulator>,
    Path((seller, sku)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query_of(query);
    serve(&sim, &headers, Operation::GetItem, || {
        check_seller(&seller, &query)?;
        sim.settle_feeds();
        let mut state = sim.0.state.lock();
        let words = format!("SKU '{sku}' not found in marketplace");
        let listing = state.settled(&sku, sim.now()).ok_or_else(|| not_found(&words))?;
        let body = wire::item(&sku, listing, &list(&query, "includedData"));
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `GET /listings/2021-08-01/items/{sellerId}`.
async fn search_items(
    Handle(sim): Handle<Simulator>,
    Path(seller): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query_of(query);
    serve(&sim, &headers, Operation::SearchItems, || {
        check_seller(&seller, &query)?;
        sim.settle_feeds();
        search(&sim, &query)
    })
}

fn search(sim: &Simulator, query: &Query) -> Result<Response, Wrong> {
    let identifiers = list(query, "identifiers");
    if identifiers.len() > SEARCH_MAX {
        return Err(bad("'identifiers' must have at most 20 values"));
    }
    if !identifiers.is_empty() && value(query, "identifiersType") != Some("SKU") {
        return Err(bad("'identifiersType' must be SKU here when 'identifiers' is given"));
    }
    let size = number(query, "pageSize", 10, SEARCH_MAX)?;
    let (seen, after) = match value(query, "pageToken") {
        None => (0, String::new()),
        Some(token) => search_position(token).ok_or_else(|| bad("'pageToken' is invalid"))?,
    };
    let made_after = instant(query, "createdAfter")?;
    let made_before = instant(query, "createdBefore")?;
    let made_then = |at: Timestamp| {
        made_after.is_none_or(|after| at >= after) && made_before.is_none_or(|before| at <= before)
    };
    let included = list(query, "includedData");
    let now = sim.now();
    let mut state = sim.0.state.lock();
    let (skus, total): (Vec<String>, usize) = if identifiers.is_empty() {
        let range = (std::ops::Bound::Excluded(after.as_str()), std::ops::Bound::Unbounded);
        let made = |(_, listing): &(&String, &Listing)| made_then(listing.created_at);
        let skus = state.listings.range::<str, _>(range).filter(made).map(|(sku, _)| sku.clone());
        let skus = skus.take((size + 1).min(RESULTS_MAX.saturating_sub(seen))).collect();
        let total = if made_after.is_none() && made_before.is_none() {
            state.listings.len()
        } else {
            state.listings.iter().filter(made).count()
        };
        (skus, total)
    } else {
        let mut known: Vec<String> =
            identifiers.into_iter().filter(|sku| state.listings.contains_key(sku)).collect();
        known.sort_unstable();
        known.dedup();
        let total = known.len();
        known.retain(|sku| *sku > after);
        (known, total)
    };
    let more = skus.len() > size;
    let mut items = Vec::new();
    for sku in skus.iter().take(size) {
        if let Some(listing) = state.settled(sku, now) {
            items.push(wire::item(sku, listing, &included));
        }
    }
    let mut body = json!({"numberOfResults": total, "items": items});
    if more && let Some(last) = skus.get(size - 1) {
        let token = URL_SAFE_NO_PAD.encode(format!("{} {last}", seen + size));
        body["pagination"] = json!({"nextToken": token});
    }
    Ok(answer(StatusCode::OK, &body))
}

/// Returns how many results came before a page, and the last SKU of them.
fn search_position(token: &str) -> Option<(usize, String)> {
    let text = text_of_token(token)?;
    let (seen, sku) = text.split_once(' ')?;
    Some((seen.parse().ok()?, sku.to_owned()))
}

fn number(query: &Query, name: &str, default: usize, max: usize) -> Result<usize, Wrong> {
    let given = match value(query, name) {
        None => return Ok(default),
        Some(text) => text.parse::<usize>().ok(),
    };
    given
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| bad(&format!("'{name}' must be between 1 and {max}")))
}

fn text_of_token(token: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

/// `POST /feeds/2021-06-30/documents`.
async fn create_document(
    Handle(sim): Handle<Simulator>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    serve(&sim, &headers, Operation::CreateDocument, || {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let content_type = body.get("contentType").and_then(Value::as_str);
        let content_type = content_type.ok_or_else(|| bad("'contentType' is required"))?;
        let id = format!("amzn1.tortuga.sim.{}", Uuid::new_v4());
        let document = Document {
            content_type: content_type.to_owned(),
            bytes: None,
            gzip: false,
            expires_at: plus_ms(sim.now(), DOCUMENT_MS_MAX),
        };
        sim.0.state.lock().add_document(&id, document);
        let url = document_url(&headers, &id);
        Ok(answer(StatusCode::CREATED, &json!({"feedDocumentId": id, "url": url})))
    })
}

/// Returns the address of a document on the server that the request came to.
fn document_url(headers: &HeaderMap, id: &str) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    format!("http://{}/_amazon_documents/{id}", host.unwrap_or("127.0.0.1"))
}

/// `PUT` of a feed to the address that `createFeedDocument` gave; signed by its secrecy alone.
async fn upload(
    Handle(sim): Handle<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let now = sim.now();
    let mut state = sim.0.state.lock();
    let Some(document) = state.documents.get_mut(&id) else { return StatusCode::NOT_FOUND };
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if document.expires_at <= now || content_type != Some(document.content_type.as_str()) {
        return StatusCode::FORBIDDEN;
    }
    document.bytes = Some(body.to_vec());
    StatusCode::OK
}

async fn download(Handle(sim): Handle<Simulator>, Path(id): Path<String>) -> Response {
    let state = sim.0.state.lock();
    match state.documents.get(&id).filter(|document| document.expires_at > sim.now()) {
        Some(Document { bytes: Some(bytes), content_type, .. }) => {
            ([(header::CONTENT_TYPE, content_type.clone())], bytes.clone()).into_response()
        }
        Some(Document { bytes: None, .. }) | None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `POST /feeds/2021-06-30/feeds`.
async fn create_feed(Handle(sim): Handle<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    serve(&sim, &headers, Operation::CreateFeed, || {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        if text("feedType") != Some("JSON_LISTINGS_FEED") {
            return Err(bad("'feedType' must be JSON_LISTINGS_FEED here"));
        }
        let marketplaces = body.get("marketplaceIds").and_then(Value::as_array);
        let marketplace_ids: Vec<String> = marketplaces
            .into_iter()
            .flatten()
            .filter_map(|id| Some(id.as_str()?.to_owned()))
            .collect();
        if marketplace_ids.is_empty() || marketplace_ids.len() > MARKETPLACES_MAX {
            return Err(bad("'marketplaceIds' must have 1 to 25 values"));
        }
        let input = text("inputFeedDocumentId").unwrap_or_default().to_owned();
        if !sim.admit(Operation::FeedSubmissions).1 {
            return Err(Box::new(quota_exceeded()));
        }
        let now = sim.now();
        let mut state = sim.0.state.lock();
        // Feeds of a seller are processed one after the other.
        let is_free_at = state.feeds.values().map(|feed| feed.ends_at).max();
        let starts_at = plus_ms(now, sim.0.settings.feed_queue_ms);
        let starts_at = is_free_at.map_or(starts_at, |free_at| starts_at.max(free_at));
        let uploaded = state.documents.get(&input).is_some_and(|known| known.bytes.is_some());
        if !uploaded {
            return Err(bad("'inputFeedDocumentId' is not a document that was uploaded"));
        }
        if state.feeds.len() >= FEEDS_MAX {
            state.feeds.pop_first();
        }
        state.next_feed += 1;
        let id = 50_000_000_000 + state.next_feed;
        let ends_at = plus_ms(starts_at, sim.0.settings.feed_run_ms);
        let feed = Feed {
            feed_type: "JSON_LISTINGS_FEED".into(),
            marketplace_ids,
            input,
            created_at: now,
            starts_at,
            ends_at,
            result: None,
            fatal: false,
        };
        state.feeds.insert(id, feed);
        let millis = ends_at.as_millisecond().saturating_sub(now.as_millisecond());
        let wait = Duration::from_millis(u64::try_from(millis).unwrap_or(0) + 1);
        let ending = sim.clone();
        // Nobody needs to look for it to end.
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            ending.settle_feeds();
        });
        Ok(wrote(answer(StatusCode::ACCEPTED, &json!({"feedId": id.to_string()}))))
    })
}

/// `GET /feeds/2021-06-30/feeds/{feedId}`.
async fn get_feed(
    Handle(sim): Handle<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, Operation::GetFeed, || {
        sim.settle_feeds();
        let now = sim.now();
        let state = sim.0.state.lock();
        let feed = id.parse().ok().and_then(|number: u64| state.feeds.get(&number));
        let feed = feed.ok_or_else(|| not_found("The feed does not exist"))?;
        Ok(answer(StatusCode::OK, &feed_body(&id, feed, now)))
    })
}

/// `GET /feeds/2021-06-30/feeds`: the newest first; a feed does not name its document.
async fn get_feeds(
    Handle(sim): Handle<Simulator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, Operation::GetFeeds, || {
        sim.settle_feeds();
        let query = pairs(query.unwrap_or_default().as_bytes());
        let types = list(&query, "feedTypes");
        if types.is_empty() {
            return Err(bad("'feedTypes' is required without a 'nextToken'"));
        }
        let time = |name: &str, default: Timestamp| match value(&query, name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| bad(&format!("'{name}' is not a time"))),
        };
        let since: Timestamp = time("createdSince", Timestamp::MIN)?;
        let until: Timestamp = time("createdUntil", Timestamp::MAX)?;
        let size = value(&query, "pageSize").map_or(Ok(10), str::parse::<usize>);
        let size = size.ok().filter(|size| (1..=100).contains(size));
        let size = size.ok_or_else(|| bad("'pageSize' must be 1 to 100"))?;
        let (now, state) = (sim.now(), sim.0.state.lock());
        let is_wanted = |feed: &Feed| {
            types.contains(&feed.feed_type) && (since..=until).contains(&feed.created_at)
        };
        let found = state.feeds.iter().rev().filter(|(_, feed)| is_wanted(feed)).take(size);
        let feeds: Vec<Value> =
            found.map(|(id, feed)| feed_body(&id.to_string(), feed, now)).collect();
        Ok(answer(StatusCode::OK, &json!({"feeds": feeds})))
    })
}

fn feed_body(id: &str, feed: &Feed, now: Timestamp) -> Value {
    let status = if feed.fatal {
        "FATAL"
    } else if feed.result.is_some() {
        "DONE"
    } else if feed.starts_at <= now {
        "IN_PROGRESS"
    } else {
        "IN_QUEUE"
    };
    let mut body = json!({
        "feedId": id, "feedType": feed.feed_type, "marketplaceIds": feed.marketplace_ids,
        "createdTime": millis_text(feed.created_at), "processingStatus": status,
    });
    if feed.starts_at <= now {
        body["processingStartTime"] = millis_text(feed.starts_at).into();
    }
    if feed.fatal || feed.result.is_some() {
        body["processingEndTime"] = millis_text(feed.ends_at).into();
    }
    if let Some(result) = &feed.result {
        body["resultFeedDocumentId"] = result.as_str().into();
    }
    body
}

/// `GET /feeds/2021-06-30/documents/{feedDocumentId}`.
async fn get_document(
    Handle(sim): Handle<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, Operation::GetDocument, || {
        let state = sim.0.state.lock();
        let document = state.documents.get(&id);
        let document = document.ok_or_else(|| not_found("The document does not exist"))?;
        let mut body = json!({"feedDocumentId": id, "url": document_url(&headers, &id)});
        if document.gzip {
            body["compressionAlgorithm"] = "GZIP".into();
        }
        Ok(answer(StatusCode::OK, &body))
    })
}

/// `GET /fba/inventory/v1/summaries`.
async fn fba_summaries(
    Handle(sim): Handle<Simulator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query_of(query);
    serve(&sim, &headers, Operation::FbaSummaries, || summaries(&sim, &query))
}

fn summaries(sim: &Simulator, query: &Query) -> Result<Response, Wrong> {
    let granularity = value(query, "granularityId");
    if value(query, "granularityType") != Some("Marketplace") || granularity.is_none() {
        return Err(bad("'granularityType' must be Marketplace, and 'granularityId' given"));
    }
    if list(query, "marketplaceIds").len() != 1 {
        return Err(bad("'marketplaceIds' must have exactly 1 value"));
    }
    let mut skus = list(query, "sellerSkus");
    skus.extend(value(query, "sellerSku").map(str::to_owned));
    if skus.len() > FBA_SKUS_MAX {
        return Err(bad("'sellerSkus' must have at most 50 values"));
    }
    let since = instant(query, "startDateTime")?;
    let now = sim.now();
    let after = match value(query, "nextToken") {
        None => String::new(),
        Some(token) => fba_token(token, now).ok_or_else(|| bad("'nextToken' is expired"))?,
    };
    let details = value(query, "details") == Some("true");
    let state = sim.0.state.lock();
    let range = (std::ops::Bound::Excluded(after.as_str()), std::ops::Bound::Unbounded);
    let mut found = state.listings.range::<str, _>(range).filter(|(sku, listing)| {
        listing.fulfilled_by == FulfilledBy::Channel
            && (skus.is_empty() || skus.contains(sku))
            && since.is_none_or(|since| listing.updated_at >= since)
    });
    let page: Vec<_> = found.by_ref().take(FBA_SKUS_MAX).collect();
    let more = found.next().is_some();
    let written: Vec<Value> =
        page.iter().map(|(sku, listing)| wire::summary(sku, listing, details)).collect();
    let mut body = json!({"payload": {
        "granularity": {"granularityType": "Marketplace", "granularityId": granularity},
        "inventorySummaries": written,
    }});
    if more && let Some((last, _)) = page.last() {
        let token = URL_SAFE_NO_PAD.encode(format!("{} {last}", now.as_millisecond()));
        body["pagination"] = json!({"nextToken": token});
    }
    Ok(answer(StatusCode::OK, &body))
}

fn fba_token(token: &str, now: Timestamp) -> Option<String> {
    let text = text_of_token(token)?;
    let (issued, sku) = text.split_once(' ')?;
    let age_ms = now.as_millisecond().saturating_sub(issued.parse().ok()?);
    (age_ms <= FBA_TOKEN_MS_MAX).then(|| sku.to_owned())
}

fn instant(query: &Query, name: &str) -> Result<Option<Timestamp>, Wrong> {
    let words = format!("'{name}' is not an ISO 8601 date-time");
    value(query, name).map(|text| text.parse().map_err(|_| bad(&words))).transpose()
}

/// `GET /orders/2026-01-01/orders`.
async fn search_orders(
    Handle(sim): Handle<Simulator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query_of(query);
    serve(&sim, &headers, Operation::SearchOrders, || orders(&sim, &query))
}

fn orders(sim: &Simulator, query: &Query) -> Result<Response, Wrong> {
    let updated_after = instant(query, "lastUpdatedAfter")?;
    let created_after = instant(query, "createdAfter")?;
    if updated_after.is_none() && created_after.is_none() {
        return Err(bad("'lastUpdatedAfter' or 'createdAfter' is required"));
    }
    let size = number(query, "maxResultsPerPage", ORDERS_PAGE_MAX, ORDERS_PAGE_MAX)?;
    let position = match value(query, "paginationToken") {
        None => None,
        Some(token) => {
            let position = order_position(token);
            Some(position.ok_or_else(|| bad("'paginationToken' is invalid"))?)
        }
    };
    let fulfilled_by = list(query, "fulfilledBy");
    let statuses = list(query, "fulfillmentStatuses");
    let included = list(query, "includedData");
    let pending_ms = sim.0.settings.pending_ms;
    let now = sim.now();
    let state = sim.0.state.lock();
    // An order that left its pending time changed then, later than its record says.
    let from = updated_after.unwrap_or(Timestamp::MIN);
    let from = from.checked_sub(std::time::Duration::from_millis(pending_ms)).unwrap_or(from);
    let candidates: Box<dyn Iterator<Item = &SimOrder>> = match position {
        Some(position) => Box::new(state.orders.after(position)),
        None => Box::new(state.orders.since(from)),
    };
    let mut written = Vec::new();
    let mut last = None;
    let mut more = false;
    for order in candidates {
        let by = state.listings.get(&order.sku).map_or(FulfilledBy::Merchant, |l| l.fulfilled_by);
        let name = if by == FulfilledBy::Merchant { "MERCHANT" } else { "AMAZON" };
        let pending_ms = sim.pending_ms(order);
        let status = wire::order_state(order, pending_ms, now);
        let updated_at = changed_at(order, pending_ms, now);
        let wanted = (fulfilled_by.is_empty() || fulfilled_by.iter().any(|by| by == name))
            && (statuses.is_empty() || statuses.iter().any(|known| known == status))
            && updated_after.is_none_or(|after| updated_at >= after)
            && created_after.is_none_or(|after| order.created_at >= after);
        if !wanted {
            continue;
        }
        if written.len() == size {
            more = true;
            break;
        }
        written.push(wire::order(order, by, status, updated_at, &included));
        last = Some((order.updated_at, order.number));
    }
    let mut body = json!({"orders": written, "lastUpdatedBefore": millis_text(now)});
    if more && let Some((at, number)) = last {
        let token = URL_SAFE_NO_PAD.encode(format!("{}_{number}", at.as_microsecond()));
        body["pagination"] = json!({"nextToken": token});
    }
    Ok(answer(StatusCode::OK, &body))
}

/// Returns when an order last changed, the end of its pending time included.
fn changed_at(order: &SimOrder, pending_ms: u64, now: Timestamp) -> Timestamp {
    let unshipped_at = plus_ms(order.created_at, pending_ms);
    if order.status == OrderStatus::Open && unshipped_at <= now {
        order.updated_at.max(unshipped_at)
    } else {
        order.updated_at
    }
}

fn order_position(token: &str) -> Option<(Timestamp, u64)> {
    let text = text_of_token(token)?;
    let (micros, number) = text.split_once('_')?;
    let at = Timestamp::from_microsecond(micros.parse().ok()?).ok()?;
    Some((at, number.parse().ok()?))
}

/// `GET /orders/2026-01-01/orders/{orderId}`.
async fn get_order(
    Handle(sim): Handle<Simulator>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query_of(query);
    serve(&sim, &headers, Operation::GetOrder, || {
        let now = sim.now();
        let state = sim.0.state.lock();
        let order = state.orders.get(&id).ok_or_else(|| not_found("The order does not exist"))?;
        let by = state.listings.get(&order.sku).map_or(FulfilledBy::Merchant, |l| l.fulfilled_by);
        let included = list(&query, "includedData");
        let pending_ms = sim.pending_ms(order);
        let status = wire::order_state(order, pending_ms, now);
        let updated_at = changed_at(order, pending_ms, now);
        let order = wire::order(order, by, status, updated_at, &included);
        Ok(answer(StatusCode::OK, &json!({"order": order})))
    })
}
