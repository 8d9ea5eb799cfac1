//! Answers recorded under idempotency keys, to be given again.

use std::collections::HashMap;

use trueup_core::{Org, Timestamp};

use super::PURGED_AT_ONCE_MAX;
use crate::RecordedAnswer;
use crate::encoding::columns::ReadColumns;
use crate::encoding::{at_most, json};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Columns, Conn, Param, Plain, all, counted, execute, first};

/// An answer with the fingerprint of its request.
pub(in crate::postgres) type Recorded = ([u8; 32], RecordedAnswer);

/// An answer as it is recorded.
#[derive(Debug, Clone, Copy)]
pub(in crate::postgres) struct NewAnswer<'a> {
    /// The tenant.
    pub(in crate::postgres) org: &'a Org,
    /// The idempotency key.
    pub(in crate::postgres) key: &'a str,
    /// The fingerprint of the request.
    pub(in crate::postgres) fingerprint: &'a [u8; 32],
    /// The answer.
    pub(in crate::postgres) answer: &'a RecordedAnswer,
    /// When.
    pub(in crate::postgres) at: Timestamp,
}

/// Returns the answer recorded under a key of an org.
pub(in crate::postgres) async fn get(
    conn: &Conn,
    org: &Org,
    key: &str,
) -> Result<Option<Recorded>> {
    const SQL: &str = "
        SELECT fingerprint, status, headers, body
        FROM recorded_answer
        WHERE shard = $1
          AND org = $2
          AND idempotency_key = $3";
    first(conn, SQL, &[&shard_of(org), &org.as_str(), &Plain(key)], read).await
}

/// Returns the answers recorded under keys of orgs of a shard, as far as there are; orgs and keys go
/// in pairs.
pub(in crate::postgres) async fn load(
    conn: &Conn,
    shard: i16,
    orgs: &[&str],
    keys: &[&str],
) -> Result<HashMap<(Org, String), Recorded>> {
    const SQL: &str = "
        WITH given AS MATERIALIZED (
          SELECT $1::smallint AS shard, asked.*
          FROM unnest($2::text[], $3::text[]) AS asked (org, idempotency_key)
        )
        SELECT a.org, a.idempotency_key, a.fingerprint, a.status, a.headers, a.body
        FROM given
        JOIN recorded_answer a USING (shard, org, idempotency_key)";
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<Plain<&str>> = keys.iter().copied().map(Plain).collect();
    let rows = all(conn, SQL, &[&shard, &orgs, &keys], |columns| {
        Ok(((columns.name()?, columns.take()?), read(columns)?))
    })
    .await?;
    Ok(rows.into_iter().collect())
}

fn read(columns: &mut Columns<'_>) -> Result<Recorded> {
    let fingerprint = columns.digest()?;
    let answer = RecordedAnswer {
        status: columns.take::<i16>()?.unsigned_abs(),
        headers: columns.json()?,
        body: columns.take()?,
    };
    Ok((fingerprint, answer))
}

/// The statement of [`write`].
pub(in crate::postgres) const WRITE: &str = "
    INSERT INTO recorded_answer (
      shard, org, idempotency_key, fingerprint, status, headers, body, at
    )
    SELECT $1, given.*
    FROM unnest(
      $2::text[], $3::text[], $4::bytea[], $5::smallint[], $6::text[], $7::bytea[],
      $8::bigint[]
    ) AS given (org, idempotency_key, fingerprint, status, headers, body, at)
    ORDER BY given.org, given.idempotency_key";

/// Records answers of orgs of a shard.
///
/// Where another one has recorded under one of the keys meanwhile, the key is broken and all is to
/// be decided anew: then it is the other one's answer that is given.
pub(in crate::postgres) async fn write(
    conn: &Conn,
    shard: i16,
    answers: &[NewAnswer<'_>],
) -> Result<()> {
    if answers.is_empty() {
        return Ok(());
    }
    insert(conn, WRITE, shard, answers).await.map(|_| ())
}

/// Records an answer unless its key has one, which stays; returns whether it did.
pub(in crate::postgres) async fn put(conn: &Conn, answer: NewAnswer<'_>) -> Result<bool> {
    const SQL: &str = "
        INSERT INTO recorded_answer (
          shard, org, idempotency_key, fingerprint, status, headers, body, at
        )
        SELECT $1, given.*
        FROM unnest(
          $2::text[], $3::text[], $4::bytea[], $5::smallint[], $6::text[], $7::bytea[],
          $8::bigint[]
        ) AS given (org, idempotency_key, fingerprint, status, headers, body, at)
        ON CONFLICT (shard, org, idempotency_key) DO NOTHING";
    Ok(insert(conn, SQL, shard_of(answer.org), &[answer]).await? > 0)
}

async fn insert(conn: &Conn, sql: &str, shard: i16, answers: &[NewAnswer<'_>]) -> Result<u64> {
    let status = |new: &NewAnswer<'_>| new.answer.status.cast_signed();
    let headers = answers.iter().map(|new| Ok(json(&new.answer.headers)?));
    let params: [Param<'_>; 8] = [
        &shard,
        &answers.iter().map(|new| new.org.as_str()).collect::<Vec<_>>(),
        &answers.iter().map(|new| Plain(new.key)).collect::<Vec<_>>(),
        &answers.iter().map(|new| new.fingerprint.as_slice()).collect::<Vec<_>>(),
        &answers.iter().map(status).collect::<Vec<_>>(),
        &headers.collect::<Result<Vec<String>>>()?,
        &answers.iter().map(|new| new.answer.body.as_slice()).collect::<Vec<_>>(),
        &answers.iter().map(|new| new.at.micros()).collect::<Vec<_>>(),
    ];
    execute(conn, sql, &params).await
}

/// Removes answers of every org of a shard that were recorded before an instant, at most
/// [`PURGED_AT_ONCE_MAX`], oldest first; returns how many.
///
/// What another one is removing is passed over.
pub(in crate::postgres) async fn purge_before(
    conn: &Conn,
    shard: i16,
    at: Timestamp,
) -> Result<usize> {
    const SQL: &str = "
        WITH old AS MATERIALIZED (
          SELECT shard, org, idempotency_key
          FROM recorded_answer
          WHERE shard = $1
            AND at < $2
            AND NOT EXISTS (
              SELECT 1
              FROM arrival a
              WHERE a.shard = recorded_answer.shard
                AND a.org = recorded_answer.org
                AND a.opened_at IS NULL
            )
          ORDER BY at
          LIMIT $3
          FOR UPDATE SKIP LOCKED
        )
        DELETE FROM recorded_answer
        USING old
        WHERE recorded_answer.shard = old.shard
          AND recorded_answer.org = old.org
          AND recorded_answer.idempotency_key = old.idempotency_key";
    let params: [Param<'_>; 3] = [&shard, &at.micros(), &at_most(PURGED_AT_ONCE_MAX)];
    Ok(counted(execute(conn, SQL, &params).await?))
}
