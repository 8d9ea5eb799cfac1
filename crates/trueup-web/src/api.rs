//! Asking the public API, in this process, as whoever is signed in.

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use crate::session::Session;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How many rows a page of a list has.
pub(crate) const ROWS: usize = 50;
/// The most pages of the API that are read for one page of a list.
const PAGES_MAX: usize = 20;
/// How many things are asked for at once where a page needs one for each of its rows.
const ASKED_AT_ONCE: usize = 16;
/// What of a path's segment stands for itself.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const ORG: HeaderName = HeaderName::from_static("orgid");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The API's router.
pub(crate) struct Api {
    router: Router,
}

/// What the API refused, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Trouble {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    pub(crate) detail: String,
    /// What was asked for would change, where that is more than is done without being asked.
    pub(crate) impact: Option<Box<Impact>>,
}

/// What something would change of what a channel shows.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Impact {
    pub(crate) changes: u64,
    pub(crate) zeroes: u64,
    pub(crate) raises: u64,
    pub(crate) lowers: u64,
    #[serde(default)]
    pub(crate) adopted: u64,
    #[serde(default)]
    pub(crate) conflicts: u64,
    #[serde(default)]
    pub(crate) items: Vec<Effect>,
}

/// What would change of one listing.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Effect {
    pub(crate) sku: String,
    pub(crate) before: Option<i64>,
    pub(crate) quantity: i64,
}

/// The part of a problem that is shown.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: Option<String>,
    title: Option<String>,
    #[serde(default)]
    errors: Vec<FieldError>,
    impact: Option<Box<Impact>>,
}

#[derive(Deserialize)]
struct FieldError {
    pointer: String,
    detail: String,
}

impl Trouble {
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), detail: detail.into(), impact: None }
    }

    fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    fn of(status: StatusCode, body: &[u8]) -> Self {
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            let detail = format!("the API answered {status}");
            return Self::new(status, "unknown", detail);
        };
        let mut detail = problem.detail.or(problem.title).unwrap_or_else(|| problem.code.clone());
        for error in &problem.errors {
            detail.push_str("; ");
            detail.push_str(error.pointer.trim_start_matches('/'));
            detail.push(' ');
            detail.push_str(&error.detail);
        }
        Self { status, code: problem.code, detail, impact: problem.impact }
    }

    /// Returns whether the credential is not taken any more.
    pub(crate) fn is_signed_out(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// Returns `None` in place of an answer that the credential has no right to.
    pub(crate) fn unless_forbidden<T>(answer: Result<T, Self>) -> Result<Option<T>, Self> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(trouble) if trouble.status == StatusCode::FORBIDDEN => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }
}

/// A path of the API with its parameters, everything percent-encoded.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    text: String,
    has_parameters: bool,
}

impl Path {
    /// Begins a path below `/sales-channel`.
    pub(crate) fn new(segments: &[&str]) -> Self {
        Self::below("/sales-channel", segments)
    }

    /// Begins a path of the server itself.
    pub(crate) fn of_server(segments: &[&str]) -> Self {
        Self::below("", segments)
    }

    fn below(root: &str, segments: &[&str]) -> Self {
        let mut text = root.to_owned();
        for segment in segments {
            text.push('/');
            text.extend(utf8_percent_encode(segment, PLAIN));
        }
        Self { text, has_parameters: false }
    }

    /// Adds a parameter, where it says something.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.text.push(if self.has_parameters { '&' } else { '?' });
            self.text.push_str(name);
            self.text.push('=');
            self.text.extend(utf8_percent_encode(value, PLAIN));
            self.has_parameters = true;
        }
        self
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Percent-encodes a segment of one of our own paths.
pub(crate) fn encoded(segment: &str) -> String {
    utf8_percent_encode(segment, PLAIN).to_string()
}

/// What the API is asked to do.
pub(crate) struct Wish {
    pub(crate) method: Method,
    pub(crate) path: Path,
    pub(crate) body: Bytes,
    /// The version of the SKU that it is meant for; `None` = whichever it is at.
    pub(crate) version: Option<u64>,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next_cursor: Option<String>,
}

