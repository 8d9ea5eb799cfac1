//! Views across channels: what each shows, why it shows it, and where it should not.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use trueup_core::{Delta, ListingKey, ListingState, Org, Rules, Sku, SkuAnswer, Terms, Timestamp};
use trueup_store::{Connection, ListingQuery, ListingView, MovementQuery};
use trueup_sync::{Revisions, drift_of, expected_of, listing_status, shown};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::channels::StrategyWord;
use crate::api::extract::{Caller, Read, Segments};
use crate::api::history::MovementView;
use crate::api::inventory::{Numbers, sku_not_found};
use crate::api::lists::{Listed, NoParams, PageParams, Params, seal_cursor};
use crate::api::pauses::PauseView;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, App, AppState};

/// The most listings of one SKU that a view shows.
const LISTINGS_MAX: usize = 1_000;
/// The most ledger lines in an explanation.
const LINES_MAX: usize = 100;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(across)).routes(routes!(explain)).routes(routes!(drift))
}

// --- GET /inventory/{sku}/channels --------------------------------------------------------

/// A SKU on every channel.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"sku": "SKU-100", "master": 42, "channels": {
    "shopify": {"quantity": 42, "expected": 42, "lastSync": "2026-04-25T10:00:00Z",
        "status": "ok", "listing": {"inventoryItemId": "gid://shopify/InventoryItem/1"}},
    "ebay": {"quantity": null, "expected": null, "lastSync": null, "status": "unmapped",
        "listing": null}
}}))]
struct AcrossView {
    sku: String,
    /// Units on hand.
    master: i64,
    /// By channel id.
    channels: BTreeMap<String, ChannelCell>,
}

/// A SKU on one channel.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ChannelCell {
    /// What the channel shows, as far as known.
    quantity: Option<i64>,
    /// What it should show.
    expected: Option<i64>,
    /// When it was last told or read.
    last_sync: Option<Time>,
    /// `ok`, `stale`, `pending`, `conflict`, `error`, `paused`, `shared` or `unmapped`.
    status: &'static str,
    /// The listing that is told the number, where this one shows the same one: `shared`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    shared_with: Option<LeaderView>,
    /// The vendor's identifiers.
    listing: Option<BTreeMap<String, String>>,
    /// What keeps it from being pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    error: Option<ParkedView>,
    /// Every listing, where there are several; the fields above are then of the worst.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, value_type = Vec<Object>)]
    listings: Vec<ChannelCell>,
}

/// The listing that is told a number which others show too.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LeaderView {
    channel_id: String,
    /// Its key on that channel.
    key: String,
}

impl LeaderView {
    fn of(view: &ListingView) -> Option<Self> {
        let (channel, key) = view.leader.as_ref()?;
        Some(Self { channel_id: channel.to_string(), key: key.to_string() })
    }
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct ParkedView {
    code: String,
    detail: String,
    since: Time,
}

impl ChannelCell {
    const UNMAPPED: Self = Self {
        quantity: None,
        expected: None,
        last_sync: None,
        status: "unmapped",
        shared_with: None,
        listing: None,
        error: None,
        listings: Vec::new(),
    };

    fn of(view: &ListingView, connection: &Connection) -> Self {
        Self {
            quantity: shown(view),
            // What the other listing is told is said there.
            expected: expected_of(view).filter(|_| !view.state.follows),
            last_sync: last_sync(view).map(Time),
            status: listing_status(view, connection),
            shared_with: LeaderView::of(view),
            listing: Some(view.mapping.fields.clone()),
            error: view.parked.as_ref().map(|parked| ParkedView {
                code: parked.code.clone(),
                detail: parked.detail.clone(),
                since: Time(parked.at),
            }),
            listings: Vec::new(),
        }
    }

    /// Puts a channel's listings into one cell: the worst in front.
    fn together(mut cells: Vec<Self>) -> Self {
        match cells.len() {
            0 => Self::UNMAPPED,
            1 => cells.swap_remove(0),
            _ => {
                let worst = cells.iter().min_by_key(|cell| severity(cell.status)).cloned();
                let mut worst = worst.unwrap_or(Self::UNMAPPED);
                worst.listings = cells;
                worst
            }
        }
    }
}

/// Orders the words of a status, the worst first.
fn severity(status: &str) -> usize {
    const WORST_FIRST: [&str; 7] =
        ["error", "conflict", "pending", "stale", "paused", "ok", "shared"];
    WORST_FIRST.iter().position(|word| *word == status).unwrap_or(WORST_FIRST.len())
}

fn last_sync(view: &ListingView) -> Option<Timestamp> {
    view.state.acked_at.max(view.state.observed.map(|observed| observed.at))
}

async fn listings_of(
    app: &App,
    caller: &Caller<Read>,
    sku: &Sku,
    channel: Option<trueup_core::ChannelId>,
) -> Result<Vec<ListingView>, Problem> {
    let query = ListingQuery {
        channel,
        skus: Some(vec![sku.clone()]),
        limit: LISTINGS_MAX,
        ..ListingQuery::default()
    };
    Ok(app.store.listings(&caller.org, query).await?.items)
}

/// Returns a SKU's quantity on every channel, and the master's.
#[utoipa::path(get, path = "/sales-channel/inventory/{sku}/channels", tag = "inventory",
    params(("sku" = String, Path, description = "The SKU, percent-encoded", example = "SKU-100")),
    responses((status = 200, description = "Every channel", body = AcrossView),
        (status = 404, description = "`sku_not_found`")))]
