//! Runs: pushes and pulls that somebody asked for, a step at a time, with progress kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use trueup_channels::{ChannelError, ChannelErrorKind};
use trueup_core::{ListingKey, Quantity, Sku};
use trueup_store::{Change, Connection, ListingQuery, ListingView, Run, RunStatus};

use super::pull::PullWork;
use super::push::{Asker, End, Errand, Report, Room, Want, Way};
use super::{ORDERS_WAIT_MAX, Worker, names_of};
use crate::backoff;
use crate::engine::{Back, EngineError, PushScope};
use crate::impact::{self, Agreed, Effect, Impact};
use crate::link::{Job, Link};
use crate::plan::{self, Lane, Plan, Skip, Wish};
use crate::request;
use crate::shared::{SKUS_MAX, Shared, VIEWS_MAX};

/// The operation of a push run.
pub(crate) const PUSH: &str = "inventory_push";
/// The operation of a run that undoes another.
pub(crate) const UNDO: &str = "inventory_undo";
/// The operation of a pull run.
pub(crate) const PULL: &str = "inventory_pull";
/// The most items and the most warnings that a run keeps one by one.
pub const RUN_ITEMS_MAX: usize = 10_000;
/// How often a run tries one listing.
const ITEM_TRIES_MAX: u32 = 4;
/// How often it tries one that the vendor asks to send later: about a minute.
const THROTTLED_TRIES_MAX: u32 = 30;
/// How often in a row a run's requests may fail before it gives up.
const RUN_FAILURES_MAX: u32 = 3;
/// The first and the longest pause between two tries, in milliseconds.
const TRY_MS_FIRST: u64 = 250;
const TRY_MS_MAX: u64 = 2_000;
/// How many listings of a run are looked at for one that is not under way or in line already.
const RUN_LOOK_MAX: usize = 1_000;
/// How often the progress of a run is kept.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// Makes a run that has just begun.
pub(crate) fn new_run(
    shared: &Shared,
    link: &Link,
    operation: &str,
    id: Option<String>,
    dry_run: bool,
) -> Run {
    Run {
        id: id.unwrap_or_else(|| format!("run_{}", uuid::Uuid::now_v7().simple())),
        operation: operation.to_owned(),
        channel: link.id.clone(),
        status: RunStatus::Running,
        dry_run,
        counters: BTreeMap::new(),
        warnings: json!([]),
        items: json!([]),
        error: None,
        request: json!({}),
        started_at: shared.now(),
        finished_at: None,
    }
}

/// A run under way.
pub(super) struct ActiveRun {
    pub(super) run: Run,
    /// What is still to be looked up of what it pushes.
    lookup: Option<Lookup>,
    /// What an operator has agreed to, where it was held before.
    pub(super) agreed: Option<Agreed>,
    /// Listings to push.
    pub(super) push: VecDeque<Want>,
    /// Those of them that are near zero where the others go the bulk way: they go by themselves.
    pub(super) near: VecDeque<Want>,
    /// Listings to push again after a pause.
    again: Vec<Want>,
    /// What is to be read, for a pull.
    pub(super) pull: Option<PullWork>,
    pub(super) items: Vec<RunItem>,
    /// Where a listing's item stands in `items`.
    pub(super) places: BTreeMap<ListingKey, usize>,
    warnings: Vec<Value>,
    /// Whether its listings may be pushed now.
    is_due: bool,
    /// How many of its batches are under way.
    pub(super) in_air: usize,
    /// Requests that failed in a row.
    pub(super) failures: u32,
    pub(super) wait_until: Instant,
    /// Whether the wait ends when the channel's orders have been heard.
    pub(super) waits_for_orders: bool,
    noted: Instant,
}

/// What a run is to push, as far as it has been looked up.
struct Lookup {
    scope: LookedUp,
    /// What is wished of a listing for which no number was given.
    by_default: Wish,
    /// The SKUs that have a listing, where some were named.
    mapped: BTreeSet<Sku>,
    wanted: Vec<(Lane, Want)>,
    /// What it would change beside what is owed anyway.
    impact: Impact,
    /// The last listing that was looked up of this piece.
    after: Option<(Sku, ListingKey)>,
}

enum LookedUp {
    All,
    Skus { exact: BTreeMap<Sku, Option<Quantity>>, left: VecDeque<Sku> },
    Listings { back: BTreeMap<ListingKey, Back>, left: VecDeque<Sku> },
}

