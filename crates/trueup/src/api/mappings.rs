//! Mappings: which listing of a channel sells which SKU.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use trueup_core::{ChannelId, ListingKey, Org, Sku, Strategy};
use trueup_store::{Connection, ListingQuery, ListingView, Mapping, RuleSettings};
use trueup_sync::{Discovery, EngineError, MappingDraft, listing_status};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::body::{self, ITEMS_MAX, LocationText, SkuText, Strict, Units, check_len};
use crate::api::channels::{RulesView, StrategyWord, percent};
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{Listed, NoParams, PageParams, Params};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::views::{listing_cursor, listing_position};
use crate::api::{Answered, App, AppState, csv_in};

/// The most listings of one SKU on one channel.
const LISTINGS_PER_SKU_MAX: usize = 100;
/// The most locations of one mapping.
const LOCATIONS_MAX: usize = 100;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, put_many))
        .routes(routes!(get, put, remove))
        .routes(routes!(import))
        .routes(routes!(discover))
}

// --- Bodies -------------------------------------------------------------------------------

/// Mappings to make or replace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MappingsBody {
    /// At most 10 000.
    #[schema(value_type = Vec<MappingBody>)]
    mappings: Vec<Strict<MappingBody>>,
}

/// The tie between a SKU and a listing.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"sku": "SKU-100", "buffer": 2,
    "listing": {"inventoryItemId": "gid://shopify/InventoryItem/1"}}))]
struct MappingBody {
    /// The SKU; in `PUT …/mappings/{sku}` the path's.
    sku: Option<SkuText>,
    /// The vendor's identifiers: `{inventoryItemId, variantId?, locationId?}` (shopify),
    /// `{sellerSku, asin?}` (amazon), `{sku?, offerId?}` or `{itemId, sku?}` (ebay).
    #[schema(value_type = Object)]
    listing: Option<Map<String, Value>>,
    /// Several listings of the SKU, in `PUT …/mappings/{sku}`.
    #[schema(value_type = Option<Vec<Object>>)]
    listings: Option<Vec<Map<String, Value>>>,
    /// In place of the channel's.
    conflict_strategy: Option<StrategyWord>,
    /// Units kept off the listing.
    buffer: Option<Units>,
    /// The share offered, 0 to 100.
    percent: Option<Units>,
    /// The most that is shown.
    max_quantity: Option<Units>,
    /// Below this, zero is shown.
    zero_below: Option<Units>,
    /// Units of the SKU in one unit of the listing, at least 1.
    units_per_listing: Option<Units>,
    /// The locations that feed it.
    location_ids: Option<Vec<LocationText>>,
    /// `merchant` (default), or `channel` for what the channel stores and ships itself.
    fulfilled_by: Option<FulfilledBy>,
    /// Whether it takes part; by default true.
    enabled: Option<bool>,
}

/// Who ships a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FulfilledBy {
    Merchant,
    Channel,
}

/// Returns the fields of a `listing` object as texts.
fn fields(pointer: &str, listing: Map<String, Value>) -> Result<BTreeMap<String, String>, Problem> {
    let mut fields = BTreeMap::new();
    for (name, value) in listing {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Null => continue,
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                let pointer = format!("{pointer}/{}", body::escape(&name));
                return Err(Problem::field(pointer, "invalid_type", "must be a text"));
            }
        };
        fields.insert(name, text);
    }
    Ok(fields)
}

