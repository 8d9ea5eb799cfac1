//! Starting pushes and pulls.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trueup_core::{Org, Sku, Strategy};
use trueup_sync::{PullRequest, PushScope};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::body::{ITEMS_MAX, SkuText, Strict, Units, check_len};
use crate::api::channels::StrategyWord;
use crate::api::extract::{Caller, Segments, Sync};
use crate::api::idempotency::Incoming;
use crate::api::lists::NoParams;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::runs::{self, Begun, Doing, RunView};
use crate::api::{Answered, App, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(push)).routes(routes!(push_all)).routes(routes!(pull))
}

/// What to push; without it, every mapped SKU.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"items": [{"sku": "SKU-100", "quantity": 42}]}))]
struct PushBody {
    /// Only these SKUs.
    #[schema(value_type = Option<Vec<PushItemBody>>)]
    items: Option<Vec<Strict<PushItemBody>>>,
    /// Say what would be told, tell nothing: the run then has `changes`, `zeroes`, `raises`,
    /// `lowers`, `unknown` and `conflicts`, and an item for each change.
    dry_run: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PushItemBody {
    sku: SkuText,
    /// What to publish to that channel now, in place of the computed number; the master stays
    /// as it is.
    quantity: Option<Units>,
}

/// What to read back and how to settle it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"skus": ["SKU-100"], "dryRun": true}))]
struct PullBody {
    /// Only these SKUs; by default every mapped one.
    skus: Option<Vec<SkuText>>,
    /// Say what would happen, change nothing.
    dry_run: Option<bool>,
    /// In place of the configured strategies.
    strategy: Option<StrategyWord>,
}

/// The runs of a push to all channels.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RunsView {
    /// The fan-out; see `GET /sales-channel/sync/runs/{runId}`.
    run_id: String,
    runs: Vec<RunView>,
    /// Channels that nothing was begun on: `{channelId, code, detail}`, such as paused ones.
    #[schema(value_type = Vec<Object>)]
    skipped: Vec<Value>,
}

fn asked(body: PushBody) -> Result<(PushScope, Doing), Problem> {
    let doing = if body.dry_run.unwrap_or(false) { Doing::Rehearse } else { Doing::Push };
    let Some(items) = body.items else { return Ok((PushScope::All, doing)) };
    check_len("/items", items.len(), ITEMS_MAX)?;
    let item = |Strict(item): Strict<PushItemBody>| (item.sku.0, item.quantity.map(Units::get));
    Ok((PushScope::Items(items.into_iter().map(item).collect()), doing))
}

/// Pushes SKUs, or all of them, to one channel.
///
/// Waits for the run as long as `Prefer: wait=N` says (25 seconds by default, at most 60). A SKU
/// without a mapping is skipped with the warning `mapping_missing`.
#[utoipa::path(post, path = "/sales-channel/inventory/sync/{channelId}", tag = "sync",
    params(("channelId" = String, Path, description = "The channel", example = "shopify"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` seconds")),
    request_body(content = Option<PushBody>, description = "None = every mapped SKU"),
    responses((status = 200, description = "The run has ended", body = RunView),
        (status = 202, description = "The run so far", body = RunView,
            headers(("Location" = String, description = "Where to look"))),
        (status = 404, description = "`channel_not_found`"),
        (status = 409, description = "`channel_paused`")))]
async fn push(
    State(app): State<AppState>,
    caller: Caller<Sync>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let wait = runs::wait(incoming.headers())?;
    let (scope, doing) = asked(incoming.json_or_default()?)?;
    let work = async {
        let id = doing.begin(&app, &caller.org, &channel, scope, None).await?;
        runs::answer(&app, &caller.org, &id, wait).await
    };
    incoming.once(&app, &caller, work).await
}

/// Pushes SKUs, or all of them, to every connected channel.
///
/// One channel being down does not hold up the others.
#[utoipa::path(post, path = "/sales-channel/inventory/sync", tag = "sync",
    params(("Prefer" = Option<String>, Header, description = "`wait=N` seconds")),
    request_body(content = Option<PushBody>, description = "None = every mapped SKU"),
    responses((status = 200, description = "All runs have ended", body = RunsView),
        (status = 202, description = "The runs so far", body = RunsView,
            headers(("Location" = String, description = "Where to look")))))]
async fn push_all(
    State(app): State<AppState>,
    caller: Caller<Sync>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let wait = runs::wait(incoming.headers())?;
    let asked = asked(incoming.json_or_default()?)?;
    let work = push_everywhere(&app, &caller.org, asked, wait);
    incoming.once(&app, &caller, work).await
}

async fn push_everywhere(
    app: &App,
    org: &Org,
    (scope, doing): (PushScope, Doing),
    wait: Duration,
) -> Answered {
    let id = runs::new_fan_out_id(app);
    let (begun, paused) = runs::fan_out(app, org, &id, &scope, doing).await?;
    let paused = paused.iter().map(|connection| {
        let detail = "the channel is paused; its work is kept";
        json!({"channelId": connection.id.as_str(), "code": "channel_paused", "detail": detail})
    });
    let mut skipped: Vec<Value> = paused.collect();
    let mut running = Vec::new();
    for Begun { channel, run } in begun {
        match run {
            Ok(run) => running.push(run),
            Err(error) => {
                let problem = Problem::from(error);
                skipped.push(json!({
                    "channelId": channel.as_str(),
                    "code": problem.code(),
                    "detail": problem.detail(),
                }));
            }
        }
    }
    let (ended, status) = runs::wait_all(app, org, &running, wait).await?;
    let runs = ended.into_iter().map(RunView::from).collect();
    let view = RunsView { run_id: id.clone(), runs, skipped };
    Ok(runs::with_location(Reply::json(status, &view), status, &id))
}

/// Reads a channel back and settles the differences.
#[utoipa::path(post, path = "/sales-channel/inventory/pull/{channelId}", tag = "sync",
    params(("channelId" = String, Path, description = "The channel", example = "amazon"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` seconds")),
    request_body(content = Option<PullBody>, description = "None = every mapped SKU"),
    responses((status = 200, description = "The run has ended", body = RunView),
        (status = 202, description = "The run so far", body = RunView,
            headers(("Location" = String, description = "Where to look"))),
        (status = 404, description = "`channel_not_found`"),
        (status = 409, description = "`channel_paused`")))]
async fn pull(
    State(app): State<AppState>,
    caller: Caller<Sync>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let wait = runs::wait(incoming.headers())?;
    let body: PullBody = incoming.json_or_default()?;
    if let Some(skus) = &body.skus {
        check_len("/skus", skus.len(), ITEMS_MAX)?;
    }
    let bare = |SkuText(sku): SkuText| -> Sku { sku };
    let request = PullRequest {
        skus: body.skus.map(|skus| skus.into_iter().map(bare).collect()),
        dry_run: body.dry_run.unwrap_or(false),
        strategy: body.strategy.map(Strategy::from),
    };
    let work = async {
        let id = app.engine.pull(&caller.org, &channel, request).await?;
        runs::answer(&app, &caller.org, &id, wait).await
    };
    incoming.once(&app, &caller, work).await
}
