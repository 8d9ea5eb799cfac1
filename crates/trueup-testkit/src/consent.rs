//! What the vendors' consent pages have in common here: nobody is asked, the answer is yes.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::shop::Engine;
use crate::time::plus_ms;
use crate::tokens::CODE_SECONDS;

/// Sends the browser back with these parameters.
pub(crate) fn send_back(to: &str, pairs: &[(&str, &str)]) -> Response {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let joint = if to.contains('?') { '&' } else { '?' };
    match HeaderValue::from_str(&format!("{to}{joint}{query}")) {
        Ok(location) => (StatusCode::FOUND, [(header::LOCATION, location)]).into_response(),
        Err(_) => refuse("the redirect is not a URL"),
    }
}

/// Says on the page what is wrong with what was asked.
pub(crate) fn refuse(words: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, words).into_response()
}

impl Engine {
    /// Gives a code for a redirect, good once and for [`CODE_SECONDS`].
    pub(crate) fn give_code(&self, redirect: &str) -> String {
        let now = self.clock.now();
        let ends = plus_ms(now, u64::from(CODE_SECONDS) * 1_000);
        self.codes.lock().give(redirect, now, ends)
    }

    /// Takes a code.
    pub(crate) fn take_code(&self, code: &str, redirect: Option<&str>) -> bool {
        self.codes.lock().take(code, redirect, self.clock.now())
    }
}
