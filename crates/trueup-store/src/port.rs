//! The Store port: what the rest of Trueup may ask of a database.
//!
//! One transaction wide: everything that changes stock goes through [`Store::submit`], which
//! decides, makes durable and then answers. The other methods keep the records of the sync
//! engine (connections, mappings, runs, history, inbox, deliveries) and read.
//!
//! Every method names the org, but for the few that look over all of them and say so. What is not
//! of that org is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use trueup_core::{
    Answer, ChannelId, Command, ListingKey, ListingState, Location, Movement, MovementKind,
    OrderId, Org, Quantity, Rejection, Reservation, ReservationId, ReservationStatus,
    RestockPolicy, Sku, SkuAnswer, Source, Strategy, Timestamp,
};

use crate::cluster::{Cluster, Ownership, Shard};

/// Why the store could not do as asked. Nothing was acknowledged, and but for
/// [`StoreError::Unknown`] nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// More is waiting than the queue takes; nothing was begun.
    #[error("the ledger is overloaded")]
    Overloaded,
    /// The disk refused; nothing is acknowledged until a commit goes through again.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
    /// Whether it was done could not be found out: the database went away in the moment of the
    /// commit. Ask again with the same idempotency key.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The store is shutting down.
    #[error("the store is shutting down")]
    Closed,
    /// The work on the org's shard is another node's by now; nothing was done.
    #[error("the shard is another node's")]
    Fenced,
    /// A read failed, or rows do not make sense.
    #[error("{0}")]
    Failed(String),
    /// The org is on its way here from another store, and not all of it is here yet.
    #[error("the org {0} is arriving from another store and not open yet")]
    Arriving(Org),
    /// The org has moved to another store: what is here is what it was then.
    #[error("the org {0} has moved to another store")]
    Departed(Org),
    /// An idempotency key came back with another body.
    #[error("the idempotency key was used with another body")]
    IdempotencyKeyReused,
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It acknowledges.
    Ready,
    /// It does not, and why.
    Failing(String),
}

/// An answer as it went over the wire, kept to be given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Headers that belong to the answer, such as `etag` and `location`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Makes the wire answer of a decision; called by the writer, for requests with a key only.
pub type Renderer =
    Arc<dyn Fn(&Result<Answer, Rejection>) -> RecordedAnswer + Send + Sync + 'static>;

/// An idempotency key and what to record under it.
#[derive(Clone)]
pub struct Idempotency {
    /// The client's key.
    pub key: Arc<str>,
    /// A digest of method, path and body.
    pub fingerprint: [u8; 32],
    /// Makes the answer to record.
    pub render: Renderer,
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A command with who asks for it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The tenant.
    pub org: Org,
    /// What is asked.
    pub command: Command,
    /// Who asks: the token's `sub`, or a worker's name.
    pub actor: Arc<str>,
    /// By which way it came.
    pub source: Source,
    /// The client's idempotency key, if any.
    pub idempotency: Option<Idempotency>,
}

/// What came of a submission; durable when it is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Decided now.
    Decided(Result<Answer, Rejection>),
    /// Decided now and recorded under the idempotency key.
    Recorded(Result<Answer, Rejection>, RecordedAnswer),
    /// Decided before under the same key: the first answer again.
    Replayed(RecordedAnswer),
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Whether more follows; the cursor is made from the last item.
    pub more: bool,
}

/// Which SKUs to list, by SKU ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkuQuery {
    /// Only SKUs that contain this text (ASCII case aside).
    pub search: Option<String>,
    /// Only SKUs whose stock is low (true) or is not (false).
    pub low_stock: Option<bool>,
    /// Only SKUs with a listing on this channel.
    pub channel: Option<ChannelId>,
    /// Only SKUs with a listing that owes a push.
    pub stale: bool,
    /// Only SKUs that no listing of this channel carries, by its mappings and by what its
    /// catalogue held when it was last read.
    pub unlisted: Option<ChannelId>,
    /// After this SKU.
    pub after: Option<Sku>,
    /// At most so many.
    pub limit: usize,
}

/// Which ledger lines to list, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MovementQuery {
    /// At or after.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// Only this kind.
    pub kind: Option<MovementKind>,
    /// Below this line.
    pub before_seq: Option<u64>,
    /// Above this line.
    pub after_seq: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// Which reservations to list, newest id first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReservationQuery {
    /// Only with this status.
    pub status: Option<ReservationStatus>,
    /// Only of this order.
    pub order: Option<OrderId>,
    /// Only holding this SKU (as asked for).
    pub sku: Option<Sku>,
    /// Below this id.
    pub before: Option<ReservationId>,
    /// At most so many.
    pub limit: usize,
}

/// A SKU as it stood at an instant, from the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkuAt {
    /// How it stood, parts included where it was a bundle then.
    pub answer: SkuAnswer,
    /// The number of the last line before the instant.
    pub seq: u64,
}

/// Settings of the publishing formula that a channel or a mapping may give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSettings {
    /// Units kept off the channel.
    pub buffer: Option<Quantity>,
    /// The share offered, 0 to 100.
    pub percent: Option<u8>,
    /// The most that is shown.
    pub max_quantity: Option<Quantity>,
    /// Below this, zero is shown.
    pub zero_below: Option<Quantity>,
    /// Units of the SKU in one unit of the listing (mappings only).
    pub units_per_listing: Option<Quantity>,
    /// The locations that feed the listing (mappings only).
    pub locations: Option<Vec<Location>>,
}

