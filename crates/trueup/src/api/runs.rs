//! Runs: one push, pull or discovery over one channel, or one push fanned out over all of them.
//!
//! A fan-out has an id `X`, its members have ids `X.<channelId>`. Both can be asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use trueup_core::{ChannelId, Org, Sku, Timestamp};
use trueup_store::{Connection, ConnectionState, Run, RunQuery, RunStatus, StoreError};
use trueup_sync::{EngineError, PushScope};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::{Incoming, Submitted};
use crate::api::inventory::LOCATION;
use crate::api::lists::{Listed, NoParams, PageParams, Params};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, App, AppState};

/// Seconds that a POST waits for its run when nothing is said.
const WAIT_SECONDS_DEFAULT: u64 = 25;
/// The most seconds it can be told to wait.
const WAIT_SECONDS_MAX: u64 = 60;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(confirm))
        .routes(routes!(cancel))
        .routes(routes!(undo))
        .routes(routes!(items))
}

// --- Views --------------------------------------------------------------------------------

/// The push that a change asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SyncView<'a> {
    /// The run; see `GET /sales-channel/sync/runs/{runId}`.
    run_id: &'a str,
}

impl<'a> SyncView<'a> {
    pub(super) fn of(run_id: &'a str) -> Self {
        Self { run_id }
    }
}

/// One push, pull or discovery over a channel.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "runId": "01989c1e.shopify", "operation": "inventory_push", "channelId": "shopify",
    "status": "completed", "dryRun": false, "total": 1, "pushed": 1, "skipped": 0, "failed": 0,
    "warnings": [], "startedAt": "2026-04-25T10:00:00Z", "finishedAt": "2026-04-25T10:00:01Z"
}))]
pub(super) struct RunView {
    run_id: String,
    /// `inventory_push`, `inventory_pull`, `inventory_undo` or `inventory_discovery`.
    operation: String,
    /// The channel; absent in a fan-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    channel_id: Option<String>,
    /// `running`, `completed`, `partial`, `failed`; `held`: it would change more of the channel
    /// than it may without being asked and waits to be confirmed or cancelled; `cancelled`.
    status: &'static str,
    dry_run: bool,
    /// `total`, `pushed`, `skipped`, `failed`; of a pull also `checked`, `matched`, `adopted`,
    /// `conflicts`; of a discovery `listed`, `mapped`, `matched`, `alreadyMapped`, `nearMiss`,
    /// `duplicate`, `unknownSku`, `noSku`, `incomplete`. Of one that is held `listings`, `changes`,
    /// `zeroes`, `raises`, `lowers`, `unknown`: what it would do, and `retold`: how many of them
    /// have been told a number before.
    #[serde(flatten)]
    counters: BTreeMap<String, u64>,
    /// Such as `{sku, code: "mapping_missing", detail}`.
    #[schema(value_type = Vec<Object>)]
    warnings: Value,
    /// What became of each listing, or would: `{sku, listing, action, before, quantity}`; of a pull
    /// also what was compared: `{master, channel, expected, strategy}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Vec<Object>)]
    items: Option<Value>,
    /// The run that it undoes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    undoes: Option<String>,
    /// What stopped it, or why it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    error: Option<String>,
    started_at: Time,
    finished_at: Option<Time>,
    /// The members of a fan-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Vec<Object>)]
    runs: Option<Vec<RunView>>,
}

const PULL: &str = "inventory_pull";
const PUSH_COUNTERS: [&str; 4] = ["total", "pushed", "skipped", "failed"];
const DISCOVERY: &str = "inventory_discovery";
const DISCOVERY_COUNTERS: [&str; 9] = [
    "listed",
    "mapped",
    "matched",
    "alreadyMapped",
    "nearMiss",
    "duplicate",
    "unknownSku",
    "noSku",
    "incomplete",
];
const PULL_COUNTERS: [&str; 4] = ["checked", "matched", "adopted", "conflicts"];

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        let mut counters = run.counters;
        let (all, more): (&[&str], &[&str]) = match run.operation.as_str() {
            PULL => (&PUSH_COUNTERS, &PULL_COUNTERS),
            DISCOVERY => (&[], &DISCOVERY_COUNTERS),
            _ => (&PUSH_COUNTERS, &[]),
        };
        for name in all.iter().chain(more) {
            counters.entry((*name).to_owned()).or_default();
        }
        let has_items = run.items.as_array().is_some_and(|items| !items.is_empty());
        let array = |value: Value| if value.is_array() { value } else { Value::Array(Vec::new()) };
        Self {
            items: (has_items || run.operation == PULL).then(|| array(run.items)),
            run_id: run.id,
            operation: run.operation,
            channel_id: Some(run.channel.as_str().to_owned()),
            status: status_word(run.status),
            dry_run: run.dry_run,
            counters,
            warnings: array(run.warnings),
            undoes: run.request.get("undoes").and_then(Value::as_str).map(str::to_owned),
            error: run.error,
            started_at: Time(run.started_at),
            finished_at: run.finished_at.map(Time),
            runs: None,
        }
    }
}

