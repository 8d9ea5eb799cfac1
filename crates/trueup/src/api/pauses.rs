//! Pausing SKUs, and everything: nothing is sent, what is owed is kept.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use trueup_core::Sku;
use trueup_store::Pause;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body::FreeText;
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{NoParams, PageParams, Params, seal_cursor};
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, App, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(pause_sku))
        .routes(routes!(resume_sku))
}

/// Why something is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"note": "stocktaking"}))]
struct PauseBody {
    /// For the history.
    note: Option<FreeText>,
}

/// That something is paused, and by whom.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PauseView {
    /// The SKU; null = everything.
    sku: Option<String>,
    since: Time,
    by: String,
    note: Option<String>,
}

impl From<Pause> for PauseView {
    fn from(pause: Pause) -> Self {
        Self {
            sku: pause.sku.map(|sku| sku.as_str().to_owned()),
            since: Time(pause.at),
            by: pause.actor,
            note: pause.note,
        }
    }
}

/// What is paused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PausesView {
    /// Everything; null where it is not.
    org: Option<PauseView>,
    /// SKUs, by SKU.
    items: Vec<PauseView>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

const LIST: &str = "pauses";

/// Lists what is paused: everything or not, and SKUs.
#[utoipa::path(get, path = "/sales-channel/sync/paused", operation_id = "pauses", tag = "sync",
    params(PageParams),
    responses((status = 200, description = "What is paused", body = PausesView)))]
async fn list(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let after = query.cursor(LIST, |position| Sku::new(position).ok())?;
    let limit = query.limit()?;
    query.finish()?;
    let found = app.engine.pauses(&caller.org, after.as_ref(), limit).await?;
    let last = found.skus.items.last().filter(|_| found.skus.more);
    let last = last.and_then(|last| last.sku.as_ref());
    Ok(Reply::ok(&PausesView {
        next_cursor: last.map(|sku| seal_cursor(LIST, sku.as_str())),
        org: found.org.map(PauseView::from),
        items: found.skus.items.into_iter().map(PauseView::from).collect(),
    }))
}

async fn begin(app: &App, caller: &Caller<Admin>, sku: Option<&Sku>, body: PauseBody) -> Answered {
    let note = body.note.map(|note| note.0);
    let pause = app.engine.pause(&caller.org, sku, note.clone(), &caller.actor).await?;
    let deed = match sku {
        Some(sku) => Deed::new("sku_paused").of(sku),
        None => Deed::new("all_paused"),
    };
    audit::note(app, caller, deed.with("note", note)).await;
    Ok(Reply::ok(&PauseView::from(pause)))
}

async fn end(app: &App, caller: &Caller<Admin>, sku: Option<&Sku>) -> Answered {
    let was_paused = app.engine.unpause(&caller.org, sku).await?;
    if was_paused {
        let deed = match sku {
            Some(sku) => Deed::new("sku_resumed").of(sku),
            None => Deed::new("all_resumed"),
        };
        audit::note(app, caller, deed).await;
    }
    Ok(Reply::ok(&json!({ "wasPaused": was_paused })))
}

/// Pauses everything: nothing is sent to any channel, not even zeroes; what is owed is kept.
///
/// Orders are heard and booked, and channels are read, all the same.
#[utoipa::path(post, path = "/sales-channel/sync/pause", operation_id = "pause_all", tag = "sync",
    request_body(content = Option<PauseBody>, description = "Why"),
    responses((status = 200, description = "Everything is paused", body = PauseView)))]
async fn pause(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let body: PauseBody = incoming.json_or_default()?;
    incoming.once(&app, &caller, begin(&app, &caller, None, body)).await
}

/// Lets everything go on: what is owed by now is sent, zeroes first. What is paused by itself
/// stays so.
#[utoipa::path(post, path = "/sales-channel/sync/resume", operation_id = "resume_all",
    tag = "sync",
    responses((status = 200, description = "`{wasPaused}`", body = Object)))]
async fn resume(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    incoming.once(&app, &caller, end(&app, &caller, None)).await
}

/// Pauses a SKU: no channel is told its number, not even zero; what is owed is kept.
#[utoipa::path(post, path = "/sales-channel/inventory/{sku}/pause", operation_id = "pause_sku",
    tag = "sync",
    params(("sku" = String, Path, description = "The SKU, percent-encoded")),
    request_body(content = Option<PauseBody>, description = "Why"),
    responses((status = 200, description = "It is paused", body = PauseView),
        (status = 404, description = "`sku_not_found`")))]
async fn pause_sku(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let sku = path.sku()?;
    let body: PauseBody = incoming.json_or_default()?;
    incoming.once(&app, &caller, begin(&app, &caller, Some(&sku), body)).await
}

/// Lets a SKU go on: what is owed by now is sent.
#[utoipa::path(post, path = "/sales-channel/inventory/{sku}/resume", operation_id = "resume_sku",
    tag = "sync",
    params(("sku" = String, Path, description = "The SKU, percent-encoded")),
    responses((status = 200, description = "`{wasPaused}`", body = Object)))]
async fn resume_sku(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let sku = path.sku()?;
    incoming.once(&app, &caller, end(&app, &caller, Some(&sku))).await
}
