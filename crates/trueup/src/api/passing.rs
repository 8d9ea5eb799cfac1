//! Passing requests on: what only the node can do that works for an org is sent on to it.
//!
//! Stock and reservations are decided by any node. What needs the workers of an org's connections
//! goes to the node that has them, once: a request that was passed on is not passed on again. While
//! an org's shard moves from one node to another, requests wait for it for a moment.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use tokio::time::Instant;
use trueup_core::Org;
use trueup_store::{Cluster, Node, Shard, StoreError};
use trueup_sync::Engine;

use crate::api::App;
use crate::api::problem::Problem;

/// Says that a request was passed on.
const FORWARDED: HeaderName = HeaderName::from_static("x-trueup-forwarded");
/// How long what is known of the nodes is good.
const KNOWN_FOR: Duration = Duration::from_millis(500);
/// How long a request waits for somebody to have the workers that it needs.
const HOLDER_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often it looks.
const HOLDER_LOOK: Duration = Duration::from_millis(50);
/// How long a connection to another node may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long an answer of another node may take: the longest wait that a client may ask for, twice.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);
/// Headers that are of one connection and not of a request or an answer.
const OF_CONNECTIONS: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What is known of the other nodes, and the way to them.
pub(crate) struct Passing {
    client: reqwest::Client,
    known: Mutex<Option<(Instant, Arc<Cluster>)>>,
}

impl Passing {
    pub(crate) fn new() -> Self {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .no_gzip()
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(ANSWER_TIME_MAX)
            .build()
            .expect("a client without certificates of its own can be made");
        Self { client, known: Mutex::default() }
    }
}

/// Returns the shard whose workers a request needs, where it needs them.
pub(super) fn needs(request: &Request) -> Option<Shard> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let needs = match route {
        "/connect/{vendor}/callback" => return of_state(request),
        "/sales-channel/channels/{channelId}/status"
        | "/sales-channel/inventory/{sku}/channels"
        | "/sales-channel/inventory/{sku}/explain" => true,
        "/sales-channel/inventory/sync"
        | "/sales-channel/inventory/sync/{channelId}"
        | "/sales-channel/inventory/pull/{channelId}"
        | "/sales-channel/inventory/conflicts/{id}/resolve" => !is_read,
        route if route.starts_with("/sales-channel/channels/") => !is_read,
        route => {
            // The checks of shops name the org in the path.
            let is_check = route.starts_with("/upstream/inventory-check/{orgId}/");
            return if is_check { of_path(request) } else { None };
        }
    };
    let named = request.headers().get("orgid").filter(|_| needs)?;
    Org::new(named.to_str().ok()?).ok().map(|org| Shard::of(&org))
}

fn of_path(request: &Request) -> Option<Shard> {
    let segment = request.uri().path().split('/').nth(3)?;
    let org = Org::new(&percent_decode_str(segment).decode_utf8().ok()?).ok()?;
    Some(Shard::of(&org))
}

fn of_state(request: &Request) -> Option<Shard> {
    let query = request.uri().query()?;
    let state = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "state")?.1;
    Engine::shard_of_state(&state)
}

/// Returns whether the workers of a shard are here.
pub(super) fn are_here(app: &App, shard: Shard) -> bool {
    is_held(app, shard) && app.engine.works_for(shard)
}

fn is_held(app: &App, shard: Shard) -> bool {
    app.store.ownership().borrow().shards.contains_key(&shard)
}

/// What is to become of a request that needs the workers of a shard.
pub(super) enum Way {
    /// It is answered here.
    Here(Request),
    /// It was answered.
    Answered(Response),
}

/// Passes a request on to the node that works for a shard, unless this one does.
pub(super) async fn on(app: &App, shard: Shard, request: Request) -> Way {
    let was_forwarded = request.headers().contains_key(FORWARDED);
    let until = Instant::now() + HOLDER_WAIT_MAX;
    loop {
        if are_here(app, shard) {
            return Way::Here(request);
        }
        if !was_forwarded && !is_held(app, shard) {
            match holder(app, shard).await {
                Ok(Some(node)) => return Way::Answered(send(app, &node, request).await),
                Ok(None) => {}
                Err(error) => return Way::Answered(Problem::from(error).into_response()),
            }
        }
        if Instant::now() >= until || app.stopping.is_cancelled() {
            return Way::Answered(nobody(was_forwarded).into_response());
        }
        tokio::time::sleep(HOLDER_LOOK).await;
    }
}

fn nobody(was_forwarded: bool) -> Problem {
    let (code, detail) = if was_forwarded {
        ("not_the_holder", "this node no longer works for the org; nothing was done")
    } else {
        ("shard_moving", "no node works for the org at the moment; nothing was done")
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
}

/// Returns the other node that works for a shard, as far as is known.
async fn holder(app: &App, shard: Shard) -> Result<Option<Node>, StoreError> {
    let known = app.passing.known.lock().clone();
    let cluster = match known.filter(|(at, _)| at.elapsed() < KNOWN_FOR) {
        Some((_, cluster)) => cluster,
        None => {
            let cluster = Arc::new(app.store.cluster().await?);
            *app.passing.known.lock() = Some((Instant::now(), cluster.clone()));
            cluster
        }
    };
    let holder = cluster.holder(shard, app.now());
    Ok(holder.filter(|node| Some(node.id) != cluster.node).cloned())
}

/// Sends a request to another node and returns its answer.
async fn send(app: &App, node: &Node, request: Request) -> Response {
    metrics::counter!("trueup_forwarded_total").increment(1);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", node.info.url.trim_end_matches('/'));
    let mut headers = without_connections(parts.headers);
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    let sent = app
        .passing
        .client
        .request(parts.method, url)
        .headers(headers)
        .body(reqwest::Body::wrap(Handed(Mutex::new(body))))
        .send()
        .await;
    match sent {
        Ok(answer) => {
            let (mut parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
            parts.headers = without_connections(parts.headers);
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => unreachable_node(node, &error).into_response(),
    }
}

fn unreachable_node(node: &Node, error: &reqwest::Error) -> Problem {
    let is_unsent = error.is_connect();
    tracing::warn!(node = node.info.name, is_unsent, "a request could not be passed on");
    let (code, detail) = if is_unsent {
        ("shard_moving", "the node that works for the org cannot be reached; nothing was done")
    } else {
        let detail = "whether it was done is not known: the node that works for the org did not \
            answer; ask again with the same Idempotency-Key, or look";
        ("outcome_unknown", detail)
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
}

fn without_connections(mut headers: HeaderMap) -> HeaderMap {
    for name in OF_CONNECTIONS {
        headers.remove(name);
    }
    headers
}

/// The body of a request as it is handed over, which only one reads at a time.
struct Handed(Mutex<Body>);

impl http_body::Body for Handed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(self.0.get_mut()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&*self.0.lock())
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&*self.0.lock())
    }
}
