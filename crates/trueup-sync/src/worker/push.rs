//! Pushing: a batch is computed at the moment of sending, marked, sent, and settled per item.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::time::Instant;
use trueup_channels::{
    ChannelError, ChannelErrorKind, Listing, PushBatch, PushItem, PushOutcome, Reading,
};
use trueup_core::{Command, ListingKey, ListingPush, PushResult, Sku, Source};
use trueup_store::{AttemptNote, Connection, ListingView, Parked};

use super::{ORDERS_WAIT_MAX, RAISE_FRESH_MS_MAX, Reread, Unclear, VERIFY_TRIES_MAX, Worker};
use crate::engine::EngineError;
use crate::plan::{self, Lane, Plan, Sending, Skip, TokenPart, Wish};

/// One listing that is to be pushed, and who wants it.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) sku: Sku,
    pub(super) key: ListingKey,
    pub(super) wish: Wish,
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

/// What is about to be sent for one listing.
struct Outgoing {
    want: Want,
    view: ListingView,
    sending: Sending,
}

impl Worker {
    /// Sends one batch of what is owed, what could be oversold first.
    pub(super) async fn push_step(&mut self, row: &Connection) -> Result<bool, EngineError> {
        if let Some(unclear) = self.due_unclear() {
            let Unclear { way, run, wants, .. } = unclear;
            let again = wants.clone();
            let pushed = self.push_batch(row, wants, run.as_deref(), way).await;
            if let Err(error) = pushed {
                let at = super::later(1);
                self.unclear.push_back(Unclear { at, way, run, wants: again });
                return Err(error);
            }
            return Ok(true);
        }
        let Some((lane, waiting)) = self.queue.first_lane() else { return Ok(false) };
        let (way, count) = self.way(waiting);
        let taken = self.queue.take(lane, count);
        let wants: Vec<Want> =
            taken.into_iter().map(|(sku, key)| Want { sku, key, wish: Wish::Owed }).collect();
        match self.push_batch(row, wants.clone(), None, way).await {
            Ok(_) => Ok(true),
            Err(error) => {
                for want in wants {
                    self.queue.put(lane, want.sku, want.key);
                }
                Err(error)
            }
        }
    }

    fn due_unclear(&mut self) -> Option<Unclear> {
        let now = Instant::now();
        let at = self.unclear.iter().position(|unclear| unclear.at <= now)?;
        self.unclear.remove(at)
    }

    /// Chooses the vendor's way for so many listings, and how many of them go at once.
    pub(super) fn way(&self, waiting: usize) -> (Way, usize) {
        let capabilities = self.link.channel.capabilities();
        if capabilities.bulk_items_max > 0 && waiting >= capabilities.bulk_from.max(1) {
            (Way::Bulk, capabilities.bulk_items_max)
        } else {
            (Way::Ordinary, capabilities.push_items_max.max(1))
        }
    }

