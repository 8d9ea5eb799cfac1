//! Pushing: a batch is computed at the moment of sending, marked, sent, and settled per item.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use trueup_channels::{
    BulkItem, Capabilities, ChannelError, ChannelErrorKind, Listing, PushBatch, PushItem,
    PushOutcome, QUOTA_KEPT, Reading,
};
use trueup_core::{Command, ListingKey, ListingPush, PushResult, Sku, Source, Timestamp};
use trueup_store::{AttemptNote, Connection, FeedItem, ListingView, Parked, RevisionsNote};

use super::feed::{self, Kept};
use super::line::{Rows, Waiting};
use super::{
    Later, ORDERS_AHEAD_MS, ORDERS_WAIT_MAX, RaiseWish, Reread, Unclear, VERIFY_TRIES_MAX, Worker,
    run,
};
use crate::engine::EngineError;
use crate::impact;
use crate::link::Link;
use crate::plan::{self, Lane, Plan, Sending, Skip, TokenPart, Turn, Wish};
use crate::scopes::Claims;
use crate::shared::{SKUS_MAX, Shared};

/// How long the line must not have grown before a bulk batch that is not full goes out: a vendor
/// takes few of them, and more of the same change may come.
const BULK_QUIET: Duration = Duration::from_secs(2);
/// How long a bulk batch that is not full waits for more at most.
const BULK_GATHERED_MAX: Duration = Duration::from_secs(10);
/// In how many times fewer than `bulk_from` listings a bulk batch may be worth it at most.
const BULK_FEWER_MAX: usize = 15;
/// How long it is remembered how long a bulk batch took: it is as good a guess for no longer.
const BULK_TOOK_MAX: Duration = Duration::from_secs(3_600);
/// How many bulk batches are on their way to the vendor at once, beside what goes the ordinary
/// way: they draw on a budget of their own, and each takes memory.
const BULK_IN_AIR_MAX: usize = 1;

/// One listing that is to be pushed, and who wants it.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) sku: Sku,
    pub(super) key: ListingKey,
    pub(super) wish: Wish,
    /// How often the run under way has tried it; 0 where no run asks.
    pub(super) tried: u32,
    /// Since when it has waited.
    pub(super) since: Instant,
    /// What the channel is believed to have shown before it was first sent.
    pub(super) before: Option<i64>,
}

impl Want {
    /// Returns a want that has not been tried and waits from now on.
    pub(super) fn new(sku: Sku, key: ListingKey, wish: Wish) -> Self {
        Self { sku, key, wish, tried: 0, since: Instant::now(), before: None }
    }
}

/// What became of a wanted push.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    /// The channel took it.
    Sent(i64),
    /// The channel shows it already.
    Shown(i64),
    /// It was left alone.
    Skipped(Skip),
    /// It did not come through; it is tried again.
    Again(ChannelError),
    /// It is refused for good.
    Refused(ChannelError),
    /// The mapping is gone.
    Gone,
}

/// A wanted push and its end.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) want: Want,
    pub(super) end: End,
}

/// Which of the vendor's ways to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Ordinary,
    Bulk,
}

/// For which of the vendor's ways there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) ordinary: bool,
    pub(super) bulk: bool,
}

impl Room {
    pub(super) fn has(self, way: Way) -> bool {
        match way {
            Way::Ordinary => self.ordinary,
            Way::Bulk => self.bulk,
        }
    }
}

/// What is about to be sent for one listing.
pub(super) struct Outgoing {
    pub(super) want: Want,
    pub(super) view: ListingView,
    pub(super) sending: Sending,
}

/// The same by the bulk way: there are very many, so only what their feed keeps is kept.
pub(super) struct Freight {
    pub(super) want: Want,
    pub(super) item: FeedItem,
}

/// Very many that come in line and are to go the bulk way together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathering {
    began: Instant,
    /// When the line last grew.
    grew: Instant,
    /// How many stood in it then.
    waiting: usize,
    /// Whether raises among them wait for orders to be heard.
    hears: bool,
}

impl Gathering {
    pub(super) fn until(&self) -> Instant {
        let last = self.began + BULK_GATHERED_MAX;
        if self.hears { last } else { last.min(self.grew + BULK_QUIET) }
    }
}

/// A batch that is to go out.
pub(super) struct Errand {
    pub(super) wants: Vec<Want>,
    pub(super) way: Way,
    pub(super) run: Option<String>,
    pub(super) of: Asker,
}

/// Who asks for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// The listings of a lane owe it.
    Owed(Lane),
    /// It is sent again, as it was, because its outcome is unclear.
    Unclear,
    /// The run under way.
    Run,
}

/// A batch under way.
pub(super) struct Flight {
    outgoing: Vec<Outgoing>,
    batch: PushBatch,
    /// What goes the bulk way, in place of the outgoing, and what the vendor is told of it.
    freight: Vec<Freight>,
    items: Vec<BulkItem>,
    way: Way,
    /// The run that asked for it, for its token.
    run: Option<String>,
    /// Whether it is of the run under way.
    of_run: bool,
    /// When it was begun to be computed.
    began: Instant,
    /// One per item, once it has landed.
    outcomes: Vec<PushOutcome>,
    /// What it handed over by the bulk way; then nothing is left of the freight.
    kept: Option<Kept>,
    /// Held until what became of it is noted.
    claims: Claims,
}

impl Flight {
    /// Returns a batch of nothing yet.
    fn new(way: Way, run: Option<&str>, claims: Claims) -> Self {
        Self {
            outgoing: Vec::new(),
            batch: PushBatch { token: String::new(), items: Vec::new() },
            freight: Vec::new(),
            items: Vec::new(),
            way,
            run: run.map(str::to_owned),
            of_run: false,
            began: Instant::now(),
            outcomes: Vec::new(),
            kept: None,
            claims,
        }
    }