/// An operator's word that nothing is to be sent for a while: of a SKU, or of the whole org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// The SKU; `None` = everything of the org.
    pub sku: Option<Sku>,
    /// Since when.
    pub at: Timestamp,
    /// Who paused it.
    pub actor: String,
    /// Why.
    pub note: Option<String>,
}

/// Whether a connection sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// It does.
    Active,
    /// An operator paused it: nothing is sent, work is kept.
    Paused,
}

/// A connected account of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Its id, such as `shopify-eu`.
    pub id: ChannelId,
    /// The vendor's word, such as `shopify`.
    pub kind: String,
    /// Whether it sends by itself.
    pub state: ConnectionState,
    /// Whether stock movements publish by themselves.
    pub sync_inventory: bool,
    /// Whether its orders are booked.
    pub sync_orders: bool,
    /// The strategy, where set.
    pub strategy: Option<Strategy>,
    /// The publishing rules, where set.
    pub rules: RuleSettings,
    /// Minutes between pulls; `None` = only when asked.
    pub poll_interval_minutes: Option<u32>,
    /// Whether pushes are computed and reported but not sent.
    pub dry_run: bool,
    /// Scheme and host in place of the vendor's.
    pub endpoint: Option<String>,
    /// The vendor's settings, as a JSON object.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// The credentials, encrypted by the caller; the store only keeps them.
    pub sealed_credentials: Vec<u8>,
    /// When it was first enabled.
    pub created_at: Timestamp,
    /// When its settings last changed.
    pub updated_at: Timestamp,
    /// When a push or pull last came through.
    pub last_sync: Option<Timestamp>,
    /// What last went wrong, and when; `None` after a success.
    pub last_error: Option<(Timestamp, String)>,
    /// Up to where its orders have been read.
    pub orders_seen_to: Option<Timestamp>,
    /// What becomes of units that come back by cancel or refund.
    pub restock: RestockPolicy,
    /// Why it does not work as it should; `None` while it does, and where an operator paused it.
    pub reason: Option<Reason>,
    /// How much of it one act may change without being asked.
    pub blast_radius: BlastRadius,
}

/// How much of a connection's listings one act may change before an operator is asked; what is
/// not set is as the engine has it by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlastRadius {
    /// The share of the listings that may be told zero, 0 to 100.
    pub zero_percent: Option<u8>,
    /// How many listings may be told zero, whatever their share.
    pub zero_number: Option<u64>,
    /// The share of the listings that may be told another number, 0 to 100.
    pub change_percent: Option<u8>,
    /// How many listings may be told another number, whatever their share.
    pub change_number: Option<u64>,
}

/// Why a connection does not work as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// For the program; stable.
    pub code: String,
    /// Since when it has been this reason.
    pub since: Timestamp,
}

impl Connection {
    /// Returns what decides whether it is told numbers: its state, whether stock publishes by
    /// itself, and whether it is a dry run.
    #[must_use]
    pub fn sends(&self) -> (ConnectionState, bool, bool) {
        (self.state, self.sync_inventory, self.dry_run)
    }

    /// Returns whether it sends by itself.
    #[must_use]
    pub fn publishes(&self) -> bool {
        self.state == ConnectionState::Active && self.sync_inventory && !self.dry_run
    }

    /// Notes what is wrong; the reason's instant stays while its code stays.
    pub fn note_trouble(&mut self, at: Timestamp, code: &str, words: String) {
        self.last_error = Some((at, words));
        if self.reason.as_ref().is_none_or(|reason| reason.code != code) {
            self.reason = Some(Reason { code: code.to_owned(), since: at });
        }
    }

    /// Notes that nothing is wrong any more.
    pub fn note_recovery(&mut self) {
        self.last_error = None;
        self.reason = None;
    }
}

/// The most consents that one connection waits for; beyond, the oldest is forgotten.
pub const CONSENTS_MAX: u32 = 100;

/// A consent that a merchant is asked for at a vendor's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// A digest of the state that comes back; the state itself is never kept.
    pub state_digest: [u8; 32],
    /// The connection that it is for.
    pub channel: ChannelId,
    /// The connection's kind when it was asked for.
    pub kind: String,
    /// Where the vendor was told to send the merchant back to.
    pub redirect: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Until when it is taken.
    pub expires_at: Timestamp,
}

/// A bulk batch that the vendor has and whose end is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// Its id with us.
    pub id: String,
    /// The connection.
    pub channel: ChannelId,
    /// What the vendor is asked by.
    pub ticket: String,
    /// What it tells, in the order in which it was handed over.
    pub items: Vec<FeedItem>,
    /// When it was handed over.
    pub created_at: Timestamp,
}

/// What a bulk batch tells of one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedItem {
    /// The SKU.
    pub sku: Sku,
    /// The listing.
    pub key: ListingKey,
    /// The number, as the ledger notes what was sent.
    pub quantity: i64,
    /// The SKU's version that it was computed from.
    pub version: u64,
    /// The listing's epoch when it was handed over.
    pub epoch: u32,
    /// The number of a push before it whose application was not seen, if there was one.
    pub earlier: Option<i64>,
}

/// A line of a channel's order: the vendor's ids of the order and of the line.
pub type OrderLineId = (String, String);

