//! Deciding what waits, in order, over what is known; and finding out what is to be known first.
//!
//! Pure: what is missing is returned, whoever reads it asks again. Books are made anew each time,
//! so that nothing is decided on what was read before a lock was held.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use trueup_core::book::{Entries, LineKey, Since};
use trueup_core::{
    Answer, Book, ChannelId, Command, Event, LineBooked, ListingKey, ListingState, Location,
    Moment, OrderId, Org, Part, Rejection, Reservation, ReservationId, Sku, SkuState, Source,
    Timestamp, decide,
};

use crate::port::{Change, Outcome, RecordedAnswer, StoreError, Submission};
use crate::postgres::records::answers::Recorded;
use crate::postgres::records::deliveries::Subscriber;

/// What of an org is to be known.
#[derive(Debug, Default, Clone)]
pub(super) struct Wanted {
    pub(super) skus: BTreeSet<Sku>,
    pub(super) reservations: BTreeSet<ReservationId>,
    /// Orders whose active reservations are asked for.
    pub(super) orders: BTreeSet<OrderId>,
    /// Orders that may have sold something.
    pub(super) sold: BTreeSet<OrderId>,
    pub(super) listings: BTreeSet<(ChannelId, ListingKey)>,
    pub(super) lines: BTreeSet<LineKey>,
    /// What was recorded after an instant.
    pub(super) moved: BTreeSet<(Sku, Location, Timestamp)>,
}

impl Wanted {
    /// Adds what another one wants.
    pub(super) fn append(&mut self, mut other: Self) {
        self.skus.append(&mut other.skus);
        self.reservations.append(&mut other.reservations);
        self.orders.append(&mut other.orders);
        self.sold.append(&mut other.sold);
        self.listings.append(&mut other.listings);
        self.lines.append(&mut other.lines);
        self.moved.append(&mut other.moved);
    }

    fn is_empty(&self) -> bool {
        self.skus.is_empty()
            && self.reservations.is_empty()
            && self.orders.is_empty()
            && self.sold.is_empty()
            && self.listings.is_empty()
            && self.lines.is_empty()
            && self.moved.is_empty()
    }
}

/// What is wanted of each org, in the order in which SKUs are locked.
pub(super) type Wanting = BTreeMap<Org, Wanted>;

/// What is known of an org; `None` = looked for and not there.
#[derive(Debug, Default)]
pub(super) struct OrgKnown {
    pub(super) skus: FxHashMap<Sku, Option<SkuState>>,
    pub(super) reservations: FxHashMap<ReservationId, Option<Reservation>>,
    pub(super) orders: FxHashMap<OrderId, Option<ReservationId>>,
    pub(super) sold: FxHashMap<OrderId, bool>,
    pub(super) listings: FxHashMap<(ChannelId, ListingKey), Option<ListingState>>,
    pub(super) lines: FxHashMap<LineKey, Option<LineBooked>>,
    pub(super) moved: FxHashMap<(Sku, Location, Timestamp), Since>,
}

/// What is known of everything that a batch is about.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) orgs: BTreeMap<Org, OrgKnown>,
    /// Answers that were recorded, by org and key.
    pub(super) answers: FxHashMap<(Org, String), Recorded>,
    /// Reservations that are due.
    pub(super) due: BTreeMap<Org, Vec<ReservationId>>,
    /// Who is told of events.
    pub(super) subscribers: FxHashMap<Org, Vec<Subscriber>>,
    /// Orgs that nobody writes into yet.
    pub(super) arriving: BTreeSet<Org>,
}

/// What a batch does in one org.
#[derive(Debug, Default)]
struct Work {
    book: Book,
    done: Done,
}

/// What a batch has done in one org.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// How things are after it.
    pub(super) entries: Entries,
    pub(super) events: Vec<Event>,
    /// Definitions of bundles with the versions from which on they are in force.
    pub(super) bundles: Vec<(Sku, u64, Vec<Part>)>,
}

/// An answer to be kept under a key.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) org: Org,
    pub(super) key: Arc<str>,
    pub(super) fingerprint: [u8; 32],
    pub(super) answer: RecordedAnswer,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Decided {
    pub(super) now: Timestamp,
    /// Of each submission, in order.
    pub(super) outcomes: Vec<Result<Outcome, StoreError>>,
    pub(super) orgs: BTreeMap<Org, Done>,
    pub(super) answers: Vec<Kept>,
    /// SKUs that channels are to be told of.
    pub(in crate::postgres) dirty: BTreeSet<(Org, Sku)>,
    pub(in crate::postgres) changes: Vec<Change>,
    pub(in crate::postgres) oversold: u64,
    pub(in crate::postgres) commands: u64,
}

