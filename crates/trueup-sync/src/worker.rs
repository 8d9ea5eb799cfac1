//! The worker of one connection: one task, so that its pushes and pulls never overlap.
//!
//! Each turn looks at what is owed and does one bounded piece of each kind: a batch of pushes,
//! a batch of verifying readings, a batch of readings that were asked for, a step of a run.
//! State that matters is in the store; what is kept here may be lost with the process.

mod feed;
mod line;
mod pull;
mod push;
mod read;
pub(crate) mod run;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use trueup_channels::{ChannelError, ChannelErrorKind, QUOTA_KEPT};
use trueup_core::{ListingKey, ListingState, Sku, Timestamp};
use trueup_store::{Connection, ConnectionState, HistoryEntry, ListingQuery, ListingView};

use crate::backoff;
use crate::engine::EngineError;
use crate::link::{Job, Link};
use crate::plan::{self, Lane, Plan, Turn, Wish};
use crate::shared::Shared;
use feed::OpenFeed;
use line::{Line, Waiting};
use push::{Flight, Gathering};

pub use run::RUN_ITEMS_MAX;

/// The most attempts that an unverified or stale push gets before it is parked.
pub const VERIFY_TRIES_MAX: u32 = 3;
/// The first and the longest pause after the connection failed, in milliseconds.
const OUTAGE_MS_FIRST: u64 = 500;
const OUTAGE_MS_MAX: u64 = 60_000;
/// The same when the vendor lacks a permission or a setting of ours.
const REFUSED_MS_FIRST: u64 = 30_000;
const REFUSED_MS_MAX: u64 = 600_000;
/// The first and the longest pause before one listing is tried again, in milliseconds.
const LISTING_MS_FIRST: u64 = 500;
const LISTING_MS_MAX: u64 = 300_000;
/// How long before they are too old for a raise orders are heard again, in milliseconds: so that
/// the line is not stopped by it.
const ORDERS_AHEAD_MS: i64 = 10_000;
/// How long a reading or a run waits for orders to be heard.
const ORDERS_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long reading waits for pushes to land.
const READING_WAIT_MAX: Duration = Duration::from_secs(2);
/// How much later than due a push is looked for on the channel while others are owed.
const CHECK_DELAY_MAX: Duration = Duration::from_secs(300);
/// How long no push must have landed before pushes are looked for: more of a change may come. So
/// much later than due they are looked for in any case where reading takes nothing from pushes.
const CHECK_QUIET_MAX: Duration = Duration::from_secs(2);
/// How many batches are read in a row while pushes wait that could not be oversold.
const READINGS_IN_A_ROW_MAX: u32 = 10;
/// How long what is not urgent waits for a quota before it is tried again, in milliseconds: the
/// vendor may tell of another quota meanwhile.
const SPARING_MS_MAX: u64 = 600_000;
/// How often the note of the last sync is written at most.
const SYNC_NOTE_MS: u64 = 2_000;
/// Of how many SKUs it is looked at a time whether they owe a push; pushes go out in between.
const OWING_AT_ONCE: usize = 1_000;
/// How long the worker rests after the store failed.
const STORE_REST: Duration = Duration::from_secs(1);
/// How long the worker rests at least before it looks again by itself.
const SPIN_REST: Duration = Duration::from_millis(5);
/// How long the worker sleeps at most.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// Since when a listing is to be raised, and how it stood then: once anything has been settled
/// of it, a raise is another wish.
#[derive(Debug, Clone, Copy)]
struct RaiseWish {
    at: Timestamp,
    acked_version: u64,
    epoch: u32,
    forced: bool,
}

impl RaiseWish {
    fn new(at: Timestamp, state: &ListingState) -> Self {
        let ListingState { acked_version, epoch, forced, .. } = *state;
        Self { at, acked_version, epoch, forced }
    }

    fn is_of(&self, state: &ListingState) -> bool {
        (self.acked_version, self.epoch, self.forced)
            == (state.acked_version, state.epoch, state.forced)
    }
}

/// What is still to be looked at for pushes that it owes.
#[derive(Debug, Default)]
struct Owing {
    skus: BTreeSet<Sku>,
    /// A walk over all that the store has marked, and the last listing that it has seen.
    sweep: Option<Option<(Sku, ListingKey)>>,
    /// Whether another walk was asked for while one was under way.
    sweep_again: bool,
}

