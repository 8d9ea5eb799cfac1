//! The one writer: takes everything that waits, decides it all, makes it durable once, answers.
//!
//! State that readers see is changed only after the commit, so nobody ever sees what could still
//! be lost. The journal record and the rows of listings are one transaction; the ledger's own
//! rows follow behind, a piece with each later commit or all of them when it is quiet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use rusqlite::Connection;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{Notify, broadcast, oneshot};
use trueup_core::book::Since;
use trueup_core::{
    Book, ChannelId, Command, Event, LineBooked, ListingKey, ListingState, Location, Moment,
    OrderId, Org, Reservation, ReservationId, ReservationStatus, Sku, SkuState, Source, Timestamp,
    decide,
};

use super::ledger::Rows;
use super::memory::Memory;
use super::rows::{self, RowsError};
use super::{codec, ledger};
use crate::port::{Change, Health, Outcome, StoreError, Submission};

/// The most jobs that wait; the next one is refused.
pub const QUEUE_MAX: usize = 65_536;
/// The most jobs of one commit.
const BATCH_MAX: usize = 4_096;
/// The most reservations that one commit retires.
const EXPIRE_MAX: usize = 10_000;
/// How many facts may be in the journal only before commits take rows of them along.
const BEHIND_MAX: usize = 98_304;
/// How many rows a commit takes along then: for each of its own facts, and at least. More than
/// a fact becomes, so that what is behind shrinks whatever comes in.
const ROWS_PER_FACT: usize = 4;
const ROWS_MIN: usize = 256;
/// How many rows one quiet moment writes.
const QUIET_ROWS: usize = 16_384;
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
/// What a rows job leaves to be said after the commit.
pub(super) type AfterCommit = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Work on rows inside the writer's transaction.
pub(super) type RowsJob =
    Box<dyn FnOnce(&Connection) -> (Result<(), RowsError>, AfterCommit) + Send>;

pub(super) enum Job {
    Submit(Box<Submission>, Reply),
    Rows(RowsJob),
    Sweep(oneshot::Sender<Result<(), StoreError>>),
    Flush(oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

impl Job {
    fn refuse(self, error: StoreError) {
        // Whoever has stopped listening needs no answer.
        match self {
            Self::Submit(_, reply) => drop(reply.send(Err(error))),
            Self::Rows(_) => {}
            Self::Sweep(reply) | Self::Flush(reply) | Self::Close(reply) => {
                drop(reply.send(Err(error)));
            }
        }
    }
}

/// What the writer shares with readers.
pub(super) struct Shared {
    pub(super) memory: RwLock<Memory>,
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
    queue: Mutex<VecDeque<Job>>,
    bell: Condvar,
    closed: AtomicBool,
}

impl Shared {
    pub(super) fn new(memory: Memory, now: Now) -> Self {
        let next_expiry = AtomicI64::new(memory.next_expiry().micros());
        Self {
            memory: RwLock::new(memory),
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

    pub(super) fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    fn take(&self, wait: Duration) -> Vec<Job> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            self.bell.wait_for(&mut queue, wait);
        }
        let count = queue.len().min(BATCH_MAX);
        queue.drain(..count).collect()
    }

    fn close(&self) {
        let mut queue = self.queue.lock();
        self.closed.store(true, Ordering::Release);
        for job in queue.drain(..) {
            job.refuse(StoreError::Closed);
        }
    }
}

/// Facts that are on their way into rows: the oldest of those that are behind, all at once, so
/// that rows that share a page of the file are written together; a piece with each commit.
struct Run {
    facts: Vec<(Org, Event)>,
    rows: Rows,
    /// How many of the rows are written.
    written: usize,
    /// The last journal record that they are of.
    upto: i64,
}

/// How much of the rows behind a commit takes along.
#[derive(Clone, Copy)]
enum Along {
    Rows(usize),
    All,
}

/// What a commit has written besides the rows of its own jobs.
#[derive(Default)]
struct Written {
    /// The number of the journal record.
    journaled: Option<i64>,
    /// How far the run under way has come.
    run: Option<usize>,
    /// Whether nothing is behind any more.
    all: bool,
}

/// What the writer thread owns.
pub(super) struct Writer {
    conn: Connection,
    shared: Arc<Shared>,
    run: Option<Run>,
    /// Facts of the journal after those of the run, oldest first.
    tail: Vec<(Org, Event)>,
    last_seq: i64,
    last_now: Timestamp,
    last_upkeep: Timestamp,
}

/// A batch that is being decided.
#[derive(Default)]
struct Batch {
    books: FxHashMap<Org, Book>,
    facts: Vec<(Org, Event)>,
    outcomes: Vec<(Reply, Result<Outcome, StoreError>)>,
    after: Vec<AfterCommit>,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
    closing: Vec<oneshot::Sender<Result<(), StoreError>>>,
    flush: bool,
    /// Whether rows were written directly.
    touched: bool,
    /// SKUs of listings that were found to owe a push.
    forced: Vec<(Org, Sku)>,
}

impl Writer {
    /// Takes over a file whose rows and journal have been read.
    pub(super) fn new(
        conn: Connection,
        shared: Arc<Shared>,
        journal: Vec<(i64, Vec<(Org, Event)>)>,
        last_seq: i64,
    ) -> Self {
        let mut writer = Self {
            conn,
            shared,
            run: None,
            tail: Vec::new(),
            last_seq,
            last_now: Timestamp::EPOCH,
            last_upkeep: Timestamp::EPOCH,
        };
        for (_, facts) in journal {
            writer.tail.extend(facts);
        }
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
                for reply in closing {
                    drop(reply.send(done.clone()));
                }
                return;
            }
        }
    }

