//! What the three simulators have in common: goods, orders, counters and the [`Shop`] trait.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use axum::Router;
use axum::response::Response;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::faults::{FaultDial, Faults, Trouble};
use crate::log::{LoggedRequest, RequestLog};
use crate::outbox::{Outbox, WebhookCounts, WebhookUrlError, check_url};
use crate::time::SimClock;
use crate::tokens::{Codes, Tokens};

/// The most listings that one simulator holds.
pub const LISTINGS_MAX: usize = 2_000_000;
/// The most orders that one simulator holds.
pub const ORDERS_MAX: usize = 2_000_000;

/// Which vendor a simulator plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// Shopify Admin GraphQL.
    Shopify,
    /// Amazon Selling Partner API.
    Amazon,
    /// eBay Sell APIs and Trading.
    Ebay,
}

impl Vendor {
    /// Returns the kind of channel, as in `enableChannel("shopify", …)`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shopify => "shopify",
            Self::Amazon => "amazon",
            Self::Ebay => "ebay",
        }
    }
}

/// Who ships an Amazon listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FulfilledBy {
    /// The merchant (MFN).
    #[default]
    Merchant,
    /// Amazon (FBA): the quantity may be read but never set.
    Channel,
}

/// One listing to put into a simulated shop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SeedItem {
    /// The merchant's SKU.
    pub sku: String,
    /// What the shop shows as available.
    pub quantity: i64,
    /// Shopify: whether the shop counts this item at all.
    #[serde(default = "yes")]
    pub tracked: bool,
    /// Shopify: the location, when it is not the first one.
    #[serde(default)]
    pub location_id: Option<u64>,
    /// Amazon: who ships.
    #[serde(default)]
    pub fulfilled_by: FulfilledBy,
    /// Amazon: the handling time, which a careless `replace` wipes.
    #[serde(default)]
    pub lead_time_days: Option<u32>,
    /// eBay: the offer's own available quantity; none means that the item's total counts.
    #[serde(default)]
    pub offer_quantity: Option<i64>,
    /// eBay: a legacy listing that only the Trading API may revise.
    #[serde(default)]
    pub legacy: bool,
}

fn yes() -> bool {
    true
}

impl SeedItem {
    /// Returns an ordinary listing.
    #[must_use]
    pub fn new(sku: impl Into<String>, quantity: i64) -> Self {
        Self {
            sku: sku.into(),
            quantity,
            tracked: true,
            location_id: None,
            fulfilled_by: FulfilledBy::Merchant,
            lead_time_days: None,
            offer_quantity: None,
            legacy: false,
        }
    }
}

/// Why a sale, an edit or a cancellation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShopError {
    /// A shopper cannot buy more than is shown.
    #[error("only {shown} of {sku:?} are shown")]
    NotEnough {
        /// The SKU.
        sku: String,
        /// What the shop shows.
        shown: i64,
    },
    /// No listing has that SKU.
    #[error("there is no listing with sku {0:?}")]
    UnknownSku(String),
    /// No order has that id.
    #[error("there is no order {0:?}")]
    UnknownOrder(String),
    /// The order has already been cancelled or shipped.
    #[error("order {0:?} can no longer be changed")]
    OrderClosed(String),
    /// The quantity is not a positive number.
    #[error("the quantity must be positive")]
    BadQuantity,
    /// The shop holds as many listings or orders as it can.
    #[error("the simulated shop is full")]
    Full,
}

/// A sale that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderRef {
    /// The vendor's order id, as the vendor's API shows it.
    pub order_id: String,
    /// The vendor's line id.
    pub line_id: String,
    /// What was sold.
    pub sku: String,
    /// How many.
    pub quantity: i64,
}

/// The state of a simulated order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum OrderStatus {
    /// Placed and not yet shipped.
    Open,
    /// Shipped.
    Shipped,
    /// Cancelled.
    Cancelled,
}

/// An order of one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SimOrder {
    /// Counts from 1 within the shop.
    pub number: u64,
    /// The vendor's order id.
    pub order_id: String,
    /// The vendor's line id.
    pub line_id: String,
    /// What was sold.
    pub sku: String,
    /// How many were ordered.
    pub quantity: i64,
    /// How many of them were refunded.
    pub refunded: i64,
    /// How many of them were taken off again by editing the order.
    pub removed: i64,
    /// The vendor's id of the listing (variant, ASIN or item number).
    pub listing_id: String,
    /// Where the state stands.
    pub status: OrderStatus,
    /// When it was placed.
    #[serde(serialize_with = "as_text")]
    pub created_at: Timestamp,
    /// When it last changed.
    #[serde(serialize_with = "as_text")]
    pub updated_at: Timestamp,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(at)
}

