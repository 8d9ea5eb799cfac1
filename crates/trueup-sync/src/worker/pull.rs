//! Pulling: readings are compared with what was published, and what they call for is done.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;
use trueup_channels::{CatalogueEntry, ChannelError, Page, Reading};
use trueup_core::{ListingKey, ReconcileAction, Reconciled, Sku, Timestamp};
use trueup_store::{Connection, ListingQuery, ListingView};

use super::push::Want;
use super::run::{Compared, RunItem};
use super::{ORDERS_WAIT_MAX, Worker, names_of};
use crate::engine::{EngineError, PullRequest, strategy_word};
use crate::impact::{Agreed, Impact};
use crate::link::Link;
use crate::plan::{self, Wish};
use crate::rehearse::{self, Settling};
use crate::request;
use crate::shared::{SKUS_MAX, Shared};

/// How often a pull asks for one batch before its listings count as failed.
const READ_TRIES_MAX: u32 = 3;

/// What a pull still has to read.
pub(super) struct PullWork {
    /// What is read page by page, before the rest is read by identifiers.
    sweep: Option<Sweep>,
    pending: VecDeque<Pending>,
    request: PullRequest,
    /// What it would change, or has changed, beside what is owed anyway.
    impact: Impact,
    /// Differences beyond what may always be changed: settled when all is read and known to be
    /// within the limits.
    put_off: Vec<PutOff>,
    /// Whether they are known to be.
    is_within: bool,
}

/// A reading that is settled later, if at all.
struct PutOff {
    read_at: Timestamp,
    sku: Sku,
    key: ListingKey,
    observed: i64,
}

/// A walk over the channel's whole catalogue.
struct Sweep {
    /// The next page.
    cursor: Option<String>,
    /// Listings that no page has shown yet.
    left: BTreeMap<ListingKey, Sku>,
    /// How many pages in a row have shown none of them.
    barren: usize,
    /// The next page, read while the one before is settled; given up when dropped.
    ahead: Option<JoinSet<Leaf>>,
}

/// A page of the catalogue, or why it could not be read.
struct Leaf {
    asked_at: Instant,
    read_at: Timestamp,
    page: Result<Page<CatalogueEntry>, ChannelError>,
}

impl Sweep {
    /// Returns whether going on costs less than reading what is left by identifiers: pages that
    /// show none of it cost as much at most.
    fn pays(&self, read_items_max: usize) -> bool {
        self.barren < self.left.len().div_ceil(read_items_max.max(1))
    }
}

impl PullWork {
    /// Returns whether something is left to read.
    pub(super) fn reads(&self) -> bool {
        self.sweep.is_some() || !self.pending.is_empty()
    }

    /// Returns whether it only says what it would do.
    pub(super) fn is_dry(&self) -> bool {
        self.request.dry_run
    }

    /// Returns what it would change.
    pub(super) fn impact(&self) -> &Impact {
        &self.impact
    }

    /// Returns whether everything is read and something of it is not settled yet.
    pub(super) fn has_put_off(&self) -> bool {
        !self.reads() && !self.put_off.is_empty()
    }

    /// Ends the sweep: what it has not shown is read by identifiers.
    fn end_sweep(&mut self) {
        let left = self.sweep.take().map(|sweep| sweep.left).unwrap_or_default();
        let pending = |(key, sku)| Pending { sku, key, second_look: false };
        self.pending.extend(left.into_iter().map(pending));
    }
}

/// A listing to read.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    sku: Sku,
    key: ListingKey,
    /// Whether it was read before and showed less than orders explained.
    second_look: bool,
}

