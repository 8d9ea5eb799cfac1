//! What an act would change: the report of every dry run, and of what is too wide to be done
//! without being asked. And how wide that is, channel by channel.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use trueup_core::Strategy;
use trueup_store::{BlastRadius, RuleSettings};
use trueup_sync::{
    Backtest, BacktestRequest, CHANGE_PERCENT_MAX, CHANGES_FREE_MAX, Effect, Impact, WhatIf,
    ZERO_PERCENT_MAX, ZEROES_FREE_MAX,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body::{SkuText, TimeText, Units, check_len};
use crate::api::channels::{StrategyWord, percent};
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{Listed, NoParams, PageParams, Params};
use crate::api::mappings::connection;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::{Time, Window};
use crate::api::{Answered, AppState};

/// The most changes that are told one by one where the list has no pages.
const ITEMS_MAX: usize = 1_000;
/// The most SKUs that a back-test is asked for by name.
const SKUS_MAX: usize = 500;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get, put))
        .routes(routes!(what_if))
        .routes(routes!(backtest))
}

/// How an act is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Only said what would come of it.
    DryRun,
    /// Done, unless it would change more of a channel than one act may.
    Guarded,
    /// Done, however much it changes.
    Confirmed,
}

impl Manner {
    /// Takes `dryRun` and `confirm`.
    pub(super) fn take(query: &mut Params) -> Result<Self, Problem> {
        let dry_run = query.flag("dryRun")?.unwrap_or(false);
        let confirmed = query.flag("confirm")?.unwrap_or(false);
        Ok(match (dry_run, confirmed) {
            (true, _) => Self::DryRun,
            (false, false) => Self::Guarded,
            (false, true) => Self::Confirmed,
        })
    }

    /// Returns whether nothing is to be done.
    pub(super) fn is_dry(self) -> bool {
        self == Self::DryRun
    }
}

/// What an act would change of what a channel shows. What listings owe anyway, because stock was
/// sold or changed, is not in it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImpactView {
    /// The channel's listings that take part.
    listings: u64,
    /// Listings that would be told another number.
    changes: u64,
    /// Listings of them that would be told zero.
    zeroes: u64,
    /// Listings that would be told more than they show.
    raises: u64,
    /// Listings that would be told less than they show, but not zero.
    lowers: u64,
    /// Listings of which it is not known what they show.
    unknown: u64,
    /// Channels' own changes that would be carried into master.
    adopted: u64,
    /// Differences that would wait for an operator.
    conflicts: u64,
    /// The first 1000 changes, or a page of the first 10 000.
    items: Vec<EffectView>,
    /// Where the next page begins, where the list has pages; null at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    next_cursor: Option<String>,
}

/// What would change of one listing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EffectView {
    sku: String,
    /// The listing's key on the channel.
    listing: String,
    /// What it shows, as far as known.
    before: Option<i64>,
    /// What it would be told.
    quantity: i64,
}

impl From<Effect> for EffectView {
    fn from(effect: Effect) -> Self {
        Self {
            sku: effect.sku.as_str().to_owned(),
            listing: effect.key.as_str().to_owned(),
            before: effect.shows,
            quantity: effect.would,
        }
    }
}

impl From<Impact> for ImpactView {
    fn from(impact: Impact) -> Self {
        Self {
            listings: impact.listings,
            changes: impact.changes(),
            zeroes: impact.zeroes,
            raises: impact.raises,
            lowers: impact.lowers,
            unknown: impact.unknown,
            adopted: impact.adopted,
            conflicts: impact.conflicts,
            items: impact.effects.into_iter().take(ITEMS_MAX).map(EffectView::from).collect(),
            next_cursor: None,
        }
    }
}

impl ImpactView {
    /// Makes a page of the changes.
    fn page(mut impact: Impact, from: usize, limit: usize) -> Self {
        let effects = std::mem::take(&mut impact.effects);
        let Listed { items, next_cursor } =
            Listed::slice(LIST, effects, from, limit, EffectView::from);
        Self { items, next_cursor, ..Self::from(impact) }
    }
}

// --- Trying settings ----------------------------------------------------------------------

/// Settings of a channel to be tried; what is not given stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"buffer": 2, "conflictStrategy": "lower_wins"}))]
struct WhatIfBody {
    /// What happens when master and channel disagree.
    conflict_strategy: Option<StrategyWord>,
    /// Units kept off the channel.
    buffer: Option<Units>,
    /// The share offered, 0 to 100.
    percent: Option<Units>,
    /// The most that is shown.
    max_quantity: Option<Units>,
    /// Below this, zero is shown.
    zero_below: Option<Units>,
}

impl TryFrom<WhatIfBody> for WhatIf {
    type Error = Problem;

    fn try_from(body: WhatIfBody) -> Result<Self, Problem> {
        let rules = RuleSettings {
            buffer: body.buffer.map(Units::get),
            percent: percent("/percent", body.percent)?,
            max_quantity: body.max_quantity.map(Units::get),
            zero_below: body.zero_below.map(Units::get),
            ..RuleSettings::default()
        };
        Ok(Self { rules, strategy: body.conflict_strategy.map(Strategy::from) })
    }
}

