//! Gates: whoever asks waits at the gate of a shard, and what waits is decided together.
//!
//! One transaction for all that waits is what makes many callers cheap; shards go on beside one
//! another. What is answered is committed.

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use trueup_core::{ChannelId, Command, ListingKey, OrderId, Org, ReservationId, Sku, Timestamp};

use super::decisions::{Decided, Known, Wanting, decide_all};
use super::load::{About, EXPIRE_MAX, Loader};
use super::write::Writes;
use crate::port::{Outcome, StoreError, Submission};
use crate::postgres::Shared;
use crate::postgres::error::{PgError, Result};
use crate::postgres::lease;
use crate::postgres::pool::{Tries, Tx};

/// The most jobs that wait at a gate; the next one is refused.
pub(in crate::postgres) const QUEUE_MAX: usize = 16_384;
/// The most jobs of one transaction.
const BATCH_MAX: usize = 2_048;
/// How often more is found to be needed before a transaction begins again.
const ROUNDS_MAX: usize = 8;
/// The most hints of each kind that a gate keeps.
const HINTS_MAX: usize = 4_096;

type Reply = oneshot::Sender<std::result::Result<Outcome, StoreError>>;
type Done = oneshot::Sender<std::result::Result<(), StoreError>>;

/// What waits.
pub(in crate::postgres) enum Job {
    /// A command to be decided.
    Submit {
        /// The command with who asks for it.
        submission: Box<Submission>,
        /// The epoch of the shard's lease under which it is asked for, by who works for it.
        epoch: Option<i64>,
        /// Who waits for what comes of it.
        reply: Reply,
    },
    /// What is due is to be retired.
    Sweep(Done),
}

impl Job {
    fn epoch(&self) -> Option<i64> {
        match self {
            Self::Submit { epoch, .. } => *epoch,
            Self::Sweep(_) => None,
        }
    }

    fn refuse(self, error: StoreError) {
        // Whoever has stopped listening needs no answer.
        match self {
            Self::Submit { reply, .. } => drop(reply.send(Err(error))),
            Self::Sweep(done) => drop(done.send(Err(error))),
        }
    }
}

/// The queue of a shard.
#[derive(Default)]
pub(in crate::postgres) struct Gate {
    queue: Mutex<Queue>,
    rung: Notify,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl Gate {
    /// Puts a job into the queue, or refuses it at once.
    pub(in crate::postgres) fn push(&self, job: Job) -> std::result::Result<(), StoreError> {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err(StoreError::Closed);
        }
        if queue.jobs.len() >= QUEUE_MAX {
            return Err(StoreError::Overloaded);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.rung.notify_one();
        Ok(())
    }

    /// Returns how many wait.
    pub(in crate::postgres) fn len(&self) -> usize {
        self.queue.lock().jobs.len()
    }

    /// Takes nothing on any more.
    pub(in crate::postgres) fn close(&self) {
        self.queue.lock().is_closed = true;
        self.rung.notify_one();
    }

    /// Waits until there are jobs and takes them; none = it is closed and empty.
    async fn take(&self) -> Vec<Job> {
        loop {
            {
                let mut queue = self.queue.lock();
                let count = queue.jobs.len().min(BATCH_MAX);
                if count > 0 || queue.is_closed {
                    return queue.jobs.drain(..count).collect();
                }
            }
            self.rung.notified().await;
        }
    }
}

/// Works on a gate until it is closed and empty, or all is to stop at once.
pub(in crate::postgres) async fn run(shared: Arc<Shared>, shard: i16, stop: CancellationToken) {
    let Some(gate) = shared.gate(shard) else { return };
    let mut hints = Hints::default();
    loop {
        let jobs = tokio::select! {
            jobs = gate.take() => jobs,
            () = stop.cancelled() => return,
        };
        if jobs.is_empty() {
            return;
        }
        let work = work(&shared, shard, &mut hints, jobs);
        // A bug in one decision is not the end of all the others: whoever asked is told.
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!(shard, "a batch died of a bug");
            hints = Hints::default();
        }
    }
}

/// Decides a batch, commits it and answers. Where it fails for what is in it, its halves are
/// tried apart, so that one job fails alone.
async fn work(shared: &Shared, shard: i16, hints: &mut Hints, jobs: Vec<Job>) {
    let mut waiting = vec![jobs];
    while let Some(mut jobs) = waiting.pop() {
        match batch(shared, shard, hints, &jobs).await {
            Ok(decided) => answer(jobs, decided),
            Err(Refusal { error: StoreError::Fenced, .. }) => {
                // Only what was asked for under the lease; nothing else is to blame.
                let (fenced, rest) = jobs.into_iter().partition(|job| job.epoch().is_some());
                let fenced: Vec<Job> = fenced;
                fenced.into_iter().for_each(|job| job.refuse(StoreError::Fenced));
                waiting.extend(Some(rest).filter(|rest: &Vec<Job>| !rest.is_empty()));
            }
            Err(Refusal { error, is_of_data: true }) if jobs.len() > 1 => {
                tracing::warn!(%error, "a batch is tried in halves");
                let rest = jobs.split_off(jobs.len() / 2);
                waiting.push(rest);
                waiting.push(jobs);
            }
            Err(Refusal { error, .. }) => {
                jobs.into_iter().for_each(|job| job.refuse(error.clone()));
            }
        }
    }
}