pub(super) fn status_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Completed => "completed",
        RunStatus::Partial => "partial",
        RunStatus::Failed => "failed",
        RunStatus::Held => "held",
        RunStatus::Cancelled => "cancelled",
    }
}

impl RunView {
    /// Adds the members of a fan-out up.
    fn fan_out(id: &str, members: Vec<Run>) -> Option<Self> {
        let first = members.first()?;
        let statuses: Vec<RunStatus> = members.iter().map(|run| run.status).collect();
        let all = |wanted| statuses.iter().all(|status| *status == wanted);
        let status = if statuses.contains(&RunStatus::Running) {
            RunStatus::Running
        } else if statuses.contains(&RunStatus::Held) {
            RunStatus::Held
        } else if all(RunStatus::Cancelled) {
            RunStatus::Cancelled
        } else if all(RunStatus::Completed) {
            RunStatus::Completed
        } else if all(RunStatus::Failed) {
            RunStatus::Failed
        } else {
            RunStatus::Partial
        };
        let mut counters = BTreeMap::new();
        for (name, count) in members.iter().flat_map(|run| &run.counters) {
            *counters.entry(name.clone()).or_default() += count;
        }
        for name in PUSH_COUNTERS {
            counters.entry(name.to_owned()).or_default();
        }
        let warnings = members.iter().filter_map(|run| run.warnings.as_array()).flatten();
        let last = members.iter().map(|run| run.finished_at).max().flatten();
        Some(Self {
            run_id: id.to_owned(),
            operation: first.operation.clone(),
            channel_id: None,
            status: status_word(status),
            dry_run: members.iter().all(|run| run.dry_run),
            counters,
            warnings: warnings.cloned().collect(),
            items: None,
            undoes: None,
            error: None,
            started_at: Time(members.iter().map(|run| run.started_at).min()?),
            finished_at: match status {
                RunStatus::Running | RunStatus::Held => None,
                RunStatus::Completed
                | RunStatus::Partial
                | RunStatus::Failed
                | RunStatus::Cancelled => last.map(Time),
            },
            runs: Some(members.into_iter().map(Self::from).collect()),
        })
    }
}

// --- Waiting ------------------------------------------------------------------------------

/// Returns how long the client wants to wait: `Prefer: wait=N`.
pub(super) fn wait(headers: &HeaderMap) -> Result<Duration, Problem> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    for preference in preferences.flat_map(|value| value.split([',', ';'])) {
        let Some((name, value)) = preference.split_once('=') else { continue };
        if !name.trim().eq_ignore_ascii_case("wait") {
            continue;
        }
        let seconds: Option<u64> = value.trim().trim_matches('"').parse().ok();
        return match seconds {
            Some(seconds) => Ok(Duration::from_secs(seconds.min(WAIT_SECONDS_MAX))),
            None => Err(Problem::bad("invalid_prefer", "Prefer: wait=N takes whole seconds")),
        };
    }
    Ok(Duration::from_secs(WAIT_SECONDS_DEFAULT))
}

/// Answers with a run: 200 when it has ended, else 202 with where to look.
pub(super) async fn answer(app: &App, org: &Org, id: &str, wait: Duration) -> Answered {
    let run = app.engine.wait_run(org, id, wait).await?;
    let status = status_of(&run);
    let reply = Reply::json(status, &RunView::from(run));
    Ok(with_location(reply, status, id))
}

