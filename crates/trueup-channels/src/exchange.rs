//! What all connectors need to make a request and to look at an answer; nothing of any vendor.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trueup_core::Timestamp;

use crate::port::{ChannelError, ChannelErrorKind, PushOutcome, Request, Response, Secret};

/// The most characters of a vendor's text that an error keeps.
pub(crate) const DETAIL_CHARS_MAX: usize = 400;

/// RFC 3986's unreserved characters stay, everything else is encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes one path segment or query value.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Joins values for one query parameter as the vendors want lists: encoded, then commas.
pub(crate) fn encode_list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(encode).collect::<Vec<_>>().join(",")
}

/// Builds a form body.
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        form.append_pair(name, value);
    }
    form.finish()
}

/// A request in the making.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing(Request);

impl Outgoing {
    /// Starts a request that may be repeated; see [`Outgoing::once`].
    pub(crate) fn new(bucket: &'static str, method: Method, url: String) -> Self {
        Self(Request {
            bucket,
            cost: 1,
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            repeatable: true,
            own_address: false,
            held_back_ms: 0,
            urgent: false,
        })
    }

    /// Says that the URL is the merchant's own.
    pub(crate) fn own_address(mut self) -> Self {
        self.0.own_address = true;
        self
    }

    /// Says how long the answer is held back on purpose, in milliseconds.
    pub(crate) fn held_back(mut self, millis: u64) -> Self {
        self.0.held_back_ms = millis;
        self
    }

    /// Says whether it tells what could be oversold.
    pub(crate) fn urgent(mut self, urgent: bool) -> Self {
        self.0.urgent = urgent;
        self
    }

    /// Says that sending it twice is not the same as sending it once.
    pub(crate) fn once(mut self) -> Self {
        self.0.repeatable = false;
        self
    }

    /// Says how much of the rate budget it draws.
    pub(crate) fn cost(mut self, cost: u32) -> Self {
        self.0.cost = cost;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.0.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    pub(crate) fn text_header(
        mut self,
        name: &'static str,
        value: &str,
    ) -> Result<Self, ChannelError> {
        let value = HeaderValue::from_str(value).map_err(|_| {
            let detail = format!("a value for the header {name} has illegal characters");
            ChannelError::new(ChannelErrorKind::Bug, detail)
        })?;
        self.0.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// Adds a header that is never to be shown.
    pub(crate) fn secret_header(
        mut self,
        name: &'static str,
        value: &str,
    ) -> Result<Self, ChannelError> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            let detail = format!("a credential for the header {name} has illegal characters");
            ChannelError::new(ChannelErrorKind::Config, detail)
        })?;
        value.set_sensitive(true);
        self.0.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    pub(crate) fn bearer(self, token: &Secret) -> Result<Self, ChannelError> {
        let value = format!("Bearer {}", token.expose());
        self.secret_header(AUTHORIZATION_NAME, &value)
    }

    pub(crate) fn json(self, body: &impl Serialize) -> Self {
        // Our own wire structs: text keys and no failing Serialize.
        let bytes = serde_json::to_vec(body).expect("wire structs serialize");
        self.body("application/json", bytes)
    }

    /// As [`Self::json`], of the size that it has: what is large and grows takes twice as much.
    pub(crate) fn large_json(self, body: &impl Serialize) -> Self {
        let mut size = Size(0);
        serde_json::to_writer(&mut size, body).expect("wire structs serialize");
        let mut bytes = Vec::with_capacity(size.0);
        serde_json::to_writer(&mut bytes, body).expect("wire structs serialize");
        self.body("application/json", bytes)
    }

    pub(crate) fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.0.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.0.body = body.into();
        self
    }

    pub(crate) fn build(self) -> Request {
        self.0
    }
}

/// Counts what is written and keeps nothing of it.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const AUTHORIZATION_NAME: &str = "authorization";

/// Reads a JSON answer; the error says where it broke and never what it held.
pub(crate) fn parse_json<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, ChannelError> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let detail =
            format!("the answer to {what} is not as documented (line {line}, column {column})");
        ChannelError::new(ChannelErrorKind::Protocol, detail)
    })
}

