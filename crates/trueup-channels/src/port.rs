//! The Channel port: what the sync engine needs of a vendor, and what a vendor's translator may
//! use of the world.
//!
//! A channel is stateless. It turns batches into requests and answers into per-item outcomes; the
//! [`Caller`] it is lent sends, throttles, bounds, logs and caches tokens. It never retries, never
//! reads a clock and never decides which number is right.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use trueup_core::{ListingKey, Sku, Timestamp};

use crate::consent::Consent;

/// A text that is never shown: `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text; the one place it leaves the wrapper, easy to search for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a channel can do and how much of it at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The most listings in one [`Channel::push`].
    pub push_items_max: usize,
    /// How many pushes may be under way at once, at least 1; no two of them have a listing in
    /// common. Enough to use the vendor's budget up at the time that an answer takes.
    pub pushes_at_once_max: usize,
    /// The most listings in one [`Channel::bulk_start`]; 0 where there is no bulk way.
    pub bulk_items_max: usize,
    /// How many dirty listings make the bulk way the better one, where it takes the vendor
    /// `bulk_usual_ms`.
    pub bulk_from: usize,
    /// How long a bulk batch usually takes the vendor, in milliseconds: by experience with it the
    /// engine takes the bulk way from fewer on or from more; 0 = always from `bulk_from` on.
    pub bulk_usual_ms: u64,
    /// The budget that beginning a bulk batch draws on, where it has one: none is begun before
    /// that has room.
    pub bulk_bucket: Option<&'static str>,
    /// Numbers up to this one never go the bulk way, which may take the vendor long: what could
    /// be oversold goes by itself.
    pub bulk_above: u64,
    /// How long after [`Channel::bulk_start`] the vendor is first asked what became of it, in
    /// milliseconds.
    pub bulk_look_ms: u64,
    /// The most listings in one [`Channel::read`].
    pub read_items_max: usize,
    /// Whether readings draw on a budget of their own, so that they take nothing from pushes.
    pub reads_apart: bool,
    /// The most listings on a page of [`Channel::catalogue`], where reading all of them page by
    /// page costs less than by identifiers; 0 where it does not.
    pub sweep_items_max: usize,
    /// Whether a push can be refused when the channel's number is not the expected one.
    pub compare_and_set: bool,
    /// Whether "accepted" may come long before "applied", so that a push is verified by reading.
    pub verify_by_reading: bool,
    /// How long after an acknowledgement a reading may still show the number before it.
    pub settle_ms: i64,
    /// The most units a listing of this channel can show.
    pub quantity_max: u64,
    /// How often one listing may be told a number in one day of [`Kind::day_of`]; `None` = as
    /// often as one likes.
    pub revisions_per_day: Option<u32>,
    /// How often orders are polled when nobody asks, in milliseconds: not more often than the
    /// vendor allows for good.
    pub orders_poll_ms: u64,
    /// How old heard orders may be when a number is raised, in milliseconds.
    pub orders_fresh_ms: i64,
}

/// A queue of the merchant's own that the vendor's notices wait in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// The longest that [`Channel::receive`] may wait for a notice, in milliseconds.
    pub wait_ms_max: u64,
    /// The most notices that one [`Channel::receive`] brings: where so many came there may be
    /// more.
    pub notices_max: usize,
    /// How long received notices are kept from the next receiver unless they are deleted, in
    /// milliseconds.
    pub hidden_ms: u64,
}

/// A notice as it was received from a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedNotice {
    /// What deletes it, good for this receipt of it only.
    pub receipt: String,
    /// The vendor's id of the delivery: the same on every repeat of it.
    pub delivery_id: String,
    /// The vendor's topic, as [`Channel::parse_webhook`] takes it; a body that is not the
    /// vendor's has one that is refused there.
    pub topic: String,
    /// The body.
    pub body: Bytes,
}