impl Worker {
    pub(super) async fn begin_pull(
        &mut self,
        row: &Connection,
        request: PullRequest,
    ) -> Result<(), EngineError> {
        let mut query =
            ListingQuery { channel: Some(self.link.id.clone()), ..ListingQuery::default() };
        let (shared, org) = (self.shared.clone(), self.link.org.clone());
        let page_max = self.link.channel.capabilities().sweep_items_max;
        let names_skus = request.skus.is_some();
        let sweeps = !names_skus && page_max > 0;
        let mut pending = VecDeque::new();
        let mut left = BTreeMap::new();
        let mut mapped = BTreeSet::new();
        let mut look = |view: ListingView| {
            if names_skus {
                mapped.insert(view.mapping.sku.clone());
            }
            if !view.mapping.enabled {
                return;
            }
            let (sku, key) = names_of(&view);
            if sweeps && self.link.channel.is_in_catalogue(&view.mapping.fields) {
                left.insert(key, sku);
            } else {
                pending.push_back(Pending { sku, key, second_look: false });
            }
        };
        let mut missing = Vec::new();
        match &request.skus {
            None => shared.each_listing(&org, query, &mut look).await?,
            Some(skus) => {
                let unique: BTreeSet<Sku> = skus.iter().cloned().collect();
                let unique: Vec<Sku> = unique.into_iter().collect();
                for skus in unique.chunks(crate::shared::SKUS_MAX) {
                    query.skus = Some(skus.to_vec());
                    shared.each_listing(&org, query.clone(), &mut look).await?;
                }
                missing = unique.into_iter().filter(|sku| !mapped.contains(sku)).collect();
            }
        }
        let Some(run) = &mut self.run else { return Ok(()) };
        let total = pending.len() + left.len();
        run.count("total", u64::try_from(total).unwrap_or(u64::MAX));
        for counter in ["checked", "matched", "adopted", "pushed", "conflicts", "skipped", "failed"]
        {
            run.count(counter, 0);
        }
        let dry_run = request.dry_run || row.dry_run;
        run.run.dry_run = dry_run;
        let is_worth_it = left.len() > page_max;
        let sweep = Some(Sweep { cursor: None, left, barren: 0, ahead: None });
        let request = PullRequest { dry_run, ..request };
        let (impact, put_off) = (Impact::default(), Vec::new());
        let mut pull = PullWork { sweep, pending, request, impact, put_off, is_within: false };
        if !is_worth_it {
            pull.end_sweep();
        }
        run.pull = Some(pull);
        if row.sync_orders && !dry_run {
            self.link.want_orders(self.shared.now());
            run.wait_until = Instant::now() + ORDERS_WAIT_MAX;
            run.waits_for_orders = true;
        }
        self.note_missing(missing).await;
        Ok(())
    }

    /// Reads and settles one page or batch.
    pub(super) async fn pull_step(&mut self, row: &Connection) -> Result<(), EngineError> {
        let sweeps =
            self.run.as_ref().and_then(|run| run.pull.as_ref()).is_some_and(|p| p.sweep.is_some());
        if sweeps { self.sweep_step(row).await } else { self.read_step(row).await }
    }