/// Why a batch came to nothing.
struct Refusal {
    error: StoreError,
    /// Whether something in it is to blame.
    is_of_data: bool,
}

fn answer(jobs: Vec<Job>, decided: Decided) {
    let mut outcomes = decided.outcomes.into_iter();
    for job in jobs {
        // Whoever has stopped listening needs no answer.
        match job {
            Job::Submit { reply, .. } => {
                drop(reply.send(outcomes.next().unwrap_or(Err(StoreError::Closed))));
            }
            Job::Sweep(done) => drop(done.send(Ok(()))),
        }
    }
}

/// Decides jobs and commits what they come to.
async fn batch(
    shared: &Shared,
    shard: i16,
    hints: &mut Hints,
    jobs: &[Job],
) -> std::result::Result<Decided, Refusal> {
    let submissions = jobs.iter().filter_map(|job| match job {
        Job::Submit { submission, .. } => Some(&**submission),
        Job::Sweep(_) => None,
    });
    let epochs = jobs.iter().filter_map(Job::epoch).collect();
    let asked = Asked { shard, submissions: submissions.collect(), epochs };
    let mut tries = Tries::default();
    // What an attempt before has found to be needed.
    let mut wanting = Wanting::new();
    loop {
        match attempt(shared, hints, &asked, &mut wanting).await {
            Ok(Some(decided)) => return Ok(decided),
            // Much was due: it is retired, and the jobs come next.
            Ok(None) => {}
            Err(error) => {
                let is_of_data = error.is_of_data();
                let again = shared.pool.again(error, &mut tries).await;
                again.map_err(|error| Refusal { error, is_of_data })?;
            }
        }
    }
}

/// What is to be decided together.
struct Asked<'a> {
    shard: i16,
    submissions: Vec<&'a Submission>,
    /// The epochs of the shard's lease under which some of it is asked for.
    epochs: BTreeSet<i64>,
}

/// Decides and commits once; `None` = only some of what was due has been retired.
async fn attempt(
    shared: &Shared,
    hints: &mut Hints,
    asked: &Asked<'_>,
    wanting: &mut Wanting,
) -> Result<Option<Decided>> {
    let (shard, submissions) = (asked.shard, &*asked.submissions);
    if wanting.is_empty() {
        let of_nothing = decide_all(submissions, &Known::default(), Timestamp::EPOCH);
        *wanting = of_nothing.err().unwrap_or_default();
        hints.add_to(wanting, submissions);
    }
    let tx = shared.pool.open_at_gate(shard).await?;
    let loading = Box::pin(load(shared, &tx, asked, wanting));
    let loaded = shared.pool.within(loading).await;
    let Loaded { known, decided, is_all, is_holder } = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return Err(tx.give_up(error).await),
    };
    // Who works for the shard is told here, once it is committed; whoever works for it next looks
    // at everything first.
    let doorbell = (!is_holder).then_some(shared.node);
    let writes = Writes::new(shard, doorbell, &known, &decided);
    // What repeats an answer rests on a commit that maybe no replica has, where its wait was cut
    // off: a commit of its own waits for it.
    if writes.is_empty() && decided.is_refusal() {
        tx.roll_back().await;
    } else {
        commit(shared, tx, &writes).await?;
    }
    shared.committed(&decided, is_holder);
    hints.learn(&known, &decided);
    Ok(is_all.then_some(decided))
}

/// Writes and commits.
async fn commit(shared: &Shared, tx: Tx, writes: &Writes<'_>) -> Result<()> {
    if let Some(statements) = writes.few() {
        // All of them are prepared, so that they are sent in this order, and the commit last.
        for sql in statements {
            if let Err(error) = tx.prepare_cached(&sql).await {
                return Err(tx.give_up(error.into()).await);
            }
        }
        let written = shared.pool.within(Box::pin(writes.write(&tx)));
        let (written, committed) = futures::join!(written, tx.send_commit());
        return shared.pool.conclude(tx, written, committed).await;
    }
    match shared.pool.within(Box::pin(writes.write(&tx))).await {
        Ok(()) => shared.pool.commit(tx).await,
        Err(error) => Err(tx.give_up(error).await),
    }
}

/// What was decided, and on what.
struct Loaded {
    known: Known,
    decided: Decided,
    /// Whether that was all, or only some of what is due.
    is_all: bool,
    /// Whether this node works for the shard, until the transaction ends.
    is_holder: bool,
}