impl MappingBody {
    /// Returns the draft for one listing of it.
    fn draft(
        &self,
        prefix: &str,
        sku: Sku,
        listing: BTreeMap<String, String>,
    ) -> Result<MappingDraft, Problem> {
        let units_per_listing = self.units_per_listing.map(Units::get);
        if units_per_listing.is_some_and(|units| units.get() == 0) {
            let pointer = format!("{prefix}/unitsPerListing");
            return Err(Problem::field(pointer, "invalid_quantity", "must be at least 1"));
        }
        if let Some(locations) = &self.location_ids {
            check_len(&format!("{prefix}/locationIds"), locations.len(), LOCATIONS_MAX)?;
        }
        let location = |LocationText(location): &LocationText| location.clone();
        Ok(MappingDraft {
            sku,
            fields: listing,
            strategy: self.conflict_strategy.map(Strategy::from),
            rules: RuleSettings {
                buffer: self.buffer.map(Units::get),
                percent: percent(&format!("{prefix}/percent"), self.percent)?,
                max_quantity: self.max_quantity.map(Units::get),
                zero_below: self.zero_below.map(Units::get),
                units_per_listing,
                locations: self
                    .location_ids
                    .as_ref()
                    .map(|locations| locations.iter().map(location).collect()),
            },
            channel_fulfilled: self.fulfilled_by == Some(FulfilledBy::Channel),
            enabled: self.enabled.unwrap_or(true),
        })
    }
}

fn missing(pointer: String, name: &str) -> Problem {
    Problem::field(pointer, "missing_field", format!("{name:?} is required"))
}

/// Reads one of `mappings`.
fn one_of_many(index: usize, mapping: &MappingBody) -> Result<MappingDraft, Problem> {
    let prefix = format!("/mappings/{index}");
    if mapping.listings.is_some() {
        let detail = "goes with PUT …/mappings/{sku} only; give one mapping per listing";
        return Err(Problem::field(format!("{prefix}/listings"), "unknown_field", detail));
    }
    let sku = mapping.sku.clone().ok_or_else(|| missing(format!("{prefix}/sku"), "sku"))?;
    let pointer = format!("{prefix}/listing");
    let listing = mapping.listing.clone();
    let listing = listing.ok_or_else(|| missing(pointer.clone(), "listing"))?;
    mapping.draft(&prefix, sku.0, fields(&pointer, listing)?)
}

/// Reads the mappings of one SKU: one `listing`, or `listings`.
fn all_of_sku(sku: &Sku, body: &MappingBody) -> Result<Vec<MappingDraft>, Problem> {
    if body.sku.as_ref().is_some_and(|given| given.0 != *sku) {
        return Err(Problem::field("/sku", "sku_mismatch", "is not the SKU of the path"));
    }
    match (&body.listing, &body.listings) {
        (Some(listing), None) => {
            let listing = fields("/listing", listing.clone())?;
            Ok(vec![body.draft("", sku.clone(), listing)?])
        }
        (None, Some(listings)) => {
            check_len("/listings", listings.len(), LISTINGS_PER_SKU_MAX)?;
            let draft = |(index, listing): (usize, &Map<String, Value>)| {
                one_listing(index, sku, body, listing)
            };
            listings.iter().enumerate().map(draft).collect()
        }
        (None, None) => Err(missing("/listing".to_owned(), "listing")),
        (Some(_), Some(_)) => {
            let detail = "give \"listing\" or \"listings\", not both";
            Err(Problem::field("/listings", "unexpected_field", detail))
        }
    }
}

/// Reads one of `listings`: identifiers alone, or a mapping with a `listing` and settings.
fn one_listing(
    index: usize,
    sku: &Sku,
    common: &MappingBody,
    listing: &Map<String, Value>,
) -> Result<MappingDraft, Problem> {
    let prefix = format!("/listings/{index}");
    if !listing.contains_key("listing") {
        let listing = fields(&prefix, listing.clone())?;
        return common.draft("", sku.clone(), listing);
    }
    let own: MappingBody = body::from_value(&prefix, Value::Object(listing.clone()))?;
    if own.sku.as_ref().is_some_and(|given| given.0 != *sku) {
        let pointer = format!("{prefix}/sku");
        return Err(Problem::field(pointer, "sku_mismatch", "is not the SKU of the path"));
    }
    let pointer = format!("{prefix}/listing");
    let listing = own.listing.clone().unwrap_or_default();
    own.draft(&prefix, sku.clone(), fields(&pointer, listing)?)
}