/// A line of a channel's order that is ordered and not paid for, so that its stock is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLine {
    /// The vendor's id of the order.
    pub order_id: String,
    /// The vendor's id of the line.
    pub line_id: String,
    /// The SKU.
    pub sku: Sku,
    /// Units of the listing that are held.
    pub held: u64,
    /// When that was last booked.
    pub since: Timestamp,
}

/// A line of a channel's order that no mapping and no SKU answers to yet, as totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmappedLine {
    /// The vendor's id of the order.
    pub order_id: String,
    /// The vendor's id of the line.
    pub line_id: String,
    /// The SKU as the channel has it, when it says one.
    pub sku: Option<String>,
    /// The vendor's identifiers of the listing.
    pub fields: BTreeMap<String, String>,
    /// Units sold so far.
    pub sold: u64,
    /// Units come back so far.
    pub restocked: u64,
    /// Units ordered and not paid for.
    pub held: u64,
    /// Units cancelled so far; beyond any quantity for the line as a whole.
    pub cancelled: u64,
    /// When the order was placed, by the vendor's clock.
    pub placed_at: Option<Timestamp>,
    /// When the order last changed, by the vendor's clock.
    pub updated_at: Option<Timestamp>,
    /// When the line was first kept.
    pub since: Timestamp,
}

/// A listing that is not pushed until something changes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// For the program.
    pub code: String,
    /// For people.
    pub detail: String,
    /// Since when.
    pub at: Timestamp,
}

/// The tie between a SKU and a listing, as the merchant set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The connection.
    pub channel: ChannelId,
    /// The listing's stable key.
    pub key: ListingKey,
    /// The SKU.
    pub sku: Sku,
    /// The vendor's identifiers.
    pub fields: BTreeMap<String, String>,
    /// The strategy, where it differs from the channel's.
    pub strategy: Option<Strategy>,
    /// Publishing rules, where they differ from the channel's.
    pub rules: RuleSettings,
    /// Whether the channel itself ships it.
    pub channel_fulfilled: bool,
    /// Whether it takes part at all.
    pub enabled: bool,
}

/// How often a listing was revised in the vendor's day of its latest revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revised {
    /// How often, at least once.
    pub count: u32,
    /// When last.
    pub at: Timestamp,
}

/// Revisions of listings that the vendor counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionsNote {
    /// The listings, each revised once.
    pub keys: Vec<ListingKey>,
    /// When.
    pub at: Timestamp,
    /// When the vendor's day of that instant began: earlier revisions count no longer.
    pub day_began: Timestamp,
}

/// A listing with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingView {
    /// The mapping.
    pub mapping: Mapping,
    /// What was sent, acknowledged and read, with the settings in force.
    pub state: ListingState,
    /// Why it is not pushed, if it is not.
    pub parked: Option<Parked>,
    /// How often in a row a push or its verification has failed.
    pub attempts: u32,
    /// How often it was revised lately, where the vendor counts.
    pub revised: Option<Revised>,
    /// Its quantity scope: listings of one scope show one number, whatever connections they
    /// are on, and one of them is told it.
    pub scope: Option<String>,
    /// The listing of its scope that is told the number, where it is another one.
    pub leader: Option<(ChannelId, ListingKey)>,
    /// Whether its SKU or the whole org is paused.
    pub paused: bool,
    /// The SKU as it stands; `None` where the SKU is not in the ledger.
    pub sku: Option<SkuAnswer>,
}

impl ListingView {
    /// Returns whether a push is owed by version or by force.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let publish = self.sku.as_ref().map_or(0, |sku| sku.state.publish_version);
        !self.state.follows && (self.state.forced || self.state.acked_version < publish)
    }
}

/// A listing and the number that it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingScope {
    /// Its key.
    pub key: ListingKey,
    /// Whether the channel ships its stock.
    pub channel_fulfilled: bool,
    /// Its scope; `None` where its number is its own, or is not told.
    pub scope: Option<String>,
}

/// The listing that is told the number of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeLeader {
    /// The scope.
    pub scope: String,
    /// The listing's connection.
    pub channel: ChannelId,
    /// The listing.
    pub key: ListingKey,
    /// The SKU it sells.
    pub sku: Sku,
}

/// Which listings to list, by SKU then key ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListingQuery {
    /// Only of this connection.
    pub channel: Option<ChannelId>,
    /// Only of these SKUs.
    pub skus: Option<Vec<Sku>>,
    /// Only with one of these keys.
    pub keys: Option<Vec<ListingKey>>,
    /// Only those that owe a push.
    pub dirty: bool,
    /// Only those whose newest reading is not what was last acknowledged or waits to be
    /// verified, or that are parked or in conflict: candidates for the drift list.
    pub suspicious: bool,
    /// After this SKU and key.
    pub after: Option<(Sku, ListingKey)>,
    /// At most so many.
    pub limit: usize,
}

/// What a connection has before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelCounts {
    /// Listings that owe a push, or whose push has no outcome yet, and that may be told.
    pub pending: u64,
    /// Open conflicts.
    pub conflicts: u64,
}

/// What to note about pushes beside the ledger's own settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptNote {
    /// The listing.
    pub key: ListingKey,
    /// Failures in a row.
    pub attempts: u32,
    /// Why it is parked now, if it is.
    pub parked: Option<Parked>,
}

/// Identifiers of a listing that the vendor told, to be kept with its mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldsNote {
    /// The listing; its key stays what it is.
    pub key: ListingKey,
    /// Fields to set beside those that are there; `None` takes one away.
    pub fields: BTreeMap<String, Option<String>>,
}

