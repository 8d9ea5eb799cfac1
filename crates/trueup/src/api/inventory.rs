//! The master inventory: one SKU, the list of them, counts, adjustments, bundles.

use std::sync::Arc;

use axum::extract::State;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use trueup_core::{
    Adjust, Answer, Command, Delta, Location, Part, Rejection, SetOnHand, Sku, SkuAnswer,
    SkuSettings, SkuState, Timestamp, publish::whole_bundles,
};
use trueup_store::{Page, SkuQuery};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::body::{
    self, Change, FreeText, LocationText, SkuText, Strict, TimeText, Units, nullable,
};
use crate::api::extract::{Caller, Read, Segments, Stock};
use crate::api::idempotency::{Incoming, Render};
use crate::api::lists::{Listed, NoParams, PageParams, Params};
use crate::api::mappings::connection;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::runs::{self, SyncView};
use crate::api::time::Time;
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put))
        .routes(routes!(adjust))
        .routes(routes!(bundle))
}

// --- Bodies -------------------------------------------------------------------------------

/// A count, and settings of the SKU.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"quantity": 42, "syncToChannels": true, "reason": "warehouse count"}))]
struct PutBody {
    /// What is on hand.
    quantity: Units,
    /// Whether to push to every connected channel now.
    sync_to_channels: Option<bool>,
    /// Why, for the history.
    reason: Option<FreeText>,
    /// Where it was counted; `main` by default.
    location_id: Option<LocationText>,
    /// Units never offered anywhere.
    safety_stock: Option<Units>,
    /// Below this the stock is low; null = never.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Units>)]
    low_stock_threshold: Option<Option<Units>>,
    /// Units that may be reserved beyond what is on hand.
    backorder_limit: Option<Units>,
    /// When the count was true; movements since are applied on top of it.
    counted_at: Option<TimeText>,
}

/// A change of what is on hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"delta": -2, "reason": "broken in the warehouse"}))]
struct AdjustBody {
    /// By how many units.
    delta: Change,
    /// Why, for the history.
    reason: Option<FreeText>,
    /// Where; `main` by default.
    location_id: Option<LocationText>,
    /// Whether to push to every connected channel now.
    sync_to_channels: Option<bool>,
}

/// What a bundle is made of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"parts": [{"sku": "CUP", "quantity": 6}]}))]
struct BundleBody {
    /// The parts; none = no bundle any more.
    #[schema(value_type = Vec<PartBody>)]
    parts: Vec<Strict<PartBody>>,
    /// Why, for the history.
    reason: Option<FreeText>,
}

/// A part of a bundle.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PartBody {
    /// The part.
    sku: SkuText,
    /// Units of it in one bundle.
    quantity: Units,
}

// --- Views --------------------------------------------------------------------------------

/// A SKU as it stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "sku": "SKU-100", "quantity": 42, "reserved": 2, "available": 40, "safetyStock": 0,
    "lowStockThreshold": 5, "lowStock": false, "backorderLimit": 0, "version": 7,
    "updatedAt": "2026-04-25T10:00:00Z",
    "locations": [{"locationId": "main", "quantity": 42, "reserved": 2, "available": 40}]
}))]
pub(super) struct SkuView<'a> {
    /// The SKU.
    sku: &'a str,
    /// Units on hand over all locations (a bundle: as many as its parts make).
    quantity: i64,
    /// Units held by active reservations.
    reserved: u64,
    /// Units that may still be offered.
    pub(super) available: u64,
    /// Units never offered anywhere.
    safety_stock: u64,
    /// Below this the stock is low.
    low_stock_threshold: Option<u64>,
    /// Whether it is.
    low_stock: bool,
    /// Units that may be reserved beyond what is on hand.
    backorder_limit: u64,
    /// The SKU's version, also in the `ETag`.
    version: u64,
    /// When it last changed.
    updated_at: Time,
    /// Stock by location.
    locations: Vec<LocationView<'a>>,
    /// By how many units the reserved pass what is on hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    oversold_by: Option<u64>,
    /// The parts, where it is a bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    bundle: Option<BundleView<'a>>,
    /// The push that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    sync: Option<SyncView<'a>>,
}

