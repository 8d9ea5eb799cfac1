//! The embedded store: state in memory, SQLite as the durable log and the rows behind it.
//!
//! One file in one directory. A commit is one `fsync` however many callers wait for it; what was
//! answered is there after `kill -9` and power loss.

pub mod backup;
mod behind;
mod checkpoint;
pub(crate) mod departure;
mod digests;
mod durable;
mod files;
mod ledger;
mod lines;
mod memory;
mod rows;
mod schema;
mod verify;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::Connection as Sql;
use tokio::sync::{broadcast, oneshot, watch};
use trueup_core::{
    ChannelId, ListingKey, Movement, Org, Reservation, ReservationId, Sku, SkuAnswer, Timestamp,
};
use uuid::Uuid;

use crate::cluster::{Cluster, Lease, Node, NodeInfo, Ownership, Shard};
use crate::encoding::records::ListingRow;
use crate::port::{
    ApiKey, AttemptNote, CatalogueQuery, Change, ChannelCounts, ChannelListing, ChannelListingView,
    Conflict, Connection, Consent, Delivery, Feed, FieldsNote, Health, HeldLine, HistoryEntry,
    HistoryQuery, InboxItem, InboxSettled, ListingQuery, ListingScope, ListingView, Mapping,
    MatchNote, MovementQuery, OrderLineId, Outcome, Page, Pause, RecordedAnswer, ReservationQuery,
    Resolved, RevisionsNote, Run, RunQuery, ScopeLeader, SealedText, SkuAt, SkuQuery, Store,
    StoreError, StoreFigures, Submission, Subscription, UnmappedLine, Verification,
};
use checkpoint::Checkpointer;
use departure::Departed;
use durable::Syncer;
use rows::RowsError;
use writer::{Job, Shared, Threads, Writer};

pub use files::{FILE_NAME, OpenError};
pub use writer::{Now, QUEUE_MAX};

/// The most connections kept for reading.
const READERS_MAX: usize = 16;

/// A store in a directory of this machine.
pub struct Embedded {
    shared: Arc<Shared>,
    readers: Arc<Mutex<Vec<Sql>>>,
    /// Behind the connections to its file, which close first.
    dir: files::DataDir,
    thread: Mutex<Option<JoinHandle<()>>>,
    departed: Departed,
    node: Uuid,
    started_at: Timestamp,
    ownership: watch::Sender<Ownership>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the store of a directory, which is made when it is missing.
    ///
    /// # Errors
    /// [`OpenError`] when another process has it, or when what is there is not a whole store of
    /// a known version.
    pub fn open(path: &Path, now: Now) -> Result<Self, OpenError> {
        let dir = files::DataDir::lock(path)?;
        let departed = Departed::read(path)?;
        let mut conn = dir.open()?;
        let refused = |error: &dyn std::fmt::Display| OpenError::Refused {
            path: dir.file(),
            why: format!("it is damaged: {error}"),
        };
        // Three connections read at the same time: what is checked, holds, and all else.
        let (checked, loaded) = std::thread::scope(|scope| {
            let checked = scope.spawn(|| dir.check());
            let active = scope.spawn(|| {
                let reader = dir.open_reader().map_err(|error| refused(&error))?;
                ledger::active(&reader).map_err(|error| refused(&error))
            });
            let active = || active.join().unwrap_or_else(|_| Err(refused(&"reading it failed")));
            let loaded = ledger::load(&conn, active, refused);
            (checked.join(), loaded)
        });
        checked.unwrap_or_else(|_| Err(refused(&"checking it failed")))?;
        let loaded = loaded?;
        let shared = Arc::new(Shared::new(loaded.memory, &loaded.behind, now));
        let start = |source| OpenError::Io {
            attempt: "start the writer of",
            path: path.to_owned(),
            source,
        };
        let (own, file) = (dir.connect()?, dir.held()?);
        let checkpointer = Checkpointer::start(&mut conn, own, file, checkpoint::PAGES_MAX);
        let threads = Threads {
            syncer: Syncer::start(shared.clone(), &dir.file()).map_err(start)?,
            checkpointer: checkpointer.map_err(start)?,
        };
        let writer = Writer::new(conn, shared.clone(), loaded.behind, loaded.newest, threads);
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(start)?;
        let thread = Mutex::new(Some(thread));
        let (node, started_at) = (Uuid::now_v7(), (shared.now)());
        let ownership = watch::channel(Ownership::of_everything()).0;
        let readers = Arc::default();
        Ok(Self { shared, readers, dir, thread, departed, node, started_at, ownership })
    }