impl LookedUp {
    /// Returns the SKUs that are left to be looked up; `None` = all are.
    fn left(&mut self) -> Option<&mut VecDeque<Sku>> {
        match self {
            Self::All => None,
            Self::Skus { left, .. } | Self::Listings { left, .. } => Some(left),
        }
    }
}

impl Lookup {
    fn new(scope: PushScope) -> Self {
        let by_default =
            if matches!(scope, PushScope::Changed(_)) { Wish::Due } else { Wish::Asked };
        let skus = |exact: BTreeMap<Sku, Option<Quantity>>| {
            let left = exact.keys().cloned().collect();
            LookedUp::Skus { exact, left }
        };
        let scope = match scope {
            PushScope::All => LookedUp::All,
            PushScope::Items(items) => skus(items.into_iter().collect()),
            PushScope::Changed(named) => skus(named.into_iter().map(|sku| (sku, None)).collect()),
            PushScope::Back(listings) => {
                let skus: BTreeSet<Sku> = listings.iter().map(|back| back.sku.clone()).collect();
                let back = listings.into_iter().map(|back| (back.key.clone(), back)).collect();
                LookedUp::Listings { back, left: skus.into_iter().collect() }
            }
        };
        let (mapped, wanted, impact) = (BTreeSet::new(), Vec::new(), Impact::default());
        Self { scope, by_default, mapped, wanted, impact, after: None }
    }

    /// Returns whether an operator may have to be asked first: what was just changed was
    /// somebody's word.
    fn is_guarded(&self) -> bool {
        // What is undone was done before, and somebody wants just that.
        self.by_default == Wish::Asked && !matches!(self.scope, LookedUp::Listings { .. })
    }
}

/// What became of one listing of a run.
pub(crate) struct RunItem {
    pub(super) sku: Sku,
    pub(super) key: ListingKey,
    /// The numbers that a pull compared.
    pub(super) compared: Option<Compared>,
    pub(super) action: &'static str,
    /// What the channel showed before, as far as known.
    pub(super) before: Option<i64>,
    pub(super) quantity: Option<i64>,
    pub(super) reason: Option<Cow<'static, str>>,
    pub(super) detail: Option<String>,
}

/// What a pull compared; what is not known is `None`.
#[derive(Default)]
pub(super) struct Compared {
    pub(super) master: Option<i64>,
    pub(super) channel: Option<i64>,
    pub(super) expected: Option<i64>,
    pub(super) strategy: Option<&'static str>,
}

impl RunItem {
    /// What a run would do that does not.
    pub(crate) fn would(action: &'static str, effect: Effect) -> Self {
        Self {
            sku: effect.sku,
            key: effect.key,
            compared: None,
            action,
            before: effect.shows,
            quantity: Some(effect.would),
            reason: None,
            detail: None,
        }
    }

    pub(crate) fn json(&self) -> Value {
        let mut item = json!({
            "sku": self.sku.as_str(), "listing": self.key.as_str(), "action": self.action,
            "before": self.before, "quantity": self.quantity,
        });
        if let Some(Compared { master, channel, expected, strategy }) = &self.compared {
            item["master"] = json!(master);
            item["channel"] = json!(channel);
            item["expected"] = json!(expected);
            item["strategy"] = json!(strategy);
        }
        if let Some(reason) = &self.reason {
            item["reason"] = json!(reason);
        }
        if let Some(detail) = &self.detail {
            item["detail"] = json!(detail);
        }
        item
    }
}

impl ActiveRun {
    fn new(run: Run) -> Self {
        let now = Instant::now();
        let warnings = run.warnings.as_array().cloned().unwrap_or_default();
        Self {
            run,
            lookup: None,
            agreed: None,
            push: VecDeque::new(),
            near: VecDeque::new(),
            again: Vec::new(),
            pull: None,
            items: Vec::new(),
            places: BTreeMap::new(),
            warnings,
            is_due: false,
            in_air: 0,
            failures: 0,
            wait_until: now,
            waits_for_orders: false,
            noted: now,
        }
    }

    /// Returns whether it is not yet known what it is to push.
    pub(super) fn looks_up(&self) -> bool {
        self.lookup.is_some()
    }

    /// Returns whether it has something to read.
    pub(super) fn reads(&self) -> bool {
        self.pull.as_ref().is_some_and(PullWork::reads)
    }

