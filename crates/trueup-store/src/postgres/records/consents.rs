//! Consents that merchants were asked for and have not given yet; only digests of their states
//! are kept.

use trueup_core::{Org, Timestamp};

use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::port::{CONSENTS_MAX, Consent};
use crate::postgres::error::{PgError, Result};
use crate::postgres::shard::{self, shard_of};
use crate::postgres::sql::{self, Conn, Param, Plain};

/// Keeps a consent that is asked for, and forgets the oldest beyond [`CONSENTS_MAX`].
pub(in crate::postgres) async fn put(conn: &Conn, org: &Org, row: &Consent) -> Result<()> {
    // A digest is one row's, of whatever org: who comes back with the state is to find one.
    const PUT: &str = "
        INSERT INTO consent (
          shard, state_digest, org, channel, kind, redirect, created_at, expires_at
        )
        SELECT $1::smallint, $2::bytea, $3::text, $4::text, $5::text, $6::text, $7::bigint,
          $8::bigint
        WHERE NOT EXISTS (SELECT 1 FROM consent WHERE shard = ANY($9) AND state_digest = $2)";
    const FORGET: &str = "
        DELETE FROM consent
        WHERE shard = $1
          AND state_digest IN (
            SELECT state_digest
            FROM consent
            WHERE shard = $1
              AND org = $2
              AND channel = $3
            ORDER BY created_at DESC, state_digest
            OFFSET $4
          )";
    let (shard, digest) = (shard_of(org), row.state_digest.as_slice());
    let params: [Param<'_>; 9] = [
        &shard,
        &digest,
        &org.as_str(),
        &row.channel.as_str(),
        &Plain(&row.kind),
        &Plain(&row.redirect),
        &row.created_at.micros(),
        &row.expires_at.micros(),
        &shard::all(),
    ];
    if sql::execute(conn, PUT, &params).await? == 0 {
        return Err(PgError::Corrupt("a state was given to two consents".to_owned()));
    }
    let params: [Param<'_>; 4] =
        [&shard, &org.as_str(), &row.channel.as_str(), &i64::from(CONSENTS_MAX)];
    sql::execute(conn, FORGET, &params).await?;
    Ok(())
}

/// Takes the consent of a state away and returns it with its org: the one read that learns the
/// org from the row, and looks for it in every shard. A second take finds nothing.
pub(in crate::postgres) async fn take(
    conn: &Conn,
    digest: &[u8; 32],
) -> Result<Option<(Org, Consent)>> {
    const SQL: &str = "
        DELETE FROM consent
        WHERE shard = ANY($1)
          AND state_digest = $2
          AND NOT EXISTS (
            SELECT 1
            FROM arrival a
            WHERE a.shard = consent.shard
              AND a.org = consent.org
              AND a.opened_at IS NULL
          )
        RETURNING org, state_digest, channel, kind, redirect, created_at, expires_at";
    let params: [Param<'_>; 2] = [&shard::all(), &digest.as_slice()];
    sql::first(conn, SQL, &params, |columns| Ok((columns.name()?, records::consent(columns)?)))
        .await
}

/// Forgets what has run out in a shard; returns how many.
pub(in crate::postgres) async fn purge_before(
    conn: &Conn,
    shard: i16,
    before: Timestamp,
) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM consent
        WHERE shard = $1
          AND expires_at < $2
          AND NOT EXISTS (
            SELECT 1
            FROM arrival a
            WHERE a.shard = consent.shard
              AND a.org = consent.org
              AND a.opened_at IS NULL
          )";
    let forgotten = sql::execute(conn, SQL, &[&shard, &before.micros()]).await?;
    Ok(sql::counted(forgotten))
}
