//! Bulk batches: handed over to the vendor, kept, asked after, and settled when they have ended.
//!
//! The vendor may take hours. Until then the listings of a feed are told nothing else, because
//! nobody knows which of the two would win, and nothing that is read of them means anything.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use trueup_channels::{
    BulkItem, BulkState, ChannelError, ChannelErrorKind, HandedOver, PushOutcome,
};
use trueup_core::{ListingKey, ListingPush, Sent, Sku, Timestamp};
use trueup_store::{Connection, Feed, FeedItem, ListingView};

use super::Worker;
use super::push::{End, Freight, Outgoing, Report, Want, Way};
use crate::engine::EngineError;
use crate::link::Link;
use crate::plan::{Lane, Sending, Turn, Wish};
use crate::scopes::Claims;
use crate::shared::{SKUS_MAX, Shared};

/// The longest pause between two looks at a feed; it begins with the channel's `bulk_look_ms`
/// and doubles.
const FEED_LOOK_MAX: Duration = Duration::from_secs(120);
/// How long a feed is followed, in milliseconds: then it counts as lost, and its listings are
/// read.
const FEED_OPEN_MS_MAX: i64 = 24 * 3_600_000;
/// How long a listing of a feed is not looked for on the channel: longer than a feed is followed.
const CHECK_PUT_OFF: Duration = Duration::from_secs(48 * 3_600);

/// A feed whose end is not known.
pub(super) struct OpenFeed {
    id: String,
    ticket: String,
    /// How many items it has.
    count: usize,
    created_at: Timestamp,
    /// When it was begun, where that was since the start.
    began: Option<Instant>,
    pub(super) due: Instant,
    pause: Duration,
    /// Held until its items are settled.
    _claims: Claims,
}

/// What a batch that was handed over left behind.
pub(super) struct Kept {
    feed: Feed,
    /// Who wanted its items, in the same order.
    pub(super) wants: Vec<Want>,
}

impl Kept {
    /// Returns each want with the number that it is told.
    pub(super) fn told(&self) -> impl Iterator<Item = (&Want, i64)> {
        self.wants.iter().zip(self.feed.items.iter().map(|item| item.quantity))
    }
}

/// Hands a batch over; what was not is given back, with the outcome of all of it.
///
/// The feed is kept before anything else can go wrong: without its ticket nobody could say what
/// became of it.
pub(super) async fn hand_over(
    link: &Link,
    shared: &Shared,
    items: Vec<BulkItem>,
    freight: Vec<Freight>,
) -> Result<Kept, (Vec<Freight>, PushOutcome)> {
    let handed_over = link.channel.bulk_start(&link.transport, &items).await;
    drop(items);
    let ticket = match handed_over {
        HandedOver::Ticket(ticket) => ticket,
        HandedOver::No(error) => return Err((freight, PushOutcome::NotSent(error))),
        HandedOver::Unclear(error) => return Err((freight, PushOutcome::Unknown(error))),
    };
    let count = freight.len();
    let (mut wants, mut items) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for Freight { want, item } in freight {
        wants.push(want);
        items.push(item);
    }
    let feed = Feed {
        id: uuid::Uuid::now_v7().simple().to_string(),
        channel: link.id.clone(),
        ticket,
        items,
        created_at: shared.now(),
    };
    if let Err(error) = shared.store.put_feed(&link.org, feed.clone()).await {
        tracing::error!(org = %link.org, channel = %link.id, ticket = feed.ticket, %error,
            "a feed could not be kept");
        let pairs = wants.into_iter().zip(feed.items);
        let freight = pairs.map(|(want, item)| Freight { want, item }).collect();
        return Err((freight, PushOutcome::Unknown(unknown("the feed could not be kept"))));
    }
    Ok(Kept { feed, wants })
}

pub(super) fn item_of(out: &Outgoing) -> FeedItem {
    let push = &out.sending.push;
    FeedItem {
        sku: out.want.sku.clone(),
        key: out.want.key.clone(),
        quantity: push.quantity,
        version: push.version,
        epoch: push.epoch,
        earlier: out.view.state.in_flight.map(|sent| sent.quantity),
    }
}

fn unknown(detail: &str) -> ChannelError {
    ChannelError::new(ChannelErrorKind::UnknownOutcome, detail)
}

impl Worker {
    /// Follows the feeds on that a stop or a crash left open.
    pub(super) async fn find_feeds(&mut self) -> Result<(), EngineError> {
        let feeds = self.shared.store.feeds(&self.link.org, &self.link.id).await?;
        self.feeds.clear();
        self.link.fed.lock().clear();
        for feed in feeds {
            let mut claims = Claims::new(self.shared.clone(), self.link.org.clone());
            let scopes = feed.items.iter().filter_map(|item| self.link.scope_of(&item.key, false));
            for scope in scopes {
                claims.claim(&scope);
            }
            self.follow(&feed, claims, Duration::ZERO, None);
        }
        Ok(())
    }