/// Stock of a SKU at one location.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LocationView<'a> {
    location_id: &'a str,
    quantity: i64,
    reserved: u64,
    available: u64,
}

/// What a bundle is made of.
#[derive(Debug, Serialize, ToSchema)]
struct BundleView<'a> {
    parts: Vec<PartView<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PartView<'a> {
    sku: &'a str,
    quantity: u64,
}

/// A SKU's numbers: of its own, or as its parts make them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) quantity: i64,
    pub(super) reserved: u64,
    pub(super) available: u64,
}

impl Numbers {
    pub(super) fn of(answer: &SkuAnswer) -> Self {
        let state = &answer.state;
        if !state.is_bundle() {
            let totals = state.totals();
            return Self {
                quantity: totals.on_hand.get(),
                reserved: totals.reserved.get(),
                available: totals.free(state.safety_stock).floored().get(),
            };
        }
        let parts: Vec<Option<&SkuState>> = answer.parts.iter().map(Option::as_ref).collect();
        let on_hand = whole_bundles(state, &parts, |part| part.totals().on_hand);
        let free = whole_bundles(state, &parts, SkuState::free);
        Self {
            quantity: on_hand.delta().get(),
            reserved: 0,
            available: free.saturating_minus(state.safety_stock).get(),
        }
    }
}

impl<'a> SkuView<'a> {
    pub(super) fn of(answer: &'a SkuAnswer) -> Self {
        let state = &answer.state;
        let numbers = Numbers::of(answer);
        let location = |level: &'a trueup_core::Level| LocationView {
            location_id: level.location.as_str(),
            quantity: level.on_hand.get(),
            reserved: level.reserved.get(),
            available: level
                .on_hand
                .minus(level.reserved.delta())
                .unwrap_or(Delta::ZERO)
                .floored()
                .get(),
        };
        let part =
            |part: &'a Part| PartView { sku: part.sku.as_str(), quantity: part.quantity.get() };
        let oversold = state.oversold_by().get();
        Self {
            sku: answer.sku.as_str(),
            quantity: numbers.quantity,
            reserved: numbers.reserved,
            available: numbers.available,
            safety_stock: state.safety_stock.get(),
            low_stock_threshold: state.low_stock_threshold.map(trueup_core::Quantity::get),
            low_stock: state.is_low(),
            backorder_limit: state.backorder_limit.get(),
            version: state.version,
            updated_at: Time(state.updated_at),
            locations: state.levels.iter().map(location).collect(),
            oversold_by: (oversold > 0).then_some(oversold),
            bundle: state
                .is_bundle()
                .then(|| BundleView { parts: state.parts.iter().map(part).collect() }),
            sync: None,
        }
    }
}

fn etag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits are a header's value")
}

/// Makes the answer of a change to one SKU.
fn render(sync: Option<Arc<str>>) -> Render {
    Arc::new(move |decided| match decided {
        Ok(Answer::Sku(answer)) => {
            let mut view = SkuView::of(answer);
            view.sync = sync.as_deref().map(SyncView::of);
            Reply::ok(&view).with_header(header::ETAG, etag(answer.state.version))
        }
        Ok(other) => unexpected(other),
        Err(rejection) => refusal(rejection),
    })
}

/// A refusal as an answer; a version that does not match comes with the one that is.
fn refusal(rejection: &Rejection) -> Reply {
    let reply = Problem::from(rejection).reply();
    match rejection {
        Rejection::VersionMismatch { actual, .. } => reply.with_header(header::ETAG, etag(*actual)),
        _ => reply,
    }
}

/// The answer to an answer of the ledger that does not fit its command: a bug, said as one.
pub(super) fn unexpected(answer: &Answer) -> Reply {
    tracing::error!(?answer, "the ledger's answer does not fit the command");
    Problem::internal().reply()
}