/// A listing as its mapping holds it, in the vendor's own words.
///
/// `fields` are the members of the mapping's `listing` object, all as text, such as
/// `inventoryItemId`, `locationId`, `sellerSku`, `asin`, `sku`, `offerId`, `itemId`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Our key of the sellable variant.
    pub sku: Sku,
    /// The listing's stable key on the channel, made by [`Kind::listing_key`].
    pub key: ListingKey,
    /// The vendor's identifiers.
    pub fields: BTreeMap<String, String>,
    /// Whether the channel itself ships this listing (Amazon FBA): read, never pushed.
    pub channel_fulfilled: bool,
}

/// One number to tell one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushItem {
    /// The listing.
    pub listing: Listing,
    /// The absolute quantity to show, already within [`Capabilities::quantity_max`].
    pub quantity: u64,
    /// What the channel is believed to show now, for a compare-and-set; `None` = not known. A
    /// channel that compares finds it out then, or refuses: it never overwrites blindly.
    pub expected_before: Option<i64>,
}

impl PushItem {
    /// Returns whether what the channel shows now could be oversold: a zero, or fewer than it is
    /// believed to show.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        let is_less = |before: i64| i64::try_from(self.quantity).is_ok_and(|now| now < before);
        self.quantity == 0 || self.expected_before.is_some_and(is_less)
    }
}

/// A batch for [`Channel::push`] with its idempotency token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushBatch {
    /// Made of channel, listings and versions, never of quantities; the same batch sent again
    /// after an unclear answer carries the same token. A UUID-shaped text.
    pub token: String,
    /// The items, at most [`Capabilities::push_items_max`], each listing once.
    pub items: Vec<PushItem>,
}

/// What became of one item of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushOutcome {
    /// The channel says that it shows the number now.
    Applied,
    /// The channel took the number and will show it later: read to be sure.
    Accepted,
    /// The compare-and-set failed: the channel showed another number. Nothing was changed.
    Stale,
    /// Nothing was changed for this item, because of another item of the batch or a passing
    /// trouble; it may be sent again.
    NotSent(ChannelError),
    /// This item is refused for good, with the reason: park it.
    Refused(ChannelError),
    /// It is not known whether the number was applied.
    Unknown(ChannelError),
}

/// One number that a bulk batch tells: no more is kept of each, because there are very many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkItem {
    /// The listing, in the vendor's own words.
    pub name: Box<str>,
    /// The absolute quantity to show, already within [`Capabilities::quantity_max`].
    pub quantity: u64,
}

/// Whether the vendor has a bulk batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandedOver {
    /// It has: what becomes of it is asked for by this ticket.
    Ticket(String),
    /// Surely not; nothing was changed.
    No(ChannelError),
    /// It is not known, and there is no ticket to ask by.
    Unclear(ChannelError),
}

/// How far a bulk batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BulkState {
    /// Not processed yet.
    Waiting,
    /// Processed: one outcome per item that was handed over, in order.
    Done(Vec<PushOutcome>),
    /// It broke off, or the vendor knows nothing of it: any part of it may have been applied.
    Lost(ChannelError),
}

/// What a channel shows for one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// A number; below zero where the channel itself oversold.
    Quantity(i64),
    /// No number is to be had, with the reason: untracked, not found, not stocked. Never zero.
    Unknown(String),
}

/// One entry of the channel's catalogue, for discovery and full sweeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The SKU as the channel has it; `None` where it has none.
    pub sku: Option<String>,
    /// A name to show people.
    pub title: Option<String>,
    /// The vendor's identifiers, as in [`Listing::fields`].
    pub fields: BTreeMap<String, String>,
    /// What the channel shows, where the catalogue says so.
    pub reading: Reading,
    /// Whether the channel itself ships it.
    pub channel_fulfilled: bool,
    /// Whether the channel says that other listings carry the same SKU, so that it is not clear
    /// what is to be mapped. An entry without it, beside others with it, is the one to map.
    pub duplicate: bool,
}

/// A page of a listing and where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<String>,
}

