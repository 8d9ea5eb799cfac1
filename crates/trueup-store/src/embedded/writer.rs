//! The one writer: takes everything that waits, decides it all, makes it durable once, answers.
//!
//! State that readers see is changed only after the commit, so nobody ever sees what could still
//! be lost. Ledger lines, reservations and what is known of listings are rows of one transaction;
//! rows that follow from them come behind, a piece with each later commit or all of them when it
//! is quiet: see [`behind`](super::behind).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use rusqlite::Connection;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::{SmallVec, smallvec};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use trueup_core::book::Since;
use trueup_core::{
    Book, ChannelId, Command, Event, LineBooked, ListingKey, ListingState, Location, Moment,
    MovementKind, OrderId, Org, Reservation, ReservationId, ReservationStatus, Sku, SkuState,
    Source, Timestamp, decide,
};

use super::behind::{Behind, Keys, Step, Upto};
use super::checkpoint::{Checkpointer, leave_log};
use super::durable::{Answers, Carried, CarriedOrg, Commit, Syncer};
use super::memory::{Memory, OrgMemory};
use super::rows::answers::{Recorded, Young};
use super::rows::{self, Digested, RowsError};
use super::{ledger, lines};
use crate::port::{Change, Health, Outcome, RecordedAnswer, StoreError, Submission};

/// The most jobs that wait; the next one is refused.
pub const QUEUE_MAX: usize = 65_536;
/// The most jobs of one commit.
const BATCH_MAX: usize = 4_096;
/// From how many items of its commands on a commit takes no more of them along: while it is made
/// durable, the next is decided.
const BATCH_ITEMS_MAX: usize = 4_096;
/// The most reservations that one commit retires.
const EXPIRE_MAX: usize = 10_000;
/// How many rows a commit takes along while a round is under way: for each of its own facts, and at least. More than
/// a fact leaves behind, so that what is behind shrinks whatever comes in.
const ROWS_PER_FACT: usize = 4;
const ROWS_MIN: usize = 256;
/// From how many answers on a commit has them delivered.
const DELIVERED_MIN: usize = 4;
/// How many rows one quiet moment writes.
const QUIET_ROWS: usize = 4_096;
/// How long the queue is empty before rows are written.
const QUIET: Duration = Duration::from_millis(20);
/// The longest wait without looking at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long recorded answers are kept: the contract says at least 24 hours.
const ANSWERS_KEPT_SECONDS: i64 = 26 * 3_600;
/// How long webhooks that are done are remembered, so that late repeats are known.
const INBOX_KEPT_SECONDS: i64 = 7 * 86_400;
const UPKEEP_EVERY_SECONDS: i64 = 600;

/// Reads the clock; the one place the store learns the time from.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub(super) type Reply = oneshot::Sender<Result<Outcome, StoreError>>;
/// The answers of one commit.
pub(super) type Replies = Vec<(Reply, Result<Outcome, StoreError>)>;
/// What a rows job leaves to be said after the commit.
pub(super) type AfterCommit = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Work on rows inside the writer's transaction.
pub(super) type RowsJob =
    Box<dyn FnOnce(&Connection) -> (Result<(), RowsError>, AfterCommit) + Send>;

/// An answer to be kept under an idempotency key, unless it has one.
pub(super) struct Record {
    pub(super) org: Org,
    pub(super) key: Arc<str>,
    pub(super) fingerprint: [u8; 32],
    pub(super) answer: RecordedAnswer,
}