/// Waits for several runs; returns how they stand then, with 200 where all have ended.
pub(super) async fn wait_all(
    app: &App,
    org: &Org,
    runs: &[String],
    wait: Duration,
) -> Result<(Vec<Run>, StatusCode), EngineError> {
    let waiting = runs.iter().map(|run| app.engine.wait_run(org, run, wait));
    let ended: Result<Vec<Run>, EngineError> = join_all(waiting).await.into_iter().collect();
    let ended = ended?;
    let is_running = ended.iter().any(|run| run.status == RunStatus::Running);
    let status = if is_running { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((ended, status))
}

pub(super) fn status_of(run: &Run) -> StatusCode {
    if run.status == RunStatus::Running { StatusCode::ACCEPTED } else { StatusCode::OK }
}

pub(super) fn with_location(reply: Reply, status: StatusCode, id: &str) -> Reply {
    let place = HeaderValue::try_from(format!("/sales-channel/sync/runs/{id}"));
    match place {
        Ok(place) if status == StatusCode::ACCEPTED => reply.with_header(LOCATION, place),
        Ok(_) | Err(_) => reply,
    }
}

// --- Fanning out --------------------------------------------------------------------------

/// Makes the id of a fan-out.
pub(super) fn new_fan_out_id(app: &App) -> String {
    app.new_id().simple().to_string()
}

fn member_id(fan_out: &str, channel: &ChannelId) -> String {
    format!("{fan_out}.{channel}")
}

/// What came of beginning a push on one channel.
pub(super) struct Begun {
    pub(super) channel: ChannelId,
    pub(super) run: Result<String, EngineError>,
}

/// Whether a push is made, or only said what it would tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Push,
    Rehearse,
}

impl Doing {
    /// Begins the run.
    pub(super) async fn begin(
        self,
        app: &App,
        org: &Org,
        channel: &ChannelId,
        scope: PushScope,
        id: Option<String>,
    ) -> Result<String, EngineError> {
        match self {
            Self::Push => app.engine.push(org, channel, scope, id).await,
            Self::Rehearse => app.engine.rehearse_push(org, channel, scope, id).await,
        }
    }
}

/// Begins a push on every connected channel that is not paused, all at once.
pub(super) async fn fan_out(
    app: &App,
    org: &Org,
    id: &str,
    scope: &PushScope,
    doing: Doing,
) -> Result<(Vec<Begun>, Vec<Connection>), Problem> {
    let connections = app.store.connections(org).await?;
    let (active, paused): (Vec<_>, Vec<_>) =
        connections.into_iter().partition(|connection| connection.state == ConnectionState::Active);
    let begin = active.into_iter().map(|connection| async move {
        let channel = connection.id;
        let member = member_id(id, &channel);
        let begun = doing.begin(app, org, &channel, scope.clone(), Some(member.clone())).await;
        let run = match begun {
            Err(EngineError::Store(StoreError::Fenced)) => {
                told_elsewhere(app, org, &channel, member).await
            }
            begun => begun,
        };
        Begun { channel, run }
    });
    let begun = join_all(begin).await;
    if begun.is_empty() {
        app.store.put_run(org, empty_fan_out(app, id)).await?;
    }
    Ok((begun, paused))
}

/// Keeps the run of a push that the workers of another node make of themselves, having heard of
/// the change: nothing was begun here that could be counted.
async fn told_elsewhere(
    app: &App,
    org: &Org,
    channel: &ChannelId,
    id: String,
) -> Result<String, EngineError> {
    let detail = "the workers of another node tell the channel";
    let warning = json!({"code": "told_by_another_node", "detail": detail});
    let run =
        Run { channel: channel.clone(), warnings: json!([warning]), ..empty_fan_out(app, &id) };
    app.store.put_run(org, run).await?;
    Ok(id)
}

/// The channel of a fan-out that had none to go to.
const NO_CHANNEL: &str = "none";

/// Makes the run of a fan-out with nobody to tell, so that its id leads somewhere.
fn empty_fan_out(app: &App, id: &str) -> Run {
    let now = app.now();
    Run {
        id: id.to_owned(),
        operation: "inventory_push".to_owned(),
        channel: ChannelId::new(NO_CHANNEL).expect("the name is legal"),
        status: RunStatus::Completed,
        dry_run: false,
        counters: PUSH_COUNTERS.map(|name| (name.to_owned(), 0)).into(),
        warnings: json!([]),
        items: json!([]),
        error: None,
        request: json!({}),
        started_at: now,
        finished_at: Some(now),
    }
}

/// Begins the fan-out of a change that was acknowledged.
///
/// Failing here does no harm: the change marked its listings dirty, and the workers push them.
/// After a replay, the first request's run is begun if a crash kept it from beginning.
pub(super) async fn fan_out_after(
    app: &App,
    org: &Org,
    submitted: &Submitted,
    chosen: Option<Arc<str>>,
    skus: Vec<Sku>,
) {
    let id = match submitted.decided {
        Some(_) => chosen.map(|id| id.to_string()),
        None => replayed_run_id(submitted.reply.body()),
    };
    let Some(id) = id else { return };
    let scope = PushScope::Changed(skus.into_iter().collect());
    let begun = match fan_out(app, org, &id, &scope, Doing::Push).await {
        Ok((begun, _)) => begun,
        Err(problem) => {
            let code = problem.code();
            tracing::warn!(%org, run = id, code, "a fan-out could not begin");
            return;
        }
    };
    for Begun { channel, run } in begun {
        if let Err(error) = run {
            tracing::warn!(%org, %channel, %error, "a push could not begin");
        }
    }
}

