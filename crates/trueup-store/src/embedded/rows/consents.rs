//! Consents that merchants were asked for and have not given yet; only digests of their states
//! are kept.

use rusqlite::{Connection, named_params, params};
use trueup_core::{Org, Timestamp};

use super::{Result, execute, first};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::{CONSENTS_MAX, Consent};

/// Keeps a consent that is asked for, and forgets the oldest beyond [`CONSENTS_MAX`].
pub(crate) fn put(conn: &Connection, org: &Org, row: &Consent) -> Result<()> {
    const PUT: &str = "
        INSERT INTO consent (state_digest, org, channel, kind, redirect, created_at, expires_at)
        VALUES (:state_digest, :org, :channel, :kind, :redirect, :created_at, :expires_at)";
    const FORGET: &str = "
        DELETE FROM consent
        WHERE org = :org
          AND channel = :channel
          AND state_digest NOT IN (
            SELECT state_digest
            FROM consent
            WHERE org = :org
              AND channel = :channel
            ORDER BY created_at DESC, state_digest
            LIMIT :max
          )";
    let params = named_params! {
        ":state_digest": row.state_digest,
        ":org": org.as_str(),
        ":channel": row.channel.as_str(),
        ":kind": row.kind,
        ":redirect": row.redirect,
        ":created_at": row.created_at.micros(),
        ":expires_at": row.expires_at.micros(),
    };
    execute(conn, PUT, params)?;
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": row.channel.as_str(),
        ":max": CONSENTS_MAX,
    };
    execute(conn, FORGET, params)?;
    Ok(())
}

/// Takes the consent of a state away and returns it with its org: the one read that learns the
/// org from the row. A second take finds nothing.
pub(crate) fn take(conn: &Connection, digest: &[u8; 32]) -> Result<Option<(Org, Consent)>> {
    const SQL: &str = "
        DELETE FROM consent
        WHERE state_digest = ?
        RETURNING org, state_digest, channel, kind, redirect, created_at, expires_at";
    first(conn, SQL, params![digest], |columns| Ok((columns.name()?, records::consent(columns)?)))
}

/// Forgets what has run out; returns how many.
pub(crate) fn purge_before(conn: &Connection, before: Timestamp) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM consent
        WHERE expires_at < ?";
    execute(conn, SQL, params![before.micros()])
}