/// Reads the typed content of a JSON value; the error never says what it held.
pub(crate) fn parse_value<T: DeserializeOwned>(
    what: &str,
    value: serde_json::Value,
) -> Result<T, ChannelError> {
    serde_json::from_value(value).map_err(|_| {
        let detail = format!("the answer to {what} is not as documented");
        ChannelError::new(ChannelErrorKind::Protocol, detail)
    })
}

/// Cuts a vendor's text to what an error keeps, without control characters.
pub(crate) fn clip(text: &str) -> String {
    let clean: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DETAIL_CHARS_MAX).collect();
    clean.trim().to_owned()
}

/// Returns what a status alone says: passing, throttled, or not as documented.
///
/// The vendors' `classify` looks at the body first and at 401, 403 and 404 in its own way.
pub(crate) fn classify_status(response: &Response, detail: String) -> ChannelError {
    let kind = match response.status.as_u16() {
        401 => ChannelErrorKind::Auth,
        403 => ChannelErrorKind::Forbidden,
        429 => ChannelErrorKind::Throttled,
        408 | 425 | 500..=599 => ChannelErrorKind::Transient,
        _ => ChannelErrorKind::Protocol,
    };
    let mut error = ChannelError::new(kind, detail);
    error.retry_after_ms = retry_after_ms(&response.headers);
    error
}

fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let told = retry_after(headers, None)?;
    millis(told.as_secs_f64())
}

/// Reads `Retry-After`: seconds, or a date that is compared with that of the answer, else with
/// the instant given (RFC 9110, 10.2.3).
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Option<Timestamp>) -> Option<std::time::Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return std::time::Duration::try_from_secs_f64(seconds).ok();
    }
    let until = http_date(text)?;
    let date = headers.get(DATE).and_then(|date| http_date(date.to_str().ok()?));
    let micros = until.micros_since(date.or(now)?).max(0);
    Some(std::time::Duration::from_micros(u64::try_from(micros).ok()?))
}

/// Reads a date of HTTP in the form that is not obsolete, `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<Timestamp> {
    let parsed = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let instant = parsed.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp::from_micros(instant.timestamp().as_microsecond()))
}

/// Turns seconds into whole milliseconds, rounded up; at most an hour.
pub(crate) fn millis(seconds: f64) -> Option<u64> {
    const SECONDS_MAX: f64 = 3_600.0;
    if !seconds.is_finite() || seconds < 0.0 {
        return None;
    }
    let duration = std::time::Duration::try_from_secs_f64(seconds.min(SECONDS_MAX)).ok()?;
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).ok()
}

/// Returns whether a write that got this status may have been applied all the same.
///
/// A gateway that gave up (408, 502, 504) and a server that broke (500) say nothing about what
/// was done before; 503 is the vendors' word for "not taken on".
pub(crate) fn is_unclear(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 500 | 502 | 504 | 520..=599)
}

/// Makes an error one about a write whose outcome is not known.
pub(crate) fn unclear(mut error: ChannelError) -> ChannelError {
    error.kind = ChannelErrorKind::UnknownOutcome;
    error
}

/// Returns what an error of a whole call means for one of its items.
pub(crate) fn failed_push(error: ChannelError) -> PushOutcome {
    match error.kind {
        ChannelErrorKind::Transient
        | ChannelErrorKind::Throttled
        | ChannelErrorKind::Auth
        | ChannelErrorKind::Forbidden
        | ChannelErrorKind::AccountBlocked
        | ChannelErrorKind::Config
        | ChannelErrorKind::Bug => PushOutcome::NotSent(error),
        ChannelErrorKind::ListingNotFound
        | ChannelErrorKind::NotPushable
        | ChannelErrorKind::InvalidValue => PushOutcome::Refused(error),
        ChannelErrorKind::Stale => PushOutcome::Stale,
        // An answer that we cannot read does not say that nothing was done.
        ChannelErrorKind::UnknownOutcome | ChannelErrorKind::Protocol => {
            PushOutcome::Unknown(error)
        }
    }
}

