//! A connection at work: its channel, its way out, and the mail its worker takes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trueup_channels::{Channel, ChannelError, Kind, Settings};
use trueup_core::{ChannelId, ListingKey, Org, RestockPolicy, Sku, Timestamp};
use trueup_store::{Connection, ListingView, Run};

use crate::caller::Transport;
use crate::check::{self, TOLD_MAX, Told};
use crate::discover::Discovering;
use crate::engine::{PullRequest, PushScope};
use crate::impact::Agreed;
use crate::plan::{self, Plan, Wish};
use crate::revise::{Budget, Together};
use crate::upkeep;

/// The most SKUs one connection's doorbell remembers; beyond, it asks the store for all.
pub(crate) const DIRTY_MAX: usize = 50_000;
/// The most hints that wait at one connection; beyond, the next pull finds them.
pub(crate) const HINTS_MAX: usize = 50_000;
/// The most ended bulk batches that wait at one connection; beyond, they are looked at in time.
pub(crate) const ENDED_MAX: usize = 1_000;
/// The most runs that wait at one connection.
pub(crate) const JOBS_MAX: usize = 100;

/// A push or pull that was asked for.
#[derive(Debug)]
pub(crate) enum Job {
    /// Push.
    Push {
        /// The run, kept already.
        run: Run,
        /// What.
        scope: PushScope,
        /// What an operator has agreed to, where it was held before.
        agreed: Option<Agreed>,
    },
    /// Pull.
    Pull {
        /// The run, kept already.
        run: Run,
        /// What and how.
        request: PullRequest,
        /// What an operator has agreed to, where it was held before.
        agreed: Option<Agreed>,
    },
}

/// What waits for the worker.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// SKUs that may owe a push.
    pub(crate) dirty: BTreeSet<Sku>,
    /// Whether to ask the store for everything that owes a push.
    pub(crate) sweep: bool,
    /// Listings to read again.
    pub(crate) hints: BTreeMap<ListingKey, Sku>,
    /// Tickets of bulk batches that are said to have ended.
    pub(crate) ended: BTreeSet<String>,
    /// Runs.
    pub(crate) jobs: VecDeque<Job>,
    /// Whether the worker has work of its own.
    pub(crate) busy: bool,
}

/// What is known of the channel's orders.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heard {
    /// Up to when they have been read and booked, by a poll or by a queue seen empty.
    pub(crate) at: Option<Timestamp>,
    /// Since when somebody waits for newer ones.
    pub(crate) wanted: Option<Timestamp>,
    /// Whether the queue is worked on, so that it tells of them and polls are the backstop.
    pub(crate) by_queue: bool,
    /// Up to when they have been polled.
    pub(crate) polled_at: Option<Timestamp>,
    /// Since when somebody waits for a poll, whatever the queue says.
    pub(crate) poll_wanted: Option<Timestamp>,
    /// When and why they could last not be read; `None` after a success.
    pub(crate) failed: Option<(Timestamp, ChannelError)>,
    /// A poll that has more pages to read than one turn takes.
    pub(crate) poll: Option<LongPoll>,
}

impl Heard {
    /// Notes that all orders up to an instant are booked.
    pub(crate) fn note(&mut self, at: Timestamp) {
        self.at = Some(self.at.map_or(at, |known| known.max(at)));
        self.failed = None;
        if self.wanted.is_some_and(|wanted| wanted <= at) {
            self.wanted = None;
        }
    }
}

/// What is wrong with something that is tried again.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    /// Since when, without a success between.
    pub(crate) since: Timestamp,
    /// What went wrong last.
    pub(crate) words: String,
}

impl Trouble {
    /// Notes what went wrong; the instant stays while it goes on.
    pub(crate) fn note(known: &Mutex<Option<Self>>, at: Timestamp, words: String) {
        let mut known = known.lock();
        let since = known.as_ref().map_or(at, |known| known.since);
        *known = Some(Self { since, words });
    }
}

/// How far a long poll of orders has come.
#[derive(Debug, Clone)]
pub(crate) struct LongPoll {
    /// The instant from which on changed orders are read.
    pub(crate) since: Timestamp,
    /// The next page.
    pub(crate) cursor: Option<String>,
    /// When it began: up to there all is heard once it has ended.
    pub(crate) began: Timestamp,
}