/// What a verified webhook or an order poll says, free of the vendor's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An order as it stands now.
    Order(OrderNotice),
    /// Something about this listing's quantity changed: read it again. Never a number to trust.
    InventoryHint {
        /// The vendor's identifiers that the notice carries, as in [`Listing::fields`].
        fields: BTreeMap<String, String>,
        /// What the notice says that the channel shows: told apart from an echo of our own
        /// push, and used for nothing else.
        shows: Option<i64>,
        /// When the vendor says it happened.
        at: Option<Timestamp>,
    },
    /// A bulk batch has ended, it says: ask what became of it.
    BulkEnded {
        /// The ticket that [`Channel::bulk_start`] returned.
        ticket: String,
    },
    /// The merchant took our access away. A hint like all others: the vendor is asked.
    Disconnected,
    /// Nothing for us to do; a word for the history.
    Ignored(String),
}

/// An order of a channel, as a state and not as a change: seeing it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderNotice {
    /// The vendor's id of the order; the same in webhook and poll.
    pub order_id: String,
    /// When the order was placed, by the vendor's clock and where the notice says so: what was
    /// sold before the connection came about is in the first count already.
    pub placed_at: Option<Timestamp>,
    /// When the order last changed, by the vendor's clock.
    pub updated_at: Option<Timestamp>,
    /// Its lines.
    pub lines: Vec<OrderLine>,
}

/// One line of an order, with what is still sold of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderLine {
    /// The vendor's id of the line, the same in every notice about it.
    pub line_id: String,
    /// The SKU as the channel has it, when it says one.
    pub sku: Option<String>,
    /// The vendor's identifiers of the listing, as in [`Listing::fields`].
    pub fields: BTreeMap<String, String>,
    /// How the quantity stands.
    pub state: LineState,
}

/// How the quantity of an order line stands, counted from its beginning.
///
/// Totals, not changes: `sold`, `restocked` and `cancelled` only grow; the ledger books the
/// growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineState {
    /// Units sold on this line so far (edited up or down: the largest seen counts as sold).
    pub sold: u64,
    /// Units that came back so far by cancel, edit or refund with restock.
    pub restocked: u64,
    /// Units that are ordered and not paid for yet, cancelled ones included: the channel has
    /// taken them off its own number, and may put them back. 0 once they are paid for.
    pub held: u64,
    /// Units cancelled so far, where the vendor tells of cancels without telling whether they
    /// had been sold before; `u64::MAX` for the line as a whole.
    pub cancelled: u64,
    /// Whether the channel ships them itself (Amazon FBA): no movement of ours.
    pub channel_fulfilled: bool,
    /// Whether the totals of a partial notice are incomplete: `refunds/create` names only the
    /// refunded units of this refund. Then `reference` tells one such part from another and
    /// `sold` is 0.
    ///
    /// A part is contained in the totals of the order's other notices, so that the units back
    /// on a line are the larger of the totals and the sum of the parts, never both together.
    pub part: Option<PartId>,
}

impl LineState {
    /// Returns whether the line says nothing that could be booked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        (self.sold, self.restocked, self.held, self.cancelled) == (0, 0, 0, 0)
    }
}

/// Numbers the parts of an order that are told one by one, such as refunds (vendor's id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartId(pub u64);

/// What enabling found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connected {
    /// The account's name, where the vendor tells.
    pub account: Option<String>,
    /// Locations as `(id, name)`.
    pub locations: Vec<(String, String)>,
    /// Settings that were left open and could be found, such as a single `defaultLocationId`.
    pub found: BTreeMap<String, String>,
}

/// What a connection is to do beside telling quantities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Whether its orders are booked.
    pub orders: bool,
    /// Whether some of its listings are shipped by the channel itself.
    pub channel_fulfilled: bool,
}