    /// Pushes a batch: computes, marks, sends, settles. One report per want.
    pub(super) async fn push_batch(
        &mut self,
        row: &Connection,
        wants: Vec<Want>,
        run: Option<&str>,
        way: Way,
    ) -> Result<Vec<Report>, EngineError> {
        let skus: Vec<Sku> = wants.iter().map(|want| want.sku.clone()).collect();
        let views = self.shared.listings_of(&self.link.org, &self.link.id, &skus).await?;
        let mut views: BTreeMap<ListingKey, ListingView> =
            views.into_iter().map(|view| (view.mapping.key.clone(), view)).collect();
        let mut reports = Vec::with_capacity(wants.len());
        let mut outgoing = Vec::new();
        let mut notes = Vec::new();
        for want in wants {
            let Some(view) = views.remove(&want.key) else {
                reports.push(Report { want, end: End::Gone });
                continue;
            };
            match self.plan(row, &view, want.wish) {
                Planned::Send(sending) => outgoing.push(Outgoing { want, view, sending }),
                Planned::Note(push, result) => {
                    let quantity = push.quantity;
                    notes.push((push, result));
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
            return Ok(reports);
        }
        if let Err(error) = self.know_before(&mut outgoing).await {
            // What cannot be compared is not sent: it would overwrite a sale nobody heard of.
            let (blind, known): (Vec<Outgoing>, Vec<Outgoing>) =
                outgoing.into_iter().partition(|out| out.sending.expected_before.is_none());
            outgoing = known;
            self.fell_out(&error).await?;
            for Outgoing { want, view, .. } in blind {
                self.try_later(want.sku.clone(), want.key.clone(), view.attempts + 1);
                reports.push(Report { want, end: End::Again(error.clone()) });
            }
        }
        reports.extend(self.send(outgoing, run, way).await?);
        Ok(reports)
    }

    fn plan(&mut self, row: &Connection, view: &ListingView, wish: Wish) -> Planned {
        let capabilities = self.link.channel.capabilities().clone();
        let key = &view.mapping.key;
        let never_read = view.state.base.is_none() && view.state.in_flight.is_none();
        let strategy_first = wish == Wish::Owed && never_read && !self.unreadable.contains_key(key);
        match plan::plan(view, wish, &capabilities) {
            Plan::Skip(skip) => Planned::End(End::Skipped(skip)),
            Plan::Shown(push) => Planned::Note(push, PushResult::Applied),
            Plan::OnItsWay(push) => Planned::Note(push, PushResult::Accepted),
            Plan::ReadFirst => {
                self.reread(view, false);
                Planned::End(End::Again(unread("an earlier push has an unclear outcome")))
            }
            // First contact: what the channel shows is compared before it is overwritten.
            Plan::Send(_) if strategy_first => {
                self.reread(view, false);
                Planned::End(End::Again(unread("the listing is read first")))
            }
            Plan::Send(sending) => {
                let guarded = sending.lane == Lane::Increase
                    && row.sync_orders
                    && !capabilities.compare_and_set;
                let (now, heard) = (self.shared.now(), self.link.heard_at());
                let wanted_at = self.raise_wanted.get(key).copied().unwrap_or(now);
                if guarded && !plan::may_raise(wanted_at, heard, now, RAISE_FRESH_MS_MAX) {
                    // Orders that were heard too long ago are asked for anew.
                    let since =
                        if heard.is_some_and(|heard| heard >= wanted_at) { now } else { wanted_at };
                    self.raise_wanted.insert(key.clone(), since);
                    self.link.want_orders(since);
                    self.raising.insert(key.clone(), view.mapping.sku.clone());
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

    /// Asks that a listing be read, and keeps its push for after that.
    fn reread(&mut self, view: &ListingView, surely_changed: bool) {
        let now = Instant::now();
        let key = view.mapping.key.clone();
        let reread = Reread {
            sku: view.mapping.sku.clone(),
            not_before: now,
            orders_since: None,
            deadline: now + ORDERS_WAIT_MAX,
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

    async fn send(
        &mut self,
        outgoing: Vec<Outgoing>,
        run: Option<&str>,
        way: Way,
    ) -> Result<Vec<Report>, EngineError> {
        if outgoing.is_empty() {
            return Ok(Vec::new());
        }
        let pushes: Vec<ListingPush> =
            outgoing.iter().map(|out| out.sending.push.clone()).collect();
        let (org, channel) = (self.link.org.clone(), self.link.id.clone());
        let mark = Command::MarkSent { channel: channel.clone(), items: pushes };
        self.shared.submit(&org, mark, Source::Channel).await?;
        let batch = self.batch(&outgoing, run);
        let began = Instant::now();
        let link = self.link.clone();
        let mut outcomes = match way {
            Way::Ordinary => link.channel.push(&link.transport, &batch).await,
            Way::Bulk => link.channel.push_bulk(&link.transport, &batch).await,
        };
        metrics::histogram!("trueup_push_batch_seconds", "kind" => link.kind.name())
            .record(began.elapsed().as_secs_f64());
        // A connector that answers for fewer items than it was given knows nothing of the rest.
        outcomes.resize_with(outgoing.len(), || PushOutcome::Unknown(waiting("no outcome")));
        self.look_at(&outcomes).await?;
        self.take_outcomes(outgoing, outcomes, run, way).await
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
        let item = |out: &Outgoing| PushItem {
            listing: listing(&out.view),
            quantity: out.sending.quantity,
            expected_before: out.sending.expected_before,
        };
        PushBatch {
            token: plan::token(&self.link.id, run, &parts),
            items: outgoing.iter().map(item).collect(),
        }
    }

    /// Notes whether the vendor could be talked to at all.
    async fn look_at(&mut self, outcomes: &[PushOutcome]) -> Result<(), EngineError> {
        let mut wide: Option<&ChannelError> = None;
        for outcome in outcomes {
            match outcome {
                PushOutcome::NotSent(error) | PushOutcome::Unknown(error)
                    if super::is_connection_wide(error.kind) =>
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

    async fn take_outcomes(
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
        let verifies = self.link.channel.capabilities().verify_by_reading;
        for (out, outcome) in outgoing.into_iter().zip(outcomes) {
            let Outgoing { want, view, sending } = out;
            let word = outcome_word(&outcome);
            metrics::counter!("trueup_push_items_total", "kind" => self.link.kind.name(),
                "outcome" => word)
            .increment(1);
            let push = sending.push;
            let quantity = push.quantity;
            let attempts = view.attempts.saturating_add(1);
            let end = match outcome {
                PushOutcome::Applied | PushOutcome::Accepted => {
                    self.note_lag(&view);
                    let taken = matches!(outcome, PushOutcome::Applied) && !verifies;
                    let result = if taken { PushResult::Applied } else { PushResult::Accepted };
                    settled.push((push, result));
                    self.unreadable.remove(&want.key);
                    self.later.remove(&want.key);
                    self.raise_wanted.remove(&want.key);
                    if view.parked.is_some() || view.attempts > 0 {
                        notes.push(note(&want.key, 0, None));
                    }
                    self.expect_number(&view, quantity);
                    End::Sent(quantity)
                }
                PushOutcome::Stale => {
                    settled.push((push, PushResult::NotApplied));
                    notes.push(note(&want.key, attempts, None));
                    self.link.want_orders(self.shared.now());
                    if attempts > VERIFY_TRIES_MAX {
                        self.try_later(want.sku.clone(), want.key.clone(), attempts);
                    } else {
                        self.reread(&view, true);
                    }
                    End::Again(ChannelError::new(
                        ChannelErrorKind::Stale,
                        "the channel shows another number than it was told",
                    ))
                }
                PushOutcome::NotSent(error) => {
                    // After an unclear push it stays unclear, whatever became of this one.
                    if view.state.in_flight.is_none() {
                        settled.push((push, PushResult::NotApplied));
                    }
                    notes.push(note(&want.key, attempts, view.parked.clone()));
                    self.try_later(want.sku.clone(), want.key.clone(), attempts);
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
                    End::Refused(error)
                }
                PushOutcome::Unknown(error) => {
                    settled.push((push, PushResult::Unknown));
                    notes.push(note(&want.key, attempts, view.parked.clone()));
                    // What is owed is sent again under the same token, together with what it was
                    // sent with; what was only asked for is looked at.
                    if view.is_dirty() {
                        self.later.remove(&want.key);
                        let unclear = again.get_or_insert_with(|| Unclear {
                            at: super::later(attempts),
                            way,
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
        self.settle(settled).await?;
        if !notes.is_empty() {
            self.shared.store.note_attempts(&self.link.org, &self.link.id, notes).await?;
        }
        self.shared.note(&self.link.org, history).await;
        Ok(reports)
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

/// What to do about a want, with the worker's own circumstances taken in.
enum Planned {
    Send(Sending),
    Note(ListingPush, PushResult),
    End(End),
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
