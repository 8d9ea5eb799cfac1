//! Answers recorded under idempotency keys, to be given again.

use rusqlite::{Connection, params};
use trueup_core::{Org, Timestamp};

use super::{PURGED_AT_ONCE_MAX, Result, execute, first, json};
use crate::RecordedAnswer;

/// Returns the answer recorded under a key with the fingerprint of its request.
pub(crate) fn get(
    conn: &Connection,
    org: &Org,
    key: &str,
) -> Result<Option<([u8; 32], RecordedAnswer)>> {
    const SQL: &str = "
        SELECT fingerprint, status, headers, body
        FROM recorded_answer
        WHERE org = ?
          AND idempotency_key = ?";
    first(conn, SQL, [org.as_str(), key], |columns| {
        let fingerprint = columns.take()?;
        let answer = RecordedAnswer {
            status: columns.take()?,
            headers: columns.json()?,
            body: columns.take()?,
        };
        Ok((fingerprint, answer))
    })
}

/// Records an answer; returns false where the key has one, which stays.
pub(crate) fn put(
    conn: &Connection,
    org: &Org,
    key: &str,
    fingerprint: &[u8; 32],
    answer: &RecordedAnswer,
    at: Timestamp,
) -> Result<bool> {
    const SQL: &str = "
        INSERT INTO recorded_answer (
          org, idempotency_key, fingerprint, status, headers, body, at
        )
        VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (org, idempotency_key) DO NOTHING";
    let params = params![
        org.as_str(),
        key,
        fingerprint,
        answer.status,
        json(&answer.headers)?,
        answer.body,
        at.micros(),
    ];
    Ok(execute(conn, SQL, params)? > 0)
}

/// Removes answers of every org that were recorded before an instant, at most
/// [`PURGED_AT_ONCE_MAX`], oldest first; returns how many.
pub(crate) fn purge_before(conn: &Connection, at: Timestamp) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM recorded_answer
        WHERE rowid IN (
          SELECT rowid
          FROM recorded_answer
          WHERE at < ?
          ORDER BY at
          LIMIT ?
        )";
    execute(conn, SQL, params![at.micros(), PURGED_AT_ONCE_MAX])
}
