//! What all workers share: the store, the keys, the links, and the helpers over them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trueup_channels::{
    ChannelError, ChannelErrorKind, Kind, ListingNote, Secret, SettingError, Settings,
};
use trueup_core::{Answer, ChannelId, Command, Org, Sku, Source, Timestamp};
use trueup_store::{
    Connection, ConnectionState, FieldsNote, HistoryEntry, ListingQuery, ListingView, Mapping,
    Outcome, Run, RunStatus, Shard, Store, StoreError, Submission,
};

use crate::address::{self, AddressError, Reach};
use crate::barrier::Barrier;
use crate::caller::{self, Keeper, Transport, TransportParts, Vault};
use crate::engine::{EngineError, EngineOptions};
use crate::holding::Working;
use crate::impact;
use crate::link::Link;
use crate::orders::passing;
use crate::plan;
use crate::scopes::Scopes;
use crate::seal::Sealer;
use crate::worker::refuses_us;

/// How kinds of channels are found by name.
pub type KindFinder = fn(&str) -> Option<&'static dyn Kind>;

/// The most listings that one read of the store asks for.
pub(crate) const VIEWS_MAX: usize = 500;
/// The most SKUs of which listings are asked for at once.
pub(crate) const SKUS_MAX: usize = 500;
/// How often in a row a vendor may refuse our credentials before the connection is paused.
pub const REFUSALS_MAX: u32 = 3;
/// The most links that are kept to let webhooks in for other nodes.
const DOORS_MAX: usize = 1_000;
/// Who the ledger says did it.
const ACTOR: &str = "sync";

/// Links by which webhooks are let in, with the rows that they were opened by.
type Doors = BTreeMap<(Org, ChannelId), (Connection, Arc<Link>)>;