/// Makes the 404 of a SKU.
pub(super) fn sku_not_found(sku: &Sku) -> Problem {
    Rejection::SkuNotFound(sku.clone()).into()
}

// --- Conditions ---------------------------------------------------------------------------

/// What `If-Match` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    None,
    Exists,
    Version(u64),
    /// A tag that is of no version.
    Never,
}

fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(first) = values.next() else { return Ok(Condition::None) };
    let text = first.to_str().unwrap_or_default().trim();
    if values.next().is_some() || text.contains(',') {
        let detail = "If-Match must name one version, such as \"7\"";
        return Err(Problem::bad("invalid_if_match", detail));
    }
    if text == "*" {
        return Ok(Condition::Exists);
    }
    // A weak tag never matches here (RFC 9110 §13.1.1).
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let version = version.and_then(|digits| digits.parse().ok());
    Ok(version.map_or(Condition::Never, Condition::Version))
}

/// Returns the version that a command must find, having refused what can be refused here.
async fn if_version(
    app: &AppState,
    org: &trueup_core::Org,
    sku: &Sku,
    headers: &HeaderMap,
) -> Result<Option<u64>, Problem> {
    let mismatch = |detail| {
        let status = StatusCode::PRECONDITION_FAILED;
        Err(Problem::new(status, "version_mismatch", detail))
    };
    match condition(headers)? {
        Condition::None => Ok(None),
        Condition::Version(version) => Ok(Some(version)),
        Condition::Never => mismatch("If-Match is not a version of this SKU"),
        Condition::Exists => match app.store.sku(org, sku).await? {
            Some(_) => Ok(None),
            None => mismatch("If-Match asks for a SKU that there is not"),
        },
    }
}

fn none_match(headers: &HeaderMap, version: u64) -> bool {
    let tags = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = tags.filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(','));
    tags.any(|tag| {
        let tag = tag.trim();
        let strong = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*"
            || strong
                .strip_prefix('"')
                .and_then(|tag| tag.strip_suffix('"'))
                .is_some_and(|digits| digits.parse() == Ok(version))
    })
}

// --- Handlers -----------------------------------------------------------------------------

const LIST: &str = "skus";

/// Lists SKUs.
#[utoipa::path(get, path = "/sales-channel/inventory", tag = "inventory",
    params(PageParams,
        ("search" = Option<String>, Query, description = "Only SKUs that contain this text"),
        ("lowStock" = Option<bool>, Query, description = "Only SKUs that are low, or are not"),
        ("channel" = Option<String>, Query, description = "Only SKUs listed on this channel"),
        ("status" = Option<String>, Query, description = "`stale`: only SKUs with a listing \
            that has not been told of the newest change"),
        ("unlisted" = Option<bool>, Query, description = "With `channel`: only SKUs that no \
            listing of that channel carries, by its mappings and by what its last discovery \
            saw")),
    responses((status = 200, description = "A page", body = Listed<SkuView>)))]
async fn list(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let channel = query.channel("channel")?;
    let unlisted = query.flag("unlisted")?.unwrap_or(false);
    if unlisted && channel.is_none() {
        let rule = "goes with channel, which names the channel to compare with";
        return Err(Problem::field("?unlisted", "invalid_parameter", rule));
    }
    let (channel, unlisted) = if unlisted { (None, channel) } else { (channel, None) };
    let query_ = SkuQuery {
        search: query.text("search")?,
        low_stock: query.flag("lowStock")?,
        channel,
        unlisted,
        stale: query
            .read("status", "must be stale", |text| (text == "stale").then_some(true))?
            .unwrap_or(false),
        after: query.cursor(LIST, |position| Sku::new(position).ok())?,
        limit: query.limit()?,
    };
    query.finish()?;
    if let Some(channel) = &query_.unlisted {
        connection(&app, &caller.org, channel).await?;
    }
    let page = app.store.skus(&caller.org, query_).await?;
    let (last, more) = (page.items.last().map(|last| last.sku.clone()), page.more);
    let views = Page { items: page.items.iter().map(SkuView::of).collect(), more };
    let position = |_: &SkuView<'_>| last.as_ref().map_or_else(String::new, Sku::to_string);
    Ok(Reply::ok(&Listed::page(LIST, views, position, |view| view)))
}

