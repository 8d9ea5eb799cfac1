//! Connections, and transactions that are done once or not at all.
//!
//! A transaction leaves a receipt with its commit. Where the connection is lost in the moment of the
//! commit, the receipt says afterwards whether it went through: who asks puts the same receipt down
//! first, so that the answer stays true. Everything that went wrong before is tried again here, a
//! bounded number of times, and nowhere else.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use parking_lot::RwLock;
use rand::Rng;
use tokio::time::{Instant, timeout};
use tokio_postgres::Config;
use uuid::Uuid;

use super::address::Address;
use super::error::{Cure, PgError, Result};
use super::hosts::{HostConnection, Hosts};
use super::sql::{self, Conn, Param};
use crate::port::{Health, StoreError};

/// How long a connection may take to become free, or to be fit for another use.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one statement may take in the database, and one may wait for a lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transaction may stand idle before the database ends it: the rows that a node holds
/// which stands still are free for the others after that.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long all of a transaction, or of a read, may take before its connection is given up.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);
/// From when on a connection that does not answer is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What the connections of gates are told besides. Everything there is looked up by keys: plans
/// are made once for each statement and connection (plans for the values at hand take longer to be
/// made than they save), and none of them reads a whole table, however small it was then. And a
/// commit that waits for a replica is not cut off, for it would be true on the primary only; what
/// runs before it has an end of its own.
const OF_GATES: &str = "-c statement_timeout=0 -c plan_cache_mode=force_generic_plan \
    -c enable_hashjoin=off -c enable_mergejoin=off";

/// How often a transaction is tried where others are in its way, and where connections break.
const TRIES_AGAIN_MAX: u32 = 20;
const TRIES_RECONNECT_MAX: u32 = 6;
/// How often a read is tried.
const TRIES_READ_MAX: u32 = 3;
/// The longest wait between two tries, in milliseconds; the first is the shortest.
const WAIT_MS_FIRST: u64 = 2;
const WAIT_MS_MAX: u64 = 500;
/// How long it is tried to find out what became of a commit.
const RESOLVE_FOR: Duration = Duration::from_secs(30);

/// A connection out of the pool.
pub(super) type Client = Object;

/// The connections of a node, and how they are.
///
/// Decisions have half of them for themselves: however much is read, they go on.
pub(super) struct Pool {
    of_gates: deadpool_postgres::Pool,
    of_others: deadpool_postgres::Pool,
    /// For leases, which are renewed whatever else goes on.
    of_leases: deadpool_postgres::Pool,
    hosts: Hosts,
    health: RwLock<Health>,
    commits: AtomicU64,
}

impl Pool {
    /// Makes a pool; connects to nothing yet.
    ///
    /// # Errors
    /// When the address names certificates that cannot be read.
    pub(super) fn new(address: &Address) -> std::result::Result<Self, String> {
        let options = |of: &str| {
            let mut config = address.config();
            let all = format!(
                "{} -c lock_timeout={} -c idle_in_transaction_session_timeout={} \
                 -c enable_seqscan=off -c jit=off {of}",
                config.get_options().unwrap_or_default(),
                LOCK_TIMEOUT.as_millis(),
                IDLE_IN_TRANSACTION_TIMEOUT.as_millis(),
            );
            config
                .options(all.trim())
                .application_name("trueup")
                .tcp_user_timeout(SILENCE_MAX)
                .keepalives_idle(SILENCE_MAX)
                .keepalives_interval(SILENCE_MAX / 3)
                .keepalives_retries(3);
            config
        };
        let config = options(&format!("-c statement_timeout={}", STATEMENT_TIMEOUT.as_millis()));
        let of_gates = options(OF_GATES);
        let half = address.connections_max().div_ceil(2);
        let hosts = Hosts::new(&config, address.tls()?);
        let to_gates = hosts.clone().with(&of_gates);
        Ok(Self {
            of_gates: of_size(half, of_gates, to_gates)?,
            of_others: of_size(half, config.clone(), hosts.clone())?,
            of_leases: of_size(1, config, hosts.clone())?,
            hosts,
            health: RwLock::new(Health::Ready),
            commits: AtomicU64::new(0),
        })
    }

    /// Returns how the database is, as far as is known.
    pub(super) fn health(&self) -> Health {
        self.health.read().clone()
    }