/// Returns the error of an item that was not sent because an earlier one stopped the batch.
pub(crate) fn held_back(cause: &ChannelError) -> ChannelError {
    let mut error = cause.clone();
    // Nothing was sent for this item, whatever became of the one before it.
    if error.kind == ChannelErrorKind::UnknownOutcome {
        error.kind = ChannelErrorKind::Transient;
    }
    error
}

/// Returns the error of a call made with more items than the capabilities say.
pub(crate) fn too_many(items_max: usize) -> ChannelError {
    let detail = format!("more than {items_max} items in one call");
    ChannelError::new(ChannelErrorKind::Bug, detail)
}

/// Returns the refusal to push a listing that the channel itself ships.
pub(crate) fn channel_fulfilled() -> ChannelError {
    let detail = "the channel itself ships this listing: its quantity is read, never pushed";
    ChannelError::new(ChannelErrorKind::NotPushable, detail)
}

/// Reads an RFC 3339 instant.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.trim().parse().ok()?;
    Some(Timestamp::from_micros(instant.as_microsecond()))
}

/// Writes an instant as RFC 3339 UTC with milliseconds, rounded down.
pub(crate) fn format_time(at: Timestamp) -> String {
    let instant = jiff::Timestamp::from_microsecond(at.micros()).unwrap_or(if at.micros() < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    });
    instant.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_in_milliseconds() {
        let at = parse_time("2026-11-23T09:30:46.123456Z").unwrap();
        assert_eq!(format_time(at), "2026-11-23T09:30:46.123Z");
        assert_eq!(parse_time("2026-11-23T10:30:46.123456+01:00"), Some(at));
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(format_time(Timestamp::MAX).get(..4), Some("9999"));
    }

    #[test]
    fn seconds_become_milliseconds_rounded_up() {
        for (seconds, expected) in
            [(0.0, Some(0)), (0.0101, Some(11)), (2.0, Some(2_000)), (1e9, Some(3_600_000))]
        {
            assert_eq!(millis(seconds), expected, "{seconds}");
        }
        assert_eq!(millis(f64::NAN), None);
        assert_eq!(millis(-1.0), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let headers = |pairs: &[(http::HeaderName, &str)]| -> HeaderMap {
            let pair = |(name, text): &(http::HeaderName, &str)| {
                (name.clone(), HeaderValue::from_str(text).unwrap())
            };
            pairs.iter().map(pair).collect()
        };
        let after = |text: &str, date: Option<&str>| {
            let mut pairs = vec![(RETRY_AFTER, text)];
            pairs.extend(date.map(|date| (DATE, date)));
            let now = parse_time("1994-11-06T08:49:30Z");
            retry_after(&headers(&pairs), now).map(|told| told.as_millis())
        };
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(after("2", None), Some(2_000));
        assert_eq!(after("0.5", None), Some(500));
        assert_eq!(after("-1", None), None);
        assert_eq!(after("soon", None), None);
        assert_eq!(after(date, None), Some(7_000));
        assert_eq!(after(date, Some("Sun, 06 Nov 1994 08:48:37 GMT")), Some(60_000));
        assert_eq!(after(date, Some("Sun, 06 Nov 1994 09:00:00 GMT")), Some(0), "long ago");
        assert_eq!(retry_after(&headers(&[(RETRY_AFTER, date)]), None), None);
        assert_eq!(retry_after(&HeaderMap::new(), None), None);
    }

    #[test]
    fn values_are_encoded_to_the_last_character() {
        assert_eq!(encode("Größe 42/rot & 10%"), "Gr%C3%B6%C3%9Fe%2042%2Frot%20%26%2010%25");
        assert_eq!(encode_list(["A B", "C"]), "A%20B,C");
        assert_eq!(form(&[("a", "1 2"), ("b", "&")]), "a=1+2&b=%26");
    }
}
