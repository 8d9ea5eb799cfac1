//! Histories: the ledger of a SKU, and what was synced when.

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use trueup_core::{Movement, MovementKind};
use trueup_store::{HistoryEntry, HistoryQuery, MovementQuery};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Caller, Read, Segments};
use crate::api::inventory::sku_not_found;
use crate::api::lists::{Listed, PageParams, Params};
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(ledger)).routes(routes!(sync_history))
}

/// One line of a SKU's ledger.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MovementView {
    /// The line's number, and the SKU's version after it.
    seq: u64,
    at: Time,
    /// `count`, `adjust`, `reserve`, `release`, `commit`, `expire`, `channel_sale`,
    /// `channel_return`, `channel_adopted`, `settings` or `bundle`.
    kind: &'static str,
    location_id: String,
    /// Change of what is on hand.
    delta: i64,
    /// Change of what is reserved.
    reserved_delta: i64,
    quantity_after: i64,
    reserved_after: u64,
    reason: Option<String>,
    /// Who.
    actor: String,
    /// `api`, `import`, `expiry`, `channel`, `pull` or `replay`.
    source: &'static str,
    /// The reservation or order that it belongs to.
    reference: Option<String>,
    /// When a count was taken, where it was recorded later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    counted_at: Option<Time>,
}

impl From<Movement> for MovementView {
    fn from(movement: Movement) -> Self {
        let counted_at = movement.counted_at();
        let counted_at = (counted_at != movement.at).then_some(Time(counted_at));
        let reference = movement.reference.as_deref().filter(|_| counted_at.is_none());
        Self {
            seq: movement.seq,
            at: Time(movement.at),
            kind: movement.kind.as_str(),
            location_id: movement.location.as_str().to_owned(),
            delta: movement.delta.get(),
            reserved_delta: movement.reserved_delta.get(),
            quantity_after: movement.quantity_after.get(),
            reserved_after: movement.reserved_after.get(),
            reason: movement.reason.as_deref().map(str::to_owned),
            actor: movement.actor.as_ref().to_owned(),
            source: movement.source.as_str(),
            reference: reference.map(str::to_owned),
            counted_at,
        }
    }
}

/// One entry of the sync history.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HistoryView {
    id: String,
    at: Time,
    /// `inventory_push`, `inventory_pull`, `inventory_conflict`, `mapping_missing`, `webhook`,
    /// `administration`, …
    operation: String,
    channel_id: Option<String>,
    sku: Option<String>,
    /// `ok`, `error`, `open`, `resolved`, `warning`, …
    status: String,
    run_id: Option<String>,
    /// What else there is to say, by operation.
    #[schema(value_type = Object)]
    detail: Value,
}

impl From<HistoryEntry> for HistoryView {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            id: entry.id.to_string(),
            at: Time(entry.at),
            operation: entry.operation,
            channel_id: entry.channel.map(|channel| channel.as_str().to_owned()),
            sku: entry.sku.map(|sku| sku.as_str().to_owned()),
            status: entry.status,
            run_id: entry.run,
            detail: entry.detail,
        }
    }
}

const LEDGER: &str = "movements";

/// Returns a SKU's ledger, newest first.
#[utoipa::path(get, path = "/sales-channel/inventory/{sku}/history", tag = "inventory",
    params(("sku" = String, Path, description = "The SKU, percent-encoded"), PageParams,
        ("from" = Option<String>, Query, description = "At or after this instant"),
        ("to" = Option<String>, Query, description = "Before this instant"),
        ("kind" = Option<String>, Query, description = "Only lines of this kind")),
    responses((status = 200, description = "A page", body = Listed<MovementView>),
        (status = 404, description = "`sku_not_found`")))]
async fn ledger(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let sku = path.sku()?;
    let filter = MovementQuery {
        from: query.time("from")?,
        to: query.time("to")?,
        kind: query.read("kind", "is not a kind of ledger line", MovementKind::parse)?,
        before_seq: query.cursor(LEDGER, |position| position.parse().ok())?,
        after_seq: None,
        limit: query.limit()?,
    };
    query.finish()?;
    let page = app.store.movements(&caller.org, &sku, filter).await?;
    if page.items.is_empty() && app.store.sku(&caller.org, &sku).await?.is_none() {
        return Err(sku_not_found(&sku));
    }
    let position = |movement: &Movement| movement.seq.to_string();
    Ok(Reply::ok(&Listed::page(LEDGER, page, position, MovementView::from)))
}

const HISTORY: &str = "history";

/// Returns what was synced, newest first.
#[utoipa::path(get, path = "/sales-channel/sync/history", tag = "sync",
    params(PageParams,
        ("operation" = Option<String>, Query, description = "`inventory_push`, \
            `inventory_pull`, `inventory_conflict`, `mapping_missing`, `webhook`, \
            `administration` (what was done to channels, mappings, keys and subscriptions, and \
            by whom), …"),
        ("channel" = Option<String>, Query, description = "Only of this channel"),
        ("sku" = Option<String>, Query, description = "Only of this SKU"),
        ("status" = Option<String>, Query, description = "Only with this status"),
        ("from" = Option<String>, Query, description = "At or after this instant"),
        ("to" = Option<String>, Query, description = "Before this instant")),
    responses((status = 200, description = "A page", body = Listed<HistoryView>)))]
async fn sync_history(
    State(app): State<AppState>,
    caller: Caller<Read>,
    mut query: Params,
) -> Answered {
    let filter = HistoryQuery {
        operation: query.text("operation")?,
        channel: query.channel("channel")?,
        sku: query.sku("sku")?,
        status: query.text("status")?,
        from: query.time("from")?,
        to: query.time("to")?,
        before: query.cursor(HISTORY, |position| position.parse().ok())?,
        limit: query.limit()?,
    };
    query.finish()?;
    let page = app.store.history(&caller.org, filter).await?;
    let position = |entry: &HistoryEntry| entry.id.to_string();
    Ok(Reply::ok(&Listed::page(HISTORY, page, position, HistoryView::from)))
}
