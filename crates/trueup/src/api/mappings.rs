//! Mappings: which listing of a channel sells which SKU.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use trueup_core::{ChannelId, ListingKey, Org, Sku, Strategy};
use trueup_store::{Connection, ListingQuery, ListingView, Mapping, RuleSettings};
use trueup_sync::{EngineError, MappingDraft, listing_status};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body::{self, ITEMS_MAX, LocationText, SkuText, Strict, Units, check_len};
use crate::api::channels::{RulesView, StrategyWord, percent};
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::impact::{ImpactView, Manner};
use crate::api::lists::{Listed, NoParams, PageParams, Params};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::views::{listing_cursor, listing_position};
use crate::api::{Answered, App, AppState};

/// The most listings of one SKU on one channel.
const LISTINGS_PER_SKU_MAX: usize = 100;
/// The most locations of one mapping.
const LOCATIONS_MAX: usize = 100;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, put_many)).routes(routes!(get, put, remove))
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
pub(super) struct MappingBody {
    /// The SKU; in `PUT …/mappings/{sku}` the path's.
    pub(super) sku: Option<SkuText>,
    /// The vendor's identifiers: `{inventoryItemId, variantId?, locationId?}` (shopify),
    /// `{sellerSku, asin?}` (amazon), `{sku?, offerId?}` or `{itemId, sku?}` (ebay).
    #[schema(value_type = Object)]
    pub(super) listing: Option<Map<String, Value>>,
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
pub(super) enum FulfilledBy {
    Merchant,
    Channel,
}

impl FulfilledBy {
    pub(super) fn of(channel_fulfilled: bool) -> Self {
        if channel_fulfilled { Self::Channel } else { Self::Merchant }
    }
}

/// Returns the fields of a `listing` object as texts.
pub(super) fn fields(
    pointer: &str,
    listing: Map<String, Value>,
) -> Result<BTreeMap<String, String>, Problem> {
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
    pub(super) fn draft(
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
            if locations.iter().any(|LocationText(location)| location.is_quarantine()) {
                let pointer = format!("{prefix}/locationIds");
                let rule = "what stands in quarantine is not for sale";
                return Err(Problem::field(pointer, "invalid_location", rule));
            }
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

pub(super) fn missing(pointer: String, name: &str) -> Problem {
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
            fulfilled_by: FulfilledBy::of(row.channel_fulfilled),
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
    /// What would change, in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    impact: Option<ImpactView>,
}

// --- Handlers -----------------------------------------------------------------------------

/// Returns a channel's connection.
pub(super) async fn connection(
    app: &App,
    org: &Org,
    channel: &ChannelId,
) -> Result<Connection, Problem> {
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
    params(("channelId" = String, Path, description = "The channel"),
        ("dryRun" = Option<bool>, Query, description = "Check them and keep nothing"),
        ("confirm" = Option<bool>, Query, description = "Do it although it changes much of what \
            the channel shows")),
    request_body = MappingsBody,
    responses((status = 200, description = "`{mapped, dryRun, items}`; in a dry run also the \
            `impact` on listings that are mapped already", body = Object),
        (status = 400, description = "`invalid_mapping` naming each"),
        (status = 404, description = "`channel_not_found`"),
        (status = 409, description = "`blast_radius` with the `impact`")))]
async fn put_many(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let manner = Manner::take(&mut query)?;
    query.finish()?;
    let body: MappingsBody = incoming.json()?;
    check_len("/mappings", body.mappings.len(), ITEMS_MAX)?;
    let read =
        |(index, Strict(mapping)): (usize, &Strict<MappingBody>)| one_of_many(index, mapping);
    let drafts: Result<Vec<_>, Problem> = body.mappings.iter().enumerate().map(read).collect();
    let drafts = drafts?;
    let work = async {
        let impact = would(&app, &caller.org, &channel, &drafts, manner).await?;
        let rows = map(&app, &caller.org, &channel, drafts, manner).await?;
        if !manner.is_dry() {
            let deed = Deed::new("mappings_changed").on(&channel);
            audit::note(&app, &caller, deed.with("mappings", rows.len())).await;
        }
        let items: Vec<MappingView> = rows.iter().map(MappingView::from).collect();
        let mut answer = json!({
            "mapped": items.len(), "dryRun": manner.is_dry(), "items": items,
        });
        if let Some(impact) = impact {
            answer["impact"] = json!(impact);
        }
        Ok(Reply::ok(&answer))
    };
    incoming.once(&app, &caller, work).await
}

fn sku_answer(items: Vec<MappingView>, first: MappingView) -> Answered {
    Ok(Reply::ok(&SkuMappingsView { first, listings: items, impact: None }))
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
        ("sku" = String, Path, description = "The SKU, percent-encoded"),
        ("dryRun" = Option<bool>, Query, description = "Check them and keep nothing"),
        ("confirm" = Option<bool>, Query, description = "Do it although it changes much of what \
            the channel shows")),
    request_body = MappingBody,
    responses((status = 200, description = "The mappings", body = SkuMappingsView),
        (status = 400, description = "`invalid_mapping` naming each"),
        (status = 404, description = "`channel_not_found`"),
        (status = 409, description = "`blast_radius` with the `impact`")))]
