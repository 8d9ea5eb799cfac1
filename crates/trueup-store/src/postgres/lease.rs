//! Leases: which shards this node works for, how it comes to them and how it loses them.
//!
//! A node renews its leases every [`BEAT`], and takes what is free or has run out, up to its fair
//! share. What it has lost it learns of itself before anybody else can take it: it counts from
//! before it asked, by a clock that goes on while the process or the machine stands still. And what
//! is written under a lease holds the lease's row until the commit, so that nobody takes it in
//! between, and nothing is written once somebody has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use trueup_core::Org;
use uuid::Uuid;

use super::Shared;
use super::clock::Now;
use super::error::{PgError, Result};
use super::pool::{MICROS_NOW, Tx};
use super::shard::{SHARDS, shard_of};
use super::sql::{self, Conn, Param};
use crate::cluster::{Cluster, Holding, Lease, Node, NodeInfo, Ownership, Shard};
use crate::encoding::at_most;
use crate::encoding::columns::ReadColumns;
use crate::port::StoreError;

/// How often leases are renewed.
const BEAT: Duration = Duration::from_secs(1);
/// How long one renewal may take before it is given up.
const BEAT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a lease is good unless it is renewed; a node that was not seen for so long is gone.
pub(super) const LEASE_MICROS: i64 = 6_000_000;
/// How much sooner its holder takes it for lost.
const MARGIN_MICROS: i64 = 1_500_000;
/// How long a node's work for a shard may take to end before the shard is handed over all the same.
const HAND_OVER_MICROS: i64 = 20_000_000;
/// How long a node that is gone is shown.
const GONE_KEPT_MICROS: i64 = 600_000_000;

/// A clock that only goes forward, also while the process or the machine stands still, in
/// microseconds.
pub(super) type Steady = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Clocks that leases go by in place of the database's and the machine's, for tests. They are
/// renewed only when that is asked for; see [`super::Postgres::renew_leases`].
#[derive(Clone)]
pub struct LeaseClocks {
    /// What the database is taken to say.
    pub database: Now,
    /// What the node believes its leases by.
    pub own: Now,
}

impl std::fmt::Debug for LeaseClocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseClocks").finish_non_exhaustive()
    }
}

/// Returns the clock of the machine since it was started.
fn since_boot() -> Steady {
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    Arc::new(|| {
        let said = rustix::time::clock_gettime(CLOCK);
        said.tv_sec.saturating_mul(1_000_000).saturating_add(said.tv_nsec / 1_000)
    })
}

/// What a node holds, as far as it knows.
pub(super) struct Leases {
    /// How it introduces itself; `None` = it takes no part.
    info: Option<NodeInfo>,
    /// What is taken for the database's clock, where that does not say it itself.
    database: Option<Now>,
    steady: Steady,
    slots: Vec<Slot>,
    /// Shards that are to be handed over, and since when.
    leaving: Mutex<BTreeMap<i16, i64>>,
    told: watch::Sender<Ownership>,
    /// How many nodes there are.
    alive: AtomicUsize,
    /// Whether it takes none any more.
    is_retired: AtomicBool,
    /// One who changes them at a time.
    turn: tokio::sync::Mutex<()>,
    lost: AtomicU64,
    fenced: AtomicU64,
}

/// A shard's lease.
#[derive(Default)]
struct Slot {
    epoch: AtomicI64,
    /// Until when it is believed in, by the steady clock; 0 = not held.
    until: AtomicI64,
}

/// What a renewal has found in the database.
struct Found {
    /// What is held now, with epochs.
    held: BTreeMap<i16, i64>,
    /// How many shards are this node's part.
    share: usize,
}

impl Leases {
    pub(super) fn new(info: Option<NodeInfo>, clocks: Option<LeaseClocks>) -> Self {
        let (database, steady) = match clocks {
            Some(LeaseClocks { database, own }) => {
                let steady: Steady = Arc::new(move || own().micros());
                (Some(database), steady)
            }
            None => (None, since_boot()),
        };
        Self {
            info,
            database,
            steady,
            slots: (0..SHARDS).map(|_| Slot::default()).collect(),
            leaving: Mutex::default(),
            alive: AtomicUsize::new(1),
            is_retired: AtomicBool::new(false),
            told: watch::channel(Ownership::default()).0,
            turn: tokio::sync::Mutex::default(),
            lost: AtomicU64::new(0),
            fenced: AtomicU64::new(0),
        }
    }