impl Api {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }

    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        session: &Session,
        path: Path,
    ) -> Result<T, Trouble> {
        read(&self.text(session, path).await?)
    }

    /// Reads something as it is written.
    pub(crate) async fn text(&self, session: &Session, path: Path) -> Result<Bytes, Trouble> {
        body_of(self.raw(session, path).await?).await
    }

    /// Reads something that is told with a refusal's status too, such as how the server is.
    pub(crate) async fn get_anyway<T: DeserializeOwned>(
        &self,
        session: &Session,
        path: Path,
    ) -> Result<T, Trouble> {
        let answer = self.raw(session, path).await?;
        read(&whole(answer.into_body()).await?)
    }

    /// Reads several things, some at once, in the order in which they are asked for.
    pub(crate) async fn get_each<T: DeserializeOwned>(
        &self,
        session: &Session,
        paths: impl IntoIterator<Item = Path>,
    ) -> Result<Vec<T>, Trouble> {
        let asked: Vec<_> = paths.into_iter().map(|path| self.get(session, path)).collect();
        let found = futures::stream::iter(asked).buffered(ASKED_AT_ONCE);
        found.collect::<Vec<_>>().await.into_iter().collect()
    }

    /// Reads pages of a list, from a cursor on, until they have `ROWS` items together: some filters
    /// look at what a page of the API holds and leave little of it.
    pub(crate) async fn gather<T: DeserializeOwned>(
        &self,
        session: &Session,
        path: &Path,
        cursor: &str,
    ) -> Result<Listed<T>, Trouble> {
        let mut all = Listed { items: Vec::new(), next_cursor: Some(cursor.to_owned()) };
        for _ in 0..PAGES_MAX {
            let Some(cursor) = all.next_cursor.take() else { break };
            let page: Listed<T> = self.get(session, path.clone().with("cursor", &cursor)).await?;
            all.items.extend(page.items);
            all.next_cursor = page.next_cursor;
            if all.items.len() >= ROWS {
                break;
            }
        }
        Ok(all)
    }

    /// Does something, once for each key, and reads what came of it.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        session: &Session,
        wish: Wish,
        key: &str,
    ) -> Result<T, Trouble> {
        let mut request = request(session, wish.method, &wish.path, wish.body)?;
        let header = |text: &str| {
            HeaderValue::from_str(text).map_err(|error| Trouble::internal(error.to_string()))
        };
        request.headers_mut().insert(IDEMPOTENCY_KEY, header(key)?);
        if let Some(version) = wish.version {
            request.headers_mut().insert(header::IF_MATCH, header(&format!("\"{version}\""))?);
        }
        let answer = body_of(self.ask(request).await).await?;
        read(if answer.is_empty() { b"null" } else { &answer })
    }

    /// Returns an answer as it comes, for what is passed on.
    pub(crate) async fn raw(
        &self,
        session: &Session,
        path: Path,
    ) -> Result<Response<Body>, Trouble> {
        Ok(self.ask(request(session, Method::GET, &path, Bytes::new())?).await)
    }

    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }
}

/// Makes a request of whoever is signed in.
fn request(
    session: &Session,
    method: Method,
    path: &Path,
    body: Bytes,
) -> Result<Request<Body>, Trouble> {
    let (name, credential) = session.credential();
    let is_key = name == API_KEY;
    let text = if is_key { credential.to_owned() } else { format!("Bearer {credential}") };
    // A credential or an org that no header can hold is none that the API knows.
    let unknown = |_| {
        let detail = "The org, token or key has characters that none has.";
        Trouble::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    };
    let mut credential = HeaderValue::from_str(&text).map_err(unknown)?;
    credential.set_sensitive(true);
    let request = Request::builder()
        .method(method)
        .uri(&path.text)
        .header(name, credential)
        .header(ORG, HeaderValue::from_str(&session.org).map_err(unknown)?)
        .header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body)).map_err(|error| Trouble::internal(error.to_string()))
}

/// Reads an answer to its end, or what was refused.
async fn body_of(response: Response<Body>) -> Result<Bytes, Trouble> {
    let status = response.status();
    let body = whole(response.into_body()).await?;
    if status.is_success() { Ok(body) } else { Err(Trouble::of(status, &body)) }
}

async fn whole(body: Body) -> Result<Bytes, Trouble> {
    let read = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    Ok(read.map_err(|_| Trouble::internal("the API's answer broke off"))?.to_bytes())
}

/// Returns the header that a credential goes into: an API key has one dot, a token two.
pub(crate) fn header_of(credential: &str) -> HeaderName {
    let is_token = credential.matches('.').count() == 2;
    if is_token { header::AUTHORIZATION } else { API_KEY }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(body).map_err(|error| {
        Trouble::internal(format!("the API's answer is not what the page expects: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_in_paths_and_parameters() {
        let path = Path::new(&["inventory", "A/B ü?#"]).with("search", "a&b=c").with("cursor", "");
        assert_eq!(path.text, "/sales-channel/inventory/A%2FB%20%C3%BC%3F%23?search=a%26b%3Dc");
    }

    #[test]
    fn what_the_api_refuses_is_told_with_its_fields() {
        let body = br#"{"code":"invalid_quantity","detail":"look at the fields",
            "errors":[{"pointer":"/quantity","code":"x","detail":"must be whole"}]}"#;
        let trouble = Trouble::of(StatusCode::BAD_REQUEST, body);
        assert_eq!(trouble.detail, "look at the fields; quantity must be whole");
        assert_eq!(trouble.code, "invalid_quantity");
        let trouble = Trouble::of(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(trouble.detail, "the API answered 502 Bad Gateway");
    }

    #[test]
    fn tokens_and_keys_go_into_their_headers() {
        assert_eq!(header_of("a.b.c"), header::AUTHORIZATION);
        assert_eq!(header_of("key_1.secret"), API_KEY);
    }
}