    pub(super) fn wakes_at(&self) -> Instant {
        self.wait_until
    }

    /// Waits a little after a failure. A run keeps its own time: somebody waits for it.
    pub(super) fn rest(&mut self) {
        let millis = backoff::millis(self.failures, TRY_MS_FIRST, TRY_MS_MAX);
        self.wait_until = Instant::now() + Duration::from_millis(millis);
        self.is_due = false;
    }

    pub(super) fn count(&mut self, counter: &str, by: u64) {
        *self.run.counters.entry(counter.to_owned()).or_default() += by;
    }

    pub(super) fn counted(&self, counter: &str) -> u64 {
        self.run.counters.get(counter).copied().unwrap_or(0)
    }

    /// Keeps what became of one listing; the first [`RUN_ITEMS_MAX`] are kept one by one.
    pub(super) fn item(&mut self, item: RunItem) {
        if let Some(place) = self.places.get(&item.key) {
            self.items[*place] = item;
            return;
        }
        if self.items.len() >= RUN_ITEMS_MAX {
            return;
        }
        self.places.insert(item.key.clone(), self.items.len());
        self.items.push(item);
    }

    fn warn(&mut self, warning: Value) {
        if self.warnings.len() < RUN_ITEMS_MAX {
            self.warnings.push(warning);
        }
    }

    /// Returns the run as it stands, with what became of each listing when it has ended.
    fn row(&self, has_ended: bool) -> Run {
        let items =
            if has_ended { self.items.iter().map(RunItem::json).collect() } else { json!([]) };
        Run { items, warnings: Value::Array(self.warnings.clone()), ..self.run.clone() }
    }
}

impl Worker {
    /// Does one step of the run under way, or begins the next one.
    pub(super) async fn run_step(&mut self, row: &Connection) -> Result<bool, EngineError> {
        if !self.next_run(row).await? {
            return Ok(false);
        }
        // Orders that cannot be read now are not waited for.
        let heard_all = {
            let heard = self.link.heard.lock();
            heard.wanted.is_none() || heard.failed.is_some()
        };
        let Some(run) = &mut self.run else { return Ok(false) };
        let waited = Instant::now() >= run.wait_until || (run.waits_for_orders && heard_all);
        if !waited {
            return Ok(false);
        }
        run.waits_for_orders = false;
        run.wait_until = Instant::now();
        if run.lookup.is_some() {
            self.lookup_step(row).await?;
        } else if run.reads() {
            if !self.air.is_empty() {
                return Ok(false);
            }
            self.pull_step(row).await?;
        } else if run.pull.as_ref().is_some_and(PullWork::has_put_off) {
            self.settle_put_off(row).await?;
        } else if !(run.push.is_empty() && run.near.is_empty()) {
            // They go out with the next step of pushes.
            let was_due = std::mem::replace(&mut run.is_due, true);
            self.keep_progress().await?;
            return Ok(!was_due);
        } else if run.in_air > 0 {
            return Ok(false);
        } else if run.again.is_empty() {
            self.finish_run().await?;
            return Ok(true);
        } else {
            let tries = run.again.iter().map(|want| want.tried).max().unwrap_or(1);
            let millis = backoff::millis(tries, TRY_MS_FIRST, TRY_MS_MAX);
            if !run.again.iter().any(|want| self.raising.contains_key(&want.key)) {
                run.wait_until = Instant::now() + Duration::from_millis(millis);
            }
            run.push = std::mem::take(&mut run.again).into();
            run.is_due = false;
            return Ok(false);
        }
        self.keep_progress().await?;
        Ok(true)
    }

    /// Makes sure that a run is under way; returns whether one is.
    pub(super) async fn next_run(&mut self, row: &Connection) -> Result<bool, EngineError> {
        if self.run.is_some() {
            return Ok(true);
        }
        let Some(job) = self.jobs.pop_front() else { return Ok(false) };
        match job {
            Job::Push { run, scope, agreed } => {
                let lookup = Some(Lookup::new(scope));
                self.run = Some(ActiveRun { lookup, agreed, ..ActiveRun::new(run) });
            }
            Job::Pull { run, request, agreed } => {
                self.run = Some(ActiveRun { agreed, ..ActiveRun::new(run) });
                self.begin_pull(row, request).await?;
            }
        }
        Ok(true)
    }

