//! The store on PostgreSQL: the rows are the state, and whoever decides holds their locks.
//!
//! Several nodes may run on one database: what is decided on is locked first, in key order, and
//! read after that. What is asked at the same time is decided together, one transaction for each
//! shard. Unlike the embedded store nothing is kept in memory and nothing is behind.

mod address;
pub(crate) mod arrival;
mod bell;
mod clock;
mod error;
mod feed;
mod hosts;
mod lease;
mod ledger;
mod pool;
mod port;
mod records;
mod schema;
pub(crate) mod shard;
mod sql;
mod statistics;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trueup_core::{Org, Timestamp};
use uuid::Uuid;

use crate::cluster::NodeInfo;
use crate::port::{Change, Outcome, StoreError, StoreFigures, Submission};
use address::Address;
use arrival::Arriving;
use bell::Bell;
use clock::Time;
use lease::Leases;
use ledger::decisions::Decided;
use ledger::gate::{self, Gate, Job};
use ledger::reads;
use pool::{Client, Pool, Tx};
use shard::shard_of;

pub use clock::{Clock, Now};
pub use lease::LeaseClocks;
pub(crate) use sql::kept_text;

/// The most changes that a slow reader of live views may be behind.
const CHANGES_MAX: usize = 4_096;

/// How often a read has what is due retired before it takes things as they are.
const SWEEPS_MAX: usize = 3;

/// Why a database could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one, or says what there is not.
    #[error("the URL of the database: {0}")]
    Address(String),
    /// The database cannot be reached, or refuses.
    #[error("the database: {0}")]
    Database(String),
}

/// A store in a database, which other nodes may use at the same time.
pub struct Postgres {
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
    /// Whether what it writes is refused where the shard is another node's.
    is_fenced: bool,
}

/// What works for a store until it is closed or gone.
struct Tasks {
    shared: Arc<Shared>,
    gates: Mutex<Vec<JoinHandle<()>>>,
    others: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
}

/// What the tasks of a store share.
struct Shared {
    /// This process among those that use the database.
    node: Uuid,
    pool: Pool,
    time: Time,
    leases: Leases,
    bell: Bell,
    arriving: Arriving,
    /// What changes on any node.
    changes: broadcast::Sender<Change>,
    /// What changes on this one.
    own_changes: broadcast::Sender<Change>,
    gates: Vec<Gate>,
    commands: AtomicU64,
    oversold_events: AtomicU64,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

impl Postgres {
    /// Opens the store in a database: `postgres://user:password@host:port/database`, with
    /// `sslmode=` (`disable`, `prefer`, `require`, `verify-full`), `sslrootcert=` and
    /// `connections=` (at most so many, 32 by default). Makes its tables where there are none.
    ///
    /// # Errors
    /// [`OpenError`] when the URL is none, the database cannot be reached, or what is in it is
    /// of a newer version.
    ///
    /// It works for no shard: it decides, reads and writes what it is asked to.
    pub async fn open(url: &str, clock: Clock) -> Result<Self, OpenError> {
        Self::start(url, clock, None, None).await
    }

    /// Opens it as a node, which works for the shards whose leases it holds: those that are free
    /// it has when this returns, up to its fair share. As [`Postgres::open`] otherwise.
    ///
    /// # Errors
    /// As of [`Postgres::open`].
    pub async fn open_node(url: &str, clock: Clock, info: NodeInfo) -> Result<Self, OpenError> {
        Self::start(url, clock, Some(info), None).await
    }

    /// Opens it as a node whose leases go by clocks of one's own, and are renewed only by
    /// [`Postgres::renew_leases`]: for tests. As [`Postgres::open`] otherwise.
    ///
    /// # Errors
    /// As of [`Postgres::open`].
    pub async fn open_node_by_hand(
        url: &str,
        clock: Clock,
        info: NodeInfo,
        clocks: LeaseClocks,
    ) -> Result<Self, OpenError> {
        Self::start(url, clock, Some(info), Some(clocks)).await
    }

    /// Renews the node's leases, takes free ones and frees those that are too many, as it does by
    /// itself every second.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn renew_leases(&self) -> Result<(), StoreError> {
        lease::beat(&self.shared).await.map_err(error::PgError::refusal)
    }

