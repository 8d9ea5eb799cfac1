//! Who is signed in: a credential of the API, sealed in a cookie that scripts cannot read.
//!
//! Nothing is kept on the server, so that any node knows every session.

use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::Shared;
use crate::api::header_of;

/// The length of the key that sessions are sealed with, in bytes.
pub const KEY_BYTES: usize = 32;
/// How long a session lasts at most, in seconds; its token may end it before.
const SECONDS_MAX: i64 = 12 * 3_600;
/// The name of the cookie.
const COOKIE: &str = "trueup_session";
/// The longest credential that a cookie holds.
pub(crate) const CREDENTIAL_BYTES_MAX: usize = 2_600;
const NONCE_BYTES: usize = 24;

/// A signed-in operator.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) org: String,
    credential: String,
    /// The word that only the session's own pages know; their forms carry it.
    word: String,
    /// Until when it holds, in seconds since 1970.
    until: i64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session of {} until {}", self.org, self.until)
    }
}

impl Session {
    pub(crate) fn new(org: String, credential: String) -> Self {
        let word = random_word::<18>();
        Self { org, credential, word, until: now() + SECONDS_MAX }
    }

    /// Returns the header and the text of the credential.
    pub(crate) fn credential(&self) -> (HeaderName, &str) {
        (header_of(&self.credential), &self.credential)
    }

    /// Returns what the forms of a new page carry: the session's word and the page's own.
    pub(crate) fn mark(&self) -> String {
        format!("{}.{}", self.word, random_word::<12>())
    }

    /// Returns the page's own word of a mark, where one of this session's pages has made it.
    pub(crate) fn page_of<'a>(&self, mark: &'a str) -> Option<&'a str> {
        let (word, page) = mark.split_once('.')?;
        bool::from(self.word.as_bytes().ct_eq(word.as_bytes())).then_some(page)
    }
}

/// Returns a text that nobody guesses, of so many random bytes.
pub(crate) fn random_word<const BYTES: usize>() -> String {
    let mut bytes = [0_u8; BYTES];
    rand::fill(&mut bytes[..]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the present in seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Seals sessions.
pub(crate) struct Seal {
    cipher: XChaCha20Poly1305,
}

impl Seal {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self { cipher: XChaCha20Poly1305::new(key.into()) }
    }

    /// Returns a session as a cookie's value.
    fn seal(&self, session: &Session) -> Option<String> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let plain = serde_json::to_vec(session).ok()?;
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), plain.as_slice()).ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// Returns the session of a cookie's value, where it is ours and still holds.
    fn open(&self, text: &str) -> Option<Session> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>()?;
        let plain = self.cipher.decrypt(&XNonce::from(*nonce), sealed).ok()?;
        let session: Session = serde_json::from_slice(&plain).ok()?;
        (session.until > now()).then_some(session)
    }

    /// Returns the session that a request's cookies hold.
    pub(crate) fn session_of(&self, headers: &HeaderMap) -> Option<Session> {
        cookies(headers).find_map(|text| self.open(text))
    }

    /// Returns the header that gives a browser its session.
    pub(crate) fn cookie(&self, session: &Session, is_secure: bool) -> Option<HeaderValue> {
        let value = self.seal(session)?;
        cookie(&value, SECONDS_MAX, is_secure)
    }
}

/// Returns the header that takes a browser's session away.
pub(crate) fn no_cookie(is_secure: bool) -> Option<HeaderValue> {
    cookie("", 0, is_secure)
}

/// `Lax`, so that a link in a message leads to its page; forms are looked at by themselves.
fn cookie(value: &str, seconds: i64, is_secure: bool) -> Option<HeaderValue> {
    let secure = if is_secure { "; Secure" } else { "" };
    let text =
        format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';'));
    pairs.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

impl FromRequestParts<Shared> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, house: &Shared) -> Result<Self, Response> {
        let found = house.seal.session_of(&parts.headers);
        found.ok_or_else(|| sign_in(parts.uri.path_and_query().map_or("/", |whole| whole.as_str())))
    }
}

impl OptionalFromRequestParts<Shared> for Session {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        house: &Shared,
    ) -> Result<Option<Self>, Infallible> {
        Ok(house.seal.session_of(&parts.headers))
    }
}

/// Returns the way to the page that signs in, and back.
pub(crate) fn sign_in(back: &str) -> Response {
    let back = if back == "/" { String::new() } else { crate::api::encoded(back) };
    Redirect::to(&format!("/login?back={back}")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new("acme".to_owned(), "a.b.c".to_owned())
    }

    #[test]
    fn a_session_comes_back_out_of_its_cookie_and_out_of_no_other() {
        let (seal, other) = (Seal::new(&[7; KEY_BYTES]), Seal::new(&[8; KEY_BYTES]));
        let session = session();
        let text = seal.seal(&session).unwrap();
        assert!(!text.contains("a.b.c"));
        assert_eq!(seal.open(&text), Some(session));
        assert_eq!(other.open(&text), None);
        let mut changed = text.clone().into_bytes();
        for at in 0..changed.len() {
            let was = changed[at];
            changed[at] = if was == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open(std::str::from_utf8(&changed).unwrap()), None, "{at}");
            changed[at] = was;
        }
        assert_eq!(seal.open(""), None);
        assert_eq!(seal.open("AAAA"), None);
    }

    #[test]
    fn a_session_that_has_run_out_is_none() {
        let seal = Seal::new(&[7; KEY_BYTES]);
        let old = Session { until: now() - 1, ..session() };
        assert_eq!(seal.open(&seal.seal(&old).unwrap()), None);
    }

    #[test]
    fn the_cookie_is_kept_from_scripts_and_other_sites() {
        let seal = Seal::new(&[7; KEY_BYTES]);
        let text = seal.cookie(&session(), true).unwrap();
        let text = text.to_str().unwrap();
        for word in ["HttpOnly", "SameSite=Lax", "Secure", "Path=/"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(!seal.cookie(&session(), false).unwrap().to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn the_largest_credential_fits_a_cookie() {
        let seal = Seal::new(&[7; KEY_BYTES]);
        let long = "x".repeat(CREDENTIAL_BYTES_MAX);
        let session = Session::new("o".repeat(255), long);
        // Browsers keep cookies of 4096 bytes.
        assert!(seal.cookie(&session, true).unwrap().len() <= 4_096);
    }

    #[test]
    fn a_mark_is_of_its_session_only() {
        let (session, other) = (session(), session());
        let mark = session.mark();
        assert!(session.page_of(&mark).is_some());
        assert_ne!(session.page_of(&mark), session.page_of(&session.mark()));
        assert_eq!(other.page_of(&mark), None);
        assert_eq!(session.page_of(""), None);
        assert_eq!(session.page_of(".x"), None);
    }

    #[test]
    fn a_session_does_not_show_its_secrets() {
        let session = session();
        let shown = format!("{session:?}");
        assert!(!shown.contains("a.b.c") && !shown.contains(&session.word), "{shown}");
    }
}
