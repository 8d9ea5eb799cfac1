//! A simulated eBay seller account: Inventory, Fulfillment, Trading, Analytics, Notification.
//!
//! Sources: developer.ebay.com Sell APIs (Inventory 1.18.4, Fulfillment 1.20.7), Commerce
//! Notification 1.6.2, Trading.

pub mod events;
mod http;
mod scopes;
pub mod state;
pub mod trading;
pub mod wire;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use jiff::Timestamp;
use p256::ecdsa::SigningKey;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::faults::Trouble;
use crate::shop::{Counters, Engine, OrderRef, SeedItem, Shop, ShopError, SimOrder, Vendor};
use crate::time::SimClock;
pub use events::{ChallengeError, Check, KEY_ID, challenge};
pub use http::PAGE_MAX;
use scopes::Scopes;
use state::State;

/// The client id that the token endpoint accepts.
pub const CLIENT_ID: &str = "sim-client";
/// The client secret.
pub const CLIENT_SECRET: &str = "sim-secret";
/// The refresh token.
pub const REFRESH_TOKEN: &str = "v^1.1#sim";
/// The account's name for the address that merchants are sent back to.
pub const RU_NAME: &str = "Sim-Simulator-RuName";
/// The lifetime of a refresh token: 18 months.
pub const REFRESH_TOKEN_SECONDS: u32 = 47_304_000;
/// The lifetime of an access token.
pub const TOKEN_SECONDS: u32 = 7_200;
/// How often one listing may be revised in a calendar day.
pub const REVISIONS_MAX: u32 = 250;

/// How a simulated seller account is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often one listing may be revised in a calendar day.
    pub revisions_max: u32,
    /// How many calls a day each API allows.
    pub calls_max: u64,
    /// The clock.
    pub clock: SimClock,
}

impl Default for Settings {
    fn default() -> Self {
        Self { revisions_max: REVISIONS_MAX, calls_max: 2_000_000, clock: SimClock::system() }
    }
}

/// A simulated eBay seller account; clones share it.
#[derive(Clone)]
pub struct Simulator(Arc<Inner>);

struct Inner {
    engine: Engine,
    settings: Settings,
    state: Mutex<State>,
    key: SigningKey,
    accept_url: Mutex<Option<String>>,
    scopes: Mutex<Scopes>,
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
        let key = events::signing_key();
        Self(Arc::new(Inner {
            engine,
            settings,
            state: Mutex::default(),
            key,
            accept_url: Mutex::default(),
            scopes: Mutex::default(),
        }))
    }

    /// Returns the vendor's routes with faults and logging, and the control API at `/_sim`.
    pub fn router(&self) -> Router {
        crate::server::router(Arc::new(self.clone()))
    }

    /// Takes a scope from the refresh token, such as `sell.fulfillment`.
    pub fn withhold_scope(&self, scope: &str) {
        self.0.scopes.lock().withhold(scope);
    }

    /// Gives a scope back that was taken by [`Simulator::withhold_scope`].
    pub fn grant_scope(&self, scope: &str) {
        self.0.scopes.lock().grant(scope);
    }

    /// Sets the address that [`RU_NAME`] stands for: where merchants are sent after their consent.
    pub fn set_accept_url(&self, url: impl Into<String>) {
        *self.0.accept_url.lock() = Some(url.into());
    }

    /// Returns the public key that verifies notifications, as `getPublicKey` writes it.
    #[must_use]
    pub fn public_key(&self) -> String {
        events::public_key(&self.0.key)
    }

    /// Returns how often a listing was revised on the day of its latest revision.
    #[must_use]
    pub fn revisions(&self, sku: &str) -> Option<u32> {
        let state = self.0.state.lock();
        Some(state.revisions.of(state.items.get(sku)?.listing))
    }

    /// Makes inventory items the variations of one listing, whose revisions are counted together.
    ///
    /// # Errors
    /// [`ShopError::UnknownSku`] where one of them is not an inventory item.
    pub fn join(&self, skus: &[&str]) -> Result<(), ShopError> {
        let mut state = self.0.state.lock();
        let mut first = None;
        for sku in skus {
            let item = state.items.get_mut(*sku).filter(|item| !item.legacy);
            let item = item.ok_or_else(|| ShopError::UnknownSku((*sku).to_owned()))?;
            item.listing = *first.get_or_insert(item.listing);
        }
        Ok(())
    }

    /// Offers a SKU on a second marketplace, such as `EBAY_DE`, with a quantity of its own.
    ///
    /// # Errors
    /// [`ShopError::UnknownSku`] where there is no such inventory item.
    pub fn offer_elsewhere(
        &self,
        sku: &str,
        marketplace_id: impl Into<String>,
        quantity: i64,
    ) -> Result<(), ShopError> {
        let mut state = self.0.state.lock();
        let item = state.items.get_mut(sku).filter(|item| !item.legacy);
        let item = item.ok_or_else(|| ShopError::UnknownSku(sku.to_owned()))?;
        let marketplace_id = marketplace_id.into();
        item.elsewhere = Some(state::Elsewhere { marketplace_id, offered: quantity });
        Ok(())
    }

    /// Returns what an inventory item has, and what its offer on the second marketplace shows:
    /// the smaller of the item's number and the offer's own.
    #[must_use]
    pub fn elsewhere(&self, sku: &str) -> Option<(i64, i64)> {
        let state = self.0.state.lock();
        let item = state.items.get(sku)?;
        Some((item.total, item.elsewhere.as_ref()?.offered.min(item.total)))
    }

    /// Sells as a checkout does that asks the merchant first (Real-time Inventory Check); one
    /// that does not answer in time is not waited for.
    ///
    /// # Errors
    /// [`ShopError::NotEnough`] where the merchant says so, and what [`Shop::sell`] refuses.
    pub async fn check_out(
        &self,
        check: &Check,
        sku: &str,
        quantity: i64,
    ) -> Result<OrderRef, ShopError> {
        if let Some((is_available, shown)) = events::ask(check, sku, quantity).await
            && !is_available
        {
            return Err(ShopError::NotEnough { sku: sku.to_owned(), shown });
        }
        self.sell(sku, quantity)
    }

    /// Sells as [`Shop::sell`] does, to a buyer who has not paid yet: the units are taken off what
    /// is shown, and the order is confirmed once it is paid for.
    ///
    /// # Errors
    /// As [`Shop::sell`].
    pub fn sell_unpaid(&self, sku: &str, quantity: i64) -> Result<OrderRef, ShopError> {
        let order = {
            let mut state = self.0.state.lock();
            let order = state.sell(sku, quantity, self.now())?;
            let money = state::Money { unpaid: true, ..state::Money::default() };
            state.money.insert(order.order_id.clone(), money);
            order
        };
        events::availability(self, sku, Some(quantity));
        Ok(order.reference())
    }

    /// An order of [`Simulator::sell_unpaid`] is paid for.
    ///
    /// # Errors
    /// [`ShopError::OrderClosed`] where it is not one, or not any more.
    pub fn pay(&self, order_id: &str) -> Result<(), ShopError> {
        let order = self.0.state.lock().pay(order_id, self.now())?;
        events::confirmed(self, &order);
        Ok(())
    }

    /// Gives back so many cents of the ten dollars that an order costs; nobody is told, and the
    /// number that is shown stays.
    ///
    /// # Errors
    /// The order is not known, not paid for or cancelled, or less of its money is left.
    pub fn refund(&self, order_id: &str, cents: i64) -> Result<(), ShopError> {
        self.0.state.lock().refund(order_id, cents, self.now())
    }

    /// Ships an order.
    ///
    /// # Errors
    /// The order is not known, not paid for, cancelled or shipped.
    pub fn ship(&self, order_id: &str) -> Result<(), ShopError> {
        self.0.state.lock().ship(order_id, self.now())
    }

    /// Uses up so many of today's calls of an API, as another application would: `Inventory`,
    /// `Fulfillment`, `Notification`, `TradingAPI`.
    pub fn spend_calls(&self, api: &'static str, calls: u64) {
        let mut state = self.0.state.lock();
        for _ in 0..calls {
            state.count_call(api, self.now());
        }
    }

    fn now(&self) -> Timestamp {
        self.0.engine.clock.now()
    }
}

