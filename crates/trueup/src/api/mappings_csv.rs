//! Mappings as CSV: out page by page, and in line by line. What comes out goes in again.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};
use trueup_core::{ChannelId, ListingKey, Org, Quantity, Sku};
use trueup_store::{ChannelListingView, Connection, ListingQuery, Mapping};
use trueup_sync::{EngineError, MappingDraft, match_word, strategy_word};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body;
use crate::api::catalogue::decided_sku;
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::impact::Manner;
use crate::api::lists::{NoParams, Params};
use crate::api::mappings::{MappingBody, connection, fields, map, missing};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, App, AppState, csv_in, csv_out};

/// Mappings read at once.
const PAGE_MAPPINGS: usize = 500;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(import)).routes(routes!(export))
}

/// Reads mappings from CSV.
///
/// Columns: `sku`, the kind's listing fields (such as `inventoryItemId`, or
/// `listing.inventoryItemId`), and `buffer`, `percent`, `maxQuantity`, `zeroBelow`,
/// `unitsPerListing`, `locationIds` (one location, or a JSON array), `conflictStrategy`,
/// `fulfilledBy`, `enabled`. Wrong lines are reported by number; good ones are kept. A file of
/// `GET …/listings?format=csv` is taken too: its lines without a SKU are left out.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/mappings/import",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"),
        ("dryRun" = Option<bool>, Query, description = "Check every line, keep nothing"),
        ("confirm" = Option<bool>, Query, description = "Do it although it changes much of what \
            the channel shows")),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 200, description = "`{mapped, failed, skipped, dryRun, errors: \
            [{line, code, detail}]}`", body = Object),
        (status = 404, description = "`channel_not_found`"),
        (status = 409, description = "`blast_radius` with the `impact`")))]
async fn import(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let manner = Manner::take(&mut query)?;
    query.finish()?;
    let connection = connection(&app, &caller.org, &channel).await?;
    let table = csv_in::Table::read(incoming.body())?;
    let work = async {
        let reply = import_lines(&app, &caller.org, &connection, table, manner).await?;
        if !manner.is_dry() {
            audit::note(&app, &caller, Deed::new("mappings_imported").on(&channel)).await;
        }
        Ok(reply)
    };
    incoming.once(&app, &caller, work).await
}

const NUMBERS: [&str; 5] = ["buffer", "percent", "maxQuantity", "zeroBelow", "unitsPerListing"];
const WORDS: [&str; 3] = ["conflictStrategy", "fulfilledBy", "sku"];
const LOCATIONS: &str = "locationIds";
const ENABLED: &str = "enabled";
/// What stands in front of a listing field that is called as another column is.
const LISTING: &str = "listing.";
/// Columns of a discovery's file that are for people.
const FOR_PEOPLE: [&str; 6] =
    ["status", "suggestions", "channelSku", "title", "channelQuantity", "seenAt"];
/// The column by which a discovery's file is known.
const STATUS: &str = FOR_PEOPLE[0];