const LIST: &str = "impact";

/// Says what other settings of a channel would change of what it shows; nothing is done.
///
/// A strategy is tried on what listings showed when they were last read: `adopted` and
/// `conflicts` say what it would make of differences that are not settled.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/what-if",
    operation_id = "what_if", tag = "channels",
    params(("channelId" = String, Path, description = "The channel"), PageParams),
    request_body = WhatIfBody,
    responses((status = 200, description = "What would change", body = ImpactView),
        (status = 404, description = "`channel_not_found`")))]
async fn what_if(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let from = query.cursor(LIST, |position| position.parse().ok())?.unwrap_or(0);
    let limit = query.limit()?;
    query.finish()?;
    let body: WhatIfBody = incoming.json_or_default()?;
    let asked = WhatIf::try_from(body)?;
    let impact = app.engine.impact_of_settings(&caller.org, &channel, &asked).await?;
    Ok(Reply::ok(&ImpactView::page(impact, from, limit)))
}

/// Settings to be tried on what has happened; what is not given stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"buffer": 2, "from": "2026-04-01T00:00:00Z"}))]
struct BacktestBody {
    /// What happens when master and channel disagree.
    conflict_strategy: Option<StrategyWord>,
    /// Units kept off the channel.
    buffer: Option<Units>,
    /// The share offered, 0 to 100.
    percent: Option<Units>,
    /// The most that is shown.
    max_quantity: Option<Units>,
    /// Below this, zero is shown.
    zero_below: Option<Units>,
    /// From this instant on; by default 30 days before the end.
    #[schema(value_type = Option<String>)]
    from: Option<TimeText>,
    /// Up to this instant; by default now.
    #[schema(value_type = Option<String>)]
    to: Option<TimeText>,
    /// Only these SKUs; by default all that the channel has listings of.
    skus: Option<Vec<SkuText>>,
}

/// How far back is looked when nothing is said, in milliseconds.
const BACKTEST_MS_DEFAULT: i64 = 30 * 24 * 3_600 * 1_000;

/// What other settings would have made of what has happened. Units are of SKUs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BacktestView {
    from: Time,
    to: Time,
    /// In one sentence.
    summary: String,
    /// SKUs that were gone through.
    skus: u64,
    /// Listings that were left out: bundles, and a SKU's listings but the first.
    left_out: u64,
    /// Ledger lines that were gone through, at most 200 000.
    lines: u64,
    /// Whether there were more: what is left was not looked at.
    cut: bool,
    /// Units that the channel sold.
    sold: u64,
    /// Sales of the channel that promised more than there was.
    oversells: u64,
    /// Units that were promised and were not there.
    oversold_units: u64,
    /// Oversells that the settings would have avoided as a whole.
    oversells_avoided: u64,
    /// Units that would not have been promised.
    units_avoided: u64,
    /// Units that were sold, were there, and would not have been offered.
    units_missed: u64,
    /// Units that would be hidden at the end beyond those that are.
    units_hidden: u64,
    /// The same, on average over the window.
    units_hidden_average: u64,
    /// Changes of the channel's own that were adopted or waited for an operator.
    differences: u64,
    /// How many of them would have been carried into master.
    adopted: u64,
    /// How many would have waited for an operator.
    conflicts: u64,
}

impl BacktestView {
    fn of(request: &BacktestRequest, found: &Backtest) -> Self {
        let summary = format!(
            "{} of {} oversells avoided, {} units hidden, {} sales' units missed",
            found.avoided, found.oversells, found.hidden_units, found.missed_units
        );
        Self {
            from: Time(request.from),
            to: Time(request.to),
            summary,
            skus: found.skus,
            left_out: found.left_out,
            lines: found.lines,
            cut: found.is_cut,
            sold: found.sold,
            oversells: found.oversells,
            oversold_units: found.oversold_units,
            oversells_avoided: found.avoided,
            units_avoided: found.avoided_units,
            units_missed: found.missed_units,
            units_hidden: found.hidden_units,
            units_hidden_average: found.hidden_average,
            differences: found.differences,
            adopted: found.adopted,
            conflicts: found.conflicts,
        }
    }
}

/// Tries settings of a channel on what has happened: how many oversells they would have avoided,
/// and at what price.
///
/// The ledger's lines of the window are gone through once, with the rules in force and with
/// those. What the channel showed at each instant is not recorded: a sale is taken to have been
/// made on the newest number that allowed it.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/backtest",
    operation_id = "backtest", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    request_body = BacktestBody,
    responses((status = 200, description = "What would have come of it", body = BacktestView),
        (status = 400, description = "`invalid_window`"),
        (status = 404, description = "`channel_not_found`")))]