/// Something that a connection lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What it is, as a path: a setting (`defaultLocationId`, `marketplaceIds/1`), or a scope or
    /// role by its name (`scopes/read_orders`, `roles/amazon_fulfillment`).
    pub what: String,
    /// For the program; stable: `scope_missing`, `role_missing`, `location_unknown`,
    /// `location_inactive`, `marketplace_unknown`, `marketplace_forbidden`.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

impl Missing {
    /// Makes the entry of a scope that was not granted.
    #[must_use]
    pub fn scope(name: &str) -> Self {
        Self {
            what: format!("scopes/{name}"),
            code: "scope_missing",
            detail: format!("the credentials were not granted the scope {name}"),
        }
    }

    /// Makes the entry of a role that an application does not have.
    #[must_use]
    pub fn role(name: &str, title: &str) -> Self {
        Self {
            what: format!("roles/{name}"),
            code: "role_missing",
            detail: format!("the application does not have the role {title}"),
        }
    }
}

/// A request as it came in, for [`Channel::verify_webhook`].
#[derive(Debug, Clone, Copy)]
pub struct WebhookRequest<'a> {
    /// The headers, names in lower case.
    pub headers: &'a http::HeaderMap,
    /// The raw bytes of the body.
    pub body: &'a [u8],
}

/// A webhook whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedWebhook {
    /// The vendor's id of the delivery: the same on every repeat of it.
    pub delivery_id: String,
    /// The vendor's topic.
    pub topic: String,
}

/// Why a webhook is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The signature is missing or wrong.
    #[error("the signature does not hold")]
    Signature,
    /// The connection has no secret to check with.
    #[error("the connection has no webhook secret")]
    NoSecret,
    /// A key that the signature names could not be fetched now.
    #[error("the signing key could not be read: {0}")]
    Key(ChannelError),
    /// The signature holds but the envelope is not the vendor's.
    #[error("the delivery is malformed: {0}")]
    Malformed(String),
}

/// What went wrong, for the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelErrorKind {
    /// Passing: network, 408, 429 after waiting, 5xx. Try again later.
    Transient,
    /// Asked to slow down.
    Throttled,
    /// The credentials are refused, after one refresh.
    Auth,
    /// The account may not do this: a scope or permission is missing.
    Forbidden,
    /// The shop or account is frozen, closed or locked.
    AccountBlocked,
    /// The listing is not there.
    ListingNotFound,
    /// The listing cannot be told a quantity (bundle parent, untracked, not stocked here,
    /// channel-fulfilled).
    NotPushable,
    /// The value is refused.
    InvalidValue,
    /// A compare-and-set failed.
    Stale,
    /// The request went out and no clear answer came back.
    UnknownOutcome,
    /// The answer is not what the vendor documents.
    Protocol,
    /// The settings of the connection are wrong.
    Config,
    /// Our own mistake, such as an idempotency key with other parameters.
    Bug,
}

impl ChannelErrorKind {
    /// Returns whether the connection is in trouble rather than one listing: going on with the
    /// next one would only fail the same way.
    #[must_use]
    pub const fn is_connection_wide(self) -> bool {
        match self {
            Self::Transient
            | Self::Throttled
            | Self::Auth
            | Self::Forbidden
            | Self::AccountBlocked
            | Self::UnknownOutcome
            | Self::Config => true,
            Self::ListingNotFound
            | Self::NotPushable
            | Self::InvalidValue
            | Self::Stale
            | Self::Protocol
            | Self::Bug => false,
        }
    }
}

/// What went wrong on a channel, for the program and for people. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ChannelError {
    /// For the program.
    pub kind: ChannelErrorKind,
    /// The vendor's own code, where it gave one.
    pub vendor_code: Option<String>,
    /// For people.
    pub detail: String,
    /// How long the vendor asked us to wait.
    pub retry_after_ms: Option<u64>,
}

impl ChannelError {
    /// Makes an error of a kind.
    #[must_use]
    pub fn new(kind: ChannelErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, vendor_code: None, detail: detail.into(), retry_after_ms: None }
    }

    /// Adds the vendor's own code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.vendor_code = Some(code.into());
        self
    }
}