    /// Looks up the next piece of what a run is to push; when all is known, it is put in order.
    async fn lookup_step(&mut self, row: &Connection) -> Result<(), EngineError> {
        let lookup = self.run.as_mut().and_then(|run| run.lookup.take());
        let Some(mut lookup) = lookup else { return Ok(()) };
        let more = match self.look_up(row, &mut lookup).await {
            Ok(more) => more,
            Err(error) => {
                // It is known how far it came: what was found is not found twice.
                if let Some(run) = &mut self.run {
                    run.lookup = Some(lookup);
                }
                return Err(error);
            }
        };
        if more {
            if let Some(run) = &mut self.run {
                run.lookup = Some(lookup);
            }
            return Ok(());
        }
        let is_dry = self.run.as_ref().is_some_and(|run| run.run.dry_run);
        if is_dry {
            self.take_impact(lookup);
            return Ok(());
        }
        if lookup.is_guarded() && self.is_held(row, &mut lookup).await? {
            return Ok(());
        }
        let Lookup { scope, mapped, mut wanted, .. } = lookup;
        wanted.sort_by_key(|(lane, _)| *lane);
        let (missing, gone) = match scope {
            LookedUp::All => (Vec::new(), Vec::new()),
            LookedUp::Skus { exact, .. } => {
                (exact.into_keys().filter(|sku| !mapped.contains(sku)).collect(), Vec::new())
            }
            // Those that were found are taken out.
            LookedUp::Listings { back, .. } => (Vec::new(), back.into_values().collect()),
        };
        if let Some(run) = &mut self.run {
            run.count("total", u64::try_from(wanted.len()).unwrap_or(u64::MAX));
            for counter in ["pushed", "skipped", "failed"] {
                run.count(counter, 0);
            }
            run.push = wanted.into_iter().map(|(_, want)| want).collect();
            for Back { sku, key, .. } in gone {
                run.count("total", 1);
                close_push(run, &Want::new(sku, key, Wish::Due), End::Gone);
            }
        }
        self.note_missing(missing).await;
        Ok(())
    }

    /// Keeps what a dry push would tell; it has nothing more to do.
    fn take_impact(&mut self, lookup: Lookup) {
        let Some(run) = &mut self.run else { return };
        let total = u64::try_from(lookup.wanted.len()).unwrap_or(u64::MAX);
        run.count("total", total);
        run.count("skipped", total);
        lookup.impact.count_into(&mut run.run.counters);
        let would = lookup.impact.effects.into_iter();
        run.items = would.map(|effect| RunItem::would("would_push", effect)).collect();
    }

    /// Holds a push that would change more than it may; returns whether it does.
    async fn is_held(
        &mut self,
        row: &Connection,
        lookup: &mut Lookup,
    ) -> Result<bool, EngineError> {
        let limits = &row.blast_radius;
        if lookup.impact.is_free(limits) {
            return Ok(false);
        }
        if lookup.scope.left().is_some() {
            lookup.impact.listings =
                self.shared.count_listings(&self.link.org, &self.link.id).await?;
        }
        let agreed = self.run.as_ref().and_then(|run| run.agreed).unwrap_or_default();
        let Some(why) = lookup.impact.excess(limits, agreed) else { return Ok(false) };
        if let Some(run) = &mut self.run {
            run.count("total", u64::try_from(lookup.wanted.len()).unwrap_or(u64::MAX));
        }
        let request = match &lookup.scope {
            LookedUp::All | LookedUp::Listings { .. } => request::push(None),
            LookedUp::Skus { exact, .. } => request::push(Some(exact)),
        };
        self.hold_run(std::mem::take(&mut lookup.impact), why, request).await?;
        Ok(true)
    }

    /// Ends the run under way for now: an operator is asked whether it may go on.
    pub(super) async fn hold_run(
        &mut self,
        impact: Impact,
        why: String,
        request: Value,
    ) -> Result<(), EngineError> {
        let Some(run) = &mut self.run else { return Ok(()) };
        impact.count_into(&mut run.run.counters);
        let would = impact.effects.into_iter();
        run.items = would.map(|effect| RunItem::would("held", effect)).collect();
        run.run.status = RunStatus::Held;
        run.run.error = Some(why);
        run.run.request = request;
        self.close_run().await
    }

