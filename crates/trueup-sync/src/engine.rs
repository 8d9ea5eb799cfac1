//! The engine: what the API and the programs ask of push, pull and the inbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use trueup_channels::{Secret, SettingError};
use trueup_core::{ChannelId, ListingKey, Org, Quantity, Rejection, Resolution, Sku, Strategy, Timestamp};
use trueup_store::{Connection, Mapping, RuleSettings, Run, Store, StoreError};

/// How the engine works; everything has a default.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Whether channel endpoints and webhook addresses may be private or loopback.
    pub allow_private_endpoints: bool,
    /// The key that credentials and signing secrets are encrypted with (32 bytes).
    pub secret_key: [u8; 32],
    /// How long a vendor's answer may take.
    pub request_timeout: Duration,
    /// The URL under which vendors reach this server, for webhook subscriptions; `None` = they
    /// are not told.
    pub public_url: Option<String>,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
}

/// Where the engine reads the time, once per decision.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Returns the instant.
    fn now(&self) -> Timestamp;
}

/// The body of `enable`, parsed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Enable {
    /// The vendor's word; defaults to the connection's id.
    pub kind: Option<String>,
    /// Whether stock movements publish by themselves.
    pub sync_inventory: bool,
    /// Whether its orders are booked; default true.
    pub sync_orders: Option<bool>,
    /// The strategy.
    pub strategy: Option<Strategy>,
    /// Publishing rules.
    pub rules: RuleSettings,
    /// Minutes between pulls.
    pub poll_interval_minutes: Option<u32>,
    /// Only compute and report.
    pub dry_run: bool,
    /// Scheme and host in place of the vendor's.
    pub endpoint: Option<String>,
    /// The vendor's settings (`shop`, `sellerId`, `defaultLocationId`, …) as JSON values.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Credentials by name; absent ones keep what was given before.
    pub credentials: BTreeMap<String, Secret>,
}

/// Which SKUs to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushScope {
    /// Every mapped SKU.
    All,
    /// These; a given quantity is what to publish now in place of the computed one.
    Items(Vec<(Sku, Option<Quantity>)>),
}

/// What to pull and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// Only these SKUs; `None` = every mapped one.
    pub skus: Option<Vec<Sku>>,
    /// Say what would happen, change nothing.
    pub dry_run: bool,
    /// A strategy in place of the configured ones.
    pub strategy: Option<Strategy>,
}

/// A mapping as the merchant wrote it, before the channel's kind has checked its `listing`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingDraft {
    /// The SKU.
    pub sku: Sku,
    /// The `listing` object's members as text.
    pub fields: BTreeMap<String, String>,
    /// The strategy, where it differs from the channel's.
    pub strategy: Option<Strategy>,
    /// Publishing rules, where they differ.
    pub rules: RuleSettings,
    /// Whether the channel itself ships it.
    pub channel_fulfilled: bool,
    /// Whether it takes part at all.
    pub enabled: bool,
}

/// What discovery proposes for one entry of the channel's catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The SKU as the channel has it.
    pub channel_sku: Option<String>,
    /// A name to show people.
    pub title: Option<String>,
    /// The vendor's identifiers.
    pub fields: BTreeMap<String, String>,
    /// Our SKU that it was matched with.
    pub sku: Option<Sku>,
    /// `matched`, `already_mapped`, `unknown_sku`, `near_miss`, `duplicate`, `no_sku`.
    pub status: &'static str,
    /// For a near miss: the SKU it might be.
    pub suggestion: Option<Sku>,
    /// What the channel shows, where its catalogue says so.
    pub quantity: Option<i64>,
}

/// What discovery found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Discovery {
    /// One entry per listing of the channel (the first [`DISCOVERY_ITEMS_MAX`] of them).
    pub proposals: Vec<Proposal>,
    /// How many mappings were made (0 in a dry run).
    pub mapped: usize,
    /// SKUs of the ledger that no listing of the channel carries (the first
    /// [`DISCOVERY_ITEMS_MAX`] of them).
    pub unlisted: Vec<Sku>,
}

/// The most entries a discovery reports one by one; all are mapped.
pub const DISCOVERY_ITEMS_MAX: usize = 10_000;

/// A connection's health.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatus {
    /// `ok`, `paused` or `error`.
    pub status: &'static str,
    /// Whether the last call to the vendor came through.
    pub connected: bool,
    /// When a push or pull last came through.
    pub last_sync: Option<Timestamp>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// Listings that owe a push.
    pub pending: u64,
    /// Listings whose last reading is not what it should be.
    pub drifted: u64,
    /// Open conflicts.
    pub conflicts: u64,
    /// Rate budgets by name: units per second and units left, as far as known.
    pub rate: BTreeMap<String, (f64, Option<f64>)>,
}

/// Why the engine did not do as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// No such connection.
    #[error("there is no channel {0}")]
    ChannelNotFound(ChannelId),
    /// No such kind of channel.
    #[error("{0:?} is not a kind of channel")]
    UnknownKind(String),
    /// Wrong or missing settings.
    #[error("the channel's settings are wrong")]
    Settings(Vec<SettingError>),
    /// Wrong or missing members of mappings: the index of the mapping with each.
    #[error("a mapping is wrong")]
    Mapping(Vec<(usize, SettingError)>),
    /// The endpoint is private or loopback, or not a URL.
    #[error("the endpoint is not allowed: {0}")]
    EndpointNotAllowed(String),
    /// The vendor did not let us in.
    #[error("the channel refused: {0}")]
    Channel(trueup_channels::ChannelError),
    /// The channel is paused.
    #[error("the channel is paused")]
    Paused,
    /// No such run, conflict or delivery.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The conflict is resolved already.
    #[error("the conflict is resolved already")]
    AlreadyResolved,
    /// The ledger refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A webhook was not let in.
    #[error(transparent)]
    Webhook(trueup_channels::WebhookError),
}

