//! The page at `/`: SKUs × channels, live. It is a client of the public API and nothing else.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// Nothing from outside, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// Returns the page's routes.
pub fn routes() -> Router {
    Router::new()
        .route("/", get(async || asset("text/html; charset=utf-8", include_str!("index.html"))))
        .route(
            "/assets/app.js",
            get(async || asset("text/javascript; charset=utf-8", include_str!("app.js"))),
        )
        .route(
            "/assets/app.css",
            get(async || asset("text/css; charset=utf-8", include_str!("app.css"))),
        )
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
