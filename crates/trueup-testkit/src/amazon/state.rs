//! The books of a simulated Amazon seller: listings, late applies, feeds, orders. Pure.
//!
//! An accepted write is applied later, and lazily: every access first settles what is due.

use std::collections::{BTreeMap, HashMap, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::notifications::{Destination, Subscription};
use crate::shop::{
    Counters, FulfilledBy, LISTINGS_MAX, OrderStatus, Orders, SeedItem, ShopError, SimOrder,
};

/// The most writes of one listing that wait to be applied; more are applied at once.
pub const PENDING_MAX: usize = 1_000;
/// The most feed documents and feeds; the oldest are forgotten.
pub const FEEDS_MAX: usize = 1_000;

/// A change of a listing's merchant-fulfilled availability.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// `merge` and `add`: sets what is given and keeps the rest.
    Merge { quantity: Option<i64>, lead_time_days: Option<u32> },
    /// `replace`: what is not given is gone.
    Replace { quantity: Option<i64>, lead_time_days: Option<u32> },
    /// `delete`: the availability is gone.
    Delete,
}

impl Change {
    /// Returns the quantity that it sets, if it sets one.
    pub(crate) const fn quantity(&self) -> Option<i64> {
        match self {
            Self::Merge { quantity, .. } | Self::Replace { quantity, .. } => *quantity,
            Self::Delete => None,
        }
    }
}

/// A listing.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) number: u64,
    pub(crate) fulfilled_by: FulfilledBy,
    /// The merchant's own availability (channel code `DEFAULT`).
    pub(crate) merchant: Option<i64>,
    /// What lies in Amazon's warehouses.
    pub(crate) warehouse: i64,
    pub(crate) lead_time_days: Option<u32>,
    /// Whether a `DEFAULT` quantity was ever put on an FBA listing: a bug in the client.
    pub(crate) flipped: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) pending: VecDeque<(Timestamp, Change)>,
}

impl Listing {
    pub(crate) fn asin(&self) -> String {
        format!("B0{:08}", self.number)
    }

    /// Returns what a shopper can buy.
    pub(crate) fn shown(&self) -> i64 {
        match self.fulfilled_by {
            FulfilledBy::Merchant => self.merchant.unwrap_or(0),
            FulfilledBy::Channel => self.warehouse,
        }
    }

    /// Applies what is due.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        while self.pending.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((due, change)) = self.pending.pop_front() {
                self.apply(&change, due);
            }
        }
    }

    fn apply(&mut self, change: &Change, at: Timestamp) {
        self.flipped |= self.fulfilled_by == FulfilledBy::Channel;
        self.updated_at = at;
        match change {
            Change::Merge { quantity, lead_time_days } => {
                self.merchant = quantity.or(self.merchant);
                self.lead_time_days = lead_time_days.or(self.lead_time_days);
            }
            Change::Replace { quantity, lead_time_days } => {
                self.merchant = *quantity;
                self.lead_time_days = *lead_time_days;
            }
            Change::Delete => {
                self.merchant = None;
                self.lead_time_days = None;
            }
        }
    }

    pub(crate) fn availability(&self) -> Value {
        let fba = (self.fulfilled_by == FulfilledBy::Channel)
            .then(|| json!({"fulfillmentChannelCode": "AMAZON_NA"}));
        let merchant = self.merchant.map(
            |quantity| json!({"fulfillmentChannelCode": "DEFAULT", "quantity": quantity.max(0)}),
        );
        Value::Array(fba.into_iter().chain(merchant).collect())
    }
}

/// A document that was uploaded or produced.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) content_type: String,
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) gzip: bool,
    pub(crate) expires_at: Timestamp,
}

/// A submitted feed.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    pub(crate) feed_type: String,
    pub(crate) marketplace_ids: Vec<String>,
    pub(crate) input: String,
    pub(crate) created_at: Timestamp,
    pub(crate) starts_at: Timestamp,
    pub(crate) ends_at: Timestamp,
    /// The result document, once the feed was processed; empty when it was fatal.
    pub(crate) result: Option<String>,
    pub(crate) fatal: bool,
}

/// The whole seller account.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) listings: BTreeMap<String, Listing>,
    pub(crate) orders: Orders,
    pub(crate) documents: HashMap<String, Document>,
    documents_in_order: VecDeque<String>,
    pub(crate) feeds: BTreeMap<u64, Feed>,
    pub(crate) next_feed: u64,
    pub(crate) destinations: Vec<Destination>,
    /// By notification type.
    pub(crate) subscriptions: BTreeMap<String, Subscription>,
    pub(crate) counters: Counters,
    /// Feed messages for unknown SKUs that were accepted and ignored.
    pub(crate) ignored: u64,
}