    /// Reads one page of the catalogue and settles what is mapped of it.
    async fn sweep_step(&mut self, row: &Connection) -> Result<(), EngineError> {
        let sweep = self.run.as_mut().and_then(|run| run.pull.as_mut()?.sweep.as_mut());
        let Some(sweep) = sweep else { return Ok(()) };
        // A push that has landed since may be in the page or not.
        let pushed_at = self.pushed_at;
        let ahead = match sweep.ahead.take() {
            Some(mut ahead) => ahead.join_next().await.and_then(Result::ok),
            None => None,
        };
        let ahead = ahead.filter(|leaf| pushed_at.is_none_or(|pushed| pushed < leaf.asked_at));
        let leaf = match ahead {
            Some(leaf) => leaf,
            None => turn(self.link.clone(), self.shared.clone(), sweep.cursor.clone()).await,
        };
        let (link, read_at) = (self.link.clone(), leaf.read_at);
        let page = match leaf.page {
            Ok(page) => page,
            Err(error) => {
                self.fell_out(&error).await?;
                let Some(run) = &mut self.run else { return Ok(()) };
                run.failures += 1;
                run.rest();
                if run.failures >= READ_TRIES_MAX
                    && let Some(pull) = &mut run.pull
                {
                    run.failures = 0;
                    pull.end_sweep();
                }
                return Ok(());
            }
        };
        self.came_through();
        let Some(pull) = self.run.as_mut().and_then(|run| run.pull.as_mut()) else {
            return Ok(());
        };
        let Some(sweep) = &mut pull.sweep else { return Ok(()) };
        let mut shown: BTreeMap<ListingKey, Reading> = BTreeMap::new();
        let mut taken: Vec<Pending> = Vec::new();
        for entry in page.items {
            let key = link.kind.listing(&link.settings, entry.fields).map(|(key, _)| key);
            // Listed twice or not mapped: nothing of ours.
            let Some((key, sku)) = key.ok().and_then(|key| sweep.left.remove_entry(&key)) else {
                continue;
            };
            shown.insert(key.clone(), entry.reading);
            taken.push(Pending { sku, key, second_look: false });
        }
        sweep.barren = if taken.is_empty() { sweep.barren + 1 } else { 0 };
        let moves = page.next.is_some() && page.next != sweep.cursor;
        sweep.cursor.clone_from(&page.next);
        let goes_on = moves && sweep.pays(link.channel.capabilities().read_items_max);
        if goes_on {
            // Asked for before this one is looked up and settled: the vendor's answers do not
            // wait for the store.
            let ahead = sweep.ahead.insert(JoinSet::new());
            ahead.spawn(turn(link.clone(), self.shared.clone(), page.next));
        } else {
            pull.end_sweep();
        }
        let skus: Vec<Sku> = taken.iter().map(|pending| pending.sku.clone()).collect();
        let views = match self.shared.listings_of(&link.org, &link.id, &skus).await {
            Ok(views) => views,
            Err(error) => {
                if let Some(pull) = self.run.as_mut().and_then(|run| run.pull.as_mut()) {
                    pull.pending.extend(taken);
                }
                return Err(error.into());
            }
        };
        let with_reading = |view: ListingView| {
            let reading = shown.remove(&view.mapping.key)?;
            Some((view, reading))
        };
        let items: Vec<(ListingView, Reading)> =
            views.into_iter().filter_map(with_reading).collect();
        if let Some(run) = &mut self.run {
            run.failures = 0;
            run.count("skipped", u64::try_from(shown.len()).unwrap_or(0));
        }
        self.take_readings(row, read_at, items, &BTreeSet::new()).await
    }

    /// Reads and settles one batch by identifiers.
    async fn read_step(&mut self, row: &Connection) -> Result<(), EngineError> {
        let size = self.link.channel.capabilities().read_items_max.max(1);
        let Some(pull) = self.run.as_mut().and_then(|run| run.pull.as_mut()) else {
            return Ok(());
        };
        let size = size.min(pull.pending.len());
        let batch: Vec<Pending> = pull.pending.drain(..size).collect();
        let keys: Vec<(Sku, ListingKey)> =
            batch.iter().map(|pending| (pending.sku.clone(), pending.key.clone())).collect();
        let read = self.read(&keys).await;
        let readings = match read {
            Ok(Some(readings)) => readings,
            Ok(None) => {
                self.put_back(batch);
                return Ok(());
            }
            Err(error) => {
                self.put_back(batch);
                return Err(error);
            }
        };
        if let Some(run) = &mut self.run {
            run.failures = 0;
            let read: BTreeSet<&ListingKey> =
                readings.items.iter().map(|(view, _)| &view.mapping.key).collect();
            let gone = batch.iter().filter(|pending| !read.contains(&pending.key)).count();
            run.count("skipped", u64::try_from(gone).unwrap_or(0));
        }
        let seen: BTreeSet<ListingKey> =
            batch.iter().filter(|p| p.second_look).map(|p| p.key.clone()).collect();
        self.take_readings(row, readings.read_at, readings.items, &seen).await
    }