/// The vendor's slots for pushes: first come, first served, but for zeroes, which wait behind one
/// other at most.
#[derive(Debug)]
pub(crate) struct PushSlots {
    slots: Semaphore,
    /// Held while waiting for a slot by what is no zero.
    turnstile: Semaphore,
}

impl PushSlots {
    fn new(count: usize) -> Self {
        Self { slots: Semaphore::new(count), turnstile: Semaphore::new(1) }
    }

    /// Waits for a slot; it is free again when what is returned is dropped. Neither of the two is
    /// ever closed; a closed one would hold nothing back.
    pub(crate) async fn take(&self, has_zero: bool) -> Option<SemaphorePermit<'_>> {
        let _turn = if has_zero { None } else { self.turnstile.acquire().await.ok() };
        self.slots.acquire().await.ok()
    }
}

pub(crate) struct Link {
    pub(crate) org: Org,
    pub(crate) id: ChannelId,
    pub(crate) kind: &'static dyn Kind,
    pub(crate) settings: Settings,
    /// The vendor and where it is reached: the same account elsewhere is another.
    place: String,
    pub(crate) channel: Box<dyn Channel>,
    pub(crate) transport: Transport,
    /// How many pushes the vendor is asked at once.
    pub(crate) push_slots: PushSlots,
    pub(crate) mail: Mutex<Mail>,
    pub(crate) bell: Notify,
    pub(crate) heard: Mutex<Heard>,
    pub(crate) orders_bell: Notify,
    /// When a webhook last came that was let in.
    pub(crate) hooked_at: Mutex<Option<Timestamp>>,
    pub(crate) hooks_known: tokio::sync::Mutex<upkeep::Known>,
    /// The topics that were subscribed when that was last looked at.
    pub(crate) hooks_topics: Mutex<Option<Vec<String>>>,
    /// Why what is missing of them cannot be subscribed.
    pub(crate) hooks_trouble: Mutex<Option<Trouble>>,
    pub(crate) hooks_bell: Notify,
    /// Why the channel's queue cannot be read.
    pub(crate) queue_trouble: Mutex<Option<Trouble>>,
    /// How often in a row the vendor refused our credentials.
    pub(crate) refusals: AtomicU32,
    /// When the connection came about.
    pub(crate) connected_at: Timestamp,
    /// What becomes of units that come back.
    pub(crate) restock: RestockPolicy,
    /// When all mappings were last looked at for kept lines of orders.
    scanned_at: Mutex<Option<Instant>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
    /// The discovery under way, or the last one.
    pub(crate) discovery: Mutex<Option<Arc<Discovering>>>,
    /// What order lines' identifiers were resolved to before; a hint that is checked.
    pub(crate) known_lines: Mutex<BTreeMap<String, (Sku, ListingKey)>>,
    /// What the channel was last told, where it asks for it while a shopper pays.
    pub(crate) told: Mutex<Told>,
    /// What listings that the vendor counts together have used of its day.
    together: Mutex<Together>,
    /// The listings that are in a bulk batch whose end is not known, and since when.
    pub(crate) fed: Mutex<FxHashMap<ListingKey, Timestamp>>,
    /// Order states that were booked lately, by order id: repeats need not be submitted.
    pub(crate) booked: Mutex<BTreeMap<String, u64>>,
}

impl Link {
    pub(crate) fn new(
        org: Org,
        row: &Connection,
        kind: &'static dyn Kind,
        settings: Settings,
        channel: Box<dyn Channel>,
        transport: Transport,
        stop: CancellationToken,
    ) -> Self {
        let endpoint = row.endpoint.as_deref().unwrap_or_default();
        let push_slots = PushSlots::new(channel.capabilities().pushes_at_once_max.max(1));
        Self {
            org,
            id: row.id.clone(),
            place: format!("{} {endpoint}", kind.name()),
            kind,
            settings,
            channel,
            transport,
            push_slots,
            mail: Mutex::new(Mail { sweep: true, busy: true, ..Mail::default() }),
            bell: Notify::new(),
            heard: Mutex::new(Heard::default()),
            orders_bell: Notify::new(),
            hooked_at: Mutex::new(None),
            hooks_known: tokio::sync::Mutex::default(),
            hooks_topics: Mutex::new(None),
            hooks_trouble: Mutex::new(None),
            hooks_bell: Notify::new(),
            queue_trouble: Mutex::new(None),
            refusals: AtomicU32::new(0),
            connected_at: row.created_at,
            restock: row.restock,
            scanned_at: Mutex::new(None),
            stop,
            tasks: Mutex::new(Vec::new()),
            discovery: Mutex::new(None),
            known_lines: Mutex::new(BTreeMap::new()),
            told: Mutex::new(BTreeMap::new()),
            together: Mutex::default(),
            fed: Mutex::default(),
            booked: Mutex::new(BTreeMap::new()),
        }
    }