impl Owing {
    fn is_empty(&self) -> bool {
        self.skus.is_empty() && self.sweep.is_none()
    }

    fn ask_for_sweep(&mut self) {
        self.sweep_again = self.sweep.is_some();
        self.sweep.get_or_insert(None);
    }
}

/// A listing to be tried again later.
#[derive(Debug, Clone)]
struct Later {
    sku: Sku,
    at: Instant,
    /// Its place in line then.
    turn: Turn,
}

/// A batch whose outcome is unclear: it is sent again as it was, so that it meets its own token.
#[derive(Debug)]
struct Unclear {
    at: Instant,
    run: Option<String>,
    wants: Vec<push::Want>,
}

/// A reading that was asked for.
#[derive(Debug, Clone)]
struct Reread {
    sku: Sku,
    not_before: Instant,
    /// Waits until orders were heard after this, or until the deadline.
    orders_since: Option<Timestamp>,
    deadline: Instant,
    /// The channel itself said that its number is another: no reading is too early.
    surely_changed: bool,
}

/// A push whose application is to be seen.
#[derive(Debug, Clone)]
struct Check {
    sku: Sku,
    due: Instant,
    pause: Duration,
    settles_at: Instant,
    /// Numbers that the channel showed or was told before, newest last: seeing one of them
    /// means "not yet", not "the channel moved".
    earlier: Vec<i64>,
    /// The number that was told last.
    sent: i64,
}

