//! API keys; only their digests are kept.

use rusqlite::{Connection, named_params};
use trueup_core::Org;

use super::columns::Columns;
use super::{Result, RowsError, all, execute, first};
use crate::ApiKey;
use crate::encoding::columns::ReadColumns;
use crate::encoding::json;

/// Returns a key by its id, with its org: the one read that learns the org from the row.
pub(crate) fn get(conn: &Connection, id: &str) -> Result<Option<(Org, ApiKey)>> {
    const SQL: &str = "
        SELECT org, id, digest, subject, scopes, created_at, revoked_at
        FROM api_key
        WHERE id = ?";
    first(conn, SQL, [id], |columns| Ok((columns.name()?, read(columns)?)))
}

/// Lists an org's keys by id.
pub(crate) fn list(conn: &Connection, org: &Org) -> Result<Vec<ApiKey>> {
    const SQL: &str = "
        SELECT id, digest, subject, scopes, created_at, revoked_at
        FROM api_key
        WHERE org = ?
        ORDER BY id";
    all(conn, SQL, [org.as_str()], read)
}

/// Makes or replaces a key of the org; an id of another org's key is an error.
pub(crate) fn put(conn: &Connection, org: &Org, key: &ApiKey) -> Result<()> {
    const SQL: &str = "
        INSERT INTO api_key (org, id, digest, subject, scopes, created_at, revoked_at)
        VALUES (:org, :id, :digest, :subject, :scopes, :created_at, :revoked_at)
        ON CONFLICT (id) DO UPDATE
        SET digest = excluded.digest,
          subject = excluded.subject,
          scopes = excluded.scopes,
          created_at = excluded.created_at,
          revoked_at = excluded.revoked_at
        WHERE api_key.org = excluded.org";
    let params = named_params! {
        ":org": org.as_str(),
        ":id": key.id,
        ":digest": key.digest,
        ":subject": key.subject,
        ":scopes": json(&key.scopes)?,
        ":created_at": key.created_at.micros(),
        ":revoked_at": key.revoked_at.map(|at| at.micros()),
    };
    if execute(conn, SQL, params)? == 0 {
        return Err(RowsError::Corrupt(format!("the key id {:?} is another org's", key.id)));
    }
    Ok(())
}

fn read(columns: &mut Columns<'_, '_>) -> Result<ApiKey> {
    Ok(ApiKey {
        id: columns.take()?,
        digest: columns.take()?,
        subject: columns.take()?,
        scopes: columns.json()?,
        created_at: columns.instant()?,
        revoked_at: columns.optional_instant()?,
    })
}