impl SimOrder {
    /// Returns how many units are still ordered.
    pub(crate) fn left(&self) -> i64 {
        match self.status {
            OrderStatus::Cancelled => 0,
            OrderStatus::Open | OrderStatus::Shipped => {
                self.quantity - self.refunded - self.removed
            }
        }
    }

    pub(crate) fn reference(&self) -> OrderRef {
        OrderRef {
            order_id: self.order_id.clone(),
            line_id: self.line_id.clone(),
            sku: self.sku.clone(),
            quantity: self.quantity,
        }
    }
}

/// Counts of what happened in a simulated shop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Sales made.
    pub sales: u64,
    /// Units in them.
    pub units_sold: i64,
    /// Sales refused because the shop showed too few.
    pub refused: u64,
    /// Orders cancelled.
    pub cancelled: u64,
    /// Units in them.
    pub units_cancelled: i64,
    /// Listing quantities that a client of the API set.
    pub writes: u64,
    /// Listing writes that were refused, item by item.
    pub writes_refused: u64,
    /// Quantities edited by hand.
    pub edits: u64,
    /// Requests seen.
    pub requests: u64,
}

/// The orders of one shop: in the order they were placed, found by id.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    list: Vec<SimOrder>,
    by_id: HashMap<String, usize>,
    by_update: BTreeMap<(Timestamp, u64), usize>,
}

impl Orders {
    pub(crate) fn next_number(&self) -> u64 {
        u64::try_from(self.list.len()).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(crate) fn full(&self) -> bool {
        self.list.len() >= ORDERS_MAX
    }

    pub(crate) fn add(&mut self, order: SimOrder) {
        let index = self.list.len();
        self.by_id.insert(order.order_id.clone(), index);
        self.by_update.insert((order.updated_at, order.number), index);
        self.list.push(order);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&SimOrder> {
        self.by_id.get(id).map(|index| &self.list[*index])
    }

    /// Changes an order and notes when; returns it as it now is.
    pub(crate) fn change(
        &mut self,
        id: &str,
        now: Timestamp,
        change: impl FnOnce(&mut SimOrder),
    ) -> Option<SimOrder> {
        let index = *self.by_id.get(id)?;
        let order = self.list.get_mut(index)?;
        self.by_update.remove(&(order.updated_at, order.number));
        change(order);
        order.updated_at = now;
        self.by_update.insert((order.updated_at, order.number), index);
        Some(order.clone())
    }

    /// Returns orders by (last update, number), strictly after a position.
    pub(crate) fn after(&self, at: (Timestamp, u64)) -> impl Iterator<Item = &SimOrder> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_update.range((Excluded(at), Unbounded)).map(|(_, index)| &self.list[*index])
    }

    /// Returns orders that changed at that instant or later, oldest change first.
    pub(crate) fn since(&self, at: Timestamp) -> impl Iterator<Item = &SimOrder> {
        self.by_update.range((at, 0)..).map(|(_, index)| &self.list[*index])
    }

    pub(crate) fn all(&self) -> Vec<SimOrder> {
        self.list.clone()
    }
}

/// Where webhooks go, and the secret that proves who sent them.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) secret: String,
}

/// The parts that every simulator has.
pub struct Engine {
    pub(crate) clock: SimClock,
    pub(crate) faults: FaultDial,
    pub(crate) log: RequestLog,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) tokens: Mutex<Tokens>,
    pub(crate) codes: Mutex<Codes>,
    pub(crate) target: RwLock<Option<Target>>,
    pub(crate) requests: AtomicU64,
    hurry: AtomicU32,
    spent: AtomicU64,
}

impl Engine {
    pub(crate) fn new(clock: SimClock) -> Self {
        Self {
            clock,
            faults: FaultDial::default(),
            log: RequestLog::default(),
            outbox: Arc::default(),
            tokens: Mutex::default(),
            codes: Mutex::default(),
            target: RwLock::new(None),
            requests: AtomicU64::new(0),
            hurry: AtomicU32::new(1),
            spent: AtomicU64::new(0),
        }
    }

    /// Notes that a request took so much of its rate budget.
    pub(crate) fn spend(&self, units: i64) {
        self.spent.fetch_add(units.unsigned_abs(), Ordering::Relaxed);
    }

    /// Returns how many times its rates the vendor allows now.
    pub(crate) fn hurry(&self) -> u32 {
        self.hurry.load(Ordering::Relaxed)
    }

    pub(crate) fn set_hurry(&self, times: u32) {
        self.hurry.store(times.max(1), Ordering::Relaxed);
    }