    /// Returns the vendor's account that this is a connection of.
    pub(crate) fn account(&self) -> Option<String> {
        let account = self.kind.account(&self.settings)?;
        Some(format!("{} {account}", self.place))
    }

    /// Returns a listing's quantity scope; what the channel ships itself is told nothing.
    pub(crate) fn scope_of(&self, key: &ListingKey, channel_fulfilled: bool) -> Option<String> {
        let scope = self.kind.scope(&self.settings, key).filter(|_| !channel_fulfilled)?;
        Some(format!("{} {scope}", self.place))
    }

    /// Returns whether all mappings may be looked at again, at most so often.
    pub(crate) fn may_scan(&self, pause: Duration) -> bool {
        let mut scanned_at = self.scanned_at.lock();
        let may = scanned_at.is_none_or(|at| at.elapsed() >= pause);
        if may {
            *scanned_at = Some(Instant::now());
        }
        may
    }

    /// Says that SKUs may owe a push.
    pub(crate) fn ring_dirty(&self, skus: impl IntoIterator<Item = Sku>) {
        let mut mail = self.mail.lock();
        mail.dirty.extend(skus);
        if mail.dirty.len() > DIRTY_MAX {
            mail.dirty.clear();
            mail.sweep = true;
        }
        drop(mail);
        self.bell.notify_one();
    }

    /// Says that the store is to be asked for everything that owes a push.
    pub(crate) fn ring_sweep(&self) {
        self.mail.lock().sweep = true;
        self.bell.notify_one();
    }

    /// Says that a listing is to be read again.
    pub(crate) fn ring_hint(&self, key: ListingKey, sku: Sku) {
        let mut mail = self.mail.lock();
        if mail.hints.len() < HINTS_MAX {
            mail.hints.insert(key, sku);
        }
        drop(mail);
        self.bell.notify_one();
    }

    /// Says that a bulk batch is said to have ended.
    pub(crate) fn ring_ended(&self, ticket: String) {
        let mut mail = self.mail.lock();
        if mail.ended.len() < ENDED_MAX {
            mail.ended.insert(ticket);
        }
        drop(mail);
        self.bell.notify_one();
    }

    /// Returns whether a listing is in a bulk batch whose end is not known.
    pub(crate) fn is_fed(&self, key: &ListingKey) -> bool {
        self.fed.lock().contains_key(key)
    }

    /// Hands a run to the worker; false = too many wait.
    pub(crate) fn ring_job(&self, job: Job) -> bool {
        let mut mail = self.mail.lock();
        if mail.jobs.len() >= JOBS_MAX {
            return false;
        }
        mail.jobs.push_back(job);
        drop(mail);
        self.bell.notify_one();
        true
    }

    /// Asks that the channel's orders be heard, up to now at least.
    pub(crate) fn want_orders(&self, now: Timestamp) {
        let mut heard = self.heard.lock();
        let since = heard.wanted.map_or(now, |wanted| wanted.max(now));
        heard.wanted = Some(since);
        drop(heard);
        self.orders_bell.notify_one();
    }

    /// Notes that a poll found something that changed then and was news: when no webhook came
    /// since, the vendor may have dropped our subscriptions.
    pub(crate) fn found_by_poll(&self, changed_at: Option<Timestamp>) {
        let hooked_at = *self.hooked_at.lock();
        if hooked_at.is_none_or(|hooked| changed_at.is_some_and(|changed| hooked < changed)) {
            self.hooks_bell.notify_one();
        }
    }

    /// Asks that the channel's orders be polled, up to now at least, whether it has a queue or
    /// not.
    pub(crate) fn want_poll(&self, now: Timestamp) {
        let mut heard = self.heard.lock();
        let since = heard.poll_wanted.map_or(now, |wanted| wanted.max(now));
        heard.poll_wanted = Some(since);
        drop(heard);
        self.orders_bell.notify_one();
    }

    pub(crate) fn is_orders_wanted(&self) -> bool {
        self.heard.lock().wanted.is_some()
    }

