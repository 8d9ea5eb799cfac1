//! The one way out to vendors: endpoint, address guard, rate budgets, retries, limits, tokens,
//! redacted logs and counters, for every connector alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use reqwest::Body;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trueup_channels::{
    Caller, ChannelError, ChannelErrorKind, ListingNote, QUOTA_KEPT, Quota, RateHint, Request,
    Response, Secret, Turn, retry_after,
};
use trueup_core::{ChannelId, Org, Timestamp};
use url::Url;

use crate::address::{self, AddressError, GuardedResolver, Reach};
use crate::backoff;
use crate::barrier::{BarredBody, Barrier, LEASE_LOST, lease_lost};
use crate::engine::Clock;
use crate::throttle::{Allowance, Figure, Hold, Throttle};

/// The largest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How often a repeatable request is sent at most.
pub const REQUEST_TRIES_MAX: u32 = 3;
/// The first pause before a repeat, in milliseconds.
const RETRY_MS_FIRST: u64 = 200;
/// The longest pause before a repeat within one call; a longer `Retry-After` is handed on.
const RETRY_MS_MAX: u64 = 5_000;
/// How long a connection may take to come about.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a token must still be good to be used.
const TOKEN_SECONDS_LEFT: u64 = 60;
/// The most tokens one connection keeps.
const TOKENS_MAX: usize = 100;
/// The most other texts that one connection remembers.
const REMEMBERED_MAX: usize = 10_000;
/// The longest window that a quota is taken to have.
const QUOTA_TIME_MAX: Duration = Duration::from_secs(31 * 86_400);
/// The longest that anything is kept: a year is longer than any vendor's token lives.
const KEPT_SECONDS_MAX: u64 = 366 * 86_400;

