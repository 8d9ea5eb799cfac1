//! What is done when nobody asks: retiring what is due, hearing what other nodes published, having
//! tables looked at that have grown, and forgetting what is too old.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use trueup_core::{Org, Sku, Timestamp};

use super::Shared;
use super::error::{Cure, PgError, Result};
use super::lease;
use super::ledger::due::due;
use super::ledger::gate::Job;
use super::pool::{MICROS_NOW, Pool};
use super::records::{PURGED_AT_ONCE_MAX, answers, consents, inbox};
use super::shard;
use super::sql::{self, Conn, Param};
use super::statistics;
use crate::encoding::at_most;
use crate::encoding::columns::ReadColumns;
use crate::port::Health;

/// How often it is looked whether something is due or was published elsewhere.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most SKUs that are taken from the doorbell at once.
const TAKEN_AT_ONCE_MAX: usize = 10_000;
/// How long recorded answers are kept: the contract says at least 24 hours.
const ANSWERS_KEPT_SECONDS: i64 = 26 * 3_600;
/// How long webhooks that are done are remembered, so that late repeats are known.
const INBOX_KEPT_SECONDS: i64 = 7 * 86_400;
/// How long receipts of transactions are kept: far longer than anybody asks for one.
const RECEIPTS_KEPT_SECONDS: i64 = 900;
const PURGE_EVERY_SECONDS: i64 = 120;

/// Returns what the database's clock says, in microseconds.
pub(super) async fn clock(pool: &Pool) -> Result<i64> {
    clock_of(&*pool.client().await?).await
}

/// Looks again and again until it is to stop.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut purged = Timestamp::EPOCH;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = look(&shared, &mut purged) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn look(shared: &Shared, purged: &mut Timestamp) {
    let pool = &shared.pool;
    if pool.health() != Health::Ready {
        // Only a commit shows that the database takes part again; that it does not is known.
        drop(pool.transact(0, |_| async { Ok(()) }).await);
    }
    let arriving = &shared.arriving;
    // Where it cannot be looked, nothing can be written either.
    drop(pool.read(|client| async move { arriving.look(&client).await }).await);
    let (given, held) = (shared.time.given(), &shared.leases.held());
    let due = pool.read(|client| async move { shards_due(&client, held, given).await }).await;
    for shard in due.unwrap_or_default() {
        let (reply, _) = oneshot::channel();
        if let Some(gate) = shared.gate(shard) {
            // A gate that is full has work that retires what is due, too.
            drop(gate.push(Job::Sweep(reply)));
        }
    }
    if let Err(error) = listen(shared).await {
        match error.cure() {
            Cure::NoWrites => drop(pool.fail(error)),
            // One connection that broke says nothing of the next.
            Cure::Again | Cure::Reconnect | Cure::None => {
                tracing::debug!(%error, "listen to the doorbell");
            }
        }
    }
    if let Err(error) = pool.read(|client| async move { statistics::refresh(&client).await }).await
    {
        tracing::warn!(%error, "look at tables that have grown");
    }
    let now = shared.time.now();
    if now.micros_since(*purged) < PURGE_EVERY_SECONDS * 1_000_000 {
        return;
    }
    match pool.read(|client| async move { purge(&client, now).await }).await {
        // There may be more of it.
        Ok(true) => {}
        Ok(false) => *purged = now,
        Err(error) => {
            *purged = now;
            tracing::warn!(%error, "purge what is too old");
        }
    }
}

/// Returns which of these shards have a reservation that is due.
async fn shards_due(conn: &Conn, shards: &[i16], now: Option<Timestamp>) -> Result<Vec<i16>> {
    let sql = format!(
        "SELECT given.shard
         FROM unnest($1::smallint[]) AS given (shard)
         CROSS JOIN LATERAL ({}) due",
        due("given.shard", "1")
    );
    let now = now.map(Timestamp::micros);
    sql::all(conn, &sql, &[&shards, &now], |columns| columns.take()).await
}