    /// Sends the batch and waits for what becomes of it; by the bulk way, only until the vendor
    /// has it.
    async fn fly(mut self, link: Arc<Link>, shared: Arc<Shared>) -> Self {
        let mut began = Instant::now();
        let mut outcomes = match self.way {
            Way::Ordinary => {
                let has_zero = self.outgoing.iter().any(|out| out.sending.quantity == 0);
                let _slot = link.push_slots.take(has_zero).await;
                began = Instant::now();
                link.channel.push(&link.transport, &self.batch).await
            }
            Way::Bulk => {
                let freight = std::mem::take(&mut self.freight);
                let items = std::mem::take(&mut self.items);
                match feed::hand_over(&link, &shared, items, freight).await {
                    Ok(kept) => {
                        self.kept = Some(kept);
                        Vec::new()
                    }
                    Err((freight, outcome)) => {
                        self.freight = freight;
                        vec![outcome; self.freight.len()]
                    }
                }
            }
        };
        metrics::histogram!("trueup_push_batch_seconds", "kind" => link.kind.name())
            .record(began.elapsed().as_secs_f64());
        // A connector that answers for fewer items than it was given knows nothing of the rest.
        let count = self.outgoing.len() + self.freight.len();
        outcomes.resize_with(count, || PushOutcome::Unknown(waiting("no outcome")));
        self.outcomes = outcomes;
        self
    }

    fn wants(&self) -> impl Iterator<Item = &Want> {
        let outgoing = self.outgoing.iter().map(|out| &out.want);
        outgoing.chain(self.freight.iter().map(|freight| &freight.want))
    }
}

impl Worker {
    /// Sends batches, what could be oversold first, as many at once as the vendor takes, and has
    /// as many more ready, so that none of its slots waits for the store; returns when one of them
    /// has landed, or when somebody rings while there is room for more.
    pub(super) async fn push_step(&mut self, row: &Connection) -> Result<bool, EngineError> {
        let mut worked = false;
        let mut room = self.room();
        while let Some(errand) = self.next_errand(room) {
            worked = true;
            self.launch(row, errand).await?;
            room = self.room();
        }
        if self.air.is_empty() {
            return Ok(worked);
        }
        let looks_up = self.run.as_ref().is_some_and(run::ActiveRun::looks_up);
        if !self.owing.is_empty() || looks_up {
            // A zero may be among what has not been looked at.
            if let Some(landed) = self.air.try_join_next() {
                self.take_landed(Some(landed)).await?;
            }
            return Ok(true);
        }
        if !room.ordinary && !room.bulk {
            self.land().await?;
            return Ok(true);
        }
        let (link, wake) = (self.link.clone(), self.room_wanted_at());
        tokio::select! {
            biased;
            landed = self.air.join_next() => self.take_landed(landed).await?,
            () = link.bell.notified() => {}
            () = tokio::time::sleep_until(wake) => {}
        }
        Ok(true)
    }

    fn room(&self) -> Room {
        let capabilities = self.link.channel.capabilities();
        let at_once_max = capabilities.pushes_at_once_max.max(1);
        // As many again are ready, so that no slot waits while the store is busy.
        let in_air_max = 2 * at_once_max;
        Room {
            ordinary: self.air.len() < in_air_max + self.bulk_in_air,
            bulk: capabilities.bulk_items_max > 0 && self.bulk_in_air < BULK_IN_AIR_MAX,
        }
    }

    /// Returns when something that waits for its time may go out beside what is under way.
    fn room_wanted_at(&self) -> Instant {
        let now = Instant::now();
        let on_ground = |unclear: &&Unclear| {
            unclear.wants.iter().all(|want| !self.airborne.contains(&want.key))
        };
        let later = self.later.values().map(|later| later.at);
        let unclear = self.unclear.iter().filter(on_ground).map(|unclear| unclear.at);
        let outage = self.outage.until.filter(|until| *until > now);
        let gathered = self.gathering.map(|gathering| gathering.until());
        let first = later.chain(unclear).chain(gathered).min().unwrap_or(now + super::SLEEP_MAX);
        first.max(outage.unwrap_or(now)).max(now + super::SPIN_REST)
    }

    /// Chooses what goes out next: what is to be sent again as it was, what is owed and could be
    /// oversold, then in turn what else is owed and what the run under way asks for. The two ways
    /// do not wait for each other.
    fn next_errand(&mut self, room: Room) -> Option<Errand> {
        let is_out = self.is_out();
        let resends = room.ordinary && !is_out;
        if resends && let Some(Unclear { run, wants, .. }) = self.due_unclear() {
            let way = Way::Ordinary;
            return Some(Errand { wants, way, run, of: Asker::Unclear });
        }
        let lands = self.should_land();
        let lanes = self.lanes_that_go(is_out, lands);
        let bulk = lanes.iter().copied().find(|lane| self.is_bulky(*lane, &lanes));
        let is_urgent = lanes.first() == Some(&Lane::Zero);
        // What goes the bulk way soon is not sent the other; what comes in line may make it so.
        let has_bulk = self.link.channel.capabilities().bulk_items_max > 0;
        let may_grow = has_bulk && !self.owing.is_empty();
        let rows = |lane: Lane| match lane {
            Lane::Zero => Rows::All,
            _ if may_grow || bulk.is_some_and(|bulk| bulk <= lane) => Rows::Near,
            Lane::Decrease | Lane::Increase => Rows::All,
        };
        let has_some = |lane: &Lane| self.line.count(*lane, rows(*lane)) > 0;
        let ordinary = lanes.iter().copied().find(has_some).filter(|_| room.ordinary);
        let bulk = bulk.filter(|lane| !self.gathers(*lane) && room.bulk);
        let owed = ordinary.map(|lane| (lane, Way::Ordinary));
        let owed = owed.or(bulk.map(|lane| (lane, Way::Bulk)));
        let runs_turn = !lands && !is_urgent && (owed.is_none() || !self.run_went_last);
        if runs_turn && let Some(errand) = self.next_of_run(room, !lanes.is_empty()) {
            self.run_went_last = true;
            return Some(errand);
        }
        let (lane, way) = owed?;
        self.run_went_last = false;
        let count = match way {
            Way::Ordinary => self.link.channel.capabilities().push_items_max.max(1),
            Way::Bulk => self.link.channel.capabilities().bulk_items_max,
        };
        let mut taken = Vec::new();
        // A batch costs the same however full it is: the next lanes fill it up.
        for lane in lanes.into_iter().filter(|next| *next >= lane) {
            let rows = if way == Way::Bulk { Rows::Far } else { rows(lane) };
            taken.extend(self.line.take(lane, rows, count - taken.len()));
        }
        let want = |Waiting { sku, key, since }| Want { since, ..Want::new(sku, key, Wish::Owed) };
        let wants = taken.into_iter().map(want).collect();
        Some(Errand { wants, way, run: None, of: Asker::Owed(lane) })
    }