async fn import_lines(
    app: &App,
    org: &Org,
    connection: &Connection,
    table: csv_in::Table,
    manner: Manner,
) -> Answered {
    let mut errors = Vec::new();
    let mut drafts: Vec<(u64, MappingDraft)> = Vec::new();
    let mut skipped = 0_u64;
    for line in table.lines() {
        if line.as_ref().is_ok_and(|line| is_undecided(&line.cells)) {
            skipped += 1;
            continue;
        }
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
    let mapped = map_good(app, org, &connection.id, drafts, &mut errors, manner).await?;
    errors.sort_by_key(|error| error.line);
    Ok(Reply::ok(&json!({
        "mapped": mapped,
        "failed": errors.len(),
        "skipped": skipped,
        "dryRun": manner.is_dry(),
        "errors": errors.iter().take(csv_in::ERRORS_MAX).collect::<Vec<_>>(),
    })))
}

/// Returns whether a line of a discovery's file has no SKU: nobody has said what it sells.
fn is_undecided(cells: &[(String, String)]) -> bool {
    let find = |name: &str| cells.iter().find(|(column, _)| same_column(name, column));
    find(STATUS).is_some() && find("sku").is_some_and(|(_, sku)| sku.trim().is_empty())
}

/// Maps what the kind takes; what it refuses is reported and left out.
async fn map_good(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    mut drafts: Vec<(u64, MappingDraft)>,
    errors: &mut Vec<csv_in::LineError>,
    manner: Manner,
) -> Result<usize, Problem> {
    // The engine names every wrong mapping at once, so that the second try is the last.
    for _ in 0..2 {
        if drafts.is_empty() {
            return Ok(0);
        }
        let bare = drafts.iter().map(|(_, draft)| draft.clone()).collect();
        match map(app, org, channel, bare, manner).await {
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
        if known(&FOR_PEOPLE).is_some() {
            continue;
        }
        if let Some(number) = known(&NUMBERS) {
            let parsed = serde_json::from_str(value).unwrap_or(Value::from(value));
            mapping.insert(number.to_owned(), parsed);
        } else if let Some(word) = known(&WORDS) {
            mapping.insert(word.to_owned(), Value::from(value));
        } else if same_column(LOCATIONS, name) {
            let one = || Value::from(vec![value]);
            let all = serde_json::from_str(value).ok().filter(Value::is_array);
            mapping.insert(LOCATIONS.to_owned(), all.unwrap_or_else(one));
        } else if same_column(ENABLED, name) {
            let parsed = value.to_ascii_lowercase().parse::<bool>();
            let parsed = parsed.map_or_else(|_| Value::from(value), Value::from);
            mapping.insert(ENABLED.to_owned(), parsed);
        } else {
            let name = name.strip_prefix(LISTING).unwrap_or(name);
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

// --- Out ----------------------------------------------------------------------------------

/// Returns a channel's mappings as CSV, in the columns that the import reads.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}/mappings/export",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel")),
    responses((status = 200, description = "The mappings", content_type = "text/csv",
            body = String),
        (status = 404, description = "`channel_not_found`")))]
async fn export(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Result<Response, Problem> {
    let channel = path.channel()?;
    let names = listing_names(&connection(&app, &caller.org, &channel).await?);
    let columns = columns(names, &[]);
    let name = format!("mappings-{channel}.csv");
    let next = move |after: Option<(Sku, ListingKey)>| {
        let (app, org, channel) = (app.clone(), caller.org.clone(), channel.clone());
        async move {
            let query = ListingQuery {
                channel: Some(channel),
                after,
                limit: PAGE_MAPPINGS,
                ..ListingQuery::default()
            };
            let page = app.store.listings(&org, query).await?;
            let last = page.items.last().filter(|_| page.more);
            let next = last.map(|view| (view.mapping.sku.clone(), view.mapping.key.clone()));
            let lines = page.items.iter().flat_map(|view| mapping_line(names, &view.mapping));
            Ok((lines.collect(), next))
        }
    };
    csv_out::stream(&columns, &name, next).await
}

/// Returns the names of the listing fields of a connection's kind.
pub(super) fn listing_names(connection: &Connection) -> &'static [&'static str] {
    trueup_channels::kind(&connection.kind).map_or(&[], |kind| kind.listing_names())
}

/// Returns the columns of mappings, with others behind the SKU.
pub(super) fn columns(names: &[&str], others: &[&str]) -> Vec<String> {
    let own = |name: &&str| (*name).to_owned();
    let mut columns = vec!["sku".to_owned()];
    columns.extend(others.iter().map(own));
    columns.extend(names.iter().map(|name| format!("{LISTING}{name}")));
    columns.extend(NUMBERS.iter().map(own));
    columns.extend([LOCATIONS, WORDS[0], WORDS[1], ENABLED].iter().map(own));
    columns
}

/// Returns the columns of a channel's catalogue.
pub(super) fn catalogue_columns(names: &[&str]) -> Vec<String> {
    columns(names, &FOR_PEOPLE)
}

fn mapping_line(names: &[&str], mapping: &Mapping) -> Vec<u8> {
    let mut cells = vec![mapping.sku.to_string()];
    cells.extend(field_cells(names, &mapping.fields));
    cells.extend(setting_cells(Some(mapping), mapping.channel_fulfilled));
    csv_out::line(&cells)
}

/// Returns the line of a listing of the channel's catalogue; what is not decided has no SKU.
pub(super) fn catalogue_line(names: &[&str], view: &ChannelListingView) -> Vec<u8> {
    let ChannelListingView { listing, mapping } = view;
    let status = if mapping.is_some() { "mapped" } else { match_word(listing.found) };
    let suggestions: Vec<&str> = listing.suggestions.iter().map(Sku::as_str).collect();
    let suggestions = match suggestions.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        several => json!(several).to_string(),
    };
    let mut cells = vec![
        decided_sku(view).map_or_else(String::new, |sku| sku.to_string()),
        status.to_owned(),
        suggestions,
        listing.sku.clone().unwrap_or_default(),
        listing.title.clone().unwrap_or_default(),
        listing.quantity.map_or_else(String::new, |quantity| quantity.to_string()),
        Time(listing.seen_at).to_string(),
    ];
    let fields = mapping.as_ref().map_or(&listing.fields, |mapping| &mapping.fields);
    cells.extend(field_cells(names, fields));
    cells.extend(setting_cells(mapping.as_ref(), listing.channel_fulfilled));
    csv_out::line(&cells)
}

fn field_cells<'a>(
    names: &'a [&str],
    fields: &'a std::collections::BTreeMap<String, String>,
) -> impl Iterator<Item = String> + 'a {
    names.iter().map(|name| fields.get(*name).cloned().unwrap_or_default())
}

/// Returns a mapping's settings as cells; without one, those that a new one would have.
fn setting_cells(mapping: Option<&Mapping>, channel_fulfilled: bool) -> Vec<String> {
    let rules = mapping.map(|mapping| &mapping.rules);
    let units = |units: Option<Quantity>| units.map_or_else(String::new, |n| n.to_string());
    let of =
        |pick: fn(&trueup_store::RuleSettings) -> Option<Quantity>| units(rules.and_then(pick));
    let percent = rules.and_then(|rules| rules.percent);
    let locations = rules.and_then(|rules| rules.locations.as_ref()).map(|all| {
        let names: Vec<&str> = all.iter().map(trueup_core::Location::as_str).collect();
        json!(names).to_string()
    });
    let strategy = mapping.and_then(|mapping| mapping.strategy).map(strategy_word);
    let by_channel = mapping.map_or(channel_fulfilled, |mapping| mapping.channel_fulfilled);
    vec![
        of(|rules| rules.buffer),
        percent.map_or_else(String::new, |percent| percent.to_string()),
        of(|rules| rules.max_quantity),
        of(|rules| rules.zero_below),
        of(|rules| rules.units_per_listing),
        locations.unwrap_or_default(),
        strategy.unwrap_or_default().to_owned(),
        if by_channel { "channel" } else { "merchant" }.to_owned(),
        mapping.is_none_or(|mapping| mapping.enabled).to_string(),
    ]
}