    /// Settles what was read; `seen` was read once before.
    async fn take_readings(
        &mut self,
        row: &Connection,
        read_at: Timestamp,
        items: Vec<(ListingView, Reading)>,
        seen: &BTreeSet<ListingKey>,
    ) -> Result<(), EngineError> {
        let Some(pull) = self.run.as_ref().and_then(|run| run.pull.as_ref()) else {
            return Ok(());
        };
        let (strategy, dry_run) = (pull.request.strategy, pull.request.dry_run);
        let settle_ms = self.link.channel.capabilities().settle_ms;
        let settling = Settling { read_at, settle_ms, strategy };
        let mut known = Vec::new();
        for (view, reading) in items {
            let second_look = seen.contains(&view.mapping.key);
            if let Some(observed) = self.pull_one(row, &view, &reading, second_look, dry_run) {
                known.push((view, observed));
            }
        }
        if self.run.as_ref().is_some_and(|run| run.agreed.is_some()) {
            return self.settle_pulled(settling, &known).await;
        }
        let rehearsed = rehearse::readings(&self.link.id, self.shared.now(), settling, &known);
        if dry_run {
            if let Some(pull) = self.run.as_mut().and_then(|run| run.pull.as_mut()) {
                pull.impact.listings += u64::try_from(known.len()).unwrap_or(u64::MAX);
                rehearse::weigh_all(&mut pull.impact, &known, &rehearsed);
            }
            self.take_reconciled(&known, rehearsed, dry_run);
            return Ok(());
        }
        let known = self.put_off(row, read_at, known, &rehearsed);
        self.settle_pulled(settling, &known).await
    }

    async fn settle_pulled(
        &mut self,
        settling: Settling,
        known: &[(ListingView, i64)],
    ) -> Result<(), EngineError> {
        match self.submit_readings(settling, known).await {
            Ok(done) => {
                self.take_reconciled(known, done, false);
                Ok(())
            }
            Err(error) => {
                if let Some(run) = &mut self.run {
                    run.run.error = Some("some readings could not be settled".to_owned());
                }
                Err(error)
            }
        }
    }

    /// Counts what settling readings would change, and puts off what is more than may always be
    /// changed; returns the rest. The first differences are settled at once: there may be sales
    /// among them that nobody has heard of.
    fn put_off(
        &mut self,
        row: &Connection,
        read_at: Timestamp,
        known: Vec<(ListingView, i64)>,
        rehearsed: &[Reconciled],
    ) -> Vec<(ListingView, i64)> {
        let Some(run) = &mut self.run else { return known };
        let Some(pull) = &mut run.pull else { return known };
        let by_key: BTreeMap<&ListingKey, &Reconciled> =
            rehearsed.iter().map(|item| (&item.key, item)).collect();
        let mut now = Vec::with_capacity(known.len());
        for (view, observed) in known {
            let item = by_key.get(&view.mapping.key);
            let is_owed = |item: &Reconciled| {
                item.action == ReconcileAction::Push && row.publishes() && view.is_dirty()
            };
            let counts = item.is_some_and(|item| {
                !is_owed(item) && rehearse::weigh(&mut pull.impact, &view, item)
            });
            if counts && !pull.impact.is_free(&row.blast_radius) {
                let (sku, key) = names_of(&view);
                pull.put_off.push(PutOff { read_at, sku, key, observed });
            } else {
                now.push((view, observed));
            }
        }
        now
    }

    /// Settles what was put off, or holds the pull where that is more than it may change.
    pub(super) async fn settle_put_off(&mut self, row: &Connection) -> Result<(), EngineError> {
        let Some(pull) = self.run.as_mut().and_then(|run| run.pull.as_mut()) else {
            return Ok(());
        };
        if !pull.is_within {
            pull.impact.listings =
                self.shared.count_listings(&self.link.org, &self.link.id).await?;
            if let Some(why) = pull.impact.excess(&row.blast_radius, Agreed::default()) {
                let (impact, request) =
                    (std::mem::take(&mut pull.impact), request::pull(&pull.request));
                return self.hold_run(impact, why, request).await;
            }
            pull.is_within = true;
        }
        let strategy = pull.request.strategy;
        let read_at = pull.put_off[0].read_at;
        let alike = pull.put_off.iter().take_while(|one| one.read_at == read_at).count();
        let batch: Vec<PutOff> = pull.put_off.drain(..alike.min(SKUS_MAX)).collect();
        let skus: Vec<Sku> = batch.iter().map(|one| one.sku.clone()).collect();
        let mut views = self.views_of(&skus).await?;
        let known: Vec<(ListingView, i64)> =
            batch.iter().filter_map(|one| Some((views.remove(&one.key)?, one.observed))).collect();
        let settle_ms = self.link.channel.capabilities().settle_ms;
        self.settle_pulled(Settling { read_at, settle_ms, strategy }, &known).await
    }

