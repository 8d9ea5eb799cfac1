//! A simulated Shopify shop: Admin GraphQL and its webhooks.
//!
//! Sources: shopify.dev Admin GraphQL 2026-07 (inventory, orders, webhooks), `rate-limits`,
//! `client-credentials-grant`, `verify-deliveries`.

mod cost;
mod events;
pub mod graphql;
mod http;
pub mod reads;
pub mod state;
pub mod writes;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::faults::Trouble;
use crate::limits::{Bucket, Rate};
use crate::shop::{Counters, Engine, OrderRef, SeedItem, Shop, ShopError, SimOrder, Vendor};
use crate::time::{SimClock, plus_ms};
use crate::tokens::RefreshTokens;
pub use cost::SET_COST;
use state::{Event, State};

/// The fixed access token that a simulated shop accepts.
pub const ACCESS_TOKEN: &str = "shpat_sim";
/// The client id for the client-credentials grant.
pub const CLIENT_ID: &str = "sim-client";
/// The client secret, which also signs webhooks of API subscriptions.
pub const CLIENT_SECRET: &str = "sim-secret";
/// A refresh token that an app was once granted; the first use replaces it.
pub const REFRESH_TOKEN: &str = "shprt_sim";
/// The scopes that the app is granted unless told otherwise.
pub const SCOPES: [&str; 5] =
    ["write_inventory", "read_inventory", "read_products", "read_locations", "read_orders"];
/// The shop's domain.
pub const SHOP: &str = "sim.myshopify.com";
/// The lifetime of a token from the client-credentials grant.
pub const TOKEN_SECONDS: u32 = 86_399;
/// The lifetime of a token from a refresh.
pub const REFRESHED_TOKEN_SECONDS: u32 = 3_600;
/// The lifetime of a refresh token: 90 days.
pub const REFRESH_TOKEN_SECONDS: u32 = 90 * 86_400;

/// Returns when a refresh token ends that is issued now.
fn refresh_ends(now: jiff::Timestamp) -> jiff::Timestamp {
    plus_ms(now, u64::from(REFRESH_TOKEN_SECONDS) * 1_000)
}

/// How a simulated shop is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The query cost bucket: Standard plan, 2000 points and 100 a second.
    pub bucket: Rate,
    /// The names of the locations, the first of which is the default.
    pub locations: Vec<String>,
    /// The clock.
    pub clock: SimClock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bucket: Rate { milli_per_second: 100_000, burst: 2_000 },
            locations: vec!["Main warehouse".into(), "Back room".into()],
            clock: SimClock::system(),
        }
    }
}

/// A simulated Shopify shop; clones share it.
#[derive(Clone)]
pub struct Simulator(Arc<Inner>);

struct Inner {
    engine: Engine,
    settings: Settings,
    books: Mutex<Books>,
    refresh_tokens: Mutex<RefreshTokens>,
    scopes: Mutex<Vec<String>>,
}

struct Books {
    shop: State,
    bucket: Bucket,
}

impl Default for Simulator {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Simulator {
    /// Opens an empty shop.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let bucket = Bucket::full(settings.bucket, settings.clock.now());
        let shop = State::new(&settings.locations);
        let engine = Engine::new(settings.clock.clone());
        let mut refresh_tokens = RefreshTokens::default();
        refresh_tokens.add(REFRESH_TOKEN, refresh_ends(engine.clock.now()));
        let (books, refresh_tokens) =
            (Mutex::new(Books { shop, bucket }), Mutex::new(refresh_tokens));
        let scopes = Mutex::new(SCOPES.iter().map(|scope| (*scope).to_owned()).collect());
        Self(Arc::new(Inner { engine, settings, books, refresh_tokens, scopes }))
    }

    /// Replaces the scopes that the app was granted; at first they are [`SCOPES`].
    pub fn set_scopes(&self, scopes: &[&str]) {
        *self.0.scopes.lock() = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    }

    /// Returns whether a scope is granted; a right to write is one to read.
    fn grants(&self, scope: &str) -> bool {
        let written = scope.strip_prefix("read_").map(|what| format!("write_{what}"));
        let scopes = self.0.scopes.lock();
        scopes.iter().any(|known| known == scope || Some(known) == written.as_ref())
    }

    /// Takes every refresh token back, as when the merchant removes the app.
    pub fn revoke(&self) {
        self.0.refresh_tokens.lock().clear();
        self.expire_tokens();
    }

    /// Returns the vendor's routes with faults and logging, and the control API at `/_sim`.
    pub fn router(&self) -> Router {
        crate::server::router(Arc::new(self.clone()))
    }

    /// Ships an order: its goods leave `on_hand`; what is shown stays.
    ///
    /// # Errors
    /// The order is not known or closed.
    pub fn ship(&self, order_id: &str) -> Result<(), ShopError> {
        self.0.books.lock().shop.ship(order_id, self.0.engine.clock.now())
    }

    /// Refunds units of an order and tells subscribers; `restock` puts them back on sale.
    ///
    /// # Errors
    /// The order is not known, cancelled, or has fewer units left.
    pub fn refund(&self, order_id: &str, quantity: i64, restock: bool) -> Result<(), ShopError> {
        let now = self.0.engine.clock.now();
        let events = self.0.books.lock().shop.refund(order_id, quantity, restock, now)?;
        self.tell(events);
        Ok(())
    }