/// Takes what was published in the shards that this node works for from the doorbell, and tells
/// those who wait here; told before it is taken, so that nothing is lost in between. What this
/// node has published it has told by itself.
async fn listen(shared: &Shared) -> Result<()> {
    const WAITING: &str = "
        SELECT shard, org, sku, node::text
        FROM doorbell
        WHERE shard = ANY($1)
        ORDER BY shard, org, sku
        LIMIT $2
        FOR UPDATE SKIP LOCKED";
    if shared.leases.held().is_empty() {
        return Ok(());
    }
    let node = shared.node.to_string();
    let tx = shared.pool.open(0).await?;
    tx.begin().await?;
    let taken = async {
        // A node that stood still must not take what is to be told by another by now.
        let held = lease::hold_all(shared, &tx).await?;
        let params: [Param<'_>; 2] = [&held, &at_most(TAKEN_AT_ONCE_MAX)];
        let waiting = sql::all(&tx, WAITING, &params, |columns| {
            let shard: i16 = columns.take()?;
            let (org, sku): (Org, Sku) = (columns.name()?, columns.name()?);
            Ok((shard, org, sku, columns.take::<String>()?))
        })
        .await?;
        take(&tx, &waiting).await?;
        Ok(waiting)
    };
    let taken = match taken.await {
        Ok(taken) => taken,
        Err(error) => return Err(tx.give_up(error).await),
    };
    let of_others = taken.into_iter().filter(|(_, _, _, by)| *by != node);
    shared.bell.ring(of_others.map(|(_, org, sku, _)| (org, sku)));
    tx.commit_unmarked().await
}

/// Takes SKUs that are locked from the doorbell. Each org's by a list: joined with what it is to
/// hold, a table that is empty most of the time is gone through once for every row.
async fn take(conn: &Conn, waiting: &[(i16, Org, Sku, String)]) -> Result<()> {
    const TAKE: &str = "
        DELETE FROM doorbell
        WHERE shard = $1
          AND org = $2
          AND sku = ANY($3)";
    let orgs = waiting.chunk_by(|one, next| (one.0, &one.1) == (next.0, &next.1));
    let taking = orgs.map(|of_org| async move {
        let (shard, org, ..) = &of_org[0];
        let skus: Vec<&str> = of_org.iter().map(|(_, _, sku, _)| sku.as_str()).collect();
        sql::execute(conn, TAKE, &[shard, &org.as_str(), &skus]).await
    });
    try_join_all(taking).await?;
    Ok(())
}

/// Removes a bounded number of what is too old; returns whether there may be more.
async fn purge(conn: &Conn, now: Timestamp) -> Result<bool> {
    const RECEIPTS: &str = "
        DELETE FROM receipt
        WHERE shard = ANY($1)
          AND at < $2";
    let before = |seconds: i64| Timestamp::from_micros(now.micros() - seconds * 1_000_000);
    let mut most = 0;
    for shard in shard::all() {
        most = most.max(consents::purge_before(conn, shard, now).await?);
        let answers = answers::purge_before(conn, shard, before(ANSWERS_KEPT_SECONDS)).await?;
        let inbox = inbox::purge_done_before(conn, shard, before(INBOX_KEPT_SECONDS)).await?;
        most = most.max(answers).max(inbox);
    }
    // By the database's own clock, as they were made.
    let receipts = clock_of(conn).await? - RECEIPTS_KEPT_SECONDS * 1_000_000;
    sql::execute(conn, RECEIPTS, &[&shard::all(), &receipts]).await?;
    Ok(most >= PURGED_AT_ONCE_MAX)
}

async fn clock_of(conn: &Conn) -> Result<i64> {
    let sql = format!("SELECT {MICROS_NOW}");
    let said = sql::first(conn, &sql, &[], |columns| columns.take()).await?;
    said.ok_or_else(|| PgError::Corrupt("the database has no clock".to_owned()))
}
