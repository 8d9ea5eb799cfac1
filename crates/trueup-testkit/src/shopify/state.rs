//! The books of a simulated Shopify shop: items, levels, orders. Pure; no HTTP, no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::outbox::SUBSCRIPTION_TAG;
use crate::shop::{
    Counters, LISTINGS_MAX, OrderRef, OrderStatus, Orders, SeedItem, ShopError, SimOrder,
};
use crate::time::seconds_text;

/// The most idempotency keys whose results are remembered.
pub const IDEMPOTENCY_KEYS_MAX: usize = 1_000;
/// The most webhook subscriptions.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;

const ITEM_ID: u64 = 50_000_000_000;
const VARIANT_ID: u64 = 40_000_000_000;
const PRODUCT_ID: u64 = 30_000_000_000;
const ORDER_ID: u64 = 6_000_000_000_000;
const LINE_ID: u64 = 16_000_000_000_000;
/// The id of the first location; the next ones follow.
pub const LOCATION_ID: u64 = 70_000_000_001;

/// The three quantities of an item at a location; `on_hand = available + committed`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) location: u64,
    pub(crate) available: i64,
    pub(crate) committed: i64,
    pub(crate) updated_at: Timestamp,
}

impl Level {
    pub(crate) const fn on_hand(&self) -> i64 {
        self.available + self.committed
    }
}

/// A variant with its inventory item.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) tracked: bool,
    pub(crate) levels: Vec<Level>,
}

/// A place where goods lie.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) id: u64,
    pub(crate) name: String,
}

/// A webhook subscription made through the API.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) id: u64,
    pub(crate) topic: String,
    pub(crate) uri: String,
    /// The fields of the body that are sent, nested ones with periods; none means all.
    pub(crate) fields: Vec<String>,
}

impl Subscription {
    pub(crate) fn tag(&self) -> String {
        format!("{SUBSCRIPTION_TAG}{}", self.id)
    }