    /// Returns the lanes that have something to send now, in order.
    fn lanes_that_go(&self, is_out: bool, lands: bool) -> Vec<Lane> {
        let goes = |lane: &Lane| {
            let waits = self.line.count(*lane, Rows::All) > 0 && !self.is_spared(*lane);
            // A zero waits for no reading.
            waits && !is_out && (!lands || *lane == Lane::Zero)
        };
        Lane::ALL.into_iter().filter(goes).collect()
    }

    /// Returns whether what is far from zero goes the bulk way, from a lane on: where that is done
    /// sooner than sending it one by one, or the line has not moved for as long as it takes. What
    /// could be oversold does not wait in a vendor's queue.
    fn is_bulky(&self, lane: Lane, lanes: &[Lane]) -> bool {
        let capabilities = self.link.channel.capabilities();
        if lane == Lane::Zero || capabilities.bulk_items_max == 0 {
            return false;
        }
        let goes = |next: &&Lane| **next >= lane;
        let far = || lanes.iter().filter(goes);
        let waiting: usize = far().map(|lane| self.line.count(*lane, Rows::Far)).sum();
        let takes = self.bulk_takes();
        let stands = |first: Instant| takes.is_some_and(|takes| first + takes <= Instant::now());
        let stands = || far().filter_map(|lane| self.line.first_far(*lane)).any(stands);
        let is_worth_it = waiting >= self.bulk_from()
            || (waiting >= capabilities.bulk_from / BULK_FEWER_MAX && stands());
        is_worth_it && self.has_bulk_budget()
    }

    /// Returns whether a bulk batch could begin now: what is computed for one that waits is old
    /// when it goes.
    fn has_bulk_budget(&self) -> bool {
        let bucket = self.link.channel.capabilities().bulk_bucket;
        bucket.is_none_or(|bucket| self.link.transport.has_room(bucket))
    }

    /// Returns how long a bulk batch takes, as the last one did or else as it usually does.
    fn bulk_takes(&self) -> Option<Duration> {
        let usual_ms = self.link.channel.capabilities().bulk_usual_ms;
        let lately = self.bulk_took.filter(|(at, _)| at.elapsed() < BULK_TOOK_MAX);
        let took = lately.map_or(Duration::from_millis(usual_ms), |(_, took)| took);
        (usual_ms > 0).then_some(took)
    }

    /// Returns from how many listings on the bulk way is done sooner than sending them one by one.
    pub(super) fn bulk_from(&self) -> usize {
        let capabilities = self.link.channel.capabilities();
        let from = capabilities.bulk_from.max(1);
        let Some(takes) = self.bulk_takes() else { return from };
        let usual_ms = u128::from(capabilities.bulk_usual_ms);
        let least = from / BULK_FEWER_MAX;
        let scaled = u128::try_from(from).unwrap_or(u128::MAX).saturating_mul(takes.as_millis());
        let scaled = usize::try_from(scaled / usual_ms).unwrap_or(usize::MAX);
        scaled.clamp(least.max(1), capabilities.bulk_items_max.max(from))
    }

    /// Returns whether what goes the bulk way, from a lane on, waits for more. Only raises wait
    /// for orders to be heard: a batch that is full without them goes.
    fn gathers(&mut self, lane: Lane) -> bool {
        let now = Instant::now();
        let count = |of: Lane| if of < lane { 0 } else { self.line.count(of, Rows::Far) };
        let (decreases, raises) = (count(Lane::Decrease), count(Lane::Increase));
        let waiting = decreases + raises;
        let asks = self.orders_wanted.is_some() || self.link.is_orders_wanted();
        let hears = raises > 0 && self.raises_wait && asks;
        let full = self.link.channel.capabilities().bulk_items_max;
        if decreases >= full || (waiting >= full && !hears) {
            self.gathering = None;
            return false;
        }
        let fresh = Gathering { began: now, grew: now, waiting, hears };
        let known = self.gathering.get_or_insert(fresh);
        let grew = if waiting > known.waiting { now } else { known.grew };
        *known = Gathering { grew, waiting, hears, ..*known };
        let gathers = now < known.until();
        if !gathers {
            self.gathering = None;
        }
        gathers
    }

    /// Returns whether a lane waits because what is left of the vendor's quota is kept.
    fn is_spared(&self, lane: Lane) -> bool {
        lane == Lane::Increase && self.is_sparing()
    }

