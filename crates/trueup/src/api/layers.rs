//! What is around every route: request ids, the limit of requests at once, figures, panics,
//! and problems for paths and methods that are not there.

use std::any::Any;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::AppState;
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
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(AppState::clone(&app), accompany))
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

#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
    tracing::error!(panic = words, "a request panicked");
    Problem::internal().into_response()
}

/// Goes with a request from its beginning to the head of its answer.
async fn accompany(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let id = request_id(&app, &request);
    let Ok(_place) = app.requests.try_acquire() else {
        return with_id(overloaded().into_response(), id);
    };
    let began = tokio::time::Instant::now();
    let method = method_word(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    // What carries a key is done to its end and recorded, also when its client gives up.
    let response = if request.headers().contains_key("idempotency-key") {
        match tokio::spawn(next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::internal().into_response(),
        }
    } else {
        next.run(request).await
    };
    let status = response.status();
    if app.metrics.is_some() {
        let route = route.map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
        metrics::histogram!(
            "trueup_http_request_seconds",
            "method" => method, "route" => route, "status" => class(status)
        )
        .record(began.elapsed().as_secs_f64());
    }
    if status.is_server_error() {
        tracing::warn!(request_id = ?id, status = status.as_u16(), "a request failed");
    }
    with_id(response, id)
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
