//! The one script and the one stylesheet, and the headers of every page.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{HeaderMap, HeaderValue, header};

/// Nothing from outside, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";

const SCRIPT: &str = include_str!("../assets/app.js");
const STYLE: &str = include_str!("../assets/app.css");
/// Names the script and the stylesheet as they are, so that a browser keeps them until they change.
pub(crate) const VERSION: u64 = digest(SCRIPT) ^ digest(STYLE).rotate_left(1);

/// FNV-1a: enough to tell one edition from the next.
const fn digest(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        digest = (digest ^ widened(bytes[at])).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    digest
}

/// Returns a byte as a number; `From` is not there before a program runs.
const fn widened(byte: u8) -> u64 {
    u64::from_le_bytes([byte, 0, 0, 0, 0, 0, 0, 0])
}

/// Returns the routes of the script and the stylesheet.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/assets/app.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/assets/app.css", get(async || asset("text/css; charset=utf-8", STYLE)))
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    (headers(kind, "public, max-age=31536000, immutable"), text)
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