/// A wrong or missing setting of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// The setting's name, with `credentials.` before a credential.
    pub setting: String,
    /// What is wrong with it.
    pub detail: String,
}

impl SettingError {
    /// Makes the error of a setting that must be there.
    #[must_use]
    pub fn required(setting: &str) -> Self {
        Self { setting: setting.to_owned(), detail: "is required".to_owned() }
    }
}

/// An outgoing request, before the caller adds nothing but its limits. Its `Debug` does not show
/// the body: grants carry secrets in it.
#[derive(Clone)]
pub struct Request {
    /// Which rate budget it draws on, such as `graphql` or `listings.patch`.
    pub bucket: &'static str,
    /// How much of the budget it is expected to draw.
    pub cost: u32,
    /// The method.
    pub method: http::Method,
    /// The vendor's URL; the caller replaces scheme and host when the connection has an
    /// `endpoint`.
    pub url: String,
    /// Headers; values that are secrets are marked sensitive.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Whether doing it twice is the same as doing it once, so that the caller may repeat it
    /// after a broken connection.
    pub repeatable: bool,
    /// Whether the URL is the merchant's own: it is called as it stands, whatever the
    /// connection's `endpoint` is.
    pub own_address: bool,
    /// How long the answer is held back on purpose (a long poll), in milliseconds: added to the
    /// limit of time.
    pub held_back_ms: u64,
    /// Whether it says what could be oversold, so that it may use what is kept of a [`Quota`].
    pub urgent: bool,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("bucket", &self.bucket)
            .field("cost", &self.cost)
            .field("method", &self.method)
            .field("url", &self.url)
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .field("repeatable", &self.repeatable)
            .finish()
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body, bounded and decompressed by the caller.
    pub body: Bytes,
}

/// What a vendor tells about a rate budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateHint {
    /// Units restored each second.
    pub per_second: f64,
    /// The most units that can be saved up, where told.
    pub burst: Option<f64>,
    /// Units left now, where told.
    pub remaining: Option<f64>,
}

/// How many calls a vendor lets us make in a window of time, such as a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Calls in one window.
    pub limit: u64,
    /// Calls left in this one.
    pub remaining: u64,
    /// When this one ends.
    pub resets_at: Timestamp,
    /// How long a window is, in milliseconds.
    pub window_ms: u64,
}

/// The code of a `Throttled` error that was made here because of a [`Quota`]: only what is kept
/// for urgent requests is left of it.
pub const QUOTA_KEPT: &str = "quota_kept";

/// What a channel found out about a listing, to be kept with its mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingNote {
    /// The listing; its key stays what it is.
    pub key: ListingKey,
    /// Fields to set beside those that are there; `None` takes one away.
    pub fields: BTreeMap<String, Option<String>>,
}

/// The right to renew a connection's tokens, until it is dropped.
pub type Turn = Box<dyn Send>;

/// What a channel is lent to talk to its vendor.
#[async_trait]
pub trait Caller: Send + Sync {
    /// Waits for the rate budget, sends, and returns the answer whatever its status.
    ///
    /// # Errors
    /// `Transient` when it was surely not sent, `UnknownOutcome` when it may have been,
    /// `Protocol` when the answer passes the size limit.
    async fn call(&self, request: Request) -> Result<Response, ChannelError>;