pub(super) enum Job {
    Submit(Box<Submission>, Reply),
    Record(Box<Record>, oneshot::Sender<Result<(), StoreError>>),
    Rows(RowsJob),
    Sweep(oneshot::Sender<Result<(), StoreError>>),
    Flush(oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

impl Job {
    /// Returns for how many single commands it stands.
    fn items(&self) -> usize {
        let Self::Submit(submission, _) = self else { return 1 };
        match &submission.command {
            Command::ReserveBatch(reserves) => reserves.len(),
            Command::Bulk { items, .. } => items.len(),
            _ => 1,
        }
    }

    fn refuse(self, error: StoreError) {
        // Whoever has stopped listening needs no answer.
        match self {
            Self::Submit(_, reply) => drop(reply.send(Err(error))),
            Self::Rows(_) => {}
            Self::Record(_, reply)
            | Self::Sweep(reply)
            | Self::Flush(reply)
            | Self::Close(reply) => {
                drop(reply.send(Err(error)));
            }
        }
    }
}

/// What the writer shares with readers.
pub(super) struct Shared {
    pub(super) memory: RwLock<Memory>,
    /// Recorded answers that are not found by their digest yet.
    pub(super) young: RwLock<Young>,
    pub(super) health: RwLock<Health>,
    pub(super) next_expiry: AtomicI64,
    pub(super) dirty: Mutex<FxHashSet<(Org, Sku)>>,
    pub(super) dirty_bell: Notify,
    pub(super) changes: broadcast::Sender<Change>,
    pub(super) commands: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) behind: AtomicU64,
    pub(super) oversold_events: AtomicU64,
    pub(super) now: Now,
    /// The newest commit that SQLite may have, and the newest that is durable.
    written: AtomicU64,
    pub(super) durable: watch::Sender<u64>,
    /// Whether a commit that SQLite has may not be on the disk.
    lost: AtomicBool,
    /// Takes answers to where callers wait; `None` = outside of any runtime.
    replies: Option<mpsc::UnboundedSender<Replies>>,
    queue: Mutex<VecDeque<Job>>,
    bell: Condvar,
    closed: AtomicBool,
}

impl Shared {
    pub(super) fn new(memory: Memory, behind: &Behind, now: Now) -> Self {
        let mut young = Young::default();
        for (digest, n) in behind.answers() {
            young.add(*digest, *n);
        }
        let next_expiry = AtomicI64::new(memory.next_expiry().micros());
        Self {
            memory: RwLock::new(memory),
            young: RwLock::new(young),
            health: RwLock::new(Health::Ready),
            next_expiry,
            dirty: Mutex::default(),
            dirty_bell: Notify::new(),
            changes: broadcast::channel(4_096).0,
            commands: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            oversold_events: AtomicU64::new(0),
            now,
            written: AtomicU64::new(0),
            durable: watch::channel(0).0,
            lost: AtomicBool::new(false),
            replies: deliverer(),
            queue: Mutex::default(),
            bell: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Puts a job into the queue, or refuses it at once.
    pub(super) fn push(&self, job: Job) -> Result<(), StoreError> {
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if queue.len() >= QUEUE_MAX {
            return Err(StoreError::Overloaded);
        }
        queue.push_back(job);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Returns where the history of a SKU begins.
    pub(super) fn head(&self, org: &Org, sku: &Sku) -> Option<lines::Head> {
        let memory = self.memory.read();
        memory.sku(org, sku).map(|kept| lines::Head::new(kept.line, &kept.state))
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    /// Waits until everything that rows may show by now is durable.
    pub(super) async fn until_durable(&self) -> Result<(), StoreError> {
        let written = self.written.load(Ordering::SeqCst);
        if *self.durable.borrow() < written {
            let mut durable = self.durable.subscribe();
            let reached = durable.wait_for(|number| *number >= written).await;
            reached.map_err(|_| StoreError::Closed)?;
        }
        if self.is_lost() { Err(self.refusal()) } else { Ok(()) }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Takes nothing on any more: a commit may not be on the disk.
    pub(super) fn lose(&self, why: String) {
        tracing::error!(why, "the store cannot write");
        self.lost.store(true, Ordering::Release);
        *self.health.write() = Health::Failing(why);
    }

    fn fail(&self, error: &RowsError) {
        tracing::error!(%error, "the store cannot write");
        if !self.is_lost() {
            *self.health.write() = Health::Failing(error.to_string());
        }
    }

    pub(super) fn refusal(&self) -> StoreError {
        match &*self.health.read() {
            Health::Failing(why) => StoreError::ReadOnly(why.clone()),
            Health::Ready => StoreError::ReadOnly("a write failed".to_owned()),
        }
    }

    /// A commit went through: whatever was wrong with the disk is over.
    fn recovered(&self) {
        let mut health = self.health.write();
        // One that was flushed while another thread lost the store changes nothing of that.
        if *health != Health::Ready && !self.is_lost() {
            tracing::info!("the store writes again");
            *health = Health::Ready;
        }
    }

    /// Lets readers see what has become durable, and answers.
    pub(super) fn publish(&self, commit: Commit) {
        let Commit { carried, found, dirty, changes, oversold, answers, .. } = commit;
        self.recovered();
        self.oversold_events.fetch_add(oversold, Ordering::Relaxed);
        let found = found.filter(|found| !found.answers().is_empty());
        if found.is_some() || !carried.answers.is_empty() {
            let mut young = self.young.write();
            carried.answers.iter().for_each(|(digest, n)| young.add(*digest, *n));
            let found = found.iter().flat_map(|found| found.answers());
            found.for_each(|(digest, n)| young.remove(*digest, *n));
        }
        let mut memory = self.memory.write();
        for (org, changed) in &carried.orgs {
            memory.merge(org, &changed.entries, &changed.lines);
        }
        let next = memory.next_expiry().micros();
        drop(memory);
        self.next_expiry.store(next, Ordering::Release);
        for change in changes {
            // Nobody listening is fine.
            drop(self.changes.send(change));
        }
        if !dirty.is_empty() {
            self.dirty.lock().extend(dirty);
            self.dirty_bell.notify_one();
        }
        self.answer(answers);
    }

    fn answer(&self, answers: Answers) {
        let Answers { outcomes, after, waiting } = answers;
        let few = outcomes.len() < DELIVERED_MIN;
        let replies = match &self.replies {
            Some(deliverer) if !few => {
                deliverer.send(outcomes).map_or_else(|unsent| unsent.0, |()| Vec::new())
            }
            Some(_) | None => outcomes,
        };
        deliver(replies);
        for after in after {
            after(Ok(()));
        }
        for reply in waiting {
            drop(reply.send(Ok(())));
        }
    }

    /// Takes jobs for a batch, once there are some or the wait is over.
    fn take(&self, wait: Duration) -> Vec<Job> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            self.bell.wait_for(&mut queue, wait);
        }
        drop(queue);
        self.take_more(0)
    }

    /// Takes jobs that wait, for a batch of so many items.
    fn take_more(&self, mut items: usize) -> Vec<Job> {
        let mut queue = self.queue.lock();
        let fits = |job: &&Job| {
            let fits = items < BATCH_ITEMS_MAX;
            items += job.items();
            fits
        };
        let count = queue.iter().take(BATCH_MAX).take_while(fits).count();
        queue.drain(..count).collect()
    }

    /// Puts jobs back that were taken too early, before all others.
    fn put_back(&self, jobs: Vec<Job>) {
        let mut queue = self.queue.lock();
        jobs.into_iter().rev().for_each(|job| queue.push_front(job));
    }

    fn close(&self) {
        let mut queue = self.queue.lock();
        self.closed.store(true, Ordering::Release);
        for job in queue.drain(..) {
            job.refuse(StoreError::Closed);
        }
    }
}

/// Starts a task that delivers answers, so that a thread outside of the runtime has to wake one
/// task for a commit and not one for each caller.
fn deliverer() -> Option<mpsc::UnboundedSender<Replies>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    runtime.spawn(async move {
        while let Some(replies) = receiver.recv().await {
            deliver(replies);
        }
    });
    Some(sender)
}

fn deliver(replies: Replies) {
    for (reply, outcome) in replies {
        // Whoever has stopped listening needs no answer.
        drop(reply.send(outcome));
    }
}

/// How much of the rows behind a commit takes along.
#[derive(Clone, Copy)]
enum Along {
    Rows(usize),
    All,
}

/// What a commit has written of the rows behind.
#[derive(Clone, Copy)]
enum Written {
    Step(Option<Step>),
    All,
}

/// The threads beside the writer's.
pub(super) struct Threads {
    pub(super) syncer: Syncer,
    pub(super) checkpointer: Checkpointer,
}

/// What the writer thread owns.
pub(super) struct Writer {
    conn: Connection,
    shared: Arc<Shared>,
    behind: Behind,
    /// The newest line and recorded answer.
    newest: Upto,
    /// The newest commit, and what it has changed.
    number: u64,
    carried: Arc<Carried>,
    threads: Threads,
    last_now: Timestamp,
    last_upkeep: Timestamp,
}

/// What a batch has done to one SKU.
#[derive(Default)]
struct Touched {
    /// Its newest line, where it got one.
    line: Option<i64>,
    /// Whether its row goes with the commit, and is not behind.
    at_once: bool,
}

/// A SKU as a batch found it.
#[derive(Clone, Copy)]
struct Before {
    /// The newest of its ledger lines.
    line: i64,
    is_low: bool,
}

/// What a batch found of an org.
#[derive(Default)]
struct Found {
    skus: FxHashMap<Sku, Before>,
    /// Reservations that were there before.
    reservations: FxHashSet<ReservationId>,
}

impl Found {
    /// Returns the newest line of a SKU, 0 where it has none.
    fn line(&self, sku: &Sku) -> i64 {
        self.skus.get(sku).map_or(0, |before| before.line)
    }
}

/// What a batch does in one org.
#[derive(Default)]
struct Work {
    book: Book,
    found: RefCell<Found>,
    touched: FxHashMap<Sku, Touched>,
    /// Whether somebody is told of events; `None` = not looked up.
    is_told: Option<bool>,
    /// What they are told.
    told: Vec<Event>,
}

/// A batch that is being decided, inside a transaction.
#[derive(Default)]
struct Batch {
    orgs: FxHashMap<Org, Work>,
    /// The newest line and recorded answer, those of the batch taken in.
    newest: Upto,
    keys: Keys,
    /// For how many single commands its jobs stand.
    items: usize,
    /// How many facts and answers were written.
    facts: usize,
    /// Whether rows were written otherwise.
    touched: bool,
    answers: Answers,
    closing: Vec<oneshot::Sender<Result<(), StoreError>>>,
    flush: bool,
    /// SKUs that channels are to be told of.
    dirty: Vec<(Org, Sku)>,
    changes: Vec<Change>,
    oversold: u64,
}

impl Batch {
    /// Notes an answer that was appended.
    fn note_answer(&mut self, digest: i64, n: i64) {
        self.newest.answer = n;
        self.keys.add_answer(digest, n);
        self.facts += 1;
    }

    /// Returns whether there is nothing to make durable.
    fn is_empty(&self) -> bool {
        self.facts == 0 && !self.touched
    }
}

impl Writer {
    /// Takes over a file whose rows have been read.
    pub(super) fn new(
        conn: Connection,
        shared: Arc<Shared>,
        behind: Behind,
        newest: Upto,
        threads: Threads,
    ) -> Self {
        let (last_now, last_upkeep) = (Timestamp::EPOCH, Timestamp::EPOCH);
        let (number, carried) = (0, Arc::default());
        let writer =
            Self { conn, shared, behind, newest, number, carried, threads, last_now, last_upkeep };
        writer.note_behind();
        writer
    }

    /// Runs until it is told to close.
    pub(super) fn run(mut self) {
        loop {
            let jobs = self.shared.take(self.patience());
            if jobs.is_empty() {
                self.quiet();
                continue;
            }
            self.retire_due();
            let closing = self.batch(jobs);
            if !closing.is_empty() {
                self.shared.close();
                let done = self.finish();
                self.threads.syncer.stop();
                for reply in closing {
                    drop(reply.send(done.clone()));
                }
                return;
            }
        }
    }

    fn patience(&self) -> Duration {
        if *self.shared.health.read() != Health::Ready {
            // What is due could not be written: a job wakes the writer all the same.
            return LOOK_AGAIN;
        }
        let longest = if self.behind.len() > 0 { QUIET } else { LOOK_AGAIN };
        let due = self.shared.next_expiry.load(Ordering::Acquire);
        let micros = due.saturating_sub((self.shared.now)().micros()).max(0);
        longest.min(Duration::from_micros(micros.cast_unsigned()))
    }

    /// Does what can wait: retires what is due, writes rows, forgets what is too old.
    fn quiet(&mut self) {
        self.retire_due();
        self.move_log();
        if self.behind.len() > 0 {
            self.behind.begin_round(self.newest);
            if let Some(batch) = self.begin() {
                self.commit(batch, Along::Rows(QUIET_ROWS));
            }
            return;
        }
        let now = self.now();
        if now.micros_since(self.last_upkeep) < UPKEEP_EVERY_SECONDS * 1_000_000 {
            return;
        }
        match self.purge(now) {
            // There may be more of them.
            Ok(true) => {}
            Ok(false) => self.last_upkeep = now,
            Err(error) => {
                self.last_upkeep = now;
                tracing::warn!(%error, "purge what is too old");
            }
        }
    }

    /// Has SQLite's log moved into the file where it has grown long.
    fn move_log(&mut self) {
        if let Err(error) = self.threads.checkpointer.tend(&self.conn) {
            self.shared.lose(format!("{error}; start it again"));
        }
    }

    /// Removes a bounded number of what is too old; returns whether there may be more.
    fn purge(&self, now: Timestamp) -> Result<bool, RowsError> {
        let before = |seconds: i64| Timestamp::from_micros(now.micros() - seconds * 1_000_000);
        // Taken back when it is dropped.
        let transaction = self.conn.unchecked_transaction()?;
        let answers = rows::answers::purge_before(&self.conn, before(ANSWERS_KEPT_SECONDS))?;
        let inbox = rows::inbox::purge_done_before(&self.conn, before(INBOX_KEPT_SECONDS))?;
        let consents = rows::consents::purge_before(&self.conn, now)?;
        transaction.commit()?;
        let most = answers.max(inbox).max(consents);
        Ok(most >= rows::PURGED_AT_ONCE_MAX as usize)
    }

    /// Returns the instant, never before the last one.
    fn now(&mut self) -> Timestamp {
        self.last_now = self.last_now.max((self.shared.now)());
        self.last_now
    }

    /// Retires every reservation that is due, so that decisions see stock as it is.
    fn retire_due(&mut self) {
        let now = self.now();
        while self.is_due(now) {
            // Memory must be as new as what was decided.
            self.threads.syncer.wait();
            let due = self.shared.memory.read().due(now, EXPIRE_MAX);
            if due.is_empty() {
                return;
            }
            let Some(mut batch) = self.begin() else { return };
            let moment = Moment { now, actor: Arc::from("expiry"), source: Source::Expiry };
            for (org, ids) in due {
                let decided = self.decide(&mut batch, &org, &Command::Expire { ids }, &moment);
                if let Err(error) = decided {
                    self.abort(batch, &error);
                    return;
                }
            }
            if !self.commit(batch, Along::Rows(0)) {
                return;
            }
        }
    }

    /// Returns whether a reservation's time has run out.
    fn is_due(&self, now: Timestamp) -> bool {
        self.shared.next_expiry.load(Ordering::Acquire) <= now.micros()
    }

    /// Begins a transaction and the batch that it is for.
    fn begin(&self) -> Option<Batch> {
        if self.shared.is_lost() {
            return None;
        }
        match self.conn.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => Some(Batch { newest: self.newest, ..Batch::default() }),
            Err(error) => {
                self.shared.fail(&error.into());
                None
            }
        }
    }

    /// Decides a batch and commits it; returns whoever waits for the close.
    fn batch(&mut self, jobs: Vec<Job>) -> Vec<oneshot::Sender<Result<(), StoreError>>> {
        let now = self.now();
        let Some(mut batch) = self.begin() else {
            let health = self.shared.refusal();
            let mut closing = Vec::new();
            for job in jobs {
                match job {
                    Job::Close(reply) => closing.push(reply),
                    job => job.refuse(health.clone()),
                }
            }
            return closing;
        };
        let mut broken: Option<RowsError> = None;
        self.work_on(&mut batch, jobs, now, &mut broken);
        // Before the commit ahead is durable this one cannot be: what comes meanwhile joins it.
        while broken.is_none() && self.threads.syncer.is_one_out() {
            let more = self.shared.take_more(batch.items);
            // What is asked after an expiry is decided after it: what is due goes first.
            let now = self.now();
            if more.is_empty() || self.is_due(now) {
                self.shared.put_back(more);
                break;
            }
            self.work_on(&mut batch, more, now, &mut broken);
        }
        let closing = std::mem::take(&mut batch.closing);
        if let Some(error) = broken {
            self.abort(batch, &error);
            return closing;
        }
        let along = if batch.flush {
            Along::All
        } else if batch.is_empty() {
            Along::Rows(0)
        } else {
            Along::Rows(ROWS_MIN.max(batch.facts * ROWS_PER_FACT))
        };
        self.commit(batch, along);
        closing
    }

    /// Decides jobs of a batch, up to the first that breaks it.
    fn work_on(
        &self,
        batch: &mut Batch,
        jobs: Vec<Job>,
        now: Timestamp,
        broken: &mut Option<RowsError>,
    ) {
        for job in jobs {
            if broken.is_some() {
                match job {
                    Job::Close(reply) => batch.closing.push(reply),
                    job => job.refuse(StoreError::ReadOnly("a write failed".to_owned())),
                }
                continue;
            }
            batch.items += job.items();
            match job {
                Job::Submit(submission, reply) => match self.submit(batch, &submission, now) {
                    Ok(outcome) => batch.answers.outcomes.push((reply, outcome)),
                    Err(error) => {
                        let refusal = StoreError::ReadOnly(error.to_string());
                        drop(reply.send(Err(refusal)));
                        *broken = Some(error);
                    }
                },
                Job::Record(record, reply) => {
                    *broken = self.record(batch, &record, now).err();
                    batch.answers.waiting.push(reply);
                }
                Job::Rows(job) => *broken = self.rows(batch, job).err(),
                Job::Sweep(reply) => batch.answers.waiting.push(reply),
                Job::Flush(reply) => {
                    batch.flush = true;
                    batch.answers.waiting.push(reply);
                }
                Job::Close(reply) => batch.closing.push(reply),
            }
        }
    }

    /// Decides one submission, or gives the recorded answer. The outer error fails the batch.
    fn submit(
        &self,
        batch: &mut Batch,
        submission: &Submission,
        now: Timestamp,
    ) -> Result<Result<Outcome, StoreError>, RowsError> {
        let Submission { org, command, actor, source, idempotency } = submission;
        let key = idempotency.as_ref().map(|key| (key, rows::answers::digest(org, &key.key)));
        if let Some((key, digest)) = key {
            match self.recorded(batch, org, &key.key, digest)? {
                Some((fingerprint, answer)) if fingerprint == key.fingerprint => {
                    return Ok(Ok(Outcome::Replayed(answer)));
                }
                Some(_) => return Ok(Err(StoreError::IdempotencyKeyReused)),
                None => {}
            }
        }
        let moment = Moment { now, actor: actor.clone(), source: *source };
        self.shared.commands.fetch_add(1, Ordering::Relaxed);
        let result = self.decide(batch, org, command, &moment)?;
        let Some((key, digest)) = key else { return Ok(Ok(Outcome::Decided(result))) };
        let answer = (key.render)(&result);
        let n = rows::answers::append(&self.conn, org, &key.key, &key.fingerprint, &answer, now)?;
        batch.note_answer(digest, n);
        Ok(Ok(Outcome::Recorded(result, answer)))
    }

    /// Keeps an answer unless its key has one, which stays.
    fn record(&self, batch: &mut Batch, record: &Record, now: Timestamp) -> Result<(), RowsError> {
        let Record { org, key, fingerprint, answer } = record;
        let digest = rows::answers::digest(org, key);
        if self.recorded(batch, org, key, digest)?.is_none() {
            let n = rows::answers::append(&self.conn, org, key, fingerprint, answer, now)?;
            batch.note_answer(digest, n);
        }
        Ok(())
    }

    /// Returns the answer of a key with its digest, wherever it is on its way.
    fn recorded(
        &self,
        batch: &Batch,
        org: &Org,
        key: &str,
        digest: i64,
    ) -> Result<Option<Recorded>, RowsError> {
        let mut young = self.shared.young.read().of(digest);
        let carried = self.carried.answers.iter().filter(|(known, _)| *known == digest);
        young.extend(carried.map(|(_, n)| *n));
        young.extend(batch.keys.answers_of(digest));
        rows::answers::get(&self.conn, (org, key), digest, &young)
    }

    /// Decides a command and writes the facts.
    fn decide(
        &self,
        batch: &mut Batch,
        org: &Org,
        command: &Command,
        moment: &Moment,
    ) -> Result<Result<trueup_core::Answer, trueup_core::Rejection>, RowsError> {
        let Batch { orgs, keys, .. } = batch;
        let Work { book, found, touched, .. } = orgs.entry(org.clone()).or_default();
        {
            // No longer than it takes to load: what has become durable waits to be merged.
            let memory = self.shared.memory.read();
            let known = self.known(&memory, org);
            let (conn, behind) = (&self.conn, &self.behind);
            let loader = Loader { known, conn, org, found, touched, behind, keys };
            book.load(command, &loader)?;
        }
        let result = decide(book, command, moment);
        // Who pushes knows of its own pushes.
        let is_pushers = matches!(command, Command::MarkSent { .. } | Command::Settle { .. });
        let events = book.take_events();
        let holders = holders(&events);
        for (event, holder) in events.into_iter().zip(holders) {
            if !self.write_row(batch, org, &event, is_pushers)? {
                self.write_fact(batch, org, event, holder)?;
            }
        }
        Ok(result)
    }

    /// Writes what is kept in rows only; returns whether the fact was such a one.
    fn write_row(
        &self,
        batch: &mut Batch,
        org: &Org,
        event: &Event,
        is_pushers: bool,
    ) -> Result<bool, RowsError> {
        match event {
            Event::Listing(listing) => {
                rows::listings::put_state(&self.conn, org, listing)?;
                if listing.forced && !is_pushers {
                    batch.dirty.push((org.clone(), listing.sku.clone()));
                }
            }
            Event::LineBooked { channel, order, line, sku, booked, at } => {
                let id = rows::order_lines::LineId { channel, order, line };
                let row = rows::order_lines::OrderLine { id, sku, booked, at: *at };
                rows::order_lines::put(&self.conn, org, &row)?;
            }
            Event::ConflictFlagged(facts) => {
                rows::conflicts::flag(&self.conn, org, facts)?;
                let (channel, sku) = (facts.channel.clone(), facts.sku.clone());
                batch.changes.push(Change::Conflict { org: org.clone(), channel, sku });
            }
            Event::ConflictClosed { channel, key, at } => {
                rows::conflicts::close(&self.conn, org, channel, key, *at)?;
            }
            Event::Moved(_)
            | Event::BundleDefined { .. }
            | Event::BundleTouched { .. }
            | Event::PublishAsked { .. }
            | Event::Held(_)
            | Event::Ended { .. }
            | Event::Extended { .. }
            | Event::LowStock { .. }
            | Event::Oversold { .. } => return Ok(false),
        }
        batch.touched = true;
        Ok(true)
    }

    /// Writes a fact of the ledger: a line, or what became of a reservation or a bundle. Of a SKU
    /// whose change is in no line, the row may not be behind.
    fn write_fact(
        &self,
        batch: &mut Batch,
        org: &Org,
        event: Event,
        holder: Option<ReservationId>,
    ) -> Result<(), RowsError> {
        let Batch { orgs, newest, keys, dirty, changes, .. } = batch;
        let work = orgs.entry(org.clone()).or_default();
        let found = work.found.get_mut();
        batch.facts += 1;
        match &event {
            Event::Moved(movement) => {
                let sku = &movement.sku;
                let touched = work.touched.entry(sku.clone()).or_default();
                let before = touched.line.unwrap_or_else(|| found.line(sku));
                newest.line += 1;
                lines::write(&self.conn, org, (newest.line, before), movement, holder)?;
                touched.line = Some(newest.line);
                if movement.publish {
                    dirty.push((org.clone(), sku.clone()));
                }
                if self.shared.changes.receiver_count() > 0 {
                    changes.push(Change::Stock { org: org.clone(), sku: sku.clone() });
                }
            }
            Event::BundleDefined { sku, parts } => {
                let version = work.book.sku(sku).map_or(0, |state| state.version);
                ledger::write_bundle(&self.conn, org, sku, version, parts)?;
                work.touched.entry(sku.clone()).or_default().at_once = true;
            }
            Event::BundleTouched { sku, publish, .. } => {
                work.touched.entry(sku.clone()).or_default().at_once = true;
                if *publish {
                    dirty.push((org.clone(), sku.clone()));
                }
            }
            Event::PublishAsked { sku } => {
                work.touched.entry(sku.clone()).or_default().at_once = true;
                dirty.push((org.clone(), sku.clone()));
            }
            Event::Held(reservation) => {
                ledger::write_held(&self.conn, org, reservation)?;
                let id = reservation.id;
                if found.reservations.contains(&id) {
                    // No line need say that it is found by others now.
                    let mut others = Keys::default();
                    others.add(org, reservation);
                    others.write_rows(&self.conn)?;
                } else {
                    keys.add(org, reservation);
                }
            }
            Event::Ended { id, status, at } => {
                ledger::write_ended(&self.conn, org, *id, *status, *at)?;
            }
            Event::Extended { id, expires_at } => {
                ledger::write_extended(&self.conn, org, *id, *expires_at)?;
            }
            Event::LowStock { sku, .. } => {
                changes.push(Change::LowStock { org: org.clone(), sku: sku.clone() });
            }
            Event::Oversold { sku, by, .. } => {
                batch.oversold += 1;
                let (org, sku) = (org.clone(), sku.clone());
                changes.push(Change::Oversold { org, sku, by: by.get() });
            }
            Event::Listing(_)
            | Event::LineBooked { .. }
            | Event::ConflictFlagged(_)
            | Event::ConflictClosed { .. } => {}
        }
        let is_told = match work.is_told {
            Some(is_told) => is_told,
            None => *work.is_told.insert(rows::deliveries::has_subscribers(&self.conn, org)?),
        };
        if is_told {
            work.told.push(event);
        }
        Ok(())
    }

    /// Returns what is known of an org before the batch.
    fn known<'a>(&'a self, memory: &'a Memory, org: &Org) -> Known<'a> {
        Known { carried: self.carried.orgs.get(org), memory: memory.org(org) }
    }

    /// Runs a rows job in a savepoint of its own, so that its failure is its own. SQLite takes the
    /// whole transaction back when the disk is full or refuses: then the batch has failed.
    fn rows(&self, batch: &mut Batch, job: RowsJob) -> Result<(), RowsError> {
        let begun = self.conn.execute_batch("SAVEPOINT job");
        let (done, after) = job(&self.conn);
        let end = if done.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
        let ended = begun.and_then(|()| self.conn.execute_batch(end));
        for work in batch.orgs.values_mut() {
            work.book.forget_rows();
            work.is_told = None;
        }
        match (done, ended) {
            (Ok(()), Ok(())) => {
                batch.touched = true;
                batch.answers.after.push(after);
            }
            (Err(error), _) => after(Err(self.rows_error(&error))),
            (Ok(()), Err(error)) => after(Err(StoreError::Failed(error.to_string()))),
        }
        self.check_transaction()
    }

    /// Returns an error when SQLite has taken back the transaction of the batch.
    fn check_transaction(&self) -> Result<(), RowsError> {
        if self.conn.is_autocommit() {
            return Err(RowsError::Corrupt("the transaction was taken back".to_owned()));
        }
        Ok(())
    }

    fn rows_error(&self, error: &RowsError) -> StoreError {
        if is_disk_trouble(error) {
            self.shared.fail(error);
            return self.shared.refusal();
        }
        StoreError::Failed(error.to_string())
    }

    /// Takes along some of the rows that are behind, commits, and sends it on its way to the disk.
    /// Returns whether SQLite took it.
    fn commit(&mut self, mut batch: Batch, along: Along) -> bool {
        let takes_rows = match along {
            Along::Rows(rows) => rows > 0 && self.behind.is_round_under_way(),
            Along::All => self.behind.len() > 0,
        };
        if batch.is_empty() && !takes_rows {
            let ended = self.conn.execute_batch("ROLLBACK");
            debug_assert!(ended.is_ok());
            // What it was decided on may not be durable yet.
            self.threads.syncer.wait();
            if self.shared.is_lost() {
                batch.answers.refuse(&self.shared.refusal());
            } else {
                self.shared.answer(batch.answers);
            }
            return true;
        }
        let written = self.write(&mut batch, along);
        let written = match written.and_then(|written| self.check_transaction().map(|()| written)) {
            Ok(written) => written,
            Err(error) => {
                self.abort(batch, &error);
                return false;
            }
        };
        self.number += 1;
        self.shared.written.store(self.number, Ordering::SeqCst);
        if let Err(error) = self.conn.execute_batch("COMMIT") {
            self.abort(batch, &error.into());
            self.shared.durable.send_replace(self.number);
            return false;
        }
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        let commit = self.take(batch, written);
        // Before anybody is answered: who reads rows then must know that they are behind.
        self.note_behind();
        self.threads.syncer.send(commit);
        self.move_log();
        if self.behind.is_much() {
            self.behind.begin_round(self.newest);
        }
        true
    }

    /// Takes over what a commit has changed, for the decisions that follow it.
    fn take(&mut self, batch: Batch, written: Written) -> Commit {
        let Batch { orgs, newest, keys, answers, dirty, changes, oversold, .. } = batch;
        self.newest = newest;
        let mut carried = Carried { answers: keys.answers().to_vec(), ..Carried::default() };
        let found = match written {
            Written::All => {
                carried.answers.clear();
                Some(self.behind.clear())
            }
            Written::Step(step) => {
                let found = step.and_then(|step| self.behind.written(step));
                self.behind.add_keys(keys);
                found
            }
        };
        for (org, work) in orgs {
            let mut lines = FxHashMap::default();
            for (sku, touched) in work.touched {
                if !touched.at_once {
                    self.behind.add_sku(&org, sku.clone());
                }
                if let Some(line) = touched.line {
                    lines.insert(sku, line);
                }
            }
            let entries = work.book.into_entries();
            carried.orgs.insert(org, CarriedOrg { entries, lines });
        }
        self.carried = Arc::new(carried);
        let (number, carried) = (self.number, self.carried.clone());
        Commit { number, carried, found, dirty, changes, oversold, answers }
    }

    /// Writes what goes with the batch's facts, and rows that are behind.
    fn write(&self, batch: &mut Batch, along: Along) -> Result<Written, RowsError> {
        let mut ids = || format!("msg_{}", uuid::Uuid::now_v7().simple());
        let is_flush = matches!(along, Along::All);
        for (org, work) in &mut batch.orgs {
            let found = work.found.get_mut();
            for (sku, touched) in &mut work.touched {
                let Some(state) = work.book.sku(sku) else { continue };
                let is_low = state.low_since.is_some();
                // Lists are of SKUs that are there, and of those that are low.
                touched.at_once |=
                    is_flush || found.skus.get(sku).is_none_or(|before| before.is_low != is_low);
                if touched.at_once {
                    let line = touched.line.unwrap_or_else(|| found.line(sku));
                    ledger::write_state(&self.conn, org, sku, state, line)?;
                }
            }
            if !work.told.is_empty() {
                ledger::write_deliveries(&self.conn, org, &work.told, &mut ids)?;
            }
        }
        let orgs = &batch.orgs;
        // As it was before the batch, unless the batch has written it: what a batch adds to other
        // SKUs is in lines, and behind once more.
        let write_sku = |org: &Org, sku: &Sku| {
            let touched = orgs.get(org).and_then(|work| work.touched.get(sku));
            let is_written = touched.is_some_and(|touched| touched.at_once);
            if is_written {
                return Ok(());
            }
            let before = {
                let memory = self.shared.memory.read();
                let known = self.known(&memory, org);
                known.sku(sku).map(|state| (state.clone(), known.line(sku)))
            };
            match before {
                Some((state, line)) => ledger::write_state(&self.conn, org, sku, &state, line),
                None => Ok(()),
            }
        };
        match along {
            Along::Rows(most) => Ok(Written::Step(self.behind.write(&self.conn, most, write_sku)?)),
            Along::All => {
                self.behind.write_all(&self.conn, write_sku)?;
                batch.keys.write_rows(&self.conn)?;
                ledger::write_upto(&self.conn, batch.newest)?;
                Ok(Written::All)
            }
        }
    }

    fn note_behind(&self) {
        let behind = u64::try_from(self.behind.len()).unwrap_or(u64::MAX);
        self.shared.behind.store(behind, Ordering::Release);
    }

    /// Takes everything of a batch back and tells everybody so.
    fn abort(&mut self, batch: Batch, error: &RowsError) {
        // Its success must not hide this failure.
        self.threads.syncer.wait();
        if !self.conn.is_autocommit()
            && let Err(rollback) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(error = %rollback, "roll back");
        }
        self.shared.fail(error);
        batch.answers.refuse(&self.shared.refusal());
    }