/// Makes the HTTP client: guarded addresses, no proxies, no redirects, a timeout.
pub(crate) fn client(reach: Reach, timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .user_agent(concat!("trueup/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(GuardedResolver(reach))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .connect_timeout(CONNECT_TIME_MAX.min(timeout))
        .build()
}

/// Keeps durably what the vendor gave or told.
#[async_trait]
pub(crate) trait Keeper: Send + Sync {
    /// Keeps renewed credentials, all or none, and lets them be used only then.
    async fn keep(
        &self,
        vault: &Vault,
        values: BTreeMap<String, Secret>,
    ) -> Result<(), ChannelError>;

    /// Keeps what was found out about listings with their mappings.
    async fn note(&self, notes: Vec<ListingNote>);
}

/// Things by name, each good for a while; when full, the oldest makes room.
struct Shelf<T> {
    items_max: usize,
    put: u64,
    items: BTreeMap<String, Kept<T>>,
    /// Names by when they were put there.
    order: BTreeMap<u64, String>,
}

struct Kept<T> {
    thing: T,
    good_until: Instant,
    put: u64,
}

impl<T: Clone> Shelf<T> {
    fn new(items_max: usize) -> Self {
        Self { items_max, put: 0, items: BTreeMap::new(), order: BTreeMap::new() }
    }

    /// Returns what is good for longer than this.
    fn get(&self, name: &str, at_least: Duration) -> Option<T> {
        let kept = self.items.get(name)?;
        let left = kept.good_until.saturating_duration_since(Instant::now());
        (left > at_least).then(|| kept.thing.clone())
    }

    /// Returns when the first of what is still good ends.
    fn first_end(&self, now: Instant) -> Option<Instant> {
        self.items.values().map(|kept| kept.good_until).filter(|end| *end > now).min()
    }

    fn put(&mut self, name: &str, thing: T, seconds: u64) {
        self.remove(name);
        if self.items.len() >= self.items_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.items.remove(&oldest);
        }
        self.put += 1;
        let good_until = Instant::now() + Duration::from_secs(seconds.min(KEPT_SECONDS_MAX));
        self.items.insert(name.to_owned(), Kept { thing, good_until, put: self.put });
        self.order.insert(self.put, name.to_owned());
    }

    fn remove(&mut self, name: &str) {
        if let Some(kept) = self.items.remove(name) {
            self.order.remove(&kept.put);
        }
    }

    /// Removes this thing, unless another one stands under the name by now.
    fn remove_if(&mut self, name: &str, thing: &T)
    where
        T: PartialEq,
    {
        if self.items.get(name).is_some_and(|kept| kept.thing == *thing) {
            self.remove(name);
        }
    }
}

/// The credentials of one connection that were renewed since it was opened. Links of one
/// connection that stand on the same refresh token share it, so that none uses an old one.
#[derive(Default)]
pub(crate) struct Vault {
    renewed: Mutex<BTreeMap<String, Secret>>,
    renewing: Arc<tokio::sync::Mutex<()>>,
    /// Whether the connection's row holds what these came from; until then, enabling keeps them
    /// with the rest when it has succeeded.
    at_rest: AtomicBool,
}

impl Vault {
    /// Makes the vault of a connection that is kept already.
    pub(crate) fn of_row() -> Arc<Self> {
        Arc::new(Self { at_rest: AtomicBool::new(true), ..Self::default() })
    }

    /// Makes the vault of a connection that is about to be made.
    pub(crate) fn of_draft() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn renewed(&self) -> BTreeMap<String, Secret> {
        self.renewed.lock().clone()
    }

    pub(crate) fn take_in(&self, values: BTreeMap<String, Secret>) {
        self.renewed.lock().extend(values);
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_rest.load(Ordering::Acquire)
    }

    pub(crate) fn set_at_rest(&self, at_rest: bool) {
        self.at_rest.store(at_rest, Ordering::Release);
    }
}

/// What one connection is lent to talk to its vendor.
pub(crate) struct Transport {
    client: reqwest::Client,
    reach: Reach,
    org: Org,
    channel: ChannelId,
    kind: &'static str,
    endpoint: Option<Url>,
    timeout: Duration,
    throttle: Mutex<Throttle>,
    slowed_down: Notify,
    tokens: Mutex<Shelf<Secret>>,
    remembered: Mutex<Shelf<String>>,
    /// What the connection was set up with.
    credentials: BTreeMap<String, Secret>,
    vault: Arc<Vault>,
    keeper: Arc<dyn Keeper>,
    clock: Arc<dyn Clock>,
    barrier: Arc<Barrier>,
    stop: CancellationToken,
}

/// What a transport is made of.
pub(crate) struct TransportParts {
    pub(crate) client: reqwest::Client,
    pub(crate) reach: Reach,
    pub(crate) org: Org,
    pub(crate) channel: ChannelId,
    pub(crate) kind: &'static str,
    pub(crate) endpoint: Option<Url>,
    pub(crate) timeout: Duration,
    pub(crate) budgets: &'static [(&'static str, RateHint)],
    pub(crate) credentials: BTreeMap<String, Secret>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) stop: CancellationToken,
}

impl Transport {
    pub(crate) fn new(parts: TransportParts) -> Self {
        Self {
            client: parts.client,
            reach: parts.reach,
            org: parts.org,
            channel: parts.channel,
            kind: parts.kind,
            endpoint: parts.endpoint,
            timeout: parts.timeout,
            throttle: Mutex::new(Throttle::new(parts.budgets, Instant::now())),
            slowed_down: Notify::new(),
            tokens: Mutex::new(Shelf::new(TOKENS_MAX)),
            remembered: Mutex::new(Shelf::new(REMEMBERED_MAX)),
            credentials: parts.credentials,
            vault: parts.vault,
            keeper: parts.keeper,
            clock: parts.clock,
            barrier: parts.barrier,
            stop: parts.stop,
        }
    }

    /// Returns where renewed credentials are.
    pub(crate) fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Returns when the first of the access tokens at hand ends.
    pub(crate) fn tokens_end(&self) -> Option<Timestamp> {
        let now = Instant::now();
        let left = self.tokens.lock().first_end(now)?.saturating_duration_since(now);
        let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        Some(self.clock.now().plus_millis(millis))
    }

    /// Returns whether a budget has room for one request now.
    pub(crate) fn has_room(&self, bucket: &'static str) -> bool {
        self.throttle.lock().has_room(bucket, Instant::now())
    }

    /// Returns the rate budgets by name.
    pub(crate) fn figures(&self) -> BTreeMap<String, Figure> {
        self.throttle.lock().figures(Instant::now())
    }