async fn across(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let sku = path.sku()?;
    let answer = app.store.sku(&caller.org, &sku).await?.ok_or_else(|| sku_not_found(&sku))?;
    let views = listings_of(&app, &caller, &sku, None).await?;
    let mut channels = BTreeMap::new();
    for connection in app.store.connections(&caller.org).await? {
        let mine = views.iter().filter(|view| view.mapping.channel == connection.id);
        let cells = mine.map(|view| ChannelCell::of(view, &connection)).collect();
        channels.insert(connection.id.as_str().to_owned(), ChannelCell::together(cells));
    }
    let master = Numbers::of(&answer).quantity;
    Ok(Reply::ok(&AcrossView { sku: sku.as_str().to_owned(), master, channels }))
}

// --- GET /inventory/{sku}/explain ---------------------------------------------------------

/// Why the channels show what they show.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainView {
    sku: String,
    /// Of when it is, where an instant was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    at: Option<Time>,
    master: i64,
    version: u64,
    /// That nothing is told of the SKU, by whom and since when; null while it is not paused.
    paused: Option<PauseView>,
    /// The same of everything.
    all_paused: Option<PauseView>,
    listings: Vec<ExplainedView>,
}

/// Why one listing shows what it shows.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedView {
    channel_id: String,
    listing: BTreeMap<String, String>,
    /// As in `GET /inventory/{sku}/channels`; `past` where an instant was asked for: what the
    /// channel was told and showed then is not kept.
    status: &'static str,
    /// What the channel shows, as far as known.
    quantity: Option<i64>,
    /// What it should show.
    expected: u64,
    /// The listing that is told the number, where this one shows the same one and is told
    /// nothing: then `expected` is what it would be told if it were the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    shared_with: Option<LeaderView>,
    strategy: StrategyWord,
    /// Who ships it: `merchant` or `channel`; one that the channel ships is never pushed.
    fulfilled_by: &'static str,
    /// The formula, term by term.
    terms: TermsView,
    /// What the channel last acknowledged or agreed with.
    base: Option<i64>,
    /// The version it last acknowledged, and when.
    acknowledged_version: u64,
    acknowledged_at: Option<Time>,
    /// What it last showed.
    observed: Option<ObservedView>,
    /// The push that is out.
    in_flight: Option<InFlightView>,
    /// Adopted differences that no order has explained yet.
    provisional: i64,
    /// Whether a push is owed.
    pending: bool,
    /// Since when it has been in a bulk batch that the channel has not processed; until then it is
    /// told nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    in_feed_since: Option<Time>,
    /// How often the listing was revised today, where the vendor counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    revisions: Option<RevisionsView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    error: Option<ParkedView>,
    /// The ledger's lines since the last acknowledged push, newest first (at most 100); where an
    /// instant was asked for, the last ones up to it.
    movements_since: Vec<MovementView>,
}

/// Every term of the published number, in their order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TermsView {
    on_hand: i64,
    reserved: u64,
    safety_stock: u64,
    available: u64,
    buffer: u64,
    after_buffer: u64,
    percent: u8,
    after_percent: u64,
    units_per_listing: u64,
    after_units: u64,
    max_quantity: Option<u64>,
    after_max: u64,
    zero_below: u64,
    published: u64,
    /// The locations that feed it; null = all that the merchant ships from.
    location_ids: Option<Vec<String>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ObservedView {
    quantity: i64,
    at: Time,
}

/// How often a listing was revised in its vendor's day.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RevisionsView {
    used_today: u32,
    /// How often in a day the vendor allows.
    per_day: u32,
    /// When the vendor's day ends.
    day_ends: Time,
    /// Until when what it owes is put off; null = it is not.
    postponed_until: Option<Time>,
}