/// How a listing of a channel's catalogue stands to the ledger, whether it is mapped or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// Its SKU is one of the ledger's.
    Matched,
    /// Its SKU is one of the ledger's but for case and spacing.
    NearMiss,
    /// Its SKU is one of the ledger's, and other listings of the channel carry it too.
    Duplicate,
    /// Its SKU is none of the ledger's.
    UnknownSku,
    /// It has no SKU.
    NoSku,
    /// It lacks an identifier that a mapping needs.
    Incomplete,
}

/// The most SKUs that a near miss suggests.
pub const SUGGESTIONS_MAX: usize = 5;

/// A listing as the channel's catalogue held it when it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelListing {
    /// Its stable name among the channel's listings: its key where it has one.
    pub name: String,
    /// The key that a mapping of it has; `None` where it lacks an identifier.
    pub key: Option<ListingKey>,
    /// The SKU as the channel has it.
    pub sku: Option<String>,
    /// What is left of the SKU without case and spacing, to find near misses by.
    pub essence: Option<String>,
    /// A name to show people.
    pub title: Option<String>,
    /// The vendor's identifiers.
    pub fields: BTreeMap<String, String>,
    /// What the channel showed, where its catalogue says so.
    pub quantity: Option<i64>,
    /// Whether the channel itself ships it.
    pub channel_fulfilled: bool,
    /// How it stands to the ledger.
    pub found: Match,
    /// The SKUs that a near miss may be, at most [`SUGGESTIONS_MAX`]; with several, nobody but
    /// a person can say.
    pub suggestions: Vec<Sku>,
    /// Whether it had a mapping when it was matched.
    pub was_mapped: bool,
    /// The run that read it.
    pub run: String,
    /// When it was read.
    pub seen_at: Timestamp,
}

/// A listing of a channel's catalogue with the mapping it has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelListingView {
    /// The listing.
    pub listing: ChannelListing,
    /// Its mapping.
    pub mapping: Option<Mapping>,
}

/// What of a channel's catalogue to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogueFilter {
    /// What has a mapping.
    Mapped,
    /// What has none.
    Unmapped,
    /// What has none and stands so to the ledger.
    Is(Match),
}

/// Which listings of a channel's catalogue to list, by name ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogueQuery {
    /// Only these.
    pub filter: Option<CatalogueFilter>,
    /// Only those whose SKU, title or name contains this text (ASCII case aside).
    pub search: Option<String>,
    /// Only those that this run read.
    pub run: Option<String>,
    /// After this name.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// How a listing was matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchNote {
    /// The listing's name.
    pub name: String,
    /// How it stands to the ledger.
    pub found: Match,
    /// Whether it has a mapping.
    pub was_mapped: bool,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// Under way.
    Running,
    /// Done, every item.
    Completed,
    /// Done, some items failed.
    Partial,
    /// Nothing came through.
    Failed,
    /// It would change more than it may without being asked: it waits for an operator.
    Held,
    /// It was held, and an operator gave it up.
    Cancelled,
}

/// Which runs to list, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunQuery {
    /// Only of this connection.
    pub channel: Option<ChannelId>,
    /// Only with this status.
    pub status: Option<RunStatus>,
    /// Only this operation.
    pub operation: Option<String>,
    /// Only those that began before this one: its beginning and its id.
    pub before: Option<(Timestamp, String)>,
    /// At most so many.
    pub limit: usize,
}

/// One push or pull over a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// `inventory_push`, `inventory_pull` or `inventory_discovery`.
    pub operation: String,
    /// The connection.
    pub channel: ChannelId,
    /// Where it stands.
    pub status: RunStatus,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// Counters by name: `total`, `pushed`, `skipped`, `failed`, and for a pull `checked`,
    /// `matched`, `adopted`, `conflicts`.
    pub counters: BTreeMap<String, u64>,
    /// Warnings as a JSON array.
    pub warnings: serde_json::Value,
    /// Items as a JSON array.
    pub items: serde_json::Value,
    /// What stopped it, where something did.
    pub error: Option<String>,
    /// What was asked for, as a JSON object, where it is asked for again: of a run that is held,
    /// and of one that undoes another.
    pub request: serde_json::Value,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// One entry of the sync history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// Its number, given by the store; 0 in a new one.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// `inventory_push`, `inventory_pull`, `inventory_conflict`, `mapping_missing`, `webhook`, …
    pub operation: String,
    /// The connection, where one is concerned.
    pub channel: Option<ChannelId>,
    /// The SKU, where one is concerned.
    pub sku: Option<Sku>,
    /// `ok`, `error`, `open`, `resolved`, `warning`, …
    pub status: String,
    /// The run it belongs to.
    pub run: Option<String>,
    /// More, as a JSON object.
    pub detail: serde_json::Value,
}

/// Which history entries to list, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only this operation.
    pub operation: Option<String>,
    /// Only this connection.
    pub channel: Option<ChannelId>,
    /// Only this SKU.
    pub sku: Option<Sku>,
    /// Only this status.
    pub status: Option<String>,
    /// At or after.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// Below this number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A difference that waits, or waited, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its id, given by the store.
    pub id: u64,
    /// The connection.
    pub channel: ChannelId,
    /// The listing.
    pub key: ListingKey,
    /// The SKU.
    pub sku: Sku,
    /// On hand in the ledger when it was last seen.
    pub master: i64,
    /// What the channel had last acknowledged.
    pub base: Option<i64>,
    /// What it should have shown.
    pub expected: i64,
    /// What it showed.
    pub observed: i64,
    /// When it was first seen.
    pub opened_at: Timestamp,
    /// When it was last seen.
    pub seen_at: Timestamp,
    /// When, by whom and how it was resolved.
    pub resolved: Option<Resolved>,
}