    /// Computes a batch and sends it off; by the bulk way, a piece at a time.
    async fn launch(&mut self, row: &Connection, errand: Errand) -> Result<(), EngineError> {
        let Errand { wants, way, run, of } = errand;
        let began = Instant::now();
        let prepared = match self.prepare(row, wants.clone(), way).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.put_back_wants(wants, run, of);
                return Err(error);
            }
        };
        let Prepared { reports, claims, outgoing, freight, items, near } = prepared;
        let of_run = of == Asker::Run;
        self.put_near(near, of_run);
        if of_run {
            self.take_reports(reports);
        }
        let flights = self.flights(claims, outgoing, (freight, items), run.as_deref());
        for mut flight in flights {
            self.bulk_in_air += usize::from(flight.way == Way::Bulk);
            for want in flight.wants() {
                self.airborne.insert(want.key.clone());
                if self.line.remove(&want.key) {
                    self.landing.insert(want.sku.clone());
                }
            }
            if let Some(run) = self.run.as_mut().filter(|_| of_run) {
                run.in_air += 1;
            }
            (flight.of_run, flight.began) = (of_run, began);
            self.air.spawn(flight.fly(self.link.clone(), self.shared.clone()));
        }
        Ok(())
    }

    /// Keeps what was to go the bulk way and turned out to be near zero for the ordinary one.
    fn put_near(&mut self, near: Vec<(Turn, Want)>, of_run: bool) {
        for (turn, want) in near {
            match &mut self.run {
                Some(run) if of_run => run.near.push_back(want),
                Some(_) | None => {
                    let Want { sku, key, since, .. } = want;
                    self.line_up(turn, Waiting { sku, key, since });
                }
            }
        }
    }

    fn put_back_wants(&mut self, wants: Vec<Want>, run: Option<String>, of: Asker) {
        match of {
            Asker::Unclear => {
                let at = super::later(1);
                self.unclear.push_back(Unclear { at, run, wants });
            }
            Asker::Owed(lane) => {
                for Want { sku, key, since, .. } in wants {
                    self.line_up(Turn::first_of(lane), Waiting { sku, key, since });
                }
            }
            Asker::Run => {
                if let Some(run) = &mut self.run {
                    run.push.extend(wants);
                }
            }
        }
    }

    /// Waits until a batch has landed, takes what became of it, and puts in line what it kept
    /// waiting.
    pub(super) async fn land(&mut self) -> Result<(), EngineError> {
        let landed = self.air.join_next().await;
        self.take_landed(landed).await
    }

    async fn take_landed(
        &mut self,
        landed: Option<Result<Flight, tokio::task::JoinError>>,
    ) -> Result<(), EngineError> {
        let landed = match landed {
            None => Ok(()),
            Some(Ok(flight)) => self.take_flight(flight).await,
            Some(Err(error)) => {
                // Its listings are found again in the store, each with an unclear push.
                tracing::error!(%error, "a push broke off");
                if let Some(run) = self.run.as_mut().filter(|run| run.in_air > 0) {
                    run.run.error = Some("a push broke off".to_owned());
                }
                self.link.ring_sweep();
                Ok(())
            }
        };
        if self.air.is_empty() {
            self.airborne.clear();
            self.bulk_in_air = 0;
            if let Some(run) = &mut self.run {
                run.in_air = 0;
            }
        }
        landed?;
        if self.air.is_empty() {
            let kept = std::mem::take(&mut self.landing);
            self.enqueue_owed(&kept).await?;
        }
        Ok(())
    }

    async fn take_flight(&mut self, mut flight: Flight) -> Result<(), EngineError> {
        let wants: Vec<Want> = flight.wants().cloned().collect();
        self.pushed_at = Some(Instant::now());
        if flight.way == Way::Bulk {
            self.bulk_in_air = self.bulk_in_air.saturating_sub(1);
        }
        let kept = flight.kept.take();
        if let Some(kept) = &kept {
            let none = Claims::new(self.shared.clone(), self.link.org.clone());
            let claims = std::mem::replace(&mut flight.claims, none);
            // Before they leave the air: at no time may anything else be sent of them.
            self.follow_kept(kept, claims, flight.began);
            self.came_through();
        }
        for want in wants.iter().chain(kept.iter().flat_map(|kept| &kept.wants)) {
            self.airborne.remove(&want.key);
        }
        let of_run = flight.of_run;
        if let Some(run) = self.run.as_mut().filter(|_| of_run) {
            run.in_air = run.in_air.saturating_sub(1);
        }
        let waiting = wants.iter().filter(|want| self.landing.contains(&want.sku));
        let waiting: BTreeSet<Sku> = waiting.map(|want| want.sku.clone()).collect();
        if let Some(kept) = kept.filter(|_| of_run) {
            // For a run they are pushed: what the vendor makes of them may take it hours.
            let sent = |(want, quantity): (&Want, i64)| Report {
                want: want.clone(),
                end: End::Sent(quantity),
            };
            self.take_reports(kept.told().map(sent).collect());
        }
        let run = flight.run.clone();
        match self.take(flight).await {
            Ok(reports) if of_run => self.take_reports(reports),
            Ok(_) => {}
            Err(error) => {
                let of = if of_run { Asker::Run } else { Asker::Owed(Lane::Decrease) };
                self.put_back_wants(wants, run, of);
                return Err(error);
            }
        }
        if !waiting.is_empty() {
            self.landing.retain(|sku| !waiting.contains(sku));
            // Another listing of the SKU that is still under way is kept waiting again.
            self.enqueue_owed(&waiting).await?;
        }
        Ok(())
    }

    fn due_unclear(&mut self) -> Option<Unclear> {
        let now = Instant::now();
        let may_go = |unclear: &Unclear| {
            let on_ground = |want: &Want| !self.airborne.contains(&want.key);
            unclear.at <= now && unclear.wants.iter().all(on_ground)
        };
        let at = self.unclear.iter().position(may_go)?;
        self.unclear.remove(at)
    }

    /// Chooses the vendor's way for so many listings, and how many of them go at once.
    pub(super) fn way(&self, waiting: usize) -> (Way, usize) {
        let capabilities = self.link.channel.capabilities();
        let has_bulk = capabilities.bulk_items_max > 0 && self.has_bulk_budget();
        if has_bulk && waiting >= self.bulk_from() {
            (Way::Bulk, capabilities.bulk_items_max)
        } else {
            (Way::Ordinary, capabilities.push_items_max.max(1))
        }
    }

    /// Computes a batch and marks what is to be sent. Numbers near zero are taken out of what goes
    /// the bulk way, unmarked: their turn comes by themselves.
    async fn prepare(
        &mut self,
        row: &Connection,
        wants: Vec<Want>,
        way: Way,
    ) -> Result<Prepared, EngineError> {
        let mut prepared = Prepared {
            reports: Vec::with_capacity(wants.len()),
            claims: Claims::new(self.shared.clone(), self.link.org.clone()),
            outgoing: Vec::new(),
            freight: Vec::new(),
            items: Vec::new(),
            near: Vec::new(),
        };
        let mut wants = wants.into_iter();
        loop {
            let piece: Vec<Want> = wants.by_ref().take(SKUS_MAX).collect();
            if piece.is_empty() {
                return Ok(prepared);
            }
            self.prepare_piece(row, piece, way, &mut prepared).await?;
        }
    }

    async fn prepare_piece(
        &mut self,
        row: &Connection,
        wants: Vec<Want>,
        way: Way,
        prepared: &mut Prepared,
    ) -> Result<(), EngineError> {
        let reports = &mut prepared.reports;
        let skus: Vec<Sku> = wants.iter().map(|want| want.sku.clone()).collect();
        let mut views = self.views_of(&skus).await?;
        let mut outgoing = Vec::new();
        let mut notes = Vec::new();
        for mut want in wants {
            let Some(view) = views.remove(&want.key) else {
                reports.push(Report { want, end: End::Gone });
                continue;
            };
            match self.plan(row, &view, &want) {
                Planned::Send(sending) if way == Way::Bulk && sending.turn.is_near => {
                    prepared.near.push((sending.turn, want));
                }
                Planned::Send(sending) => {
                    want.before = want.before.or(impact::believed(&view));
                    outgoing.push(Outgoing { want, view, sending });
                }
                Planned::Note(push, result) => {
                    let quantity = push.quantity;
                    if view.state.forced || view.state.acked_version < push.version {
                        notes.push((push, result));
                    }
                    reports.push(Report { want, end: End::Shown(quantity) });
                }
                Planned::End(end) => reports.push(Report { want, end }),
            }
        }
        self.settle(notes).await?;
        if row.dry_run {
            for out in outgoing {
                reports.push(Report { want: out.want, end: End::Skipped(Skip::DryRun) });
            }
            return Ok(());
        }
        if let Err(error) = self.know_before(&mut outgoing).await {
            // What cannot be compared is not sent: it would overwrite a sale nobody heard of.
            let (blind, known): (Vec<Outgoing>, Vec<Outgoing>) =
                outgoing.into_iter().partition(|out| out.sending.expected_before.is_none());
            outgoing = known;
            self.fell_out(&error).await?;
            for Outgoing { want, view, sending } in blind {
                let (sku, key) = (want.sku.clone(), want.key.clone());
                self.try_later(sending.turn, sku, key, view.attempts + 1);
                reports.push(Report { want, end: End::Again(error.clone()) });
            }
        }
        let shared = self.shared.clone();
        let _no_election = shared.scopes.elections.read().await;
        let outgoing = self.claim(outgoing, &mut prepared.claims, reports).await?;
        self.mark(&outgoing).await?;
        if way == Way::Ordinary {
            prepared.outgoing.extend(outgoing);
            return Ok(());
        }
        for out in outgoing {
            match self.link.channel.bulk_item(&push_item(&out)) {
                Some(item) => {
                    prepared.items.push(item);
                    let item = feed::item_of(&out);
                    prepared.freight.push(Freight { want: out.want, item });
                }
                None => prepared.outgoing.push(out),
            }
        }
        Ok(())
    }

    /// Reads the listings of SKUs, by their keys.
    pub(super) async fn views_of(
        &self,
        skus: &[Sku],
    ) -> Result<BTreeMap<ListingKey, ListingView>, EngineError> {
        let views = self.shared.listings_of(&self.link.org, &self.link.id, skus).await?;
        Ok(views.into_iter().map(|view| (view.mapping.key.clone(), view)).collect())
    }

    /// Makes batches of what was marked.
    fn flights(
        &self,
        mut claims: Claims,
        outgoing: Vec<Outgoing>,
        (freight, items): (Vec<Freight>, Vec<BulkItem>),
        run: Option<&str>,
    ) -> Vec<Flight> {
        let size = self.link.channel.capabilities().push_items_max.max(1);
        let mut flights = Vec::new();
        let mut rest = outgoing.into_iter();
        loop {
            let outgoing: Vec<Outgoing> = rest.by_ref().take(size).collect();
            if outgoing.is_empty() {
                break;
            }
            let claims = claims.split(outgoing.iter().filter_map(|out| self.scope_of(out)));
            let batch = self.batch(&outgoing, run);
            flights.push(Flight { outgoing, batch, ..Flight::new(Way::Ordinary, run, claims) });
        }
        if !freight.is_empty() {
            flights.push(Flight { freight, items, ..Flight::new(Way::Bulk, run, claims) });
        }
        flights
    }

    /// Keeps what leads in its scope and whose number nobody else is telling.
    async fn claim(
        &mut self,
        outgoing: Vec<Outgoing>,
        claims: &mut Claims,
        reports: &mut Vec<Report>,
    ) -> Result<Vec<Outgoing>, EngineError> {
        let link = self.link.clone();
        let mut follows = BTreeSet::new();
        if !self.shared.siblings(&link).is_empty() {
            let skus: Vec<Sku> = outgoing.iter().map(|out| out.want.sku.clone()).collect();
            let views = self.shared.listings_of(&link.org, &link.id, &skus).await?;
            let followers = views.into_iter().filter(|view| view.state.follows);
            follows.extend(followers.map(|view| view.mapping.key));
        }
        let mut kept = Vec::with_capacity(outgoing.len());
        for out in outgoing {
            let key = &out.want.key;
            if follows.contains(key) {
                reports.push(Report { want: out.want, end: End::Skipped(Skip::Shared) });
                continue;
            }
            if self.scope_of(&out).is_none_or(|scope| claims.claim(&scope)) {
                kept.push(out);
                continue;
            }
            self.try_later(out.sending.turn, out.want.sku.clone(), key.clone(), 1);
            let error = unread("another connection is telling the same number");
            reports.push(Report { want: out.want, end: End::Again(error) });
        }
        Ok(kept)
    }

    fn plan(&mut self, row: &Connection, view: &ListingView, want: &Want) -> Planned {
        let wish = want.wish;
        let capabilities = self.link.channel.capabilities().clone();
        let key = &view.mapping.key;
        if self.link.is_fed(key) {
            let told = view.state.in_flight.map(|sent| sent.quantity);
            let told = told.filter(|told| {
                wish == Wish::Due && plan::expected(view, capabilities.quantity_max) == Some(*told)
            });
            // What is owed by then goes when the feed has ended.
            return Planned::End(told.map_or(End::Skipped(Skip::InFeed), End::Sent));
        }
        let never_read = view.state.base.is_none() && view.state.in_flight.is_none();
        let strategy_first = wish == Wish::Owed && never_read && !self.unreadable.contains_key(key);
        match plan::plan(view, wish, &capabilities) {
            Plan::Skip(skip) => Planned::End(End::Skipped(skip)),
            Plan::Shown(push) => Planned::Note(push, PushResult::Applied),
            Plan::OnItsWay(push) => Planned::Note(push, PushResult::Accepted),
            Plan::ReadFirst => {
                self.reread(view, false, Instant::now());
                Planned::End(End::Again(unread("an earlier push has an unclear outcome")))
            }
            // First contact: what the channel shows is compared before it is overwritten.
            Plan::Send(_) if strategy_first => {
                self.reread(view, false, Instant::now());
                Planned::End(End::Again(unread("the listing is read first")))
            }
            Plan::Send(sending) => {
                let (link, now) = (&self.link, self.shared.now());
                let budget = link.revisions_of(view, now);
                if let Some(until) = budget.and_then(|b| b.postpones(sending.turn.lane, now)) {
                    // Then the newest number goes; a zero meanwhile goes at once.
                    let at = Instant::now() + until_then(now, until);
                    let (sku, turn) = (view.mapping.sku.clone(), sending.turn);
                    let later = Later { sku, at, turn };
                    self.later.insert(key.clone(), later);
                    return Planned::End(End::Skipped(Skip::Postponed));
                }
                let guarded =
                    sending.turn.lane == Lane::Increase && raises_wait(row, &capabilities);
                let (now, heard) = (self.shared.now(), self.link.heard_at());
                let wanted_at = self.raise_wanted_at(view).unwrap_or(now);
                let fresh_ms = capabilities.orders_fresh_ms;
                let soon = now.plus_millis(ORDERS_AHEAD_MS);
                let is_too_old_soon = !plan::may_raise(wanted_at, heard, soon, fresh_ms);
                if guarded && is_too_old_soon && !self.link.is_orders_wanted() {
                    self.link.want_orders(now);
                }
                if guarded && !plan::may_raise(wanted_at, heard, now, fresh_ms) {
                    // Orders that were heard too long ago are asked for anew.
                    let since =
                        if heard.is_some_and(|heard| heard >= wanted_at) { now } else { wanted_at };
                    let wish = RaiseWish::new(since, &view.state);
                    self.raise_wanted.insert(key.clone(), wish);
                    self.link.want_orders(since);
                    let sku = view.mapping.sku.clone();
                    let waiting = Waiting { sku, key: key.clone(), since: want.since };
                    self.raising.insert(key.clone(), (sending.turn, waiting));
                    let failed = self.link.heard.lock().failed.clone();
                    return Planned::End(match failed.filter(|(at, _)| *at >= since) {
                        Some((_, error)) => End::Again(error),
                        None => End::Skipped(Skip::WaitsForOrders),
                    });
                }
                Planned::Send(sending)
            }
        }
    }

    /// Asks that a listing be read, not before an instant, and keeps its push for after that.
    fn reread(&mut self, view: &ListingView, surely_changed: bool, not_before: Instant) {
        let key = view.mapping.key.clone();
        let reread = Reread {
            sku: view.mapping.sku.clone(),
            not_before,
            orders_since: None,
            deadline: not_before + ORDERS_WAIT_MAX,
            surely_changed,
        };
        self.rereads.insert(key, reread);
    }

    /// A channel that compares is told what it shows now; where that was never known, it is
    /// read, and not noted: what it means is for a pull to say. What gives no number is left to
    /// the channel, which says why it cannot be told one.
    async fn know_before(&mut self, outgoing: &mut [Outgoing]) -> Result<(), ChannelError> {
        if !self.link.channel.capabilities().compare_and_set {
            return Ok(());
        }
        let blind: Vec<usize> = (0..outgoing.len())
            .filter(|&at| outgoing[at].sending.expected_before.is_none())
            .collect();
        let size = self.link.channel.capabilities().read_items_max.max(1);
        for chunk in blind.chunks(size) {
            let listings: Vec<Listing> =
                chunk.iter().map(|&at| listing(&outgoing[at].view)).collect();
            let link = self.link.clone();
            let readings = link.channel.read(&link.transport, &listings).await?;
            for (&at, reading) in chunk.iter().zip(readings) {
                if let Reading::Quantity(quantity) = reading {
                    outgoing[at].sending.expected_before = Some(quantity);
                }
            }
        }
        Ok(())
    }

    fn scope_of(&self, out: &Outgoing) -> Option<String> {
        self.link.scope_of(&out.want.key, out.view.mapping.channel_fulfilled)
    }

    /// Notes that a batch goes out.
    async fn mark(&self, outgoing: &[Outgoing]) -> Result<(), EngineError> {
        if outgoing.is_empty() {
            return Ok(());
        }
        let items: Vec<ListingPush> = outgoing.iter().map(|out| out.sending.push.clone()).collect();
        let mark = Command::MarkSent { channel: self.link.id.clone(), items };
        self.shared.submit(&self.link.org, mark, Source::Channel).await?;
        Ok(())
    }

    /// Notes what became of a batch.
    async fn take(&mut self, flight: Flight) -> Result<Vec<Report>, EngineError> {
        let Flight { outgoing, freight, way, run, outcomes, claims, .. } = flight;
        self.look_at(&outcomes).await?;
        let taken = match way {
            Way::Ordinary => self.take_outcomes(outgoing, outcomes, run.as_deref(), way).await,
            Way::Bulk => self.take_freight(freight, outcomes).await,
        };
        drop(claims);
        taken
    }

    fn batch(&self, outgoing: &[Outgoing], run: Option<&str>) -> PushBatch {
        let parts: Vec<TokenPart<'_>> = outgoing
            .iter()
            .map(|out| TokenPart {
                key: out.view.mapping.key.as_str(),
                version: out.sending.push.version,
                epoch: out.view.state.epoch,
                acked_at: out.view.state.acked_at,
            })
            .collect();
        PushBatch {
            token: plan::token(&self.link.id, run, &parts),
            items: outgoing.iter().map(push_item).collect(),
        }
    }

    /// Notes whether the vendor could be talked to at all.
    async fn look_at(&mut self, outcomes: &[PushOutcome]) -> Result<(), EngineError> {
        let mut wide: Option<&ChannelError> = None;
        for outcome in outcomes {
            match outcome {
                PushOutcome::NotSent(error) | PushOutcome::Unknown(error)
                    if error.kind.is_connection_wide() =>
                {
                    wide = wide.or(Some(error));
                }
                PushOutcome::Applied
                | PushOutcome::Accepted
                | PushOutcome::Stale
                | PushOutcome::NotSent(_)
                | PushOutcome::Refused(_)
                | PushOutcome::Unknown(_) => {
                    self.came_through();
                    return Ok(());
                }
            }
        }
        match wide {
            Some(error) => self.fell_out(error).await,
            None => Ok(()),
        }
    }

    pub(super) async fn take_outcomes(
        &mut self,
        outgoing: Vec<Outgoing>,
        outcomes: Vec<PushOutcome>,
        run: Option<&str>,
        way: Way,
    ) -> Result<Vec<Report>, EngineError> {
        let mut again: Option<Unclear> = None;
        let mut reports = Vec::with_capacity(outgoing.len());
        let mut settled = Vec::new();
        let mut notes = Vec::new();
        let mut history = Vec::new();
        let mut revised = Vec::new();
        let verifies = self.link.channel.capabilities().verify_by_reading;
        for (out, outcome) in outgoing.into_iter().zip(outcomes) {
            let Outgoing { want, view, sending } = out;
            let word = outcome_word(&outcome);
            metrics::counter!("trueup_push_items_total", "kind" => self.link.kind.name(),
                "outcome" => word)
            .increment(1);
            if is_revision(&outcome) && self.link.revisions_of(&view, self.shared.now()).is_some() {
                self.link.note_revised(&view, self.shared.now());
                revised.push(want.key.clone());
            }
            let Sending { push, turn, .. } = sending;
            let quantity = push.quantity;
            let attempts = view.attempts.saturating_add(1);
            let end = match outcome {
                PushOutcome::Applied | PushOutcome::Accepted => {
                    self.note_lag(&view);
                    self.link.note_told(&want.key, quantity, self.shared.now());
                    let taken = matches!(outcome, PushOutcome::Applied) && !verifies;
                    let result = if taken { PushResult::Applied } else { PushResult::Accepted };
                    settled.push((push, result));
                    self.unreadable.remove(&want.key);
                    self.later.remove(&want.key);
                    self.raise_wanted.remove(&want.key);
                    if view.parked.is_some() || view.attempts > 0 {
                        notes.push(note(&want.key, 0, None));
                    }
                    if taken {
                        self.expect_applied_number(&view, quantity);
                    } else {
                        self.expect_number(&view, quantity);
                    }
                    End::Sent(quantity)
                }
                PushOutcome::Stale => {
                    settled.push((push, PushResult::NotApplied));
                    notes.push(note(&want.key, attempts, None));
                    self.link.want_orders(self.shared.now());
                    let rest = match attempts {
                        attempts if attempts > VERIFY_TRIES_MAX => super::later(attempts),
                        _ => Instant::now(),
                    };
                    self.reread(&view, true, rest);
                    End::Again(ChannelError::new(
                        ChannelErrorKind::Stale,
                        "the channel shows another number than it was told",
                    ))
                }
                PushOutcome::NotSent(error) if error.vendor_code.as_deref() == Some(QUOTA_KEPT) => {
                    if view.state.in_flight.is_none() {
                        settled.push((push, PushResult::NotApplied));
                    }
                    let at = Instant::now() + super::sparing(&error);
                    let later = Later { sku: want.sku.clone(), at, turn };
                    self.later.insert(want.key.clone(), later);
                    End::Skipped(Skip::Postponed)
                }
                PushOutcome::NotSent(error) => {
                    // After an unclear push it stays unclear, whatever became of this one.
                    if view.state.in_flight.is_none() {
                        settled.push((push, PushResult::NotApplied));
                    }
                    notes.push(note(&want.key, attempts, view.parked.clone()));
                    self.try_later(turn, want.sku.clone(), want.key.clone(), attempts);
                    End::Again(error)
                }
                PushOutcome::Refused(error) => {
                    settled.push((push, PushResult::NotApplied));
                    let parked = plan::parked(&error, self.shared.now());
                    history.push(self.entry(
                        "inventory_push",
                        "error",
                        Some(&want.sku),
                        json!({
                            "code": parked.code, "detail": parked.detail, "quantity": quantity,
                            "listing": want.key.as_str(), "vendorCode": error.vendor_code,
                            "parked": true,
                        }),
                    ));
                    notes.push(note(&want.key, attempts, Some(parked)));
                    self.later.remove(&want.key);
                    self.raise_wanted.remove(&want.key);
                    End::Refused(error)
                }
                PushOutcome::Unknown(error) => {
                    settled.push((push, PushResult::Unknown));
                    notes.push(note(&want.key, attempts, view.parked.clone()));
                    // What is owed is sent again under the same token, together with what it was
                    // sent with; what was only asked for is looked at. The bulk way has no
                    // tokens: there it is read what is still owed.
                    if view.is_dirty() && way == Way::Bulk {
                        self.later.remove(&want.key);
                        self.reread(&view, true, Instant::now());
                    } else if view.is_dirty() {
                        self.later.remove(&want.key);
                        let unclear = again.get_or_insert_with(|| Unclear {
                            at: super::later(attempts),
                            run: run.map(str::to_owned),
                            wants: Vec::new(),
                        });
                        unclear.wants.push(Want { wish: Wish::Owed, ..want.clone() });
                    } else {
                        self.expect_number(&view, quantity);
                    }
                    End::Again(error)
                }
            };
            reports.push(Report { want, end });
        }
        self.unclear.extend(again);
        self.note_revisions(revised).await?;
        self.settle(settled).await?;
        if !notes.is_empty() {
            self.shared.store.note_attempts(&self.link.org, &self.link.id, notes).await?;
        }
        self.shared.note(&self.link.org, history).await;
        Ok(reports)
    }

    /// Counts what the vendor counts.
    async fn note_revisions(&self, keys: Vec<ListingKey>) -> Result<(), EngineError> {
        if keys.is_empty() {
            return Ok(());
        }
        let at = self.shared.now();
        let (day_began, _) = self.link.kind.day_of(at);
        let note = RevisionsNote { keys, at, day_began };
        Ok(self.shared.store.note_revisions(&self.link.org, &self.link.id, note).await?)
    }

    /// Measures how long the channel showed an old number.
    fn note_lag(&self, view: &ListingView) {
        let Some(sku) = &view.sku else { return };
        let micros = self.shared.now().micros_since(sku.state.updated_at).max(0);
        let millis = u32::try_from(micros / 1_000).unwrap_or(u32::MAX);
        metrics::histogram!("trueup_push_lag_seconds", "kind" => self.link.kind.name())
            .record(f64::from(millis) / 1_000.0);
    }

    pub(super) async fn settle(
        &self,
        items: Vec<(ListingPush, PushResult)>,
    ) -> Result<(), EngineError> {
        if items.is_empty() {
            return Ok(());
        }
        let settle = Command::Settle { channel: self.link.id.clone(), items };
        self.shared.submit(&self.link.org, settle, Source::Channel).await?;
        Ok(())
    }
}