impl State {
    pub(crate) fn seed(&mut self, seed: Vec<SeedItem>, now: Timestamp) -> Result<(), ShopError> {
        for item in seed {
            let count = self.listings.len();
            let known = self.listings.get(&item.sku).map(|listing| listing.number);
            if known.is_none() && count >= LISTINGS_MAX {
                return Err(ShopError::Full);
            }
            let number = known.unwrap_or_else(|| u64::try_from(count).unwrap_or(0) + 1);
            let fba = item.fulfilled_by == FulfilledBy::Channel;
            let listing = Listing {
                number,
                fulfilled_by: item.fulfilled_by,
                merchant: (!fba).then_some(item.quantity),
                warehouse: if fba { item.quantity } else { 0 },
                lead_time_days: item.lead_time_days,
                flipped: false,
                // One was made each minute before.
                created_at: made_before(now, number),
                updated_at: now,
                pending: VecDeque::new(),
            };
            self.listings.insert(item.sku, listing);
        }
        Ok(())
    }

    /// Returns a listing with everything applied that is due.
    pub(crate) fn settled(&mut self, sku: &str, now: Timestamp) -> Option<&mut Listing> {
        let listing = self.listings.get_mut(sku)?;
        listing.settle(now);
        Some(listing)
    }

    /// Accepts a change, to be applied when due; false when there is no such listing.
    pub(crate) fn accept(
        &mut self,
        sku: &str,
        change: Change,
        due: Timestamp,
        now: Timestamp,
    ) -> bool {
        let Some(listing) = self.settled(sku, now) else { return false };
        let due = if listing.pending.len() < PENDING_MAX { due } else { now };
        // Applied in order of acceptance: an earlier write is never due after a later one.
        let due = listing.pending.back().map_or(due, |(earlier, _)| due.max(*earlier));
        listing.pending.push_back((due, change));
        listing.settle(now);
        self.counters.writes += 1;
        true
    }

    pub(crate) fn sell(
        &mut self,
        sku: &str,
        quantity: i64,
        now: Timestamp,
    ) -> Result<SimOrder, ShopError> {
        if quantity <= 0 {
            return Err(ShopError::BadQuantity);
        }
        if self.orders.full() {
            return Err(ShopError::Full);
        }
        let number = self.orders.next_number();
        let unknown = || ShopError::UnknownSku(sku.to_owned());
        let listing = self.settled(sku, now).ok_or_else(unknown)?;
        let shown = listing.shown();
        if shown < quantity {
            self.counters.refused += 1;
            return Err(ShopError::NotEnough { sku: sku.to_owned(), shown });
        }
        listing.move_by(-quantity, now);
        let order = SimOrder {
            number,
            order_id: format!("902-{:07}-{:07}", number / 10_000_000, number % 10_000_000),
            line_id: format!("{:014}", 10_000_000 + number),
            sku: sku.to_owned(),
            quantity,
            refunded: 0,
            removed: 0,
            listing_id: listing.asin(),
            status: OrderStatus::Open,
            created_at: now,
            updated_at: now,
        };
        self.orders.add(order.clone());
        self.counters.sales += 1;
        self.counters.units_sold += quantity;
        Ok(order)
    }

    /// Cancels an order; its goods go back on sale.
    pub(crate) fn cancel(&mut self, id: &str, now: Timestamp) -> Result<SimOrder, ShopError> {
        let order = self.orders.get(id).ok_or_else(|| ShopError::UnknownOrder(id.to_owned()))?;
        if order.status != OrderStatus::Open {
            return Err(ShopError::OrderClosed(id.to_owned()));
        }
        let (sku, quantity) = (order.sku.clone(), order.quantity);
        if let Some(listing) = self.settled(&sku, now) {
            listing.move_by(quantity, now);
        }
        self.counters.cancelled += 1;
        self.counters.units_cancelled += quantity;
        let changed = self.orders.change(id, now, |order| order.status = OrderStatus::Cancelled);
        changed.ok_or_else(|| ShopError::UnknownOrder(id.to_owned()))
    }

    pub(crate) fn edit(
        &mut self,
        sku: &str,
        quantity: i64,
        now: Timestamp,
    ) -> Result<(), ShopError> {
        let unknown = || ShopError::UnknownSku(sku.to_owned());
        let listing = self.settled(sku, now).ok_or_else(unknown)?;
        let delta = quantity - listing.shown();
        listing.move_by(delta, now);
        self.counters.edits += 1;
        Ok(())
    }

    pub(crate) fn add_document(&mut self, id: &str, document: Document) {
        if self.documents_in_order.len() >= FEEDS_MAX
            && let Some(oldest) = self.documents_in_order.pop_front()
        {
            self.documents.remove(&oldest);
        }
        self.documents_in_order.push_back(id.to_owned());
        self.documents.insert(id.to_owned(), document);
    }
}

/// Returns when the listing of a number was made.
fn made_before(now: Timestamp, number: u64) -> Timestamp {
    let minutes = std::time::Duration::from_secs(number.saturating_mul(60));
    now.checked_sub(minutes).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Listing {
    fn move_by(&mut self, delta: i64, now: Timestamp) {
        match self.fulfilled_by {
            FulfilledBy::Merchant => self.merchant = Some(self.merchant.unwrap_or(0) + delta),
            FulfilledBy::Channel => self.warehouse += delta,
        }
        self.updated_at = now;
    }
}