    /// Writes all rows, so that the next start has nothing to add up.
    fn finish(&mut self) -> Result<(), StoreError> {
        let written = self.behind.len() == 0
            || self.begin().is_some_and(|batch| self.commit(batch, Along::All));
        self.threads.syncer.wait();
        self.threads.checkpointer.stop();
        if !written || self.shared.is_lost() {
            leave_log(&self.conn);
            return Err(self.shared.refusal());
        }
        let closed = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        closed.map_err(|error| {
            leave_log(&self.conn);
            StoreError::Failed(error.to_string())
        })
    }
}

/// Returns for each fact of a command the reservation that holds what it reserves.
fn holders(events: &[Event]) -> SmallVec<[Option<ReservationId>; 4]> {
    let mut held: Option<&Reservation> = None;
    let mut holders: SmallVec<[_; 4]> = smallvec![None; events.len()];
    for (event, holder) in events.iter().zip(&mut holders).rev() {
        match event {
            // It comes after its lines.
            Event::Held(reservation) => held = Some(reservation),
            Event::Moved(line) if line.kind == MovementKind::Reserve => {
                let is_its =
                    |held: &&Reservation| line.reference.as_deref() == Some(held.order.as_str());
                *holder = held.filter(is_its).map(|held| held.id);
            }
            _ => {}
        }
    }
    holders
}

/// Returns whether the disk, not the statement, is to blame.
fn is_disk_trouble(error: &RowsError) -> bool {
    let RowsError::Sql(error) = error else { return false };
    matches!(
        error.sqlite_error_code(),
        Some(
            rusqlite::ErrorCode::DiskFull
                | rusqlite::ErrorCode::SystemIoFailure
                | rusqlite::ErrorCode::ReadOnly
                | rusqlite::ErrorCode::DatabaseCorrupt
        )
    )
}

/// What is known of an org: what the newest commit has changed, and memory behind it.
#[derive(Clone, Copy)]
struct Known<'a> {
    carried: Option<&'a CarriedOrg>,
    memory: Option<&'a OrgMemory>,
}