    fn patience(&self) -> Duration {
        let longest = if self.is_behind() { QUIET } else { LOOK_AGAIN };
        let due = self.shared.next_expiry.load(Ordering::Acquire);
        let micros = due.saturating_sub((self.shared.now)().micros()).max(0);
        longest.min(Duration::from_micros(micros.cast_unsigned()))
    }

    /// Does what can wait: retires what is due, writes rows, forgets what is too old.
    fn quiet(&mut self) {
        self.retire_due();
        if self.is_behind() {
            self.begin_run();
            self.commit(Batch::default(), Along::Rows(QUIET_ROWS));
            return;
        }
        let now = self.now();
        if now.micros_since(self.last_upkeep) < UPKEEP_EVERY_SECONDS * 1_000_000 {
            return;
        }
        self.last_upkeep = now;
        let before = |seconds: i64| Timestamp::from_micros(now.micros() - seconds * 1_000_000);
        let purged = rows::answers::purge_before(&self.conn, before(ANSWERS_KEPT_SECONDS))
            .and_then(|_| rows::inbox::purge_done_before(&self.conn, before(INBOX_KEPT_SECONDS)))
            .and_then(|_| rows::consents::purge_before(&self.conn, now));
        if let Err(error) = purged {
            tracing::warn!(%error, "purge what is too old");
        }
    }

    /// Returns the instant, never before the last one.
    fn now(&mut self) -> Timestamp {
        self.last_now = self.last_now.max((self.shared.now)());
        self.last_now
    }

    /// Retires every reservation that is due, so that decisions see stock as it is.
    fn retire_due(&mut self) {
        let now = self.now();
        while self.shared.memory.read().next_expiry() <= now {
            let due = self.shared.memory.read().due(now, EXPIRE_MAX);
            let mut batch = Batch::default();
            let moment = Moment { now, actor: Arc::from("expiry"), source: Source::Expiry };
            for (org, ids) in due {
                let decided = self.decide(&mut batch, &org, &Command::Expire { ids }, &moment);
                if let Err(error) = decided {
                    tracing::error!(%error, "retire reservations");
                    return;
                }
            }
            if !self.commit(batch, Along::Rows(0)) {
                return;
            }
        }
    }