/// Returns whether a channel is told more only once its orders have been heard: one that compares
/// refuses what comes too late by itself.
pub(super) fn raises_wait(row: &Connection, capabilities: &Capabilities) -> bool {
    row.sync_orders && !capabilities.compare_and_set
}

/// What to do about a want, with the worker's own circumstances taken in.
enum Planned {
    Send(Sending),
    Note(ListingPush, PushResult),
    End(End),
}

/// What is under preparation to be sent: it is marked, and its scopes are claimed.
struct Prepared {
    reports: Vec<Report>,
    claims: Claims,
    /// What goes the ordinary way.
    outgoing: Vec<Outgoing>,
    /// What goes the bulk way, and what the vendor is told of it.
    freight: Vec<Freight>,
    items: Vec<BulkItem>,
    /// What was to go the bulk way and is near zero; it is not marked.
    near: Vec<(Turn, Want)>,
}

fn push_item(out: &Outgoing) -> PushItem {
    PushItem {
        listing: listing(&out.view),
        quantity: out.sending.quantity,
        expected_before: out.sending.expected_before,
    }
}

pub(super) fn listing(view: &ListingView) -> Listing {
    Listing {
        sku: view.mapping.sku.clone(),
        key: view.mapping.key.clone(),
        fields: view.mapping.fields.clone(),
        channel_fulfilled: view.mapping.channel_fulfilled,
    }
}