    /// Cuts a body down to the fields that are sent.
    pub(crate) fn cut(&self, body: &Value) -> Value {
        if self.fields.is_empty() {
            return body.clone();
        }
        let paths: Vec<Vec<&str>> =
            self.fields.iter().map(|field| field.split('.').collect()).collect();
        cut(body, &paths.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

fn cut(value: &Value, paths: &[&[&str]]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| cut(item, paths)).collect(),
        Value::Object(fields) => {
            let kept = fields.iter().filter_map(|(name, value)| {
                let below: Vec<&[&str]> = paths
                    .iter()
                    .filter_map(|path| path.split_first())
                    .filter(|(first, _)| *first == name)
                    .map(|(_, rest)| rest)
                    .collect();
                let whole = below.iter().any(|rest| rest.is_empty());
                let kept = if whole { value.clone() } else { cut(value, &below) };
                (!below.is_empty()).then(|| (name.clone(), kept))
            });
            Value::Object(kept.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Something that the shop tells its subscribers.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: &'static str,
    pub(crate) body: Value,
}

/// The result of a call that is remembered under its idempotency key.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) parameters: [u8; 32],
    pub(crate) payload: String,
    pub(crate) succeeded: bool,
}

/// The whole shop.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) items: Vec<Item>,
    pub(crate) by_sku: BTreeMap<String, usize>,
    pub(crate) locations: Vec<Location>,
    pub(crate) orders: Orders,
    pub(crate) subscriptions: Vec<Subscription>,
    /// The refunds of orders: units, and whether they came back.
    pub(crate) refunds: HashMap<String, Vec<(i64, bool)>>,
    /// How many subscriptions were ever made.
    pub(crate) subscribed: u64,
    /// Whether the merchant took the app's access away.
    pub(crate) is_uninstalled: bool,
    pub(crate) counters: Counters,
    pub(crate) groups: u64,
    keys: HashMap<String, Remembered>,
    keys_in_order: VecDeque<String>,
}

impl State {
    pub(crate) fn new(locations: &[String]) -> Self {
        let locations = (LOCATION_ID..).zip(locations);
        let locations = locations.map(|(id, name)| Location { id, name: name.clone() });
        Self { locations: locations.collect(), ..Self::default() }
    }

    pub(crate) fn seed(&mut self, seed: Vec<SeedItem>, now: Timestamp) -> Result<(), ShopError> {
        for item in seed {
            let location = item.location_id.unwrap_or(LOCATION_ID);
            let level = Level { location, available: item.quantity, committed: 0, updated_at: now };
            let index = match self.by_sku.get(&item.sku) {
                Some(index) => *index,
                None if self.items.len() >= LISTINGS_MAX => return Err(ShopError::Full),
                None => {
                    self.by_sku.insert(item.sku.clone(), self.items.len());
                    self.items.push(Item { sku: item.sku, tracked: true, levels: Vec::new() });
                    self.items.len() - 1
                }
            };
            let known = &mut self.items[index];
            known.tracked = item.tracked;
            known.levels.retain(|level| level.location != location);
            known.levels.push(level);
        }
        Ok(())
    }

    pub(crate) fn find(&self, sku: &str) -> Result<usize, ShopError> {
        self.by_sku.get(sku).copied().ok_or_else(|| ShopError::UnknownSku(sku.to_owned()))
    }

    /// Returns what the storefront shows: the sum over locations.
    pub(crate) fn shown(&self, index: usize) -> i64 {
        self.items[index].levels.iter().map(|level| level.available).sum()
    }

    pub(crate) fn sell(
        &mut self,
        sku: &str,
        quantity: i64,
        now: Timestamp,
    ) -> Result<(OrderRef, Vec<Event>), ShopError> {
        if quantity <= 0 {
            return Err(ShopError::BadQuantity);
        }
        let index = self.find(sku)?;
        if self.orders.full() {
            return Err(ShopError::Full);
        }
        let mut events = self.take_off(index, quantity, now)?;
        let number = self.orders.next_number();
        let order = SimOrder {
            number,
            order_id: (ORDER_ID + number).to_string(),
            line_id: (LINE_ID + number).to_string(),
            sku: sku.to_owned(),
            quantity,
            refunded: 0,
            removed: 0,
            listing_id: variant_id(index).to_string(),
            status: OrderStatus::Open,
            created_at: now,
            updated_at: now,
        };
        events.insert(0, Event { topic: "ORDERS_CREATE", body: order_body(&order, index) });
        let reference = order.reference();
        self.orders.add(order);
        self.counters.sales += 1;
        self.counters.units_sold += quantity;
        Ok((reference, events))
    }

    /// Commits units to an order at a location that has them.
    fn take_off(
        &mut self,
        index: usize,
        quantity: i64,
        now: Timestamp,
    ) -> Result<Vec<Event>, ShopError> {
        let item = &mut self.items[index];
        if !item.tracked {
            return Ok(Vec::new());
        }
        // Shopify ships an order from one location when it can; the simulator always does.
        let shown = item.levels.iter().map(|level| level.available).max().unwrap_or(0);
        let Some(level) = item.levels.iter_mut().find(|level| level.available >= quantity) else {
            self.counters.refused += 1;
            return Err(ShopError::NotEnough { sku: item.sku.clone(), shown });
        };
        level.available -= quantity;
        level.committed += quantity;
        level.updated_at = now;
        let location = level.location;
        Ok(vec![self.level_event(index, location)])
    }

    /// Cancels an order and puts its goods back where one of its locations has them committed.
    pub(crate) fn cancel(&mut self, id: &str, now: Timestamp) -> Result<Vec<Event>, ShopError> {
        let order = self.open_order(id)?;
        let index = self.find(&order.sku)?;
        let left = order.left();
        let mut events = self.put_back(index, left, now);
        let changed = self.orders.change(id, now, |order| order.status = OrderStatus::Cancelled);
        if let Some(order) = changed {
            let body = order_body(&order, index);
            events.insert(0, Event { topic: "ORDERS_CANCELLED", body });
        }
        self.counters.cancelled += 1;
        self.counters.units_cancelled += left;
        Ok(events)
    }

    /// Refunds units of an order; `restock` puts them back on sale.
    pub(crate) fn refund(
        &mut self,
        id: &str,
        quantity: i64,
        restock: bool,
        now: Timestamp,
    ) -> Result<Vec<Event>, ShopError> {
        let order = self.orders.get(id).cloned();
        let order = order.ok_or_else(|| ShopError::UnknownOrder(id.to_owned()))?;
        let closed = order.status == OrderStatus::Cancelled;
        if closed || quantity <= 0 || quantity > order.left() {
            return Err(ShopError::OrderClosed(id.to_owned()));
        }
        let index = self.find(&order.sku)?;
        let mut events = if restock { self.put_back(index, quantity, now) } else { Vec::new() };
        self.refunds.entry(id.to_owned()).or_default().push((quantity, restock));
        let changed = self.orders.change(id, now, |order| order.refunded += quantity);
        if let Some(order) = changed {
            let body = refund_body(&order, index, quantity, restock, now);
            events.insert(0, Event { topic: "REFUNDS_CREATE", body });
        }
        Ok(events)
    }

    /// Edits an order so that so many units are left of it: more are taken from what is shown,
    /// fewer go back on sale.
    pub(crate) fn edit_order(
        &mut self,
        id: &str,
        quantity: i64,
        now: Timestamp,
    ) -> Result<Vec<Event>, ShopError> {
        let order = self.open_order(id)?;
        if quantity < 0 {
            return Err(ShopError::BadQuantity);
        }
        let index = self.find(&order.sku)?;
        let more = quantity - order.left();
        let mut events = match more {
            more if more > 0 => self.take_off(index, more, now)?,
            _ => self.put_back(index, -more, now),
        };
        let changed = self.orders.change(id, now, |order| {
            // What is ordered beside it counts as ordered; what is removed stays counted as well.
            order.quantity += more.max(0);
            order.removed += (-more).max(0);
        });
        if let Some(order) = changed {
            let updated = Event { topic: "ORDERS_UPDATED", body: order_body(&order, index) };
            let edited = Event { topic: "ORDERS_EDITED", body: edit_body(&order, more, now) };
            events.splice(0..0, [edited, updated]);
        }
        Ok(events)
    }

    /// Ships an order: its goods leave `committed` and so `on_hand`; `available` stays.
    pub(crate) fn ship(&mut self, id: &str, now: Timestamp) -> Result<(), ShopError> {
        let order = self.open_order(id)?;
        let index = self.find(&order.sku)?;
        let left = order.left();
        let holder = self.items[index].levels.iter_mut().find(|level| level.committed >= left);
        if let Some(level) = holder {
            level.committed -= left;
            level.updated_at = now;
        }
        self.orders.change(id, now, |order| order.status = OrderStatus::Shipped);
        Ok(())
    }

    /// Somebody sets `available` at the first level of an item by hand.
    pub(crate) fn edit(
        &mut self,
        sku: &str,
        quantity: i64,
        now: Timestamp,
    ) -> Result<Vec<Event>, ShopError> {
        let index = self.find(sku)?;
        let Some(level) = self.items[index].levels.first_mut() else { return Ok(Vec::new()) };
        level.available = quantity;
        level.updated_at = now;
        let location = level.location;
        self.counters.edits += 1;
        Ok(vec![self.level_event(index, location)])
    }

    /// Returns what subscribers are told about a level.
    pub(crate) fn level_event(&self, index: usize, location: u64) -> Event {
        let item = &self.items[index];
        let level = item.levels.iter().find(|level| level.location == location);
        let available = level.filter(|_| item.tracked).map(|level| level.available);
        Event {
            topic: "INVENTORY_LEVELS_UPDATE",
            body: json!({
                "inventory_item_id": item_id(index),
                "location_id": location,
                "available": available,
                "updated_at": level.map(|level| seconds_text(level.updated_at)),
                "admin_graphql_api_id": level_gid(index, location),
            }),
        }
    }

    pub(crate) fn remembered(&self, key: &str) -> Option<&Remembered> {
        self.keys.get(key)
    }

    pub(crate) fn remember(&mut self, key: &str, result: Remembered) {
        if self.keys_in_order.len() >= IDEMPOTENCY_KEYS_MAX
            && let Some(oldest) = self.keys_in_order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.keys_in_order.push_back(key.to_owned());
        self.keys.insert(key.to_owned(), result);
    }

    fn open_order(&self, id: &str) -> Result<SimOrder, ShopError> {
        let order = self.orders.get(id).ok_or_else(|| ShopError::UnknownOrder(id.to_owned()))?;
        match order.status {
            OrderStatus::Open => Ok(order.clone()),
            OrderStatus::Shipped | OrderStatus::Cancelled => {
                Err(ShopError::OrderClosed(id.to_owned()))
            }
        }
    }

    fn put_back(&mut self, index: usize, quantity: i64, now: Timestamp) -> Vec<Event> {
        let item = &mut self.items[index];
        if !item.tracked || quantity == 0 {
            return Vec::new();
        }
        let levels = &mut item.levels;
        let holder = levels.iter().position(|level| level.committed >= quantity);
        let Some(level) = levels.get_mut(holder.unwrap_or(0)) else { return Vec::new() };
        if holder.is_some() {
            level.committed -= quantity;
        }
        level.available += quantity;
        level.updated_at = now;
        let location = level.location;
        vec![self.level_event(index, location)]
    }
}

fn nth(base: u64, index: usize) -> u64 {
    base + u64::try_from(index).unwrap_or(0)
}

pub(crate) fn item_id(index: usize) -> u64 {
    nth(ITEM_ID, index)
}

pub(crate) fn variant_id(index: usize) -> u64 {
    nth(VARIANT_ID, index)
}

pub(crate) fn product_id(index: usize) -> u64 {
    nth(PRODUCT_ID, index)
}

pub(crate) fn gid(kind: &str, id: impl std::fmt::Display) -> String {
    format!("gid://shopify/{kind}/{id}")
}

pub(crate) fn level_gid(index: usize, location: u64) -> String {
    let item = item_id(index);
    format!("gid://shopify/InventoryLevel/{location}?inventory_item_id={item}")
}

/// Returns the index of the item with a global id, if its form and number are right.
pub(crate) fn item_index(gid: &str, items: usize) -> Option<usize> {
    let number: u64 = gid.strip_prefix("gid://shopify/InventoryItem/")?.parse().ok()?;
    let index = usize::try_from(number.checked_sub(ITEM_ID)?).ok()?;
    (index < items).then_some(index)
}

/// Returns the number in the global id of a location.
pub(crate) fn location_number(gid: &str) -> Option<u64> {
    gid.strip_prefix("gid://shopify/Location/")?.parse().ok()
}

/// Returns an order as the REST-shaped webhooks write it (only the fields that matter for stock).
fn order_body(order: &SimOrder, index: usize) -> Value {
    let cancelled = order.status == OrderStatus::Cancelled;
    let current = order.left();
    let cancelled_at = cancelled.then(|| seconds_text(order.updated_at));
    json!({
        "id": number(&order.order_id),
        "admin_graphql_api_id": gid("Order", &order.order_id),
        "name": format!("#{}", 1_000 + order.number),
        "order_number": 1_000 + order.number,
        "created_at": seconds_text(order.created_at),
        "updated_at": seconds_text(order.updated_at),
        "cancelled_at": cancelled_at,
        "cancel_reason": cancelled.then_some("customer"),
        "financial_status": if cancelled { "voided" } else { "paid" },
        "fulfillment_status": null,
        "test": true,
        "currency": "EUR",
        "line_items": [line_body(order, index, current)],
        "refunds": [],
    })
}

fn line_body(order: &SimOrder, index: usize, current: i64) -> Value {
    json!({
        "id": number(&order.line_id),
        "admin_graphql_api_id": gid("LineItem", &order.line_id),
        "sku": order.sku,
        "name": order.sku,
        "title": order.sku,
        "quantity": order.quantity,
        "current_quantity": current,
        "fulfillable_quantity": current,
        "fulfillment_status": null,
        "variant_id": variant_id(index),
        "variant_inventory_management": "shopify",
        "product_id": product_id(index),
        "price": "10.00",
    })
}

/// Returns what is told of an edit beside the order itself: what was added and what was removed.
fn edit_body(order: &SimOrder, more: i64, now: Timestamp) -> Value {
    let change = |units: i64| match units {
        units if units > 0 => json!([{"id": number(&order.line_id), "delta": units}]),
        _ => json!([]),
    };
    json!({"order_edit": {
        "id": order.number,
        "order_id": number(&order.order_id),
        "created_at": seconds_text(now),
        "committed_at": seconds_text(now),
        "notify_customer": false,
        "line_items": {"additions": change(more), "removals": change(-more)},
        "discounts": {"line_item": {"additions": [], "removals": []}},
    }})
}

fn refund_body(
    order: &SimOrder,
    index: usize,
    quantity: i64,
    restock: bool,
    now: Timestamp,
) -> Value {
    let id = number(&order.line_id) + u64::try_from(order.refunded).unwrap_or(0);
    json!({
        "id": id,
        "order_id": number(&order.order_id),
        "created_at": seconds_text(now),
        "processed_at": seconds_text(now),
        "restock": restock,
        "refund_line_items": [{
            "id": id,
            "line_item_id": number(&order.line_id),
            "quantity": quantity,
            "restock_type": if restock { "return" } else { "no_restock" },
            "location_id": restock.then_some(LOCATION_ID),
            "line_item": line_body(order, index, order.left()),
        }],
    })
}

fn number(id: &str) -> u64 {
    id.parse().unwrap_or(0)
}