    /// Decides a batch and commits it; returns whoever waits for the close.
    fn batch(&mut self, jobs: Vec<Job>) -> Vec<oneshot::Sender<Result<(), StoreError>>> {
        let now = self.now();
        let mut batch = Batch::default();
        if let Err(error) = self.conn.execute_batch("BEGIN IMMEDIATE") {
            self.fail(&error.into());
            let health = self.refusal();
            let mut closing = Vec::new();
            for job in jobs {
                match job {
                    Job::Close(reply) => closing.push(reply),
                    job => job.refuse(health.clone()),
                }
            }
            return closing;
        }
        let mut broken: Option<RowsError> = None;
        for job in jobs {
            if broken.is_some() {
                match job {
                    Job::Close(reply) => batch.closing.push(reply),
                    job => job.refuse(StoreError::ReadOnly("a write failed".to_owned())),
                }
                continue;
            }
            match job {
                Job::Submit(submission, reply) => match self.submit(&mut batch, &submission, now) {
                    Ok(outcome) => batch.outcomes.push((reply, outcome)),
                    Err(error) => {
                        let refusal = StoreError::ReadOnly(error.to_string());
                        drop(reply.send(Err(refusal)));
                        broken = Some(error);
                    }
                },
                Job::Rows(job) => self.rows(&mut batch, job),
                Job::Sweep(reply) => batch.waiting.push(reply),
                Job::Flush(reply) => {
                    batch.flush = true;
                    batch.waiting.push(reply);
                }
                Job::Close(reply) => batch.closing.push(reply),
            }
        }
        let closing = std::mem::take(&mut batch.closing);
        if let Some(error) = broken {
            self.abort(batch, &error);
            return closing;
        }
        let along = if batch.flush {
            Along::All
        } else if batch.facts.is_empty() && !batch.touched {
            Along::Rows(0)
        } else {
            Along::Rows(ROWS_MIN.max(batch.facts.len() * ROWS_PER_FACT))
        };
        self.commit_begun(batch, along);
        closing
    }

