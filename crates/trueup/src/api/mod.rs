//! The HTTP API: one file per resource, each with its bodies, views, handlers and route list.
//!
//! A handler extracts, makes one call and maps the answer. What all have in common is written
//! once: [`problem`] (errors), [`extract`] (who calls and what the path says), [`body`] (JSON),
//! [`lists`] (parameters and cursors), [`idempotency`] (keys), [`layers`] (limits, ids, panics).

pub mod body;
pub mod csv_in;
pub mod csv_out;
pub mod extract;
pub mod idempotency;
mod impact;
pub mod layers;
pub mod lists;
pub mod problem;
pub mod reply;
pub mod time;

mod alerts;
mod audit;
mod bulk;
mod catalogue;
mod channels;
mod conflicts;
mod connect;
mod description;
mod diff;
mod events;
mod history;
mod inventory;
mod inventory_check;
mod keys;
mod mappings;
mod mappings_csv;
mod meta;
mod nodes;
mod orders;
mod passing;
mod pauses;
mod reservations;
mod runs;
mod sync;
mod views;
mod webhooks_in;
mod webhooks_out;

use std::sync::Arc;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use trueup_core::{ReservationId, Timestamp};
use trueup_store::{NodeInfo, Store};
use trueup_sync::{Clock, Engine};
use utoipa_axum::router::OpenApiRouter;

use crate::auth::Auth;
use idempotency::InFlight;
use reply::Reply;

/// What handlers answer with.
pub(crate) type Answered = Result<Reply, problem::Problem>;

/// The most live event streams at once.
pub const EVENT_STREAMS_MAX: usize = 256;
/// The most requests that are being answered at once.
pub const REQUESTS_MAX: usize = 8_192;

/// What an operator can choose about the API.
#[derive(Debug, Clone, Default)]
pub struct ApiOptions {
    /// The URL under which the server is reached from outside, without a trailing slash.
    pub public_url: Option<String>,
    /// How this node introduces itself to others.
    pub node: NodeInfo,
}

/// What the API is made of.
pub struct Parts {
    /// The ledger and its records.
    pub store: Arc<dyn Store>,
    /// Push, pull and the inbox.
    pub engine: Engine,
    /// Who may come in.
    pub auth: Auth,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
    /// Renders `/metrics`; `None` = only the store's own figures.
    pub metrics: Option<PrometheusHandle>,
    /// What an operator chose.
    pub options: ApiOptions,
    /// Says that the server is going, while it still answers.
    pub draining: CancellationToken,
    /// Ends the live streams when the server stops.
    pub stopping: CancellationToken,
}

/// The API's state, shared by all handlers.
pub struct App {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) engine: Engine,
    pub(crate) auth: Auth,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Option<PrometheusHandle>,
    pub(crate) options: ApiOptions,
    pub(crate) draining: CancellationToken,
    pub(crate) stopping: CancellationToken,
    pub(crate) started: Timestamp,
    pub(crate) in_flight: InFlight,
    pub(crate) passing: passing::Passing,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) request_times: layers::RequestTimes,
    pub(crate) description: bytes::Bytes,
}

/// The API's state as handlers are lent it.
pub type AppState = Arc<App>;

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> AppState {
        let started = parts.clock.now();
        Arc::new(Self {
            store: parts.store,
            engine: parts.engine,
            auth: parts.auth,
            clock: parts.clock,
            metrics: parts.metrics,
            options: parts.options,
            draining: parts.draining,
            stopping: parts.stopping,
            started,
            in_flight: InFlight::default(),
            passing: passing::Passing::new(),
            streams: Arc::new(Semaphore::new(EVENT_STREAMS_MAX)),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            request_times: layers::RequestTimes::default(),
            description: openapi().into(),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Makes a time-ordered id (UUIDv7).
    pub(crate) fn new_id(&self) -> uuid::Uuid {
        let millis = u64::try_from(self.now().micros() / 1_000).unwrap_or_default();
        uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
    }

    pub(crate) fn new_reservation_id(&self) -> ReservationId {
        ReservationId(self.new_id().as_u128())
    }
}

/// Returns the whole API as a router: every route, its problems and its limits.
pub fn router(app: AppState) -> Router {
    let (router, _) = routes().split_for_parts();
    layers::around(router.merge(meta::docs()), app)
}

/// Returns the OpenAPI 3.1 description as JSON.
#[must_use]
pub fn openapi() -> String {
    let (_, document) = routes().split_for_parts();
    description::complete(document)
}

/// Returns every route with its description.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(description::base())
        .merge(inventory::routes())
        .merge(bulk::routes())
        .merge(csv_in::routes())
        .merge(csv_out::routes())
        .merge(diff::routes())
        .merge(history::routes())
        .merge(alerts::routes())
        .merge(reservations::routes())
        .merge(channels::routes())
        .merge(connect::routes())
        .merge(mappings::routes())
        .merge(mappings_csv::routes())
        .merge(catalogue::routes())
        .merge(orders::routes())
        .merge(impact::routes())
        .merge(pauses::routes())
        .merge(sync::routes())
        .merge(runs::routes())
        .merge(views::routes())
        .merge(conflicts::routes())
        .merge(events::routes())
        .merge(webhooks_in::routes())
        .merge(inventory_check::routes())
        .merge(webhooks_out::routes())
        .merge(keys::routes())
        .merge(nodes::routes())
        .merge(meta::routes())
}
