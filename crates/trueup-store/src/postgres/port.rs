//! The port, each method handed to the module that owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use trueup_core::{
    ChannelId, ListingKey, Movement, Org, Reservation, ReservationId, Sku, SkuAnswer, Timestamp,
};

use super::error::PgError;
use super::ledger::{reads, verify};
use super::records::conflicts::ConflictQuery;
use super::records::{
    answers, catalogue, conflicts, connections, consents, deliveries, feeds, history, inbox, keys,
    listings, order_lines, pauses, runs, scopes, sealed, unmapped,
};
use super::shard::{shard_of_bytes, shard_of_text};
use super::{Postgres, arrival, delivery_id, lease};
use crate::cluster::{Cluster, Ownership, Shard};
use crate::port::{
    ApiKey, AttemptNote, CatalogueQuery, Change, ChannelCounts, ChannelListing, ChannelListingView,
    Conflict, Connection, Consent, Delivery, Feed, FieldsNote, Health, HeldLine, HistoryEntry,
    HistoryQuery, InboxItem, InboxSettled, ListingQuery, ListingScope, ListingView, Mapping,
    MatchNote, MovementQuery, OrderLineId, Outcome, Page, Pause, RecordedAnswer, ReservationQuery,
    Resolved, RevisionsNote, Run, RunQuery, ScopeLeader, SealedText, SkuAt, SkuQuery, Store,
    StoreError, StoreFigures, Submission, Subscription, UnmappedLine, Verification,
};

type Result<T> = std::result::Result<T, StoreError>;

#[async_trait]
impl Store for Postgres {
    async fn submit(&self, submission: Submission) -> Result<Outcome> {
        self.decide(submission).await
    }

    async fn sku(&self, org: &Org, sku: &Sku) -> Result<Option<SkuAnswer>> {
        self.read_ledger(org, |client| async move { reads::sku(&client, org, sku).await }).await
    }

    async fn skus(&self, org: &Org, query: SkuQuery) -> Result<Page<SkuAnswer>> {
        let query = &query;
        self.read_ledger(org, |client| async move { reads::skus(&client, org, query).await }).await
    }

    async fn sku_at(&self, org: &Org, sku: &Sku, at: Timestamp) -> Result<Option<SkuAt>> {
        self.read_ledger(org, |client| async move {
            Box::pin(reads::sku_at(&client, org, sku, at)).await
        })
        .await
    }

    async fn movements(
        &self,
        org: &Org,
        sku: &Sku,
        query: MovementQuery,
    ) -> Result<Page<Movement>> {
        let query = &query;
        self.read_ledger(
            org,
            |client| async move { reads::movements(&client, org, sku, query).await },
        )
        .await
    }

    async fn reservation(&self, org: &Org, id: ReservationId) -> Result<Option<Reservation>> {
        self.read_ledger(org, |client| async move { reads::reservation(&client, org, id).await })
            .await
    }

    async fn reservations(&self, org: &Org, query: ReservationQuery) -> Result<Page<Reservation>> {
        let query = &query;
        self.read_ledger(
            org,
            |client| async move { reads::reservations(&client, org, query).await },
        )
        .await
    }

    async fn recorded(&self, org: &Org, key: &str) -> Result<Option<([u8; 32], RecordedAnswer)>> {
        self.read_of(org, |client| async move { answers::get(&client, org, key).await }).await
    }

    async fn record(
        &self,
        org: &Org,
        key: &str,
        fingerprint: [u8; 32],
        answer: RecordedAnswer,
    ) -> Result<()> {
        let (fingerprint, answer, at) = (&fingerprint, &answer, self.now());
        self.write(org, |tx| async move {
            answers::put(&tx, answers::NewAnswer { org, key, fingerprint, answer, at }).await?;
            Ok(())
        })
        .await
    }

    // --- Connections and mappings ---------------------------------------------------------

    async fn all_connections(&self) -> Result<Vec<(Org, Connection)>> {
        let shards = &self.shards();
        self.read(|client| async move { connections::all(&client, shards).await }).await
    }

    async fn connections(&self, org: &Org) -> Result<Vec<Connection>> {
        self.read_of(org, |client| async move { connections::list(&client, org).await }).await
    }

    async fn connection(&self, org: &Org, id: &ChannelId) -> Result<Option<Connection>> {
        self.read_of(org, |client| async move { connections::get(&client, org, id).await }).await
    }

    async fn put_connection(&self, org: &Org, row: Connection) -> Result<()> {
        let (row, now) = (&row, self.now());
        self.write(org, |tx| async move {
            if connections::put(&tx, org, row).await? {
                conflicts::close_orphans(&tx, org, now).await?;
            }
            Ok(())
        })
        .await
    }

