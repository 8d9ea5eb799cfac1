//! The engine: what the API and the programs ask of push, pull and the inbox.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use trueup_channels::credential::REFRESH_TOKEN;
use trueup_channels::{Caller, Connected, Kind, Missing, Secret, SettingError, Settings, Wants};
use trueup_core::{
    ChannelId, Command, ListingKey, Observed, Org, Quantity, Rejection, Resolution, RestockPolicy,
    Sku, Source, Strategy, Timestamp,
};
use trueup_store::{
    BlastRadius, Change, Connection, ConnectionState, DeliveryState, HistoryEntry, ListingQuery,
    ListingView, Mapping, Resolved, RuleSettings, Run, RunStatus, Shard, Store, StoreError,
};

use crate::caller::Vault;
use crate::consent::AUTHORIZATION_NEEDED;
use crate::impact::{Agreed, Impact};
use crate::link::{Job, Link};
use crate::plan;
use crate::request::{self, Request};
use crate::seal::{KeyRing, Purpose};
use crate::shared::{KindFinder, Shared, not_allowed};
use crate::worker::{Worker, run};
use crate::{address, deliver, discover, holding, impact, inbox, limits, orders, queue, upkeep};

/// How the engine works; everything has a default.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Whether channel endpoints and webhook addresses may be private or loopback.
    pub allow_private_endpoints: bool,
    /// The keys that credentials and signing secrets are encrypted with.
    pub keys: KeyRing,
    /// How long a vendor's answer may take.
    pub request_timeout: Duration,
    /// The URL under which vendors reach this server, for webhook subscriptions; `None` = they
    /// are not told.
    pub public_url: Option<String>,
    /// How far a poll of orders looks back behind the one before: vendors index late.
    /// [`ORDERS_OVERLAP`] unless the vendors are known to index at once.
    pub orders_overlap: Duration,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
}

/// How far polls of orders look back, for vendors as they are.
pub const ORDERS_OVERLAP: Duration = Duration::from_secs(120);

/// Where the engine reads the time, once per decision.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Returns the instant.
    fn now(&self) -> Timestamp;
}

/// The body of `enable`, parsed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Enable {
    /// The vendor's word; defaults to the connection's id.
    pub kind: Option<String>,
    /// Whether stock movements publish by themselves.
    pub sync_inventory: bool,
    /// Whether its orders are booked; default true.
    pub sync_orders: Option<bool>,
    /// The strategy.
    pub strategy: Option<Strategy>,
    /// What becomes of units that come back by cancel or refund.
    pub restock: RestockPolicy,
    /// Publishing rules.
    pub rules: RuleSettings,
    /// Minutes between pulls.
    pub poll_interval_minutes: Option<u32>,
    /// Only compute and report.
    pub dry_run: bool,
    /// Scheme and host in place of the vendor's.
    pub endpoint: Option<String>,
    /// The vendor's settings (`shop`, `sellerId`, `defaultLocationId`, …) as JSON values.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Credentials by name; absent ones keep what was given before.
    pub credentials: BTreeMap<String, Secret>,
    /// Whether it may change more of what the channel shows than one act may by itself.
    pub confirmed: bool,
}

/// Which SKUs to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushScope {
    /// Every mapped SKU.
    All,
    /// These; a given quantity is what to publish now in place of the computed one.
    Items(Vec<(Sku, Option<Quantity>)>),
    /// These, unless the channel shows their numbers already: they were just changed.
    Changed(Vec<Sku>),
    /// These listings, each with the number that it is to show again, as far as there is so much.
    Back(Vec<Back>),
}

/// A number that a listing is to show again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// The SKU.
    pub sku: Sku,
    /// The listing.
    pub key: ListingKey,
    /// What it showed.
    pub quantity: Quantity,
}

/// What to pull and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// Only these SKUs; `None` = every mapped one.
    pub skus: Option<Vec<Sku>>,
    /// Say what would happen, change nothing.
    pub dry_run: bool,
    /// A strategy in place of the configured ones.
    pub strategy: Option<Strategy>,
}

/// A mapping as the merchant wrote it, before the channel's kind has checked its `listing`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingDraft {
    /// The SKU.
    pub sku: Sku,
    /// The `listing` object's members as text.
    pub fields: BTreeMap<String, String>,
    /// The strategy, where it differs from the channel's.
    pub strategy: Option<Strategy>,
    /// Publishing rules, where they differ.
    pub rules: RuleSettings,
    /// Whether the channel itself ships it.
    pub channel_fulfilled: bool,
    /// Whether it takes part at all.
    pub enabled: bool,
}

/// What discovery proposes for one entry of the channel's catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The SKU as the channel has it.
    pub channel_sku: Option<String>,
    /// A name to show people.
    pub title: Option<String>,
    /// The vendor's identifiers.
    pub fields: BTreeMap<String, String>,
    /// Our SKU that it was matched with.
    pub sku: Option<Sku>,
    /// `matched`, `already_mapped`, `unknown_sku`, `near_miss`, `duplicate`, `no_sku`,
    /// `incomplete`.
    pub status: &'static str,
    /// For a near miss: the SKUs it might be; for a duplicate and what is incomplete, its SKU.
    /// With several, only a person can say.
    pub suggestions: Vec<Sku>,
    /// What the channel shows, where its catalogue says so.
    pub quantity: Option<i64>,
}

/// What discovery found.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovery {
    /// Its run: whether it is under way, and what it counted.
    pub run: Run,
    /// One entry per listing of the channel (the first [`DISCOVERY_ITEMS_MAX`] of them).
    pub proposals: Vec<Proposal>,
    /// SKUs of the ledger that no listing of the channel carries (the first
    /// [`DISCOVERY_ITEMS_MAX`] of them); none while it is under way.
    pub unlisted: Vec<Sku>,
}

impl Discovery {
    /// Returns how many mappings were made (0 in a dry run).
    #[must_use]
    pub fn mapped(&self) -> u64 {
        self.run.counters.get(discover::MAPPED).copied().unwrap_or(0)
    }
}

/// The most entries a discovery reports one by one; all are mapped.
pub const DISCOVERY_ITEMS_MAX: usize = 10_000;

