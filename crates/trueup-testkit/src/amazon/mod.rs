//! A simulated Amazon seller account: listings, feeds, FBA inventory, orders, notifications.
//!
//! Sources: amzn/selling-partner-api-models; developer-docs.amazon.com/sp-api usage plans.

mod events;
pub mod feeds;
mod http;
mod notifications;
pub mod state;
pub(crate) mod wire;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::faults::Trouble;
use crate::limits::{Bucket, Rate};
use crate::shop::{
    Counters, Engine, FulfilledBy, OrderRef, OrderStatus, SeedItem, Shop, ShopError, SimOrder,
    Vendor,
};
use crate::time::SimClock;
use http::Operation;
pub use http::{LISTINGS_RATE, SEARCH_MAX};
use state::State;

/// The client id that Login with Amazon accepts here.
pub const CLIENT_ID: &str = "sim-client";
/// The client secret.
pub const CLIENT_SECRET: &str = "sim-secret";
/// The refresh token.
pub const REFRESH_TOKEN: &str = "Atzr|sim";
/// The application whose consent page is served.
pub const APPLICATION_ID: &str = "amzn1.sp.solution.sim";
/// The seller.
pub const SELLER_ID: &str = "A1SIMSELLER";
/// The one marketplace.
pub const MARKETPLACE_ID: &str = "ATVPDKIKX0DER";
/// The region of the seller's queue.
pub const QUEUE_REGION: &str = "us-east-1";
/// The lifetime of an access token.
pub const TOKEN_SECONDS: u32 = 3_600;
/// The header that carries the secret of a notification (EventBridge API destination, API key).
pub const SECRET_HEADER: &str = "X-Trueup-Webhook-Secret";
/// How much faster than Amazon the simulator is unless told otherwise.
pub const RATE_SCALE: u32 = 20;

/// How a simulated seller account is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an accepted patch takes to be applied (minutes at Amazon).
    pub apply_ms: u64,
    /// How long an order stays pending before it is unshipped.
    pub pending_ms: u64,
    /// How long a feed waits before it is processed.
    pub feed_queue_ms: u64,
    /// How long a feed is processed; the feeds of a seller one after the other.
    pub feed_run_ms: u64,
    /// Whether feed reports are compressed.
    pub feed_gzip: bool,
    /// Multiplies every rate of the usage plans; 1 is faithful.
    pub rate_scale: u32,
    /// Whether a change of an MFN quantity is notified besides order changes.
    pub notify_quantities: bool,
    /// The seller's SQS queue, on this machine: what is subscribed to be sent there goes there,
    /// unsigned, and no longer to the webhook.
    pub queue_url: Option<String>,
    /// The clock.
    pub clock: SimClock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            apply_ms: 200,
            pending_ms: 0,
            feed_queue_ms: 300,
            feed_run_ms: 300,
            feed_gzip: false,
            rate_scale: RATE_SCALE,
            notify_quantities: false,
            queue_url: None,
            clock: SimClock::system(),
        }
    }
}

/// A simulated Amazon seller account; clones share it.
#[derive(Clone)]
pub struct Simulator(Arc<Inner>);

struct Inner {
    engine: Engine,
    settings: Settings,
    state: Mutex<State>,
    buckets: Mutex<HashMap<Operation, Bucket>>,
    withheld: Mutex<BTreeSet<&'static str>>,
    /// The orders that nobody has paid for yet.
    unpaid: Mutex<BTreeSet<String>>,
}

impl Default for Simulator {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Simulator {
    /// Opens an account without listings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let engine = Engine::new(settings.clock.clone());
        Self(Arc::new(Inner {
            engine,
            settings,
            state: Mutex::default(),
            buckets: Mutex::default(),
            withheld: Mutex::default(),
            unpaid: Mutex::default(),
        }))
    }

    /// Returns the vendor's routes with faults and logging, and the control API at `/_sim`.
    pub fn router(&self) -> Router {
        crate::server::router(Arc::new(self.clone()))
    }

    /// Takes a role from the application, such as `Inventory and Order Tracking`.
    pub fn withhold_role(&self, role: &'static str) {
        self.0.withheld.lock().insert(role);
    }

    /// Gives a role back that was taken by [`Simulator::withhold_role`].
    pub fn grant_role(&self, role: &'static str) {
        self.0.withheld.lock().remove(role);
    }

    /// A shopper orders and does not pay: the order is pending until [`Simulator::pay`] or
    /// [`Shop::cancel`], however long [`Settings::pending_ms`] is.
    ///
    /// # Errors
    /// As [`Shop::sell`].
    pub fn sell_unpaid(&self, sku: &str, quantity: i64) -> Result<OrderRef, ShopError> {
        let order = {
            let mut state = self.0.state.lock();
            let order = state.sell(sku, quantity, self.now())?;
            self.0.unpaid.lock().insert(order.order_id.clone());
            order
        };
        events::ordered(self, &order);
        Ok(order.reference())
    }

    /// An order of [`Simulator::sell_unpaid`] is paid for.
    ///
    /// # Errors
    /// [`ShopError::OrderClosed`] where it is not one, or not any more.
    pub fn pay(&self, order_id: &str) -> Result<(), ShopError> {
        let order = {
            let mut state = self.0.state.lock();
            let open = state.orders.get(order_id).is_some_and(|o| o.status == OrderStatus::Open);
            let paid = open && self.0.unpaid.lock().remove(order_id);
            let changed =
                if paid { state.orders.change(order_id, self.now(), |_| ()) } else { None };
            changed.ok_or_else(|| ShopError::OrderClosed(order_id.to_owned()))?
        };
        events::paid(self, &order);
        Ok(())
    }