    /// Decides one submission, or gives the recorded answer. The outer error fails the batch.
    fn submit(
        &self,
        batch: &mut Batch,
        submission: &Submission,
        now: Timestamp,
    ) -> Result<Result<Outcome, StoreError>, RowsError> {
        let Submission { org, command, actor, source, idempotency } = submission;
        if let Some(key) = idempotency {
            match rows::answers::get(&self.conn, org, &key.key)? {
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
        let Some(key) = idempotency else { return Ok(Ok(Outcome::Decided(result))) };
        let answer = (key.render)(&result);
        rows::answers::put(&self.conn, org, &key.key, &key.fingerprint, &answer, now)?;
        batch.touched = true;
        Ok(Ok(Outcome::Recorded(result, answer)))
    }

    fn decide(
        &self,
        batch: &mut Batch,
        org: &Org,
        command: &Command,
        moment: &Moment,
    ) -> Result<Result<trueup_core::Answer, trueup_core::Rejection>, RowsError> {
        let Batch { books, facts, forced, .. } = batch;
        let book = books.entry(org.clone()).or_default();
        {
            let memory = self.shared.memory.read();
            let run = self.run.as_ref().map_or(&[][..], |run| &run.facts);
            let behind = [run, &self.tail, facts];
            let loader = Loader { memory: &memory, conn: &self.conn, org, behind };
            book.load(command, &loader)?;
        }
        let result = decide(book, command, moment);
        // Who pushes knows of its own pushes.
        let is_pushers = matches!(command, Command::MarkSent { .. } | Command::Settle { .. });
        for event in book.take_events() {
            if self.write_row(org, &event)? {
                if let Event::Listing(listing) = &event
                    && listing.forced
                    && !is_pushers
                {
                    forced.push((org.clone(), listing.sku.clone()));
                }
                batch.touched = true;
            } else {
                facts.push((org.clone(), event));
            }
        }
        Ok(result)
    }

    /// Writes what is kept in rows only; returns whether the fact was such a one.
    fn write_row(&self, org: &Org, event: &Event) -> Result<bool, RowsError> {
        match event {
            Event::Listing(listing) => {
                rows::listings::put_state(&self.conn, org, listing)?;
            }
            Event::LineBooked { channel, order, line, sku, booked, at } => {
                let id = rows::order_lines::LineId { channel, order, line };
                let row = rows::order_lines::OrderLine { id, sku, booked, at: *at };
                rows::order_lines::put(&self.conn, org, &row)?;
            }
            Event::ConflictFlagged(facts) => {
                rows::conflicts::flag(&self.conn, org, facts)?;
                let (channel, sku) = (facts.channel.clone(), facts.sku.clone());
                self.announce(Change::Conflict { org: org.clone(), channel, sku });
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
        Ok(true)
    }

    fn announce(&self, change: Change) {
        // Nobody listening is fine.
        drop(self.shared.changes.send(change));
    }

    fn mark_dirty(&self, skus: Vec<(Org, Sku)>) {
        self.shared.dirty.lock().extend(skus);
        self.shared.dirty_bell.notify_one();
    }

    /// Runs a rows job in a savepoint of its own, so that its failure is its own.
    fn rows(&self, batch: &mut Batch, job: RowsJob) {
        let begun = self.conn.execute_batch("SAVEPOINT job");
        let (done, after) = job(&self.conn);
        let end = if done.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
        let ended = begun.and_then(|()| self.conn.execute_batch(end));
        for book in batch.books.values_mut() {
            book.forget_rows();
        }
        match (done, ended) {
            (Ok(()), Ok(())) => {
                batch.touched = true;
                batch.after.push(after);
            }
            (Err(error), _) => after(Err(self.rows_error(&error))),
            (Ok(()), Err(error)) => after(Err(StoreError::Failed(error.to_string()))),
        }
    }

    fn rows_error(&self, error: &RowsError) -> StoreError {
        if is_disk_trouble(error) {
            self.fail(error);
            return self.refusal();
        }
        StoreError::Failed(error.to_string())
    }

    fn commit(&mut self, batch: Batch, along: Along) -> bool {
        if let Err(error) = self.conn.execute_batch("BEGIN IMMEDIATE") {
            self.abort(batch, &error.into());
            return false;
        }
        self.commit_begun(batch, along)
    }

    /// Writes the journal record, takes along some of the rows that are behind, commits, and
    /// only then lets anybody know. Returns whether it became durable.
    fn commit_begun(&mut self, mut batch: Batch, along: Along) -> bool {
        let facts = std::mem::take(&mut batch.facts);
        let takes_rows = match along {
            Along::Rows(rows) => rows > 0 && self.run.is_some(),
            Along::All => self.is_behind(),
        };
        if facts.is_empty() && !batch.touched && !takes_rows {
            let ended = self.conn.execute_batch("ROLLBACK");
            debug_assert!(ended.is_ok());
            self.answer(batch);
            return true;
        }
        let written = match self.write(&facts, along) {
            Ok(written) => written,
            Err(error) => {
                self.abort(batch, &error);
                return false;
            }
        };
        if let Err(error) = self.conn.execute_batch("COMMIT") {
            self.abort(batch, &error.into());
            return false;
        }
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.recovered();
        self.publish(&mut batch, facts, &written);
        if self.tail.len() > BEHIND_MAX {
            self.begin_run();
        }
        self.answer(batch);
        true
    }

    fn is_behind(&self) -> bool {
        self.run.is_some() || !self.tail.is_empty()
    }

    /// Makes a run of all that is behind, unless one is under way.
    fn begin_run(&mut self) {
        if self.run.is_none() && !self.tail.is_empty() {
            // As much will gather again while these are written.
            let room = Vec::with_capacity(self.tail.len());
            let facts = std::mem::replace(&mut self.tail, room);
            let rows = Rows::of(&facts);
            self.run = Some(Run { facts, rows, written: 0, upto: self.last_seq });
        }
    }

    fn write(&self, facts: &[(Org, Event)], along: Along) -> Result<Written, RowsError> {
        let mut written = Written::default();
        let body = codec::encode(facts).map_err(|e| RowsError::Corrupt(e.to_string()))?;
        if let Some(body) = body {
            let seq = self.last_seq + 1;
            self.conn
                .prepare_cached("INSERT INTO journal (seq, body) VALUES (?, ?)")?
                .execute(rusqlite::params![seq, body])?;
            written.journaled = Some(seq);
        }
        let most = match along {
            Along::Rows(rows) => rows,
            Along::All => usize::MAX,
        };
        if let Some(run) = self.run.as_ref().filter(|_| most > 0) {
            let to = run.rows.write(&self.conn, &run.facts, run.written, most)?;
            written.run = Some(to);
            if to == run.rows.len() {
                self.close_rows(&run.facts, run.upto)?;
            }
        }
        if let Along::All = along {
            for facts in [&self.tail[..], facts] {
                let rows = Rows::of(facts);
                rows.write(&self.conn, facts, 0, usize::MAX)?;
                self.close_rows(facts, written.journaled.unwrap_or(self.last_seq))?;
            }
            written.all = true;
        }
        Ok(written)
    }

    /// Ends facts' stay in the journal: all their rows are written.
    fn close_rows(&self, facts: &[(Org, Event)], upto: i64) -> Result<(), RowsError> {
        let mut ids = || format!("msg_{}", uuid::Uuid::now_v7().simple());
        ledger::write_deliveries(&self.conn, facts, &mut ids)?;
        self.conn.prepare_cached("DELETE FROM journal WHERE seq <= ?")?.execute([upto])?;
        self.conn
            .prepare_cached("UPDATE meta SET value = ? WHERE name = 'materialized'")?
            .execute([upto])?;
        Ok(())
    }

    /// Lets readers see what has become durable.
    fn publish(&mut self, batch: &mut Batch, facts: Vec<(Org, Event)>, written: &Written) {
        self.last_seq = written.journaled.unwrap_or(self.last_seq);
        let mut dirty = std::mem::take(&mut batch.forced);
        let listened = self.shared.changes.receiver_count() > 0;
        for (org, event) in &facts {
            match event {
                Event::Moved(movement) => {
                    if movement.publish {
                        dirty.push((org.clone(), movement.sku.clone()));
                    }
                    if listened {
                        let sku = movement.sku.clone();
                        self.announce(Change::Stock { org: org.clone(), sku });
                    }
                }
                Event::BundleTouched { sku, publish: true, .. } | Event::PublishAsked { sku } => {
                    dirty.push((org.clone(), sku.clone()));
                }
                Event::LowStock { sku, .. } => {
                    self.announce(Change::LowStock { org: org.clone(), sku: sku.clone() });
                }
                Event::Oversold { sku, by, .. } => {
                    self.shared.oversold_events.fetch_add(1, Ordering::Relaxed);
                    let (org, sku) = (org.clone(), sku.clone());
                    self.announce(Change::Oversold { org, sku, by: by.get() });
                }
                Event::BundleTouched { publish: false, .. }
                | Event::BundleDefined { .. }
                | Event::Held(_)
                | Event::Ended { .. }
                | Event::Extended { .. }
                | Event::Listing(_)
                | Event::LineBooked { .. }
                | Event::ConflictFlagged(_)
                | Event::ConflictClosed { .. } => {}
            }
        }
        self.tail.extend(facts);
        let mut memory = self.shared.memory.write();
        for (org, book) in batch.books.drain() {
            memory.merge(&org, book.into_entries());
        }
        let done = match (&mut self.run, written.run) {
            (Some(run), Some(to)) => {
                run.written = to;
                to == run.rows.len()
            }
            (_, _) => false,
        };
        let run = if done { self.run.take() } else { None };
        let tail = if written.all { std::mem::take(&mut self.tail) } else { Vec::new() };
        for (org, event) in run.into_iter().flat_map(|run| run.facts).chain(tail) {
            if let Event::Ended { id, status, at } = event {
                memory.forget_ended(&org, id, status, at);
            }
        }
        let next = memory.next_expiry().micros();
        drop(memory);
        self.shared.next_expiry.store(next, Ordering::Release);
        self.note_behind();
        if !dirty.is_empty() {
            self.mark_dirty(dirty);
        }
    }

    fn note_behind(&self) {
        let run = self.run.as_ref().map_or(0, |run| run.facts.len());
        let behind = u64::try_from(run + self.tail.len()).unwrap_or(u64::MAX);
        self.shared.behind.store(behind, Ordering::Relaxed);
    }

    fn answer(&self, batch: Batch) {
        for (reply, outcome) in batch.outcomes {
            drop(reply.send(outcome));
        }
        for after in batch.after {
            after(Ok(()));
        }
        for reply in batch.waiting {
            drop(reply.send(Ok(())));
        }
    }

    /// Takes everything of a batch back and tells everybody so.
    fn abort(&self, batch: Batch, error: &RowsError) {
        if let Err(rollback) = self.conn.execute_batch("ROLLBACK") {
            tracing::warn!(error = %rollback, "roll back");
        }
        self.fail(error);
        let refusal = self.refusal();
        for (reply, _) in batch.outcomes {
            drop(reply.send(Err(refusal.clone())));
        }
        for after in batch.after {
            after(Err(refusal.clone()));
        }
        for reply in batch.waiting {
            drop(reply.send(Err(refusal.clone())));
        }
    }

    fn fail(&self, error: &RowsError) {
        tracing::error!(%error, "the store cannot write");
        *self.shared.health.write() = Health::Failing(error.to_string());
    }

    fn refusal(&self) -> StoreError {
        match &*self.shared.health.read() {
            Health::Failing(why) => StoreError::ReadOnly(why.clone()),
            Health::Ready => StoreError::ReadOnly("a write failed".to_owned()),
        }
    }

    /// A commit went through: whatever was wrong with the disk is over.
    fn recovered(&self) {
        let mut health = self.shared.health.write();
        if *health != Health::Ready {
            tracing::info!("the store writes again");
            *health = Health::Ready;
        }
    }

    /// Writes all rows, so that the next start has nothing to replay.
    fn finish(&mut self) -> Result<(), StoreError> {
        if self.is_behind() && !self.commit(Batch::default(), Along::All) {
            return Err(self.refusal());
        }
        let closed = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        closed.map_err(|error| StoreError::Failed(error.to_string()))
    }
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

/// What a book is loaded from: memory first, rows for what is not kept there.
struct Loader<'a> {
    memory: &'a Memory,
    conn: &'a Connection,
    org: &'a Org,
    /// Facts that are not or not all in rows.
    behind: [&'a [(Org, Event)]; 3],
}

impl trueup_core::book::Source for Loader<'_> {
    type Error = RowsError;

    fn sku(&self, sku: &Sku) -> Result<Option<SkuState>, RowsError> {
        Ok(self.memory.sku(self.org, sku).cloned())
    }

    fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, RowsError> {
        let memory = self.memory.org(self.org).and_then(|org| org.reservations.get(&id));
        match memory {
            Some(found) => Ok(Some(found.clone())),
            None => ledger::reservation(self.conn, self.org, id),
        }
    }

    fn active_of_order(&self, order: &OrderId) -> Result<Option<ReservationId>, RowsError> {
        let Some(memory) = self.memory.org(self.org) else { return Ok(None) };
        let active = memory.orders.get(order).copied();
        debug_assert!(active.is_none_or(|id| {
            memory.reservations.get(&id).is_some_and(|r| r.status == ReservationStatus::Active)
        }));
        Ok(active)
    }

    fn order_is_sold(&self, order: &OrderId) -> Result<bool, RowsError> {
        // Those that ended lately are still in memory. It is asked for late commits only.
        let sold = |found: &Reservation| {
            found.status == ReservationStatus::Committed && found.order == *order
        };
        let memory = self.memory.org(self.org);
        let lately = memory.is_some_and(|memory| memory.reservations.values().any(sold));
        Ok(lately || ledger::order_is_sold(self.conn, self.org, order)?)
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
        let mut pending = Since::default();
        let mut first = u64::MAX;
        for (org, event) in self.behind.into_iter().flatten() {
            if let Event::Moved(m) = event
                && org == self.org
                && m.sku == *sku
            {
                first = first.min(m.seq);
                if m.location == *location && m.at > at {
                    pending.note(m, at);
                }
            }
        }
        let in_rows = ledger::moved_since(self.conn, self.org, sku, location, at, first)?;
        Ok(Since {
            moved: in_rows.moved + pending.moved,
            recounted: in_rows.recounted || pending.recounted,
        })
    }
}
