//! Connections of one account: listings that show one number, and orders that several hear of.
//!
//! The store says which listing of a scope is told its number. Who leads changes only while the
//! lock of [`Scopes`] is held for writing; a push looks whether its listings lead, and is marked,
//! while it is held for reading, and has claimed its scopes until it has landed. So no two pushes
//! of one number are ever under way, and the later one knows of the earlier.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use tokio::sync::{MutexGuard, RwLock};
use trueup_channels::SettingError;
use trueup_core::{ChannelId, ListingKey, Org, Sku};
use trueup_store::{ListingScope, Mapping, StoreError};

use crate::engine::EngineError;
use crate::link::Link;
use crate::shared::{Shared, VIEWS_MAX};

/// Over how many locks orders are spread.
const ORDER_LOCKS: usize = 64;
/// How many booked lines are moved at once.
const LINES_AT_ONCE: usize = 5_000;

/// What keeps connections of one account out of each other's way.
pub(crate) struct Scopes {
    /// Held for writing while it may change who leads, for reading while a push is marked. No
    /// vendor is called under it.
    pub(crate) elections: RwLock<()>,
    /// Prints of the scopes whose number is being told.
    told: Mutex<FxHashSet<u64>>,
    /// Held while an order of an account with several connections is booked.
    orders: Box<[tokio::sync::Mutex<()>]>,
}

impl Scopes {
    pub(crate) fn new() -> Self {
        Self {
            elections: RwLock::new(()),
            told: Mutex::default(),
            orders: (0..ORDER_LOCKS).map(|_| tokio::sync::Mutex::new(())).collect(),
        }
    }
}

/// Scopes that a push under way has to itself. Only their prints are kept, of which there may be
/// very many: two scopes that share one wait for each other.
pub(crate) struct Claims {
    shared: Arc<Shared>,
    org: Org,
    prints: Vec<u64>,
}

impl Claims {
    pub(crate) fn new(shared: Arc<Shared>, org: Org) -> Self {
        Self { shared, org, prints: Vec::new() }
    }

    fn print(&self, scope: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.org, scope).hash(&mut hasher);
        hasher.finish()
    }

    /// Claims a scope; false = another push has it.
    pub(crate) fn claim(&mut self, scope: &str) -> bool {
        let print = self.print(scope);
        let fresh = self.shared.scopes.told.lock().insert(print);
        if fresh {
            self.prints.push(print);
        }
        fresh
    }

    /// Takes some of the scopes apart, to be let go of by themselves.
    pub(crate) fn split(&mut self, apart: impl Iterator<Item = String>) -> Self {
        let apart: FxHashSet<u64> = apart.map(|scope| self.print(&scope)).collect();
        let prints = std::mem::take(&mut self.prints);
        let (apart, rest) = prints.into_iter().partition(|print| apart.contains(print));
        self.prints = rest;
        Self { shared: self.shared.clone(), org: self.org.clone(), prints: apart }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let mut told = self.shared.scopes.told.lock();
        for print in &self.prints {
            told.remove(print);
        }
    }
}

impl Shared {
    /// Returns the other connections of a link's account.
    pub(crate) fn siblings(&self, link: &Link) -> Vec<Arc<Link>> {
        let Some(account) = link.account() else { return Vec::new() };
        let mut links = self.links_of(&link.org);
        links.retain(|other| other.id != link.id && other.account().as_ref() == Some(&account));
        links
    }

    /// Has the other connections of an account look for what they owe: some of their listings
    /// may have taken over.
    pub(crate) fn wake_siblings(&self, link: &Link) {
        for sibling in self.siblings(link) {
            sibling.ring_sweep();
        }
    }