/// The end of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// `master`, `channel` or `quantity`.
    pub resolution: String,
    /// Why.
    pub note: Option<String>,
}

/// A webhook that was let in and waits to be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxItem {
    /// Its number, given by the store; 0 in a new one.
    pub id: u64,
    /// The connection.
    pub channel: ChannelId,
    /// The vendor's id of the delivery.
    pub delivery_id: String,
    /// The vendor's topic.
    pub topic: String,
    /// The raw body.
    pub body: Vec<u8>,
    /// When it came.
    pub received_at: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
}

/// Where a sealed text stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedPlace {
    /// The credentials of a connection.
    Connection(ChannelId),
    /// The signing secret of a subscription.
    Subscription(String),
}

/// A sealed text with its place; what it says is not the store's to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedText {
    /// Whose it is.
    pub org: Org,
    /// Where it stands.
    pub place: SealedPlace,
    /// The sealed bytes.
    pub text: Vec<u8>,
}

/// Who wants to be told what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: String,
    /// Where to send.
    pub url: String,
    /// Which events; empty = all.
    pub events: Vec<String>,
    /// The signing secret, encrypted by the caller.
    pub sealed_secret: Vec<u8>,
    /// Whether it is told at all.
    pub enabled: bool,
    /// Words for people.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Where an outgoing event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be sent, or sent again.
    Pending,
    /// The subscriber took it.
    Delivered,
    /// Given up on; can be replayed.
    Dead,
}

/// One event for one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id, which is also the `webhook-id`.
    pub id: String,
    /// The subscription.
    pub subscription: String,
    /// The event, such as `inventory.low_stock`.
    pub event: String,
    /// The body that is signed and sent.
    pub body: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// Not before this.
    pub next_at: Timestamp,
    /// The last answer's status or error.
    pub last_result: Option<String>,
    /// When the event happened.
    pub created_at: Timestamp,
}

/// An API key; the key itself is never kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, the part before the dot.
    pub id: String,
    /// A digest of the whole key.
    pub digest: [u8; 32],
    /// The actor it stands for.
    pub subject: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// Something that just became durable, for live views; losing one is no loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A SKU moved.
    Stock {
        /// The tenant.
        org: Org,
        /// The SKU.
        sku: Sku,
    },
    /// Stock fell below its threshold.
    LowStock {
        /// The tenant.
        org: Org,
        /// The SKU.
        sku: Sku,
    },
    /// More is reserved than is on hand.
    Oversold {
        /// The tenant.
        org: Org,
        /// The SKU.
        sku: Sku,
        /// By how many units.
        by: u64,
    },
    /// A conflict was flagged or resolved.
    Conflict {
        /// The tenant.
        org: Org,
        /// The connection.
        channel: ChannelId,
        /// The SKU.
        sku: Sku,
    },
    /// A run began, got on or ended.
    Run {
        /// The tenant.
        org: Org,
        /// The run's id.
        id: String,
    },
}

/// The store's own figures, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Commands decided since the start.
    pub commands: u64,
    /// Commits to disk since the start.
    pub commits: u64,
    /// Commands waiting now.
    pub queued: u64,
    /// Rows that are older than the ledger's lines.
    pub behind: u64,
    /// SKUs in memory.
    pub skus: u64,
    /// Active reservations in memory.
    pub reservations: u64,
    /// Units ever counted as oversold events.
    pub oversold_events: u64,
    /// Shards that this node works for.
    pub shards: u64,
    /// Leases of shards that were lost since the start.
    pub leases_lost: u64,
    /// Writes that were refused because the shard was another node's.
    pub fenced: u64,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// SKUs whose ledger was added up.
    pub skus: u64,
    /// Ledger lines read.
    pub movements: u64,
    /// Reservations read.
    pub reservations: u64,
    /// What does not agree, in words; empty = clean.
    pub faults: Vec<String>,
}

