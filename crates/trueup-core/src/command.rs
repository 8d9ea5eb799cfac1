//! What can be asked of the ledger, and what it answers.

use std::sync::Arc;

use crate::{
    ChannelId, Delta, ListingKey, Location, OrderId, Part, Quantity, Rejection, Reservation,
    ReservationId, Sku, SkuState, Timestamp,
    event::Source,
    publish::{Rules, Stock, Terms},
    reconcile::Strategy,
    state::Item,
};

/// The circumstances of a command: who, by which way, when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The instant of the decision.
    pub now: Timestamp,
    /// Who asks.
    pub actor: Arc<str>,
    /// By which way it came.
    pub source: Source,
}

/// Sets on hand by count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetOnHand {
    /// The SKU; made when new.
    pub sku: Sku,
    /// What was counted at the location.
    pub quantity: Quantity,
    /// Where.
    pub location: Location,
    /// Why.
    pub reason: Option<Arc<str>>,
    /// New settings, where given.
    pub settings: SkuSettings,
    /// When the count was true; `None` = now.
    pub counted_at: Option<Timestamp>,
    /// Refuse unless the SKU is at this version.
    pub if_version: Option<u64>,
    /// Whether channels are to be told.
    pub publish: bool,
}

/// Settings of a SKU to change; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SkuSettings {
    /// Units never offered anywhere.
    pub safety_stock: Option<Quantity>,
    /// Below this the stock is low; `Some(None)` = never.
    pub low_stock_threshold: Option<Option<Quantity>>,
    /// Units that may be reserved beyond what is on hand.
    pub backorder_limit: Option<Quantity>,
}

/// Changes on hand by a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjust {
    /// The SKU.
    pub sku: Sku,
    /// The difference.
    pub delta: Delta,
    /// Where.
    pub location: Location,
    /// Why.
    pub reason: Option<Arc<str>>,
    /// Refuse unless the SKU is at this version.
    pub if_version: Option<u64>,
    /// Whether channels are to be told.
    pub publish: bool,
}

/// Holds stock for an order, all items or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// The id that the reservation gets when it is new.
    pub id: ReservationId,
    /// The order.
    pub order: OrderId,
    /// What is asked for; one SKU may stand there more than once.
    pub items: Vec<Item>,
    /// How long it holds.
    pub ttl_seconds: u32,
}

/// A line of a channel's order, as totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelLine {
    /// The vendor's id of the line, or of the part of it that the totals are of.
    pub line: Arc<str>,
    /// The listing it was sold from, where it is mapped.
    pub listing: Option<ListingKey>,
    /// The SKU.
    pub sku: Sku,
    /// Units of the SKU in one unit of the line, at least 1.
    pub units: Quantity,
    /// Units sold on this line so far.
    pub sold: u64,
    /// Units come back so far.
    pub restocked: u64,
    /// Units that are ordered and not paid for yet, cancelled ones included.
    pub held: u64,
    /// Units cancelled so far, whether they had been sold or were only held; `u64::MAX` for the
    /// line as a whole.
    pub cancelled: u64,
}

/// What becomes of units that come back to a channel by cancel or refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RestockPolicy {
    /// They are for sale again.
    #[default]
    Restock,
    /// They are on hand and held at [`Location::quarantine`] until somebody moves them.
    Quarantine,
    /// They are not on hand: somebody counts them in where they turn up, if they do.
    Nothing,
}

/// Books what a channel sold or took back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelOrder {
    /// The connection.
    pub channel: ChannelId,
    /// The vendor's id of the order.
    pub order: Arc<str>,
    /// When the order last changed, by the vendor's clock.
    pub occurred_at: Option<Timestamp>,
    /// Where the stock stands that the channel sells.
    pub location: Location,
    /// What becomes of what comes back.
    pub restock: RestockPolicy,
    /// The lines.
    pub lines: Vec<ChannelLine>,
}

/// What a channel showed for one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingReading {
    /// The listing.
    pub key: ListingKey,
    /// The number; below zero where the channel oversold.
    pub observed: i64,
}

/// Compares readings with what was published and settles the differences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconcile {
    /// The connection.
    pub channel: ChannelId,
    /// When the readings were asked for.
    pub read_at: Timestamp,
    /// How long after an acknowledgement a reading may be old.
    pub settle_ms: i64,
    /// A strategy in place of the listings' own.
    pub strategy: Option<Strategy>,
    /// The readings; each listing once.
    pub readings: Vec<ListingReading>,
}

/// What became of one push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushResult {
    /// The channel shows it.
    Applied,
    /// The channel took it; a reading will tell.
    Accepted,
    /// Surely nothing was changed.
    NotApplied,
    /// It is not known.
    Unknown,
}

/// One push of one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingPush {
    /// The listing.
    pub key: ListingKey,
    /// What was or is to be sent.
    pub quantity: i64,
    /// The SKU's version it was computed from.
    pub version: u64,
    /// The listing's [`epoch`](crate::ListingState::epoch) then: a push that is owed since stays
    /// owed, whatever becomes of this one.
    pub epoch: u32,
}

/// How an operator ends a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Master stands: push it.
    Master,
    /// The channel is right: carry its change into master.
    Channel,
    /// Neither: this many are on hand.
    Quantity(Quantity),
}

/// What the end of a conflict changed of the master, so that it can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Nothing: master stood.
    Nothing,
    /// The channel's change, in units of the SKU. What orders have explained of it since was sold,
    /// and stays.
    Adopted(Delta),
    /// The difference of an operator's count, in units of the SKU.
    Counted(Delta),
}