impl Decided {
    /// Returns whether nothing was acknowledged: whoever asked was refused.
    pub(super) fn is_refusal(&self) -> bool {
        self.outcomes.iter().all(|outcome| match outcome {
            Ok(Outcome::Decided(result) | Outcome::Recorded(result, _)) => result.is_err(),
            Ok(Outcome::Replayed(_)) => false,
            Err(_) => true,
        })
    }
}

/// Decides what is due and then submissions in order; where something is not known, returns what.
pub(super) fn decide_all(
    submissions: &[&Submission],
    known: &Known,
    now: Timestamp,
) -> Result<Decided, Wanting> {
    let done = Decided { now, ..Decided::default() };
    let mut pass = Pass {
        known,
        missing: Wanting::new(),
        orgs: BTreeMap::new(),
        by_key: FxHashMap::default(),
        done,
    };
    let expiry = Moment { now, actor: Arc::from("expiry"), source: Source::Expiry };
    for (org, ids) in &known.due {
        pass.decide(org, &Command::Expire { ids: ids.clone() }, &expiry);
    }
    for submission in submissions {
        if let Some(outcome) = pass.submit(submission) {
            pass.done.outcomes.push(outcome);
        }
    }
    if pass.missing.is_empty() { Ok(pass.finish()) } else { Err(pass.missing) }
}

/// One time through a batch.
struct Pass<'a> {
    known: &'a Known,
    missing: Wanting,
    orgs: BTreeMap<Org, Work>,
    /// Where the answer of a key is among those of the batch.
    by_key: FxHashMap<(Org, Arc<str>), usize>,
    done: Decided,
}

impl Pass<'_> {
    fn finish(mut self) -> Decided {
        for (org, Work { book, mut done }) in self.orgs {
            done.entries = book.into_entries();
            self.done.orgs.insert(org, done);
        }
        self.done
    }

    /// Decides one submission, or gives the recorded answer. `None` = something is missing.
    fn submit(&mut self, submission: &Submission) -> Option<Result<Outcome, StoreError>> {
        let Submission { org, command, actor, source, idempotency } = submission;
        if self.known.arriving.contains(org) {
            return Some(Err(StoreError::Arriving(org.clone())));
        }
        if let Some(key) = idempotency
            && let Some((fingerprint, answer)) = self.recorded(org, &key.key)
        {
            if *fingerprint == key.fingerprint {
                return Some(Ok(Outcome::Replayed(answer.clone())));
            }
            return Some(Err(StoreError::IdempotencyKeyReused));
        }
        let moment = Moment { now: self.done.now, actor: actor.clone(), source: *source };
        let result = self.decide(org, command, &moment)?;
        self.done.commands += 1;
        let Some(key) = idempotency else { return Some(Ok(Outcome::Decided(result))) };
        let answer = (key.render)(&result);
        self.by_key.insert((org.clone(), key.key.clone()), self.done.answers.len());
        self.done.answers.push(Kept {
            org: org.clone(),
            key: key.key.clone(),
            fingerprint: key.fingerprint,
            answer: answer.clone(),
        });
        Some(Ok(Outcome::Recorded(result, answer)))
    }

    /// Returns the answer of a key, recorded before or in this batch.
    fn recorded(&self, org: &Org, key: &Arc<str>) -> Option<(&[u8; 32], &RecordedAnswer)> {
        if let Some((fingerprint, answer)) = self.known.answers.get(&(org.clone(), key.to_string()))
        {
            return Some((fingerprint, answer));
        }
        let at = self.by_key.get(&(org.clone(), key.clone()))?;
        self.done.answers.get(*at).map(|kept| (&kept.fingerprint, &kept.answer))
    }

    /// Decides a command and takes its facts. Once something is missing it only looks what else
    /// is.
    fn decide(
        &mut self,
        org: &Org,
        command: &Command,
        moment: &Moment,
    ) -> Option<Result<Answer, Rejection>> {
        let work = self.orgs.entry(org.clone()).or_default();
        let lookup = Lookup {
            known: self.known.orgs.get(org),
            events: &work.done.events,
            missing: RefCell::default(),
        };
        let Ok(()) = work.book.load(command, &lookup);
        let missing = lookup.missing.into_inner();
        if !missing.is_empty() {
            self.missing.entry(org.clone()).or_default().append(missing);
        }
        if !self.missing.is_empty() {
            return None;
        }
        let result = decide(&mut work.book, command, moment);
        let events = work.book.take_events();
        // Who pushes knows of its own pushes.
        let is_pushers = matches!(command, Command::MarkSent { .. } | Command::Settle { .. });
        for event in &events {
            if let Event::BundleDefined { sku, parts } = event {
                let version = work.book.sku(sku).map_or(0, |state| state.version);
                work.done.bundles.push((sku.clone(), version, parts.clone()));
            }
            note(&mut self.done, org, event, is_pushers);
        }
        work.done.events.extend(events);
        Some(result)
    }
}