    fn put_back(&mut self, batch: Vec<Pending>) {
        let Some(run) = &mut self.run else { return };
        run.failures += 1;
        run.rest();
        if run.failures < READ_TRIES_MAX {
            if let Some(pull) = &mut run.pull {
                batch.into_iter().rev().for_each(|pending| pull.pending.push_front(pending));
            }
            return;
        }
        let rest = run.pull.as_mut().map(|pull| std::mem::take(&mut pull.pending));
        run.run.error = Some("the channel could not be read".to_owned());
        for pending in batch.into_iter().chain(rest.into_iter().flatten()) {
            run.count("failed", 1);
            run.item(RunItem {
                sku: pending.sku,
                key: pending.key,
                compared: Some(Compared::default()),
                action: "error",
                before: None,
                quantity: None,
                reason: Some(Cow::Borrowed("channel_unreachable")),
                detail: None,
            });
        }
    }

    /// Looks at one reading; returns the number when it is to be settled.
    fn pull_one(
        &mut self,
        row: &Connection,
        view: &ListingView,
        reading: &Reading,
        second_look: bool,
        dry_run: bool,
    ) -> Option<i64> {
        let expected = plan::expected(view, self.link.channel.capabilities().quantity_max);
        let observed = match (reading, expected) {
            (Reading::Quantity(observed), Some(_)) => *observed,
            (Reading::Quantity(observed), None) => {
                let words = "the SKU is not in the ledger";
                self.pull_unknown(view, Some(*observed), expected, words);
                return None;
            }
            (Reading::Unknown(why), _) => {
                self.pull_unknown(view, None, expected, why);
                return None;
            }
        };
        let on_its_way = self.checks.get(&view.mapping.key).is_some_and(|check| {
            observed != check.sent && check.earlier.contains(&observed) && !check.is_settled()
        });
        if on_its_way || self.link.is_fed(&view.mapping.key) {
            let action = ReconcileAction::Pending;
            let item = self.compared(view, observed, expected.unwrap_or(0), action);
            self.close_pulled(&item);
            return None;
        }
        let is_lower = view.state.base.is_some_and(|base| observed < base);
        let explained =
            Some(observed) == expected || view.state.in_conflict || view.mapping.channel_fulfilled;
        if row.sync_orders && !dry_run && !second_look && is_lower && !explained {
            // It may be a sale that was not heard of: hear the orders, then read again.
            let since = self.shared.now();
            self.link.want_orders(since);
            if let Some(run) = &mut self.run
                && let Some(pull) = &mut run.pull
            {
                let (sku, key) = (view.mapping.sku.clone(), view.mapping.key.clone());
                pull.pending.push_back(Pending { sku, key, second_look: true });
                run.wait_until = Instant::now() + ORDERS_WAIT_MAX;
                run.waits_for_orders = true;
            }
            return None;
        }
        Some(observed)
    }

    fn pull_unknown(
        &mut self,
        view: &ListingView,
        observed: Option<i64>,
        expected: Option<i64>,
        why: &str,
    ) {
        let master = view.sku.as_ref().map(|_| plan::master(view));
        let Some(run) = &mut self.run else { return };
        run.count("checked", 1);
        run.count("skipped", 1);
        run.item(RunItem {
            sku: view.mapping.sku.clone(),
            key: view.mapping.key.clone(),
            compared: Some(Compared {
                master,
                channel: observed,
                expected,
                strategy: Some(strategy_word(view.state.strategy)),
            }),
            action: "unknown",
            before: observed,
            quantity: expected,
            reason: Some(Cow::Owned(why.to_owned())),
            detail: None,
        });
    }

