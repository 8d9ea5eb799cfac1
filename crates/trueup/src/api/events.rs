//! Live events (SSE): stock, alerts, conflicts and runs of one org. Losing one is no loss: each
//! carries the state as it is when it is sent, and a reader that falls behind is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use trueup_core::{Org, Sku};
use trueup_store::{Change, Store};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::AppState;
use crate::api::extract::{Caller, Read};
use crate::api::inventory::SkuView;
use crate::api::lists::NoParams;
use crate::api::problem::{Problem, overloaded};
use crate::api::runs::RunView;

/// Seconds between two signs of life.
const HEARTBEAT_SECONDS: u64 = 15;
/// How long a stream lives; a reader connects again, with a token that still holds.
const STREAM_SECONDS_MAX: u64 = 3_600;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(events))
}

/// One reader's place in the feed.
struct Reader {
    app: AppState,
    org: Org,
    changes: Receiver<Change>,
    until: tokio::time::Instant,
    _place: OwnedSemaphorePermit,
}

/// Streams what happens, as it happens.
///
/// Events: `stock` (the SKU as it stands), `low_stock`, `oversold`, `conflict`, `run` (the run as
/// it stands), and `lagged` when some were left out. The stream ends after an hour at most.
#[utoipa::path(get, path = "/sales-channel/events", tag = "sync",
    responses((status = 200, description = "Server-sent events",
        content_type = "text/event-stream", body = String)))]
async fn events(
    State(app): State<AppState>,
    caller: Caller<Read>,
    _: NoParams,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let place = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| overloaded())?;
    let reader = Reader {
        changes: app.store.changes(),
        until: tokio::time::Instant::now() + Duration::from_secs(STREAM_SECONDS_MAX),
        org: caller.org,
        app,
        _place: place,
    };
    let hello = Event::default().retry(Duration::from_secs(2)).comment("trueup");
    let events = stream::unfold((Some(hello), reader), |(hello, mut reader)| async move {
        let event = match hello {
            Some(hello) => hello,
            None => reader.next().await?,
        };
        Some((Ok(event), (None, reader)))
    });
    let alive = KeepAlive::new().interval(Duration::from_secs(HEARTBEAT_SECONDS));
    Ok(Sse::new(events).keep_alive(alive))
}

impl Reader {
    /// Returns the next event of the org; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let stopping = self.app.stopping.clone();
            let change = tokio::select! {
                change = self.changes.recv() => change,
                () = stopping.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
            };
            match change {
                Ok(change) if *org_of(&change) == self.org => {
                    if let Some((name, data)) = describe(&*self.app.store, change).await {
                        return Some(Event::default().event(name).data(data.to_string()));
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let data = json!({ "missed": missed });
                    return Some(Event::default().event("lagged").data(data.to_string()));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn org_of(change: &Change) -> &Org {
    match change {
        Change::Stock { org, .. }
        | Change::LowStock { org, .. }
        | Change::Oversold { org, .. }
        | Change::Conflict { org, .. }
        | Change::Run { org, .. } => org,
    }
}

/// Returns an event's name and data; `None` when there is nothing to show any more.
async fn describe(store: &dyn Store, change: Change) -> Option<(&'static str, Value)> {
    Some(match change {
        Change::Stock { org, sku } => ("stock", stock(store, &org, &sku).await?),
        Change::LowStock { org, sku } => ("low_stock", stock(store, &org, &sku).await?),
        Change::Oversold { sku, by, .. } => {
            ("oversold", json!({"sku": sku.as_str(), "oversoldBy": by}))
        }
        Change::Conflict { channel, sku, .. } => {
            ("conflict", json!({"channelId": channel.as_str(), "sku": sku.as_str()}))
        }
        Change::Run { org, id } => {
            let run = store.run(&org, &id).await.ok()??;
            ("run", serde_json::to_value(RunView::from(run)).ok()?)
        }
    })
}

async fn stock(store: &dyn Store, org: &Org, sku: &Sku) -> Option<Value> {
    let answer = store.sku(org, sku).await.ok()??;
    serde_json::to_value(SkuView::of(&answer)).ok()
}