/// A database behind Trueup.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // --- The ledger -----------------------------------------------------------------------

    /// Decides a command and makes it durable; returns after that.
    ///
    /// # Errors
    /// When it was not acknowledged; it has not happened then, or (`ReadOnly`) will not be seen
    /// after a restart unless it became durable in the moment of failure.
    async fn submit(&self, submission: Submission) -> Result<Outcome, StoreError>;

    /// Returns a SKU as it stands, with what is due retired.
    async fn sku(&self, org: &Org, sku: &Sku) -> Result<Option<SkuAnswer>, StoreError>;

    /// Lists SKUs.
    async fn skus(&self, org: &Org, query: SkuQuery) -> Result<Page<SkuAnswer>, StoreError>;

    /// Returns a SKU as it stood at an instant; `None` where it did not exist yet.
    async fn sku_at(
        &self,
        org: &Org,
        sku: &Sku,
        at: Timestamp,
    ) -> Result<Option<SkuAt>, StoreError>;

    /// Lists a SKU's ledger lines.
    async fn movements(
        &self,
        org: &Org,
        sku: &Sku,
        query: MovementQuery,
    ) -> Result<Page<Movement>, StoreError>;

    /// Returns a reservation, whatever its status.
    async fn reservation(
        &self,
        org: &Org,
        id: ReservationId,
    ) -> Result<Option<Reservation>, StoreError>;

    /// Lists reservations.
    async fn reservations(
        &self,
        org: &Org,
        query: ReservationQuery,
    ) -> Result<Page<Reservation>, StoreError>;

    /// Returns the answer recorded under a key with its fingerprint.
    async fn recorded(
        &self,
        org: &Org,
        key: &str,
    ) -> Result<Option<([u8; 32], RecordedAnswer)>, StoreError>;

    /// Records an answer of a request that is not a single command; the first one stays.
    async fn record(
        &self,
        org: &Org,
        key: &str,
        fingerprint: [u8; 32],
        answer: RecordedAnswer,
    ) -> Result<(), StoreError>;

    // --- Connections and mappings ---------------------------------------------------------

    /// Lists every connection of every org, for the workers.
    async fn all_connections(&self) -> Result<Vec<(Org, Connection)>, StoreError>;

    /// Lists an org's connections by id.
    async fn connections(&self, org: &Org) -> Result<Vec<Connection>, StoreError>;

    /// Returns a connection.
    async fn connection(&self, org: &Org, id: &ChannelId)
    -> Result<Option<Connection>, StoreError>;

    /// Makes or replaces a connection. Where it sends no longer, listings that followed its
    /// take over.
    async fn put_connection(&self, org: &Org, row: Connection) -> Result<(), StoreError>;

    /// Removes a connection with its mappings, its catalogue, its bulk batches, its inbox, its
    /// unmapped lines and its open consents; the ledger and history stay. Returns whether it was
    /// there. Listings that followed one of its take over.
    async fn delete_connection(&self, org: &Org, id: &ChannelId) -> Result<bool, StoreError>;

    /// Keeps a consent that a merchant is asked for.
    async fn put_consent(&self, org: &Org, row: Consent) -> Result<(), StoreError>;

    /// Takes the consent of a state's digest away and returns it with its org; once only,
    /// whether it has run out or not.
    async fn take_consent(&self, digest: [u8; 32]) -> Result<Option<(Org, Consent)>, StoreError>;

    /// Keeps a bulk batch that the vendor has.
    async fn put_feed(&self, org: &Org, row: Feed) -> Result<(), StoreError>;

    /// Lists a connection's bulk batches whose end is not known, oldest first.
    async fn feeds(&self, org: &Org, channel: &ChannelId) -> Result<Vec<Feed>, StoreError>;

    /// Returns one of them.
    async fn feed(
        &self,
        org: &Org,
        channel: &ChannelId,
        id: &str,
    ) -> Result<Option<Feed>, StoreError>;

    /// Forgets a bulk batch, all of whose items are settled.
    async fn delete_feed(&self, org: &Org, channel: &ChannelId, id: &str)
    -> Result<(), StoreError>;

    /// Makes or replaces mappings; what is known of a listing (base, readings) stays where its
    /// key and SKU stay. A listing has one SKU: mapping its key to another SKU moves it. Each
    /// comes with its scope; see [`Store::set_scopes`].
    async fn put_mappings(
        &self,
        org: &Org,
        rows: Vec<(Mapping, Option<String>)>,
    ) -> Result<(), StoreError>;

    /// Removes a SKU's mappings on a channel but those of these listings; returns how many it
    /// removed.
    async fn delete_mappings(
        &self,
        org: &Org,
        channel: &ChannelId,
        sku: &Sku,
        but: BTreeSet<ListingKey>,
    ) -> Result<usize, StoreError>;

    /// Says which listings show one number. Of those of one scope, one is told it: the first
    /// that may be, until it is unmapped or may not be any more. Then the next one takes over,
    /// with all that is known of what is shown.
    async fn set_scopes(
        &self,
        org: &Org,
        channel: &ChannelId,
        scopes: Vec<(ListingKey, Option<String>)>,
    ) -> Result<(), StoreError>;

    /// Lists a connection's listings with their scopes, by key.
    async fn listing_scopes(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<ListingKey>,
        limit: usize,
    ) -> Result<Page<ListingScope>, StoreError>;

    /// Returns the listings that are told the numbers of scopes.
    async fn leaders(&self, org: &Org, scopes: Vec<String>)
    -> Result<Vec<ScopeLeader>, StoreError>;

    /// Lists listings with their SKUs.
    async fn listings(
        &self,
        org: &Org,
        query: ListingQuery,
    ) -> Result<Page<ListingView>, StoreError>;

    /// Counts a connection's listings that owe a push, and its open conflicts.
    async fn channel_counts(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<ChannelCounts, StoreError>;

    /// Notes failures in a row and parking.
    async fn note_attempts(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<AttemptNote>,
    ) -> Result<(), StoreError>;

    /// Counts revisions of listings; passes over those that are gone.
    async fn note_revisions(
        &self,
        org: &Org,
        channel: &ChannelId,
        note: RevisionsNote,
    ) -> Result<(), StoreError>;

    /// Adds to the identifiers of mappings; passes over those that are gone.
    async fn note_fields(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<FieldsNote>,
    ) -> Result<(), StoreError>;

    // --- Pauses -----------------------------------------------------------------------------

    /// Keeps a pause, in place of one of the same.
    async fn put_pause(&self, org: &Org, pause: Pause) -> Result<(), StoreError>;

    /// Ends the pause of a SKU, or of the org; returns whether there was one.
    async fn delete_pause(&self, org: &Org, sku: Option<&Sku>) -> Result<bool, StoreError>;

    /// Returns the pause of a SKU itself, or of the org.
    async fn pause(&self, org: &Org, sku: Option<&Sku>) -> Result<Option<Pause>, StoreError>;

    /// Lists the pauses of SKUs, by SKU.
    async fn pauses(
        &self,
        org: &Org,
        after: Option<&Sku>,
        limit: usize,
    ) -> Result<Page<Pause>, StoreError>;

    // --- Catalogues -----------------------------------------------------------------------

    /// Keeps listings of a channel's catalogue as they were read.
    async fn put_channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        rows: Vec<ChannelListing>,
    ) -> Result<(), StoreError>;

    /// Lists a channel's catalogue as it was last read, with the mappings of now.
    async fn channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        query: CatalogueQuery,
    ) -> Result<Page<ChannelListingView>, StoreError>;

    /// Lists what a run read and has a SKU, by SKU and name, so that duplicates are neighbours.
    async fn channel_listings_by_sku(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
        after: Option<(String, String)>,
        limit: usize,
    ) -> Result<Page<ChannelListingView>, StoreError>;

    /// Notes how listings were matched.
    async fn note_matches(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<MatchNote>,
    ) -> Result<(), StoreError>;

    /// Adds SKUs to what a run's listings may be: those whose essence, given with each SKU, is
    /// the listing's, and that match no SKU exactly.
    async fn suggest(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
        skus: Vec<(String, Sku)>,
    ) -> Result<(), StoreError>;

    /// Counts what a run read by how it stands: the words of [`Match`], and `already_mapped` for
    /// what had a mapping when it was matched or was mapped by hand.
    async fn catalogue_counts(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
    ) -> Result<BTreeMap<String, u64>, StoreError>;

    /// Forgets up to so many listings that a run did not read; returns how many.
    async fn forget_channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        but_of_run: &str,
        at_most: usize,
    ) -> Result<usize, StoreError>;

    // --- Doorbell -------------------------------------------------------------------------

    /// Waits until SKUs owe a push, and takes them all. Each is told at least once; after a
    /// restart, ask [`ListingQuery::dirty`] first.
    async fn wait_dirty(&self) -> Vec<(Org, Sku)>;

    // --- Runs, history, conflicts ---------------------------------------------------------

    /// Makes or replaces a run.
    async fn put_run(&self, org: &Org, run: Run) -> Result<(), StoreError>;

    /// Returns a run.
    async fn run(&self, org: &Org, id: &str) -> Result<Option<Run>, StoreError>;

    /// Lists runs, newest first, without their items and warnings and what was asked for.
    async fn runs(&self, org: &Org, query: RunQuery) -> Result<Page<Run>, StoreError>;

    /// Ends runs of the orgs of shards that were left running; returns how many.
    async fn abandon_runs(&self, shards: Vec<Shard>, now: Timestamp) -> Result<usize, StoreError>;

    /// Adds to the sync history.
    async fn add_history(&self, org: &Org, entries: Vec<HistoryEntry>) -> Result<(), StoreError>;

    /// Lists the sync history.
    async fn history(
        &self,
        org: &Org,
        query: HistoryQuery,
    ) -> Result<Page<HistoryEntry>, StoreError>;

    /// Lists conflicts, newest first, below an id.
    async fn conflicts(
        &self,
        org: &Org,
        open: Option<bool>,
        channel: Option<&ChannelId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page<Conflict>, StoreError>;

    /// Returns a conflict.
    async fn conflict(&self, org: &Org, id: u64) -> Result<Option<Conflict>, StoreError>;

    /// Notes how an operator resolved a conflict that the ledger has closed.
    async fn note_resolved(&self, org: &Org, id: u64, resolved: Resolved)
    -> Result<(), StoreError>;

    // --- Orders ---------------------------------------------------------------------------

    /// Lists a connection's lines that hold stock, by order and line.
    async fn held_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<OrderLineId>,
        limit: usize,
    ) -> Result<Page<HeldLine>, StoreError>;

    /// Returns under which of these connections lines of an order are booked, by line.
    async fn booked_under(
        &self,
        org: &Org,
        order: &str,
        channels: Vec<ChannelId>,
    ) -> Result<Vec<(String, ChannelId)>, StoreError>;

    /// Moves up to so many booked lines of one connection to another of the same account;
    /// returns how many. Lines that are there already stay.
    async fn move_order_lines(
        &self,
        org: &Org,
        from: &ChannelId,
        to: &ChannelId,
        at_most: usize,
    ) -> Result<usize, StoreError>;

    /// Keeps lines that nothing answers to yet; one that is kept already grows by what is new.
    /// Returns those that were not kept before.
    async fn put_unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        lines: Vec<UnmappedLine>,
    ) -> Result<Vec<OrderLineId>, StoreError>;

    /// Lists a connection's lines that nothing answers to yet, by order and line.
    async fn unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<OrderLineId>,
        limit: usize,
    ) -> Result<Page<UnmappedLine>, StoreError>;

    /// Lets go of lines that have been booked; one that has grown since stays.
    async fn delete_unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        lines: Vec<UnmappedLine>,
    ) -> Result<(), StoreError>;

    // --- Inbox ----------------------------------------------------------------------------

    /// Keeps a webhook durably; returns false when its delivery id was there already.
    async fn inbox_put(&self, org: &Org, item: InboxItem) -> Result<bool, StoreError>;

    /// Keeps webhooks durably, all with one commit; returns of each, in order, whether its
    /// delivery id was new.
    async fn inbox_put_many(
        &self,
        org: &Org,
        items: Vec<InboxItem>,
    ) -> Result<Vec<bool>, StoreError>;

    /// Lists waiting webhooks of every org, oldest first, that are not to be tried later.
    async fn inbox_waiting(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Org, InboxItem)>, StoreError>;

    /// Ends one: done, or to be tried again at an instant, or given up on.
    async fn inbox_settle(
        &self,
        org: &Org,
        id: u64,
        settled: InboxSettled,
    ) -> Result<(), StoreError>;

    // --- Outgoing webhooks ----------------------------------------------------------------

    /// Lists everything that is sealed, of every org, for a change of keys.
    async fn sealed(&self) -> Result<Vec<SealedText>, StoreError>;

    /// Puts a text in the place of a sealed one, where that still stands there; returns whether.
    async fn reseal(&self, sealed: SealedText, to: Vec<u8>) -> Result<bool, StoreError>;

    /// Lists an org's subscriptions by id.
    async fn subscriptions(&self, org: &Org) -> Result<Vec<Subscription>, StoreError>;

    /// Returns a subscription.
    async fn subscription(&self, org: &Org, id: &str) -> Result<Option<Subscription>, StoreError>;

    /// Makes or replaces a subscription.
    async fn put_subscription(&self, org: &Org, row: Subscription) -> Result<(), StoreError>;

    /// Removes a subscription with its deliveries; returns whether it was there.
    async fn delete_subscription(&self, org: &Org, id: &str) -> Result<bool, StoreError>;

    /// Adds an event for every subscriber that wants it. Ledger events are added by the store
    /// itself, in the transaction that makes their rows.
    async fn add_event(
        &self,
        org: &Org,
        event: &str,
        body: serde_json::Value,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// Lists deliveries of every org that are due, oldest first.
    async fn deliveries_due(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Org, Delivery)>, StoreError>;

    /// Lists a subscription's deliveries, newest first, below an id.
    async fn deliveries(
        &self,
        org: &Org,
        subscription: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Page<Delivery>, StoreError>;

    /// Returns a delivery.
    async fn delivery(&self, org: &Org, id: &str) -> Result<Option<Delivery>, StoreError>;

    /// Replaces a delivery.
    async fn put_delivery(&self, org: &Org, row: Delivery) -> Result<(), StoreError>;

    // --- Keys, health, upkeep -------------------------------------------------------------

    /// Returns an API key by its id, with its org.
    async fn api_key(&self, id: &str) -> Result<Option<(Org, ApiKey)>, StoreError>;

    /// Lists an org's keys by id.
    async fn api_keys(&self, org: &Org) -> Result<Vec<ApiKey>, StoreError>;

    /// Makes or replaces a key.
    async fn put_api_key(&self, org: &Org, key: ApiKey) -> Result<(), StoreError>;

    /// Returns how the store is.
    fn health(&self) -> Health;

    /// Returns its figures.
    fn figures(&self) -> StoreFigures;

    /// Returns a feed of changes for live views; a slow reader misses some.
    fn changes(&self) -> tokio::sync::broadcast::Receiver<Change>;

    /// Tells live views about something that is not the store's own.
    fn announce(&self, change: Change);

    /// Adds up the whole ledger of an org and compares it with the levels.
    async fn verify(&self, org: &Org) -> Result<Verification, StoreError>;

    /// Lists every org that has a SKU or a connection.
    async fn orgs(&self) -> Result<Vec<Org>, StoreError>;

    // --- Nodes ----------------------------------------------------------------------------

    /// Returns which shards this node works for, and tells of changes. A store that is the only
    /// one of its data works for all of them.
    fn ownership(&self) -> tokio::sync::watch::Receiver<Ownership>;

    /// Returns whether this node surely works for an org at this instant: to be asked
    /// immediately before anything that only one node may do.
    fn holds(&self, org: &Org) -> bool;

    /// Returns the store as those who work for shards use it: what they write is refused as
    /// [`StoreError::Fenced`] once the shard is another node's, and of what there is of all orgs
    /// (connections, the inbox, deliveries) they are given that of the shards they work for.
    fn for_workers(self: Arc<Self>) -> Arc<dyn Store>;

    /// Hands shards over, all work for which has ended here, so that other nodes can have them.
    async fn hand_over(&self, shards: Vec<Shard>) -> Result<(), StoreError>;

    /// Hands everything over and takes nothing more, so that others go on with it at once; what
    /// this node is asked it still does. All work has to have ended here.
    async fn retire(&self) -> Result<(), StoreError>;

    /// Returns all nodes and who works for what.
    async fn cluster(&self) -> Result<Cluster, StoreError>;

    /// Drains what is queued, makes everything durable in rows and stops.
    async fn close(&self) -> Result<(), StoreError>;
}

/// How a webhook of the inbox was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxSettled {
    /// Worked on.
    Done,
    /// To be tried again.
    Later {
        /// Not before this.
        at: Timestamp,
        /// What stood in the way.
        why: String,
    },
    /// Given up on; kept for people.
    Dead {
        /// What stood in the way.
        why: String,
    },
}
