//! The books of a simulated eBay seller: inventory items with their offers, orders. Pure.
//!
//! What a shopper sees is the smaller of the item's total and the offer's own quantity, if it
//! has one (`bulkUpdatePriceQuantity`, Inventory API 1.18.4).

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use crate::shop::{Counters, LISTINGS_MAX, OrderStatus, Orders, SeedItem, ShopError, SimOrder};

const OFFER_ID: u64 = 36_000_000_000;
/// Of offers on a second marketplace.
const OTHER_OFFER_ID: u64 = 37_000_000_000;
const LISTING_ID: u64 = 110_000_000_000;

/// eBay's day starts at midnight PST, not GMT.
/// <https://developer.ebay.com/devzone/xml/docs/reference/ebay/types/ApiAccessRuleType.html>
const DAY_STARTS_AT: i64 = 8 * 3_600;
const DAY: i64 = 86_400;

/// Returns eBay's day of an instant.
pub(crate) fn day_of(now: Timestamp) -> i64 {
    (now.as_second() - DAY_STARTS_AT).div_euclid(DAY)
}

/// Returns when eBay's day of an instant ends.
pub(crate) fn day_end(now: Timestamp) -> Timestamp {
    let end = (day_of(now) + 1) * DAY + DAY_STARTS_AT;
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}

/// An inventory item with its published offer, or a legacy listing.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) number: u64,
    pub(crate) legacy: bool,
    pub(crate) total: i64,
    pub(crate) offered: Option<i64>,
    /// A second offer, on another marketplace.
    pub(crate) elsewhere: Option<Elsewhere>,
    pub(crate) sold: i64,
    /// The number of its listing, which variations have in common.
    pub(crate) listing: u64,
}

/// An offer of an inventory item on another marketplace.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) marketplace_id: String,
    pub(crate) offered: i64,
}

impl Item {
    pub(crate) fn other_offer_id(&self) -> Option<String> {
        self.elsewhere.as_ref().map(|_| (OTHER_OFFER_ID + self.number).to_string())
    }

    pub(crate) fn offer_id(&self) -> String {
        (OFFER_ID + self.number).to_string()
    }

    pub(crate) fn listing_id(&self) -> String {
        (LISTING_ID + self.listing).to_string()
    }

    pub(crate) fn shown(&self) -> i64 {
        self.offered.map_or(self.total, |offered| offered.min(self.total))
    }

    fn move_by(&mut self, delta: i64) {
        self.total += delta;
        self.offered = self.offered.map(|offered| offered + delta);
    }
}

/// How often each listing was revised, by its number: eBay's day of the latest revisions and how
/// many there were.
#[derive(Debug, Default)]
pub(crate) struct Revisions(HashMap<u64, (i64, u32)>);

impl Revisions {
    /// Counts a revision; false when the day's allowance is used up.
    pub(crate) fn revise(&mut self, listing: u64, now: Timestamp, max: u32) -> bool {
        let revised = self.0.entry(listing).or_default();
        let day = day_of(now);
        if revised.0 != day {
            *revised = (day, 0);
        }
        let allowed = revised.1 < max;
        if allowed {
            revised.1 += 1;
        }
        allowed
    }

    /// Returns how often a listing was revised on the day of its latest revision.
    pub(crate) fn of(&self, listing: u64) -> u32 {
        self.0.get(&listing).map_or(0, |revised| revised.1)
    }
}

/// What an order costs, in cents.
pub(crate) const ORDER_CENTS: i64 = 1_000;

/// What was paid for an order and given back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Money {
    pub(crate) unpaid: bool,
    /// Refunds in cents, with their times.
    pub(crate) refunds: Vec<(i64, Timestamp)>,
}

impl Money {
    pub(crate) fn refunded(&self) -> i64 {
        self.refunds.iter().map(|(cents, _)| cents).sum()
    }
}

/// The whole seller account.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) items: BTreeMap<String, Item>,
    /// The SKU of each listing number.
    pub(crate) by_listing: HashMap<String, String>,
    pub(crate) revisions: Revisions,
    pub(crate) orders: Orders,
    /// What was paid and given back, of orders of which not simply all was paid.
    pub(crate) money: HashMap<String, Money>,
    pub(crate) counters: Counters,
    /// Calls of each API today: the day and the count.
    pub(crate) calls: BTreeMap<&'static str, (i64, u64)>,
    pub(crate) destinations: BTreeMap<String, String>,
    pub(crate) subscriptions: Vec<(String, String)>,
}