    pub(crate) fn seen(&self, entry: LoggedRequest) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.log.add(entry);
    }

    pub(crate) fn issue_token(&self, prefix: &str, seconds: u32) -> String {
        let now = self.clock.now();
        let ends = crate::time::plus_ms(now, u64::from(seconds) * 1_000);
        self.tokens.lock().issue(prefix, now, ends)
    }

    pub(crate) fn token_good(&self, token: &str) -> bool {
        self.tokens.lock().good(token, self.clock.now())
    }
}

/// A simulated shop, driven the same way whichever vendor it plays.
///
/// What is read through this trait is the shop's own truth, without lag or faults.
pub trait Shop: Send + Sync + 'static {
    /// Returns the vendor that it plays.
    fn vendor(&self) -> Vendor;

    /// Returns the parts that all simulators share.
    fn engine(&self) -> &Engine;

    /// Puts listings into the shop, replacing those with the same SKU; returns how many.
    ///
    /// # Errors
    /// [`ShopError::Full`] past [`LISTINGS_MAX`].
    fn seed(&self, items: Vec<SeedItem>) -> Result<usize, ShopError>;

    /// A shopper buys; refused when the shop shows fewer.
    ///
    /// # Errors
    /// [`ShopError`] says why nothing was sold.
    fn sell(&self, sku: &str, quantity: i64) -> Result<OrderRef, ShopError>;

    /// An order is cancelled and its goods go back on sale.
    ///
    /// # Errors
    /// The order is not known or closed.
    fn cancel(&self, order_id: &str) -> Result<(), ShopError>;

    /// Returns what the shop shows for a SKU.
    fn quantity(&self, sku: &str) -> Option<i64>;

    /// Somebody edits a quantity by hand in the vendor's own screens.
    ///
    /// # Errors
    /// [`ShopError::UnknownSku`].
    fn set_quantity(&self, sku: &str, quantity: i64) -> Result<(), ShopError>;

    /// Returns all orders, oldest first.
    fn orders(&self) -> Vec<SimOrder>;

    /// Returns what happened so far.
    fn counters(&self) -> Counters;

    /// Returns the `listing` of a Trueup mapping for a SKU.
    fn listing(&self, sku: &str) -> Option<Value>;

    /// Returns up to `limit` listings for people to read, in SKU order, after a SKU.
    fn items(&self, after: &str, limit: usize) -> Vec<Value>;

    /// Returns the `enableChannel` configuration that connects Trueup to this simulator at `url`.
    fn channel_config(&self, url: &str) -> Value;

    /// Returns the vendor's routes, without faults and control.
    fn vendor_router(&self) -> Router;

    /// Puts a refusal of a whole request in the vendor's words.
    fn trouble(&self, trouble: Trouble) -> Response;

    /// Returns the dial of faults.
    fn faults(&self) -> &FaultDial {
        &self.engine().faults
    }

    /// Replaces the faults, and takes back all tokens when they say so.
    fn set_faults(&self, faults: Faults) {
        self.faults().set(faults);
        if self.faults().take_expire_tokens() {
            self.expire_tokens();
        }
    }

    /// Returns how much of its rate budgets all requests together took: points at Shopify, calls
    /// at Amazon; 0 where there is no rate.
    fn spent(&self) -> u64 {
        self.engine().spent.load(Ordering::Relaxed)
    }

    /// Multiplies the vendor's rates from now on and fills its buckets: a test's preparations
    /// need not take as long as the vendor's limits make them. 1 is how it was set up.
    fn set_hurry(&self, times: u32) {
        self.engine().set_hurry(times);
    }

    /// Takes back every access token issued so far (fixed tokens stay good).
    fn expire_tokens(&self) {
        self.engine().tokens.lock().expire_all();
    }

    /// Sends all events to that address, signed with that secret the vendor's way.
    ///
    /// # Errors
    /// [`WebhookUrlError`] when the address is not an http(s) one on this machine.
    fn set_webhook(&self, url: &str, secret: &str) -> Result<(), WebhookUrlError> {
        check_url(url)?;
        let target = Target { url: url.to_owned(), secret: secret.to_owned() };
        *self.engine().target.write() = Some(target);
        Ok(())
    }

    /// Stops sending events to the address of [`Shop::set_webhook`].
    fn clear_webhook(&self) {
        *self.engine().target.write() = None;
    }

    /// Returns the counts of webhooks.
    fn webhooks(&self) -> WebhookCounts {
        self.engine().outbox.counts()
    }

    /// Returns the latest requests, oldest first.
    fn requests(&self) -> Vec<LoggedRequest> {
        self.engine().log.all()
    }

    /// Forgets the logged requests.
    fn clear_requests(&self) {
        self.engine().log.clear();
    }
}