    /// Notes what the vendor told of its quotas at this instant.
    pub(crate) fn allow(&self, quotas: &[(&'static str, Quota)], told_at: Timestamp) {
        let now = Instant::now();
        let mut throttle = self.throttle.lock();
        for (bucket, quota) in quotas {
            let left = quota.resets_at.micros_since(told_at).max(0);
            let left = Duration::from_micros(u64::try_from(left).unwrap_or(0)).min(QUOTA_TIME_MAX);
            let allowance = Allowance {
                limit: quota.limit,
                remaining: quota.remaining,
                resets_at: now + left,
                window: Duration::from_millis(quota.window_ms).min(QUOTA_TIME_MAX),
            };
            throttle.allow(bucket, allowance);
        }
    }

    /// Waits until the vendor says that it was asked too much.
    pub(crate) async fn slowed_down(&self) {
        self.slowed_down.notified().await;
    }

    async fn wait_for_budget(&self, request: &Request) -> Result<(), ChannelError> {
        loop {
            let (bucket, urgent) = (request.bucket, request.urgent);
            let taken = self.throttle.lock().take(bucket, request.cost, urgent, Instant::now());
            let wait = match taken {
                Ok(()) => return Ok(()),
                Err(Hold::Rate(wait)) => wait,
                Err(Hold::Quota(wait)) => return Err(quota_used_up(bucket, urgent, wait)),
            };
            metrics::counter!("trueup_channel_throttled_total", "kind" => self.kind,
                "bucket" => request.bucket)
            .increment(1);
            self.sleep(wait).await?;
        }
    }

    async fn sleep(&self, time: Duration) -> Result<(), ChannelError> {
        tokio::select! {
            () = self.stop.cancelled() => Err(stopping()),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Sends once; the limits of time and size are in force.
    async fn send(&self, request: &Request, url: Url) -> Result<Response, ChannelError> {
        let held_back = Duration::from_millis(request.held_back_ms);
        let (body, was_refused) = BarredBody::new(request.body.clone(), self.barrier.clone());
        // A request without a body says so by its head.
        let body = if request.body.is_empty() { Bytes::new().into() } else { Body::wrap(body) };
        let sent = self
            .client
            .request(request.method.clone(), url)
            .headers(request.headers.clone())
            .body(body)
            .timeout(self.timeout.saturating_add(held_back))
            .send();
        let refused = |error: reqwest::Error| {
            if was_refused.load(Ordering::Acquire) { lease_lost() } else { failure(&error) }
        };
        let mut answer = sent.await.map_err(refused)?;
        let too_long = || {
            let detail = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
            ChannelError::new(ChannelErrorKind::Protocol, detail)
        };
        let known = answer.content_length().and_then(|length| usize::try_from(length).ok());
        if known.is_some_and(|length| length > ANSWER_BYTES_MAX) {
            return Err(too_long());
        }
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| failure(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status, headers, body: Bytes::from(body) })
    }

    fn note(&self, request: &Request, url: &Url, began: Instant, status: &str) {
        let elapsed = began.elapsed();
        metrics::counter!("trueup_channel_requests_total", "kind" => self.kind,
            "bucket" => request.bucket, "status" => status.to_owned())
        .increment(1);
        metrics::histogram!("trueup_channel_request_seconds", "kind" => self.kind,
            "bucket" => request.bucket)
        .record(elapsed.as_secs_f64());
        // The query may hold names of buyers or cursors: host and path are enough to find it.
        tracing::debug!(
            org = %self.org, channel = %self.channel, bucket = request.bucket,
            method = %request.method, host = url.host_str(), path = url.path(), status,
            millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), "vendor call"
        );
    }
}

#[async_trait]
impl Caller for Transport {
    async fn call(&self, request: Request) -> Result<Response, ChannelError> {
        let endpoint = self.endpoint.as_ref().filter(|_| !request.own_address);
        let url = rebase(&request.url, endpoint, self.reach).map_err(|error| config(&error))?;
        let tries_max = if request.repeatable { REQUEST_TRIES_MAX } else { 1 };
        let mut tries = 0;
        loop {
            self.wait_for_budget(&request).await?;
            if !self.barrier.is_open() {
                return Err(lease_lost());
            }
            tries += 1;
            let began = Instant::now();
            let answer = self.send(&request, url.clone()).await;
            let pause = match &answer {
                Ok(response) => {
                    self.note(&request, &url, began, response.status.as_str());
                    self.pause_after(&request, response, tries)
                }
                Err(error) => {
                    self.note(&request, &url, began, crate::plan::error_code(error.kind));
                    passing(error).then(|| backoff::millis(tries, RETRY_MS_FIRST, RETRY_MS_MAX))
                }
            };
            match pause {
                Some(millis) if tries < tries_max => {
                    self.sleep(Duration::from_millis(millis)).await?;
                }
                Some(_) | None => return answer,
            }
        }
    }

    fn learn(&self, bucket: &'static str, hint: RateHint) {
        self.throttle.lock().learn(bucket, hint, Instant::now());
    }

    fn token(&self, name: &str) -> Option<Secret> {
        self.tokens.lock().get(name, Duration::from_secs(TOKEN_SECONDS_LEFT))
    }

    fn keep_token(&self, name: &str, token: Secret, expires_in_seconds: u64) {
        self.tokens.lock().put(name, token, expires_in_seconds);
    }

    fn drop_token(&self, name: &str, refused: &Secret) {
        self.tokens.lock().remove_if(name, refused);
    }

    fn recall(&self, name: &str) -> Option<String> {
        self.remembered.lock().get(name, Duration::ZERO)
    }

    fn remember(&self, name: &str, text: &str, seconds: u64) {
        self.remembered.lock().put(name, text.to_owned(), seconds);
    }

    fn forget(&self, name: &str) {
        self.remembered.lock().remove(name);
    }

    async fn note_listings(&self, notes: Vec<ListingNote>) {
        if !notes.is_empty() {
            self.keeper.note(notes).await;
        }
    }

    fn credential(&self, name: &str) -> Option<Secret> {
        let renewed = self.vault.renewed.lock().get(name).cloned();
        renewed.or_else(|| self.credentials.get(name).cloned())
    }

    async fn keep_credentials(
        &self,
        values: Vec<(&'static str, Secret)>,
    ) -> Result<(), ChannelError> {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value));
        self.keeper.keep(&self.vault, values.collect()).await
    }

    async fn turn_to_renew(&self) -> Turn {
        Box::new(self.vault.renewing.clone().lock_owned().await)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Transport {
    /// Returns how long to wait before the request is repeated; `None` = hand the answer on.
    fn pause_after(&self, request: &Request, response: &Response, tries: u32) -> Option<u64> {
        let status = response.status.as_u16();
        let told = retry_after(&response.headers, Some(self.clock.now()));
        if status == 429 {
            self.throttle.lock().rest(request.bucket, told, Instant::now());
            self.slowed_down.notify_one();
        }
        let told = told.map(|told| u64::try_from(told.as_millis()).unwrap_or(u64::MAX));
        match (status, told) {
            (408 | 425 | 429 | 500 | 502..=504, Some(told)) => {
                // The rest of a throttled bucket is waited for with the budget.
                let told = if status == 429 { 0 } else { told };
                (told <= RETRY_MS_MAX).then_some(told)
            }
            (408 | 425 | 429 | 500 | 502..=504, None) => {
                Some(backoff::millis(tries, RETRY_MS_FIRST, RETRY_MS_MAX))
            }
            (_, _) => None,
        }
    }
}

fn passing(error: &ChannelError) -> bool {
    let may_pass =
        matches!(error.kind, ChannelErrorKind::Transient | ChannelErrorKind::UnknownOutcome);
    may_pass && error.vendor_code.as_deref() != Some(LEASE_LOST)
}

/// The error of a request that the quota does not allow.
fn quota_used_up(bucket: &str, urgent: bool, wait: Duration) -> ChannelError {
    let detail = if urgent {
        format!("the quota of calls is used up ({bucket})")
    } else {
        format!("the quota of calls is used up, but for what zeroes and decreases need ({bucket})")
    };
    let mut error = ChannelError::new(ChannelErrorKind::Throttled, detail);
    error.retry_after_ms = u64::try_from(wait.as_millis()).ok();
    if urgent { error } else { error.with_code(QUOTA_KEPT) }
}

/// Puts the connection's endpoint in place of scheme and host; the path stays as it is.
pub(crate) fn rebase(url: &str, endpoint: Option<&Url>, reach: Reach) -> Result<Url, AddressError> {
    let Some(endpoint) = endpoint else { return address::parse(url, reach) };
    let wrong = |error: url::ParseError| AddressError::NotAUrl(error.to_string());
    let vendor = Url::parse(url).map_err(wrong)?;
    let mut moved = endpoint.clone();
    moved.set_path(vendor.path());
    moved.set_query(vendor.query());
    moved.set_fragment(None);
    address::parse(moved.as_str(), reach)
}

fn config(error: &AddressError) -> ChannelError {
    ChannelError::new(ChannelErrorKind::Config, error.to_string())
}

fn stopping() -> ChannelError {
    ChannelError::new(ChannelErrorKind::Transient, "the server is stopping")
}

/// Tells a request that surely did not go out from one that may have; says nothing of the URL.
fn failure(error: &reqwest::Error) -> ChannelError {
    if let Some(refused) = address_error(error) {
        return config(&refused);
    }
    if error.is_builder() {
        return ChannelError::new(ChannelErrorKind::Bug, "the request could not be built");
    }
    if error.is_connect() {
        let detail = format!("the connection failed: {}", root_words(error));
        return ChannelError::new(ChannelErrorKind::Transient, detail);
    }
    let detail = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        format!("the connection broke: {}", root_words(error))
    };
    ChannelError::new(ChannelErrorKind::UnknownOutcome, detail)
}

fn address_error(error: &reqwest::Error) -> Option<AddressError> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<AddressError>() {
            return match refused {
                AddressError::NotPublic(_) | AddressError::NotAUrl(_) => Some(refused.clone()),
                AddressError::Unresolved(_) => None,
            };
        }
        source = cause.source();
    }
    None
}