    /// Closes all connections that are idle, and each other one when it is given back.
    pub(super) fn close(&self) {
        self.of_gates.close();
        self.of_others.close();
        self.of_leases.close();
    }

    /// Takes a connection.
    pub(super) async fn client(&self) -> Result<Client> {
        Ok(self.of_others.get().await?)
    }

    /// Connects outside the pool, for who listens all the time.
    pub(super) async fn listener(&self) -> Result<(tokio_postgres::Client, HostConnection)> {
        match timeout(self.hosts.patience(), self.hosts.reach()).await {
            Ok(reached) => Ok(reached?),
            Err(_) => Err(PgError::Pool("no host answers".to_owned())),
        }
    }

    /// Runs queries on a connection; on another one where it breaks.
    pub(super) async fn read<T, F>(
        &self,
        query: impl Fn(Arc<Client>) -> F,
    ) -> std::result::Result<T, StoreError>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = 0;
        loop {
            let attempt = async { query(Arc::new(self.client().await?)).await };
            let error = match self.within(attempt).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            tries += 1;
            let is_over = tries >= TRIES_READ_MAX;
            match error.cure() {
                Cure::Again | Cure::Reconnect if !is_over => wait(tries).await,
                Cure::Reconnect => return Err(self.fail(error)),
                Cure::NoWrites => return Err(StoreError::Failed(error.to_string())),
                Cure::Again | Cure::None => return Err(error.refusal()),
            }
        }
    }

    /// Runs queries that all see the database as it is at one instant, however long they take.
    pub(super) async fn snapshot<T, F>(
        &self,
        query: impl Fn(Arc<Tx>) -> F,
    ) -> std::result::Result<T, StoreError>
    where
        F: Future<Output = Result<T>>,
    {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
            SET LOCAL statement_timeout = 0";
        let attempt = async {
            let tx = Arc::new(self.open(0).await?);
            tx.batch_execute(BEGIN).await?;
            let found = query(tx.clone()).await;
            if let Some(tx) = Arc::into_inner(tx) {
                tx.roll_back().await;
            }
            found
        };
        attempt.await.map_err(|error: PgError| match error.cure() {
            Cure::Reconnect => self.fail(error),
            Cure::Again | Cure::NoWrites | Cure::None => StoreError::Failed(error.to_string()),
        })
    }

    /// Runs statements in a transaction of a shard and commits it; returns after that. Runs them
    /// again, on what is there then, where others were in the way or a connection broke.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] where the commit's outcome could not be found out; otherwise it
    /// has not happened.
    pub(super) async fn transact<T, F>(
        &self,
        shard: i16,
        work: impl Fn(Arc<Tx>) -> F,
    ) -> std::result::Result<T, StoreError>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = Tries::default();
        loop {
            let attempt = async {
                let tx = Arc::new(self.open(shard).await?);
                tx.begin().await?;
                let done = work(tx.clone()).await;
                let tx = Arc::into_inner(tx).ok_or(PgError::Again)?;
                Ok((tx, done))
            };
            let ended = match self.within(attempt).await {
                Ok((tx, Ok(value))) => self.commit(tx).await.map(|()| value),
                Ok((tx, Err(error))) => Err(tx.give_up(error).await),
                Err(error) => Err(error),
            };
            match ended {
                Ok(value) => return Ok(value),
                Err(error) => self.again(error, &mut tries).await?,
            }
        }
    }

    /// Waits for what is not the commit, and gives it up where the database does not answer.
    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match timeout(ATTEMPT_TIMEOUT, work).await {
            Ok(ended) => ended,
            Err(_) => Err(PgError::Pool("it does not answer".to_owned())),
        }
    }

    /// Waits before the next try after an error, or returns the refusal where there is to be none.
    pub(super) async fn again(
        &self,
        error: PgError,
        tries: &mut Tries,
    ) -> std::result::Result<(), StoreError> {
        match error.cure() {
            Cure::Again if tries.again < TRIES_AGAIN_MAX => {
                tries.again += 1;
                tracing::debug!(%error, "a transaction is run again");
                wait(tries.again).await;
                Ok(())
            }
            Cure::Reconnect if tries.reconnect < TRIES_RECONNECT_MAX => {
                tries.reconnect += 1;
                tracing::debug!(%error, "a transaction is run again on another connection");
                wait(tries.reconnect * 2).await;
                Ok(())
            }
            Cure::Reconnect | Cure::NoWrites => Err(self.fail(error)),
            Cure::Again | Cure::None => Err(error.refusal()),
        }
    }

    /// Takes a connection for a transaction of a shard.
    pub(super) async fn open(&self, shard: i16) -> Result<Tx> {
        Ok(Tx { client: Some(self.client().await?), shard, receipt: Uuid::now_v7() })
    }

    /// Takes a connection for decisions of a shard.
    pub(super) async fn open_at_gate(&self, shard: i16) -> Result<Tx> {
        Ok(Tx { client: Some(self.of_gates.get().await?), shard, receipt: Uuid::now_v7() })
    }

    /// Takes the connection for leases.
    pub(super) async fn open_lease(&self) -> Result<Tx> {
        Ok(Tx { client: Some(self.of_leases.get().await?), shard: 0, receipt: Uuid::now_v7() })
    }

    /// Commits with a mark.
    ///
    /// # Errors
    /// Unless it says that the outcome is unknown, nothing was committed and nothing will be.
    pub(super) async fn commit(&self, tx: Tx) -> Result<()> {
        let committed = tx.send_commit().await;
        self.conclude(tx, Ok(()), committed).await
    }

    /// Ends a transaction whose commit was sent after its last statements: `written` is what came
    /// of those, `committed` what came of the commit. Where a statement failed the database has
    /// refused the commit.
    ///
    /// # Errors
    /// As of [`Pool::commit`].
    pub(super) async fn conclude(
        &self,
        mut tx: Tx,
        written: Result<()>,
        committed: Result<()>,
    ) -> Result<()> {
        let error = match (written, committed) {
            (Ok(()), Ok(())) => {
                tx.client = None;
                self.recovered();
                return Ok(());
            }
            (Err(error), Ok(())) => {
                let why = format!("committed without all of it: {error}");
                tracing::error!(why, "a bug in the store");
                return Err(PgError::Corrupt(why));
            }
            (Err(error), Err(_)) | (Ok(()), Err(error)) => error,
        };
        let (shard, receipt) = (tx.shard, tx.receipt);
        // What the database says of a statement or a commit, it knows.
        if matches!(error.cure(), Cure::Again) {
            return Err(tx.give_up(error).await);
        }
        tracing::warn!(%error, "a commit's outcome is to be found out");
        // The connection goes; the database takes back what it had not committed.
        drop(tx);
        match self.resolve(shard, receipt).await {
            Some(true) => {
                self.recovered();
                Ok(())
            }
            Some(false) => Err(error),
            None => {
                let why = "the database cannot be reached since the commit".to_owned();
                *self.health.write() = Health::Failing(why.clone());
                Err(PgError::Refused(StoreError::Unknown(why)))
            }
        }
    }

    /// Returns whether a transaction was committed, once and for all; `None` = the database could
    /// not be asked.
    async fn resolve(&self, shard: i16, receipt: Uuid) -> Option<bool> {
        let until = Instant::now() + RESOLVE_FOR;
        let mut tries = 0;
        while Instant::now() < until {
            match timeout(STATEMENT_TIMEOUT, self.ask_for(shard, receipt)).await {
                Ok(Ok(is_done)) => return Some(is_done),
                Ok(Err(error)) => tracing::debug!(%error, "ask for a commit's outcome"),
                Err(_) => {}
            }
            tries += 1;
            wait(tries * 2).await;
        }
        None
    }

    async fn ask_for(&self, shard: i16, receipt: Uuid) -> Result<bool> {
        // Waits for the transaction where it has not ended; puts the receipt down where it has left
        // none, so that it never will. It writes where there is one, too: a transaction whose wait
        // for a replica was cut off can be seen, and would go with this primary; the commit of
        // this statement waits for a replica that has everything before it.
        let ask = format!(
            "INSERT INTO receipt AS kept (shard, id, at, is_done)
             VALUES ($1, $2::text::uuid, {MICROS_NOW}, FALSE)
             ON CONFLICT (shard, id) DO UPDATE SET at = kept.at
             RETURNING is_done"
        );
        let client = self.client().await?;
        let receipt = receipt.to_string();
        let params: [Param<'_>; 2] = [&shard, &receipt];
        let found = sql::first(&client, &ask, &params, |columns| columns.take()).await?;
        found.ok_or_else(|| PgError::Corrupt("a receipt is gone".to_owned()))
    }

    /// Notes that the database does not take part; returns the refusal.
    pub(super) fn fail(&self, error: PgError) -> StoreError {
        let mut health = self.health.write();
        if *health == Health::Ready {
            tracing::error!(%error, "the database does not take part");
        }
        *health = Health::Failing(error.to_string());
        error.refusal()
    }

    /// Returns how many transactions were committed.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// A commit went through: whatever was wrong with the database is over.
    fn recovered(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        if *self.health.read() != Health::Ready {
            tracing::info!("the database takes part again");
            *self.health.write() = Health::Ready;
        }
    }
}