    async fn delete_connection(&self, org: &Org, id: &ChannelId) -> Result<bool> {
        let now = self.now();
        self.write(org, |tx| async move {
            let deleted = connections::delete(&tx, org, id).await?;
            conflicts::close_orphans(&tx, org, now).await?;
            Ok(deleted)
        })
        .await
    }

    async fn put_consent(&self, org: &Org, row: Consent) -> Result<()> {
        let row = &row;
        self.write(org, |tx| async move { consents::put(&tx, org, row).await }).await
    }

    async fn take_consent(&self, digest: [u8; 32]) -> Result<Option<(Org, Consent)>> {
        let digest = &digest;
        self.write_in(shard_of_bytes(digest), |tx| async move { consents::take(&tx, digest).await })
            .await
    }

    async fn put_feed(&self, org: &Org, row: Feed) -> Result<()> {
        let row = &row;
        self.write(org, |tx| async move { feeds::put(&tx, org, row).await }).await
    }

    async fn feeds(&self, org: &Org, channel: &ChannelId) -> Result<Vec<Feed>> {
        self.read_of(org, |client| async move { feeds::list(&client, org, channel).await }).await
    }

    async fn feed(&self, org: &Org, channel: &ChannelId, id: &str) -> Result<Option<Feed>> {
        self.read_of(org, |client| async move { feeds::get(&client, org, channel, id).await }).await
    }

    async fn delete_feed(&self, org: &Org, channel: &ChannelId, id: &str) -> Result<()> {
        self.write(org, |tx| async move { feeds::delete(&tx, org, channel, id).await }).await
    }

    async fn put_mappings(&self, org: &Org, rows: Vec<(Mapping, Option<String>)>) -> Result<()> {
        let (rows, now) = (&rows, self.now());
        self.write(org, |tx| async move {
            listings::put_mappings(&tx, org, rows).await?;
            let scopes: Vec<_> =
                rows.iter().map(|(of, scope)| (&of.channel, &of.key, scope.as_deref())).collect();
            scopes::set(&tx, org, &scopes).await?;
            conflicts::close_orphans(&tx, org, now).await.map(|_| ())
        })
        .await
    }

    async fn delete_mappings(
        &self,
        org: &Org,
        channel: &ChannelId,
        sku: &Sku,
        but: BTreeSet<ListingKey>,
    ) -> Result<usize> {
        let (but, now) = (&but, self.now());
        self.write(org, |tx| async move {
            let count = listings::delete_mappings(&tx, org, channel, sku, but).await?;
            conflicts::close_orphans(&tx, org, now).await?;
            Ok(count)
        })
        .await
    }

    async fn set_scopes(
        &self,
        org: &Org,
        channel: &ChannelId,
        scopes: Vec<(ListingKey, Option<String>)>,
    ) -> Result<()> {
        let (scopes, now) = (&scopes, self.now());
        self.write(org, |tx| async move {
            let scopes: Vec<_> =
                scopes.iter().map(|(key, scope)| (channel, key, scope.as_deref())).collect();
            scopes::set(&tx, org, &scopes).await?;
            conflicts::close_orphans(&tx, org, now).await.map(|_| ())
        })
        .await
    }

    async fn listing_scopes(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<ListingKey>,
        limit: usize,
    ) -> Result<Page<ListingScope>> {
        let after = after.as_ref();
        self.read_of(org, |client| async move {
            scopes::list(&client, org, channel, after, limit).await
        })
        .await
    }

    async fn leaders(&self, org: &Org, scopes: Vec<String>) -> Result<Vec<ScopeLeader>> {
        let scopes = &scopes;
        self.read_of(org, |client| async move { scopes::leaders(&client, org, scopes).await }).await
    }

    async fn listings(&self, org: &Org, query: ListingQuery) -> Result<Page<ListingView>> {
        let query = &query;
        self.read_ledger(org, |client| async move {
            let page = listings::query(&client, org, query).await?;
            reads::views(&client, org, page).await
        })
        .await
    }

    async fn channel_counts(&self, org: &Org, channel: &ChannelId) -> Result<ChannelCounts> {
        self.read_ledger(org, |client| async move {
            Ok(ChannelCounts {
                pending: listings::count_pending(&client, org, channel).await?,
                conflicts: conflicts::count_open(&client, org, channel).await?,
            })
        })
        .await
    }

