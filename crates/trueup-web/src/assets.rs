//! The one script and the one stylesheet, and the headers of every page.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{HeaderMap, HeaderValue, header};

/// Nothing from outside, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";

/// Returns the routes of the script and the stylesheet.
pub(crate) fn routes() -> Router {
    Router::new()
        .route(
            "/assets/app.js",
            get(async || asset("text/javascript; charset=utf-8", include_str!("../assets/app.js"))),
        )
        .route(
            "/assets/app.css",
            get(async || asset("text/css; charset=utf-8", include_str!("../assets/app.css"))),
        )
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    (headers(kind, "public, max-age=3600"), text)
}

/// Returns the headers of something of a kind, and for how long it may be kept.
pub(crate) fn headers(kind: &'static str, keep: &'static str) -> HeaderMap {
    let pairs = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, keep),
    ];
    pairs.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}