    /// Returns whether a poll of orders is to begin or go on at once.
    pub(crate) fn is_poll_wanted(&self) -> bool {
        let heard = self.heard.lock();
        let asked = heard.wanted.is_some() && !heard.by_queue;
        asked || heard.poll_wanted.is_some() || heard.poll.is_some()
    }

    /// Notes that the queue was seen empty, with all booked that came from it.
    pub(crate) fn hear_up_to(&self, at: Timestamp) {
        let mut heard = self.heard.lock();
        heard.by_queue = true;
        heard.note(at);
        drop(heard);
        self.bell.notify_one();
    }

    /// Notes that the queue cannot be worked on, so that orders are polled when asked for.
    pub(crate) fn hear_by_polls(&self) {
        self.heard.lock().by_queue = false;
        self.orders_bell.notify_one();
    }

    pub(crate) fn heard_at(&self) -> Option<Timestamp> {
        self.heard.lock().at
    }

    /// Remembers what the channel was told, where it lets itself be checked.
    pub(crate) fn note_told(&self, key: &ListingKey, number: i64, at: Timestamp) {
        if !check::is_open(self) {
            return;
        }
        let mut told = self.told.lock();
        if told.len() < TOLD_MAX || told.contains_key(key) {
            told.insert(key.clone(), (number, at));
        }
    }

    /// Returns what a listing has used of its vendor's day; `None` where nobody counts.
    pub(crate) fn revisions_of(&self, view: &ListingView, now: Timestamp) -> Option<Budget> {
        let per_day = self.channel.capabilities().revisions_per_day?;
        if !self.channel.counts_revisions(&view.mapping.fields) {
            return None;
        }
        let (began, day_ends) = self.kind.day_of(now);
        let own = view.revised.filter(|revised| revised.at >= began);
        let today = match self.channel.revised_with(&view.mapping.fields) {
            Some(whole) => self.together.lock().used(began, whole, &view.mapping.key, own),
            None => own,
        };
        Some(Budget {
            per_day,
            used: today.map_or(0, |revised| revised.count),
            last_at: today.map(|revised| revised.at),
            day_ends,
        })
    }

    /// Counts a revision of a listing for those that the vendor counts with it.
    pub(crate) fn note_revised(&self, view: &ListingView, at: Timestamp) {
        if let Some(whole) = self.channel.revised_with(&view.mapping.fields) {
            let (began, _) = self.kind.day_of(at);
            self.together.lock().revise(began, whole, &view.mapping.key, at);
        }
    }

    /// Returns until when what a listing owes is put off, because the vendor counts.
    pub(crate) fn postponed(&self, view: &ListingView, now: Timestamp) -> Option<Timestamp> {
        let budget = self.revisions_of(view, now)?;
        match plan::plan(view, Wish::Owed, self.channel.capabilities()) {
            Plan::Send(sending) => budget.postpones(sending.turn.lane, now),
            Plan::Skip(_) | Plan::Shown(_) | Plan::OnItsWay(_) | Plan::ReadFirst => None,
        }
    }

    /// Returns whether nothing waits and the worker has nothing of its own to do.
    pub(crate) fn is_quiet(&self) -> bool {
        let mail = self.mail.lock();
        let quiet = mail.dirty.is_empty()
            && !mail.sweep
            && mail.hints.is_empty()
            && mail.ended.is_empty()
            && mail.jobs.is_empty()
            && !mail.busy;
        drop(mail);
        let heard = self.heard.lock();
        quiet && heard.wanted.is_none() && heard.poll_wanted.is_none()
    }

    /// Stops the workers at once, whatever they are in the middle of: what they would still do is
    /// another node's to do.
    pub(crate) async fn cut_off(self: Arc<Self>) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            // It was cut off, or has ended before.
            let _ = task.await;
        }
    }

    /// Stops the workers after the request they are in.
    pub(crate) async fn finish(self: Arc<Self>) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A panicked worker has been reported by the runtime; there is nothing to add.
            let _ = task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_zero_waits_for_a_slot_behind_one_other_at_most() {
        let slots = Arc::new(PushSlots::new(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let held = slots.take(false).await;
        let mut waiting = tokio::task::JoinSet::new();
        for name in ["a", "b", "c", "zero"] {
            let (slots, order) = (slots.clone(), order.clone());
            waiting.spawn(async move {
                let _slot = slots.take(name == "zero").await;
                order.lock().push(name);
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(held);
        waiting.join_all().await;
        assert_eq!(*order.lock(), ["a", "zero", "b", "c"]);
    }
}