    /// Returns whether this node takes part.
    pub(super) fn takes_part(&self) -> bool {
        self.info.is_some()
    }

    /// Returns whether it is renewed every now and then.
    pub(super) fn is_renewed_by_itself(&self) -> bool {
        self.takes_part() && self.database.is_none()
    }

    /// Returns whether there is no other node, as far as is known.
    pub(super) fn is_alone(&self) -> bool {
        self.alive.load(Ordering::Relaxed) <= 1
    }

    /// Returns whether a shard is surely held at this instant.
    pub(super) fn holds(&self, shard: i16) -> bool {
        self.slot(shard).is_some_and(|slot| (self.steady)() < slot.until.load(Ordering::Acquire))
    }

    /// Returns the epoch under which a shard is held at this instant.
    pub(super) fn epoch(&self, shard: i16) -> Option<i64> {
        let slot = self.slot(shard).filter(|_| self.holds(shard))?;
        Some(slot.epoch.load(Ordering::Acquire))
    }

    /// Returns the shards that are held at this instant.
    pub(super) fn held(&self) -> Vec<i16> {
        (0..SHARDS).filter(|shard| self.holds(*shard)).collect()
    }

    /// Returns the shards that are held at this instant with their epochs.
    fn known(&self) -> BTreeMap<i16, i64> {
        (0..SHARDS).filter_map(|shard| Some((shard, self.epoch(shard)?))).collect()
    }

    /// Returns what tells of changes.
    pub(super) fn watch(&self) -> watch::Receiver<Ownership> {
        self.told.subscribe()
    }

    /// Returns how many leases were lost, and how many writes were refused for that.
    pub(super) fn figures(&self) -> (u64, u64) {
        (self.lost.load(Ordering::Relaxed), self.fenced.load(Ordering::Relaxed))
    }

    fn slot(&self, shard: i16) -> Option<&Slot> {
        self.slots.get(usize::try_from(shard).ok()?)
    }

    /// Takes note of what a renewal that was sent at an instant has found.
    fn take_in(&self, found: &Found, sent_at: i64) {
        for (shard, slot) in (0..SHARDS).zip(&self.slots) {
            let before = slot.epoch.load(Ordering::Acquire);
            match found.held.get(&shard) {
                Some(epoch) => {
                    if before != *epoch {
                        // It is not held while its epoch changes.
                        slot.until.store(0, Ordering::Release);
                        slot.epoch.store(*epoch, Ordering::Release);
                    }
                    slot.until.store(sent_at + LEASE_MICROS - MARGIN_MICROS, Ordering::Release);
                    if before != 0 && before != *epoch {
                        self.note_lost(shard);
                    }
                }
                None if before != 0 => self.let_go(shard, slot),
                None => {}
            }
        }
        self.choose_leaving(found);
        self.tell();
    }

    /// Drops the leases that can no longer be believed in.
    fn expire(&self) {
        for (shard, slot) in (0..SHARDS).zip(&self.slots) {
            if slot.epoch.load(Ordering::Acquire) != 0 && !self.holds(shard) {
                self.let_go(shard, slot);
            }
        }
        self.tell();
    }

    fn let_go(&self, shard: i16, slot: &Slot) {
        slot.until.store(0, Ordering::Release);
        slot.epoch.store(0, Ordering::Release);
        self.note_lost(shard);
    }

    fn note_lost(&self, shard: i16) {
        self.leaving.lock().remove(&shard);
        self.lost.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(shard, "the lease of a shard is lost");
    }

    /// Says of the shards beyond the fair share that they are to be handed over.
    fn choose_leaving(&self, found: &Found) {
        let beyond = found.held.len().saturating_sub(found.share);
        let mut leaving = self.leaving.lock();
        let now = (self.steady)();
        let staying: Vec<i16> =
            found.held.keys().copied().filter(|shard| !leaving.contains_key(shard)).collect();
        let more = beyond.saturating_sub(leaving.len());
        leaving.extend(staying.into_iter().rev().take(more).map(|shard| (shard, now)));
    }