/// Whether the vendor can be talked to.
#[derive(Debug, Default)]
struct Outage {
    failures: u32,
    until: Option<Instant>,
    told: bool,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    link: Arc<Link>,
    line: Line,
    owing: Owing,
    /// What is first in line and waits for more that goes the bulk way with it.
    gathering: Option<Gathering>,
    /// Pushes under way, or ready for one of the vendor's slots.
    air: JoinSet<Flight>,
    /// How many of them go the bulk way.
    bulk_in_air: usize,
    /// The listings that they are of.
    airborne: FxHashSet<ListingKey>,
    /// Listings that owed a push while one of theirs was under way.
    landing: BTreeSet<Sku>,
    /// Bulk batches that the vendor has.
    feeds: Vec<OpenFeed>,
    /// When the last of them ended, and how long it took from its beginning.
    bulk_took: Option<(Instant, Duration)>,
    /// Bulk batches that are said to have ended and whose tickets have not landed.
    ended: BTreeSet<String>,
    /// Since when reading has waited for pushes to land.
    reading_waits: Option<Instant>,
    /// How many batches have been read since pushes waited for it.
    readings_in_a_row: u32,
    /// Whether the last batch was of a run, so that the next is of what is owed.
    run_went_last: bool,
    /// When a push last landed.
    pushed_at: Option<Instant>,
    later: BTreeMap<ListingKey, Later>,
    unclear: VecDeque<Unclear>,
    /// Raises that wait for orders to be heard, with their places in line.
    raising: BTreeMap<ListingKey, (Turn, Waiting)>,
    /// Since when orders are wanted for them; asked for once all that is owed has been looked at.
    orders_wanted: Option<Timestamp>,
    /// Whether raises wait for orders to be heard.
    raises_wait: bool,
    /// Since when a listing is to be raised; it is when orders have been heard after that.
    raise_wanted: FxHashMap<ListingKey, RaiseWish>,
    rereads: BTreeMap<ListingKey, Reread>,
    checks: BTreeMap<ListingKey, Check>,
    /// Listings that gave no number when they were last read, and how often in a row.
    unreadable: BTreeMap<ListingKey, u32>,
    /// Pushes that the channel said to have applied.
    applied: usize,
    /// How often in a row a listing's push was taken and not applied.
    lies: BTreeMap<ListingKey, u32>,
    jobs: VecDeque<Job>,
    run: Option<run::ActiveRun>,
    outage: Outage,
    /// Until when only what could be oversold is sent, and nothing is read: the quota is small.
    sparing_until: Option<Instant>,
    synced: Option<Timestamp>,
    synced_noted: Option<Instant>,
    next_pull: Option<Instant>,
    started: bool,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, link: Arc<Link>) -> Self {
        Self {
            shared,
            link,
            line: Line::new(Instant::now()),
            owing: Owing::default(),
            gathering: None,
            air: JoinSet::new(),
            bulk_in_air: 0,
            airborne: FxHashSet::default(),
            landing: BTreeSet::new(),
            feeds: Vec::new(),
            bulk_took: None,
            ended: BTreeSet::new(),
            reading_waits: None,
            readings_in_a_row: 0,
            run_went_last: false,
            pushed_at: None,
            later: BTreeMap::new(),
            unclear: VecDeque::new(),
            raising: BTreeMap::new(),
            orders_wanted: None,
            raises_wait: false,
            raise_wanted: FxHashMap::default(),
            rereads: BTreeMap::new(),
            checks: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            applied: 0,
            lies: BTreeMap::new(),
            jobs: VecDeque::new(),
            run: None,
            outage: Outage::default(),
            sparing_until: None,
            synced: None,
            synced_noted: None,
            next_pull: None,
            started: false,
        }
    }

    /// Puts a listing in line, once its push that is under way has landed. One in a feed is put
    /// in line when that has ended.
    fn line_up(&mut self, turn: Turn, waiting: Waiting) {
        if self.airborne.contains(&waiting.key) {
            self.landing.insert(waiting.sku);
        } else if !self.link.is_fed(&waiting.key) {
            self.line.put(turn, waiting);
        }
    }

    /// Works until it is stopped.
    pub(crate) async fn run(mut self) {
        let stop = self.link.stop.clone();
        while !stop.is_cancelled() {
            match Box::pin(self.turn()).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    let (org, channel) = (&self.link.org, &self.link.id);
                    tracing::warn!(%org, %channel, %error, "the worker could not go on");
                    // What was taken in hand and not finished is found again in the store.
                    self.link.ring_sweep();
                    self.started = false;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(STORE_REST) => {}
                    }
                    continue;
                }
            }
            let wake = self.rest();
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.link.bell.notified() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        while !self.air.is_empty() {
            // The store may be closing; then the push is looked for at the next start.
            if let Err(error) = self.land().await {
                tracing::warn!(%error, "the outcome of a push could not be kept");
            }
        }
        self.abandon().await;
    }

    /// Does one piece of each kind of work; returns whether there was any.
    async fn turn(&mut self) -> Result<bool, EngineError> {
        let row = self.shared.store.connection(&self.link.org, &self.link.id).await?;
        let Some(row) = row else {
            self.link.stop.cancel();
            return Ok(true);
        };
        self.take_mail(&row).await?;
        if row.state == ConnectionState::Paused {
            self.started = false;
            return self.stand_by(&row).await;
        }
        if !self.started {
            self.begin().await?;
            self.started = true;
        }
        self.schedule(&row).await?;
        let mut worked = self.enqueue_step().await?;
        if self.owing.is_empty()
            && let Some(at) = self.orders_wanted.take()
        {
            self.link.want_orders(at);
        }
        worked |= self.feed_step(&row).await?;
        worked |= self.push_step(&row).await?;
        if !self.owing.is_empty() {
            // A zero may be among it: nothing else takes time before it is found.
            return Ok(true);
        }
        // Nothing is read while a push is under way: what it shows would be anybody's guess.
        let lands = self.air.is_empty();
        let mut read = lands && self.reading_steps(&row).await?;
        read |= self.run_step(&row).await?;
        worked |= read;
        if lands {
            self.note_reading(read);
        }
        self.note_sync(worked).await?;
        Ok(worked)
    }

    async fn reading_steps(&mut self, row: &Connection) -> Result<bool, EngineError> {
        let mut worked = false;
        if self.is_sparing() {
            return Ok(false);
        }
        if !self.is_out() && self.may_check() {
            worked |= self.check_step(row).await?;
        }
        if !self.is_out() {
            worked |= self.reread_step(row).await?;
        }
        Ok(worked)
    }

    /// Lets pushes go on that have waited for readings, unless there is more to read.
    fn note_reading(&mut self, read: bool) {
        self.readings_in_a_row += 1;
        if !read || self.readings_in_a_row >= READINGS_IN_A_ROW_MAX || !self.wants_reading() {
            self.readings_in_a_row = 0;
            self.reading_waits = None;
        }
    }

    /// Returns whether pushes should land, because something has waited long to be read.
    fn should_land(&mut self) -> bool {
        let now = Instant::now();
        if !self.wants_reading() {
            return false;
        }
        now.duration_since(*self.reading_waits.get_or_insert(now)) >= READING_WAIT_MAX
    }

    /// Returns whether there is something to read now.
    fn wants_reading(&self) -> bool {
        let now = Instant::now();
        self.run.as_ref().is_some_and(run::ActiveRun::reads)
            || self.rereads.values().any(|reread| reread.not_before <= now)
            || (self.may_check() && self.checks.values().any(|check| check.due <= now))
    }

    /// Returns whether pushes are to be looked for on the channel now: owed pushes go first where
    /// both draw on one budget, but not for ever.
    fn may_check(&self) -> bool {
        let now = Instant::now();
        let reads_apart = self.link.channel.capabilities().reads_apart;
        let delay = if reads_apart { CHECK_QUIET_MAX } else { CHECK_DELAY_MAX };
        let overdue = |check: &Check| check.due + delay <= now;
        let is_quiet = self.line.is_empty() && self.quiet_from(now) <= now;
        is_quiet || self.checks.values().any(overdue)
    }

    /// Returns from when on there has been no push for a moment.
    fn quiet_from(&self, now: Instant) -> Instant {
        let quiet = self.settle_time().min(CHECK_QUIET_MAX);
        self.pushed_at.map_or(now, |at| at + quiet)
    }

    /// Looks for pushes that a stop or a crash left without an outcome.
    async fn begin(&mut self) -> Result<(), EngineError> {
        self.find_feeds().await?;
        let query = ListingQuery {
            channel: Some(self.link.id.clone()),
            suspicious: true,
            ..ListingQuery::default()
        };
        let (shared, org) = (self.shared.clone(), self.link.org.clone());
        let expect = |view: ListingView| {
            if !self.link.is_fed(&view.mapping.key) {
                self.expect_applied(&view, Vec::new());
            }
        };
        shared.each_listing(&org, query, expect).await
    }

    async fn take_mail(&mut self, row: &Connection) -> Result<(), EngineError> {
        let (hints, ended) = {
            let mut mail = self.link.mail.lock();
            mail.busy = true;
            self.jobs.append(&mut mail.jobs);
            self.owing.skus.append(&mut mail.dirty);
            if std::mem::take(&mut mail.sweep) {
                self.owing.ask_for_sweep();
            }
            (std::mem::take(&mut mail.hints), std::mem::take(&mut mail.ended))
        };
        let now = Instant::now();
        self.raises_wait = push::raises_wait(row, self.link.channel.capabilities());
        if row.state == ConnectionState::Active {
            for (key, sku) in hints {
                self.rereads.entry(key).or_insert(Reread {
                    sku,
                    not_before: now,
                    orders_since: None,
                    deadline: now,
                    surely_changed: false,
                });
            }
        }
        self.note_ended(ended);
        if !row.publishes() {
            // What is owed stays owed in the store.
            self.line.clear();
            self.owing = Owing::default();
            self.raising.clear();
            self.later.clear();
            self.unclear.clear();
            return Ok(());
        }
        self.wake_later(now);
        self.wake_raising();
        Ok(())
    }

    /// Puts in line what is owed of the next piece of what is to be looked at; returns whether
    /// there was any.
    async fn enqueue_step(&mut self) -> Result<bool, EngineError> {
        if self.owing.is_empty() {
            return Ok(false);
        }
        if let Some(after) = self.owing.sweep.take() {
            let query = ListingQuery {
                channel: Some(self.link.id.clone()),
                dirty: true,
                after: after.clone(),
                ..ListingQuery::default()
            };
            let (shared, org) = (self.shared.clone(), self.link.org.clone());
            let mut last = after;
            let look = |view: ListingView| {
                last = Some((view.mapping.sku.clone(), view.mapping.key.clone()));
                self.enqueue(&view);
            };
            let more = match shared.first_listings(&org, query, OWING_AT_ONCE, look).await {
                Ok(more) => more,
                Err(error) => {
                    self.owing.ask_for_sweep();
                    return Err(error);
                }
            };
            let again = !more && std::mem::take(&mut self.owing.sweep_again);
            self.owing.sweep = (more || again).then_some(last.filter(|_| more));
            return Ok(true);
        }
        let mut rest = std::mem::take(&mut self.owing.skus);
        let at = rest.iter().nth(OWING_AT_ONCE).cloned();
        let later = at.map_or_else(BTreeSet::new, |at| rest.split_off(&at));
        self.owing.skus = later;
        if let Err(error) = self.enqueue_owed(&rest).await {
            // Nothing that was taken is lost: the next turn asks the store for all of it.
            self.owing.ask_for_sweep();
            return Err(error);
        }
        Ok(true)
    }

    async fn enqueue_owed(&mut self, dirty: &BTreeSet<Sku>) -> Result<(), EngineError> {
        let org = &self.link.org;
        let skus: Vec<Sku> = dirty.iter().cloned().collect();
        for view in self.shared.listings_of(org, &self.link.id, &skus).await? {
            self.enqueue(&view);
        }
        Ok(())
    }

    /// Puts a listing that owes something in line.
    fn enqueue(&mut self, view: &ListingView) {
        if !view.is_dirty() {
            return;
        }
        let (sku, key) = names_of(view);
        let waiting = Waiting { sku, key, since: Instant::now() };
        match plan::plan(view, Wish::Owed, self.link.channel.capabilities()) {
            Plan::Skip(_) => {}
            // What only needs a note goes last; what is to be read first may be anything.
            Plan::Shown(_) | Plan::OnItsWay(_) => {
                self.line_up(Turn::last_of(Lane::Increase), waiting);
            }
            Plan::ReadFirst => self.line_up(Turn::first_of(Lane::Decrease), waiting),
            Plan::Send(sending) => {
                self.want_orders_for(sending.turn.lane, view, &waiting.key);
                self.line_up(sending.turn, waiting);
            }
        }
    }

    /// Asks for orders that are newer than the wish to raise a listing before its turn comes, so
    /// that the line is not stopped by it.
    fn want_orders_for(&mut self, lane: Lane, view: &ListingView, key: &ListingKey) {
        let waits = self.raises_wait && lane == Lane::Increase;
        if waits && self.raise_wanted_at(view).is_none() {
            let now = self.shared.now();
            self.raise_wanted.insert(key.clone(), RaiseWish::new(now, &view.state));
            self.orders_wanted = Some(now);
        }
    }

    /// Returns since when a listing is to be raised, where that is known.
    fn raise_wanted_at(&self, view: &ListingView) -> Option<Timestamp> {
        let wish = self.raise_wanted.get(&view.mapping.key)?;
        wish.is_of(&view.state).then_some(wish.at)
    }

    fn wake_later(&mut self, now: Instant) {
        let due: Vec<ListingKey> = self
            .later
            .iter()
            .filter(|(_, later)| later.at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            if let Some(Later { sku, at, turn }) = self.later.remove(&key) {
                self.line_up(turn, Waiting { sku, key, since: at });
            }
        }
    }

    fn wake_raising(&mut self) {
        if self.raising.is_empty() || self.link.heard.lock().wanted.is_some() {
            return;
        }
        for (turn, waiting) in std::mem::take(&mut self.raising).into_values() {
            self.line_up(turn, waiting);
        }
    }

    /// A paused connection keeps its work and ends the runs that wait for it.
    async fn stand_by(&mut self, row: &Connection) -> Result<bool, EngineError> {
        while !self.air.is_empty() {
            self.land().await?;
        }
        self.line.clear();
        self.owing = Owing::default();
        self.rereads.clear();
        self.checks.clear();
        self.leave_feeds();
        let mut worked = false;
        while self.next_run(row).await? {
            worked = true;
            self.fail_run("the channel is paused").await?;
        }
        Ok(worked)
    }

    fn is_sparing(&self) -> bool {
        self.sparing_until.is_some_and(|until| until > Instant::now())
    }

    fn is_out(&self) -> bool {
        self.outage.until.is_some_and(|until| until > Instant::now())
    }

    /// Notes that the vendor could not be talked to; the longer, the rarer it is tried.
    async fn fell_out(&mut self, error: &ChannelError) -> Result<(), EngineError> {
        if self.link.stop.is_cancelled() {
            return Ok(());
        }
        if error.vendor_code.as_deref() == Some(QUOTA_KEPT) {
            // Zeroes and decreases go on.
            self.sparing_until = Some(Instant::now() + sparing(error));
            return Ok(());
        }
        if error.kind == ChannelErrorKind::Throttled {
            // Being asked to slow down is no outage: the channel answers.
            let millis = error.retry_after_ms.unwrap_or(OUTAGE_MS_FIRST).min(OUTAGE_MS_MAX);
            self.outage.until = Some(Instant::now() + Duration::from_millis(millis));
            return Ok(());
        }
        self.outage.failures = self.outage.failures.saturating_add(1);
        let (first, max) = match error.kind {
            ChannelErrorKind::Forbidden | ChannelErrorKind::Config => {
                (REFUSED_MS_FIRST, REFUSED_MS_MAX)
            }
            ChannelErrorKind::Auth
            | ChannelErrorKind::AccountBlocked
            | ChannelErrorKind::Transient
            | ChannelErrorKind::Throttled
            | ChannelErrorKind::ListingNotFound
            | ChannelErrorKind::NotPushable
            | ChannelErrorKind::InvalidValue
            | ChannelErrorKind::Stale
            | ChannelErrorKind::UnknownOutcome
            | ChannelErrorKind::Protocol
            | ChannelErrorKind::Bug => (OUTAGE_MS_FIRST, OUTAGE_MS_MAX),
        };
        let told = error.retry_after_ms.unwrap_or(0).min(OUTAGE_MS_MAX);
        let millis = backoff::millis(self.outage.failures, first, max).max(told);
        self.outage.until = Some(Instant::now() + Duration::from_millis(millis));
        if refuses_us(error.kind) {
            return Ok(self.shared.refused(&self.link, error).await?);
        }
        if self.outage.told {
            return Ok(());
        }
        self.outage.told = true;
        let (shared, link) = (&self.shared, &self.link);
        let at = shared.now();
        let words = error.detail.clone();
        let code = plan::error_code(error.kind);
        shared
            .edit_connection(&link.org, &link.id, |row| row.note_trouble(at, code, words))
            .await?;
        tracing::warn!(org = %link.org, channel = %link.id, code, detail = error.detail,
            "the channel cannot be reached");
        let body = json!({ "channelId": link.id.as_str(), "code": code, "detail": error.detail });
        shared.tell(&link.org, "channel.error", body.clone()).await;
        shared.note(&link.org, vec![self.entry("channel", "error", None, body)]).await;
        Ok(())
    }

    /// Notes that the vendor answered.
    fn came_through(&mut self) {
        self.synced = Some(self.shared.now());
        self.link.refusals.store(0, Ordering::Release);
        if self.outage.failures > 0 {
            self.outage = Outage { failures: 0, until: None, told: self.outage.told };
        }
    }

    /// Writes when a push or pull last came through: at once after an outage, else seldom.
    async fn note_sync(&mut self, working: bool) -> Result<(), EngineError> {
        let Some(at) = self.synced else { return Ok(()) };
        let pause = Duration::from_millis(SYNC_NOTE_MS);
        let lately = self.synced_noted.is_some_and(|noted| noted.elapsed() < pause);
        let recovered = self.outage.told && self.outage.failures == 0;
        if working && lately && !recovered {
            return Ok(());
        }
        self.synced = None;
        self.synced_noted = Some(Instant::now());
        if recovered {
            self.outage.told = false;
        }
        let still_out = self.outage.told;
        let edit = |row: &mut Connection| {
            row.last_sync = Some(at);
            // What was under way when it was paused does not say why it was paused.
            if !still_out && row.state == ConnectionState::Active {
                row.note_recovery();
            }
        };
        self.shared.edit_connection(&self.link.org, &self.link.id, edit).await?;
        Ok(())
    }

    /// Begins the pulls of the connection's interval.
    async fn schedule(&mut self, row: &Connection) -> Result<(), EngineError> {
        let Some(minutes) = row.poll_interval_minutes.filter(|minutes| *minutes > 0) else {
            self.next_pull = None;
            return Ok(());
        };
        let pause = Duration::from_secs(u64::from(minutes) * 60);
        let now = Instant::now();
        let due = *self.next_pull.get_or_insert(now + pause);
        if due > now {
            return Ok(());
        }
        self.next_pull = Some(now + pause);
        if self.run.is_none() && self.jobs.is_empty() {
            let request = crate::engine::PullRequest::default();
            let run = run::new_run(&self.shared, &self.link, run::PULL, None, false);
            self.shared.store.put_run(&self.link.org, run.clone()).await?;
            self.jobs.push_back(Job::Pull { run, request, agreed: None });
        }
        Ok(())
    }

    /// Says whether the worker is idle, and returns when it must look again.
    fn rest(&mut self) -> Instant {
        let idle = self.line.is_empty()
            && self.owing.is_empty()
            && self.later.is_empty()
            && self.unclear.is_empty()
            && self.raising.is_empty()
            && self.rereads.is_empty()
            && self.checks.is_empty()
            && self.feeds.is_empty()
            && self.jobs.is_empty()
            && self.run.is_none();
        self.link.mail.lock().busy = !idle;
        let now = Instant::now();
        let out_until = self.outage.until.unwrap_or(now);
        let spared_until = self.sparing_until.unwrap_or(now).max(out_until);
        let mut wake = now + SLEEP_MAX;
        let mut at = |instant: Instant| wake = wake.min(instant);
        let gathered = self.gathering.map_or(now, |gathering| gathering.until());
        match self.line.first_lane() {
            Some(Lane::Zero | Lane::Decrease) => at(out_until.max(gathered)),
            Some(Lane::Increase) => at(spared_until.max(gathered)),
            None => {}
        }
        self.later.values().for_each(|later| at(later.at));
        self.unclear.iter().for_each(|unclear| at(unclear.at.max(out_until)));
        self.feeds.iter().for_each(|feed| at(feed.due.max(out_until)));
        let checks_from = spared_until.max(self.quiet_from(now));
        self.checks.values().for_each(|check| at(check.due.max(checks_from)));
        for reread in self.rereads.values() {
            let due =
                if reread.orders_since.is_some() { reread.deadline } else { reread.not_before };
            at(due.max(reread.not_before).max(spared_until));
        }
        if let Some(run) = &self.run {
            at(run.wakes_at());
        }
        if let Some(next) = self.next_pull {
            at(next);
        }
        // A deadline in the past that nothing could be done about must not spin.
        wake.max(now + SPIN_REST)
    }

    fn entry(
        &self,
        operation: &str,
        status: &str,
        sku: Option<&Sku>,
        detail: serde_json::Value,
    ) -> HistoryEntry {
        let entry = self.shared.entry(&self.link.id, operation, status, detail);
        HistoryEntry { sku: sku.cloned(), ..entry }
    }

    /// Tries one listing again after a while, longer each time.
    fn try_later(&mut self, turn: Turn, sku: Sku, key: ListingKey, attempts: u32) {
        self.later.insert(key, Later { sku, at: later(attempts), turn });
    }
}

/// Returns a listing's names to be kept: the text of the ledger's own SKU, and the key in memory of
/// its own. Small texts of very many views that were read together would keep most of the memory
/// from being used for others.
fn names_of(view: &ListingView) -> (Sku, ListingKey) {
    let sku = view.sku.as_ref().map_or(&view.mapping.sku, |known| &known.sku).clone();
    let key = &view.mapping.key;
    (sku, ListingKey::new(key.as_str()).unwrap_or_else(|_| key.clone()))
}

/// Returns when something is tried again that was tried so often: longer each time.
fn later(attempts: u32) -> Instant {
    let millis = backoff::millis(attempts, LISTING_MS_FIRST, LISTING_MS_MAX);
    Instant::now() + Duration::from_millis(millis)
}

/// Returns how long to wait after a request that the quota did not allow.
fn sparing(error: &ChannelError) -> Duration {
    Duration::from_millis(error.retry_after_ms.unwrap_or(SPARING_MS_MAX).min(SPARING_MS_MAX))
}

/// Returns whether an error says that our credentials or our account are not let in.
pub(crate) fn refuses_us(kind: ChannelErrorKind) -> bool {
    matches!(kind, ChannelErrorKind::Auth | ChannelErrorKind::AccountBlocked)
}
