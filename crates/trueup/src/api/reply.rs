//! An answer as plain data: status, headers, body. Unlike axum's, it can be kept and repeated.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use smallvec::SmallVec;
use trueup_store::RecordedAnswer;

/// Says that an answer was given before under the same key.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An answer with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    status: StatusCode,
    headers: SmallVec<[(HeaderName, HeaderValue); 2]>,
    body: Bytes,
}

impl Reply {
    /// Makes an answer of raw bytes.
    #[must_use]
    pub fn bytes(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Self {
        let mut headers = SmallVec::new();
        headers.push((header::CONTENT_TYPE, kind));
        Self { status, headers, body: body.into() }
    }

    /// Makes a JSON answer.
    #[must_use]
    pub fn json(status: StatusCode, view: &impl Serialize) -> Self {
        // Views have text keys and finite numbers only, so that writing them cannot fail.
        let body = serde_json::to_vec(view).expect("views are always JSON");
        Self::bytes(status, HeaderValue::from_static("application/json"), body)
    }

    /// Makes a 200 in JSON.
    #[must_use]
    pub fn ok(view: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, view)
    }

    /// Makes a 204.
    #[must_use]
    pub fn no_content() -> Self {
        Self { status: StatusCode::NO_CONTENT, headers: SmallVec::new(), body: Bytes::new() }
    }

    /// Makes a 304 with the tag.
    #[must_use]
    pub fn not_modified(tag: HeaderValue) -> Self {
        let headers = smallvec::smallvec![(header::ETAG, tag)];
        Self { status: StatusCode::NOT_MODIFIED, headers, body: Bytes::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Returns whether the answer would be the same for the same request later: what is
    /// refused for lack of rights, shape or means is not kept.
    #[must_use]
    pub fn is_definitive(&self) -> bool {
        let code = self.status.as_u16();
        (200..300).contains(&code) || matches!(code, 404 | 409 | 412 | 422)
    }

    /// Returns the answer as it is kept.
    #[must_use]
    pub fn record(&self) -> RecordedAnswer {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        RecordedAnswer {
            status: self.status.as_u16(),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), text(value)))
                .collect(),
            body: self.body.to_vec(),
        }
    }

    /// Makes the answer again that was kept, and says so.
    #[must_use]
    pub fn replayed(recorded: RecordedAnswer) -> Self {
        Self::recorded(recorded).with_header(REPLAYED, HeaderValue::from_static("true"))
    }

    /// Makes the answer that was kept.
    #[must_use]
    pub fn recorded(recorded: RecordedAnswer) -> Self {
        let parse = |(name, value): (String, String)| {
            let name = HeaderName::try_from(name).ok()?;
            Some((name, HeaderValue::try_from(value).ok()?))
        };
        Self {
            status: StatusCode::from_u16(recorded.status).unwrap_or(StatusCode::OK),
            headers: recorded.headers.into_iter().filter_map(parse).collect(),
            body: recorded.body.into(),
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}