// --- Views --------------------------------------------------------------------------------

/// A mapping.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MappingView {
    sku: String,
    /// The vendor's identifiers.
    listing: BTreeMap<String, String>,
    /// In place of the channel's; null = the channel's.
    conflict_strategy: Option<StrategyWord>,
    #[serde(flatten)]
    rules: RulesView,
    fulfilled_by: FulfilledBy,
    enabled: bool,
    /// As in `GET /inventory/{sku}/channels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    status: Option<&'static str>,
}

impl From<&Mapping> for MappingView {
    fn from(row: &Mapping) -> Self {
        Self {
            sku: row.sku.as_str().to_owned(),
            listing: row.fields.clone(),
            conflict_strategy: row.strategy.map(StrategyWord::from),
            rules: RulesView::from(&row.rules),
            fulfilled_by: if row.channel_fulfilled {
                FulfilledBy::Channel
            } else {
                FulfilledBy::Merchant
            },
            enabled: row.enabled,
            status: None,
        }
    }
}

impl MappingView {
    fn of(view: &ListingView, connection: &Connection) -> Self {
        let status = Some(listing_status(view, connection));
        Self { status, ..Self::from(&view.mapping) }
    }
}

/// A SKU's mappings on a channel: the first in front, all in `listings`.
#[derive(Debug, Serialize, ToSchema)]
struct SkuMappingsView {
    #[serde(flatten)]
    first: MappingView,
    /// Every listing of the SKU.
    listings: Vec<MappingView>,
}

// --- Handlers -----------------------------------------------------------------------------

async fn connection(app: &App, org: &Org, channel: &ChannelId) -> Result<Connection, Problem> {
    let found = app.store.connection(org, channel).await?;
    found.ok_or_else(|| Problem::channel_not_found(channel.as_str()))
}

async fn listings(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    sku: &Sku,
) -> Result<Vec<ListingView>, Problem> {
    let query = ListingQuery {
        channel: Some(channel.clone()),
        skus: Some(vec![sku.clone()]),
        limit: LISTINGS_PER_SKU_MAX,
        ..ListingQuery::default()
    };
    Ok(app.store.listings(org, query).await?.items)
}

fn mapping_not_found(sku: &Sku) -> Problem {
    let detail = format!("SKU {sku:?} is not mapped on this channel");
    Problem::not_found("mapping_not_found", detail)
}

const LIST: &str = "mappings";

/// Lists a channel's mappings.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}/mappings", tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"), PageParams),
    responses((status = 200, description = "A page", body = Listed<MappingView>),
        (status = 404, description = "`channel_not_found`")))]
async fn list(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let channel = path.channel()?;
    let filter = ListingQuery {
        channel: Some(channel.clone()),
        after: query.cursor(LIST, listing_position)?,
        limit: query.limit()?,
        ..ListingQuery::default()
    };
    query.finish()?;
    let connection = connection(&app, &caller.org, &channel).await?;
    let page = app.store.listings(&caller.org, filter).await?;
    let last = page.items.last().filter(|_| page.more);
    let next_cursor = last.map(|last| listing_cursor(LIST, last));
    let items: Vec<MappingView> =
        page.items.iter().map(|view| MappingView::of(view, &connection)).collect();
    Ok(Reply::ok(&Listed { items, next_cursor }))
}

/// Makes or replaces mappings, all or none; others stay.
#[utoipa::path(put, path = "/sales-channel/channels/{channelId}/mappings", tag = "mappings",
    params(("channelId" = String, Path, description = "The channel")),
    request_body = MappingsBody,
    responses((status = 200, description = "`{mapped, items}`", body = Object),
        (status = 400, description = "`invalid_mapping` naming each"),
        (status = 404, description = "`channel_not_found`")))]
