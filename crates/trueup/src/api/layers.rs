//! What is around every route: request ids, the limit of requests at once, figures, panics,
//! and problems for paths and methods that are not there.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use metrics::Histogram;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::OwnedSemaphorePermit;
use tower::{Layer, Service};

use crate::api::AppState;
use crate::api::passing::{self, Way};
use crate::api::problem::{Problem, overloaded};

/// Names a request in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Puts the layers around the routes.
pub(super) fn around(router: Router<AppState>, app: AppState) -> Router {
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(Accompany { app: AppState::clone(&app) })
        .with_state(app)
}

async fn unknown_route(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}", uri.path());
    Problem::not_found("not_found", detail)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} is not possible at {}; see the Allow header", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
    tracing::error!(panic = words, "a request panicked");
    Problem::internal().into_response()
}

/// Goes with every request from its beginning to the head of its answer.
#[derive(Clone)]
struct Accompany {
    app: AppState,
}

impl<S> Layer<S> for Accompany {
    type Service = Accompanied<S>;

    fn layer(&self, inner: S) -> Accompanied<S> {
        Accompanied { app: AppState::clone(&self.app), inner }
    }
}

/// A route that is accompanied. One service, and not one for each of its tasks: a request costs
/// every service that it passes through a copy and a boxed future.
#[derive(Clone)]
struct Accompanied<S> {
    app: AppState,
    inner: S,
}

impl<S> Service<Request> for Accompanied<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let app = AppState::clone(&self.app);
        let id = request_id(&app, &request);
        let Ok(place) = Arc::clone(&app.requests).try_acquire_owned() else {
            return Box::pin(ready(Ok(with_id(overloaded().into_response(), id))));
        };
        let going = Going {
            id,
            began: tokio::time::Instant::now(),
            method: method_word(request.method()),
            route: request.extensions().get::<MatchedPath>().cloned(),
            is_keyed: request.headers().contains_key("idempotency-key"),
            _place: place,
            app: AppState::clone(&app),
        };
        match passing::needs(&request).filter(|shard| !passing::are_here(&app, *shard)) {
            None => Box::pin(going.accompanied(self.inner.call(request))),
            Some(shard) => {
                let mut inner = self.inner.clone();
                Box::pin(going.accompanied(async move {
                    match passing::on(&app, shard, request).await {
                        Way::Here(request) => inner.call(request).await,
                        Way::Answered(answer) => Ok(answer),
                    }
                }))
            }
        }
    }
}

/// A request that is being answered.
struct Going {
    app: AppState,
    id: HeaderValue,
    began: tokio::time::Instant,
    method: &'static str,
    route: Option<MatchedPath>,
    is_keyed: bool,
    _place: OwnedSemaphorePermit,
}

impl Going {
    async fn accompanied<F>(self, answer: F) -> Result<Response, Infallible>
    where
        F: Future<Output = Result<Response, Infallible>> + Send + 'static,
    {
        let answer = AssertUnwindSafe(answer).catch_unwind();
        // What carries a key is done to its end and recorded, also when its client gives up.
        let answer = if self.is_keyed {
            let internal = |_| Ok(Ok(Problem::internal().into_response()));
            tokio::spawn(answer).await.unwrap_or_else(internal)
        } else {
            answer.await
        };
        let response = match answer {
            Ok(Ok(response)) => response,
            Err(panic) => panicked(&*panic),
        };
        let status = response.status();
        if self.app.metrics.is_some() {
            let route = self.route.as_ref().map_or("none", MatchedPath::as_str);
            let taken = self.began.elapsed().as_secs_f64();
            self.app.request_times.of(self.method, route, class(status)).record(taken);
        }
        if status.is_server_error() {
            tracing::warn!(request_id = ?self.id, status = status.as_u16(), "a request failed");
        }
        Ok(with_id(response, self.id))
    }
}

/// The histograms of `trueup_http_request_seconds`, kept at hand: to look one up among all
/// figures takes longer than to answer some requests.
#[derive(Default)]
pub(crate) struct RequestTimes {
    /// By method and class of status, then by route.
    known: RwLock<FxHashMap<(&'static str, &'static str), ByRoute>>,
}

type ByRoute = FxHashMap<String, Histogram>;

impl RequestTimes {
    fn of(&self, method: &'static str, route: &str, class: &'static str) -> Histogram {
        let known = |of: &ByRoute| of.get(route).cloned();
        if let Some(known) = self.known.read().get(&(method, class)).and_then(known) {
            return known;
        }
        let made = metrics::histogram!(
            "trueup_http_request_seconds",
            "method" => method, "route" => route.to_owned(), "status" => class
        );
        let mut all = self.known.write();
        all.entry((method, class)).or_default().insert(route.to_owned(), made.clone());
        made
    }
}

fn request_id(app: &AppState, request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|value| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
            && value.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let mut buffer = uuid::Uuid::encode_buffer();
        let text = app.new_id().simple().encode_lower(&mut buffer);
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

fn with_id(mut response: Response, id: HeaderValue) -> Response {
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn method_word(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        0..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}