async fn put(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let (channel, sku) = (path.channel()?, path.sku()?);
    let manner = Manner::take(&mut query)?;
    query.finish()?;
    let body: MappingBody = incoming.json()?;
    let drafts = all_of_sku(&sku, &body)?;
    let of_many = body.listings.is_some();
    let work = async {
        let org = &caller.org;
        let impact = would(&app, org, &channel, &drafts, manner).await;
        let impact = impact.map_err(|error| at_listing(error, of_many))?;
        let rows = replace(&app, org, &channel, &sku, drafts, manner).await;
        let rows = rows.map_err(|error| at_listing(error, of_many))?;
        if !manner.is_dry() {
            let deed = Deed::new("mapping_changed").on(&channel).of(&sku);
            audit::note(&app, &caller, deed.with("listings", rows.len())).await;
        }
        let views = || rows.iter().map(MappingView::from);
        let first = views().next().ok_or_else(|| mapping_not_found(&sku))?;
        Ok(Reply::ok(&SkuMappingsView { first, listings: views().collect(), impact }))
    };
    incoming.once(&app, &caller, work).await
}

/// Maps a SKU to exactly these listings; what is known of those that stay is kept.
async fn replace(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    sku: &Sku,
    drafts: Vec<MappingDraft>,
    manner: Manner,
) -> Result<Vec<Mapping>, EngineError> {
    let rows = map(app, org, channel, drafts, manner).await?;
    if !manner.is_dry() {
        let kept: BTreeSet<ListingKey> = rows.iter().map(|row| row.key.clone()).collect();
        app.engine.unmap(org, channel, sku, kept).await?;
    }
    Ok(rows)
}

/// Says what mappings would change, in a dry run.
async fn would(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    drafts: &[MappingDraft],
    manner: Manner,
) -> Result<Option<ImpactView>, EngineError> {
    if !manner.is_dry() {
        return Ok(None);
    }
    let drafts = drafts.to_vec();
    let impact = Box::pin(app.engine.impact_of_mappings(org, channel, drafts)).await?;
    Ok(Some(ImpactView::from(impact)))
}

/// Maps listings, or says whether they could be.
pub(super) async fn map(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    drafts: Vec<MappingDraft>,
    manner: Manner,
) -> Result<Vec<Mapping>, EngineError> {
    match manner {
        Manner::DryRun => return app.engine.check_mappings(org, channel, drafts).await,
        Manner::Guarded => {
            Box::pin(app.engine.check_mapping_radius(org, channel, drafts.clone())).await?;
        }
        Manner::Confirmed => {}
    }
    app.engine.map(org, channel, drafts).await
}

/// Names a wrong listing where it stands in the body of one SKU.
fn at_listing(error: EngineError, of_many: bool) -> Problem {
    let EngineError::Mapping(errors) = error else { return Problem::from(error) };
    let place = |index: usize| {
        if of_many { format!("/listings/{index}") } else { "/listing".to_owned() }
    };
    let problem = Problem::bad("invalid_mapping", "the listing is wrong");
    errors.into_iter().fold(problem, |problem, (index, error)| {
        problem.with_error(crate::api::problem::FieldError {
            pointer: format!("{}/{}", place(index), body::escape(&error.setting)),
            code: "invalid_setting".into(),
            detail: error.detail,
        })
    })
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
    match app.engine.unmap(&caller.org, &channel, &sku, BTreeSet::new()).await? {
        0 => Err(mapping_not_found(&sku)),
        _ => {
            let deed = Deed::new("mapping_removed").on(&channel).of(&sku);
            audit::note(&app, &caller, deed).await;
            Ok(Reply::no_content())
        }
    }
}