async fn put_many(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let body: MappingsBody = incoming.json()?;
    check_len("/mappings", body.mappings.len(), ITEMS_MAX)?;
    let read =
        |(index, Strict(mapping)): (usize, &Strict<MappingBody>)| one_of_many(index, mapping);
    let drafts: Result<Vec<_>, Problem> = body.mappings.iter().enumerate().map(read).collect();
    let drafts = drafts?;
    let work = async {
        let rows = app.engine.map(&caller.org, &channel, drafts).await?;
        let items: Vec<MappingView> = rows.iter().map(MappingView::from).collect();
        Ok(Reply::ok(&json!({"mapped": items.len(), "items": items})))
    };
    incoming.once(&app, &caller, work).await
}

fn sku_answer(items: Vec<MappingView>, first: MappingView) -> Answered {
    Ok(Reply::ok(&SkuMappingsView { first, listings: items }))
}

/// Returns a SKU's mappings on a channel.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}/mappings/{sku}",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"),
        ("sku" = String, Path, description = "The SKU, percent-encoded")),
    responses((status = 200, description = "The mappings", body = SkuMappingsView),
        (status = 404, description = "`channel_not_found`, `mapping_not_found`")))]
async fn get(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let (channel, sku) = (path.channel()?, path.sku()?);
    let connection = connection(&app, &caller.org, &channel).await?;
    let views = listings(&app, &caller.org, &channel, &sku).await?;
    let first = views.first().ok_or_else(|| mapping_not_found(&sku))?;
    let first = MappingView::of(first, &connection);
    sku_answer(views.iter().map(|view| MappingView::of(view, &connection)).collect(), first)
}

/// Sets a SKU's mappings on a channel; its other listings there are unmapped.
#[utoipa::path(put, path = "/sales-channel/channels/{channelId}/mappings/{sku}",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"),
        ("sku" = String, Path, description = "The SKU, percent-encoded")),
    request_body = MappingBody,
    responses((status = 200, description = "The mappings", body = SkuMappingsView),
        (status = 400, description = "`invalid_mapping` naming each"),
        (status = 404, description = "`channel_not_found`")))]
async fn put(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let (channel, sku) = (path.channel()?, path.sku()?);
    let body: MappingBody = incoming.json()?;
    let drafts = all_of_sku(&sku, &body)?;
    let work = async {
        let rows = replace(&app, &caller.org, &channel, &sku, drafts).await?;
        let views = || rows.iter().map(MappingView::from);
        let first = views().next().ok_or_else(|| mapping_not_found(&sku))?;
        sku_answer(views().collect(), first)
    };
    incoming.once(&app, &caller, work).await
}

/// Maps a SKU to exactly these listings.
///
/// The store removes a SKU's mappings together. So when a listing goes, the rest is mapped anew,
/// and what was known of it (its base) is read again.
async fn replace(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    sku: &Sku,
    drafts: Vec<MappingDraft>,
) -> Result<Vec<Mapping>, Problem> {
    let rows = app.engine.map(org, channel, drafts.clone()).await.map_err(at_listing)?;
    let kept: BTreeSet<&ListingKey> = rows.iter().map(|row| &row.key).collect();
    let known = listings(app, org, channel, sku).await?;
    if known.iter().all(|view| kept.contains(&view.mapping.key)) {
        return Ok(rows);
    }
    app.store.delete_mappings(org, channel, sku).await?;
    app.engine.map(org, channel, drafts).await.map_err(at_listing)
}

/// Names a wrong listing where it stands in the body of one SKU.
fn at_listing(error: EngineError) -> Problem {
    match error {
        EngineError::Mapping(errors) => {
            let detail = "the listing is wrong";
            errors.into_iter().fold(
                Problem::bad("invalid_mapping", detail),
                |problem, (_, error)| {
                    problem.with_error(crate::api::problem::FieldError {
                        pointer: format!("/listing/{}", body::escape(&error.setting)),
                        code: "invalid_setting".into(),
                        detail: error.detail,
                    })
                },
            )
        }
        other => Problem::from(other),
    }
}