    /// Returns how long an order is pending, in milliseconds from when it was placed.
    fn pending_ms(&self, order: &SimOrder) -> u64 {
        let is_unpaid = self.0.unpaid.lock().contains(&order.order_id);
        if is_unpaid { u64::MAX } else { self.0.settings.pending_ms }
    }

    /// Returns the FBA SKUs on which a client put a merchant quantity: always a bug in the client.
    #[must_use]
    pub fn flipped(&self) -> Vec<String> {
        let now = self.now();
        let mut state = self.0.state.lock();
        let flipped = state.listings.iter_mut().filter_map(|(sku, listing)| {
            listing.settle(now);
            listing.flipped.then(|| sku.clone())
        });
        flipped.collect()
    }

    /// Returns the handling time of a listing, which a careless `replace` wipes.
    #[must_use]
    pub fn lead_time_days(&self, sku: &str) -> Option<u32> {
        self.0.state.lock().settled(sku, self.now())?.lead_time_days
    }

    fn now(&self) -> Timestamp {
        self.0.engine.clock.now()
    }

    /// Takes a token of an operation's bucket; returns the rate and whether there was one.
    fn admit(&self, operation: Operation) -> (Rate, bool) {
        let now = self.now();
        let scale = self.0.settings.rate_scale.max(1).saturating_mul(self.0.engine.hurry());
        let rate = operation.rate().times(scale);
        let mut buckets = self.0.buckets.lock();
        let bucket = buckets.entry(operation).or_insert_with(|| Bucket::full(rate, now));
        let admitted = bucket.take(now, 1);
        self.0.engine.spend(i64::from(admitted));
        (rate, admitted)
    }

    /// Settles feeds, so that whoever looks next sees what has been applied by now, and tells of
    /// those that have ended.
    fn settle_feeds(&self) {
        let gzip = self.0.settings.feed_gzip;
        let faults = &self.0.engine.faults;
        let ended = feeds::settle(&mut self.0.state.lock(), faults, gzip, self.now());
        for (id, feed) in ended {
            events::feed_ended(self, id, &feed);
        }
    }

    fn fulfilled_by(&self, sku: &str) -> FulfilledBy {
        let state = self.0.state.lock();
        state.listings.get(sku).map_or(FulfilledBy::Merchant, |listing| listing.fulfilled_by)
    }
}

impl Shop for Simulator {
    fn set_hurry(&self, times: u32) {
        self.0.engine.set_hurry(times);
        self.0.buckets.lock().clear();
    }

    fn vendor(&self) -> Vendor {
        Vendor::Amazon
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn seed(&self, items: Vec<SeedItem>) -> Result<usize, ShopError> {
        let count = items.len();
        self.0.state.lock().seed(items, self.now())?;
        Ok(count)
    }

    fn sell(&self, sku: &str, quantity: i64) -> Result<OrderRef, ShopError> {
        let order = self.0.state.lock().sell(sku, quantity, self.now())?;
        events::sold(self, &order);
        Ok(order.reference())
    }

    fn cancel(&self, order_id: &str) -> Result<(), ShopError> {
        let order = self.0.state.lock().cancel(order_id, self.now())?;
        events::cancelled(self, &order);
        Ok(())
    }

    fn quantity(&self, sku: &str) -> Option<i64> {
        self.settle_feeds();
        let now = self.now();
        let mut state = self.0.state.lock();
        state.settled(sku, now).map(|listing| listing.shown())
    }

    fn set_quantity(&self, sku: &str, quantity: i64) -> Result<(), ShopError> {
        self.0.state.lock().edit(sku, quantity, self.now())?;
        events::quantity(self, sku);
        Ok(())
    }

    fn orders(&self) -> Vec<SimOrder> {
        self.0.state.lock().orders.all()
    }

    fn counters(&self) -> Counters {
        Counters { requests: self.0.engine.log.seen(), ..self.0.state.lock().counters }
    }

    fn listing(&self, sku: &str) -> Option<Value> {
        let state = self.0.state.lock();
        let listing = state.listings.get(sku)?;
        Some(json!({"sellerSku": sku, "asin": listing.asin()}))
    }

    fn items(&self, after: &str, limit: usize) -> Vec<Value> {
        use std::ops::Bound::{Excluded, Unbounded};
        let now = self.now();
        let mut state = self.0.state.lock();
        let listed = state.listings.range_mut::<str, _>((Excluded(after), Unbounded)).take(limit);
        let item = |(sku, listing): (&String, &mut state::Listing)| {
            listing.settle(now);
            json!({
                "sku": sku, "quantity": listing.shown(), "asin": listing.asin(),
                "fulfilledBy": listing.fulfilled_by, "leadTimeDays": listing.lead_time_days,
                "flipped": listing.flipped, "pending": listing.pending.len(),
            })
        };
        listed.map(item).collect()
    }

    fn channel_config(&self, url: &str) -> Value {
        let mut config = json!({
            "kind": "amazon", "syncInventory": true, "syncOrders": true, "sellerId": SELLER_ID,
            "marketplaceIds": [MARKETPLACE_ID], "region": "na", "endpoint": url,
            "credentials": {
                "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET, "refreshToken": REFRESH_TOKEN,
            },
        });
        if let Some(queue_url) = &self.0.settings.queue_url {
            config["queueUrl"] = queue_url.as_str().into();
            config["awsRegion"] = QUEUE_REGION.into();
            config["credentials"]["awsAccessKeyId"] = CLIENT_ID.into();
            config["credentials"]["awsSecretAccessKey"] = CLIENT_SECRET.into();
        }
        config
    }

    fn vendor_router(&self) -> Router {
        http::routes(self.clone())
    }

    fn trouble(&self, trouble: Trouble) -> Response {
        http::trouble(trouble)
    }
}