    /// Notes the scopes of all of a connection's listings, as its settings make them.
    pub(crate) async fn name_scopes(&self, link: &Link) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let page = self.store.listing_scopes(&link.org, &link.id, after, VIEWS_MAX).await?;
            after = page.items.last().map(|listing| listing.key.clone());
            let wrong = |listing: ListingScope| {
                let scope = link.scope_of(&listing.key, listing.channel_fulfilled);
                (listing.scope != scope).then_some((listing.key, scope))
            };
            let wrong: Vec<_> = page.items.into_iter().filter_map(wrong).collect();
            if !wrong.is_empty() {
                let _election = self.scopes.elections.write().await;
                self.store.set_scopes(&link.org, &link.id, wrong).await?;
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Keeps mappings with their scopes.
    pub(crate) async fn put_mappings(
        &self,
        link: &Link,
        mappings: Vec<Mapping>,
    ) -> Result<(), EngineError> {
        let scoped = |mapping: Mapping| {
            let scope = link.scope_of(&mapping.key, mapping.channel_fulfilled);
            (mapping, scope)
        };
        let mappings = mappings.into_iter().map(scoped).collect();
        {
            let _election = self.scopes.elections.write().await;
            self.store.put_mappings(&link.org, mappings).await?;
        }
        self.wake_siblings(link);
        Ok(())
    }

    /// Returns what is wrong with mappings that would show another SKU's number: the place of
    /// each.
    pub(crate) async fn clashes(
        &self,
        link: &Link,
        mappings: &[Mapping],
    ) -> Result<Vec<(usize, SettingError)>, EngineError> {
        if self.siblings(link).is_empty() {
            return Ok(Vec::new());
        }
        let scope = |mapping: &Mapping| link.scope_of(&mapping.key, mapping.channel_fulfilled);
        let scopes: Vec<String> = mappings.iter().filter_map(scope).collect();
        let leaders = self.store.leaders(&link.org, scopes).await?;
        let leaders: BTreeMap<&str, _> =
            leaders.iter().map(|leader| (leader.scope.as_str(), leader)).collect();
        let mut clashes = Vec::new();
        for (at, mapping) in mappings.iter().enumerate() {
            let Some(leader) = scope(mapping).and_then(|s| leaders.get(s.as_str()).copied()) else {
                continue;
            };
            let is_other = (&leader.channel, &leader.key) != (&mapping.channel, &mapping.key);
            if is_other && leader.sku != mapping.sku {
                let detail = format!(
                    "shows one number with the listing {} of channel {}, which sells {}",
                    leader.key, leader.channel, leader.sku
                );
                clashes.push((at, SettingError { setting: "listing".to_owned(), detail }));
            }
        }
        Ok(clashes)
    }

    /// Removes a SKU's mappings but those of these listings; returns how many it removed.
    pub(crate) async fn delete_mappings(
        &self,
        org: &Org,
        channel: &ChannelId,
        sku: &Sku,
        but: BTreeSet<ListingKey>,
    ) -> Result<usize, StoreError> {
        let count = {
            let _election = self.scopes.elections.write().await;
            self.store.delete_mappings(org, channel, sku, but).await?
        };
        if let Some(link) = self.link(org, channel).filter(|_| count > 0) {
            self.wake_siblings(&link);
        }
        Ok(count)
    }

    /// Gives what was booked of a connection's orders to another of its account, which goes on
    /// hearing of them.
    pub(crate) async fn move_orders(&self, from: &Link, to: &Link) -> Result<(), EngineError> {
        while self.store.move_order_lines(&from.org, &from.id, &to.id, LINES_AT_ONCE).await? > 0 {}
        Ok(())
    }

    /// Waits for an order's turn to be booked, where several connections may hear of it.
    pub(crate) async fn order_turn(&self, link: &Link, order: &str) -> Option<MutexGuard<'_, ()>> {
        let account = link.account()?;
        let mut hasher = DefaultHasher::new();
        (&link.org, account, order).hash(&mut hasher);
        let locks = u64::try_from(self.scopes.orders.len()).unwrap_or(1).max(1);
        let at = usize::try_from(hasher.finish() % locks).unwrap_or(0);
        Some(self.scopes.orders.get(at)?.lock().await)
    }

    /// Returns under which connections of an account lines of an order are booked.
    pub(crate) async fn booked_before(
        &self,
        link: &Link,
        order: &str,
    ) -> Result<BTreeMap<String, ChannelId>, StoreError> {
        let siblings = self.siblings(link);
        if siblings.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids = siblings.iter().map(|sibling| sibling.id.clone());
        let channels = ids.chain([link.id.clone()]).collect();
        Ok(self.store.booked_under(&link.org, order, channels).await?.into_iter().collect())
    }
}