/// Takes the end of a conflict back: the listing waits for an operator again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reopen {
    /// The connection.
    pub channel: ChannelId,
    /// The listing.
    pub key: ListingKey,
    /// What its end changed of the master.
    pub carried: Carried,
    /// By how many units of the listing the channel had changed it by itself, and 0 where that may
    /// have been explained since. Of what was adopted, what is put back says it.
    pub moved: i64,
    /// Why.
    pub note: Option<Arc<str>>,
}

/// What can be asked of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// See [`SetOnHand`].
    SetOnHand(SetOnHand),
    /// See [`Adjust`].
    Adjust(Adjust),
    /// Sets many; each its own outcome, or all or nothing.
    Bulk {
        /// The counts.
        items: Vec<SetOnHand>,
        /// All or nothing.
        atomic: bool,
    },
    /// Makes a SKU a bundle of parts, or no bundle any more when `parts` is empty.
    SetBundle {
        /// The bundle; made when new.
        sku: Sku,
        /// Its parts.
        parts: Vec<Part>,
        /// Refuse unless the SKU is at this version.
        if_version: Option<u64>,
        /// Why.
        reason: Option<Arc<str>>,
    },
    /// Asks that channels be told of these SKUs as they are.
    Publish {
        /// The SKUs.
        skus: Vec<Sku>,
    },
    /// See [`Reserve`].
    Reserve(Reserve),
    /// Many of them, each its own outcome.
    ReserveBatch(Vec<Reserve>),
    /// Gives a hold back.
    Release {
        /// The reservation.
        id: ReservationId,
    },
    /// Makes a hold a sale.
    Commit {
        /// The reservation.
        id: ReservationId,
        /// When it has expired: take the stock again in the same step, if it is there.
        reacquire: bool,
    },
    /// Lets a hold live for so long from now.
    Extend {
        /// The reservation.
        id: ReservationId,
        /// How long from now.
        ttl_seconds: u32,
    },
    /// Retires what is due.
    Expire {
        /// The reservations that may be due.
        ids: Vec<ReservationId>,
    },
    /// See [`ChannelOrder`].
    ChannelOrder(ChannelOrder),
    /// See [`Reconcile`].
    Reconcile(Reconcile),
    /// Notes that pushes go out, before they do.
    MarkSent {
        /// The connection.
        channel: ChannelId,
        /// The pushes.
        items: Vec<ListingPush>,
    },
    /// Notes what became of pushes.
    Settle {
        /// The connection.
        channel: ChannelId,
        /// The pushes and their outcomes.
        items: Vec<(ListingPush, PushResult)>,
    },
    /// Ends a conflict.
    Resolve {
        /// The connection.
        channel: ChannelId,
        /// The listing.
        key: ListingKey,
        /// How.
        resolution: Resolution,
        /// Why.
        note: Option<Arc<str>>,
    },
    /// See [`Reopen`].
    Reopen(Reopen),
}

/// How a reserve was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// A new hold.
    Created,
    /// The order held the same already.
    Unchanged,
    /// The order held other items; they were swapped.
    Replaced,
}

/// What a reconciliation did about one listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileAction {
    /// Nothing: the channel shows what it should.
    Matched,
    /// A push is owed.
    Push,
    /// The channel's difference was carried into master.
    Adopted,
    /// An operator decides.
    Conflict,
    /// Nothing: the reading may be too early.
    Pending,
}

/// One listing of a reconciliation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// The listing.
    pub key: ListingKey,
    /// The SKU.
    pub sku: Sku,
    /// On hand before.
    pub master: i64,
    /// What the channel showed.
    pub observed: i64,
    /// What it should have shown.
    pub expected: i64,
    /// The strategy in force.
    pub strategy: Strategy,
    /// What was done.
    pub action: ReconcileAction,
    /// What the channel should show after it.
    pub quantity: i64,
}

/// What the ledger answers when it does not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The SKU as it stands after.
    Sku(Box<SkuAnswer>),
    /// Each item's version, or why not.
    Bulk(Vec<(Sku, Result<u64, Rejection>)>),
    /// A conflict was opened again: the SKU, and by how many units its master was put back.
    Reopened(Box<SkuAnswer>, Delta),
    /// The reservation as it stands after.
    Reserved(Reservation, ReserveOutcome),
    /// Each reserve's answer, or why not.
    ReservedBatch(Vec<Result<(Reservation, ReserveOutcome), Rejection>>),
    /// The reservation as it stands after release, commit or extend.
    Reservation(Reservation),
    /// How many reservations were retired.
    Expired(usize),
    /// Each listing's comparison.
    Reconciled(Vec<Reconciled>),
    /// Nothing to say.
    Done,
}

/// A SKU after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkuAnswer {
    /// The SKU.
    pub sku: Sku,
    /// How it stands.
    pub state: SkuState,
    /// The states of its parts, where it is a bundle, in their order.
    pub parts: Vec<Option<SkuState>>,
}

impl SkuAnswer {
    /// Computes what rules publish of it, with every term on the way.
    #[must_use]
    pub fn publish(&self, rules: &Rules) -> Terms {
        if !self.state.is_bundle() {
            return rules.publish(Stock::Single(&self.state));
        }
        let parts: Vec<_> = self.parts.iter().map(Option::as_ref).collect();
        rules.publish(Stock::Bundle(&self.state, &parts))
    }
}