async fn backtest(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let body: BacktestBody = incoming.json_or_default()?;
    if let Some(skus) = &body.skus {
        check_len("/skus", skus.len(), SKUS_MAX)?;
    }
    let to = body.to.map_or_else(|| app.now(), |TimeText(at)| at);
    let Window { from, to } =
        Window::new("/from", body.from.map(|TimeText(at)| at), to, BACKTEST_MS_DEFAULT)?;
    let settings = WhatIf::try_from(WhatIfBody {
        conflict_strategy: body.conflict_strategy,
        buffer: body.buffer,
        percent: body.percent,
        max_quantity: body.max_quantity,
        zero_below: body.zero_below,
    })?;
    let skus = body.skus.map(|skus| skus.into_iter().map(|SkuText(sku)| sku).collect());
    let request = BacktestRequest { settings, from, to, skus };
    let found = Box::pin(app.engine.backtest(&caller.org, &channel, &request)).await?;
    Ok(Reply::ok(&BacktestView::of(&request, &found)))
}

// --- The limits ---------------------------------------------------------------------------

/// How much of a channel one act may change before an operator is asked; absent or null = the
/// default.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"zeroPercent": 10, "zeroNumber": 200}))]
struct BlastRadiusBody {
    /// The share of the listings that may be told zero; by default 20.
    zero_percent: Option<Units>,
    /// How many listings may be told zero, whatever their share; by default only the share counts.
    zero_number: Option<Units>,
    /// The share of the listings that may be told another number; by default 80.
    change_percent: Option<Units>,
    /// How many listings may be told another number, whatever their share; by default only the
    /// share counts.
    change_number: Option<Units>,
}

/// How much of a channel one act may change before an operator is asked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BlastRadiusView {
    /// The share of the listings that may be told zero.
    zero_percent: u8,
    /// How many listings may be told zero, whatever their share; null = only the share counts.
    zero_number: Option<u64>,
    /// So many listings may be told zero whatever their share.
    zeroes_free: u64,
    /// The share of the listings that may be told another number.
    change_percent: u8,
    /// How many listings may be told another number, whatever their share; null = only the share
    /// counts.
    change_number: Option<u64>,
    /// So many listings may be told another number whatever their share.
    changes_free: u64,
}

impl From<BlastRadius> for BlastRadiusView {
    fn from(limits: BlastRadius) -> Self {
        Self {
            zero_percent: limits.zero_percent.unwrap_or(ZERO_PERCENT_MAX),
            zero_number: limits.zero_number,
            zeroes_free: ZEROES_FREE_MAX,
            change_percent: limits.change_percent.unwrap_or(CHANGE_PERCENT_MAX),
            change_number: limits.change_number,
            changes_free: CHANGES_FREE_MAX,
        }
    }
}

impl TryFrom<BlastRadiusBody> for BlastRadius {
    type Error = Problem;

    fn try_from(body: BlastRadiusBody) -> Result<Self, Problem> {
        let number = |units: Option<Units>| units.map(|units| units.get().get());
        Ok(Self {
            zero_percent: percent("/zeroPercent", body.zero_percent)?,
            zero_number: number(body.zero_number),
            change_percent: percent("/changePercent", body.change_percent)?,
            change_number: number(body.change_number),
        })
    }
}

/// Returns how much of a channel one act may change before an operator is asked.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}/blast-radius",
    operation_id = "blast_radius", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    responses((status = 200, description = "The limits in force", body = BlastRadiusView),
        (status = 404, description = "`channel_not_found`")))]
async fn get(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let row = connection(&app, &caller.org, &path.channel()?).await?;
    Ok(Reply::ok(&BlastRadiusView::from(row.blast_radius)))
}

/// Sets how much of a channel one act may change before an operator is asked.
///
/// A push or pull that would change more is `held`: see
/// `POST /sales-channel/sync/runs/{id}/confirm`. Settings, mappings and imports that would are
/// refused with 409 `blast_radius` until they are asked for with `confirm=true`. What was sold
/// is never held.
#[utoipa::path(put, path = "/sales-channel/channels/{channelId}/blast-radius",
    operation_id = "set_blast_radius", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    request_body = BlastRadiusBody,
    responses((status = 200, description = "The limits in force", body = BlastRadiusView),
        (status = 404, description = "`channel_not_found`")))]
async fn put(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let body: BlastRadiusBody = incoming.json()?;
    let limits = BlastRadius::try_from(body)?;
    let work = async {
        let row = app.engine.set_blast_radius(&caller.org, &channel, limits).await?;
        let view = BlastRadiusView::from(row.blast_radius);
        let deed = Deed::new("blast_radius_changed").on(&channel);
        let limits = serde_json::json!({
            "zeroPercent": view.zero_percent, "zeroNumber": view.zero_number,
            "changePercent": view.change_percent, "changeNumber": view.change_number,
        });
        audit::note(&app, &caller, deed.with("limits", limits)).await;
        Ok(Reply::ok(&view))
    };
    incoming.once(&app, &caller, work).await
}