fn replayed_run_id(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.get("sync")?.get("runId")?.as_str().map(str::to_owned)
}

// --- Handlers -----------------------------------------------------------------------------

/// Returns a run, or a fan-out with its runs.
#[utoipa::path(get, path = "/sales-channel/sync/runs/{id}", tag = "sync",
    params(("id" = String, Path, description = "The run, or the fan-out")),
    responses((status = 200, description = "How it stands", body = RunView),
        (status = 404, description = "`run_not_found`")))]
async fn get(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    Ok(Reply::ok(&found(&app, &caller.org, path.text("id")).await?))
}

fn is_fan_out(id: &str) -> bool {
    id.len() == 32 && uuid::Uuid::try_parse(id).is_ok()
}

/// Returns a run, or a fan-out with its runs.
async fn found(app: &App, org: &Org, id: &str) -> Result<RunView, Problem> {
    if let Some(run) = app.store.run(org, id).await? {
        let mut view = RunView::from(run);
        view.channel_id = view.channel_id.filter(|_| !is_fan_out(id));
        return Ok(view);
    }
    let members = members(app, org, id).await?;
    RunView::fan_out(id, members).ok_or_else(not_found)
}

fn not_found() -> Problem {
    Problem::not_found("run_not_found", "there is no such run")
}

/// Returns the runs of a fan-out.
async fn members(app: &App, org: &Org, id: &str) -> Result<Vec<Run>, Problem> {
    let mut members = Vec::new();
    if is_fan_out(id) {
        for connection in app.store.connections(org).await? {
            members.extend(app.store.run(org, &member_id(id, &connection.id)).await?);
        }
    }
    Ok(members)
}

/// Returns the held runs that an id stands for: its own, or those of a fan-out.
async fn held(app: &App, org: &Org, id: &str) -> Result<Vec<String>, Problem> {
    let members = members(app, org, id).await?;
    if members.is_empty() {
        return Ok(vec![id.to_owned()]);
    }
    let held = members.into_iter().filter(|run| run.status == RunStatus::Held);
    let held: Vec<String> = held.map(|run| run.id).collect();
    if held.is_empty() { Err(EngineError::NotHeld.into()) } else { Ok(held) }
}

const LIST: &str = "runs";

/// Returns the status of a word.
fn parse_status(word: &str) -> Option<RunStatus> {
    let all = [
        RunStatus::Running,
        RunStatus::Completed,
        RunStatus::Partial,
        RunStatus::Failed,
        RunStatus::Held,
        RunStatus::Cancelled,
    ];
    all.into_iter().find(|status| status_word(*status) == word)
}

fn position(run: &Run) -> String {
    format!("{} {}", run.started_at.micros(), run.id)
}

fn parse_position(position: &str) -> Option<(Timestamp, String)> {
    let (at, id) = position.split_once(' ')?;
    Some((Timestamp::from_micros(at.parse().ok()?), id.to_owned()))
}

/// Lists runs, newest first, without their items and warnings.
#[utoipa::path(get, path = "/sales-channel/sync/runs", operation_id = "runs", tag = "sync",
    params(PageParams,
        ("status" = Option<String>, Query, description = "`held`, `running`, `completed`, …"),
        ("channel" = Option<String>, Query, description = "Only of this channel"),
        ("operation" = Option<String>, Query, description = "`inventory_push`, \
            `inventory_pull`, …")),
    responses((status = 200, description = "A page", body = Listed<RunView>)))]
async fn list(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let filter = RunQuery {
        status: query.read("status", "is not the status of a run", parse_status)?,
        channel: query.channel("channel")?,
        operation: query.text("operation")?,
        before: query.cursor(LIST, parse_position)?,
        limit: query.limit()?,
    };
    query.finish()?;
    let page = app.store.runs(&caller.org, filter).await?;
    Ok(Reply::ok(&Listed::page(LIST, page, position, RunView::from)))
}

