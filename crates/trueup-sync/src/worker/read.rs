//! Reading back: was a push applied, and what does a listing show that somebody hinted at?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use trueup_channels::{Listing, Reading};
use trueup_core::{
    Answer, Command, ListingKey, ListingPush, ListingReading, PushResult, Reconcile,
    ReconcileAction, Reconciled, Sku, Source, Strategy, Timestamp,
};
use trueup_store::{AttemptNote, Connection, ListingView, Parked};

use super::line::Waiting;
use super::push::{listing, note};
use super::{Check, ORDERS_WAIT_MAX, Reread, VERIFY_TRIES_MAX, Worker, names_of};
use crate::engine::EngineError;
use crate::plan::{self, Lane, Turn};
use crate::rehearse::Settling;

/// How soon a push is first looked for on the channel, and so much later again for each so many
/// that wait for the same.
const CHECK_FIRST: Duration = Duration::from_millis(500);
const CHECKS_PER_PAUSE: usize = 1_000;
/// How many pushes that the channel said to have applied are looked for at once; beyond, one of
/// so many is.
const APPLIED_CHECKS_MAX: usize = 1_000;
const APPLIED_CHECKED_EACH: usize = 20;
/// The most earlier numbers that are remembered of a listing whose push is unverified.
const EARLIER_MAX: usize = 16;

/// A batch of readings with the listings they are of.
pub(super) struct Readings {
    pub(super) read_at: Timestamp,
    pub(super) items: Vec<(ListingView, Reading)>,
}

impl Worker {
    /// Expects to see what is in flight for a listing.
    pub(super) fn expect_applied(&mut self, view: &ListingView, earlier: Vec<i64>) {
        if let Some(sent) = view.state.in_flight {
            self.expect(view, sent.quantity, earlier);
        }
    }

    /// Expects to see a number that the channel said to have applied; where very many are, a
    /// sample of them.
    pub(super) fn expect_applied_number(&mut self, view: &ListingView, sent: i64) {
        self.applied += 1;
        let is_crowded = self.checks.len() >= APPLIED_CHECKS_MAX;
        if is_crowded && !self.applied.is_multiple_of(APPLIED_CHECKED_EACH) {
            self.checks.remove(&view.mapping.key);
        } else {
            self.expect_number(view, sent);
        }
    }

    /// Expects to see a number that was just told, in place of those before it.
    pub(super) fn expect_number(&mut self, view: &ListingView, sent: i64) {
        let told = view.state.in_flight.map(|sent| sent.quantity);
        let mut earlier: Vec<i64> = view.state.base.into_iter().chain(told).collect();
        if let Some(known) = self.checks.remove(&view.mapping.key) {
            earlier.extend(known.earlier);
            earlier.push(known.sent);
        }
        self.expect(view, sent, newest_of(earlier, sent));
    }

    fn expect(&mut self, view: &ListingView, sent: i64, earlier: Vec<i64>) {
        let now = Instant::now();
        let settle = self.settle_time();
        let crowd = u32::try_from(1 + self.checks.len() / CHECKS_PER_PAUSE).unwrap_or(u32::MAX);
        let pause = CHECK_FIRST.saturating_mul(crowd).min(settle);
        let (sku, key) = names_of(view);
        let check = Check { sku, due: now + pause, pause, settles_at: now + settle, earlier, sent };
        self.checks.insert(key, check);
    }

