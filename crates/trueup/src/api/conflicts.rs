//! The manual queue: differences that wait for an operator.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use trueup_core::Resolution;
use trueup_store::Conflict;
use trueup_sync::Reopened;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::body::{FreeText, Units};
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{Listed, NoParams, PageParams, Params};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(resolve)).routes(routes!(undo))
}

/// How to end a conflict.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"resolution": "quantity", "quantity": 40, "note": "counted again"}))]
struct ResolveBody {
    /// `master`: push it; `channel`: carry its change into master; `quantity`: neither.
    resolution: ResolutionWord,
    /// What is on hand, with `quantity`.
    quantity: Option<Units>,
    /// Why, for the history.
    note: Option<FreeText>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ResolutionWord {
    Master,
    Channel,
    Quantity,
}

fn resolution(body: &ResolveBody) -> Result<Resolution, Problem> {
    match (body.resolution, body.quantity) {
        (ResolutionWord::Master, None) => Ok(Resolution::Master),
        (ResolutionWord::Channel, None) => Ok(Resolution::Channel),
        (ResolutionWord::Quantity, Some(units)) => Ok(Resolution::Quantity(units.get())),
        (ResolutionWord::Quantity, None) => {
            let detail = "\"quantity\" is required with this resolution";
            Err(Problem::field("/quantity", "missing_field", detail))
        }
        (ResolutionWord::Master | ResolutionWord::Channel, Some(_)) => {
            let detail = "goes with the resolution \"quantity\" only";
            Err(Problem::field("/quantity", "unexpected_field", detail))
        }
    }
}

/// A difference that waits, or waited, for an operator.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ConflictView {
    id: String,
    channel_id: String,
    sku: String,
    /// The listing's key on the channel.
    listing: String,
    /// `open` or `resolved`.
    status: &'static str,
    /// On hand in the ledger when it was last seen.
    master: i64,
    /// What the channel had last acknowledged.
    base: Option<i64>,
    /// What it should have shown.
    expected: i64,
    /// What it showed.
    observed: i64,
    opened_at: Time,
    seen_at: Time,
    resolved: Option<ResolvedView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ResolvedView {
    at: Time,
    by: String,
    resolution: String,
    note: Option<String>,
}

impl From<Conflict> for ConflictView {
    fn from(conflict: Conflict) -> Self {
        Self {
            id: conflict.id.to_string(),
            channel_id: conflict.channel.as_str().to_owned(),
            sku: conflict.sku.as_str().to_owned(),
            listing: conflict.key.as_str().to_owned(),
            status: if conflict.resolved.is_some() { "resolved" } else { "open" },
            master: conflict.master,
            base: conflict.base,
            expected: conflict.expected,
            observed: conflict.observed,
            opened_at: Time(conflict.opened_at),
            seen_at: Time(conflict.seen_at),
            resolved: conflict.resolved.map(|resolved| ResolvedView {
                at: Time(resolved.at),
                by: resolved.by,
                resolution: resolved.resolution,
                note: resolved.note,
            }),
        }
    }
}

const LIST: &str = "conflicts";

/// Lists conflicts, newest first; by default those that are open.
#[utoipa::path(get, path = "/sales-channel/inventory/conflicts", tag = "sync",
    params(PageParams,
        ("channel" = Option<String>, Query, description = "Only of this channel"),
        ("status" = Option<String>, Query, description = "`open` (default), `resolved`, `all`")),
    responses((status = 200, description = "A page", body = Listed<ConflictView>)))]
async fn list(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let status = query.read("status", "must be open, resolved or all", |text| match text {
        "open" => Some(Some(true)),
        "resolved" => Some(Some(false)),
        "all" => Some(None),
        _ => None,
    })?;
    let open = status.unwrap_or(Some(true));
    let channel = query.channel("channel")?;
    let before = query.cursor(LIST, |position| position.parse().ok())?;
    let limit = query.limit()?;
    query.finish()?;
    let store = &app.store;
    let page = store.conflicts(&caller.org, open, channel.as_ref(), before, limit).await?;
    let position = |conflict: &Conflict| conflict.id.to_string();
    Ok(Reply::ok(&Listed::page(LIST, page, position, ConflictView::from)))
}

/// Ends a conflict.
#[utoipa::path(post, path = "/sales-channel/inventory/conflicts/{id}/resolve", tag = "sync",
    params(("id" = String, Path, description = "The conflict")),
    request_body = ResolveBody,
    responses((status = 200, description = "It is resolved", body = ConflictView),
        (status = 404, description = "`conflict_not_found`"),
        (status = 409, description = "`conflict_resolved`")))]
async fn resolve(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let not_found = || Problem::not_found("conflict_not_found", "there is no such conflict");
    let id: u64 = path.text("id").parse().map_err(|_| not_found())?;
    let body: ResolveBody = incoming.json()?;
    let resolution = resolution(&body)?;
    let note = body.note.map(|note| note.0);
    let work = async {
        let org = &caller.org;
        let ended = app.engine.resolve(org, id, resolution, note, &caller.actor).await?;
        Ok(Reply::ok(&ConflictView::from(ended)))
    };
    incoming.once(&app, &caller, work).await
}

/// Why the end of a conflict is taken back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UndoBody {
    /// For the ledger and the history.
    note: Option<FreeText>,
}

/// A conflict that waits again, and what its end had changed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReopenedView {
    /// It has an id of its own.
    #[serde(flatten)]
    conflict: ConflictView,
    /// The conflict whose end was taken back.
    reopens: String,
    /// By how many units its end had changed the master.
    carried: i64,
    /// By how many units the master was put back.
    restored: i64,
    /// Why the master was not put back by as much as it was changed by.
    why_less: Option<&'static str>,
}

impl ReopenedView {
    fn of(id: u64, reopened: Reopened) -> Self {
        let Reopened { conflict, carried, restored } = reopened;
        let less = "orders have explained the rest since, or it is promised to somebody";
        Self {
            conflict: conflict.into(),
            reopens: id.to_string(),
            carried,
            restored,
            why_less: (restored != -carried).then_some(less),
        }
    }
}

/// Takes the end of a conflict back: the listing waits for an operator again, as a new conflict.
///
/// What the end changed of the master is put back by a ledger entry of kind `adjust`: not what an
/// order has explained since, because that was sold, and no more than is free. Only the newest
/// conflict of a listing can be opened again.
#[utoipa::path(post, path = "/sales-channel/inventory/conflicts/{id}/undo",
    operation_id = "undo_resolve", tag = "sync",
    params(("id" = String, Path, description = "The conflict")),
    request_body(content = Option<UndoBody>, description = "Why"),
    responses((status = 200, description = "It waits again", body = ReopenedView),
        (status = 404, description = "`conflict_not_found`"),
        (status = 409, description = "`conflict_not_reopenable`, `push_under_way`")))]
async fn undo(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let not_found = || Problem::not_found("conflict_not_found", "there is no such conflict");
    let id: u64 = path.text("id").parse().map_err(|_| not_found())?;
    let body: UndoBody = incoming.json_or_default()?;
    let note = body.note.map(|note| note.0);
    let work = async {
        let reopened = app.engine.reopen(&caller.org, id, note, &caller.actor).await?;
        Ok(Reply::ok(&ReopenedView::of(id, reopened)))
    };
    incoming.once(&app, &caller, work).await
}