/// Lets a run go on that is held, as an operator has agreed to.
///
/// What it would do is computed anew; where that has grown beyond what was agreed to, it is held
/// again. A fan-out's id stands for those of its runs that are held.
#[utoipa::path(post, path = "/sales-channel/sync/runs/{id}/confirm", operation_id = "confirm_run",
    tag = "sync",
    params(("id" = String, Path, description = "The run, or the fan-out"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` seconds")),
    responses((status = 200, description = "It has ended", body = RunView),
        (status = 202, description = "The run so far", body = RunView,
            headers(("Location" = String, description = "Where to look"))),
        (status = 404, description = "`run_not_found`"),
        (status = 409, description = "`run_not_held`, `channel_paused`")))]
async fn confirm(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let id = path.text("id");
    let wait = wait(incoming.headers())?;
    let work = async {
        let org = &caller.org;
        let held = held(&app, org, id).await?;
        for run in &held {
            app.engine.confirm_run(org, run, &caller.actor).await?;
        }
        ended(&app, org, &held, id, wait).await
    };
    incoming.once(&app, &caller, work).await
}

/// Gives a held run up: nothing of it is done.
#[utoipa::path(post, path = "/sales-channel/sync/runs/{id}/cancel", operation_id = "cancel_run",
    tag = "sync",
    params(("id" = String, Path, description = "The run, or the fan-out")),
    responses((status = 200, description = "It is given up", body = RunView),
        (status = 404, description = "`run_not_found`"),
        (status = 409, description = "`run_not_held`")))]
async fn cancel(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let id = path.text("id");
    let work = async {
        for run in held(&app, &caller.org, id).await? {
            app.engine.cancel_run(&caller.org, &run, &caller.actor).await?;
        }
        Ok(Reply::ok(&found(&app, &caller.org, id).await?))
    };
    incoming.once(&app, &caller, work).await
}

/// Undoes a run: each listing is told what it showed before, as far as there is so much now.
///
/// The undoing is a run of its own. Its `warnings` say what could not be undone and why
/// (`adopted`, `before_unknown`, `was_not_told`, `not_kept`); an item with the reason
/// `not_available` was told less than it showed before. What the ledger owes its listings
/// next replaces what they are told now.
#[utoipa::path(post, path = "/sales-channel/sync/runs/{id}/undo", operation_id = "undo_run",
    tag = "sync",
    params(("id" = String, Path, description = "The run, or the fan-out"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` seconds")),
    responses((status = 200, description = "The run that undoes it has ended", body = RunView),
        (status = 202, description = "The run so far", body = RunView,
            headers(("Location" = String, description = "Where to look"))),
        (status = 404, description = "`run_not_found`"),
        (status = 409, description = "`run_not_undoable`, `channel_paused`")))]
async fn undo(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let id = path.text("id");
    let wait = wait(incoming.headers())?;
    let work = async {
        let (org, actor) = (&caller.org, &caller.actor);
        let members = members(&app, org, id).await?;
        if members.is_empty() {
            let undoing = Box::pin(app.engine.undo_run(org, id, None, actor)).await?;
            return answer(&app, org, &undoing, wait).await;
        }
        let undoing = new_fan_out_id(&app);
        let mut begun = Vec::with_capacity(members.len());
        for run in members {
            let member = Some(member_id(&undoing, &run.channel));
            begun.push(Box::pin(app.engine.undo_run(org, &run.id, member, actor)).await?);
        }
        ended(&app, org, &begun, &undoing, wait).await
    };
    incoming.once(&app, &caller, work).await
}

/// Waits for runs and answers with the fan-out, or the run, that they are of.
async fn ended(app: &App, org: &Org, runs: &[String], id: &str, wait: Duration) -> Answered {
    let (_, status) = wait_all(app, org, runs, wait).await?;
    let reply = Reply::json(status, &found(app, org, id).await?);
    Ok(with_location(reply, status, id))
}

const ITEMS: &str = "run items";

/// Lists what became of each listing of a run, or would: the first 10 000 that it keeps.
#[utoipa::path(get, path = "/sales-channel/sync/runs/{id}/items", operation_id = "run_items",
    tag = "sync",
    params(("id" = String, Path, description = "The run"), PageParams),
    responses((status = 200, description = "A page", body = Listed<Object>),
        (status = 404, description = "`run_not_found`")))]
async fn items(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let from: usize = query.cursor(ITEMS, |position| position.parse().ok())?.unwrap_or(0);
    let limit = query.limit()?;
    query.finish()?;
    let run = app.store.run(&caller.org, path.text("id")).await?;
    let run = run.ok_or_else(not_found)?;
    let all = match run.items {
        Value::Array(all) => all,
        _ => Vec::new(),
    };
    Ok(Reply::ok(&Listed::slice(ITEMS, all, from, limit, |item| item)))
}