impl Shop for Simulator {
    fn vendor(&self) -> Vendor {
        Vendor::Ebay
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn seed(&self, items: Vec<SeedItem>) -> Result<usize, ShopError> {
        let count = items.len();
        self.0.state.lock().seed(items)?;
        Ok(count)
    }

    fn sell(&self, sku: &str, quantity: i64) -> Result<OrderRef, ShopError> {
        let order = self.0.state.lock().sell(sku, quantity, self.now())?;
        events::sold(self, &order);
        Ok(order.reference())
    }

    fn cancel(&self, order_id: &str) -> Result<(), ShopError> {
        let order = self.0.state.lock().cancel(order_id, self.now())?;
        events::availability(self, &order.sku, Some(-order.quantity));
        Ok(())
    }

    fn quantity(&self, sku: &str) -> Option<i64> {
        self.0.state.lock().items.get(sku).map(state::Item::shown)
    }

    fn set_quantity(&self, sku: &str, quantity: i64) -> Result<(), ShopError> {
        self.0.state.lock().edit(sku, quantity)?;
        events::availability(self, sku, None);
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
        let item = state.items.get(sku)?;
        Some(if item.legacy {
            json!({"itemId": item.listing_id(), "sku": sku})
        } else {
            json!({"sku": sku, "offerId": item.offer_id()})
        })
    }

    fn items(&self, after: &str, limit: usize) -> Vec<Value> {
        use std::ops::Bound::{Excluded, Unbounded};
        let state = self.0.state.lock();
        let listed = state.items.range::<str, _>((Excluded(after), Unbounded)).take(limit);
        let item = |(sku, item): (&String, &state::Item)| {
            json!({
                "sku": sku, "quantity": item.shown(), "total": item.total,
                "offered": item.offered, "sold": item.sold, "legacy": item.legacy,
                "offerId": item.offer_id(), "itemId": item.listing_id(),
                "revisions": state.revisions.of(item.listing),
            })
        };
        listed.map(item).collect()
    }

    fn channel_config(&self, url: &str) -> Value {
        json!({
            "kind": "ebay", "syncInventory": true, "syncOrders": true, "marketplaceId": "EBAY_US",
            "endpoint": url,
            "credentials": {
                "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET, "refreshToken": REFRESH_TOKEN,
            },
        })
    }

    fn vendor_router(&self) -> Router {
        http::routes(self.clone())
    }

    fn trouble(&self, trouble: Trouble) -> Response {
        http::trouble(trouble)
    }
}