/// Push, pull, inbox, schedules and outgoing webhooks over one store. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    store: Arc<dyn Store>,
}

/// How a webhook was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is kept and will be worked on.
    New,
    /// It was there before.
    Repeated,
}

impl Engine {
    /// Starts the workers: one per connection, the inbox, the deliveries, the schedules.
    pub async fn start(
        _store: Arc<dyn Store>,
        _options: EngineOptions,
    ) -> Result<Self, EngineError> {
        todo!()
    }

    /// Stops every worker after the request it is in.
    pub async fn stop(&self) {
        todo!()
    }

    /// Connects a channel: checks the settings, verifies the connection, keeps it, reads the
    /// first base of every mapped listing, and starts its worker.
    pub async fn enable(
        &self,
        _org: &Org,
        _channel: &ChannelId,
        _enable: Enable,
    ) -> Result<Connection, EngineError> {
        todo!()
    }

    /// Pauses a channel: nothing is sent, work is kept.
    pub async fn disable(
        &self,
        _org: &Org,
        _channel: &ChannelId,
    ) -> Result<Connection, EngineError> {
        todo!()
    }

    /// Lets a paused channel go on.
    pub async fn resume(
        &self,
        _org: &Org,
        _channel: &ChannelId,
    ) -> Result<Connection, EngineError> {
        todo!()
    }

    /// Removes a channel with its mappings.
    pub async fn remove(&self, _org: &Org, _channel: &ChannelId) -> Result<(), EngineError> {
        todo!()
    }

    /// Returns a channel's health.
    pub async fn status(
        &self,
        _org: &Org,
        _channel: &ChannelId,
    ) -> Result<ChannelStatus, EngineError> {
        todo!()
    }

    /// Checks mapping drafts against the channel's kind, all or none, and keeps them.
    pub async fn map(
        &self,
        _org: &Org,
        _channel: &ChannelId,
        _drafts: Vec<MappingDraft>,
    ) -> Result<Vec<Mapping>, EngineError> {
        todo!()
    }

    /// Reads the channel's catalogue and maps what matches by SKU.
    pub async fn discover(
        &self,
        _org: &Org,
        _channel: &ChannelId,
        _dry_run: bool,
    ) -> Result<Discovery, EngineError> {
        todo!()
    }

    /// Begins a push run and returns its id, which the caller may choose beforehand.
    pub async fn push(
        &self,
        _org: &Org,
        _channel: &ChannelId,
        _scope: PushScope,
        _run_id: Option<String>,
    ) -> Result<String, EngineError> {
        todo!()
    }

    /// Begins a pull run and returns its id.
    pub async fn pull(
        &self,
        _org: &Org,
        _channel: &ChannelId,
        _request: PullRequest,
    ) -> Result<String, EngineError> {
        todo!()
    }

    /// Returns a run, waiting for its end at most so long.
    pub async fn wait_run(
        &self,
        _org: &Org,
        _id: &str,
        _at_most: Duration,
    ) -> Result<Run, EngineError> {
        todo!()
    }

    /// Ends a conflict as an operator decided.
    pub async fn resolve(
        &self,
        _org: &Org,
        _conflict: u64,
        _resolution: Resolution,
        _note: Option<String>,
        _actor: &str,
    ) -> Result<trueup_store::Conflict, EngineError> {
        todo!()
    }

    /// Verifies a webhook and keeps it durably; the work is done after.
    pub async fn receive(
        &self,
        _org: &Org,
        _channel: &ChannelId,
        _headers: &http::HeaderMap,
        _body: &[u8],
    ) -> Result<Received, EngineError> {
        todo!()
    }

    /// Answers eBay's endpoint challenge for a connection: the `challengeResponse`.
    pub async fn challenge(
        &self,
        _org: &Org,
        _channel: &ChannelId,
        _code: &str,
        _url: &str,
    ) -> Result<String, EngineError> {
        todo!()
    }

    /// Encrypts a secret for the store.
    pub fn seal(&self, _secret: &Secret) -> Vec<u8> {
        todo!()
    }

    /// Checks an address that events are to be sent to (`https`, or anything public; private
    /// and loopback only with `allow_private_endpoints`).
    pub async fn check_address(&self, _url: &str) -> Result<(), EngineError> {
        todo!()
    }

    /// Sends a dead or delivered event again.
    pub async fn replay_delivery(&self, _org: &Org, _id: &str) -> Result<(), EngineError> {
        todo!()
    }

    /// Waits until nothing owes a push, waits to be verified or stands in the inbox, at most so
    /// long; returns whether all is quiet. Paused channels and conflicts do not count.
    pub async fn quiesce(&self, _at_most: Duration) -> bool {
        todo!()
    }
}

/// What a listing's status is called in `GET /inventory/{sku}/channels`.
#[must_use]
pub fn listing_status(
    _view: &trueup_store::ListingView,
    _connection: &Connection,
) -> &'static str {
    todo!()
}

/// Marks a listing key in words for people.
#[must_use]
pub fn key_words(key: &ListingKey) -> &str {
    key.as_str()
}