/// Makes a pool of at most so many connections.
fn of_size(
    max: usize,
    config: Config,
    hosts: Hosts,
) -> std::result::Result<deadpool_postgres::Pool, String> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let timeouts = Timeouts {
        wait: Some(CONNECT_TIMEOUT),
        create: Some(hosts.patience()),
        recycle: Some(CONNECT_TIMEOUT),
    };
    deadpool_postgres::Pool::builder(Manager::from_connect(config, hosts, recycling))
        .max_size(max)
        .timeouts(timeouts)
        // Few that are warm, with their statements prepared, rather than many in turn.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| error.to_string())
}

/// The database's clock in microseconds, in SQL.
pub(super) const MICROS_NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// How often something was tried.
#[derive(Debug, Default)]
pub(super) struct Tries {
    again: u32,
    reconnect: u32,
}

/// Waits a while that grows with each try, and differs.
async fn wait(tries: u32) {
    let most = WAIT_MS_FIRST.saturating_mul(1 << tries.min(16)).min(WAIT_MS_MAX);
    let millis = rand::rng().random_range(0..=most);
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// A transaction of a shard on a connection of its own. Dropped without its end, it is taken
/// back with its connection.
pub(super) struct Tx {
    client: Option<Client>,
    shard: i16,
    receipt: Uuid,
}

impl Tx {
    /// Begins it. May be sent together with what reads or locks; what changes rows waits for it.
    pub(super) async fn begin(&self) -> Result<()> {
        Ok(self.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?)
    }

    /// Sends the commit with the receipt, and waits for what comes of it.
    pub(super) async fn send_commit(&self) -> Result<()> {
        let leave = format!(
            "INSERT INTO receipt (shard, id, at, is_done)
             VALUES ($1, $2::text::uuid, {MICROS_NOW}, TRUE)"
        );
        // A timeout of the database's would not end a commit that waits for a replica with an
        // error: it would say that it is done, and be true on the primary only.
        const END: &str = "SET LOCAL statement_timeout = 0; COMMIT";
        let receipt = self.receipt.to_string();
        let sending = async {
            // Prepared before, so that the commit is sent last.
            self.prepare_cached(&leave).await?;
            let params: [Param<'_>; 2] = [&self.shard, &receipt];
            let left = sql::execute(self, &leave, &params);
            let (left, ended) = futures::join!(left, self.batch_execute(END));
            // Where something failed before, the receipt fails, and what ends is taken back.
            left?;
            Ok(ended?)
        };
        match timeout(STATEMENT_TIMEOUT, sending).await {
            Ok(ended) => ended,
            Err(_) => Err(PgError::Pool("it does not answer".to_owned())),
        }
    }

    /// Begins a transaction that waits for no lock for long.
    pub(super) async fn begin_at_once(&self) -> Result<()> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 1000";
        Ok(self.batch_execute(BEGIN).await?)
    }

    /// Commits what is no harm done twice, without a mark.
    pub(super) async fn commit_unmarked(mut self) -> Result<()> {
        self.batch_execute("COMMIT").await?;
        self.client = None;
        Ok(())
    }

    /// Takes everything back after an error, which it returns.
    pub(super) async fn give_up(self, error: PgError) -> PgError {
        match error.cure() {
            Cure::Reconnect => drop(self),
            Cure::Again | Cure::NoWrites | Cure::None => self.roll_back().await,
        }
        error
    }

    /// Takes everything back.
    pub(super) async fn roll_back(mut self) {
        let ended = timeout(CONNECT_TIMEOUT, self.batch_execute("ROLLBACK")).await;
        if matches!(ended, Ok(Ok(()))) {
            self.client = None;
        }
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        // It is taken only by what takes all of the transaction.
        self.client.as_ref().expect("a transaction has its connection until it has ended")
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Not back into the pool: nobody knows what it is in the middle of.
            drop(Object::take(client));
        }
    }
}
