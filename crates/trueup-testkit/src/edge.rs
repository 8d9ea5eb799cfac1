//! The layer between HTTP and a simulated vendor: it logs each request and lets faults strike.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::faults::{After, Before};
use crate::log::{LOG_BODY_BYTES_MAX, LOGGED_HEADERS, LoggedRequest};
use crate::shop::Shop;
use crate::time::millis_text;

/// The largest request body that a simulator reads.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Marks an answer to a request that changed something; put into the answer's extensions.
#[derive(Clone, Copy)]
pub(crate) struct Wrote;

/// Wraps a vendor's routes with logging and faults.
pub(crate) fn wrap(routes: Router, shop: &Arc<dyn Shop>) -> Router {
    routes
        .layer(from_fn_with_state(Arc::clone(shop), through))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn through(State(shop): State<Arc<dyn Shop>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, BODY_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let asks_for_token = is_token_path(parts.uri.path());
    let mut entry = entry_of(&*shop, &parts, if asks_for_token { &[] } else { &bytes });
    let request = Request::from_parts(parts, Body::from(bytes));
    let answer = answer(&*shop, request, next, asks_for_token).await;
    entry.status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
    shop.engine().seen(entry);
    answer.unwrap_or_else(cut)
}

/// Returns the answer, or nothing when the connection is to be cut.
async fn answer(
    shop: &dyn Shop,
    request: Request,
    next: Next,
    asks_for_token: bool,
) -> Option<Response> {
    let faults = &shop.engine().faults;
    let lag = faults.lag();
    if !lag.is_zero() {
        tokio::time::sleep(lag).await;
    }
    match faults.before(asks_for_token) {
        Before::Pass => {}
        Before::Answer(trouble) => return Some(shop.trouble(trouble)),
        Before::Cut => return None,
    }
    let answer = next.run(request).await;
    if answer.extensions().get::<Wrote>().is_none() {
        return Some(answer);
    }
    match faults.after_write() {
        After::Pass => Some(answer),
        After::Cut => None,
        After::Hang(time) => {
            tokio::time::sleep(time).await;
            None
        }
    }
}

fn is_token_path(path: &str) -> bool {
    path.ends_with("/token") || path.ends_with("/access_token")
}

fn entry_of(shop: &dyn Shop, parts: &Parts, body: &[u8]) -> LoggedRequest {
    let headers = LOGGED_HEADERS.iter().filter_map(|name| {
        let value = parts.headers.get(*name)?.to_str().ok()?;
        Some(((*name).to_owned(), value.to_owned()))
    });
    let kept = &body[..body.len().min(LOG_BODY_BYTES_MAX)];
    LoggedRequest {
        number: 0,
        at: millis_text(shop.engine().clock.now()),
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: String::from_utf8_lossy(kept).into_owned(),
        status: 0,
    }
}

/// An answer whose body fails at once, which makes the server close the connection.
fn cut() -> Response {
    Response::new(Body::new(Cut))
}

struct Cut;

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::Error::other("the fault dial cut the connection"))))
    }
}

/// Returns a JSON answer.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Marks an answer as that of a write.
pub(crate) fn wrote(mut answer: Response) -> Response {
    answer.extensions_mut().insert(Wrote);
    answer
}

/// Returns the pairs of a form body or a query string, decoded.
pub(crate) fn pairs(text: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text).into_owned().collect()
}

/// Returns the first value of a name in decoded pairs.
pub(crate) fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Returns the values of a comma-separated or repeated parameter, without empty ones.
pub(crate) fn list(pairs: &[(String, String)], name: &str) -> Vec<String> {
    let named = pairs.iter().filter(|(key, _)| key == name);
    named
        .flat_map(|(_, value)| value.split(','))
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .collect()
}