/// Unmaps a SKU from a channel.
#[utoipa::path(delete, path = "/sales-channel/channels/{channelId}/mappings/{sku}",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"),
        ("sku" = String, Path, description = "The SKU, percent-encoded")),
    responses((status = 204, description = "It is unmapped"),
        (status = 404, description = "`channel_not_found`, `mapping_not_found`")))]
async fn remove(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let (channel, sku) = (path.channel()?, path.sku()?);
    connection(&app, &caller.org, &channel).await?;
    match app.store.delete_mappings(&caller.org, &channel, &sku).await? {
        0 => Err(mapping_not_found(&sku)),
        _ => Ok(Reply::no_content()),
    }
}

/// Reads mappings from CSV.
///
/// Columns: `sku`, the kind's listing fields (such as `inventoryItemId`), and `buffer`,
/// `percent`, `maxQuantity`, `zeroBelow`, `unitsPerListing`, `conflictStrategy`, `fulfilledBy`,
/// `enabled`. Wrong lines are reported by number; good ones are kept.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/mappings/import",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"),
        ("dryRun" = Option<bool>, Query, description = "Only check the lines' shape")),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 200, description = "`{mapped, failed, dryRun, errors: [{line, code, \
            detail}]}`", body = Object),
        (status = 404, description = "`channel_not_found`")))]
async fn import(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let dry_run = query.flag("dryRun")?.unwrap_or(false);
    query.finish()?;
    let connection = connection(&app, &caller.org, &channel).await?;
    let table = csv_in::Table::read(incoming.body())?;
    let work = import_lines(&app, &caller.org, &connection, table, dry_run);
    incoming.once(&app, &caller, work).await
}

const NUMBERS: [&str; 5] = ["buffer", "percent", "maxQuantity", "zeroBelow", "unitsPerListing"];
const WORDS: [&str; 3] = ["conflictStrategy", "fulfilledBy", "sku"];

async fn import_lines(
    app: &App,
    org: &Org,
    connection: &Connection,
    table: csv_in::Table,
    dry_run: bool,
) -> Answered {
    let mut errors = Vec::new();
    let mut drafts: Vec<(u64, MappingDraft)> = Vec::new();
    for line in table.lines() {
        match line.and_then(|line| {
            Ok((
                line.number,
                line_draft(&line.cells)
                    .map_err(|problem| csv_in::LineError::of(line.number, &problem))?,
            ))
        }) {
            Ok(draft) => drafts.push(draft),
            Err(error) => errors.push(error),
        }
    }
    let mut mapped = drafts.len();
    if !dry_run {
        mapped = map_good(app, org, &connection.id, drafts, &mut errors).await?;
    }
    errors.sort_by_key(|error| error.line);
    Ok(Reply::ok(&json!({
        "mapped": mapped,
        "failed": errors.len(),
        "dryRun": dry_run,
        "errors": errors.iter().take(csv_in::ERRORS_MAX).collect::<Vec<_>>(),
    })))
}