    /// Looks up one piece; returns whether there is more. What was just changed and is owed is put
    /// in line: the run may come before the doorbell rings.
    async fn look_up(
        &mut self,
        row: &Connection,
        lookup: &mut Lookup,
    ) -> Result<bool, EngineError> {
        let mut query = ListingQuery {
            channel: Some(self.link.id.clone()),
            after: lookup.after.clone(),
            ..ListingQuery::default()
        };
        let mut piece = Vec::new();
        if let Some(left) = lookup.scope.left() {
            piece = left.iter().take(SKUS_MAX).cloned().collect();
            query.skus = Some(piece.clone());
        }
        let (shared, link) = (self.shared.clone(), self.link.clone());
        let capabilities = link.channel.capabilities();
        let publishes = row.publishes();
        let is_dry = self.run.as_ref().is_some_and(|run| run.run.dry_run);
        let lines_up = lookup.by_default == Wish::Due && publishes;
        let weighs = lookup.is_guarded() || is_dry;
        let Lookup { scope, by_default, mapped, wanted, impact, after } = lookup;
        let look = |view: ListingView| {
            if lines_up {
                self.enqueue(&view);
            }
            let (sku, key) = names_of(&view);
            let wish = match scope {
                LookedUp::All => *by_default,
                LookedUp::Skus { exact, .. } => {
                    mapped.insert(sku.clone());
                    exact.get(&sku).copied().flatten().map_or(*by_default, Wish::Exactly)
                }
                LookedUp::Listings { back, .. } => {
                    // One that sells another SKU by now is gone.
                    if back.get(&key).is_none_or(|back| back.sku != sku) {
                        return;
                    }
                    back.remove(&key).map_or(*by_default, |back| Wish::AtMost(back.quantity))
                }
            };
            impact.listings += u64::from(impact::takes_part(&view));
            // What needs no sending is found out when its turn comes.
            let lane = match plan::plan(&view, wish, capabilities) {
                Plan::Send(sending) => {
                    // What is owed goes out with or without the run.
                    if weighs && (is_dry || !(publishes && view.is_dirty())) {
                        impact.tell(&view, sending.push.quantity);
                    }
                    sending.turn.lane
                }
                Plan::ReadFirst => Lane::Decrease,
                Plan::Skip(skip) => {
                    impact.conflicts += u64::from(skip == Skip::Conflict);
                    Lane::Increase
                }
                Plan::Shown(_) | Plan::OnItsWay(_) => Lane::Increase,
            };
            *after = Some((sku.clone(), key.clone()));
            wanted.push((lane, Want::new(sku, key, wish)));
        };
        let more = shared.first_listings(&link.org, query, VIEWS_MAX, look).await?;
        if more {
            return Ok(true);
        }
        *after = None;
        let Some(left) = scope.left() else { return Ok(false) };
        left.drain(..piece.len());
        Ok(!left.is_empty())
    }

    /// Warns of SKUs that were asked for and have no listing on the channel.
    pub(super) async fn note_missing(&mut self, missing: Vec<Sku>) {
        let mut history = Vec::new();
        for sku in missing {
            let detail = "the SKU has no mapping on this channel";
            let mut entry = self.entry(
                "mapping_missing",
                "warning",
                Some(&sku),
                json!({ "code": "mapping_missing", "detail": detail }),
            );
            let Some(run) = &mut self.run else { return };
            entry.run = Some(run.run.id.clone());
            history.push(entry);
            run.count("total", 1);
            run.count("skipped", 1);
            run.warn(json!({ "sku": sku.as_str(), "code": "mapping_missing", "detail": detail }));
        }
        self.shared.note(&self.link.org, history).await;
    }

    /// Takes the next batch of what the run pushes; what is under way already waits for its end,
    /// and what stands in line, while the line moves, for its turn there.
    pub(super) fn next_of_run(&mut self, room: Room, line_moves: bool) -> Option<Errand> {
        let run = self.run.as_ref().filter(|run| run.is_due)?;
        let takes_near = room.ordinary && !run.near.is_empty();
        let waiting = if takes_near { run.near.len() } else { run.push.len() };
        let (mut way, mut count) = self.way(if takes_near { 0 } else { waiting });
        let look = match way {
            Way::Ordinary => waiting.min(RUN_LOOK_MAX),
            Way::Bulk => waiting,
        };
        if !room.has(way) {
            return None;
        }
        let ordinary_max = self.link.channel.capabilities().push_items_max.max(1);
        let bulk_from = self.bulk_from();
        let run = self.run.as_mut()?;
        let ActiveRun { push, near, .. } = run;
        let line = if takes_near { near } else { push };
        let mut wants = Vec::new();
        for _ in 0..look {
            if wants.len() >= count {
                break;
            }
            let Some(want) = line.pop_front() else { break };
            let has_turn = line_moves && want.wish == Wish::Due && self.line.contains(&want.key);
            if has_turn || self.airborne.contains(&want.key) {
                line.push_back(want);
            } else {
                wants.push(want);
            }
        }
        if way == Way::Bulk && wants.len() < bulk_from {
            (way, count) = (Way::Ordinary, if room.ordinary { ordinary_max } else { 0 });
            let rest = wants.split_off(wants.len().min(count));
            rest.into_iter().rev().for_each(|want| line.push_front(want));
        }
        if wants.is_empty() {
            return None;
        }
        Some(Errand { wants, way, run: Some(run.run.id.clone()), of: Asker::Run })
    }