/// Returns the innermost cause in words: the outer ones repeat the URL.
fn root_words(error: &reqwest::Error) -> String {
    let mut words = "unknown cause".to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words = cause.to_string();
        source = cause.source();
    }
    words.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_replaces_scheme_and_host_and_nothing_else() {
        let endpoint = Url::parse("http://127.0.0.1:9100").unwrap();
        let table = [
            (
                "https://acme.myshopify.com/admin/api/2026-07/graphql.json",
                "http://127.0.0.1:9100/admin/api/2026-07/graphql.json",
            ),
            ("https://api.amazon.com/auth/o2/token", "http://127.0.0.1:9100/auth/o2/token"),
            (
                "https://h.example/listings/items/A/B%2FC%20D?marketplaceIds=X%2CY&a=%20",
                "http://127.0.0.1:9100/listings/items/A/B%2FC%20D?marketplaceIds=X%2CY&a=%20",
            ),
        ];
        for (from, to) in table {
            let moved = rebase(from, Some(&endpoint), Reach::Everywhere).unwrap();
            assert_eq!(moved.as_str(), to);
        }
        assert!(rebase("https://x.example/", Some(&endpoint), Reach::Public).is_err());
        assert!(rebase("http://10.0.0.1/", None, Reach::Public).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_thing_that_was_replaced_is_not_taken_for_the_one_before() {
        let mut shelf = Shelf::new(3);
        shelf.put("a", "before", 100);
        shelf.put("a", "after", 100);
        shelf.remove_if("a", &"before");
        assert_eq!(shelf.get("a", Duration::ZERO), Some("after"));
        shelf.remove_if("a", &"after");
        assert_eq!(shelf.get("a", Duration::ZERO), None);
        assert_eq!(shelf.items.len(), shelf.order.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_shelf_loses_the_oldest_and_nothing_else() {
        let mut shelf = Shelf::new(3);
        for name in ["a", "b", "c"] {
            shelf.put(name, name.to_owned(), 100);
        }
        // Put again, it is the newest.
        shelf.put("a", "again".to_owned(), 100);
        shelf.put("d", "d".to_owned(), 100);
        let known = |shelf: &Shelf<String>| {
            ["a", "b", "c", "d"].map(|name| shelf.get(name, Duration::ZERO).is_some())
        };
        assert_eq!(known(&shelf), [true, false, true, true]);
        shelf.remove("c");
        shelf.put("b", "b".to_owned(), 10);
        assert_eq!(known(&shelf), [true, true, false, true]);
        assert_eq!(shelf.get("b", Duration::from_secs(10)), None, "not good for long enough");
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(known(&shelf), [true, false, false, true]);
        assert_eq!(shelf.items.len(), shelf.order.len());
    }
}
