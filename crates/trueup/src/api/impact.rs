//! What an act would change: the report of every dry run, and of what is too wide to be done
//! without being asked. And how wide that is, channel by channel.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use trueup_store::BlastRadius;
use trueup_sync::{
    CHANGE_PERCENT_MAX, CHANGES_FREE_MAX, Effect, Impact, ZERO_PERCENT_MAX, ZEROES_FREE_MAX,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body::Units;
use crate::api::channels::percent;
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{NoParams, Params};
use crate::api::mappings::connection;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::{Answered, AppState};

/// The most changes that are told one by one.
const ITEMS_MAX: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get, put))
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
    /// Differences that would wait for an operator.
    conflicts: u64,
    /// The first 1000 changes.
    items: Vec<EffectView>,
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
            conflicts: impact.conflicts,
            items: impact.effects.into_iter().take(ITEMS_MAX).map(EffectView::from).collect(),
        }
    }
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