    /// Notes what the vendor told of a rate budget.
    fn learn(&self, bucket: &'static str, hint: RateHint);

    /// Returns a token kept under this name that is good for at least another minute.
    fn token(&self, name: &str) -> Option<Secret>;

    /// Keeps a token for so many seconds.
    fn keep_token(&self, name: &str, token: Secret, expires_in_seconds: u64);

    /// Forgets a token that was refused, unless another one is kept under this name by now.
    fn drop_token(&self, name: &str, refused: &Secret);

    /// Returns what was remembered under this name and still holds. No secrets: see
    /// [`Caller::token`].
    fn recall(&self, name: &str) -> Option<String>;

    /// Remembers a text for so many seconds, or until the process ends or newer ones need the
    /// place.
    fn remember(&self, name: &str, text: &str, seconds: u64);

    /// Forgets what was remembered under this name.
    fn forget(&self, name: &str);

    /// Keeps what was found out about listings durably with their mappings, so that it need not
    /// be asked again. What could not be kept is asked again, nothing worse.
    async fn note_listings(&self, notes: Vec<ListingNote>);

    /// Returns the newest credential of a name: what [`Caller::keep_credentials`] kept last, else
    /// what the connection was set up with.
    fn credential(&self, name: &str) -> Option<Secret>;

    /// Keeps new credentials durably, all or none, before they are used (rotating refresh
    /// tokens).
    ///
    /// # Errors
    /// `Transient` when they could not be kept: they must not be used then, and
    /// [`Caller::credential`] goes on returning those before.
    async fn keep_credentials(
        &self,
        values: Vec<(&'static str, Secret)>,
    ) -> Result<(), ChannelError>;

    /// Waits until nobody else renews this connection's tokens, and keeps everybody else waiting
    /// until the turn is dropped: a refresh token that is good for one use must not be used by
    /// two at once. Look for the token again once it is your turn.
    async fn turn_to_renew(&self) -> Turn;

    /// Returns the instant, for date headers and signatures.
    fn now(&self) -> Timestamp;
}

/// A vendor's translator, made for one connection.
#[async_trait]
pub trait Channel: Send + Sync {
    /// Returns what this connection can do.
    fn capabilities(&self) -> &Capabilities;

    /// Checks the credentials, the account and the locations without changing anything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    async fn connect(&self, caller: &dyn Caller) -> Result<Connected, ChannelError>;

    /// Returns whether the vendor counts the revisions of this listing, of whose fields this is
    /// the set, against [`Capabilities::revisions_per_day`].
    fn counts_revisions(&self, _fields: &BTreeMap<String, String>) -> bool {
        true
    }

    /// Returns the vendor's name of the listing whose revisions are counted, where several of
    /// ours may be parts of it, such as variations; `None` = this one is counted by itself.
    fn revised_with(&self, _fields: &BTreeMap<String, String>) -> Option<String> {
        None
    }

    /// Looks for everything that the account, its scopes or its settings lack for what the
    /// connection is to do, without changing anything; empty = it can be connected.
    ///
    /// # Errors
    /// When it could not be looked: the credentials are refused, or the vendor does not answer.
    async fn missing(
        &self,
        _caller: &dyn Caller,
        _wants: Wants,
    ) -> Result<Vec<Missing>, ChannelError> {
        Ok(Vec::new())
    }

    /// Tells the channel absolute quantities; one outcome per item, in order.
    async fn push(&self, caller: &dyn Caller, batch: &PushBatch) -> Vec<PushOutcome>;

    /// Hands very many absolute quantities over by the vendor's bulk way (a feed), which may take
    /// the vendor hours; at most [`Capabilities::bulk_items_max`] of them. Never called where that
    /// is 0.
    async fn bulk_start(&self, _caller: &dyn Caller, _items: &[BulkItem]) -> HandedOver {
        HandedOver::No(ChannelError::new(ChannelErrorKind::Bug, "there is no bulk way"))
    }

    /// Returns what a bulk batch says of one item; `None` where it cannot go the bulk way, so that
    /// it goes the ordinary one.
    fn bulk_item(&self, _item: &PushItem) -> Option<BulkItem> {
        None
    }

    /// Asks once how far a bulk batch is, by its ticket; `count` is how many items were handed
    /// over.
    ///
    /// # Errors
    /// When it cannot be told now; the same question may be asked again.
    async fn bulk_look(
        &self,
        _caller: &dyn Caller,
        _ticket: &str,
        _count: usize,
    ) -> Result<BulkState, ChannelError> {
        Err(ChannelError::new(ChannelErrorKind::Bug, "there is no bulk way"))
    }

    /// Reads what the channel shows for these listings; one reading per listing, in order.
    ///
    /// # Errors
    /// When nothing could be read at all.
    async fn read(
        &self,
        caller: &dyn Caller,
        listings: &[Listing],
    ) -> Result<Vec<Reading>, ChannelError>;

    /// Returns whether the catalogue's reading is what a listing shows, of whose fields this is
    /// the set; what it does not say is read by its identifiers.
    fn is_in_catalogue(&self, _fields: &BTreeMap<String, String>) -> bool {
        true
    }

    /// Reads one page of the channel's whole catalogue.
    ///
    /// # Errors
    /// When the page could not be read.
    async fn catalogue(
        &self,
        caller: &dyn Caller,
        cursor: Option<&str>,
    ) -> Result<Page<CatalogueEntry>, ChannelError>;

    /// Reads one page of the orders that changed since an instant, oldest change first.
    ///
    /// # Errors
    /// When the page could not be read.
    async fn orders(
        &self,
        caller: &dyn Caller,
        since: Timestamp,
        cursor: Option<&str>,
    ) -> Result<Page<OrderNotice>, ChannelError>;

    /// Checks the signature over the raw bytes, in constant time, before anything is parsed.
    ///
    /// # Errors
    /// [`WebhookError`] when it must not be let in.
    async fn verify_webhook(
        &self,
        caller: &dyn Caller,
        request: WebhookRequest<'_>,
    ) -> Result<VerifiedWebhook, WebhookError>;

    /// Reads a verified body into notices.
    ///
    /// # Errors
    /// `Protocol` when the body is not the vendor's.
    fn parse_webhook(&self, topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError>;

    /// Reads the quotas of calls, by the bucket that they hold for; `None` where the vendor
    /// tells none.
    ///
    /// # Errors
    /// When they could not be read.
    async fn limits(
        &self,
        _caller: &dyn Caller,
    ) -> Result<Option<Vec<(&'static str, Quota)>>, ChannelError> {
        Ok(None)
    }

    /// Tells the vendor where to send its webhooks, where the vendor has an API for that;
    /// already-subscribed topics are left alone. Returns the topics now subscribed.
    ///
    /// # Errors
    /// When the vendor refused.
    async fn subscribe(&self, caller: &dyn Caller, url: &str) -> Result<Vec<String>, ChannelError>;

    /// Returns the topics whose webhooks the vendor sends to an address now; `None` where it has
    /// no way to tell.
    ///
    /// # Errors
    /// When the vendor could not be asked.
    async fn subscribed(
        &self,
        _caller: &dyn Caller,
        _url: &str,
    ) -> Result<Option<Vec<String>>, ChannelError> {
        Ok(None)
    }

    /// Takes back what [`Channel::subscribe`] made, where the vendor has an API for that.
    ///
    /// # Errors
    /// When some of it could not be taken back.
    async fn unsubscribe(&self, _caller: &dyn Caller, _url: &str) -> Result<(), ChannelError> {
        Ok(())
    }

    /// Returns whether [`Channel::subscribe`] needs an address of ours; without one it is not
    /// called then.
    fn subscribes_address(&self) -> bool {
        true
    }

    /// Returns the queue that notices are received from, where the connection has one.
    fn queue(&self) -> Option<Queue> {
        None
    }

    /// Takes notices from the queue, waiting at most so many milliseconds for the first. None =
    /// the queue held none while it was waited for; a wait of 0 says nothing of that kind.
    ///
    /// # Errors
    /// When the queue could not be asked. What it gave out meanwhile comes again after
    /// [`Queue::hidden_ms`].
    async fn receive(
        &self,
        _caller: &dyn Caller,
        _wait_ms: u64,
    ) -> Result<Vec<QueuedNotice>, ChannelError> {
        Ok(Vec::new())
    }

    /// Deletes received notices, by their receipts, from the queue.
    ///
    /// # Errors
    /// When some could not be deleted: they come again.
    async fn delete(&self, _caller: &dyn Caller, _receipts: &[String]) -> Result<(), ChannelError> {
        Ok(())
    }
}

/// The settings of a connection, as its `enable` body gave them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Vendor fields as JSON values, without the common ones and without credentials.
    pub fields: BTreeMap<String, serde_json::Value>,
    /// Credentials by name.
    pub credentials: BTreeMap<String, Secret>,
}

/// What is known of a vendor without a connection: one static per channel folder.
pub trait Kind: Send + Sync {
    /// Returns the word of the API: `shopify`, `amazon`, `ebay`.
    fn name(&self) -> &'static str;

    /// Returns the names of the vendor's settings and credentials (with `credentials.` before).
    fn setting_names(&self) -> &'static [&'static str];

    /// Checks the settings and makes a channel.
    ///
    /// # Errors
    /// Every wrong or missing setting at once.
    fn open(&self, settings: &Settings) -> Result<Box<dyn Channel>, Vec<SettingError>>;

    /// Checks a mapping's `listing` object, fills in defaults from the settings (such as
    /// Shopify's `locationId`), and returns the fields with the listing's stable key.
    ///
    /// # Errors
    /// Every wrong or missing field, named as in the mapping.
    fn listing(
        &self,
        settings: &Settings,
        fields: BTreeMap<String, String>,
    ) -> Result<(ListingKey, BTreeMap<String, String>), Vec<SettingError>>;

    /// Returns the vendor's account that a connection is of, where its settings tell: connections
    /// of one account may see the same orders and show the same numbers. Holds no secret.
    fn account(&self, settings: &Settings) -> Option<String>;

    /// Returns a listing's quantity scope: listings of one scope, on whatever connections, show
    /// one number, so that one of them is told it. By default the listing of the account.
    fn scope(&self, settings: &Settings, key: &ListingKey) -> Option<String> {
        self.account(settings).map(|account| format!("{account}/{key}"))
    }

    /// Returns the names of the fields that a mapping's `listing` may have, for tables.
    fn listing_names(&self) -> &'static [&'static str];