impl From<Revisions> for RevisionsView {
    fn from(revisions: Revisions) -> Self {
        Self {
            used_today: revisions.used_today,
            per_day: revisions.per_day,
            day_ends: Time(revisions.day_ends),
            postponed_until: revisions.postponed_until.map(Time),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct InFlightView {
    quantity: i64,
    version: u64,
    at: Time,
}

impl TermsView {
    fn of(rules: &Rules, terms: Terms) -> Self {
        let name = |location: &trueup_core::Location| location.as_str().to_owned();
        Self {
            on_hand: terms.on_hand,
            reserved: terms.reserved,
            safety_stock: terms.safety_stock,
            available: terms.available,
            buffer: rules.buffer.get(),
            after_buffer: terms.after_buffer,
            percent: rules.percent,
            after_percent: terms.after_percent,
            units_per_listing: rules.units_per_listing.get(),
            after_units: terms.after_units,
            max_quantity: rules.max_quantity.map(trueup_core::Quantity::get),
            after_max: terms.after_max,
            zero_below: rules.zero_below.get(),
            published: terms.published,
            location_ids: rules.locations.as_ref().map(|all| all.iter().map(name).collect()),
        }
    }
}

/// Says why channels show what they show, or should have shown at an instant.
///
/// At an instant the stock is that of the ledger then; rules and mappings are those of now.
#[utoipa::path(get, path = "/sales-channel/inventory/{sku}/explain", tag = "inventory",
    params(("sku" = String, Path, description = "The SKU, percent-encoded", example = "SKU-100"),
        ("channel" = Option<String>, Query, description = "Only on this channel"),
        ("at" = Option<String>, Query, description = "At this instant")),
    responses((status = 200, description = "Every term, movement and push", body = ExplainView),
        (status = 404, description = "`sku_not_found`, `channel_not_found`")))]
async fn explain(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let sku = path.sku()?;
    let channel = query.channel("channel")?;
    let at = query.time("at")?;
    query.finish()?;
    let answer = match at {
        Some(at) => app.store.sku_at(&caller.org, &sku, at).await?.map(|then| then.answer),
        None => app.store.sku(&caller.org, &sku).await?,
    };
    let answer = answer.ok_or_else(|| sku_not_found(&sku))?;
    let connections = app.store.connections(&caller.org).await?;
    if let Some(channel) = &channel
        && !connections.iter().any(|connection| connection.id == *channel)
    {
        return Err(Problem::channel_not_found(channel.as_str()));
    }
    let then = match at {
        Some(at) => {
            let until = MovementQuery { to: Some(at.just_after()), ..MovementQuery::default() };
            Some(lines_of(&app, &caller.org, &sku, until).await?)
        }
        None => None,
    };
    let mut listings = Vec::new();
    for view in listings_of(&app, &caller, &sku, channel).await? {
        let connection = connections.iter().find(|row| row.id == view.mapping.channel);
        let Some(connection) = connection else { continue };
        if let Some(lines) = &then {
            listings.push(explained_then(view, connection, &answer, lines.clone()));
            continue;
        }
        let since =
            MovementQuery { after_seq: Some(view.state.acked_version), ..MovementQuery::default() };
        let lines = lines_of(&app, &caller.org, &sku, since).await?;
        let revisions = app.engine.revisions(&caller.org, &view).map(RevisionsView::from);
        let in_feed_since = app.engine.in_feed_since(&caller.org, &view).map(Time);
        let explained = explained(&view, connection, &answer, lines);
        listings.push(ExplainedView { revisions, in_feed_since, ..explained });
    }
    Ok(Reply::ok(&ExplainView {
        sku: sku.as_str().to_owned(),
        at: at.map(Time),
        master: Numbers::of(&answer).quantity,
        version: answer.state.version,
        paused: app.store.pause(&caller.org, Some(&sku)).await?.map(PauseView::from),
        all_paused: app.store.pause(&caller.org, None).await?.map(PauseView::from),
        listings,
    }))
}

/// Returns the newest lines of a SKU that a query finds.
async fn lines_of(
    app: &App,
    org: &Org,
    sku: &Sku,
    query: MovementQuery,
) -> Result<Vec<MovementView>, Problem> {
    let query = MovementQuery { limit: LINES_MAX, ..query };
    let lines = app.store.movements(org, sku, query).await?.items;
    Ok(lines.into_iter().map(MovementView::from).collect())
}

/// Explains what a listing should have shown of stock as it stood; what was told and read of it
/// then is not kept.
fn explained_then(
    view: ListingView,
    connection: &Connection,
    answer: &SkuAnswer,
    lines: Vec<MovementView>,
) -> ExplainedView {
    let state = ListingState {
        base: None,
        in_flight: None,
        observed: None,
        acked_version: 0,
        acked_at: None,
        provisional: Delta::ZERO,
        forced: false,
        ..view.state
    };
    let view = ListingView { state, parked: None, sku: Some(answer.clone()), ..view };
    let explained = explained(&view, connection, answer, lines);
    ExplainedView { status: "past", pending: false, ..explained }
}

fn explained(
    view: &ListingView,
    connection: &Connection,
    answer: &SkuAnswer,
    movements_since: Vec<MovementView>,
) -> ExplainedView {
    let state = &view.state;
    let terms = answer.publish(&state.rules);
    let cell = ChannelCell::of(view, connection);
    ExplainedView {
        channel_id: connection.id.as_str().to_owned(),
        listing: view.mapping.fields.clone(),
        status: cell.status,
        quantity: cell.quantity,
        expected: terms.published,
        shared_with: cell.shared_with,
        strategy: state.strategy.into(),
        fulfilled_by: if state.channel_fulfilled { "channel" } else { "merchant" },
        terms: TermsView::of(&state.rules, terms),
        base: state.base,
        acknowledged_version: state.acked_version,
        acknowledged_at: state.acked_at.map(Time),
        observed: state
            .observed
            .map(|seen| ObservedView { quantity: seen.quantity, at: Time(seen.at) }),
        in_flight: state.in_flight.map(|sent| InFlightView {
            quantity: sent.quantity,
            version: sent.version,
            at: Time(sent.at),
        }),
        provisional: state.provisional.get(),
        pending: view.is_dirty(),
        in_feed_since: None,
        revisions: None,
        error: cell.error,
        movements_since,
    }
}

// --- GET /inventory/drift -----------------------------------------------------------------

/// A listing whose last reading is not what it should be.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DriftView {
    sku: String,
    channel_id: String,
    listing: BTreeMap<String, String>,
    /// What the channel showed when it was last read.
    quantity: i64,
    /// What it should show now.
    expected: i64,
    /// `quantity − expected`.
    difference: i64,
    /// What it last acknowledged.
    base: Option<i64>,
    read_at: Time,
    status: &'static str,
}