    /// Follows what a flight has handed over; its listings are told nothing else from now on.
    pub(super) fn follow_kept(&mut self, kept: &Kept, claims: Claims, began: Instant) {
        let first = Duration::from_millis(self.link.channel.capabilities().bulk_look_ms);
        self.follow(&kept.feed, claims, first, Some(began));
    }

    fn follow(&mut self, feed: &Feed, claims: Claims, first: Duration, began: Option<Instant>) {
        let now = Instant::now();
        let keys = feed.items.iter().map(|item| (item.key.clone(), feed.created_at));
        self.link.fed.lock().extend(keys);
        for item in &feed.items {
            if let Some(check) = self.checks.get_mut(&item.key) {
                check.due = now + CHECK_PUT_OFF;
            }
            self.line.remove(&item.key);
            self.later.remove(&item.key);
            self.raising.remove(&item.key);
        }
        let has_ended = self.ended.remove(&feed.ticket);
        // One that landed after an error was found in the store before.
        self.feeds.retain(|known| known.id != feed.id);
        self.feeds.push(OpenFeed {
            id: feed.id.clone(),
            ticket: feed.ticket.clone(),
            count: feed.items.len(),
            created_at: feed.created_at,
            began,
            due: if has_ended { now } else { now + first },
            pause: Duration::from_millis(self.link.channel.capabilities().bulk_look_ms),
            _claims: claims,
        });
    }

    /// Takes it that feeds have ended: they are looked at now.
    pub(super) fn note_ended(&mut self, mut tickets: BTreeSet<String>) {
        let now = Instant::now();
        for feed in self.feeds.iter_mut().filter(|feed| tickets.remove(&feed.ticket)) {
            feed.due = now;
        }
        if self.air.is_empty() {
            self.ended.clear();
        } else {
            // It may be of a batch whose ticket has not landed yet.
            self.ended.extend(tickets);
        }
        if !self.feeds.is_empty() {
            let fed = self.link.fed.lock();
            self.rereads.retain(|key, _| !fed.contains_key(key));
        }
    }

    /// Leaves the feeds of a paused connection alone for a while.
    pub(super) fn leave_feeds(&mut self) {
        let later = Instant::now() + FEED_LOOK_MAX;
        self.feeds.iter_mut().for_each(|feed| feed.due = feed.due.max(later));
    }

    /// Looks at one open feed that is due, and settles its items when it has ended.
    pub(super) async fn feed_step(&mut self, row: &Connection) -> Result<bool, EngineError> {
        let now = Instant::now();
        if self.is_out() {
            return Ok(false);
        }
        let Some(feed) = self.feeds.iter_mut().find(|feed| feed.due <= now) else {
            return Ok(false);
        };
        // Whatever goes wrong, it is not looked at sooner.
        feed.due = now + feed.pause;
        feed.pause = feed.pause.saturating_mul(2).min(FEED_LOOK_MAX);
        let (id, ticket, count) = (feed.id.clone(), feed.ticket.clone(), feed.count);
        let is_overdue = self.shared.now() >= feed.created_at.plus_millis(FEED_OPEN_MS_MAX);
        let link = self.link.clone();
        let state = link.channel.bulk_look(&link.transport, &ticket, count).await;
        if state.is_ok() {
            self.came_through();
        }
        if matches!(state, Ok(BulkState::Done(_))) || is_overdue {
            self.note_took(&id);
        }
        let outcomes = match state {
            Ok(BulkState::Done(outcomes)) => outcomes,
            Ok(BulkState::Lost(error)) => self.lost(&ticket, &error, count),
            Ok(BulkState::Waiting) | Err(_) if is_overdue => {
                self.lost(&ticket, &unknown("the feed has not ended in a day"), count)
            }
            Ok(BulkState::Waiting) => return Ok(true),
            Err(error) => {
                let (org, channel) = (&link.org, &link.id);
                tracing::warn!(%org, %channel, ticket, %error, "a feed could not be looked at");
                if error.kind.is_connection_wide() {
                    self.fell_out(&error).await?;
                }
                return Ok(true);
            }
        };
        self.end_feed(row, &id, outcomes).await?;
        Ok(true)
    }

    /// Notes how long a feed took; one that broke off says nothing of it.
    fn note_took(&mut self, id: &str) {
        let began = self.feeds.iter().find(|feed| feed.id == id).and_then(|feed| feed.began);
        if let Some(began) = began {
            self.bulk_took = Some((Instant::now(), began.elapsed()));
        }
    }