    async fn note_attempts(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<AttemptNote>,
    ) -> Result<()> {
        let notes = &notes;
        self.write(org, |tx| async move { listings::note_attempts(&tx, org, channel, notes).await })
            .await
    }

    async fn note_revisions(
        &self,
        org: &Org,
        channel: &ChannelId,
        note: RevisionsNote,
    ) -> Result<()> {
        let note = &note;
        self.write(org, |tx| async move { listings::note_revisions(&tx, org, channel, note).await })
            .await
    }

    async fn note_fields(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<FieldsNote>,
    ) -> Result<()> {
        let notes = &notes;
        self.write(org, |tx| async move { listings::note_fields(&tx, org, channel, notes).await })
            .await
    }

    // --- Catalogues -----------------------------------------------------------------------

    async fn put_channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        rows: Vec<ChannelListing>,
    ) -> Result<()> {
        let rows = &rows;
        self.write(org, |tx| async move { catalogue::put(&tx, org, channel, rows).await }).await
    }

    async fn channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        query: CatalogueQuery,
    ) -> Result<Page<ChannelListingView>> {
        let query = &query;
        self.read_of(
            org,
            |client| async move { catalogue::query(&client, org, channel, query).await },
        )
        .await
    }

    async fn channel_listings_by_sku(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
        after: Option<(String, String)>,
        limit: usize,
    ) -> Result<Page<ChannelListingView>> {
        let after = after.as_ref();
        self.read_of(org, |client| async move {
            catalogue::by_sku(&client, org, channel, run, after, limit).await
        })
        .await
    }

    async fn note_matches(
        &self,
        org: &Org,
        channel: &ChannelId,
        notes: Vec<MatchNote>,
    ) -> Result<()> {
        let notes = &notes;
        self.write(org, |tx| async move { catalogue::note_matches(&tx, org, channel, notes).await })
            .await
    }

    async fn suggest(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
        skus: Vec<(String, Sku)>,
    ) -> Result<()> {
        let skus = &skus;
        self.write(org, |tx| async move { catalogue::suggest(&tx, org, channel, run, skus).await })
            .await
    }

    async fn catalogue_counts(
        &self,
        org: &Org,
        channel: &ChannelId,
        run: &str,
    ) -> Result<BTreeMap<String, u64>> {
        self.read_of(
            org,
            |client| async move { catalogue::counts(&client, org, channel, run).await },
        )
        .await
    }

    async fn forget_channel_listings(
        &self,
        org: &Org,
        channel: &ChannelId,
        but_of_run: &str,
        at_most: usize,
    ) -> Result<usize> {
        self.write(org, |tx| async move {
            catalogue::forget(&tx, org, channel, but_of_run, at_most).await
        })
        .await
    }

    // --- Doorbell -------------------------------------------------------------------------

    async fn wait_dirty(&self) -> Vec<(Org, Sku)> {
        self.shared.bell.wait().await
    }

    // --- Runs, history, conflicts ---------------------------------------------------------

    async fn put_pause(&self, org: &Org, pause: Pause) -> Result<()> {
        let pause = &pause;
        self.write(org, |tx| async move { pauses::put(&tx, org, pause).await }).await
    }

    async fn delete_pause(&self, org: &Org, sku: Option<&Sku>) -> Result<bool> {
        self.write(org, |tx| async move { pauses::delete(&tx, org, sku).await }).await
    }

    async fn pause(&self, org: &Org, sku: Option<&Sku>) -> Result<Option<Pause>> {
        self.read_of(org, |client| async move { pauses::get(&client, org, sku).await }).await
    }

    async fn pauses(&self, org: &Org, after: Option<&Sku>, limit: usize) -> Result<Page<Pause>> {
        self.read_of(org, |client| async move { pauses::list(&client, org, after, limit).await })
            .await
    }

    async fn put_run(&self, org: &Org, run: Run) -> Result<()> {
        let run = &run;
        self.write(org, |tx| async move { runs::put(&tx, org, run).await }).await
    }

    async fn run(&self, org: &Org, id: &str) -> Result<Option<Run>> {
        self.read_of(org, |client| async move { runs::get(&client, org, id).await }).await
    }

    async fn runs(&self, org: &Org, query: RunQuery) -> Result<Page<Run>> {
        let query = &query;
        self.read_of(org, |client| async move { runs::query(&client, org, query).await }).await
    }

    async fn abandon_runs(&self, shards: Vec<Shard>, now: Timestamp) -> Result<usize> {
        let shards: Vec<i16> = shards.into_iter().map(|shard| shard.0).collect();
        let shards = &shards;
        let mut count = 0;
        for shard in self.read(|client| async move { runs::running(&client, shards).await }).await?
        {
            count += self
                .write_in(shard, |tx| async move { runs::abandon(&tx, shard, now).await })
                .await?;
        }
        Ok(count)
    }

    async fn add_history(&self, org: &Org, entries: Vec<HistoryEntry>) -> Result<()> {
        let entries = &entries;
        self.write(org, |tx| async move { history::add(&tx, org, entries).await }).await
    }

    async fn history(&self, org: &Org, query: HistoryQuery) -> Result<Page<HistoryEntry>> {
        let query = &query;
        self.read_of(org, |client| async move { history::query(&client, org, query).await }).await
    }

    async fn conflicts(
        &self,
        org: &Org,
        open: Option<bool>,
        channel: Option<&ChannelId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page<Conflict>> {
        self.read_of(org, |client| async move {
            let query = ConflictQuery { open, channel, before, limit };
            conflicts::list(&client, org, query).await
        })
        .await
    }

    async fn conflict(&self, org: &Org, id: u64) -> Result<Option<Conflict>> {
        self.read_of(org, |client| async move { conflicts::get(&client, org, id).await }).await
    }

    async fn note_resolved(&self, org: &Org, id: u64, resolved: Resolved) -> Result<()> {
        let resolved = &resolved;
        self.write(org, |tx| async move { conflicts::note_resolved(&tx, org, id, resolved).await })
            .await
    }

    // --- Orders ---------------------------------------------------------------------------

    async fn held_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<OrderLineId>,
        limit: usize,
    ) -> Result<Page<HeldLine>> {
        let after = after.as_ref();
        self.read_of(org, |client| async move {
            order_lines::held(&client, org, channel, after, limit).await
        })
        .await
    }

    async fn booked_under(
        &self,
        org: &Org,
        order: &str,
        channels: Vec<ChannelId>,
    ) -> Result<Vec<(String, ChannelId)>> {
        let channels = &channels;
        self.read_of(org, |client| async move {
            order_lines::booked_under(&client, org, order, channels).await
        })
        .await
    }

    async fn move_order_lines(
        &self,
        org: &Org,
        from: &ChannelId,
        to: &ChannelId,
        at_most: usize,
    ) -> Result<usize> {
        self.write(
            org,
            |tx| async move { order_lines::move_lines(&tx, org, from, to, at_most).await },
        )
        .await
    }

    async fn put_unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        lines: Vec<UnmappedLine>,
    ) -> Result<Vec<OrderLineId>> {
        let lines = &lines;
        self.write(org, |tx| async move { unmapped::put(&tx, org, channel, lines).await }).await
    }

    async fn unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        after: Option<OrderLineId>,
        limit: usize,
    ) -> Result<Page<UnmappedLine>> {
        let after = after.as_ref();
        self.read_of(org, |client| async move {
            unmapped::list(&client, org, channel, after, limit).await
        })
        .await
    }

    async fn delete_unmapped_lines(
        &self,
        org: &Org,
        channel: &ChannelId,
        lines: Vec<UnmappedLine>,
    ) -> Result<()> {
        let lines = &lines;
        self.write(org, |tx| async move { unmapped::delete(&tx, org, channel, lines).await }).await
    }

    // --- Inbox ----------------------------------------------------------------------------

    async fn inbox_put(&self, org: &Org, item: InboxItem) -> Result<bool> {
        let added = self.inbox_put_many(org, vec![item]).await?;
        Ok(added == [true])
    }

    async fn inbox_put_many(&self, org: &Org, items: Vec<InboxItem>) -> Result<Vec<bool>> {
        let items = &items;
        self.write(org, |tx| async move { inbox::put_many(&tx, org, items).await }).await
    }

    async fn inbox_waiting(&self, now: Timestamp, limit: usize) -> Result<Vec<(Org, InboxItem)>> {
        let shards = &self.shards();
        self.read(|client| async move { inbox::waiting(&client, shards, now, limit).await }).await
    }

    async fn inbox_settle(&self, org: &Org, id: u64, settled: InboxSettled) -> Result<()> {
        let settled = &settled;
        self.write(org, |tx| async move { inbox::settle(&tx, org, id, settled).await }).await
    }

    // --- Outgoing webhooks ----------------------------------------------------------------

    async fn sealed(&self) -> Result<Vec<SealedText>> {
        self.read(|client| async move { sealed::all(&client).await }).await
    }

    async fn reseal(&self, sealed: SealedText, to: Vec<u8>) -> Result<bool> {
        let (sealed, to) = (&sealed, &to);
        self.write(&sealed.org, |tx| async move { sealed::replace(&tx, sealed, to).await }).await
    }

    async fn subscriptions(&self, org: &Org) -> Result<Vec<Subscription>> {
        self.read_of(org, |client| async move { deliveries::subscriptions(&client, org).await })
            .await
    }

    async fn subscription(&self, org: &Org, id: &str) -> Result<Option<Subscription>> {
        self.read_of(org, |client| async move { deliveries::subscription(&client, org, id).await })
            .await
    }

    async fn put_subscription(&self, org: &Org, row: Subscription) -> Result<()> {
        let row = &row;
        self.write(org, |tx| async move { deliveries::put_subscription(&tx, org, row).await }).await
    }

    async fn delete_subscription(&self, org: &Org, id: &str) -> Result<bool> {
        self.write(org, |tx| async move { deliveries::delete_subscription(&tx, org, id).await })
            .await
    }

    async fn add_event(
        &self,
        org: &Org,
        event: &str,
        body: serde_json::Value,
        at: Timestamp,
    ) -> Result<()> {
        let body = &body;
        self.write(org, |tx| async move {
            deliveries::add_event(&tx, org, event, body, at, &delivery_id).await
        })
        .await
    }

    async fn deliveries_due(&self, now: Timestamp, limit: usize) -> Result<Vec<(Org, Delivery)>> {
        let shards = &self.shards();
        self.read(|client| async move { deliveries::due(&client, shards, now, limit).await }).await
    }

    async fn deliveries(
        &self,
        org: &Org,
        subscription: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        self.read_of(org, |client| async move {
            deliveries::list(&client, org, subscription, before, limit).await
        })
        .await
    }

    async fn delivery(&self, org: &Org, id: &str) -> Result<Option<Delivery>> {
        self.read_of(org, |client| async move { deliveries::get(&client, org, id).await }).await
    }

    async fn put_delivery(&self, org: &Org, row: Delivery) -> Result<()> {
        let row = &row;
        self.write(org, |tx| async move { deliveries::put(&tx, org, row).await }).await
    }

    // --- Keys, health, upkeep -------------------------------------------------------------

    async fn api_key(&self, id: &str) -> Result<Option<(Org, ApiKey)>> {
        self.read(|client| async move { keys::get(&client, id).await }).await
    }

    async fn api_keys(&self, org: &Org) -> Result<Vec<ApiKey>> {
        self.read_of(org, |client| async move { keys::list(&client, org).await }).await
    }

    async fn put_api_key(&self, org: &Org, key: ApiKey) -> Result<()> {
        let key = &key;
        self.shared.arriving.refuse(org)?;
        self.write_in(shard_of_text(&key.id), |tx| async move {
            arrival::admitted(&tx, org).await?;
            keys::put(&tx, org, key).await
        })
        .await
    }

    fn health(&self) -> Health {
        self.shared.pool.health()
    }

    fn figures(&self) -> StoreFigures {
        self.shared.figures()
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    fn announce(&self, change: Change) {
        self.shared.announce(change);
    }

    async fn verify(&self, org: &Org) -> Result<Verification> {
        self.shared.arriving.refuse(org)?;
        self.shared.pool.snapshot(|tx| async move { verify::verify(&tx, org).await }).await
    }

    async fn orgs(&self) -> Result<Vec<Org>> {
        let mut orgs = self.read(|client| async move { reads::orgs(&client).await }).await?;
        orgs.retain(|org| self.shared.arriving.refuse(org).is_ok());
        Ok(orgs)
    }

    fn ownership(&self) -> watch::Receiver<Ownership> {
        self.shared.leases.watch()
    }

    fn holds(&self, org: &Org) -> bool {
        self.shared.holds(org)
    }

    fn for_workers(self: Arc<Self>) -> Arc<dyn Store> {
        let (shared, tasks) = (self.shared.clone(), self.tasks.clone());
        Arc::new(Self { shared, tasks, is_fenced: true })
    }

    async fn hand_over(&self, shards: Vec<Shard>) -> Result<()> {
        let shards: Vec<i16> = shards.into_iter().map(|shard| shard.0).collect();
        lease::free(&self.shared, &shards).await.map_err(PgError::refusal)
    }

    async fn retire(&self) -> Result<()> {
        lease::retire(&self.shared).await.map_err(PgError::refusal)
    }

    async fn cluster(&self) -> Result<Cluster> {
        let shared = &self.shared;
        self.read(|client| async move { lease::cluster(shared, &client).await }).await
    }

    async fn close(&self) -> Result<()> {
        self.end().await
    }
}