    /// Edits an order so that so many units are left of it: more are ordered if they are shown,
    /// those that are removed go back on sale.
    ///
    /// # Errors
    /// The order is not known, cancelled or shipped, or fewer are shown.
    pub fn edit_order(&self, order_id: &str, quantity: i64) -> Result<(), ShopError> {
        let now = self.0.engine.clock.now();
        let events = self.0.books.lock().shop.edit_order(order_id, quantity, now)?;
        self.tell(events);
        Ok(())
    }

    /// Takes the app's access away, as a merchant does: subscribers are told a last time, then
    /// no token is good and no grant given until [`Simulator::install`].
    pub fn uninstall(&self) {
        let body = json!({"id": 1, "name": "Simulated shop", "myshopify_domain": SHOP});
        self.tell(vec![Event { topic: "APP_UNINSTALLED", body }]);
        let shop = &mut self.0.books.lock().shop;
        shop.subscriptions.clear();
        shop.is_uninstalled = true;
    }

    /// Lets the app in again.
    pub fn install(&self) {
        self.0.books.lock().shop.is_uninstalled = false;
    }

    /// Returns topic, address and fields of the subscriptions made through the API.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<(String, String, Vec<String>)> {
        self.drop_unserved();
        let books = self.0.books.lock();
        let all = books.shop.subscriptions.iter();
        all.map(|known| (known.topic.clone(), known.uri.clone(), known.fields.clone())).collect()
    }

    /// Drops every subscription, as after 8 retries that failed.
    pub fn drop_subscriptions(&self) {
        self.0.books.lock().shop.subscriptions.clear();
    }

    /// Drops the subscriptions whose deliveries were given up on.
    fn drop_unserved(&self) {
        let unserved = self.0.engine.outbox.take_unserved();
        if !unserved.is_empty() {
            let known = &mut self.0.books.lock().shop.subscriptions;
            known.retain(|known| !unserved.contains(&known.tag()));
        }
    }

    fn tell(&self, events: Vec<Event>) {
        self.drop_unserved();
        events::tell(&self.0.engine, &self.0.books, events);
    }
}

impl Shop for Simulator {
    fn set_hurry(&self, times: u32) {
        self.0.engine.set_hurry(times);
        let rate = self.0.settings.bucket.times(self.0.engine.hurry());
        self.0.books.lock().bucket = Bucket::full(rate, self.0.engine.clock.now());
    }

    fn vendor(&self) -> Vendor {
        Vendor::Shopify
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn seed(&self, items: Vec<SeedItem>) -> Result<usize, ShopError> {
        let count = items.len();
        self.0.books.lock().shop.seed(items, self.0.engine.clock.now())?;
        Ok(count)
    }

    fn sell(&self, sku: &str, quantity: i64) -> Result<OrderRef, ShopError> {
        let now = self.0.engine.clock.now();
        let (order, events) = self.0.books.lock().shop.sell(sku, quantity, now)?;
        self.tell(events);
        Ok(order)
    }

    fn cancel(&self, order_id: &str) -> Result<(), ShopError> {
        let events = self.0.books.lock().shop.cancel(order_id, self.0.engine.clock.now())?;
        self.tell(events);
        Ok(())
    }

    fn quantity(&self, sku: &str) -> Option<i64> {
        let books = self.0.books.lock();
        let index = *books.shop.by_sku.get(sku)?;
        Some(books.shop.shown(index))
    }

    fn set_quantity(&self, sku: &str, quantity: i64) -> Result<(), ShopError> {
        let now = self.0.engine.clock.now();
        let events = self.0.books.lock().shop.edit(sku, quantity, now)?;
        self.tell(events);
        Ok(())
    }

    fn orders(&self) -> Vec<SimOrder> {
        self.0.books.lock().shop.orders.all()
    }

    fn counters(&self) -> Counters {
        let requests = self.0.engine.log.seen();
        Counters { requests, ..self.0.books.lock().shop.counters }
    }

    fn listing(&self, sku: &str) -> Option<Value> {
        let books = self.0.books.lock();
        let index = *books.shop.by_sku.get(sku)?;
        let location = books.shop.items[index].levels.first()?.location;
        Some(json!({
            "inventoryItemId": state::gid("InventoryItem", state::item_id(index)),
            "variantId": state::gid("ProductVariant", state::variant_id(index)),
            "locationId": state::gid("Location", location),
        }))
    }

    fn items(&self, after: &str, limit: usize) -> Vec<Value> {
        use std::ops::Bound::{Excluded, Unbounded};
        let books = self.0.books.lock();
        let listed = books.shop.by_sku.range::<str, _>((Excluded(after), Unbounded)).take(limit);
        let item = |(sku, index): (&String, &usize)| {
            let item = &books.shop.items[*index];
            let levels = item.levels.iter().map(|level| {
                json!({
                    "locationId": level.location, "available": level.available,
                    "onHand": level.on_hand(), "committed": level.committed,
                })
            });
            json!({
                "sku": sku, "quantity": books.shop.shown(*index), "tracked": item.tracked,
                "inventoryItemId": state::item_id(*index), "levels": levels.collect::<Vec<_>>(),
            })
        };
        listed.map(item).collect()
    }

    fn channel_config(&self, url: &str) -> Value {
        json!({
            "kind": "shopify", "syncInventory": true, "syncOrders": true, "shop": SHOP,
            "defaultLocationId": state::gid("Location", state::LOCATION_ID), "endpoint": url,
            "credentials": {"accessToken": ACCESS_TOKEN, "webhookSecret": CLIENT_SECRET},
        })
    }

    fn vendor_router(&self) -> Router {
        http::routes(self.clone())
    }

    fn trouble(&self, trouble: Trouble) -> Response {
        http::trouble(self, trouble)
    }
}