/// How often a listing was revised in its vendor's day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revisions {
    /// How often today.
    pub used_today: u32,
    /// How often in a day the vendor allows.
    pub per_day: u32,
    /// When the vendor's day ends.
    pub day_ends: Timestamp,
    /// Until when what it owes is put off, if it is: then its newest number goes.
    pub postponed_until: Option<Timestamp>,
}

/// What a check of a channel is let in by.
#[derive(Clone, Copy)]
pub enum CheckCredential<'a> {
    /// User name and password of the connection.
    Password {
        /// The user name.
        user: &'a str,
        /// The password.
        password: &'a str,
    },
    /// A token that [`Engine::check_token`] made.
    Token(&'a str),
}

/// What there is of a SKU that a channel asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckAnswer {
    /// Whether the SKU is mapped and in the ledger.
    pub is_known: bool,
    /// What the listing should show; 0 where it is not known.
    pub quantity: u64,
    /// Of when the number is.
    pub at: Timestamp,
}

/// Why the engine did not do as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// No such connection.
    #[error("there is no channel {0}")]
    ChannelNotFound(ChannelId),
    /// No such kind of channel.
    #[error("{0:?} is not a kind of channel")]
    UnknownKind(String),
    /// Wrong or missing settings.
    #[error("the channel's settings are wrong")]
    Settings(Vec<SettingError>),
    /// Wrong or missing members of mappings: the index of the mapping with each.
    #[error("a mapping is wrong")]
    Mapping(Vec<(usize, SettingError)>),
    /// The endpoint is private or loopback, or not a URL.
    #[error("the endpoint is not allowed: {0}")]
    EndpointNotAllowed(String),
    /// The vendor did not let us in.
    #[error("the channel refused: {0}")]
    Channel(trueup_channels::ChannelError),
    /// The account lacks something that the connection needs.
    #[error("the account lacks what the connection needs")]
    Incomplete(Vec<Missing>),
    /// The channel is paused.
    #[error("the channel is paused")]
    Paused,
    /// A discovery of another kind (dry or not) is under way.
    #[error("a discovery of the channel is under way")]
    DiscoveryUnderWay {
        /// Its run.
        run: String,
    },
    /// The discovery was stopped.
    #[error("the discovery was stopped: the channel was connected anew or removed")]
    DiscoveryStopped,
    /// Nobody has authorized the connection at the vendor's page yet.
    #[error("the account has not authorized the connection yet")]
    AuthorizationNeeded,
    /// The kind has no page where a merchant consents.
    #[error("{0} has no page to consent at")]
    NoConsent(String),
    /// The server does not know under which URL it is reached from outside.
    #[error("the server's public_url is not set")]
    PublicUrlMissing,
    /// The state that came back is not known, was used before, or has run out.
    #[error("the state is not known, was used before, or has run out")]
    ConsentState,
    /// What a vendor's page sent back is not taken.
    #[error(transparent)]
    Callback(trueup_channels::CallbackError),
    /// No such run, conflict or delivery.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It would change more of a channel than one act may without an operator being asked.
    #[error("{why}")]
    TooWide {
        /// The channel.
        channel: ChannelId,
        /// How much of it, and how much may be.
        why: String,
        /// What it would change.
        impact: Box<Impact>,
    },
    /// The conflict is open, was not ended by an operator, or its listing had another one since.
    #[error(
        "the conflict cannot be opened again: it is open, nobody decided it, or there was another"
    )]
    NotReopenable,
    /// A push of the listing is under way.
    #[error("a push of the listing is under way; try again in a moment")]
    PushUnderWay,
    /// The run has not ended, told nothing, or only said what it would do.
    #[error("the run cannot be undone: it has not ended, or it told no channel anything")]
    NotUndoable,
    /// The run does not wait for an operator.
    #[error("the run does not wait to be confirmed")]
    NotHeld,
    /// The conflict is resolved already.
    #[error("the conflict is resolved already")]
    AlreadyResolved,
    /// The ledger refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A webhook was not let in.
    #[error(transparent)]
    Webhook(trueup_channels::WebhookError),
}

/// Push, pull, inbox, schedules and outgoing webhooks over one store. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// How a webhook was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is kept and will be worked on.
    New,
    /// It was there before.
    Repeated,
}

/// How often [`Engine::quiesce`] looks.
const QUIET_LOOK: Duration = Duration::from_millis(50);
/// How many deliveries are looked through at once for one that is to be sent again.
const DELIVERIES_PAGE: usize = 500;
/// How long at least between two looks at what the ledger has changed.
const DISPATCH_PAUSE: Duration = Duration::from_millis(5);