pub(crate) struct Shared {
    /// The store as workers use it: what they write is refused once the work is another node's.
    pub(crate) store: Arc<dyn Store>,
    /// The store as any node uses it for what it is asked.
    pub(crate) desk: Arc<dyn Store>,
    /// The shards that are worked for.
    pub(crate) working: RwLock<Working>,
    pub(crate) options: EngineOptions,
    pub(crate) client: reqwest::Client,
    pub(crate) reach: Reach,
    pub(crate) sealer: Sealer,
    pub(crate) find_kind: KindFinder,
    /// Links of connections that others work for, by which their webhooks are let in here.
    doors: Mutex<Doors>,
    pub(crate) links: Mutex<BTreeMap<(Org, ChannelId), Arc<Link>>>,
    /// Held while a connection's row is read, changed and written: the store replaces whole
    /// rows, and a pause must not be undone by a note of the last sync. No vendor is called
    /// under it.
    rows: tokio::sync::Mutex<()>,
    /// Held while a held run is confirmed or cancelled, so that only one of both is done, once.
    pub(crate) held_runs: tokio::sync::Mutex<()>,
    pub(crate) scopes: Scopes,
    pub(crate) inbox_bell: Notify,
    pub(crate) deliveries_bell: Notify,
    pub(crate) run_ended: Notify,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        options: EngineOptions,
        find_kind: KindFinder,
    ) -> Result<Self, EngineError> {
        let reach = if options.allow_private_endpoints { Reach::Everywhere } else { Reach::Public };
        let client = caller::client(reach, options.request_timeout)
            .map_err(|error| StoreError::Failed(format!("make the HTTP client: {error}")))?;
        let sealer = Sealer::new(&options.keys);
        Ok(Self {
            store: store.clone().for_workers(),
            desk: store,
            working: RwLock::default(),
            doors: Mutex::default(),
            options,
            client,
            reach,
            sealer,
            find_kind,
            links: Mutex::new(BTreeMap::new()),
            rows: tokio::sync::Mutex::new(()),
            held_runs: tokio::sync::Mutex::new(()),
            scopes: Scopes::new(),
            inbox_bell: Notify::new(),
            deliveries_bell: Notify::new(),
            run_ended: Notify::new(),
            stop: CancellationToken::new(),
            tasks: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Changes a connection's row; `None` where there is none any more.
    pub(crate) async fn edit_connection(
        &self,
        org: &Org,
        id: &ChannelId,
        edit: impl FnOnce(&mut Connection) + Send,
    ) -> Result<Option<Connection>, StoreError> {
        let _guard = self.rows.lock().await;
        let Some(mut row) = self.store.connection(org, id).await? else { return Ok(None) };
        let before = row.clone();
        edit(&mut row);
        if row != before {
            self.put_row(org, Some(&before), row.clone()).await?;
        }
        Ok(Some(row))
    }

    /// Makes or replaces a connection's row from what is there.
    pub(crate) async fn put_connection(
        &self,
        org: &Org,
        id: &ChannelId,
        make: impl FnOnce(Option<Connection>) -> Connection + Send,
    ) -> Result<Connection, StoreError> {
        let _guard = self.rows.lock().await;
        let known = self.store.connection(org, id).await?;
        let row = make(known.clone());
        self.put_row(org, known.as_ref(), row.clone()).await?;
        Ok(row)
    }

    /// Writes a row; where it sends now and did not, or the other way round, listings of its
    /// account may take over.
    async fn put_row(
        &self,
        org: &Org,
        known: Option<&Connection>,
        row: Connection,
    ) -> Result<(), StoreError> {
        if known.is_none_or(|known| known.sends() == row.sends()) {
            return self.store.put_connection(org, row).await;
        }
        let id = row.id.clone();
        {
            let _election = self.scopes.elections.write().await;
            self.store.put_connection(org, row).await?;
        }
        if let Some(link) = self.link(org, &id) {
            self.wake_siblings(&link);
        }
        Ok(())
    }

    /// Writes renewed credentials into a connection's row, sealed, and only then lets them be
    /// used. Says in words why it could not.
    async fn keep_credentials(
        &self,
        org: &Org,
        id: &ChannelId,
        vault: &Vault,
        values: BTreeMap<String, Secret>,
    ) -> Result<(), String> {
        let _guard = self.rows.lock().await;
        let row = match vault.is_at_rest() {
            true => self.store.connection(org, id).await.map_err(|error| error.to_string())?,
            false => None,
        };
        if let Some(mut row) = row {
            let known = self.sealer.open_credentials(&row.sealed_credentials);
            let mut credentials = known.map_err(|error| error.to_string())?;
            credentials.extend(values.clone());
            row.sealed_credentials = self.sealer.seal_credentials(&credentials);
            self.store.put_connection(org, row).await.map_err(|error| error.to_string())?;
        }
        vault.take_in(values);
        Ok(())
    }

    pub(crate) async fn submit(
        &self,
        org: &Org,
        command: Command,
        source: Source,
    ) -> Result<Answer, EngineError> {
        self.submit_as(org, command, source, ACTOR).await
    }

    pub(crate) async fn submit_as(
        &self,
        org: &Org,
        command: Command,
        source: Source,
        actor: &str,
    ) -> Result<Answer, EngineError> {
        let submission = Submission {
            org: org.clone(),
            command,
            actor: Arc::from(actor),
            source,
            idempotency: None,
        };
        match self.store.submit(submission).await? {
            Outcome::Decided(answer) | Outcome::Recorded(answer, _) => Ok(answer?),
            Outcome::Replayed(_) => {
                Err(StoreError::Failed("a command without a key was replayed".to_owned()).into())
            }
        }
    }

    /// Makes or replaces mappings, books the orders that waited for them and has them read.
    pub(crate) async fn keep_mappings(
        &self,
        link: &Link,
        mappings: Vec<Mapping>,
    ) -> Result<(), EngineError> {
        self.put_mappings(link, mappings.clone()).await?;
        let row = self.store.connection(&link.org, &link.id).await?;
        let Some(row) = row else { return Err(EngineError::ChannelNotFound(link.id.clone())) };
        if row.sync_orders {
            Box::pin(self.book_unmapped(link, Some(&mappings))).await?;
        }
        if row.sync_inventory && !row.dry_run {
            for mapping in mappings {
                link.ring_hint(mapping.key, mapping.sku);
            }
        }
        Ok(())
    }

    /// Loads every listing of these SKUs on a channel.
    pub(crate) async fn listings_of(
        &self,
        org: &Org,
        channel: &ChannelId,
        skus: &[Sku],
    ) -> Result<Vec<ListingView>, StoreError> {
        let mut views = Vec::new();
        for skus in skus.chunks(SKUS_MAX) {
            let query = ListingQuery {
                channel: Some(channel.clone()),
                skus: Some(skus.to_vec()),
                ..ListingQuery::default()
            };
            views.extend(self.all_listings(org, query).await?);
        }
        Ok(views)
    }

    /// Loads every listing that a query names.
    async fn all_listings(
        &self,
        org: &Org,
        query: ListingQuery,
    ) -> Result<Vec<ListingView>, StoreError> {
        let mut views = Vec::new();
        match self.each_listing(org, query, |view| views.push(view)).await {
            Ok(()) => Ok(views),
            Err(EngineError::Store(error)) => Err(error),
            Err(error) => Err(StoreError::Failed(error.to_string())),
        }
    }

    /// Looks at every listing that a query names, page by page.
    pub(crate) async fn each_listing(
        &self,
        org: &Org,
        query: ListingQuery,
        look: impl FnMut(ListingView) + Send,
    ) -> Result<(), EngineError> {
        self.first_listings(org, query, usize::MAX, look).await.map(|_| ())
    }

    /// Looks at so many of the listings that a query names; returns whether there are more.
    pub(crate) async fn first_listings(
        &self,
        org: &Org,
        mut query: ListingQuery,
        listings_max: usize,
        mut look: impl FnMut(ListingView) + Send,
    ) -> Result<bool, EngineError> {
        let mut left = listings_max;
        loop {
            query.limit = VIEWS_MAX.min(left);
            let page = self.store.listings(org, query.clone()).await?;
            left = left.saturating_sub(page.items.len());
            let last = page.items.last().map(|v| (v.mapping.sku.clone(), v.mapping.key.clone()));
            page.items.into_iter().for_each(&mut look);
            match last {
                Some(_) if page.more && left == 0 => return Ok(true),
                Some(last) if page.more => query.after = Some(last),
                Some(_) | None => return Ok(false),
            }
        }
    }

    /// Counts a connection's listings that take part.
    pub(crate) async fn count_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<u64, EngineError> {
        let query = ListingQuery { channel: Some(channel.clone()), ..ListingQuery::default() };
        let mut count = 0;
        let look = |view: ListingView| count += u64::from(impact::takes_part(&view));
        self.each_listing(org, query, look).await?;
        Ok(count)
    }

    /// Makes a history entry about a channel.
    pub(crate) fn entry(
        &self,
        channel: &ChannelId,
        operation: &str,
        status: &str,
        detail: serde_json::Value,
    ) -> HistoryEntry {
        HistoryEntry {
            id: 0,
            at: self.now(),
            operation: operation.to_owned(),
            channel: Some(channel.clone()),
            sku: None,
            status: status.to_owned(),
            run: None,
            detail,
        }
    }

    /// Adds one entry to the history; a failure to do so is logged and no more.
    pub(crate) async fn note(&self, org: &Org, entries: Vec<HistoryEntry>) {
        if entries.is_empty() {
            return;
        }
        if let Err(error) = self.store.add_history(org, entries).await {
            tracing::warn!(%org, %error, "the history could not be written");
        }
    }

    /// Adds an event for subscribers; a failure to do so is logged and no more.
    pub(crate) async fn tell(&self, org: &Org, event: &str, body: serde_json::Value) {
        if let Err(error) = self.store.add_event(org, event, body, self.now()).await {
            tracing::warn!(%org, event, %error, "an event could not be kept");
        }
        self.deliveries_bell.notify_one();
    }

    /// Tells subscribers that a run is held, or has not done all.
    pub(crate) async fn tell_run(&self, org: &Org, run: &Run, word: &str) {
        let event = if run.status == RunStatus::Held { "sync.held" } else { "sync.failed" };
        let body = json!({
            "runId": run.id, "channelId": run.channel.as_str(), "operation": run.operation,
            "status": word, "counters": run.counters, "error": run.error,
        });
        self.tell(org, event, body).await;
    }

    /// Notes that a vendor refused our credentials or account. After so many times in a row the
    /// connection is paused, with its reason and one event: to knock on for ever would only get
    /// the account locked. Work is kept; connecting again or resuming goes on with it.
    pub(crate) async fn refused(
        &self,
        link: &Link,
        error: &ChannelError,
    ) -> Result<(), StoreError> {
        if link.refusals.fetch_add(1, Ordering::AcqRel) + 1 < REFUSALS_MAX {
            return Ok(());
        }
        self.shut_out(link, error).await
    }

    /// Asks the vendor whether it still lets us in, after a hint that it does not; when it
    /// refuses, the connection is paused at once. Returns what kept the vendor from answering.
    pub(crate) async fn check_access(
        &self,
        link: &Link,
    ) -> Result<Option<ChannelError>, StoreError> {
        match link.channel.connect(&link.transport).await {
            Err(error) if refuses_us(error.kind) => {
                self.shut_out(link, &error).await?;
                Ok(None)
            }
            Err(error) if passing(error.kind) => Ok(Some(error)),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Pauses a connection whose vendor refuses us.
    async fn shut_out(&self, link: &Link, error: &ChannelError) -> Result<(), StoreError> {
        link.refusals.store(0, Ordering::Release);
        let now = self.now();
        let words = format!("paused, because the channel refuses us: {}", error.detail);
        let reason = words.clone();
        let mut was_active = false;
        let edit = |row: &mut Connection| {
            was_active = row.state == ConnectionState::Active;
            row.state = ConnectionState::Paused;
            row.updated_at = now;
            row.note_trouble(now, refusal_code(error.kind), reason);
        };
        self.edit_connection(&link.org, &link.id, edit).await?;
        if !was_active {
            return Ok(());
        }
        let code = plan::error_code(error.kind);
        tracing::warn!(org = %link.org, channel = %link.id, code, "the channel was paused");
        let body = json!({
            "channelId": link.id.as_str(), "code": code, "detail": words, "paused": true,
        });
        self.tell(&link.org, "channel.error", body.clone()).await;
        let entry = self.entry(&link.id, "channel", "error", body);
        self.note(&link.org, vec![entry]).await;
        link.ring_sweep();
        Ok(())
    }

    /// Returns whether an org is worked for here.
    pub(crate) fn is_working_for(&self, org: &Org) -> bool {
        self.working.read().is_for(Shard::of(org))
    }

    pub(crate) fn link(&self, org: &Org, id: &ChannelId) -> Option<Arc<Link>> {
        self.links.lock().get(&(org.clone(), id.clone())).cloned()
    }

    pub(crate) fn links_of(&self, org: &Org) -> Vec<Arc<Link>> {
        let links = self.links.lock();
        links.values().filter(|link| link.org == *org).cloned().collect()
    }

    /// Reads what a connection's row says about its vendor.
    pub(crate) fn settings_of(&self, row: &Connection) -> Result<Settings, EngineError> {
        let credentials =
            self.sealer.open_credentials(&row.sealed_credentials).map_err(|error| {
                let detail = error.to_string();
                EngineError::Settings(vec![SettingError {
                    setting: "credentials".to_owned(),
                    detail,
                }])
            })?;
        Ok(Settings { fields: row.settings.clone(), credentials })
    }

    /// Makes the link of a connection; nothing is started or sent.
    pub(crate) fn open(
        self: &Arc<Self>,
        org: &Org,
        row: &Connection,
        settings: Settings,
        vault: Arc<Vault>,
    ) -> Result<Arc<Link>, EngineError> {
        let barrier = Barrier::of_workers(self.store.clone(), org.clone());
        self.open_behind(barrier, org, row, settings, vault)
    }

    /// Returns a link by which webhooks of a connection are let in that another node works for.
    pub(crate) fn door(
        self: &Arc<Self>,
        org: &Org,
        row: Connection,
    ) -> Result<Arc<Link>, EngineError> {
        let place = (org.clone(), row.id.clone());
        let known = self.doors.lock().get(&place).cloned();
        if let Some((_, link)) = known.filter(|(known, _)| is_same_door(known, &row)) {
            return Ok(link);
        }
        let settings = self.settings_of(&row)?;
        let barrier = Barrier::of_anybody();
        let link = self.open_behind(barrier, org, &row, settings, Vault::of_row())?;
        let mut doors = self.doors.lock();
        if doors.len() >= DOORS_MAX {
            doors.clear();
        }
        doors.insert(place, (row, link.clone()));
        Ok(link)
    }

    fn open_behind(
        self: &Arc<Self>,
        barrier: Arc<Barrier>,
        org: &Org,
        row: &Connection,
        settings: Settings,
        vault: Arc<Vault>,
    ) -> Result<Arc<Link>, EngineError> {
        let kind = (self.find_kind)(&row.kind);
        let kind = kind.ok_or_else(|| EngineError::UnknownKind(row.kind.clone()))?;
        let channel = kind.open(&settings).map_err(EngineError::Settings)?;
        let endpoint = match &row.endpoint {
            Some(endpoint) => {
                Some(address::parse(endpoint, self.reach).map_err(|error| not_allowed(&error))?)
            }
            None => None,
        };
        let stop = self.stop.child_token();
        let keeper =
            RowKeeper { shared: Arc::downgrade(self), org: org.clone(), channel: row.id.clone() };
        let transport = Transport::new(TransportParts {
            client: self.client.clone(),
            reach: self.reach,
            org: org.clone(),
            channel: row.id.clone(),
            kind: kind.name(),
            endpoint,
            timeout: self.options.request_timeout,
            budgets: kind.budgets(),
            credentials: settings.credentials.clone(),
            vault,
            keeper: Arc::new(keeper),
            clock: self.options.clock.clone(),
            barrier,
            stop: stop.clone(),
        });
        Ok(Arc::new(Link::new(org.clone(), row, kind, settings, channel, transport, stop)))
    }
}

/// Returns whether webhooks are checked by two rows in the same way.
fn is_same_door(one: &Connection, other: &Connection) -> bool {
    (&one.kind, &one.endpoint, &one.settings, &one.sealed_credentials)
        == (&other.kind, &other.endpoint, &other.settings, &other.sealed_credentials)
}

/// Returns the reason code of a connection that was paused because the vendor refuses us.
fn refusal_code(kind: ChannelErrorKind) -> &'static str {
    match kind {
        ChannelErrorKind::Auth => "authorization_revoked",
        kind => plan::error_code(kind),
    }
}

pub(crate) fn not_allowed(error: &AddressError) -> EngineError {
    EngineError::EndpointNotAllowed(error.to_string())
}

/// Writes rotated credentials into the connection's row, sealed, and what was found out about
/// listings into their mappings.
struct RowKeeper {
    shared: std::sync::Weak<Shared>,
    org: Org,
    channel: ChannelId,
}

#[async_trait]
impl Keeper for RowKeeper {
    async fn keep(
        &self,
        vault: &Vault,
        values: BTreeMap<String, Secret>,
    ) -> Result<(), ChannelError> {
        let failed = |why: String| {
            let detail = format!("new credentials could not be kept: {why}");
            ChannelError::new(ChannelErrorKind::Transient, detail)
        };
        let shared = self.shared.upgrade();
        let shared = shared.ok_or_else(|| failed("the server is stopping".to_owned()))?;
        shared.keep_credentials(&self.org, &self.channel, vault, values).await.map_err(failed)
    }

    async fn note(&self, notes: Vec<ListingNote>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let row = |note: ListingNote| FieldsNote { key: note.key, fields: note.fields };
        let rows = notes.into_iter().map(row).collect();
        if let Err(error) = shared.store.note_fields(&self.org, &self.channel, rows).await {
            let (org, channel) = (&self.org, &self.channel);
            tracing::warn!(%org, %channel, %error, "what was found of listings was not kept");
        }
    }
}