    pub(super) fn settle_time(&self) -> Duration {
        let millis = self.link.channel.capabilities().settle_ms;
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// Reads one batch of pushes that are not yet seen to be applied.
    pub(super) async fn check_step(&mut self, row: &Connection) -> Result<bool, EngineError> {
        let now = Instant::now();
        let size = self.link.channel.capabilities().read_items_max.max(1);
        let due: Vec<(Sku, ListingKey)> = self
            .checks
            .iter()
            .filter(|(_, check)| check.due <= now)
            .take(size)
            .map(|(key, check)| (check.sku.clone(), key.clone()))
            .collect();
        if due.is_empty() {
            return Ok(false);
        }
        let Some(readings) = self.read(&due).await? else { return Ok(true) };
        let gone: Vec<&ListingKey> = due
            .iter()
            .map(|(_, key)| key)
            .filter(|key| !readings.items.iter().any(|(view, _)| view.mapping.key == **key))
            .collect();
        for key in gone {
            self.checks.remove(key);
        }
        let mut work = Checked::default();
        for (view, reading) in &readings.items {
            self.check_one(view, reading, &mut work);
        }
        self.settle(work.settled).await?;
        if row.publishes() {
            self.enqueue_owed(&work.seen).await?;
        }
        let plain = Settling {
            read_at: readings.read_at,
            settle_ms: self.link.channel.capabilities().settle_ms,
            strategy: None,
        };
        self.reconcile(row, plain, work.moved).await?;
        // The channel still shows what it was to give up: that is no change of its own.
        let lied = Settling { settle_ms: 0, strategy: Some(Strategy::MasterWins), ..plain };
        self.reconcile(row, lied, work.lied).await?;
        if !work.notes.is_empty() {
            self.shared.store.note_attempts(&self.link.org, &self.link.id, work.notes).await?;
        }
        for (sku, detail) in work.parked {
            let entry = self.entry("inventory_push", "error", Some(&sku), detail.clone());
            self.shared.note(&self.link.org, vec![entry]).await;
            self.shared.tell(&self.link.org, "channel.error", detail).await;
        }
        Ok(true)
    }

    fn check_one(&mut self, view: &ListingView, reading: &Reading, work: &mut Checked) {
        let key = &view.mapping.key;
        if view.state.follows {
            // Another listing took over, and with it what was told.
            self.checks.remove(key);
            return;
        }
        let Some(check) = self.checks.get(key).cloned() else { return };
        let now = Instant::now();
        let is_settled = now >= check.settles_at;
        let quantity_max = self.link.channel.capabilities().quantity_max;
        let state = &view.state;
        let observed = match reading {
            Reading::Quantity(observed) => *observed,
            Reading::Unknown(_) if is_settled => {
                self.checks.remove(key);
                return;
            }
            Reading::Unknown(_) => return self.look_again(key),
        };
        if observed == check.sent || Some(observed) == state.base && state.in_flight.is_none() {
            self.checks.remove(key);
            if let Some(sent) = state.in_flight.filter(|sent| sent.quantity == observed) {
                let (quantity, version) = (sent.quantity, sent.version);
                let push = ListingPush { key: key.clone(), quantity, version, epoch: state.epoch };
                work.settled.push((push, PushResult::Applied));
            }
            // What is owed beside it is sent now that it is clear.
            work.seen.insert(view.mapping.sku.clone());
            self.lies.remove(key);
            return;
        }
        if !is_settled {
            return self.look_again(key);
        }
        self.checks.remove(key);
        let reading = (view.clone(), observed);
        if Some(observed) == plan::expected(view, quantity_max)
            || !(check.earlier.contains(&observed) || Some(observed) == state.base)
        {
            work.moved.push(reading);
            return;
        }
        work.lied.push(reading);
        let lies = self.lies.entry(key.clone()).or_default();
        *lies += 1;
        let attempts = *lies;
        if attempts < VERIFY_TRIES_MAX {
            return;
        }
        self.lies.remove(key);
        let detail = format!(
            "the channel took {} and still shows {observed} after {attempts} tries",
            check.sent
        );
        let parked = Parked {
            code: "not_applied".to_owned(),
            detail: detail.clone(),
            at: self.shared.now(),
        };
        work.notes.push(note(key, attempts, Some(parked)));
        let body = json!({
            "channelId": self.link.id.as_str(), "sku": view.mapping.sku.as_str(),
            "listing": key.as_str(), "code": "not_applied", "detail": detail, "parked": true,
        });
        work.parked.push((view.mapping.sku.clone(), body));
    }

    /// Looks for a push again after twice the pause, and when the settle time is over.
    fn look_again(&mut self, key: &ListingKey) {
        let Some(check) = self.checks.get_mut(key) else { return };
        let now = Instant::now();
        check.pause = check.pause.saturating_mul(2);
        let next = now + check.pause;
        check.due = if now < check.settles_at { next.min(check.settles_at) } else { next };
    }

    /// Reads one batch of listings that somebody wants to have read.
    pub(super) async fn reread_step(&mut self, row: &Connection) -> Result<bool, EngineError> {
        let now = Instant::now();
        let heard = self.link.heard_at();
        let ready = |reread: &Reread| {
            let hears = match reread.orders_since {
                Some(since) => heard.is_some_and(|at| at >= since) || now >= reread.deadline,
                None => true,
            };
            reread.not_before <= now && (hears || !row.sync_orders)
        };
        let size = self.link.channel.capabilities().read_items_max.max(1);
        let due: Vec<(ListingKey, Reread)> = self
            .rereads
            .iter()
            .filter(|(_, reread)| ready(reread))
            .take(size)
            .map(|(key, reread)| (key.clone(), reread.clone()))
            .collect();
        if due.is_empty() {
            return Ok(false);
        }
        let keys: Vec<(Sku, ListingKey)> =
            due.iter().map(|(key, reread)| (reread.sku.clone(), key.clone())).collect();
        let Some(readings) = self.read(&keys).await? else { return Ok(true) };
        for (key, _) in &due {
            self.rereads.remove(key);
        }
        let due: BTreeMap<ListingKey, Reread> = due.into_iter().collect();
        let (mut plain, mut sure) = (Vec::new(), Vec::new());
        for (view, reading) in readings.items {
            let Some(reread) = due.get(&view.mapping.key) else { continue };
            if let Some(observed) = self.judge(row, &view, &reading, reread) {
                let list = if reread.surely_changed { &mut sure } else { &mut plain };
                list.push((view, observed));
            }
        }
        let settle_ms = self.link.channel.capabilities().settle_ms;
        let settling = Settling { read_at: readings.read_at, settle_ms, strategy: None };
        self.reconcile(row, settling, plain).await?;
        self.reconcile(row, Settling { settle_ms: 0, ..settling }, sure).await?;
        Ok(true)
    }

    /// Says whether a reading is to be settled now; an unexplained decrease waits until the
    /// channel's orders have been heard.
    fn judge(
        &mut self,
        row: &Connection,
        view: &ListingView,
        reading: &Reading,
        reread: &Reread,
    ) -> Option<i64> {
        let (sku, key) = (view.mapping.sku.clone(), view.mapping.key.clone());
        let observed = match reading {
            Reading::Quantity(observed) => {
                self.unreadable.remove(&key);
                *observed
            }
            Reading::Unknown(_) => {
                let times = self.unreadable.entry(key.clone()).or_default();
                *times = times.saturating_add(1);
                let times = *times;
                if row.publishes() && view.is_dirty() {
                    // An unclear push waits for a number before another can be sent.
                    let (turn, since) = (Turn::first_of(Lane::Decrease), Instant::now());
                    match view.state.in_flight {
                        Some(_) => self.try_later(turn, sku, key, times),
                        None => self.line_up(turn, Waiting { sku, key, since }),
                    }
                }
                return None;
            }
        };
        if view.sku.is_none() || !view.mapping.enabled {
            return None;
        }
        let not_yet = self.checks.get(&key).is_some_and(|check| {
            !reread.surely_changed && (observed == check.sent || check.earlier.contains(&observed))
        });
        if not_yet {
            return None;
        }
        let expected = plan::expected(view, self.link.channel.capabilities().quantity_max);
        let is_lower = view.state.base.is_some_and(|base| observed < base);
        let explained = Some(observed) == expected || view.state.in_conflict || !is_lower;
        if row.sync_orders && reread.orders_since.is_none() && !explained {
            let since = self.shared.now();
            self.link.want_orders(since);
            let deadline = Instant::now() + ORDERS_WAIT_MAX;
            let again = Reread { orders_since: Some(since), deadline, ..reread.clone() };
            self.rereads.insert(key, again);
            return None;
        }
        Some(observed)
    }

    /// Reads listings; `None` = the vendor could not be asked.
    pub(super) async fn read(
        &mut self,
        keys: &[(Sku, ListingKey)],
    ) -> Result<Option<Readings>, EngineError> {
        let skus: Vec<Sku> = keys.iter().map(|(sku, _)| sku.clone()).collect();
        let mut views = self.shared.listings_of(&self.link.org, &self.link.id, &skus).await?;
        views.retain(|view| keys.iter().any(|(_, key)| *key == view.mapping.key));
        let read_at = self.shared.now();
        if views.is_empty() {
            return Ok(Some(Readings { read_at, items: Vec::new() }));
        }
        let listings: Vec<Listing> = views.iter().map(listing).collect();
        let link = self.link.clone();
        match link.channel.read(&link.transport, &listings).await {
            Ok(mut readings) => {
                self.came_through();
                readings.resize_with(views.len(), || Reading::Unknown("no reading".to_owned()));
                Ok(Some(Readings { read_at, items: views.into_iter().zip(readings).collect() }))
            }
            Err(error) => {
                self.fell_out(&error).await?;
                Ok(None)
            }
        }
    }

    /// Settles readings in the ledger, puts what they owe in line and reports conflicts.
    pub(super) async fn reconcile(
        &mut self,
        row: &Connection,
        settling: Settling,
        readings: Vec<(ListingView, i64)>,
    ) -> Result<Vec<Reconciled>, EngineError> {
        let done = self.submit_readings(settling, &readings).await?;
        if row.publishes() {
            let owing: Vec<Sku> = done
                .iter()
                .filter(|item| item.action == ReconcileAction::Push)
                .map(|item| item.sku.clone())
                .collect();
            self.enqueue_owed(&owing.into_iter().collect()).await?;
            // First contact and unclear pushes: what is owed goes on from here.
            // What was read too early is read again first.
            let is_early = |key: &ListingKey| {
                done.iter().any(|item| item.key == *key && item.action == ReconcileAction::Pending)
            };
            let dirty =
                readings.iter().filter(|(view, _)| view.is_dirty() && !is_early(&view.mapping.key));
            let dirty: Vec<Sku> = dirty.map(|(view, _)| view.mapping.sku.clone()).collect();
            self.enqueue_owed(&dirty.into_iter().collect()).await?;
        }
        for item in done.iter().filter(|item| item.action == ReconcileAction::Pending) {
            self.read_when_settled(&item.key, &readings);
        }
        Ok(done)
    }

    fn read_when_settled(&mut self, key: &ListingKey, readings: &[(ListingView, i64)]) {
        let Some((view, _)) = readings.iter().find(|(view, _)| view.mapping.key == *key) else {
            return;
        };
        let now = Instant::now();
        // It is settling since a push, or an order was booked while it was read.
        let pushed_at = view.state.acked_at.max(view.state.in_flight.map(|sent| sent.at));
        let settle_ms = self.link.channel.capabilities().settle_ms;
        let is_settling = pushed_at.is_some_and(|at| self.shared.now() < at.plus_millis(settle_ms));
        if is_settling && self.checks.contains_key(key) {
            return;
        }
        let pause = if is_settling { self.settle_time() } else { CHECK_FIRST };
        let reread = Reread {
            sku: view.mapping.sku.clone(),
            not_before: now + pause,
            orders_since: None,
            deadline: now,
            surely_changed: false,
        };
        self.rereads.entry(key.clone()).or_insert(reread);
    }

    /// Submits readings, and tells of conflicts that they open.
    pub(super) async fn submit_readings(
        &mut self,
        settling: Settling,
        readings: &[(ListingView, i64)],
    ) -> Result<Vec<Reconciled>, EngineError> {
        let quantity_max = self.link.channel.capabilities().quantity_max;
        let mut plain = Vec::new();
        let mut capped = Vec::new();
        for (view, observed) in readings.iter().filter(|(view, _)| view.sku.is_some()) {
            let published = plan::terms(view).map_or(0, |terms| terms.published);
            let shows_all = plan::expected(view, quantity_max) == Some(*observed);
            // The ledger does not know the channel's own limit: at it, all is well.
            if published > quantity_max && shows_all && !view.state.in_conflict {
                let version = view.sku.as_ref().map_or(0, |sku| sku.state.version);
                let (key, epoch) = (view.mapping.key.clone(), view.state.epoch);
                let push = ListingPush { key, quantity: *observed, version, epoch };
                capped.push((push, PushResult::Applied));
            } else {
                let key = view.mapping.key.clone();
                plain.push(ListingReading { key, observed: *observed });
            }
        }
        self.settle(capped).await?;
        if plain.is_empty() {
            return Ok(Vec::new());
        }
        let command = Command::Reconcile(Reconcile {
            channel: self.link.id.clone(),
            read_at: settling.read_at,
            settle_ms: settling.settle_ms,
            strategy: settling.strategy,
            readings: plain,
        });
        let done = match self.shared.submit(&self.link.org, command, Source::Pull).await? {
            Answer::Reconciled(done) => done,
            Answer::Sku(_)
            | Answer::Bulk(_)
            | Answer::Reserved(..)
            | Answer::ReservedBatch(_)
            | Answer::Reservation(_)
            | Answer::Expired(_)
            | Answer::Reopened(..)
            | Answer::Done => Vec::new(),
        };
        self.tell_conflicts(readings, &done).await?;
        Ok(done)
    }

    async fn tell_conflicts(
        &self,
        readings: &[(ListingView, i64)],
        done: &[Reconciled],
    ) -> Result<(), EngineError> {
        let was_open = |key: &ListingKey| {
            readings.iter().any(|(view, _)| view.mapping.key == *key && view.state.in_conflict)
        };
        let fresh: Vec<&Reconciled> = done
            .iter()
            .filter(|item| item.action == ReconcileAction::Conflict && !was_open(&item.key))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let (org, channel) = (&self.link.org, &self.link.id);
        const CONFLICTS_MAX: usize = 1_000;
        let open = self.shared.store.conflicts(org, Some(true), Some(channel), None, CONFLICTS_MAX);
        let open = open.await?.items;
        for item in fresh {
            let known = open.iter().find(|conflict| conflict.key == item.key);
            let body = json!({
                "conflictId": known.map(|conflict| conflict.id),
                "channelId": channel.as_str(),
                "sku": item.sku.as_str(),
                "listing": item.key.as_str(),
                "master": item.master,
                "channel": item.observed,
                "expected": item.expected,
                "base": known.and_then(|conflict| conflict.base),
            });
            let entry = self.entry("inventory_conflict", "open", Some(&item.sku), body.clone());
            self.shared.note(org, vec![entry]).await;
            self.shared.tell(org, "conflict.detected", body).await;
        }
        Ok(())
    }
}

/// Returns the newest of earlier numbers, each once, in their order: those but the number that is
/// told now.
fn newest_of(earlier: Vec<i64>, told: i64) -> Vec<i64> {
    let mut newest: Vec<i64> = Vec::new();
    for number in earlier.into_iter().rev() {
        if newest.len() < EARLIER_MAX && number != told && !newest.contains(&number) {
            newest.push(number);
        }
    }
    newest.reverse();
    newest
}

/// What a batch of verifying readings leads to.
#[derive(Default)]
struct Checked {
    settled: Vec<(ListingPush, PushResult)>,
    seen: BTreeSet<Sku>,
    moved: Vec<(ListingView, i64)>,
    lied: Vec<(ListingView, i64)>,
    notes: Vec<AttemptNote>,
    parked: Vec<(Sku, serde_json::Value)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_many_earlier_numbers_are_remembered() {
        let falling: Vec<i64> = (0..40).rev().collect();
        assert_eq!(newest_of(falling, 3), [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 2, 1, 0]);
        let rising: Vec<i64> = (0..40).collect();
        assert_eq!(newest_of(rising, 40), (24..40).collect::<Vec<i64>>());
        assert_eq!(newest_of(vec![5, 6, 5, 7], 7), [6, 5]);
    }
}
