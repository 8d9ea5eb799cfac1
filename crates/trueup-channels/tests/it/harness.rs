//! A caller with scripted answers, and short ways to write requests and listings.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use trueup_channels::{
    Caller, Channel, ChannelError, ChannelErrorKind, Listing, ListingNote, Notice, OrderNotice,
    PushBatch, PushItem, PushOutcome, RateHint, Request, Response, Secret, Settings, Turn,
};
use trueup_core::{Sku, Timestamp};

pub(crate) type Answer = Result<Response, ChannelError>;

/// Answers in the order of its script and keeps what it was asked.
#[derive(Default)]
pub(crate) struct Fake {
    script: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Request>>,
    tokens: Mutex<BTreeMap<String, Secret>>,
    credentials: Mutex<BTreeMap<String, Secret>>,
    pub(crate) keeps_nothing: bool,
    renewed_meanwhile: Mutex<Option<(String, Secret)>>,
    learned: Mutex<Vec<(&'static str, RateHint)>>,
    remembered: Mutex<BTreeMap<String, String>>,
    noted: Mutex<Vec<ListingNote>>,
}

impl Fake {
    pub(crate) fn new(script: impl IntoIterator<Item = Answer>) -> Self {
        Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() }
    }

    /// With tokens already granted, so that a script starts with the matter itself.
    pub(crate) fn granted(script: impl IntoIterator<Item = Answer>) -> Self {
        let fake = Self::new(script);
        for name in ["access", "user", "application", "notifications"] {
            fake.tokens.lock().unwrap().insert(name.into(), Secret::new(format!("{name}-granted")));
        }
        let refresh = Secret::new("refresh-granted");
        fake.credentials.lock().unwrap().insert("refreshToken".into(), refresh);
        fake
    }

    /// With a token that another task puts in the place of the granted one before the first
    /// answer comes.
    pub(crate) fn renewed_meanwhile(self, name: &str, token: &str) -> Self {
        *self.renewed_meanwhile.lock().unwrap() = Some((name.into(), Secret::new(token)));
        self
    }

    pub(crate) fn keep(self, name: &str, text: &str) -> Self {
        self.remembered.lock().unwrap().insert(name.into(), text.into());
        self
    }

    /// Returns what was noted of listings as `key name=value`, a field taken away without value.
    pub(crate) fn noted(&self) -> Vec<String> {
        let notes = std::mem::take(&mut *self.noted.lock().unwrap());
        let line = |note: ListingNote| {
            let field = |(name, value): (String, Option<String>)| match value {
                Some(value) => format!(" {name}={value}"),
                None => format!(" {name}"),
            };
            format!("{}{}", note.key, note.fields.into_iter().map(field).collect::<String>())
        };
        notes.into_iter().map(line).collect()
    }

    /// With the credentials that a connection was set up with.
    pub(crate) fn of(self, settings: &Settings) -> Self {
        self.credentials.lock().unwrap().extend(settings.credentials.clone());
        self
    }

    /// Returns the newest credential of a name as text.
    pub(crate) fn kept(&self, name: &str) -> Option<String> {
        self.credential(name).map(|secret| secret.expose().to_owned())
    }

    /// Forgets every token, as when they have run out.
    pub(crate) fn run_out(&self) {
        self.tokens.lock().unwrap().clear();
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        assert!(self.script.lock().unwrap().is_empty(), "answers were left over");
        self.asked.lock().unwrap().clone()
    }

    /// Returns method and URL of everything asked.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.asked().iter().map(|r| format!("{} {}", r.method, r.url)).collect()
    }

    pub(crate) fn body(&self, at: usize) -> Value {
        serde_json::from_slice(&self.asked()[at].body).unwrap()
    }

    pub(crate) fn learned(&self) -> Vec<(&'static str, RateHint)> {
        self.learned.lock().unwrap().clone()
    }
}

#[async_trait]
impl Caller for Fake {
    async fn call(&self, request: Request) -> Answer {
        let shown = format!("{request:?}");
        assert!(!shown.contains("-granted"), "a token in the Debug of a request: {shown}");
        let line = format!("{} {}", request.method, request.url);
        self.asked.lock().unwrap().push(request);
        let renewed = self.renewed_meanwhile.lock().unwrap().take();
        self.tokens.lock().unwrap().extend(renewed);
        let next = self.script.lock().unwrap().pop_front();
        next.unwrap_or_else(|| panic!("no answer left for {line}"))
    }

    fn learn(&self, bucket: &'static str, hint: RateHint) {
        self.learned.lock().unwrap().push((bucket, hint));
    }

    fn token(&self, name: &str) -> Option<Secret> {
        self.tokens.lock().unwrap().get(name).cloned()
    }

    fn keep_token(&self, name: &str, token: Secret, _expires_in_seconds: u64) {
        self.tokens.lock().unwrap().insert(name.into(), token);
    }

    fn drop_token(&self, name: &str, refused: &Secret) {
        self.tokens.lock().unwrap().retain(|kept, token| kept != name || token != refused);
    }

    fn recall(&self, name: &str) -> Option<String> {
        self.remembered.lock().unwrap().get(name).cloned()
    }

    fn remember(&self, name: &str, text: &str, _seconds: u64) {
        self.remembered.lock().unwrap().insert(name.into(), text.into());
    }