/// Returns a SKU as it stands, or as it stood.
#[utoipa::path(get, path = "/sales-channel/inventory/{sku}", tag = "inventory",
    params(("sku" = String, Path, description = "The SKU, percent-encoded", example = "SKU-100"),
        ("at" = Option<String>, Query, description = "As it stood at this instant"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` seen before")),
    responses((status = 200, description = "The SKU", body = SkuView,
            headers(("ETag" = String, description = "The SKU's version"))),
        (status = 304, description = "It is at that version still"),
        (status = 404, description = "`sku_not_found`")))]
async fn get(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
    headers: HeaderMap,
) -> Answered {
    let sku = path.sku()?;
    let at = query.time("at")?;
    query.finish()?;
    if let Some(at) = at {
        let then = app.store.sku_at(&caller.org, &sku, at).await?;
        let then = then.ok_or_else(|| sku_not_found(&sku))?;
        return Ok(Reply::ok(&SkuView::of(&then.answer)));
    }
    let answer = app.store.sku(&caller.org, &sku).await?.ok_or_else(|| sku_not_found(&sku))?;
    let version = answer.state.version;
    if headers.contains_key(header::IF_NONE_MATCH) && none_match(&headers, version) {
        return Ok(Reply::not_modified(etag(version)));
    }
    Ok(Reply::ok(&SkuView::of(&answer)).with_header(header::ETAG, etag(version)))
}

/// Sets what is on hand, by count.
///
/// Makes the SKU when it is new. A count below what is reserved is taken: a count is a fact; the
/// answer then says `oversoldBy`.
#[utoipa::path(put, path = "/sales-channel/inventory/{sku}", tag = "inventory",
    params(("sku" = String, Path, description = "The SKU, percent-encoded", example = "SKU-100"),
        ("If-Match" = Option<String>, Header, description = "The version that must be in force")),
    request_body = PutBody,
    responses((status = 200, description = "The SKU after it", body = SkuView,
            headers(("ETag" = String, description = "The SKU's version"))),
        (status = 409, description = "`bundle_has_no_stock`"),
        (status = 412, description = "`version_mismatch`")))]
async fn put(
    State(app): State<AppState>,
    caller: Caller<Stock>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let sku = path.sku()?;
    let body: PutBody = incoming.json()?;
    let counted_at = counted_at("/countedAt", body.counted_at, app.now())?;
    let publish = body.sync_to_channels.unwrap_or(false);
    let command = Command::SetOnHand(SetOnHand {
        sku: sku.clone(),
        quantity: body.quantity.get(),
        location: location(body.location_id),
        reason: reason(body.reason),
        settings: settings(body.safety_stock, body.low_stock_threshold, body.backorder_limit),
        counted_at,
        if_version: if_version(&app, &caller.org, &sku, incoming.headers()).await?,
        publish,
    });
    change(&app, &caller, &incoming, sku, command, publish).await
}

/// Changes what is on hand by a difference.
#[utoipa::path(post, path = "/sales-channel/inventory/{sku}/adjust", tag = "inventory",
    params(("sku" = String, Path, description = "The SKU, percent-encoded", example = "SKU-100"),
        ("If-Match" = Option<String>, Header, description = "The version that must be in force")),
    request_body = AdjustBody,
    responses((status = 200, description = "The SKU after it", body = SkuView,
            headers(("ETag" = String, description = "The SKU's version"))),
        (status = 404, description = "`sku_not_found`"),
        (status = 409, description = "`insufficient_stock`: it would fall below zero"),
        (status = 412, description = "`version_mismatch`")))]
async fn adjust(
    State(app): State<AppState>,
    caller: Caller<Stock>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let sku = path.sku()?;
    let body: AdjustBody = incoming.json()?;
    let publish = body.sync_to_channels.unwrap_or(false);
    let command = Command::Adjust(Adjust {
        sku: sku.clone(),
        delta: body.delta.0,
        location: location(body.location_id),
        reason: reason(body.reason),
        if_version: if_version(&app, &caller.org, &sku, incoming.headers()).await?,
        publish,
    });
    change(&app, &caller, &incoming, sku, command, publish).await
}

/// Makes a SKU a bundle of parts.
#[utoipa::path(put, path = "/sales-channel/inventory/{sku}/bundle", tag = "inventory",
    params(("sku" = String, Path, description = "The bundle, percent-encoded"),
        ("If-Match" = Option<String>, Header, description = "The version that must be in force")),
    request_body = BundleBody,
    responses((status = 200, description = "The bundle after it", body = SkuView,
            headers(("ETag" = String, description = "The SKU's version"))),
        (status = 409, description = "`sku_has_stock`, `bundle_part_invalid`"),
        (status = 412, description = "`version_mismatch`")))]
async fn bundle(
    State(app): State<AppState>,
    caller: Caller<Stock>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let sku = path.sku()?;
    let body: BundleBody = incoming.json()?;
    for (index, Strict(part)) in body.parts.iter().enumerate() {
        if part.quantity.get().get() == 0 {
            let pointer = format!("/parts/{index}/quantity");
            return Err(Problem::field(pointer, "invalid_quantity", "must be at least 1"));
        }
    }
    let part =
        |Strict(part): Strict<PartBody>| Part { sku: part.sku.0, quantity: part.quantity.get() };
    let command = Command::SetBundle {
        sku: sku.clone(),
        parts: body.parts.into_iter().map(part).collect(),
        if_version: if_version(&app, &caller.org, &sku, incoming.headers()).await?,
        reason: reason(body.reason),
    };
    change(&app, &caller, &incoming, sku, command, false).await
}

/// Submits a change to one SKU and, when asked, begins to push it.
async fn change(
    app: &AppState,
    caller: &Caller<Stock>,
    incoming: &Incoming,
    sku: Sku,
    command: Command,
    publish: bool,
) -> Answered {
    // Chosen before the change, so that a repeat of the request names the same run.
    let run: Option<Arc<str>> = publish.then(|| Arc::from(runs::new_fan_out_id(app)));
    let submitted = incoming.submit(app, caller, command, render(run.clone())).await?;
    if publish && submitted.reply.status().is_success() {
        runs::fan_out_after(app, &caller.org, &submitted, run, vec![sku]).await;
    }
    Ok(submitted.reply)
}

// --- Shared with the bulk update and the import -------------------------------------------

pub(super) fn location(given: Option<LocationText>) -> Location {
    given.map_or_else(Location::main, |location| location.0)
}

pub(super) fn reason(given: Option<FreeText>) -> Option<Arc<str>> {
    given.map(|text| Arc::from(text.0)).filter(|text: &Arc<str>| !text.is_empty())
}

pub(super) fn settings(
    safety_stock: Option<Units>,
    low_stock_threshold: Option<Option<Units>>,
    backorder_limit: Option<Units>,
) -> SkuSettings {
    SkuSettings {
        safety_stock: safety_stock.map(Units::get),
        low_stock_threshold: low_stock_threshold.map(|threshold| threshold.map(Units::get)),
        backorder_limit: backorder_limit.map(Units::get),
    }
}

/// Refuses a count from the future.
pub(super) fn counted_at(
    pointer: &str,
    given: Option<TimeText>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Problem> {
    match given {
        Some(TimeText(at)) if at > now => {
            Err(Problem::field(pointer, "invalid_time", "must not be in the future"))
        }
        Some(TimeText(at)) => Ok(Some(at)),
        None => Ok(None),
    }
}

/// The header that names where a run can be seen.
pub(super) const LOCATION: HeaderName = header::LOCATION;

/// The most items of one request, said where items are checked.
pub(super) const ITEMS_MAX: usize = body::ITEMS_MAX;