    pub(super) fn take_reports(&mut self, reports: Vec<Report>) {
        let waits_for_orders = !self.raising.is_empty();
        let Some(run) = &mut self.run else { return };
        let throttled =
            |end: &End| matches!(end, End::Again(e) if e.kind == ChannelErrorKind::Throttled);
        let wide = |end: &End| {
            matches!(end, End::Again(e) if e.kind.is_connection_wide()) && !throttled(end)
        };
        let tried: Vec<&Report> =
            reports.iter().filter(|r| !matches!(r.end, End::Skipped(_) | End::Gone)).collect();
        let failed = !tried.is_empty() && tried.iter().all(|r| wide(&r.end));
        run.failures = if failed { run.failures + 1 } else { 0 };
        if failed {
            run.rest();
        }
        let refused = reports.iter().any(|report| match &report.end {
            End::Again(error) => {
                matches!(
                    error.kind,
                    ChannelErrorKind::Auth
                        | ChannelErrorKind::Forbidden
                        | ChannelErrorKind::AccountBlocked
                        | ChannelErrorKind::Config
                )
            }
            End::Sent(_) | End::Shown(_) | End::Skipped(_) | End::Refused(_) | End::Gone => false,
        });
        let gives_up = run.failures >= RUN_FAILURES_MAX || (failed && refused);
        for Report { mut want, end } in reports {
            want.tried += 1;
            let tries_max = if throttled(&end) { THROTTLED_TRIES_MAX } else { ITEM_TRIES_MAX };
            match end {
                End::Again(_) if want.tried < tries_max && !gives_up => run.again.push(want),
                // The orders were asked for; one more try when they have been heard.
                End::Skipped(Skip::WaitsForOrders) if want.tried < 3 => {
                    run.again.push(want);
                    run.waits_for_orders = waits_for_orders;
                    run.wait_until = Instant::now() + ORDERS_WAIT_MAX;
                    run.is_due = false;
                }
                end => close_push(run, &want, end),
            }
        }
        if gives_up {
            let error =
                ChannelError::new(ChannelErrorKind::Transient, "the channel is not reached");
            let rest = run.near.drain(..).chain(run.push.drain(..));
            let rest: Vec<Want> = rest.chain(run.again.drain(..)).collect();
            for want in rest {
                close_push(run, &want, End::Again(error.clone()));
            }
        }
    }

    async fn keep_progress(&mut self) -> Result<(), EngineError> {
        let Some(run) = &mut self.run else { return Ok(()) };
        if run.noted.elapsed() < PROGRESS_PAUSE {
            return Ok(());
        }
        run.noted = Instant::now();
        let (row, id) = (run.row(false), run.run.id.clone());
        self.shared.store.put_run(&self.link.org, row).await?;
        self.shared.store.announce(Change::Run { org: self.link.org.clone(), id });
        Ok(())
    }

    /// Ends the run under way before its work is done.
    pub(super) async fn fail_run(&mut self, why: &str) -> Result<(), EngineError> {
        if let Some(run) = &mut self.run {
            run.run.error = Some(why.to_owned());
            run.lookup = None;
            run.push.clear();
            run.near.clear();
            run.again.clear();
            run.pull = None;
        }
        self.finish_run().await
    }