    fn forget(&self, name: &str) {
        self.remembered.lock().unwrap().remove(name);
    }

    async fn note_listings(&self, notes: Vec<ListingNote>) {
        self.noted.lock().unwrap().extend(notes);
    }

    fn credential(&self, name: &str) -> Option<Secret> {
        self.credentials.lock().unwrap().get(name).cloned()
    }

    async fn keep_credentials(
        &self,
        values: Vec<(&'static str, Secret)>,
    ) -> Result<(), ChannelError> {
        if self.keeps_nothing {
            return Err(ChannelError::new(ChannelErrorKind::Transient, "the disk is full"));
        }
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value));
        self.credentials.lock().unwrap().extend(values);
        Ok(())
    }

    async fn turn_to_renew(&self) -> Turn {
        Box::new(())
    }

    fn now(&self) -> Timestamp {
        // 2026-11-23T09:30:46Z
        Timestamp::from_micros(1_795_426_246_000_000)
    }
}

pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.insert(name, HeaderValue::from_str(value).unwrap());
    }
    Ok(Response { status: StatusCode::from_u16(status).unwrap(), headers: map, body: body.into() })
}

pub(crate) fn json(status: u16, body: Value) -> Answer {
    answer(status, &[], body.to_string())
}

pub(crate) fn lost() -> Answer {
    Err(ChannelError::new(ChannelErrorKind::UnknownOutcome, "the connection broke"))
}

pub(crate) fn not_sent() -> Answer {
    Err(ChannelError::new(ChannelErrorKind::Transient, "no connection"))
}

pub(crate) fn settings(fields: &[(&str, Value)], credentials: &[(&str, &str)]) -> Settings {
    Settings {
        fields: fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect(),
        credentials: credentials
            .iter()
            .map(|(name, text)| ((*name).into(), Secret::new(*text)))
            .collect(),
    }
}

pub(crate) fn channel(kind: &str, settings: &Settings) -> Box<dyn Channel> {
    let kind = trueup_channels::kind(kind).unwrap();
    kind.open(settings).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

/// Returns the names of the settings that are wrong.
pub(crate) fn wrong_settings(kind: &str, settings: &Settings) -> Vec<String> {
    match trueup_channels::kind(kind).unwrap().open(settings) {
        Ok(_) => Vec::new(),
        Err(wrong) => wrong.into_iter().map(|wrong| wrong.setting).collect(),
    }
}

pub(crate) fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect()
}

pub(crate) fn listing(kind: &str, settings: &Settings, pairs: &[(&str, &str)]) -> Listing {
    let kind = trueup_channels::kind(kind).unwrap();
    let (key, fields) = kind.listing(settings, fields(pairs)).unwrap();
    Listing { sku: Sku::new("OURS").unwrap(), key, fields, channel_fulfilled: false }
}

/// Returns the key of a listing, or the names of the fields that are wrong.
pub(crate) fn listing_key(kind: &str, settings: &Settings, pairs: &[(&str, &str)]) -> String {
    match trueup_channels::kind(kind).unwrap().listing(settings, fields(pairs)) {
        Ok((key, _)) => key.to_string(),
        Err(wrong) => {
            let names: Vec<String> = wrong.into_iter().map(|wrong| wrong.setting).collect();
            format!("wrong: {}", names.join(" "))
        }
    }
}

pub(crate) fn item(listing: Listing, quantity: u64, expected_before: Option<i64>) -> PushItem {
    PushItem { listing, quantity, expected_before }
}

pub(crate) fn batch(items: Vec<PushItem>) -> PushBatch {
    PushBatch { token: "00000000-0000-4000-8000-000000000001".into(), items }
}

/// Writes an outcome short: `Applied`, `Refused InvalidValue 25709`.
pub(crate) fn short(outcome: &PushOutcome) -> String {
    let with = |name: &str, error: &ChannelError| {
        let code = error.vendor_code.as_deref().unwrap_or("-");
        format!("{name} {:?} {code}", error.kind)
    };
    match outcome {
        PushOutcome::Applied => "Applied".into(),
        PushOutcome::Accepted => "Accepted".into(),
        PushOutcome::Stale => "Stale".into(),
        PushOutcome::NotSent(error) => with("NotSent", error),
        PushOutcome::Refused(error) => with("Refused", error),
        PushOutcome::Unknown(error) => with("Unknown", error),
    }
}

pub(crate) fn shorts(outcomes: &[PushOutcome]) -> Vec<String> {
    outcomes.iter().map(short).collect()
}

pub(crate) fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let Ok(Response { headers, .. }) = answer(200, pairs, "") else { unreachable!() };
    headers
}

/// Returns the one notice, which must be of an order.
pub(crate) fn order_of(notices: Vec<Notice>) -> OrderNotice {
    match notices.into_iter().next() {
        Some(Notice::Order(order)) => order,
        other => panic!("not an order: {other:?}"),
    }
}

/// Returns the fields of the one notice, which must be a hint with an instant.
pub(crate) fn hint_of(notices: Vec<Notice>) -> BTreeMap<String, String> {
    match notices.into_iter().next() {
        Some(Notice::InventoryHint { fields, at: Some(_), .. }) => fields,
        other => panic!("not a hint: {other:?}"),
    }
}