pub(super) fn note(key: &ListingKey, attempts: u32, parked: Option<Parked>) -> AttemptNote {
    AttemptNote { key: key.clone(), attempts, parked }
}

/// Returns whether the vendor counts what was sent as a revision.
fn is_revision(outcome: &PushOutcome) -> bool {
    match outcome {
        PushOutcome::Applied | PushOutcome::Accepted | PushOutcome::Unknown(_) => true,
        PushOutcome::Stale | PushOutcome::NotSent(_) | PushOutcome::Refused(_) => false,
    }
}

/// Returns how long to wait until an instant: an hour at most, because clocks are put right.
fn until_then(now: Timestamp, then: Timestamp) -> Duration {
    let micros = u64::try_from(then.micros_since(now)).unwrap_or(0);
    Duration::from_micros(micros).min(super::SLEEP_MAX)
}

fn waiting(detail: &str) -> ChannelError {
    ChannelError::new(ChannelErrorKind::Transient, detail)
}

/// The error of a push that waits for a reading; it says nothing of the connection.
fn unread(detail: &str) -> ChannelError {
    ChannelError::new(ChannelErrorKind::Stale, detail)
}

fn outcome_word(outcome: &PushOutcome) -> &'static str {
    match outcome {
        PushOutcome::Applied => "applied",
        PushOutcome::Accepted => "accepted",
        PushOutcome::Stale => "stale",
        PushOutcome::NotSent(_) => "not_sent",
        PushOutcome::Refused(_) => "refused",
        PushOutcome::Unknown(_) => "unknown",
    }
}