    fn compared(
        &self,
        view: &ListingView,
        observed: i64,
        expected: i64,
        action: ReconcileAction,
    ) -> Reconciled {
        Reconciled {
            key: view.mapping.key.clone(),
            sku: view.mapping.sku.clone(),
            master: plan::master(view),
            observed,
            expected,
            strategy: view.state.strategy,
            action,
            quantity: expected,
        }
    }

    fn take_reconciled(
        &mut self,
        known: &[(ListingView, i64)],
        done: Vec<Reconciled>,
        dry_run: bool,
    ) {
        let mut by_key: BTreeMap<ListingKey, Reconciled> =
            done.into_iter().map(|item| (item.key.clone(), item)).collect();
        let quantity_max = self.link.channel.capabilities().quantity_max;
        for (view, observed) in known {
            // Not in the answer: at the channel's own limit, which the ledger does not know.
            let item = by_key.remove(&view.mapping.key).unwrap_or_else(|| {
                let expected = plan::expected(view, quantity_max).unwrap_or(*observed);
                self.compared(view, *observed, expected, ReconcileAction::Matched)
            });
            self.close_pulled(&item);
            let owes = match item.action {
                ReconcileAction::Push => true,
                // With a buffer or a share, what was adopted may change the number again.
                ReconcileAction::Adopted => {
                    !view.mapping.channel_fulfilled && item.quantity != item.observed
                }
                ReconcileAction::Matched | ReconcileAction::Conflict | ReconcileAction::Pending => {
                    false
                }
            };
            if owes
                && !dry_run
                && let Some(run) = &mut self.run
            {
                let (sku, key) = (item.sku, item.key);
                run.push.push_back(Want::new(sku, key, Wish::Due));
            }
        }
    }

    /// Counts a comparison and keeps its item; pushes are counted when they are done.
    fn close_pulled(&mut self, item: &Reconciled) {
        let Some(run) = &mut self.run else { return };
        let dry_run = run.pull.as_ref().is_some_and(|pull| pull.request.dry_run);
        let word = match item.action {
            ReconcileAction::Matched => "matched",
            ReconcileAction::Push => "pushed",
            ReconcileAction::Adopted => "adopted",
            ReconcileAction::Conflict => "conflict",
            ReconcileAction::Pending => "pending",
        };
        run.count("checked", 1);
        match item.action {
            ReconcileAction::Matched => run.count("matched", 1),
            ReconcileAction::Push if dry_run => run.count("pushed", 1),
            ReconcileAction::Push => {}
            ReconcileAction::Adopted => run.count("adopted", 1),
            ReconcileAction::Conflict => run.count("conflicts", 1),
            ReconcileAction::Pending => run.count("skipped", 1),
        }
        run.item(pulled(item, word));
        if item.action == ReconcileAction::Adopted {
            // A push that follows is counted and does not replace the word.
            run.places.remove(&item.key);
        }
    }
}

/// Reads a page of the catalogue.
async fn turn(link: Arc<Link>, shared: Arc<Shared>, cursor: Option<String>) -> Leaf {
    let (asked_at, read_at) = (Instant::now(), shared.now());
    let page = link.channel.catalogue(&link.transport, cursor.as_deref()).await;
    Leaf { asked_at, read_at, page }
}

impl super::Check {
    fn is_settled(&self) -> bool {
        Instant::now() >= self.settles_at
    }
}

fn pulled(item: &Reconciled, word: &'static str) -> RunItem {
    RunItem {
        sku: item.sku.clone(),
        key: item.key.clone(),
        compared: Some(Compared {
            master: Some(item.master),
            channel: Some(item.observed),
            expected: Some(item.expected),
            strategy: Some(strategy_word(item.strategy)),
        }),
        action: word,
        before: Some(item.observed),
        quantity: Some(item.quantity),
        reason: None,
        detail: None,
    }
}