impl<'a> Known<'a> {
    fn sku(&self, sku: &Sku) -> Option<&'a SkuState> {
        let carried = self.carried.and_then(|carried| carried.entries.skus.get(sku)?.as_ref());
        carried.or_else(|| self.memory?.skus.get(sku).map(|kept| &kept.state))
    }

    /// Returns the newest line of a SKU, 0 where it has none.
    fn line(&self, sku: &Sku) -> i64 {
        let carried = self.carried.and_then(|carried| carried.lines.get(sku).copied());
        carried.or_else(|| Some(self.memory?.skus.get(sku)?.line)).unwrap_or(0)
    }

    /// Returns a reservation that is active, or has ended with the newest commit.
    fn reservation(&self, id: ReservationId) -> Option<&'a Reservation> {
        let carried = self.carried.and_then(|carried| {
            let found = carried.entries.reservations.get(&id)?;
            found.as_ref()
        });
        carried.or_else(|| self.memory?.reservations.get(&id))
    }

    fn active_of_order(&self, order: &OrderId) -> Option<ReservationId> {
        match self.carried.and_then(|carried| carried.entries.orders.get(order)) {
            Some(active) => *active,
            None => self.memory?.orders.get(order).copied(),
        }
    }
}

/// What a book is loaded from: what is known first, rows for what is not kept in memory.
struct Loader<'a> {
    known: Known<'a>,
    conn: &'a Connection,
    org: &'a Org,
    /// What was there before the batch, noted as it is read.
    found: &'a RefCell<Found>,
    /// What the batch has done so far.
    touched: &'a FxHashMap<Sku, Touched>,
    keys: &'a Keys,
    behind: &'a Behind,
}