/// Maps what the kind takes; what it refuses is reported and left out.
async fn map_good(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    mut drafts: Vec<(u64, MappingDraft)>,
    errors: &mut Vec<csv_in::LineError>,
) -> Result<usize, Problem> {
    // The engine names every wrong mapping at once, so that the second try is the last.
    for _ in 0..2 {
        if drafts.is_empty() {
            return Ok(0);
        }
        let bare = drafts.iter().map(|(_, draft)| draft.clone()).collect();
        match app.engine.map(org, channel, bare).await {
            Ok(rows) => return Ok(rows.len()),
            Err(EngineError::Mapping(wrong)) => {
                let mut bad = BTreeSet::new();
                for (index, error) in wrong {
                    if let Some((line, _)) = drafts.get(index)
                        && bad.insert(index)
                    {
                        let detail = format!("{}: {}", error.setting, error.detail);
                        errors.push(csv_in::LineError::new(*line, "invalid_mapping", detail));
                    }
                }
                let good = |(index, draft)| (!bad.contains(&index)).then_some(draft);
                drafts = drafts.into_iter().enumerate().filter_map(good).collect();
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(0)
}

/// Makes a draft of a line's cells, by way of the JSON body that it stands for.
fn line_draft(cells: &[(String, String)]) -> Result<MappingDraft, Problem> {
    let (mut mapping, mut listing) = (Map::new(), Map::new());
    for (name, text) in cells.iter().filter(|(_, text)| !text.is_empty()) {
        let (name, value) = (name.as_str(), text.as_str());
        let known =
            |names: &[&'static str]| names.iter().copied().find(|known| same_column(known, name));
        if let Some(number) = known(&NUMBERS) {
            let parsed = serde_json::from_str(value).unwrap_or(Value::from(value));
            mapping.insert(number.to_owned(), parsed);
        } else if let Some(word) = known(&WORDS) {
            mapping.insert(word.to_owned(), Value::from(value));
        } else if same_column("enabled", name) {
            let parsed = value.to_ascii_lowercase().parse::<bool>();
            let parsed = parsed.map_or_else(|_| Value::from(value), Value::from);
            mapping.insert("enabled".to_owned(), parsed);
        } else {
            let name = name.strip_prefix("listing.").unwrap_or(name);
            listing.insert(name.to_owned(), Value::from(value));
        }
    }
    mapping.insert("listing".to_owned(), Value::Object(listing));
    let mapping: MappingBody = body::from_value("", Value::Object(mapping))?;
    let sku = mapping.sku.clone().ok_or_else(|| missing("/sku".to_owned(), "sku"))?;
    let listing = fields("/listing", mapping.listing.clone().unwrap_or_default())?;
    mapping.draft("", sku.0, listing)
}

/// Compares a column's name with one of ours: `max_quantity`, `Max Quantity`, `maxQuantity`.
fn same_column(ours: &str, theirs: &str) -> bool {
    csv_in::fold(ours) == csv_in::fold(theirs)
}

/// What to do with what is found.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DiscoverBody {
    /// Say what would be mapped, map nothing.
    dry_run: Option<bool>,
}

/// Reads the channel's catalogue and maps what matches by SKU.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/mappings/discover",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"),
        ("dryRun" = Option<bool>, Query, description = "As in the body")),
    request_body(content = Option<DiscoverBody>, description = "None, or how"),
    responses((status = 200, description = "`{mapped, dryRun, items: [{channelSku, title, \
            listing, sku, status, suggestion, quantity}], unlisted: [sku]}`; `status` is \
            `matched`, `already_mapped`, `unknown_sku`, `near_miss`, `duplicate` or `no_sku`",
            body = Object),
        (status = 404, description = "`channel_not_found`"),
        (status = 502, description = "`channel_unavailable`")))]
async fn discover(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let asked = query.flag("dryRun")?;
    query.finish()?;
    let body: DiscoverBody = incoming.json_or_default()?;
    let dry_run = body.dry_run.or(asked).unwrap_or(false);
    let work = async {
        let found = app.engine.discover(&caller.org, &channel, dry_run).await?;
        Ok(Reply::ok(&discovery(found, dry_run)))
    };
    incoming.once(&app, &caller, work).await
}

fn discovery(found: Discovery, dry_run: bool) -> Value {
    let items: Vec<Value> = found
        .proposals
        .into_iter()
        .map(|proposal| {
            json!({
                "channelSku": proposal.channel_sku,
                "title": proposal.title,
                "listing": proposal.fields,
                "sku": proposal.sku.as_ref().map(Sku::as_str),
                "status": proposal.status,
                "suggestion": proposal.suggestion.as_ref().map(Sku::as_str),
                "quantity": proposal.quantity,
            })
        })
        .collect();
    let unlisted: Vec<&str> = found.unlisted.iter().map(Sku::as_str).collect();
    json!({"mapped": found.mapped, "dryRun": dry_run, "items": items, "unlisted": unlisted})
}