    fn lost(&self, ticket: &str, error: &ChannelError, count: usize) -> Vec<PushOutcome> {
        let (org, channel) = (&self.link.org, &self.link.id);
        tracing::warn!(%org, %channel, ticket, %error, "a feed is lost: its listings are read");
        (0..count).map(|_| PushOutcome::Unknown(error.clone())).collect()
    }

    /// Settles the items of a feed that has ended, and puts in line what is owed since.
    ///
    /// The feed is forgotten last: what is settled twice is settled alike, and until then its
    /// listings are told nothing.
    async fn end_feed(
        &mut self,
        row: &Connection,
        id: &str,
        mut outcomes: Vec<PushOutcome>,
    ) -> Result<(), EngineError> {
        let (org, channel) = (self.link.org.clone(), self.link.id.clone());
        let feed = self.shared.store.feed(&org, &channel, id).await?;
        let items = feed.map_or_else(Vec::new, |feed| feed.items);
        outcomes.resize_with(items.len(), || PushOutcome::Unknown(unknown("no outcome")));
        let keys: Vec<ListingKey> = items.iter().map(|item| item.key.clone()).collect();
        let mut owing: Vec<Sku> = Vec::new();
        for (item, outcome) in items.iter().zip(&outcomes) {
            match outcome {
                // It is read, and what the reading leaves owed is put in line after.
                PushOutcome::Unknown(_) => {
                    self.checks.remove(&item.key);
                }
                PushOutcome::Applied
                | PushOutcome::Accepted
                | PushOutcome::Stale
                | PushOutcome::NotSent(_)
                | PushOutcome::Refused(_) => {
                    if let Some(check) = self.checks.get_mut(&item.key) {
                        check.due = Instant::now();
                    }
                    owing.push(item.sku.clone());
                }
            }
        }
        let owed = |item: FeedItem| {
            let (sku, key) = (item.sku.clone(), item.key.clone());
            Freight { want: Want::new(sku, key, Wish::Owed), item }
        };
        self.take_freight(items.into_iter().map(owed).collect(), outcomes).await?;
        self.shared.store.delete_feed(&org, &channel, id).await?;
        self.feeds.retain(|feed| feed.id != id);
        {
            let mut fed = self.link.fed.lock();
            for key in &keys {
                fed.remove(key);
            }
        }
        if !row.publishes() {
            return Ok(());
        }
        for skus in owing.chunks(SKUS_MAX) {
            let skus: BTreeSet<Sku> = skus.iter().cloned().collect();
            if let Err(error) = self.enqueue_owed(&skus).await {
                self.link.mail.lock().sweep = true;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Notes what became of what went the bulk way, a piece at a time.
    pub(super) async fn take_freight(
        &mut self,
        freight: Vec<Freight>,
        outcomes: Vec<PushOutcome>,
    ) -> Result<Vec<Report>, EngineError> {
        let mut reports = Vec::with_capacity(freight.len());
        let mut rest = freight.into_iter().zip(outcomes);
        loop {
            let piece: Vec<(Freight, PushOutcome)> = rest.by_ref().take(SKUS_MAX).collect();
            if piece.is_empty() {
                return Ok(reports);
            }
            let skus: Vec<Sku> =
                piece.iter().map(|(freight, _)| freight.want.sku.clone()).collect();
            let mut views = self.views_of(&skus).await?;
            let (mut outgoing, mut ends) = (Vec::new(), Vec::new());
            for (freight, outcome) in piece {
                match views.remove(&freight.want.key) {
                    Some(view) => {
                        outgoing.push(outgoing_of(freight, view));
                        ends.push(outcome);
                    }
                    // Unmapped meanwhile.
                    None => reports.push(Report { want: freight.want, end: End::Gone }),
                }
            }
            reports.extend(self.take_outcomes(outgoing, ends, None, Way::Bulk).await?);
        }
    }
}

/// Returns what went the bulk way as it stood when it was handed over.
fn outgoing_of(Freight { want, item }: Freight, mut view: ListingView) -> Outgoing {
    let at = view.state.in_flight.map_or(Timestamp::from_micros(0), |sent| sent.at);
    view.state.in_flight =
        item.earlier.map(|quantity| Sent { quantity, version: item.version, at });
    let push = ListingPush {
        key: item.key,
        quantity: item.quantity,
        version: item.version,
        epoch: item.epoch,
    };
    Outgoing {
        want,
        view,
        sending: Sending {
            push,
            quantity: u64::try_from(item.quantity).unwrap_or(0),
            expected_before: None,
            turn: Turn::last_of(Lane::Increase),
        },
    }
}