impl Engine {
    /// Starts the workers: one per connection, the inbox, the deliveries, the schedules.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(store: Arc<dyn Store>, options: EngineOptions) -> Result<Self, EngineError> {
        Self::start_with(store, options, trueup_channels::kind).await
    }

    /// Starts with kinds of channels of one's own: for tests and for other builds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start_with(
        store: Arc<dyn Store>,
        options: EngineOptions,
        find_kind: KindFinder,
    ) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared::new(store, options, find_kind)?);
        let mut held = shared.store.ownership();
        let now = held.borrow_and_update().clone();
        holding::step(&shared, &now).await?;
        let tasks = [
            tokio::spawn(holding::follow(shared.clone(), held)),
            tokio::spawn(inbox::work(shared.clone())),
            tokio::spawn(deliver::work(shared.clone())),
            tokio::spawn(dispatch(shared.clone())),
        ];
        shared.tasks.lock().extend(tasks);
        Ok(Self { shared })
    }

    /// Stops every worker after the request it is in.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        *self.shared.working.write() = holding::Working::default();
        let tasks = std::mem::take(&mut *self.shared.tasks.lock());
        for task in tasks {
            // A panicked task has been reported by the runtime; there is nothing to add.
            let _ = task.await;
        }
        let links: Vec<Arc<Link>> = self.shared.links.lock().values().cloned().collect();
        for link in links {
            link.finish().await;
        }
    }

    /// Connects a channel: checks the settings, verifies the connection, keeps it, reads the
    /// first base of every mapped listing, and starts its worker.
    ///
    /// # Errors
    /// What is wrong with the settings, the endpoint or the credentials; nothing is kept then.
    pub async fn enable(
        &self,
        org: &Org,
        channel: &ChannelId,
        enable: Enable,
    ) -> Result<Connection, EngineError> {
        self.must_hold(org)?;
        let shared = &self.shared;
        let earlier = shared.store.connection(org, channel).await?;
        let confirmed = enable.confirmed;
        let draft = self.draft(org, channel, enable, earlier.as_ref()).await?;
        if let Some(earlier) = earlier.as_ref().filter(|_| !confirmed) {
            self.check_change(org, earlier, &draft.row).await?;
        }
        let Draft { mut row, settings, kind } = draft;
        if !kind.awaits_consent(&settings) {
            return self.establish(org, channel, row, settings).await;
        }
        row.state = ConnectionState::Paused;
        let words = "waiting for the account to authorize the connection at the vendor's page";
        row.note_trouble(row.updated_at, AUTHORIZATION_NEEDED, words.to_owned());
        let vault = Vault::of_draft();
        let link = shared.open(org, &row, settings.clone(), vault)?;
        let row = self.keep(link.clone(), row, settings).await?;
        start_own(shared, link).await;
        Ok(row)
    }

    /// Refuses a change of a connection that would at once change more of what it shows than one
    /// act may.
    async fn check_change(
        &self,
        org: &Org,
        before: &Connection,
        after: &Connection,
    ) -> Result<(), EngineError> {
        let is_same = before.rules == after.rules && before.sends() == after.sends();
        if is_same || !after.publishes() {
            return Ok(());
        }
        let impact = self.impact_of_row(org, before, after).await?;
        self.check_radius(org, after, impact).await
    }

    /// Verifies a connection that is about to be made or renewed, keeps it, and starts it.
    pub(crate) async fn establish(
        &self,
        org: &Org,
        channel: &ChannelId,
        row: Connection,
        settings: Settings,
    ) -> Result<Connection, EngineError> {
        let shared = &self.shared;
        let old = shared.link(org, channel);
        let vault = old.as_ref().and_then(|old| shared_vault(old, &settings));
        let vault = vault.unwrap_or_else(Vault::of_draft);
        let link = shared.open(org, &row, settings.clone(), vault.clone())?;
        let mut channel_fulfilled = false;
        let query = ListingQuery { channel: Some(channel.clone()), ..ListingQuery::default() };
        let look = |view: trueup_store::ListingView| {
            channel_fulfilled |= view.mapping.channel_fulfilled;
        };
        shared.each_listing(org, query, look).await?;
        let wants = Wants { orders: row.sync_orders, channel_fulfilled };
        let missing = link.channel.missing(&link.transport, wants).await;
        let missing = missing.map_err(EngineError::Channel)?;
        if !missing.is_empty() {
            return Err(EngineError::Incomplete(missing));
        }
        let connected = link.channel.connect(&link.transport).await;
        let connected = connected.map_err(EngineError::Channel)?;
        let (row, settings) = complete(row, settings, connected);
        let link = shared.open(org, &row, settings.clone(), vault)?;
        let row = self.keep(link.clone(), row, settings).await?;
        start_own(shared, link.clone()).await;
        // What stands in the way is in the history and tried again; polling is enough till then.
        let _ = upkeep::look(shared, &link, upkeep::Look::First).await;
        if row.sync_inventory && !row.dry_run {
            self.read_all(&link).await?;
        }
        Ok(row)
    }

    /// Writes the row of a link that takes the place of the one before, and ends that one.
    async fn keep(
        &self,
        link: Arc<Link>,
        mut row: Connection,
        settings: Settings,
    ) -> Result<Connection, EngineError> {
        let shared = &self.shared;
        let (org, channel) = (&link.org, &link.id);
        let old = shared.link(org, channel);
        let now = shared.now();
        let put = |known: Option<Connection>| {
            if let Some(old) = &old {
                old.transport.vault().set_at_rest(false);
            }
            let vault = link.transport.vault();
            vault.set_at_rest(true);
            let mut credentials = settings.credentials;
            credentials.extend(vault.renewed());
            row.sealed_credentials = shared.sealer.seal_credentials(&credentials);
            match known {
                // What was sold while nobody had authorized it is in the first count.
                Some(known) if is_waiting(&known) => Connection { created_at: now, ..row },
                Some(known) => Connection {
                    created_at: known.created_at,
                    last_sync: known.last_sync,
                    orders_seen_to: known.orders_seen_to,
                    blast_radius: known.blast_radius,
                    ..row
                },
                None => row,
            }
        };
        let row = shared.put_connection(org, channel, put).await?;
        if let Some(old) = shared.link(org, channel) {
            old.finish().await;
        }
        Ok(row)
    }

    /// Pauses a channel: nothing is sent, work is kept.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], or the store's.
    pub async fn disable(&self, org: &Org, channel: &ChannelId) -> Result<Connection, EngineError> {
        self.switch(org, channel, ConnectionState::Paused).await
    }

    /// Lets a paused channel go on.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], [`EngineError::AuthorizationNeeded`], or the store's.
    pub async fn resume(&self, org: &Org, channel: &ChannelId) -> Result<Connection, EngineError> {
        self.switch(org, channel, ConnectionState::Active).await
    }

    async fn switch(
        &self,
        org: &Org,
        channel: &ChannelId,
        state: ConnectionState,
    ) -> Result<Connection, EngineError> {
        self.must_hold(org)?;
        let now = self.shared.now();
        let edit = |row: &mut Connection| {
            if row.state != state {
                row.state = state;
                row.updated_at = now;
            }
        };
        if state == ConnectionState::Active && is_waiting(&self.row(org, channel).await?) {
            return Err(EngineError::AuthorizationNeeded);
        }
        let row = self.shared.edit_connection(org, channel, edit).await?;
        let row = row.ok_or_else(|| EngineError::ChannelNotFound(channel.clone()))?;
        if let Some(link) = self.shared.link(org, channel) {
            if state == ConnectionState::Active && row.sync_orders {
                link.want_poll(now);
            }
            link.ring_sweep();
            link.hooks_bell.notify_one();
        }
        Ok(row)
    }

    /// Removes a channel with its mappings.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], or the store's.
    pub async fn remove(&self, org: &Org, channel: &ChannelId) -> Result<(), EngineError> {
        self.must_hold(org)?;
        let shared = &self.shared;
        let link = shared.links.lock().remove(&(org.clone(), channel.clone()));
        if let Some(link) = &link {
            if let Err(error) = upkeep::farewell(shared, link).await {
                tracing::warn!(%org, %channel, %error, "the vendor could not be told");
            }
            link.clone().finish().await;
            if let Some(heir) = shared.siblings(link).first() {
                shared.move_orders(link, heir).await?;
            }
        }
        shared.release_held(org, channel).await?;
        let deleted = {
            let _election = shared.scopes.elections.write().await;
            shared.store.delete_connection(org, channel).await?
        };
        // What an order that was in hand has held meanwhile.
        shared.release_held(org, channel).await?;
        if let Some(link) = &link {
            shared.wake_siblings(link);
        }
        if deleted { Ok(()) } else { Err(EngineError::ChannelNotFound(channel.clone())) }
    }

    /// Returns what a listing has used of its vendor's day; `None` where nobody counts.
    #[must_use]
    pub fn revisions(&self, org: &Org, view: &ListingView) -> Option<Revisions> {
        let link = self.shared.link(org, &view.mapping.channel)?;
        let now = self.shared.now();
        let budget = link.revisions_of(view, now)?;
        let postponed_until = if view.is_dirty() { link.postponed(view, now) } else { None };
        Some(Revisions {
            used_today: budget.used,
            per_day: budget.per_day,
            day_ends: budget.day_ends,
            postponed_until,
        })
    }

    /// Returns since when a listing has been in a bulk batch that its vendor has not processed;
    /// until it has, the listing is told nothing else.
    #[must_use]
    pub fn in_feed_since(&self, org: &Org, view: &trueup_store::ListingView) -> Option<Timestamp> {
        let link = self.shared.link(org, &view.mapping.channel)?;
        let fed = link.fed.lock();
        fed.get(&view.mapping.key).copied()
    }

    /// Checks mapping drafts against the channel's kind, all or none, and keeps them.
    ///
    /// # Errors
    /// [`EngineError::Mapping`] with everything that is wrong; nothing is kept then.
    pub async fn map(
        &self,
        org: &Org,
        channel: &ChannelId,
        drafts: Vec<MappingDraft>,
    ) -> Result<Vec<Mapping>, EngineError> {
        let mappings = self.check_mappings(org, channel, drafts).await?;
        let (_, link) = self.connected(org, channel).await?;
        self.shared.keep_mappings(&link, mappings.clone()).await?;
        Ok(mappings)
    }

    /// Removes a SKU's mappings on a channel but those of these listings; returns how many it
    /// removed.
    ///
    /// # Errors
    /// The store's.
    pub async fn unmap(
        &self,
        org: &Org,
        channel: &ChannelId,
        sku: &Sku,
        but: BTreeSet<ListingKey>,
    ) -> Result<usize, EngineError> {
        Ok(self.shared.delete_mappings(org, channel, sku, but).await?)
    }

    /// Checks mapping drafts as [`Engine::map`] does, and keeps nothing.
    ///
    /// # Errors
    /// [`EngineError::Mapping`] with everything that is wrong.
    pub async fn check_mappings(
        &self,
        org: &Org,
        channel: &ChannelId,
        drafts: Vec<MappingDraft>,
    ) -> Result<Vec<Mapping>, EngineError> {
        let (_, link) = self.connected(org, channel).await?;
        let mut errors = Vec::new();
        let mut mappings: Vec<Mapping> = Vec::with_capacity(drafts.len());
        let mut first: BTreeMap<ListingKey, usize> = BTreeMap::new();
        for (at, draft) in drafts.into_iter().enumerate() {
            match link.kind.listing(&link.settings, draft.fields) {
                Ok((key, fields)) => {
                    if let Some(other) = first.insert(key.clone(), at) {
                        let detail = format!("is the same listing as that of mapping {other}");
                        let setting = "listing".to_owned();
                        errors.push((at, SettingError { setting, detail }));
                    }
                    mappings.push(Mapping {
                        channel: channel.clone(),
                        key,
                        sku: draft.sku,
                        fields,
                        strategy: draft.strategy,
                        rules: draft.rules,
                        channel_fulfilled: draft.channel_fulfilled,
                        enabled: draft.enabled,
                    });
                }
                Err(wrong) => errors.extend(wrong.into_iter().map(|error| (at, error))),
            }
        }
        if errors.is_empty() {
            errors = self.shared.clashes(&link, &mappings).await?;
        }
        if !errors.is_empty() {
            return Err(EngineError::Mapping(errors));
        }
        Ok(mappings)
    }

    /// Reads the channel's catalogue and maps what matches by SKU; returns what was found, or
    /// what was found so far when the time is up. The discovery goes on then, and also when
    /// nobody waits any more; asked for again meanwhile, it is the same one.
    ///
    /// # Errors
    /// [`EngineError::Channel`] when the catalogue cannot be read,
    /// [`EngineError::DiscoveryUnderWay`] when one of the other kind is under way.
    pub async fn discover(
        &self,
        org: &Org,
        channel: &ChannelId,
        dry_run: bool,
        at_most: Duration,
    ) -> Result<Discovery, EngineError> {
        let (_, link) = self.connected(org, channel).await?;
        let discovering = discover::begin(&self.shared, &link, dry_run)?;
        discovering.wait(at_most).await?;
        Box::pin(discover::found(&self.shared, &link, &discovering.run)).await
    }

    /// Begins a push run and returns its id, which the caller may choose beforehand.
    ///
    /// # Errors
    /// [`EngineError::Paused`], or that there is no such channel, or that too many runs wait.
    pub async fn push(
        &self,
        org: &Org,
        channel: &ChannelId,
        scope: PushScope,
        run_id: Option<String>,
    ) -> Result<String, EngineError> {
        if let Some(id) = &run_id
            && self.shared.store.run(org, id).await?.is_some()
        {
            return Ok(id.clone());
        }
        let (row, link) = self.running(org, channel).await?;
        let run = run::new_run(&self.shared, &link, run::PUSH, run_id, row.dry_run);
        self.begin(&link, run, |run| Job::Push { run, scope, agreed: None }).await
    }

    /// Begins a run that says what a push would tell, and tells nothing; returns its id.
    ///
    /// # Errors
    /// As [`Engine::push`].
    pub async fn rehearse_push(
        &self,
        org: &Org,
        channel: &ChannelId,
        scope: PushScope,
        run_id: Option<String>,
    ) -> Result<String, EngineError> {
        let (_, link) = self.running(org, channel).await?;
        let run = run::new_run(&self.shared, &link, run::PUSH, run_id, true);
        self.begin(&link, run, |run| Job::Push { run, scope, agreed: None }).await
    }

    /// Begins a pull run and returns its id.
    ///
    /// # Errors
    /// [`EngineError::Paused`], or that there is no such channel, or that too many runs wait.
    pub async fn pull(
        &self,
        org: &Org,
        channel: &ChannelId,
        request: PullRequest,
    ) -> Result<String, EngineError> {
        let (row, link) = self.running(org, channel).await?;
        let dry_run = request.dry_run || row.dry_run;
        let run = run::new_run(&self.shared, &link, run::PULL, None, dry_run);
        self.begin(&link, run, |run| Job::Pull { run, request, agreed: None }).await
    }

    pub(crate) async fn begin(
        &self,
        link: &Link,
        run: Run,
        job: impl FnOnce(Run) -> Job,
    ) -> Result<String, EngineError> {
        let store = &self.shared.store;
        let id = run.id.clone();
        store.put_run(&link.org, run.clone()).await?;
        store.announce(Change::Run { org: link.org.clone(), id: id.clone() });
        if link.ring_job(job(run.clone())) {
            return Ok(id);
        }
        let (now, error) = (self.shared.now(), Some("too many runs wait".to_owned()));
        let status = RunStatus::Failed;
        store.put_run(&link.org, Run { status, error, finished_at: Some(now), ..run }).await?;
        Err(StoreError::Overloaded.into())
    }

    /// Returns a run, waiting for its end at most so long.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], or the store's.
    pub async fn wait_run(
        &self,
        org: &Org,
        id: &str,
        at_most: Duration,
    ) -> Result<Run, EngineError> {
        let until = Instant::now() + at_most;
        loop {
            let mut ended = std::pin::pin!(self.shared.run_ended.notified());
            ended.as_mut().enable();
            let run = self.shared.store.run(org, id).await?;
            let run = run.ok_or(EngineError::NotFound("run"))?;
            if run.status != RunStatus::Running || Instant::now() >= until {
                return Ok(run);
            }
            // Late or early, the run is looked at again.
            let _ = tokio::time::timeout_at(until, ended).await;
        }
    }

    /// Lets a held run go on as an operator agreed, and returns it. What it would do is computed
    /// anew: it is held again where that has grown.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotHeld`], or as [`Engine::push`].
    pub async fn confirm_run(&self, org: &Org, id: &str, actor: &str) -> Result<Run, EngineError> {
        let _one = self.shared.held_runs.lock().await;
        let held = self.held_run(org, id).await?;
        let (_, link) = self.running(org, &held.channel).await?;
        let agreed = Some(Agreed::to(&held));
        let run = Run {
            status: RunStatus::Running,
            counters: BTreeMap::new(),
            warnings: json!([]),
            items: json!([]),
            error: None,
            request: json!({}),
            ..held.clone()
        };
        let begun = run.clone();
        let job = match request::read(&held.request) {
            Some(Request::Push(scope)) => Job::Push { run, scope, agreed },
            Some(Request::Pull(request)) => Job::Pull { run, request, agreed },
            Some(Request::Discover) => {
                discover::confirm(&self.shared, &link, run)?.wait(Duration::ZERO).await?;
                self.note_held(org, &begun, "confirmed", actor).await;
                return Ok(begun);
            }
            None => return Err(EngineError::NotHeld),
        };
        let store = &self.shared.store;
        store.put_run(org, begun.clone()).await?;
        if !link.ring_job(job) {
            store.put_run(org, held).await?;
            return Err(StoreError::Overloaded.into());
        }
        self.note_held(org, &begun, "confirmed", actor).await;
        Ok(begun)
    }

    /// Gives a held run up: nothing of it is done.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotHeld`], or the store's.
    pub async fn cancel_run(&self, org: &Org, id: &str, actor: &str) -> Result<Run, EngineError> {
        self.must_hold(org)?;
        let _one = self.shared.held_runs.lock().await;
        let held = self.held_run(org, id).await?;
        let finished_at = Some(self.shared.now());
        let run = Run { status: RunStatus::Cancelled, finished_at, request: json!({}), ..held };
        self.shared.store.put_run(org, run.clone()).await?;
        self.note_held(org, &run, "cancelled", actor).await;
        Ok(run)
    }

    async fn held_run(&self, org: &Org, id: &str) -> Result<Run, EngineError> {
        let run = self.shared.store.run(org, id).await?.ok_or(EngineError::NotFound("run"))?;
        if run.status == RunStatus::Held { Ok(run) } else { Err(EngineError::NotHeld) }
    }

    async fn note_held(&self, org: &Org, run: &Run, status: &str, actor: &str) {
        let detail = json!({ "by": actor });
        let entry = self.shared.entry(&run.channel, &run.operation, status, detail);
        self.shared.note(org, vec![HistoryEntry { run: Some(run.id.clone()), ..entry }]).await;
        self.shared.store.announce(Change::Run { org: org.clone(), id: run.id.clone() });
    }

    /// Says how much of a connection one act may change without being asked.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], or the store's.
    pub async fn set_blast_radius(
        &self,
        org: &Org,
        channel: &ChannelId,
        limits: BlastRadius,
    ) -> Result<Connection, EngineError> {
        self.must_hold(org)?;
        let now = self.shared.now();
        let edit = |row: &mut Connection| {
            if row.blast_radius != limits {
                row.blast_radius = limits;
                row.updated_at = now;
            }
        };
        let row = self.shared.edit_connection(org, channel, edit).await?;
        row.ok_or_else(|| EngineError::ChannelNotFound(channel.clone()))
    }

    /// Ends a conflict as an operator decided.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::AlreadyResolved`], or what the ledger refuses.
    pub async fn resolve(
        &self,
        org: &Org,
        conflict: u64,
        resolution: Resolution,
        note: Option<String>,
        actor: &str,
    ) -> Result<trueup_store::Conflict, EngineError> {
        let shared = &self.shared;
        let found = shared.store.conflict(org, conflict).await?;
        let found = found.ok_or(EngineError::NotFound("conflict"))?;
        if found.resolved.is_some() {
            return Err(EngineError::AlreadyResolved);
        }
        let command = Command::Resolve {
            channel: found.channel.clone(),
            key: found.key.clone(),
            resolution,
            note: note.as_deref().map(Arc::from),
        };
        match shared.submit_as(org, command, Source::Api, actor).await {
            Ok(_) => {}
            Err(EngineError::Rejected(Rejection::ConflictNotFound)) => {
                return Err(EngineError::AlreadyResolved);
            }
            Err(error) => return Err(error),
        }
        let word = match resolution {
            Resolution::Master => "master",
            Resolution::Channel => "channel",
            Resolution::Quantity(_) => "quantity",
        };
        let resolved = Resolved {
            at: shared.now(),
            by: actor.to_owned(),
            resolution: word.to_owned(),
            note: note.clone(),
        };
        shared.store.note_resolved(org, conflict, resolved.clone()).await?;
        let entry = HistoryEntry {
            id: 0,
            at: resolved.at,
            operation: "inventory_conflict".to_owned(),
            channel: Some(found.channel.clone()),
            sku: Some(found.sku.clone()),
            status: "resolved".to_owned(),
            run: None,
            detail: json!({
                "conflictId": conflict, "resolution": word, "by": actor, "note": note,
                "master": found.master, "channel": found.observed,
                "expected": found.expected, "base": found.base,
            }),
        };
        shared.note(org, vec![entry]).await;
        if let Some(link) = shared.link(org, &found.channel) {
            link.ring_dirty([found.sku.clone()]);
        }
        Ok(trueup_store::Conflict { resolved: Some(resolved), ..found })
    }

    /// Verifies a webhook and keeps it durably; the work is done after.
    ///
    /// # Errors
    /// [`EngineError::Webhook`] when it is not let in; nothing is kept then.
    pub async fn receive(
        &self,
        org: &Org,
        channel: &ChannelId,
        headers: &http::HeaderMap,
        body: &[u8],
    ) -> Result<Received, EngineError> {
        let link = match self.shared.link(org, channel) {
            Some(link) => link,
            None if self.shared.is_working_for(org) => self.connected(org, channel).await?.1,
            None => self.shared.door(org, self.row(org, channel).await?)?,
        };
        inbox::receive(&self.shared, &link, headers, body).await
    }

    /// Answers eBay's endpoint challenge for a connection: the `challengeResponse`.
    ///
    /// # Errors
    /// [`EngineError::Webhook`] when the connection has no verification token.
    pub async fn challenge(
        &self,
        org: &Org,
        channel: &ChannelId,
        code: &str,
        url: &str,
    ) -> Result<String, EngineError> {
        let row = self.row(org, channel).await?;
        let settings = self.shared.settings_of(&row)?;
        let token = settings.credentials.get("verificationToken");
        let token = token.ok_or(EngineError::Webhook(trueup_channels::WebhookError::NoSecret))?;
        Ok(trueup_channels::ebay::challenge_response(code, token.expose(), url))
    }

    /// Encrypts a secret for the store.
    #[must_use]
    pub fn seal(&self, secret: &Secret) -> Vec<u8> {
        self.shared.sealer.seal(Purpose::SigningSecret, secret.expose().as_bytes())
    }

    /// Checks an address that events are to be sent to (`https`, or anything public; private
    /// and loopback only with `allow_private_endpoints`).
    ///
    /// # Errors
    /// [`EngineError::EndpointNotAllowed`].
    pub async fn check_address(&self, url: &str) -> Result<(), EngineError> {
        address::check_url(url, self.shared.reach).await.map_err(|error| not_allowed(&error))?;
        Ok(())
    }

    /// Sends a dead or delivered event again.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], or the store's.
    pub async fn replay_delivery(&self, org: &Org, id: &str) -> Result<(), EngineError> {
        let store = &self.shared.store;
        for subscription in store.subscriptions(org).await? {
            let mut before: Option<String> = None;
            loop {
                let page =
                    store.deliveries(org, &subscription.id, before.as_deref(), DELIVERIES_PAGE);
                let page = page.await?;
                before = page.items.last().map(|delivery| delivery.id.clone());
                if let Some(mut found) = page.items.into_iter().find(|row| row.id == id) {
                    found.state = DeliveryState::Pending;
                    found.attempts = 0;
                    found.next_at = self.shared.now();
                    self.shared.desk.put_delivery(org, found).await?;
                    self.shared.deliveries_bell.notify_one();
                    return Ok(());
                }
                if !page.more || before.is_none() {
                    break;
                }
            }
        }
        Err(EngineError::NotFound("delivery"))
    }

    /// Waits until nothing owes a push, waits to be verified or stands in the inbox, at most so
    /// long; returns whether all is quiet. Paused channels and conflicts do not count.
    pub async fn quiesce(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut quiet_before = false;
        loop {
            let quiet = self.is_quiet().await;
            if quiet && quiet_before {
                return true;
            }
            quiet_before = quiet;
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(QUIET_LOOK).await;
        }
    }

    /// Reads a channel's orders now and books them; returns whether they were heard in time.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], or the store's.
    pub async fn hear_orders(
        &self,
        org: &Org,
        channel: &ChannelId,
        at_most: Duration,
    ) -> Result<bool, EngineError> {
        let (row, link) = self.running(org, channel).await?;
        if !row.sync_orders {
            return Ok(true);
        }
        let since = self.shared.now();
        link.want_poll(since);
        let until = Instant::now() + at_most;
        loop {
            if link.heard.lock().polled_at.is_some_and(|at| at >= since) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(QUIET_LOOK).await;
        }
    }

    /// Asks the store for everything that owes a push, on every connection of an org: after
    /// rows were changed past the engine.
    pub fn sweep(&self, org: &Org) {
        for link in self.shared.links_of(org) {
            link.ring_sweep();
        }
    }

    /// Returns whether the workers of a shard are here at this instant.
    #[must_use]
    pub fn works_for(&self, shard: Shard) -> bool {
        self.shared.working.read().is_for(shard)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn is_quiet(&self) -> bool {
        let store = &self.shared.store;
        match store.inbox_waiting(Timestamp::MAX, 1).await {
            Ok(waiting) if waiting.is_empty() => {}
            Ok(_) | Err(_) => return false,
        }
        let links: Vec<Arc<Link>> = self.shared.links.lock().values().cloned().collect();
        for link in links {
            match self.link_is_quiet(&link).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return false,
            }
        }
        true
    }

    async fn link_is_quiet(&self, link: &Link) -> Result<bool, EngineError> {
        let row = self.shared.store.connection(&link.org, &link.id).await?;
        let Some(row) = row.filter(|row| row.state == ConnectionState::Active) else {
            return Ok(true);
        };
        if !link.is_quiet() {
            return Ok(false);
        }
        if !row.sync_inventory || row.dry_run {
            return Ok(true);
        }
        let mut owes = false;
        let query =
            ListingQuery { channel: Some(link.id.clone()), dirty: true, ..ListingQuery::default() };
        let look = |view: trueup_store::ListingView| {
            owes |= plan::barred(&view).is_none() && !plan::is_parked(&view);
        };
        self.shared.each_listing(&link.org, query, look).await?;
        Ok(!owes)
    }

    // --- What the methods above are made of ------------------------------------------------

    /// Returns an error where another node works for the org.
    pub(crate) fn must_hold(&self, org: &Org) -> Result<(), EngineError> {
        if self.shared.is_working_for(org) { Ok(()) } else { Err(StoreError::Fenced.into()) }
    }

    pub(crate) async fn row(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<Connection, EngineError> {
        let row = self.shared.store.connection(org, channel).await?;
        row.ok_or_else(|| EngineError::ChannelNotFound(channel.clone()))
    }

    async fn connected(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<(Connection, Arc<Link>), EngineError> {
        let row = self.row(org, channel).await?;
        if let Some(link) = self.shared.link(org, channel) {
            return Ok((row, link));
        }
        self.must_hold(org)?;
        // It could not be opened at the start: say what is wrong with it, or start it now.
        let settings = self.shared.settings_of(&row)?;
        let link = self.shared.open(org, &row, settings, Vault::of_row())?;
        start_own(&self.shared, link.clone()).await;
        Ok((row, link))
    }

    pub(crate) async fn running(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<(Connection, Arc<Link>), EngineError> {
        let (row, link) = self.connected(org, channel).await?;
        match row.state {
            ConnectionState::Active => Ok((row, link)),
            ConnectionState::Paused => Err(EngineError::Paused),
        }
    }

    /// Makes the row that enabling would keep, from what was asked and what was there.
    async fn draft(
        &self,
        org: &Org,
        channel: &ChannelId,
        enable: Enable,
        earlier: Option<&Connection>,
    ) -> Result<Draft, EngineError> {
        let shared = &self.shared;
        let known_kind = earlier.map(|row| row.kind.clone());
        let kind = enable.kind.or(known_kind).unwrap_or_else(|| channel.as_str().to_owned());
        let kind = (shared.find_kind)(&kind).ok_or(EngineError::UnknownKind(kind))?;
        if let Some(endpoint) = &enable.endpoint {
            address::check_url(endpoint, shared.reach)
                .await
                .map_err(|error| not_allowed(&error))?;
        }
        let other_kind = earlier.filter(|row| row.kind != kind.name());
        if let Some(row) = other_kind {
            // Its listings are another vendor's.
            let detail = format!("is {} here; delete the channel to connect another", row.kind);
            let setting = "kind".to_owned();
            return Err(EngineError::Settings(vec![SettingError { setting, detail }]));
        }
        // Credentials are not carried to another place: whoever may write settings may not
        // read secrets. Those that were sealed with a lost key are of no use.
        let same_place = |row: &&Connection| {
            let host = |fields: &BTreeMap<String, serde_json::Value>| fields.get("shop").cloned();
            row.endpoint == enable.endpoint && host(&row.settings) == host(&enable.settings)
        };
        let mut credentials = match earlier.filter(same_place) {
            Some(row) => {
                shared.sealer.open_credentials(&row.sealed_credentials).unwrap_or_default()
            }
            None => BTreeMap::new(),
        };
        credentials.extend(enable.credentials);
        let settings = Settings { fields: enable.settings, credentials };
        let mut errors = unknown_settings(kind.setting_names(), &settings);
        if let Err(wrong) = kind.open(&settings) {
            errors.extend(wrong);
        }
        if !errors.is_empty() {
            return Err(EngineError::Settings(errors));
        }
        let now = shared.now();
        let row = Connection {
            id: channel.clone(),
            kind: kind.name().to_owned(),
            state: ConnectionState::Active,
            sync_inventory: enable.sync_inventory,
            sync_orders: enable.sync_orders.unwrap_or(true),
            strategy: enable.strategy,
            rules: enable.rules,
            poll_interval_minutes: enable.poll_interval_minutes,
            dry_run: enable.dry_run,
            endpoint: enable.endpoint,
            settings: settings.fields.clone(),
            sealed_credentials: Vec::new(),
            created_at: now,
            updated_at: now,
            last_sync: None,
            last_error: None,
            orders_seen_to: None,
            restock: enable.restock,
            reason: None,
            blast_radius: earlier.map(|row| row.blast_radius).unwrap_or_default(),
        };
        tracing::info!(%org, %channel, kind = kind.name(), "enabling a channel");
        Ok(Draft { row, settings, kind })
    }

    /// Asks that every mapped listing be read: rules may have changed, and a number that is
    /// not known cannot be compared.
    async fn read_all(&self, link: &Link) -> Result<(), EngineError> {
        let query = ListingQuery { channel: Some(link.id.clone()), ..ListingQuery::default() };
        let look = |view: trueup_store::ListingView| {
            link.ring_hint(view.mapping.key, view.mapping.sku);
        };
        self.shared.each_listing(&link.org, query, look).await
    }
}

/// A connection that is about to be made.
struct Draft {
    row: Connection,
    settings: Settings,
    kind: &'static dyn Kind,
}

/// Returns whether a connection waits for the account's authorization.
pub(crate) fn is_waiting(row: &Connection) -> bool {
    row.reason.as_ref().is_some_and(|reason| reason.code == AUTHORIZATION_NEEDED)
}

/// Adds what connecting found.
fn complete(
    mut row: Connection,
    mut settings: Settings,
    connected: Connected,
) -> (Connection, Settings) {
    for (name, value) in connected.found {
        settings.fields.entry(name).or_insert(serde_json::Value::String(value));
    }
    row.settings.clone_from(&settings.fields);
    (row, settings)
}

/// Returns the vault of a running link where settings stand on the very refresh token that it
/// holds: used up by one, it would be of no use to the other.
fn shared_vault(link: &Link, settings: &Settings) -> Option<Arc<Vault>> {
    let given = |name: &str| settings.credentials.get(name);
    let is_same = link.transport.credential(REFRESH_TOKEN).as_ref() == given(REFRESH_TOKEN);
    let vault = link.transport.vault();
    let is_newest = vault.renewed().iter().all(|(name, value)| given(name) == Some(value));
    (is_same && is_newest).then(|| vault.clone())
}

fn unknown_settings(known: &[&str], settings: &Settings) -> Vec<SettingError> {
    let names = settings.fields.keys().cloned();
    let credentials = settings.credentials.keys().map(|name| format!("credentials.{name}"));
    let unknown = names.chain(credentials).filter(|name| !known.contains(&name.as_str()));
    let error = |setting| SettingError {
        setting,
        detail: format!("is not a setting of this kind: {}", known.join(", ")),
    };
    unknown.map(error).collect()
}

/// Starts a link of an org that is worked for here, unless that has ended meanwhile.
async fn start_own(shared: &Arc<Shared>, link: Arc<Link>) {
    start_link(shared, link.clone()).await;
    if !shared.is_working_for(&link.org) {
        shared.links.lock().remove(&(link.org.clone(), link.id.clone()));
        link.cut_off().await;
    }
}

/// Starts the tasks of a link and puts it in the place of the one before.
pub(crate) async fn start_link(shared: &Arc<Shared>, link: Arc<Link>) {
    let key = (link.org.clone(), link.id.clone());
    if let Err(error) = shared.name_scopes(&link).await {
        let (org, channel) = (&link.org, &link.id);
        tracing::warn!(%org, %channel, %error, "the scopes of its listings could not be noted");
    }
    let worker = Worker::new(shared.clone(), link.clone());
    let tasks = [
        tokio::spawn(worker.run()),
        tokio::spawn(orders::listen(shared.clone(), link.clone())),
        tokio::spawn(upkeep::keep(shared.clone(), link.clone())),
        tokio::spawn(queue::consume(shared.clone(), link.clone())),
        tokio::spawn(limits::watch(shared.clone(), link.clone())),
    ];
    link.tasks.lock().extend(tasks);
    let old = shared.links.lock().insert(key, link);
    if let Some(old) = old {
        old.finish().await;
    }
}

pub(crate) async fn note_broken(
    shared: &Shared,
    org: &Org,
    row: &Connection,
    error: &EngineError,
) -> Result<(), EngineError> {
    let words = match error {
        EngineError::Settings(wrong) => {
            let each = wrong.iter().map(|wrong| format!("{}: {}", wrong.setting, wrong.detail));
            format!("{error}: {}", each.collect::<Vec<_>>().join("; "))
        }
        _ => error.to_string(),
    };
    tracing::warn!(%org, channel = %row.id, words, "a connection could not be opened");
    let at = shared.now();
    shared.edit_connection(org, &row.id, |row| row.note_trouble(at, "settings", words)).await?;
    Ok(())
}

/// Rings the connections of SKUs that owe a push.
async fn dispatch(shared: Arc<Shared>) {
    loop {
        let began = tokio::time::Instant::now();
        let dirty = tokio::select! {
            () = shared.stop.cancelled() => return,
            dirty = shared.store.wait_dirty() => dirty,
        };
        let mut by_org: BTreeMap<Org, Vec<Sku>> = BTreeMap::new();
        for (org, sku) in dirty {
            by_org.entry(org).or_default().push(sku);
        }
        for (org, skus) in by_org {
            for link in shared.links_of(&org) {
                link.ring_dirty(skus.iter().cloned());
            }
        }
        // Ledger events for subscribers come with the same commits.
        shared.deliveries_bell.notify_one();
        // Under load every commit rings; once in a while is enough for channels.
        tokio::time::sleep_until(began + DISPATCH_PAUSE).await;
    }
}

/// What a listing's status is called in `GET /inventory/{sku}/channels`.
#[must_use]
pub fn listing_status(view: &trueup_store::ListingView, connection: &Connection) -> &'static str {
    let state = &view.state;
    let publishes = connection.sync_inventory && !connection.dry_run;
    if connection.state == ConnectionState::Paused || !view.mapping.enabled || view.paused {
        "paused"
    } else if state.follows {
        "shared"
    } else if state.in_conflict {
        "conflict"
    } else if plan::is_parked(view) {
        "error"
    } else if view.mapping.channel_fulfilled {
        if state.observed.is_some() { "ok" } else { "stale" }
    } else if state.in_flight.is_some() {
        "pending"
    } else if is_shown(view) {
        "ok"
    } else if publishes && view.is_dirty() {
        "pending"
    } else {
        "stale"
    }
}

/// Returns what a listing should show; `None` where its SKU is not in the ledger.
#[must_use]
pub fn expected_of(view: &trueup_store::ListingView) -> Option<i64> {
    plan::expected(view, u64::MAX)
}

/// Returns the newest reading of a listing with what it should show, where the two differ.
///
/// A reading from before the last acknowledged push says nothing about now.
#[must_use]
pub fn drift_of(view: &trueup_store::ListingView, quantity_max: u64) -> Option<(Observed, i64)> {
    let is_newest = |at| view.state.acked_at.is_none_or(|acked| at >= acked);
    let observed = view.state.observed.filter(|observed| is_newest(observed.at))?;
    let expected = plan::expected(view, quantity_max)?;
    (impact::takes_part(view) && observed.quantity != expected).then_some((observed, expected))
}

/// Returns whether the channel is known to show what it should.
fn is_shown(view: &trueup_store::ListingView) -> bool {
    let expected = plan::expected(view, u64::MAX);
    expected.is_some() && impact::shown(view) == expected
}

/// Returns a strategy's word in the API.
#[must_use]
pub fn strategy_word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::MasterWins => "master_wins",
        Strategy::ChannelWins => "channel_wins",
        Strategy::LowerWins => "lower_wins",
        Strategy::Manual => "manual",
    }
}

/// Marks a listing key in words for people.
#[must_use]
pub fn key_words(key: &ListingKey) -> &str {
    key.as_str()
}