    async fn start(
        url: &str,
        clock: Clock,
        info: Option<NodeInfo>,
        clocks: Option<LeaseClocks>,
    ) -> Result<Self, OpenError> {
        let address = Address::parse(url).map_err(OpenError::Address)?;
        let pool = Pool::new(&address).map_err(OpenError::Address)?;
        let refused = |error: error::PgError| OpenError::Database(error.to_string());
        schema::migrate(&pool).await.map_err(refused)?;
        let arriving = Arriving::default();
        let client = pool.client().await.map_err(refused)?;
        arriving.look(&client).await.map_err(refused)?;
        drop(client);
        let time = Time::new(clock);
        time.note(upkeep::clock(&pool).await.map_err(refused)?);
        let shared = Arc::new(Shared {
            node: Uuid::now_v7(),
            pool,
            time,
            leases: Leases::new(info, clocks),
            bell: Bell::default(),
            arriving,
            changes: broadcast::channel(CHANGES_MAX).0,
            own_changes: broadcast::channel(CHANGES_MAX).0,
            gates: shard::all().iter().map(|_| Gate::default()).collect(),
            commands: AtomicU64::new(0),
            oversold_events: AtomicU64::new(0),
        });
        lease::beat(&shared).await.map_err(refused)?;
        let stop = CancellationToken::new();
        let gate = |shard| tokio::spawn(gate::run(shared.clone(), shard, stop.clone()));
        let gates = shard::all().into_iter().map(gate).collect();
        let mut others = vec![tokio::spawn(upkeep::run(shared.clone(), stop.clone()))];
        if shared.leases.is_renewed_by_itself() {
            others.push(tokio::spawn(lease::run(shared.clone(), stop.clone())));
        }
        if shared.leases.takes_part() {
            let own = shared.own_changes.subscribe();
            others.push(tokio::spawn(feed::tell(shared.clone(), own, stop.clone())));
            others.push(tokio::spawn(feed::listen(shared.clone(), stop.clone())));
        }
        let (gates, others) = (Mutex::new(gates), Mutex::new(others));
        let tasks = Arc::new(Tasks { shared: shared.clone(), gates, others, stop });
        Ok(Self { shared, tasks, is_fenced: false })
    }

    /// Returns the clock that it decides by: whoever compares instants with its own has to look
    /// at the same one.
    #[must_use]
    pub fn clock(&self) -> Now {
        let shared = self.shared.clone();
        Arc::new(move || shared.time.now())
    }

    /// Returns the instant.
    fn now(&self) -> Timestamp {
        self.shared.time.now()
    }