/// Notes what others are to hear of a fact.
fn note(done: &mut Decided, org: &Org, event: &Event, is_pushers: bool) {
    let Decided { dirty, changes, oversold, .. } = done;
    match event {
        Event::Moved(movement) => {
            if movement.publish {
                dirty.insert((org.clone(), movement.sku.clone()));
            }
            changes.push(Change::Stock { org: org.clone(), sku: movement.sku.clone() });
        }
        Event::BundleTouched { sku, publish, .. } => {
            if *publish {
                dirty.insert((org.clone(), sku.clone()));
            }
        }
        Event::PublishAsked { sku } => {
            dirty.insert((org.clone(), sku.clone()));
        }
        Event::LowStock { sku, .. } => {
            changes.push(Change::LowStock { org: org.clone(), sku: sku.clone() });
        }
        Event::Oversold { sku, by, .. } => {
            *oversold += 1;
            let (org, sku) = (org.clone(), sku.clone());
            changes.push(Change::Oversold { org, sku, by: by.get() });
        }
        Event::Listing(listing) => {
            if listing.forced && !is_pushers {
                dirty.insert((org.clone(), listing.sku.clone()));
            }
        }
        Event::ConflictFlagged(facts) => {
            let (channel, sku) = (facts.channel.clone(), facts.sku.clone());
            changes.push(Change::Conflict { org: org.clone(), channel, sku });
        }
        Event::BundleDefined { .. }
        | Event::Held(_)
        | Event::Ended { .. }
        | Event::Extended { .. }
        | Event::LineBooked { .. }
        | Event::ConflictClosed { .. } => {}
    }
}

/// What a book is loaded from: what is known. What is not is noted.
struct Lookup<'a> {
    known: Option<&'a OrgKnown>,
    /// What the batch has done so far.
    events: &'a [Event],
    missing: RefCell<Wanted>,
}

impl Lookup<'_> {
    fn find<'a, T: Clone + 'a>(
        &'a self,
        find: impl FnOnce(&'a OrgKnown) -> Option<&'a T>,
        miss: impl FnOnce(&mut Wanted) -> bool,
    ) -> Option<T> {
        let found = self.known.and_then(find);
        if found.is_none() {
            miss(&mut self.missing.borrow_mut());
        }
        found.cloned()
    }
}

impl trueup_core::book::Source for Lookup<'_> {
    type Error = Infallible;

    fn sku(&self, sku: &Sku) -> Result<Option<SkuState>, Infallible> {
        let miss = |missing: &mut Wanted| missing.skus.insert(sku.clone());
        Ok(self.find(|known| known.skus.get(sku), miss).flatten())
    }

    fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Infallible> {
        let miss = |missing: &mut Wanted| missing.reservations.insert(id);
        Ok(self.find(|known| known.reservations.get(&id), miss).flatten())
    }

    fn active_of_order(&self, order: &OrderId) -> Result<Option<ReservationId>, Infallible> {
        let miss = |missing: &mut Wanted| missing.orders.insert(order.clone());
        Ok(self.find(|known| known.orders.get(order), miss).flatten())
    }

    fn order_is_sold(&self, order: &OrderId) -> Result<bool, Infallible> {
        let miss = |missing: &mut Wanted| missing.sold.insert(order.clone());
        Ok(self.find(|known| known.sold.get(order), miss).unwrap_or(false))
    }

    fn listing(
        &self,
        channel: &ChannelId,
        key: &ListingKey,
    ) -> Result<Option<ListingState>, Infallible> {
        let place = (channel.clone(), key.clone());
        let found = self.find(
            |known| known.listings.get(&place),
            |missing| missing.listings.insert(place.clone()),
        );
        Ok(found.flatten())
    }

    fn order_line(
        &self,
        channel: &ChannelId,
        order: &str,
        line: &str,
    ) -> Result<Option<LineBooked>, Infallible> {
        let place: LineKey = (channel.clone(), Arc::from(order), Arc::from(line));
        let found = self
            .find(|known| known.lines.get(&place), |missing| missing.lines.insert(place.clone()));
        Ok(found.flatten())
    }

    fn moved_since(
        &self,
        sku: &Sku,
        location: &Location,
        at: Timestamp,
    ) -> Result<Since, Infallible> {
        let place = (sku.clone(), location.clone(), at);
        let found = self
            .find(|known| known.moved.get(&place), |missing| missing.moved.insert(place.clone()));
        let mut since = found.unwrap_or_default();
        // Rows do not have it yet.
        for event in self.events {
            if let Event::Moved(movement) = event
                && movement.sku == *sku
                && movement.location == *location
                && movement.at > at
            {
                since.note(movement, at);
            }
        }
        Ok(since)
    }
}