fn drifted(view: &ListingView, connections: &[Connection]) -> Option<DriftView> {
    let connection = connections.iter().find(|row| row.id == view.mapping.channel)?;
    let (observed, expected) = drift_of(view, u64::MAX)?;
    Some(DriftView {
        sku: view.mapping.sku.as_str().to_owned(),
        channel_id: connection.id.as_str().to_owned(),
        listing: view.mapping.fields.clone(),
        quantity: observed.quantity,
        expected,
        difference: observed.quantity.saturating_sub(expected),
        base: view.state.base,
        read_at: Time(observed.at),
        status: listing_status(view, connection),
    })
}

const DRIFT: &str = "drift";

/// Separates SKU and listing key in a cursor; neither can hold a control character.
const CURSOR_SEPARATOR: char = '\n';

/// Reads the position of a listing out of a cursor.
pub(super) fn listing_position(position: &str) -> Option<(Sku, ListingKey)> {
    let (sku, key) = position.split_once(CURSOR_SEPARATOR)?;
    Some((Sku::new(sku).ok()?, ListingKey::new(key).ok()?))
}

/// Makes the cursor of a page of listings.
pub(super) fn listing_cursor(list: &str, last: &ListingView) -> String {
    let (sku, key) = (&last.mapping.sku, &last.mapping.key);
    seal_cursor(list, &format!("{sku}{CURSOR_SEPARATOR}{key}"))
}

/// Lists listings whose last reading is not what it should be. A page may hold fewer items than
/// asked for and still have a `nextCursor`.
#[utoipa::path(get, path = "/sales-channel/inventory/drift", tag = "sync",
    params(PageParams, ("channel" = Option<String>, Query, description = "Only on this channel")),
    responses((status = 200, description = "A page", body = Listed<DriftView>)))]
async fn drift(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let filter = ListingQuery {
        channel: query.channel("channel")?,
        suspicious: true,
        after: query.cursor(DRIFT, listing_position)?,
        limit: query.limit()?,
        ..ListingQuery::default()
    };
    query.finish()?;
    let connections = app.store.connections(&caller.org).await?;
    let page = app.store.listings(&caller.org, filter).await?;
    let last = page.items.last().filter(|_| page.more);
    let next_cursor = last.map(|last| listing_cursor(DRIFT, last));
    let drifted = page.items.iter().filter_map(|view| drifted(view, &connections));
    Ok(Reply::ok(&Listed { items: drifted.collect(), next_cursor }))
}