    /// Tells those who watch what is held, where that has changed.
    fn tell(&self) {
        let leaving = self.leaving.lock();
        let holding = |shard: i16| {
            let epoch = self.epoch(shard)?;
            Some((Shard(shard), Holding { epoch, is_leaving: leaving.contains_key(&shard) }))
        };
        let now = Ownership { shards: (0..SHARDS).filter_map(holding).collect() };
        self.told.send_if_modified(|told| {
            let is_new = *told != now;
            *told = now;
            is_new
        });
    }

    /// Returns the shards that are to be freed now, because nobody works for them here or the
    /// work has not ended in time.
    fn overdue(&self) -> Vec<i16> {
        let now = (self.steady)();
        let nobody = self.told.receiver_count() == 0;
        let leaving = self.leaving.lock();
        let overdue = leaving.iter().filter(|(_, since)| nobody || now - *since > HAND_OVER_MICROS);
        overdue.map(|(shard, _)| *shard).collect()
    }
}

/// Renews leases and takes free ones again and again until it is to stop.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut next = Instant::now() + BEAT;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = stop.cancelled() => return,
        }
        next = Instant::now() + BEAT;
        let beaten = tokio::select! {
            beaten = timeout(BEAT_TIME_MAX, beat(&shared)) => beaten,
            () = stop.cancelled() => return,
        };
        match beaten {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "leases could not be renewed"),
            Err(_) => tracing::warn!("leases could not be renewed in time"),
        }
    }
}

/// Renews what is held, takes what is free up to the fair share, and hands over what is beyond.
pub(super) async fn beat(shared: &Shared) -> Result<()> {
    let leases = &shared.leases;
    let Some(info) = &leases.info else { return Ok(()) };
    let turn = leases.turn.lock().await;
    if leases.is_retired.load(Ordering::Acquire) {
        return Ok(());
    }
    // What was lost meanwhile is not renewed; it may be taken anew.
    leases.expire();
    let sent_at = (leases.steady)();
    let tx = shared.pool.open_lease().await?;
    tx.begin_at_once().await?;
    let found = match find(shared, &tx, info).await {
        Ok(found) => found,
        Err(error) => return Err(tx.give_up(error).await),
    };
    tx.commit_unmarked().await?;
    leases.take_in(&found, sent_at);
    // Where this took too long, what it has found is of no use.
    leases.expire();
    let overdue = leases.overdue();
    drop(turn);
    if overdue.is_empty() { Ok(()) } else { free(shared, &overdue).await }
}

async fn find(shared: &Shared, tx: &Tx, info: &NodeInfo) -> Result<Found> {
    let node = shared.node.to_string();
    let now = shared.leases.database.as_ref().map(|now| now().micros());
    let alive = note_node(tx, &node, info, now).await?;
    let mut held = renew(tx, &node, &shared.leases.known(), now).await?;
    shared.leases.alive.store(alive, Ordering::Relaxed);
    let share = (usize::from(SHARDS.unsigned_abs())).div_ceil(alive.max(1));
    if held.len() < share {
        held.extend(take(tx, &node, share - held.len(), &held, now).await?);
    }
    Ok(Found { held, share })
}

