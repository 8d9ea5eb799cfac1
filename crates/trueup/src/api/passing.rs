//! Passing requests on: what only the node can do that works for an org is sent on to it.
//!
//! Stock and reservations are decided by any node. What needs the workers of an org's connections
//! goes to the node that has them, once: a request that was passed on is not passed on again. While
//! an org's shard moves from one node to another, requests wait for it for a moment.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::time::Instant;
use trueup_core::Org;
use trueup_store::{Cluster, Node, Shard};
use trueup_sync::Engine;

use crate::api::App;
use crate::api::idempotency::{BODY_BYTES_MAX, read_body_within};
use crate::api::problem::{Problem, SHARD_MOVING};

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
/// The most bytes of a body that comes without a token.
const OPEN_BODY_BYTES_MAX: usize = 1 << 20;
/// The most bytes of another node's problem.
const PROBLEM_BYTES_MAX: usize = 64 << 10;
/// Says that another node is to be asked: this one does not work for the org.
const NOT_THE_HOLDER: &str = "not_the_holder";
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
    let is_read = is_read(request.method());
    let needs = match route {
        "/connect/{vendor}/callback" => return of_state(request),
        "/sales-channel/channels/{channelId}/status"
        | "/sales-channel/inventory/{sku}/channels"
        | "/sales-channel/inventory/{sku}/explain" => true,
        "/sales-channel/inventory/sync"
        | "/sales-channel/inventory/sync/{channelId}"
        | "/sales-channel/inventory/pull/{channelId}"
        | "/sales-channel/inventory/conflicts/{id}/resolve"
        | "/sales-channel/inventory/conflicts/{id}/undo"
        | "/sales-channel/sync/runs/{id}/confirm"
        | "/sales-channel/sync/runs/{id}/cancel"
        | "/sales-channel/sync/runs/{id}/undo"
        | "/sales-channel/sync/pause"
        | "/sales-channel/sync/resume"
        | "/sales-channel/inventory/{sku}/pause"
        | "/sales-channel/inventory/{sku}/resume" => !is_read,
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

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
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
    let held = match Held::take(app, request).await {
        Ok(held) => held,
        Err(problem) => return Way::Answered(problem.into_response()),
    };
    let was_forwarded = held.parts.headers.contains_key(FORWARDED);
    let until = Instant::now() + HOLDER_WAIT_MAX;
    loop {
        if are_here(app, shard) {
            return Way::Here(held.into_request());
        }
        if !is_held(app, shard) {
            if was_forwarded {
                return Way::Answered(nobody(was_forwarded).into_response());
            }
            match sent_to_holder(app, shard, &held).await {
                Ok(Some(answer)) => return Way::Answered(answer),
                Ok(None) => *app.passing.known.lock() = None,
                Err(problem) => return Way::Answered(problem.into_response()),
            }
        }
        if Instant::now() >= until || app.stopping.is_cancelled() {
            return Way::Answered(nobody(was_forwarded).into_response());
        }
        tokio::time::sleep(HOLDER_LOOK).await;
    }
}

/// A request with all of its body, which can be sent more than once.
struct Held {
    parts: Parts,
    body: Bytes,
}

impl Held {
    /// Reads the body, for whoever may ask something here; without a token only a short one.
    async fn take(app: &App, request: Request) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes_max = if parts.headers.contains_key("orgid") {
            app.auth.identify(&parts.headers, app.now()).await?;
            BODY_BYTES_MAX
        } else {
            OPEN_BODY_BYTES_MAX
        };
        let body = read_body_within(&parts.headers, body, bytes_max).await?;
        Ok(Self { parts, body })
    }

    fn into_request(self) -> Request {
        Request::from_parts(self.parts, Body::from(self.body))
    }
}

/// Sends a request to the node that works for a shard; `None` when nobody is known to, or nothing
/// was done there.
async fn sent_to_holder(app: &App, shard: Shard, held: &Held) -> Result<Option<Response>, Problem> {
    let Some(node) = holder(app, shard).await? else { return Ok(None) };
    metrics::counter!("trueup_forwarded_total").increment(1);
    let path = held.parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", node.info.url.trim_end_matches('/'));
    let mut headers = without_connections(held.parts.headers.clone());
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    let request = app.passing.client.request(held.parts.method.clone(), url);
    match request.headers(headers).body(held.body.clone()).send().await {
        Ok(answer) => answered(answer).await,
        Err(error) => {
            let is_unsent = error.is_connect();
            tracing::warn!(node = node.info.name, is_unsent, "a request could not be passed on");
            // What only reads can be asked again.
            if is_unsent || is_read(&held.parts.method) { Ok(None) } else { Err(unknown()) }
        }
    }
}

/// Returns the answer of another node as it is; `None` when it says that another is to be asked.
async fn answered(answer: reqwest::Response) -> Result<Option<Response>, Problem> {
    let (mut parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
    parts.headers = without_connections(parts.headers);
    let body = Body::new(body);
    if parts.status != StatusCode::SERVICE_UNAVAILABLE {
        return Ok(Some(Response::from_parts(parts, body)));
    }
    let body = axum::body::to_bytes(body, PROBLEM_BYTES_MAX).await.map_err(|_| unknown())?;
    let code = serde_json::from_slice::<Refusal>(&body).ok().map(|refusal| refusal.code);
    if code.is_some_and(|code| code == NOT_THE_HOLDER || code == SHARD_MOVING) {
        return Ok(None);
    }
    Ok(Some(Response::from_parts(parts, Body::from(body))))
}

/// What matters of the problem that another node answers.
#[derive(Deserialize)]
struct Refusal {
    code: String,
}

fn nobody(was_forwarded: bool) -> Problem {
    let (code, detail) = if was_forwarded {
        (NOT_THE_HOLDER, "this node no longer works for the org; nothing was done")
    } else {
        (SHARD_MOVING, "no node works for the org at the moment; nothing was done")
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
}

/// Returns the other node that works for a shard, as far as is known.
async fn holder(app: &App, shard: Shard) -> Result<Option<Node>, Problem> {
    let known = app.passing.known.lock().clone();
    let cluster = match known.filter(|(at, _)| at.elapsed() < KNOWN_FOR) {
        Some((_, cluster)) => cluster,
        None => {
            let cluster = Arc::new(app.store.cluster().await?);
            *app.passing.known.lock() = Some((Instant::now(), cluster.clone()));
            cluster
        }
    };
    let holder = cluster.holder(shard);
    Ok(holder.filter(|node| Some(node.id) != cluster.node).cloned())
}

fn unknown() -> Problem {
    let detail = "whether it was done is not known: the node that works for the org did not \
        answer; ask again with the same Idempotency-Key, or look";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", detail).retry_after(1)
}

fn without_connections(mut headers: HeaderMap) -> HeaderMap {
    for name in OF_CONNECTIONS {
        headers.remove(name);
    }
    headers
}