    /// Returns whether a notice's or order line's fields name this listing.
    fn names_listing(
        &self,
        listing: &BTreeMap<String, String>,
        fields: &BTreeMap<String, String>,
    ) -> bool;

    /// Returns how a merchant lets us in at the vendor's own page, where the vendor has one.
    fn consent(&self) -> Option<&'static dyn Consent> {
        None
    }

    /// Returns whether settings that [`Kind::open`] takes lack what only a merchant's consent
    /// brings: such a connection sends nothing until then.
    fn awaits_consent(&self, _settings: &Settings) -> bool {
        false
    }

    /// Returns the rate budget that the vendor documents for each bucket of
    /// [`Request::bucket`], to start with until an answer tells a better one; a bucket that is
    /// not named has no documented limit.
    fn budgets(&self) -> &'static [(&'static str, RateHint)] {
        &[]
    }

    /// Returns when the vendor's calendar day of an instant began and when it ends.
    fn day_of(&self, at: Timestamp) -> (Timestamp, Timestamp) {
        day_west_of_greenwich(at, 0)
    }
}

/// Returns when the calendar day of an instant began and when it ends, by clocks that are so
/// many hours behind Greenwich.
pub(crate) fn day_west_of_greenwich(at: Timestamp, hours: i64) -> (Timestamp, Timestamp) {
    const DAY: i64 = 86_400_000_000;
    let behind = hours.saturating_mul(3_600_000_000);
    let day = at.micros().saturating_sub(behind).div_euclid(DAY);
    let began = day.saturating_mul(DAY).saturating_add(behind);
    (Timestamp::from_micros(began), Timestamp::from_micros(began.saturating_add(DAY)))
}