    /// Runs queries on a connection.
    async fn read<T, F>(&self, query: impl Fn(Arc<Client>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = error::Result<T>>,
    {
        self.shared.pool.read(query).await
    }

    /// Runs queries about an org on a connection.
    async fn read_of<T, F>(
        &self,
        org: &Org,
        query: impl Fn(Arc<Client>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = error::Result<T>>,
    {
        self.shared.arriving.refuse(org)?;
        self.read(query).await
    }

    /// Runs queries on a connection, once nothing of the org is due: nobody sees a hold that has
    /// run out.
    async fn read_ledger<T, F>(
        &self,
        org: &Org,
        query: impl Fn(Arc<Client>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = error::Result<T>>,
    {
        self.shared.arriving.refuse(org)?;
        for _ in 0..SWEEPS_MAX {
            let now = self.shared.time.given();
            let both = |client: Arc<Client>| {
                let found = query(client.clone());
                async move { futures::try_join!(reads::is_due(&client, org, now), found) }
            };
            let (is_due, found) = self.shared.pool.read(both).await?;
            if !is_due {
                return Ok(found);
            }
            self.sweep(org).await?;
        }
        self.shared.pool.read(query).await
    }

    /// Has what is due in the org's shard retired.
    async fn sweep(&self, org: &Org) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        self.shared.push(org, Job::Sweep(reply))?;
        done.await.unwrap_or_else(|_| Err(died()))
    }

    /// Writes rows of an org in one transaction; returns after the commit.
    async fn write<T, F>(&self, org: &Org, work: impl Fn(Arc<Tx>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = error::Result<T>>,
    {
        self.shared.arriving.refuse(org)?;
        let work = &work;
        let admitted = |tx: Arc<Tx>| async move {
            let (_, done) = futures::try_join!(arrival::admitted(&tx, org), work(tx.clone()))?;
            Ok(done)
        };
        self.write_in(shard_of(org), admitted).await
    }

    /// Writes rows of a shard in one transaction; returns after the commit.
    async fn write_in<T, F>(&self, shard: i16, work: impl Fn(Arc<Tx>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = error::Result<T>>,
    {
        if !self.is_fenced {
            return Box::pin(self.shared.pool.transact(shard, work)).await;
        }
        let epoch = self.shared.leases.epoch(shard);
        let epoch = epoch.ok_or_else(|| lease::fenced(&self.shared, shard).refusal())?;
        let work = |tx: Arc<Tx>| {
            let done = work(tx.clone());
            async move {
                let held = lease::fence(&self.shared, &tx, shard, epoch);
                futures::try_join!(held, done).map(|((), value)| value)
            }
        };
        Box::pin(self.shared.pool.transact(shard, work)).await
    }

    /// Returns the shards whose things of all orgs it is given.
    fn shards(&self) -> Vec<i16> {
        if self.is_fenced { self.shared.leases.held() } else { shard::all() }
    }

    /// Has a command decided.
    async fn decide(&self, submission: Submission) -> Result<Outcome, StoreError> {
        self.shared.arriving.refuse(&submission.org)?;
        let (reply, answer) = oneshot::channel();
        let org = submission.org.clone();
        let shard = shard_of(&org);
        let epoch = match (self.is_fenced, self.shared.leases.epoch(shard)) {
            (false, _) => None,
            (true, Some(epoch)) => Some(epoch),
            (true, None) => return Err(lease::fenced(&self.shared, shard).refusal()),
        };
        self.shared.push(&org, Job::Submit { submission: Box::new(submission), epoch, reply })?;
        answer.await.unwrap_or_else(|_| Err(died()))
    }

    /// Finishes what waits and stops.
    async fn end(&self) -> Result<(), StoreError> {
        self.shared.gates.iter().for_each(Gate::close);
        let gates = std::mem::take(&mut *self.tasks.gates.lock());
        let mut ended = futures::future::join_all(gates).await;
        self.tasks.stop.cancel();
        let others = std::mem::take(&mut *self.tasks.others.lock());
        ended.extend(futures::future::join_all(others).await);
        if let Err(error) = lease::retire(&self.shared).await {
            // They run out.
            tracing::warn!(%error, "leases could not be handed over");
        }
        self.shared.pool.close();
        match ended.into_iter().find_map(Result::err) {
            Some(error) => Err(StoreError::Failed(error.to_string())),
            None => Ok(()),
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // Without a close, the tasks end here; what was answered is committed already.
        self.shared.gates.iter().for_each(Gate::close);
        self.stop.cancel();
    }
}

fn died() -> StoreError {
    StoreError::Failed("what should have answered is gone".to_owned())
}

impl Shared {
    fn gate(&self, shard: i16) -> Option<&Gate> {
        self.gates.get(usize::try_from(shard).ok()?)
    }

    fn push(&self, org: &Org, job: Job) -> Result<(), StoreError> {
        self.gate(shard_of(org)).ok_or(StoreError::Closed)?.push(job)
    }

    /// Tells everybody here what was committed.
    fn committed(&self, decided: &Decided, is_holder: bool) {
        self.commands.fetch_add(decided.commands, Ordering::Relaxed);
        self.oversold_events.fetch_add(decided.oversold, Ordering::Relaxed);
        decided.changes.iter().cloned().for_each(|change| self.announce(change));
        // Who works for the others finds it on the doorbell.
        let own = decided.dirty.iter().filter(|_| is_holder);
        self.bell.ring(own.cloned());
    }

    /// Tells everybody here of a change, and other nodes in a moment.
    fn announce(&self, change: Change) {
        // Nobody listening is fine.
        drop(self.own_changes.send(change.clone()));
        drop(self.changes.send(change));
    }

    fn figures(&self) -> StoreFigures {
        let (leases_lost, fenced) = self.leases.figures();
        let shards = self.leases.held().len();
        let queued: usize = self.gates.iter().map(Gate::len).sum();
        StoreFigures {
            commands: self.commands.load(Ordering::Relaxed),
            commits: self.pool.commits(),
            queued: u64::try_from(queued).unwrap_or(u64::MAX),
            oversold_events: self.oversold_events.load(Ordering::Relaxed),
            shards: u64::try_from(shards).unwrap_or(u64::MAX),
            leases_lost,
            fenced,
            // Nothing is kept in memory, and nothing is behind.
            ..StoreFigures::default()
        }
    }
}

/// Makes the id of a delivery; they grow.
fn delivery_id() -> String {
    format!("msg_{}", Uuid::now_v7().simple())
}
