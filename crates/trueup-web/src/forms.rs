//! Forms: what the session's own pages have sent, and nothing else.

use axum::extract::{FromRequest, Multipart, Request};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::Shared;
use crate::api::{Path, Trouble, Wish};
use crate::page::refused;
use crate::session::{Session, sign_in};

/// The largest form, in bytes: a file as large as the API takes, and what goes with it.
pub(crate) const FORM_BYTES_MAX: usize = 11 << 20;
/// The most fields of a form: a page of counts has two for each row.
const FIELDS_MAX: usize = 4_096;

/// A form that one of the session's own pages has sent.
pub(crate) struct Posted {
    pub(crate) session: Session,
    /// The page's own word: the same form sent twice from one page is one wish.
    page: String,
    fields: Vec<(String, String)>,
}

impl Posted {
    /// Returns a field without the space around it; empty where there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default().trim()
    }

    /// Returns whether a field says anything.
    pub(crate) fn has(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }

    /// Returns every value of a field.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter().filter(move |(known, _)| known == name);
        fields.map(|(_, value)| value.as_str())
    }

    /// Returns those of these fields that say something, as numbers under their names. What is no
    /// number is refused by the API.
    pub(crate) fn numbers(&self, names: &[(&str, &str)]) -> Map<String, Value> {
        let number = |text: &str| text.parse::<u64>().map_or_else(|_| json!(text), Value::from);
        let given = names.iter().filter(|(name, _)| self.has(name));
        given.map(|(name, _)| ((*name).to_owned(), number(self.text(name)))).collect()
    }

    /// Returns all fields.
    pub(crate) fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// Asks the API for what the form wishes.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        house: &Shared,
        method: Method,
        path: Path,
        body: &Value,
    ) -> Result<T, Trouble> {
        let body = body.to_string().into();
        self.wish(house, Wish { method, path, body, version: None }).await
    }

    /// Asks the API for what the form wishes, whatever it is made of.
    pub(crate) async fn wish<T: DeserializeOwned>(
        &self,
        house: &Shared,
        wish: Wish,
    ) -> Result<T, Trouble> {
        let key = self.key(&wish);
        house.api.send(&self.session, wish, &key).await
    }

    /// Returns the idempotency key of a wish.
    fn key(&self, wish: &Wish) -> String {
        let mut digest = blake3::Hasher::new();
        let version = wish.version.map_or_else(String::new, |version| version.to_string());
        let (method, path) = (wish.method.as_str(), wish.path.as_str());
        for part in [method.as_bytes(), path.as_bytes(), version.as_bytes(), &wish.body] {
            digest.update(&part.len().to_le_bytes());
            digest.update(part);
        }
        format!("page-{}-{}", self.page, digest.finalize().to_hex())
    }
}

impl FromRequest<Shared> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, house: &Shared) -> Result<Self, Response> {
        // Where it would lead back to cannot be seen again: it is where forms are sent.
        let session = house.seal.session_of(request.headers()).ok_or_else(|| sign_in("/"))?;
        if !is_from_here(request.headers()) {
            return Err(refused(&session, "/", foreign()));
        }
        let fields = match fields_of(request, house).await {
            Ok(fields) => fields,
            Err(trouble) => return Err(refused(&session, "/", trouble)),
        };
        let mark = fields.iter().find(|(name, _)| name == "form").map(|(_, mark)| mark.as_str());
        match mark.and_then(|mark| session.page_of(mark)).map(str::to_owned) {
            Some(page) => Ok(Self { session, page, fields }),
            None => Err(refused(&session, "/", foreign())),
        }
    }
}

async fn fields_of(request: Request, house: &Shared) -> Result<Vec<(String, String)>, Trouble> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("multipart/form-data")) {
        return parts_of(request, house).await;
    }
    let body = Bytes::from_request(request, house).await.map_err(|_| unreadable())?;
    let pairs = url::form_urlencoded::parse(&body).into_owned();
    let fields: Vec<_> = pairs.take(FIELDS_MAX + 1).collect();
    if fields.len() > FIELDS_MAX { Err(unreadable()) } else { Ok(fields) }
}

/// Reads a form that has files; a file that was not chosen is left out.
async fn parts_of(request: Request, house: &Shared) -> Result<Vec<(String, String)>, Trouble> {
    let parts = Multipart::from_request(request, house).await;
    let mut parts = parts.map_err(|_| unreadable())?;
    let mut fields = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(|_| unreadable())? {
        let name = part.name().unwrap_or_default().to_owned();
        let is_file = part.file_name().is_some();
        let bytes = part.bytes().await.map_err(|_| unreadable())?;
        if fields.len() >= FIELDS_MAX {
            return Err(unreadable());
        }
        if !is_file || !bytes.is_empty() {
            let text = String::from_utf8(bytes.into()).map_err(|_| not_text())?;
            fields.push((name, text));
        }
    }
    Ok(fields)
}

/// Returns whether the browser says that a request comes from our own pages. One that says
/// nothing is not a browser of this decade, and carries no cookie of another site.
pub(crate) fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, from)| from == host)
        }
        (Some(_), None) => false,
        (None, _) => true,
    }
}

/// The refusal of a form that none of the session's pages has made.
fn foreign() -> Trouble {
    let detail = "The form was not one of this session's. Open the page again and send it anew.";
    Trouble::new(StatusCode::FORBIDDEN, "foreign_form", detail)
}

fn unreadable() -> Trouble {
    let detail = "The form could not be read: it is cut off, or too large.";
    Trouble::new(StatusCode::BAD_REQUEST, "unreadable_form", detail)
}

fn not_text() -> Trouble {
    Trouble::new(StatusCode::BAD_REQUEST, "not_text", "The file is not text in UTF-8.")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn another_site_is_told_from_ours() {
        let headers = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_str(value).unwrap());
            }
            headers
        };
        assert!(is_from_here(&headers(&[("sec-fetch-site", "same-origin")])));
        assert!(!is_from_here(&headers(&[("sec-fetch-site", "cross-site")])));
        assert!(!is_from_here(&headers(&[("sec-fetch-site", "same-site")])));
        assert!(is_from_here(&headers(&[("origin", "http://here:1"), ("host", "here:1")])));
        assert!(!is_from_here(&headers(&[("origin", "http://there"), ("host", "here:1")])));
        assert!(!is_from_here(&headers(&[("origin", "null"), ("host", "here:1")])));
    }

    #[test]
    fn one_wish_of_a_page_has_one_key() {
        let session = Session::new("acme".to_owned(), "a.b.c".to_owned());
        let posted = |page: &str| Posted {
            session: session.clone(),
            page: page.to_owned(),
            fields: Vec::new(),
        };
        let key = |posted: &Posted, body: &'static str, version| {
            let path = Path::new(&["inventory", "A", "adjust"]);
            posted.key(&Wish { method: Method::POST, path, body: body.into(), version })
        };
        let one = posted("one");
        assert_eq!(key(&one, "-1", None), key(&one, "-1", None));
        assert_ne!(key(&one, "-1", None), key(&one, "-2", None));
        assert_ne!(key(&one, "-1", None), key(&one, "-1", Some(7)));
        assert_ne!(key(&one, "-1", None), key(&posted("two"), "-1", None));
        assert!(key(&one, "-1", None).len() <= 255);
    }
}