    /// Refuses an org that has moved to another store.
    fn stays(&self, org: &Org) -> Result<(), StoreError> {
        if self.departed.has(org) { Err(StoreError::Departed(org.clone())) } else { Ok(()) }
    }

    /// Runs a query on a connection for reading, off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Sql) -> Result<T, RowsError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let pooled = self.readers.lock().pop();
        let conn = match pooled {
            Some(conn) => conn,
            None => {
                self.dir.open_reader().map_err(|error| StoreError::Failed(error.to_string()))?
            }
        };
        let readers = self.readers.clone();
        let work = move || {
            let result = query(&conn);
            let mut readers = readers.lock();
            if readers.len() < READERS_MAX {
                readers.push(conn);
            }
            result
        };
        let read = match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(|error| StoreError::Failed(error.to_string())),
            Err(error) => Err(StoreError::Failed(error.to_string())),
        };
        // Rows show a commit a moment before it is durable.
        self.shared.until_durable().await?;
        read
    }

    /// Makes rows as new as memory, then runs a query.
    async fn read_ledger<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Sql) -> Result<T, RowsError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.sweep_if_due().await?;
        if self.shared.behind.load(Ordering::Acquire) > 0 || self.shared.queued() > 0 {
            self.ask(Job::Flush).await?;
        }
        self.read(query).await
    }

    /// Writes rows in the writer's transaction; returns after it is durable.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Sql) -> Result<T, RowsError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: writer::RowsJob = Box::new(move |conn| {
            let (done, value) = match work(conn) {
                Ok(value) => (Ok(()), Some(value)),
                Err(error) => (Err(error), None),
            };
            let after: writer::AfterCommit = Box::new(move |committed| {
                let closed = StoreError::Closed;
                let answer = committed.and_then(|()| value.ok_or(closed));
                drop(reply.send(answer));
            });
            (done, after)
        });
        self.shared.push(Job::Rows(job))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn ask(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Job,
    ) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(job(reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Has what is due retired, so that nobody sees a hold that has run out.
    async fn sweep_if_due(&self) -> Result<(), StoreError> {
        let next = self.shared.next_expiry.load(Ordering::Acquire);
        if next == Timestamp::MAX.micros() || next > (self.shared.now)().micros() {
            return Ok(());
        }
        self.ask(Job::Sweep).await
    }

    fn views(&self, org: &Org, page: Page<ListingRow>) -> Page<ListingView> {
        let memory = self.shared.memory.read();
        let view = |row: ListingRow| {
            let sku = memory.answer(org, &row.mapping.sku);
            row.view(sku)
        };
        Page { items: page.items.into_iter().map(view).collect(), more: page.more }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn submit(&self, submission: Submission) -> Result<Outcome, StoreError> {
        self.stays(&submission.org)?;
        let (reply, answer) = oneshot::channel();
        self.shared.push(Job::Submit(Box::new(submission), reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn sku(&self, org: &Org, sku: &Sku) -> Result<Option<SkuAnswer>, StoreError> {
        self.stays(org)?;
        self.sweep_if_due().await?;
        Ok(self.shared.memory.read().answer(org, sku))
    }

    async fn skus(&self, org: &Org, query: SkuQuery) -> Result<Page<SkuAnswer>, StoreError> {
        self.stays(org)?;
        let of = org.clone();
        // What is there and what is low is never behind; which versions there are may be.
        let is_by_version = query.stale;
        let list = move |conn: &Sql| ledger::skus(conn, &of, &query);
        let page = if is_by_version {
            self.read_ledger(list).await?
        } else {
            self.sweep_if_due().await?;
            self.read(list).await?
        };
        let memory = self.shared.memory.read();
        let items = page.items.iter().filter_map(|sku| memory.answer(org, sku)).collect();
        Ok(Page { items, more: page.more })
    }

    async fn sku_at(
        &self,
        org: &Org,
        sku: &Sku,
        at: Timestamp,
    ) -> Result<Option<SkuAt>, StoreError> {
        self.stays(org)?;
        self.sweep_if_due().await?;
        let (org, sku, shared) = (org.clone(), sku.clone(), self.shared.clone());
        self.read(move |conn| lines::sku_at(conn, (&org, &sku), at, |of| shared.head(&org, of)))
            .await
    }

    async fn movements(
        &self,
        org: &Org,
        sku: &Sku,
        query: MovementQuery,
    ) -> Result<Page<Movement>, StoreError> {
        self.stays(org)?;
        let (org, sku) = (org.clone(), sku.clone());
        self.sweep_if_due().await?;
        let newest = self.shared.head(&org, &sku).map_or(0, |head| head.line);
        self.read(move |conn| lines::list(conn, (&org, &sku), newest, &query)).await
    }

    async fn reservation(
        &self,
        org: &Org,
        id: ReservationId,
    ) -> Result<Option<Reservation>, StoreError> {
        self.stays(org)?;
        self.sweep_if_due().await?;
        let found = {
            let memory = self.shared.memory.read();
            memory.org(org).and_then(|org| org.reservations.get(&id)).cloned()
        };
        match found {
            Some(found) => Ok(Some(found)),
            None => {
                let org = org.clone();
                self.read(move |conn| ledger::reservation(conn, &org, id)).await
            }
        }
    }

    async fn reservations(
        &self,
        org: &Org,
        query: ReservationQuery,
    ) -> Result<Page<Reservation>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        // Only the tables by which they are found may be behind.
        let is_by_key = query.order.is_some() || query.sku.is_some();
        let list = move |conn: &Sql| ledger::reservations(conn, &org, &query);
        if is_by_key {
            return self.read_ledger(list).await;
        }
        self.sweep_if_due().await?;
        self.read(list).await
    }

    async fn recorded(
        &self,
        org: &Org,
        key: &str,
    ) -> Result<Option<([u8; 32], RecordedAnswer)>, StoreError> {
        self.stays(org)?;
        let digest = rows::answers::digest(org, key);
        let young = self.shared.young.read().of(digest);
        let (org, key) = (org.clone(), key.to_owned());
        self.read(move |conn| rows::answers::get(conn, (&org, &key), digest, &young)).await
    }

    async fn record(
        &self,
        org: &Org,
        key: &str,
        fingerprint: [u8; 32],
        answer: RecordedAnswer,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, key) = (org.clone(), Arc::from(key));
        let record = writer::Record { org, key, fingerprint, answer };
        self.ask(|reply| Job::Record(Box::new(record), reply)).await
    }

    async fn all_connections(&self) -> Result<Vec<(Org, Connection)>, StoreError> {
        let mut all = self.read(rows::connections::all).await?;
        all.retain(|(org, _)| !self.departed.has(org));
        Ok(all)
    }

    async fn connections(&self, org: &Org) -> Result<Vec<Connection>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.read(move |conn| rows::connections::list(conn, &org)).await
    }

    async fn connection(
        &self,
        org: &Org,
        id: &ChannelId,
    ) -> Result<Option<Connection>, StoreError> {
        self.stays(org)?;
        let (org, id) = (org.clone(), id.clone());
        self.read(move |conn| rows::connections::get(conn, &org, &id)).await
    }

    async fn put_connection(&self, org: &Org, row: Connection) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, now) = (org.clone(), (self.shared.now)());
        self.write(move |conn| {
            if rows::connections::put(conn, &org, &row)? {
                rows::conflicts::close_orphans(conn, &org, now)?;
            }
            Ok(())
        })
        .await
    }

    async fn delete_connection(&self, org: &Org, id: &ChannelId) -> Result<bool, StoreError> {
        self.stays(org)?;
        let (org, id, now) = (org.clone(), id.clone(), (self.shared.now)());
        self.write(move |conn| {
            let deleted = rows::connections::delete(conn, &org, &id)?;
            rows::conflicts::close_orphans(conn, &org, now)?;
            Ok(deleted)
        })
        .await
    }

    async fn put_mappings(
        &self,
        org: &Org,
        rows: Vec<(Mapping, Option<String>)>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, now) = (org.clone(), (self.shared.now)());
        self.write(move |conn| {
            rows::listings::put_mappings(conn, &org, rows.iter().map(|(mapping, _)| mapping))?;
            let scopes = rows.iter().map(|(of, scope)| (&of.channel, &of.key, scope.as_deref()));
            rows::scopes::set(conn, &org, scopes)?;
            rows::conflicts::close_orphans(conn, &org, now).map(|_| ())
        })
        .await
    }

    async fn delete_mappings(
        &self,
        org: &Org,
        channel: &ChannelId,
        sku: &Sku,
        but: BTreeSet<ListingKey>,
    ) -> Result<usize, StoreError> {
        self.stays(org)?;
        let (org, channel, sku) = (org.clone(), channel.clone(), sku.clone());
        let now = (self.shared.now)();
        self.write(move |conn| {
            let count = rows::listings::delete_mappings(conn, &org, &channel, &sku, &but)?;
            rows::conflicts::close_orphans(conn, &org, now)?;
            Ok(count)
        })
        .await
    }

    async fn set_scopes(
        &self,
        org: &Org,
        channel: &ChannelId,
        scopes: Vec<(ListingKey, Option<String>)>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel, now) = (org.clone(), channel.clone(), (self.shared.now)());
        self.write(move |conn| {
            let scopes = scopes.iter().map(|(key, scope)| (&channel, key, scope.as_deref()));
            rows::scopes::set(conn, &org, scopes)?;
            rows::conflicts::close_orphans(conn, &org, now).map(|_| ())
        })
        .await
    }

    async fn listing_scopes(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<ListingKey>,
        limit: usize,
    ) -> Result<Page<ListingScope>, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.read(move |conn| rows::scopes::list(conn, &org, &channel, after.as_ref(), limit)).await
    }

    async fn leaders(
        &self,
        org: &Org,
        scopes: Vec<String>,
    ) -> Result<Vec<ScopeLeader>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.read(move |conn| rows::scopes::leaders(conn, &org, &scopes)).await
    }

    async fn listings(
        &self,
        org: &Org,
        query: ListingQuery,
    ) -> Result<Page<ListingView>, StoreError> {
        self.stays(org)?;
        let of = org.clone();
        let page = if query.dirty || query.suspicious {
            self.read_ledger(move |conn| rows::listings::query(conn, &of, &query)).await?
        } else {
            self.sweep_if_due().await?;
            self.read(move |conn| rows::listings::query(conn, &of, &query)).await?
        };
        Ok(self.views(org, page))
    }

    async fn channel_counts(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<ChannelCounts, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.read_ledger(move |conn| {
            Ok(ChannelCounts {
                pending: rows::listings::count_pending(conn, &org, &channel)?,
                conflicts: rows::conflicts::count_open(conn, &org, &channel)?,
            })
        })
        .await
    }

    async fn note_attempts(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<AttemptNote>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.write(move |conn| rows::listings::note_attempts(conn, &org, &channel, &notes)).await
    }

    async fn note_revisions(
        &self,
        org: &Org,
        channel: &ChannelId,
        note: RevisionsNote,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.write(move |conn| rows::listings::note_revisions(conn, &org, &channel, &note)).await
    }

    async fn note_fields(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<FieldsNote>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.write(move |conn| rows::listings::note_fields(conn, &org, &channel, &notes)).await
    }

    async fn put_channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        rows: Vec<ChannelListing>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.write(move |conn| rows::catalogue::put(conn, &org, &channel, &rows)).await
    }

    async fn channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        query: CatalogueQuery,
    ) -> Result<Page<ChannelListingView>, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.read(move |conn| rows::catalogue::query(conn, &org, &channel, &query)).await
    }

    async fn channel_listings_by_sku(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
        after: Option<(String, String)>,
        limit: usize,
    ) -> Result<Page<ChannelListingView>, StoreError> {
        self.stays(org)?;
        let (org, channel, run) = (org.clone(), channel.clone(), run.to_owned());
        let query = move |conn: &Sql| {
            rows::catalogue::by_sku(conn, &org, &channel, &run, after.as_ref(), limit)
        };
        self.read(query).await
    }

    async fn note_matches(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<MatchNote>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.write(move |conn| rows::catalogue::note_matches(conn, &org, &channel, &notes)).await
    }

    async fn suggest(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
        skus: Vec<(String, Sku)>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel, run) = (org.clone(), channel.clone(), run.to_owned());
        self.write(move |conn| rows::catalogue::suggest(conn, &org, &channel, &run, &skus)).await
    }

    async fn catalogue_counts(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
    ) -> Result<BTreeMap<String, u64>, StoreError> {
        self.stays(org)?;
        let (org, channel, run) = (org.clone(), channel.clone(), run.to_owned());
        self.read(move |conn| rows::catalogue::counts(conn, &org, &channel, &run)).await
    }

    async fn forget_channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        but_of_run: &str,
        at_most: usize,
    ) -> Result<usize, StoreError> {
        self.stays(org)?;
        let (org, channel, run) = (org.clone(), channel.clone(), but_of_run.to_owned());
        self.write(move |conn| rows::catalogue::forget(conn, &org, &channel, &run, at_most)).await
    }

    async fn wait_dirty(&self) -> Vec<(Org, Sku)> {
        loop {
            let bell = self.shared.dirty_bell.notified();
            let dirty = std::mem::take(&mut *self.shared.dirty.lock());
            if !dirty.is_empty() {
                return dirty.into_iter().collect();
            }
            bell.await;
        }
    }

    async fn put_pause(&self, org: &Org, pause: Pause) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::pauses::put(conn, &org, &pause)).await
    }

    async fn delete_pause(&self, org: &Org, sku: Option<&Sku>) -> Result<bool, StoreError> {
        self.stays(org)?;
        let (org, sku) = (org.clone(), sku.cloned());
        self.write(move |conn| rows::pauses::delete(conn, &org, sku.as_ref())).await
    }

    async fn pause(&self, org: &Org, sku: Option<&Sku>) -> Result<Option<Pause>, StoreError> {
        self.stays(org)?;
        let (org, sku) = (org.clone(), sku.cloned());
        self.read(move |conn| rows::pauses::get(conn, &org, sku.as_ref())).await
    }

    async fn pauses(
        &self,
        org: &Org,
        after: Option<&Sku>,
        limit: usize,
    ) -> Result<Page<Pause>, StoreError> {
        self.stays(org)?;
        let (org, after) = (org.clone(), after.cloned());
        self.read(move |conn| rows::pauses::list(conn, &org, after.as_ref(), limit)).await
    }

    async fn put_run(&self, org: &Org, run: Run) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::runs::put(conn, &org, &run)).await
    }

    async fn run(&self, org: &Org, id: &str) -> Result<Option<Run>, StoreError> {
        self.stays(org)?;
        let (org, id) = (org.clone(), id.to_owned());
        self.read(move |conn| rows::runs::get(conn, &org, &id)).await
    }

    async fn runs(&self, org: &Org, query: RunQuery) -> Result<Page<Run>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.read(move |conn| rows::runs::query(conn, &org, &query)).await
    }

    async fn abandon_runs(&self, shards: Vec<Shard>, now: Timestamp) -> Result<usize, StoreError> {
        self.write(move |conn| rows::runs::abandon(conn, &shards, now)).await
    }

    async fn add_history(&self, org: &Org, entries: Vec<HistoryEntry>) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::history::add(conn, &org, &entries)).await
    }

    async fn history(
        &self,
        org: &Org,
        query: HistoryQuery,
    ) -> Result<Page<HistoryEntry>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.read(move |conn| rows::history::query(conn, &org, &query)).await
    }

    async fn conflicts(
        &self,
        org: &Org,
        open: Option<bool>,
        channel: Option<&ChannelId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page<Conflict>, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.cloned());
        self.read(move |conn| {
            let channel = channel.as_ref();
            let query = rows::conflicts::ConflictQuery { open, channel, before, limit };
            rows::conflicts::list(conn, &org, query)
        })
        .await
    }

    async fn conflict(&self, org: &Org, id: u64) -> Result<Option<Conflict>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.read(move |conn| rows::conflicts::get(conn, &org, id)).await
    }

    async fn note_resolved(
        &self,
        org: &Org,
        id: u64,
        resolved: Resolved,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::conflicts::note_resolved(conn, &org, id, &resolved)).await
    }

    async fn held_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<OrderLineId>,
        limit: usize,
    ) -> Result<Page<HeldLine>, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.read(move |conn| rows::order_lines::held(conn, &org, &channel, after.as_ref(), limit))
            .await
    }

    async fn booked_under(
        &self,
        org: &Org,
        order: &str,
        channels: Vec<ChannelId>,
    ) -> Result<Vec<(String, ChannelId)>, StoreError> {
        self.stays(org)?;
        let (org, order) = (org.clone(), order.to_owned());
        self.read(move |conn| rows::order_lines::booked_under(conn, &org, &order, &channels)).await
    }

    async fn move_order_lines(
        &self,
        org: &Org,
        from: &ChannelId,
        to: &ChannelId,
        at_most: usize,
    ) -> Result<usize, StoreError> {
        self.stays(org)?;
        let (org, from, to) = (org.clone(), from.clone(), to.clone());
        self.write(move |conn| rows::order_lines::move_lines(conn, &org, &from, &to, at_most)).await
    }

    async fn put_unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        lines: Vec<UnmappedLine>,
    ) -> Result<Vec<OrderLineId>, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.write(move |conn| rows::order_lines::put_unmapped(conn, &org, &channel, &lines)).await
    }

    async fn unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<OrderLineId>,
        limit: usize,
    ) -> Result<Page<UnmappedLine>, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        let query = move |conn: &Sql| {
            rows::order_lines::unmapped(conn, &org, &channel, after.as_ref(), limit)
        };
        self.read(query).await
    }

    async fn delete_unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        lines: Vec<UnmappedLine>,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.write(move |conn| rows::order_lines::delete_unmapped(conn, &org, &channel, &lines))
            .await
    }

    async fn inbox_put(&self, org: &Org, item: InboxItem) -> Result<bool, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::inbox::put(conn, &org, &item)).await
    }

    async fn inbox_put_many(
        &self,
        org: &Org,
        items: Vec<InboxItem>,
    ) -> Result<Vec<bool>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::inbox::put_many(conn, &org, &items)).await
    }

    async fn inbox_waiting(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Org, InboxItem)>, StoreError> {
        let but = self.departed.names();
        self.read(move |conn| rows::inbox::waiting(conn, now, &but, limit)).await
    }

    async fn inbox_settle(
        &self,
        org: &Org,
        id: u64,
        settled: InboxSettled,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::inbox::settle(conn, &org, id, &settled)).await
    }

    async fn sealed(&self) -> Result<Vec<SealedText>, StoreError> {
        self.read(rows::sealed::all).await
    }

    async fn reseal(&self, sealed: SealedText, to: Vec<u8>) -> Result<bool, StoreError> {
        self.stays(&sealed.org)?;
        self.write(move |conn| rows::sealed::replace(conn, &sealed, &to)).await
    }

    async fn subscriptions(&self, org: &Org) -> Result<Vec<Subscription>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.read(move |conn| rows::deliveries::subscriptions(conn, &org)).await
    }

    async fn subscription(&self, org: &Org, id: &str) -> Result<Option<Subscription>, StoreError> {
        self.stays(org)?;
        let (org, id) = (org.clone(), id.to_owned());
        self.read(move |conn| rows::deliveries::subscription(conn, &org, &id)).await
    }

    async fn put_subscription(&self, org: &Org, row: Subscription) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::deliveries::put_subscription(conn, &org, &row)).await
    }

    async fn delete_subscription(&self, org: &Org, id: &str) -> Result<bool, StoreError> {
        self.stays(org)?;
        let (org, id) = (org.clone(), id.to_owned());
        self.write(move |conn| rows::deliveries::delete_subscription(conn, &org, &id)).await
    }

    async fn add_event(
        &self,
        org: &Org,
        event: &str,
        body: serde_json::Value,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, event) = (org.clone(), event.to_owned());
        self.write(move |conn| {
            let mut ids = || format!("msg_{}", uuid::Uuid::now_v7().simple());
            rows::deliveries::add_event(conn, &org, &event, &body, at, &mut ids).map(|_| ())
        })
        .await
    }

    async fn deliveries_due(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Org, Delivery)>, StoreError> {
        let but = self.departed.names();
        self.read(move |conn| rows::deliveries::due(conn, now, &but, limit)).await
    }

    async fn deliveries(
        &self,
        org: &Org,
        subscription: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Page<Delivery>, StoreError> {
        self.stays(org)?;
        let (org, subscription) = (org.clone(), subscription.to_owned());
        let before = before.map(str::to_owned);
        self.read(move |conn| {
            rows::deliveries::list(conn, &org, &subscription, before.as_deref(), limit)
        })
        .await
    }

    async fn delivery(&self, org: &Org, id: &str) -> Result<Option<Delivery>, StoreError> {
        self.stays(org)?;
        let (org, id) = (org.clone(), id.to_owned());
        self.read(move |conn| rows::deliveries::get(conn, &org, &id)).await
    }

    async fn put_delivery(&self, org: &Org, row: Delivery) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::deliveries::put(conn, &org, &row)).await
    }

    async fn api_key(&self, id: &str) -> Result<Option<(Org, ApiKey)>, StoreError> {
        let id = id.to_owned();
        self.read(move |conn| rows::keys::get(conn, &id)).await
    }

    async fn api_keys(&self, org: &Org) -> Result<Vec<ApiKey>, StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.read(move |conn| rows::keys::list(conn, &org)).await
    }

    async fn put_consent(&self, org: &Org, row: Consent) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::consents::put(conn, &org, &row)).await
    }

    async fn take_consent(&self, digest: [u8; 32]) -> Result<Option<(Org, Consent)>, StoreError> {
        self.write(move |conn| rows::consents::take(conn, &digest)).await
    }

    async fn put_feed(&self, org: &Org, row: Feed) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::feeds::put(conn, &org, &row)).await
    }

    async fn feeds(&self, org: &Org, channel: &ChannelId) -> Result<Vec<Feed>, StoreError> {
        self.stays(org)?;
        let (org, channel) = (org.clone(), channel.clone());
        self.read(move |conn| rows::feeds::list(conn, &org, &channel)).await
    }

    async fn feed(
        &self,
        org: &Org,
        channel: &ChannelId,
        id: &str,
    ) -> Result<Option<Feed>, StoreError> {
        self.stays(org)?;
        let (org, channel, id) = (org.clone(), channel.clone(), id.to_owned());
        self.read(move |conn| rows::feeds::get(conn, &org, &channel, &id)).await
    }

    async fn delete_feed(
        &self,
        org: &Org,
        channel: &ChannelId,
        id: &str,
    ) -> Result<(), StoreError> {
        self.stays(org)?;
        let (org, channel, id) = (org.clone(), channel.clone(), id.to_owned());
        self.write(move |conn| rows::feeds::delete(conn, &org, &channel, &id)).await
    }

    async fn put_api_key(&self, org: &Org, key: ApiKey) -> Result<(), StoreError> {
        self.stays(org)?;
        let org = org.clone();
        self.write(move |conn| rows::keys::put(conn, &org, &key)).await
    }

    fn health(&self) -> Health {
        self.shared.health.read().clone()
    }

    fn figures(&self) -> StoreFigures {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (skus, reservations) = {
            let memory = self.shared.memory.read();
            (memory.skus, count(memory.active()))
        };
        StoreFigures {
            commands: self.shared.commands.load(Ordering::Relaxed),
            commits: self.shared.commits.load(Ordering::Relaxed),
            queued: count(self.shared.queued()),
            behind: self.shared.behind.load(Ordering::Relaxed),
            skus,
            reservations,
            oversold_events: self.shared.oversold_events.load(Ordering::Relaxed),
            shards: count(Shard::all().count()),
            // There is nobody to lose one to.
            leases_lost: 0,
            fenced: 0,
        }
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    fn announce(&self, change: Change) {
        // Nobody listening is fine.
        drop(self.shared.changes.send(change));
    }

    async fn verify(&self, org: &Org) -> Result<Verification, StoreError> {
        self.stays(org)?;
        let of = org.clone();
        let mut found = self.read_ledger(move |conn| verify::verify(conn, &of)).await?;
        let in_memory = {
            let memory = self.shared.memory.read();
            memory.org(org).map_or(0, |org| org.skus.len())
        };
        if u64::try_from(in_memory) != Ok(found.skus) {
            let fault = format!("{in_memory} SKUs in memory, {} in rows", found.skus);
            found.faults.push(fault);
        }
        Ok(found)
    }

    async fn orgs(&self) -> Result<Vec<Org>, StoreError> {
        let mut orgs: Vec<Org> =
            self.shared.memory.read().orgs().map(|(org, _)| org.clone()).collect();
        orgs.retain(|org| !self.departed.has(org));
        orgs.extend(self.all_connections().await?.into_iter().map(|(org, _)| org));
        orgs.sort();
        orgs.dedup();
        Ok(orgs)
    }

    fn ownership(&self) -> watch::Receiver<Ownership> {
        self.ownership.subscribe()
    }

    fn holds(&self, _: &Org) -> bool {
        true
    }

    fn for_workers(self: Arc<Self>) -> Arc<dyn Store> {
        self
    }

    async fn hand_over(&self, _: Vec<Shard>) -> Result<(), StoreError> {
        // There is nobody else to have them.
        Ok(())
    }

    async fn retire(&self) -> Result<(), StoreError> {
        // There is nobody else to go on with it.
        Ok(())
    }

    async fn cluster(&self) -> Result<Cluster, StoreError> {
        let (id, now) = (self.node, (self.shared.now)());
        let node =
            Node { id, info: NodeInfo::default(), started_at: self.started_at, seen_at: now };
        let lease = |shard| Lease { shard, node: Some(id), epoch: 1, until: None };
        let leases = Shard::all().map(lease).collect();
        Ok(Cluster { node: Some(id), store: "embedded", at: now, nodes: vec![node], leases })
    }

    async fn close(&self) -> Result<(), StoreError> {
        let closed = self.ask(Job::Close).await;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(StoreError::Failed("the writer died".to_owned()));
            }
        }
        closed
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Without a close, the writer ends here; what was answered is durable already.
        let (reply, _) = oneshot::channel();
        drop(self.shared.push(Job::Close(reply)));
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a full disk SQLite takes the whole transaction back, whatever job met it: nothing of its
    /// batch may be there, and nothing of it acknowledged.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_transaction_that_sqlite_took_back_fails_its_batch() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(std::sync::atomic::AtomicI64::new(0));
        let now: Now =
            Arc::new(move || Timestamp::from_micros(clock.fetch_add(1, Ordering::SeqCst)));
        let org = Org::new("acme").unwrap();
        let put = |store: &Embedded, name: String| {
            let set = trueup_core::SetOnHand {
                sku: Sku::new(&name).unwrap(),
                quantity: trueup_core::Quantity::new(1).unwrap(),
                location: trueup_core::Location::main(),
                reason: None,
                settings: trueup_core::SkuSettings::default(),
                counted_at: None,
                if_version: None,
                publish: true,
            };
            let submission = Submission {
                org: Org::new("acme").unwrap(),
                command: trueup_core::Command::SetOnHand(set),
                actor: Arc::from("test"),
                source: trueup_core::Source::Api,
                idempotency: None,
            };
            let (reply, answer) = oneshot::channel();
            store.shared.push(Job::Submit(Box::new(submission), reply)).unwrap();
            answer
        };
        let store = Embedded::open(dir.path(), now.clone()).unwrap();
        let mut acknowledged = Vec::new();
        for round in 0..3 {
            let alone = format!("ALONE-{round}");
            put(&store, alone.clone()).await.unwrap().unwrap();
            acknowledged.push(alone);
            // What comes while the writer is kept busy is one batch.
            let (go, gate) = std::sync::mpsc::channel::<()>();
            let busy: writer::RowsJob = Box::new(move |_| {
                gate.recv().unwrap();
                (Ok(()), Box::new(|_| ()))
            });
            store.shared.push(Job::Rows(busy)).unwrap();
            while store.shared.queued() > 0 {
                tokio::task::yield_now().await;
            }
            let mut batch: Vec<_> = (0..3).map(|n| put(&store, format!("B-{round}-{n}"))).collect();
            let fails: writer::RowsJob = Box::new(|conn| {
                conn.execute_batch("ROLLBACK").unwrap();
                (Err(RowsError::Corrupt("the disk is full".to_owned())), Box::new(|_| ()))
            });
            store.shared.push(Job::Rows(fails)).unwrap();
            batch.extend((0..3).map(|n| put(&store, format!("A-{round}-{n}"))));
            go.send(()).unwrap();
            for answer in batch {
                let answer = answer.await.unwrap();
                assert!(matches!(answer, Err(StoreError::ReadOnly(_))), "{answer:?}");
            }
        }
        store.close().await.unwrap();
        drop(store);
        let again = Embedded::open(dir.path(), now).unwrap();
        let found = again.verify(&org).await.unwrap();
        assert_eq!(found.faults, [""; 0]);
        let mut there: Vec<String> = Vec::new();
        let mut query = SkuQuery { limit: 1_000, ..SkuQuery::default() };
        loop {
            let page = again.skus(&org, query.clone()).await.unwrap();
            there.extend(page.items.iter().map(|answer| answer.sku.to_string()));
            query.after = page.items.last().map(|answer| answer.sku.clone());
            if !page.more {
                break;
            }
        }
        acknowledged.sort();
        assert_eq!(there, acknowledged);
    }
}