impl trueup_core::book::Source for Loader<'_> {
    type Error = RowsError;

    fn sku(&self, sku: &Sku) -> Result<Option<SkuState>, RowsError> {
        let Some(state) = self.known.sku(sku) else { return Ok(None) };
        let before = Before { line: self.known.line(sku), is_low: state.low_since.is_some() };
        self.found.borrow_mut().skus.insert(sku.clone(), before);
        Ok(Some(state.clone()))
    }

    fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, RowsError> {
        match self.known.reservation(id) {
            Some(known) => {
                self.found.borrow_mut().reservations.insert(id);
                Ok(Some(known.clone()))
            }
            None => ledger::reservation(self.conn, self.org, id),
        }
    }

    fn active_of_order(&self, order: &OrderId) -> Result<Option<ReservationId>, RowsError> {
        Ok(self.known.active_of_order(order))
    }

    fn order_is_sold(&self, order: &OrderId) -> Result<bool, RowsError> {
        let digest = rows::digest(Digested::Order, self.org, order.as_str());
        for id in self.behind.with(digest).chain(self.keys.with(digest)) {
            let found = ledger::reservation(self.conn, self.org, id)?;
            let is_sold = |found: &Reservation| {
                found.status == ReservationStatus::Committed && found.order == *order
            };
            if found.as_ref().is_some_and(is_sold) {
                return Ok(true);
            }
        }
        ledger::order_is_sold(self.conn, self.org, order)
    }

    fn listing(
        &self,
        channel: &ChannelId,
        key: &ListingKey,
    ) -> Result<Option<ListingState>, RowsError> {
        rows::listings::state(self.conn, self.org, channel, key)
    }

    fn order_line(
        &self,
        channel: &ChannelId,
        order: &str,
        line: &str,
    ) -> Result<Option<LineBooked>, RowsError> {
        let id = rows::order_lines::LineId { channel, order, line };
        rows::order_lines::get(self.conn, self.org, id)
    }

    fn moved_since(
        &self,
        sku: &Sku,
        location: &Location,
        at: Timestamp,
    ) -> Result<Since, RowsError> {
        let touched = self.touched.get(sku).and_then(|touched| touched.line);
        let newest = touched.unwrap_or_else(|| self.known.line(sku));
        lines::moved_since(self.conn, (self.org, sku), newest, location, at)
    }
}
