//! Health, figures and the description of the API itself. No credential is asked for here.

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use trueup_store::Health;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{App, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(figures))
        .routes(routes!(description))
}

/// Returns the pages at `/docs`; everything they need comes from this server.
pub(super) fn docs() -> Router<AppState> {
    let config = Config::from("/openapi.json").validator_url("none").try_it_out_enabled(true);
    SwaggerUi::new("/docs").config(config).into()
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HealthView {
    /// `ok` or `failing`.
    status: &'static str,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    detail: Option<String>,
    /// The server's version.
    version: &'static str,
    /// When it started.
    started_at: Time,
}

fn health(app: &App, failing: Option<String>) -> HealthView {
    HealthView {
        status: if failing.is_some() { "failing" } else { "ok" },
        detail: failing,
        version: env!("CARGO_PKG_VERSION"),
        started_at: Time(app.started),
    }
}

/// Says that the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "server",
    responses((status = 200, description = "It is alive", body = HealthView)))]
async fn healthz(State(app): State<AppState>) -> Reply {
    Reply::ok(&health(&app, None))
}

/// Says whether changes are acknowledged.
#[utoipa::path(get, path = "/readyz", tag = "server", responses(
    (status = 200, description = "It acknowledges changes", body = HealthView),
    (status = 503, description = "It does not: the disk refuses, or it is stopping",
        body = HealthView)))]
async fn readyz(State(app): State<AppState>) -> Reply {
    match app.store.health() {
        Health::Ready if app.draining.is_cancelled() => {
            let failing = Some("draining: the server is shutting down".to_owned());
            Reply::json(StatusCode::SERVICE_UNAVAILABLE, &health(&app, failing))
        }
        Health::Ready => Reply::ok(&health(&app, None)),
        Health::Failing(why) => {
            Reply::json(StatusCode::SERVICE_UNAVAILABLE, &health(&app, Some(why)))
        }
    }
}

/// Returns figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, description = "Prometheus text", content_type = "text/plain",
        body = String)))]
async fn figures(State(app): State<AppState>) -> impl IntoResponse {
    let mut text = app.metrics.as_ref().map_or_else(String::new, |handle| handle.render());
    let figures = app.store.figures();
    for (name, kind, help, value) in [
        ("commands_total", "counter", "Commands decided", figures.commands),
        ("commits_total", "counter", "Commits to disk", figures.commits),
        ("queued_commands", "gauge", "Commands waiting", figures.queued),
        ("behind_rows", "gauge", "Rows older than the lines that they follow from", figures.behind),
        ("skus", "gauge", "SKUs in memory", figures.skus),
        ("active_reservations", "gauge", "Active reservations", figures.reservations),
        ("oversold_units_total", "counter", "Oversold events", figures.oversold_events),
    ] {
        let name = format!("trueup_store_{name}");
        text.push_str(&format!("# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}\n"));
    }
    for (name, kind, help, value) in [
        ("node_shards", "gauge", "Shards that this node works for", figures.shards),
        ("lease_lost_total", "counter", "Leases of shards that were lost", figures.leases_lost),
        (
            "fenced_total",
            "counter",
            "Writes refused because the shard was another node's",
            figures.fenced,
        ),
    ] {
        let name = format!("trueup_{name}");
        text.push_str(&format!("# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}\n"));
    }
    let ready = u8::from(app.store.health() == Health::Ready);
    text.push_str("# HELP trueup_ready Whether changes are acknowledged.\n");
    text.push_str(&format!("# TYPE trueup_ready gauge\ntrueup_ready {ready}\n"));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Returns this description.
#[utoipa::path(get, path = "/openapi.json", tag = "server",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json",
        body = Object)))]
async fn description(State(app): State<AppState>) -> Reply {
    let kind = HeaderValue::from_static("application/json");
    Reply::bytes(StatusCode::OK, kind, app.description.clone())
}