    /// Ends the run under way, whose work is done.
    async fn finish_run(&mut self) -> Result<(), EngineError> {
        let Some(run) = &mut self.run else { return Ok(()) };
        if let Some(pull) = run.pull.take_if(|pull| pull.is_dry()) {
            let conflicts = run.counted("conflicts");
            pull.impact().count_into(&mut run.run.counters);
            run.run.counters.insert("conflicts".to_owned(), conflicts);
        }
        let done: u64 = ["pushed", "skipped", "matched", "adopted", "conflicts"]
            .map(|c| run.counted(c))
            .iter()
            .sum();
        let failed = run.counted("failed");
        run.run.status = match (run.run.error.is_some(), failed, done) {
            (false, 0, _) => RunStatus::Completed,
            (_, _, 0) => RunStatus::Failed,
            (_, _, _) => RunStatus::Partial,
        };
        run.run.finished_at = Some(self.shared.now());
        self.close_run().await
    }

    /// Keeps how the run under way has ended, and tells.
    async fn close_run(&mut self) -> Result<(), EngineError> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let row = run.row(false);
        let org = self.link.org.clone();
        self.shared.store.put_run(&org, run.row(true)).await?;
        self.run = None;
        let status = match row.status {
            RunStatus::Completed => "ok",
            RunStatus::Partial => "partial",
            RunStatus::Failed | RunStatus::Running => "error",
            RunStatus::Held => "held",
            RunStatus::Cancelled => "cancelled",
        };
        let detail = json!({
            "counters": row.counters, "dryRun": row.dry_run, "error": row.error,
        });
        let mut entry = self.entry(&row.operation, status, None, detail);
        entry.run = Some(row.id.clone());
        self.shared.note(&org, vec![entry]).await;
        if row.status != RunStatus::Completed {
            self.shared.tell_run(&org, &row, status).await;
        }
        metrics::counter!("trueup_runs_total", "operation" => row.operation.clone(),
            "status" => status)
        .increment(1);
        self.shared.store.announce(Change::Run { org, id: row.id });
        self.shared.run_ended.notify_waiters();
        Ok(())
    }

    /// Ends what will not be worked on any more, because the worker stops.
    pub(super) async fn abandon(&mut self) {
        let why = "the worker was stopped";
        loop {
            if self.run.is_none() {
                let job = {
                    let mut mail = self.link.mail.lock();
                    self.jobs.append(&mut mail.jobs);
                    self.jobs.pop_front()
                };
                let Some(Job::Push { run, .. } | Job::Pull { run, .. }) = job else { return };
                self.run = Some(ActiveRun::new(run));
            }
            if self.fail_run(why).await.is_err() {
                // The store is gone; `abandon_runs` ends them at the next start.
                return;
            }
        }
    }
}

/// Counts what finally became of a push, and keeps its item.
fn close_push(run: &mut ActiveRun, want: &Want, end: End) {
    let mut before = want.before;
    let (counter, action, quantity, reason, detail) = match end {
        End::Sent(quantity) | End::Shown(quantity) => {
            if let End::Shown(_) = end {
                before = Some(quantity);
            }
            let reason = is_less(want.wish, quantity).then_some("not_available");
            ("pushed", "pushed", Some(quantity), reason, None)
        }
        End::Skipped(skip) => ("skipped", "skipped", None, Some(skip.as_str()), None),
        End::Gone => ("skipped", "skipped", None, Some("mapping_missing"), None),
        End::Again(error) | End::Refused(error) => {
            ("failed", "failed", None, Some(plan::error_code(error.kind)), Some(error.detail))
        }
    };
    run.count(counter, 1);
    if let Some(place) = run.places.get(&want.key).copied().filter(|_| run.pull.is_some()) {
        let item = &mut run.items[place];
        item.action = match counter {
            "pushed" => "pushed",
            "skipped" => "pending",
            _ => "error",
        };
        item.before = before.or(item.before);
        item.quantity = quantity.or(item.quantity);
        item.reason = reason.map(Cow::Borrowed).or(item.reason.take());
        item.detail = detail.or(item.detail.take());
        return;
    }
    if run.pull.is_none() {
        run.item(RunItem {
            sku: want.sku.clone(),
            key: want.key.clone(),
            compared: None,
            action,
            before,
            quantity,
            reason: reason.map(Cow::Borrowed),
            detail,
        });
    }
}

/// Returns whether a listing could not be told all that it was to show again.
fn is_less(wish: Wish, told: i64) -> bool {
    match wish {
        Wish::AtMost(quantity) => quantity.delta().get() > told,
        Wish::Owed | Wish::Due | Wish::Asked | Wish::Exactly(_) => false,
    }
}