impl State {
    pub(crate) fn seed(&mut self, seed: Vec<SeedItem>) -> Result<(), ShopError> {
        for item in seed {
            let known = self.items.get(&item.sku).map(|item| item.number);
            if known.is_none() && self.items.len() >= LISTINGS_MAX {
                return Err(ShopError::Full);
            }
            let count = u64::try_from(self.items.len()).unwrap_or(0);
            let number = known.unwrap_or(count + 1);
            self.revisions.0.remove(&number);
            let seeded = Item {
                number,
                legacy: item.legacy,
                total: item.quantity,
                offered: item.offer_quantity,
                elsewhere: None,
                sold: 0,
                listing: number,
            };
            self.by_listing.insert(seeded.listing_id(), item.sku.clone());
            self.items.insert(item.sku, seeded);
        }
        Ok(())
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
        let unknown = || ShopError::UnknownSku(sku.to_owned());
        let item = self.items.get_mut(sku).ok_or_else(unknown)?;
        let shown = item.shown();
        if shown < quantity {
            self.counters.refused += 1;
            return Err(ShopError::NotEnough { sku: sku.to_owned(), shown });
        }
        item.move_by(-quantity);
        item.sold += quantity;
        let number = self.orders.next_number();
        let order = SimOrder {
            number,
            order_id: format!("14-{:05}-{:05}", number / 100_000, number % 100_000),
            line_id: (10_000_000_000 + number).to_string(),
            sku: sku.to_owned(),
            quantity,
            refunded: 0,
            removed: 0,
            listing_id: item.listing_id(),
            status: OrderStatus::Open,
            created_at: now,
            updated_at: now,
        };
        self.orders.add(order.clone());
        self.counters.sales += 1;
        self.counters.units_sold += quantity;
        Ok(order)
    }

    pub(crate) fn cancel(&mut self, id: &str, now: Timestamp) -> Result<SimOrder, ShopError> {
        let unknown = || ShopError::UnknownOrder(id.to_owned());
        let order = self.orders.get(id).ok_or_else(unknown)?;
        if order.status != OrderStatus::Open {
            return Err(ShopError::OrderClosed(id.to_owned()));
        }
        let quantity = order.quantity;
        if let Some(item) = self.items.get_mut(&order.sku) {
            item.move_by(quantity);
            item.sold -= quantity;
        }
        self.counters.cancelled += 1;
        self.counters.units_cancelled += quantity;
        let changed = self.orders.change(id, now, |order| order.status = OrderStatus::Cancelled);
        changed.ok_or_else(unknown)
    }

    /// Returns what was paid for an order.
    pub(crate) fn money(&self, id: &str) -> Money {
        self.money.get(id).cloned().unwrap_or_default()
    }

    /// An order that was not paid for is.
    pub(crate) fn pay(&mut self, id: &str, now: Timestamp) -> Result<SimOrder, ShopError> {
        let open = self.orders.get(id).is_some_and(|order| order.status == OrderStatus::Open);
        let unpaid = self.money.get_mut(id).filter(|money| money.unpaid && open);
        let closed = || ShopError::OrderClosed(id.to_owned());
        unpaid.ok_or_else(closed)?.unpaid = false;
        self.orders.change(id, now, |_| ()).ok_or_else(closed)
    }

    /// Gives back a part of what was paid for an order, or all of it. eBay leaves its own number
    /// as it is.
    pub(crate) fn refund(&mut self, id: &str, cents: i64, now: Timestamp) -> Result<(), ShopError> {
        let unknown = || ShopError::UnknownOrder(id.to_owned());
        let order = self.orders.get(id).ok_or_else(unknown)?;
        let is_cancelled = order.status == OrderStatus::Cancelled;
        let money = self.money.entry(id.to_owned()).or_default();
        let is_more = cents <= 0 || money.refunded() + cents > ORDER_CENTS;
        if money.unpaid || is_cancelled || is_more {
            return Err(ShopError::OrderClosed(id.to_owned()));
        }
        money.refunds.push((cents, now));
        self.orders.change(id, now, |_| ());
        Ok(())
    }

    /// Ships an order.
    pub(crate) fn ship(&mut self, id: &str, now: Timestamp) -> Result<(), ShopError> {
        let order = self.orders.get(id).ok_or_else(|| ShopError::UnknownOrder(id.to_owned()))?;
        if order.status != OrderStatus::Open || self.money(id).unpaid {
            return Err(ShopError::OrderClosed(id.to_owned()));
        }
        self.orders.change(id, now, |order| order.status = OrderStatus::Shipped);
        Ok(())
    }

    pub(crate) fn edit(&mut self, sku: &str, quantity: i64) -> Result<(), ShopError> {
        let item = self.items.get_mut(sku);
        let item = item.ok_or_else(|| ShopError::UnknownSku(sku.to_owned()))?;
        item.total = quantity;
        item.offered = item.offered.map(|_| quantity);
        self.counters.edits += 1;
        Ok(())
    }

    /// Counts a call against an API's daily quota; returns the calls of today.
    pub(crate) fn count_call(&mut self, api: &'static str, now: Timestamp) -> u64 {
        let day = day_of(now);
        let calls = self.calls.entry(api).or_insert((day, 0));
        if calls.0 != day {
            *calls = (day, 0);
        }
        calls.1 += 1;
        calls.1
    }
}
