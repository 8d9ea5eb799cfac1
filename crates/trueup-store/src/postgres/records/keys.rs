//! API keys; only their digests are kept. A key is in the shard of its id.

use trueup_core::{Org, Timestamp};

use crate::ApiKey;
use crate::encoding::columns::ReadColumns;
use crate::postgres::error::{PgError, Result};
use crate::postgres::shard::{self, shard_of_text};
use crate::postgres::sql::{Columns, Conn, Param, Plain, all, execute, first};

/// Returns a key by its id, with its org: the one read that learns the org from the row.
pub(in crate::postgres) async fn get(conn: &Conn, id: &str) -> Result<Option<(Org, ApiKey)>> {
    const SQL: &str = "
        SELECT org, id, digest, subject, scopes, created_at, revoked_at
        FROM api_key
        WHERE shard = $1
          AND id = $2";
    let params: [Param<'_>; 2] = [&shard_of_text(id), &Plain(id)];
    first(conn, SQL, &params, |columns| Ok((columns.name()?, read(columns)?))).await
}

/// Lists an org's keys by id.
pub(in crate::postgres) async fn list(conn: &Conn, org: &Org) -> Result<Vec<ApiKey>> {
    const SQL: &str = "
        SELECT id, digest, subject, scopes, created_at, revoked_at
        FROM api_key
        WHERE shard = ANY($1)
          AND org = $2
        ORDER BY id";
    all(conn, SQL, &[&shard::all(), &org.as_str()], read).await
}

/// Makes or replaces a key of the org; an id of another org's key is an error.
pub(in crate::postgres) async fn put(conn: &Conn, org: &Org, key: &ApiKey) -> Result<()> {
    const SQL: &str = "
        INSERT INTO api_key (shard, org, id, digest, subject, scopes, created_at, revoked_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (shard, id) DO UPDATE
        SET digest = excluded.digest,
          subject = excluded.subject,
          scopes = excluded.scopes,
          created_at = excluded.created_at,
          revoked_at = excluded.revoked_at
        WHERE api_key.org = excluded.org";
    let params: [Param<'_>; 8] = [
        &shard_of_text(&key.id),
        &org.as_str(),
        &Plain(&key.id),
        &key.digest.as_slice(),
        &Plain(&key.subject),
        &key.scopes.iter().map(Plain).collect::<Vec<_>>(),
        &key.created_at.micros(),
        &key.revoked_at.map(Timestamp::micros),
    ];
    if execute(conn, SQL, &params).await? == 0 {
        return Err(PgError::Corrupt(format!("the key id {:?} is another org's", key.id)));
    }
    Ok(())
}

fn read(columns: &mut Columns<'_>) -> Result<ApiKey> {
    Ok(ApiKey {
        id: columns.take()?,
        digest: columns.digest()?,
        subject: columns.take()?,
        scopes: columns.take()?,
        created_at: columns.instant()?,
        revoked_at: columns.optional_instant()?,
    })
}