/// Locks and reads what is needed, and decides.
async fn load(
    shared: &Shared,
    tx: &Tx,
    asked: &Asked<'_>,
    wanting: &mut Wanting,
) -> Result<Loaded> {
    let (shard, submissions) = (asked.shard, &*asked.submissions);
    let keyed = submissions.iter().filter_map(|one| Some((&one.org, one.idempotency.as_ref()?)));
    let (key_orgs, keys) = keyed.map(|(org, key)| (org.as_str(), &*key.key)).unzip();
    let about = About { key_orgs, keys, now: shared.time.given(), shared };
    let mut loader = Loader::new(tx, shard, &about);
    loader.begin(wanting.clone()).await?;
    for epoch in &asked.epochs {
        lease::fence(shared, tx, shard, *epoch).await?;
    }
    let (decided, is_all) = decide(shared, &mut loader, submissions, wanting).await?;
    let Loader { known, is_holder, .. } = loader;
    Ok(Loaded { known, decided, is_all, is_holder })
}

/// Decides once everything that is needed is locked and read. Returns whether that was all, or
/// only some of what is due.
async fn decide(
    shared: &Shared,
    loader: &mut Loader<'_>,
    submissions: &[&Submission],
    wanting: &mut Wanting,
) -> Result<(Decided, bool)> {
    for _ in 0..ROUNDS_MAX {
        let now = shared.time.at(loader.clock, loader.newest());
        // So much is due that there may be more: it goes first.
        let due: usize = loader.known.due.values().map(Vec::len).sum();
        let is_all = due < EXPIRE_MAX;
        let submissions = if is_all { submissions } else { &[] };
        let missing = match decide_all(submissions, &loader.known, now) {
            Ok(decided) => return Ok((decided, is_all)),
            Err(missing) => missing,
        };
        let more = loader.more(missing).await;
        wanting.clone_from(loader.wanting());
        more?;
    }
    Err(PgError::Again)
}

/// What was seen to belong together, so that the next ones who ask lock it all at once. Being
/// wrong costs a lock or another time there and back, nothing else.
#[derive(Default)]
struct Hints {
    /// The parts of a bundle, and the bundles of a part.
    around: FxHashMap<(Org, Sku), Vec<Sku>>,
    /// The order of a reservation, and its SKUs.
    held: FxHashMap<(Org, ReservationId), (OrderId, Vec<Sku>)>,
    /// The SKU of a listing.
    sold_as: FxHashMap<(Org, ChannelId, ListingKey), Sku>,
}

impl Hints {
    /// Adds SKUs that what is asked will want.
    fn add_to(&self, wanting: &mut Wanting, submissions: &[&Submission]) {
        for (org, wanted) in wanting.iter_mut() {
            let mut skus: BTreeSet<Sku> = BTreeSet::new();
            for id in &wanted.reservations {
                if let Some((_, held)) = self.held.get(&(org.clone(), *id)) {
                    skus.extend(held.iter().cloned());
                }
            }
            for (channel, key) in &wanted.listings {
                skus.extend(
                    self.sold_as.get(&(org.clone(), channel.clone(), key.clone())).cloned(),
                );
            }
            wanted.skus.append(&mut skus);
            self.add_around(org, &mut wanted.skus);
        }
        for submission in submissions {
            // What is sold is looked up by its order, too.
            if let Command::Commit { id, reacquire } = &submission.command
                && let Some((order, _)) = self.held.get(&(submission.org.clone(), *id))
                && let Some(wanted) = wanting.get_mut(&submission.org)
            {
                wanted.orders.insert(order.clone());
                if *reacquire {
                    wanted.sold.insert(order.clone());
                }
            }
        }
    }

    fn add_around(&self, org: &Org, skus: &mut BTreeSet<Sku>) {
        let mut open: Vec<Sku> = skus.iter().cloned().collect();
        while let Some(sku) = open.pop() {
            for near in self.around.get(&(org.clone(), sku)).into_iter().flatten() {
                if skus.insert(near.clone()) {
                    open.push(near.clone());
                }
            }
        }
    }

    fn learn(&mut self, known: &Known, decided: &Decided) {
        for map in [self.around.len(), self.held.len(), self.sold_as.len()] {
            if map > HINTS_MAX {
                *self = Self::default();
                break;
            }
        }
        for (org, done) in &decided.orgs {
            for (sku, state) in &done.entries.skus {
                let place = (org.clone(), sku.clone());
                let Some(state) = state else { continue };
                let parts = state.parts.iter().map(|part| part.sku.clone());
                let around: Vec<Sku> = parts.chain(state.used_in.iter().cloned()).collect();
                if around.is_empty() {
                    self.around.remove(&place);
                } else {
                    self.around.insert(place, around);
                }
            }
            for (id, found) in &done.entries.reservations {
                let Some(found) = found else { continue };
                let holds = found.holds.iter().map(|hold| hold.sku.clone());
                let items = found.items.iter().map(|item| item.sku.clone());
                let skus: BTreeSet<Sku> = holds.chain(items).collect();
                let held = (found.order.clone(), skus.into_iter().collect());
                self.held.insert((org.clone(), *id), held);
            }
        }
        let listings = known.orgs.iter().flat_map(|(org, known)| {
            known.listings.iter().map(move |(place, found)| (org, place, found))
        });
        for (org, (channel, key), found) in listings {
            if let Some(found) = found {
                let place = (org.clone(), channel.clone(), key.clone());
                self.sold_as.insert(place, found.sku.clone());
            }
        }
    }
}