/// Notes that a node is there; returns how many are.
async fn note_node(tx: &Conn, node: &str, info: &NodeInfo, now: Option<i64>) -> Result<usize> {
    let note = format!(
        "INSERT INTO node (shard, id, name, url, version, started_at, seen_at)
         SELECT 0, $1::text::uuid, $2, $3, $4, now.at, now.at
         FROM (SELECT coalesce($5::bigint, {MICROS_NOW}) AS at) now
         ON CONFLICT (shard, id) DO UPDATE
         SET seen_at = greatest(node.seen_at, excluded.seen_at)"
    );
    let gone = format!(
        "DELETE FROM node
         WHERE shard = 0
           AND seen_at < coalesce($1::bigint, {MICROS_NOW}) - {GONE_KEPT_MICROS}"
    );
    let alive = format!(
        "SELECT count(*)
         FROM node
         WHERE shard = 0
           AND seen_at > coalesce($1::bigint, {MICROS_NOW}) - {LEASE_MICROS}"
    );
    let params: [Param<'_>; 5] = [&node, &info.name, &info.url, &info.version, &now];
    sql::execute(tx, &note, &params).await?;
    sql::execute(tx, &gone, &[&now]).await?;
    let count = sql::count(tx, &alive, &[&now]).await?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Renews the leases that are known to be held and have not run out; returns them.
async fn renew(
    tx: &Conn,
    node: &str,
    known: &BTreeMap<i16, i64>,
    now: Option<i64>,
) -> Result<BTreeMap<i16, i64>> {
    let sql = format!(
        "UPDATE lease l
         SET until = coalesce($4::bigint, {MICROS_NOW}) + {LEASE_MICROS}
         FROM unnest($1::smallint[], $2::bigint[]) AS known (shard, epoch)
         WHERE l.shard = known.shard
           AND l.epoch = known.epoch
           AND l.node = $3::text::uuid
           AND l.until > coalesce($4::bigint, {MICROS_NOW})
         RETURNING l.shard, l.epoch"
    );
    let shards: Vec<i16> = known.keys().copied().collect();
    let epochs: Vec<i64> = known.values().copied().collect();
    let params: [Param<'_>; 4] = [&shards, &epochs, &node, &now];
    let renewed = sql::all(tx, &sql, &params, |row| Ok((row.take()?, row.take()?))).await?;
    Ok(renewed.into_iter().collect())
}

/// Takes up to so many leases that nobody holds; returns them. One that somebody is writing
/// under waits for the next time.
async fn take(
    tx: &Conn,
    node: &str,
    count: usize,
    but: &BTreeMap<i16, i64>,
    now: Option<i64>,
) -> Result<Vec<(i16, i64)>> {
    // Writes under a lease hold its row by FOR KEY SHARE.
    let sql = format!(
        "UPDATE lease l
         SET node = $1::text::uuid,
           epoch = l.epoch + 1,
           until = coalesce($2::bigint, {MICROS_NOW}) + {LEASE_MICROS}
         FROM (
           SELECT shard
           FROM lease
           WHERE (node IS NULL OR node = $1::text::uuid
               OR until <= coalesce($2::bigint, {MICROS_NOW}))
             AND shard <> ALL($4)
           ORDER BY shard
           LIMIT $3
           FOR UPDATE SKIP LOCKED
         ) free
         WHERE l.shard = free.shard
         RETURNING l.shard, l.epoch"
    );
    let but: Vec<i16> = but.keys().copied().collect();
    let params: [Param<'_>; 4] = [&node, &now, &at_most(count), &but];
    sql::all(tx, &sql, &params, |row| Ok((row.take()?, row.take()?))).await
}

/// Frees leases, so that others take them at once. They are no longer held here, whatever comes
/// of it.
pub(super) async fn free(shared: &Shared, shards: &[i16]) -> Result<()> {
    const LOCK: &str = "
        SELECT shard
        FROM lease
        WHERE shard = ANY($1)
          AND node = $2::text::uuid
        ORDER BY shard
        FOR UPDATE";
    const FREE: &str = "
        UPDATE lease
        SET node = NULL
        WHERE shard = ANY($1)";
    let leases = &shared.leases;
    let _turn = leases.turn.lock().await;
    for shard in shards {
        if let Some(slot) = leases.slot(*shard) {
            slot.until.store(0, Ordering::Release);
            slot.epoch.store(0, Ordering::Release);
        }
        leases.leaving.lock().remove(shard);
    }
    leases.tell();
    let node = shared.node.to_string();
    let tx = shared.pool.open_lease().await?;
    tx.begin_at_once().await?;
    let freed = async {
        let own: Vec<i16> =
            sql::all(&tx, LOCK, &[&shards, &node], |columns| columns.take()).await?;
        sql::execute(&tx, FREE, &[&own]).await
    };
    match freed.await {
        Ok(_) => tx.commit_unmarked().await,
        Err(error) => Err(tx.give_up(error).await),
    }
}

/// Frees everything, takes nothing any more and leaves the cluster.
pub(super) async fn retire(shared: &Shared) -> Result<()> {
    const LEAVE: &str = "
        DELETE FROM node
        WHERE shard = 0
          AND id = $1::text::uuid";
    if !shared.leases.takes_part() {
        return Ok(());
    }
    let all: Vec<i16> = (0..SHARDS).collect();
    if !shared.leases.is_retired.swap(true, Ordering::AcqRel) {
        free(shared, &all).await?;
    }
    let client = shared.pool.client().await?;
    sql::execute(&client, LEAVE, &[&shared.node.to_string()]).await?;
    Ok(())
}

/// Holds the lease of a shard until the transaction ends.
///
/// # Errors
/// [`StoreError::Fenced`] where it is not this node's under this epoch.
pub(super) async fn fence(shared: &Shared, tx: &Conn, shard: i16, epoch: i64) -> Result<()> {
    if is_held(shared, tx, shard, epoch).await? { Ok(()) } else { Err(fenced(shared, shard)) }
}

/// Holds the lease of a shard until the transaction ends, where it is this node's; returns whether
/// it is. Nobody else works for the shard before the transaction has ended.
pub(super) async fn hold(shared: &Shared, tx: &Conn, shard: i16) -> Result<bool> {
    match shared.leases.epoch(shard) {
        Some(epoch) => is_held(shared, tx, shard, epoch).await,
        None => Ok(false),
    }
}

async fn is_held(shared: &Shared, tx: &Conn, shard: i16, epoch: i64) -> Result<bool> {
    const SQL: &str = "
        SELECT epoch
        FROM lease
        WHERE shard = $1
          AND node = $2::text::uuid
        FOR KEY SHARE";
    let node = shared.node.to_string();
    let found = sql::first(tx, SQL, &[&shard, &node], |columns| columns.take::<i64>()).await?;
    Ok(found == Some(epoch))
}

/// Holds all leases that are this node's until the transaction ends; returns their shards. One
/// that is just being taken or freed is left out.
pub(super) async fn hold_all(shared: &Shared, tx: &Conn) -> Result<Vec<i16>> {
    const SQL: &str = "
        SELECT l.shard
        FROM lease l
        JOIN unnest($1::smallint[], $2::bigint[]) AS known (shard, epoch) USING (shard, epoch)
        WHERE l.node = $3::text::uuid
        ORDER BY l.shard
        FOR KEY SHARE OF l SKIP LOCKED";
    let known = shared.leases.known();
    let shards: Vec<i16> = known.keys().copied().collect();
    let epochs: Vec<i64> = known.values().copied().collect();
    let node = shared.node.to_string();
    sql::all(tx, SQL, &[&shards, &epochs, &node], |columns| columns.take()).await
}

/// Returns the refusal of a write under a lease that is lost.
pub(super) fn fenced(shared: &Shared, shard: i16) -> PgError {
    shared.leases.fenced.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(shard, "a write was refused: the shard is another node's");
    PgError::Refused(StoreError::Fenced)
}

/// Returns all nodes and leases.
pub(super) async fn cluster(shared: &Shared, conn: &Conn) -> Result<Cluster> {
    const NODES: &str = "
        SELECT id::text, name, url, version, started_at, seen_at
        FROM node
        WHERE shard = 0
        ORDER BY started_at, id";
    const LEASES: &str = "
        SELECT shard, node::text, epoch, until
        FROM lease
        ORDER BY shard";
    let nodes = sql::all(conn, NODES, &[], |columns| {
        Ok(Node {
            id: id(columns.take()?)?,
            info: NodeInfo {
                name: columns.take()?,
                url: columns.take()?,
                version: columns.take()?,
            },
            started_at: columns.instant()?,
            seen_at: columns.instant()?,
        })
    });
    let leases = sql::all(conn, LEASES, &[], |columns| {
        Ok(Lease {
            shard: Shard(columns.take()?),
            node: columns.take::<Option<&str>>()?.map(id).transpose()?,
            epoch: columns.take()?,
            until: Some(columns.instant()?),
        })
    });
    let now = shared.leases.database.as_ref().map(|now| now().micros());
    let at = format!("SELECT coalesce($1::bigint, {MICROS_NOW})");
    let asked: [Param<'_>; 1] = [&now];
    let at = sql::first(conn, &at, &asked, |columns| columns.instant());
    let (nodes, leases, at) = futures::try_join!(nodes, leases, at)?;
    let at = at.ok_or_else(|| PgError::Corrupt("the database knows no time".to_owned()))?;
    let node = shared.leases.takes_part().then_some(shared.node);
    Ok(Cluster { node, store: "postgres", at, nodes, leases })
}

fn id(text: &str) -> Result<Uuid> {
    text.parse().map_err(|_| PgError::Corrupt(format!("{text:?} is not an id")))
}

impl Shared {
    /// Returns whether this node surely holds the shard of an org at this instant.
    pub(super) fn holds(&self, org: &Org) -> bool {
        self.leases.holds(shard_of(org))
    }
}
